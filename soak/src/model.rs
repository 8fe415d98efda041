//! What should be, computed from the commands that succeeded.
//!
//! Two parts. A [`State`] is what holds at one moment: the script keeps one to choose what makes
//! sense next, the world keeps one to know what should be reachable. The [`History`] says for how
//! long each [`Fact`] was true, and answers whether something that was heard may have been right:
//!
//! * A command takes effect at some moment between its start and its end. From its start until its
//!   end both what was and what will be count.
//! * What ended is followed within [`GRACE`] when an agent runs. Without one nothing is followed
//!   until the next call, so it goes on counting.
//!
//! Pure: whoever calls says what time it is.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::time::Duration;

use ipvlan_tests::packet::Mac;

use crate::script::Op;

/// Since the beginning of the run.
pub(crate) type Time = Duration;

/// How long the agent has to follow. It needs a few milliseconds; two processors that do ten other
/// things need the rest.
pub(crate) const GRACE: Duration = Duration::from_secs(2);

/// Mode of the port.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Mode {
    L2,
    L3,
    L3s,
}

impl Mode {
    pub(crate) const ALL: [Self; 3] = [Self::L2, Self::L3, Self::L3s];

    pub(crate) fn word(self) -> &'static str {
        match self {
            Self::L2 => "l2",
            Self::L3 => "l3",
            Self::L3s => "l3s",
        }
    }
}

/// Flag of the port.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Flag {
    Bridge,
    Private,
    Vepa,
}

impl Flag {
    pub(crate) const ALL: [Self; 3] = [Self::Bridge, Self::Private, Self::Vepa];

    pub(crate) fn word(self) -> &'static str {
        match self {
            Self::Bridge => "bridge",
            Self::Private => "private",
            Self::Vepa => "vepa",
        }
    }
}

/// A namespace of devices, by number; from [`GUEST`] on, what is behind the tap of that number.
pub(crate) type Home = usize;

/// A device, by number. Deleted and made again it has the same one.
pub(crate) type Number = usize;

/// The first number of guests.
pub(crate) const GUEST: usize = 1000;

/// A MAC address of a guest, another one for each start of it. All begin with [`GUEST_MAC`].
pub(crate) fn guest_mac(number: Number, starts: u8) -> Mac {
    let [a, b, c, d] = GUEST_MAC;
    let guest = number.wrapping_sub(GUEST).to_le_bytes()[0];
    [a, b, c, d, guest, starts]
}

/// Nobody but the guest may see this in a frame.
pub(crate) const GUEST_MAC: [u8; 4] = *b"\x02\xe5\xb1\x9d";

/// What is behind a tap.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Machine {
    pub(crate) running: bool,
    /// How often it was started, wrapping.
    pub(crate) starts: u8,
    /// Whether its addresses are learnt; `None`: they are given by hand.
    pub(crate) learning: Option<bool>,
}

/// What a device is like.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Device {
    pub(crate) home: Home,
    pub(crate) up: bool,
    /// It goes by its other name.
    pub(crate) renamed: bool,
    /// Somebody in its namespace gave it a MAC address of its own.
    pub(crate) own_mac: bool,
    pub(crate) addresses: BTreeSet<IpAddr>,
    /// It is a tap.
    pub(crate) machine: Option<Machine>,
}

impl Device {
    /// As it is made.
    fn new(number: Number, home: Home) -> Self {
        Self {
            home,
            up: false,
            renamed: false,
            own_mac: false,
            addresses: BTreeSet::new(),
            machine: (number >= GUEST).then(|| Machine {
                running: false,
                starts: 0,
                learning: (number % 2 == 1).then_some(true),
            }),
        }
    }

    /// Whether there is a stack that hears what comes.
    pub(crate) fn listens(&self) -> bool {
        self.up && self.machine.is_none_or(|machine| machine.running)
    }

    /// Whether its addresses are its own. What is given by hand is so without a guest; what is
    /// learnt goes with it.
    fn owns(&self) -> bool {
        self.up
            && self.machine.is_none_or(|machine| {
                machine
                    .learning
                    .is_none_or(|learning| learning && machine.running)
            })
    }

    /// Whether addresses may be given to it one by one and taken away. What was learnt can only be
    /// forgotten as a whole.
    pub(crate) fn can_take(&self) -> bool {
        self.machine
            .is_none_or(|machine| machine.learning.is_none())
    }
}

/// All that is at one moment.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct State {
    pub(crate) devices: BTreeMap<Number, Device>,
    pub(crate) mode: Mode,
    pub(crate) flag: Flag,
    pub(crate) mac: Mac,
    pub(crate) mtu: u32,
    /// The wire is there.
    pub(crate) carrier: bool,
}

impl State {
    /// Before the first command.
    pub(crate) fn new(mac: Mac) -> Self {
        Self {
            devices: BTreeMap::new(),
            mode: Mode::L2,
            flag: Flag::Bridge,
            mac,
            mtu: 1500,
            carrier: true,
        }
    }

    /// What will be when `op` has succeeded. `None`: there is nothing for it to be done to.
    pub(crate) fn after(&self, op: &Op) -> Option<Self> {
        let mut next = self.clone();
        match op {
            Op::Add { device, home, .. } => {
                if self.devices.contains_key(device) {
                    return None;
                }
                let new = Device::new(*device, *home);
                let _: Option<_> = next.devices.insert(*device, new);
            }
            Op::Delete { device, .. } => {
                let _: Device = next.devices.remove(device)?;
            }
            Op::Move { device, home } => {
                let device = next.devices.get_mut(device)?;
                if device.home == *home {
                    return None;
                }
                // A device comes into another namespace down, and without addresses.
                device.home = *home;
                device.up = false;
                device.addresses.clear();
            }
            Op::Rename { device } => {
                let device = next.devices.get_mut(device)?;
                device.renamed = !device.renamed;
            }
            Op::Up { device } => {
                let device = next.devices.get_mut(device).filter(|device| !device.up)?;
                device.up = true;
            }
            Op::Down { device } => {
                let device = next.devices.get_mut(device).filter(|device| device.up)?;
                device.up = false;
                // IPv6 forgets (keep_addr_on_down is 0), IPv4 does not, and a guest does not notice.
                if device.machine.is_none() {
                    device.addresses.retain(IpAddr::is_ipv4);
                }
            }
            Op::Start { device } => {
                let machine = next.devices.get_mut(device)?.machine.as_mut()?;
                if machine.running {
                    return None;
                }
                machine.running = true;
                machine.starts = machine.starts.wrapping_add(1);
            }
            Op::Stop { device } => {
                let device = next.devices.get_mut(device)?;
                let machine = device.machine.as_mut().filter(|machine| machine.running)?;
                machine.running = false;
                if machine.learning.is_some() {
                    device.addresses.clear();
                }
            }
            Op::Learning { device } => {
                let machine = next.devices.get_mut(device)?.machine.as_mut()?;
                machine.learning = Some(!machine.learning?);
            }
            Op::OwnMac { device } => {
                let device = next.devices.get_mut(device)?;
                device.own_mac = !device.own_mac;
            }
            Op::Give { device, address } => {
                next.give(*device, *address)?;
            }
            Op::Take { device, address } => next.take(*device, *address)?,
            Op::HandOver { from, to, address } => {
                next.take(*from, *address)?;
                next.give(*to, *address)?;
            }
            // Both belong to a port, and there is none without a device.
            Op::Mode { mode, .. } if !self.devices.is_empty() => next.mode = *mode,
            Op::Flag { flag, .. } if !self.devices.is_empty() => next.flag = *flag,
            Op::Mode { .. } | Op::Flag { .. } => return None,
            Op::KillHome { home } => next.devices.retain(|_, device| device.home != *home),
            // Nobody sees that it was set to what it was.
            Op::ParentMac { mac } if *mac == self.mac => return None,
            Op::ParentMac { mac } => {
                next.mac = *mac;
                // Each follows, whatever it had.
                for device in next.devices.values_mut() {
                    device.own_mac = false;
                }
            }
            Op::ParentMtu { mtu } => next.mtu = *mtu,
            Op::Carrier { on } => next.carrier = *on,
            Op::KillAgent | Op::StartAgent | Op::Look { .. } => {}
        }
        Some(next)
    }

    fn give(&mut self, device: Number, address: IpAddr) -> Option<()> {
        let contested = self.claims().contains_key(&address);
        let device = self.devices.get_mut(&device)?;
        // By hand nobody gives what somebody has: that is refused.
        let by_hand = device.machine.is_some() && device.can_take();
        let may = device.listens() && !(by_hand && contested);
        (may && device.addresses.insert(address)).then_some(())
    }

    fn take(&mut self, device: Number, address: IpAddr) -> Option<()> {
        let device = self.devices.get_mut(&device)?;
        (device.can_take() && device.addresses.remove(&address)).then_some(())
    }

    /// Whether something of what should be has to be learnt. That takes an agent.
    pub(crate) fn learns(&self) -> bool {
        let mut machines = self.devices.values().filter_map(|device| device.machine);
        machines.any(|machine| machine.learning == Some(true))
    }

    /// What is true in it.
    pub(crate) fn facts(&self) -> BTreeSet<Fact> {
        let mut facts = BTreeSet::from([
            Fact::Mode(self.mode),
            Fact::Flag(self.flag),
            Fact::Mac(self.mac),
        ]);
        for (number, device) in &self.devices {
            facts.extend([Fact::Lives(*number, device.home)]);
            if device.owns() {
                let has = |address| Fact::Has(*number, address);
                facts.extend(device.addresses.iter().copied().map(has));
            }
        }
        facts
    }

    /// Who claims each address: the devices that have it and are up, whether or not a guest answers.
    pub(crate) fn claims(&self) -> BTreeMap<IpAddr, BTreeSet<Number>> {
        let mut claims: BTreeMap<IpAddr, BTreeSet<Number>> = BTreeMap::new();
        for (number, device) in self.devices.iter().filter(|(_, device)| device.owns()) {
            for address in &device.addresses {
                let _: bool = claims.entry(*address).or_default().insert(*number);
            }
        }
        claims
    }

    /// Addresses with one claimant that answers, and who that is. Of several the first one wins, and who was
    /// first depends on when the agent looked.
    pub(crate) fn uncontested(&self) -> BTreeMap<IpAddr, Number> {
        let claims = self.claims().into_iter();
        let listens = |number: &Number| self.devices.get(number).is_some_and(Device::listens);
        let only = |who: &BTreeSet<Number>| {
            let first = who.first().copied().filter(|_| who.len() == 1);
            first.filter(listens)
        };
        claims
            .filter_map(|(address, who)| Some((address, only(&who)?)))
            .collect()
    }

    /// Where a device lives.
    pub(crate) fn home(&self, device: Number) -> Option<Home> {
        self.devices.get(&device).map(|device| device.home)
    }

    /// Whether the LAN and this device should reach each other.
    pub(crate) fn reaches_lan(&self, device: Number) -> bool {
        // In l3s the host forwards to the device by its neighbour entry, which is the shared one.
        let deaf = |device: &Device| device.own_mac && self.mode == Mode::L3s;
        self.carrier
            && self
                .devices
                .get(&device)
                .is_some_and(|device| !deaf(device))
    }

    /// Whether the namespace of a device takes an address for its own: IPv4 goes on with that where the
    /// address's device is down, or is not its owner.
    pub(crate) fn is_local(&self, device: Number, address: IpAddr) -> bool {
        let home = self.home(device);
        let mut all = self.devices.values();
        all.any(|device| Some(device.home) == home && device.addresses.contains(&address))
    }

    /// Whether two devices should reach each other.
    pub(crate) fn siblings_reach(&self, one: Number, other: Number) -> bool {
        let homes = (self.home(one), self.home(other));
        // Between two devices of one namespace nothing leaves it.
        self.carrier && self.flag == Flag::Bridge && homes.0 != homes.1
    }

    /// How many copies of a broadcast each namespace should hear, when this device, or the wire,
    /// sends it.
    pub(crate) fn broadcast(&self, sender: Option<Number>) -> BTreeMap<Home, usize> {
        let mut copies = BTreeMap::new();
        let isolated = sender.is_some() && self.flag == Flag::Private;
        if self.mode != Mode::L2 || isolated || !self.carrier {
            return copies;
        }
        for (number, device) in &self.devices {
            // A device that is down hears nothing, and the sender not itself.
            if device.listens() && sender != Some(*number) {
                *copies.entry(device.home).or_default() += 1;
            }
        }
        copies
    }
}

/// Something that is true for a while.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Fact {
    /// The device is up and has the address. What nobody has followed goes with the device, wherever
    /// it is moved to.
    Has(Number, IpAddr),
    /// Where the device is.
    Lives(Number, Home),
    Mode(Mode),
    Flag(Flag),
    /// The parent's address.
    Mac(Mac),
}

/// For how long a fact was true.
#[derive(Clone, Copy, Debug)]
struct Spell {
    fact: Fact,
    since: Time,
    /// When it ended, and when somebody saw to it that the datapath knows.
    over: Option<(Time, Option<Time>)>,
}

/// What was true when.
#[derive(Debug, Default)]
pub(crate) struct History {
    spells: Vec<Spell>,
    /// Somebody follows.
    agent: bool,
}

impl History {
    /// A command starts that makes these true, and does not end others yet.
    pub(crate) fn begin(&mut self, now: Time, facts: &BTreeSet<Fact>) {
        let open: BTreeSet<Fact> = self.open().collect();
        for fact in facts.difference(&open) {
            self.spells.push(Spell {
                fact: *fact,
                since: now,
                over: None,
            });
        }
    }

    /// The command has ended, and these are true.
    pub(crate) fn end(&mut self, now: Time, facts: &BTreeSet<Fact>) {
        let followed = self.agent.then_some(now);
        for spell in &mut self.spells {
            if spell.over.is_none() && !facts.contains(&spell.fact) {
                spell.over = Some((now, followed));
            }
        }
        self.begin(now, facts);
        // Nobody asks about that any more.
        self.spells.retain(|spell| match spell.over {
            Some((_, Some(followed))) => followed + 20 * GRACE > now,
            Some((_, None)) | None => true,
        });
    }

    fn open(&self) -> impl Iterator<Item = Fact> {
        let open = self.spells.iter().filter(|spell| spell.over.is_none());
        open.map(|spell| spell.fact)
    }

    /// A call has looked at everything.
    pub(crate) fn follow(&mut self, now: Time) {
        for spell in &mut self.spells {
            if let Some((_, followed @ None)) = &mut spell.over {
                *followed = Some(now);
            }
        }
    }

    /// An agent runs from now on.
    pub(crate) fn agent_started(&mut self, now: Time) {
        self.agent = true;
        self.follow(now);
    }

    /// It was killed, perhaps before it had followed what happened last.
    pub(crate) fn agent_killed(&mut self, now: Time) {
        self.agent = false;
        for spell in &mut self.spells {
            if let Some((_, followed)) = &mut spell.over
                && followed.is_some_and(|at| at + GRACE > now)
            {
                *followed = None;
            }
        }
    }

    /// Whether one runs.
    pub(crate) fn agent(&self) -> bool {
        self.agent
    }

    /// Whether a frame for this address may have been heard in this namespace between the two times.
    pub(crate) fn belongs(&self, from: Time, to: Time, home: Home, address: IpAddr) -> bool {
        self.spells.iter().any(|spell| match spell.fact {
            Fact::Has(device, has) if has == address => {
                self.could(from, to, spell.fact) && self.could(from, to, Fact::Lives(device, home))
            }
            _ => false,
        })
    }

    /// Whether something that was heard between the two times may come from a time when the fact
    /// was true.
    pub(crate) fn could(&self, from: Time, to: Time, fact: Fact) -> bool {
        self.spells.iter().any(|spell| {
            let still = match spell.over {
                Some((_, Some(followed))) => followed + GRACE >= from,
                Some((_, None)) | None => true,
            };
            spell.fact == fact && spell.since <= to && still
        })
    }
}

/// An address of the pool that devices take theirs from: half of them IPv4, half IPv6.
pub(crate) fn address(number: usize) -> IpAddr {
    let pair = u16::try_from(number / 2).unwrap_or(u16::MAX);
    match number % 2 {
        0 => {
            let [high, low] = (pair / 200 * 256 + pair % 200 + 1).to_be_bytes();
            IpAddr::V4(Ipv4Addr::new(10, 2, high, low))
        }
        _ => IpAddr::V6(Ipv6Addr::new(0xfd02, 0, 0, 0, 0, 0, 0, pair + 1)),
    }
}

/// Whether it is of that pool.
pub(crate) fn is_of_pool(address: IpAddr) -> bool {
    match address {
        IpAddr::V4(v4) => v4.octets().starts_with(&[10, 2]) && !is_broadcast(address),
        IpAddr::V6(v6) => v6.segments().starts_with(&[0xfd02, 0, 0, 0]),
    }
}

/// To all on the devices' subnet, or on the LAN's.
pub(crate) fn is_broadcast(address: IpAddr) -> bool {
    [BROADCAST, LAN_BROADCAST]
        .map(IpAddr::V4)
        .contains(&address)
}

/// What devices send to all.
pub(crate) const BROADCAST: Ipv4Addr = Ipv4Addr::new(10, 2, 255, 255);
/// What the LAN does.
pub(crate) const LAN_BROADCAST: Ipv4Addr = Ipv4Addr::new(10, 1, 0, 255);

#[cfg(test)]
mod tests;
