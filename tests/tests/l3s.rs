//! l3s: what comes for a device, and what it sends, is for the host's netfilter to judge. With the
//! same rules in the other modes, where the host has no say.
//!
//! Row `l3s-forwarding`: where the driver passes the host's INPUT and OUTPUT, ours passes FORWARD,
//! so each set of rules is written once, for [`inward`] and [`outward`].

#![expect(
    clippy::expect_used,
    reason = "clippy knows a test by its attribute, not the functions beside it"
)]

use std::io::ErrorKind;
use std::net::{IpAddr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Duration;

use ipvlan_tests::firewall::{nft, nft_flush};
use ipvlan_tests::packet::{self, ethernet, ethertype};
use ipvlan_tests::sniff::Sender;
use ipvlan_tests::traffic::{self, Ear};
use ipvlan_tests::{
    Dev, HOST4, HOST6, LAN4, LAN6, Mode, Net, PATIENCE, Sniffer, differs, eventually,
    prepare_for_l3s,
};

const PORT: u16 = 7099;
/// Neighbours, which a firewall that means well lets pass.
const ND: &str = "icmpv6 type { nd-neighbor-solicit, nd-neighbor-advert } accept";

/// The hook of the host that sees what comes in from the LAN for a device.
fn inward() -> &'static str {
    differs("l3s-forwarding", "forward", "input")
}

/// The hook of the host that sees what a device sends to the LAN.
fn outward() -> &'static str {
    differs("l3s-forwarding", "forward", "output")
}

/// The LAN's, the host's and the device's address, by family.
fn families(dev: &Dev) -> [(IpAddr, IpAddr, IpAddr); 2] {
    [
        (LAN4.into(), HOST4.into(), dev.v4.into()),
        (LAN6.into(), HOST6.into(), dev.v6.into()),
    ]
}

#[test]
fn tcp_goes_both_ways() {
    let net = Net::new(Mode::L3s).devices(2).build();
    let [zero, one] = [net.dev(0), net.dev(1)];
    for ((lan, _, own), (_, _, sibling)) in families(zero).into_iter().zip(families(one)) {
        for (server, address, client, from) in [
            (&zero.ns, own, &net.lan, lan),
            (&net.lan, lan, &zero.ns, own),
            (&one.ns, sibling, &zero.ns, own),
        ] {
            let seen = traffic::tcp(server, address, client, 1 << 20);
            assert_eq!(seen, Ok(from), "{address} sees who connects");
        }
    }
}

#[test]
fn packet_taps_in_the_device_s_own_namespace() {
    let net = Net::new(Mode::L3s).devices(1).build();
    let dev = net.dev(0);
    let tap = Sniffer::on(&dev.ns, &dev.name);
    for (lan, _, own) in families(dev) {
        let ear = Ear::on(&dev.ns, own);
        let mouth = Ear::on(&net.lan, lan);
        mouth.say(own, 0, b"to the device");
        let from = ear.hears(b"to the device", PATIENCE);
        assert_eq!(from, Some(lan), "its socket hears it");
        ear.say(lan, 0, b"from the device");
        let from = mouth.hears(b"from the device", PATIENCE);
        assert_eq!(from, Some(own), "and answers");
        let seen = tap.drain(Duration::from_millis(100));
        let saw = |what: &[u8]| seen.iter().any(|seen| seen.contains(what));
        assert!(saw(b"from the device"), "a tap sees what is sent: {seen:?}");
        assert_eq!(
            saw(b"to the device"),
            differs("l3s-forwarding", true, false),
            "and what is received: {seen:?}"
        );
    }
}

#[test]
fn a_stateful_firewall_of_the_host() {
    let net = Net::new(Mode::L3s).devices(1).build();
    let dev = net.dev(0);
    let rules = |first: &str| {
        format!(
            "table inet firewall {{\n\
             chain wan {{\n\
             type filter hook {} priority 0\n\
             iifname \"eth0\" ct state established,related accept\n\
             iifname \"eth0\" {ND}\n\
             {first}\n\
             iifname \"eth0\" drop\n\
             }}\n}}",
            inward()
        )
    };
    nft(&net.host, &rules(""));
    for (lan, _, own) in families(dev) {
        assert!(
            dev.ns.reaches(&lan.to_string()),
            "the answer to a device is let through: {lan}"
        );
        assert_eq!(
            traffic::tcp(&net.lan, lan, &dev.ns, 100_000),
            Ok(own),
            "and so is the rest of a connection"
        );
        assert!(
            !net.lan.answers(&own.to_string()),
            "what is new from the LAN is not: {own}"
        );
    }
    nft_flush(&net.host);
    nft(&net.host, &rules("iifname \"eth0\" tcp dport 7007 accept"));
    for (lan, _, own) in families(dev) {
        assert_eq!(
            traffic::tcp(&dev.ns, own, &net.lan, 100_000),
            Ok(lan),
            "but for a port that is open"
        );
        assert!(!net.lan.answers(&own.to_string()), "ping is not: {own}");
    }
    nft_flush(&net.host);
    for address in dev.addresses() {
        assert!(net.lan.reaches(&address), "without rules: {address}");
    }
}

#[test]
fn the_host_decides_who_may_talk_to_the_lan() {
    let net = Net::new(Mode::L3s).devices(2).build();
    let [zero, one] = [net.dev(0), net.dev(1)];
    for hook in [outward(), "postrouting"] {
        nft(
            &net.host,
            &format!(
                "table inet firewall {{\n\
                 chain out {{\n\
                 type filter hook {hook} priority 0\n\
                 ip saddr {} drop\n\
                 ip6 saddr {} drop\n\
                 }}\n}}",
                zero.v4, zero.v6
            ),
        );
        for ((lan, _, _), sibling) in families(zero).into_iter().zip(one.addresses()) {
            let lan = lan.to_string();
            assert!(one.ns.reaches(&lan), "one device may, {hook}: {lan}");
            assert!(!zero.ns.answers(&lan), "the other may not, {hook}: {lan}");
            assert!(
                zero.ns.reaches(&sibling),
                "between devices the host is not asked, {hook}: {sibling}"
            );
        }
        nft_flush(&net.host);
    }
}

#[test]
fn a_firewall_in_the_device_s_own_namespace() {
    for mode in Mode::ALL {
        let net = Net::new(mode).devices(2).build();
        let [zero, one] = [net.dev(0), net.dev(1)];
        nft(
            &zero.ns,
            &format!(
                "table inet firewall {{\n\
                 chain in {{\n\
                 type filter hook input priority 0; policy drop\n\
                 ct state established,related accept\n\
                 {ND}\n\
                 }}\n}}"
            ),
        );
        // The driver's l3s goes past it, to the socket.
        let open = mode == Mode::L3s && differs("l3s-forwarding", false, true);
        for (lan, _, own) in families(zero) {
            let own = own.to_string();
            assert!(
                zero.ns.reaches(&lan.to_string()),
                "{mode}: an answer comes in"
            );
            assert_eq!(
                net.lan.answers(&own),
                open,
                "{mode}: whether the LAN gets past a firewall that is shut"
            );
            assert!(!one.ns.answers(&own), "{mode}: a sibling does not");
        }
        nft_flush(&zero.ns);
        for own in zero.addresses() {
            assert!(net.lan.reaches(&own), "{mode}: without rules");
        }
    }
}

/// A connection from the LAN to a port of the host; whom the server in the device saw.
fn forwarded_port(net: &Net, own: IpAddr, host: IpAddr, lan: IpAddr) -> Option<SocketAddr> {
    let listener = net.dev(0).ns.enter(|| TcpListener::bind((own, PORT)));
    let listener = listener.expect("listen");
    let connect = |wait| {
        let to = SocketAddr::new(host, 7777);
        net.lan.enter(|| TcpStream::connect_timeout(&to, wait))
    };
    let stream = connect(Duration::from_secs(2)).ok()?;
    let (served, from) = listener.accept().expect("a connection");
    assert_eq!(from.ip(), lan, "the device sees who connects");
    io_both_ways(&stream, &served);
    stream.peer_addr().ok()
}

fn io_both_ways(mut one: &TcpStream, mut other: &TcpStream) {
    use std::io::{Read as _, Write as _};
    for stream in [one, other] {
        stream.set_read_timeout(Some(PATIENCE)).expect("a timeout");
    }
    let mut buf = [0; 5];
    one.write_all(b"there").expect("write");
    other.read_exact(&mut buf).expect("it gets there");
    other.write_all(b"again").expect("write");
    one.read_exact(&mut buf).expect("and back");
    assert_eq!(&buf, b"again");
}

#[test]
fn the_host_forwards_a_port_to_a_device() {
    for mode in Mode::ALL {
        let net = Net::new(mode).devices(1).build();
        let dev = net.dev(0);
        nft(
            &net.host,
            &format!(
                "table inet ports {{\n\
                 chain pre {{\n\
                 type nat hook prerouting priority -100\n\
                 iifname \"eth0\" tcp dport 7777 dnat ip to {}:{PORT}\n\
                 iifname \"eth0\" tcp dport 7777 dnat ip6 to [{}]:{PORT}\n\
                 }}\n}}",
                dev.v4, dev.v6
            ),
        );
        for (lan, host, own) in families(dev) {
            let peer = forwarded_port(&net, own, host, lan);
            // Only l3s asks the host's netfilter before it looks whose the packet is.
            let wanted = (mode == Mode::L3s).then_some(SocketAddr::new(host, 7777));
            assert_eq!(peer, wanted, "{mode}: a port of {host} that is a device's");
        }
        for own in dev.addresses() {
            assert!(net.lan.reaches(&own), "{mode}: {own} itself answers");
        }
    }
}

#[test]
fn the_host_hides_a_device_behind_its_own_address() {
    for mode in Mode::ALL {
        let net = Net::new(mode).devices(1).build();
        let dev = net.dev(0);
        nft(
            &net.host,
            &format!(
                "table inet hide {{\n\
                 chain post {{\n\
                 type nat hook postrouting priority 100\n\
                 oifname \"eth0\" ip saddr {} masquerade\n\
                 oifname \"eth0\" ip6 saddr {} masquerade\n\
                 }}\n}}",
                dev.v4, dev.v6
            ),
        );
        for (lan, host, own) in families(dev) {
            let ear = Ear::on(&net.lan, lan);
            let mouth = Ear::on(&dev.ns, own);
            mouth.say(lan, 0, b"who am I?");
            let from = ear.hears(b"who am I?", PATIENCE);
            // l3 of the driver is half of it: what comes back is the host's.
            let (seen, answered) = match mode {
                Mode::L2 => (own, true),
                Mode::L3 => differs("l3-output", (own, true), (host, false)),
                Mode::L3s => (host, true),
            };
            assert_eq!(from, Some(seen), "{mode}: as whom the LAN sees it");
            ear.say(seen, 0, b"you are");
            let timeout = if answered {
                PATIENCE
            } else {
                Duration::from_millis(300)
            };
            let heard = mouth.hears(b"you are", timeout);
            assert_eq!(
                heard,
                answered.then_some(lan),
                "{mode}: whether the answer finds back"
            );
            if mode == Mode::L3s {
                assert_eq!(
                    traffic::tcp(&net.lan, lan, &dev.ns, 1 << 20),
                    Ok(host),
                    "a connection"
                );
            }
        }
    }
}

#[test]
fn errors_come_back() {
    for mode in Mode::ALL {
        let net = Net::new(mode).devices(1).build();
        let dev = net.dev(0);
        for (lan, _, own) in families(dev) {
            for (from, local, to) in [(&net.lan, lan, own), (&dev.ns, own, lan)] {
                let socket = from.enter(|| {
                    let socket = UdpSocket::bind((local, 0)).expect("bind");
                    socket.connect((to, 9)).expect("connect");
                    socket
                });
                socket.set_read_timeout(Some(PATIENCE)).expect("a timeout");
                let _: usize = socket.send(b"is it open?").expect("send");
                let error = socket.recv(&mut [0; 10]).map_err(|error| error.kind());
                assert_eq!(
                    error,
                    Err(ErrorKind::ConnectionRefused),
                    "{mode}: {to} has no such port, and says so"
                );
            }
        }
    }
}

#[test]
fn the_ttl() {
    for mode in Mode::ALL {
        let net = Net::new(mode).devices(1).build();
        let dev = net.dev(0);
        let hop = if mode == Mode::L3s {
            differs("l3s-forwarding", 1, 0)
        } else {
            0
        };
        let wire = Sniffer::on(&net.lan, "lan0");
        let sender = Sender::on(&dev.ns, &dev.name);
        let [lan, mac] = [net.lan.mac("lan0"), net.mac()];
        for spent in [false, true] {
            let four = |mut packet: Vec<u8>| {
                packet[8] = if spent { 1 } else { 64 };
                packet[10..12].fill(0);
                let sum = packet::checksum(&[&packet[..20]]);
                packet[10..12].copy_from_slice(&sum);
                packet
            };
            let six = |mut packet: Vec<u8>| {
                packet[7] = if spent { 1 } else { 64 };
                packet
            };
            for (kind, at, packet) in [
                (
                    ethertype::IPV4,
                    22,
                    four(packet::udp4(dev.v4, LAN4, 9, b"far away")),
                ),
                (
                    ethertype::IPV6,
                    21,
                    six(packet::udp6(dev.v6, LAN6, 9, b"far away")),
                ),
            ] {
                sender.send(&ethernet(lan, mac, kind, &packet));
                let timeout = if spent && hop != 0 {
                    Duration::from_millis(300)
                } else {
                    PATIENCE
                };
                let seen = wire.find(timeout, |seen| {
                    seen.ethertype() == kind && !seen.outgoing && seen.contains(b"far away")
                });
                let wanted = match (spent, hop) {
                    (true, 1) => None,
                    (true, _) => Some(1),
                    (false, _) => Some(64 - hop),
                };
                assert_eq!(
                    seen.map(|seen| seen.bytes[at]),
                    wanted,
                    "{mode}: {kind:04x} with a TTL that is spent: {spent}"
                );
            }
        }
    }
}

#[test]
fn the_host_answers_arp_and_nd_for_devices_if_it_is_told_to() {
    for mode in [Mode::L3, Mode::L3s] {
        let net = Net::new(mode).devices(1).build();
        let dev = net.dev(0);
        let by_host = mode == Mode::L3s && differs("l3s-forwarding", true, false);
        // The LAN takes the device for a neighbour.
        for own in dev.addresses() {
            net.lan.sh(&format!("ip route replace {own} dev lan0"));
        }
        for own in dev.addresses() {
            assert!(!net.lan.answers(&own), "{mode}: nobody says whose {own} is");
        }
        // A route away from the LAN, which is what proxy ARP wants to see; where it leads to does
        // not matter.
        if !by_host {
            net.host.batch(&format!(
                "link add away type veth peer name none\n\
                 link set away up\n\
                 link set none up\n\
                 route add {} dev away\n\
                 route add {} dev away\n",
                dev.v4, dev.v6
            ));
        }
        net.host.sysctl("net/ipv4/ip_forward", "1");
        net.host.sysctl("net/ipv6/conf/all/forwarding", "1");
        net.host.sysctl("net/ipv4/conf/eth0/proxy_arp", "1");
        net.host.sysctl("net/ipv4/neigh/eth0/proxy_delay", "0");
        net.host.sysctl("net/ipv6/neigh/eth0/proxy_delay", "0");
        net.host.sysctl("net/ipv6/conf/eth0/proxy_ndp", "1");
        net.host
            .sh(&format!("ip neigh add proxy {} dev eth0", dev.v6));
        let six = dev.v6.to_string();
        assert!(net.lan.reaches(&six), "{mode}: proxy ND");
        let four = dev.v4.to_string();
        // The driver gives the question to the device, which does not answer.
        if mode == Mode::L3s || differs("l3-arp", true, false) {
            assert!(net.lan.reaches(&four), "{mode}: proxy ARP");
        } else {
            assert!(!net.lan.answers(&four), "{mode}: no proxy ARP");
        }
    }
}

/// What decides what the host forwards, of each of its interfaces.
fn settings(net: &Net) -> Vec<String> {
    let read = |path: &str| {
        let path = format!("/proc/sys/net/{path}");
        let text = net.host.enter(|| std::fs::read_to_string(path));
        text.unwrap_or_default().trim().to_owned()
    };
    let links = net.host.links().into_iter();
    links
        .map(|name| {
            let values = ["forwarding", "rp_filter", "src_valid_mark"]
                .map(|key| format!("{key} {}", read(&format!("ipv4/conf/{name}/{key}"))));
            let six = read(&format!("ipv6/conf/{name}/force_forwarding"));
            let no_arp = net.host.link(&name).flags & 0x80;
            format!("{name}: {values:?} force_forwarding {six} IFF_NOARP {no_arp:x}")
        })
        .collect()
}

#[test]
fn another_mode_leaves_the_host_as_it_was() {
    for mode in [Mode::L2, Mode::L3] {
        let mut net = Net::new(mode).build();
        prepare_for_l3s(&net.host);
        net.host.sysctl("net/ipv4/conf/all/rp_filter", "1");
        net.host.sysctl("net/ipv4/conf/default/rp_filter", "2");
        for _ in 0..2 {
            let number = net.add();
            net.dev(number).configure();
        }
        let dev = net.dev(0);
        let lan = LAN4.to_string();
        assert!(dev.ns.reaches(&lan), "{mode}: before");
        let before = settings(&net);
        let set = |mode: &str| {
            let words = format!("link set dev ipvl0 type ipvlan mode {mode}");
            net.ip(&dev.ns, &words).expect_quiet();
        };
        set("l3s");
        let forwards = settings(&net) != before;
        assert_eq!(forwards, differs("l3s-forwarding", true, false));
        set(&mode.to_string());
        assert_eq!(settings(&net), before, "{mode}");
        assert!(dev.ns.reaches(&lan), "{mode}: after");
    }
}

#[test]
fn modes_change_and_devices_go_under_load() {
    let mut net = Net::new(Mode::L3s).devices(2).build();
    let [lan, mac] = [net.lan.mac("lan0"), net.mac()];
    let sender = Sender::on(&net.lan, "lan0");
    let frames: Vec<Vec<u8>> = net
        .devices
        .iter()
        .flat_map(|dev| {
            let four = packet::udp4(LAN4, dev.v4, PORT, b"load");
            let six = packet::udp6(LAN6, dev.v6, PORT, b"load");
            [
                ethernet(mac, lan, ethertype::IPV4, &four),
                ethernet(mac, lan, ethertype::IPV6, &six),
            ]
        })
        .collect();
    let stop = &AtomicBool::new(false);
    thread::scope(|scope| {
        let load = scope.spawn(|| {
            while !stop.load(Ordering::Relaxed) {
                for frame in &frames {
                    let _: Result<(), _> = sender.try_send(frame);
                }
                thread::sleep(Duration::from_millis(1));
            }
        });
        for mode in ["l3", "l3s", "l3", "l3s", "l3", "l3s"] {
            let dev = net.dev(1);
            let words = format!("link set dev {} type ipvlan mode {mode}", dev.name);
            net.ip(&dev.ns, &words).expect_quiet();
            for address in dev.addresses() {
                assert!(net.lan.reaches(&address), "{mode}: {address} answers");
            }
        }
        // In l3s, the first and the last.
        while let Some(dev) = net.devices.pop() {
            let words = format!("link del dev {}", dev.name);
            net.ip(&dev.ns, &words).expect_quiet();
            if let Some(last) = net.devices.last() {
                assert!(
                    net.lan.reaches(&last.v4.to_string()),
                    "the other one works on"
                );
            }
        }
        stop.store(true, Ordering::Relaxed);
        load.join().expect("the load");
    });
    let gone = eventually(PATIENCE, || {
        !net.host.links().iter().any(|name| name.starts_with("ipv"))
    });
    assert!(gone, "nothing of them is left: {:?}", net.host.links());
    assert!(net.lan.reaches("10.1.0.1"), "the host has survived it");
}
