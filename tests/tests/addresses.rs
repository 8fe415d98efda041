//! Whose an address is: what a device is configured with, while it is; and what it is refused.

#![expect(
    clippy::expect_used,
    reason = "clippy knows a test by its attribute, not the functions beside it"
)]

use std::net::Ipv4Addr;
use std::thread;
use std::time::Duration;

use ipvlan_tests::firewall::nft;
use ipvlan_tests::packet::ethertype;
use ipvlan_tests::wire::Wire;
use ipvlan_tests::{Backend, Done, Mode, Net, Ns, PATIENCE, Seen, Sniffer, differs, eventually};

/// `ip addr add` of an address that a sibling has. Ours cannot veto it; what follows is the same.
#[track_caller]
fn add_duplicate(ns: &Ns, words: &str) {
    let done = ns.try_sh(&format!("ip addr add {words}"));
    if differs("duplicate", true, false) {
        done.expect_quiet();
    } else {
        refused_by_driver(&done);
    }
}

#[track_caller]
fn refused_by_driver(done: &Done) {
    let why = "Address already assigned to an ipvlan device";
    assert!(!done.ok() && done.stderr.contains(why), "{done:?}");
}

/// What our program lists under `key` of a device, "owns" or "refused".
fn listed(net: &Net, device: &str, key: &str) -> Vec<String> {
    let shown = net.shown();
    let mut all = shown.as_array().into_iter().flatten();
    let found = all.find(|shown| shown["ifname"] == device);
    let texts = found.and_then(|shown| shown["ipvlan"][key].as_array());
    let texts = texts.into_iter().flatten();
    texts
        .map(|text| text.as_str().expect("text").to_owned())
        .collect()
}

/// Ours says of an address that a device has that it is refused; the driver has no word for it.
#[track_caller]
fn is_listed_as_refused(net: &Net, device: &str, address: &str) {
    if Backend::is_ours() {
        let refused = listed(net, device, "refused");
        assert!(refused.iter().any(|one| one == address), "{refused:?}");
        assert!(!listed(net, device, "owns").iter().any(|one| one == address));
        let text = net.ipvlan("-d link show").expect();
        let line = |line: &str| line.trim().starts_with("refused ") && line.contains(address);
        assert!(text.lines().any(line), "{text}");
    }
}

#[test]
fn what_is_configured_on_a_device_is_its_own_while_it_is() {
    for mode in Mode::ALL {
        let net = Net::new(mode).devices(2).build();
        let wire = Wire::of(&net);
        let ns = &net.dev(0).ns;
        let kinds = [
            // Another one in the same subnet, in another, and without any.
            ("10.1.0.60", "/24", ""),
            ("10.9.9.9", "/16", ""),
            ("10.1.0.61", "/32", ""),
            ("169.254.7.7", "/16", "scope link"),
            ("10.1.0.62", "/32", "noprefixroute preferred_lft 0"),
            ("fd00::60", "/64", "nodad"),
            ("fd99::9", "/64", "nodad"),
            ("fd00::61", "/128", "nodad"),
            ("fd00::62", "/64", "nodad preferred_lft 0"),
            ("fd00::63", "/64", "nodad mngtmpaddr"),
        ];
        for (address, len, words) in kinds {
            ns.sh(&format!("ip addr add {address}{len} dev ipvl0 {words}"));
        }
        for (address, ..) in kinds {
            if mode == Mode::L3s && address.starts_with("169.254.") {
                // Nobody forwards those.
                if differs("l3s-link-local", false, true) {
                    wire.is_for(address, "ipvl0");
                }
            } else {
                wire.is_for(address, "ipvl0");
            }
        }
        for (address, len, _) in kinds {
            ns.sh(&format!("ip addr del {address}{len} dev ipvl0"));
        }
        for (address, ..) in kinds {
            wire.is_for_nobody(address);
        }
        let [v4, v6] = net.dev(0).addresses();
        for address in [&v4, &v6] {
            wire.is_for(address, "ipvl0");
        }
        // Down it has none, and when it is up again, what its stack has kept.
        ns.sh("ip link set ipvl0 down");
        wire.is_for_nobody(&v4);
        wire.is_for_nobody(&v6);
        ns.sh("ip addr add 10.1.0.63/32 dev ipvl0");
        ns.sh("ip link set ipvl0 up");
        wire.is_for(&v4, "ipvl0");
        wire.is_for("10.1.0.63", "ipvl0");
        wire.is_for(&net.dev(1).v4.to_string(), "ipvl1");
    }
}

#[test]
fn an_address_goes_when_its_time_is_over() {
    let net = Net::new(Mode::L2).devices(1).build();
    let wire = Wire::of(&net);
    let addresses = ["10.1.0.60/32", "fd00::60/128"];
    for address in addresses {
        net.dev(0).ns.sh(&format!(
            "ip addr add {address} dev ipvl0 nodad valid_lft 3 preferred_lft 3"
        ));
    }
    // Until the stack itself has taken them away, they are the device's.
    for address in addresses {
        wire.is_for(address.split('/').next().expect("it"), "ipvl0");
    }
    for address in addresses {
        let address = address.split('/').next().expect("it");
        let has_it = || net.dev(0).ns.read("ip addr show").contains(address);
        assert!(eventually(PATIENCE, || !has_it()), "{address} expires");
        if Backend::is_ours() {
            let owns = || listed(&net, "ipvl0", "owns");
            let gone = || !owns().iter().any(|one| one == address);
            assert!(eventually(PATIENCE, gone), "{:?}", owns());
        }
        wire.is_for_nobody(address);
        // It is free for others.
        net.host.sh(&format!("ip addr add {address} dev lo"));
        wire.is_for(address, "host");
    }
}

#[test]
fn secondary_addresses_go_with_their_primary_or_take_its_place() {
    for promote in [false, true] {
        let net = Net::new(Mode::L2).devices(1).build();
        let wire = Wire::of(&net);
        let ns = &net.dev(0).ns;
        let value = if promote { "1" } else { "0" };
        ns.sysctl("net/ipv4/conf/ipvl0/promote_secondaries", value);
        ns.sh("ip addr add 10.1.0.60/24 dev ipvl0");
        wire.is_for("10.1.0.60", "ipvl0");
        ns.sh("ip addr del 10.1.0.10/24 dev ipvl0");
        wire.is_for_nobody("10.1.0.10");
        if promote {
            wire.is_for("10.1.0.60", "ipvl0");
        } else {
            wire.is_for_nobody("10.1.0.60");
        }
    }
}

#[test]
fn what_is_elsewhere_in_a_namespace_stays_the_hosts() {
    for mode in Mode::ALL {
        let net = Net::new(mode).devices(1).build();
        let wire = Wire::of(&net);
        let ns = &net.dev(0).ns;
        // On lo, and as a whole network by a local route (AnyIP): the namespace would take it.
        for ns in [ns, &net.host] {
            ns.batch(
                "route add local 10.1.0.80/30 dev lo\n\
                 route add local fd00::80/126 dev lo\n\
                 route add local 10.1.0.77/32 dev lo\n\
                 route add local fd00::77/128 dev lo\n",
            );
        }
        ns.batch("addr add 10.1.0.77/32 dev lo\naddr add fd00::77/128 dev lo\n");
        ns.batch("link add a0 type veth peer name b0\nlink set a0 up\nlink set b0 up\n");
        ns.batch("addr add 10.1.0.78/32 dev a0\naddr add fd00::78/128 dev a0 nodad\n");
        ns.sh("ip neigh add proxy 10.1.0.79 dev ipvl0");
        for address in ["10.1.0.77", "fd00::77", "10.1.0.81", "fd00::81"] {
            wire.is_for(address, "host");
        }
        for address in ["10.1.0.78", "fd00::78", "10.1.0.79"] {
            wire.is_for_nobody(address);
        }
        if differs("by-hand", true, false) {
            for address in ["10.1.0.78", "fd00::78"] {
                let line = format!("addr add {address} dev ipvl0");
                net.ipvlan(&line).expect_quiet();
                wire.is_for(address, "ipvl0");
            }
        }
        wire.is_for(&net.dev(0).v4.to_string(), "ipvl0");
    }
}

#[test]
fn the_first_owner_keeps_a_duplicate() {
    for mode in Mode::ALL {
        let net = Net::new(mode).devices(2).build();
        let wire = Wire::of(&net);
        let (first, second) = (&net.dev(0).ns, &net.dev(1).ns);
        for (address, len, nodad) in [("10.1.0.60", 24, ""), ("fd00::60", 64, "nodad")] {
            first.sh(&format!("ip addr add {address}/{len} dev ipvl0 {nodad}"));
            wire.is_for(address, "ipvl0");
            add_duplicate(second, &format!("{address}/{len} dev ipvl1 {nodad}"));
            // A sign of life of the second one, whose other address is counted by now.
            let other = address.replace("60", "69");
            second.sh(&format!("ip addr add {other}/{len} dev ipvl1 {nodad}"));
            wire.is_for(&other, "ipvl1");
            for _ in 0..3 {
                wire.is_for(address, "ipvl0");
            }
            is_listed_as_refused(&net, "ipvl1", address);

            first.sh(&format!("ip addr del {address}/{len} dev ipvl0"));
            if !Backend::is_ours() {
                second.sh(&format!("ip addr add {address}/{len} dev ipvl1 {nodad}"));
            }
            wire.is_for(address, "ipvl1");
            if Backend::is_ours() {
                assert!(!listed(&net, "ipvl1", "refused").contains(&address.to_owned()));
            }
            // Now it is the second one's, whoever comes.
            add_duplicate(first, &format!("{address}/{len} dev ipvl0 {nodad}"));
            thread::sleep(Duration::from_millis(300));
            wire.is_for(address, "ipvl1");
        }
    }
}

#[test]
fn a_duplicate_of_a_device_that_is_down_is_no_duplicate() {
    let net = Net::new(Mode::L2).devices(2).build();
    let wire = Wire::of(&net);
    let (first, second) = (&net.dev(0).ns, &net.dev(1).ns);
    first.sh("ip link set ipvl0 down");
    // IPv6 forgets the addresses of what is down, so that nobody has them.
    second.sh("ip addr add fd00::10/64 dev ipvl1 nodad");
    wire.is_for("fd00::10", "ipvl1");
    let done = second.try_sh("ip addr add 10.1.0.10/24 dev ipvl1");
    if differs("duplicate-down", true, false) {
        done.expect_quiet();
        wire.is_for("10.1.0.10", "ipvl1");
        first.sh("ip link set ipvl0 up");
        thread::sleep(Duration::from_millis(300));
        wire.is_for("10.1.0.10", "ipvl1");
        is_listed_as_refused(&net, "ipvl0", "10.1.0.10");
    } else {
        refused_by_driver(&done);
        wire.is_for_nobody("10.1.0.10");
        first.sh("ip link set ipvl0 up");
        wire.is_for("10.1.0.10", "ipvl0");
    }
}

#[test]
fn one_device_may_have_an_address_twice() {
    let net = Net::new(Mode::L2).devices(1).build();
    let wire = Wire::of(&net);
    let ns = &net.dev(0).ns;
    ns.sh("ip addr add 10.1.0.60/24 dev ipvl0");
    wire.is_for("10.1.0.60", "ipvl0");
    let again = ns.try_sh("ip addr add 10.1.0.60/24 dev ipvl0");
    assert!(!again.ok(), "not with one prefix length: {again:?}");
    ns.sh("ip addr replace 10.1.0.60/24 dev ipvl0 valid_lft 3000 preferred_lft 2000");
    wire.is_for("10.1.0.60", "ipvl0");
    let wider = ns.try_sh("ip addr add 10.1.0.60/16 dev ipvl0");
    if differs("duplicate-own", true, false) {
        wider.expect_quiet();
        ns.sh("ip addr del 10.1.0.60/24 dev ipvl0");
        ns.sh("ip addr add 10.1.0.61/32 dev ipvl0");
        wire.is_for("10.1.0.61", "ipvl0");
        wire.is_for("10.1.0.60", "ipvl0");
        ns.sh("ip addr del 10.1.0.60/16 dev ipvl0");
    } else {
        refused_by_driver(&wider);
        ns.sh("ip addr del 10.1.0.60/24 dev ipvl0");
    }
    wire.is_for_nobody("10.1.0.60");
}

#[test]
fn an_address_is_free_when_its_device_or_namespace_is_gone() {
    let mut net = Net::new(Mode::L2).devices(4).build();
    let taken = |net: &Net, number: u16, address: &str| {
        // What the kernel tears down behind the caller's back takes its time.
        let words = format!("ip addr add {address}/24 dev ipvl3");
        let taken = eventually(PATIENCE, || net.dev(3).ns.try_sh(&words).ok());
        assert!(taken, "{address} of ipvl{number} is free");
        Wire::of(net).is_for(address, "ipvl3");
    };
    net.dev(0).ns.sh("ip link del ipvl0");
    taken(&net, 0, "10.1.0.10");
    let away = net.namespace("away");
    let to = format!("ip link set ipvl1 netns {}", away.name());
    net.dev(1).ns.sh(&to);
    taken(&net, 1, "10.1.0.11");
    let text = away.read("ip addr show ipvl1");
    assert!(
        !text.contains("inet") && !text.contains(",UP"),
        "who moves is down and without addresses: {text}"
    );
    net.devices[2].ns.kill();
    taken(&net, 2, "10.1.0.12");
}

#[test]
fn of_a_point_to_point_address_one_end_is_owned() {
    let net = Net::new(Mode::L2).devices(3).build();
    let wire = Wire::of(&net);
    let [a, b, c] = [0, 1, 2].map(|number| &net.dev(number).ns);
    a.sh("ip addr add 10.1.0.30 peer 10.1.0.31 dev ipvl0");
    let ears = Sniffer::on(a, "ipvl0");
    // On the device itself: its stack would not take what is for the peer.
    let comes = |to: &str| {
        wire.sender.send(&wire.frame(to, b"peer"));
        let to: Ipv4Addr = to.parse().expect("an address");
        let is_it =
            |seen: &Seen| seen.ethertype() == ethertype::IPV4 && seen.bytes[30..34] == to.octets();
        ears.find(Duration::from_millis(300), is_it).is_some()
    };
    let (own, other) = differs(
        "peer-address",
        ("10.1.0.30", "10.1.0.31"),
        ("10.1.0.31", "10.1.0.30"),
    );
    assert!(eventually(PATIENCE, || comes(own)), "{own} is the device's");
    assert!(!comes(other), "{other} is not");
    // The other end is free, and this one is not.
    b.sh(&format!("ip addr add {other}/24 dev ipvl1"));
    wire.is_for(other, "ipvl1");
    add_duplicate(c, &format!("{own}/24 dev ipvl2"));
    is_listed_as_refused(&net, "ipvl2", own);
    assert!(comes(own), "{own} stays the device's");
    a.sh("ip addr del 10.1.0.30 peer 10.1.0.31 dev ipvl0");
    if !Backend::is_ours() {
        c.sh(&format!("ip addr add {own}/24 dev ipvl2"));
    }
    wire.is_for(own, "ipvl2");

    // In IPv6 both know which end is the device's.
    a.sh("ip addr add fd00::30 peer fd00::31/128 dev ipvl0 nodad");
    wire.is_for("fd00::30", "ipvl0");
    b.sh("ip addr add fd00::31/64 dev ipvl1 nodad");
    wire.is_for("fd00::31", "ipvl1");
    add_duplicate(c, "fd00::30/64 dev ipvl2 nodad");
    is_listed_as_refused(&net, "ipvl2", "fd00::30");
    wire.is_for("fd00::30", "ipvl0");
}

#[test]
fn the_hosts_own_address_cannot_be_taken() {
    for mode in Mode::ALL {
        let net = Net::new(mode).devices(2).build();
        let wire = Wire::of(&net);
        let ns = &net.dev(0).ns;
        let whose = differs("parent-address", "host", "ipvl0");
        // Not only the parent's: nothing that the host has on any interface.
        net.host
            .batch("addr add 10.1.0.50/32 dev lo\naddr add fd00::50/128 dev lo\n");
        for address in ["10.1.0.1", "fd00::1", "10.1.0.50", "fd00::50"] {
            let len = if address.contains(':') { 128 } else { 32 };
            wire.is_for(address, "host");
            ns.sh(&format!("ip addr add {address}/{len} dev ipvl0 nodad"));
            thread::sleep(Duration::from_millis(100));
            wire.is_for(address, whose);
            is_listed_as_refused(&net, "ipvl0", address);
            // And where a sibling's frames go by the address alone, they go there, too.
            if mode != Mode::L2 {
                wire.is_said("ipvl1", address, whose);
            }
            ns.sh(&format!("ip addr del {address}/{len} dev ipvl0"));
            wire.is_for(address, "host");
        }
        // Nor does it stay with a device once the host has it.
        for (address, len) in [("10.1.0.51", 32), ("fd00::51", 128)] {
            ns.sh(&format!("ip addr add {address}/{len} dev ipvl0 nodad"));
            wire.is_for(address, "ipvl0");
            net.host
                .sh(&format!("ip addr add {address}/{len} dev eth0 nodad"));
            wire.is_for(address, whose);
            net.host
                .sh(&format!("ip addr del {address}/{len} dev eth0"));
            wire.is_for(address, "ipvl0");
        }
    }
}

#[test]
fn the_address_of_a_next_router_cannot_be_taken() {
    for mode in Mode::ALL {
        let net = Net::new(mode).devices(2).build();
        let ns = &net.dev(1).ns;
        net.host.batch(
            "route add default via 10.1.0.254 dev eth0\n\
             route add default via fd00::254 dev eth0\n",
        );
        let wire = Wire::of(&net).with("lan", &net.lan);
        for (address, len) in [("10.1.0.254", 32), ("fd00::254", 128)] {
            ns.sh(&format!("ip addr add {address}/{len} dev ipvl1 nodad"));
            // A sign of life: what it takes next is its own by now.
            let other = address.replace("254", "69");
            ns.sh(&format!("ip addr add {other}/{len} dev ipvl1 nodad"));
            wire.is_for(&other, "ipvl1");
            is_listed_as_refused(&net, "ipvl1", address);
            let whose = differs("gateway-address", "lan", "ipvl1");
            if mode == Mode::L2 {
                // With the driver both are asked, and the first answer wins.
                net.dev(0).ns.sh("ip neigh flush all");
            }
            if mode != Mode::L2 || Backend::is_ours() {
                wire.is_said("ipvl0", address, whose);
            }
            let line = format!("address add {address} dev ipvl1");
            if Backend::is_ours() {
                net.ipvlan(&line).expect_quiet();
                net.dev(0).ns.sh("ip neigh flush all");
                wire.is_said("ipvl0", address, "ipvl1");
                net.ipvlan(&line.replace(" add ", " del ")).expect_quiet();
            }
        }
    }
}

#[test]
fn what_lies_behind_the_host_cannot_be_taken_in_l3s() {
    let net = Net::new(Mode::L3s).devices(2).build();
    let container = net.namespace("container");
    net.host.batch(&format!(
        "link add docker0 type veth peer name eth0 netns {}\n\
         link set docker0 up\n\
         addr add 172.17.0.1/16 dev docker0\n\
         addr add fd17::1/64 dev docker0 nodad\n",
        container.name()
    ));
    container.batch(
        "link set eth0 up\n\
         addr add 172.17.0.2/16 dev eth0\n\
         addr add 172.18.0.9/32 dev eth0\n\
         addr add fd17::2/64 dev eth0 nodad\n\
         addr add fd18::9/128 dev eth0 nodad\n\
         route add default via 172.17.0.1\n\
         route add default via fd17::1\n",
    );
    net.host.sysctl("net/ipv4/ip_forward", "1");
    net.host.sysctl("net/ipv6/conf/all/forwarding", "1");
    nft(
        &net.host,
        "table ip nat {\n\
         chain post {\n\
         type nat hook postrouting priority srcnat\n\
         oifname \"eth0\" ip saddr 172.17.0.0/16 masquerade\n\
         }\n}",
    );
    assert!(container.reaches("10.1.0.254"), "masqueraded");
    let wire = Wire::of(&net).with("container", &container);
    let ns = &net.dev(0).ns;
    let whose = differs("behind-address", "container", "ipvl0");
    for (address, other, len) in [
        ("172.17.0.2", "172.88.0.2", 32),
        ("fd17::2", "fd88::2", 128),
    ] {
        wire.is_for(address, "container");
        ns.sh(&format!("ip addr add {address}/{len} dev ipvl0 nodad"));
        // A sign of life: what it takes next is its own by now.
        ns.sh(&format!("ip addr add {other}/{len} dev ipvl0 nodad"));
        wire.is_for(other, "ipvl0");
        wire.is_for(address, whose);
        wire.is_said("ipvl1", address, whose);
        is_listed_as_refused(&net, "ipvl0", address);
    }
    let answered = container.answers("10.1.0.254");
    assert_eq!(
        answered,
        differs("behind-address", true, false),
        "whether answers to the container come to it"
    );
    // By a route alone, which comes and goes.
    for (address, len) in [("172.18.0.9", 32), ("fd18::9", 128)] {
        ns.sh(&format!("ip addr add {address}/{len} dev ipvl0 nodad"));
        wire.is_for(address, "ipvl0");
        net.host
            .sh(&format!("ip route add {address}/{len} dev docker0"));
        wire.is_for(address, whose);
        net.host
            .sh(&format!("ip route del {address}/{len} dev docker0"));
        wire.is_for(address, "ipvl0");
    }
    // Where everybody else is, is nobody's place.
    net.host.batch(
        "route add default via 172.17.0.2 dev docker0\n\
         route add 128.0.0.0/1 via 172.17.0.2 dev docker0\n\
         route add default via fd17::2 dev docker0\n\
         route add 2000::/3 via fd17::2 dev docker0\n",
    );
    for (address, len) in [("198.51.100.7", 32), ("2001:db8::7", 128)] {
        ns.sh(&format!("ip addr add {address}/{len} dev ipvl0 nodad"));
        wire.is_for(address, "ipvl0");
    }
    // By name it may be had, and in l3, where nothing is forwarded to a device.
    if Backend::is_ours() {
        net.ipvlan("addr add 172.17.0.2 dev ipvl0").expect_quiet();
        wire.is_for("172.17.0.2", "ipvl0");
        net.ipvlan("addr del 172.17.0.2 dev ipvl0").expect_quiet();
        wire.is_for("172.17.0.2", "container");
    }
    for mode in ["l3", "l3s"] {
        let words = format!("link set dev ipvl0 type ipvlan mode {mode}");
        net.ip(ns, &words).expect_quiet();
        for address in ["172.17.0.2", "fd17::2"] {
            wire.is_for(address, if mode == "l3" { "ipvl0" } else { whose });
        }
    }
}

#[test]
fn what_is_on_the_parents_lan_is_not_behind_the_host() {
    let net = Net::new(Mode::L3s).devices(1).build();
    let done = net
        .host
        .try_sh("ip link add shim link eth0 type macvlan mode bridge");
    assert_eq!(done.ok(), differs("shared-parent", true, false), "{done:?}");
    if !done.ok() {
        return;
    }
    net.host.batch(
        "link set shim up\n\
         addr add 10.7.0.1/24 dev shim\n\
         addr add fd07::1/64 dev shim nodad\n",
    );
    let wire = Wire::of(&net);
    let ns = &net.dev(0).ns;
    // The parent's subnet, and that of a macvlan device on it.
    let all = [
        "10.1.0.60/32",
        "fd00::60/128",
        "10.7.0.60/32",
        "fd07::60/128",
    ];
    for address in all {
        ns.sh(&format!("ip addr add {address} dev ipvl0 nodad"));
        let (address, _) = address.split_once('/').expect("a length");
        wire.is_for(address, "ipvl0");
    }
    // A host that bridges its NIC has its addresses on the bridge.
    net.host.batch(
        "link add br0 type bridge\n\
         link set br0 up\n\
         addr flush dev eth0\n\
         addr add 10.1.0.1/24 dev br0\n\
         addr add fd00::1/64 dev br0 nodad\n\
         link del shim\n\
         link set eth0 master br0\n",
    );
    ns.sh("ip addr add 10.1.0.61/32 dev ipvl0");
    let owns = || listed(&net, "ipvl0", "owns");
    let all = ["10.1.0.60", "fd00::60", "10.1.0.61"];
    let owned = || all.iter().all(|one| owns().iter().any(|own| own == one));
    assert!(eventually(PATIENCE, owned), "{:?}", owns());
    assert_eq!(listed(&net, "ipvl0", "refused"), [] as [&str; 0]);
}

#[test]
fn a_next_router_is_one_however_a_route_names_it() {
    for compat in ["1", "0"] {
        next_routers_by_any_route(compat);
    }
}

/// With this `net.ipv4.nexthop_compat_mode`.
fn next_routers_by_any_route(compat: &str) {
    let net = Net::new(Mode::L2).devices(1).build();
    net.host.sysctl("net/ipv4/nexthop_compat_mode", compat);
    let ns = &net.dev(0).ns;
    net.host.batch(
        "route add 10.50.0.0/16 nexthop via 10.1.0.201 dev eth0 nexthop via 10.1.0.202 dev eth0\n\
         nexthop add id 1 via 10.1.0.203 dev eth0\n\
         nexthop add id 2 via 10.1.0.204 dev eth0\n\
         nexthop add id 3 group 1/2\n\
         nexthop add id 4 via fd00::205 dev eth0\n\
         route add 10.51.0.0/16 nhid 3\n\
         route add fd52::/64 nhid 4\n\
         route add 10.52.0.0/16 via 10.1.0.205 dev eth0 table 100\n\
         route add 10.53.0.0/16 via inet6 fe80::201 dev eth0\n\
         route add fd50::/64 via fe80::202 dev eth0\n\
         route add fd51::/64 nexthop via fd00::203 dev eth0 nexthop via fd00::204 dev eth0\n",
    );
    let routers = [
        "10.1.0.201",
        "10.1.0.202",
        "10.1.0.203",
        "10.1.0.204",
        "10.1.0.205",
        "fe80::201",
        "fe80::202",
        "fd00::203",
        "fd00::204",
        "fd00::205",
    ];
    for address in routers {
        let len = if address.contains(':') { 128 } else { 32 };
        ns.sh(&format!("ip addr add {address}/{len} dev ipvl0 nodad"));
    }
    ns.sh("ip addr add 10.1.0.69/32 dev ipvl0");
    let wire = Wire::of(&net);
    wire.is_for("10.1.0.69", "ipvl0");
    for address in routers {
        is_listed_as_refused(&net, "ipvl0", address);
        if differs("gateway-address", true, false) {
            wire.is_for_nobody(address);
        } else {
            wire.is_for(address, "ipvl0");
        }
    }
    // It is one for as long as it is.
    net.host.batch(
        "route del 10.50.0.0/16\n\
         nexthop del id 1\n\
         nexthop del id 2\n\
         nexthop del id 4\n\
         route del 10.52.0.0/16 table 100\n\
         route del 10.53.0.0/16\n\
         route del fd50::/64\n\
         route del fd51::/64\n",
    );
    for address in routers {
        wire.is_for(address, "ipvl0");
    }
}

#[test]
fn of_devices_beside_their_parent_none_takes_its_address() {
    let net = Net::new(Mode::L2).build();
    for name in ["one", "two"] {
        net.ip(
            &net.host,
            &format!("link add link eth0 name {name} type ipvlan mode l2"),
        )
        .expect_quiet();
        net.host.sh(&format!("ip link set {name} up"));
    }
    let wire = Wire::of(&net);
    let ears = ["one", "two"].map(|name| Sniffer::on(&net.host, name));
    let comes = |ears: &Sniffer, to: [u8; 4]| {
        let is_it = |seen: &Seen| seen.ethertype() == ethertype::IPV4 && seen.bytes[30..34] == to;
        let found = ears.find(Duration::from_millis(300), is_it);
        found.is_some()
    };
    let hears = |at: usize, to: &str| {
        wire.sender.send(&wire.frame(to, b"beside"));
        let to: Ipv4Addr = to.parse().expect("an address");
        comes(&ears[at], to.octets())
    };
    net.host.sh("ip addr add 10.1.0.40/32 dev one");
    assert!(
        eventually(PATIENCE, || hears(0, "10.1.0.40")),
        "a sign of life"
    );
    net.host.sh("ip addr add 10.1.0.1/32 dev one");
    add_duplicate(&net.host, "10.1.0.40/32 dev two");
    net.host.sh("ip addr add 10.1.0.41/32 dev two");
    assert!(
        eventually(PATIENCE, || hears(1, "10.1.0.41")),
        "a sign of life"
    );
    assert!(!hears(1, "10.1.0.40"), "the first one keeps its own");
    assert!(hears(0, "10.1.0.40"), "the first one keeps its own");
    assert_eq!(hears(0, "10.1.0.1"), differs("parent-address", false, true));
    is_listed_as_refused(&net, "one", "10.1.0.1");
    is_listed_as_refused(&net, "two", "10.1.0.40");
}

#[test]
fn an_address_of_the_world_is_a_devices_if_it_says_so() {
    // Nothing that the host has or needs: a sibling speaks to the device then.
    for mode in [Mode::L3, Mode::L3s] {
        let net = Net::new(mode).devices(2).build();
        net.dev(1).ns.sh("ip addr add 8.8.8.8/32 dev ipvl1");
        let wire = Wire::of(&net);
        wire.is_for("8.8.8.8", "ipvl1");
        wire.is_said("ipvl0", "8.8.8.8", "ipvl1");
    }
}
