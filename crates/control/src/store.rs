//! Where the state is: pins in a bpffs, and the locks on them.
//!
//! ```text
//! BPFFS/ipvlan/COOKIE/              one network namespace that has parents; its lock
//!                     IFINDEX/      one port (ipvlan_datapath_bpf::Port)
//!                     new-PID/      a port that is being made; renamed when it is whole. Or an older
//!                                   version's that was taken over
//!                     away-NUMBER/  a port whose parent is in another namespace, or was (handover)
//!                     from-COOKIE-NUMBER/  a port whose parent has come here from that namespace,
//!                                   and whose host ends follow it at this moment (handover)
//!                     agent/        locked by the agent for as long as it runs
//! ```
//!
//! A directory is locked, not a file, because a bpffs has no files. The lock is the kernel's, so it
//! goes with its holder, and whatever a killed holder left is in the open for the next one.
//!
//! Limits: a bpffs that was mounted twice is two file systems. All calls must see the same one, so
//! [`prepare`] goes where it is, if this process was put into a mount namespace of its own:
//! `ip netns exec` mounts a fresh /sys over the one with the bpffs.

use std::fs::{self, DirBuilder, File};
use std::io;
use std::os::unix::fs::{DirBuilderExt as _, MetadataExt as _};
use std::path::{Path, PathBuf};
use std::time::Duration;

use ipvlan_datapath_bpf::{Age, Port};
use ipvlan_netlink::netns::current_cookie;
use nix::errno::Errno;
use nix::fcntl::{Flock, FlockArg};
use nix::mount::{MsFlags, mount};
use nix::sched::{CloneFlags, setns};
use nix::sys::statfs::{FsType, statfs};

use crate::error::Error;

const BPFFS: &str = "/sys/fs/bpf";
const BPF_FS_MAGIC: FsType = FsType(0xcafe_4a11);
const NAME: &str = "ipvlan";
const AGENT: &str = "agent";
const NEW: &str = "new-";
const AWAY: &str = "away-";
const FROM: &str = "from-";
/// Tries to become the agent, 5 ms apart, before the lock is taken for another agent's.
const ASKED: u32 = 10;
/// Tries to get a second lock, 5 ms apart.
const SOON: u32 = 200;

/// Makes sure that the machine's bpffs is at /sys/fs/bpf for this process: mounts it where nobody
/// has, and joins the mount namespace of process 1, or of the oldest ancestor that lets us, where
/// ours hides it. Call it before any thread is started.
///
/// # Errors
///
/// [`Error::Kernel`] without BPF, [`Error::Permission`] without the right to mount.
pub fn prepare() -> Result<(), Error> {
    if is_bpffs() {
        return Ok(());
    }
    join_home_mounts();
    if is_bpffs() {
        return Ok(());
    }
    if !Path::new(BPFFS).exists() {
        return Err(Error::Kernel(format!(
            "{BPFFS} is missing; it needs CONFIG_BPF_SYSCALL, and sysfs at /sys"
        )));
    }
    match mount(
        Some("bpf"),
        BPFFS,
        Some("bpf"),
        MsFlags::empty(),
        Some("mode=0700"),
    ) {
        Ok(()) => Ok(()),
        Err(Errno::EPERM) => Err(Error::Permission(format!(
            "cannot mount a bpffs at {BPFFS}; run as root"
        ))),
        Err(Errno::ENODEV) => Err(Error::Kernel(
            "it has no bpffs; it needs CONFIG_BPF_SYSCALL".into(),
        )),
        Err(errno) => Err(io_error("mount bpffs at", Path::new(BPFFS), errno.into())),
    }
}

fn is_bpffs() -> bool {
    statfs(BPFFS).is_ok_and(|found| found.filesystem_type() == BPF_FS_MAGIC)
}

/// Joins the mounts of the first of our ancestors, oldest first, that has others than we have. A
/// process that may not look at them stays where it is.
fn join_home_mounts() {
    let mine = fs::read_link("/proc/self/ns/mnt").ok();
    for pid in ancestors() {
        let path = format!("/proc/{pid}/ns/mnt");
        let Ok(theirs) = fs::read_link(&path) else {
            continue;
        };
        if Some(theirs) == mine {
            return;
        }
        let Ok(handle) = File::open(&path) else {
            continue;
        };
        if setns(&handle, CloneFlags::CLONE_NEWNS).is_ok() {
            return;
        }
    }
}

/// Our ancestors, process 1 first.
fn ancestors() -> Vec<u32> {
    let mut chain = Vec::new();
    let mut pid = std::os::unix::process::parent_id();
    while pid > 1 && chain.len() < 64 {
        chain.push(pid);
        // The name, in brackets, may hold anything; what follows is "state parent ...".
        let Some(parent) = fs::read_to_string(format!("/proc/{pid}/stat"))
            .ok()
            .and_then(|stat| {
                stat.rsplit_once(')')?
                    .1
                    .split_whitespace()
                    .nth(1)?
                    .parse()
                    .ok()
            })
        else {
            break;
        };
        pid = parent;
    }
    chain.push(1);
    chain.reverse();
    chain
}

/// The directory of one network namespace. It may not exist.
#[derive(Clone, Debug)]
pub(crate) struct Store {
    dir: PathBuf,
    cookie: u64,
}

/// A port that is on its way between two namespaces. Its number stays the same meanwhile.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Travelling {
    /// Its host ends are here, its parent is not.
    Away(u64),
    /// Its parent came here from the namespace with this cookie; not all of its host ends did yet.
    From(u64, u64),
}

impl Travelling {
    /// What tells it from others that travel.
    pub(crate) fn number(self) -> u64 {
        match self {
            Self::Away(number) | Self::From(_, number) => number,
        }
    }

    pub(crate) fn name(self) -> String {
        match self {
            Self::Away(number) => format!("{AWAY}{number:x}"),
            Self::From(cookie, number) => format!("{FROM}{cookie:x}-{number:x}"),
        }
    }

    pub(crate) fn parse(name: &str) -> Option<Self> {
        let number = |text| u64::from_str_radix(text, 16).ok();
        let found = match name.strip_prefix(AWAY) {
            Some(text) => Self::Away(number(text)?),
            None => {
                let (cookie, text) = name.strip_prefix(FROM)?.split_once('-')?;
                Self::From(number(cookie)?, number(text)?)
            }
        };
        // Other spellings of the numbers are other names.
        (found.name() == name).then_some(found)
    }
}

impl Store {
    /// That of the calling thread's namespace.
    pub(crate) fn current() -> Result<Self, Error> {
        Ok(Self::of(current_cookie()?))
    }

    /// That of the namespace with this cookie.
    pub(crate) fn of(cookie: u64) -> Self {
        Self {
            dir: Path::new(BPFFS).join(NAME).join(format!("{cookie:x}")),
            cookie,
        }
    }

    /// The namespace's cookie.
    pub(crate) fn cookie(&self) -> u64 {
        self.cookie
    }

    /// All that exist, the calling thread's among them.
    pub(crate) fn all() -> Vec<Self> {
        let root = Path::new(BPFFS).join(NAME);
        list(&root)
            .into_iter()
            .filter_map(|name| {
                let cookie = u64::from_str_radix(&name, 16).ok()?;
                (format!("{cookie:x}") == name).then(|| Self::of(cookie))
            })
            .collect()
    }

    /// Locks it, making it first where it does not exist. Waits for whoever holds the lock.
    pub(crate) fn lock(&self) -> Result<Locked, Error> {
        loop {
            create_dir(&self.dir)?;
            if let Some(locked) = self.lock_existing()? {
                return Ok(locked);
            }
        }
    }

    /// Locks it if it exists.
    pub(crate) fn lock_existing(&self) -> Result<Option<Locked>, Error> {
        self.lock_if(FlockArg::LockExclusive)
    }

    fn lock_if(&self, how: FlockArg) -> Result<Option<Locked>, Error> {
        let Some(handle) = open(&self.dir)? else {
            return Ok(None);
        };
        let lock = match Flock::lock(handle, how) {
            Ok(lock) => lock,
            Err((_, Errno::EWOULDBLOCK)) => return Ok(None),
            Err((_, errno)) => return Err(io_error("lock", &self.dir, errno.into())),
        };
        // Whoever had the lock may have removed what we have opened.
        match fs::metadata(&self.dir) {
            Ok(now) if lock.metadata().is_ok_and(|then| then.ino() == now.ino()) => {
                Ok(Some(Locked {
                    store: self.clone(),
                    _lock: lock,
                }))
            }
            _ => Ok(None),
        }
    }

    /// The same as [`Self::lock`], but it does not wait for long: whoever holds one lock and wants
    /// another must not wait for somebody who does the same the other way round.
    pub(crate) fn lock_soon(&self) -> Result<Option<Locked>, Error> {
        for _ in 0..SOON {
            create_dir(&self.dir)?;
            if let Some(locked) = self.lock_if(FlockArg::LockExclusiveNonblock)? {
                return Ok(Some(locked));
            }
            std::thread::sleep(Duration::from_millis(5));
        }
        Ok(None)
    }

    /// The parents that have a port.
    pub(crate) fn ports(&self) -> Vec<u32> {
        list(&self.dir)
            .iter()
            .filter_map(|name| {
                let parent: u32 = name.parse().ok()?;
                (parent.to_string() == *name).then_some(parent)
            })
            .collect()
    }

    /// The ports that are on their way.
    pub(crate) fn travelling(&self) -> Vec<Travelling> {
        list(&self.dir)
            .iter()
            .filter_map(|name| Travelling::parse(name))
            .collect()
    }

    /// Every port, with where it is and whether that is where its parent is.
    pub(crate) fn dirs(&self) -> Vec<(PathBuf, bool)> {
        let settled = self.ports().into_iter();
        let settled = settled.map(|parent| (self.port_dir(parent), true));
        let travelling = self.travelling().into_iter();
        let travelling = travelling.map(|which| (self.traveller_dir(which), false));
        settled.chain(travelling).collect()
    }

    /// # Errors
    ///
    /// That of opening a port of a version that cannot be taken over, if there is one.
    pub(crate) fn refuse_foreign(&self) -> Result<(), Error> {
        match self.dirs().iter().find(|(dir, _)| is_foreign(dir)) {
            None => Ok(()),
            Some((dir, _)) => Port::open(dir).map(drop).map_err(Error::from),
        }
    }

    /// Opens one of [`Self::travelling`].
    pub(crate) fn traveller(&self, which: Travelling) -> Result<Port, Error> {
        Ok(Port::open(&self.traveller_dir(which))?)
    }

    /// Where it is.
    pub(crate) fn traveller_dir(&self, which: Travelling) -> PathBuf {
        self.dir.join(which.name())
    }

    /// Where the port of a parent is, or would be.
    pub(crate) fn port_dir(&self, parent: u32) -> PathBuf {
        self.dir.join(parent.to_string())
    }

    /// What tells the port of a parent from another one that takes its place; `None`: there is none.
    pub(crate) fn port_number(&self, parent: u32) -> Option<u64> {
        Some(fs::metadata(self.port_dir(parent)).ok()?.ino())
    }

    /// Opens the port of a parent.
    pub(crate) fn port(&self, parent: u32) -> Result<Port, Error> {
        Ok(Port::open(&self.port_dir(parent))?)
    }

    /// Becomes the agent of this namespace; `None` when there is one.
    pub(crate) fn become_agent(&self) -> Result<Option<Flock<File>>, Error> {
        let dir = self.agent_dir();
        let mut tries = 0;
        loop {
            create_dir(&dir)?;
            let Some(handle) = open(&dir)? else { continue };
            let lock = match Flock::lock(handle, FlockArg::LockExclusiveNonblock) {
                Ok(lock) => lock,
                // Somebody who only asks whether there is an agent holds it for a moment.
                Err((_, Errno::EWOULDBLOCK)) if tries < ASKED => {
                    tries += 1;
                    std::thread::sleep(Duration::from_millis(5));
                    continue;
                }
                Err((_, Errno::EWOULDBLOCK)) => return Ok(None),
                Err((_, errno)) => return Err(io_error("lock", &dir, errno.into())),
            };
            if fs::metadata(&dir)
                .is_ok_and(|now| lock.metadata().is_ok_and(|then| then.ino() == now.ino()))
            {
                return Ok(Some(lock));
            }
        }
    }

    /// What an agent of this namespace has locked.
    pub(crate) fn agent_dir(&self) -> PathBuf {
        self.dir.join(AGENT)
    }

    /// Whether an agent runs for this namespace.
    pub(crate) fn has_agent(&self) -> bool {
        let Ok(Some(handle)) = open(&self.agent_dir()) else {
            return false;
        };
        matches!(
            Flock::lock(handle, FlockArg::LockSharedNonblock),
            Err((_, Errno::EWOULDBLOCK))
        )
    }
}

/// A namespace's directory that nobody else changes meanwhile.
#[derive(Debug)]
pub(crate) struct Locked {
    store: Store,
    /// Held, never read: it goes when this does.
    _lock: Flock<File>,
}

impl Locked {
    pub(crate) fn store(&self) -> &Store {
        &self.store
    }

    /// A place to make a port in, and nobody else's: the lock is ours.
    pub(crate) fn new_port_dir(&self) -> PathBuf {
        self.store.dir.join(format!("{NEW}{}", std::process::id()))
    }

    /// What was made in [`Self::new_port_dir`] is whole: it becomes the port of `parent`.
    pub(crate) fn adopt(&self, dir: &Path, parent: u32) -> Result<Port, Error> {
        let target = self.store.port_dir(parent);
        fs::rename(dir, &target).map_err(|source| io_error("rename", dir, source))?;
        self.store.port(parent)
    }

    /// The parent of this port has gone.
    pub(crate) fn send_away(&self, parent: u32) -> Result<Travelling, Error> {
        let from = self.store.port_dir(parent);
        let number = fs::metadata(&from)
            .map_err(|source| io_error("read", &from, source))?
            .ino();
        let away = Travelling::Away(number);
        self.rename(&from, &away.name())?;
        Ok(away)
    }

    /// A port that is away goes to where its parent is now.
    pub(crate) fn pass_on(&self, which: Travelling, to: &Self) -> Result<Travelling, Error> {
        let arriving = Travelling::From(self.store.cookie, which.number());
        to.rename(&self.store.dir.join(which.name()), &arriving.name())?;
        Ok(arriving)
    }

    /// All host ends have come.
    pub(crate) fn arrived(&self, which: Travelling) -> Result<Travelling, Error> {
        let away = Travelling::Away(which.number());
        self.rename(&self.store.dir.join(which.name()), &away.name())?;
        Ok(away)
    }

    /// Its parent is here, by this index.
    pub(crate) fn settle(&self, which: Travelling, parent: u32) -> Result<(), Error> {
        self.rename(&self.store.dir.join(which.name()), &parent.to_string())
    }

    fn rename(&self, from: &Path, name: &str) -> Result<(), Error> {
        fs::rename(from, self.store.dir.join(name))
            .map_err(|source| io_error("rename", from, source))
    }

    /// Ports that somebody was killed over while making them. The lock is ours, so he is dead.
    pub(crate) fn remove_abandoned(&self) -> Result<(), Error> {
        for name in list(&self.store.dir) {
            if name.starts_with(NEW) {
                Port::remove_rest(&self.store.dir.join(name))?;
            }
        }
        Ok(())
    }

    /// Whether anything is left but perhaps the agent.
    pub(crate) fn is_empty(&self) -> bool {
        list(&self.store.dir).iter().all(|name| name == AGENT)
    }

    /// Gives the lock back, and removes the directory if nothing is in it. An agent that runs keeps
    /// it: he removes it himself when he ends.
    pub(crate) fn release(self) {
        if self.is_empty() && !self.store.has_agent() {
            self.remove();
        }
    }

    /// As [`Self::release`], by the agent, who ends.
    pub(crate) fn release_with_agent(self, agent: Flock<File>) {
        if self.is_empty() {
            self.remove();
        }
        drop(agent);
    }

    fn remove(&self) {
        // Each of these fails when somebody put something there, and then it has to stay.
        let _: io::Result<()> = fs::remove_dir(self.store.dir.join(AGENT));
        let _: io::Result<()> = fs::remove_dir(&self.store.dir);
        if let Some(root) = self.store.dir.parent() {
            let _: io::Result<()> = fs::remove_dir(root);
        }
        // The directory is still open here, but gone: whoever waits for its lock looks again.
    }
}

/// Nobody but root looks in, however the bpffs is mounted.
fn create_dir(dir: &Path) -> Result<(), Error> {
    let mut tries = 0;
    loop {
        match DirBuilder::new().recursive(true).mode(0o700).create(dir) {
            Ok(()) => return Ok(()),
            // Whoever has just left removes the directory, or the one above it, at this moment.
            Err(error)
                if matches!(
                    error.kind(),
                    io::ErrorKind::AlreadyExists | io::ErrorKind::NotFound
                ) && tries < 100 =>
            {
                tries += 1;
            }
            Err(error) if error.kind() == io::ErrorKind::PermissionDenied => {
                return Err(Error::Permission(format!(
                    "cannot write to {BPFFS}; run as root"
                )));
            }
            Err(source) => return Err(io_error("create", dir, source)),
        }
    }
}

/// Whether the port in `dir` is of a version that cannot be taken over: nobody's business here.
pub(crate) fn is_foreign(dir: &Path) -> bool {
    matches!(Port::age(dir), Ok(Age::Foreign(_)))
}

fn open(dir: &Path) -> Result<Option<File>, Error> {
    match File::open(dir) {
        Ok(handle) => Ok(Some(handle)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) if error.kind() == io::ErrorKind::PermissionDenied => Err(Error::Permission(
            format!("cannot read {}; run as root", dir.display()),
        )),
        Err(source) => Err(io_error("open", dir, source)),
    }
}

fn list(dir: &Path) -> Vec<String> {
    let mut names: Vec<String> = fs::read_dir(dir)
        .into_iter()
        .flatten()
        .filter_map(|entry| entry.ok()?.file_name().into_string().ok())
        .collect();
    names.sort_by_key(|name| (name.len(), name.clone()));
    names
}

pub(crate) fn io_error(op: &'static str, path: &Path, source: io::Error) -> Error {
    Error::Io {
        op,
        path: path.to_owned(),
        source,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_of_travelling_ports_are_read_back_and_nothing_else_is() {
        for which in [
            Travelling::Away(0xbeef),
            Travelling::From(u64::MAX, u64::MAX),
        ] {
            assert_eq!(Travelling::parse(&which.name()), Some(which));
        }
        for name in [
            "3", "agent", "new-7", "away-", "from-1", "from-1-x", "away-1-2", "away-01", "away-+1",
            "from-1-A",
        ] {
            assert_eq!(Travelling::parse(name), None, "{name}");
        }
    }
}
