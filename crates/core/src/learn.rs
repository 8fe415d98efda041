//! Learning: which address the guest behind a tap says it has.
//!
//! The addresses of a device in a namespace are told by netlink. Those of a guest are nobody's to tell
//! but the guest's own, and it does, in messages that are about who has what:
//!
//! | message | the address |
//! |---|---|
//! | ARP, request, reply and announcement | sender protocol address |
//! | neighbour solicitation, router solicitation | source |
//! | neighbour advertisement | target |
//! | DHCPv4 acknowledgement, to the guest | the client's ([`crate::dhcp::acknowledged`]) |
//!
//! Who asks whether an address is free (an ARP probe, a solicitation from `::`) has no address yet.
//! What a guest only sends from is no claim: the source of IP packets is not checked.
//!
//! A claim is nothing but a claim. It is told to the control plane, and the same rules decide about it
//! as about an address on an interface: it does not take what the parent, a router, or another device
//! has. It is told as long as the guest is not the owner, so what was missed is told again.
//!
//! A guest that has not said anything yet is found by the question for it: while there are devices whose
//! addresses are learnt, a question for what nobody owns goes to all ([`mod@crate::rx`], [`mod@crate::tx`]).
//!
//! Kernel: nothing in ipvlan. The bridge learns MAC addresses so (`br_fdb_update()`).

use crate::frame::{ARP, ETHERNET, ETHERNET_BYTES, Ethernet, Frame, IPV6};
use crate::l3::ARP_BYTES;
use crate::nd;

/// An address that a guest says it has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(C)]
pub struct Claim {
    /// 4 or 6; 0: the frame says nothing.
    pub family: u32,
    /// As in [`ipvlan_abi::ClaimKey`].
    pub address: [u64; 2],
}

impl Claim {
    const NOTHING: Self = Self {
        family: 0,
        address: [0; 2],
    };

    /// An IPv4 address. One that no interface can have is no claim.
    #[inline(always)]
    pub const fn v4(address: [u8; 4]) -> Self {
        match address[0] {
            // This network, loopback, groups and what is reserved.
            0 | 127 | 224..=255 => Self::NOTHING,
            _ => Self {
                family: 4,
                address: [u32::from_le_bytes(address) as u64, 0],
            },
        }
    }

    #[inline(always)]
    const fn v6(address: [u64; 2]) -> Self {
        // ::/8 has ::, ::1 and what embeds IPv4; ff00::/8 are groups.
        match address[0] & 0xff {
            0 | 0xff => Self::NOTHING,
            _ => Self { family: 6, address },
        }
    }
}

/// What a frame that a guest sent says about its address.
#[inline(always)]
pub fn claim<F: Frame>(frame: &F) -> Claim {
    if frame.is_tagged() {
        return Claim::NOTHING;
    }
    let Some(ethernet) = Ethernet::of(frame) else {
        return Claim::NOTHING;
    };
    match ethernet.ethertype {
        ARP => {
            let Some([0, 1, 0x08, 0, 6, 4]) = frame.at::<6>(ETHERNET) else {
                return Claim::NOTHING;
            };
            match frame.at::<4>(ETHERNET + 14) {
                Some(sender) if frame.len() >= ETHERNET_BYTES + ARP_BYTES => Claim::v4(*sender),
                _ => Claim::NOTHING,
            }
        }
        IPV6 => Claim::v6(nd::said_by_sender(frame)),
        _ => Claim::NOTHING,
    }
}
