//! What core promises of every frame, port and table of owners (`promises`), of those that the fuzzer
//! chooses.
//!
//! Input: a head of 32 bytes, then the frame.
//!
//! ```text
//! 0      mode          1  flag       2..4  MTU         4..6  members and bits
//! 6      bit 0 tagged, 1 for another host, 2 to be segmented
//! 7      the host end that sends
//! 8..32  eight owners, three bytes each: host end, kind, and how far to shift both
//! ```
//!
//! An address belongs to one of the eight by its last byte, and a prefix by the second byte of the
//! address in it, so that each has an owner of the fuzzer's choice.

use ipvlan_abi::{Flag, Mode, Owner, PortEntry};
use ipvlan_core::Owners;
use ipvlan_core::frame::Bytes;

use crate::frames::{V4, V6, port};
use crate::promises::{received, sent};

const HEAD: usize = 32;

/// Who owns what.
struct Table([Owner; 8]);

impl Table {
    fn of(bytes: &[u8]) -> Self {
        let mut owners = [Owner::NOBODY; 8];
        for (owned, bytes) in owners.iter_mut().zip(bytes.as_chunks::<3>().0) {
            let [ifindex, kind, far] = *bytes;
            let owner = Owner {
                ifindex: u32::from(ifindex) << (far & 0x18),
                kind: u32::from(kind & 7) << (far & 3),
            };
            // Nobody is nobody, without a number.
            if owner.kind != Owner::NOBODY.kind {
                *owned = owner;
            }
        }
        Self(owners)
    }

    fn owner(&self, octet: u8) -> Owner {
        self.0[usize::from(octet & 7)]
    }
}

impl Owners for Table {
    fn v4(&self, address: &V4) -> Owner {
        self.owner(address[3])
    }

    fn v6(&self, address: &V6) -> Owner {
        self.owner(address[15])
    }

    fn v4_prefix(&self, address: &V4) -> Owner {
        self.owner(address[1])
    }

    fn v6_prefix(&self, address: &V6) -> Owner {
        self.owner(address[1])
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
