//! Ids of namespaces: how one namespace counts the others.

use std::fmt;
use std::os::fd::{AsRawFd, BorrowedFd};

use netlink_packet_route::RouteNetlinkMessage;
use netlink_packet_route::nsid::{NsidAttribute, NsidMessage};
use nix::errno::Errno;

use crate::nla::{attributes, i32_of};
use crate::socket::Ask;
use crate::{Error, Netlink};

const RTM_NEWNSID: u16 = 88;
const RTGENMSG_LEN: usize = 4;
const NETNSA_NSID: u16 = 1;

/// A namespace id as the *socket's* namespace counts them (`NETNSA_NSID`).
///
/// The number means nothing in another namespace. It lives until the namespace it stands for
/// dies; then it is free and may be given to another one.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct Nsid(pub i32);

impl fmt::Display for Nsid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl Netlink {
    /// The id of the namespace `ns` here; None if it has none yet.
    ///
    /// A namespace can have an id for itself too; see [`Monitor`](crate::Monitor).
    ///
    /// # Errors
    ///
    /// `EINVAL` if `ns` is no network namespace.
    pub fn nsid_of(&mut self, ns: BorrowedFd<'_>) -> Result<Option<Nsid>, Error> {
        let message = RouteNetlinkMessage::GetNsId(message(ns, None));
        let mut id = None;
        self.request(ask("read id of", ns), message, 0, &mut |kind, body| {
            if kind == RTM_NEWNSID {
                id = parse(body);
            }
        })?;
        Ok(id)
    }

    /// The id of the namespace `ns` here, a new one if it has none yet.
    ///
    /// Without an id neither a [`Monitor`](crate::Monitor) hears a namespace nor can it be read
    /// through.
    ///
    /// # Errors
    ///
    /// `EPERM` without `CAP_NET_ADMIN` here, `EINVAL` if `ns` is no network namespace.
    pub fn assign_nsid(&mut self, ns: BorrowedFd<'_>) -> Result<Nsid, Error> {
        if let Some(id) = self.nsid_of(ns)? {
            return Ok(id);
        }
        let message = RouteNetlinkMessage::NewNsId(message(ns, Some(-1)));
        match self.request(ask("give an id to", ns), message, 0, &mut |_, _| {}) {
            // Somebody was faster.
            Err(err) if !err.is(Errno::EEXIST) => return Err(err),
            Ok(()) | Err(_) => {}
        }
        self.nsid_of(ns)?.ok_or_else(|| Error::Kernel {
            op: "give an id to",
            object: object(ns),
            errno: Errno::ENOENT,
            extack: None,
        })
    }
}

fn message(ns: BorrowedFd<'_>, id: Option<i32>) -> NsidMessage {
    let mut message = NsidMessage::default();
    message.attributes.extend(id.map(NsidAttribute::Id));
    message
        .attributes
        .push(NsidAttribute::Fd(ns.as_raw_fd().cast_unsigned()));
    message
}

fn ask(op: &'static str, ns: BorrowedFd<'_>) -> Ask {
    Ask::new(op, object(ns))
}

fn object(ns: BorrowedFd<'_>) -> String {
    format!("namespace (fd {})", ns.as_raw_fd())
}

/// Reads the body of an `RTM_NEWNSID` or `RTM_DELNSID`. The kernel's -1 is "none".
pub(crate) fn parse(body: &[u8]) -> Option<Nsid> {
    attributes(body.get(RTGENMSG_LEN..)?)
        .find(|(kind, _)| *kind == NETNSA_NSID)
        .and_then(|(_, id)| i32_of(id))
        .filter(|&id| id >= 0)
        .map(Nsid)
}
