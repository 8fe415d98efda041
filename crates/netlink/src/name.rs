//! Names of links.

use std::fmt;
use std::str::FromStr;

/// `IFNAMSIZ - 1`: the kernel's buffer holds a NUL too.
const MAX_LEN: usize = 15;

/// A name that a link can have: `dev_valid_name()` and `dev_prep_valid_name()` of net/core/dev.c.
///
/// 1 to 15 bytes, none of them `/`, `:` or white space, not `.` or `..`. White space is what the
/// kernel's `isspace()` says, byte by byte and in Latin-1: the byte 0xa0 counts, so `à` (c3 a0)
/// cannot be part of a name while `é` can. A `%` is never part of a finished name, because the
/// kernel takes it for a template; see [`IfName::template`].
///
/// ```
/// use ipvlan_netlink::IfName;
///
/// assert!(IfName::try_from("ipvl0").is_ok());
/// assert!(IfName::try_from("a/b").is_err());
/// assert!(IfName::try_from("ipvlan%d").is_err());
/// assert!(IfName::template("ipvlan%d").is_ok());
/// ```
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct IfName(String);

/// Why a string is not the name of a link.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum BadIfName {
    /// It has no character.
    #[error("the name of a link cannot be empty")]
    Empty,
    /// It has more than 15 bytes.
    #[error("the name of a link has at most {MAX_LEN} bytes, not {0}")]
    TooLong(usize),
    /// It is `.` or `..`, which have a meaning in sysfs.
    #[error("a link cannot be named \".\" or \"..\"")]
    Dots,
    /// It has a `/`, a `:`, a NUL or white space.
    #[error("byte {0:#04x} cannot be part of a link's name")]
    Byte(u8),
    /// It has a `%` that is not the one `%d` of a template.
    #[error("\"%\" is not allowed in a link's name, except for one \"%d\" in a template")]
    Percent,
}

impl IfName {
    /// A name, or a name with one `%d` in it, for which the kernel puts the first free number.
    ///
    /// Only for the name of a link that is to be created: [`VethPair`](crate::VethPair).
    ///
    /// # Errors
    ///
    /// [`BadIfName`] says which rule is broken.
    pub fn template(name: &str) -> Result<Self, BadIfName> {
        check(name)?;
        match name.split_once('%') {
            None => Ok(Self(name.to_owned())),
            Some((_, rest)) if rest.starts_with('d') && !rest.contains('%') => {
                Ok(Self(name.to_owned()))
            }
            Some(_) => Err(BadIfName::Percent),
        }
    }

    /// True if the kernel has yet to put a number in.
    pub fn is_template(&self) -> bool {
        self.0.contains('%')
    }

    /// The name.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

fn check(name: &str) -> Result<(), BadIfName> {
    match name.len() {
        0 => return Err(BadIfName::Empty),
        1..=MAX_LEN => {}
        len => return Err(BadIfName::TooLong(len)),
    }
    if name == "." || name == ".." {
        return Err(BadIfName::Dots);
    }
    match name.bytes().find(|&byte| is_forbidden(byte)) {
        Some(byte) => Err(BadIfName::Byte(byte)),
        None => Ok(()),
    }
}

fn is_forbidden(byte: u8) -> bool {
    // The last two rows are the kernel's isspace(), lib/ctype.c.
    matches!(byte, 0 | b'/' | b':' | b' ' | b'\t'..=b'\r' | 0xa0)
}

impl TryFrom<&str> for IfName {
    type Error = BadIfName;

    fn try_from(name: &str) -> Result<Self, BadIfName> {
        check(name)?;
        if name.contains('%') {
            return Err(BadIfName::Percent);
        }
        Ok(Self(name.to_owned()))
    }
}

impl FromStr for IfName {
    type Err = BadIfName;

    fn from_str(name: &str) -> Result<Self, BadIfName> {
        Self::try_from(name)
    }
}

impl AsRef<str> for IfName {
    fn as_ref(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for IfName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_the_kernel_takes() {
        for name in [
            "a",
            "eth0",
            "eth0.5",
            "ipvl-0_x",
            "fifteen-bytes-x",
            "...",
            "@",
            "é",
            "a\\b",
        ] {
            assert_eq!(
                IfName::try_from(name).map(|name| name.to_string()),
                Ok(name.to_owned())
            );
        }
    }

    #[test]
    fn names_the_kernel_refuses() {
        for (name, why) in [
            ("", BadIfName::Empty),
            ("sixteen-bytes-xx", BadIfName::TooLong(16)),
            (".", BadIfName::Dots),
            ("..", BadIfName::Dots),
            ("a/b", BadIfName::Byte(b'/')),
            ("eth0:1", BadIfName::Byte(b':')),
            ("a b", BadIfName::Byte(b' ')),
            ("a\u{b}", BadIfName::Byte(0x0b)),
            ("a\0", BadIfName::Byte(0)),
            ("à", BadIfName::Byte(0xa0)),
            ("100%", BadIfName::Percent),
            ("ipvlan%d", BadIfName::Percent),
        ] {
            assert_eq!(IfName::try_from(name), Err(why), "{name:?}");
        }
    }

    #[test]
    fn a_template_has_at_most_one_number() {
        assert!(IfName::template("ipvlan%d").is_ok_and(|name| name.is_template()));
        assert!(IfName::template("ipvl0").is_ok_and(|name| !name.is_template()));
        for name in ["%s", "%", "a%d%d", "%d%"] {
            assert_eq!(IfName::template(name), Err(BadIfName::Percent), "{name:?}");
        }
    }
}
