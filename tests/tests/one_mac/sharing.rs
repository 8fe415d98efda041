//! Neighbour discovery in pages that its sender can still write to.
//!
//! A packet that a ring shares (`PACKET_TX_RING`, `MSG_ZEROCOPY`) is copied by the kernel on its way
//! into another namespace. Pages of a file that `sendfile(2)` put into a datagram are not; and root
//! in a namespace has nft to make something else of the datagram's header.

#![expect(
    clippy::expect_used,
    reason = "clippy knows a test by its attribute, not the functions beside it"
)]

use std::fmt::Write as _;

use ipvlan_tests::firewall::nft;
use ipvlan_tests::packet::{FORGED, Mac, ethernet, ethertype, icmpv6, mac_text, nd, next};
use ipvlan_tests::traffic::SharedDatagram;
use ipvlan_tests::{LAN4, LAN6, Mode, Net, PATIENCE, differs, eventually, kernel_is_since, packet};

use crate::{Attack, FREE6};

const PORT: u16 = 9;

/// Frames that wait at the parent, so that their sender has time to change them.
fn waiting(net: &Net) -> u64 {
    let text = net.host.read("tc -s -j qdisc show dev eth0 root");
    let all: serde_json::Value = serde_json::from_str(&text).expect("JSON");
    all[0]["qlen"].as_u64().expect("a number")
}

/// What a datagram becomes.
struct Disguise {
    what: &'static str,
    /// Next header of the IPv6 header.
    next: u8,
    /// Instead of the UDP header.
    head: [u8; 8],
    data: Vec<u8>,
    /// Where in the data the MAC address is.
    mac: usize,
}

impl Disguise {
    fn all(attack: &Attack, mac: Mac) -> [Self; 2] {
        let body = nd::body(nd::NS, FREE6, &nd::option(nd::SOURCE, mac));
        let message = icmpv6(attack.own6(), LAN6, nd::NS, &body);
        let (head, data) = message.split_first_chunk().expect("an ICMPv6 header");
        let padding = packet::padding_header(next::ICMPV6, 1);
        let plain = Self {
            what: "ND",
            next: next::ICMPV6,
            head: *head,
            data: data.to_vec(),
            mac: 18,
        };
        let behind = Self {
            what: "ND behind an extension header",
            next: next::DESTINATION,
            head: *padding.first_chunk().expect("8 bytes"),
            data: message.clone(),
            mac: 26,
        };
        [plain, behind]
    }

    #[track_caller]
    fn send(&self, attack: &Attack) -> SharedDatagram {
        let mut head = String::new();
        for byte in self.head {
            write!(head, "{byte:02x}").expect("a string");
        }
        let from = &attack.net.dev(0).ns;
        nft(
            from,
            &format!(
                "flush ruleset
                table ip6 disguise {{
                  chain output {{
                    type filter hook output priority 0
                    udp dport {PORT} @th,0,64 set 0x{head} @nh,48,8 set {}
                  }}
                }}",
                self.next
            ),
        );
        SharedDatagram::send(from, (LAN6, PORT).into(), &self.data)
    }

    /// The MAC address that the wire sees.
    #[track_caller]
    fn arrives(&self, attack: &Attack) -> Mac {
        let seen = attack.wire.find(PATIENCE, |seen| {
            !seen.outgoing
                && seen.bytes.get(20) == Some(&self.next)
                && seen.contains(&FREE6.octets())
        });
        let seen = seen.unwrap_or_else(|| panic!("{} comes out", self.what));
        let at = 14 + 40 + 8 + self.mac;
        seen.bytes[at..at + 6].try_into().expect("6 bytes")
    }
}

#[test]
fn what_was_looked_at_is_what_goes_out_whatever_its_sender_writes_later() {
    let attack = Attack::new(Mode::L2);
    let (net, own) = (&attack.net, attack.net.mac());
    let lan = mac_text(attack.lan);
    net.dev(0).ns.sh(&format!(
        "ip neigh replace {LAN6} lladdr {lan} nud permanent dev ipvl0"
    ));
    for disguise in Disguise::all(&attack, FORGED) {
        let _: SharedDatagram = disguise.send(&attack);
        let wanted = differs("one-mac", own, FORGED);
        assert_eq!(disguise.arrives(&attack), wanted, "{}", disguise.what);
    }
    let rate = |rate: &str| {
        net.host.sh(&format!(
            "tc qdisc replace dev eth0 root tbf rate {rate} burst 1600 limit 1000000"
        ));
    };
    let filler = packet::udp4(attack.own4(), LAN4, PORT, &[0; 1400]);
    let filler = ethernet(attack.lan, own, ethertype::IPV4, &filler);
    for disguise in Disguise::all(&attack, own) {
        // A packet of 1400 bytes takes some 11 s. The first one finds the bucket full.
        rate("1kbit");
        while waiting(net) == 0 {
            attack.sender.send(&filler);
        }
        let before = waiting(net);
        let sent = disguise.send(&attack);
        let waits = || waiting(net) > before;
        assert!(eventually(PATIENCE, waits), "{} waits", disguise.what);
        sent.change(disguise.mac.try_into().expect("small"), &FORGED);
        let waits = waiting(net);
        assert!(waits > before, "{}: changed while it waits", disguise.what);
        // A packet more, and the queue is looked at with the new rate.
        rate("1gbit");
        attack.sender.send(&filler);
        let wanted = differs(
            "one-mac",
            own,
            if kernel_is_since(6, 5) { FORGED } else { own },
        );
        assert_eq!(disguise.arrives(&attack), wanted, "{}", disguise.what);
    }
}
