//! The sequence of operations. It depends on the seed alone, not on what becomes of them, so that
//! the same seed does the same again.
//!
//! To choose what makes sense (nobody deletes a device that is not there) the script keeps a
//! [`State`] of its own, in which everything succeeds. Where a call was killed, or an operation
//! fails, the world is another one for a while; the operations that then have nothing to act on are
//! void.

use std::collections::BTreeSet;
use std::fmt;
use std::net::IpAddr;
use std::time::Duration;

use ipvlan_tests::Dice;
use ipvlan_tests::packet::{Mac, mac_text};

use crate::args::Args;
use crate::model::{Flag, GUEST, Home, Mode, Number, State, address};

/// A call of `ipvlan`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Call {
    /// It may start an agent.
    pub(crate) agent: bool,
    /// It gets SIGKILL after so long, if it still runs.
    pub(crate) killed: Option<Duration>,
}

/// What happens next.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Op {
    Add {
        device: Number,
        home: Home,
        call: Call,
    },
    /// By `ipvlan link del`, or where it lives by `ip link del`.
    Delete {
        device: Number,
        call: Option<Call>,
    },
    Move {
        device: Number,
        home: Home,
    },
    Rename {
        device: Number,
    },
    Up {
        device: Number,
    },
    Down {
        device: Number,
    },
    /// Gets a MAC address of its own, or the shared one back.
    OwnMac {
        device: Number,
    },
    /// A guest is switched on, with a MAC address that it did not have before.
    Start {
        device: Number,
    },
    Stop {
        device: Number,
    },
    /// `learning` of a tap goes off, or on.
    Learning {
        device: Number,
    },
    Give {
        device: Number,
        address: IpAddr,
    },
    Take {
        device: Number,
        address: IpAddr,
    },
    /// An address moves from one device to another.
    HandOver {
        from: Number,
        to: Number,
        address: IpAddr,
    },
    Mode {
        mode: Mode,
        call: Call,
    },
    Flag {
        flag: Flag,
        call: Call,
    },
    /// The namespace goes with all that is in it; an empty one takes its place.
    KillHome {
        home: Home,
    },
    ParentMac {
        mac: Mac,
    },
    ParentMtu {
        mtu: u32,
    },
    /// The far end of the parent's wire goes down, or up.
    Carrier {
        on: bool,
    },
    KillAgent,
    StartAgent,
    /// Somebody looks: `link show`, `stats`.
    Look {
        killed: Option<Duration>,
    },
}

impl Op {
    /// One word for the figures.
    pub(crate) fn kind(&self) -> &'static str {
        match self {
            Self::Add { .. } => "add",
            Self::Delete { .. } => "delete",
            Self::Move { .. } => "move",
            Self::Rename { .. } => "rename",
            Self::Up { .. } => "up",
            Self::Down { .. } => "down",
            Self::OwnMac { .. } => "own-mac",
            Self::Start { .. } => "guest-start",
            Self::Stop { .. } => "guest-stop",
            Self::Learning { .. } => "learning",
            Self::Give { .. } => "address-add",
            Self::Take { .. } => "address-del",
            Self::HandOver { .. } => "address-move",
            Self::Mode { .. } => "mode",
            Self::Flag { .. } => "flag",
            Self::KillHome { .. } => "namespace-kill",
            Self::ParentMac { .. } => "parent-mac",
            Self::ParentMtu { .. } => "parent-mtu",
            Self::Carrier { .. } => "carrier",
            Self::KillAgent => "agent-kill",
            Self::StartAgent => "agent-start",
            Self::Look { .. } => "look",
        }
    }

    /// How its call is made, if it is one of `ipvlan`.
    pub(crate) fn call(&self) -> Option<Call> {
        match self {
            Self::Add { call, .. } | Self::Mode { call, .. } | Self::Flag { call, .. } => {
                Some(*call)
            }
            Self::Delete { call, .. } => *call,
            // What is a guest's is said on the host.
            Self::Learning { .. }
            | Self::Give { .. }
            | Self::Take { .. }
            | Self::HandOver { .. } => {
                let of_guest = self.devices().iter().any(|number| *number >= GUEST);
                of_guest.then_some(Call {
                    agent: true,
                    killed: None,
                })
            }
            Self::Look { killed } => Some(Call {
                agent: false,
                killed: *killed,
            }),
            _ => None,
        }
    }

    /// The devices that it is about.
    pub(crate) fn devices(&self) -> Vec<Number> {
        match self {
            Self::Add { device, .. }
            | Self::Delete { device, .. }
            | Self::Move { device, .. }
            | Self::Rename { device }
            | Self::Up { device }
            | Self::Down { device }
            | Self::OwnMac { device }
            | Self::Start { device }
            | Self::Stop { device }
            | Self::Learning { device }
            | Self::Give { device, .. }
            | Self::Take { device, .. } => vec![*device],
            Self::HandOver { from, to, .. } => vec![*from, *to],
            _ => Vec::new(),
        }
    }
}

/// As a person would say it.
impl fmt::Display for Op {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.kind())?;
        match self {
            Self::Add { device, .. } if *device >= GUEST => write!(f, " tap d{device}"),
            Self::Add { device, home, .. } | Self::Move { device, home } => {
                write!(f, " d{device} in n{home}")
            }
            Self::Delete { device, .. }
            | Self::Rename { device }
            | Self::Up { device }
            | Self::Down { device }
            | Self::OwnMac { device }
            | Self::Start { device }
            | Self::Stop { device }
            | Self::Learning { device } => write!(f, " d{device}"),
            Self::Give { device, address } | Self::Take { device, address } => {
                write!(f, " {address} d{device}")
            }
            Self::HandOver { from, to, address } => write!(f, " {address} d{from} to d{to}"),
            Self::Mode { mode, .. } => write!(f, " {}", mode.word()),
            Self::Flag { flag, .. } => write!(f, " {}", flag.word()),
            Self::KillHome { home } => write!(f, " n{home}"),
            Self::ParentMac { mac } => write!(f, " {}", mac_text(*mac)),
            Self::ParentMtu { mtu } => write!(f, " {mtu}"),
            Self::Carrier { on } => f.write_str(if *on { " on" } else { " off" }),
            Self::KillAgent | Self::StartAgent | Self::Look { .. } => Ok(()),
        }?;
        let Some(call) = self.call() else {
            return Ok(());
        };
        if !call.agent && !matches!(self, Self::Look { .. }) {
            f.write_str(" --no-agent")?;
        }
        match call.killed {
            Some(after) => write!(f, " (killed after {} µs)", after.as_micros()),
            None => Ok(()),
        }
    }
}

/// Chooses one operation after the other.
#[derive(Debug)]
pub(crate) struct Script {
    dice: Dice,
    belief: State,
    devices: usize,
    guests: usize,
    homes: usize,
    /// Addresses to choose from.
    pool: usize,
    /// Taps that a killed call may not have made. There are few, so it is tried again.
    unsure: BTreeSet<Number>,
}

impl Script {
    pub(crate) fn new(seed: u64, args: &Args) -> Self {
        Self {
            dice: Dice::of(seed),
            belief: State::new(mac(0)),
            devices: args.devices,
            guests: usize::from(args.guests),
            homes: args.homes(),
            pool: args.pool(),
            unsure: BTreeSet::new(),
        }
    }

    /// The operations between two checks, each with how long to wait before it. The wire is there at
    /// the end.
    pub(crate) fn burst(&mut self, count: usize) -> Vec<(Duration, Op)> {
        let mut ops: Vec<(Duration, Op)> = Vec::new();
        for device in std::mem::take(&mut self.unsure) {
            let again = Op::Add {
                device,
                home: device,
                call: Call {
                    agent: true,
                    killed: None,
                },
            };
            ops.push((self.pause(), self.chosen(again)));
        }
        for _ in 0..count {
            ops.push((self.pause(), self.op()));
        }
        if !self.belief.carrier {
            ops.push((self.pause(), self.chosen(Op::Carrier { on: true })));
        }
        ops
    }

    fn pause(&mut self) -> Duration {
        // In bunches: most follow at once.
        let micros = match self.dice.roll(3) {
            0 => self.dice.roll(150_000),
            _ => self.dice.roll(5_000),
        };
        Duration::from_micros(micros)
    }

    fn op(&mut self) -> Op {
        let op = match self.dice.roll(100) {
            // Without the wire nothing can be told; it comes back soon.
            _ if !self.belief.carrier && self.dice.roll(3) == 0 => Op::Carrier { on: true },
            0..=1 => Op::KillAgent,
            2..=6 => Op::StartAgent,
            7 => Op::Mode {
                mode: *self.dice.pick(&Mode::ALL),
                call: self.call(),
            },
            8..=9 => Op::Flag {
                flag: *self.dice.pick(&Flag::ALL),
                call: self.call(),
            },
            10 => Op::KillHome { home: self.home() },
            11 => Op::ParentMac {
                mac: mac(self.dice.byte()),
            },
            12 => Op::ParentMtu {
                mtu: *self.dice.pick(&[1300, 1400, 1500]),
            },
            13 => Op::Carrier { on: false },
            14..=16 => Op::Look {
                killed: (self.dice.roll(2) == 0).then(|| self.moment()),
            },
            17..=29 if self.guests > 0 => self.of_guest(),
            _ => self.of_device(),
        };
        self.chosen(op)
    }

    fn chosen(&mut self, op: Op) -> Op {
        if let Some(next) = self.belief.after(&op) {
            self.belief = next;
        }
        op
    }

    /// Something that happens to a device. Half of it is mending, so that most of them work.
    fn of_device(&mut self) -> Op {
        let broken: Vec<Number> = (0..self.devices)
            .filter(|number| {
                let device = self.belief.devices.get(number);
                !device.is_some_and(|device| device.up && device.addresses.len() > 1)
            })
            .collect();
        let device = match self.dice.roll(10) {
            0..=6 if !broken.is_empty() => *self.dice.pick(&broken),
            _ => self.number(),
        };
        let Some(now) = self.belief.devices.get(&device).cloned() else {
            return Op::Add {
                device,
                home: self.home(),
                call: self.call(),
            };
        };
        if !now.up && self.dice.roll(4) > 0 {
            return Op::Up { device };
        }
        let few = now.addresses.len() < 2;
        let devices = self.belief.devices.iter();
        let others = devices
            .filter(|(number, other)| **number != device && other.listens() && other.can_take());
        let others: Vec<Number> = others.map(|(number, _)| *number).collect();
        let had: Vec<IpAddr> = now.addresses.into_iter().collect();
        match self.dice.roll(20) {
            0..=3 if !few => Op::Take {
                device,
                address: *self.dice.pick(&had),
            },
            4..=6 if !few && !others.is_empty() => Op::HandOver {
                from: device,
                to: *self.dice.pick(&others),
                address: *self.dice.pick(&had),
            },
            7..=8 => Op::Down { device },
            9 => Op::Move {
                device,
                // Another one than its own.
                home: (now.home + 1 + below(&mut self.dice, self.homes - 1)) % self.homes,
            },
            10 => Op::Rename { device },
            11 => Op::OwnMac { device },
            12 => Op::Delete {
                device,
                call: (self.dice.roll(2) == 0).then(|| self.call()),
            },
            _ => Op::Give {
                device,
                address: self.address(),
            },
        }
    }

    /// Something that happens to a tap, or to the guest behind it.
    fn of_guest(&mut self) -> Op {
        let device = GUEST + below(&mut self.dice, self.guests);
        let Some(now) = self.belief.devices.get(&device).cloned() else {
            let call = self.call();
            if call.killed.is_some() {
                let _: bool = self.unsure.insert(device);
            }
            return Op::Add {
                device,
                home: device,
                call,
            };
        };
        if !now.up && self.dice.roll(4) > 0 {
            return Op::Up { device };
        }
        let machine = now.machine.as_ref();
        if !machine.is_some_and(|machine| machine.running) {
            return Op::Start { device };
        }
        if machine.is_some_and(|machine| machine.learning == Some(false)) && self.dice.roll(2) == 0
        {
            return Op::Learning { device };
        }
        let devices = self.belief.devices.iter();
        let others = devices.filter(|(number, other)| **number < GUEST && other.up);
        let others: Vec<Number> = others.map(|(number, _)| *number).collect();
        let had: Vec<IpAddr> = now.addresses.iter().copied().collect();
        let few = had.len() < 2;
        match self.dice.roll(20) {
            0..=2 if !few && now.can_take() => Op::Take {
                device,
                address: *self.dice.pick(&had),
            },
            3..=5 if !few && now.can_take() && !others.is_empty() => Op::HandOver {
                from: device,
                to: *self.dice.pick(&others),
                address: *self.dice.pick(&had),
            },
            6..=7 if !now.can_take() => Op::Learning { device },
            8..=9 => Op::Down { device },
            10..=12 => Op::Stop { device },
            13 => Op::Delete {
                device,
                call: (self.dice.roll(2) == 0).then(|| self.call()),
            },
            _ if had.len() < 4 => Op::Give {
                device,
                address: self.address(),
            },
            _ => Op::Stop { device },
        }
    }

    /// Mostly one that nobody has.
    fn address(&mut self) -> IpAddr {
        let claims = self.belief.claims();
        let mut chosen = address(0);
        for _ in 0..8 {
            chosen = address(below(&mut self.dice, self.pool));
            if !claims.contains_key(&chosen) || self.dice.roll(8) == 0 {
                break;
            }
        }
        chosen
    }

    fn number(&mut self) -> Number {
        below(&mut self.dice, self.devices)
    }

    fn home(&mut self) -> Home {
        below(&mut self.dice, self.homes)
    }

    fn call(&mut self) -> Call {
        Call {
            agent: self.dice.roll(5) > 0,
            killed: (self.dice.roll(5) == 0).then(|| self.moment()),
        }
    }

    /// A moment within a call.
    fn moment(&mut self) -> Duration {
        Duration::from_micros(self.dice.roll(40_000))
    }
}

fn below(dice: &mut Dice, count: usize) -> usize {
    let sides = u64::try_from(count).unwrap_or(1);
    usize::try_from(dice.roll(sides.max(1))).unwrap_or(0)
}

/// A MAC address for the parent.
pub(crate) fn mac(number: u8) -> Mac {
    [2, 0, 0, 0x50, 0xa0, number]
}

#[cfg(test)]
mod tests;
