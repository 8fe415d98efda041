//! Debian packages: installed by name, or unpacked into a folder without being installed.
//!
//! No address is written down anywhere: the mirror is the one that this machine's apt uses.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::run::{On, Result, fail, find, note, read, run};

/// Installs packages; says so first.
pub(crate) fn install(packages: &[&str]) -> Result {
    if packages.is_empty() {
        return Ok(());
    }
    let list = packages.join(" ");
    if find("apt-get").is_none() {
        return Err(fail(format!(
            "missing here, install with your package manager: {list}"
        )));
    }
    if !crate::test::is_root()? {
        return Err(fail(format!(
            "missing here, run: sudo apt-get install {list}"
        )));
    }
    note(format!("installing: {list}"));
    let apt = |args: &[&str]| {
        let mut apt = Command::new("apt-get");
        let _: &mut Command = apt
            .env("DEBIAN_FRONTEND", "noninteractive")
            .args(["-qq", "-o", "DPkg::Lock::Timeout=600"])
            .args(args);
        run(&mut apt)
    };
    let wanted = [&["install", "--yes", "--no-install-recommends"], packages].concat();
    // A new machine has no lists yet, an old one has stale ones.
    apt(&wanted).or_else(|_| apt(&["update"]).and_then(|()| apt(&wanted)))
}

/// The Debian mirror of this machine, without a slash at its end.
fn mirror() -> Result<String> {
    let mut files = vec![PathBuf::from("/etc/apt/sources.list")];
    if let Ok(folder) = fs::read_dir("/etc/apt/sources.list.d") {
        files.extend(folder.flatten().map(|entry| entry.path()));
    }
    files.sort();
    files
        .iter()
        .filter(|file| {
            file.extension()
                .is_some_and(|end| end == "list" || end == "sources")
        })
        .filter_map(|file| fs::read_to_string(file).ok())
        .find_map(|text| debian_address(&text))
        .ok_or_else(|| fail("no Debian mirror in this machine's apt sources"))
}

/// The first address in an apt source file that ends in `/debian`.
fn debian_address(text: &str) -> Option<String> {
    text.lines()
        .filter(|line| !line.trim_start().starts_with('#'))
        .flat_map(str::split_whitespace)
        .map(|word| word.trim_end_matches('/'))
        .find(|word| word.contains("://") && word.ends_with("/debian"))
        .map(str::to_owned)
}

/// An apt of its own, in a folder: its own lists, its own suites. Installs nothing.
pub(crate) struct Apt {
    folder: PathBuf,
}

impl Apt {
    /// `suites` are names such as `trixie-backports`; `bookworm-security` is found where it lives.
    pub(crate) fn new(folder: &Path, suites: &[&str]) -> Result<Self> {
        if find("apt-get").is_none() {
            return Err(fail("no apt-get here: this needs a Debian machine"));
        }
        let keyring = "/usr/share/keyrings/debian-archive-keyring.gpg";
        if !Path::new(keyring).exists() {
            return Err(fail("no Debian keys here: install debian-archive-keyring"));
        }
        let mirror = mirror()?;
        for below in ["lists/partial", "cache/archives/partial"] {
            fs::create_dir_all(folder.join(below)).on(folder)?;
        }
        let lines = suites.iter().map(|suite| {
            let at = if suite.ends_with("-security") {
                "-security"
            } else {
                ""
            };
            format!("deb [signed-by={keyring}] {mirror}{at} {suite} main\n")
        });
        let list = folder.join("sources.list");
        fs::write(&list, lines.collect::<String>()).on(&list)?;
        let apt = Self {
            folder: folder.into(),
        };
        run(apt.command("apt-get").arg("update"))
            .map_err(|_| fail("this machine's Debian mirror cannot be read"))?;
        Ok(apt)
    }

    fn command(&self, program: &str) -> Command {
        let at = |key: &str, below: &str| format!("-o{key}={}", self.folder.join(below).display());
        let mut command = Command::new(program);
        let _: &mut Command = command
            .current_dir(&self.folder)
            .arg(at("Dir::Etc::sourcelist", "sources.list"))
            .arg("-oDir::Etc::sourceparts=/dev/null")
            .arg("-oDir::Etc::preferencesparts=/dev/null")
            .arg(at("Dir::State::Lists", "lists"))
            .arg(at("Dir::Cache", "cache"))
            .args([
                "-oAPT::Sandbox::User=root",
                "-oAcquire::Languages=none",
                "-qq",
            ]);
        command
    }

    /// The versions of a package that can be had, newest first.
    pub(crate) fn versions(&self, package: &str) -> Result<Vec<String>> {
        let table = read(self.command("apt-cache").args(["madison", package]))?;
        let versions = table.lines().filter_map(|line| line.split('|').nth(1));
        Ok(versions.map(|version| version.trim().to_owned()).collect())
    }

    /// Downloads `package` or `package=version` and unpacks it below `into`.
    pub(crate) fn unpack(&self, package: &str, into: &Path) -> Result {
        let at = self.folder.join("deb");
        if at.exists() {
            fs::remove_dir_all(&at).on(&at)?;
        }
        fs::create_dir_all(&at).on(&at)?;
        run(self
            .command("apt-get")
            .current_dir(&at)
            .args(["download", package]))?;
        for file in fs::read_dir(&at).on(&at)?.flatten() {
            run(Command::new("dpkg-deb")
                .arg("--extract")
                .arg(file.path())
                .arg(into))?;
        }
        fs::remove_dir_all(&at).on(&at)
    }

    /// Names of packages that match a pattern, as apt-cache understands it.
    pub(crate) fn names(&self, pattern: &str) -> Result<Vec<String>> {
        let found = read(
            self.command("apt-cache")
                .args(["search", "--names-only", pattern]),
        )?;
        Ok(found
            .lines()
            .filter_map(|l| l.split_whitespace().next())
            .map(str::to_owned)
            .collect())
    }

    /// What a package depends on, directly.
    pub(crate) fn dependencies(&self, package: &str) -> Result<Vec<String>> {
        let found = read(self.command("apt-cache").args(["depends", package]))?;
        let names = found
            .lines()
            .filter_map(|line| line.trim().strip_prefix("Depends: "));
        Ok(names.map(str::to_owned).collect())
    }
}

#[cfg(test)]
mod tests {
    use super::debian_address;

    #[test]
    fn both_formats_of_apt_sources_name_the_mirror() {
        let old = "# deb http://old.example/debian x main\ndeb http://a.example/debian/ y main\n";
        assert_eq!(
            debian_address(old).as_deref(),
            Some("http://a.example/debian")
        );
        let new = "Types: deb\nURIs: http://a.example/debian-security http://b.example/debian\n";
        assert_eq!(
            debian_address(new).as_deref(),
            Some("http://b.example/debian")
        );
        assert_eq!(debian_address("URIs: http://a.example/ubuntu\n"), None);
    }
}
