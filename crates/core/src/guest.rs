//! A guest: a virtual machine behind a tap, with a MAC address of its own that nobody else sees.
//!
//! ```text
//!   guest ──► tap, tc ingress ──► the source address is remembered (`own_mac`)
//!                             ├─► l3: a question is answered on the spot (`question`)
//!                             └─► `tx`, as for any device: the wire sees the parent's address
//!   guest ◄── tap, tc egress ◄── whatever is for one alone gets the guest's address (`is_for_one`)
//! ```
//!
//! A device in a namespace has the parent's MAC address. A guest has the one that its machine was
//! started with, and takes nothing that was sent to another. What reaches the tap was sent to the
//! parent's address, so it is the guest's to get, and the address is replaced. There is one way out of
//! the tap for all that comes to the guest (redirected, copied, or forwarded by the host in l3s), so
//! it happens there. Not for the guest is what the host's own stack says to groups, as on each of its
//! interfaces.
//!
//! In l3 there is no ARP and no neighbour discovery. A namespace is told by its device's flag not to
//! try; a guest cannot be told, and asks. Whatever it asks for, the next hop is the parent's namespace,
//! so the answer is always the parent's address. Not answered: what asks for the guest's own address, or
//! comes from nobody, which is how a guest looks for duplicates.
//!
//! Limits: a guest that sends from several MAC addresses (a bridge in it) gets everything at the one
//! that it used last. The target hardware address in an ARP answer from others stays the parent's, which
//! a receiver by RFC 826 does not look at. A solicitation with more options than its sender's link-layer
//! address is not answered.
//!
//! Kernel: nothing. Behind an ipvtap of the driver, a guest must use the parent's MAC address, and in l3
//! have static neighbours.

use ipvlan_abi::PortEntry;

use crate::frame::{ARP, ETHERNET, ETHERNET_BYTES, Ethernet, Frame, IPV6, Mac};
use crate::l3::{ARP_BYTES, Arp, Owners, v4_owner, v6_owner};
use crate::nd;

/// What a guest asks that is answered here.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Question {
    /// Nothing.
    None = 0,
    /// For the MAC address of an IPv4 address: [`arp_answer`].
    Arp = 1,
    /// For the MAC address of an IPv6 address: [`advertisement`], whole.
    Neighbour = 2,
    /// The same without a link-layer address of its own, as a neighbour is asked whether it is still
    /// there: [`advertisement`], not whole.
    Reachability = 3,
}

/// An answer: a whole frame, in words of 8 bytes, the first byte lowest. It is put together on the
/// stack of an eBPF program, where nothing may be stored unless it is aligned.
#[derive(Clone, Copy, Debug)]
pub struct Answer<const WORDS: usize> {
    /// The frame, and zeros behind it.
    pub words: [u64; WORDS],
    /// Bytes of it.
    pub length: u32,
}

const MESSAGE: usize = ETHERNET + 40;
const OPTION: usize = MESSAGE + 24;
/// Of the ICMPv6 message, without and with a link-layer option.
const BARE: u8 = 24;
const WHOLE: u8 = 32;

/// The MAC address that a guest uses, by a frame that it sent: 6 bytes, the first one lowest. 0: the
/// frame does not tell.
#[inline(always)]
pub fn own_mac<F: Frame>(frame: &F) -> u64 {
    let Some(source) = frame.at::<6>(6) else {
        return 0;
    };
    if Mac::of(source).is_group() {
        return 0;
    }
    let [a, b, c, d, e, f] = *source;
    u64::from_le_bytes([a, b, c, d, e, f, 0, 0])
}

/// Whether a frame that is about to reach the guest is for it alone, and so has to carry its MAC
/// address.
#[inline(always)]
pub fn is_for_one<F: Frame>(frame: &F) -> bool {
    match frame.at::<6>(0) {
        Some(destination) => !Mac::of(destination).is_group(),
        None => false,
    }
}

/// Whether a frame that is about to reach the guest is the host's own: what its stack says to groups on
/// each interface. `from` is the interface that the frame came in by, 0: none.
#[inline(always)]
pub fn is_of_host<F: Frame>(from: u32, frame: &F) -> bool {
    from == 0 && !is_for_one(frame)
}

/// What the guest behind the tap `sender` asks that has to be answered here: nothing in l2, where
/// others answer.
#[inline(always)]
pub fn question<F: Frame, O: Owners>(
    port: &PortEntry,
    sender: u32,
    frame: &F,
    owners: &O,
) -> Question {
    if !port.mode().is_l3() || frame.is_tagged() {
        return Question::None;
    }
    let Some(ethernet) = Ethernet::of(frame) else {
        return Question::None;
    };
    match ethernet.ethertype {
        ARP => {
            let Some([0, 1, 0x08, 0, 6, 4]) = frame.at::<6>(ETHERNET) else {
                return Question::None;
            };
            if frame.len() < ETHERNET_BYTES + ARP_BYTES {
                return Question::None;
            }
            match Arp::of(frame) {
                Some(arp)
                    if arp.is_question()
                        && !arp.is_from_nobody()
                        && v4_owner(port, arp.target, owners).ifindex != sender =>
                {
                    Question::Arp
                }
                _ => Question::None,
            }
        }
        IPV6 => match nd::solicited(frame) {
            0 => Question::None,
            target => {
                let owner = v6_owner(port, &target.to_le_bytes(), owners);
                if nd::is_from_nobody(frame) || owner.ifindex == sender {
                    return Question::None;
                }
                match nd::solicitation_length(frame) {
                    BARE => Question::Reachability,
                    WHOLE => Question::Neighbour,
                    _ => Question::None,
                }
            }
        },
        _ => Question::None,
    }
}

/// The answer to an ARP request; `None` if `frame` is too short to be one.
#[inline(always)]
pub fn arp_answer<F: Frame>(port: &PortEntry, frame: &F) -> Option<Answer<6>> {
    let mut answer = Answer::new(ETHERNET_BYTES + ARP_BYTES);
    answer.put(0, frame.at::<6>(6)?);
    answer.put(6, &port.mac);
    // ARP; Ethernet, IPv4, 6, 4, reply.
    answer.put(12, &[8, 6, 0, 1, 8, 0, 6, 4, 0, 2]);
    answer.put(22, &port.mac);
    answer.put(28, frame.at::<4>(ETHERNET + 24)?);
    answer.put(32, frame.at::<6>(ETHERNET + 8)?);
    answer.put(38, frame.at::<4>(ETHERNET + 14)?);
    Some(answer)
}

/// The answer to a neighbour solicitation, with the parent's MAC address in it if `whole`. `None` if
/// `frame` is too short to be one.
#[inline(always)]
pub fn advertisement<F: Frame>(port: &PortEntry, whole: bool, frame: &F) -> Option<Answer<11>> {
    const SOLICITED_OVERRIDE: u8 = 0x60;
    let message = if whole { WHOLE } else { BARE };
    let mut answer: Answer<11> = Answer::new(ETHERNET_BYTES + 40 + u32::from(message));
    let target = nd::solicited(frame).to_le_bytes();
    answer.put(0, frame.at::<6>(6)?);
    answer.put(6, &port.mac);
    // IPv6; ICMPv6, hop limit 255.
    answer.put(12, &[0x86, 0xdd, 0x60, 0, 0, 0, 0, message, 58, 255]);
    answer.put(22, &target);
    answer.put(38, frame.at::<16>(ETHERNET + 8)?);
    answer.put(MESSAGE, &[136, 0, 0, 0, SOLICITED_OVERRIDE]);
    answer.put(MESSAGE + 8, &target);
    if whole {
        // Target link-layer address, 8 bytes.
        answer.put(OPTION, &[2, 1]);
        answer.put(OPTION + 2, &port.mac);
    }
    // The pseudo header: length and ICMPv6, then the addresses.
    let mut sum = u64::from(u16::from(message).to_be() + 58_u16.to_be());
    let [_, _, first, ..] = answer.words;
    sum += first >> 48;
    for word in answer.words.iter().skip(3) {
        sum += (word & 0xffff) + (word >> 16 & 0xffff) + (word >> 32 & 0xffff) + (word >> 48);
    }
    sum = (sum & 0xffff) + (sum >> 16);
    sum = (sum & 0xffff) + (sum >> 16);
    let [low, high, ..] = (!sum).to_le_bytes();
    answer.put(MESSAGE + 2, &[low, high]);
    Some(answer)
}

impl<const WORDS: usize> Answer<WORDS> {
    #[inline(always)]
    const fn new(length: u32) -> Self {
        Self {
            words: [0; WORDS],
            length,
        }
    }

    /// Puts `bytes` to `at`, where zeros are; a place that is known when this is compiled.
    #[inline(always)]
    fn put<const N: usize>(&mut self, at: usize, bytes: &[u8; N]) {
        for (place, byte) in (at..).zip(bytes) {
            if let Some(word) = self.words.get_mut(place / 8) {
                *word |= u64::from(*byte) << (place % 8 * 8);
            }
        }
    }
}
