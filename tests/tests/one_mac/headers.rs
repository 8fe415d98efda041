//! The Ethernet header, and what may stand behind it instead of IP and ARP: VLAN tags, the
//! protocols of bridges, nothing at all.

use std::time::Duration;

use ipvlan_tests::packet::{
    ALL_NODES, BROADCAST, FORGED, ethernet, ethertype, icmpv6, ipv6, nd, next,
};
use ipvlan_tests::{LAN4, LAN6, Mode, Seen, differs, packet};

use crate::{Attack, FREE6, assert_one_mac, not_from};

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
