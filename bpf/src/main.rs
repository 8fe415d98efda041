//! The eBPF programs: one per hook, each a few lines. What is decided, and why: `ipvlan_core`.
//!
//! An object is loaded once for each parent, so its maps hold one port and need no parent in their
//! keys.
//!
//! Licence of the object: `Dual MIT/GPL`, because the kernel lends some of the helpers to programs
//! under the GPL only.
#![no_std]
#![no_main]

mod maps;
mod skb;

use aya_ebpf::macros::classifier;
use aya_ebpf::programs::TcContext;
use ipvlan_abi::DropReason;
use ipvlan_core::{Action, Fix, rx, tx};

use crate::skb::{NEXT, Skb, Tables, port};

/// tc ingress of the parent: frames from the wire.
#[classifier]
fn parent_ingress(ctx: TcContext) -> i32 {
    let skb = Skb::new(&ctx);
    let Some(port) = port() else { return NEXT };
    // A parent that has just gone to another namespace: the owners are not there.
    if skb.ifindex() != port.ifindex {
        return NEXT;
    }
    if !skb.pull() {
        return NEXT;
    }
    let verdict = rx(port, &skb, &Tables);
    match verdict.action() {
        Action::Deliver => skb.deliver(port, verdict.owner()),
        Action::Flood => {
            skb.flood(port, 0);
            NEXT
        }
        // The rest cannot come from `rx`.
        Action::Pass | Action::Wire | Action::Route | Action::Parent | Action::Drop => NEXT,
    }
}

/// tc ingress of a host end: frames that the device sent.
#[classifier]
fn device_egress(ctx: TcContext) -> i32 {
    let skb = Skb::new(&ctx);
    let Some(port) = port() else {
        return skb.shot(DropReason::NoPort as u32);
    };
    if !skb.pull() {
        return skb.shot(DropReason::Rewrite as u32);
    }
    let verdict = tx(port, skb.ifindex(), &skb, &Tables);
    let fix = verdict.fix();
    if !fix.is_nothing() {
        if fix.has(Fix::SEALED) {
            match skb.has_pending_checksum() {
                Some(false) => {}
                Some(true) => return skb.shot(DropReason::ChecksumPending as u32),
                None => return skb.shot(DropReason::Rewrite as u32),
            }
        }
        if !skb.rewrite(port, fix) {
            return skb.shot(DropReason::Rewrite as u32);
        }
    }
    match verdict.action() {
        Action::Deliver => skb.deliver(port, verdict.owner()),
        Action::Wire => skb.wire(port),
        Action::Route => skb.route(port),
        Action::Parent => skb.parent(port),
        Action::Flood => {
            skb.flood(port, skb.ifindex());
            skb.wire(port)
        }
        Action::Pass => skb.pass(port),
        Action::Drop => skb.shot(verdict.reason()),
    }
}

/// For `bpf_prog_test_run` only: the decisions alone, to be compared with the native build. The
/// mark says which: 0 is rx, anything else is the sending host end of tx.
#[classifier]
fn decide(ctx: TcContext) -> i32 {
    let skb = Skb::new(&ctx);
    let Some(port) = port() else { return -2 };
    if !skb.pull() {
        return -2;
    }
    let verdict = match skb.mark() {
        0 => rx(port, &skb, &Tables),
        sender => tx(port, sender, &skb, &Tables),
    };
    skb.set_cb(verdict.to_bits());
    0
}

#[unsafe(no_mangle)]
#[unsafe(link_section = "license")]
static LICENSE: [u8; 13] = *b"Dual MIT/GPL\0";

#[panic_handler]
fn panic(_info: &core::panic::PanicInfo<'_>) -> ! {
    // Never reached: the build fails when the object names a function that panics.
    loop {}
}
