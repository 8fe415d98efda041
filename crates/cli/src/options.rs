//! What stands before the noun: `ipvlan -d -s link show`.

use crate::args::{Words, matches};
use crate::{Command, Error, Topic};

/// How to do it, and how to show it.
#[derive(Clone, Debug, PartialEq, Eq)]
#[expect(
    clippy::struct_excessive_bools,
    reason = "each is a switch of its own on the command line"
)]
pub struct Options {
    /// `-d`: everything.
    pub details: bool,
    /// `-s`: counters; twice: errors too.
    pub statistics: u8,
    /// `-j`.
    pub json: bool,
    /// `-p`: JSON for people.
    pub pretty: bool,
    /// `-br`: a device a line.
    pub brief: bool,
    /// `-o`: a device a line, with `\` where a line ended.
    pub oneline: bool,
    /// `-n NAME`: the namespace to work in.
    pub netns: Option<String>,
    /// Without `--no-agent`: a new device may start the agent.
    pub agent: bool,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            details: false,
            statistics: 0,
            json: false,
            pretty: false,
            brief: false,
            oneline: false,
            netns: None,
            agent: true,
        }
    }
}

impl Options {
    /// Takes the options off the front of `words`. `Some`: one of them was the whole command.
    pub(crate) fn parse(&mut self, words: &mut Words<'_>) -> Result<Option<Command>, Error> {
        while let Some(word) = words.peek() {
            let Some(option) = word.strip_prefix('-') else {
                break;
            };
            let _: Option<&str> = words.next();
            // Two dashes are as good as one; alone they end the options.
            let option = match option.strip_prefix('-') {
                Some("") => break,
                Some(option) => option,
                None => option,
            };
            if matches(option, "details") {
                self.details = true;
            } else if matches(option, "statistics") || matches(option, "stats") {
                self.statistics = self.statistics.saturating_add(1);
            } else if matches(option, "json") {
                self.json = true;
            } else if matches(option, "pretty") {
                self.pretty = true;
            } else if option.len() > 1 && matches(option, "brief") {
                // A lone -b is ip's -batch.
                self.brief = true;
            } else if matches(option, "oneline") {
                self.oneline = true;
            } else if matches(option, "netns") {
                self.netns = Some(words.value()?.to_owned());
            } else if matches(option, "help") {
                return Ok(Some(Command::Help(Topic::Program)));
            } else if matches(option, "Version") || option == "version" {
                return Ok(Some(Command::Version));
            } else if !is_color(option) {
                return Err(Error::Option(word.to_owned()));
            }
        }
        Ok(None)
    }
}

/// Taken, and without effect: our output has no colour.
fn is_color(option: &str) -> bool {
    let (name, when) = option.split_once('=').unwrap_or((option, "always"));
    matches(name, "color") && matches!(when, "always" | "auto" | "never")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn options(line: &str) -> Options {
        let words: Vec<_> = line.split(' ').collect();
        crate::parse(&words).expect(line).options
    }

    #[test]
    fn every_spelling() {
        let default = Options::default;
        for line in ["-d", "-de", "-det", "-details", "--details", "-d -d"] {
            let wanted = Options {
                details: true,
                ..default()
            };
            assert_eq!(options(line), wanted, "{line}");
        }
        for line in ["-s", "-st", "-stats", "-statistics", "--statistics"] {
            let wanted = Options {
                statistics: 1,
                ..default()
            };
            assert_eq!(options(line), wanted, "{line}");
        }
        for line in ["-j -p", "-json -pretty", "--json --pretty", "-p -js link"] {
            let wanted = Options {
                json: true,
                pretty: true,
                ..default()
            };
            assert_eq!(options(line), wanted, "{line}");
        }
        for line in ["-br", "-bri", "-brief", "--brief link show"] {
            let wanted = Options {
                brief: true,
                ..default()
            };
            assert_eq!(options(line), wanted, "{line}");
        }
        for line in ["-o", "-one", "-oneline", "--oneline -- link"] {
            let wanted = Options {
                oneline: true,
                ..default()
            };
            assert_eq!(options(line), wanted, "{line}");
        }
        for line in [
            "-n blue",
            "-net blue",
            "--netns blue link",
            "-n red -n blue",
        ] {
            let wanted = Options {
                netns: Some("blue".to_owned()),
                ..default()
            };
            assert_eq!(options(line), wanted, "{line}");
        }
        for line in [
            "-c",
            "-color",
            "-col=auto",
            "--color=never",
            "-c=always",
            "--",
        ] {
            assert_eq!(options(line), default(), "{line}");
        }
        let wanted = Options {
            statistics: 3,
            details: true,
            ..default()
        };
        assert_eq!(options("-s -s -d -s link show dev -s"), wanted);
    }

    #[test]
    fn help_and_version_are_commands() {
        let command = |word: &str| crate::parse(&[word, "-x", "y"]).expect(word).command;
        for word in ["-h", "-he", "-help", "--help"] {
            assert_eq!(command(word), Command::Help(Topic::Program), "{word}");
        }
        for word in [
            "-V",
            "-Ver",
            "-Version",
            "--Version",
            "--version",
            "-version",
        ] {
            assert_eq!(command(word), Command::Version, "{word}");
        }
    }

    #[test]
    fn others_are_refused_by_name() {
        for word in [
            "-foo",
            "-b",
            "-4",
            "-",
            "-v",
            "--jsonn",
            "-color=foo",
            "-s=1",
            "-batch",
            "--no-agents",
        ] {
            let error = crate::parse(&[word, "link"]).expect_err(word);
            assert_eq!(
                error.to_string(),
                format!("Option \"{word}\" is unknown, try \"ipvlan -help\".")
            );
            assert_eq!(error.status(), 255);
        }
        assert!(matches!(crate::parse(&["-n"]), Err(Error::Incomplete)));
    }
}
