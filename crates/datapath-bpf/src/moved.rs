//! What a port needs when its parent has gone to another network namespace, and its host ends
//! after it.
//!
//! A tcx link goes along with its interface, and tells the index that it has now. A clsact filter
//! does not survive (`dev_shutdown()` in `__dev_change_net_namespace()`): there, the programs are
//! attached anew.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use aya::maps::PerCpuValues;
use aya::programs::{ProgramInfo, SchedClassifier, TcAttachType};
use ipvlan_abi::{DEV_TAP, DevEntry, DropKey, GuestEntry, PORT_MARK, PORT_ROUTED, PortEntry};

use crate::attach::Hook;
use crate::error::Error;
use crate::pod::Raw;
use crate::port::{DEVICE_LINK, DEVICE_LINKS, PARENT_INGRESS, PARENT_LINK, Port, link_name, spots};
use crate::sys::tcx_link_ifindex;

/// What the pin of a host end's link begins with while links change their numbers: the old number of
/// one may be the new number of another.
pub(crate) const MOVING: &str = "moving_";

impl Port {
    /// The index that the parent has now, wherever it lives; 0 when it is gone. `None` with clsact,
    /// where there is no link to ask.
    pub fn parent_index(&self) -> Result<Option<u32>, Error> {
        Self::parent_index_in(self.dir())
    }

    /// The same of a port that was not opened: another version's, perhaps.
    pub fn parent_index_in(dir: &Path) -> Result<Option<u32>, Error> {
        let path = dir.join(PARENT_LINK);
        match path.exists() {
            true => link_index(&path).map(Some),
            false => Ok(None),
        }
    }

    /// Whether it is this interface, of the calling thread's namespace, that has our program as the
    /// parent has. Only with tcx; there is no other answer to which of two interfaces with one
    /// index, in two namespaces, is the parent.
    pub fn is_parent(&self, interface: &str) -> Result<bool, Error> {
        Self::is_parent_in(self.dir(), interface)
    }

    /// The same of a port that was not opened: another version's, perhaps.
    pub fn is_parent_in(dir: &Path, interface: &str) -> Result<bool, Error> {
        let failed = |source| Error::Program {
            op: "find",
            program: format!("{} at {interface}", PARENT_INGRESS.program),
            source: Box::new(source),
        };
        let own = ProgramInfo::from_pin(dir.join(PARENT_INGRESS.program)).map_err(failed)?;
        let (_, programs) =
            SchedClassifier::query_tcx(interface, TcAttachType::Ingress).map_err(failed)?;
        Ok(programs.iter().any(|program| program.id() == own.id()))
    }

    /// Nobody is delivered to any more, nor what a device sends to the stack (l3s), until the addresses
    /// and prefixes are given out again.
    pub fn silence(&mut self) -> Result<(), Error> {
        for prefix in self.owners()?.into_keys() {
            self.remove_owner(prefix)?;
        }
        let entry = self.entry()?;
        self.set_entry(PortEntry {
            members: 0,
            bits: entry.bits & !(PORT_ROUTED | PORT_MARK),
            ..entry
        })
    }

    /// Parent and host ends have come to the calling thread's namespace, under these names and
    /// indexes: everything that goes by an index gets the new one. Can be done again after it was
    /// broken off.
    pub fn renumber(
        &mut self,
        parent: &str,
        entry: PortEntry,
        devs: &BTreeMap<u32, (String, DevEntry)>,
    ) -> Result<(), Error> {
        match Hook::detect() {
            Hook::Tcx => self.rename_links()?,
            Hook::Clsact => self.attach_again(parent, devs)?,
        }
        self.renumber_drops(devs)?;
        self.renumber_guests(devs)?;
        for (index, (_, dev)) in devs {
            self.set_dev(*index, *dev)?;
        }
        for index in self.devs()?.into_keys() {
            if !devs.contains_key(&index) {
                self.remove_dev(index)?;
            }
        }
        self.set_entry(entry)
    }

    /// Each pinned link is called by the index that it tells.
    fn rename_links(&self) -> Result<(), Error> {
        for prefix in DEVICE_LINKS {
            let moving = format!("{MOVING}{prefix}");
            for (from, to) in [(prefix, &*moving), (&*moving, prefix)] {
                let names = pins(self.dir())?;
                for name in names.iter().filter(|name| name.starts_with(from)) {
                    let path = self.dir().join(name);
                    let done = match link_index(&path)? {
                        // Its interface is gone.
                        0 => fs::remove_file(&path),
                        index => fs::rename(&path, self.dir().join(link_name(to, index))),
                    };
                    done.map_err(|source| Error::File {
                        op: "rename",
                        path,
                        source,
                    })?;
                }
            }
        }
        Ok(())
    }

    /// Whether the port in `dir`, of whatever version, has no device left, as far as their links
    /// tell; with clsact there are none, and the answer is no.
    pub fn is_deserted_in(dir: &Path) -> Result<bool, Error> {
        if Self::parent_index_in(dir)?.is_none() {
            return Ok(false);
        }
        for name in pins(dir)? {
            let is_device = name.starts_with(DEVICE_LINK) || name.starts_with(MOVING);
            if is_device && link_index(&dir.join(name))? != 0 {
                return Ok(false);
            }
        }
        Ok(true)
    }

    fn attach_again(
        &self,
        parent: &str,
        devs: &BTreeMap<u32, (String, DevEntry)>,
    ) -> Result<(), Error> {
        let hosts = devs.values().flat_map(|(name, dev)| {
            let spots = spots(dev.bits & DEV_TAP != 0).iter();
            spots.map(|(spot, _)| (*spot, name.as_str()))
        });
        for (spot, interface) in hosts.chain([(PARENT_INGRESS, parent)]) {
            // One that was broken off has done this already.
            let _: Result<(), Error> = Hook::Clsact.detach(spot, interface);
            // With clsact there is no link, and no pin.
            self.attach(spot, interface, "")?;
        }
        Ok(())
    }

    /// The new index of each host end that has another one now, by the old one.
    fn moved(&self, devs: &BTreeMap<u32, (String, DevEntry)>) -> Result<BTreeMap<u32, u32>, Error> {
        let now: BTreeMap<u32, u32> = devs
            .iter()
            .map(|(index, (_, dev))| (dev.slot, *index))
            .collect();
        Ok(self
            .devs()?
            .into_iter()
            .filter_map(|(index, dev)| Some((index, *now.get(&dev.slot)?)))
            .filter(|(from, to)| from != to)
            .collect())
    }

    /// The MAC addresses of guests go along: one that has nothing to say is still to be reached.
    fn renumber_guests(&mut self, devs: &BTreeMap<u32, (String, DevEntry)>) -> Result<(), Error> {
        let failed = |op| {
            move |source: aya::maps::MapError| Error::Map {
                op,
                map: "guests",
                source: source.into(),
            }
        };
        let mut guests = BTreeMap::new();
        for (from, to) in self.moved(devs)? {
            if let Some(guest) = self.guest(from)? {
                let [a, b, c, d, e, f] = guest;
                let mac = u64::from_le_bytes([a, b, c, d, e, f, 0, 0]);
                let _: Option<GuestEntry> = guests.insert(to, GuestEntry { mac, quiet_at: 0 });
            }
        }
        let taps = devs.iter().filter(|(_, (_, dev))| dev.bits & DEV_TAP != 0);
        for (index, _) in taps {
            let known = match guests.get(index) {
                Some(guest) => *guest,
                None if self.guest(*index)?.is_some() => continue,
                None => GuestEntry::default(),
            };
            self.guests
                .insert(index, Raw(known), 0)
                .map_err(failed("write"))?;
        }
        Ok(())
    }

    /// What was counted for a device goes with it.
    fn renumber_drops(&mut self, devs: &BTreeMap<u32, (String, DevEntry)>) -> Result<(), Error> {
        let failed = |op| {
            move |source: aya::maps::MapError| Error::Map {
                op,
                map: "drops",
                source: source.into(),
            }
        };
        let moved = self.moved(devs)?;
        let mut counts = Vec::new();
        for item in self.drops.iter() {
            let (Raw(key), count): (Raw<DropKey>, PerCpuValues<u64>) =
                item.map_err(failed("read"))?;
            if let Some(to) = moved.get(&key.ifindex) {
                counts.push((key, *to, count));
            }
        }
        for (key, _, _) in &counts {
            self.drops.remove(&Raw(*key)).map_err(failed("write"))?;
        }
        for (key, ifindex, count) in counts {
            let key = Raw(DropKey { ifindex, ..key });
            self.drops.insert(key, count, 0).map_err(failed("write"))?;
        }
        Ok(())
    }
}

pub(crate) fn pins(dir: &Path) -> Result<Vec<String>, Error> {
    let list = fs::read_dir(dir).map_err(|source| Error::File {
        op: "list",
        path: dir.to_owned(),
        source,
    })?;
    Ok(list
        .filter_map(|entry| entry.ok()?.file_name().into_string().ok())
        .collect())
}

fn link_index(path: &Path) -> Result<u32, Error> {
    tcx_link_ifindex(path).map_err(|source| Error::File {
        op: "read link",
        path: path.to_owned(),
        source,
    })
}
