//! What there is, for a user to look at. Changes nothing but that it takes over what an older version
//! made.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use ipnet::IpNet;
use ipvlan_abi::{DEV_TAP, DropReason, Mode, Owner, PortEntry};
use ipvlan_datapath_bpf::Port;
use ipvlan_netlink::netns::{self, current_cookie};
use ipvlan_netlink::{Link, NetNs, Netlink, Nsid};

use crate::api::{Kind, Place, Shown, ShownPort};
use crate::error::Error;
use crate::learn::learns;
use crate::observe::{DevView, Memory, PortView, is_host_end, observe};
use crate::plan::around;
use crate::store::Store;
use crate::takeover::{take_over, take_over_from_anywhere};

/// What the alias of a host end says: in which namespace its parent is, for those who see it from
/// another one, and for a person who wonders what it is.
const ALIAS: &str = "host end of an ipvlan device; parent";

pub(crate) fn alias(parent: &Link) -> Result<String, Error> {
    Ok(alias_of(parent.index, current_cookie()?))
}

pub(crate) fn alias_of(parent: u32, cookie: u64) -> String {
    format!("{ALIAS} {parent} in netns {cookie:x}")
}

/// The parent and the cookie of its namespace.
pub(crate) fn parse_alias(alias: &str) -> Option<(u32, u64)> {
    let (parent, cookie) = alias
        .strip_prefix(ALIAS)?
        .trim_start()
        .split_once(" in netns ")?;
    Some((parent.parse().ok()?, u64::from_str_radix(cookie, 16).ok()?))
}

/// Opens a port of any namespace, and takes it over first where an older version made it.
fn open_port(store: &Store, parent: u32) -> Result<Port, Error> {
    match store.port(parent) {
        Err(error) if error.is_older() => {
            take_over_from_anywhere(store)?;
            store.port(parent)
        }
        other => other,
    }
}

/// Where a device of this namespace comes from.
pub(crate) struct Origin {
    /// Id of the namespace that the parent is in; `None`: this one.
    pub(crate) nsid: Option<Nsid>,
    pub(crate) parent: u32,
    /// Cookie of that namespace, says the alias of the host end, which anybody can write.
    cookie: u64,
    pub(crate) host_index: u32,
    pub(crate) kind: Kind,
    port: Port,
}

impl Origin {
    /// `None`: the link is none of ours. `nl` is a socket in the calling thread's namespace.
    pub(crate) fn of(nl: &mut Netlink, link: &Link) -> Result<Option<Self>, Error> {
        if link.tap.is_some() {
            return Self::of_tap(link);
        }
        let (Some(host_index), Some("veth")) = (link.link, link.kind.as_deref()) else {
            return Ok(None);
        };
        // A namespace without the right to look there sees a plain veth.
        let Ok(Some(host)) = nl.link(host_index, link.link_nsid) else {
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
        let port = match open_port(&Store::of(cookie), parent) {
            Ok(port) => port,
            Err(error) if error.is_foreign() || error.is_older() => return Err(error),
            Err(_) => return Ok(None),
        };
        if !port.devs()?.contains_key(&host_index) {
            return Ok(None);
        }
        Ok(Some(Self {
            nsid: link.link_nsid,
            cookie,
            parent,
            host_index,
            kind: Kind::Ipvlan,
            port,
        }))
    }

    /// A tap is where its port is, and says nothing of it itself.
    fn of_tap(link: &Link) -> Result<Option<Self>, Error> {
        let store = Store::current()?;
        for parent in store.ports() {
            // One that goes at this moment is not it.
            let Ok(port) = open_port(&store, parent) else {
                continue;
            };
            let dev = port.devs()?.get(&link.index).copied();
            if dev.is_some_and(|dev| dev.bits & DEV_TAP != 0) {
                return Ok(Some(Self {
                    nsid: None,
                    cookie: store.cookie(),
                    parent,
                    host_index: link.index,
                    kind: Kind::Ipvtap,
                    port,
                }));
            }
        }
        Ok(None)
    }
}

impl Origin {
    /// Where the parent lives, when that is not here.
    pub(crate) fn elsewhere(&self) -> Option<Elsewhere> {
        self.nsid.map(|id| Elsewhere {
            id,
            cookie: self.cookie,
        })
    }
}

/// The namespace of a parent that is not in this one.
pub(crate) struct Elsewhere {
    id: Nsid,
    cookie: u64,
}

impl Elsewhere {
    /// A handle to it, if it can be entered and is the one that the host end names: root in a
    /// container can make a pair that looks like a device of ours.
    pub(crate) fn find(&self, nl: &mut Netlink) -> Result<Option<NetNs>, Error> {
        Ok(match netns::Finder::default().find(nl, self.id)? {
            Some(home) if home.cookie()? == self.cookie => Some(home),
            _ => None,
        })
    }
}

/// Every device that lives in the calling thread's namespace, or whose parent does. Those here
/// first, then by parent and number.
///
/// # Errors
///
/// See [`Error`].
pub fn show() -> Result<Vec<Shown>, Error> {
    let mut nl = Netlink::open()?;
    let links = nl.links(None)?;
    let names = Names(netns::names(&mut nl));
    let mut all = children(&mut nl, &names)?;
    for link in links {
        if let Some(origin) = Origin::of(&mut nl, &link)?
            && origin.nsid.is_some()
        {
            all.push(guest(&mut nl, &names, link, &origin)?);
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

struct Names(BTreeMap<Nsid, String>);

impl Names {
    fn place(&self, id: Option<Nsid>) -> Place {
        match id {
            None => Place::Here,
            Some(id) => self
                .0
                .get(&id)
                .map_or(Place::Unnamed(id.0), |name| Place::Named(name.clone())),
        }
    }
}

/// The devices of the parents of this namespace, wherever they live.
fn children(nl: &mut Netlink, names: &Names) -> Result<Vec<Shown>, Error> {
    let store = Store::current()?;
    take_over(&store)?;
    // Ports come and go, and one that goes is not whole.
    let Some(_locked) = store.lock_existing()? else {
        return Ok(Vec::new());
    };
    store.refuse_foreign()?;
    let world = observe(nl, &store, &Memory::default())?;
    let mut all = Vec::new();
    for (parent, view) in &world.ports {
        let port = store.port(*parent)?;
        let drops = port.drops()?;
        for (host, dev) in &view.devs {
            let Some(link) = &dev.link else { continue };
            all.push(Shown {
                link: link.clone(),
                kind: Kind::of(dev.entry),
                guest: port.guest(*host)?,
                place: names.place(dev.place),
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
                owned: owned(&view.owners, *host),
                refused: refused(view, *host, dev),
                learning: learns(dev.entry),
                granted: granted(&view.grants, dev.entry.slot),
                dhcp_identity: dhcp_identity(&view.entry, dev.entry.slot),
                drops: reasons(&drops, *host),
            });
        }
    }
    Ok(all)
}

/// The ports of the calling thread's namespace.
///
/// # Errors
///
/// See [`Error`].
pub fn show_ports() -> Result<Vec<ShownPort>, Error> {
    let store = Store::current()?;
    take_over(&store)?;
    let Some(_locked) = store.lock_existing()? else {
        return Ok(Vec::new());
    };
    store.refuse_foreign()?;
    let mut nl = Netlink::open()?;
    let mut all = Vec::new();
    for index in store.ports() {
        let port = store.port(index)?;
        let Some(parent) = nl.link(index, None)? else {
            continue;
        };
        let entry = port.entry()?;
        all.push(ShownPort {
            parent,
            mode: entry.mode(),
            flag: entry.flag(),
            drops: reasons(&port.drops()?, index),
        });
    }
    Ok(all)
}

/// What a device owns.
fn owned(owners: &BTreeMap<IpNet, Owner>, host: u32) -> Vec<IpNet> {
    let all = owners.iter();
    let own = all.filter(|(_, owner)| owner.is_device() && owner.ifindex == host);
    own.map(|(prefix, _)| *prefix).collect()
}

/// What it has and does not own, because somebody had it first.
fn refused(view: &PortView, host: u32, dev: &DevView) -> Vec<IpAddr> {
    let is_owned = |address: &IpAddr| {
        let address = IpNet::from(*address);
        let owner = view.owners.get(&address).copied();
        let owner = owner.or_else(|| around(&view.owners, address));
        owner.is_some_and(|owner| owner.is_device() && owner.ifindex == host)
    };
    let all = view.addresses(dev).into_iter();
    all.filter(|address| !is_owned(address)).collect()
}

fn granted(grants: &BTreeMap<u32, BTreeSet<IpNet>>, slot: u32) -> Vec<IpNet> {
    grants.get(&slot).into_iter().flatten().copied().collect()
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

fn dhcp_identity(port: &PortEntry, slot: u32) -> Option<[u8; 6]> {
    (port.mode() == Mode::L2).then(|| port.dhcp_identity(slot))
}

/// A device that lives here and whose parent does not: what a container sees of its own.
fn guest(nl: &mut Netlink, names: &Names, link: Link, origin: &Origin) -> Result<Shown, Error> {
    let Origin {
        nsid,
        parent,
        host_index,
        port,
        ..
    } = origin;
    let entry = port.entry()?;
    let slot = port.devs()?.get(host_index).map_or(0, |dev| dev.slot);
    Ok(Shown {
        kind: Kind::Ipvlan,
        guest: None,
        learning: false,
        place: Place::Here,
        parent: nl
            .link(*parent, *nsid)?
            .map_or_else(String::new, |link| link.name),
        parent_index: *parent,
        parent_place: names.place(*nsid),
        host_index: *host_index,
        mode: entry.mode(),
        flag: entry.flag(),
        slot,
        owned: owned(&port.owners()?, *host_index),
        refused: Vec::new(),
        granted: granted(&port.grants()?, slot),
        dhcp_identity: dhcp_identity(&entry, slot),
        drops: reasons(&port.drops()?, *host_index),
        link,
    })
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
