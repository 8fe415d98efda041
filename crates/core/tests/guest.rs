//! What a guest behind a tap needs beyond the verdicts: its own MAC address, and answers in l3.

mod frames;

use frames::*;
use ipvlan_abi::{Flag, Mode};
use ipvlan_core::frame::Bytes;
use ipvlan_core::guest::{self, Answer, Question};

const NOBODY4: V4 = [0; 4];
const NOBODY6: V6 = [0; 16];

fn question(mode: Mode, frame: &[u8]) -> Question {
    guest::question(&port(mode, Flag::Bridge), SENDER, &plain(frame), &Table)
}

fn request(sender: V4, target: V4) -> Vec<u8> {
    arp_broadcast(REQUEST, FOREIGN, sender, target)
}

/// A solicitation with these options, to one or to all who may have the target.
fn ask6(options: &[u8]) -> Vec<u8> {
    let message = neighbour(SOLICITATION, LAN6, options);
    ethernet(OWN, FOREIGN, IPV6, &ipv6(58, SENDER6, LAN6, &message))
}

fn bytes<const WORDS: usize>(answer: Answer<WORDS>) -> Vec<u8> {
    let bytes = answer.words.into_iter().flat_map(u64::to_le_bytes);
    bytes.take(answer.length as usize).collect()
}

#[test]
fn a_question_is_answered_in_l3_and_left_to_others_in_l2() {
    let whole = solicitation(FOREIGN, SENDER6, LAN6);
    let cases = [
        (request(SENDER4, LAN4), Question::Arp),
        (request(SENDER4, SIBLING4), Question::Arp),
        (request(SENDER4, PARENT4), Question::Arp),
        (whole, Question::Neighbour),
        (ask6(&link_layer(1, FOREIGN)), Question::Neighbour),
        (ask6(&[]), Question::Reachability),
    ];
    for (frame, expected) in cases {
        assert_eq!(question(Mode::L2, &frame), Question::None);
        assert_eq!(question(Mode::L3, &frame), expected, "{frame:02x?}");
        assert_eq!(question(Mode::L3s, &frame), expected, "{frame:02x?}");
    }
}

#[test]
fn who_looks_for_duplicates_is_not_told_that_there_is_one() {
    let frames = [
        // Its own, by whatever sender.
        request(LAN4, SENDER4),
        // An announcement, a probe.
        request(LAN4, LAN4),
        request(NOBODY4, LAN4),
        request(NOBODY4, SENDER4),
        solicitation(FOREIGN, NOBODY6, SENDER6),
        solicitation(FOREIGN, NOBODY6, LAN6),
        solicitation(FOREIGN, LAN6, SENDER6),
    ];
    for frame in frames {
        assert_eq!(question(Mode::L3, &frame), Question::None, "{frame:02x?}");
    }
}

#[test]
fn what_is_no_question_is_not_answered() {
    let mut short = request(SENDER4, LAN4);
    short.truncate(41);
    let mut token_ring = request(SENDER4, LAN4);
    token_ring[15] = 6;
    let mut cut = solicitation(FOREIGN, SENDER6, LAN6);
    cut.truncate(80);
    let frames = [
        short,
        token_ring,
        cut,
        arp_broadcast(REPLY, FOREIGN, SENDER4, LAN4),
        advertisement(FOREIGN, SENDER6),
        ask6(&[link_layer(1, FOREIGN), link_layer(1, FOREIGN)].concat()),
        ask6(&link_layer(2, FOREIGN)),
        udp4(OWN, FOREIGN, SENDER4, LAN4),
        udp6(OWN, FOREIGN, SENDER6, LAN6),
        vec![0; 14],
        vec![0; 3],
    ];
    for frame in frames {
        assert_eq!(question(Mode::L3, &frame), Question::None, "{frame:02x?}");
    }
    let tagged = request(SENDER4, LAN4);
    let frame = Bytes {
        tagged: true,
        ..plain(&tagged)
    };
    let port = port(Mode::L3, Flag::Bridge);
    let found = guest::question(&port, SENDER, &frame, &Table);
    assert_eq!(found, Question::None);
}

#[test]
fn the_answer_to_arp_names_the_parent() {
    let frame = request(SENDER4, LAN4);
    let answer = guest::arp_answer(&port(Mode::L3, Flag::Bridge), &plain(&frame)).unwrap();
    let mut expected = arp(REPLY, OWN, LAN4, SENDER4);
    expected[18..24].copy_from_slice(&FOREIGN);
    assert_eq!(bytes(answer), ethernet(FOREIGN, OWN, ARP, &expected));
    assert!(guest::arp_answer(&port(Mode::L3, Flag::Bridge), &plain(&frame[..40])).is_none());
}

#[test]
fn the_answer_to_a_solicitation_names_the_parent() {
    let port = port(Mode::L3, Flag::Bridge);
    for (whole, options) in [(true, link_layer(2, OWN)), (false, Vec::new())] {
        let frame = solicitation(FOREIGN, SENDER6, LAN6);
        let answer = bytes(guest::advertisement(&port, whole, &plain(&frame)).unwrap());
        let mut message = neighbour(ADVERTISEMENT, LAN6, &options);
        message[2..4].copy_from_slice(&answer[56..58]);
        // Solicited, override.
        message[4] = 0x60;
        let expected = ethernet(FOREIGN, OWN, IPV6, &ipv6(58, LAN6, SENDER6, &message));
        assert_eq!(answer, expected);
        let length = u64::try_from(message.len()).unwrap();
        let all = sum(&answer[22..]) + length + 58;
        assert_eq!(fold(all), 0xffff, "the checksum is right");
    }
    assert!(guest::advertisement(&port, true, &plain(&[0; 20])).is_none());
}

#[test]
fn a_guest_is_known_by_the_address_that_it_sends_from() {
    let number = |mac: Mac| {
        let [a, b, c, d, e, f] = mac;
        u64::from_le_bytes([a, b, c, d, e, f, 0, 0])
    };
    let from = |mac| guest::own_mac(&plain(&udp4(OWN, mac, SENDER4, LAN4)));
    assert_eq!(from(FOREIGN), number(FOREIGN));
    assert_eq!(from(OWN), number(OWN));
    assert_eq!(from(BROADCAST), 0);
    assert_eq!(from(ALL_NODES), 0);
    assert_eq!(guest::own_mac(&plain(&[2; 11])), 0);
}

#[test]
fn what_is_for_all_keeps_its_destination() {
    let for_one = |mac| guest::is_for_one(&plain(&udp4(mac, LAN, LAN4, SENDER4)));
    assert!(for_one(OWN) && for_one(FOREIGN));
    assert!(!for_one(BROADCAST) && !for_one(MDNS) && !for_one(ALL_NODES));
    assert!(!guest::is_for_one(&plain(&[2; 5])));
}

#[test]
fn the_host_s_own_stack_speaks_to_a_guest_only_by_name() {
    let of_host = |from, mac| guest::is_of_host(from, &plain(&udp4(mac, OWN, LAN4, SENDER4)));
    assert!(of_host(0, ALL_NODES) && of_host(0, BROADCAST));
    assert!(
        !of_host(0, OWN),
        "forwarding in l3s, and what the host sends itself"
    );
    assert!(!of_host(SENDER, ALL_NODES) && !of_host(SENDER, OWN));
}
