//! Whether `ABI_VERSION` orders what was released: an object that differs from the last release's has a
//! higher one.

use std::fs;
use std::process::Command;

use crate::run::{On as _, Result, fail, note, read_quiet};
use crate::sources::OBJECT;
use crate::workspace;

const ABI: &str = "crates/abi/src/lib.rs";

/// Part of `cargo xtask lint`.
pub(crate) fn layout() -> Result {
    let root = workspace::root();
    let git = |words: &[&str]| read_quiet(Command::new("git").current_dir(&root).args(words));
    let tags = git(&[
        "tag",
        "--list",
        "v*",
        "--merged",
        "HEAD",
        "--sort=-version:refname",
    ])?;
    let Some(tag) = tags.lines().next() else {
        note("nothing was released yet");
        return Ok(());
    };
    if git(&["diff", "--name-only", tag, "--", OBJECT])?.is_empty() {
        return Ok(());
    }
    let then = version(&git(&["show", &format!("{tag}:{ABI}")])?)?;
    let now = version(&fs::read_to_string(root.join(ABI)).on(ABI)?)?;
    if now > then {
        return Ok(());
    }
    Err(fail(format!(
        "the eBPF object differs from that of {tag}, but ABI_VERSION is {now} and was {then}: raise it, \
         or what runs already is not taken over"
    )))
}

fn version(source: &str) -> Result<u32> {
    let number = |line: &str| {
        let rest = line.strip_prefix("pub const ABI_VERSION: u32 = ")?;
        rest.strip_suffix(';')?.parse().ok()
    };
    let found = source.lines().find_map(number);
    found.ok_or_else(|| fail(format!("{ABI} has no ABI_VERSION")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_version_is_read() {
        let source = "/// pub const ABI_VERSION: u32 = 1;\npub const ABI_VERSION: u32 = 7;\n";
        assert_eq!(version(source).ok(), Some(7));
        assert!(version("pub const ABI_VERSION: u32 = X;").is_err());
    }
}
