//! `type ipvtap`: what a virtual machine sees of the network, and the network of it.
//!
//! The guests are namespaces behind taps that are opened as a virtual machine monitor opens them; with
//! real machines it is tried in `guests`.

#![expect(
    clippy::expect_used,
    reason = "clippy knows only #[test] functions as tests"
)]

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::process::{Command, Stdio};
use std::time::Duration;

use ipvlan_tests::guest::{addresses, open_tap, open_tap_as};
use ipvlan_tests::packet::{self, Mac, ethertype};
use ipvlan_tests::{
    Dice, Guest, LAN4, MARK, Mode, Net, Ns, PATIENCE, Sniffer, differs, eventually, traffic,
};
use nix::errno::Errno;

/// MAC addresses of guests; whoever sees them elsewhere sees what nobody should.
const MACS: [Mac; 2] = [*b"\x02guest", *b"\x02GUEST"];

struct Place<'a> {
    name: &'a str,
    ns: &'a Ns,
    addresses: [IpAddr; 2],
}

/// Makes a tap for a guest, gives it its addresses, and starts the guest.
#[track_caller]
fn guest(net: &Net, number: u8) -> Guest {
    let name = format!("tap{number}");
    make(net, &name, "");
    let (v4, v6) = give(net, number);
    let guest = Guest::start(
        net,
        &name,
        &format!("vm{number}"),
        MACS[usize::from(number)],
    );
    guest.configure(net.mode, v4, v6);
    guest
}

#[track_caller]
fn make(net: &Net, name: &str, more: &str) {
    let mode = net.mode;
    let line = format!("link add link eth0 name {name} {more} up type ipvtap mode {mode}");
    net.ipvlan(&line).expect_quiet();
}

#[track_caller]
fn give(net: &Net, number: u8) -> (Ipv4Addr, Ipv6Addr) {
    let (v4, v6) = addresses(net.mode, number);
    for address in [IpAddr::from(v4), IpAddr::from(v6)] {
        let verb = differs("ipvtap-address", "addr add", "ip addr add");
        net.ipvlan(&format!("{verb} {address} dev tap{number}"))
            .expect_quiet();
    }
    (v4, v6)
}

/// Two guests and two namespaces on one parent, and the LAN: everybody reaches everybody, and the LAN
/// sees one MAC address.
fn all_reach_all(mode: Mode) {
    let net = Net::new(mode).devices(2).build();
    let ear = Sniffer::on(&net.lan, "lan0");
    let guests = [guest(&net, 0), guest(&net, 1)];
    let mut places = vec![Place {
        name: "lan",
        ns: &net.lan,
        addresses: ["10.1.0.254", "fd00::254"].map(|text| text.parse().expect("an address")),
    }];
    places.extend(net.devices.iter().map(|dev| Place {
        name: &dev.name,
        ns: &dev.ns,
        addresses: [dev.v4.into(), dev.v6.into()],
    }));
    for (number, guest) in guests.iter().enumerate() {
        let (v4, v6) = addresses(mode, u8::try_from(number).expect("two"));
        places.push(Place {
            name: ["guest 0", "guest 1"][number],
            ns: &guest.ns,
            addresses: [v4.into(), v6.into()],
        });
    }
    for from in &places {
        for to in &places {
            if from.name == to.name {
                continue;
            }
            for address in to.addresses {
                let what = format!("{mode}: {} to {} at {address}", from.name, to.name);
                assert!(from.ns.reaches(&address.to_string()), "{what}");
                let seen = traffic::tcp(to.ns, address, from.ns, 300_000);
                let seen = seen.unwrap_or_else(|error| panic!("{what}: {error}"));
                let own = from.addresses.contains(&seen);
                assert!(own, "{what}: seen as {seen}");
            }
        }
    }
    let parent = net.mac();
    let heard = ear.heard();
    assert!(heard.len() > 100, "the LAN has heard something");
    for seen in heard {
        assert_eq!(seen.source(), parent, "{seen:?}");
        for mac in MACS {
            assert!(!seen.contains(&mac), "{seen:?}");
        }
    }
    for (guest, number) in guests.iter().zip(0..) {
        if mode != Mode::L2 {
            let found = guest.ns.neighbour("169.254.1.1");
            let answered = found.contains(&packet::mac_text(parent));
            assert_eq!(answered, differs("ipvtap-l3", true, false), "{found}");
        }
        assert_eq!(shown_guest(&net, number), packet::mac_text(guest.mac));
    }
}

/// The MAC address of a guest, as `link show` has it.
fn shown_guest(net: &Net, number: u8) -> String {
    let shown = net.look(&net.host, &format!("tap{number}"));
    shown["ipvlan"]["guest"].as_str().unwrap_or("?").to_owned()
}

#[test]
fn guests_namespaces_and_the_lan_reach_each_other_in_l2() {
    all_reach_all(Mode::L2);
}

#[test]
fn guests_namespaces_and_the_lan_reach_each_other_in_l3() {
    all_reach_all(Mode::L3);
}

#[test]
fn guests_namespaces_and_the_lan_reach_each_other_in_l3s() {
    all_reach_all(Mode::L3s);
}

/// One guest in l2.
fn one() -> (Net, Guest) {
    let net = Net::new(Mode::L2).build();
    let guest = guest(&net, 0);
    let (v4, _) = addresses(Mode::L2, 0);
    assert!(net.lan.reaches(&v4.to_string()));
    (net, guest)
}

#[test]
fn it_is_made_shown_changed_and_deleted() {
    let mut net = Net::new(Mode::L2).devices(1).build();
    make(&net, "tap0", "");
    let shown = net.look(&net.host, "tap0");
    assert_eq!(shown["linkinfo"]["info_kind"], "ipvtap");
    assert_eq!(shown["linkinfo"]["info_data"]["mode"], "l2");
    assert_eq!(shown["link"], "eth0");
    assert_eq!(shown["address"], packet::mac_text(net.mac()));
    let names = |words: &str| -> Vec<String> {
        let text = net.ipvlan(&format!("-j link show {words}")).expect();
        let all: serde_json::Value = serde_json::from_str(&text).expect("JSON");
        let all = all.as_array().expect("a list").iter();
        all.filter_map(|one| Some(one["ifname"].as_str()?.to_owned()))
            .collect()
    };
    assert_eq!(names("type ipvtap"), ["tap0"]);
    assert_eq!(names("type ipvlan"), ["ipvl0"]);
    assert_eq!(names("link eth0").len(), 2);

    // One port: what is said of one is so for all.
    net.ipvlan("link set tap0 type ipvtap mode l3 private")
        .expect_quiet();
    assert_eq!(net.kind(&net.host, "tap0"), "l3 private");
    let dev = net.dev(0);
    assert_eq!(net.kind(&dev.ns, &dev.name), "l3 private");
    net.ipvlan("link set eth0 type ipvlan mode l2 bridge")
        .expect_quiet();
    assert_eq!(net.kind(&net.host, "tap0"), "l2 bridge");

    // Without a name it gets the driver's.
    net.ipvlan("link add link eth0 type ipvtap").expect_quiet();
    assert_eq!(names("type ipvtap"), ["tap0", "ipvtap0"]);
    net.ipvlan("link del ipvtap0").expect_quiet();
    net.ipvlan("link del tap0 type ipvtap").expect_quiet();
    net.devices.clear();
    net.assert_clean();
}

#[test]
fn what_can_not_be_made_is_refused_in_one_line() {
    let net = Net::new(Mode::L2).build();
    make(&net, "tap0", "");
    let other = net.namespace("other");
    let other = other.name();
    for (words, says) in [
        (format!("name tap1 netns {other} type ipvtap"), "namespace"),
        ("name tap0 type ipvtap".into(), "exists"),
        ("name ipvh2.0 type ipvtap".into(), "take another"),
        (
            "name tap1 type ipvtap user nobody-at-all".into(),
            "invalid user",
        ),
        (
            "name tap1 type ipvtap group nobody-at-all".into(),
            "invalid group",
        ),
        ("name tap1 type ipvlan user root".into(), "unknown option"),
        ("name tap1 type ipvtap mode l7".into(), "mode"),
    ] {
        let done = net.ipvlan(&format!("link add link eth0 {words}"));
        let (status, line) = done.answer();
        assert!(
            status != 0 && line.contains(says) && done.stdout.is_empty(),
            "{words}: not {says:?}: {done:?}"
        );
    }
    let done = net.ipvlan("link set tap0 type ipvlan mode l3");
    assert!(!done.ok(), "it is no ipvlan: {done:?}");
    assert_eq!(net.kind(&net.host, "tap0"), "l2 bridge");
    let taps = net.host.links().into_iter();
    assert_eq!(taps.filter(|name| name.starts_with("tap")).count(), 1);
}

#[test]
fn it_is_for_its_user_and_its_group_and_has_the_queues_that_were_asked_for() {
    let net = Net::new(Mode::L2).build();
    make_for(&net, "tap0", "", "user 4321");
    make_for(&net, "tap1", "numtxqueues 2", "");
    let shown = net.look(&net.host, "tap0");
    assert_eq!(shown["ipvlan"]["user"], 4321);
    assert_eq!(open_tap_as(&net, "tap0", 4321), Ok(()));
    assert_eq!(open_tap_as(&net, "tap0", 1234), Err(Errno::EPERM));
    let open = |name: &str, many| net.host.enter(|| open_tap(name, many));
    let name = differs("ipvtap", "tap1", "/dev/tapIFINDEX");
    let _first = open(name, true).expect("a queue");
    let _second = open("tap1", true).expect("another queue");
    let _only = open("tap0", false).expect("root may");
    assert_eq!(open("tap0", false).err(), Some(Errno::EBUSY));
}

#[track_caller]
fn make_for(net: &Net, name: &str, more: &str, users: &str) {
    let line = format!("link add link eth0 name {name} {more} up type ipvtap mode l2 {users}");
    net.ipvlan(&line).expect_quiet();
}

#[test]
fn one_that_ip_deletes_or_moves_away_leaves_nothing() {
    let net = Net::new(Mode::L2).build();
    make(&net, "tap0", "");
    net.host.sh("ip link del tap0");
    net.assert_clean();

    let guest = guest(&net, 0);
    let (v4, _) = addresses(Mode::L2, 0);
    assert!(net.lan.reaches(&v4.to_string()));
    let other = net.namespace("other");
    net.host
        .sh(&format!("ip link set tap0 netns {}", other.name()));
    net.assert_clean();
    // A tap like any other: nothing of ours is in the way of what the guest says.
    other.sh("ip link set tap0 up");
    let ear = Sniffer::on(&other, "tap0");
    let asks = || {
        let _: bool = guest.ns.answers(&LAN4.to_string());
        ear.heard()
            .iter()
            .any(|seen| !seen.outgoing && seen.ethertype() == ethertype::ARP)
    };
    assert!(eventually(PATIENCE, asks));
}

#[test]
fn it_follows_mac_mtu_and_carrier_of_its_parent_and_its_guest_goes_on() {
    let (net, guest) = one();
    let tap = || net.host.link("tap0");
    net.host.sh("ip link set eth0 mtu 1400");
    assert!(eventually(PATIENCE, || tap().mtu == 1400));
    net.host.sh("ip link set eth0 address 02:00:00:00:77:77");
    assert!(eventually(PATIENCE, || tap().mac == Some([2, 0, 0, 0, 0x77, 0x77])));
    net.lan.sh("ip link set lan0 down");
    assert!(eventually(PATIENCE, || !tap().has_carrier()));
    net.lan.sh("ip link set lan0 up");
    assert!(eventually(PATIENCE, || tap().has_carrier()));
    guest.ns.sh("ip link set eth0 mtu 1400");
    guest.ns.sh("ip neigh flush all");
    let (v4, _) = addresses(Mode::L2, 0);
    assert!(net.lan.reaches(&v4.to_string()));
    // Down and up is the user's to say, and is no change of anything else.
    net.host.sh("ip link set tap0 down");
    assert!(net.lan.loses(&v4.to_string()));
    net.host.sh("ip link set tap0 up");
    assert!(net.lan.reaches(&v4.to_string()));
}

#[test]
fn a_guest_hears_its_own_mac_address_and_nothing_of_the_hosts_stack() {
    let (net, guest) = one();
    // What makes a stack talk: routers' groups, a fresh interface, listeners.
    net.host.sysctl("net/ipv6/conf/all/forwarding", "1");
    net.host.batch("link set tap0 down\nlink set tap0 up\n");
    let ear = Sniffer::on(&guest.ns, "eth0");
    let (v4, v6) = addresses(Mode::L2, 0);
    net.lan.sh("ip neigh flush all");
    for address in [IpAddr::from(v4), v6.into()] {
        assert!(net.lan.reaches(&address.to_string()));
        let seen = traffic::tcp(&guest.ns, address, &net.lan, 10_000);
        assert!(seen.is_ok(), "{seen:?}");
    }
    std::thread::sleep(Duration::from_secs(2));
    assert!(
        drops(&net, "tap0", "host_stack") > 0,
        "it had something to say"
    );
    let lan = net.lan.mac("lan0");
    let (mut unicast, mut groups) = (0, 0);
    for seen in ear.heard().iter().filter(|seen| !seen.outgoing) {
        assert_eq!(seen.source(), lan, "the host itself says nothing: {seen:?}");
        if seen.destination()[0] & 1 == 0 {
            let wanted = differs("ipvtap-mac", guest.mac, net.mac());
            assert_eq!(seen.destination(), wanted, "{seen:?}");
            unicast += 1;
        } else {
            groups += 1;
        }
    }
    assert!(unicast > 10 && groups > 0, "{unicast} and {groups} frames");
    assert_eq!(net.host.read("ip -6 addr show dev tap0"), "");
}

/// What `stats` counts of a device for this reason.
fn drops(net: &Net, device: &str, reason: &str) -> u64 {
    let shown = net.look(&net.host, device);
    shown["ipvlan"]["drops"][reason].as_u64().unwrap_or(0)
}

#[test]
fn a_guest_that_starts_again_with_another_mac_address_is_reached_at_once() {
    let (net, guest) = one();
    let (v4, v6) = addresses(Mode::L2, 0);
    guest.stop();
    let guest = Guest::start(&net, "tap0", "vm1", MACS[1]);
    guest.configure(Mode::L2, v4, v6);
    // It says nothing first, and the LAN asks nothing: it knows where to send to. A frame that has
    // the old address gets an answer by its question for the sender.
    assert!(guest.ns.reaches(&LAN4.to_string()));
    for address in [v4.to_string(), v6.to_string()] {
        assert!(net.lan.answers(&address), "{address}");
    }
    assert_eq!(shown_guest(&net, 0), packet::mac_text(MACS[1]));
}

#[test]
fn making_and_deleting_that_is_killed_leaves_what_the_next_call_mends() {
    let net = Net::new(Mode::L2).build();
    make(&net, "tap9", "");
    let mut dice = Dice::new();
    for round in 0..25 {
        for line in [
            "link add link eth0 name tap0 up type ipvtap mode l2",
            "link del tap0",
        ] {
            kill_after(&net, line, dice.roll(60_000));
        }
        // Whole or not there.
        let made = net.ipvlan("link add link eth0 name tap0 up type ipvtap mode l2");
        let there = made.ok() || made.stderr.contains("exists");
        assert!(there, "round {round}: {made:?}");
        let ready = || net.look(&net.host, "tap0")["linkinfo"]["info_kind"] == "ipvtap";
        if !eventually(PATIENCE, ready) {
            panic!("round {round}: {}", net.host.read("ip -d link show tap0"));
        }
        net.ipvlan("link del tap0").expect_quiet();
        let taps = net.host.links().into_iter();
        let taps: Vec<String> = taps.filter(|name| name.starts_with("tap")).collect();
        assert_eq!(taps, ["tap9"], "round {round}");
    }
    net.ipvlan("link del tap9").expect_quiet();
    net.assert_clean();
}

/// Starts `ipvlan` and kills it after that long, unless it is faster.
fn kill_after(net: &Net, line: &str, micros: u64) {
    let child = net.host.enter(|| {
        Command::new(net.program().path())
            .args(line.split(' '))
            .env(MARK, net.mark())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
    });
    let mut child = child.expect("ipvlan");
    std::thread::sleep(Duration::from_micros(micros));
    let _: std::io::Result<()> = child.kill();
    let _: std::io::Result<_> = child.wait();
}
