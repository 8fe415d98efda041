//! Transmit in l3: what the driver does, row by row, with the differences that `tx` documents.

mod frames;

use frames::*;
use ipvlan_abi::{DropReason, Flag, Mode, PortEntry};
use ipvlan_core::frame::Bytes;
use ipvlan_core::{Action, Fix, Verdict, tx};

/// A row of the matrix.
fn expect(what: &str, frame: &[u8], bridge: Verdict, private: Verdict, vepa: Verdict) {
    for (flag, verdict) in FLAGS.into_iter().zip([bridge, private, vepa]) {
        expect_verdict(
            &format!("{what}, {flag}"),
            sent(Mode::L3, flag, frame),
            verdict,
        );
        expect_verdict(
            &format!("{what}, {flag}, l3s"),
            sent(Mode::L3s, flag, frame),
            in_l3s(verdict),
        );
    }
}

/// What leaves the port goes to the stack of the parent's namespace, whatever it says of lengths:
/// that one can fragment.
fn in_l3s(verdict: Verdict) -> Verdict {
    match verdict.action() {
        Action::Route | Action::Parent => Verdict::PASS,
        Action::Drop if verdict == dropped(DropReason::TooBig) => Verdict::PASS,
        _ => verdict,
    }
}

/// A row with one answer for all flags.
fn expect_always(what: &str, frame: &[u8], verdict: Verdict) {
    expect(what, frame, verdict, verdict, verdict);
}

fn expect_drop(what: &str, frame: &[u8], reason: DropReason) {
    expect_always(what, frame, dropped(reason));
}

const PRIVATE: Verdict = Verdict::drop(DropReason::Private);
const BOTH: Fix = Fix::SOURCE.and(Fix::DESTINATION);

#[test]
fn a_packet_to_a_sibling_is_local_unless_private_or_vepa() {
    for (index, four, six) in [
        (SIBLING, SIBLING4, SIBLING6),
        (HERE, HERE4, HERE6),
        (SENDER, SENDER4, SENDER6),
    ] {
        for frame in [udp4(OWN, OWN, SENDER4, four), udp6(OWN, OWN, SENDER6, six)] {
            expect("own MAC", &frame, to(index), PRIVATE, Verdict::ROUTE);
        }
    }
}

#[test]
fn what_is_delivered_locally_looks_as_if_it_was_sent_to_us() {
    for (destination, source, fix) in [
        (OWN, OWN, Fix::NOTHING),
        (OWN, FOREIGN, Fix::SOURCE),
        (FOREIGN, OWN, Fix::DESTINATION),
        (FOREIGN, FOREIGN, BOTH),
        ([0; 6], [0; 6], BOTH),
    ] {
        let frame = udp4(destination, source, SENDER4, SIBLING4);
        expect(
            "sibling",
            &frame,
            to(SIBLING).with(fix),
            PRIVATE,
            Verdict::ROUTE,
        );
        let frame = udp6(destination, source, SENDER6, SIBLING6);
        expect(
            "sibling",
            &frame,
            to(SIBLING).with(fix),
            PRIVATE,
            Verdict::ROUTE,
        );
        // The same with every flag, as in the driver.
        let frame = udp4(destination, source, SENDER4, PARENT4);
        expect_always("parent", &frame, Verdict::PARENT.with(fix));
        let frame = udp6(destination, source, SENDER6, PARENT6);
        expect_always("parent", &frame, Verdict::PARENT.with(fix));
    }
}

#[test]
fn anything_else_is_routed_and_its_mac_addresses_mean_nothing() {
    for (destination, source) in [(OWN, OWN), (LAN, OWN), (FOREIGN, FOREIGN), ([0; 6], LAN)] {
        for frame in [
            udp4(destination, source, SENDER4, LAN4),
            udp4(destination, source, [1, 2, 3, 4], [8, 8, 8, 8]),
            udp6(destination, source, SENDER6, LAN6),
        ] {
            expect_always("to the LAN", &frame, Verdict::ROUTE);
        }
    }
}

#[test]
fn only_ip_leaves() {
    for destination in [OWN, LAN, BROADCAST] {
        for ethertype in [0, 46, RARP, EXPERIMENT, PAUSE, 0x888e, 0x8847] {
            let frame = ethernet(destination, OWN, ethertype, &[0; 46]);
            expect_drop("not IP", &frame, DropReason::NotIp);
        }
        for target in [SIBLING4, PARENT4, LAN4] {
            let frame = ethernet(destination, OWN, ARP, &arp(REQUEST, OWN, SENDER4, target));
            expect_drop("ARP", &frame, DropReason::NotIp);
        }
        for ethertype in [VLAN, SERVICE_VLAN, OLD_VLAN] {
            let frame = ethernet(destination, OWN, ethertype, &[0, 10, 8, 0, 0x45]);
            expect_drop("a tag in the bytes", &frame, DropReason::Vlan);
        }
        let bytes = udp4(destination, OWN, SENDER4, SIBLING4);
        let tagged = Bytes {
            tagged: true,
            ..plain(&bytes)
        };
        let verdict = tx(&port(Mode::L3, Flag::Bridge), SENDER, &tagged, &Table);
        assert_eq!(verdict, dropped(DropReason::Vlan), "a tag beside the bytes");
    }
}

#[test]
fn no_group_is_reached() {
    for first in 224..=255 {
        let frame = udp4(OWN, OWN, SENDER4, [first, 0, 0, 251]);
        expect_drop("IPv4 group in a unicast frame", &frame, DropReason::Group);
    }
    let frame = udp4(OWN, OWN, SENDER4, [223, 255, 255, 255]);
    expect_always("the last unicast address", &frame, Verdict::ROUTE);
    for frame in [
        udp4(BROADCAST, OWN, SENDER4, [255; 4]),
        udp4(MDNS, OWN, SENDER4, [224, 0, 0, 251]),
        udp4(BROADCAST, OWN, SENDER4, SIBLING4),
        udp4(BROADCAST, OWN, SENDER4, PARENT4),
        udp4(MDNS, OWN, SENDER4, LAN4),
        udp6(ALL_NODES, OWN, SENDER6, ALL_NODES6),
        udp6(OWN, OWN, SENDER6, ALL_NODES6),
        udp6(ALL_NODES, OWN, SENDER6, SIBLING6),
        solicitation(OWN, SENDER6, SIBLING6),
        solicitation(OWN, [0; 16], SENDER6),
        advertisement(OWN, SENDER6),
    ] {
        expect_drop("a group", &frame, DropReason::Group);
    }
}

#[test]
fn less_than_an_ethernet_header_is_dropped() {
    let whole = udp4(OWN, OWN, SENDER4, LAN4);
    for cut in 0..14 {
        expect_drop("runt", &whole[..cut], DropReason::Runt);
    }
}

#[test]
fn a_header_that_contradicts_itself_cannot_be_routed() {
    let with = |first, total, payload: &[u8]| {
        ethernet(
            OWN,
            OWN,
            IPV4,
            &ipv4_with(first, total, SENDER4, SIBLING4, payload),
        )
    };
    let refuse = |what, frame: &[u8]| expect_drop(what, frame, DropReason::IpMalformed);
    for length in 0..5 {
        refuse("IHL below 5", &with(0x40 | length, 60, &[0; 40]));
    }
    for version in (0..16).filter(|version| *version != 4) {
        refuse("version", &with(version << 4 | 5, 20, &[]));
    }
    refuse("total length beyond the frame", &with(0x45, 29, &[0; 8]));
    refuse("total length below the header", &with(0x45, 19, &[0; 8]));
    refuse("total length below its options", &with(0x46, 23, &[0; 8]));
    refuse("total length 0", &with(0x45, 0, &[0; 8]));
    for target in [SIBLING4, PARENT4, LAN4] {
        let whole = udp4(OWN, OWN, SENDER4, target);
        for cut in 14..whole.len() {
            refuse("cut", &whole[..cut]);
        }
    }
    for target in [SIBLING6, PARENT6, LAN6] {
        let whole = udp6(OWN, OWN, SENDER6, target);
        for cut in 14..54 {
            refuse("cut", &whole[..cut]);
        }
        for version in (0..16).filter(|version| *version != 6) {
            let mut odd = whole.clone();
            odd[14] = version << 4;
            refuse("version", &odd);
        }
    }
}

#[test]
fn a_header_of_any_legal_length_is_read() {
    for length in 5..=15u8 {
        let header = usize::from(length) * 4;
        let options = vec![1; header - 20];
        let packet = ipv4_with(0x40 | length, header, SENDER4, LAN4, &options);
        let frame = ethernet(OWN, OWN, IPV4, &packet);
        expect_always("with options", &frame, Verdict::ROUTE);
    }
}

#[test]
fn the_loopback_network_stays_inside_its_host() {
    for address in [[127, 0, 0, 1], [127, 255, 255, 255]] {
        let frame = udp4(OWN, OWN, SENDER4, address);
        expect_drop("127.0.0.0/8", &frame, DropReason::IpMalformed);
    }
}

#[test]
fn a_packet_above_64_kib_may_leave_its_length_out() {
    for (target, verdict) in [
        (SIBLING4, to(SIBLING)),
        (PARENT4, Verdict::PARENT),
        (LAN4, Verdict::ROUTE),
    ] {
        let packet = ipv4_with(0x45, 0, SENDER4, target, &[0; 3000]);
        let bytes = ethernet(OWN, OWN, IPV4, &packet);
        let big = Bytes {
            segmented: true,
            ..plain(&bytes)
        };
        let port = port(Mode::L3, Flag::Bridge);
        assert_eq!(tx(&port, SENDER, &big, &Table), verdict, "BIG TCP");
        let alone = tx(&port, SENDER, &plain(&bytes), &Table);
        assert_eq!(alone, dropped(DropReason::IpMalformed), "not GSO");
    }
}

#[test]
fn what_the_parent_could_not_send_is_dropped() {
    for mtu in [68, 1280, 1500, 9000] {
        let port = PortEntry {
            mtu,
            ..port(Mode::L3, Flag::Bridge)
        };
        let room = usize::try_from(mtu).unwrap() - 20;
        let fits = ethernet(OWN, OWN, IPV4, &ipv4(SENDER4, LAN4, &vec![0; room]));
        let verdict = tx(&port, SENDER, &plain(&fits), &Table);
        assert_eq!(verdict, Verdict::ROUTE, "{mtu} bytes fit {mtu}");
        let over = ethernet(OWN, OWN, IPV4, &ipv4(SENDER4, LAN4, &vec![0; room + 1]));
        let verdict = tx(&port, SENDER, &plain(&over), &Table);
        assert_eq!(verdict, dropped(DropReason::TooBig), "one more does not");
        let large = Bytes {
            segmented: true,
            ..plain(&over)
        };
        let verdict = tx(&port, SENDER, &large, &Table);
        assert_eq!(verdict, Verdict::ROUTE, "it will be cut");
    }
}

#[test]
fn what_does_not_leave_is_not_held_to_the_parents_mtu() {
    for (target, bridge, private, vepa) in [
        (SIBLING4, to(SIBLING), PRIVATE, dropped(DropReason::TooBig)),
        (PARENT4, Verdict::PARENT, Verdict::PARENT, Verdict::PARENT),
    ] {
        let frame = ethernet(OWN, OWN, IPV4, &ipv4(SENDER4, target, &[0; 8000]));
        expect("8 KB", &frame, bridge, private, vepa);
    }
}

#[test]
fn what_nobody_would_forward_does_not_get_to_the_stack() {
    for flag in FLAGS {
        let port = PortEntry {
            bits: 0,
            ..port(Mode::L3s, flag)
        };
        for frame in [
            udp4(OWN, OWN, SENDER4, LAN4),
            udp4(OWN, OWN, SENDER4, PARENT4),
            udp6(OWN, OWN, SENDER6, LAN6),
        ] {
            let verdict = tx(&port, SENDER, &plain(&frame), &Table);
            assert_eq!(verdict, dropped(DropReason::NotRouted), "{flag}");
        }
        let frame = udp4(OWN, OWN, SENDER4, SIBLING4);
        let verdict = tx(&port, SENDER, &plain(&frame), &Table);
        let wanted = match flag {
            Flag::Bridge => to(SIBLING),
            Flag::Private => PRIVATE,
            Flag::Vepa => dropped(DropReason::NotRouted),
        };
        assert_eq!(verdict, wanted, "{flag}: to a sibling");
    }
}

#[test]
fn fragments_go_where_their_packet_goes() {
    let mut frame = udp4(OWN, OWN, SENDER4, SIBLING4);
    for (high, low) in [(0x20, 0), (0x20, 185), (0, 185)] {
        frame[20] = high;
        frame[21] = low;
        expect("fragment", &frame, to(SIBLING), PRIVATE, Verdict::ROUTE);
    }
}

#[test]
fn a_mode_and_a_flag_that_this_version_does_not_know_are_the_strictest() {
    let port = PortEntry {
        mode: 2,
        flag: 3,
        ..port(Mode::L2, Flag::Bridge)
    };
    let verdict = |frame: &[u8]| tx(&port, SENDER, &plain(frame), &Table);
    let frame = udp4(OWN, OWN, SENDER4, SIBLING4);
    assert_eq!(verdict(&frame), PRIVATE, "private");
    let frame = udp4(BROADCAST, OWN, SENDER4, [255; 4]);
    assert_eq!(verdict(&frame), dropped(DropReason::Group), "l3");
}

/// An extension header of 8 bytes in front of another header.
fn behind(next: u8, length: u8, rest: &[u8]) -> Vec<u8> {
    [&[next, length, 0, 0, 0, 0, 0, 0][..], rest].concat()
}

#[test]
fn neighbour_discovery_does_not_leave_by_a_route_nor_reach_a_sibling() {
    for target in [LAN6, PARENT6, SIBLING6] {
        for kind in [133, 134, 135, 136, 137, 141, 142] {
            for mac in [FOREIGN, OWN] {
                let mut message = vec![0; 40];
                message[0] = kind;
                message.extend(link_layer(2, mac));
                let frame = ethernet(OWN, OWN, IPV6, &ipv6(58, SENDER6, target, &message));
                expect_drop("ND", &frame, DropReason::NotIp);
                let message = behind(58, 0, &message);
                for number in [0, 43, 60] {
                    let packet = ipv6(number, SENDER6, target, &message);
                    let frame = ethernet(OWN, OWN, IPV6, &packet);
                    expect_drop("ND behind a header", &frame, DropReason::NotIp);
                }
                let frame = ethernet(OWN, OWN, IPV6, &ipv6(44, SENDER6, target, &message));
                expect_drop("ND in a fragment", &frame, DropReason::NdMalformed);
            }
        }
    }
}

#[test]
fn other_icmp_is_routed() {
    for kind in [1, 2, 3, 128, 129, 131, 143] {
        let mut message = vec![0; 40];
        message[0] = kind;
        let frame = ethernet(OWN, OWN, IPV6, &ipv6(58, SENDER6, LAN6, &message));
        expect_always("ICMPv6", &frame, Verdict::ROUTE);
        let packet = ipv6(44, SENDER6, LAN6, &behind(58, 0, &message));
        let frame = ethernet(OWN, OWN, IPV6, &packet);
        expect_always("its first fragment", &frame, Verdict::ROUTE);
    }
}

#[test]
fn what_could_hide_neighbour_discovery_is_refused() {
    let long = (0..9).fold(vec![0; 8], |rest, _| behind(60, 0, &rest));
    let frame = ethernet(OWN, OWN, IPV6, &ipv6(60, SENDER6, LAN6, &long));
    expect_drop("a long chain", &frame, DropReason::ExtensionHeaders);
    let deep = [behind(58, 100, &[]), vec![0; 900]].concat();
    let frame = ethernet(OWN, OWN, IPV6, &ipv6(43, SENDER6, LAN6, &deep));
    expect_drop("a deep header", &frame, DropReason::ExtensionHeaders);
}

#[test]
fn the_ipv6_loopback_address_stays_inside_its_host() {
    let mut loopback = [0; 16];
    loopback[15] = 1;
    let frame = udp6(OWN, OWN, SENDER6, loopback);
    expect_drop("::1", &frame, DropReason::IpMalformed);
}
