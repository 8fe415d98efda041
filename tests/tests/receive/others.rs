//! What is not IP, what has a tag, and what we sent ourselves.

use std::net::Ipv4Addr;

use ipvlan_tests::packet::{ALL_NODES, BROADCAST, FORGED, Mac, ethernet, ethertype, ipv4, nd};
use ipvlan_tests::{HOST4, LAN4, Net, packet};

use crate::table::Table;
use crate::table::Who::{Differ, Filter, Same};
use crate::{FREE4, LLDP, PAUSE, PORT, v4};

/// The rest: other EtherTypes, tags, reflections, tunnels.
pub(crate) fn cases(table: &mut Table, net: &Net) {
    let mac = net.mac();
    let [zero, one] = [net.dev(0), net.dev(1)];
    let h = [Same("h"); 3];
    let all = [Same("h01"), Same("h"), Same("h")];
    for (what, to, kind, who) in [
        ("another EtherType", mac, ethertype::EXPERIMENT, h),
        (
            "another EtherType, foreign MAC address",
            FORGED,
            ethertype::EXPERIMENT,
            h,
        ),
        (
            "another EtherType to all",
            BROADCAST,
            ethertype::EXPERIMENT,
            all,
        ),
        (
            "another EtherType to a group",
            nd::group_mac(ALL_NODES),
            ethertype::EXPERIMENT,
            all,
        ),
        ("PAUSE", [1, 0x80, 0xc2, 0, 0, 1], PAUSE, h),
        ("PAUSE, unicast", mac, PAUSE, h),
        (
            "LLDP",
            [1, 0x80, 0xc2, 0, 0, 14],
            LLDP,
            [
                Filter("multicast-filter", "h", "h", "01"),
                Same("h"),
                Same("h"),
            ],
        ),
    ] {
        table.add(what, who, |tag| ethernet(to, tag, kind, &tag));
    }
    // Tags. The kernel takes the tag out before anybody looks, so the stack hears IPv4.
    let inside = |tag: Mac| packet::udp4(LAN4, one.v4, PORT, &tag);
    let tagged = |to: Mac, outer: u16, id: u16, tag: Mac| {
        let payload = [
            &id.to_be_bytes()[..],
            &ethertype::IPV4.to_be_bytes(),
            &inside(tag),
        ];
        ethernet(to, tag, outer, &payload.concat())
    };
    let stays = [
        Differ("vlan-tag", "h", "1"),
        Differ("vlan-tag", "h", "1"),
        Same("h"),
    ];
    for kind in [ethertype::VLAN, 0x88a8] {
        table.add(&format!("VLAN 10 by {kind:x}"), stays, |tag| {
            tagged(mac, kind, 10, tag)
        });
    }
    table.add(
        "VLAN 10 to all",
        [
            Differ("vlan-tag", "h", "h01"),
            Differ("vlan-tag", "h", "1"),
            Same("h"),
        ],
        |tag| tagged(BROADCAST, ethertype::VLAN, 10, tag),
    );
    table.add(
        "VLAN 0, which is a priority",
        [Same("1"), Same("1"), Same("h1")],
        |tag| tagged(mac, ethertype::VLAN, 0xe000, tag),
    );
    // What we sent ourselves, and a switch sent back.
    let reflected = [Differ("reflection", "h", "h01"), Same("h"), Same("h")];
    let arp = |sender: Ipv4Addr, target, tag: Mac| {
        let mut payload = packet::arp(1, (mac, sender), ([0; 6], target));
        payload.extend(tag);
        ethernet(BROADCAST, mac, ethertype::ARP, &payload)
    };
    table.add("a device's ARP question, reflected", h, |tag| {
        arp(zero.v4, FREE4, tag)
    });
    table.add("an ARP probe, reflected", reflected, |tag| {
        arp(Ipv4Addr::UNSPECIFIED, FREE4, tag)
    });
    table.add("the parent's ARP question, reflected", reflected, |tag| {
        arp(HOST4, FREE4, tag)
    });
    let udp = |source, destination, tag: Mac| {
        v4(
            BROADCAST,
            mac,
            &packet::udp4(source, destination, PORT, &tag),
        )
    };
    table.add("a device's broadcast, reflected", h, |tag| {
        udp(zero.v4, Ipv4Addr::new(10, 1, 0, 255), tag)
    });
    table.add("a DHCP client's broadcast, reflected", reflected, |tag| {
        udp(Ipv4Addr::UNSPECIFIED, Ipv4Addr::BROADCAST, tag)
    });
    table.add(
        "from a sibling, by way of a switch that sends it back",
        [Same("1"), Same("1"), Same("h1")],
        |tag| v4(mac, mac, &packet::udp4(zero.v4, one.v4, PORT, &tag)),
    );
    // Nothing inside of a tunnel is looked at.
    table.add("IPv4 in IPv4 for the parent", h, |tag| {
        v4(mac, tag, &ipv4(LAN4, HOST4, 4, &inside(tag)))
    });
}
