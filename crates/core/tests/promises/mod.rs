//! What core promises of every frame, port and table of owners, said once: to the property tests and
//! to the fuzzer.
//!
//! ```text
//!   properties.rs      frames that are nearly right ─┐
//!                                                    ├─► received, sent ─► core ─► does it keep them?
//!   fuzz, its corpus   whatever reaches new code    ─┘
//! ```
//!
//! [`received`] and [`sent`] have core decide on a frame, and panic where a promise is broken; both of
//! their callers know how to make what panics smaller. A decision is held against
//!
//! * itself: action, owner, reason and fix come together only as they can, and as mode and flag allow;
//! * what it asked and how far it looked: [`Recorded`] and [`Watched`] write it down;
//! * decisions that must be the same: with another flag (of what was received), on the mended frame (of
//!   what was sent); and one for which nobody owns anything;
//! * another reading of the frame, from the RFCs, without the limits that core has:
//!   [`macs_shown`], [`udp`], [`identifiers`].
//!
//! Limits: a promise says what may not be, for any frame. Which decision is right for one of them is
//! in the tests beside this folder.

use std::cell::{Cell, RefCell};

use ipvlan_abi::{DropReason, Flag, Mode, Owner, PortEntry};
use ipvlan_core::dhcp::{self, Places};
use ipvlan_core::frame::{Bytes, ETHERNET, Frame, Walk};
use ipvlan_core::{Action, DEPTH, Fix, Owners, Verdict, rx, tx};

use crate::frames::{V4, V6, apply, is_right, macs_shown, reason};

/// Owners, and what they said when asked.
struct Recorded<'a, O> {
    owners: &'a O,
    said: RefCell<Vec<Owner>>,
}

impl<'a, O: Owners> Recorded<'a, O> {
    const fn of(owners: &'a O) -> Self {
        Self {
            owners,
            said: RefCell::new(Vec::new()),
        }
    }

    fn say(&self, owner: Owner) -> Owner {
        self.said.borrow_mut().push(owner);
        owner
    }

    /// The prefixes are asked about an address that has just been found to have no entry.
    fn refine(&self, owner: Owner) -> Owner {
        let before = self.said.borrow_mut().pop();
        assert_eq!(before, Some(Owner::NOBODY), "prefixes come second");
        self.say(owner)
    }

    /// What was said since the last call, an answer for each address.
    fn said(&self) -> Vec<Owner> {
        self.said.take()
    }
}

impl<O: Owners> Owners for Recorded<'_, O> {
    fn v4(&self, address: &V4) -> Owner {
        self.say(self.owners.v4(address))
    }

    fn v6(&self, address: &V6) -> Owner {
        self.say(self.owners.v6(address))
    }

    fn v4_prefix(&self, address: &V4) -> Owner {
        self.refine(self.owners.v4_prefix(address))
    }

    fn v6_prefix(&self, address: &V6) -> Owner {
        self.refine(self.owners.v6_prefix(address))
    }
}

/// Nobody owns anything.
struct Nobody;

impl Owners for Nobody {
    fn v4(&self, _: &V4) -> Owner {
        Owner::NOBODY
    }

    fn v6(&self, _: &V6) -> Owner {
        Owner::NOBODY
    }

    fn v4_prefix(&self, _: &V4) -> Owner {
        Owner::NOBODY
    }

    fn v6_prefix(&self, _: &V6) -> Owner {
        Owner::NOBODY
    }
}

/// A frame, and how far a decision looked into it.
pub(crate) struct Watched<'a> {
    frame: Bytes<'a>,
    /// Bytes that [`Frame::at`] reaches at most.
    reach: usize,
    looked: Cell<usize>,
}

impl<'a> Watched<'a> {
    pub(crate) const fn of(frame: Bytes<'a>, reach: usize) -> Self {
        Self {
            frame,
            reach,
            looked: Cell::new(0),
        }
    }

    /// Bytes up to the end of the last one that was looked at.
    pub(crate) const fn looked(&self) -> usize {
        self.looked.get()
    }

    fn look<T>(&self, end: usize, found: T) -> T {
        self.looked.set(self.looked.get().max(end));
        found
    }
}

impl Frame for Watched<'_> {
    fn len(&self) -> u32 {
        self.frame.len()
    }

    fn at<const N: usize>(&self, offset: usize) -> Option<&[u8; N]> {
        let end = offset + N;
        if end > self.reach {
            return None;
        }
        Some(self.look(end, self.frame.at(offset)?))
    }

    fn word(&self, offset: usize) -> Option<u64> {
        Some(self.look(offset + 8, self.frame.word(offset)?))
    }

    fn pair(&self, offset: usize) -> Option<[u8; 2]> {
        Some(self.look(offset + 2, self.frame.pair(offset)?))
    }

    fn walk<W: Walk>(&self, walk: &mut W) {
        let _: bool = (0..W::ROUNDS).all(|_| walk.round(self));
    }

    fn is_tagged(&self) -> bool {
        self.frame.is_tagged()
    }

    fn is_for_another_host(&self) -> bool {
        self.frame.is_for_another_host()
    }

    fn is_to_be_segmented(&self) -> bool {
        self.frame.is_to_be_segmented()
    }
}

/// Whether only a datapath can know of this, so that no decision names it.
pub(crate) const fn is_of_a_datapath(reason: DropReason) -> bool {
    matches!(
        reason,
        DropReason::NoPort
            | DropReason::Copy
            | DropReason::Rewrite
            | DropReason::ChecksumPending
            | DropReason::Flood
            | DropReason::HostStack
    )
}

/// What is so of every verdict. `said`: what the table of owners answered.
fn coherent(verdict: Verdict, said: &[Owner]) {
    let owner = verdict.owner();
    // Whom a DHCP reply to everybody is for is looked up only where it is delivered.
    let open = verdict.action() == Action::Lease && owner == Owner::NOBODY;
    if matches!(verdict.action(), Action::Deliver | Action::Lease) && !open {
        assert!(owner.is_device(), "delivered to no device: {verdict:?}");
        assert!(said.contains(&owner), "to whom nobody named: {verdict:?}");
    } else {
        assert_eq!(owner, Owner::NOBODY, "an owner is for deliveries");
    }
    let reason = DropReason::from_number(verdict.reason())
        .unwrap_or_else(|| panic!("a reason without a name: {verdict:?}"));
    assert_eq!(
        verdict.action() == Action::Drop,
        reason != DropReason::None,
        "a drop has a reason, and nothing else has"
    );
    if verdict.action() == Action::Drop {
        assert!(verdict.fix().is_nothing(), "what is dropped is not mended");
    }
    assert_eq!(Verdict::from_bits(verdict.to_bits()), verdict);
}

fn ethertype(bytes: &[u8]) -> Option<u16> {
    Some(u16::from_be_bytes(*bytes.get(12..)?.first_chunk()?))
}

fn is_group(bytes: &[u8]) -> bool {
    bytes.first().is_some_and(|first| first & 1 != 0)
}

/// Decides on a frame that the parent received.
///
/// # Panics
///
/// Where a promise is broken.
pub(crate) fn received<O: Owners>(port: &PortEntry, frame: &Bytes<'_>, owners: &O) {
    let bytes = frame.bytes;
    let owners = Recorded::of(owners);
    let watched = Watched::of(*frame, usize::MAX);
    let verdict = rx(port, &watched, &owners);
    let (said, looked) = (owners.said(), watched.looked());
    coherent(verdict, &said);
    assert!(
        matches!(
            verdict.action(),
            Action::Deliver | Action::Flood | Action::Pass | Action::Lease
        ),
        "{verdict:?} is for what devices send"
    );
    assert!(verdict.fix().is_nothing(), "the wire is not corrected");
    assert!(looked <= DEPTH, "looked at {looked} bytes");
    // The second time: for whom a question asks that came by unicast.
    assert!(said.len() <= 2, "asked {} times", said.len());
    if frame.tagged || frame.another_host || bytes.len() < ETHERNET || port.mode() == Mode::L3s {
        assert_eq!(verdict, Verdict::PASS, "not ours");
    }
    if port.mode().is_l3() {
        assert!(
            matches!(verdict.action(), Action::Deliver | Action::Pass),
            "l3 has no broadcast, and no DHCP: {verdict:?}"
        );
        if is_group(bytes) {
            assert_eq!(verdict, Verdict::PASS, "and no multicast");
        }
    }
    let own = bytes.get(6..12) == Some(&port.mac);
    if own {
        assert_ne!(verdict.action(), Action::Flood, "it was ours already");
    }
    if own && is_group(bytes) {
        assert_eq!(verdict, Verdict::PASS, "it was ours already");
    }
    if said.last().is_some_and(|owner| !owner.is_device()) {
        of_no_device(port, bytes, verdict);
    }
    if verdict.action() == Action::Lease {
        replied(port, frame, verdict.owner());
    }

    for flag in 0..4 {
        let other = PortEntry { flag, ..*port };
        let again = rx(&other, frame, &owners);
        assert_eq!(again, verdict, "the flag is between siblings");
    }

    let alone = rx(port, frame, &Nobody);
    assert_ne!(alone.action(), Action::Deliver, "to whom?");
    if port.mode().is_l3() || !(is_group(bytes) || answers_a_probe(bytes)) {
        assert_eq!(alone, Verdict::PASS, "as if nothing were here");
    }
}

/// Whether it is ARP's answer to somebody who has no address yet.
fn answers_a_probe(bytes: &[u8]) -> bool {
    ethertype(bytes) == Some(0x0806)
        && bytes.get(20..22) == Some(&[0, 2])
        && bytes.get(38..42) == Some(&[0; 4])
}

/// The last answer was no device: nobody here gets the frame, and all of them only where one may have
/// the address all the same.
fn of_no_device(port: &PortEntry, bytes: &[u8], verdict: Verdict) {
    assert_ne!(verdict.action(), Action::Deliver, "of the last answer");
    let sender = match ethertype(bytes) {
        Some(0x0806) => bytes.get(28..32),
        _ => bytes.get(22..38),
    };
    let from_nobody = sender.is_some_and(|sender| sender.iter().all(|byte| *byte == 0));
    let may_flood = from_nobody || answers_a_probe(bytes) || port.learns();
    assert!(
        verdict.action() == Action::Pass || may_flood,
        "of the last answer: {verdict:?}"
    );
}

/// Decides on a frame that came out of the device whose host end is `sender`.
///
/// # Panics
///
/// Where a promise is broken.
pub(crate) fn sent<O: Owners>(port: &PortEntry, sender: u32, frame: &Bytes<'_>, owners: &O) {
    let bytes = frame.bytes;
    let owners = Recorded::of(owners);
    let watched = Watched::of(*frame, usize::MAX);
    let verdict = tx(port, sender, &watched, &owners);
    let (said, looked) = (owners.said(), watched.looked());
    coherent(verdict, &said);
    assert!(looked <= DEPTH, "looked at {looked} bytes");
    assert!(said.len() <= 1, "asked {} times", said.len());
    assert!(
        !reason(verdict).is_some_and(is_of_a_datapath),
        "only a datapath can know this: {verdict:?}"
    );
    if bytes.len() < ETHERNET || frame.tagged {
        assert_eq!(verdict.action(), Action::Drop, "a runt, or tagged");
    }
    let leaves = matches!(
        verdict.action(),
        Action::Wire | Action::Flood | Action::Route | Action::Lease
    );
    if leaves && !frame.segmented {
        let longest = (port.mtu as usize).saturating_add(ETHERNET);
        assert!(bytes.len() <= longest, "the parent cannot send it");
    }
    match port.flag() {
        Flag::Private => assert!(
            !matches!(verdict.action(), Action::Deliver | Action::Flood),
            "private: {verdict:?}"
        ),
        Flag::Vepa if !is_group(bytes) => {
            assert_ne!(verdict.action(), Action::Deliver, "by way of the switch");
        }
        Flag::Vepa | Flag::Bridge => {}
    }
    if let Some((option, checksum)) = verdict.fix().nd_offsets() {
        let end = option as usize + 6;
        assert!(end <= bytes.len() && end <= DEPTH, "inside the frame");
        assert!(checksum + 2 < option, "the checksum is in front of it");
        assert!((option - checksum) % 2 == 0, "in step with 16-bit words");
    }
    if port.mode().is_l3() {
        sent_l3(port, frame, verdict);
    } else {
        sent_l2(port, sender, frame, &owners, verdict);
    }
}

/// The frame as a datapath lets it go.
fn fixed(port: &PortEntry, frame: &Bytes<'_>, verdict: Verdict) -> Vec<u8> {
    let mut bytes = frame.bytes.to_vec();
    apply(verdict, port.mac, &mut bytes);
    bytes
}

fn sent_l2<O: Owners>(
    port: &PortEntry,
    sender: u32,
    frame: &Bytes<'_>,
    owners: &O,
    verdict: Verdict,
) {
    assert!(
        !matches!(verdict.action(), Action::Pass | Action::Route),
        "l2 does not route: {verdict:?}"
    );
    assert_eq!(
        verdict.action() == Action::Lease,
        asks(port, frame.bytes, verdict),
        "what a DHCP client asks, and nothing else"
    );
    assert!(!verdict.fix().has(Fix::DESTINATION), "l2 keeps it");
    if verdict.action() == Action::Drop {
        return;
    }
    // The chain in front of an ND message may end outside the packet, and what a walk finds there
    // nobody reads; all else that is mended is somebody's foreign address.
    if !is_right(verdict) && verdict.fix().nd_offsets().is_none() {
        let shown = macs_shown(frame.bytes);
        let foreign = shown.iter().any(|mac| *mac != port.mac);
        assert!(foreign, "there was nothing to mend: {verdict:?}");
    }
    let mut bytes = fixed(port, frame, verdict);
    let check = |bytes: &[u8]| mended(port, sender, &Bytes { bytes, ..*frame }, owners, verdict);
    check(&bytes);
    if verdict.action() == Action::Lease {
        assert_eq!(verdict.owner(), Owner::NOBODY, "it asks the LAN");
        requested(port, sender, &mut bytes);
        check(&bytes);
    }
}

/// What leaves an l2 device after this verdict.
fn mended<O: Owners>(
    port: &PortEntry,
    sender: u32,
    frame: &Bytes<'_>,
    owners: &O,
    verdict: Verdict,
) {
    let shown = macs_shown(frame.bytes);
    assert_eq!(shown.first(), Some(&port.mac), "the Ethernet source");
    let ours = shown.iter().all(|mac| *mac == port.mac);
    assert!(ours, "shown: {shown:02x?}");
    let carries = ethertype(frame.bytes) == Some(0x0806) || shown.len() > 1;
    assert!(
        !carries || verdict.fix().has(Fix::SEALED),
        "a checksum could be written over what was looked at"
    );
    let again = tx(port, sender, frame, owners);
    assert!(is_right(again), "nothing is left to mend: {again:?}");
    assert_eq!(
        again.with(verdict.fix()),
        verdict,
        "and it goes the same way"
    );
}

/// IP's version, and where its UDP header is if it is a packet (or first fragment) of UDP.
fn udp(bytes: &[u8]) -> Option<(u8, usize)> {
    let (version, at, offset) = match ethertype(bytes)? {
        0x0800 => {
            let fragment = u16::from_be_bytes(*bytes.get(20..)?.first_chunk()?);
            let header = usize::from(bytes.get(14)? & 0x0f) * 4;
            (4, ETHERNET + header, fragment & 0x1fff)
        }
        0x86dd => (6, ETHERNET + 40, 0),
        _ => return None,
    };
    let next = bytes.get(if version == 4 { 23 } else { 20 })?;
    let whole = bytes.len() >= (ETHERNET + 20).max(at + 8);
    (*next == 17 && offset == 0 && whole).then_some((version, at))
}

/// Whether a frame that a device sends is a DHCP client's and goes out to the LAN.
fn asks(port: &PortEntry, bytes: &[u8], verdict: Verdict) -> bool {
    let Some((version, at)) = udp(bytes) else {
        return false;
    };
    let inside = bytes.get(..6) == Some(&port.mac) && port.flag() != Flag::Vepa;
    let server = if version == 4 { 67 } else { 547_u16 };
    let to_server = bytes.get(at + 2..at + 4) == Some(&server.to_be_bytes());
    to_server && !inside && verdict.action() != Action::Drop
}

/// Writes a device's identity over what a request says, as a datapath does; then the request says
/// nothing else.
fn requested(port: &PortEntry, slot: u32, bytes: &mut [u8]) {
    let Some((version, at)) = udp(bytes) else {
        panic!("what is no UDP is no DHCP");
    };
    let Ok(places) = dhcp::request(version, &whole(bytes)) else {
        return;
    };
    let identity = port.dhcp_identity(slot);
    for place in [places.hardware, places.identifier] {
        match bytes.get_mut(place..place + 6) {
            Some(there) if place != 0 => there.copy_from_slice(&identity),
            // The datapath drops it.
            None => return,
            Some(_) => {}
        }
    }
    assert_eq!(places.checksum, at + 6, "of UDP");
    assert_eq!(dhcp::request(version, &whole(bytes)), Ok(places), "again");
    if version == 4 {
        assert_eq!(bytes.get(at + 36..at + 42), Some(&identity[..]), "chaddr");
    }
    let identifiers = identifiers(version, bytes, at + 8);
    assert!(identifiers.len() <= 1, "of one client: {identifiers:02x?}");
    for said in identifiers
        .iter()
        .filter(|said| said.len() >= dhcp::SHORTEST)
    {
        assert!(said.ends_with(&identity), "it says {said:02x?}");
    }
}

/// The client identifiers in a DHCP message that begins at `at`, as far as they are in the frame.
fn identifiers(version: u8, bytes: &[u8], at: usize) -> Vec<&[u8]> {
    let mut found = Vec::new();
    let four = version == 4;
    if four && bytes.get(at + 236..at + 240) != Some(&[99, 130, 83, 99]) {
        return found;
    }
    let options = bytes.get(at + if four { 240 } else { 4 }..);
    let mut rest = options.unwrap_or_default();
    loop {
        let (kind, length, value) = match *rest {
            [0, ref after @ ..] if four => {
                rest = after;
                continue;
            }
            [255, ..] if four => return found,
            [kind, length, ref value @ ..] if four => (u16::from(kind), length.into(), value),
            [a, b, c, d, ref value @ ..] if !four => {
                let length = u16::from_be_bytes([c, d]);
                (u16::from_be_bytes([a, b]), usize::from(length), value)
            }
            _ => return found,
        };
        let Some((value, after)) = value.split_at_checked(length) else {
            return found;
        };
        if kind == if four { 61 } else { 1 } {
            found.push(value);
        }
        rest = after;
    }
}

fn whole(bytes: &[u8]) -> Bytes<'_> {
    Bytes {
        bytes,
        tagged: false,
        another_host: false,
        segmented: false,
    }
}

/// What is put back into a reply stands where an identity of ours stood.
fn replied(port: &PortEntry, frame: &Bytes<'_>, owner: Owner) {
    let Some((version, _)) = udp(frame.bytes) else {
        panic!("what is no UDP is no DHCP");
    };
    let named = dhcp::named(port, frame);
    if owner == Owner::NOBODY {
        assert!(
            named <= u32::from(u16::MAX),
            "a reply to everybody names one"
        );
    }
    for slot in [named, 0, 1, owner.ifindex] {
        let Ok(low) = u16::try_from(slot) else {
            continue;
        };
        let Places { identifier: at, .. } = dhcp::reply(version, port, low.into(), frame);
        if at != 0 {
            let there = frame.bytes.get(at..at + 6);
            assert_eq!(there, Some(&port.dhcp_identity(slot)[..]), "not ours");
        }
    }
}

fn sent_l3(port: &PortEntry, frame: &Bytes<'_>, verdict: Verdict) {
    let bytes = frame.bytes;
    assert!(
        !matches!(
            verdict.action(),
            Action::Flood | Action::Wire | Action::Lease
        ),
        "l3 routes: {verdict:?}"
    );
    if port.mode() == Mode::L3s {
        assert!(
            matches!(
                verdict.action(),
                Action::Pass | Action::Deliver | Action::Drop
            ),
            "the stack routes: {verdict:?}"
        );
    } else {
        assert_ne!(verdict.action(), Action::Pass, "a device has no stack here");
    }
    assert_eq!(verdict.fix().nd_offsets(), None, "l3 has no ND");
    assert!(!verdict.fix().has(Fix::ARP_SENDER), "and no ARP");
    if verdict.action() == Action::Drop {
        return;
    }
    assert!(!is_group(bytes), "l3 has no multicast");
    match ethertype(bytes) {
        Some(0x0800) => assert!(
            !matches!(bytes.get(30), Some(0x7f | 224..)),
            "127.0.0.0/8, multicast and broadcast stay"
        ),
        Some(0x86dd) => {
            assert_ne!(bytes.get(38), Some(&0xff), "multicast stays");
            assert!(macs_shown(bytes).len() == 1, "ND stays");
        }
        other => panic!("l3 carries IP, not {other:x?}"),
    }
    if matches!(verdict.action(), Action::Deliver | Action::Parent) {
        // Routing writes both; here we do.
        let bytes = fixed(port, frame, verdict);
        let own = Some(&port.mac[..]);
        assert_eq!(bytes.get(..6), own, "to the receiver");
        assert_eq!(bytes.get(6..12), own, "from the shared address");
    }
}
