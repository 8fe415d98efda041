//! The forwarding decisions of ipvlan. Every one of them, and nothing else.
//!
//! ```text
//!   parent ──► rx ─┬─► Deliver to the device that owns the destination address
//!                  ├─► Flood   broadcast, multicast: every device, and the parent's own stack
//!                  └─► Pass    the parent's own stack, as if nothing were here
//!
//!   device ──► tx ─┬─► Deliver to a sibling
//!                  ├─► Wire    out of the parent as it is (l2)
//!                  ├─► Route   out of the parent, by its namespace's routes and neighbours (l3)
//!                  ├─► Parent  into the parent's own stack
//!                  ├─► Flood   every sibling, and the wire
//!                  └─► Drop    with a reason that is counted
//! ```
//!
//! A decision reads the frame through [`Frame`], asks [`Owners`] whose an address is, and returns a
//! [`Verdict`]. It holds no state, touches no map, no socket and no clock, and cannot panic: the
//! same source is compiled into the eBPF object, where a panic does not link, and into the tests,
//! which hold both builds against each other.
//!
//! What the eBPF verifier asks of this crate, and why some of it looks as it does: values that live
//! across branches are numbers or flat structs; there is no enum with data among them; slices are never indexed by a computed number; loops have constant bounds.
//!
//! What a guest behind a tap needs beyond these two is in [`guest`].
//!
//! Reading order: [`verdict`], [`frame`], [`l3`], [`mod@rx`], [`mod@tx`], [`nd`], [`dhcp`], [`flood`],
//! [`guest`], [`learn`].
//!
//! Kernel: `drivers/net/ipvlan/ipvlan_core.c`.
#![no_std]
#![forbid(unsafe_code)]

pub mod dhcp;
pub mod flood;
pub mod frame;
pub mod guest;
pub mod l3;
pub mod learn;
pub mod nd;
pub mod rx;
pub mod tx;
pub mod verdict;

pub use flood::{Meter, admit};
pub use frame::{DEPTH, Frame};
pub use l3::Owners;
pub use rx::rx;
pub use tx::{tx, tx_shallow};
pub use verdict::{Action, Fix, Verdict};
