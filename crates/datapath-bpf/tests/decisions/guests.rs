//! What is done for the guest behind a tap: questions answered, its MAC address heard and written.

use std::collections::HashMap;
use std::net::IpAddr;

use aya::programs::{SchedClassifier, TestRun as _, TestRunOptions};
use ipvlan_abi::{Flag, Mode, OWNER_HERE, Owner};
use ipvlan_core::Owners;
use ipvlan_core::frame::Bytes;
use ipvlan_core::guest::{self, Answer, Question};
use ipvlan_datapath_bpf::Port;

use crate::dice::Dice;
use crate::machine::{Machine, can_be_run};
use crate::{FOREIGN_MAC, FRAMES, OWNERS, SENDER, Table, V4, V6};

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
