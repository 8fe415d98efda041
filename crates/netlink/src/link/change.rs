//! Making pairs of links, changing, moving and removing links.

use std::os::fd::{AsRawFd, BorrowedFd};

use netlink_packet_core::{DefaultNla, NLM_F_CREATE, NLM_F_EXCL};
use netlink_packet_route::RouteNetlinkMessage;
use netlink_packet_route::link::{
    AfSpecInet6, AfSpecUnspec, In6AddrGenMode, InfoData, InfoKind, InfoVeth, LinkAttribute,
    LinkFlags, LinkInfo, LinkMessage,
};

use super::read::IFLA_IFALIAS;
use super::{AddrGenMode, Mac, by_index};
use crate::socket::Ask;
use crate::{Error, Netlink};

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
    /// Whether that end shall have `IFF_MULTICAST`.
    pub host_multicast: bool,
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
            host_multicast: true,
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
        if !self.host_multicast {
            host.header.change_mask = LinkFlags::Multicast;
        }
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
    /// Length of its transmit queue, packets.
    pub txqlen: Option<u32>,
    /// Whether it has a carrier, where its driver lets that be said.
    pub carrier: Option<bool>,
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
        attrs.extend(self.txqlen.map(LinkAttribute::TxQueueLen));
        attrs.extend(self.carrier.map(|on| LinkAttribute::Carrier(on.into())));
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

impl Netlink {
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
}

#[cfg(test)]
mod tests {
    use netlink_packet_core::Emitable;

    use super::*;
    use crate::Link;
    use crate::link::read::{IFLA_IFNAME, IFLA_INFO_DATA, IFLA_INFO_KIND, IFLA_LINKINFO, IFLA_MTU};
    use crate::nla::{attributes, string_of, u32_of};

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
        const VETH_INFO_PEER: u16 = 1;
        let mac = [2, 0, 0, 0, 0, 9];
        let pair = VethPair {
            dev_noarp: true,
            host_index: Some(76),
            dev_index: Some(77),
            host_mtu: Some(9000),
            host_multicast: false,
            ..VethPair::new("host0", "ipvlan%d", mac, 1400)
        };
        let bytes = bytes_of(&pair.message());
        assert_eq!(u32_of(&bytes[4..]), Some(76));
        assert_eq!(u32_of(&bytes[8..]), Some(0), "the host end has no flag");
        assert_eq!(u32_of(&bytes[12..]), Some(0x1000), "and not MULTICAST");
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
}
