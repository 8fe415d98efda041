//! Calls of `ipvlan`, which may be killed, and agents: started by hand, and noticed.

use std::process::{Command, ExitStatus, Stdio};
use std::thread;
use std::time::Duration;

use ipvlan_tests::{MARK, PATIENCE, eventually};

use super::{Outcome, World};
use crate::script::Call;

impl World<'_> {
    /// Calls `ipvlan` on the host.
    pub(super) fn call(&self, call: Call, line: &str) -> Outcome {
        let line = match call.agent {
            true => line.to_owned(),
            false => format!("--no-agent {line}"),
        };
        let Some(after) = call.killed else {
            return self.net.ipvlan(&line).into();
        };
        match self.kill_after(&line, after) {
            Ok(status) if status.success() => Outcome::Done,
            Ok(status) if status.code().is_some() => Outcome::Failed(format!(
                "`ipvlan {line}`, to be killed, ended with {status}"
            )),
            Ok(_) => Outcome::Killed,
            Err(error) => Outcome::Failed(format!("`ipvlan {line}`: {error}")),
        }
    }

    fn kill_after(&self, line: &str, after: Duration) -> std::io::Result<ExitStatus> {
        let mut child = self.net.host.enter(|| {
            Command::new(self.net.program().path())
                .args(line.split_whitespace())
                .env(MARK, self.net.mark())
                .stdout(Stdio::null())
                .stderr(Stdio::null())
                .spawn()
        })?;
        thread::sleep(after);
        child.kill()?;
        child.wait()
    }

    /// Something that is said of a tap. It may start an agent, and is not killed.
    pub(super) fn by_hand(&self, line: &str) -> Outcome {
        let call = Call {
            agent: true,
            killed: None,
        };
        self.call(call, line)
    }

    pub(super) fn start_agent(&mut self) -> Outcome {
        // It would end at once.
        if self.state.devices.is_empty() || !self.net.agents().is_empty() {
            return Outcome::Done;
        }
        let path = self.net.program().path().to_owned();
        self.agents
            .push(self.net.host.spawn(&format!("{path} agent")));
        // Until it is one, there is nothing to be killed.
        if !eventually(PATIENCE, || !self.net.agents().is_empty()) {
            return Outcome::Failed("`ipvlan agent` does not start".to_owned());
        }
        self.notice_agent();
        Outcome::Done
    }

    /// Finds out whether an agent runs, where nobody is known to.
    pub(crate) fn notice_agent(&self) {
        if self.state.devices.is_empty() && self.doubts.is_empty() {
            // It ends with the last device.
            self.shared.facts().agent_killed(self.shared.now());
            self.shared.facts().follow(self.shared.now());
        } else if !self.shared.facts().agent() && !self.net.agents().is_empty() {
            self.shared.facts().agent_started(self.shared.now());
            self.shared.report().agents().started += 1;
        }
    }
}
