//! What the alias of a host end says while it is on its way: whose it is, and of a tap what it looked like.
//!
//! An alias goes with an interface to another namespace, where index and name may be others.

use ipvlan_netlink::Link;

/// Of an alias: this host end was told to follow its parent.
const FOLLOWS: &str = "host end of an ipvlan device; follows its parent, port";
/// Of a host end that was told to go with the port of this number.
pub(super) fn alias_on_the_way(number: u64, slot: u32) -> String {
    format!("{FOLLOWS} {number:x} slot {slot}")
}

/// What a tap looked like before it was told to go.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Before {
    pub(super) up: bool,
    pub(super) alias: String,
}

/// How the kernel bounds an alias (`IFALIASZ`), without the NUL.
const ALIAS_MAX: usize = 255;

/// The same of a tap, which says what it looked like as well.
pub(super) fn tap_alias_on_the_way(number: u64, slot: u32, link: &Link) -> String {
    let state = if link.is_up() { "up" } else { "down" };
    let own = link.alias.as_deref().unwrap_or_default();
    let mut alias = format!("{} tap {state} {own}", alias_on_the_way(number, slot));
    while alias.len() > ALIAS_MAX {
        let _: Option<char> = alias.pop();
    }
    alias
}

/// What a tap looked like that has this alias.
pub(super) fn parse_before(alias: &str) -> Option<Before> {
    let (_, rest) = alias.strip_prefix(FOLLOWS)?.split_once(" tap ")?;
    let (state, alias) = rest.split_once(' ')?;
    Some(Before {
        up: state == "up",
        alias: alias.to_owned(),
    })
}

/// Number of the port, and slot.
pub(super) fn parse_alias_on_the_way(alias: &str) -> Option<(u64, u32)> {
    let (number, slot) = alias
        .strip_prefix(FOLLOWS)?
        .trim_start()
        .split_once(" slot ")?;
    let slot = slot.split(' ').next()?;
    Some((u64::from_str_radix(number, 16).ok()?, slot.parse().ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_tap_gets_back_what_it_looked_like() {
        let mut link = Link::default();
        for (flags, own) in [
            (1, Some("a tap of mine")),
            (0, None),
            (1, Some("x tap up y")),
        ] {
            link.flags = flags;
            link.alias = own.map(str::to_owned);
            let text = tap_alias_on_the_way(0xbeef, 17, &link);
            assert_eq!(parse_alias_on_the_way(&text), Some((0xbeef, 17)));
            let before = Before {
                up: flags == 1,
                alias: own.unwrap_or_default().to_owned(),
            };
            assert_eq!(parse_before(&text), Some(before));
        }
        link.alias = Some("ä".repeat(127));
        let text = tap_alias_on_the_way(0xbeef, 17, &link);
        assert!(text.len() <= ALIAS_MAX && parse_before(&text).is_some());
        assert_eq!(parse_before(&alias_on_the_way(0xbeef, 17)), None);
        assert_eq!(parse_before("host end of something"), None);
    }

    #[test]
    fn an_alias_on_the_way_is_read_back_and_others_are_not() {
        let text = alias_on_the_way(0xbeef, 17);
        assert_eq!(parse_alias_on_the_way(&text), Some((0xbeef, 17)));
        for text in [
            "",
            "host end of an ipvlan device; parent 7 in netns 1f",
            FOLLOWS,
        ] {
            assert_eq!(parse_alias_on_the_way(text), None, "{text}");
        }
    }
}
