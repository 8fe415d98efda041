//! `ipvlan link del [ dev ] DEV [ type { ipvlan | ipvtap } ]`.

use super::{Target, kind};
use crate::args::{Words, is_help};
use crate::{Command, Error, Topic};

/// Delete a device.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Del {
    /// Its name.
    pub name: String,
}

pub(super) fn parse(words: &mut Words<'_>) -> Result<Command, Error> {
    let mut target = Target::default();
    while let Some(word) = words.next() {
        match word {
            "type" => {
                let what = kind::check(words.value()?, "del")?;
                // Kind, mode and flag are taken as by ip, and mean nothing here.
                if kind::parse(what, false, words)?.is_none() {
                    return Ok(Command::Help(Topic::Kind));
                }
            }
            "group" => {
                return Err(Error::NotOurWord {
                    word: word.to_owned(),
                    verb: "del",
                });
            }
            _ if is_help(word) => return Ok(Command::Help(Topic::Link)),
            _ => target.take(word, words)?,
        }
    }
    let name = target.required()?;
    Ok(Command::Link(super::Command::Del(Del { name })))
}

impl Del {
    pub(super) fn run(&self) -> Result<(), Error> {
        Ok(ipvlan_control::delete(&self.name)?)
    }
}

#[cfg(test)]
mod tests {
    use super::super::tests::{fail, parse};
    use super::*;

    #[test]
    fn every_spelling() {
        for line in [
            "link del ipvl0",
            "l d dev ipvl0",
            "link delete ipvl0 type ipvlan",
            "link del dev ipvl0 type ipvlan mode l2",
        ] {
            let wanted = Del {
                name: "ipvl0".to_owned(),
            };
            let wanted = Command::Link(super::super::Command::Del(wanted));
            assert_eq!(parse(line).expect(line), wanted, "{line}");
        }
    }

    #[test]
    fn errors() {
        fail(
            255,
            &[
                (
                    "l d",
                    "Not enough information: \"dev\" argument is required.",
                ),
                (
                    "l d type ipvlan",
                    "Not enough information: \"dev\" argument is required.",
                ),
                (
                    "l d dev",
                    "Command line is not complete. Try option \"help\"",
                ),
                (
                    "l d v type",
                    "Command line is not complete. Try option \"help\"",
                ),
                (
                    "l d v w",
                    "Error: either \"dev\" is duplicate, or \"w\" is a garbage.",
                ),
                (
                    "l d v dev w",
                    "Error: either \"dev\" is duplicate, or \"w\" is a garbage.",
                ),
                (
                    "l d a/b",
                    "Error: argument \"a/b\" is wrong: \"dev\" not a valid ifname",
                ),
            ],
        );
        fail(
            2,
            &[(
                "l d v type veth",
                "Error: type \"veth\" is not ours: use \"ip link del\" for it",
            )],
        );
    }
}
