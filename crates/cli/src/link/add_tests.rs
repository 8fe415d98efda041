//! Spellings and errors of `link add`; each error was compared with `ip` 6.1.

use ipvlan_abi::{Flag, Mode};

use super::super::tests::{fail, parse};
use super::*;

fn add(line: &str) -> Add {
    match parse(line).expect(line) {
        Command::Link(super::super::Command::Add(add)) => add,
        other => panic!("{line}: {other:?}"),
    }
}

fn plain(parent: &str, name: Option<&str>) -> Add {
    Add {
        parent: parent.to_owned(),
        name: name.map(|name| IfName::template(name).expect(name)),
        kind: Kind::default(),
        mtu: None,
        index: None,
        txqlen: None,
        num_tx_queues: None,
        num_rx_queues: None,
        netns: None,
        up: false,
    }
}

#[test]
fn parent_and_name_in_every_order_and_spelling() {
    for line in [
        "link add link eth0 name ipvl0 type ipvlan",
        "link add name ipvl0 link eth0 type ipvlan",
        "link add ipvl0 link eth0 type ipvlan",
        "link add dev ipvl0 link eth0 type ipvlan",
        "link add link eth0 dev ipvl0 type ipvlan",
        // HOWTO: link add link <master-dev> <slave-dev>
        "link add link eth0 ipvl0 type ipvlan",
        // Two words without a keyword: first the parent.
        "link add eth0 ipvl0 type ipvlan",
        "l a l eth0 name ipvl0 ty ipvlan",
        "l a link eth1 ipvl0 link eth0 type ipvlan",
        "li ad lin eth0 ipvl0 typ ipvlan",
    ] {
        assert_eq!(add(line), plain("eth0", Some("ipvl0")), "{line}");
    }
    assert_eq!(add("link add link eth0 type ipvlan"), plain("eth0", None));
    assert_eq!(
        add("link add link eth0 name web%d type ipvlan"),
        plain("eth0", Some("web%d"))
    );
    assert_eq!(
        add("link add link eth0 name type type ipvlan"),
        plain("eth0", Some("type")),
        "a keyword is a name where a name must stand"
    );
}

#[test]
fn mode_and_flag() {
    let with = |mode, flag| Add {
        kind: Kind {
            mode,
            flag,
            ..Kind::default()
        },
        ..plain("eth0", Some("ipvl0"))
    };
    let l2 = Some(Mode::L2);
    for (line, wanted) in [
        ("mode l2", with(l2, None)),
        ("mode L2", with(l2, None)),
        ("mode L3", with(Some(Mode::L3), None)),
        ("mode l3s", with(Some(Mode::L3s), None)),
        ("mode l2 vepa", with(l2, Some(Flag::Vepa))),
        ("private", with(None, Some(Flag::Private))),
        ("bridge mode l2", with(l2, Some(Flag::Bridge))),
    ] {
        let line = format!("link add link eth0 name ipvl0 type ipvlan {line}");
        assert_eq!(add(&line), wanted, "{line}");
    }
}

#[test]
fn everything_else_in_every_spelling() {
    let start = || plain("eth0", Some("ipvl0"));
    for (words, wanted) in [
        (
            "mtu 1400",
            Add {
                mtu: Some(1400),
                ..start()
            },
        ),
        (
            "mtu 0x578",
            Add {
                mtu: Some(1400),
                ..start()
            },
        ),
        (
            "mtu 68",
            Add {
                mtu: Some(68),
                ..start()
            },
        ),
        (
            "mtu 65535",
            Add {
                mtu: Some(65535),
                ..start()
            },
        ),
        (
            "txqueuelen 7",
            Add {
                txqlen: Some(7),
                ..start()
            },
        ),
        (
            "txqlen 7",
            Add {
                txqlen: Some(7),
                ..start()
            },
        ),
        (
            "qlen 07",
            Add {
                txqlen: Some(7),
                ..start()
            },
        ),
        (
            "tx 7",
            Add {
                txqlen: Some(7),
                ..start()
            },
        ),
        (
            "t 7",
            Add {
                txqlen: Some(7),
                ..start()
            },
        ),
        (
            "txqlen -1",
            Add {
                txqlen: Some(u32::MAX),
                ..start()
            },
        ),
        (
            "index 77",
            Add {
                index: Some(77),
                ..start()
            },
        ),
        (
            "numtxqueues 2",
            Add {
                num_tx_queues: Some(2),
                ..start()
            },
        ),
        (
            "nu 2",
            Add {
                num_tx_queues: Some(2),
                ..start()
            },
        ),
        (
            "numrxqueues 3",
            Add {
                num_rx_queues: Some(3),
                ..start()
            },
        ),
        (
            "numr 4096",
            Add {
                num_rx_queues: Some(4096),
                ..start()
            },
        ),
        (
            "netns blue",
            Add {
                netns: Some("blue".to_owned()),
                ..start()
            },
        ),
        (
            "netns 4711",
            Add {
                netns: Some("4711".to_owned()),
                ..start()
            },
        ),
        (
            "up",
            Add {
                up: true,
                ..start()
            },
        ),
        ("up down", start()),
        (
            "down up",
            Add {
                up: true,
                ..start()
            },
        ),
        ("address 02:00:00:00:00:01", start()),
        ("addr 2:0:0:0:0:1", start()),
    ] {
        for line in [
            format!("link add {words} link eth0 name ipvl0 type ipvlan"),
            format!("link add link eth0 {words} ipvl0 type ipvlan"),
            format!("link add eth0 ipvl0 {words} type ipvlan"),
        ] {
            assert_eq!(add(&line), wanted, "{line}");
        }
    }
}

#[test]
fn what_is_not_understood() {
    let incomplete = "Command line is not complete. Try option \"help\"";
    let garbage =
        |word: &str| format!("Error: either \"dev\" is duplicate, or \"{word}\" is a garbage.");
    let wrong = |word: &str, why: &str| format!("Error: argument \"{word}\" is wrong: {why}");
    let twice = |key: &str, word: &str| {
        format!("Error: duplicate \"{key}\": \"{word}\" is the second value.")
    };
    fail(
        255,
        &[
            ("l a link", incomplete),
            ("l a link eth0 name", incomplete),
            ("l a link eth0 v type", incomplete),
            ("l a link eth0 v mtu", incomplete),
            ("l a link eth0 v type ipvlan mode", incomplete),
            ("l a link eth0 v w type ipvlan", &garbage("w")),
            ("l a eth0 v link eth1 type ipvlan", &garbage("v")),
            ("l a eth0 v w type ipvlan", &garbage("w")),
            ("l a dev v w link eth0 type ipvlan", &garbage("w")),
            ("l a v dev w link eth0 type ipvlan", &garbage("w")),
            (
                "l a link eth0 name v name w type ipvlan",
                &twice("name", "w"),
            ),
            (
                "l a link eth0 v mtu 100 mtu 200 type ipvlan",
                &twice("mtu", "200"),
            ),
            (
                "l a link eth0 v mtu 100 mtu x type ipvlan",
                &twice("mtu", "x"),
            ),
            (
                "l a link eth0 v txqlen 5 qlen 6 type ipvlan",
                &twice("txqueuelen", "6"),
            ),
            (
                "l a link eth0 v index 5 index 5 type ipvlan",
                &twice("index", "5"),
            ),
            (
                "l a link eth0 v netns a netns b type ipvlan",
                &twice("netns", "b"),
            ),
            (
                "l a link eth0 v numtxqueues 2 numtxqueues 2",
                &twice("numtxqueues", "2"),
            ),
            (
                "l a link eth0 v mtu x type ipvlan",
                &wrong("x", "Invalid \"mtu\" value"),
            ),
            (
                "l a link eth0 v mtu 2147483648 type ipvlan",
                &wrong("2147483648", "Invalid \"mtu\" value"),
            ),
            (
                "l a link eth0 v qlen x type ipvlan",
                &wrong("x", "Invalid \"txqueuelen\" value"),
            ),
            (
                "l a link eth0 v t ipvlan",
                &wrong("ipvlan", "Invalid \"txqueuelen\" value"),
            ),
            (
                "l a link eth0 v numrxqueues x",
                &wrong("x", "Invalid \"numrxqueues\" value"),
            ),
            (
                "l a link eth0 v index 0",
                &wrong("0", "Invalid \"index\" value"),
            ),
            (
                "l a link eth0 v index -5",
                &wrong("-5", "Invalid \"index\" value"),
            ),
            (
                "l a link eth0 v index x",
                &wrong("x", "Invalid \"index\" value"),
            ),
            (
                "l a link eth0 name a/b",
                &wrong("a/b", "\"name\" not a valid ifname"),
            ),
            (
                "l a link eth0 name sixteen-bytes-xx",
                &wrong("sixteen-bytes-xx", "\"name\" not a valid ifname"),
            ),
            (
                "l a link eth0 a/b",
                &wrong("a/b", "\"dev\" not a valid ifname"),
            ),
            (
                "l a link eth0 dev a/b",
                &wrong("a/b", "\"dev\" not a valid ifname"),
            ),
            (
                "l a link eth0 name v dev w type ipvlan",
                "both \"name\" and \"dev\" cannot be used when creating devices.",
            ),
            (
                "l a eth0 name v type ipvlan",
                "both \"name\" and \"dev\" cannot be used when creating devices.",
            ),
            (
                "l a link eth0 v -j type ipvlan",
                &Error::LateOption("-j".to_owned()).to_string(),
            ),
        ],
    );
    for name in ["", "a b"] {
        let error = crate::parse(&["link", "add", "link", "eth0", "name", name]).expect_err(name);
        assert_eq!(
            error.to_string(),
            wrong(name, "\"name\" not a valid ifname")
        );
    }
}

#[test]
fn what_ip_itself_refuses_late() {
    let no_type = "Not enough information: \"type\" argument is required";
    fail(
        1,
        &[
            ("l a", no_type),
            ("l a link eth0 v", no_type),
            ("l a eth0 v", no_type),
            (
                "l a link eth0 v address zz type ipvlan",
                "\"zz\" is invalid lladdr.",
            ),
            (
                "l a link eth0 v address 02:00:00:00:00:100 type ipvlan",
                "\"100\" is invalid lladdr.",
            ),
            (
                "l a link eth0 v address 02:00:00:00:00: type ipvlan",
                "\"\" is invalid lladdr.",
            ),
        ],
    );
}

#[test]
fn what_the_kernel_refuses() {
    let low = "Error: mtu less than device minimum.";
    let high = "Error: mtu greater than device maximum.";
    let tx = "Error: Invalid number of transmit queues.";
    let invalid = "RTNETLINK answers: Invalid argument";
    fail(
        2,
        &[
            (
                "l a link eth0 sixteen-bytes-xx type ipvlan",
                "Error: the name of a device has at most 15 bytes.",
            ),
            ("l a link eth0 v mtu 67 type ipvlan", low),
            ("l a link eth0 v mtu 0 type ipvlan", low),
            ("l a link eth0 v mtu -1 type ipvlan", low),
            ("l a link eth0 v mtu 65536 type ipvlan", high),
            ("l a link eth0 v numtxqueues 0 type ipvlan", tx),
            ("l a link eth0 v numtxqueues -1 type ipvlan", tx),
            ("l a link eth0 v numtxqueues 4097 type ipvlan", tx),
            (
                "l a link eth0 v numrxqueues 0 type ipvlan",
                "Error: Invalid number of receive queues.",
            ),
            ("l a link eth0 v address 02:00 type ipvlan", invalid),
            ("l a link eth0 v address 2:0:0:0:0:0:0 type ipvlan", invalid),
            ("l a link eth0 name . type ipvlan", invalid),
            ("l a link eth0 name a:b type ipvlan", invalid),
            ("l a link eth0 name v% type ipvlan", invalid),
            ("l a name v type ipvlan", &Error::NoParent.to_string()),
            ("l a type ipvlan", &Error::NoParent.to_string()),
            ("l a eth0 type ipvlan", &Error::NoParent.to_string()),
            (
                "l a v type veth peer name w",
                "Error: type \"veth\" is not ours: use \"ip link add\" for it",
            ),
            (
                "l a link eth0 v alias x type ipvlan",
                "Error: \"alias\" is not for us: use \"ip link set\" for it",
            ),
        ],
    );
}
