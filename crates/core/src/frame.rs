//! What a decision may read of a frame.

/// Bytes from the start of a frame that a decision may look at. Chains of headers that are longer
/// are refused, not guessed at.
pub const DEPTH: usize = 512;

/// Bytes that [`Frame::at`] has to reach: Ethernet and a plain IPv6 header, or all of ARP.
pub const SHALLOW: usize = ETHERNET + 40;

/// Bytes that [`Frame::at`] may reach: those, and what is the header of UDP.
pub const PORTS: usize = SHALLOW + 8;

/// How much of a frame [`Frame::at`] has to reach, by its EtherType in network order; `None` when
/// even that is out of reach.
///
/// No more than is looked at: the segments of an SCTP packet that is still to be cut lie one behind
/// the other, and bytes that are pulled out of the first are missing there.
#[inline(always)]
pub const fn reach(ethertype: Option<[u8; 2]>) -> usize {
    match ethertype {
        Some(bytes) if u16::from_be_bytes(bytes) == IPV4 => ETHERNET + 20,
        _ => SHALLOW,
    }
}

/// Length of an Ethernet header.
pub const ETHERNET: usize = 14;
pub(crate) const ETHERNET_BYTES: u32 = 14;

pub(crate) const IPV4: u16 = 0x0800;
pub(crate) const ARP: u16 = 0x0806;
pub(crate) const RARP: u16 = 0x8035;
pub(crate) const IPV6: u16 = 0x86dd;
pub(crate) const VLAN: u16 = 0x8100;
pub(crate) const VLAN_SERVICE: u16 = 0x88a8;
/// Service tag before it was standardised.
pub(crate) const VLAN_OLD: u16 = 0x9100;
/// PAUSE and the like (IEEE 802.3 annex 31).
pub(crate) const MAC_CONTROL: u16 = 0x8808;
/// Smaller numbers are lengths (IEEE 802.3).
pub(crate) const FIRST_ETHERTYPE: u16 = 0x0600;

/// A frame, from its Ethernet header on, with what the kernel already knows of it.
pub trait Frame {
    /// Bytes, Ethernet header included. A frame that is still to be segmented counts as one.
    fn len(&self) -> u32;

    /// Whether there is nothing.
    fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// `N` bytes at `offset`, or `None` past the end of the frame or of its first [`PORTS`] bytes, or
    /// where a datapath has not put them yet; of the first [`reach`] bytes it has. What is there is
    /// out of its sender's reach. For the headers that every frame is read for, where they always are.
    fn at<const N: usize>(&self, offset: usize) -> Option<&[u8; N]>;

    /// The 8 bytes at `offset`, the first one lowest, or `None` past the end of the frame or of its
    /// first [`DEPTH`] bytes. For what lies at a computed place: a copy, and a number, because the
    /// verifier loses its way among pointers with computed offsets.
    fn word(&self, offset: usize) -> Option<u64>;

    /// The 2 bytes at `offset`, or `None` past the end of the frame. A copy, at any depth.
    fn pair(&self, offset: usize) -> Option<[u8; 2]>;

    /// Goes through what cannot be reached in a few steps: [`Walk::round`] again and again.
    ///
    /// The verifier follows such a loop once, however many rounds it has, where it follows a plain one
    /// round by round and branch by branch.
    fn walk<W: Walk>(&self, walk: &mut W);

    /// Whether it carries a VLAN tag other than priority (VLAN 0) that hardware or the kernel took
    /// out of the bytes.
    fn is_tagged(&self) -> bool;

    /// Whether the kernel found that its destination MAC address is somebody else's
    /// (`PACKET_OTHERHOST`).
    fn is_for_another_host(&self) -> bool;

    /// Whether it is several packets in one, to be cut later (GSO).
    fn is_to_be_segmented(&self) -> bool;
}

/// A walk through a frame.
pub trait Walk: Copy {
    /// Rounds that it makes at most.
    const ROUNDS: u32;

    /// One round. False: that was the last one.
    fn round<F: Frame>(&mut self, frame: &F) -> bool;
}

/// A MAC address as two numbers, the way it is compared. Little-endian, so that the group bit is
/// the lowest.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) struct Mac {
    head: u32,
    tail: u16,
}

impl Mac {
    #[inline(always)]
    pub(crate) const fn of(bytes: &[u8; 6]) -> Self {
        let [a, b, c, d, e, f] = *bytes;
        Self {
            head: u32::from_le_bytes([a, b, c, d]),
            tail: u16::from_le_bytes([e, f]),
        }
    }

    /// Broadcast or multicast.
    #[inline(always)]
    pub(crate) const fn is_group(self) -> bool {
        self.head & 1 != 0
    }

    /// Whether it is one of those that bridges never forward: 01:80:c2:00:00:00 to :0f
    /// (IEEE 802.1Q table 8-1).
    #[inline(always)]
    pub(crate) const fn is_link_local_group(self) -> bool {
        self.head == 0x00c2_8001 && self.tail & 0xf0ff == 0
    }
}

/// An Ethernet header, read once.
#[derive(Clone, Copy)]
pub(crate) struct Ethernet {
    pub(crate) destination: Mac,
    pub(crate) source: Mac,
    pub(crate) ethertype: u16,
}

impl Ethernet {
    #[inline(always)]
    pub(crate) fn of<F: Frame>(frame: &F) -> Option<Self> {
        let bytes = frame.at::<ETHERNET>(0)?;
        let [d0, d1, d2, d3, d4, d5, s0, s1, s2, s3, s4, s5, e0, e1] = *bytes;
        Some(Self {
            destination: Mac::of(&[d0, d1, d2, d3, d4, d5]),
            source: Mac::of(&[s0, s1, s2, s3, s4, s5]),
            ethertype: u16::from_be_bytes([e0, e1]),
        })
    }
}

/// A frame in a slice of bytes, with what a kernel would know of it.
#[derive(Clone, Copy, Debug, Default)]
pub struct Bytes<'a> {
    /// From the Ethernet header on.
    pub bytes: &'a [u8],
    /// See [`Frame::is_tagged`].
    pub tagged: bool,
    /// See [`Frame::is_for_another_host`].
    pub another_host: bool,
    /// See [`Frame::is_to_be_segmented`].
    pub segmented: bool,
}

impl Frame for Bytes<'_> {
    fn len(&self) -> u32 {
        u32::try_from(self.bytes.len()).unwrap_or(u32::MAX)
    }

    fn at<const N: usize>(&self, offset: usize) -> Option<&[u8; N]> {
        let end = offset.checked_add(N)?;
        if end > PORTS {
            return None;
        }
        self.bytes.get(offset..end)?.first_chunk()
    }

    fn word(&self, offset: usize) -> Option<u64> {
        let end = offset.checked_add(8)?;
        if end > DEPTH {
            return None;
        }
        Some(u64::from_le_bytes(
            *self.bytes.get(offset..end)?.first_chunk()?,
        ))
    }

    fn pair(&self, offset: usize) -> Option<[u8; 2]> {
        let end = offset.checked_add(2)?;
        self.bytes.get(offset..end)?.first_chunk().copied()
    }

    fn walk<W: Walk>(&self, walk: &mut W) {
        let _: bool = (0..W::ROUNDS).all(|_| walk.round(self));
    }

    fn is_tagged(&self) -> bool {
        self.tagged
    }

    fn is_for_another_host(&self) -> bool {
        self.another_host
    }

    fn is_to_be_segmented(&self) -> bool {
        self.segmented
    }
}
