//! `ci`: what a change must pass. `.ci/run` calls it.

use std::time::Instant;

use crate::run::{Result, note, step};
use crate::{bpf, lint, test, vm};

/// The kernel on whose driver a change is measured.
const KERNEL: &str = "6.12";

/// `cargo xtask ci`. Without QEMU or the kernel it fails. The tests come last, so that their summary is the last thing one reads.
pub(crate) fn ci() -> Result {
    timed("lint", lint::lint)?;
    timed("bpf --check", bpf::check)?;
    step(format!("cargo xtask vm {KERNEL}"));
    vm::referee(&vm::Options::brief(KERNEL))?;
    step("cargo xtask test");
    test::test(&test::Options::default())
}

fn timed(verb: &str, work: fn() -> Result) -> Result {
    step(format!("cargo xtask {verb}"));
    let start = Instant::now();
    work()?;
    note(format!("{verb}: ok, {} s", start.elapsed().as_secs()));
    Ok(())
}
