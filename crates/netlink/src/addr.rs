//! Addresses of links, of both families.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use netlink_packet_route::address::{AddressAttribute, AddressMessage};
use netlink_packet_route::{AddressFamily, RouteNetlinkMessage};
use nix::errno::Errno;

use crate::nla::{attributes, u8_of, u32_of};
use crate::socket::Ask;
use crate::{Error, Netlink, Nsid};

const RTM_NEWADDR: u16 = 20;
const IFADDRMSG_LEN: usize = 8;
const IFA_ADDRESS: u16 = 1;
const IFA_LOCAL: u16 = 2;
const IFA_FLAGS: u16 = 8;
const AF_INET: u8 = 2;
const AF_INET6: u8 = 10;

/// An address of a link (`RTM_NEWADDR`).
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct Address {
    /// Index of the link that has it.
    pub index: u32,
    /// The address itself: `IFA_LOCAL`, or `IFA_ADDRESS` where there is no local one (IPv6).
    pub local: IpAddr,
    /// The other side of a point-to-point link, where it is not `local`.
    pub peer: Option<IpAddr>,
    /// How many bits of it name the network.
    pub prefix_len: u8,
    /// `RT_SCOPE_*`.
    pub scope: u8,
    /// `IFA_F_*`, all 32 bits.
    pub flags: u32,
}

impl Address {
    /// Reads the body of an `RTM_NEWADDR`; None if it is none or of another family.
    pub(crate) fn parse(body: &[u8]) -> Option<Self> {
        let family = u8_of(body)?;
        let (mut local, mut address) = (None, None);
        // The header has room for eight flags only.
        let mut flags = u32::from(*body.get(2)?);
        for (kind, value) in attributes(body.get(IFADDRMSG_LEN..)?) {
            match kind {
                IFA_ADDRESS => address = ip_of(family, value),
                IFA_LOCAL => local = ip_of(family, value),
                IFA_FLAGS => flags = u32_of(value).unwrap_or(flags),
                _ => {}
            }
        }
        Some(Self {
            index: u32_of(body.get(4..)?)?,
            local: local.or(address)?,
            peer: address.filter(|address| local.is_some_and(|local| local != *address)),
            prefix_len: *body.get(1)?,
            scope: *body.get(3)?,
            flags,
        })
    }
}

fn ip_of(family: u8, value: &[u8]) -> Option<IpAddr> {
    match family {
        AF_INET => Some(Ipv4Addr::from(<[u8; 4]>::try_from(value).ok()?).into()),
        AF_INET6 => Some(Ipv6Addr::from(<[u8; 16]>::try_from(value).ok()?).into()),
        _ => None,
    }
}

impl Netlink {
    /// The addresses in the socket's namespace, or in the one with the id `ns`, of all links or of
    /// the one with this index: first those of IPv4, then those of IPv6.
    ///
    /// A link that is not there has no addresses; that is no error.
    ///
    /// Reading through an id needs `CAP_NET_ADMIN` over the other namespace and Linux 4.20
    /// (`IFA_TARGET_NETNSID`); the kernel filters by index since 5.0.
    ///
    /// # Errors
    ///
    /// `EINVAL` for an id that means no namespace.
    pub fn addresses(
        &mut self,
        ns: Option<Nsid>,
        index: Option<u32>,
    ) -> Result<Vec<Address>, Error> {
        let mut list = Vec::new();
        // A dump of AF_UNSPEC would also ask every other family the kernel has, and each of those
        // would have to understand the attributes.
        for (family, number) in [
            (AddressFamily::Inet, AF_INET),
            (AddressFamily::Inet6, AF_INET6),
        ] {
            let mut message = AddressMessage::default();
            message.header.family = family;
            message.header.index = index.unwrap_or(0);
            message
                .attributes
                .extend(ns.map(|Nsid(id)| AddressAttribute::TargetNetNsId(id)));
            let ask = Ask::new("read", "addresses");
            let some = self.dump(
                &ask,
                &RouteNetlinkMessage::GetAddress(message),
                |kind, body| {
                    // A kernel without IPv6 answers a question for it with all families it has.
                    let ours = kind == RTM_NEWADDR && u8_of(body) == Some(number);
                    let address = Address::parse(body).filter(|_| ours)?;
                    index
                        .is_none_or(|index| index == address.index)
                        .then_some(address)
                },
            );
            match some {
                Ok(some) => list.extend(some),
                Err(err) if index.is_some() && err.is(Errno::ENODEV) => {}
                Err(err) => return Err(err),
            }
        }
        Ok(list)
    }

    /// Takes an address from a link of the socket's namespace. That the link has no such address
    /// is no error.
    ///
    /// # Errors
    ///
    /// `ENODEV` when there is no such link.
    pub fn delete_address(
        &mut self,
        index: u32,
        address: IpAddr,
        prefix_len: u8,
    ) -> Result<(), Error> {
        let mut message = AddressMessage::default();
        message.header.family = match address {
            IpAddr::V4(_) => AddressFamily::Inet,
            IpAddr::V6(_) => AddressFamily::Inet6,
        };
        message.header.index = index;
        message.header.prefix_len = prefix_len;
        message.attributes.push(AddressAttribute::Local(address));
        let ask = Ask::new("delete", address.to_string());
        match self.request(
            ask,
            RouteNetlinkMessage::DelAddress(message),
            0,
            &mut |_, _| {},
        ) {
            Err(err) if err.is(Errno::EADDRNOTAVAIL) => Ok(()),
            other => other,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn body(family: u8, attrs: &[(u16, &[u8])]) -> Vec<u8> {
        let mut bytes = vec![family, 24, 0x80, 253, 0, 0, 0, 0];
        bytes[4..].copy_from_slice(&7u32.to_ne_bytes());
        for (kind, value) in attrs {
            bytes.extend(u16::try_from(4 + value.len()).unwrap().to_ne_bytes());
            bytes.extend(kind.to_ne_bytes());
            bytes.extend(*value);
        }
        bytes
    }

    #[test]
    fn an_ipv4_address_is_the_local_one() {
        let ten = [10, 0, 0, 1];
        let plain = body(AF_INET, &[(IFA_ADDRESS, &ten), (IFA_LOCAL, &ten)]);
        let wanted = Address {
            index: 7,
            local: ten.into(),
            peer: None,
            prefix_len: 24,
            scope: 253,
            flags: 0x80,
        };
        assert_eq!(Address::parse(&plain), Some(wanted));

        let peer = body(AF_INET, &[(IFA_ADDRESS, &[10, 0, 0, 2]), (IFA_LOCAL, &ten)]);
        let wanted = Address {
            peer: Some([10, 0, 0, 2].into()),
            ..wanted
        };
        assert_eq!(Address::parse(&peer), Some(wanted));
    }

    #[test]
    fn an_ipv6_address_has_no_local_one_and_long_flags_win() {
        let ip = [0xfd; 16];
        let flags = 0x380u32.to_ne_bytes();
        let address = Address::parse(&body(AF_INET6, &[(IFA_ADDRESS, &ip), (IFA_FLAGS, &flags)]));
        assert_eq!(
            address.map(|a| (a.local, a.peer, a.flags)),
            Some((ip.into(), None, 0x380))
        );
    }

    #[test]
    fn another_family_or_no_address_is_none() {
        assert_eq!(Address::parse(&body(45, &[(IFA_LOCAL, &[1])])), None);
        assert_eq!(Address::parse(&body(AF_INET, &[])), None);
        assert_eq!(Address::parse(&[AF_INET, 24]), None);
    }
}
