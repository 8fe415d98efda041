//! Floods: whom they leave what, and the rate of copies.

use std::net::Ipv4Addr;
use std::thread;
use std::time::{Duration, Instant};

use ipvlan_tests::load::{Flood, KernelLog};
use ipvlan_tests::packet::BROADCAST;
use ipvlan_tests::sniff::Sender;
use ipvlan_tests::{Backend, LAN4, Mode, Net, Ns, Sniffer, differs};

use crate::{assert_well, small};

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
