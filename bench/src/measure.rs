//! Rounds of cells.
//!
//! A cell is one topology, path and workload, measured for a moment. Within a round all topologies
//! of one path and workload follow each other directly, beginning with another one each time, and
//! only then comes the next path: what disturbs the machine for a second or more meets all of them.
//!
//! A cell is made of batches of about two milliseconds; its figure is the median batch, so that an
//! interrupt or a preempted batch does not count. The figure of a topology is the median cell.

use std::collections::{HashMap, HashSet};
use std::fs;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use nix::sched::{CpuSet, sched_getaffinity, sched_setaffinity};
use nix::time::{ClockId, clock_gettime};
use nix::unistd::Pid;

use crate::args::Clock;
use crate::error::{Error, Result};
use crate::run::run;
use crate::sys;
use crate::topology::{Family, Net, Path, Topology};
use crate::work::{Operation, Patience, Work, reach};

/// What to measure, and how.
#[derive(Debug)]
pub(crate) struct Plan {
    pub(crate) paths: Vec<Path>,
    pub(crate) works: Vec<Work>,
    pub(crate) rounds: u32,
    pub(crate) per_cell: Duration,
    pub(crate) clock: Clock,
    pub(crate) cpu: usize,
    pub(crate) family: Family,
    /// Tell on standard error how far it is.
    pub(crate) tty: bool,
}

pub(crate) type Key = (Topology, Path, Work);

/// One cell in one round.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Sample {
    pub(crate) round: u32,
    /// Time per operation.
    pub(crate) us: f64,
    pub(crate) ops: u64,
    /// Of the elapsed time, how much the thread was neither charged with nor waiting for the CPU.
    pub(crate) unseen: f64,
    /// Of the CPU time, how much was ksoftirqd's.
    pub(crate) ksoftirqd: f64,
    /// How often the thread had to wait for something that had not arrived.
    pub(crate) waits: u32,
}

/// Everything that came out.
#[derive(Debug, Default)]
pub(crate) struct Run {
    /// In order of rounds.
    pub(crate) samples: HashMap<Key, Vec<Sample>>,
    /// Topologies this machine cannot have, and why.
    pub(crate) absent: Vec<(Topology, String)>,
    pub(crate) failures: Vec<String>,
}

impl Run {
    pub(crate) fn fail(&mut self, what: String) {
        eprintln!("ipvlan-bench: {what}");
        self.failures.push(what);
    }
}

/// How long a path may take to come up: an agent has to hear of addresses first.
const REACH_LIMIT: Duration = Duration::from_secs(5);

pub(crate) fn measure(plan: &Plan, nets: &[Net], found: &mut Run) -> Result<()> {
    let mut dead: HashSet<(Topology, Path)> = HashSet::new();
    for net in nets {
        for &path in &plan.paths {
            match reach(&net.ends(path), REACH_LIMIT) {
                Ok(()) => {}
                Err(Error::Interrupted) => return Err(Error::Interrupted),
                Err(error) => {
                    found.fail(format!("{} {path}: {error}", net.topology));
                    let _: bool = dead.insert((net.topology, path));
                }
            }
        }
    }

    let ksoftirqd = Ksoftirqd::of(plan.cpu);
    let mut broken: HashSet<Key> = HashSet::new();
    for round in 0..plan.rounds {
        if plan.tty {
            eprintln!("round {} of {}", round + 1, plan.rounds);
        }
        for &work in &plan.works {
            for &path in &plan.paths {
                for net in rotated(nets, round) {
                    let key = (net.topology, path, work);
                    if dead.contains(&(net.topology, path)) || broken.contains(&key) {
                        continue;
                    }
                    sys::check_interrupt()?;
                    match cell(plan, net, path, work, &ksoftirqd) {
                        Ok(sample) => {
                            found
                                .samples
                                .entry(key)
                                .or_default()
                                .push(Sample { round, ..sample });
                        }
                        Err(Error::Interrupted) => return Err(Error::Interrupted),
                        Err(error) => {
                            found.fail(format!("{} {path} {}: {error}", net.topology, work.name()));
                            let _: bool = broken.insert(key);
                        }
                    }
                }
            }
        }
    }
    Ok(())
}

/// All of them, beginning with another one in each round, so that none always comes first.
pub(crate) fn rotated<T>(all: &[T], round: u32) -> impl Iterator<Item = &T> {
    let first = usize::try_from(round)
        .unwrap_or(0)
        .checked_rem(all.len())
        .unwrap_or(0);
    all.iter().cycle().skip(first).take(all.len())
}

pub(crate) const BATCH: Duration = Duration::from_millis(2);

fn cell(plan: &Plan, net: &Net, path: Path, work: Work, ksoftirqd: &Ksoftirqd) -> Result<Sample> {
    let ends = net.ends(path);
    // For the whole cell, not just for opening: a workload that connects does so again and again.
    ends.client.inside(|| {
        let thread = SchedStat("/proc/thread-self/schedstat".into());
        let mut operation = work.open(&ends)?;
        // Ten times what it should take: whatever sleeps, it ends.
        let mut patience =
            Patience::until(Instant::now() + plan.per_cell * 10 + Duration::from_secs(5));
        let per_batch = warm_up(operation.as_mut(), plan.per_cell / 5, &mut patience)?;

        let (mut batches, mut ops) = (Vec::new(), 0_u64);
        let waits = patience.waits;
        let (softirq, mine) = (ksoftirqd.0.read(), thread.read());
        let start = Instant::now();
        while start.elapsed() < plan.per_cell || batches.len() < 3 {
            let before = plan.clock.now()?;
            for _ in 0..per_batch {
                operation.once(&mut patience)?;
            }
            batches.push(per_op(plan.clock.now()? - before, per_batch));
            ops += per_batch;
            sys::check_interrupt()?;
        }
        let elapsed = start.elapsed().as_secs_f64();
        let (softirq, mine) = (ksoftirqd.0.since(softirq), thread.since(mine));
        let us = match plan.clock {
            Clock::Cpu => median(&mut batches) + per_op(softirq.ran, ops),
            Clock::Wall => median(&mut batches),
        };
        let (softirq, waited) = (softirq.ran.as_secs_f64(), mine.waited.as_secs_f64());
        let mine = mine.ran.as_secs_f64();
        Ok(Sample {
            round: 0,
            us,
            ops,
            unseen: (1.0 - (mine + waited) / elapsed).max(0.0),
            ksoftirqd: softirq / (mine + softirq),
            waits: patience.waits - waits,
        })
    })?
}

/// Fills caches, opens TCP's window, and finds how many operations make a batch.
fn warm_up(op: &mut dyn Operation, time: Duration, patience: &mut Patience) -> Result<u64> {
    let start = Instant::now();
    let mut ops = 0_u32;
    while start.elapsed() < time || ops < 10 {
        op.once(patience)?;
        ops += 1;
    }
    let each = start.elapsed() / ops;
    let per_batch = BATCH.as_nanos() / each.as_nanos().max(1);
    Ok(u64::try_from(per_batch).unwrap_or(1).max(1))
}

impl Clock {
    pub(crate) fn now(self) -> Result<Duration> {
        time(match self {
            Self::Cpu => ClockId::CLOCK_THREAD_CPUTIME_ID,
            Self::Wall => ClockId::CLOCK_MONOTONIC,
        })
    }
}

pub(crate) fn time(clock: ClockId) -> Result<Duration> {
    clock_gettime(clock)
        .map(Duration::from)
        .map_err(Error::sys("clock_gettime"))
}

/// Microseconds for each.
#[expect(clippy::cast_precision_loss, reason = "counts stay far below 2^52")]
pub(crate) fn per_op(time: Duration, ops: u64) -> f64 {
    time.as_secs_f64() * 1e6 / ops.max(1) as f64
}

/// The middle value; the mean of the middle two. NaN of nothing.
pub(crate) fn median(values: &mut [f64]) -> f64 {
    values.sort_by(f64::total_cmp);
    let middle = values.len() / 2;
    match (values.get(middle.wrapping_sub(1)), values.get(middle)) {
        (Some(low), Some(high)) if values.len().is_multiple_of(2) => low.midpoint(*high),
        (_, Some(high)) => *high,
        (_, None) => f64::NAN,
    }
}

/// The kernel thread that takes over when softirqs keep a CPU for too long. What it does for our
/// packets is our cost, and on a CPU that nobody else sends from, all it does is for our packets.
#[derive(Debug)]
struct Ksoftirqd(SchedStat);

impl Ksoftirqd {
    /// Nothing is read, and nothing added, where the PID namespace hides it.
    fn of(cpu: usize) -> Self {
        let name = format!("ksoftirqd/{cpu}\n");
        let processes = fs::read_dir("/proc").into_iter().flatten().flatten();
        let path = processes
            .map(|entry| entry.path())
            .find(|path| fs::read_to_string(path.join("comm")).is_ok_and(|comm| comm == name));
        Self(SchedStat(
            path.map(|path| path.join("schedstat")).unwrap_or_default(),
        ))
    }
}

/// A `/proc/.../schedstat`.
#[derive(Debug)]
struct SchedStat(PathBuf);

/// Time on a CPU, and time ready to run without one.
#[derive(Debug, Clone, Copy, Default)]
struct Sched {
    ran: Duration,
    waited: Duration,
}

impl SchedStat {
    /// Zero where there is no such file.
    fn read(&self) -> Sched {
        let text = fs::read_to_string(&self.0).unwrap_or_default();
        let mut ns = text
            .split(' ')
            .map(|ns| Duration::from_nanos(ns.parse().unwrap_or(0)));
        Sched {
            ran: ns.next().unwrap_or_default(),
            waited: ns.next().unwrap_or_default(),
        }
    }

    fn since(&self, before: Sched) -> Sched {
        let now = self.read();
        Sched {
            ran: now.ran.saturating_sub(before.ran),
            waited: now.waited.saturating_sub(before.waited),
        }
    }
}

/// Waits until the kernel's random numbers are seeded. Until then, which in a virtual machine can
/// be for long after boot, each costs a hash, and a TCP connection, which takes several, is 40 to
/// 50 % dearer.
pub(crate) fn settle_random() -> Result<()> {
    // As a command, because it has a time limit; a read of this file has none.
    run("head", &["-c1", "/dev/random"])
}

/// The CPU asked for, else the last one allowed: the first ones get most interrupts.
pub(crate) fn choose_cpu(asked: Option<usize>) -> Result<usize> {
    let allowed = sched_getaffinity(Pid::from_raw(0)).map_err(Error::sys("sched_getaffinity"))?;
    let may = |cpu: usize| allowed.is_set(cpu).unwrap_or(false);
    match asked {
        Some(cpu) if may(cpu) => Ok(cpu),
        Some(cpu) => Err(Error::BadCpu { cpu }),
        None => Ok((0..CpuSet::count())
            .rev()
            .find(|&cpu| may(cpu))
            .unwrap_or(0)),
    }
}

pub(crate) fn pin(cpu: usize) -> Result<()> {
    let mut set = CpuSet::new();
    set.set(cpu).map_err(Error::sys("CPU_SET"))?;
    sched_setaffinity(Pid::from_raw(0), &set).map_err(Error::sys("sched_setaffinity"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_median_is_the_middle() {
        assert!((median(&mut [3.0, 1.0, 2.0]) - 2.0).abs() < 1e-9);
        assert!((median(&mut [4.0, 1.0, 2.0, 3.0]) - 2.5).abs() < 1e-9);
        assert!((median(&mut [7.0]) - 7.0).abs() < 1e-9);
        assert!(median(&mut []).is_nan());
    }
}
