//! Running a command with a time limit.
//!
//! Its input and output are memory files, not pipes: a command may leave a process behind
//! (`ipvlan link add` starts the agent), and the end of a pipe would never come.

use std::ffi::OsStr;
use std::fs::File;
use std::io::{Read, Seek, SeekFrom, Write};
use std::os::unix::process::CommandExt;
use std::process::Command;
use std::time::{Duration, Instant};

use nix::sys::memfd::{MFdFlags, memfd_create};

use crate::error::{Error, Result};
use crate::sys;

const LIMIT: Duration = Duration::from_secs(30);

/// Runs `program args` in the namespaces of this thread. Fails with what it printed.
pub(crate) fn run<S: AsRef<OsStr>>(program: impl AsRef<OsStr>, args: &[S]) -> Result<()> {
    run_with_input(program.as_ref(), args, "")
}

/// Runs each line as an `ip` command, in one process, going on after a failure.
pub(crate) fn ip_lines(lines: &str) -> Result<()> {
    run_with_input(OsStr::new("ip"), &["-force", "-batch", "-"], lines)
}

/// Runs each line as an `ip` command in the namespace, in one process.
pub(crate) fn ip_batch(netns: &str, lines: &str) -> Result<()> {
    run_with_input(OsStr::new("ip"), &["-n", netns, "-batch", "-"], lines)
}

fn run_with_input<S: AsRef<OsStr>>(program: &OsStr, args: &[S], input: &str) -> Result<()> {
    let shown = shown(program, args);
    let io = |source| Error::io(shown.clone(), source);
    let mut stdin = memory_file()?;
    stdin.write_all(input.as_bytes()).map_err(io)?;
    stdin.rewind().map_err(io)?;
    let mut output = memory_file()?;

    let mut child = Command::new(program)
        .args(args)
        .stdin(stdin)
        .stdout(output.try_clone().map_err(io)?)
        .stderr(output.try_clone().map_err(io)?)
        // The terminal's Ctrl-C is for us: a clean-up command must not die of it.
        .process_group(0)
        .spawn()
        .map_err(io)?;
    let ended = sys::ends_by(&child, Instant::now() + LIMIT);
    if !matches!(ended, Ok(true)) {
        child.kill().map_err(io)?;
    }
    let status = child.wait().map_err(io)?;
    let status = ended?.then_some(status);
    let answer = match status {
        Some(status) if status.success() => return Ok(()),
        Some(status) => status.to_string(),
        None => format!("no end after {} s", LIMIT.as_secs()),
    };
    let mut printed = Vec::new();
    let _: u64 = output.seek(SeekFrom::Start(0)).map_err(io)?;
    let _: usize = output.read_to_end(&mut printed).map_err(io)?;
    let printed = String::from_utf8_lossy(&printed);
    let printed = printed.split_whitespace().collect::<Vec<_>>().join(" ");
    let answer = if printed.is_empty() { answer } else { printed };
    Err(Error::Command {
        command: shown,
        answer,
    })
}

fn memory_file() -> Result<File> {
    memfd_create(c"ipvlan-bench", MFdFlags::MFD_CLOEXEC)
        .map(File::from)
        .map_err(Error::sys("memfd_create"))
}

fn shown<S: AsRef<OsStr>>(program: &OsStr, args: &[S]) -> String {
    let mut shown = program.to_string_lossy().into_owned();
    for arg in args {
        shown.push(' ');
        shown.push_str(&arg.as_ref().to_string_lossy());
    }
    shown
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_failing_command_is_reported_with_its_words() {
        let error = run("sh", &["-c", "echo no such thing >&2; exit 3"]).unwrap_err();
        assert!(
            error.to_string().ends_with("exit 3: no such thing"),
            "{error}"
        );
    }

    #[test]
    fn a_command_that_leaves_a_process_behind_ends() {
        let start = Instant::now();
        run("sh", &["-c", "sleep 20 & exit 0"]).unwrap();
        assert!(
            start.elapsed() < Duration::from_secs(10),
            "must not wait for the sleeper"
        );
    }
}
