//! What becomes of a frame.

use core::fmt;

use ipvlan_abi::{DropReason, Owner};

use crate::frame::DEPTH;

/// Where a frame goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum Action {
    /// To the stack of the namespace in which it came, untouched: the parent's.
    Pass = 0,
    /// To the device in [`Verdict::owner`].
    Deliver = 1,
    /// Out of the parent, as it is.
    Wire = 2,
    /// Out of the parent; next hop and MAC addresses by the parent's namespace.
    Route = 3,
    /// Into the parent's stack, as if it had come in there.
    Parent = 4,
    /// A copy to every device but the sender; the frame itself goes on, to the parent's stack when
    /// it came from the wire, to the wire when it came from a device.
    Flood = 5,
    /// Nowhere, because of [`Verdict::reason`].
    Drop = 6,
    /// DHCP: first exchange what the server knows a client by ([`mod@crate::dhcp`]). Then, from a
    /// device, as [`Self::Wire`]; from the wire, to the device that the message is for.
    Lease = 7,
}

/// What to write into the frame before it goes on, so that no MAC address but the parent's is
/// seen.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Fix(u64);

impl Fix {
    /// Leaves the frame alone.
    pub const NOTHING: Self = Self(0);
    /// The Ethernet source becomes the parent's address.
    pub const SOURCE: Self = Self(1 << SOURCE);
    /// The Ethernet destination becomes the parent's address (l3 only, where what the device wrote
    /// there means nothing).
    pub const DESTINATION: Self = Self(1 << DESTINATION);
    /// The ARP sender's hardware address becomes the parent's.
    pub const ARP_SENDER: Self = Self(1 << ARP_SENDER);

    /// Nothing is written, but nothing may be written later either: a frame whose checksum is still
    /// to be put in is dropped ([`DropReason::ChecksumPending`]). A datapath cannot tell cheaply, so
    /// this is asked only where a checksum could overwrite a MAC address: ARP and ND.
    pub const SEALED: Self = Self(1 << SEALED);

    /// The address at `option` bytes from the start of the frame, in an ND link-layer option,
    /// becomes the parent's; the ICMPv6 checksum at `checksum` follows. Both are below [`DEPTH`].
    #[inline(always)]
    pub(crate) const fn nd(option: usize, checksum: usize) -> Self {
        Self(((option as u64 & OFFSET) << ND_OPTION) | ((checksum as u64 & OFFSET) << ND_CHECKSUM))
    }

    /// Both.
    #[inline(always)]
    pub const fn and(self, other: Self) -> Self {
        Self(self.0 | other.0)
    }

    /// `self` if `condition` holds.
    #[inline(always)]
    pub(crate) const fn when(self, condition: bool) -> Self {
        if condition { self } else { Self::NOTHING }
    }

    /// Whether there is nothing to write and nothing to be sure of.
    #[inline(always)]
    pub const fn is_nothing(self) -> bool {
        self.0 == 0
    }

    /// Whether all of `other` is part of it.
    #[inline(always)]
    pub const fn has(self, other: Self) -> bool {
        self.0 & other.0 == other.0
    }

    /// Offsets of the address in an ND option and of its checksum, if there is one to write.
    #[inline(always)]
    pub const fn nd_offsets(self) -> Option<(u32, u32)> {
        let option = (self.0 >> ND_OPTION) & OFFSET;
        let checksum = (self.0 >> ND_CHECKSUM) & OFFSET;
        if option == 0 {
            None
        } else {
            Some((option as u32, checksum as u32))
        }
    }
}

impl fmt::Debug for Fix {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Fix")
            .field("source", &self.has(Self::SOURCE))
            .field("destination", &self.has(Self::DESTINATION))
            .field("arp_sender", &self.has(Self::ARP_SENDER))
            .field("sealed", &self.has(Self::SEALED))
            .field("nd", &self.nd_offsets())
            .finish()
    }
}

// Where things are in the word. The lower half and the two bits above it are an `Owner` as it lies
// in the map, so that it gets here by one load.
const KIND: u32 = 32;
const ACTION: u32 = 34;
const REASON: u32 = 37;
const SOURCE: u32 = 42;
const DESTINATION: u32 = 43;
const ARP_SENDER: u32 = 44;
const SEALED: u32 = 45;
const ND_OPTION: u32 = 46;
const ND_CHECKSUM: u32 = 55;
const OFFSET: u64 = DEPTH as u64 - 1;
const FIX: u64 = !0 << SOURCE;

const NO_REASON: u64 = (1 << (SOURCE - REASON)) - 1;

const _: () = assert!(DropReason::ALL.len() as u64 <= NO_REASON);
const _: () = assert!(DEPTH.is_power_of_two() && OFFSET < 1 << (ND_CHECKSUM - ND_OPTION));

/// A decision. To ignore one is to lose a frame or to leak it.
///
/// One number, because it crosses all the branches of an eBPF program: as a struct, every branch
/// writes every field to the stack, which was half of the program's running time.
#[must_use]
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Verdict(u64);

impl Verdict {
    const fn plain(action: Action) -> Self {
        Self((action as u64) << ACTION)
    }

    /// [`Action::Pass`].
    pub const PASS: Self = Self::plain(Action::Pass);
    /// [`Action::Wire`].
    pub const WIRE: Self = Self::plain(Action::Wire);
    /// [`Action::Route`].
    pub const ROUTE: Self = Self::plain(Action::Route);
    /// [`Action::Parent`].
    pub const PARENT: Self = Self::plain(Action::Parent);
    /// [`Action::Flood`].
    pub const FLOOD: Self = Self::plain(Action::Flood);

    /// No decision yet: [`tx`](crate::tx()) has to make it, with all of the headers out of the sender's
    /// reach. Its action is [`Action::Drop`], for no reason that there is.
    pub const DEEP: Self = Self(((Action::Drop as u64) << ACTION) | (NO_REASON << REASON));

    /// [`Action::Deliver`].
    #[inline(always)]
    pub const fn deliver(owner: Owner) -> Self {
        let owner = owner.ifindex as u64 | ((owner.kind as u64) << KIND);
        Self(owner | ((Action::Deliver as u64) << ACTION))
    }

    /// [`Action::Lease`]; from the wire to `owner`, or to nobody known yet.
    #[inline(always)]
    pub const fn lease(owner: Owner) -> Self {
        let owner = owner.ifindex as u64 | ((owner.kind as u64) << KIND);
        Self(owner | ((Action::Lease as u64) << ACTION))
    }

    /// [`Action::Drop`].
    #[inline(always)]
    pub const fn drop(reason: DropReason) -> Self {
        Self(((Action::Drop as u64) << ACTION) | ((reason as u64) << REASON))
    }

    /// The same, with `fix` to be made first; what is dropped needs none.
    #[inline(always)]
    pub const fn with(self, fix: Fix) -> Self {
        match self.action() {
            Action::Drop => self,
            _ => Self(self.0 | fix.0),
        }
    }

    /// Where to.
    #[inline(always)]
    pub const fn action(self) -> Action {
        match (self.0 >> ACTION) & 0x7 {
            0 => Action::Pass,
            1 => Action::Deliver,
            2 => Action::Wire,
            3 => Action::Route,
            4 => Action::Parent,
            5 => Action::Flood,
            7 => Action::Lease,
            _ => Action::Drop,
        }
    }

    /// Why not, as a number of [`DropReason`]; 0 unless the action is [`Action::Drop`].
    #[inline(always)]
    pub const fn reason(self) -> u32 {
        (self.0 >> REASON) as u32 & 0x1f
    }

    /// To whom; [`Owner::NOBODY`] unless the action is [`Action::Deliver`] or [`Action::Lease`].
    #[inline(always)]
    pub const fn owner(self) -> Owner {
        #[expect(
            clippy::cast_possible_truncation,
            reason = "the lower half is the index"
        )]
        Owner {
            ifindex: self.0 as u32,
            kind: (self.0 >> KIND) as u32 & 0x3,
        }
    }

    /// What to rewrite first.
    #[inline(always)]
    pub const fn fix(self) -> Fix {
        Fix(self.0 & FIX)
    }

    /// The whole of it, for a test to compare.
    #[inline(always)]
    pub const fn to_bits(self) -> u64 {
        self.0
    }

    /// The reverse of [`Self::to_bits`].
    pub const fn from_bits(bits: u64) -> Self {
        Self(bits)
    }
}

impl fmt::Debug for Verdict {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Verdict")
            .field("action", &self.action())
            .field("reason", &DropReason::from_number(self.reason()))
            .field("owner", &self.owner())
            .field("fix", &self.fix())
            .finish()
    }
}

#[cfg(test)]
mod tests {
    use ipvlan_abi::{OWNER_HERE, OWNER_PARENT};

    use super::*;

    #[test]
    fn everything_that_goes_in_comes_out() {
        for kind in 0..=OWNER_PARENT {
            let owner = Owner {
                ifindex: u32::MAX,
                kind,
            };
            let verdict = Verdict::deliver(owner).with(Fix::nd(511, 510).and(Fix::SOURCE));
            assert_eq!(verdict.action(), Action::Deliver);
            assert_eq!(verdict.owner(), owner);
            assert_eq!(verdict.reason(), 0);
            assert_eq!(verdict.fix().nd_offsets(), Some((511, 510)));
            assert!(verdict.fix().has(Fix::SOURCE));
            assert!(!verdict.fix().has(Fix::DESTINATION));
            assert!(!verdict.fix().has(Fix::ARP_SENDER));
        }
        for reason in DropReason::ALL {
            let verdict = Verdict::drop(reason);
            assert_eq!(verdict.action(), Action::Drop);
            assert_eq!(verdict.reason(), reason as u32);
            assert_eq!(verdict.owner(), Owner::NOBODY);
            assert!(verdict.fix().is_nothing());
        }
        for (verdict, action) in [
            (Verdict::PASS, Action::Pass),
            (Verdict::WIRE, Action::Wire),
            (Verdict::ROUTE, Action::Route),
            (Verdict::PARENT, Action::Parent),
            (Verdict::FLOOD, Action::Flood),
        ] {
            assert_eq!(verdict.action(), action);
            assert!(verdict.fix().is_nothing());
            assert_eq!(Verdict::from_bits(verdict.to_bits()), verdict);
        }
        assert_ne!(OWNER_HERE, OWNER_PARENT);
    }
}
