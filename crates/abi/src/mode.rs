//! Mode and flag, as the kernel driver numbers them (`include/uapi/linux/if_link.h`).

use core::fmt;
use core::str::FromStr;

/// How the devices of a port reach the world. All devices of one parent share it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum Mode {
    /// The device's stack does everything down to L2. `IPVLAN_MODE_L2`.
    L2 = 0,
    /// The device's stack stops at L3; the parent's namespace routes. `IPVLAN_MODE_L3`, and the
    /// driver's default for a port that has no device yet.
    L3 = 1,
    /// As l3, and what the devices exchange with the outside passes the firewall of the parent's
    /// namespace, in both directions. `IPVLAN_MODE_L3S`.
    L3s = 2,
}

/// A mode number or word that is not one of ours.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BadMode;

impl fmt::Display for BadMode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("mode is none of l2, l3, l3s")
    }
}

impl core::error::Error for BadMode {}

impl Mode {
    /// The word that iproute2 uses.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::L2 => "l2",
            Self::L3 => "l3",
            Self::L3s => "l3s",
        }
    }

    /// Whether the device's stack stops at L3: no ARP, no broadcast, no multicast.
    pub const fn is_l3(self) -> bool {
        !matches!(self, Self::L2)
    }
}

impl fmt::Display for Mode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl FromStr for Mode {
    type Err = BadMode;

    /// Any case: the HOWTO itself writes `mode { l2 | L3 }`.
    fn from_str(word: &str) -> Result<Self, BadMode> {
        [Self::L2, Self::L3, Self::L3s]
            .into_iter()
            .find(|mode| word.eq_ignore_ascii_case(mode.as_str()))
            .ok_or(BadMode)
    }
}

impl TryFrom<u8> for Mode {
    type Error = BadMode;

    fn try_from(number: u8) -> Result<Self, BadMode> {
        match number {
            0 => Ok(Self::L2),
            1 => Ok(Self::L3),
            2 => Ok(Self::L3s),
            _ => Err(BadMode),
        }
    }
}

/// Whether the devices of a port may talk to each other, and by which way.
///
/// The kernel keeps two bits and must refuse both at once; this type cannot hold both.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum Flag {
    /// Directly. The default.
    #[default]
    Bridge = 0,
    /// Not at all (unicast). `IPVLAN_F_PRIVATE`.
    Private = 1,
    /// Only by way of the switch at the far end of the wire. `IPVLAN_F_VEPA`.
    Vepa = 2,
}

/// Both bits at once, or a bit that means nothing. The kernel says `EINVAL`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BadFlags(
    /// The bits.
    pub u16,
);

impl fmt::Display for BadFlags {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "flags {:#x} are none of bridge, private, vepa", self.0)
    }
}

impl core::error::Error for BadFlags {}

impl Flag {
    /// The word that iproute2 uses.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Bridge => "bridge",
            Self::Private => "private",
            Self::Vepa => "vepa",
        }
    }
}

impl fmt::Display for Flag {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl TryFrom<u16> for Flag {
    type Error = BadFlags;

    fn try_from(bits: u16) -> Result<Self, BadFlags> {
        match bits {
            0 => Ok(Self::Bridge),
            1 => Ok(Self::Private),
            2 => Ok(Self::Vepa),
            _ => Err(BadFlags(bits)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn modes_are_read_in_any_case_and_written_as_iproute2_does() {
        assert_eq!("L3".parse(), Ok(Mode::L3));
        assert_eq!("l2".parse(), Ok(Mode::L2));
        assert_eq!("L3S".parse(), Ok(Mode::L3s));
        assert_eq!("l4".parse::<Mode>(), Err(BadMode));
        assert_eq!("".parse::<Mode>(), Err(BadMode));
        assert_eq!(Mode::L3.as_str(), "l3");
    }

    #[test]
    fn numbers_are_the_kernel_s() {
        for mode in [Mode::L2, Mode::L3, Mode::L3s] {
            assert_eq!(Mode::try_from(mode as u8), Ok(mode));
        }
        assert_eq!(Mode::try_from(3), Err(BadMode));
        for flag in [Flag::Bridge, Flag::Private, Flag::Vepa] {
            assert_eq!(Flag::try_from(flag as u16), Ok(flag));
        }
        for bits in [3, 4, 8, 0x8000] {
            assert_eq!(Flag::try_from(bits), Err(BadFlags(bits)));
        }
    }
}
