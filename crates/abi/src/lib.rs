//! What crosses the border between user space and the eBPF programs.
//!
//! Everything here is read by two programs that were compiled at different times: the eBPF object
//! that a port keeps running, and whichever `ipvlan` binary is called next. So every type has a
//! fixed layout (asserted below), every number is written down, and [`ABI_VERSION`] rises with any
//! change of either. The version is stored in [`PortEntry::abi`]; a binary that finds another one
//! refuses to touch the port.
//!
//! ```text
//! map      key                 value        written by       read by
//! PORT     0                   PortEntry    control plane    both hooks
//! OWNERS4  IPv4 address        Owner        control plane    both hooks
//! OWNERS6  IPv6 address        Owner        control plane    both hooks
//! DEVS     host end's ifindex  DevEntry     control plane    (control plane: what belongs to us)
//! MEMBERS  slot                ifindex      control plane    both hooks, broadcast only
//! DROPS    DropKey             count        both hooks       control plane
//! ```
#![no_std]
#![forbid(unsafe_code)]

mod drop;
mod mode;
mod port;

pub use drop::{DropKey, DropReason};
pub use mode::{BadFlags, BadMode, Flag, Mode};
pub use port::{DEV_READY, DevEntry, OWNER_HERE, OWNER_NOBODY, OWNER_PARENT, OWNER_PEER};
pub use port::{Owner, PORT_ALLMULTI, PORT_FORWARD4, PORT_FORWARD6, PORT_MARK, PORT_ROUTED};
pub use port::{PORT_SET_TYPE, PortEntry, ROUTED_MARK};

/// Rises with every change of a map's layout or meaning.
pub const ABI_VERSION: u32 = 2;

/// Devices that one parent can have: as many as in the kernel driver (the `ida` range in
/// `ipvlan_link_new()`).
pub const MAX_DEVS: u32 = 65_533;

/// Pairs of device and reason for which dropped frames are counted.
pub const MAX_DROPS: u32 = 16_384;

/// Addresses of one family that the devices of one parent can own together.
pub const MAX_OWNERS: u32 = 65_536;
