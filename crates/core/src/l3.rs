//! Which address does a frame belong to, and whose is it?
//!
//! Frames are keyed by their outermost IP header, or by the target of ARP. Fragments carry the same
//! addresses as their packet, so they need no state. A header that contradicts itself has no key,
//! and so no owner.
//!
//! An address of its own goes before a prefix around it, and a longer prefix before a shorter one. The
//! host's own addresses and next routers have entries of their own, so no prefix swallows them.
//!
//! Kernel: `ipvlan_get_L3_hdr()`, `ipvlan_addr_lookup()`.

use ipvlan_abi::{OWNER_NOBODY, Owner, PORT_PREFIXES, PortEntry};

use crate::frame::{ETHERNET, ETHERNET_BYTES, Frame, IPV4, IPV6};

/// Who owns an address.
pub trait Owners {
    /// Of an IPv4 address; [`Owner::NOBODY`] when it has no entry of its own.
    fn v4(&self, address: &[u8; 4]) -> Owner;
    /// Of an IPv6 address.
    fn v6(&self, address: &[u8; 16]) -> Owner;
    /// Of the longest prefix around an IPv4 address; [`Owner::NOBODY`] when there is none.
    fn v4_prefix(&self, address: &[u8; 4]) -> Owner;
    /// Of the longest prefix around an IPv6 address.
    fn v6_prefix(&self, address: &[u8; 16]) -> Owner;
}

/// Whose an IPv4 address is.
#[inline(always)]
pub(crate) fn v4_owner<O: Owners>(port: &PortEntry, address: &[u8; 4], owners: &O) -> Owner {
    let owner = owners.v4(address);
    if owner.kind == OWNER_NOBODY && port.bits & PORT_PREFIXES != 0 {
        return owners.v4_prefix(address);
    }
    owner
}

/// Whose an IPv6 address is.
#[inline(always)]
pub(crate) fn v6_owner<O: Owners>(port: &PortEntry, address: &[u8; 16], owners: &O) -> Owner {
    let owner = owners.v6(address);
    if owner.kind == OWNER_NOBODY && port.bits & PORT_PREFIXES != 0 {
        return owners.v6_prefix(address);
    }
    owner
}

/// ARP over Ethernet and IPv4 is 28 bytes; read as two pieces, since the verifier wants a frame
/// that is just long enough to be read to its end.
pub(crate) const ARP_BYTES: u32 = 28;
const ARP_OPERATION: usize = ETHERNET + 6;
pub(crate) const ARP_SENDER_MAC: usize = ETHERNET + 8;
const ARP_SENDER: usize = ETHERNET + 14;
const ARP_TARGET: usize = ETHERNET + 24;

/// Destination of an IPv4 packet whose header holds together, else `None`.
#[inline(always)]
pub(crate) fn v4_destination<F: Frame>(frame: &F) -> Option<&[u8; 4]> {
    let head = frame.at::<20>(ETHERNET)?;
    let header = u32::from(head[0] & 0x0f) * 4;
    let total = u32::from(u16::from_be_bytes([head[2], head[3]]));
    let present = frame.len().wrapping_sub(ETHERNET_BYTES);
    // A packet above 64 KiB that is still to be segmented has 0 here (BIG TCP).
    let fits = (total >= header && total <= present) || (total == 0 && frame.is_to_be_segmented());
    if head[0] >> 4 != 4 || header < 20 || !fits {
        return None;
    }
    head.last_chunk()
}

/// Destination of an IPv6 packet, or `None` when there is no such header.
#[inline(always)]
pub(crate) fn v6_destination<F: Frame>(frame: &F) -> Option<&[u8; 16]> {
    let head = frame.at::<40>(ETHERNET)?;
    if head[0] >> 4 != 6 {
        return None;
    }
    head.last_chunk()
}

/// Owner of the address that an IP packet of this EtherType goes to.
#[inline(always)]
pub(crate) fn destination_owner<F: Frame, O: Owners>(
    port: &PortEntry,
    frame: &F,
    ethertype: u16,
    owners: &O,
) -> Owner {
    match ethertype {
        IPV4 => match v4_destination(frame) {
            Some(address) => v4_owner(port, address, owners),
            None => Owner::NOBODY,
        },
        IPV6 => match v6_destination(frame) {
            Some(address) => v6_owner(port, address, owners),
            None => Owner::NOBODY,
        },
        _ => Owner::NOBODY,
    }
}

/// What an ARP frame says. RFC 826.
pub(crate) struct Arp<'a> {
    operation: u16,
    sender: &'a [u8; 4],
    pub(crate) target: &'a [u8; 4],
}

impl<'a> Arp<'a> {
    /// `None` when the frame is too short. Types and lengths in it are not checked, as in the
    /// driver: a frame from the wire may say what it likes, it is only looked up.
    #[inline(always)]
    pub(crate) fn of<F: Frame>(frame: &'a F) -> Option<Self> {
        Some(Self {
            operation: u16::from_be_bytes(*frame.at::<2>(ARP_OPERATION)?),
            sender: frame.at::<4>(ARP_SENDER)?,
            target: frame.at::<4>(ARP_TARGET)?,
        })
    }

    /// Answers somebody who has no address yet and asks whether one is free (RFC 5227): the target
    /// is 0.0.0.0, so there is no telling who of us has asked.
    #[inline(always)]
    pub(crate) fn answers_a_probe(&self) -> bool {
        const REPLY: u16 = 2;
        self.operation == REPLY && u32::from_ne_bytes(*self.target) == 0
    }

    /// From somebody who has no address yet: a probe whether the target is free (RFC 5227 section
    /// 2.1.1). Whoever probes for the same one has to hear it.
    #[inline(always)]
    pub(crate) fn is_from_nobody(&self) -> bool {
        u32::from_ne_bytes(*self.sender) == 0
    }

    /// Asks for its target, and so concerns nobody but the target. An announcement (sender and
    /// target are one, RFC 5227 section 3) and a reply concern everybody.
    #[inline(always)]
    pub(crate) fn is_question(&self) -> bool {
        const REQUEST: u16 = 1;
        self.operation == REQUEST
            && u32::from_ne_bytes(*self.sender) != u32::from_ne_bytes(*self.target)
    }
}
