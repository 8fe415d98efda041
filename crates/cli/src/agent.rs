//! `ipvlan agent`: what keeps the datapath up with the addresses inside the namespaces.

use ipvlan_control::agent::{self, Options};

use crate::args::{Words, is_help, matches};
use crate::{Command, Error, Topic};

/// Run the agent.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Agent {
    /// Under the eyes of systemd or of a person.
    pub foreground: bool,
}

pub(crate) fn parse(words: &mut Words<'_>) -> Result<Command, Error> {
    let mut agent = Agent::default();
    for word in words {
        if is_help(word) {
            return Ok(Command::Help(Topic::Agent));
        }
        if !matches(word.trim_start_matches('-'), "foreground") {
            return Err(Error::wrong(word, "\"agent\" takes \"--foreground\" only"));
        }
        agent.foreground = true;
    }
    Ok(Command::Agent(agent))
}

impl Agent {
    pub(crate) fn run(self) -> Result<(), Error> {
        Ok(agent::run(Options {
            foreground: self.foreground,
        })?)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_takes_one_switch() {
        let parse = |line: &str| {
            let words: Vec<_> = line.split_whitespace().collect();
            crate::parse(&words).map(|invocation| invocation.command)
        };
        let agent = |foreground| Command::Agent(Agent { foreground });
        assert_eq!(parse("agent").expect("plain"), agent(false));
        for word in ["--foreground", "-foreground", "foreground", "-f"] {
            assert_eq!(parse(&format!("agent {word}")).expect(word), agent(true));
        }
        let help = Command::Help(Topic::Agent);
        assert_eq!(parse("agent help").expect("help"), help);
        assert_eq!(parse("agent --help").expect("help"), help);
        let error = parse("agent --background").expect_err("no such switch");
        assert_eq!(error.status(), 255);
    }
}
