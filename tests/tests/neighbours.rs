//! ARP and neighbour discovery: who is asked, who hears, who is warned of a duplicate.

use std::net::{Ipv4Addr, Ipv6Addr};
use std::time::Duration;

use ipvlan_tests::packet::{
    self, ALL_NODES, BROADCAST, ethernet, ethertype, icmpv6, ipv6, mac_text, nd, next,
};
use ipvlan_tests::sniff::Sender;
use ipvlan_tests::traffic::link_local;
use ipvlan_tests::{LAN4, LAN6, Mode, Net, PATIENCE, Seen, Sniffer, differs, eventually};

fn is_arp(seen: &Seen) -> bool {
    seen.ethertype() == ethertype::ARP
}

fn is_nd(kind: u8) -> impl Fn(&Seen) -> bool {
    move |seen| {
        seen.ethertype() == ethertype::IPV6
            && seen.bytes.get(20) == Some(&next::ICMPV6)
            && seen.bytes.get(54) == Some(&kind)
    }
}

#[test]
fn a_question_from_the_lan_is_for_the_owner_only() {
    let net = Net::new(Mode::L2).devices(3).build();
    let ears = net.ears();
    let reply = net.lan.read("arping -c 1 -w 5 -I lan0 10.1.0.11");
    assert!(
        reply.to_lowercase().contains(&mac_text(net.mac())),
        "the owner answers: {reply}"
    );
    net.lan.sh("ip neigh flush all");
    assert!(net.lan.reaches("fd00::11"), "the owner answers");
    assert!(
        ears[1]
            .find(PATIENCE, |seen| !seen.outgoing && is_arp(seen))
            .is_some(),
        "it was asked"
    );
    for other in [0, 2] {
        let heard = ears[other].heard();
        // The driver's filter takes some solicitations for groups that a device has joined.
        let solicited = heard.iter().any(is_nd(nd::NS));
        assert!(
            differs("question", !solicited, true),
            "ipvl{other} was not asked: {heard:?}"
        );
        assert_eq!(
            heard.iter().any(is_arp),
            differs("question", false, true),
            "whether ipvl{other} was asked: {heard:?}"
        );
    }
}

#[test]
fn an_announcement_is_for_all() {
    let net = Net::new(Mode::L2).devices(3).build();
    let ears = net.ears();
    let lan = net.lan.mac("lan0");
    let sender = Sender::on(&net.lan, "lan0");
    let target = Ipv4Addr::new(10, 1, 0, 200);
    for operation in [1, 2] {
        let payload = packet::arp(operation, (lan, target), ([0; 6], target));
        sender.send(&ethernet(BROADCAST, lan, ethertype::ARP, &payload));
        for (number, ears) in ears.iter().enumerate() {
            let found = ears.find(PATIENCE, |seen| {
                is_arp(seen) && seen.bytes[28..32] == target.octets()
            });
            assert!(
                found.is_some(),
                "ipvl{number} hears a gratuitous ARP, operation {operation}"
            );
        }
    }
    let about: Ipv6Addr = "fd00::200".parse().expect("it");
    let message = icmpv6(
        about,
        ALL_NODES,
        nd::NA,
        &nd::body(nd::NA, about, &nd::option(nd::TARGET, lan)),
    );
    let packet = ipv6(about, ALL_NODES, next::ICMPV6, &message);
    sender.send(&ethernet(
        nd::group_mac(ALL_NODES),
        lan,
        ethertype::IPV6,
        &packet,
    ));
    for (number, ears) in ears.iter().enumerate() {
        let found = ears.find(PATIENCE, is_nd(nd::NA));
        assert!(
            found.is_some(),
            "ipvl{number} hears an unsolicited advertisement"
        );
    }
}

#[test]
fn an_announcement_from_a_device_changes_what_others_know() {
    let net = Net::new(Mode::L2).devices(2).build();
    let entry = |address: &str| net.lan.neighbour(address);
    net.lan
        .sh("ip neigh replace 10.1.0.10 lladdr 02:00:00:00:00:01 dev lan0 nud stale");
    let _: bool = net
        .dev(0)
        .ns
        .try_sh("arping -U -c 1 -w 1 -I ipvl0 10.1.0.10")
        .ok();
    let mac = mac_text(net.mac());
    assert!(
        eventually(PATIENCE, || entry("10.1.0.10").contains(&mac)),
        "the LAN follows a gratuitous ARP: {}",
        entry("10.1.0.10")
    );
    // The sibling hears it, too.
    net.dev(1)
        .ns
        .sh("ip neigh replace 10.1.0.10 lladdr 02:00:00:00:00:01 dev ipvl1 nud stale");
    let _: bool = net
        .dev(0)
        .ns
        .try_sh("arping -U -c 1 -w 1 -I ipvl0 10.1.0.10")
        .ok();
    assert!(
        eventually(PATIENCE, || net
            .dev(1)
            .ns
            .neighbour("10.1.0.10")
            .contains(&mac)),
        "a sibling follows it: {}",
        net.dev(1).ns.neighbour("10.1.0.10")
    );
}

#[test]
fn questions_between_siblings_stay_inside() {
    let net = Net::new(Mode::L2).devices(2).build();
    let wire = Sniffer::on(&net.lan, "lan0");
    for dev in &net.devices {
        dev.ns.sh("ip neigh flush all");
    }
    assert!(
        net.dev(0).ns.reaches("10.1.0.11"),
        "siblings reach each other"
    );
    assert!(
        net.dev(0).ns.reaches("fd00::11"),
        "siblings reach each other"
    );
    let seen = wire.heard();
    let asked =
        [is_arp as fn(&Seen) -> bool, |seen| is_nd(nd::NS)(seen)].map(|kind| seen.iter().any(kind));
    assert_eq!(
        asked,
        [differs("question", false, true); 2],
        "what a sibling answers is not asked outside: {seen:?}"
    );
    // An answer is unicast, to the MAC address that all have.
    let answered = seen.iter().any(|seen| {
        is_nd(nd::NA)(seen) && seen.destination() == net.mac()
            || is_arp(seen) && seen.u16_at(20) == 2
    });
    assert!(!answered, "and the answer stays inside: {seen:?}");
    let entry = net.dev(0).ns.neighbour("10.1.0.11");
    assert!(
        entry.contains(&mac_text(net.mac())),
        "siblings have the parent's MAC address: {entry}"
    );
}

/// Whether an IPv6 address is one that its stack found to be a duplicate, or refused.
fn fails(net: &Net, number: u16, address: &str) -> bool {
    let text = net.dev(number).ns.read("ip -6 addr show");
    !text.contains(&format!("{address}/64"))
        || text.contains(&format!("{address}/64 scope global dadfailed"))
}

#[test]
fn a_duplicate_of_a_sibling_s_ipv6_address_is_found() {
    let net = Net::new(Mode::L2).devices(2).build();
    net.dev(1)
        .ns
        .sysctl("net/ipv6/conf/ipvl1/dad_transmits", "1");
    let _: bool = net
        .dev(1)
        .ns
        .try_sh("ip addr add fd00::10/64 dev ipvl1")
        .ok();
    assert!(
        eventually(PATIENCE, || fails(&net, 1, "fd00::10")),
        "the second one is refused or fails duplicate address detection: {}",
        net.dev(1).ns.read("ip -6 addr show dev ipvl1")
    );
    net.lan.sh("ip neigh flush all");
    assert!(net.lan.reaches("fd00::10"), "the first one keeps working");
    net.dev(0).ns.sh("ip link set ipvl0 down");
    assert!(
        eventually(PATIENCE, || !net.lan.answers("fd00::10")),
        "it was the first one who answered"
    );
}

#[test]
fn a_duplicate_of_the_lan_s_ipv6_address_is_found() {
    let net = Net::new(Mode::L2).devices(1).build();
    net.dev(0)
        .ns
        .sysctl("net/ipv6/conf/ipvl0/dad_transmits", "1");
    net.dev(0).ns.sh("ip addr add fd00::254/64 dev ipvl0");
    assert!(
        eventually(PATIENCE, || fails(&net, 0, "fd00::254")),
        "duplicate address detection asks outside: {}",
        net.dev(0).ns.read("ip -6 addr show dev ipvl0")
    );
    // And the other way round.
    net.lan.sysctl("net/ipv6/conf/lan0/dad_transmits", "1");
    net.lan.sh("ip addr add fd00::10/64 dev lan0");
    assert!(
        eventually(PATIENCE, || net
            .lan
            .read("ip -6 addr show dev lan0")
            .contains("dadfailed")),
        "and outside is answered: {}",
        net.lan.read("ip -6 addr show dev lan0")
    );
}

#[test]
fn an_arp_probe_is_answered() {
    // The answer names 0.0.0.0 as its target, whose owner the driver does not find.
    let net = Net::new(Mode::L2).devices(2).build();
    let prober = net.dev(1);
    let probe = |address: &str, wait: u32| {
        // arping -D: 1 when somebody has it.
        let line = format!("arping -D -c 1 -w {wait} -I ipvl1 {address}");
        prober.ns.try_sh(&line)
    };
    let outside = probe("10.1.0.254", differs("probe-answer", 5, 1));
    let found = differs("probe-answer", 1, 0);
    assert_eq!(
        outside.status, found,
        "whether the LAN's is found: {}",
        outside.stdout
    );
    let free = probe("10.1.0.99", 1);
    assert_eq!(free.status, 0, "a free one is not: {}", free.stdout);
    // arping takes an answer from its own MAC address for its own, and a sibling has no other.
    let ears = Sniffer::on(&prober.ns, "ipvl1");
    let _: bool = probe("10.1.0.10", 1).ok();
    let answer = ears.find(Duration::from_millis(500), |seen| {
        !seen.outgoing && is_arp(seen) && seen.bytes[28..32] == [10, 1, 0, 10]
    });
    assert_eq!(
        answer.is_some(),
        differs("probe-answer", true, false),
        "whether a sibling's answer arrives"
    );
}

#[test]
fn link_local_addresses_of_siblings_differ_and_work() {
    let net = Net::new(Mode::L2).devices(3).build();
    let own = |number: u16| {
        let dev = net.dev(number);
        assert!(
            eventually(PATIENCE, || link_local(&dev.ns, &dev.name).is_some()),
            "{} has a link-local address",
            dev.name
        );
        link_local(&dev.ns, &dev.name).expect("it")
    };
    let all = [own(0), own(1), own(2)];
    let host = link_local(&net.host, "eth0").expect("the host's");
    assert!(
        all[0] != all[1] && all[1] != all[2] && all[0] != all[2] && !all.contains(&host),
        "devices share a MAC address but no link-local address: {all:?}, host {host}"
    );
    for (number, address) in (0u16..).zip(all) {
        assert!(
            net.lan.reaches(&format!("{address}%lan0")),
            "the LAN reaches {address}"
        );
        let other = (number + 1) % 3;
        let from = net.dev(other);
        assert!(
            from.ns.reaches(&format!("{address}%{}", from.name)),
            "a sibling reaches {address}"
        );
    }
}

#[test]
fn router_advertisements_reach_devices() {
    let net = Net::new(Mode::L2).devices(2).build();
    for dev in &net.devices {
        for (key, value) in [("accept_ra", "2"), ("autoconf", "1")] {
            dev.ns
                .sysctl(&format!("net/ipv6/conf/{}/{key}", dev.name), value);
        }
    }
    let lan = net.lan.mac("lan0");
    let router = link_local(&net.lan, "lan0").expect("the router's");
    // On-link and autonomous, both lifetimes an hour: fd77::/64.
    let prefix = [
        &[3, 4, 64, 0xc0][..],
        &3600u32.to_be_bytes(),
        &3600u32.to_be_bytes(),
        &[0; 4],
        &[0xfd, 0x77],
        &[0; 14],
    ]
    .concat();
    let mut body = nd::body(
        nd::RA,
        LAN6,
        &[nd::option(nd::SOURCE, lan), prefix].concat(),
    );
    body[2..4].copy_from_slice(&1800u16.to_be_bytes());
    let message = icmpv6(router, ALL_NODES, nd::RA, &body);
    let packet = ipv6(router, ALL_NODES, next::ICMPV6, &message);
    Sender::on(&net.lan, "lan0").send(&ethernet(
        nd::group_mac(ALL_NODES),
        lan,
        ethertype::IPV6,
        &packet,
    ));
    let own = |number: u16| {
        let text = net.dev(number).ns.read("ip -6 -o addr show scope global");
        let found = text
            .split_whitespace()
            .find(|word| word.starts_with("fd77:"));
        found
            .and_then(|word| word.split('/').next())
            .map(str::to_owned)
    };
    assert!(
        eventually(PATIENCE, || own(0).is_some() && own(1).is_some()),
        "both configure themselves"
    );
    assert_ne!(
        own(0),
        own(1),
        "with addresses of their own, though they share a MAC address"
    );
    net.lan.sh("ip addr add fd77::254/64 dev lan0 nodad");
    for number in [0, 1] {
        let address = own(number).expect("it");
        assert!(net.lan.reaches(&address), "and the LAN reaches {address}");
    }
}

#[test]
fn our_own_broadcast_sent_back_by_the_switch_is_not_heard_again() {
    let net = Net::new(Mode::L2).devices(2).build();
    let ears = Sniffer::on(&net.dev(1).ns, "ipvl1");
    let sender = Sender::on(&net.lan, "lan0");
    // An announcement, and a probe, which the driver does not take for its own.
    let own = net.dev(0).v4;
    for (who, wanted) in [
        (own, false),
        (Ipv4Addr::UNSPECIFIED, differs("reflection", false, true)),
    ] {
        let payload = packet::arp(1, (net.mac(), who), ([0; 6], own));
        let frame = ethernet(BROADCAST, net.mac(), ethertype::ARP, &payload);
        sender.send(&frame);
        // From somebody else it is heard, by whom it asks for.
        let payload = packet::arp(1, (net.lan.mac("lan0"), LAN4), ([0; 6], net.dev(1).v4));
        let after = ethernet(BROADCAST, net.lan.mac("lan0"), ethertype::ARP, &payload);
        sender.send(&after);
        let mut heard = false;
        let last = ears.find(PATIENCE, |seen| {
            heard |= seen.bytes == frame;
            seen.bytes == after
        });
        assert!(last.is_some(), "what is sent after it is heard");
        assert_eq!(heard, wanted, "a reflection of ARP from {who}");
    }
}
