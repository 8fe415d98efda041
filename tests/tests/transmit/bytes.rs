//! Which bytes of a packet change, and what becomes of odd ones.

use ipvlan_tests::packet::{
    BROADCAST, FORGED, checksum, ethernet, ethertype, fragment_header, next,
};
use ipvlan_tests::places::is_complaint;
use ipvlan_tests::sniff::Sender;
use ipvlan_tests::{LAN4, LAN6, Mode, Net, PATIENCE, Places, Seen, Sniffer, differs, packet};

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
