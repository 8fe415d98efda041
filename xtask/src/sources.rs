//! What the eBPF object is made of: a hash of every file and setting that goes into it.
//!
//! The list lies beside the committed object. It lets a machine without the eBPF toolchain prove
//! that object and sources belong together; a rebuild proves more, and is what `bpf --check` does
//! where it can. Each line reads like sha256sum's output. Beside files there are entries for the
//! parts of the root manifest that the object depends on, and for the locked packages.

use std::fs;
use std::path::{Path, PathBuf};

use sha2::{Digest, Sha256};

use crate::run::{On, Result, fail};
use crate::workspace::{self, Graph};

pub(crate) const OBJECT: &str = "crates/datapath-bpf/object/ipvlan.bpf.o";
pub(crate) const RECORD: &str = "crates/datapath-bpf/object/ipvlan.bpf.sources";

/// The list, sorted by entry. The committed object is an entry too.
pub(crate) fn list(graph: &Graph, flags: &[&str]) -> Result<Vec<String>> {
    let root = workspace::root();
    let manifest = read(&root.join("Cargo.toml"))?;
    let lock = read(&root.join("Cargo.lock"))?;
    let mut entries = vec![(OBJECT.to_owned(), hash(&root.join(OBJECT))?)];
    let closure = graph.closure(crate::bpf::PACKAGE)?;
    for package in &closure {
        if package.ours {
            for file in files(&package.folder)? {
                let name = file
                    .strip_prefix(&root)
                    .unwrap_or(&file)
                    .display()
                    .to_string();
                entries.push((name, hash(&file)?));
            }
        } else {
            let name = format!("Cargo.lock {} {}", package.name, package.version);
            let sum = locked(&lock, &package.name, &package.version).ok_or_else(|| {
                fail(format!(
                    "{name}: no checksum; only registry packages may go into the object"
                ))
            })?;
            entries.push((name, sum.to_owned()));
        }
    }
    for header in ["[workspace.package]", "[profile.release]", "[profile.bpf]"] {
        let text = section(&manifest, header).join("\n");
        entries.push((format!("Cargo.toml {header}"), digest(text.as_bytes())));
    }
    // Versions are locked above; a feature is chosen here.
    for line in section(&manifest, "[workspace.dependencies]") {
        let name = line.split([' ', '=', '.']).next().unwrap_or_default();
        if closure.iter().any(|package| package.name == name) {
            let entry = format!("Cargo.toml [workspace.dependencies] {name}");
            entries.push((entry, digest(line.as_bytes())));
        }
    }
    entries.push(("flags".into(), digest(flags.join(" ").as_bytes())));
    entries.sort();
    entries.dedup();
    Ok(entries
        .into_iter()
        .map(|(name, sum)| format!("{sum}  {name}"))
        .collect())
}

/// The entries in which two lists differ.
pub(crate) fn differences<'a>(one: &[&'a str], other: &[&'a str]) -> Vec<&'a str> {
    let only_in = |these: &[&'a str], those: &[&'a str]| -> Vec<&'a str> {
        let only = these.iter().filter(|line| !those.contains(line));
        only.map(|line| line.split_once("  ").map_or(*line, |(_, name)| name))
            .collect()
    };
    let mut names = [only_in(one, other), only_in(other, one)].concat();
    names.sort_unstable();
    names.dedup();
    names
}

/// The manifest, the build script and the sources of a package.
fn files(package: &Path) -> Result<Vec<PathBuf>> {
    let mut files = vec![package.join("Cargo.toml")];
    let script = package.join("build.rs");
    if script.exists() {
        files.push(script);
    }
    let mut folders = vec![package.join("src")];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(&folder).on(&folder)? {
            let path = entry.on(&folder)?.path();
            if path.is_dir() {
                folders.push(path);
            } else if path.extension().is_some_and(|end| end == "rs") {
                files.push(path);
            }
        }
    }
    Ok(files)
}

fn read(file: &Path) -> Result<String> {
    fs::read_to_string(file).on(file)
}

fn hash(file: &Path) -> Result<String> {
    Ok(digest(&fs::read(file).on(file)?))
}

fn digest(bytes: &[u8]) -> String {
    Sha256::digest(bytes)
        .iter()
        .map(|byte| format!("{byte:02x}"))
        .collect()
}

/// The lines of a table of a manifest, without comments and empty lines.
fn section<'a>(manifest: &'a str, header: &str) -> Vec<&'a str> {
    manifest
        .lines()
        .map(str::trim)
        .skip_while(|line| *line != header)
        .skip(1)
        .take_while(|line| !line.starts_with('['))
        .filter(|line| !line.is_empty() && !line.starts_with('#'))
        .collect()
}

/// The checksum of a package in a lock file.
fn locked<'a>(lock: &'a str, name: &str, version: &str) -> Option<&'a str> {
    lock.split("[[package]]").find_map(|block| {
        let field = |key: &str| {
            let mut lines = block.lines();
            lines.find_map(|l| {
                l.strip_prefix(key)?
                    .strip_prefix(" = \"")?
                    .strip_suffix('"')
            })
        };
        let found = field("name") == Some(name) && field("version") == Some(version);
        found.then(|| field("checksum")).flatten()
    })
}

#[cfg(test)]
mod tests {
    use super::{differences, locked, section};

    #[test]
    fn a_section_ends_at_the_next_header() {
        let manifest = "[a]\nx = 1\n\n[b]\n# why\ny = 2\n[c]\nz = 3\n";
        assert_eq!(section(manifest, "[b]"), ["y = 2"]);
        assert!(section(manifest, "[d]").is_empty());
    }

    #[test]
    fn a_checksum_belongs_to_its_own_package() {
        let lock = "[[package]]\nname = \"a\"\nversion = \"1\"\n\n\
                    [[package]]\nname = \"b\"\nversion = \"1\"\nchecksum = \"c0\"\n";
        assert_eq!(locked(lock, "b", "1"), Some("c0"));
        assert_eq!(locked(lock, "a", "1"), None);
        assert_eq!(locked(lock, "b", "2"), None);
    }

    #[test]
    fn a_changed_an_added_and_a_removed_entry_differ() {
        let one = ["00  same", "01  changed", "02  removed"];
        let other = ["00  same", "ff  changed", "03  added"];
        assert_eq!(differences(&one, &other), ["added", "changed", "removed"]);
    }
}
