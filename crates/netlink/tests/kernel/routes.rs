//! Routes and rules.

use std::net::IpAddr;

use ipnet::IpNet;
use ipvlan_netlink::{Event, Family, Monitor, Netlink, RouteFilter, Rule};
use nix::errno::Errno;

use crate::{in_new_ns, ip, named, wait_for};

#[test]
#[ignore = "needs root"]
fn routes_and_rules_are_made_read_and_removed() {
    in_new_ns(|| {
        ip("link add v0 type veth peer name v1");
        ip("link set v0 up");
        ip("link set v1 up");
        let mut nl = Netlink::open().expect("open");
        let v0 = named(&mut nl, "v0").index;
        let table = 0x6970_0001;
        for (family, text) in [
            (Family::V4, "10.9.0.1/32"),
            (Family::V4, "10.9.0.0/24"),
            (Family::V6, "fd09::1/128"),
            (Family::V6, "fd09::/64"),
        ] {
            let prefix: IpNet = text.parse().expect("a prefix");
            let filter = RouteFilter {
                family,
                table: Some(table),
                interface: None,
            };
            assert_eq!(nl.routes(filter).expect("no table, no routes"), []);
            for _ in 0..2 {
                nl.set_route(table, prefix, Some(v0)).expect("also twice");
            }
            let routes = nl.routes(filter).expect("routes");
            assert_eq!(routes.len(), 1, "{routes:?}");
            assert_eq!(routes[0].destination, prefix);
            assert_eq!(routes[0].table, table);
            assert_eq!(routes[0].hops[0].interface, Some(v0));
            // To nowhere, and back.
            for interface in [None, None, Some(v0), None] {
                nl.set_route(table, prefix, interface).expect("replaced");
                let routes = nl.routes(filter).expect("routes");
                assert_eq!(routes.len(), 1, "{routes:?}");
                let hop = routes[0].hops.first().and_then(|hop| hop.interface);
                assert_eq!(hop, interface);
            }
            for _ in 0..2 {
                nl.delete_route(table, prefix).expect("also twice");
            }
            assert_eq!(nl.routes(filter).expect("routes"), []);

            let to_table = Rule {
                family,
                priority: 500,
                interface: "v0".into(),
                mark: None,
                table,
                nowhere: false,
            };
            let marked = Rule {
                interface: "lo".into(),
                mark: Some(0x1000_0000),
                ..to_table.clone()
            };
            let nowhere = Rule {
                priority: 501,
                nowhere: true,
                ..to_table.clone()
            };
            let all = [to_table, marked, nowhere];
            for rule in &all {
                nl.add_rule(rule).expect("a new rule");
            }
            let again = nl.add_rule(&all[0]).expect_err("it is there");
            assert_eq!(again.errno(), Errno::EEXIST);
            assert_eq!(nl.rules(family).expect("rules"), all);
            for rule in &all {
                nl.delete_rule(rule).expect("it is there");
                nl.delete_rule(rule).expect("and gone");
            }
            assert_eq!(nl.rules(family).expect("rules"), []);
        }
        ip("addr add 10.1.0.1/24 dev v0");
        ip("route add default via 10.1.0.254 dev v0 onlink");
        let filter = RouteFilter {
            family: Family::V4,
            table: None,
            interface: Some(v0),
        };
        let routes = nl.routes(filter).expect("routes");
        let gateway = "10.1.0.254".parse().expect("it");
        assert!(
            routes
                .iter()
                .any(|route| route.hops[0].gateway == Some(gateway)),
            "{routes:?}"
        );
    });
}

#[test]
#[ignore = "needs root"]
fn the_way_to_an_address_is_that_of_what_this_host_sends() {
    in_new_ns(|| {
        ip("link add v0 type veth peer name v1");
        for link in ["lo", "v0", "v1"] {
            ip(&format!("link set {link} up"));
        }
        let mut nl = Netlink::open().expect("open");
        let v0 = named(&mut nl, "v0").index;
        let mut way = |address: &str, entry| {
            let route = nl.route_to(address.parse().expect("an address"), None, entry);
            route.expect("an answer")
        };
        for address in ["10.9.0.7", "fd09::7"] {
            assert_eq!(way(address, false), None, "there is no route");
        }
        ip("addr add 10.9.0.1/24 dev v0");
        ip("addr add fd09::1/64 dev v0 nodad");
        ip("nexthop add id 7 dev v0 via 10.9.0.254");
        ip("route add default nhid 7");
        ip("route add unreachable 10.9.0.8");
        ip("route add blackhole fd09::8");
        for (address, len) in [("10.9.0.7", 24), ("fd09::7", 64), ("192.0.2.1", 0)] {
            let route = way(address, false).expect("a route");
            let out: Vec<_> = route.hops.iter().map(|hop| hop.interface).collect();
            assert_eq!(out, [Some(v0)], "{address}");
            let entry = way(address, true).expect("an entry");
            assert_eq!(entry.destination.prefix_len(), len, "{address}");
        }
        for address in ["10.9.0.8", "fd09::8"] {
            assert_eq!(way(address, false), None, "a route that forbids it");
        }
    });
}

#[test]
#[ignore = "needs root"]
fn the_routers_of_nexthop_objects_are_found_whatever_dumps_of_routes_show() {
    in_new_ns(|| {
        ip("link add v0 type veth peer name v1");
        for link in ["v0", "v1"] {
            ip(&format!("link set {link} up"));
        }
        ip("addr add 10.9.0.1/24 dev v0");
        ip("addr add fd09::1/64 dev v0 nodad");
        let mut monitor = Monitor::open().expect("a monitor");
        let mut nl = Netlink::open().expect("open");
        let [v0, v1] = ["v0", "v1"].map(|name| named(&mut nl, name).index);
        assert_eq!(nl.nexthops(v0).expect("none"), [] as [IpAddr; 0]);
        ip("nexthop add id 1 dev v0 via 10.9.0.254");
        let told = Event::Route {
            ns: None,
            table: 0,
            by_router: true,
        };
        let _: Vec<Event> = wait_for(&mut monitor, &told);
        ip("-6 nexthop add id 2 dev v0 via fd09::254");
        ip("nexthop add id 3 dev v0");
        ip("-6 nexthop add id 4 dev v1 via fe80::9");
        ip("nexthop add id 5 group 1");
        let wanted = ["10.9.0.254", "fd09::254"].map(|text| text.parse::<IpAddr>().expect("it"));
        assert_eq!(nl.nexthops(v0).expect("nexthops"), wanted);
        let other = ["fe80::9"].map(|text| text.parse::<IpAddr>().expect("it"));
        assert_eq!(nl.nexthops(v1).expect("nexthops"), other);
    });
}
