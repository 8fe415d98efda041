//! Raw frames, out and in.

use std::os::fd::{AsFd as _, OwnedFd};
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::socket::{
    AddressFamily, SockFlag, SockProtocol, SockType, setsockopt, socket, sockopt,
};

use crate::ns::Ns;
use crate::packet::Mac;
use crate::sys;

/// A frame that passed.
#[derive(Clone, PartialEq, Eq)]
pub struct Seen {
    /// As on the wire, its VLAN tag included.
    pub bytes: Vec<u8>,
    /// The interface's own side sent it.
    pub outgoing: bool,
}

impl std::fmt::Debug for Seen {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(if self.outgoing { "out " } else { "in " })?;
        for (at, byte) in self.bytes.iter().take(120).enumerate() {
            let gap = if matches!(at, 6 | 12 | 14) { " " } else { "" };
            write!(f, "{gap}{byte:02x}")?;
        }
        if self.bytes.len() > 120 {
            write!(f, "… ({} bytes)", self.bytes.len())?;
        }
        Ok(())
    }
}

impl Seen {
    /// Ethernet destination.
    pub fn destination(&self) -> Mac {
        self.mac_at(0)
    }

    /// Ethernet source.
    pub fn source(&self) -> Mac {
        self.mac_at(6)
    }

    fn mac_at(&self, at: usize) -> Mac {
        self.bytes
            .get(at..at + 6)
            .and_then(|mac| mac.try_into().ok())
            .unwrap_or_default()
    }

    /// EtherType; that of the tag where there is one.
    pub fn ethertype(&self) -> u16 {
        self.u16_at(12)
    }

    /// A 16-bit number.
    pub fn u16_at(&self, at: usize) -> u16 {
        let bytes = self
            .bytes
            .get(at..at + 2)
            .and_then(|two| two.try_into().ok());
        u16::from_be_bytes(bytes.unwrap_or_default())
    }

    /// Whether these bytes are anywhere in it.
    pub fn contains(&self, bytes: &[u8]) -> bool {
        self.bytes
            .windows(bytes.len())
            .any(|window| window == bytes)
    }
}

/// A packet socket on one interface.
#[derive(Debug)]
pub struct Sniffer {
    fd: OwnedFd,
    interface: String,
}

impl Sniffer {
    /// Listens on an interface of `ns` from now on.
    #[track_caller]
    pub fn on(ns: &Ns, interface: &str) -> Self {
        let index = ns.index(interface);
        let fd = ns.enter(|| packet_socket(index));
        sys::want_vlan(fd.as_fd()).expect("PACKET_AUXDATA");
        setsockopt(&fd, sockopt::RcvBufForce, &(8 << 20)).expect("SO_RCVBUFFORCE");
        Self {
            fd,
            interface: interface.to_owned(),
        }
    }

    /// Listens to what an interface of `ns` hands to the protocol handlers of its own stack, of one
    /// EtherType. What somebody takes before (tc, a driver's receive handler) is not heard.
    #[track_caller]
    pub fn behind(ns: &Ns, interface: &str, ethertype: u16) -> Self {
        let index = ns.index(interface);
        let fd = ns.enter(|| {
            let fd = unbound();
            sys::bind_to(fd.as_fd(), index, ethertype).expect("bind a packet socket");
            fd
        });
        sys::want_vlan(fd.as_fd()).expect("PACKET_AUXDATA");
        setsockopt(&fd, sockopt::RcvBufForce, &(8 << 20)).expect("SO_RCVBUFFORCE");
        Self {
            fd,
            interface: interface.to_owned(),
        }
    }

    /// Listens on all interfaces of `ns`, those that come later included.
    #[track_caller]
    pub fn everywhere(ns: &Ns) -> Self {
        // No interface has this index: all of them.
        let fd = ns.enter(|| packet_socket(0));
        setsockopt(&fd, sockopt::RcvBufForce, &(8 << 20)).expect("SO_RCVBUFFORCE");
        Self {
            fd,
            interface: "all interfaces".to_owned(),
        }
    }

    /// A frame that has come already, and the interface that it came by. What is longer than `buf`
    /// is cut off. VLAN tags are left out.
    pub fn next_in(&self, buf: &mut [u8]) -> Option<(u32, Seen)> {
        loop {
            match sys::recv(self.fd.as_fd(), buf) {
                Ok(datagram) => {
                    let bytes = buf.get(..datagram.len.min(buf.len()))?.to_vec();
                    let outgoing = datagram.kind == libc::PACKET_OUTGOING;
                    return Some((datagram.interface, Seen { bytes, outgoing }));
                }
                Err(Errno::EINTR | Errno::ENETDOWN) => {}
                Err(_) => return None,
            }
        }
    }

    /// The next frame, if one comes before `end`.
    fn next(&self, end: Instant) -> Option<Seen> {
        let mut buf = vec![0; 1 << 17];
        loop {
            match sys::recv(self.fd.as_fd(), &mut buf) {
                Ok(datagram) => {
                    let mut bytes = buf.get(..datagram.len)?.to_vec();
                    if let Some((kind, control)) = datagram.vlan {
                        let tag = [kind.to_be_bytes(), control.to_be_bytes()].concat();
                        drop(bytes.splice(12..12, tag));
                    }
                    let outgoing = datagram.kind == libc::PACKET_OUTGOING;
                    return Some(Seen { bytes, outgoing });
                }
                Err(Errno::EAGAIN | Errno::EINTR) => {}
                // The interface went away, or down and up.
                Err(Errno::ENETDOWN) => continue,
                Err(errno) => panic!("recvmsg on {}: {errno}", self.interface),
            }
            let left = end.checked_duration_since(Instant::now())?;
            let timeout = PollTimeout::try_from(left).unwrap_or(PollTimeout::MAX);
            let mut fds = [PollFd::new(self.fd.as_fd(), PollFlags::POLLIN)];
            let _: Result<i32, Errno> = poll(&mut fds, timeout);
        }
    }

    /// The first frame that `wanted` likes, if it comes in time. Those before it are lost.
    pub fn find(&self, timeout: Duration, mut wanted: impl FnMut(&Seen) -> bool) -> Option<Seen> {
        let end = Instant::now() + timeout;
        loop {
            let seen = self.next(end)?;
            if wanted(&seen) {
                return Some(seen);
            }
        }
    }

    /// All frames that came so far, and those that come until it has been quiet for `quiet`.
    pub fn drain(&self, quiet: Duration) -> Vec<Seen> {
        let mut all = Vec::new();
        let limit = Instant::now() + Duration::from_secs(5);
        while let Some(seen) = self.next((Instant::now() + quiet).min(limit)) {
            all.push(seen);
        }
        all
    }

    /// [`Self::drain`], only what came in from the far side.
    pub fn heard(&self) -> Vec<Seen> {
        let mut all = self.drain(Duration::from_millis(250));
        all.retain(|seen| !seen.outgoing);
        all
    }
}

/// Sends frames as they are.
#[derive(Debug)]
pub struct Sender {
    fd: OwnedFd,
    index: u32,
    header: bool,
}

impl Sender {
    /// Out of an interface of `ns`.
    #[track_caller]
    pub fn on(ns: &Ns, interface: &str) -> Self {
        let index = ns.index(interface);
        Self {
            fd: ns.enter(|| packet_socket(index)),
            index,
            header: false,
        }
    }

    /// The same, with a `virtio_net_hdr` in front of each frame: see [`Self::try_send_with`].
    #[track_caller]
    pub fn with_offload(ns: &Ns, interface: &str) -> Self {
        let sender = Self::on(ns, interface);
        sys::want_offload_header(sender.fd.as_fd()).expect("PACKET_VNET_HDR");
        Self {
            header: true,
            ..sender
        }
    }

    /// Out of an interface of `ns`, past its queue: `PACKET_QDISC_BYPASS`.
    #[track_caller]
    pub fn bypassing(ns: &Ns, interface: &str) -> Self {
        let sender = Self::on(ns, interface);
        sys::bypass_queue(sender.fd.as_fd()).expect("PACKET_QDISC_BYPASS");
        sender
    }

    /// Sends a frame; the test fails unless the kernel takes it.
    #[track_caller]
    pub fn send(&self, frame: &[u8]) {
        self.try_send(frame)
            .unwrap_or_else(|errno| panic!("send {frame:02x?}: {errno}"));
    }

    /// Sends a frame.
    ///
    /// # Errors
    ///
    /// The kernel's, for instance `ENOBUFS` where the datapath dropped it.
    pub fn try_send(&self, frame: &[u8]) -> Result<(), Errno> {
        assert!(!self.header, "frames of this socket have a header");
        self.raw(frame, frame)
    }

    /// Sends a frame whose checksum is to be written later at `start` + `offset`, over what is
    /// behind `start`, by whoever sends it out at last (`VIRTIO_NET_HDR_F_NEEDS_CSUM`).
    ///
    /// # Errors
    ///
    /// The kernel's.
    pub fn try_send_with(&self, start: u16, offset: u16, frame: &[u8]) -> Result<(), Errno> {
        assert!(self.header, "frames of this socket have no header");
        const NEEDS_CSUM: u8 = 1;
        // flags, gso_type, hdr_len, gso_size, csum_start, csum_offset: host byte order.
        let mut bytes = vec![NEEDS_CSUM, 0, 0, 0, 0, 0];
        bytes.extend(start.to_ne_bytes());
        bytes.extend(offset.to_ne_bytes());
        bytes.extend(frame);
        self.raw(frame, &bytes)
    }

    /// With the frame's own EtherType, as DHCP clients and arping do: the driver of Linux 6.1 does not
    /// look for it, and takes a frame without one for something else than IP.
    fn raw(&self, frame: &[u8], bytes: &[u8]) -> Result<(), Errno> {
        let kind = frame.get(12..14).and_then(|kind| kind.first_chunk());
        let protocol = kind.map_or(0, |kind| u16::from_be_bytes(*kind));
        sys::send_to(self.fd.as_fd(), self.index, protocol, bytes)
    }
}

fn unbound() -> OwnedFd {
    // No protocol yet: nothing is heard before the bind.
    socket(
        AddressFamily::Packet,
        SockType::Raw,
        SockFlag::SOCK_CLOEXEC,
        None::<SockProtocol>,
    )
    .expect("a packet socket needs root")
}

fn packet_socket(index: u32) -> OwnedFd {
    let fd = unbound();
    sys::bind(fd.as_fd(), index).expect("bind a packet socket");
    fd
}
