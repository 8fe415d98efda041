//! Plans, applied to a kernel that is a few maps.
//!
//! | file | what |
//! |---|---|
//! | `owners.rs` | who owns an address |
//! | `devices.rs` | devices that come and go, and their slots |
//! | `parent.rs` | the parent, and what devices have of it |
//! | `l3s.rs` | what the namespace forwards |
//! | `random.rs` | from any state to the one that should be |

mod devices;
mod l3s;
mod owners;
mod parent;
mod random;

use ipvlan_abi::{
    ABI_VERSION, DevEntry, Flag, PORT_FORWARD4, PORT_FORWARD6, PORT_MARK, PORT_ROUTED,
};
use ipvlan_netlink::{Family, Link, V4Settings};

use super::*;
use crate::routing::{Host, Routing};

const PARENT: u32 = 2;
const MAC: Mac = [2, 0, 0, 0, 0x0a, 1];
const OTHER_MAC: Mac = [2, 0, 0, 0, 0x0b, 1];
const UP: u32 = 1;
const LOWER_UP: u32 = 1 << 16;

/// The kernel as a plan sees and changes it.
#[derive(Clone, Debug, Default)]
struct Kernel {
    world: World,
    /// All of `MEMBERS` by port, also what the port's entry does not reach.
    slots: BTreeMap<u32, BTreeMap<u32, u32>>,
}

impl Kernel {
    /// A port like eth0's, with all that its devices need already in place.
    fn settled(mode: Mode, devs: Vec<DevView>) -> Self {
        let mut port = PortView {
            entry: PortEntry {
                abi: ABI_VERSION,
                ifindex: PARENT,
                members: 0,
                mtu: 1500,
                mac: MAC,
                mode: mode as u8,
                flag: Flag::Bridge as u8,
                bits: 0,
                identity: [2, 0, 0, 1],
            },
            parent: Some(link(PARENT)),
            devs: BTreeMap::new(),
            owners: BTreeMap::new(),
            members: Vec::new(),
            routing: Routing::default(),
            gateways: BTreeSet::new(),
            behind: BTreeMap::new(),
            grants: BTreeMap::new(),
        };
        let mut slots = BTreeMap::new();
        for mut dev in devs {
            let host = dev.host.as_ref().expect("a settled device").index;
            for address in &dev.addresses {
                let owner = owner(host, dev.place);
                let _: &mut Owner = port.owners.entry(*address).or_insert(owner);
            }
            if let (true, Some(link)) = (mode.is_l3(), &mut dev.link) {
                link.flags |= IFF_NOARP;
            }
            let _: Option<u32> = slots.insert(dev.entry.slot, host);
            port.entry.members = port.entry.members.max(dev.entry.slot + 1);
            let _: Option<DevView> = port.devs.insert(host, dev);
        }
        if mode == Mode::L2 {
            port.entry.bits = PORT_ALLMULTI;
            listen(port.parent.as_mut(), true);
        }
        let mut kernel = Self::default();
        let _: Option<PortView> = kernel.world.ports.insert(PARENT, port);
        let _: Option<_> = kernel.slots.insert(PARENT, slots);
        kernel
    }

    fn port(&mut self) -> &mut PortView {
        self.world.ports.get_mut(&PARENT).expect("the port")
    }

    fn parent(&mut self) -> &mut Link {
        self.port().parent.as_mut().expect("the parent")
    }

    fn dev(&mut self, host: u32) -> &mut DevView {
        self.port().devs.get_mut(&host).expect("the device")
    }

    fn link(&mut self, host: u32) -> &mut Link {
        self.dev(host).link.as_mut().expect("the device's own end")
    }

    fn owner(&self, address: &str) -> Option<u32> {
        let port = self.world.ports.get(&PARENT)?;
        Some(port.owners.get(&ip(address))?.ifindex)
    }

    fn observe(&self) -> World {
        let mut world = self.world.clone();
        for (index, port) in &mut world.ports {
            if port.entry.mode() == Mode::L3s {
                for address in port.devs.values().flat_map(|dev| &dev.addresses) {
                    let _: &mut bool = port.behind.entry(*address).or_insert(false);
                }
            } else {
                port.behind.clear();
            }
            let slots = self.slots.get(index);
            port.members = (0..port.entry.members)
                .map(|slot| slots.and_then(|slots| slots.get(&slot)).copied())
                .map(Option::unwrap_or_default)
                .collect();
        }
        world
    }

    fn plan(&self) -> Vec<Step> {
        plan(&self.observe())
    }

    /// Plans and applies until nothing is left to do. Returns the rounds that it took.
    fn reconcile(&mut self) -> usize {
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

    fn apply(&mut self, step: &Step) {
        let ports = &mut self.world.ports;
        match step {
            Step::DropOwner { port, address } => {
                let port = ports.get_mut(port).expect("a port to drop an owner of");
                let _: Option<Owner> = port.owners.remove(address);
            }
            Step::SetOwner {
                port,
                address,
                owner,
            } => {
                let port = ports.get_mut(port).expect("a port to set an owner of");
                let _: Option<Owner> = port.owners.insert(*address, *owner);
            }
            Step::SetMember { port, slot, host } => {
                let _: Option<u32> = self.slots.entry(*port).or_default().insert(*slot, *host);
            }
            Step::SetEntry { port, entry } => {
                ports.get_mut(port).expect("a port to set").entry = *entry;
            }
            Step::ForgetDev { port, host } => {
                let port = ports.get_mut(port).expect("a port to forget a device of");
                if let Some(dev) = port.devs.remove(host) {
                    let _: Option<_> = port.grants.remove(&dev.entry.slot);
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
                    port.routing.routes.retain(|_, host| host != index);
                }
            }
            Step::Change { index, change } => {
                for (parent, port) in ports {
                    if let (true, Some(on)) = (parent == index, change.allmulticast) {
                        listen(port.parent.as_mut(), on);
                    }
                    let host = port.devs.get_mut(index).and_then(|dev| dev.host.as_mut());
                    let Some(host) = host else { continue };
                    if let Some(up) = change.up {
                        host.flags = host.flags & !UP | if up { UP } else { 0 };
                    }
                    if let Some(noarp) = change.noarp {
                        host.flags = host.flags & !IFF_NOARP | if noarp { IFF_NOARP } else { 0 };
                    }
                    host.mac = change.mac.or(host.mac);
                    // What goes down loses its routes.
                    if change.up == Some(false) {
                        port.routing.routes.retain(|_, host| host != index);
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
                address,
                host,
            } => {
                let routing = self.routing_of(*table);
                let _: Option<u32> = routing.routes.insert(*address, *host);
            }
            Step::DropRoute { table, address } => {
                let _: Option<u32> = self.routing_of(*table).routes.remove(address);
            }
            Step::AddRule { rule } => {
                let new = self.routing_of(rule.table).rules.insert(rule.clone());
                assert!(new, "the kernel says EEXIST");
            }
            Step::DropRule { rule } => {
                let _: bool = self.routing_of(rule.table).rules.remove(rule);
            }
            Step::Set { interface, setting } => self.set(interface, *setting),
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
            let Some(link) = &mut dev.link else { continue };
            link.mtu = change.mtu.unwrap_or(link.mtu);
            link.mac = change.mac.or(link.mac);
            if let Some(noarp) = change.noarp {
                link.flags = link.flags & !IFF_NOARP | if noarp { IFF_NOARP } else { 0 };
            }
            if let Some(mode) = change.addr_gen_mode {
                link.addr_gen_mode = Some(mode);
                if link.is_up() {
                    let random = format!("fe80::beef:{index:x}");
                    let _: bool = dev.addresses.insert(ip(&random));
                }
            }
        }
    }
}

fn listen(link: Option<&mut Link>, on: bool) {
    if let Some(link) = link {
        link.flags = link.flags & !IFF_ALLMULTI | if on { IFF_ALLMULTI } else { 0 };
        link.allmulti = Some(u32::from(on));
    }
}

/// An interface that is up and has a carrier.
fn link(index: u32) -> Link {
    let mut link = Link::default();
    link.index = index;
    link.mac = Some(MAC);
    link.mtu = 1500;
    link.flags = UP | LOWER_UP;
    link.allmulti = Some(0);
    link.name = format!("link{index}");
    link.v4 = Some(V4Settings::default());
    link.force_forwards_v6 = Some(false);
    link
}

fn ip(text: &str) -> IpAddr {
    text.parse().expect("an address")
}

fn shared() -> String {
    "fe80::ff:fe00:a01".to_owned()
}

fn owner(ifindex: u32, place: Option<Nsid>) -> Owner {
    let kind = if place.is_some() {
        OWNER_PEER
    } else {
        OWNER_HERE
    };
    Owner { ifindex, kind }
}

const OF_PARENT: Owner = Owner {
    ifindex: PARENT,
    kind: OWNER_PARENT,
};

/// A device that is up in a namespace of its own. Its own end's index is its host end's.
fn device(host: u32, slot: u32, addresses: &[&str]) -> DevView {
    let mut own_end = link(host);
    own_end.addr_gen_mode = Some(AddrGenMode::Random);
    DevView {
        entry: DevEntry {
            slot,
            bits: DEV_READY,
        },
        host: Some(link(host)),
        place: place(host),
        link: Some(own_end),
        addresses: addresses.iter().map(|text| ip(text)).collect(),
    }
}

fn place(host: u32) -> Option<Nsid> {
    Some(Nsid(i32::try_from(host).expect("a small number")))
}

fn set(address: &str, owner: Owner) -> Step {
    Step::SetOwner {
        port: PARENT,
        address: ip(address),
        owner,
    }
}

fn lose(address: &str) -> Step {
    Step::DropOwner {
        port: PARENT,
        address: ip(address),
    }
}

fn member(slot: u32, host: u32) -> Step {
    Step::SetMember {
        port: PARENT,
        slot,
        host,
    }
}

fn forget(host: u32) -> Step {
    Step::ForgetDev { port: PARENT, host }
}

fn delete(index: u32) -> Step {
    Step::DeleteLink { index }
}

fn up(index: u32, up: bool) -> Step {
    Step::Change {
        index,
        change: LinkChange {
            up: Some(up),
            ..LinkChange::default()
        },
    }
}

fn inside(host: u32, change: LinkChange) -> Step {
    Step::ChangeDev {
        place: place(host),
        index: host,
        change,
    }
}

fn entry(kernel: &mut Kernel, change: impl FnOnce(&mut PortEntry)) -> Step {
    let mut entry = kernel.port().entry;
    change(&mut entry);
    Step::SetEntry {
        port: PARENT,
        entry,
    }
}

/// Two devices with an address each.
fn two(mode: Mode) -> Kernel {
    let devs = vec![
        device(10, 0, &["10.0.0.10", "fd00::10"]),
        device(11, 1, &["10.0.0.11"]),
    ];
    Kernel::settled(mode, devs)
}

#[test]
fn what_is_as_it_should_be_needs_nothing() {
    assert_eq!(plan(&World::default()), [], "nothing at all");
    for mode in [Mode::L2, Mode::L3] {
        assert_eq!(two(mode).plan(), [], "{mode}");
    }
}
