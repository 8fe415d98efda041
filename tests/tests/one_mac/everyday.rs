//! Devices, hosts and bridges that mean no harm.

use ipvlan_tests::packet::{FORGED, ethertype, mac_text};
use ipvlan_tests::{Mode, Net, Seen, Sniffer, differs};

use crate::{assert_one_mac, not_from};

#[test]
fn a_day_in_the_life_of_two_namespaces_shows_one_mac() {
    for mode in Mode::ALL {
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
    for mode in Mode::ALL {
        let mut net = Net::new(mode).build();
        // A router joins groups on its interfaces, and says so.
        net.host.sysctl("net/ipv6/conf/all/forwarding", "1");
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
        // The kernel takes a second before it tells of groups.
        std::thread::sleep(std::time::Duration::from_millis(1200));
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
            let group: Vec<_> = seen
                .iter()
                .filter(|seen| seen.destination()[0] & 1 != 0)
                .collect();
            assert!(
                group.is_empty(),
                "{mode}: a device hears nothing that is for a group: {group:?}"
            );
        }
    }
}

#[test]
fn the_host_end_has_nothing_to_say_where_its_parent_goes_either() {
    let net = Net::new(Mode::L2).devices(1).build();
    let dev = net.dev(0);
    let away = net.namespace("away");
    away.sysctl("net/ipv6/conf/all/forwarding", "1");
    assert!(net.lan.reaches(&dev.v4.to_string()), "the device works");
    let ears = Sniffer::on(&dev.ns, "ipvl0");
    let known = [net.mac(), net.lan.mac("lan0")];
    net.host
        .sh(&format!("ip link set eth0 netns {}", away.name()));
    away.sh("ip link set eth0 up");
    assert!(net.lan.reaches(&dev.v4.to_string()), "and does there");
    // The kernel takes a second for each address and group.
    std::thread::sleep(std::time::Duration::from_millis(2500));
    let mut strangers = ears.heard();
    strangers.retain(|seen| !known.contains(&seen.source()));
    assert!(strangers.is_empty(), "{strangers:?}");
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
