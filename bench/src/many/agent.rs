//! The agent of one network namespace, seen from outside: who it is, its CPU time, its end.
//!
//! Several agents may run on a machine. Ours is the process that holds the lock on
//! `/sys/fs/bpf/ipvlan/COOKIE/agent`, where COOKIE is the parents' namespace; `/proc/locks` knows it.

use std::fs;
use std::os::unix::fs::MetadataExt as _;
use std::path::PathBuf;
use std::thread;
use std::time::{Duration, Instant};

use nix::sys::stat::{major, minor};
use nix::time::clock_getcpuclockid;
use nix::unistd::Pid;

use crate::error::{Error, Result};
use crate::measure::time;
use crate::sys;

/// Where `ipvlan` keeps what it knows of one network namespace.
#[derive(Debug)]
pub(super) struct Store(PathBuf);

impl Store {
    pub(super) fn of(cookie: u64) -> Self {
        Self(format!("/sys/fs/bpf/ipvlan/{cookie:x}").into())
    }

    /// The agent that runs. `None` also where `/proc` does not tell.
    pub(super) fn agent(&self) -> Option<Agent> {
        let directory = fs::metadata(self.0.join("agent")).ok()?;
        let (device, inode) = (directory.dev(), directory.ino());
        let file = format!("{:02x}:{:02x}:{inode}", major(device), minor(device));
        let locks = fs::read_to_string("/proc/locks").ok()?;
        holder(&locks, &file).map(Agent)
    }

    fn is_gone(&self) -> bool {
        !self.0.exists()
    }
}

/// Who holds the lock on a file, as `/proc/locks` writes it: `1: FLOCK ADVISORY WRITE PID FILE 0 EOF`.
fn holder(locks: &str, file: &str) -> Option<Pid> {
    locks.lines().find_map(|line| {
        let words: Vec<&str> = line.split_whitespace().collect();
        match words[..] {
            [_, "FLOCK", _, "WRITE", pid, of, ..] if of == file => {
                let pid = pid.parse().ok().filter(|&pid| pid > 0)?;
                Some(Pid::from_raw(pid))
            }
            _ => None,
        }
    })
}

#[derive(Debug, Clone, Copy)]
pub(super) struct Agent(Pid);

impl Agent {
    /// What it has used up so far; `None` when it has ended.
    pub(super) fn cpu(self) -> Option<Duration> {
        time(clock_getcpuclockid(self.0).ok()?).ok()
    }

    fn has_ended(self) -> bool {
        let stat = fs::read_to_string(format!("/proc/{}/stat", self.0)).unwrap_or_default();
        // A zombie has ended, whether or not process 1 looks after it.
        let state = stat.rsplit_once(") ").map(|(_, rest)| rest);
        state.is_none_or(|state| state.starts_with(['Z', 'X']))
    }

    /// Waits until it has used no CPU time for `quiet`: it has followed everything.
    pub(super) fn settle(self, quiet: Duration) -> Result<()> {
        let deadline = Instant::now() + SETTLE_LIMIT;
        let (mut last, mut since) = (self.cpu(), Instant::now());
        while since.elapsed() < quiet {
            sys::check_interrupt()?;
            if Instant::now() > deadline {
                return Err(Error::Late {
                    what: "the agent coming to rest".into(),
                    seconds: SETTLE_LIMIT.as_secs(),
                });
            }
            thread::sleep(PAUSE);
            let now = self.cpu();
            if now != last {
                (last, since) = (now, Instant::now());
            }
        }
        Ok(())
    }
}

const SETTLE_LIMIT: Duration = Duration::from_secs(60);
const PAUSE: Duration = Duration::from_millis(1);

/// Waits until directory and agent are gone. Not ended by a signal: it is part of the clean-up.
pub(super) fn end(store: &Store, agent: Option<Agent>, limit: Duration) -> Result<()> {
    let deadline = Instant::now() + limit;
    while !store.is_gone() || !agent.is_none_or(Agent::has_ended) {
        if Instant::now() > deadline {
            return Err(Error::Late {
                what: format!("the end of {} and its agent", store.0.display()),
                seconds: limit.as_secs(),
            });
        }
        thread::sleep(PAUSE / 4);
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_holder_of_a_lock_is_found_by_the_file() {
        let locks = "1: POSIX  ADVISORY  WRITE 7 00:1d:22 0 EOF\n\
                     2: FLOCK  ADVISORY  READ 8 00:1d:22 0 EOF\n\
                     2: -> FLOCK  ADVISORY  WRITE 6 00:1d:22 0 EOF\n\
                     3: FLOCK  ADVISORY  WRITE 9 00:1d:22 0 EOF\n";
        assert_eq!(holder(locks, "00:1d:22"), Some(Pid::from_raw(9)));
        assert_eq!(holder(locks, "00:1d:2"), None);
    }

    #[test]
    fn a_holder_of_another_pid_namespace_is_nobody() {
        assert_eq!(
            holder("1: FLOCK ADVISORY WRITE 0 00:1d:22 0 EOF", "00:1d:22"),
            None
        );
    }
}
