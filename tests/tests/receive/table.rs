//! The table of frames from the LAN, and the ears that hear them.

use std::collections::BTreeSet;
use std::net::UdpSocket;
use std::time::Duration;

use ipvlan_tests::packet::{BROADCAST, Mac, ethernet, ethertype};
use ipvlan_tests::sniff::Sender;
use ipvlan_tests::{LAN4, Mode, Net, PATIENCE, Sniffer, differs, eventually, packet};

use crate::{LLC, LLDP, PAUSE, PORT};

/// Who hears a frame: `h`, the stack of the parent's namespace; `0`, `1`, …, a device.
#[derive(Clone, Copy)]
pub(crate) enum Who {
    Same(&'static str),
    /// Row, ours, the driver.
    Differ(&'static str, &'static str, &'static str),
    /// The same, and who may or may not hear it with the driver, by a collision in its filter.
    Filter(&'static str, &'static str, &'static str, &'static str),
}
use Who::{Differ, Filter, Same};

pub(crate) struct Case {
    what: String,
    who: Who,
    tag: Mac,
    frame: Vec<u8>,
}

/// Frames from the LAN, and who is to hear each. A frame is known again by six bytes of its own,
/// which are its source MAC address, or anywhere else in it.
pub(crate) struct Table {
    mode: Mode,
    cases: Vec<Case>,
}

impl Table {
    pub(crate) fn new(mode: Mode) -> Self {
        let cases = Vec::new();
        Self { mode, cases }
    }

    /// A frame that is the same in all modes, and who hears it in l2, l3 and l3s.
    pub(crate) fn add(
        &mut self,
        what: &str,
        [l2, l3, l3s]: [Who; 3],
        frame: impl FnOnce(Mac) -> Vec<u8>,
    ) {
        let who = match self.mode {
            Mode::L2 => l2,
            Mode::L3 => l3,
            Mode::L3s => l3s,
        };
        let number = u8::try_from(self.cases.len()).expect("at most 256 cases");
        let tag = [2, b't', b'a', b'g', b':', number];
        self.cases.push(Case {
            what: what.to_owned(),
            who,
            tag,
            frame: frame(tag),
        });
    }

    /// Sends all and compares.
    #[track_caller]
    pub(crate) fn run(&self, net: &Net, ears: &Ears) {
        let sender = Sender::on(&net.lan, "lan0");
        let tap = Sniffer::on(&net.host, "eth0");
        for case in &self.cases {
            sender.send(&case.frame);
        }
        let mut heard = ears.until_quiet(net, &sender, &self.cases);
        let tapped = tap.drain(Duration::ZERO);
        let mut wrong = Vec::new();
        for (case, got) in self.cases.iter().zip(&mut heard) {
            let (row, [ours, driver], maybe) = match case.who {
                Same(who) => (None, [who, who], ""),
                Differ(row, ours, driver) => (Some(row), [ours, driver], ""),
                Filter(row, ours, driver, maybe) => (Some(row), [ours, driver], maybe),
            };
            let wanted = row.map_or(ours, |row| differs(row, ours, driver));
            let maybe = row.map_or("", |row| differs(row, "", maybe));
            got.retain(|who| !maybe.contains(*who) || wanted.contains(*who));
            let got: String = got.iter().collect();
            // In the order of a set: digits first.
            let mut wanted: Vec<char> = wanted.chars().collect();
            wanted.sort_unstable();
            let wanted: String = wanted.into_iter().collect();
            if got != wanted {
                wrong.push(format!("{}: {got:?}, not {wanted:?}", case.what));
            }
            if !tapped.iter().any(|seen| seen.bytes == case.frame) {
                wrong.push(format!("{}: not seen by taps of the parent", case.what));
            }
        }
        assert!(
            wrong.is_empty(),
            "{}: of {} cases:\n{}",
            self.mode,
            self.cases.len(),
            wrong.join("\n")
        );
    }
}

/// One ear in the parent's stack for each EtherType, and two in each device: a packet socket, and a
/// UDP socket, which hears also what comes by another way than the device (l3s of the driver).
pub(crate) struct Ears {
    host: Vec<Sniffer>,
    devices: Vec<(Sniffer, UdpSocket)>,
}

impl Ears {
    pub(crate) fn on(net: &Net) -> Self {
        let types = [
            ethertype::IPV4,
            ethertype::IPV6,
            ethertype::ARP,
            ethertype::EXPERIMENT,
            PAUSE,
            LLDP,
            LLC,
        ];
        let host = types.map(|kind| Sniffer::behind(&net.host, "eth0", kind));
        let devices = net.devices.iter().map(|dev| {
            let socket = dev.ns.enter(|| UdpSocket::bind(("::", PORT)));
            let socket = socket.expect("a port");
            socket.set_nonblocking(true).expect("O_NONBLOCK");
            (Sniffer::on(&dev.ns, &dev.name), socket)
        });
        Self {
            host: host.into(),
            devices: devices.collect(),
        }
    }

    /// What everybody heard since the last call.
    fn collect(&self) -> Vec<(char, Vec<u8>)> {
        let mut all = Vec::new();
        for ear in &self.host {
            let seen = ear.drain(Duration::ZERO).into_iter();
            all.extend(seen.map(|seen| ('h', seen.bytes)));
        }
        for (name, (tap, socket)) in ('0'..).zip(&self.devices) {
            let seen = tap.drain(Duration::ZERO).into_iter();
            all.extend(
                seen.filter(|seen| !seen.outgoing)
                    .map(|seen| (name, seen.bytes)),
            );
            let mut buf = [0; 2048];
            while let Ok(len) = socket.recv(&mut buf) {
                all.push((name, buf[..len].to_vec()));
            }
        }
        all
    }

    /// Who heard what of `cases`, once the last frame of all has arrived where it should.
    #[track_caller]
    fn until_quiet(&self, net: &Net, sender: &Sender, cases: &[Case]) -> Vec<BTreeSet<char>> {
        let fence = *b"\x02fence";
        let mac = net.mac();
        sender.send(&ethernet(BROADCAST, fence, ethertype::EXPERIMENT, &fence));
        let up = |dev: &&ipvlan_tests::Dev| dev.ns.link(&dev.name).is_up();
        let wanted: BTreeSet<char> = match net.mode {
            Mode::L2 => "h01".chars().collect(),
            Mode::L3 | Mode::L3s => {
                for dev in net.devices.iter().filter(up) {
                    let udp = packet::udp4(LAN4, dev.v4, PORT, &fence);
                    sender.send(&ethernet(mac, fence, ethertype::IPV4, &udp));
                }
                "h01".chars().collect()
            }
        };
        let mut heard = Vec::new();
        let mut last = BTreeSet::new();
        let quiet = eventually(PATIENCE, || {
            for (who, bytes) in self.collect() {
                if bytes.windows(6).any(|six| six == fence) {
                    let _: bool = last.insert(who);
                }
                heard.push((who, bytes));
            }
            last.is_superset(&wanted)
        });
        assert!(quiet, "the last frame is heard by {wanted:?}: {last:?}");
        // Copies may come later than what is handed on at once.
        std::thread::sleep(Duration::from_millis(100));
        heard.extend(self.collect());
        let of = |tag: Mac| {
            let mine = heard
                .iter()
                .filter(|(_, bytes)| bytes.windows(6).any(|six| six == tag));
            mine.map(|(who, _)| *who).collect()
        };
        cases.iter().map(|case| of(case.tag)).collect()
    }
}
