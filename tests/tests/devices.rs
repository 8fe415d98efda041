//! What a device is like, and what becomes of it: MTU, MAC address, number, carrier, moving, going.

use std::net::IpAddr;

use ipvlan_tests::{Backend, Mode, Net, Ns, PATIENCE, differs, eventually, traffic};

#[test]
fn a_device_has_the_mtu_it_was_given_until_the_parent_s_changes() {
    let net = Net::new(Mode::L2).mtu(1400).build();
    for (name, word, mtu) in [
        ("v0", "", 1400),
        ("v1", "mtu 68", 68),
        ("v2", "mtu 9000", 9000),
        ("v3", "mtu 65535", 65535),
    ] {
        net.ip(
            &net.host,
            &format!("link add link eth0 name {name} {word} type ipvlan mode l2"),
        )
        .expect_quiet();
        assert_eq!(net.host.link(name).mtu, mtu, "{name}");
    }
    let done = net.host.try_sh("ip link set dev v0 mtu 67");
    assert_eq!(
        done.answer(),
        (2, "Error: mtu less than device minimum."),
        "{done:?}"
    );
    net.host.sh("ip link set dev v0 mtu 65535");
    for mtu in [1300, 1500] {
        net.host.sh(&format!("ip link set dev eth0 mtu {mtu}"));
        assert!(
            eventually(PATIENCE, || ["v0", "v1", "v2", "v3"].iter().all(|name| net
                .host
                .link(name)
                .mtu
                == mtu)),
            "all follow the parent to {mtu}"
        );
    }
}

#[test]
fn a_device_has_the_parent_s_mac_address_whatever_is_asked_for() {
    let net = Net::new(Mode::L2).devices(1).build();
    let ns = &net.dev(0).ns;
    assert_eq!(ns.mac("ipvl0"), net.mac());
    let done = ns.try_sh("ip link set dev ipvl0 address 02:00:00:00:00:07");
    assert_eq!(
        done.answer(),
        differs(
            "set-mac",
            (0, ""),
            (2, "RTNETLINK answers: Operation not supported")
        )
    );
    assert!(net.lan.reaches("10.1.0.10"), "it matters not outside");
    let neighbour = net.lan.neighbour("10.1.0.10");
    let mac = ipvlan_tests::packet::mac_text(net.mac());
    assert!(neighbour.contains(&mac), "{neighbour}");
}

#[test]
fn devices_are_counted() {
    let net = Net::new(Mode::L2).build();
    let number = |name: &str| -> String {
        if Backend::is_ours() {
            return net.look(&net.host, name)["ipvlan"]["slot"].to_string();
        }
        // /sys/class/net shows the namespace of who mounted it.
        let line = format!("mount -t sysfs sysfs /sys && cat /sys/class/net/{name}/dev_id");
        let text = net
            .host
            .try_run(&["unshare", "-m", "sh", "-c", &line])
            .expect();
        let hex = text.trim().trim_start_matches("0x");
        u32::from_str_radix(hex, 16).expect("a number").to_string()
    };
    let add = |name: &str| {
        net.ip(
            &net.host,
            &format!("link add link eth0 name {name} type ipvlan mode l2"),
        )
        .expect_quiet();
        number(name)
    };
    let first = ["v0", "v1", "v2"].map(add);
    assert_eq!(first, differs("number", ["0", "1", "2"], ["1", "2", "3"]));
    net.ip(&net.host, "link del v1").expect_quiet();
    assert_eq!(add("v3"), differs("number", "1", "4"));
    assert_eq!(number("v2"), first[2], "the others keep theirs");
}

#[test]
fn a_device_moves_without_its_addresses_and_gets_them_again() {
    for mode in [Mode::L2, Mode::L3] {
        let net = Net::new(mode).devices(1).build();
        let dev = net.dev(0);
        let other = net.namespace("other");
        let [v4, v6] = dev.addresses();
        dev.ns
            .sh(&format!("ip link set dev ipvl0 netns {}", other.name()));
        assert!(!other.link("ipvl0").is_up(), "{mode}: down");
        let addresses = other.read("ip -o addr show dev ipvl0");
        assert_eq!(addresses, "", "{mode}: without addresses");
        assert!(!net.lan.answers(&v4), "{mode}: nobody has it");
        other.batch(&format!(
            "link set dev ipvl0 up\naddr add {v4}/24 dev ipvl0\naddr add {v6}/64 dev ipvl0 nodad\n"
        ));
        let (by4, by6) = match mode {
            Mode::L2 => ("via 10.1.0.254", "via fd00::254"),
            Mode::L3 | Mode::L3s => ("", ""),
        };
        other.batch(&format!(
            "route add default {by4} dev ipvl0\nroute add ::/0 {by6} dev ipvl0\n"
        ));
        for address in [v4, v6] {
            assert!(net.lan.reaches(&address), "{mode}: {address}");
        }
        assert_eq!(net.kind(&other, "ipvl0"), format!("{mode} bridge"));
    }
}

#[test]
fn an_address_is_free_as_soon_as_its_device_is_gone() {
    let mut net = Net::new(Mode::L2).devices(3).build();
    let addresses = [0, 1].map(|number| net.dev(number).v4);
    // By its namespace.
    net.devices[0].ns.kill();
    // From inside, as root of a container would.
    net.dev(1).ns.sh("ip link del ipvl1");
    let heir = &net.dev(2).ns;
    for address in addresses {
        // Ours notices in a moment; until then the address has its former owner.
        let add = format!("ip addr add {address}/24 dev ipvl2");
        assert!(
            eventually(PATIENCE, || heir.try_sh(&add).ok()),
            "{address} can be had"
        );
        assert!(net.lan.reaches(&address.to_string()), "and is reached");
    }
}

#[test]
fn devices_go_with_their_parent_wherever_they_are() {
    let mut net = Net::new(Mode::L2).devices(2).build();
    net.ip(&net.host, "link add link eth0 name v0 type ipvlan mode l2")
        .expect_quiet();
    let spaces: Vec<Ns> = net.devices.drain(..).map(|dev| dev.ns).collect();
    net.host.sh("ip link del eth0");
    let left = || {
        let mut all = net.host.links();
        all.extend(spaces.iter().flat_map(Ns::links));
        all.retain(|name| name != "lo");
        all
    };
    assert!(
        eventually(PATIENCE, || left().is_empty()),
        "all are gone: {:?}",
        left()
    );
}

#[test]
fn a_device_is_made_and_brought_up_while_the_parent_is_down() {
    let net = Net::new(Mode::L2).build();
    let place = net.namespace("place");
    net.host.sh("ip link set dev eth0 down");
    net.ip(
        &net.host,
        &format!(
            "link add link eth0 name v0 netns {} type ipvlan mode l2",
            place.name()
        ),
    )
    .expect_quiet();
    place.sh("ip link set dev v0 up");
    place.sh("ip addr add 10.1.0.10/24 dev v0");
    assert!(place.link("v0").is_up(), "it is up");
    net.host.sh("ip link set dev eth0 up");
    assert!(net.lan.reaches("10.1.0.10"), "and works with the parent");
}

#[test]
fn a_new_device_is_seen_to_be_up() {
    let net = Net::new(Mode::L2).build();
    net.ip(&net.host, "link add link eth0 name v0 type ipvlan mode l2")
        .expect_quiet();
    assert_eq!(net.look(&net.host, "v0")["operstate"], "DOWN");
    net.host.sh("ip link set dev v0 up");
    let state = differs("operstate", "UP", "UNKNOWN");
    assert!(
        eventually(PATIENCE, || net.look(&net.host, "v0")["operstate"] == state),
        "{}",
        net.look(&net.host, "v0")
    );
    // The first change of carrier sets it right.
    net.lan.sh("ip link set dev lan0 down");
    let state = |wanted: &str| {
        eventually(PATIENCE, || {
            net.look(&net.host, "v0")["operstate"] == wanted
        })
    };
    assert!(state("LOWERLAYERDOWN") || state("DOWN"));
    net.lan.sh("ip link set dev lan0 up");
    assert!(state("UP"), "{}", net.look(&net.host, "v0"));
}

#[test]
fn a_curious_device_does_not_make_its_parent_curious() {
    let net = Net::new(Mode::L2).devices(1).build();
    let before = net.host.link("eth0").promiscuity;
    net.dev(0).ns.sh("ip link set dev ipvl0 promisc on");
    assert_eq!(net.dev(0).ns.link("ipvl0").promiscuity, Some(1));
    assert!(net.lan.reaches("10.1.0.10"));
    assert_eq!(net.host.link("eth0").promiscuity, before);
}

#[test]
fn a_device_keeps_its_offloads_when_the_parent_has_none() {
    let net = Net::new(Mode::L2).devices(1).build();
    net.host.sh("ethtool -K eth0 tso off gso off tx off sg off");
    let ns = &net.dev(0).ns;
    let features = ns.read("ethtool -k ipvl0");
    for feature in ["tcp-segmentation-offload: on", "tx-checksumming: on"] {
        assert!(features.contains(feature), "{feature}: {features}");
    }
    let wire = ipvlan_tests::Sniffer::on(&net.lan, "lan0");
    for address in ["10.1.0.254", "fd00::254"] {
        let address: IpAddr = address.parse().expect("an address");
        let seen = traffic::tcp(&net.lan, address, ns, 200_000);
        assert!(seen.is_ok(), "{seen:?}");
    }
    // What the LAN sends is longer, as it never was in pieces.
    let longest = wire
        .heard()
        .iter()
        .filter(|seen| seen.source() == net.mac())
        .map(|seen| seen.bytes.len())
        .max();
    assert!(longest.is_some_and(|length| length <= 1514), "{longest:?}");
}

#[test]
fn a_device_is_not_one_more_storey_on_its_parent() {
    let net = Net::new(Mode::L2).build();
    // Six virtual devices, one on top of the other.
    let mut top = "eth0".to_owned();
    for number in 1..=3 {
        net.host.batch(&format!(
            "link add link {top} name m{number} up type macvlan mode bridge\n\
             link add b{number} up type bridge\n\
             link set dev m{number} master b{number}\n"
        ));
        top = format!("b{number}");
    }
    let make = |parent: &str| {
        net.ip(
            &net.host,
            &format!("link add link {parent} name v0 type ipvlan mode l2"),
        )
    };
    make(&top).expect_quiet();
    net.ip(&net.host, "link del v0").expect_quiet();
    net.host.sh(&format!(
        "ip link add link {top} name m4 up type macvlan mode bridge"
    ));
    let done = make("m4");
    assert_eq!(
        done.answer(),
        differs("nesting", (0, ""), (2, "RTNETLINK answers: Too many links"))
    );
}

#[test]
fn what_is_stacked_on_a_device() {
    let net = Net::new(Mode::L2).build();
    net.host.sh("ip link add dev b0 type bridge");
    for (line, driver) in [
        (
            "link add link v0 name m0 type macvlan",
            "RTNETLINK answers: Invalid argument",
        ),
        (
            "link set dev v0 master b0",
            "RTNETLINK answers: Invalid argument",
        ),
    ] {
        net.ip(&net.host, "link add link eth0 name v0 type ipvlan mode l2")
            .expect_quiet();
        let done = net.host.try_sh(&format!("ip {line}"));
        assert_eq!(
            done.answer(),
            differs("stacking", (0, ""), (2, driver)),
            "`{line}`"
        );
        net.ip(&net.host, "link del v0").expect_quiet();
    }
}
