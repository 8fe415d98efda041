//! Links: what they are, making pairs, changing and removing them.
//!
//! A long file, because a link has many attributes; each is a constant, a field and a line of parsing.

use std::os::fd::{AsRawFd, BorrowedFd};

use netlink_packet_core::{DefaultNla, NLM_F_CREATE, NLM_F_EXCL};
use netlink_packet_route::RouteNetlinkMessage;
use netlink_packet_route::link::{
    AfSpecInet6, AfSpecUnspec, In6AddrGenMode, InfoData, InfoKind, InfoVeth, LinkAttribute,
    LinkFlags, LinkInfo, LinkMessage,
};
use nix::errno::Errno;

use crate::nla::{attributes, i32_of, string_of, u8_of, u16_of, u32_of};
use crate::socket::Ask;
use crate::{Error, IfName, Netlink, Nsid};

/// An Ethernet address.
pub type Mac = [u8; 6];

const RTM_NEWLINK: u16 = 16;
const IFINFOMSG_LEN: usize = 16;

// linux/if_link.h
const IFLA_ADDRESS: u16 = 1;
const IFLA_BROADCAST: u16 = 2;
const IFLA_IFNAME: u16 = 3;
const IFLA_MTU: u16 = 4;
const IFLA_LINK: u16 = 5;
const IFLA_QDISC: u16 = 6;
const IFLA_MASTER: u16 = 10;
const IFLA_TXQLEN: u16 = 13;
const IFLA_OPERSTATE: u16 = 16;
const IFLA_LINKMODE: u16 = 17;
const IFLA_LINKINFO: u16 = 18;
const IFLA_IFALIAS: u16 = 20;
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

const IFLA_INFO_KIND: u16 = 1;
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

/// A pair of veth links that is to be made, both ends down.
#[derive(Clone, Copy, Debug)]
pub struct VethPair<'a> {
    /// Name of the end that stays in the socket's namespace.
    pub host_name: &'a str,
    /// Index of that end. None: the first free one.
    pub host_index: Option<u32>,
    /// Hardware address of that end. None: a random one.
    pub host_mac: Option<Mac>,
    /// MTU of that end. None: [`mtu`](Self::mtu).
    pub host_mtu: Option<u32>,
    /// Name of the other end; one `%d` in it becomes the first free number there.
    pub dev_name: &'a str,
    /// Hardware address of the other end.
    pub dev_mac: Mac,
    /// MTU of the other end, and of both if [`host_mtu`](Self::host_mtu) is None.
    pub mtu: u32,
    /// Whether the other end shall have `IFF_NOARP`.
    pub dev_noarp: bool,
    /// Namespace of the other end. None: the socket's.
    pub dev_netns: Option<BorrowedFd<'a>>,
    /// Index of the other end. None: the first free one.
    ///
    /// Only together with [`host_index`](Self::host_index): where that is left to the kernel it
    /// chooses this one too, whatever it is told (`veth_newlink()` in drivers/net/veth.c).
    pub dev_index: Option<u32>,
    /// Length of the other end's transmit queue.
    pub dev_txqlen: Option<u32>,
    /// Number of the other end's transmit queues.
    pub dev_num_tx_queues: Option<u32>,
    /// Number of the other end's receive queues.
    pub dev_num_rx_queues: Option<u32>,
}

impl<'a> VethPair<'a> {
    /// A pair with both ends in the socket's namespace and nothing out of the ordinary; the rest
    /// is added with `VethPair { dev_noarp: true, ..VethPair::new(…) }`.
    pub fn new(host_name: &'a str, dev_name: &'a str, dev_mac: Mac, mtu: u32) -> Self {
        Self {
            host_name,
            host_index: None,
            host_mac: None,
            host_mtu: None,
            dev_name,
            dev_mac,
            mtu,
            dev_noarp: false,
            dev_netns: None,
            dev_index: None,
            dev_txqlen: None,
            dev_num_tx_queues: None,
            dev_num_rx_queues: None,
        }
    }

    fn message(&self) -> LinkMessage {
        let mut peer = LinkMessage::default();
        peer.header.index = self.dev_index.unwrap_or(0);
        if self.dev_noarp {
            peer.header.flags = LinkFlags::Noarp;
            peer.header.change_mask = LinkFlags::Noarp;
        }
        peer.attributes = vec![
            LinkAttribute::IfName(self.dev_name.to_owned()),
            LinkAttribute::Address(self.dev_mac.to_vec()),
            LinkAttribute::Mtu(self.mtu),
        ];
        peer.attributes.extend(
            self.dev_netns
                .map(|ns| LinkAttribute::NetNsFd(ns.as_raw_fd())),
        );
        peer.attributes
            .extend(self.dev_txqlen.map(LinkAttribute::TxQueueLen));
        peer.attributes
            .extend(self.dev_num_tx_queues.map(LinkAttribute::NumTxQueues));
        peer.attributes
            .extend(self.dev_num_rx_queues.map(LinkAttribute::NumRxQueues));

        let mut host = LinkMessage::default();
        host.header.index = self.host_index.unwrap_or(0);
        host.attributes = vec![
            LinkAttribute::IfName(self.host_name.to_owned()),
            LinkAttribute::Mtu(self.host_mtu.unwrap_or(self.mtu)),
        ];
        host.attributes.extend(
            self.host_mac
                .map(|mac| LinkAttribute::Address(mac.to_vec())),
        );
        host.attributes.push(LinkAttribute::LinkInfo(vec![
            LinkInfo::Kind(InfoKind::Veth),
            LinkInfo::Data(InfoData::Veth(InfoVeth::Peer(peer))),
        ]));
        host
    }
}

/// What is to be changed of a link. What is None stays as it is.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct LinkChange {
    /// `IFF_UP`.
    pub up: Option<bool>,
    /// Its MTU.
    pub mtu: Option<u32>,
    /// Its hardware address.
    pub mac: Option<Mac>,
    /// `IFF_NOARP`.
    pub noarp: Option<bool>,
    /// `IFF_ALLMULTI`.
    pub allmulticast: Option<bool>,
    /// Free text; an empty one removes it.
    pub alias: Option<String>,
    /// How it makes its IPv6 link-local address. The kernel looks at it when the link goes up.
    pub addr_gen_mode: Option<AddrGenMode>,
    /// Its name.
    pub name: Option<String>,
}

impl LinkChange {
    fn message(&self, index: u32) -> LinkMessage {
        let mut message = LinkMessage::default();
        message.header.index = index;
        for (wanted, flag) in [
            (self.up, LinkFlags::Up),
            (self.noarp, LinkFlags::Noarp),
            (self.allmulticast, LinkFlags::Allmulti),
        ] {
            if let Some(on) = wanted {
                message.header.change_mask |= flag;
                message.header.flags.set(flag, on);
            }
        }
        let attrs = &mut message.attributes;
        attrs.extend(self.name.clone().map(LinkAttribute::IfName));
        attrs.extend(self.mtu.map(LinkAttribute::Mtu));
        attrs.extend(self.mac.map(|mac| LinkAttribute::Address(mac.to_vec())));
        // Without the NUL that LinkAttribute::IfAlias appends: only an alias of no byte at all
        // removes the old one.
        attrs.extend(self.alias.as_ref().map(|alias| {
            LinkAttribute::Other(DefaultNla::new(IFLA_IFALIAS, alias.as_bytes().to_vec()))
        }));
        attrs.extend(self.addr_gen_mode.map(|mode| {
            let mode = AfSpecInet6::AddrGenMode(mode.into());
            LinkAttribute::AfSpecUnspec(vec![AfSpecUnspec::Inet6(vec![mode])])
        }));
        message
    }
}

impl From<AddrGenMode> for In6AddrGenMode {
    fn from(mode: AddrGenMode) -> Self {
        match mode {
            AddrGenMode::Eui64 => Self::Eui64,
            AddrGenMode::None => Self::None,
            AddrGenMode::StablePrivacy => Self::StablePrivacy,
            AddrGenMode::Random => Self::Random,
        }
    }
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

impl Link {
    /// True if somebody has set it up (`IFF_UP`).
    pub fn is_up(&self) -> bool {
        self.flags & IFF_UP != 0
    }

    /// True if its lower layer is up (`IFF_LOWER_UP`).
    pub fn has_carrier(&self) -> bool {
        self.flags & IFF_LOWER_UP != 0
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
                self.kind = attributes(value)
                    .find(|(kind, _)| *kind == IFLA_INFO_KIND)
                    .map(|(_, kind)| string_of(kind));
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

    /// Creates a pair of veth links, both down.
    ///
    /// Both ends appear at once, each in its own namespace, with name, address, flags and MTU
    /// already theirs: nobody can see the device half made, and nothing is left behind where the
    /// kernel refuses.
    ///
    /// # Errors
    ///
    /// `EEXIST` for a name or index that is taken (the kernel does not say at which end),
    /// `EOPNOTSUPP` for a kernel without veth, `EPERM`. [`Error::Invalid`] for a
    /// [`dev_index`](VethPair::dev_index) that the kernel would not heed.
    pub fn create_veth(&mut self, pair: &VethPair<'_>) -> Result<(), Error> {
        if pair.dev_index.is_some() && pair.host_index.is_none() {
            return Err(Error::Invalid {
                op: "create",
                object: pair.host_name.to_owned(),
                why: "an index for the device needs one for the host end",
            });
        }
        let message = RouteNetlinkMessage::NewLink(pair.message());
        let ask = Ask::new("create", pair.host_name);
        self.request(ask, message, NLM_F_CREATE | NLM_F_EXCL, &mut |_, _| {})
    }

    /// Removes a link; of a pair, both ends.
    ///
    /// # Errors
    ///
    /// `ENODEV` if it is not there, `EOPNOTSUPP` for a physical one.
    pub fn delete_link(&mut self, index: u32) -> Result<(), Error> {
        let mut message = LinkMessage::default();
        message.header.index = index;
        let message = RouteNetlinkMessage::DelLink(message);
        self.request(by_index("delete", index), message, 0, &mut |_, _| {})
    }

    /// Changes a link of the socket's namespace.
    ///
    /// The kernel applies the parts one after the other: address, MTU, name, alias, flags,
    /// address generation. One that it refuses ends the list, and those before it stay.
    ///
    /// # Errors
    ///
    /// `ENODEV` if it is not there, `EINVAL` for an MTU out of bounds, and what its driver says.
    pub fn set_link(&mut self, index: u32, change: &LinkChange) -> Result<(), Error> {
        if *change == LinkChange::default() {
            return Ok(());
        }
        if change.up == Some(true) && change.addr_gen_mode.is_some() {
            // do_setlink() sets flags before IFLA_AF_SPEC. Not seen to lose the race, but it is one.
            let mode = LinkChange {
                addr_gen_mode: change.addr_gen_mode,
                ..LinkChange::default()
            };
            self.set_link(index, &mode)?;
        }
        let message = RouteNetlinkMessage::SetLink(change.message(index));
        self.request(by_index("change", index), message, 0, &mut |_, _| {})
    }

    /// Moves a link of the socket's namespace to `ns`, under a new name if one is given.
    ///
    /// It is down afterwards and has lost its addresses. Its index may change as well.
    ///
    /// # Errors
    ///
    /// `EEXIST` if the name is taken there, `EINVAL` if it cannot be moved.
    pub fn move_link(
        &mut self,
        index: u32,
        ns: BorrowedFd<'_>,
        name: Option<&str>,
    ) -> Result<(), Error> {
        let mut message = LinkMessage::default();
        message.header.index = index;
        message
            .attributes
            .push(LinkAttribute::NetNsFd(ns.as_raw_fd()));
        message
            .attributes
            .extend(name.map(|name| LinkAttribute::IfName(name.to_owned())));
        let message = RouteNetlinkMessage::SetLink(message);
        self.request(by_index("move", index), message, 0, &mut |_, _| {})
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

fn by_index(op: &'static str, index: u32) -> Ask {
    Ask::new(op, format!("link {index}"))
}

#[cfg(test)]
mod tests {
    use netlink_packet_core::Emitable;

    use super::*;

    fn bytes_of(message: &LinkMessage) -> Vec<u8> {
        let mut bytes = vec![0; message.buffer_len()];
        message.emit(&mut bytes);
        bytes
    }

    fn find(bytes: &[u8], wanted: u16) -> Option<&[u8]> {
        attributes(bytes)
            .find(|(kind, _)| *kind == wanted)
            .map(|(_, value)| value)
    }

    #[test]
    fn the_peer_stands_as_a_whole_message_inside_the_pair() {
        const IFLA_INFO_DATA: u16 = 2;
        const VETH_INFO_PEER: u16 = 1;
        let mac = [2, 0, 0, 0, 0, 9];
        let pair = VethPair {
            dev_noarp: true,
            host_index: Some(76),
            dev_index: Some(77),
            host_mtu: Some(9000),
            ..VethPair::new("host0", "ipvlan%d", mac, 1400)
        };
        let bytes = bytes_of(&pair.message());
        assert_eq!(u32_of(&bytes[4..]), Some(76));
        assert_eq!(bytes[8..16], [0; 8], "the host end has no flag");
        let attrs = &bytes[16..];
        assert_eq!(find(attrs, IFLA_IFNAME), Some(&b"host0\0"[..]));
        assert_eq!(find(attrs, IFLA_MTU).and_then(u32_of), Some(9000));
        let info = find(attrs, IFLA_LINKINFO).unwrap();
        assert_eq!(
            find(info, IFLA_INFO_KIND).map(string_of).as_deref(),
            Some("veth")
        );
        let peer = find(find(info, IFLA_INFO_DATA).unwrap(), VETH_INFO_PEER).unwrap();
        let peer = Link::parse(peer).unwrap();
        assert_eq!(
            (
                peer.index,
                peer.flags,
                peer.name.as_str(),
                peer.mac,
                peer.mtu
            ),
            (77, 0x80, "ipvlan%d", Some(mac), 1400)
        );
    }

    #[test]
    fn a_change_sends_only_what_is_asked() {
        let change = LinkChange {
            up: Some(false),
            noarp: Some(true),
            ..LinkChange::default()
        };
        let bytes = bytes_of(&change.message(5));
        assert_eq!(u32_of(&bytes[4..]), Some(5));
        assert_eq!(u32_of(&bytes[8..]), Some(0x80), "flags: NOARP, and not UP");
        assert_eq!(u32_of(&bytes[12..]), Some(0x81), "mask: NOARP and UP");
        assert_eq!(attributes(&bytes[16..]).count(), 0);
    }

    #[test]
    fn an_alias_goes_without_nul_and_the_ipv6_mode_in_two_nests() {
        let change = LinkChange {
            alias: Some(String::new()),
            addr_gen_mode: Some(AddrGenMode::None),
            ..LinkChange::default()
        };
        let bytes = bytes_of(&change.message(5));
        assert_eq!(find(&bytes[16..], IFLA_IFALIAS), Some(&[][..]));
        assert_eq!(
            Link::parse(&bytes).unwrap().addr_gen_mode,
            Some(AddrGenMode::None)
        );
    }

    #[test]
    fn a_message_without_its_header_is_no_link() {
        assert_eq!(Link::parse(&[0; 15]), None);
        assert!(Link::parse(&[0; 16]).is_some());
    }
}
