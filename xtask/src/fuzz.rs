//! `fuzz`: coverage-guided fuzzing with libFuzzer, on a stable compiler.
//!
//! ```text
//! fuzz/corpus/TARGET ─┐                                     ┌─► fuzz/corpus/TARGET   small
//!                     ├─► TARGET (libFuzzer), N at a time ──┤
//! target/fuzz/corpus ─┘   all that was ever found           ├─► target/fuzz/corpus   large
//!                                                           └─► fuzz/crashes/TARGET  findings
//! ```
//!
//! The counters of coverage are put in by LLVM's own pass, which a stable rustc can be told to run.
//! These are flags that nobody promises to keep, so a fault that is planted behind some comparisons
//! is looked for first: without guidance it would never be found.
//!
//! libFuzzer is C++, so a C++ compiler is needed, and nothing else.

use std::collections::VecDeque;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::thread::{available_parallelism, sleep};
use std::time::{Duration, Instant};

use crate::run::{On, Result, fail, find, note, read_quiet, run, step};
use crate::workspace::{self, Graph};

const PACKAGE: &str = "ipvlan-fuzz";

/// A target and the longest input that makes sense for it.
const TARGETS: [(&str, u32); 4] = [
    // A head of 32 bytes, and a little more than the depth to which a frame is read.
    ("frame", 32 + 600),
    ("words", 200),
    // A link of today's kernel.
    ("netlink", 2048),
    ("state", 600),
];
const PLANTED: &str = "planted";
/// It takes a tenth of one on a machine that has nothing else to do.
const PLANTED_SECONDS: u32 = 60;

/// What is kept of a corpus: files, and bytes of all of them.
const MOST_FILES: usize = 256;
const MOST_BYTES: u64 = 48 * 1024;

/// Operands of a comparison that come nearer to each other count as new, too: several bytes that are
/// compared at once are found one by one.
const GUIDE: &str = "-use_value_profile=1";

/// A single input that takes longer or needs more is a finding.
const SLOW_SECONDS: u32 = 10;
const MOST_MIB: u32 = 1024;

/// What `-fsanitize=fuzzer-no-link` is to clang.
const INSTRUMENTATION: [&str; 6] = [
    "--cfg=fuzzing",
    "-Cpasses=sancov-module",
    "-Cllvm-args=-sanitizer-coverage-level=4",
    "-Cllvm-args=-sanitizer-coverage-inline-8bit-counters",
    "-Cllvm-args=-sanitizer-coverage-pc-table",
    "-Cllvm-args=-sanitizer-coverage-trace-compares",
];

/// What the user asked for.
pub(crate) struct Options {
    targets: Vec<(&'static str, u32)>,
    seconds: u32,
}

impl Options {
    pub(crate) fn parse(args: &[&str]) -> Result<Self> {
        let usage = "usage: cargo xtask fuzz [TARGET...] [--time SECONDS]";
        let mut options = Self {
            targets: Vec::new(),
            seconds: 600,
        };
        let mut args = args.iter();
        while let Some(&arg) = args.next() {
            if arg == "--time" {
                let seconds = args.next().and_then(|seconds| seconds.parse().ok());
                options.seconds = seconds
                    .filter(|seconds| *seconds > 0)
                    .ok_or_else(|| fail(format!("fuzz: --time takes seconds; {usage}")))?;
                continue;
            }
            let known = TARGETS.iter().find(|(name, _)| *name == arg);
            let names = TARGETS.map(|(name, _)| name).join(", ");
            options
                .targets
                .push(*known.ok_or_else(|| {
                    fail(format!("fuzz: no target {arg}, only {names}; {usage}"))
                })?);
        }
        if options.targets.is_empty() {
            options.targets = TARGETS.to_vec();
        }
        Ok(options)
    }
}

/// `cargo xtask fuzz`. Fails when something was found.
pub(crate) fn fuzz(options: &Options) -> Result {
    if find("c++").is_none() && std::env::var_os("CXX").is_none() {
        return Err(fail(
            "fuzz: libFuzzer needs a C++ compiler, run: sudo apt-get install g++",
        ));
    }
    step("programs");
    let place = Place::build()?;
    step("a planted fault");
    place.find_planted()?;
    let processors = available_parallelism().map_or(1, usize::from);
    step(format!(
        "{} for {} s each, {processors} at a time",
        names(&options.targets),
        options.seconds
    ));
    let runs = place.run_all(options, processors)?;
    step("corpora");
    let mut findings = 0;
    let mut table = vec![format!(
        "{:<8} {:>12} {:>8} {:>8} {:>8} {:>6} {:>8} {:>8}",
        "target", "executions", "per s", "edges", "features", "files", "bytes", "findings"
    )];
    for (name, longest) in &options.targets {
        let mine: Vec<&Run> = runs.iter().filter(|run| run.target == *name).collect();
        let (files, bytes) = place.minimise(name, *longest)?;
        let logs: Vec<Log> = mine
            .iter()
            .map(|run| Log::read(&run.log))
            .collect::<Result<_>>()?;
        let executions: u64 = logs.iter().map(|log| log.executions).sum();
        let seconds = mine.iter().map(|run| run.seconds).max().unwrap_or_default();
        let best = |of: fn(&Log) -> u64| logs.iter().map(of).max().unwrap_or_default();
        let found: Vec<&Run> = mine.into_iter().filter(|run| !run.clean).collect();
        findings += found.len();
        table.push(format!(
            "{name:<8} {executions:>12} {:>8} {:>8} {:>8} {files:>6} {bytes:>8} {:>8}",
            executions / seconds.max(1),
            best(|log| log.edges),
            best(|log| log.features),
            found.len()
        ));
        for run in found {
            note(format!("{name}: found something: {}", run.log.display()));
            for line in &Log::read(&run.log)?.finding {
                eprintln!("    {line}");
            }
        }
    }
    step("result");
    println!("{}", table.join("\n"));
    if findings == 0 {
        return Ok(());
    }
    Err(fail(format!(
        "fuzz: {findings} findings, their input is in fuzz/crashes; mend them, keep the files, and \
         run: cargo test -p {PACKAGE}"
    )))
}

fn names(targets: &[(&str, u32)]) -> String {
    let names: Vec<&str> = targets.iter().map(|(name, _)| *name).collect();
    names.join(", ")
}

/// Where the programs are, and what they leave.
struct Place {
    programs: PathBuf,
    /// Large corpora and logs.
    work: PathBuf,
    /// The crate.
    home: PathBuf,
}

/// One process, when it has ended.
struct Run {
    target: &'static str,
    log: PathBuf,
    seconds: u64,
    clean: bool,
}

struct Running {
    run: Run,
    start: Instant,
    child: Child,
}

impl Place {
    fn build() -> Result<Self> {
        let about = read_quiet(Command::new("rustc").arg("-vV"))?;
        let host = about
            .lines()
            .find_map(|line| line.strip_prefix("host: "))
            .ok_or_else(|| fail("rustc -vV names no host"))?;
        let work = Graph::load()?.target.join("fuzz");
        // With a target of its own, build scripts and macros are left alone.
        run(workspace::cargo()
            .env("CARGO_ENCODED_RUSTFLAGS", INSTRUMENTATION.join("\x1f"))
            .args(["build", "--quiet", "--package", PACKAGE, "--bins"])
            .args(["--features", "libfuzzer", "--profile", "fuzz"])
            .args(["--target", host, "--target-dir"])
            .arg(&work))?;
        Ok(Self {
            programs: work.join(host).join("fuzz"),
            work,
            home: workspace::root().join("fuzz"),
        })
    }

    fn corpus(&self, target: &str) -> PathBuf {
        self.home.join("corpus").join(target)
    }

    fn large_corpus(&self, target: &str) -> PathBuf {
        self.work.join("corpus").join(target)
    }

    /// The program of a target, with its output in a file.
    fn program(&self, target: &str, log: &Path) -> Result<Command> {
        let file = fs::File::create(log).on(log)?;
        let mut program = Command::new(self.programs.join(target));
        let _: &mut Command = program
            .current_dir(&self.home)
            .env("RUST_BACKTRACE", "0")
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(file);
        Ok(program)
    }

    fn find_planted(&self) -> Result {
        let folder = empty(self.work.join(PLANTED))?;
        let corpus = empty(folder.join("corpus"))?;
        let log = folder.join("log");
        let start = Instant::now();
        let mut program = self.program(PLANTED, &log)?;
        let status = program
            .arg(&corpus)
            .arg(format!("-max_total_time={PLANTED_SECONDS}"))
            .arg(format!("-artifact_prefix={}/", folder.display()))
            .arg(GUIDE)
            .status()
            .on(PLANTED)?;
        let text = fs::read_to_string(&log).on(&log)?;
        if status.success() || !text.contains("the planted fault") {
            return Err(fail(format!(
                "fuzz: nothing guides the search, a planted fault was not found in {PLANTED_SECONDS} \
                 s: see {}; does this rustc still take the flags in xtask/src/fuzz.rs?",
                log.display()
            )));
        }
        let log = Log::read(&log)?;
        note(format!(
            "found by {} inputs that reached new code, in {:.1} s",
            log.news,
            start.elapsed().as_secs_f32()
        ));
        Ok(())
    }

    /// As many processes at a time as there are processors. Where there are more processors than
    /// targets, several search for the same one, and share what they find.
    fn run_all(&self, options: &Options, processors: usize) -> Result<Vec<Run>> {
        let mut waiting: VecDeque<(&'static str, u32, usize)> = VecDeque::new();
        for (name, longest) in &options.targets {
            let _: PathBuf = made(self.large_corpus(name))?;
            for number in 0..(processors / options.targets.len()).max(1) {
                waiting.push_back((name, *longest, number));
            }
        }
        let mut running: Vec<Running> = Vec::new();
        let mut done = Vec::new();
        while !(waiting.is_empty() && running.is_empty()) {
            while running.len() < processors
                && let Some((name, longest, number)) = waiting.pop_front()
            {
                running.push(self.start(name, longest, number, options.seconds)?);
            }
            sleep(Duration::from_millis(200));
            let mut index = 0;
            while let Some(one) = running.get_mut(index) {
                match one.child.try_wait().on(one.run.target)? {
                    None => index += 1,
                    Some(status) => {
                        let mut run = running.swap_remove(index);
                        run.run.clean = status.success();
                        run.run.seconds = run.start.elapsed().as_secs();
                        done.push(run.run);
                    }
                }
            }
        }
        Ok(done)
    }

    fn start(
        &self,
        target: &'static str,
        longest: u32,
        number: usize,
        seconds: u32,
    ) -> Result<Running> {
        let crashes = made(self.home.join("crashes").join(target))?;
        let corpus = made(self.corpus(target))?;
        let log = made(self.work.join("log"))?.join(format!("{target}-{number}"));
        let mut program = self.program(target, &log)?;
        let dictionary = self.home.join(format!("dict/{target}.dict"));
        if dictionary.exists() {
            let _: &mut Command = program.arg(format!("-dict={}", dictionary.display()));
        }
        let child = program
            .args([self.large_corpus(target), corpus])
            .arg(format!("-artifact_prefix={}/", crashes.display()))
            .arg(format!("-max_total_time={seconds}"))
            .arg(format!("-max_len={longest}"))
            .arg(format!("-timeout={SLOW_SECONDS}"))
            .arg(format!("-rss_limit_mb={MOST_MIB}"))
            .args([GUIDE, "-print_final_stats=1"])
            .spawn()
            .on(target)?;
        Ok(Running {
            run: Run {
                target,
                log,
                seconds: 0,
                clean: false,
            },
            start: Instant::now(),
            child,
        })
    }

    /// The smallest part of all that was found that reaches the same code: files and bytes of it.
    fn minimise(&self, target: &str, longest: u32) -> Result<(usize, u64)> {
        let small = empty(self.work.join("small").join(target))?;
        let log = self.work.join("log").join(format!("{target}-minimise"));
        let mut program = self.program(target, &log)?;
        let crash = format!("-artifact_prefix={}/", self.work.join("log").display());
        let status = program
            .arg(&small)
            .args([self.corpus(target), self.large_corpus(target)])
            .args([
                // How often an edge is taken makes many files and finds little.
                "-use_counters=0",
                "-set_cover_merge=1",
                &crash,
                &format!("-max_len={longest}"),
                &format!("-timeout={SLOW_SECONDS}"),
                &format!("-rss_limit_mb={MOST_MIB}"),
            ])
            .status()
            .on(target)?;
        if !status.success() {
            return Err(fail(format!(
                "fuzz: cannot minimise {target}: see {}",
                log.display()
            )));
        }
        let mut files = Vec::new();
        for file in fs::read_dir(&small).on(&small)?.flatten() {
            let size = file.metadata().on(file.path())?.len();
            files.push((size, file.file_name(), file.path()));
        }
        files.sort();
        let corpus = empty(self.corpus(target))?;
        let (mut count, mut bytes) = (0, 0);
        for (size, name, path) in files.into_iter().take(MOST_FILES) {
            if bytes + size > MOST_BYTES {
                break;
            }
            let to = corpus.join(name);
            let _: u64 = fs::copy(&path, &to).on(&to)?;
            (count, bytes) = (count + 1, bytes + size);
        }
        Ok((count, bytes))
    }
}

/// The folder, which exists then.
fn made(folder: PathBuf) -> Result<PathBuf> {
    fs::create_dir_all(&folder).on(&folder)?;
    Ok(folder)
}

/// The same, and nothing is in it.
fn empty(folder: PathBuf) -> Result<PathBuf> {
    if folder.exists() {
        fs::remove_dir_all(&folder).on(&folder)?;
    }
    made(folder)
}

/// What libFuzzer wrote to its standard error.
#[derive(Default)]
struct Log {
    executions: u64,
    edges: u64,
    features: u64,
    /// Inputs that reached something new.
    news: u64,
    /// What went wrong, in the words of whoever saw it.
    finding: Vec<String>,
}

impl Log {
    fn read(file: &Path) -> Result<Self> {
        let bytes = fs::read(file).on(file)?;
        Ok(Self::parse(&String::from_utf8_lossy(&bytes)))
    }

    fn parse(text: &str) -> Self {
        let mut log = Self::default();
        let mut panic = false;
        for line in text.lines() {
            // The status lines: `#123<TAB>NEW    cov: 45 ft: 67 corp: 8/90b …`
            if let Some(rest) = line.strip_prefix('#') {
                let words: Vec<&str> = rest.split_whitespace().collect();
                let number = |key: &str| {
                    let at = words.iter().position(|word| *word == key)?;
                    words.get(at + 1)?.parse::<u64>().ok()
                };
                let executions = words.first().and_then(|word| word.parse().ok());
                log.executions = executions.unwrap_or(log.executions).max(log.executions);
                log.edges = number("cov:").unwrap_or(log.edges);
                log.features = number("ft:").unwrap_or(log.features);
                log.news += u64::from(words.get(1) == Some(&"NEW"));
            } else if let Some(count) = line.strip_prefix("stat::number_of_executed_units:") {
                log.executions = count.trim().parse().unwrap_or(log.executions);
            }
            let told = ["Test unit written to", "SUMMARY:"];
            panic = (panic || line.contains("panicked at")) && !line.starts_with("note:");
            if panic || told.iter().any(|word| line.contains(word)) {
                log.finding.push(line.to_owned());
            }
            panic = panic && !line.starts_with("==");
        }
        log
    }
}

#[cfg(test)]
mod tests {
    use super::{Log, Options, TARGETS};

    #[test]
    fn targets_and_a_time_are_taken() {
        let parse = |args: &[&str]| match Options::parse(args) {
            Ok(options) => (options.targets.len(), options.seconds),
            Err(_) => (0, 0),
        };
        assert_eq!(parse(&[]), (TARGETS.len(), 600));
        assert_eq!(parse(&["frame", "--time", "5", "state"]), (2, 5));
        for wrong in [&["planted"][..], &["--time"], &["--time", "0"], &["--x"]] {
            assert_eq!(parse(wrong), (0, 0), "{wrong:?}");
        }
    }

    #[test]
    fn what_libfuzzer_says_is_understood() {
        let log = Log::parse(
            "INFO: Seed: 1\n\
             #2\tINITED cov: 32 ft: 57 corp: 1/1b exec/s: 0 rss: 27Mb\n\
             #4900\tNEW    cov: 34 ft: 113 corp: 34/325b lim: 25 exec/s: 0 rss: 27Mb L: 20/25\n\
             \n\
             thread '<unnamed>' (7) panicked at fuzz/src/lib.rs:60:9:\n\
             the planted fault\n\
             note: run with `RUST_BACKTRACE=1` environment variable to display a backtrace\n\
             ==1234== ERROR: libFuzzer: deadly signal\n\
             SUMMARY: libFuzzer: deadly signal\n\
             Test unit written to crashes/crash-12\n\
             stat::number_of_executed_units: 5123\n",
        );
        assert_eq!((log.executions, log.edges, log.features), (5123, 34, 113));
        assert_eq!(log.news, 1);
        let finding = log.finding.join("\n");
        for part in ["panicked at", "the planted fault", "SUMMARY", "crash-12"] {
            assert!(finding.contains(part), "{finding}");
        }
        assert!(!finding.contains("RUST_BACKTRACE"), "{finding}");
    }
}
