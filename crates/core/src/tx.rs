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
//! private: nothing goes to a sibling, broadcast included (the driver stops unicast only).
//! vepa: what would go to a sibling or to the parent goes to the wire; broadcast goes to both.
//!
//! Limits: source IP addresses are not checked. A frame longer than the parent's MTU is dropped,
//! not fragmented.
//!
//! Kernel: `ipvlan_xmit_mode_l2()`, `ipvlan_xmit_mode_l3()`, `ipvlan_process_outbound()`.

use ipvlan_abi::{DropReason, Flag, Mode, PortEntry};

use crate::frame::{
    ARP, ETHERNET, ETHERNET_BYTES, Frame, IPV4, IPV6, RARP, VLAN, VLAN_SERVICE, is_link_local_group, same_mac,
};
use crate::l3::{
    ARP_BYTES, ARP_SENDER_MAC, Arp, Owners, destination_owner, v4_destination, v6_destination,
};
use crate::nd;
use crate::verdict::{Fix, Verdict};

/// Decides on a frame that came out of the device whose host end is `sender`.
#[inline(always)]
pub fn tx<F: Frame, O: Owners>(port: &PortEntry, sender: u32, frame: &F, owners: &O) -> Verdict {
    let Some(ethernet) = frame.at::<ETHERNET>(0) else {
        return Verdict::drop(DropReason::Runt);
    };
    let ethertype = u16::from_be_bytes([ethernet[12], ethernet[13]]);
    if frame.is_tagged() || ethertype == VLAN || ethertype == VLAN_SERVICE {
        return Verdict::drop(DropReason::Vlan);
    }
    match port.mode() {
        Mode::L2 => tx_l2(port, sender, frame, ethertype, owners),
        Mode::L3 => tx_l3(port, frame, ethertype, owners),
    }
}

#[inline(always)]
fn tx_l2<F: Frame, O: Owners>(
    port: &PortEntry,
    sender: u32,
    frame: &F,
    ethertype: u16,
    owners: &O,
) -> Verdict {
    let (Some(destination), Some(source)) = (frame.at::<6>(0), frame.at::<6>(6)) else {
        return Verdict::drop(DropReason::Runt);
    };
    let mut fix = Fix::NOTHING;
    if !same_mac(source, &port.mac) {
        fix.source = 1;
    }
    match ethertype {
        ARP => {
            // Hardware and protocol type, then the two lengths: only so is the sender's address
            // where we look for it.
            match (frame.at::<6>(ETHERNET), frame.at::<6>(ARP_SENDER_MAC)) {
                (Some([0, 1, 0x08, 0, 6, 4]), Some(mac))
                    if frame.len() >= ETHERNET_BYTES + ARP_BYTES =>
                {
                    if !same_mac(mac, &port.mac) {
                        fix.arp_sender = 1;
                    }
                }
                _ => return Verdict::drop(DropReason::ArpMalformed),
            }
        }
        RARP => return Verdict::drop(DropReason::Rarp),
        IPV6 => {
            let found = nd::inspect(port, frame);
            if found.reason as u8 != DropReason::None as u8 {
                return Verdict::drop(found.reason);
            }
            fix.nd_option = found.option;
            fix.nd_checksum = found.checksum;
        }
        _ => {}
    }

    if destination[0] & 1 != 0 {
        return tx_group(port, sender, frame, ethertype, owners).with(fix);
    }
    if !same_mac(destination, &port.mac) {
        return wire(port, frame).with(fix);
    }
    let owner = destination_owner(frame, ethertype, owners);
    match port.flag() {
        Flag::Vepa => wire(port, frame),
        Flag::Private if owner.is_device() => Verdict::drop(DropReason::Private),
        Flag::Bridge if owner.is_device() => Verdict::deliver(owner),
        Flag::Bridge | Flag::Private => Verdict::PARENT,
    }
    .with(fix)
}

#[inline(always)]
fn tx_group<F: Frame, O: Owners>(
    port: &PortEntry,
    sender: u32,
    frame: &F,
    ethertype: u16,
    owners: &O,
) -> Verdict {
    let Some(destination) = frame.at::<6>(0) else {
        return Verdict::drop(DropReason::Runt);
    };
    if is_link_local_group(destination) {
        return Verdict::drop(DropReason::LinkLocalGroup);
    }
    if port.flag() as u8 == Flag::Private as u8 {
        return wire(port, frame);
    }
    let asked = match ethertype {
        ARP => match Arp::of(frame) {
            Some(arp) if arp.is_question() => owners.v4(arp.target),
            _ => return flood(port, frame),
        },
        IPV6 => match nd::solicited(frame) {
            Some(target) => owners.v6(target),
            None => return flood(port, frame),
        },
        _ => return flood(port, frame),
    };
    // Asking for an address of one's own is looking for a duplicate, and that is out there.
    if asked.is_device() && asked.ifindex != sender {
        Verdict::deliver(asked)
    } else {
        wire(port, frame)
    }
}

#[inline(always)]
fn tx_l3<F: Frame, O: Owners>(port: &PortEntry, frame: &F, ethertype: u16, owners: &O) -> Verdict {
    let (Some(destination), Some(source)) = (frame.at::<6>(0), frame.at::<6>(6)) else {
        return Verdict::drop(DropReason::Runt);
    };
    if ethertype != IPV4 && ethertype != IPV6 {
        return Verdict::drop(DropReason::NotIp);
    }
    if destination[0] & 1 != 0 {
        return Verdict::drop(DropReason::Group);
    }
    let owner = if ethertype == IPV4 {
        let Some(address) = v4_destination(frame) else {
            return Verdict::drop(DropReason::IpMalformed);
        };
        // Class D, and 255.255.255.255 with the rest of the reserved class E.
        if address[0] >= 224 {
            return Verdict::drop(DropReason::Group);
        }
        // 127.0.0.0/8 must not appear outside of a host (RFC 1122 section 3.2.1.3).
        if address[0] == 127 {
            return Verdict::drop(DropReason::IpMalformed);
        }
        owners.v4(address)
    } else {
        let Some(address) = v6_destination(frame) else {
            return Verdict::drop(DropReason::IpMalformed);
        };
        if address[0] == 0xff {
            return Verdict::drop(DropReason::Group);
        }
        owners.v6(address)
    };
    let mut fix = Fix::NOTHING;
    if !same_mac(source, &port.mac) {
        fix.source = 1;
    }
    if !same_mac(destination, &port.mac) {
        fix.destination = 1;
    }
    if owner.kind == ipvlan_abi::OWNER_PARENT {
        return Verdict::PARENT.with(fix);
    }
    match (port.flag(), owner.is_device()) {
        (Flag::Bridge, true) => Verdict::deliver(owner).with(fix),
        (Flag::Private, true) => Verdict::drop(DropReason::Private),
        // Both MAC addresses are written on the way.
        (Flag::Vepa, true) | (_, false) => send(port, frame, Verdict::ROUTE),
    }
}

#[inline(always)]
fn wire<F: Frame>(port: &PortEntry, frame: &F) -> Verdict {
    send(port, frame, Verdict::WIRE)
}

#[inline(always)]
fn flood<F: Frame>(port: &PortEntry, frame: &F) -> Verdict {
    send(port, frame, Verdict::FLOOD)
}

/// Refuses what the parent could not send.
#[inline(always)]
fn send<F: Frame>(port: &PortEntry, frame: &F, verdict: Verdict) -> Verdict {
    if frame.len() > port.mtu.wrapping_add(ETHERNET_BYTES) && !frame.is_to_be_segmented() {
        return Verdict::drop(DropReason::TooBig);
    }
    verdict
}

