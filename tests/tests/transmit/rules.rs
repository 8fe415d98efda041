//! What the host's rules and queues see: the hooks of netfilter, address translation, marks and
//! priorities.

use std::net::{IpAddr, UdpSocket};

use ipvlan_tests::firewall::{HOOKS, Hooks};
use ipvlan_tests::packet::mac_text;
use ipvlan_tests::traffic::{Ear, PORT};
use ipvlan_tests::{HOST4, LAN4, Mode, Net, Ns, PATIENCE, differs, eventually};
use nix::sys::socket::{setsockopt, sockopt};

/// Counters of the datagrams to [`PORT`] that pass the host's hooks.
fn hooks(net: &Net) -> Hooks<'_> {
    Hooks::count(&net.host, &format!("udp dport {PORT}"))
}

#[test]
fn rules_of_the_host_see_what_they_see_in_l2() {
    let net = Net::new(Mode::L2).devices(2).build();
    let own = mac_text(net.mac());
    net.dev(0).ns.sh(&format!(
        "ip neigh replace 10.1.0.1 lladdr {own} dev ipvl0 nud permanent"
    ));
    let none = [0; 5];
    walk_through_hooks(&net, &hooks(&net), [none, none, none, [1, 1, 0, 0, 0]]);
}

#[test]
fn rules_of_the_host_see_what_they_see_in_l3() {
    let net = Net::new(Mode::L3).devices(2).build();
    let none = [0; 5];
    let out = differs("l3-output", none, [0, 0, 0, 1, 1]);
    // The driver's devices send it by the host's lo.
    let host = differs("l3-host", [1, 1, 0, 0, 0], [1, 1, 0, 1, 1]);
    walk_through_hooks(&net, &hooks(&net), [none, out, none, host]);
}

#[test]
fn rules_of_the_host_see_what_they_see_in_l3s() {
    let net = Net::new(Mode::L3s).devices(2).build();
    let none = [0; 5];
    let out = differs("l3s-forwarding", [1, 0, 1, 0, 1], [0, 0, 0, 1, 1]);
    let back = differs("l3s-forwarding", [1, 0, 1, 0, 1], [1, 1, 0, 0, 0]);
    let host = differs("l3-host", [1, 1, 0, 0, 0], [1, 1, 0, 1, 1]);
    walk_through_hooks(&net, &hooks(&net), [back, out, none, host]);
}

/// From the wire to a device, to the wire, to a sibling, to the host.
#[track_caller]
fn walk_through_hooks(net: &Net, hooks: &Hooks<'_>, expected: [[u32; 5]; 4]) {
    let [a, b] = [net.dev(0), net.dev(1)];
    let paths = [
        ("to a device", &net.lan, &a.ns, a.v4),
        ("to the wire", &a.ns, &net.lan, LAN4),
        ("to a sibling", &a.ns, &b.ns, b.v4),
        ("to the host", &a.ns, &net.host, HOST4),
    ];
    for ((what, from, to, address), expected) in paths.into_iter().zip(expected) {
        let ear = Ear::on(to, address.into());
        let _: [u32; 5] = hooks.read();
        Ear::on(from, address.into()).say(address.into(), 0, what.as_bytes());
        let heard = ear.hears(what.as_bytes(), PATIENCE);
        assert!(heard.is_some(), "{}: {what}", net.mode);
        assert_eq!(hooks.read(), expected, "{}: {what}: {HOOKS:?}", net.mode);
    }
}

fn masqueraded(mode: Mode) -> (Net, Option<IpAddr>, bool) {
    let net = Net::new(mode).devices(1).build();
    for line in [
        "add table ip nat",
        "add chain ip nat out { type nat hook postrouting priority 100; }",
        "add rule ip nat out oifname eth0 masquerade",
    ] {
        let _: String = net.host.try_run(&["nft", line]).expect();
    }
    let ear = Ear::on(&net.lan, LAN4.into());
    Ear::on(&net.dev(0).ns, LAN4.into()).say(LAN4.into(), 0, b"who");
    let from = ear.hears(b"who", PATIENCE);
    let answered = net.dev(0).ns.answers(&LAN4.to_string());
    (net, from, answered)
}

#[test]
fn the_host_masquerades_in_l3s_only() {
    let (net, from, answered) = masqueraded(Mode::L2);
    assert_eq!((from, answered), (Some(net.dev(0).v4.into()), true), "l2");
    let (net, from, answered) = masqueraded(Mode::L3);
    let own = net.dev(0).v4;
    // The answer to the driver's is for the host, which knows nothing of it.
    let there = differs("l3-output", (own, true), (HOST4, false));
    assert_eq!((from, answered), (Some(there.0.into()), there.1), "l3");
}

#[test]
fn the_host_masquerades_in_l3s() {
    let (_net, from, answered) = masqueraded(Mode::L3s);
    assert_eq!((from, answered), (Some(HOST4.into()), true), "l3s");
}

/// Packets in the classes of a queue at the parent: those that an application's priority chose, and
/// those that a filter chose by their mark.
fn at_the_parent_s_queue(net: &Net, ns: &Ns, interface: &str) -> [bool; 2] {
    // Classic BPF: the mark is at -4096 + 20.
    let by_mark = "4,32 0 0 4294963220,21 0 1 8,6 0 0 4294967295,6 0 0 0";
    for line in
        ["qdisc add dev eth0 root handle 1: htb default 1"]
            .into_iter()
            .map(str::to_owned)
            .chain([1, 7, 8].map(|class| {
                format!("class add dev eth0 parent 1: classid 1:{class} htb rate 1gbit")
            }))
    {
        net.host.sh(&format!("tc {line}"));
    }
    let words = [
        "tc", "filter", "add", "dev", "eth0", "parent", "1:", "protocol", "all", "bpf", "bytecode",
        by_mark, "flowid", "1:8",
    ];
    let _: String = net.host.try_run(&words).expect();
    let say = |priority: i32, mark: u32| {
        let socket = ns.enter(|| UdpSocket::bind("0.0.0.0:0")).expect("a socket");
        setsockopt(&socket, sockopt::Priority, &priority).expect("SO_PRIORITY");
        setsockopt(&socket, sockopt::Mark, &mark).expect("SO_MARK");
        let name = std::ffi::OsString::from(interface);
        setsockopt(&socket, sockopt::BindToDevice, &name).expect("SO_BINDTODEVICE");
        for _ in 0..3 {
            let _: usize = socket.send_to(b"class", (LAN4, PORT)).expect("sent");
        }
    };
    let ear = Ear::on(&net.lan, LAN4.into());
    say(0x1_0007, 0);
    say(0, 8);
    for _ in 0..6 {
        assert!(
            ear.hears(b"class", PATIENCE).is_some(),
            "{}: it arrives",
            net.mode
        );
    }
    // `tc -j` forgets the statistics of classes.
    let text = net.host.read("tc -s class show dev eth0");
    ["class htb 1:7 ", "class htb 1:8 "].map(|head| {
        let class = text
            .split(head)
            .nth(1)
            .and_then(|rest| rest.split("Sent ").nth(1));
        let packets = class.and_then(|rest| rest.split_whitespace().nth(2)?.parse::<u32>().ok());
        packets.unwrap_or_else(|| panic!("a class {head}: {text}")) >= 3
    })
}

#[test]
fn mark_and_priority_on_their_way_to_the_parent() {
    let net = Net::new(Mode::L2).devices(1).build();
    let dev = net.dev(0);
    let kept = differs("metadata", [false, false], [true, true]);
    assert_eq!(at_the_parent_s_queue(&net, &dev.ns, "ipvl0"), kept, "l2");
    let net = Net::new(Mode::L3).devices(1).build();
    let dev = net.dev(0);
    let kept = differs("metadata", [false, false], [true, false]);
    assert_eq!(at_the_parent_s_queue(&net, &dev.ns, "ipvl0"), kept, "l3");
}

#[test]
fn mark_and_priority_where_there_is_no_border() {
    let net = Net::new(Mode::L3).build();
    let line = "link add link eth0 name ipvl9 type ipvlan mode l3";
    net.ip(&net.host, line).expect_quiet();
    net.host.batch(
        "link set ipvl9 up\naddr add 10.2.9.1/24 dev ipvl9\nroute add 10.1.0.254 dev ipvl9\n",
    );
    net.lan.sh("ip neigh flush all");
    // Until the agent has seen the address.
    assert!(
        eventually(PATIENCE, || net.lan.answers("10.2.9.1")),
        "the device is there"
    );
    let kept = differs("metadata", [false, true], [true, true]);
    assert_eq!(at_the_parent_s_queue(&net, &net.host, "ipvl9"), kept);
}
