//! The agent: reconciles whenever netlink says that something happened.
//!
//! It owns nothing. Killed, frames go on as before, and only what changes meanwhile waits for the
//! next agent or the next call.
//!
//! It must not keep the parents' network namespace alive: a container that is gone would leave its
//! namespace, and with it our devices, behind. A process in a namespace keeps it alive, and so does
//! a netlink socket in it. So the agent lives in a fresh, empty namespace of its own, and gives the
//! parents' namespace, and through it those of the devices, ids there: with
//! `NETLINK_LISTEN_ALL_NSID` its socket hears of what happens in every namespace that has an id. To
//! reconcile it enters the parents' namespace, by whatever handle it can find, and leaves again.
//!
//! ```text
//! poll ─► drain all events ─┬─► a device's ─► enter, look at it alone (`quick`), leave ─► poll
//!                           └─► any other that matters ─► give ids ─► enter, reconcile, leave
//!                                                              ─► give ids ─► poll
//! ```
//!
//! What happens in one namespace delays the others, but does not stop them. A device is looked at by
//! itself every `PACE` at most, more rarely the more addresses it has, and those with thousands one at
//! a time, after the others. Whole looks that events ask for take about half of the time at most
//! (`Pace`), and in the rest there are short ones. The delay is a short look at each device that has
//! changed, or a whole look, and that takes the longer the more devices, routes and addresses there are.
//!
//! What the guests behind taps say of their addresses comes by another way than netlink, and is followed
//! like it (`learn`).
//!
//! Ids first: what happens in a namespace after it got one is heard, and what happened before is
//! seen by the look that follows. And once more after it: a device that went to another namespace
//! meanwhile is known by where it is now, and looked at again.
//!
//! Limits: a namespace that only a file descriptor of another process or a socket keeps alive
//! cannot be entered. Linux 6.1 is the oldest kernel it was seen on.

use std::collections::{BTreeMap, BTreeSet};
use std::io::Write as _;
use std::os::fd::AsFd as _;
use std::time::{Duration, Instant};

use ipvlan_datapath_bpf::Port;
use ipvlan_netlink::{Mac, Monitor, NetNs, Netlink, Nsid, netns};
use nix::errno::Errno;
use nix::sched::{CloneFlags, unshare};

mod events;
mod pace;
mod start;

use self::events::Wake;
use self::pace::Pace;
use self::start::READY;
pub(crate) use self::start::start;
use crate::announce::Announcer;
use crate::error::Error;
use crate::handover::{Away, Heard};
use crate::learn::Ears;
use crate::observe::Memory;
use crate::quick::look_at;
use crate::reconcile::{LOST, reconcile_from};
use crate::store::Store;
use crate::takeover::{Ended, take_over_alone};

/// After a failure, how long until the next try when no event comes before; doubled each time.
const RETRY: Duration = Duration::from_secs(1);
const RETRY_MAX: Duration = Duration::from_secs(60);
/// The same where the reason is as good as gone.
const SOON: Duration = Duration::from_millis(50);
/// How often at most one device is looked at by itself.
const PACE: Duration = Duration::from_millis(5);
/// It is left alone for so much longer for each of so many addresses that it has.
const PORTION: usize = 512;
/// When a whole look follows short ones.
const RECHECK: Duration = Duration::from_secs(1);
/// How an agent is to run.
#[derive(Clone, Copy, Debug)]
pub struct Options {
    /// Stay in the foreground, log to stderr, wait for devices even when there are none (systemd).
    /// Otherwise: end with the last device.
    pub foreground: bool,
}

/// Runs the agent for the calling thread's namespace until it has nothing left to do.
///
/// # Errors
///
/// See [`Error`]; [`Error::AgentRuns`] when there is one already.
pub fn run(options: Options) -> Result<(), Error> {
    let store = Store::current()?;
    let home = NetNs::current()?;
    let cookie = home.cookie()?;
    // Before: who runs the devices of an older version is in the way.
    let _: Ended = take_over_alone(&store)?;
    let lock = store.become_agent()?.ok_or(Error::AgentRuns)?;
    if !options.foreground {
        // Fails for the leader of a process group, who was not started by us, and needs no session.
        let _: Result<_, Errno> = nix::unistd::setsid();
    }
    unshare(CloneFlags::CLONE_NEWNET)
        .map_err(|errno| Error::Permission(format!("cannot make a network namespace: {errno}")))?;
    let mut agent = Agent {
        monitor: Monitor::open()?,
        nl: Netlink::open()?,
        store,
        parents: Nsid(0),
        devices: BTreeMap::new(),
        memory: Memory::default(),
        finder: netns::Finder::default(),
        announcer: Announcer::default(),
        ears: Ears::default(),
        heard: Heard {
            arrivals: true,
            ..Heard::default()
        },
        complaint: None,
        retry: RETRY,
        lost: None,
        who: BTreeMap::new(),
        born: Instant::now(),
        rests: BTreeMap::new(),
        slow: BTreeSet::new(),
        recheck: None,
        pace: Pace::new(Instant::now()),
        unseen: 0,
    };
    agent.parents = agent.nl.assign_nsid(home.as_fd())?;
    let first = agent.look(&home);
    if let Look::Outdated(error) = first {
        return Err(error);
    }
    // Nothing of ours keeps the namespace alive from here on.
    drop(home);
    if !options.foreground {
        // Whoever started us waits for this line. If he is gone we go on all the same.
        let mut stdout = std::io::stdout();
        let _: std::io::Result<()> = writeln!(stdout, "{READY}").and_then(|()| stdout.flush());
    }
    log::info!("following the devices of network namespace {:x}", cookie);
    agent.follow(first, options, lock)
}

struct Agent {
    monitor: Monitor,
    /// In the agent's own namespace.
    nl: Netlink,
    store: Store,
    /// Id of the parents' namespace, in the agent's own.
    parents: Nsid,
    /// Ids, in the agent's own, of the namespaces that devices live in; by host end.
    devices: BTreeMap<u32, Nsid>,
    /// What the last look saw.
    memory: Memory,
    finder: netns::Finder,
    heard: Heard,
    announcer: Announcer,
    /// What the guests behind taps say.
    ears: Ears,
    /// What was complained of last, until all is well again.
    complaint: Option<String>,
    /// How long until the next try, should this one fail.
    retry: Duration,
    /// Since when a parent is where nobody finds it.
    lost: Option<Instant>,
    /// Host ends, by place and index of their devices.
    who: BTreeMap<(Nsid, u32), u32>,
    /// Long ago.
    born: Instant,
    /// Until when devices that were looked at by themselves are left alone.
    rests: BTreeMap<u32, Instant>,
    /// Host ends of devices that take long to look at: they have thousands of addresses.
    slow: BTreeSet<u32>,
    /// When a whole look comes though nothing asks for it.
    recheck: Option<Instant>,
    /// When the next whole look may be, so that devices are looked at in between.
    pace: Pace,
    /// How many devices were not found where their host ends say they are.
    unseen: usize,
}

/// What one look came to.
enum Look {
    /// All is as it should be, and there are devices.
    Done,
    /// The same, and there are none.
    Idle,
    /// Something failed, or could not be looked at; it was logged.
    Again,
    /// Something is not yet to be told.
    Soon,
    /// All devices are a newer version's, and so is the agent to be.
    Outdated(Error),
}

impl Agent {
    fn follow(
        &mut self,
        mut look: Look,
        options: Options,
        mut lock: nix::fcntl::Flock<std::fs::File>,
    ) -> Result<(), Error> {
        loop {
            let again = match look {
                Look::Done => None,
                Look::Again => Some(self.back_off()),
                Look::Soon => Some(SOON),
                Look::Outdated(error) => return Err(error),
                Look::Idle if options.foreground => None,
                Look::Idle => match self.try_to_end(lock)? {
                    None => return Ok(()),
                    Some(held) => {
                        lock = held;
                        Some(self.back_off())
                    }
                },
            };
            let complained = again.is_some();
            let again = again.map(|after| Instant::now() + after);
            if self.wait_for_work(again)? == Work::Bury {
                log::info!("the network namespace of the parents is gone");
                return self.bury(lock);
            }
            look = match self.finder.find(&mut self.nl, self.parents)? {
                Some(home) => self.look(&home),
                None => {
                    // A namespace that dies cannot be entered either, and is soon gone.
                    if complained {
                        let what = "the network namespace of the parents cannot be entered";
                        self.complain(what.to_owned());
                    }
                    Look::Again
                }
            };
        }
    }

    /// Does what needs no whole look, until one is due.
    fn wait_for_work(&mut self, again: Option<Instant>) -> Result<Work, Error> {
        let (mut whole, mut short) = (false, true);
        loop {
            let quick = self.next_quick_look().filter(|_| short);
            let deadlines = [
                again,
                self.announcer.due(),
                quick,
                self.recheck,
                whole.then_some(self.pace.not_before),
            ];
            match self.wait(deadlines.into_iter().flatten().min())? {
                Wake::Dead => return Ok(Work::Bury),
                Wake::Parents => whole = true,
                Wake::Nothing => {}
            }
            let now = Instant::now();
            let is_due = |then: Option<Instant>| then.is_some_and(|then| then <= now);
            if is_due(self.announcer.due()) {
                self.announce()?;
            }
            let quick = self.next_quick_look().filter(|_| short);
            if is_due(quick) && !self.quick_look()? {
                // And not again before it.
                (whole, short) = (true, false);
            }
            if whole && self.pace.not_before <= now {
                self.retry = RETRY;
                return Ok(Work::Look);
            }
            if is_due(again) {
                self.memory.forget();
                return Ok(Work::Look);
            }
            if is_due(self.recheck) {
                return Ok(Work::Look);
            }
        }
    }

    /// When the first of the devices to which something has happened may be looked at.
    fn next_quick_look(&self) -> Option<Instant> {
        let changed = self.memory.changed.as_ref()?;
        let may = |host: &u32| self.rests.get(host).copied().unwrap_or(self.born);
        changed.iter().map(may).min()
    }

    /// Looks at the devices to which something has happened, but at none of them too often, and at
    /// those that take long one at a time, after the others. False: it takes a whole look.
    fn quick_look(&mut self) -> Result<bool, Error> {
        let start = Instant::now();
        self.rests.retain(|_, then| *then > start);
        let Some(changed) = &self.memory.changed else {
            return Ok(false);
        };
        let (slow, fast): (Vec<u32>, Vec<u32>) = changed
            .iter()
            .filter(|host| !self.rests.contains_key(host))
            .partition(|host| self.slow.contains(host));
        let hosts: BTreeSet<u32> = match fast[..] {
            [] => slow.into_iter().take(1).collect(),
            _ => fast.into_iter().collect(),
        };
        let Some(home) = self.finder.find(&mut self.nl, self.parents)? else {
            return Ok(false);
        };
        let (store, memory) = (&self.store, &mut self.memory);
        let done = home.enter(|| -> Result<bool, Error> {
            let Some(locked) = store.lock_existing()? else {
                return Ok(false);
            };
            look_at(&mut Netlink::open()?, &locked, memory, &hosts)
        })?;
        match done {
            Ok(true) => {}
            Ok(false) => return Ok(false),
            Err(error) => {
                // A whole look will tell whether it is worth a word.
                log::debug!("{error}");
                return Ok(false);
            }
        }
        let now = Instant::now();
        for host in hosts {
            if let Some(changed) = &mut self.memory.changed {
                let _: bool = changed.remove(&host);
            }
            // By what there is to look at, not by the time it took, which others may have used.
            let portions = self.addresses(host) / PORTION;
            let rest = PACE * u32::try_from(1 + portions).unwrap_or(u32::MAX);
            let _: Option<Instant> = self.rests.insert(host, now + rest);
            let _: bool = match portions {
                0 => self.slow.remove(&host),
                _ => self.slow.insert(host),
            };
        }
        self.recheck = self.recheck.or(Some(now + RECHECK));
        Ok(true)
    }

    /// How many addresses a device has.
    fn addresses(&self, host: u32) -> usize {
        let mut ports = self.memory.world.ports.values();
        ports
            .find_map(|port| port.devs.get(&host))
            .map_or(0, |dev| dev.addresses.len())
    }

    /// How long until the next try.
    fn back_off(&mut self) -> Duration {
        let now = self.retry;
        self.retry = (now * 2).min(RETRY_MAX);
        now
    }

    /// Says what is wrong, but not every time.
    fn complain(&mut self, what: String) {
        if self.complaint.as_ref() != Some(&what) {
            log::warn!("{what}");
            self.complaint = Some(what);
        }
    }

    /// Gives ids, then reconciles.
    fn look(&mut self, home: &NetNs) -> Look {
        let start = Instant::now();
        // These are not waited for; they come by themselves.
        let mut slow = BTreeSet::new();
        if let Some(changed) = &mut self.memory.changed {
            slow = changed.intersection(&self.slow).copied().collect();
            changed.retain(|host| !slow.contains(host));
        }
        let look = self.whole_look(home);
        if let Some(changed) = &mut self.memory.changed {
            changed.extend(slow);
        }
        let end = Instant::now();
        self.pace.looked(start, end);
        // One that was not found was perhaps on its way to another namespace.
        let devs = self
            .memory
            .world
            .ports
            .values()
            .flat_map(|port| port.devs.values());
        let unseen = devs
            .filter(|dev| dev.host.is_some() && dev.link.is_none())
            .count();
        let wait = if self.unseen == unseen { RECHECK } else { SOON };
        self.recheck = (unseen > 0).then_some(end + wait);
        self.unseen = unseen;
        self.know_devices();
        self.ears.attend(&self.store, &self.memory.world);
        look
    }

    /// Who is who of those that events tell of.
    fn know_devices(&mut self) {
        self.who.clear();
        for port in self.memory.world.ports.values() {
            for (host, dev) in &port.devs {
                let place = self.devices.get(host).copied().unwrap_or(self.parents);
                if let Some(link) = &dev.link {
                    let _: Option<u32> = self.who.insert((place, link.index), *host);
                }
            }
        }
    }

    fn whole_look(&mut self, home: &NetNs) -> Look {
        let looked = self.give_ids().and_then(|()| self.reconcile(home));
        self.catch_up();
        match looked {
            Ok((look @ Look::Outdated(_), _)) => look,
            Ok((look, Away::None)) => {
                self.complaint = None;
                self.retry = RETRY;
                self.lost = None;
                look
            }
            Ok((_, Away::Perhaps)) => Look::Soon,
            Ok((_, Away::Lost)) => {
                let since = *self.lost.get_or_insert_with(Instant::now);
                // One that goes on and on is not lost for that.
                if since.elapsed() < RETRY {
                    return Look::Soon;
                }
                self.complain(LOST.to_owned());
                Look::Again
            }
            Err(error) => {
                self.complain(error.to_string());
                Look::Again
            }
        }
    }

    /// A dump of the host ends, asked for from here, gives an id here to each namespace that holds
    /// the other end.
    fn give_ids(&mut self) -> Result<(), Error> {
        let links = self.nl.links(Some(self.parents))?;
        self.devices = links
            .iter()
            .filter_map(|link| Some((link.index, link.link_nsid?)))
            .collect();
        Ok(())
    }

    /// Devices that went to another namespace during the look were looked at there, or not at all, and
    /// what happened to them there was perhaps not heard: they are looked at again.
    fn catch_up(&mut self) {
        let before = self.devices.clone();
        if let Err(error) = self.give_ids() {
            // Who moved is not known, so all are looked at, with the next event at the latest.
            log::debug!("{error}");
            self.memory.forget();
            return;
        }
        if let Some(changed) = &mut self.memory.changed {
            let ports = self.memory.world.ports.values();
            let hosts = ports.flat_map(|port| port.devs.keys());
            changed.extend(hosts.filter(|host| before.get(host) != self.devices.get(host)));
        }
    }

    fn reconcile(&mut self, home: &NetNs) -> Result<(Look, Away), Error> {
        let (store, memory, heard) = (&self.store, &mut self.memory, &mut self.heard);
        let macs: BTreeMap<u32, Mac> = memory
            .world
            .ports
            .iter()
            .map(|(parent, view)| (*parent, view.entry.mac))
            .collect();
        let found = home.enter(|| {
            let Some(locked) = store.lock_existing()? else {
                return Ok((Look::Idle, Away::None));
            };
            let away = reconcile_from(&mut Netlink::open()?, &locked, memory, heard)?;
            let look = match memory.world.ports.is_empty() {
                true => store
                    .refuse_foreign()
                    .map_or_else(Look::Outdated, |()| Look::Idle),
                false => Look::Done,
            };
            Ok((look, away))
        })?;
        self.announcer.changes(&macs, &self.memory.world);
        found
    }

    /// Sends a portion of what is to be announced.
    fn announce(&mut self) -> Result<(), Error> {
        let Some(home) = self.finder.find(&mut self.nl, self.parents)? else {
            self.announcer = Announcer::default();
            return Ok(());
        };
        let (announcer, world) = (&mut self.announcer, &self.memory.world);
        home.enter(|| {
            announcer.portion(&mut Netlink::open()?, world);
            Ok(())
        })?
    }

    /// Ends if there is still nothing to do once nobody can start anything.
    fn try_to_end(
        &self,
        lock: nix::fcntl::Flock<std::fs::File>,
    ) -> Result<Option<nix::fcntl::Flock<std::fs::File>>, Error> {
        match self.store.lock_existing()? {
            None => Ok(None),
            Some(locked) if locked.is_empty() => {
                locked.release_with_agent(lock);
                Ok(None)
            }
            Some(_) => Ok(Some(lock)),
        }
    }

    /// The parents' namespace died, and all links with it.
    fn bury(&self, lock: nix::fcntl::Flock<std::fs::File>) -> Result<(), Error> {
        if let Some(locked) = self.store.lock_existing()? {
            locked.remove_abandoned()?;
            for parent in self.store.ports() {
                Port::remove_rest(&self.store.port_dir(parent))?;
            }
            for which in self.store.travelling() {
                Port::remove_rest(&self.store.traveller_dir(which))?;
            }
            locked.release_with_agent(lock);
        }
        Ok(())
    }
}

/// What is to be done.
#[derive(PartialEq, Eq)]
enum Work {
    Look,
    Bury,
}
