//! What a device sends, and what becomes of it on its way out: which bytes change, whose routes and
//! neighbours count, what the host's rules see of it.

#![expect(
    clippy::expect_used,
    reason = "clippy knows a test by its attribute, not the functions beside it"
)]

use std::io::ErrorKind;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, UdpSocket};

use ipvlan_tests::packet::{
    self, BROADCAST, FORGED, checksum, ethernet, ethertype, fragment_header, mac_text, next,
};
use ipvlan_tests::places::is_complaint;
use ipvlan_tests::sniff::Sender;
use ipvlan_tests::traffic::{Ear, PORT};
use ipvlan_tests::{Backend, Mode, Net, Ns, PATIENCE, Places, Seen, Sniffer, differs, eventually};
use nix::sys::socket::{setsockopt, sockopt};

const HOST4: Ipv4Addr = Ipv4Addr::new(10, 1, 0, 1);
const LAN4: Ipv4Addr = Ipv4Addr::new(10, 1, 0, 254);
const LAN6: Ipv6Addr = Ipv6Addr::new(0xfd00, 0, 0, 0, 0, 0, 0, 0x254);
/// Addresses of the Internet, which nobody here has: RFC 5737, RFC 3849.
const FAR4: Ipv4Addr = Ipv4Addr::new(203, 0, 113, 9);
const FAR6: Ipv6Addr = Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 9);
/// Two more routers on the wire, of whom only the MAC address is known.
const ROUTERS: [(&str, &str); 2] = [("253", "02:00:00:00:02:53"), ("252", "02:00:00:00:02:52")];

/// A header with some of its bytes changed and its checksum right again.
fn ipv4_with(mut packet: Vec<u8>, change: impl FnOnce(&mut [u8])) -> Vec<u8> {
    change(&mut packet);
    let header = usize::from(packet[0] & 15) * 4;
    packet[10..12].fill(0);
    let sum = checksum(&[&packet[..header]]);
    packet[10..12].copy_from_slice(&sum);
    packet
}

/// The packet behind the Ethernet header of the only frame in which `word` is.
#[track_caller]
fn only(seen: &[Seen], word: &[u8], what: &str) -> Seen {
    let mut of_word = seen.iter().filter(|seen| seen.contains(word));
    let first = of_word.next().cloned();
    assert_eq!(of_word.next(), None, "{what}: once");
    first.unwrap_or_else(|| panic!("{what} is on the wire"))
}

/// Packets that a careful router would not send on like this.
fn odd_packets(net: &Net) -> Vec<(&'static str, Vec<u8>)> {
    let dev = net.dev(0);
    let word = |name: &'static str| [b"<", name.as_bytes(), b">"].concat();
    let v4 = |name, change: &dyn Fn(&mut [u8])| {
        let packet = packet::udp4(dev.v4, LAN4, 9, &word(name));
        (name, ipv4_with(packet, |bytes| change(bytes)))
    };
    let v6 = |name, change: &dyn Fn(&mut [u8])| {
        let mut packet = packet::udp6(dev.v6, LAN6, 9, &word(name));
        change(&mut packet);
        (name, packet)
    };
    let name = "options";
    let mut options = packet::udp4(dev.v4, LAN4, 9, &word(name));
    // Router alert, RFC 2113, and padding.
    let more = [0x94, 4, 0, 0, 1, 1, 1, 1, 1, 1, 1, 0];
    options[0] = 0x45 + 3;
    let total = u16::try_from(options.len() + more.len()).expect("short");
    options[2..4].copy_from_slice(&total.to_be_bytes());
    drop(options.splice(20..20, more));
    let options = (name, ipv4_with(options, |_| ()));
    let name = "fragment 6";
    let rest = [&fragment_header(next::UDP, 1400, false)[..], &word(name)].concat();
    let fragment6 = (name, packet::ipv6(dev.v6, LAN6, next::FRAGMENT, &rest));
    let name = "hop by hop";
    let udp = packet::udp6(dev.v6, LAN6, 9, &word(name));
    let rest = [&packet::padding_header(next::UDP, 1)[..], &udp[40..]].concat();
    let headers = (name, packet::ipv6(dev.v6, LAN6, next::HOP_BY_HOP, &rest));
    vec![
        v4("one hop", &|bytes| bytes[8] = 1),
        v4("source", &|bytes| {
            // So that the UDP checksum stays right, the ports take what the address has lost.
            bytes[12..16].copy_from_slice(&[1, 2, 3, 4]);
        }),
        v4("class", &|bytes| bytes[1] = 0xb8),
        v4("congestion", &|bytes| bytes[1] = 0x03),
        v4("identity", &|bytes| {
            bytes[4..6].copy_from_slice(&[0x12, 0x34])
        }),
        // A fragment in the middle: no ports to look at.
        v4("fragment", &|bytes| {
            bytes[6..8].copy_from_slice(&[0x20, 0xb9])
        }),
        v4("protocol", &|bytes| bytes[9] = 253),
        options,
        v6("one hop 6", &|bytes| bytes[7] = 1),
        v6("source 6", &|bytes| {
            bytes[8..10].copy_from_slice(&[0x20, 0x01])
        }),
        v6("class 6", &|bytes| {
            bytes[..4].copy_from_slice(&[0x6b, 0x8c, 0xde, 0xf0])
        }),
        v6("protocol 6", &|bytes| bytes[6] = 253),
        fragment6,
        headers,
    ]
}

fn packets_leave_as_they_are(mode: Mode) {
    let net = Net::new(mode).devices(2).build();
    let (own, lan) = (net.mac(), net.lan.mac("lan0"));
    // In l3 what the device writes into the Ethernet header means nothing.
    let macs = match mode {
        Mode::L2 => (lan, own),
        Mode::L3 | Mode::L3s => (FORGED, FORGED),
    };
    let wire = Sniffer::on(&net.lan, "lan0");
    let sender = Sender::on(&net.dev(0).ns, "ipvl0");
    let odd = odd_packets(&net);
    for (name, packet) in &odd {
        let kind = if packet[0] >> 4 == 4 {
            ethertype::IPV4
        } else {
            ethertype::IPV6
        };
        sender
            .try_send(&ethernet(macs.0, macs.1, kind, packet))
            .unwrap_or_else(|why| panic!("{mode}, {name}: {why}"));
    }
    let seen = wire.heard();
    // Ours forwards in l3s.
    let hops = u8::from(mode == Mode::L3s && differs("l3s-forwarding", true, false));
    for (name, packet) in &odd {
        let word = format!("<{name}>");
        let place = if packet[0] >> 4 == 4 { 8 } else { 7 };
        if packet[place] <= hops {
            let out = seen
                .iter()
                .find(|seen| seen.contains(word.as_bytes()) && !is_complaint(seen));
            assert_eq!(out, None, "{mode}, {name}: it has come to its end");
            continue;
        }
        let mut expected = packet.clone();
        expected[place] -= hops;
        if place == 8 {
            expected = ipv4_with(expected, |_| ());
        }
        let out = only(&seen, word.as_bytes(), &format!("{mode}: {name}"));
        let ends = (out.destination(), out.source());
        assert_eq!(
            ends,
            (lan, own),
            "{mode}, {name}: from the parent to the router"
        );
        assert_eq!(out.bytes[14..], expected[..], "{mode}, {name}: as it was");
    }
}

#[test]
fn packets_leave_as_they_are_in_l3s() {
    packets_leave_as_they_are(Mode::L3s);
}

#[test]
fn packets_leave_as_they_are_in_l2() {
    packets_leave_as_they_are(Mode::L2);
}

#[test]
fn packets_leave_as_they_are_in_l3() {
    packets_leave_as_they_are(Mode::L3);
}

#[test]
fn a_packet_that_contradicts_itself_in_l3() {
    let net = Net::new(Mode::L3).devices(1).build();
    let wire = Sniffer::on(&net.lan, "lan0");
    let sender = Sender::on(&net.dev(0).ns, "ipvl0");
    let send = |word: &[u8], change: fn(&mut Vec<u8>)| {
        let mut packet = packet::udp4(net.dev(0).v4, LAN4, 9, word);
        change(&mut packet);
        let frame = ethernet(net.mac(), net.mac(), ethertype::IPV4, &packet);
        let _: Result<(), _> = sender.try_send(&frame);
    };
    send(b"<well>", |_| ());
    let seen = wire.find(PATIENCE, |seen| seen.contains(b"<well>"));
    assert!(seen.is_some(), "a sign of life");
    send(b"<header>", |packet| packet[0] = 0x44);
    send(b"<version>", |packet| packet[0] = 0x55);
    let seen = wire.heard();
    let leaves = differs("l3-malformed", false, true);
    for word in [&b"<header>"[..], b"<version>"] {
        let found = seen.iter().any(|seen| seen.contains(word));
        assert_eq!(found, leaves, "{}", String::from_utf8_lossy(word));
    }
}

#[test]
fn odd_frames_do_no_harm() {
    for mode in [Mode::L2, Mode::L3] {
        let net = Net::new(mode).devices(2).build();
        let (own, lan) = (net.mac(), net.lan.mac("lan0"));
        let [a, b] = [net.dev(0), net.dev(1)];
        let sender = Sender::on(&a.ns, "ipvl0");
        for frame in [&[0_u8; 6][..], &[0; 13]] {
            assert!(
                sender.try_send(frame).is_err(),
                "{mode}: the socket refuses a runt"
            );
        }
        for macs in [(lan, own), (own, own), (BROADCAST, own)] {
            for kind in [
                ethertype::IPV4,
                ethertype::IPV6,
                ethertype::ARP,
                ethertype::EXPERIMENT,
            ] {
                let packet = packet::udp4(a.v4, b.v4, 9, b"cut");
                for length in [0, 1, 10, 19, 20, 27] {
                    let frame = ethernet(macs.0, macs.1, kind, &packet[..length]);
                    let _: Result<(), _> = sender.try_send(&frame);
                }
            }
        }
        // Past the queue of the device, with its header in pages.
        let bypass = Sender::bypassing(&a.ns, "ipvl0");
        let places = Places::of(&net);
        let packet = packet::udp4(a.v4, b.v4, 9, b"<sibling>");
        bypass.send(&ethernet(own, own, ethertype::IPV4, &packet));
        let packet = packet::udp4(a.v4, LAN4, 9, b"<LAN>");
        bypass.send(&ethernet(lan, own, ethertype::IPV4, &packet));
        let heard = places.hear();
        assert_eq!(heard.of_word(b"<sibling>").to_string(), "ipvl1", "{mode}");
        assert_eq!(heard.of_word(b"<LAN>").to_string(), "wire", "{mode}");
    }
}

#[test]
fn forged_mac_addresses_in_l2() {
    let net = Net::new(Mode::L2).devices(2).build();
    let (own, lan) = (net.mac(), net.lan.mac("lan0"));
    let [a, b] = [net.dev(0), net.dev(1)];
    let places = Places::of(&net);
    let sender = Sender::on(&a.ns, "ipvl0");
    let frames = [
        ("<own>", own, FORGED, b.v4),
        ("<equal>", FORGED, FORGED, b.v4),
        ("<out>", lan, FORGED, LAN4),
    ];
    for (word, destination, source, to) in frames {
        let packet = packet::udp4(a.v4, to, 9, word.as_bytes());
        sender.send(&ethernet(destination, source, ethertype::IPV4, &packet));
    }
    let heard = places.hear();
    let found = frames.map(|(word, ..)| heard.of_word(word.as_bytes()).to_string());
    let found = found.each_ref().map(|place| &**place);
    let ours = differs(
        "own-destination",
        ["ipvl1", "wire", "wire"],
        ["wire", "ipvl1", "wire"],
    );
    assert_eq!(found, ours);
    let sources: Vec<_> = heard
        .wire
        .iter()
        .filter(|seen| seen.contains(b"<out>"))
        .map(Seen::source)
        .collect();
    assert_eq!(sources, [differs("one-mac", own, FORGED)]);
}

/// Gives the host two more routers and another interface, `other0`, with a third.
fn more_routers(net: &Net) -> Ns {
    let other = net.namespace("other");
    net.host.batch(&format!(
        "link add other0 type veth peer name far0 netns {}\n\
         link set other0 up\n\
         addr add 10.5.0.1/24 dev other0\n\
         addr add fd05::1/64 dev other0 nodad\n\
         neigh add 10.5.0.254 lladdr 02:00:00:00:05:fe dev other0 nud permanent\n\
         neigh add fd05::254 lladdr 02:00:00:00:05:fe dev other0 nud permanent\n",
        other.name()
    ));
    other.sh("ip link set far0 up");
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

/// How often each hook of the host saw a datagram to [`PORT`] since the last call: prerouting, input,
/// forward, output, postrouting.
struct Hooks<'a>(&'a Ns);

const HOOKS: [&str; 5] = ["prerouting", "input", "forward", "output", "postrouting"];

impl<'a> Hooks<'a> {
    fn on(ns: &'a Ns) -> Self {
        ns.sh("nft add table inet seen");
        for hook in HOOKS {
            let chain = format!(
                "add counter inet seen n-{hook}; \
                 add chain inet seen {hook} {{ type filter hook {hook} priority 0; }}; \
                 add rule inet seen {hook} udp dport {PORT} counter name n-{hook}"
            );
            let _: String = ns.try_run(&["nft", &chain]).expect();
        }
        Self(ns)
    }

    fn take(&self) -> [u64; 5] {
        let text = self.0.read("nft reset counters table inet seen");
        HOOKS.map(|hook| {
            let count = text
                .split(&format!("counter n-{hook} "))
                .nth(1)
                .and_then(|rest| rest.split("packets ").nth(1))
                .and_then(|rest| rest.split_whitespace().next()?.parse().ok());
            count.unwrap_or_else(|| panic!("a counter: {text}"))
        })
    }
}

#[test]
fn rules_of_the_host_see_what_they_see_in_l2() {
    let net = Net::new(Mode::L2).devices(2).build();
    let own = mac_text(net.mac());
    net.dev(0).ns.sh(&format!(
        "ip neigh replace 10.1.0.1 lladdr {own} dev ipvl0 nud permanent"
    ));
    let hooks = Hooks::on(&net.host);
    let none = [0; 5];
    walk_through_hooks(&net, &hooks, [none, none, none, [1, 1, 0, 0, 0]]);
}

#[test]
fn rules_of_the_host_see_what_they_see_in_l3() {
    let net = Net::new(Mode::L3).devices(2).build();
    let none = [0; 5];
    let out = differs("l3-output", none, [0, 0, 0, 1, 1]);
    // The driver's devices send it by the host's lo.
    let host = differs("l3-host", [1, 1, 0, 0, 0], [1, 1, 0, 1, 1]);
    walk_through_hooks(&net, &Hooks::on(&net.host), [none, out, none, host]);
}

#[test]
fn rules_of_the_host_see_what_they_see_in_l3s() {
    let net = Net::new(Mode::L3s).devices(2).build();
    let none = [0; 5];
    let out = differs("l3s-forwarding", [1, 0, 1, 0, 1], [0, 0, 0, 1, 1]);
    let back = differs("l3s-forwarding", [1, 0, 1, 0, 1], [1, 1, 0, 0, 0]);
    let host = differs("l3-host", [1, 1, 0, 0, 0], [1, 1, 0, 1, 1]);
    walk_through_hooks(&net, &Hooks::on(&net.host), [back, out, none, host]);
}

/// From the wire to a device, to the wire, to a sibling, to the host.
#[track_caller]
fn walk_through_hooks(net: &Net, hooks: &Hooks<'_>, expected: [[u64; 5]; 4]) {
    let [a, b] = [net.dev(0), net.dev(1)];
    let paths = [
        ("to a device", &net.lan, &a.ns, a.v4),
        ("to the wire", &a.ns, &net.lan, LAN4),
        ("to a sibling", &a.ns, &b.ns, b.v4),
        ("to the host", &a.ns, &net.host, HOST4),
    ];
    for ((what, from, to, address), expected) in paths.into_iter().zip(expected) {
        let ear = Ear::on(to, address.into());
        let _: [u64; 5] = hooks.take();
        Ear::on(from, address.into()).say(address.into(), 0, what.as_bytes());
        let heard = ear.hears(what.as_bytes(), PATIENCE);
        assert!(heard.is_some(), "{}: {what}", net.mode);
        assert_eq!(hooks.take(), expected, "{}: {what}: {HOOKS:?}", net.mode);
    }
}

fn masqueraded(mode: Mode) -> (Net, Option<IpAddr>, bool) {
    let net = Net::new(mode).devices(1).build();
    for line in [
        "add table ip nat",
        "add chain ip nat out { type nat hook postrouting priority 100; }",
        "add rule ip nat out oifname eth0 masquerade",
    ] {
        let _: String = net.host.try_run(&["nft", line]).expect();
    }
    let ear = Ear::on(&net.lan, LAN4.into());
    Ear::on(&net.dev(0).ns, LAN4.into()).say(LAN4.into(), 0, b"who");
    let from = ear.hears(b"who", PATIENCE);
    let answered = net.dev(0).ns.answers(&LAN4.to_string());
    (net, from, answered)
}

#[test]
fn the_host_masquerades_in_l3s_only() {
    let (net, from, answered) = masqueraded(Mode::L2);
    assert_eq!((from, answered), (Some(net.dev(0).v4.into()), true), "l2");
    let (net, from, answered) = masqueraded(Mode::L3);
    let own = net.dev(0).v4;
    // The answer to the driver's is for the host, which knows nothing of it.
    let there = differs("l3-output", (own, true), (HOST4, false));
    assert_eq!((from, answered), (Some(there.0.into()), there.1), "l3");
}

#[test]
fn the_host_masquerades_in_l3s() {
    let (_net, from, answered) = masqueraded(Mode::L3s);
    assert_eq!((from, answered), (Some(HOST4.into()), true), "l3s");
}

/// Packets in the classes of a queue at the parent: those that an application's priority chose, and
/// those that a filter chose by their mark.
fn at_the_parent_s_queue(net: &Net, ns: &Ns, interface: &str) -> [bool; 2] {
    // Classic BPF: the mark is at -4096 + 20.
    let by_mark = "4,32 0 0 4294963220,21 0 1 8,6 0 0 4294967295,6 0 0 0";
    for line in
        ["qdisc add dev eth0 root handle 1: htb default 1"]
            .into_iter()
            .map(str::to_owned)
            .chain([1, 7, 8].map(|class| {
                format!("class add dev eth0 parent 1: classid 1:{class} htb rate 1gbit")
            }))
    {
        net.host.sh(&format!("tc {line}"));
    }
    let words = [
        "tc", "filter", "add", "dev", "eth0", "parent", "1:", "protocol", "all", "bpf", "bytecode",
        by_mark, "flowid", "1:8",
    ];
    let _: String = net.host.try_run(&words).expect();
    let say = |priority: i32, mark: u32| {
        let socket = ns.enter(|| UdpSocket::bind("0.0.0.0:0")).expect("a socket");
        setsockopt(&socket, sockopt::Priority, &priority).expect("SO_PRIORITY");
        setsockopt(&socket, sockopt::Mark, &mark).expect("SO_MARK");
        let name = std::ffi::OsString::from(interface);
        setsockopt(&socket, sockopt::BindToDevice, &name).expect("SO_BINDTODEVICE");
        for _ in 0..3 {
            let _: usize = socket.send_to(b"class", (LAN4, PORT)).expect("sent");
        }
    };
    let ear = Ear::on(&net.lan, LAN4.into());
    say(0x1_0007, 0);
    say(0, 8);
    for _ in 0..6 {
        assert!(
            ear.hears(b"class", PATIENCE).is_some(),
            "{}: it arrives",
            net.mode
        );
    }
    // `tc -j` forgets the statistics of classes.
    let text = net.host.read("tc -s class show dev eth0");
    ["class htb 1:7 ", "class htb 1:8 "].map(|head| {
        let class = text
            .split(head)
            .nth(1)
            .and_then(|rest| rest.split("Sent ").nth(1));
        let packets = class.and_then(|rest| rest.split_whitespace().nth(2)?.parse::<u32>().ok());
        packets.unwrap_or_else(|| panic!("a class {head}: {text}")) >= 3
    })
}

#[test]
fn mark_and_priority_on_their_way_to_the_parent() {
    let net = Net::new(Mode::L2).devices(1).build();
    let dev = net.dev(0);
    let kept = differs("metadata", [false, false], [true, true]);
    assert_eq!(at_the_parent_s_queue(&net, &dev.ns, "ipvl0"), kept, "l2");
    let net = Net::new(Mode::L3).devices(1).build();
    let dev = net.dev(0);
    let kept = differs("metadata", [false, false], [true, false]);
    assert_eq!(at_the_parent_s_queue(&net, &dev.ns, "ipvl0"), kept, "l3");
}

#[test]
fn mark_and_priority_where_there_is_no_border() {
    let net = Net::new(Mode::L3).build();
    let line = "link add link eth0 name ipvl9 type ipvlan mode l3";
    net.ip(&net.host, line).expect_quiet();
    net.host.batch(
        "link set ipvl9 up\naddr add 10.2.9.1/24 dev ipvl9\nroute add 10.1.0.254 dev ipvl9\n",
    );
    net.lan.sh("ip neigh flush all");
    // Until the agent has seen the address.
    assert!(
        eventually(PATIENCE, || net.lan.answers("10.2.9.1")),
        "the device is there"
    );
    let kept = differs("metadata", [false, true], [true, true]);
    assert_eq!(at_the_parent_s_queue(&net, &net.host, "ipvl9"), kept);
}

#[test]
fn all_nodes_answer_a_ping_in_l2() {
    let net = Net::new(Mode::L2).devices(3).build();
    let done = net
        .dev(0)
        .ns
        .try_sh("ping -n -c 2 -i 0.3 -W 1 ff02::1%ipvl0");
    let answered = |ns: &Ns, interface: &str| {
        let text = ns.read(&format!("ip -6 -o addr show dev {interface}"));
        let own = text
            .split_whitespace()
            .filter_map(|word| word.split_once('/'));
        let answer = |address| format!("from {address}");
        own.map(|(address, _)| answer(address)).any(|answer| {
            let mut lines = done.stdout.lines();
            lines.any(|line| {
                line.contains(&format!("{answer}:")) || line.contains(&format!("{answer}%"))
            })
        })
    };
    for dev in &net.devices[1..] {
        assert!(answered(&dev.ns, &dev.name), "a sibling: {done:?}");
    }
    assert!(answered(&net.lan, "lan0"), "the LAN: {done:?}");
    assert!(!answered(&net.host, "eth0"), "not the host: {done:?}");
}

#[test]
fn a_broadcast_of_the_host_is_for_the_wire() {
    let net = Net::new(Mode::L2).devices(2).build();
    let places = Places::of(&net);
    let frame = ethernet(
        BROADCAST,
        net.mac(),
        ethertype::EXPERIMENT,
        b"<from the host>",
    );
    Sender::on(&net.host, "eth0").send(&frame);
    assert_eq!(places.of_word(b"<from the host>").to_string(), "wire");
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
