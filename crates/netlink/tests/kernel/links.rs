//! Links: made, changed, read here and through an id.

use std::net::IpAddr;
use std::os::fd::AsFd;
use std::time::Duration;
use std::{fs, thread};

use ipvlan_netlink::{
    AddrGenMode, IfName, LinkChange, Netlink, NewTap, Nsid, Tap, TapSettings, VethPair,
};
use nix::errno::Errno;

use crate::{MAC, in_new_ns, ip, ip_in, named, new_ns, pair_into};

const IFF_NOARP: u32 = 0x80;
const IFF_MULTICAST: u32 = 0x1000;

#[test]
#[ignore = "needs root: cargo xtask test"]
fn a_pair_is_complete_the_moment_it_appears() {
    in_new_ns(|| {
        let there = new_ns();
        let mut nl = Netlink::open().unwrap();
        nl.create_veth(&VethPair {
            host_mtu: Some(1500),
            host_multicast: false,
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
        assert_eq!(
            (host.mtu, host.flags & (IFF_NOARP | IFF_MULTICAST)),
            (1500, 0)
        );
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
                txqlen: Some(77),
                // A veth's carrier follows its other end.
                carrier: None,
            },
        )
        .unwrap();
        let c0 = named(&mut nl, "c0");
        assert_eq!((c0.index, c0.mtu, c0.mac), (a0, 1300, Some(mac)));
        assert_eq!((c0.alias.as_deref(), c0.txqlen), (Some("some text"), 77));
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

#[test]
#[ignore = "needs root: cargo xtask test"]
fn a_tap_goes_with_its_maker_unless_it_is_told_to_stay() {
    in_new_ns(|| {
        let mut nl = Netlink::open().expect("open");
        let name = IfName::template("vm%d").expect("a name");
        let new = NewTap {
            name: &name,
            index: None,
            multi_queue: false,
            owner: Some(1234),
            group: Some(0),
        };
        let tap = Tap::create(&new).expect("create");
        assert_eq!(tap.name(), "vm0");
        let link = named(&mut nl, "vm0");
        let settings = TapSettings {
            owner: Some(1234),
            group: Some(0),
        };
        assert_eq!(link.tap, Some(settings));
        assert!(!link.is_up());
        drop(tap);
        assert_eq!(nl.link_by_name("vm0").expect("read"), None);

        let other = NewTap {
            index: Some(77),
            multi_queue: true,
            owner: None,
            group: None,
            ..new
        };
        Tap::create(&other).expect("create").keep().expect("keep");
        let link = named(&mut nl, "vm0");
        assert_eq!((link.index, link.tap), (77, Some(TapSettings::default())));
        let change = LinkChange {
            txqlen: Some(9),
            ..LinkChange::default()
        };
        nl.set_link(77, &change).expect("change");
        assert_eq!(named(&mut nl, "vm0").txqlen, 9);

        let name = IfName::template("vm0").expect("a name");
        let taken = Tap::create(&NewTap { name: &name, ..new }).expect_err("the name is taken");
        assert_eq!(taken.errno(), Errno::EBUSY, "{taken}");
        let taken = Tap::create(&other).expect_err("the index is taken");
        assert_eq!(taken.errno(), Errno::EBUSY, "{taken}");
    });
}
