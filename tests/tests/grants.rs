//! What a device has by hand: `ipvlan addr`. The driver has nothing like it, so this file is for ours
//! alone. What is behind a device, and prefixes: `prefixes.rs`.

#![expect(
    clippy::expect_used,
    reason = "clippy knows a test by its attribute, not the functions beside it"
)]

use ipvlan_tests::wire::Wire;
use ipvlan_tests::{Done, Mode, Net, PATIENCE, eventually};

/// What `ipvlan -j addr show` says of one address of a device: owned, refused, granted.
fn shown(net: &Net, device: &str, address: &str) -> Option<[bool; 3]> {
    let text = net.ipvlan(&format!("-j addr show dev {device}")).expect();
    let all: serde_json::Value = serde_json::from_str(&text).expect("JSON");
    let mut infos = all[0]["addr_info"].as_array().expect("a list").iter();
    let info = infos.find(|info| info["local"] == address)?;
    Some(["owned", "refused", "granted"].map(|key| info[key].as_bool().expect("a bool")))
}

#[track_caller]
fn fails(done: &Done, status: i32, text: &str) {
    assert!(
        done.status == status && done.stderr.contains(text),
        "not {status}, {text:?}: {done:?}"
    );
}

#[test]
fn the_hosts_own_address_may_be_granted_by_name() {
    for mode in Mode::ALL {
        let net = Net::new(mode).devices(2).build();
        let wire = Wire::of(&net);
        for (address, len) in [("10.1.0.50", 32), ("fd00::50", 128)] {
            net.host.sh(&format!("ip addr add {address}/{len} dev lo"));
            let ns = &net.dev(1).ns;
            wire.is_for(address, "host");
            // It is the device's whether it has it or not.
            net.ipvlan(&format!("addr add {address} dev ipvl1"))
                .expect_quiet();
            assert_eq!(shown(&net, "ipvl1", address), Some([true, false, true]));
            if mode != Mode::L3s {
                wire.is_for_nobody(address);
            }
            ns.sh(&format!("ip addr add {address}/{len} dev ipvl1 nodad"));
            if mode == Mode::L3s {
                // What the host itself has is for the host before any route is asked.
                wire.is_for(address, "host");
            } else {
                wire.is_for(address, "ipvl1");
            }
            let owned = || shown(&net, "ipvl1", address) == Some([true, false, true]);
            assert!(eventually(PATIENCE, owned), "{mode}: it owns {address}");
            // Not whoever has it, too.
            let sibling = &net.dev(0).ns;
            sibling.sh(&format!("ip addr add {address}/{len} dev ipvl0 nodad"));
            let refused = || shown(&net, "ipvl0", address) == Some([false, true, false]);
            assert!(eventually(PATIENCE, refused));
            // Down, it has no more than any other that is down.
            ns.sh("ip link set ipvl1 down");
            wire.is_for(address, "host");
            let granted = || shown(&net, "ipvl1", address) == Some([false, false, true]);
            assert!(eventually(PATIENCE, granted));
            ns.sh("ip link set ipvl1 up");
            if address.contains(':') {
                ns.sh(&format!("ip addr add {address}/{len} dev ipvl1 nodad"));
            }
            assert!(eventually(PATIENCE, owned), "{mode}: it still may");

            net.ipvlan(&format!("addr del {address} dev ipvl1"))
                .expect_quiet();
            assert_eq!(shown(&net, "ipvl1", address), Some([false, true, false]));
            wire.is_for(address, "host");
            net.ipvlan(&format!("addr add {address} dev ipvl1"))
                .expect_quiet();
            assert_eq!(shown(&net, "ipvl1", address), Some([true, false, true]));
        }
    }
}

#[test]
fn what_was_granted_goes_with_the_device_and_nothing_else_takes_it() {
    let net = Net::new(Mode::L2).devices(2).build();
    net.ipvlan("addr add 10.1.0.1 dev ipvl0").expect_quiet();
    net.ipvlan("addr add fd00::1 dev ipvl0").expect_quiet();
    net.ipvlan("addr add 10.9.0.0/16 dev ipvl0").expect_quiet();
    net.ipvlan("link set eth0 type ipvlan mode l3 private")
        .expect_quiet();
    net.dev(0).ns.sh("ip link set ipvl0 name other");
    for address in ["10.1.0.1", "fd00::1", "10.9.0.0"] {
        let found = shown(&net, "other", address);
        assert_eq!(found, Some([true, false, true]), "by another name");
    }
    net.dev(0).ns.sh("ip link del other");
    let gone = || net.shown().as_array().is_some_and(|all| all.len() == 1);
    assert!(eventually(PATIENCE, gone));
    // Whoever comes next, once the agent has seen to it, gets its slot, and nothing with it.
    let slot = |number: usize| net.shown()[number]["ipvlan"]["slot"].clone();
    let next = || {
        net.ipvlan("link add link eth0 name ipvl2 type ipvlan")
            .expect_quiet();
        let gets_it = slot(0) == 0 || slot(1) == 0;
        if !gets_it {
            net.ipvlan("link del ipvl2").expect_quiet();
        }
        gets_it
    };
    assert!(eventually(PATIENCE, next), "{}", net.shown());
    for device in ["ipvl1", "ipvl2"] {
        for address in ["10.1.0.1", "fd00::1", "10.9.0.0"] {
            assert_eq!(shown(&net, device, address), None);
        }
    }
}

#[test]
fn what_was_granted_goes_along_with_the_parent() {
    let net = Net::new(Mode::L2).devices(2).build();
    net.ipvlan("addr add 10.1.0.1 dev ipvl1").expect_quiet();
    net.dev(1).ns.sh("ip addr add 10.1.0.1/24 dev ipvl1");
    let away = net.namespace("away");
    // So that the numbers are others there.
    for number in 0..20 {
        away.sh(&format!(
            "ip link add d{number} type veth peer name e{number}"
        ));
    }
    net.host
        .sh(&format!("ip link set eth0 netns {}", away.name()));
    away.batch("link set eth0 up\naddr add 10.1.0.1/24 dev eth0\n");
    assert!(net.lan.reaches(&net.dev(1).v4.to_string()), "they follow");
    Wire::of(&net)
        .with("away", &away)
        .to_mac(away.mac("eth0"))
        .is_for("10.1.0.1", "ipvl1");
}

#[test]
fn only_devices_that_can_be_told_apart_are_granted_something() {
    let net = Net::new(Mode::L2).devices(2).build();
    fails(
        &net.ipvlan("addr add 10.1.0.1 dev nope"),
        1,
        "Cannot find device \"nope\"",
    );
    fails(
        &net.ipvlan("addr add 10.1.0.1 dev eth0"),
        2,
        "is not an ipvlan device",
    );
    fails(
        &net.ipvlan("addr del 10.1.0.1 dev ipvl0"),
        2,
        "RTNETLINK answers: Cannot assign requested address",
    );
    net.ipvlan("addr add 10.1.0.1 dev ipvl0").expect_quiet();
    fails(
        &net.ipvlan("addr add 10.1.0.1/32 dev ipvl0"),
        2,
        "RTNETLINK answers: File exists",
    );
    fails(
        &net.ipvlan("addr add 10.1.0.1/24 dev ipvl0"),
        255,
        "Invalid prefix for given prefix length",
    );
    // The same twice is nobody's, whoever has it; another length is another prefix.
    fails(
        &net.ipvlan("addr add 10.1.0.1 dev ipvl1"),
        2,
        "Error: 10.1.0.1 was given to \"ipvl0\" by hand; take it from there first.",
    );
    for prefix in ["10.9.0.0/24", "fd09::/64"] {
        let line = format!("addr add {prefix} dev");
        net.ipvlan(&format!("{line} ipvl1")).expect_quiet();
        fails(
            &net.ipvlan(&format!("{line} ipvl1")),
            2,
            "RTNETLINK answers: File exists",
        );
        fails(
            &net.ipvlan(&format!("{line} ipvl0")),
            2,
            &format!("Error: {prefix} was given to \"ipvl1\" by hand; take it from there first."),
        );
        fails(
            &net.ipvlan(&format!("addr del {prefix} dev ipvl0")),
            2,
            "RTNETLINK answers: Cannot assign requested address",
        );
    }
    net.ipvlan("addr add 10.9.0.0/25 dev ipvl0").expect_quiet();
    net.ipvlan("addr add 10.9.0.0/16 dev ipvl0").expect_quiet();
    net.dev(1).ns.sh("ip link set ipvl1 name ipvl0");
    fails(
        &net.ipvlan("addr add 10.1.0.2 dev ipvl0"),
        2,
        "in several namespaces",
    );
    // Which one is said by where one is.
    let inside = &net.dev(1).ns;
    net.program()
        .run(inside, "addr add 10.1.0.2 dev ipvl0")
        .expect_quiet();
    let text = net.program().run(inside, "addr show").expect();
    assert!(text.contains("inet 10.1.0.2 owned granted"), "{text}");
    let text = net.ipvlan("addr show").expect();
    let lines: Vec<&str> = text.lines().collect();
    assert!(lines.contains(&"    inet 10.1.0.1 owned granted"), "{text}");
    assert!(lines.contains(&"    inet 10.1.0.10 owned"), "{text}");
    let path = format!("-n {} addr del 10.1.0.2 dev ipvl0", inside.name());
    net.ipvlan(&path).expect_quiet();
}
