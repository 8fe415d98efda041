//! What the kernel says of a link.
//!
//! A link has many attributes; each is a constant, a field and a line of parsing.

use netlink_packet_core::DefaultNla;
use netlink_packet_route::RouteNetlinkMessage;
use netlink_packet_route::link::{LinkAttribute, LinkMessage};
use nix::errno::Errno;

use super::{AddrGenMode, Mac, by_index};
use crate::nla::{attributes, i32_of, string_of, u8_of, u16_of, u32_of};
use crate::socket::Ask;
use crate::{Error, IfName, Netlink, Nsid};

const RTM_NEWLINK: u16 = 16;
const IFINFOMSG_LEN: usize = 16;

// linux/if_link.h
const IFLA_ADDRESS: u16 = 1;
const IFLA_BROADCAST: u16 = 2;
pub(super) const IFLA_IFNAME: u16 = 3;
pub(super) const IFLA_MTU: u16 = 4;
const IFLA_LINK: u16 = 5;
const IFLA_QDISC: u16 = 6;
const IFLA_MASTER: u16 = 10;
const IFLA_TXQLEN: u16 = 13;
const IFLA_OPERSTATE: u16 = 16;
const IFLA_LINKMODE: u16 = 17;
pub(super) const IFLA_LINKINFO: u16 = 18;
pub(super) const IFLA_IFALIAS: u16 = 20;
const IFLA_STATS64: u16 = 23;
const IFLA_AF_SPEC: u16 = 26;
const IFLA_GROUP: u16 = 27;
const IFLA_PROMISCUITY: u16 = 30;
const IFLA_NUM_TX_QUEUES: u16 = 31;
const IFLA_NUM_RX_QUEUES: u16 = 32;
const IFLA_CARRIER: u16 = 33;
const IFLA_CARRIER_CHANGES: u16 = 35;
const IFLA_LINK_NETNSID: u16 = 37;
const IFLA_GSO_MAX_SEGS: u16 = 40;
const IFLA_GSO_MAX_SIZE: u16 = 41;
const IFLA_CARRIER_DOWN_COUNT: u16 = 48;
const IFLA_MIN_MTU: u16 = 50;
const IFLA_MAX_MTU: u16 = 51;
const IFLA_PROP_LIST: u16 = 52;
const IFLA_ALT_IFNAME: u16 = 53;
const IFLA_PERM_ADDRESS: u16 = 54;
const IFLA_PARENT_DEV_NAME: u16 = 56;
const IFLA_PARENT_DEV_BUS_NAME: u16 = 57;
const IFLA_GRO_MAX_SIZE: u16 = 58;
const IFLA_TSO_MAX_SIZE: u16 = 59;
const IFLA_TSO_MAX_SEGS: u16 = 60;
const IFLA_ALLMULTI: u16 = 61;
const IFLA_GSO_IPV4_MAX_SIZE: u16 = 63;
const IFLA_GRO_IPV4_MAX_SIZE: u16 = 64;
const IFLA_NETNS_IMMUTABLE: u16 = 67;

pub(super) const IFLA_INFO_KIND: u16 = 1;
pub(super) const IFLA_INFO_DATA: u16 = 2;
// linux/if.h
const IF_OPER_UNKNOWN: u8 = 0;
const IF_OPER_UP: u8 = 6;
// linux/if_link.h, in the data of kind "tun"
const IFLA_TUN_OWNER: u16 = 1;
const IFLA_TUN_GROUP: u16 = 2;
const IFLA_TUN_TYPE: u16 = 3;
const IFLA_INET6_ADDR_GEN_MODE: u16 = 8;
const IFLA_INET_CONF: u16 = 1;
const IFLA_INET6_CONF: u16 = 2;
const AF_INET: u16 = 2;
const AF_INET6: u16 = 10;
// linux/ip.h, counted from 1; linux/ipv6.h, counted from 0
const IPV4_DEVCONF_FORWARDING: usize = 1;
const IPV4_DEVCONF_RP_FILTER: usize = 8;
const IPV4_DEVCONF_SRC_VMARK: usize = 24;
const DEVCONF_FORWARDING: usize = 0;
const DEVCONF_FORCE_FORWARDING: usize = 59;

const IFF_UP: u32 = 1;
const IFF_LOWER_UP: u32 = 1 << 16;

/// A link as the kernel describes it (`RTM_NEWLINK`).
///
/// What an older kernel does not tell is None.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Link {
    /// Its index, unique in its own namespace only.
    pub index: u32,
    /// Its name.
    pub name: String,
    /// Its hardware address, where that is one of 6 bytes.
    pub mac: Option<Mac>,
    /// Its hardware broadcast address, where that is one of 6 bytes.
    pub broadcast: Option<Mac>,
    /// The address it was made with (`IFLA_PERM_ADDRESS`), where it has one of 6 bytes.
    pub permanent_mac: Option<Mac>,
    /// Largest packet, without link-layer header.
    pub mtu: u32,
    /// `IFF_*` bits.
    pub flags: u32,
    /// `IFLA_INFO_KIND`: "veth", "vlan", … None: a physical device or the loopback.
    pub kind: Option<String>,
    /// What it is as a tap. None: it is none.
    pub tap: Option<TapSettings>,
    /// `IFLA_LINK`: index of the link below, or of the other end of a pair. It counts in the
    /// namespace [`link_nsid`](Self::link_nsid), if that is given.
    pub link: Option<u32>,
    /// `IFLA_LINK_NETNSID`: where [`link`](Self::link) lives, if not in the same namespace.
    ///
    /// Counted by the namespace of the *asking socket*, also when the link was read through an id
    /// of another namespace. One that has no id there gets one, as a side effect of being read.
    pub link_nsid: Option<Nsid>,
    /// Free text (`ip link set … alias`).
    pub alias: Option<String>,
    /// Other names it can be found by.
    pub alt_names: Vec<String>,
    /// `ARPHRD_*`.
    pub layer_type: u16,
    /// Name of its root queueing discipline.
    pub qdisc: Option<String>,
    /// RFC 2863 state, `IF_OPER_*`.
    pub operstate: u8,
    /// `IF_LINK_MODE_*`.
    pub link_mode: u8,
    /// Its group; 0 is "default".
    pub group: u32,
    /// Length of its transmit queue.
    pub txqlen: u32,
    /// Index of the bridge, bond, … it is a port of.
    pub master: Option<u32>,
    /// Whether it has a carrier, as the driver says.
    pub carrier: Option<bool>,
    /// How often the carrier came or went.
    pub carrier_changes: Option<u32>,
    /// How often the carrier went.
    pub carrier_down_count: u32,
    /// The smallest MTU it takes.
    pub min_mtu: Option<u32>,
    /// The largest MTU it takes. 0: no limit.
    pub max_mtu: Option<u32>,
    /// Counters.
    pub stats: Option<LinkStats>,
    /// How it makes its IPv6 link-local address. None: no IPv6 on it.
    pub addr_gen_mode: Option<AddrGenMode>,
    /// Its IPv4 settings. None: no IPv4 on it.
    pub v4: Option<V4Settings>,
    /// Whether it forwards IPv6 packets, and so is a router's (`net.ipv6.conf.*.forwarding`).
    pub forwards_v6: Option<bool>,
    /// Whether IPv6 packets that it receives are forwarded, even if the host does not forward
    /// (`net.ipv6.conf.*.force_forwarding`, Linux 6.17).
    pub force_forwards_v6: Option<bool>,
    /// How many have asked it to receive every multicast frame.
    pub allmulti: Option<u32>,
    /// How many have asked it to receive every frame.
    pub promiscuity: Option<u32>,
    /// Transmit queues.
    pub num_tx_queues: Option<u32>,
    /// Receive queues.
    pub num_rx_queues: Option<u32>,
    /// Largest packet it is given to segment.
    pub gso_max_size: Option<u32>,
    /// Most segments of such a packet.
    pub gso_max_segs: Option<u32>,
    /// Largest packet the hardware can segment.
    pub tso_max_size: Option<u32>,
    /// Most segments the hardware can make of it.
    pub tso_max_segs: Option<u32>,
    /// Largest packet that received segments are joined to.
    pub gro_max_size: Option<u32>,
    /// [`gso_max_size`](Self::gso_max_size) for IPv4.
    pub gso_ipv4_max_size: Option<u32>,
    /// [`gro_max_size`](Self::gro_max_size) for IPv4.
    pub gro_ipv4_max_size: Option<u32>,
    /// Bus of the hardware: "pci", "virtio", …
    pub parent_bus: Option<String>,
    /// Name of the hardware on its bus.
    pub parent_dev: Option<String>,
    /// It cannot be moved to another namespace. Linux 6.15.
    pub netns_immutable: Option<bool>,
}

/// The counters of a link, under the kernel's names (`struct rtnl_link_stats64`).
///
/// `ip -s link` prints as "missed" `rx_missed_errors`, as "carrier" `tx_carrier_errors`, as
/// "mcast" `multicast`, as "collsns" `collisions`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
#[expect(
    missing_docs,
    reason = "named and described by the kernel: linux/if_link.h"
)]
pub struct LinkStats {
    pub rx_packets: u64,
    pub tx_packets: u64,
    pub rx_bytes: u64,
    pub tx_bytes: u64,
    pub rx_errors: u64,
    pub tx_errors: u64,
    pub rx_dropped: u64,
    pub tx_dropped: u64,
    pub multicast: u64,
    pub collisions: u64,
    pub rx_length_errors: u64,
    pub rx_over_errors: u64,
    pub rx_crc_errors: u64,
    pub rx_frame_errors: u64,
    pub rx_fifo_errors: u64,
    pub rx_missed_errors: u64,
    pub tx_aborted_errors: u64,
    pub tx_carrier_errors: u64,
    pub tx_fifo_errors: u64,
    pub tx_heartbeat_errors: u64,
    pub tx_window_errors: u64,
    pub rx_compressed: u64,
    pub tx_compressed: u64,
    pub rx_nohandler: u64,
    pub rx_otherhost_dropped: u64,
}

/// Who may open a tap.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct TapSettings {
    /// Number of the user. None: anybody, unless there is a group.
    pub owner: Option<u32>,
    /// Number of the group.
    pub group: Option<u32>,
}

impl TapSettings {
    /// `None`: a tun, without Ethernet.
    fn parse(data: &[u8]) -> Option<Self> {
        const TAP: u8 = 2;
        let find = |wanted| attributes(data).find(|(kind, _)| *kind == wanted);
        let number = |wanted| find(wanted).and_then(|(_, value)| u32_of(value));
        let kind = find(IFLA_TUN_TYPE).and_then(|(_, value)| u8_of(value));
        (kind == Some(TAP)).then(|| Self {
            owner: number(IFLA_TUN_OWNER),
            group: number(IFLA_TUN_GROUP),
        })
    }
}

/// Of an interface's `net.ipv4.conf.*`, those that decide what may be forwarded.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct V4Settings {
    /// `forwarding`: what it receives for others is sent on.
    pub forwarding: bool,
    /// `rp_filter`: 0 off, 1 strict, 2 loose (RFC 3704). That of "all" counts as well: the higher.
    pub rp_filter: u32,
    /// `src_valid_mark`: the way back is looked up with the packet's mark.
    pub src_valid_mark: bool,
}

impl Link {
    /// True if somebody has set it up (`IFF_UP`).
    pub fn is_up(&self) -> bool {
        self.flags & IFF_UP != 0
    }

    /// True if its lower layer is up (`IFF_LOWER_UP`).
    pub fn has_carrier(&self) -> bool {
        self.flags & IFF_LOWER_UP != 0
    }

    /// True if it is up and can carry packets (RFC 2863; `netif_oper_up()`): the kernel gets there up
    /// to a second after the carrier.
    pub fn is_operational(&self) -> bool {
        self.is_up() && [IF_OPER_UNKNOWN, IF_OPER_UP].contains(&self.operstate)
    }

    /// Reads the body of an `RTM_NEWLINK`; None if it is none.
    pub(crate) fn parse(body: &[u8]) -> Option<Self> {
        let mut link = Self {
            layer_type: u16_of(body.get(2..)?)?,
            index: u32_of(body.get(4..)?)?,
            flags: u32_of(body.get(8..)?)?,
            ..Self::default()
        };
        for (kind, value) in attributes(body.get(IFINFOMSG_LEN..)?) {
            link.take(kind, value);
        }
        Some(link)
    }

    fn take(&mut self, kind: u16, value: &[u8]) {
        match kind {
            IFLA_ADDRESS => self.mac = value.try_into().ok(),
            IFLA_BROADCAST => self.broadcast = value.try_into().ok(),
            IFLA_PERM_ADDRESS => self.permanent_mac = value.try_into().ok(),
            IFLA_IFNAME => self.name = string_of(value),
            IFLA_MTU => self.mtu = u32_of(value).unwrap_or_default(),
            IFLA_LINK => self.link = u32_of(value),
            IFLA_LINK_NETNSID => self.link_nsid = i32_of(value).map(Nsid),
            IFLA_QDISC => self.qdisc = Some(string_of(value)),
            IFLA_MASTER => self.master = u32_of(value),
            IFLA_TXQLEN => self.txqlen = u32_of(value).unwrap_or_default(),
            IFLA_OPERSTATE => self.operstate = u8_of(value).unwrap_or_default(),
            IFLA_LINKMODE => self.link_mode = u8_of(value).unwrap_or_default(),
            IFLA_LINKINFO => {
                let find = |wanted| attributes(value).find(|(kind, _)| *kind == wanted);
                self.kind = find(IFLA_INFO_KIND).map(|(_, kind)| string_of(kind));
                if self.kind.as_deref() == Some("tun") {
                    self.tap = find(IFLA_INFO_DATA).and_then(|(_, data)| TapSettings::parse(data));
                }
            }
            IFLA_IFALIAS => self.alias = Some(string_of(value)),
            IFLA_PROP_LIST => {
                let names = attributes(value).filter(|(kind, _)| *kind == IFLA_ALT_IFNAME);
                self.alt_names = names.map(|(_, name)| string_of(name)).collect();
            }
            IFLA_STATS64 => self.stats = Some(LinkStats::parse(value)),
            IFLA_AF_SPEC => self.take_family_settings(value),
            IFLA_GROUP => self.group = u32_of(value).unwrap_or_default(),
            IFLA_PROMISCUITY => self.promiscuity = u32_of(value),
            IFLA_ALLMULTI => self.allmulti = u32_of(value),
            IFLA_CARRIER => self.carrier = u8_of(value).map(|on| on != 0),
            IFLA_CARRIER_CHANGES => self.carrier_changes = u32_of(value),
            IFLA_CARRIER_DOWN_COUNT => self.carrier_down_count = u32_of(value).unwrap_or_default(),
            IFLA_NUM_TX_QUEUES => self.num_tx_queues = u32_of(value),
            IFLA_NUM_RX_QUEUES => self.num_rx_queues = u32_of(value),
            IFLA_MIN_MTU => self.min_mtu = u32_of(value),
            IFLA_MAX_MTU => self.max_mtu = u32_of(value),
            IFLA_GSO_MAX_SIZE => self.gso_max_size = u32_of(value),
            IFLA_GSO_MAX_SEGS => self.gso_max_segs = u32_of(value),
            IFLA_TSO_MAX_SIZE => self.tso_max_size = u32_of(value),
            IFLA_TSO_MAX_SEGS => self.tso_max_segs = u32_of(value),
            IFLA_GRO_MAX_SIZE => self.gro_max_size = u32_of(value),
            IFLA_GSO_IPV4_MAX_SIZE => self.gso_ipv4_max_size = u32_of(value),
            IFLA_GRO_IPV4_MAX_SIZE => self.gro_ipv4_max_size = u32_of(value),
            IFLA_PARENT_DEV_NAME => self.parent_dev = Some(string_of(value)),
            IFLA_PARENT_DEV_BUS_NAME => self.parent_bus = Some(string_of(value)),
            IFLA_NETNS_IMMUTABLE => self.netns_immutable = u8_of(value).map(|on| on != 0),
            _ => {}
        }
    }
}

impl Link {
    fn take_family_settings(&mut self, specs: &[u8]) {
        let setting = |conf: &[u8], place: usize| conf.get(4 * place..).and_then(u32_of);
        for (family, spec) in attributes(specs) {
            for (kind, value) in attributes(spec) {
                match (family, kind) {
                    (AF_INET, IFLA_INET_CONF) => {
                        let at = |number: usize| setting(value, number - 1).unwrap_or(0);
                        self.v4 = Some(V4Settings {
                            forwarding: at(IPV4_DEVCONF_FORWARDING) != 0,
                            rp_filter: at(IPV4_DEVCONF_RP_FILTER),
                            src_valid_mark: at(IPV4_DEVCONF_SRC_VMARK) != 0,
                        });
                    }
                    (AF_INET6, IFLA_INET6_CONF) => {
                        self.forwards_v6 = setting(value, DEVCONF_FORWARDING).map(|on| on != 0);
                        self.force_forwards_v6 =
                            setting(value, DEVCONF_FORCE_FORWARDING).map(|on| on != 0);
                    }
                    (AF_INET6, IFLA_INET6_ADDR_GEN_MODE) => {
                        self.addr_gen_mode = u8_of(value).and_then(AddrGenMode::from_number);
                    }
                    _ => {}
                }
            }
        }
    }
}

impl LinkStats {
    /// Counters that an older kernel does not have stay 0.
    fn parse(value: &[u8]) -> Self {
        let (numbers, _) = value.as_chunks::<8>();
        let at = |place: usize| numbers.get(place).copied().map_or(0, u64::from_ne_bytes);
        Self {
            rx_packets: at(0),
            tx_packets: at(1),
            rx_bytes: at(2),
            tx_bytes: at(3),
            rx_errors: at(4),
            tx_errors: at(5),
            rx_dropped: at(6),
            tx_dropped: at(7),
            multicast: at(8),
            collisions: at(9),
            rx_length_errors: at(10),
            rx_over_errors: at(11),
            rx_crc_errors: at(12),
            rx_frame_errors: at(13),
            rx_fifo_errors: at(14),
            rx_missed_errors: at(15),
            tx_aborted_errors: at(16),
            tx_carrier_errors: at(17),
            tx_fifo_errors: at(18),
            tx_heartbeat_errors: at(19),
            tx_window_errors: at(20),
            rx_compressed: at(21),
            tx_compressed: at(22),
            rx_nohandler: at(23),
            rx_otherhost_dropped: at(24),
        }
    }
}

impl Netlink {
    /// All links of the socket's namespace, or of the one with the id `ns`.
    ///
    /// Reading through an id needs `CAP_NET_ADMIN` over the other namespace and Linux 4.20
    /// (`IFLA_TARGET_NETNSID`; as `IFLA_IF_NETNSID` since 4.15). A namespace that one of the links
    /// points to and that has no id in the socket's namespace gets one: see [`Link::link_nsid`].
    ///
    /// # Errors
    ///
    /// `EINVAL` for an id that means no namespace.
    pub fn links(&mut self, ns: Option<Nsid>) -> Result<Vec<Link>, Error> {
        let mut message = LinkMessage::default();
        message.attributes.extend(target(ns));
        let ask = Ask::new("read", "links");
        self.dump(
            &ask,
            &RouteNetlinkMessage::GetLink(message),
            |kind, body| (kind == RTM_NEWLINK).then(|| Link::parse(body)).flatten(),
        )
    }

    /// The link with this index in the socket's namespace, or in the one with the id `ns`.
    ///
    /// # Errors
    ///
    /// As [`Netlink::links`]. A link that is not there is no error but None.
    pub fn link(&mut self, index: u32, ns: Option<Nsid>) -> Result<Option<Link>, Error> {
        let mut message = LinkMessage::default();
        message.header.index = index;
        message.attributes.extend(target(ns));
        self.get_link(by_index("read", index), message)
    }

    /// The link with this name, or other name (`ip link property add … altname`), in the socket's
    /// namespace.
    ///
    /// # Errors
    ///
    /// Only what the kernel or the socket fails at. A name that no link can have is None.
    pub fn link_by_name(&mut self, name: &str) -> Result<Option<Link>, Error> {
        let mut message = LinkMessage::default();
        message.attributes.push(if IfName::try_from(name).is_ok() {
            LinkAttribute::IfName(name.to_owned())
        } else if (1..=ALT_NAME_MAX).contains(&name.len()) && !name.contains('\0') {
            let name = [name.as_bytes(), b"\0"].concat();
            LinkAttribute::Other(DefaultNla::new(IFLA_ALT_IFNAME, name))
        } else {
            return Ok(None);
        });
        self.get_link(Ask::new("read", name), message)
    }

    fn get_link(&mut self, ask: Ask, message: LinkMessage) -> Result<Option<Link>, Error> {
        let mut link = None;
        let done = self.request(
            ask,
            RouteNetlinkMessage::GetLink(message),
            0,
            &mut |kind, body| {
                if kind == RTM_NEWLINK {
                    link = Link::parse(body);
                }
            },
        );
        match done {
            Ok(()) => Ok(link),
            Err(err) if err.is(Errno::ENODEV) => Ok(None),
            Err(err) => Err(err),
        }
    }
}

/// `ALTIFNAMSIZ - 1`.
const ALT_NAME_MAX: usize = 127;

fn target(ns: Option<Nsid>) -> Option<LinkAttribute> {
    ns.map(|Nsid(id)| LinkAttribute::IfNetnsId(id))
}

#[cfg(test)]
mod tests {
    use super::Link;

    #[test]
    fn a_message_without_its_header_is_no_link() {
        assert_eq!(Link::parse(&[0; 15]), None);
        assert!(Link::parse(&[0; 16]).is_some());
    }
}
