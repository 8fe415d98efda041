//! What a decision may read of a frame.

/// Bytes from the start of a frame that a decision may look at. Chains of headers that are longer
/// are refused, not guessed at.
pub const DEPTH: usize = 512;

/// Bytes that all but the rarest decisions need: Ethernet and a plain IPv6 header, or all of ARP.
pub const SHALLOW: usize = ETHERNET + 40;

/// Length of an Ethernet header.
pub const ETHERNET: usize = 14;
pub(crate) const ETHERNET_BYTES: u32 = 14;

pub(crate) const IPV4: u16 = 0x0800;
pub(crate) const ARP: u16 = 0x0806;
pub(crate) const RARP: u16 = 0x8035;
pub(crate) const IPV6: u16 = 0x86dd;
pub(crate) const VLAN: u16 = 0x8100;
pub(crate) const VLAN_SERVICE: u16 = 0x88a8;

/// A frame, from its Ethernet header on, with what the kernel already knows of it.
pub trait Frame {
    /// Bytes, Ethernet header included. A frame that is still to be segmented counts as one.
    fn len(&self) -> u32;

    /// Whether there is nothing.
    fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// `N` bytes at `offset`, or `None` past the end of the frame or of its first [`DEPTH`] bytes.
    fn at<const N: usize>(&self, offset: usize) -> Option<&[u8; N]>;

    /// Whether it carries a VLAN tag other than priority (VLAN 0) that hardware or the kernel took
    /// out of the bytes.
    fn is_tagged(&self) -> bool;

    /// Whether the kernel found that its destination MAC address is somebody else's
    /// (`PACKET_OTHERHOST`).
    fn is_for_another_host(&self) -> bool;

    /// Whether it is several packets in one, to be cut later (GSO).
    fn is_to_be_segmented(&self) -> bool;
}

/// Bytes that the decision on this frame may have to read, at most. A datapath whose frames can
/// lie in pieces makes that many of them readable before it asks.
///
/// Anything but a plain TCP or UDP packet over IPv6 may turn out to be neighbour discovery.
#[inline(always)]
pub fn depth<F: Frame>(frame: &F) -> usize {
    match (ethertype(frame), frame.at::<1>(ETHERNET + 6)) {
        (IPV6, Some([TCP | UDP])) => SHALLOW,
        (IPV6, _) => DEPTH,
        _ => SHALLOW,
    }
}

const TCP: u8 = 6;
const UDP: u8 = 17;

#[inline(always)]
pub(crate) fn ethertype<F: Frame>(frame: &F) -> u16 {
    match frame.at::<2>(12) {
        Some(bytes) => u16::from_be_bytes(*bytes),
        None => 0,
    }
}

/// Whether the address is one of those that bridges never forward (IEEE 802.1Q table 8-1).
#[inline(always)]
pub(crate) fn is_link_local_group(mac: &[u8; 6]) -> bool {
    mac[0] == 0x01
        && mac[1] == 0x80
        && mac[2] == 0xc2
        && mac[3] == 0
        && mac[4] == 0
        && mac[5] & 0xf0 == 0
}

/// Compares as two words, which is what the eBPF compiler makes of it anyway, but in one go.
#[inline(always)]
pub(crate) fn same_mac(a: &[u8; 6], b: &[u8; 6]) -> bool {
    let [a0, a1, a2, a3, a4, a5] = *a;
    let [b0, b1, b2, b3, b4, b5] = *b;
    u32::from_ne_bytes([a0, a1, a2, a3]) == u32::from_ne_bytes([b0, b1, b2, b3])
        && u16::from_ne_bytes([a4, a5]) == u16::from_ne_bytes([b4, b5])
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
        if end > DEPTH {
            return None;
        }
        self.bytes.get(offset..end)?.first_chunk()
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
