//! `vm`: the same tests on the driver and on ours, and what differs.
//!
//! ```text
//! tests, program ─► target/vm/run/referee-N/bin ─┐ a guest for each processor
//! cases × driver, ours ─► …/6.12/0/plan, 1/plan ─┴─► inside (guest) ─► …/answers ─► table
//! ```
//!
//! Guests of one processor, because interpreted ones of two now and then die when the kernel patches
//! its own code (a static key) and the other processor is in it.
//!
//! A test has the expectations of both implementations in it. Where they are known to differ it
//! names a row of `docs/kernel-differences.md`; whoever passes on both without doing so is the same.

use std::fmt::Write as _;
use std::fs;
use std::num::NonZero;
use std::path::Path;
use std::time::{Duration, Instant};

use super::answer::{Answer, Backend, Outcome};
use super::boot::{self, Options as Boot};
use super::cases::{Case, Cases};
use super::inside::{Plan, play};
use super::kernel::{self, Kernel};
use super::table::Table;
use crate::run::{On, Result, fail, note, step};
use crate::{test, workspace};

const USAGE: &str = "usage: cargo xtask vm KERNEL... [--jobs N] [-- FILTER...], KERNEL such as 6.1, \
                     6.12 or 7.2, `newest`, or `here` for ours on this machine; a command in a VM: \
                     cargo xtask boot";

/// What `here` means: no other kernel, and so no driver.
const HERE: &str = "here";
const NEWEST: &str = "newest";

/// How long a guest may take for all of it.
const TIME: Duration = Duration::from_secs(60 * 60);
const MEMORY_MIB: u32 = 2048;
/// Lines of a failed test's output that are shown; the file has all of them.
const TAIL: usize = 30;

/// What the user asked for.
#[derive(Debug)]
pub(crate) struct Options {
    kernels: Vec<String>,
    jobs: usize,
    filters: Vec<String>,
    /// Show only what has failed.
    brief: bool,
}

impl Options {
    pub(crate) fn parse(args: &[&str]) -> Result<Self> {
        let usage = || fail(USAGE);
        let mut options = Self {
            kernels: Vec::new(),
            jobs: 3,
            filters: Vec::new(),
            brief: false,
        };
        let mut args = args.iter();
        while let Some(&arg) = args.next() {
            match arg {
                "--jobs" => {
                    let jobs = args.next().and_then(|jobs| jobs.parse().ok());
                    options.jobs = jobs.filter(|&jobs| jobs > 0).ok_or_else(usage)?;
                }
                "--" => options.filters = args.by_ref().map(|&arg| arg.into()).collect(),
                _ if [HERE, NEWEST].contains(&arg) || boot::is_series(arg) => {
                    if !options.kernels.iter().any(|kernel| kernel == arg) {
                        options.kernels.push(arg.into());
                    }
                }
                _ => return Err(usage()),
            }
        }
        if options.kernels.is_empty() {
            return Err(usage());
        }
        Ok(options)
    }

    /// The whole table for one kernel, of which only what has failed is shown.
    pub(crate) fn brief(kernel: &str) -> Self {
        Self {
            kernels: vec![kernel.into()],
            jobs: 3,
            filters: Vec::new(),
            brief: true,
        }
    }
}

/// `cargo xtask vm`. Fails unless every cell says `ok`.
pub(crate) fn referee(options: &Options) -> Result {
    let kernels = kernels(&options.kernels)?;
    if kernels.iter().any(|(name, _)| name == HERE) {
        test::privileges()?;
    }
    test::tools()?;
    let cases = Cases::find(&options.filters)?;

    let target = workspace::root().join("target/vm");
    let run = target.join(format!("run/referee-{}", std::process::id()));
    let programs = run.join("bin");
    cases.put(&programs)?;
    let mut table = Table::new(cases.all.clone());
    for (name, kernel) in &kernels {
        let backends: &[Backend] = match kernel {
            Some(_) => &[Backend::Driver, Backend::Ours],
            None => &[Backend::Ours],
        };
        let tests = cases.all.iter().flat_map(|case| {
            let each = backends.iter();
            each.map(|&backend| (backend, case.clone()))
        });
        let plan = Plan {
            kernel: name.clone(),
            jobs: options.jobs,
            programs: programs.clone(),
            here: workspace::root().join("tests"),
            tests: tests.collect(),
        };
        let folder = run.join(name);
        fs::create_dir_all(&folder).on(&folder)?;
        let release = kernel.as_ref().map_or_else(here, Kernel::release);
        step(format!("{name}: {release}, {} cases", cases.all.len()));
        let start = Instant::now();
        let run_plan = |plan: &Plan, folder: &Path| match kernel {
            Some(kernel) => in_guests(plan, &target, kernel, folder),
            None => play(plan, folder),
        };
        run_plan(&plan, &folder)?;
        let mut answers = Answer::read_all(&folder);
        if let Some(again) = second_try(&plan, &answers) {
            note(format!(
                "{name}: {} again, one at a time",
                again.tests.len()
            ));
            let place = folder.join("again");
            fs::create_dir_all(&place).on(&place)?;
            run_plan(&again, &place)?;
            merge(&mut answers, &folder, &place)?;
        }
        note(format!("{name}: {} s", start.elapsed().as_secs()));
        for &backend in backends {
            table.column(name, backend, &answers);
        }
        keep(&target, name, &folder)?;
    }
    fs::remove_dir_all(&run).on(&run)?;
    report(options, &table, &target.join("results"))
}

/// The few that did not do well: interpreted, two processors under load now and then miss a moment,
/// and a guest may die and take what was left with it. Many are no accident.
fn second_try(plan: &Plan, answers: &[Answer]) -> Option<Plan> {
    const FEW: usize = 20;
    let well = |backend: Backend, case: &Case| {
        let mut same = answers
            .iter()
            .filter(|answer| answer.backend == backend && answer.case == *case);
        same.any(|answer| answer.outcome.is_well())
    };
    let failed = plan
        .tests
        .iter()
        .filter(|(backend, case)| !well(*backend, case));
    let tests: Vec<_> = failed.cloned().collect();
    (1..=FEW.max(plan.tests.len() / 2))
        .contains(&tests.len())
        .then(|| Plan {
            kernel: plan.kernel.clone(),
            jobs: 1,
            programs: plan.programs.clone(),
            here: plan.here.clone(),
            tests,
        })
}

/// Puts the answers of a second try in the place of the first ones.
fn merge(answers: &mut Vec<Answer>, folder: &Path, place: &Path) -> Result {
    for mut answer in Answer::read_all(place) {
        if answer.outcome.is_well() {
            answer.outcome = Outcome::Second;
        }
        let said = Answer::output(answer.backend, &answer.case);
        fs::rename(place.join(&said), folder.join(&said)).on(place)?;
        answers.retain(|first| first.backend != answer.backend || first.case != answer.case);
        answers.push(answer);
    }
    fs::remove_dir_all(place).on(place)?;
    Answer::write_all(answers, folder)
}

/// The kernels by name; `here` is none.
fn kernels(names: &[String]) -> Result<Vec<(String, Option<Kernel>)>> {
    let mut kernels: Vec<(String, Option<Kernel>)> = Vec::new();
    for name in names {
        if name == HERE {
            kernels.push((name.clone(), None));
            continue;
        }
        let folder = kernel::folder()?;
        let series = match &**name {
            NEWEST => kernel::newest(&folder)?,
            series => series.into(),
        };
        if kernels.iter().any(|(name, _)| *name == series) {
            continue;
        }
        let kernel = Kernel::get(&folder, &series)?;
        if !kernel.has_driver() {
            return Err(fail(format!(
                "Debian's kernel {} has no ipvlan driver: name another",
                kernel.release()
            )));
        }
        kernels.push((series, Some(kernel)));
    }
    Ok(kernels)
}

fn here() -> String {
    let release = fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default();
    release.trim().into()
}

/// Plays a plan under another kernel, in as many guests as there are processors. What they did not
/// answer is missing then.
fn in_guests(plan: &Plan, target: &Path, kernel: &Kernel, folder: &Path) -> Result {
    let processors = std::thread::available_parallelism().map_or(1, NonZero::get);
    let guests: Vec<_> = (0..processors)
        .map(|guest| {
            let tests = plan.tests.iter().skip(guest).step_by(processors);
            let share = Plan {
                tests: tests.cloned().collect(),
                kernel: plan.kernel.clone(),
                programs: plan.programs.clone(),
                here: plan.here.clone(),
                jobs: plan.jobs,
            };
            (share, folder.join(guest.to_string()))
        })
        .filter(|(share, _)| !share.tests.is_empty())
        .collect();
    std::thread::scope(|scope| {
        let running: Vec<_> = guests
            .iter()
            .map(|(share, place)| scope.spawn(move || in_guest(share, target, kernel, place)))
            .collect();
        running.into_iter().try_for_each(|guest| {
            let ended = guest.join();
            ended.unwrap_or_else(|_| Err(fail("a thread panicked")))
        })
    })?;
    let mut answers = String::new();
    for (_, place) in &guests {
        answers += &fs::read_to_string(place.join("answers")).unwrap_or_default();
        for entry in fs::read_dir(place).on(place)? {
            let entry = entry.on(place)?;
            if entry.file_type().on(place)?.is_file() {
                fs::rename(entry.path(), folder.join(entry.file_name())).on(place)?;
            }
        }
        fs::remove_dir_all(place).on(place)?;
    }
    fs::write(folder.join("answers"), answers).on(folder)
}

fn in_guest(plan: &Plan, target: &Path, kernel: &Kernel, folder: &Path) -> Result {
    fs::create_dir_all(folder).on(folder)?;
    plan.write(folder)?;
    let xtask = plan.programs.join("xtask");
    let words = [xtask.as_path(), Path::new("inside"), folder];
    let boot = Boot {
        kernel: plan.kernel.clone(),
        icount: false,
        processors: 1,
        time: TIME,
        memory: MEMORY_MIB,
        share: Some(folder.into()),
        command: words.map(|word| word.display().to_string()).into(),
    };
    let status = boot::status(&boot, target, kernel)?;
    if status != 0 {
        note(format!("{}: the guest ended with {status}", plan.kernel));
    }
    Ok(())
}

/// Keeps a kernel's answers, and what the tests said, for reading.
fn keep(target: &Path, name: &str, folder: &Path) -> Result {
    let results = target.join("results");
    fs::create_dir_all(&results).on(&results)?;
    let place = results.join(name);
    if place.exists() {
        fs::remove_dir_all(&place).on(&place)?;
    }
    fs::rename(folder, &place).on(&place)
}

fn report(options: &Options, table: &Table, results: &Path) -> Result {
    let whole = format!(
        "{}\n{}\n{}\n",
        table.text(false),
        Table::foot(),
        table.summary()
    );
    let file = results.join("table.txt");
    fs::write(&file, &whole).on(&file)?;
    if !options.brief {
        println!("\n{}\n{}", table.text(false), Table::foot());
    }
    let mut well = true;
    for (column, case, outcome) in table.failures() {
        well = false;
        let said = results.join(&column.kernel);
        let said = said.join(Answer::output(column.backend, case));
        println!(
            "---- {} {}: {}: {}\n{}",
            column.kernel,
            column.backend.name(),
            case.name(),
            outcome.name(),
            end_of(&fs::read_to_string(&said).unwrap_or_default())
        );
    }
    if options.brief && !well {
        println!("{}", table.text(true));
    }
    println!("{}", table.summary());
    println!("the whole table: {}", file.display());
    if well {
        return Ok(());
    }
    Err(fail("vm: not every cell is ok: see above"))
}

/// The last lines of a test's output, without what its harness says around them.
fn end_of(said: &str) -> String {
    let harness = ["running ", "test ", "failures:", "note: run with"];
    let lines: Vec<&str> = said
        .lines()
        .filter(|line| !line.is_empty() && !harness.iter().any(|start| line.starts_with(start)))
        .collect();
    let mut text = String::new();
    if lines.len() > TAIL {
        text.push_str("…\n");
    }
    for line in lines.iter().skip(lines.len().saturating_sub(TAIL)) {
        let _: std::fmt::Result = writeln!(text, "{line}");
    }
    text
}

#[cfg(test)]
mod tests {
    use super::{Options, end_of};

    #[test]
    fn kernels_come_first_and_filters_after_two_dashes() {
        let options = Options::parse(&["6.1", "newest", "--jobs", "3", "6.1", "here", "--", "l2"]);
        let Ok(options) = options else {
            panic!("valid options")
        };
        assert_eq!(options.kernels, ["6.1", "newest", "here"]);
        assert_eq!((options.jobs, options.brief), (3, false));
        assert_eq!(options.filters, ["l2"]);
        for wrong in [
            &[][..],
            &["--", "l2"],
            &["l2"],
            &["6.12", "--jobs"],
            &["6.12", "--jobs", "0"],
            &["6.12", "--icount"],
        ] {
            assert!(Options::parse(wrong).is_err(), "{wrong:?}");
        }
    }

    #[test]
    fn what_a_test_said_is_shown_without_its_harness() {
        let said = "\nrunning 1 test\ntest a ... FAILED\n\nfailures:\n\n---- a stdout ----\n\
                    the reason\n\nfailures:\n    a\n\ntest result: FAILED. 0 passed\n";
        assert_eq!(end_of(said), "---- a stdout ----\nthe reason\n    a\n");
        let long: String = (0..50).map(|n| format!("{n}\n")).collect();
        assert!(end_of(&long).starts_with("…\n20\n"));
    }
}
