//! Mode l3s: what makes the parent's namespace forward for the devices.
//!
//! ```text
//!  wire ─► parent ─ PREROUTING ─ rule "iif parent lookup TABLE" ─ FORWARD ─ POSTROUTING ─► host end ─► device
//!  device ─► host end ─ PREROUTING ─ the namespace's own routes ─ FORWARD ─ POSTROUTING ─► parent ─► wire
//! ```
//!
//! * A table of the parent's own has a route to the host end for each address and prefix that a
//!   device owns. What lies in such a prefix and is not the device's is excepted from it (`throw`).
//! * A rule sends what comes in on the parent there. What the host itself sends does not look into
//!   it: otherwise a device that takes the address of a name server would get the host's questions.
//! * The host end has the parent's MAC address and no ARP, so that what goes out of it is for the
//!   device.
//! * The parent and the host ends forward. Where the host did not do that before, a second rule
//!   takes care that nothing else is: what came in on the parent and is neither the host's nor a
//!   device's goes nowhere, as before.
//! * Where the host checks sources (`rp_filter` of all interfaces), packets of devices carry a
//!   mark, and a third rule shows the check the way back.
//!
//! The rule comes before the host's own routes. So a device must not own what the host forwards to
//! somebody else, such as a container behind docker0: the answers that come in for it, its address
//! put back by conntrack, would be the device's. What the host itself would send to an address tells
//! ([`behind`]), whichever table, rule or VRF that is by.
//!
//! IPv6: `force_forwarding` (Linux 6.17) makes one interface forward. Before, only the switch for
//! all interfaces does, and it makes the host a router that believes no router advertisements: that
//! one is the administrator's to throw ([`remark`]).
//!
//! The driver hands packets over between the parent's PREROUTING and INPUT, by the input interface
//! (`ipvlan_l3_rcv()`, `ipvlan_nf_input()`), and sends by OUTPUT and POSTROUTING. From outside of the
//! kernel that cannot be done: no program runs between INPUT and the socket. Forwarding passes
//! PREROUTING, FORWARD and POSTROUTING, and leaves the device's own namespace its own.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::net::IpAddr;

use ipnet::IpNet;
use ipvlan_abi::{
    Mode, OWNER_PARENT, OWNER_PEER, Owner, PORT_FORWARD4, PORT_FORWARD6, PORT_MARK, PORT_ROUTED,
    PortEntry, ROUTED_MARK,
};
use ipvlan_netlink::{Family, Link, LinkChange, Mac, Netlink, RouteFilter, Rule, V4Settings};

use crate::error::Error;
use crate::observe::{DevView, PortView, World};
use crate::plan::{IFF_NOARP, MAX_OWNED, Step, around};

/// Number of the table of the parent with ifindex 0; high, and not one that people use.
const TABLE: u32 = 0x6970_0000;
/// Behind the table "local" (0), before whatever else the host has.
const PRIORITY: u32 = 500;

/// What a namespace does for packets that are not its own.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Host {
    /// Whether it forwards IPv4 by itself.
    pub(crate) v4: bool,
    /// Whether it forwards IPv6 by itself. `None`: this kernel has no IPv6.
    pub(crate) v6: Option<bool>,
    /// Whether it checks sources on all interfaces.
    pub(crate) checks_sources: bool,
    /// What an interface has that was made just now (`net.ipv4.conf.default`).
    pub(crate) fresh_v4: V4Settings,
    /// The same of `net.ipv6.conf.default.force_forwarding`.
    pub(crate) fresh_forces_v6: bool,
}

impl Host {
    /// Of the calling thread's namespace.
    pub(crate) fn read() -> Self {
        let number = |name: &str| -> Option<u32> {
            let text = fs::read_to_string(format!("/proc/sys/net/{name}")).ok()?;
            text.trim().parse().ok()
        };
        let is_on = |name: &str| number(name).is_some_and(|number| number != 0);
        Self {
            v4: is_on("ipv4/conf/all/forwarding"),
            v6: number("ipv6/conf/all/forwarding").map(|number| number != 0),
            checks_sources: is_on("ipv4/conf/all/rp_filter"),
            fresh_v4: V4Settings {
                forwarding: is_on("ipv4/conf/default/forwarding"),
                rp_filter: number("ipv4/conf/default/rp_filter").unwrap_or(0),
                src_valid_mark: is_on("ipv4/conf/default/src_valid_mark"),
            },
            fresh_forces_v6: is_on("ipv6/conf/default/force_forwarding"),
        }
    }

    fn has(&self, family: Family) -> bool {
        match family {
            Family::V4 => true,
            Family::V6 => self.v6.is_some(),
        }
    }
}

/// What there is of ours in the parent's namespace.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Routing {
    pub(crate) rules: BTreeSet<Rule>,
    /// Prefix, and the host end it is routed to; `None`: excepted from the prefix around it.
    pub(crate) routes: BTreeMap<IpNet, Option<u32>>,
}

impl Routing {
    /// Of the port of this parent; nothing is asked where there was nothing made.
    pub(crate) fn observe(nl: &mut Netlink, parent: u32, entry: &PortEntry) -> Result<Self, Error> {
        let mut found = Self::default();
        if !concerns(entry) {
            return Ok(found);
        }
        for family in Family::ALL {
            let rules = nl.rules(family)?;
            found
                .rules
                .extend(rules.into_iter().filter(|rule| rule.table == table(parent)));
            let filter = RouteFilter {
                family,
                table: Some(table(parent)),
                interface: None,
            };
            for route in nl.routes(filter)? {
                let host = route.hops.first().and_then(|hop| hop.interface);
                let _: Option<_> = found.routes.insert(route.destination, host);
            }
        }
        Ok(found)
    }
}

/// Whether the namespace forwards for this port, or did.
pub(crate) fn concerns(entry: &PortEntry) -> bool {
    entry.mode() == Mode::L3s || entry.bits & PORT_ROUTED != 0
}

/// Whether what the namespace sends to this address of a device goes to elsewhere (l3s).
pub(crate) fn is_behind(view: &PortView, address: &IpAddr) -> bool {
    // What nobody asked for is beyond what a device can own.
    view.entry.mode() == Mode::L3s && view.behind.get(address) != Some(&false)
}

/// Prefixes that are shorter do not say where somebody is, but where everybody else is: 0.0.0.0/0,
/// its halves, 2000::/3.
const SHORTEST: u8 = 8;

/// The devices' addresses, and which of them lie behind the host in l3s: it would send what is for
/// them out of another interface than the parent, and not for want of a better route. What
/// `view.behind` has is not asked for again. `nl` is a socket in the parents' namespace.
///
/// What goes out of the bridge or bond that the parent is a port of, out of a macvlan device on it,
/// or out of devices and host ends of ours, goes to the parent's side.
pub(crate) fn behind(nl: &mut Netlink, view: &PortView) -> Result<BTreeMap<IpAddr, bool>, Error> {
    let mut answers = BTreeMap::new();
    let Some(parent) = &view.parent else {
        return Ok(answers);
    };
    if view.entry.mode() != Mode::L3s {
        return Ok(answers);
    }
    let mut unknown = BTreeSet::new();
    for (host, dev) in &view.devs {
        for address in candidates(view, *host, dev) {
            match view.behind.get(&address) {
                Some(known) => {
                    let _: Option<bool> = answers.insert(address, *known);
                }
                // Routed nowhere, to us neither.
                None if is_link_local(address) => {
                    let _: Option<bool> = answers.insert(address, false);
                }
                None => {
                    let _: bool = unknown.insert(address);
                }
            }
        }
    }
    if !unknown.is_empty() {
        let side = Side::of(nl, parent, view)?;
        for address in unknown {
            let _: Option<bool> = answers.insert(address, side.lacks(nl, address)?);
        }
    }
    Ok(answers)
}

/// The addresses that a device can own: those that it owns first.
fn candidates(view: &PortView, host: u32, dev: &DevView) -> impl Iterator<Item = IpAddr> {
    let owns = |address: &IpAddr| {
        let owner = view.owners.get(&IpNet::from(*address));
        owner.is_some_and(|owner| owner.ifindex == host)
    };
    let all = view.addresses(dev).into_iter();
    let (mine, others): (Vec<_>, Vec<_>) = all.partition(owns);
    mine.into_iter().chain(others).take(MAX_OWNED)
}

/// The interfaces by which the host reaches what its parent does.
struct Side {
    parent: u32,
    interfaces: BTreeSet<u32>,
    /// The VRF that the parent is in: other VRFs may have the same addresses.
    vrf: Option<u32>,
}

impl Side {
    fn of(nl: &mut Netlink, parent: &Link, view: &PortView) -> Result<Self, Error> {
        let master = match parent.master {
            Some(master) => nl.link(master, None)?,
            None => None,
        };
        let vrf = master.filter(|master| master.kind.as_deref() == Some("vrf"));
        let here = view.devs.values().filter(|dev| dev.place.is_none());
        let here = here.filter_map(|dev| Some(dev.link.as_ref()?.index));
        let interfaces = view.devs.keys().copied().chain(here);
        Ok(Self {
            parent: parent.index,
            interfaces: interfaces
                .chain([parent.index])
                .chain(parent.master)
                .collect(),
            vrf: vrf.map(|vrf| vrf.index),
        })
    }

    /// Whether the host has an address elsewhere.
    fn lacks(&self, nl: &mut Netlink, address: IpAddr) -> Result<bool, Error> {
        let way = nl.route_to(address, self.vrf, false)?;
        let Some(out) = way.and_then(|way| way.hops.first()?.interface) else {
            return Ok(false);
        };
        if self.interfaces.contains(&out) {
            return Ok(false);
        }
        let entry = nl.route_to(address, self.vrf, true)?;
        if entry.is_none_or(|entry| entry.destination.prefix_len() < SHORTEST) {
            return Ok(false);
        }
        let link = nl.link(out, None)?;
        let is_on_parent = link.is_some_and(|link| {
            let is_macvlan = matches!(link.kind.as_deref(), Some("macvlan" | "macvtap"));
            is_macvlan && link.link == Some(self.parent) && link.link_nsid.is_none()
        });
        Ok(!is_on_parent)
    }
}

/// The table with the devices of this parent.
pub(crate) fn table(parent: u32) -> u32 {
    TABLE.wrapping_add(parent)
}

/// An interface's setting under `net.ipv4.conf` or `net.ipv6.conf`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Setting {
    pub(crate) family: Family,
    pub(crate) name: &'static str,
    pub(crate) value: u32,
}

const FORWARD4: (Family, &str) = (Family::V4, "forwarding");
const FORWARD6: (Family, &str) = (Family::V6, "force_forwarding");
const CHECK_SOURCES: (Family, &str) = (Family::V4, "rp_filter");
const CHECK_BY_MARK: (Family, &str) = (Family::V4, "src_valid_mark");

/// Plans what differs. Returns the entry with what is to be remembered of it.
pub(crate) fn plan(
    steps: &mut Vec<Step>,
    port: u32,
    view: &PortView,
    world: &World,
    hosts: &[&Link],
    owners: &BTreeMap<IpNet, Owner>,
    entry: PortEntry,
) -> PortEntry {
    if !concerns(&entry) {
        return entry;
    }
    match &view.parent {
        Some(parent) if entry.mode() == Mode::L3s && !hosts.is_empty() => {
            set_up(steps, port, view, parent, world, hosts, owners, entry)
        }
        parent => take_down(steps, port, view, parent.as_ref(), world, hosts, entry),
    }
}

#[expect(
    clippy::too_many_arguments,
    reason = "the parts of one view of the world"
)]
fn set_up(
    steps: &mut Vec<Step>,
    port: u32,
    view: &PortView,
    parent: &Link,
    world: &World,
    hosts: &[&Link],
    owners: &BTreeMap<IpNet, Owner>,
    mut entry: PortEntry,
) -> PortEntry {
    let host = &world.host;
    let forwards = parent.v4.is_none_or(|settings| settings.forwarding);
    if host.v4 {
        entry.bits &= !PORT_FORWARD4;
    } else if !forwards {
        entry.bits |= PORT_FORWARD4;
    }
    // That of the parent says nothing as long as that of the host is on.
    let may_force = host.v6 == Some(false) && parent.force_forwards_v6.is_some();
    let forced = parent.force_forwards_v6 == Some(true);
    if may_force && !forced {
        entry.bits |= PORT_FORWARD6;
    }
    entry.bits |= PORT_ROUTED;
    if host.checks_sources {
        entry.bits |= PORT_MARK;
    } else {
        entry.bits &= !PORT_MARK;
    }
    // What is ours is on record before it is made.
    if entry != view.entry {
        steps.push(Step::SetEntry { port, entry });
    }
    if host.v6 == Some(true) && entry.bits & PORT_FORWARD6 != 0 {
        steps.push(set(parent, FORWARD6, false));
        entry.bits &= !PORT_FORWARD6;
    }
    for link in hosts {
        plan_host_end(steps, parent.mac, host, link);
    }
    change_rules(
        steps,
        &view.routing.rules,
        &rules(port, parent, host, &entry),
    );
    let up: BTreeSet<u32> = match parent.is_up() && parent.has_carrier() {
        true => hosts.iter().map(|link| link.index).collect(),
        false => BTreeSet::new(),
    };
    // What a device has that lives here is this namespace's own; a guest is behind its tap.
    let taps: BTreeSet<u32> = hosts
        .iter()
        .filter(|link| link.tap.is_some())
        .map(|link| link.index)
        .collect();
    let leads_out = |prefix: IpNet, owner: &Owner| {
        (owner.kind == OWNER_PEER || taps.contains(&owner.ifindex))
            && up.contains(&owner.ifindex)
            && host.has(Family::of(prefix.addr()))
            && !is_link_local(prefix.addr())
    };
    let mut wanted: BTreeMap<IpNet, Option<u32>> = BTreeMap::new();
    for (prefix, owner) in owners {
        if leads_out(*prefix, owner) {
            let _: Option<_> = wanted.insert(*prefix, Some(owner.ifindex));
        } else if owner.kind != OWNER_PARENT
            && around(owners, *prefix).is_some_and(|outer| leads_out(*prefix, &outer))
        {
            // The namespace's own need no exception: its table "local" comes first.
            let _: Option<_> = wanted.insert(*prefix, None);
        }
    }
    let table = table(port);
    for prefix in view.routing.routes.keys() {
        if !wanted.contains_key(prefix) {
            steps.push(Step::DropRoute {
                table,
                prefix: *prefix,
            });
        }
    }
    for (prefix, host) in wanted {
        if view.routing.routes.get(&prefix) != Some(&host) {
            steps.push(Step::SetRoute {
                table,
                prefix,
                host,
            });
        }
    }
    // The parent last: nothing is forwarded before the rules say what not.
    if !forwards {
        steps.push(set(parent, FORWARD4, true));
    }
    if may_force && !forced {
        steps.push(set(parent, FORWARD6, true));
    }
    entry
}

fn take_down(
    steps: &mut Vec<Step>,
    port: u32,
    view: &PortView,
    parent: Option<&Link>,
    world: &World,
    hosts: &[&Link],
    mut entry: PortEntry,
) -> PortEntry {
    if let Some(parent) = parent {
        if entry.bits & PORT_FORWARD4 != 0 && !world.host.v4 {
            steps.push(set(parent, FORWARD4, false));
        }
        if entry.bits & PORT_FORWARD6 != 0 {
            steps.push(set(parent, FORWARD6, false));
        }
    }
    change_rules(steps, &view.routing.rules, &BTreeSet::new());
    for prefix in view.routing.routes.keys() {
        steps.push(Step::DropRoute {
            table: table(port),
            prefix: *prefix,
        });
    }
    for link in hosts {
        reset_host_end(steps, &world.host, link);
    }
    // In l3s without devices or without a parent the port is about to go.
    entry.bits &= !(PORT_ROUTED | PORT_FORWARD4 | PORT_FORWARD6 | PORT_MARK);
    entry
}

fn rules(port: u32, parent: &Link, host: &Host, entry: &PortEntry) -> BTreeSet<Rule> {
    let mut rules = BTreeSet::new();
    for family in Family::ALL {
        if !host.has(family) {
            continue;
        }
        let devices = Rule {
            family,
            priority: PRIORITY,
            interface: parent.name.clone(),
            mark: None,
            table: table(port),
            nowhere: false,
        };
        let ours_alone = match family {
            Family::V4 => PORT_FORWARD4,
            Family::V6 => PORT_FORWARD6,
        };
        if entry.bits & ours_alone != 0 {
            let _: bool = rules.insert(Rule {
                priority: PRIORITY + 1,
                nowhere: true,
                ..devices.clone()
            });
        }
        if family == Family::V4 && entry.bits & PORT_MARK != 0 {
            let _: bool = rules.insert(Rule {
                interface: "lo".into(),
                mark: Some(ROUTED_MARK),
                ..devices.clone()
            });
        }
        let _: bool = rules.insert(devices);
    }
    rules
}

fn change_rules(steps: &mut Vec<Step>, now: &BTreeSet<Rule>, wanted: &BTreeSet<Rule>) {
    let gone = now.difference(wanted).cloned();
    steps.extend(gone.map(|rule| Step::DropRule { rule }));
    let new = wanted.difference(now).cloned();
    steps.extend(new.map(|rule| Step::AddRule { rule }));
}

fn plan_host_end(steps: &mut Vec<Step>, mac: Option<Mac>, host: &Host, link: &Link) {
    let change = LinkChange {
        mac: mac.filter(|_| link.mac != mac),
        noarp: (link.flags & IFF_NOARP == 0).then_some(true),
        ..LinkChange::default()
    };
    // A tap has both in any mode, as a device does.
    if link.tap.is_none() && change != LinkChange::default() {
        steps.push(Step::Change {
            index: link.index,
            change,
        });
    }
    if let Some(settings) = link.v4 {
        if !settings.forwarding {
            steps.push(set(link, FORWARD4, true));
        }
        // Its own check would know no way back: the host end has no address.
        if settings.rp_filter != 0 {
            steps.push(set(link, CHECK_SOURCES, false));
        }
        if host.checks_sources && !settings.src_valid_mark {
            steps.push(set(link, CHECK_BY_MARK, true));
        }
    }
    if host.v6 == Some(false) && link.force_forwards_v6 == Some(false) {
        steps.push(set(link, FORWARD6, true));
    }
}

/// Makes a host end what it was before it forwarded: one that was made just now. Its MAC address may
/// stay, no other mode minds it. A tap's NOARP is by the mode, as a device's.
fn reset_host_end(steps: &mut Vec<Step>, host: &Host, link: &Link) {
    if link.tap.is_none() && link.flags & IFF_NOARP != 0 {
        steps.push(Step::Change {
            index: link.index,
            change: LinkChange {
                noarp: Some(false),
                ..LinkChange::default()
            },
        });
    }
    let fresh = host.fresh_v4;
    if let Some(settings) = link.v4 {
        if settings.forwarding != fresh.forwarding {
            steps.push(set(link, FORWARD4, fresh.forwarding));
        }
        if settings.rp_filter != fresh.rp_filter {
            steps.push(set(link, CHECK_SOURCES, fresh.rp_filter));
        }
        if settings.src_valid_mark != fresh.src_valid_mark {
            steps.push(set(link, CHECK_BY_MARK, fresh.src_valid_mark));
        }
    }
    if link.force_forwards_v6 == Some(!host.fresh_forces_v6) {
        steps.push(set(link, FORWARD6, host.fresh_forces_v6));
    }
}

fn set(link: &Link, (family, name): (Family, &'static str), value: impl Into<u32>) -> Step {
    Step::Set {
        interface: link.name.clone(),
        setting: Setting {
            family,
            name,
            value: value.into(),
        },
    }
}

/// Not routed to anywhere.
fn is_link_local(address: IpAddr) -> bool {
    match address {
        IpAddr::V4(address) => address.is_link_local(),
        IpAddr::V6(address) => address.is_unicast_link_local(),
    }
}

/// Says what the administrator has to do himself for l3s to work in full. In the namespace of the
/// parent.
pub(crate) fn remark(mode: Mode, parent: &Link) {
    // Without IPv6 on it (an MTU below 1280) there is nothing to forward.
    let has_v6 = parent.addr_gen_mode.is_some();
    let must_be_forced = has_v6 && parent.force_forwards_v6.is_none();
    if mode == Mode::L3s && must_be_forced && Host::read().v6 == Some(false) {
        log::warn!(
            "mode l3s: IPv6 of the devices on \"{}\" is not forwarded: before Linux 6.17 that needs \
             `sysctl -w net.ipv6.conf.all.forwarding=1` (and accept_ra=2 where this host listens to \
             router advertisements)",
            parent.name
        );
    }
}
