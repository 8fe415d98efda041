//! The part of rtnetlink and of network namespaces that ipvlan needs: synchronous, small, typed.
//!
//! | file | what |
//! |---|---|
//! | `socket.rs` | one request, its answers, its ack; extended-ack text; dumps that were torn are asked again |
//! | `link/read.rs` | [`Link`], and the [`Netlink`] calls that read one |
//! | `link/change.rs` | [`VethPair`], [`LinkChange`] and the [`Netlink`] calls for them |
//! | `addr.rs` | [`Address`] and [`Netlink::addresses`] |
//! | `route.rs` | [`Route`], [`Rule`] and the calls for them |
//! | `nexthop.rs` | [`Netlink::nexthops`] |
//! | `nsid.rs` | [`Nsid`]: how one namespace counts the others |
//! | `monitor.rs` | [`Monitor`]: what changes, in every namespace that has an id here |
//! | `netns.rs` | [`NetNs`], a handle; [`netns::Finder`] from an id back to a handle |
//! | `wire.rs` | [`Wire`]: sending a frame out of an interface |
//! | `tap.rs` | [`Tap`]: making an interface for a virtual machine |
//! | `sys.rs` | the system calls that nix lacks, and all of this crate's `unsafe` |
//!
//! # Whose point of view
//!
//! A [`Netlink`] or [`Monitor`] belongs for good to the namespace its thread was in when it was
//! opened. Ids of namespaces ([`Nsid`]) are counted by that namespace; the same number means
//! another namespace elsewhere. Reading through an id ([`Netlink::links`], [`Netlink::addresses`])
//! never enters the other namespace. *Writing* there needs a socket of that namespace
//! ([`Netlink::open_in`]): in a change request the kernel takes an id for the namespace to move
//! the link to.
//!
//! # Messages
//!
//! Requests are built from netlink-packet-route's types. Answers are read attribute by attribute
//! here, because one attribute of one odd link that a typed parser does not like (a new
//! `ARPHRD_*`, an alias that is not UTF-8) must not hide all the other links.
//!
//! Needs Linux 5.0: strict checking with filters in dumps, `IFLA_TARGET_NETNSID` and
//! `IFA_TARGET_NETNSID` came in 4.20 and 5.0. [`NetNs::cookie`] needs 5.14.

#![deny(unsafe_code)]

mod addr;
mod error;
#[cfg(feature = "fuzz")]
#[doc(hidden)]
pub mod fuzz;
mod link;
mod monitor;
mod name;
pub mod netns;
mod nexthop;
mod nla;
mod nsid;
mod route;
mod socket;
#[expect(unsafe_code, reason = "system calls that nix does not have")]
mod sys;
mod tap;
mod wire;

pub use addr::Address;
pub use error::Error;
pub use link::{AddrGenMode, Link, LinkChange, LinkStats, Mac, TapSettings, V4Settings, VethPair};
pub use monitor::{Event, Monitor};
pub use name::{BadIfName, IfName};
pub use netns::NetNs;
pub use nsid::Nsid;
pub use route::{Family, Hop, Route, RouteFilter, Rule};
pub use socket::Netlink;
pub use tap::{NewTap, Tap};
pub use wire::Wire;
