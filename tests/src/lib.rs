//! The fixture of the privileged tests: a LAN with a router, a parent on it, and devices in
//! namespaces of their own, all made for one test and gone after it.
//!
//! ```text
//!   namespace …-lan                 …-host                    …-ns0, …-ns1, …
//!   lan0 10.1.0.254, fd00::254 ──── eth0 10.1.0.1, fd00::1 ── ipvl0 10.1.0.10 (l2) 10.2.0.1 (l3)
//!   the router, and the wire:       the parent                      fd00::10       fd02:0::1
//!   what it hears is on the LAN
//! ```
//!
//! The tests want root, and the program `ipvlan`: `cargo xtask test` builds it first. The same
//! behaviour tests run against the kernel's own driver, where there is one, with
//! `IPVLAN_TEST_BACKEND=kernel`; it is the oracle.
//!
//! A test enters namespaces by thread ([`Ns::enter`]), never by `ip netns exec`, which would hide
//! the bpffs. Everything that a test starts carries [`MARK`] in its environment; whatever still
//! runs with it after the test is a leak, and so is anything left in the bpffs.

#![deny(unsafe_code)]
#![expect(
    clippy::expect_used,
    reason = "a fixture that fails is a test that fails, and says so by its panic"
)]

pub mod container;
pub mod device;
pub mod dice;
pub mod firewall;
pub mod guest;
pub mod load;
pub mod machine;
pub mod ns;
pub mod older;
pub mod packet;
pub mod places;
pub mod process;
pub mod sniff;
#[expect(
    unsafe_code,
    reason = "packet sockets: nix has neither their address nor their auxdata"
)]
mod sys;
pub mod tap;
mod topology;
pub mod traffic;
pub mod wire;

use std::time::{Duration, Instant};

pub use container::Container;
pub use device::{Backend, Dev, Ipvlan, differs, kernel_is_since};
pub use dice::Dice;
pub use guest::Guest;
pub use machine::Machine;
pub use ns::{Done, Ns};
pub use places::{Found, Heard, Places};
pub use process::{MARK, Process};
pub use sniff::{Seen, Sniffer};
pub use topology::{
    Builder, HOST4, HOST6, LAN4, LAN6, Mode, Net, cable, prepare_for_l3s, require_root,
};

/// How long anything may take that happens by itself, such as the agent following an address. A
/// busy machine with two processors needs a fraction of it.
pub const PATIENCE: Duration = Duration::from_secs(10);

/// Waits until `condition` holds; false if it does not within `timeout`.
#[must_use]
pub fn eventually(timeout: Duration, mut condition: impl FnMut() -> bool) -> bool {
    let end = Instant::now() + timeout;
    loop {
        if condition() {
            return true;
        }
        if Instant::now() >= end {
            return false;
        }
        std::thread::sleep(Duration::from_millis(20));
    }
}
