//! A device as `ip link show` has it: the words and numbers, before it is text or JSON.

use std::borrow::Cow;

use ipvlan_control::{Place, Shown};
use ipvlan_netlink::{Link, Mac};

/// [`Shown`], and what it takes to name things as iproute2 names them.
pub(crate) struct View<'a> {
    pub(crate) shown: &'a Shown,
    pub(crate) parent: Parent<'a>,
    /// Where the parent lives, if the device is here and the parent is not.
    pub(crate) parent_netns: Option<ParentNetns<'a>>,
    pub(crate) flags: Vec<Cow<'static, str>>,
    pub(crate) state: Cow<'static, str>,
    pub(crate) link_mode: Cow<'static, str>,
    pub(crate) group: Cow<'static, str>,
    pub(crate) master: Option<String>,
    /// Only where it is not the present one.
    pub(crate) permanent_mac: Option<Mac>,
}

/// What stands behind the `@`.
pub(crate) enum Parent<'a> {
    /// It is here, so it has a name.
    Name(&'a str),
    /// It is elsewhere, where another has this number here.
    Index(u32),
}

/// A namespace, by what is known of it.
pub(crate) struct ParentNetns<'a> {
    pub(crate) name: Option<&'a str>,
    pub(crate) id: Option<i32>,
}

/// `IFF_*` (linux/if.h) in iproute2's order.
const FLAGS: [(u32, &str); 18] = [
    (1 << 3, "LOOPBACK"),
    (1 << 1, "BROADCAST"),
    (1 << 4, "POINTOPOINT"),
    (1 << 12, "MULTICAST"),
    (1 << 7, "NOARP"),
    (1 << 9, "ALLMULTI"),
    (1 << 8, "PROMISC"),
    (1 << 10, "MASTER"),
    (1 << 11, "SLAVE"),
    (1 << 2, "DEBUG"),
    (1 << 15, "DYNAMIC"),
    (1 << 14, "AUTOMEDIA"),
    (1 << 13, "PORTSEL"),
    (1 << 5, "NOTRAILERS"),
    (UP, "UP"),
    (1 << 16, "LOWER_UP"),
    (1 << 17, "DORMANT"),
    (1 << 18, "ECHO"),
];
const UP: u32 = 1;
const RUNNING: u32 = 1 << 6;

/// `IF_OPER_*` and `IF_LINK_MODE_*` (linux/if.h), by number.
const STATES: [&str; 7] = [
    "UNKNOWN",
    "NOTPRESENT",
    "DOWN",
    "LOWERLAYERDOWN",
    "TESTING",
    "DORMANT",
    "UP",
];
const LINK_MODES: [&str; 2] = ["DEFAULT", "DORMANT"];

impl<'a> View<'a> {
    /// `here` finds a link of this namespace.
    pub(crate) fn new(shown: &'a Shown, here: &mut dyn FnMut(u32) -> Option<Link>) -> Self {
        let link = &shown.link;
        let is_parent_here = shown.parent_place == Place::Here;
        let is_parent_down = is_parent_here && here(shown.parent_index).is_some_and(|p| !p.is_up());
        let master = link.master.map(|index| {
            let found = (shown.place == Place::Here).then(|| here(index)).flatten();
            found.map_or_else(|| format!("if{index}"), |master| master.name)
        });
        Self {
            shown,
            parent: if is_parent_here {
                Parent::Name(&shown.parent)
            } else {
                Parent::Index(shown.parent_index)
            },
            parent_netns: ParentNetns::of(shown),
            flags: flags(link.flags, is_parent_down),
            state: named(&STATES, link.operstate),
            link_mode: named(&LINK_MODES, link.link_mode),
            group: match link.group {
                0 => Cow::from("default"),
                group => Cow::from(group.to_string()),
            },
            master,
            permanent_mac: link.permanent_mac.filter(|mac| link.mac != Some(*mac)),
        }
    }
}

impl<'a> ParentNetns<'a> {
    fn of(shown: &'a Shown) -> Option<Self> {
        let id = || shown.link.link_nsid.map(|id| id.0);
        match (&shown.place, &shown.parent_place) {
            (Place::Named(_) | Place::Unnamed(_), _) | (Place::Here, Place::Here) => None,
            (Place::Here, Place::Named(name)) => Some(Self {
                name: Some(name),
                id: id(),
            }),
            (Place::Here, Place::Unnamed(number)) => Some(Self {
                name: None,
                id: id().or(Some(*number)),
            }),
        }
    }
}

fn flags(bits: u32, is_parent_down: bool) -> Vec<Cow<'static, str>> {
    let mut words = Vec::new();
    if bits & UP != 0 && bits & RUNNING == 0 {
        words.push(Cow::from("NO-CARRIER"));
    }
    let mut rest = bits & !RUNNING;
    for (bit, word) in FLAGS {
        if rest & bit != 0 {
            words.push(Cow::from(word));
            rest &= !bit;
        }
    }
    if rest != 0 {
        words.push(Cow::from(format!("{rest:x}")));
    }
    if is_parent_down {
        words.push(Cow::from("M-DOWN"));
    }
    words
}

fn named(names: &[&'static str], number: u8) -> Cow<'static, str> {
    match names.get(usize::from(number)) {
        Some(name) => Cow::from(*name),
        None => Cow::from(format!("{number:#x}")),
    }
}

pub(crate) fn mac(mac: Mac) -> String {
    mac.map(|byte| format!("{byte:02x}")).join(":")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn flags_are_spelled_and_ordered_as_by_ip() {
        assert_eq!(
            flags(0x1_1043, false).join(","),
            "BROADCAST,MULTICAST,UP,LOWER_UP"
        );
        assert_eq!(
            flags(0x1003, true).join(","),
            "NO-CARRIER,BROADCAST,MULTICAST,UP,M-DOWN"
        );
        assert_eq!(
            flags(0x8000_1082, false).join(","),
            "BROADCAST,MULTICAST,NOARP,80000000"
        );
        assert_eq!(flags(0, false).join(","), "");
    }

    #[test]
    fn a_number_without_a_word_stays_a_number() {
        assert_eq!(named(&STATES, 6), "UP");
        assert_eq!(named(&STATES, 7), "0x7");
    }
}
