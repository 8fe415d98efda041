//! Transmit: a device sent a frame. Where does it go, and what must not leave with it?
//!
//! The sender is a namespace that may be hostile. Whatever its frames say, the wire sees one MAC
//! address, the parent's: a foreign Ethernet source, ARP sender or ND option is overwritten
//! ([`Fix`]); what could hide one, or has no other use than to interfere with the link itself, is
//! dropped. The driver lets all of it pass.
//!
//! l2: a frame to the parent's own MAC address is for a sibling, or else for the parent's stack;
//! any other unicast is for the wire. A question (ARP request, neighbour solicitation) goes to the
//! sibling that owns what it asks for, or else to the wire. Other broadcast and multicast goes to
//! every sibling and to the wire.
//!
//! l3: what the device wrote into the Ethernet header means nothing. The destination address is a
//! sibling's, the parent's, or is routed by the parent's namespace.
//!
//! l3s: the same, but what is no sibling's goes to the stack of the parent's namespace as a packet
//! that came in on the host end, to be filtered and forwarded; if that namespace forwards for devices.
//!
//! private: nothing goes to a sibling, broadcast included (the driver stops unicast only).
//! vepa: unicast that would go to a sibling, and in l2 to the parent, goes to the wire; broadcast goes
//! to both, and a question to whom it asks for.
//!
//! The answer to an ARP probe names nobody as its target, so it goes to every sibling, although it is
//! unicast, and like every flood to the wire, which ignores it.
//!
//! What DHCP clients ask goes to the wire, and tells them apart ([`dhcp`]).
//!
//! Limits: source IP addresses are not checked. A frame longer than the parent's MTU is dropped,
//! not fragmented.
//!
//! Kernel: `ipvlan_xmit_mode_l2()`, `ipvlan_xmit_mode_l3()`, `ipvlan_process_outbound()`.

use ipvlan_abi::{DropReason, Flag, Mode, OWNER_PARENT, Owner, PORT_ROUTED, PortEntry};

use crate::dhcp::{self, Role};
use crate::frame::{
    ARP, ETHERNET, ETHERNET_BYTES, Ethernet, FIRST_ETHERTYPE, Frame, IPV4, IPV6, MAC_CONTROL, Mac,
    RARP, VLAN, VLAN_OLD, VLAN_SERVICE,
};
use crate::l3::{
    ARP_BYTES, ARP_SENDER_MAC, Arp, Owners, destination_owner, v4_destination, v4_owner,
    v6_destination, v6_owner,
};
use crate::nd;
use crate::verdict::{Action, Fix, Verdict};

/// Decides on a frame that came out of the device whose host end is `sender`, all of whose headers
/// are out of the sender's reach.
#[inline(always)]
pub fn tx<F: Frame, O: Owners>(port: &PortEntry, sender: u32, frame: &F, owners: &O) -> Verdict {
    decide::<true, F, O>(port, sender, frame, owners)
}

/// The same of a frame of which that is sure for the first [`reach`](crate::frame::reach) bytes only:
/// decides as [`tx`] does, or says [`Verdict::DEEP`], because it matters what is behind.
///
/// Decided here is what most frames are: TCP and UDP, IPv4 and ARP. There is nothing to walk, so it is
/// also quickly verified.
#[inline(always)]
pub fn tx_shallow<F: Frame, O: Owners>(
    port: &PortEntry,
    sender: u32,
    frame: &F,
    owners: &O,
) -> Verdict {
    decide::<false, F, O>(port, sender, frame, owners)
}

#[inline(always)]
fn decide<const DEEP: bool, F: Frame, O: Owners>(
    port: &PortEntry,
    sender: u32,
    frame: &F,
    owners: &O,
) -> Verdict {
    let Some(ethernet) = Ethernet::of(frame) else {
        return Verdict::drop(DropReason::Runt);
    };
    if frame.is_tagged() {
        return Verdict::drop(DropReason::Vlan);
    }
    match port.mode() {
        Mode::L2 => tx_l2::<DEEP, F, O>(port, sender, ethernet, frame, owners),
        Mode::L3 | Mode::L3s => tx_l3::<DEEP, F, O>(port, ethernet, frame, owners),
    }
}

#[inline(always)]
fn tx_l2<const DEEP: bool, F: Frame, O: Owners>(
    port: &PortEntry,
    sender: u32,
    ethernet: Ethernet,
    frame: &F,
    owners: &O,
) -> Verdict {
    let own = Mac::of(&port.mac);
    let fix = Fix::SOURCE.when(ethernet.source != own);
    let fix = match ethernet.ethertype {
        IPV4 if !DEEP && dhcp::may_change4(frame) => return Verdict::DEEP,
        IPV4 => match dhcp::role4(frame) {
            Role::Other => fix,
            role => return tx_dhcp(port, role, ethernet, frame, owners).with(fix),
        },
        IPV6 if !DEEP && (nd::may_be_nd(frame) || dhcp::may_change6(frame)) => {
            return Verdict::DEEP;
        }
        IPV6 => match dhcp::role6(frame) {
            Role::Other if DEEP => match nd::inspect(own, frame) {
                Ok(found) => fix.and(found),
                Err(reason) => return Verdict::drop(reason),
            },
            Role::Other => fix,
            role => return tx_dhcp(port, role, ethernet, frame, owners).with(fix),
        },
        ARP => match arp_sender(own, frame) {
            Some(found) => fix.and(found),
            None => return Verdict::drop(DropReason::ArpMalformed),
        },
        RARP => return Verdict::drop(DropReason::Rarp),
        VLAN | VLAN_SERVICE | VLAN_OLD => return Verdict::drop(DropReason::Vlan),
        0..FIRST_ETHERTYPE => return Verdict::drop(DropReason::Llc),
        MAC_CONTROL => return Verdict::drop(DropReason::LinkLocalGroup),
        _ => fix,
    };
    if ethernet.destination == own {
        return tx_own(port, ethernet, frame, owners).with(fix);
    }
    if ethernet.destination.is_group() {
        return tx_group::<DEEP, F, O>(port, sender, ethernet, frame, owners).with(fix);
    }
    send(port, frame, Verdict::WIRE).with(fix)
}

/// A DHCP message.
#[inline(always)]
fn tx_dhcp<F: Frame, O: Owners>(
    port: &PortEntry,
    role: Role,
    ethernet: Ethernet,
    frame: &F,
    owners: &O,
) -> Verdict {
    if matches!(role, Role::Odd) {
        return Verdict::drop(DropReason::Dhcp);
    }
    let is_reply = matches!(role, Role::Reply);
    if ethernet.destination == Mac::of(&port.mac) && !matches!(port.flag(), Flag::Vepa) {
        let verdict = tx_own(port, ethernet, frame, owners);
        return if is_reply && matches!(verdict.action(), Action::Deliver) {
            Verdict::drop(DropReason::DhcpServer)
        } else {
            verdict
        };
    }
    let verdict = if is_reply {
        Verdict::WIRE
    } else {
        Verdict::lease(Owner::NOBODY)
    };
    send(port, frame, verdict)
}

/// What has to be written into ARP; `None` when that cannot be told.
#[inline(always)]
fn arp_sender<F: Frame>(own: Mac, frame: &F) -> Option<Fix> {
    // Hardware and protocol type, then the two lengths: only so is the sender's address where we
    // look for it.
    let Some([0, 1, 0x08, 0, 6, 4]) = frame.at::<6>(ETHERNET) else {
        return None;
    };
    if frame.len() < ETHERNET_BYTES + ARP_BYTES {
        return None;
    }
    let sender = Mac::of(frame.at::<6>(ARP_SENDER_MAC)?);
    Some(Fix::SEALED.and(Fix::ARP_SENDER.when(sender != own)))
}

/// To the MAC address that all of us have.
#[inline(always)]
fn tx_own<F: Frame, O: Owners>(
    port: &PortEntry,
    ethernet: Ethernet,
    frame: &F,
    owners: &O,
) -> Verdict {
    let flag = port.flag();
    if matches!(flag, Flag::Vepa) {
        return send(port, frame, Verdict::WIRE);
    }
    let owner = match ethernet.ethertype {
        ARP => match Arp::of(frame) {
            // One of us has asked, and the answer does not say who.
            Some(arp) if arp.answers_a_probe() && matches!(flag, Flag::Bridge) => {
                return send(port, frame, Verdict::FLOOD);
            }
            Some(arp) => v4_owner(port, arp.target, owners),
            None => return Verdict::PARENT,
        },
        ethertype => destination_owner(port, frame, ethertype, owners),
    };
    if !owner.is_device() {
        return Verdict::PARENT;
    }
    match flag {
        Flag::Private => Verdict::drop(DropReason::Private),
        Flag::Bridge | Flag::Vepa => Verdict::deliver(owner),
    }
}

/// Broadcast and multicast.
#[inline(always)]
fn tx_group<const DEEP: bool, F: Frame, O: Owners>(
    port: &PortEntry,
    sender: u32,
    ethernet: Ethernet,
    frame: &F,
    owners: &O,
) -> Verdict {
    if ethernet.destination.is_link_local_group() {
        return Verdict::drop(DropReason::LinkLocalGroup);
    }
    if matches!(port.flag(), Flag::Private) {
        return send(port, frame, Verdict::WIRE);
    }
    // A probe concerns whoever tries the same address at this moment, and is no owner yet; also when
    // its sender already counts as the owner.
    let asked = match ethernet.ethertype {
        ARP => match Arp::of(frame) {
            Some(arp) if arp.is_question() => match v4_owner(port, arp.target, owners) {
                owner if is_open(owner, sender) && arp.is_from_nobody() => {
                    return send(port, frame, Verdict::FLOOD);
                }
                Owner::NOBODY if port.learns() => return send(port, frame, Verdict::FLOOD),
                owner => owner,
            },
            _ => return send(port, frame, Verdict::FLOOD),
        },
        IPV6 if !DEEP => return send(port, frame, Verdict::FLOOD),
        IPV6 => match nd::solicited(frame) {
            0 => return send(port, frame, Verdict::FLOOD),
            target => match v6_owner(port, &target.to_le_bytes(), owners) {
                owner if is_open(owner, sender) && nd::is_from_nobody(frame) => {
                    return send(port, frame, Verdict::FLOOD);
                }
                Owner::NOBODY if port.learns() => return send(port, frame, Verdict::FLOOD),
                owner => owner,
            },
        },
        _ => return send(port, frame, Verdict::FLOOD),
    };
    // Asking for an address of one's own is looking for a duplicate, and that is out there.
    if asked.is_device() && asked.ifindex != sender {
        Verdict::deliver(asked)
    } else {
        send(port, frame, Verdict::WIRE)
    }
}

/// Whether nobody has the address for certain but, perhaps, the sender.
#[inline(always)]
fn is_open(owner: Owner, sender: u32) -> bool {
    owner.ifindex == 0 || owner.ifindex == sender
}

#[inline(always)]
fn tx_l3<const DEEP: bool, F: Frame, O: Owners>(
    port: &PortEntry,
    ethernet: Ethernet,
    frame: &F,
    owners: &O,
) -> Verdict {
    let owner = match ethernet.ethertype {
        IPV4 => match v4_destination(frame) {
            // Class D, and 255.255.255.255 with the rest of the reserved class E.
            Some([224..=255, ..]) => return Verdict::drop(DropReason::Group),
            // 127.0.0.0/8 must not appear outside of a host (RFC 1122 section 3.2.1.3).
            Some([127, ..] | [0, 0, 0, 0]) | None => {
                return Verdict::drop(DropReason::IpMalformed);
            }
            Some(address) => v4_owner(port, address, owners),
        },
        IPV6 => match v6_destination(frame) {
            Some([0xff, ..]) => return Verdict::drop(DropReason::Group),
            // :: and ::1 stay inside of a host, too (RFC 4291 section 2.5).
            Some([0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0 | 1]) | None => {
                return Verdict::drop(DropReason::IpMalformed);
            }
            // With a link-layer option in it, and by a route, it would say to the LAN what ARP may
            // not say here either.
            Some(_) if !DEEP && nd::may_be_nd(frame) => return Verdict::DEEP,
            Some(address) if !DEEP => v6_owner(port, address, owners),
            Some(address) => match nd::is_nd(frame) {
                Ok(false) => v6_owner(port, address, owners),
                Ok(true) => return Verdict::drop(DropReason::NotIp),
                Err(reason) => return Verdict::drop(reason),
            },
        },
        VLAN | VLAN_SERVICE | VLAN_OLD => return Verdict::drop(DropReason::Vlan),
        _ => return Verdict::drop(DropReason::NotIp),
    };
    if ethernet.destination.is_group() {
        return Verdict::drop(DropReason::Group);
    }
    let flag = port.flag();
    if owner.is_device() {
        match flag {
            Flag::Bridge => return Verdict::deliver(owner).with(both(port, ethernet)),
            Flag::Private => return Verdict::drop(DropReason::Private),
            Flag::Vepa => {}
        }
    }
    if matches!(port.mode(), Mode::L3s) {
        // While its parent is away, the host end is in a namespace that has nothing to do with it.
        if port.bits & PORT_ROUTED == 0 {
            return Verdict::drop(DropReason::NotRouted);
        }
        return Verdict::PASS;
    }
    if owner.kind == OWNER_PARENT {
        return Verdict::PARENT.with(both(port, ethernet));
    }
    // Both MAC addresses are written on the way.
    send(port, frame, Verdict::ROUTE)
}

/// What the device wrote means nothing, but the receiver looks at it.
#[inline(always)]
fn both(port: &PortEntry, ethernet: Ethernet) -> Fix {
    let own = Mac::of(&port.mac);
    Fix::SOURCE
        .when(ethernet.source != own)
        .and(Fix::DESTINATION.when(ethernet.destination != own))
}

/// Refuses what the parent could not send.
#[inline(always)]
fn send<F: Frame>(port: &PortEntry, frame: &F, verdict: Verdict) -> Verdict {
    if frame.len() > port.mtu.wrapping_add(ETHERNET_BYTES) && !frame.is_to_be_segmented() {
        return Verdict::drop(DropReason::TooBig);
    }
    verdict
}
