//! `ipvlan addr …`: which addresses a device owns, and which addresses and prefixes it has by hand.

use std::collections::BTreeSet;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use ipnet::{IpNet, Ipv4Net, Ipv6Net};
use ipvlan_control::{Shown, words as in_words};
use ipvlan_netlink::{Link, Netlink};

use crate::args::{Words, is_help, matches, once};
use crate::json::Value;
use crate::link::{Target, has_name, not_ours};
use crate::view::View;
use crate::{Error, Options, Topic, out, text};

/// A verb and what it is about.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Command {
    /// Give an address or a prefix to a device.
    Add(Grant),
    /// Take that back.
    Del(Grant),
    /// Show who owns what.
    Show(Show),
}

/// What is given, and to which device.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Grant {
    /// An address, or a prefix.
    pub prefix: IpNet,
    /// The device's name.
    pub name: String,
}

/// Whose addresses to show.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Show {
    /// Of this device only.
    pub name: Option<String>,
}

type Parse = fn(&mut Words<'_>) -> Result<crate::Command, Error>;

/// In iproute2's order, because a prefix means the first that it fits.
const VERBS: [(&str, Parse); 6] = [
    ("add", |words| {
        grant(words).map(|grant| wrap(grant, Command::Add))
    }),
    ("delete", |words| {
        grant(words).map(|grant| wrap(grant, Command::Del))
    }),
    ("show", show),
    ("lst", show),
    ("list", show),
    ("help", |_| Ok(help())),
];

pub(crate) fn parse(words: &mut Words<'_>) -> Result<crate::Command, Error> {
    let Some(verb) = words.next() else {
        return Ok(crate::Command::Addr(Command::Show(Show::default())));
    };
    match VERBS.iter().find(|(name, _)| matches(verb, name)) {
        Some((_, parse)) => parse(words),
        None if is_help(verb) => Ok(help()),
        None if verb.starts_with('-') => Err(Error::LateOption(verb.to_owned())),
        None => Err(Error::AddrVerb(verb.to_owned())),
    }
}

fn help() -> crate::Command {
    crate::Command::Help(Topic::Addr)
}

/// `None`: help was asked for.
fn wrap(grant: Option<Grant>, verb: fn(Grant) -> Command) -> crate::Command {
    grant.map_or_else(help, |grant| crate::Command::Addr(verb(grant)))
}

fn grant(words: &mut Words<'_>) -> Result<Option<Grant>, Error> {
    let (mut prefix, mut target) = (None, Target::default());
    while let Some(word) = words.next() {
        match word {
            "dev" => target.take(word, words)?,
            "local" => {
                let value = words.value()?;
                once(&mut prefix, "local", value, parse_prefix(value)?)?;
            }
            _ if is_help(word) => return Ok(None),
            _ if prefix.is_none() => prefix = Some(parse_prefix(word)?),
            _ => return Err(Error::LocalGarbage(word.to_owned())),
        }
    }
    let name = target.required()?;
    let prefix = prefix.ok_or(Error::NoLocal)?;
    Ok(Some(Grant { prefix, name }))
}

/// An address, or a prefix as `ip route` takes it: without bits behind its length.
fn parse_prefix(word: &str) -> Result<IpNet, Error> {
    let expected = || Error::Prefix(word.to_owned());
    let prefix: IpNet = match word.contains('/') {
        true => word.parse().map_err(|_| expected())?,
        false => word.parse::<IpAddr>().map_err(|_| expected())?.into(),
    };
    let whole = prefix.trunc();
    if prefix != whole {
        let address = prefix.addr();
        let why = format!(
            "Invalid prefix for given prefix length; the prefix is {whole}, the address alone {address}"
        );
        return Err(Error::wrong(word, why));
    }
    let overlaps = |other: &IpNet| prefix.contains(other) || other.contains(&prefix);
    match NOBODYS.iter().find(|other| overlaps(other)) {
        Some(other) => {
            let why = format!("no device can own {}", in_words(*other));
            Err(Error::wrong(word, why))
        }
        None => Ok(prefix),
    }
}

/// What nothing can be delivered to: unspecified, loopback, multicast and limited broadcast.
const NOBODYS: [IpNet; 7] = [
    v4([0, 0, 0, 0], 32),
    v4([127, 0, 0, 0], 8),
    v4([224, 0, 0, 0], 4),
    v4([255, 255, 255, 255], 32),
    v6(Ipv6Addr::UNSPECIFIED, 128),
    v6(Ipv6Addr::LOCALHOST, 128),
    v6(Ipv6Addr::new(0xff00, 0, 0, 0, 0, 0, 0, 0), 8),
];

const fn v4([a, b, c, d]: [u8; 4], len: u8) -> IpNet {
    IpNet::V4(Ipv4Net::new_assert(Ipv4Addr::new(a, b, c, d), len))
}

const fn v6(address: Ipv6Addr, len: u8) -> IpNet {
    IpNet::V6(Ipv6Net::new_assert(address, len))
}

fn show(words: &mut Words<'_>) -> Result<crate::Command, Error> {
    let mut target = Target::default();
    while let Some(word) = words.next() {
        if is_help(word) {
            return Ok(help());
        }
        target.take(word, words)?;
    }
    let name = target.0.map(str::to_owned);
    Ok(crate::Command::Addr(Command::Show(Show { name })))
}

impl Command {
    pub(crate) fn run(&self, options: &Options) -> Result<(), Error> {
        match self {
            Self::Add(Grant { prefix, name }) => Ok(ipvlan_control::grant(name, *prefix)?),
            Self::Del(Grant { prefix, name }) => Ok(ipvlan_control::revoke(name, *prefix)?),
            Self::Show(show) => show.run(options),
        }
    }
}

impl Show {
    fn run(&self, options: &Options) -> Result<(), Error> {
        let shown = ipvlan_control::show()?;
        let mut netlink = Netlink::open().map_err(ipvlan_control::Error::from)?;
        let fits = |shown: &&Shown| {
            let name = self.name.as_ref();
            name.is_none_or(|name| has_name(&shown.link, name))
        };
        let shown: Vec<_> = shown.iter().filter(fits).collect();
        if let Some(name) = self.name.as_ref().filter(|_| shown.is_empty()) {
            let link = netlink.link_by_name(name);
            let link = link.map_err(ipvlan_control::Error::from)?;
            not_ours(name, link.as_ref(), false)?;
        }
        let mut here = |index| netlink.link(index, None).ok().flatten();
        out::print(&render(&shown, options, &mut here))
    }
}

fn render(
    shown: &[&Shown],
    options: &Options,
    here: &mut dyn FnMut(u32) -> Option<Link>,
) -> String {
    let views = shown.iter().map(|shown| View::new(shown, here));
    if options.json {
        Value::List(views.map(|view| json(&view)).collect()).print(options.pretty)
    } else {
        views.map(|view| lines(&view, options)).collect()
    }
}

/// What there is to say of an address or a prefix.
struct Said {
    prefix: IpNet,
    owned: bool,
    refused: bool,
    granted: bool,
}

/// IPv4 first.
fn addresses(shown: &Shown) -> impl Iterator<Item = Said> {
    let owned: BTreeSet<IpNet> = shown.owned.iter().copied().collect();
    let refused: BTreeSet<IpNet> = shown.refused.iter().copied().map(IpNet::from).collect();
    let granted: BTreeSet<IpNet> = shown.granted.iter().copied().collect();
    let all: BTreeSet<IpNet> = [&owned, &refused, &granted]
        .into_iter()
        .flatten()
        .copied()
        .collect();
    all.into_iter().map(move |prefix| Said {
        prefix,
        owned: owned.contains(&prefix),
        refused: refused.contains(&prefix),
        granted: granted.contains(&prefix),
    })
}

fn family(prefix: IpNet) -> &'static str {
    match prefix {
        IpNet::V4(_) => "inet",
        IpNet::V6(_) => "inet6",
    }
}

fn lines(view: &View<'_>, options: &Options) -> String {
    let shown = view.shown;
    let mut head = format!(
        "{}: {}: <{}> mtu {} state {}",
        shown.link.index,
        text::at_parent(view),
        view.flags.join(","),
        shown.link.mtu,
        view.state
    );
    if let Some(place) = text::netns(&shown.place) {
        head += &format!(" {place}");
    }
    let mut lines = vec![head];
    lines.extend(addresses(shown).map(|said| {
        let mut line = format!("    {} {}", family(said.prefix), in_words(said.prefix));
        for (is_so, word) in [
            (said.owned, " owned"),
            (said.refused, " refused"),
            (said.granted, " granted"),
        ] {
            line += if is_so { word } else { "" };
        }
        line
    }));
    lines.join(if options.oneline { "\\" } else { "\n" }) + "\n"
}

fn json(view: &View<'_>) -> Value {
    let shown = view.shown;
    let mut object = vec![
        ("ifindex", Value::number(shown.link.index)),
        text::parent_json(view),
        ("ifname", Value::text(&*shown.link.name)),
    ];
    object.extend(text::netns_json(&shown.place));
    let infos = addresses(shown).map(|said| {
        Value::Object(vec![
            ("family", Value::text(family(said.prefix))),
            ("local", Value::text(said.prefix.addr().to_string())),
            ("prefixlen", Value::number(said.prefix.prefix_len())),
            ("owned", Value::Bool(said.owned)),
            ("refused", Value::Bool(said.refused)),
            ("granted", Value::Bool(said.granted)),
        ])
    });
    object.push(("addr_info", Value::List(infos.collect())));
    Value::Object(object)
}

#[cfg(test)]
mod tests {
    use ipvlan_control::Place;

    use super::*;
    use crate::text::tests::shown;

    fn parse(line: &str) -> Result<Command, Error> {
        let words: Vec<_> = line.split_whitespace().collect();
        match crate::parse(&words)?.command {
            crate::Command::Addr(command) => Ok(command),
            other => panic!("{line}: {other:?}"),
        }
    }

    #[test]
    fn every_spelling() {
        for line in [
            "addr add 10.1.0.254 dev v",
            "addr a dev v 10.1.0.254/32",
            "address add local 10.1.0.254 dev v",
        ] {
            let wanted = Grant {
                prefix: IpAddr::from([10, 1, 0, 254]).into(),
                name: "v".to_owned(),
            };
            assert_eq!(parse(line).expect(line), Command::Add(wanted.clone()));
            let line = line.replace(" add ", " del ").replace(" a ", " d ");
            assert_eq!(parse(&line).expect(&line), Command::Del(wanted));
        }
        for (word, wanted) in [
            ("10.9.0.0/24", "10.9.0.0/24"),
            ("fd09::/32", "fd09::/32"),
            ("128.0.0.0/2", "128.0.0.0/2"),
            ("fd09::1/128", "fd09::1/128"),
            ("224.0.0.0/24", ""),
        ] {
            let found = parse_prefix(word).ok();
            assert_eq!(found, wanted.parse().ok(), "{word}");
        }
        for (line, name) in [
            ("ad", None),
            ("addr", None),
            ("addr sh", None),
            ("addr l", None),
            ("addr ls v", Some("v")),
            ("addr show dev v", Some("v")),
        ] {
            let name = name.map(str::to_owned);
            assert_eq!(parse(line).expect(line), Command::Show(Show { name }));
        }
        for line in ["addr help", "addr add help", "addr show -h", "help addr"] {
            let words: Vec<_> = line.split(' ').collect();
            let command = crate::parse(&words).expect(line).command;
            assert_eq!(command, help(), "{line}");
        }
    }

    #[test]
    fn errors() {
        for (line, status, text) in [
            (
                "addr foo",
                255,
                "Command \"foo\" is unknown, try \"ipvlan addr help\".",
            ),
            (
                "addr add 10.1.0.1",
                255,
                "Not enough information: \"dev\" argument is required.",
            ),
            (
                "addr add dev v",
                255,
                "Not enough information: an address is required",
            ),
            (
                "addr add 10.1.0.1 10.1.0.2 dev v",
                255,
                "Error: either \"local\" is duplicate, or \"10.1.0.2\" is a garbage.",
            ),
            (
                "addr add fd00::1/64 dev v",
                255,
                "Error: argument \"fd00::1/64\" is wrong: Invalid prefix for given prefix length; \
                 the prefix is fd00::/64, the address alone fd00::1",
            ),
            (
                "addr add 10.1.0 dev v",
                1,
                "Error: any valid prefix is expected rather than \"10.1.0\".",
            ),
            (
                "addr add 10.1.0.0/33 dev v",
                1,
                "Error: any valid prefix is expected rather than \"10.1.0.0/33\".",
            ),
            (
                "addr del 127.0.0.1 dev v",
                255,
                "Error: argument \"127.0.0.1\" is wrong: no device can own 127.0.0.0/8",
            ),
            (
                "addr add 0.0.0.0/0 dev v",
                255,
                "Error: argument \"0.0.0.0/0\" is wrong: no device can own 0.0.0.0",
            ),
            (
                "addr add 128.0.0.0/1 dev v",
                255,
                "Error: argument \"128.0.0.0/1\" is wrong: no device can own 224.0.0.0/4",
            ),
            (
                "addr add fe00::/7 dev v",
                255,
                "Error: argument \"fe00::/7\" is wrong: no device can own ff00::/8",
            ),
            (
                "addr add ::/96 dev v",
                255,
                "Error: argument \"::/96\" is wrong: no device can own ::",
            ),
            (
                "addr add 10.1.0.1 dev",
                255,
                "Command line is not complete. Try option \"help\"",
            ),
        ] {
            let error = parse(line).expect_err(line);
            assert_eq!(error.to_string(), text, "{line}");
            assert_eq!(error.status(), status, "{line}");
        }
    }

    #[test]
    fn what_is_shown() {
        let mut one = shown();
        one.place = Place::Named("ns0".to_owned());
        let ip = |text: &str| -> IpAddr { text.parse().expect("an address") };
        let net = |text: &str| parse_prefix(text).expect("a prefix");
        let behind = "10.9.0.0/24";
        one.owned = ["10.1.0.10", "10.1.0.254", behind].map(net).to_vec();
        one.refused = vec![ip("fd00::1")];
        one.granted = ["10.1.0.254", "10.1.0.99", behind].map(net).to_vec();
        let print = |options: &Options| render(&[&one], options, &mut |_| None);
        let mut options = Options::default();
        let text = print(&options);
        let (head, rest) = text.split_once('\n').expect("lines");
        assert!(head.starts_with("5: ipvl0@eth0: <"), "{head}");
        assert!(head.ends_with(" netns ns0"), "{head}");
        assert_eq!(
            rest,
            "    inet 10.1.0.10 owned\n    inet 10.1.0.99 granted\n    \
             inet 10.1.0.254 owned granted\n    inet 10.9.0.0/24 owned granted\n    \
             inet6 fd00::1 refused\n"
        );
        options.json = true;
        let text = print(&options);
        let wanted = "\"netns\":\"ns0\",\"addr_info\":[{\"family\":\"inet\",\"local\":\"10.1.0.10\",\
                      \"prefixlen\":32,\"owned\":true,\"refused\":false,\"granted\":false},";
        assert!(text.contains(wanted), "{text}");
    }
}
