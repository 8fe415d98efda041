//! Replays the corpora and whatever broke something in the past. `cargo xtask fuzz` makes them.
#![expect(
    clippy::expect_used,
    reason = "without its files there is nothing to replay"
)]

use std::fs;
use std::panic::catch_unwind;
use std::path::{Path, PathBuf};

use ipvlan_fuzz::{TARGETS, planted};

fn files(folder: &str, target: &str) -> Vec<PathBuf> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR"))
        .join(folder)
        .join(target);
    let Ok(list) = fs::read_dir(folder) else {
        return Vec::new();
    };
    let mut files: Vec<_> = list.map(|file| file.expect("a file").path()).collect();
    files.sort();
    files
}

/// Says which file it is that breaks something.
fn replay(folder: &str) -> usize {
    let mut count = 0;
    for (name, target) in TARGETS {
        for file in files(folder, name) {
            let bytes = fs::read(&file).expect("readable");
            let outcome = catch_unwind(|| target(&bytes));
            assert!(outcome.is_ok(), "{name} panics on {}", file.display());
            count += 1;
        }
    }
    count
}

#[test]
fn what_reached_new_code_breaks_nothing() {
    assert!(replay("corpus") > 0, "there is a corpus");
    for (name, _) in TARGETS {
        assert!(!files("corpus", name).is_empty(), "of {name}, too");
    }
}

#[test]
fn what_broke_something_in_the_past_does_so_no_more() {
    let _: usize = replay("crashes");
}

#[test]
fn nothing_at_all_breaks_nothing() {
    for (_, target) in TARGETS {
        target(&[]);
    }
}

#[test]
fn the_planted_fault_is_one() {
    planted(b"ipv\xbe\xef\x10");
    assert!(catch_unwind(|| planted(b"ipv\xbe\xef\x11")).is_err());
}
