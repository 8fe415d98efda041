//! Handles to network namespaces, and how to get from an id back to one.
//!
//! The kernel tells the id of a handle but not the handle of an id, so a [`Finder`] asks for the id
//! of every namespace this process can see.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::fs::{self, File};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::os::unix::fs::MetadataExt;
use std::os::unix::net::UnixDatagram;
use std::path::{Path, PathBuf};
use std::{ffi, process};

use nix::errno::Errno;
use nix::sched::{CloneFlags, setns};

use crate::error::errno_of;
use crate::{Error, Netlink, Nsid, sys};

/// Where iproute2 keeps names. `/var/run` is the older spelling, and another place where it is no
/// symbolic link.
const NAME_DIRS: [&str; 2] = ["/run/netns", "/var/run/netns"];

/// A handle to a network namespace. It keeps the namespace alive.
#[derive(Debug)]
pub struct NetNs {
    fd: OwnedFd,
    id: FileId,
}

/// Device and inode number: two handles with the same are of the same namespace.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
struct FileId {
    dev: u64,
    ino: u64,
}

impl NetNs {
    /// The calling thread's.
    ///
    /// # Errors
    ///
    /// [`Error::Namespace`], for instance without `/proc`.
    pub fn current() -> Result<Self, Error> {
        Self::open_path(Path::new("/proc/thread-self/ns/net"))
    }

    /// The one a path leads to: `/run/netns/x`, `/proc/1/ns/net`, or any place it was mounted at.
    ///
    /// # Errors
    ///
    /// [`Error::Namespace`]; `EINVAL` if it is something else than a network namespace.
    pub fn open_path(path: &Path) -> Result<Self, Error> {
        let fail = |errno| Error::Namespace {
            op: "open",
            object: path.display().to_string(),
            errno,
        };
        let file = File::open(path).map_err(|err| fail(errno_of(&err)))?;
        match sys::ns_type(file.as_fd()) {
            Ok(libc::CLONE_NEWNET) => {}
            Ok(_) | Err(Errno::ENOTTY) => return Err(fail(Errno::EINVAL)),
            Err(errno) => return Err(fail(errno)),
        }
        let id = file
            .metadata()
            .map(|meta| FileId::of(&meta))
            .map_err(|err| fail(errno_of(&err)))?;
        Ok(Self {
            fd: file.into(),
            id,
        })
    }

    /// The one that `ip netns` knows by this name. A name with a `/` is a path.
    ///
    /// # Errors
    ///
    /// [`Error::Namespace`]; `ENOENT` if there is none of that name.
    pub fn by_name(name: &str) -> Result<Self, Error> {
        if name.contains('/') {
            return Self::open_path(Path::new(name));
        }
        let fail = |errno| Error::Namespace {
            op: "open",
            object: name.to_owned(),
            errno,
        };
        if name.is_empty() || name == "." || name == ".." {
            return Err(fail(Errno::EINVAL));
        }
        for dir in NAME_DIRS {
            match Self::open_path(&Path::new(dir).join(name)) {
                Err(err) if err.errno() == Errno::ENOENT => {}
                Ok(ns) => return Ok(ns),
                Err(err) => return Err(fail(err.errno())),
            }
        }
        Err(fail(Errno::ENOENT))
    }

    /// The one of a process.
    ///
    /// # Errors
    ///
    /// [`Error::Namespace`]; `ENOENT` if there is no such process, `EACCES` if it is not ours.
    pub fn by_pid(pid: u32) -> Result<Self, Error> {
        Self::open_path(Path::new(&format!("/proc/{pid}/ns/net")))
    }

    /// The kernel's cookie for it (`SO_NETNS_COOKIE`): unique until the next boot, never used
    /// again, the same seen from everywhere. Linux 5.14.
    ///
    /// # Errors
    ///
    /// As [`NetNs::enter`]; `ENOPROTOOPT` on an older kernel.
    pub fn cookie(&self) -> Result<u64, Error> {
        self.enter(current_cookie)?
    }

    /// The one with this cookie, if this process can find it: one of [`all`].
    pub fn by_cookie(cookie: u64) -> Option<Self> {
        handles()
            .map(|(_, ns)| ns)
            .find(|ns| ns.cookie().is_ok_and(|found| found == cookie))
    }

    /// Its inode number, as in `net:[4026531840]`. A later namespace may get the same.
    pub fn inode(&self) -> u64 {
        self.id.ino
    }

    /// True if both are handles of the same namespace.
    pub fn is_same(&self, other: &Self) -> bool {
        self.id == other.id
    }

    /// A second handle to the same namespace.
    ///
    /// # Errors
    ///
    /// [`Error::Namespace`] if the process has too many files open.
    pub fn try_clone(&self) -> Result<Self, Error> {
        let fd = self
            .fd
            .try_clone()
            .map_err(|err| self.fail("duplicate", errno_of(&err)))?;
        Ok(Self { fd, id: self.id })
    }

    /// Runs `f` inside and comes back, also when `f` panics.
    ///
    /// Only this *thread* goes there: threads that `f` starts begin there and stay there. Sockets
    /// that `f` opens belong to the namespace for good. Needs `CAP_SYS_ADMIN`, except where the
    /// thread is there already.
    ///
    /// A thread that cannot come back ends the whole process: code that runs on in the wrong
    /// namespace would configure the wrong machine.
    ///
    /// # Errors
    ///
    /// [`Error::Namespace`] if it cannot go there; then `f` has not run.
    pub fn enter<R>(&self, f: impl FnOnce() -> R) -> Result<R, Error> {
        let home = Self::current()?;
        if self.is_same(&home) {
            return Ok(f());
        }
        setns(&self.fd, CloneFlags::CLONE_NEWNET).map_err(|errno| self.fail("enter", errno))?;
        let _home = ComeHome(home);
        Ok(f())
    }

    fn fail(&self, op: &'static str, errno: Errno) -> Error {
        Error::Namespace {
            op,
            object: format!("net:[{}]", self.id.ino),
            errno,
        }
    }
}

impl AsFd for NetNs {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

impl FileId {
    fn of(meta: &fs::Metadata) -> Self {
        Self {
            dev: meta.dev(),
            ino: meta.ino(),
        }
    }
}

struct ComeHome(NetNs);

impl Drop for ComeHome {
    fn drop(&mut self) {
        if let Err(errno) = setns(&self.0.fd, CloneFlags::CLONE_NEWNET) {
            eprintln!("cannot return to network namespace: {}", errno.desc());
            process::abort();
        }
    }
}

/// The cookie of the calling thread's namespace; see [`NetNs::cookie`].
///
/// # Errors
///
/// [`Error::Socket`]; `ENOPROTOOPT` before Linux 5.14.
pub fn current_cookie() -> Result<u64, Error> {
    // Any socket will do. This family is in every kernel and asks for no privilege.
    let socket = UnixDatagram::unbound().map_err(|err| Error::Socket {
        op: "open",
        errno: errno_of(&err),
    })?;
    sys::netns_cookie(socket.as_fd()).map_err(Error::socket("SO_NETNS_COOKIE"))
}

/// Every network namespace this process can find a handle to, once each: those with a name
/// (`/run/netns`), those mounted elsewhere, those of processes.
///
/// Not found are those that only a file descriptor, a socket or a single thread of another process
/// keeps alive, and those mounted only in another mount namespace.
pub fn all() -> Vec<(PathBuf, NetNs)> {
    handles().collect()
}

/// Gets from ids back to namespaces, and remembers where it found them.
///
/// Ids are those of one socket's namespace: use one for each such namespace.
#[derive(Debug, Default)]
pub struct Finder {
    known: HashMap<Nsid, PathBuf>,
}

impl Finder {
    /// The namespace that has the id `id` in the namespace of `nl`'s socket, if this process can
    /// find it: one of [`all`]. A namespace that was found before costs one look; another one, a
    /// look at all.
    ///
    /// # Errors
    ///
    /// What [`Netlink::nsid_of`] fails at.
    pub fn find(&mut self, nl: &mut Netlink, id: Nsid) -> Result<Option<NetNs>, Error> {
        if let Some(ns) = self.known(nl, id)? {
            return Ok(Some(ns));
        }
        self.known.clear();
        for (path, ns) in handles() {
            if let Some(found) = nl.nsid_of(ns.as_fd())? {
                let _: &mut PathBuf = self.known.entry(found).or_insert(path);
            }
        }
        self.known(nl, id)
    }

    /// Where it was the last time, if it is still there.
    fn known(&self, nl: &mut Netlink, id: Nsid) -> Result<Option<NetNs>, Error> {
        let Some(ns) = self
            .known
            .get(&id)
            .and_then(|path| NetNs::open_path(path).ok())
        else {
            return Ok(None);
        };
        Ok((nl.nsid_of(ns.as_fd())? == Some(id)).then_some(ns))
    }
}

/// The names that `ip netns` has for namespaces, by the id that the namespace of `nl`'s socket
/// knows each by; those without an id are left out.
pub fn names(nl: &mut Netlink) -> BTreeMap<Nsid, String> {
    let mut names = BTreeMap::new();
    // In order of name, and the first one of a namespace with several counts.
    for path in named() {
        let Some(name) = path.file_name() else {
            continue;
        };
        let Ok(ns) = NetNs::open_path(&path) else {
            continue;
        };
        if let Ok(Some(id)) = nl.nsid_of(ns.as_fd()) {
            let name = name.to_string_lossy().into_owned();
            let _: &mut String = names.entry(id).or_insert(name);
        }
    }
    names
}

/// Lazily, because the wanted one is most often among the first; names before processes.
fn handles() -> impl Iterator<Item = (PathBuf, NetNs)> {
    let mut seen = HashSet::new();
    let paths = named().into_iter().chain(mounted()).chain(of_processes());
    paths.filter_map(move |path| {
        // A look at the inode first: most processes share a few namespaces.
        let id = FileId::of(&fs::metadata(&path).ok()?);
        if seen.contains(&id) {
            return None;
        }
        let ns = NetNs::open_path(&path).ok()?;
        seen.insert(ns.id).then_some((path, ns))
    })
}

fn named() -> Vec<PathBuf> {
    NAME_DIRS
        .iter()
        .flat_map(|dir| entries(Path::new(dir)))
        .collect()
}

fn mounted() -> Vec<PathBuf> {
    // As this thread sees them; "self" would be the first thread of the process.
    let table = fs::read("/proc/thread-self/mountinfo").unwrap_or_default();
    table
        .split(|&byte| byte == b'\n')
        .filter_map(net_mount)
        .collect()
}

fn of_processes() -> Vec<PathBuf> {
    let is_pid = |path: &PathBuf| {
        path.file_name()
            .is_some_and(|name| name.as_bytes().iter().all(u8::is_ascii_digit))
    };
    let mut all: Vec<_> = entries(Path::new("/proc"))
        .into_iter()
        .filter(is_pid)
        .collect();
    all.iter_mut().for_each(|path| path.push("ns/net"));
    all
}

/// What is in a directory, in order of name; nothing if it cannot be read.
fn entries(dir: &Path) -> Vec<PathBuf> {
    let mut paths: Vec<_> = fs::read_dir(dir)
        .map(|list| list.flatten().map(|entry| entry.path()).collect())
        .unwrap_or_default();
    paths.sort();
    paths
}

/// Where a line of `/proc/…/mountinfo` says that a network namespace is mounted.
fn net_mount(line: &[u8]) -> Option<PathBuf> {
    // 36 35 0:4 net:[4026532281] /run/netns/a rw shared:7 - nsfs nsfs rw
    let mut fields = line.split(|&byte| byte == b' ');
    let root = fields.nth(3)?;
    let point = fields.next()?;
    root.starts_with(b"net:[")
        .then(|| PathBuf::from(ffi::OsString::from_vec(unescape(point))))
}

/// The kernel writes white space and backslashes in a path as `\ooo`.
fn unescape(text: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(text.len());
    let mut rest = text;
    while let Some((&byte, tail)) = rest.split_first() {
        let octal = (byte == b'\\').then(|| octal_of(tail)).flatten();
        out.push(octal.unwrap_or(byte));
        rest = if octal.is_some() { &tail[3..] } else { tail };
    }
    out
}

fn octal_of(text: &[u8]) -> Option<u8> {
    let digits = str::from_utf8(text.get(..3)?).ok()?;
    u8::from_str_radix(digits, 8).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn mounts_of_network_namespaces_are_found_and_others_not() {
        let net = br"36 35 0:4 net:[4026532281] /run/netns/a\040b rw shared:7 - nsfs nsfs rw";
        assert_eq!(net_mount(net), Some(PathBuf::from("/run/netns/a b")));
        assert_eq!(
            net_mount(b"36 35 0:4 mnt:[4026532281] /x rw - nsfs nsfs rw"),
            None
        );
        assert_eq!(net_mount(b"24 1 0:22 / /proc rw - proc proc rw"), None);
        assert_eq!(net_mount(b""), None);
    }

    #[test]
    fn a_backslash_without_octal_digits_stays() {
        assert_eq!(unescape(br"a\134b\09"), br"a\b\09");
    }

    #[test]
    fn a_file_that_is_no_namespace_is_refused() {
        for path in ["/dev/null", "/proc/self/ns/mnt", "/proc/self/stat"] {
            let err = NetNs::open_path(Path::new(path)).expect_err(path);
            assert_eq!(err.errno(), Errno::EINVAL, "{path}");
        }
        assert_eq!(
            NetNs::by_name("nlt-not-there").expect_err("name").errno(),
            Errno::ENOENT
        );
        assert_eq!(
            NetNs::by_name("..").expect_err("name").errno(),
            Errno::EINVAL
        );
    }

    #[test]
    fn the_current_one_is_that_of_this_process() {
        let here = NetNs::current().expect("current");
        assert!(here.is_same(&NetNs::by_pid(process::id()).expect("by pid")));
        assert!(here.is_same(&here.try_clone().expect("clone")));
        assert_eq!(here.enter(|| 7).expect("no privilege is needed to stay"), 7);
        assert_eq!(
            here.cookie().expect("cookie"),
            current_cookie().expect("cookie")
        );
        let found = current_cookie().ok().and_then(NetNs::by_cookie);
        assert!(found.is_some_and(|found| found.is_same(&here)));
    }
}
