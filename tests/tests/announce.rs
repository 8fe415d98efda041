//! Devices tell their neighbours anew where they are.

use std::collections::BTreeSet;
use std::net::{IpAddr, Ipv4Addr};
use std::time::Duration;

use ipvlan_tests::packet::{Mac, ethertype, mac_text, next};
use ipvlan_tests::{
    Backend, Mode, Net, PATIENCE, Seen, Sniffer, differs, eventually, kernel_is_since,
};

/// Whether this announces `address` at `mac` to everybody: an ARP announcement, an unsolicited
/// neighbour advertisement.
fn announces(seen: &Seen, mac: Mac, address: IpAddr) -> bool {
    let at = |place: usize, bytes: &[u8]| seen.bytes.get(place..place + bytes.len()) == Some(bytes);
    let is_from = seen.source() == mac && !seen.outgoing;
    is_from
        && match address {
            IpAddr::V4(address) => {
                seen.ethertype() == ethertype::ARP
                    && at(22, &mac)
                    && at(28, &address.octets())
                    && at(38, &address.octets())
            }
            IpAddr::V6(address) => {
                seen.ethertype() == ethertype::IPV6
                    // ICMPv6, a neighbour advertisement, not asked for, that overrides.
                    && at(20, &[next::ICMPV6, 255])
                    && at(54, &[136, 0])
                    && at(58, &[0x20])
                    && at(62, &address.octets())
                    && at(78, &[2, 1])
                    && at(80, &mac)
            }
        }
}

/// Those of the devices' addresses that are announced in time.
fn announced(net: &Net, wire: &Sniffer, mac: Mac, patience: Duration) -> BTreeSet<IpAddr> {
    let wanted: BTreeSet<IpAddr> = net
        .devices
        .iter()
        .flat_map(|dev| [IpAddr::V4(dev.v4), IpAddr::V6(dev.v6)])
        .collect();
    let mut found = BTreeSet::new();
    let _: Option<Seen> = wire.find(patience, |seen| {
        let said = wanted
            .iter()
            .filter(|address| announces(seen, mac, **address));
        found.extend(said.copied());
        found == wanted
    });
    found
}

#[test]
fn neighbours_are_told_of_a_new_mac_address() {
    for mode in [Mode::L2, Mode::L3] {
        let net = Net::new(mode).devices(2).build();
        let wire = Sniffer::on(&net.lan, "lan0");
        let new = [2, 0, 0, 0, 0x55, 1];
        net.host
            .sh(&format!("ip link set eth0 address {}", mac_text(new)));
        for dev in &net.devices {
            let has = || dev.ns.mac(&dev.name) == new;
            assert!(eventually(PATIENCE, has), "{mode}: {} has it", dev.name);
        }
        let tells = mode == Mode::L2 && differs("announce", true, false);
        let patience = if tells {
            PATIENCE
        } else {
            Duration::from_millis(400)
        };
        let said = announced(&net, &wire, new, patience);
        let wanted = if tells { 4 } else { 0 };
        assert_eq!(said.len(), wanted, "{mode}: announced: {said:?}");
        if tells {
            // Nobody has to forget anything.
            for dev in &net.devices {
                for address in dev.addresses() {
                    assert!(net.lan.answers(&address), "{mode}: {address} is known anew");
                }
            }
        }
    }
}

#[test]
fn a_router_s_device_says_that_it_is_one() {
    if !differs("announce", true, false) {
        // The driver announces nothing here; see the test before this one.
        return;
    }
    let net = Net::new(Mode::L2).devices(1).build();
    let wire = Sniffer::on(&net.lan, "lan0");
    net.dev(0).ns.sysctl("net/ipv6/conf/ipvl0/forwarding", "1");
    // Something that makes the agent look.
    net.dev(0).ns.sh("ip addr add 10.1.0.77/24 dev ipvl0");
    assert!(net.lan.reaches("10.1.0.77"), "it is followed");
    let new = [2, 0, 0, 0, 0x55, 2];
    net.host
        .sh(&format!("ip link set eth0 address {}", mac_text(new)));
    let is_router = |seen: &Seen| {
        seen.source() == new
            && seen.bytes.get(54..56) == Some(&[136, 0])
            && seen.bytes.get(58) == Some(&0xa0)
    };
    assert!(
        wire.find(PATIENCE, is_router).is_some(),
        "or its neighbours would take it off their list of routers"
    );
}

#[test]
fn devices_announce_themselves_after_a_fail_over() {
    let mut net = Net::new(Mode::L2).build();
    let done = net
        .host
        .try_sh("ip link add bond0 type bond mode active-backup miimon 20");
    if !done.ok() {
        assert!(done.stderr.contains("Unknown device type"), "{done:?}");
        eprintln!("this kernel has no bond: not tested here, but with `cargo xtask vm`");
        return;
    }
    // Two wires to one switch.
    net.host.batch(&format!(
        "addr flush dev eth0\n\
         link set eth0 down\n\
         link add eth1 type veth peer name lan1 netns {}\n\
         link set eth0 master bond0\n\
         link set eth1 master bond0\n\
         link set bond0 up\n",
        net.lan.name()
    ));
    net.lan.batch(
        "addr flush dev lan0\n\
         link add br0 type bridge\n\
         link set lan0 master br0\n\
         link set lan1 master br0\n\
         link set lan1 up\n\
         link set br0 up\n\
         addr add 10.1.0.254/24 dev br0\n\
         addr add fd00::254/64 dev br0 nodad\n",
    );
    for _ in 0..2 {
        let number = net.add_on("bond0");
        net.dev(number).configure();
    }
    for dev in &net.devices {
        for address in dev.addresses() {
            assert!(
                net.lan.reaches(&address),
                "{address} through the first wire"
            );
        }
    }
    let mac = net.host.mac("bond0");
    for (from, to) in [("lan0", "lan1"), ("lan1", "lan0")] {
        let wire = Sniffer::on(&net.lan, to);
        net.lan.sh(&format!("ip link set {from} down"));
        let tells = Backend::is_ours() || kernel_is_since(6, 14);
        let patience = if tells {
            PATIENCE
        } else {
            Duration::from_millis(500)
        };
        let said = announced(&net, &wire, mac, patience);
        let wanted = if tells { 4 } else { 0 };
        assert_eq!(said.len(), wanted, "announced on {to}: {said:?}");
        for dev in &net.devices {
            for address in dev.addresses() {
                assert!(net.lan.reaches(&address), "{address} through {to}");
            }
        }
        net.lan.sh(&format!("ip link set {from} up"));
        let active = || net.lan.link(from).has_carrier();
        assert!(eventually(PATIENCE, active), "{from} is back");
        std::thread::sleep(Duration::from_millis(200));
    }
}

#[test]
fn thousands_of_addresses_are_announced_and_nobody_waits_for_it() {
    let net = Net::new(Mode::L2).devices(2).build();
    let many: Vec<Ipv4Addr> = (0..1500u16)
        .map(|number| {
            let [high, low] = number.to_be_bytes();
            Ipv4Addr::new(10, 77, high, low)
        })
        .collect();
    let lines: String = many
        .iter()
        .map(|address| format!("addr add {address}/32 dev ipvl0\n"))
        .collect();
    net.dev(0).ns.batch(&lines);
    net.lan.sh("ip route add 10.77.0.0/16 dev lan0");
    assert!(net.lan.reaches("10.77.5.1"), "they are owned");
    let wire = Sniffer::on(&net.lan, "lan0");
    let new = [2, 0, 0, 0, 0x55, 3];
    net.host
        .sh(&format!("ip link set eth0 address {}", mac_text(new)));
    net.dev(1).ns.sh("ip addr add 10.1.0.88/24 dev ipvl1");
    assert!(
        net.lan.reaches("10.1.0.88"),
        "another device is followed meanwhile"
    );
    let (patience, wanted) = match differs("announce", true, false) {
        true => (PATIENCE, many.len()),
        false => (Duration::from_millis(400), 0),
    };
    let mut said = BTreeSet::new();
    let _: Option<Seen> = wire.find(patience, |seen| {
        let address = seen
            .bytes
            .get(28..32)
            .and_then(|four| <[u8; 4]>::try_from(four).ok());
        let address = Ipv4Addr::from(address.unwrap_or_default());
        if address.octets()[1] == 77 && announces(seen, new, address.into()) {
            let _: bool = said.insert(address);
        }
        said.len() == many.len()
    });
    assert_eq!(said.len(), wanted, "addresses that were announced");
}
