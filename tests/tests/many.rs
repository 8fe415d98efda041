//! Two hundred devices on one parent, in two hundred namespaces.

use std::thread;
use std::time::Instant;

use ipvlan_tests::{Mode, Net, PATIENCE, Sniffer, eventually};

const COUNT: u16 = 200;

#[test]
fn two_hundred_devices_answer_and_leave_nothing() {
    let mut net = Net::new(Mode::L2).build();
    let start = Instant::now();
    for _ in 0..COUNT {
        let _: u16 = net.add();
    }
    let created = start.elapsed();
    for dev in &net.devices {
        dev.configure();
    }
    // As many at a time as a person with a shell would.
    let silent: Vec<String> = thread::scope(|scope| {
        let parts: Vec<_> = net
            .devices
            .chunks(50)
            .map(|part| {
                let lan = &net.lan;
                scope.spawn(move || {
                    let addresses = part.iter().flat_map(|dev| dev.addresses());
                    addresses
                        .filter(|address| !lan.reaches(address))
                        .collect::<Vec<_>>()
                })
            })
            .collect();
        parts
            .into_iter()
            .flat_map(|part| part.join().expect("a thread"))
            .collect()
    });
    assert!(
        silent.is_empty(),
        "each of {COUNT} devices answers: {silent:?} do not"
    );
    for (from, to) in [(0, 199), (199, 0), (57, 142)] {
        for address in net.dev(to).addresses() {
            assert!(
                net.dev(from).ns.reaches(&address),
                "ipvl{from} reaches {address}"
            );
        }
    }
    // A question is for one, however many there are.
    let ears: Vec<Sniffer> = [3, 77, 198]
        .map(|n| Sniffer::on(&net.dev(n).ns, &net.dev(n).name))
        .into();
    net.lan.sh("ip neigh flush all");
    assert!(
        net.lan.reaches(&net.dev(100).v4.to_string()),
        "one of them answers"
    );
    for ears in &ears {
        let asked = ears
            .heard()
            .into_iter()
            .filter(|seen| seen.ethertype() == 0x0806)
            .count();
        assert_eq!(asked, 0, "nobody else was asked");
    }
    // Broadcast is for all.
    let _: bool = net
        .lan
        .try_sh("arping -U -c 1 -w 1 -I lan0 10.1.0.254")
        .ok();
    for ears in &ears {
        assert!(
            ears.find(PATIENCE, |seen| seen.ethertype() == 0x0806)
                .is_some(),
            "all hear all"
        );
    }
    // A socket keeps its namespace alive.
    drop(ears);
    let shown: serde_json::Value =
        serde_json::from_str(&net.ipvlan("-j link show").expect()).expect("JSON");
    assert_eq!(
        shown.as_array().map(Vec::len),
        Some(usize::from(COUNT)),
        "all are shown"
    );
    let start = Instant::now();
    for dev in &net.devices[..100] {
        dev.ns.sh(&format!("ip link del {}", dev.name));
    }
    net.devices.clear();
    net.assert_clean();
    eprintln!(
        "{COUNT} devices: created in {created:?}, gone in {:?}",
        start.elapsed()
    );
    assert!(
        eventually(PATIENCE, || net.host.links().len() == 2),
        "lo and eth0: {:?}",
        net.host.links()
    );
}
