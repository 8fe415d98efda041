//! A rough life: many devices, everything that can happen to them, and traffic all the time.
//!
//! ```text
//!   script ──ops──► world ──ip, ipvlan, SIGKILL──► the net (the fixture of the tests)
//!  (seeded)           │ what should be                     ▲ │
//!                     ▼                             payloads │ frames
//!                   model ◄──could that be right?── places ──┘
//!                     ▲
//!                   settle: what should be reachable, is it? what is left over?
//! ```
//!
//! A run is a sequence of bursts. In a burst operations follow each other, calls and the agent are
//! killed, and whoever has an address speaks to whoever may have one. After it the world is left
//! alone until all is as the model says: by the agent itself, or by one call where none runs.
//!
//! Two threads: one does operations and checks, the other one has all sockets (`places`). Every
//! payload names its addressee, every frame that gets into a namespace is looked at, and so is
//! every MAC address on the wire.
//!
//! A guest is a device whose home is what is behind its tap: a stack with a MAC address of its own,
//! which nobody else may see. What it owns is said by hand, or learnt from what it says.
//!
//! Limits: one parent. Devices are never in the parent's own namespace. What is judged against a
//! moment of change has [`model::GRACE`], so something that goes wrong for less than that is only
//! found where no change was near.

#![forbid(unsafe_code)]
#![expect(
    clippy::expect_used,
    reason = "where the surroundings fail, the run ends by a panic that says so"
)]

mod args;
mod model;
mod payload;
mod places;
mod report;
mod script;
mod settle;
mod world;

use std::process::ExitCode;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, MutexGuard};
use std::thread;
use std::time::{Duration, Instant};

use clap::Parser as _;
use ipvlan_tests::{Dice, require_root};

use crate::args::{Args, any_seed};
use crate::model::{History, Time};
use crate::places::Places;
use crate::report::Report;
use crate::script::Script;
use crate::settle::{Settle, after_the_last, routes};
use crate::world::World;

/// Operations between two checks.
const BURST: usize = 30;
/// How often the sockets are looked at.
const TURN: Duration = Duration::from_millis(5);
/// How often a line is printed.
const LINE: Duration = Duration::from_secs(10);

/// What both threads have. Locks are taken in this order, and none is held while waiting.
struct Shared {
    places: Mutex<Places>,
    facts: Mutex<History>,
    report: Mutex<Report>,
    start: Instant,
    stop: AtomicBool,
}

impl Shared {
    fn now(&self) -> Time {
        self.start.elapsed()
    }

    fn places(&self) -> MutexGuard<'_, Places> {
        self.places.lock().expect("no panic there")
    }

    fn facts(&self) -> MutexGuard<'_, History> {
        self.facts.lock().expect("no panic there")
    }

    fn report(&self) -> MutexGuard<'_, Report> {
        self.report.lock().expect("no panic there")
    }

    /// Something is wrong.
    fn found(&self, what: String) {
        let now = self.now();
        self.report().found(now, what);
    }
}

fn main() -> ExitCode {
    let args = Args::parse();
    let seed = args.seed.unwrap_or_else(any_seed);
    if let Some(count) = args.script {
        let mut script = Script::new(seed, &args);
        for (_, op) in (0..count).flat_map(|_| script.burst(BURST)) {
            println!("{op}");
        }
        return ExitCode::SUCCESS;
    }
    require_root();
    match run(&args, seed) {
        0 => ExitCode::SUCCESS,
        _ => ExitCode::FAILURE,
    }
}

/// The whole life. Returns the number of findings.
fn run(args: &Args, seed: u64) -> u64 {
    println!(
        "seed {seed}: {} devices in {} namespaces, {} guests, {} s",
        args.devices,
        args.homes(),
        args.guests,
        args.time
    );
    let shared = Shared {
        places: Mutex::new(Places::new(args.pool(), Dice::of(seed ^ 1))),
        facts: Mutex::new(History::default()),
        report: Mutex::new(Report::default()),
        start: Instant::now(),
        stop: AtomicBool::new(false),
    };
    let shared = &shared;
    thread::scope(|scope| {
        let ears = scope.spawn(|| {
            // What speaks and listens must not outlive what it is judged by.
            while !shared.stop.load(Ordering::Relaxed) {
                shared.places().turn(shared);
                thread::sleep(TURN);
            }
        });
        // Whatever becomes of it, the other thread is to end.
        let stop = Stop(shared);
        live(args, seed, shared);
        drop(stop);
        ears.join().expect("the ears");
    });
    let report = shared.report();
    println!("{}", report.text(seed, shared.now()));
    report.findings()
}

/// Ends the ears.
struct Stop<'a>(&'a Shared);

impl Drop for Stop<'_> {
    fn drop(&mut self) {
        self.0.stop.store(true, Ordering::Relaxed);
    }
}

fn live(args: &Args, seed: u64, shared: &Shared) {
    let mut world = World::new(shared, args.homes());
    let mut script = Script::new(seed, args);
    let mut settle = Settle::new(Dice::of(seed ^ 2));
    let before = routes(&world);
    let end = shared.now() + Duration::from_secs(args.time);
    let mut next_line = shared.now() + LINE;
    while shared.now() < end {
        for (pause, op) in script.burst(BURST) {
            thread::sleep(pause);
            let fate = world.perform(&op);
            shared.report().op(op.kind(), fate);
        }
        settle.settle(&mut world);
        if shared.now() >= next_line {
            let line = shared.report().line(shared.now());
            println!("{line}");
            next_line = shared.now() + LINE;
        }
        if args.stop && shared.report().findings() > 0 {
            break;
        }
    }
    world.empty();
    after_the_last(&world, &before);
    world.end();
}
