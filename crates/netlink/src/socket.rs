//! One request, its answers, its ack.
//!
//! ```text
//! request ──► kernel ──► answer* ── NLMSG_ERROR (0: ack, or -errno + extack)
//! dump    ──► kernel ──► answer* ── NLMSG_DONE  (the same number and extack)
//! ```
//!
//! Every request asks for an ack, so every exchange has an end, and what comes with another
//! sequence number is left over from an exchange that broke off.

use std::os::fd::{AsFd, AsRawFd, BorrowedFd};

use netlink_packet_core::{
    NLM_F_ACK, NLM_F_DUMP, NLM_F_DUMP_INTR, NLM_F_REQUEST, NLMSG_DONE, NLMSG_ERROR, NetlinkBuffer,
    NetlinkHeader, NetlinkMessage, NetlinkPayload, NetlinkSerializable,
};
use netlink_packet_route::RouteNetlinkMessage;
use netlink_sys::protocols::NETLINK_ROUTE;
use nix::errno::Errno;
use nix::sys::socket::{MsgFlags, send};

use crate::error::errno_of;
use crate::nla::{attributes, i32_of, string_of, u32_of};
use crate::{Error, NetNs, sys};

/// The kernel makes dump messages of at most 32 KiB, and one link without the list of its virtual
/// functions, for which nobody here asks, is far smaller.
pub(crate) const BUFFER_LEN: usize = 64 * 1024;

/// How often a list is read again that changed while it was being read.
const DUMP_TRIES: usize = 16;

const NLM_F_CAPPED: u16 = 0x100;
const NLM_F_ACK_TLVS: u16 = 0x200;
const NLMSGERR_ATTR_MSG: u16 = 1;
const NLMSG_HDRLEN: usize = 16;

/// A route netlink socket. It belongs to the network namespace in which it was opened.
#[derive(Debug)]
pub struct Netlink {
    socket: netlink_sys::Socket,
    seq: u32,
    buf: Vec<u8>,
}

/// What is asked for, for the error message.
pub(crate) struct Ask {
    pub(crate) op: &'static str,
    pub(crate) object: String,
}

impl Ask {
    pub(crate) fn new(op: &'static str, object: impl Into<String>) -> Self {
        Self {
            op,
            object: object.into(),
        }
    }
}

/// How an exchange ended that the kernel did not refuse.
#[derive(PartialEq, Eq)]
enum End {
    Whole,
    /// A dump during which the list changed.
    Torn,
}

impl Netlink {
    /// Opens a socket in the calling thread's network namespace.
    ///
    /// Asks for extended acks and strict checking (Linux 4.20), without which the kernel ignores
    /// the filter of a dump.
    ///
    /// # Errors
    ///
    /// [`Error::Socket`] if the kernel has no route netlink or is too old.
    pub fn open() -> Result<Self, Error> {
        let mut socket = open_route_socket()?;
        let step = |op: &'static str| {
            move |err| Error::Socket {
                op,
                errno: errno_of(&err),
            }
        };
        socket.set_ext_ack(true).map_err(step("NETLINK_EXT_ACK"))?;
        socket.set_cap_ack(true).map_err(step("NETLINK_CAP_ACK"))?;
        socket
            .set_netlink_get_strict_chk(true)
            .map_err(step("NETLINK_GET_STRICT_CHK"))?;
        let _: netlink_sys::SocketAddr = socket.bind_auto().map_err(step("bind"))?;
        Ok(Self {
            socket,
            seq: 0,
            buf: vec![0; BUFFER_LEN],
        })
    }

    /// Opens a socket in `ns`. The thread is back when this returns; the socket stays there.
    ///
    /// # Errors
    ///
    /// As [`NetNs::enter`] and [`Netlink::open`].
    pub fn open_in(ns: &NetNs) -> Result<Self, Error> {
        ns.enter(Self::open)?
    }

    /// Sends `message` and gives each answer's type and body to `each`, up to the ack.
    pub(crate) fn request(
        &mut self,
        ask: Ask,
        message: RouteNetlinkMessage,
        flags: u16,
        each: &mut dyn FnMut(u16, &[u8]),
    ) -> Result<(), Error> {
        let _: End = self.exchange(&ask, message, NLM_F_REQUEST | NLM_F_ACK | flags, each)?;
        Ok(())
    }

    /// Reads a whole list. Answers for which `each` says None are left out.
    pub(crate) fn dump<T, M: NetlinkSerializable + Clone>(
        &mut self,
        ask: &Ask,
        message: &M,
        mut each: impl FnMut(u16, &[u8]) -> Option<T>,
    ) -> Result<Vec<T>, Error> {
        for _ in 0..DUMP_TRIES {
            let mut list = Vec::new();
            let end = self.exchange(
                ask,
                message.clone(),
                NLM_F_REQUEST | NLM_F_DUMP,
                &mut |kind, body| {
                    list.extend(each(kind, body));
                },
            )?;
            if end == End::Whole {
                return Ok(list);
            }
        }
        Err(Error::Unsteady {
            object: ask.object.clone(),
        })
    }

    fn exchange(
        &mut self,
        ask: &Ask,
        message: impl NetlinkSerializable,
        flags: u16,
        each: &mut dyn FnMut(u16, &[u8]),
    ) -> Result<End, Error> {
        self.seq = self.seq.wrapping_add(1);
        self.send(message, flags)?;
        let mut end = End::Whole;
        loop {
            let datagram = retry(|| sys::recv(self.socket.as_fd(), &mut self.buf))
                .map_err(Error::socket("receive"))?;
            if datagram.port != 0 {
                continue;
            }
            if datagram.truncated {
                return Err(Error::Socket {
                    op: "receive",
                    errno: Errno::EMSGSIZE,
                });
            }
            for message in messages(&self.buf[..datagram.len]) {
                if message.sequence_number() != self.seq {
                    continue;
                }
                if message.flags() & NLM_F_DUMP_INTR != 0 {
                    end = End::Torn;
                }
                match message.message_type() {
                    NLMSG_ERROR | NLMSG_DONE => {
                        return match refusal(&message) {
                            None => Ok(end),
                            Some((errno, extack)) => Err(Error::Kernel {
                                op: ask.op,
                                object: ask.object.clone(),
                                errno,
                                extack,
                            }),
                        };
                    }
                    kind => each(kind, message.payload()),
                }
            }
        }
    }

    fn send(&self, message: impl NetlinkSerializable, flags: u16) -> Result<(), Error> {
        let payload = NetlinkPayload::InnerMessage(message);
        let mut message = NetlinkMessage::new(NetlinkHeader::default(), payload);
        message.header.flags = flags;
        message.header.sequence_number = self.seq;
        message.finalize();
        let mut bytes = vec![0; message.buffer_len()];
        message.serialize(&mut bytes);
        let fd = self.socket.as_raw_fd();
        // Netlink takes a message as a whole or not at all.
        let _: usize =
            retry(|| send(fd, &bytes, MsgFlags::empty())).map_err(Error::socket("send"))?;
        Ok(())
    }
}

impl AsFd for Netlink {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}

pub(crate) fn open_route_socket() -> Result<netlink_sys::Socket, Error> {
    netlink_sys::Socket::new(NETLINK_ROUTE).map_err(|err| Error::Socket {
        op: "open",
        errno: errno_of(&err),
    })
}

/// Calls again what a signal broke off.
pub(crate) fn retry<T>(mut call: impl FnMut() -> Result<T, Errno>) -> Result<T, Errno> {
    loop {
        match call() {
            Err(Errno::EINTR) => {}
            done => return done,
        }
    }
}

/// The messages in one datagram. Ends at the first broken one.
pub(crate) fn messages(mut bytes: &[u8]) -> impl Iterator<Item = NetlinkBuffer<&[u8]>> {
    std::iter::from_fn(move || {
        let message = NetlinkBuffer::new_checked(bytes).ok()?;
        let len = usize::try_from(message.length()).ok()?.next_multiple_of(4);
        bytes = bytes.get(len..).unwrap_or_default();
        Some(message)
    })
}

/// The error number and text in an `NLMSG_ERROR` or `NLMSG_DONE`; None if all went well.
pub(crate) fn refusal(message: &NetlinkBuffer<&[u8]>) -> Option<(Errno, Option<String>)> {
    let body = message.payload();
    // An NLMSG_DONE without body is possible, and is no error.
    let code = i32_of(body).filter(|&code| code < 0)?;
    let attrs_at = if message.message_type() == NLMSG_DONE {
        4
    } else if message.flags() & NLM_F_CAPPED != 0 {
        4 + NLMSG_HDRLEN
    } else {
        // The whole request stands between number and attributes.
        let asked = usize::try_from(u32_of(body.get(4..)?)?).ok()?;
        4 + asked.next_multiple_of(4)
    };
    let extack = body
        .get(attrs_at..)
        .filter(|_| message.flags() & NLM_F_ACK_TLVS != 0)
        .and_then(|attrs| attributes(attrs).find(|(kind, _)| *kind == NLMSGERR_ATTR_MSG))
        .map(|(_, text)| string_of(text));
    Some((Errno::from_raw(code.saturating_neg()), extack))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn message(kind: u16, flags: u16, body: &[u8]) -> Vec<u8> {
        let mut bytes = Vec::new();
        bytes.extend_from_slice(&u32::try_from(16 + body.len()).unwrap().to_ne_bytes());
        bytes.extend_from_slice(&kind.to_ne_bytes());
        bytes.extend_from_slice(&flags.to_ne_bytes());
        bytes.extend_from_slice(&[0; 8]);
        bytes.extend_from_slice(body);
        bytes.resize(bytes.len().next_multiple_of(4), 0);
        bytes
    }

    fn error_body(code: i32, asked: &[u8]) -> Vec<u8> {
        let mut body = code.to_ne_bytes().to_vec();
        body.extend_from_slice(&u32::try_from(16 + asked.len()).unwrap().to_ne_bytes());
        body.extend_from_slice(&[0; 12]);
        body.extend_from_slice(asked);
        body
    }

    fn text_attr(text: &[u8]) -> Vec<u8> {
        let mut attr = u16::try_from(4 + text.len())
            .unwrap()
            .to_ne_bytes()
            .to_vec();
        attr.extend_from_slice(&NLMSGERR_ATTR_MSG.to_ne_bytes());
        attr.extend_from_slice(text);
        attr
    }

    fn refusal_of(bytes: &[u8]) -> Option<(Errno, Option<String>)> {
        refusal(&messages(bytes).next().expect("one message"))
    }

    #[test]
    fn zero_is_an_ack() {
        assert_eq!(
            refusal_of(&message(NLMSG_ERROR, NLM_F_CAPPED, &error_body(0, &[]))),
            None
        );
        assert_eq!(
            refusal_of(&message(NLMSG_DONE, 0, &0i32.to_ne_bytes())),
            None
        );
        assert_eq!(refusal_of(&message(NLMSG_DONE, 0, &[])), None);
    }

    #[test]
    fn the_kernels_words_are_found_behind_a_capped_and_a_whole_request() {
        let wanted = Some((Errno::EINVAL, Some("why".to_owned())));
        let mut body = error_body(-22, &[]);
        body.extend(text_attr(b"why\0"));
        let capped = message(NLMSG_ERROR, NLM_F_CAPPED | NLM_F_ACK_TLVS, &body);
        assert_eq!(refusal_of(&capped), wanted);

        let mut body = error_body(-22, &[9; 20]);
        body.extend(text_attr(b"why\0"));
        assert_eq!(
            refusal_of(&message(NLMSG_ERROR, NLM_F_ACK_TLVS, &body)),
            wanted
        );

        let mut body = (-22i32).to_ne_bytes().to_vec();
        body.extend(text_attr(b"why\0"));
        assert_eq!(
            refusal_of(&message(NLMSG_DONE, NLM_F_ACK_TLVS, &body)),
            wanted
        );
    }

    #[test]
    fn an_error_cut_short_keeps_its_number() {
        let body = (-1i32).to_ne_bytes();
        let cut = message(NLMSG_ERROR, NLM_F_CAPPED | NLM_F_ACK_TLVS, &body);
        assert_eq!(refusal_of(&cut), Some((Errno::EPERM, None)));
    }

    #[test]
    fn a_datagram_is_cut_into_messages() {
        let mut bytes = message(16, 2, &[1, 2, 3]);
        bytes.extend(message(17, 2, &[]));
        bytes.extend([1, 2, 3]);
        let kinds: Vec<_> = messages(&bytes)
            .map(|message| message.message_type())
            .collect();
        assert_eq!(kinds, [16, 17]);
    }
}
