//! Which addresses a device may own whatever speaks against it.
//!
//! Whoever is root in a namespace can give its device any address. The host's own and those of its
//! next routers would bring it other people's traffic, so nobody gets them by having them: the host
//! keeps its own, and the routers' stay out there. A grant says that one device is meant to have one
//! address all the same. It then owns the address as soon as it has it and is up, before the host
//! and before any other device.
//!
//! ```text
//! routes out of the parent ──► gateways ─┐
//! map "grants": slot, address ───────────┴─► plan::owners
//! ```
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
//! that the host itself has is the host's, granted or not: its table "local" comes first.
//!
//! Kernel: nothing. The driver gives a device whatever it says that it has.

use std::collections::BTreeSet;
use std::net::IpAddr;

use ipvlan_abi::MAX_GRANTS;
use ipvlan_datapath_bpf::Port;
use ipvlan_netlink::{Family, Netlink, Route, RouteFilter};
use nix::errno::Errno;

use crate::api::{Place, find};
use crate::error::Error;
use crate::reconcile::reconcile;
use crate::show::show;
use crate::store::Store;

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

/// Lets a device own an address, whoever else has it. `name` is that of a device in the calling
/// thread's namespace or, if the parent is here, wherever it lives.
///
/// # Errors
///
/// See [`Error`]; [`Error::Exists`] when it may already, [`Error::Several`] when several devices
/// have this name.
pub fn grant(name: &str, address: IpAddr) -> Result<(), Error> {
    change(name, |port, slot| {
        let all = port.grants()?;
        if all.get(&slot).is_some_and(|own| own.contains(&address)) {
            return Err(Error::Exists(address.to_string()));
        }
        port.set_grant(slot, address)
            .map_err(|error| match error.errno() {
                Some(libc::E2BIG) => Error::NoRoom {
                    address,
                    max: MAX_GRANTS,
                },
                _ => error.into(),
            })
    })
}

/// Takes that back.
///
/// # Errors
///
/// As for [`grant`]; [`Error::NoAddress`] when it was not granted.
pub fn revoke(name: &str, address: IpAddr) -> Result<(), Error> {
    change(name, |port, slot| {
        let all = port.grants()?;
        if !all.get(&slot).is_some_and(|own| own.contains(&address)) {
            return Err(Error::NoAddress);
        }
        Ok(port.remove_grant(slot, address)?)
    })
}

/// Changes the grants of a device, where its parent is, and lets what follows from it follow.
fn change(
    name: &str,
    change: impl FnOnce(&mut Port, u32) -> Result<(), Error>,
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
            "what \"{name}\" may own is said where its parent is, and that is in another network \
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
    change: impl FnOnce(&mut Port, u32) -> Result<(), Error>,
) -> Result<(), Error> {
    let store = Store::current()?;
    let gone = || Error::NoDevice(name.to_owned());
    let locked = store.lock_existing()?.ok_or_else(gone)?;
    let done = store.port(parent).and_then(|mut port| {
        let dev = port.devs()?.get(&host).copied().ok_or_else(gone)?;
        change(&mut port, dev.slot)?;
        reconcile(nl, &locked)
    });
    locked.release();
    done
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
