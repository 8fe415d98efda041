//! `test`: every test there is.
//!
//! Host tests run anywhere. Privileged tests make namespaces and load eBPF: all of the package
//! `ipvlan-tests`, and what is marked `#[ignore]` in the other crates. Tests that boot a virtual
//! machine have `in_vm` in their path (a module of that name, say). Whoever leaves some out is told
//! how many. Those machines are guests behind taps, and boot what `$IPVLAN_GUEST_KERNEL` and
//! `$IPVLAN_GUEST_INITRAMFS` name.
//!
//! cargo-nextest runs each test in a process of its own and is used where it is installed; plain
//! `cargo test` does too. Tests find the program in `$IPVLAN_BIN`.

use std::process::Command;

use crate::apt;
use crate::run::{On, Result, fail, find, note, read, read_quiet, run, step};
use crate::vm::Guest;
use crate::workspace::{self, Graph};

const PRIVILEGED: &str = "ipvlan-tests";
const IN_VM: &str = "in_vm";

/// What the privileged tests call, and the Debian packages that have it.
const TOOLS: &[(&str, &str)] = &[
    ("ip", "iproute2"),
    ("ping", "iputils-ping"),
    ("arping", "iputils-arping"),
    ("iperf3", "iperf3"),
    ("tcpdump", "tcpdump"),
    ("socat", "socat"),
    ("ethtool", "ethtool"),
    ("jq", "jq"),
    ("nft", "nftables"),
    ("udhcpc", "udhcpc"),
    ("udhcpd", "udhcpd"),
    ("dhclient", "isc-dhcp-client"),
    ("dhcpcd", "dhcpcd-base"),
    ("dnsmasq", "dnsmasq-base"),
    ("radvd", "radvd"),
    ("nsenter", "util-linux"),
];

/// What a root user may lack inside a container, as bits of `CapEff`.
const CAPABILITIES: &[(u32, &str)] = &[
    (12, "CAP_NET_ADMIN"),
    (21, "CAP_SYS_ADMIN"),
    (38, "CAP_PERFMON"),
    (39, "CAP_BPF"),
];

/// What the user asked for.
#[derive(Default)]
pub(crate) struct Options {
    no_root: bool,
    no_vm: bool,
    args: Vec<String>,
}

impl Options {
    pub(crate) fn parse(args: &[&str]) -> Result<Self> {
        let mut options = Self::default();
        let mut args = args.iter();
        while let Some(&arg) = args.next() {
            match arg {
                "--no-root" => options.no_root = true,
                "--no-vm" => options.no_vm = true,
                "--" => options.args = args.by_ref().map(|&arg| arg.into()).collect(),
                _ => {
                    return Err(fail(format!(
                        "test: unexpected {arg}; usage: cargo xtask test [--no-root] [--no-vm] [-- ARGS]"
                    )));
                }
            }
        }
        Ok(options)
    }
}

/// `cargo xtask test`
pub(crate) fn test(options: &Options) -> Result {
    if !options.no_root {
        privileges()?;
        tools()?;
    }
    run(workspace::cargo().args(["build", "--package", "ipvlan"]))?;
    let nextest = read_quiet(workspace::cargo().args(["nextest", "--version"])).is_ok();
    if !nextest {
        note("no cargo-nextest here, using cargo test (cargo install --locked cargo-nextest)");
    }
    step("examples in the documentation");
    run(hosts(workspace::cargo().args(["test", "--quiet", "--doc"])))?;

    step("tests");
    let mut left_out = Vec::new();
    if options.no_root {
        let ignored = count(&["--ignored"], hosts)?;
        let all = count(&[], |cargo| cargo.args(["--package", PRIVILEGED]))?;
        left_out.push(format!(
            "--no-root leaves out {} privileged tests",
            ignored + all
        ));
    } else if options.no_vm {
        let tests = count(&[IN_VM], everything)?;
        left_out.push(format!(
            "--no-vm leaves out {tests} tests that boot a virtual machine"
        ));
    }
    for line in &left_out {
        note(line);
    }
    let mut cargo = workspace::cargo();
    let _: &mut Command = cargo.env("IPVLAN_BIN", Graph::load()?.target.join("debug/ipvlan"));
    if !options.no_root && !options.no_vm {
        let Guest { kernel, initramfs } = Guest::get()?;
        let _: &mut Command = cargo
            .env("IPVLAN_GUEST_KERNEL", kernel)
            .env("IPVLAN_GUEST_INITRAMFS", initramfs);
    }
    let _: &mut Command = if nextest {
        cargo.args(["nextest", "run", "--no-fail-fast"])
    } else {
        cargo.args(["test", "--no-fail-fast", "--lib", "--bins", "--tests"])
    };
    let _: &mut Command = if options.no_root {
        hosts(&mut cargo)
    } else {
        everything(&mut cargo)
    };
    // Both runners take a test harness's own arguments after this.
    let _: &mut Command = cargo.arg("--");
    if !options.no_root {
        let _: &mut Command = cargo.arg("--include-ignored");
    }
    if !nextest {
        let _: &mut Command = cargo.arg("--test-threads=4");
    }
    if options.no_vm {
        let _: &mut Command = cargo.args(["--skip", IN_VM]);
    }
    run(cargo.args(&options.args))
}

fn everything(cargo: &mut Command) -> &mut Command {
    cargo.args(["--workspace", "--exclude", crate::bpf::PACKAGE])
}

fn hosts(cargo: &mut Command) -> &mut Command {
    everything(cargo).args(["--exclude", PRIVILEGED])
}

/// How many tests `cargo test` knows under these harness arguments.
fn count(harness: &[&str], select: impl FnOnce(&mut Command) -> &mut Command) -> Result<usize> {
    let mut cargo = workspace::cargo();
    let _: &mut Command = cargo.args(["test", "--quiet", "--lib", "--bins", "--tests"]);
    let listed = read(select(&mut cargo).args(["--", "--list"]).args(harness))?;
    Ok(listed
        .lines()
        .filter(|line| line.ends_with(": test"))
        .count())
}

/// A field of what the kernel says of this process.
fn status(field: &str) -> Result<String> {
    let file = "/proc/self/status";
    let text = std::fs::read_to_string(file).on(file)?;
    let found = text
        .lines()
        .find_map(|line| line.strip_prefix(field)?.strip_prefix(':'));
    found
        .map(|value| value.trim().into())
        .ok_or_else(|| fail(format!("{file}: no {field}")))
}

pub(crate) fn is_root() -> Result<bool> {
    Ok(status("Uid")?.split_whitespace().nth(1) == Some("0"))
}

pub(crate) fn privileges() -> Result {
    if !is_root()? {
        return Err(fail(
            "the tests make namespaces and load eBPF: run `sudo -E env PATH=\"$PATH\" cargo xtask \
             test`, or `cargo xtask test --no-root` for the rest",
        ));
    }
    let held = u64::from_str_radix(&status("CapEff")?, 16).unwrap_or_default();
    let missing = CAPABILITIES.iter().filter(|(bit, _)| held >> bit & 1 == 0);
    let missing: Vec<&str> = missing.map(|(_, name)| *name).collect();
    if missing.is_empty() {
        return Ok(());
    }
    Err(fail(format!(
        "this container's root lacks {}: start it privileged, or use --no-root",
        missing.join(", ")
    )))
}

pub(crate) fn tools() -> Result {
    let missing = TOOLS.iter().filter(|(tool, _)| find(tool).is_none());
    let packages: Vec<&str> = missing.map(|(_, package)| *package).collect();
    apt::install(&packages)
}

#[cfg(test)]
mod tests {
    use super::Options;

    #[test]
    fn what_follows_two_dashes_is_for_the_runner() {
        let options = Options::parse(&["--no-vm", "--", "--no-root", "l2"]);
        let Ok(options) = options else {
            panic!("valid options")
        };
        assert!(options.no_vm && !options.no_root);
        assert_eq!(options.args, ["--no-root", "l2"]);
        assert!(Options::parse(&["l2"]).is_err());
    }
}
