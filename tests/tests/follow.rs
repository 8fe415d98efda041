//! The devices' addresses and places are followed without being told.

#![expect(
    clippy::expect_used,
    reason = "clippy knows a test by its attribute, not the functions beside it"
)]

use ipvlan_tests::packet::mac_text;
use ipvlan_tests::traffic::Ear;
use ipvlan_tests::{Backend, Mode, Net, Ns, PATIENCE, eventually, kernel_is_since};

/// How many devices our program shows; there is no such list of the driver's.
fn shows(net: &Net, count: usize) -> bool {
    let shown = || net.shown().as_array().map_or(0, Vec::len);
    !Backend::is_ours() || eventually(PATIENCE, || shown() == count)
}

/// The mode that a device is shown with where it lives.
fn mode_of(net: &Net, ns: &Ns, device: &str) -> String {
    let shown = net.ip(ns, &format!("-j -d link show {device}")).expect();
    let shown: serde_json::Value = serde_json::from_str(&shown).expect("JSON");
    let mode = &shown[0]["linkinfo"]["info_data"]["mode"];
    mode.as_str().unwrap_or("?").to_owned()
}

#[test]
fn a_device_moved_by_pid_is_followed() {
    let net = Net::new(Mode::L2).build();
    net.ip(
        &net.host,
        "link add link eth0 name ipvl0 type ipvlan mode l2",
    )
    .expect_quiet();
    let child = net.host.spawn("unshare -n sleep 600");
    let place = || std::fs::read_link(format!("/proc/{}/ns/net", child.pid())).ok();
    let here = net
        .host
        .enter(|| std::fs::read_link("/proc/thread-self/ns/net").ok());
    assert!(
        eventually(PATIENCE, || place().is_some() && place() != here),
        "it unshares"
    );
    net.host
        .sh(&format!("ip link set dev ipvl0 netns {}", child.pid()));
    let inside = |line: &str| {
        net.host.sh(&format!(
            "nsenter --net=/proc/{}/ns/net {line}",
            child.pid()
        ))
    };
    inside("ip link set ipvl0 name eth0");
    inside("ip link set eth0 up");
    inside("ip addr add 10.1.0.10/24 dev eth0");
    assert!(
        net.lan.reaches("10.1.0.10"),
        "a device in a namespace without a name is reached"
    );
    assert!(shows(&net, 1), "and shown");
    child.kill();
    assert!(net.lan.loses("10.1.0.10"), "it goes with its namespace");
    net.assert_clean();
}

#[test]
fn a_device_is_renamed() {
    let net = Net::new(Mode::L2).devices(1).build();
    let ns = &net.dev(0).ns;
    if kernel_is_since(6, 2) {
        ns.sh("ip link set ipvl0 name uplink");
    } else {
        // Not while it is up.
        ns.batch("link set ipvl0 down\nlink set ipvl0 name uplink\nlink set uplink up\n");
    }
    assert!(net.lan.reaches("10.1.0.10"), "it works on by another name");
    ns.sh("ip addr add 10.1.0.20/24 dev uplink");
    assert!(net.lan.reaches("10.1.0.20"), "and is still followed");
    if Backend::is_ours() {
        let shown = net.shown();
        assert_eq!(shown[0]["ifname"], "uplink", "{shown}");
    }
    ns.sh("ip link del uplink");
    net.assert_clean();
}

#[test]
fn the_address_of_a_device_that_is_down_falls_to_the_host() {
    let net = Net::new(Mode::L2).devices(1).build();
    net.dev(0).ns.sh("ip link set ipvl0 down");
    assert!(
        net.lan.loses("10.1.0.10"),
        "a device that is down does not answer"
    );
    // The host may have it now.
    net.host.sh("ip addr add 10.1.0.10/32 dev lo");
    assert!(
        net.lan.reaches("10.1.0.10"),
        "what a device that is down had falls to the host"
    );
    net.host.sh("ip addr del 10.1.0.10/32 dev lo");
    net.dev(0).ns.sh("ip link set ipvl0 up");
    net.dev(0).ns.sh("ip addr add fd00::10/64 dev ipvl0 nodad");
    assert!(
        net.lan.reaches("10.1.0.10"),
        "up again, it has its address again"
    );
    assert!(
        net.lan.reaches("fd00::10"),
        "up again, it has its address again"
    );
}

#[test]
fn addresses_come_change_and_go() {
    for mode in Mode::ALL {
        let net = Net::new(mode).devices(1).build();
        let ns = &net.dev(0).ns;
        let (more4, more6, other) = match mode {
            Mode::L2 => ("10.1.0.20", "fd00::20", "10.1.0.21"),
            Mode::L3 | Mode::L3s => ("10.2.0.20", "fd02::20", "10.2.0.21"),
        };
        ns.sh(&format!("ip addr add {more4}/24 dev ipvl0"));
        ns.sh(&format!("ip addr add {more6}/64 dev ipvl0 nodad"));
        assert!(
            net.lan.reaches(more4),
            "{mode}: a second address is reached"
        );
        assert!(
            net.lan.reaches(more6),
            "{mode}: a second address is reached"
        );
        ns.sh(&format!("ip addr del {more4}/24 dev ipvl0"));
        ns.sh(&format!("ip addr del {more6}/64 dev ipvl0"));
        ns.sh(&format!("ip addr add {other}/24 dev ipvl0"));
        assert!(
            net.lan.reaches(other),
            "{mode}: a changed address is reached"
        );
        assert!(net.lan.loses(more4), "{mode}: a removed one is not");
        assert!(net.lan.loses(more6), "{mode}: a removed one is not");
        let first = net.dev(0).v4.to_string();
        assert!(net.lan.reaches(&first), "{mode}: the first one stays");
        // In a burst.
        let lines: String = (100..200)
            .map(|last| format!("addr add {}{last}/32 dev ipvl0\n", &more4[..7]))
            .collect();
        ns.batch(&lines);
        for last in [100, 150, 199] {
            assert!(
                net.lan.reaches(&format!("{}{last}", &more4[..7])),
                "{mode}: of a hundred, {last}"
            );
        }
        ns.batch(&lines.replace("add ", "del ").replace("del dev", "add dev"));
        assert!(
            net.lan.loses(&format!("{}150", &more4[..7])),
            "{mode}: a hundred go"
        );
    }
}

#[test]
fn a_device_moves_on_to_another_namespace() {
    let net = Net::new(Mode::L2).devices(2).build();
    let next = net.namespace("next");
    net.dev(0)
        .ns
        .sh(&format!("ip link set ipvl0 netns {}", next.name()));
    assert!(
        net.lan.loses("10.1.0.10"),
        "its addresses stay behind and are nobody's"
    );
    next.batch("link set ipvl0 up\naddr add 10.1.0.30/24 dev ipvl0\naddr add fd00::30/64 dev ipvl0 nodad\n");
    for address in ["10.1.0.30", "fd00::30"] {
        assert!(
            net.lan.reaches(address),
            "it is followed to where it went: {address}"
        );
        assert!(
            net.dev(1).ns.reaches(address),
            "by siblings, too: {address}"
        );
    }
    // And home, where the parent is.
    next.sh(&format!("ip link set ipvl0 netns {}", net.host.name()));
    // As below: the host answers by eth0.
    net.host.sh(&format!(
        "ip neigh replace 10.1.0.254 lladdr {} dev eth0 nud permanent",
        mac_text(net.lan.mac("lan0"))
    ));
    net.host
        .batch("link set ipvl0 up\naddr add 10.1.0.31/32 dev ipvl0\n");
    assert!(net.lan.reaches("10.1.0.31"), "it is followed home");
}

#[test]
fn a_device_may_stay_with_its_parent() {
    let mut net = Net::new(Mode::L2).devices(1).build();
    net.ip(
        &net.host,
        "link add link eth0 name shim0 type ipvlan mode l2",
    )
    .expect_quiet();
    net.host.batch("link set shim0 up\naddr add 10.1.0.40/32 dev shim0\nroute add 10.1.0.10/32 dev shim0 src 10.1.0.40\n");
    // The host answers by eth0, and the answer to its ARP is for whoever owns the sender's address:
    // the device.
    net.host.sh(&format!(
        "ip neigh replace 10.1.0.254 lladdr {} dev eth0 nud permanent",
        mac_text(net.lan.mac("lan0"))
    ));
    assert!(
        net.lan.reaches("10.1.0.40"),
        "the LAN reaches a device in the parent's namespace"
    );
    assert!(
        net.dev(0).ns.reaches("10.1.0.40"),
        "and so does its sibling"
    );
    assert!(
        net.host.reaches("10.1.0.10"),
        "through it the host reaches its devices"
    );
    assert!(
        net.lan.reaches("10.1.0.1"),
        "the host itself is reached as before"
    );
    let ear = Ear::on(&net.host, "10.1.0.40".parse().expect("it"));
    Ear::on(&net.dev(0).ns, "10.1.0.40".parse().expect("it")).say(
        "10.1.0.255".parse().expect("it"),
        0,
        b"all",
    );
    assert!(ear.hears(b"all", PATIENCE).is_some(), "it hears broadcast");
    net.host.sh("ip link del shim0");
    net.devices.clear();
    net.assert_clean();
}

#[test]
fn a_device_deleted_from_inside_is_gone() {
    let net = Net::new(Mode::L2).devices(2).build();
    net.dev(0).ns.sh("ip link del ipvl0");
    assert!(net.lan.loses("10.1.0.10"), "it does not answer any more");
    assert!(shows(&net, 1), "it is not shown any more");
    net.dev(1).ns.sh("ip addr add 10.1.0.10/24 dev ipvl1");
    assert!(net.lan.reaches("10.1.0.10"), "its address is free at once");
    net.dev(1).ns.sh("ip link del ipvl1");
    net.assert_clean();
}

#[test]
fn a_device_goes_with_its_namespace() {
    let mut net = Net::new(Mode::L2).devices(2).build();
    net.devices[0].ns.kill();
    assert!(net.lan.loses("10.1.0.10"), "it does not answer any more");
    net.dev(1).ns.sh("ip addr add 10.1.0.10/24 dev ipvl1");
    assert!(net.lan.reaches("10.1.0.10"), "its address is free");
    net.devices[1].ns.kill();
    net.assert_clean();
}

#[test]
fn a_second_device_that_asks_for_another_mode_switches_all() {
    let net = Net::new(Mode::L2).devices(1).build();
    let ns = net.namespace("second");
    let second = format!(
        "link add link eth0 name second netns {} type ipvlan mode l3",
        ns.name()
    );
    net.ip(&net.host, &second).expect_quiet();
    let modes = || {
        [
            mode_of(&net, &net.dev(0).ns, "ipvl0"),
            mode_of(&net, &ns, "second"),
        ]
    };
    assert_eq!(
        modes(),
        ["l3", "l3"],
        "all devices of a parent share its mode"
    );
    let noarp = || net.dev(0).ns.read("ip link show ipvl0").contains("NOARP");
    assert!(
        eventually(PATIENCE, noarp),
        "the first one does no ARP any more"
    );
    ns.sh("ip link set second up");
    let changed = net.ip(&net.host, "link set dev shim type ipvlan mode l2");
    assert!(
        !changed.ok(),
        "a device that is not there cannot be changed: {changed:?}"
    );
    net.ip(
        &net.host,
        "link add link eth0 name third type ipvlan mode l2",
    )
    .expect_quiet();
    assert_eq!(modes(), ["l2", "l2"], "and back");
    assert_eq!(mode_of(&net, &net.host, "third"), "l2", "and back");
    assert!(eventually(PATIENCE, || !noarp()), "ARP is back");
    assert!(
        net.lan.reaches("10.1.0.10"),
        "and the LAN reaches the first one again"
    );
}

#[test]
fn mode_and_flag_are_changed_by_link_set() {
    let net = Net::new(Mode::L2).devices(2).build();
    net.ip(
        &net.host,
        "link add link eth0 name here type ipvlan mode l2",
    )
    .expect_quiet();
    assert!(
        net.dev(0).ns.reaches("10.1.0.11"),
        "siblings reach each other"
    );
    net.ip(&net.host, "link set dev here type ipvlan mode l2 private")
        .expect_quiet();
    assert!(
        eventually(PATIENCE, || !net.dev(0).ns.answers("10.1.0.11")),
        "private"
    );
    net.ip(&net.host, "link set dev here type ipvlan mode l2 bridge")
        .expect_quiet();
    assert!(net.dev(0).ns.reaches("10.1.0.11"), "bridge");
    net.ip(&net.host, "link set here type ipvlan mode l3")
        .expect_quiet();
    assert!(
        eventually(PATIENCE, || net
            .dev(0)
            .ns
            .read("ip link show ipvl0")
            .contains("NOARP")),
        "l3 in all"
    );
}

#[test]
fn devices_work_where_ipv6_is_switched_off() {
    let mut net = Net::new(Mode::L2).build();
    net.host.sysctl("net/ipv6/conf/all/disable_ipv6", "1");
    net.host.sysctl("net/ipv6/conf/default/disable_ipv6", "1");
    let _: u16 = net.add();
    let ns = &net.dev(0).ns;
    ns.sysctl("net/ipv6/conf/all/disable_ipv6", "1");
    ns.batch("link set ipvl0 up\naddr add 10.1.0.10/24 dev ipvl0\n");
    assert!(net.lan.reaches("10.1.0.10"), "IPv4 does not need IPv6");
}
