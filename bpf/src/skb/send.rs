//! Where a packet goes: to a device, to all of them, onto the wire, into a stack, into another program, or
//! nowhere. What dies is counted.
#![expect(
    clippy::cast_possible_truncation,
    reason = "helpers that answer with an i32 in an i64"
)]

use core::ffi::c_void;

use aya_ebpf::bindings::{BPF_F_INGRESS, TC_ACT_REDIRECT, TC_ACT_SHOT};
use aya_ebpf::helpers::{
    bpf_check_mtu, bpf_clone_redirect, bpf_ktime_get_ns, bpf_loop, bpf_redirect,
    bpf_redirect_neigh, bpf_redirect_peer, bpf_skb_change_type,
};
use aya_ebpf::programs::TcContext;
use ipvlan_abi::{
    DropKey, DropReason, OWNER_PEER, Owner, PORT_MARK, PORT_SET_TYPE, PortEntry, ROUTED_MARK,
    SENDERS,
};
use ipvlan_core::{Meter, Verdict, admit};

use super::{NEXT, PACKET_OTHERHOST, Skb};
use crate::maps::{DROPS, FLOODS, MEMBERS, PROGRAMS};

const PACKET_HOST: u32 = 0;
/// What the queue of an interface that is down or has no carrier says (`noop_enqueue()`).
const NET_XMIT_CN: i64 = 2;

impl Skb {
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

    /// Into the parent's stack.
    #[inline(always)]
    pub(crate) fn parent(&self, port: &PortEntry) -> i32 {
        // SAFETY: a helper call with scalars.
        unsafe { bpf_redirect(port.ifindex, u64::from(BPF_F_INGRESS)) as i32 }
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
            // SAFETY: `raw` is the context that the kernel passed to the program. It lets this type of
            // program write the mark, and nothing else holds a reference to it.
            unsafe { (*self.raw).mark = ROUTED_MARK };
        }
        if self.raw().pkt_type == PACKET_OTHERHOST {
            // SAFETY: a helper call with the program's own context. It fails for types that we do
            // not pass.
            let _: i64 = unsafe { bpf_skb_change_type(self.raw, PACKET_HOST) };
        }
        NEXT
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

    /// Goes on in another program, and does not come back.
    #[inline(always)]
    pub(crate) fn continue_in(&self, ctx: &TcContext, program: u32, verdict: Verdict) -> i32 {
        self.set_cb(verdict.to_bits());
        // SAFETY: the programs in the map are of this type, and take the same context.
        unsafe { PROGRAMS.tail_call(ctx, program) };
        // It is not there: a port that is being made.
        self.shot(DropReason::NoPort as u32)
    }

    /// What [`Self::continue_in`] left.
    #[inline(always)]
    pub(crate) fn continued(&self) -> Verdict {
        let [low, high, ..] = self.raw().cb;
        Verdict::from_bits(u64::from(low) | u64::from(high) << 32)
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

const _: () = assert!(TC_ACT_REDIRECT == 7);
