//! A short life, the same one each time.

use std::process::Command;

/// Marked for who has no root.
#[test]
#[ignore = "makes network namespaces and needs root: `cargo xtask test`"]
fn a_short_rough_life_goes_well() {
    let done = Command::new(env!("CARGO_BIN_EXE_ipvlan-soak"))
        .args(["--seed", "1", "--time", "20", "--devices", "8"])
        .output();
    let done = done.unwrap_or_else(|error| panic!("ipvlan-soak: {error}"));
    let said = String::from_utf8_lossy(&done.stdout);
    let complained = String::from_utf8_lossy(&done.stderr);
    assert!(done.status.success(), "{said}{complained}");
    assert!(said.contains("findings: 0"), "{said}");
}

#[test]
fn the_same_seed_prints_the_same_operations() {
    let script = |seed: &str| {
        let done = Command::new(env!("CARGO_BIN_EXE_ipvlan-soak"))
            .args(["--seed", seed, "--script", "3"])
            .output();
        let done = done.unwrap_or_else(|error| panic!("ipvlan-soak: {error}"));
        assert!(done.status.success(), "{done:?}");
        done.stdout
    };
    assert_eq!(script("5"), script("5"));
    assert_ne!(script("5"), script("6"));
}
