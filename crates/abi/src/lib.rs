//! What crosses the border between user space and the eBPF programs.
//!
//! Everything here is read by two programs that were compiled at different times: the eBPF object
//! that a port keeps running, and whichever `ipvlan` binary is called next. So every type has a
//! fixed layout (asserted below), every number is written down, and [`ABI_VERSION`] rises with any
//! change of either. The version is stored in [`PortEntry::abi`], which is the beginning of that entry
//! in every version. A binary that finds an older one takes the port over (`takeover` in
//! `ipvlan-datapath-bpf`), and one that finds a newer one refuses to touch it.
//!
//! ```text
//! map        key                 value        written by       read by
//! PORT       0                   PortEntry    control plane    both hooks
//! OWNERS4    IPv4 address        Owner        control plane    both hooks
//! OWNERS6    IPv6 address        Owner        control plane    both hooks
//! PREFIXES4  IPv4 prefix         Owner        control plane    both hooks, with PORT_PREFIXES only
//! PREFIXES6  IPv6 prefix         Owner        control plane    both hooks, with PORT_PREFIXES only
//! DEVS       host end's ifindex  DevEntry     control plane    (control plane: what belongs to us)
//! MEMBERS    slot                ifindex      control plane    both hooks, broadcast only
//! DROPS      DropKey             count        both hooks       control plane
//! GRANTS     GrantKey            1            control plane    (control plane: what is whose by hand)
//! FLOODS     ifindex, lower bits a moment     both hooks       both hooks (not pinned)
//! CLIENTS    ifindex, lower bits ClientEntry  lease_request    lease_reply (not pinned)
//! PROGRAMS   LEASE_*, DEEP_*     a program    control plane    both hooks, what is rare
//! GUESTS     a tap's ifindex     GuestEntry   a tap's hooks    a tap's hooks
//! LEARNT     ClaimKey            a moment     control plane    control plane; hooks renew the moment
//! CLAIMS     (ring buffer)       ClaimKey     hooks            the agent
//! ```
#![no_std]
#![forbid(unsafe_code)]

mod drop;
mod mode;
mod port;

pub use drop::{DropKey, DropReason};
pub use mode::{BadFlags, BadMode, Flag, Mode};
pub use port::{
    ClaimKey, ClientEntry, DEV_BEHIND_GROUPS, DEV_BEHIND_MAC, DEV_BEHIND_MTU, DEV_LEARN, DEV_MUTED,
    DEV_READY, DEV_TAP, DevEntry, GrantKey, GuestEntry, OWNER_HERE, OWNER_NOBODY, OWNER_OUTSIDE,
    OWNER_PARENT, OWNER_PEER, identity_of,
};
pub use port::{
    Owner, PORT_ALLMULTI, PORT_FORWARD4, PORT_FORWARD6, PORT_LEARN, PORT_MARK, PORT_PREFIXES,
};
pub use port::{PORT_ROUTED, PORT_SET_TYPE, PortEntry, ROUTED_MARK};

/// The number that orders versions. It means the layout and meaning of the maps and the behaviour of
/// the programs: every release whose eBPF object differs from the last one's raises it, or what is
/// fixed in a program would not reach the devices that run already.
pub const ABI_VERSION: u32 = 3;

/// Beside the version in [`PortEntry::abi`]: maps and programs are of that version, but not yet at
/// all interfaces is it these programs that run. Whoever changes the port next finishes this first.
pub const ABI_UNFINISHED: u32 = 1 << 31;

/// Devices that one parent can have: as many as in the kernel driver (the `ida` range in
/// `ipvlan_link_new()`).
pub const MAX_DEVS: u32 = 65_533;

/// Copies of broadcast and multicast that one sender (a device, or the wire) has made for it in a
/// second; beyond it is a flood.
///
/// A copy costs 1 to 2 µs of one processor, its receiver's stack included, so this is a tenth to a
/// fifth of one: with 200 devices 500 broadcasts a second from each of them. An office network of a thousand
/// hosts has 10 to 100 that are not questions.
pub const FLOOD_RATE: u64 = 100_000;

/// Copies that a sender who was quiet may have at once.
///
/// Twice what a processor's queue holds (`net.core.netdev_max_backlog`, 1,000): more than that, back
/// to back, would be lost in the queue, and others' frames with it. With 200 devices it is 10 frames
/// and with 20 it is 100; mDNS, SSDP and the announcements of a host that comes up are 3 to 10.
pub const FLOOD_BURST: u64 = 2_000;

/// Senders that are told apart by the lower bits of their host end's ifindex.
pub const SENDERS: u32 = 16_384;

/// Where `PROGRAMS` has the program that a device's DHCP requests go through.
pub const LEASE_REQUEST: u32 = 0;

/// The same for replies from the wire.
pub const LEASE_REPLY: u32 = 1;

/// The same for what a device sent that cannot be decided on by its first bytes.
pub const DEEP_EGRESS: u32 = 2;

/// Pairs of device and reason for which dropped frames are counted.
pub const MAX_DROPS: u32 = 16_384;

/// Addresses and prefixes that the devices of one parent have by hand, all together; so there can be
/// as many prefixes of a family.
pub const MAX_GRANTS: u32 = 16_384;

/// Addresses that are learnt of one guest.
pub const MAX_LEARNT_EACH: u32 = 64;

/// Addresses that are learnt of all guests of one parent.
pub const MAX_LEARNT: u32 = 16_384;

/// Room for claims that the agent has not read yet, in bytes; one takes 32.
pub const CLAIMS_BYTES: u32 = 65_536;

/// Between two claims that are told of one guest, in nanoseconds: 100 a second, in the long run.
pub const CLAIM_GAP: u64 = 10_000_000;

/// Claims that a guest that was quiet may make at once, as one with several addresses does when it starts.
pub const CLAIM_BURST: u64 = 64;

/// Addresses of one family that the devices of one parent can own together.
pub const MAX_OWNERS: u32 = 65_536;
