//! What can go wrong, with what to do about it.

use std::io;
use std::path::PathBuf;

use ipnet::IpNet;
use nix::errno::Errno;

use crate::api::Kind;
use crate::plan::words;

/// Operation, object, and what the kernel answered. The text of a variant that the kernel or
/// iproute2 has a message for is that message.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// iproute2's words.
    #[error("Cannot find device \"{0}\"")]
    NoDevice(String),
    /// The name is taken.
    #[error("RTNETLINK answers: File exists")]
    Exists(String),
    /// iproute2's words for an address that is not there.
    #[error("RTNETLINK answers: Cannot assign requested address")]
    NoAddress,
    /// There is such a device, but it is none of ours.
    #[error("device \"{name}\" is not an ipvlan device (it is {kind}); use \"ip link\" for it")]
    NotOurs {
        /// Its name.
        name: String,
        /// What it is.
        kind: String,
    },
    /// Several devices have this name.
    #[error("devices called \"{name}\" are on {parents}; name the parent instead")]
    Ambiguous {
        /// The name.
        name: String,
        /// The parents' names.
        parents: String,
    },
    /// Several devices have this name, and it matters which.
    #[error("devices called \"{name}\" are in several namespaces ({places}); say which by \"-n\"")]
    Several {
        /// The name.
        name: String,
        /// The namespaces' names.
        places: String,
    },
    /// The device is one of ours, and of another kind than was said.
    #[error("device \"{name}\" is of type {}, not {}", found.as_str(), wanted.as_str())]
    OtherKind {
        /// Its name.
        name: String,
        /// What it is.
        found: Kind,
        /// What was said.
        wanted: Kind,
    },
    /// An ipvtap cannot be put elsewhere.
    #[error(
        "a device of type ipvtap lives in its parent's network namespace, where the virtual machine \
         has to open it: leave out \"netns\""
    )]
    TapElsewhere,
    /// The name is one that host ends have.
    #[error("\"{0}\" is a name that host ends of ipvlan devices have; take another one")]
    ReservedName(String),
    /// A parent must be Ethernet and not loopback.
    #[error("\"{name}\" cannot be a parent: it is {what}, not an Ethernet device")]
    BadParent {
        /// Its name.
        name: String,
        /// What it is instead.
        what: &'static str,
    },
    /// No more slots.
    #[error("\"{parent}\" has {max} devices already, which is as many as a parent can have")]
    Full {
        /// The parent.
        parent: String,
        /// The limit.
        max: u32,
    },
    /// No room for another address or prefix.
    #[error("no room for {}: the devices of one parent can {limit}", words(*.prefix))]
    NoRoom {
        /// What stays without owner.
        prefix: IpNet,
        /// How many of what they can have.
        limit: String,
    },
    /// Another device has this address or prefix by hand.
    #[error("{} was given to {holder} by hand; take it from there first", words(*.prefix))]
    Given {
        /// The address or prefix.
        prefix: IpNet,
        /// The other device.
        holder: String,
    },
    /// Not root.
    #[error("Operation not permitted: {0}")]
    Permission(String),
    /// The kernel lacks something. Says what and the remedy.
    #[error("this kernel cannot run ipvlan: {0}")]
    Kernel(String),
    /// An agent runs for this namespace already.
    #[error("an agent runs for this network namespace already")]
    AgentRuns,
    /// The device was made, but nobody follows its addresses.
    #[error("the agent did not start: {0}")]
    Agent(String),
    /// rtnetlink said no.
    #[error(transparent)]
    Netlink(#[from] ipvlan_netlink::Error),
    /// bpf(2) said no.
    #[error(transparent)]
    Datapath(#[from] ipvlan_datapath_bpf::Error),
    /// Some other system call said no.
    #[error("{op} {}: {source}", .path.display())]
    Io {
        /// What was tried.
        op: &'static str,
        /// On what.
        path: PathBuf,
        /// The answer.
        #[source]
        source: io::Error,
    },
}

impl Error {
    /// Whether it is that another version of ipvlan, newer or much older, has made what was to be used.
    pub(crate) fn is_foreign(&self) -> bool {
        matches!(self, Self::Datapath(error) if error.is_foreign())
    }

    /// The same of an older one, from which it is to be taken over.
    pub(crate) fn is_older(&self) -> bool {
        matches!(self, Self::Datapath(error) if error.is_older())
    }

    /// The error number that iproute2 would have had from the kernel, where there is one.
    pub fn errno(&self) -> Option<Errno> {
        match self {
            Self::NoDevice(_) => Some(Errno::ENODEV),
            Self::Exists(_) | Self::Given { .. } => Some(Errno::EEXIST),
            Self::NoAddress => Some(Errno::EADDRNOTAVAIL),
            Self::BadParent { .. } => Some(Errno::EINVAL),
            Self::Full { .. } | Self::NoRoom { .. } => Some(Errno::ENOSPC),
            Self::Permission(_) => Some(Errno::EPERM),
            Self::Netlink(error) => Some(error.errno()),
            Self::Datapath(error) => error.errno().map(Errno::from_raw),
            Self::Io { source, .. } => source.raw_os_error().map(Errno::from_raw),
            Self::NotOurs { .. }
            | Self::OtherKind { .. }
            | Self::TapElsewhere
            | Self::ReservedName(_)
            | Self::Ambiguous { .. }
            | Self::Several { .. }
            | Self::Kernel(_)
            | Self::AgentRuns
            | Self::Agent(_) => None,
        }
    }
}
