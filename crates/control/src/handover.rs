//! A parent that goes to another network namespace, and takes its devices along.
//!
//! With the driver it just does. Here the host ends have to follow, since a program can redirect
//! only to interfaces of its own namespace, and what is known of the port has to be filed under
//! the other namespace's cookie, by the indexes that parent and host ends have there.
//!
//! ```text
//!   OLD/3/ ──► OLD/away-N/ ──► NEW/from-OLD-N/ ──► NEW/away-N/ ──► NEW/5/
//!          parent is         found where          host ends     indexes are
//!          not here          it is                followed      what they are
//! ```
//!
//! Each arrow is a rename, and what is between two of them can be done twice, so whoever is killed
//! on the way leaves something from which the next call or agent goes on. What is away is nobody's
//! port: nothing of it is delivered, and no plan takes it for a port whose parent was deleted. Before
//! anybody has seen that the parent went, the programs themselves find that it is not here.
//!
//! Who is who on the way: the parent's tcx link tells its index, wherever it is, and which
//! interface of that index has our program is the parent. A host end is one by its alias once it
//! was told to go, and before by what its port knows of it. A tap is its user's as well: what it looked
//! like (up or down, its own alias) goes along in the alias, and whoever has it open keeps it.
//!
//! Locks: that of the namespace at hand is held; that of the other one is taken beside it, without
//! waiting for long.
//!
//! Limits: below Linux 6.6 there is no tcx link to ask. Then the agent has to have heard where the
//! parent went, and find it there; otherwise its devices go as if it had been deleted. A parent that went where
//! nobody can follow (a namespace without a name, a mount or a process) leaves its devices
//! waiting, without carrier, until it is found or comes back.
//!
//! Kernel: nothing; `ipvl_dev` points to `phy_dev`, in whatever namespace that is.

use std::collections::BTreeMap;
use std::mem;
use std::os::fd::AsFd as _;
use std::time::{Duration, Instant};

use ipvlan_abi::{
    DEV_MUTED, DEV_READY, DEV_TAP, DevEntry, PORT_ALLMULTI, PORT_SET_TYPE, PortEntry,
};
use ipvlan_datapath_bpf::Port;
use ipvlan_netlink::{Family, Link, LinkChange, NetNs, Netlink, Nsid, netns};
use nix::errno::Errno;

use self::alias::{alias_on_the_way, parse_alias_on_the_way, parse_before, tap_alias_on_the_way};
use crate::agent;
use crate::apply::keep_quiet;
use crate::error::Error;
use crate::learn::{carrier_downs, muted};
use crate::observe::{World, host_name, parse_host_name};
use crate::reconcile::reconcile_arrivals;
use crate::routing;
use crate::show::alias;
use crate::store::{Locked, Store, Travelling, is_foreign};
use crate::takeover;

mod alias;

/// What the agent has heard, and what it has tried.
#[derive(Debug, Default)]
pub(crate) struct Heard {
    /// Where parents went: by old index, the id of the namespace as the one they left counts it,
    /// and the new index.
    pub(crate) moves: BTreeMap<u32, (Nsid, Option<u32>)>,
    /// Whether interfaces have come that may be parents.
    pub(crate) arrivals: bool,
    /// When all namespaces were looked through for a parent the last time.
    pub(crate) searched: Option<Instant>,
    /// Ports that were missing their parent at the last look, and nothing was heard of it.
    pub(crate) missing: Vec<u64>,
}

/// Who asks.
pub(crate) struct Who<'a> {
    /// The agent, and what it has heard.
    pub(crate) heard: Option<&'a mut Heard>,
    /// Whether there is an agent, so that there has to be one where the parent goes.
    pub(crate) agent: bool,
}

/// How it stands when all was done that can be.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Away {
    /// No parent is away.
    #[default]
    None,
    /// One is, perhaps: another look will tell, soon.
    Perhaps,
    /// One is, and where nobody can follow.
    Lost,
}

/// How often all namespaces are looked through for a parent that was not found.
const SEARCH: Duration = Duration::from_millis(200);

/// What it is called until it has a name again that says whose it is.
const ON_THE_WAY: &str = "ipvm%d";

/// Where the parent of a port is.
enum Place {
    /// In this namespace.
    Here(Box<Link>),
    /// In another one, with this index.
    Elsewhere(u32),
    /// Not here; whether it lives, nobody can tell (clsact).
    Unknown,
    /// Deleted.
    Gone,
}

fn place(nl: &mut Netlink, port: &Port, entry: &PortEntry) -> Result<Place, Error> {
    Ok(match port.parent_index()? {
        Some(0) => Place::Gone,
        Some(index) => match nl.link(index, None)? {
            Some(link) if is_parent(port, &link) => Place::Here(Box::new(link)),
            _ => Place::Elsewhere(index),
        },
        None => match nl.link(entry.ifindex, None)? {
            Some(link) => Place::Here(Box::new(link)),
            None => Place::Unknown,
        },
    })
}

fn is_parent(port: &Port, link: &Link) -> bool {
    // One that is renamed or deleted at this moment is looked at again.
    port.is_parent(&link.name).unwrap_or(false)
}

/// Whether a parent that is not here may live elsewhere.
pub(crate) fn has_lost_a_parent(store: &Store, world: &World) -> Result<bool, Error> {
    for (parent, view) in &world.ports {
        if view.parent.is_none() {
            let lives = match store.port(*parent)?.parent_index()? {
                Some(index) => index != 0,
                None => store.has_agent(),
            };
            if lives {
                return Ok(true);
            }
        }
    }
    Ok(false)
}

/// Sees to it that each port is where its parent is. `nl` is a socket in the namespace of `locked`,
/// which is the calling thread's.
pub(crate) fn follow(nl: &mut Netlink, locked: &Locked, who: &mut Who<'_>) -> Result<Away, Error> {
    let store = locked.store();
    let mut failed = None;
    let heard = who.heard.as_mut();
    if heard.is_none_or(|heard| mem::take(&mut heard.arrivals)) {
        match claim(nl, locked) {
            Ok(_) => {}
            Err(error) if error.is_foreign() => log::debug!("{error}"),
            Err(error) => return Err(error),
        }
    }
    let travelling = || {
        let all = store.travelling().into_iter();
        all.filter(|which| !is_foreign(&store.traveller_dir(*which)))
    };
    for which in travelling() {
        if let Travelling::From(source, _) = which {
            failed = fetch(locked, which, source).err().or(failed);
        }
    }
    // First of all this: whoever plans must not see it.
    for parent in store.ports() {
        if is_foreign(&store.port_dir(parent)) {
            continue;
        }
        let mut port = store.port(parent)?;
        let entry = port.entry()?;
        let gone = match place(nl, &port, &entry)? {
            Place::Here(_) => false,
            Place::Elsewhere(_) => true,
            // Whoever has taken its number is not it.
            Place::Gone => nl.link(parent, None)?.is_some(),
            // Without an agent there is nobody who might have heard of it.
            Place::Unknown => store.has_agent(),
        };
        if gone {
            // First what would lead astray; as long as it is not sent away, the next call does it
            // again. The routes before the bit that says that there are some.
            forget_routes(nl, &entry)?;
            port.silence()?;
            let _: Travelling = locked.send_away(parent)?;
        }
    }
    let (mut away, mut missing) = (Away::None, Vec::new());
    for which in travelling() {
        match follow_one(nl, locked, which, who, &mut missing) {
            Ok(found) => away = away.max(found),
            // One must not keep the others from going.
            Err(error) => failed = Some(error),
        }
    }
    if let Some(heard) = &mut who.heard {
        heard.missing = missing;
        if away == Away::None {
            heard.moves.clear();
        }
    }
    failed.map_or(Ok(away), Err)
}

fn follow_one(
    nl: &mut Netlink,
    locked: &Locked,
    which: Travelling,
    who: &mut Who<'_>,
    missing: &mut Vec<u64>,
) -> Result<Away, Error> {
    let store = locked.store();
    let mut port = store.traveller(which)?;
    let entry = port.entry()?;
    match place(nl, &port, &entry)? {
        // With clsact it may be somebody else, who has its number.
        Place::Here(parent) if port.parent_index()?.is_some() || parent.mac == Some(entry.mac) => {
            settle(nl, locked, which, port, &parent)?;
        }
        Place::Gone => bury(nl, locked, which, port)?,
        Place::Elsewhere(index) => {
            let heard = who.heard.as_deref_mut();
            return match find(nl, &port, index, &entry, heard)? {
                Some(ns) => hand_over(locked, which, port, &ns, index, who.agent),
                None => {
                    wait(nl, store, which, &mut port)?;
                    Ok(Away::Lost)
                }
            };
        }
        Place::Here(_) | Place::Unknown => {
            // The agent is to be asked.
            let Some(heard) = &who.heard else {
                return Ok(Away::Perhaps);
            };
            match heard.moves.get(&entry.ifindex) {
                Some((id, Some(index))) => {
                    if let Some(ns) = find_by_mac(nl, *id, *index, &entry)? {
                        return hand_over(locked, which, port, &ns, *index, who.agent);
                    }
                }
                // It may still be on its way to us.
                None if !heard.missing.contains(&which.number()) => {
                    missing.push(which.number());
                    return Ok(Away::Perhaps);
                }
                Some((_, None)) | None => {}
            }
            bury(nl, locked, which, port)?;
        }
    }
    Ok(Away::None)
}

/// Fetches the ports whose parent has come here from a namespace in which nobody has seen yet
/// that it went. Returns whether there was one.
///
/// # Errors
///
/// One that [`Error::is_foreign`] when such a port is of a newer version; the others were fetched.
pub(crate) fn claim(nl: &mut Netlink, locked: &Locked) -> Result<bool, Error> {
    let here = locked.store().cookie();
    let (mut found, mut foreign) = (false, None);
    for store in Store::all() {
        if store.cookie() == here {
            continue;
        }
        let ports = store.ports().into_iter().map(Ok);
        let travelling = store.travelling().into_iter();
        let away = travelling.filter(|which| matches!(which, Travelling::Away(_)));
        for which in ports.chain(away.map(Err)) {
            let dir = match which {
                Ok(parent) => store.port_dir(parent),
                Err(away) => store.traveller_dir(away),
            };
            // What goes away while it is looked at is somebody else's business.
            let is_here = |nl: &mut Netlink| -> Option<bool> {
                let index = Port::parent_index_in(&dir).ok()??;
                let link = nl.link(index, None).ok()??;
                Port::is_parent_in(&dir, &link.name).ok()
            };
            if is_here(nl) != Some(true) {
                continue;
            }
            let Some(theirs) = store.lock_soon()? else {
                continue;
            };
            if is_here(nl) == Some(true) {
                if let Err(error) = Port::open(&dir)
                    && error.is_foreign()
                {
                    foreign = Some(error);
                    continue;
                }
                // Nobody but its own agent, of the older version, was concerned with it.
                takeover::bring_up(&theirs, &dir)?;
                let mut port = Port::open(&dir)?;
                if let Some(ns) = NetNs::by_cookie(store.cookie()) {
                    let entry = port.entry()?;
                    ns.enter(|| forget_routes(&mut Netlink::open()?, &entry))??;
                }
                port.silence()?;
                let away = match which {
                    Ok(parent) => theirs.send_away(parent)?,
                    Err(away) => away,
                };
                let _: Travelling = theirs.pass_on(away, locked)?;
                found = true;
            }
            theirs.release();
        }
    }
    foreign.map_or(Ok(found), |error| Err(error.into()))
}

/// The rules and routes for the devices in the namespace that the parent has left (l3s). Its own
/// settings did not go along.
fn forget_routes(nl: &mut Netlink, entry: &PortEntry) -> Result<(), Error> {
    if !routing::concerns(entry) {
        return Ok(());
    }
    let table = routing::table(entry.ifindex);
    for family in Family::ALL {
        for rule in nl.rules(family)? {
            if rule.table == table {
                nl.delete_rule(&rule)?;
            }
        }
    }
    Ok(())
}

/// The host ends of a travelling port in the namespace of `nl`, and their slots.
fn host_ends(
    nl: &mut Netlink,
    store: &Store,
    which: Travelling,
    port: &Port,
) -> Result<Vec<(Link, u32)>, Error> {
    let devs = port.devs()?;
    let is_known_here = |link: &Link| {
        let mut ports = store.ports().into_iter();
        ports.any(|parent| {
            let devs = store.port(parent).and_then(|port| Ok(port.devs()?));
            devs.is_ok_and(|devs| devs.contains_key(&link.index))
        })
    };
    let slot_of = |link: &Link| {
        let on_the_way = link.alias.as_deref().and_then(parse_alias_on_the_way);
        if let Some((number, slot)) = on_the_way {
            return (number == which.number()).then_some(slot);
        }
        if link.tap.is_some() {
            let dev = devs.get(&link.index)?;
            return (dev.bits & DEV_TAP != 0 && !is_known_here(link)).then_some(dev.slot);
        }
        let (parent, slot) = parse_host_name(&link.name)?;
        // Of two ports that have a host end of this index and slot, it is the one's that it is
        // named after.
        let is_ours = devs.get(&link.index).is_some_and(|dev| dev.slot == slot)
            && !store.port_dir(parent).exists();
        is_ours.then_some(slot)
    };
    let links = nl.links(None)?;
    Ok(links
        .into_iter()
        .filter(|link| link.kind.as_deref() == Some("veth") || link.tap.is_some())
        .filter_map(|link| slot_of(&link).map(|slot| (link, slot)))
        .collect())
}

/// The namespace that the parent is in, if it can be entered.
fn find(
    nl: &mut Netlink,
    port: &Port,
    index: u32,
    entry: &PortEntry,
    heard: Option<&mut Heard>,
) -> Result<Option<NetNs>, Error> {
    let is_there = |ns: &NetNs| -> Result<bool, Error> {
        ns.enter(|| {
            let link = Netlink::open()?.link(index, None)?;
            Ok(link.is_some_and(|link| is_parent(port, &link)))
        })?
    };
    if let Some(heard) = heard {
        if let Some((id, _)) = heard.moves.get(&entry.ifindex)
            && let Some(ns) = netns::Finder::default().find(nl, *id)?
            && is_there(&ns).unwrap_or(false)
        {
            return Ok(Some(ns));
        }
        if heard.searched.is_some_and(|then| then.elapsed() < SEARCH) {
            return Ok(None);
        }
        heard.searched = Some(Instant::now());
    }
    // One that dies meanwhile is not it.
    Ok(netns::all()
        .into_iter()
        .map(|(_, ns)| ns)
        .find(|ns| is_there(ns).unwrap_or(false)))
}

/// The same with clsact: as it was heard, and the address is right.
fn find_by_mac(
    nl: &mut Netlink,
    id: Nsid,
    index: u32,
    entry: &PortEntry,
) -> Result<Option<NetNs>, Error> {
    let Some(ns) = netns::Finder::default().find(nl, id)? else {
        return Ok(None);
    };
    let link = ns.enter(|| Netlink::open()?.link(index, None))??;
    Ok(link
        .is_some_and(|link| link.mac == Some(entry.mac))
        .then_some(ns))
}

/// The devices of a parent that nobody can follow are told that there is no wire.
fn wait(nl: &mut Netlink, store: &Store, which: Travelling, port: &mut Port) -> Result<(), Error> {
    let devs = port.devs()?;
    for (link, _) in host_ends(nl, store, which, port)? {
        match link.tap {
            None if link.is_up() => nl.set_link(link.index, &up(false))?,
            Some(_) if link.has_carrier() => {
                if let Some(dev) = devs.get(&link.index) {
                    port.set_dev(link.index, muted(*dev, &link))?;
                }
                nl.set_link(link.index, &without_carrier())?;
            }
            None | Some(_) => {}
        }
    }
    Ok(())
}

fn without_carrier() -> LinkChange {
    LinkChange {
        carrier: Some(false),
        ..LinkChange::default()
    }
}

fn up(up: bool) -> LinkChange {
    LinkChange {
        up: Some(up),
        ..LinkChange::default()
    }
}

/// Passes a port on to the namespace `ns`, where its parent has this index.
fn hand_over(
    locked: &Locked,
    which: Travelling,
    mut port: Port,
    ns: &NetNs,
    index: u32,
    agent: bool,
) -> Result<Away, Error> {
    let store = locked.store();
    let Some(there) = Store::of(ns.cookie()?).lock_soon()? else {
        return Ok(Away::Perhaps);
    };
    // With clsact nothing else tells, there.
    let entry = port.entry()?;
    port.set_entry(PortEntry {
        ifindex: index,
        ..entry
    })?;
    drop(port);
    let _: Travelling = locked.pass_on(which, &there)?;
    let done = ns.enter(|| {
        let mut nl = Netlink::open()?;
        reconcile_arrivals(&mut nl, &there, agent)
    })?;
    log::info!(
        "a parent went from network namespace {:x} to {:x}, and its devices with it",
        store.cookie(),
        there.store().cookie()
    );
    // Also where it is no longer by now: somebody has to look for it.
    let lacks_agent = !there.is_empty() && !there.store().has_agent();
    there.release();
    done?;
    if agent && lacks_agent {
        ns.enter(agent::start)??;
    }
    Ok(Away::None)
}

/// The host ends of a port that has come here follow it from where it came from. That of which the
/// namespace is gone are gone, too.
fn fetch(locked: &Locked, which: Travelling, source: u64) -> Result<(), Error> {
    let store = locked.store();
    let port = store.traveller(which)?;
    let here = NetNs::current()?;
    if let Some(source) = NetNs::by_cookie(source) {
        let left = Store::of(source.cookie()?);
        source.enter(|| -> Result<(), Error> {
            let mut nl = Netlink::open()?;
            let devs = port.devs()?;
            for (link, slot) in host_ends(&mut nl, &left, which, &port)? {
                // One that was given up half-way does not start to live elsewhere.
                if devs
                    .get(&link.index)
                    .is_some_and(|dev| dev.slot == slot && dev.bits & DEV_READY == 0)
                {
                    nl.delete_link(link.index)?;
                    continue;
                }
                if link.tap.is_some() {
                    send_tap(&mut nl, &link, which.number(), slot, &here)?;
                    continue;
                }
                let told = LinkChange {
                    alias: Some(alias_on_the_way(which.number(), slot)),
                    ..LinkChange::default()
                };
                nl.set_link(link.index, &told)?;
                nl.move_link(link.index, here.as_fd(), Some(ON_THE_WAY))?;
            }
            Ok(())
        })??;
    }
    let _: Travelling = locked.arrived(which)?;
    Ok(())
}

/// Sends a tap after its parent, under the name that its user gave it.
fn send_tap(
    nl: &mut Netlink,
    link: &Link,
    number: u64,
    slot: u32,
    to: &NetNs,
) -> Result<(), Error> {
    // Once: what it was told before says what it looked like.
    if link.alias.as_deref().and_then(parse_before).is_none() {
        let told = LinkChange {
            alias: Some(tap_alias_on_the_way(number, slot, link)),
            ..LinkChange::default()
        };
        nl.set_link(link.index, &told)?;
    }
    match nl.move_link(link.index, to.as_fd(), None) {
        Err(error) if error.errno() == Errno::EEXIST => {
            log::warn!(
                "\"{}\" follows its parent to a network namespace where the name is taken",
                link.name
            );
            Ok(nl.move_link(link.index, to.as_fd(), Some(ON_THE_WAY))?)
        }
        done => Ok(done?),
    }
}

/// The parent is here, and all host ends that are left: it is a port of this namespace.
fn settle(
    nl: &mut Netlink,
    locked: &Locked,
    which: Travelling,
    mut port: Port,
    parent: &Link,
) -> Result<(), Error> {
    let entry = port.entry()?;
    let devs = port.devs()?;
    let (mut ready, mut taps) = (BTreeMap::new(), Vec::new());
    for (link, slot) in host_ends(nl, locked.store(), which, &port)? {
        // By slot: it may have got another index on its way.
        let known = devs.values().find(|dev| dev.slot == slot).copied();
        // What was told to follow was whole.
        let mut dev = known.unwrap_or(DevEntry {
            slot,
            bits: DEV_READY,
            carrier_downs: carrier_downs(&link),
        });
        if link.tap.is_some() {
            dev.bits |= DEV_TAP;
            if !link.has_carrier() {
                // Perhaps by our doing.
                dev.bits |= DEV_MUTED;
            }
            let before = link.alias.as_deref().and_then(parse_before);
            taps.extend(before.map(|before| (link.index, link.name.clone(), before)));
        }
        let _: Option<_> = ready.insert(link.index, (link.name, dev));
    }
    let entry = PortEntry {
        ifindex: parent.index,
        // The others say what was changed in the namespace that it left.
        bits: entry.bits & (PORT_ALLMULTI | PORT_SET_TYPE),
        ..entry
    };
    port.renumber(&parent.name, entry, &ready)?;
    // IPv6 on what has come here is a new one, with all that this namespace gives to new ones.
    for (index, name, before) in taps {
        keep_quiet(nl, index, &name)?;
        let change = LinkChange {
            up: Some(before.up),
            alias: Some(before.alias),
            ..LinkChange::default()
        };
        nl.set_link(index, &change)?;
    }
    for (index, (name, dev)) in ready {
        if dev.bits & DEV_TAP != 0 {
            continue;
        }
        keep_quiet(nl, index, &name)?;
        let wanted = host_name(parent.index, dev.slot);
        let mut change = LinkChange {
            alias: Some(alias(parent)?),
            ..LinkChange::default()
        };
        if name != wanted {
            // Before Linux 6.2 a name is changed only of what is down.
            nl.set_link(index, &up(false))?;
            change.name = Some(wanted);
        }
        nl.set_link(index, &change)?;
    }
    locked.settle(which, parent.index)
}

/// The parent of a port that is away was deleted, so its devices go.
fn bury(nl: &mut Netlink, locked: &Locked, which: Travelling, port: Port) -> Result<(), Error> {
    for (link, _) in host_ends(nl, locked.store(), which, &port)? {
        nl.delete_link(link.index)?;
    }
    Ok(port.remove(None)?)
}
