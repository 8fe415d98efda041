//! Sending a frame out of an interface.

use std::os::fd::{AsFd as _, AsRawFd as _, OwnedFd};

use nix::errno::Errno;
use nix::sys::socket::{AddressFamily, MsgFlags, SockFlag, SockProtocol, SockType, send, socket};

use crate::{Error, sys};

/// Sends frames as they are, past the stack, out of one interface.
#[derive(Debug)]
pub struct Wire {
    socket: OwnedFd,
}

impl Wire {
    /// Of the calling thread's namespace.
    ///
    /// # Errors
    ///
    /// [`Error::Socket`]; `EPERM` without `CAP_NET_RAW`, `ENODEV` if there is no such interface.
    pub fn open(index: u32) -> Result<Self, Error> {
        let socket = socket(
            AddressFamily::Packet,
            SockType::Raw,
            SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK,
            None::<SockProtocol>,
        )
        .map_err(Error::socket("open packet"))?;
        sys::bind_packet(socket.as_fd(), index).map_err(Error::socket("bind packet"))?;
        Ok(Self { socket })
    }

    /// Sends one frame, its Ethernet header included. It does not wait for room.
    ///
    /// # Errors
    ///
    /// [`Error::Socket`]; `ENETDOWN`, `ENOBUFS` where the queue is full.
    pub fn send(&self, frame: &[u8]) -> Result<(), Error> {
        match send(self.socket.as_raw_fd(), frame, MsgFlags::empty()) {
            Ok(_) => Ok(()),
            Err(Errno::EINTR) => self.send(frame),
            Err(errno) => Err(Error::Socket {
                op: "send packet",
                errno,
            }),
        }
    }
}
