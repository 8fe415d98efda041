//! The layout against `ip` itself, on links of a namespace of its own: byte for byte, but for the
//! kind, which this kernel may not have.
//!
//! Needs root and the release of iproute2 whose layout this is; passes without them.

use std::process::Command;
use std::thread;

use ipvlan_abi::{Flag, Mode};
use ipvlan_control::{Kind, Place, Shown};
use ipvlan_netlink::{Link, Netlink};
use nix::mount::{MsFlags, mount};
use nix::sched::{CloneFlags, unshare};

use crate::json::Value;
use crate::view::View;
use crate::{parse, text};

const RELEASE: &str = "iproute2-6.1.";

/// Runs `test` in a thread with a network namespace and a /run/netns of its own.
fn in_new_netns(test: impl FnOnce() + Send + 'static) {
    let has_release = Command::new("ip")
        .arg("-V")
        .output()
        .is_ok_and(|output| String::from_utf8_lossy(&output.stdout).contains(RELEASE));
    if !has_release {
        eprintln!("skipped: no ip of {RELEASE}x");
        return;
    }
    let thread = thread::spawn(|| {
        if unshare(CloneFlags::CLONE_NEWNET | CloneFlags::CLONE_NEWNS).is_err() {
            eprintln!("skipped: not root");
            return;
        }
        let none = None::<&str>;
        let private = MsFlags::MS_PRIVATE | MsFlags::MS_REC;
        mount(none, "/", none, private, none).expect("make / private");
        mount(Some("run"), "/run", Some("tmpfs"), MsFlags::empty(), none).expect("mount /run");
        test();
    });
    if let Err(panic) = thread.join() {
        std::panic::resume_unwind(panic);
    }
}

fn ip(args: &str) -> String {
    let output = Command::new("ip")
        .args(args.split_whitespace())
        .output()
        .expect("run ip");
    assert!(output.status.success(), "ip {args}: {output:?}");
    String::from_utf8(output.stdout).expect("UTF-8")
}

/// For what it does.
fn set(args: &str) {
    assert_eq!(ip(args), "", "ip {args}");
}

/// The link as if it were one of ours, and the other end of the pair its parent.
fn shown(link: Link, parent: &str, parent_place: Place) -> Shown {
    Shown {
        parent_index: link.link.expect("a pair"),
        link,
        kind: Kind::Ipvlan,
        guest: None,
        learning: false,
        place: Place::Here,
        parent: parent.to_owned(),
        parent_place,
        host_index: 0,
        mode: Mode::L2,
        flag: Flag::Bridge,
        slot: 1,
        owned: vec![],
        refused: vec![],
        granted: vec![],
        dhcp_identity: None,
        drops: vec![],
    }
}

fn ours(shown: &Shown, switches: &str, nl: &mut Netlink) -> String {
    let words: Vec<_> = switches.split_whitespace().collect();
    let options = parse(&words).expect(switches).options;
    let view = View::new(shown, &mut |index| nl.link(index, None).expect("read"));
    let printed = if options.json {
        Value::List(vec![text::json(&view, &options)]).print(options.pretty)
    } else {
        text::text(&view, &options)
    };
    without_ours(&printed)
}

/// As it would be for a plain veth.
fn without_ours(printed: &str) -> String {
    let printed = printed
        .replace("    ipvlan  mode l2 bridge ", "    veth ")
        .replace(
            "\"info_kind\":\"ipvlan\",\"info_data\":{\"mode\":\"l2\",\"bridge\":true}",
            "\"info_kind\":\"veth\"",
        )
        .replace(
            "\"info_kind\": \"ipvlan\",
            \"info_data\": {
                \"mode\": \"l2\",
                \"bridge\": true
            }",
            "\"info_kind\": \"veth\"",
        )
        .replace(
            ",\"ipvlan\":{\"slot\":1,\"owns\":[],\"refused\":[],\"granted\":[],\"drops\":{}}",
            "",
        );
    match printed.split_once(",\n        \"ipvlan\": {") {
        Some((before, _)) => format!("{before}\n    }} ]\n"),
        None => printed,
    }
}

fn compare(name: &str, parent: &str, place: &Place) {
    for switches in [
        "",
        "-d",
        "-s",
        "-s -s",
        "-d -s",
        "-d -s -s",
        "-br",
        "-o",
        "-o -d -s -s",
        "-p",
        "-br -d -s",
        "-j",
        "-j -d",
        "-j -s",
        "-j -s -s",
        "-j -d -s -s",
        "-j -p",
        "-j -p -d -s -s",
        "-j -br",
        "-j -p -br",
        "-j -s -p",
    ] {
        // Counters move while one looks, for a moment after a link has come up.
        let same = || {
            let theirs = ip(&format!("{switches} link show {name}"));
            let mut nl = Netlink::open().expect("open");
            let link = nl.link_by_name(name).expect("read").expect(name);
            (
                theirs,
                ours(&shown(link, parent, place.clone()), switches, &mut nl),
            )
        };
        let (theirs, mine) = (0..20)
            .map(|_| same())
            .find(|(theirs, mine)| theirs == mine)
            .unwrap_or_else(same);
        assert_eq!(mine, theirs, "ip {switches} link show {name}");
    }
}

#[test]
fn a_link_looks_as_ip_shows_it() {
    in_new_netns(|| {
        set("link add v0 numtxqueues 3 type veth peer name v1");
        // New, and then one thing after the other.
        compare("v0", "v1", &Place::Here);
        set("link set v0 up");
        compare("v0", "v1", &Place::Here);
        set("link set v1 up");
        compare("v0", "v1", &Place::Here);
        set("link set v1 down");
        compare("v0", "v1", &Place::Here);
        for change in [
            "v0 alias x\"y\\z",
            "v0 mtu 1400",
            "v0 txqlen 0",
            "v0 group 7",
            "v0 arp off multicast off",
            "v0 promisc on allmulticast on",
            "v0 address 02:00:00:00:00:01",
            "v0 addrgenmode stable_secret",
            "v0 addrgenmode none",
            "v0 mode dormant",
            "v1 up",
        ] {
            // The secret must be there first.
            let _: std::io::Result<()> =
                std::fs::write("/proc/sys/net/ipv6/conf/v0/stable_secret", "fd00::1");
            set(&format!("link set {change}"));
            compare("v0", "v1", &Place::Here);
        }
        set("link property add dev v0 altname a-long-other-name altname b");
        set("link add br0 type bridge");
        set("link set v0 master br0");
        // With -d, ip goes on about the bridge.
        for switches in ["", "-br", "-j", "-j -br"] {
            let mut nl = Netlink::open().expect("open");
            let link = nl.link_by_name("v0").expect("read").expect("v0");
            assert_eq!(
                ours(&shown(link, "v1", Place::Here), switches, &mut nl),
                ip(&format!("{switches} link show v0"))
            );
        }
        set("link set v0 nomaster");
        compare("v0", "v1", &Place::Here);
    });
}

#[test]
fn a_parent_elsewhere_is_shown_by_its_number() {
    in_new_netns(|| {
        set("netns add other");
        set("link add v0 type veth peer name v1 netns other");
        compare("v0", "v1", &Place::Named("other".to_owned()));
        set("link set v0 up");
        compare("v0", "v1", &Place::Named("other".to_owned()));
        // Without its name: the link keeps the namespace from nothing, so hold it first.
        let held = ipvlan_netlink::NetNs::by_name("other").expect("open");
        set("netns del other");
        compare("v0", "v1", &Place::Unnamed(0));
        drop(held);
    });
}
