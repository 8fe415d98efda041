//! Coverage-guided fuzzing of what reads bytes that others wrote.
//!
//! ```text
//! target    bytes from                      asked to keep
//! frame     a hostile namespace, the wire   core's: its tests/promises
//! words     a command line                  the grammar's: words.rs
//! netlink   the kernel's answers            the parsers': netlink.rs
//! state     pinned maps and link names      the plan's: `ipvlan_control::fuzz`
//! planted   (nobody)                        nothing: it holds a fault that must be found
//! ```
//!
//! A target is a function of bytes that panics where a promise is broken. `cargo xtask fuzz` builds
//! each into a program of libFuzzer's, which mutates its corpus and keeps what reaches new code; the
//! corpora (`corpus/TARGET`) and whatever broke something in the past (`crashes/TARGET`) are replayed
//! by the test in `tests/replay.rs`, without libFuzzer.
//!
//! It works with a stable compiler: the instrumentation is a pass of LLVM's own (`sancov-module`),
//! switched on by rustc's `-Cpasses`. There is no address sanitizer, which stable Rust cannot link; the
//! crates under test have no `unsafe` where these bytes come by.
#![forbid(unsafe_code)]

mod frame;
mod netlink;
mod words;

// One set of frames, one reading of what a frame shows, and one set of promises, for the tests of
// core and for us.
#[path = "../../crates/core/tests/frames/mod.rs"]
mod frames;
#[path = "../../crates/core/tests/promises/mod.rs"]
mod promises;

pub use frame::frame;
pub use ipvlan_control::fuzz::state;
pub use netlink::netlink;
pub use words::words;

/// A name and what it runs.
pub type Target = (&'static str, fn(&[u8]));

/// All that shall find nothing.
pub const TARGETS: [Target; 4] = [
    ("frame", frame),
    ("words", words),
    ("netlink", netlink),
    ("state", state),
];

/// Panics behind six comparisons of bytes: a search that is not guided by coverage would take
/// 2<sup>48</sup> tries.
///
/// # Panics
///
/// On bytes that begin with "ipv", 0xbeef as a number and a multiple of 17.
pub fn planted(data: &[u8]) {
    if let [b'i', b'p', b'v', high, low, number, ..] = *data
        && u16::from_be_bytes([high, low]) == 0xbeef
        && number > 0
        && number % 17 == 0
    {
        panic!("the planted fault");
    }
}
