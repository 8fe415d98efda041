//! Receive: a frame came in on the parent. Whose is it?
//!
//! ```text
//! unicast:    owner of the destination address ─ a device ─► Deliver
//!                                              └ else ─────► Pass
//! broadcast,  ARP request, solicitation: owner of the target ─ a device ─► Deliver
//! multicast                                                  └ else ─────► Pass
//! (l2 only)   sent by ourselves, or bridges' own: Pass
//!             anything else: Flood
//! ```
//!
//! A question whether an address is free goes to all while it has no owner: a device that is about
//! to take it owns it only later. One unicast is flooded too: the answer to an ARP probe, which names nobody as its target.
//!
//! So does every question while it has no owner, if there are guests whose addresses are learnt
//! ([`mod@crate::learn`]): one of them may have it.
//!
//! A question goes to whom it asks for, so that its cost does not grow with the number of devices;
//! the driver copies it to all of them. What has no owner passes untouched.
//!
//! A DHCP reply names the device that it is for, which has no address yet ([`dhcp`]).
//!
//! VLAN-tagged frames are not ours: they belong to the parent's VLAN devices. Frames for another
//! MAC address, which a promiscuous parent sees, are nobody's.
//!
//! l3s: everything passes. The parent's stack filters it, and routes to the host end what is a
//! device's.
//!
//! Limits: no look-up inside tunnels. In l3 a device gets nothing that was sent to a group MAC
//! address, and ARP stays with the parent's stack, so that proxy ARP works there.
//!
//! Kernel: `ipvlan_handle_frame()`, `ipvlan_handle_mode_l2()`, `ipvlan_handle_mode_l3()`; in l3s
//! `ipvlan_l3_rcv()` and `ipvlan_nf_input()`, for which forwarding stands here.

use ipvlan_abi::{Mode, Owner, PortEntry};

use crate::dhcp::{self, Addressee, Role};
use crate::frame::{ARP, Ethernet, Frame, IPV4, IPV6, MAC_CONTROL, Mac, VLAN, VLAN_SERVICE};
use crate::l3::{Arp, Owners, destination_owner, v4_owner, v6_owner};
use crate::nd::{is_from_nobody, solicited};
use crate::verdict::Verdict;

/// Decides on a frame that the parent received.
#[inline(always)]
pub fn rx<F: Frame, O: Owners>(port: &PortEntry, frame: &F, owners: &O) -> Verdict {
    let Some(ethernet) = Ethernet::of(frame) else {
        return Verdict::PASS;
    };
    if frame.is_tagged() || frame.is_for_another_host() {
        return Verdict::PASS;
    }
    let group = ethernet.destination.is_group();
    match port.mode() {
        Mode::L2 if group => rx_group(port, ethernet, frame, owners),
        Mode::L3 if group => Verdict::PASS,
        Mode::L3s => Verdict::PASS,
        Mode::L2 if ethernet.ethertype == ARP => match Arp::of(frame) {
            // Not from one of us: who may hear a sibling is decided where it sends, and what comes
            // by way of the parent's ingress was not for a sibling there.
            Some(arp) if arp.answers_a_probe() && ethernet.source != Mac::of(&port.mac) => {
                Verdict::FLOOD
            }
            Some(arp) => deliver_or_pass(v4_owner(port, arp.target, owners)),
            None => Verdict::PASS,
        },
        Mode::L2 => match destination_owner(port, frame, ethernet.ethertype, owners) {
            owner if owner.is_device() => rx_own(port, ethernet, frame, owner),
            // Access points and bridges send some multicast to each station by unicast.
            Owner::NOBODY if ethernet.ethertype == IPV6 => match solicited(frame) {
                0 => Verdict::PASS,
                target => deliver_or_pass(v6_owner(port, &target.to_le_bytes(), owners)),
            },
            owner => deliver_or_pass(owner),
        },
        Mode::L3 => deliver_or_pass(destination_owner(port, frame, ethernet.ethertype, owners)),
    }
}

/// To a device's address.
#[inline(always)]
fn rx_own<F: Frame>(port: &PortEntry, ethernet: Ethernet, frame: &F, owner: Owner) -> Verdict {
    let role = match ethernet.ethertype {
        IPV4 => dhcp::role4(frame),
        IPV6 => dhcp::role6(frame),
        _ => Role::Other,
    };
    match role {
        // A sibling's, reflected by a switch (vepa).
        Role::Reply if ethernet.source == Mac::of(&port.mac) => Verdict::PASS,
        Role::Reply => Verdict::lease(owner),
        Role::Other | Role::Request | Role::Odd => Verdict::deliver(owner),
    }
}

#[inline(always)]
fn rx_group<F: Frame, O: Owners>(
    port: &PortEntry,
    ethernet: Ethernet,
    frame: &F,
    owners: &O,
) -> Verdict {
    // Our own broadcast, sent back by the switch: everybody here has had it.
    if ethernet.source == Mac::of(&port.mac) || ethernet.destination.is_link_local_group() {
        return Verdict::PASS;
    }
    match ethernet.ethertype {
        VLAN | VLAN_SERVICE | MAC_CONTROL => Verdict::PASS,
        ARP => match Arp::of(frame) {
            Some(arp) if arp.is_question() => match v4_owner(port, arp.target, owners) {
                Owner::NOBODY if arp.is_from_nobody() || port.learns() => Verdict::FLOOD,
                owner => deliver_or_pass(owner),
            },
            _ => Verdict::FLOOD,
        },
        IPV4 => match dhcp::role4(frame) {
            Role::Reply => match dhcp::addressee(port, frame) {
                Addressee::Parent => Verdict::PASS,
                Addressee::Nobody => Verdict::FLOOD,
                Addressee::Device => Verdict::lease(Owner::NOBODY),
            },
            Role::Other | Role::Request | Role::Odd => Verdict::FLOOD,
        },
        IPV6 => match solicited(frame) {
            0 => Verdict::FLOOD,
            target => match v6_owner(port, &target.to_le_bytes(), owners) {
                Owner::NOBODY if is_from_nobody(frame) || port.learns() => Verdict::FLOOD,
                owner => deliver_or_pass(owner),
            },
        },
        _ => Verdict::FLOOD,
    }
}

#[inline(always)]
fn deliver_or_pass(owner: Owner) -> Verdict {
    if owner.is_device() {
        Verdict::deliver(owner)
    } else {
        Verdict::PASS
    }
}
