//! What follows `type { ipvlan | ipvtap }`: `[ mode { l3 | l3s | l2 } ] [ bridge | private | vepa ]`,
//! of an ipvtap `[ learning { on | off } ]`, as of a bridge's port, and of one that is to be made
//! `[ user USER ] [ group GROUP ]`, as in `ip tuntap`.

use ipvlan_abi::{Flag, Mode};

use crate::Error;
use crate::args::{Words, is_help, matches};

/// The kind, and what was said with it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Kind {
    /// `ipvlan` or `ipvtap`.
    pub kind: ipvlan_control::Kind,
    /// `mode { l2 | l3 | l3s }`.
    pub mode: Option<Mode>,
    /// `bridge`, `private` or `vepa`.
    pub flag: Option<Flag>,
    /// `user`: a name or a number. Of an ipvtap that is to be made.
    pub user: Option<String>,
    /// `group`, the same.
    pub group: Option<String>,
    /// `learning { on | off }`, of an ipvtap.
    pub learning: Option<bool>,
}

const FLAGS: [Flag; 3] = [Flag::Bridge, Flag::Private, Flag::Vepa];

/// The kind itself. `verb` is what `ip link` would be asked to do with another one.
pub(super) fn check(kind: &str, verb: &'static str) -> Result<ipvlan_control::Kind, Error> {
    match kind {
        "ipvlan" => Ok(ipvlan_control::Kind::Ipvlan),
        "ipvtap" => Ok(ipvlan_control::Kind::Ipvtap),
        _ => Err(Error::OtherKind {
            kind: kind.to_owned(),
            verb,
        }),
    }
}

/// All words to the end, of something that is to be `made` or not. None: `help` was one of them.
pub(super) fn parse(
    what: ipvlan_control::Kind,
    made: bool,
    words: &mut Words<'_>,
) -> Result<Option<Kind>, Error> {
    let mut kind = Kind {
        kind: what,
        ..Kind::default()
    };
    let may_have_users = made && what == ipvlan_control::Kind::Ipvtap;
    while let Some(word) = words.next() {
        let flag = FLAGS.into_iter().find(|flag| matches(word, flag.as_str()));
        if matches(word, "mode") {
            // Twice is no error in iproute2: the last one counts.
            kind.mode = Some(words.value()?.parse().map_err(|_| Error::Mode)?);
        } else if flag.is_some() && kind.flag.is_none() {
            kind.flag = flag;
        } else if may_have_users && matches(word, "user") {
            kind.user = Some(words.value()?.to_owned());
        } else if may_have_users && matches(word, "group") {
            kind.group = Some(words.value()?.to_owned());
        } else if what == ipvlan_control::Kind::Ipvtap && matches(word, "learning") {
            kind.learning = Some(match words.value()? {
                "on" => true,
                "off" => false,
                other => {
                    return Err(Error::OnOff {
                        key: "learning",
                        word: other.to_owned(),
                    });
                }
            });
        } else if is_help(word) {
            return Ok(None);
        } else {
            return Err(Error::KindOption {
                kind: what.as_str(),
                word: word.to_owned(),
            });
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
        parse(ipvlan_control::Kind::Ipvlan, true, &mut Words::new(&words))
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
            let wanted = Kind {
                mode,
                flag,
                ..Kind::default()
            };
            assert_eq!(kind(line).expect(line), Some(wanted), "{line}");
        }
        for line in ["help", "mode l2 h", "private --help"] {
            assert_eq!(kind(line).expect(line), None, "{line}");
        }
    }

    #[test]
    fn an_ipvtap_has_users() {
        for (line, user, group) in [
            ("", None, None),
            ("user qemu group 36", Some("qemu"), Some("36")),
            ("mode l2 u 0 private g kvm", Some("0"), Some("kvm")),
        ] {
            let words: Vec<_> = line.split_whitespace().collect();
            let what = ipvlan_control::Kind::Ipvtap;
            let kind = parse(what, true, &mut Words::new(&words));
            let kind = kind.expect(line).expect("no help");
            assert_eq!(kind.kind, what);
            assert_eq!(
                (kind.user.as_deref(), kind.group.as_deref()),
                (user, group),
                "{line}"
            );
        }
    }

    #[test]
    fn an_ipvtap_is_learnt_of_or_not() {
        let tap = |line: &str, made| {
            let words: Vec<_> = line.split_whitespace().collect();
            let found = parse(ipvlan_control::Kind::Ipvtap, made, &mut Words::new(&words));
            found.map(|kind| kind.expect("no help").learning)
        };
        for (line, learning) in [
            ("", None),
            ("learning on", Some(true)),
            ("mode l2 lea off", Some(false)),
            ("learning off learning on", Some(true)),
        ] {
            for made in [true, false] {
                assert_eq!(tap(line, made).expect(line), learning, "{line}");
            }
        }
        let error = tap("learning maybe", false).expect_err("neither");
        let text = "Error: argument of \"learning\" must be \"on\" or \"off\", not \"maybe\"";
        assert_eq!((error.to_string().as_str(), error.status()), (text, 1));
        let error = kind("learning on").expect_err("of an ipvlan");
        assert!(error.to_string().contains("\"learning\""), "{error}");
    }

    #[test]
    fn the_rest_is_refused_as_iproute2_does() {
        let bad_mode = "Error: argument of \"mode\" must be either \"l2\", \"l3\" or \"l3s\"";
        let unknown = |word: &str| {
            let (kind, word) = ("ipvlan", word.to_owned());
            Error::KindOption { kind, word }.to_string()
        };
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
                ("l set v type ipvlan user x", &unknown("user")),
                ("l a link e v type ipvlan user x", &unknown("user")),
                (
                    "l set v type ipvtap user x",
                    &unknown("user").replace("ipvlan", "ipvtap"),
                ),
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
            &[(
                "l set v type veth peer x",
                "Error: type \"veth\" is not ours: use \"ip link set\" for it",
            )],
        );
    }
}
