//! What is sent says for whom it is, and frames are read for what they say.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use ipvlan_tests::Seen;
use ipvlan_tests::packet::{Mac, ethertype, nd, next};
use ipvlan_tests::places::is_complaint;

/// How long a payload is on the wire.
pub(crate) const LEN: usize = 8 + 1 + 8 + 16 + 16;

const MAGIC: [u8; 8] = *b"ipvlSOAK";

/// What it is sent by, and whether it is an answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Kind {
    Udp,
    UdpAnswer,
    Tcp,
    TcpAnswer,
    /// The kernel's answer has the same bytes.
    Icmp,
    Broadcast,
}

impl Kind {
    const ALL: [Self; 6] = [
        Self::Udp,
        Self::UdpAnswer,
        Self::Tcp,
        Self::TcpAnswer,
        Self::Icmp,
        Self::Broadcast,
    ];

    /// For the figures.
    pub(crate) fn word(self) -> &'static str {
        match self {
            Self::Udp => "udp",
            Self::UdpAnswer => "udp-answer",
            Self::Tcp => "tcp",
            Self::TcpAnswer => "tcp-answer",
            Self::Icmp => "icmp",
            Self::Broadcast => "broadcast",
        }
    }
}

/// Names its addressee.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Payload {
    pub(crate) kind: Kind,
    pub(crate) id: u64,
    pub(crate) from: IpAddr,
    pub(crate) to: IpAddr,
}

impl Payload {
    pub(crate) fn bytes(&self) -> Vec<u8> {
        let kind = Kind::ALL.iter().position(|kind| *kind == self.kind);
        let kind = u8::try_from(kind.unwrap_or_default()).unwrap_or_default();
        let mut bytes = Vec::from(MAGIC);
        bytes.push(kind);
        bytes.extend(self.id.to_be_bytes());
        bytes.extend(mapped(self.from).octets());
        bytes.extend(mapped(self.to).octets());
        bytes
    }

    /// The first one in these bytes.
    pub(crate) fn find(bytes: &[u8]) -> Option<Self> {
        let at = bytes
            .windows(MAGIC.len())
            .position(|window| window == MAGIC)?;
        let (kind, rest) = bytes.get(at + MAGIC.len()..)?.split_first()?;
        let (id, rest) = rest.split_first_chunk::<8>()?;
        let (from, rest) = rest.split_first_chunk::<16>()?;
        let (to, _) = rest.split_first_chunk::<16>()?;
        Some(Self {
            kind: *Kind::ALL.get(usize::from(*kind))?,
            id: u64::from_be_bytes(*id),
            from: Ipv6Addr::from(*from).to_canonical(),
            to: Ipv6Addr::from(*to).to_canonical(),
        })
    }

    /// What comes back.
    pub(crate) fn answer(&self) -> Self {
        let kind = match self.kind {
            Kind::Udp => Kind::UdpAnswer,
            Kind::Tcp => Kind::TcpAnswer,
            other => other,
        };
        Self {
            kind,
            from: self.to,
            to: self.from,
            ..*self
        }
    }
}

/// As a socket of both families has it.
pub(crate) fn mapped(address: IpAddr) -> Ipv6Addr {
    match address {
        IpAddr::V4(v4) => v4.to_ipv6_mapped(),
        IpAddr::V6(v6) => v6,
    }
}

/// What a frame says.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Letter {
    /// From whom and for whom, if it is IP.
    pub(crate) ip: Option<(IpAddr, IpAddr)>,
    /// What it carries, and who that names as its addressee.
    pub(crate) payload: Option<(Payload, IpAddr)>,
    /// The MAC addresses that it tells of its sender: in Ethernet, ARP and neighbour discovery.
    pub(crate) macs: Vec<(&'static str, Mac)>,
    /// It is a neighbour advertisement.
    pub(crate) is_advertisement: bool,
}

/// Reads a frame. An ICMP error quotes another one: what it carries is not its own.
pub(crate) fn read(seen: &Seen) -> Letter {
    let bytes = &seen.bytes;
    let mut letter = Letter {
        macs: vec![("Ethernet", seen.source())],
        ..Letter::default()
    };
    let answer = match seen.ethertype() {
        ethertype::ARP => {
            letter
                .macs
                .extend(mac_at(bytes, 22).map(|mac| ("ARP", mac)));
            return letter;
        }
        ethertype::IPV4 => {
            letter.ip = pair(v4_at(bytes, 26), v4_at(bytes, 30));
            let start = 14 + usize::from(bytes.get(14).copied().unwrap_or_default() & 15) * 4;
            bytes.get(23) == Some(&1) && bytes.get(start) == Some(&0)
        }
        ethertype::IPV6 => {
            letter.ip = pair(v6_at(bytes, 22), v6_at(bytes, 38));
            let kind = bytes.get(54).copied().unwrap_or_default();
            let is_icmp = bytes.get(20) == Some(&next::ICMPV6);
            if is_icmp {
                letter.macs.extend(options(bytes, kind));
                letter.is_advertisement = kind == nd::NA;
            }
            is_icmp && kind == 129
        }
        _ => return letter,
    };
    if !is_complaint(seen) {
        let payload = Payload::find(bytes);
        letter.payload =
            payload.map(|payload| (payload, if answer { payload.from } else { payload.to }));
    }
    letter
}

fn pair(from: Option<IpAddr>, to: Option<IpAddr>) -> Option<(IpAddr, IpAddr)> {
    Some((from?, to?))
}

fn mac_at(bytes: &[u8], at: usize) -> Option<Mac> {
    bytes.get(at..)?.first_chunk().copied()
}

fn v4_at(bytes: &[u8], at: usize) -> Option<IpAddr> {
    let octets = bytes.get(at..)?.first_chunk::<4>()?;
    Some(IpAddr::V4(Ipv4Addr::from(*octets)))
}

fn v6_at(bytes: &[u8], at: usize) -> Option<IpAddr> {
    let octets = bytes.get(at..)?.first_chunk::<16>()?;
    Some(IpAddr::V6(Ipv6Addr::from(*octets)))
}

/// The MAC addresses in the options of a message of neighbour discovery, as its sender's own.
fn options(bytes: &[u8], kind: u8) -> Vec<(&'static str, Mac)> {
    let start = match kind {
        nd::NS | nd::NA => 54 + 24,
        nd::RS => 54 + 8,
        _ => return Vec::new(),
    };
    let mut found = Vec::new();
    let mut rest = bytes.get(start..).unwrap_or_default();
    while let [kind, units, ..] = rest
        && *units > 0
    {
        if matches!(*kind, nd::SOURCE | nd::TARGET) {
            found.extend(mac_at(rest, 2).map(|mac| ("neighbour discovery", mac)));
        }
        rest = rest.get(usize::from(*units) * 8..).unwrap_or_default();
    }
    found
}

#[cfg(test)]
mod tests {
    use ipvlan_tests::packet::{arp, ethernet, icmpv6, ipv4, ipv6, udp4};

    use super::*;

    const ONE: Mac = [2, 0, 0, 0, 0, 1];
    const TWO: Mac = [2, 0, 0, 0, 0, 2];

    fn payload(kind: Kind) -> Payload {
        Payload {
            kind,
            id: 7,
            from: IpAddr::from([10, 1, 0, 254]),
            to: IpAddr::from([10, 2, 0, 1]),
        }
    }

    fn seen(bytes: Vec<u8>) -> Seen {
        Seen {
            bytes,
            outgoing: false,
        }
    }

    #[test]
    fn a_payload_comes_back_as_it_went() {
        for kind in Kind::ALL {
            let there = payload(kind);
            let bytes = [&b"in front"[..], &there.bytes(), b"behind"].concat();
            assert_eq!(there.bytes().len(), LEN);
            assert_eq!(Payload::find(&bytes), Some(there));
        }
        assert_eq!(Payload::find(&payload(Kind::Udp).bytes()[..LEN - 1]), None);
        assert_eq!(payload(Kind::Udp).answer().to, payload(Kind::Udp).from);
    }

    #[test]
    fn a_datagram_names_its_addressee() {
        let (from, to) = (Ipv4Addr::new(10, 1, 0, 254), Ipv4Addr::new(10, 2, 0, 1));
        let packet = udp4(from, to, 7007, &payload(Kind::Udp).bytes());
        let letter = read(&seen(ethernet(ONE, TWO, ethertype::IPV4, &packet)));
        assert_eq!(letter.ip, Some((from.into(), to.into())));
        assert_eq!(letter.payload, Some((payload(Kind::Udp), to.into())));
        assert_eq!(letter.macs, [("Ethernet", TWO)]);
    }

    #[test]
    fn the_answer_to_a_ping_is_for_who_asked_and_a_complaint_carries_nothing() {
        let (from, to) = (Ipv4Addr::new(10, 2, 0, 1), Ipv4Addr::new(10, 1, 0, 254));
        let icmp = |kind: u8| {
            [
                &[kind, 0, 0, 0, 0, 0, 0, 0][..],
                &payload(Kind::Icmp).bytes(),
            ]
            .concat()
        };
        let frame = |kind| {
            seen(ethernet(
                ONE,
                TWO,
                ethertype::IPV4,
                &ipv4(from, to, 1, &icmp(kind)),
            ))
        };
        assert_eq!(read(&frame(0)).payload.map(|(_, to)| to), Some(to.into()));
        assert_eq!(read(&frame(8)).payload.map(|(_, to)| to), Some(from.into()));
        assert_eq!(read(&frame(3)).payload, None);
    }

    #[test]
    fn mac_addresses_are_found_where_they_hide() {
        let any = Ipv4Addr::new(10, 2, 0, 1);
        let frame = ethernet(
            [0xff; 6],
            TWO,
            ethertype::ARP,
            &arp(1, (ONE, any), ([0; 6], any)),
        );
        assert_eq!(read(&seen(frame)).macs, [("Ethernet", TWO), ("ARP", ONE)]);
        let any = Ipv6Addr::new(0xfd02, 0, 0, 0, 0, 0, 0, 1);
        let body = nd::body(nd::NS, any, &nd::option(nd::SOURCE, ONE));
        let group = nd::solicited_node(any);
        let message = icmpv6(any, group, nd::NS, &body);
        let packet = ipv6(any, group, next::ICMPV6, &message);
        let frame = ethernet(nd::group_mac(any), TWO, ethertype::IPV6, &packet);
        let found = [("Ethernet", TWO), ("neighbour discovery", ONE)];
        let letter = read(&seen(frame));
        assert_eq!(letter.macs, found);
        assert!(!letter.is_advertisement, "it asks");
        let body = nd::body(nd::NA, any, &nd::option(nd::TARGET, ONE));
        let message = icmpv6(any, any, nd::NA, &body);
        let packet = ipv6(any, any, next::ICMPV6, &message);
        let letter = read(&seen(ethernet(ONE, TWO, ethertype::IPV6, &packet)));
        assert_eq!(letter.macs, found);
        assert!(letter.is_advertisement);
    }
}
