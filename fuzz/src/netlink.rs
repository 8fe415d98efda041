//! What the parsers promise of every answer.
//!
//! Input: a byte that says what follows (see [`Answer`]): a datagram with its messages' headers, or
//! the body of one message.
//!
//! * They come to an end, and do not make more of an answer than it is long.
//! * A rule that was read and is sent to the kernel again is the same rule.

use ipvlan_netlink::fuzz::{Answer, read};

/// No byte becomes more than a U+FFFD.
const WIDEST: usize = 3;

/// Reads an answer of the kernel's.
///
/// # Panics
///
/// Where a promise is broken.
pub fn netlink(data: &[u8]) {
    let Some((kind, bytes)) = data.split_first() else {
        return;
    };
    let all = Answer::ALL;
    let answer = all[usize::from(*kind) % all.len()];
    let read = read(answer, bytes);

    let len = bytes.len();
    // A header of netlink's has 16 bytes; a body alone is one message.
    let messages = if answer == Answer::Datagram {
        len / 16
    } else {
        1
    };
    assert!(read.messages <= messages, "{} messages", read.messages);
    // A link's message may be three events.
    assert!(read.events.len() <= 3 * messages);
    let made = read.links.len() + read.addresses.len() + read.routes.len() + read.rules.len();
    let made = made + read.ids.len() + read.routers.len();
    assert!(made <= messages, "a message is one thing");
    let hops: usize = read.routes.iter().map(|route| route.hops.len()).sum();
    // Its smallest is 8 bytes; one may stand outside of the list of them.
    assert!(hops <= len / 8 + read.routes.len(), "{hops} hops");
    for (rule, again) in &read.rules {
        assert_eq!(again.as_ref(), Some(rule), "sent again");
    }
    let links = read.links.iter();
    let text: usize = links
        .map(|link| {
            let names = link.alt_names.iter().chain([&link.name]);
            let others = [
                &link.kind,
                &link.alias,
                &link.qdisc,
                &link.parent_bus,
                &link.parent_dev,
            ];
            let others = others.into_iter().flatten();
            names.chain(others).map(String::len).sum::<usize>()
        })
        .sum();
    let said: usize = read.refusals.iter().flatten().map(String::len).sum();
    let rules: usize = read
        .rules
        .iter()
        .map(|(rule, _)| rule.interface.len())
        .sum();
    assert!(text + said + rules <= WIDEST * len, "{text} bytes of text");
}
