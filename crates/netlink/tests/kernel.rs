//! Against the kernel, in network namespaces of our own that have no name and die with the test.
#![expect(
    clippy::expect_used,
    reason = "clippy knows only #[test] functions as tests"
)]

use std::fs;
use std::net::IpAddr;
use std::os::fd::{AsFd, AsRawFd};
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::path::Path;
use std::process::Command;
use std::thread;
use std::time::Duration;

use ipvlan_netlink::{
    AddrGenMode, Event, Family, Link, LinkChange, Monitor, NetNs, Netlink, Nsid, RouteFilter, Rule,
    VethPair, netns,
};
use nix::errno::Errno;
use nix::mount::{MsFlags, mount};
use nix::sched::{CloneFlags, unshare};

const IFF_NOARP: u32 = 0x80;
const MAC: [u8; 6] = [2, 0, 0, 0x12, 0x34, 0x56];

/// Runs `test` in a thread with a network and mount namespace of its own.
fn in_new_ns<R: Send + 'static>(test: impl FnOnce() -> R + Send + 'static) -> R {
    let thread = thread::spawn(move || {
        unshare(CloneFlags::CLONE_NEWNET | CloneFlags::CLONE_NEWNS).expect("unshare; not root?");
        let private = MsFlags::MS_PRIVATE | MsFlags::MS_REC;
        mount(None::<&str>, "/", None::<&str>, private, None::<&str>).expect("make / private");
        test()
    });
    thread.join().unwrap_or_else(|panic| resume_unwind(panic))
}

fn new_ns() -> NetNs {
    in_new_ns(|| NetNs::current().expect("current"))
}

fn ip(args: &str) {
    let status = Command::new("ip")
        .args(args.split(' '))
        .status()
        .expect("run ip");
    assert!(status.success(), "ip {args}");
}

fn ip_in(ns: &NetNs, args: &str) {
    ns.enter(|| ip(args)).expect("enter");
}

fn named(nl: &mut Netlink, name: &str) -> Link {
    nl.link_by_name(name)
        .expect("read")
        .unwrap_or_else(|| panic!("no link {name}"))
}

/// All events up to `wanted`, which the kernel may send from a work queue.
fn wait_for(monitor: &mut Monitor, wanted: &Event) -> Vec<Event> {
    let mut seen = Vec::new();
    for _ in 0..200 {
        seen.extend(monitor.drain().expect("drain"));
        if seen.contains(wanted) {
            return seen;
        }
        thread::sleep(Duration::from_millis(50));
    }
    panic!("no {wanted:?} in {seen:?}");
}

/// A pair `host0` here, `ipvl0` in `ns`.
fn pair_into(nl: &mut Netlink, ns: &NetNs) -> Link {
    nl.create_veth(&VethPair {
        dev_noarp: true,
        dev_netns: Some(ns.as_fd()),
        ..VethPair::new("host0", "ipvl0", MAC, 1400)
    })
    .expect("create");
    named(nl, "host0")
}

#[test]
#[ignore = "needs root: cargo xtask test"]
fn a_pair_is_complete_the_moment_it_appears() {
    in_new_ns(|| {
        let there = new_ns();
        let mut nl = Netlink::open().unwrap();
        nl.create_veth(&VethPair {
            host_mtu: Some(1500),
            dev_noarp: true,
            dev_netns: Some(there.as_fd()),
            host_index: Some(4241),
            dev_index: Some(4242),
            dev_txqlen: Some(17),
            dev_num_tx_queues: Some(3),
            dev_num_rx_queues: Some(2),
            ..VethPair::new("host0", "ipvlan%d", MAC, 1400)
        })
        .unwrap();

        let dev = Netlink::open_in(&there)
            .unwrap()
            .link(4242, None)
            .unwrap()
            .expect("the device");
        assert_eq!(dev.name, "ipvlan0", "the kernel puts the number in");
        assert_eq!(dev.mac, Some(MAC));
        assert_eq!((dev.mtu, dev.txqlen), (1400, 17));
        assert_eq!((dev.num_tx_queues, dev.num_rx_queues), (Some(3), Some(2)));
        assert_ne!(dev.flags & IFF_NOARP, 0, "NOARP");
        assert!(!dev.is_up() && !dev.has_carrier());
        assert_eq!(dev.kind.as_deref(), Some("veth"));

        let host = named(&mut nl, "host0");
        assert_eq!((host.mtu, host.flags & IFF_NOARP), (1500, 0));
        assert_eq!((host.index, host.link), (4241, Some(4242)));
        assert_eq!(host.link_nsid, nl.nsid_of(there.as_fd()).unwrap());
        assert!(
            host.link_nsid.is_some(),
            "making the pair gave the namespace an id"
        );
        assert!(!host.is_up() && host.stats.is_some() && host.max_mtu.is_some());

        let twice = nl
            .create_veth(&VethPair::new("host0", "x", MAC, 1400))
            .unwrap_err();
        assert_eq!(twice.errno(), Errno::EEXIST, "{twice}");
        let odd = VethPair {
            dev_index: Some(9),
            ..VethPair::new("x", "y", MAC, 1400)
        };
        assert_eq!(nl.create_veth(&odd).unwrap_err().errno(), Errno::EINVAL);
        nl.delete_link(host.index).unwrap();
        assert_eq!(nl.link(host.index, None).unwrap(), None);
        assert_eq!(
            nl.delete_link(host.index).unwrap_err().errno(),
            Errno::ENODEV
        );
        assert_eq!(nl.link_by_name("host0").unwrap(), None);
        assert_eq!(nl.link_by_name("no/name/of/any/link").unwrap(), None);
    });
}

#[test]
#[ignore = "needs root: cargo xtask test"]
fn another_namespace_is_read_through_its_id() {
    in_new_ns(|| {
        let there = new_ns();
        let mut nl = Netlink::open().unwrap();
        assert_eq!(nl.nsid_of(there.as_fd()).unwrap(), None);
        let id = nl.assign_nsid(there.as_fd()).unwrap();
        assert_eq!(
            nl.assign_nsid(there.as_fd()).unwrap(),
            id,
            "an existing id is kept"
        );
        let host = pair_into(&mut nl, &there);
        ip_in(&there, "addr add 10.1.2.3/24 dev ipvl0");
        ip_in(&there, "addr add fd00::1/64 dev ipvl0 nodad");
        ip_in(&there, "addr add 192.0.2.1 peer 192.0.2.9/32 dev ipvl0");
        ip_in(&there, "link set lo up");

        let links = nl.links(Some(id)).unwrap();
        let dev = links
            .iter()
            .find(|link| link.name == "ipvl0")
            .expect("ipvl0")
            .clone();
        assert_eq!(dev.link, Some(host.index));
        assert_eq!(
            nl.link(dev.index, Some(id)).unwrap().map(|link| link.name),
            Some(dev.name)
        );
        assert_eq!(nl.link(9999, Some(id)).unwrap(), None);

        let all = nl.addresses(Some(id), None).unwrap();
        let some = nl.addresses(Some(id), Some(dev.index)).unwrap();
        let ips: Vec<_> = some
            .iter()
            .map(|addr| (addr.local, addr.prefix_len))
            .collect();
        let wanted: Vec<(IpAddr, u8)> = vec![
            ("10.1.2.3".parse().unwrap(), 24),
            ("192.0.2.1".parse().unwrap(), 32),
            ("fd00::1".parse().unwrap(), 64),
        ];
        assert_eq!(ips, wanted);
        assert_eq!(some[1].peer, Some("192.0.2.9".parse().unwrap()));
        assert!(all.len() > some.len(), "the loopback has addresses too");
        assert_eq!(nl.addresses(Some(id), Some(9999)).unwrap(), []);
        assert_eq!(nl.addresses(None, None).unwrap(), [], "here there are none");

        let bad = nl.links(Some(Nsid(id.0 + 1000))).unwrap_err();
        assert_eq!(bad.errno(), Errno::EINVAL, "{bad}");
        assert!(bad.extack().is_some(), "the kernel explains: {bad}");
        let bad = nl.addresses(Some(Nsid(id.0 + 1000)), None).unwrap_err();
        assert_eq!(bad.errno(), Errno::EINVAL, "{bad}");
    });
}

#[test]
#[ignore = "needs root: cargo xtask test"]
fn link_ids_are_those_of_the_asking_socket() {
    in_new_ns(|| {
        let (there, third) = (new_ns(), new_ns());
        let mut nl = Netlink::open().unwrap();
        // So that the ids in the two namespaces differ. Held, or its id would soon be free again.
        let held = new_ns();
        let _: Nsid = nl.assign_nsid(held.as_fd()).unwrap();
        let id = nl.assign_nsid(there.as_fd()).unwrap();
        let mut nl_there = Netlink::open_in(&there).unwrap();
        nl_there
            .create_veth(&VethPair {
                dev_netns: Some(third.as_fd()),
                ..VethPair::new("a0", "b0", MAC, 1500)
            })
            .unwrap();
        assert_eq!(nl.nsid_of(third.as_fd()).unwrap(), None, "never heard of");
        let a0 = nl
            .links(Some(id))
            .unwrap()
            .into_iter()
            .find(|link| link.name == "a0")
            .unwrap();
        let third_id = nl.nsid_of(third.as_fd()).unwrap();
        assert!(third_id.is_some(), "reading gave it an id");
        assert_eq!(a0.link_nsid, third_id, "counted by the asking socket");
        let a0 = named(&mut nl_there, "a0");
        assert_eq!(a0.link_nsid, nl_there.nsid_of(third.as_fd()).unwrap());
        assert_ne!(a0.link_nsid, third_id, "counted by its own namespace");
        drop(held);
    });
}

#[test]
#[ignore = "needs root: cargo xtask test"]
fn a_change_changes_what_it_says_and_nothing_else() {
    in_new_ns(|| {
        let mut nl = Netlink::open().unwrap();
        nl.create_veth(&VethPair::new("a0", "b0", MAC, 1400))
            .unwrap();
        let (a0, b0) = (named(&mut nl, "a0").index, named(&mut nl, "b0").index);
        // First, so that the other end has a carrier the moment it goes up.
        let up = LinkChange {
            up: Some(true),
            ..LinkChange::default()
        };
        nl.set_link(b0, &up).unwrap();
        let mac = [2, 9, 9, 9, 9, 9];
        nl.set_link(
            a0,
            &LinkChange {
                mtu: Some(1300),
                mac: Some(mac),
                noarp: Some(true),
                allmulticast: Some(true),
                alias: Some("some text".to_owned()),
                addr_gen_mode: Some(AddrGenMode::None),
                name: Some("c0".to_owned()),
                up: Some(true),
            },
        )
        .unwrap();
        let c0 = named(&mut nl, "c0");
        assert_eq!((c0.index, c0.mtu, c0.mac), (a0, 1300, Some(mac)));
        assert_eq!(c0.alias.as_deref(), Some("some text"));
        assert_eq!(c0.addr_gen_mode, Some(AddrGenMode::None));
        assert_eq!(c0.allmulti, Some(1));
        assert!(c0.is_up() && c0.has_carrier() && c0.flags & IFF_NOARP != 0);
        thread::sleep(Duration::from_secs(2));
        let of_b0 = nl.addresses(None, Some(b0)).unwrap();
        assert_eq!(of_b0.len(), 1, "its link-local address");
        let ll = nl.addresses(None, Some(a0)).unwrap();
        assert_eq!(ll, [], "no link-local address with addrgenmode none");

        let change = LinkChange {
            noarp: Some(false),
            alias: Some(String::new()),
            ..LinkChange::default()
        };
        nl.set_link(a0, &change).unwrap();
        let after = nl.link(a0, None).unwrap().unwrap();
        assert_eq!((after.alias.as_deref(), after.flags & IFF_NOARP), (None, 0));
        assert!(after.is_up() && after.mtu == 1300);

        let bad = nl.set_link(
            a0,
            &LinkChange {
                mtu: Some(1),
                ..LinkChange::default()
            },
        );
        assert_eq!(bad.unwrap_err().errno(), Errno::EINVAL);
        nl.set_link(9999, &LinkChange::default())
            .expect("nothing to do, nothing sent");
        ip("link property add dev c0 altname a-name-too-long-for-the-first-place");
        let long = named(&mut nl, "a-name-too-long-for-the-first-place");
        assert_eq!((long.index, long.alt_names.len()), (a0, 1));
    });
}

#[test]
#[ignore = "needs root: cargo xtask test"]
fn many_links_are_all_listed() {
    in_new_ns(|| {
        let mut nl = Netlink::open().unwrap();
        for n in 0..100 {
            let (a, b) = (format!("a{n}"), format!("b{n}"));
            nl.create_veth(&VethPair::new(&a, &b, MAC, 1500)).unwrap();
        }
        let links = nl.links(None).unwrap();
        let pairs = links
            .iter()
            .filter(|link| link.kind.as_deref() == Some("veth"))
            .count();
        assert_eq!(pairs, 200);
    });
}

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
        let link = |ns, index, removed| Event::Link {
            ns,
            index,
            removed,
            new_nsid: None,
        };
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
        let gone = |ns, index, new_nsid| Event::Link {
            ns,
            index,
            removed: true,
            new_nsid,
        };
        let events = monitor.drain().unwrap();
        assert!(
            events.contains(&gone(None, dev, Some(from_id))),
            "{events:?}"
        );
        let moved = named(&mut Netlink::open_in(&from).unwrap(), "eth7").index;
        let came = |ns: Nsid, index| Event::Link {
            ns: Some(ns),
            index,
            removed: false,
            new_nsid: None,
        };
        assert!(events.contains(&came(from_id, moved)), "{events:?}");

        let mut nl_from = Netlink::open_in(&from).unwrap();
        nl_from.move_link(moved, to.as_fd(), None).unwrap();
        let to_id_there = nl_from.nsid_of(to.as_fd()).unwrap();
        assert!(
            to_id_there.is_some() && to_id_there != Some(to_id),
            "test of two id spaces"
        );
        let events = monitor.drain().unwrap();
        assert!(
            events.contains(&gone(Some(from_id), moved, to_id_there)),
            "{events:?}"
        );
        let last = named(&mut Netlink::open_in(&to).unwrap(), "eth7").index;
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
            new_nsid: None,
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

#[test]
#[ignore = "needs root: cargo xtask test"]
fn an_id_leads_back_to_the_namespace_and_its_name() {
    in_new_ns(|| {
        // /run is this thread's own from here on.
        mount(
            Some("nlt"),
            "/run",
            Some("tmpfs"),
            MsFlags::empty(),
            None::<&str>,
        )
        .unwrap();
        fs::create_dir("/run/netns").unwrap();
        let (there, anywhere, nowhere) = (new_ns(), new_ns(), new_ns());
        for (ns, path) in [(&there, "/run/netns/nlt-a"), (&anywhere, "/run/nlt b")] {
            fs::write(path, "").unwrap();
            let fd = ns.as_fd().as_raw_fd();
            let from = format!("/proc/self/fd/{fd}");
            mount(
                Some(from.as_str()),
                path,
                None::<&str>,
                MsFlags::MS_BIND,
                None::<&str>,
            )
            .unwrap();
        }
        let mut nl = Netlink::open().unwrap();
        let id = nl.assign_nsid(there.as_fd()).unwrap();
        let anywhere_id = nl.assign_nsid(anywhere.as_fd()).unwrap();
        let nowhere_id = nl.assign_nsid(nowhere.as_fd()).unwrap();

        assert!(
            netns::Finder::default()
                .find(&mut nl, id)
                .unwrap()
                .is_some_and(|ns| ns.is_same(&there))
        );
        assert_eq!(
            netns::names(&mut nl).get(&id).map(String::as_str),
            Some("nlt-a")
        );
        assert!(
            netns::Finder::default()
                .find(&mut nl, anywhere_id)
                .unwrap()
                .is_some_and(|ns| ns.is_same(&anywhere))
        );
        assert_eq!(netns::names(&mut nl).get(&anywhere_id), None);
        assert!(
            netns::Finder::default()
                .find(&mut nl, nowhere_id)
                .unwrap()
                .is_none(),
            "only a file descriptor"
        );
        assert!(NetNs::by_name("nlt-a").unwrap().is_same(&there));
        assert!(NetNs::by_name("/run/netns/nlt-a").unwrap().is_same(&there));
        fs::write("/run/netns/nlt-stale", "").unwrap();
        assert_eq!(
            NetNs::by_name("nlt-stale").unwrap_err().errno(),
            Errno::EINVAL
        );

        let all = netns::all();
        let paths = |ns: &NetNs| -> Vec<_> {
            all.iter()
                .filter(|(_, one)| one.is_same(ns))
                .map(|(path, _)| path.clone())
                .collect()
        };
        assert_eq!(
            paths(&there),
            [Path::new("/run/netns/nlt-a")],
            "once, by its name"
        );
        assert_eq!(paths(&anywhere), [Path::new("/run/nlt b")]);
        let process = NetNs::by_pid(std::process::id()).unwrap();
        assert_eq!(paths(&process).len(), 1);
    });
}

#[test]
#[ignore = "needs root: cargo xtask test"]
fn enter_comes_back_also_after_a_panic() {
    in_new_ns(|| {
        let (home, there) = (NetNs::current().unwrap(), new_ns());
        let inside = there.enter(|| NetNs::current().unwrap().inode()).unwrap();
        assert_eq!(inside, there.inode());
        assert!(NetNs::current().unwrap().is_same(&home));
        let inner = there
            .enter(|| home.enter(netns::current_cookie))
            .unwrap()
            .unwrap()
            .unwrap();
        assert_eq!(
            inner,
            netns::current_cookie().unwrap(),
            "there and back and there again"
        );

        let panic = catch_unwind(AssertUnwindSafe(|| there.enter(|| panic!("on purpose"))));
        assert!(panic.is_err());
        assert!(NetNs::current().unwrap().is_same(&home));

        assert_eq!(home.cookie().unwrap(), netns::current_cookie().unwrap());
        assert_ne!(there.cookie().unwrap(), home.cookie().unwrap());
        let again = NetNs::by_pid(std::process::id()).unwrap();
        assert!(
            !again.is_same(&home),
            "only the thread went away, not the process"
        );
    });
}

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

#[test]
#[ignore = "needs root"]
fn what_may_be_forwarded_is_told_with_the_link() {
    in_new_ns(|| {
        ip("link add v0 type veth peer name v1");
        let set = |name: &str, value: &str| {
            fs::write(format!("/proc/sys/net/ipv4/conf/v0/{name}"), value).expect(name);
        };
        let mut nl = Netlink::open().expect("open");
        for on in [true, false] {
            let number = if on { "1" } else { "0" };
            set("forwarding", number);
            set("src_valid_mark", number);
            set("rp_filter", if on { "2" } else { "0" });
            let v4 = named(&mut nl, "v0").v4.expect("IPv4");
            assert_eq!(v4.forwarding, on);
            assert_eq!(v4.src_valid_mark, on);
            assert_eq!(v4.rp_filter, if on { 2 } else { 0 });
            let six = fs::write("/proc/sys/net/ipv6/conf/v0/force_forwarding", number);
            let found = named(&mut nl, "v0").force_forwards_v6;
            assert_eq!(found, six.is_ok().then_some(on), "since Linux 6.17");
        }
    });
}
