//! What the control plane may count on of a port and of the object.

use std::net::IpAddr;

use ipnet::IpNet;
use ipvlan_abi::{DropReason, Flag, Mode, PORT_ALLMULTI, PORT_MARK, PORT_ROUTED, PortEntry};
use ipvlan_core::{Action, Verdict};
use ipvlan_datapath_bpf::{Capacity, OBJECT};

use crate::machine::Machine;
use crate::{OWNERS, PARENT_MAC, SENDER, V4};

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
