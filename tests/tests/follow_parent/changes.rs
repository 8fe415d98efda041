//! A parent that stays where it is and changes, up to its end.

#![expect(
    clippy::expect_used,
    reason = "clippy knows a test by its attribute, not the functions beside it"
)]

use std::time::Duration;

use ipvlan_netlink::{Event, Monitor};
use ipvlan_tests::packet::mac_text;
use ipvlan_tests::{Backend, Mode, Net, Ns, PATIENCE, Sniffer, differs, eventually, traffic};

use crate::{addresses6, all_works, carrier_becomes, keeps_carrier, routes};

const MODES: [Mode; 2] = [Mode::L2, Mode::L3];

#[test]
fn devices_have_carrier_while_the_parent_has() {
    for mode in MODES {
        let net = Net::new(mode).devices(2).build();
        let kept = addresses6(&net);
        let before = routes(&net);
        for (down, up, ns) in [
            ("ip link set eth0 down", "ip link set eth0 up", &net.host),
            ("ip link set lan0 down", "ip link set lan0 up", &net.lan),
        ] {
            ns.sh(down);
            let kept = ns.name() == net.host.name() && keeps_carrier();
            carrier_becomes(&net, kept, down);
            for dev in &net.devices {
                let link = dev.ns.link(&dev.name);
                assert!(link.is_up(), "{mode}: {} stays up without it", dev.name);
            }
            let sibling = net.dev(1).v4.to_string();
            // The kernel takes up to a second until it sends no more.
            let as_carrier = || net.dev(0).ns.answers(&sibling) == kept;
            assert!(
                eventually(PATIENCE, as_carrier),
                "{mode}: siblings after {down}: {}",
                !kept
            );
            ns.sh(up);
            carrier_becomes(&net, true, up);
            // An interface that went down has lost its IPv6 addresses, and the routes over it.
            if ns.name() == net.host.name() {
                net.host.batch("addr replace fd00::1/64 dev eth0 nodad\n");
            } else {
                let back = [
                    "ip -6 addr replace fd00::254/64 dev lan0 nodad",
                    "ip route replace 10.2.0.0/16 via 10.1.0.1",
                    "ip -6 route replace fd02::/16 via fd00::1",
                ];
                for line in back {
                    net.lan.sh(line);
                }
            }
            all_works(&net, &format!("after {up}"));
        }
        let after = addresses6(&net);
        assert_eq!(after, kept, "{mode}: they keep their addresses");
        let after = routes(&net);
        assert_eq!(after, before, "{mode}: and their routes");
    }
}

/// Whether something was said of this link in its own namespace.
fn was_told(monitor: &mut Monitor, index: u32) -> bool {
    let events = monitor.drain().expect("netlink");
    events.iter().any(|event| {
        matches!(event, Event::Link { ns: None, index: found, removed: false, .. } if *found == index)
    })
}

#[test]
fn devices_take_the_parent_s_new_mac_address() {
    for mode in MODES {
        let net = Net::new(mode).devices(2).build();
        let before = addresses6(&net);
        let mut monitors: Vec<Monitor> = net
            .devices
            .iter()
            .map(|dev| dev.ns.enter(Monitor::open).expect("a monitor"))
            .collect();
        for new in [[2, 0, 0, 0, 0x12, 0x34], [2, 0, 0, 0, 0x12, 0x35]] {
            for (dev, monitor) in net.devices.iter().zip(&mut monitors) {
                let _: bool = was_told(monitor, dev.ns.index(&dev.name));
            }
            net.host
                .sh(&format!("ip link set eth0 address {}", mac_text(new)));
            for (dev, monitor) in net.devices.iter().zip(&mut monitors) {
                let has = || dev.ns.mac(&dev.name) == new;
                assert!(eventually(PATIENCE, has), "{mode}: {} has it", dev.name);
                let index = dev.ns.index(&dev.name);
                let told = eventually(PATIENCE, || was_told(monitor, index));
                assert!(told, "{mode}: {}'s namespace is told", dev.name);
            }
            let wire = Sniffer::on(&net.lan, "lan0");
            net.lan.sh("ip neigh flush all");
            all_works(&net, "by the new address");
            let seen = wire.heard();
            assert!(!seen.is_empty(), "{mode}: the wire saw them answer");
            let strangers: Vec<_> = seen.iter().filter(|seen| seen.source() != new).collect();
            assert!(
                strangers.is_empty(),
                "{mode}: the wire sees the new one only: {strangers:?}"
            );
        }
        let after = addresses6(&net);
        assert_eq!(after, before, "{mode}: IPv6 addresses stay");
    }
}

#[test]
fn devices_take_the_parent_s_mtu_up_and_down() {
    let net = Net::new(Mode::L2).mtu(1500).devices(3).build();
    // Whatever they were given.
    net.dev(1).ns.sh("ip link set ipvl1 mtu 1400");
    net.dev(2).ns.sh("ip link set ipvl2 mtu 9000");
    let mtu6 = |ns: &Ns, name: &str| -> u32 {
        let path = format!("/proc/sys/net/ipv6/conf/{name}/mtu");
        let text = ns.enter(|| std::fs::read_to_string(&path)).expect("IPv6");
        text.trim().parse().expect("a number")
    };
    let first = net.dev(0);
    assert_eq!(mtu6(&first.ns, "ipvl0"), 1500);
    let mut monitor = first.ns.enter(Monitor::open).expect("a monitor");
    for mtu in [1300, 1500, 2000, 1500] {
        let _: bool = was_told(&mut monitor, first.ns.index("ipvl0"));
        net.host.sh(&format!("ip link set eth0 mtu {mtu}"));
        net.lan.sh(&format!("ip link set lan0 mtu {mtu}"));
        for dev in &net.devices {
            let follows = || dev.ns.link(&dev.name).mtu == mtu;
            assert!(eventually(PATIENCE, follows), "{} takes {mtu}", dev.name);
        }
        // The driver changes it without a word to anybody, IPv6 included.
        let index = first.ns.index("ipvl0");
        let told = eventually(Duration::from_millis(500), || was_told(&mut monitor, index));
        assert_eq!(
            told,
            differs("parent-events", true, false),
            "an event for {mtu}"
        );
        let seen = mtu6(&first.ns, "ipvl0");
        assert_eq!(
            seen,
            differs("parent-events", mtu, 1500),
            "IPv6's own at {mtu}"
        );
        let size = mtu - 28;
        let ping = format!("ping -n -q -c 2 -i 0.1 -W 2 -M do -s {size} 10.1.0.254");
        let done = first.ns.try_sh(&ping);
        assert!(done.ok(), "{size} bytes fit: {done:?}");
        let ping = format!("ping -n -q -c 1 -W 2 -M do -s {} 10.1.0.254", size + 1);
        let done = first.ns.try_sh(&ping);
        assert!(!done.ok(), "and no more: {done:?}");
    }
}

#[test]
fn a_parent_by_another_name_is_the_same_parent() {
    for mode in MODES {
        let net = Net::new(mode).devices(2).build();
        // A veth may be renamed while it is up since Linux 6.2.
        net.host.sh("ip link set eth0 down");
        net.host.sh("ip link set eth0 name wan0");
        net.host.sh("ip link set wan0 up");
        carrier_becomes(&net, true, "by another name");
        net.host.batch("addr replace fd00::1/64 dev wan0 nodad\n");
        all_works(&net, "by another name");
        if Backend::is_ours() {
            let shown = net.shown();
            assert_eq!(shown[0]["link"], "wan0", "{shown}");
        }
        let more = net.namespace("more");
        let words = format!(
            "link add link wan0 name more0 netns {} type ipvlan mode {mode}",
            more.name()
        );
        net.ip(&net.host, &words).expect_quiet();
        let (v4, _) = ipvlan_tests::device::addresses(mode, 2);
        more.batch(&format!(
            "link set more0 up\naddr add {v4}/24 dev more0\nroute add default dev more0\n"
        ));
        assert!(
            net.dev(0).ns.reaches(&v4.to_string()),
            "{mode}: one that is made by the new name is a sibling"
        );
        if Backend::is_ours() {
            let shown = net.shown();
            let count = shown.as_array().map(Vec::len);
            assert_eq!(count, Some(3), "{mode}: it is the same parent: {shown}");
        }
    }
}

#[test]
fn devices_go_when_their_parent_is_deleted() {
    for (mode, from) in [(Mode::L2, "host"), (Mode::L3, "lan")] {
        let mut net = Net::new(mode).devices(2).build();
        net.host.batch(
            "link add eth7 type veth peer name wire7\nlink set eth7 up\nlink set wire7 up\n",
        );
        let elsewhere = net.namespace("elsewhere");
        let words = format!(
            "link add link eth7 name other0 netns {} type ipvlan mode l3",
            elsewhere.name()
        );
        net.ip(&net.host, &words).expect_quiet();
        // Of a pair, either end may be deleted.
        match from {
            "host" => net.host.sh("ip link del eth0"),
            _ => net.lan.sh("ip link del lan0"),
        }
        for dev in &net.devices {
            let gone = || dev.ns.find_link(&dev.name).is_none();
            assert!(
                eventually(PATIENCE, gone),
                "{mode}: {} goes with it",
                dev.name
            );
        }
        if Backend::is_ours() {
            let only = || net.shown().as_array().map(Vec::len) == Some(1);
            assert!(eventually(PATIENCE, only), "{mode}: {}", net.shown());
        }
        assert!(
            elsewhere.find_link("other0").is_some(),
            "{mode}: that of another parent stays"
        );
        elsewhere.sh("ip link del other0");
        net.devices.clear();
        if Backend::is_ours() {
            net.assert_clean();
        }
        // Another one of the same name is another one.
        net.host.batch(&format!(
            "link add eth0 type veth peer name lan0 netns {}\nlink set eth0 up\n",
            net.lan.name()
        ));
        net.lan
            .batch("link set lan0 up\naddr add 10.1.0.254/24 dev lan0\n");
        let words = "link add link eth0 name again type ipvlan mode l2";
        net.ip(&net.host, words).expect_quiet();
        net.host
            .batch("link set again up\naddr add 10.1.0.30/24 dev again\n");
        assert!(
            net.host.reaches("10.1.0.254"),
            "{mode}: a new parent of the old name"
        );
    }
}

#[test]
fn nothing_is_lost_for_good_while_the_parent_changes_under_load() {
    let net = Net::new(Mode::L2).devices(2).build();
    let address = net.dev(0).v4.into();
    std::thread::scope(|scope| {
        let load = scope.spawn(|| traffic::tcp(&net.dev(0).ns, address, &net.lan, 8 << 20));
        for round in 0..4u8 {
            let mac = mac_text([2, 0, 0, 0, 0x77, round]);
            net.host.sh(&format!("ip link set eth0 address {mac}"));
            net.lan
                .sh(&format!("ip neigh replace 10.1.0.10 lladdr {mac} dev lan0"));
            let mtu = 1300 + 100 * u32::from(round);
            net.host.sh(&format!("ip link set eth0 mtu {mtu}"));
            // Of a veth, and so of both implementations.
            let _: ipvlan_tests::Done = net.host.try_sh("ethtool -K eth0 tso off gro on");
            std::thread::sleep(Duration::from_millis(50));
        }
        let _: ipvlan_tests::Done = net.host.try_sh("ethtool -K eth0 tso on");
        net.host.sh("ip link set eth0 mtu 1500");
        let done = load.join().expect("the load");
        assert!(done.is_ok(), "a connection lives through it: {done:?}");
    });
    net.lan.sh("ip neigh flush all");
    all_works(&net, "after all of it");
}
