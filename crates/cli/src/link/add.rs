//! `ipvlan link add [ link ] PARENT [ name ] NAME … type { ipvlan | ipvtap } …`.

use ipvlan_control::Create;
use ipvlan_netlink::{BadIfName, IfName, NetNs, TapSettings};
use nix::errno::Errno;
use nix::unistd::{Group, User};

use super::kind::{self, Kind};
use crate::args::{Words, integer, is_help, matches, once};
use crate::{Command, Error, Topic};

/// Make a device.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Add {
    /// The parent, in the namespace of the caller.
    pub parent: String,
    /// The device's name. None: the driver's `ipvlan%d` or `ipvtap%d`.
    pub name: Option<IfName>,
    /// Mode and flag.
    pub kind: Kind,
    /// `mtu`.
    pub mtu: Option<u32>,
    /// `index`.
    pub index: Option<u32>,
    /// `txqueuelen`, `txqlen`, `qlen`.
    pub txqlen: Option<u32>,
    /// `numtxqueues`.
    pub num_tx_queues: Option<u32>,
    /// `numrxqueues`.
    pub num_rx_queues: Option<u32>,
    /// `netns`: a name or the number of a process.
    pub netns: Option<String>,
    /// `up`.
    pub up: bool,
}

/// What `ip link add` takes too and we do not. Whole words only: a prefix may be a device's name.
pub(super) const NOT_HERE: [&str; 31] = [
    "addrgenmode",
    "alias",
    "allmulticast",
    "arp",
    "brd",
    "broadcast",
    "carrier",
    "dynamic",
    "group",
    "gro_ipv4_max_size",
    "gro_max_size",
    "gso_ipv4_max_size",
    "gso_max_segs",
    "gso_max_size",
    "link-netns",
    "link-netnsid",
    "master",
    "mode",
    "multicast",
    "nomaster",
    "parentdev",
    "promisc",
    "protodown",
    "protodown_reason",
    "state",
    "trailers",
    "vf",
    "vrf",
    "xdp",
    "xdpdrv",
    "xdpgeneric",
];

/// Bounds of the kernel (`ETH_MIN_MTU`, `ETH_MAX_MTU`), which ipvlan devices all have.
const MTU: std::ops::RangeInclusive<i64> = 68..=65535;
/// `ALTIFNAMSIZ - 1`.
const ALT_NAME_MAX: usize = 127;
/// What `rtnl_create_link()` takes.
const QUEUES: std::ops::RangeInclusive<i64> = 1..=4096;

/// What was typed, until all of it is there.
#[derive(Default)]
struct Draft<'a> {
    link: Option<&'a str>,
    name: Option<&'a str>,
    dev: Option<&'a str>,
    /// Words without a keyword: the device, or (the HOWTO's reading of `link`) parent and device.
    bare: Vec<&'a str>,
    mtu: Option<i64>,
    index: Option<i64>,
    txqlen: Option<i64>,
    num_tx_queues: Option<i64>,
    num_rx_queues: Option<i64>,
    netns: Option<&'a str>,
    address: Option<&'a str>,
    up: bool,
}

pub(super) fn parse(words: &mut Words<'_>) -> Result<Command, Error> {
    let mut draft = Draft::default();
    while let Some(word) = words.next() {
        if matches(word, "type") && word.len() > 1 {
            // A lone t is ip's txqueuelen.
            let what = kind::check(words.value()?, "add")?;
            let Some(kind) = kind::parse(what, true, words)? else {
                return Ok(Command::Help(Topic::Kind));
            };
            let add = draft.finish(kind)?;
            return Ok(Command::Link(super::Command::Add(add)));
        }
        if is_help(word) {
            return Ok(Command::Help(Topic::Link));
        }
        draft.take(word, words)?;
    }
    draft.check_bare()?;
    Err(Error::NoType)
}

impl<'a> Draft<'a> {
    /// Keywords in iproute2's order, and cut as short as it lets them be.
    fn take(&mut self, word: &'a str, words: &mut Words<'a>) -> Result<(), Error> {
        match word {
            "up" => self.up = true,
            "down" => self.up = false,
            "name" => {
                let name = words.value()?;
                once(&mut self.name, "name", name, name)?;
                if IfName::template(name).is_err_and(|bad| is_unfit(&bad)) {
                    return Err(Error::wrong(name, "\"name\" not a valid ifname"));
                }
            }
            "index" => {
                let value = words.value()?;
                once(&mut self.index, "index", value, number("index", value)?)?;
                if self.index.is_some_and(|index| index < 1) {
                    return Err(Error::invalid("index", value));
                }
            }
            _ if matches(word, "link") => {
                // Twice is no error in iproute2: the last one counts.
                self.link = Some(words.value()?);
                self.check_bare()?;
            }
            _ if matches(word, "address") => {
                let address = words.value()?;
                once(&mut self.address, "address", address, address)?;
                check_bytes(address)?;
            }
            _ if matches(word, "txqueuelen") || matches!(word, "txqlen" | "qlen") => {
                counted(&mut self.txqlen, "txqueuelen", words)?;
            }
            "mtu" => counted(&mut self.mtu, "mtu", words)?,
            "netns" => {
                let netns = words.value()?;
                once(&mut self.netns, "netns", netns, netns)?;
            }
            _ if word.len() > 1 && matches(word, "numtxqueues") => {
                counted(&mut self.num_tx_queues, "numtxqueues", words)?;
            }
            _ if word.len() > 1 && matches(word, "numrxqueues") => {
                counted(&mut self.num_rx_queues, "numrxqueues", words)?;
            }
            "dev" => {
                let dev = words.value()?;
                if self.dev.is_some() || !self.bare.is_empty() {
                    return Err(Error::Garbage(dev.to_owned()));
                }
                self.dev = Some(dev);
                check_dev(dev)?;
            }
            _ if NOT_HERE.contains(&word) => {
                return Err(Error::NotOurWord {
                    word: word.to_owned(),
                    verb: "set",
                });
            }
            _ if word.starts_with('-') => return Err(Error::LateOption(word.to_owned())),
            _ => {
                if self.dev.is_some() {
                    return Err(Error::Garbage(word.to_owned()));
                }
                self.bare.push(word);
                self.check_bare()?;
                check_dev(word)?;
            }
        }
        Ok(())
    }

    /// Two words without a keyword are parent and device, but only while no `link` names a parent.
    fn check_bare(&self) -> Result<(), Error> {
        let max = if self.link.is_some() { 1 } else { 2 };
        match self.bare.get(max) {
            None => Ok(()),
            Some(word) => Err(Error::Garbage((*word).to_owned())),
        }
    }

    fn finish(self, kind: Kind) -> Result<Add, Error> {
        let (parent, dev) = match *self.bare {
            [parent, dev] => (Some(parent), Some(dev)),
            [dev] => (self.link, Some(dev)),
            _ => (self.link, self.dev),
        };
        if self.name.is_some() && dev.is_some() {
            return Err(Error::NameAndDev);
        }
        let parent = parent.ok_or(Error::NoParent)?;
        let name = self.name.or(dev).map(IfName::template).transpose();
        if self.address.is_some_and(|mac| mac.split(':').count() != 6) {
            return Err(Error::Answer(Errno::EINVAL));
        }
        Ok(Add {
            parent: parent.to_owned(),
            // What iproute2 refuses is refused already; the rest is for the kernel to refuse.
            name: name.map_err(|_| Error::Answer(Errno::EINVAL))?,
            kind,
            mtu: mtu(self.mtu)?,
            index: self.index.map(bits),
            txqlen: self.txqlen.map(bits),
            num_tx_queues: queues(self.num_tx_queues, "Invalid number of transmit queues")?,
            num_rx_queues: queues(self.num_rx_queues, "Invalid number of receive queues")?,
            netns: self.netns.map(str::to_owned),
            up: self.up,
        })
    }
}

fn number(key: &'static str, word: &str) -> Result<i64, Error> {
    integer(word)
        .filter(|number| i32::try_from(*number).is_ok())
        .ok_or_else(|| Error::invalid(key, word))
}

fn counted(slot: &mut Option<i64>, key: &'static str, words: &mut Words<'_>) -> Result<(), Error> {
    let word = words.value()?;
    if slot.is_some() {
        // Said of a second value even when that is no number.
        return once(slot, key, word, 0);
    }
    once(slot, key, word, number(key, word)?)
}

/// The kernel reads an attribute of 32 bits without a sign.
fn bits(number: i64) -> u32 {
    i32::try_from(number).unwrap_or_default().cast_unsigned()
}

fn mtu(mtu: Option<i64>) -> Result<Option<u32>, Error> {
    match mtu {
        Some(mtu) if mtu < *MTU.start() => Err(Error::Refused("mtu less than device minimum")),
        Some(mtu) if mtu > *MTU.end() => Err(Error::Refused("mtu greater than device maximum")),
        Some(_) | None => Ok(mtu.map(bits)),
    }
}

fn queues(count: Option<i64>, refusal: &'static str) -> Result<Option<u32>, Error> {
    match count {
        Some(count) if !QUEUES.contains(&count) => Err(Error::Refused(refusal)),
        Some(_) | None => Ok(count.map(bits)),
    }
}

/// The driver takes an address and gives the device its parent's all the same. One that is no
/// address is refused, piece by piece as iproute2 reads it.
fn check_bytes(address: &str) -> Result<(), Error> {
    let is_byte = |piece: &&str| {
        (1..=2).contains(&piece.len()) && piece.bytes().all(|byte| byte.is_ascii_hexdigit())
    };
    match address.split(':').find(|piece| !is_byte(piece)) {
        None => Ok(()),
        Some(piece) => Err(Error::Address(piece.to_owned())),
    }
}

fn check_dev(name: &str) -> Result<(), Error> {
    match IfName::template(name) {
        // iproute2 takes it for an alternative name, and leaves it to the kernel to refuse it.
        Err(BadIfName::TooLong(..=ALT_NAME_MAX)) => {
            Err(Error::Refused("the name of a device has at most 15 bytes"))
        }
        Err(bad) if is_unfit(&bad) => Err(Error::wrong(name, "\"dev\" not a valid ifname")),
        Ok(_) | Err(_) => Ok(()),
    }
}

/// The part of the rules that iproute2 checks before it asks the kernel.
fn is_unfit(bad: &BadIfName) -> bool {
    match bad {
        BadIfName::Empty | BadIfName::TooLong(_) => true,
        BadIfName::Byte(byte) => *byte == b'/' || byte.is_ascii_whitespace() || *byte == 0x0b,
        _ => false,
    }
}

impl Add {
    pub(super) fn run(&self, agent: bool) -> Result<(), Error> {
        ipvlan_control::create(&Create {
            parent: self.parent.clone(),
            name: self.name.clone(),
            tap: self.kind.tap()?,
            learning: self.kind.learning == Some(true),
            mode: self.kind.mode,
            flag: self.kind.flag,
            mtu: self.mtu,
            index: self.index,
            txqlen: self.txqlen,
            num_tx_queues: self.num_tx_queues,
            num_rx_queues: self.num_rx_queues,
            netns: self.netns.as_deref().map(netns).transpose()?,
            up: self.up,
            agent,
        })?;
        Ok(())
    }
}

impl Kind {
    /// Who may open it. None: it is no tap.
    fn tap(&self) -> Result<Option<TapSettings>, Error> {
        if self.kind != ipvlan_control::Kind::Ipvtap {
            return Ok(None);
        }
        let number = |what, word: &Option<String>, find: fn(&str) -> Option<u32>| match word {
            None => Ok(None),
            Some(word) => {
                let found = word.parse().ok().or_else(|| find(word));
                found.map(Some).ok_or_else(|| Error::NoUser {
                    what,
                    word: word.clone(),
                })
            }
        };
        let user = |name: &str| Some(User::from_name(name).ok()??.uid.as_raw());
        let group = |name: &str| Some(Group::from_name(name).ok()??.gid.as_raw());
        Ok(Some(TapSettings {
            owner: number("user", &self.user, user)?,
            group: number("group", &self.group, group)?,
        }))
    }
}

/// A name of `ip netns`, else the number of a process.
fn netns(word: &str) -> Result<NetNs, Error> {
    NetNs::by_name(word).or_else(|_| {
        let pid = integer(word).and_then(|pid| u32::try_from(pid).ok());
        let pid = pid.ok_or_else(|| Error::invalid("netns", word))?;
        NetNs::by_pid(pid).map_err(|error| {
            Error::Answer(match error.errno() {
                Errno::ENOENT => Errno::ESRCH,
                errno => errno,
            })
        })
    })
}

#[cfg(test)]
#[path = "add_tests.rs"]
mod tests;
