//! The tour itself.
//!
//! What is shown after a prompt is what is run, word for word, but for two things: after
//! `ip netns exec ns0 bash` each line at `ns0#` is a program of its own under `ip netns exec ns0`,
//! and the `kill %tcpdump` of a shell is a system call here.

use std::collections::BTreeSet;
use std::ffi::OsString;
use std::fmt;
use std::io::{BufRead as _, BufReader, Read as _};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::thread::{JoinHandle, sleep, spawn};
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use super::screen::Screen;
use super::stage;
use crate::run::{On, Result, fail};

/// For whatever takes milliseconds.
const PATIENCE: Duration = Duration::from_secs(5);

/// Where a command is typed.
#[derive(Clone, Copy, PartialEq, Eq)]
enum At {
    Machine,
    Lan,
    Host,
    Ns0,
    Ns1,
}

use At::{Host, Lan, Machine, Ns0, Ns1};

impl At {
    fn prompt(self) -> &'static str {
        match self {
            Machine => "#",
            Lan => "lan#",
            Host => "host1#",
            Ns0 => "ns0#",
            Ns1 => "ns1#",
        }
    }

    /// What goes before the words. `ip netns exec` mounts a /sys without bpffs: not for the host.
    fn entry(self) -> &'static [&'static str] {
        match self {
            Machine => &[],
            Lan => &["ip", "netns", "exec", "lan"],
            Host => &["nsenter", "--net=/run/netns/host1"],
            Ns0 => &["ip", "netns", "exec", "ns0"],
            Ns1 => &["ip", "netns", "exec", "ns1"],
        }
    }
}

/// Something that runs on; it goes with this value.
struct Running(Child);

impl Drop for Running {
    fn drop(&mut self) {
        let _: std::io::Result<()> = self.0.kill();
        let _: std::io::Result<_> = self.0.wait();
    }
}

/// A tcpdump.
struct Wire {
    process: Running,
    lines: JoinHandle<Vec<String>>,
}

/// What a wire carried.
struct Capture(Vec<String>);

impl Capture {
    /// The Ethernet sources.
    fn sources(&self) -> BTreeSet<&str> {
        let sources = self.0.iter();
        sources.filter_map(|line| line.split(' ').next()).collect()
    }

    /// One line of each kind: without what differs from frame to frame.
    fn kinds(&self) -> Vec<String> {
        let mut kinds: Vec<String> = Vec::new();
        for line in &self.0 {
            let kind = short(line);
            if !kinds.contains(&kind) {
                kinds.push(kind);
            }
        }
        kinds
    }
}

/// A line of `tcpdump -e` for a narrow terminal.
fn short(line: &str) -> String {
    let line = match (line.find(", ethertype "), line.find(": ")) {
        (Some(from), Some(to)) if from < to => {
            let (before, after) = (line.get(..from), line.get(to + 1..));
            format!("{},{}", before.unwrap_or(line), after.unwrap_or_default())
        }
        _ => line.to_owned(),
    };
    let line = match (line.split_once(", "), line.find("neighbor ")) {
        (Some((ethernet, _)), Some(at)) => {
            format!("{ethernet}, {}", line.get(at..).unwrap_or_default())
        }
        _ => line,
    };
    [", id ", ", length "]
        .iter()
        .filter_map(|tail| line.split_once(tail))
        .map(|(kept, _)| kept.to_owned())
        .min_by_key(String::len)
        .unwrap_or(line)
}

/// Whether it is about the neighbours of IPv4 or IPv6.
fn is_neighbour(line: &&String) -> bool {
    line.contains(" ARP") || line.contains("Request who-has") || line.contains("neighbor ")
}

struct Tour {
    screen: Screen,
    path: OsString,
}

/// Plays all of it.
pub(super) fn play(folder: &Path) -> Result {
    // The stage is the director's work: without it these names would be the machine's own.
    let director = stage::director_of(std::process::id())
        .ok_or_else(|| fail("demo: it takes no arguments"))?;
    let path = std::env::var_os("PATH").unwrap_or_default();
    let folders = std::iter::once(folder.to_path_buf())
        .chain(std::env::split_paths(&path))
        .chain(["/usr/sbin", "/sbin"].map(PathBuf::from));
    let mut tour = Tour {
        screen: Screen::new(),
        path: std::env::join_paths(folders)
            .map_err(|error| fail(format!("{}: {error}", folder.display())))?,
    };
    let begin = Instant::now();
    tour.network()?;
    tour.driver()?;
    tour.howto()?;
    tour.traffic()?;
    tour.devices()?;
    tour.wire()?;
    tour.l3()?;
    tour.end(director)?;
    tour.screen.end(begin.elapsed().as_secs())
}

/// The scenes.
impl Tour {
    fn network(&mut self) -> Result {
        self.screen.section("A network to play in")?;
        self.screen.say(NETWORK)?;
        self.screen.say("")?;
        self.does(Machine, "ip netns add lan")?;
        self.does(Machine, "ip netns add host1")?;
        self.does(Host, "ip link add eth0 type veth peer name lan0 netns lan")?;
        self.does(Host, "ip link set dev lo up")?;
        self.does(Host, "ip link set dev eth0 up")?;
        self.does(Host, "ip -4 addr add 10.1.0.1/24 dev eth0")?;
        self.does(Host, "ip -6 addr add fd00:1::1/64 dev eth0 nodad")?;
        self.does(Lan, "ip link set dev lan0 up")?;
        self.does(Lan, "ip -4 addr add 10.1.0.254/24 dev lan0")?;
        self.does(Lan, "ip -6 addr add fd00:1::fe/64 dev lan0 nodad")
    }

    fn driver(&mut self) -> Result {
        self.screen.section("This kernel and its ipvlan driver")?;
        self.screen.say("")?;
        let (ok, said) = self.show(Host, "ip link add link eth0 name x type ipvlan")?;
        self.outputs(&said)?;
        if ok {
            self.does(Host, "ip link del x")?;
            self.screen
                .say("This kernel has the driver. What follows does not use it.")
        } else if said.contains("Unknown device type") {
            self.screen.say("This kernel was built without it.")
        } else {
            self.screen.say("It cannot be used here.")
        }
    }

    fn howto(&mut self) -> Result {
        self.screen
            .section("Section 6 of the HOWTO, mode l2: \"ip\" but for two lines")?;
        self.screen
            .say("(a) Create two network namespaces - ns0, ns1")?;
        self.does(Host, "ip netns add ns0")?;
        self.does(Host, "ip netns add ns1")?;
        self.screen
            .say("(b) Create two ipvlan slaves on eth0 (master device)")?;
        self.does(Host, "ipvlan link add link eth0 ipvl0 type ipvlan mode l2")?;
        self.does(Host, "ipvlan link add link eth0 ipvl1 type ipvlan mode l2")?;
        self.screen
            .say("(c) Assign slaves to the respective network namespaces")?;
        self.does(Host, "ip link set dev ipvl0 netns ns0")?;
        self.does(Host, "ip link set dev ipvl1 netns ns1")?;
        self.screen
            .say("(d) Now switch to the namespace (ns0 or ns1) to configure the slave devices")?;
        for (at, name, dev, host) in [(Ns0, "ns0", "ipvl0", 10), (Ns1, "ns1", "ipvl1", 11)] {
            // Every line below is run by `ip netns exec`.
            self.screen
                .command(Host.prompt(), &format!("ip netns exec {name} bash"))?;
            self.does(at, &format!("ip link set dev {dev} up"))?;
            self.does(at, "ip link set dev lo up")?;
            self.does(at, "ip -4 addr add 127.0.0.1 dev lo")?;
            self.does(at, &format!("ip -4 addr add 10.1.0.{host}/24 dev {dev}"))?;
            self.does(
                at,
                &format!("ip -4 route add default via 10.1.0.254 dev {dev}"),
            )?;
            self.does(at, &format!("ip -6 addr add fd00:1::{host}/64 dev {dev}"))?;
            self.does(
                at,
                &format!("ip -6 route add default via fd00:1::fe dev {dev}"),
            )?;
        }
        self.settle()
    }

    fn traffic(&mut self) -> Result {
        self.screen.section("Everybody reaches everybody")?;
        self.screen.say("Ping, IPv4 and IPv6, small and large:")?;
        self.ping(Ns0, "10.1.0.11")?;
        self.ping(Ns0, "10.1.0.254")?;
        self.ping(Lan, "10.1.0.11")?;
        self.ping(Ns0, "fd00:1::11")?;
        self.ping(Ns1, "fd00:1::fe")?;
        self.ping(Lan, "fd00:1::10")?;
        self.ping(Lan, "-s 20000 10.1.0.10")?;
        self.ping(Ns0, "-s 20000 fd00:1::11")?;
        self.screen
            .say("TCP, both ways (with -R the server sends):")?;
        self.tcp(Ns1, Ns0, "10.1.0.11")?;
        self.tcp(Ns1, Ns0, "10.1.0.11 -R")?;
        self.tcp(Ns1, Lan, "10.1.0.11")?;
        self.tcp(Ns1, Lan, "fd00:1::11 -R")
    }

    fn devices(&mut self) -> Result {
        self.screen
            .section("The devices, from outside and inside")?;
        self.screen.say("")?;
        let shown = self.reads(Host, "ipvlan -d link show")?;
        let what = "ipvlan -d link show has both devices and their addresses";
        let wanted = ["ipvl0@eth0", "ipvl1@eth0", "10.1.0.10", "fd00:1::11"];
        let ok = wanted.iter().all(|word| shown.contains(word));
        self.screen
            .check(ok, what, "two devices, and the addresses that they own")?;
        let stats = self.reads(Host, "ipvlan stats")?;
        let ok = stats.contains("ipvl0@eth0") && stats.contains("ipvl1@eth0");
        self.screen.check(
            ok,
            "ipvlan stats has both devices",
            "a counter for each reason to drop a frame, if there was one",
        )?;
        let inside = self.reads(Ns0, "ip link")?;
        let ok = inside.contains("ipvl0") && inside.contains(&self.mac(Host, "eth0")?);
        let what = "in ns0 there is ipvl0 with the MAC address of eth0";
        self.screen.check(ok, what, what)
    }

    fn wire(&mut self) -> Result {
        let mac = self.mac(Host, "eth0")?;
        self.screen.section("What the LAN sees: one MAC address")?;
        self.screen.say(
            "Everybody forgets his neighbours and finds them again, while tcpdump listens to what\n\
             comes out of host1.",
        )?;
        for at in [Lan, Ns0, Ns1] {
            self.does(at, "ip neigh flush all")?;
        }
        let wire =
            self.listen("tcpdump -entl -i lan0 -Q in --immediate-mode arp or icmp or icmp6")?;
        self.ping(Host, "10.1.0.254")?;
        self.ping(Ns0, "10.1.0.254")?;
        self.ping(Ns1, "fd00:1::fe")?;
        for address in ["10.1.0.1", "10.1.0.10", "10.1.0.11"] {
            self.arping(address, &mac)?;
        }
        let seen = self.stop(wire)?;
        self.one_mac(&seen, &mac, 12)?;
        let known = self.reads(Lan, "ip neigh show dev lan0")?;
        let mut known = known.lines().filter(|line| line.contains("lladdr"));
        let ok = known.clone().count() > 1 && known.all(|line| line.contains(&mac));
        let what = "whomever the LAN knows, it knows by that MAC address";
        self.screen.check(ok, what, what)?;

        self.screen.say(
            "Now root in ns0 is hostile and takes another MAC address. In ns0 that is what it looks\n\
             like, but not on the wire:",
        )?;
        self.does(Ns0, "ip link set dev ipvl0 address 02:de:ad:be:ef:00")?;
        let (_, shown) = self.show(Ns0, "ip link show dev ipvl0")?;
        for line in shown.lines().filter(|line| line.contains("link/ether")) {
            self.screen.output(line)?;
        }
        let what = "ns0 has another MAC address";
        self.screen
            .check(shown.contains("02:de:ad:be:ef:00"), what, what)?;
        self.does(Ns0, "ip neigh flush all")?;
        self.does(Lan, "ip neigh flush all")?;
        let wire =
            self.listen("tcpdump -entl -i lan0 -Q in --immediate-mode arp or icmp or icmp6")?;
        self.ping(Ns0, "10.1.0.254")?;
        self.ping(Ns0, "fd00:1::fe")?;
        self.ping(Lan, "10.1.0.10")?;
        self.arping("10.1.0.10", &mac)?;
        let seen = self.stop(wire)?;
        self.one_mac(&seen, &mac, 10)
    }

    fn l3(&mut self) -> Result {
        let mac = self.mac(Host, "eth0")?;
        self.screen
            .section("Mode l3: two subnets behind one host")?;
        self.screen
            .say("The mode belongs to the parent: all of its devices follow, wherever they are.")?;
        self.does(Host, "ipvlan link set eth0 type ipvlan mode l3")?;
        let shown = self.reads(Host, "ipvlan -d link show")?;
        let ok = shown.matches(" mode l3 ").count() == 2;
        let what = "both devices are in mode l3";
        self.screen.check(ok, what, what)?;

        self.screen
            .say("Each gets a subnet of its own, and the LAN a route to both by way of host1:")?;
        self.does(Ns0, "ip addr flush dev ipvl0")?;
        self.does(Ns0, "ip -6 route flush dev ipvl0")?;
        self.does(Ns1, "ip addr flush dev ipvl1")?;
        self.does(Ns1, "ip -6 route flush dev ipvl1")?;
        for (at, dev, net) in [(Ns0, "ipvl0", 0), (Ns1, "ipvl1", 1)] {
            self.does(at, &format!("ip -4 addr add 10.2.{net}.10/24 dev {dev}"))?;
            self.does(at, &format!("ip -4 route add default dev {dev}"))?;
            self.does(at, &format!("ip -6 addr add fd00:2:{net}::10/64 dev {dev}"))?;
            self.does(at, &format!("ip -6 route add default dev {dev}"))?;
        }
        self.does(Lan, "ip -4 route add 10.2.0.0/16 via 10.1.0.1")?;
        self.does(Lan, "ip -6 route add fd00:2::/32 via fd00:1::1")?;
        self.settle()?;

        self.screen
            .say("Everybody reaches everybody, while tcpdump listens to both directions:")?;
        self.does(Lan, "ip neigh flush all")?;
        self.does(Host, "ip neigh flush all")?;
        let wire = self.listen("tcpdump -entl -i lan0 --immediate-mode arp or icmp or icmp6")?;
        self.ping(Ns0, "10.2.1.10")?;
        self.ping(Ns0, "10.1.0.254")?;
        self.ping(Lan, "10.2.1.10")?;
        self.ping(Ns1, "fd00:2:0::10")?;
        self.ping(Ns1, "fd00:1::fe")?;
        self.ping(Lan, "fd00:2:0::10")?;
        self.ping(Lan, "-s 20000 10.2.0.10")?;
        let seen = self.stop(wire)?;
        let neighbours: Vec<&String> = seen.0.iter().filter(is_neighbour).collect();
        let about_devices = neighbours
            .iter()
            .filter(|line| line.contains("10.2.") || line.contains("fd00:2:"))
            .count();
        for line in seen.kinds().iter().filter(is_neighbour) {
            self.screen.output(line)?;
        }
        let (all, count) = (seen.0.len(), neighbours.len());
        self.screen.check(
            count > 0 && about_devices == 0,
            "no ARP or neighbour discovery for devices in l3",
            &format!(
                "{all} frames, {count} of them ARP or neighbour discovery: none about a device"
            ),
        )?;
        let lan = self.mac(Lan, "lan0")?;
        let ok = seen
            .sources()
            .into_iter()
            .eq(BTreeSet::from([&*mac, &*lan]));
        self.screen.check(
            ok,
            "two MAC addresses on the wire in l3",
            &format!("2 MAC addresses on the wire, that of eth0 and that of lan0, {lan}"),
        )?;
        self.screen.say("TCP, both ways:")?;
        self.tcp(Ns1, Ns0, "10.2.1.10")?;
        self.tcp(Ns1, Lan, "10.2.1.10")?;
        self.tcp(Ns1, Lan, "fd00:2:1::10 -R")
    }

    fn end(&mut self, director: u32) -> Result {
        self.screen.section("The end: nothing is left")?;
        let agents = stage::agents(director);
        let state = agents.first().copied().and_then(stage::state_of);
        let (&[agent], Some(state)) = (&*agents, state) else {
            let found = agents.len();
            return Err(fail(format!("one agent was expected, there are {found}")));
        };
        self.screen.say(&format!(
            "Process {agent} is the agent that the first \"ipvlan link add\" has started. What it\n\
             looks after is pinned in the machine's bpffs:",
        ))?;
        let list = format!("ls {}", state.display());
        self.does(Machine, &list)?;
        self.screen
            .say("One device is deleted inside, the other one goes with its namespace:")?;
        self.does(Ns0, "ip link del ipvl0")?;
        self.does(Host, "ip netns del ns1")?;
        let ended = stage::within(PATIENCE, || !stage::agents(director).contains(&agent));
        let gone = stage::within(PATIENCE, || !state.exists());
        let shown = self.reads(Host, "ipvlan link show")?;
        let what = "no device is left";
        self.screen.check(shown.is_empty(), what, what)?;
        let links = self.reads(Host, "ip -br link")?;
        let ok = links.lines().count() == 2 && links.contains("eth0@");
        let what = "beside eth0 there is nothing";
        self.screen.check(ok, what, what)?;
        let (_, listed) = self.show(Machine, &list)?;
        self.outputs(&listed)?;
        let what = "nothing is pinned";
        self.screen
            .check(gone, format!("{what}: {}", state.display()), what)?;
        let what = format!("the agent, process {agent}, has ended by itself");
        self.screen.check(ended, &what, &what)?;
        self.does(Host, "ip netns del ns0")?;
        self.does(Machine, "ip netns del host1")?;
        self.does(Machine, "ip netns del lan")?;
        let names = self.reads(Machine, "ip netns list")?;
        let what = "no namespace is left";
        self.screen.check(names.is_empty(), what, what)
    }
}

/// What a scene is made of.
impl Tour {
    fn process(&self, at: At, before: &[&str], line: &str) -> Command {
        let before = before.iter().chain(at.entry()).copied();
        let mut words = before.chain(line.split_whitespace());
        let mut command = Command::new(words.next().unwrap_or_default());
        let _: &mut Command = command
            .args(words)
            .env("PATH", &self.path)
            .env("LC_ALL", "C")
            .stdin(Stdio::null());
        command
    }

    /// Runs it unseen: whether it succeeded, and what it printed.
    fn quiet(&self, at: At, line: &str) -> Result<(bool, String)> {
        let (mut reader, writer) = std::io::pipe().on("pipe")?;
        let mut command = self.process(at, &["timeout", "--foreground", "20"], line);
        let _: &mut Command = command
            .stdout(writer.try_clone().on("pipe")?)
            .stderr(writer);
        let mut child = command.spawn().on("timeout")?;
        // It holds the pipe's other end.
        drop(command);
        let mut bytes = Vec::new();
        let _: usize = reader.read_to_end(&mut bytes).on("pipe")?;
        let ok = child.wait().on("timeout")?.success();
        Ok((ok, String::from_utf8_lossy(&bytes).into_owned()))
    }

    /// Shows it and runs it.
    fn show(&self, at: At, line: &str) -> Result<(bool, String)> {
        self.screen.command(at.prompt(), line)?;
        self.quiet(at, line)
    }

    fn outputs(&self, text: &str) -> Result {
        text.lines().try_for_each(|line| self.screen.output(line))
    }

    /// Shows it, runs it, shows its output. The rest makes no sense if it fails.
    fn reads(&self, at: At, line: &str) -> Result<String> {
        let (ok, said) = self.show(at, line)?;
        self.outputs(&said)?;
        if ok {
            return Ok(said);
        }
        Err(fail(format!("failed: {} {line}", at.prompt())))
    }

    fn does(&self, at: At, line: &str) -> Result {
        self.reads(at, line).map(drop)
    }

    /// A check that a line of a command's output proves.
    fn proves(&mut self, at: At, line: &str, proof: impl Fn(&str) -> bool) -> Result {
        let (ok, said) = self.show(at, line)?;
        let what = fmt::from_fn(|f| write!(f, "{} {line}", at.prompt()));
        match said.lines().find(|line| proof(line)) {
            Some(found) if ok => self.screen.check(true, what, found),
            _ => {
                self.outputs(&said)?;
                self.screen.check(false, what, "not as expected")
            }
        }
    }

    fn ping(&mut self, from: At, to: &str) -> Result {
        let line = format!("ping -n -c 3 -i 0.1 -W 2 {to}");
        self.proves(from, &line, |line| {
            line.contains("3 received, 0% packet loss")
        })
    }

    fn arping(&mut self, address: &str, mac: &str) -> Result {
        let line = format!("arping -c 1 -w 2 -I lan0 {address}");
        self.proves(Lan, &line, |line| line.to_lowercase().contains(mac))
    }

    fn tcp(&mut self, server: At, client: At, to: &str) -> Result {
        let line = "iperf3 -s -1";
        self.screen.command(server.prompt(), &format!("{line} &"))?;
        let mut process = self.process(server, &[], line);
        let process = process.stdout(Stdio::null()).stderr(Stdio::null());
        let _server = Running(process.spawn().on("iperf3")?);
        let listens = || {
            let found = self.quiet(server, "ss -Hltn sport = :5201");
            found.is_ok_and(|(ok, said)| ok && !said.is_empty())
        };
        if !stage::within(PATIENCE, listens) {
            return Err(fail("iperf3 does not listen"));
        }
        let line = format!("iperf3 -t 1 -c {to}");
        self.proves(client, &line, |line| {
            let moved = line.contains("bits/sec") && !line.contains(" 0.00 bits/sec");
            moved && line.trim_end().ends_with("receiver")
        })
    }

    /// Starts a tcpdump, and waits until it listens.
    fn listen(&self, line: &str) -> Result<Wire> {
        self.screen.command(Lan.prompt(), &format!("{line} &"))?;
        let mut command = self.process(Lan, &[], line);
        let command = command.stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut process = Running(command.spawn().on("tcpdump")?);
        let (out, err) = (process.0.stdout.take(), process.0.stderr.take());
        let (Some(out), Some(err)) = (out, err) else {
            return Err(fail("tcpdump: no output"));
        };
        let mut err = BufReader::new(err).lines().map_while(std::io::Result::ok);
        if !err.any(|line| line.contains("listening on")) {
            return Err(fail("tcpdump does not listen"));
        }
        let _: JoinHandle<()> = spawn(move || err.for_each(drop));
        let out = BufReader::new(out).lines();
        let lines = spawn(move || out.map_while(std::io::Result::ok).collect());
        Ok(Wire { process, lines })
    }

    fn stop(&self, mut wire: Wire) -> Result<Capture> {
        // What is on its way to tcpdump.
        sleep(Duration::from_millis(300));
        self.screen.command(Lan.prompt(), "kill %tcpdump")?;
        let pid = i32::try_from(wire.process.0.id()).map_err(|_| fail("tcpdump: process id"))?;
        kill(Pid::from_raw(pid), Signal::SIGTERM)
            .map_err(|errno| fail(format!("tcpdump: {errno}")))?;
        let _: std::process::ExitStatus = wire.process.0.wait().on("tcpdump")?;
        let mut lines = wire.lines.join().map_err(|_| fail("tcpdump: output"))?;
        // It ends with an empty line.
        lines.retain(|line| !line.is_empty());
        Ok(Capture(lines))
    }

    /// At least so many frames, all from the parent's MAC address.
    fn one_mac(&mut self, seen: &Capture, mac: &str, at_least: usize) -> Result {
        for line in seen.kinds().iter().take(12) {
            self.screen.output(line)?;
        }
        let (frames, sources) = (seen.0.len(), seen.sources());
        let ok = frames >= at_least && sources.iter().eq(&[mac]);
        let macs = sources.len();
        let list = sources.into_iter().collect::<Vec<_>>().join(", ");
        let s = if macs == 1 { "" } else { "es" };
        self.screen.check(
            ok,
            "one MAC address on the wire",
            &format!("{frames} frames came out of host1, from {macs} MAC address{s}: {list}"),
        )
    }

    fn mac(&self, at: At, dev: &str) -> Result<String> {
        let (_, said) = self.quiet(at, &format!("ip -br link show dev {dev}"))?;
        let mac = said.split_whitespace().nth(2);
        mac.map(str::to_owned)
            .ok_or_else(|| fail(format!("{dev} has no MAC address")))
    }

    /// IPv6 addresses can be used after a second or two: duplicate address detection.
    fn settle(&self) -> Result {
        for at in [Ns0, Ns1] {
            let settled = || {
                let found = self.quiet(at, "ip -6 addr show tentative");
                found.is_ok_and(|(ok, said)| ok && said.is_empty())
            };
            if !stage::within(PATIENCE, settled) {
                return Err(fail("duplicate address detection does not end"));
            }
        }
        Ok(())
    }
}

const NETWORK: &str = "\
The prompt says where a command is typed. Nothing of this touches the machine's own network.

        lan, a router                        host1
    lan0 10.1.0.254 fd00:1::fe ------ eth0 10.1.0.1 fd00:1::1
                                        +-- ipvl0 in ns0, 10.1.0.10 fd00:1::10
                                        +-- ipvl1 in ns1, 10.1.0.11 fd00:1::11";

#[cfg(test)]
mod tests {
    use super::{Capture, short};

    const ARP: &str = "02:00:00:00:00:01 > ff:ff:ff:ff:ff:ff, ethertype ARP (0x0806), length 42: \
                       Request who-has 10.1.0.1 tell 10.1.0.2, length 28";

    #[test]
    fn a_frame_fits_in_a_line() {
        let arp = "02:00:00:00:00:01 > ff:ff:ff:ff:ff:ff, Request who-has 10.1.0.1 tell 10.1.0.2";
        assert_eq!(short(ARP), arp);
        let nd = "02:00:00:00:00:01 > 33:33:ff:00:00:01, ethertype IPv6 (0x86dd), length 86: \
                  fd00::2 > ff02::1:ff00:1: ICMP6, neighbor solicitation, who has fd00::1, length 32";
        let line = "02:00:00:00:00:01 > 33:33:ff:00:00:01, neighbor solicitation, who has fd00::1";
        assert_eq!(short(nd), line);
        assert_eq!(short("other"), "other");
    }

    #[test]
    fn a_capture_has_sources_and_kinds() {
        let seen = Capture(vec![ARP.into(), ARP.into()]);
        assert_eq!(seen.sources().len(), 1);
        assert_eq!(seen.kinds().len(), 1);
    }
}
