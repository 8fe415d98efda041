//! Named network namespaces, and doing something inside them.

use std::fs::{self, File};

use nix::sched::{CloneFlags, setns};

use crate::error::{Error, Result};
use crate::run::{ip_lines, run};

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
        inside(&self.file, f)
    }

    /// Sets `/proc/sys/net/KEY` where it exists; a kernel without IPv6 lacks some.
    pub(crate) fn sysctl(&self, key: &str, value: &str) -> Result<()> {
        self.inside(|| sysctl(key, value))?
    }
}

impl Drop for NetNs {
    fn drop(&mut self) {
        if let Err(error) = run("ip", &["netns", "del", &self.name]) {
            eprintln!("ipvlan-bench: not removed: {error}");
        }
    }
}

/// Many namespaces, made and removed by one process each time. Removed when dropped.
#[derive(Debug)]
pub(crate) struct Spaces(Vec<String>);

impl Spaces {
    pub(crate) fn create(names: Vec<String>) -> Result<Self> {
        // Before the first one stands: what a failure leaves half-made goes too.
        let spaces = Self(names);
        ip_lines(&spaces.lines("add"))?;
        Ok(spaces)
    }

    pub(crate) fn names(&self) -> &[String] {
        &self.0
    }

    /// Sets `/proc/sys/net/KEY` in all of them.
    pub(crate) fn sysctl(&self, key: &str, value: &str) -> Result<()> {
        for name in &self.0 {
            let path = format!("/run/netns/{name}");
            let file = File::open(&path).map_err(|source| Error::io(path, source))?;
            inside(&file, || sysctl(key, value))??;
        }
        Ok(())
    }

    pub(crate) fn remove(&mut self) {
        self.0
            .retain(|name| fs::exists(format!("/run/netns/{name}")).unwrap_or(true));
        if self.0.is_empty() {
            return;
        }
        if let Err(error) = ip_lines(&self.lines("del")) {
            eprintln!("ipvlan-bench: not removed: {error}");
        }
        self.0.clear();
    }

    fn lines(&self, verb: &str) -> String {
        let line = |name: &String| format!("netns {verb} {name}\n");
        self.0.iter().map(line).collect()
    }
}

impl Drop for Spaces {
    fn drop(&mut self) {
        self.remove();
    }
}

fn inside<T>(namespace: &File, f: impl FnOnce() -> T) -> Result<T> {
    const HERE: &str = "/proc/thread-self/ns/net";
    let back = Back(File::open(HERE).map_err(|source| Error::io(HERE, source))?);
    setns(namespace, CloneFlags::CLONE_NEWNET).map_err(Error::sys("setns"))?;
    let value = f();
    drop(back);
    Ok(value)
}

fn sysctl(key: &str, value: &str) -> Result<()> {
    let file = format!("/proc/sys/net/{key}");
    match fs::write(&file, value) {
        Err(source) if source.kind() != std::io::ErrorKind::NotFound => {
            Err(Error::io(format!("write {file}"), source))
        }
        _ => Ok(()),
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
