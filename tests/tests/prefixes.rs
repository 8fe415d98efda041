//! Addresses and prefixes that a device has by hand (`ipvlan addr add`) and not, or not all of them, on
//! itself. The driver delivers only what a device has, so this file is for ours alone.

#![expect(
    clippy::expect_used,
    reason = "clippy knows a test by its attribute, not the functions beside it"
)]

use std::net::IpAddr;

use ipvlan_tests::ns::Ns;
use ipvlan_tests::wire::Wire;
use ipvlan_tests::{Mode, Net, PATIENCE, eventually, kernel_is_since, traffic};

fn mac_text(mac: [u8; 6]) -> String {
    mac.map(|byte| format!("{byte:02x}")).join(":")
}

const MODES: [Mode; 3] = [Mode::L2, Mode::L3, Mode::L3s];

/// Gives it, and sees that it is owned at once.
#[track_caller]
fn give(net: &Net, prefix: &str, device: &str) {
    net.ipvlan(&format!("addr add {prefix} dev {device}"))
        .expect_quiet();
    let text = net.ipvlan(&format!("addr show dev {device}")).expect();
    let line = format!(" {prefix} owned granted\n");
    assert!(text.contains(&line), "{text}");
}

#[track_caller]
fn take(net: &Net, prefix: &str, device: &str) {
    net.ipvlan(&format!("addr del {prefix} dev {device}"))
        .expect_quiet();
    let text = net.ipvlan(&format!("addr show dev {device}")).expect();
    assert!(!text.contains(prefix), "{text}");
}

/// A namespace that has no way out but by the first device's, which forwards for it: 10.9.0.77 and
/// fd09::77.
fn behind_the_first(net: &Net) -> Ns {
    let behind = net.namespace("behind");
    let router = &net.dev(0).ns;
    router.sysctl("net/ipv4/ip_forward", "1");
    router.sysctl("net/ipv6/conf/all/forwarding", "1");
    router.batch(&format!(
        "link add r0 type veth peer name b0 netns {}\n\
         link set r0 up\n\
         addr add 10.9.0.1/24 dev r0\n\
         addr add fd09::1/64 dev r0 nodad\n",
        behind.name()
    ));
    behind.batch(
        "link set b0 up\n\
         addr add 10.9.0.77/24 dev b0\n\
         addr add fd09::77/64 dev b0 nodad\n\
         route add default via 10.9.0.1\n\
         route add ::/0 via fd09::1\n",
    );
    router.hurry("r0");
    behind.hurry("b0");
    behind
}

/// The way of `ns` to the first device's prefixes: by that device where it is a neighbour, else by
/// whatever way leads to all devices.
fn route(net: &Net, ns: &Ns, prefix: &str) {
    let first = net.dev(0);
    let is_lan = ns.name() == net.lan.name();
    let via = match (net.mode, prefix.contains(':')) {
        (Mode::L2, false) => first.v4.to_string(),
        (Mode::L2, true) => first.v6.to_string(),
        (_, false) if is_lan => "10.1.0.1".to_owned(),
        (_, true) if is_lan => "fd00::1".to_owned(),
        // The default route does.
        _ => return,
    };
    ns.sh(&format!("ip route add {prefix} via {via}"));
}

#[track_caller]
fn talks(what: &str, server: &Ns, address: &str, client: &Ns) {
    let address: IpAddr = address.parse().expect("an address");
    let done = traffic::tcp(server, address, client, 200_000);
    assert!(done.is_ok(), "{what}: {address}: {done:?}");
}

const BEHIND: [(&str, &str); 2] = [("10.9.0.0/24", "10.9.0.77"), ("fd09::/64", "fd09::77")];

#[test]
fn a_subnet_behind_a_device_is_reached_from_the_wire_and_by_siblings() {
    for mode in MODES {
        let net = Net::new(mode).devices(2).build();
        let behind = behind_the_first(&net);
        for (prefix, address) in BEHIND {
            for ns in [&net.lan, &net.dev(1).ns] {
                route(&net, ns, prefix);
                assert!(!ns.answers(address), "{mode}: nobody said that it is there");
            }
            assert!(net.dev(0).ns.reaches(address), "but the router knows it");
            give(&net, prefix, "ipvl0");
            talks(
                &format!("{mode}, from the wire"),
                &behind,
                address,
                &net.lan,
            );
            let sibling = &net.dev(1).ns;
            talks(&format!("{mode}, a sibling"), &behind, address, sibling);
            // And the other way round.
            let [v4, v6] = net.dev(1).addresses();
            let back = if address.contains(':') { v6 } else { v4 };
            talks(&format!("{mode}, to a sibling"), sibling, &back, &behind);

            take(&net, prefix, "ipvl0");
            assert!(!net.lan.answers(address), "{mode}: it is nobody's any more");
            assert!(!sibling.answers(address), "{mode}: it is nobody's any more");
        }
        if mode == Mode::L3s {
            for table in ["ip route show table all", "ip -6 route show table all"] {
                let routes = net.host.read(table);
                assert!(
                    !routes.contains("10.9.") && !routes.contains("fd09:"),
                    "{routes}"
                );
            }
        }
    }
}

#[test]
fn a_host_that_checks_sources_lets_a_subnet_behind_a_device_through() {
    let net = Net::new(Mode::L3s).devices(1).build();
    net.host.sysctl("net/ipv4/conf/all/rp_filter", "1");
    let behind = behind_the_first(&net);
    let (prefix, address) = BEHIND[0];
    give(&net, prefix, "ipvl0");
    route(&net, &net.lan, prefix);
    talks("rp_filter", &behind, address, &net.lan);
}

#[test]
fn private_devices_keep_their_subnets_to_themselves() {
    for mode in MODES {
        let net = Net::new(mode).flag("private").devices(2).build();
        let _behind = behind_the_first(&net);
        for (prefix, address) in BEHIND {
            give(&net, prefix, "ipvl0");
            route(&net, &net.lan, prefix);
            assert!(net.lan.reaches(address), "{mode}: the wire is no sibling");
            route(&net, &net.dev(1).ns, prefix);
            assert!(!net.dev(1).ns.answers(address), "{mode}");
        }
    }
}

#[test]
fn an_address_on_lo_and_a_local_prefix_are_reached() {
    for mode in MODES {
        let net = Net::new(mode).devices(2).build();
        let own = &net.dev(0).ns;
        // In l2 those of IPv4 are the LAN's neighbours, and found by ARP: any interface of a host
        // answers for all of its addresses. Of IPv6 that is not so.
        let all = [
            ("10.1.0.80", "10.1.0.80", "addr add 10.1.0.80/32 dev lo"),
            (
                "10.1.0.128/26",
                "10.1.0.150",
                "route add local 10.1.0.128/26 dev lo",
            ),
            ("fd09:1::80", "fd09:1::80", "addr add fd09:1::80/128 dev lo"),
            (
                "fd09:2::/64",
                "fd09:2::beef",
                "-6 route add local fd09:2::/64 dev lo",
            ),
        ];
        for (prefix, address, line) in all {
            own.sh(&format!("ip {line}"));
            for ns in [&net.lan, &net.dev(1).ns] {
                if mode != Mode::L2 || prefix.contains(':') {
                    route(&net, ns, prefix);
                }
                assert!(!ns.answers(address), "{mode}: nobody said that it is there");
            }
            give(&net, prefix, "ipvl0");
            talks(&format!("{mode}, from the wire"), own, address, &net.lan);
            talks(&format!("{mode}, a sibling"), own, address, &net.dev(1).ns);
            take(&net, prefix, "ipvl0");
            assert!(net.lan.loses(address), "{mode}: {address} is nobody's");
        }
    }
}

#[test]
fn a_device_may_answer_questions_for_its_prefix_in_the_place_of_others() {
    let net = Net::new(Mode::L2).devices(2).build();
    let behind = net.namespace("behind");
    let router = &net.dev(0).ns;
    router.sysctl("net/ipv4/ip_forward", "1");
    router.sysctl("net/ipv4/conf/ipvl0/proxy_arp", "1");
    router.sysctl("net/ipv4/neigh/ipvl0/proxy_delay", "0");
    router.sysctl("net/ipv6/conf/all/forwarding", "1");
    router.sysctl("net/ipv6/conf/ipvl0/proxy_ndp", "1");
    router.sysctl("net/ipv6/neigh/ipvl0/proxy_delay", "0");
    router.batch(&format!(
        "link add r0 type veth peer name b0 netns {}\n\
         link set r0 up\n\
         addr add 169.254.1.1/32 dev r0\n\
         addr add fe80::1/64 dev r0 nodad\n\
         route add 10.1.0.150/32 dev r0\n\
         route add fd00::1:77/128 dev r0\n\
         neigh add proxy fd00::1:77 dev ipvl0\n",
        behind.name()
    ));
    behind.batch(
        "link set b0 up\n\
         addr add 10.1.0.150/32 dev b0\n\
         addr add fd00::1:77/128 dev b0 nodad\n\
         route add 169.254.1.1 dev b0\n\
         route add default via 169.254.1.1 dev b0\n\
         route add ::/0 via fe80::1 dev b0\n",
    );
    for (prefix, address) in [
        ("10.1.0.128/26", "10.1.0.150"),
        ("fd00::1:0/112", "fd00::1:77"),
    ] {
        assert!(router.reaches(address), "the router knows it");
        assert!(!net.lan.answers(address), "nobody said that it is there");
        give(&net, prefix, "ipvl0");
        for ns in [&net.lan, &net.dev(1).ns] {
            ns.sh("ip neigh flush all");
            talks(ns.name(), &behind, address, ns);
        }
    }
}

#[test]
fn the_longest_goes_first_and_what_others_have_stays_theirs() {
    for mode in MODES {
        let net = Net::new(mode).devices(2).build();
        let wire = Wire::of(&net);
        for dev in &net.devices {
            dev.ns.sh("ip route add local 10.9.0.0/16 dev lo");
            dev.ns.sh("ip -6 route add local fd09::/32 dev lo");
        }
        for [long, short, inside, beside, host] in [
            [
                "10.9.1.0/24",
                "10.9.0.0/16",
                "10.9.1.5",
                "10.9.2.5",
                "10.9.2.6",
            ],
            [
                "fd09:0:1::/48",
                "fd09::/32",
                "fd09:0:1::5",
                "fd09:0:2::5",
                "fd09:0:2::6",
            ],
        ] {
            wire.is_for_nobody(inside);
            give(&net, short, "ipvl0");
            wire.is_for(inside, "ipvl0");
            give(&net, long, "ipvl1");
            wire.is_for(inside, "ipvl1");
            wire.is_for(beside, "ipvl0");
            // What the other has in it.
            let len = if inside.contains(':') { 128 } else { 32 };
            let other = &net.dev(1).ns;
            other.sh(&format!("ip addr add {beside}/{len} dev ipvl1 nodad"));
            wire.is_for(beside, "ipvl1");
            other.sh(&format!("ip addr del {beside}/{len} dev ipvl1"));
            wire.is_for(beside, "ipvl0");
            // What the host has.
            wire.is_for(host, "ipvl0");
            net.host.sh(&format!("ip addr add {host}/{len} dev lo"));
            wire.is_for(host, "host");
            give(&net, host, "ipvl0");
            // In l3s the host's own is the host's, by hand or not.
            wire.is_for(host, if mode == Mode::L3s { "host" } else { "ipvl0" });
            take(&net, host, "ipvl0");
            // Down it owns nothing.
            other.sh("ip link set ipvl1 down");
            wire.is_for(inside, "ipvl0");
            other.sh("ip link set ipvl1 up");
            wire.is_for(inside, "ipvl1");
            take(&net, long, "ipvl1");
            wire.is_for(inside, "ipvl0");
            take(&net, short, "ipvl0");
            wire.is_for_nobody(inside);
        }
    }
}

#[test]
fn the_router_in_a_prefix_stays_out_there() {
    for mode in MODES {
        let net = Net::new(mode).devices(2).build();
        let own = &net.dev(0).ns;
        let sibling = &net.dev(1).ns;
        let mac = mac_text(net.mac());
        for [prefix, router, other, default] in [
            ["10.1.0.128/25", "10.1.0.254", "10.1.0.200", "default"],
            ["fd00::200/119", "fd00::254", "fd00::300", "::/0"],
        ] {
            let wire = Wire::of(&net).with("lan", &net.lan);
            // Whatever reaches it, it takes for its own. But for IPv6 it does not answer when it is
            // asked for its MAC address; who asks goes without an answer.
            own.sh(&format!("ip route add local {prefix} dev lo"));
            let is_mute = mode == Mode::L2 && router.contains(':');
            if is_mute {
                let line = format!("ip neigh add {other} lladdr {mac} dev ipvl1 nud permanent");
                sibling.sh(&line);
            }
            net.host.sh(&format!("ip route add {default} via {router}"));
            let is_with = |name: &str| {
                let found = eventually(PATIENCE, || {
                    sibling.sh("ip neigh flush all");
                    match name {
                        "ipvl0" if is_mute => !sibling.answers(router),
                        _ => wire.says("ipvl1", router, name),
                    }
                });
                assert!(found, "{mode}: {router} is with {name}");
            };
            give(&net, prefix, "ipvl0");
            wire.is_said("ipvl1", other, "ipvl0");
            is_with("lan");
            if mode == Mode::L2 {
                let found = sibling.neighbour(router);
                assert!(found.contains(&mac_text(net.lan.mac("lan0"))), "{found}");
            }
            // By itself it may be given.
            give(&net, router, "ipvl0");
            is_with("ipvl0");
            take(&net, router, "ipvl0");
            is_with("lan");
            // No router any more.
            net.host.sh(&format!("ip route del {default} via {router}"));
            is_with("ipvl0");
            take(&net, prefix, "ipvl0");
            own.sh(&format!("ip route del local {prefix} dev lo"));
        }
    }
}

#[test]
fn prefixes_go_along_with_the_parent_there_and_back() {
    let net = Net::new(Mode::L2).devices(2).build();
    let behind = behind_the_first(&net);
    for (prefix, _) in BEHIND {
        give(&net, prefix, "ipvl0");
        route(&net, &net.lan, prefix);
    }
    let away = net.namespace("away");
    // So that the numbers are others there.
    for number in 0..20 {
        away.sh(&format!(
            "ip link add d{number} type veth peer name e{number}"
        ));
    }
    if !kernel_is_since(6, 6) {
        // Nobody tells an agent's successor where the parent is; see `handover`.
        return;
    }
    for (from, to) in [(&net.host, &away), (&away, &net.host)] {
        from.sh(&format!("ip link set eth0 netns {}", to.name()));
        to.sh("ip link set eth0 up");
        for (_, address) in BEHIND {
            assert!(net.lan.reaches(address), "{address} in {}", to.name());
        }
        talks(to.name(), &behind, "10.9.0.77", &net.lan);
    }
    for (prefix, _) in BEHIND {
        take(&net, prefix, "ipvl0");
    }
}

#[test]
fn without_an_agent_a_prefix_is_followed_by_the_calls_alone() {
    let net = Net::new(Mode::L3).devices(2).build();
    let _behind = behind_the_first(&net);
    let (prefix, address) = BEHIND[0];
    route(&net, &net.lan, prefix);
    for agent in net.agents() {
        ipvlan_tests::process::kill_hard(agent);
    }
    give(&net, prefix, "ipvl0");
    assert!(net.lan.reaches(address), "the call itself does it");
    // A device that is gone holds nothing, even if nobody has seen it go.
    net.dev(0).ns.sh("ip link del ipvl0");
    give(&net, prefix, "ipvl1");
    // It starts the agent that sees to the end of all.
    net.ipvlan("link add link eth0 name last type ipvlan mode l3")
        .expect_quiet();
}

#[test]
fn the_neighbours_of_an_address_by_hand_are_told_of_a_new_mac_address() {
    let net = Net::new(Mode::L2).devices(1).build();
    net.dev(0).ns.sh("ip addr add 10.1.0.80/32 dev lo");
    give(&net, "10.1.0.80", "ipvl0");
    assert!(net.lan.reaches("10.1.0.80"));
    net.host.sh("ip link set eth0 address 02:00:00:00:55:07");
    let told = || net.lan.neighbour("10.1.0.80").contains("02:00:00:00:55:07");
    assert!(eventually(PATIENCE, told), "without a question");
}

#[test]
fn after_the_last_device_no_prefix_is_left() {
    for mode in MODES {
        let net = Net::new(mode).devices(1).build();
        for (prefix, _) in BEHIND {
            give(&net, prefix, "ipvl0");
        }
        net.dev(0).ns.sh("ip link del ipvl0");
        net.assert_clean();
        for table in ["ip route show table all", "ip -6 route show table all"] {
            let routes = net.host.read(table);
            assert!(
                !routes.contains("10.9.") && !routes.contains("fd09:"),
                "{routes}"
            );
        }
    }
}
