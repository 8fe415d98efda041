//! What an ARP request from the LAN costs: the request, its way to the device, and the answer.
//!
//! As with the other measurement one thread on one CPU sends and receives, and what the frame sets
//! off is charged to it, as far as it happens before the answer. macvlan hands a broadcast to a
//! kworker, which gives each device a copy; so what the kernel's own threads used up meanwhile is
//! added, on all CPUs. Where other programs keep those busy the figure holds that too.

use std::collections::HashMap;
use std::fs;
use std::net::Ipv4Addr;
use std::thread;
use std::time::{Duration, Instant};

use crate::args::Clock;
use crate::error::{Error, Result};
use crate::many::Plan;
use crate::many::net::{Kind, Parent};
use crate::many::wire::{Waits, Wire};
use crate::measure::{BATCH, median, per_op, pin, rotated};
use crate::sys;

/// Whom the LAN asks for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Whom {
    /// Always the device that was made last.
    Last,
    /// One after the other, so that each finds its part of the kernel's memory cold.
    Each,
}

impl Whom {
    pub(super) const ALL: [Self; 2] = [Self::Last, Self::Each];

    pub(super) fn about(self) -> &'static str {
        match self {
            Self::Last => "for the last device",
            Self::Each => "for each device in turn",
        }
    }
}

/// One cell in one round; times in microseconds for a request and its answer.
#[derive(Debug, Clone, Copy)]
pub(super) struct Sample {
    pub(super) kind: Kind,
    pub(super) devices: usize,
    /// Whether this is the parent with few devices.
    pub(super) few: bool,
    pub(super) whom: Whom,
    pub(super) round: u32,
    /// CPU time of the thread.
    pub(super) thread: f64,
    /// CPU time of the kernel's threads.
    pub(super) kernel: f64,
    pub(super) ops: u64,
    pub(super) waits: u32,
    pub(super) lost: u32,
}

impl Sample {
    pub(super) fn both(&self) -> f64 {
        self.thread + self.kernel
    }
}

/// Measures all of them; `nets` are pairs of the few and the many.
pub(super) fn round(plan: &Plan, nets: &[&Parent], round: u32) -> Result<Vec<Sample>> {
    // On a thread of its own, which alone is pinned: children inherit it, and no agent is to share
    // the CPU.
    let measured = thread::scope(|scope| {
        let thread = scope.spawn(|| {
            pin(plan.cpu)?;
            let mut samples = Vec::new();
            let numbered: Vec<(usize, &Parent)> = nets.iter().copied().enumerate().collect();
            for whom in Whom::ALL {
                for &(number, net) in rotated(&numbered, round) {
                    sys::check_interrupt()?;
                    let sample = cell(plan, net, whom)?;
                    samples.push(Sample {
                        round,
                        few: number % 2 == 0,
                        ..sample
                    });
                }
            }
            Ok(samples)
        });
        thread.join()
    });
    measured.unwrap_or(Err(Error::Stuck {
        what: "the measuring thread",
    }))
}

fn cell(plan: &Plan, net: &Parent, whom: Whom) -> Result<Sample> {
    let mut addresses = net.addresses();
    let devices = addresses.len();
    if whom == Whom::Last {
        drop(addresses.drain(..devices.saturating_sub(1)));
    }
    let mut asker = Asker {
        wire: &net.wire,
        addresses,
        next: 0,
        waits: Waits::default(),
    };
    let per_batch = asker.warm_up(plan.per_cell / 5)?;
    let waits = std::mem::take(&mut asker.waits);
    let (mut batches, mut ops) = (Vec::new(), 0);
    let kernel = KernelThreads::read();
    let start = Instant::now();
    while start.elapsed() < plan.per_cell || batches.len() < 3 {
        let before = Clock::Cpu.now()?;
        for _ in 0..per_batch {
            asker.once()?;
        }
        batches.push(per_op(Clock::Cpu.now()? - before, per_batch));
        ops += per_batch;
        sys::check_interrupt()?;
    }
    Ok(Sample {
        kind: net.kind,
        devices,
        few: false,
        whom,
        round: 0,
        thread: median(&mut batches),
        kernel: per_op(KernelThreads::read().since(&kernel), ops),
        ops,
        waits: asker.waits.waits,
        lost: waits.lost + asker.waits.lost,
    })
}

struct Asker<'a> {
    wire: &'a Wire,
    addresses: Vec<Ipv4Addr>,
    next: usize,
    waits: Waits,
}

impl Asker<'_> {
    fn once(&mut self) -> Result<()> {
        let Some(&who) = self.addresses.get(self.next) else {
            return Ok(());
        };
        self.next = (self.next + 1) % self.addresses.len();
        self.wire.exchange(who, &mut self.waits)
    }

    /// Fills caches, and finds how many requests make a batch.
    fn warm_up(&mut self, time: Duration) -> Result<u64> {
        let start = Instant::now();
        let mut ops = 0_u32;
        while start.elapsed() < time || ops < 10 {
            self.once()?;
            ops += 1;
        }
        let each = start.elapsed() / ops;
        let per_batch = BATCH.as_nanos() / each.as_nanos().max(1);
        Ok(u64::try_from(per_batch).unwrap_or(1).max(1))
    }
}

/// CPU time of each kworker and ksoftirqd.
struct KernelThreads(HashMap<String, Duration>);

impl KernelThreads {
    /// Empty where the PID namespace hides them.
    fn read() -> Self {
        let processes = fs::read_dir("/proc").into_iter().flatten().flatten();
        let threads = processes.filter_map(|entry| {
            let path = entry.path();
            let comm = fs::read_to_string(path.join("comm")).ok()?;
            if !comm.starts_with("kworker/") && !comm.starts_with("ksoftirqd/") {
                return None;
            }
            let stat = fs::read_to_string(path.join("schedstat")).ok()?;
            let ran = stat.split(' ').next()?.parse().ok()?;
            Some((
                entry.file_name().to_string_lossy().into_owned(),
                Duration::from_nanos(ran),
            ))
        });
        Self(threads.collect())
    }

    /// One that is new has done all its work since.
    fn since(&self, before: &Self) -> Duration {
        let used = |(name, now): (&String, &Duration)| {
            now.saturating_sub(before.0.get(name).copied().unwrap_or_default())
        };
        self.0.iter().map(used).sum()
    }
}

/// Whether the kernel's threads can be seen at all.
pub(super) fn sees_kernel_threads() -> bool {
    !KernelThreads::read().0.is_empty()
}
