//! `ipvlan link set [ dev ] DEV type { ipvlan | ipvtap } …`: changes the port, and so all of its devices.

use ipvlan_control::Change;

use super::kind::{self, Kind};
use super::{Target, add};
use crate::args::{Words, is_help, matches};
use crate::{Command, Error, Topic};

/// Change the port of a device.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Set {
    /// The device.
    pub name: String,
    /// What of its port.
    pub kind: Kind,
}

/// Words that `ip link set` and `ip link add` take both, and we in `add` only.
const IN_ADD_ONLY: [&str; 12] = [
    "address",
    "down",
    "index",
    "link",
    "mtu",
    "name",
    "netns",
    "numrxqueues",
    "numtxqueues",
    "txqlen",
    "txqueuelen",
    "up",
];

pub(super) fn parse(words: &mut Words<'_>) -> Result<Command, Error> {
    let mut target = Target::default();
    while let Some(word) = words.next() {
        if word.len() > 1 && matches(word, "type") {
            let what = kind::check(words.value()?, "set")?;
            let Some(kind) = kind::parse(what, false, words)? else {
                return Ok(Command::Help(Topic::Kind));
            };
            let name = target.required()?;
            return Ok(Command::Link(super::Command::Set(Set { name, kind })));
        }
        if is_help(word) {
            return Ok(Command::Help(Topic::Link));
        }
        if IN_ADD_ONLY.contains(&word) || add::NOT_HERE.contains(&word) {
            return Err(Error::NotAChange(word.to_owned()));
        }
        target.take(word, words)?;
    }
    let _: String = target.required()?;
    Err(Error::NoType)
}

impl Set {
    pub(super) fn run(&self) -> Result<(), Error> {
        let Kind {
            kind,
            mode,
            flag,
            learning,
            ..
        } = self.kind;
        ipvlan_control::change(&self.name, kind, Change { mode, flag })?;
        if let Some(on) = learning {
            ipvlan_control::learn(&self.name, on)?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use ipvlan_abi::{Flag, Mode};

    use super::super::tests::{fail, parse};
    use super::*;

    #[test]
    fn every_spelling() {
        for (line, mode, flag) in [
            ("link set v type ipvlan", None, None),
            ("link set dev v type ipvlan mode l3", Some(Mode::L3), None),
            (
                "link change v type ipvlan mode L2 private",
                Some(Mode::L2),
                Some(Flag::Private),
            ),
            ("l s v ty ipvlan b", None, Some(Flag::Bridge)),
        ] {
            let wanted = Set {
                name: "v".to_owned(),
                kind: Kind {
                    mode,
                    flag,
                    ..Kind::default()
                },
            };
            let wanted = Command::Link(super::super::Command::Set(wanted));
            assert_eq!(parse(line).expect(line), wanted, "{line}");
        }
    }

    #[test]
    fn errors() {
        let no_dev = "Not enough information: \"dev\" argument is required.";
        let not_a_change = |word: &str| Error::NotAChange(word.to_owned()).to_string();
        fail(
            255,
            &[
                ("l set", no_dev),
                ("l set type ipvlan mode l2", no_dev),
                (
                    "l set dev",
                    "Command line is not complete. Try option \"help\"",
                ),
                (
                    "l set v type",
                    "Command line is not complete. Try option \"help\"",
                ),
                (
                    "l set v w type ipvlan",
                    "Error: either \"dev\" is duplicate, or \"w\" is a garbage.",
                ),
                (
                    "l set a/b type ipvlan",
                    "Error: argument \"a/b\" is wrong: \"dev\" not a valid ifname",
                ),
            ],
        );
        fail(
            1,
            &[(
                "l set v",
                "Not enough information: \"type\" argument is required",
            )],
        );
        fail(
            2,
            &[
                ("l set v up", &not_a_change("up")),
                ("l set dev v netns blue", &not_a_change("netns")),
                ("l set v mtu 1400 type ipvlan", &not_a_change("mtu")),
                ("l set v alias x", &not_a_change("alias")),
            ],
        );
    }
}
