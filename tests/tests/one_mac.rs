//! The driver's third promise in the HOWTO, held against root inside a namespace: the wire never
//! sees another MAC address than the parent's. The driver lets all of it pass in l2 (row `one-mac`),
//! which shows that what is sent here is worth stopping.
//!
//! The oracle does not parse. Whoever attacks writes [`FORGED`] where the parent's address belongs,
//! and these six bytes must not be seen anywhere in any frame on the LAN.

use std::net::{Ipv4Addr, Ipv6Addr};
use std::time::Duration;

use ipvlan_tests::packet::{
    self, BROADCAST, FORGED, Mac, ethernet, ethertype, icmpv6, ipv6, mac_text, nd, next,
};
use ipvlan_tests::sniff::Sender;
use ipvlan_tests::{Mode, Net, PATIENCE, Seen, Sniffer, differs, eventually};

const LAN4: Ipv4Addr = Ipv4Addr::new(10, 1, 0, 254);
const LAN6: Ipv6Addr = Ipv6Addr::new(0xfd00, 0, 0, 0, 0, 0, 0, 0x254);
const ALL_NODES: Ipv6Addr = Ipv6Addr::new(0xff02, 0, 0, 0, 0, 0, 0, 1);
/// Nobody's, on the LAN's subnet.
const FREE4: Ipv4Addr = Ipv4Addr::new(10, 1, 0, 77);
const FREE6: Ipv6Addr = Ipv6Addr::new(0xfd00, 0, 0, 0, 0, 0, 0, 0x77);
/// Arrives last: what was sent before it has arrived by then, or never will.
const FENCE: &[u8] = b"the last of them";

/// The MAC addresses that others than the LAN itself put on its wire, and the forged one anywhere.
#[track_caller]
fn assert_one_mac(what: &str, parent: Mac, seen: &[Seen]) {
    for frame in seen {
        assert_eq!(
            mac_text(frame.source()),
            mac_text(parent),
            "{what}: the wire sees the parent's MAC address only: {frame:?}"
        );
        assert!(
            !frame.contains(&FORGED),
            "{what}: the forged MAC address is nowhere in a frame on the wire: {frame:?}"
        );
    }
}

/// Whether `seen` may be what became of `sent`: same EtherType and same sender.
fn is_from(sent: &[u8], seen: &Seen) -> bool {
    let sender = match seen.ethertype() {
        ethertype::ARP => 28..32,
        ethertype::IPV6 => 22..38,
        _ => 12..14,
    };
    seen.bytes.get(12..14) == sent.get(12..14)
        && sent
            .get(sender.clone())
            .is_none_or(|sender_of| seen.bytes.get(sender) == Some(sender_of))
}

/// What a device hears and the LAN did not say.
fn not_from(lan: Mac, ears: &Sniffer) -> Vec<Seen> {
    ears.heard()
        .into_iter()
        .filter(|seen| seen.source() != lan)
        .collect()
}

/// An attacker in ns0, a victim in ns1, and ears.
struct Attack {
    net: Net,
    sender: Sender,
    wire: Sniffer,
    sibling: Sniffer,
    lan: Mac,
}

impl Attack {
    fn new(mode: Mode) -> Self {
        let net = Net::new(mode).devices(2).build();
        let sender = Sender::on(&net.dev(0).ns, "ipvl0");
        let wire = Sniffer::on(&net.lan, "lan0");
        let sibling = Sniffer::on(&net.dev(1).ns, "ipvl1");
        let lan = net.lan.mac("lan0");
        Self {
            net,
            sender,
            wire,
            sibling,
            lan,
        }
    }

    fn own6(&self) -> Ipv6Addr {
        self.net.dev(0).v6
    }

    fn own4(&self) -> Ipv4Addr {
        self.net.dev(0).v4
    }

    /// Sends the frames, then an honest one, and returns what the wire saw of them: one MAC address.
    #[track_caller]
    fn send(&self, what: &str, frames: &[Vec<u8>]) -> Vec<Seen> {
        let seen = self.just_send(what, frames);
        if self.net.mode != Mode::L2 || differs("one-mac", true, false) {
            assert_one_mac(what, self.net.mac(), &seen);
        }
        seen
    }

    #[track_caller]
    fn just_send(&self, what: &str, frames: &[Vec<u8>]) -> Vec<Seen> {
        for frame in frames {
            // Dropped is as good as rewritten.
            let _: Result<(), _> = self.sender.try_send(frame);
        }
        let fence = packet::udp4(self.own4(), LAN4, 9, FENCE);
        let fence = ethernet(self.lan, self.net.mac(), ethertype::IPV4, &fence);
        self.sender.send(&fence);
        let mut seen = Vec::new();
        let found = self.wire.find(PATIENCE, |frame| {
            if !frame.outgoing {
                seen.push(frame.clone());
            }
            frame.contains(FENCE)
        });
        assert!(
            found.is_some() || self.net.mode == Mode::L3,
            "{what}: an honest frame arrives"
        );
        let _: Option<Seen> = seen.pop_if(|frame| frame.contains(FENCE));
        // Copies may come by another way than the honest one.
        seen.extend(
            self.wire
                .drain(Duration::from_millis(50))
                .into_iter()
                .filter(|f| !f.outgoing),
        );
        seen
    }

    /// Whether `seen` is `sent`, or what became of it.
    fn is(&self, sent: &[u8], seen: &Seen) -> bool {
        !seen.outgoing
            && match self.net.mode {
                Mode::L2 => differs("one-mac", is_from(sent, seen), seen.bytes == sent),
                Mode::L3 | Mode::L3s => is_from(sent, seen),
            }
    }

    /// [`Self::send`], for a frame that is to arrive whatever was in it.
    #[track_caller]
    fn arrived(&self, what: &str, frame: &[u8]) -> Option<Seen> {
        let seen = self.send(what, &[frame.to_vec()]);
        let arrived = seen.into_iter().find(|seen| self.is(frame, seen));
        // The driver's copies to all take another way than the honest frame.
        arrived.or_else(|| self.wire.find(PATIENCE, |seen| self.is(frame, seen)))
    }

    /// [`Self::send`], for frames of which something is to arrive after all: with the driver as they
    /// are.
    #[track_caller]
    fn rewritten(&self, what: &str, frame: &[u8]) -> Seen {
        self.arrived(what, frame)
            .unwrap_or_else(|| panic!("{what}: is not lost"))
    }

    /// [`Self::send`], for frames that the driver sends as they are and of which we let nothing out.
    #[track_caller]
    fn dropped(&self, row: &str, what: &str, frame: &[u8]) {
        if differs(row, true, false) {
            self.lost(what, frame);
        } else {
            assert!(self.arrived(what, frame).is_some(), "{what}: gets out");
        }
    }

    /// [`Self::send`], for frames of which nothing may arrive.
    #[track_caller]
    fn lost(&self, what: &str, frame: &[u8]) {
        let seen = self.send(what, &[frame.to_vec()]);
        let arrived = seen.into_iter().find(|seen| is_from(frame, seen));
        assert!(
            arrived.is_none(),
            "{what}: is not for the wire: {arrived:?}"
        );
    }

    /// An ND message from the attacker's own address, in whatever extension headers.
    fn nd(
        &self,
        kind: u8,
        options: &[u8],
        destination: Ipv6Addr,
        headers: &[(u8, Vec<u8>)],
    ) -> Vec<u8> {
        let message = icmpv6(
            self.own6(),
            destination,
            kind,
            &nd::body(kind, FREE6, options),
        );
        self.in_headers(destination, headers, &message)
    }

    fn in_headers(
        &self,
        destination: Ipv6Addr,
        headers: &[(u8, Vec<u8>)],
        payload: &[u8],
    ) -> Vec<u8> {
        let first = headers.first().map_or(next::ICMPV6, |(kind, _)| *kind);
        let mut inside: Vec<u8> = headers
            .iter()
            .flat_map(|(_, bytes)| bytes.clone())
            .collect();
        inside.extend(payload);
        let to = if destination.is_multicast() {
            nd::group_mac(destination)
        } else {
            self.lan
        };
        ethernet(
            to,
            FORGED,
            ethertype::IPV6,
            &ipv6(self.own6(), destination, first, &inside),
        )
    }
}

#[test]
fn a_day_in_the_life_of_two_namespaces_shows_one_mac() {
    for mode in [Mode::L2, Mode::L3, Mode::L3s] {
        // From before there is any device.
        let mut net = Net::new(mode).build();
        let wire = Sniffer::on(&net.lan, "lan0");
        let tcpdump = net.lan.spawn("tcpdump -e -n -l -Q in -i lan0");
        for number in [0, 1] {
            let _: u16 = net.add();
            net.dev(number).configure();
        }
        for dev in &net.devices {
            for address in ["10.1.0.254", "fd00::254", "10.1.0.1", "10.1.0.99"] {
                let _: bool = dev.ns.answers(address);
            }
            assert!(dev.ns.reaches("10.1.0.254"), "{mode}: the LAN is reached");
            assert!(dev.ns.reaches("fd00::254"), "{mode}: the LAN is reached");
            for address in dev.addresses() {
                assert!(
                    net.lan.reaches(&address),
                    "{mode}: the LAN reaches {address}"
                );
            }
            let _: bool = dev
                .ns
                .try_sh(&format!("arping -c 1 -w 1 -I {} 10.1.0.254", dev.name))
                .ok();
            let _: bool = dev
                .ns
                .try_sh(&format!("arping -U -c 1 -w 1 -I {} {}", dev.name, dev.v4))
                .ok();
        }
        let seen = wire.heard();
        assert!(seen.len() > 10, "there was something to see");
        assert_one_mac("everyday traffic", net.mac(), &seen);
        let macs: Vec<String> = tcpdump
            .interrupt()
            .lines()
            .filter_map(|line| line.split_whitespace().nth(1).map(str::to_owned))
            .filter(|word| word.len() == 17 && word.contains(':'))
            .filter(|word| *word != mac_text(net.mac()))
            .collect();
        assert!(macs.is_empty(), "tcpdump -e agrees: {macs:?}");
        for dev in &net.devices {
            assert_eq!(
                dev.ns.mac(&dev.name),
                net.mac(),
                "a device has the parent's MAC address"
            );
        }
        if mode == Mode::L2 {
            for dev in &net.devices {
                let reply = net
                    .lan
                    .read(&format!("arping -c 1 -w 5 -I lan0 {}", dev.v4));
                assert!(
                    reply.to_lowercase().contains(&mac_text(net.mac())),
                    "arping from the LAN sees the parent's MAC address: {reply}"
                );
            }
        }
    }
}

#[test]
fn the_host_end_has_nothing_to_say() {
    for mode in [Mode::L2, Mode::L3, Mode::L3s] {
        let mut net = Net::new(mode).build();
        let _: u16 = net.add();
        let ears = Sniffer::on(&net.dev(0).ns, "ipvl0");
        net.dev(0).configure();
        assert!(
            net.lan.reaches(&net.dev(0).v4.to_string()),
            "{mode}: the device works"
        );
        net.host.sh("ip link set eth0 down");
        net.host.sh("ip link set eth0 up");
        assert!(
            net.lan.reaches(&net.dev(0).v4.to_string()),
            "{mode}: the device works"
        );
        let seen = ears.heard();
        let known = [net.mac(), net.lan.mac("lan0")];
        let strangers: Vec<_> = seen
            .iter()
            .filter(|seen| !known.contains(&seen.source()))
            .collect();
        assert!(
            strangers.is_empty(),
            "{mode}: a device sees its parent and the LAN only: {strangers:?}"
        );
        if mode != Mode::L2 {
            let group = seen
                .iter()
                .filter(|seen| seen.destination()[0] & 1 != 0)
                .count();
            assert_eq!(group, 0, "in l3 a device hears nothing that is for a group");
        }
    }
}

#[test]
fn another_mac_on_the_device_is_not_seen() {
    let net = Net::new(Mode::L2).devices(2).build();
    let wire = Sniffer::on(&net.lan, "lan0");
    let sibling = Sniffer::on(&net.dev(1).ns, "ipvl1");
    let dev = net.dev(0);
    dev.ns.sh("ip link set ipvl0 down");
    let line = format!("ip link set ipvl0 address {}", mac_text(FORGED));
    let set = dev.ns.try_sh(&line).ok();
    assert_eq!(
        set,
        differs("set-mac", true, false),
        "its MAC address changes"
    );
    dev.ns.sh("ip link set ipvl0 up");
    dev.ns.batch(&format!(
        "addr replace {0}/24 dev {2}\n\
         addr replace {1}/64 dev {2} nodad\n",
        dev.v4, dev.v6, dev.name
    ));
    net.lan.sh("ip neigh flush all");
    let own = if set { FORGED } else { net.mac() };
    assert_eq!(dev.ns.mac(&dev.name), own, "the test means something");
    for address in ["10.1.0.254", "fd00::254", "10.1.0.11", "fd00::11"] {
        assert!(dev.ns.reaches(address), "it works on, {address} answers");
    }
    for address in dev.addresses() {
        assert!(
            net.lan.reaches(&address),
            "it works on, {address} is reached"
        );
        assert!(net.dev(1).ns.reaches(&address), "it works on for siblings");
    }
    let _: bool = dev
        .ns
        .try_sh(&format!("arping -U -c 1 -w 1 -I {} {}", dev.name, dev.v4))
        .ok();
    assert_one_mac(
        "a device with a MAC address of its own",
        net.mac(),
        &wire.heard(),
    );
    assert_one_mac(
        "what its sibling sees",
        net.mac(),
        &not_from(net.lan.mac("lan0"), &sibling),
    );
    for address in dev.addresses() {
        let entry = net.lan.neighbour(&address);
        assert!(
            entry.contains(&mac_text(net.mac())),
            "the LAN knows one MAC address: {entry}"
        );
    }
}

#[test]
fn a_forged_ethernet_source_becomes_the_parent_s() {
    let attack = Attack::new(Mode::L2);
    let own4 = attack.own4();
    let udp = packet::udp4(own4, LAN4, 9, b"hello");
    for to in [attack.lan, BROADCAST, [1, 0, 0x5e, 1, 2, 3]] {
        let _: Seen = attack.rewritten("UDP", &ethernet(to, FORGED, ethertype::IPV4, &udp));
        let _: Seen = attack.rewritten(
            "an EtherType of nobody's",
            &ethernet(to, FORGED, ethertype::EXPERIMENT, &[0; 46]),
        );
    }
    let udp = packet::udp6(attack.own6(), LAN6, 9, b"hello");
    let _: Seen = attack.rewritten("UDP", &ethernet(attack.lan, FORGED, ethertype::IPV6, &udp));
    let group = [FORGED[0] | 1, 0x66, 0x6f, 0x72, 0x67, 0x65];
    let udp = packet::udp4(own4, LAN4, 9, b"from a group");
    let seen = attack.send(
        "a group as source",
        &[ethernet(attack.lan, group, ethertype::IPV4, &udp)],
    );
    let forged = seen.iter().any(|seen| seen.contains(&group));
    assert_eq!(forged, differs("one-mac", false, true), "{seen:?}");
}

#[test]
fn a_forged_arp_sender_becomes_the_parent_s() {
    let attack = Attack::new(Mode::L2);
    let own = attack.own4();
    for operation in [1, 2, 8, 9, 0xffff] {
        for to in [attack.lan, BROADCAST] {
            for source in [FORGED, attack.net.mac()] {
                for target in [LAN4, FREE4, own] {
                    let payload = packet::arp(operation, (FORGED, own), ([0; 6], target));
                    let seen = attack.rewritten(
                        &format!("ARP operation {operation} for {target}"),
                        &ethernet(to, source, ethertype::ARP, &payload),
                    );
                    let sender = differs("one-mac", attack.net.mac(), FORGED);
                    assert_eq!(&seen.bytes[22..28], sender, "the sender field");
                    assert_eq!(&seen.bytes[28..32], own.octets(), "its address stays");
                }
            }
        }
    }
    // The receiver learns the parent's MAC address from it.
    attack.net.lan.sh("ip neigh flush all");
    let payload = packet::arp(1, (FORGED, own), ([0; 6], LAN4));
    attack
        .sender
        .send(&ethernet(BROADCAST, FORGED, ethertype::ARP, &payload));
    let entry = || attack.net.lan.neighbour(&own.to_string());
    let mac = mac_text(differs("one-mac", attack.net.mac(), FORGED));
    assert!(
        eventually(PATIENCE, || entry().contains(&mac)),
        "the LAN learns: {}",
        entry()
    );
}

#[test]
fn arp_that_cannot_be_checked_is_dropped() {
    let attack = Attack::new(Mode::L2);
    let good = packet::arp(1, (FORGED, attack.own4()), ([0; 6], LAN4));
    let frame = |payload: &[u8]| ethernet(BROADCAST, FORGED, ethertype::ARP, payload);
    for (what, at, value) in [
        ("IEEE 802 hardware", 1, 6),
        ("another protocol", 2, 0x86),
        ("longer hardware addresses", 4, 8),
        ("no hardware addresses", 4, 0),
        ("longer protocol addresses", 5, 16),
    ] {
        let mut payload = good.clone();
        payload[at] = value;
        attack.dropped("sealed-nd", what, &frame(&payload));
    }
    for len in [0, 1, 8, 14, 20, 27] {
        attack.dropped("sealed-nd", "ARP cut short", &frame(&good[..len]));
    }
    let rarp = packet::arp(3, (FORGED, attack.own4()), (FORGED, attack.own4()));
    attack.dropped(
        "l2-only",
        "RARP",
        &ethernet(BROADCAST, FORGED, ethertype::RARP, &rarp),
    );
}

#[test]
fn arp_inside_snap_is_not_seen_either() {
    // RFC 1042: 802.3 length, LLC, SNAP, then the EtherType. Some stacks take it for ARP.
    let attack = Attack::new(Mode::L2);
    let arp = packet::arp(2, (FORGED, attack.own4()), (attack.lan, LAN4));
    let mut payload = vec![0xaa, 0xaa, 3, 0, 0, 0, 8, 6];
    payload.extend(arp);
    let length = u16::try_from(payload.len()).expect("short");
    let frame = ethernet(BROADCAST, FORGED, length, &payload);
    attack.dropped("l2-only", "ARP inside SNAP", &frame);
}

#[test]
fn forged_nd_options_become_the_parent_s_and_the_checksum_follows() {
    let attack = Attack::new(Mode::L2);
    for (kind, option) in [
        (nd::RS, nd::SOURCE),
        (nd::RA, nd::SOURCE),
        (nd::NS, nd::SOURCE),
        (nd::NA, nd::TARGET),
        (nd::REDIRECT, nd::TARGET),
        (nd::INVERSE, nd::SOURCE),
        // Where they do not belong, but who knows who reads them.
        (nd::NS, nd::TARGET),
        (nd::NA, nd::SOURCE),
    ] {
        for destination in [LAN6, ALL_NODES, nd::solicited_node(FREE6)] {
            for headers in [
                vec![],
                vec![(next::HOP_BY_HOP, packet::padding_header(next::ICMPV6, 1))],
                vec![(next::DESTINATION, packet::padding_header(next::ICMPV6, 4))],
                vec![
                    (
                        next::HOP_BY_HOP,
                        packet::padding_header(next::DESTINATION, 1),
                    ),
                    (next::DESTINATION, packet::padding_header(next::ICMPV6, 1)),
                ],
            ] {
                let what = format!("type {kind} option {option} to {destination} in {headers:?}");
                let frame = attack.nd(kind, &nd::option(option, FORGED), destination, &headers);
                let seen = attack.rewritten(&what, &frame);
                let at = 54 + headers.iter().map(|(_, bytes)| bytes.len()).sum::<usize>();
                let address = differs("one-mac", attack.net.mac(), FORGED);
                assert!(seen.contains(&address), "{what}: {seen:?}");
                assert!(
                    packet::icmpv6_is_right(&seen.bytes, at),
                    "{what}: the checksum follows: {seen:?}"
                );
                assert_eq!(
                    seen.bytes.len(),
                    frame.len(),
                    "{what}: nothing else changes"
                );
            }
        }
    }
}

#[test]
fn behind_another_option_it_is_found_too() {
    let attack = Attack::new(Mode::L2);
    let mtu = [5, 1, 0, 0, 0, 0, 5, 0xdc];
    let nonce = [14, 1, 1, 2, 3, 4, 5, 6];
    for before in [vec![mtu], vec![nonce, mtu], vec![mtu; 10]] {
        let options = [before.concat(), nd::option(nd::SOURCE, FORGED)].concat();
        let seen = attack.rewritten(
            "an option further back",
            &attack.nd(nd::NS, &options, LAN6, &[]),
        );
        assert!(packet::icmpv6_is_right(&seen.bytes, 54), "{seen:?}");
    }
}

#[test]
fn nd_in_which_something_could_hide_is_dropped() {
    let attack = Attack::new(Mode::L2);
    let forged = nd::option(nd::SOURCE, FORGED);
    let honest = nd::option(nd::SOURCE, attack.net.mac());
    let long: Vec<u8> = [&[nd::SOURCE, 2][..], &FORGED, &[0; 2], &FORGED].concat();
    let mtu = [5, 1, 0, 0, 0, 0, 5, 0xdc];
    for (what, options) in [
        ("two options", [honest.clone(), forged.clone()].concat()),
        (
            "two forged options",
            [forged.clone(), forged.clone()].concat(),
        ),
        (
            "source and target",
            [honest, nd::option(nd::TARGET, FORGED)].concat(),
        ),
        ("an option of length 2", long),
        (
            "an option of length 0",
            [&[9, 0, 0, 0, 0, 0, 0, 0][..], &forged].concat(),
        ),
        ("many options", [mtu.repeat(40), forged.clone()].concat()),
        (
            "a long option before it",
            [vec![9, 100], vec![0; 798], forged.clone()].concat(),
        ),
    ] {
        for kind in [nd::NS, nd::NA, nd::RA] {
            attack.dropped("sealed-nd", what, &attack.nd(kind, &options, LAN6, &[]));
        }
    }
    let fragment =
        |next, offset, more| (next::FRAGMENT, packet::fragment_header(next, offset, more));
    attack.dropped(
        "sealed-nd",
        "an atomic fragment",
        &attack.nd(nd::NS, &forged, LAN6, &[fragment(next::ICMPV6, 0, false)]),
    );
    attack.dropped(
        "sealed-nd",
        "a first fragment",
        &attack.nd(nd::NA, &forged, LAN6, &[fragment(next::ICMPV6, 0, true)]),
    );
    attack.dropped(
        "sealed-nd",
        "behind a fragment header and options",
        &attack.nd(
            nd::NA,
            &forged,
            LAN6,
            &[
                fragment(next::DESTINATION, 0, false),
                (next::DESTINATION, packet::padding_header(next::ICMPV6, 1)),
            ],
        ),
    );
    for count in [8, 9, 20, 60] {
        let mut headers = vec![
            (
                next::DESTINATION,
                packet::padding_header(next::DESTINATION, 1)
            );
            count
        ];
        headers.push((next::DESTINATION, packet::padding_header(next::ICMPV6, 1)));
        attack.dropped(
            "sealed-nd",
            "many headers",
            &attack.nd(nd::NA, &forged, LAN6, &headers),
        );
    }
    let deep = vec![
        (
            next::DESTINATION,
            packet::padding_header(next::DESTINATION, 60),
        ),
        (next::DESTINATION, packet::padding_header(next::ICMPV6, 10)),
    ];
    attack.dropped(
        "sealed-nd",
        "deep headers",
        &attack.nd(nd::NA, &forged, LAN6, &deep),
    );
}

#[test]
fn nd_put_together_from_fragments_teaches_the_lan_nothing() {
    let attack = Attack::new(Mode::L2);
    attack.net.lan.sh("ip neigh flush all");
    assert!(attack.net.lan.reaches("fd00::10"), "the LAN knows ns0");
    // First fragment: only a header that says that ND follows. Second: ND.
    let body = nd::body(nd::NA, attack.own6(), &nd::option(nd::TARGET, FORGED));
    let message = icmpv6(attack.own6(), LAN6, nd::NA, &body);
    let first = (
        next::FRAGMENT,
        packet::fragment_header(next::DESTINATION, 0, true),
    );
    let second = (
        next::FRAGMENT,
        packet::fragment_header(next::DESTINATION, 8, false),
    );
    let padding = packet::padding_header(next::ICMPV6, 1);
    let mac = attack.net.mac();
    for frame in [
        attack.in_headers(LAN6, &[first], &padding),
        attack.in_headers(LAN6, &[second], &message),
    ] {
        let _: Result<(), _> = attack.sender.try_send(&frame);
    }
    std::thread::sleep(Duration::from_millis(200));
    let entry = attack.net.lan.neighbour("fd00::10");
    assert!(
        !entry.contains(&mac_text(FORGED)),
        "the LAN keeps what it knows: {entry}"
    );
    assert!(
        entry.contains(&mac_text(mac)),
        "the LAN keeps what it knows: {entry}"
    );
}

#[test]
fn the_lan_learns_from_rewritten_nd() {
    let attack = Attack::new(Mode::L2);
    let mac = mac_text(differs("one-mac", attack.net.mac(), FORGED));
    let entry = || attack.net.lan.neighbour("fd00::77");
    attack
        .net
        .lan
        .sh("ip neigh replace fd00::77 lladdr 02:00:00:00:00:01 dev lan0 nud stale");
    let option = nd::option(nd::TARGET, FORGED);
    attack.sender.send(&attack.nd(nd::NA, &option, LAN6, &[]));
    assert!(
        eventually(PATIENCE, || entry().contains(&mac)),
        "an advertisement whose option and checksum were rewritten is taken: {}",
        entry()
    );
    attack.net.lan.sh("ip neigh flush all");
    let own = || attack.net.lan.neighbour("fd00::10");
    let message = icmpv6(
        attack.own6(),
        LAN6,
        nd::NS,
        &nd::body(nd::NS, LAN6, &nd::option(nd::SOURCE, FORGED)),
    );
    attack.sender.send(&attack.in_headers(LAN6, &[], &message));
    assert!(
        eventually(PATIENCE, || own().contains(&mac)),
        "so is a solicitation: {}",
        own()
    );
}

#[test]
fn tagged_frames_do_not_leave() {
    let attack = Attack::new(Mode::L2);
    let inside = packet::udp4(attack.own4(), LAN4, 9, b"in another network");
    let tag = |kind: u16, id: u16, inner: u16, payload: &[u8]| {
        let payload = [&id.to_be_bytes()[..], &inner.to_be_bytes(), payload].concat();
        ethernet(attack.lan, FORGED, kind, &payload)
    };
    for kind in [ethertype::VLAN, 0x88a8] {
        for id in [1, 10, 4094, 0xe00a] {
            attack.dropped(
                "l2-only",
                "a VLAN tag",
                &tag(kind, id, ethertype::IPV4, &inside),
            );
        }
    }
    // Two tags.
    let double = [
        &10u16.to_be_bytes()[..],
        &ethertype::IPV4.to_be_bytes(),
        &inside,
    ]
    .concat();
    attack.dropped("l2-only", "QinQ", &tag(0x88a8, 5, ethertype::VLAN, &double));
    attack.dropped(
        "l2-only",
        "a tag behind priority",
        &tag(ethertype::VLAN, 0, ethertype::VLAN, &double),
    );
    for broadcast in [ethertype::VLAN, 0x88a8] {
        let mut frame = tag(broadcast, 7, ethertype::IPV4, &inside);
        frame[..6].copy_from_slice(&BROADCAST);
        attack.dropped("l2-only", "a broadcast with a tag", &frame);
    }
    // Priority without a VLAN is no tag; what is in it is held to the same rules.
    let arp = packet::arp(2, (FORGED, attack.own4()), (attack.lan, LAN4));
    let _: Vec<Seen> = attack.send(
        "ARP with a priority",
        &[tag(ethertype::VLAN, 0xe000, ethertype::ARP, &arp)],
    );
    let option = nd::option(nd::TARGET, FORGED);
    let message = icmpv6(
        attack.own6(),
        LAN6,
        nd::NA,
        &nd::body(nd::NA, FREE6, &option),
    );
    let advert = ipv6(attack.own6(), LAN6, next::ICMPV6, &message);
    let _: Vec<Seen> = attack.send(
        "ND with a priority",
        &[tag(ethertype::VLAN, 0xe000, ethertype::IPV6, &advert)],
    );
}

#[test]
fn frames_that_are_for_bridges_only_do_not_leave() {
    const MAC_CONTROL: u16 = 0x8808;
    let attack = Attack::new(Mode::L2);
    // STP with its LLC header, PAUSE, LACP, 802.1X, LLDP.
    let stp = [
        &[0x42, 0x42, 3, 0, 0, 0, 0, 0][..],
        &[0; 8],
        &FORGED,
        &[0; 20],
    ]
    .concat();
    let group = |last| [1, 0x80, 0xc2, 0, 0, last];
    for (what, last, kind, payload) in [
        ("STP", 0, 38, stp),
        ("PAUSE", 1, MAC_CONTROL, vec![0, 1, 0xff, 0xff, 0, 0]),
        (
            "LACP",
            2,
            0x8809,
            [&[1, 1, 1, 20, 0, 0][..], &FORGED, &[0; 40]].concat(),
        ),
        ("802.1X", 3, 0x888e, vec![1, 1, 0, 0]),
        (
            "LLDP",
            0x0e,
            0x88cc,
            [&[2, 7, 4][..], &FORGED, &[4, 2, 7, b'a']].concat(),
        ),
        (
            "the last of them",
            0x0f,
            ethertype::EXPERIMENT,
            FORGED.to_vec(),
        ),
    ] {
        let frame = ethernet(group(last), FORGED, kind, &payload);
        if kind == MAC_CONTROL {
            attack.lost(what, &frame);
        } else {
            attack.dropped("l2-only", what, &frame);
        }
    }
    let heard = attack.sibling.heard();
    let heard = heard.iter().any(|seen| seen.contains(&FORGED));
    // With the driver by a collision in its filter only.
    assert!(
        differs("l2-only", !heard, true),
        "a sibling sees nothing of it either"
    );
}

#[test]
fn runts_and_nonsense_do_no_harm() {
    let attack = Attack::new(Mode::L2);
    let honest = ethernet(
        attack.lan,
        FORGED,
        ethertype::IPV4,
        &packet::udp4(attack.own4(), LAN4, 9, b""),
    );
    let frames: Vec<Vec<u8>> = (1..honest.len())
        .map(|len| honest[..len].to_vec())
        .collect();
    let _: Vec<Seen> = attack.send("every length", &frames);
    let nd = attack.nd(nd::NS, &nd::option(nd::SOURCE, FORGED), LAN6, &[]);
    let cut: Vec<Vec<u8>> = (14..nd.len()).map(|len| nd[..len].to_vec()).collect();
    for frame in cut {
        // The bytes of the option are in these frames as far as they go; whoever reads them takes
        // none for an address, because the packet says that it is longer.
        let _: Result<(), _> = attack.sender.try_send(&frame);
    }
    let seen: Vec<Seen> = attack.wire.drain(Duration::from_millis(200));
    let strangers = seen
        .iter()
        .any(|seen| !seen.outgoing && seen.source() != attack.net.mac());
    assert_eq!(
        strangers,
        differs("one-mac", false, true),
        "a foreign source among them"
    );
    assert!(
        attack.net.dev(0).ns.reaches("10.1.0.254"),
        "the device works on"
    );
    assert!(
        attack.net.lan.reaches("10.1.0.11"),
        "and so does its sibling"
    );
}

#[test]
fn a_checksum_that_is_written_later_does_not_forge() {
    // With a virtio_net_hdr one can ask for two bytes to be overwritten by a checksum when the
    // frame leaves at last, which is after anybody looked at it.
    let attack = Attack::new(Mode::L2);
    attack.net.host.sh("ethtool -K eth0 tx off");
    let sender = Sender::with_offload(&attack.net.dev(0).ns, "ipvl0");
    let mac = attack.net.mac();
    let arp = packet::arp(2, (mac, attack.own4()), (attack.lan, LAN4));
    let mut frame = ethernet(attack.lan, mac, ethertype::ARP, &arp);
    frame.resize(60, 0);
    for (start, offset) in [(20, 2), (22, 0), (20, 4), (20, 6), (34, 0)] {
        let sent = sender.try_send_with(start, offset, &frame);
        let seen = attack.wire.find(Duration::from_millis(300), |seen| {
            !seen.outgoing && seen.ethertype() == ethertype::ARP
        });
        assert_eq!(
            seen.is_some(),
            differs("sealed-nd", false, true),
            "a late checksum ({start} + {offset}, sent: {sent:?}) in ARP"
        );
    }
    let option = nd::option(nd::TARGET, mac);
    let message = icmpv6(
        attack.own6(),
        LAN6,
        nd::NA,
        &nd::body(nd::NA, FREE6, &option),
    );
    let frame = ethernet(
        attack.lan,
        mac,
        ethertype::IPV6,
        &ipv6(attack.own6(), LAN6, next::ICMPV6, &message),
    );
    // The option is at 78, its address at 80.
    for (start, offset) in [(54, 26), (54, 28), (54, 30)] {
        let sent = sender.try_send_with(start, offset, &frame);
        let seen = attack.wire.find(Duration::from_millis(300), |seen| {
            !seen.outgoing
                && seen.ethertype() == ethertype::IPV6
                && seen.bytes.get(54) == Some(&nd::NA)
        });
        assert_eq!(
            seen.is_some(),
            differs("sealed-nd", false, true),
            "a late checksum ({start} + {offset}, sent: {sent:?}) in ND"
        );
    }
}

#[test]
fn a_bridge_behind_a_device_shows_nobody_else() {
    let net = Net::new(Mode::L2).devices(2).build();
    let wire = Sniffer::on(&net.lan, "lan0");
    let sibling = Sniffer::on(&net.dev(1).ns, "ipvl1");
    let guest = net.namespace("guest");
    let inside = &net.dev(0).ns;
    inside.batch(&format!(
        "link add br0 type bridge\n\
         link set br0 up\n\
         link add port0 type veth peer name eth0 netns {}\n\
         link set port0 up master br0\n",
        guest.name()
    ));
    let taken = inside.try_sh("ip link set ipvl0 master br0").ok();
    assert_eq!(taken, differs("stacking", true, false), "a bridge takes it");
    if !taken {
        return;
    }
    guest.batch(&format!(
        "link set eth0 address {}\n\
         link set eth0 up\n\
         addr add 10.1.0.77/24 dev eth0\n\
         addr add fd00::77/64 dev eth0 nodad\n",
        mac_text(FORGED)
    ));
    guest.hurry("eth0");
    let _: bool = guest.answers("10.1.0.254");
    let _: bool = guest.answers("fd00::254");
    let _: bool = guest.answers("10.1.0.11");
    let _: bool = guest.try_sh("arping -U -c 2 -w 1 -I eth0 10.1.0.77").ok();
    let seen = wire.heard();
    assert!(
        !seen.is_empty(),
        "the guest was let through, and said something"
    );
    assert_one_mac("a bridged guest", net.mac(), &seen);
    let overheard = not_from(net.lan.mac("lan0"), &sibling);
    assert_one_mac("a bridged guest, seen by a sibling", net.mac(), &overheard);
    let gratuitous =
        |seen: &Seen| seen.ethertype() == ethertype::ARP && seen.bytes[28..32] == [10, 1, 0, 77];
    assert!(seen.iter().any(gratuitous), "its ARP was seen, rewritten");
}

#[test]
fn siblings_see_the_parent_s_mac_only() {
    let attack = Attack::new(Mode::L2);
    let mac = attack.net.mac();
    let victim4 = attack.net.dev(1).v4;
    let victim6 = attack.net.dev(1).v6;
    let option = nd::option(nd::SOURCE, FORGED);
    let message = |kind, to, options: &[u8]| {
        let message = icmpv6(attack.own6(), to, kind, &nd::body(kind, victim6, options));
        ipv6(attack.own6(), to, next::ICMPV6, &message)
    };
    let group = nd::solicited_node(victim6);
    let frames = [
        ethernet(
            BROADCAST,
            FORGED,
            ethertype::ARP,
            &packet::arp(1, (FORGED, attack.own4()), ([0; 6], victim4)),
        ),
        ethernet(
            mac,
            FORGED,
            ethertype::ARP,
            &packet::arp(2, (FORGED, attack.own4()), (mac, victim4)),
        ),
        ethernet(
            BROADCAST,
            FORGED,
            ethertype::ARP,
            &packet::arp(1, (FORGED, attack.own4()), ([0; 6], attack.own4())),
        ),
        ethernet(
            nd::group_mac(group),
            FORGED,
            ethertype::IPV6,
            &message(nd::NS, group, &option),
        ),
        ethernet(
            mac,
            FORGED,
            ethertype::IPV6,
            &message(nd::NA, victim6, &nd::option(nd::TARGET, FORGED)),
        ),
        ethernet(
            nd::group_mac(ALL_NODES),
            FORGED,
            ethertype::IPV6,
            &message(nd::NA, ALL_NODES, &nd::option(nd::TARGET, FORGED)),
        ),
        ethernet(
            mac,
            FORGED,
            ethertype::IPV4,
            &packet::udp4(attack.own4(), victim4, 9, b"hello"),
        ),
        ethernet(BROADCAST, FORGED, ethertype::EXPERIMENT, &[0; 50]),
    ];
    for frame in &frames {
        attack.sender.send(frame);
    }
    let mut seen = not_from(attack.lan, &attack.sibling);
    // Reports of group membership, which the attacker's own stack sends when it likes.
    seen.retain(|seen| seen.destination() != [0x33, 0x33, 0, 0, 0, 0x16]);
    // The driver takes only what is honest about its source for a sibling's.
    let to_us = frames.iter().filter(|frame| frame[..6] == mac).count();
    assert_eq!(
        seen.len(),
        frames.len() - differs("own-destination", 0, to_us),
        "each reaches the sibling once: {seen:#?}"
    );
    if differs("one-mac", true, false) {
        assert_one_mac("what a sibling sees", mac, &seen);
    }
    for seen in seen
        .iter()
        .filter(|seen| seen.ethertype() == ethertype::IPV6)
    {
        assert!(
            packet::icmpv6_is_right(&seen.bytes, 54),
            "with the right checksum: {seen:?}"
        );
    }
}

#[test]
fn in_l3_nothing_but_ip_leaves_and_none_of_its_mac_addresses() {
    nothing_but_ip(Mode::L3);
}

#[test]
fn in_l3s_nothing_but_ip_leaves_and_none_of_its_mac_addresses() {
    nothing_but_ip(Mode::L3s);
}

fn nothing_but_ip(mode: Mode) {
    let attack = Attack::new(mode);
    let own4 = attack.own4();
    for to in [attack.lan, BROADCAST, attack.net.mac(), FORGED] {
        let arp = packet::arp(1, (FORGED, own4), ([0; 6], LAN4));
        attack.lost("ARP", &ethernet(to, FORGED, ethertype::ARP, &arp));
        attack.lost(
            "no IP",
            &ethernet(to, FORGED, ethertype::EXPERIMENT, &FORGED),
        );
    }
    let udp = packet::udp4(own4, LAN4, 9, b"hello");
    for to in [attack.lan, attack.net.mac(), FORGED] {
        let seen = attack.rewritten("UDP", &ethernet(to, FORGED, ethertype::IPV4, &udp));
        assert_eq!(
            seen.destination(),
            attack.lan,
            "the host's neighbour decides"
        );
        let six = packet::udp6(attack.own6(), LAN6, 9, b"hello");
        let _: Seen = attack.rewritten("UDP", &ethernet(to, FORGED, ethertype::IPV6, &six));
    }
    let ttl = |ttl| {
        let mut packet = udp.clone();
        packet[8] = ttl;
        packet[10..12].fill(0);
        let sum = packet::checksum(&[&packet[..20]]);
        packet[10..12].copy_from_slice(&sum);
        packet
    };
    let spent = ethernet(attack.lan, FORGED, ethertype::IPV4, &ttl(1));
    if mode == Mode::L3s && differs("l3s-forwarding", true, false) {
        attack.lost("TTL 1", &spent);
    } else {
        let seen = attack.rewritten("TTL 1", &spent);
        assert_eq!(seen.bytes[22], 1, "the TTL is not touched");
    }
    let siblings = attack.sibling.heard();
    assert!(
        siblings.iter().all(|seen| !seen.contains(&FORGED)),
        "siblings see none of it"
    );
}

#[test]
fn nd_from_a_device_in_l3_does_not_forge() {
    // Unicast ND is IP like any other for l3, and what it carries is on the wire all the same.
    for mode in [Mode::L3, Mode::L3s] {
        let attack = Attack::new(mode);
        for (kind, option) in [
            (nd::NS, nd::SOURCE),
            (nd::NA, nd::TARGET),
            (nd::RA, nd::SOURCE),
        ] {
            let frame = attack.nd(kind, &nd::option(option, FORGED), LAN6, &[]);
            let seen = attack.just_send(&format!("ND type {kind}"), &[frame]);
            let forged = seen.iter().any(|seen| seen.contains(&FORGED));
            assert_eq!(
                forged,
                differs("l3-nd", false, true),
                "{mode}: ND type {kind}: {seen:?}"
            );
        }
    }
}
