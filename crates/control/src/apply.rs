//! Apply: makes the steps of a plan.
//!
//! A step that fails does not stop the ones behind it: they concern other devices, and a device
//! that vanishes between plan and apply is nothing special. What failed is reported together, and
//! still differs at the next look; but for a device that could not follow its parent's MAC address or
//! MTU, which then stay what they were: frames are rewritten all the same.
//!
//! The exception is a link that could not be deleted: its device is not forgotten, and its port does
//! not go. Without them no program would stand between the device and the stack of this namespace.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io::Read as _;
use std::net::Ipv6Addr;
use std::path::{Path, PathBuf};

use ipvlan_abi::MAX_OWNERS;
use ipvlan_datapath_bpf::Port;
use ipvlan_netlink::{AddrGenMode, Family, Link, LinkChange, Netlink, Nsid, netns};
use nix::errno::Errno;

use crate::error::Error;
use crate::plan::Step;
use crate::routing::Setting;
use crate::store::{Store, io_error};

/// What the steps of one plan work with. `nl` is a socket in the parents' namespace.
pub(crate) struct Apply<'a> {
    nl: &'a mut Netlink,
    store: &'a Store,
    ports: BTreeMap<u32, Port>,
    finder: netns::Finder,
}

impl<'a> Apply<'a> {
    pub(crate) fn new(nl: &'a mut Netlink, store: &'a Store) -> Self {
        Self {
            nl,
            store,
            ports: BTreeMap::new(),
            finder: netns::Finder::default(),
        }
    }

    /// Makes all steps, in order. Returns what failed.
    pub(crate) fn all(&mut self, steps: &[Step]) -> Vec<Error> {
        make(steps, |step| self.step(step))
    }

    fn step(&mut self, step: &Step) -> Result<(), Error> {
        match step {
            Step::DropOwner { port, prefix } => Ok(self.port(*port)?.remove_owner(*prefix)?),
            Step::SetOwner {
                port,
                prefix,
                owner,
            } => self
                .port(*port)?
                .set_owner(*prefix, *owner)
                .map_err(|error| match error.errno() {
                    // Prefixes find room: there are no more than grants.
                    Some(libc::E2BIG) => Error::NoRoom {
                        prefix: *prefix,
                        limit: format!("own {MAX_OWNERS} addresses of a family"),
                    },
                    _ => error.into(),
                }),
            Step::SetMember { port, slot, host } => {
                Ok(self.port(*port)?.set_member(*slot, *host)?)
            }
            Step::SetEntry { port, entry } => Ok(self.port(*port)?.set_entry(*entry)?),
            Step::SetDev { port, host, entry } => Ok(self.port(*port)?.set_dev(*host, *entry)?),
            Step::ForgetDev { port, host } => Ok(self.port(*port)?.remove_dev(*host)?),
            Step::DeleteLink { index } => Ok(self.nl.delete_link(*index)?),
            Step::Change { index, change } => match self.nl.set_link(*index, change) {
                // Nobody has the tap open, and whoever opens it gives it a carrier.
                Err(error) if change.carrier == Some(true) && error.errno() == Errno::EPERM => {
                    Ok(())
                }
                done => Ok(done?),
            },
            Step::ChangeDev {
                place,
                index,
                change,
            } => self.inside(*place, |nl| change_device(nl, *index, change)),
            Step::RemoveAddress {
                place,
                index,
                address,
            } => self.inside(*place, |nl| {
                Ok(nl.delete_address(*index, (*address).into(), 64)?)
            }),
            Step::SetRoute {
                table,
                prefix,
                host,
            } => Ok(self.nl.set_route(*table, *prefix, *host)?),
            Step::DropRoute { table, prefix } => Ok(self.nl.delete_route(*table, *prefix)?),
            Step::AddRule { rule } => Ok(self.nl.add_rule(rule)?),
            Step::DropRule { rule } => Ok(self.nl.delete_rule(rule)?),
            Step::Set { interface, setting } => change_setting(interface, *setting),
            Step::ForgetLearnt {
                port,
                slot,
                address,
            } => Ok(self.port(*port)?.remove_learnt(*slot, *address)?),
            Step::RemovePort { port } => self.remove_port(*port),
        }
    }

    fn port(&mut self, parent: u32) -> Result<&mut Port, Error> {
        use std::collections::btree_map::Entry;
        match self.ports.entry(parent) {
            Entry::Occupied(port) => Ok(port.into_mut()),
            Entry::Vacant(place) => Ok(place.insert(self.store.port(parent)?)),
        }
    }

    fn remove_port(&mut self, parent: u32) -> Result<(), Error> {
        let name = self.nl.link(parent, None)?.map(|link| link.name);
        match self.ports.remove(&parent) {
            Some(port) => Ok(port.remove(name.as_deref())?),
            None => Ok(self.store.port(parent)?.remove(name.as_deref())?),
        }
    }

    /// Runs `f` with a socket in the namespace where a device lives.
    fn inside(
        &mut self,
        place: Option<Nsid>,
        f: impl FnOnce(&mut Netlink) -> Result<(), Error>,
    ) -> Result<(), Error> {
        let Some(place) = place else {
            return f(self.nl);
        };
        let Some(ns) = self.finder.find(self.nl, place)? else {
            // Held by nothing but an open file or a socket: it cannot be entered. What is missing
            // there is the device's own look (MAC address, MTU, ARP flag); frames are not affected.
            log::debug!("network namespace {} cannot be entered", place.0);
            return Ok(());
        };
        ns.enter(|| f(&mut Netlink::open()?))?
    }
}

/// Makes steps by `one`, in order, and leaves out those that must not follow one that failed.
/// Returns what failed.
fn make(steps: &[Step], mut one: impl FnMut(&Step) -> Result<(), Error>) -> Vec<Error> {
    let mut failed = Vec::new();
    // Links that are still there, and ports that know of one.
    let (mut links, mut ports) = (BTreeSet::new(), BTreeSet::new());
    for step in steps {
        match step {
            Step::ForgetDev { port, host } if links.contains(host) => {
                let _: bool = ports.insert(*port);
                continue;
            }
            Step::RemovePort { port } if ports.contains(port) => continue,
            _ => log::debug!("{step:?}"),
        }
        match one(step) {
            Ok(()) => {}
            // Gone in the meantime; the kernel's next event tells the rest.
            Err(Error::Netlink(error)) if error.errno() == Errno::ENODEV => {}
            // What goes on in one device's namespace is no concern of the caller.
            Err(error) if is_inside_a_device(step) => log::debug!("{error}"),
            Err(error) => {
                if let Step::DeleteLink { index } = step {
                    let _: bool = links.insert(*index);
                }
                failed.push(error);
            }
        }
    }
    failed
}

fn is_inside_a_device(step: &Step) -> bool {
    matches!(step, Step::ChangeDev { .. } | Step::RemoveAddress { .. })
}

/// Changes a device in the namespace of `nl` and of the calling thread.
pub(crate) fn change_device(
    nl: &mut Netlink,
    index: u32,
    change: &LinkChange,
) -> Result<(), Error> {
    let Some(link) = nl.link(index, None)? else {
        return Ok(());
    };
    let mut change = change.clone();
    // Without IPv6 on it (MTU below 1280, or none in this kernel) there is no mode to change.
    change.addr_gen_mode = change
        .addr_gen_mode
        .filter(|_| link.addr_gen_mode.is_some());
    if change.addr_gen_mode == Some(AddrGenMode::Random) {
        own_secret(&link)?;
    }
    if link.is_up()
        && let Some(mode) = change.addr_gen_mode.take()
    {
        regenerate_link_local(&link, mode)?;
    }
    if change != LinkChange::default() {
        nl.set_link(index, &change)?;
    }
    Ok(())
}

/// Sees to it that a host end says nothing of itself to the device, as long as it is down: no address,
/// and nothing that a router or a listener says.
pub(crate) fn keep_quiet(nl: &mut Netlink, index: u32, name: &str) -> Result<(), Error> {
    let change = LinkChange {
        addr_gen_mode: Some(AddrGenMode::None),
        ..LinkChange::default()
    };
    change_device(nl, index, &change)?;
    // It is no router, whatever the host is.
    write_setting(Family::V6, name, "forwarding", "0")?;
    // The program lets no advertisement through. Should it ever be gone, the host believes none.
    write_setting(Family::V6, name, "accept_ra", "0")
}

/// Gives an interface a secret of its own where it has inherited one
/// (`net.ipv6.conf.default.stable_secret`). The kernel makes one only if there is none, and two
/// devices of one MAC address with one secret make one address.
fn own_secret(link: &Link) -> Result<(), Error> {
    const NAME: &str = "stable_secret";
    // Without a secret it cannot be read.
    if fs::read(setting_path(Family::V6, &link.name, NAME)).is_err() {
        return Ok(());
    }
    let source = Path::new("/dev/urandom");
    let mut secret = [0; 16];
    fs::File::open(source)
        .and_then(|mut file| file.read_exact(&mut secret))
        .map_err(|error| io_error("read", source, error))?;
    write_setting(
        Family::V6,
        &link.name,
        NAME,
        &Ipv6Addr::from(secret).to_string(),
    )
}

/// Changes how an interface that is up makes its link-local address, and has it make one. Over
/// netlink the kernel would only take note for the next time it comes up; over the sysctl it acts
/// (`addrconf_sysctl_addr_gen_mode()`).
fn regenerate_link_local(link: &Link, mode: AddrGenMode) -> Result<(), Error> {
    let number = match mode {
        AddrGenMode::Eui64 => "0",
        AddrGenMode::None => "1",
        AddrGenMode::StablePrivacy => "2",
        AddrGenMode::Random => "3",
    };
    write_setting(Family::V6, &link.name, "addr_gen_mode", number)
}

fn change_setting(interface: &str, setting: Setting) -> Result<(), Error> {
    let Setting {
        family,
        name,
        value,
    } = setting;
    write_setting(family, interface, name, &value.to_string())
}

fn setting_path(family: Family, interface: &str, name: &str) -> PathBuf {
    let family = match family {
        Family::V4 => "ipv4",
        Family::V6 => "ipv6",
    };
    Path::new("/proc/sys/net")
        .join(family)
        .join("conf")
        .join(interface)
        .join(name)
}

/// Writes a setting of an interface of the calling thread's namespace.
pub(crate) fn write_setting(
    family: Family,
    interface: &str,
    name: &str,
    value: &str,
) -> Result<(), Error> {
    let path = setting_path(family, interface, name);
    match fs::write(&path, value) {
        // Renamed or gone just now, or a name that is not UTF-8: nothing that concerns others.
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(()),
        other => other.map_err(|source| io_error("write", &path, source)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_could_not_be_deleted_keeps_its_entry_and_its_port() {
        let steps = [
            Step::DeleteLink { index: 10 },
            Step::ForgetDev { port: 2, host: 10 },
            Step::DeleteLink { index: 11 },
            Step::ForgetDev { port: 2, host: 11 },
            Step::RemovePort { port: 2 },
            Step::DeleteLink { index: 12 },
            Step::ForgetDev { port: 3, host: 12 },
            Step::RemovePort { port: 3 },
        ];
        let made_but_for = |errno: Errno| {
            let mut made = Vec::new();
            let failed = make(&steps, |step| {
                if *step == steps[0] {
                    return Err(Error::Netlink(ipvlan_netlink::Error::Kernel {
                        op: "delete",
                        object: "link 10".into(),
                        errno,
                        extack: None,
                    }));
                }
                made.push(step.clone());
                Ok(())
            });
            (made, failed.len())
        };
        let kept = [steps[2].clone(), steps[3].clone()]
            .into_iter()
            .chain(steps[5..].iter().cloned())
            .collect();
        assert_eq!(made_but_for(Errno::EPERM), (kept, 1));
        let gone = (steps[1..].to_vec(), 0);
        assert_eq!(made_but_for(Errno::ENODEV), gone, "it was gone already");
    }
}
