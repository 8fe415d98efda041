//! Making a device.
//!
//! In an order in which it can be given up at every point, by an error or by SIGKILL:
//!
//! 1. The port, in a directory of its own that gets its name when it is whole.
//! 2. The pair of links, both down. The host end's name says whose it is.
//! 3. The entry in `devs`, without `DEV_READY`.
//! 4. The program at the host end, then the slot, then what the links still need.
//! 5. `DEV_READY`. From here on it exists; before, reconcile undoes it.
//! 6. Up.
//!
//! A tap (`type ipvtap`) is one link in the place of two, under the name that it is to have: until it
//! is told to stay, just before `DEV_READY`, it goes with whoever makes it.

use std::collections::BTreeSet;
use std::os::fd::AsFd as _;

use ipvlan_abi::{
    DEV_LEARN, DEV_READY, DEV_TAP, DevEntry, Flag, MAX_DEVS, Mode, PortEntry, identity_of,
};
use ipvlan_datapath_bpf::{Capacity, Port};
use ipvlan_netlink::netns::current_cookie;
use ipvlan_netlink::{
    AddrGenMode, IfName, Link, LinkChange, NetNs, Netlink, NewTap, Tap, TapSettings, VethPair,
};
use nix::errno::Errno;

use crate::agent;
use crate::api::{Change, Create, set_port};
use crate::apply::{change_device, keep_quiet};
use crate::error::Error;
use crate::handover;
use crate::observe::{host_name, parse_host_name};
use crate::reconcile::{reconcile, sweep_dead_namespaces};
use crate::routing::remark;
use crate::show::{Origin, alias};
use crate::store::{Locked, Store};
use crate::takeover::take_over;

/// The host end takes frames of any length that the device may send: the device's own MTU, which
/// can be changed at any time, is the limit.
const HOST_MTU: u32 = 65_535;
/// With less there is no IPv6 on it (`IPV6_MIN_MTU`), so that it has nothing to do with groups before
/// it is told not to: on a host that is a router it would join the routers', and tell the device so.
const FIRST_HOST_MTU: u32 = 1279;
const ARPHRD_ETHER: u16 = 1;
const IFF_LOOPBACK: u32 = 0x8;
const DEFAULT_NAME: &str = "ipvlan%d";
const DEFAULT_TAP_NAME: &str = "ipvtap%d";

impl Create {
    fn name_or_default(&self) -> &str {
        let default = match self.tap {
            None => DEFAULT_NAME,
            Some(_) => DEFAULT_TAP_NAME,
        };
        let name = self.name.as_ref();
        name.map_or(default, |name| name.as_str())
    }
}

/// Makes a device.
///
/// # Errors
///
/// See [`Error`]; nothing is left half-made. [`Error::Agent`] is the one exception: the device
/// exists, but nobody follows its addresses.
pub fn create(create: &Create) -> Result<(), Error> {
    let mut nl = Netlink::open()?;
    let link = nl.link_by_name(&create.parent)?;
    let origin = link.map(|link| Origin::of(&mut nl, &link)).transpose()?;
    let origin = origin.flatten();
    let place = origin.as_ref().and_then(Origin::elsewhere);
    let (Some(Origin { parent, .. }), Some(place)) = (origin, place) else {
        return create_here(create);
    };
    // As in the driver, a device stands for its parent, wherever that is.
    let home = place.find(&mut nl)?.ok_or_else(|| {
        Error::Permission(format!(
            "the parent of \"{}\" is in another network namespace; make the device there",
            create.parent
        ))
    })?;
    let netns = match &create.netns {
        Some(ns) => ns.try_clone()?,
        None => NetNs::current()?,
    };
    home.enter(|| {
        let parent = Netlink::open()?.link(parent, None)?;
        let parent = parent.ok_or_else(|| Error::NoDevice(create.parent.clone()))?;
        create_here(&Create {
            parent: parent.name,
            name: create.name.clone(),
            netns: Some(netns),
            ..*create
        })
    })?
}

/// The same, where the parent is.
fn create_here(create: &Create) -> Result<(), Error> {
    take_over(&Store::current()?)?;
    let made = create_device(create);
    if !create.agent {
        return made;
    }
    // Also when this one was not made: the others may have lost their agent.
    let followed = start_agent_if_needed();
    made.and(followed)
}

fn start_agent_if_needed() -> Result<(), Error> {
    let store = Store::current()?;
    if store.ports().is_empty() || store.has_agent() {
        return Ok(());
    }
    sweep_dead_namespaces();
    agent::start()
}

fn create_device(create: &Create) -> Result<(), Error> {
    let mut nl = Netlink::open()?;
    let parent = parent(&mut nl, &create.parent)?;
    refuse_reserved_name(create)?;
    let store = Store::current()?;
    if let Err(taken) = refuse_taken_name(&mut nl, create) {
        // Perhaps it is half-made, by a call that was killed.
        let locked = store.lock_existing()?.ok_or(taken)?;
        let tidied = reconcile(&mut nl, &locked);
        locked.release();
        refuse_taken_name(&mut nl, create)?;
        tidied?;
    }
    let locked = store.lock()?;
    let mut made = create_locked(&mut nl, &locked, &parent, create);
    let is_taken = |error: &Error| error.errno() == Some(Errno::EEXIST);
    if made.as_ref().is_err_and(is_taken) {
        // An index, or the name of a host end, by such a call whose port knows nothing of it; an agent
        // may not have looked yet.
        reconcile(&mut nl, &locked)?;
        made = create_locked(&mut nl, &locked, &parent, create);
    }
    let made = made.map_err(explain);
    // With an agent it is the agent who looks at everything; without one, nobody else will.
    let settled = if made.is_err() || !store.has_agent() {
        reconcile(&mut nl, &locked)
    } else {
        Ok(())
    };
    if made.is_ok()
        && let Some(mode) = create.mode
    {
        remark(mode, &parent);
    }
    locked.release();
    made?;
    if let Err(error) = settled {
        // The device is whole. What is not as it should be was not so before, or is another's.
        log::warn!("{error}");
    }
    Ok(())
}

/// Says what the kernel lacks, where its answer is a mere number.
fn explain(error: Error) -> Error {
    let Some(errno) = error.errno() else {
        return match error {
            Error::Datapath(error @ ipvlan_datapath_bpf::Error::TooOld { .. }) => {
                Error::Kernel(error.to_string())
            }
            error => error,
        };
    };
    match (&error, errno) {
        (Error::Datapath(_), Errno::ENOSYS) => {
            Error::Kernel("it has no bpf(2); it needs CONFIG_BPF_SYSCALL".into())
        }
        (Error::Datapath(_), Errno::EPERM) => {
            Error::Permission("cannot load eBPF; run as root (CAP_BPF, CAP_NET_ADMIN)".into())
        }
        (Error::Datapath(ipvlan_datapath_bpf::Error::Clsact { .. }), Errno::ENOENT) => {
            Error::Kernel("it has no clsact; it needs CONFIG_NET_SCH_INGRESS".into())
        }
        (Error::Netlink(_), Errno::EOPNOTSUPP) => {
            Error::Kernel("it has no veth devices; it needs CONFIG_VETH".into())
        }
        _ => error,
    }
}

/// The parent: Ethernet, not loopback; the driver's own test (`ipvlan_port_create()`). A parent that
/// is a device of ours stands for its own parent, as in the driver.
fn parent(nl: &mut Netlink, name: &str) -> Result<Link, Error> {
    let link = nl
        .link_by_name(name)?
        .ok_or_else(|| Error::NoDevice(name.to_owned()))?;
    let bad = |what| {
        Err(Error::BadParent {
            name: name.to_owned(),
            what,
        })
    };
    if link.flags & IFF_LOOPBACK != 0 {
        return bad("the loopback device");
    }
    if link.kind.as_deref() == Some("vrf") {
        return bad("a VRF");
    }
    if link.layer_type != ARPHRD_ETHER {
        return bad("a device without MAC addresses");
    }
    match Origin::of(nl, &link)? {
        None => Ok(link),
        Some(Origin {
            nsid: None, parent, ..
        }) => nl
            .link(parent, None)?
            .ok_or_else(|| Error::NoDevice(name.to_owned())),
        Some(_) => bad("an ipvlan device whose parent is in another network namespace"),
    }
}

fn refuse_reserved_name(create: &Create) -> Result<(), Error> {
    match create.name.as_ref().map(IfName::as_str) {
        Some(name) if parse_host_name(name).is_some() => Err(Error::ReservedName(name.to_owned())),
        _ => Ok(()),
    }
}

fn refuse_taken_name(nl: &mut Netlink, create: &Create) -> Result<(), Error> {
    let Some(name) = create.name.as_ref().filter(|name| !name.is_template()) else {
        return Ok(());
    };
    let taken = match &create.netns {
        None => nl.link_by_name(name.as_str())?,
        Some(ns) => ns.enter(|| Netlink::open()?.link_by_name(name.as_str()))??,
    };
    match taken {
        Some(_) => Err(Error::Exists(name.to_string())),
        None => Ok(()),
    }
}

fn create_locked(
    nl: &mut Netlink,
    locked: &Locked,
    parent: &Link,
    create: &Create,
) -> Result<(), Error> {
    if !locked.store().has_agent() {
        reconcile(nl, locked)?;
    }
    // It may have come here a moment ago, and its port be filed elsewhere still.
    if !locked.store().port_dir(parent.index).exists() && handover::claim(nl, locked)? {
        reconcile(nl, locked)?;
    }
    let mut port = port(locked, parent, create)?;
    let slot = free_slot(&port, parent)?;
    let (host, tap) = match create.tap {
        None => (make_links(nl, &port, parent, slot, create)?, None),
        Some(settings) => {
            let (host, tap) = make_tap(nl, settings, create)?;
            (host, Some(tap))
        }
    };
    let bits = match (&tap, create.learning) {
        (None, _) => 0,
        (Some(_), false) => DEV_TAP,
        (Some(_), true) => DEV_TAP | DEV_LEARN,
    };
    let mut dev = DevEntry {
        slot,
        bits,
        // We close it ourselves, at the end.
        carrier_downs: tap.is_some().into(),
    };
    port.set_dev(host.index, dev)?;
    port.attach_device(&host.name, host.index, tap.is_some())?;
    port.set_member(slot, host.index)?;
    let mut entry = port.entry()?;
    entry.members = entry.members.max(slot + 1);
    port.set_entry(entry)?;
    let host_change = match tap {
        None => LinkChange {
            alias: Some(alias(parent)?),
            mtu: Some(HOST_MTU),
            ..LinkChange::default()
        },
        Some(_) => LinkChange {
            mac: parent.mac,
            mtu: Some(create.mtu.unwrap_or(parent.mtu)),
            txqlen: create.txqlen,
            noarp: Some(create.mode.unwrap_or(port.entry()?.mode()).is_l3()),
            ..LinkChange::default()
        },
    };
    change_device(nl, host.index, &host_change)?;
    keep_quiet(nl, host.index, &host.name)?;
    if tap.is_none() {
        in_place(
            nl,
            create,
            &host,
            LinkChange {
                addr_gen_mode: Some(AddrGenMode::Random),
                ..LinkChange::default()
            },
        )?;
        let up = parent.is_up() && parent.has_carrier();
        nl.set_link(
            host.index,
            &LinkChange {
                up: Some(up),
                ..LinkChange::default()
            },
        )?;
    }
    // The other devices change only when nothing can go wrong with this one any more.
    let change = Change {
        mode: create.mode,
        flag: create.flag,
    };
    set_port(&mut port, change)?;
    if let Some(tap) = tap {
        tap.keep()?;
    }
    dev.bits |= DEV_READY;
    port.set_dev(host.index, dev)?;
    if create.up {
        in_place(
            nl,
            create,
            &host,
            LinkChange {
                up: Some(true),
                ..LinkChange::default()
            },
        )?;
    }
    Ok(())
}

/// The port of the parent, made if this is its first device.
fn port(locked: &Locked, parent: &Link, create: &Create) -> Result<Port, Error> {
    let store = locked.store();
    if store.port_dir(parent.index).exists() {
        return store.port(parent.index);
    }
    let entry = PortEntry {
        abi: 0,
        ifindex: parent.index,
        members: 0,
        mtu: parent.mtu,
        mac: parent.mac.unwrap_or_default(),
        // The driver's default (`ipvlan_link_new()`).
        mode: create.mode.unwrap_or(Mode::L3) as u8,
        flag: create.flag.unwrap_or(Flag::Bridge) as u8,
        bits: 0,
        identity: identity_of(parent.mac.unwrap_or_default()),
    };
    let dir = locked.new_port_dir();
    let port = Port::create(&dir, &parent.name, entry, Capacity::default())?;
    drop(port);
    locked.adopt(&dir, parent.index)
}

fn free_slot(port: &Port, parent: &Link) -> Result<u32, Error> {
    let taken: BTreeSet<u32> = port.devs()?.values().map(|dev| dev.slot).collect();
    (0..MAX_DEVS)
        .find(|slot| !taken.contains(slot))
        .ok_or_else(|| Error::Full {
            parent: parent.name.clone(),
            max: MAX_DEVS,
        })
}

/// The pair. Returns the host end.
fn make_links(
    nl: &mut Netlink,
    port: &Port,
    parent: &Link,
    slot: u32,
    create: &Create,
) -> Result<Link, Error> {
    let host = host_name(parent.index, slot);
    let noarp = create.mode.unwrap_or(port.entry()?.mode()).is_l3();
    // The kernel gives the peer an index of our choice only if the host end has one, too.
    let host_index = match create.index {
        None => None,
        Some(wanted) => free_index(&nl.links(None)?, wanted),
    };
    let made = nl.create_veth(&VethPair {
        host_index,
        host_mtu: Some(FIRST_HOST_MTU),
        host_multicast: false,
        dev_noarp: noarp,
        dev_netns: create.netns.as_ref().map(|ns| ns.as_fd()),
        dev_index: create.index,
        dev_txqlen: create.txqlen,
        dev_num_tx_queues: create.num_tx_queues,
        dev_num_rx_queues: create.num_rx_queues,
        ..VethPair::new(
            &host,
            create.name_or_default(),
            parent.mac.unwrap_or_default(),
            create.mtu.unwrap_or(parent.mtu),
        )
    });
    match made {
        // Of an index that is taken, a pair says EBUSY, and any other link EEXIST.
        Err(error) if create.index.is_some() && error.errno() == Errno::EBUSY => {
            Err(Error::Exists(create.name_or_default().to_owned()))
        }
        other => Ok(other?),
    }?;
    nl.link_by_name(&host)?.ok_or(Error::NoDevice(host))
}

/// The tap, and its link.
fn make_tap(
    nl: &mut Netlink,
    settings: TapSettings,
    create: &Create,
) -> Result<(Link, Tap), Error> {
    if let Some(ns) = &create.netns
        && ns.cookie()? != current_cookie()?
    {
        return Err(Error::TapElsewhere);
    }
    let name = create.name_or_default();
    let new = NewTap {
        name: &IfName::template(name).map_err(|_| Error::NoDevice(name.to_owned()))?,
        index: create.index,
        multi_queue: [create.num_tx_queues, create.num_rx_queues]
            .into_iter()
            .flatten()
            .any(|queues| queues > 1),
        owner: settings.owner,
        group: settings.group,
    };
    let tap = Tap::create(&new).map_err(|error| match error.errno() {
        Errno::EBUSY => Error::Exists(name.to_owned()),
        Errno::ENOENT => Error::Kernel(
            "there is no /dev/net/tun; `modprobe tun` makes it, or in a container \
             `mkdir -p /dev/net && mknod /dev/net/tun c 10 200`"
                .into(),
        ),
        Errno::ENODEV | Errno::ENXIO => {
            Error::Kernel("it has no tap devices; it needs CONFIG_TUN (`modprobe tun`)".into())
        }
        _ => error.into(),
    })?;
    let link = nl.link_by_name(tap.name())?;
    let link = link.ok_or_else(|| Error::NoDevice(tap.name().to_owned()))?;
    Ok((link, tap))
}

/// An index for a host end: the next one, or the lowest that is free where there is no next.
fn free_index(links: &[Link], wanted: u32) -> Option<u32> {
    const MAX: u32 = i32::MAX.cast_unsigned();
    let taken = links.iter().map(|link| link.index).chain([wanted]);
    let taken: BTreeSet<u32> = taken.collect();
    match taken.last() {
        Some(&MAX) => (1..MAX).find(|index| !taken.contains(index)),
        Some(last) => Some(last + 1),
        None => None,
    }
}

/// Changes the device behind a host end, where it was put.
fn in_place(
    nl: &mut Netlink,
    create: &Create,
    host: &Link,
    change: LinkChange,
) -> Result<(), Error> {
    if create.tap.is_some() {
        return change_device(nl, host.index, &change);
    }
    let Some(index) = host.link else {
        return Ok(());
    };
    match &create.netns {
        None => change_device(nl, index, &change),
        Some(ns) => ns.enter(|| change_device(&mut Netlink::open()?, index, &change))?,
    }
}
