//! The packet: what `core` may read of it, and what a verdict does to it.
//!
//! All of this crate's `unsafe` is here: packet pointers, map values and helper calls.
//!
//! The packet is never written through a pointer. A program that does gets a prologue that unshares
//! every packet, and TCP sends all of its packets shared; the helpers that write cost more, but are
//! called for foreign MAC addresses only.
#![expect(
    clippy::cast_possible_truncation,
    reason = "lengths below DEPTH, and helpers that answer with an i32 in an i64"
)]

use core::ffi::c_void;

use aya_ebpf::bindings::{
    __sk_buff, BPF_F_INGRESS, BPF_F_MARK_MANGLED_0, BPF_F_RECOMPUTE_CSUM, TC_ACT_REDIRECT,
    TC_ACT_SHOT, TC_ACT_UNSPEC,
};
use aya_ebpf::helpers::{
    bpf_check_mtu, bpf_clone_redirect, bpf_csum_diff, bpf_ktime_get_ns, bpf_l4_csum_replace,
    bpf_loop, bpf_redirect, bpf_redirect_neigh, bpf_redirect_peer, bpf_skb_change_type,
    bpf_skb_load_bytes, bpf_skb_pull_data, bpf_skb_store_bytes,
};
use aya_ebpf::maps::lpm_trie::Key;
use aya_ebpf::programs::TcContext;
use ipvlan_abi::{
    CLAIM_BURST, CLAIM_GAP, ClaimKey, DEV_LEARN, DevEntry, DropKey, DropReason, OWNER_PEER, Owner,
    PORT_MARK, PORT_SET_TYPE, PortEntry, ROUTED_MARK, SENDERS,
};
use ipvlan_core::dhcp::Places;
use ipvlan_core::frame::{ETHERNET, PORTS, SHALLOW, Walk, reach};
use ipvlan_core::guest::Answer;
use ipvlan_core::learn::Claim;
use ipvlan_core::{DEPTH, Fix, Frame, Meter, Owners, Verdict, admit};

use crate::maps::{
    CLAIMS, CLIENTS, DEVS, DROPS, FLOODS, GUESTS, LEARNT, MEMBERS, OWNERS4, OWNERS6, PORT,
    PREFIXES4, PREFIXES6, PROGRAMS, SCRATCH, Scratch,
};

/// What a program says for "go on as if I were not here": the next program, then the stack.
pub(crate) const NEXT: i32 = TC_ACT_UNSPEC;

const PACKET_HOST: u32 = 0;
const PACKET_OTHERHOST: u32 = 3;
const VLAN_ID_MASK: u32 = 0x0fff;
/// What the queue of an interface that is down or has no carrier says (`noop_enqueue()`).
const NET_XMIT_CN: i64 = 2;

/// The port that this object was loaded for.
#[inline(always)]
pub(crate) fn port() -> Option<&'static PortEntry> {
    PORT.get(0)
}

/// The slot of the device behind a host end.
#[inline(always)]
pub(crate) fn slot(host: u32) -> Option<u32> {
    // SAFETY: the map is not preallocated, so an entry is freed only after this program has ended.
    unsafe { DEVS.get(host) }.map(|dev| dev.slot)
}

/// The host end of the device in a slot, or 0.
#[inline(always)]
pub(crate) fn member(slot: u32) -> u32 {
    MEMBERS.get(slot).copied().unwrap_or(0)
}

/// The packet that a hook was called with.
#[derive(Clone, Copy)]
pub(crate) struct Skb {
    raw: *mut __sk_buff,
}

impl Skb {
    #[inline(always)]
    pub(crate) fn new(ctx: &TcContext) -> Self {
        Self { raw: ctx.skb.skb }
    }

    #[inline(always)]
    fn raw(&self) -> &__sk_buff {
        // SAFETY: `raw` is the context that the kernel passed to the program: valid, aligned and
        // constant in type for as long as the program runs. The verifier checks each access.
        unsafe { &*self.raw }
    }

    /// The interface on which it came.
    #[inline(always)]
    pub(crate) fn ifindex(&self) -> u32 {
        self.raw().ifindex
    }

    /// The interface that it came in by; 0: it was made here.
    #[inline(always)]
    pub(crate) fn arrived_by(&self) -> u32 {
        self.raw().ingress_ifindex
    }

    /// Makes readable what [`Frame::at`] has to reach. False: no memory.
    #[inline(always)]
    pub(crate) fn pull(&self) -> bool {
        let len = self.raw().len as usize;
        let is_linear = |want| self.raw().data as usize + want <= self.raw().data_end as usize;
        if is_linear(if SHALLOW < len { SHALLOW } else { len }) {
            return true;
        }
        let want = reach(self.at::<2>(ETHERNET - 2).copied());
        let want = if want < len { want } else { len };
        if is_linear(want) {
            return true;
        }
        // SAFETY: a helper call with the program's own context. It moves the packet, and no
        // reference into the packet is alive yet.
        unsafe { bpf_skb_pull_data(self.raw, want as u32) == 0 }
    }

    /// Copies to where the sender cannot reach it what [`Frame::word`] reaches. False: no memory.
    #[inline(always)]
    pub(crate) fn pull_deep(&self) -> bool {
        // SCTP whose segments lie one behind the other: what is pulled out of the first would be
        // missing there. The kernel copied all of it from its sender.
        const GSO_BY_FRAGS: u32 = 0xffff;
        if self.raw().gso_size == GSO_BY_FRAGS {
            return self.pull();
        }
        let len = self.raw().len;
        let want = if len < DEPTH as u32 {
            len
        } else {
            DEPTH as u32
        };
        // SAFETY: as in `pull`.
        unsafe { bpf_skb_pull_data(self.raw, want) == 0 }
    }

    /// The same of all of it.
    #[inline(always)]
    pub(crate) fn pull_whole(&self) -> bool {
        // SAFETY: as in `pull`.
        unsafe { bpf_skb_pull_data(self.raw, self.raw().len) == 0 }
    }

    /// Leaves the decision where a test run can read it: the lower half first.
    #[inline(always)]
    pub(crate) fn set_cb(&self, bits: u64) {
        // SAFETY: as in `raw`; `cb` is writable for this type of program, and nothing else holds a
        // reference to it.
        unsafe { (*self.raw).cb = [bits as u32, (bits >> 32) as u32, 0, 0, 0] };
    }

    /// What [`Self::continue_in`] left.
    #[inline(always)]
    pub(crate) fn continued(&self) -> Verdict {
        let [low, high, ..] = self.raw().cb;
        Verdict::from_bits(u64::from(low) | u64::from(high) << 32)
    }

    /// Goes on in another program, and does not come back.
    #[inline(always)]
    pub(crate) fn continue_in(&self, ctx: &TcContext, program: u32, verdict: Verdict) -> i32 {
        self.set_cb(verdict.to_bits());
        // SAFETY: the programs in the map are of this type, and take the same context.
        unsafe { PROGRAMS.tail_call(ctx, program) };
        // It is not there: a port that is being made.
        self.shot(DropReason::NoPort as u32)
    }

    /// 4, 6, or what a frame says that is cut short.
    #[inline(always)]
    pub(crate) fn ip_version(&self) -> u8 {
        self.at::<1>(ETHERNET).map_or(0, |byte| byte[0] >> 4)
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

    /// The word that a test run passed in.
    #[inline(always)]
    pub(crate) fn mark(&self) -> u32 {
        self.raw().mark
    }

    /// Counts, and lets the packet die.
    pub(crate) fn shot(&self, reason: u32) -> i32 {
        self.count(reason);
        TC_ACT_SHOT
    }

    #[inline(always)]
    fn count(&self, reason: u32) {
        let key = DropKey {
            ifindex: self.ifindex(),
            reason,
        };
        if let Some(count) = DROPS.get_ptr_mut(key) {
            // SAFETY: a value of this CPU's own, valid until the program ends; a program on the
            // same CPU that interrupts this one can at worst lose a count.
            unsafe { *count += 1 };
        } else {
            // A full table leaves this reason uncounted for this device, nothing worse.
            let _: Result<(), i32> = DROPS.insert(key, 1, 0);
        }
    }

    /// To a device.
    #[inline(always)]
    pub(crate) fn deliver(&self, port: &PortEntry, owner: Owner) -> i32 {
        if owner.kind != OWNER_PEER {
            // SAFETY: a helper call with scalars.
            return unsafe { bpf_redirect(owner.ifindex, 0) as i32 };
        }
        if port.bits & PORT_SET_TYPE != 0 && self.raw().pkt_type == PACKET_OTHERHOST {
            // SAFETY: a helper call with the program's own context. It fails for types that we
            // do not pass.
            let _: i64 = unsafe { bpf_skb_change_type(self.raw, PACKET_HOST) };
        }
        // SAFETY: a helper call with scalars.
        unsafe { bpf_redirect_peer(owner.ifindex, 0) as i32 }
    }

    /// Out of the parent.
    #[inline(always)]
    pub(crate) fn wire(&self, port: &PortEntry) -> i32 {
        // SAFETY: a helper call with scalars.
        unsafe { bpf_redirect(port.ifindex, 0) as i32 }
    }

    /// Out of the parent, by the routes and neighbours of its namespace.
    ///
    /// Without a next hop the helper looks the route up as the driver does: from any source, out of
    /// this parent and no other.
    #[inline(always)]
    pub(crate) fn route(&self, port: &PortEntry) -> i32 {
        // SAFETY: a helper call with scalars; no parameters, so none are read.
        unsafe { bpf_redirect_neigh(port.ifindex, core::ptr::null_mut(), 0, 0) as i32 }
    }

    /// Into the stack of this namespace, whatever destination MAC address it was sent to; if the
    /// parent is here. Of a redirection the kernel itself finds out.
    #[inline(always)]
    pub(crate) fn pass(&self, port: &PortEntry) -> i32 {
        let mut mtu = 0;
        // What it says of the length is the stack's business.
        // SAFETY: a helper call with the program's own context, and a local that it may write.
        if unsafe { bpf_check_mtu(self.raw.cast(), port.ifindex, &raw mut mtu, 0, 0) } < 0 {
            return self.shot(DropReason::NotRouted as u32);
        }
        if port.bits & PORT_MARK != 0 {
            // SAFETY: as in `raw`; the kernel lets this type of program write the mark.
            unsafe { (*self.raw).mark = ROUTED_MARK };
        }
        if self.raw().pkt_type == PACKET_OTHERHOST {
            // SAFETY: a helper call with the program's own context. It fails for types that we do
            // not pass.
            let _: i64 = unsafe { bpf_skb_change_type(self.raw, PACKET_HOST) };
        }
        NEXT
    }

    /// Into the parent's stack.
    #[inline(always)]
    pub(crate) fn parent(&self, port: &PortEntry) -> i32 {
        // SAFETY: a helper call with scalars.
        unsafe { bpf_redirect(port.ifindex, u64::from(BPF_F_INGRESS)) as i32 }
    }

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
        // SAFETY: the map is not preallocated, so an entry is freed only after this program has ended.
        let Some(&DevEntry { slot, bits, .. }) = (unsafe { DEVS.get(host) }) else {
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

    /// A copy to every device but the one behind `sender`, unless this is beyond what it may have.
    #[inline(always)]
    pub(crate) fn flood(&self, port: &PortEntry, sender: u32) {
        let Some(full_at) = FLOODS.get_ptr_mut(self.ifindex() % SENDERS) else {
            return;
        };
        if !admit(&Account { full_at }, port.members) {
            self.count(DropReason::Flood as u32);
            return;
        }
        let mut walk = Copies { skb: *self, sender };
        // SAFETY: the callback has the signature that the helper calls, `walk` is what it expects
        // and outlives the call. No reference into the packet is alive.
        let _: i64 = unsafe {
            bpf_loop(
                port.members,
                copy_to as *mut c_void,
                (&raw mut walk).cast(),
                0,
            )
        };
    }

    /// Whether a checksum is still to be written into it (`CHECKSUM_PARTIAL`), wherever that may be.
    /// `None`: no memory.
    ///
    /// No helper tells. But the one that adjusts a checksum leaves the bytes alone in this case, so
    /// let it adjust two bytes, look, and put them back.
    #[inline(always)]
    pub(crate) fn has_pending_checksum(&self) -> Option<bool> {
        const SCRATCH: u32 = 14;
        let mut before = [0_u16; 1];
        let mut after = [0_u16; 1];
        // SAFETY: helper calls with the program's own context and buffers of the 2 bytes given.
        unsafe {
            let skb = self.raw;
            if bpf_skb_load_bytes(skb.cast(), SCRATCH, before.as_mut_ptr().cast(), 2) != 0
                || bpf_l4_csum_replace(skb, SCRATCH, 0, 1, 2) != 0
                || bpf_skb_load_bytes(skb.cast(), SCRATCH, after.as_mut_ptr().cast(), 2) != 0
                || bpf_skb_store_bytes(skb, SCRATCH, before.as_ptr().cast(), 2, 0) != 0
            {
                return None;
            }
        }
        Some(before[0] == after[0])
    }

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
    fn store<const N: usize>(&self, offset: u32, bytes: &[u8; N], flags: u64) -> bool {
        // SAFETY: a helper call with the program's own context and a source of the length given.
        unsafe {
            bpf_skb_store_bytes(self.raw, offset, bytes.as_ptr().cast(), N as u32, flags) == 0
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
}

/// What a sender of broadcast has used up.
struct Account {
    full_at: *mut u64,
}

impl Meter for Account {
    #[inline(always)]
    fn now(&self) -> u64 {
        // SAFETY: a helper call without arguments.
        unsafe { bpf_ktime_get_ns() }
    }

    #[inline(always)]
    fn full_at(&self) -> u64 {
        // SAFETY: points to an aligned value of a map that is never freed while programs run. Other
        // processors write it, as a whole.
        unsafe { self.full_at.read_volatile() }
    }

    #[inline(always)]
    fn set_full_at(&self, moment: u64) {
        // SAFETY: as in `full_at`.
        unsafe { self.full_at.write_volatile(moment) }
    }
}

/// What [`copy_to`] needs in each round.
struct Copies {
    skb: Skb,
    sender: u32,
}

/// One round of [`Skb::flood`]: a copy to the device in this slot. A callback of `bpf_loop`, which
/// the verifier walks once, however many devices there are.
unsafe extern "C" fn copy_to(slot: u32, walk: *mut c_void) -> i64 {
    const GO_ON: i64 = 0;
    // SAFETY: `flood` passes a pointer to its own Copies, which is alive and not borrowed during the
    // loop.
    let walk = unsafe { &*walk.cast::<Copies>() };
    let Some(&member) = MEMBERS.get(slot) else {
        return GO_ON;
    };
    if member == 0 || member == walk.sender {
        return GO_ON;
    }
    // SAFETY: a helper call with the program's own context, which it copies.
    // Positive: a queue was full, unless nobody is there to hear it: a tap without a guest.
    let sent = unsafe { bpf_clone_redirect(walk.skb.raw, member, 0) };
    if sent != 0 && sent != NET_XMIT_CN {
        walk.skb.count(DropReason::Copy as u32);
    }
    GO_ON
}

/// What [`one_round`] needs.
struct Way<W> {
    skb: Skb,
    walk: *mut W,
}

/// One round of [`Frame::walk`]. A callback of `bpf_loop`.
unsafe extern "C" fn one_round<W: Walk>(_: u32, way: *mut c_void) -> i64 {
    const GO_ON: i64 = 0;
    const STOP: i64 = 1;
    // SAFETY: `walk` passes a pointer to its own Way, whose walk nobody else looks at during the loop.
    let (skb, walk) = unsafe {
        let way = &*way.cast::<Way<W>>();
        (way.skb, &mut *way.walk)
    };
    if walk.round(&skb) { GO_ON } else { STOP }
}

impl Frame for Skb {
    #[inline(always)]
    fn len(&self) -> u32 {
        self.raw().len
    }

    #[inline(always)]
    fn at<const N: usize>(&self, offset: usize) -> Option<&[u8; N]> {
        // The verifier wants a bound of its own on the offset, before the one by the packet.
        if offset > PORTS - N {
            return None;
        }
        let start = self.raw().data as usize + offset;
        if start + N > self.raw().data_end as usize {
            return None;
        }
        // SAFETY: data <= start and start + N <= data_end, as compared just above; the verifier
        // proves it again. Any bytes are a [u8; N], and alignment is 1. The reference ends before
        // the next helper that moves the packet: `core` calls none.
        Some(unsafe { &*(start as *const [u8; N]) })
    }

    #[inline(always)]
    fn word(&self, offset: usize) -> Option<u64> {
        if offset > DEPTH - 8 {
            return None;
        }
        let mut word = 0_u64;
        // SAFETY: a helper call with the program's own context and a buffer of the 8 bytes given.
        let failed = unsafe {
            bpf_skb_load_bytes(self.raw.cast(), offset as u32, (&raw mut word).cast(), 8) != 0
        };
        if failed { None } else { Some(word) }
    }

    #[inline(always)]
    fn pair(&self, offset: usize) -> Option<[u8; 2]> {
        let mut pair = [0; 2];
        // SAFETY: a helper call with the program's own context and a buffer of the 2 bytes given.
        let failed = unsafe {
            bpf_skb_load_bytes(self.raw.cast(), offset as u32, (&raw mut pair).cast(), 2) != 0
        };
        if failed { None } else { Some(pair) }
    }

    #[inline(always)]
    fn walk<W: Walk>(&self, walk: &mut W) {
        const {
            assert!(size_of::<W>() <= size_of::<Scratch>());
            assert!(align_of::<W>() <= align_of::<Scratch>());
        }
        // In a map, not on the stack: before Linux 6.7 the verifier takes it for granted that a loop
        // makes one round, and removes what cannot be reached after one. Of what is in a map it
        // takes nothing for granted.
        let Some(scratch) = SCRATCH.get_ptr_mut(0) else {
            return;
        };
        let scratch: *mut W = scratch.cast();
        let mut way = Way {
            skb: *self,
            walk: scratch,
        };
        // SAFETY: the entry of the map is large and aligned enough for a W, as asserted, and nobody else
        // uses it meanwhile: it is this processor's, and programs of tc do not interrupt each other.
        // The callback has the signature that the helper calls, `way` is what it expects, and
        // both it and what it points to outlive the call and are not borrowed meanwhile.
        unsafe {
            scratch.write_volatile(*walk);
            let _: i64 = bpf_loop(
                W::ROUNDS,
                one_round::<W> as *mut c_void,
                (&raw mut way).cast(),
                0,
            );
            *walk = scratch.read_volatile();
        }
    }

    #[inline(always)]
    fn is_tagged(&self) -> bool {
        // Without a tag this is 0.
        self.raw().vlan_tci & VLAN_ID_MASK != 0
    }

    #[inline(always)]
    fn is_for_another_host(&self) -> bool {
        self.raw().pkt_type == PACKET_OTHERHOST
    }

    #[inline(always)]
    fn is_to_be_segmented(&self) -> bool {
        self.raw().gso_size != 0
    }
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

const _: () = assert!(TC_ACT_REDIRECT == 7);
