//! A newer binary takes over what an older one runs, and leaves alone what a newer one does. For ours
//! alone.

#![expect(
    clippy::expect_used,
    reason = "clippy knows a test by its attribute, not the functions beside it"
)]

use std::collections::BTreeSet;
use std::net::{SocketAddr, UdpSocket};
use std::os::unix::fs::MetadataExt as _;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use ipvlan_abi::{ABI_UNFINISHED, ABI_VERSION};
use ipvlan_tests::process::kill_hard;
use ipvlan_tests::{Dice, Mode, Net, PATIENCE, eventually, kernel_is_since, older, traffic};
use nix::sys::socket::{setsockopt, sockopt};

/// Runs `f` while the first two devices talk to each other and to the LAN. No byte of it may be lost.
#[track_caller]
fn while_they_talk(net: &Net, f: impl FnOnce()) {
    let stop = AtomicBool::new(false);
    let talked = thread::scope(|scope| {
        let talk = scope.spawn(|| traffic::chatter(net, &stop));
        thread::sleep(Duration::from_millis(100));
        let done = catch_unwind(AssertUnwindSafe(f));
        stop.store(true, Ordering::Relaxed);
        let talked = talk.join().expect("a thread");
        done.unwrap_or_else(|why| resume_unwind(why));
        talked
    });
    let rounds = talked.unwrap_or_else(|why| panic!("{}: connections live: {why}", net.mode));
    assert!(rounds > 10, "they were busy all the time: {rounds}");
}

/// The inode of what is pinned there.
fn pinned(net: &Net, name: &str) -> u64 {
    let path = older::port(net).join(name);
    path.metadata().expect("a pin").ino()
}

/// What is pinned of the port.
fn pins(net: &Net) -> BTreeSet<String> {
    let entries = std::fs::read_dir(older::port(net)).expect("a port");
    let names = entries.flatten().map(|entry| entry.file_name());
    names
        .map(|name| name.to_string_lossy().into_owned())
        .collect()
}

/// Where an agent was ended, the next device has one again.
#[track_caller]
fn have_an_agent(net: &Net) {
    net.ipvlan("link add link eth0 name probe type ipvlan")
        .expect_quiet();
    net.ipvlan("link del probe").expect_quiet();
    assert_eq!(net.agents().len(), 1, "an agent runs");
}

/// Nothing but the port and the agent's lock.
#[track_caller]
fn assert_nothing_half_made(net: &Net) {
    let entries = std::fs::read_dir(net.state()).expect("a state").flatten();
    let names: BTreeSet<_> = entries.map(|entry| entry.file_name()).collect();
    let port = net.host.index("eth0").to_string();
    let wanted = BTreeSet::from(["agent".into(), port.into()]);
    assert!(names.is_subset(&wanted), "nothing is half-made: {names:?}");
}

#[test]
fn connections_live_through_a_takeover_by_any_verb() {
    for mode in Mode::ALL {
        let net = Net::new(mode).devices(2).build();
        let made = pins(&net);
        net.ipvlan("addr add 10.9.0.1 dev ipvl0").expect_quiet();
        net.ipvlan("addr add fd09::1 dev ipvl1").expect_quiet();
        let granted = || -> Vec<String> {
            let shown = net.ipvlan("addr show").expect();
            let by_hand = shown.lines().filter(|line| line.contains("granted"));
            by_hand.map(str::to_owned).collect()
        };
        let by_hand = granted();
        assert_eq!(by_hand.len(), 2, "{by_hand:?}");
        let mut extra = 100;
        while_they_talk(&net, || {
            let set = format!("link set ipvl1 type ipvlan mode {mode}");
            for line in [
                "link show",
                "stats",
                "addr show",
                &set,
                "link del probe",
                "link add link eth0 name other type ipvlan",
            ] {
                if line == "link del probe" {
                    net.ipvlan("link add link eth0 name probe type ipvlan")
                        .expect_quiet();
                }
                older::age(&net);
                assert_eq!(older::version(&older::port(&net)), 2, "it is an old one");
                let agents = net.agents();
                let (owners, program) = (pinned(&net, "owners4"), pinned(&net, "parent_ingress"));
                let done = net.ipvlan(line);
                assert!(done.ok(), "{mode}: {line}: {done:?}");
                assert!(done.stderr.is_empty(), "{mode}: {line}: {done:?}");
                assert_eq!(
                    older::version(&older::port(&net)),
                    ABI_VERSION,
                    "{mode}: {line}"
                );
                assert_eq!(pinned(&net, "owners4"), owners, "the map of owners stays");
                assert_ne!(pinned(&net, "parent_ingress"), program, "programs do not");
                assert_nothing_half_made(&net);
                let now = net.agents();
                assert_eq!(now.len(), 1, "{mode}: {line}: one agent runs: {now:?}");
                assert_ne!(now, agents, "{mode}: {line}: it is another one");
                // And it follows.
                let address = match mode {
                    Mode::L2 => format!("10.1.0.{extra}"),
                    Mode::L3 | Mode::L3s => format!("10.2.1.{extra}"),
                };
                extra += 1;
                net.dev(1)
                    .ns
                    .sh(&format!("ip addr add {address}/24 dev ipvl1"));
                assert!(net.lan.reaches(&address), "{mode}: {line}: {address}");
            }
        });
        net.ipvlan("link del other").expect_quiet();
        assert_eq!(
            pins(&net),
            made,
            "{mode}: what a new port has, no more, no less"
        );
        assert_eq!(granted(), by_hand, "{mode}: what was given by hand stays");
        let shown = net.ipvlan("-j -d link show").expect();
        assert!(shown.contains(&format!("\"{mode}\"")), "{mode}: {shown}");
    }
}

#[test]
fn an_agent_takes_over_when_it_starts() {
    let net = Net::new(Mode::L2).devices(2).build();
    while_they_talk(&net, || {
        older::age(&net);
        let old = net.agents();
        let _agent = net.host.spawn(&format!("{} agent", net.program().path()));
        let is_taken_over = || {
            older::version(&older::port(&net)) == ABI_VERSION
                && net.agents().len() == 1
                && net.agents() != old
        };
        assert!(eventually(PATIENCE, is_taken_over), "it ends the old one");
        net.dev(1).ns.sh("ip addr add 10.1.0.100/24 dev ipvl1");
        assert!(net.lan.reaches("10.1.0.100"), "and follows");
    });
    have_an_agent(&net);
}

#[test]
fn an_agent_that_somebody_else_has_started_is_ended_and_not_replaced() {
    let net = Net::new(Mode::L2).devices(1).build();
    for agent in net.agents() {
        kill_hard(agent);
    }
    let mut agent = net
        .host
        .spawn(&format!("{} agent --foreground", net.program().path()));
    let follows = |address: &str| {
        net.dev(0)
            .ns
            .sh(&format!("ip addr add {address}/24 dev ipvl0"));
        net.lan.reaches(address)
    };
    assert!(
        eventually(PATIENCE, || !net.agents().is_empty()) && follows("10.1.0.100"),
        "it runs"
    );
    older::age(&net);
    let done = net.ipvlan("link show");
    assert!(done.ok(), "{done:?}");
    assert!(
        done.stderr.contains("has to start it again"),
        "whoever looks after it is told so: {done:?}"
    );
    assert!(!agent.is_alive(), "it could not do anything any more");
    assert_eq!(net.agents(), Vec::<u32>::new(), "the place is free");
    // As systemd does it.
    let agent = net
        .host
        .spawn(&format!("{} agent --foreground", net.program().path()));
    assert!(follows("10.1.0.101"), "the new one follows");
    agent.kill();
    have_an_agent(&net);
}

#[test]
fn without_an_agent_none_is_started() {
    let net = Net::new(Mode::L3).devices(2).build();
    older::age(&net);
    for agent in net.agents() {
        kill_hard(agent);
    }
    assert!(eventually(PATIENCE, || net.agents().is_empty()));
    let _: String = net.ipvlan("link show").expect();
    assert_eq!(older::version(&older::port(&net)), ABI_VERSION);
    assert_eq!(net.agents(), Vec::<u32>::new(), "as it was");
    assert!(net.lan.reaches("10.2.0.1"));
    have_an_agent(&net);
}

#[test]
fn a_device_looks_at_itself_and_its_port_is_taken_over() {
    // From where the device lives, and the parent does not.
    let net = Net::new(Mode::L2).devices(2).build();
    older::age(&net);
    let ns = &net.dev(0).ns;
    let shown = net.program().run(ns, "-d link show").expect();
    assert!(shown.contains("ipvlan  mode l2"), "{shown}");
    assert_eq!(older::version(&older::port(&net)), ABI_VERSION);
    assert_eq!(net.agents().len(), 1, "an agent runs");
    net.dev(1).ns.sh("ip addr add 10.1.0.100/24 dev ipvl1");
    assert!(net.lan.reaches("10.1.0.100"), "and follows");
}

#[test]
fn a_port_of_an_older_version_follows_its_parent() {
    if !kernel_is_since(6, 6) {
        eprintln!("without tcx nobody but the agent sees where a parent goes");
        return;
    }
    let net = Net::new(Mode::L2).devices(2).build();
    let there = net.namespace("there");
    older::age(&net);
    for agent in net.agents() {
        kill_hard(agent);
    }
    assert!(eventually(PATIENCE, || net.agents().is_empty()));
    net.host
        .sh(&format!("ip link set eth0 netns {}", there.name()));
    there.sh("ip link set eth0 up");
    there.sh("ip addr add 10.1.0.1/24 dev eth0");
    let line = "--no-agent link add link eth0 name x0 type ipvlan";
    net.program().run(&there, line).expect_quiet();
    for address in ["10.1.0.10", "10.1.0.11"] {
        assert!(
            net.lan.reaches(address),
            "{address} is behind the same wire"
        );
    }
    assert!(net.dev(0).ns.reaches("10.1.0.11"), "they see each other");
    net.program().run(&there, "link del x0").expect_quiet();
}

#[test]
fn what_a_newer_version_has_made_is_left_alone() {
    let mut net = Net::new(Mode::L2).devices(2).build();
    net.ipvlan("addr add 10.9.0.1 dev ipvl0").expect_quiet();
    let dir = older::port(&net);
    let newer = ABI_VERSION + 1;
    older::set_version(&dir, newer);
    let state = |net: &Net| (older::entry(&dir), pins(net), net.host.links());
    let before = state(&net);
    for line in [
        "link show",
        "link show dev ipvl0",
        "stats",
        "addr show",
        "link set ipvl0 type ipvlan mode l3",
        "link set eth0 type ipvlan private",
        "link add link eth0 name new type ipvlan mode l3",
        "addr add 10.9.0.2 dev ipvl0",
        "addr del 10.9.0.1 dev ipvl0",
    ] {
        let done = net.ipvlan(line);
        assert_eq!(done.status, 2, "{line}: {done:?}");
        assert_eq!(done.stdout, "", "{line}: {done:?}");
        assert_eq!(done.stderr.lines().count(), 1, "{line}: {done:?}");
        for words in [
            "newer version",
            &format!("layout {newer}"),
            &format!("layout {ABI_VERSION}"),
        ] {
            assert!(done.stderr.contains(words), "{line}: {words}: {done:?}");
        }
        assert!(state(&net) == before, "{line}: nothing has changed");
    }
    for line in [
        "link show",
        "link del ipvl0",
        "link set ipvl0 type ipvlan vepa",
    ] {
        let done = net.program().run(&net.dev(0).ns, line);
        assert_eq!(done.status, 2, "inside: {line}: {done:?}");
        assert!(done.stderr.contains("newer version"), "{line}: {done:?}");
        assert!(state(&net) == before, "inside: {line}: nothing has changed");
    }
    assert!(net.lan.reaches("10.1.0.10") && net.dev(0).ns.reaches("10.1.0.11"));
    // The agent has nothing to do here any more.
    net.dev(0).ns.sh("ip addr add 10.1.0.100/24 dev ipvl0");
    assert!(
        eventually(PATIENCE, || net.agents().is_empty()),
        "it makes room for the newer one's: {:?}",
        net.agents()
    );
    let started = net.ipvlan("agent");
    assert_eq!(started.status, 2, "{started:?}");
    assert!(started.stderr.contains("newer version"), "{started:?}");
    assert!(state(&net) == before, "nothing has changed");
    // Another parent is another matter.
    net.host.sh("ip link add eth7 type veth peer name lan7");
    net.ipvlan("link add link eth7 name x0 type ipvlan")
        .expect_quiet();
    assert_eq!(net.agents().len(), 1, "this one has an agent");
    net.host.sh("ip link del x0");
    let port = net.state().join(net.host.index("eth7").to_string());
    assert!(eventually(PATIENCE, || !port.exists()), "and it follows");
    net.host.sh("ip link del eth7");
    assert_eq!(older::entry(&dir), before.0, "nothing has changed");
    assert!(net.lan.reaches("10.1.0.10"));
    older::set_version(&dir, ABI_VERSION);
    net.ipvlan("link add link eth0 name last type ipvlan")
        .expect_quiet();
    net.ipvlan("link del last").expect_quiet();
    net.devices.clear();
    net.assert_clean();
}

#[test]
fn killed_at_any_moment_of_a_takeover_the_next_call_finishes_it() {
    let mut dice = Dice::new();
    let mut net = Net::new(Mode::L2).devices(2).build();
    let (mut before, mut between, mut after) = (0, 0, 0);
    while_they_talk(&net, || {
        // How long it takes, undisturbed, here and now.
        older::age(&net);
        let start = Instant::now();
        let _: String = net.ipvlan("link show").expect();
        let whole = u64::try_from(start.elapsed().as_micros()).expect("a moment");
        let end = Instant::now() + Duration::from_secs(60);
        let (mut kills, mut edge) = (0, whole * 3 / 4);
        // Interpreted (QEMU), a kill takes seconds.
        while kills < 60 && (Instant::now() < end || before == 0 || after + between == 0) {
            older::age(&net);
            // Any moment, and those around the exchange, wherever that is.
            let micros = match kills % 3 {
                0 => dice.roll(whole),
                _ => edge + dice.roll(whole / 32),
            };
            net.kill_after("link show", micros);
            kills += 1;
            let step = whole / 64;
            match older::version(&older::port(&net)) {
                2 => {
                    before += 1;
                    edge = (edge + step).min(whole);
                }
                ABI_VERSION => {
                    after += 1;
                    edge = edge.saturating_sub(step);
                }
                unfinished => {
                    between += 1;
                    assert_eq!(unfinished, ABI_VERSION | ABI_UNFINISHED);
                }
            }
            assert!(net.lan.reaches("10.1.0.10"), "kill {kills}: frames go on");
            let done = net.ipvlan("link show");
            assert!(done.ok(), "kill {kills}: {done:?}");
            assert_eq!(older::version(&older::port(&net)), ABI_VERSION);
            // Whoever was killed after all was done has left a directory that nobody needs.
            net.ipvlan("link add link eth0 name probe type ipvlan mode l2")
                .expect_quiet();
            net.ipvlan("link del probe").expect_quiet();
            assert_nothing_half_made(&net);
            assert!(
                eventually(PATIENCE, || net.agents().len() == 1),
                "kill {kills}: {:?}",
                net.agents()
            );
        }
    });
    println!("killed before the exchange: {before}, before the end: {between}, after: {after}");
    assert!(
        before > 0 && after + between > 0,
        "{before} {between} {after}"
    );
    net.devices.clear();
    net.assert_clean();
}

#[test]
fn what_was_broken_off_is_finished_at_every_kind_of_device() {
    let net = Net::new(Mode::L2).devices(2).build();
    net.ipvlan("link add link eth0 name tap0 type ipvtap mode l2")
        .expect_quiet();
    while_they_talk(&net, || {
        let dir = older::port(&net);
        older::set_version(&dir, ABI_VERSION | ABI_UNFINISHED);
        let shown = net.ipvlan("link show").expect();
        assert!(shown.contains("tap0"), "{shown}");
        assert_eq!(older::version(&dir), ABI_VERSION);
    });
    net.ipvlan("link del tap0").expect_quiet();
}

#[test]
fn no_frame_of_a_dense_stream_is_lost() {
    const RATE: u32 = 10_000;
    let net = Net::new(Mode::L2).devices(1).build();
    let to = SocketAddr::from((net.dev(0).v4, 7777));
    let ear = net
        .dev(0)
        .ns
        .enter(|| UdpSocket::bind(to))
        .expect("a socket");
    setsockopt(&ear, sockopt::RcvBufForce, &(16 << 20)).expect("room");
    ear.set_read_timeout(Some(Duration::from_millis(500)))
        .expect("a timeout");
    let mouth = net
        .lan
        .enter(|| UdpSocket::bind("0.0.0.0:0"))
        .expect("a socket");
    let stop = AtomicBool::new(false);
    let (sent, heard, gaps) = thread::scope(|scope| {
        let speak = scope.spawn(|| {
            let (start, mut sent) = (Instant::now(), 0_u32);
            while !stop.load(Ordering::Relaxed) {
                let _: usize = mouth.send_to(&sent.to_be_bytes(), to).expect("sent");
                sent += 1;
                let next = Duration::from_secs(1) / RATE * sent;
                thread::sleep(next.saturating_sub(start.elapsed()));
            }
            sent
        });
        let hear = scope.spawn(|| {
            let (mut heard, mut last, mut gaps) = (0_u32, None::<Instant>, Vec::new());
            let mut buf = [0; 16];
            while ear.recv(&mut buf).is_ok() {
                let now = Instant::now();
                gaps.extend(last.replace(now).map(|then| (now, now - then)));
                heard += 1;
            }
            (heard, gaps)
        });
        let mut windows = Vec::new();
        for _ in 0..5 {
            older::age(&net);
            thread::sleep(Duration::from_millis(300));
            let start = Instant::now();
            let _: String = net.ipvlan("link show").expect();
            windows.push((start, Instant::now()));
        }
        stop.store(true, Ordering::Relaxed);
        let sent = speak.join().expect("a thread");
        let (heard, gaps) = hear.join().expect("a thread");
        let within = gaps.iter().filter(|(when, _)| {
            let mut windows = windows.iter();
            windows.any(|(start, end)| start <= when && when <= end)
        });
        let within = within.map(|(_, gap)| *gap).max();
        let without = gaps.iter().map(|(_, gap)| *gap).max();
        (sent, heard, (within, without))
    });
    println!("{sent} sent, {heard} heard; longest gap during a takeover and at all: {gaps:?}");
    assert_eq!(sent, heard, "none is lost");
}
