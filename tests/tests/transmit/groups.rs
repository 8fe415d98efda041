//! What goes to all: a ping of all nodes, a broadcast of the host.

use ipvlan_tests::packet::{BROADCAST, ethernet, ethertype};
use ipvlan_tests::sniff::Sender;
use ipvlan_tests::{Mode, Net, Ns, Places};

#[test]
fn all_nodes_answer_a_ping_in_l2() {
    let net = Net::new(Mode::L2).devices(3).build();
    let done = net
        .dev(0)
        .ns
        .try_sh("ping -n -c 2 -i 0.3 -W 1 ff02::1%ipvl0");
    let answered = |ns: &Ns, interface: &str| {
        let text = ns.read(&format!("ip -6 -o addr show dev {interface}"));
        let own = text
            .split_whitespace()
            .filter_map(|word| word.split_once('/'));
        let answer = |address| format!("from {address}");
        own.map(|(address, _)| answer(address)).any(|answer| {
            let mut lines = done.stdout.lines();
            lines.any(|line| {
                line.contains(&format!("{answer}:")) || line.contains(&format!("{answer}%"))
            })
        })
    };
    for dev in &net.devices[1..] {
        assert!(answered(&dev.ns, &dev.name), "a sibling: {done:?}");
    }
    assert!(answered(&net.lan, "lan0"), "the LAN: {done:?}");
    assert!(!answered(&net.host, "eth0"), "not the host: {done:?}");
}

#[test]
fn a_broadcast_of_the_host_is_for_the_wire() {
    let net = Net::new(Mode::L2).devices(2).build();
    let places = Places::of(&net);
    let frame = ethernet(
        BROADCAST,
        net.mac(),
        ethertype::EXPERIMENT,
        b"<from the host>",
    );
    Sender::on(&net.host, "eth0").send(&frame);
    assert_eq!(places.of_word(b"<from the host>").to_string(), "wire");
}
