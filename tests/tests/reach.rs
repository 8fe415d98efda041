//! Who reaches whom, and who on the host and in a device's namespace is asked before.

#![expect(
    clippy::expect_used,
    reason = "clippy knows a test by its attribute, not the functions beside it"
)]

use std::net::{IpAddr, UdpSocket};
use std::time::Duration;

use ipvlan_tests::firewall::{HOOKS, Hooks, XdpDrop, nft, nft_flush};
use ipvlan_tests::packet::{self, FORGED, ethernet, ethertype, ipv4, mac_text, next};
use ipvlan_tests::sniff::Sender;
use ipvlan_tests::traffic::{self, Ear, link_local};
use ipvlan_tests::{
    LAN4, LAN6, Mode, Net, Ns, PATIENCE, Sniffer, cable, differs, eventually, kernel_is_since,
};

const PORT: u16 = 7099;

/// Whether a device gets through to the LAN and back, while something is in the way.
#[track_caller]
fn hindered(net: &Net, what: &str, by: impl FnOnce(), undo: impl FnOnce(), works: bool) {
    let address = net.dev(0).v4.to_string();
    by();
    assert_eq!(
        net.lan.answers(&address),
        works,
        "{}: whether {address} answers in spite of {what}",
        net.mode
    );
    undo();
    assert!(net.lan.reaches(&address), "{}: without {what}", net.mode);
}

/// Drops in tc on ingress: a classic BPF program of one instruction, which returns `TC_ACT_SHOT`.
#[track_caller]
fn drop_in_tc(ns: &Ns, interface: &str) {
    // There is one if ours is older than tcx.
    let _: bool = ns
        .try_sh(&format!("tc qdisc add dev {interface} clsact"))
        .ok();
    let line = format!("tc filter add dev {interface} ingress pref 1 bpf da bytecode");
    let words: Vec<&str> = line.split(' ').chain(["1,6 0 0 2"]).collect();
    let _: String = ns.try_run(&words).expect();
}

fn who_is_asked(mode: Mode) {
    let net = Net::new(mode).devices(1).build();
    let (host, dev) = (&net.host, net.dev(0));
    let drop_ingress = |ns, interface: &str| {
        let chain = format!("type filter hook ingress device {interface} priority 0");
        nft(
            ns,
            &format!("table netdev blocked {{ chain first {{ {chain}; policy drop; }}\n}}"),
        );
    };
    let undrop_tc = |ns: &Ns, interface: &str| {
        ns.sh(&format!("tc filter del dev {interface} ingress pref 1"));
    };
    // In l3s of ours a frame goes through the host's stack, and then by the device as any other.
    let past_the_device = mode == Mode::L3s && differs("l3s-forwarding", false, true);
    let in_front = match mode {
        // Ours is in front of tc by tcx, and behind it by clsact.
        Mode::L2 | Mode::L3 => [
            differs("tc-ingress", kernel_is_since(6, 6), false),
            differs("nft-ingress", true, false),
        ],
        Mode::L3s => [false; 2],
    };
    let ends = [
        (host, "eth0", [false, in_front[0], in_front[1]]),
        (&dev.ns, &dev.name, [past_the_device; 3]),
    ];
    for (ns, name, [xdp, tc, ingress]) in ends {
        let mut held = None;
        let held = &mut held;
        let what = |by| format!("{by} on {name}");
        *held = Some(XdpDrop::on(ns, name));
        hindered(&net, &what("XDP"), || (), || *held = None, xdp);
        hindered(
            &net,
            &what("tc"),
            || drop_in_tc(ns, name),
            || undrop_tc(ns, name),
            tc,
        );
        hindered(
            &net,
            &what("nft ingress"),
            || drop_ingress(ns, name),
            || nft_flush(ns),
            ingress,
        );
    }
    let drop_in = |ns, hook: &str| {
        let chain = format!("type filter hook {hook} priority -300; policy drop");
        nft(
            ns,
            &format!("table ip blocked {{ chain first {{ {chain}; }}\n}}"),
        );
    };
    for hook in HOOKS {
        let works = match (mode, hook) {
            (Mode::L2, _) | (Mode::L3, "prerouting" | "input" | "forward") => true,
            (Mode::L3, _) => differs("l3-output", true, false),
            (Mode::L3s, "forward") => differs("l3s-forwarding", false, true),
            (Mode::L3s, "input" | "output") => differs("l3s-forwarding", true, false),
            (Mode::L3s, _) => false,
        };
        let what = format!("the host's {hook}");
        hindered(
            &net,
            &what,
            || drop_in(host, hook),
            || nft_flush(host),
            works,
        );
    }
    for hook in ["prerouting", "input"] {
        let what = format!("its own {hook}");
        let by = || drop_in(&dev.ns, hook);
        hindered(&net, &what, by, || nft_flush(&dev.ns), past_the_device);
    }
}

#[test]
fn who_is_asked_before_a_device_gets_a_frame_in_l2() {
    who_is_asked(Mode::L2);
}

#[test]
fn who_is_asked_before_a_device_gets_a_frame_in_l3() {
    who_is_asked(Mode::L3);
}

#[test]
fn who_is_asked_before_a_device_gets_a_frame_in_l3s() {
    who_is_asked(Mode::L3s);
}

/// What echo requests and replies pass on their way: the hooks of the host, and of the devices.
fn hooks(mode: Mode) {
    let net = Net::new(mode).devices(2).build();
    let [zero, one] = [net.dev(0), net.dev(1)];
    let what = [
        "icmp type { echo-request, echo-reply }",
        "icmpv6 type { echo-request, echo-reply }",
    ];
    for (what, target) in what.into_iter().zip(one.addresses()) {
        for ns in [&net.host, &zero.ns, &one.ns] {
            nft_flush(ns);
        }
        // Once everybody knows everybody.
        assert!(net.lan.reaches(&target), "{mode}: from the LAN");
        assert!(zero.ns.reaches(&target), "{mode}: from a sibling");
        let ping = format!("ping -n -q -c 1 -W 5 {target}");
        let host = Hooks::count(&net.host, what);
        let inside = Hooks::count(&one.ns, what);
        let all = [1, 1, 0, 1, 1];
        zero.ns.sh(&ping);
        assert_eq!(host.read(), [0; 5], "{mode} {target}: siblings, the host");
        assert_eq!(inside.read(), all, "{mode} {target}: siblings, inside");
        net.lan.sh(&ping);
        let wanted = match mode {
            Mode::L2 => [0; 5],
            Mode::L3 => differs("l3-output", [0; 5], [0, 0, 0, 1, 1]),
            Mode::L3s => differs("l3s-forwarding", [2, 0, 2, 0, 2], [1, 1, 0, 1, 1]),
        };
        assert_eq!(host.read(), wanted, "{mode} {target}: LAN, the host");
        let wanted = if mode == Mode::L3s {
            differs("l3s-forwarding", all, [0, 0, 0, 1, 1])
        } else {
            all
        };
        assert_eq!(inside.read(), wanted, "{mode} {target}: LAN, inside");
    }
}

#[test]
fn which_hooks_of_netfilter_see_what_in_l2() {
    hooks(Mode::L2);
}

#[test]
fn which_hooks_of_netfilter_see_what_in_l3() {
    hooks(Mode::L3);
}

#[test]
fn which_hooks_of_netfilter_see_what_in_l3s() {
    hooks(Mode::L3s);
}

/// By ping, which wants an answer.
fn who_reaches_whom(mode: Mode) {
    let net = Net::new(mode).devices(2).build();
    let [zero, one] = [net.dev(0), net.dev(1)];
    let own = |ns: &Ns, name: &str| {
        assert!(
            eventually(PATIENCE, || link_local(ns, name).is_some()),
            "{name} has a link-local address"
        );
        link_local(ns, name).expect("it")
    };
    let l2 = mode == Mode::L2;
    let local = own(&one.ns, "ipvl1");
    let mut cases: Vec<(&str, &Ns, String, bool)> = vec![
        (
            "sibling, link-local",
            &zero.ns,
            format!("{local}%ipvl0"),
            true,
        ),
        ("LAN, link-local", &net.lan, format!("{local}%lan0"), l2),
        (
            "to the LAN, link-local",
            &zero.ns,
            format!("{}%ipvl0", own(&net.lan, "lan0")),
            l2,
        ),
    ];
    for (number, lan) in [(0, "10.1.0.254"), (1, "fd00::254")] {
        let address = || one.addresses()[number].clone();
        let host = ["10.1.0.1", "fd00::1"][number];
        cases.extend([
            ("sibling", &zero.ns, address(), true),
            ("LAN", &net.lan, address(), true),
            ("to the LAN", &zero.ns, lan.to_owned(), true),
            ("the parent's namespace", &net.host, address(), false),
            (
                "to the parent's namespace",
                &zero.ns,
                host.to_owned(),
                false,
            ),
        ]);
    }
    for (what, from, to, wanted) in cases {
        let got = if wanted {
            from.reaches(&to)
        } else {
            from.answers(&to)
        };
        assert_eq!(got, wanted, "{mode}: {what}: {to} from {}", from.name());
    }
}

#[test]
fn who_reaches_whom_in_l2() {
    who_reaches_whom(Mode::L2);
}

#[test]
fn who_reaches_whom_in_l3() {
    who_reaches_whom(Mode::L3);
}

#[test]
fn who_reaches_whom_in_l3s() {
    who_reaches_whom(Mode::L3s);
}

#[test]
fn a_device_reaches_the_host_one_way() {
    for mode in Mode::ALL {
        let net = Net::new(mode).devices(1).build();
        let dev = net.dev(0);
        let mac = mac_text(net.mac());
        for (own, host) in dev.addresses().into_iter().zip(["10.1.0.1", "fd00::1"]) {
            if mode == Mode::L2 {
                // Nobody answers for the host, so one has to know.
                dev.ns.sh(&format!(
                    "ip neigh replace {host} lladdr {mac} dev {} nud permanent",
                    dev.name
                ));
            }
            let host: IpAddr = host.parse().expect("an address");
            let ear = Ear::on(&net.host, host);
            let mouth = Ear::on(&dev.ns, host);
            mouth.say(host, 0, b"anybody there?");
            let from = ear.hears(b"anybody there?", PATIENCE);
            let own: IpAddr = own.parse().expect("an address");
            assert_eq!(from, Some(own), "{mode}: the host hears it");
            // The answer is on the LAN, for which it is not.
            let wire = Sniffer::on(&net.lan, "lan0");
            let lan = mac_text(net.lan.mac("lan0"));
            if mode == Mode::L2 {
                net.host.sh(&format!(
                    "ip neigh replace {own} lladdr {lan} dev eth0 nud permanent"
                ));
            } else {
                let router = if own.is_ipv4() {
                    "10.1.0.254"
                } else {
                    "fd00::254"
                };
                net.host.sh(&format!("ip route replace {own} via {router}"));
            }
            ear.say(own, 0, b"on the wire");
            let inside = mouth.hears(b"on the wire", Duration::from_millis(300));
            let found = wire.find(Duration::from_millis(300), |seen| {
                seen.contains(b"on the wire")
            });
            assert!(found.is_some(), "{mode}: the answer is on the wire");
            assert_eq!(inside, None, "{mode}: and not in the device");
        }
    }
}

#[test]
fn a_device_in_the_parent_s_namespace_reaches_the_others() {
    for mode in Mode::ALL {
        let net = Net::new(mode).devices(1).build();
        let dev = net.dev(0);
        net.ip(
            &net.host,
            &format!("link add link eth0 name shim type ipvlan mode {mode}"),
        )
        .expect_quiet();
        let (v4, v6) = if mode == Mode::L2 {
            ("10.1.0.99", "fd00::99")
        } else {
            ("10.2.99.1", "fd02:99::1")
        };
        net.host.batch(&format!(
            "link set shim up\n\
             addr add {v4}/32 dev shim\n\
             addr add {v6}/128 dev shim nodad\n\
             route replace {} dev shim src {v4}\n\
             route replace {} dev shim src {v6}\n",
            dev.v4, dev.v6
        ));
        net.host.hurry("shim");
        for address in dev.addresses() {
            assert!(net.host.reaches(&address), "{mode}: the host to {address}");
        }
        for address in [v4, v6] {
            assert!(dev.ns.reaches(address), "{mode}: a device to {address}");
        }
    }
}

#[test]
fn what_comes_by_another_way_is_routed_like_any_other() {
    for mode in Mode::ALL {
        let net = Net::new(mode).devices(1).build();
        let dev = net.dev(0);
        let tap = Sniffer::on(&dev.ns, &dev.name);
        let wire = Sniffer::on(&net.lan, "lan0");
        let other = net.namespace("other");
        cable((&net.host, "eth1"), (&other, "lan1"), 3);
        net.host.sysctl("net/ipv4/ip_forward", "1");
        net.host.sysctl("net/ipv6/conf/all/forwarding", "1");
        let lan = mac_text(net.lan.mac("lan0"));
        for address in dev.addresses() {
            let router = if address.contains(':') {
                "fd00::254"
            } else {
                "10.1.0.254"
            };
            if mode == Mode::L2 {
                net.host
                    .sh(&format!("ip neigh replace {address} lladdr {lan} dev eth0"));
            } else {
                net.host
                    .sh(&format!("ip route replace {address} via {router}"));
            }
        }
        let sender = Sender::on(&other, "lan1");
        let [from, to] = [other.mac("lan1"), net.host.mac("eth1")];
        let four = packet::udp4([10, 3, 0, 2].into(), dev.v4, 9, b"another way");
        let source = "fd03::2".parse().expect("an address");
        let six = packet::udp6(source, dev.v6, 9, b"another way");
        for (kind, packet) in [(ethertype::IPV4, four), (ethertype::IPV6, six)] {
            let heard = |seen: &ipvlan_tests::Seen| {
                !seen.outgoing && seen.ethertype() == kind && seen.contains(b"another way")
            };

            let found = eventually(PATIENCE, || {
                sender.send(&ethernet(to, from, kind, &packet));
                wire.find(Duration::from_millis(200), heard).is_some()
            });
            assert!(found, "{mode}: {kind:04x} goes where the route says");
            assert!(!tap.heard().iter().any(heard), "{mode}: and nowhere else");
        }
    }
}

#[test]
fn a_router_between_sends_to_the_parent_s_address() {
    let net = Net::new(Mode::L2).devices(1).build();
    let dev = net.dev(0);
    net.lan.sh(&format!("ip route add {} via 10.1.0.1", dev.v4));
    net.lan.sh(&format!("ip route add {} via fd00::1", dev.v6));
    net.lan.sh("ip neigh flush all");
    for address in dev.addresses() {
        assert!(
            net.lan.reaches(&address),
            "{address} by the parent's address"
        );
        let entry = net.lan.neighbour(&address);
        assert!(entry.is_empty(), "nobody was asked for it: {entry}");
    }
}

#[test]
fn what_is_for_others_reaches_no_socket() {
    for mode in Mode::ALL {
        let net = Net::new(mode).devices(1).build();
        net.host.sh("ip link set eth0 promisc on");
        let dev = net.dev(0);
        let socket = dev.ns.enter(|| UdpSocket::bind(("::", PORT)));
        let socket = socket.expect("a port");
        socket.set_read_timeout(Some(PATIENCE)).expect("a timeout");
        let sender = Sender::on(&net.lan, "lan0");
        let [lan, mac] = [net.lan.mac("lan0"), net.mac()];
        let four = |data: &[u8]| packet::udp4(LAN4, dev.v4, PORT, data);
        let six = packet::udp6(LAN6, dev.v6, PORT, b"foreign");
        let mut tagged = vec![0, 10, 8, 0];
        tagged.extend(four(b"tagged"));
        for frame in [
            ethernet(FORGED, lan, ethertype::IPV4, &four(b"foreign")),
            ethernet(FORGED, lan, ethertype::IPV6, &six),
            ethernet(mac, lan, ethertype::VLAN, &tagged),
            ethernet(mac, lan, ethertype::IPV4, &four(b"its own")),
        ] {
            sender.send(&frame);
        }
        let mut buf = [0; 100];
        let len = socket.recv(&mut buf).expect("the last of them arrives");
        assert_eq!(&buf[..len], b"its own", "{mode}: and nothing else");
    }
}

#[test]
fn a_vlan_of_the_parent_is_its_own() {
    for mode in Mode::ALL {
        let net = Net::new(mode).devices(1).build();
        for (ns, parent, last) in [(&net.host, "eth0", 1), (&net.lan, "lan0", 2)] {
            let add = format!("ip link add link {parent} name vlan10 type vlan id 10");
            if !ns.try_sh(&add).ok() {
                eprintln!("this kernel has no VLANs: not tested here, but with `cargo xtask vm`");
                return;
            }
            ns.batch(&format!(
                "link set vlan10 up\n\
                 addr add 10.10.0.{last}/24 dev vlan10\n"
            ));
            ns.hurry("vlan10");
        }
        assert!(net.lan.reaches("10.10.0.1"), "{mode}: the VLAN works");
        // A device's address in it is another one.
        let dev = net.dev(0);
        let tap = Sniffer::on(&dev.ns, &dev.name);
        let vlan = Sniffer::on(&net.host, "vlan10");
        let packet = packet::udp4(LAN4, dev.v4, PORT, b"inside the VLAN");
        Sender::on(&net.lan, "vlan10").send(&ethernet(
            net.mac(),
            net.lan.mac("lan0"),
            ethertype::IPV4,
            &packet,
        ));
        let found = vlan.find(PATIENCE, |seen| seen.contains(b"inside the VLAN"));
        assert!(found.is_some(), "{mode}: the VLAN device gets its frames");
        assert!(
            !tap.heard()
                .iter()
                .any(|seen| seen.contains(b"inside the VLAN")),
            "{mode}: and nobody else does"
        );
    }
}

#[test]
fn fragments_are_put_together() {
    for mode in Mode::ALL {
        let net = Net::new(mode).devices(1).build();
        let dev = net.dev(0);
        for address in dev.addresses() {
            let address = address.parse().expect("an address");
            assert_eq!(
                traffic::udp(&dev.ns, address, &net.lan, 5000).map(drop),
                Ok(()),
                "{mode}: {address} gets a datagram in pieces"
            );
        }
        // The last piece comes first.
        let socket = dev.ns.enter(|| UdpSocket::bind(("::", PORT)));
        let socket = socket.expect("a port");
        socket.set_read_timeout(Some(PATIENCE)).expect("a timeout");
        let sender = Sender::on(&net.lan, "lan0");
        let whole = packet::udp4(LAN4, dev.v4, PORT, &[7; 1000]);
        let payload = &whole[20..];
        for (from, to) in [(800, payload.len()), (0, 800)] {
            let mut piece = ipv4(LAN4, dev.v4, next::UDP, &payload[from..to]);
            let more = if to < payload.len() { 0x2000 } else { 0 };
            let field = u16::try_from(from / 8).expect("short") | more;
            piece[4..6].copy_from_slice(&[0x12, 0x34]);
            piece[6..8].copy_from_slice(&field.to_be_bytes());
            piece[10..12].fill(0);
            let sum = packet::checksum(&[&piece[..20]]);
            piece[10..12].copy_from_slice(&sum);
            sender.send(&ethernet(
                net.mac(),
                net.lan.mac("lan0"),
                ethertype::IPV4,
                &piece,
            ));
        }
        let mut buf = [0; 2000];
        let len = socket.recv(&mut buf).ok();
        assert_eq!(len, Some(1000), "{mode}: the pieces in the wrong order");
    }
}

#[test]
fn reverse_path_filters_let_honest_traffic_through() {
    for mode in Mode::ALL {
        let mut net = Net::new(mode).build();
        net.host.sysctl("net/ipv4/conf/all/rp_filter", "1");
        let number = net.add();
        let dev = net.dev(number);
        dev.ns.sysctl("net/ipv4/conf/all/rp_filter", "1");
        dev.configure();
        assert!(
            net.lan.reaches(&dev.v4.to_string()),
            "{mode}: there and back"
        );
        assert!(dev.ns.reaches("10.1.0.254"), "{mode}: back and there");
    }
}
