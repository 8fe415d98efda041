//! The eBPF build of the decisions against the native build, on the same frames.
//!
//! `BPF_PROG_TEST_RUN` runs the program `decide` on a frame; it answers with the bits of the
//! verdict. The native build decides on the same bytes with the same port and owners. There must be
//! no difference on any of at least 100,000 generated frames: valid ones, odd ones, and valid ones
//! with damage; on a port with prefixes, and on one without.
//!
//! What a test run cannot do: set the packet type (it follows from the address) or a VLAN tag outside
//! of the bytes, and, in newer kernels, take an IP packet that is shorter than its fixed header; or a frame that does not fit a page.
#![expect(
    clippy::expect_used,
    clippy::unwrap_used,
    reason = "a test panics where it cannot go on"
)]

mod dice;
mod guests;
mod machine;
mod port;

use std::collections::HashMap;

use ipvlan_abi::{
    DropReason, Flag, Mode, OWNER_HERE, OWNER_OUTSIDE, OWNER_PARENT, OWNER_PEER, Owner,
    PORT_PREFIXES, PORT_ROUTED, PortEntry,
};
use ipvlan_core::frame::Bytes;
use ipvlan_core::{Action, Owners, rx, tx};

use crate::dice::Dice;
use crate::machine::{Machine, can_be_run};

const FRAMES: u32 = 120_000;
const SENDER: u32 = 7;
const PARENT_MAC: [u8; 6] = [0x02, 0, 0, 0, 0, 0x01];
const FOREIGN_MAC: [u8; 6] = [0x06, 0xde, 0xad, 0xbe, 0xef, 0x02];

const V4: [[u8; 4]; 9] = [
    [10, 0, 0, 1],
    [10, 0, 0, 7],
    [10, 0, 0, 8],
    [10, 9, 8, 254],
    [10, 9, 8, 1],
    [10, 9, 8, 200],
    [10, 9, 9, 1],
    [10, 0, 0, 254],
    [224, 0, 0, 251],
];
const V6: [[u8; 16]; 9] = [
    [0xfd, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1],
    [0xfd, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 7],
    [0xfd, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 8],
    [0xfd, 9, 0, 8, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0xfe],
    [0xfd, 9, 0, 8, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1],
    [0xfd, 9, 0, 8, 0x80, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1],
    [0xfd, 9, 0, 9, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1],
    [0xfd, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0xfe],
    [0xff, 0x02, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1],
];
/// Of the first four addresses of each family; the others have no entry of their own.
const OWNERS: [Owner; 4] = [
    Owner {
        ifindex: 2,
        kind: OWNER_PARENT,
    },
    Owner {
        ifindex: SENDER,
        kind: OWNER_PEER,
    },
    Owner {
        ifindex: 8,
        kind: OWNER_HERE,
    },
    Owner {
        ifindex: 2,
        kind: OWNER_OUTSIDE,
    },
];

/// Prefixes of each family and their owners, the longest first.
const V4_PREFIXES: [([u8; 4], u8, Owner); 3] = [
    ([10, 9, 8, 128], 25, OWNERS[1]),
    ([10, 9, 8, 0], 24, OWNERS[2]),
    ([10, 0, 0, 0], 13, OWNERS[2]),
];
const V6_PREFIXES: [([u8; 16], u8, Owner); 3] = [
    (
        [0xfd, 9, 0, 8, 0x80, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0],
        65,
        OWNERS[1],
    ),
    (
        [0xfd, 9, 0, 8, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0],
        64,
        OWNERS[2],
    ),
    (
        [0xfd, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0],
        13,
        OWNERS[2],
    ),
];

struct Table;

impl Owners for Table {
    fn v4(&self, address: &[u8; 4]) -> Owner {
        V4.iter()
            .zip(OWNERS)
            .find(|(a, _)| *a == address)
            .map_or(Owner::NOBODY, |(_, o)| o)
    }

    fn v6(&self, address: &[u8; 16]) -> Owner {
        V6.iter()
            .zip(OWNERS)
            .find(|(a, _)| *a == address)
            .map_or(Owner::NOBODY, |(_, o)| o)
    }

    fn v4_prefix(&self, address: &[u8; 4]) -> Owner {
        let bits = |address: &[u8; 4], len: u8| u32::from_be_bytes(*address) >> (32 - len);
        V4_PREFIXES
            .iter()
            .find(|(prefix, len, _)| bits(prefix, *len) == bits(address, *len))
            .map_or(Owner::NOBODY, |(_, _, owner)| *owner)
    }

    fn v6_prefix(&self, address: &[u8; 16]) -> Owner {
        let bits = |address: &[u8; 16], len: u8| u128::from_be_bytes(*address) >> (128 - len);
        V6_PREFIXES
            .iter()
            .find(|(prefix, len, _)| bits(prefix, *len) == bits(address, *len))
            .map_or(Owner::NOBODY, |(_, _, owner)| *owner)
    }
}

#[test]
#[ignore = "needs root: cargo xtask test"]
fn the_ebpf_build_decides_as_the_native_build() {
    let seed = std::env::var("IPVLAN_TEST_SEED").map_or_else(
        |_| {
            let now = std::time::UNIX_EPOCH.elapsed().unwrap();
            u64::try_from(now.as_nanos() & u128::from(u64::MAX)).unwrap()
        },
        |text| text.parse().expect("IPVLAN_TEST_SEED is a number"),
    );
    eprintln!("IPVLAN_TEST_SEED={seed}");
    let mut dice = Dice(seed);
    let mut machine = Machine::new();
    let mut seen: HashMap<(Action, u32), u32> = HashMap::new();
    let mut combinations: Vec<(Mode, Flag, u32)> = Vec::new();
    for mode in [Mode::L2, Mode::L3, Mode::L3s] {
        for flag in [Flag::Bridge, Flag::Private, Flag::Vepa] {
            combinations.extend([0, PORT_PREFIXES].map(|bits| (mode, flag, bits)));
        }
    }
    let mut by_prefix = 0;
    for (mode, flag, prefixes) in &combinations {
        for _ in 0..FRAMES / 12 {
            let bits = if dice.one_in(8) { 0 } else { PORT_ROUTED };
            let port = machine.set(*mode, *flag, bits | prefixes);
            let mut frame = loop {
                let frame = dice.frame();
                if can_be_run(&frame) {
                    break frame;
                }
            };
            let sender = if dice.one_in(2) { 0 } else { SENDER };
            if sender == 0 && frame[0] & 1 == 0 {
                // The only unicast that `lo` takes for its own.
                frame[..6].fill(0);
            }
            // The kernel decides whose the frame is by `lo`, whose address is all zeros.
            let native = Bytes {
                bytes: &frame,
                another_host: frame[0] & 1 == 0 && frame[..6] != [0; 6],
                ..Bytes::default()
            };
            let decide = |port: &PortEntry| match sender {
                0 => rx(port, &native, &Table),
                sender => tx(port, sender, &native, &Table),
            };
            let expected = decide(&port);
            let without = PortEntry { bits, ..port };
            by_prefix += u32::from(expected != decide(&without));
            let found = machine.decide(&frame, sender);
            assert_eq!(
                found, expected,
                "{mode} {flag} {bits} {prefixes}, sender {sender}: the eBPF build (left) and the native build (right) \
                 agree on {frame:02x?}"
            );
            *seen.entry((found.action(), found.reason())).or_default() += 1;
        }
    }
    eprintln!("{FRAMES} frames: {seen:?}, {by_prefix} by a prefix");
    assert!(by_prefix > FRAMES / 100, "prefixes decide: {by_prefix}");
    for reason in DropReason::ALL {
        let expected = match reason {
            // Not decisions: they happen, or not, while a verdict is applied.
            DropReason::None
            | DropReason::NoPort
            | DropReason::Copy
            | DropReason::Rewrite
            | DropReason::ChecksumPending
            | DropReason::Flood => false,
            // A tap's own program decides it.
            DropReason::HostStack => false,
            // A frame shorter than its header does not get into a test run.
            DropReason::Runt => false,
            _ => true,
        };
        assert_eq!(
            seen.contains_key(&(Action::Drop, reason as u32)),
            expected,
            "the generated frames die of {reason:?}"
        );
    }
    for action in [
        Action::Wire,
        Action::Route,
        Action::Parent,
        Action::Flood,
        Action::Deliver,
        Action::Lease,
    ] {
        assert!(
            seen.contains_key(&(action, 0)),
            "some frame's verdict is {action:?}"
        );
    }
}
