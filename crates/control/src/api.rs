//! What a user can ask for: the verbs behind the command line.

use std::net::IpAddr;

use ipnet::IpNet;
use ipvlan_abi::{DEV_LEARN, DEV_TAP, DevEntry, DropReason, Flag, Mode};
use ipvlan_datapath_bpf::Port;
use ipvlan_netlink::{IfName, Link, Mac, NetNs, Netlink, TapSettings};

use crate::error::Error;
use crate::reconcile::{reconcile, reconcile_if_any};
use crate::routing::remark;
use crate::show::{Origin, show};
use crate::store::Store;
use crate::takeover::take_over;

/// What a device is, by the driver's names.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Kind {
    /// For a network namespace.
    #[default]
    Ipvlan,
    /// For a virtual machine.
    Ipvtap,
}

impl Kind {
    /// The word that iproute2 uses.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Ipvlan => "ipvlan",
            Self::Ipvtap => "ipvtap",
        }
    }

    pub(crate) fn of(entry: DevEntry) -> Self {
        match entry.bits & DEV_TAP {
            0 => Self::Ipvlan,
            _ => Self::Ipvtap,
        }
    }
}

/// A device to be made.
#[derive(Debug)]
pub struct Create {
    /// Name of the parent in the calling thread's namespace.
    pub parent: String,
    /// The device's name, or a template with one `%d`; `None`: `ipvlan%d` or `ipvtap%d`, as the
    /// driver.
    pub name: Option<IfName>,
    /// It is an ipvtap, and who may open it. `None`: it is an ipvlan.
    pub tap: Option<TapSettings>,
    /// The addresses of the virtual machine behind an ipvtap are learnt.
    pub learning: bool,
    /// Mode of the port. `None`: the port's, or the driver's default l3 for the first device.
    /// Another mode than the port's changes the port, and so all of its devices.
    pub mode: Option<Mode>,
    /// Flag of the port. `None`: the port's, or bridge for the first device.
    pub flag: Option<Flag>,
    /// Bytes, 68 to 65535. `None`: the parent's.
    pub mtu: Option<u32>,
    /// Interface index that the device asks for.
    pub index: Option<u32>,
    /// Transmit queue length, packets.
    pub txqlen: Option<u32>,
    /// Number of transmit queues. More than one of an ipvtap: it can be opened once for each, at
    /// most 256.
    pub num_tx_queues: Option<u32>,
    /// Number of receive queues.
    pub num_rx_queues: Option<u32>,
    /// Namespace to put it in. `None`: the calling thread's. An ipvtap stays in its parent's.
    pub netns: Option<NetNs>,
    /// Whether it is to be up at once.
    pub up: bool,
    /// Whether to start an agent when none runs for this namespace.
    pub agent: bool,
}

/// What to change of a port, by way of one of its devices.
#[derive(Clone, Copy, Debug, Default)]
pub struct Change {
    /// The new mode, if any.
    pub mode: Option<Mode>,
    /// The new flag, if any.
    pub flag: Option<Flag>,
}

/// Where a device lives, as seen from the calling thread's namespace.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Place {
    /// In this namespace.
    Here,
    /// In another one, with this name under /run/netns.
    Named(String),
    /// In another one, without a name, and with this id (`link-netnsid`).
    Unnamed(i32),
}

/// A device as a user sees it.
#[derive(Clone, Debug)]
pub struct Shown {
    /// The device itself: name, flags, MAC, MTU, statistics, as the kernel has them where it lives.
    pub link: Link,
    /// What it is.
    pub kind: Kind,
    /// The MAC address of the virtual machine behind an ipvtap, once it was heard.
    pub guest: Option<Mac>,
    /// Where it lives. The parent may be elsewhere too, when one asks from within a container.
    pub place: Place,
    /// Name of its parent, where the parent lives.
    pub parent: String,
    /// The parent's interface index there.
    pub parent_index: u32,
    /// Where the parent lives.
    pub parent_place: Place,
    /// The host end's interface index, where the parent lives.
    pub host_index: u32,
    /// Mode of its port.
    pub mode: Mode,
    /// Flag of its port.
    pub flag: Flag,
    /// Number of the device within its port; the driver's `dev_id`.
    pub slot: u32,
    /// Addresses and prefixes that it owns: what is sent to them reaches it.
    pub owned: Vec<IpNet>,
    /// Addresses that it has but does not own, because somebody had them before.
    pub refused: Vec<IpAddr>,
    /// Whether the addresses of the virtual machine behind an ipvtap are learnt.
    pub learning: bool,
    /// Addresses and prefixes that it has by hand, and owns while it is up.
    pub granted: Vec<IpNet>,
    /// What DHCP servers know it by instead of the MAC address that all share; in l2 only.
    pub dhcp_identity: Option<[u8; 6]>,
    /// Frames of this device that died, by reason. Only reasons that happened.
    pub drops: Vec<(DropReason, u64)>,
}

/// A port as a user sees it, by its parent.
#[derive(Clone, Debug)]
pub struct ShownPort {
    /// The parent.
    pub parent: Link,
    /// Mode of its devices.
    pub mode: Mode,
    /// Flag of its devices.
    pub flag: Flag,
    /// Frames from the wire that died, by reason. Only reasons that happened.
    pub drops: Vec<(DropReason, u64)>,
}

/// Deletes the device `name` of the calling thread's namespace.
///
/// # Errors
///
/// See [`Error`]; [`Error::NotOurs`] when it is something else.
pub fn delete(name: &str) -> Result<(), Error> {
    let mut nl = Netlink::open()?;
    let (link, origin) = find(&mut nl, name)?;
    // The other end goes with it, and with that end whatever holds on to it.
    nl.delete_link(link.index)?;
    // A container that deletes its device may not be where the parent is; there, the agent sees it.
    if origin.nsid.is_none() {
        reconcile_if_any(&mut nl)?;
    }
    Ok(())
}

/// Changes mode or flag of a port. `name` is one of its devices, which has to be of this kind, in the
/// calling thread's namespace or, if the parent is here, wherever it lives; or the parent.
///
/// # Errors
///
/// See [`Error`]; [`Error::Permission`] when the parent is in a namespace that cannot be entered.
pub fn change(name: &str, kind: Kind, change: Change) -> Result<(), Error> {
    let mut nl = Netlink::open()?;
    let (parent, place) = match find(&mut nl, name) {
        Ok((_, origin)) => {
            expect_kind(name, origin.kind, kind)?;
            (origin.parent, origin.elsewhere())
        }
        Err(error) => (find_port(&mut nl, name, kind)?.ok_or(error)?, None),
    };
    let Some(place) = place else {
        return change_here(&mut nl, parent, change);
    };
    let home = place.find(&mut nl)?.ok_or_else(|| {
        Error::Permission(format!(
            "mode and flag belong to all devices of a parent, and the parent of \"{name}\" is in \
             another network namespace; change them there"
        ))
    })?;
    home.enter(|| change_here(&mut Netlink::open()?, parent, change))?
}

/// The same, where the parent is.
fn change_here(nl: &mut Netlink, parent: u32, change: Change) -> Result<(), Error> {
    let store = Store::current()?;
    let gone = || Error::NoDevice(format!("if{parent}"));
    take_over(&store)?;
    let locked = store.lock_existing()?.ok_or_else(gone)?;
    let done = store
        .port(parent)
        .and_then(|mut port| set_port(&mut port, change))
        .and_then(|()| reconcile(nl, &locked));
    locked.release();
    done?;
    if let (Some(mode), Some(parent)) = (change.mode, nl.link(parent, None)?) {
        remark(mode, &parent);
    }
    Ok(())
}

/// Learns the addresses of the virtual machine behind the ipvtap `name` of the calling thread's
/// namespace from now on, or forgets them.
///
/// # Errors
///
/// See [`Error`]; [`Error::OtherKind`] when it is an ipvlan.
pub fn learn(name: &str, on: bool) -> Result<(), Error> {
    let mut nl = Netlink::open()?;
    let (_, origin) = find(&mut nl, name)?;
    expect_kind(name, origin.kind, Kind::Ipvtap)?;
    let store = Store::current()?;
    let gone = || Error::NoDevice(name.to_owned());
    let locked = store.lock_existing()?.ok_or_else(gone)?;
    let done = store.port(origin.parent).and_then(|mut port| {
        let entry = port.devs()?.remove(&origin.host_index).ok_or_else(gone)?;
        let bits = match on {
            true => entry.bits | DEV_LEARN,
            false => entry.bits & !DEV_LEARN,
        };
        port.set_dev(origin.host_index, DevEntry { bits, ..entry })?;
        reconcile(&mut nl, &locked)
    });
    locked.release();
    done
}

fn expect_kind(name: &str, found: Kind, wanted: Kind) -> Result<(), Error> {
    match found == wanted {
        true => Ok(()),
        false => Err(Error::OtherKind {
            name: name.to_owned(),
            found,
            wanted,
        }),
    }
}

/// The port whose parent is called `name`, or that has a device of this name elsewhere.
fn find_port(nl: &mut Netlink, name: &str, kind: Kind) -> Result<Option<u32>, Error> {
    let devices = show()?;
    if let Some(device) = devices.iter().find(|device| device.link.name == name)
        && !devices.iter().any(|device| device.parent == name)
    {
        expect_kind(name, device.kind, kind)?;
    }
    let mut parents: Vec<u32> = devices
        .iter()
        .filter(|device| device.parent_place == Place::Here)
        .filter(|device| device.link.name == name || device.parent == name)
        .map(|device| device.parent_index)
        .collect();
    parents.sort_unstable();
    parents.dedup();
    match parents[..] {
        [] => Ok(None),
        [one] => Ok(Some(one)),
        // Devices of one name in several namespaces, on several parents.
        _ => {
            let names: Vec<String> = parents
                .iter()
                .filter_map(|parent| Some(nl.link(*parent, None).ok()??.name))
                .collect();
            Err(Error::Ambiguous {
                name: name.to_owned(),
                parents: names.join(", "),
            })
        }
    }
}

/// Writes mode and flag; the devices follow by [`reconcile`].
pub(crate) fn set_port(port: &mut Port, change: Change) -> Result<(), Error> {
    let mut entry = port.entry()?;
    entry.mode = change.mode.map_or(entry.mode, |mode| mode as u8);
    entry.flag = change.flag.map_or(entry.flag, |flag| flag as u8);
    if entry != port.entry()? {
        port.set_entry(entry)?;
    }
    Ok(())
}

/// The device `name` of this namespace, if it is one of ours.
pub(crate) fn find(nl: &mut Netlink, name: &str) -> Result<(Link, Origin), Error> {
    let link = nl
        .link_by_name(name)?
        .ok_or_else(|| Error::NoDevice(name.to_owned()))?;
    match Origin::of(nl, &link)? {
        Some(origin) => Ok((link, origin)),
        None => Err(Error::NotOurs {
            name: name.to_owned(),
            kind: link
                .kind
                .unwrap_or_else(|| "a device without a kind".to_owned()),
        }),
    }
}
