//! ARP and neighbour discovery: questions, answers, probes, announcements.

use std::net::{Ipv4Addr, Ipv6Addr};

use ipvlan_tests::packet::{
    ALL_NODES, BROADCAST, Mac, ethernet, ethertype, icmpv6, ipv6, nd, next,
};
use ipvlan_tests::{HOST4, Net, packet};

use crate::table::Table;
use crate::table::Who::{Differ, Filter, Same};
use crate::{FREE4, FREE6};

/// A message of neighbour discovery without options.
fn nd_frame(
    to: Mac,
    from: Mac,
    (source, destination): (Ipv6Addr, Ipv6Addr),
    kind: u8,
    target: Ipv6Addr,
) -> Vec<u8> {
    let message = icmpv6(source, destination, kind, &nd::body(kind, target, &[]));
    let packet = ipv6(source, destination, next::ICMPV6, &message);
    ethernet(to, from, ethertype::IPV6, &packet)
}

/// Questions, and what looks like one.
pub(crate) fn cases(table: &mut Table, net: &Net) {
    let mac = net.mac();
    let one = net.dev(1);
    let arp = |to: Mac, operation, sender, target| {
        move |tag: Mac| {
            let payload = packet::arp(operation, (tag, sender), ([0; 6], target));
            ethernet(to, tag, ethertype::ARP, &payload)
        }
    };
    let zero = Ipv4Addr::UNSPECIFIED;
    let h = [Same("h"); 3];
    let all = [Same("h01"), Same("h"), Same("h")];
    let asked = [
        Differ("question", "1", "h01"),
        Differ("l3-arp", "h", "1"),
        Same("h"),
    ];
    let asked_another = [Differ("question", "h", "h01"), Same("h"), Same("h")];
    let its = [Same("1"), Differ("l3-arp", "h", "1"), Same("h")];
    for (what, sender) in [("question", FREE4), ("probe", zero)] {
        table.add(
            &format!("ARP {what} for a device"),
            asked,
            arp(BROADCAST, 1, sender, one.v4),
        );
    }
    for (what, target) in [
        ("the parent", HOST4),
        ("nobody", Ipv4Addr::new(10, 1, 0, 201)),
        ("a device that is down", net.dev(2).v4),
    ] {
        table.add(
            &format!("ARP question for {what}"),
            asked_another,
            arp(BROADCAST, 1, FREE4, target),
        );
    }
    table.add(
        "ARP probe for an address that is free",
        all,
        arp(BROADCAST, 1, zero, Ipv4Addr::new(10, 1, 0, 202)),
    );
    for (what, operation) in [("request", 1), ("reply", 2)] {
        table.add(
            &format!("unicast ARP {what} for a device"),
            its,
            arp(mac, operation, FREE4, one.v4),
        );
        table.add(
            &format!("unicast ARP {what} for the parent"),
            h,
            arp(mac, operation, FREE4, HOST4),
        );
        table.add(
            &format!("ARP announcement, {what}"),
            all,
            arp(BROADCAST, operation, FREE4, FREE4),
        );
    }
    table.add(
        "answer to an ARP probe",
        [Differ("probe-answer", "h01", "h"), Same("h"), Same("h")],
        arp(mac, 2, FREE4, zero),
    );
    for (what, to, who) in [
        ("ARP cut short", mac, h),
        ("ARP cut short, to all", BROADCAST, all),
    ] {
        table.add(what, who, |tag| {
            let payload = packet::arp(1, (tag, FREE4), ([0; 6], one.v4));
            ethernet(to, tag, ethertype::ARP, &payload[..20])
        });
    }
    let group = nd::solicited_node(one.v6);
    let to_group = nd::group_mac(group);
    let solicited = [Filter("question", "1", "h1", "0"), Same("h"), Same("h")];
    table.add("solicitation for a device", solicited, |tag| {
        nd_frame(to_group, tag, (FREE6, group), nd::NS, one.v6)
    });
    table.add(
        "solicitation by duplicate address detection",
        [
            Filter("question", "1", "h1", "0"),
            Differ("l3-group", "h", "1"),
            Same("h"),
        ],
        |tag| {
            let between = (Ipv6Addr::UNSPECIFIED, group);
            nd_frame(to_group, tag, between, nd::NS, one.v6)
        },
    );
    table.add(
        "unicast solicitation for a device",
        [Same("1"), Same("1"), Same("h")],
        |tag| nd_frame(mac, tag, (FREE6, one.v6), nd::NS, one.v6),
    );
    table.add(
        "solicitation by duplicate address detection, unicast by its MAC address",
        [Same("1"), Differ("l3-group", "h", "1"), Same("h")],
        |tag| {
            let between = (Ipv6Addr::UNSPECIFIED, group);
            nd_frame(mac, tag, between, nd::NS, one.v6)
        },
    );
    table.add(
        "duplicate address detection for an address that is free",
        [
            Filter("multicast-filter", "h01", "h", "01"),
            Same("h"),
            Same("h"),
        ],
        |tag| {
            let group = nd::solicited_node(FREE6);
            let between = (Ipv6Addr::UNSPECIFIED, group);
            nd_frame(nd::group_mac(group), tag, between, nd::NS, FREE6)
        },
    );
    for (what, kind) in [("advertisement", nd::NA), ("router advertisement", nd::RA)] {
        table.add(&format!("{what} to all nodes"), all, |tag| {
            let to = nd::group_mac(ALL_NODES);
            nd_frame(to, tag, (FREE6, ALL_NODES), kind, FREE6)
        });
    }
}
