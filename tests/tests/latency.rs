//! How soon an address counts while somebody else makes a noise.

#![expect(
    clippy::expect_used,
    reason = "clippy knows a test by its attribute, not the functions beside it"
)]

use std::net::{Ipv4Addr, UdpSocket};
use std::sync::atomic::{AtomicBool, AtomicU8, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use ipvlan_tests::packet::mac_text;
use ipvlan_tests::{Mode, Net, PATIENCE};

const PORT: u16 = 7077;
const ROUNDS: u8 = 20;

/// From `ip addr add` on the first device until the LAN's datagrams arrive there.
fn latencies(net: &Net) -> Vec<Duration> {
    let quiet = &net.dev(0).ns;
    let (mac, ear) = (
        mac_text(net.mac()),
        quiet.enter(|| UdpSocket::bind((Ipv4Addr::UNSPECIFIED, PORT))),
    );
    let ear = ear.expect("a socket");
    ear.set_read_timeout(Some(PATIENCE)).expect("a timeout");
    let mouth = net
        .lan
        .enter(|| UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0)));
    let mouth = mouth.expect("a socket");
    let (last, stop) = (AtomicU8::new(0), AtomicBool::new(false));
    thread::scope(|scope| {
        let speaker = scope.spawn(|| {
            while !stop.load(Ordering::Relaxed) {
                let byte = last.load(Ordering::Relaxed);
                if byte != 0 {
                    let to = (Ipv4Addr::new(10, 1, 0, byte), PORT);
                    // No route for a moment, or a full queue.
                    let _: std::io::Result<usize> = mouth.send_to(&[byte], to);
                }
                thread::sleep(Duration::from_micros(200));
            }
        });
        let found = (100..100 + ROUNDS)
            .map(|byte| {
                // Nobody is to be looked for.
                net.lan.sh(&format!(
                    "ip neigh replace 10.1.0.{byte} lladdr {mac} dev lan0"
                ));
                last.store(byte, Ordering::Relaxed);
                quiet.sh(&format!("ip addr add 10.1.0.{byte}/24 dev ipvl0"));
                let start = Instant::now();
                let mut buf = [0];
                while buf != [byte] {
                    let _: (usize, _) = ear.recv_from(&mut buf).expect("it is heard at last");
                }
                let took = start.elapsed();
                thread::sleep(Duration::from_millis(20));
                took
            })
            .collect();
        stop.store(true, Ordering::Relaxed);
        speaker.join().expect("the speaker");
        found
    })
}

#[track_caller]
fn assert_soon(mut found: Vec<Duration>, what: &str) {
    found.sort();
    let (median, worst) = (found[found.len() / 2], found[found.len() - 1]);
    eprintln!("{what}: median {median:?}, worst {worst:?}");
    // It is a few milliseconds where the machine has nothing else to do.
    assert!(
        median < Duration::from_millis(250),
        "{what}: median {median:?}"
    );
    assert!(worst < Duration::from_secs(3), "{what}: worst {worst:?}");
}

#[test]
fn an_address_counts_at_once() {
    let net = Net::new(Mode::L2).devices(2).build();
    assert_soon(latencies(&net), "quiet");
}

#[test]
fn a_noisy_namespace_does_not_keep_the_others_waiting() {
    let net = Net::new(Mode::L2).devices(2).build();
    let path = std::env::temp_dir().join(format!("{}-noise", net.mark()));
    let lines: String = (1..=250)
        .flat_map(|number| {
            ["add", "del"].map(|verb| format!("addr {verb} 10.77.0.{number}/32 dev ipvl1\n"))
        })
        .collect();
    std::fs::write(&path, lines.repeat(40)).expect("a file");
    let line = format!("ip -force -batch {}", path.display());
    let noise: Vec<_> = (0..4).map(|_| net.dev(1).ns.spawn(&line)).collect();
    let found = latencies(&net);
    drop(noise);
    std::fs::remove_file(&path).expect("a file");
    assert_soon(found, "beside noise");
    assert!(
        net.lan.reaches("10.1.0.11"),
        "the noisy one itself is reached"
    );
}
