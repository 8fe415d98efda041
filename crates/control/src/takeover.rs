//! Taking over what an older version of ipvlan runs: its ports, and its agent.
//!
//! Every verb, and the agent when it starts, begins with this, in the namespace at hand. Nobody has to
//! be told that there is a new version, and no connection ends (`Port::renew` says how):
//!
//! ```text
//! is there an older port? ─► lock ─► renew, exchange programs ─► end the agent ─► finish ─► unlock ─► start ours
//! ```
//!
//! The agent of the older version cannot do anything with the ports any more, and holds the lock that
//! ours needs. It owns nothing, so it is ended as it may end at any time, by SIGKILL: under systemd
//! that is a failure after which it is started anew, from the binary that is installed by then. Only
//! one that a verb has started is followed by one that this verb starts. Where there was none, there is
//! none afterwards.
//!
//! Ports are finished after the agent has ended: whoever is killed before leaves ports that say so, and
//! the next call does all this again.
//!
//! Ports of a newer version are not touched, nor those of one that is too old. Who is asked for one
//! refuses; an agent that finds nothing else ends.
//!
//! Limits: an agent in another PID namespace is not seen, and has to be ended by hand.

use std::fs;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::time::Duration;

use ipvlan_datapath_bpf::{Age, Hook, Port};
use ipvlan_netlink::NetNs;
use ipvlan_netlink::netns::current_cookie;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::stat::{major, minor};
use rustix::process::{Pid, PidfdFlags, Signal, pidfd_open, pidfd_send_signal};

use crate::agent;
use crate::error::Error;
use crate::store::{Locked, Store, io_error};

/// How long an agent may take to end.
const PATIENCE: Duration = Duration::from_secs(5);

/// Which agent was ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Ended {
    /// There was none, or it cannot be ended.
    None,
    /// One that a verb had started.
    Ours,
    /// One that somebody else had started, and has to start again.
    Theirs,
}

/// Takes over all that an older version has in the namespace of `store`, which is the calling
/// thread's. The lock is not held.
pub(crate) fn take_over(store: &Store) -> Result<(), Error> {
    match take_over_alone(store)? {
        Ended::Ours => agent::start(),
        Ended::None | Ended::Theirs => Ok(()),
    }
}

/// The same, but no agent is started: the caller becomes it.
pub(crate) fn take_over_alone(store: &Store) -> Result<Ended, Error> {
    if !store.dirs().iter().any(|(dir, _)| is_behind(dir)) {
        return Ok(Ended::None);
    }
    let Some(locked) = store.lock_existing()? else {
        return Ok(Ended::None);
    };
    locked.remove_abandoned()?;
    begin_and_finish(&locked, || end_agent(store))
}

/// The same, where the calling thread may be in another namespace.
pub(crate) fn take_over_from_anywhere(store: &Store) -> Result<(), Error> {
    if current_cookie()? == store.cookie() {
        return take_over(store);
    }
    match NetNs::by_cookie(store.cookie()) {
        Some(ns) => ns.enter(|| take_over(store))?,
        // Nobody can enter it, so no agent can be started there. Links are found from anywhere.
        None if Hook::detect() == Hook::Tcx => take_over_alone(store).map(drop),
        None => Ok(()),
    }
}

/// The same by whoever reconciles: in the middle of other work, with the lock.
pub(crate) fn on_arrival(locked: &Locked, is_agent: bool) -> Result<(), Error> {
    let end = || match is_agent {
        true => Ok(Ended::None),
        false => end_agent(locked.store()),
    };
    begin_and_finish(locked, end).map(drop)
}

/// The same of one port, which leaves the namespace.
pub(crate) fn bring_up(locked: &Locked, dir: &Path) -> Result<(), Error> {
    if is_behind(dir) {
        begin(locked, dir, false)?;
        Port::finish(dir)?;
    }
    Ok(())
}

fn is_behind(dir: &Path) -> bool {
    matches!(Port::age(dir), Ok(Age::Older(_) | Age::Unfinished))
}

fn begin_and_finish(
    locked: &Locked,
    end: impl FnOnce() -> Result<Ended, Error>,
) -> Result<Ended, Error> {
    let mut begun: Vec<PathBuf> = Vec::new();
    let mut failed = None;
    for (dir, is_settled) in locked.store().dirs() {
        if !is_behind(&dir) {
            continue;
        }
        match begin(locked, &dir, is_settled) {
            Ok(()) => begun.push(dir),
            // One must not keep the others from it.
            Err(error) => failed = failed.or(Some(error)),
        }
    }
    let mut ended = Ended::None;
    if !begun.is_empty() {
        ended = end()?;
        for dir in &begun {
            Port::finish(dir)?;
        }
        log::info!(
            "took over {} of an older version in network namespace {:x}",
            match begun.len() {
                1 => "a port".to_owned(),
                many => format!("{many} ports"),
            },
            locked.store().cookie()
        );
    }
    failed.map_or(Ok(ended), Err)
}

fn begin(locked: &Locked, dir: &Path, is_settled: bool) -> Result<(), Error> {
    Port::renew(dir, &locked.new_port_dir())?;
    Ok(Port::exchange_programs(dir, is_settled)?)
}

/// Ends the agent of the namespace.
fn end_agent(store: &Store) -> Result<Ended, Error> {
    if !store.has_agent() {
        return Ok(Ended::None);
    }
    let dir = store.agent_dir();
    let failed = |op, errno| io_error(op, &dir, errno);
    let Some(number) = holder(&dir)? else {
        log::warn!(
            "an agent of another version runs where it cannot be seen (in another PID namespace); \
             end it, it keeps the new one from starting"
        );
        return Ok(Ended::None);
    };
    let pid = i32::try_from(number).ok().and_then(Pid::from_raw);
    let Some(pid) = pid.filter(|_| number != std::process::id()) else {
        return Ok(Ended::None);
    };
    let process = match pidfd_open(pid, PidfdFlags::empty()) {
        Ok(process) => process,
        Err(rustix::io::Errno::SRCH) => return Ok(Ended::None),
        Err(errno) => return Err(failed("open the process that holds", errno.into())),
    };
    // It still holds the lock, so it is the one that was opened, and its words are its own.
    let words = fs::read(format!("/proc/{number}/cmdline")).unwrap_or_default();
    let words: Vec<String> = words
        .split(|byte| *byte == 0)
        .filter(|word| !word.is_empty())
        .map(|word| String::from_utf8_lossy(word).into_owned())
        .collect();
    if holder(&dir)? != Some(number) {
        return Ok(Ended::None);
    }
    let name = words.first().and_then(|word| Path::new(word).file_name());
    // Also one that has its version in its name.
    let is_ipvlan = name.is_some_and(|name| name.to_string_lossy().starts_with("ipvlan"));
    if !is_ipvlan {
        log::warn!(
            "process {number} ({}) holds {}, and is no agent",
            words.join(" "),
            dir.display()
        );
        return Ok(Ended::None);
    }
    pidfd_send_signal(&process, Signal::KILL)
        .map_err(|errno| failed("end the agent that holds", errno.into()))?;
    let timeout = PollTimeout::try_from(PATIENCE).unwrap_or(PollTimeout::MAX);
    let mut ended = [PollFd::new(
        std::os::fd::AsFd::as_fd(&process),
        PollFlags::POLLIN,
    )];
    match poll(&mut ended, timeout) {
        Ok(0) => return Err(Error::Agent(format!("process {number} does not end"))),
        Ok(_) => {}
        Err(errno) => return Err(failed("wait for the agent that held", errno.into())),
    }
    match &words[..] {
        // As `agent::start` starts it.
        [_, noun] if noun == "agent" => Ok(Ended::Ours),
        _ => {
            log::warn!(
                "ended the agent of an older version (process {number}, {}): whoever started it has \
                 to start it again, as systemd does by itself",
                words.join(" ")
            );
            Ok(Ended::Theirs)
        }
    }
}

/// The process that has locked a directory for itself alone.
fn holder(dir: &Path) -> Result<Option<u32>, Error> {
    let found = fs::metadata(dir).map_err(|source| io_error("read", dir, source))?;
    let wanted = format!(
        "{:02x}:{:02x}:{}",
        major(found.dev()),
        minor(found.dev()),
        found.ino()
    );
    let path = Path::new("/proc/locks");
    let locks = fs::read_to_string(path).map_err(|source| io_error("read", path, source))?;
    Ok(locks.lines().find_map(|line| parse_lock(line, &wanted)))
}

/// Of `1: FLOCK  ADVISORY  WRITE 708 00:1e:4131 0 EOF` the fifth, if the sixth is `wanted`.
fn parse_lock(line: &str, wanted: &str) -> Option<u32> {
    let words: Vec<&str> = line.split_whitespace().collect();
    match words[..] {
        [_, "FLOCK", _, "WRITE", pid, file, ..] if file == wanted => pid.parse().ok(),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_lock_is_read_and_who_waits_for_it_is_not_its_holder() {
        let line = "1: FLOCK  ADVISORY  WRITE 708 00:1e:4131 0 EOF";
        assert_eq!(parse_lock(line, "00:1e:4131"), Some(708));
        for other in [
            "1: -> FLOCK  ADVISORY  WRITE 709 00:1e:4131 0 EOF",
            "1: FLOCK  ADVISORY  READ 708 00:1e:4131 0 EOF",
            "1: POSIX  ADVISORY  WRITE 708 00:1e:4131 0 EOF",
            "1: FLOCK  ADVISORY  WRITE 708 00:1e:413 0 EOF",
            "",
        ] {
            assert_eq!(parse_lock(other, "00:1e:4131"), None, "{other}");
        }
    }
}
