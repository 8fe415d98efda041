//! The user-space half of the eBPF datapath: loads it, attaches it, fills its maps.
//!
//! Nothing here decides anything about a frame (that is `ipvlan_core`) or about what should exist
//! (that is `ipvlan_control`). A [`Port`] is a directory of pins in a bpffs; the kernel keeps what
//! is pinned there alive and running, with or without a process:
//!
//! ```text
//! DIR/port, owners4, owners6, prefixes4, prefixes6, devs, members, drops, grants, guests,
//! learnt, claims                                      the maps, see ipvlan_abi
//! DIR/parent_ingress, device_egress                   the programs
//! DIR/guest_egress, guest_ingress                     the same for taps
//! DIR/parent_link                                     tcx: what holds the program at the parent
//! DIR/device_link_IFINDEX                             tcx: the same for each host end
//! DIR/guest_egress_link_IFINDEX, guest_ingress_link_IFINDEX    tcx: the same for each tap
//! ```
//!
//! Below Linux 6.6 there is no tcx. The programs are then filters of a clsact qdisc, which need no
//! pin: they stay until the interface goes or they are removed.
//!
//! What an older version has pinned is taken over while it runs ([`Port::renew`]).
#![deny(unsafe_code)]

mod attach;
mod error;
mod learnt;
mod moved;
mod pod;
mod port;
#[expect(unsafe_code, reason = "bpf(2) commands that aya does not offer")]
mod sys;
mod takeover;

pub use attach::Hook;
pub use error::Error;
pub use learnt::{Claims, Moment};
pub use port::{Capacity, Port};
pub use takeover::Age;

/// The compiled programs (package `ipvlan-bpf`), as `cargo xtask bpf` built them.
pub static OBJECT: &[u8] = aya::include_bytes_aligned!("../object/ipvlan.bpf.o");
