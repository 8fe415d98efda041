//! The project's chores, one verb each: `cargo xtask VERB`.
//!
//! Every check that a machine makes is a verb here, so that a person can make it too. A verb that
//! cannot do all of its work says in one line what is missing and how to get it, and fails; where
//! it can do part of it (`bpf --check` without the eBPF toolchain) it says which part it did.
#![forbid(unsafe_code)]

use std::process::ExitCode;

mod apt;
mod bpf;
mod ci;
mod demo;
mod deps;
mod fuzz;
mod layout;
mod lint;
mod rows;
mod run;
mod soak;
mod sources;
mod test;
mod toolchain;
mod vm;
mod workspace;

use run::{Result, fail};

const USAGE: &str = "\
usage: cargo xtask VERB

  bpf [--check]           build the eBPF object; --check: compare with the committed one
  test [--no-root] [--no-vm] [-- ARGS]
                          every test; ARGS go to the test runner
  lint                    format, clippy, rustdoc, crate arrows, differences, no_std, licences
  deps                    which crate may depend on which
  rows                    docs/kernel-differences.md and the tests that name its rows
  fuzz [TARGET...] [--time SECONDS]
                          coverage-guided fuzzing of frame, words, netlink, state; 600 s each
  soak [--seed N] [--time SECONDS] [--devices N] [--guests N] [--stop]
                          a rough life for many devices, checked all the time; by a seed again
  demo                    the HOWTO's worked example on this machine, in namespaces of its own
  vm KERNEL... [--jobs N] [-- FILTER...]
                          the behaviour tests on the driver and on ours, side by side;
                          KERNEL: 6.1, 6.12, ..., newest, here (ours on this machine)
  boot KERNEL [--icount] [--time SECONDS] [--memory MIB] [--share DIR] -- COMMAND [ARGS]
                          run a command under a Debian kernel that has the ipvlan driver
  ci                      what .ci/run runs: lint, bpf --check, vm 6.12, test";

fn main() -> ExitCode {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let args: Vec<&str> = args.iter().map(String::as_str).collect();
    match verb(&args) {
        Ok(code) => code,
        Err(error) => {
            eprintln!("xtask: {error}");
            ExitCode::FAILURE
        }
    }
}

fn verb(args: &[&str]) -> Result<ExitCode> {
    match args {
        ["bpf"] => bpf::build()?,
        ["bpf", "--check"] => bpf::check()?,
        ["test", rest @ ..] => test::test(&test::Options::parse(rest)?)?,
        ["lint"] => lint::lint()?,
        ["deps"] => deps::deps()?,
        ["rows"] => rows::rows()?,
        ["fuzz", rest @ ..] => fuzz::fuzz(&fuzz::Options::parse(rest)?)?,
        ["soak", rest @ ..] => soak::soak(rest)?,
        ["demo", rest @ ..] => return demo::demo(rest),
        ["vm", rest @ ..] => vm::referee(&vm::Options::parse(rest)?)?,
        ["boot", rest @ ..] => return vm::boot(&vm::Boot::parse(rest)?),
        // For `vm` alone: its half in the guest.
        ["inside", folder] => vm::inside(folder.as_ref())?,
        ["ci"] => ci::ci()?,
        ["help" | "-h" | "--help"] => println!("{USAGE}"),
        [] => return Err(fail(USAGE)),
        [other, ..] => return Err(fail(format!("no such verb or option: {other}\n{USAGE}"))),
    }
    Ok(ExitCode::SUCCESS)
}
