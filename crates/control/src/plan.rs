//! Plan: what differs from what should be, as a list of steps.
//!
//! Pure: no system call, no clock. What should be is the driver's behaviour:
//!
//! * A device owns its addresses while it is up. The first owner keeps an address that a second
//!   device takes as well; the parent's namespace goes before all of them, and its next routers are
//!   not to be had, nor in l3s what is behind the host. What a device has by hand (`grant`) it owns
//!   before all others.
//! * The parent's MAC address and MTU, when they change, change those of all devices; a device has
//!   carrier when the parent has; a parent that is gone takes its devices with it.
//! * In l3 and l3s the devices have no ARP; in l3s this namespace forwards for them (`routing`).
//! * A tap is in this namespace, and somebody else's: its stack on this side stays silent, it is up when
//!   its user says so, and what it owns is said by hand.
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

use ipnet::IpNet;
use ipvlan_abi::{
    DEV_BEHIND_GROUPS, DEV_BEHIND_MAC, DEV_BEHIND_MTU, DEV_MUTED, DEV_READY, DevEntry, MAX_DEVS,
    Mode, OWNER_HERE, OWNER_OUTSIDE, OWNER_PARENT, OWNER_PEER, Owner, PORT_ALLMULTI, PORT_LEARN,
    PORT_PREFIXES, PortEntry,
};
use ipvlan_datapath_bpf::Moment;
use ipvlan_netlink::{AddrGenMode, Link, LinkChange, Mac, Nsid, Rule};

use crate::learn;
use crate::observe::{DevView, PortView, World};
use crate::routing::{self, Setting};

/// One change. Each can be made twice.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Step {
    /// Nobody owns this address or prefix any more.
    DropOwner { port: u32, prefix: IpNet },
    /// This one owns it.
    SetOwner {
        port: u32,
        prefix: IpNet,
        owner: Owner,
    },
    /// The slot is this host end's, or free (0).
    SetMember { port: u32, slot: u32, host: u32 },
    /// The port's own entry.
    SetEntry { port: u32, entry: PortEntry },
    /// The device's own entry.
    SetDev {
        port: u32,
        host: u32,
        entry: DevEntry,
    },
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
    /// This namespace routes the prefix to a host end (l3s); `None`: as if there were no table of ours.
    SetRoute {
        table: u32,
        prefix: IpNet,
        host: Option<u32>,
    },
    /// It does so no more.
    DropRoute { table: u32, prefix: IpNet },
    /// A policy rule of ours is missing.
    AddRule { rule: Rule },
    /// A policy rule of ours is one too many.
    DropRule { rule: Rule },
    /// A setting of an interface of this namespace is to change.
    Set { interface: String, setting: Setting },
    /// What a guest said of its address is forgotten.
    ForgetLearnt {
        port: u32,
        slot: u32,
        address: IpAddr,
    },
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

    // That there are prefixes is known before the first one comes, and until the last one has gone.
    if has_prefixes(view, &alive) && view.entry.bits & PORT_PREFIXES == 0 {
        let mut entry = view.entry;
        entry.bits |= PORT_PREFIXES;
        steps.push(Step::SetEntry { port, entry });
    }
    let owners = plan_owners(steps, port, view, &alive, world);
    let mut entry = plan_members(steps, port, view, &alive);
    match has_prefixes(view, &alive) {
        true => entry.bits |= PORT_PREFIXES,
        false => entry.bits &= !PORT_PREFIXES,
    }
    match alive.values().any(|dev| learn::learns(dev.entry)) {
        true => entry.bits |= PORT_LEARN,
        false => entry.bits &= !PORT_LEARN,
    }
    plan_learnt(steps, port, view, &alive);
    for dev in alive.values() {
        match dev.is_tap() {
            true => plan_tap(steps, port, view, dev),
            false => plan_device(steps, port, view, dev),
        }
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

/// Addresses that one device can own because it has them. More of them stay without an owner.
pub(crate) const MAX_OWNED: usize = 4096;

/// Who should own what: the device that has it by hand first, then the namespace, then whoever owns it
/// now and still has it (a guest: if it said so lately), then the device in the lowest slot. The next
/// routers are nobody's: what is for them goes out, also if a device has the prefix around them. So is,
/// in l3s, what is behind the host, unless it is in such a prefix: the host forwards that.
pub(crate) fn owners(
    port: u32,
    view: &PortView,
    alive: &BTreeMap<u32, &DevView>,
    own: &BTreeSet<IpAddr>,
    now: Moment,
) -> BTreeMap<IpNet, Owner> {
    let mut claims = Claims::default();
    for address in own {
        let owner = Owner {
            ifindex: port,
            kind: OWNER_PARENT,
        };
        claims.put(IpNet::from(*address), Claim::Namespace, owner);
    }
    let mut by_slot: Vec<(u32, &DevView)> = alive.iter().map(|(host, dev)| (*host, *dev)).collect();
    by_slot.sort_by_key(|(_, dev)| dev.entry.slot);
    for (host, dev) in by_slot {
        let kind = if dev.place.is_some() {
            OWNER_PEER
        } else {
            OWNER_HERE
        };
        let owner = Owner {
            ifindex: host,
            kind,
        };
        if dev.is_up() {
            for prefix in view.grants.get(&dev.entry.slot).into_iter().flatten() {
                claims.put(*prefix, Claim::ByHand, owner);
            }
        }
        let claim = |address: &IpAddr| {
            let owner = view.owners.get(&IpNet::from(*address));
            match owner.is_some_and(|owner| owner.ifindex == host) {
                _ if view.gateways.contains(address) => None,
                _ if routing::is_behind(view, address) => None,
                true if is_stale(view, dev, address, now) => Some(Claim::Stale),
                true => Some(Claim::Now),
                false => Some(Claim::Any),
            }
        };
        let addresses = view.addresses(dev);
        let mut own: Vec<(Claim, &IpAddr)> = addresses
            .iter()
            .filter_map(|address| Some((claim(address)?, address)))
            .collect();
        own.sort_by_key(|(claim, _)| std::cmp::Reverse(*claim));
        // One namespace must not fill the table that all share.
        for (claim, address) in own.into_iter().take(MAX_OWNED) {
            claims.put(IpNet::from(*address), claim, owner);
        }
    }
    let mut owners = claims.won();
    let outside = Owner {
        ifindex: port,
        kind: OWNER_OUTSIDE,
    };
    for gateway in &view.gateways {
        let address = IpNet::from(*gateway);
        if !owners.contains_key(&address) && around(&owners, address).is_some() {
            let _: Option<Owner> = owners.insert(address, outside);
        }
    }
    owners
}

/// Whether an address counts for a device only because its guest said so, long ago.
fn is_stale(view: &PortView, dev: &DevView, address: &IpAddr, now: Moment) -> bool {
    let learnt = view.learnt.get(&dev.entry.slot);
    let said = learnt.and_then(|learnt| learnt.get(address));
    !dev.addresses.contains(address) && said.is_some_and(|said| learn::is_old(*said, now))
}

/// What speaks for an owner; the weakest first.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Claim {
    /// The device's guest has not said for long that it has the address, and owns it now.
    Stale,
    /// The device has the address.
    Any,
    /// And owns it now.
    Now,
    /// The parent's namespace has it.
    Namespace,
    /// The administrator said that it is this device's.
    ByHand,
}

/// Who claims what; the strongest, and among equals the first, gets it.
#[derive(Default)]
struct Claims(BTreeMap<IpNet, (Claim, Owner)>);

impl Claims {
    fn put(&mut self, prefix: IpNet, claim: Claim, owner: Owner) {
        if self.0.get(&prefix).is_none_or(|(best, _)| claim > *best) {
            let _: Option<_> = self.0.insert(prefix, (claim, owner));
        }
    }

    fn won(self) -> BTreeMap<IpNet, Owner> {
        let all = self.0.into_iter();
        all.map(|(prefix, (_, owner))| (prefix, owner)).collect()
    }
}

/// Bits that are free behind a prefix.
fn room(prefix: IpNet) -> u8 {
    prefix.max_prefix_len() - prefix.prefix_len()
}

/// Whether it is one address.
pub(crate) fn is_single(prefix: IpNet) -> bool {
    room(prefix) == 0
}

/// Whether a device has prefixes by hand; up or down is for the owners alone.
fn has_prefixes(view: &PortView, alive: &BTreeMap<u32, &DevView>) -> bool {
    let slots = alive.values().map(|dev| dev.entry.slot);
    let mut all = slots.filter_map(|slot| view.grants.get(&slot)).flatten();
    all.any(|prefix| !is_single(*prefix))
}

/// As iproute2 has it: one address stands alone, a prefix with its length.
pub fn words(prefix: IpNet) -> String {
    match is_single(prefix) {
        true => prefix.addr().to_string(),
        false => prefix.to_string(),
    }
}

/// The owner of the longest prefix around `inner`, itself aside.
pub(crate) fn around(owners: &BTreeMap<IpNet, Owner>, inner: IpNet) -> Option<Owner> {
    (0..inner.prefix_len()).rev().find_map(|len| {
        let prefix = IpNet::new(inner.addr(), len).ok()?.trunc();
        owners.get(&prefix).copied()
    })
}

fn plan_owners(
    steps: &mut Vec<Step>,
    port: u32,
    view: &PortView,
    alive: &BTreeMap<u32, &DevView>,
    world: &World,
) -> BTreeMap<IpNet, Owner> {
    let wanted = owners(port, view, alive, &world.own, world.now);
    let set = |prefix: &IpNet, owner: &Owner| Step::SetOwner {
        port,
        prefix: *prefix,
        owner: *owner,
    };
    let lose = |prefix: &IpNet| Step::DropOwner {
        port,
        prefix: *prefix,
    };
    // In between, each address goes to its old owner or to its new one: what has nothing around it
    // goes at once, and makes room; then comes the longest first, and goes the shortest first.
    let gone = view
        .owners
        .keys()
        .filter(|prefix| !wanted.contains_key(*prefix));
    let (at_once, mut later): (Vec<_>, Vec<_>) = gone.partition(|prefix| {
        let has_none = |all| around(all, **prefix).is_none();
        is_single(**prefix) && has_none(&view.owners) && has_none(&wanted)
    });
    steps.extend(at_once.into_iter().map(lose));
    let mut new: Vec<(&IpNet, &Owner)> = wanted
        .iter()
        .filter(|(prefix, owner)| view.owners.get(*prefix) != Some(owner))
        .collect();
    // The namespace's own before the other addresses, should there be no room for all.
    new.sort_by_key(|(prefix, owner)| (room(**prefix), owner.kind != OWNER_PARENT));
    steps.extend(new.into_iter().map(|(prefix, owner)| set(prefix, owner)));
    later.sort_by_key(|prefix| std::cmp::Reverse(room(**prefix)));
    steps.extend(later.into_iter().map(lose));
    wanted
}

/// What was learnt of a guest that is no longer there, or is no longer to be learnt of, is forgotten.
fn plan_learnt(steps: &mut Vec<Step>, port: u32, view: &PortView, alive: &BTreeMap<u32, &DevView>) {
    for (slot, learnt) in &view.learnt {
        let mut devs = alive.values().filter(|dev| dev.entry.slot == *slot);
        if devs.any(|dev| learn::counts(dev)) {
            continue;
        }
        steps.extend(learnt.keys().map(|address| Step::ForgetLearnt {
            port,
            slot: *slot,
            address: *address,
        }));
    }
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

fn plan_device(steps: &mut Vec<Step>, port: u32, view: &PortView, dev: &DevView) {
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
    // The device follows a change, not a difference: it may have been given an MTU of its own. That it
    // has yet to follow is on record until it is seen to have: it may be on its way to another namespace.
    let mut bits = dev.entry.bits;
    let mut follow = |bit: u16, changed: bool, has: Option<bool>| {
        match has {
            Some(true) => bits &= !bit,
            _ if changed => bits |= bit,
            _ => {}
        }
        bits & bit != 0
    };
    let has = dev.link.as_ref().map(|link| link.mtu == parent.mtu);
    let mtu = follow(DEV_BEHIND_MTU, parent.mtu != view.entry.mtu, has);
    let has = dev.link.as_ref().map(|link| link.mac == parent.mac);
    let changed = parent.mac.is_some_and(|mac| mac != view.entry.mac);
    let mac = follow(DEV_BEHIND_MAC, changed, has);
    let noarp = view.entry.mode().is_l3();
    let has_noarp = |link: &Link| link.flags & IFF_NOARP != 0;
    // A stack joins no groups for addresses that it gets with IFF_NOARP. It makes up for that when the
    // flag goes, but only if the device is operational then (addrconf_notify()).
    let is_ready = |link: &Link| up && link.is_operational();
    let is_behind = |link: &Link| has_noarp(link) || bits & DEV_BEHIND_GROUPS != 0;
    let joins = dev.link.as_ref().filter(|link| !noarp && is_behind(link));
    let has_groups = dev.addresses.iter().any(IpAddr::is_ipv6);
    match joins {
        Some(link) if link.is_up() && has_groups && !is_ready(link) => bits |= DEV_BEHIND_GROUPS,
        None if !noarp && dev.link.is_none() => {}
        _ => bits &= !DEV_BEHIND_GROUPS,
    }
    let again = joins.filter(|link| !has_noarp(link) && is_ready(link));
    steps.extend(again.map(|link| Step::ChangeDev {
        place: dev.place,
        index: link.index,
        change: LinkChange {
            noarp: Some(true),
            ..LinkChange::default()
        },
    }));
    if bits != dev.entry.bits {
        steps.push(Step::SetDev {
            port,
            host: host.index,
            entry: DevEntry { bits, ..dev.entry },
        });
    }
    let Some(link) = &dev.link else { return };
    let mut change = LinkChange {
        mtu: mtu.then_some(parent.mtu),
        mac: parent.mac.filter(|_| mac),
        ..LinkChange::default()
    };
    if (has_noarp(link) || again.is_some()) != noarp {
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

fn plan_tap(steps: &mut Vec<Step>, port: u32, view: &PortView, dev: &DevView) {
    let (Some(parent), Some(tap)) = (&view.parent, &dev.host) else {
        return;
    };
    let mut change = LinkChange::default();
    // As of a device in a namespace: a change, not a difference.
    if parent.mtu != view.entry.mtu && tap.mtu != parent.mtu {
        change.mtu = Some(parent.mtu);
    }
    // What this namespace sends to the guest has it for its destination (l3s).
    if tap.mac != parent.mac {
        change.mac = parent.mac;
    }
    let noarp = view.entry.mode().is_l3();
    if (tap.flags & IFF_NOARP != 0) != noarp {
        change.noarp = Some(noarp);
    }
    // Lost with its IPv6, when its MTU was below 1280.
    if tap
        .addr_gen_mode
        .is_some_and(|mode| mode != AddrGenMode::None)
    {
        change.addr_gen_mode = Some(AddrGenMode::None);
    }
    if change != LinkChange::default() {
        steps.push(Step::ChangeDev {
            place: None,
            index: tap.index,
            change,
        });
    }
    plan_carrier(steps, port, parent, tap, dev.entry);
}

/// A tap has a carrier while somebody has it open, says the kernel. We take it away while the parent
/// has none, and that we did is on record before it is so, and until it is no more. How often it has
/// lost its carrier is written down when what was learnt of the guest that is gone was forgotten.
fn plan_carrier(steps: &mut Vec<Step>, port: u32, parent: &Link, tap: &Link, entry: DevEntry) {
    let has_wire = parent.is_up() && parent.has_carrier();
    let is_muted = entry.bits & DEV_MUTED != 0;
    let loses = !has_wire && tap.has_carrier();
    let mut wanted = entry;
    if loses {
        wanted = learn::muted(entry, tap);
    } else if learn::has_lost_its_guest(entry, tap) {
        wanted.carrier_downs = learn::carrier_downs(tap);
    }
    let set = |entry| Step::SetDev {
        port,
        host: tap.index,
        entry,
    };
    let carrier = |on| Step::Change {
        index: tap.index,
        change: LinkChange {
            carrier: Some(on),
            ..LinkChange::default()
        },
    };
    if wanted != entry {
        steps.push(set(wanted));
    }
    if loses {
        steps.push(carrier(false));
    }
    if has_wire && is_muted {
        steps.push(carrier(true));
        wanted.bits &= !DEV_MUTED;
        wanted.carrier_downs = learn::carrier_downs(tap);
        steps.push(set(wanted));
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
