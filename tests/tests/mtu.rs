//! Large and small.

#![expect(
    clippy::expect_used,
    reason = "clippy knows a test by its attribute, not the functions beside it"
)]

use std::net::IpAddr;

use ipvlan_tests::traffic;
use ipvlan_tests::{Mode, Net, Ns};

#[track_caller]
fn fits(from: &Ns, address: &str, size: u32) {
    let line = format!("ping -n -q -c 3 -i 0.1 -W 2 -M do -s {size} {address}");
    let ping = from.try_sh(&line);
    assert!(
        ping.stdout.contains(" 0% packet loss"),
        "{}: {ping:?}",
        from.name()
    );
}

fn works_at(mode: Mode, mtu: u32) {
    let net = Net::new(mode).mtu(mtu).devices(2).build();
    let [a, b] = [&net.devices[0], &net.devices[1]];
    for dev in [a, b] {
        assert_eq!(
            dev.ns.link(&dev.name).mtu,
            mtu,
            "a device takes the parent's MTU"
        );
    }
    let v6 = mtu >= 1280;
    // A plain veth at 68 has no room for more than some fragments either.
    let large = if v6 { 3000 } else { 300 };
    let pairs = [
        (&net.lan, &a.ns, a.addresses()),
        (
            &a.ns,
            &net.lan,
            ["10.1.0.254".to_owned(), "fd00::254".to_owned()],
        ),
        (&a.ns, &b.ns, b.addresses()),
    ];
    for (from, to, addresses) in pairs {
        for address in addresses.iter().take(1 + usize::from(v6)) {
            let head = if address.contains(':') { 48 } else { 28 };
            fits(from, address, mtu - head);
            fits(from, address, 1);
            let big = from.try_sh(&format!("ping -n -q -c 2 -i 0.1 -W 2 -s {large} {address}"));
            assert!(
                big.stdout.contains(" 0% packet loss"),
                "fragments at {mtu}: {big:?}"
            );
            let address: IpAddr = address.parse().expect("an address");
            let bytes = if mtu < 1000 { 50_000 } else { 4 << 20 };
            let tcp = traffic::tcp(to, address, from, bytes);
            assert!(tcp.is_ok(), "{mode} at {mtu}, TCP to {address}: {tcp:?}");
        }
    }
}

#[test]
fn jumbo_frames_in_l2() {
    works_at(Mode::L2, 9000);
}

#[test]
fn jumbo_frames_in_l3() {
    works_at(Mode::L3, 9000);
}

#[test]
fn the_smallest_mtu_of_ipv6_in_l2() {
    works_at(Mode::L2, 1280);
}

#[test]
fn the_smallest_mtu_of_ipv6_in_l3() {
    works_at(Mode::L3, 1280);
}

#[test]
fn the_smallest_mtu_of_ipv4_in_l2() {
    works_at(Mode::L2, 68);
}

#[test]
fn the_smallest_mtu_of_ipv4_in_l3() {
    works_at(Mode::L3, 68);
}

#[test]
fn segmentation_on_the_parent_may_be_off() {
    for mode in [Mode::L2, Mode::L3] {
        let net = Net::new(mode).devices(2).build();
        net.host
            .sh("ethtool -K eth0 tso off gso off gro off tx off sg off");
        net.lan
            .sh("ethtool -K lan0 tso off gso off gro off rx off tx off");
        let a = net.dev(0);
        for address in a.addresses() {
            let address: IpAddr = address.parse().expect("an address");
            let tcp = traffic::tcp(&a.ns, address, &net.lan, 4 << 20);
            assert!(
                tcp.is_ok(),
                "{mode}, TCP to {address} without offloads: {tcp:?}"
            );
        }
        let tcp = traffic::tcp(&net.dev(1).ns, net.dev(1).v4.into(), &a.ns, 4 << 20);
        assert!(tcp.is_ok(), "{mode}, siblings: {tcp:?}");
    }
}

#[test]
fn a_larger_sibling_is_not_a_black_hole_for_tcp() {
    let net = Net::new(Mode::L2).devices(2).build();
    net.dev(0).ns.sh("ip link set ipvl0 mtu 4000");
    let tcp = traffic::tcp(
        &net.dev(1).ns,
        net.dev(1).v4.into(),
        &net.dev(0).ns,
        1 << 20,
    );
    assert!(tcp.is_ok(), "MTU 4000 to a sibling with 1500: {tcp:?}");
    let tcp = traffic::tcp(
        &net.lan,
        "10.1.0.254".parse().expect("it"),
        &net.dev(0).ns,
        1 << 20,
    );
    assert!(tcp.is_ok(), "MTU 4000 to the LAN with 1500: {tcp:?}");
}
