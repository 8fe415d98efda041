//! Everywhere that a frame of a device could turn up.

use std::fmt;
use std::time::Duration;

use crate::sniff::{Seen, Sniffer};
use crate::topology::Net;

/// Ears at the far end of the wire, at the host's own stack and at each device.
#[derive(Debug)]
pub struct Places {
    wire: Sniffer,
    host: [Sniffer; 2],
    devices: Vec<Sniffer>,
}

/// How often a frame was heard, and where.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Found {
    /// On the LAN.
    pub wire: usize,
    /// In the parent's namespace, by its parent from the wire or from a device, or by its `lo`:
    /// the driver's devices in l3 reach the host there.
    pub host: usize,
    /// At each device, by number.
    pub devices: Vec<usize>,
}

/// `wire, host, ipvl0`, each as often as it was heard there, or `nowhere`.
impl fmt::Display for Found {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let devices = (0..).zip(&self.devices);
        let devices = devices.map(|(number, times)| (format!("ipvl{number}"), *times));
        let all: Vec<String> = [("wire".into(), self.wire), ("host".into(), self.host)]
            .into_iter()
            .chain(devices)
            .flat_map(|(name, times)| std::iter::repeat_n(name, times))
            .collect();
        f.write_str(match &*all.join(", ") {
            "" => "nowhere",
            all => all,
        })
    }
}

impl Places {
    /// Listens from now on.
    pub fn of(net: &Net) -> Self {
        Self {
            wire: Sniffer::on(&net.lan, "lan0"),
            host: ["eth0", "lo"].map(|name| Sniffer::on(&net.host, name)),
            devices: net.ears(),
        }
    }

    /// What came in since the last call, at each place.
    pub fn hear(&self) -> Heard {
        // Whatever is still on its way is heard by the first, or is quick.
        let heard = |sniffer: &Sniffer, quiet| {
            let mut all = sniffer.drain(Duration::from_millis(quiet));
            all.retain(|seen| !seen.outgoing && !is_complaint(seen));
            all
        };
        Heard {
            wire: heard(&self.wire, 300),
            host: self.host.iter().flat_map(|ears| heard(ears, 20)).collect(),
            devices: self.devices.iter().map(|ears| heard(ears, 20)).collect(),
        }
    }

    /// Where frames with `word` in them came in since the last call.
    pub fn of_word(&self, word: &[u8]) -> Found {
        self.hear().of_word(word)
    }
}

/// All that came in. An ICMP error that quotes a frame is left out.
#[derive(Debug)]
pub struct Heard {
    /// On the LAN.
    pub wire: Vec<Seen>,
    /// In the parent's namespace.
    pub host: Vec<Seen>,
    /// At each device.
    pub devices: Vec<Vec<Seen>>,
}

impl Heard {
    /// Where frames with `word` in them came in.
    pub fn of_word(&self, word: &[u8]) -> Found {
        let count = |all: &[Seen]| all.iter().filter(|seen| seen.contains(word)).count();
        Found {
            wire: count(&self.wire),
            host: count(&self.host),
            devices: self.devices.iter().map(|all| count(all)).collect(),
        }
    }
}

/// Whether it is an ICMP error: it quotes the packet that it is about.
pub fn is_complaint(seen: &Seen) -> bool {
    let byte = |at: usize| seen.bytes.get(at).copied().unwrap_or_default();
    match seen.ethertype() {
        0x0800 => byte(23) == 1 && matches!(byte(34), 3 | 5 | 11 | 12),
        0x86dd => byte(20) == 58 && byte(54) < 128,
        _ => false,
    }
}
