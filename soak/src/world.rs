//! Does what the script says, and keeps record of what should be afterwards.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::process::{Command, ExitStatus, Stdio};
use std::thread;
use std::time::Duration;

use ipvlan_tests::load::KernelLog;
use ipvlan_tests::packet::{
    ALL_NODES, BROADCAST, arp, ethernet, ethertype, icmpv6, ipv6, mac_text, nd, next,
};
use ipvlan_tests::process::kill_hard;
use ipvlan_tests::sniff::Sender;
use ipvlan_tests::{Done, Guest, LAN4, LAN6, MARK, Net, Ns, PATIENCE, Process, eventually};

use crate::Shared;
use crate::model::{Device, Fact, GRACE, GUEST, Home, Mode, Number, State, Time, guest_mac};
use crate::places::{Place, Spot};
use crate::report::Fate;
use crate::script::{Call, Op, mac};

/// Of a guest.
const GUEST_INTERFACE: &str = "eth0";

/// What became of something that was done.
enum Outcome {
    Done,
    /// What was said.
    Failed(String),
    /// Nobody knows how far it came.
    Killed,
}

impl From<Done> for Outcome {
    fn from(done: Done) -> Self {
        if done.ok() {
            return Self::Done;
        }
        let said = done.stderr.trim_end();
        Self::Failed(format!(
            "`{}` ended with {}: {said}",
            done.line, done.status
        ))
    }
}

/// The net, and what is known of it.
pub(crate) struct World<'a> {
    pub(crate) net: Net,
    pub(crate) homes: Vec<Ns>,
    /// Those that run.
    guests: BTreeMap<Number, Guest>,
    pub(crate) shared: &'a Shared,
    pub(crate) state: State,
    /// Devices of which only a look can tell whether they are there.
    pub(crate) doubts: BTreeSet<Number>,
    /// Those of them with which something failed. They are given up.
    pub(crate) failed: BTreeSet<Number>,
    /// Mode and flag may be these as well.
    pub(crate) either: BTreeSet<Fact>,
    /// When the parent got another MAC address last.
    mac_changed: Option<Time>,
    /// Nobody may have announced that: a call does not, nor does an agent that starts later.
    unannounced: bool,
    /// Those that were started by hand.
    agents: Vec<Process>,
    /// What the kernel finds fault with; on a machine that does other things, too, not only in us.
    log: KernelLog,
}

impl<'a> World<'a> {
    pub(crate) fn new(shared: &'a Shared, homes: usize) -> Self {
        let net = Net::new(ipvlan_tests::Mode::L2).build();
        for ns in [&net.lan, &net.host] {
            prepare(ns);
        }
        net.host
            .sh(&format!("ip link set eth0 address {}", mac_text(mac(0))));
        let state = State::new(mac(0));
        shared.facts().end(shared.now(), &state.facts());
        let mut world = Self {
            net,
            homes: Vec::new(),
            guests: BTreeMap::new(),
            shared,
            state,
            doubts: BTreeSet::new(),
            failed: BTreeSet::new(),
            either: BTreeSet::new(),
            mac_changed: None,
            unannounced: false,
            agents: Vec::new(),
            log: KernelLog::new(),
        };
        world.configure_lan();
        for home in 0..homes {
            let ns = world.make_home(home);
            world.homes.push(ns);
        }
        for (spot, ns) in [(Spot::Lan, &world.net.lan), (Spot::Host, &world.net.host)] {
            let place = Place::new(ns, spot, shared.now());
            let _: Option<Place> = shared.places().all.insert(spot, place);
        }
        world
    }

    /// An empty namespace that listens.
    fn make_home(&self, home: Home) -> Ns {
        let ns = self.net.namespace(&format!("n{home}"));
        prepare(&ns);
        let spot = Spot::Home(home);
        let place = Place::new(&ns, spot, self.shared.now());
        let _: Option<Place> = self.shared.places().all.insert(spot, place);
        ns
    }

    /// Its name now.
    pub(crate) fn name(number: Number, device: &Device) -> String {
        let letter = if device.renamed { 'r' } else { 'd' };
        format!("{letter}{number}")
    }

    /// Where its interface is, and its name there.
    fn place(&self, number: Number) -> Option<(&Ns, String)> {
        let device = self.state.devices.get(&number)?;
        if device.machine.is_some() {
            return Some((&self.net.host, Self::name(number, device)));
        }
        Some((self.homes.get(device.home)?, Self::name(number, device)))
    }

    /// Does it, if there is something to do it to.
    pub(crate) fn perform(&mut self, op: &Op) -> Fate {
        let doubtful = op
            .devices()
            .iter()
            .any(|number| self.doubts.contains(number));
        let next = self.state.after(op).filter(|_| !doubtful);
        let Some(next) = next else { return Fate::Void };
        self.shared
            .report()
            .starts(self.shared.now(), &op.to_string());
        self.shared.facts().begin(self.shared.now(), &next.facts());
        let outcome = self.act(op, &next);
        let changes = !matches!(op, Op::Look { .. });
        let fate = match outcome {
            Outcome::Done => {
                let known = |fact: &Fact| match op {
                    Op::Mode { .. } => matches!(fact, Fact::Mode(_)),
                    Op::Flag { .. } => matches!(fact, Fact::Flag(_)),
                    _ => false,
                };
                self.either.retain(|fact| !known(fact));
                self.state = next;
                Fate::Done
            }
            Outcome::Failed(why) => {
                self.shared.found(why);
                self.doubts.extend(op.devices());
                self.failed.extend(op.devices());
                Fate::Done
            }
            Outcome::Killed => {
                self.doubts.extend(op.devices());
                if matches!(op, Op::Mode { .. } | Op::Flag { .. }) {
                    let new = next.facts();
                    self.either.extend(new.difference(&self.state.facts()));
                }
                Fate::Killed
            }
        };
        self.remember();
        if op.call().is_some() && changes {
            if fate == Fate::Done {
                self.shared.facts().follow(self.shared.now());
            }
            self.notice_agent();
        }
        if matches!(op, Op::Mode { .. } | Op::Carrier { .. }) {
            self.configure_lan();
        }
        fate
    }

    /// What is true from now on, and who can speak.
    pub(crate) fn remember(&mut self) {
        let facts: BTreeSet<Fact> = self.state.facts().union(&self.either).copied().collect();
        self.shared.facts().end(self.shared.now(), &facts);
        let devices = self.state.devices.values();
        let devices = devices.filter(|device| device.listens());
        let homes = devices.flat_map(|device| {
            let spot = Spot::Home(device.home);
            device.addresses.iter().map(move |address| (spot, *address))
        });
        let lan = [IpAddr::V4(LAN4), IpAddr::V6(LAN6)].map(|address| (Spot::Lan, address));
        // The LAN as often as all others together.
        let mut talkers: Vec<(Spot, IpAddr)> = homes.collect();
        let count = talkers.len().max(2) / 2;
        talkers.extend((0..count).flat_map(|_| lan));
        self.shared.places().talkers = talkers;
    }

    fn act(&mut self, op: &Op, next: &State) -> Outcome {
        match op {
            Op::Add { device, call, .. } if *device >= GUEST => {
                let machine = next.devices.get(device).and_then(|device| device.machine);
                let learning = match machine.and_then(|machine| machine.learning) {
                    Some(true) => " learning on",
                    Some(false) | None => "",
                };
                let line = format!(
                    "link add link eth0 name d{device} type ipvtap mode {} {}{learning}",
                    self.state.mode.word(),
                    self.state.flag.word()
                );
                self.call(*call, &line)
            }
            Op::Delete { device, call } if *device >= GUEST => {
                let name = format!("d{device}");
                let outcome = match call {
                    Some(call) => self.call(*call, &format!("link del {name}")),
                    None => self.net.host.try_sh(&format!("ip link del {name}")).into(),
                };
                // A guest notices only that nobody answers. It goes after its tap.
                if matches!(outcome, Outcome::Done) {
                    self.switch_off(*device);
                }
                outcome
            }
            Op::Start { device } => self.start_guest(*device, next),
            Op::Stop { device } => {
                self.switch_off(*device);
                Outcome::Done
            }
            Op::Add { device, home, call } => {
                let Some(ns) = self.homes.get(*home) else {
                    return Outcome::Failed(format!("no namespace n{home}"));
                };
                let line = format!(
                    "link add link eth0 name d{device} netns {} type ipvlan mode {} {}",
                    ns.name(),
                    self.state.mode.word(),
                    self.state.flag.word()
                );
                self.call(*call, &line)
            }
            Op::Mode { mode, call } => self.call(
                *call,
                &format!("link set eth0 type ipvlan mode {}", mode.word()),
            ),
            Op::Flag { flag, call } => {
                self.call(*call, &format!("link set eth0 type ipvlan {}", flag.word()))
            }
            Op::Look { killed } => {
                let call = Call {
                    agent: true,
                    killed: *killed,
                };
                self.call(call, "-j -d link show")
            }
            Op::KillHome { home } => self.kill_home(*home),
            Op::ParentMac { mac } => {
                let line = format!("ip link set eth0 address {}", mac_text(*mac));
                let done = self.net.host.try_sh(&line);
                // Nobody announces the host, nor a device in l3; its neighbours would find out after
                // half a minute.
                self.forget_neighbours();
                self.mac_changed = Some(self.shared.now());
                self.unannounced |= !self.shared.facts().agent();
                done.into()
            }
            Op::ParentMtu { mtu } => {
                let line = |name: &str| format!("ip link set {name} mtu {mtu}");
                let _: bool = self.net.lan.try_sh(&line("lan0")).ok();
                self.net.host.try_sh(&line("eth0")).into()
            }
            Op::Carrier { on } => {
                let way = if *on { "up" } else { "down" };
                let line = format!("ip link set lan0 {way}");
                self.net.lan.try_sh(&line).into()
            }
            Op::KillAgent => {
                for agent in self.net.agents() {
                    kill_hard(agent);
                    self.shared.report().agents().killed += 1;
                }
                let now = self.shared.now();
                self.unannounced |= self.mac_changed.is_some_and(|at| at + GRACE > now);
                // Until it has gone nobody can take its place.
                if !eventually(PATIENCE, || self.net.agents().is_empty()) {
                    return Outcome::Failed("an agent survives SIGKILL".to_owned());
                }
                self.agents.retain_mut(Process::is_alive);
                self.shared.facts().agent_killed(self.shared.now());
                Outcome::Done
            }
            Op::StartAgent => self.start_agent(),
            _ => self.act_inside(op, next),
        }
    }

    /// What somebody does in the device's own namespace.
    fn act_inside(&self, op: &Op, next: &State) -> Outcome {
        let place = op.devices().first().and_then(|number| self.place(*number));
        let Some((ns, name)) = place else {
            return Outcome::Failed(format!("{op}: no such device"));
        };
        let ip = |words: String| Outcome::from(ns.try_sh(&format!("ip {words}")));
        match op {
            Op::Delete {
                call: Some(call), ..
            } => self.call(*call, &format!("-n {} link del {name}", ns.name())),
            Op::Delete { call: None, .. } => ip(format!("link del {name}")),
            Op::Move { home, .. } => match self.homes.get(*home) {
                Some(to) => ip(format!("link set {name} netns {}", to.name())),
                None => Outcome::Failed(format!("no namespace n{home}")),
            },
            Op::Rename { device } => match next.devices.get(device) {
                Some(new) => ip(format!("link set {name} name {}", Self::name(*device, new))),
                None => Outcome::Failed(format!("no device {device}")),
            },
            Op::Up { device } if *device >= GUEST => ip(format!("link set {name} up")),
            Op::Up { device } => {
                let had = next.devices.get(device).map(|device| &device.addresses);
                up(ns, &name, *device, had.unwrap_or(&BTreeSet::new()))
            }
            Op::Learning { device } => {
                let machine = next.devices.get(device).and_then(|device| device.machine);
                let on = machine.is_some_and(|machine| machine.learning == Some(true));
                let word = if on { "on" } else { "off" };
                self.by_hand(&format!("link set {name} type ipvtap learning {word}"))
            }
            Op::Down { .. } => ip(format!("link set {name} down")),
            Op::OwnMac { device } => {
                let own = next
                    .devices
                    .get(device)
                    .is_some_and(|device| device.own_mac);
                let mut address = self.state.mac;
                if own {
                    address = [2, 0, 0, 0, 0x77, device.to_le_bytes()[0]];
                }
                ip(format!("link set {name} address {}", mac_text(address)))
            }
            Op::Give { device, address } => self.give(*device, *address),
            Op::Take { device, address } => self.take(*device, *address),
            Op::HandOver { from, to, address } => match self.take(*from, *address) {
                Outcome::Done => self.give(*to, *address),
                other => other,
            },
            _ => Outcome::Failed(format!("{op} is not done inside")),
        }
    }

    /// The device, or the guest, gets an address.
    fn give(&self, number: Number, address: IpAddr) -> Outcome {
        if let Some(guest) = self.guests.get(&number) {
            let inside = give(&guest.ns, GUEST_INTERFACE, number, address);
            let by_hand = self
                .state
                .devices
                .get(&number)
                .is_some_and(Device::can_take);
            return match inside {
                Outcome::Done if by_hand => {
                    self.by_hand(&format!("addr add {address} dev d{number}"))
                }
                other => other,
            };
        }
        match self.place(number) {
            Some((ns, name)) => give(ns, &name, number, address),
            None => Outcome::Failed(format!("no device {number}")),
        }
    }

    fn take(&self, number: Number, address: IpAddr) -> Outcome {
        if number >= GUEST {
            let inside = self.guests.get(&number).map_or(Outcome::Done, |guest| {
                take(&guest.ns, GUEST_INTERFACE, number, address)
            });
            return match inside {
                Outcome::Done => self.by_hand(&format!("addr del {address} dev d{number}")),
                other => other,
            };
        }
        match self.place(number) {
            Some((ns, name)) => take(ns, &name, number, address),
            None => Outcome::Failed(format!("no device {number}")),
        }
    }

    /// Something that is said of a tap. It may start an agent, and is not killed.
    fn by_hand(&self, line: &str) -> Outcome {
        let call = Call {
            agent: true,
            killed: None,
        };
        self.call(call, line)
    }

    /// With the addresses that it had, if any: they are in its configuration.
    fn start_guest(&mut self, number: Number, next: &State) -> Outcome {
        let Some((device, machine)) = next
            .devices
            .get(&number)
            .and_then(|device| Some((device, device.machine?)))
        else {
            return Outcome::Failed(format!("no tap d{number}"));
        };
        let mac = guest_mac(number, machine.starts);
        let guest = Guest::start(&self.net, &format!("d{number}"), &format!("g{number}"), mac);
        prepare(&guest.ns);
        // A link-local address would have to be given by hand, too, and tells the MAC address.
        guest.ns.batch(&format!(
            "link set {GUEST_INTERFACE} addrgenmode none
addr flush dev {GUEST_INTERFACE}
"
        ));
        let mut outcome = up(&guest.ns, GUEST_INTERFACE, number, &BTreeSet::new());
        for address in &device.addresses {
            if matches!(outcome, Outcome::Done) {
                outcome = give(&guest.ns, GUEST_INTERFACE, number, *address);
            }
        }
        let spot = Spot::Home(number);
        let place = Place::new(&guest.ns, spot, self.shared.now());
        let _: Option<Place> = self.shared.places().all.insert(spot, place);
        let _: Option<Guest> = self.guests.insert(number, guest);
        outcome
    }

    fn switch_off(&mut self, number: Number) {
        // Its sockets would keep the namespace alive.
        drop(self.shared.places().all.remove(&Spot::Home(number)));
        if let Some(guest) = self.guests.remove(&number) {
            guest.stop();
        }
    }

    /// Of taps that a killed call has deleted.
    pub(crate) fn switch_off_guests_without_tap(&mut self) {
        let running = |device: &Device| device.machine.is_some_and(|machine| machine.running);
        let off: Vec<Number> = self
            .guests
            .keys()
            .filter(|number| !self.state.devices.get(number).is_some_and(running))
            .copied()
            .collect();
        for number in off {
            self.switch_off(number);
        }
    }

    /// Each guest whose addresses are learnt says which ones it has.
    pub(crate) fn guests_announce(&self) {
        for (number, guest) in &self.guests {
            let Some(device) = self
                .state
                .devices
                .get(number)
                .filter(|device| !device.can_take())
            else {
                continue;
            };
            let sender = Sender::on(&guest.ns, GUEST_INTERFACE);
            for address in &device.addresses {
                let frame = match address {
                    IpAddr::V4(v4) => {
                        let packet = arp(1, (guest.mac, *v4), ([0; 6], *v4));
                        ethernet(BROADCAST, guest.mac, ethertype::ARP, &packet)
                    }
                    IpAddr::V6(v6) => {
                        let option = nd::option(nd::TARGET, guest.mac);
                        let body = nd::body(nd::NA, *v6, &option);
                        let message = icmpv6(*v6, ALL_NODES, nd::NA, &body);
                        let packet = ipv6(*v6, ALL_NODES, next::ICMPV6, &message);
                        ethernet(
                            nd::group_mac(ALL_NODES),
                            guest.mac,
                            ethertype::IPV6,
                            &packet,
                        )
                    }
                };
                // One that is down says nothing.
                let _: nix::Result<()> = sender.try_send(&frame);
            }
        }
    }

    fn kill_home(&mut self, home: Home) -> Outcome {
        // Its sockets would keep it alive.
        drop(self.shared.places().all.remove(&Spot::Home(home)));
        if let Some(ns) = self.homes.get_mut(home) {
            ns.kill();
        }
        let new = self.make_home(home);
        if let Some(ns) = self.homes.get_mut(home) {
            *ns = new;
        }
        Outcome::Done
    }

    fn start_agent(&mut self) -> Outcome {
        // It would end at once.
        if self.state.devices.is_empty() || !self.net.agents().is_empty() {
            return Outcome::Done;
        }
        let path = self.net.program().path().to_owned();
        self.agents
            .push(self.net.host.spawn(&format!("{path} agent")));
        // Until it is one, there is nothing to be killed.
        if !eventually(PATIENCE, || !self.net.agents().is_empty()) {
            return Outcome::Failed("`ipvlan agent` does not start".to_owned());
        }
        self.notice_agent();
        Outcome::Done
    }

    /// Calls `ipvlan` on the host.
    fn call(&self, call: Call, line: &str) -> Outcome {
        let line = match call.agent {
            true => line.to_owned(),
            false => format!("--no-agent {line}"),
        };
        let Some(after) = call.killed else {
            return self.net.ipvlan(&line).into();
        };
        match self.kill_after(&line, after) {
            Ok(status) if status.success() => Outcome::Done,
            Ok(status) if status.code().is_some() => Outcome::Failed(format!(
                "`ipvlan {line}`, to be killed, ended with {status}"
            )),
            Ok(_) => Outcome::Killed,
            Err(error) => Outcome::Failed(format!("`ipvlan {line}`: {error}")),
        }
    }

    fn kill_after(&self, line: &str, after: Duration) -> std::io::Result<ExitStatus> {
        let mut child = self.net.host.enter(|| {
            Command::new(self.net.program().path())
                .args(line.split_whitespace())
                .env(MARK, self.net.mark())
                .stdout(Stdio::null())
                .stderr(Stdio::null())
                .spawn()
        })?;
        thread::sleep(after);
        child.kill()?;
        child.wait()
    }

    /// Finds out whether an agent runs, where nobody is known to.
    pub(crate) fn notice_agent(&self) {
        if self.state.devices.is_empty() && self.doubts.is_empty() {
            // It ends with the last device.
            self.shared.facts().agent_killed(self.shared.now());
            self.shared.facts().follow(self.shared.now());
        } else if !self.shared.facts().agent() && !self.net.agents().is_empty() {
            self.shared.facts().agent_started(self.shared.now());
            self.shared.report().agents().started += 1;
        }
    }

    /// Nobody follows: somebody calls once, or starts an agent. The state stays as it is.
    pub(crate) fn mend(&mut self, by_agent: bool) {
        if by_agent && !self.state.devices.is_empty() {
            let now = self.shared.now();
            self.shared.report().starts(now, "mend: an agent starts");
            if let Outcome::Failed(why) = self.start_agent() {
                self.shared.found(why);
            }
        } else {
            self.call_once();
        }
    }

    /// The LAN finds out about a MAC address that nobody announces. It would anyway, after half a
    /// minute.
    pub(crate) fn announce(&mut self) {
        if std::mem::take(&mut self.unannounced) {
            self.forget_neighbours();
        }
    }

    fn forget_neighbours(&self) {
        let guests = self.guests.values().map(|guest| &guest.ns);
        for ns in guests.chain([&self.net.lan]) {
            let _: bool = ns.try_sh("ip neigh flush all").ok();
        }
    }

    fn call_once(&mut self) {
        let (mode, flag) = (self.state.mode.word(), self.state.flag.word());
        let mut lines = vec![format!("link set eth0 type ipvlan mode {mode} {flag}")];
        // Where there is no device that is known there may be no port that could be set.
        if self.state.devices.is_empty()
            && let Some(home) = self.homes.first().map(Ns::name)
        {
            lines = vec![
                format!("link add link eth0 name x0 netns {home} type ipvlan mode {mode} {flag}"),
                format!("-n {home} link del x0"),
            ];
        }
        let call = Call {
            agent: false,
            killed: None,
        };
        for line in lines {
            let now = self.shared.now();
            self.shared.report().starts(now, &format!("mend: {line}"));
            if let Outcome::Failed(why) = self.call(call, &line) {
                self.shared.found(why);
            }
        }
        self.either.clear();
        self.remember();
        self.shared.facts().follow(self.shared.now());
    }

    /// Routes of the LAN: in l2 the devices are on-link, else behind the host. Nothing of IPv6
    /// survives that the link was down. Guests do not notice that somebody else answers now.
    pub(crate) fn configure_lan(&self) {
        if !self.state.carrier {
            return;
        }
        let [by4, by6] = match self.state.mode {
            Mode::L2 => ["", ""],
            Mode::L3 | Mode::L3s => ["via 10.1.0.1", "via fd00::1"],
        };
        let lines = format!(
            "link set lan0 up\n\
             addr replace fd00::254/64 dev lan0 nodad\n\
             route replace 10.2.0.0/16 {by4} dev lan0\n\
             route replace fd02::/16 {by6} dev lan0\n"
        );
        let done = self.net.lan.try_batch(&lines);
        assert!(done.ok(), "the LAN: {done:?}");
        self.forget_neighbours();
    }

    /// All devices go, one way or the other.
    pub(crate) fn empty(&mut self) {
        if !self.shared.facts().agent() && !self.state.devices.is_empty() {
            self.mend(true);
        }
        let numbers: Vec<Number> = self.state.devices.keys().copied().collect();
        for device in numbers {
            let call = Call {
                agent: true,
                killed: None,
            };
            let call = (device % 2 == 0).then_some(call);
            let _: Fate = self.perform(&Op::Delete { device, call });
        }
    }

    /// A device about which nothing is known any more.
    pub(crate) fn give_up(&self, home: Home, name: &str) {
        let ns = match home {
            GUEST.. => Some(&self.net.host),
            _ => self.homes.get(home),
        };
        if let Some(ns) = ns {
            let _: bool = ns.try_sh(&format!("ip link del {name}")).ok();
        }
    }

    /// Everything goes. What the fixture finds left over is a finding.
    pub(crate) fn end(self) {
        let Self {
            net,
            homes,
            guests,
            shared,
            agents,
            log,
            ..
        } = self;
        shared.places().all.clear();
        drop((homes, guests, agents));
        let wrong = [complaint(|| drop(net)), complaint(|| log.assert_quiet())];
        for why in wrong.into_iter().flatten() {
            shared.found(format!("at the end: {why}"));
        }
    }
}

/// What the fixture finds fault with.
fn complaint(check: impl FnOnce()) -> Option<String> {
    let done = std::panic::catch_unwind(std::panic::AssertUnwindSafe(check));
    let why = done.err()?;
    let said = why.downcast_ref::<String>().cloned();
    Some(said.unwrap_or_else(|| "it does not say why".to_owned()))
}

/// What all namespaces have in common.
fn prepare(ns: &Ns) {
    for (name, value) in [
        ("net/ipv4/ping_group_range", "0 2147483647"),
        // The second address of a subnet stays when the first one goes.
        ("net/ipv4/conf/all/promote_secondaries", "1"),
        ("net/ipv4/conf/all/rp_filter", "0"),
        ("net/ipv4/conf/default/rp_filter", "0"),
        // Who waits for the third step of a handshake keeps a dead namespace alive, for half a minute.
        ("net/ipv4/tcp_synack_retries", "1"),
        // Nothing says so, but nothing may come back either.
        ("net/ipv4/ip_forward", "0"),
    ] {
        ns.sysctl(name, value);
    }
}

/// Up, with a routing table of its own. Of several devices in a namespace each sends with its own
/// addresses only: the answer to an ARP request goes to the device that owns who asks.
fn up(ns: &Ns, name: &str, device: Number, addresses: &BTreeSet<IpAddr>) -> Outcome {
    let table = table(device);
    // Left over from when it was here before.
    for family in [4, 6] {
        let _: bool = ns
            .try_sh(&format!("ip -{family} rule flush table {table}"))
            .ok();
    }
    ns.hurry(name);
    // All is on-link; in l3 that is as good as any other route.
    let lines = format!(
        "link set {name} up\n\
         route add 10.1.0.0/24 dev {name} table {table}\n\
         route add 10.2.0.0/16 dev {name} table {table}\n\
         route add fd00::/64 dev {name} table {table}\n\
         route add fd02::/64 dev {name} table {table}\n"
    );
    let mut done = ns.try_batch(&lines);
    for address in addresses {
        if done.ok() {
            done = rule(ns, "add", device, *address);
        }
    }
    done.into()
}

fn give(ns: &Ns, name: &str, device: Number, address: IpAddr) -> Outcome {
    let table = table(device);
    let lines = match address {
        // When the last address of IPv4 went the kernel took the routes with it.
        IpAddr::V4(_) => format!(
            "addr add {address}/16 dev {name}\n\
             route replace 10.1.0.0/24 dev {name} table {table}\n\
             route replace 10.2.0.0/16 dev {name} table {table}\n"
        ),
        IpAddr::V6(_) => format!("addr add {address}/64 dev {name} nodad\n"),
    };
    let done = ns.try_batch(&lines);
    match done.ok() {
        true => rule(ns, "add", device, address).into(),
        false => done.into(),
    }
}

fn take(ns: &Ns, name: &str, device: Number, address: IpAddr) -> Outcome {
    let length = if address.is_ipv4() { 16 } else { 64 };
    let done = ns.try_sh(&format!("ip addr del {address}/{length} dev {name}"));
    match done.ok() {
        true => rule(ns, "del", device, address).into(),
        false => done.into(),
    }
}

/// That the device sends what comes from this address.
fn rule(ns: &Ns, verb: &str, device: Number, address: IpAddr) -> Done {
    let family = if address.is_ipv4() { 4 } else { 6 };
    let table = table(device);
    ns.try_sh(&format!(
        "ip -{family} rule {verb} from {address} lookup {table}"
    ))
}

/// Number of the device's routing table.
fn table(device: Number) -> usize {
    1000 + device
}
