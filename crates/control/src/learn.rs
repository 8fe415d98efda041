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
//! Limits: without an agent nothing is learnt. What was told while there was none is told again with the
//! next claim, since the guest does not own the address yet.
//! A guest that closes its tap and opens it again before anybody looked (the kernel tells of a carrier that
//! was lost once a second) goes on with what was learnt before. So does one that takes an address away
//! from its interface: there is no message for that.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::os::fd::{AsFd as _, BorrowedFd};

use ipvlan_abi::{DEV_LEARN, DEV_MUTED, DevEntry, MAX_LEARNT_EACH};
use ipvlan_datapath_bpf::{Claims, Moment, Port};
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

/// Whether what was learnt of the guest counts: somebody has the tap open. A carrier that we took away
/// tells nothing of that.
pub(crate) fn counts(dev: &DevView) -> bool {
    learns(dev.entry)
        && dev.link.as_ref().is_some_and(|tap| {
            tap.is_up() && (tap.has_carrier() || dev.entry.bits & DEV_MUTED != 0)
        })
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
pub(crate) fn take_all(store: &Store, claims: &[(u32, u32, IpAddr)]) -> Result<Vec<u32>, Error> {
    let mut hosts = Vec::new();
    let now = now();
    for (parent, slot, address) in claims {
        let mut port = store.port(*parent)?;
        let devs = port.devs()?.into_iter();
        let mut devs = devs.filter(|(_, dev)| dev.slot == *slot && learns(*dev));
        let Some((host, _)) = devs.next() else {
            continue;
        };
        if take(&mut port, *slot, *address, now)? {
            log::debug!("the guest in slot {slot} of parent {parent} says that it has {address}");
            hosts.push(host);
        }
    }
    Ok(hosts)
}
