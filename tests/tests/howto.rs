//! Section 6 of the kernel's ipvlan HOWTO, typed line by line, and what works after it.

#![expect(
    clippy::expect_used,
    reason = "clippy knows a test by its attribute, not the functions beside it"
)]

use std::net::IpAddr;
use std::time::{Duration, Instant};

use ipvlan_tests::traffic::{self, Ear};
use ipvlan_tests::{Mode, Net, Ns, PATIENCE, cable, eventually};

const MEGABYTES: usize = 4 << 20;

/// A net without devices, and ns0 and ns1 configured as the HOWTO says. `ip netns exec` with a
/// shell in it is left out: each line runs inside.
fn typed(mode: Mode) -> (Net, [Ns; 2]) {
    let net = Net::new(mode).build();
    // (a)
    let namespaces = [net.namespace("ns0"), net.namespace("ns1")];
    // (b)
    for name in ["ipvl0", "ipvl1"] {
        let line = format!("link add link eth0 {name} type ipvlan mode {mode}");
        net.ip(&net.host, &line).expect_quiet();
    }
    for (number, ns) in namespaces.iter().enumerate() {
        // (c)
        net.host
            .sh(&format!("ip link set dev ipvl{number} netns {}", ns.name()));
        // (d)
        let (v4, v6) =
            ipvlan_tests::device::addresses(mode, u16::try_from(number).expect("0 or 1"));
        let lines = [
            format!("ip link set dev ipvl{number} up"),
            "ip link set dev lo up".into(),
            format!("ip -4 addr add {v4}/24 dev ipvl{number}"),
            format!("ip -6 addr add {v6}/64 dev ipvl{number}"),
            match mode {
                Mode::L2 => format!("ip -4 route add default via 10.1.0.254 dev ipvl{number}"),
                Mode::L3 | Mode::L3s => format!("ip -4 route add default dev ipvl{number}"),
            },
            match mode {
                Mode::L2 => format!("ip -6 route add default via fd00::254 dev ipvl{number}"),
                Mode::L3 | Mode::L3s => format!("ip -6 route add default dev ipvl{number}"),
            },
        ];
        for line in lines {
            assert_eq!(ns.read(&line), "", "`{line}` has nothing to say");
        }
    }
    (net, namespaces)
}

/// Everybody who should reach everybody: namespace, and how the others call it.
fn everybody<'a>(net: &'a Net, ns: &'a [Ns; 2]) -> [(&'a Ns, [String; 2]); 3] {
    let of = |number| {
        let (v4, v6) = ipvlan_tests::device::addresses(net.mode, number);
        [v4.to_string(), v6.to_string()]
    };
    [
        (&ns[0], of(0)),
        (&ns[1], of(1)),
        (&net.lan, ["10.1.0.254".into(), "fd00::254".into()]),
    ]
}

fn for_each_pair(net: &Net, ns: &[Ns; 2], mut f: impl FnMut(&Ns, &Ns, &str)) {
    let all = everybody(net, ns);
    for (from, _) in &all {
        for (to, addresses) in &all {
            if from.name() != to.name() {
                for address in addresses {
                    f(from, to, address);
                }
            }
        }
    }
}

fn everybody_reaches_everybody(mode: Mode) {
    let (net, ns) = typed(mode);
    for_each_pair(&net, &ns, |from, _, address| {
        assert!(from.reaches(address), "{} reaches {address}", from.name());
    });
    for_each_pair(&net, &ns, |from, _, address| {
        let big = from.try_sh(&format!("ping -n -q -c 3 -i 0.1 -W 2 -s 20000 {address}"));
        assert!(
            big.stdout.contains(" 0% packet loss"),
            "{} reaches {address} with 20,000 bytes: {}",
            from.name(),
            big.stdout
        );
    });
    for_each_pair(&net, &ns, |from, to, address| {
        let address: IpAddr = address.parse().expect("an address");
        let tcp = traffic::tcp(to, address, from, MEGABYTES);
        let seen = tcp.unwrap_or_else(|why| panic!("TCP {} to {address}: {why}", from.name()));
        let own = everybody(&net, &ns)
            .into_iter()
            .find(|(ns, _)| ns.name() == from.name());
        let own = own.expect("one of them").1;
        assert!(
            own.contains(&seen.to_string()),
            "{seen} is the client's own address, no NAT"
        );
        for bytes in [1, 1472, 20_000] {
            let udp = traffic::udp(to, address, from, bytes);
            let _: IpAddr =
                udp.unwrap_or_else(|why| panic!("UDP {} to {address}: {why}", from.name()));
        }
    });
}

#[test]
fn the_howto_works_in_l2() {
    everybody_reaches_everybody(Mode::L2);
}

#[test]
fn the_howto_works_in_l3() {
    everybody_reaches_everybody(Mode::L3);
}

#[test]
fn the_howto_works_in_l3s() {
    everybody_reaches_everybody(Mode::L3s);
}

fn iperf(mode: Mode) {
    let net = Net::new(mode).devices(2).build();
    let [a, b] = [&net.devices[0], &net.devices[1]];
    let pairs = [
        (&net.lan, a.v4.to_string(), &a.ns),
        (&a.ns, "10.1.0.254".into(), &net.lan),
        (&a.ns, b.v4.to_string(), &b.ns),
    ];
    for (client, address, server) in pairs {
        let mut daemon = server.spawn("iperf3 -s -1");
        assert!(
            eventually(PATIENCE, || server.read("ss -Hltn").contains(":5201")),
            "iperf3 listens"
        );
        let done = client.try_sh(&format!("iperf3 -c {address} -n 256M -J"));
        let json: serde_json::Value =
            serde_json::from_str(&done.stdout).expect("JSON of iperf3 -J");
        let received = json["end"]["sum_received"]["bytes"].as_u64().unwrap_or(0);
        // It stops counting when the sender has sent the last byte, not when that arrives; what the
        // sockets' buffers hold is not counted.
        assert!(
            received >= 224 << 20,
            "256 MB by iperf3 to {address}: {received}, {done:?}"
        );
        assert!(
            eventually(PATIENCE, || !daemon.is_alive()),
            "iperf3 -1 ends"
        );
    }
}

#[test]
fn iperf3_runs_in_l2() {
    iperf(Mode::L2);
}

#[test]
fn iperf3_runs_in_l3() {
    iperf(Mode::L3);
}

#[test]
fn iperf3_runs_in_l3s() {
    iperf(Mode::L3s);
}

/// Says something from `from` to `to` and tells which of the others heard it.
fn heard(from: (&Ns, &str), to: IpAddr, others: &[(&Ns, &str)], word: &str) -> Vec<bool> {
    let ears: Vec<Ear> = others
        .iter()
        .map(|(ns, interface)| {
            let ear = Ear::on(ns, to);
            if to.is_multicast() && to != "ff02::1".parse::<IpAddr>().expect("all nodes") {
                ear.join(ns, to, interface);
            }
            ear
        })
        .collect();
    let mouth = Ear::on(from.0, to);
    // Joining takes effect at once here, but reports on the wire need not be waited for.
    let sent = mouth.try_say(to, from.0.index(from.1), word.as_bytes());
    if sent.is_err() {
        return vec![false; others.len()];
    }
    let end = Instant::now() + Duration::from_millis(400);
    ears.iter()
        .map(|ear| {
            ear.hears(
                word.as_bytes(),
                end.saturating_duration_since(Instant::now()),
            )
        })
        .map(|from| from.is_some())
        .collect()
}

fn multicast_routes(net: &Net) {
    for dev in &net.devices {
        dev.ns
            .sh(&format!("ip route add 224.0.0.0/4 dev {}", dev.name));
        dev.ns
            .sh(&format!("ip route add 255.255.255.255/32 dev {}", dev.name));
    }
    net.lan.sh("ip route add 224.0.0.0/4 dev lan0");
    net.lan.sh("ip route add 255.255.255.255/32 dev lan0");
}

const GROUPS: [&str; 5] = [
    "10.1.0.255",
    "255.255.255.255",
    "239.1.2.3",
    "ff02::1",
    "ff15::1234",
];

#[test]
fn broadcast_and_multicast_go_everywhere_in_l2() {
    let net = Net::new(Mode::L2).devices(3).build();
    multicast_routes(&net);
    let mut all: Vec<(&Ns, &str)> = net
        .devices
        .iter()
        .map(|dev| (&dev.ns, dev.name.as_str()))
        .collect();
    all.push((&net.lan, "lan0"));
    for group in GROUPS {
        for from in &all {
            let others: Vec<(&Ns, &str)> = all
                .iter()
                .filter(|other| other.0.name() != from.0.name())
                .copied()
                .collect();
            let to = group.parse().expect("an address");
            let word = format!("{group} from {}", from.1);
            assert_eq!(
                heard(*from, to, &others, &word),
                vec![true; others.len()],
                "{word} is heard by all of {:?}",
                others.iter().map(|other| other.1).collect::<Vec<_>>()
            );
        }
    }
}

#[test]
fn broadcast_is_heard_once() {
    let net = Net::new(Mode::L2).devices(3).build();
    multicast_routes(&net);
    for group in GROUPS {
        let to: IpAddr = group.parse().expect("an address");
        let ears: Vec<Ear> = net.devices[1..]
            .iter()
            .map(|dev| {
                let ear = Ear::on(&dev.ns, to);
                if to.is_multicast() && group != "ff02::1" {
                    ear.join(&dev.ns, to, &dev.name);
                }
                ear
            })
            .collect();
        for (from, interface) in [(&net.lan, "lan0"), (&net.dev(0).ns, "ipvl0")] {
            let mouth = Ear::on(from, to);
            mouth.say(to, from.index(interface), b"once");
            for ear in &ears {
                assert!(
                    ear.hears(b"once", PATIENCE).is_some(),
                    "{group} from {interface}"
                );
                assert_eq!(
                    ear.hears(b"once", Duration::from_millis(100)),
                    None,
                    "{group} from {interface} does not come twice"
                );
            }
        }
    }
}

#[test]
fn there_is_no_broadcast_and_no_multicast_in_l3() {
    there_is_no_broadcast_and_no_multicast(Mode::L3);
}

#[test]
fn there_is_no_broadcast_and_no_multicast_in_l3s() {
    there_is_no_broadcast_and_no_multicast(Mode::L3s);
}

fn there_is_no_broadcast_and_no_multicast(mode: Mode) {
    let net = Net::new(mode).devices(2).build();
    multicast_routes(&net);
    let [a, b] = [&net.devices[0], &net.devices[1]];
    for group in [
        "255.255.255.255",
        "10.1.0.255",
        "239.1.2.3",
        "ff02::1",
        "ff15::1234",
    ] {
        let to: IpAddr = group.parse().expect("an address");
        for (from, others) in [
            ((&a.ns, "ipvl0"), [(&b.ns, "ipvl1"), (&net.lan, "lan0")]),
            ((&b.ns, "ipvl1"), [(&a.ns, "ipvl0"), (&net.lan, "lan0")]),
        ] {
            // 10.1.0.255 is on another subnet for a device in l3: an address like any other.
            let word = format!("{group} from {}", from.1);
            assert_eq!(
                heard(from, to, &others, &word),
                [false, false],
                "{mode}: {word} is heard by nobody"
            );
        }
        let word = format!("{group} from the LAN");
        assert_eq!(
            heard(
                (&net.lan, "lan0"),
                to,
                &[(&a.ns, "ipvl0"), (&b.ns, "ipvl1")],
                &word
            ),
            [false, false],
            "{mode}: {word} is heard by no device"
        );
    }
}

#[test]
fn devices_in_l3_need_no_neighbours() {
    devices_need_no_neighbours(Mode::L3);
}

#[test]
fn devices_in_l3s_need_no_neighbours() {
    devices_need_no_neighbours(Mode::L3s);
}

fn devices_need_no_neighbours(mode: Mode) {
    let net = Net::new(mode).devices(2).build();
    let [a, b] = [&net.devices[0], &net.devices[1]];
    for address in ["10.1.0.254", "fd00::254"]
        .into_iter()
        .chain(b.addresses().iter().map(|a| &**a))
    {
        assert!(a.ns.reaches(address), "ns0 reaches {address}");
    }
    for dev in [a, b] {
        let table = dev.ns.read("ip neigh show");
        let foreign: Vec<&str> = table
            .lines()
            .filter(|line| !line.contains("NOARP"))
            .collect();
        assert!(
            foreign.is_empty(),
            "a device in {mode} has no neighbours: {foreign:?}"
        );
        let link = dev.ns.read(&format!("ip link show {}", dev.name));
        assert!(
            link.contains("NOARP"),
            "a device in {mode} shows NOARP: {link}"
        );
    }
    let l2 = Net::new(Mode::L2).devices(1).build();
    let link = l2.dev(0).ns.read("ip link show ipvl0");
    assert!(!link.contains("NOARP"), "a device in l2 does ARP: {link}");
}

#[test]
fn what_is_behind_the_router_is_reached_in_l2() {
    what_is_behind_the_router_is_reached(Mode::L2);
}

#[test]
fn what_is_behind_the_router_is_reached_in_l3() {
    what_is_behind_the_router_is_reached(Mode::L3);
}

#[test]
fn what_is_behind_the_router_is_reached_in_l3s() {
    what_is_behind_the_router_is_reached(Mode::L3s);
}

fn what_is_behind_the_router_is_reached(mode: Mode) {
    let net = Net::new(mode).devices(2).build();
    let far = net.namespace("far");
    cable((&net.lan, "far0"), (&far, "net0"), 9);
    far.batch("route add default via 10.9.0.1\nroute add ::/0 via fd09::1\n");
    net.lan.sysctl("net/ipv4/ip_forward", "1");
    net.lan.sysctl("net/ipv6/conf/all/forwarding", "1");
    // The host's own way there; in l3 it is the devices' too.
    net.host
        .batch("route add default via 10.1.0.254\nroute add ::/0 via fd00::254\n");
    for dev in &net.devices {
        for address in ["10.9.0.2", "fd09::2"] {
            assert!(
                dev.ns.reaches(address),
                "{mode}: {} reaches {address}",
                dev.name
            );
        }
        for address in dev.addresses() {
            assert!(
                far.reaches(&address),
                "{mode}: the far side reaches {address}"
            );
            let address = address.parse().expect("an address");
            let tcp = traffic::tcp(&dev.ns, address, &far, MEGABYTES);
            assert!(tcp.is_ok(), "{mode}: TCP from behind the router: {tcp:?}");
        }
    }
}
