//! DHCP for devices that share one MAC address.
//!
//! A server knows its clients by their hardware address (`chaddr`) and by an identifier that they
//! choose: option 61 of DHCPv4, option 1 (the DUID) of DHCPv6. Devices of one parent have the same
//! hardware address, and often the same identifier, too: it is made from that address, or from what
//! all namespaces of a machine share (machine-id, a file in /var). To a server they are one client,
//! with one lease. So each device gets an *identity*, a MAC address that no interface has:
//!
//! ```text
//!   02 xx xx xx │ slot    local, individual │ PortEntry::dhcp_identity
//! ```
//!
//! ```text
//!   device ─► request: chaddr := identity; the last 6 bytes of the identifier := identity; the
//!   │                  broadcast flag is set, since a frame to that address would not come here
//!   │         what stood there is remembered, by sender                         ─► wire
//!   device ◄─ reply:   chaddr says whose it is; what is remembered is put back  ◄─ wire
//! ```
//!
//! The identity is written, not asked for, so that no device can take, renew or release what is
//! another's. For the same reason what could carry an identifier past us is dropped
//! ([`DropReason::Dhcp`]): fragments and IP options or extension headers in front of a DHCP message, a
//! relay's messages, option overloading, a second identifier, more options than [`OPTIONS`].
//!
//! DHCPv6 has no `chaddr`, and its replies go to the link-local address of the client, which is a
//! device's own. Only the identifier is exchanged.
//!
//! A request concerns servers out there, so it goes to the wire and to no sibling. What a device
//! sends as a server goes to the wire like anything else, but not to siblings
//! ([`DropReason::DhcpServer`]), not even when a switch reflects it.
//!
//! Limits: l2 only. A server in a sibling serves the LAN, not its siblings. Identifiers with fewer
//! than [`SHORTEST`] bytes stay as they are; nobody makes them by himself. Who has a reservation by
//! identifier or MAC address in the server's configuration uses the identity instead.
//!
//! RFC 2131, 2132 (options 52, 61), 4361, 6842, 8415. Kernel: nothing; with the driver each client
//! needs an identifier set by hand, and the broadcast flag.

use ipvlan_abi::{DropReason, OWNER_HERE, Owner, PortEntry};

use crate::frame::{ETHERNET, Frame, Mac, Walk};

/// Options of a message that are walked, single bytes of padding counted.
pub const OPTIONS: u32 = 64;
/// Bytes that an identifier has at least, if the identity is written into it: a type and six more.
pub const SHORTEST: usize = 7;

const IDENTITY: usize = 6;
const UDP: u8 = 17;
const UDP_BYTES: usize = 8;
const CHECKSUM: usize = 6;

const SERVER4: u16 = 67;
const CLIENT4: u16 = 68;
const CLIENT6: u16 = 546;
const SERVER6: u16 = 547;

/// Where things are, when nothing is between the IP header and UDP. An identifier is looked for
/// nowhere else.
const UDP4: usize = ETHERNET + 20;
const UDP6: usize = ETHERNET + 40;
const BOOTP: usize = UDP4 + UDP_BYTES;
const FLAGS: usize = BOOTP + 10;
const YOURS: usize = BOOTP + 16;
const RELAY: usize = BOOTP + 24;
const HARDWARE: usize = BOOTP + 28;
const COOKIE: usize = BOOTP + 236;
const OPTIONS4: usize = BOOTP + 240;
const OPTIONS6: usize = UDP6 + UDP_BYTES + 4;

const MAGIC: u64 = u32::from_le_bytes([99, 130, 83, 99]) as u64;

const PAD: u8 = 0;
const OVERLOAD: u8 = 52;
const MESSAGE_TYPE: u8 = 53;
const CLIENT_ID: u8 = 61;
const LAST: u8 = 255;

const RELAY_FORWARD: u8 = 12;
const RELAY_REPLY: u8 = 13;
const CLIENT_ID6: u16 = 1;

/// What an IP packet is to DHCP, as far as its ports tell.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub(crate) enum Role {
    /// No DHCP.
    Other = 0,
    /// From a client (or a relay) to a server.
    Request = 1,
    /// From a server to a client.
    Reply = 2,
    /// One of both, in a form that no client or server makes.
    Odd = 3,
}

const fn role(port: u16, server: u16, client: u16, odd: bool) -> Role {
    if port != server && port != client {
        Role::Other
    } else if odd {
        Role::Odd
    } else if port == server {
        Role::Request
    } else {
        Role::Reply
    }
}

/// Whether an IPv4 packet has to be looked at more closely than the fixed header to know its role: its
/// UDP header, or a part of it, is where the sender can still change it.
#[inline(always)]
pub(crate) fn may_change4<F: Frame>(frame: &F) -> bool {
    match frame.at::<20>(ETHERNET) {
        Some(head) => head[9] == UDP && (head[0] & 0x0f != 5 || !is_fixed(frame, UDP4)),
        None => false,
    }
}

/// The same of an IPv6 packet with nothing between the IPv6 header and UDP.
#[inline(always)]
pub(crate) fn may_change6<F: Frame>(frame: &F) -> bool {
    match frame.at::<8>(ETHERNET) {
        Some(head) => head[6] == UDP && !is_fixed(frame, UDP6),
        None => false,
    }
}

/// Whether the UDP header at `at`, if there is one, is out of the sender's reach.
#[inline(always)]
fn is_fixed<F: Frame>(frame: &F, at: usize) -> bool {
    frame.at::<UDP_BYTES>(at).is_some() || (frame.len() as usize) < at + UDP_BYTES
}

/// Of an IPv4 packet. A later fragment is nothing: without its first one nobody can use it.
#[inline(always)]
pub(crate) fn role4<F: Frame>(frame: &F) -> Role {
    let Some(head) = frame.at::<20>(ETHERNET) else {
        return Role::Other;
    };
    if head[9] != UDP {
        return Role::Other;
    }
    let fragment = u16::from_be_bytes([head[6], head[7]]);
    if fragment & 0x1fff != 0 {
        return Role::Other;
    }
    let header = ((head[0] & 0x0f) as usize) * 4;
    let Some(udp) = frame.word(ETHERNET + header) else {
        return Role::Other;
    };
    role(
        destination(udp),
        SERVER4,
        CLIENT4,
        header != 20 || fragment & 0x2000 != 0,
    )
}

/// Of an IPv6 packet with nothing between the IPv6 header and UDP.
#[inline(always)]
pub(crate) fn role6<F: Frame>(frame: &F) -> Role {
    let Some(head) = frame.at::<8>(ETHERNET) else {
        return Role::Other;
    };
    if head[6] != UDP {
        return Role::Other;
    }
    match frame.word(UDP6) {
        Some(udp) => role(destination(udp), SERVER6, CLIENT6, false),
        None => Role::Other,
    }
}

/// Whether the UDP header at `at` of an IPv6 packet is one of DHCP.
#[inline(always)]
pub(crate) fn is_dhcp<F: Frame>(frame: &F, at: usize) -> bool {
    match frame.word(at) {
        Some(udp) => matches!(destination(udp), SERVER6 | CLIENT6),
        None => false,
    }
}

/// Destination port of the UDP header in a [`Frame::word`].
#[inline(always)]
const fn destination(udp: u64) -> u16 {
    let [_, _, high, low, ..] = udp.to_le_bytes();
    u16::from_be_bytes([high, low])
}

/// Whose identity these 6 bytes (of a [`Frame::word`], the first one lowest) are: a slot of this
/// port, or more than any slot.
#[inline(always)]
const fn slot_of(port: &PortEntry, bytes: u64) -> u32 {
    let [a, b, c, d, high, low, ..] = bytes.to_le_bytes();
    if u32::from_le_bytes([a, b, c, d]) != u32::from_le_bytes(port.identity) {
        return NO_SLOT;
    }
    u16::from_be_bytes([high, low]) as u32
}

const NO_SLOT: u32 = u32::MAX;

/// Whom a DHCPv4 reply is for.
#[inline(always)]
pub(crate) fn addressee<F: Frame>(port: &PortEntry, frame: &F) -> Addressee {
    let Some(bytes) = frame.word(HARDWARE) else {
        return Addressee::Nobody;
    };
    let [a, b, c, d, e, f, ..] = bytes.to_le_bytes();
    if slot_of(port, bytes) != NO_SLOT {
        Addressee::Device
    } else if Mac::of(&[a, b, c, d, e, f]) == Mac::of(&port.mac) {
        Addressee::Parent
    } else {
        Addressee::Nobody
    }
}

/// See [`addressee`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub(crate) enum Addressee {
    /// Somebody on the LAN.
    Nobody = 0,
    /// The parent's own client.
    Parent = 1,
    /// One of the devices: [`named`].
    Device = 2,
}

/// What is to be exchanged in a message. Offsets are from the start of the frame; 0: not there.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Places {
    /// The UDP checksum.
    pub checksum: usize,
    /// The two bytes of flags, whose highest bit is to be set.
    pub flags: usize,
    /// The hardware address.
    pub hardware: usize,
    /// The last six bytes of the client's identifier.
    pub identifier: usize,
}

/// What to write into a request that a device sends; or why it must not leave. `version` is that of
/// the IP header.
#[inline(always)]
pub fn request<F: Frame>(version: u8, frame: &F) -> Result<Places, DropReason> {
    if version != 4 {
        return request6(frame);
    }
    let (Some(relay), Some(magic)) = (frame.word(RELAY), frame.word(COOKIE - 4)) else {
        return Err(DropReason::Dhcp);
    };
    // Messages of a relay are about others than their sender.
    if relay & u32::MAX as u64 != 0 {
        return Err(DropReason::Dhcp);
    }
    let mut places = Places {
        checksum: UDP4 + CHECKSUM,
        flags: FLAGS,
        hardware: HARDWARE,
        identifier: 0,
    };
    // BOOTP without options (RFC 951).
    if magic >> 32 == MAGIC {
        places.identifier = walk4(frame)?;
    }
    Ok(places)
}

#[inline(always)]
fn request6<F: Frame>(frame: &F) -> Result<Places, DropReason> {
    match frame.word(UDP6 + UDP_BYTES) {
        Some(message) if !is_relayed(message) => Ok(Places {
            checksum: UDP6 + CHECKSUM,
            flags: 0,
            hardware: 0,
            identifier: walk6(frame)?,
        }),
        _ => Err(DropReason::Dhcp),
    }
}

/// Whether the DHCPv6 message that begins in this [`Frame::word`] is one of a relay.
#[inline(always)]
const fn is_relayed(message: u64) -> bool {
    matches!(message.to_le_bytes()[0], RELAY_FORWARD | RELAY_REPLY)
}

/// The slot of the device that a DHCPv4 reply names; more than any slot, if it names none.
#[inline(always)]
pub fn named<F: Frame>(port: &PortEntry, frame: &F) -> u32 {
    match frame.word(HARDWARE) {
        Some(bytes) => slot_of(port, bytes),
        None => NO_SLOT,
    }
}

/// Who gets a reply: `owner`, whose address it was sent to, or else the device that it names, whose
/// host end is `host` (0: no device). [`Owner::NOBODY`]: nobody here.
#[inline(always)]
pub const fn receiver(owner: Owner, host: u32) -> Owner {
    if owner.is_device() || host == 0 {
        return owner;
    }
    Owner {
        ifindex: host,
        kind: OWNER_HERE,
    }
}

/// Where in a reply stands what the device in `slot` did not write. All of it is 0 where nothing is.
#[inline(always)]
pub fn reply<F: Frame>(version: u8, port: &PortEntry, slot: u32, frame: &F) -> Places {
    let (walked, checksum, hardware) = match version {
        4 => (walk4(frame), UDP4 + CHECKSUM, HARDWARE),
        _ => (walk6(frame), UDP6 + CHECKSUM, 0),
    };
    let identifier = match walked {
        Ok(at) if is_identity(port, slot, frame, at) => at,
        _ => 0,
    };
    Places {
        checksum,
        flags: 0,
        hardware,
        identifier,
    }
}

/// The address that a server leaves to a client with this reply, all zeros if it does not (RFC 2131
/// section 3.1: DHCPACK and `yiaddr`).
#[inline(always)]
pub fn acknowledged<F: Frame>(frame: &F) -> [u8; 4] {
    const ACKNOWLEDGEMENT: u8 = 5;
    let mut options = Options4(Options::from(OPTIONS4));
    frame.walk(&mut options);
    let kind = options.0.kind;
    let address = (frame.pair(YOURS), frame.pair(YOURS + 2));
    match (frame.pair(kind), address) {
        (Some([_, ACKNOWLEDGEMENT]), (Some([a, b]), Some([c, d]))) if kind != 0 => [a, b, c, d],
        _ => [0; 4],
    }
}

/// Whether the 6 bytes at this place are the identity of the device in `slot`.
#[inline(always)]
fn is_identity<F: Frame>(port: &PortEntry, slot: u32, frame: &F, at: usize) -> bool {
    let pairs = (frame.pair(at), frame.pair(at + 2), frame.pair(at + 4));
    let (Some([a, b]), Some([c, d]), Some([e, f])) = pairs else {
        return false;
    };
    Mac::of(&[a, b, c, d, e, f]) == Mac::of(&port.dhcp_identity(slot))
}

/// Finds option 61: where its last six bytes are, or 0.
#[inline(always)]
fn walk4<F: Frame>(frame: &F) -> Result<usize, DropReason> {
    let mut options = Options4(Options::from(OPTIONS4));
    frame.walk(&mut options);
    options.0.answer()
}

/// The same for option 1 of DHCPv6.
#[inline(always)]
fn walk6<F: Frame>(frame: &F) -> Result<usize, DropReason> {
    let mut options = Options6(Options::from(OPTIONS6));
    frame.walk(&mut options);
    options.0.answer()
}

/// How far a walk has come.
#[derive(Clone, Copy)]
#[repr(C)]
struct Options {
    at: usize,
    /// End of the identifier minus six, or 0.
    found: usize,
    /// Identifiers met.
    met: usize,
    /// Of DHCPv4, where length and value of the message's type are, or 0.
    kind: usize,
    state: u64,
}

/// [`Options::state`].
const WALKING: u64 = 0;
const OVER: u64 = 1;
const CROOKED: u64 = 2;

impl Options {
    #[inline(always)]
    const fn from(at: usize) -> Self {
        Self {
            at,
            found: 0,
            met: 0,
            kind: 0,
            state: WALKING,
        }
    }

    #[inline(always)]
    fn answer(&self) -> Result<usize, DropReason> {
        if self.state == OVER {
            Ok(self.found)
        } else {
            Err(DropReason::Dhcp)
        }
    }

    /// Ends the walk.
    #[inline(always)]
    fn end(&mut self, state: u64) -> bool {
        self.state = state;
        false
    }

    /// Past an option whose value begins at `value`.
    #[inline(always)]
    fn pass(&mut self, is_identifier: bool, value: usize, length: usize) -> bool {
        if is_identifier {
            self.met += 1;
            if self.met > 1 {
                return self.end(CROOKED);
            }
            if length >= SHORTEST {
                self.found = value + length - IDENTITY;
            }
        }
        self.at = value + length;
        true
    }
}

#[derive(Clone, Copy)]
#[repr(transparent)]
struct Options4(Options);

impl Walk for Options4 {
    const ROUNDS: u32 = OPTIONS;

    #[inline(always)]
    fn round<F: Frame>(&mut self, frame: &F) -> bool {
        let options = &mut self.0;
        let at = options.at;
        // The last option of all is one byte, and may be the last one of the frame.
        let Some([kind, length]) = frame.pair(at) else {
            return options.end(OVER);
        };
        match kind {
            LAST => options.end(OVER),
            PAD => {
                options.at = at + 1;
                true
            }
            // More options, in fields where hardly anybody looks for them.
            OVERLOAD => options.end(CROOKED),
            _ => {
                if kind == MESSAGE_TYPE {
                    options.kind = at + 1;
                }
                options.pass(kind == CLIENT_ID, at + 2, length as usize)
            }
        }
    }
}

#[derive(Clone, Copy)]
#[repr(transparent)]
struct Options6(Options);

impl Walk for Options6 {
    const ROUNDS: u32 = OPTIONS;

    #[inline(always)]
    fn round<F: Frame>(&mut self, frame: &F) -> bool {
        let options = &mut self.0;
        let at = options.at;
        let (Some(kind), Some(length)) = (frame.pair(at), frame.pair(at + 2)) else {
            return options.end(OVER);
        };
        let is_identifier = u16::from_be_bytes(kind) == CLIENT_ID6;
        options.pass(is_identifier, at + 4, u16::from_be_bytes(length) as usize)
    }
}
