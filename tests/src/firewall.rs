//! What a host may have in the way of frames, or count them with: nft rules, XDP.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::os::fd::{AsFd as _, OwnedFd};

use crate::ns::Ns;
use crate::sys;

/// Loads nft rules into a namespace. Each block ends with its line.
#[track_caller]
pub fn nft(ns: &Ns, rules: &str) {
    let _: String = ns.try_run(&["nft", &format!("{rules}\n")]).expect();
}

/// Takes all nft rules away.
#[track_caller]
pub fn nft_flush(ns: &Ns) {
    nft(ns, "flush ruleset");
}

/// The hooks of netfilter, in the order of [`Hooks::read`].
pub const HOOKS: [&str; 5] = ["prerouting", "input", "forward", "output", "postrouting"];

/// Counters of what passes the hooks of a namespace.
#[derive(Debug)]
pub struct Hooks<'ns> {
    ns: &'ns Ns,
}

impl<'ns> Hooks<'ns> {
    /// Counts from now on what `what` (an nft expression) says.
    #[track_caller]
    pub fn count(ns: &'ns Ns, what: &str) -> Self {
        let mut rules = String::from("table inet hooks {\n");
        for hook in HOOKS {
            writeln!(
                rules,
                "counter {hook} {{ }}\n\
                 chain on_{hook} {{ type filter hook {hook} priority -300; {what} counter name {hook}; }}"
            )
            .expect("a string");
        }
        rules.push('}');
        nft(ns, &rules);
        Self { ns }
    }

    /// Packets since the last call, by [`HOOKS`].
    #[track_caller]
    pub fn read(&self) -> [u32; 5] {
        let text = self.ns.read("nft reset counters table inet hooks");
        let words: Vec<&str> = text.split_whitespace().collect();
        // counter prerouting { packets 1 bytes 84 }
        let found: BTreeMap<&str, u32> = words
            .windows(5)
            .filter(|at| at[0] == "counter" && at[3] == "packets")
            .map(|at| (at[1], at[4].parse().expect("a number")))
            .collect();
        HOOKS.map(|hook| found[hook])
    }
}

/// An XDP program in generic mode that drops all that an interface receives, as long as this lives.
#[derive(Debug)]
pub struct XdpDrop(#[expect(dead_code, reason = "it is held, not used")] OwnedFd);

impl XdpDrop {
    /// At an interface of `ns`.
    #[track_caller]
    pub fn on(ns: &Ns, interface: &str) -> Self {
        let index = ns.index(interface);
        let program = sys::load_xdp_drop().expect("BPF_PROG_LOAD");
        let link = ns.enter(|| sys::attach_xdp(program.as_fd(), index));
        Self(link.expect("BPF_LINK_CREATE"))
    }
}
