//! Floods, frames that nobody should send, and changes in the middle of all that.
//!
//! | file | what |
//! |---|---|
//! | `floods.rs` | what a flood leaves to the others |
//! | `changes.rs` | what changes or goes under load |
//! | `nonsense.rs` | frames that nobody should send |

#![expect(
    clippy::expect_used,
    reason = "clippy knows a test by its attribute, not the functions beside it"
)]

mod changes;
mod floods;
mod nonsense;

use std::net::Ipv4Addr;

use ipvlan_tests::packet::{Mac, ethernet, ethertype};
use ipvlan_tests::{Mode, Net, packet, prepare_for_l3s};

const FLAGS: [&str; 3] = ["bridge", "private", "vepa"];

/// Small datagrams to `destination`, so that there are as many as can be.
fn small(destination: Mac, source: Mac, from: Ipv4Addr, to: Ipv4Addr) -> Vec<u8> {
    ethernet(
        destination,
        source,
        ethertype::IPV4,
        &packet::udp4(from, to, 9, b"noise"),
    )
}

/// Everybody finds everybody, as if nothing had been.
#[track_caller]
fn assert_well(net: &Net, flag: &str, after: &str) {
    for ns in net.devices.iter().map(|dev| &dev.ns).chain([&net.lan]) {
        // What forged answers have taught them.
        ns.sh("ip neigh flush all");
    }
    for dev in &net.devices {
        for address in dev.addresses() {
            assert!(
                net.lan.reaches(&address),
                "{after}: the LAN reaches {address}"
            );
        }
        for address in ["10.1.0.254", "fd00::254"] {
            assert!(
                dev.ns.reaches(address),
                "{after}: {} reaches {address}",
                dev.name
            );
        }
    }
    if flag == "bridge" {
        for address in net.dev(1).addresses() {
            assert!(
                net.dev(0).ns.reaches(&address),
                "{after}: siblings: {address}"
            );
        }
    }
}

fn set_mode(net: &Net, mode: Mode, flag: &str) {
    if mode == Mode::L3s {
        prepare_for_l3s(&net.host);
    }
    let dev = net.dev(0);
    net.ip(
        &dev.ns,
        &format!("link set {} type ipvlan mode {mode} {flag}", dev.name),
    )
    .expect_quiet();
}
