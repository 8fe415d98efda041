//! Floods, frames that nobody should send, and changes in the middle of all that.

#![expect(
    clippy::expect_used,
    reason = "clippy knows a test by its attribute, not the functions beside it"
)]

use std::net::{Ipv4Addr, Ipv6Addr};
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use ipvlan_tests::load::{Flood, KernelLog};
use ipvlan_tests::packet::{
    self, BROADCAST, FORGED, Mac, ethernet, ethertype, fragment_header, icmpv6, ipv4, ipv6, nd,
    next, padding_header,
};
use ipvlan_tests::sniff::Sender;
use ipvlan_tests::{
    Backend, Dice, Mode, Net, Ns, PATIENCE, Sniffer, differs, eventually, prepare_for_l3s,
};

const LAN4: Ipv4Addr = Ipv4Addr::new(10, 1, 0, 254);

const MODES: [Mode; 3] = [Mode::L2, Mode::L3, Mode::L3s];
const FLAGS: [&str; 3] = ["bridge", "private", "vepa"];

/// Small datagrams to `destination`, so that there are as many as can be.
fn small(destination: Mac, source: Mac, from: Ipv4Addr, to: Ipv4Addr) -> Vec<u8> {
    ethernet(
        destination,
        source,
        ethertype::IPV4,
        &packet::udp4(from, to, 9, b"noise"),
    )
}

/// Everybody finds everybody, as if nothing had been.
#[track_caller]
fn assert_well(net: &Net, flag: &str, after: &str) {
    for ns in net.devices.iter().map(|dev| &dev.ns).chain([&net.lan]) {
        // What forged answers have taught them.
        ns.sh("ip neigh flush all");
    }
    for dev in &net.devices {
        for address in dev.addresses() {
            assert!(
                net.lan.reaches(&address),
                "{after}: the LAN reaches {address}"
            );
        }
        for address in ["10.1.0.254", "fd00::254"] {
            assert!(
                dev.ns.reaches(address),
                "{after}: {} reaches {address}",
                dev.name
            );
        }
    }
    if flag == "bridge" {
        for address in net.dev(1).addresses() {
            assert!(
                net.dev(0).ns.reaches(&address),
                "{after}: siblings: {address}"
            );
        }
    }
}

fn set_mode(net: &Net, mode: Mode, flag: &str) {
    if mode == Mode::L3s {
        prepare_for_l3s(&net.host);
    }
    let dev = net.dev(0);
    net.ip(
        &dev.ns,
        &format!("link set {} type ipvlan mode {mode} {flag}", dev.name),
    )
    .expect_quiet();
}

/// How many of ten questions are answered within a second each.
fn answered(asker: &Ns, address: &str) -> usize {
    (0..10)
        .filter(|_| {
            asker.sh("ip neigh flush all");
            asker
                .try_sh(&format!("ping -n -q -c 1 -w 1 {address}"))
                .ok()
        })
        .count()
}

#[test]
fn a_flood_leaves_the_others_their_arp() {
    let log = KernelLog::new();
    let net = Net::new(Mode::L2).devices(20).build();
    let (own, lan) = (net.mac(), net.lan.mac("lan0"));
    let [noisy, sibling] = [net.dev(0), net.dev(1)];
    let all = Ipv4Addr::new(10, 1, 0, 255);
    let group = Ipv4Addr::new(239, 1, 2, 3);
    let floods = [
        ("broadcast", small(BROADCAST, own, noisy.v4, all)),
        (
            "multicast",
            small([1, 0, 0x5e, 1, 2, 3], own, noisy.v4, group),
        ),
        (
            "unicast to a sibling",
            small(own, own, noisy.v4, sibling.v4),
        ),
        ("unicast to the LAN", small(lan, own, noisy.v4, LAN4)),
    ];
    let check = |what: &str| {
        // How many of ten are enough. The driver promises nothing: it has one queue of 1,000
        // broadcasts for all, and questions wait in it with the rest.
        let enough = differs("flood", 9, 0);
        for (asker, address) in [
            (&net.lan, net.dev(7).v4.to_string()),
            (&net.dev(8).ns, LAN4.to_string()),
            (&net.dev(9).ns, net.dev(10).v4.to_string()),
        ] {
            let count = answered(asker, &address);
            assert!(count >= enough, "{what}: {address}: {count} of 10");
        }
    };
    for (what, frame) in &floods {
        let flood = Flood::start(&noisy.ns, &noisy.name, 3, std::slice::from_ref(frame));
        check(what);
        drop(flood);
    }
    let frame = small(BROADCAST, lan, LAN4, all);
    let flood = Flood::start(&net.lan, "lan0", 3, &[frame]);
    check("broadcast from the wire");
    drop(flood);
    assert_well(&net, "bridge", "after the floods");
    log.assert_quiet();
}

/// Sends that many broadcasts from the first device. How many of them came to the wire, and to a
/// sibling, and how long it took to send them.
fn broadcast(net: &Net, count: usize, gap: Duration) -> ([usize; 2], Duration) {
    let [noisy, sibling] = [net.dev(0), net.dev(1)];
    let ears = [
        Sniffer::on(&net.lan, "lan0"),
        Sniffer::on(&sibling.ns, &sibling.name),
    ];
    let sender = Sender::on(&noisy.ns, &noisy.name);
    let frame = small(BROADCAST, net.mac(), noisy.v4, Ipv4Addr::new(10, 1, 0, 255));
    let start = Instant::now();
    for _ in 0..count {
        sender.send(&frame);
        if !gap.is_zero() {
            thread::sleep(gap);
        }
    }
    let took = start.elapsed();
    let heard = ears.map(|ear| {
        let mut seen = ear.heard();
        seen.retain(|seen| seen.contains(b"noise"));
        seen.len()
    });
    (heard, took)
}

/// What our program says was not copied: for the one who broadcasts, and for the others.
fn limited(net: &Net) -> [u64; 2] {
    let shown: serde_json::Value =
        serde_json::from_str(&net.ipvlan("-j stats").expect()).expect("JSON");
    let count = |noisy: bool| {
        let devices = shown.as_array().into_iter().flatten();
        devices
            .filter(|device| (device["ifname"] == net.dev(0).name) == noisy)
            .filter_map(|device| device["drops"]["flood"].as_u64())
            .sum()
    };
    [count(true), count(false)]
}

#[test]
fn beyond_its_rate_a_broadcast_is_sent_but_not_copied() {
    let net = Net::new(Mode::L2).devices(20).build();
    // Sooner than most people speak, later than a machine.
    assert_eq!(
        broadcast(&net, 100, Duration::from_millis(2)).0,
        [100, 100],
        "below it all hear all"
    );
    if Backend::is_ours() {
        assert_eq!(limited(&net), [0, 0], "and nothing is counted");
    }
    let ([wire, sibling], took) = broadcast(&net, 5_000, Duration::ZERO);
    let millis = usize::try_from(took.as_millis()).expect("seconds") + 1;
    assert_eq!(wire, 5_000, "the wire hears all");
    // The driver's queue is for 1,000, but a socket waits when what it sent is still there.
    let copies = 2_000 + millis * 100;
    let most = differs("flood", copies / 20 + 1, wire);
    assert!(sibling <= most, "a sibling hears {sibling} in {millis} ms");
    assert!(sibling >= 100, "the burst at least: {sibling}");
    if Backend::is_ours() {
        let [noisy, others] = limited(&net);
        let lost = u64::try_from(wire - sibling).expect("few");
        assert_eq!([noisy, others], [lost, 0], "each is counted, and for whom");
    }
}

#[test]
fn devices_modes_and_addresses_change_in_a_flood() {
    let log = KernelLog::new();
    let mut net = Net::new(Mode::L2).devices(3).build();
    let (own, lan) = (net.mac(), net.lan.mac("lan0"));
    let all = Ipv4Addr::new(10, 1, 0, 255);
    let [a, b, c] = [net.dev(0), net.dev(1), net.dev(2)];
    let flood = [
        Flood::start(
            &a.ns,
            &a.name,
            1,
            &[
                small(BROADCAST, own, a.v4, all),
                small(own, own, a.v4, b.v4),
                small(own, own, a.v4, c.v4),
                small(lan, own, a.v4, LAN4),
            ],
        ),
        Flood::start(
            &net.lan,
            "lan0",
            1,
            &[
                small(BROADCAST, lan, LAN4, all),
                small(own, lan, LAN4, b.v4),
                small(own, lan, LAN4, c.v4),
            ],
        ),
    ];
    for round in 0..4 {
        for (mode, flag) in MODES.into_iter().zip(FLAGS) {
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
    for mode in MODES {
        let net = Net::new(mode).devices(3).build();
        let (own, lan) = (net.mac(), net.lan.mac("lan0"));
        let all = Ipv4Addr::new(10, 1, 0, 255);
        let [a, b] = [net.dev(0), net.dev(1)];
        let _flood = [
            Flood::start(
                &a.ns,
                &a.name,
                2,
                &[
                    small(BROADCAST, own, a.v4, all),
                    small(own, own, a.v4, b.v4),
                    small(lan, own, a.v4, LAN4),
                ],
            ),
            Flood::start(
                &net.lan,
                "lan0",
                1,
                &[
                    small(BROADCAST, lan, LAN4, all),
                    small(own, lan, LAN4, b.v4),
                ],
            ),
        ];
        let stop = AtomicBool::new(false);
        thread::scope(|scope| {
            let lookers = [(&net.host, "-d link show"), (&b.ns, "-d -s link show")];
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
    for mode in MODES {
        let mut net = Net::new(mode).devices(2).build();
        let (own, lan) = (net.mac(), net.lan.mac("lan0"));
        let [a, b] = [net.dev(0), net.dev(1)];
        let frames = [
            small(own, own, a.v4, b.v4),
            small(lan, own, a.v4, LAN4),
            small(BROADCAST, own, a.v4, Ipv4Addr::BROADCAST),
        ];
        let flood = Flood::start(&a.ns, &a.name, 2, &frames);
        let frames = [small(own, lan, LAN4, a.v4), small(own, lan, LAN4, b.v4)];
        let wire = Flood::start(&net.lan, "lan0", 1, &frames);
        thread::sleep(Duration::from_millis(200));
        net.host.kill();
        for dev in &net.devices {
            assert!(
                eventually(PATIENCE * 2, || dev.ns.links() == ["lo"]),
                "{mode}: devices go with their parent's namespace: {:?}",
                dev.ns.links()
            );
        }
        drop((flood, wire));
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

/// Who and what random frames are made of.
struct Pool {
    macs: Vec<Mac>,
    v4: Vec<Ipv4Addr>,
    v6: Vec<Ipv6Addr>,
}

impl Pool {
    fn of(net: &Net) -> Self {
        let groups = [
            BROADCAST,
            [1, 0, 0x5e, 1, 2, 3],
            [0x33, 0x33, 0, 0, 0, 1],
            [1, 0x80, 0xc2, 0, 0, 0],
            [1, 0x80, 0xc2, 0, 0, 0x0e],
        ];
        let macs = [FORGED, [0; 6], net.mac(), net.mac(), net.lan.mac("lan0")];
        let v4 = [
            "10.1.0.1",
            "10.1.0.254",
            "10.1.0.255",
            "255.255.255.255",
            "239.1.2.3",
            "127.0.0.1",
            "0.0.0.0",
            "192.0.2.1",
        ];
        let v6 = [
            "fd00::1",
            "fd00::254",
            "ff02::1",
            "ff02::1:ff00:11",
            "::",
            "::1",
            "2001:db8::1",
        ];
        let v4 = v4.map(|text| text.parse().expect("an address"));
        let v6 = v6.map(|text| text.parse().expect("an address"));
        let devices = &net.devices;
        Self {
            macs: [&groups[..], &macs].concat(),
            v4: v4
                .into_iter()
                .chain(devices.iter().map(|dev| dev.v4))
                .collect(),
            v6: v6
                .into_iter()
                .chain(devices.iter().map(|dev| dev.v6))
                .collect(),
        }
    }

    /// A frame as somebody might send it who means ill, or whose memory is broken.
    fn frame(&self, dice: &mut Dice) -> Vec<u8> {
        let (kind, payload) = self.payload(dice);
        let mut frame = ethernet(
            *dice.pick(&self.macs),
            *dice.pick(&self.macs),
            kind,
            &payload,
        );
        for _ in 0..dice.roll(4) {
            // Past the destination, so that it gets somewhere.
            let at = 6 + dice.roll(u64::try_from(frame.len()).expect("short") - 6);
            if let Some(byte) = frame.get_mut(usize::try_from(at).expect("short")) {
                *byte = dice.byte();
            }
        }
        match dice.roll(8) {
            0 => frame.truncate(usize::try_from(dice.roll(80)).expect("short")),
            1 => frame.resize(60, 0),
            2 => frame.resize(1514, 0xa5),
            _ => {}
        }
        frame
    }

    fn payload(&self, dice: &mut Dice) -> (u16, Vec<u8>) {
        let (from4, to4) = (*dice.pick(&self.v4), *dice.pick(&self.v4));
        let (from6, to6) = (*dice.pick(&self.v6), *dice.pick(&self.v6));
        let mac = *dice.pick(&self.macs);
        let length = usize::try_from(dice.roll(120)).expect("short");
        let noise = dice.bytes(length);
        match dice.roll(10) {
            0 => (u16::from_be_bytes([dice.byte(), dice.byte()]), noise),
            1 => {
                let operation = u16::from(dice.byte() % 4);
                (
                    ethertype::ARP,
                    packet::arp(operation, (mac, from4), (mac, to4)),
                )
            }
            2 => (ethertype::IPV4, packet::udp4(from4, to4, 9, &noise)),
            3 => (ethertype::IPV4, ipv4(from4, to4, dice.byte(), &noise)),
            4 => {
                let mut packet = packet::udp4(from4, to4, 9, &noise);
                // A length, a fragment offset or a version that is not true.
                packet[usize::try_from(dice.roll(10)).expect("short")] = dice.byte();
                (ethertype::IPV4, packet)
            }
            5 => (ethertype::IPV6, packet::udp6(from6, to6, 9, &noise)),
            6 => {
                let kinds = [nd::RS, nd::RA, nd::NS, nd::NA, nd::REDIRECT, nd::INVERSE];
                let kind = *dice.pick(&kinds);
                let mut options = nd::option(*dice.pick(&[nd::SOURCE, nd::TARGET]), mac);
                options[1] = *dice.pick(&[0, 1, 1, 1, 2, 255]);
                let body = nd::body(kind, to6, &options);
                (
                    ethertype::IPV6,
                    ipv6(from6, to6, next::ICMPV6, &icmpv6(from6, to6, kind, &body)),
                )
            }
            7 => {
                let mut chain = Vec::new();
                let first = next::DESTINATION;
                for _ in 0..dice.roll(6) {
                    chain.extend(padding_header(first, 1 + dice.byte() % 3));
                }
                chain.extend(fragment_header(next::ICMPV6, u16::from(dice.byte()), true));
                chain.extend(noise);
                (ethertype::IPV6, ipv6(from6, to6, first, &chain))
            }
            8 => (ethertype::VLAN, noise),
            _ => (u16::try_from(length).expect("short"), noise),
        }
    }
}

#[test]
fn random_frames_change_nothing() {
    const FRAMES: usize = 1_000;
    let log = KernelLog::new();
    let mut dice = Dice::new();
    for mode in MODES {
        let net = Net::new(mode).devices(2).build();
        let mut extra = net.namespace("other");
        let pool = Pool::of(&net);
        let shown = |net: &Net| {
            let ours = Backend::is_ours().then(|| net.ipvlan("-j -d link show").expect());
            ours.map(|text| without_counters(&text))
        };
        let before = shown(&net);
        for flag in FLAGS {
            set_mode(&net, mode, flag);
            let wire = Sniffer::on(&net.lan, "lan0");
            for (ns, interface) in [(&net.dev(0).ns, "ipvl0"), (&net.lan, "lan0")] {
                let sender = Sender::on(ns, interface);
                let bypassing = Sender::bypassing(ns, interface);
                for number in 0..FRAMES {
                    let frame = pool.frame(&mut dice);
                    let sender = if number % 2 == 0 { &sender } else { &bypassing };
                    // Refused or dropped is as good.
                    let _: Result<(), _> = sender.try_send(&frame);
                }
            }
            let heard = wire.heard();
            assert!(!heard.is_empty(), "{mode} {flag}: some of it is sent on");
            let own = net.mac();
            let forged = heard.iter().find(|seen| seen.source() != own);
            assert_eq!(
                forged.is_some(),
                differs("one-mac", false, mode == Mode::L2),
                "{mode} {flag}: {forged:?}"
            );
        }
        set_mode(&net, mode, "bridge");
        net.host.sh("ip neigh flush all");
        for ns in [&net.host, &net.lan, &net.dev(0).ns, &net.dev(1).ns] {
            // What forged redirects have taught them.
            ns.sh("ip route flush cache");
            ns.sh("ip -6 route flush cache");
        }
        assert_well(&net, "bridge", &format!("{mode}: after random frames"));
        assert_eq!(shown(&net), before, "{mode}: and nobody owns anything else");
        extra.kill();
    }
    log.assert_quiet();
}

/// What `-j -d link show` says of addresses, modes and names.
fn without_counters(text: &str) -> serde_json::Value {
    fn strip(value: &mut serde_json::Value) {
        if let Some(object) = value.as_object_mut() {
            object.retain(|key, _| key != "drops");
            object.values_mut().for_each(strip);
        }
        value.as_array_mut().into_iter().flatten().for_each(strip);
    }
    let mut shown = serde_json::from_str(text).expect("JSON");
    strip(&mut shown);
    shown
}

#[test]
fn frames_of_any_length_harm_nobody() {
    let log = KernelLog::new();
    for mode in [Mode::L2, Mode::L3] {
        let net = Net::new(mode).devices(2).build();
        let (own, lan) = (net.mac(), net.lan.mac("lan0"));
        let dev = net.dev(0);
        dev.ns.sh("ip link set ipvl0 mtu 65535");
        let whole = |to: Mac, from: Mac, payload: usize| {
            let packet = packet::udp4(dev.v4, net.dev(1).v4, 9, &vec![0x5a; payload]);
            ethernet(to, from, ethertype::IPV4, &packet)
        };
        for to in [own, lan, BROADCAST] {
            let frame = whole(to, own, 100);
            let six = packet::udp6(dev.v6, net.dev(1).v6, 9, &[0x5a; 100]);
            let six = ethernet(to, own, ethertype::IPV6, &six);
            for sender in [
                Sender::on(&dev.ns, "ipvl0"),
                Sender::bypassing(&dev.ns, "ipvl0"),
                Sender::on(&net.lan, "lan0"),
                Sender::bypassing(&net.lan, "lan0"),
            ] {
                for length in 0..frame.len() {
                    let _: Result<(), _> = sender.try_send(&frame[..length]);
                    let _: Result<(), _> = sender.try_send(&six[..length]);
                }
            }
            // Long ones lie in several pages.
            for payload in [1_472, 1_473, 2_000, 4_096, 9_000, 32_000, 65_000] {
                for sender in [
                    Sender::on(&dev.ns, "ipvl0"),
                    Sender::bypassing(&dev.ns, "ipvl0"),
                ] {
                    let _: Result<(), _> = sender.try_send(&whole(to, own, payload));
                }
            }
        }
        dev.ns.sh("ip link set ipvl0 mtu 1500");
        assert_well(&net, "bridge", &format!("{mode}: after odd lengths"));
    }
    log.assert_quiet();
}

/// An IPv4 packet with 40 bytes of options: record route, time stamps and a loose source route, as
/// far as they fit.
fn with_options(from: Ipv4Addr, to: Ipv4Addr, fragmentable: bool, payload: usize) -> Vec<u8> {
    let plain = packet::udp4(from, to, 7, &vec![0x5a; payload]);
    let mut head = plain[..20].to_vec();
    head[0] = 0x4f;
    let total = u16::try_from(plain.len() + 40).expect("a packet");
    head[2..4].copy_from_slice(&total.to_be_bytes());
    head[6] = if fragmentable { 0 } else { 0x40 };
    head[10..12].fill(0);
    head.extend([7, 19, 4]);
    head.extend([0; 16]);
    head.extend([68, 20, 5, 0]);
    head.extend([0; 16]);
    head.push(0);
    let sum = packet::checksum(&[&head]);
    head[10..12].copy_from_slice(&sum);
    head.extend(&plain[20..]);
    head
}

#[test]
fn ip_options_do_not_confuse_the_parent_s_namespace() {
    // The driver once took what another layer had left in a packet for its IP options
    // (CVE-2023-3090), and wrote where it should not when it answered with an ICMP error.
    let log = KernelLog::new();
    for mode in MODES {
        let net = Net::new(mode).devices(2).build();
        let dev = net.dev(0);
        let (own, lan) = (net.mac(), net.lan.mac("lan0"));
        dev.ns.sh("ip link set ipvl0 mtu 4000");
        let wire = Sniffer::on(&net.lan, "lan0");
        let sender = Sender::on(&dev.ns, "ipvl0");
        for to in [
            LAN4,
            net.dev(1).v4,
            Ipv4Addr::new(10, 1, 0, 1),
            Ipv4Addr::new(192, 0, 2, 1),
        ] {
            for payload in [8, 1_400, 2_000, 3_000] {
                for fragmentable in [true, false] {
                    let packet = with_options(dev.v4, to, fragmentable, payload);
                    let mac = if to == LAN4 { lan } else { own };
                    let frame = ethernet(mac, own, ethertype::IPV4, &packet);
                    let _: Result<(), _> = sender.try_send(&frame);
                }
            }
        }
        // A forwarder writes into them.
        let arrived = wire.find(PATIENCE, |seen| {
            seen.u16_at(14) >> 8 == 0x4f && seen.contains(&dev.v4.octets())
        });
        assert!(arrived.is_some(), "{mode}: options are no reason to drop");
        dev.ns.sh("ip link set ipvl0 mtu 1500");
        assert_well(&net, "bridge", &format!("{mode}: after options"));
    }
    log.assert_quiet();
}
