//! The script depends on its seed, and does everything.

use clap::Parser as _;

use super::*;

fn burst(seed: u64, count: usize) -> Vec<(Duration, Op)> {
    Script::new(seed, &args(10)).burst(count)
}

#[test]
fn the_same_seed_does_the_same() {
    assert_eq!(burst(7, 500), burst(7, 500));
    assert_ne!(burst(7, 500), burst(8, 500));
}

#[test]
fn everything_happens() {
    let kinds: BTreeSet<&str> = burst(1, 3000).iter().map(|(_, op)| op.kind()).collect();
    assert_eq!(kinds.len(), 22, "{kinds:?}");
    let killed = burst(1, 3000)
        .into_iter()
        .filter(|(_, op)| op.call().is_some_and(|call| call.killed.is_some()));
    assert!(killed.count() > 20);
}

#[test]
fn the_wire_is_there_at_the_end_and_most_devices_work() {
    for seed in 0..50 {
        let mut script = Script::new(seed, &args(20));
        let mut working = 0;
        for _ in 0..40 {
            let _: Vec<_> = script.burst(30);
            assert!(script.belief.carrier, "seed {seed}");
            let devices = script.belief.devices.values();
            working += devices
                .filter(|device| device.up && !device.addresses.is_empty())
                .count();
        }
        assert!(working > 40 * 20 / 2, "seed {seed}: {working} of 800");
    }
}

#[test]
fn little_is_void() {
    let mut state = State::new(mac(0));
    let mut void = 0;
    for (_, op) in burst(3, 1000) {
        match state.after(&op) {
            Some(next) => state = next,
            None => void += 1,
        }
    }
    assert!(void < 200, "{void} of 1000");
}

fn args(devices: usize) -> Args {
    let devices = devices.to_string();
    Args::parse_from(["ipvlan-soak", "--devices", &devices])
}
