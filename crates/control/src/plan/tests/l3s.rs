//! Mode l3s: the namespace forwards for the devices, and for nobody else because of them.

use super::*;

/// Two devices in l3s, settled.
fn forwarding(host: Host) -> Kernel {
    let mut kernel = two(Mode::L3);
    kernel.world.host = host;
    kernel.port().entry.mode = Mode::L3s as u8;
    let rounds = kernel.reconcile();
    assert!(rounds <= 2, "{rounds}");
    kernel
}

/// A host that forwards nothing by itself.
const QUIET: Host = Host {
    v4: false,
    v6: Some(false),
    checks_sources: false,
    fresh_v4: V4Settings {
        forwarding: false,
        rp_filter: 0,
        src_valid_mark: false,
    },
    fresh_forces_v6: false,
};

/// Rules as `ip rule` has them: family, interface, mark, where to.
fn rules(kernel: &mut Kernel) -> Vec<(Family, String, Option<u32>, bool)> {
    let rules = kernel.port().routing.rules.iter();
    rules
        .map(|rule| (rule.family, rule.interface.clone(), rule.mark, rule.nowhere))
        .collect()
}

/// Prefixes and host ends; 0 is an exception.
fn routes(kernel: &mut Kernel) -> Vec<(String, u32)> {
    let routes = kernel.port().routing.routes.iter();
    routes
        .map(|(prefix, host)| (words(*prefix), host.unwrap_or_default()))
        .collect()
}

fn forwards(link: &Link) -> (bool, Option<bool>) {
    let v4 = link.v4.expect("IPv4");
    (v4.forwarding, link.force_forwards_v6)
}

#[test]
fn the_addresses_of_a_guest_are_routed_to_its_tap() {
    let mut kernel = with_tap(Mode::L3);
    kernel.world.host = QUIET;
    kernel.port().entry.mode = Mode::L3s as u8;
    let _: usize = kernel.reconcile();
    let wanted = [("10.0.0.10", 10), ("10.0.0.20", 20), ("fd00::20", 20)];
    let wanted = wanted.map(|(address, host)| (address.to_owned(), host));
    assert_eq!(routes(&mut kernel), wanted);
    let tap = kernel.dev(20).host.clone().expect("the tap");
    assert!(forwards(&tap).0 && tap.flags & IFF_NOARP != 0 && tap.mac == Some(MAC));
    kernel.dev(20).host.as_mut().expect("the tap").flags &= !UP;
    let _: usize = kernel.reconcile();
    assert_eq!(routes(&mut kernel), [("10.0.0.10".to_owned(), 10)]);
}

#[test]
fn each_address_of_a_device_is_routed_to_its_host_end() {
    let mut kernel = forwarding(QUIET);
    let wanted = [("10.0.0.10", 10), ("10.0.0.11", 11), ("fd00::10", 10)];
    let wanted = wanted.map(|(address, host)| (address.to_owned(), host));
    assert_eq!(routes(&mut kernel), wanted);

    // Link-local addresses are routed nowhere, and a device here needs no route.
    let addresses = &mut kernel.dev(11).addresses;
    let _: bool = addresses.insert(ip("fe80::11")) && addresses.insert(ip("169.254.0.11"));
    kernel.dev(10).place = None;
    let _: usize = kernel.reconcile();
    assert_eq!(routes(&mut kernel), [("10.0.0.11".to_owned(), 11)]);

    kernel.parent().flags &= !UP;
    let _: usize = kernel.reconcile();
    assert_eq!(routes(&mut kernel), [], "there is no way out");
    kernel.parent().flags |= UP;
    let _: usize = kernel.reconcile();
    assert_eq!(routes(&mut kernel).len(), 1);
}

#[test]
fn what_lies_behind_the_host_is_no_devices() {
    let mut kernel = forwarding(QUIET);
    for address in ["10.0.0.10", "fd00::10"] {
        let _: Option<bool> = kernel.port().behind.insert(ip(address), true);
    }
    let _: usize = kernel.reconcile();
    assert_eq!(kernel.owner("10.0.0.10"), None, "even what it had");
    assert_eq!(kernel.owner("fd00::10"), None);
    let wanted = [("10.0.0.11".to_owned(), 11)];
    assert_eq!(routes(&mut kernel), wanted, "nor is it routed there");
    give(&mut kernel, 10, &["10.0.0.10"]);
    let _: usize = kernel.reconcile();
    assert_eq!(kernel.owner("10.0.0.10"), Some(10), "but by hand");
    assert_eq!(kernel.owner("fd00::10"), None);
    // In other modes the host forwards nothing to it.
    kernel.port().entry.mode = Mode::L3 as u8;
    let _: usize = kernel.reconcile();
    assert_eq!(kernel.owner("fd00::10"), Some(10));
}

#[test]
fn what_nobody_asked_for_is_not_owned_in_l3s() {
    let kernel = forwarding(QUIET);
    let mut world = kernel.observe();
    let port = world.ports.get_mut(&PARENT).expect("the port");
    let _: Option<bool> = port.behind.remove(&ip("10.0.0.10"));
    assert!(plan(&world).contains(&lose("10.0.0.10")));
}

#[test]
fn a_prefix_is_routed_but_for_what_is_not_its_devices() {
    let mut kernel = forwarding(QUIET);
    let _: bool = kernel.port().gateways.insert(ip("10.9.0.254"));
    let _: bool = kernel.world.own.insert(ip("10.9.0.1"));
    give(&mut kernel, 10, &["10.9.0.0/16", "fe80::/64"]);
    give(&mut kernel, 11, &["10.9.1.0/24", "10.9.1.128/25"]);
    let _: bool = kernel.dev(11).addresses.insert(ip("10.9.0.7"));
    let _: usize = kernel.reconcile();
    let behind = |kernel: &mut Kernel| {
        let mut all = routes(kernel);
        all.retain(|(prefix, _)| prefix.starts_with("10.9.") || prefix.starts_with("fe80"));
        all
    };
    let wanted = |all: &[(&str, u32)]| -> Vec<(String, u32)> {
        let all = all.iter();
        all.map(|(prefix, host)| ((*prefix).to_owned(), *host))
            .collect()
    };
    let expected = [
        ("10.9.0.0/16", 10),
        ("10.9.0.7", 11),
        // The router is out there. The host's own is its own by another table.
        ("10.9.0.254", 0),
        ("10.9.1.0/24", 11),
        ("10.9.1.128/25", 11),
    ];
    assert_eq!(behind(&mut kernel), wanted(&expected));

    // A device that was left here is not routed to, and not by way of another.
    kernel.dev(11).place = None;
    let _: usize = kernel.reconcile();
    let expected = [
        ("10.9.0.0/16", 10),
        ("10.9.0.7", 0),
        ("10.9.0.254", 0),
        ("10.9.1.0/24", 0),
    ];
    assert_eq!(behind(&mut kernel), wanted(&expected));
    give(&mut kernel, 10, &[]);
    let _: usize = kernel.reconcile();
    assert_eq!(behind(&mut kernel), [], "nothing to except from");
}

#[test]
fn a_host_that_did_not_forward_forwards_for_devices_only() {
    let mut kernel = forwarding(QUIET);
    assert_eq!(forwards(kernel.parent()), (true, Some(true)));
    let parent = kernel.parent().name.clone();
    let mut wanted = Vec::new();
    for family in Family::ALL {
        for nowhere in [false, true] {
            wanted.push((family, parent.clone(), None, nowhere));
        }
    }
    assert_eq!(rules(&mut kernel), wanted);
    for host in [10, 11] {
        let link = kernel.dev(host).host.clone().expect("a host end");
        assert_eq!(forwards(&link), (true, Some(true)));
        assert_eq!(link.mac, Some(MAC));
        assert_ne!(link.flags & IFF_NOARP, 0);
    }

    // Somebody makes a router of it.
    kernel.world.host = Host {
        v4: true,
        v6: Some(true),
        ..QUIET
    };
    let _: usize = kernel.reconcile();
    assert!(rules(&mut kernel).iter().all(|(.., nowhere)| !nowhere));
    assert_eq!(
        forwards(kernel.parent()),
        (true, Some(false)),
        "what is the host's own by now stays, and what was ours alone goes"
    );
}

#[test]
fn a_router_stays_one() {
    let mut kernel = two(Mode::L3);
    kernel.parent().v4 = Some(V4Settings {
        forwarding: true,
        ..V4Settings::default()
    });
    kernel.world.host = Host {
        v4: true,
        v6: Some(true),
        ..QUIET
    };
    kernel.port().entry.mode = Mode::L3s as u8;
    let _: usize = kernel.reconcile();
    assert!(rules(&mut kernel).iter().all(|(.., nowhere)| !nowhere));
    kernel.port().entry.mode = Mode::L3 as u8;
    let _: usize = kernel.reconcile();
    assert_eq!(forwards(kernel.parent()), (true, Some(false)));
    assert_eq!(kernel.port().routing, Routing::default());
}

#[test]
fn a_check_of_sources_is_shown_the_way_back() {
    let mut kernel = forwarding(Host {
        checks_sources: true,
        ..QUIET
    });
    let marked = (
        Family::V4,
        "lo".to_owned(),
        Some(ipvlan_abi::ROUTED_MARK),
        false,
    );
    assert!(rules(&mut kernel).contains(&marked));
    assert_ne!(kernel.port().entry.bits & PORT_MARK, 0);
    let link = kernel.dev(10).host.clone().expect("a host end");
    let settings = link.v4.expect("IPv4");
    assert!(settings.src_valid_mark && settings.rp_filter == 0);

    kernel.world.host = QUIET;
    let _: usize = kernel.reconcile();
    assert!(!rules(&mut kernel).contains(&marked));
    assert_eq!(kernel.port().entry.bits & PORT_MARK, 0);
}

#[test]
fn a_renamed_parent_has_its_rules_under_its_new_name() {
    let mut kernel = forwarding(QUIET);
    kernel.parent().name = "new".into();
    let _: usize = kernel.reconcile();
    let rules = rules(&mut kernel);
    assert_eq!(rules.len(), 4);
    assert!(rules.iter().all(|(_, interface, ..)| interface == "new"));
}

#[test]
fn leaving_the_mode_leaves_nothing_behind() {
    for to in [Mode::L2, Mode::L3] {
        let mut kernel = forwarding(QUIET);
        kernel.port().entry.mode = to as u8;
        let _: usize = kernel.reconcile();
        assert_eq!(kernel.port().routing, Routing::default(), "{to}");
        assert_eq!(forwards(kernel.parent()), (false, Some(false)), "{to}");
        let ours = PORT_ROUTED | PORT_FORWARD4 | PORT_FORWARD6 | PORT_MARK;
        assert_eq!(kernel.port().entry.bits & ours, 0, "{to}");
    }
    // The host ends are as they were, whatever that was here.
    let fresh_v4 = V4Settings {
        forwarding: false,
        rp_filter: 2,
        src_valid_mark: false,
    };
    let host = Host {
        checks_sources: true,
        fresh_v4,
        ..QUIET
    };
    for to in [Mode::L2, Mode::L3] {
        let mut kernel = two(Mode::L3);
        kernel.world.host = host;
        let ends = |kernel: &mut Kernel| {
            [10, 11].map(|host| {
                let link = kernel.dev(host).host.as_mut().expect("a host end");
                let _: &mut V4Settings = link.v4.get_or_insert(fresh_v4);
                (link.flags & IFF_NOARP, link.v4, link.force_forwards_v6)
            })
        };
        for host in [10, 11] {
            kernel.dev(host).host.as_mut().expect("a host end").v4 = None;
        }
        let before = ends(&mut kernel);
        kernel.port().entry.mode = Mode::L3s as u8;
        let _: usize = kernel.reconcile();
        assert_ne!(ends(&mut kernel), before, "{to}");
        kernel.port().entry.mode = to as u8;
        let _: usize = kernel.reconcile();
        assert_eq!(ends(&mut kernel), before, "{to}");
    }
    // The model panics when a port goes and leaves a rule.
    let mut kernel = forwarding(QUIET);
    for host in [10, 11] {
        kernel.dev(host).host = None;
    }
    let _: usize = kernel.reconcile();
    assert!(kernel.world.ports.is_empty());

    let mut kernel = forwarding(QUIET);
    kernel.port().parent = None;
    let _: usize = kernel.reconcile();
    assert!(kernel.world.ports.is_empty());
}

#[test]
fn a_kernel_without_ipv6_or_without_forced_forwarding_gets_what_it_can() {
    let mut kernel = forwarding(Host { v6: None, ..QUIET });
    assert!(
        rules(&mut kernel)
            .iter()
            .all(|(family, ..)| *family == Family::V4)
    );
    assert!(
        routes(&mut kernel)
            .iter()
            .all(|(address, _)| address.contains('.'))
    );

    let mut kernel = two(Mode::L3);
    kernel.world.host = QUIET;
    kernel.parent().force_forwards_v6 = None;
    kernel.port().entry.mode = Mode::L3s as u8;
    let _: usize = kernel.reconcile();
    let nowhere: Vec<_> = rules(&mut kernel)
        .into_iter()
        .filter(|(.., nowhere)| *nowhere)
        .collect();
    assert!(nowhere.iter().all(|(family, ..)| *family == Family::V4));
}
