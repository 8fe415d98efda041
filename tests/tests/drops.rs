//! Every reason for a drop that a device can provoke is counted, for that device, and shown.

#![expect(
    clippy::expect_used,
    reason = "clippy knows a test by its attribute, not the functions beside it"
)]

use std::net::Ipv4Addr;

use ipvlan_abi::DropReason;
use ipvlan_tests::packet::{self, BROADCAST, FORGED, ethernet, ethertype, icmpv6, ipv6, nd, next};
use ipvlan_tests::sniff::Sender;
use ipvlan_tests::{LAN4, LAN6, Mode, Net, PATIENCE, eventually};

fn json(net: &Net, line: &str) -> serde_json::Value {
    serde_json::from_str(&net.ipvlan(line).expect()).unwrap_or_else(|why| panic!("{line}: {why}"))
}

/// The counter, by both ways to see it.
fn counts(net: &Net, device: &str, reason: &str) -> [u64; 2] {
    ["-j stats", "-j -s -s link show"].map(|line| {
        let all = json(net, line);
        let device = all
            .as_array()
            .and_then(|all| all.iter().find(|dev| dev["ifname"] == device));
        device
            .and_then(|device| find_drops(device)?.get(reason)?.as_u64())
            .unwrap_or(0)
    })
}

/// The object `drops`, wherever it is.
fn find_drops(value: &serde_json::Value) -> Option<&serde_json::Value> {
    let object = value.as_object()?;
    object
        .get("drops")
        .or_else(|| object.values().find_map(find_drops))
}

#[track_caller]
fn counted(net: &Net, reason: DropReason, frames: &[Vec<u8>]) {
    let word = reason.as_str();
    let sender = Sender::on(&net.dev(0).ns, "ipvl0");
    let before = counts(net, "ipvl0", word);
    let others = counts(net, "ipvl1", word);
    for frame in frames {
        let _: Result<(), _> = sender.try_send(frame);
    }
    let count = u64::try_from(frames.len()).expect("few");
    let want = before.map(|before| before + count);
    assert!(
        eventually(PATIENCE, || counts(net, "ipvl0", word) == want),
        "{word}: {count} more than {before:?} are counted: {:?}",
        counts(net, "ipvl0", word)
    );
    assert_eq!(
        counts(net, "ipvl1", word),
        others,
        "{word}: not for the other device"
    );
    let text = net.ipvlan("stats ipvl0").expect();
    assert!(text.contains(word), "{word} is in `stats`: {text}");
    let text = net.ipvlan("-s -s link show ipvl0").expect();
    assert!(
        text.contains(word),
        "{word} is in `-s -s link show`: {text}"
    );
}

#[test]
fn what_a_device_in_l2_provokes_is_counted() {
    let net = Net::new(Mode::L2).devices(2).build();
    let (mac, lan) = (net.mac(), net.lan.mac("lan0"));
    let dev = net.dev(0);
    let udp = packet::udp4(dev.v4, LAN4, 9, b"hello");
    let tag = [
        &5u16.to_be_bytes()[..],
        &ethertype::IPV4.to_be_bytes(),
        &udp,
    ]
    .concat();
    counted(
        &net,
        DropReason::Vlan,
        &[
            ethernet(lan, mac, ethertype::VLAN, &tag),
            ethernet(lan, mac, 0x88a8, &tag),
        ],
    );
    counted(
        &net,
        DropReason::LinkLocalGroup,
        &[ethernet([1, 0x80, 0xc2, 0, 0, 0x0e], mac, 0x88cc, &[0; 46])],
    );
    counted(
        &net,
        DropReason::ArpMalformed,
        &[ethernet(BROADCAST, mac, ethertype::ARP, &[0; 28])],
    );
    let rarp = ethernet(BROADCAST, mac, ethertype::RARP, &[0; 28]);
    counted(&net, DropReason::Rarp, &[rarp.clone(), rarp.clone(), rarp]);
    let message = |options: &[u8]| icmpv6(dev.v6, LAN6, nd::NS, &nd::body(nd::NS, LAN6, options));
    let two = nd::option(nd::SOURCE, FORGED).repeat(2);
    let packet = ipv6(dev.v6, LAN6, next::ICMPV6, &message(&two));
    counted(
        &net,
        DropReason::NdMalformed,
        &[ethernet(lan, mac, ethertype::IPV6, &packet)],
    );
    let chain: Vec<u8> = std::iter::repeat_n(packet::padding_header(next::DESTINATION, 1), 12)
        .flatten()
        .collect();
    let packet = ipv6(dev.v6, LAN6, next::DESTINATION, &chain);
    counted(
        &net,
        DropReason::ExtensionHeaders,
        &[ethernet(lan, mac, ethertype::IPV6, &packet)],
    );
    dev.ns.sh("ip link set ipvl0 mtu 4000");
    let long = packet::udp4(dev.v4, LAN4, 9, &[0; 2000]);
    counted(
        &net,
        DropReason::TooBig,
        &[ethernet(lan, mac, ethertype::IPV4, &long)],
    );
}

#[test]
fn what_a_device_in_l3_provokes_is_counted() {
    let net = Net::new(Mode::L3).devices(2).build();
    let (mac, lan) = (net.mac(), net.lan.mac("lan0"));
    let own = net.dev(0).v4;
    counted(
        &net,
        DropReason::NotIp,
        &[
            ethernet(lan, mac, ethertype::EXPERIMENT, &[0; 46]),
            ethernet(BROADCAST, mac, ethertype::ARP, &[0; 28]),
        ],
    );
    let to = |to| packet::udp4(own, to, 9, b"hello");
    let group = Ipv4Addr::new(239, 1, 2, 3);
    counted(
        &net,
        DropReason::Group,
        &[
            ethernet(BROADCAST, mac, ethertype::IPV4, &to(LAN4)),
            ethernet(lan, mac, ethertype::IPV4, &to(group)),
            ethernet(lan, mac, ethertype::IPV4, &to(Ipv4Addr::BROADCAST)),
        ],
    );
    let mut broken = to(LAN4);
    broken[0] = 0x44;
    counted(
        &net,
        DropReason::IpMalformed,
        &[
            ethernet(lan, mac, ethertype::IPV4, &broken),
            ethernet(lan, mac, ethertype::IPV4, &to(Ipv4Addr::LOCALHOST)),
        ],
    );
}

#[test]
fn what_private_stops_is_counted() {
    for mode in [Mode::L2, Mode::L3] {
        let net = Net::new(mode).flag("private").devices(2).build();
        let mac = net.mac();
        let packet = packet::udp4(net.dev(0).v4, net.dev(1).v4, 9, b"hello");
        counted(
            &net,
            DropReason::Private,
            &[ethernet(mac, mac, ethertype::IPV4, &packet)],
        );
    }
}

#[test]
fn a_device_that_did_no_wrong_has_no_drops() {
    let net = Net::new(Mode::L2).devices(2).build();
    assert!(net.dev(0).ns.reaches("10.1.0.11"), "there was traffic");
    let text = net.ipvlan("stats ipvl0").expect();
    assert!(text.contains("nothing was dropped"), "{text}");
    // A new device does not inherit from one that was before it.
    let sender = Sender::on(&net.dev(0).ns, "ipvl0");
    let frame = ethernet(BROADCAST, net.mac(), ethertype::RARP, &[0; 28]);
    sender.send(&frame);
    assert!(
        eventually(PATIENCE, || counts(&net, "ipvl0", "rarp") == [1, 1]),
        "one is counted"
    );
    net.dev(0).ns.sh("ip link del ipvl0");
    net.ipvlan("link add link eth0 name ipvl0 type ipvlan mode l2")
        .expect_quiet();
    assert_eq!(
        counts(&net, "ipvl0", "rarp"),
        [0, 0],
        "counters go with the device"
    );
}
