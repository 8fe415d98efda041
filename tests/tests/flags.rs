//! bridge, private, vepa: who may talk to whom.

#![expect(
    clippy::expect_used,
    reason = "clippy knows a test by its attribute, not the functions beside it"
)]

use std::net::IpAddr;
use std::time::Duration;

use ipvlan_tests::traffic::Ear;
use ipvlan_tests::{Backend, Mode, Net, Sniffer};

fn broadcast_reaches(net: &Net) -> [bool; 2] {
    let any: IpAddr = "10.1.0.254".parse().expect("an address");
    let [sibling, lan] = [Ear::on(&net.dev(1).ns, any), Ear::on(&net.lan, any)];
    Ear::on(&net.dev(0).ns, any).say("10.1.0.255".parse().expect("it"), 0, b"to all");
    [sibling, lan].map(|ear| ear.hears(b"to all", Duration::from_millis(400)).is_some())
}

#[test]
fn bridge_siblings_talk_directly() {
    for mode in [Mode::L2, Mode::L3] {
        let net = Net::new(mode).flag("bridge").devices(2).build();
        let wire = Sniffer::on(&net.lan, "lan0");
        for address in net.dev(1).addresses() {
            assert!(
                net.dev(0).ns.reaches(&address),
                "{mode}: {address} is a sibling"
            );
        }
        let seen = wire.heard();
        let leaked = seen.iter().filter(|seen| {
            seen.contains(&net.dev(1).v4.octets())
                && seen.contains(&net.dev(0).v4.octets())
                && seen.ethertype() == 0x0800
        });
        assert_eq!(leaked.count(), 0, "{mode}: and the wire has nothing of it");
    }
    assert_eq!(
        broadcast_reaches(&Net::new(Mode::L2).flag("bridge").devices(2).build()),
        [true, true]
    );
}

#[test]
fn private_siblings_do_not_hear_each_other() {
    for mode in [Mode::L2, Mode::L3] {
        let net = Net::new(mode).flag("private").devices(2).build();
        for (from, to) in [(0, 1), (1, 0)] {
            for address in net.dev(to).addresses() {
                assert!(
                    !net.dev(from).ns.answers(&address),
                    "{mode}: private isolates siblings: {address}"
                );
            }
        }
        for dev in &net.devices {
            assert!(
                dev.ns.reaches("10.1.0.254"),
                "{mode}: the wire stays reachable"
            );
            assert!(
                dev.ns.reaches("fd00::254"),
                "{mode}: the wire stays reachable"
            );
        }
    }
}

#[test]
fn private_siblings_do_not_hear_each_other_s_broadcast() {
    let net = Net::new(Mode::L2).flag("private").devices(2).build();
    // Row T12: the driver lets broadcast through.
    let siblings = !Backend::is_ours();
    assert_eq!(broadcast_reaches(&net), [siblings, true]);
}

#[test]
fn private_stops_unicast_also_with_static_neighbours() {
    let net = Net::new(Mode::L2).flag("private").devices(2).build();
    let mac = ipvlan_tests::packet::mac_text(net.mac());
    for (own, other) in [(0, 1), (1, 0)] {
        let [v4, v6] = net.dev(other).addresses();
        let dev = net.dev(own);
        dev.ns.sh(&format!(
            "ip neigh replace {v4} lladdr {mac} dev {} nud permanent",
            dev.name
        ));
        dev.ns.sh(&format!(
            "ip neigh replace {v6} lladdr {mac} dev {} nud permanent",
            dev.name
        ));
    }
    for address in net.dev(1).addresses() {
        assert!(
            !net.dev(0).ns.answers(&address),
            "{address} is out of reach"
        );
    }
}

#[test]
fn vepa_sends_siblings_by_way_of_the_wire() {
    let net = Net::new(Mode::L2).flag("vepa").devices(2).build();
    let mac = ipvlan_tests::packet::mac_text(net.mac());
    let [v4, _] = net.dev(1).addresses();
    net.dev(0).ns.sh(&format!(
        "ip neigh replace {v4} lladdr {mac} dev ipvl0 nud permanent"
    ));
    let wire = Sniffer::on(&net.lan, "lan0");
    assert!(
        !net.dev(0).ns.answers(&v4),
        "this LAN has no switch that sends it back"
    );
    let seen = wire.heard();
    let out = seen
        .iter()
        .find(|seen| seen.ethertype() == 0x0800 && seen.contains(&net.dev(1).v4.octets()));
    let out = out.expect("vepa: what is for a sibling is on the wire");
    assert_eq!(
        out.destination(),
        net.mac(),
        "from the parent's MAC address to itself"
    );
    assert_eq!(
        out.source(),
        net.mac(),
        "from the parent's MAC address to itself"
    );
    assert_eq!(
        broadcast_reaches(&net),
        [true, true],
        "broadcast goes to both, as in the driver"
    );
}

#[test]
fn vepa_works_with_a_switch_that_sends_it_back() {
    // A hairpin: what comes in on lan0 for the parent's MAC address goes out there again.
    let net = Net::new(Mode::L2).flag("vepa").devices(2).build();
    let mac = ipvlan_tests::packet::mac_text(net.mac());
    for (own, other) in [(0, 1), (1, 0)] {
        let [v4, _] = net.dev(other).addresses();
        let dev = net.dev(own);
        dev.ns.sh(&format!(
            "ip neigh replace {v4} lladdr {mac} dev {} nud permanent",
            dev.name
        ));
    }
    net.lan.batch("link add sw0 type bridge\nlink set sw0 up\naddr flush dev lan0\nlink set lan0 master sw0\n");
    net.lan
        .sh("bridge link set dev lan0 hairpin on learning off");
    assert!(
        net.dev(0).ns.reaches(&net.dev(1).v4.to_string()),
        "siblings meet at the switch"
    );
}

#[test]
fn vepa_in_l3_leaves_siblings_to_the_host_s_routes() {
    let net = Net::new(Mode::L3).flag("vepa").devices(2).build();
    net.host
        .batch("route add 10.2.0.0/16 via 10.1.0.254\nroute add fd02::/16 via fd00::254\n");
    net.lan.sysctl("net/ipv4/ip_forward", "1");
    net.lan.sysctl("net/ipv6/conf/all/forwarding", "1");
    let wire = Sniffer::on(&net.lan, "lan0");
    for address in net.dev(1).addresses() {
        assert!(
            net.dev(0).ns.reaches(&address),
            "the router sends it back: {address}"
        );
    }
    let seen = wire.heard();
    assert!(
        seen.iter()
            .any(|seen| seen.contains(&net.dev(1).v4.octets())),
        "it was on the wire"
    );
}
