//! Programs that run beside a test, and those that should not any more.

use std::ffi::OsStr;
use std::fs;
use std::io::Read as _;
use std::os::unix::process::CommandExt as _;
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::time::Duration;

use nix::sys::signal::{Signal, kill, killpg};
use nix::unistd::Pid;

use crate::eventually;

/// Name of the environment variable that says for which [`Net`](crate::Net) a process was started.
pub const MARK: &str = "IPVLAN_TEST_NET";

/// A program in the background. It and what it started end with this value.
#[derive(Debug)]
pub struct Process {
    child: Child,
}

impl Process {
    pub(crate) fn spawn(mut command: Command) -> Self {
        let child = command.process_group(0).spawn();
        let child = child.unwrap_or_else(|error| panic!("{command:?}: {error}"));
        Self { child }
    }

    /// Its process id.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Ends it as a person would with Ctrl-C, and returns what it had written.
    pub fn interrupt(mut self) -> String {
        let _: nix::Result<()> = killpg(pid_of(self.pid()), Signal::SIGINT);
        self.output()
    }

    /// Waits until it ends, and returns what it had written.
    pub fn finish(mut self) -> String {
        self.output()
    }

    fn output(&mut self) -> String {
        let mut text = Vec::new();
        if let Some(mut pipe) = self.child.stdout.take() {
            let _: std::io::Result<usize> = pipe.read_to_end(&mut text);
        }
        let _: std::io::Result<_> = self.child.wait();
        String::from_utf8_lossy(&text).into_owned()
    }

    /// What it reads and what it writes, which were asked to be pipes.
    pub(crate) fn pipes(&mut self) -> (ChildStdin, ChildStdout) {
        let pipes = self.child.stdin.take().zip(self.child.stdout.take());
        pipes.expect("pipes")
    }

    /// Kills it and only it, without a chance to clean up.
    pub fn kill(mut self) {
        let _: std::io::Result<()> = self.child.kill();
        let _: std::io::Result<_> = self.child.wait();
    }

    /// Whether it still runs.
    pub fn is_alive(&mut self) -> bool {
        matches!(self.child.try_wait(), Ok(None))
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        let _: nix::Result<()> = killpg(pid_of(self.child.id()), Signal::SIGKILL);
        let _: std::io::Result<_> = self.child.wait();
    }
}

fn pid_of(pid: u32) -> Pid {
    Pid::from_raw(pid.cast_signed())
}

/// Kills a process of this test with SIGKILL.
pub fn kill_hard(pid: u32) {
    let _: nix::Result<()> = kill(pid_of(pid), Signal::SIGKILL);
}

/// Whether there is such a process. A zombie is none.
pub fn is_alive(pid: u32) -> bool {
    fs::read_to_string(format!("/proc/{pid}/stat")).is_ok_and(|stat| {
        !stat
            .rsplit(')')
            .next()
            .is_some_and(|rest| rest.starts_with(" Z"))
    })
}

/// Everything that was started for the net `mark` and still runs: pid and command line.
pub fn marked(mark: &str) -> Vec<(u32, String)> {
    let wanted = format!("{MARK}={mark}");
    let entries = fs::read_dir("/proc").into_iter().flatten().flatten();
    let pids = entries.filter_map(|entry| entry.file_name().to_str()?.parse().ok());
    pids.filter(|pid| {
        fs::read(format!("/proc/{pid}/environ")).is_ok_and(|text| {
            text.split(|&byte| byte == 0)
                .any(|var| var == wanted.as_bytes())
        }) && is_alive(*pid)
    })
    .map(|pid: u32| {
        let line = fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
        let line = String::from_utf8_lossy(&line).replace('\0', " ");
        (pid, line.trim_end().to_owned())
    })
    .collect()
}

/// The agents among [`marked`].
pub fn agents(mark: &str) -> Vec<u32> {
    let is_agent = |line: &str| line.ends_with(" agent") || line.contains(" agent ");
    marked(mark)
        .into_iter()
        .filter(|(_, line)| is_agent(line))
        .map(|(pid, _)| pid)
        .collect()
}

/// Waits for all of [`marked`] to end. Returns those that do not, after killing them.
pub(crate) fn reap(mark: &str, patience: Duration) -> Vec<(u32, String)> {
    if eventually(patience, || marked(mark).is_empty()) {
        return Vec::new();
    }
    let left = marked(mark);
    for (pid, _) in &left {
        kill_hard(*pid);
    }
    left
}

/// A command with its words, marked and bounded in time.
pub(crate) fn command<S: AsRef<OsStr>>(mark: &str, words: &[S]) -> Command {
    let (program, args) = words.split_first().expect("a command has a name");
    let mut command = Command::new(program);
    let _: &mut Command = command.args(args).env(MARK, mark).stdin(Stdio::null());
    // C's messages, whatever the machine speaks.
    let _: &mut Command = command.env("LC_ALL", "C");
    command
}
