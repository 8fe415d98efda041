//! Telling the neighbours anew where the devices' addresses are: after a fail-over of the bond
//! below them, and when the MAC address that they share has changed.
//!
//! The switch has to learn a new port, or the neighbours a new address. The kernel does this for
//! the addresses of the parent's own namespace, and on the devices of its own driver since
//! Linux 6.14; a veth is not told. So the agent says it for them, as their stack would, out of the
//! parent: an ARP announcement (RFC 5227, section 3), an unsolicited neighbour advertisement
//! (RFC 4861, section 7.2.6). Once each: both are hints, and a bond repeats what it asks for
//! (`num_grat_arp`).
//!
//! Only for l2: in l3 the neighbours know the parent's namespace and no device.
//!
//! An address that a device has by hand is announced as well, wherever in its namespace it may be. Of
//! a prefix nothing is said: it may be all of a subnet, and who in it answers is not known here. Its
//! neighbours ask again when their entries expire.
//!
//! In small portions, so that a device with thousands of addresses neither floods the wire nor
//! keeps the agent from following the others.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::time::{Duration, Instant};

use ipnet::IpNet;
use ipvlan_abi::Mode;
use ipvlan_netlink::{Mac, Netlink, Wire};

use crate::error::Error;
use crate::observe::{PortView, World};
use crate::plan::is_single;

/// Frames that are sent at once.
const PORTION: usize = 64;
/// How long until the next portion.
const PAUSE: Duration = Duration::from_millis(4);

/// What is still to be said.
#[derive(Debug, Default)]
pub(crate) struct Announcer {
    /// Devices, by parent and host end.
    devices: VecDeque<(u32, u32)>,
    /// Frames, and the parent they go out of.
    frames: VecDeque<(u32, Vec<u8>)>,
    due: Option<Instant>,
}

impl Announcer {
    /// All devices of this parent are to be announced.
    pub(crate) fn port(&mut self, parent: u32, view: &PortView) {
        if view.entry.mode() != Mode::L2 {
            return;
        }
        for host in view.devs.keys() {
            let device = (parent, *host);
            if !self.devices.contains(&device) {
                self.devices.push_back(device);
            }
        }
        if self.due.is_none() {
            self.due = Some(Instant::now());
        }
    }

    /// Devices of parents whose MAC address is no longer what it was.
    pub(crate) fn changes(&mut self, before: &BTreeMap<u32, Mac>, world: &World) {
        for (parent, view) in &world.ports {
            if before.get(parent).is_some_and(|mac| *mac != view.entry.mac) {
                self.port(*parent, view);
            }
        }
    }

    /// When there is something to say; `None`: nothing is left.
    pub(crate) fn due(&self) -> Option<Instant> {
        self.due
    }

    /// Sends a portion. `nl` is a socket in the parents' namespace, which is the calling thread's.
    pub(crate) fn portion(&mut self, nl: &mut Netlink, world: &World) {
        while self.frames.len() < PORTION
            && let Some((parent, host)) = self.devices.pop_front()
        {
            match frames(nl, world, parent, host) {
                Ok(frames) => self
                    .frames
                    .extend(frames.into_iter().map(|frame| (parent, frame))),
                // It, or its namespace, has just gone.
                Err(error) => log::debug!("announce: {error}"),
            }
        }
        let mut wires: BTreeMap<u32, Option<Wire>> = BTreeMap::new();
        for _ in 0..PORTION {
            let Some((parent, frame)) = self.frames.pop_front() else {
                break;
            };
            let wire = wires
                .entry(parent)
                .or_insert_with(|| Wire::open(parent).ok());
            // A parent that is down has nobody to tell; whoever misses it asks.
            if let Some(wire) = wire
                && let Err(error) = wire.send(&frame)
            {
                log::debug!("announce: {error}");
            }
        }
        let is_done = self.frames.is_empty() && self.devices.is_empty();
        self.due = (!is_done).then(|| Instant::now() + PAUSE);
    }
}

/// What a device has to say of the addresses that it owns.
fn frames(nl: &mut Netlink, world: &World, parent: u32, host: u32) -> Result<Vec<Vec<u8>>, Error> {
    let Some(view) = world.ports.get(&parent) else {
        return Ok(Vec::new());
    };
    let Some((dev, link)) = view
        .devs
        .get(&host)
        .and_then(|dev| Some((dev, dev.link.as_ref()?)))
    else {
        return Ok(Vec::new());
    };
    let mac = view.entry.mac;
    let router = link.forwards_v6 == Some(true);
    let addresses = nl.addresses(dev.place, Some(link.index))?;
    let is_owned = |address: &IpAddr| {
        let owner = view.owners.get(&IpNet::from(*address));
        owner.is_some_and(|owner| owner.ifindex == host)
    };
    let by_hand = view.grants.get(&dev.entry.slot).into_iter().flatten();
    let by_hand = by_hand.filter(|prefix| is_single(**prefix));
    let mut all: BTreeSet<IpAddr> = by_hand.map(IpNet::addr).collect();
    for address in addresses {
        // One that is still being looked for (DAD) must not be claimed.
        let is_certain = address.flags & libc::IFA_F_TENTATIVE == 0
            || address.flags & libc::IFA_F_OPTIMISTIC != 0;
        let _: bool = match is_certain {
            true => all.insert(address.local),
            false => all.remove(&address.local),
        };
    }
    Ok(all
        .into_iter()
        .filter(is_owned)
        .filter_map(|address| match address {
            IpAddr::V4(address) => Some(arp(mac, address)),
            // Whether it is a router, which an advertisement has to say, only the guest knows.
            IpAddr::V6(_) if dev.is_tap() => None,
            IpAddr::V6(address) => Some(advertisement(mac, address, router)),
        })
        .collect())
}

/// An ARP announcement: a request for the sender's own address, to all.
fn arp(mac: Mac, address: Ipv4Addr) -> Vec<u8> {
    let address = address.octets();
    [
        &[0xff; 6][..],
        &mac,
        // ARP; Ethernet, IPv4, 6, 4, request.
        &[8, 6, 0, 1, 8, 0, 6, 4, 0, 1],
        &mac,
        &address,
        &[0; 6],
        &address,
    ]
    .concat()
}

const ALL_NODES: Ipv6Addr = Ipv6Addr::new(0xff02, 0, 0, 0, 0, 0, 0, 1);
const ICMPV6: u8 = 58;
const ROUTER: u8 = 0x80;
const OVERRIDE: u8 = 0x20;

/// An unsolicited neighbour advertisement, to all nodes.
fn advertisement(mac: Mac, address: Ipv6Addr, router: bool) -> Vec<u8> {
    let flags = if router { ROUTER | OVERRIDE } else { OVERRIDE };
    // Type, code, checksum, flags; the target; its link-layer address.
    let mut message = [
        &[136, 0, 0, 0, flags, 0, 0, 0][..],
        &address.octets(),
        &[2, 1],
        &mac,
    ]
    .concat();
    let len = 32u8;
    let pseudo = [
        &address.octets()[..],
        &ALL_NODES.octets(),
        &[0, 0, 0, len, 0, 0, 0, ICMPV6],
    ]
    .concat();
    let sum = checksum(&[pseudo, message.clone()].concat());
    message[2..4].copy_from_slice(&sum);
    [
        &[0x33, 0x33, 0, 0, 0, 1][..],
        &mac,
        &[0x86, 0xdd, 0x60, 0, 0, 0, 0, len, ICMPV6, 255],
        &address.octets(),
        &ALL_NODES.octets(),
        &message,
    ]
    .concat()
}

/// The Internet checksum of an even number of bytes. RFC 1071.
fn checksum(bytes: &[u8]) -> [u8; 2] {
    let (pairs, _) = bytes.as_chunks::<2>();
    let mut sum: u32 = pairs
        .iter()
        .map(|pair| u32::from(u16::from_be_bytes(*pair)))
        .sum();
    sum = (sum & 0xffff) + (sum >> 16);
    sum = (sum & 0xffff) + (sum >> 16);
    let [_, _, high, low] = (!sum).to_be_bytes();
    [high, low]
}

#[cfg(test)]
mod tests {
    use super::*;

    const MAC: Mac = [2, 0, 0, 0, 0, 9];

    #[test]
    fn an_arp_announcement_asks_for_its_own_address() {
        let frame = arp(MAC, Ipv4Addr::new(10, 1, 0, 9));
        assert_eq!(frame.len(), 42);
        assert_eq!(frame[..6], [0xff; 6]);
        assert_eq!(frame[20..22], [0, 1], "a request");
        assert_eq!(frame[22..28], MAC, "from us");
        assert_eq!(frame[28..32], frame[38..42], "for what we have");
    }

    #[test]
    fn an_advertisement_is_unsolicited_and_its_checksum_right() {
        let address: Ipv6Addr = "fd00::9".parse().expect("an address");
        for router in [false, true] {
            let frame = advertisement(MAC, address, router);
            assert_eq!(frame.len(), 14 + 40 + 32);
            let flags = frame[14 + 40 + 4];
            assert_eq!(flags & 0x40, 0, "nobody has asked");
            assert_eq!(flags & ROUTER != 0, router);
            let pseudo = [
                &frame[22..54],
                &[0, 0, 0, 32, 0, 0, 0, ICMPV6],
                &frame[54..],
            ]
            .concat();
            assert_eq!(checksum(&pseudo), [0, 0], "a right sum adds up to nothing");
        }
    }
}
