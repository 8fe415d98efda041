//! What a monitor hears, and of whom.

use std::os::fd::AsFd;
use std::thread;
use std::time::Duration;

use ipvlan_netlink::{Event, LinkChange, Monitor, NetNs, Netlink, Nsid, VethPair};

use crate::{MAC, in_new_ns, ip, ip_in, named, new_ns, pair_into, wait_for};

#[test]
#[ignore = "needs root: cargo xtask test"]
fn a_monitor_hears_other_namespaces_with_their_id() {
    in_new_ns(|| {
        let (there, deaf) = (new_ns(), new_ns());
        let mut nl = Netlink::open().unwrap();
        let mut monitor = Monitor::open().unwrap();
        let id = nl.assign_nsid(there.as_fd()).unwrap();
        let host = pair_into(&mut nl, &there);
        let events = monitor.drain().unwrap();
        assert!(events.contains(&Event::NsidAdded(id)), "{events:?}");
        let dev = host.link.unwrap();
        let link = |ns, index, removed| Event::Link { ns, index, removed };
        assert!(
            events.contains(&link(None, host.index, false)),
            "{events:?}"
        );
        assert!(events.contains(&link(Some(id), dev, false)), "{events:?}");
        assert_eq!(monitor.drain().unwrap(), [], "nothing new");

        ip_in(&there, "addr add 10.1.2.3/24 dev ipvl0");
        let heard = |removed| Event::Address {
            ns: Some(id),
            index: dev,
            removed,
        };
        assert_eq!(monitor.drain().unwrap(), [heard(false)]);
        ip_in(&there, "addr del 10.1.2.3/24 dev ipvl0");
        assert_eq!(monitor.drain().unwrap(), [heard(true)]);
        // The kernel speaks of IPv6 addresses from a work queue, so later.
        ip_in(&there, "addr add fd00::1/64 dev ipvl0 nodad");
        let _: Vec<Event> = wait_for(&mut monitor, &heard(false));
        ip_in(&there, "link set ipvl0 up");
        let up = LinkChange {
            up: Some(true),
            ..LinkChange::default()
        };
        nl.set_link(host.index, &up).unwrap();
        let _: Vec<Event> = wait_for(&mut monitor, &link(Some(id), dev, false));
        // Carrier and IPv6 have more to say for some seconds.
        thread::sleep(Duration::from_secs(3));
        let _: Vec<Event> = monitor.drain().unwrap();

        ip_in(&deaf, "link set lo up");
        assert_eq!(
            monitor.drain().unwrap(),
            [],
            "one without an id is not heard"
        );

        nl.delete_link(host.index).unwrap();
        let events = monitor.drain().unwrap();
        assert!(events.contains(&link(Some(id), dev, true)), "{events:?}");
        assert!(events.contains(&link(None, host.index, true)), "{events:?}");
    });
}

#[test]
#[ignore = "needs root: cargo xtask test"]
fn a_monitor_takes_its_own_namespace_for_its_own_though_it_has_an_id() {
    in_new_ns(|| {
        let mut monitor = Monitor::open().unwrap();
        let mut nl = Netlink::open().unwrap();
        let here = NetNs::current().unwrap();
        let id = nl.assign_nsid(here.as_fd()).unwrap();
        ip("link set lo up");
        let mut events = monitor.drain().unwrap();
        assert_eq!(events.remove(0), Event::NsidAdded(id));
        assert!(!events.is_empty());
        for event in events {
            assert!(
                matches!(
                    event,
                    Event::Link { ns: None, .. } | Event::Address { ns: None, .. }
                ),
                "{event:?}"
            );
        }
    });
}

#[test]
#[ignore = "needs root: cargo xtask test"]
fn a_move_is_seen_on_both_sides() {
    in_new_ns(|| {
        let (from, to) = (new_ns(), new_ns());
        let mut nl = Netlink::open().unwrap();
        let mut monitor = Monitor::open().unwrap();
        let to_id = nl.assign_nsid(to.as_fd()).unwrap();
        let from_id = nl.assign_nsid(from.as_fd()).unwrap();
        nl.create_veth(&VethPair::new("host0", "ipvl0", MAC, 1400))
            .unwrap();
        let dev = named(&mut nl, "ipvl0").index;
        let _: Vec<Event> = monitor.drain().unwrap();

        nl.move_link(dev, from.as_fd(), Some("eth7")).unwrap();
        let gone = |ns, index, to, new_index| {
            let link = Event::Link {
                ns,
                index,
                removed: true,
            };
            let moved = Event::Moved {
                ns,
                index,
                to,
                new_index: Some(new_index),
            };
            [link, moved]
        };
        let events = monitor.drain().unwrap();
        let has = |events: &[Event], both: [Event; 2]| events.windows(2).any(|two| two == both);
        let moved = named(&mut Netlink::open_in(&from).unwrap(), "eth7").index;
        assert!(has(&events, gone(None, dev, from_id, moved)), "{events:?}");
        let came = |ns: Nsid, index| Event::Link {
            ns: Some(ns),
            index,
            removed: false,
        };
        assert!(events.contains(&came(from_id, moved)), "{events:?}");

        let mut nl_from = Netlink::open_in(&from).unwrap();
        nl_from.move_link(moved, to.as_fd(), None).unwrap();
        let to_id_there = nl_from.nsid_of(to.as_fd()).unwrap().expect("an id");
        assert_ne!(to_id_there, to_id, "test of two id spaces");
        let events = monitor.drain().unwrap();
        let last = named(&mut Netlink::open_in(&to).unwrap(), "eth7").index;
        assert!(
            has(&events, gone(Some(from_id), moved, to_id_there, last)),
            "{events:?}"
        );
        assert!(events.contains(&came(to_id, last)), "{events:?}");
    });
}

#[test]
#[ignore = "needs root: cargo xtask test"]
fn a_namespace_that_dies_takes_its_device_and_its_id() {
    in_new_ns(|| {
        let there = new_ns();
        let mut nl = Netlink::open().unwrap();
        let id = nl.assign_nsid(there.as_fd()).unwrap();
        let host = pair_into(&mut nl, &there);
        let mut monitor = Monitor::open().unwrap();
        drop(there);
        let gone = Event::Link {
            ns: None,
            index: host.index,
            removed: true,
        };
        // The id goes first; what the device says at the end is no longer for us.
        assert_eq!(
            wait_for(&mut monitor, &gone),
            [Event::NsidRemoved(id), gone]
        );
        assert_eq!(nl.link(host.index, None).unwrap(), None);
    });
}

#[test]
#[ignore = "needs root: cargo xtask test"]
fn a_monitor_that_is_too_slow_is_told() {
    in_new_ns(|| {
        let mut nl = Netlink::open().unwrap();
        nl.create_veth(&VethPair::new("a0", "b0", MAC, 1500))
            .unwrap();
        let a0 = named(&mut nl, "a0").index;
        let mut monitor = Monitor::open().unwrap();
        for n in 0..20_000 {
            let mtu = Some(1400 + n % 2);
            nl.set_link(
                a0,
                &LinkChange {
                    mtu,
                    ..LinkChange::default()
                },
            )
            .unwrap();
        }
        let events = monitor.drain().unwrap();
        assert!(events.contains(&Event::Overrun), "{} events", events.len());
        let _: Vec<Event> = monitor.drain().unwrap();
        nl.set_link(
            a0,
            &LinkChange {
                mtu: Some(1300),
                ..LinkChange::default()
            },
        )
        .unwrap();
        assert!(!monitor.drain().unwrap().is_empty(), "it goes on hearing");
    });
}
