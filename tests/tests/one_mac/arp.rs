//! ARP, wherever in a frame it may stand.

use ipvlan_tests::packet::{BROADCAST, FORGED, ethernet, ethertype, mac_text};
use ipvlan_tests::{LAN4, Mode, PATIENCE, differs, eventually, packet};

use crate::{Attack, FREE4};

#[test]
fn a_forged_arp_sender_becomes_the_parent_s() {
    let attack = Attack::new(Mode::L2);
    let own = attack.own4();
    for operation in [1, 2, 8, 9, 0xffff] {
        for to in [attack.lan, BROADCAST] {
            for source in [FORGED, attack.net.mac()] {
                for target in [LAN4, FREE4, own] {
                    let payload = packet::arp(operation, (FORGED, own), ([0; 6], target));
                    let seen = attack.rewritten(
                        &format!("ARP operation {operation} for {target}"),
                        &ethernet(to, source, ethertype::ARP, &payload),
                    );
                    let sender = differs("one-mac", attack.net.mac(), FORGED);
                    assert_eq!(&seen.bytes[22..28], sender, "the sender field");
                    assert_eq!(&seen.bytes[28..32], own.octets(), "its address stays");
                }
            }
        }
    }
    // The receiver learns the parent's MAC address from it.
    attack.net.lan.sh("ip neigh flush all");
    let payload = packet::arp(1, (FORGED, own), ([0; 6], LAN4));
    attack
        .sender
        .send(&ethernet(BROADCAST, FORGED, ethertype::ARP, &payload));
    let entry = || attack.net.lan.neighbour(&own.to_string());
    let mac = mac_text(differs("one-mac", attack.net.mac(), FORGED));
    assert!(
        eventually(PATIENCE, || entry().contains(&mac)),
        "the LAN learns: {}",
        entry()
    );
}

#[test]
fn arp_that_cannot_be_checked_is_dropped() {
    let attack = Attack::new(Mode::L2);
    let good = packet::arp(1, (FORGED, attack.own4()), ([0; 6], LAN4));
    let frame = |payload: &[u8]| ethernet(BROADCAST, FORGED, ethertype::ARP, payload);
    for (what, at, value) in [
        ("IEEE 802 hardware", 1, 6),
        ("another protocol", 2, 0x86),
        ("longer hardware addresses", 4, 8),
        ("no hardware addresses", 4, 0),
        ("longer protocol addresses", 5, 16),
    ] {
        let mut payload = good.clone();
        payload[at] = value;
        attack.dropped("sealed-nd", what, &frame(&payload));
    }
    for len in [0, 1, 8, 14, 20, 27] {
        attack.dropped("sealed-nd", "ARP cut short", &frame(&good[..len]));
    }
    let rarp = packet::arp(3, (FORGED, attack.own4()), (FORGED, attack.own4()));
    attack.dropped(
        "l2-only",
        "RARP",
        &ethernet(BROADCAST, FORGED, ethertype::RARP, &rarp),
    );
}

#[test]
fn arp_inside_snap_is_not_seen_either() {
    // RFC 1042: 802.3 length, LLC, SNAP, then the EtherType. Some stacks take it for ARP.
    let attack = Attack::new(Mode::L2);
    let arp = packet::arp(2, (FORGED, attack.own4()), (attack.lan, LAN4));
    let mut payload = vec![0xaa, 0xaa, 3, 0, 0, 0, 8, 6];
    payload.extend(arp);
    let length = u16::try_from(payload.len()).expect("short");
    let frame = ethernet(BROADCAST, FORGED, length, &payload);
    attack.dropped("l2-only", "ARP inside SNAP", &frame);
}
