//! The words of a command line, compared and counted as iproute2 does it.

use crate::Error;

/// A cursor over the words.
pub(crate) struct Words<'a> {
    rest: std::slice::Iter<'a, &'a str>,
}

impl<'a> Words<'a> {
    pub(crate) fn new(words: &'a [&'a str]) -> Self {
        Self { rest: words.iter() }
    }

    /// The value that must follow a keyword.
    pub(crate) fn value(&mut self) -> Result<&'a str, Error> {
        self.next().ok_or(Error::Incomplete)
    }

    /// The next word, which stays where it is.
    pub(crate) fn peek(&self) -> Option<&'a str> {
        self.rest.as_slice().first().copied()
    }
}

impl<'a> Iterator for Words<'a> {
    type Item = &'a str;

    fn next(&mut self) -> Option<&'a str> {
        self.rest.next().copied()
    }
}

/// True if `word` is `keyword` or the beginning of it. Nothing is the beginning of nothing.
pub(crate) fn matches(word: &str, keyword: &str) -> bool {
    !word.is_empty() && keyword.starts_with(word)
}

/// `help`, which may stand in place of any keyword. `-h`, `--help` there too: ours.
pub(crate) fn is_help(word: &str) -> bool {
    matches(word, "help") || matches!(word, "-h" | "-help" | "--help")
}

/// Keeps the value of a keyword that may be given once.
pub(crate) fn once<T>(
    slot: &mut Option<T>,
    key: &'static str,
    word: &str,
    value: T,
) -> Result<(), Error> {
    if slot.is_some() {
        return Err(Error::Duplicate {
            key,
            word: word.to_owned(),
        });
    }
    *slot = Some(value);
    Ok(())
}

/// A number as C reads it: `1500`, `0x5dc`, `02734`, with a sign or without.
pub(crate) fn integer(word: &str) -> Option<i64> {
    let (negative, digits) = match word.strip_prefix('-') {
        Some(rest) => (true, rest),
        None => (false, word.strip_prefix('+').unwrap_or(word)),
    };
    let hex = digits
        .strip_prefix("0x")
        .or_else(|| digits.strip_prefix("0X"));
    let (digits, radix) = match hex {
        Some(rest) => (rest, 16),
        None if digits.starts_with('0') => (digits, 8),
        None => (digits, 10),
    };
    // from_str_radix() takes a sign of its own.
    if !digits.starts_with(|first: char| first.is_digit(radix)) {
        return None;
    }
    let number = i64::from_str_radix(digits, radix).ok()?;
    Some(if negative { -number } else { number })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_c_s() {
        for (word, number) in [
            ("0", 0),
            ("1500", 1500),
            ("+1500", 1500),
            ("-1", -1),
            ("0x5dc", 1500),
            ("0X5DC", 1500),
            ("02734", 1500),
            ("-0x10", -16),
        ] {
            assert_eq!(integer(word), Some(number), "{word}");
        }
        for word in [
            "",
            "-",
            "+",
            "x",
            "1500 ",
            "0x",
            "08",
            "--1",
            "0x-1",
            "1e3",
            "99999999999999999999",
        ] {
            assert_eq!(integer(word), None, "{word:?}");
        }
    }

    #[test]
    fn a_keyword_may_be_cut_short_but_not_to_nothing() {
        assert!(matches("l", "link"));
        assert!(matches("link", "link"));
        assert!(!matches("", "link"));
        assert!(!matches("links", "link"));
        assert!(!matches("k", "link"));
    }
}
