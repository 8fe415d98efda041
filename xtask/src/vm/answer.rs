//! What came of a test, and for whom.

use std::fs;
use std::path::Path;

use super::cases::Case;
use crate::run::{On as _, Result};

/// Whose devices a test is run on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Backend {
    Driver,
    Ours,
}

impl Backend {
    /// As in a table's head.
    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Driver => "driver",
            Self::Ours => "ours",
        }
    }

    pub(super) fn parse(name: &str) -> Option<Self> {
        [Self::Driver, Self::Ours]
            .into_iter()
            .find(|backend| backend.name() == name)
    }

    /// As `IPVLAN_TEST_BACKEND` has it.
    pub(super) fn variable(self) -> &'static str {
        match self {
            Self::Driver => "kernel",
            Self::Ours => "ours",
        }
    }
}

/// How a test ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Outcome {
    Ok,
    /// Not at first, but by itself.
    Second,
    Failed,
    /// It was not done in time, or the machine died.
    NoAnswer,
}

impl Outcome {
    /// As in a table's cell.
    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Ok => "ok",
            Self::Second => "ok 2nd",
            Self::Failed => "FAILED",
            Self::NoAnswer => "no answer",
        }
    }
}

impl Outcome {
    /// Whether it did what was expected of it.
    pub(super) fn is_well(self) -> bool {
        matches!(self, Self::Ok | Self::Second)
    }
}

/// What came of a test: a line of the file `answers`.
#[derive(Debug, PartialEq)]
pub(super) struct Answer {
    pub(super) backend: Backend,
    pub(super) case: Case,
    pub(super) outcome: Outcome,
    pub(super) seconds: f64,
    /// The rows of `docs/kernel-differences.md` that it named.
    pub(super) rows: Vec<String>,
}

impl Answer {
    /// Writes answers as [`Self::read_all`] reads them.
    pub(super) fn write_all(answers: &[Self], folder: &Path) -> Result {
        let lines: String = answers.iter().map(Self::line).collect();
        let file = folder.join("answers");
        fs::write(&file, lines).on(&file)
    }

    /// The answers in a folder that `play` has filled, as far as it came.
    pub(super) fn read_all(folder: &Path) -> Vec<Self> {
        let text = fs::read_to_string(folder.join("answers")).unwrap_or_default();
        text.lines().filter_map(Self::read).collect()
    }

    pub(super) fn line(&self) -> String {
        let Self { seconds, rows, .. } = self;
        format!(
            "{} {} {} {seconds:.1} {}\n",
            self.backend.name(),
            self.case.name(),
            self.outcome.name().replace(' ', "-"),
            rows.join(" ")
        )
    }

    fn read(line: &str) -> Option<Self> {
        let mut words = line.split_whitespace();
        Some(Self {
            backend: Backend::parse(words.next()?)?,
            case: Case::parse(words.next()?)?,
            outcome: match words.next()? {
                "ok" => Outcome::Ok,
                "ok-2nd" => Outcome::Second,
                "FAILED" => Outcome::Failed,
                _ => Outcome::NoAnswer,
            },
            seconds: words.next()?.parse().ok()?,
            rows: words.map(str::to_owned).collect(),
        })
    }

    /// The file with what the test said, in the folder of its answers.
    pub(super) fn output(backend: Backend, case: &Case) -> String {
        format!("{}.{}", backend.name(), case.name().replace("::", "."))
    }
}

#[cfg(test)]
mod tests {
    use super::{Answer, Backend, Case, Outcome};

    #[test]
    fn an_answer_comes_out_of_its_line_as_it_went_in() {
        use Outcome::{Failed, NoAnswer, Ok, Second};
        for outcome in [Ok, Second, Failed, NoAnswer] {
            let answer = Answer {
                backend: Backend::Ours,
                case: Case::parse("flags::a").unwrap(),
                outcome,
                seconds: 1.5,
                rows: vec!["veth".into(), "follow".into()],
            };
            assert_eq!(Answer::read(&answer.line()), Some(answer));
        }
        assert_eq!(
            Answer::read("ours flags::a"),
            None,
            "the guest died while it wrote"
        );
    }
}
