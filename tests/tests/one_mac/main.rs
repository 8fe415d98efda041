//! The driver's third promise in the HOWTO, held against root inside a namespace: the wire never
//! sees another MAC address than the parent's. The driver lets all of it pass in l2 (row `one-mac`),
//! which shows that what is sent here is worth stopping.
//!
//! The oracle does not parse. Whoever attacks writes [`FORGED`] where the parent's address belongs,
//! and these six bytes must not be seen anywhere in any frame on the LAN.
//!
//! | file | who forges |
//! |---|---|
//! | `everyday.rs` | nobody: devices, hosts and bridges that mean no harm |
//! | `headers.rs` | the Ethernet header, and what is neither ARP nor IP behind it |
//! | `arp.rs` | ARP |
//! | `discovery.rs` | IPv6 neighbour discovery |
//! | `sharing.rs` | ND and ARP, after they were looked at |

mod arp;
mod discovery;
mod everyday;
mod headers;
mod sharing;

use std::net::{Ipv4Addr, Ipv6Addr};
use std::time::Duration;

use ipvlan_tests::packet::{FORGED, Mac, ethernet, ethertype, icmpv6, ipv6, mac_text, nd, next};
use ipvlan_tests::sniff::Sender;
use ipvlan_tests::{LAN4, Mode, Net, PATIENCE, Seen, Sniffer, differs, packet};

/// Nobody's, on the LAN's subnet.
const FREE4: Ipv4Addr = Ipv4Addr::new(10, 1, 0, 77);
const FREE6: Ipv6Addr = Ipv6Addr::new(0xfd00, 0, 0, 0, 0, 0, 0, 0x77);
/// Arrives last: what was sent before it has arrived by then, or never will.
const FENCE: &[u8] = b"the last of them";

/// The MAC addresses that others than the LAN itself put on its wire, and the forged one anywhere.
#[track_caller]
fn assert_one_mac(what: &str, parent: Mac, seen: &[Seen]) {
    for frame in seen {
        assert_eq!(
            mac_text(frame.source()),
            mac_text(parent),
            "{what}: the wire sees the parent's MAC address only: {frame:?}"
        );
        assert!(
            !frame.contains(&FORGED),
            "{what}: the forged MAC address is nowhere in a frame on the wire: {frame:?}"
        );
    }
}

/// Whether `seen` may be what became of `sent`: same EtherType and same sender.
fn is_from(sent: &[u8], seen: &Seen) -> bool {
    let sender = match seen.ethertype() {
        ethertype::ARP => 28..32,
        ethertype::IPV6 => 22..38,
        _ => 12..14,
    };
    seen.bytes.get(12..14) == sent.get(12..14)
        && sent
            .get(sender.clone())
            .is_none_or(|sender_of| seen.bytes.get(sender) == Some(sender_of))
}

/// What a device hears and the LAN did not say.
fn not_from(lan: Mac, ears: &Sniffer) -> Vec<Seen> {
    ears.heard()
        .into_iter()
        .filter(|seen| seen.source() != lan)
        .collect()
}

/// An attacker in ns0, a victim in ns1, and ears.
struct Attack {
    net: Net,
    sender: Sender,
    wire: Sniffer,
    sibling: Sniffer,
    lan: Mac,
}

impl Attack {
    fn new(mode: Mode) -> Self {
        let net = Net::new(mode).devices(2).build();
        let sender = Sender::on(&net.dev(0).ns, "ipvl0");
        let wire = Sniffer::on(&net.lan, "lan0");
        let sibling = Sniffer::on(&net.dev(1).ns, "ipvl1");
        let lan = net.lan.mac("lan0");
        Self {
            net,
            sender,
            wire,
            sibling,
            lan,
        }
    }

    fn own6(&self) -> Ipv6Addr {
        self.net.dev(0).v6
    }

    fn own4(&self) -> Ipv4Addr {
        self.net.dev(0).v4
    }

    /// Sends the frames, then an honest one, and returns what the wire saw of them: one MAC address.
    #[track_caller]
    fn send(&self, what: &str, frames: &[Vec<u8>]) -> Vec<Seen> {
        let seen = self.just_send(what, frames);
        if self.net.mode != Mode::L2 || differs("one-mac", true, false) {
            assert_one_mac(what, self.net.mac(), &seen);
        }
        seen
    }

    #[track_caller]
    fn just_send(&self, what: &str, frames: &[Vec<u8>]) -> Vec<Seen> {
        for frame in frames {
            // Dropped is as good as rewritten.
            let _: Result<(), _> = self.sender.try_send(frame);
        }
        let fence = packet::udp4(self.own4(), LAN4, 9, FENCE);
        let fence = ethernet(self.lan, self.net.mac(), ethertype::IPV4, &fence);
        self.sender.send(&fence);
        let mut seen = Vec::new();
        let found = self.wire.find(PATIENCE, |frame| {
            if !frame.outgoing {
                seen.push(frame.clone());
            }
            frame.contains(FENCE)
        });
        assert!(
            found.is_some() || self.net.mode == Mode::L3,
            "{what}: an honest frame arrives"
        );
        let _: Option<Seen> = seen.pop_if(|frame| frame.contains(FENCE));
        // Copies may come by another way than the honest one.
        seen.extend(
            self.wire
                .drain(Duration::from_millis(50))
                .into_iter()
                .filter(|f| !f.outgoing),
        );
        seen
    }

    /// Whether `seen` is `sent`, or what became of it.
    fn is(&self, sent: &[u8], seen: &Seen) -> bool {
        !seen.outgoing
            && match self.net.mode {
                Mode::L2 => differs("one-mac", is_from(sent, seen), seen.bytes == sent),
                Mode::L3 | Mode::L3s => is_from(sent, seen),
            }
    }

    /// [`Self::send`], for a frame that is to arrive whatever was in it.
    #[track_caller]
    fn arrived(&self, what: &str, frame: &[u8]) -> Option<Seen> {
        let seen = self.send(what, &[frame.to_vec()]);
        let arrived = seen.into_iter().find(|seen| self.is(frame, seen));
        // The driver's copies to all take another way than the honest frame.
        arrived.or_else(|| self.wire.find(PATIENCE, |seen| self.is(frame, seen)))
    }

    /// [`Self::send`], for frames of which something is to arrive after all: with the driver as they
    /// are.
    #[track_caller]
    fn rewritten(&self, what: &str, frame: &[u8]) -> Seen {
        self.arrived(what, frame)
            .unwrap_or_else(|| panic!("{what}: is not lost"))
    }

    /// [`Self::send`], for frames that the driver sends as they are and of which we let nothing out.
    #[track_caller]
    fn dropped(&self, row: &str, what: &str, frame: &[u8]) {
        if differs(row, true, false) {
            self.lost(what, frame);
        } else {
            assert!(self.arrived(what, frame).is_some(), "{what}: gets out");
        }
    }

    /// [`Self::send`], for frames of which nothing may arrive.
    #[track_caller]
    fn lost(&self, what: &str, frame: &[u8]) {
        let seen = self.send(what, &[frame.to_vec()]);
        let arrived = seen.into_iter().find(|seen| is_from(frame, seen));
        assert!(
            arrived.is_none(),
            "{what}: is not for the wire: {arrived:?}"
        );
    }

    /// An ND message from the attacker's own address, in whatever extension headers.
    fn nd(
        &self,
        kind: u8,
        options: &[u8],
        destination: Ipv6Addr,
        headers: &[(u8, Vec<u8>)],
    ) -> Vec<u8> {
        let message = icmpv6(
            self.own6(),
            destination,
            kind,
            &nd::body(kind, FREE6, options),
        );
        self.in_headers(destination, headers, &message)
    }

    fn in_headers(
        &self,
        destination: Ipv6Addr,
        headers: &[(u8, Vec<u8>)],
        payload: &[u8],
    ) -> Vec<u8> {
        let first = headers.first().map_or(next::ICMPV6, |(kind, _)| *kind);
        let mut inside: Vec<u8> = headers
            .iter()
            .flat_map(|(_, bytes)| bytes.clone())
            .collect();
        inside.extend(payload);
        let to = if destination.is_multicast() {
            nd::group_mac(destination)
        } else {
            self.lan
        };
        ethernet(
            to,
            FORGED,
            ethertype::IPV6,
            &ipv6(self.own6(), destination, first, &inside),
        )
    }
}
