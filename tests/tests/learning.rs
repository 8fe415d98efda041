//! `learning on`: an ipvtap whose guest owns what it says it has.

#![expect(
    clippy::expect_used,
    reason = "clippy knows only #[test] functions as tests"
)]

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::time::Duration;

use ipvlan_tests::guest::addresses;
use ipvlan_tests::packet::{BROADCAST, Mac, arp, ethernet, ethertype, icmpv6, ipv6, nd};
use ipvlan_tests::process::kill_hard;
use ipvlan_tests::sniff::Sender;
use ipvlan_tests::{Guest, LAN4, Mode, Net, eventually, traffic};

const MACS: [Mac; 2] = [*b"\x02guest", *b"\x02GUEST"];
const SOON: Duration = Duration::from_secs(3);
/// For what must not come.
const QUIET: Duration = Duration::from_millis(500);

/// A tap of this number, and a guest behind it that has no address yet.
#[track_caller]
fn guest(net: &Net, number: u8, learning: &str) -> Guest {
    let mode = net.mode;
    let line = format!("link add link eth0 name tap{number} up type ipvtap mode {mode} {learning}");
    net.ipvlan(&line).expect_quiet();
    start(net, number)
}

#[track_caller]
fn start(net: &Net, number: u8) -> Guest {
    Guest::start(
        net,
        &format!("tap{number}"),
        &format!("vm{number}"),
        MACS[usize::from(number)],
    )
}

/// What our program lists of a tap under `key`, link-local addresses aside.
fn listed(net: &Net, number: u8, key: &str) -> Vec<String> {
    let shown = net.look(&net.host, &format!("tap{number}"));
    let all = shown["ipvlan"][key].as_array().expect(key).iter();
    let all = all.map(|address| address.as_str().expect("an address").to_owned());
    all.filter(|address| !address.starts_with("fe80:"))
        .collect()
}

#[track_caller]
fn owns(net: &Net, number: u8, address: &str) {
    let found = || listed(net, number, "owns");
    assert!(
        eventually(SOON, || found().iter().any(|one| one == address)),
        "{address} is the guest's: {found:?}",
        found = found()
    );
}

/// A guest that talks and one that only listens; the LAN and a namespace reach both.
fn all_reach_all(mode: Mode) {
    let net = Net::new(mode).devices(1).build();
    let guests = [0, 1].map(|number| {
        let guest = guest(&net, number, "learning on");
        let (v4, v6) = addresses(mode, number);
        guest.configure(mode, v4, v6);
        (guest, v4, v6)
    });
    let dev = net.dev(0);
    for (guest, v4, v6) in &guests {
        // It says who it is when it asks for its next hop.
        for to in ["10.1.0.254", "fd00::254"] {
            assert!(guest.ns.answers(to), "{mode}: {v4}, {v6} to {to}");
        }
        for address in [IpAddr::from(*v4), IpAddr::from(*v6)] {
            assert!(
                net.lan.answers(&address.to_string()),
                "{mode}: LAN to {address}"
            );
            assert!(
                dev.ns.answers(&address.to_string()),
                "{mode}: device to {address}"
            );
            let sent = traffic::tcp(&guest.ns, address, &net.lan, 200_000);
            let _: IpAddr =
                sent.unwrap_or_else(|error| panic!("{mode}: TCP to {address}: {error}"));
        }
    }
    let (guest, ..) = &guests[0];
    let (_, v4, v6) = &guests[1];
    for address in [IpAddr::from(*v4), IpAddr::from(*v6)] {
        assert!(
            guest.ns.answers(&address.to_string()),
            "{mode}: guest to {address}"
        );
    }
    for (number, (_, v4, v6)) in (0..).zip(&guests) {
        owns(&net, number, &v4.to_string());
        owns(&net, number, &v6.to_string());
    }
}

#[test]
fn what_guests_say_is_theirs_in_l2() {
    all_reach_all(Mode::L2);
}

#[test]
fn what_guests_say_is_theirs_in_l3() {
    all_reach_all(Mode::L3);
}

#[test]
fn what_guests_say_is_theirs_in_l3s() {
    all_reach_all(Mode::L3s);
}

#[test]
fn a_guest_that_has_said_nothing_is_found_by_the_question_for_it() {
    let net = Net::new(Mode::L2).devices(1).build();
    for (number, asker) in [(0, &net.lan), (1, &net.dev(0).ns)] {
        let guest = guest(&net, number, "learning on");
        let (v4, v6) = addresses(Mode::L2, number);
        guest.configure(Mode::L2, v4, v6);
        assert_eq!(listed(&net, number, "owns"), [""; 0], "it has said nothing");
        for address in [v4.to_string(), v6.to_string()] {
            assert!(asker.answers(&address), "{address}");
            owns(&net, number, &address);
        }
    }
}

#[test]
fn it_is_off_unless_it_is_switched_on_and_what_was_learnt_goes_with_it() {
    let net = Net::new(Mode::L2).build();
    let guest = guest(&net, 0, "");
    let (v4, v6) = addresses(Mode::L2, 0);
    guest.configure(Mode::L2, v4, v6);
    let address = v4.to_string();
    let shown = |word: bool| {
        let shown = net.look(&net.host, "tap0");
        assert_eq!(shown["ipvlan"]["learning"], word, "{shown}");
    };
    shown(false);
    assert!(!guest.ns.answers("10.1.0.254"), "off");
    assert_eq!(listed(&net, 0, "owns"), [""; 0]);

    net.ipvlan("link set tap0 type ipvtap learning on")
        .expect_quiet();
    shown(true);
    assert!(guest.ns.answers("10.1.0.254"), "on");
    assert!(net.lan.answers(&address), "on");
    owns(&net, 0, &address);

    net.ipvlan("link set tap0 type ipvtap learning off")
        .expect_quiet();
    shown(false);
    assert_eq!(listed(&net, 0, "owns"), [""; 0], "forgotten at once");
    assert!(net.lan.loses(&address), "off again");
}

#[test]
fn what_can_not_be_switched_is_refused_in_one_line() {
    let net = Net::new(Mode::L2).devices(1).build();
    for (line, error) in [
        (
            "link add link eth0 name t type ipvtap mode l2 learning perhaps",
            "Error: argument of \"learning\" must be \"on\" or \"off\", not \"perhaps\"",
        ),
        (
            "link add link eth0 name t type ipvlan mode l2 learning on",
            "\"learning\"",
        ),
    ] {
        let done = net.ipvlan(line);
        assert!(
            !done.ok() && done.stderr.contains(error),
            "{line}: {done:?}"
        );
    }
}

/// An attacker's tap, whose guest says what it likes.
fn claim4(sender: &Sender, address: Ipv4Addr) {
    let packet = arp(1, (MACS[0], address), ([0; 6], LAN4));
    sender.send(&ethernet(BROADCAST, MACS[0], ethertype::ARP, &packet));
}

fn claim6(sender: &Sender, address: Ipv6Addr) {
    let message = icmpv6(address, nd_all(), 136, &nd::body(136, address, &[]));
    let packet = ipv6(address, nd_all(), 58, &message);
    let to = nd::group_mac(nd_all());
    sender.send(&ethernet(to, MACS[0], ethertype::IPV6, &packet));
}

fn nd_all() -> Ipv6Addr {
    ipvlan_tests::packet::ALL_NODES
}

#[test]
fn a_claim_does_not_take_what_somebody_has() {
    let mut net = Net::new(Mode::L2).devices(1).build();
    net.host.sh("ip route add default via 10.1.0.253 dev eth0");
    net.lan.sh("ip addr add 10.1.0.253/24 dev lan0");
    let attacker = guest(&net, 0, "learning on");
    let other = guest(&net, 1, "learning on");
    let (v4, v6) = addresses(Mode::L2, 1);
    other.configure(Mode::L2, v4, v6);
    assert!(other.ns.answers("10.1.0.254") && other.ns.answers("fd00::254"));
    owns(&net, 1, &v4.to_string());
    owns(&net, 1, &v6.to_string());

    let sender = Sender::on(&attacker.ns, "eth0");
    let device = net.dev(0).v4;
    let host = Ipv4Addr::new(10, 1, 0, 1);
    let router = Ipv4Addr::new(10, 1, 0, 253);
    let free = Ipv4Addr::new(10, 1, 0, 77);
    for address in [host, device, v4, router] {
        claim4(&sender, address);
        std::thread::sleep(Duration::from_millis(20));
    }
    claim6(&sender, net.dev(0).v6);
    std::thread::sleep(Duration::from_millis(20));
    claim6(&sender, v6);
    std::thread::sleep(Duration::from_millis(20));
    // The sign of life: what is free, it gets.
    claim4(&sender, free);
    owns(&net, 0, "10.1.0.77");
    assert_eq!(listed(&net, 0, "owns"), ["10.1.0.77"]);
    let refused = listed(&net, 0, "refused");
    for address in [device.to_string(), v4.to_string(), v6.to_string()] {
        assert!(refused.contains(&address), "{address}: {refused:?}");
    }
    for address in [device.to_string(), v4.to_string(), v6.to_string()] {
        assert!(net.lan.answers(&address), "{address} stays where it was");
    }
    assert!(net.dev(0).ns.answers("10.1.0.253"), "the router's");
    // A namespace does not lose an address to it that it takes later, while the guest is heard.
    let number = net.add();
    let late = net.dev(number);
    late.ns.batch(&format!(
        "link set lo up\nlink set {0} up\naddr add 10.1.0.78/24 dev {0}\n",
        late.name
    ));
    assert!(eventually(SOON, || net.lan.answers("10.1.0.78")));
    claim4(&sender, Ipv4Addr::new(10, 1, 0, 78));
    std::thread::sleep(QUIET);
    assert!(net.lan.answers("10.1.0.78"), "the namespace's");
    assert_eq!(listed(&net, 0, "owns"), ["10.1.0.77"]);
}

#[test]
fn a_guest_says_all_of_its_addresses_at_once() {
    let net = Net::new(Mode::L2).build();
    let guest = guest(&net, 0, "learning on");
    let sender = Sender::on(&guest.ns, "eth0");
    let all: Vec<_> = (1..=20).map(|last| Ipv4Addr::new(10, 1, 8, last)).collect();
    // In one go, and never again.
    for address in &all {
        claim4(&sender, *address);
    }
    for address in &all {
        owns(&net, 0, &address.to_string());
    }
}

#[test]
fn one_guest_is_learnt_64_addresses_of_and_the_others_are_heard() {
    let net = Net::new(Mode::L2).build();
    let attacker = guest(&net, 0, "learning on");
    let sender = Sender::on(&attacker.ns, "eth0");
    for _ in 0..4 {
        for last in 0..=255 {
            claim4(&sender, Ipv4Addr::new(10, 1, 7, last));
            std::thread::sleep(Duration::from_millis(2));
        }
    }
    let count = || listed(&net, 0, "owns").len();
    assert!(eventually(SOON, || count() == 64), "{} are learnt", count());
    let other = guest(&net, 1, "learning on");
    let (v4, v6) = addresses(Mode::L2, 1);
    other.configure(Mode::L2, v4, v6);
    assert!(other.ns.answers("10.1.0.254"), "another guest");
    owns(&net, 1, &v4.to_string());
    assert_eq!(count(), 64);
}

/// A guest behind `tap0` that owns its addresses, since it has talked.
#[track_caller]
fn known_guest(net: &Net) -> (Guest, Ipv4Addr, Ipv6Addr) {
    let guest = guest(net, 0, "learning on");
    let (v4, v6) = addresses(Mode::L2, 0);
    guest.configure(Mode::L2, v4, v6);
    assert!(guest.ns.answers("10.1.0.254"));
    owns(net, 0, &v4.to_string());
    (guest, v4, v6)
}

#[track_caller]
fn kill_agents(net: &Net) {
    net.agents().into_iter().for_each(kill_hard);
    assert!(eventually(SOON, || net.agents().is_empty()));
}

#[test]
fn what_was_learnt_lasts_without_an_agent_and_goes_with_the_guest() {
    let net = Net::new(Mode::L2).build();
    let (first, v4, v6) = known_guest(&net);
    kill_agents(&net);
    assert!(net.lan.answers(&v4.to_string()), "without an agent");
    // The next device starts another one, and what was missed is said again.
    let second = guest(&net, 1, "learning on");
    let (v4_1, v6_1) = addresses(Mode::L2, 1);
    second.configure(Mode::L2, v4_1, v6_1);
    assert!(second.ns.answers("10.1.0.254"));
    owns(&net, 1, &v4_1.to_string());
    owns(&net, 0, &v4.to_string());

    first.stop();
    assert!(
        eventually(SOON, || listed(&net, 0, "owns").is_empty()),
        "{:?}",
        listed(&net, 0, "owns")
    );
    // Another one behind the same tap, with the other's old address.
    let again = start(&net, 0);
    again.configure(Mode::L2, v4, v6);
    assert!(again.ns.answers("10.1.0.254"), "started again");
    owns(&net, 0, &v4.to_string());
}

#[test]
fn nobody_has_to_look_between_one_guest_and_the_next() {
    let net = Net::new(Mode::L2).build();
    let (first, v4, _) = known_guest(&net);
    kill_agents(&net);

    // It leaves a claim for whoever starts to listen.
    let sender = Sender::on(&first.ns, "eth0");
    claim4(&sender, Ipv4Addr::new(10, 1, 7, 7));
    first.stop();
    let again = start(&net, 0);
    let (other4, other6) = addresses(Mode::L2, 1);
    again.configure(Mode::L2, other4, other6);
    net.ipvlan("link set tap0 type ipvtap learning on")
        .expect_quiet();
    assert_eq!(listed(&net, 0, "owns"), [""; 0], "that was the other guest");

    let _second = guest(&net, 1, "learning on");
    assert!(again.ns.answers("10.1.0.254"));
    owns(&net, 0, &other4.to_string());
    let all = listed(&net, 0, "owns");
    for gone in [v4.to_string(), "10.1.7.7".to_owned()] {
        assert!(!all.contains(&gone), "{all:?}");
    }
}
