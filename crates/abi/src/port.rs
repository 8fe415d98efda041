//! A port, its devices and who owns an address.

use core::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use crate::mode::{Flag, Mode};

/// State of one parent; the driver's `ipvl_port`. The only entry of the `PORT` map.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(C)]
pub struct PortEntry {
    /// [`crate::ABI_VERSION`] of whoever made the port or took it over, perhaps with
    /// [`crate::ABI_UNFINISHED`].
    pub abi: u32,
    /// The parent, in its own namespace.
    pub ifindex: u32,
    /// Highest slot in use, plus one: how far a broadcast has to walk `MEMBERS`.
    pub members: u32,
    /// The parent's MTU, bytes without the Ethernet header.
    pub mtu: u32,
    /// The parent's MAC address: the only one that the wire may see.
    pub mac: [u8; 6],
    /// A [`Mode`].
    pub mode: u8,
    /// A [`Flag`].
    pub flag: u8,
    /// `PORT_*` bits.
    pub bits: u32,
    /// What each [`Self::dhcp_identity`] begins with: [`identity_of`] the MAC address that
    /// the parent had when the port was made. It stays when that address changes, and so do leases.
    pub identity: [u8; 4],
}

/// A hash of a MAC address, as the beginning of locally administered, individual ones (FNV-1a).
pub const fn identity_of(mac: [u8; 6]) -> [u8; 4] {
    let mut hash = 0x811c_9dc5_u32;
    let mut at = 0;
    while at < mac.len() {
        hash = (hash ^ mac[at] as u32).wrapping_mul(0x0100_0193);
        at += 1;
    }
    let [first, rest @ ..] = hash.to_be_bytes();
    [first & !3 | 2, rest[0], rest[1], rest[2]]
}

/// We switched the parent to all-multicast, so we switch it back at the end.
pub const PORT_ALLMULTI: u32 = 1;
/// `bpf_redirect_peer` of this kernel keeps the packet type (before Linux 6.15), so a frame that
/// the host end took for somebody else's would be dropped by the receiver: set the type first.
pub const PORT_SET_TYPE: u32 = 2;
/// The parent's namespace routes to the devices (l3s): there are rules and routes of ours in it. Without
/// it, nothing that a device sends goes into that namespace's stack.
pub const PORT_ROUTED: u32 = 4;
/// We switched on that it forwards the parent's IPv4 packets, so we switch it off at the end.
pub const PORT_FORWARD4: u32 = 8;
/// The same of IPv6.
pub const PORT_FORWARD6: u32 = 16;
/// The host checks sources (`rp_filter` of all interfaces), so what it takes over from a device in
/// l3s carries [`ROUTED_MARK`], by which the check finds the way back.
pub const PORT_MARK: u32 = 32;
/// Some device has a prefix by hand: an address that has no owner of its own is looked for among the
/// prefixes. Without it nobody pays for that.
pub const PORT_PREFIXES: u32 = 64;

/// The addresses of some guest are learnt, so that a question for one that nobody has goes to all.
pub const PORT_LEARN: u32 = 128;
/// See [`PORT_MARK`]. A bit that others leave alone: kube-proxy has 0x4000 and 0x8000, Cilium
/// 0x0f00, Tailscale 0xff0000, Calico counts upwards from 0x10000.
pub const ROUTED_MARK: u32 = 0x1000_0000;

const _: () = assert!(size_of::<PortEntry>() == 32);

impl PortEntry {
    /// The mode; a number that is none (a newer ABI, which nobody lets come this far) is l3, the
    /// stricter one.
    pub const fn mode(&self) -> Mode {
        match self.mode {
            0 => Mode::L2,
            2 => Mode::L3s,
            _ => Mode::L3,
        }
    }

    /// The flag; a number that is none is private, the strictest one.
    pub const fn flag(&self) -> Flag {
        match self.flag {
            0 => Flag::Bridge,
            2 => Flag::Vepa,
            _ => Flag::Private,
        }
    }

    /// Whether the addresses of some guest are learnt.
    #[inline(always)]
    pub const fn learns(&self) -> bool {
        self.bits & PORT_LEARN != 0
    }

    /// What DHCP servers know the device in `slot` by: a MAC address that no interface has. The last
    /// two bytes are the slot.
    #[inline(always)]
    pub const fn dhcp_identity(&self, slot: u32) -> [u8; 6] {
        let [a, b, c, d] = self.identity;
        #[expect(clippy::cast_possible_truncation, reason = "slots are below 65,536")]
        let [high, low] = (slot as u16).to_be_bytes();
        [a, b, c, d, high, low]
    }
}

/// Who an address belongs to; the driver's `ipvl_addr` pointing to its `ipvl_dev`.
///
/// Flat on purpose: it travels through branches of an eBPF program, where an enum with data would
/// carry undefined bytes past the verifier.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(C)]
pub struct Owner {
    /// The owner's host end; the parent for [`OWNER_PARENT`] and [`OWNER_OUTSIDE`]. 0 for
    /// [`OWNER_NOBODY`].
    pub ifindex: u32,
    /// One of the `OWNER_*`.
    pub kind: u32,
}

/// There is no entry: no device owns it.
pub const OWNER_NOBODY: u32 = 0;
/// A device in another namespace than the parent: `bpf_redirect_peer` takes the frame there.
pub const OWNER_PEER: u32 = 1;
/// A device that is still in the parent's namespace, where `bpf_redirect_peer` refuses to go: the
/// frame is sent out of its host end.
pub const OWNER_HERE: u32 = 2;
/// The parent's own namespace. No device can take such an address away.
pub const OWNER_PARENT: u32 = 3;
/// Somebody beyond the parent, a next router, although a device has the prefix around it.
pub const OWNER_OUTSIDE: u32 = 4;

const _: () = assert!(size_of::<Owner>() == 8);

impl Owner {
    /// Nobody.
    pub const NOBODY: Self = Self {
        ifindex: 0,
        kind: OWNER_NOBODY,
    };

    /// A device, wherever it lives: not nobody, and not the parent.
    pub const fn is_device(&self) -> bool {
        self.kind == OWNER_PEER || self.kind == OWNER_HERE
    }
}

/// An address or a prefix that is a device's because the administrator said so. A key of the map
/// `GRANTS`, whose values say nothing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(C)]
pub struct GrantKey {
    /// The device's slot: it stays the same when the parent goes to another namespace.
    pub slot: u32,
    /// 4 or 6.
    pub family: u16,
    /// How many leading bits of the address count: 1 to 32 or 128. The others are 0.
    pub len: u16,
    /// The address; one of IPv4 is in the first four bytes, and the others are 0.
    pub address: [u8; 16],
}

const _: () = assert!(size_of::<GrantKey>() == 24);

impl GrantKey {
    /// The key of this prefix of this device.
    pub const fn new(slot: u32, address: IpAddr, len: u8) -> Self {
        let len = len as u16;
        match address {
            IpAddr::V4(address) => {
                let [a, b, c, d] = address.octets();
                Self {
                    slot,
                    family: 4,
                    len,
                    address: [a, b, c, d, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0],
                }
            }
            IpAddr::V6(address) => Self {
                slot,
                family: 6,
                len,
                address: address.octets(),
            },
        }
    }

    /// The address, and how many leading bits of it count.
    pub const fn prefix(&self) -> (IpAddr, u8) {
        let address = match (self.family, self.address) {
            (4, [a, b, c, d, ..]) => IpAddr::V4(Ipv4Addr::new(a, b, c, d)),
            (_, octets) => IpAddr::V6(Ipv6Addr::from_octets(octets)),
        };
        let [len, _] = self.len.to_le_bytes();
        (address, len)
    }
}

/// An address that the guest behind a tap says it has, in ARP, neighbour discovery or DHCP. A key of the
/// map `LEARNT`, whose values say when it said so last (`CLOCK_MONOTONIC`, nanoseconds).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(C)]
pub struct ClaimKey {
    /// The device's slot.
    pub slot: u32,
    /// 4 or 6.
    pub family: u32,
    /// The address, the first byte lowest; one of IPv4 is in the lower half of the first word, and the
    /// rest is 0. Words, because a program cannot store bytes where they are not aligned.
    pub address: [u64; 2],
}

const _: () = assert!(size_of::<ClaimKey>() == 24);

impl ClaimKey {
    /// The key of this address of this device.
    pub fn new(slot: u32, address: IpAddr) -> Self {
        let (family, number) = match address {
            IpAddr::V4(address) => (4, u32::from_le_bytes(address.octets()).into()),
            IpAddr::V6(address) => (6, u128::from_le_bytes(address.octets())),
        };
        let [low, high] = [number, number >> 64].map(|half| half & u128::from(u64::MAX));
        #[expect(clippy::cast_possible_truncation, reason = "masked")]
        let address = [low as u64, high as u64];
        Self {
            slot,
            family,
            address,
        }
    }

    /// The address.
    pub fn address(&self) -> IpAddr {
        let [low, high] = self.address;
        let number = u128::from(low) | u128::from(high) << 64;
        let octets = number.to_le_bytes();
        match (self.family, octets) {
            (4, [a, b, c, d, ..]) => IpAddr::V4(Ipv4Addr::new(a, b, c, d)),
            (_, octets) => IpAddr::V6(Ipv6Addr::from_octets(octets)),
        }
    }
}

/// What is known of the guest behind a tap. The control plane makes the entry, all zeros.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(C)]
pub struct GuestEntry {
    /// Its MAC address, the first byte lowest; 0: not heard of yet.
    pub mac: u64,
    /// When it may make as many claims at once again as one that was quiet (`CLOCK_MONOTONIC`,
    /// nanoseconds).
    pub quiet_at: u64,
}

const _: () = assert!(size_of::<GuestEntry>() == 16);

/// What a sender wrote last where its identity to DHCP servers is now, each in the lower 6 bytes, the
/// first one lowest: it is put back into the reply.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(C)]
pub struct ClientEntry {
    /// The hardware address of DHCPv4.
    pub hardware: u64,
    /// The end of its identifier in DHCPv4.
    pub identifier4: u64,
    /// The end of its identifier in DHCPv6.
    pub identifier6: u64,
}

const _: () = assert!(size_of::<ClientEntry>() == 24);

/// What the control plane knows of a device; the driver's `ipvl_dev`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(C)]
pub struct DevEntry {
    /// Index in `MEMBERS`, below [`crate::MAX_DEVS`]. The driver's `dev_id`.
    pub slot: u32,
    /// `DEV_*` bits.
    pub bits: u16,
    /// Of a tap: how often it has lost its carrier (`IFLA_CARRIER_DOWN_COUNT`, the lower half), as far
    /// as is known, with what we take away ourselves counted before it is so. More than that, and its
    /// guest has closed it since.
    pub carrier_downs: u16,
}

/// Creation has come to its end. A device without it was given up half-way and is undone by
/// whoever reconciles next.
pub const DEV_READY: u16 = 1;
/// It is a tap (`type ipvtap`): device and host end in one, with a guest behind it that has a MAC
/// address of its own, remembered in the map `GUESTS`.
pub const DEV_TAP: u16 = 2;
/// We took the tap's carrier away because its parent had lost its own, so we give it back.
pub const DEV_MUTED: u16 = 4;
/// The addresses of the guest behind it are learnt from what it says (`learning on`).
pub const DEV_LEARN: u16 = 8;
/// The parent has got another MAC address, and the device is not yet seen to have it.
pub const DEV_BEHIND_MAC: u16 = 16;
/// The same of the MTU.
pub const DEV_BEHIND_MTU: u16 = 32;
/// `IFF_NOARP` was taken from it while it had no carrier: the groups of the IPv6 addresses that it got
/// in l3 are not yet joined, and nobody who asks for them is heard.
pub const DEV_BEHIND_GROUPS: u16 = 64;

const _: () = assert!(size_of::<DevEntry>() == 8);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_prefix_by_hand_is_read_back() {
        for (address, len) in [
            ("10.1.0.254", 32),
            ("128.0.0.0", 1),
            ("fd00::1", 128),
            ("::ffff:10.1.0.0", 120),
        ] {
            let address = address.parse().unwrap();
            assert_eq!(GrantKey::new(7, address, len).prefix(), (address, len));
        }
        let (four, six) = ("10.1.0.254", "a01:fe::");
        let keys = [four, six].map(|address| GrantKey::new(7, address.parse().unwrap(), 32));
        assert_ne!(keys[0], keys[1]);
    }

    #[test]
    fn only_devices_are_delivered_to() {
        assert!(!Owner::NOBODY.is_device());
        assert!(
            !Owner {
                ifindex: 3,
                kind: OWNER_PARENT
            }
            .is_device()
        );
        assert!(
            !Owner {
                ifindex: 3,
                kind: OWNER_OUTSIDE
            }
            .is_device()
        );
        assert!(
            Owner {
                ifindex: 4,
                kind: OWNER_PEER
            }
            .is_device()
        );
        assert!(
            Owner {
                ifindex: 4,
                kind: OWNER_HERE
            }
            .is_device()
        );
    }
}
