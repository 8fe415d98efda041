//! What is found of MAC addresses in neighbour discovery, however it is wrapped up.

mod frames;

use frames::*;
use ipvlan_abi::{DropReason, Flag, Mode};
use ipvlan_core::{Action, Fix, Verdict};

const HOP_BY_HOP: u8 = 0;
const ROUTING: u8 = 43;
const FRAGMENT: u8 = 44;
const AUTHENTICATION: u8 = 51;
const ICMPV6: u8 = 58;
const DESTINATION: u8 = 60;

/// All that are as long as (their length byte + 1) * 8.
const IN_EIGHTS: [u8; 6] = [HOP_BY_HOP, ROUTING, DESTINATION, 135, 139, 140];

/// An extension header in front of others: its number, and its bytes but the first, which is the
/// number of whatever follows it.
type Extension = (u8, Vec<u8>);

fn in_eights(number: u8, length: u8) -> Extension {
    let mut rest = vec![0; usize::from(length) * 8 + 7];
    rest[0] = length;
    (number, rest)
}

fn authentication(length: u8) -> Extension {
    let mut rest = vec![0; usize::from(length) * 4 + 7];
    rest[0] = length;
    (AUTHENTICATION, rest)
}

fn fragment(offset_and_flags: u16) -> Extension {
    let [high, low] = offset_and_flags.to_be_bytes();
    (FRAGMENT, vec![0, high, low, 0, 0, 0, 1])
}

/// A unicast frame to the LAN: extension headers, then what they lead to.
fn chain(extensions: &[Extension], last: u8, message: &[u8]) -> Vec<u8> {
    let numbers = extensions.iter().map(|(number, _)| *number).chain([last]);
    let first = numbers.clone().next().unwrap_or(last);
    let mut payload = Vec::new();
    for ((_, rest), next) in extensions.iter().zip(numbers.skip(1)) {
        payload.push(next);
        payload.extend(rest);
    }
    payload.extend(message);
    ethernet(LAN, OWN, IPV6, &ipv6(first, SENDER6, LAN6, &payload))
}

/// A neighbour advertisement with these options.
fn message(options: &[u8]) -> Vec<u8> {
    neighbour(ADVERTISEMENT, SENDER6, options)
}

fn spoofed() -> Vec<u8> {
    message(&link_layer(2, FOREIGN))
}

fn verdict(frame: &[u8]) -> Verdict {
    sent(Mode::L2, Flag::Bridge, frame)
}

/// It is ND, and goes out as it is.
fn expect_sealed(what: &str, frame: &[u8]) {
    assert_eq!(verdict(frame), sealed(Verdict::WIRE), "{what}");
}

/// It goes out with the address at `option` overwritten, and only that.
fn expect_fixed(what: &str, frame: &[u8], option: usize, checksum: usize) {
    let verdict = verdict(frame);
    assert_eq!(verdict.action(), Action::Wire, "{what}");
    let found = verdict.fix().nd_offsets();
    let found = found.map(|(option, checksum)| (option as usize, checksum as usize));
    assert_eq!(found, Some((option, checksum)), "{what}");
    assert!(
        verdict.fix().has(Fix::SEALED),
        "{what}: nothing is written over it later"
    );
    assert_eq!(
        &frame[option..option + 6],
        &FOREIGN,
        "{what}: the test itself"
    );
    let mut fixed = frame.to_vec();
    apply(verdict, OWN, &mut fixed);
    assert_eq!(
        macs_shown(&fixed).iter().find(|mac| **mac != OWN),
        None,
        "{what}"
    );
}

fn expect_untouched(what: &str, frame: &[u8]) {
    assert_eq!(verdict(frame), Verdict::WIRE, "{what}");
}

fn expect_drop(what: &str, frame: &[u8], reason: DropReason) {
    assert_eq!(verdict(frame), dropped(reason), "{what}");
}

/// Extension headers in front of an advertisement whose only option is a foreign address.
fn expect_walked(what: &str, extensions: &[Extension]) {
    let frame = chain(extensions, ICMPV6, &spoofed());
    let icmp = frame.len() - spoofed().len();
    expect_fixed(what, &frame, icmp + 24 + 2, icmp + 2);
}

#[test]
fn a_foreign_address_is_found_in_every_message_that_may_carry_one() {
    for (kind, fixed) in [
        (133, 8),
        (134, 16),
        (135, 24),
        (136, 24),
        (137, 40),
        (141, 8),
        (142, 8),
    ] {
        for option in [1, 2] {
            let mut message = vec![0; fixed];
            message[0] = kind;
            message.extend(link_layer(option, FOREIGN));
            let frame = chain(&[], ICMPV6, &message);
            expect_fixed("foreign", &frame, 54 + fixed + 2, 54 + 2);
            message.truncate(fixed);
            expect_sealed("without an option", &chain(&[], ICMPV6, &message));
            message.extend(link_layer(option, OWN));
            expect_sealed("our own", &chain(&[], ICMPV6, &message));
        }
    }
}

#[test]
fn other_messages_are_not_read() {
    for kind in (0..=255).filter(|kind| !matches!(kind, 133..=137 | 141 | 142)) {
        let mut message = vec![0; 40];
        message[0] = kind;
        for _ in 0..3 {
            message.extend(link_layer(1, FOREIGN));
        }
        expect_untouched("not ND", &chain(&[], ICMPV6, &message));
    }
}

#[test]
fn the_checksum_still_holds_after_the_change() {
    let mut frame = chain(&[in_eights(DESTINATION, 0)], ICMPV6, &spoofed());
    let whole = |frame: &[u8]| {
        let icmp = frame.len() - spoofed().len();
        let length = u64::try_from(frame.len() - icmp).unwrap();
        fold(sum(&frame[22..54]) + length + u64::from(ICMPV6) + sum(&frame[icmp..]))
    };
    let at = frame.len() - spoofed().len() + 2;
    let checksum = !whole(&frame);
    frame[at..at + 2].copy_from_slice(&checksum.to_be_bytes());
    assert_eq!(whole(&frame), 0xffff, "the test itself");
    let verdict = verdict(&frame);
    apply(verdict, OWN, &mut frame);
    assert!(!macs_shown(&frame).contains(&FOREIGN), "it is gone");
    assert_eq!(whole(&frame), 0xffff, "the fix names the checksum's place");
}

#[test]
fn extension_headers_of_every_kind_and_length_are_walked() {
    for length in 0..4 {
        for number in IN_EIGHTS {
            expect_walked("one", &[in_eights(number, length)]);
            expect_walked(
                "two",
                &[in_eights(HOP_BY_HOP, length), in_eights(number, 1)],
            );
        }
        expect_walked("AH", &[authentication(length)]);
        expect_walked(
            "AH, odd",
            &[authentication(length), in_eights(DESTINATION, 0)],
        );
    }
}

#[test]
fn short_chains_of_extension_headers_are_walked() {
    for count in 1..=ipvlan_core::nd::HEADERS {
        expect_walked("a chain", &vec![in_eights(DESTINATION, 0); count]);
    }
}

/// As many as allowed are not more than allowed.
#[test]
fn as_many_extension_headers_as_are_allowed_are_walked() {
    expect_walked(
        "as many as allowed",
        &vec![in_eights(DESTINATION, 0); ipvlan_core::nd::HEADERS],
    );
}

#[test]
fn more_extension_headers_are_refused_whatever_is_behind_them() {
    for count in [1, 2, 12].map(|more| ipvlan_core::nd::HEADERS + more) {
        let extensions = vec![in_eights(DESTINATION, 0); count];
        for last in [ICMPV6, 6, 17, 59] {
            let frame = chain(&extensions, last, &spoofed());
            expect_drop("a long chain", &frame, DropReason::ExtensionHeaders);
        }
    }
}

#[test]
fn headers_deeper_than_we_read_are_refused() {
    // 54 + 448 + 8: the message would begin at 510, and only two bytes of it could be read.
    let frame = chain(
        &[in_eights(ROUTING, 55), in_eights(ROUTING, 0)],
        ICMPV6,
        &spoofed(),
    );
    expect_drop("at 510", &frame, DropReason::ExtensionHeaders);
    for length in [58, 100, 255] {
        let frame = chain(&[in_eights(ROUTING, length)], ICMPV6, &spoofed());
        expect_drop("one long header", &frame, DropReason::ExtensionHeaders);
        let two = [in_eights(ROUTING, length), in_eights(DESTINATION, 0)];
        let frame = chain(&two, ICMPV6, &spoofed());
        expect_drop("and one behind it", &frame, DropReason::ExtensionHeaders);
    }
    // The deepest that can be read whole: 54 + 424, 24 of advertisement, 8 of option end at 510.
    expect_walked("the deepest", &[in_eights(ROUTING, 52)]);
    let frame = chain(&[in_eights(ROUTING, 53)], ICMPV6, &spoofed());
    expect_drop("its option does not fit", &frame, DropReason::NdMalformed);
}

#[test]
fn neighbour_discovery_in_a_fragment_is_refused() {
    for flags in [0, 1, 6] {
        let frame = chain(&[fragment(flags)], ICMPV6, &spoofed());
        expect_drop("the first fragment", &frame, DropReason::NdMalformed);
        let frame = chain(&[fragment(flags)], ICMPV6, &message(&link_layer(2, OWN)));
        expect_drop("even if it says our own", &frame, DropReason::NdMalformed);
        for behind in [in_eights(DESTINATION, 0), authentication(3)] {
            let around = [in_eights(HOP_BY_HOP, 0), fragment(flags), behind];
            let frame = chain(&around, ICMPV6, &spoofed());
            expect_drop("among other headers", &frame, DropReason::NdMalformed);
        }
        let echo = chain(&[fragment(flags)], ICMPV6, &[128, 0, 0, 0, 0, 0, 0, 0]);
        expect_untouched("a large ping", &echo);
        expect_untouched("UDP", &chain(&[fragment(flags)], 17, &[0; 64]));
    }
}

#[test]
fn a_later_fragment_shows_nothing_to_anybody() {
    for offset in [8, 9, 0x4000, 0xfff8, 0xfff9] {
        let frame = chain(&[fragment(offset)], ICMPV6, &spoofed());
        expect_untouched("later", &frame);
    }
}

#[test]
fn what_is_not_icmp_is_not_read() {
    for last in [1, 4, 6, 17, 41, 47, 50, 59, 89, 132, 253, 255] {
        expect_untouched("another protocol", &chain(&[], last, &spoofed()));
        let frame = chain(&[in_eights(HOP_BY_HOP, 0)], last, &spoofed());
        expect_untouched("behind a header", &frame);
    }
}

#[test]
fn a_frame_may_be_cut_anywhere() {
    for extensions in [
        vec![],
        vec![in_eights(HOP_BY_HOP, 1)],
        vec![authentication(1), in_eights(DESTINATION, 0)],
    ] {
        let whole = chain(&extensions, ICMPV6, &spoofed());
        let icmp = whole.len() - spoofed().len();
        for cut in 14..whole.len() {
            // The address is the frame's last bytes: without the last, nobody reads the option.
            let verdict = verdict(&whole[..cut]);
            assert_eq!(verdict.action(), Action::Wire, "cut at {cut}");
            assert!(is_right(verdict), "cut at {cut}");
            if cut < icmp {
                assert_eq!(verdict, Verdict::WIRE, "cut before the message");
            }
        }
        assert!(verdict(&whole).fix().nd_offsets().is_some(), "whole");
    }
}

#[test]
fn what_is_behind_the_packets_end_is_padding() {
    let options = [link_layer(2, OWN), link_layer(2, FOREIGN)].concat();
    let body = message(&options);
    for (length, expected) in [
        (24, sealed(Verdict::WIRE)),
        (31, sealed(Verdict::WIRE)),
        (32, sealed(Verdict::WIRE)),
        (39, sealed(Verdict::WIRE)),
        (40, dropped(DropReason::NdMalformed)),
        (41, dropped(DropReason::NdMalformed)),
        (65535, dropped(DropReason::NdMalformed)),
        // A jumbogram, as far as we are concerned: its end is the frame's.
        (0, dropped(DropReason::NdMalformed)),
    ] {
        let packet = ipv6_with(length, ICMPV6, SENDER6, LAN6, &body);
        let frame = ethernet(LAN, OWN, IPV6, &packet);
        assert_eq!(verdict(&frame), expected, "payload length {length}");
    }
}

#[test]
fn a_wrong_payload_length_hides_nothing() {
    for length in [0, 32, 33, 100, 65535] {
        let packet = ipv6_with(length, ICMPV6, SENDER6, LAN6, &spoofed());
        let frame = ethernet(LAN, OWN, IPV6, &packet);
        expect_fixed(
            "longer than the frame, or none",
            &frame,
            54 + 24 + 2,
            54 + 2,
        );
    }
    for length in 1..32 {
        let packet = ipv6_with(length, ICMPV6, SENDER6, LAN6, &spoofed());
        let frame = ethernet(LAN, OWN, IPV6, &packet);
        expect_sealed("ends before the option does", &frame);
    }
}

#[test]
fn an_option_of_no_length_is_refused() {
    for kind in [0, 1, 2, 3, 5, 14, 255] {
        let frame = chain(&[], ICMPV6, &message(&[kind, 0, 0, 0, 0, 0, 0, 0]));
        expect_drop("length 0", &frame, DropReason::NdMalformed);
        let second = [link_layer(2, FOREIGN), vec![kind, 0, 0, 0, 0, 0, 0, 0]].concat();
        let frame = chain(&[], ICMPV6, &message(&second));
        expect_drop("behind a good one", &frame, DropReason::NdMalformed);
    }
}

#[test]
fn a_link_layer_option_of_another_length_than_ethernets_is_refused() {
    for kind in [1, 2] {
        for length in [2, 3, 255] {
            let mut option = vec![0; usize::from(length) * 8];
            option[0] = kind;
            option[1] = length;
            for present in [option.len(), 16, 8] {
                let frame = chain(&[], ICMPV6, &message(&option[..present]));
                // More than the MTU would be another reason.
                if frame.len() <= 1514 {
                    expect_drop("a longer address", &frame, DropReason::NdMalformed);
                }
            }
        }
    }
}

#[test]
fn other_options_are_skipped_whatever_their_length() {
    for length in 1..=10u8 {
        let mut options = vec![0; usize::from(length) * 8];
        options[0] = 3;
        options[1] = length;
        let untouched = chain(&[], ICMPV6, &message(&options));
        expect_sealed("another option", &untouched);
        options.extend(link_layer(2, FOREIGN));
        let frame = chain(&[], ICMPV6, &message(&options));
        let option = 54 + 24 + usize::from(length) * 8 + 2;
        expect_fixed("behind another option", &frame, option, 54 + 2);
    }
    let longer_than_the_packet = message(&[3, 9, 0, 0, 0, 0, 0, 0]);
    expect_sealed("cut", &chain(&[], ICMPV6, &longer_than_the_packet));
}

#[test]
fn two_link_layer_options_are_refused() {
    for (first, second) in [
        (link_layer(1, FOREIGN), link_layer(2, FOREIGN)),
        (link_layer(2, OWN), link_layer(2, FOREIGN)),
        (link_layer(1, FOREIGN), link_layer(1, OWN)),
        (link_layer(1, OWN), link_layer(2, OWN)),
    ] {
        for between in [vec![], vec![14, 1, 0, 0, 0, 0, 0, 0]] {
            let options = [&first[..], &between, &second].concat();
            let frame = chain(&[], ICMPV6, &message(&options));
            expect_drop("two of them", &frame, DropReason::NdMalformed);
        }
    }
}

#[test]
fn sixteen_options_are_read_and_a_seventeenth_is_refused() {
    let nonce = [14, 1, 0, 0, 0, 0, 0, 0];
    let last = link_layer(2, FOREIGN);
    let sixteen = [nonce.repeat(15), last.clone()].concat();
    let frame = chain(&[], ICMPV6, &message(&sixteen));
    expect_fixed("the sixteenth", &frame, 54 + 24 + 15 * 8 + 2, 54 + 2);
    let ragged = [&sixteen[..], &[2, 1, 0, 0, 0, 0, 0]].concat();
    let frame = chain(&[], ICMPV6, &message(&ragged));
    expect_fixed(
        "less than an option behind it",
        &frame,
        54 + 24 + 15 * 8 + 2,
        54 + 2,
    );
    for seventeenth in [&nonce[..], &last] {
        let seventeen = [&nonce.repeat(16), seventeenth].concat();
        let frame = chain(&[], ICMPV6, &message(&seventeen));
        expect_drop("seventeen", &frame, DropReason::NdMalformed);
    }
}

#[test]
fn options_deeper_than_we_read_are_refused() {
    let reach = |length: u8| {
        let mut options = vec![0; usize::from(length) * 8];
        options[0] = 4;
        options[1] = length;
        options.extend(link_layer(2, FOREIGN));
        chain(&[], ICMPV6, &message(&options))
    };
    // 54 + 24 + 53 * 8 + 8 = 510.
    expect_fixed("the deepest", &reach(53), 504, 56);
    expect_drop("one deeper", &reach(54), DropReason::NdMalformed);
    expect_drop("the longest", &reach(170), DropReason::NdMalformed);
}

#[test]
fn the_destination_of_the_frame_makes_no_difference() {
    for destination in [OWN, LAN, BROADCAST, ALL_NODES] {
        let mut frame = chain(&[in_eights(HOP_BY_HOP, 0)], ICMPV6, &spoofed());
        frame[..6].copy_from_slice(&destination);
        for flag in FLAGS {
            let found = sent(Mode::L2, flag, &frame).fix().nd_offsets();
            assert_eq!(found, Some((54 + 8 + 24 + 2, 54 + 8 + 2)), "{flag}");
        }
    }
}

#[test]
fn an_address_is_found_in_what_siblings_ask_each_other() {
    let (group, mac) = solicited_node(SIBLING6);
    let message = neighbour(SOLICITATION, SIBLING6, &link_layer(1, FOREIGN));
    let frame = ethernet(mac, OWN, IPV6, &ipv6(ICMPV6, SENDER6, group, &message));
    let verdict = verdict(&frame);
    assert_eq!(verdict.owner(), owner(SIBLING), "it goes to its target");
    assert!(verdict.fix().nd_offsets().is_some(), "with our own address");
}
