//! What becomes of a frame.

use ipvlan_abi::{DropReason, Owner};

/// Where a frame goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Action {
    /// To the stack of the device on which it came, untouched. Only the parent's hook says so.
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
}

/// What to write into the frame before it goes on, so that no MAC address but the parent's is
/// seen. Each field 0: nothing to do.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Fix {
    /// Not 0: the Ethernet source becomes the parent's address.
    pub source: u8,
    /// Not 0: the Ethernet destination becomes the parent's address (l3 only, where what the
    /// device wrote there means nothing).
    pub destination: u8,
    /// Not 0: the ARP sender's hardware address becomes the parent's.
    pub arp_sender: u8,
    /// Explicit, and always 0: the verifier wants no undefined bytes.
    pub unused: u8,
    /// Offset of the address in an ND link-layer option that becomes the parent's, in bytes from
    /// the start of the frame.
    pub nd_option: u16,
    /// With `nd_option`: offset of the ICMPv6 checksum that has to follow.
    pub nd_checksum: u16,
}

impl Fix {
    /// Leaves the frame alone.
    pub const NOTHING: Self = Self {
        source: 0,
        destination: 0,
        arp_sender: 0,
        unused: 0,
        nd_option: 0,
        nd_checksum: 0,
    };

    /// Whether there is nothing to write.
    pub const fn is_nothing(&self) -> bool {
        self.source == 0 && self.destination == 0 && self.arp_sender == 0 && self.nd_option == 0
    }
}

/// A decision. To ignore one is to lose a frame or to leak it.
#[must_use]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Verdict {
    /// Where to.
    pub action: Action,
    /// Why not; [`DropReason::None`] unless the action is [`Action::Drop`].
    pub reason: DropReason,
    /// To whom; [`Owner::NOBODY`] unless the action is [`Action::Deliver`].
    pub owner: Owner,
    /// What to rewrite first.
    pub fix: Fix,
}

impl Verdict {
    const fn plain(action: Action) -> Self {
        Self { action, reason: DropReason::None, owner: Owner::NOBODY, fix: Fix::NOTHING }
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

    /// [`Action::Deliver`].
    pub const fn deliver(owner: Owner) -> Self {
        Self { action: Action::Deliver, reason: DropReason::None, owner, fix: Fix::NOTHING }
    }

    /// [`Action::Drop`].
    pub const fn drop(reason: DropReason) -> Self {
        Self { action: Action::Drop, reason, owner: Owner::NOBODY, fix: Fix::NOTHING }
    }

    /// The same, with `fix` to be made first.
    pub const fn with(self, fix: Fix) -> Self {
        Self { fix, ..self }
    }
}
