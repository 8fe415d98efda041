//! Where the demo plays: a mount namespace with an empty /run, so that `ip netns add ns0` is
//! nobody else's ns0. All else is the machine's own, its bpffs above all.
//!
//! The source of the tmpfs on /run carries the director's process id. By that every process of a
//! demo is known, wherever it went (`ip netns exec` makes one more mount namespace), also when its
//! director is dead.
//!
//! Clearing deletes the names of the network namespaces. The rest must go by itself: a namespace
//! takes its devices with it, and the agent ends with the last one and removes what is pinned.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::mount::{MsFlags, mount};
use nix::sched::{CloneFlags, unshare};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::run::{On, Result, fail};

const MARK: &str = "ipvlan-demo-";
const NAMES: &str = "run/netns";
const STATE: &str = "/sys/fs/bpf/ipvlan/";

/// How long a call of the program may take, and how long the agent may take to end.
const CALL: Duration = Duration::from_secs(2);
const AGENT: Duration = Duration::from_secs(5);

/// Takes this process there.
pub(super) fn set(director: u32) -> Result {
    unshare(CloneFlags::CLONE_NEWNS).map_err(|errno| match errno {
        Errno::EPERM => fail(
            "this container's root may not make namespaces (CAP_SYS_ADMIN): start it privileged",
        ),
        _ => fail(format!("cannot make a mount namespace: {errno}")),
    })?;
    let none = None::<&str>;
    let private = MsFlags::MS_REC | MsFlags::MS_PRIVATE;
    mount(none, "/", none, private, none).map_err(|errno| fail(format!("mount: /: {errno}")))?;
    let source = format!("{MARK}{director}");
    // One is a link to the other, nearly everywhere.
    let folders = ["/run", "/var/run"].map(|folder| fs::canonicalize(folder).ok());
    for folder in folders.into_iter().flatten().collect::<BTreeSet<_>>() {
        let (tmpfs, none) = (Some("tmpfs"), MsFlags::empty());
        mount(Some(&*source), &folder, tmpfs, none, Some("mode=0755"))
            .map_err(|errno| fail(format!("mount: {}: {errno}", folder.display())))?;
    }
    Ok(())
}

/// The director of the demo that a process belongs to.
pub(super) fn director_of(pid: u32) -> Option<u32> {
    director_in(&fs::read_to_string(format!("/proc/{pid}/mountinfo")).ok()?)
}

fn director_in(mountinfo: &str) -> Option<u32> {
    mountinfo.lines().find_map(|line| {
        let (_, mounted) = line.rsplit_once(" - tmpfs ")?;
        let (pid, _) = mounted.strip_prefix(MARK)?.split_once(' ')?;
        pid.parse().ok()
    })
}

/// Whoever plays in a demo, and under whom.
fn players() -> Vec<(u32, u32)> {
    let processes = fs::read_dir("/proc").into_iter().flatten().flatten();
    processes
        .filter_map(|entry| entry.file_name().to_str()?.parse().ok())
        .filter_map(|pid| Some((pid, director_of(pid)?)))
        .collect()
}

fn is_ipvlan(pid: u32) -> bool {
    fs::read(format!("/proc/{pid}/comm")).is_ok_and(|name| name == b"ipvlan\n")
}

fn is_agent(pid: u32) -> bool {
    fs::read(format!("/proc/{pid}/cmdline")).is_ok_and(|words| words == b"ipvlan\0agent\0")
}

/// The agents of a demo.
pub(super) fn agents(director: u32) -> Vec<u32> {
    let players = players().into_iter();
    let ours = players.filter(|&(pid, under)| under == director && is_agent(pid));
    ours.map(|(pid, _)| pid).collect()
}

/// What an agent looks after, in the bpffs.
pub(super) fn state_of(agent: u32) -> Option<PathBuf> {
    let files = fs::read_dir(format!("/proc/{agent}/fd")).ok()?.flatten();
    files
        .filter_map(|entry| fs::read_link(entry.path()).ok())
        .find(|file| file.starts_with(STATE) && file.ends_with("agent"))
        .and_then(|file| Some(file.parent()?.to_path_buf()))
}

/// Waits until something is so, and says whether it is.
pub(super) fn within(limit: Duration, mut is_so: impl FnMut() -> bool) -> bool {
    let end = Instant::now() + limit;
    loop {
        if is_so() {
            return true;
        }
        if Instant::now() >= end {
            return false;
        }
        std::thread::sleep(Duration::from_millis(20));
    }
}

fn end_process(pid: u32) {
    if let Ok(pid) = i32::try_from(pid) {
        let _: nix::Result<()> = kill(Pid::from_raw(pid), Signal::SIGKILL);
    }
}

/// Removes all that a demo has made. Returns what did not go.
pub(super) fn clear(director: u32) -> Vec<String> {
    let me = std::process::id();
    let others = || {
        let players = players().into_iter();
        players.filter(move |&(pid, under)| under == director && pid != me)
    };
    // A call of the program ends by itself, with all that it began undone or done.
    for (pid, _) in others().filter(|&(pid, _)| !is_ipvlan(pid)) {
        end_process(pid);
    }
    let is_call = |(pid, _)| is_ipvlan(pid) && !is_agent(pid);
    let _: bool = within(CALL, || !others().any(is_call));
    for (pid, _) in others().filter(|&(pid, _)| !is_agent(pid)) {
        end_process(pid);
    }
    let agents = agents(director);
    let states: Vec<PathBuf> = agents.iter().copied().filter_map(state_of).collect();
    // An agent does not leave the stage either; with neither there are no names any more.
    let on_stage = agents.first().copied().or((director == me).then_some(me));
    if let Some(pid) = on_stage {
        delete_names(pid);
    }
    let mut left = Vec::new();
    if !within(AGENT, || others().next().is_none()) {
        for (pid, _) in others() {
            left.push(format!("process {pid} did not end, and was killed"));
            end_process(pid);
        }
    }
    for state in states {
        if !within(AGENT, || !state.exists()) {
            left.push(format!("{} was left", state.display()));
        }
    }
    left
}

/// Deletes every named network namespace that a process sees.
fn delete_names(pid: u32) {
    let folder = Path::new("/proc").join(pid.to_string()).join("root");
    let names = fs::read_dir(folder.join(NAMES)).into_iter().flatten();
    for name in names.flatten().map(|entry| entry.file_name()) {
        // A name that stays shows as an agent that does not end.
        let _: Result<_> = Command::new("nsenter")
            .args(["--mount", "--target"])
            .arg(pid.to_string())
            .args(["ip", "netns", "del"])
            .arg(name)
            .stdin(Stdio::null())
            .output()
            .on("nsenter");
    }
}

/// Clears up after demos that were killed. Returns what to tell of it.
pub(super) fn clear_abandoned() -> Vec<String> {
    let directors: BTreeSet<u32> = players()
        .into_iter()
        .map(|(_, director)| director)
        .collect();
    let dead = directors
        .into_iter()
        .filter(|&director| director_of(director) != Some(director));
    dead.flat_map(|director| {
        let mut lines = clear(director);
        lines.insert(
            0,
            format!("removed what a killed demo had left (it was process {director})"),
        );
        lines
    })
    .collect()
}

#[cfg(test)]
mod tests {
    use super::director_in;

    #[test]
    fn the_mark_names_the_director() {
        let other = "36 35 98:0 / /mnt rw - ext4 /dev/vda rw\n40 35 0:5 / /x rw - tmpfs tmpfs rw\n";
        assert_eq!(director_in(other), None);
        let ours =
            format!("{other}41 35 0:6 / /run rw,relatime - tmpfs ipvlan-demo-42 rw,mode=755");
        assert_eq!(director_in(&ours), Some(42));
    }
}
