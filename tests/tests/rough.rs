//! Killed at any instruction, the next call or the agent finishes or undoes the work.

#![expect(
    clippy::expect_used,
    reason = "clippy knows a test by its attribute, not the functions beside it"
)]

use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use ipvlan_abi::DEV_READY;
use ipvlan_datapath_bpf::Port;
use ipvlan_tests::process::kill_hard;
use ipvlan_tests::{Dice, Mode, Net, PATIENCE, eventually, traffic};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

/// What `bpftool` would be asked: every host end has its device, and every port its parent.
fn assert_consistent(net: &Net, round: u32) {
    let shown = net.ipvlan("-j -d link show").expect();
    let shown: serde_json::Value = serde_json::from_str(&shown).expect("JSON");
    let devices = shown.as_array().map_or(0, Vec::len);
    let ends = net
        .host
        .links()
        .iter()
        .filter(|name| name.starts_with("ipvh"))
        .count();
    assert_eq!(
        devices, ends,
        "round {round}: as many devices as host ends: {shown}"
    );
    let state: Vec<String> = std::fs::read_dir(net.state())
        .into_iter()
        .flatten()
        .flatten()
        .map(|entry| entry.file_name().to_string_lossy().into_owned())
        .filter(|name| name.starts_with("new-"))
        .collect();
    assert!(
        state.is_empty(),
        "round {round}: nothing half-made: {state:?}"
    );
}

#[test]
fn a_hundred_kills_leave_a_clean_state_and_living_connections() {
    let mut dice = Dice::new();
    let mut net = Net::new(Mode::L2).devices(2).build();
    let places = [
        net.namespace("p0"),
        net.namespace("p1"),
        net.namespace("p2"),
    ];
    let stop = AtomicBool::new(false);
    let end = Instant::now() + Duration::from_secs(100);
    let talked = thread::scope(|scope| {
        let talk = scope.spawn(|| traffic::chatter(&net, &stop));
        let done = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
            let mut kills = 0;
            while kills < 100 && Instant::now() < end {
                let name = format!("x{}", dice.roll(4));
                let place = dice.pick(&places);
                match dice.roll(6) {
                    0 | 1 => {
                        let line = format!(
                            "link add link eth0 name {name} netns {} type ipvlan mode l2",
                            place.name()
                        );
                        net.kill_after(&line, dice.roll(30_000));
                        kills += 1;
                    }
                    2 => {
                        let line = format!("-n {} link del {name}", place.name());
                        net.kill_after(&line, dice.roll(8_000));
                        kills += 1;
                    }
                    3 => {
                        // Moving, renaming, addresses: whatever fails, fails.
                        let next = dice.pick(&places);
                        let _: bool = place.try_sh(&format!("ip link set {name} up")).ok();
                        let _: bool = place
                            .try_sh(&format!(
                                "ip addr add 10.1.0.{}/24 dev {name}",
                                100 + dice.roll(4)
                            ))
                            .ok();
                        let _: bool = place
                            .try_sh(&format!("ip link set {name} netns {}", next.name()))
                            .ok();
                    }
                    _ => {
                        for agent in net.agents() {
                            thread::sleep(Duration::from_micros(dice.roll(5_000)));
                            kill_hard(agent);
                            kills += 1;
                        }
                        // The next call starts another one.
                        let _: bool = net
                            .ipvlan(&format!(
                                "link add link eth0 name {name} netns {} type ipvlan mode l2",
                                place.name()
                            ))
                            .ok();
                    }
                }
                if kills % 10 == 9 {
                    let _: bool = net
                        .ipvlan("link add link eth0 name probe type ipvlan mode l2")
                        .ok();
                    net.host.sh("ip link del probe");
                    assert!(
                        eventually(PATIENCE, || net.agents().len() == 1),
                        "after a call one agent runs: {:?}",
                        net.agents()
                    );
                    let settled = eventually(PATIENCE, || {
                        std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
                            assert_consistent(&net, kills)
                        }))
                        .is_ok()
                    });
                    assert!(settled, "after {kills} kills and a call the state is clean");
                }
            }
            kills
        }));
        stop.store(true, Ordering::Relaxed);
        let talked = talk.join().expect("a thread");
        let kills = done.unwrap_or_else(|why| std::panic::resume_unwind(why));
        assert!(kills >= 100, "a hundred kills in time: {kills}");
        talked
    });
    let rounds =
        talked.unwrap_or_else(|why| panic!("connections of untouched devices live: {why}"));
    assert!(rounds > 100, "they were busy all the time: {rounds}");
    assert!(
        net.lan.reaches("10.1.0.10") && net.lan.reaches("10.1.0.11"),
        "they are reached"
    );
    drop(places);
    net.devices.clear();
    net.assert_clean();
}

#[test]
fn of_two_that_want_one_name_one_wins() {
    let mut net = Net::new(Mode::L2).devices(1).build();
    for round in 0..10 {
        let done = thread::scope(|scope| {
            let call = || net.ipvlan("link add link eth0 name twin type ipvlan mode l2");
            let (one, two) = (scope.spawn(call), scope.spawn(call));
            [one.join().expect("a thread"), two.join().expect("a thread")]
        });
        let won = done.iter().filter(|done| done.ok()).count();
        assert_eq!(won, 1, "round {round}: one of two wins: {done:?}");
        let lost = done.iter().find(|done| !done.ok()).expect("one lost");
        assert_eq!(
            lost.stderr.trim_end(),
            "RTNETLINK answers: File exists",
            "as ip says it"
        );
        assert_eq!(lost.status, 2, "as ip says it");
        assert_consistent(&net, round);
        net.ipvlan("link del twin").expect_quiet();
    }
    net.devices.clear();
    net.assert_clean();
}

#[test]
fn of_two_that_want_two_names_both_win() {
    // Also when they are the first ones, and both would make the port and start the agent.
    for round in 0..5 {
        let net = Net::new(Mode::L2).build();
        let done = thread::scope(|scope| {
            let call = |name| {
                let net = &net;
                move || {
                    net.ipvlan(&format!(
                        "link add link eth0 name {name} type ipvlan mode l2"
                    ))
                }
            };
            let calls = ["a", "b", "c", "d"].map(|name| scope.spawn(call(name)));
            calls.map(|call| call.join().expect("a thread"))
        });
        assert!(
            done.iter().all(|done| done.ok()),
            "round {round}: all win: {done:?}"
        );
        assert_consistent(&net, round);
        assert_eq!(net.agents().len(), 1, "round {round}: one agent runs");
        for name in ["a", "b", "c", "d"] {
            net.ipvlan(&format!("link del {name}")).expect_quiet();
        }
        net.assert_clean();
    }
}

#[test]
fn a_device_is_deleted_under_traffic() {
    let mut net = Net::new(Mode::L2).devices(2).build();
    let flood = net.lan.spawn("ping -q -f 10.1.0.10");
    let other = net.dev(1).ns.spawn("ping -q -f 10.1.0.10");
    let wide = net.dev(0).ns.spawn("ping -q -f -b 10.1.0.255");
    thread::sleep(Duration::from_millis(300));
    for round in 0..5 {
        net.dev(0).ns.sh("ip link del ipvl0");
        net.ipvlan(&format!(
            "link add link eth0 name ipvl0 netns {} type ipvlan mode l2",
            net.dev(0).ns.name()
        ))
        .expect_quiet();
        net.dev(0).configure();
        assert!(
            net.dev(0).ns.reaches("10.1.0.254"),
            "round {round}: a new one works at once"
        );
    }
    drop((flood, other, wide));
    net.devices.clear();
    net.assert_clean();
}

#[test]
fn traffic_goes_on_without_an_agent() {
    let mut net = Net::new(Mode::L2).devices(2).build();
    for agent in net.agents() {
        kill_hard(agent);
    }
    assert!(
        eventually(PATIENCE, || net.agents().is_empty()),
        "no agent runs"
    );
    for address in ["10.1.0.10", "fd00::11"] {
        assert!(net.lan.reaches(address), "frames do not wait for a process");
    }
    net.dev(0).ns.sh("ip addr add 10.1.0.20/24 dev ipvl0");
    net.ipvlan("link add link eth0 name next type ipvlan mode l2")
        .expect_quiet();
    assert!(
        net.lan.reaches("10.1.0.20"),
        "what changed meanwhile is caught up with"
    );
    assert_eq!(net.agents().len(), 1, "the next call started an agent");
    net.ipvlan("link del next").expect_quiet();
    // Without an agent, one call is enough to clean up after namespaces that died.
    for agent in net.agents() {
        kill_hard(agent);
    }
    net.devices.clear();
    net.ipvlan("--no-agent link add link eth0 name last type ipvlan mode l2")
        .expect_quiet();
    assert_eq!(net.agents(), Vec::<u32>::new(), "--no-agent starts none");
    net.ipvlan("link del last").expect_quiet();
    net.assert_clean();
}

#[test]
fn a_host_that_dies_without_an_agent_is_cleaned_up_after() {
    for of_another_version in [false, true] {
        let mut net = Net::new(Mode::L2).devices(1).build();
        for agent in net.agents() {
            kill_hard(agent);
        }
        let state = net.state();
        if of_another_version {
            // One that has other maps than this one looks for.
            let port = state.join(net.host.index("eth0").to_string());
            std::fs::remove_file(port.join("port")).expect("a pinned map");
        }
        net.devices.clear();
        net.host.kill();
        let other = Net::new(Mode::L2).devices(1).build();
        drop(other);
        assert!(
            eventually(PATIENCE, || !state.exists()),
            "the next agent's start sweeps what a dead namespace left: {}",
            state.display()
        );
    }
}

#[test]
fn one_may_look_at_any_time() {
    let net = Net::new(Mode::L2).build();
    let stop = AtomicBool::new(false);
    let looks = thread::scope(|scope| {
        let lookers = ["link show", "-j -d -s -s link show", "stats"].map(|line| {
            let (net, stop) = (&net, &stop);
            scope.spawn(move || {
                let mut failed = Vec::new();
                while !stop.load(Ordering::Relaxed) {
                    let done = net.ipvlan(line);
                    if !done.ok() {
                        failed.push(done.stderr);
                    }
                }
                failed
            })
        });
        let done: Vec<_> = (0..40)
            .map(|_| {
                let add = net.ipvlan("link add link eth0 name ipvl0 type ipvlan mode l2");
                [add, net.host.try_sh("ip link del ipvl0")]
            })
            .collect();
        stop.store(true, Ordering::Relaxed);
        (done, lookers.map(|looker| looker.join().expect("a thread")))
    });
    let (done, looks) = looks;
    assert!(
        done.iter().flatten().all(|done| done.ok()),
        "who looks is in nobody's way: {done:?}"
    );
    let failed: Vec<String> = looks.into_iter().flatten().collect();
    assert!(failed.is_empty(), "to look is never an error: {failed:?}");
    net.assert_clean();
}

#[test]
fn what_was_half_made_goes_when_its_namespace_is_dead() {
    let mut dice = Dice::new();
    for _ in 0..100 {
        let mut net = Net::new(Mode::L2).build();
        let line = "--no-agent link add link eth0 name ipvl0 type ipvlan mode l2";
        net.kill_after(line, 1_000 + dice.roll(15_000));
        let state = net.state();
        let half_made = std::fs::read_dir(&state).into_iter().flatten().flatten();
        if !half_made
            .into_iter()
            .any(|entry| entry.file_name().to_string_lossy().starts_with("new-"))
        {
            let _: bool = net.ipvlan("--no-agent link del ipvl0").ok();
            let _: bool = net.ipvlan(line).ok();
            net.ipvlan("--no-agent link del ipvl0").expect_quiet();
            continue;
        }
        net.host.kill();
        // Any call elsewhere that starts an agent sweeps.
        drop(Net::new(Mode::L2).devices(1).build());
        assert!(
            eventually(PATIENCE, || !state.exists()),
            "a port that was being made when its namespace died is swept: {}",
            state.display()
        );
        return;
    }
    eprintln!("never killed at that moment: nothing was tested");
}

/// Whether the first device has this prefix by hand, owns it, and is routed to for it.
fn by_hand(net: &Net, prefix: &str) -> [bool; 3] {
    let text = net.ipvlan("addr show dev ipvl0").expect();
    let words = text.lines().find(|line| line.contains(prefix));
    let routes = net.host.read("ip route show table all");
    [
        words.is_some_and(|words| words.ends_with(" granted")),
        words.is_some_and(|words| words.contains(" owned ")),
        routes.contains(prefix),
    ]
}

#[test]
fn what_a_killed_call_began_to_give_or_to_take_the_next_one_brings_to_an_end() {
    // There most follows from it.
    let net = Net::new(Mode::L3s).devices(2).build();
    for agent in net.agents() {
        kill_hard(agent);
    }
    let mut dice = Dice::new();
    let (mut halves, mut wholes) = (0, [0, 0]);
    for round in 0..60 {
        let verb = dice.pick(&["add", "del"]);
        let line = format!("addr {verb} 10.9.0.0/24 dev ipvl0");
        net.kill_after(&line, dice.roll(20_000));
        let left = by_hand(&net, "10.9.0.0/24");
        halves += u32::from(left != [left[0]; 3]);
        // About something else.
        for verb in ["add", "del"] {
            net.ipvlan(&format!("addr {verb} 10.8.0.1 dev ipvl1"))
                .expect_quiet();
        }
        let found = by_hand(&net, "10.9.0.0/24");
        assert_eq!(found, [left[0]; 3], "round {round}, {line}: {left:?}");
        wholes[usize::from(left[0])] += 1;
    }
    assert!(!wholes.contains(&0), "given and taken: {wholes:?}");
    if halves == 0 {
        eprintln!("never killed in between: nothing was tested");
    }
    // It starts the agent that sees to the end of all.
    net.ipvlan("link add link eth0 name last type ipvlan mode l3s")
        .expect_quiet();
}

#[test]
fn a_call_that_fails_leaves_the_mode_of_the_others() {
    let net = Net::new(Mode::L2).devices(1).build();
    // The loopback device has this index.
    let done = net.ipvlan("link add link eth0 name d1 index 1 type ipvlan mode l3 private");
    assert!(!done.ok(), "{done:?}");
    let shown = net.ipvlan("-j -d link show").expect();
    assert!(
        shown.contains("\"l2\"") && shown.contains("\"bridge\""),
        "what was not made has changed nothing: {shown}"
    );
    let neighbours = net.dev(0).ns.read("ip link show ipvl0");
    assert!(!neighbours.contains("NOARP"), "{neighbours}");
}

/// Whether the port knows of a device that has not come to its end.
fn is_half_made(net: &Net) -> bool {
    let dir = net.state().join(net.host.index("eth0").to_string());
    let devs = Port::open(&dir).and_then(|port| port.devs());
    devs.is_ok_and(|devs| devs.values().any(|dev| dev.bits & DEV_READY == 0))
}

#[test]
fn a_name_that_a_killed_call_left_half_made_is_free() {
    // One device keeps the port, and an agent or none.
    let net = Net::new(Mode::L2).devices(1).build();
    let mut dice = Dice::new();
    for agent in [true, false] {
        if !agent {
            net.agents().into_iter().for_each(kill_hard);
        }
        let mut wholes = 0;
        for round in 0..40 {
            let line = "--no-agent link add link eth0 name again type ipvlan mode l2";
            net.kill_after(line, 2_000 + dice.roll(20_000));
            let half = is_half_made(&net);
            let done = net.ipvlan(line);
            if !done.ok() {
                // Then it was whole, and still is.
                assert!(done.stderr.contains("File exists"), "{done:?}");
                assert!(!half, "round {round}: {done:?}");
                wholes += 1;
            }
            let deleted = net.ipvlan("--no-agent link del again");
            assert!(deleted.ok(), "round {round}: after {done:?}, {deleted:?}");
        }
        assert!(wholes < 40, "each was killed too late");
    }
    // It starts the agent that sees to the end of all.
    net.ipvlan("link add link eth0 name last type ipvlan mode l2")
        .expect_quiet();
}

#[test]
fn what_a_killed_call_has_left_is_in_nobody_s_way_though_the_agent_is_slow() {
    let net = Net::new(Mode::L2).devices(1).build();
    // It has nothing to do, and holds no lock.
    thread::sleep(Duration::from_millis(500));
    let signal = |signal| {
        for agent in net.agents() {
            kill(Pid::from_raw(agent.cast_signed()), signal).expect("the agent");
        }
    };
    signal(Signal::SIGSTOP);
    let mut dice = Dice::new();
    for round in 0..40 {
        let line = |name| format!("link add link eth0 name {name} type ipvlan mode l2");
        net.kill_after(&line("half"), 2_000 + dice.roll(20_000));
        let done = net.ipvlan(&line("other"));
        assert!(done.ok(), "round {round}: {done:?}");
        net.ipvlan("link del other").expect_quiet();
        // Whole, or not there.
        let _: bool = net.ipvlan("link del half").ok();
    }
    signal(Signal::SIGCONT);
}

#[test]
fn names_of_host_ends_are_not_for_devices() {
    let net = Net::new(Mode::L2).devices(1).build();
    let done = net.ipvlan("link add link eth0 name ipvh9.9 type ipvlan mode l2");
    assert_eq!(done.status, 2, "{done:?}");
    assert!(done.stderr.contains("host ends"), "{done:?}");
    // Somebody else's link of such a name is left alone.
    net.host.sh("ip link add ipvh9.8 type veth peer name other");
    net.ipvlan("link add link eth0 name d1 type ipvlan mode l2")
        .expect_quiet();
    assert!(net.host.find_link("ipvh9.8").is_some(), "it is not ours");
    net.host.sh("ip link del ipvh9.8");
}

#[test]
fn who_sees_another_bpffs_deletes_nobody_s_devices() {
    let net = Net::new(Mode::L2).devices(1).build();
    net.host.sh("ip link add eth7 type veth peer name lan7");
    net.host.sh("ip link set eth7 up");
    let line = format!(
        "mount -t bpf bpf /sys/fs/bpf && {} --no-agent link add link eth7 name x0 type ipvlan",
        net.program().path()
    );
    let _ = net.host.try_run(&["unshare", "-m", "sh", "-c", &line]);
    assert!(
        net.lan.reaches("10.1.0.10"),
        "the devices of the machine's bpffs live"
    );
    net.host.sh("ip link del eth7");
}
