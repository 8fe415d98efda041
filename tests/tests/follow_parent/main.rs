//! What happens to the parent happens to its devices.
//!
//! | file | what happens |
//! |---|---|
//! | `changes.rs` | it gets another state, MAC address, MTU or name, or is deleted |
//! | `moves.rs` | it goes to another namespace |

mod changes;
mod moves;

use ipvlan_tests::{Dev, Net, PATIENCE, differs, eventually, kernel_is_since};

/// Waits until all devices have a carrier, or none has.
#[track_caller]
fn carrier_becomes(net: &Net, wanted: bool, why: &str) {
    for dev in &net.devices {
        let has = || dev.ns.link(&dev.name).has_carrier() == wanted;
        assert!(
            eventually(PATIENCE, has),
            "{}: {}: {why}",
            net.mode,
            dev.name
        );
    }
}

/// Whether devices keep their carrier when somebody sets their parent down.
fn keeps_carrier() -> bool {
    differs("parent-down", false, !kernel_is_since(6, 10))
}

/// All that worked at the start works.
#[track_caller]
fn all_works(net: &Net, why: &str) {
    for dev in &net.devices {
        for address in dev.addresses() {
            assert!(
                net.lan.reaches(&address),
                "{}: the LAN reaches {address} {why}",
                net.mode
            );
        }
        assert!(
            dev.ns.reaches("10.1.0.254"),
            "{}: {} reaches the LAN {why}",
            net.mode,
            dev.name
        );
    }
    let [first, last] = [&net.devices[0], &net.devices[net.devices.len() - 1]];
    for address in last.addresses() {
        assert!(first.ns.reaches(&address), "{}: siblings {why}", net.mode);
    }
}

/// What each device was given by the stack, and by somebody else.
fn addresses6(net: &Net) -> Vec<Vec<String>> {
    let of = |dev: &Dev| {
        let text = dev.ns.read(&format!("ip -6 -o addr show dev {}", dev.name));
        let mut all: Vec<String> = text
            .split_whitespace()
            .skip_while(|word| *word != "inet6")
            .filter(|word| word.contains("::"))
            .map(str::to_owned)
            .collect();
        all.sort();
        all
    };
    net.devices.iter().map(of).collect()
}

/// Routes in each device's namespace, which a carrier that comes and goes may take away.
fn routes(net: &Net) -> Vec<Vec<String>> {
    let of = |dev: &Dev| {
        let text = dev.ns.read("ip route show") + &dev.ns.read("ip -6 route show");
        let mut all: Vec<String> = text
            .lines()
            .filter(|line| !line.contains("fe80"))
            .map(|line| line.replace(" linkdown", "").trim().to_owned())
            .collect();
        all.sort();
        all
    };
    net.devices.iter().map(of).collect()
}
