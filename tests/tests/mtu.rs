//! Large and small.

#![expect(
    clippy::expect_used,
    reason = "clippy knows a test by its attribute, not the functions beside it"
)]

use std::net::{IpAddr, UdpSocket};
use std::time::Duration;

use ipvlan_tests::packet::{checksum, ethertype};
use ipvlan_tests::traffic::{self, Ear, PORT};
use ipvlan_tests::{LAN4, LAN6, Mode, Net, Ns, PATIENCE, Seen, Sniffer, differs, eventually};
use nix::sys::socket::{
    AddressFamily, SockFlag, SockProtocol, SockType, setsockopt, socket, sockopt,
};

#[track_caller]
fn fits(from: &Ns, address: &str, size: u32) {
    let line = format!("ping -n -q -c 3 -i 0.1 -W 2 -M do -s {size} {address}");
    let ping = from.try_sh(&line);
    assert!(
        ping.stdout.contains(" 0% packet loss"),
        "{}: {ping:?}",
        from.name()
    );
}

fn works_at(mode: Mode, mtu: u32) {
    let net = Net::new(mode).mtu(mtu).devices(2).build();
    let [a, b] = [&net.devices[0], &net.devices[1]];
    for dev in [a, b] {
        assert_eq!(
            dev.ns.link(&dev.name).mtu,
            mtu,
            "a device takes the parent's MTU"
        );
    }
    let v6 = mtu >= 1280;
    // A plain veth at 68 has no room for more than some fragments either.
    let large = if v6 { 3000 } else { 300 };
    let pairs = [
        (&net.lan, &a.ns, a.addresses()),
        (
            &a.ns,
            &net.lan,
            ["10.1.0.254".to_owned(), "fd00::254".to_owned()],
        ),
        (&a.ns, &b.ns, b.addresses()),
    ];
    for (from, to, addresses) in pairs {
        for address in addresses.iter().take(1 + usize::from(v6)) {
            let head = if address.contains(':') { 48 } else { 28 };
            fits(from, address, mtu - head);
            fits(from, address, 1);
            let big = from.try_sh(&format!("ping -n -q -c 2 -i 0.1 -W 2 -s {large} {address}"));
            assert!(
                big.stdout.contains(" 0% packet loss"),
                "fragments at {mtu}: {big:?}"
            );
            let address: IpAddr = address.parse().expect("an address");
            let bytes = if mtu < 1000 { 50_000 } else { 1 << 20 };
            let tcp = traffic::tcp(to, address, from, bytes);
            assert!(tcp.is_ok(), "{mode} at {mtu}, TCP to {address}: {tcp:?}");
        }
    }
}

/// The same thing in each mode, a test for each.
macro_rules! in_each_mode {
    ($($name:ident: $check:expr, $mode:ident;)*) => {
        $(#[test] fn $name() { $check(Mode::$mode); })*
    };
}

in_each_mode! {
    jumbo_frames_in_l2: |mode| works_at(mode, 9000), L2;
    jumbo_frames_in_l3: |mode| works_at(mode, 9000), L3;
    jumbo_frames_in_l3s: |mode| works_at(mode, 9000), L3s;
    the_smallest_mtu_of_ipv6_in_l2: |mode| works_at(mode, 1280), L2;
    the_smallest_mtu_of_ipv6_in_l3: |mode| works_at(mode, 1280), L3;
    the_smallest_mtu_of_ipv6_in_l3s: |mode| works_at(mode, 1280), L3s;
    the_smallest_mtu_of_ipv4_in_l2: |mode| works_at(mode, 68), L2;
    the_smallest_mtu_of_ipv4_in_l3: |mode| works_at(mode, 68), L3;
    the_smallest_mtu_of_ipv4_in_l3s: |mode| works_at(mode, 68), L3s;
    segments_in_l2_are_right_without_offloads: segments_are_right, L2;
    segments_in_l3_are_right_without_offloads: segments_are_right, L3;
    segments_in_l3s_are_right_without_offloads: segments_are_right, L3s;
    sctp_works_in_l2: sctp_works, L2;
    sctp_works_in_l3: sctp_works, L3;
    sctp_works_in_l3s: sctp_works, L3s;
}

/// Whether the checksum of TCP or UDP is right, or its sender left it to nobody.
fn is_right(seen: &Seen) -> bool {
    let bytes = &seen.bytes;
    let (protocol, addresses, message) = match seen.ethertype() {
        ethertype::IPV4 => (bytes[23], 26..34, 14 + usize::from(bytes[14] & 15) * 4),
        _ => (bytes[20], 22..54, 54),
    };
    let end = match seen.ethertype() {
        ethertype::IPV4 => 14 + usize::from(seen.u16_at(16)),
        _ => 54 + usize::from(seen.u16_at(18)),
    };
    let length = u32::try_from(end - message).expect("short").to_be_bytes();
    let sum = checksum(&[
        &bytes[addresses],
        &length,
        &[0, 0, 0, protocol],
        &bytes[message..end],
    ]);
    sum == [0, 0]
}

/// What the devices leave to the parent, as they may: the kernel has to cut it in pieces and to write
/// the checksums, since the parent says that it does neither.
fn segments_are_right(mode: Mode) {
    let net = Net::new(mode).devices(2).build();
    net.host
        .sh("ethtool -K eth0 tso off gso off gro off tx off sg off");
    net.lan
        .sh("ethtool -K lan0 tso off gso off gro off rx off tx off");
    let [a, b] = [net.dev(0), net.dev(1)];
    for address in a.addresses() {
        let address: IpAddr = address.parse().expect("an address");
        let tcp = traffic::tcp(&a.ns, address, &net.lan, 1 << 20);
        assert!(
            tcp.is_ok(),
            "{mode}, TCP to {address} without offloads: {tcp:?}"
        );
    }
    for address in b.addresses() {
        let address: IpAddr = address.parse().expect("an address");
        let tcp = traffic::tcp(&b.ns, address, &a.ns, 1 << 20);
        assert!(tcp.is_ok(), "{mode}, siblings: {tcp:?}");
    }
    for (lan, own) in [
        (IpAddr::V4(LAN4), IpAddr::from(a.v4)),
        (LAN6.into(), a.v6.into()),
    ] {
        let from_us = |seen: &Seen| match own {
            IpAddr::V4(own) => seen.bytes.get(26..30) == Some(&own.octets()[..]),
            IpAddr::V6(own) => seen.bytes.get(22..38) == Some(&own.octets()[..]),
        };
        let wire = Sniffer::on(&net.lan, "lan0");
        let tcp = traffic::tcp(&net.lan, lan, &a.ns, 300_000);
        assert!(tcp.is_ok(), "{mode}, TCP to {lan}: {tcp:?}");
        let mut seen = wire.heard();
        seen.retain(from_us);
        let wrong = seen
            .iter()
            .find(|seen| seen.bytes.len() > 1514 || !is_right(seen));
        assert_eq!(wrong, None, "{mode}: segments to {lan}");
        assert!(seen.len() > 200, "{mode}: {} segments to {lan}", seen.len());

        // One call, one packet for the device, and twenty datagrams for the wire.
        let words: Vec<Vec<u8>> = (0..20).map(|n| vec![b'a' + n; 1200]).collect();
        let mouth = a.ns.enter(|| UdpSocket::bind((own, 0))).expect("a socket");
        setsockopt(&mouth, sockopt::UdpGsoSegment, &1200).expect("UDP_SEGMENT");
        let sibling = if lan.is_ipv4() {
            b.v4.into()
        } else {
            IpAddr::from(b.v6)
        };
        for (ns, to) in [(&net.lan, lan), (&b.ns, sibling)] {
            let ear = Ear::on(ns, to);
            let _: usize = mouth.send_to(&words.concat(), (to, PORT)).expect("sent");
            for word in &words {
                let heard = ear.hears(word, PATIENCE);
                assert_eq!(heard, Some(own), "{mode}: datagrams to {to}");
            }
        }
        let mut seen = wire.heard();
        seen.retain(|seen| from_us(seen) && seen.contains(&[b'c'; 1200]));
        assert_eq!(
            seen.len(),
            1,
            "{mode}: the wire has the datagram for {lan} only"
        );
        assert!(is_right(&seen[0]), "{mode}: {seen:?}");
    }
}

fn sctp_works(mode: Mode) {
    let kernel = socket(
        AddressFamily::Inet,
        SockType::Stream,
        SockFlag::empty(),
        SockProtocol::Sctp,
    );
    if kernel.is_err() {
        eprintln!("this kernel has no SCTP");
        return;
    }
    let net = Net::new(mode).devices(2).build();
    let [a, b] = [net.dev(0), net.dev(1)];
    let pairs = [
        (
            &a.ns,
            &net.lan,
            "10.1.0.254".to_owned(),
            "[fd00::254]".to_owned(),
        ),
        (&net.lan, &a.ns, a.v4.to_string(), format!("[{}]", a.v6)),
        (&a.ns, &b.ns, b.v4.to_string(), format!("[{}]", b.v6)),
    ];
    for (client, server, v4, v6) in pairs {
        for (family, address) in [(4, v4), (6, v6)] {
            let listener = server.spawn(&format!("socat -u SCTP{family}-LISTEN:7008 -"));
            let said = eventually(PATIENCE, || {
                client
                    .shell(&format!(
                        "head -c 40000 /dev/zero | socat -u - SCTP{family}:{address}:7008"
                    ))
                    .ok()
            });
            assert!(said, "{mode}: SCTP to {address}");
            assert_eq!(listener.finish().len(), 40_000, "{mode}: SCTP to {address}");
        }
    }
}

/// Whether a ping with packets of `bytes` comes back. `df`: `do` or `dont`.
fn comes_back(from: &Ns, address: &str, df: &str, bytes: u32) -> bool {
    let size = bytes - if address.contains(':') { 48 } else { 28 };
    let line = format!("ping -n -q -c 3 -i 0.1 -W 1 -M {df} -s {size} {address}");
    from.try_sh(&line).ok()
}

#[test]
fn a_route_of_the_host_with_a_smaller_mtu_in_l3() {
    a_route_of_the_host_with_a_smaller_mtu(Mode::L3);
}

#[test]
fn a_route_of_the_host_with_a_smaller_mtu_in_l3s() {
    a_route_of_the_host_with_a_smaller_mtu(Mode::L3s);
}

fn a_route_of_the_host_with_a_smaller_mtu(mode: Mode) {
    let net = Net::new(mode).devices(1).build();
    let here = |ours, driver| match mode {
        Mode::L3 => differs("l3-too-big", ours, driver),
        Mode::L2 | Mode::L3s => driver,
    };
    net.host
        .batch("route add 10.1.0.254 dev eth0 mtu 1000\nroute add fd00::254 dev eth0 mtu 1280\n");
    let dev = net.dev(0);
    let wire = Sniffer::on(&net.lan, "lan0");
    for address in ["10.1.0.254", "fd00::254"] {
        assert!(comes_back(&dev.ns, address, "do", 1000), "what fits");
        // The driver's device is not told what would fit.
        let large = here(true, false);
        assert_eq!(comes_back(&dev.ns, address, "do", 1300), large, "{address}");
        assert_eq!(
            comes_back(&dev.ns, address, "do", 1300),
            large,
            "{address} again"
        );
    }
    let _: Vec<Seen> = wire.heard();
    assert!(
        comes_back(&dev.ns, "10.1.0.254", "dont", 1300),
        "what may be cut"
    );
    let seen = wire.heard();
    let from = |seen: &&Seen| seen.bytes.get(26..30) == Some(&dev.v4.octets()[..]);
    let longest = seen.iter().filter(from).map(|seen| seen.bytes.len()).max();
    let fits = longest.is_some_and(|longest| longest <= 1014);
    assert_eq!(fits, here(false, true), "{mode}: {longest:?}");
}

#[test]
fn a_device_may_not_send_more_than_its_parent() {
    for mode in Mode::ALL {
        let net = Net::new(mode).devices(1).build();
        let dev = net.dev(0);
        dev.ns.sh("ip link set ipvl0 mtu 4000");
        for address in ["10.1.0.254", "fd00::254"] {
            assert!(
                comes_back(&dev.ns, address, "do", 1500),
                "{mode}: what fits"
            );
            assert!(
                !comes_back(&dev.ns, address, "do", 3000),
                "{mode}: {address}"
            );
        }
        let cut = match mode {
            Mode::L2 => false,
            Mode::L3 => differs("l3-too-big", false, true),
            Mode::L3s => true,
        };
        assert_eq!(
            comes_back(&dev.ns, "10.1.0.254", "dont", 3000),
            cut,
            "{mode}: what may be cut"
        );
        // TCP makes its segments as the other end can take them.
        let tcp = traffic::tcp(&net.lan, LAN4.into(), &dev.ns, 1 << 20);
        assert!(tcp.is_ok(), "{mode}: {tcp:?}");
    }
}

#[test]
fn a_larger_sibling_is_not_a_black_hole() {
    for mode in [Mode::L2, Mode::L3] {
        let net = Net::new(mode).devices(2).build();
        let [a, b] = [net.dev(0), net.dev(1)];
        a.ns.sh("ip link set ipvl0 mtu 4000");
        let sibling = IpAddr::from(b.v4);
        let tcp = traffic::tcp(&b.ns, sibling, &a.ns, 1 << 20);
        assert!(
            tcp.is_ok(),
            "{mode}: MTU 4000 to a sibling with 1500: {tcp:?}"
        );
        let [ear, mouth] = [&b.ns, &a.ns].map(|ns| Ear::on(ns, sibling));
        let large = [7; 3000];
        mouth.say(sibling, 0, &large);
        let came = ear.hears(&large, Duration::from_secs(1)).is_some();
        assert_eq!(came, differs("sibling-mtu", true, false), "{mode}");
    }
}
