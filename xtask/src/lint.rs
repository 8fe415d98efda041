//! `lint`: everything about the sources that a machine can judge without running them.

use std::process::Command;

use crate::run::{Result, fail, note, read_quiet, run, step};
use crate::toolchain::{TARGET, Toolchain};
use crate::workspace::{self, Graph};
use crate::{bpf, deps, layout, rows};

type Check = fn() -> Result;

/// `cargo xtask lint`. Goes through all of it and names what failed at the end.
pub(crate) fn lint() -> Result {
    let checks: [(&str, Check); 8] = [
        ("format", format),
        ("clippy", clippy),
        ("documentation", documentation),
        ("crate arrows", deps::deps),
        ("differences from the driver", rows::rows),
        ("eBPF crates", ebpf),
        ("version of the layout", layout::layout),
        ("licences", licences),
    ];
    let mut failed = Vec::new();
    for (name, check) in checks {
        step(name);
        if let Err(error) = check() {
            note(error);
            failed.push(name);
        }
    }
    if failed.is_empty() {
        return Ok(());
    }
    Err(fail(format!("lint: {}: see above", failed.join(", "))))
}

fn host(cargo: &mut Command) -> &mut Command {
    cargo.args(["--workspace", "--exclude", bpf::PACKAGE])
}

fn format() -> Result {
    run(workspace::cargo().args(["fmt", "--all", "--check"]))
        .map_err(|error| fail(format!("{error}; run: cargo fmt --all")))
}

fn clippy() -> Result {
    let mut cargo = workspace::cargo();
    run(host(cargo.arg("clippy")).args(["--quiet", "--all-targets", "--", "-Dwarnings"]))
}

fn documentation() -> Result {
    let mut cargo = workspace::cargo();
    run(host(cargo.arg("doc"))
        .args(["--quiet", "--no-deps"])
        .env("RUSTDOCFLAGS", "-Dwarnings"))
}

/// The eBPF crate and what it shares with the host, for a target that has nothing but `core`.
fn ebpf() -> Result {
    let toolchain = match Toolchain::set_up() {
        Ok(toolchain) => toolchain,
        Err(why) => {
            note(format!(
                "NOT checked, no_std of abi and core neither: {why}"
            ));
            return Ok(());
        }
    };
    let graph = Graph::load()?;
    let mut cargo = toolchain.cargo(&bpf::flags(&toolchain, &graph)?)?;
    let _: &mut Command = cargo.args(["clippy", "--quiet", "--profile", "bpf", "--target", TARGET]);
    for package in graph
        .closure(bpf::PACKAGE)?
        .iter()
        .filter(|package| package.ours)
    {
        let _: &mut Command = cargo.args(["--package", &package.name]);
    }
    let target = workspace::root().join("target/bpf");
    run(cargo
        .args(["-Zbuild-std=core", "--target-dir"])
        .arg(target)
        .args(["--", "-Dwarnings"]))
}

fn licences() -> Result {
    if read_quiet(workspace::cargo().args(["deny", "--version"])).is_err() {
        note("NOT checked: no cargo-deny here (cargo install --locked cargo-deny)");
        return Ok(());
    }
    run(workspace::cargo().args([
        "deny",
        "--workspace",
        "check",
        "bans",
        "licenses",
        "sources",
    ]))
}
