//! What comes in on the parent: who gets it, who may take it before, and what it does to nobody.
//!
//! | file | what |
//! |---|---|
//! | `table.rs` | frames, who is to hear each, and the ears |
//! | `ip.rs`, `questions.rs`, `others.rs` | the frames: IP; ARP and neighbour discovery; the rest |
//! | `groups.rs` | members of groups, and what the host sends to all |

#![expect(
    clippy::expect_used,
    reason = "clippy knows a test by its attribute, not the functions beside it"
)]

mod groups;
mod ip;
mod others;
mod questions;
mod table;

use std::net::{Ipv4Addr, Ipv6Addr};
use std::time::Duration;

use ipvlan_tests::packet::{FORGED, Mac, ethernet, ethertype};
use ipvlan_tests::sniff::Sender;
use ipvlan_tests::{LAN4, Mode, Net, PATIENCE, Sniffer, eventually, packet};

use crate::table::{Ears, Table};

/// Nobody's, on the LAN's subnet.
const FREE4: Ipv4Addr = Ipv4Addr::new(10, 1, 0, 200);
const FREE6: Ipv6Addr = Ipv6Addr::new(0xfd00, 0, 0, 0, 0, 0, 0, 0x200);
const PORT: u16 = 7099;

const PAUSE: u16 = 0x8808;
const LLDP: u16 = 0x88cc;
const LLC: u16 = 0x0004;

/// Two devices that are up, and a third that is configured and down.
fn with_one_down(mode: Mode) -> Net {
    let net = Net::new(mode).devices(3).build();
    let down = net.dev(2);
    down.ns.sh(&format!("ip link set {} down", down.name));
    // Row follow. Whatever is for nobody is heard by the parent's stack.
    let ear = Sniffer::behind(&net.host, "eth0", ethertype::IPV4);
    let sender = Sender::on(&net.lan, "lan0");
    let udp = packet::udp4(LAN4, down.v4, PORT, b"still there?");
    let frame = ethernet(net.mac(), FORGED, ethertype::IPV4, &udp);
    let gone = eventually(PATIENCE, || {
        sender.send(&frame);
        let passed = ear.find(Duration::from_millis(50), |seen| seen.bytes == frame);
        passed.is_some()
    });
    assert!(gone, "{mode}: a device that is down owns nothing");
    net
}

fn v4(to: Mac, from: Mac, packet: &[u8]) -> Vec<u8> {
    ethernet(to, from, ethertype::IPV4, packet)
}

fn v6(to: Mac, from: Mac, packet: &[u8]) -> Vec<u8> {
    ethernet(to, from, ethertype::IPV6, packet)
}

fn everything(mode: Mode) {
    let net = with_one_down(mode);
    net.host.sh("ip link set eth0 promisc on");
    let ears = Ears::on(&net);
    let mut table = Table::new(mode);
    ip::cases(&mut table, &net);
    questions::cases(&mut table, &net);
    others::cases(&mut table, &net);
    table.run(&net, &ears);
    for address in net.dev(1).addresses() {
        assert!(net.lan.reaches(&address), "{mode}: it did no harm");
    }
}

#[test]
fn who_gets_which_frame_in_l2() {
    everything(Mode::L2);
}

#[test]
fn who_gets_which_frame_in_l3() {
    everything(Mode::L3);
}

#[test]
fn who_gets_which_frame_in_l3s() {
    everything(Mode::L3s);
}
