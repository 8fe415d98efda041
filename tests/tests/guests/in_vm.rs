//! The tests. Their path has `in_vm` in it, which `cargo xtask test --no-vm` leaves out.

use std::time::Duration;

use super::*;

/// Two machines, three namespaces and the LAN, in the modes one after the other.
#[track_caller]
fn all_reach_all(modes: &[Mode]) {
    let mut party = Party::begin(modes[0]);
    prepare_for_l3s(&party.net.host);
    for mode in modes {
        let set = format!("link set tap0 type ipvtap mode {mode}");
        party.net.ipvlan(&set).expect_quiet();
        party.net.mode = *mode;
        let tcpdump = party.net.lan.spawn("tcpdump -e -nn -l -Q in -i lan0");
        // It says that it listens where nobody reads.
        std::thread::sleep(Duration::from_secs(1));
        party.all_reach_all();
        let dump = tcpdump.interrupt();
        let (macs, machines) = macs_in(&dump);
        let lines = dump.lines().count();
        assert!(lines > 100, "{mode}: tcpdump has seen {lines} frames");
        assert_eq!(macs, BTreeSet::from([mac_text(party.net.mac())]), "{mode}");
        assert_eq!(machines, [""; 0], "{mode}: MAC addresses of machines");
    }
}

#[test]
fn machines_namespaces_and_the_lan_reach_each_other_in_l2() {
    all_reach_all(&[Mode::L2]);
}

#[test]
fn machines_namespaces_and_the_lan_reach_each_other_in_l3_and_l3s() {
    all_reach_all(&[Mode::L3, Mode::L3s]);
}

/// Of what is left to whoever sends it out at last, a frame is many segments.
const LARGE: u64 = 5_000;

/// Bytes in a frame on the way from a machine and to it, by the counters of its tap, while `work` is
/// done.
fn sizes(party: &Party, number: usize, work: impl FnOnce()) -> [u64; 2] {
    let counters = || {
        let tap = party.net.host.link(&format!("tap{number}"));
        let stats = tap.stats.expect("counters");
        [
            (stats.rx_bytes, stats.rx_packets),
            (stats.tx_bytes, stats.tx_packets),
        ]
    };
    let before = counters();
    work();
    let after = counters();
    [0, 1].map(|way: usize| {
        let packets = after[way].1 - before[way].1;
        (after[way].0 - before[way].0) / packets.max(1)
    })
}

/// What `iperf3 -J` says of a connection, in Mbit/s; none, if there was none, which is no failure to it.
fn pace(report: &Done) -> Option<f64> {
    let report: serde_json::Value = serde_json::from_str(&report.stdout).ok()?;
    let received = &report["end"]["sum_received"]["bits_per_second"];
    Some(received.as_f64()? / 1e6)
}

#[test]
fn machines_send_and_get_large_frames_whoever_is_at_the_other_end() {
    let party = Party::begin(Mode::L2);
    let [first, second] = &party.machines;
    let _: String = first
        .sh("iperf3 -s >/dev/null 2>&1 & until netstat -ltn | grep -q :5201; do sleep 0.1; done");
    let net = &party.net;
    for address in addresses(Mode::L2, 0) {
        let client = format!("iperf3 -J -t 2 -c {address}");
        for (way, words) in ["from", "to"].into_iter().zip(["-R", ""]) {
            let line = format!("{client} {words}");
            let on_lan = || net.lan.try_sh(&line);
            let on_device = || net.dev(0).ns.try_sh(&line);
            let on_machine = || second.try_sh(&line);
            let others: [(&str, &dyn Fn() -> Done); 3] = [
                ("lan", &on_lan),
                ("namespace", &on_device),
                ("machine", &on_machine),
            ];
            for (other, run) in others {
                // Between two clients the server does not listen for a moment.
                let (mut last, mut seen) = (None, None);
                let done = eventually(PATIENCE, || {
                    let sizes = sizes(&party, 0, || last = Some(run()));
                    seen = last.as_ref().and_then(pace).map(|pace| (pace, sizes));
                    seen.is_some()
                });
                assert!(done, "{last:?}");
                let (pace, [from, to]) = seen.expect("it ran");
                let size = if way == "from" { from } else { to };
                let what = format!("{way} the machine at {address}, {other}");
                eprintln!("{what}: {pace:.0} Mbit/s, {size} bytes in a frame");
                assert!(size > LARGE, "{what}: {size} bytes in a frame");
            }
        }
    }
}

/// The address that a machine gets by DHCP.
#[track_caller]
fn lease(machine: &Machine) -> IpAddr {
    let _: String = machine.sh(
        "printf '#!/bin/sh\\n[ $1 != bound ] || ip addr add $ip/$mask dev $interface\\n' >/tmp/script; \
         chmod +x /tmp/script; udhcpc -f -q -n -t 20 -T 2 -i eth0 -s /tmp/script",
    );
    let shown = machine.sh("ip -4 -o addr show dev eth0");
    let address = shown
        .split_whitespace()
        .skip_while(|word| *word != "inet")
        .nth(1);
    let address = address.and_then(|address| address.split('/').next());
    let address = address.and_then(|address| address.parse().ok());
    address.unwrap_or_else(|| panic!("no lease: {shown}"))
}

#[test]
fn machines_get_leases_of_their_own_and_keep_them_with_another_mac_address() {
    let net = Net::new(Mode::L2).devices(1).build();
    let party = Party::with(net);
    let [first, second] = party.machines;
    let net = &party.net;
    let _server = net.lan.spawn(
        "dnsmasq --conf-file=/dev/null -k -p 0 -i lan0 --bind-interfaces --user=root --pid-file \
         --leasefile-ro --dhcp-range=10.1.0.100,10.1.0.150,2m --log-facility=/dev/null",
    );
    let leases = [lease(&first), lease(&second)];
    assert_ne!(leases[0], leases[1]);
    for (number, lease) in leases.iter().enumerate() {
        net.ipvlan(&format!("addr add {lease} dev tap{number}"))
            .expect_quiet();
        for ns in [&net.lan, &net.dev(0).ns] {
            assert!(ns.reaches(&lease.to_string()), "{} to {lease}", ns.name());
        }
    }
    assert!(first.reaches(&leases[1].to_string()));
    assert_eq!(shown_mac(net, "tap0"), mac_text(MACS[0]));

    first.stop();
    let other = [2, 0, 0, 0x67, 0x75, 3];
    let first = Machine::boot(net, "tap0", other).ready();
    assert_eq!(lease(&first), leases[0], "the lease is the tap's");
    assert_eq!(shown_mac(net, "tap0"), mac_text(other));
    // Who knew it before has nothing to learn.
    for ns in [&net.lan, &net.dev(0).ns] {
        assert!(
            ns.answers(&leases[0].to_string()),
            "{} to {}",
            ns.name(),
            leases[0]
        );
    }
    assert!(second.reaches(&leases[0].to_string()));
}

/// A machine's MAC address, as `link show` has it.
fn shown_mac(net: &Net, tap: &str) -> String {
    let shown = net.look(&net.host, tap);
    shown["ipvlan"]["guest"].as_str().unwrap_or("?").to_owned()
}
