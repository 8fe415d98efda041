//! The machines behind taps: switched on and off, and what they say of their addresses.

use std::collections::BTreeSet;
use std::net::IpAddr;

use ipvlan_tests::Guest;
use ipvlan_tests::packet::{
    ALL_NODES, BROADCAST, arp, ethernet, ethertype, icmpv6, ipv6, nd, next,
};
use ipvlan_tests::sniff::Sender;

use super::inside::{give, prepare, up};
use super::{Outcome, World};
use crate::model::{Device, Number, State, guest_mac};
use crate::places::{Place, Spot};

/// Of a guest.
pub(super) const GUEST_INTERFACE: &str = "eth0";

impl World<'_> {
    /// With the addresses that it had, if any: they are in its configuration.
    pub(super) fn start_guest(&mut self, number: Number, next: &State) -> Outcome {
        let Some((device, machine)) = next
            .devices
            .get(&number)
            .and_then(|device| Some((device, device.machine?)))
        else {
            return Outcome::Failed(format!("no tap d{number}"));
        };
        let mac = guest_mac(number, machine.starts);
        let guest = Guest::start(&self.net, &format!("d{number}"), &format!("g{number}"), mac);
        prepare(&guest.ns);
        // A link-local address would have to be given by hand, too, and tells the MAC address.
        guest.ns.batch(&format!(
            "link set {GUEST_INTERFACE} addrgenmode none
addr flush dev {GUEST_INTERFACE}
"
        ));
        let mut outcome = up(&guest.ns, GUEST_INTERFACE, number, &BTreeSet::new());
        for address in &device.addresses {
            if matches!(outcome, Outcome::Done) {
                outcome = give(&guest.ns, GUEST_INTERFACE, number, *address);
            }
        }
        let spot = Spot::Home(number);
        let place = Place::new(&guest.ns, spot, self.shared.now());
        let _: Option<Place> = self.shared.places().all.insert(spot, place);
        let _: Option<Guest> = self.guests.insert(number, guest);
        outcome
    }

    pub(super) fn switch_off(&mut self, number: Number) {
        // Its sockets would keep the namespace alive.
        drop(self.shared.places().all.remove(&Spot::Home(number)));
        if let Some(guest) = self.guests.remove(&number) {
            guest.stop();
        }
    }

    /// Of taps that a killed call has deleted.
    pub(crate) fn switch_off_guests_without_tap(&mut self) {
        let running = |device: &Device| device.machine.is_some_and(|machine| machine.running);
        let off: Vec<Number> = self
            .guests
            .keys()
            .filter(|number| !self.state.devices.get(number).is_some_and(running))
            .copied()
            .collect();
        for number in off {
            self.switch_off(number);
        }
    }

    /// Each guest whose addresses are learnt says which ones it has.
    pub(crate) fn guests_announce(&self) {
        for (number, guest) in &self.guests {
            let Some(device) = self
                .state
                .devices
                .get(number)
                .filter(|device| !device.can_take())
            else {
                continue;
            };
            let sender = Sender::on(&guest.ns, GUEST_INTERFACE);
            for address in &device.addresses {
                let frame = match address {
                    IpAddr::V4(v4) => {
                        let packet = arp(1, (guest.mac, *v4), ([0; 6], *v4));
                        ethernet(BROADCAST, guest.mac, ethertype::ARP, &packet)
                    }
                    IpAddr::V6(v6) => {
                        let option = nd::option(nd::TARGET, guest.mac);
                        let body = nd::body(nd::NA, *v6, &option);
                        let message = icmpv6(*v6, ALL_NODES, nd::NA, &body);
                        let packet = ipv6(*v6, ALL_NODES, next::ICMPV6, &message);
                        ethernet(
                            nd::group_mac(ALL_NODES),
                            guest.mac,
                            ethertype::IPV6,
                            &packet,
                        )
                    }
                };
                // One that is down says nothing.
                let _: nix::Result<()> = sender.try_send(&frame);
            }
        }
    }
}
