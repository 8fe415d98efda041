//! Whose routes count, and where they may lead: by the parent, by another interface, in a circle.

use std::io::ErrorKind;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use ipvlan_tests::packet::{ethernet, ethertype, mac_text};
use ipvlan_tests::places::is_complaint;
use ipvlan_tests::sniff::Sender;
use ipvlan_tests::traffic::Ear;
use ipvlan_tests::{
    Backend, LAN4, Mode, Net, Ns, PATIENCE, Seen, Sniffer, cable, differs, eventually, packet,
};

/// Addresses of the Internet, which nobody here has: RFC 5737, RFC 3849.
const FAR4: Ipv4Addr = Ipv4Addr::new(203, 0, 113, 9);
const FAR6: Ipv6Addr = Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 9);
/// Two more routers on the wire, of whom only the MAC address is known.
const ROUTERS: [(&str, &str); 2] = [("253", "02:00:00:00:02:53"), ("252", "02:00:00:00:02:52")];

/// Gives the host two more routers and another interface, `other0`, with a third.
fn more_routers(net: &Net) -> Ns {
    let other = net.namespace("other");
    cable((&net.host, "other0"), (&other, "far0"), 5);
    net.host.batch(
        "neigh add 10.5.0.254 lladdr 02:00:00:00:05:fe dev other0 nud permanent\n\
         neigh add fd05::254 lladdr 02:00:00:00:05:fe dev other0 nud permanent\n",
    );
    for (last, mac) in ROUTERS {
        net.host.batch(&format!(
            "neigh add 10.1.0.{last} lladdr {mac} dev eth0 nud permanent\n\
             neigh add fd00::{last} lladdr {mac} dev eth0 nud permanent\n"
        ));
    }
    other
}

/// Sends a word to each address and tells what the wire hears of it: the MAC address to which it
/// goes, or `asked` if the host looks for its owner there, or nothing.
fn next_hops(net: &Net, other: &Sniffer, to: &[IpAddr]) -> Vec<String> {
    let wire = Sniffer::on(&net.lan, "lan0");
    let dev = net.dev(0);
    let own = net.mac();
    let sender = Sender::on(&dev.ns, &dev.name);
    for (number, to) in to.iter().enumerate() {
        let word = format!("<{number}>");
        let frame = match to {
            IpAddr::V4(to) => {
                let packet = packet::udp4(dev.v4, *to, 9, word.as_bytes());
                ethernet(own, own, ethertype::IPV4, &packet)
            }
            IpAddr::V6(to) => {
                let packet = packet::udp6(dev.v6, *to, 9, word.as_bytes());
                ethernet(own, own, ethertype::IPV6, &packet)
            }
        };
        let _: Result<(), _> = sender.try_send(&frame);
    }
    let seen = wire.heard();
    let elsewhere = other.heard();
    let what = |(number, to): (usize, &IpAddr)| {
        let word = format!("<{number}>");
        let has = |seen: &&Seen| seen.contains(word.as_bytes()) && !is_complaint(seen);
        if elsewhere.iter().any(|seen| has(&seen)) {
            return "elsewhere".to_owned();
        }
        if let Some(seen) = seen.iter().find(has) {
            return mac_text(seen.destination());
        }
        let asks = |seen: &Seen| match to {
            IpAddr::V4(to) => seen.ethertype() == ethertype::ARP && seen.contains(&to.octets()),
            IpAddr::V6(to) => seen.ethertype() == ethertype::IPV6 && seen.contains(&to.octets()),
        };
        if seen.iter().any(|seen| asks(seen) && !is_complaint(seen)) {
            "asked".to_owned()
        } else {
            "lost".to_owned()
        }
    };
    to.iter().enumerate().map(what).collect()
}

#[test]
fn routes_of_the_host_count_in_l3_if_they_are_the_parent_s() {
    routes_of_the_host_count(Mode::L3);
}

#[test]
fn routes_of_the_host_count_in_l3s() {
    routes_of_the_host_count(Mode::L3s);
}

fn routes_of_the_host_count(mode: Mode) {
    let net = Net::new(mode).devices(1).build();
    let other = Sniffer::on(&more_routers(&net), "far0");
    let to = |last: u8| IpAddr::from(Ipv4Addr::new(203, 0, 113, last));
    let all: Vec<IpAddr> = (1..=7).map(to).collect();
    // No route at all, and routes that forbid: as if it were on the wire.
    net.host.batch(
        "route add blackhole 203.0.113.2\n\
         route add unreachable 203.0.113.3\n\
         route add prohibit 203.0.113.4\n\
         route add 203.0.113.5 via 10.5.0.254\n\
         route add 203.0.113.6 via 10.1.0.253\n\
         route add 203.0.113.7 via 10.1.0.252 metric 5\n\
         route add 203.0.113.7 via 10.5.0.254 metric 1\n",
    );
    let [r253, r252] = ROUTERS.map(|(_, mac)| mac);
    // Ours forwards in l3s, by whatever route the host has.
    let mine = |ours, driver| match mode {
        Mode::L3s => differs("l3s-forwarding", ours, driver),
        Mode::L2 | Mode::L3 => driver,
    };
    let (none, other_nic) = (mine("lost", "asked"), mine("elsewhere", "asked"));
    let best = mine("elsewhere", r252);
    assert_eq!(
        next_hops(&net, &other, &all),
        [none, none, none, none, other_nic, r253, best]
    );
    // A gateway of the parent's is better than none, also where another interface's route is longer.
    net.host.batch("route add default via 10.1.0.253\n");
    let other_nic = mine("elsewhere", r253);
    assert_eq!(
        next_hops(&net, &other, &all),
        [r253, none, none, none, other_nic, r253, best]
    );
}

#[test]
fn routes_of_the_host_count_in_l3_for_ipv6_too() {
    routes_of_the_host_count_for_ipv6(Mode::L3);
}

#[test]
fn routes_of_the_host_count_in_l3s_for_ipv6_too() {
    routes_of_the_host_count_for_ipv6(Mode::L3s);
}

fn routes_of_the_host_count_for_ipv6(mode: Mode) {
    let net = Net::new(mode).devices(1).build();
    let other = Sniffer::on(&more_routers(&net), "far0");
    let to = |last: u16| IpAddr::from(Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, last));
    let all: Vec<IpAddr> = (1..=7).map(to).collect();
    net.host.batch(
        "route add blackhole 2001:db8::2\n\
         route add unreachable 2001:db8::3\n\
         route add prohibit 2001:db8::4\n\
         route add 2001:db8::5 via fd05::254\n\
         route add 2001:db8::6 via fd00::253\n\
         route add 2001:db8::7 via fd00::252 metric 5\n\
         route add 2001:db8::7 via fd05::254 metric 1\n",
    );
    let [r253, _] = ROUTERS.map(|(_, mac)| mac);
    // The parent is only a wish: where the host's best route is another's, the driver goes there.
    let away = match mode {
        Mode::L3s => "elsewhere",
        Mode::L2 | Mode::L3 => differs("l3-other-nic6", "lost", "elsewhere"),
    };
    assert_eq!(
        next_hops(&net, &other, &all),
        ["lost", "lost", "lost", "lost", away, r253, away]
    );
    net.host.batch("route add ::/0 via fd00::253\n");
    let found = next_hops(&net, &other, &all);
    assert_eq!(found, [r253, "lost", "lost", "lost", away, r253, away]);
}

#[test]
fn an_application_in_l3_hears_of_a_missing_route_for_ipv6_only() {
    let net = Net::new(Mode::L3).devices(1).build();
    let dev = net.dev(0);
    let out = Ear::on(&dev.ns, FAR4.into()).try_say(FAR4.into(), 0, b"far");
    assert!(
        out.is_ok(),
        "IPv4 without a route is looked for on the wire: {out:?}"
    );
    let out = Ear::on(&dev.ns, FAR6.into()).try_say(FAR6.into(), 0, b"far");
    let out = out.map_err(|why| why.kind());
    let told = differs("l3-no-route6", Ok(()), Err(ErrorKind::NetworkUnreachable));
    assert_eq!(out, told);
    if !Backend::is_ours() {
        return;
    }
    // Where it is counted at last; the driver's device has counted it as dropped.
    let lost = || {
        let text = net
            .host
            .enter(|| std::fs::read_to_string("/proc/thread-self/net/snmp6"));
        let text = text.expect("a file of the kernel");
        let line = text.lines().find(|line| line.starts_with("Ip6OutNoRoutes"));
        let count = line.and_then(|line| line.split_whitespace().nth(1)?.parse::<u64>().ok());
        count.expect("a counter")
    };
    assert!(eventually(PATIENCE, || lost() > 0), "the host counts it");
}

#[test]
fn policy_routes_of_the_host_count_in_l3() {
    let net = Net::new(Mode::L3).devices(2).build();
    let other = Sniffer::on(&more_routers(&net), "far0");
    let [r253, r252] = ROUTERS.map(|(_, mac)| mac);
    net.host.batch(
        "route add default via 10.1.0.252\n\
         route add ::/0 via fd00::252\n\
         route add default via 10.1.0.253 table 7\n\
         route add ::/0 via fd00::253 table 7\n",
    );
    let all = [FAR4.into(), FAR6.into()];
    assert_eq!(next_hops(&net, &other, &all), [r252, r252]);
    let dev = net.dev(0);
    for (family, rule) in [
        ("-4", format!("from {}", dev.v4)),
        ("-6", format!("from {}", dev.v6)),
    ] {
        net.host.sh(&format!("ip {family} rule add {rule} table 7"));
    }
    assert_eq!(
        next_hops(&net, &other, &all),
        [r253, r253],
        "the source counts"
    );
    for family in ["-4", "-6"] {
        net.host.sh(&format!("ip {family} rule del table 7"));
        net.host
            .sh(&format!("ip {family} rule add fwmark 7 table 7"));
    }
    // A mark does not cross the border of a namespace.
    let wire = Sniffer::on(&net.lan, "lan0");
    for to in ["203.0.113.9", "2001:db8::9"] {
        let _: bool = dev
            .ns
            .try_sh(&format!("ping -n -q -m 7 -c 1 -W 0.2 {to}"))
            .ok();
    }
    let out: Vec<String> = wire
        .heard()
        .iter()
        .map(|seen| mac_text(seen.destination()))
        .collect();
    assert!(out.iter().any(|mac| mac == r252), "{out:?}");
    assert!(!out.iter().any(|mac| mac == r253), "{out:?}");
}

#[test]
fn marks_count_in_l3_where_there_is_no_border() {
    let mut net = Net::new(Mode::L3).build();
    let line = "link add link eth0 name ipvl9 type ipvlan mode l3";
    net.ip(&net.host, line).expect_quiet();
    net.host.batch(
        "link set ipvl9 up\n\
         addr add 10.2.9.1/24 dev ipvl9\n\
         route add 203.0.113.9 dev ipvl9\n\
         neigh add 10.1.0.253 lladdr 02:00:00:00:02:53 dev eth0 nud permanent\n\
         route add default via 10.1.0.253 table 7\n\
         rule add fwmark 7 table 7\n",
    );
    let wire = Sniffer::on(&net.lan, "lan0");
    let found = eventually(PATIENCE, || {
        let _: bool = net
            .host
            .try_sh("ping -n -q -m 7 -c 1 -W 0.2 -I ipvl9 203.0.113.9")
            .ok();
        wire.heard()
            .iter()
            .any(|seen| mac_text(seen.destination()) == ROUTERS[0].1)
    });
    assert!(found, "by the router of table 7");
    net.devices.clear();
}

#[test]
fn a_route_that_leads_back_into_a_device_ends() {
    // The host routes the Internet by a device, whose namespace routes it to the host.
    let net = Net::new(Mode::L2).devices(2).build();
    let own = mac_text(net.mac());
    let [a, b] = [net.dev(0), net.dev(1)];
    a.ns.batch(&format!(
        "neigh replace 10.1.0.1 lladdr {own} dev ipvl0 nud permanent\n\
         route add {FAR4} via 10.1.0.1\n"
    ));
    // Ours lead into a device by its host end, the driver's by a device in the host's namespace.
    let into = if Backend::is_ours() {
        let found = net
            .host
            .links()
            .into_iter()
            .find(|name| name.starts_with("ipvh"));
        found.expect("a host end")
    } else {
        let line = "link add link eth0 name ipvl9 type ipvlan mode l2";
        net.ip(&net.host, line).expect_quiet();
        net.host.sh("ip link set ipvl9 up");
        "ipvl9".to_owned()
    };
    net.host.batch(&format!(
        "neigh add 10.1.9.9 lladdr {own} dev {into} nud permanent\n\
         route add {FAR4} via 10.1.9.9 dev {into} onlink\n"
    ));
    for ns in [&net.host, &a.ns] {
        ns.sysctl("net/ipv4/ip_forward", "1");
        ns.sysctl("net/ipv4/conf/all/rp_filter", "0");
        ns.sysctl("net/ipv4/conf/all/send_redirects", "0");
    }
    let rounds = Sniffer::on(&net.host, "eth0");
    let packet = packet::udp4(a.v4, FAR4, 9, b"<round>");
    Sender::on(&a.ns, "ipvl0").send(&ethernet(net.mac(), net.mac(), ethertype::IPV4, &packet));
    let seen = rounds
        .heard()
        .iter()
        .filter(|seen| seen.contains(b"<round>"))
        .count();
    assert!(
        (1..=64).contains(&seen),
        "as often as the TTL allows: {seen}"
    );
    for address in [LAN4.to_string(), b.v4.to_string()] {
        assert!(a.ns.reaches(&address), "{address} is reached after it");
    }
}

#[test]
fn a_rule_that_reroutes_into_a_device_ends() {
    // Each time that the host sends the packet its mark changes, so it is routed again, by the device.
    let net = Net::new(Mode::L3).devices(1).build();
    let line = "link add link eth0 name ipvl9 type ipvlan mode l3";
    net.ip(&net.host, line).expect_quiet();
    net.host.batch(&format!(
        "link set ipvl9 up\n\
         addr add 10.2.9.1/24 dev ipvl9\n\
         route add default dev ipvl9 table 7\n\
         route add {FAR4} via 10.1.0.254\n\
         rule add to {FAR4} table 7\n"
    ));
    for line in [
        "add table ip again",
        "add chain ip again out { type route hook output priority mangle; }",
        "add rule ip again out ip daddr 203.0.113.9 meta mark set meta mark xor 1",
    ] {
        let _: String = net.host.try_run(&["nft", line]).expect();
    }
    for _ in 0..3 {
        let _: bool = net
            .host
            .try_sh(&format!("ping -n -q -c 1 -W 0.2 {FAR4}"))
            .ok();
    }
    assert!(
        net.dev(0).ns.reaches(&LAN4.to_string()),
        "all is well after it"
    );
}
