//! Transmit in l2: what the driver does, row by row, with the differences that `tx` documents.

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
            sent(Mode::L2, flag, frame),
            verdict,
        );
    }
}

/// A row with one answer for all flags.
fn expect_always(what: &str, frame: &[u8], verdict: Verdict) {
    expect(what, frame, verdict, verdict, verdict);
}

const PRIVATE: Verdict = Verdict::drop(DropReason::Private);

#[test]
fn unicast_to_a_sibling_is_local_unless_private_or_vepa() {
    for (index, four, six) in [(SIBLING, SIBLING4, SIBLING6), (HERE, HERE4, HERE6)] {
        for frame in [udp4(OWN, OWN, SENDER4, four), udp6(OWN, OWN, SENDER6, six)] {
            expect("to a sibling", &frame, to(index), PRIVATE, Verdict::WIRE);
        }
        for operation in [REQUEST, REPLY] {
            let frame = ethernet(OWN, OWN, ARP, &arp(operation, OWN, SENDER4, four));
            let wire = sealed(Verdict::WIRE);
            expect("ARP", &frame, sealed(to(index)), PRIVATE, wire);
        }
    }
}

#[test]
fn unicast_to_oneself_comes_back_unless_private_or_vepa() {
    for frame in [
        udp4(OWN, OWN, SENDER4, SENDER4),
        udp6(OWN, OWN, SENDER6, SENDER6),
    ] {
        expect("to oneself", &frame, to(SENDER), PRIVATE, Verdict::WIRE);
    }
}

#[test]
fn own_mac_address_without_a_sibling_is_the_parents_stack() {
    let malformed = ethernet(
        OWN,
        OWN,
        IPV4,
        &ipv4_with(0x44, 28, SENDER4, SIBLING4, &[0; 8]),
    );
    for (what, frame) in [
        ("IPv4 of the parent", udp4(OWN, OWN, SENDER4, PARENT4)),
        ("IPv6 of the parent", udp6(OWN, OWN, SENDER6, PARENT6)),
        ("IPv4 of nobody", udp4(OWN, OWN, SENDER4, LAN4)),
        ("IPv6 of nobody", udp6(OWN, OWN, SENDER6, LAN6)),
        ("not IP", ethernet(OWN, OWN, EXPERIMENT, b"hi")),
        ("IHL 4", malformed),
        ("no IP header at all", ethernet(OWN, OWN, IPV4, b"")),
        ("no IPv6 header at all", ethernet(OWN, OWN, IPV6, b"")),
    ] {
        expect(
            what,
            &frame,
            Verdict::PARENT,
            Verdict::PARENT,
            Verdict::WIRE,
        );
    }
    let (parent, wire) = (sealed(Verdict::PARENT), sealed(Verdict::WIRE));
    for target in [LAN4, PARENT4] {
        let frame = ethernet(OWN, OWN, ARP, &arp(REPLY, OWN, SENDER4, target));
        expect("ARP for no device", &frame, parent, parent, wire);
    }
}

#[test]
fn an_answer_to_an_arp_probe_names_nobody_and_so_concerns_everybody() {
    let frame = ethernet(OWN, OWN, ARP, &arp(REPLY, OWN, SENDER4, [0; 4]));
    let (flood, wire) = (sealed(Verdict::FLOOD), sealed(Verdict::WIRE));
    expect("bridge", &frame, flood, sealed(Verdict::PARENT), wire);
    let frame = ethernet(OWN, OWN, ARP, &arp(REQUEST, OWN, SENDER4, [0; 4]));
    let parent = sealed(Verdict::PARENT);
    expect("no answer", &frame, parent, parent, wire);
    let frame = ethernet(LAN, OWN, ARP, &arp(REPLY, OWN, SENDER4, [0; 4]));
    expect_always("to the LAN", &frame, wire);
}

#[test]
fn an_answer_to_an_arp_probe_is_held_to_the_parents_mtu() {
    let mut frame = ethernet(OWN, OWN, ARP, &arp(REPLY, OWN, SENDER4, [0; 4]));
    frame.resize(9000, 0);
    let verdict = sent(Mode::L2, Flag::Bridge, &frame);
    assert_ne!(
        verdict.action(),
        Action::Flood,
        "the wire is part of a flood"
    );
}

#[test]
fn any_other_unicast_is_for_the_wire_whatever_address_it_carries() {
    for frame in [
        udp4(LAN, OWN, SENDER4, LAN4),
        udp4(LAN, OWN, SENDER4, SIBLING4),
        udp4(LAN, OWN, SENDER4, PARENT4),
        udp4(LAN, OWN, [1, 2, 3, 4], LAN4),
        udp6(LAN, OWN, SENDER6, LAN6),
        udp6(LAN, OWN, SENDER6, SIBLING6),
        ethernet(LAN, OWN, EXPERIMENT, b"hi"),
        ethernet(LAN, OWN, IPV4, b"hardly a packet"),
        ethernet(LAN, OWN, IPV6, b""),
    ] {
        expect_always("to the LAN", &frame, Verdict::WIRE);
    }
    for operation in [REQUEST, REPLY] {
        for target in [LAN4, SIBLING4, PARENT4] {
            let frame = ethernet(LAN, OWN, ARP, &arp(operation, OWN, SENDER4, target));
            expect_always("ARP to the LAN", &frame, sealed(Verdict::WIRE));
        }
    }
}

#[test]
fn broadcast_and_multicast_go_to_siblings_and_wire_and_past_siblings_if_private() {
    for (what, frame) in [
        ("limited broadcast", udp4(BROADCAST, OWN, SENDER4, [255; 4])),
        ("DHCP discover", udp4(BROADCAST, OWN, [0; 4], [255; 4])),
        ("unicast IP", udp4(BROADCAST, OWN, SENDER4, SIBLING4)),
        ("IPv4 multicast", udp4(MDNS, OWN, SENDER4, [224, 0, 0, 251])),
        ("IPv6 multicast", udp6(ALL_NODES, OWN, SENDER6, ALL_NODES6)),
        ("not IP", ethernet(BROADCAST, OWN, EXPERIMENT, b"hi")),
        ("malformed IP", ethernet(BROADCAST, OWN, IPV4, b"hi")),
    ] {
        expect(what, &frame, Verdict::FLOOD, Verdict::WIRE, Verdict::FLOOD);
    }
}

/// A question or an announcement: nothing may be written into it later.
fn expect_sealed(what: &str, frame: &[u8], bridge: Verdict, private: Verdict, vepa: Verdict) {
    expect(what, frame, sealed(bridge), sealed(private), sealed(vepa));
}

#[test]
fn an_arp_request_goes_to_the_sibling_that_owns_its_target_or_else_to_the_wire() {
    let wire = Verdict::WIRE;
    let ask = |target| arp_broadcast(REQUEST, OWN, SENDER4, target);
    expect_sealed("sibling", &ask(SIBLING4), to(SIBLING), wire, to(SIBLING));
    expect_sealed("sibling here", &ask(HERE4), to(HERE), wire, to(HERE));
    expect_sealed("the LAN", &ask(LAN4), wire, wire, wire);
    // As with the driver: broadcasts do not reach the parent's stack.
    expect_sealed("the parent", &ask(PARENT4), wire, wire, wire);
    let probe = arp_broadcast(REQUEST, OWN, [0; 4], SIBLING4);
    expect_sealed("probe", &probe, to(SIBLING), wire, to(SIBLING));
    let probe = arp_broadcast(REQUEST, OWN, [0; 4], LAN4);
    let flood = Verdict::FLOOD;
    expect_sealed("for a free address", &probe, flood, wire, flood);
}

#[test]
fn asking_for_an_address_of_ones_own_looks_for_a_duplicate_everywhere() {
    let (flood, wire) = (Verdict::FLOOD, Verdict::WIRE);
    let probe = arp_broadcast(REQUEST, OWN, [0; 4], SENDER4);
    expect_sealed("ARP probe", &probe, flood, wire, flood);
    let probe = solicitation(OWN, [0; 16], SENDER6);
    expect_sealed("DAD", &probe, flood, wire, flood);
}

#[test]
fn an_arp_announcement_or_a_broadcast_reply_concerns_everybody() {
    let (flood, wire) = (Verdict::FLOOD, Verdict::WIRE);
    for target in [SENDER4, SIBLING4, LAN4, [0; 4]] {
        let frame = arp_broadcast(REQUEST, OWN, target, target);
        expect_sealed("announcement", &frame, flood, wire, flood);
        let frame = arp_broadcast(REPLY, OWN, SENDER4, target);
        expect_sealed("reply to all", &frame, flood, wire, flood);
    }
}

#[test]
fn a_solicitation_goes_to_the_sibling_that_owns_its_target_or_else_to_the_wire() {
    let (flood, wire) = (Verdict::FLOOD, Verdict::WIRE);
    for from in [SENDER6, [0; 16]] {
        let ask = |target| solicitation(OWN, from, target);
        expect_sealed("sibling", &ask(SIBLING6), to(SIBLING), wire, to(SIBLING));
        expect_sealed("sibling here", &ask(HERE6), to(HERE), wire, to(HERE));
        // Is it still free? A sibling may be about to take it.
        let others = if from == SENDER6 { wire } else { flood };
        expect_sealed("the LAN", &ask(LAN6), others, wire, others);
        expect_sealed("the parent", &ask(PARENT6), wire, wire, wire);
    }
    let frame = advertisement(OWN, SENDER6);
    expect_sealed("NA to all", &frame, flood, wire, flood);
}

#[test]
fn a_foreign_source_is_overwritten_on_every_way_out() {
    let fixed = |verdict: Verdict| verdict.with(Fix::SOURCE);
    for source in [FOREIGN, LAN, [0; 6], BROADCAST, [0x03, 0, 0, 0, 0x0a, 0x01]] {
        expect_always(
            "wire",
            &udp4(LAN, source, SENDER4, LAN4),
            fixed(Verdict::WIRE),
        );
        for frame in [
            udp4(BROADCAST, source, SENDER4, [255; 4]),
            ethernet(BROADCAST, source, EXPERIMENT, b""),
        ] {
            let flood = fixed(Verdict::FLOOD);
            expect("broadcast", &frame, flood, fixed(Verdict::WIRE), flood);
        }
        let parent = fixed(Verdict::PARENT);
        let frame = udp4(OWN, source, SENDER4, PARENT4);
        expect("parent", &frame, parent, parent, fixed(Verdict::WIRE));
        // The driver takes such a frame for the wire: it compares source and destination.
        let frame = udp4(OWN, source, SENDER4, SIBLING4);
        let verdict = sent(Mode::L2, Flag::Bridge, &frame);
        assert_eq!(verdict, fixed(to(SIBLING)), "to a sibling");
    }
    for index in 0..6 {
        let mut source = OWN;
        source[index] ^= 0x40;
        let frame = udp4(LAN, source, SENDER4, LAN4);
        expect_always("every byte counts", &frame, fixed(Verdict::WIRE));
    }
}

#[test]
fn forged_equal_addresses_do_not_make_a_frame_local() {
    let frame = udp4(FOREIGN, FOREIGN, SENDER4, SIBLING4);
    expect_always(
        "source = destination",
        &frame,
        Verdict::WIRE.with(Fix::SOURCE),
    );
}

#[test]
fn a_foreign_arp_sender_is_overwritten() {
    let mut operation = 0u16;
    while operation < 12 {
        for (source, hardware, fix) in [
            (OWN, OWN, Fix::NOTHING),
            (OWN, FOREIGN, Fix::ARP_SENDER),
            (FOREIGN, OWN, Fix::SOURCE),
            (FOREIGN, FOREIGN, Fix::SOURCE.and(Fix::ARP_SENDER)),
        ] {
            let payload = arp(operation, hardware, SENDER4, LAN4);
            let fix = fix.and(Fix::SEALED);
            let frame = ethernet(LAN, source, ARP, &payload);
            expect_always("unicast ARP", &frame, Verdict::WIRE.with(fix));
            let frame = ethernet(BROADCAST, source, ARP, &payload);
            let found = sent(Mode::L2, Flag::Bridge, &frame).fix();
            assert_eq!(found, fix, "broadcast ARP, operation {operation}");
        }
        operation += 1;
    }
}

#[test]
fn the_arp_targets_hardware_address_is_the_receivers_and_stays() {
    let mut payload = arp(REPLY, OWN, SENDER4, LAN4);
    payload[18..24].copy_from_slice(&LAN);
    let frame = ethernet(LAN, OWN, ARP, &payload);
    expect_always("ARP reply", &frame, sealed(Verdict::WIRE));
}

#[test]
fn arp_whose_sender_cannot_be_checked_is_dropped() {
    let malformed = dropped(DropReason::ArpMalformed);
    for destination in [OWN, LAN, BROADCAST] {
        let whole = ethernet(destination, OWN, ARP, &arp(REQUEST, OWN, SENDER4, LAN4));
        for cut in 14..whole.len() {
            expect_always("cut", &whole[..cut], malformed);
        }
        for index in 14..20 {
            for bit in 0..8 {
                let mut odd = whole.clone();
                odd[index] ^= 1 << bit;
                expect_always("odd type or length", &odd, malformed);
            }
        }
        let mut padded = whole;
        padded.extend([0; 18]);
        let verdict = sent(Mode::L2, Flag::Bridge, &padded);
        assert_ne!(verdict.action(), Action::Drop, "padding is no fault");
    }
}

#[test]
fn rarp_is_dropped() {
    for destination in [OWN, LAN, BROADCAST] {
        let frame = ethernet(destination, OWN, RARP, &arp(3, FOREIGN, [0; 4], [0; 4]));
        expect_always("RARP", &frame, dropped(DropReason::Rarp));
    }
}

#[test]
fn less_than_an_ethernet_header_is_dropped() {
    let whole = udp4(LAN, OWN, SENDER4, LAN4);
    for cut in 0..14 {
        expect_always("runt", &whole[..cut], dropped(DropReason::Runt));
    }
    expect_always("a bare header", &whole[..14], Verdict::WIRE);
}

#[test]
fn a_vlan_tag_is_dropped_wherever_it_is() {
    for destination in [OWN, LAN, BROADCAST] {
        let frame = udp4(destination, OWN, SENDER4, SIBLING4);
        for flag in FLAGS {
            let tagged = Bytes {
                tagged: true,
                ..plain(&frame)
            };
            let verdict = tx(&port(Mode::L2, flag), SENDER, &tagged, &Table);
            assert_eq!(verdict, dropped(DropReason::Vlan), "beside the bytes");
        }
        for ethertype in [VLAN, SERVICE_VLAN, OLD_VLAN] {
            for id in [0, 10] {
                let tagged = ethernet(destination, OWN, ethertype, &[0, id, 8, 0, 0x45]);
                expect_always("in the bytes", &tagged, dropped(DropReason::Vlan));
            }
        }
    }
}

#[test]
fn bridges_own_addresses_are_not_for_devices() {
    for last in 0..=0x0f {
        for ethertype in [PAUSE, 0x88cc, EXPERIMENT, IPV4, IPV6] {
            let frame = ethernet([1, 0x80, 0xc2, 0, 0, last], OWN, ethertype, &[0; 46]);
            expect_always(
                "01:80:c2:00:00:0x",
                &frame,
                dropped(DropReason::LinkLocalGroup),
            );
        }
    }
    for group in [[1, 0x80, 0xc2, 0, 0, 0x10], [1, 0x80, 0xc2, 0, 0x0f, 0]] {
        let frame = ethernet(group, OWN, EXPERIMENT, &[0; 46]);
        expect(
            "another",
            &frame,
            Verdict::FLOOD,
            Verdict::WIRE,
            Verdict::FLOOD,
        );
    }
}

#[test]
fn what_the_parent_could_not_send_is_dropped() {
    for mtu in [68, 1280, 1500, 9000, 65535] {
        let port = PortEntry {
            mtu,
            ..port(Mode::L2, Flag::Bridge)
        };
        for destination in [LAN, BROADCAST] {
            let room = usize::try_from(mtu).unwrap();
            let mut bytes = ethernet(destination, OWN, EXPERIMENT, &vec![0; room]);
            let verdict = tx(&port, SENDER, &plain(&bytes), &Table);
            assert_ne!(verdict.action(), Action::Drop, "{mtu} bytes fit {mtu}");
            bytes.push(0);
            let verdict = tx(&port, SENDER, &plain(&bytes), &Table);
            assert_eq!(verdict, dropped(DropReason::TooBig), "one more does not");
            let large = Bytes {
                segmented: true,
                ..plain(&bytes)
            };
            let verdict = tx(&port, SENDER, &large, &Table);
            assert_ne!(verdict.action(), Action::Drop, "it will be cut");
        }
    }
    let big = ethernet(OWN, OWN, IPV4, &ipv4(SENDER4, LAN4, &[0; 1481]));
    let too_big = dropped(DropReason::TooBig);
    expect("own MAC", &big, Verdict::PARENT, Verdict::PARENT, too_big);
    let mut question = arp_broadcast(REQUEST, OWN, SENDER4, LAN4);
    question.resize(1515, 0);
    expect_always("a question", &question, too_big);
}

#[test]
fn what_stays_among_siblings_is_not_held_to_the_parents_mtu() {
    let frame = ethernet(OWN, OWN, IPV4, &ipv4(SENDER4, SIBLING4, &[0; 8000]));
    let verdict = sent(Mode::L2, Flag::Bridge, &frame);
    assert_eq!(verdict, to(SIBLING), "the receiver's own MTU decides");
}

#[test]
fn a_packet_above_64_kib_may_leave_its_length_out() {
    let packet = ipv4_with(0x45, 0, SENDER4, SIBLING4, &[0; 3000]);
    let bytes = ethernet(OWN, OWN, IPV4, &packet);
    let big = Bytes {
        segmented: true,
        ..plain(&bytes)
    };
    let port = port(Mode::L2, Flag::Bridge);
    assert_eq!(tx(&port, SENDER, &big, &Table), to(SIBLING), "BIG TCP");
    let verdict = tx(&port, SENDER, &plain(&bytes), &Table);
    assert_eq!(verdict, Verdict::PARENT, "a lie, so no key");
}

#[test]
fn a_flag_that_this_version_does_not_know_is_treated_as_private() {
    let port = PortEntry {
        flag: 3,
        ..port(Mode::L2, Flag::Bridge)
    };
    let frame = udp4(OWN, OWN, SENDER4, SIBLING4);
    let verdict = tx(&port, SENDER, &plain(&frame), &Table);
    assert_eq!(verdict, dropped(DropReason::Private), "the strictest");
}

#[test]
fn what_is_dropped_is_not_rewritten_first() {
    let private = udp4(OWN, FOREIGN, SENDER4, SIBLING4);
    let group = ethernet([1, 0x80, 0xc2, 0, 0, 0], FOREIGN, EXPERIMENT, &[0; 46]);
    let big = ethernet(LAN, FOREIGN, EXPERIMENT, &[0; 1501]);
    for frame in [private, group, big] {
        let verdict = sent(Mode::L2, Flag::Private, &frame);
        assert_eq!(verdict.action(), Action::Drop, "{verdict:?}");
        assert!(
            verdict.fix().is_nothing(),
            "what is dropped needs no fix: {verdict:?}"
        );
    }
}

#[test]
fn mac_control_interferes_with_the_link_whatever_its_address() {
    for destination in [LAN, BROADCAST] {
        let frame = ethernet(destination, OWN, PAUSE, &[0, 1, 0xff, 0xff]);
        let verdict = sent(Mode::L2, Flag::Bridge, &frame);
        assert_eq!(
            verdict.action(),
            Action::Drop,
            "PAUSE is between neighbours"
        );
    }
}

#[test]
fn a_length_in_the_place_of_an_ethertype_is_dropped() {
    for destination in [OWN, LAN, BROADCAST, [1, 0x80, 0xc2, 0, 0, 0]] {
        for length in [0, 3, 46, 1500, 1501, 0x05ff] {
            let snap = [0xaa, 0xaa, 3, 0, 0, 0, 0x08, 0x06];
            let payload = [&snap[..], &arp(REPLY, FOREIGN, SENDER4, LAN4)].concat();
            let frame = ethernet(destination, OWN, length, &payload);
            expect_always("ARP in SNAP", &frame, dropped(DropReason::Llc));
        }
    }
    let frame = ethernet(LAN, OWN, 0x0600, &[0; 46]);
    expect_always("the first EtherType", &frame, Verdict::WIRE);
}
