//! What `-s link show` counts, at a device and at its parent, and where else a frame that died is
//! counted.

#![expect(
    clippy::expect_used,
    reason = "clippy knows a test by its attribute, not the functions beside it"
)]

use std::net::{Ipv4Addr, Ipv6Addr};
use std::time::Duration;

use ipvlan_tests::packet::{self, BROADCAST, Mac, ethernet, ethertype};
use ipvlan_tests::sniff::Sender;
use ipvlan_tests::traffic::{Ear, PORT};
use ipvlan_tests::{HOST4, LAN4, Mode, Net, Ns, PATIENCE, differs, eventually};

/// RFC 3849: nobody's.
const FAR6: Ipv6Addr = Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 9);

/// All frames of these tests have this length, with their Ethernet header.
const LENGTH: usize = 100;

const NAMES: [(&str, &str); 9] = [
    ("rx", "packets"),
    ("rx", "bytes"),
    ("rx", "errors"),
    ("rx", "dropped"),
    ("rx", "multicast"),
    ("tx", "packets"),
    ("tx", "bytes"),
    ("tx", "errors"),
    ("tx", "dropped"),
];

/// Counters, in the order of [`NAMES`].
type Counters = [u64; NAMES.len()];

fn parse(text: &str) -> Counters {
    let json: serde_json::Value = serde_json::from_str(text).expect("JSON");
    let stats = &json[0]["stats64"];
    NAMES.map(|(way, name)| {
        stats[way][name]
            .as_u64()
            .unwrap_or_else(|| panic!("{way} {name}: {text}"))
    })
}

/// Without a program, which takes its time.
fn counters(ns: &Ns, interface: &str) -> Counters {
    let text = ns.enter(|| std::fs::read_to_string("/proc/thread-self/net/dev"));
    let text = text.expect("a file of the kernel");
    let line = text
        .lines()
        .find_map(|line| line.trim().strip_prefix(interface)?.strip_prefix(':'));
    let all: Vec<u64> = line
        .expect("an interface")
        .split_whitespace()
        .map(|word| word.parse().expect("a number"))
        .collect();
    // RX: bytes packets errs drop fifo frame compressed multicast; TX: bytes packets errs drop …
    [1, 0, 2, 3, 7, 9, 8, 10, 11].map(|column| all[column])
}

/// What has been added: `rx 1:100` packets and bytes, then each other counter that rose.
fn added(before: &Counters, after: &Counters) -> String {
    let more: Vec<u64> = before
        .iter()
        .zip(after)
        .map(|(before, after)| after - before)
        .collect();
    let mut words = Vec::new();
    for (at, (way, name)) in NAMES.iter().enumerate() {
        match (*name, more[at]) {
            (_, 0) | ("bytes", _) => {}
            ("packets", count) => words.push(format!("{way} {count}:{}", more[at + 1])),
            (name, count) => words.push(format!("{way} {name} {count}")),
        }
    }
    words.join(", ")
}

/// What is sent, by whom, and what the sender, the sibling and the parent count for it.
type Case<'a> = (&'a str, &'a Sender, Vec<u8>, [&'a str; 3]);

/// Sends each frame alone. Somebody's neighbour discovery may be counted with it, but not each time.
#[track_caller]
fn walk_the_table(net: &Net, cases: &[Case<'_>]) {
    let [a, b] = [net.dev(0), net.dev(1)];
    let read = || {
        [
            counters(&a.ns, "ipvl0"),
            counters(&b.ns, "ipvl1"),
            counters(&net.host, "eth0"),
        ]
    };
    let mut wrong = Vec::new();
    for (what, sender, frame, expected) in cases {
        assert_eq!(frame.len(), LENGTH, "{what}");
        let mut last = Default::default();
        let right = (0..6).any(|_| {
            let before = read();
            let _: Result<(), _> = sender.try_send(frame);
            let all = || {
                let after = read();
                [0, 1, 2].map(|at| added(&before[at], &after[at]))
            };
            // The rest would come at once, too.
            let _: bool = eventually(Duration::from_millis(200), || all() == *expected);
            last = all();
            last == *expected
        });
        if !right {
            wrong.push(format!("{what}: {last:?}, not {expected:?}"));
        }
    }
    assert!(wrong.is_empty(), "{}: {wrong:#?}", net.mode);
}

/// A datagram to [`PORT`]: somebody listens there, so nobody complains.
fn frame4(macs: (Mac, Mac), from: Ipv4Addr, to: Ipv4Addr) -> Vec<u8> {
    let packet = packet::udp4(from, to, PORT, &[0; LENGTH - 14 - 20 - 8]);
    ethernet(macs.0, macs.1, ethertype::IPV4, &packet)
}

fn frame6(own: Mac, from: Ipv6Addr, to: Ipv6Addr) -> Vec<u8> {
    let packet = packet::udp6(from, to, PORT, &[0; LENGTH - 14 - 40 - 8]);
    ethernet(own, own, ethertype::IPV6, &packet)
}

fn listeners(net: &Net) -> Vec<Ear> {
    let all = [&net.lan, &net.host].into_iter();
    let all = all.chain(net.devices.iter().map(|dev| &dev.ns));
    // An IPv6 socket hears IPv4, too.
    all.map(|ns| Ear::on(ns, FAR6.into())).collect()
}

#[test]
fn devices_in_l2_count() {
    let net = Net::new(Mode::L2).devices(2).build();
    let (own, lan) = (net.mac(), net.lan.mac("lan0"));
    let [a, b] = [net.dev(0), net.dev(1)];
    let device = Sender::on(&a.ns, "ipvl0");
    let wire = Sender::on(&net.lan, "lan0");
    let _listeners = listeners(&net);
    let all = Ipv4Addr::new(10, 1, 0, 255);
    let (got, sent) = ("rx 1:100", "tx 1:100");
    let local = differs("counters", "rx 1:100", "rx 1:114");
    let itself = differs("counters", "rx 1:100, tx 1:100", "rx 1:114, tx 1:100");
    let group = differs("counters", "rx 1:100", "rx 1:100, rx multicast 1");
    let local_group = differs("counters", "rx 1:100", "rx 1:114, rx multicast 1");
    walk_the_table(
        &net,
        &[
            (
                "from the wire",
                &wire,
                frame4((own, lan), LAN4, a.v4),
                [got, "", got],
            ),
            (
                "to the wire",
                &device,
                frame4((lan, own), a.v4, LAN4),
                [sent, "", sent],
            ),
            (
                "to a sibling",
                &device,
                frame4((own, own), a.v4, b.v4),
                [sent, local, ""],
            ),
            (
                "to itself",
                &device,
                frame4((own, own), a.v4, a.v4),
                [itself, "", ""],
            ),
            (
                "to the host",
                &device,
                frame4((own, own), a.v4, HOST4),
                [sent, "", ""],
            ),
            (
                "the wire to all",
                &wire,
                frame4((BROADCAST, lan), LAN4, all),
                [group, group, got],
            ),
            (
                "to all",
                &device,
                frame4((BROADCAST, own), a.v4, all),
                [sent, local_group, sent],
            ),
        ],
    );
    let line = "link set dev ipvl0 type ipvlan mode l2 private";
    net.ip(&a.ns, line).expect_quiet();
    let lost = differs("counters", sent, "tx dropped 1");
    let siblings = frame4((own, own), a.v4, b.v4);
    walk_the_table(&net, &[("private", &device, siblings, [lost, "", ""])]);
}

fn devices_count(mode: Mode) {
    let net = Net::new(mode).devices(2).build();
    let (own, lan) = (net.mac(), net.lan.mac("lan0"));
    let [a, b] = [net.dev(0), net.dev(1)];
    let device = Sender::on(&a.ns, "ipvl0");
    let wire = Sender::on(&net.lan, "lan0");
    let _listeners = listeners(&net);
    let own = (own, own);
    let (got, sent) = ("rx 1:100", "tx 1:100");
    let local = differs("counters", "rx 1:100", "rx 1:114");
    let lost = differs("counters", sent, "tx dropped 1");
    // Where the kernel counts what it cannot route for ours.
    let noted = match mode {
        Mode::L3 => differs("l3-no-route6", "tx dropped 1", ""),
        Mode::L2 | Mode::L3s => "",
    };
    let group = Ipv4Addr::new(239, 1, 2, 3);
    walk_the_table(
        &net,
        &[
            (
                "from the wire",
                &wire,
                frame4((own.0, lan), LAN4, a.v4),
                [got, "", got],
            ),
            (
                "to the wire",
                &device,
                frame4(own, a.v4, LAN4),
                [sent, "", sent],
            ),
            (
                "to a sibling",
                &device,
                frame4(own, a.v4, b.v4),
                [sent, local, ""],
            ),
            (
                "to a sibling",
                &device,
                frame6(own.0, a.v6, b.v6),
                [sent, local, ""],
            ),
            (
                "to the host",
                &device,
                frame4(own, a.v4, HOST4),
                [sent, "", ""],
            ),
            (
                "to a group",
                &device,
                frame4((BROADCAST, own.0), a.v4, group),
                [lost, "", ""],
            ),
            (
                "without a route",
                &device,
                frame6(own.0, a.v6, FAR6),
                [lost, "", noted],
            ),
        ],
    );
    let line = format!("link set dev ipvl0 type ipvlan mode {mode} private");
    net.ip(&a.ns, &line).expect_quiet();
    walk_the_table(
        &net,
        &[("private", &device, frame4(own, a.v4, b.v4), [lost, "", ""])],
    );
}

#[test]
fn devices_in_l3_count() {
    devices_count(Mode::L3);
}

#[test]
fn devices_in_l3s_count() {
    devices_count(Mode::L3s);
}

#[test]
fn counters_are_the_same_from_inside_and_by_the_tool_and_outlive_a_change_of_mode() {
    let net = Net::new(Mode::L2).devices(2).build();
    let [a, b] = [net.dev(0), net.dev(1)];
    assert!(a.ns.reaches(&b.v4.to_string()), "there was traffic");
    let read = || {
        let inside = a.ns.read("ip -s -j link show ipvl0");
        let tool = net.ip(&a.ns, "-s -j link show ipvl0").expect();
        [parse(&inside), parse(&tool), counters(&a.ns, "ipvl0")]
    };
    let same = || {
        let [inside, tool, file] = read();
        inside == tool && inside == file && inside[0] > 0 && inside[5] > 0
    };
    assert!(eventually(PATIENCE, same), "{:?}", read());
    let before = counters(&a.ns, "ipvl0");
    for line in ["mode l3", "mode l2 private", "mode l2 bridge"] {
        let line = format!("link set dev ipvl0 type ipvlan {line}");
        net.ip(&a.ns, &line).expect_quiet();
    }
    a.ns.sh("ip link set ipvl0 down");
    a.ns.sh("ip link set ipvl0 up");
    let after = counters(&a.ns, "ipvl0");
    let grown = before
        .iter()
        .zip(&after)
        .all(|(before, after)| before <= after);
    assert!(grown, "{before:?} {after:?}");
    a.ns.sh("ip link del ipvl0");
    let line = format!(
        "link add link eth0 name ipvl0 netns {} type ipvlan mode l2",
        a.ns.name()
    );
    net.ip(&net.host, &line).expect_quiet();
    assert_eq!(
        counters(&a.ns, "ipvl0"),
        Counters::default(),
        "they go with the device"
    );
}

#[test]
fn what_is_too_long_for_a_sibling_is_counted() {
    let net = Net::new(Mode::L3).devices(2).build();
    let own = net.mac();
    let [a, b] = [net.dev(0), net.dev(1)];
    a.ns.sh("ip link set ipvl0 mtu 4000");
    let _listeners = listeners(&net);
    let sender = Sender::on(&a.ns, "ipvl0");
    let packet = packet::udp4(a.v4, b.v4, PORT, &[0; 3000 - 14 - 20 - 8]);
    let before = [counters(&a.ns, "ipvl0"), counters(&b.ns, "ipvl1")];
    sender.send(&ethernet(own, own, ethertype::IPV4, &packet));
    let all = || {
        [
            added(&before[0], &counters(&a.ns, "ipvl0")),
            added(&before[1], &counters(&b.ns, "ipvl1")),
        ]
    };
    // The driver counts a frame that it could not deliver as sent, and twice as dropped.
    let there = differs("sibling-mtu", "rx 1:3000", "rx errors 1, rx dropped 2");
    let found = eventually(PATIENCE, || all() == ["tx 1:3000", there]);
    assert!(found, "{:?}", all());
}

/// Sends each frame from a device and looks for the word for its end where it is shown. The driver has
/// one counter for all of them.
#[track_caller]
fn each_end_is_shown(net: &Net, ends: &[(&str, Vec<u8>)]) {
    let dev = net.dev(0);
    let sender = Sender::on(&dev.ns, "ipvl0");
    for (word, frame) in ends {
        let before = counters(&dev.ns, "ipvl0");
        let _: Result<(), _> = sender.try_send(frame);
        if differs("drops", true, false) {
            let shown = || {
                let text = net.ipvlan("stats ipvl0").expect();
                let json = net.ipvlan("-j stats ipvl0").expect();
                text.contains(&format!("    {word} ")) && json.contains(&format!("\"{word}\":1"))
            };
            assert!(eventually(PATIENCE, shown), "{}: {word}", net.mode);
        } else {
            let dropped = counters(&dev.ns, "ipvl0")[8] - before[8];
            assert_eq!(dropped, 1, "{}: {word}", net.mode);
        }
    }
}

#[test]
fn each_end_in_l3_and_l3s_is_shown() {
    for mode in [Mode::L3, Mode::L3s] {
        let net = Net::new(mode).flag("private").devices(2).build();
        let (own, lan) = (net.mac(), net.lan.mac("lan0"));
        let [a, b] = [net.dev(0), net.dev(1)];
        let group = Ipv4Addr::new(239, 1, 2, 3);
        let cut = &packet::udp4(a.v4, LAN4, PORT, b"")[..12];
        each_end_is_shown(
            &net,
            &[
                ("private", frame4((own, own), a.v4, b.v4)),
                ("group", frame4((BROADCAST, own), a.v4, group)),
                (
                    "not_ip",
                    ethernet(lan, own, ethertype::EXPERIMENT, &[0; 46]),
                ),
                ("ip_malformed", ethernet(lan, own, ethertype::IPV4, cut)),
            ],
        );
    }
}
