//! A network namespace with a name, and how to do things in it.

use std::io::Write as _;
use std::process::{Output, Stdio};

use ipvlan_netlink::{NetNs, Netlink};

use crate::process::{Process, command};

/// A named network namespace. It goes with this value.
#[derive(Debug)]
pub struct Ns {
    name: String,
    mark: String,
    handle: Option<NetNs>,
}

/// What became of a command.
#[derive(Clone, Debug)]
pub struct Done {
    /// The command.
    pub line: String,
    /// Exit status; -1: killed by a signal.
    pub status: i32,
    /// What it wrote.
    pub stdout: String,
    /// What it complained of.
    pub stderr: String,
}

impl Done {
    fn new(line: &str, output: &Output) -> Self {
        Self {
            line: line.to_owned(),
            status: output.status.code().unwrap_or(-1),
            stdout: String::from_utf8_lossy(&output.stdout).into_owned(),
            stderr: String::from_utf8_lossy(&output.stderr).into_owned(),
        }
    }

    /// Whether it succeeded.
    pub fn ok(&self) -> bool {
        self.status == 0
    }

    /// Its output; the test fails unless it succeeded.
    #[track_caller]
    pub fn expect(self) -> String {
        assert!(
            self.ok(),
            "`{}` ended with {}: {}{}",
            self.line,
            self.status,
            self.stderr,
            self.stdout
        );
        self.stdout
    }
}

impl Ns {
    /// Makes it.
    pub(crate) fn new(name: String, mark: &str) -> Self {
        let output = command(mark, &["ip", "netns", "add", &name])
            .output()
            .expect("ip");
        let _: String = Done::new(&format!("ip netns add {name}"), &output).expect();
        Self::named(name, mark)
    }

    /// Gives a name to the one that a process is in.
    pub(crate) fn adopt(name: String, mark: &str, pid: u32) -> Self {
        let pid = pid.to_string();
        let words = ["ip", "netns", "attach", &name, &pid];
        let output = command(mark, &words).output().expect("ip");
        let _: String = Done::new(&words.join(" "), &output).expect();
        Self::named(name, mark)
    }

    fn named(name: String, mark: &str) -> Self {
        let handle = NetNs::by_name(&name).expect("a namespace just made");
        let ns = Self {
            name,
            mark: mark.to_owned(),
            handle: Some(handle),
        };
        ns.batch("link set lo up");
        // Seconds of waiting that no test is about.
        ns.sysctl("net/ipv6/conf/default/dad_transmits", "0");
        ns.sysctl("net/ipv6/conf/default/accept_ra", "0");
        ns
    }

    /// Its name, as `ip netns` has it.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The handle.
    pub fn handle(&self) -> &NetNs {
        self.handle
            .as_ref()
            .expect("a namespace that was not killed")
    }

    /// The handle; `None` once it was killed.
    pub fn try_handle(&self) -> Option<&NetNs> {
        self.handle.as_ref()
    }

    /// Runs `f` inside. Threads and programs that it starts are there, too.
    pub fn enter<R>(&self, f: impl FnOnce() -> R) -> R {
        self.handle().enter(f).expect("root may enter a namespace")
    }

    /// Runs a command, words separated by blanks.
    pub fn try_sh(&self, line: &str) -> Done {
        let words: Vec<&str> = line.split_whitespace().collect();
        self.try_run(&words)
    }

    /// The same; the test fails unless it succeeds.
    #[track_caller]
    pub fn sh(&self, line: &str) {
        let _: String = self.try_sh(line).expect();
    }

    /// The same, for its output.
    #[track_caller]
    pub fn read(&self, line: &str) -> String {
        self.try_sh(line).expect()
    }

    /// Runs a command given in words.
    pub fn try_run(&self, words: &[&str]) -> Done {
        let all: Vec<&str> = ["timeout", "-k", "1", "60"]
            .iter()
            .chain(words)
            .copied()
            .collect();
        let output = self.enter(|| command(&self.mark, &all).output());
        let output = output.unwrap_or_else(|error| panic!("{words:?}: {error}"));
        Done::new(&words.join(" "), &output)
    }

    /// Runs a line of shell, for pipes.
    pub fn shell(&self, line: &str) -> Done {
        self.try_run(&["sh", "-c", line])
    }

    /// Runs lines of `ip -batch`.
    #[track_caller]
    pub fn batch(&self, lines: &str) {
        let _: String = self.try_batch(lines).expect();
    }

    /// The same. The first line that fails is the last one.
    pub fn try_batch(&self, lines: &str) -> Done {
        let words = ["ip", "-batch", "-"];
        let output = self.enter(|| {
            let mut ip = command(&self.mark, &words)
                .stdin(Stdio::piped())
                .stdout(Stdio::piped())
                .stderr(Stdio::piped())
                .spawn()
                .expect("ip");
            // A line that fails ends it, and then it reads no more.
            let mut pipe = ip.stdin.take().expect("a pipe");
            let _: std::io::Result<()> = pipe.write_all(lines.as_bytes());
            drop(pipe);
            ip.wait_with_output().expect("ip")
        });
        Done::new(&format!("ip -batch: {lines}"), &output)
    }

    /// Starts a program in the background; its output can be had at the end.
    pub fn spawn(&self, line: &str) -> Process {
        let words: Vec<&str> = line.split_whitespace().collect();
        self.enter(|| {
            let mut command = command(&self.mark, &words);
            let _: &mut _ = command.stdout(Stdio::piped()).stderr(Stdio::null());
            Process::spawn(command)
        })
    }

    /// Writes a sysctl of this namespace, `net/ipv4/…`.
    pub fn sysctl(&self, name: &str, value: &str) {
        let path = format!("/proc/sys/{name}");
        self.enter(|| std::fs::write(&path, value))
            .unwrap_or_else(|error| panic!("{path} = {value}: {error}"));
    }

    /// Seconds of waiting that no test is about: how long a neighbour is looked for on an interface
    /// before the next try.
    pub fn hurry(&self, interface: &str) {
        for family in ["ipv4", "ipv6"] {
            let path = format!("/proc/sys/net/{family}/neigh/{interface}/retrans_time_ms");
            // There is no IPv6 below an MTU of 1280.
            let _: std::io::Result<()> = self.enter(|| std::fs::write(path, "100"));
        }
    }

    /// MAC address of an interface.
    #[track_caller]
    pub fn mac(&self, interface: &str) -> [u8; 6] {
        self.link(interface)
            .mac
            .unwrap_or_else(|| panic!("{interface} has no MAC address"))
    }

    /// Index of an interface.
    #[track_caller]
    pub fn index(&self, interface: &str) -> u32 {
        self.link(interface).index
    }

    /// An interface, if there is one of that name.
    pub fn find_link(&self, interface: &str) -> Option<ipvlan_netlink::Link> {
        self.enter(|| Netlink::open().and_then(|mut nl| nl.link_by_name(interface)))
            .expect("netlink")
    }

    /// Names of all interfaces.
    pub fn links(&self) -> Vec<String> {
        let links = self.enter(|| Netlink::open().and_then(|mut nl| nl.links(None)));
        links
            .expect("netlink")
            .into_iter()
            .map(|link| link.name)
            .collect()
    }

    /// An interface.
    #[track_caller]
    pub fn link(&self, interface: &str) -> ipvlan_netlink::Link {
        self.find_link(interface)
            .unwrap_or_else(|| panic!("no {interface} in {}", self.name))
    }

    /// What the kernel's neighbour table says of an address: `10.1.0.1 lladdr … REACHABLE`.
    pub fn neighbour(&self, address: &str) -> String {
        self.read(&format!("ip neigh show {address}"))
    }

    /// Whether `address` answers a ping before patience ends. IPv6 or IPv4.
    #[must_use]
    pub fn reaches(&self, address: &str) -> bool {
        // ping itself gives up when a neighbour is not found at once.
        let mut last = None;
        let found = crate::eventually(crate::PATIENCE, || {
            let done = self.try_sh(&format!("ping -n -q -c 1 -i 0.1 -w 2 {address}"));
            last.insert(done).ok()
        });
        if !found {
            eprintln!("{}: {last:?}", self.name);
        }
        found
    }

    /// Whether `address` answers one of a few pings, soon.
    #[must_use]
    pub fn answers(&self, address: &str) -> bool {
        self.try_sh(&format!("ping -n -q -c 3 -i 0.1 -W 0.4 {address}"))
            .ok()
    }

    /// Waits until nobody answers at `address` any more; false if somebody still does.
    #[must_use]
    pub fn loses(&self, address: &str) -> bool {
        crate::eventually(crate::PATIENCE, || {
            self.sh("ip neigh flush all");
            !self.answers(address)
        })
    }

    /// Kills the namespace: its name, and every handle that we have.
    pub fn kill(&mut self) {
        if self.handle.take().is_some() {
            let words = ["ip", "netns", "del", &self.name];
            let _: std::io::Result<Output> = command(&self.mark, &words).output();
        }
    }
}

impl Drop for Ns {
    fn drop(&mut self) {
        self.kill();
    }
}
