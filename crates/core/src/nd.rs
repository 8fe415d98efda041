//! Neighbour discovery: who is asked for, and which MAC address does a message carry?
//!
//! The second question is asked of what devices send, and it is asked by an adversary's standards:
//! root inside a namespace may put any bytes into a frame, and the wire must not carry a MAC
//! address but the parent's. So every header in front of a possible ND message is walked, and a
//! frame in which something could hide from this walk is dropped:
//!
//! * more extension headers than [`HEADERS`], or deeper than [`DEPTH`];
//! * ND in a fragment, which no receiver may accept (RFC 6980);
//! * more than one link-layer option, one of another length than Ethernet's, or more options than
//!   [`OPTIONS`]. No message of RFC 4861 needs that.
//!
//! What was looked at has to stay what it was. A sender may share pages with its packet (`sendfile(2)`)
//! and write to them later, so frames that could be ND (`may_be_nd`) are decided on by
//! [`tx`](crate::tx()) alone, which a datapath asks when the headers are out of the sender's reach.
//!
//! An ND message whose checksum is still to be written is refused as well ([`Fix::SEALED`]): where it
//! will be written is the sender's choice.
//!
//! The same walk finds DHCPv6 that is not where it is looked for ([`mod@crate::dhcp`]), and refuses it.
//!
//! A later fragment shows nothing of ND to anybody before it is put together, and then it is
//! discarded; encrypted payload (ESP) cannot be ND for the LAN. Both go out.
//!
//! Kernel: the driver does not look. `ndisc_parse_options()` is what receivers do.

use ipvlan_abi::DropReason;

use crate::dhcp::is_dhcp;
use crate::frame::{DEPTH, ETHERNET, Frame, Mac};
use crate::verdict::Fix;

/// Extension headers that are walked. RFC 8200 knows six in one packet, and hardly anybody sends two;
/// with six the verifier of Linux 6.1 gives up.
pub const HEADERS: usize = 4;
/// ND options that are walked.
pub const OPTIONS: usize = 16;

const PAYLOAD: usize = ETHERNET + 40;

const HOP_BY_HOP: u8 = 0;
const ROUTING: u8 = 43;
const FRAGMENT: u8 = 44;
const AUTHENTICATION: u8 = 51;
const UDP: u8 = 17;
const ICMPV6: u8 = 58;
const DESTINATION: u8 = 60;
const MOBILITY: u8 = 135;
const HIP: u8 = 139;
const SHIM6: u8 = 140;

const ROUTER_SOLICITATION: u8 = 133;
const ROUTER_ADVERTISEMENT: u8 = 134;
const NEIGHBOUR_SOLICITATION: u8 = 135;
const NEIGHBOUR_ADVERTISEMENT: u8 = 136;
const REDIRECT: u8 = 137;
const INVERSE_SOLICITATION: u8 = 141;
const INVERSE_ADVERTISEMENT: u8 = 142;

const SOURCE_LINK_LAYER: u8 = 1;
const TARGET_LINK_LAYER: u8 = 2;

/// Target of a neighbour solicitation that has nothing between the IPv6 header and ICMPv6, in the
/// order of its bytes; 0, which is nobody's address, for anything else.
#[inline(always)]
pub(crate) fn solicited<F: Frame>(frame: &F) -> u128 {
    let Some(head) = frame.at::<8>(ETHERNET) else {
        return 0;
    };
    if head[0] >> 4 != 6 || head[6] != ICMPV6 {
        return 0;
    }
    let Some(icmp) = frame.word(PAYLOAD) else {
        return 0;
    };
    let Some(head) = frame.word(PAYLOAD + 8) else {
        return 0;
    };
    let Some(tail) = frame.word(PAYLOAD + 16) else {
        return 0;
    };
    if byte(icmp, 0) != NEIGHBOUR_SOLICITATION {
        return 0;
    }
    u128::from(head) | u128::from(tail) << 64
}

/// The address that the sender of an ND message says it has, in two [`Frame::word`]s: the source of a
/// solicitation, the target of an advertisement; `::` for anything else. RFC 4861 wants a hop limit of
/// 255.
#[inline(always)]
pub(crate) fn said_by_sender<F: Frame>(frame: &F) -> [u64; 2] {
    let Some(head) = frame.at::<8>(ETHERNET) else {
        return [0; 2];
    };
    if head[0] >> 4 != 6 || head[6] != ICMPV6 || head[7] != 255 {
        return [0; 2];
    }
    let Some(icmp) = frame.word(PAYLOAD) else {
        return [0; 2];
    };
    let place = match byte(icmp, 0) {
        ROUTER_SOLICITATION | NEIGHBOUR_SOLICITATION => ETHERNET + 8,
        NEIGHBOUR_ADVERTISEMENT => PAYLOAD + 8,
        _ => return [0; 2],
    };
    let (Some(head), Some(tail)) = (frame.word(place), frame.word(place + 8)) else {
        return [0; 2];
    };
    [head, tail]
}

/// Length of the message that [`solicited`] has found, if it has the sender's link-layer address for
/// its only option, or none; else 0.
#[inline(always)]
pub(crate) fn solicitation_length<F: Frame>(frame: &F) -> u8 {
    const BARE: u8 = 24;
    const WHOLE: u8 = 32;
    let Some(&length) = frame.at::<2>(ETHERNET + 4) else {
        return 0;
    };
    let present = frame.len() as usize;
    match length {
        [0, BARE] if present >= PAYLOAD + BARE as usize => BARE,
        [0, WHOLE] if present >= PAYLOAD + WHOLE as usize => match frame.word(PAYLOAD + 24) {
            Some(option) if byte(option, 0) == SOURCE_LINK_LAYER && byte(option, 1) == 1 => WHOLE,
            _ => 0,
        },
        _ => 0,
    }
}

/// Whether an IPv6 packet comes from `::`. A solicitation that does asks whether its target is still
/// free (RFC 4862 section 5.4.2), and whoever is about to take the same address has to hear it: the
/// kernel tells nobody of an address before that is settled, so it has no owner yet.
#[inline(always)]
pub(crate) fn is_from_nobody<F: Frame>(frame: &F) -> bool {
    match frame.at::<16>(ETHERNET + 8) {
        Some(source) => u128::from_ne_bytes(*source) == 0,
        None => false,
    }
}

/// A byte of a [`Frame::word`].
#[inline(always)]
const fn byte(word: u64, index: u32) -> u8 {
    #[expect(clippy::cast_possible_truncation, reason = "the lowest byte is wanted")]
    let byte = (word >> (index * 8)) as u8;
    byte
}

/// What has to be written into an IPv6 frame that a device sent, if it is ND and carries a MAC
/// address that is not `own`; or why it must not leave.
#[inline(always)]
pub(crate) fn inspect<F: Frame>(own: Mac, frame: &F) -> Result<Fix, DropReason> {
    let Message { at, end, fixed } = find(frame)?;
    if fixed == 0 {
        return Ok(Fix::NOTHING);
    }
    Ok(options(own, frame, at, end, fixed)?.and(Fix::SEALED))
}

/// Whether ND can be in what follows an IPv6 header that says `next`: ICMPv6, or a header that says in
/// its turn what follows.
#[inline(always)]
const fn may_be_in(next: u8) -> bool {
    matches!(
        next,
        ICMPV6
            | HOP_BY_HOP
            | ROUTING
            | DESTINATION
            | MOBILITY
            | HIP
            | SHIM6
            | FRAGMENT
            | AUTHENTICATION
    )
}

/// Whether an IPv6 frame has to be looked at more closely than the fixed header to know that it is
/// not ND.
#[inline(always)]
pub(crate) fn may_be_nd<F: Frame>(frame: &F) -> bool {
    match frame.at::<8>(ETHERNET) {
        Some(head) => may_be_in(head[6]),
        None => false,
    }
}

/// Whether an IPv6 frame is ND; or why it must not leave.
#[inline(always)]
pub(crate) fn is_nd<F: Frame>(frame: &F) -> Result<bool, DropReason> {
    Ok(find(frame)?.fixed != 0)
}

/// Where an ND message is.
#[derive(Clone, Copy)]
struct Message {
    /// Offset of the ICMPv6 header.
    at: usize,
    /// Offset of what is behind the packet.
    end: usize,
    /// Bytes before the first option; 0: there is no ND message.
    fixed: usize,
}

impl Message {
    const NONE: Self = Self {
        at: 0,
        end: 0,
        fixed: 0,
    };
}

/// Walks the headers in front of a possible ND message.
#[inline(always)]
fn find<F: Frame>(frame: &F) -> Result<Message, DropReason> {
    let Some(head) = frame.at::<8>(ETHERNET) else {
        return Ok(Message::NONE);
    };
    let payload = usize::from(u16::from_be_bytes([head[4], head[5]]));
    let present = frame.len() as usize;
    // What is behind the packet's own end is padding that no receiver reads. A jumbogram says 0.
    let end = if payload != 0 && PAYLOAD + payload < present {
        PAYLOAD + payload
    } else {
        present
    };

    let mut next = head[6];
    let mut at = PAYLOAD;
    let mut fragment = false;
    for _ in 0..=HEADERS {
        match next {
            ICMPV6 => return message(frame, at, end, fragment),
            UDP if at != PAYLOAD && is_dhcp(frame, at) => return Err(DropReason::Dhcp),
            HOP_BY_HOP | ROUTING | DESTINATION | MOBILITY | HIP | SHIM6 | FRAGMENT
            | AUTHENTICATION => {}
            _ => return Ok(Message::NONE),
        }
        if at > DEPTH - 8 {
            return Err(DropReason::ExtensionHeaders);
        }
        let Some(header) = frame.word(at) else {
            // Every extension header is at least 8 bytes: the packet ends within this one.
            return Ok(Message::NONE);
        };
        let length = usize::from(byte(header, 1));
        if next == FRAGMENT {
            if u16::from_be_bytes([byte(header, 2), byte(header, 3)]) & 0xfff8 != 0 {
                return Ok(Message::NONE);
            }
            fragment = true;
            at += 8;
        } else if next == AUTHENTICATION {
            at += (length + 2) * 4;
        } else {
            at += (length + 1) * 8;
        }
        next = byte(header, 0);
    }
    Err(DropReason::ExtensionHeaders)
}

/// Looks at the ICMPv6 header at `at`.
#[inline(always)]
fn message<F: Frame>(
    frame: &F,
    at: usize,
    end: usize,
    fragment: bool,
) -> Result<Message, DropReason> {
    if at > DEPTH - 8 {
        return Err(DropReason::ExtensionHeaders);
    }
    // No ND message is shorter than 8 bytes.
    let Some(icmp) = frame.word(at) else {
        return Ok(Message::NONE);
    };
    let fixed = match byte(icmp, 0) {
        ROUTER_SOLICITATION | INVERSE_SOLICITATION | INVERSE_ADVERTISEMENT => 8,
        ROUTER_ADVERTISEMENT => 16,
        NEIGHBOUR_SOLICITATION | NEIGHBOUR_ADVERTISEMENT => 24,
        REDIRECT => 40,
        _ => return Ok(Message::NONE),
    };
    if fragment {
        return Err(DropReason::NdMalformed);
    }
    Ok(Message { at, end, fixed })
}

/// Walks the options of the ND message at `at`.
#[inline(always)]
fn options<F: Frame>(
    own: Mac,
    frame: &F,
    at: usize,
    end: usize,
    fixed: usize,
) -> Result<Fix, DropReason> {
    let mut option = at + fixed;
    let mut address = 0;
    let mut foreign = false;
    for _ in 0..OPTIONS {
        if option + 8 > end {
            break;
        }
        // The shortest option is 8 bytes, and just as long when it carries an Ethernet address.
        if option > DEPTH - 8 {
            return Err(DropReason::NdMalformed);
        }
        let Some(bytes) = frame.word(option) else {
            return Err(DropReason::NdMalformed);
        };
        let length = usize::from(byte(bytes, 1)) * 8;
        if length == 0 {
            return Err(DropReason::NdMalformed);
        }
        if byte(bytes, 0) == SOURCE_LINK_LAYER || byte(bytes, 0) == TARGET_LINK_LAYER {
            if length != 8 || address != 0 {
                return Err(DropReason::NdMalformed);
            }
            address = option + 2;
            let [_, _, a, b, c, d, e, f] = bytes.to_le_bytes();
            foreign = Mac::of(&[a, b, c, d, e, f]) != own;
        }
        option += length;
    }
    if option + 8 <= end {
        return Err(DropReason::NdMalformed);
    }
    Ok(Fix::nd(address, at + 2).when(foreign))
}
