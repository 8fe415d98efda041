//! What `ip` does not understand, `ipvlan` does not understand in the same words and with the same
//! exit status. Runs both; passes where there is no `ip`.
#![expect(
    clippy::expect_used,
    clippy::panic,
    reason = "clippy knows only #[test] functions as tests"
)]

use std::process::{Command, Output};

fn run(program: &str, line: &str) -> Option<Output> {
    Command::new(program)
        .args(line.split_whitespace())
        .output()
        .ok()
}

/// Standard error without the empty line that iproute2 puts after some messages.
fn words(output: &Output) -> String {
    let text = String::from_utf8_lossy(&output.stderr).replace("ip help", "ipvlan help");
    let text = text.replace("ip -help", "ipvlan -help");
    text.replace("ip link help", "ipvlan link help")
        .trim_end()
        .to_owned()
}

fn compare(line: &str) {
    let Some(theirs) = run("ip", line) else {
        eprintln!("skipped: no ip");
        return;
    };
    let ours = run(env!("CARGO_BIN_EXE_ipvlan"), line).expect("run ipvlan");
    assert_eq!(words(&ours), words(&theirs), "{line}");
    assert_eq!(ours.status.code(), theirs.status.code(), "{line}");
    assert_eq!(ours.stdout, theirs.stdout, "{line}");
}

#[test]
fn what_is_not_understood() {
    for line in [
        "foo",
        "link foo",
        "-foo link",
        "-color=foo link",
        "-n nope link show",
        "link add",
        "link add link",
        "link add link lo",
        "link add link lo name",
        "link add link lo name v0",
        "link add link lo name v0 type",
        "link add link lo name v0 mtu",
        "link add link lo name v0 mtu x type ipvlan",
        "link add link lo name v0 mtu 99999999999 type ipvlan",
        "link add link lo name v0 mtu 1 mtu 2 type ipvlan",
        "link add link lo name v0 txqlen x type ipvlan",
        "link add link lo name v0 tx 1 qlen 2 type ipvlan",
        "link add link lo name v0 index 0 type ipvlan",
        "link add link lo name v0 index x type ipvlan",
        "link add link lo name v0 index 7 index 7 type ipvlan",
        "link add link lo name v0 numtxqueues x type ipvlan",
        "link add link lo name v0 numtxqueues 1 numtx 1 type ipvlan",
        "link add link lo name v0 numrxqueues 1 numr 1 type ipvlan",
        "link add link lo name v0 netns",
        "link add link lo name v0 netns nope type ipvlan",
        "link add link lo name v0 address zz type ipvlan",
        "link add link lo name v0 address 02:00:00:00:00:100 type ipvlan",
        "link add link lo name v0 address 02:00:00:00:00: type ipvlan",
        "link add link lo name v0 name v1 type ipvlan",
        "link add link lo name v0 dev v1 type ipvlan",
        "link add link lo name a/b type ipvlan",
        "link add link lo name sixteen-bytes-xx type ipvlan",
        "link add link lo a/b type ipvlan",
        "link add link lo v0 v1 type ipvlan",
        "link add link lo dev v0 v1 type ipvlan",
        "link add link lo v0 dev v1 type ipvlan",
        "link add link lo name v0 type ipvlan mode",
        "link del",
        "link del dev",
        "link del a/b",
        "link d lo v0",
        "link set",
        "link set dev",
        "link set a/b type ipvlan",
        "link set lo type",
        "link set lo v0 type ipvlan",
        "link set lo type ipvlan mode",
        "link show dev",
        "link show type",
        "link show lo v0",
        "link show lo dev v0",
        "link show dev lo v0",
    ] {
        compare(line);
    }
}

#[test]
fn what_the_driver_s_own_words_are_not() {
    for line in [
        "link add link lo name v0 type ipvlan foo",
        "link add link lo name v0 type ipvlan bridge private",
        "link add link lo name v0 type ipvlan p p",
        "link set lo type ipvlan mtu 1500",
    ] {
        let Some(theirs) = run("ip", line) else {
            return;
        };
        let ours = run(env!("CARGO_BIN_EXE_ipvlan"), line).expect("run ipvlan");
        // The usage after it is in words of our own.
        let first = |output: &Output| words(output).lines().next().map(str::to_owned);
        assert_eq!(first(&ours), first(&theirs), "{line}");
        assert_eq!(ours.status.code(), theirs.status.code(), "{line}");
    }
    for line in [
        "link set lo type ipvlan mode l4",
        "link add link lo v0 type ipvlan mode x",
    ] {
        let Some(theirs) = run("ip", line) else {
            return;
        };
        let ours = run(env!("CARGO_BIN_EXE_ipvlan"), line).expect("run ipvlan");
        let start = "Error: argument of \"mode\" must be either \"l2\"";
        assert!(words(&ours).starts_with(start), "{line}");
        assert!(words(&theirs).starts_with(start), "{line}");
        assert_eq!(ours.status.code(), theirs.status.code(), "{line}");
    }
}

#[test]
fn help_that_was_asked_for_goes_to_standard_output() {
    for line in [
        "help",
        "-h",
        "--help",
        "link help",
        "link help ipvlan",
        "stats help",
        "agent help",
    ] {
        let ours = run(env!("CARGO_BIN_EXE_ipvlan"), line).expect("run ipvlan");
        assert_eq!(ours.status.code(), Some(0), "{line}");
        assert!(
            String::from_utf8_lossy(&ours.stdout).contains("Usage: "),
            "{line}"
        );
        assert!(ours.stderr.is_empty(), "{line}");
    }
    let ours = run(env!("CARGO_BIN_EXE_ipvlan"), "").expect("run ipvlan");
    assert_eq!(ours.status.code(), Some(255));
    assert!(ours.stdout.is_empty(), "nothing was asked for");
    assert!(String::from_utf8_lossy(&ours.stderr).contains("Usage: "));
}

#[test]
fn a_reader_that_goes_away_is_no_error() {
    let program = env!("CARGO_BIN_EXE_ipvlan");
    // The reader ends before the writer begins.
    let script = format!("(sleep 0.2; {program} help; echo $? >&2) | true");
    let output = Command::new("sh")
        .args(["-c", &script])
        .output()
        .unwrap_or_else(|error| panic!("sh: {error}"));
    assert_eq!(String::from_utf8_lossy(&output.stderr), "0\n");
}
