//! Learning: what guests say of their addresses becomes addresses that they have.
//!
//! A program tells a claim (`ipvlan_core::learn`) through a ring buffer, which the agent reads. A claim
//! that is taken is written down in the port, where it lasts without an agent, and counts from then on
//! as an address on a device in a namespace does. What becomes of it is the plan's to say: whoever owns
//! an address keeps it, and a guest does not get what the namespace, a next router, or somebody by hand has.
//!
//! A guest may stop to use an address and tell nobody. So an owner who has not said for [`AGE`] that he
//! has it loses it to the next who does; while nobody else wants it, he keeps it. With the tap down, or
//! closed by its guest, all is forgotten.
//!
//! A guest can claim [`MAX_LEARNT_EACH`] addresses. One more takes the place of the one that it has been
//! silent of for longest, if that is [`AGE`].
//!
//! A guest that closes its tap and opens it again may be another one, and nobody has to have looked in
//! between: the kernel counts how often a tap has lost its carrier, and a device's entry says how often
//! that was when somebody looked last ([`has_lost_its_guest`]).
//!
//! Limits: without an agent nothing is learnt. What is told while there is none, or before somebody has
//! looked at a tap that was opened again, is told again with the next claim, since the guest does not own
//! the address yet. A guest that takes an address away from its interface keeps it: there is no message
//! for that.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::os::fd::{AsFd as _, BorrowedFd};

use ipvlan_abi::{DEV_LEARN, DEV_MUTED, DevEntry, MAX_LEARNT_EACH};
use ipvlan_datapath_bpf::{Claims, Moment, Port};
use ipvlan_netlink::{Link, Netlink, Nsid};
use nix::time::{ClockId, clock_gettime};

use crate::error::Error;
use crate::observe::{DevView, PortView, World, can_be_owned};
use crate::store::Store;

/// How long a claim stands against another, in nanoseconds: as long as a bridge remembers a MAC address
/// (`BR_DEFAULT_AGEING_TIME`).
pub(crate) const AGE: Moment = 300_000_000_000;

/// What was learnt of each guest, by slot, and when it was said last.
pub(crate) type Learnt = BTreeMap<u32, BTreeMap<IpAddr, Moment>>;

/// The time of claims.
pub(crate) fn now() -> Moment {
    // There is no Linux without this clock.
    clock_gettime(ClockId::CLOCK_MONOTONIC).map_or(0, |now| {
        let [seconds, nanoseconds] = [now.tv_sec(), now.tv_nsec()].map(i64::cast_unsigned);
        seconds * 1_000_000_000 + nanoseconds
    })
}

/// Whether the addresses of the guest behind it are learnt.
pub(crate) const fn learns(entry: DevEntry) -> bool {
    entry.bits & DEV_LEARN != 0
}

/// Whether what was learnt of the guest counts: it has had the tap open since. A carrier that we took
/// away tells nothing of that.
pub(crate) fn counts(dev: &DevView) -> bool {
    let entry = dev.entry;
    learns(entry)
        && dev.link.as_ref().is_some_and(|tap| {
            let is_open = tap.has_carrier() || entry.bits & DEV_MUTED != 0;
            tap.is_up() && is_open && !has_lost_its_guest(entry, tap)
        })
}

/// Whether somebody who had the tap open has closed it since its entry was written.
pub(crate) fn has_lost_its_guest(entry: DevEntry, tap: &Link) -> bool {
    // A carrier that we took away was given back by somebody who opened it; or it is still to be taken
    // away, which was counted; or we were killed between giving it back and saying so, and forget what
    // the guest then has to say again.
    let is_given_back = entry.bits & DEV_MUTED != 0 && tap.has_carrier();
    let downs = carrier_downs(tap).wrapping_add(is_given_back.into());
    downs != entry.carrier_downs
}

/// The entry of a tap that has a carrier, before we take that away.
pub(crate) fn muted(entry: DevEntry, tap: &Link) -> DevEntry {
    DevEntry {
        bits: entry.bits | DEV_MUTED,
        carrier_downs: carrier_downs(tap).wrapping_add(1),
        ..entry
    }
}

/// How often a tap has lost its carrier, as [`DevEntry`] counts it.
pub(crate) const fn carrier_downs(tap: &Link) -> u16 {
    let [low, high, ..] = tap.carrier_down_count.to_le_bytes();
    u16::from_le_bytes([low, high])
}

/// Writes a claim down. True: the plan may differ for it.
fn take(port: &mut Port, slot: u32, address: IpAddr, now: Moment) -> Result<bool, Error> {
    if !can_be_owned(address) {
        return Ok(false);
    }
    let of_guest = port.learnt()?.remove(&slot).unwrap_or_default();
    if of_guest.contains_key(&address) {
        // Refused before. Whoever had it may have been silent since.
        return Ok(true);
    }
    if of_guest.len() >= MAX_LEARNT_EACH as usize {
        let oldest = of_guest.iter().min_by_key(|(_, said)| **said);
        match oldest {
            Some((oldest, said)) if is_old(*said, now) => port.remove_learnt(slot, *oldest)?,
            _ => return Ok(false),
        }
    }
    port.set_learnt(slot, address, now)?;
    Ok(true)
}

/// Whether a claim no longer stands against another.
pub(crate) const fn is_old(said: Moment, now: Moment) -> bool {
    now.saturating_sub(said) >= AGE
}

/// The ears of an agent: one for each parent that has taps. Learning is switched on without a word to
/// the agent.
#[derive(Default)]
pub(crate) struct Ears(BTreeMap<u32, (u64, Claims)>);

impl Ears {
    /// Listens to those ports, and no others.
    pub(crate) fn attend(&mut self, store: &Store, world: &World) {
        let has_taps = |view: &PortView| view.devs.values().any(DevView::is_tap);
        self.0.retain(|parent, (number, _)| {
            world.ports.get(parent).is_some_and(has_taps)
                && store.port_number(*parent) == Some(*number)
        });
        for (parent, view) in &world.ports {
            if !has_taps(view) || self.0.contains_key(parent) {
                continue;
            }
            let Some(number) = store.port_number(*parent) else {
                continue;
            };
            match store.port(*parent).and_then(|port| Ok(port.claims()?)) {
                Ok(claims) => {
                    let _: Option<_> = self.0.insert(*parent, (number, claims));
                }
                // Gone just now; the next look tells.
                Err(error) => log::debug!("{error}"),
            }
        }
    }

    /// To wait for.
    pub(crate) fn fds(&self) -> impl Iterator<Item = BorrowedFd<'_>> {
        self.0.values().map(|(_, claims)| claims.as_fd())
    }

    /// All that was said since: parent, slot and address.
    pub(crate) fn hear(&mut self) -> Vec<(u32, u32, IpAddr)> {
        let mut all = Vec::new();
        for (parent, (_, claims)) in &mut self.0 {
            while let Some((slot, address)) = claims.read() {
                all.push((*parent, slot, address));
            }
        }
        all.sort_unstable();
        all.dedup();
        all
    }
}

/// Takes claims, under the lock of the namespace. The host ends whose devices are to be looked at.
/// `seen` is what the agent saw last.
pub(crate) fn take_all(
    nl: &mut Netlink,
    parents: Nsid,
    store: &Store,
    seen: &World,
    claims: &[(u32, u32, IpAddr)],
) -> Result<Vec<u32>, Error> {
    let mut hosts = Vec::new();
    let now = now();
    for (parent, slot, address) in claims {
        let mut port = store.port(*parent)?;
        let devs = port.devs()?.into_iter();
        let mut devs = devs.filter(|(_, dev)| dev.slot == *slot && learns(*dev));
        let Some((host, entry)) = devs.next() else {
            continue;
        };
        let Some(tap) = nl.link(host, Some(parents))? else {
            continue;
        };
        let then = seen.ports.get(parent).and_then(|port| port.devs.get(&host));
        let is_same = then.is_none_or(|dev| dev.entry.carrier_downs == entry.carrier_downs);
        if !is_same || has_lost_its_guest(entry, &tap) {
            // The one that it has now may be another than said it.
            hosts.push(host);
            continue;
        }
        if take(&mut port, *slot, *address, now)? {
            log::debug!("the guest in slot {slot} of parent {parent} says that it has {address}");
            hosts.push(host);
        }
    }
    Ok(hosts)
}
