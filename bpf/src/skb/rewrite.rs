//! What is written into a packet: the parent's MAC address over foreign ones, and the identity of a DHCP
//! client.
#![expect(
    clippy::cast_possible_truncation,
    reason = "offsets and lengths in a packet"
)]

use aya_ebpf::bindings::{BPF_F_MARK_MANGLED_0, BPF_F_RECOMPUTE_CSUM};
use aya_ebpf::helpers::{
    bpf_csum_diff, bpf_l4_csum_replace, bpf_skb_load_bytes, bpf_skb_store_bytes,
};
use ipvlan_abi::{PortEntry, SENDERS};
use ipvlan_core::dhcp::Places;
use ipvlan_core::{Fix, Frame as _};

use super::Skb;
use crate::maps::CLIENTS;

impl Skb {
    /// Writes the parent's MAC address where `fix` says. False: no memory.
    #[inline(always)]
    pub(crate) fn rewrite(&self, port: &PortEntry, fix: Fix) -> bool {
        const DESTINATION: u32 = 0;
        const SOURCE: u32 = 6;
        const ARP_SENDER: u32 = 14 + 8;
        let mac = &port.mac;
        if fix.has(Fix::DESTINATION) && !self.store(DESTINATION, mac, 0) {
            return false;
        }
        if fix.has(Fix::SOURCE) && !self.store(SOURCE, mac, 0) {
            return false;
        }
        if fix.has(Fix::ARP_SENDER) && !self.store(ARP_SENDER, mac, u64::from(BPF_F_RECOMPUTE_CSUM))
        {
            return false;
        }
        match fix.nd_offsets() {
            Some((option, checksum)) => self.rewrite_nd(mac, option, checksum),
            None => true,
        }
    }

    #[inline(always)]
    fn rewrite_nd(&self, mac: &[u8; 6], option: u32, checksum: u32) -> bool {
        // The helper that sums wants a multiple of 4: both are padded with the same zeros.
        let mut old = [0u32; 2];
        let mut new = [0u32; 2];
        new[0] = u32::from_ne_bytes([mac[0], mac[1], mac[2], mac[3]]);
        new[1] = u32::from_ne_bytes([mac[4], mac[5], 0, 0]);
        // SAFETY: helper calls with the program's own context and buffers of the lengths given;
        // `old` is initialised, and has room for the 6 bytes that are read into it.
        unsafe {
            if bpf_skb_load_bytes(self.raw.cast(), option, old.as_mut_ptr().cast(), 6) != 0 {
                return false;
            }
            let diff = bpf_csum_diff(old.as_mut_ptr(), 8, new.as_mut_ptr(), 8, 0);
            if diff < 0 {
                return false;
            }
            if !self.store(option, mac, u64::from(BPF_F_RECOMPUTE_CSUM)) {
                return false;
            }
            bpf_l4_csum_replace(self.raw, checksum, 0, diff.cast_unsigned(), 0) == 0
        }
    }

    #[inline(always)]
    pub(super) fn store<const N: usize>(&self, offset: u32, bytes: &[u8; N], flags: u64) -> bool {
        // SAFETY: a helper call with the program's own context and a source of the length given.
        unsafe {
            bpf_skb_store_bytes(self.raw, offset, bytes.as_ptr().cast(), N as u32, flags) == 0
        }
    }

    /// Writes the identity of a DHCP client where `places` says, and remembers what was there.
    #[inline(always)]
    pub(crate) fn write_identity(&self, version: u8, places: Places, identity: [u8; 6]) -> bool {
        let Some(client) = CLIENTS.get_ptr_mut(self.ifindex() % SENDERS) else {
            return false;
        };
        let [a, b, c, d, e, f] = identity;
        let identity = u64::from_le_bytes([a, b, c, d, e, f, 0, 0]);
        if places.flags != 0 {
            const BROADCAST: u16 = 0x0080;
            let Some(flags) = self.pair(places.flags).map(u16::from_le_bytes) else {
                return false;
            };
            if !self.exchange(
                places.flags,
                2,
                flags.into(),
                (flags | BROADCAST).into(),
                places,
            ) {
                return false;
            }
        }
        if places.hardware != 0 {
            let Some(old) = self.six(places.hardware) else {
                return false;
            };
            // SAFETY: points to an aligned value of a map that is never freed while programs run.
            unsafe { (&raw mut (*client).hardware).write_volatile(old) };
            if !self.exchange(places.hardware, 6, old, identity, places) {
                return false;
            }
        }
        if places.identifier != 0 {
            let Some(old) = self.six(places.identifier) else {
                return false;
            };
            // SAFETY: as above.
            unsafe {
                if version == 4 {
                    (&raw mut (*client).identifier4).write_volatile(old);
                } else {
                    (&raw mut (*client).identifier6).write_volatile(old);
                }
            }
            return self.exchange(places.identifier, 6, old, identity, places);
        }
        true
    }

    /// Puts back what [`Self::write_identity`] remembered of the device behind `host`.
    #[inline(always)]
    pub(crate) fn restore_client(&self, version: u8, places: Places, host: u32) -> bool {
        let Some(client) = CLIENTS.get(host % SENDERS) else {
            return false;
        };
        let client = *client;
        if places.hardware != 0 {
            let Some(old) = self.six(places.hardware) else {
                return false;
            };
            if !self.exchange(places.hardware, 6, old, client.hardware, places) {
                return false;
            }
        }
        if places.identifier != 0 {
            let Some(old) = self.six(places.identifier) else {
                return false;
            };
            let new = match version {
                4 => client.identifier4,
                _ => client.identifier6,
            };
            return self.exchange(places.identifier, 6, old, new, places);
        }
        true
    }

    /// 6 bytes, the first one lowest.
    #[inline(always)]
    fn six(&self, offset: usize) -> Option<u64> {
        let mut word = 0_u64;
        // SAFETY: a helper call with the program's own context and a buffer with room for 6 bytes.
        let failed = unsafe {
            bpf_skb_load_bytes(self.raw.cast(), offset as u32, (&raw mut word).cast(), 6) != 0
        };
        if failed { None } else { Some(word) }
    }

    /// Writes the lower `len` bytes of `new` over `old`, and sets the UDP checksum right.
    #[inline(always)]
    fn exchange(&self, offset: usize, len: u32, old: u64, new: u64, places: Places) -> bool {
        // Sums are of pairs of bytes, counted from the start of UDP, which is at an even offset.
        let shift = if offset.is_multiple_of(2) { 0 } else { 8 };
        let (mut from, mut to) = (old << shift, new << shift);
        // SAFETY: helper calls with the program's own context and buffers of at least the lengths
        // given.
        unsafe {
            let diff = bpf_csum_diff((&raw mut from).cast(), 8, (&raw mut to).cast(), 8, 0);
            diff >= 0
                && bpf_skb_store_bytes(
                    self.raw,
                    offset as u32,
                    (&raw const new).cast(),
                    len,
                    u64::from(BPF_F_RECOMPUTE_CSUM),
                ) == 0
                && bpf_l4_csum_replace(
                    self.raw,
                    places.checksum as u32,
                    0,
                    diff.cast_unsigned(),
                    u64::from(BPF_F_MARK_MANGLED_0),
                ) == 0
        }
    }
}
