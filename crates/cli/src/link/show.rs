//! `ipvlan link show [ [ dev ] DEV ] [ type { ipvlan | ipvtap } ] [ link PARENT ] [ up ]`.

use ipvlan_control::Shown;
use ipvlan_netlink::{Link, Netlink};

use super::{Target, kind};
use crate::args::{Words, is_help};
use crate::json::Value;
use crate::view::View;
use crate::{Command, Error, Options, Topic, out, text};

/// Show devices: all, or those that fit.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Show {
    /// The one with this name.
    pub name: Option<String>,
    /// Those of this parent.
    pub parent: Option<String>,
    /// Those that are up.
    pub up: bool,
    /// Those of this type: another device is then no error but nothing to show.
    pub kind: Option<ipvlan_control::Kind>,
}

pub(super) fn parse(words: &mut Words<'_>) -> Result<Command, Error> {
    let mut show = Show::default();
    let mut target = Target::default();
    while let Some(word) = words.next() {
        match word {
            "up" => show.up = true,
            "type" => {
                show.kind = Some(kind::check(words.value()?, "show")?);
            }
            "link" => {
                let parent = words.value()?;
                crate::args::once(&mut show.parent, "link", parent, parent.to_owned())?;
            }
            "group" | "master" | "nomaster" | "novf" | "vrf" => {
                return Err(Error::NotOurWord {
                    word: word.to_owned(),
                    verb: "show",
                });
            }
            _ if is_help(word) => return Ok(Command::Help(Topic::Link)),
            _ => target.take(word, words)?,
        }
    }
    show.name = target.0.map(str::to_owned);
    Ok(Command::Link(super::Command::Show(show)))
}

impl Show {
    pub(super) fn run(&self, options: &Options) -> Result<(), Error> {
        let shown = ipvlan_control::show()?;
        let mut netlink = Netlink::open().map_err(ipvlan_control::Error::from)?;
        let shown: Vec<_> = shown.iter().filter(|shown| self.fits(shown)).collect();
        if shown.is_empty() {
            self.explain(&mut netlink)?;
        }
        // A link that cannot be read any more has no name to show.
        let mut here = |index| netlink.link(index, None).ok().flatten();
        out::print(&render(&shown, options, &mut here))
    }

    fn fits(&self, shown: &Shown) -> bool {
        let is_name = |name: &String| has_name(&shown.link, name);
        self.name.as_ref().is_none_or(is_name)
            && self
                .parent
                .as_ref()
                .is_none_or(|name| *name == shown.parent)
            && (!self.up || shown.link.is_up())
            && self.kind.is_none_or(|kind| kind == shown.kind)
    }

    /// Why there is nothing to show, if that needs an explanation.
    fn explain(&self, netlink: &mut Netlink) -> Result<(), Error> {
        let mut find = |name: &str| {
            netlink
                .link_by_name(name)
                .map_err(ipvlan_control::Error::from)
        };
        if let Some(name) = &self.parent
            && find(name)?.is_none()
        {
            return Err(Error::wrong(name, "Device does not exist"));
        }
        let Some(name) = &self.name else {
            return Ok(());
        };
        not_ours(
            name,
            find(name)?.as_ref(),
            self.kind.is_some() || self.up || self.parent.is_some(),
        )
    }
}

/// What to say of a device that is none of ours. `filtered`: it may well be, and does not fit.
pub(crate) fn not_ours(name: &str, link: Option<&Link>, filtered: bool) -> Result<(), Error> {
    match link {
        None => Err(Error::NotShown(name.to_owned())),
        Some(_) if filtered => Ok(()),
        Some(link) => Err(ipvlan_control::Error::NotOurs {
            name: name.to_owned(),
            kind: link
                .kind
                .clone()
                .unwrap_or_else(|| "a device without a kind".to_owned()),
        }
        .into()),
    }
}

pub(crate) fn has_name(link: &Link, name: &str) -> bool {
    link.name == name || link.alt_names.iter().any(|other| other == name)
}

fn render(
    shown: &[&Shown],
    options: &Options,
    here: &mut dyn FnMut(u32) -> Option<Link>,
) -> String {
    let views = shown.iter().map(|shown| View::new(shown, here));
    if options.json {
        Value::List(views.map(|view| text::json(&view, options)).collect()).print(options.pretty)
    } else {
        views.map(|view| text::text(&view, options)).collect()
    }
}

#[cfg(test)]
mod tests {
    use ipvlan_control::Kind;

    use super::super::tests::{fail, parse};
    use super::*;

    #[test]
    fn every_spelling() {
        let name = Some("v".to_owned());
        let parent = Some("eth0".to_owned());
        let all = Show::default;
        for (line, wanted) in [
            ("link show", all()),
            (
                "l sh v",
                Show {
                    name: name.clone(),
                    ..all()
                },
            ),
            (
                "l l dev v",
                Show {
                    name: name.clone(),
                    ..all()
                },
            ),
            ("l ls up", Show { up: true, ..all() }),
            (
                "l ls type ipvlan",
                Show {
                    kind: Some(Kind::Ipvlan),
                    ..all()
                },
            ),
            (
                "l ls type ipvtap",
                Show {
                    kind: Some(Kind::Ipvtap),
                    ..all()
                },
            ),
            (
                "link list link eth0",
                Show {
                    parent: parent.clone(),
                    ..all()
                },
            ),
            (
                "l l up v link eth0 up type ipvlan",
                Show {
                    name,
                    parent,
                    up: true,
                    kind: Some(Kind::Ipvlan),
                },
            ),
        ] {
            let wanted = Command::Link(super::super::Command::Show(wanted));
            assert_eq!(parse(line).expect(line), wanted, "{line}");
        }
    }

    #[test]
    fn errors() {
        fail(
            255,
            &[
                (
                    "l ls v w",
                    "Error: either \"dev\" is duplicate, or \"w\" is a garbage.",
                ),
                (
                    "l ls dev v w",
                    "Error: either \"dev\" is duplicate, or \"w\" is a garbage.",
                ),
                (
                    "l ls dev",
                    "Command line is not complete. Try option \"help\"",
                ),
                (
                    "l ls type",
                    "Command line is not complete. Try option \"help\"",
                ),
                (
                    "l ls link",
                    "Command line is not complete. Try option \"help\"",
                ),
                ("l ls -j", &Error::LateOption("-j".to_owned()).to_string()),
            ],
        );
        fail(
            2,
            &[
                (
                    "l ls type veth",
                    "Error: type \"veth\" is not ours: use \"ip link show\" for it",
                ),
                (
                    "l ls master br0",
                    "Error: \"master\" is not for us: use \"ip link show\" for it",
                ),
            ],
        );
    }
}
