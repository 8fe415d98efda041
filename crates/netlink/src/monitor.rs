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
use crate::nexthop::{RTM_DELNEXTHOP, RTM_NEWNEXTHOP};
use crate::nla::{attributes, i32_of, u8_of, u32_of};
use crate::socket::{BUFFER_LEN, messages, open_route_socket, retry};
use crate::{Error, NetNs, Netlink, Nsid, nsid, sys};

pub(crate) const RTM_NEWLINK: u16 = 16;
pub(crate) const RTM_DELLINK: u16 = 17;
pub(crate) const RTM_NEWADDR: u16 = 20;
pub(crate) const RTM_DELADDR: u16 = 21;
pub(crate) const RTM_NEWROUTE: u16 = 24;
pub(crate) const RTM_DELROUTE: u16 = 25;
pub(crate) const RTM_NEWRULE: u16 = 32;
pub(crate) const RTM_DELRULE: u16 = 33;
pub(crate) const RTM_NEWNETCONF: u16 = 80;
pub(crate) const RTM_NEWNSID: u16 = 88;
pub(crate) const RTM_DELNSID: u16 = 89;
const RTNLGRP_LINK: u32 = 1;
const RTNLGRP_IPV4_IFADDR: u32 = 5;
const RTNLGRP_IPV4_ROUTE: u32 = 7;
const RTNLGRP_IPV6_IFADDR: u32 = 9;
const RTNLGRP_IPV6_ROUTE: u32 = 11;
const RTNLGRP_IPV4_RULE: u32 = 8;
const RTNLGRP_IPV6_RULE: u32 = 19;
const RTNLGRP_IPV4_NETCONF: u32 = 24;
const RTNLGRP_IPV6_NETCONF: u32 = 25;
const RTNLGRP_NSID: u32 = 28;
const RTNLGRP_NEXTHOP: u32 = 32;
const IFINFOMSG_LEN: usize = 16;
const RTMSG_LEN: usize = 12;
const RTA_TABLE: u16 = 15;
const RT_TABLE_LOCAL: u32 = 255;
// RTA_GATEWAY, RTA_MULTIPATH, RTA_VIA, RTA_NH_ID
const NEXT_ROUTER: [u16; 4] = [5, 9, 18, 30];
const IFLA_EVENT: u16 = 44;
const IFLA_NEW_NETNSID: u16 = 45;
const IFLA_NEW_IFINDEX: u16 = 49;
// IFLA_EVENT_* of linux/if_link.h
const EVENT_BONDING_FAILOVER: u32 = 3;
const EVENT_NOTIFY_PEERS: u32 = 4;
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
    },
    /// A link was moved to another namespace; follows its [`Event::Link`].
    Moved {
        /// Where from.
        ns: Option<Nsid>,
        /// Its index there.
        index: u32,
        /// Where to (`IFLA_NEW_NETNSID`). The number is counted by the namespace that it *left*, so
        /// it is an id of ours only where `ns` is None.
        to: Nsid,
        /// Its index there. None: Linux before 5.6.
        new_index: Option<u32>,
    },
    /// The link's peers are to be told anew where it is (`NETDEV_NOTIFY_PEERS`,
    /// `NETDEV_BONDING_FAILOVER`); follows its [`Event::Link`].
    NotifyPeers {
        /// Where.
        ns: Option<Nsid>,
        /// Its index there.
        index: u32,
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
    /// A route came, changed or went, but none of table "local": those follow from addresses. Or a
    /// nexthop object did.
    Route {
        /// Where.
        ns: Option<Nsid>,
        /// In which table; 0 for a nexthop object.
        table: u32,
        /// Whether it is by way of a next router.
        by_router: bool,
    },
    /// A policy rule came or went, or an interface began or ceased to forward.
    Forwarding {
        /// Where.
        ns: Option<Nsid>,
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
            RTNLGRP_IPV4_ROUTE,
            RTNLGRP_IPV6_ROUTE,
            RTNLGRP_IPV4_RULE,
            RTNLGRP_IPV6_RULE,
            RTNLGRP_IPV4_NETCONF,
            RTNLGRP_IPV6_NETCONF,
            RTNLGRP_NSID,
            RTNLGRP_NEXTHOP,
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

/// Most messages are one event; a link's may tell of something that happened beside.
pub(crate) fn parse(kind: u16, body: &[u8], ns: Option<Nsid>) -> Vec<Event> {
    let event = match kind {
        RTM_NEWLINK | RTM_DELLINK => return parse_link(kind, body, ns).unwrap_or_default(),
        RTM_NEWADDR | RTM_DELADDR => body.get(4..).and_then(u32_of).map(|index| Event::Address {
            ns,
            index,
            removed: kind == RTM_DELADDR,
        }),
        RTM_NEWROUTE | RTM_DELROUTE => parse_route(body, ns),
        RTM_NEWNEXTHOP | RTM_DELNEXTHOP => Some(Event::Route {
            ns,
            table: 0,
            by_router: true,
        }),
        RTM_NEWRULE | RTM_DELRULE | RTM_NEWNETCONF => Some(Event::Forwarding { ns }),
        // What another namespace calls its neighbours is not our business.
        RTM_NEWNSID if ns.is_none() => nsid::parse(body).map(Event::NsidAdded),
        RTM_DELNSID if ns.is_none() => nsid::parse(body).map(Event::NsidRemoved),
        _ => None,
    };
    event.into_iter().collect()
}

fn parse_route(body: &[u8], ns: Option<Nsid>) -> Option<Event> {
    let mut table = u32::from(*body.get(4)?);
    let mut by_router = false;
    for (kind, value) in attributes(body.get(RTMSG_LEN..)?) {
        by_router |= NEXT_ROUTER.contains(&kind);
        if kind == RTA_TABLE {
            table = u32_of(value)?;
        }
    }
    (table != RT_TABLE_LOCAL).then_some(Event::Route {
        ns,
        table,
        by_router,
    })
}

fn parse_link(kind: u16, body: &[u8], ns: Option<Nsid>) -> Option<Vec<Event>> {
    // A bridge says with a DELLINK of its own family that a port has left it. The link itself is
    // still there.
    let whole = u8_of(body)? == AF_UNSPEC;
    let index = u32_of(body.get(4..)?)?;
    let (mut to, mut new_index, mut event) = (None, None, None);
    for (kind, value) in attributes(body.get(IFINFOMSG_LEN..)?) {
        match kind {
            IFLA_NEW_NETNSID => to = i32_of(value).map(Nsid),
            IFLA_NEW_IFINDEX => new_index = u32_of(value),
            IFLA_EVENT => event = u32_of(value),
            _ => {}
        }
    }
    let mut events = vec![Event::Link {
        ns,
        index,
        removed: kind == RTM_DELLINK && whole,
    }];
    events.extend(to.map(|to| Event::Moved {
        ns,
        index,
        to,
        new_index,
    }));
    if let Some(EVENT_BONDING_FAILOVER | EVENT_NOTIFY_PEERS) = event {
        events.push(Event::NotifyPeers { ns, index });
    }
    Some(events)
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
        };
        assert_eq!(parse(RTM_DELLINK, &body, None), [event(true)]);
        body[0] = 7; // AF_BRIDGE
        assert_eq!(parse(RTM_DELLINK, &body, None), [event(false)]);
    }

    #[test]
    fn a_route_says_its_table_and_whether_it_is_by_a_router() {
        let mut body = vec![0; 12];
        body[4] = 254;
        for by_router in [false, true] {
            // RTA_OIF, then RTA_GATEWAY.
            body.extend([8, 0, if by_router { 5 } else { 4 }, 0, 3, 0, 0, 0]);
            let wanted = |table| Event::Route {
                ns: None,
                table,
                by_router,
            };
            if cfg!(target_endian = "little") {
                assert_eq!(parse(RTM_DELROUTE, &body, None), [wanted(254)]);
                let mut other = body.clone();
                other.extend([8, 0, 15, 0, 0, 1, 0, 0]);
                assert_eq!(parse(RTM_NEWROUTE, &other, None), [wanted(256)]);
                other[4] = 255;
                other.truncate(body.len());
                assert_eq!(parse(RTM_NEWROUTE, &other, None), [], "of an address");
            }
        }
    }

    #[test]
    fn ids_that_others_give_are_not_ours() {
        let body = [0, 0, 0, 0, 8, 0, 1, 0, 9, 0, 0, 0];
        if cfg!(target_endian = "little") {
            assert_eq!(
                parse(RTM_DELNSID, &body, None),
                [Event::NsidRemoved(Nsid(9))]
            );
            assert_eq!(parse(RTM_DELNSID, &body, Some(Nsid(1))), []);
        }
    }

    #[test]
    fn a_link_that_moved_says_where_and_one_that_failed_over_says_so() {
        let mut body = vec![0; 16];
        body[4..8].copy_from_slice(&3u32.to_ne_bytes());
        for (kind, value) in [
            (IFLA_NEW_NETNSID, 5u32),
            (IFLA_NEW_IFINDEX, 9),
            (IFLA_EVENT, 4),
        ] {
            body.extend(8u16.to_ne_bytes());
            body.extend(kind.to_ne_bytes());
            body.extend(value.to_ne_bytes());
        }
        let events = parse(RTM_DELLINK, &body, None);
        let moved = Event::Moved {
            ns: None,
            index: 3,
            to: Nsid(5),
            new_index: Some(9),
        };
        let told = Event::NotifyPeers { ns: None, index: 3 };
        assert_eq!(events[1..], [moved, told]);
    }
}
