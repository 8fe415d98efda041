//! What a guest says of its address, and how a question finds one that has said nothing yet.

mod frames;

use frames::*;
use ipvlan_abi::{Flag, Mode, PORT_LEARN, PortEntry};
use ipvlan_core::frame::Bytes;
use ipvlan_core::learn::{Claim, claim};
use ipvlan_core::{Verdict, rx, tx};

const NOBODY4: V4 = [0; 4];
const NOBODY6: V6 = [0; 16];
/// Nobody's.
const FREE4: V4 = [10, 0, 0, 99];
const FREE6: V6 = v6(99);
const ROUTER_SOLICITATION: u8 = 133;
const ROUTER_ADVERTISEMENT: u8 = 134;
const ECHO: u8 = 128;

fn said(frame: &[u8]) -> Option<(u32, [u8; 16])> {
    let Claim { family, address } = claim(&plain(frame));
    let [low, high] = address;
    let number = u128::from(low) | u128::from(high) << 64;
    (family != 0).then_some((family, number.to_le_bytes()))
}

fn said4([a, b, c, d]: V4) -> Option<(u32, [u8; 16])> {
    Some((4, [a, b, c, d, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0]))
}

/// An ICMPv6 message with this hop limit.
fn icmp6(hops: u8, kind: u8, from: V6, target: V6) -> Vec<u8> {
    let message = neighbour(kind, target, &[]);
    let mut frame = ethernet(LAN, FOREIGN, IPV6, &ipv6(58, from, LAN6, &message));
    frame[21] = hops;
    frame
}

#[test]
fn arp_says_the_address_of_its_sender() {
    for operation in [REQUEST, REPLY] {
        for target in [LAN4, FREE4] {
            let frame = arp_broadcast(operation, FOREIGN, FREE4, target);
            assert_eq!(said(&frame), said4(FREE4), "{operation}, {target:?}");
        }
    }
    let to_one = ethernet(LAN, FOREIGN, ARP, &arp(REPLY, FOREIGN, FREE4, LAN4));
    assert_eq!(said(&to_one), said4(FREE4));
    assert_eq!(said(&to_one[..41]), None, "cut short");
    let mut other = to_one.clone();
    // Not Ethernet.
    other[15] = 6;
    assert_eq!(said(&other), None);
    let tagged = Bytes {
        tagged: true,
        ..plain(&to_one)
    };
    assert_eq!(claim(&tagged).family, 0);
}

#[test]
fn what_no_interface_can_have_is_no_claim() {
    let addresses = [
        NOBODY4,
        [0, 0, 0, 9],
        [127, 0, 0, 1],
        [224, 0, 0, 251],
        [255, 255, 255, 255],
    ];
    for address in addresses {
        let frame = arp_broadcast(REQUEST, FOREIGN, address, LAN4);
        assert_eq!(said(&frame), None, "{address:?}");
    }
    let mut loopback = NOBODY6;
    loopback[15] = 1;
    for address in [NOBODY6, loopback, ALL_NODES6] {
        let frame = icmp6(255, SOLICITATION, address, FREE6);
        assert_eq!(said(&frame), None, "{address:?}");
        let frame = icmp6(255, ADVERTISEMENT, FREE6, address);
        assert_eq!(said(&frame), None, "{address:?}");
    }
}

#[test]
fn neighbour_discovery_says_who_solicits_and_who_is_advertised() {
    for kind in [SOLICITATION, ROUTER_SOLICITATION] {
        assert_eq!(said(&icmp6(255, kind, FREE6, LAN6)), Some((6, FREE6)));
    }
    let advertised = icmp6(255, ADVERTISEMENT, LAN6, FREE6);
    assert_eq!(said(&advertised), Some((6, FREE6)));
    assert_eq!(said(&advertised[..77]), None, "cut short");
    for (hops, kind) in [
        (64, SOLICITATION),
        (254, ADVERTISEMENT),
        (255, ROUTER_ADVERTISEMENT),
        (255, ECHO),
    ] {
        assert_eq!(
            said(&icmp6(hops, kind, FREE6, FREE6)),
            None,
            "{kind}, {hops}"
        );
    }
}

#[test]
fn plain_traffic_says_nothing() {
    assert_eq!(said(&udp4(LAN, FOREIGN, FREE4, LAN4)), None);
    assert_eq!(said(&udp6(LAN, FOREIGN, FREE6, LAN6)), None);
    let other = ethernet(LAN, FOREIGN, EXPERIMENT, &[0; 46]);
    assert_eq!(said(&other), None);
}

fn learning(flag: Flag) -> PortEntry {
    PortEntry {
        bits: PORT_LEARN,
        ..port(Mode::L2, flag)
    }
}

#[test]
fn a_question_for_what_nobody_owns_goes_to_all_while_somebody_learns() {
    let from_lan = [
        arp_broadcast(REQUEST, LAN, LAN4, FREE4),
        solicitation(LAN, LAN6, FREE6),
    ];
    for frame in &from_lan {
        let found = received(Mode::L2, Flag::Bridge, frame);
        expect_verdict("nobody learns", found, Verdict::PASS);
        for flag in FLAGS {
            let found = rx(&learning(flag), &plain(frame), &Table);
            expect_verdict("somebody learns", found, Verdict::FLOOD);
        }
    }
    let owned = arp_broadcast(REQUEST, LAN, LAN4, SIBLING4);
    let found = rx(&learning(Flag::Bridge), &plain(&owned), &Table);
    expect_verdict("a question for a device", found, to(SIBLING));
    let parents = arp_broadcast(REQUEST, LAN, LAN4, PARENT4);
    let found = rx(&learning(Flag::Bridge), &plain(&parents), &Table);
    expect_verdict("a question for the parent", found, Verdict::PASS);
}

#[test]
fn so_does_a_sibling_s_unless_it_is_private() {
    let frames = [
        arp_broadcast(REQUEST, OWN, SENDER4, FREE4),
        solicitation(OWN, SENDER6, FREE6),
    ];
    for frame in &frames {
        for (flag, expected) in [
            (Flag::Bridge, Verdict::FLOOD),
            (Flag::Private, Verdict::WIRE),
            (Flag::Vepa, Verdict::FLOOD),
        ] {
            let found = tx(&learning(flag), SENDER, &plain(frame), &Table);
            expect_verdict("somebody learns", found, sealed(expected));
            let found = sent(Mode::L2, flag, frame);
            expect_verdict("nobody learns", found, sealed(Verdict::WIRE));
        }
    }
}
