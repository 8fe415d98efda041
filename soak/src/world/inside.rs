//! How a namespace is configured: what all have in common, and for each device in it addresses, and
//! routes of its own.

use std::collections::BTreeSet;
use std::net::IpAddr;

use ipvlan_tests::{Done, Ns};

use super::Outcome;
use crate::model::Number;

/// What all namespaces have in common.
pub(super) fn prepare(ns: &Ns) {
    for (name, value) in [
        ("net/ipv4/ping_group_range", "0 2147483647"),
        // The second address of a subnet stays when the first one goes.
        ("net/ipv4/conf/all/promote_secondaries", "1"),
        ("net/ipv4/conf/all/rp_filter", "0"),
        ("net/ipv4/conf/default/rp_filter", "0"),
        // Who waits for the third step of a handshake keeps a dead namespace alive, for half a minute.
        ("net/ipv4/tcp_synack_retries", "1"),
        // Nothing says so, but nothing may come back either.
        ("net/ipv4/ip_forward", "0"),
    ] {
        ns.sysctl(name, value);
    }
}

/// Up, with a routing table of its own. Of several devices in a namespace each sends with its own
/// addresses only: the answer to an ARP request goes to the device that owns who asks.
pub(super) fn up(ns: &Ns, name: &str, device: Number, addresses: &BTreeSet<IpAddr>) -> Outcome {
    let table = table(device);
    // Left over from when it was here before.
    for family in [4, 6] {
        let _: bool = ns
            .try_sh(&format!("ip -{family} rule flush table {table}"))
            .ok();
    }
    ns.hurry(name);
    // All is on-link; in l3 that is as good as any other route.
    let lines = format!(
        "link set {name} up\n\
         route add 10.1.0.0/24 dev {name} table {table}\n\
         route add 10.2.0.0/16 dev {name} table {table}\n\
         route add fd00::/64 dev {name} table {table}\n\
         route add fd02::/64 dev {name} table {table}\n"
    );
    let mut done = ns.try_batch(&lines);
    for address in addresses {
        if done.ok() {
            done = rule(ns, "add", device, *address);
        }
    }
    done.into()
}

pub(super) fn give(ns: &Ns, name: &str, device: Number, address: IpAddr) -> Outcome {
    let table = table(device);
    let lines = match address {
        // When the last address of IPv4 went the kernel took the routes with it.
        IpAddr::V4(_) => format!(
            "addr add {address}/16 dev {name}\n\
             route replace 10.1.0.0/24 dev {name} table {table}\n\
             route replace 10.2.0.0/16 dev {name} table {table}\n"
        ),
        IpAddr::V6(_) => format!("addr add {address}/64 dev {name} nodad\n"),
    };
    let done = ns.try_batch(&lines);
    match done.ok() {
        true => rule(ns, "add", device, address).into(),
        false => done.into(),
    }
}

pub(super) fn take(ns: &Ns, name: &str, device: Number, address: IpAddr) -> Outcome {
    let length = if address.is_ipv4() { 16 } else { 64 };
    let done = ns.try_sh(&format!("ip addr del {address}/{length} dev {name}"));
    match done.ok() {
        true => rule(ns, "del", device, address).into(),
        false => done.into(),
    }
}

/// That the device sends what comes from this address.
fn rule(ns: &Ns, verb: &str, device: Number, address: IpAddr) -> Done {
    let family = if address.is_ipv4() { 4 } else { 6 };
    let table = table(device);
    ns.try_sh(&format!(
        "ip -{family} rule {verb} from {address} lookup {table}"
    ))
}

/// Number of the device's routing table.
fn table(device: Number) -> usize {
    1000 + device
}
