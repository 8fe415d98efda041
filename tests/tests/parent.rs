//! What no device owns reaches the parent's own stack as if nothing were there.

use std::net::{IpAddr, Ipv4Addr};
use std::time::Duration;

use ipvlan_tests::packet::{self, BROADCAST, ethernet, ethertype};
use ipvlan_tests::sniff::Sender;
use ipvlan_tests::traffic::{self, Ear};
use ipvlan_tests::{
    Backend, LAN4, Mode, Net, PATIENCE, Seen, Sniffer, differs, eventually, kernel_is_since,
};

const WORD: &[u8] = b"for the parent's own stack";

#[test]
fn the_parent_s_own_addresses_work_on() {
    for mode in [Mode::L2, Mode::L3] {
        let net = Net::new(mode).devices(2).build();
        for address in ["10.1.0.1", "fd00::1"] {
            assert!(
                net.lan.reaches(address),
                "{mode}: the LAN reaches the host at {address}"
            );
            let address: IpAddr = address.parse().expect("an address");
            let tcp = traffic::tcp(&net.host, address, &net.lan, 1 << 20);
            assert!(tcp.is_ok(), "{mode}: TCP to the host: {tcp:?}");
        }
        for address in ["10.1.0.254", "fd00::254"] {
            assert!(
                net.host.reaches(address),
                "{mode}: the host reaches the LAN at {address}"
            );
            let address: IpAddr = address.parse().expect("an address");
            let tcp = traffic::tcp(&net.lan, address, &net.host, 1 << 20);
            assert!(tcp.is_ok(), "{mode}: TCP from the host: {tcp:?}");
        }
        // ARP for the host, with devices there.
        net.lan.sh("ip neigh flush all");
        assert!(net.lan.reaches("10.1.0.1"), "{mode}: the host answers ARP");
        // Broadcast is for the host, too.
        let ear = Ear::on(&net.host, IpAddr::V4(LAN4));
        Ear::on(&net.lan, IpAddr::V4(LAN4)).say("10.1.0.255".parse().expect("it"), 0, WORD);
        assert!(
            ear.hears(WORD, PATIENCE).is_some(),
            "{mode}: the host hears broadcast"
        );
    }
}

#[test]
fn what_has_no_owner_is_passed_untouched() {
    for mode in [Mode::L2, Mode::L3] {
        let net = Net::new(mode).devices(1).build();
        let (mac, lan) = (net.mac(), net.lan.mac("lan0"));
        let sender = Sender::on(&net.lan, "lan0");
        let host = Sniffer::on(&net.host, "eth0");
        let device = Sniffer::on(&net.dev(0).ns, "ipvl0");
        let own: Ipv4Addr = net.dev(0).v4;
        let unknown = Ipv4Addr::new(10, 1, 0, 99);
        let udp = |to| packet::udp4(LAN4, to, 9, WORD);
        let tagged = [
            &7u16.to_be_bytes()[..],
            &ethertype::IPV4.to_be_bytes(),
            &udp(own),
        ]
        .concat();
        let mut broken = udp(own);
        broken[0] = 0x44;
        let mut long = udp(own);
        long[2..4].copy_from_slice(&2000u16.to_be_bytes());
        let mut version = udp(own);
        version[0] = 0x55;
        for (what, frame) in [
            (
                "an unknown address",
                ethernet(mac, lan, ethertype::IPV4, &udp(unknown)),
            ),
            (
                "an EtherType of nobody's",
                ethernet(mac, lan, ethertype::EXPERIMENT, WORD),
            ),
            ("a VLAN tag", ethernet(mac, lan, ethertype::VLAN, &tagged)),
            ("a service tag", ethernet(mac, lan, 0x88a8, &tagged)),
            (
                "a broken header length",
                ethernet(mac, lan, ethertype::IPV4, &broken),
            ),
            (
                "longer than it is",
                ethernet(mac, lan, ethertype::IPV4, &long),
            ),
            (
                "another version",
                ethernet(mac, lan, ethertype::IPV4, &version),
            ),
            (
                "a cut header",
                ethernet(mac, lan, ethertype::IPV4, &udp(own)[..19]),
            ),
            ("cut ARP", ethernet(mac, lan, ethertype::ARP, &[0; 20])),
            (
                "PAUSE",
                ethernet([1, 0x80, 0xc2, 0, 0, 1], lan, 0x8808, &[0; 46]),
            ),
        ] {
            sender.send(&frame);
            let same = |seen: &Seen| !seen.outgoing && seen.bytes == frame;
            assert!(
                host.find(PATIENCE, same).is_some(),
                "{mode}: {what} passes untouched"
            );
        }
        // The parent's taps see everything that a tap in front of the hook sees; that no device
        // got one of these is seen at the device.
        let stolen: Vec<Seen> = device
            .heard()
            .into_iter()
            .filter(|seen| seen.source() == lan && seen.contains(WORD))
            .collect();
        // The two with a tag.
        let wanted = differs("vlan-tag", 0, 2);
        assert_eq!(
            stolen.len(),
            wanted,
            "{mode}: what the device got of it: {stolen:?}"
        );
    }
}

#[test]
fn the_host_answers_for_what_no_device_owns() {
    // A tap runs before the hook, so only an answer shows that the stack got it.
    let net = Net::new(Mode::L2).devices(1).build();
    net.host.batch("addr add 10.1.0.99/24 dev eth0\n");
    assert!(
        net.lan.reaches("10.1.0.99"),
        "a second address of the host answers"
    );
    // A VLAN of the parent's is not here to be had; a bridge that filters on VLANs is.
    let ears = Sniffer::on(&net.host, "eth0");
    let sender = Sender::on(&net.lan, "lan0");
    let payload = [
        &5u16.to_be_bytes()[..],
        &ethertype::IPV4.to_be_bytes(),
        WORD,
    ]
    .concat();
    let frame = ethernet(BROADCAST, net.lan.mac("lan0"), ethertype::VLAN, &payload);
    sender.send(&frame);
    assert!(
        ears.find(PATIENCE, |seen| seen.bytes == frame).is_some(),
        "a tagged broadcast is seen"
    );
    let device = Sniffer::on(&net.dev(0).ns, "ipvl0");
    sender.send(&frame);
    let got = device.find(Duration::from_millis(200), |seen| seen.contains(WORD));
    let wanted = differs("vlan-tag", false, true);
    assert_eq!(got.is_some(), wanted, "and is not for a device: {got:?}");
}

#[test]
fn a_parent_may_be_a_bridge_port() {
    if !differs("shared-parent", true, false) {
        // That the driver refuses is in parents.rs, for all that may not be one.
        return;
    }
    for before in [true, false] {
        let mut net = Net::new(Mode::L2).build();
        let guest = net.namespace("guest");
        let bridge = |net: &Net| {
            net.host.batch(&format!(
                "link add br0 type bridge\n\
                 link set br0 up\n\
                 link set eth0 master br0\n\
                 addr flush dev eth0\n\
                 addr add 10.1.0.1/24 dev br0\n\
                 addr add fd00::1/64 dev br0 nodad\n\
                 link add port0 type veth peer name eth0 netns {}\n\
                 link set port0 up master br0\n",
                guest.name()
            ));
            guest.batch("link set eth0 up\naddr add 10.1.0.50/24 dev eth0\n");
        };
        if before {
            bridge(&net);
        }
        let _: u16 = net.add();
        net.dev(0).configure();
        if !before {
            bridge(&net);
        }
        assert!(
            net.lan.reaches("10.1.0.10"),
            "bridge first {before}: the device is reached"
        );
        assert!(
            net.lan.reaches("fd00::10"),
            "bridge first {before}: the device is reached"
        );
        assert!(
            net.dev(0).ns.reaches("10.1.0.254"),
            "bridge first {before}: the device reaches"
        );
        assert!(
            net.lan.reaches("10.1.0.50"),
            "bridge first {before}: another port is reached"
        );
        assert!(
            net.lan.reaches("10.1.0.1"),
            "bridge first {before}: the bridge's own address is"
        );
        let tcp = traffic::tcp(
            &net.dev(0).ns,
            "10.1.0.10".parse().expect("it"),
            &net.lan,
            1 << 20,
        );
        assert!(tcp.is_ok(), "bridge first {before}: {tcp:?}");
    }
}

#[test]
fn a_parent_may_be_a_macvlan_parent() {
    if !differs("shared-parent", true, false) {
        // As above.
        return;
    }
    for before in [true, false] {
        let mut net = Net::new(Mode::L2).build();
        let guest = net.namespace("guest");
        let macvlan = |net: &Net| {
            net.host.batch(&format!(
                "link add mv0 link eth0 netns {} type macvlan mode bridge\n",
                guest.name()
            ));
            guest.batch("link set mv0 up\naddr add 10.1.0.60/24 dev mv0\naddr add fd00::60/64 dev mv0 nodad\n");
        };
        if before {
            macvlan(&net);
        }
        let _: u16 = net.add();
        net.dev(0).configure();
        if !before {
            macvlan(&net);
        }
        for address in ["10.1.0.10", "fd00::10", "10.1.0.60", "fd00::60", "10.1.0.1"] {
            assert!(
                net.lan.reaches(address),
                "macvlan first {before}: {address} is reached"
            );
        }
        for address in ["10.1.0.254", "fd00::254"] {
            assert!(
                net.dev(0).ns.reaches(address),
                "macvlan first {before}: the device reaches"
            );
            assert!(
                guest.reaches(address),
                "macvlan first {before}: the macvlan device reaches"
            );
        }
    }
}

/// How often a filter of tc was hit.
fn hits(net: &Net) -> u64 {
    let text = net.host.read("tc -s -j filter show dev eth0 ingress");
    let at = text.find("\"packets\":").map(|at| &text[at + 10..]);
    let digits = at.map(|rest| {
        rest.chars()
            .take_while(char::is_ascii_digit)
            .collect::<String>()
    });
    digits.and_then(|digits| digits.parse().ok()).unwrap_or(0)
}

#[test]
fn a_foreign_tc_filter_stays_and_counts() {
    for before in [true, false] {
        let mut net = Net::new(Mode::L2).build();
        // The first one that this kernel has; only an action counts.
        let filter = |net: &Net| {
            net.host.sh("tc qdisc replace dev eth0 clsact");
            let add = "tc filter add dev eth0 ingress protocol all pref 10";
            let kinds = ["matchall action pass", "u32 match u32 0 0"];
            let found = kinds
                .into_iter()
                .find(|kind| net.host.try_sh(&format!("{add} {kind}")).ok());
            found.expect("a kernel with matchall or u32")
        };
        let early = before.then(|| filter(&net));
        let _: u16 = net.add();
        net.dev(0).configure();
        let kind = early.unwrap_or_else(|| filter(&net));
        // What such a filter takes is not shown to those behind it.
        let in_front = differs("tc-ingress", kernel_is_since(6, 6), true);
        for (address, device) in [("10.1.0.10", true), ("fd00::10", true), ("10.1.0.1", false)] {
            let what = format!("filter first {before}: {address}");
            if in_front || !device {
                assert!(net.lan.reaches(address), "{what} is reached");
            } else {
                assert!(net.lan.loses(address), "{what} is lost");
            }
        }
        if kind.contains("action") {
            let counted = hits(&net);
            assert!(net.lan.reaches("10.1.0.1"), "the host is reached");
            assert!(
                eventually(PATIENCE, || hits(&net) > counted),
                "filter first {before}: it counts what is for the host"
            );
        }
        net.dev(0).ns.sh("ip link del ipvl0");
        if Backend::is_ours() {
            net.assert_clean();
        }
        let left = net.host.read("tc filter show dev eth0 ingress");
        assert!(
            left.contains("pref 10"),
            "filter first {before}: it outlives our devices: {left}"
        );
        assert!(net.lan.reaches("10.1.0.1"), "and the host is reached");
    }
}

#[test]
fn an_nft_drop_on_the_host_s_input_spares_devices() {
    for mode in [Mode::L2, Mode::L3] {
        let net = Net::new(mode).devices(1).build();
        net.host.sh("nft add table inet t");
        let done = net.host.try_run(&[
            "nft",
            "add chain inet t input { type filter hook input priority 0; policy drop; }",
        ]);
        assert!(done.ok(), "{done:?}");
        assert!(
            !net.lan.answers("10.1.0.1"),
            "{mode}: the host does not answer"
        );
        // So that no neighbour has to be found: that is the host's in l3.
        net.lan.sh(&format!(
            "ip neigh replace 10.1.0.1 lladdr {} dev lan0",
            packet::mac_text(net.mac())
        ));
        assert!(
            net.lan.reaches(&net.dev(0).v4.to_string()),
            "{mode}: the device does"
        );
    }
}

#[test]
fn a_filter_on_the_parent_acts_on_what_devices_send() {
    let net = Net::new(Mode::L2).devices(1).build();
    net.host.sh("tc qdisc replace dev eth0 clsact");
    let added = net
        .host
        .try_sh("tc filter add dev eth0 egress protocol all matchall action drop");
    if added.ok() {
        assert!(
            !net.dev(0).ns.answers("10.1.0.254"),
            "what tc forbids the parent, no device sends"
        );
        net.host.sh("tc filter del dev eth0 egress");
    } else {
        eprintln!("no matchall or no actions in this kernel: {}", added.stderr);
    }
    // What a tc program on ingress redirects is spared by nft's egress hook, by decision of the
    // kernel (nf_skip_egress in __netif_receive_skb_core()).
    net.host.sh("nft add table netdev t");
    let done = net.host.try_run(&[
        "nft",
        "add chain netdev t out { type filter hook egress device eth0 priority 0; policy drop; }",
    ]);
    if !done.ok() {
        eprintln!(
            "no nft egress in this kernel (before Linux 5.16): {}",
            done.stderr
        );
        return;
    }
    assert_eq!(
        net.dev(0).ns.answers("10.1.0.254"),
        differs("nft-egress", true, false),
        "what nft forbids the parent, a device may send"
    );
    assert!(!net.host.answers("10.1.0.254"), "the parent itself may not");
}

#[test]
fn nft_ingress_on_the_parent_is_for_what_is_the_host_s() {
    let net = Net::new(Mode::L2).devices(1).build();
    net.host.sh("nft add table netdev t");
    let done = net.host.try_run(&[
        "nft",
        "add chain netdev t in { type filter hook ingress device eth0 priority 0; policy drop; }",
    ]);
    assert!(done.ok(), "{done:?}");
    assert_eq!(
        net.lan.answers("10.1.0.10"),
        differs("nft-ingress", true, false),
        "what comes for a device"
    );
    assert!(
        !net.lan.answers("10.1.0.1"),
        "what comes for the host is dropped"
    );
}

#[test]
fn the_host_goes_to_the_wire_for_devices_as_with_the_driver() {
    // Host and device do not see each other.
    let net = Net::new(Mode::L2).devices(1).build();
    assert!(
        !net.host.answers("10.1.0.10"),
        "the host reaches no device of its own"
    );
    assert!(
        !net.dev(0).ns.answers("10.1.0.1"),
        "a device does not reach its host"
    );
    let ear = Ear::on(&net.dev(0).ns, IpAddr::V4(LAN4));
    Ear::on(&net.host, IpAddr::V4(LAN4)).say("10.1.0.255".parse().expect("it"), 0, WORD);
    assert_eq!(
        ear.hears(WORD, Duration::from_millis(200)),
        None,
        "the host's broadcast is for the wire"
    );
}
