//! Observe: what the kernel says now.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use ipnet::IpNet;
use ipvlan_abi::{DEV_TAP, DevEntry, Owner, PortEntry};
use ipvlan_datapath_bpf::{Moment, Port};
use ipvlan_netlink::{Link, Netlink, Nsid};

use crate::error::Error;
use crate::grant::gateways;
use crate::learn::{self, Learnt};
use crate::routing::{Host, Routing, behind, concerns};
use crate::store::{Store, is_foreign};

/// All that a plan is made from. The namespace is that of the parents.
#[derive(Clone, Debug, Default)]
pub(crate) struct World {
    /// Its ports, by the parent's ifindex, but for those of versions that cannot be taken over.
    pub(crate) ports: BTreeMap<u32, PortView>,
    /// Host ends that no port knows, by ifindex: whoever made them did not get far.
    pub(crate) strays: BTreeSet<u32>,
    /// The namespace's own addresses, on any interface.
    pub(crate) own: BTreeSet<IpAddr>,
    /// When this was seen, by the clock of claims.
    pub(crate) now: Moment,
    /// What it does for packets of others; looked at only where a port is, or was, in l3s.
    pub(crate) host: Host,
}

/// A port.
#[derive(Clone, Debug)]
pub(crate) struct PortView {
    pub(crate) entry: PortEntry,
    /// `None`: the parent is gone.
    pub(crate) parent: Option<Link>,
    /// By the host end's ifindex.
    pub(crate) devs: BTreeMap<u32, DevView>,
    /// Single addresses and prefixes.
    pub(crate) owners: BTreeMap<IpNet, Owner>,
    /// By slot, as far as the port says that there are any.
    pub(crate) members: Vec<u32>,
    /// What the namespace has of it (l3s).
    pub(crate) routing: Routing,
    /// The next routers of this namespace behind the parent.
    pub(crate) gateways: BTreeSet<IpAddr>,
    /// The devices' addresses in l3s, and whether they lie behind this host (`routing::behind`).
    pub(crate) behind: BTreeMap<IpAddr, bool>,
    /// What a device has by hand, by slot.
    pub(crate) grants: BTreeMap<u32, BTreeSet<IpNet>>,
    /// What the guests behind taps say that they have.
    pub(crate) learnt: Learnt,
}

/// A device.
#[derive(Clone, Debug)]
pub(crate) struct DevView {
    pub(crate) entry: DevEntry,
    /// `None`: it was deleted, or its namespace was.
    pub(crate) host: Option<Link>,
    /// Where the device lives; `None`: in the parents' namespace.
    pub(crate) place: Option<Nsid>,
    /// The device's own end; of a tap, which has no other, the same as `host`.
    pub(crate) link: Option<Link>,
    /// The addresses that it has and may own.
    pub(crate) addresses: BTreeSet<IpAddr>,
}

impl DevView {
    pub(crate) fn is_tap(&self) -> bool {
        is_tap(self.entry)
    }

    /// Whether the device itself is up, as far as can be seen.
    pub(crate) fn is_up(&self) -> bool {
        self.link.as_ref().is_some_and(Link::is_up)
    }
}

fn is_tap(entry: DevEntry) -> bool {
    entry.bits & DEV_TAP != 0
}

/// Whether this is a link that a device with this entry can have.
fn fits(link: &Link, entry: DevEntry) -> bool {
    match is_tap(entry) {
        true => link.tap.is_some(),
        false => link.kind.as_deref() == Some("veth"),
    }
}

impl PortView {
    /// The addresses that a device has: those on it, and those that the guest behind it says it has.
    pub(crate) fn addresses(&self, dev: &DevView) -> BTreeSet<IpAddr> {
        let mut all = dev.addresses.clone();
        if learn::counts(dev)
            && let Some(learnt) = self.learnt.get(&dev.entry.slot)
        {
            all.extend(learnt.keys());
        }
        all
    }
}

/// Name of a host end. It says whose it is from the first moment on, before there is any other
/// place to say it. In base 36, so that the largest index (2³¹ - 1) and the largest slot fit the 15
/// bytes of an interface name: 4 + 6 + 1 + 4.
pub(crate) fn host_name(parent: u32, slot: u32) -> String {
    format!("ipvh{}.{}", base36(parent), base36(slot))
}

const BASE: u32 = 36;

fn base36(mut number: u32) -> String {
    let mut digits = Vec::new();
    loop {
        digits.extend(char::from_digit(number % BASE, BASE));
        number /= BASE;
        if number == 0 {
            return digits.iter().rev().collect();
        }
    }
}

/// The parent and slot in the name of a host end.
pub(crate) fn parse_host_name(name: &str) -> Option<(u32, u32)> {
    let (parent, slot) = name.strip_prefix("ipvh")?.split_once('.')?;
    let parsed = (
        u32::from_str_radix(parent, BASE).ok()?,
        u32::from_str_radix(slot, BASE).ok()?,
    );
    // Other spellings of the numbers are other names.
    (host_name(parsed.0, parsed.1) == name).then_some(parsed)
}

/// What is still known from the last look, so that the next one need not ask for it again. A look
/// at one device is a few questions to the kernel, and an event concerns one device.
#[derive(Debug, Default)]
pub(crate) struct Memory {
    /// What the last look saw.
    pub(crate) world: World,
    /// The host ends whose devices may have changed since; `None`: all of them.
    pub(crate) changed: Option<BTreeSet<u32>>,
    /// Whether the routes are those that the last look saw. A host may have a million.
    pub(crate) knows_routes: bool,
}

impl Memory {
    /// Nothing is known of anything.
    pub(crate) fn forget(&mut self) {
        self.changed = None;
        self.knows_routes = false;
    }

    /// The port of a parent, if the routes that concern it are still those that were seen.
    fn same_routes(&self, parent: &Link) -> Option<&PortView> {
        let port = self.world.ports.get(&parent.index)?;
        // Those by the bridge count that it is a port of.
        let same = port.parent.as_ref()?.master == parent.master;
        (same && self.knows_routes).then_some(port)
    }

    /// The device behind `host`, if it was seen and nothing has happened to it or its host end.
    fn unchanged(&self, parent: u32, host: &Link) -> Option<&DevView> {
        if self.changed.as_ref()?.contains(&host.index) {
            return None;
        }
        let dev = self.world.ports.get(&parent)?.devs.get(&host.index)?;
        let then = dev.host.as_ref()?;
        let same = then.link == host.link
            && then.link_nsid == host.link_nsid
            && then.flags == host.flags
            && then.kind == host.kind;
        (same && dev.link.is_some()).then_some(dev)
    }
}

/// Looks at everything that is not remembered. `nl` is a socket in the parents' namespace.
pub(crate) fn observe(nl: &mut Netlink, store: &Store, memory: &Memory) -> Result<World, Error> {
    let links: BTreeMap<u32, Link> = nl
        .links(None)?
        .into_iter()
        .map(|link| (link.index, link))
        .collect();
    let mut world = World {
        now: learn::now(),
        ..World::default()
    };
    for parent in store.ports() {
        if is_foreign(&store.port_dir(parent)) {
            continue;
        }
        let port = store.port(parent)?;
        let _: Option<PortView> = world
            .ports
            .insert(parent, view(nl, &links, parent, &port, memory)?);
    }
    let known: BTreeSet<u32> = world
        .ports
        .values()
        .flat_map(|port| port.devs.keys().copied())
        .collect();
    // What a device of ours that lives here has is the device's, not the namespace's.
    let devices: BTreeSet<u32> = world
        .ports
        .values()
        .flat_map(|port| port.devs.values())
        .filter(|dev| dev.place.is_none())
        .filter_map(|dev| Some(dev.link.as_ref()?.index))
        .collect();
    // What was given up before its port knew of it: the port was there first, and the alias comes
    // later. Anything else of such a name is somebody else's.
    world.strays = links
        .values()
        .filter(|link| link.kind.as_deref() == Some("veth") && link.alias.is_none())
        .filter(|link| !known.contains(&link.index) && !devices.contains(&link.index))
        .filter(|link| {
            parse_host_name(&link.name).is_some_and(|(parent, _)| world.ports.contains_key(&parent))
        })
        .map(|link| link.index)
        .collect();
    if world.ports.values().any(|port| concerns(&port.entry)) {
        world.host = Host::read();
    }
    if !world.ports.is_empty() {
        world.own = nl
            .addresses(None, None)?
            .into_iter()
            .filter(|address| !devices.contains(&address.index))
            .map(|address| address.local)
            .filter(|address| can_be_owned(*address))
            .collect();
    }
    Ok(world)
}

fn view(
    nl: &mut Netlink,
    links: &BTreeMap<u32, Link>,
    parent: u32,
    port: &Port,
    memory: &Memory,
) -> Result<PortView, Error> {
    let entry = port.entry()?;
    let mut devs = BTreeMap::new();
    for (host, entry) in port.devs()? {
        // Another interface may have got the number of a deleted one.
        let link = links.get(&host).filter(|link| fits(link, entry));
        let dev = match link.and_then(|link| memory.unchanged(parent, link)) {
            Some(dev) => DevView {
                entry,
                host: link.cloned(),
                link: match is_tap(entry) {
                    true => link.cloned(),
                    false => dev.link.clone(),
                },
                ..dev.clone()
            },
            None => device(nl, link, entry)?,
        };
        let _: Option<DevView> = devs.insert(host, dev);
    }
    let link = links.get(&parent);
    let known = link.and_then(|link| memory.same_routes(link));
    let mut view = PortView {
        entry,
        parent: link.cloned(),
        devs,
        owners: port.owners()?,
        members: port.members(entry.members)?,
        routing: Routing::observe(nl, parent, &entry)?,
        gateways: match (link, known) {
            (None, _) => BTreeSet::new(),
            (Some(_), Some(known)) => known.gateways.clone(),
            (Some(_), None) => gateways(nl, parent)?,
        },
        behind: known.map_or_else(BTreeMap::new, |known| known.behind.clone()),
        grants: port.grants()?,
        learnt: port.learnt()?,
    };
    view.behind = behind(nl, &view)?;
    Ok(view)
}

/// Looks at one device.
pub(crate) fn device(
    nl: &mut Netlink,
    host: Option<&Link>,
    entry: DevEntry,
) -> Result<DevView, Error> {
    let mut dev = DevView {
        entry,
        host: None,
        place: None,
        link: None,
        addresses: BTreeSet::new(),
    };
    let Some(host) = host else {
        return Ok(dev);
    };
    dev.host = Some(host.clone());
    dev.place = host.link_nsid;
    let peer = match is_tap(entry) {
        true => host.index,
        false => match host.link {
            Some(peer) => peer,
            None => return Ok(dev),
        },
    };
    let found = look(nl, peer, dev.place).unwrap_or_else(|error| {
        // What goes on in one namespace must not keep us from looking at the others.
        log::debug!("{}: {error}", host.name);
        None
    });
    let Some((link, addresses)) = found else {
        return Ok(dev);
    };
    dev.addresses = addresses;
    if is_tap(entry) {
        dev.host = Some(link.clone());
    }
    dev.link = Some(link);
    Ok(dev)
}

/// A device and its addresses, of which it has none that count while it is down; `None` when it, or
/// its namespace, went away just now.
fn look(
    nl: &mut Netlink,
    index: u32,
    place: Option<Nsid>,
) -> Result<Option<(Link, BTreeSet<IpAddr>)>, Error> {
    use nix::errno::Errno::{EINVAL, ENODEV};
    let gone = |error: &ipvlan_netlink::Error| matches!(error.errno(), EINVAL | ENODEV);
    let link = match nl.link(index, place) {
        Ok(Some(link)) => link,
        Ok(None) => return Ok(None),
        Err(error) if gone(&error) => return Ok(None),
        Err(error) => return Err(error.into()),
    };
    // Somebody may have given it a hundred thousand, to keep us busy.
    if !link.is_up() {
        return Ok(Some((link, BTreeSet::new())));
    }
    let addresses = match nl.addresses(place, Some(index)) {
        Ok(addresses) => addresses,
        Err(error) if gone(&error) => return Ok(None),
        Err(error) => return Err(error.into()),
    };
    let addresses = addresses
        .into_iter()
        // A duplicate that the stack found itself and does not use.
        .filter(|address| address.flags & libc::IFA_F_DADFAILED == 0)
        .map(|address| address.local)
        .filter(|address| can_be_owned(*address))
        .collect();
    Ok(Some((link, addresses)))
}

pub(crate) fn is_host_end(link: &Link) -> bool {
    link.kind.as_deref() == Some("veth") && parse_host_name(&link.name).is_some()
}

/// Addresses that frames can be sent to from elsewhere.
pub(crate) fn can_be_owned(address: IpAddr) -> bool {
    !address.is_loopback() && !address.is_unspecified() && !address.is_multicast()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_of_host_ends_are_read_back_and_nothing_else_is() {
        for (parent, slot) in [(2, 0), (i32::MAX.cast_unsigned(), 65_532), (26, 10)] {
            let name = host_name(parent, slot);
            assert!(name.len() <= 15, "{name} fits an interface name");
            assert_eq!(parse_host_name(&name), Some((parent, slot)));
        }
        for name in [
            "ipvh", "ipvh2", "ipvh2.", "ipvh.1", "ipvh02.1", "ipvh2.01", "ipvh-.1", "ipvh2.A",
            "eth0",
        ] {
            assert_eq!(parse_host_name(name), None, "{name}");
        }
    }
}
