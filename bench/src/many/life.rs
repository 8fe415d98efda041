//! A device's life: made, configured, reached, deleted; one process or one frame at a time.

use std::net::Ipv4Addr;
use std::time::{Duration, Instant};

use nix::sys::resource::{UsageWho, getrusage};
use nix::sys::time::TimeVal;

use crate::error::{Error, Result};
use crate::many::agent::{self, Agent};
use crate::many::changes::Changes;
use crate::many::net::{Kind, Parent};
use crate::run::{ip_batch, run};
use crate::sys;

/// One kind in one round.
#[derive(Debug)]
pub(super) struct Life {
    pub(super) kind: Kind,
    pub(super) round: u32,
    pub(super) devices: usize,
    pub(super) created: Series,
    pub(super) followed: Series,
    /// How many answered an ARP request from the LAN.
    pub(super) arp: usize,
    /// How many answered a ping from the LAN.
    pub(super) ping: usize,
    pub(super) changed: Option<Changes>,
    pub(super) deleted: Option<Deleted>,
}

/// The same thing done to one device after the other.
#[derive(Debug)]
pub(super) struct Series {
    /// For each device, ms.
    pub(super) each: Vec<f64>,
    /// From the first to the last, ms.
    pub(super) wall: f64,
    /// CPU time of the processes, of all devices together, ms.
    pub(super) processes: f64,
    /// The same of the agent, until it rests.
    pub(super) agent: Option<f64>,
}

#[derive(Debug)]
pub(super) struct Deleted {
    pub(super) series: Series,
    /// From the end of the last deletion until directory and agent are gone, ms.
    pub(super) left: Option<f64>,
}

impl Life {
    /// What is to be said of it, if not every device could be reached.
    pub(super) fn failure(&self) -> Option<String> {
        let all = self.devices;
        (self.arp < all || self.ping < all).then(|| {
            format!(
                "unreachable: ARP answered by {} of {all}, ping by {} of {all}",
                self.arp, self.ping
            )
        })
    }
}

/// The agent is at rest when it has not run for so long: after many events, and after one.
const REST: Duration = Duration::from_millis(100);
const SHORT_REST: Duration = Duration::from_millis(10);

/// How long an answer to ARP may take after the address was added.
const FOLLOW_LIMIT: Duration = Duration::from_secs(5);
/// After so many that took longer nobody asks any more.
const DEAF_MAX: u32 = 3;
/// How long all of them may take to answer in the end.
const REACH_LIMIT: Duration = Duration::from_secs(10);
/// How long what the devices leave behind may stay.
const LEFT_LIMIT: Duration = Duration::from_secs(60);

impl Parent {
    /// Makes all devices, configures and reaches them.
    pub(super) fn live(&mut self, round: u32) -> Result<Life> {
        let created = self.create()?;
        let followed = self.configure()?;
        let addresses = self.addresses();
        let neighbours = self.wire.ask_all(&addresses, REACH_LIMIT)?;
        Ok(Life {
            kind: self.kind,
            round,
            devices: addresses.len(),
            created,
            followed,
            arp: neighbours.len(),
            ping: self.wire.ping_all(&neighbours, REACH_LIMIT)?,
            changed: self.changes()?,
            deleted: None,
        })
    }

    fn create(&self) -> Result<Series> {
        let clock = Stopwatch::start(None)?;
        let mut each = Vec::new();
        for (i, space) in self.spaces().iter().enumerate() {
            sys::check_interrupt()?;
            let start = Instant::now();
            self.add(i, space)?;
            each.push(ms(start.elapsed()));
        }
        let (wall, processes) = clock.read()?;
        self.settle(REST)?;
        // It began with the first device: all it has used up is for these.
        let agent = self.agent().and_then(Agent::cpu).map(ms);
        Ok(Series {
            each,
            wall,
            processes,
            agent,
        })
    }

    /// Brings all up, then gives one after the other its address: how long from the end of `ip
    /// address add` until the LAN is answered.
    fn configure(&mut self) -> Result<Series> {
        for (i, space) in self.spaces().iter().enumerate() {
            sys::check_interrupt()?;
            ip_batch(space, &format!("link set dev{i} up\n"))?;
        }
        self.settle(REST)?;
        let clock = Stopwatch::start(self.agent())?;
        let (mut each, mut deaf) = (Vec::new(), 0);
        let addresses = self.addresses();
        let spaces: Vec<String> = self.spaces().to_vec();
        for (i, (space, &address)) in spaces.iter().zip(&addresses).enumerate() {
            sys::check_interrupt()?;
            ip_batch(space, &format!("address add {address}/16 dev dev{i}\n"))?;
            let start = Instant::now();
            match self.hear(address, deaf)? {
                true => each.push(ms(start.elapsed())),
                false => deaf += 1,
            }
            // One at a time: the next must not wait for what this one set off.
            self.settle(SHORT_REST)?;
        }
        let (wall, processes) = clock.read()?;
        Ok(Series {
            each,
            wall,
            processes,
            agent: clock.agent(),
        })
    }

    fn hear(&mut self, address: Ipv4Addr, deaf: u32) -> Result<bool> {
        Ok(deaf < DEAF_MAX && self.wire.ask_until(address, FOLLOW_LIMIT)?)
    }

    /// Deletes all devices from inside, then waits until nothing is left.
    pub(super) fn delete(&mut self) -> Result<Deleted> {
        let clock = Stopwatch::start(self.agent())?;
        let (mut each, mut agent) = (Vec::new(), None);
        for (i, space) in self.spaces().iter().enumerate() {
            sys::check_interrupt()?;
            let device = format!("dev{i}");
            let start = Instant::now();
            run("ip", &["-n", space, "link", "del", &device])?;
            each.push(ms(start.elapsed()));
            // It may end before we get to look again; what it did last is then not in it.
            agent = clock.agent().or(agent);
        }
        let (wall, processes) = clock.read()?;
        let start = Instant::now();
        let left = match self.store() {
            None => None,
            Some(store) => {
                agent::end(store, clock.agent, LEFT_LIMIT)?;
                Some(ms(start.elapsed()))
            }
        };
        Ok(Deleted {
            series: Series {
                each,
                wall,
                processes,
                agent,
            },
            left,
        })
    }
}

/// Elapsed time, the CPU time of the processes that we run, and the agent's.
#[derive(Debug)]
struct Stopwatch {
    start: Instant,
    children: Duration,
    agent: Option<Agent>,
    agent_before: Duration,
}

impl Stopwatch {
    fn start(agent: Option<Agent>) -> Result<Self> {
        Ok(Self {
            agent,
            agent_before: agent.and_then(Agent::cpu).unwrap_or_default(),
            children: children()?,
            start: Instant::now(),
        })
    }

    /// Elapsed time and the processes' CPU time, ms.
    fn read(&self) -> Result<(f64, f64)> {
        let wall = ms(self.start.elapsed());
        Ok((wall, ms(children()?.saturating_sub(self.children))))
    }

    fn agent(&self) -> Option<f64> {
        let now = self.agent?.cpu()?;
        Some(ms(now.saturating_sub(self.agent_before)))
    }
}

/// CPU time of all processes that we have run and waited for. The agent is none of them.
fn children() -> Result<Duration> {
    let usage = getrusage(UsageWho::RUSAGE_CHILDREN).map_err(Error::sys("getrusage"))?;
    Ok(duration(usage.user_time()) + duration(usage.system_time()))
}

fn duration(time: TimeVal) -> Duration {
    let micros = |part: i64| u64::try_from(part).unwrap_or(0);
    Duration::from_secs(micros(time.tv_sec())) + Duration::from_micros(micros(time.tv_usec()))
}

pub(super) fn ms(time: Duration) -> f64 {
    time.as_secs_f64() * 1e3
}
