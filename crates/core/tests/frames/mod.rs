//! A port, a table and frames to try the decisions on.
//!
//! The cast: a parent, a device that sends, a sibling in another namespace, a sibling that was not
//! moved yet, a host on the LAN. Each has an IPv4 and an IPv6 address; a MAC address of their own
//! have the parent and the LAN only. On a port with prefixes, what is around the LAN's address is the
//! sibling's, and of that a part belongs to the one that was not moved yet.
#![allow(
    dead_code,
    reason = "compiled into each test file; none of them needs all of it"
)]

use ipvlan_abi::{
    ABI_VERSION, DropReason, Flag, Mode, OWNER_HERE, OWNER_OUTSIDE, OWNER_PARENT, OWNER_PEER,
    Owner, PORT_PREFIXES, PORT_ROUTED, PortEntry, identity_of,
};
use ipvlan_core::frame::Bytes;
use ipvlan_core::{Action, Fix, Owners, Verdict, rx, tx};

pub(crate) type Mac = [u8; 6];
pub(crate) type V4 = [u8; 4];
pub(crate) type V6 = [u8; 16];

/// The parent's, and so everybody's.
pub(crate) const OWN: Mac = [0x02, 0, 0, 0, 0x0a, 0x01];
/// A host's at the other end of the wire.
pub(crate) const LAN: Mac = [0x02, 0, 0, 0, 0xff, 0xfe];
/// What a hostile namespace writes.
pub(crate) const FOREIGN: Mac = [0x0e, 0xba, 0xdb, 0xad, 0xba, 0xd0];
pub(crate) const BROADCAST: Mac = [0xff; 6];
pub(crate) const MDNS: Mac = [0x01, 0, 0x5e, 0, 0, 0xfb];
pub(crate) const ALL_NODES: Mac = [0x33, 0x33, 0, 0, 0, 1];

pub(crate) const PARENT: u32 = 2;
pub(crate) const SENDER: u32 = 10;
pub(crate) const SIBLING: u32 = 11;
pub(crate) const HERE: u32 = 12;

pub(crate) const PARENT4: V4 = [10, 0, 0, 1];
pub(crate) const SENDER4: V4 = [10, 0, 0, 11];
pub(crate) const SIBLING4: V4 = [10, 0, 0, 12];
pub(crate) const HERE4: V4 = [10, 0, 0, 13];
pub(crate) const LAN4: V4 = [10, 0, 0, 254];
/// In 10.9.0.0/16, the sibling's.
pub(crate) const BEHIND_SIBLING4: V4 = [10, 9, 0, 77];
/// In 10.9.1.0/24, of the one that is here.
pub(crate) const BEHIND_HERE4: V4 = [10, 9, 1, 77];
/// A router in the sibling's prefix.
pub(crate) const ROUTER4: V4 = [10, 9, 0, 254];

pub(crate) const PARENT6: V6 = v6(1);
pub(crate) const SENDER6: V6 = v6(11);
pub(crate) const SIBLING6: V6 = v6(12);
pub(crate) const HERE6: V6 = v6(13);
pub(crate) const LAN6: V6 = v6(254);
/// As those of IPv4, in fd09::/32 and fd09:0:1::/48.
pub(crate) const BEHIND_SIBLING6: V6 = behind(0, 77);
pub(crate) const BEHIND_HERE6: V6 = behind(1, 77);
pub(crate) const ROUTER6: V6 = behind(0, 254);
pub(crate) const ALL_NODES6: V6 = [0xff, 2, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1];

pub(crate) const fn v6(last: u8) -> V6 {
    [0xfd, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, last]
}

const fn behind(net: u8, last: u8) -> V6 {
    [0xfd, 9, 0, 0, 0, net, 0, 0, 0, 0, 0, 0, 0, 0, 0, last]
}

pub(crate) const IPV4: u16 = 0x0800;
pub(crate) const ARP: u16 = 0x0806;
pub(crate) const RARP: u16 = 0x8035;
pub(crate) const VLAN: u16 = 0x8100;
pub(crate) const IPV6: u16 = 0x86dd;
pub(crate) const PAUSE: u16 = 0x8808;
pub(crate) const SERVICE_VLAN: u16 = 0x88a8;
pub(crate) const OLD_VLAN: u16 = 0x9100;
/// IEEE 802 local experimental EtherType 1.
pub(crate) const EXPERIMENT: u16 = 0x88b5;

pub(crate) const MODES: [Mode; 3] = [Mode::L2, Mode::L3, Mode::L3s];
pub(crate) const FLAGS: [Flag; 3] = [Flag::Bridge, Flag::Private, Flag::Vepa];

pub(crate) const REQUEST: u16 = 1;
pub(crate) const REPLY: u16 = 2;

/// Who owns what.
pub(crate) struct Table;

impl Owners for Table {
    fn v4(&self, address: &V4) -> Owner {
        match *address {
            PARENT4 => owner(PARENT),
            SENDER4 => owner(SENDER),
            SIBLING4 => owner(SIBLING),
            HERE4 => owner(HERE),
            ROUTER4 => ROUTER,
            _ => Owner::NOBODY,
        }
    }

    fn v6(&self, address: &V6) -> Owner {
        match *address {
            PARENT6 => owner(PARENT),
            SENDER6 => owner(SENDER),
            SIBLING6 => owner(SIBLING),
            HERE6 => owner(HERE),
            ROUTER6 => ROUTER,
            _ => Owner::NOBODY,
        }
    }

    fn v4_prefix(&self, address: &V4) -> Owner {
        match *address {
            [10, 9, 1, _] => owner(HERE),
            [10, 9, ..] => owner(SIBLING),
            _ => Owner::NOBODY,
        }
    }

    fn v6_prefix(&self, address: &V6) -> Owner {
        match *address {
            [0xfd, 9, 0, 0, 0, 1, ..] => owner(HERE),
            [0xfd, 9, 0, 0, ..] => owner(SIBLING),
            _ => Owner::NOBODY,
        }
    }
}

const ROUTER: Owner = Owner {
    ifindex: PARENT,
    kind: OWNER_OUTSIDE,
};

pub(crate) fn owner(ifindex: u32) -> Owner {
    let kind = match ifindex {
        PARENT => OWNER_PARENT,
        HERE => OWNER_HERE,
        _ => OWNER_PEER,
    };
    Owner { ifindex, kind }
}

pub(crate) fn to(ifindex: u32) -> Verdict {
    Verdict::deliver(owner(ifindex))
}

pub(crate) fn dropped(reason: DropReason) -> Verdict {
    Verdict::drop(reason)
}

/// With the demand that nothing be written into the frame later: what ARP and ND leave with.
pub(crate) fn sealed(verdict: Verdict) -> Verdict {
    verdict.with(Fix::SEALED)
}

/// Whether the frame is right as it is.
pub(crate) fn is_right(verdict: Verdict) -> bool {
    verdict.fix().is_nothing() || verdict.fix() == Fix::SEALED
}

/// Compares two verdicts. What is written into a frame before it is dropped is a question of its
/// own (`what_is_dropped_is_not_rewritten_first`).
#[track_caller]
pub(crate) fn expect_verdict(what: &str, found: Verdict, expected: Verdict) {
    match (reason(found), reason(expected)) {
        (None, None) => assert_eq!(found, expected, "{what}"),
        (found, expected) => assert_eq!(found, expected, "{what}"),
    }
}

/// The reason of a drop, whatever else the verdict says.
pub(crate) fn reason(verdict: Verdict) -> Option<DropReason> {
    match verdict.action() {
        Action::Drop => DropReason::from_number(verdict.reason()),
        _ => None,
    }
}

pub(crate) fn port(mode: Mode, flag: Flag) -> PortEntry {
    PortEntry {
        abi: ABI_VERSION,
        ifindex: PARENT,
        members: 3,
        mtu: 1500,
        mac: OWN,
        mode: mode as u8,
        flag: flag as u8,
        bits: PORT_ROUTED,
        identity: identity_of(OWN),
    }
}

/// The same where some device has a prefix.
pub(crate) fn port_with_prefixes(mode: Mode, flag: Flag) -> PortEntry {
    PortEntry {
        bits: PORT_ROUTED | PORT_PREFIXES,
        ..port(mode, flag)
    }
}

pub(crate) fn plain(bytes: &[u8]) -> Bytes<'_> {
    Bytes {
        bytes,
        ..Bytes::default()
    }
}

/// What becomes of a frame that the sender sent.
pub(crate) fn sent(mode: Mode, flag: Flag, bytes: &[u8]) -> Verdict {
    tx(&port(mode, flag), SENDER, &plain(bytes), &Table)
}

/// What becomes of a frame from the wire.
pub(crate) fn received(mode: Mode, flag: Flag, bytes: &[u8]) -> Verdict {
    rx(&port(mode, flag), &plain(bytes), &Table)
}

fn short(number: usize) -> [u8; 2] {
    u16::try_from(number).unwrap_or(u16::MAX).to_be_bytes()
}

pub(crate) fn ethernet(to: Mac, from: Mac, ethertype: u16, payload: &[u8]) -> Vec<u8> {
    [&to[..], &from, &ethertype.to_be_bytes(), payload].concat()
}

/// An IPv4 packet of UDP's protocol number.
pub(crate) fn ipv4(from: V4, to: V4, payload: &[u8]) -> Vec<u8> {
    ipv4_with(0x45, 20 + payload.len(), from, to, payload)
}

/// An IPv4 packet with a first byte and a total length of one's own.
pub(crate) fn ipv4_with(first: u8, total: usize, from: V4, to: V4, payload: &[u8]) -> Vec<u8> {
    let [high, low] = short(total);
    let head = [first, 0, high, low, 0, 0, 0, 0, 1, 17, 0, 0];
    [&head[..], &from, &to, payload].concat()
}

/// An IPv6 packet whose payload begins with a header of this number.
pub(crate) fn ipv6(next: u8, from: V6, to: V6, payload: &[u8]) -> Vec<u8> {
    ipv6_with(payload.len(), next, from, to, payload)
}

/// An IPv6 packet with a payload length of one's own.
pub(crate) fn ipv6_with(length: usize, next: u8, from: V6, to: V6, payload: &[u8]) -> Vec<u8> {
    let [high, low] = short(length);
    let head = [0x60, 0, 0, 0, high, low, next, 255];
    [&head[..], &from, &to, payload].concat()
}

pub(crate) fn arp(operation: u16, hardware: Mac, sender: V4, target: V4) -> Vec<u8> {
    let head = [0, 1, 0x08, 0, 6, 4];
    [
        &head[..],
        &operation.to_be_bytes(),
        &hardware,
        &sender,
        &[0; 6],
        &target,
    ]
    .concat()
}

/// ARP to everybody, with the Ethernet source as its sender.
pub(crate) fn arp_broadcast(operation: u16, from: Mac, sender: V4, target: V4) -> Vec<u8> {
    ethernet(BROADCAST, from, ARP, &arp(operation, from, sender, target))
}

/// A UDP packet in an Ethernet frame, over IPv4.
pub(crate) fn udp4(to_mac: Mac, from_mac: Mac, from: V4, to: V4) -> Vec<u8> {
    ethernet(to_mac, from_mac, IPV4, &ipv4(from, to, b"12345678"))
}

/// The same over IPv6.
pub(crate) fn udp6(to_mac: Mac, from_mac: Mac, from: V6, to: V6) -> Vec<u8> {
    ethernet(to_mac, from_mac, IPV6, &ipv6(17, from, to, b"12345678"))
}

pub(crate) const SOLICITATION: u8 = 135;
pub(crate) const ADVERTISEMENT: u8 = 136;

/// An ICMPv6 neighbour solicitation or advertisement, without its options and checksum.
pub(crate) fn neighbour(kind: u8, target: V6, options: &[u8]) -> Vec<u8> {
    [&[kind, 0, 0, 0, 0, 0, 0, 0][..], &target, options].concat()
}

/// An ND option with an Ethernet address: source (1) or target (2).
pub(crate) fn link_layer(kind: u8, mac: Mac) -> Vec<u8> {
    [&[kind, 1][..], &mac].concat()
}

/// The multicast group that listens for an address, and its MAC address.
pub(crate) fn solicited_node(address: V6) -> (V6, Mac) {
    let [.., x, y, z] = address;
    (
        [0xff, 2, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1, 0xff, x, y, z],
        [0x33, 0x33, 0xff, x, y, z],
    )
}

/// Who has `target`? From an address, or from `::` to find out whether anybody has it.
pub(crate) fn solicitation(from_mac: Mac, from: V6, target: V6) -> Vec<u8> {
    let (group, mac) = solicited_node(target);
    let message = neighbour(SOLICITATION, target, &link_layer(1, from_mac));
    ethernet(mac, from_mac, IPV6, &ipv6(58, from, group, &message))
}

/// I have it, said to everybody.
pub(crate) fn advertisement(from_mac: Mac, from: V6) -> Vec<u8> {
    let message = neighbour(ADVERTISEMENT, from, &link_layer(2, from_mac));
    ethernet(
        ALL_NODES,
        from_mac,
        IPV6,
        &ipv6(58, from, ALL_NODES6, &message),
    )
}

/// Makes the changes that a verdict asks for, as a datapath does.
pub(crate) fn apply(verdict: Verdict, mac: Mac, bytes: &mut [u8]) {
    let fix = verdict.fix();
    if fix.has(Fix::DESTINATION) {
        bytes[..6].copy_from_slice(&mac);
    }
    if fix.has(Fix::SOURCE) {
        bytes[6..12].copy_from_slice(&mac);
    }
    if fix.has(Fix::ARP_SENDER) {
        bytes[22..28].copy_from_slice(&mac);
    }
    if let Some((option, checksum)) = fix.nd_offsets() {
        let (option, checksum) = (option as usize, checksum as usize);
        let old = sum(&bytes[option..option + 6]);
        bytes[option..option + 6].copy_from_slice(&mac);
        let new = sum(&bytes[option..option + 6]);
        // RFC 1624: HC' = ~(~HC + ~m + m').
        let now = u64::from(!u16::from_be_bytes([bytes[checksum], bytes[checksum + 1]]));
        let then = !fold(now + u64::from(!fold(old)) + new);
        bytes[checksum..checksum + 2].copy_from_slice(&then.to_be_bytes());
    }
}

/// Sum of 16-bit words. RFC 1071.
pub(crate) fn sum(bytes: &[u8]) -> u64 {
    bytes
        .chunks(2)
        .map(|pair| u64::from(pair[0]) << 8 | pair.get(1).copied().map_or(0, u64::from))
        .sum()
}

pub(crate) fn fold(mut sum: u64) -> u16 {
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    u16::try_from(sum).unwrap_or(u16::MAX)
}

/// Every MAC address that a frame shows as its sender's: the Ethernet source, the ARP sender, ND
/// link-layer options. Written from the RFCs and from what lenient receivers do, and from nothing
/// in the crate: there is no limit on headers, options or depth here.
pub(crate) fn macs_shown(frame: &[u8]) -> Vec<Mac> {
    let mut macs = Vec::new();
    let mut see = |bytes: &[u8], at: usize| {
        if let Some(mac) = bytes.get(at..).and_then(<[u8]>::first_chunk) {
            macs.push(*mac);
        }
    };
    see(frame, 6);
    let (Some([high, low]), Some(packet)) = (
        frame.get(12..).and_then(<[u8]>::first_chunk),
        frame.get(14..),
    ) else {
        return macs;
    };
    match u16::from_be_bytes([*high, *low]) {
        ARP => see(packet, 8),
        IPV6 if packet.len() >= 40 && packet[0] >> 4 == 6 => {
            let claimed = usize::from(packet[4]) << 8 | usize::from(packet[5]);
            let mut body = &packet[40..];
            if claimed != 0 && claimed < body.len() {
                body = &body[..claimed];
            }
            if let Some(message) = icmpv6(packet[6], body) {
                for option in nd_options(message) {
                    if matches!(option[0], 1 | 2) {
                        see(option, 2);
                    }
                }
            }
        }
        _ => {}
    }
    macs
}

/// What is behind all extension headers, if that is ICMPv6.
fn icmpv6(mut next: u8, mut body: &[u8]) -> Option<&[u8]> {
    loop {
        let length = match (next, body.get(1)) {
            (58, _) => return Some(body),
            (0 | 43 | 60 | 135 | 139 | 140, Some(eights)) => 8 + 8 * usize::from(*eights),
            (51, Some(fours)) => 8 + 4 * usize::from(*fours),
            (44, _) if body.get(2) == Some(&0) && *body.get(3)? < 8 => 8,
            _ => return None,
        };
        next = body[0];
        body = body.get(length..)?;
    }
}

/// The options of an ND message, each as long as it says or as there is.
fn nd_options(message: &[u8]) -> Vec<&[u8]> {
    let fixed = match message.first() {
        Some(133 | 141 | 142) => 8,
        Some(134) => 16,
        Some(135 | 136) => 24,
        Some(137) => 40,
        _ => return Vec::new(),
    };
    let mut rest = message.get(fixed..).unwrap_or_default();
    let mut options = Vec::new();
    while let [_, length, ..] = rest {
        let length = usize::from(*length) * 8;
        if length == 0 {
            break;
        }
        let (option, behind) = rest.split_at(length.min(rest.len()));
        options.push(option);
        rest = behind;
    }
    options
}
