//! Frames, byte by byte, with checksums that are right unless a test wants them wrong.

use std::net::{Ipv4Addr, Ipv6Addr};

/// A MAC address.
pub type Mac = [u8; 6];

/// To all.
pub const BROADCAST: Mac = [0xff; 6];
/// An address that nobody here has. Wherever it is seen, somebody forged it: `02:66:6f:72:67:65`.
pub const FORGED: Mac = *b"\x02forge";

/// All nodes on the link, RFC 4291.
pub const ALL_NODES: Ipv6Addr = Ipv6Addr::new(0xff02, 0, 0, 0, 0, 0, 0, 1);

/// EtherTypes.
pub mod ethertype {
    /// IPv4.
    pub const IPV4: u16 = 0x0800;
    /// ARP.
    pub const ARP: u16 = 0x0806;
    /// RARP.
    pub const RARP: u16 = 0x8035;
    /// IPv6.
    pub const IPV6: u16 = 0x86dd;
    /// 802.1Q.
    pub const VLAN: u16 = 0x8100;
    /// For local experiments; nobody's.
    pub const EXPERIMENT: u16 = 0x88b5;
}

/// IP protocol numbers and IPv6 next headers.
pub mod next {
    /// UDP.
    pub const UDP: u8 = 17;
    /// ICMPv6.
    pub const ICMPV6: u8 = 58;
    /// Hop-by-hop options.
    pub const HOP_BY_HOP: u8 = 0;
    /// Routing header.
    pub const ROUTING: u8 = 43;
    /// Fragment header.
    pub const FRAGMENT: u8 = 44;
    /// Destination options.
    pub const DESTINATION: u8 = 60;
}

/// A MAC address, as written.
pub fn mac(text: &str) -> Mac {
    let mut out = [0; 6];
    for (byte, part) in out.iter_mut().zip(text.split(':')) {
        *byte = u8::from_str_radix(part, 16).expect("a MAC address");
    }
    out
}

/// As `ip` and `tcpdump` write it.
pub fn mac_text(mac: Mac) -> String {
    mac.map(|byte| format!("{byte:02x}")).join(":")
}

/// An Ethernet frame, padded to nothing.
pub fn ethernet(destination: Mac, source: Mac, kind: u16, payload: &[u8]) -> Vec<u8> {
    [&destination[..], &source, &kind.to_be_bytes(), payload].concat()
}

/// The payload of an ARP frame.
pub fn arp(operation: u16, sender: (Mac, Ipv4Addr), target: (Mac, Ipv4Addr)) -> Vec<u8> {
    let mut out = vec![0, 1, 8, 0, 6, 4];
    out.extend(operation.to_be_bytes());
    out.extend(sender.0);
    out.extend(sender.1.octets());
    out.extend(target.0);
    out.extend(target.1.octets());
    out
}

/// The Internet checksum. RFC 1071.
pub fn checksum(parts: &[&[u8]]) -> [u8; 2] {
    let bytes = parts.concat();
    let mut sum = 0u32;
    for pair in bytes.chunks(2) {
        let low = pair.get(1).copied().unwrap_or(0);
        sum += u32::from(u16::from_be_bytes([pair[0], low]));
    }
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    let folded = u16::try_from(sum).expect("folded");
    (!folded).to_be_bytes()
}

/// An IPv4 packet without options.
pub fn ipv4(source: Ipv4Addr, destination: Ipv4Addr, protocol: u8, payload: &[u8]) -> Vec<u8> {
    let total = u16::try_from(20 + payload.len()).expect("a packet");
    let mut head = vec![0x45, 0];
    head.extend(total.to_be_bytes());
    head.extend([0, 0, 0, 0, 64, protocol, 0, 0]);
    head.extend(source.octets());
    head.extend(destination.octets());
    let sum = checksum(&[&head]);
    head[10..12].copy_from_slice(&sum);
    head.extend(payload);
    head
}

/// A UDP datagram in an IPv4 packet.
pub fn udp4(source: Ipv4Addr, destination: Ipv4Addr, port: u16, data: &[u8]) -> Vec<u8> {
    let pseudo = [&source.octets()[..], &destination.octets()].concat();
    ipv4(source, destination, next::UDP, &udp(&pseudo, port, data))
}

/// A UDP datagram in an IPv6 packet.
pub fn udp6(source: Ipv6Addr, destination: Ipv6Addr, port: u16, data: &[u8]) -> Vec<u8> {
    let pseudo = [source.octets(), destination.octets()].concat();
    ipv6(source, destination, next::UDP, &udp(&pseudo, port, data))
}

fn udp(pseudo: &[u8], port: u16, data: &[u8]) -> Vec<u8> {
    let length = u16::try_from(8 + data.len())
        .expect("a datagram")
        .to_be_bytes();
    let mut out = Vec::new();
    out.extend(port.to_be_bytes());
    out.extend(port.to_be_bytes());
    out.extend(length);
    out.extend([0, 0]);
    out.extend(data);
    let sum = checksum(&[pseudo, &[0, next::UDP], &length, &out]);
    out[6..8].copy_from_slice(&sum);
    out
}

/// An IPv6 packet. Hop limit 255, as ND wants it.
pub fn ipv6(source: Ipv6Addr, destination: Ipv6Addr, next: u8, payload: &[u8]) -> Vec<u8> {
    let mut out = vec![0x60, 0, 0, 0];
    out.extend(
        u16::try_from(payload.len())
            .expect("a packet")
            .to_be_bytes(),
    );
    out.extend([next, 255]);
    out.extend(source.octets());
    out.extend(destination.octets());
    out.extend(payload);
    out
}

/// An ICMPv6 message with its checksum.
pub fn icmpv6(source: Ipv6Addr, destination: Ipv6Addr, kind: u8, body: &[u8]) -> Vec<u8> {
    let mut out = vec![kind, 0, 0, 0];
    out.extend(body);
    let length = u32::try_from(out.len()).expect("a message").to_be_bytes();
    let pseudo = [source.octets(), destination.octets()].concat();
    let sum = checksum(&[&pseudo, &length, &[0, 0, 0, next::ICMPV6], &out]);
    out[2..4].copy_from_slice(&sum);
    out
}

/// Whether the ICMPv6 message at `at` of an Ethernet frame with IPv6 in it has the right checksum.
pub fn icmpv6_is_right(frame: &[u8], at: usize) -> bool {
    let length = usize::from(u16::from_be_bytes([frame[18], frame[19]]));
    let Some(message) = frame.get(at..54 + length) else {
        return false;
    };
    let size = u32::try_from(message.len())
        .expect("a message")
        .to_be_bytes();
    checksum(&[&frame[22..54], &size, &[0, 0, 0, next::ICMPV6], message]) == [0, 0]
}

/// Messages of neighbour discovery, RFC 4861, and where in them the options start.
pub mod nd {
    use std::net::Ipv6Addr;

    use super::Mac;

    /// Router solicitation.
    pub const RS: u8 = 133;
    /// Router advertisement.
    pub const RA: u8 = 134;
    /// Neighbour solicitation.
    pub const NS: u8 = 135;
    /// Neighbour advertisement.
    pub const NA: u8 = 136;
    /// Redirect.
    pub const REDIRECT: u8 = 137;
    /// Inverse solicitation, RFC 3122.
    pub const INVERSE: u8 = 141;

    /// Source link-layer address option.
    pub const SOURCE: u8 = 1;
    /// Target link-layer address option.
    pub const TARGET: u8 = 2;

    /// What stands between the checksum and the options of a message about `target`.
    pub fn body(kind: u8, target: Ipv6Addr, options: &[u8]) -> Vec<u8> {
        let mut out = match kind {
            RA => vec![64, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0],
            // Solicited and override.
            NA => vec![0x60, 0, 0, 0],
            _ => vec![0, 0, 0, 0],
        };
        if matches!(kind, NS | NA | REDIRECT) {
            out.extend(target.octets());
        }
        if kind == REDIRECT {
            out.extend(target.octets());
        }
        out.extend(options);
        out
    }

    /// A link-layer option.
    pub fn option(kind: u8, mac: Mac) -> Vec<u8> {
        [&[kind, 1][..], &mac].concat()
    }

    /// The group to which a solicitation for `target` goes.
    pub fn solicited_node(target: Ipv6Addr) -> Ipv6Addr {
        let [.., a, b, c] = target.octets();
        Ipv6Addr::from([0xff, 2, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1, 0xff, a, b, c])
    }

    /// The Ethernet address of an IPv6 group.
    pub fn group_mac(group: Ipv6Addr) -> Mac {
        let [.., a, b, c, d] = group.octets();
        [0x33, 0x33, a, b, c, d]
    }
}

/// An extension header with nothing but padding in it, `units` × 8 bytes long.
pub fn padding_header(next: u8, units: u8) -> Vec<u8> {
    let mut out = vec![next, units - 1];
    let mut left = usize::from(units) * 8 - 2;
    // PadN holds 255 bytes at most.
    while left > 0 {
        let data = left.saturating_sub(2).min(200);
        out.extend([1, u8::try_from(data).expect("at most 200")]);
        out.extend(std::iter::repeat_n(0, data));
        left -= data + 2;
    }
    out
}

/// A fragment header.
pub fn fragment_header(next: u8, offset: u16, more: bool) -> Vec<u8> {
    let field = offset & 0xfff8 | u16::from(more);
    [&[next, 0][..], &field.to_be_bytes(), &[0, 0, 0x12, 0x34]].concat()
}
