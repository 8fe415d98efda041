//! The parsers without a socket in front of them, for `fuzz/`.

use std::net::IpAddr;

use netlink_packet_core::Emitable as _;
use netlink_packet_core::{NLMSG_DONE, NLMSG_ERROR};

use crate::monitor::{
    RTM_DELADDR, RTM_DELLINK, RTM_DELNSID, RTM_DELROUTE, RTM_DELRULE, RTM_NEWADDR, RTM_NEWLINK,
    RTM_NEWNETCONF, RTM_NEWNSID, RTM_NEWROUTE, RTM_NEWRULE,
};
use crate::nexthop::{self, RTM_DELNEXTHOP, RTM_NEWNEXTHOP};
use crate::socket::{messages, refusal};
use crate::{Address, Event, Link, Nsid, Route, Rule, monitor, nsid};

/// What the bytes are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Answer {
    /// Messages with their headers.
    Datagram,
    /// The body of a message of this type.
    Body(u16),
}

impl Answer {
    /// All types that somebody here reads. Errors and acks come in datagrams alone.
    pub const ALL: [Self; 14] = [
        Self::Datagram,
        Self::Body(RTM_NEWLINK),
        Self::Body(RTM_DELLINK),
        Self::Body(RTM_NEWADDR),
        Self::Body(RTM_DELADDR),
        Self::Body(RTM_NEWROUTE),
        Self::Body(RTM_DELROUTE),
        Self::Body(RTM_NEWRULE),
        Self::Body(RTM_DELRULE),
        Self::Body(RTM_NEWNETCONF),
        Self::Body(RTM_NEWNSID),
        Self::Body(RTM_DELNSID),
        Self::Body(RTM_NEWNEXTHOP),
        Self::Body(RTM_DELNEXTHOP),
    ];
}

/// All that was made of an answer.
#[derive(Default)]
pub struct Read {
    pub messages: usize,
    pub links: Vec<Link>,
    pub addresses: Vec<Address>,
    pub routes: Vec<Route>,
    /// And what the kernel would read of it if it were sent back.
    pub rules: Vec<(Rule, Option<Rule>)>,
    pub ids: Vec<Nsid>,
    /// Of nexthop objects.
    pub routers: Vec<IpAddr>,
    pub events: Vec<Event>,
    /// The kernel's own words, where there are any.
    pub refusals: Vec<Option<String>>,
}

/// Reads an answer as every caller would who waits for one of its type.
pub fn read(answer: Answer, bytes: &[u8]) -> Read {
    let mut read = Read::default();
    match answer {
        Answer::Datagram => {
            for message in messages(bytes) {
                let kind = message.message_type();
                if matches!(kind, NLMSG_ERROR | NLMSG_DONE) {
                    read.messages += 1;
                    read.refusals
                        .extend(refusal(&message).map(|(_, text)| text));
                } else {
                    read.body(kind, message.payload());
                }
            }
        }
        Answer::Body(kind) => read.body(kind, bytes),
    }
    read
}

impl Read {
    fn body(&mut self, kind: u16, body: &[u8]) {
        self.messages += 1;
        match kind {
            RTM_NEWLINK => self.links.extend(Link::parse(body)),
            RTM_NEWADDR => self.addresses.extend(Address::parse(body)),
            RTM_NEWROUTE => self.routes.extend(Route::parse(body)),
            RTM_NEWRULE => self.rules.extend(Rule::parse(body).map(|rule| {
                let again = sent_back(&rule);
                (rule, again)
            })),
            RTM_NEWNSID => self.ids.extend(nsid::parse(body)),
            RTM_NEWNEXTHOP => self.routers.extend(nexthop::gateway(body)),
            _ => {}
        }
        self.events.extend(monitor::parse(kind, body, None));
    }
}

fn sent_back(rule: &Rule) -> Option<Rule> {
    let message = rule.message();
    let mut bytes = vec![0; message.buffer_len()];
    message.emit(&mut bytes);
    Rule::parse(&bytes)
}
