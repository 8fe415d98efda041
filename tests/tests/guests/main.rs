//! Real virtual machines behind taps (`type ipvtap`), with namespaces beside them on one parent.
//!
//! A test boots two, at once, and does with them all that it can. What each frame looks like is tried
//! in `ipvtap`, which needs no machines.

#![expect(
    clippy::expect_used,
    reason = "clippy knows only #[test] functions as tests"
)]

mod in_vm;

use std::collections::BTreeSet;
use std::iter;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use ipvlan_tests::packet::{Mac, mac_text};
use ipvlan_tests::{
    Done, LAN4, LAN6, Machine, Mode, Net, Ns, PATIENCE, Process, eventually, prepare_for_l3s,
    traffic,
};

/// What the machines were started with; nobody but they may see it.
const MACS: [Mac; 2] = [[2, 0, 0, 0x67, 0x75, 1], [2, 0, 0, 0x67, 0x75, 2]];

/// Bytes of a conversation: many segments, and several of what is left to the network card.
const SOME: usize = 300_000;

/// A net with devices in namespaces, and two machines.
struct Party {
    machines: [Machine; 2],
    net: Net,
}

/// Who can talk to others.
enum Who<'a> {
    Machine(&'a Machine),
    Ns(&'a Ns),
}

struct Place<'a> {
    name: String,
    who: Who<'a>,
    addresses: [IpAddr; 2],
}

impl Party {
    /// Three namespaces and two machines, with addresses.
    #[track_caller]
    fn begin(mode: Mode) -> Self {
        let party = Self::with(Net::new(mode).devices(3).build());
        for number in 0..2 {
            party.configure(number);
        }
        party
    }

    /// Two machines on this net, without addresses.
    #[track_caller]
    fn with(net: Net) -> Self {
        let mode = net.mode;
        for number in 0..2 {
            let line = format!("link add link eth0 name tap{number} up type ipvtap mode {mode}");
            net.ipvlan(&line).expect_quiet();
        }
        let boot = |number: usize| Machine::boot(&net, &format!("tap{number}"), MACS[number]);
        let machines = [boot(0), boot(1)].map(Machine::ready);
        Self { machines, net }
    }

    /// Gives a machine its addresses, and says so to the host.
    #[track_caller]
    fn configure(&self, number: usize) {
        let machine = &self.machines[number];
        let addresses = addresses(self.net.mode, number);
        for address in addresses {
            let line = format!("addr add {address} dev tap{number}");
            self.net.ipvlan(&line).expect_quiet();
        }
        let [v4, v6] = addresses;
        let _: String = machine.sh(&match self.net.mode {
            Mode::L2 => format!(
                "ip addr add {v4}/24 dev eth0; ip addr add {v6}/64 dev eth0; \
                 ip route add default via {LAN4}; ip route add default via {LAN6}"
            ),
            // Whoever is asked for answers; any address is a router's.
            Mode::L3 | Mode::L3s => format!(
                "ip addr add {v4}/32 dev eth0; ip addr add {v6}/128 dev eth0; \
                 ip route add 169.254.1.1 dev eth0; ip route add default via 169.254.1.1; \
                 ip route add default via fe80::1 dev eth0"
            ),
        });
        let echo = traffic::ECHO;
        let _: String = machine.sh(&format!(
            "head -c {SOME} /dev/urandom >/tmp/some; nc -ll -p {echo} -e cat >/dev/null 2>&1 &"
        ));
    }

    fn places(&self) -> Vec<Place<'_>> {
        let lan = Place {
            name: "lan".into(),
            who: Who::Ns(&self.net.lan),
            addresses: [LAN4.into(), LAN6.into()],
        };
        let devices = self.net.devices.iter().map(|dev| Place {
            name: dev.name.clone(),
            who: Who::Ns(&dev.ns),
            addresses: [dev.v4.into(), dev.v6.into()],
        });
        let machines = self
            .machines
            .iter()
            .zip(0..)
            .map(|(machine, number)| Place {
                name: format!("machine {number}"),
                who: Who::Machine(machine),
                addresses: addresses(self.net.mode, number),
            });
        iter::once(lan).chain(devices).chain(machines).collect()
    }

    /// Everybody pings everybody, and has a conversation with him by TCP.
    #[track_caller]
    fn all_reach_all(&self) {
        let places = self.places();
        let echoes: Vec<Process> = places.iter().filter_map(Place::echo).collect();
        let mut pairs = 0;
        for from in &places {
            for to in &places {
                if from.name == to.name {
                    continue;
                }
                for address in to.addresses {
                    let mode = self.net.mode;
                    let what = format!("{mode}: {} to {} at {address}", from.name, to.name);
                    assert!(from.reaches(address), "{what}");
                    from.ask(address)
                        .unwrap_or_else(|error| panic!("{what}: {error}"));
                    pairs += 1;
                }
            }
        }
        assert_eq!((pairs, echoes.len()), (6 * 5 * 2, 4));
    }
}

/// Of a machine, in its mode.
fn addresses(mode: Mode, number: usize) -> [IpAddr; 2] {
    let number = u8::try_from(number).expect("two machines");
    let last = u16::from(number) + 0x60;
    let (v4, v6) = match mode {
        Mode::L2 => (
            Ipv4Addr::new(10, 1, 0, 60 + number),
            Ipv6Addr::new(0xfd00, 0, 0, 0, 0, 0, 0, last),
        ),
        Mode::L3 | Mode::L3s => (
            Ipv4Addr::new(10, 2, 60 + number, 1),
            Ipv6Addr::new(0xfd02, last, 0, 0, 0, 0, 0, 1),
        ),
    };
    [v4.into(), v6.into()]
}

impl Place<'_> {
    /// In a machine it runs already.
    fn echo(&self) -> Option<Process> {
        match self.who {
            Who::Machine(_) => None,
            Who::Ns(ns) => Some(traffic::echo(ns)),
        }
    }

    fn reaches(&self, address: IpAddr) -> bool {
        match self.who {
            Who::Machine(machine) => machine.reaches(&address.to_string()),
            Who::Ns(ns) => ns.reaches(&address.to_string()),
        }
    }

    /// Sends something to an echo, and compares.
    fn ask(&self, address: IpAddr) -> Result<(), String> {
        match self.who {
            Who::Ns(ns) => traffic::ask(ns, address, SOME),
            Who::Machine(machine) => {
                let port = traffic::ECHO;
                let line = format!("nc -w 10 {address} {port} </tmp/some | cmp - /tmp/some");
                let done = machine.try_sh(&line);
                if done.ok() { Ok(()) } else { Err(done.stdout) }
            }
        }
    }
}

/// The MAC addresses in the lines of `tcpdump -e`, and those lines that name a machine's anywhere.
fn macs_in(dump: &str) -> (BTreeSet<String>, Vec<&str>) {
    let sources = dump
        .lines()
        .filter_map(|line| Some(line.split_whitespace().nth(1)?.to_owned()));
    let machines = MACS.map(mac_text);
    let found = dump
        .lines()
        .filter(|line| machines.iter().any(|mac| line.contains(mac)));
    (sources.collect(), found.collect())
}
