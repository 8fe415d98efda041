//! The packet that a hook was called with: what `core` may read of it. What is done with it is in files of
//! its own.
//!
//! | file | what |
//! |---|---|
//! | `rewrite.rs` | what is written into it |
//! | `send.rs` | where it goes: a device, the wire, a stack, all devices, nowhere |
//! | `guest.rs` | what is heard from a guest behind a tap, answered and sent to it |
//!
//! All of this crate's `unsafe` is in these files and in `tables.rs`: packet pointers, map values and
//! helper calls.
//!
//! The packet is never written through a pointer. A program that does gets a prologue that unshares
//! every packet, and TCP sends all of its packets shared; the helpers that write cost more, but are
//! called for few packets, and for those to a guest.
#![expect(
    clippy::cast_possible_truncation,
    reason = "lengths below DEPTH, and halves of a word"
)]

mod guest;
mod rewrite;
mod send;

use core::ffi::c_void;

use aya_ebpf::bindings::{__sk_buff, TC_ACT_UNSPEC};
use aya_ebpf::helpers::{
    bpf_l4_csum_replace, bpf_loop, bpf_skb_load_bytes, bpf_skb_pull_data, bpf_skb_store_bytes,
};
use aya_ebpf::programs::TcContext;
use ipvlan_core::frame::{ETHERNET, PORTS, SHALLOW, Walk, reach};
use ipvlan_core::{DEPTH, Frame};

use crate::maps::{SCRATCH, Scratch};

/// What a program says for "go on as if I were not here": the next program, then the stack.
pub(crate) const NEXT: i32 = TC_ACT_UNSPEC;

const PACKET_OTHERHOST: u32 = 3;
const VLAN_ID_MASK: u32 = 0x0fff;

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

    /// The word that a test run passed in.
    #[inline(always)]
    pub(crate) fn mark(&self) -> u32 {
        self.raw().mark
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

    /// 4, 6, or what a frame says that is cut short.
    #[inline(always)]
    pub(crate) fn ip_version(&self) -> u8 {
        self.at::<1>(ETHERNET).map_or(0, |byte| byte[0] >> 4)
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

    /// Leaves the decision where a test run can read it: the lower half first.
    #[inline(always)]
    pub(crate) fn set_cb(&self, bits: u64) {
        // SAFETY: as in `raw`; `cb` is writable for this type of program, and nothing else holds a
        // reference to it.
        unsafe { (*self.raw).cb = [bits as u32, (bits >> 32) as u32, 0, 0, 0] };
    }
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
