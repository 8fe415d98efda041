//! What there is, for a user to look at. Changes nothing and takes no lock.

use std::collections::BTreeMap;
use std::net::IpAddr;

use ipvlan_abi::{DropReason, OWNER_PARENT};
use ipvlan_netlink::netns::{self, current_cookie};
use ipvlan_netlink::{Link, Netlink, Nsid};

use crate::api::{Place, Shown};
use crate::error::Error;
use crate::observe::{PortView, World, is_host_end, observe};
use crate::store::Store;

/// What the alias of a host end says: in which namespace its parent is, for those who see it from
/// another one, and for a person who wonders what it is.
const ALIAS: &str = "host end of an ipvlan device; parent";

pub(crate) fn alias(parent: &Link) -> Result<String, Error> {
    Ok(format!(
        "{ALIAS} {} in netns {:x}",
        parent.index,
        current_cookie()?
    ))
}

/// The parent and the cookie of its namespace.
fn parse_alias(alias: &str) -> Option<(u32, u64)> {
    let (parent, cookie) = alias
        .strip_prefix(ALIAS)?
        .trim_start()
        .split_once(" in netns ")?;
    Some((parent.parse().ok()?, u64::from_str_radix(cookie, 16).ok()?))
}

/// Every device that lives in the calling thread's namespace, or whose parent does. Those here
/// first, then by parent and number.
///
/// # Errors
///
/// See [`Error`].
pub fn show() -> Result<Vec<Shown>, Error> {
    let mut nl = Netlink::open()?;
    let mut all = children(&mut nl)?;
    for link in nl.links(None)? {
        if let Some(device) = guest(&mut nl, link)? {
            all.push(device);
        }
    }
    all.sort_by_key(|device| {
        (
            device.place != Place::Here,
            device.parent_index,
            device.slot,
            device.link.index,
        )
    });
    Ok(all)
}

/// The device with this index of the calling thread's namespace, if it is ours.
pub(crate) fn find_here(nl: &mut Netlink, index: u32) -> Result<Option<Shown>, Error> {
    let Some(link) = nl.link(index, None)? else {
        return Ok(None);
    };
    if link.kind.as_deref() != Some("veth") {
        return Ok(None);
    }
    Ok(show()?
        .into_iter()
        .find(|device| device.place == Place::Here && device.link.index == index))
}

/// The devices of the parents of this namespace, wherever they live.
fn children(nl: &mut Netlink) -> Result<Vec<Shown>, Error> {
    let store = Store::current()?;
    if !store.exists() {
        return Ok(Vec::new());
    }
    let world: World = observe(nl, &store)?;
    let mut names = BTreeMap::new();
    let mut all = Vec::new();
    for (parent, view) in &world.ports {
        let drops = store.port(*parent)?.drops()?;
        for (host, dev) in &view.devs {
            let Some(link) = &dev.link else { continue };
            let place = match dev.place {
                None => Place::Here,
                Some(id) => names.entry(id).or_insert_with(|| named(nl, id)).clone(),
            };
            let (owned, refused) = addresses(view, *host);
            all.push(Shown {
                link: link.clone(),
                place,
                parent: view
                    .parent
                    .as_ref()
                    .map_or_else(String::new, |link| link.name.clone()),
                parent_index: *parent,
                parent_place: Place::Here,
                host_index: *host,
                mode: view.entry.mode(),
                flag: view.entry.flag(),
                slot: dev.entry.slot,
                owned,
                refused,
                drops: reasons(&drops, *host),
            });
        }
    }
    Ok(all)
}

/// Which of its addresses a device owns, and which somebody else had first.
fn addresses(view: &PortView, host: u32) -> (Vec<IpAddr>, Vec<IpAddr>) {
    let Some(dev) = view.devs.get(&host) else {
        return (Vec::new(), Vec::new());
    };
    dev.addresses.iter().partition(|address| {
        view.owners
            .get(address)
            .is_some_and(|owner| owner.ifindex == host && owner.kind != OWNER_PARENT)
    })
}

fn reasons(drops: &[(ipvlan_abi::DropKey, u64)], host: u32) -> Vec<(DropReason, u64)> {
    let mut counts: Vec<(DropReason, u64)> = drops
        .iter()
        .filter(|(key, count)| key.ifindex == host && *count > 0)
        .filter_map(|(key, count)| Some((DropReason::from_number(key.reason)?, *count)))
        .collect();
    counts.sort();
    counts
}

fn named(nl: &mut Netlink, id: Nsid) -> Place {
    netns::name_of(nl, id).map_or(Place::Unnamed(id.0), Place::Named)
}

/// A device that lives here and whose parent does not: what a container sees of its own.
fn guest(nl: &mut Netlink, link: Link) -> Result<Option<Shown>, Error> {
    let (Some(host_index), Some(id), Some("veth")) =
        (link.link, link.link_nsid, link.kind.as_deref())
    else {
        return Ok(None);
    };
    // A namespace without the right to look there sees a plain veth.
    let Ok(Some(host)) = nl.link(host_index, Some(id)) else {
        return Ok(None);
    };
    let Some((parent, cookie)) = host
        .alias
        .as_deref()
        .filter(|_| is_host_end(&host))
        .and_then(parse_alias)
    else {
        return Ok(None);
    };
    let Ok(port) = Store::of(cookie).port(parent) else {
        return Ok(None);
    };
    let Some(dev) = port.devs()?.get(&host_index).copied() else {
        return Ok(None);
    };
    let entry = port.entry()?;
    let owned = port
        .owners()?
        .into_iter()
        .filter(|(_, owner)| owner.ifindex == host_index && owner.kind != OWNER_PARENT)
        .map(|(address, _)| address)
        .collect();
    Ok(Some(Shown {
        place: Place::Here,
        parent: nl
            .link(parent, Some(id))?
            .map_or_else(String::new, |link| link.name),
        parent_index: parent,
        parent_place: named(nl, id),
        host_index,
        mode: entry.mode(),
        flag: entry.flag(),
        slot: dev.slot,
        owned,
        refused: Vec::new(),
        drops: reasons(&port.drops()?, host_index),
        link,
    }))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_alias_is_read_back_and_others_are_not() {
        let text = format!("{ALIAS} 7 in netns 1f");
        assert_eq!(parse_alias(&text), Some((7, 0x1f)));
        assert_eq!(parse_alias("uplink of the lab"), None);
        assert_eq!(parse_alias(&format!("{ALIAS} x in netns 1f")), None);
    }
}
