//! Devices, parents and namespaces that change or go while frames pass.

use std::net::Ipv4Addr;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Duration;

use ipvlan_tests::load::{Flood, KernelLog};
use ipvlan_tests::packet::BROADCAST;
use ipvlan_tests::{Backend, LAN4, Mode, Net, PATIENCE, eventually};

use crate::{FLAGS, assert_well, set_mode, small};

/// The first device sends to all, to its siblings and to the LAN, by that many sockets; the LAN to
/// all and to each device.
fn flood_from_both_sides(net: &Net, sockets: usize) -> [Flood; 2] {
    let (own, lan) = (net.mac(), net.lan.mac("lan0"));
    let all = Ipv4Addr::new(10, 1, 0, 255);
    let dev = net.dev(0);
    let mut out = vec![
        small(BROADCAST, own, dev.v4, all),
        small(lan, own, dev.v4, LAN4),
    ];
    let siblings = net.devices.iter().skip(1);
    out.extend(siblings.map(|sibling| small(own, own, dev.v4, sibling.v4)));
    let mut back = vec![small(BROADCAST, lan, LAN4, all)];
    let devices = net.devices.iter();
    back.extend(devices.map(|dev| small(own, lan, LAN4, dev.v4)));
    [
        Flood::start(&dev.ns, &dev.name, sockets, &out),
        Flood::start(&net.lan, "lan0", 1, &back),
    ]
}

#[test]
fn devices_modes_and_addresses_change_in_a_flood() {
    let log = KernelLog::new();
    let mut net = Net::new(Mode::L2).devices(3).build();
    let [b, c] = [net.dev(1), net.dev(2)];
    let flood = flood_from_both_sides(&net, 1);
    for round in 0..4 {
        for (mode, flag) in Mode::ALL.into_iter().zip(FLAGS) {
            set_mode(&net, mode, flag);
            b.ns.sh("ip link set ipvl1 down");
            b.ns.sh("ip addr add 10.1.0.99/24 dev ipvl1");
            b.ns.sh("ip link set ipvl1 up");
            b.ns.sh("ip addr del 10.1.0.99/24 dev ipvl1");
        }
        c.ns.sh("ip link del ipvl2");
        net.ip(
            &net.host,
            &format!(
                "link add link eth0 name ipvl2 netns {} type ipvlan",
                c.ns.name()
            ),
        )
        .expect_quiet();
        set_mode(&net, Mode::L2, "bridge");
        c.configure();
        assert!(
            net.lan.reaches(&c.v4.to_string()),
            "round {round}: a new one works"
        );
    }
    drop(flood);
    // Down, the second one lost what only it had: IPv6 addresses and routes.
    b.ns.sh("ip addr flush dev ipvl1");
    b.configure();
    assert_well(&net, "bridge", "after the flood");
    net.devices.clear();
    if Backend::is_ours() {
        net.assert_clean();
    }
    log.assert_quiet();
}

#[test]
fn a_parent_goes_under_load_from_two_sides() {
    let log = KernelLog::new();
    for mode in Mode::ALL {
        let net = Net::new(mode).devices(3).build();
        let _flood = flood_from_both_sides(&net, 2);
        let stop = AtomicBool::new(false);
        thread::scope(|scope| {
            let lookers = [
                (&net.host, "-d link show"),
                (&net.dev(1).ns, "-d -s link show"),
            ];
            for (ns, line) in lookers {
                let (net, stop) = (&net, &stop);
                let _ = scope.spawn(move || {
                    while !stop.load(Ordering::Relaxed) {
                        // Whatever it finds, it must come back.
                        let done = net.ip(ns, line);
                        assert!(matches!(done.status, 0..=2), "{done:?}");
                    }
                });
            }
            thread::sleep(Duration::from_millis(200));
            let ends = [
                (&net.host, "ip link del eth0"),
                (&net.lan, "ip link del lan0"),
                (&net.dev(2).ns, "ip link del ipvl2"),
            ];
            // Whoever comes first takes it away from the others.
            let ends = ends.map(|(ns, line)| scope.spawn(move || ns.try_sh(line).ok()));
            let done = ends.map(|end| end.join().expect("a thread"));
            assert!(done.contains(&true), "{mode}: somebody deleted it");
            stop.store(true, Ordering::Relaxed);
        });
        for dev in &net.devices {
            assert!(
                eventually(PATIENCE, || dev.ns.links() == ["lo"]),
                "{mode}: devices go with their parent: {:?}",
                dev.ns.links()
            );
        }
        if Backend::is_ours() {
            net.assert_clean();
        }
    }
    log.assert_quiet();
}

#[test]
fn a_parents_namespace_dies_under_load() {
    let log = KernelLog::new();
    for mode in Mode::ALL {
        let mut net = Net::new(mode).devices(2).build();
        let flood = flood_from_both_sides(&net, 2);
        thread::sleep(Duration::from_millis(200));
        net.host.kill();
        for dev in &net.devices {
            assert!(
                eventually(PATIENCE * 2, || dev.ns.links() == ["lo"]),
                "{mode}: devices go with their parent's namespace: {:?}",
                dev.ns.links()
            );
        }
        drop(flood);
    }
    log.assert_quiet();
}

#[test]
fn a_parent_changes_under_load() {
    let log = KernelLog::new();
    for mode in [Mode::L2, Mode::L3] {
        let net = Net::new(mode).devices(2).build();
        let (own, lan) = (net.mac(), net.lan.mac("lan0"));
        let [a, b] = [net.dev(0), net.dev(1)];
        let frames = [
            small(own, own, a.v4, b.v4),
            small(lan, own, a.v4, LAN4),
            small(BROADCAST, own, a.v4, Ipv4Addr::new(10, 1, 0, 255)),
        ];
        let flood = Flood::start(&a.ns, &a.name, 2, &frames);
        for round in 0u8..4 {
            for line in [
                &format!("ip link set eth0 address 02:00:00:00:07:0{round}"),
                "ip link set eth0 mtu 1400",
                "ip link set eth0 mtu 1500",
                "ip link set eth0 txqueuelen 500",
                "ip link set eth0 down",
                "ip link set eth0 up",
            ] {
                net.host.sh(line);
            }
            // Not every kernel and NIC lets itself be told.
            for word in ["tso off", "tso on", "tx off", "tx on", "gro on", "gro off"] {
                let _: bool = net.host.try_sh(&format!("ethtool -K eth0 {word}")).ok();
            }
        }
        drop(flood);
        // Down, the parent lost its IPv6 addresses and with them the LAN's way in.
        net.host.batch("addr replace fd00::1/64 dev eth0 nodad\n");
        let new = [2, 0, 0, 0, 7, 3];
        for dev in &net.devices {
            assert!(
                eventually(PATIENCE, || dev.ns.mac(&dev.name) == new),
                "{mode}: {} follows the parent's address",
                dev.name
            );
        }
        net.host.sh("ip neigh flush all");
        assert_well(&net, "bridge", &format!("{mode}: after the changes"));
        for dev in &net.devices {
            for target in ["10.1.0.254", "fd00::254"] {
                let done = dev
                    .ns
                    .try_sh(&format!("ping -n -q -c 50 -i 0.01 -w 5 {target}"));
                assert!(
                    done.stdout.contains(" 0% packet loss"),
                    "{mode}: nothing is lost any more: {done:?}"
                );
            }
        }
    }
    log.assert_quiet();
}
