//! What guests say about their addresses: the claims that the programs tell, and those that count.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::os::fd::{AsFd, BorrowedFd};

use aya::maps::{Map, MapData, RingBuf};
use ipvlan_abi::ClaimKey;

use crate::error::Error;
use crate::pod::Raw;
use crate::port::{Port, gone, map, open_map};

/// When an address was claimed last: `CLOCK_MONOTONIC`, nanoseconds.
pub type Moment = u64;

impl Port {
    /// The addresses that were learnt of each guest, by slot, and when it said so last.
    pub fn learnt(&self) -> Result<BTreeMap<u32, BTreeMap<IpAddr, Moment>>, Error> {
        let mut all: BTreeMap<u32, BTreeMap<IpAddr, Moment>> = BTreeMap::new();
        for item in self.learnt.iter() {
            let (key, moment) = item.map_err(|source| map("read", "learnt", source))?;
            let of_slot = all.entry(key.0.slot).or_default();
            let _: Option<Moment> = of_slot.insert(key.0.address(), moment);
        }
        Ok(all)
    }

    /// Learns an address of the guest in this slot.
    ///
    /// # Errors
    ///
    /// `E2BIG` when the table is full.
    pub fn set_learnt(&mut self, slot: u32, address: IpAddr, now: Moment) -> Result<(), Error> {
        self.learnt
            .insert(Raw(ClaimKey::new(slot, address)), now, 0)
            .map_err(|source| map("write", "learnt", source))
    }

    /// Forgets it; fine when it was not known.
    pub fn remove_learnt(&mut self, slot: u32, address: IpAddr) -> Result<(), Error> {
        let key = Raw(ClaimKey::new(slot, address));
        gone(self.learnt.remove(&key), "learnt")
    }

    /// What guests claim from now on: nobody knows whether the one who left a claim is still there. One
    /// reader at a time, or each gets a part of it.
    pub fn claims(&self) -> Result<Claims, Error> {
        let mut claims = Claims {
            ring: open_map(self.dir(), "claims", Map::RingBuf)?,
        };
        while claims.read().is_some() {}
        Ok(claims)
    }
}

/// The claims of a port's guests, as they come.
pub struct Claims {
    ring: RingBuf<MapData>,
}

impl Claims {
    /// The next claim that waits: slot and address. `None`: wait until the file descriptor is readable.
    pub fn read(&mut self) -> Option<(u32, IpAddr)> {
        loop {
            let item = self.ring.next()?;
            // What is not a claim, another version has told.
            if let Some(claim) = parse(&item) {
                return Some(claim);
            }
        }
    }
}

fn parse(bytes: &[u8]) -> Option<(u32, IpAddr)> {
    let (slot, rest) = bytes.split_first_chunk()?;
    let (family, rest) = rest.split_first_chunk()?;
    let (low, high) = rest.split_first_chunk()?;
    let key = ClaimKey {
        slot: u32::from_ne_bytes(*slot),
        family: u32::from_ne_bytes(*family),
        address: [
            u64::from_ne_bytes(*low),
            u64::from_ne_bytes(high.try_into().ok()?),
        ],
    };
    Some((key.slot, key.address()))
}

impl AsFd for Claims {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.ring.as_fd()
    }
}
