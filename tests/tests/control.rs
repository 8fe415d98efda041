//! Making, changing and deleting devices: what `ip` and our program do with the same words.

use ipvlan_tests::{Backend, Mode, Net, Ns, differs, kernel_is_since, prepare_for_l3s};

fn has_no_arp(ns: &Ns, name: &str) -> bool {
    ns.link(name).flags & 0x80 != 0
}

/// A device that was brought up has its flags by its mode.
#[track_caller]
fn up(ns: &Ns, name: &str) {
    ns.sh(&format!("ip link set dev {name} up"));
}

#[test]
fn the_first_device_makes_the_port_l3_and_bridge() {
    let net = Net::new(Mode::L2).build();
    net.ip(&net.host, "link add link eth0 name v0 type ipvlan")
        .expect_quiet();
    assert_eq!(net.kind(&net.host, "v0"), "l3 bridge");
    let link = net.host.link("v0");
    assert_eq!(link.mac, Some(net.mac()), "it has the parent's MAC address");
    assert_eq!(link.mtu, 1500, "and its MTU");
    assert!(!link.is_up(), "and is down");
    up(&net.host, "v0");
    assert!(has_no_arp(&net.host, "v0"), "l3 has no ARP");
}

#[test]
fn mode_and_flag_are_those_of_all_devices_of_a_parent() {
    let net = Net::new(Mode::L2).build();
    let place = net.namespace("place");
    let add = |rest: &str| {
        net.ip(&net.host, &format!("link add link eth0 name {rest}"))
            .expect_quiet();
    };
    let both = || {
        let here = net.kind(&net.host, "v0");
        assert_eq!(here, net.kind(&place, "v1"), "one port, one mode, one flag");
        here
    };
    add("v0 type ipvlan mode l2 private");
    add(&format!(
        "v1 netns {} type ipvlan mode l2 private",
        place.name()
    ));
    assert_eq!(both(), "l2 private");
    // Another device changes all, too.
    add("v2 type ipvlan mode l3 vepa");
    assert_eq!(both(), "l3 vepa");
    add("v3 type ipvlan mode l2");
    assert_eq!(both(), differs("flag-kept", "l2 vepa", "l2 bridge"));
    add("v4 type ipvlan mode l2 private");
    add("v5 type ipvlan");
    assert_eq!(both(), differs("mode-kept", "l2 private", "l3 private"));
    let set = |ns: &Ns, words: &str| net.ip(ns, &format!("link set dev {words}")).expect_quiet();
    set(&net.host, "v0 type ipvlan mode l3 vepa");
    assert_eq!(both(), "l3 vepa");
    set(&place, "v1 type ipvlan mode l2 private");
    assert_eq!(both(), "l2 private", "from within another namespace");
    set(&net.host, "v0 type ipvlan mode l3");
    assert_eq!(both(), differs("flag-kept", "l3 private", "l3 bridge"));
    set(&net.host, "v0 type ipvlan private");
    assert_eq!(both(), "l3 private", "a flag alone leaves the mode");
    set(&net.host, "v0 type ipvlan");
    assert_eq!(both(), "l3 private", "nothing was asked for");
    set(&net.host, "v0 type ipvlan mode l2 mode l3 bridge");
    assert_eq!(both(), "l3 bridge", "the last mode counts");
}

#[test]
fn ip_says_what_a_device_is() {
    let net = Net::new(Mode::L2).devices(1).build();
    let ns = &net.dev(0).ns;
    let kind = |link: Option<ipvlan_netlink::Link>| link.and_then(|link| link.kind);
    let found = kind(ns.find_link("ipvl0"));
    assert_eq!(
        found.as_deref(),
        differs("veth", Some("veth"), Some("ipvlan"))
    );
    let shown = net.look(ns, "ipvl0")["linkinfo"]["info_kind"].clone();
    assert_eq!(shown, "ipvlan", "whoever asks the one who made it");
    let beside = net.host.links().len();
    let others = differs("veth", 1, 0);
    assert_eq!(beside, 2 + others, "lo, eth0 and the host end");
}

#[test]
fn l3s_is_a_mode_like_the_others() {
    let net = Net::new(Mode::L2).build();
    prepare_for_l3s(&net.host);
    net.ip(&net.host, "link add link eth0 name v0 type ipvlan mode l3s")
        .expect_quiet();
    assert_eq!(net.kind(&net.host, "v0"), "l3s bridge");
    up(&net.host, "v0");
    assert!(has_no_arp(&net.host, "v0"), "l3s has no ARP");
    for mode in ["l2", "l3s", "l3", "l3s", "l2"] {
        net.ip(
            &net.host,
            &format!("link set dev v0 type ipvlan mode {mode} vepa"),
        )
        .expect_quiet();
        assert_eq!(net.kind(&net.host, "v0"), format!("{mode} vepa"));
        assert_eq!(has_no_arp(&net.host, "v0"), mode != "l2", "{mode}");
    }
}

#[test]
fn arp_goes_and_comes_with_the_mode_on_every_device() {
    let net = Net::new(Mode::L2).build();
    let place = net.namespace("place");
    for (name, ns) in [("v0", &net.host), ("v1", &place), ("v2", &place)] {
        net.ip(
            &net.host,
            &format!(
                "link add link eth0 name {name} netns {} type ipvlan mode l3",
                ns.name()
            ),
        )
        .expect_quiet();
    }
    up(&net.host, "v0");
    up(&place, "v1");
    let noarp = || {
        [
            has_no_arp(&net.host, "v0"),
            has_no_arp(&place, "v1"),
            has_no_arp(&place, "v2"),
        ]
    };
    // v2 is down; it has the flag at the latest when the mode changes.
    assert_eq!(noarp()[..2], [true, true]);
    for (mode, is) in [("l2", false), ("l3", true), ("l2", false)] {
        net.ip(&place, &format!("link set dev v1 type ipvlan mode {mode}"))
            .expect_quiet();
        assert_eq!(noarp(), [is; 3], "{mode}: up or down, here or there");
    }
}

#[test]
fn words_that_make_no_sense_are_refused_and_change_nothing() {
    let net = Net::new(Mode::L2).build();
    net.ip(
        &net.host,
        "link add link eth0 name v0 type ipvlan mode l2 private",
    )
    .expect_quiet();
    let bad_mode = r#"Error: argument of "mode" must be either "l2", "l3" or "l3s""#;
    let incomplete = r#"Command line is not complete. Try option "help""#;
    let unknown = |word: &str| format!("ipvlan: unknown option \"{word}\"?");
    for (words, status, text) in [
        ("mode l4", 1, bad_mode.to_owned()),
        ("mode 0", 1, bad_mode.to_owned()),
        ("mode 3", 1, bad_mode.to_owned()),
        ("mode 65535", 1, bad_mode.to_owned()),
        ("mode bridge", 1, bad_mode.to_owned()),
        ("mode", 255, incomplete.to_owned()),
        ("mode l3 mode", 255, incomplete.to_owned()),
        ("private vepa", 1, unknown("vepa")),
        ("bridge bridge", 1, unknown("bridge")),
        ("mode l3 vepa private", 1, unknown("private")),
        ("3", 1, unknown("3")),
        ("flags 4", 1, unknown("flags")),
        ("l3", 1, unknown("l3")),
        ("mtu 1400", 1, unknown("mtu")),
        ("mode l3 up", 1, unknown("up")),
    ] {
        for line in [
            format!("link add link eth0 name v1 type ipvlan {words}"),
            format!("link set dev v0 type ipvlan {words}"),
        ] {
            let done = net.ip(&net.host, &line);
            assert_eq!(done.answer(), (status, text.as_str()), "`{line}`");
            assert_eq!(done.stdout, "", "`{line}`");
            // ip has no Usage: where the mode alone is wrong.
            assert_eq!(
                done.stderr.contains("\nUsage: ... ipvlan [ mode "),
                text.contains("unknown"),
                "`{line}`: {done:?}"
            );
        }
    }
    assert!(net.host.find_link("v1").is_none(), "nothing was made");
    assert_eq!(
        net.kind(&net.host, "v0"),
        "l2 private",
        "nothing was changed"
    );
    // The HOWTO writes L3 for what ip itself knows as l3 only.
    let done = net.ip(&net.host, "link set dev v0 type ipvlan mode L3 private");
    assert_eq!(
        done.answer(),
        differs("spelling", (0, ""), (1, bad_mode)),
        "{done:?}"
    );
}

#[test]
fn what_cannot_be_made_is_refused() {
    let net = Net::new(Mode::L2).build();
    let place = net.namespace("place");
    let place = place.name();
    net.host
        .sh("ip link add dev other type veth peer name other-peer");
    net.ip(&net.host, "link add link eth0 name v0 type ipvlan mode l2")
        .expect_quiet();
    let links = || {
        let mut all = net.host.links();
        all.sort();
        all
    };
    let before = links();
    let invalid = (2, "RTNETLINK answers: Invalid argument");
    let exists = (2, "RTNETLINK answers: File exists");
    let low = (2, "Error: mtu less than device minimum.");
    let high = (2, "Error: mtu greater than device maximum.");
    let both = |same| (same, same);
    for (words, (ours, driver)) in [
        // Parents.
        (
            "name v1 type ipvlan",
            (
                (
                    2,
                    r#"Not enough information: "link" argument is required: the parent, for example eth0"#,
                ),
                invalid,
            ),
        ),
        (
            "link nope name v1 type ipvlan",
            both((1, r#"Cannot find device "nope""#)),
        ),
        (
            "link eth0 link nope name v1 type ipvlan",
            both((1, r#"Cannot find device "nope""#)),
        ),
        (
            "link lo name v1 type ipvlan",
            (
                (
                    2,
                    r#"Error: "lo" cannot be a parent: it is the loopback device, not an Ethernet device."#,
                ),
                invalid,
            ),
        ),
        // Names.
        ("link eth0 name v0 type ipvlan", both(exists)),
        ("link eth0 name eth0 type ipvlan", both(exists)),
        ("link eth0 name lo type ipvlan", both(exists)),
        ("link eth0 name v0 type ipvlan mode l3", both(exists)),
        ("link eth0 name . type ipvlan", both(invalid)),
        ("link eth0 name .. type ipvlan", both(invalid)),
        ("link eth0 name v: type ipvlan", both(invalid)),
        ("link eth0 name v%s type ipvlan", both(invalid)),
        ("link eth0 name %d%d type ipvlan", both(invalid)),
        (
            "link eth0 name a/b type ipvlan",
            both((
                255,
                r#"Error: argument "a/b" is wrong: "name" not a valid ifname"#,
            )),
        ),
        (
            "link eth0 sixteen-bytes-xx type ipvlan",
            (
                (2, "Error: the name of a device has at most 15 bytes."),
                (2, "Error: Attribute failed policy validation."),
            ),
        ),
        (
            "link eth0 name v1 dev v2 type ipvlan",
            both((
                255,
                r#"both "name" and "dev" cannot be used when creating devices."#,
            )),
        ),
        (
            "link eth0 v1 v2 type ipvlan",
            both((
                255,
                r#"Error: either "dev" is duplicate, or "v2" is a garbage."#,
            )),
        ),
        // Numbers.
        ("link eth0 name v1 mtu 67 type ipvlan", both(low)),
        ("link eth0 name v1 mtu 0 type ipvlan", both(low)),
        ("link eth0 name v1 mtu -1 type ipvlan", both(low)),
        ("link eth0 name v1 mtu 65536 type ipvlan", both(high)),
        (
            "link eth0 name v1 mtu 1e3 type ipvlan",
            both((
                255,
                r#"Error: argument "1e3" is wrong: Invalid "mtu" value"#,
            )),
        ),
        (
            "link eth0 name v1 mtu 1400 mtu 1300 type ipvlan",
            both((
                255,
                r#"Error: duplicate "mtu": "1300" is the second value."#,
            )),
        ),
        (
            "link eth0 name v1 index 0 type ipvlan",
            both((
                255,
                r#"Error: argument "0" is wrong: Invalid "index" value"#,
            )),
        ),
        // lo has it.
        ("link eth0 name v1 index 1 type ipvlan", both(exists)),
        (
            "link eth0 name v1 numtxqueues 0 type ipvlan",
            both((2, "Error: Invalid number of transmit queues.")),
        ),
        (
            "link eth0 name v1 numrxqueues 4097 type ipvlan",
            both((2, "Error: Invalid number of receive queues.")),
        ),
        ("link eth0 name v1 address 02:00 type ipvlan", both(invalid)),
        (
            "link eth0 name v1 address xyz type ipvlan",
            both((1, r#""xyz" is invalid lladdr."#)),
        ),
        // Namespaces.
        (
            "link eth0 name v1 netns nope type ipvlan",
            both((
                255,
                r#"Error: argument "nope" is wrong: Invalid "netns" value"#,
            )),
        ),
        (
            "link eth0 name v1 netns 999999999 type ipvlan",
            both((2, "RTNETLINK answers: No such process")),
        ),
        // Kinds.
        (
            "link eth0 name v1",
            both((1, r#"Not enough information: "type" argument is required"#)),
        ),
        (
            "link eth0 name v1 type",
            both((255, r#"Command line is not complete. Try option "help""#)),
        ),
        (
            "link eth0 name v1 type ipvla",
            (
                (
                    2,
                    r#"Error: type "ipvla" is not ours: use "ip link add" for it"#,
                ),
                (2, "Error: Unknown device type."),
            ),
        ),
    ] {
        let line = format!("link add {words}");
        let done = net.ip(&net.host, &line);
        let wanted = if ours == driver {
            ours
        } else {
            differs("refusals", ours, driver)
        };
        assert_eq!(done.answer(), wanted, "`{line}`: {done:?}");
        assert_eq!(links(), before, "`{line}` leaves nothing");
        assert_eq!(net.kind(&net.host, "v0"), "l2 bridge", "`{line}`");
    }
    // A name that is taken here is no reason to refuse it there; the kernel has learnt that.
    let line = format!("link add link eth0 name v0 netns {place} type ipvlan mode l2");
    let done = net.ip(&net.host, &line);
    if Backend::is_ours() || kernel_is_since(6, 15) {
        done.expect_quiet();
        let again = net.ip(&net.host, &line);
        assert_eq!(again.answer(), exists, "there it is taken now");
    } else {
        assert_eq!(done.answer(), exists);
    }
}

#[test]
fn what_is_none_of_them_is_neither_changed_nor_deleted() {
    let net = Net::new(Mode::L2).build();
    net.ip(
        &net.host,
        "link add link eth0 name v0 type ipvlan mode l2 private",
    )
    .expect_quiet();
    let gone = |name: &str| (1, format!("Cannot find device \"{name}\""));
    let no_dev = (
        255,
        r#"Not enough information: "dev" argument is required."#.to_owned(),
    );
    let incomplete = (
        255,
        r#"Command line is not complete. Try option "help""#.to_owned(),
    );
    let garbage = (
        255,
        r#"Error: either "dev" is duplicate, or "v0" is a garbage."#.to_owned(),
    );
    for (line, wanted) in [
        ("link set dev nope type ipvlan mode l3", gone("nope")),
        ("link set type ipvlan mode l3", no_dev.clone()),
        ("link set dev v0 type", incomplete.clone()),
        ("link del dev nope", gone("nope")),
        ("link del nope", gone("nope")),
        ("link del", no_dev),
        ("link del dev", incomplete),
        ("link del v0 v0", garbage.clone()),
        ("link del v0 dev v0", garbage),
    ] {
        let done = net.ip(&net.host, line);
        let (status, text) = &wanted;
        assert_eq!(done.answer(), (*status, text.as_str()), "`{line}`");
    }
    let done = net.ip(&net.host, "link set dev lo type ipvlan mode l3");
    let wanted = differs(
        "refusals",
        (
            2,
            "Error: device \"lo\" is not an ipvlan device (it is a device without a kind); use \
             \"ip link\" for it.",
        ),
        (2, "RTNETLINK answers: Operation not supported"),
    );
    assert_eq!(done.answer(), wanted);
    assert_eq!(net.kind(&net.host, "v0"), "l2 private");
    net.ip(&net.host, "link del v0 type ipvlan").expect_quiet();
    assert!(net.host.find_link("v0").is_none());
    assert_eq!(
        net.ip(&net.host, "link del v0").answer(),
        (1, r#"Cannot find device "v0""#)
    );
}

#[test]
fn every_order_of_words_makes_the_same_device() {
    let net = Net::new(Mode::L2).build();
    net.host.sh("ip link add dev p1 type veth peer name p1p");
    for line in [
        "link add link eth0 name v0 type ipvlan mode l2",
        "link add link eth0 v0 type ipvlan mode l2",
        "link add link eth0 dev v0 type ipvlan mode l2",
        "link add v0 link eth0 type ipvlan mode l2 bridge",
        "link add name v0 link eth0 type ipvlan bridge mode l2",
        "link add dev v0 link eth0 type ipvlan m l2 b",
        "link add link p1 link eth0 name v0 type ipvlan mode l2",
        "link add link eth0 name v0 address 02:00:00:00:00:07 type ipvlan mode l2",
        "link add link eth0 name v0 address 01:00:00:00:00:07 type ipvlan mode l2",
        "link a link eth0 name v0 type ipvlan mode l2",
    ] {
        net.ip(&net.host, line).expect_quiet();
        let link = net.host.link("v0");
        assert_eq!(link.mac, Some(net.mac()), "`{line}`: the parent's address");
        assert_eq!(net.kind(&net.host, "v0"), "l2 bridge", "`{line}`");
        assert_eq!(net.look(&net.host, "v0")["link"], "eth0", "`{line}`");
        net.ip(&net.host, "link del v0").expect_quiet();
    }
    // The HOWTO's other way to write it: link, master, slave.
    let done = net.ip(&net.host, "link add eth0 v0 type ipvlan mode l2");
    assert_eq!(
        done.answer(),
        differs(
            "spelling",
            (0, ""),
            (
                255,
                r#"Error: either "dev" is duplicate, or "v0" is a garbage."#
            )
        )
    );
    // Without a name, or with a pattern.
    for (word, names) in [("", ["ipvlan0", "ipvlan1"]), ("name w%d", ["w0", "w1"])] {
        for name in names {
            net.ip(
                &net.host,
                &format!("link add link eth0 {word} type ipvlan mode l2"),
            )
            .expect_quiet();
            assert!(net.host.find_link(name).is_some(), "{name}");
        }
    }
    for (word, name) in [
        ("name fifteen-bytes-x", "fifteen-bytes-x"),
        ("name v1 index 4711", "v1"),
        ("name v2 txqueuelen 7", "v2"),
        ("name v3 up", "v3"),
        ("name v4 numtxqueues 4 numrxqueues 2", "v4"),
    ] {
        net.ip(
            &net.host,
            &format!("link add link eth0 {word} type ipvlan mode l2"),
        )
        .expect_quiet();
        assert!(net.host.find_link(name).is_some(), "{name}");
    }
    assert_eq!(net.host.index("v1"), 4711);
    assert_eq!(net.host.link("v2").txqlen, 7);
    assert!(net.host.link("v3").is_up());
    let queues = net.host.link("v4");
    assert_eq!(
        (queues.num_tx_queues, queues.num_rx_queues),
        (Some(4), Some(2))
    );
}

#[test]
fn words_of_ip_that_are_not_about_ipvlan_are_left_to_ip() {
    let net = Net::new(Mode::L2).build();
    net.ip(&net.host, "link add link eth0 name v0 type ipvlan mode l2")
        .expect_quiet();
    for words in ["alias one", "group 7", "promisc on", "arp off"] {
        let word = words.split(' ').next().unwrap_or_default();
        let line = format!("link add link eth0 name v1 {words} type ipvlan mode l2");
        let done = net.ip(&net.host, &line);
        let refusal = format!("Error: \"{word}\" is not for us: use \"ip link set\" for it");
        assert_eq!(
            done.answer(),
            differs("words", (2, refusal.as_str()), (0, "")),
            "`{line}`"
        );
        if done.ok() {
            net.ip(&net.host, "link del v1").expect_quiet();
        }
        assert!(net.host.find_link("v1").is_none());
    }
    let done = net.ip(&net.host, "link set dev v0 mtu 1400 type ipvlan mode l3");
    assert_eq!(done.ok(), differs("words", false, true), "{done:?}");
    assert_eq!(
        net.kind(&net.host, "v0"),
        differs("words", "l2 bridge", "l3 bridge"),
        "all of it or nothing"
    );
}

#[test]
fn an_index_is_had_if_it_is_free() {
    let net = Net::new(Mode::L2).build();
    // The second one beside the largest index that there is.
    for (name, index) in [("v0", 2_147_483_647), ("v1", 77)] {
        net.ip(
            &net.host,
            &format!("link add link eth0 name {name} index {index} type ipvlan mode l2"),
        )
        .expect_quiet();
        assert_eq!(net.host.index(name), index);
    }
}

#[test]
fn a_device_as_parent_stands_for_its_own_parent() {
    let net = Net::new(Mode::L2).devices(1).build();
    net.ip(&net.host, "link add link eth0 name v0 type ipvlan mode l2")
        .expect_quiet();
    net.ip(
        &net.host,
        "link add link v0 name v1 type ipvlan mode l2 private",
    )
    .expect_quiet();
    assert_eq!(net.look(&net.host, "v1")["link"], "eth0");
    assert_eq!(net.kind(&net.host, "v0"), "l2 private", "the same port");
    // Also from where the parent is not, by who may go there.
    let ns = &net.dev(0).ns;
    net.ip(ns, "link add link ipvl0 name v2 type ipvlan mode l2 vepa")
        .expect_quiet();
    assert_eq!(net.kind(&net.host, "v0"), "l2 vepa", "the same port");
    assert_eq!(
        net.look(ns, "v2")["link_index"],
        net.host.index("eth0"),
        "{}",
        net.look(ns, "v2")
    );
}

#[test]
fn an_ipvtap_is_of_the_same_port() {
    let net = Net::new(Mode::L2).build();
    net.ip(
        &net.host,
        "link add link eth0 name v0 type ipvlan mode l2 private",
    )
    .expect_quiet();
    net.ip(
        &net.host,
        "link add link eth0 name t0 type ipvtap mode l2 vepa",
    )
    .expect_quiet();
    for (name, kind) in [("v0", "ipvlan"), ("t0", "ipvtap")] {
        assert_eq!(net.kind(&net.host, name), "l2 vepa");
        let shown = net.look(&net.host, name);
        assert_eq!(shown["linkinfo"]["info_kind"], kind);
        assert_eq!(shown["link"], "eth0");
    }
    net.ip(&net.host, "link set t0 type ipvtap mode l3 bridge")
        .expect_quiet();
    assert_eq!(net.kind(&net.host, "v0"), "l3 bridge");
    net.ip(&net.host, "link del t0").expect_quiet();
    assert_eq!(net.host.find_link("t0"), None);
    assert_eq!(net.kind(&net.host, "v0"), "l3 bridge", "it stays");
}
