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
//! poll ─► drain all events ─► one that matters? ─► give ids ─► enter, reconcile, leave ─► poll
//! ```
//!
//! Ids first: what happens in a namespace after it got one is heard, and what happened before is
//! seen by the look that follows.
//!
//! Limits: a namespace that only a file descriptor of another process or a socket keeps alive
//! cannot be entered. Linux 6.1 is the oldest kernel it was seen on.

use std::collections::{BTreeMap, BTreeSet};
use std::io::Write as _;
use std::os::fd::AsFd as _;
use std::os::unix::process::CommandExt as _;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;

use ipvlan_netlink::{Event, Monitor, NetNs, Netlink, Nsid, netns};
use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sched::{CloneFlags, unshare};

use crate::error::Error;
use crate::observe::Memory;
use crate::reconcile::reconcile_from;
use crate::store::Store;

/// After a failure, how long until the next try when no event comes before, ms.
const RETRY: u16 = 1000;
/// How long a starter waits for its agent.
const START: Duration = Duration::from_secs(10);

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
        complaint: None,
    };
    agent.parents = agent.nl.assign_nsid(home.as_fd())?;
    let first = agent.look(&home);
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

const READY: &str = "ready";

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
    /// What was complained of last, until all is well again.
    complaint: Option<String>,
}

/// What one look came to.
enum Look {
    /// All is as it should be, and there are devices.
    Done,
    /// The same, and there are none.
    Idle,
    /// Something failed, or could not be looked at; it was logged.
    Again,
}

impl Agent {
    fn follow(
        &mut self,
        mut look: Look,
        options: Options,
        mut lock: nix::fcntl::Flock<std::fs::File>,
    ) -> Result<(), Error> {
        loop {
            let complained = match look {
                Look::Done => false,
                Look::Again => true,
                Look::Idle if options.foreground => false,
                Look::Idle => match self.try_to_end(lock)? {
                    None => return Ok(()),
                    Some(held) => {
                        lock = held;
                        true
                    }
                },
            };
            loop {
                let timeout = if complained {
                    PollTimeout::from(RETRY)
                } else {
                    PollTimeout::NONE
                };
                match self.wait(timeout)? {
                    Wake::Parents | Wake::Timeout => break,
                    Wake::Nothing => {}
                    Wake::Dead => {
                        log::info!("the network namespace of the parents is gone");
                        return self.bury(lock);
                    }
                }
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

    /// Says what is wrong, but not every second.
    fn complain(&mut self, what: String) {
        if self.complaint.as_ref() != Some(&what) {
            log::warn!("{what}");
            self.complaint = Some(what);
        }
    }

    /// Gives ids, then reconciles.
    fn look(&mut self, home: &NetNs) -> Look {
        match self.give_ids().and_then(|()| self.reconcile(home)) {
            Ok(look) => {
                self.complaint = None;
                look
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

    fn reconcile(&mut self, home: &NetNs) -> Result<Look, Error> {
        let (store, memory) = (&self.store, &mut self.memory);
        home.enter(|| {
            let Some(locked) = store.lock_existing()? else {
                return Ok(Look::Idle);
            };
            reconcile_from(&mut Netlink::open()?, &locked, memory)?;
            Ok(if memory.world.ports.is_empty() {
                Look::Idle
            } else {
                Look::Done
            })
        })?
    }

    fn wait(&mut self, timeout: PollTimeout) -> Result<Wake, Error> {
        let mut fds = [PollFd::new(self.monitor.as_fd(), PollFlags::POLLIN)];
        match poll(&mut fds, timeout) {
            Ok(0) => {
                self.memory.forget();
                return Ok(Wake::Timeout);
            }
            Ok(_) | Err(Errno::EINTR) => {}
            Err(errno) => {
                return Err(crate::store::io_error(
                    "poll",
                    "netlink".as_ref(),
                    errno.into(),
                ));
            }
        }
        let mut wake = Wake::Nothing;
        for event in self.monitor.drain()? {
            match event {
                Event::Overrun => {
                    self.memory.forget();
                    wake = Wake::Parents;
                }
                Event::NsidRemoved(id) if id == self.parents => return Ok(Wake::Dead),
                Event::NsidRemoved(_) | Event::NsidAdded(_) => {}
                Event::Link {
                    ns: Some(ns),
                    index,
                    ..
                }
                | Event::Address {
                    ns: Some(ns),
                    index,
                    ..
                } => {
                    if self.concerns(ns, index) {
                        wake = Wake::Parents;
                    }
                }
                Event::Link { ns: None, .. } | Event::Address { ns: None, .. } => {}
            }
        }
        Ok(wake)
    }

    /// Whether something that happened to an interface concerns us; notes which devices are to be
    /// looked at again.
    fn concerns(&mut self, ns: Nsid, index: u32) -> bool {
        let here = ns == self.parents;
        let world = &self.memory.world;
        let places = &self.devices;
        let hosts: BTreeSet<u32> = world
            .ports
            .values()
            .flat_map(|port| &port.devs)
            .filter(|(host, dev)| match places.get(host) {
                Some(place) => *place == ns || (here && **host == index),
                // It lives where its parent does: this may be its host end, or itself.
                None => here && (**host == index || dev.place.is_none()),
            })
            .map(|(host, _)| *host)
            .collect();
        let concerns = here || !hosts.is_empty() || places.values().any(|place| *place == ns);
        if let Some(changed) = &mut self.memory.changed {
            changed.extend(hosts);
        }
        concerns
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
                self.store.port(parent)?.remove(None)?;
            }
            locked.release_with_agent(lock);
        }
        Ok(())
    }
}

/// Why the agent woke up.
enum Wake {
    /// Something changed in a namespace that concerns us.
    Parents,
    /// Something changed elsewhere.
    Nothing,
    /// Nothing changed, but something is to be tried again.
    Timeout,
    /// The parents' namespace is gone.
    Dead,
}

/// Starts an agent for the calling thread's namespace as a process of its own, and waits until it
/// listens.
pub(crate) fn start() -> Result<(), Error> {
    let failed = |what: &dyn std::fmt::Display| Error::Agent(what.to_string());
    // By its path, so that it goes by its name in `ps`; by the file itself where the path is gone.
    let exe = std::env::current_exe().ok().filter(|path| path.exists());
    let mut child = Command::new(exe.as_deref().unwrap_or(Path::new("/proc/self/exe")))
        .arg0("ipvlan")
        .arg("agent")
        .current_dir("/")
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .map_err(|error| failed(&error))?;
    let Some(stdout) = child.stdout.take() else {
        return Err(failed(&"it has no output"));
    };
    let mut fds = [PollFd::new(stdout.as_fd(), PollFlags::POLLIN)];
    let timeout = PollTimeout::try_from(START).unwrap_or(PollTimeout::NONE);
    match poll(&mut fds, timeout) {
        Ok(0) => return Err(failed(&"it does not answer")),
        Ok(_) => {}
        Err(errno) => return Err(failed(&errno)),
    }
    let mut line = String::new();
    let mut reader = std::io::BufReader::new(stdout);
    match std::io::BufRead::read_line(&mut reader, &mut line) {
        Ok(_) if line.trim_end() == READY => Ok(()),
        Ok(_) => match child.wait() {
            // Somebody else's agent was faster.
            Ok(_) if Store::current()?.has_agent() => Ok(()),
            Ok(status) => Err(failed(&format!("it ended with {status}"))),
            Err(error) => Err(failed(&error)),
        },
        Err(error) => Err(failed(&error)),
    }
}
