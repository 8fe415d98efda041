//! Who owns an address, by what becomes of a datagram to it.

use std::cell::Cell;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::time::Duration;

use crate::ns::Ns;
use crate::packet::{Mac, ethernet, ethertype, udp4, udp6};
use crate::sniff::Sender;
use crate::topology::Net;
use crate::traffic::{Ear, PORT};
use crate::{PATIENCE, eventually};

/// Who gets what is sent from the wire to an address, without ARP or a route having a say: one ear
/// in each namespace, and frames straight to the parent's MAC address.
#[derive(Debug)]
pub struct Wire<'a> {
    net: &'a Net,
    /// Sends from the wire.
    pub sender: Sender,
    ears: Vec<(String, Ear)>,
    /// The parent's.
    mac: Mac,
    number: Cell<u32>,
}

impl<'a> Wire<'a> {
    /// One ear on the host, and one in each namespace that was made with the net.
    pub fn of(net: &'a Net) -> Self {
        let any = Ipv6Addr::UNSPECIFIED.into();
        let devices = net.devices.iter();
        let devices = devices.filter(|dev| dev.ns.try_handle().is_some());
        let devices = devices.map(|dev| (dev.name.clone(), &dev.ns));
        let all = devices.chain([("host".to_owned(), &net.host)]);
        Self {
            net,
            sender: Sender::on(&net.lan, "lan0"),
            ears: all.map(|(name, ns)| (name, Ear::on(ns, any))).collect(),
            mac: net
                .host
                .find_link("eth0")
                .and_then(|link| link.mac)
                .unwrap_or_default(),
            number: Cell::new(0),
        }
    }

    /// One more that can hear.
    #[must_use]
    pub fn with(mut self, name: &str, ns: &Ns) -> Self {
        let ear = Ear::on(ns, Ipv6Addr::UNSPECIFIED.into());
        self.ears.push((name.to_owned(), ear));
        self
    }

    /// The parent is elsewhere, and has this MAC address.
    #[must_use]
    pub fn to_mac(self, mac: Mac) -> Self {
        Self { mac, ..self }
    }

    /// What is sent: a datagram to `to`.
    pub fn frame(&self, to: &str, word: &[u8]) -> Vec<u8> {
        let (mac, lan) = (self.mac, self.net.lan.mac("lan0"));
        match to.parse().expect("an address") {
            IpAddr::V4(to) => {
                let packet = udp4(Ipv4Addr::new(10, 1, 0, 250), to, PORT, word);
                ethernet(mac, lan, ethertype::IPV4, &packet)
            }
            IpAddr::V6(to) => {
                let from = Ipv6Addr::new(0xfd00, 0, 0, 0, 0, 0, 0, 0x250);
                let packet = udp6(from, to, PORT, word);
                ethernet(mac, lan, ethertype::IPV6, &packet)
            }
        }
    }

    /// Who hears it, once.
    fn hear(&self, to: &str, patience: Duration) -> Vec<&str> {
        self.number.set(self.number.get() + 1);
        let word = format!("word {} to {to}", self.number.get()).into_bytes();
        self.sender.send(&self.frame(to, &word));
        let heard = |(_, ear): &&(String, Ear)| ear.hears(&word, Duration::ZERO).is_some();
        let mut names = Vec::new();
        let _: bool = eventually(patience, || {
            names.extend(self.ears.iter().filter(heard).map(|(name, _)| &**name));
            !names.is_empty()
        });
        // And whoever may hear it as well.
        names.extend(self.ears.iter().filter(heard).map(|(name, _)| &**name));
        names
    }

    /// The test fails unless it comes to be this one's, and nobody else's.
    #[track_caller]
    pub fn is_for(&self, to: &str, name: &str) {
        let mut last = Vec::new();
        let found = eventually(PATIENCE, || {
            last = self.hear(to, Duration::from_millis(200));
            last == [name]
        });
        let mode = self.net.mode;
        assert!(found, "{mode}: {to} is for {name}, not for {last:?}");
    }

    /// The test fails unless it comes to be nobody's.
    #[track_caller]
    pub fn is_for_nobody(&self, to: &str) {
        let mut last = Vec::new();
        let none = eventually(PATIENCE, || {
            last = self.hear(to, Duration::from_millis(200));
            last.is_empty()
        });
        let mode = self.net.mode;
        assert!(none, "{mode}: {to} is for nobody, not for {last:?}");
    }

    fn ear(&self, name: &str) -> &Ear {
        let found = self.ears.iter().find(|(own, _)| own == name);
        &found.unwrap_or_else(|| panic!("no ear at {name}")).1
    }

    /// Whether this one hears what `from` says to an address, once.
    pub fn says(&self, from: &str, to: &str, name: &str) -> bool {
        // The ears are of IPv6, and hear IPv4 as well.
        let address = match to.parse().expect("an address") {
            IpAddr::V4(to) => IpAddr::V6(to.to_ipv6_mapped()),
            IpAddr::V6(to) => IpAddr::V6(to),
        };
        let word = format!("{from} to {to}").into_bytes();
        self.ear(from).say(address, 0, &word);
        let patience = Duration::from_millis(200);
        self.ear(name).hears(&word, patience).is_some()
    }

    /// The test fails unless what `from` says to an address is for this one.
    #[track_caller]
    pub fn is_said(&self, from: &str, to: &str, name: &str) {
        let heard = eventually(PATIENCE, || self.says(from, to, name));
        let mode = self.net.mode;
        assert!(heard, "{mode}: what {from} says to {to} is for {name}");
    }
}
