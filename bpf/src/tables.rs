//! What is known of the port and its devices: look-ups in the maps.

use aya_ebpf::maps::lpm_trie::Key;
use ipvlan_abi::{DevEntry, Owner, PortEntry};
use ipvlan_core::Owners;

use crate::maps::{DEVS, MEMBERS, OWNERS4, OWNERS6, PORT, PREFIXES4, PREFIXES6};

/// The port that this object was loaded for.
#[inline(always)]
pub(crate) fn port() -> Option<&'static PortEntry> {
    PORT.get(0)
}

/// The device behind a host end.
#[inline(always)]
pub(crate) fn device(host: u32) -> Option<&'static DevEntry> {
    // SAFETY: the map is not preallocated, so an entry is freed only after this program has ended.
    unsafe { DEVS.get(host) }
}

/// The slot of the device behind a host end.
#[inline(always)]
pub(crate) fn slot(host: u32) -> Option<u32> {
    device(host).map(|dev| dev.slot)
}

/// The host end of the device in a slot, or 0.
#[inline(always)]
pub(crate) fn member(slot: u32) -> u32 {
    MEMBERS.get(slot).copied().unwrap_or(0)
}

/// The address tables of this port.
pub(crate) struct Tables;

impl Owners for Tables {
    #[inline(always)]
    fn v4(&self, address: &[u8; 4]) -> Owner {
        // SAFETY: the map is not preallocated, so an entry is freed only after this program has
        // ended; both words of it were written together.
        match unsafe { OWNERS4.get(address) } {
            Some(owner) => *owner,
            None => Owner::NOBODY,
        }
    }

    #[inline(always)]
    fn v6(&self, address: &[u8; 16]) -> Owner {
        // SAFETY: as in `v4`.
        match unsafe { OWNERS6.get(address) } {
            Some(owner) => *owner,
            None => Owner::NOBODY,
        }
    }

    #[inline(always)]
    fn v4_prefix(&self, address: &[u8; 4]) -> Owner {
        PREFIXES4
            .get(Key::new(32, *address))
            .copied()
            .unwrap_or(Owner::NOBODY)
    }

    #[inline(always)]
    fn v6_prefix(&self, address: &[u8; 16]) -> Owner {
        PREFIXES6
            .get(Key::new(128, *address))
            .copied()
            .unwrap_or(Owner::NOBODY)
    }
}
