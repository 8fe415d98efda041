//! Taking over what an older version of ipvlan runs, while frames go on.
//!
//! ```text
//! 3/  port of version N, in use                  3/     as it was
//!                                  renew ──►     new/   maps that are the same in both versions, by
//!                                                       another name; the others, filled from the
//!                                                       old ones; programs; links, by another name
//!                                  exchange ──►  3/ and new/ change names; 3/ says "unfinished"
//!                                                new/   goes
//! exchange_programs ──►  at each interface the new program in the place of the old one
//! finish ──►             3/ does not say it any more
//! ```
//!
//! Whoever is killed before the exchange leaves a directory that the next call throws away, and after
//! it a port that says what is to be done: to exchange programs twice changes nothing. All the time
//! each interface has one of the two programs, and each program all of its maps. The owners of
//! addresses are in maps that both have.
//!
//! A program is replaced between two frames: `BPF_LINK_UPDATE` of a tcx link, or a new filter under the
//! handle and priority of the old one (`cls_bpf_change()`). The parent's first: it must know what
//! comes back for what the devices' new program has sent.
//!
//! What a version keeps in maps that are not pinned (`FLOODS`, `CLIENTS`) begins anew. Drops are
//! counted on in the map that has counted them.
//!
//! Limits: with clsact the programs of a port that is on its way to another namespace stay the old
//! ones until it has arrived, where they are attached anew anyway.
//!
//! All that older versions did differently is here: [`CHANGED`], and [`Old::read`].

use std::fs;
use std::net::{IpAddr, Ipv6Addr};
use std::path::Path;

use aya::maps::{Array, HashMap, Map, MapData};
use aya::programs::SchedClassifier;
use ipvlan_abi::{ABI_UNFINISHED, ABI_VERSION, DEV_TAP, PortEntry, identity_of};
use nix::fcntl::{AT_FDCWD, RenameFlags, renameat2};
use nix::net::if_::if_indextoname;

use crate::attach::{Hook, Spot};
use crate::error::Error;
use crate::moved::{MOVING, pins};
use crate::pod::Raw;
use crate::port::{
    Capacity, DEVICE_LINK, MAPS, PARENT_INGRESS, PARENT_LINK, Port, SPOTS, file, map, of_program,
    open_map, remove_pins, spots,
};
use crate::sys::first_word;

/// The oldest version that can be taken over.
pub(crate) const OLDEST: u32 = 2;

/// The maps that a version has changed, in layout or meaning. Those of the others that an older
/// version has are gone on with as they are.
const CHANGED: [(u32, &[&str]); 1] = [(3, &["port", "grants", "programs"])];

/// Whose a port is, by version.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Age {
    /// An older version's, this one, and to be taken over.
    Older(u32),
    /// Ours.
    Current,
    /// Ours, but at some interfaces there may be programs of an older version.
    Unfinished,
    /// That of this version, newer than ours or too old to be taken over: nothing is to be done to it.
    Foreign(u32),
}

impl Port {
    /// Whose the port in `dir` is.
    ///
    /// # Errors
    ///
    /// [`Error::File`] when it is not whole.
    pub fn age(dir: &Path) -> Result<Age, Error> {
        let path = dir.join("port");
        let word = first_word(&path).map_err(|source| file("read", &path, source))?;
        Ok(match word & !ABI_UNFINISHED {
            ABI_VERSION if word == ABI_VERSION => Age::Current,
            ABI_VERSION => Age::Unfinished,
            older if (OLDEST..ABI_VERSION).contains(&older) => Age::Older(older),
            foreign => Age::Foreign(foreign),
        })
    }

    /// Puts maps and programs of this version in the place of an older one's; `beside` is a directory
    /// that does not exist, in the same bpffs. It takes [`Self::exchange_programs`] and
    /// [`Self::finish`] after it.
    ///
    /// # Errors
    ///
    /// [`Error::Abi`] when it is foreign. All is then as it was.
    pub fn renew(dir: &Path, beside: &Path) -> Result<(), Error> {
        let found = match Self::age(dir)? {
            Age::Older(found) => found,
            Age::Foreign(found) => {
                return Err(Error::Abi {
                    path: dir.to_owned(),
                    found,
                    known: ABI_VERSION,
                });
            }
            Age::Current | Age::Unfinished => return Ok(()),
        };
        fs::create_dir(beside).map_err(|source| file("create", beside, source))?;
        let renewed = Self::renew_beside(dir, beside, found).and_then(|()| {
            let how = RenameFlags::RENAME_EXCHANGE;
            renameat2(AT_FDCWD, beside, AT_FDCWD, dir, how)
                .map_err(|errno| file("exchange", dir, errno.into()))
        });
        // One of the two is of no use any more. The first error is the one to report.
        let removed = remove_pins(beside);
        renewed.and(removed)
    }

    fn renew_beside(dir: &Path, beside: &Path, found: u32) -> Result<(), Error> {
        let names = pins(dir)?;
        let is_kept = |name: &str| {
            let newer = CHANGED.iter().filter(|(since, _)| *since > found);
            let mut changed = newer.flat_map(|(_, names)| *names);
            MAPS.iter().any(|(map, _)| *map == name) && !changed.any(|map| *map == name)
        };
        for name in &names {
            let now = name_now(name);
            if is_kept(&now) || spot_at(&now).is_some() {
                let path = beside.join(now);
                fs::hard_link(dir.join(name), &path)
                    .map_err(|source| file("link", &path, source))?;
            }
        }
        Self::load(beside, Capacity::default())?;
        let old = Old::read(dir, found)?;
        let mut port = Self::open_any(beside)?;
        for (slot, address) in old.grants {
            port.set_grant(slot, address.into())?;
        }
        port.set_entry(PortEntry {
            abi: ABI_VERSION | ABI_UNFINISHED,
            ..old.entry
        })
    }

    /// Has the programs of this version, pinned in `dir`, run wherever another's may. Can be done
    /// again. `is_settled`: parent and host ends are in the calling thread's namespace, by the
    /// numbers that the port has of them; without tcx, otherwise nothing is done.
    pub fn exchange_programs(dir: &Path, is_settled: bool) -> Result<(), Error> {
        let open = |spot: Spot| {
            SchedClassifier::from_pin(dir.join(spot.program))
                .map_err(|source| of_program("open", spot.program, source))
        };
        match Hook::detect() {
            Hook::Tcx => {
                let mut names = pins(dir)?;
                names.sort_by_key(|name| name != PARENT_LINK);
                for name in names {
                    if let Some(spot) = spot_at(&name) {
                        Hook::replace_at_link(&mut open(spot)?, spot, &dir.join(name))?;
                    }
                }
            }
            Hook::Clsact if is_settled => {
                let port = Self::open_any(dir)?;
                let parent = [(port.entry()?.ifindex, PARENT_INGRESS)];
                let devs = port.devs()?.into_iter();
                let hosts = devs.flat_map(|(host, dev)| {
                    let spots = spots(dev.bits & DEV_TAP != 0).iter();
                    spots.map(move |(spot, _)| (host, *spot))
                });
                for (index, spot) in parent.into_iter().chain(hosts) {
                    // One that is gone needs no program.
                    let Ok(name) = if_indextoname(index) else {
                        continue;
                    };
                    let name = name.to_string_lossy();
                    Hook::replace_filter(&mut open(spot)?, spot, &name)?;
                }
            }
            Hook::Clsact => {}
        }
        Ok(())
    }

    /// Writes down that nothing of another version is left.
    pub fn finish(dir: &Path) -> Result<(), Error> {
        let mut port = Self::open_any(dir)?;
        let entry = port.entry()?;
        port.set_entry(PortEntry {
            abi: ABI_VERSION,
            ..entry
        })
    }
}

/// The spot of the link pinned as `name`; `None`: no link is called so.
fn spot_at(name: &str) -> Option<Spot> {
    if name == PARENT_LINK {
        return Some(PARENT_INGRESS);
    }
    let name = name.strip_prefix(MOVING).unwrap_or(name);
    let mut spots = SPOTS.iter();
    spots.find_map(|(spot, prefix)| name.starts_with(prefix).then_some(*spot))
}

/// What a pin of an older version is called now.
fn name_now(name: &str) -> String {
    // Up to version 2.
    match name.strip_prefix("moving_link_") {
        Some(index) => format!("{MOVING}{DEVICE_LINK}{index}"),
        None => name.to_owned(),
    }
}

/// What is in the maps that have changed since.
struct Old {
    entry: PortEntry,
    /// By slot.
    grants: Vec<(u32, IpAddr)>,
}

impl Old {
    fn read(dir: &Path, version: u32) -> Result<Self, Error> {
        match version {
            2 => Self::read_2(dir),
            // Nobody comes here: `Port::renew` has refused it.
            found => Err(Error::Abi {
                path: dir.to_owned(),
                found,
                known: ABI_VERSION,
            }),
        }
    }

    fn read_2(dir: &Path) -> Result<Self, Error> {
        let port: Array<MapData, Raw<PortEntry2>> = open_map(dir, "port", Map::Array)?;
        let Raw(entry) = port
            .get(&0, 0)
            .map_err(|source| map("read", "port", source))?;
        let found: HashMap<MapData, Raw<GrantKey2>, u8> = open_map(dir, "grants", Map::HashMap)?;
        let mut grants = Vec::new();
        for item in found.iter() {
            let (Raw(key), _) = item.map_err(|source| map("read", "grants", source))?;
            grants.push((key.slot, key.address()));
        }
        Ok(Self {
            entry: entry.into(),
            grants,
        })
    }
}

/// `PortEntry` up to version 2.
#[derive(Clone, Copy)]
#[repr(C)]
pub(crate) struct PortEntry2 {
    abi: u32,
    ifindex: u32,
    members: u32,
    mtu: u32,
    mac: [u8; 6],
    mode: u8,
    flag: u8,
    bits: u32,
}

const _: () = assert!(size_of::<PortEntry2>() == 28);

impl From<PortEntry2> for PortEntry {
    fn from(old: PortEntry2) -> Self {
        let PortEntry2 {
            abi,
            ifindex,
            members,
            mtu,
            mac,
            mode,
            flag,
            bits,
        } = old;
        Self {
            abi,
            ifindex,
            members,
            mtu,
            mac,
            mode,
            flag,
            bits,
            // The same that a port made now would have.
            identity: identity_of(mac),
        }
    }
}

/// `GrantKey` up to version 2: single addresses.
#[derive(Clone, Copy)]
#[repr(C)]
pub(crate) struct GrantKey2 {
    slot: u32,
    family: u32,
    address: [u8; 16],
}

const _: () = assert!(size_of::<GrantKey2>() == 24);

impl GrantKey2 {
    fn address(self) -> IpAddr {
        match (self.family, self.address) {
            (4, [a, b, c, d, ..]) => IpAddr::from([a, b, c, d]),
            (_, octets) => IpAddr::from(Ipv6Addr::from(octets)),
        }
    }
}
