//! Plays a list of cases, in the guest or on this machine.
//!
//! Each test is a process of its own, as under nextest: so it has a time limit of its own, one that
//! dies takes no other with it, and what it says is its own.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::fs::{self, File};
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Instant;

use super::answer::{Answer, Backend, Outcome};
use super::cases::Case;
use crate::run::{On, Result, fail, note};

/// Seconds that a test may take. Interpreted, on a machine busy with other work, 145 were seen.
const LIMIT: u64 = 300;

/// What the tests use and a kernel may have as modules; those that it does not have are no loss
/// here: a test that wants one says so.
const MODULES: &str = "ipvlan ipvtap veth macvlan bridge bonding tun dummy 8021q vxlan vrf nf_tables \
                       nf_conntrack nft_nat nft_masq nft_chain_nat nft_ct nft_reject_inet \
                       sch_ingress cls_bpf cls_flower cls_matchall act_gact act_mirred";

/// What is to be played, and how. It reaches the guest as a file, in the folder that gets the
/// answers.
pub(super) struct Plan {
    /// What the kernel is called, in messages.
    pub(super) kernel: String,
    /// How many tests run at once.
    pub(super) jobs: usize,
    /// Where the test programs are, and `ipvlan`.
    pub(super) programs: PathBuf,
    /// The folder that the tests run in.
    pub(super) here: PathBuf,
    pub(super) tests: Vec<(Backend, Case)>,
}

impl Plan {
    pub(super) fn write(&self, folder: &Path) -> Result {
        let mut text = format!(
            "{}\n{}\n{}\n{}\n",
            self.kernel,
            self.jobs,
            self.programs.display(),
            self.here.display()
        );
        for (backend, case) in &self.tests {
            let _: std::fmt::Result = writeln!(text, "{} {}", backend.name(), case.name());
        }
        let file = folder.join("plan");
        fs::write(&file, text).on(&file)
    }

    fn read(text: &str) -> Option<Self> {
        let mut lines = text.lines();
        Some(Self {
            kernel: lines.next()?.into(),
            jobs: lines.next()?.parse().ok()?,
            programs: lines.next()?.into(),
            here: lines.next()?.into(),
            tests: lines
                .map(|line| {
                    let (backend, case) = line.split_once(' ')?;
                    Some((Backend::parse(backend)?, Case::parse(case)?))
                })
                .collect::<Option<_>>()?,
        })
    }
}

/// What the referee has the guest do: plays the plan in a folder.
pub(crate) fn inside(folder: &Path) -> Result {
    let file = folder.join("plan");
    let text = fs::read_to_string(&file).on(&file)?;
    let plan = Plan::read(&text).ok_or_else(|| fail(format!("{}: no plan", file.display())))?;
    let mut modprobe = Command::new("modprobe");
    let _: &mut Command = modprobe.arg("-a").args(MODULES.split_whitespace());
    let _: std::process::Output = modprobe.output().on("modprobe")?;
    play(&plan, folder)
}

/// Plays all of it, some at once, and writes each answer down as it comes.
pub(super) fn play(plan: &Plan, folder: &Path) -> Result {
    let rows = folder.join("rows");
    fs::create_dir_all(&rows).on(&rows)?;
    let diary = Mutex::new(Diary::new(plan, folder)?);
    let next = AtomicUsize::new(0);
    let one_after_the_other = || -> Result {
        while let Some((backend, case)) = plan.tests.get(next.fetch_add(1, Ordering::Relaxed)) {
            let answer = perform(plan, *backend, case, folder)?;
            let mut diary = diary.lock().map_err(|_| fail("a thread panicked"))?;
            diary.note(&answer)?;
        }
        Ok(())
    };
    std::thread::scope(|scope| {
        let players: Vec<_> = (0..plan.jobs)
            .map(|_| scope.spawn(one_after_the_other))
            .collect();
        players.into_iter().try_for_each(|player| {
            let ended = player.join();
            ended.unwrap_or_else(|_| Err(fail("a thread panicked")))
        })
    })
}

/// Keeps the answers, and tells how far it is.
struct Diary<'a> {
    plan: &'a Plan,
    start: Instant,
    file: File,
    done: usize,
    /// How many answers of a file of tests are still to come.
    open: BTreeMap<&'a str, usize>,
}

impl<'a> Diary<'a> {
    fn new(plan: &'a Plan, folder: &Path) -> Result<Self> {
        let place = folder.join("answers");
        let mut open = BTreeMap::new();
        for (_, case) in &plan.tests {
            *open.entry(&*case.file).or_default() += 1;
        }
        Ok(Self {
            plan,
            start: Instant::now(),
            file: File::create(&place).on(&place)?,
            done: 0,
            open,
        })
    }

    /// A line on standard error for each file that is done, and for each test that is not well.
    fn note(&mut self, answer: &Answer) -> Result {
        let line = answer.line();
        self.file.write_all(line.as_bytes()).on("answers")?;
        self.done += 1;
        let file = &*answer.case.file;
        let left = self.open.get_mut(file).map_or(0, |left| {
            *left -= 1;
            *left
        });
        let far = format!(
            "{}: {} of {} answers, {} s",
            self.plan.kernel,
            self.done,
            self.plan.tests.len(),
            self.start.elapsed().as_secs()
        );
        if answer.outcome != Outcome::Ok {
            let (backend, outcome) = (answer.backend.name(), answer.outcome.name());
            note(format!(
                "{far}: {}: {backend}: {outcome}",
                answer.case.name()
            ));
        }
        if left == 0 {
            note(format!("{far}: {file} done"));
        }
        Ok(())
    }
}

fn perform(plan: &Plan, backend: Backend, case: &Case, folder: &Path) -> Result<Answer> {
    let place = folder.join(Answer::output(backend, case));
    let rows = folder.join("rows").join(Answer::output(backend, case));
    if place.exists() {
        // What went wrong at the first try is what one wants to know.
        let before = place.with_added_extension("first");
        fs::rename(&place, &before).on(&before)?;
    }
    let output = File::create(&place).on(&place)?;
    let errors = output.try_clone().on(&place)?;
    let mut test = Command::new("timeout");
    let _: &mut Command = test
        // A test that hangs does not listen to SIGTERM either; its namespaces are for the next.
        .args(["-s", "KILL", &LIMIT.to_string()])
        .arg(plan.programs.join(&case.file))
        // Two threads: with one, the test would run in the first, which has not its name.
        .args([
            &*case.test,
            "--exact",
            "--include-ignored",
            "--test-threads=2",
        ])
        .env("IPVLAN_TEST_BACKEND", backend.variable())
        .env("IPVLAN_TEST_ROWS", &rows)
        .env("IPVLAN_BIN", plan.programs.join("ipvlan"))
        .env_remove("IPVLAN")
        .current_dir(&plan.here)
        .stdin(Stdio::null())
        .stdout(output)
        .stderr(errors);
    let start = Instant::now();
    let status = test.status().on("timeout")?;
    let elapsed = start.elapsed();
    let said = fs::read(&place).on(&place)?;
    let named = fs::read_to_string(&rows).unwrap_or_default();
    Ok(Answer {
        backend,
        case: case.clone(),
        outcome: if status.success() && passed(&String::from_utf8_lossy(&said)) {
            Outcome::Ok
        } else if elapsed.as_secs() >= LIMIT {
            Outcome::NoAnswer
        } else {
            Outcome::Failed
        },
        seconds: elapsed.as_secs_f64(),
        rows: rows_in(&named),
    })
}

/// Whether a test program says that it has run one test, and that well.
fn passed(said: &str) -> bool {
    said.lines()
        .any(|line| line.starts_with("test result: ok. 1 passed;"))
}

/// The rows in a file of lines `TEST ROW`, each once.
fn rows_in(text: &str) -> Vec<String> {
    let rows = text.lines().filter_map(|line| line.rsplit(' ').next());
    let mut rows: Vec<String> = rows.map(str::to_owned).collect();
    rows.sort();
    rows.dedup();
    rows
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::{Backend, Case, Plan, passed, rows_in};

    fn case(name: &str) -> Case {
        Case::parse(name).unwrap()
    }

    #[test]
    fn a_plan_comes_out_of_its_file_as_it_went_in() {
        let plan = Plan {
            kernel: "6.12".into(),
            jobs: 4,
            programs: "/a folder/bin".into(),
            here: "/here".into(),
            tests: vec![
                (Backend::Driver, case("a::b")),
                (Backend::Ours, case("a::b")),
            ],
        };
        let folder = std::env::temp_dir().join(format!("xtask-plan-{}", std::process::id()));
        fs::create_dir_all(&folder).unwrap();
        assert!(plan.write(&folder).is_ok());
        let text = fs::read_to_string(folder.join("plan")).unwrap();
        fs::remove_dir_all(folder).unwrap();
        let read = Plan::read(&text).unwrap();
        assert_eq!((&*read.kernel, read.jobs), ("6.12", 4));
        assert_eq!(read.programs, plan.programs);
        assert_eq!(read.here, plan.here);
        assert_eq!(read.tests, plan.tests);
        assert!(Plan::read("6.12\n4\n/bin\n/here\nnobody a::b\n").is_none());
    }

    #[test]
    fn a_test_has_passed_when_its_program_says_so() {
        let tail = "0 ignored; 0 measured; 5 filtered out; finished in 0.70s\n";
        assert!(passed(&format!(
            "test a ... ok\n\ntest result: ok. 1 passed; 0 failed; {tail}"
        )));
        assert!(!passed(&format!(
            "test result: ok. 0 passed; 0 failed; {tail}"
        )));
        assert!(!passed(&format!(
            "test result: FAILED. 1 passed; 1 failed; {tail}"
        )));
        assert!(!passed("running 1 test\n"));
    }

    #[test]
    fn rows_are_what_follows_the_test() {
        assert_eq!(rows_in("t veth\nt one-mac\nt veth\n"), ["one-mac", "veth"]);
        assert!(rows_in("").is_empty());
    }
}
