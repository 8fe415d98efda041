//! Receive: what the driver does, row by row, with the differences that `rx` documents.

mod frames;

use frames::*;
use ipvlan_abi::{Flag, Mode};
use ipvlan_core::frame::Bytes;
use ipvlan_core::{Verdict, rx};

/// A row of the matrix: the flag makes no difference to what comes from the wire.
fn expect(what: &str, frame: &[u8], l2: Verdict, l3: Verdict) {
    for flag in FLAGS {
        assert_eq!(received(Mode::L2, flag, frame), l2, "{what}, l2 {flag}");
        assert_eq!(received(Mode::L3, flag, frame), l3, "{what}, l3 {flag}");
        let l3s = received(Mode::L3s, flag, frame);
        assert_eq!(
            l3s,
            Verdict::PASS,
            "{what}, l3s {flag}: the stack sorts it out"
        );
    }
}

#[test]
fn unicast_goes_to_the_owner_of_its_address() {
    for (index, four, six) in [
        (SENDER, SENDER4, SENDER6),
        (SIBLING, SIBLING4, SIBLING6),
        (HERE, HERE4, HERE6),
    ] {
        let frame = udp4(OWN, LAN, LAN4, four);
        expect("IPv4 to a device", &frame, to(index), to(index));
        let frame = udp6(OWN, LAN, LAN6, six);
        expect("IPv6 to a device", &frame, to(index), to(index));
    }
}

#[test]
fn unicast_to_the_parent_or_to_nobody_passes() {
    for (four, six) in [(PARENT4, PARENT6), (LAN4, LAN6)] {
        let frame = udp4(OWN, LAN, LAN4, four);
        expect("IPv4", &frame, Verdict::PASS, Verdict::PASS);
        let frame = udp6(OWN, LAN, LAN6, six);
        expect("IPv6", &frame, Verdict::PASS, Verdict::PASS);
    }
}

#[test]
fn a_group_address_in_a_unicast_frame_has_no_owner() {
    let frame = udp4(OWN, LAN, LAN4, [224, 0, 0, 251]);
    expect("IPv4 group", &frame, Verdict::PASS, Verdict::PASS);
    let frame = udp6(OWN, LAN, LAN6, ALL_NODES6);
    expect("IPv6 group", &frame, Verdict::PASS, Verdict::PASS);
}

#[test]
fn the_destination_mac_address_says_nothing_unless_the_kernel_says_it_is_anothers() {
    let bytes = udp4(FOREIGN, LAN, LAN4, SIBLING4);
    expect("a MAC address of whoever", &bytes, to(SIBLING), to(SIBLING));
    for mode in MODES {
        for bytes in [&bytes, &udp6(FOREIGN, LAN, LAN6, SIBLING6)] {
            let frame = Bytes {
                another_host: true,
                ..plain(bytes)
            };
            assert_eq!(
                rx(&port(mode, Flag::Bridge), &frame, &Table),
                Verdict::PASS,
                "a promiscuous parent's view of other people's frames is nobody's"
            );
        }
    }
}

#[test]
fn broadcast_and_multicast_go_to_all_in_l2_and_to_the_parent_in_l3() {
    for (what, frame) in [
        ("limited broadcast", udp4(BROADCAST, LAN, LAN4, [255; 4])),
        (
            "subnet broadcast",
            udp4(BROADCAST, LAN, LAN4, [10, 0, 0, 255]),
        ),
        ("DHCP discover", udp4(BROADCAST, LAN, [0; 4], [255; 4])),
        ("IPv4 multicast", udp4(MDNS, LAN, LAN4, [224, 0, 0, 251])),
        ("IPv6 multicast", udp6(ALL_NODES, LAN, LAN6, ALL_NODES6)),
        (
            "another EtherType",
            ethernet(BROADCAST, LAN, EXPERIMENT, b"hi"),
        ),
        (
            "another EtherType, group",
            ethernet(MDNS, LAN, EXPERIMENT, b""),
        ),
        (
            "unicast IP of a device",
            udp4(BROADCAST, LAN, LAN4, SIBLING4),
        ),
        ("unicast IP of nobody", udp4(BROADCAST, LAN, LAN4, LAN4)),
        ("unicast IPv6 of a device", udp6(MDNS, LAN, LAN6, SIBLING6)),
    ] {
        expect(what, &frame, Verdict::FLOOD, Verdict::PASS);
    }
}

#[test]
fn unicast_of_another_ethertype_is_the_parents() {
    for ethertype in [0, 46, EXPERIMENT, RARP, PAUSE, 0x888e] {
        let frame = ethernet(OWN, LAN, ethertype, &[0; 46]);
        expect("not IP", &frame, Verdict::PASS, Verdict::PASS);
    }
}

#[test]
fn an_arp_request_goes_to_the_owner_of_its_target_alone() {
    let ask = |target| arp_broadcast(REQUEST, LAN, LAN4, target);
    expect("for a device", &ask(SIBLING4), to(SIBLING), Verdict::PASS);
    expect("for a device here", &ask(HERE4), to(HERE), Verdict::PASS);
    expect(
        "for the parent",
        &ask(PARENT4),
        Verdict::PASS,
        Verdict::PASS,
    );
    let nobody = [10, 0, 0, 77];
    expect("for nobody", &ask(nobody), Verdict::PASS, Verdict::PASS);
    let probe = arp_broadcast(REQUEST, LAN, [0; 4], SIBLING4);
    expect("a probe", &probe, to(SIBLING), Verdict::PASS);
    let probe = arp_broadcast(REQUEST, LAN, [0; 4], LAN4);
    expect("for a free address", &probe, Verdict::FLOOD, Verdict::PASS);
    let probe = arp_broadcast(REQUEST, LAN, [0; 4], PARENT4);
    expect("for the parent's", &probe, Verdict::PASS, Verdict::PASS);
}

#[test]
fn an_arp_announcement_or_a_broadcast_reply_concerns_everybody() {
    for target in [LAN4, SIBLING4, PARENT4] {
        let frame = arp_broadcast(REQUEST, LAN, target, target);
        expect("announcement", &frame, Verdict::FLOOD, Verdict::PASS);
        let frame = arp_broadcast(REPLY, LAN, LAN4, target);
        expect("reply to all", &frame, Verdict::FLOOD, Verdict::PASS);
    }
}

#[test]
fn unicast_arp_goes_to_the_owner_of_its_target_and_stays_with_the_parent_in_l3() {
    for operation in [REQUEST, REPLY] {
        for (target, l2) in [
            (SIBLING4, to(SIBLING)),
            (HERE4, to(HERE)),
            (PARENT4, Verdict::PASS),
            (LAN4, Verdict::PASS),
        ] {
            let frame = ethernet(OWN, LAN, ARP, &arp(operation, LAN, LAN4, target));
            expect("unicast ARP", &frame, l2, Verdict::PASS);
        }
    }
}

#[test]
fn an_answer_to_an_arp_probe_names_nobody_and_so_concerns_everybody() {
    for sender in [LAN4, SIBLING4] {
        let frame = ethernet(OWN, LAN, ARP, &arp(REPLY, LAN, sender, [0; 4]));
        expect("reply to 0.0.0.0", &frame, Verdict::FLOOD, Verdict::PASS);
        let frame = arp_broadcast(REPLY, LAN, sender, [0; 4]);
        expect(
            "reply to 0.0.0.0, to all",
            &frame,
            Verdict::FLOOD,
            Verdict::PASS,
        );
    }
    for operation in [0, REQUEST, 3, 0x0200] {
        let frame = ethernet(OWN, LAN, ARP, &arp(operation, LAN, LAN4, [0; 4]));
        expect("no reply", &frame, Verdict::PASS, Verdict::PASS);
    }
    for target in [[0, 0, 0, 1], [1, 0, 0, 0]] {
        let frame = ethernet(OWN, LAN, ARP, &arp(REPLY, LAN, LAN4, target));
        expect("to another target", &frame, Verdict::PASS, Verdict::PASS);
    }
    let mut frame = ethernet(OWN, OWN, ARP, &arp(REPLY, OWN, SENDER4, [0; 4]));
    expect(
        "from one of us: siblings hear it where it was sent, or not at all",
        &frame,
        Verdict::PASS,
        Verdict::PASS,
    );
    frame[0] = 0x04;
    let frame = Bytes {
        another_host: true,
        ..plain(&frame)
    };
    let verdict = rx(&port(Mode::L2, Flag::Bridge), &frame, &Table);
    assert_eq!(verdict, Verdict::PASS, "somebody else's answer");
}

#[test]
fn arp_from_the_wire_is_looked_up_whatever_its_types_say() {
    let mut frame = arp_broadcast(REQUEST, LAN, LAN4, SIBLING4);
    frame[14..20].fill(0xa5);
    expect("odd types", &frame, to(SIBLING), Verdict::PASS);
}

#[test]
fn arp_that_is_cut_short_asks_for_nobody() {
    let whole = ethernet(OWN, LAN, ARP, &arp(REQUEST, LAN, LAN4, SIBLING4));
    for cut in 14..whole.len() {
        expect("cut", &whole[..cut], Verdict::PASS, Verdict::PASS);
    }
    let whole = arp_broadcast(REQUEST, LAN, LAN4, SIBLING4);
    for cut in 14..whole.len() {
        expect("cut", &whole[..cut], Verdict::FLOOD, Verdict::PASS);
    }
}

#[test]
fn a_solicitation_goes_to_the_owner_of_its_target_alone() {
    for from in [LAN6, [0; 16]] {
        let ask = |target| solicitation(LAN, from, target);
        expect("for a device", &ask(SIBLING6), to(SIBLING), Verdict::PASS);
        expect("for a device here", &ask(HERE6), to(HERE), Verdict::PASS);
        expect(
            "for the parent",
            &ask(PARENT6),
            Verdict::PASS,
            Verdict::PASS,
        );
        // Is it still free? A device may be about to take it.
        let others = if from == LAN6 {
            Verdict::PASS
        } else {
            Verdict::FLOOD
        };
        expect("for nobody", &ask(LAN6), others, Verdict::PASS);
    }
}

#[test]
fn a_solicitation_sent_to_the_address_itself_is_unicast_like_any_other() {
    let message = neighbour(SOLICITATION, SIBLING6, &link_layer(1, LAN));
    let frame = ethernet(OWN, LAN, IPV6, &ipv6(58, LAN6, SIBLING6, &message));
    expect("a probe", &frame, to(SIBLING), to(SIBLING));
}

#[test]
fn a_solicitation_to_the_group_by_unicast_finds_the_owner_of_its_target() {
    let ask = |target, from| {
        let (group, _) = solicited_node(target);
        let message = neighbour(SOLICITATION, target, &[]);
        ethernet(OWN, LAN, IPV6, &ipv6(58, from, group, &message))
    };
    for from in [LAN6, [0; 16]] {
        let pass = Verdict::PASS;
        expect("for a device", &ask(SIBLING6, from), to(SIBLING), pass);
        expect("for the parent", &ask(PARENT6, from), pass, pass);
        expect("for nobody", &ask(LAN6, from), pass, pass);
    }
}

#[test]
fn other_neighbour_discovery_concerns_everybody() {
    let frame = advertisement(LAN, LAN6);
    expect("unsolicited NA", &frame, Verdict::FLOOD, Verdict::PASS);
    let message = [134, 0, 0, 0, 64, 0, 7, 8, 0, 0, 0, 0, 0, 0, 0, 0];
    let frame = ethernet(ALL_NODES, LAN, IPV6, &ipv6(58, LAN6, ALL_NODES6, &message));
    expect("RA", &frame, Verdict::FLOOD, Verdict::PASS);
}

#[test]
fn a_solicitation_that_hides_its_target_concerns_everybody() {
    let (group, mac) = solicited_node(SIBLING6);
    let message = neighbour(SOLICITATION, SIBLING6, &[]);
    let behind = [&[58, 0, 1, 4, 0, 0, 0, 0][..], &message].concat();
    let frame = ethernet(mac, LAN, IPV6, &ipv6(0, LAN6, group, &behind));
    expect(
        "behind hop-by-hop options",
        &frame,
        Verdict::FLOOD,
        Verdict::PASS,
    );
    let whole = solicitation(LAN, LAN6, SIBLING6);
    for cut in 14..14 + 40 + 24 {
        expect("cut", &whole[..cut], Verdict::FLOOD, Verdict::PASS);
    }
    expect(
        "just whole",
        &whole[..14 + 40 + 24],
        to(SIBLING),
        Verdict::PASS,
    );
}

#[test]
fn bridges_own_addresses_are_not_for_devices() {
    for last in 0..=0x0f {
        for ethertype in [PAUSE, 0x88cc, IPV4, ARP, IPV6, 38] {
            let frame = ethernet([1, 0x80, 0xc2, 0, 0, last], LAN, ethertype, &[0; 46]);
            expect("01:80:c2:00:00:0x", &frame, Verdict::PASS, Verdict::PASS);
        }
    }
    for neighbour in [
        [1, 0x80, 0xc2, 0, 0, 0x10],
        [1, 0x80, 0xc2, 0, 1, 0],
        [1, 0x80, 0xc2, 1, 0, 0],
        [1, 0x80, 0xc3, 0, 0, 0],
        [3, 0x80, 0xc2, 0, 0, 0],
    ] {
        let frame = ethernet(neighbour, LAN, EXPERIMENT, &[0; 46]);
        expect(
            "a group like any other",
            &frame,
            Verdict::FLOOD,
            Verdict::PASS,
        );
    }
}

#[test]
fn our_own_broadcast_sent_back_by_the_switch_is_not_heard_twice() {
    for (what, frame) in [
        ("from a device", udp4(BROADCAST, OWN, SENDER4, [255; 4])),
        ("DHCP discover", udp4(BROADCAST, OWN, [0; 4], [255; 4])),
        ("the parent's", udp4(BROADCAST, OWN, PARENT4, [255; 4])),
        (
            "ARP request",
            arp_broadcast(REQUEST, OWN, SENDER4, SIBLING4),
        ),
        ("ARP probe", arp_broadcast(REQUEST, OWN, [0; 4], SIBLING4)),
        (
            "announcement",
            arp_broadcast(REQUEST, OWN, SENDER4, SENDER4),
        ),
        ("NS", solicitation(OWN, SENDER6, SIBLING6)),
        ("DAD", solicitation(OWN, [0; 16], SENDER6)),
        ("NA", advertisement(OWN, SENDER6)),
        ("not IP", ethernet(BROADCAST, OWN, EXPERIMENT, b"")),
    ] {
        expect(what, &frame, Verdict::PASS, Verdict::PASS);
    }
}

#[test]
fn unicast_sent_back_by_the_switch_is_accepted() {
    let frame = udp4(OWN, OWN, SENDER4, SIBLING4);
    expect("hairpin", &frame, to(SIBLING), to(SIBLING));
    let frame = udp6(OWN, OWN, SENDER6, SIBLING6);
    expect("hairpin", &frame, to(SIBLING), to(SIBLING));
}

#[test]
fn tagged_frames_belong_to_the_parents_vlan_devices() {
    for frame in [
        udp4(OWN, LAN, LAN4, SIBLING4),
        udp4(BROADCAST, LAN, LAN4, [255; 4]),
        arp_broadcast(REQUEST, LAN, LAN4, SIBLING4),
        solicitation(LAN, LAN6, SIBLING6),
    ] {
        for mode in MODES {
            let tagged = Bytes {
                tagged: true,
                ..plain(&frame)
            };
            let verdict = rx(&port(mode, Flag::Bridge), &tagged, &Table);
            assert_eq!(verdict, Verdict::PASS, "a tag beside the bytes, {mode}");
        }
        for ethertype in [VLAN, SERVICE_VLAN] {
            let mut tagged = frame.clone();
            let [high, low] = ethertype.to_be_bytes();
            let _: Vec<u8> = tagged.splice(12..12, [high, low, 0, 10]).collect();
            expect("a tag in the bytes", &tagged, Verdict::PASS, Verdict::PASS);
        }
    }
}

#[test]
fn less_than_an_ethernet_header_is_the_parents() {
    let whole = udp4(BROADCAST, LAN, LAN4, SIBLING4);
    for cut in 0..14 {
        expect("runt", &whole[..cut], Verdict::PASS, Verdict::PASS);
    }
}

#[test]
fn an_ipv4_header_that_contradicts_itself_has_no_owner() {
    let unicast = |packet: &[u8]| ethernet(OWN, LAN, IPV4, packet);
    let with =
        |first, total, payload: &[u8]| unicast(&ipv4_with(first, total, LAN4, SIBLING4, payload));
    let refuse = |what, frame: &[u8]| expect(what, frame, Verdict::PASS, Verdict::PASS);
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
    refuse("options beyond the frame", &with(0x4f, 60, &[0; 39]));
    let whole = udp4(OWN, LAN, LAN4, SIBLING4);
    for cut in 14..whole.len() {
        refuse("cut", &whole[..cut]);
    }
}

#[test]
fn an_ipv4_header_of_any_legal_length_is_read() {
    for length in 5..=15u8 {
        let header = usize::from(length) * 4;
        let options = vec![1; header - 20];
        let packet = ipv4_with(0x40 | length, header, LAN4, SIBLING4, &options);
        let mut frame = ethernet(OWN, LAN, IPV4, &packet);
        expect("with options", &frame, to(SIBLING), to(SIBLING));
        frame.extend([0; 26]);
        expect("with padding", &frame, to(SIBLING), to(SIBLING));
    }
}

#[test]
fn a_packet_above_64_kib_may_leave_its_length_out() {
    let packet = ipv4_with(0x45, 0, LAN4, SIBLING4, &[0; 100]);
    let bytes = ethernet(OWN, LAN, IPV4, &packet);
    let big = Bytes {
        segmented: true,
        ..plain(&bytes)
    };
    for mode in [Mode::L2, Mode::L3] {
        let port = port(mode, Flag::Bridge);
        assert_eq!(rx(&port, &big, &Table), to(SIBLING), "BIG TCP, {mode}");
        assert_eq!(
            rx(&port, &plain(&bytes), &Table),
            Verdict::PASS,
            "not GSO, {mode}"
        );
    }
    let jumbo = ethernet(OWN, LAN, IPV6, &ipv6_with(0, 6, LAN6, SIBLING6, &[0; 100]));
    expect("IPv6 payload length 0", &jumbo, to(SIBLING), to(SIBLING));
}

#[test]
fn an_ipv6_header_must_be_whole_and_say_6() {
    let whole = udp6(OWN, LAN, LAN6, SIBLING6);
    for cut in 14..54 {
        expect("cut", &whole[..cut], Verdict::PASS, Verdict::PASS);
    }
    expect("no payload", &whole[..54], to(SIBLING), to(SIBLING));
    for version in (0..16).filter(|version| *version != 6) {
        let mut odd = whole.clone();
        odd[14] = version << 4;
        expect("version", &odd, Verdict::PASS, Verdict::PASS);
    }
}

#[test]
fn fragments_go_where_their_packet_goes() {
    let mut frame = udp4(OWN, LAN, LAN4, SIBLING4);
    for (high, low) in [(0x20, 0), (0x20, 185), (0, 185)] {
        frame[20] = high;
        frame[21] = low;
        expect("IPv4 fragment", &frame, to(SIBLING), to(SIBLING));
    }
    for offset in [1, 0x05_c9] {
        let [high, low] = u16::to_be_bytes(offset);
        let fragment = [17, 0, high, low, 0, 0, 0, 1, 9, 9, 9, 9, 9, 9, 9, 9];
        let frame = ethernet(OWN, LAN, IPV6, &ipv6(44, LAN6, SIBLING6, &fragment));
        expect("IPv6 fragment", &frame, to(SIBLING), to(SIBLING));
    }
}

#[test]
fn a_mode_that_this_version_does_not_know_is_treated_as_l3() {
    let port = ipvlan_abi::PortEntry {
        mode: 7,
        flag: 9,
        ..port(Mode::L2, Flag::Bridge)
    };
    let broadcast = udp4(BROADCAST, LAN, LAN4, [255; 4]);
    assert_eq!(
        rx(&port, &plain(&broadcast), &Table),
        Verdict::PASS,
        "l3 is the stricter mode"
    );
}
