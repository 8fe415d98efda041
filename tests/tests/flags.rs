//! bridge, private, vepa: who may talk to whom, in each mode, and when the flag changes.

#![expect(
    clippy::expect_used,
    reason = "clippy knows a test by its attribute, not the functions beside it"
)]

use std::io::{Read as _, Write as _};
use std::net::{IpAddr, Ipv4Addr};
use std::time::Duration;

use ipvlan_tests::packet::{self, ALL_NODES, BROADCAST, FORGED, Mac, ethernet, ethertype, nd};
use ipvlan_tests::sniff::Sender;
use ipvlan_tests::traffic::{self, Ear, PORT};
use ipvlan_tests::{
    Dev, HOST4, HOST6, LAN4, LAN6, Mode, Net, PATIENCE, Places, Seen, Sniffer, differs,
};
use nix::errno::Errno;

const FLAGS: [&str; 3] = ["bridge", "private", "vepa"];

/// What a frame is, the frame with a word in it, and where it turns up: in bridge, private, vepa.
type Case = (&'static str, Maker, [&'static str; 3]);

type Maker = Box<dyn Fn(&[u8]) -> Vec<u8>>;

/// UDP to an address in a frame to a MAC address.
fn udp(macs: (Mac, Mac), from: &Dev, to: impl Into<IpAddr>) -> Maker {
    let (destination, source) = macs;
    let (v4, v6) = (from.v4, from.v6);
    match to.into() {
        IpAddr::V4(to) => Box::new(move |word| {
            let packet = packet::udp4(v4, to, 9, word);
            ethernet(destination, source, ethertype::IPV4, &packet)
        }),
        IpAddr::V6(to) => Box::new(move |word| {
            let packet = packet::udp6(v6, to, 9, word);
            ethernet(destination, source, ethertype::IPV6, &packet)
        }),
    }
}

/// What is not IP.
fn other(destination: Mac, source: Mac) -> Maker {
    Box::new(move |word| ethernet(destination, source, ethertype::EXPERIMENT, word))
}

/// Changes the flag of a port that is at work.
#[track_caller]
fn set(net: &Net, flag: &str) {
    let line = format!("link set dev ipvl0 type ipvlan mode {} {flag}", net.mode);
    net.ip(&net.dev(0).ns, &line).expect_quiet();
}

/// Makes a neighbour of each device out of each other: the MAC address that all have.
fn acquaint(net: &Net) {
    let mac = packet::mac_text(net.mac());
    for dev in &net.devices {
        for other in net.devices.iter().filter(|other| other.v4 != dev.v4) {
            for address in other.addresses() {
                dev.ns.sh(&format!(
                    "ip neigh replace {address} lladdr {mac} dev {} nud permanent",
                    dev.name
                ));
            }
        }
    }
}

/// What the first device sends to a sibling and to itself, by the MAC address that they share.
fn among_devices(net: &Net) -> [Case; 3] {
    let own = (net.mac(), net.mac());
    let [dev, sibling] = [net.dev(0), net.dev(1)];
    let to_sibling = ["ipvl1", "nowhere", "wire"];
    let to_itself = ["ipvl0", "nowhere", "wire"];
    [
        ("to a sibling", udp(own, dev, sibling.v4), to_sibling),
        ("to a sibling", udp(own, dev, sibling.v6), to_sibling),
        ("to itself", udp(own, dev, dev.v4), to_itself),
    ]
}

/// [`among_devices`] and each other case, sent from the first of three devices under each flag, which is changed in between.
fn walk_the_table(net: &Net, others: Vec<Case>) {
    let mut cases = Vec::from(among_devices(net));
    cases.extend(others);
    let places = Places::of(net);
    let sender = Sender::on(&net.dev(0).ns, "ipvl0");
    let mut wrong = Vec::new();
    for (column, flag) in FLAGS.into_iter().enumerate() {
        set(net, flag);
        let words: Vec<String> = (0..cases.len()).map(|n| format!("[{flag} {n}]")).collect();
        let send = |(case, word): (&Case, &String)| sender.try_send(&case.1(word.as_bytes()));
        let sent: Vec<_> = cases.iter().zip(&words).map(send).collect();
        let heard = places.hear();
        for (number, (what, _, expected)) in cases.iter().enumerate() {
            let found = heard.of_word(words[number].as_bytes()).to_string();
            let lost = found == "nowhere";
            let told = if lost { Err(Errno::ENOBUFS) } else { Ok(()) };
            let told = differs("send-errors", Ok(()), told);
            if found != expected[column] || sent[number] != told {
                wrong.push(format!(
                    "{flag}: {what}: {found}, not {}; send: {:?}",
                    expected[column], sent[number]
                ));
            }
        }
    }
    assert!(wrong.is_empty(), "{}: {wrong:#?}", net.mode);
    // With whichever flag: the wire may send back what a sibling sent.
    let mac = net.mac();
    let wire = Sender::on(&net.lan, "lan0");
    for flag in FLAGS {
        set(net, flag);
        let [from, to] = [net.dev(0), net.dev(1)];
        let word = format!("[{flag} back]");
        let word = word.as_bytes();
        let v4 = packet::udp4(from.v4, to.v4, PORT, word);
        let v6 = packet::udp6(from.v6, to.v6, PORT, word);
        for (address, kind, packet) in [
            (IpAddr::from(to.v4), ethertype::IPV4, v4),
            (to.v6.into(), ethertype::IPV6, v6),
        ] {
            let ear = Ear::on(&to.ns, address);
            wire.send(&ethernet(mac, mac, kind, &packet));
            let heard = ear.hears(word, PATIENCE);
            assert!(heard.is_some(), "{}, {flag}: {address}", net.mode);
        }
    }
}

#[test]
fn each_flag_decides_where_frames_go_in_l2() {
    let net = Net::new(Mode::L2).devices(3).build();
    let (mac, lan) = (net.mac(), net.lan.mac("lan0"));
    let [dev, sibling] = [net.dev(0), net.dev(1)];
    let own = (mac, mac);
    let broken: Maker = Box::new(move |word| {
        let mut packet = packet::udp4(HOST4, LAN4, 9, word);
        packet[0] = 0x44;
        ethernet(mac, mac, ethertype::IPV4, &packet)
    });
    let nobody = Ipv4Addr::new(10, 1, 0, 99);
    let all = Ipv4Addr::new(10, 1, 0, 255);
    let group = (nd::group_mac(ALL_NODES), mac);
    let siblings = "wire, ipvl1, ipvl2";
    let private = differs("private-broadcast", "wire", siblings);
    walk_the_table(
        &net,
        vec![
            (
                "to the host",
                udp(own, dev, HOST4),
                ["host", "host", "wire"],
            ),
            (
                "to the host",
                udp(own, dev, HOST6),
                ["host", "host", "wire"],
            ),
            ("to nobody", udp(own, dev, nobody), ["host", "host", "wire"]),
            ("malformed", broken, ["host", "host", "wire"]),
            ("not IP", other(mac, mac), ["host", "host", "wire"]),
            ("to the LAN", udp((lan, mac), dev, LAN4), ["wire"; 3]),
            ("to the LAN", udp((lan, mac), dev, LAN6), ["wire"; 3]),
            // Whom it is for in IP is not asked where the MAC address is the LAN's.
            ("by the LAN", udp((lan, mac), dev, sibling.v4), ["wire"; 3]),
            ("not IP", other(lan, mac), ["wire"; 3]),
            (
                "broadcast",
                other(BROADCAST, mac),
                [siblings, private, siblings],
            ),
            (
                "broadcast",
                udp((BROADCAST, mac), dev, all),
                [siblings, private, siblings],
            ),
            (
                "all nodes",
                udp(group, dev, ALL_NODES),
                [siblings, private, siblings],
            ),
            (
                "odd",
                udp((BROADCAST, mac), dev, LAN4),
                [siblings, private, siblings],
            ),
        ],
    );
}

fn each_flag_decides_where_packets_go(mode: Mode) {
    let net = Net::new(mode).devices(3).build();
    // What is for a sibling goes this way in vepa; without a route the host asks the wire for it.
    net.host
        .batch("route add 10.2.0.0/16 via 10.1.0.254\nroute add fd02::/16 via fd00::254\n");
    let (mac, lan) = (net.mac(), net.lan.mac("lan0"));
    let [dev, sibling] = [net.dev(0), net.dev(1)];
    let own = (mac, mac);
    let group = Ipv4Addr::new(239, 1, 2, 3);
    walk_the_table(
        &net,
        vec![
            // What is in the Ethernet header means nothing.
            (
                "by the LAN",
                udp((lan, FORGED), dev, sibling.v4),
                ["ipvl1", "nowhere", "wire"],
            ),
            ("to the LAN", udp(own, dev, LAN4), ["wire"; 3]),
            ("to the LAN", udp(own, dev, LAN6), ["wire"; 3]),
            ("not IP", other(lan, mac), ["nowhere"; 3]),
            ("not IP, all", other(BROADCAST, mac), ["nowhere"; 3]),
            (
                "broadcast",
                udp(own, dev, Ipv4Addr::BROADCAST),
                ["nowhere"; 3],
            ),
            (
                "broadcast",
                udp((BROADCAST, mac), dev, LAN4),
                ["nowhere"; 3],
            ),
            (
                "multicast",
                udp((BROADCAST, mac), dev, group),
                ["nowhere"; 3],
            ),
            (
                "all nodes",
                udp((BROADCAST, mac), dev, ALL_NODES),
                ["nowhere"; 3],
            ),
        ],
    );
    // By which interface the host hears it is another matter.
    for flag in FLAGS {
        set(&net, flag);
        for address in [IpAddr::from(HOST4), HOST6.into()] {
            let ear = Ear::on(&net.host, address);
            Ear::on(&dev.ns, address).say(address, 0, flag.as_bytes());
            let from = ear.hears(flag.as_bytes(), PATIENCE);
            assert!(from.is_some(), "{mode}, {flag}: the host at {address}");
        }
    }
}

#[test]
fn each_flag_decides_where_packets_go_in_l3() {
    each_flag_decides_where_packets_go(Mode::L3);
}

#[test]
fn each_flag_decides_where_packets_go_in_l3s() {
    each_flag_decides_where_packets_go(Mode::L3s);
}

fn connections_follow_the_flag(mode: Mode) {
    let net = Net::new(mode).flag("private").devices(2).build();
    let [a, b] = [net.dev(0), net.dev(1)];
    acquaint(&net);
    let apart = || {
        for (from, to) in [(a, b), (b, a)] {
            for address in to.addresses() {
                let ping = format!("ping -n -q -c 3 -i 0.1 -W 0.4 {address}");
                let done = from.ns.try_sh(&ping);
                assert!(!done.ok(), "{mode}: private isolates siblings: {address}");
                // Nobody tells them why.
                let said = done.stdout + &done.stderr;
                assert!(!said.contains("Unreachable"), "{mode}: {said}");
            }
        }
    };
    apart();
    for dev in &net.devices {
        for address in ["10.1.0.254", "fd00::254"] {
            assert!(dev.ns.reaches(address), "{mode}: the wire stays reachable");
        }
    }
    set(&net, "bridge");
    let wire = Sniffer::on(&net.lan, "lan0");
    for address in b.addresses() {
        assert!(a.ns.reaches(&address), "{mode}: {address} is a sibling");
    }
    let leaked = wire.heard();
    let leaked = leaked
        .iter()
        .find(|seen| seen.contains(&a.v4.octets()) && seen.contains(&b.v4.octets()));
    assert_eq!(leaked, None, "{mode}: the wire has nothing of it");
    let listener = traffic::listen(&b.ns, b.v4.into());
    let mut client = traffic::connect(&a.ns, b.v4.into()).expect("a sibling connects");
    let (mut server, _) = listener.accept().expect("a connection");
    set(&net, "private");
    server
        .set_read_timeout(Some(Duration::from_millis(500)))
        .expect("a timeout");
    client.write_all(b"late").expect("into the socket's buffer");
    let mut got = [0; 4];
    assert!(
        server.read_exact(&mut got).is_err(),
        "{mode}: private stops what is under way"
    );
    set(&net, "bridge");
    server.set_read_timeout(Some(PATIENCE)).expect("a timeout");
    server.read_exact(&mut got).expect("TCP tries again");
    assert_eq!(&got, b"late");
    set(&net, "private");
    apart();
}

#[test]
fn siblings_in_l2_talk_as_the_flag_says() {
    connections_follow_the_flag(Mode::L2);
}

#[test]
fn siblings_in_l3_talk_as_the_flag_says() {
    connections_follow_the_flag(Mode::L3);
}

#[test]
fn siblings_in_l3s_talk_as_the_flag_says() {
    connections_follow_the_flag(Mode::L3s);
}

/// What applications hear of a broadcast: the sibling, and the LAN.
fn broadcast_reaches(net: &Net) -> [bool; 2] {
    let any: IpAddr = LAN4.into();
    let [sibling, lan] = [Ear::on(&net.dev(1).ns, any), Ear::on(&net.lan, any)];
    Ear::on(&net.dev(0).ns, any).say("10.1.0.255".parse().expect("it"), 0, b"to all");
    let lan = lan.hears(b"to all", PATIENCE).is_some();
    [
        sibling
            .hears(b"to all", Duration::from_millis(400))
            .is_some(),
        lan,
    ]
}

#[test]
fn applications_hear_broadcast_as_the_flag_says() {
    let net = Net::new(Mode::L2).flag("vepa").devices(2).build();
    assert_eq!(broadcast_reaches(&net), [true, true]);
    set(&net, "private");
    let private = differs("private-broadcast", [false, true], [true, true]);
    assert_eq!(broadcast_reaches(&net), private);
    set(&net, "bridge");
    assert_eq!(broadcast_reaches(&net), [true, true]);
}

#[test]
fn vepa_sends_siblings_by_way_of_the_wire() {
    let net = Net::new(Mode::L2).flag("vepa").devices(2).build();
    acquaint(&net);
    let wire = Sniffer::on(&net.lan, "lan0");
    let sibling = net.dev(1);
    assert!(
        !net.dev(0).ns.answers(&sibling.v4.to_string()),
        "this LAN has no switch that sends it back"
    );
    let seen = wire.heard();
    let out = seen
        .iter()
        .find(|seen| seen.ethertype() == 0x0800 && seen.contains(&sibling.v4.octets()))
        .expect("vepa: what is for a sibling is on the wire");
    let macs = [out.destination(), out.source()];
    assert_eq!(
        macs,
        [net.mac(); 2],
        "from the parent's MAC address to itself"
    );
    // A hairpin: what comes in on lan0 for the parent's MAC address goes out there again.
    net.lan.batch(
        "link add sw0 type bridge\nlink set sw0 up\naddr flush dev lan0\n\
         link set lan0 master sw0\n",
    );
    net.lan
        .sh("bridge link set dev lan0 hairpin on learning off");
    for address in sibling.addresses() {
        assert!(
            net.dev(0).ns.reaches(&address),
            "siblings meet at the switch"
        );
    }
}

fn vepa_leaves_siblings_to_the_host_s_routes(mode: Mode) {
    let net = Net::new(mode).flag("vepa").devices(2).build();
    let [a, b] = [net.dev(0), net.dev(1)];
    let asked = |seen: &Seen| {
        seen.ethertype() == ethertype::ARP && seen.bytes.get(38..42) == Some(&b.v4.octets()[..])
    };
    let wire = Sniffer::on(&net.lan, "lan0");
    assert!(
        !a.ns.answers(&b.v4.to_string()),
        "{mode}: nobody answers for the sibling"
    );
    // Without a route the host looks for the sibling on the wire.
    let asks = mode == Mode::L3 || differs("l3s-forwarding", false, true);
    let asked = wire.heard().iter().any(asked);
    assert_eq!(asked, asks, "{mode}: without a route");
    net.host
        .batch("route add 10.2.0.0/16 via 10.1.0.254\nroute add fd02::/16 via fd00::254\n");
    net.lan.sysctl("net/ipv4/ip_forward", "1");
    net.lan.sysctl("net/ipv6/conf/all/forwarding", "1");
    for address in b.addresses() {
        assert!(
            a.ns.reaches(&address),
            "{mode}: the router sends it back: {address}"
        );
    }
    let seen = wire.heard();
    let there = |seen: &&Seen| seen.ethertype() == 0x0800 && seen.contains(&b.v4.octets());
    assert!(
        seen.iter().find(there).is_some(),
        "{mode}: it was on the wire"
    );
}

#[test]
fn vepa_in_l3_leaves_siblings_to_the_host_s_routes() {
    vepa_leaves_siblings_to_the_host_s_routes(Mode::L3);
}

#[test]
fn vepa_in_l3s_leaves_siblings_to_the_host_s_routes() {
    vepa_leaves_siblings_to_the_host_s_routes(Mode::L3s);
}

#[test]
fn a_mode_change_keeps_or_resets_the_flag() {
    // iproute2 names a flag always: bridge, when it is told none.
    let net = Net::new(Mode::L2).flag("private").devices(2).build();
    acquaint(&net);
    let sibling = net.dev(1).v4.to_string();
    assert!(!net.dev(0).ns.answers(&sibling), "private");
    net.ip(&net.dev(0).ns, "link set dev ipvl0 type ipvlan mode l2")
        .expect_quiet();
    let talks = differs("flag-kept", false, true);
    assert_eq!(net.dev(0).ns.answers(&sibling), talks);
}
