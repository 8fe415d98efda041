//! Starting an agent, by whoever makes the first device.

use std::os::fd::AsFd as _;
use std::os::unix::process::CommandExt as _;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};

use crate::error::Error;
use crate::store::Store;

/// How long a starter waits for its agent.
const START: Duration = Duration::from_secs(10);
/// What an agent says when it listens.
pub(super) const READY: &str = "ready";

/// Starts an agent for the calling thread's namespace as a process of its own, and waits until it
/// listens.
pub(crate) fn start() -> Result<(), Error> {
    let failed = |what: &dyn std::fmt::Display| Error::Agent(what.to_string());
    // By its path, so that it goes by its name in `ps`; by the file itself where the path is gone.
    let exe = std::env::current_exe().ok().filter(|path| path.exists());
    let mut child = Command::new(exe.as_deref().unwrap_or(Path::new("/proc/self/exe")))
        .arg0("ipvlan")
        .arg("agent")
        .current_dir("/")
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .map_err(|error| failed(&error))?;
    let Some(stdout) = child.stdout.take() else {
        return Err(failed(&"it has no output"));
    };
    let mut fds = [PollFd::new(stdout.as_fd(), PollFlags::POLLIN)];
    let timeout = PollTimeout::try_from(START).unwrap_or(PollTimeout::NONE);
    match poll(&mut fds, timeout) {
        Ok(0) => return Err(failed(&"it does not answer")),
        Ok(_) => {}
        Err(errno) => return Err(failed(&errno)),
    }
    let mut line = String::new();
    let mut reader = std::io::BufReader::new(stdout);
    match std::io::BufRead::read_line(&mut reader, &mut line) {
        Ok(_) if line.trim_end() == READY => Ok(()),
        Ok(_) => match child.wait() {
            // Somebody else's agent was faster.
            Ok(_) if Store::current()?.has_agent() => Ok(()),
            Ok(status) => Err(failed(&format!("it ended with {status}"))),
            Err(error) => Err(failed(&error)),
        },
        Err(error) => Err(failed(&error)),
    }
}
