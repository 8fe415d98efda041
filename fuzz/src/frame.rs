//! What core promises of every frame, port and table of owners.
//!
//! Input: a [`Head`] of 32 bytes, then the frame.
//!
//! ```text
//! 0      mode          1  flag       2..4  MTU         4..6  members and bits
//! 6      bit 0 tagged, 1 for another host, 2 to be segmented
//! 7      the host end that sends
//! 8..32  eight owners, three bytes each: host end, kind, and which of its kinds
//! ```
//!
//! An address belongs to one of the eight by its last byte, so that every address has an owner of
//! the fuzzer's choice.

use std::cell::RefCell;

use ipvlan_abi::{DropReason, Flag, Mode, Owner, PortEntry};
use ipvlan_core::dhcp::{self, Places};
use ipvlan_core::frame::{Bytes, ETHERNET};
use ipvlan_core::{Action, DEPTH, Fix, Owners, Verdict, rx, tx};

use crate::frames::{OWN, V4, V6, apply, macs_shown, port, reason};

const HEAD: usize = 32;

/// Who owns what, and what was said when asked.
#[derive(Default)]
struct Table {
    owners: [Owned; 8],
    said: RefCell<Vec<Owner>>,
}

#[derive(Clone, Copy)]
struct Owned(Owner);

impl Default for Owned {
    fn default() -> Self {
        Self(Owner::NOBODY)
    }
}

impl Table {
    fn of(bytes: &[u8]) -> Self {
        let mut table = Self::default();
        for (owned, bytes) in table.owners.iter_mut().zip(bytes.as_chunks::<3>().0) {
            let [ifindex, kind, far] = *bytes;
            let owner = Owner {
                ifindex: u32::from(ifindex) << (far & 0x18),
                kind: u32::from(kind & 7) << (far & 3),
            };
            // Nobody is nobody, without a number.
            if owner.kind != Owner::NOBODY.kind {
                owned.0 = owner;
            }
        }
        table
    }

    fn ask(&self, last: u8) -> Owner {
        let owner = self.owners[usize::from(last & 7)].0;
        self.said.borrow_mut().push(owner);
        owner
    }

    /// The prefixes are asked about an address that has just been found to have no entry.
    fn refine(&self, octet: u8) -> Owner {
        let before = self.said.borrow_mut().pop();
        assert_eq!(before, Some(Owner::NOBODY), "prefixes come second");
        self.ask(octet)
    }

    /// How often it was asked since the last call, and what it said.
    fn said(&self) -> Vec<Owner> {
        self.said.take()
    }
}

impl Owners for Table {
    fn v4(&self, address: &V4) -> Owner {
        self.ask(address[3])
    }

    fn v6(&self, address: &V6) -> Owner {
        self.ask(address[15])
    }

    fn v4_prefix(&self, address: &V4) -> Owner {
        self.refine(address[1])
    }

    fn v6_prefix(&self, address: &V6) -> Owner {
        self.refine(address[1])
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

/// Decides on a frame in both directions.
///
/// # Panics
///
/// Where a promise is broken.
pub fn frame(data: &[u8]) {
    let Some((head, bytes)) = data.split_first_chunk::<HEAD>() else {
        return;
    };
    let [
        mode,
        flag,
        mtu0,
        mtu1,
        members,
        bits,
        seen,
        sender,
        owners @ ..,
    ] = head;
    let port = PortEntry {
        mtu: u32::from(u16::from_le_bytes([*mtu0, *mtu1])),
        members: u32::from(*members),
        bits: u32::from(*bits),
        mode: *mode,
        flag: *flag,
        ..port(Mode::L2, Flag::Bridge)
    };
    let frame = Bytes {
        bytes,
        tagged: seen & 1 != 0,
        another_host: seen & 2 != 0,
        segmented: seen & 4 != 0,
    };
    let table = Table::of(owners);
    received(&port, &frame, &table);
    sent(&port, u32::from(*sender), &frame, &table);
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

/// The same frame with other bytes where nobody may look.
fn beyond(bytes: &[u8]) -> Vec<u8> {
    let mut other = bytes.to_vec();
    for byte in other.iter_mut().skip(DEPTH) {
        *byte = !*byte;
    }
    other
}

fn received(port: &PortEntry, frame: &Bytes<'_>, table: &Table) {
    let bytes = frame.bytes;
    let verdict = rx(port, frame, table);
    let said = table.said();
    coherent(verdict, &said);
    assert!(
        matches!(
            verdict.action(),
            Action::Deliver | Action::Flood | Action::Pass | Action::Lease
        ),
        "{verdict:?} is for what devices send"
    );
    assert!(verdict.fix().is_nothing(), "the wire is not corrected");
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
    let own = bytes.get(6..12) == Some(&OWN);
    if own {
        assert_ne!(verdict.action(), Action::Flood, "it was ours already");
    }
    if own && is_group(bytes) {
        assert_eq!(verdict, Verdict::PASS, "it was ours already");
    }
    if said.last().is_some_and(|owner| !owner.is_device()) {
        assert_ne!(verdict.action(), Action::Deliver, "of the last answer");
    }

    if verdict.action() == Action::Lease {
        replied(port, frame, verdict.owner());
    }

    let other = beyond(bytes);
    let other = Bytes {
        bytes: &other,
        ..*frame
    };
    assert_eq!(rx(port, &other, table), verdict, "{DEPTH} bytes are read");
    for flag in 0..4 {
        let other = PortEntry { flag, ..*port };
        let again = rx(&other, frame, table);
        assert_eq!(again, verdict, "the flag is between siblings");
    }
    let _: Vec<Owner> = table.said();

    let alone = rx(port, frame, &Nobody);
    assert_ne!(alone.action(), Action::Deliver, "to whom?");
    let answers_a_probe = ethertype(bytes) == Some(0x0806)
        && bytes.get(20..22) == Some(&[0, 2])
        && bytes.get(38..42) == Some(&[0; 4]);
    if !is_group(bytes) && !answers_a_probe {
        assert_eq!(alone, Verdict::PASS, "as if nothing were here");
    }
}

fn sent(port: &PortEntry, sender: u32, frame: &Bytes<'_>, table: &Table) {
    let bytes = frame.bytes;
    let verdict = tx(port, sender, frame, table);
    let said = table.said();
    coherent(verdict, &said);
    assert!(said.len() <= 1, "asked {} times", said.len());
    assert!(
        !matches!(
            reason(verdict),
            Some(
                DropReason::NoPort
                    | DropReason::Copy
                    | DropReason::Rewrite
                    | DropReason::ChecksumPending
                    | DropReason::Flood
            )
        ),
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
        let longest = port.mtu as usize + ETHERNET;
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
    let other = beyond(bytes);
    let other = Bytes {
        bytes: &other,
        ..*frame
    };
    let again = tx(port, sender, &other, table);
    assert_eq!(again, verdict, "{DEPTH} bytes are read");

    if port.mode().is_l3() {
        sent_l3(port, frame, verdict);
    } else {
        sent_l2(port, sender, frame, table, verdict);
    }
    let _: Vec<Owner> = table.said();
}

fn fixed(frame: &Bytes<'_>, verdict: Verdict) -> Vec<u8> {
    let mut bytes = frame.bytes.to_vec();
    apply(verdict, OWN, &mut bytes);
    bytes
}

fn sent_l2(port: &PortEntry, sender: u32, frame: &Bytes<'_>, table: &Table, verdict: Verdict) {
    assert!(
        !matches!(verdict.action(), Action::Pass | Action::Route),
        "l2 does not route: {verdict:?}"
    );
    assert_eq!(
        verdict.action() == Action::Lease,
        asks(port, frame.bytes, verdict)
    );
    assert!(!verdict.fix().has(Fix::DESTINATION), "l2 keeps it");
    if verdict.action() == Action::Drop {
        return;
    }
    let mut bytes = fixed(frame, verdict);
    if verdict.action() == Action::Lease {
        assert_eq!(verdict.owner(), Owner::NOBODY, "it asks the LAN");
        requested(port, sender, &mut bytes);
    }
    let shown = macs_shown(&bytes);
    assert!(shown.iter().all(|mac| *mac == OWN), "shown: {shown:02x?}");
    let carries = ethertype(&bytes) == Some(0x0806) || shown.len() > 1;
    assert!(
        !carries || verdict.fix().has(Fix::SEALED),
        "a checksum could be written over what was looked at"
    );
    let mended = Bytes {
        bytes: &bytes,
        ..*frame
    };
    let again = tx(port, sender, &mended, table);
    assert!(
        again.fix().is_nothing() || again.fix() == Fix::SEALED,
        "nothing is left to mend: {again:?}"
    );
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
    let inside = bytes.get(..6) == Some(&OWN) && port.flag() != Flag::Vepa;
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
        let bytes = fixed(frame, verdict);
        assert_eq!(bytes.get(..6), Some(&OWN[..]), "to the receiver");
        assert_eq!(bytes.get(6..12), Some(&OWN[..]), "from the shared address");
    }
}
