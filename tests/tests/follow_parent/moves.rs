//! A parent that goes to another namespace: devices stay attached, and whoever follows it may come late,
//! be killed over it, or not get there.

use std::net::Ipv4Addr;
use std::os::fd::AsFd as _;
use std::time::Duration;

use ipvlan_netlink::{LinkChange, Netlink};
use ipvlan_tests::packet::{self, ethertype, mac_text};
use ipvlan_tests::process::kill_hard;
use ipvlan_tests::sniff::Sender;
use ipvlan_tests::{
    Backend, Mode, Net, Ns, PATIENCE, Sniffer, differs, eventually, kernel_is_since,
};

use crate::{addresses6, all_works, carrier_becomes, keeps_carrier, routes};

/// The parent is in `ns` now, and configured as it was on the host.
fn settle(net: &Net, ns: &Ns) {
    ns.hurry("eth0");
    if net.mode == Mode::L3s && Backend::is_ours() && !kernel_is_since(6, 17) {
        // As the fixture does on the host, and for the same row: l3s-forwarding.
        ns.sysctl("net/ipv6/conf/all/forwarding", "1");
    }
    ns.batch(
        "link set eth0 up\n\
         addr add 10.1.0.1/24 dev eth0\n\
         addr add fd00::1/64 dev eth0 nodad\n",
    );
    carrier_becomes(net, true, "after the parent has moved");
}

#[test]
fn a_parent_may_go_to_another_namespace_and_come_back() {
    for mode in Mode::ALL {
        let net = Net::new(mode).devices(2).build();
        let away = net.namespace("away");
        // So that the indexes of parent and host ends are taken where they go.
        for number in 0..3 {
            away.sh(&format!(
                "ip link add a{number} type veth peer name b{number}"
            ));
        }
        let kept = (addresses6(&net), routes(&net));
        let agents = net.agents().len();
        net.host
            .sh(&format!("ip link set eth0 netns {}", away.name()));
        carrier_becomes(&net, keeps_carrier(), "a parent that moves is down");
        settle(&net, &away);
        all_works(&net, "through a parent in another namespace");
        let after = (addresses6(&net), routes(&net));
        assert_eq!(after, kept, "{mode}: they keep addresses and routes");
        // They are followed, there.
        let (more4, _) = ipvlan_tests::device::addresses(mode, 40);
        net.dev(0)
            .ns
            .sh(&format!("ip addr add {more4}/24 dev ipvl0"));
        assert!(
            net.lan.reaches(&more4.to_string()),
            "{mode}: a new address is owned"
        );
        let third = net.namespace("third");
        let words = format!(
            "link add link eth0 name ipvl2 netns {} type ipvlan mode {mode}",
            third.name()
        );
        net.ip(&away, &words).expect_quiet();
        let (v4, _) = ipvlan_tests::device::addresses(mode, 2);
        third.batch(&format!(
            "link set ipvl2 up\naddr add {v4}/24 dev ipvl2\nroute add default dev ipvl2\n"
        ));
        assert!(
            net.dev(0).ns.reaches(&v4.to_string()),
            "{mode}: a new one is a sibling"
        );
        let done = net.ip(&third, "link del ipvl2");
        assert!(done.ok(), "{mode}: {done:?}");
        if Backend::is_ours() {
            // Nothing stays where it was.
            let left: Vec<String> = net.host.links();
            assert_eq!(left, ["lo"], "{mode}: links on the host");
            let gone = || !net.state().exists() && net.agents().len() == agents;
            assert!(
                eventually(PATIENCE, gone),
                "{mode}: state and agent move, too"
            );
            let rules = net.host.read("ip rule") + &net.host.read("ip -6 rule");
            assert!(
                !rules.contains("eth0"),
                "{mode}: rules on the host: {rules}"
            );
        }
        away.sh(&format!("ip link set eth0 netns {}", net.host.name()));
        carrier_becomes(&net, keeps_carrier(), "a parent that moves is down");
        settle(&net, &net.host);
        all_works(&net, "through a parent that came back");
        assert!(
            net.lan.reaches(&more4.to_string()),
            "{mode}: all addresses are owned"
        );
    }
}

#[test]
fn devices_may_go_while_their_parent_is_elsewhere() {
    let mut net = Net::new(Mode::L2).devices(2).build();
    let away = net.namespace("away");
    net.host
        .sh(&format!("ip link set eth0 netns {}", away.name()));
    away.batch("link set eth0 up\naddr add 10.1.0.1/24 dev eth0\n");
    for dev in &net.devices {
        assert!(net.lan.reaches(&dev.v4.to_string()), "it takes them along");
    }
    assert!(net.lan.reaches("10.1.0.1"), "the parent works where it is");
    net.devices.clear();
    net.assert_clean();
}

#[test]
fn a_host_that_a_parent_has_left_forwards_nothing_for_its_devices() {
    let net = Net::new(Mode::L3s).devices(1).build();
    let (away, far) = (net.namespace("away"), net.namespace("far"));
    net.host.batch(&format!(
        "link add uplink type veth peer name far0 netns {}\n\
         link set uplink up\n\
         route add 192.0.2.0/24 dev uplink\n\
         neigh add 192.0.2.1 lladdr 02:00:00:00:00:01 dev uplink\n\
         addr add 2001:db8::2/64 dev uplink nodad\n\
         neigh add 2001:db8::1 lladdr 02:00:00:00:00:01 dev uplink\n",
        far.name()
    ));
    far.sh("ip link set far0 up");
    let (wire, dev) = (Sniffer::on(&far, "far0"), net.dev(0));
    let sender = Sender::on(&dev.ns, "ipvl0");
    let (four, six) = (Ipv4Addr::new(192, 0, 2, 1), "2001:db8::1");
    let six = six.parse().expect("an address");
    let packets = |word: &[u8]| {
        [
            (ethertype::IPV4, packet::udp4(dev.v4, four, 9, word)),
            (ethertype::IPV6, packet::udp6(dev.v6, six, 9, word)),
        ]
    };
    let mac = net.mac();
    for (kind, packet) in packets(b"here") {
        let comes = eventually(PATIENCE / 10, || {
            // The driver looks for a route by way of the parent, and may find none.
            let _: Result<(), _> = sender.try_send(&packet::ethernet(mac, mac, kind, &packet));
            let timeout = Duration::from_millis(100);
            let seen = wire.find(timeout, |seen| seen.contains(b"here"));
            seen.is_some()
        });
        // The driver asks for a route by way of the parent; for IPv6, where there is none, it takes any.
        let wanted = differs("l3s-forwarding", true, kind == ethertype::IPV6);
        assert_eq!(comes, wanted, "{kind:04x}: a host forwards by its routes");
    }
    // As long as nobody has seen it, too.
    for agent in net.agents() {
        kill_hard(agent);
    }
    net.host
        .sh(&format!("ip link set eth0 netns {}", away.name()));
    for (kind, packet) in packets(b"gone") {
        // The driver's device has no carrier by now.
        let _: Result<(), _> = sender.try_send(&packet::ethernet(mac, mac, kind, &packet));
    }
    let timeout = Duration::from_millis(500);
    let seen = wire.find(timeout, |seen| seen.contains(b"gone"));
    assert_eq!(seen, None, "nothing of the device's");
    let words = "link add link eth0 name more type ipvlan";
    if Backend::is_ours() && !is_found_again() {
        // Back home, an agent sees to the end of all.
        away.sh(&format!("ip link set eth0 netns {}", net.host.name()));
        net.ip(&net.host, words).expect_quiet();
    } else if Backend::is_ours() {
        // Whoever calls next, there, takes them over, and what was counted.
        net.ip(&away, words).expect_quiet();
        let stats = net.program().run(&away, "-j stats").expect();
        let all: serde_json::Value = serde_json::from_str(&stats).expect("JSON");
        let mut all = all.as_array().into_iter().flatten();
        let found = all.find(|one| one["ifname"] == "ipvl0").expect("ipvl0");
        assert_eq!(found["drops"]["not_routed"], 2, "{stats}");
    }
}

#[test]
fn a_parent_may_go_where_its_device_is_and_leave_the_one_that_stayed() {
    let mut net = Net::new(Mode::L2).devices(1).build();
    // One more, that stays with the parent.
    net.ip(
        &net.host,
        "link add link eth0 name local type ipvlan mode l2",
    )
    .expect_quiet();
    net.host
        .batch("link set local up\naddr add 10.1.0.50/32 dev local\n");
    let _: u16 = net.add();
    net.dev(1).configure();
    let home = &net.dev(0).ns;
    net.host
        .sh(&format!("ip link set eth0 netns {}", home.name()));
    home.batch("link set eth0 up\n");
    carrier_becomes(&net, true, "where a device is");
    net.host
        .batch("route add 10.1.0.0/24 dev local src 10.1.0.50\n");
    assert!(net.lan.reaches("10.1.0.11"), "a device elsewhere");
    assert!(
        net.lan.reaches("10.1.0.50"),
        "the device that the parent left behind"
    );
    assert!(net.host.reaches("10.1.0.254"), "and it reaches");
    // The parent has no address here; the device that is now beside it answers for its own.
    assert!(
        home.reaches("10.1.0.254"),
        "the device beside the parent reaches"
    );
    net.lan.sh(&format!(
        "ip neigh replace 10.1.0.10 lladdr {} dev lan0",
        mac_text(home.mac("eth0"))
    ));
    assert!(net.lan.reaches("10.1.0.10"), "and is reached");
}

/// Whether a parent is found again that nobody saw going where it is. Ours asks a tcx link.
fn is_found_again() -> bool {
    differs("parent-moves", kernel_is_since(6, 6), true)
}

#[test]
fn a_parent_that_wanders_on_is_followed() {
    let net = Net::new(Mode::L2).devices(2).build();
    let places = [
        net.namespace("p0"),
        net.namespace("p1"),
        net.namespace("p2"),
    ];
    let way: Vec<&Ns> = (0..4).flat_map(|_| places.iter()).collect();
    let mut from = &net.host;
    // Faster than anybody can follow.
    for to in way {
        from.sh(&format!("ip link set eth0 netns {}", to.name()));
        from = to;
    }
    if is_found_again() {
        settle(&net, from);
        all_works(&net, "at the end of the way");
    }
    from.sh("ip link del eth0");
    for dev in &net.devices {
        let gone = || dev.ns.find_link(&dev.name).is_none();
        assert!(eventually(PATIENCE, gone), "{} goes with it", dev.name);
    }
    if Backend::is_ours() {
        assert!(
            eventually(PATIENCE, || net.agents().is_empty()),
            "no agent stays"
        );
        for ns in places.iter().chain([&net.host]) {
            let left: Vec<String> = ns.links();
            assert_eq!(left, ["lo"], "links in {}", ns.name());
        }
    }
}

#[test]
fn a_parent_that_goes_where_nobody_can_follow_may_come_back() {
    let net = Net::new(Mode::L2).devices(2).build();
    // A namespace without a name, a mount or a process: nothing but this descriptor holds it.
    let mut nowhere = net.namespace("nowhere");
    let handle = nowhere.handle().try_clone().expect("a descriptor");
    nowhere.kill();
    let index = net.host.index("eth0");
    net.host.enter(|| {
        let mut nl = Netlink::open().expect("netlink");
        nl.move_link(index, handle.as_fd(), None).expect("moved");
    });
    if !is_found_again() {
        for dev in &net.devices {
            let gone = || dev.ns.find_link(&dev.name).is_none();
            assert!(eventually(PATIENCE, gone), "{} goes", dev.name);
        }
        return;
    }
    carrier_becomes(&net, keeps_carrier(), "a parent that moves is down");
    let there = || {
        let mut nl = Netlink::open().expect("netlink");
        let link = nl.link_by_name("eth0").expect("netlink").expect("eth0");
        let up = LinkChange {
            up: Some(true),
            ..LinkChange::default()
        };
        nl.set_link(link.index, &up).expect("up");
        link.index
    };
    let index = handle.enter(there).expect("root may enter");
    std::thread::sleep(Duration::from_millis(300));
    let has = net.dev(0).ns.link("ipvl0").has_carrier();
    assert_eq!(
        has,
        differs("parent-moves", false, true),
        "where nobody finds it"
    );
    // Another parent with devices is not concerned, whatever is called meanwhile.
    net.host
        .batch("link add eth7 type veth peer name wire7\nlink set eth7 up\nlink set wire7 up\n");
    net.ip(
        &net.host,
        "link add link eth7 name other0 type ipvlan mode l3",
    )
    .expect_quiet();
    let done = net.ip(&net.host, "link del other0");
    assert!(done.ok(), "{done:?}");
    for dev in &net.devices {
        assert!(dev.ns.find_link(&dev.name).is_some(), "{} waits", dev.name);
    }
    let back = || {
        let mut nl = Netlink::open().expect("netlink");
        nl.move_link(index, net.host.handle().as_fd(), None)
            .expect("moved");
    };
    handle.enter(back).expect("root may enter");
    settle(&net, &net.host);
    all_works(&net, "when it is back");
}

#[test]
fn whoever_is_killed_over_a_move_leaves_it_to_the_next_call() {
    let net = Net::new(Mode::L2).devices(2).build();
    let away = net.namespace("away");
    away.sh("ip link add a0 type veth peer name b0");
    for ns in [&net.host, &away] {
        ns.sh("ip link add spare type veth peer name spare0");
    }
    let (mut from, mut to) = (&net.host, &away);
    for micros in [0, 300, 1_000, 2_000, 4_000, 9_000, 20_000, 60_000] {
        from.sh(&format!("ip link set eth0 netns {}", to.name()));
        std::thread::sleep(Duration::from_micros(micros));
        for agent in net.agents() {
            kill_hard(agent);
        }
        // A call on either side does; without a link to ask, one where the devices are.
        let (place, parent) = match is_found_again() {
            true => (to, "eth0"),
            false => (from, "spare"),
        };
        let words = format!("link add link {parent} name more type ipvlan mode l2");
        net.ip(place, &words).expect_quiet();
        let done = net.ip(place, "link del more");
        assert!(done.ok(), "killed after {micros} µs: {done:?}");
        if is_found_again() {
            settle(&net, to);
            all_works(&net, &format!("after a kill at {micros} µs"));
        }
        if Backend::is_ours() {
            let left: Vec<String> = from
                .links()
                .into_iter()
                .filter(|name| name.starts_with("ipv"))
                .collect();
            assert!(left.is_empty(), "killed after {micros} µs: {left:?} stayed");
        }
        (from, to) = (to, from);
    }
}

#[test]
fn a_namespace_that_dies_with_a_parent_in_it_takes_all_with_it() {
    let mut net = Net::new(Mode::L2).devices(2).build();
    let mut away = net.namespace("away");
    net.host
        .sh(&format!("ip link set eth0 netns {}", away.name()));
    settle(&net, &away);
    all_works(&net, "before it dies");
    away.kill();
    for dev in &net.devices {
        let gone = || dev.ns.find_link(&dev.name).is_none();
        assert!(
            eventually(PATIENCE, gone),
            "{} goes with its parent",
            dev.name
        );
    }
    net.devices.clear();
    if Backend::is_ours() {
        net.assert_clean();
    }
}
