//! One operation of the script: who does it, and what should be after it.

use std::collections::BTreeSet;
use std::net::IpAddr;

use ipvlan_tests::packet::mac_text;
use ipvlan_tests::process::kill_hard;
use ipvlan_tests::{PATIENCE, Process, eventually};

use super::guests::GUEST_INTERFACE;
use super::{Outcome, World, inside};
use crate::model::{Device, Fact, GRACE, GUEST, Home, Number, State};
use crate::places::Spot;
use crate::report::Fate;
use crate::script::{Call, Op};

impl World<'_> {
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
                inside::up(ns, &name, *device, had.unwrap_or(&BTreeSet::new()))
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
            let inside = inside::give(&guest.ns, GUEST_INTERFACE, number, address);
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
            Some((ns, name)) => inside::give(ns, &name, number, address),
            None => Outcome::Failed(format!("no device {number}")),
        }
    }

    fn take(&self, number: Number, address: IpAddr) -> Outcome {
        if number >= GUEST {
            let inside = self.guests.get(&number).map_or(Outcome::Done, |guest| {
                inside::take(&guest.ns, GUEST_INTERFACE, number, address)
            });
            return match inside {
                Outcome::Done => self.by_hand(&format!("addr del {address} dev d{number}")),
                other => other,
            };
        }
        match self.place(number) {
            Some((ns, name)) => inside::take(ns, &name, number, address),
            None => Outcome::Failed(format!("no device {number}")),
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
}
