//! Links: what they are, making pairs, changing and removing them.

mod change;
mod read;

pub use change::{LinkChange, VethPair};
pub use read::{Link, LinkStats, TapSettings, V4Settings};

use crate::socket::Ask;

/// An Ethernet address.
pub type Mac = [u8; 6];

/// How a link makes its IPv6 link-local address (`IN6_ADDR_GEN_MODE_*`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AddrGenMode {
    /// From its MAC address.
    Eui64,
    /// Not at all.
    None,
    /// RFC 7217, with the secret that was set.
    StablePrivacy,
    /// RFC 7217, with a secret of the kernel's own.
    Random,
}

impl AddrGenMode {
    fn from_number(number: u8) -> Option<Self> {
        match number {
            0 => Some(Self::Eui64),
            1 => Some(Self::None),
            2 => Some(Self::StablePrivacy),
            3 => Some(Self::Random),
            _ => None,
        }
    }

    /// iproute2's word for it (`ip link set … addrgenmode`).
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Eui64 => "eui64",
            Self::None => "none",
            Self::StablePrivacy => "stable_secret",
            Self::Random => "random",
        }
    }
}

fn by_index(op: &'static str, index: u32) -> Ask {
    Ask::new(op, format!("link {index}"))
}
