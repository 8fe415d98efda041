//! What only our program has: an agent, state in the bpffs, verbs that find a device anywhere. There
//! is nothing like it in the driver, so this file is for ours alone.

use std::time::Duration;

use ipvlan_tests::{Mode, Net, Ns, PATIENCE, eventually};

#[test]
fn the_mode_is_changed_from_wherever_one_is() {
    let net = Net::new(Mode::L2).devices(2).build();
    let (ns0, ns1) = (&net.dev(0).ns, &net.dev(1).ns);
    let mode = || {
        let shown = net.shown();
        let of = |n: usize| shown[n]["linkinfo"]["info_data"]["mode"].clone();
        assert_eq!(of(0), of(1), "all devices of a parent have one mode");
        of(0)
    };
    let noarp = |ns: &Ns, dev: &str| ns.read(&format!("ip link show {dev}")).contains("NOARP");

    // The device lives elsewhere.
    net.ipvlan("link set ipvl1 type ipvlan mode l3")
        .expect_quiet();
    assert_eq!(mode(), "l3");
    assert!(noarp(ns0, "ipvl0") && noarp(ns1, "ipvl1"), "both follow");
    // By the parent's name.
    net.ipvlan("link set eth0 type ipvlan mode l2 private")
        .expect_quiet();
    assert_eq!(mode(), "l2");
    assert!(!noarp(ns0, "ipvl0") && !noarp(ns1, "ipvl1"), "both follow");
    assert_eq!(
        net.shown()[0]["linkinfo"]["info_data"]["private"],
        true,
        "{}",
        net.shown()
    );
    // From inside, by who may go to the parent as well.
    net.program()
        .run(ns0, "link set ipvl0 type ipvlan mode l3")
        .expect_quiet();
    assert_eq!(mode(), "l3");
    assert!(noarp(ns0, "ipvl0") && noarp(ns1, "ipvl1"), "both follow");
    let done = net.ipvlan("link set lo type ipvlan mode l2");
    assert!(!done.ok(), "lo has no devices");
}

#[test]
fn a_program_that_ip_netns_exec_started_finds_the_devices() {
    let net = Net::new(Mode::L2).devices(1).build();
    let ns = &net.dev(0).ns;
    // /sys is mounted anew there, without the bpffs.
    let exec = |ns: &Ns, words: &str| {
        let line = format!(
            "ip netns exec {} {} {words}",
            ns.name(),
            net.program().path()
        );
        net.host.try_sh(&line).expect()
    };
    let inside = exec(ns, "-d link show");
    assert!(inside.contains("ipvlan  mode l2"), "from inside: {inside}");
    let outside = exec(&net.host, "link show");
    assert!(outside.contains("ipvl0@eth0"), "from outside: {outside}");
    let _: String = exec(&net.host, "link add link eth0 name ipvl9 type ipvlan");
    let shown = || net.shown().as_array().map_or(0, Vec::len);
    assert_eq!(shown(), 2, "made there, seen here");
    let _: String = exec(&net.host, "link del ipvl9");
    assert_eq!(shown(), 1, "deleted there, gone here");
}

#[test]
fn a_device_that_moves_while_others_are_looked_at_is_followed() {
    // Without ARP and duplicate address detection nothing more happens to it, once it has its address.
    let net = Net::new(Mode::L3).devices(24).build();
    let places = [net.namespace("one"), net.namespace("other")];
    let mut from = &net.dev(0).ns;
    for round in 0..60_u64 {
        let to = if round % 2 == 0 {
            &places[0]
        } else {
            &places[1]
        };
        // All follow, which takes the agent its time.
        let mtu = 1300 + round % 2;
        net.host.sh(&format!("ip link set eth0 mtu {mtu}"));
        std::thread::sleep(Duration::from_millis(10 * (round % 3)));
        from.sh(&format!("ip link set ipvl0 netns {}", to.name()));
        to.sh("ip link set ipvl0 up");
        std::thread::sleep(Duration::from_millis(20 * (round % 4)));
        let address = format!("fd00::{:x}", 0x100 + round);
        to.sh(&format!("ip addr add {address}/64 dev ipvl0 nodad"));
        let owns = || {
            let shown = net.look(to, "ipvl0");
            let owned = shown["ipvlan"]["owns"].as_array().cloned();
            owned.is_some_and(|owned| owned.iter().any(|one| one == &address))
        };
        assert!(eventually(PATIENCE, owns), "round {round}: {address}");
        from = to;
    }
}
