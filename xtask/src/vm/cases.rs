//! Which cases there are: the tests of the package `ipvlan-tests` that say how a device behaves.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::Value;

use crate::run::{On, Result, fail, read, run};
use crate::workspace::{self, Graph};

/// Files (or folders) of tests that are about our program and have no counterpart in the driver. One
/// that is not named here is compared.
pub(super) const NOT_COMPARED: &[(&str, &str)] = &[
    (
        "agent",
        "the agent, the state in the bpffs, and the verbs of our program that use them",
    ),
    ("cli", "the words and the JSON of the program `ipvlan`"),
    (
        "drops",
        "`ipvlan stats`, drops by device and reason (row `drops`)",
    ),
    ("grants", "what is given by hand (`ipvlan addr`)"),
    (
        "guests",
        "virtual machines behind taps: a machine in a machine takes minutes, and the driver's guests need \
         the parent's MAC address",
    ),
    (
        "ipvtap",
        "taps that are opened by name, with guests that have a MAC address of their own",
    ),
    (
        "learning",
        "addresses that are learnt of guests behind taps (row `learning`)",
    ),
    ("many", "how our own state and cost grow with the devices"),
    (
        "prefixes",
        "addresses and prefixes given by hand that are not on the device (row `by-hand`)",
    ),
    (
        "rough",
        "calls, agents and machines of ours that are killed halfway",
    ),
    (
        "upgrade",
        "what another version of our program has left running",
    ),
];

/// What is to be run.
pub(super) struct Cases {
    /// File and test, sorted.
    pub(super) all: Vec<Case>,
    programs: Vec<(String, PathBuf)>,
    ipvlan: PathBuf,
}

/// A test, by its path of modules, and the file or folder in `tests/tests` that it is in.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Case {
    pub(super) file: String,
    pub(super) test: String,
}

impl Case {
    /// The inverse of [`Self::name`].
    pub(super) fn parse(name: &str) -> Option<Self> {
        let (file, test) = name.split_once("::")?;
        Some(Self {
            file: file.into(),
            test: test.into(),
        })
    }

    /// `file::test`
    pub(super) fn name(&self) -> String {
        format!("{}::{}", self.file, self.test)
    }
}

impl Cases {
    /// Builds the tests and the program, and finds the cases whose name has one of `filters` in it;
    /// all of them if there is none.
    pub(super) fn find(filters: &[String]) -> Result<Self> {
        // Interpreted, the program without optimisation takes 1.1 s to read the kernel's types and to
        // load the object, for each namespace of a test; with it 0.1 s.
        let release = ["build", "--quiet", "--release", "--package", "ipvlan"];
        run(workspace::cargo().args(release))?;
        let built = read(workspace::cargo().args([
            "test",
            "--package=ipvlan-tests",
            "--no-run",
            "--message-format=json-render-diagnostics",
        ]))?;
        let mut programs = executables(&built);
        programs.sort();
        for (file, _) in NOT_COMPARED {
            if !programs.iter().any(|(name, _)| name == file) {
                return Err(fail(format!(
                    "no {file} in tests/tests: take it out of NOT_COMPARED in xtask"
                )));
            }
        }
        programs.retain(|(name, _)| !NOT_COMPARED.iter().any(|(file, _)| file == name));
        let mut all = Vec::new();
        for (file, program) in &programs {
            let listed = read(Command::new(program).args(["--list", "--format=terse"]))?;
            all.extend(tests(&listed).map(|test| Case {
                file: file.clone(),
                test: test.into(),
            }));
        }
        all.retain(|case| wanted(&case.name(), filters));
        all.sort();
        if all.is_empty() {
            return Err(fail(format!(
                "no case is called {} (a command in a VM: cargo xtask boot)",
                filters.join(" or ")
            )));
        }
        Ok(Self {
            all,
            programs,
            ipvlan: Graph::load()?.target.join("release/ipvlan"),
        })
    }

    /// Puts the programs into a folder, so that a build that runs meanwhile does not change them.
    pub(super) fn put(&self, into: &Path) -> Result {
        fs::create_dir_all(into).on(into)?;
        let xtask = std::env::current_exe().on("this program")?;
        let more = [("ipvlan", &self.ipvlan), ("xtask", &xtask)];
        let programs = self.programs.iter().map(|(name, file)| (&**name, file));
        for (name, file) in programs.chain(more) {
            let place = into.join(name);
            let linked = fs::hard_link(file, &place);
            linked
                .or_else(|_| fs::copy(file, &place).map(drop))
                .on(file)?;
        }
        Ok(())
    }
}

fn wanted(case: &str, filters: &[String]) -> bool {
    filters.is_empty() || filters.iter().any(|filter| case.contains(&**filter))
}

/// The integration tests among the artifacts that cargo has told of, by name.
fn executables(messages: &str) -> Vec<(String, PathBuf)> {
    let messages = messages
        .lines()
        .filter_map(|line| serde_json::from_str::<Value>(line).ok());
    messages
        .filter(|message| message["target"]["kind"][0] == "test")
        .filter_map(|message| {
            let name = message["target"]["name"].as_str()?;
            Some((name.into(), message["executable"].as_str()?.into()))
        })
        .collect()
}

/// The names in what a test program answers to `--list --format=terse`.
fn tests(listed: &str) -> impl Iterator<Item = &str> {
    listed
        .lines()
        .filter_map(|line| line.strip_suffix(": test"))
}

#[cfg(test)]
mod tests {
    use super::{Case, executables, tests, wanted};

    #[test]
    fn cargo_names_the_integration_tests() {
        let messages = r#"
            {"reason":"compiler-artifact","target":{"kind":["lib"],"name":"ipvlan_tests"},"executable":"/l"}
            {"reason":"compiler-artifact","target":{"kind":["test"],"name":"flags"},"executable":"/t/flags-1"}
            {"reason":"compiler-artifact","target":{"kind":["lib"],"name":"libc"},"executable":null}
            {"reason":"build-finished","success":true}
            something else"#;
        assert_eq!(
            executables(messages),
            [("flags".into(), "/t/flags-1".into())]
        );
    }

    #[test]
    fn a_test_program_lists_its_tests() {
        let listed = "one: test\nin::two: test\nthree: benchmark\n";
        assert_eq!(tests(listed).collect::<Vec<_>>(), ["one", "in::two"]);
    }

    #[test]
    fn a_filter_is_a_part_of_file_and_test() {
        let filters = |words: &[&str]| words.iter().map(|&word| word.into()).collect::<Vec<_>>();
        assert!(wanted("flags::vepa_hairpins", &[]));
        for filter in ["flags", "flags::vepa", "hairpin"] {
            assert!(
                wanted("flags::vepa_hairpins", &filters(&["x", filter])),
                "{filter}"
            );
        }
        assert!(!wanted(
            "flags::vepa_hairpins",
            &filters(&["mtu", "vepa::"])
        ));
        let case = Case::parse("flags::in::two");
        assert_eq!(case.map(|case| case.test).as_deref(), Some("in::two"));
    }
}
