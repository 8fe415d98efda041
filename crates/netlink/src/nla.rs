//! Reading attributes without trusting them.
//!
//! The numbers are those of the kernel's uapi headers, under their own names.

use netlink_packet_core::{NLA_HEADER_SIZE, NlasIterator};

/// The attributes in `bytes`: type without flag bits, and value. Ends at the first broken one.
pub(crate) fn attributes(bytes: &[u8]) -> impl Iterator<Item = (u16, &[u8])> {
    NlasIterator::new(bytes).map_while(Result::ok).map(|nla| {
        let (kind, len) = (nla.kind(), usize::from(nla.length()));
        // The iterator has compared the length with the header's and the buffer's.
        (kind, &nla.into_inner()[NLA_HEADER_SIZE..len])
    })
}

pub(crate) fn u8_of(value: &[u8]) -> Option<u8> {
    value.first().copied()
}

pub(crate) fn u16_of(value: &[u8]) -> Option<u16> {
    Some(u16::from_ne_bytes(*value.first_chunk()?))
}

pub(crate) fn u32_of(value: &[u8]) -> Option<u32> {
    Some(u32::from_ne_bytes(*value.first_chunk()?))
}

pub(crate) fn i32_of(value: &[u8]) -> Option<i32> {
    Some(i32::from_ne_bytes(*value.first_chunk()?))
}

/// A string up to its NUL. What is not UTF-8 is shown as U+FFFD.
pub(crate) fn string_of(value: &[u8]) -> String {
    let end = value
        .iter()
        .position(|&byte| byte == 0)
        .unwrap_or(value.len());
    String::from_utf8_lossy(&value[..end]).into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_broken_attribute_ends_the_list() {
        let mut bytes = Vec::new();
        bytes.extend_from_slice(&8u16.to_ne_bytes());
        bytes.extend_from_slice(&4u16.to_ne_bytes());
        bytes.extend_from_slice(&1500u32.to_ne_bytes());
        bytes.extend_from_slice(&400u16.to_ne_bytes());
        bytes.extend_from_slice(&5u16.to_ne_bytes());
        let all: Vec<_> = attributes(&bytes).collect();
        assert_eq!(all.len(), 1, "the second one claims more than there is");
        assert_eq!((all[0].0, u32_of(all[0].1)), (4, Some(1500)));
    }

    #[test]
    fn short_values_are_none_and_strings_end_at_their_nul() {
        assert_eq!(u32_of(&[1, 2, 3]), None);
        assert_eq!(u8_of(&[]), None);
        assert_eq!(string_of(b"eth0\0junk"), "eth0");
        assert_eq!(string_of(b"eth0"), "eth0");
        assert_eq!(string_of(b"\xff\0"), "\u{fffd}");
    }
}
