//! Nexthop objects (`ip nexthop`): next routers that routes name by a number.
//!
//! A dump of routes shows what is behind the number only while `net.ipv4.nexthop_compat_mode` is 1.
//! netlink-packet-route knows no such messages.

use std::net::IpAddr;

use netlink_packet_core::NetlinkSerializable;
use nix::errno::Errno;

use crate::nla::{attributes, u8_of};
use crate::route::Family;
use crate::socket::Ask;
use crate::{Error, Netlink};

pub(crate) const RTM_NEWNEXTHOP: u16 = 104;
pub(crate) const RTM_DELNEXTHOP: u16 = 105;
const RTM_GETNEXTHOP: u16 = 106;
// struct nhmsg
const NHMSG_LEN: usize = 8;
// linux/nexthop.h
const NHA_OIF: u16 = 5;
const NHA_GATEWAY: u16 = 6;

/// Asks for those that leave by an interface. Groups have no interface, and are made of others.
#[derive(Clone, Copy)]
struct GetNexthops {
    interface: u32,
}

impl NetlinkSerializable for GetNexthops {
    fn message_type(&self) -> u16 {
        RTM_GETNEXTHOP
    }

    fn buffer_len(&self) -> usize {
        NHMSG_LEN + 8
    }

    fn serialize(&self, buffer: &mut [u8]) {
        let mut bytes = vec![0; NHMSG_LEN];
        bytes.extend(8_u16.to_ne_bytes());
        bytes.extend(NHA_OIF.to_ne_bytes());
        bytes.extend(self.interface.to_ne_bytes());
        buffer.copy_from_slice(&bytes);
    }
}

impl Netlink {
    /// The next routers of all nexthop objects that leave by this interface of the socket's
    /// namespace, whether a route names them or not.
    ///
    /// Linux 5.3; before, there are none, which is no error.
    ///
    /// # Errors
    ///
    /// `ENODEV` or `EINVAL` when there is no such interface.
    pub fn nexthops(&mut self, interface: u32) -> Result<Vec<IpAddr>, Error> {
        let ask = Ask::new("read", "nexthop objects");
        let found = self.dump(&ask, &GetNexthops { interface }, |kind, body| {
            (kind == RTM_NEWNEXTHOP).then(|| gateway(body)).flatten()
        });
        match found {
            Err(err) if err.is(Errno::EOPNOTSUPP) => Ok(Vec::new()),
            other => other,
        }
    }
}

/// The next router in the body of an `RTM_NEWNEXTHOP`; None: it has none.
pub(crate) fn gateway(body: &[u8]) -> Option<IpAddr> {
    let family = Family::from_number(u8_of(body)?)?;
    let (_, value) = attributes(body.get(NHMSG_LEN..)?).find(|(kind, _)| *kind == NHA_GATEWAY)?;
    family.address(value)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_gateway_is_of_the_family_that_the_header_says() {
        let body = |family: u8, gateway: &[u8]| {
            let mut bytes = vec![family, 0, 0, 0, 0, 0, 0, 0];
            // NHA_ID, then NHA_GATEWAY.
            for (kind, value) in [(1_u16, &[9, 0, 0, 0][..]), (NHA_GATEWAY, gateway)] {
                let len = u16::try_from(4 + value.len()).unwrap();
                bytes.extend(len.to_ne_bytes());
                bytes.extend(kind.to_ne_bytes());
                bytes.extend(value);
            }
            bytes
        };
        let (four, six) = ([10, 1, 0, 254], [0xfd_u8; 16]);
        assert_eq!(gateway(&body(2, &four)), Some(four.into()));
        assert_eq!(gateway(&body(10, &six)), Some(six.into()));
        assert_eq!(gateway(&body(2, &six)), None, "of another length");
        assert_eq!(gateway(&body(0, &four)), None, "a group has no family");
        assert_eq!(gateway(&body(2, &four)[..16]), None, "none at all");
    }
}
