//! Between two bursts: what should be the case when nothing happens any more, and is it?
//!
//! If an agent runs nobody calls: it has to get there by itself. Without one, one call has to be
//! enough.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::net::IpAddr;
use std::thread;
use std::time::Duration;

use ipvlan_datapath_bpf::Port;
use ipvlan_tests::packet::mac_text;
use ipvlan_tests::{Dice, HOST4, HOST6, LAN4, LAN6, PATIENCE, eventually};
use serde_json::Value;

use crate::model::{BROADCAST, Flag, GUEST, Home, LAN_BROADCAST, Mode, Number, Time, is_of_pool};
use crate::payload::Kind;
use crate::places::{Probe, Spot};
use crate::world::World;

/// Of all pairs that could be asked, so many are.
const SAMPLE: usize = 12;
/// How long nothing may change before a device is taken for there or not there.
const CALM: Duration = Duration::from_secs(1);
/// A new agent opens a few more descriptors when it has something to do for the first time.
const MORE_DESCRIPTORS: u64 = 10;
/// KiB. Its tables grow with the devices, and do not shrink.
const MORE_MEMORY: u64 = 8 * 1024;

/// What an agent had when it was first seen.
#[derive(Clone, Copy, Debug)]
struct First {
    descriptors: u64,
    resident: u64,
    wakeups: u64,
}

/// Checks, and what they remember.
pub(crate) struct Settle {
    dice: Dice,
    agents: BTreeMap<u32, First>,
}

impl Settle {
    pub(crate) fn new(dice: Dice) -> Self {
        Self {
            dice,
            agents: BTreeMap::new(),
        }
    }

    /// Waits until all is as it should be, and finds fault if it does not come to that.
    pub(crate) fn settle(&mut self, world: &mut World<'_>) {
        let shared = world.shared;
        let begun = shared.now();
        let empty = world.state.devices.is_empty() && world.doubts.is_empty();
        if !shared.facts().agent() && !empty {
            let by_agent = self.dice.roll(2) > 0 || world.state.learns();
            world.mend(by_agent);
        }
        // What a killed call has left is shown until the agent has looked.
        let calm = match world.doubts.is_empty() {
            true => Duration::ZERO,
            false => CALM,
        };
        let (mut why, mut same, mut since) = (None, BTreeSet::new(), shared.now());
        if !eventually(PATIENCE, || {
            let ends: BTreeSet<String> = ends(world).into_iter().collect();
            why = unsettled(world);
            if why.is_some() || ends != same {
                (same, since) = (ends, shared.now());
            }
            why.is_none() && shared.now() >= since + calm
        }) {
            shared.found(format!(
                "nobody tidies up: {}",
                why.unwrap_or_else(|| "host ends come and go".to_owned())
            ));
        }
        self.resolve(world);
        let mut why = None;
        if !eventually(PATIENCE, || {
            // What nobody was there to learn has to be said again.
            world.guests_announce();
            why = mismatch(world);
            why.is_none()
        }) {
            shared.found(format!("not as it should be: {}", why.unwrap_or_default()));
        }
        shared.report().checked("state", 1);
        world.announce();
        self.reach(world, begun + calm);
        self.watch_agents(world);
    }

    /// What a killed call has left, now that somebody has tidied up.
    fn resolve(&mut self, world: &mut World<'_>) {
        let shown = shown(world);
        for number in std::mem::take(&mut world.doubts) {
            let mut found = shown.iter().find(|device| device.number == number);
            if world.failed.remove(&number) {
                if let Some(device) = found {
                    world.give_up(device.home, &device.name);
                }
                found = None;
            }
            match found {
                None => {
                    let _: Option<_> = world.state.devices.remove(&number);
                }
                Some(found) => {
                    // A device that was made after all is as a new one.
                    let home = found.home;
                    let op = crate::script::Op::Add {
                        device: number,
                        home,
                        call: crate::script::Call {
                            agent: true,
                            killed: None,
                        },
                    };
                    if let Some(next) = world.state.after(&op) {
                        world.state = next;
                    }
                }
            }
        }
        if let Some(device) = shown.first() {
            let (mode, flag) = (device.mode, device.flag);
            let changed = world.state.mode != mode;
            if !world.either.is_empty() {
                (world.state.mode, world.state.flag) = (mode, flag);
            }
            world.either.clear();
            if changed {
                world.configure_lan();
            }
        }
        world.switch_off_guests_without_tap();
        world.remember();
        world.notice_agent();
    }

    fn sample<T: Clone>(&mut self, of: &[T]) -> Vec<T> {
        if of.is_empty() {
            return Vec::new();
        }
        (0..SAMPLE.min(of.len()))
            .map(|_| self.dice.pick(of).clone())
            .collect()
    }

    /// Everything that should be reached is.
    fn reach(&mut self, world: &World<'_>, begun: Time) {
        let shared = world.shared;
        let mut probes = self.probes(world);
        let (sent, mut late) = (probes.len(), false);
        {
            let mut places = shared.places();
            places.probes.append(&mut probes);
        }
        let end = shared.now() + PATIENCE + Duration::from_secs(5);
        let mut lonely: Vec<String> = Vec::new();
        loop {
            let mut places = shared.places();
            if places.probes.iter().all(|probe| probe.answered) {
                places.probes.clear();
                break;
            }
            if shared.now() > end {
                let left = places.probes.drain(..).filter(|probe| !probe.answered);
                lonely.extend(left.map(|probe| probe.to_string()));
                late = true;
                break;
            }
            drop(places);
            thread::sleep(Duration::from_millis(10));
        }
        shared
            .report()
            .checked("reachable", u64::try_from(sent).unwrap_or(0));
        let state = &world.state;
        for probe in lonely {
            let (mode, flag) = (state.mode.word(), state.flag.word());
            shared.found(format!("{mode} {flag}: no answer: {probe}"));
        }
        if !late {
            shared.report().settled(shared.now().saturating_sub(begun));
        }
    }

    fn probes(&mut self, world: &World<'_>) -> Vec<Probe> {
        let state = &world.state;
        let only: Vec<(IpAddr, Number)> = state.uncontested().into_iter().collect();
        let lan = |like: IpAddr| match like {
            IpAddr::V4(_) => IpAddr::V4(LAN4),
            IpAddr::V6(_) => IpAddr::V6(LAN6),
        };
        let mut probes = Vec::new();
        if !state.carrier {
            return probes;
        }
        for host in [IpAddr::V4(HOST4), IpAddr::V6(HOST6)] {
            probes.push(Probe::new(Kind::Udp, Spot::Lan, lan(host), host));
        }
        let near: Vec<(IpAddr, Home)> = only
            .iter()
            .filter(|(_, number)| state.reaches_lan(*number))
            .filter_map(|(address, number)| Some((*address, state.home(*number)?)))
            .collect();
        for (address, _) in &near {
            probes.push(Probe::new(Kind::Udp, Spot::Lan, lan(*address), *address));
        }
        let guests: Vec<(IpAddr, Home)> = near
            .iter()
            .filter(|(_, home)| *home >= GUEST)
            .copied()
            .collect();
        for kind in [Kind::Tcp, Kind::Icmp] {
            for (address, _) in [self.sample(&near), guests.clone()].concat() {
                probes.push(Probe::new(kind, Spot::Lan, lan(address), address));
            }
        }
        for kind in [Kind::Udp, Kind::Tcp, Kind::Icmp] {
            for (address, home) in [self.sample(&near), guests.clone()].concat() {
                probes.push(Probe::new(kind, Spot::Home(home), address, lan(address)));
            }
        }
        let mut pairs = Vec::new();
        for (from, one) in &only {
            for (to, other) in &only {
                let family = from.is_ipv4() == to.is_ipv4();
                let here = state.is_local(*one, *to) || state.is_local(*other, *from);
                if family && !here && state.siblings_reach(*one, *other) {
                    pairs.push((*from, *one, *other, *to));
                }
            }
        }
        // Guests are few, and each is to be asked.
        let of_guests: Vec<_> = pairs
            .iter()
            .filter(|(_, one, other, _)| *one >= GUEST || *other >= GUEST)
            .copied()
            .collect();
        for kind in [Kind::Udp, Kind::Tcp, Kind::Icmp] {
            let sample = [self.sample(&pairs), self.sample(&of_guests)].concat();
            for (from, one, _, to) in sample {
                let Some(home) = state.home(one) else {
                    continue;
                };
                probes.push(Probe::new(kind, Spot::Home(home), from, to));
            }
        }
        // A broadcast from the wire, and one from a device that is alone in its namespace: of two,
        // nobody could say which one sends.
        if state.mode == Mode::L2 {
            let mut probe = Probe::new(
                Kind::Broadcast,
                Spot::Lan,
                IpAddr::V4(LAN4),
                IpAddr::V4(LAN_BROADCAST),
            );
            probe.copies = state.broadcast(None);
            probes.push(probe);
            let alone = |home: Home| {
                state
                    .devices
                    .values()
                    .filter(|device| device.home == home)
                    .count()
                    == 1
            };
            let senders = only.iter().filter(|(address, _)| address.is_ipv4());
            let mut senders: Vec<(IpAddr, Number, Home)> = senders
                .filter_map(|(address, number)| Some((*address, *number, state.home(*number)?)))
                .filter(|(_, _, home)| alone(*home))
                .collect();
            senders.sort_by_key(|(address, number, _)| (*number, *address));
            senders.dedup_by_key(|(_, number, _)| *number);
            // The first device, and each guest.
            let first = senders.iter().take(1);
            let guests = senders
                .iter()
                .skip(1)
                .filter(|(_, number, _)| *number >= GUEST);
            for (address, number, home) in first.chain(guests).copied() {
                let mut probe = Probe::new(
                    Kind::Broadcast,
                    Spot::Home(home),
                    address,
                    IpAddr::V4(BROADCAST),
                );
                probe.copies = state.broadcast(Some(number));
                probes.push(probe);
            }
        }
        probes
    }

    /// What the agent holds does not grow with what it has done.
    fn watch_agents(&mut self, world: &World<'_>) {
        let shared = world.shared;
        let agents = world.net.agents();
        if shared.facts().agent() && agents.len() != 1 && !world.state.devices.is_empty() {
            let one = eventually(PATIENCE, || world.net.agents().len() == 1);
            if !one {
                shared.found(format!("agents that run: {agents:?}, where one should"));
            }
        }
        self.agents.retain(|pid, _| agents.contains(pid));
        for pid in agents {
            let Some(now) = look_at_agent(pid) else {
                continue;
            };
            let first = *self.agents.entry(pid).or_insert(now);
            let mut report = shared.report();
            let most = report.agents();
            most.descriptors = most.descriptors.max(now.descriptors);
            most.resident = most.resident.max(now.resident);
            most.wakeups += now.wakeups.saturating_sub(first.wakeups);
            drop(report);
            if let Some(known) = self.agents.get_mut(&pid) {
                known.wakeups = now.wakeups;
            }
            shared.report().checked("agent", 1);
            // While it looks, it has maps open.
            let few = || {
                let now = look_at_agent(pid);
                now.is_none_or(|now| now.descriptors <= first.descriptors + MORE_DESCRIPTORS)
            };
            if !eventually(PATIENCE, few) {
                shared.found(format!(
                    "the agent {pid} has {} descriptors, after {}: {}",
                    now.descriptors,
                    first.descriptors,
                    descriptors(pid)
                ));
            }
            if now.resident > first.resident + MORE_MEMORY {
                shared.found(format!(
                    "the agent {pid} takes {} KiB of memory, after {}",
                    now.resident, first.resident
                ));
            }
        }
    }
}

fn look_at_agent(pid: u32) -> Option<First> {
    let descriptors = fs::read_dir(format!("/proc/{pid}/fd")).ok()?.count();
    let status = fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
    let field = |name: &str| {
        let line = status.lines().find_map(|line| line.strip_prefix(name))?;
        line.split_whitespace().next()?.parse().ok()
    };
    Some(First {
        descriptors: u64::try_from(descriptors).ok()?,
        resident: field("VmRSS:")?,
        wakeups: field("voluntary_ctxt_switches:")?,
    })
}

/// What they are, the most frequent kind first.
fn descriptors(pid: u32) -> String {
    let mut kinds: BTreeMap<String, usize> = BTreeMap::new();
    for entry in fs::read_dir(format!("/proc/{pid}/fd"))
        .into_iter()
        .flatten()
        .flatten()
    {
        let target = fs::read_link(entry.path()).unwrap_or_default();
        let target = target.to_string_lossy();
        let kind = target.split(":[").next().unwrap_or(&target).to_owned();
        *kinds.entry(kind).or_default() += 1;
    }
    let mut kinds: Vec<(usize, String)> = kinds.into_iter().map(|(kind, n)| (n, kind)).collect();
    kinds.sort();
    let kinds = kinds
        .iter()
        .rev()
        .take(4)
        .map(|(count, kind)| format!("{count} {kind}"));
    kinds.collect::<Vec<_>>().join(", ")
}

/// A device as `ipvlan link show` has it.
#[derive(Clone, Debug)]
struct Shown {
    number: Number,
    home: Home,
    name: String,
    mtu: u64,
    mac: String,
    mode: Mode,
    flag: Flag,
    owns: BTreeSet<IpAddr>,
}

fn shown(world: &World<'_>) -> Vec<Shown> {
    let done = world.net.ipvlan("-j -d link show");
    if !done.ok() {
        world
            .shared
            .found(format!("`{}`: {}", done.line, done.stderr));
        return Vec::new();
    }
    let all: Value = serde_json::from_str(&done.stdout).unwrap_or_default();
    let all = all.as_array().cloned().unwrap_or_default();
    all.iter().filter_map(|one| read(world, one)).collect()
}

fn read(world: &World<'_>, one: &Value) -> Option<Shown> {
    let name = one["ifname"].as_str()?;
    let number: Number = name.get(1..)?.parse().ok()?;
    // A tap is on the host.
    let home = match one["netns"].as_str() {
        Some(place) => world.homes.iter().position(|ns| ns.name() == place)?,
        None => Some(number).filter(|number| *number >= GUEST)?,
    };
    let data = &one["linkinfo"]["info_data"];
    let mode = data["mode"].as_str()?;
    let owns = one["ipvlan"]["owns"].as_array()?;
    Some(Shown {
        number,
        home,
        name: name.to_owned(),
        mtu: one["mtu"].as_u64()?,
        mac: one["address"].as_str()?.to_owned(),
        mode: Mode::ALL.into_iter().find(|known| known.word() == mode)?,
        flag: Flag::ALL
            .into_iter()
            .find(|known| data[known.word()] == true)?,
        owns: owns
            .iter()
            .filter_map(|address| address.as_str()?.parse().ok())
            .filter(|address| is_of_pool(*address))
            .collect(),
    })
}

/// What is half-made, or half-gone.
fn unsettled(world: &World<'_>) -> Option<String> {
    let (shown, all) = (shown(world), ends(world));
    let half: Vec<String> = fs::read_dir(world.net.state())
        .into_iter()
        .flatten()
        .flatten()
        .map(|entry| entry.file_name().to_string_lossy().into_owned())
        .filter(|name| name.starts_with("new-"))
        .collect();
    // A tap is its own host end.
    let inside = shown.iter().filter(|device| device.number < GUEST);
    let same = inside.count() == all.len() && half.is_empty();
    (!same).then(|| {
        let names: Vec<&str> = shown.iter().map(|device| &*device.name).collect();
        format!("devices {names:?}, host ends {all:?}, half-made {half:?}")
    })
}

/// Host ends on the host.
fn ends(world: &World<'_>) -> Vec<String> {
    let mut all = world.net.host.links();
    all.retain(|name| name.starts_with("ipvh"));
    all
}

/// The first thing that is not as the model has it.
fn mismatch(world: &World<'_>) -> Option<String> {
    let state = &world.state;
    let shown = shown(world);
    let claims = state.claims();
    for (number, device) in &state.devices {
        let name = World::name(*number, device);
        let Some(found) = shown.iter().find(|shown| shown.number == *number) else {
            return Some(format!("{name} is not shown"));
        };
        if (found.home, &found.name) != (device.home, &name) {
            return Some(format!("{name} of n{} is shown as {found:?}", device.home));
        }
        if found.mtu != u64::from(state.mtu) {
            return Some(format!(
                "{name} has MTU {}, its parent {}",
                found.mtu, state.mtu
            ));
        }
        if !device.own_mac && found.mac != mac_text(state.mac) {
            return Some(format!(
                "{name} has {}, its parent {}",
                found.mac,
                mac_text(state.mac)
            ));
        }
        if (found.mode, found.flag) != (state.mode, state.flag) {
            return Some(format!(
                "{name} is shown as {found:?}, the port is {state:?}"
            ));
        }
        let claimed =
            |address: &IpAddr| claims.get(address).is_some_and(|who| who.contains(number));
        if let Some(address) = found.owns.iter().find(|address| !claimed(address)) {
            return Some(format!("{name} owns {address}, which it does not have"));
        }
    }
    if shown.len() != state.devices.len() {
        return Some(format!(
            "{} devices are shown, {} are there",
            shown.len(),
            state.devices.len()
        ));
    }
    for (address, who) in &claims {
        let owners: Vec<Number> = shown
            .iter()
            .filter(|device| device.owns.contains(address))
            .map(|device| device.number)
            .collect();
        if owners.len() != 1 {
            return Some(format!(
                "{address} is owned by {owners:?}, claimed by {who:?}"
            ));
        }
    }
    leftovers(world, claims.len())
}

/// What is in the maps and belongs to nobody.
fn leftovers(world: &World<'_>, claimed: usize) -> Option<String> {
    let index = world.net.host.index("eth0");
    let dir = world.net.state().join(index.to_string());
    if world.state.devices.is_empty() {
        return dir
            .exists()
            .then(|| format!("{} without a device", dir.display()));
    }
    let counts = || -> Result<[usize; 4], ipvlan_datapath_bpf::Error> {
        let port = Port::open(&dir)?;
        let owners = port.owners()?;
        let members = port.members(port.entry()?.members)?;
        Ok([
            owners.keys().filter(|net| is_of_pool(net.addr())).count(),
            port.devs()?.len(),
            members.iter().filter(|host| **host != 0).count(),
            port.grants()?.values().map(BTreeSet::len).sum(),
        ])
    };
    let devices = world.state.devices.len();
    let by_hand = world.state.devices.values();
    let by_hand = by_hand.filter(|device| device.machine.is_some() && device.can_take());
    let granted: usize = by_hand.map(|device| device.addresses.len()).sum();
    // Without tcx (Linux 6.6) there are none.
    let entries = fs::read_dir(&dir).into_iter().flatten().flatten();
    let pins = entries
        .filter(|entry| {
            entry
                .file_name()
                .to_string_lossy()
                .starts_with("device_link_")
        })
        .count();
    match counts() {
        Ok(found) if found != [claimed, devices, devices, granted] => Some(format!(
            "owners, devices, members and grants in the maps: {found:?}, not {:?}",
            [claimed, devices, devices, granted]
        )),
        Ok(_) if pins > 0 && pins != devices => Some(format!("{pins} pins for {devices} devices")),
        Ok(_) => None,
        Err(error) => Some(error.to_string()),
    }
}

/// What is left when the last device has gone.
pub(crate) fn after_the_last(world: &World<'_>, before: &str) {
    let left = || {
        let state = world.net.state();
        let mut left = Vec::new();
        if state.exists() {
            left.push(format!("{}", state.display()));
        }
        left.extend(ends(world));
        let agents = world.net.agents();
        left.extend(agents.iter().map(|pid| format!("the agent {pid}")));
        let after = routes(world);
        if after != before {
            left.push(format!(
                "rules and routes:\n{after}\nwhere there were\n{before}"
            ));
        }
        left
    };
    if !eventually(PATIENCE, || left().is_empty()) {
        world
            .shared
            .found(format!("left after the last device: {}", left().join(", ")));
    }
    world.shared.report().checked("end", 1);
}

/// Policy rules and routes of the host.
pub(crate) fn routes(world: &World<'_>) -> String {
    let mut text = String::new();
    for line in [
        "ip -4 rule",
        "ip -6 rule",
        "ip -4 route show table all",
        "ip -6 route show table all",
    ] {
        let mut lines: Vec<String> = world
            .net
            .host
            .read(line)
            .lines()
            .map(|line| line.trim_end().to_owned())
            .collect();
        // Link-local things change with the parent's MAC address.
        lines.retain(|line| !line.contains("fe80::") && !line.contains("ff00::"));
        lines.sort();
        text.push_str(&lines.join("\n"));
        text.push('\n');
    }
    text
}
