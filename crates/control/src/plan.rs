//! Plan: what differs from what should be, as a list of steps.
//!
//! Pure: no system call, no clock. What should be is the driver's behaviour:
//!
//! * A device owns its addresses while it is up. The first owner keeps an address that a second
//!   device takes as well; the parent's namespace goes before all of them, and its next routers are
//!   not to be had, nor in l3s what is behind the host, unless it was granted by name (`grant`).
//! * The parent's MAC address and MTU, when they change, change those of all devices; a device has
//!   carrier when the parent has; a parent that is gone takes its devices with it.
//! * In l3 and l3s the devices have no ARP; in l3s this namespace forwards for them (`routing`).
//! * A port without devices ends.
//!
//! Added to it: no device makes its IPv6 link-local address from the MAC address that all of them
//! share (the driver has `dev_id` for this, which veth has not), and in l2 the parent listens to
//! all multicast, since its own filter does not know what the devices want to hear.
//!
//! Order: first what stops frames from going astray, then what lets more of them through, then what
//! is removed.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv6Addr};

use ipvlan_abi::{
    DEV_READY, MAX_DEVS, Mode, OWNER_HERE, OWNER_PARENT, OWNER_PEER, Owner, PORT_ALLMULTI,
    PortEntry,
};
use ipvlan_netlink::{AddrGenMode, Link, LinkChange, Mac, Nsid, Rule};

use crate::observe::{DevView, PortView, World};
use crate::routing::{self, Setting};

/// One change. Each can be made twice.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Step {
    /// Nobody owns this address any more.
    DropOwner { port: u32, address: IpAddr },
    /// This one owns it.
    SetOwner {
        port: u32,
        address: IpAddr,
        owner: Owner,
    },
    /// The slot is this host end's, or free (0).
    SetMember { port: u32, slot: u32, host: u32 },
    /// The port's own entry.
    SetEntry { port: u32, entry: PortEntry },
    /// The device is gone: forget it.
    ForgetDev { port: u32, host: u32 },
    /// A link of this namespace is to go: a device given up half-way, or one without a parent.
    DeleteLink { index: u32 },
    /// A link of this namespace is to change: a host end, or the parent.
    Change { index: u32, change: LinkChange },
    /// A device is to change, where it lives.
    ChangeDev {
        place: Option<Nsid>,
        index: u32,
        change: LinkChange,
    },
    /// The device has made an address from the shared MAC address: take it away.
    RemoveAddress {
        place: Option<Nsid>,
        index: u32,
        address: Ipv6Addr,
    },
    /// This namespace routes the address to a host end (l3s).
    SetRoute {
        table: u32,
        address: IpAddr,
        host: u32,
    },
    /// It does so no more.
    DropRoute { table: u32, address: IpAddr },
    /// A policy rule of ours is missing.
    AddRule { rule: Rule },
    /// A policy rule of ours is one too many.
    DropRule { rule: Rule },
    /// A setting of an interface of this namespace is to change.
    Set { interface: String, setting: Setting },
    /// The port has no devices any more.
    RemovePort { port: u32 },
}

/// What has to be done. Empty: all is as it should be.
pub(crate) fn plan(world: &World) -> Vec<Step> {
    let mut steps = Vec::new();
    for index in &world.strays {
        steps.push(Step::DeleteLink { index: *index });
    }
    for (port, view) in &world.ports {
        plan_port(&mut steps, *port, view, world);
    }
    steps
}

fn plan_port(steps: &mut Vec<Step>, port: u32, view: &PortView, world: &World) {
    let alive: BTreeMap<u32, &DevView> = view
        .devs
        .iter()
        .filter(|(_, dev)| {
            view.parent.is_some() && dev.host.is_some() && dev.entry.bits & DEV_READY != 0
        })
        .map(|(host, dev)| (*host, dev))
        .collect();

    let owners = plan_owners(steps, port, view, &alive, &world.own);
    let entry = plan_members(steps, port, view, &alive);
    for dev in alive.values() {
        plan_device(steps, view, dev);
    }
    let hosts: Vec<&Link> = alive.values().filter_map(|dev| dev.host.as_ref()).collect();
    let entry = routing::plan(steps, port, view, world, &hosts, &owners, entry);
    // After the devices: the entry's old MAC address and MTU are what tells that they have to
    // follow, should this be the moment at which we are killed.
    plan_entry(steps, port, view, &alive, entry);
    for (host, dev) in &view.devs {
        if alive.contains_key(host) {
            continue;
        }
        if dev.host.is_some() {
            steps.push(Step::DeleteLink { index: *host });
        }
        steps.push(Step::ForgetDev { port, host: *host });
    }
    if alive.is_empty() {
        if view.entry.bits & PORT_ALLMULTI != 0 && view.parent.is_some() {
            steps.push(all_multicast(port, false));
        }
        steps.push(Step::RemovePort { port });
    }
}

/// Addresses that one device can own. More of them stay without an owner.
pub(crate) const MAX_OWNED: usize = 4096;

/// Who should own what: the device to which it was granted first, then the namespace, then whoever
/// owns it now and still has it, then the device in the lowest slot. The next routers are nobody's:
/// what is for them goes out. So is, in l3s, what is behind the host: it forwards that.
pub(crate) fn owners(
    port: u32,
    view: &PortView,
    alive: &BTreeMap<u32, &DevView>,
    own: &BTreeSet<IpAddr>,
) -> BTreeMap<IpAddr, Owner> {
    let mut owners: BTreeMap<IpAddr, (Claim, Owner)> = BTreeMap::new();
    for address in own {
        let owner = Owner {
            ifindex: port,
            kind: OWNER_PARENT,
        };
        let _: Option<_> = owners.insert(*address, (Claim::Namespace, owner));
    }
    let mut by_slot: Vec<(u32, &DevView)> = alive.iter().map(|(host, dev)| (*host, *dev)).collect();
    by_slot.sort_by_key(|(_, dev)| dev.entry.slot);
    for (host, dev) in by_slot {
        let kind = if dev.place.is_some() {
            OWNER_PEER
        } else {
            OWNER_HERE
        };
        let claim = |address: &IpAddr| {
            let now = view.owners.get(address);
            let has_it_now = now.is_some_and(|now| now.ifindex == host);
            let granted = view.grants.get(&dev.entry.slot);
            match granted.is_some_and(|granted| granted.contains(address)) {
                true if has_it_now => Some(Claim::GrantedNow),
                true => Some(Claim::Granted),
                false if view.gateways.contains(address) => None,
                false if routing::is_behind(view, address) => None,
                false if has_it_now => Some(Claim::Now),
                false => Some(Claim::Any),
            }
        };
        let mut claims: Vec<(Claim, &IpAddr)> = dev
            .addresses
            .iter()
            .filter_map(|address| Some((claim(address)?, address)))
            .collect();
        claims.sort_by_key(|(claim, _)| std::cmp::Reverse(*claim));
        // One namespace must not fill the table that all share.
        for (claim, address) in claims.into_iter().take(MAX_OWNED) {
            let owner = Owner {
                ifindex: host,
                kind,
            };
            if owners.get(address).is_none_or(|(best, _)| claim > *best) {
                let _: Option<_> = owners.insert(*address, (claim, owner));
            }
        }
    }
    owners
        .into_iter()
        .map(|(address, (_, owner))| (address, owner))
        .collect()
}

/// What speaks for an owner; the weakest first.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Claim {
    /// The device has the address.
    Any,
    /// And owns it now.
    Now,
    /// The parent's namespace has it.
    Namespace,
    /// The administrator said that this device may own it.
    Granted,
    /// And it owns it now.
    GrantedNow,
}

fn plan_owners(
    steps: &mut Vec<Step>,
    port: u32,
    view: &PortView,
    alive: &BTreeMap<u32, &DevView>,
    own: &BTreeSet<IpAddr>,
) -> BTreeMap<IpAddr, Owner> {
    let wanted = owners(port, view, alive, own);
    for address in view.owners.keys() {
        if !wanted.contains_key(address) {
            steps.push(Step::DropOwner {
                port,
                address: *address,
            });
        }
    }
    // The namespace's own first, should there be no room for all.
    let (first, rest): (Vec<_>, Vec<_>) = wanted
        .iter()
        .filter(|(address, owner)| view.owners.get(*address) != Some(owner))
        .partition(|(_, owner)| owner.kind == OWNER_PARENT);
    for (address, owner) in first.into_iter().chain(rest) {
        steps.push(Step::SetOwner {
            port,
            address: *address,
            owner: *owner,
        });
    }
    wanted
}

fn plan_members(
    steps: &mut Vec<Step>,
    port: u32,
    view: &PortView,
    alive: &BTreeMap<u32, &DevView>,
) -> PortEntry {
    // A slot behind the table's end is none that we gave: without it the device hears no broadcast.
    let wanted: BTreeMap<u32, u32> = alive
        .iter()
        .map(|(host, dev)| (dev.entry.slot, *host))
        .filter(|(slot, _)| *slot < MAX_DEVS)
        .collect();
    let count = wanted.keys().next_back().map_or(0, |slot| slot + 1);
    for (slot, host) in (0..).zip(&view.members) {
        if *host != 0 && wanted.get(&slot) != Some(host) {
            steps.push(Step::SetMember {
                port,
                slot,
                host: 0,
            });
        }
    }
    // A slot that comes into reach may hold what a killed call has left there.
    for slot in (0..count).skip(view.members.len()) {
        if !wanted.contains_key(&slot) {
            steps.push(Step::SetMember {
                port,
                slot,
                host: 0,
            });
        }
    }
    for (slot, host) in wanted {
        let now = usize::try_from(slot)
            .ok()
            .and_then(|slot| view.members.get(slot));
        if now != Some(&host) {
            steps.push(Step::SetMember { port, slot, host });
        }
    }
    PortEntry {
        members: count,
        ..view.entry
    }
}

fn plan_entry(
    steps: &mut Vec<Step>,
    port: u32,
    view: &PortView,
    alive: &BTreeMap<u32, &DevView>,
    mut entry: PortEntry,
) {
    let Some(parent) = &view.parent else { return };
    entry.mtu = parent.mtu;
    if let Some(mac) = parent.mac {
        entry.mac = mac;
    }
    let mut listen = None;
    if !alive.is_empty() {
        let listens =
            parent.allmulti.is_some_and(|count| count > 0) || parent.flags & IFF_ALLMULTI != 0;
        match view.entry.mode() {
            Mode::L2 if !listens => listen = Some(true),
            Mode::L3 | Mode::L3s if entry.bits & PORT_ALLMULTI != 0 => listen = Some(false),
            Mode::L2 | Mode::L3 | Mode::L3s => {}
        }
    }
    // That it is ours is on record before it is so, and until it is no more.
    if listen == Some(false) {
        steps.push(all_multicast(port, false));
        entry.bits &= !PORT_ALLMULTI;
    }
    if listen == Some(true) {
        entry.bits |= PORT_ALLMULTI;
    }
    if entry != view.entry {
        steps.push(Step::SetEntry { port, entry });
    }
    if listen == Some(true) {
        steps.push(all_multicast(port, true));
    }
}

const IFF_ALLMULTI: u32 = 0x200;
pub(crate) const IFF_NOARP: u32 = 0x80;

fn all_multicast(index: u32, on: bool) -> Step {
    Step::Change {
        index,
        change: LinkChange {
            allmulticast: Some(on),
            ..LinkChange::default()
        },
    }
}

fn plan_device(steps: &mut Vec<Step>, view: &PortView, dev: &DevView) {
    let (Some(parent), Some(host)) = (&view.parent, &dev.host) else {
        return;
    };
    let up = parent.is_up() && parent.has_carrier();
    if host.is_up() != up {
        steps.push(Step::Change {
            index: host.index,
            change: LinkChange {
                up: Some(up),
                ..LinkChange::default()
            },
        });
    }
    let Some(link) = &dev.link else { return };
    let mut change = LinkChange::default();
    // The device follows a change, not a difference: it may have been given an MTU of its own.
    if parent.mtu != view.entry.mtu && link.mtu != parent.mtu {
        change.mtu = Some(parent.mtu);
    }
    if parent.mac != Some(view.entry.mac) && link.mac != parent.mac {
        change.mac = parent.mac;
    }
    let noarp = view.entry.mode().is_l3();
    if (link.flags & IFF_NOARP != 0) != noarp {
        change.noarp = Some(noarp);
    }
    if link.addr_gen_mode == Some(AddrGenMode::Eui64) {
        change.addr_gen_mode = Some(AddrGenMode::Random);
    }
    // Made before we could change how; it may show up only at a later look.
    if link.addr_gen_mode != Some(AddrGenMode::None)
        && let Some(shared) = parent.mac.map(eui64)
        && dev.addresses.contains(&IpAddr::V6(shared))
    {
        steps.push(Step::RemoveAddress {
            place: dev.place,
            index: link.index,
            address: shared,
        });
    }
    if change != LinkChange::default() {
        steps.push(Step::ChangeDev {
            place: dev.place,
            index: link.index,
            change,
        });
    }
}

/// The link-local address that a stack makes from a MAC address. RFC 4291 appendix A.
fn eui64(mac: Mac) -> Ipv6Addr {
    let [a, b, c, d, e, f] = mac;
    Ipv6Addr::from([
        0xfe,
        0x80,
        0,
        0,
        0,
        0,
        0,
        0,
        a ^ 2,
        b,
        c,
        0xff,
        0xfe,
        d,
        e,
        f,
    ])
}

#[cfg(any(test, feature = "fuzz"))]
pub(crate) mod model;
#[cfg(test)]
mod tests;
