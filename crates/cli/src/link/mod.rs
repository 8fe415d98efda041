//! `ipvlan link …`.

mod add;
mod del;
mod kind;
mod set;
mod show;

pub use add::Add;
pub use del::Del;
pub use kind::Kind;
pub use set::Set;
pub use show::Show;
pub(crate) use show::{has_name, not_ours};

use crate::args::{Words, is_help, matches};
use crate::{Error, Options, Topic};

/// A verb and what it is about.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Command {
    /// Make a device.
    Add(Add),
    /// Delete one.
    Del(Del),
    /// Change the port of one.
    Set(Set),
    /// Show some.
    Show(Show),
}

type Parse = fn(&mut Words<'_>) -> Result<crate::Command, Error>;

/// In iproute2's order, because a prefix means the first that it fits: `s` is `set`, not `show`.
const VERBS: [(&str, Parse); 8] = [
    ("add", add::parse),
    ("set", set::parse),
    ("change", set::parse),
    ("show", show::parse),
    ("lst", show::parse),
    ("list", show::parse),
    ("delete", del::parse),
    ("help", help),
];

pub(crate) fn parse(words: &mut Words<'_>) -> Result<crate::Command, Error> {
    let Some(verb) = words.next() else {
        return Ok(crate::Command::Link(Command::Show(Show::default())));
    };
    let known = VERBS.iter().find(|(name, _)| matches(verb, name));
    match known {
        Some((_, parse)) => parse(words),
        None if is_help(verb) => help(words),
        None if verb.starts_with('-') => Err(Error::LateOption(verb.to_owned())),
        None => Err(Error::Verb(verb.to_owned())),
    }
}

fn help(words: &mut Words<'_>) -> Result<crate::Command, Error> {
    let topic = match words.next() {
        None => Topic::Link,
        Some(kind) => kind::check(kind, "help").map(|_| Topic::Kind)?,
    };
    Ok(crate::Command::Help(topic))
}

impl Command {
    pub(crate) fn run(&self, options: &Options) -> Result<(), Error> {
        match self {
            Self::Add(add) => add.run(options.agent),
            Self::Del(del) => del.run(),
            Self::Set(set) => set.run(),
            Self::Show(show) => show.run(options),
        }
    }
}

/// The device that a verb is about: `DEV` or `dev DEV`.
#[derive(Default)]
pub(crate) struct Target<'a>(pub(crate) Option<&'a str>);

impl<'a> Target<'a> {
    /// Takes `word` for the device, or for the `dev` before it.
    pub(crate) fn take(&mut self, word: &'a str, words: &mut Words<'a>) -> Result<(), Error> {
        let name = if word == "dev" { words.value()? } else { word };
        if self.0.is_some() {
            return Err(Error::Garbage(name.to_owned()));
        }
        if name == word && name.starts_with('-') {
            return Err(Error::LateOption(name.to_owned()));
        }
        self.0 = Some(name);
        Ok(())
    }

    pub(crate) fn required(self) -> Result<String, Error> {
        let name = self.0.ok_or(Error::NoDev)?;
        if is_unfit(name) {
            return Err(Error::wrong(name, "\"dev\" not a valid ifname"));
        }
        Ok(name.to_owned())
    }
}

/// What iproute2 itself refuses in a name; the rest it leaves to the kernel.
fn is_unfit(name: &str) -> bool {
    name.is_empty() || name.contains(|c: char| c == '/' || c.is_ascii_whitespace() || c == '\x0b')
}

#[cfg(test)]
mod tests {
    use super::*;

    pub(super) fn parse(line: &str) -> Result<crate::Command, Error> {
        let words: Vec<_> = line.split_whitespace().collect();
        crate::parse(&words).map(|invocation| invocation.command)
    }

    /// Lines of [line, error text] with one exit status.
    pub(super) fn fail(status: u8, table: &[(&str, &str)]) {
        for (line, text) in table {
            let error = parse(line).expect_err(line);
            assert_eq!(error.to_string(), *text, "{line}");
            assert_eq!(error.status(), status, "{line}");
        }
    }

    #[test]
    fn verbs_may_be_cut_short_as_in_ip() {
        use crate::Command::{Help, Link};
        for line in [
            "l",
            "link",
            "l l",
            "l ls",
            "l lst",
            "l li",
            "link list",
            "l sh",
            "link show",
        ] {
            assert!(matches!(parse(line), Ok(Link(Command::Show(_)))), "{line}");
        }
        for line in ["l d v", "l del v", "link delete v"] {
            assert!(matches!(parse(line), Ok(Link(Command::Del(_)))), "{line}");
        }
        for line in ["l s v", "l set v", "l c v", "link change v"] {
            let line = format!("{line} type ipvlan");
            assert!(matches!(parse(&line), Ok(Link(Command::Set(_)))), "{line}");
        }
        for line in ["l a", "link add"] {
            let line = format!("{line} link e v type ipvlan");
            assert!(matches!(parse(&line), Ok(Link(Command::Add(_)))), "{line}");
        }
        for line in [
            "l h",
            "link help",
            "l a h",
            "l s help",
            "l d help",
            "l sh help",
            "l --help",
        ] {
            assert!(matches!(parse(line), Ok(Help(Topic::Link))), "{line}");
        }
        for line in ["l h ipvlan", "link add link e v type ipvlan help"] {
            assert!(matches!(parse(line), Ok(Help(Topic::Kind))), "{line}");
        }
    }

    #[test]
    fn others_are_refused() {
        let unknown =
            |verb: &str| format!("Command \"{verb}\" is unknown, try \"ipvlan link help\".");
        fail(
            255,
            &[
                ("l foo", &unknown("foo")),
                ("l adds", &unknown("adds")),
                ("l x", &unknown("x")),
            ],
        );
        fail(
            255,
            &[("l -j", &Error::LateOption("-j".to_owned()).to_string())],
        );
    }
}
