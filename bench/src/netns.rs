//! A named network namespace, and doing something inside it.

use std::fs::{self, File};

use nix::sched::{CloneFlags, setns};

use crate::error::{Error, Result};
use crate::run::run;

/// Removed when dropped. Its links go with it, at the latest when its last socket is closed.
#[derive(Debug)]
pub(crate) struct NetNs {
    name: String,
    file: File,
}

impl NetNs {
    pub(crate) fn create(name: String) -> Result<Self> {
        run("ip", &["netns", "add", &name])?;
        match File::open(format!("/run/netns/{name}")) {
            Ok(file) => Ok(Self { name, file }),
            Err(source) => {
                let error = Error::io(format!("open /run/netns/{name}"), source);
                run("ip", &["netns", "del", &name])?;
                Err(error)
            }
        }
    }

    pub(crate) fn name(&self) -> &str {
        &self.name
    }

    /// Runs `f` with this thread inside the namespace. What `f` opens or spawns stays there.
    ///
    /// Unlike `ip netns exec` this leaves the mounts alone, and with them the bpf file system.
    pub(crate) fn inside<T>(&self, f: impl FnOnce() -> T) -> Result<T> {
        const HERE: &str = "/proc/thread-self/ns/net";
        let back = Back(File::open(HERE).map_err(|source| Error::io(HERE, source))?);
        setns(&self.file, CloneFlags::CLONE_NEWNET).map_err(Error::sys("setns"))?;
        let value = f();
        drop(back);
        Ok(value)
    }

    /// Sets `/proc/sys/net/KEY` where it exists; a kernel without IPv6 lacks some.
    pub(crate) fn sysctl(&self, key: &str, value: &str) -> Result<()> {
        let file = format!("/proc/sys/net/{key}");
        self.inside(|| match fs::write(&file, value) {
            Err(source) if source.kind() != std::io::ErrorKind::NotFound => {
                Err(Error::io(format!("write {file}"), source))
            }
            _ => Ok(()),
        })?
    }
}

impl Drop for NetNs {
    fn drop(&mut self) {
        if let Err(error) = run("ip", &["netns", "del", &self.name]) {
            eprintln!("ipvlan-bench: not removed: {error}");
        }
    }
}

/// Returns to the namespace it holds, also when a panic unwinds.
struct Back(File);

impl Drop for Back {
    fn drop(&mut self) {
        if let Err(errno) = setns(&self.0, CloneFlags::CLONE_NEWNET) {
            eprintln!("ipvlan-bench: cannot go back to its own namespace: {errno}");
        }
    }
}
