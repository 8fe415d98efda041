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
mod tables;

use aya_ebpf::macros::classifier;
use aya_ebpf::programs::TcContext;
use ipvlan_abi::{DEEP_EGRESS, DropReason, LEASE_REPLY, LEASE_REQUEST, PortEntry};
use ipvlan_core::guest::{
    Question, advertisement, arp_answer, is_for_one, is_of_host, own_mac, question,
};
use ipvlan_core::learn::{Claim, claim};
use ipvlan_core::{Action, Fix, Verdict, dhcp, rx, tx, tx_shallow};

use crate::skb::{NEXT, Skb};
use crate::tables::{Tables, member, port, slot};

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
        Action::Lease => skb.continue_in(&ctx, LEASE_REPLY, verdict),
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
    match tx_shallow(port, skb.ifindex(), &skb, &Tables) {
        Verdict::DEEP if skb.pull_deep() => skb.continue_in(&ctx, DEEP_EGRESS, Verdict::DEEP),
        Verdict::DEEP => skb.shot(DropReason::Rewrite as u32),
        verdict => send(&ctx, skb, port, verdict),
    }
}

/// Goes on from `device_egress` with a frame that could be ND, or that its sender could still change
/// where it is looked at.
#[classifier]
fn deep_egress(ctx: TcContext) -> i32 {
    let skb = Skb::new(&ctx);
    let Some(port) = port() else {
        return skb.shot(DropReason::NoPort as u32);
    };
    // All of it is there already; this tells the verifier.
    if !skb.pull() {
        return skb.shot(DropReason::Rewrite as u32);
    }
    let verdict = tx(port, skb.ifindex(), &skb, &Tables);
    send(&ctx, skb, port, verdict)
}

/// Does to a frame that a device sent what was decided.
#[inline(always)]
fn send(ctx: &TcContext, skb: Skb, port: &PortEntry, verdict: Verdict) -> i32 {
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
        Action::Lease => skb.continue_in(ctx, LEASE_REQUEST, verdict),
        Action::Drop => skb.shot(verdict.reason()),
    }
}

/// Goes on from `device_egress` with a DHCP request: writes the device's identity into it.
#[classifier]
fn lease_request(ctx: TcContext) -> i32 {
    let skb = Skb::new(&ctx);
    let (Some(port), Some(slot)) = (port(), slot(skb.ifindex())) else {
        return skb.shot(DropReason::NoPort as u32);
    };
    if !skb.pull_whole() {
        return skb.shot(DropReason::Rewrite as u32);
    }
    let version = skb.ip_version();
    let places = match dhcp::request(version, &skb) {
        Ok(places) => places,
        Err(reason) => return skb.shot(reason as u32),
    };
    if !skb.write_identity(version, places, port.dhcp_identity(slot)) {
        return skb.shot(DropReason::Rewrite as u32);
    }
    skb.wire(port)
}

/// Goes on from `parent_ingress` with a DHCP reply: puts back what the device had written.
#[classifier]
fn lease_reply(ctx: TcContext) -> i32 {
    let skb = Skb::new(&ctx);
    let Some(port) = port() else { return NEXT };
    let owner = skb.continued().owner();
    let version = skb.ip_version();
    let slot = match version {
        4 => dhcp::named(port, &skb),
        // There is no telling but by the address.
        _ => slot(owner.ifindex).unwrap_or(u32::MAX),
    };
    let host = member(slot);
    let owner = dhcp::receiver(owner, host);
    if !owner.is_device() {
        return NEXT;
    }
    // What is for the address of another than it names is delivered as it is.
    if owner.ifindex == host {
        if version == 4 {
            skb.learn(host, Claim::v4(dhcp::acknowledged(&skb)));
        }
        let places = dhcp::reply(version, port, slot, &skb);
        if !skb.restore_client(version, places, host) {
            return skb.shot(DropReason::Rewrite as u32);
        }
    }
    skb.deliver(port, owner)
}

/// tc ingress of a tap, in front of `device_egress`: frames that the guest sent.
#[classifier]
fn guest_egress(ctx: TcContext) -> i32 {
    let skb = Skb::new(&ctx);
    let Some(port) = port() else { return NEXT };
    if !skb.pull() {
        return NEXT;
    }
    skb.remember_guest(own_mac(&skb));
    skb.learn(skb.ifindex(), claim(&skb));
    match question(port, skb.ifindex(), &skb, &Tables) {
        Question::None => NEXT,
        Question::Arp => skb.answer(arp_answer(port, &skb)),
        Question::Neighbour => skb.answer(advertisement(port, true, &skb)),
        Question::Reachability => skb.answer(advertisement(port, false, &skb)),
    }
}

/// tc egress of a tap: frames that are about to reach the guest.
#[classifier]
fn guest_ingress(ctx: TcContext) -> i32 {
    let skb = Skb::new(&ctx);
    if !skb.pull() {
        return skb.shot(DropReason::Rewrite as u32);
    }
    if is_of_host(skb.arrived_by(), &skb) {
        return skb.shot(DropReason::HostStack as u32);
    }
    if is_for_one(&skb) && !skb.address_guest() {
        return skb.shot(DropReason::Rewrite as u32);
    }
    NEXT
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
        sender => match tx_shallow(port, sender, &skb, &Tables) {
            Verdict::DEEP => tx(port, sender, &skb, &Tables),
            verdict => verdict,
        },
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
