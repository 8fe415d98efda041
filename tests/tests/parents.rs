//! What may be a parent, with traffic through it; what may not; what else a parent may be.

#![expect(
    clippy::expect_used,
    reason = "clippy knows a test by its attribute, not the functions beside it"
)]

use std::net::IpAddr;

use ipvlan_tests::tap::Tap;
use ipvlan_tests::{Backend, Mode, Net, Ns, PATIENCE, differs, eventually, traffic};

/// A kind of interface that may be a parent, and what it is made of in the fixture's two
/// namespaces, with the LAN behind it.
struct Kind {
    /// What `ip link add … type` calls it, where this kernel may lack it.
    asks: Option<&'static str>,
    parent: &'static str,
    host: &'static str,
    lan: &'static str,
}

const ETH0_WITHOUT_ADDRESSES: &str = "addr flush dev eth0\n";

/// Whether this kernel can make such an interface. Which ones it cannot is not for us to hide: the
/// machine that has the driver (`cargo xtask vm`) has all of them.
fn kernel_has(ns: &Ns, kind: &str) -> bool {
    let words = match kind {
        "vlan" => "ip link add link lo name probe0 type vlan id 9".to_owned(),
        "macvlan" => "ip link add link lo name probe0 type macvlan".to_owned(),
        "vxlan" => "ip link add probe0 type vxlan id 9 dstport 9".to_owned(),
        "vrf" => "ip link add probe0 type vrf table 9".to_owned(),
        "tap" => "ip tuntap add dev probe0 mode tap".to_owned(),
        kind => format!("ip link add probe0 type {kind}"),
    };
    let done = ns.try_sh(&words);
    if done.ok() {
        ns.sh("ip link del probe0");
    }
    // Anything else, such as a parent that it does not like, is an answer of a kernel that has it.
    let lacks = done.stderr.contains("Unknown device type")
        || done.stderr.contains("not supported")
        || done.stderr.contains("No such");
    if lacks {
        eprintln!("this kernel has no {kind}: not tested here, but with `cargo xtask vm`");
    }
    !lacks
}

/// Two devices on it, and traffic between all and the LAN.
#[track_caller]
fn check(kind: &Kind) {
    let net = Net::new(Mode::L2).build();
    if kind.asks.is_some_and(|asks| !kernel_has(&net.host, asks)) {
        return;
    }
    if kind.parent != "eth0" {
        net.host.batch(ETH0_WITHOUT_ADDRESSES);
    }
    net.host.batch(kind.host);
    net.lan.batch(kind.lan);
    let _tap = (kind.asks == Some("tap")).then(|| {
        // A tap's frames have their checksums; those of a veth have not.
        net.lan.sh("ethtool -K lan0 tx off");
        let tap = Tap::joined(&net.host, "tap0", "eth0");
        net.host.sh("ip link set tap0 up");
        tap
    });
    if kind.parent == "first" {
        net.ip(
            &net.host,
            "link add link eth0 name first type ipvlan mode l2",
        )
        .expect_quiet();
    }
    let spaces = [net.namespace("a"), net.namespace("b")];
    for (ns, last) in spaces.iter().zip([10, 11]) {
        let words = format!(
            "link add link {} name ipvl0 netns {} type ipvlan mode l2",
            kind.parent,
            ns.name()
        );
        net.ip(&net.host, &words).expect_quiet();
        ns.hurry("ipvl0");
        ns.batch(&format!(
            "link set ipvl0 up\n\
             addr add 10.1.0.{last}/24 dev ipvl0\n\
             addr add fd00::{last}/64 dev ipvl0 nodad\n"
        ));
    }
    let [a, b] = &spaces;
    let parent = if kind.parent == "first" {
        "eth0"
    } else {
        kind.parent
    };
    assert_eq!(
        a.mac("ipvl0"),
        net.host.mac(parent),
        "devices have its MAC address"
    );
    for address in ["10.1.0.254", "fd00::254", "10.1.0.11", "fd00::11"] {
        assert!(a.reaches(address), "a device reaches {address}");
    }
    for address in ["10.1.0.10", "fd00::10"] {
        assert!(net.lan.reaches(address), "the LAN reaches {address}");
        assert!(b.reaches(address), "a sibling reaches {address}");
        let address: IpAddr = address.parse().expect("an address");
        let tcp = traffic::tcp(a, address, &net.lan, 100_000);
        assert!(tcp.is_ok(), "TCP with the LAN: {tcp:?}");
    }
}

#[test]
fn a_veth_may_be_a_parent() {
    check(&Kind {
        asks: None,
        parent: "eth0",
        host: "",
        lan: "",
    });
}

#[test]
fn a_bridge_may_be_a_parent() {
    check(&Kind {
        asks: Some("bridge"),
        parent: "br0",
        host: "link add br0 type bridge\n\
               link set eth0 master br0\n\
               link set br0 up\n",
        lan: "",
    });
}

#[test]
fn a_bond_may_be_a_parent() {
    check(&Kind {
        asks: Some("bond"),
        parent: "bond0",
        host: "link add bond0 type bond mode active-backup miimon 50\n\
               link set eth0 down\n\
               link set eth0 master bond0\n\
               link set bond0 up\n",
        lan: "",
    });
}

#[test]
fn a_macvlan_device_may_be_a_parent() {
    check(&Kind {
        asks: Some("macvlan"),
        parent: "mv0",
        host: "link add mv0 link eth0 type macvlan mode bridge\n\
               link set mv0 up\n",
        lan: "",
    });
}

#[test]
fn a_vlan_may_be_a_parent() {
    check(&Kind {
        asks: Some("vlan"),
        parent: "eth0.5",
        host: "link add link eth0 name eth0.5 type vlan id 5\n\
               link set eth0.5 up\n",
        lan: "addr flush dev lan0\n\
              link add link lan0 name lan0.5 type vlan id 5\n\
              link set lan0.5 up\n\
              addr add 10.1.0.254/24 dev lan0.5\n\
              addr add fd00::254/64 dev lan0.5 nodad\n",
    });
}

#[test]
fn a_vxlan_may_be_a_parent() {
    check(&Kind {
        asks: Some("vxlan"),
        parent: "vx0",
        host: "addr add 10.9.0.1/24 dev eth0\n\
               link add vx0 type vxlan id 7 local 10.9.0.1 remote 10.9.0.2 dstport 4789\n\
               link set vx0 up\n",
        lan: "addr flush dev lan0\n\
              addr add 10.9.0.2/24 dev lan0\n\
              link add vx0 type vxlan id 7 local 10.9.0.2 remote 10.9.0.1 dstport 4789\n\
              link set vx0 up\n\
              addr add 10.1.0.254/24 dev vx0\n\
              addr add fd00::254/64 dev vx0 nodad\n",
    });
}

#[test]
fn a_member_of_a_vrf_may_be_a_parent() {
    check(&Kind {
        asks: Some("vrf"),
        parent: "eth0",
        host: "link add vrf0 type vrf table 10\n\
               link set vrf0 up\n\
               link set eth0 master vrf0\n",
        lan: "",
    });
}

#[test]
fn a_tap_may_be_a_parent() {
    check(&Kind {
        asks: Some("tap"),
        parent: "tap0",
        host: "link set eth0 promisc on\n",
        lan: "",
    });
}

#[test]
fn a_device_stands_for_its_parent() {
    check(&Kind {
        asks: None,
        parent: "first",
        host: "",
        lan: "",
    });
}

#[test]
fn a_dummy_may_be_a_parent_of_devices_among_themselves() {
    let net = Net::new(Mode::L2).build();
    if !kernel_has(&net.host, "dummy") {
        return;
    }
    net.host
        .batch("link add dum0 type dummy\nlink set dum0 up\n");
    let spaces = [net.namespace("a"), net.namespace("b")];
    for (ns, last) in spaces.iter().zip([1, 2]) {
        let words = format!(
            "link add link dum0 name ipvl0 netns {} type ipvlan mode l3",
            ns.name()
        );
        net.ip(&net.host, &words).expect_quiet();
        ns.batch(&format!(
            "link set ipvl0 up\naddr add 10.7.0.{last}/24 dev ipvl0\n"
        ));
    }
    let [a, b] = &spaces;
    assert!(a.reaches("10.7.0.2"), "siblings need no wire");
    // It keeps its carrier when it is down, so its devices do.
    net.host.sh("ip link set dum0 down");
    std::thread::sleep(std::time::Duration::from_millis(300));
    let seen = differs("parent-down", (false, false), (true, true));
    let now = (a.link("ipvl0").has_carrier(), a.answers("10.7.0.2"));
    assert_eq!(now, seen, "carrier and siblings of a dummy that is down");
    net.host.sh("ip link set dum0 up");
    assert!(a.reaches("10.7.0.2"), "and all works again");
    assert!(b.reaches("10.7.0.1"), "both ways");
}

#[test]
fn what_is_no_ethernet_interface_is_no_parent() {
    let net = Net::new(Mode::L2).build();
    let mut refused = vec!["lo"];
    if kernel_has(&net.host, "tap") {
        net.host.sh("ip tuntap add dev tun0 mode tun");
        net.host.sh("ip link set tun0 up");
        refused.push("tun0");
    }
    if kernel_has(&net.host, "vrf") {
        net.host
            .batch("link add vrf0 type vrf table 10\nlink set vrf0 up\n");
        refused.push("vrf0");
    }
    for mode in ["l2", "l3"] {
        for parent in &refused {
            let done = net.ip(
                &net.host,
                &format!("link add link {parent} name x0 type ipvlan mode {mode}"),
            );
            assert_eq!(done.status, 2, "{mode} on {parent}: {done:?}");
            // Why, says ours of most; the driver says it in the kernel's log.
            let why = differs("refusals", *parent, "Invalid argument");
            assert!(done.stderr.contains(why), "{mode} on {parent}: {done:?}");
            assert!(
                net.host.find_link("x0").is_none(),
                "{parent}: nothing is left"
            );
        }
    }
    let gone = net.ip(&net.host, "link add link nobody0 name x0 type ipvlan");
    assert!(!gone.ok(), "a parent that is not there: {gone:?}");
    if Backend::is_ours() {
        net.assert_clean();
    }
}

/// What the driver refuses because a parent can do one thing only.
const BUSY: &str = "Device or resource busy";

#[test]
fn a_parent_may_be_something_else_at_the_same_time() {
    for (what, kind, first, then) in [
        (
            "a bridge port",
            "bridge",
            "link add br0 type bridge\n",
            "link set eth0 master br0",
        ),
        (
            "a macvlan parent",
            "macvlan",
            "",
            "link add mv0 link eth0 type macvlan mode bridge",
        ),
        (
            "a bond member",
            "bond",
            "link add bond0 type bond mode active-backup\nlink set eth0 down\n",
            "link set eth0 master bond0",
        ),
    ] {
        // First something else, then a parent.
        let net = Net::new(Mode::L2).build();
        if !kernel_has(&net.host, kind) {
            continue;
        }
        net.host.batch(first);
        net.host.sh(&format!("ip {then}"));
        let add = "link add link eth0 name x0 type ipvlan mode l2";
        let done = net.ip(&net.host, add);
        let works = differs("shared-parent", true, false);
        assert_eq!(done.ok(), works, "{what} as a parent: {done:?}");
        assert!(works || done.stderr.contains(BUSY), "{what}: {done:?}");
        // First a parent, then something else.
        let net = Net::new(Mode::L2).build();
        net.host.batch(first);
        net.ip(&net.host, add).expect_quiet();
        let done = net.host.try_sh(&format!("ip {then}"));
        assert_eq!(done.ok(), works, "a parent as {what}: {done:?}");
    }
}

#[test]
fn a_parent_may_carry_vlans_of_its_own() {
    let net = Net::new(Mode::L2).devices(2).build();
    if !kernel_has(&net.host, "vlan") {
        return;
    }
    for (ns, name, last) in [(&net.host, "eth0", 1), (&net.lan, "lan0", 254)] {
        ns.batch(&format!(
            "link add link {name} name vlan5 type vlan id 5\n\
             link set vlan5 up\n\
             addr add 10.5.0.{last}/24 dev vlan5\n\
             addr add fd05::{last}/64 dev vlan5 nodad\n"
        ));
    }
    // And a parent on top of it, with an address that the first one's device has as well.
    let ns = net.namespace("vlan");
    let words = format!(
        "link add link vlan5 name ipvl0 netns {} type ipvlan mode l2",
        ns.name()
    );
    net.ip(&net.host, &words).expect_quiet();
    ns.batch(
        "link set ipvl0 up\naddr add 10.5.0.20/24 dev ipvl0\naddr add 10.1.0.10/24 dev ipvl0\n",
    );
    for address in ["10.5.0.1", "fd05::1", "10.5.0.20"] {
        assert!(net.lan.reaches(address), "the VLAN's {address}");
    }
    assert!(ns.reaches("10.5.0.254"), "a device of the VLAN reaches");
    for dev in &net.devices {
        assert!(dev.ns.reaches("10.1.0.254"), "devices beside the VLAN");
        for address in dev.addresses() {
            assert!(net.lan.reaches(&address), "{address} beside the VLAN");
        }
    }
    assert!(net.host.reaches("10.1.0.254"), "and the host itself");
}

#[test]
fn one_address_may_be_on_devices_of_two_parents() {
    let net = Net::new(Mode::L2).devices(1).build();
    let other = net.namespace("wire1");
    net.host.batch(&format!(
        "link add eth1 type veth peer name lan0 netns {}\n\
         link set eth1 up\n",
        other.name()
    ));
    other.batch(
        "link set lan0 up\naddr add 10.1.0.254/24 dev lan0\naddr add fd00::254/64 dev lan0 nodad\n",
    );
    let guest = net.namespace("guest");
    let words = format!(
        "link add link eth1 name v0 netns {} type ipvlan mode l2",
        guest.name()
    );
    net.ip(&net.host, &words).expect_quiet();
    guest
        .batch("link set v0 up\naddr add 10.1.0.10/24 dev v0\naddr add fd00::10/64 dev v0 nodad\n");
    for (wire, ns) in [("first", &net.lan), ("second", &other)] {
        for address in ["10.1.0.10", "fd00::10"] {
            assert!(
                ns.reaches(address),
                "the {wire} wire reaches its own {address}"
            );
        }
    }
    guest.sh("ip link del v0");
    assert!(
        net.lan.reaches("10.1.0.10"),
        "one that goes takes nothing from the other"
    );
    if Backend::is_ours() {
        let shown = || net.shown().as_array().map(Vec::len);
        assert!(eventually(PATIENCE, || shown() == Some(1)), "one is left");
    }
}

#[test]
fn a_parent_is_as_before_when_its_devices_are_gone_and_may_have_new_ones() {
    let mut net = Net::new(Mode::L2).devices(2).build();
    let before = net.host.link("eth0").flags;
    for round in 0..2 {
        let spaces: Vec<(String, &Ns)> = net
            .devices
            .iter()
            .map(|dev| (dev.name.clone(), &dev.ns))
            .collect();
        for (name, ns) in spaces {
            let done = net.ip(ns, &format!("link del {name}"));
            assert!(done.ok(), "round {round}: {done:?}");
        }
        assert!(
            net.lan.reaches("10.1.0.1"),
            "round {round}: the host is reached"
        );
        assert!(net.host.reaches("10.1.0.254"), "round {round}: and reaches");
        if Backend::is_ours() {
            net.assert_clean();
            let now = net.host.link("eth0");
            assert_eq!(now.allmulti, Some(0), "round {round}: {now:?}");
        }
        net.devices.clear();
        for _ in 0..2 {
            let number = net.add();
            net.dev(number).configure();
        }
        for dev in &net.devices {
            assert!(
                net.lan.reaches(&dev.addresses()[0]),
                "round {round}: new ones work"
            );
        }
    }
    assert_eq!(net.host.link("eth0").flags, before, "the parent's flags");
}
