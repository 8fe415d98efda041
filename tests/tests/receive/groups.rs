//! Multicast, and what the host sends to all.

use std::net::IpAddr;
use std::time::Duration;

use ipvlan_tests::packet::{BROADCAST, Mac, ethernet, ethertype};
use ipvlan_tests::sniff::Sender;
use ipvlan_tests::traffic::Ear;
use ipvlan_tests::{Backend, Mode, Net, PATIENCE, Sniffer, differs, eventually};

#[test]
fn a_group_is_heard_by_its_members() {
    let net = Net::new(Mode::L2).devices(2).build();
    net.lan.sh("ip route add 239.0.0.0/8 dev lan0");
    let scope = net.lan.index("lan0");
    for (group, mac) in [
        ("239.1.2.3", "01:00:5e:01:02:03"),
        ("ff05::1:3", "33:33:00:01:00:03"),
    ] {
        let group: IpAddr = group.parse().expect("a group");
        let [other, member] = [0, 1].map(|number| Ear::on(&net.dev(number).ns, group));
        let mouth = Ear::on(&net.lan, group);
        mouth.say(group, scope, b"too early");
        member.join(&net.dev(1).ns, group, "ipvl1");
        let heard = eventually(PATIENCE, || {
            mouth.say(group, scope, b"to members");
            member
                .hears(b"to members", Duration::from_millis(50))
                .is_some()
        });
        assert!(heard, "a member of {group} hears it");
        let heard = other.hears(b"to members", Duration::from_millis(300));
        assert_eq!(heard, None, "its sibling does not");
        // What makes a parent that is a real network card let the group in.
        let at_parent = if Backend::is_ours() {
            net.host.read("ip -d link show eth0").contains("allmulti 1")
        } else {
            net.host.read("ip maddr show dev eth0").contains(mac)
        };
        assert!(at_parent, "the parent lets {mac} in");
        drop(member);
        let stranger = Ear::on(&net.dev(1).ns, group);
        mouth.say(group, scope, b"too late");
        let heard = stranger.hears(b"too late", Duration::from_millis(300));
        assert_eq!(heard, None, "who has left does not hear {group} any more");
    }
}

#[test]
fn groups_that_nobody_joined() {
    const GROUPS: u8 = 32;
    let net = Net::new(Mode::L2).devices(2).build();
    let sender = Sender::on(&net.lan, "lan0");
    let lan = net.lan.mac("lan0");
    let host = Sniffer::behind(&net.host, "eth0", ethertype::EXPERIMENT);
    let taps = net.ears();
    // How many of them each device hears, once it has heard a broadcast that comes behind them.
    let heard = |groups: &[Mac], what: &[u8]| {
        for group in groups.iter().chain([&BROADCAST]) {
            sender.send(&ethernet(*group, lan, ethertype::EXPERIMENT, what));
        }
        let count = |ear: &Sniffer| {
            let mut count = 0;
            let last = ear.find(PATIENCE, |seen| {
                let ours = !seen.outgoing && seen.contains(what);
                count += usize::from(ours);
                ours && seen.destination() == BROADCAST
            });
            assert!(last.is_some(), "everybody hears a broadcast");
            count - 1
        };
        assert_eq!(count(&host), groups.len(), "the parent's stack hears all");
        [count(&taps[0]), count(&taps[1])]
    };
    let random: Vec<Mac> = (0..GROUPS)
        .map(|number| [1, 0, 0x5e, 0x33, number, number.wrapping_mul(77)])
        .collect();
    let all = random.len();
    // The driver's filter has 256 bits, of which a device that joined nothing has a few.
    let few = |counts: [usize; 2]| counts.iter().all(|count| *count <= all / 4);
    let counts = heard(&random, b"nobody joined");
    assert!(
        differs("multicast-filter", counts == [all; 2], few(counts)),
        "multicast that nobody wants: {counts:?} of {all}"
    );
    // Spanning tree and its like are between the switch and the parent.
    let reserved: Vec<Mac> = (0..16).map(|last| [1, 0x80, 0xc2, 0, 0, last]).collect();
    let counts = heard(&reserved, b"for bridges");
    assert!(
        differs("bridge-groups", counts == [0; 2], few(counts)),
        "01:80:c2:00:00:0x: {counts:?} of 16"
    );
    net.dev(0).ns.sh("ip link set ipvl0 promisc on");
    let counts = heard(&random, b"promiscuous");
    assert_eq!(counts[0], all, "a promiscuous device hears all groups");
    let counts = heard(&reserved, b"and for bridges");
    assert_eq!(
        counts[0],
        differs("bridge-groups", 0, reserved.len()),
        "01:80:c2:00:00:0x, promiscuous"
    );
}

#[test]
fn what_the_host_sends_to_all_is_for_the_wire() {
    for mode in Mode::ALL {
        let net = Net::new(mode).devices(2).build();
        net.host.sh("ip route add 239.0.0.0/8 dev eth0");
        let wire = Sniffer::on(&net.lan, "lan0");
        let taps = net.ears();
        let scope = net.host.index("eth0");
        let groups = ["10.1.0.255", "239.1.2.3", "ff05::1:3", "ff02::1"];
        for group in groups {
            let to: IpAddr = group.parse().expect("an address");
            let host = Ear::on(&net.host, to);
            if to.is_multicast() {
                // A member hears itself: the stack sends the packet through the parent's receive
                // path, without an Ethernet header.
                host.join(&net.host, to, "eth0");
            }
            host.say(to, scope, group.as_bytes());
            let found = wire.find(PATIENCE, |seen| seen.contains(group.as_bytes()));
            assert!(found.is_some(), "{mode}: {group} is on the wire");
            if to.is_multicast() {
                let heard = host.hears(group.as_bytes(), PATIENCE);
                assert!(heard.is_some(), "{mode}: the host hears itself: {group}");
            }
        }
        for tap in taps {
            let mut heard = tap.heard();
            heard.retain(|seen| groups.iter().any(|group| seen.contains(group.as_bytes())));
            assert!(heard.is_empty(), "{mode}: devices hear it: {heard:?}");
        }
    }
}
