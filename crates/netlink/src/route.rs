//! Routes and policy rules of the socket's namespace.
//!
//! Only what somebody needs who routes addresses and prefixes in a table of his own, and wants to
//! know next hops: no metrics, no preferred sources, no encapsulation.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use ipnet::IpNet;
use netlink_packet_core::{NLM_F_CREATE, NLM_F_EXCL, NLM_F_REPLACE};
use netlink_packet_route::route::{
    RouteAddress, RouteAttribute, RouteFlags, RouteHeader, RouteMessage, RouteProtocol, RouteScope,
    RouteType,
};
use netlink_packet_route::rule::{RuleAction, RuleAttribute, RuleMessage};
use netlink_packet_route::{AddressFamily, RouteNetlinkMessage};
use nix::errno::Errno;

use crate::nla::{attributes, string_of, u8_of, u16_of, u32_of};
use crate::socket::Ask;
use crate::{Error, Netlink};

const RTM_NEWROUTE: u16 = 24;
const RTM_NEWRULE: u16 = 32;
const RTMSG_LEN: usize = 12;
const FIB_RULE_HDR_LEN: usize = 12;
const RTNEXTHOP_LEN: usize = 8;

// linux/rtnetlink.h
const RTA_DST: u16 = 1;
const RTA_OIF: u16 = 4;
const RTA_GATEWAY: u16 = 5;
const RTA_MULTIPATH: u16 = 9;
const RTA_TABLE: u16 = 15;
const RTA_VIA: u16 = 18;

// linux/rtnetlink.h, enum rtn_type
const RTN_BLACKHOLE: u8 = 6;
const RTN_THROW: u8 = 9;

// linux/fib_rules.h
const FRA_IIFNAME: u16 = 3;
const FRA_PRIORITY: u16 = 6;
const FRA_FWMARK: u16 = 10;
const FRA_TABLE: u16 = 15;

const FR_ACT_TO_TBL: u8 = 1;
const FR_ACT_BLACKHOLE: u8 = 6;

const AF_INET: u8 = 2;
const AF_INET6: u8 = 10;

/// IPv4 or IPv6.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Family {
    /// IPv4.
    V4,
    /// IPv6.
    V6,
}

impl Family {
    /// Both.
    pub const ALL: [Self; 2] = [Self::V4, Self::V6];

    /// That of an address.
    pub const fn of(address: IpAddr) -> Self {
        match address {
            IpAddr::V4(_) => Self::V4,
            IpAddr::V6(_) => Self::V6,
        }
    }

    pub(crate) const fn from_number(number: u8) -> Option<Self> {
        match number {
            AF_INET => Some(Self::V4),
            AF_INET6 => Some(Self::V6),
            _ => None,
        }
    }

    const fn number(self) -> u8 {
        match self {
            Self::V4 => AF_INET,
            Self::V6 => AF_INET6,
        }
    }

    const fn bits(self) -> u8 {
        match self {
            Self::V4 => 32,
            Self::V6 => 128,
        }
    }

    const fn nothing(self) -> IpAddr {
        match self {
            Self::V4 => IpAddr::V4(Ipv4Addr::UNSPECIFIED),
            Self::V6 => IpAddr::V6(Ipv6Addr::UNSPECIFIED),
        }
    }

    pub(crate) fn address(self, bytes: &[u8]) -> Option<IpAddr> {
        match self {
            Self::V4 => Some(<[u8; 4]>::try_from(bytes).ok()?.into()),
            Self::V6 => Some(<[u8; 16]>::try_from(bytes).ok()?.into()),
        }
    }
}

impl From<Family> for AddressFamily {
    fn from(family: Family) -> Self {
        match family {
            Family::V4 => Self::Inet,
            Family::V6 => Self::Inet6,
        }
    }
}

/// A route (`RTM_NEWROUTE`).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Route {
    /// Where to.
    pub destination: IpNet,
    /// The table that it is in.
    pub table: u32,
    /// By which ways; more than one in a multipath route, none in one that leads nowhere
    /// (`throw`, `blackhole` and the like).
    pub hops: Vec<Hop>,
}

/// One way of a route.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Hop {
    /// Index of the interface by which it leaves.
    pub interface: Option<u32>,
    /// The next router. None: the destination itself.
    pub gateway: Option<IpAddr>,
}

/// Which routes to read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RouteFilter {
    /// Of which family.
    pub family: Family,
    /// Only of this table.
    pub table: Option<u32>,
    /// Only those that leave by this interface.
    pub interface: Option<u32>,
}

/// A policy rule: what comes in on this interface is looked up in a table, or goes nowhere. What
/// this host itself sends, and the check whether there is a way back (`rp_filter`), count as coming
/// in on `lo`.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Rule {
    /// Of which family.
    pub family: Family,
    /// Its place in the order; lower comes first. "local" is at 0, "main" at 32,766.
    pub priority: u32,
    /// Name of the interface.
    pub interface: String,
    /// Only packets with this mark.
    pub mark: Option<u32>,
    /// The table.
    pub table: u32,
    /// The packet goes nowhere instead, and nobody is told (`blackhole`). The table is only a note.
    pub nowhere: bool,
}

impl Route {
    pub(crate) fn parse(body: &[u8]) -> Option<Self> {
        let family = Family::from_number(u8_of(body)?)?;
        let len = *body.get(1)?;
        // The kernel names an interface (`lo`) for those of IPv6 that lead nowhere.
        let leads_nowhere = (RTN_BLACKHOLE..=RTN_THROW).contains(body.get(7)?);
        let mut route = Self {
            destination: IpNet::new(family.nothing(), len).ok()?,
            table: u32::from(*body.get(4)?),
            hops: Vec::new(),
        };
        let attrs = body.get(RTMSG_LEN..)?;
        for (kind, value) in attributes(attrs) {
            match kind {
                RTA_DST => route.destination = IpNet::new(family.address(value)?, len).ok()?,
                RTA_TABLE => route.table = u32_of(value)?,
                RTA_MULTIPATH => route.hops = hops(family, value),
                _ => {}
            }
        }
        let single = Hop::parse(family, attrs, None);
        if !leads_nowhere && single.interface.is_some() {
            route.hops.push(single);
        }
        Some(route)
    }
}

impl Hop {
    fn parse(family: Family, attrs: &[u8], interface: Option<u32>) -> Self {
        let mut hop = Self {
            interface,
            gateway: None,
        };
        for (kind, value) in attributes(attrs) {
            match kind {
                RTA_OIF => hop.interface = u32_of(value),
                RTA_GATEWAY => hop.gateway = family.address(value),
                // A gateway of the other family: its number, then the address.
                RTA_VIA => {
                    hop.gateway = value.get(2..).and_then(|address| match u16_of(value)? {
                        number if number == u16::from(AF_INET) => Family::V4.address(address),
                        number if number == u16::from(AF_INET6) => Family::V6.address(address),
                        _ => None,
                    });
                }
                _ => {}
            }
        }
        hop
    }
}

/// The `struct rtnexthop`s of a multipath route.
fn hops(family: Family, mut bytes: &[u8]) -> Vec<Hop> {
    let mut hops = Vec::new();
    while let (Some(len), Some(interface)) = (u16_of(bytes), bytes.get(4..).and_then(u32_of)) {
        let Some(attrs) = bytes.get(RTNEXTHOP_LEN..usize::from(len)) else {
            break;
        };
        hops.push(Hop::parse(family, attrs, Some(interface)));
        bytes = bytes
            .get(usize::from(len).next_multiple_of(4)..)
            .unwrap_or_default();
    }
    hops
}

impl Rule {
    /// None: a rule of another form.
    pub(crate) fn parse(body: &[u8]) -> Option<Self> {
        let family = Family::from_number(u8_of(body)?)?;
        let mut table = u32::from(*body.get(4)?);
        let action = *body.get(7)?;
        let (mut interface, mut mark, mut priority) = (None, None, 0);
        for (kind, value) in attributes(body.get(FIB_RULE_HDR_LEN..)?) {
            match kind {
                FRA_IIFNAME => interface = Some(string_of(value)),
                FRA_PRIORITY => priority = u32_of(value)?,
                FRA_FWMARK => mark = u32_of(value),
                FRA_TABLE => table = u32_of(value)?,
                _ => {}
            }
        }
        Some(Self {
            family,
            priority,
            interface: interface?,
            mark,
            table,
            nowhere: match action {
                FR_ACT_TO_TBL => false,
                FR_ACT_BLACKHOLE => true,
                _ => return None,
            },
        })
    }

    pub(crate) fn message(&self) -> RuleMessage {
        let mut message = RuleMessage::default();
        message.header.family = self.family.into();
        message.header.action = if self.nowhere {
            RuleAction::Blackhole
        } else {
            RuleAction::ToTable
        };
        message.attributes = vec![
            RuleAttribute::Priority(self.priority),
            RuleAttribute::Iifname(self.interface.clone()),
            RuleAttribute::Table(self.table),
            RuleAttribute::Protocol(RouteProtocol::Kernel),
        ];
        message
            .attributes
            .extend(self.mark.map(RuleAttribute::FwMark));
        message
    }
}

impl Netlink {
    /// Routes of the socket's namespace.
    ///
    /// A table that does not exist has no routes; that is no error.
    ///
    /// # Errors
    ///
    /// Only what the kernel or the socket fails at.
    pub fn routes(&mut self, filter: RouteFilter) -> Result<Vec<Route>, Error> {
        let mut message = RouteMessage::default();
        message.header.address_family = filter.family.into();
        message
            .attributes
            .extend(filter.table.map(RouteAttribute::Table));
        message
            .attributes
            .extend(filter.interface.map(RouteAttribute::Oif));
        let ask = Ask::new("read", "routes");
        let routes = self.dump(
            &ask,
            &RouteNetlinkMessage::GetRoute(message),
            |kind, body| {
                (kind == RTM_NEWROUTE && u8_of(body) == Some(filter.family.number()))
                    .then(|| Route::parse(body))
                    .flatten()
            },
        );
        match routes {
            Err(err) if filter.table.is_some() && err.is(Errno::ENOENT) => Ok(Vec::new()),
            other => other,
        }
    }

    /// The way that what the socket's namespace itself sends to `address` goes, from any source: one
    /// hop, and the address as the destination. With `entry`, the table's entry that says so: its
    /// prefix, and all of its hops but those that are a nexthop object's where
    /// `net.ipv4.nexthop_compat_mode` is 0. None: there is no way, or one that forbids it.
    ///
    /// `vrf`: as what is bound to this VRF.
    ///
    /// # Errors
    ///
    /// Only what the socket fails at.
    pub fn route_to(
        &mut self,
        address: IpAddr,
        vrf: Option<u32>,
        entry: bool,
    ) -> Result<Option<Route>, Error> {
        let family = Family::of(address);
        let mut message = RouteMessage::default();
        message.header.address_family = family.into();
        message.header.destination_prefix_length = family.bits();
        if entry {
            message.header.flags = RouteFlags::FibMatch;
        }
        message
            .attributes
            .push(RouteAttribute::Destination(route_address(address)));
        message.attributes.extend(vrf.map(RouteAttribute::Oif));
        let ask = Ask::new("find the route to", address.to_string());
        let mut found = None;
        let asked = self.request(
            ask,
            RouteNetlinkMessage::GetRoute(message),
            0,
            &mut |kind, body| {
                if kind == RTM_NEWROUTE {
                    found = Route::parse(body);
                }
            },
        );
        match asked {
            Ok(()) => Ok(found),
            // No route, or one of type unreachable, prohibit, blackhole, throw; without IPv6.
            Err(error)
                if matches!(
                    error.errno(),
                    Errno::ENETUNREACH
                        | Errno::EHOSTUNREACH
                        | Errno::EACCES
                        | Errno::EINVAL
                        | Errno::EAGAIN
                        | Errno::EOPNOTSUPP
                ) =>
            {
                Ok(None)
            }
            Err(error) => Err(error),
        }
    }

    /// Routes a prefix to an interface of the socket's namespace, in `table`; to none: whoever looks
    /// into this table goes on with the next rule (`throw`). A route that is there is replaced.
    ///
    /// The route says that the kernel made it (`proto kernel`): programs that manage all routes
    /// they find, such as systemd-networkd, leave those alone.
    ///
    /// # Errors
    ///
    /// `ENODEV` without the interface, `ENETDOWN` when it is down.
    pub fn set_route(
        &mut self,
        table: u32,
        prefix: IpNet,
        interface: Option<u32>,
    ) -> Result<(), Error> {
        let mut message = route(table, prefix);
        message.header.kind = match interface {
            Some(_) => RouteType::Unicast,
            None => RouteType::Throw,
        };
        message
            .attributes
            .extend(interface.map(RouteAttribute::Oif));
        let message = RouteNetlinkMessage::NewRoute(message);
        let ask = Ask::new("route", prefix.to_string());
        self.request(ask, message, NLM_F_CREATE | NLM_F_REPLACE, &mut |_, _| {})
    }

    /// Removes what [`Self::set_route`] has made; fine when there is none.
    ///
    /// # Errors
    ///
    /// Only what the kernel or the socket fails at.
    pub fn delete_route(&mut self, table: u32, prefix: IpNet) -> Result<(), Error> {
        let message = RouteNetlinkMessage::DelRoute(route(table, prefix));
        let ask = Ask::new("remove the route to", prefix.to_string());
        match self.request(ask, message, 0, &mut |_, _| {}) {
            // ESRCH: no route. ENOENT: no table.
            Err(err) if err.is(Errno::ESRCH) || err.is(Errno::ENOENT) => Ok(()),
            other => other,
        }
    }

    /// The policy rules of the socket's namespace that are of the form of a [`Rule`].
    ///
    /// # Errors
    ///
    /// Only what the kernel or the socket fails at.
    pub fn rules(&mut self, family: Family) -> Result<Vec<Rule>, Error> {
        let mut message = RuleMessage::default();
        message.header.family = family.into();
        let ask = Ask::new("read", "rules");
        let rules = self.dump(
            &ask,
            &RouteNetlinkMessage::GetRule(message),
            |kind, body| {
                (kind == RTM_NEWRULE && u8_of(body) == Some(family.number()))
                    .then(|| Rule::parse(body))
                    .flatten()
            },
        );
        match rules {
            // A kernel without policy routing, or without IPv6.
            Err(err) if err.is(Errno::EOPNOTSUPP) || err.is(Errno::EAFNOSUPPORT) => Ok(Vec::new()),
            other => other,
        }
    }

    /// Adds a policy rule, protected as [`Self::set_route`] has it.
    ///
    /// # Errors
    ///
    /// `EEXIST` when there is one like it, `EOPNOTSUPP` for a kernel without policy routing
    /// (`CONFIG_IP_MULTIPLE_TABLES`, `CONFIG_IPV6_MULTIPLE_TABLES`).
    pub fn add_rule(&mut self, rule: &Rule) -> Result<(), Error> {
        let message = RouteNetlinkMessage::NewRule(rule.message());
        let ask = Ask::new("add the rule for", &*rule.interface);
        self.request(ask, message, NLM_F_CREATE | NLM_F_EXCL, &mut |_, _| {})
    }

    /// Removes a policy rule; fine when there is none.
    ///
    /// # Errors
    ///
    /// Only what the kernel or the socket fails at.
    pub fn delete_rule(&mut self, rule: &Rule) -> Result<(), Error> {
        let message = RouteNetlinkMessage::DelRule(rule.message());
        let ask = Ask::new("remove the rule for", &*rule.interface);
        match self.request(ask, message, 0, &mut |_, _| {}) {
            Err(err) if err.is(Errno::ENOENT) => Ok(()),
            other => other,
        }
    }
}

/// Of any kind.
fn route(table: u32, prefix: IpNet) -> RouteMessage {
    let family = Family::of(prefix.addr());
    let mut message = RouteMessage::default();
    message.header = RouteHeader {
        address_family: family.into(),
        destination_prefix_length: prefix.prefix_len(),
        protocol: RouteProtocol::Kernel,
        kind: RouteType::Unspec,
        scope: match family {
            Family::V4 => RouteScope::Link,
            Family::V6 => RouteScope::Universe,
        },
        ..RouteHeader::default()
    };
    message.attributes = vec![
        RouteAttribute::Destination(route_address(prefix.addr())),
        RouteAttribute::Table(table),
    ];
    message
}

fn route_address(address: IpAddr) -> RouteAddress {
    match address {
        IpAddr::V4(address) => RouteAddress::Inet(address),
        IpAddr::V6(address) => RouteAddress::Inet6(address),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn attr(kind: u16, value: &[u8]) -> Vec<u8> {
        let mut bytes = u16::try_from(4 + value.len())
            .unwrap()
            .to_ne_bytes()
            .to_vec();
        bytes.extend(kind.to_ne_bytes());
        bytes.extend(value);
        bytes.resize(bytes.len().next_multiple_of(4), 0);
        bytes
    }

    fn body(family: u8, len: u8, attrs: &[Vec<u8>]) -> Vec<u8> {
        let mut bytes = vec![family, len, 0, 0, 254, 2, 0, 1, 0, 0, 0, 0];
        bytes.extend(attrs.concat());
        bytes
    }

    #[test]
    fn a_route_with_one_way() {
        let bytes = body(
            AF_INET,
            24,
            &[
                attr(RTA_DST, &[10, 0, 0, 0]),
                attr(RTA_OIF, &7u32.to_ne_bytes()),
                attr(RTA_TABLE, &0x1234_5678_u32.to_ne_bytes()),
            ],
        );
        let route = Route::parse(&bytes).unwrap();
        assert_eq!(route.destination, "10.0.0.0/24".parse().unwrap());
        assert_eq!(route.table, 0x1234_5678, "the header has room for a byte");
        assert_eq!(
            route.hops,
            [Hop {
                interface: Some(7),
                gateway: None
            }]
        );
    }

    #[test]
    fn a_gateway_may_be_of_the_other_family() {
        let mut via = AF_INET6.to_ne_bytes().to_vec();
        via.push(0);
        via.extend([0xfe; 16]);
        let bytes = body(
            AF_INET,
            0,
            &[attr(RTA_OIF, &[7, 0, 0, 0]), attr(RTA_VIA, &via)],
        );
        let hops = Route::parse(&bytes).unwrap().hops;
        assert_eq!(hops[0].gateway, Some([0xfe_u8; 16].into()));
    }

    #[test]
    fn a_route_with_two_ways() {
        let hop = |interface: u32, last: u8| {
            let gateway = attr(RTA_GATEWAY, &[10, 0, 0, last]);
            let mut bytes = u16::try_from(RTNEXTHOP_LEN + gateway.len())
                .unwrap()
                .to_ne_bytes()
                .to_vec();
            bytes.extend([0, 0]);
            bytes.extend(interface.to_ne_bytes());
            bytes.extend(gateway);
            bytes
        };
        let both = [hop(3, 1), hop(4, 2)].concat();
        let route = Route::parse(&body(AF_INET, 0, &[attr(RTA_MULTIPATH, &both)])).unwrap();
        let found: Vec<_> = route
            .hops
            .iter()
            .map(|hop| (hop.interface, hop.gateway))
            .collect();
        assert_eq!(
            found,
            [
                (Some(3), Some([10, 0, 0, 1].into())),
                (Some(4), Some([10, 0, 0, 2].into()))
            ]
        );
        // Cut short anywhere it ends there, and does not loop.
        for end in 0..both.len() {
            let _: Vec<Hop> = hops(Family::V4, &both[..end]);
        }
    }

    #[test]
    fn a_rule_of_another_form_is_none() {
        let rule = |action: u8, attrs: &[Vec<u8>]| {
            let mut bytes = vec![AF_INET, 0, 0, 0, 0, 0, 0, action, 0, 0, 0, 0];
            bytes.extend(attrs.concat());
            Rule::parse(&bytes)
        };
        let iif = attr(FRA_IIFNAME, b"eth0\0");
        let number = attr(FRA_PRIORITY, &500_u32.to_ne_bytes());
        let table = attr(FRA_TABLE, &9_u32.to_ne_bytes());
        let wanted = Rule {
            family: Family::V4,
            priority: 500,
            interface: "eth0".into(),
            mark: None,
            table: 9,
            nowhere: false,
        };
        assert_eq!(
            rule(FR_ACT_TO_TBL, &[iif.clone(), number.clone(), table.clone()]),
            Some(wanted.clone())
        );
        let nowhere = Rule {
            nowhere: true,
            ..wanted
        };
        assert_eq!(
            rule(FR_ACT_BLACKHOLE, &[iif.clone(), number.clone(), table]),
            Some(nowhere)
        );
        assert_eq!(rule(3, &[iif]), None, "nop");
        assert_eq!(rule(FR_ACT_TO_TBL, &[number]), None, "of all interfaces");
    }
}
