//! Every way a frame can die, numbered.

/// Why a frame was not delivered.
///
/// The numbers are ABI and documentation: append, never renumber. The kernel driver has three
/// counters for all of this (`rx_errs`, `tx_drps`, the master's `tx_errors`).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[repr(u8)]
pub enum DropReason {
    /// Not dropped. Never counted.
    None = 0,
    /// The device sent less than an Ethernet header.
    Runt = 1,
    /// The device sent a VLAN tag. The driver's devices are "VLAN challenged": the tag would carry
    /// the device into a network that its parent's owner did not give it.
    Vlan = 2,
    /// The device sent to one of the addresses that bridges keep to themselves
    /// (01:80:c2:00:00:00 to :0f: spanning tree, PAUSE, LACP, LLDP; IEEE 802.1Q table 8-1), or MAC
    /// control frames to any address.
    LinkLocalGroup = 3,
    /// The device sent ARP that is not Ethernet and IPv4, or is cut short, so that its sender
    /// field cannot be checked (RFC 826).
    ArpMalformed = 4,
    /// The device sent RARP, which has no other use than to announce a MAC address (RFC 903).
    Rarp = 5,
    /// The device sent an ND message with a link-layer option of a wrong length, more than one
    /// of them, more options than we read, or in a fragment (RFC 4861, RFC 6980).
    NdMalformed = 6,
    /// The device sent more IPv6 extension headers than we read, so what is behind them could be
    /// an ND message.
    ExtensionHeaders = 7,
    /// Sibling traffic on a port in private mode.
    Private = 8,
    /// L3 modes carry IP only; this was ARP, neighbour discovery or another EtherType.
    NotIp = 9,
    /// L3 modes carry no broadcast and no multicast.
    Group = 10,
    /// Longer than the parent's MTU allows, and not to be segmented.
    TooBig = 11,
    /// The IP header is cut short or contradicts itself, so there is nothing to route by.
    IpMalformed = 12,
    /// The sending host end has no port: its device is being created or deleted.
    NoPort = 13,
    /// A copy of a broadcast could not be made, for want of memory or of queue.
    Copy = 14,
    /// A frame with a foreign MAC address could not be rewritten, for want of memory.
    Rewrite = 15,
    /// The device sent an IEEE 802.3 length instead of an EtherType. What follows, LLC or SNAP, can
    /// carry ARP where nobody looks for it (RFC 1042).
    Llc = 16,
    /// The device sent ARP or ND with a checksum that is still to be written. It would be written
    /// behind us, over the MAC address that we looked at.
    ChecksumPending = 17,
    /// Broadcast or multicast beyond the sender's rate ([`FLOOD_RATE`](crate::FLOOD_RATE)): no
    /// copies were made for the devices. The frame itself went on, to the wire or to the parent's
    /// stack.
    Flood = 18,
    /// The parent's namespace does not forward for devices (l3s): the parent is on its way to another
    /// namespace, or nobody has seen to the port since its mode was changed.
    NotRouted = 19,
    /// The device sent DHCP in a form in which it could take another's identity past us: in
    /// fragments, behind IP options or extension headers, as a relay, with overloaded options or two
    /// identifiers.
    Dhcp = 20,
    /// The device sent a DHCP server's message to a sibling.
    DhcpServer = 21,
    /// The host's own stack had something to say to all behind a tap, where it has no business: that
    /// it is a router and listens to routers' groups, for instance.
    HostStack = 22,
}

impl DropReason {
    /// All of them, by number.
    pub const ALL: [Self; 23] = [
        Self::None,
        Self::Runt,
        Self::Vlan,
        Self::LinkLocalGroup,
        Self::ArpMalformed,
        Self::Rarp,
        Self::NdMalformed,
        Self::ExtensionHeaders,
        Self::Private,
        Self::NotIp,
        Self::Group,
        Self::TooBig,
        Self::IpMalformed,
        Self::NoPort,
        Self::Copy,
        Self::Rewrite,
        Self::Llc,
        Self::ChecksumPending,
        Self::Flood,
        Self::NotRouted,
        Self::Dhcp,
        Self::DhcpServer,
        Self::HostStack,
    ];

    /// The word for counters, JSON keys and documentation.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::None => "none",
            Self::Runt => "runt",
            Self::Vlan => "vlan",
            Self::LinkLocalGroup => "link_local_group",
            Self::ArpMalformed => "arp_malformed",
            Self::Rarp => "rarp",
            Self::NdMalformed => "nd_malformed",
            Self::ExtensionHeaders => "extension_headers",
            Self::Private => "private",
            Self::NotIp => "not_ip",
            Self::Group => "group",
            Self::TooBig => "too_big",
            Self::IpMalformed => "ip_malformed",
            Self::NoPort => "no_port",
            Self::Copy => "copy",
            Self::Rewrite => "rewrite",
            Self::Llc => "llc",
            Self::ChecksumPending => "checksum_pending",
            Self::Flood => "flood",
            Self::NotRouted => "not_routed",
            Self::Dhcp => "dhcp",
            Self::DhcpServer => "dhcp_server",
            Self::HostStack => "host_stack",
        }
    }

    /// The reason with this number, or `None` of a newer datapath's.
    pub fn from_number(number: u32) -> Option<Self> {
        usize::try_from(number)
            .ok()
            .and_then(|index| Self::ALL.get(index).copied())
    }
}

/// Key of the drop counters.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(C)]
pub struct DropKey {
    /// The host end on which the frame came, or the parent.
    pub ifindex: u32,
    /// A [`DropReason`].
    pub reason: u32,
}

const _: () = assert!(size_of::<DropKey>() == 8);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_index_the_list() {
        for (number, reason) in (0u32..).zip(DropReason::ALL) {
            assert_eq!(reason as u32, number);
            assert_eq!(DropReason::from_number(number), Some(reason));
        }
        assert_eq!(DropReason::from_number(23), None);
    }
}
