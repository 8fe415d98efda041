//! The LAN, the host and its devices.

use std::fmt;
use std::fs;
use std::net::{Ipv4Addr, Ipv6Addr};
use std::path::PathBuf;
use std::process;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use crate::device::{Backend, Dev, Ipvlan, kernel_is_since};
use crate::ns::{Done, Ns};
use crate::sniff::Sniffer;
use crate::{MARK, PATIENCE, eventually, process as programs};

/// Where the program keeps its state.
const STATE: &str = "/sys/fs/bpf/ipvlan";

/// The host, which is the parent's own address.
pub const HOST4: Ipv4Addr = Ipv4Addr::new(10, 1, 0, 1);
/// The same.
pub const HOST6: Ipv6Addr = Ipv6Addr::new(0xfd00, 0, 0, 0, 0, 0, 0, 1);
/// The router on the LAN.
pub const LAN4: Ipv4Addr = Ipv4Addr::new(10, 1, 0, 254);
/// The same.
pub const LAN6: Ipv6Addr = Ipv6Addr::new(0xfd00, 0, 0, 0, 0, 0, 0, 0x254);

/// Mode of the devices.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mode {
    /// Devices on the LAN's subnet.
    L2,
    /// Each device in a subnet of its own; the LAN routes there by way of the parent.
    L3,
    /// The same, and the parent's namespace filters what comes and goes.
    L3s,
}

impl Mode {
    /// All of them.
    pub const ALL: [Self; 3] = [Self::L2, Self::L3, Self::L3s];
}

impl fmt::Display for Mode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::L2 => "l2",
            Self::L3 => "l3",
            Self::L3s => "l3s",
        })
    }
}

/// What a test wants.
#[derive(Clone, Debug)]
pub struct Builder {
    mode: Mode,
    flag: Option<&'static str>,
    devices: u16,
    mtu: Option<u32>,
    v6: bool,
}

impl Builder {
    /// That many devices, each in a namespace of its own, configured and reachable.
    pub fn devices(self, devices: u16) -> Self {
        Self { devices, ..self }
    }

    /// bridge, private or vepa.
    pub fn flag(self, flag: &'static str) -> Self {
        Self {
            flag: Some(flag),
            ..self
        }
    }

    /// MTU of the parent and of the LAN.
    pub fn mtu(self, mtu: u32) -> Self {
        Self {
            mtu: Some(mtu),
            v6: mtu >= 1280,
            ..self
        }
    }

    /// Makes it.
    #[track_caller]
    pub fn build(self) -> Net {
        require_root();
        sweep();
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let count = COUNT.fetch_add(1, Ordering::Relaxed);
        let mark = format!("ipvt-{}-{count}", process::id());
        let lan = Ns::new(format!("{mark}-lan"), &mark);
        let host = Ns::new(format!("{mark}-host"), &mark);
        let mtu = self.mtu.unwrap_or(1500);
        host.batch(&format!(
            "link add eth0 mtu {mtu} type veth peer name lan0 mtu {mtu} netns {}\n\
             link set eth0 up\n\
             addr add 10.1.0.1/24 dev eth0\n",
            lan.name()
        ));
        lan.batch(
            "link set lan0 up\n\
             addr add 10.1.0.254/24 dev lan0\n\
             route add 10.2.0.0/16 via 10.1.0.1\n",
        );
        if self.v6 {
            host.batch("addr add fd00::1/64 dev eth0 nodad\n");
            lan.batch(
                "addr add fd00::254/64 dev lan0 nodad\n\
                 route add fd02::/16 via fd00::1\n",
            );
        }
        if self.mode == Mode::L3s && self.v6 {
            prepare_for_l3s(&host);
        }
        host.hurry("eth0");
        lan.hurry("lan0");
        let mut net = Net {
            ipvlan: Backend::is_ours().then(Ipvlan::find),
            mode: self.mode,
            flag: self.flag,
            devices: Vec::new(),
            lan,
            host,
            mark,
        };
        for _ in 0..self.devices {
            let number = net.add();
            net.devices[usize::from(number)].configure();
        }
        net.wait_until_reachable(self.v6);
        net
    }
}

/// A LAN, a host with a parent on it, and devices. All of it goes with this value.
#[derive(Debug)]
pub struct Net {
    // In this order they go: devices, the parent, the LAN.
    /// The devices.
    pub devices: Vec<Dev>,
    /// Holds the parent, `eth0`.
    pub host: Ns,
    /// The router, and everybody else on the wire: `lan0`.
    pub lan: Ns,
    /// What the devices were made with.
    pub mode: Mode,
    flag: Option<&'static str>,
    ipvlan: Option<Ipvlan>,
    mark: String,
}

impl Net {
    /// One with devices in this mode.
    #[expect(
        clippy::new_ret_no_self,
        reason = "a builder reads better by the name of what it builds"
    )]
    pub fn new(mode: Mode) -> Builder {
        Builder {
            mode,
            flag: None,
            devices: 0,
            mtu: None,
            v6: true,
        }
    }

    /// Makes one more namespace.
    pub fn namespace(&self, suffix: &str) -> Ns {
        Ns::new(format!("{}-{suffix}", self.mark), &self.mark)
    }

    /// Makes one more device in a namespace of its own, neither up nor configured. Returns its
    /// number, which is its index in [`Self::devices`].
    #[track_caller]
    pub fn add(&mut self) -> u16 {
        self.add_on("eth0")
    }

    /// The same on another parent of the host.
    #[track_caller]
    pub fn add_on(&mut self, parent: &str) -> u16 {
        let number = u16::try_from(self.devices.len()).expect("few devices");
        let ns = self.namespace(&format!("ns{number}"));
        let dev = Dev::new(ns, number, self.mode);
        // As for ip, the namespace goes before the type.
        let words = format!(
            "link add link {parent} name {} netns {} type ipvlan mode {} {}",
            dev.name,
            dev.ns.name(),
            self.mode,
            self.flag.unwrap_or_default()
        );
        self.ip(&self.host, &words).expect_quiet();
        self.devices.push(dev);
        number
    }

    #[track_caller]
    fn wait_until_reachable(&self, v6: bool) {
        for dev in &self.devices {
            let [v4, six] = dev.addresses();
            assert!(
                self.lan.reaches(&v4),
                "the LAN reaches {} at {v4}",
                dev.name
            );
            if v6 {
                assert!(
                    self.lan.reaches(&six),
                    "the LAN reaches {} at {six}",
                    dev.name
                );
            }
        }
    }

    /// A device.
    pub fn dev(&self, number: u16) -> &Dev {
        &self.devices[usize::from(number)]
    }

    /// An ear at each device, from now on.
    pub fn ears(&self) -> Vec<Sniffer> {
        let devices = self.devices.iter();
        devices.map(|dev| Sniffer::on(&dev.ns, &dev.name)).collect()
    }

    /// Runs a verb that `ip` and our program have in common (`link add …`, `link set …`,
    /// `link del …`, `-d link show …`) by the one whose devices this test is about.
    pub fn ip(&self, ns: &Ns, words: &str) -> Done {
        match &self.ipvlan {
            Some(ipvlan) => ipvlan.run(ns, words),
            None => ns.try_sh(&format!("ip {words}")),
        }
    }

    /// What `-d link show` says of a device where it lives, with the keys of `ip -j`.
    #[track_caller]
    pub fn look(&self, ns: &Ns, name: &str) -> serde_json::Value {
        let line = format!("-j -d link show dev {name}");
        let text = self.ip(ns, &line).expect();
        let mut all: serde_json::Value = serde_json::from_str(&text).expect("JSON");
        all[0].take()
    }

    /// Mode and flag of a device, as it shows them where it lives: `l2 bridge`.
    #[track_caller]
    pub fn kind(&self, ns: &Ns, name: &str) -> String {
        let shown = self.look(ns, name);
        let data = &shown["linkinfo"]["info_data"];
        let mode = data["mode"].as_str().unwrap_or("?");
        let flags: Vec<&str> = ["bridge", "private", "vepa"]
            .into_iter()
            .filter(|flag| data[flag] == true)
            .collect();
        format!("{mode} {}", flags.join(" "))
    }

    /// Calls the program `ipvlan` on the host.
    pub fn ipvlan(&self, arguments: &str) -> Done {
        self.program().run(&self.host, arguments)
    }

    /// Starts it on the host and kills it after that many microseconds, unless it is faster.
    pub fn kill_after(&self, arguments: &str, micros: u64) {
        let child = self.host.enter(|| {
            process::Command::new(self.program().path())
                .args(arguments.split(' '))
                .env(MARK, &self.mark)
                .stdout(process::Stdio::null())
                .stderr(process::Stdio::null())
                .spawn()
        });
        let mut child = child.expect("ipvlan");
        std::thread::sleep(Duration::from_micros(micros));
        let _: std::io::Result<()> = child.kill();
        let _: std::io::Result<_> = child.wait();
    }

    /// The program itself.
    pub fn program(&self) -> &Ipvlan {
        self.ipvlan
            .as_ref()
            .expect("a test of our own program, which is not for the kernel's driver")
    }

    /// What our program shows of all devices, `ipvlan -j -d link show`.
    pub fn shown(&self) -> serde_json::Value {
        serde_json::from_str(&self.ipvlan("-j -d link show").expect()).expect("JSON")
    }

    /// The parent's MAC address.
    pub fn mac(&self) -> [u8; 6] {
        self.host.mac("eth0")
    }

    /// Marks every process of this net.
    pub fn mark(&self) -> &str {
        &self.mark
    }

    /// The agents that run for this net.
    pub fn agents(&self) -> Vec<u32> {
        programs::agents(&self.mark)
    }

    /// Where the program keeps what it knows of the host's parents.
    pub fn state(&self) -> PathBuf {
        state_of(&self.host)
    }

    /// Waits until nothing of any device is left on the host: no state, no agent, no link.
    #[track_caller]
    pub fn assert_clean(&self) {
        let links = || {
            self.host
                .links()
                .into_iter()
                .filter(|name| name.starts_with("ipv"))
                .collect()
        };
        let left = || (self.state().exists(), self.agents(), links());
        let nothing = (false, Vec::new(), Vec::<String>::new());
        assert!(
            eventually(PATIENCE, || left() == nothing),
            "after the last device no state, no agent and no link is left: {:?}",
            left()
        );
    }
}

impl Drop for Net {
    fn drop(&mut self) {
        let namespaces = self.devices.iter().map(|dev| &dev.ns).chain([&self.host]);
        let mut states: Vec<PathBuf> = namespaces.filter_map(state_of_if_any).collect();
        self.devices.clear();
        self.host.kill();
        self.lan.kill();
        let running = programs::reap(&self.mark, PATIENCE);
        let gone = eventually(PATIENCE, || !states.iter().any(|state| state.exists()));
        states.retain(|state| state.exists());
        if std::thread::panicking() {
            if !running.is_empty() || !gone {
                eprintln!("left behind: {running:?} {states:?}");
            }
            return;
        }
        assert!(
            running.is_empty(),
            "processes end with their namespaces: {running:?} still run"
        );
        assert!(
            gone,
            "state goes with its namespace: {states:?} is still there"
        );
    }
}

impl Done {
    /// Its exit status and the first line of what it complained of.
    pub fn answer(&self) -> (i32, &str) {
        (self.status, self.stderr.lines().next().unwrap_or(""))
    }

    /// The test fails unless it succeeded and had nothing to say.
    #[track_caller]
    pub fn expect_quiet(self) {
        assert!(
            self.ok() && self.stdout.is_empty() && self.stderr.is_empty(),
            "`{}` ended with {} and said: {}{}",
            self.line,
            self.status,
            self.stdout,
            self.stderr
        );
    }
}

/// What ours asks of a parent's namespace before there was a switch for one interface, for IPv6 in
/// l3s (row `l3s-forwarding`). The driver does not care.
pub fn prepare_for_l3s(host: &Ns) {
    if !kernel_is_since(6, 17) {
        host.sysctl("net/ipv6/conf/all/forwarding", "1");
    }
}

/// One more wire: a pair of interfaces that are up, the near one with the addresses 10.N.0.1 and
/// fd0N::1, the far one with 10.N.0.2 and fd0N::2. N, from 3 to 9, is `network`.
#[track_caller]
pub fn cable(near: (&Ns, &str), far: (&Ns, &str), network: u8) {
    near.0.batch(&format!(
        "link add {} type veth peer name {} netns {}\n",
        near.1,
        far.1,
        far.0.name()
    ));
    for (last, (ns, name)) in [(1, near), (2, far)] {
        ns.batch(&format!(
            "link set {name} up\n\
             addr add 10.{network}.0.{last}/24 dev {name}\n\
             addr add fd0{network}::{last}/64 dev {name} nodad\n"
        ));
    }
}

fn state_of(ns: &Ns) -> PathBuf {
    state_of_if_any(ns).expect("a namespace that lives")
}

fn state_of_if_any(ns: &Ns) -> Option<PathBuf> {
    ns.try_handle().map(|handle| {
        let cookie = handle.cookie().expect("Linux 5.14");
        PathBuf::from(STATE).join(format!("{cookie:x}"))
    })
}

/// Refuses to go on without root, in one line.
pub fn require_root() {
    assert!(
        nix::unistd::geteuid().is_root(),
        "this test makes network namespaces and needs root: run `sudo -E cargo xtask test`"
    );
}

/// Removes the namespaces of tests that were killed.
fn sweep() {
    for entry in fs::read_dir("/run/netns").into_iter().flatten().flatten() {
        let name = entry.file_name().to_string_lossy().into_owned();
        let pid = name
            .strip_prefix("ipvt-")
            .and_then(|rest| rest.split('-').next());
        if let Some(pid) = pid
            && !PathBuf::from("/proc").join(pid).exists()
        {
            let _: std::io::Result<_> = process::Command::new("ip")
                .args(["netns", "del", &name])
                .output();
        }
    }
}
