//! What changes, in every namespace that has an id here.
//!
//! An event says only where something changed, not what: between the event and the reader the
//! world has gone on, so a reader asks again anyway (observe → plan → apply).
//!
//! What the order of events means, as seen on Linux 6.18:
//!
//! * A namespace that dies first loses its id ([`Event::NsidRemoved`]). What its links say at the
//!   end is not heard; of a pair, the end that is here is ([`Event::Link`], `removed`), later.
//! * IPv6 addresses are announced from a work queue: some time after the call that added them has
//!   returned, often twice (tentative and then not).

use std::os::fd::{AsFd, BorrowedFd};

use nix::errno::Errno;
use nix::sys::socket::{setsockopt, sockopt};

use crate::error::errno_of;
use crate::nla::{attributes, i32_of, u8_of, u32_of};
use crate::socket::{BUFFER_LEN, messages, open_route_socket, retry};
use crate::{Error, NetNs, Netlink, Nsid, nsid, sys};

const RTM_NEWLINK: u16 = 16;
const RTM_DELLINK: u16 = 17;
const RTM_NEWADDR: u16 = 20;
const RTM_DELADDR: u16 = 21;
const RTM_NEWNSID: u16 = 88;
const RTM_DELNSID: u16 = 89;
const RTNLGRP_LINK: u32 = 1;
const RTNLGRP_IPV4_IFADDR: u32 = 5;
const RTNLGRP_IPV6_IFADDR: u32 = 9;
const RTNLGRP_NSID: u32 = 28;
const IFINFOMSG_LEN: usize = 16;
const IFLA_NEW_NETNSID: u16 = 45;
const AF_UNSPEC: u8 = 0;

/// Room for what happens while the reader is busy: some seven thousand events.
const RECEIVE_BUFFER: usize = 8 * 1024 * 1024;

/// A [`Monitor::drain`] gives up here, so that a writer who is faster than us cannot hold it.
const DRAIN_MAX: usize = 1 << 16;

/// Something changed. `ns` is None in the socket's own namespace.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Event {
    /// A link appeared, changed or went away.
    Link {
        /// Where.
        ns: Option<Nsid>,
        /// Its index there.
        index: u32,
        /// It is no longer there: deleted, or moved away.
        removed: bool,
        /// `IFLA_NEW_NETNSID`: it was moved to this namespace. The number is counted by the
        /// namespace it *left*, so it is an id of ours only where `ns` is None.
        new_nsid: Option<Nsid>,
    },
    /// A link got, changed or lost an address.
    Address {
        /// Where.
        ns: Option<Nsid>,
        /// The link's index there.
        index: u32,
        /// Lost it.
        removed: bool,
    },
    /// A namespace got an id here.
    NsidAdded(Nsid),
    /// A namespace died; its id is free.
    NsidRemoved(Nsid),
    /// The kernel had to throw events away: look at everything again.
    Overrun,
}

/// Hears of links, addresses and ids, here and in every namespace that has an id here
/// (`NETLINK_LISTEN_ALL_NSID`).
///
/// Of the others it hears only from the moment they have an id
/// ([`Netlink::assign_nsid`]) and only with `CAP_NET_BROADCAST` over them; what happened before is
/// lost, so read their state after the id was given.
#[derive(Debug)]
pub struct Monitor {
    socket: netlink_sys::Socket,
    buf: Vec<u8>,
    own: Option<OwnId>,
}

/// A namespace can have an id for itself: `ip netns set` gives one, and so does a request that
/// names the namespace it comes from. From then on the kernel marks *its own* events with it too.
#[derive(Debug)]
struct OwnId {
    netlink: Netlink,
    here: NetNs,
    id: Option<Nsid>,
}

impl OwnId {
    fn open() -> Result<Self, Error> {
        let mut own = Self {
            netlink: Netlink::open()?,
            here: NetNs::current()?,
            id: None,
        };
        own.refresh()?;
        Ok(own)
    }

    fn refresh(&mut self) -> Result<(), Error> {
        self.id = self.netlink.nsid_of(self.here.as_fd())?;
        Ok(())
    }
}

impl Monitor {
    /// Opens a monitor in the calling thread's network namespace. It never blocks; wait with
    /// `poll(2)` on it.
    ///
    /// # Errors
    ///
    /// [`Error::Socket`]; `EPERM` without `CAP_NET_BROADCAST` here.
    pub fn open() -> Result<Self, Error> {
        let mut socket = open_route_socket()?;
        let step = |op: &'static str| {
            move |err| Error::Socket {
                op,
                errno: errno_of(&err),
            }
        };
        socket.set_non_blocking(true).map_err(step("O_NONBLOCK"))?;
        // Beyond the system's limit with CAP_NET_ADMIN, up to the limit without.
        if setsockopt(&socket, sockopt::RcvBufForce, &RECEIVE_BUFFER).is_err() {
            setsockopt(&socket, sockopt::RcvBuf, &RECEIVE_BUFFER)
                .map_err(Error::socket("SO_RCVBUF"))?;
        }
        socket
            .set_listen_all_namespaces(true)
            .map_err(step("NETLINK_LISTEN_ALL_NSID"))?;
        let _: netlink_sys::SocketAddr = socket.bind_auto().map_err(step("bind"))?;
        for group in [
            RTNLGRP_LINK,
            RTNLGRP_IPV4_IFADDR,
            RTNLGRP_IPV6_IFADDR,
            RTNLGRP_NSID,
        ] {
            socket.add_membership(group).map_err(step("join a group"))?;
        }
        // Where there is no /proc the number stays unknown, which matters to few.
        Ok(Self {
            socket,
            buf: vec![0; BUFFER_LEN],
            own: OwnId::open().ok(),
        })
    }

    /// All that has happened since the last call, oldest first; nothing if nothing has.
    ///
    /// # Errors
    ///
    /// [`Error::Socket`], after which the monitor is of no more use.
    pub fn drain(&mut self) -> Result<Vec<Event>, Error> {
        let mut events = Vec::new();
        for _ in 0..DRAIN_MAX {
            let datagram = match retry(|| sys::recv(self.socket.as_fd(), &mut self.buf)) {
                Ok(datagram) => datagram,
                Err(Errno::EAGAIN) => break,
                Err(Errno::ENOBUFS) => {
                    events.push(Event::Overrun);
                    continue;
                }
                Err(errno) => {
                    return Err(Error::Socket {
                        op: "receive",
                        errno,
                    });
                }
            };
            if datagram.port != 0 {
                continue;
            }
            if datagram.truncated {
                events.push(Event::Overrun);
                continue;
            }
            let from = datagram.nsid.map(Nsid);
            for message in messages(&self.buf[..datagram.len]) {
                if message.message_type() == RTM_NEWNSID
                    && let Some(own) = &mut self.own
                {
                    own.refresh()?;
                }
                let own_id = self.own.as_ref().and_then(|own| own.id);
                let ns = from.filter(|from| Some(*from) != own_id);
                events.extend(parse(message.message_type(), message.payload(), ns));
            }
        }
        Ok(events)
    }
}

impl AsFd for Monitor {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}

fn parse(kind: u16, body: &[u8], ns: Option<Nsid>) -> Option<Event> {
    match kind {
        RTM_NEWLINK | RTM_DELLINK => {
            // A bridge says with a DELLINK of its own family that a port has left it. The link
            // itself is still there.
            let whole = u8_of(body)? == AF_UNSPEC;
            Some(Event::Link {
                ns,
                index: u32_of(body.get(4..)?)?,
                removed: kind == RTM_DELLINK && whole,
                new_nsid: attributes(body.get(IFINFOMSG_LEN..)?)
                    .find(|(kind, _)| *kind == IFLA_NEW_NETNSID)
                    .and_then(|(_, id)| i32_of(id))
                    .map(Nsid),
            })
        }
        RTM_NEWADDR | RTM_DELADDR => Some(Event::Address {
            ns,
            index: u32_of(body.get(4..)?)?,
            removed: kind == RTM_DELADDR,
        }),
        // What another namespace calls its neighbours is not our business.
        RTM_NEWNSID if ns.is_none() => nsid::parse(body).map(Event::NsidAdded),
        RTM_DELNSID if ns.is_none() => nsid::parse(body).map(Event::NsidRemoved),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_port_that_leaves_its_bridge_is_not_removed() {
        let mut body = [0; 16];
        body[4..8].copy_from_slice(&3u32.to_ne_bytes());
        let event = |removed| Event::Link {
            ns: None,
            index: 3,
            removed,
            new_nsid: None,
        };
        assert_eq!(parse(RTM_DELLINK, &body, None), Some(event(true)));
        body[0] = 7; // AF_BRIDGE
        assert_eq!(parse(RTM_DELLINK, &body, None), Some(event(false)));
    }

    #[test]
    fn ids_that_others_give_are_not_ours() {
        let body = [0, 0, 0, 0, 8, 0, 1, 0, 9, 0, 0, 0];
        if cfg!(target_endian = "little") {
            assert_eq!(
                parse(RTM_DELNSID, &body, None),
                Some(Event::NsidRemoved(Nsid(9)))
            );
            assert_eq!(parse(RTM_DELNSID, &body, Some(Nsid(1))), None);
        }
    }
}
