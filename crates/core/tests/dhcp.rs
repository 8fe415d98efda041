//! DHCP: which messages are exchanged for whom, and where.
#![expect(clippy::expect_used, reason = "a failed expectation is a failed test")]

mod frames;

use frames::*;
use ipvlan_abi::{DropReason, Flag, Mode, Owner, identity_of};
use ipvlan_core::dhcp::{OPTIONS, Places, reply, request};
use ipvlan_core::{Action, Verdict};

const NOBODY4: V4 = [0; 4];
const ALL4: V4 = [255; 4];
const SERVERS6: V6 = [0xff, 2, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1, 0, 2];
const SERVERS6_MAC: Mac = [0x33, 0x33, 0, 1, 0, 2];
const LINK6: V6 = [0xfe, 0x80, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 9];
const FLAGS: [Flag; 3] = [Flag::Bridge, Flag::Private, Flag::Vepa];
/// Where the BOOTP message begins in a frame without IP options.
const BOOTP: usize = 42;

fn udp(source: u16, destination: u16, payload: &[u8]) -> Vec<u8> {
    let length = u16::try_from(8 + payload.len()).expect("short");
    [
        &source.to_be_bytes()[..],
        &destination.to_be_bytes(),
        &length.to_be_bytes(),
        &[0xab, 0xcd],
        payload,
    ]
    .concat()
}

fn bootp(op: u8, relay: V4, hardware: Mac, options: &[u8]) -> Vec<u8> {
    let mut message = vec![op, 1, 6, 0, 1, 2, 3, 4, 0, 0, 0, 0];
    message.extend([0; 12]);
    message.extend(relay);
    message.extend(hardware);
    message.extend([0; 10 + 64 + 128]);
    message.extend([99, 130, 83, 99]);
    message.extend(options);
    message
}

fn option(kind: u8, value: &[u8]) -> Vec<u8> {
    [&[kind, u8::try_from(value.len()).expect("short")], value].concat()
}

fn options(all: &[(u8, &[u8])]) -> Vec<u8> {
    let mut bytes: Vec<u8> = all
        .iter()
        .flat_map(|(kind, value)| option(*kind, value))
        .collect();
    bytes.push(255);
    bytes
}

fn asks(options: &[u8]) -> Vec<u8> {
    let message = udp(68, 67, &bootp(1, NOBODY4, OWN, options));
    ethernet(BROADCAST, OWN, IPV4, &ipv4(NOBODY4, ALL4, &message))
}

fn answers(hardware: Mac, options: &[u8]) -> Vec<u8> {
    let message = udp(67, 68, &bootp(2, NOBODY4, hardware, options));
    ethernet(BROADCAST, LAN, IPV4, &ipv4(LAN4, ALL4, &message))
}

fn bridge() -> ipvlan_abi::PortEntry {
    port(Mode::L2, Flag::Bridge)
}

fn option6(kind: u16, value: &[u8]) -> Vec<u8> {
    let length = u16::try_from(value.len()).expect("short");
    [&kind.to_be_bytes()[..], &length.to_be_bytes(), value].concat()
}

fn asks6(kind: u8, options: &[u8]) -> Vec<u8> {
    let message = udp(546, 547, &[&[kind, 7, 7, 7], options].concat());
    ethernet(
        SERVERS6_MAC,
        OWN,
        IPV6,
        &ipv6(17, LINK6, SERVERS6, &message),
    )
}

#[test]
fn identities_are_local_addresses_that_differ() {
    let port = bridge();
    let mut all: Vec<Mac> = (0..=65_532).map(|slot| port.dhcp_identity(slot)).collect();
    for one in &all {
        assert_eq!(one[0] & 3, 2, "{one:02x?}: local, and no group");
    }
    all.sort_unstable();
    all.dedup();
    assert_eq!(all.len(), 65_533);
    assert_ne!(identity_of(OWN), identity_of(LAN));
}

#[test]
fn what_a_client_asks_goes_to_the_wire_only() {
    let frame = asks(&options(&[(53, &[1])]));
    for flag in FLAGS {
        assert_eq!(
            sent(Mode::L2, flag, &frame),
            Verdict::lease(Owner::NOBODY),
            "{flag}"
        );
    }
    // A renewal, to the server itself.
    let message = udp(68, 67, &bootp(1, NOBODY4, OWN, &options(&[(53, &[3])])));
    let frame = ethernet(LAN, OWN, IPV4, &ipv4(SENDER4, LAN4, &message));
    let verdict = sent(Mode::L2, Flag::Bridge, &frame);
    assert_eq!(verdict, Verdict::lease(Owner::NOBODY));
    let frame = asks6(1, &option6(1, b"a name of mine"));
    for flag in FLAGS {
        let verdict = sent(Mode::L2, flag, &frame);
        assert_eq!(verdict, Verdict::lease(Owner::NOBODY), "{flag}");
    }
}

#[test]
fn other_ports_are_nothing_special() {
    for (source, destination) in [(68, 69), (67, 66), (546, 547), (53, 53)] {
        let message = udp(source, destination, &bootp(1, NOBODY4, OWN, &[255]));
        let frame = ethernet(BROADCAST, OWN, IPV4, &ipv4(NOBODY4, ALL4, &message));
        assert_eq!(sent(Mode::L2, Flag::Bridge, &frame), Verdict::FLOOD);
    }
    let message = udp(67, 68, &bootp(1, NOBODY4, OWN, &[255]));
    let frame = ethernet(LAN, OWN, IPV6, &ipv6(17, SENDER6, LAN6, &message));
    assert_eq!(sent(Mode::L2, Flag::Bridge, &frame), Verdict::WIRE);
}

#[test]
fn a_server_in_a_device_serves_the_lan_but_no_sibling() {
    let message = udp(67, 68, &bootp(2, NOBODY4, OWN, &options(&[(53, &[5])])));
    let frame = |to_mac, to| ethernet(to_mac, OWN, IPV4, &ipv4(SENDER4, to, &message));
    let message6 = udp(547, 546, &[7, 1, 1, 1]);
    let frame6 = |to_mac, to| ethernet(to_mac, OWN, IPV6, &ipv6(17, SENDER6, to, &message6));
    for flag in FLAGS {
        for broadcast in [frame(BROADCAST, ALL4), frame(LAN, LAN4), frame6(LAN, LAN6)] {
            assert_eq!(sent(Mode::L2, flag, &broadcast), Verdict::WIRE, "{flag}");
        }
        for unicast in [
            frame(OWN, SIBLING4),
            frame(OWN, HERE4),
            frame6(OWN, SIBLING6),
        ] {
            let found = sent(Mode::L2, flag, &unicast);
            let expected = match flag {
                Flag::Bridge => dropped(DropReason::DhcpServer),
                Flag::Private => dropped(DropReason::Private),
                Flag::Vepa => Verdict::WIRE,
            };
            expect_verdict(&flag.to_string(), found, expected);
            // And what a switch sends back.
            let back = received(Mode::L2, flag, &unicast);
            assert_eq!(back, Verdict::PASS, "{flag}");
        }
        let found = sent(Mode::L2, flag, &frame(OWN, PARENT4));
        if flag != Flag::Vepa {
            assert_eq!(found, Verdict::PARENT, "{flag}");
        }
    }
}

#[test]
fn what_is_no_plain_message_does_not_leave() {
    let message = udp(68, 67, &bootp(1, NOBODY4, OWN, &[255]));
    let mut fragment = ipv4(NOBODY4, ALL4, &message);
    fragment[6] = 0x20;
    let with_options = [&[0; 4][..], &message].concat();
    let with_options = ipv4_with(0x46, 20 + with_options.len(), NOBODY4, ALL4, &with_options);
    for (what, packet) in [("a first fragment", fragment), ("IP options", with_options)] {
        let frame = ethernet(BROADCAST, OWN, IPV4, &packet);
        let found = sent(Mode::L2, Flag::Bridge, &frame);
        expect_verdict(what, found, dropped(DropReason::Dhcp));
    }
    let message = udp(546, 547, &[1, 7, 7, 7]);
    let behind = |header: &[u8]| [header, &message].concat();
    for (what, next, payload) in [
        ("an option header", 60, behind(&[17, 0, 1, 4, 0, 0, 0, 0])),
        ("a first fragment", 44, behind(&[17, 0, 0, 1, 0, 0, 0, 1])),
    ] {
        let frame = ethernet(
            SERVERS6_MAC,
            OWN,
            IPV6,
            &ipv6(next, LINK6, SERVERS6, &payload),
        );
        let found = sent(Mode::L2, Flag::Bridge, &frame);
        expect_verdict(what, found, dropped(DropReason::Dhcp));
    }
    // A later fragment has no ports.
    let mut later = ipv4(NOBODY4, ALL4, &message);
    later[7] = 1;
    let frame = ethernet(BROADCAST, OWN, IPV4, &later);
    assert_eq!(sent(Mode::L2, Flag::Bridge, &frame), Verdict::FLOOD);
}

#[test]
fn a_reply_is_for_whom_it_names() {
    let port = bridge();
    let frame = answers(port.dhcp_identity(2), &options(&[(53, &[2])]));
    let verdict = received(Mode::L2, Flag::Bridge, &frame);
    assert_eq!(verdict, Verdict::lease(Owner::NOBODY));
    let frame = answers(OWN, &options(&[(53, &[2])]));
    let verdict = received(Mode::L2, Flag::Bridge, &frame);
    assert_eq!(verdict, Verdict::PASS, "the host's own client");
    for other in [LAN, FOREIGN, [0xff; 6]] {
        let frame = answers(other, &options(&[(53, &[2])]));
        let verdict = received(Mode::L2, Flag::Bridge, &frame);
        assert_eq!(verdict, Verdict::FLOOD, "somebody on the LAN");
    }
    let message = udp(67, 68, &bootp(2, NOBODY4, port.dhcp_identity(1), &[255]));
    let frame = ethernet(OWN, LAN, IPV4, &ipv4(LAN4, SIBLING4, &message));
    let verdict = received(Mode::L2, Flag::Bridge, &frame);
    assert_eq!(verdict, Verdict::lease(owner(SIBLING)), "a renewal");
    let message = udp(547, 546, &[7, 1, 1, 1]);
    let frame = ethernet(OWN, LAN, IPV6, &ipv6(17, LAN6, SIBLING6, &message));
    let verdict = received(Mode::L2, Flag::Bridge, &frame);
    assert_eq!(verdict, Verdict::lease(owner(SIBLING)));
    assert_eq!(verdict.action(), Action::Lease);
    let verdict = received(Mode::L3, Flag::Bridge, &frame);
    assert_eq!(verdict, to(SIBLING), "l3 has none of this");
}

#[test]
fn the_end_of_the_identifier_is_found_wherever_it_is() {
    let id = b"\x01\x02\x00\x00\x00\x0a\x01";
    let long = [7; 200];
    for (what, list, wanted) in [
        ("first", options(&[(61, id), (53, &[1])]), Some(2 + 1)),
        ("second", options(&[(53, &[1]), (61, id)]), Some(3 + 2 + 1)),
        ("deep", options(&[(60, &long), (61, id)]), Some(202 + 2 + 1)),
        ("none", options(&[(53, &[1])]), None),
        ("short", options(&[(61, b"\0web1")]), None),
        (
            "behind the end",
            [&[255][..], &option(61, id)].concat(),
            None,
        ),
        ("no end", option(61, id), Some(2 + 1)),
        (
            "padded",
            [&[0, 0][..], &options(&[(61, id)])].concat(),
            Some(2 + 2 + 1),
        ),
    ] {
        let frame = asks(&list);
        let wanted = Places {
            checksum: 40,
            flags: BOOTP + 10,
            hardware: BOOTP + 28,
            identifier: wanted.map_or(0, |at| BOOTP + 240 + at),
        };
        assert_eq!(request(4, &plain(&frame)), Ok(wanted), "{what}");
    }
    // BOOTP proper.
    let mut frame = asks(&[0; 64]);
    frame[BOOTP + 236..BOOTP + 240].fill(0);
    let found = request(4, &plain(&frame)).expect("a request");
    assert_eq!(found.identifier, 0);
}

#[test]
fn nobody_takes_another_s_identity_by_a_crooked_message() {
    let id = b"\x01\x02\x00\x00\x00\x0a\x01";
    for (what, list) in [
        ("two identifiers", options(&[(61, id), (61, id)])),
        ("a short one first", options(&[(61, b"\0a"), (61, id)])),
        ("overloading", options(&[(52, &[1])])),
        (
            "too many options",
            [vec![0; OPTIONS as usize], options(&[(61, id)])].concat(),
        ),
    ] {
        let found = request(4, &plain(&asks(&list)));
        assert_eq!(found, Err(DropReason::Dhcp), "{what}");
    }
    let message = udp(68, 67, &bootp(1, SENDER4, OWN, &options(&[(61, id)])));
    let relayed = ethernet(LAN, OWN, IPV4, &ipv4(SENDER4, LAN4, &message));
    assert_eq!(request(4, &plain(&relayed)), Err(DropReason::Dhcp));
    let runt = &asks(&[])[..200];
    assert_eq!(request(4, &plain(runt)), Err(DropReason::Dhcp));

    let id = option6(1, b"a name of mine");
    for (what, frame) in [
        ("a relay", asks6(12, &id)),
        ("two identifiers", asks6(1, &[&id[..], &id].concat())),
        (
            "too many options",
            asks6(1, &option6(9, &[]).repeat(OPTIONS as usize + 1)),
        ),
    ] {
        assert_eq!(request(6, &plain(&frame)), Err(DropReason::Dhcp), "{what}");
    }
}

#[test]
fn the_identifier_of_dhcpv6_is_found() {
    let id = option6(1, b"a name of mine");
    for (what, list, wanted) in [
        ("first", id.clone(), Some(4 + 14 - 6)),
        (
            "second",
            [option6(8, &[0, 0]), id].concat(),
            Some(6 + 4 + 14 - 6),
        ),
        ("none", option6(8, &[0, 0]), None),
        ("short", option6(1, b"123456"), None),
    ] {
        let wanted = Places {
            checksum: 60,
            flags: 0,
            hardware: 0,
            identifier: wanted.map_or(0, |at| 14 + 40 + 8 + 4 + at),
        };
        let frame = asks6(1, &list);
        assert_eq!(request(6, &plain(&frame)), Ok(wanted), "{what}");
    }
}

#[test]
fn a_reply_gets_back_only_what_was_taken() {
    let port = bridge();
    let mine = port.dhcp_identity(2);
    let id = [&[1][..], &mine].concat();
    let frame = answers(mine, &options(&[(53, &[5]), (61, &id)]));
    let found = reply(4, &port, 2, &plain(&frame));
    assert_eq!(found.hardware, BOOTP + 28);
    assert_eq!(frame[found.identifier..found.identifier + 6], mine);
    for (what, list) in [
        (
            "another's",
            options(&[(61, b"\x01\x02\x02\x02\x02\x02\x02")]),
        ),
        ("a short one", options(&[(61, b"\0web1")])),
        ("none", options(&[(53, &[5])])),
    ] {
        let found = reply(4, &port, 2, &plain(&answers(mine, &list)));
        assert_eq!(found.identifier, 0, "{what}");
    }
    let list = option6(1, &[&[0, 3, 0, 1][..], &mine].concat());
    let message = udp(547, 546, &[&[7, 1, 1, 1][..], &list].concat());
    let frame = ethernet(OWN, LAN, IPV6, &ipv6(17, LAN6, SENDER6, &message));
    let found = reply(6, &port, 2, &plain(&frame));
    assert_eq!(frame[found.identifier..found.identifier + 6], mine);
    assert_eq!((found.hardware, found.flags), (0, 0));
    assert_eq!(reply(6, &port, 3, &plain(&frame)).identifier, 0);
}
