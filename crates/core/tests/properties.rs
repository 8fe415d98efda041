//! What holds for every frame: arbitrary bytes, and frames that are nearly right.
//!
//! Here is how such frames and ports are made, and that they reach every decision. What core promises
//! of them is in [`promises`], which the fuzzer asks for, too; only here: a look that is not deep
//! decides nothing else, and nothing that can still change.

mod frames;
mod promises;

use frames::*;
use ipvlan_abi::{DropReason, Flag, Mode, PORT_PREFIXES, PORT_ROUTED, PortEntry};
use ipvlan_core::frame::{Bytes, Frame, reach};
use ipvlan_core::{Action, Verdict, rx, tx, tx_shallow};
use promises::Watched;
use proptest::prelude::*;

/// A frame with what the kernel says of it.
#[derive(Clone, Debug)]
struct Sample {
    bytes: Vec<u8>,
    tagged: bool,
    another_host: bool,
    segmented: bool,
}

impl Sample {
    fn frame(&self) -> Bytes<'_> {
        Bytes {
            bytes: &self.bytes,
            tagged: self.tagged,
            another_host: self.another_host,
            segmented: self.segmented,
        }
    }
}

fn mac() -> impl Strategy<Value = Mac> + Clone {
    prop_oneof![
        8 => Just(OWN),
        4 => Just(FOREIGN),
        2 => Just(LAN),
        2 => Just(BROADCAST),
        1 => Just(MDNS),
        1 => Just(ALL_NODES),
        1 => (0u8..0x12).prop_map(|last| [1, 0x80, 0xc2, 0, 0, last]),
        1 => any::<Mac>(),
    ]
}

fn address4() -> impl Strategy<Value = V4> {
    prop_oneof![
        Just(PARENT4),
        Just(SENDER4),
        Just(SIBLING4),
        Just(HERE4),
        Just(LAN4),
        Just(BEHIND_SIBLING4),
        Just(BEHIND_HERE4),
        Just(ROUTER4),
        Just([0; 4]),
        Just([255; 4]),
        Just([224, 0, 0, 251]),
        any::<V4>(),
    ]
}

fn address6() -> impl Strategy<Value = V6> {
    prop_oneof![
        Just(PARENT6),
        Just(SENDER6),
        Just(SIBLING6),
        Just(HERE6),
        Just(LAN6),
        Just(BEHIND_SIBLING6),
        Just(BEHIND_HERE6),
        Just(ROUTER6),
        Just([0; 16]),
        Just(ALL_NODES6),
        any::<V6>(),
    ]
}

/// Mostly the right one.
fn mostly<T: Clone + std::fmt::Debug + 'static>(
    right: T,
    any: impl Strategy<Value = T> + 'static,
) -> impl Strategy<Value = T> {
    prop_oneof![9 => Just(right), 1 => any]
}

fn some_arp() -> impl Strategy<Value = (u16, Vec<u8>)> {
    let types = mostly([0, 1, 8, 0, 6, 4], any::<[u8; 6]>());
    let operation = prop_oneof![3 => 1u16..=2, 1 => any::<u16>()];
    (types, operation, mac(), address4(), address4()).prop_map(
        |(types, operation, hardware, sender, target)| {
            let mut bytes = arp(operation, hardware, sender, target);
            bytes[..6].copy_from_slice(&types);
            (ARP, bytes)
        },
    )
}

/// UDP, mostly of DHCP.
fn some_udp() -> impl Strategy<Value = Vec<u8>> {
    let port = prop_oneof![8 => prop::sample::select(vec![67u16, 68, 546, 547]), 1 => any::<u16>()];
    let hardware = prop_oneof![
        Just(OWN),
        Just(frames::port(Mode::L2, Flag::Bridge).dhcp_identity(1)),
        any::<Mac>()
    ];
    let rest = prop::collection::vec(any::<u8>(), 0..80);
    (any::<u16>(), port, hardware, rest).prop_map(|(source, port, hardware, rest)| {
        let ports = [source.to_be_bytes(), port.to_be_bytes()].concat();
        [&ports[..], &[0; 4], &[0; 28], &hardware, &rest].concat()
    })
}

fn some_ipv4() -> impl Strategy<Value = (u16, Vec<u8>)> {
    let payload = prop_oneof![
        prop::collection::vec(any::<u8>(), 0..80).boxed(),
        some_udp().boxed()
    ];
    let first = mostly(0x45, any::<u8>());
    let total = mostly(None, any::<u16>().prop_map(Some));
    (first, total, address4(), address4(), payload).prop_map(|(first, total, from, to, payload)| {
        let total = total.map_or(20 + payload.len(), usize::from);
        (IPV4, ipv4_with(first, total, from, to, &payload))
    })
}

/// ND options, each with a length byte that is mostly right.
fn options() -> BoxedStrategy<Vec<u8>> {
    let kind = prop_oneof![3 => 1u8..=2, 3 => Just(14), 1 => any::<u8>()];
    let length = prop_oneof![20 => Just(1u8), 2 => 2u8..6, 1 => any::<u8>()];
    let option = (kind, length, mac(), any::<bool>()).prop_map(|(kind, length, mac, whole)| {
        let mut bytes = [&[kind, length][..], &mac].concat();
        if whole {
            bytes.resize(8 * usize::from(length.clamp(1, 60)), 0);
        }
        bytes
    });
    let count = prop_oneof![
        6 => Just(1usize),
        6 => 0usize..4,
        1 => 4usize..15,
        1 => 15usize..19,
    ];
    count
        .prop_flat_map(move |count| prop::collection::vec(option.clone(), count))
        .prop_map(|options| options.concat())
        .boxed()
}

fn some_icmpv6() -> BoxedStrategy<Vec<u8>> {
    let kind = prop_oneof![8 => 133u8..=137, 2 => 141u8..=142, 1 => any::<u8>()];
    (kind, address6(), options())
        .prop_map(|(kind, target, options)| {
            let fixed = match kind {
                133 | 141 | 142 => 8,
                134 => 16,
                137 => 40,
                _ => 24,
            };
            let mut message = neighbour(kind, target, &[]);
            message.resize(fixed, 0);
            [message, options].concat()
        })
        .boxed()
}

/// Extension headers: number, length byte, fragment offset and flags.
fn extensions() -> BoxedStrategy<Vec<(u8, u8, u16)>> {
    let number = prop_oneof![
        12 => prop::sample::select(vec![0u8, 43, 51, 60, 135, 139, 140]),
        1 => Just(44),
        1 => any::<u8>(),
    ];
    let length = prop_oneof![12 => 0u8..3, 2 => 3u8..60, 1 => any::<u8>()];
    let offset = prop_oneof![2 => 0u16..8, 1 => any::<u16>()];
    let count = prop_oneof![4 => Just(0usize), 6 => 1usize..4, 1 => 4usize..11];
    count
        .prop_flat_map(move |count| {
            let one = (number.clone(), length.clone(), offset.clone());
            prop::collection::vec(one, count)
        })
        .boxed()
}

fn some_ipv6() -> impl Strategy<Value = (u16, Vec<u8>)> {
    let last = prop_oneof![30 => Just(58u8), 3 => Just(6), 6 => Just(17), 3 => any::<u8>()];
    let length = prop_oneof![
        8 => Just(None),
        1 => Just(Some(0)),
        1 => (0u16..200).prop_map(Some),
        1 => any::<u16>().prop_map(Some),
    ];
    let first = mostly(0x60, any::<u8>());
    (
        extensions(),
        last,
        (some_icmpv6(), some_udp()),
        length,
        first,
        address6(),
        address6(),
    )
        .prop_map(|(extensions, last, message, length, first, from, to)| {
            let numbers: Vec<u8> = extensions.iter().map(|one| one.0).chain([last]).collect();
            let mut payload = Vec::new();
            for ((number, length, offset), next) in extensions.iter().zip(&numbers[1..]) {
                let size = match number {
                    44 => 8,
                    51 => 8 + 4 * usize::from(*length),
                    _ => 8 + 8 * usize::from(*length),
                };
                let mut header = vec![0; size];
                header[0] = *next;
                header[1] = *length;
                if *number == 44 {
                    header[2..4].copy_from_slice(&offset.to_be_bytes());
                }
                payload.extend(header);
            }
            payload.extend(if last == 17 { message.1 } else { message.0 });
            let length = length.map_or(payload.len(), usize::from);
            let mut packet = ipv6_with(length, numbers[0], from, to, &payload);
            packet[0] = first;
            (IPV6, packet)
        })
}

fn something_else() -> impl Strategy<Value = (u16, Vec<u8>)> {
    let ethertype = prop_oneof![
        prop::sample::select(vec![
            IPV4,
            ARP,
            RARP,
            VLAN,
            IPV6,
            PAUSE,
            SERVICE_VLAN,
            EXPERIMENT
        ]),
        any::<u16>(),
    ];
    (ethertype, prop::collection::vec(any::<u8>(), 0..600))
}

/// A frame that is nearly right: built by the rules, then cut, padded or hit by a stray bit.
fn structured() -> impl Strategy<Value = Vec<u8>> {
    // Boxed: unboxed, all that a frame may be lies on the stack at once.
    let payload = prop_oneof![
        2 => some_arp().boxed(),
        2 => some_ipv4().boxed(),
        6 => some_ipv6().boxed(),
        1 => something_else().boxed(),
    ];
    let cut = mostly(None, any::<prop::sample::Index>().prop_map(Some));
    let padding = prop_oneof![4 => Just(0usize), 1 => 0usize..60, 1 => Just(1600)];
    let hits = prop_oneof![
        4 => Just(vec![]),
        1 => prop::collection::vec((any::<prop::sample::Index>(), 0u8..8), 1..4),
    ];
    (mac(), mac(), payload, cut, padding, hits).prop_map(
        |(to, from, (ethertype, payload), cut, padding, hits)| {
            let mut bytes = ethernet(to, from, ethertype, &payload);
            bytes.resize(bytes.len() + padding, 0xee);
            for (at, bit) in hits {
                let at = at.index(bytes.len());
                bytes[at] ^= 1 << bit;
            }
            if let Some(cut) = cut {
                bytes.truncate(cut.index(bytes.len() + 1));
            }
            bytes
        },
    )
}

fn sample() -> impl Strategy<Value = Sample> {
    let bytes = prop_oneof![
        1 => prop::collection::vec(any::<u8>(), 0..700).boxed(),
        6 => structured().boxed(),
    ];
    let rarely = || prop::bool::weighted(0.03);
    (bytes, rarely(), rarely(), rarely()).prop_map(|(bytes, tagged, another_host, segmented)| {
        Sample {
            bytes,
            tagged,
            another_host,
            segmented,
        }
    })
}

/// IPv6 that reaches the search for options more often than not.
fn deep_sample() -> impl Strategy<Value = Sample> {
    let padding = prop_oneof![4 => Just(0usize), 1 => 0usize..60];
    (mac(), mac(), some_ipv6(), padding).prop_map(|(to, from, (ethertype, packet), padding)| {
        let mut bytes = ethernet(to, from, ethertype, &packet);
        bytes.resize(bytes.len() + padding, 0xee);
        Sample {
            bytes,
            tagged: false,
            another_host: false,
            segmented: true,
        }
    })
}

fn any_port() -> impl Strategy<Value = PortEntry> {
    // About as long as a frame, too.
    let mtu = prop_oneof![4 => Just(1500u32), 1 => 0u32..200, 1 => any::<u32>()];
    let mode = prop_oneof![8 => 0u8..3, 1 => any::<u8>()];
    let flag = prop_oneof![8 => 0u8..3, 1 => any::<u8>()];
    let bits = prop_oneof![
        3 => Just(PORT_ROUTED),
        3 => Just(PORT_ROUTED | PORT_PREFIXES),
        1 => any::<u32>()
    ];
    (mtu, mode, flag, bits).prop_map(|(mtu, mode, flag, bits)| PortEntry {
        mtu,
        mode,
        flag,
        bits,
        ..port(Mode::L2, Flag::Bridge)
    })
}

fn config(cases: u32) -> ProptestConfig {
    ProptestConfig {
        cases: ProptestConfig::default().cases.max(cases),
        // A failure is kept by writing it down as a test.
        failure_persistence: None,
        ..ProptestConfig::default()
    }
}

proptest! {
    #![proptest_config(config(2000))]

    #[test]
    fn what_is_not_looked_at_deeply_is_decided_all_the_same(
        sample in prop_oneof![sample(), deep_sample()],
        port in any_port(),
    ) {
        let shallow = tx_shallow(&port, SENDER, &sample.frame(), &Table);
        if shallow != Verdict::DEEP {
            prop_assert_eq!(shallow, tx(&port, SENDER, &sample.frame(), &Table));
        }
    }

    #[test]
    fn nothing_is_decided_by_what_the_sender_can_still_change(
        sample in prop_oneof![sample(), deep_sample()],
        port in any_port(),
        more in 0..64_usize,
    ) {
        let frame = sample.frame();
        let fixed = reach(frame.at(12).copied()) + more;
        let shared = Watched::of(frame, fixed);
        let verdict = tx_shallow(&port, SENDER, &shared, &Table);
        prop_assert!(verdict == Verdict::DEEP || shared.looked() <= fixed, "{verdict:?}");
    }
}

proptest! {
    #![proptest_config(config(4000))]

    #[test]
    fn what_the_wire_sends_is_decided_as_promised(
        sample in prop_oneof![3 => sample().boxed(), 1 => deep_sample().boxed()],
        port in any_port(),
    ) {
        promises::received(&port, &sample.frame(), &Table);
    }

    #[test]
    fn what_a_device_sends_is_decided_as_promised(
        sample in prop_oneof![3 => sample().boxed(), 1 => deep_sample().boxed()],
        port in any_port(),
    ) {
        promises::sent(&port, SENDER, &sample.frame(), &Table);
    }

    /// In l2, where there is much to mend.
    #[test]
    fn no_mac_address_but_the_parents_leaves_an_l2_device(
        sample in prop_oneof![sample().boxed(), deep_sample().boxed()],
        flag in prop::sample::select(FLAGS.to_vec()),
        mtu in prop_oneof![Just(1500u32), Just(65535)],
    ) {
        let port = PortEntry { mtu, ..port(Mode::L2, flag) };
        promises::sent(&port, SENDER, &sample.frame(), &Table);
    }
}

/// The properties above are worth what their frames are: each outcome must come up.
#[test]
fn the_frames_of_these_tests_reach_every_decision() {
    use proptest::strategy::ValueTree;
    use proptest::test_runner::TestRunner;
    use std::collections::BTreeSet;

    let mut runner = TestRunner::deterministic();
    let (strategy, ports) = (sample(), any_port());
    let mut reasons = BTreeSet::new();
    let mut actions = BTreeSet::new();
    for _ in 0..25_000 {
        let sample = strategy.new_tree(&mut runner).unwrap().current();
        let port = ports.new_tree(&mut runner).unwrap().current();
        let verdict = tx(&port, SENDER, &sample.frame(), &Table);
        let _: bool = actions.insert(verdict.action() as u8);
        reasons.extend(reason(verdict));
        let _: bool = actions.insert(rx(&port, &sample.frame(), &Table).action() as u8);
    }
    assert_eq!(actions.len(), 8, "every action: {actions:?}");
    for reason in DropReason::ALL {
        let elsewhere = reason == DropReason::None || promises::is_of_a_datapath(reason);
        assert_eq!(!reasons.contains(&reason), elsewhere, "{}", reason.as_str());
    }
    let deep = deep_sample();
    let fixed = (0..2000).filter(|_| {
        let sample = deep.new_tree(&mut runner).unwrap().current();
        let verdict = tx(
            &port(Mode::L2, Flag::Bridge),
            SENDER,
            &sample.frame(),
            &Table,
        );
        verdict.action() != Action::Drop && verdict.fix().nd_offsets().is_some()
    });
    let fixed = fixed.count();
    assert!(fixed > 120, "ND options to overwrite: {fixed} of 2,000");
}
