//! Frames that nobody should send: random ones, cut ones, long ones, with odd options.

use std::net::{Ipv4Addr, Ipv6Addr};

use ipvlan_tests::load::KernelLog;
use ipvlan_tests::packet::{
    BROADCAST, FORGED, Mac, ethernet, ethertype, fragment_header, icmpv6, ipv4, ipv6, nd, next,
    padding_header,
};
use ipvlan_tests::sniff::Sender;
use ipvlan_tests::{Backend, Dice, LAN4, Mode, Net, PATIENCE, Sniffer, differs, packet};

use crate::{FLAGS, assert_well, set_mode};

/// Who and what random frames are made of.
struct Pool {
    macs: Vec<Mac>,
    v4: Vec<Ipv4Addr>,
    v6: Vec<Ipv6Addr>,
}

impl Pool {
    fn of(net: &Net) -> Self {
        let groups = [
            BROADCAST,
            [1, 0, 0x5e, 1, 2, 3],
            [0x33, 0x33, 0, 0, 0, 1],
            [1, 0x80, 0xc2, 0, 0, 0],
            [1, 0x80, 0xc2, 0, 0, 0x0e],
        ];
        let macs = [FORGED, [0; 6], net.mac(), net.mac(), net.lan.mac("lan0")];
        let v4 = [
            "10.1.0.1",
            "10.1.0.254",
            "10.1.0.255",
            "255.255.255.255",
            "239.1.2.3",
            "127.0.0.1",
            "0.0.0.0",
            "192.0.2.1",
        ];
        let v6 = [
            "fd00::1",
            "fd00::254",
            "ff02::1",
            "ff02::1:ff00:11",
            "::",
            "::1",
            "2001:db8::1",
        ];
        let v4 = v4.map(|text| text.parse().expect("an address"));
        let v6 = v6.map(|text| text.parse().expect("an address"));
        let devices = &net.devices;
        Self {
            macs: [&groups[..], &macs].concat(),
            v4: v4
                .into_iter()
                .chain(devices.iter().map(|dev| dev.v4))
                .collect(),
            v6: v6
                .into_iter()
                .chain(devices.iter().map(|dev| dev.v6))
                .collect(),
        }
    }

    /// A frame as somebody might send it who means ill, or whose memory is broken.
    fn frame(&self, dice: &mut Dice) -> Vec<u8> {
        let (kind, payload) = self.payload(dice);
        let mut frame = ethernet(
            *dice.pick(&self.macs),
            *dice.pick(&self.macs),
            kind,
            &payload,
        );
        for _ in 0..dice.roll(4) {
            // Past the destination, so that it gets somewhere.
            let at = 6 + dice.roll(u64::try_from(frame.len()).expect("short") - 6);
            if let Some(byte) = frame.get_mut(usize::try_from(at).expect("short")) {
                *byte = dice.byte();
            }
        }
        match dice.roll(8) {
            0 => frame.truncate(usize::try_from(dice.roll(80)).expect("short")),
            1 => frame.resize(60, 0),
            2 => frame.resize(1514, 0xa5),
            _ => {}
        }
        frame
    }

    fn payload(&self, dice: &mut Dice) -> (u16, Vec<u8>) {
        let (from4, to4) = (*dice.pick(&self.v4), *dice.pick(&self.v4));
        let (from6, to6) = (*dice.pick(&self.v6), *dice.pick(&self.v6));
        let mac = *dice.pick(&self.macs);
        let length = usize::try_from(dice.roll(120)).expect("short");
        let noise = dice.bytes(length);
        match dice.roll(10) {
            0 => (u16::from_be_bytes([dice.byte(), dice.byte()]), noise),
            1 => {
                let operation = u16::from(dice.byte() % 4);
                (
                    ethertype::ARP,
                    packet::arp(operation, (mac, from4), (mac, to4)),
                )
            }
            2 => (ethertype::IPV4, packet::udp4(from4, to4, 9, &noise)),
            3 => (ethertype::IPV4, ipv4(from4, to4, dice.byte(), &noise)),
            4 => {
                let mut packet = packet::udp4(from4, to4, 9, &noise);
                // A length, a fragment offset or a version that is not true.
                packet[usize::try_from(dice.roll(10)).expect("short")] = dice.byte();
                (ethertype::IPV4, packet)
            }
            5 => (ethertype::IPV6, packet::udp6(from6, to6, 9, &noise)),
            6 => {
                let kinds = [nd::RS, nd::RA, nd::NS, nd::NA, nd::REDIRECT, nd::INVERSE];
                let kind = *dice.pick(&kinds);
                let mut options = nd::option(*dice.pick(&[nd::SOURCE, nd::TARGET]), mac);
                options[1] = *dice.pick(&[0, 1, 1, 1, 2, 255]);
                let body = nd::body(kind, to6, &options);
                (
                    ethertype::IPV6,
                    ipv6(from6, to6, next::ICMPV6, &icmpv6(from6, to6, kind, &body)),
                )
            }
            7 => {
                let mut chain = Vec::new();
                let first = next::DESTINATION;
                for _ in 0..dice.roll(6) {
                    chain.extend(padding_header(first, 1 + dice.byte() % 3));
                }
                chain.extend(fragment_header(next::ICMPV6, u16::from(dice.byte()), true));
                chain.extend(noise);
                (ethertype::IPV6, ipv6(from6, to6, first, &chain))
            }
            8 => (ethertype::VLAN, noise),
            _ => (u16::try_from(length).expect("short"), noise),
        }
    }
}

#[test]
fn random_frames_change_nothing() {
    const FRAMES: usize = 1_000;
    let log = KernelLog::new();
    let mut dice = Dice::new();
    for mode in Mode::ALL {
        let net = Net::new(mode).devices(2).build();
        let mut extra = net.namespace("other");
        let pool = Pool::of(&net);
        let shown = |net: &Net| {
            let ours = Backend::is_ours().then(|| net.ipvlan("-j -d link show").expect());
            ours.map(|text| without_counters(&text))
        };
        let before = shown(&net);
        for flag in FLAGS {
            set_mode(&net, mode, flag);
            let wire = Sniffer::on(&net.lan, "lan0");
            for (ns, interface) in [(&net.dev(0).ns, "ipvl0"), (&net.lan, "lan0")] {
                let sender = Sender::on(ns, interface);
                let bypassing = Sender::bypassing(ns, interface);
                for number in 0..FRAMES {
                    let frame = pool.frame(&mut dice);
                    let sender = if number % 2 == 0 { &sender } else { &bypassing };
                    // Refused or dropped is as good.
                    let _: Result<(), _> = sender.try_send(&frame);
                }
            }
            let heard = wire.heard();
            assert!(!heard.is_empty(), "{mode} {flag}: some of it is sent on");
            let own = net.mac();
            let forged = heard.iter().find(|seen| seen.source() != own);
            assert_eq!(
                forged.is_some(),
                differs("one-mac", false, mode == Mode::L2),
                "{mode} {flag}: {forged:?}"
            );
        }
        set_mode(&net, mode, "bridge");
        net.host.sh("ip neigh flush all");
        for ns in [&net.host, &net.lan, &net.dev(0).ns, &net.dev(1).ns] {
            // What forged redirects have taught them.
            ns.sh("ip route flush cache");
            ns.sh("ip -6 route flush cache");
        }
        assert_well(&net, "bridge", &format!("{mode}: after random frames"));
        assert_eq!(shown(&net), before, "{mode}: and nobody owns anything else");
        extra.kill();
    }
    log.assert_quiet();
}

/// What `-j -d link show` says of addresses, modes and names.
fn without_counters(text: &str) -> serde_json::Value {
    fn strip(value: &mut serde_json::Value) {
        if let Some(object) = value.as_object_mut() {
            object.retain(|key, _| key != "drops");
            object.values_mut().for_each(strip);
        }
        value.as_array_mut().into_iter().flatten().for_each(strip);
    }
    let mut shown = serde_json::from_str(text).expect("JSON");
    strip(&mut shown);
    shown
}

#[test]
fn frames_of_any_length_harm_nobody() {
    let log = KernelLog::new();
    for mode in [Mode::L2, Mode::L3] {
        let net = Net::new(mode).devices(2).build();
        let (own, lan) = (net.mac(), net.lan.mac("lan0"));
        let dev = net.dev(0);
        dev.ns.sh("ip link set ipvl0 mtu 65535");
        let whole = |to: Mac, from: Mac, payload: usize| {
            let packet = packet::udp4(dev.v4, net.dev(1).v4, 9, &vec![0x5a; payload]);
            ethernet(to, from, ethertype::IPV4, &packet)
        };
        for to in [own, lan, BROADCAST] {
            let frame = whole(to, own, 100);
            let six = packet::udp6(dev.v6, net.dev(1).v6, 9, &[0x5a; 100]);
            let six = ethernet(to, own, ethertype::IPV6, &six);
            for sender in [
                Sender::on(&dev.ns, "ipvl0"),
                Sender::bypassing(&dev.ns, "ipvl0"),
                Sender::on(&net.lan, "lan0"),
                Sender::bypassing(&net.lan, "lan0"),
            ] {
                for length in 0..frame.len() {
                    let _: Result<(), _> = sender.try_send(&frame[..length]);
                    let _: Result<(), _> = sender.try_send(&six[..length]);
                }
            }
            // Long ones lie in several pages.
            for payload in [1_472, 1_473, 2_000, 4_096, 9_000, 32_000, 65_000] {
                for sender in [
                    Sender::on(&dev.ns, "ipvl0"),
                    Sender::bypassing(&dev.ns, "ipvl0"),
                ] {
                    let _: Result<(), _> = sender.try_send(&whole(to, own, payload));
                }
            }
        }
        dev.ns.sh("ip link set ipvl0 mtu 1500");
        assert_well(&net, "bridge", &format!("{mode}: after odd lengths"));
    }
    log.assert_quiet();
}

/// An IPv4 packet with 40 bytes of options: record route, time stamps and a loose source route, as
/// far as they fit.
fn with_options(from: Ipv4Addr, to: Ipv4Addr, fragmentable: bool, payload: usize) -> Vec<u8> {
    let plain = packet::udp4(from, to, 7, &vec![0x5a; payload]);
    let mut head = plain[..20].to_vec();
    head[0] = 0x4f;
    let total = u16::try_from(plain.len() + 40).expect("a packet");
    head[2..4].copy_from_slice(&total.to_be_bytes());
    head[6] = if fragmentable { 0 } else { 0x40 };
    head[10..12].fill(0);
    head.extend([7, 19, 4]);
    head.extend([0; 16]);
    head.extend([68, 20, 5, 0]);
    head.extend([0; 16]);
    head.push(0);
    let sum = packet::checksum(&[&head]);
    head[10..12].copy_from_slice(&sum);
    head.extend(&plain[20..]);
    head
}

#[test]
fn ip_options_do_not_confuse_the_parent_s_namespace() {
    // The driver once took what another layer had left in a packet for its IP options
    // (CVE-2023-3090), and wrote where it should not when it answered with an ICMP error.
    let log = KernelLog::new();
    for mode in Mode::ALL {
        let net = Net::new(mode).devices(2).build();
        let dev = net.dev(0);
        let (own, lan) = (net.mac(), net.lan.mac("lan0"));
        dev.ns.sh("ip link set ipvl0 mtu 4000");
        let wire = Sniffer::on(&net.lan, "lan0");
        let sender = Sender::on(&dev.ns, "ipvl0");
        for to in [
            LAN4,
            net.dev(1).v4,
            Ipv4Addr::new(10, 1, 0, 1),
            Ipv4Addr::new(192, 0, 2, 1),
        ] {
            for payload in [8, 1_400, 2_000, 3_000] {
                for fragmentable in [true, false] {
                    let packet = with_options(dev.v4, to, fragmentable, payload);
                    let mac = if to == LAN4 { lan } else { own };
                    let frame = ethernet(mac, own, ethertype::IPV4, &packet);
                    let _: Result<(), _> = sender.try_send(&frame);
                }
            }
        }
        // A forwarder writes into them.
        let arrived = wire.find(PATIENCE, |seen| {
            seen.u16_at(14) >> 8 == 0x4f && seen.contains(&dev.v4.octets())
        });
        assert!(arrived.is_some(), "{mode}: options are no reason to drop");
        dev.ns.sh("ip link set ipvl0 mtu 1500");
        assert_well(&net, "bridge", &format!("{mode}: after options"));
    }
    log.assert_quiet();
}
