//! IP packets: for a device, for the parent, for all, for nobody, and broken ones.

use std::net::{Ipv4Addr, Ipv6Addr};

use ipvlan_tests::packet::{ALL_NODES, BROADCAST, FORGED, Mac, nd};
use ipvlan_tests::{HOST4, HOST6, LAN4, LAN6, Net, packet};

use crate::table::Table;
use crate::table::Who::{Differ, Filter, Same};
use crate::{FREE4, FREE6, PORT, v4, v6};

/// The matrix of who gets which frame.
pub(crate) fn cases(table: &mut Table, net: &Net) {
    let mac = net.mac();
    let [one, down] = [net.dev(1), net.dev(2)];
    let four =
        |to: Mac, address| move |tag: Mac| v4(to, tag, &packet::udp4(LAN4, address, PORT, &tag));
    let six =
        |to: Mac, address| move |tag: Mac| v6(to, tag, &packet::udp6(LAN6, address, PORT, &tag));
    let h = [Same("h"); 3];
    let its = [Same("1"), Same("1"), Same("h1")];
    let all = [Same("h01"), Same("h"), Same("h")];
    table.add("IPv4 for a device", its, four(mac, one.v4));
    table.add("IPv6 for a device", its, six(mac, one.v6));
    table.add("IPv4 for the parent", h, four(mac, HOST4));
    table.add("IPv6 for the parent", h, six(mac, HOST6));
    table.add("IPv4 for nobody", h, four(mac, FREE4));
    table.add("IPv6 for nobody", h, six(mac, FREE6));
    table.add("IPv4 for a device that is down", h, four(mac, down.v4));
    table.add("IPv6 for a device that is down", h, six(mac, down.v6));
    table.add("127.0.0.1", h, four(mac, Ipv4Addr::LOCALHOST));
    let lan_broadcast = Ipv4Addr::new(10, 1, 0, 255);
    table.add("broadcast", all, four(BROADCAST, lan_broadcast));
    table.add(
        "limited broadcast",
        all,
        four(BROADCAST, Ipv4Addr::BROADCAST),
    );
    let hosts = Ipv4Addr::new(224, 0, 0, 1);
    table.add(
        "all hosts (everybody is a member)",
        all,
        four([1, 0, 0x5e, 0, 0, 1], hosts),
    );
    table.add(
        "all nodes (everybody is a member)",
        all,
        six(nd::group_mac(ALL_NODES), ALL_NODES),
    );
    let group = [
        Filter("multicast-filter", "h01", "h", "01"),
        Same("h"),
        Same("h"),
    ];
    let nobodys = Ipv4Addr::new(239, 5, 6, 7);
    table.add(
        "an IPv4 group without members",
        group,
        four([1, 0, 0x5e, 5, 6, 7], nobodys),
    );
    let nobodys: Ipv6Addr = "ff05::5:6".parse().expect("a group");
    table.add(
        "an IPv6 group without members",
        group,
        six(nd::group_mac(nobodys), nobodys),
    );
    // In l3s of the driver the stack takes it, whatever the MAC address says.
    let grouped = [
        Same("h01"),
        Differ("l3-group", "h", "1"),
        Differ("l3-group", "h", "h1"),
    ];
    table.add(
        "IPv4 for a device, to all by its MAC address",
        grouped,
        four(BROADCAST, one.v4),
    );
    let foreign = [
        Differ("foreign-mac", "h", "1"),
        Differ("foreign-mac", "h", "1"),
        Same("h"),
    ];
    table.add(
        "IPv4 for a device, foreign MAC address",
        foreign,
        four(FORGED, one.v4),
    );
    table.add(
        "IPv6 for a device, foreign MAC address",
        foreign,
        six(FORGED, one.v6),
    );
    let plain = |change: fn(&mut Vec<u8>)| {
        let address = one.v4;
        move |tag: Mac| {
            let mut packet = packet::udp4(LAN4, address, PORT, &tag);
            change(&mut packet);
            v4(mac, tag, &packet)
        }
    };
    // A checksum of the header that is wrong is for the receiver to find, and in l3s for the host.
    let looked_up = [Same("1"), Same("1"), Same("h")];
    table.add(
        "a wrong header checksum",
        looked_up,
        plain(|packet| packet[10] ^= 1),
    );
    let spent = [Same("1"), Same("1"), Differ("l3s-forwarding", "h", "h1")];
    table.add(
        "TTL 1",
        spent,
        plain(|packet| {
            packet[8] = 1;
            packet[10..12].fill(0);
            let sum = packet::checksum(&[&packet[..20]]);
            packet[10..12].copy_from_slice(&sum);
        }),
    );
    // Without the others, no socket hears of it.
    let piece = [Same("1"), Same("1"), Differ("l3s-forwarding", "h1", "h")];
    table.add(
        "a fragment that is not the first",
        piece,
        plain(|packet| {
            packet[6..8].copy_from_slice(&[0x20, 3]);
            packet[10..12].fill(0);
            let sum = packet::checksum(&[&packet[..20]]);
            packet[10..12].copy_from_slice(&sum);
        }),
    );
    for (what, change) in [
        ("IHL 4", (|packet| packet[0] = 0x44) as fn(&mut Vec<u8>)),
        ("version 5", |packet| packet[0] = 0x55),
        ("longer than the frame", |packet| packet[3] += 1),
        ("shorter than its header", |packet| packet[3] = 19),
        ("10 bytes of IPv4", |packet| packet.truncate(10)),
        ("nothing of IPv4", Vec::clear),
    ] {
        table.add(what, h, plain(change));
    }
    let whole = packet::udp6(LAN6, one.v6, PORT, b"");
    table.add("30 bytes of IPv6", h, |tag| v6(mac, tag, &whole[..30]));
    table.add("IPv6, version 7", h, |tag| {
        let mut packet = whole.clone();
        packet[0] = 0x70;
        v6(mac, tag, &packet)
    });
}
