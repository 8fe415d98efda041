//! The guest behind a tap: what is heard of its addresses, what it is answered, and what is sent to it.
#![expect(
    clippy::cast_possible_truncation,
    reason = "helpers that answer with an i32 in an i64, and the half of an address that is IPv4's"
)]

use aya_ebpf::helpers::{bpf_ktime_get_ns, bpf_redirect, bpf_skb_store_bytes};
use ipvlan_abi::{CLAIM_BURST, CLAIM_GAP, ClaimKey, DEV_LEARN, DevEntry};
use ipvlan_core::Owners as _;
use ipvlan_core::guest::Answer;
use ipvlan_core::learn::Claim;

use super::{NEXT, Skb};
use crate::maps::{CLAIMS, GUESTS, LEARNT};
use crate::tables::{Tables, device};

impl Skb {
    /// Remembers the MAC address of the guest behind this tap, unless that is 0.
    #[inline(always)]
    pub(crate) fn remember_guest(&self, mac: u64) {
        let Some(known) = GUESTS.get_ptr_mut(self.ifindex()) else {
            return;
        };
        // SAFETY: an aligned value of a map whose entries stay in place until the last program that
        // may hold one has ended. Other processors write it too, as a whole.
        unsafe {
            let known = &raw mut (*known).mac;
            if mac != 0 && known.read_volatile() != mac {
                known.write_volatile(mac);
            }
        }
    }

    /// What the guest behind the tap `host` says about its address: that it was said is remembered, and
    /// told while the guest does not own it.
    #[inline(always)]
    pub(crate) fn learn(&self, host: u32, claim: Claim) {
        if claim.family == 0 {
            return;
        }
        let Some(&DevEntry { slot, bits, .. }) = device(host) else {
            return;
        };
        if bits & DEV_LEARN == 0 {
            return;
        }
        let key = ClaimKey {
            slot,
            family: claim.family,
            address: claim.address,
        };
        // SAFETY: a helper call without arguments.
        let now = unsafe { bpf_ktime_get_ns() };
        if let Some(said) = LEARNT.get_ptr_mut(key) {
            // SAFETY: as in `remember_guest`.
            unsafe { said.write_volatile(now) };
        }
        let [low, high] = key.address;
        let owner = match key.family {
            4 => Tables.v4(&(low as u32).to_le_bytes()),
            _ => Tables.v6(&(u128::from(low) | u128::from(high) << 64).to_le_bytes()),
        };
        let Some(guest) = GUESTS.get_ptr_mut(host) else {
            return;
        };
        // SAFETY: as in `remember_guest`.
        unsafe {
            let quiet_at = &raw mut (*guest).quiet_at;
            let then = quiet_at.read_volatile();
            let then = if then < now { now } else { then };
            if owner.ifindex == host || then - now >= CLAIM_BURST * CLAIM_GAP {
                return;
            }
            quiet_at.write_volatile(then + CLAIM_GAP);
        }
        // Full: it is told again with the next claim.
        let _: Result<(), i32> = CLAIMS.output::<ClaimKey>(&key, 0);
    }

    /// Back to where it came from, as `answer`. `None`, or no memory: it goes on, and is dropped as the
    /// question that it is.
    #[inline(always)]
    pub(crate) fn answer<const WORDS: usize>(&self, answer: Option<Answer<WORDS>>) -> i32 {
        let Some(Answer { words, length }) = answer else {
            return NEXT;
        };
        if length as usize > size_of_val(&words) {
            return NEXT;
        }
        // SAFETY: helper calls with the program's own context, a source that has at least the length
        // given, as compared just above, and scalars.
        unsafe {
            if bpf_skb_store_bytes(self.raw, 0, words.as_ptr().cast(), length, 0) != 0 {
                return NEXT;
            }
            bpf_redirect(self.ifindex(), 0) as i32
        }
    }

    /// Sends it to the guest behind this tap, and no other machine behind it: to the MAC address
    /// that the guest was heard to use. False: no memory.
    #[inline(always)]
    pub(crate) fn address_guest(&self) -> bool {
        let Some(known) = GUESTS.get_ptr_mut(self.ifindex()) else {
            return true;
        };
        // SAFETY: as in `remember_guest`.
        let mac = unsafe { (&raw const (*known).mac).read_volatile() };
        let [a, b, c, d, e, f, ..] = mac.to_le_bytes();
        mac == 0 || self.store(0, &[a, b, c, d, e, f], 0)
    }
}
