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

use std::collections::HashMap;
use std::net::IpAddr;
use std::path::PathBuf;

use aya::programs::{SchedClassifier, TestRun as _, TestRunOptions};
use ipnet::IpNet;
use ipvlan_abi::{
    DropReason, Flag, Mode, OWNER_HERE, OWNER_OUTSIDE, OWNER_PARENT, OWNER_PEER, Owner,
    PORT_ALLMULTI, PORT_MARK, PORT_PREFIXES, PORT_ROUTED, PortEntry,
};
use ipvlan_core::frame::Bytes;
use ipvlan_core::guest::{self, Answer, Question};
use ipvlan_core::{Action, Owners, Verdict, rx, tx};
use ipvlan_datapath_bpf::{Capacity, OBJECT, Port};
use nix::mount::{MsFlags, mount};
use nix::sched::{CloneFlags, unshare};

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

/// A source of choices that can be had again: splitmix64.
struct Dice(u64);

impl Dice {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    fn number(&mut self, below: usize) -> usize {
        usize::try_from(self.next() >> 33).unwrap() % below
    }

    fn byte(&mut self) -> u8 {
        self.next().to_le_bytes()[7]
    }

    fn one_in(&mut self, n: usize) -> bool {
        self.number(n) == 0
    }

    fn of<T: Copy>(&mut self, choices: &[T]) -> T {
        choices[self.number(choices.len())]
    }

    fn bytes(&mut self, count: usize) -> Vec<u8> {
        (0..count).map(|_| self.byte()).collect()
    }

    fn mac(&mut self) -> [u8; 6] {
        let mut mac = self.of(&[
            PARENT_MAC,
            PARENT_MAC,
            FOREIGN_MAC,
            [0xff; 6],
            [0x33, 0x33, 0, 0, 0, 1],
            [0x01, 0x00, 0x5e, 0, 0, 0xfb],
            [0x01, 0x80, 0xc2, 0, 0, 0],
        ]);
        if self.one_in(8) {
            mac[self.number(6)] = self.byte();
        }
        mac
    }

    fn frame(&mut self) -> Vec<u8> {
        let mut frame = Vec::new();
        frame.extend(self.mac());
        frame.extend(self.mac());
        match self.number(10) {
            0 | 1 => self.arp(&mut frame),
            2..=4 => self.v4(&mut frame),
            5..=8 => self.v6(&mut frame),
            _ => {
                let ethertype = self.of(&[0x8100_u16, 0x88a8, 0x8035, 0x88cc, 0x0026, 0x86dd]);
                frame.extend(ethertype.to_be_bytes());
                let count = self.number(80);
                frame.extend(self.bytes(count));
            }
        }
        // Damage.
        if self.one_in(6) {
            let keep = 14 + self.number(frame.len() - 13);
            frame.truncate(keep);
        }
        if self.one_in(6) {
            let at = self.number(frame.len());
            frame[at] = self.byte();
        }
        if self.one_in(12) {
            let count = self.number(1600);
            frame.extend(self.bytes(count));
        }
        frame
    }

    fn arp(&mut self, frame: &mut Vec<u8>) {
        frame.extend([0x08, 0x06, 0, 1, 0x08, 0, 6, 4, 0, self.of(&[1, 1, 2])]);
        frame.extend(self.mac());
        frame.extend(self.of(&V4));
        frame.extend(self.mac());
        frame.extend(self.of(&V4));
    }

    fn v4(&mut self, frame: &mut Vec<u8>) {
        let payload = self.number(64);
        let ihl = self.of(&[5_u8, 5, 5, 6, 15, 4, 0]);
        let total = u16::try_from(20 + payload).unwrap();
        let total = self.of(&[total, total, total, 0, total + 1, 19, 0xffff]);
        frame.extend([0x08, 0, self.of(&[0x40, 0x40, 0x40, 0x50]) | ihl, 0]);
        frame.extend(total.to_be_bytes());
        frame.extend([0, 1, 0, 0, 64, self.of(&[1, 6, 17, 17, 17]), 0, 0]);
        frame.extend(self.of(&V4));
        let mut destination = self.of(&V4);
        if self.one_in(6) {
            destination = self.of(&[[255; 4], [127, 0, 0, 1], [240, 0, 0, 1], [0; 4]]);
        }
        frame.extend(destination);
        let mut payload = self.bytes(payload);
        self.dhcp(&mut payload);
        frame.extend(payload);
    }

    /// Makes some of the payloads look like DHCP.
    fn dhcp(&mut self, payload: &mut [u8]) {
        if self.one_in(4) {
            return;
        }
        let port = self.of(&[67_u16, 68, 68, 68, 546, 546, 547]).to_be_bytes();
        if let Some(destination) = payload.get_mut(2..4) {
            destination.copy_from_slice(&port);
        }
        let identity = [2, 1, 2, 3, 0, self.of(&[0, 1])];
        let mac = self.of(&[PARENT_MAC, identity, identity, FOREIGN_MAC]);
        if let Some(hardware) = payload.get_mut(36..42) {
            hardware.copy_from_slice(&mac);
        }
    }

    fn v6(&mut self, frame: &mut Vec<u8>) {
        let mut payload = Vec::new();
        let mut first = None;
        let extensions = self.of(&[0, 0, 0, 0, 1, 2, 7, 8, 9]);
        let mut kinds: Vec<u8> = (0..extensions)
            .map(|_| self.of(&[0, 43, 44, 51, 60, 60, 60, 135, 139, 140]))
            .collect();
        let last = self.of(&[58_u8, 58, 58, 58, 6, 17, 17, 17, 59, 50]);
        kinds.push(last);
        for pair in kinds.windows(2) {
            let (kind, next) = (pair[0], pair[1]);
            let _: u8 = *first.get_or_insert(kind);
            let length = self.of(&[0_u8, 0, 0, 1, 3, 30]);
            match kind {
                44 => {
                    payload.extend([next, 0, 0, self.of(&[0, 1, 8]), 0, 0, 0, 1]);
                }
                51 => {
                    let count = (usize::from(length) + 2) * 4;
                    payload.extend([next, length]);
                    payload.extend(self.bytes(count - 2));
                }
                _ => {
                    let count = (usize::from(length) + 1) * 8;
                    payload.extend([next, length]);
                    payload.extend(self.bytes(count - 2));
                }
            }
        }
        if last == 58 {
            self.icmp(&mut payload);
        } else {
            let count = self.number(64);
            let mut rest = self.bytes(count);
            self.dhcp(&mut rest);
            payload.extend(rest);
        }
        let length = u16::try_from(payload.len()).unwrap();
        let length = self.of(&[length, length, length, length, 0, length / 2, length + 8]);
        frame.extend([0x86, 0xdd, self.of(&[0x60, 0x60, 0x60, 0x40]), 0, 0, 0]);
        frame.extend(length.to_be_bytes());
        frame.extend([first.unwrap_or(last), 255]);
        frame.extend(if self.one_in(5) {
            [0; 16]
        } else {
            self.of(&V6)
        });
        frame.extend(self.of(&V6));
        frame.extend(payload);
    }

    fn icmp(&mut self, payload: &mut Vec<u8>) {
        let kind = self.of(&[128_u8, 133, 134, 135, 135, 136, 136, 137, 141, 142, 143]);
        payload.extend([kind, 0, self.byte(), self.byte(), 0, 0, 0, 0]);
        let fixed = match kind {
            134 => 8,
            135 | 136 => {
                payload.extend(self.of(&V6));
                0
            }
            137 => 32,
            _ => 0,
        };
        payload.extend(self.bytes(fixed));
        for _ in 0..self.of(&[0_usize, 1, 1, 1, 2, 3, 15, 17]) {
            let option = self.of(&[1_u8, 2, 3, 5, 14]);
            let length = self.of(&[1_u8, 1, 1, 2, 4, 0, 40]);
            payload.extend([option, length]);
            payload.extend(self.mac());
            let rest = (usize::from(length) * 8).saturating_sub(8);
            payload.extend(self.bytes(rest));
        }
        let tail = self.of(&[0, 0, 0, 3, 7]);
        payload.extend(self.bytes(tail));
    }
}

/// The eBPF side: one port in a bpffs of the test's own.
struct Machine {
    port: Port,
    decide: SchedClassifier,
    dir: PathBuf,
}

impl Machine {
    fn new() -> Self {
        Self::with(Capacity::default())
    }

    fn with(capacity: Capacity) -> Self {
        // A mount namespace and a network namespace of this thread's own: nothing is left behind.
        unshare(CloneFlags::CLONE_NEWNS | CloneFlags::CLONE_NEWNET)
            .expect("needs root; run: cargo xtask test");
        let none: Option<&str> = None;
        mount(none, "/", none, MsFlags::MS_REC | MsFlags::MS_PRIVATE, none).unwrap();
        let dir = tempfile::tempdir().unwrap().keep();
        mount(Some("bpf"), &dir, Some("bpf"), MsFlags::empty(), none).unwrap();
        let entry = PortEntry {
            abi: 0,
            ifindex: 2,
            members: 0,
            mtu: 1500,
            mac: PARENT_MAC,
            mode: 0,
            flag: 0,
            bits: 0,
            identity: [2, 1, 2, 3],
        };
        let mut port = Port::create(&dir.join("port"), "lo", entry, capacity).unwrap();
        let v4 = V4.iter().map(|address| (IpAddr::from(*address), 32));
        let v6 = V6.iter().map(|address| (IpAddr::from(*address), 128));
        for ((address, len), owner) in v4.zip(OWNERS).chain(v6.zip(OWNERS)) {
            let address = IpNet::new(address, len).unwrap();
            port.set_owner(address, owner).unwrap();
        }
        let v4 = V4_PREFIXES.map(|(address, len, owner)| (IpAddr::from(address), len, owner));
        let v6 = V6_PREFIXES.map(|(address, len, owner)| (IpAddr::from(address), len, owner));
        for (address, len, owner) in v4.into_iter().chain(v6) {
            let prefix = IpNet::new(address, len).unwrap();
            port.set_owner(prefix, owner).unwrap();
        }
        Self {
            decide: port.load_decide().unwrap(),
            port,
            dir,
        }
    }

    fn set(&mut self, mode: Mode, flag: Flag, bits: u32) -> PortEntry {
        let mut entry = self.port.entry().unwrap();
        entry.mode = mode as u8;
        entry.flag = flag as u8;
        entry.bits = bits;
        self.port.set_entry(entry).unwrap();
        entry
    }

    /// What `decide` says; `sender` 0 is rx.
    fn decide(&self, frame: &[u8], sender: u32) -> Verdict {
        // struct __sk_buff: mark is word 2, cb words 12 to 16.
        let mut context = [0_u32; 48];
        context[2] = sender;
        let context: Vec<u8> = context.iter().flat_map(|word| word.to_ne_bytes()).collect();
        let mut out = vec![0; context.len()];
        let result = self
            .decide
            .test_run(TestRunOptions {
                data_in: Some(frame),
                ctx_in: Some(&context),
                ctx_out: Some(&mut out),
                repeat: 1,
                ..TestRunOptions::default()
            })
            .unwrap_or_else(|error| panic!("test run of {} bytes: {error}", frame.len()));
        assert_eq!(result.return_value, 0, "the program decided");
        let word = |n: usize| u32::from_ne_bytes(out[4 * n..4 * n + 4].try_into().unwrap());
        Verdict::from_bits(u64::from(word(12)) | u64::from(word(13)) << 32)
    }
}

impl Drop for Machine {
    fn drop(&mut self) {
        let _: nix::Result<()> = nix::mount::umount2(&self.dir, nix::mount::MntFlags::MNT_DETACH);
        let _: std::io::Result<()> = std::fs::remove_dir(&self.dir);
    }
}

/// Whether every kernel takes the frame for a test run.
fn can_be_run(frame: &[u8]) -> bool {
    if frame.len() > 3000 {
        return false;
    }
    match frame[12..14] {
        [0x08, 0x00] => frame.len() >= 14 + 20,
        [0x86, 0xdd] => frame.len() >= 14 + 40,
        _ => true,
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

/// The table in which the sender's addresses are those of `lo`, where test runs come in.
struct TableOfLo;

const LO: u32 = 1;

fn of_lo(owner: Owner) -> Owner {
    match owner.ifindex {
        SENDER => Owner {
            ifindex: LO,
            kind: OWNER_HERE,
        },
        _ => owner,
    }
}

impl Owners for TableOfLo {
    fn v4(&self, address: &[u8; 4]) -> Owner {
        of_lo(Table.v4(address))
    }

    fn v6(&self, address: &[u8; 16]) -> Owner {
        of_lo(Table.v6(address))
    }

    fn v4_prefix(&self, address: &[u8; 4]) -> Owner {
        of_lo(Table.v4_prefix(address))
    }

    fn v6_prefix(&self, address: &[u8; 16]) -> Owner {
        of_lo(Table.v6_prefix(address))
    }
}

fn put<const WORDS: usize>(frame: &mut [u8], answer: Option<Answer<WORDS>>) {
    let answer = answer.expect("a question has an answer");
    let bytes = answer.words.into_iter().flat_map(u64::to_le_bytes);
    for (place, byte) in frame.iter_mut().zip(bytes.take(answer.length as usize)) {
        *place = byte;
    }
}

/// What a program of the port answers to a frame, and makes of it.
fn run(port: &Port, name: &str, frame: &[u8]) -> (i32, Vec<u8>) {
    let program = SchedClassifier::from_pin(port.dir().join(name)).unwrap();
    let mut out = vec![0; 4096];
    let result = program
        .test_run(TestRunOptions {
            data_in: Some(frame),
            data_out: Some(&mut out),
            repeat: 1,
            ..TestRunOptions::default()
        })
        .unwrap_or_else(|error| panic!("{name}, {} bytes: {error}", frame.len()));
    out.truncate(usize::try_from(result.data_size_out).unwrap());
    (result.return_value.cast_signed(), out)
}

#[test]
#[ignore = "needs root: cargo xtask test"]
fn guests_are_heard_answered_and_addressed_as_the_native_build_says() {
    const NEXT: i32 = -1;
    const SHOT: i32 = 2;
    const REDIRECT: i32 = 7;
    let mut dice = Dice(std::process::id().into());
    let mut machine = Machine::new();
    machine.port.attach_device("lo", LO, true).unwrap();
    assert_eq!(machine.port.guest(LO).unwrap(), None);
    for address in [IpAddr::from(V4[1]), IpAddr::from(V6[1])] {
        machine
            .port
            .set_owner(address.into(), of_lo(OWNERS[1]))
            .unwrap();
    }
    let mut seen: HashMap<u8, u32> = HashMap::new();
    for mode in [Mode::L2, Mode::L3, Mode::L3s] {
        let port = machine.set(mode, Flag::Bridge, 0);
        for _ in 0..FRAMES / 20 {
            let mut frame = dice.frame();
            if !can_be_run(&frame) {
                continue;
            }
            // Half of them are the questions that a guest asks.
            if dice.one_in(2) {
                frame.truncate(0);
                frame.extend([[0xff; 6], FOREIGN_MAC].concat());
                if dice.one_in(2) {
                    dice.arp(&mut frame);
                } else {
                    let count = dice.of(&[0, 1, 1, 2]);
                    let length = 24 + 8 * count;
                    frame.extend([0x86, 0xdd, 0x60, 0, 0, 0, 0, length, 58, 255]);
                    frame.extend(dice.of(&[V6[1], V6[1], [0; 16]]));
                    frame.extend(V6[4]);
                    frame.extend([135, 0, 1, 2, 0, 0, 0, 0]);
                    frame.extend(dice.of(&V6));
                    for _ in 0..count {
                        frame.extend([dice.of(&[1, 1, 1, 2]), 1]);
                        frame.extend(FOREIGN_MAC);
                    }
                }
            }
            let native = Bytes {
                bytes: &frame,
                ..Bytes::default()
            };
            let question = guest::question(&port, LO, &native, &TableOfLo);
            *seen.entry(question as u8).or_default() += 1;
            let mut expected = frame.clone();
            match question {
                Question::None => {}
                Question::Arp => put(&mut expected, guest::arp_answer(&port, &native)),
                Question::Neighbour => {
                    put(&mut expected, guest::advertisement(&port, true, &native));
                }
                Question::Reachability => {
                    put(&mut expected, guest::advertisement(&port, false, &native));
                }
            }
            let code = if question == Question::None {
                NEXT
            } else {
                REDIRECT
            };
            let found = run(&machine.port, "guest_egress", &frame);
            assert_eq!(found, (code, expected), "{mode}: {frame:02x?}");

            let own = guest::own_mac(&native);
            if own != 0 {
                let heard = machine.port.guest(LO).unwrap().expect("heard");
                assert_eq!(heard, own.to_le_bytes()[..6], "{frame:02x?}");
            }
            let mut expected = frame.clone();
            if guest::is_for_one(&native)
                && let Some(guest) = machine.port.guest(LO).unwrap()
            {
                expected[..6].copy_from_slice(&guest);
            }
            // A frame of a test has come in by no interface.
            let code = if guest::is_of_host(0, &native) {
                SHOT
            } else {
                NEXT
            };
            let found = run(&machine.port, "guest_ingress", &frame);
            assert_eq!(found, (code, expected), "{mode}: {frame:02x?}");
        }
    }
    eprintln!("{seen:?}");
    for question in 0..=3 {
        assert!(
            seen.contains_key(&question),
            "a question of kind {question}"
        );
    }
}

#[test]
#[ignore = "needs root: cargo xtask test"]
fn a_full_table_refuses_one_address_and_keeps_the_others() {
    let mut machine = Machine::with(Capacity { owners: 5 });
    let owner = OWNERS[1];
    let address = |last| IpNet::from(IpAddr::from([10, 9, 9, last]));
    // Four are there.
    machine
        .port
        .set_owner(address(4), owner)
        .expect("room for a fifth");
    let before = machine.port.owners().unwrap();
    let error = machine.port.set_owner(address(5), owner).expect_err("full");
    assert_eq!(error.errno(), Some(libc::E2BIG), "{error}");
    assert_eq!(machine.port.owners().unwrap(), before, "nothing is lost");
    machine
        .port
        .set_owner(address(4), OWNERS[2])
        .expect("an owner can change");
    machine.port.remove_owner(address(4)).unwrap();
    machine
        .port
        .set_owner(address(5), owner)
        .expect("there is room again");
}

#[test]
#[ignore = "needs root: cargo xtask test"]
fn a_port_that_is_silenced_delivers_nothing_and_passes_nothing_on() {
    let mut machine = Machine::new();
    let all = machine.set(
        Mode::L3s,
        Flag::Bridge,
        PORT_ROUTED | PORT_MARK | PORT_ALLMULTI,
    );
    let mut frame = [[0; 6], PARENT_MAC].concat();
    frame.extend([0x08, 0, 0x45, 0, 0, 20, 0, 0, 0, 0, 64, 17, 0, 0]);
    frame.extend([10, 0, 0, 9]);
    let to = |address: [u8; 4]| [&frame[..], &address].concat();
    let (sibling, out) = (to(V4[2]), to(V4[3]));
    assert_eq!(machine.decide(&sibling, SENDER).action(), Action::Deliver);
    assert_eq!(machine.decide(&out, SENDER), Verdict::PASS);
    machine.port.silence().expect("silence");
    for frame in [sibling, out] {
        let verdict = machine.decide(&frame, SENDER);
        assert_eq!(verdict, Verdict::drop(DropReason::NotRouted));
    }
    let entry = PortEntry {
        bits: PORT_ALLMULTI,
        ..all
    };
    assert_eq!(machine.port.entry().expect("an entry"), entry);
}

#[test]
fn the_object_can_not_panic_and_says_its_licence() {
    let has = |needle: &[u8]| OBJECT.windows(needle.len()).any(|window| window == needle);
    assert!(!has(b"panick"), "no symbol of the object panics");
    assert!(
        has(b"Dual MIT/GPL"),
        "the kernel lends its helpers to GPL-compatible programs only"
    );
}
