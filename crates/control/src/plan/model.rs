//! A kernel to make the steps of plans in: for the tests of plan, and for `fuzz`.
#![expect(clippy::expect_used, reason = "a plan that is wrong ends the run")]

use std::collections::BTreeMap;
use std::net::IpAddr;

use ipvlan_abi::{MAX_DEVS, Mode, Owner};
use ipvlan_netlink::{AddrGenMode, Family, Link, LinkChange, Nsid};

use super::{IFF_ALLMULTI, IFF_NOARP, Step, plan};
use crate::observe::{DevView, World};
use crate::routing::{self, Routing, Setting};

const UP: u32 = 1;
const LOWER_UP: u32 = 1 << 16;

/// The kernel as a plan sees and changes it.
#[derive(Clone, Debug, Default)]
pub(crate) struct Kernel {
    pub(crate) world: World,
    /// All of `MEMBERS` by port, also what the port's entry does not reach.
    pub(crate) slots: BTreeMap<u32, BTreeMap<u32, u32>>,
}

impl Kernel {
    pub(crate) fn observe(&self) -> World {
        let mut world = self.world.clone();
        let devs = world
            .ports
            .values_mut()
            .flat_map(|port| port.devs.values_mut());
        for dev in devs.filter(|dev| dev.is_tap()) {
            dev.link.clone_from(&dev.host);
        }
        for (index, port) in &mut world.ports {
            if port.entry.mode() == Mode::L3s {
                for address in port.devs.values().flat_map(|dev| &dev.addresses) {
                    let _: &mut bool = port.behind.entry(*address).or_insert(false);
                }
            } else {
                port.behind.clear();
            }
            let count = port.entry.members.min(MAX_DEVS);
            port.members = vec![0; usize::try_from(count).unwrap_or_default()];
            let slots = self.slots.get(index).into_iter().flatten();
            for (place, host) in slots {
                let place = usize::try_from(*place).unwrap_or(usize::MAX);
                if let Some(member) = port.members.get_mut(place) {
                    *member = *host;
                }
            }
        }
        world
    }

    pub(crate) fn plan(&self) -> Vec<Step> {
        plan(&self.observe())
    }

    /// Plans and applies until nothing is left to do. Returns the rounds that it took.
    pub(crate) fn reconcile(&mut self) -> usize {
        for round in 0..10 {
            let steps = self.plan();
            if steps.is_empty() {
                return round;
            }
            for step in &steps {
                self.apply(step);
            }
        }
        panic!("no end of it: {:?}", self.plan());
    }

    pub(crate) fn apply(&mut self, step: &Step) {
        let ports = &mut self.world.ports;
        match step {
            Step::DropOwner { port, prefix } => {
                let port = ports.get_mut(port).expect("a port to drop an owner of");
                let _: Option<Owner> = port.owners.remove(prefix);
            }
            Step::SetOwner {
                port,
                prefix,
                owner,
            } => {
                let port = ports.get_mut(port).expect("a port to set an owner of");
                let _: Option<Owner> = port.owners.insert(*prefix, *owner);
            }
            Step::SetMember { port, slot, host } => {
                assert!(*slot < MAX_DEVS, "the map ends there");
                let _: Option<u32> = self.slots.entry(*port).or_default().insert(*slot, *host);
            }
            Step::SetEntry { port, entry } => {
                ports.get_mut(port).expect("a port to set").entry = *entry;
            }
            Step::SetDev { port, host, entry } => {
                let port = ports.get_mut(port).expect("a port to set a device of");
                port.devs.get_mut(host).expect("a device to set").entry = *entry;
            }
            Step::ForgetDev { port, host } => {
                let port = ports.get_mut(port).expect("a port to forget a device of");
                if let Some(dev) = port.devs.remove(host) {
                    let _: Option<_> = port.grants.remove(&dev.entry.slot);
                    let _: Option<_> = port.learnt.remove(&dev.entry.slot);
                }
            }
            Step::DeleteLink { index } => {
                let _: bool = self.world.strays.remove(index);
                let devs = ports.values_mut().flat_map(|port| &mut port.devs);
                for (_, dev) in devs.filter(|(host, _)| *host == index) {
                    dev.host = None;
                    dev.link = None;
                    dev.addresses.clear();
                }
                for port in ports.values_mut() {
                    port.routing.routes.retain(|_, host| *host != Some(*index));
                }
            }
            Step::Change { index, change } => {
                for (parent, port) in ports {
                    if let (true, Some(on)) = (parent == index, change.allmulticast) {
                        listen(port.parent.as_mut(), on);
                    }
                    let dev = port.devs.get_mut(index);
                    let host = dev.and_then(|dev| dev.host.as_mut());
                    let Some(host) = host else { continue };
                    if let Some(on) = change.carrier {
                        host.carrier_down_count += u32::from(host.has_carrier() && !on);
                        host.flags = host.flags & !LOWER_UP | if on { LOWER_UP } else { 0 };
                    }
                    if let Some(up) = change.up {
                        host.flags = host.flags & !UP | if up { UP } else { 0 };
                    }
                    if let Some(noarp) = change.noarp {
                        host.flags = host.flags & !IFF_NOARP | if noarp { IFF_NOARP } else { 0 };
                    }
                    host.mac = change.mac.or(host.mac);
                    // What goes down loses its routes.
                    if change.up == Some(false) {
                        port.routing.routes.retain(|_, host| *host != Some(*index));
                    }
                }
            }
            Step::ChangeDev {
                place,
                index,
                change,
            } => self.change_dev(*place, *index, change),
            Step::RemoveAddress {
                place,
                index,
                address,
            } => {
                for dev in self.devs_at(*place, *index) {
                    let _: bool = dev.addresses.remove(&IpAddr::V6(*address));
                }
            }
            Step::SetRoute {
                table,
                prefix,
                host,
            } => {
                let routing = self.routing_of(*table);
                let _: Option<_> = routing.routes.insert(*prefix, *host);
            }
            Step::DropRoute { table, prefix } => {
                let _: Option<_> = self.routing_of(*table).routes.remove(prefix);
            }
            Step::AddRule { rule } => {
                let new = self.routing_of(rule.table).rules.insert(rule.clone());
                assert!(new, "the kernel says EEXIST");
            }
            Step::DropRule { rule } => {
                let _: bool = self.routing_of(rule.table).rules.remove(rule);
            }
            Step::Set { interface, setting } => self.set(interface, *setting),
            Step::ForgetLearnt {
                port,
                slot,
                address,
            } => {
                let port = ports.get_mut(port).expect("a port to forget an address of");
                if let Some(learnt) = port.learnt.get_mut(slot) {
                    let _: Option<_> = learnt.remove(address);
                }
            }
            Step::RemovePort { port } => {
                let removed = ports.remove(port).expect("a port to remove");
                assert!(removed.devs.is_empty(), "a port goes after its devices");
                assert_eq!(removed.routing, Routing::default(), "and leaves nothing");
            }
        }
    }

    fn routing_of(&mut self, table: u32) -> &mut Routing {
        let mut ports = self.world.ports.iter_mut();
        let (_, port) = ports
            .find(|(parent, _)| routing::table(**parent) == table)
            .expect("a table of one of the ports");
        &mut port.routing
    }

    fn set(&mut self, interface: &str, setting: Setting) {
        for port in self.world.ports.values_mut() {
            let hosts = port.devs.values_mut().filter_map(|dev| dev.host.as_mut());
            for link in hosts.chain(&mut port.parent) {
                if link.name != interface {
                    continue;
                }
                let on = setting.value != 0;
                if setting.family == Family::V6 {
                    assert_eq!(setting.name, "force_forwarding");
                    link.force_forwards_v6 = Some(on);
                    continue;
                }
                // Without IPv4 there is no such file.
                let Some(v4) = link.v4.as_mut() else {
                    continue;
                };
                match setting.name {
                    "forwarding" => v4.forwarding = on,
                    "rp_filter" => v4.rp_filter = setting.value,
                    "src_valid_mark" => v4.src_valid_mark = on,
                    other => panic!("no such setting: {other}"),
                }
            }
        }
    }

    fn devs_at(&mut self, place: Option<Nsid>, index: u32) -> Vec<&mut DevView> {
        self.world
            .ports
            .values_mut()
            .flat_map(|port| port.devs.values_mut())
            .filter(|dev| dev.place == place)
            .filter(|dev| dev.link.as_ref().is_some_and(|link| link.index == index))
            .collect()
    }

    fn change_dev(&mut self, place: Option<Nsid>, index: u32, change: &LinkChange) {
        for dev in self.devs_at(place, index) {
            let end = match dev.is_tap() {
                true => &mut dev.host,
                false => &mut dev.link,
            };
            let Some(link) = end else { continue };
            link.mtu = change.mtu.unwrap_or(link.mtu);
            link.mac = change.mac.or(link.mac);
            if let Some(noarp) = change.noarp {
                link.flags = link.flags & !IFF_NOARP | if noarp { IFF_NOARP } else { 0 };
            }
            if let Some(mode) = change.addr_gen_mode {
                link.addr_gen_mode = Some(mode);
                if link.is_up() && mode == AddrGenMode::Random {
                    let [high, low] = [index >> 16, index & 0xffff];
                    let random = format!("fe80::{high:x}:beef:{low:x}");
                    let random = random.parse().expect("an address");
                    let _: bool = dev.addresses.insert(random);
                }
            }
        }
    }
}

/// Switches all-multicast on or off.
pub(crate) fn listen(link: Option<&mut Link>, on: bool) {
    if let Some(link) = link {
        link.flags = link.flags & !IFF_ALLMULTI | if on { IFF_ALLMULTI } else { 0 };
        link.allmulti = Some(u32::from(on));
    }
}
