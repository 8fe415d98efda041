//! What follows `type ipvlan`: `[ mode { l3 | l3s | l2 } ] [ bridge | private | vepa ]`.

use ipvlan_abi::{Flag, Mode};

use crate::Error;
use crate::args::{Words, is_help, matches};

/// Mode and flag, where they were given.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Kind {
    /// `mode { l2 | l3 | l3s }`.
    pub mode: Option<Mode>,
    /// `bridge`, `private` or `vepa`.
    pub flag: Option<Flag>,
}

const FLAGS: [Flag; 3] = [Flag::Bridge, Flag::Private, Flag::Vepa];

/// The kind itself. `verb` is what `ip link` would be asked to do with another one.
pub(super) fn check(kind: &str, verb: &'static str) -> Result<(), Error> {
    match kind {
        "ipvlan" => Ok(()),
        "ipvtap" => Err(Error::Ipvtap),
        _ => Err(Error::OtherKind {
            kind: kind.to_owned(),
            verb,
        }),
    }
}

/// All words to the end. None: `help` was one of them.
pub(super) fn parse(words: &mut Words<'_>) -> Result<Option<Kind>, Error> {
    let mut kind = Kind::default();
    while let Some(word) = words.next() {
        let flag = FLAGS.into_iter().find(|flag| matches(word, flag.as_str()));
        if matches(word, "mode") {
            // Twice is no error in iproute2: the last one counts.
            kind.mode = Some(words.value()?.parse().map_err(|_| Error::Mode)?);
        } else if flag.is_some() && kind.flag.is_none() {
            kind.flag = flag;
        } else if is_help(word) {
            return Ok(None);
        } else {
            return Err(Error::KindOption(word.to_owned()));
        }
    }
    Ok(Some(kind))
}

#[cfg(test)]
mod tests {
    use super::super::tests::fail;
    use super::*;

    fn kind(line: &str) -> Result<Option<Kind>, Error> {
        let words: Vec<_> = line.split_whitespace().collect();
        parse(&mut Words::new(&words))
    }

    #[test]
    fn every_spelling() {
        let l2 = Some(Mode::L2);
        let l3 = Some(Mode::L3);
        let private = Some(Flag::Private);
        for (line, mode, flag) in [
            ("", None, None),
            ("mode l2", l2, None),
            ("mode L3", l3, None),
            ("m l2", l2, None),
            ("mo L2 private", l2, private),
            ("private mode l2", l2, private),
            ("p", None, private),
            ("bridge", None, Some(Flag::Bridge)),
            ("b", None, Some(Flag::Bridge)),
            ("v mode l3", l3, Some(Flag::Vepa)),
            ("mode l2 mode l3", l3, None),
            ("mode l3s", Some(Mode::L3s), None),
            ("mode L3S private", Some(Mode::L3s), private),
        ] {
            assert_eq!(kind(line).expect(line), Some(Kind { mode, flag }), "{line}");
        }
        for line in ["help", "mode l2 h", "private --help"] {
            assert_eq!(kind(line).expect(line), None, "{line}");
        }
    }

    #[test]
    fn the_rest_is_refused_as_iproute2_does() {
        let bad_mode = "Error: argument of \"mode\" must be either \"l2\", \"l3\" or \"l3s\"";
        let unknown = |word: &str| Error::KindOption(word.to_owned()).to_string();
        fail(
            1,
            &[
                ("l set v type ipvlan mode l4", bad_mode),
                ("l set v type ipvlan mode bridge", bad_mode),
                ("l set v type ipvlan mode 2", bad_mode),
                ("l set v type ipvlan mode l3ss", bad_mode),
                ("l set v type ipvlan bridge private", &unknown("private")),
                ("l set v type ipvlan p p", &unknown("p")),
                ("l set v type ipvlan mtu 1500", &unknown("mtu")),
                ("l set v type ipvlan modes l2", &unknown("modes")),
            ],
        );
        assert!(
            unknown("x").starts_with("ipvlan: unknown option \"x\"?\nUsage: ... ipvlan [ mode ")
        );
        fail(
            255,
            &[(
                "l set v type ipvlan mode",
                "Command line is not complete. Try option \"help\"",
            )],
        );
        fail(
            2,
            &[
                (
                    "l set v type ipvtap",
                    "Error: type \"ipvtap\" is not supported yet: \"ipvlan\" is",
                ),
                (
                    "l set v type veth peer x",
                    "Error: type \"veth\" is not ours: use \"ip link set\" for it",
                ),
            ],
        );
    }
}
