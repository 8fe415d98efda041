//! What root of a container may do to its own device, and what it cannot do to anybody else.

#![expect(
    clippy::expect_used,
    reason = "clippy knows a test by its attribute, not the functions beside it"
)]

use std::collections::BTreeSet;
use std::net::{IpAddr, Ipv4Addr};
use std::time::Duration;

use ipvlan_tests::packet::{self, FORGED, ethernet, ethertype, mac_text};
use ipvlan_tests::sniff::Sender;
use ipvlan_tests::{
    Backend, Container, Done, Mode, Net, PATIENCE, Sniffer, differs, eventually, traffic,
};

/// A container with a device `c0`, and beside it one device of the fixture's.
fn contained(mode: Mode) -> (Net, Container) {
    let net = Net::new(mode).devices(1).build();
    let container = Container::new(&net, "box");
    let name = container.ns.name();
    net.ip(
        &net.host,
        &format!("link add link eth0 name c0 netns {name} type ipvlan mode {mode}"),
    )
    .expect_quiet();
    container.ns.hurry("c0");
    (net, container)
}

/// What the container's root sets up, and who is then to be reached.
fn configure(mode: Mode, container: &Container) -> [&'static str; 2] {
    let addresses = match mode {
        Mode::L2 => ["10.1.0.50", "fd00::50"],
        Mode::L3 | Mode::L3s => ["10.2.50.1", "fd02:50::1"],
    };
    let [v4, v6] = addresses;
    for line in [
        "ip link set c0 up",
        &format!("ip addr add {v4}/24 dev c0"),
        &format!("ip addr add {v6}/64 dev c0 nodad"),
        "ip route add default dev c0",
        "ip -6 route add default dev c0",
    ] {
        let _: String = container.root(line).expect();
    }
    addresses
}

/// Calls whatever the devices are made with, as root of the container.
fn tool(net: &Net, container: &Container, line: &str) -> Done {
    let program = if Backend::is_ours() {
        net.program().path()
    } else {
        "ip"
    };
    container.root(&format!("{program} {line}"))
}

#[track_caller]
fn assert_alive(net: &Net, container: &Container, addresses: [&str; 2], after: &str) {
    for address in addresses {
        assert!(
            net.lan.reaches(address),
            "{after}: the LAN reaches {address}"
        );
        assert!(
            net.dev(0).ns.reaches(address),
            "{after}: the sibling reaches {address}"
        );
    }
    for address in ["10.1.0.254", "fd00::254"] {
        assert!(
            container.ns.reaches(address),
            "{after}: the container reaches the LAN at {address}"
        );
    }
}

#[test]
fn a_container_s_root_does_with_its_device_as_it_likes() {
    for mode in [Mode::L2, Mode::L3] {
        let (net, container) = contained(mode);
        let addresses = configure(mode, &container);
        assert_alive(&net, &container, addresses, &format!("{mode}: configured"));
        for line in [
            "ip link set c0 mtu 65535",
            "ip link set c0 promisc on",
            "ip link set c0 allmulticast on",
            "ip link set c0 multicast off",
            "ip link set c0 multicast on",
            "ip link set c0 alias mine",
            "ip addr add 10.1.0.60/24 dev c0",
            "ip addr del 10.1.0.60/24 dev c0",
            "tc qdisc replace dev c0 root pfifo limit 1000",
        ] {
            let _: String = container.root(line).expect();
        }
        assert_alive(&net, &container, addresses, &format!("{mode}: changed"));
        // The LAN's side keeps TCP to what fits the wire, whatever the device believes.
        let server: IpAddr = [10, 1, 0, 254].into();
        let from = traffic::tcp(&net.lan, server, &container.ns, 300_000);
        assert_eq!(
            from.map(|from| from.to_string()),
            Ok(addresses[0].to_owned()),
            "{mode}"
        );
        for line in ["ip link set c0 down", "ip link set c0 name c1"] {
            let _: String = container.root(line).expect();
        }
        let v4 = addresses[0];
        assert!(
            eventually(PATIENCE, || !net.lan.answers(v4)),
            "{mode}: down is down"
        );
        for line in ["ip link set c1 up", "ip route add default dev c1"] {
            let _: String = container.root(line).expect();
        }
        assert!(net.lan.reaches(v4), "{mode}: up again, by another name");
        // Deleting it leaves nothing behind, and its address is free.
        let _: String = container.root("ip link del c1").expect();
        assert_eq!(container.ns.links(), ["lo"]);
        let sibling = net.dev(0);
        let take = format!("ip addr add {v4}/24 dev {}", sibling.name);
        assert!(
            eventually(PATIENCE, || sibling.ns.try_sh(&take).ok()),
            "{mode}: the address is free"
        );
        assert!(net.lan.reaches(v4), "{mode}: and works for its next owner");
    }
}

#[test]
fn a_container_s_root_makes_no_siblings_and_sets_no_mode() {
    let (net, container) = contained(Mode::L2);
    let addresses = configure(Mode::L2, &container);
    assert_alive(&net, &container, addresses, "configured");
    for line in [
        "link add link c0 name twin type ipvlan mode l2",
        "link add link c0 name twin type ipvlan mode l3",
        "link set c0 type ipvlan mode l3",
        "link set c0 type ipvlan mode l2 private",
        "link set c0 type ipvlan mode l2 vepa",
    ] {
        let done = tool(&net, &container, line);
        assert_eq!(done.status, 2, "`{line}`: {done:?}");
        assert!(
            done.stderr.contains("Operation not permitted"),
            "`{line}`: {done:?}"
        );
    }
    assert_eq!(container.ns.links(), ["lo", "c0"]);
    let name = &net.dev(0).name;
    let shown = net.ip(&net.dev(0).ns, &format!("-d link show {name}"));
    let shown = shown.expect();
    assert!(shown.contains("mode l2 bridge"), "{shown}");
    assert_alive(&net, &container, addresses, "afterwards");
}

#[test]
fn what_carries_a_device_is_out_of_its_container_s_reach() {
    let (net, container) = contained(Mode::L2);
    let addresses = configure(Mode::L2, &container);
    assert_alive(&net, &container, addresses, "configured");
    assert_eq!(
        container.ns.links(),
        ["lo", "c0"],
        "it sees what is its own and no more"
    );
    let host = net.host.name();
    let parent = net.host.index("eth0");
    for line in [
        // Into the parent's namespace, and at its links by the id that `link-netnsid` shows.
        &format!("nsenter --net=/run/netns/{host} true"),
        &format!("ip link set c0 netns {host}"),
        &format!("ip link add m0 link if{parent} link-netnsid 0 type macvlan"),
        "ip netns list-id target-nsid 0",
        // What the datapath is made of.
        "bpftool prog show",
        "bpftool map show",
        "bpftool link show",
        "ls /sys/fs/bpf/ipvlan",
    ] {
        let done = container.root(line);
        assert!(!done.ok(), "`{line}`: {done:?}");
        let said = format!("{}{}", done.stdout, done.stderr).to_lowercase();
        assert!(
            // bpftool has no words for some of it.
            said.contains("permitted")
                || said.contains("denied")
                || said.contains("invalid target")
                || said.contains("no such file")
                || line.starts_with("bpftool"),
            "`{line}`: for want of a right, and of nothing else: {done:?}"
        );
    }
    // A bpffs of its own is an empty one.
    let own = container.root_run(&[
        "unshare",
        "-m",
        "sh",
        "-c",
        "mount -t bpf bpf /mnt && ls -A /mnt",
    ]);
    assert!(
        !own.ok() || own.stdout.lines().all(|line| line.ends_with(".debug")),
        "{own:?}"
    );
    assert_eq!(container.ns.links(), ["lo", "c0"]);
    assert_alive(&net, &container, addresses, "afterwards");
}

/// Bits of `/sys/class/net/eth0/flags`, which count what netlink does not show.
fn parent_flags(net: &Net) -> u32 {
    let text = net.host.try_run(&[
        "unshare",
        "-m",
        "sh",
        "-c",
        "mount -t sysfs sysfs /sys && cat /sys/class/net/eth0/flags",
    ]);
    let text = text.expect();
    u32::from_str_radix(text.trim().trim_start_matches("0x"), 16).expect("hexadecimal")
}

#[test]
fn what_a_container_wants_to_hear_the_parent_need_not() {
    const PROMISC: u32 = 0x100;
    const ALLMULTI: u32 = 0x200;
    // In l2 ours has the parent hear all multicast anyhow.
    let (net, container) = contained(Mode::L3);
    let addresses = configure(Mode::L3, &container);
    assert_alive(&net, &container, addresses, "configured");
    let before = parent_flags(&net);
    assert_eq!(before & (PROMISC | ALLMULTI), 0, "{before:#x}");
    let _: String = container.root("ip link set c0 promisc on").expect();
    std::thread::sleep(Duration::from_millis(300));
    assert_eq!(parent_flags(&net) & PROMISC, 0, "promiscuity ends here");
    let _: String = container.root("ip link set c0 allmulticast on").expect();
    std::thread::sleep(Duration::from_millis(300));
    let leak = differs("allmulticast", 0, ALLMULTI);
    assert_eq!(parent_flags(&net) & ALLMULTI, leak, "all-multicast");
    let _: String = container.root("ip link del c0").expect();
    std::thread::sleep(Duration::from_millis(300));
    assert_eq!(
        parent_flags(&net) & ALLMULTI,
        leak,
        "and after the device has gone"
    );
}

#[test]
fn a_promiscuous_device_hears_nothing_of_others() {
    for mode in [Mode::L2, Mode::L3] {
        let (net, container) = contained(mode);
        let addresses = configure(mode, &container);
        assert_alive(&net, &container, addresses, "configured");
        let _: String = container.root("ip link set c0 promisc on").expect();
        let ear = Sniffer::on(&container.ns, "c0");
        let sibling = net.dev(0);
        for address in sibling.addresses() {
            assert!(net.lan.reaches(&address), "{mode}: {address}");
        }
        assert!(sibling.ns.reaches("10.1.0.254"), "{mode}");
        // A sign of life: its own.
        assert!(net.lan.reaches(addresses[0]), "{mode}");
        let heard = ear.drain(Duration::from_millis(250));
        let own: Vec<u8> = match addresses[0].parse().expect("an address") {
            IpAddr::V4(own) => own.octets().into(),
            IpAddr::V6(own) => own.octets().into(),
        };
        assert!(heard.iter().any(|seen| seen.contains(&own)), "{mode}");
        let others: Vec<_> = heard
            .iter()
            .filter(|seen| seen.ethertype() == ethertype::IPV4 && !seen.contains(&own))
            .collect();
        assert!(others.is_empty(), "{mode}: {others:?}");
    }
}

#[test]
fn a_container_s_mac_address_is_nobody_s_affair() {
    for mode in [Mode::L2, Mode::L3] {
        let (net, container) = contained(mode);
        let addresses = configure(mode, &container);
        assert_alive(&net, &container, addresses, "configured");
        let wire = Sniffer::on(&net.lan, "lan0");
        let done = container.root(&format!("ip link set c0 address {}", mac_text(FORGED)));
        assert_eq!(done.ok(), differs("set-mac", true, false), "{done:?}");
        for target in ["10.1.0.254", "fd00::254", "10.1.0.10"] {
            let _: bool = container.ns.answers(target);
        }
        let sibling = net.dev(0);
        for address in sibling.addresses() {
            assert!(net.lan.reaches(&address), "{mode}: others do not notice");
        }
        net.lan.sh("ip neigh flush all");
        sibling.ns.sh("ip neigh flush all");
        let _: bool = net.lan.answers(addresses[0]);
        let seen = wire.heard();
        assert!(!seen.is_empty(), "{mode}: there was traffic");
        for frame in &seen {
            assert!(
                !frame.contains(&FORGED),
                "{mode}: it does not get out: {frame:?}"
            );
        }
        for (ns, address) in [(&net.lan, addresses[0]), (&sibling.ns, addresses[0])] {
            let entry = ns.neighbour(address);
            assert!(!entry.contains(&mac_text(FORGED)), "{mode}: {entry}");
        }
        let own = mac_text(net.mac());
        let _: Done = container.root(&format!("ip link set c0 address {own}"));
        assert_alive(&net, &container, addresses, "put back");
    }
}

/// Name, type, flags, contents, link, info, entry size.
type Section<'a> = (&'a str, u32, u64, &'a [u8], u32, u32, u64);

/// An object for `ip link set … xdp` with one program of two instructions: drop everything.
fn xdp_drop() -> Vec<u8> {
    const HEADER: u64 = 64;
    // r0 = XDP_DROP; exit.
    let code: &[u8] = &[0xb7, 0, 0, 0, 1, 0, 0, 0, 0x95, 0, 0, 0, 0, 0, 0, 0];
    let strings: &[u8] = b"\0xdp\0license\0.symtab\0.strtab\0drop_all\0";
    let at = |name: &str| -> u32 {
        let name = format!("\0{name}\0");
        let place = strings
            .windows(name.len())
            .position(|part| part == name.as_bytes());
        u32::try_from(place.expect("a name") + 1).expect("small")
    };
    // Two symbols: none, and a global function at the start of section 1.
    let mut symbols = vec![0; 24];
    symbols.extend(at("drop_all").to_le_bytes());
    symbols.extend([0x12, 0, 1, 0]);
    symbols.extend(0u64.to_le_bytes());
    symbols.extend(16u64.to_le_bytes());
    let sections: [Section<'_>; 4] = [
        ("xdp", 1, 6, code, 0, 0, 0),
        ("license", 1, 3, b"GPL\0", 0, 0, 0),
        (".symtab", 2, 0, &symbols, 4, 1, 24),
        (".strtab", 3, 0, strings, 0, 0, 0),
    ];
    let mut body = Vec::new();
    let mut table = vec![0; 64];
    for (name, kind, flags, bytes, link, info, entry) in sections {
        body.resize(body.len().next_multiple_of(8), 0);
        let offset = HEADER + u64::try_from(body.len()).expect("small");
        body.extend(bytes);
        table.extend(at(name).to_le_bytes());
        table.extend(kind.to_le_bytes());
        let size = u64::try_from(bytes.len()).expect("small");
        for word in [flags, 0, offset, size] {
            table.extend(word.to_le_bytes());
        }
        table.extend(link.to_le_bytes());
        table.extend(info.to_le_bytes());
        for word in [8, entry] {
            table.extend(word.to_le_bytes());
        }
    }
    body.resize(body.len().next_multiple_of(8), 0);
    let tables = HEADER + u64::try_from(body.len()).expect("small");
    let mut out = b"\x7fELF\x02\x01\x01\0\0\0\0\0\0\0\0\0".to_vec();
    out.extend([1, 0, 247, 0, 1, 0, 0, 0]);
    for word in [0, 0, tables] {
        out.extend(word.to_le_bytes());
    }
    // No flags; this header's size; no segments; five sections, the names in the last.
    out.extend([0, 0, 0, 0, 64, 0, 0, 0, 0, 0, 64, 0, 5, 0, 4, 0]);
    [out, body, table].concat()
}

#[test]
fn what_a_container_filters_is_its_own_loss() {
    for mode in [Mode::L2, Mode::L3] {
        let (net, container) = contained(mode);
        let addresses = configure(mode, &container);
        assert_alive(&net, &container, addresses, "configured");
        let object = std::env::temp_dir().join(format!("{}-{mode}.o", net.mark()));
        std::fs::write(&object, xdp_drop()).expect("a file");
        let object = object.to_str().expect("UTF-8");
        // Deaf by each of these, and well again.
        let table = "nft 'add table inet t; add chain inet t c \
                     { type filter hook input priority 0; policy drop; }'";
        // Not every kernel has an action that drops; into a loop is gone, too.
        let tc = |side: &str| {
            let add = format!("tc filter add dev c0 {side} protocol all");
            format!(
                "tc qdisc add dev c0 clsact && {{ {add} matchall action drop || \
                 {add} u32 match u32 0 0 action mirred egress redirect dev lo; }}"
            )
        };
        let off = "tc qdisc del dev c0 clsact";
        let xdp = "ip link set c0 xdpgeneric";
        let ways = [
            ("nft input", table.to_owned(), "nft delete table inet t"),
            ("tc ingress", tc("ingress"), off),
            ("tc egress", tc("egress"), off),
            (
                "XDP",
                format!("{xdp} obj {object} sec xdp"),
                "ip link set c0 xdpgeneric off",
            ),
        ];
        for (what, on, off) in ways {
            // A container's root loads no XDP; somebody may have done it for it.
            let run = |line: &str| match what {
                "XDP" => container.ns.shell(line),
                _ => container.root_run(&["sh", "-c", line]),
            };
            let _: String = run(&on).expect();
            let [v4, v6] = addresses;
            assert!(!net.lan.answers(v4), "{mode}, {what}: IPv4");
            assert!(!net.lan.answers(v6), "{mode}, {what}: IPv6");
            for address in net.dev(0).addresses() {
                assert!(net.lan.reaches(&address), "{mode}, {what}: others hear");
            }
            assert!(net.dev(0).ns.reaches("10.1.0.254"), "{mode}, {what}");
            let _: String = run(off).expect();
            assert_alive(
                &net,
                &container,
                addresses,
                &format!("{mode}, after {what}"),
            );
        }
        std::fs::remove_file(object).expect("a file");
    }
}

#[test]
fn a_container_with_many_addresses_leaves_room_for_others() {
    const MANY: u32 = 4_200;
    let (net, container) = contained(Mode::L3);
    let addresses = configure(Mode::L3, &container);
    assert_alive(&net, &container, addresses, "configured");
    let address = |number: u32| Ipv4Addr::from(0x0a09_0000 + number);
    let lines: String = (0..MANY)
        .map(|number| format!("addr add {}/32 dev c0\n", address(number)))
        .collect();
    let file = std::env::temp_dir().join(format!("{}-addresses", net.mark()));
    std::fs::write(&file, lines).expect("a file");
    let path = file.to_str().expect("UTF-8");
    let _: String = container.root(&format!("ip -batch {path}")).expect();
    std::fs::remove_file(&file).expect("a file");
    // Which of them come to c0 when all of them come to the parent.
    let (from, to) = (net.lan.mac("lan0"), net.mac());
    let sender = Sender::on(&net.lan, "lan0");
    let ear = Sniffer::on(&container.ns, "c0");
    let mut arrived = BTreeSet::new();
    let source = Ipv4Addr::new(10, 1, 0, 254);
    let mut sweep = || {
        arrived.clear();
        for number in 0..MANY {
            let packet = packet::udp4(source, address(number), 9, b"sweep");
            sender.send(&ethernet(to, from, ethertype::IPV4, &packet));
        }
        for seen in ear.drain(Duration::from_millis(300)) {
            if let Some(&[10, 9, a, b]) = seen.bytes.get(30..34) {
                let _: bool = arrived.insert([a, b]);
            }
        }
        arrived.len()
    };
    // Three more are what it was configured with, and its link-local one.
    let most = differs("max-addresses", 4_096, 4_200);
    assert!(
        eventually(PATIENCE * 2, || (most - 3..=most).contains(&sweep())),
        "as many as one device can own: {}",
        arrived.len()
    );
    // There is room for others, and they are served.
    let sibling = net.dev(0);
    sibling.ns.sh("ip addr add 10.2.77.1/32 dev ipvl0");
    assert!(net.lan.reaches("10.2.77.1"), "another device gets its own");
    let _: String = container.root("ip link del c0").expect();
    sibling.ns.sh("ip addr add 10.9.0.1/32 dev ipvl0");
    net.lan.sh("ip route add 10.9.0.0/16 via 10.1.0.1");
    assert!(net.lan.reaches("10.9.0.1"), "all of them are free again");
}
