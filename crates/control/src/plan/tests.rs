use ipvlan_abi::{
    ABI_VERSION, DevEntry, Flag, PORT_FORWARD4, PORT_FORWARD6, PORT_MARK, PORT_ROUTED,
};
use ipvlan_netlink::{Family, Link, V4Settings};
use proptest::prelude::*;

use super::*;
use crate::routing::{Host, Routing};

mod l3s;

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
            },
            parent: Some(link(PARENT)),
            devs: BTreeMap::new(),
            owners: BTreeMap::new(),
            members: Vec::new(),
            routing: Routing::default(),
            gateways: BTreeSet::new(),
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
                let mut v4 = link.v4.unwrap_or_default();
                match setting.name {
                    "forwarding" => v4.forwarding = setting.on,
                    "rp_filter" => v4.rp_filter = u32::from(setting.on),
                    "src_valid_mark" => v4.src_valid_mark = setting.on,
                    "force_forwarding" => link.force_forwards_v6 = Some(setting.on),
                    other => panic!("no such setting: {other}"),
                }
                link.v4 = Some(v4);
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

#[test]
fn a_fresh_device_gets_its_addresses_its_slot_and_its_mode() {
    for mode in [Mode::L2, Mode::L3] {
        let mut kernel = two(mode);
        let mut fresh = device(12, 2, &["10.0.0.12", "fd00::12"]);
        fresh.host = Some(link(12)).map(|mut host| {
            host.flags = 0;
            host
        });
        let _: Option<DevView> = kernel.port().devs.insert(12, fresh);
        let mut expected = vec![
            set("10.0.0.12", owner(12, place(12))),
            set("fd00::12", owner(12, place(12))),
            member(2, 12),
            up(12, true),
        ];
        if mode == Mode::L3 {
            let change = LinkChange {
                noarp: Some(true),
                ..LinkChange::default()
            };
            expected.push(inside(12, change));
        }
        expected.push(entry(&mut kernel, |entry| entry.members = 3));
        assert_eq!(kernel.plan(), expected, "{mode}");
        assert_eq!(kernel.reconcile(), 1, "one round is enough");
    }
}

#[test]
fn a_device_that_was_moved_is_reached_where_it_is() {
    let mut kernel = two(Mode::L2);
    kernel.dev(11).place = None;
    let here = set("10.0.0.11", owner(11, None));
    assert_eq!(kernel.plan(), [here], "home: out of its host end");
    let _: usize = kernel.reconcile();
    kernel.dev(11).place = Some(Nsid(40));
    let there = set("10.0.0.11", owner(11, Some(Nsid(40))));
    assert_eq!(kernel.plan(), [there], "away: straight into its namespace");
    let _: usize = kernel.reconcile();
    kernel.dev(11).place = Some(Nsid(41));
    assert_eq!(kernel.plan(), [], "which namespace makes no difference");
    // The move takes its addresses away and sets it down.
    kernel.link(11).flags = 0;
    kernel.dev(11).addresses.clear();
    assert_eq!(kernel.plan(), [lose("10.0.0.11")], "nothing is left behind");
}

#[test]
fn a_device_that_is_down_owns_nothing_and_keeps_its_slot() {
    let mut kernel = two(Mode::L2);
    // What observe() makes of a device that is down.
    kernel.link(10).flags = 0;
    kernel.dev(10).addresses.clear();
    let expected = [lose("10.0.0.10"), lose("fd00::10")];
    assert_eq!(kernel.plan(), expected, "down");
    let _: usize = kernel.reconcile();
    *kernel.dev(10) = device(10, 0, &["10.0.0.10"]);
    let expected = [set("10.0.0.10", owner(10, place(10)))];
    assert_eq!(kernel.plan(), expected, "up again");
}

#[test]
fn the_first_owner_keeps_an_address_that_a_second_device_takes() {
    for (first, second) in [(10, 11), (11, 10)] {
        let mut kernel = two(Mode::L2);
        for host in [first, second] {
            let _: bool = kernel.dev(host).addresses.insert(ip("10.0.0.99"));
            let _: usize = kernel.reconcile();
            assert_eq!(kernel.owner("10.0.0.99"), Some(first), "it was first");
        }
        let _: bool = kernel.dev(first).addresses.remove(&ip("10.0.0.99"));
        let expected = [set("10.0.0.99", owner(second, place(second)))];
        assert_eq!(kernel.plan(), expected, "once free, it is the other's");
    }
}

#[test]
fn of_devices_that_come_together_the_lowest_slot_gets_the_address() {
    let devs = vec![device(10, 2, &[]), device(11, 1, &[]), device(12, 0, &[])];
    let mut kernel = Kernel::settled(Mode::L2, devs);
    for host in [10, 11] {
        let _: bool = kernel.dev(host).addresses.insert(ip("10.0.0.99"));
    }
    let expected = [set("10.0.0.99", owner(11, place(11)))];
    assert_eq!(kernel.plan(), expected, "slot 1 goes before slot 2");
}

#[test]
fn an_address_of_the_parents_namespace_is_nobody_elses() {
    let mut kernel = two(Mode::L2);
    let _: bool = kernel.world.own.insert(ip("10.0.0.1"));
    let _: bool = kernel.world.own.insert(ip("10.0.0.10"));
    let expected = [set("10.0.0.1", OF_PARENT), set("10.0.0.10", OF_PARENT)];
    assert_eq!(kernel.plan(), expected, "even one that a device had first");
    let _: usize = kernel.reconcile();
    assert_eq!(kernel.plan(), [], "and it stays so");
    kernel.world.own.clear();
    let expected = [lose("10.0.0.1"), set("10.0.0.10", owner(10, place(10)))];
    assert_eq!(kernel.plan(), expected, "until the namespace gives it up");
}

#[test]
fn the_address_of_a_next_router_is_no_devices() {
    let mut kernel = two(Mode::L3);
    let _: bool = kernel.port().gateways.insert(ip("10.0.0.10"));
    let _: bool = kernel.port().gateways.insert(ip("10.0.0.254"));
    assert_eq!(kernel.plan(), [lose("10.0.0.10")], "even one that it had");
    let _: bool = kernel.dev(11).addresses.insert(ip("10.0.0.254"));
    let _: usize = kernel.reconcile();
    assert_eq!(kernel.owner("10.0.0.254"), None);
    kernel.port().gateways.clear();
    let expected = [
        set("10.0.0.10", owner(10, place(10))),
        set("10.0.0.254", owner(11, place(11))),
    ];
    assert_eq!(kernel.plan(), expected, "until it is none any more");
}

#[test]
fn what_was_granted_goes_before_all_else() {
    let mut kernel = two(Mode::L2);
    let all = ["10.0.0.1", "10.0.0.10", "10.0.0.254"].map(ip);
    let _: bool = kernel.world.own.insert(all[0]);
    let _: bool = kernel.port().gateways.insert(all[2]);
    let _: usize = kernel.reconcile();
    let _: Option<_> = kernel.port().grants.insert(1, BTreeSet::from(all));
    assert_eq!(
        kernel.plan(),
        [],
        "nothing changes while the device has it not"
    );
    kernel.dev(11).addresses.extend(all);
    let expected = all.map(|address| set(&address.to_string(), owner(11, place(11))));
    assert_eq!(
        kernel.plan(),
        expected,
        "the host's, a sibling's, a router's"
    );
    let _: usize = kernel.reconcile();
    assert_eq!(kernel.plan(), [], "and it stays so");
    // Who has it goes before who may have it as well.
    let _: Option<_> = kernel.port().grants.insert(0, BTreeSet::from(all));
    kernel.dev(10).addresses.extend(all);
    assert_eq!(kernel.plan(), []);
    kernel.port().grants.clear();
    let expected = [lose("10.0.0.254"), set("10.0.0.1", OF_PARENT)];
    assert_eq!(
        kernel.plan(),
        expected,
        "taken back, but for what was a sibling's"
    );
}

#[test]
fn the_same_address_on_two_parents_is_no_duplicate() {
    let mut kernel = two(Mode::L2);
    let mut other = kernel.port().clone();
    other.entry.ifindex = 3;
    other.parent = Some(link(3));
    listen(other.parent.as_mut(), true);
    let dev = device(30, 0, &["10.0.0.10"]);
    other.devs = BTreeMap::from([(30, dev)]);
    other.owners = BTreeMap::from([(ip("10.0.0.10"), owner(30, place(30)))]);
    other.entry.members = 1;
    let _: Option<PortView> = kernel.world.ports.insert(3, other);
    let _: Option<_> = kernel.slots.insert(3, BTreeMap::from([(0, 30)]));
    assert_eq!(kernel.plan(), [], "each port has owners of its own");
}

#[test]
fn a_device_given_up_half_way_is_undone() {
    let mut kernel = two(Mode::L2);
    kernel.dev(11).entry.bits = 0;
    let expected = [
        lose("10.0.0.11"),
        member(1, 0),
        entry(&mut kernel, |entry| entry.members = 1),
        delete(11),
        forget(11),
    ];
    assert_eq!(kernel.plan(), expected, "not ready");
    let _: usize = kernel.reconcile();
    assert!(!kernel.port().devs.contains_key(&11), "it is gone");
}

#[test]
fn a_device_that_was_deleted_is_forgotten() {
    let mut kernel = two(Mode::L2);
    let dev = kernel.dev(10);
    dev.host = None;
    dev.link = None;
    dev.addresses.clear();
    let expected = [
        lose("10.0.0.10"),
        lose("fd00::10"),
        member(0, 0),
        forget(10),
    ];
    assert_eq!(kernel.plan(), expected, "there is no link to delete");
}

#[test]
fn a_host_end_that_no_port_knows_is_deleted() {
    let mut kernel = two(Mode::L2);
    kernel.world.strays = BTreeSet::from([50, 60]);
    assert_eq!(kernel.plan(), [delete(50), delete(60)], "strays");
    let kernel = Kernel {
        world: World {
            strays: BTreeSet::from([50]),
            ..World::default()
        },
        ..Kernel::default()
    };
    assert_eq!(kernel.plan(), [delete(50)], "without any port");
}

#[test]
fn a_parent_that_is_gone_takes_its_devices_with_it() {
    for mode in [Mode::L2, Mode::L3] {
        let mut kernel = two(mode);
        kernel.port().parent = None;
        let steps = kernel.plan();
        let expected = [
            delete(10),
            forget(10),
            delete(11),
            forget(11),
            Step::RemovePort { port: PARENT },
        ];
        assert!(steps.ends_with(&expected), "{mode}: {steps:?}");
        let touched = steps.iter().any(|step| {
            matches!(
                step,
                Step::Change { index: PARENT, .. } | Step::ChangeDev { .. }
            )
        });
        assert!(!touched, "there is nothing to change any more: {steps:?}");
        let _: usize = kernel.reconcile();
        assert!(kernel.world.ports.is_empty(), "nothing stays");
    }
}

#[test]
fn a_port_without_devices_ends_and_the_parent_is_as_before() {
    let mut kernel = Kernel::settled(Mode::L3, vec![]);
    let remove = Step::RemovePort { port: PARENT };
    assert_eq!(kernel.plan(), std::slice::from_ref(&remove), "empty");
    kernel.port().entry.bits = PORT_ALLMULTI;
    listen(kernel.port().parent.as_mut(), true);
    let expected = [all_multicast(PARENT, false), remove.clone()];
    assert_eq!(kernel.plan(), expected, "what we switched on goes off");
    kernel.port().entry.mode = Mode::L2 as u8;
    assert_eq!(kernel.plan(), expected, "in l2 as well");
    kernel.port().entry.bits = 0;
    assert_eq!(kernel.plan(), [remove], "what others switched on stays");
}

#[test]
fn all_devices_follow_a_change_of_the_parents_mac_address_and_mtu() {
    let mut kernel = two(Mode::L2);
    kernel.link(11).mtu = 9000;
    kernel.parent().mac = Some(OTHER_MAC);
    kernel.parent().mtu = 1400;
    let follow = LinkChange {
        mac: Some(OTHER_MAC),
        mtu: Some(1400),
        ..LinkChange::default()
    };
    let expected = [
        inside(10, follow.clone()),
        inside(11, follow),
        // Last: until then it says that there is something to follow.
        entry(&mut kernel, |entry| {
            entry.mac = OTHER_MAC;
            entry.mtu = 1400;
        }),
    ];
    assert_eq!(kernel.plan(), expected, "both");
    assert_eq!(kernel.reconcile(), 1, "one round is enough");
}

#[test]
fn a_device_keeps_what_it_was_given_while_the_parent_does_not_change() {
    let mut kernel = two(Mode::L2);
    kernel.link(10).mtu = 9000;
    kernel.link(11).mtu = 1280;
    kernel.link(11).mac = Some(OTHER_MAC);
    assert_eq!(kernel.plan(), [], "an MTU or MAC address of its own");
    kernel.parent().mac = None;
    assert_eq!(kernel.plan(), [], "a parent without one says nothing");
}

#[test]
fn a_device_has_carrier_when_its_parent_is_up_and_has() {
    for (flags, carrier) in [(0, false), (UP, false), (LOWER_UP, false)] {
        let mut kernel = two(Mode::L3);
        kernel.parent().flags = flags;
        let expected = [up(10, carrier), up(11, carrier)];
        assert_eq!(kernel.plan(), expected, "parent flags {flags:#x}");
        let _: usize = kernel.reconcile();
        assert_eq!(kernel.plan(), [], "and that is all");
        kernel.parent().flags = UP | LOWER_UP;
        assert_eq!(kernel.plan(), [up(10, true), up(11, true)], "back");
    }
}

#[test]
fn devices_have_arp_in_l2_and_none_in_l3() {
    for (from, to) in [(Mode::L2, Mode::L3), (Mode::L3, Mode::L2)] {
        let mut kernel = two(from);
        kernel.port().entry.mode = to as u8;
        let change = LinkChange {
            noarp: Some(to == Mode::L3),
            ..LinkChange::default()
        };
        let steps = kernel.plan();
        for host in [10, 11] {
            assert!(
                steps.contains(&inside(host, change.clone())),
                "{from} to {to}"
            );
        }
        let _: usize = kernel.reconcile();
        let listens = kernel.parent().flags & IFF_ALLMULTI != 0;
        assert_eq!(listens, to == Mode::L2, "and the parent listens in l2 only");
        let ours = kernel.port().entry.bits & PORT_ALLMULTI != 0;
        assert_eq!(ours, to == Mode::L2, "and it is known to be our doing");
        // Inside, root may switch it as it likes; it comes back.
        kernel.link(10).flags ^= IFF_NOARP;
        assert_eq!(kernel.plan(), [inside(10, change)], "the mode decides");
    }
}

#[test]
fn the_parent_listens_to_all_multicast_in_l2_unless_it_does_already() {
    let mut kernel = two(Mode::L2);
    kernel.port().entry.bits = 0;
    assert_eq!(kernel.plan(), [], "somebody else made it listen");
    kernel.parent().flags &= !IFF_ALLMULTI;
    assert_eq!(kernel.plan(), [], "a bridge, say, without the flag");
    kernel.parent().allmulti = None;
    kernel.parent().flags |= IFF_ALLMULTI;
    assert_eq!(kernel.plan(), [], "a kernel that does not count");
    listen(kernel.port().parent.as_mut(), false);
    let ours = entry(&mut kernel, |entry| entry.bits = PORT_ALLMULTI);
    let mut steps = kernel.plan();
    assert!(steps.contains(&all_multicast(PARENT, true)), "{steps:?}");
    assert!(steps.contains(&ours), "{steps:?}");
    steps.clear();
    let _: usize = kernel.reconcile();
    listen(kernel.port().parent.as_mut(), false);
    let expected = [all_multicast(PARENT, true)];
    assert_eq!(
        kernel.plan(),
        expected,
        "and again, should it be switched off"
    );
    let mut quiet = two(Mode::L3);
    assert_eq!(quiet.plan(), [], "l3 has no multicast");
    listen(quiet.port().parent.as_mut(), true);
    assert_eq!(quiet.plan(), [], "what others want in l3 is theirs");
}

#[test]
fn a_parent_that_we_made_listen_is_known_to_be_ours_when_we_are_killed() {
    let mut kernel = two(Mode::L2);
    kernel.port().entry.bits = 0;
    listen(kernel.port().parent.as_mut(), false);
    let steps = kernel.plan();
    assert_eq!(steps.len(), 2, "{steps:?}");
    kernel.apply(&steps[0]);
    // Killed here. The next one finishes it, and then the last device goes.
    let _: usize = kernel.reconcile();
    kernel.port().devs.clear();
    let steps = kernel.plan();
    assert!(
        steps.contains(&all_multicast(PARENT, false)),
        "the parent would be left in all-multicast for ever: {steps:?}"
    );
}

#[test]
fn an_address_made_from_the_shared_mac_address_is_taken_away() {
    let shared = shared();
    let mut kernel = two(Mode::L2);
    assert_eq!(IpAddr::V6(eui64(MAC)), ip(&shared), "RFC 4291 appendix A");
    let _: bool = kernel.dev(10).addresses.insert(ip(&shared));
    kernel.link(10).addr_gen_mode = Some(AddrGenMode::Eui64);
    let remove = Step::RemoveAddress {
        place: place(10),
        index: 10,
        address: eui64(MAC),
    };
    let random = LinkChange {
        addr_gen_mode: Some(AddrGenMode::Random),
        ..LinkChange::default()
    };
    let steps = kernel.plan();
    let expected = [remove.clone(), inside(10, random.clone())];
    assert!(
        steps.ends_with(&expected),
        "away, and another way: {steps:?}"
    );
    let _: usize = kernel.reconcile();
    assert_eq!(kernel.owner(&shared), None, "nobody owns it in the end");
    let made = kernel.owner("fe80::beef:a");
    assert_eq!(made, Some(10), "the new one is the device's");

    for mode in [AddrGenMode::Random, AddrGenMode::StablePrivacy] {
        let mut late = two(Mode::L2);
        let _: bool = late.dev(10).addresses.insert(ip(&shared));
        late.link(10).addr_gen_mode = Some(mode);
        let steps = late.plan();
        assert!(steps.contains(&remove), "seen only now: {steps:?}");
        let changed = steps.contains(&inside(10, random.clone()));
        assert!(!changed, "the mode is right already: {steps:?}");
    }

    let mut manual = two(Mode::L2);
    manual.link(10).addr_gen_mode = Some(AddrGenMode::None);
    let _: usize = manual.reconcile();
    let _: bool = manual.dev(10).addresses.insert(ip(&shared));
    let expected = [set(&shared, owner(10, place(10)))];
    assert_eq!(
        manual.plan(),
        expected,
        "no stack made it, so somebody wants it"
    );
}

#[test]
fn the_members_end_where_the_highest_slot_is() {
    let devs = (0..4).map(|slot| device(10 + slot, slot, &[])).collect();
    let mut kernel = Kernel::settled(Mode::L3, devs);
    for (gone, members, steps) in [(11, 4, 2), (13, 3, 3), (12, 1, 3), (10, 0, 0)] {
        let dev = kernel.dev(gone);
        dev.host = None;
        dev.link = None;
        let found = kernel.plan();
        if members == 0 {
            let remove = Step::RemovePort { port: PARENT };
            assert_eq!(found.last(), Some(&remove), "the last one");
            break;
        }
        assert_eq!(found[0], member(gone - 10, 0), "its slot is free");
        assert_eq!(
            found.len(),
            steps,
            "slot, entry if shorter, forget: {found:?}"
        );
        let _: usize = kernel.reconcile();
        assert_eq!(kernel.port().entry.members, members, "after {gone}");
        assert_eq!(kernel.plan(), [], "a hole is no fault");
    }
}

#[test]
fn a_slot_is_used_again() {
    let mut kernel = two(Mode::L3);
    let dev = kernel.dev(10);
    dev.host = None;
    dev.link = None;
    dev.addresses.clear();
    let _: Option<DevView> = kernel.port().devs.insert(12, device(12, 0, &[]));
    kernel.link(12).flags |= IFF_NOARP;
    let expected = [
        lose("10.0.0.10"),
        lose("fd00::10"),
        member(0, 0),
        member(0, 12),
        forget(10),
    ];
    assert_eq!(kernel.plan(), expected, "by another host end");
    let _: usize = kernel.reconcile();
    assert_eq!(
        kernel.observe().ports[&PARENT].members,
        [12, 11],
        "both hear"
    );
}

#[test]
fn a_slot_that_holds_what_is_no_device_of_ours_is_freed() {
    let mut kernel = two(Mode::L2);
    kernel.port().entry.members = 4;
    let slots = kernel.slots.get_mut(&PARENT).expect("the slots");
    slots.extend([(2, 77), (3, 10)]);
    let expected = [
        member(2, 0),
        member(3, 0),
        entry(&mut kernel, |entry| entry.members = 2),
    ];
    assert_eq!(kernel.plan(), expected, "a stranger, and one device twice");
}

#[test]
fn a_slot_that_comes_into_reach_is_free() {
    let mut kernel = two(Mode::L2);
    // Left by a creation that was killed between member and entry.
    let slots = kernel.slots.get_mut(&PARENT).expect("the slots");
    let _: Option<u32> = slots.insert(2, 77);
    let _: Option<DevView> = kernel.port().devs.insert(13, device(13, 3, &[]));
    for step in kernel.plan() {
        kernel.apply(&step);
        let heard = kernel.observe().ports[&PARENT].members.contains(&77);
        assert!(!heard, "a stranger hears broadcasts after {step:?}");
    }
}

/// Addresses that generated devices quarrel about.
fn pool() -> Vec<IpAddr> {
    let shared = shared();
    [
        "10.0.0.1", "10.0.0.2", "10.0.0.3", "fd00::1", "fe80::1", &shared,
    ]
    .iter()
    .map(|text| ip(text))
    .collect()
}

fn some_addresses() -> impl Strategy<Value = BTreeSet<IpAddr>> {
    prop::sample::subsequence(pool(), 0..=pool().len())
        .prop_map(|addresses| addresses.into_iter().collect())
}

fn some_link(index: u32) -> impl Strategy<Value = Link> {
    let flags = (any::<bool>(), any::<bool>(), any::<bool>(), any::<bool>());
    let mac = prop::sample::select(vec![Some(MAC), Some(OTHER_MAC), None]);
    let mtu = prop::sample::select(vec![1280u32, 1500, 9000]);
    let mode = prop::sample::select(vec![
        None,
        Some(AddrGenMode::Eui64),
        Some(AddrGenMode::None),
        Some(AddrGenMode::StablePrivacy),
        Some(AddrGenMode::Random),
    ]);
    let v4 = (any::<bool>(), 0u32..3, any::<bool>());
    let v4 = v4.prop_map(|(forwarding, rp_filter, src_valid_mark)| V4Settings {
        forwarding,
        rp_filter,
        src_valid_mark,
    });
    let settings = (prop::option::weighted(0.9, v4), any::<Option<bool>>());
    let all = (flags, mac, mtu, mode, settings);
    all.prop_map(
        move |((up, lower, noarp, listens), mac, mtu, mode, settings)| {
            let mut link = link(index);
            link.flags = if up { UP } else { 0 }
                | if lower { LOWER_UP } else { 0 }
                | if noarp { IFF_NOARP } else { 0 };
            link.mac = mac;
            link.mtu = mtu;
            link.addr_gen_mode = mode;
            (link.v4, link.force_forwards_v6) = settings;
            listen(Some(&mut link), listens);
            link
        },
    )
}

fn some_device(host: u32, slot: u32) -> impl Strategy<Value = DevView> {
    (
        prop::bool::weighted(0.8),
        prop::option::weighted(0.9, some_link(host)),
        any::<bool>(),
        prop::option::weighted(0.9, some_link(host)),
        some_addresses(),
    )
        .prop_map(move |(ready, host_end, here, own_end, addresses)| {
            let link = host_end.as_ref().and(own_end);
            // What observe() makes of one that is down, or gone.
            let up = link.as_ref().is_some_and(Link::is_up);
            DevView {
                entry: DevEntry {
                    slot,
                    bits: if ready { DEV_READY } else { 0 },
                },
                host: host_end,
                place: if here { None } else { place(host) },
                link,
                addresses: if up { addresses } else { BTreeSet::new() },
            }
        })
}

/// A port in whatever state a killed process or a stranger may have left it.
fn some_port(index: u32) -> impl Strategy<Value = (PortView, BTreeMap<u32, u32>)> {
    let first = index * 100;
    let slots = Just((0..6u32).collect::<Vec<_>>()).prop_shuffle();
    let devs = slots.prop_flat_map(move |slots| {
        let devs: Vec<_> = (first..)
            .zip(slots)
            .map(|(host, slot)| prop::option::of(some_device(host, slot)))
            .collect();
        devs
    });
    // Its own, and a stranger.
    let host = prop_oneof![4 => first..first + 6, 1 => Just(77u32)];
    let owner = prop_oneof![
        4 => (host.clone(), OWNER_PEER..=OWNER_HERE),
        1 => Just((index, OWNER_PARENT)),
    ];
    let owner = owner.prop_map(|(ifindex, kind)| Owner { ifindex, kind });
    let owners = prop::collection::btree_map(prop::sample::select(pool()), owner, 0..6);
    let members = prop::collection::btree_map(0u32..8, prop_oneof![host, Just(0)], 0..8);
    let ours = prop::sample::subsequence(
        vec![
            PORT_ALLMULTI,
            PORT_ROUTED,
            PORT_FORWARD4,
            PORT_FORWARD6,
            PORT_MARK,
        ],
        0..=5,
    );
    let port = (0u8..3, 0u32..8, ours, any::<bool>(), any::<bool>());
    let parent = prop::option::weighted(0.9, some_link(index));
    let routing = some_routing(index);
    let grants = prop::collection::btree_map(0u32..6, some_addresses(), 0..3);
    let rights = (some_addresses(), grants);
    (devs, owners, members, port, parent, routing, rights).prop_map(
        move |(devs, owners, mut slots, port, parent, routing, (gateways, grants))| {
            let (mode, members, ours, mac, mtu) = port;
            // Nothing lies behind the port's reach.
            slots.retain(|slot, _| *slot < members);
            let entry = PortEntry {
                abi: ABI_VERSION,
                ifindex: index,
                members,
                mtu: if mtu { 1500 } else { 1400 },
                mac: if mac { MAC } else { OTHER_MAC },
                mode,
                flag: 0,
                bits: ours.iter().fold(0, |all, bit| all | bit),
            };
            let port = PortView {
                entry,
                parent,
                devs: (first..)
                    .zip(devs)
                    .filter_map(|(host, dev)| Some((host, dev?)))
                    .collect(),
                owners,
                members: Vec::new(),
                // Nothing is made before the port says so.
                routing: if routing::concerns(&entry) {
                    routing
                } else {
                    Routing::default()
                },
                gateways,
                grants,
            };
            (port, slots)
        },
    )
}

fn some_routing(parent: u32) -> impl Strategy<Value = Routing> {
    let rule = (0u32..2, any::<bool>(), prop::bool::weighted(0.2)).prop_map(
        move |(later, four, renamed)| Rule {
            family: if four { Family::V4 } else { Family::V6 },
            priority: 500 + later,
            interface: if renamed {
                "old".into()
            } else {
                format!("link{parent}")
            },
            mark: None,
            table: routing::table(parent),
            nowhere: later == 1,
        },
    );
    let host = prop_oneof![4 => parent * 100..parent * 100 + 6, 1 => Just(77u32)];
    (
        prop::collection::btree_set(rule, 0..4),
        prop::collection::btree_map(prop::sample::select(pool()), host, 0..4),
    )
        .prop_map(|(rules, routes)| Routing { rules, routes })
}

fn some_host() -> impl Strategy<Value = Host> {
    (any::<bool>(), any::<Option<bool>>(), any::<bool>()).prop_map(|(v4, v6, checks_sources)| {
        Host {
            v4,
            v6,
            checks_sources,
        }
    })
}

fn some_kernel() -> impl Strategy<Value = Kernel> {
    let ports = (
        prop::option::weighted(0.9, some_port(2)),
        prop::option::weighted(0.3, some_port(3)),
    );
    let strays = prop::collection::btree_set(50u32..60, 0..3);
    let all = (ports, strays, some_addresses(), some_host());
    all.prop_map(|((second, third), strays, own, host)| {
        let mut kernel = Kernel::default();
        for (index, port) in [(2, second), (3, third)] {
            if let Some((port, slots)) = port {
                let _: Option<PortView> = kernel.world.ports.insert(index, port);
                let _: Option<_> = kernel.slots.insert(index, slots);
            }
        }
        kernel.world.strays = strays;
        kernel.world.own = own;
        kernel.world.host = host;
        kernel
    })
}

/// Who should own an address, said once more and in another way.
fn rightful(world: &World, index: u32, address: &IpAddr) -> Option<Owner> {
    let port = &world.ports[&index];
    let now = port.owners.get(address).map_or(0, |owner| owner.ifindex);
    let may = |dev: &DevView| {
        let granted = port.grants.get(&dev.entry.slot);
        granted.is_some_and(|granted| granted.contains(address))
    };
    let best = port
        .devs
        .iter()
        .filter(|(_, dev)| port.parent.is_some() && dev.entry.bits == DEV_READY)
        .filter(|(_, dev)| dev.host.is_some() && dev.addresses.contains(address))
        .min_by_key(|(host, dev)| (!may(dev), **host != now, dev.entry.slot));
    match best {
        Some((host, dev)) if may(dev) => Some(owner(*host, dev.place)),
        _ if world.own.contains(address) => Some(Owner {
            ifindex: index,
            kind: OWNER_PARENT,
        }),
        _ if port.gateways.contains(address) => None,
        _ => best.map(|(host, dev)| owner(*host, dev.place)),
    }
}

/// Where frames for an address go, in a port that may have ended.
fn owner_of(world: &World, index: u32, address: &IpAddr) -> Option<Owner> {
    world.ports.get(&index)?.owners.get(address).copied()
}

fn config() -> ProptestConfig {
    ProptestConfig {
        // A failure is kept by writing it down as a test.
        failure_persistence: None,
        ..ProptestConfig::default()
    }
}

proptest! {
    #![proptest_config(config())]

    #[test]
    fn three_rounds_settle_anything(mut kernel in some_kernel()) {
        let before = kernel.clone();
        let rounds = kernel.reconcile();
        prop_assert!(rounds <= 3, "{rounds} rounds from {before:?}");
        let world = kernel.observe();
        prop_assert!(world.strays.is_empty(), "no stray stays");
        for (index, port) in &world.ports {
            prop_assert!(port.parent.is_some(), "no port without a parent");
            prop_assert!(!port.devs.is_empty(), "no port without devices");
            let mut members = Vec::new();
            for (host, dev) in &port.devs {
                prop_assert!(dev.host.is_some(), "no device without a link");
                prop_assert_eq!(dev.entry.bits, DEV_READY, "no half device");
                let slot = usize::try_from(dev.entry.slot).expect("a small number");
                members.resize(members.len().max(slot + 1), 0);
                members[slot] = *host;
            }
            prop_assert_eq!(&port.members, &members, "who hears a broadcast");
            for address in pool() {
                prop_assert_eq!(
                    owner_of(&world, *index, &address),
                    rightful(&world, *index, &address),
                    "{}", address
                );
            }
        }
    }

    #[test]
    fn an_address_goes_from_its_old_owner_to_its_new_one(mut kernel in some_kernel()) {
        for _ in 0..4 {
            let before = kernel.observe();
            let steps = kernel.plan();
            for step in &steps {
                if let Step::DeleteLink { index } = step {
                    for port in kernel.observe().ports.values() {
                        let ours = port.devs.contains_key(index);
                        let owns = port.owners.values().any(|owner| owner.ifindex == *index);
                        let hears = port.members.contains(index);
                        prop_assert!(!ours || !owns && !hears, "{step:?} comes too early");
                    }
                }
                kernel.apply(step);
                for index in before.ports.keys() {
                    for address in pool() {
                        let old = owner_of(&before, *index, &address);
                        let now = owner_of(&kernel.world, *index, &address);
                        let new = rightful(&before, *index, &address);
                        let ended = !kernel.world.ports.contains_key(index);
                        prop_assert!(
                            now == old || now == new || ended,
                            "{address} of {old:?}, then {new:?}: {now:?} after {step:?}"
                        );
                    }
                }
            }
            for index in kernel.world.ports.keys() {
                for address in pool() {
                    let now = owner_of(&kernel.world, *index, &address);
                    let new = rightful(&before, *index, &address);
                    prop_assert_eq!(now, new, "{} after one round", address);
                }
            }
        }
    }

    #[test]
    fn killed_after_any_step_the_next_one_comes_to_the_same_end(kernel in some_kernel()) {
        let mut whole = kernel.clone();
        let _: usize = whole.reconcile();
        let steps = kernel.plan();
        for killed in 0..steps.len() {
            let mut part = kernel.clone();
            for step in &steps[..killed] {
                part.apply(step);
            }
            let _: usize = part.reconcile();
            prop_assert_eq!(
                format!("{:?}", part.observe()),
                format!("{:?}", whole.observe()),
                "killed before {:?}", steps[killed]
            );
        }
    }
}
