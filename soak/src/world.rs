//! The net, what is known of it, and everything that is done to it.
//!
//! | file | what |
//! |---|---|
//! | `perform.rs` | one operation of the script |
//! | `calls.rs` | calls of `ipvlan`, agents, and how they are killed |
//! | `guests.rs` | the machines behind taps |
//! | `inside.rs` | how a namespace is configured |
//! | `mend.rs` | what is done between two bursts, and after the last |
//!
//! Here: how it begins and ends, the LAN, and the record of what should be.

mod calls;
mod guests;
mod inside;
mod mend;
mod perform;

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use ipvlan_tests::load::KernelLog;
use ipvlan_tests::packet::mac_text;
use ipvlan_tests::{Done, Guest, LAN4, LAN6, Net, Ns, Process};

use self::inside::prepare;
use crate::Shared;
use crate::model::{Device, Fact, Home, Mode, Number, State, Time};
use crate::places::{Place, Spot};
use crate::script::mac;

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

    fn forget_neighbours(&self) {
        let guests = self.guests.values().map(|guest| &guest.ns);
        for ns in guests.chain([&self.net.lan]) {
            let _: bool = ns.try_sh("ip neigh flush all").ok();
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
