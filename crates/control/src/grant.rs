//! What a device has by hand: addresses and prefixes that are its because the administrator says so.
//!
//! Whoever is root in a namespace can give its device any address. The host's own and those of its
//! next routers would bring it other people's traffic, so nobody gets them by having them: the host
//! keeps its own, and the routers' stay out there. And what a device is to receive it need not have: a
//! router has no address of the subnets behind it, and an address may be on `lo`. A grant says what is
//! a device's all the same. It owns that while it is up, before the host and before any other device.
//!
//! ```text
//! routes out of the parent ──► gateways ─┐
//! map "grants": slot, prefix ────────────┴─► plan::owners
//! ```
//!
//! A single address by hand goes before everything. A prefix stands behind whatever is known of an
//! address in it: what the host has, what another device has or was given, a longer prefix. A next
//! router in a prefix stays outside, unless its address was given by itself. Nothing is given twice. In
//! l3s a prefix goes before the host's own routes: what is behind the host is its device's, too.
//!
//! Next routers are those of all routes, of either family and in any table, that leave by the parent,
//! or by the bridge or bond that it is a port of, and those of nexthop objects there. In l3s the
//! addresses behind other interfaces are not to be had either: `routing`.
//!
//! Grants are in the kernel, in a map that no program reads. They belong to the slot, which goes
//! along when the parent goes to another namespace, and they go with the device.
//!
//! Limits: what routes do not tell is nobody's but the first one's: a router that is known inside
//! the devices' namespaces only. All routes by the parent are read when one has changed; on a
//! router with a full table that takes its time. In l3s, what comes from the wire for an address
//! that the host itself has is the host's, by hand or not: its table "local" comes first.
//!
//! Kernel: nothing. The driver gives a device whatever it says that it has, and nothing else.

use std::collections::BTreeSet;
use std::net::IpAddr;

use ipnet::IpNet;
use ipvlan_abi::MAX_GRANTS;
use ipvlan_datapath_bpf::Port;
use ipvlan_netlink::{Family, Netlink, Route, RouteFilter};
use nix::errno::Errno;

use crate::api::{Place, find};
use crate::error::Error;
use crate::observe::{Memory, observe};
use crate::plan::words;
use crate::reconcile::reconcile;
use crate::show::show;
use crate::store::{Locked, Store};
use crate::takeover::take_over;

/// The next routers behind a parent.
pub(crate) fn gateways(nl: &mut Netlink, parent: u32) -> Result<BTreeSet<IpAddr>, Error> {
    let mut gateways = BTreeSet::new();
    let master = nl.link(parent, None)?.and_then(|link| link.master);
    for interface in [Some(parent), master].into_iter().flatten() {
        for family in Family::ALL {
            let routes = nl.routes(RouteFilter {
                family,
                table: None,
                interface: Some(interface),
            });
            match routes {
                Ok(routes) => gateways.extend(behind(&routes, interface)),
                // It went away just now.
                Err(error) if error.errno() == Errno::ENODEV => {}
                Err(error) => return Err(error.into()),
            }
        }
        // Routes by these need not show them.
        gateways.extend(nl.nexthops(interface)?);
    }
    Ok(gateways)
}

/// Those of the routes by this interface.
fn behind(routes: &[Route], interface: u32) -> impl Iterator<Item = IpAddr> {
    let hops = routes.iter().flat_map(|route| &route.hops);
    let mine = hops.filter(move |hop| hop.interface == Some(interface));
    mine.filter_map(|hop| hop.gateway)
}

/// Gives an address or a prefix to a device. `name` is that of a device in the calling thread's
/// namespace or, if the parent is here, wherever it lives. The bits of `prefix` behind its length
/// are 0.
///
/// # Errors
///
/// See [`Error`]; [`Error::Exists`] when it was given to this device already, [`Error::Given`] when it
/// was to another one, [`Error::Several`] when several devices have this name.
pub fn grant(name: &str, prefix: IpNet) -> Result<(), Error> {
    change(name, |here, slot| {
        if here.holder(prefix)?.is_some_and(|holder| holder != slot) {
            // Perhaps one that was deleted while nobody looked.
            here.reconcile()?;
        }
        match here.holder(prefix)? {
            Some(holder) if holder == slot => Err(Error::Exists(words(prefix))),
            Some(holder) => Err(Error::Given {
                prefix,
                holder: here.name(holder)?,
            }),
            None => here
                .port()?
                .set_grant(slot, prefix)
                .map_err(|error| match error.errno() {
                    Some(libc::E2BIG) => Error::NoRoom {
                        prefix,
                        limit: format!("have {MAX_GRANTS} addresses and prefixes by hand"),
                    },
                    _ => error.into(),
                }),
        }
    })
}

/// Takes that back.
///
/// # Errors
///
/// As for [`grant`]; [`Error::NoAddress`] when it was not given to this device.
pub fn revoke(name: &str, prefix: IpNet) -> Result<(), Error> {
    change(name, |here, slot| {
        if here.holder(prefix)? != Some(slot) {
            return Err(Error::NoAddress);
        }
        Ok(here.port()?.remove_grant(slot, prefix)?)
    })
}

/// Changes the grants of a device, where its parent is, and lets what follows from it follow.
fn change(
    name: &str,
    change: impl FnOnce(&mut Here<'_>, u32) -> Result<(), Error>,
) -> Result<(), Error> {
    let mut nl = Netlink::open()?;
    let (parent, host, place) = match find(&mut nl, name) {
        Ok((_, origin)) => (origin.parent, origin.host_index, origin.elsewhere()),
        Err(error) => {
            let (parent, host) = find_elsewhere(name)?.ok_or(error)?;
            (parent, host, None)
        }
    };
    let Some(place) = place else {
        return change_here(&mut nl, parent, host, name, change);
    };
    let home = place.find(&mut nl)?.ok_or_else(|| {
        Error::Permission(format!(
            "what \"{name}\" has by hand is said where its parent is, and that is in another network \
             namespace"
        ))
    })?;
    home.enter(|| change_here(&mut Netlink::open()?, parent, host, name, change))?
}

fn change_here(
    nl: &mut Netlink,
    parent: u32,
    host: u32,
    name: &str,
    change: impl FnOnce(&mut Here<'_>, u32) -> Result<(), Error>,
) -> Result<(), Error> {
    let store = Store::current()?;
    let gone = || Error::NoDevice(name.to_owned());
    take_over(&store)?;
    let locked = store.lock_existing()?.ok_or_else(gone)?;
    let mut here = Here {
        nl,
        locked: &locked,
        parent,
    };
    let slot = here.port().and_then(|port| {
        let dev = port.devs()?.get(&host).copied().ok_or_else(gone)?;
        Ok(dev.slot)
    });
    let done = slot.and_then(|slot| {
        let changed = change(&mut here, slot);
        // In any case: what is there already may be that of a call that was killed.
        changed.and(here.reconcile())
    });
    locked.release();
    done
}

/// The parent of a device, where it is.
struct Here<'a> {
    nl: &'a mut Netlink,
    locked: &'a Locked,
    parent: u32,
}

impl Here<'_> {
    fn port(&self) -> Result<Port, Error> {
        self.locked.store().port(self.parent)
    }

    fn reconcile(&mut self) -> Result<(), Error> {
        reconcile(self.nl, self.locked)
    }

    /// The slot of the device that has it by hand.
    fn holder(&self, prefix: IpNet) -> Result<Option<u32>, Error> {
        let all = self.port()?.grants()?;
        let mut all = all.into_iter();
        Ok(all.find_map(|(slot, own)| own.contains(&prefix).then_some(slot)))
    }

    /// What the device in this slot is called, where it lives.
    fn name(&mut self, slot: u32) -> Result<String, Error> {
        let world = observe(self.nl, self.locked.store(), &Memory::default())?;
        let devs = world.ports.get(&self.parent).map(|port| &port.devs);
        let dev = devs.and_then(|devs| devs.values().find(|dev| dev.entry.slot == slot));
        Ok(match dev.and_then(|dev| dev.link.as_ref()) {
            Some(link) => format!("\"{}\"", link.name),
            None => format!("the device in slot {slot}"),
        })
    }
}

/// The device of this name whose parent is here, and which is not: parent and host end.
fn find_elsewhere(name: &str) -> Result<Option<(u32, u32)>, Error> {
    let devices = show()?;
    let found: Vec<_> = devices
        .iter()
        .filter(|device| device.parent_place == Place::Here && device.link.name == name)
        .collect();
    match found[..] {
        [] => Ok(None),
        [one] => Ok(Some((one.parent_index, one.host_index))),
        _ => {
            let places = found.iter().map(|device| match &device.place {
                Place::Here => "this one".to_owned(),
                Place::Named(place) => place.clone(),
                Place::Unnamed(id) => format!("netns-id {id}"),
            });
            Err(Error::Several {
                name: name.to_owned(),
                places: places.collect::<Vec<_>>().join(", "),
            })
        }
    }
}
