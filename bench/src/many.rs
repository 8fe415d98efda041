//! Many devices on one parent, next to macvlan's.
//!
//! ```text
//! net (a LAN, a parent, namespaces) -> life (make, configure, delete; each timed) -> report
//!       \-> agent (whose CPU, when gone)    \-> arp (what a request costs)
//!       \-> wire (raw frames on the LAN: ARP, ping)      changes (until an address is another's)
//! ```
//!
//! Two parents stand for each kind all the time: one with two devices, made once, and one whose N
//! devices are made and deleted in every round. In a round the kinds take turns, beginning with
//! another one each time; what ARP costs is then measured on all four, directly after each other.
//!
//! Reading order: `net`, `life`, `arp`, `report`.

mod agent;
mod arp;
mod changes;
mod life;
mod net;
mod report;
mod wire;

use std::time::Duration;

use crate::args::Many;
use crate::error::{Error, Result};
use crate::many::arp::Sample;
use crate::many::life::Life;
use crate::many::net::{Kind, Parent};
use crate::measure::{self, rotated};
use crate::publish::publish;
use crate::sys;

/// What to measure, and how.
#[derive(Debug)]
struct Plan {
    devices: u16,
    rounds: u32,
    per_cell: Duration,
    cpu: usize,
    tty: bool,
}

impl Plan {
    fn say(&self, what: impl FnOnce() -> String) {
        if self.tty {
            eprintln!("{}", what());
        }
    }
}

/// Everything that came out.
#[derive(Debug, Default)]
struct Run {
    /// In order of rounds.
    lives: Vec<Life>,
    samples: Vec<Sample>,
    absent: Vec<String>,
    failures: Vec<String>,
}

impl Run {
    /// Notes what failed and lets the rest go on; only a signal ends everything.
    fn survive<T>(&mut self, what: &str, result: Result<T>) -> Result<Option<T>> {
        match result {
            Ok(value) => Ok(Some(value)),
            Err(Error::Interrupted) => Err(Error::Interrupted),
            Err(error) => {
                // A command that the signal hit is not what failed.
                sys::check_interrupt()?;
                self.fail(format!("{what}: {error}"));
                Ok(None)
            }
        }
    }

    fn fail(&mut self, what: String) {
        eprintln!("ipvlan-bench: {what}");
        self.failures.push(what);
    }
}

/// Builds, measures, reports, removes. `false`: something did not work and is named in the report.
pub(crate) fn many(args: &Many) -> Result<bool> {
    if !nix::unistd::geteuid().is_root() {
        return Err(Error::NotRoot);
    }
    sys::catch_signals()?;
    let plan = Plan {
        devices: args.devices,
        rounds: args.rounds,
        per_cell: args.per_cell(),
        cpu: measure::choose_cpu(args.common.cpu)?,
        tty: !args.common.quiet,
    };
    let mut run = Run::default();
    // All namespaces hang on this, as in `main`.
    let parents = build(args, &plan, &mut run)?;
    measure_all(&plan, parents, &mut run)?;

    let report = report::Report::new(&plan, &run);
    publish(&report, &args.common)?;
    Ok(run.failures.is_empty())
}

/// The two parents of one kind.
#[derive(Debug)]
struct Pair {
    few: Parent,
    many: Parent,
}

/// What the few are.
const FEW: u16 = 2;

fn build(args: &Many, plan: &Plan, run: &mut Run) -> Result<Vec<Pair>> {
    let mut pairs = Vec::new();
    for kind in Kind::ALL {
        sys::check_interrupt()?;
        plan.say(|| format!("build {kind}"));
        let pair = || {
            let mut few = Parent::build(kind, "few", FEW, &args.common.ipvlan())?;
            let life = few.live(0)?;
            if let Some(failure) = life.failure() {
                return Err(Error::Absent { what: failure });
            }
            let many = Parent::build(kind, "many", plan.devices, &args.common.ipvlan())?;
            Ok(Pair { few, many })
        };
        match pair() {
            // What this machine lacks: a failure for us, a remark for the other.
            Err(Error::Absent { what }) if kind == Kind::Macvlan => {
                run.absent.push(format!("{kind}: {what}"));
            }
            built => pairs.extend(run.survive(&format!("{kind} with {FEW} devices"), built)?),
        }
    }
    Ok(pairs)
}

fn measure_all(plan: &Plan, mut pairs: Vec<Pair>, run: &mut Run) -> Result<()> {
    for round in 0..plan.rounds {
        let kinds: Vec<Kind> = pairs.iter().map(|pair| pair.many.kind).collect();
        let mut lives = Vec::new();
        for &kind in rotated(&kinds, round) {
            plan.say(|| format!("round {} of {}: {kind}", round + 1, plan.rounds));
            let Some(pair) = pairs.iter_mut().find(|pair| pair.many.kind == kind) else {
                continue;
            };
            let lived = pair.many.live(round);
            match run.survive(&format!("{kind}, round {}", round + 1), lived)? {
                Some(life) => lives.push(life),
                None => pairs.retain(|pair| pair.many.kind != kind),
            }
        }
        plan.say(|| format!("round {} of {}: ARP", round + 1, plan.rounds));
        let nets: Vec<&Parent> = pairs
            .iter()
            .flat_map(|pair| [&pair.few, &pair.many])
            .collect();
        let measured = arp::round(plan, &nets, round);
        drop(nets);
        let what = format!("ARP, round {}", round + 1);
        let samples = run.survive(&what, measured)?;
        run.samples.extend(samples.into_iter().flatten());
        for mut life in lives {
            let kind = life.kind;
            let Some(pair) = pairs.iter_mut().find(|pair| pair.many.kind == kind) else {
                continue;
            };
            let deleted = pair.many.delete();
            let what = format!("{kind}, round {}", round + 1);
            life.deleted = run.survive(&what, deleted)?;
            if let Some(failure) = life.failure() {
                run.fail(format!("{what}: {failure}"));
            }
            if life.deleted.is_none() {
                pairs.retain(|pair| pair.many.kind != kind);
            }
            run.lives.push(life);
        }
    }
    Ok(())
}
