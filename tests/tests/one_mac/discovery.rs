//! IPv6 neighbour discovery (RFC 4861): options, extension headers, fragments, and checksums that
//! are written later.

use std::time::Duration;

use ipvlan_tests::packet::{
    ALL_NODES, FORGED, ethernet, ethertype, icmpv6, ipv6, mac_text, nd, next,
};
use ipvlan_tests::sniff::Sender;
use ipvlan_tests::{LAN4, LAN6, Mode, PATIENCE, differs, eventually, packet};

use crate::{Attack, FREE6};

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
