//! Routes and rules.

use std::net::IpAddr;

use ipvlan_netlink::{Family, Netlink, RouteFilter, Rule};
use nix::errno::Errno;

use crate::{in_new_ns, ip, named};

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
        for (family, text) in [(Family::V4, "10.9.0.1"), (Family::V6, "fd09::1")] {
            let address: IpAddr = text.parse().expect("an address");
            let filter = RouteFilter {
                family,
                table: Some(table),
                interface: None,
            };
            assert_eq!(nl.routes(filter).expect("no table, no routes"), []);
            for _ in 0..2 {
                nl.set_route(table, address, v0).expect("also twice");
            }
            let routes = nl.routes(filter).expect("routes");
            let bits = if family == Family::V4 { 32 } else { 128 };
            assert_eq!(routes.len(), 1, "{routes:?}");
            assert_eq!(routes[0].destination, (address, bits));
            assert_eq!(routes[0].table, table);
            assert_eq!(routes[0].hops[0].interface, Some(v0));
            for _ in 0..2 {
                nl.delete_route(table, address).expect("also twice");
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
