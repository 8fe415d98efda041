//! stub

use crate::error::Error;

/// How an agent is to run.
#[derive(Clone, Copy, Debug)]
pub struct Options {
    /// Stay in the foreground, log to stderr, wait for devices even when there are none (systemd).
    /// Otherwise: end with the last device.
    pub foreground: bool,
}

/// Runs the agent for the calling thread's namespace until it has nothing left to do.
///
/// # Errors
///
/// See [`Error`]; [`Error::AgentRuns`] when there is one already.
pub fn run(options: Options) -> Result<(), Error> {
    let _ = options;
    todo!()
}
