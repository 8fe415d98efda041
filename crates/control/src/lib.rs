//! Keeps the datapath equal to what the kernel's links and addresses say.
//!
//! There is no database. Links are in rtnetlink; the datapath is pinned in a bpffs; the rest is
//! computed:
//!
//! ```text
//!            rtnetlink ─┐
//!                       ├─► observe ──► World ──► plan ──► [Step] ──► apply ──► maps, links
//!   pinned maps (store) ┘               (what is)          (what differs from what should be)
//! ```
//!
//! `reconcile` is those three in a row. It is idempotent and trusts nobody:
//! whatever a call left behind when it was killed, the next one undoes or finishes. A verb
//! ([`create`], [`delete`], [`change`]) does its one thing and leaves what follows from it to
//! reconcile; the [`agent`] runs reconcile whenever netlink says that something happened.
//!
//! All of it works on one *namespace*: the network namespace of the parents, which is that of the
//! calling thread. Each has a directory in the bpffs, named by the namespace's cookie, and that
//! directory's lock (`flock`) is held while anything is changed. Packets never wait for it.
//!
//! Kernel: `ipvlan_main.c`, with rtnl in the place of our lock.
#![forbid(unsafe_code)]

pub mod agent;
mod announce;
mod api;
mod apply;
mod create;
mod error;
#[cfg(feature = "fuzz")]
#[doc(hidden)]
pub mod fuzz;
mod grant;
mod handover;
mod learn;
mod observe;
mod plan;
mod quick;
mod reconcile;
mod routing;
mod show;
mod store;
mod takeover;

pub use api::{Change, Create, Kind, Place, Shown, ShownPort};
pub use api::{change, delete, learn};
pub use create::create;
pub use error::Error;
pub use grant::{grant, revoke};
pub use plan::words;
pub use show::{show, show_ports};
pub use store::prepare;
