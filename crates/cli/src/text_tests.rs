//! The layout, against what `ip` 6.1 printed for a device with the same values.

use ipvlan_abi::{Flag, Mode};
use ipvlan_control::{Kind, Shown};
use ipvlan_netlink::{AddrGenMode, Link, LinkStats, Nsid, TapSettings};

use super::*;

/// A device as on a machine just booted.
pub(crate) fn shown() -> Shown {
    let mut link = Link::default();
    link.index = 5;
    link.name = "ipvl0".to_owned();
    link.mac = Some([2, 0xfc, 0, 0, 0, 1]);
    link.broadcast = Some([0xff; 6]);
    link.mtu = 1500;
    link.flags = 0x1_1043;
    link.kind = Some("veth".to_owned());
    link.qdisc = Some("noqueue".to_owned());
    link.operstate = 6;
    link.txqlen = 1000;
    link.promiscuity = Some(0);
    link.allmulti = Some(0);
    link.min_mtu = Some(68);
    link.max_mtu = Some(65535);
    link.addr_gen_mode = Some(AddrGenMode::Eui64);
    link.num_tx_queues = Some(1);
    link.num_rx_queues = Some(1);
    link.gso_max_size = Some(65536);
    link.gso_max_segs = Some(65535);
    link.tso_max_size = Some(524_280);
    link.tso_max_segs = Some(65535);
    link.gro_max_size = Some(65536);
    let mut stats = LinkStats::default();
    stats.tx_bytes = 180;
    stats.tx_packets = 2;
    link.stats = Some(stats);
    link.carrier_changes = Some(1);
    Shown {
        link,
        kind: Kind::Ipvlan,
        guest: None,
        learning: false,
        place: Place::Here,
        parent: "eth0".to_owned(),
        parent_index: 2,
        parent_place: Place::Here,
        host_index: 6,
        mode: Mode::L2,
        flag: Flag::Bridge,
        slot: 1,
        owned: Vec::new(),
        refused: Vec::new(),
        granted: Vec::new(),
        dhcp_identity: None,
        drops: Vec::new(),
    }
}

fn print(shown: &Shown, switches: &str) -> String {
    let words: Vec<_> = switches.split_whitespace().collect();
    let options = crate::parse(&words).expect(switches).options;
    let view = View::new(shown, &mut |_| None);
    if options.json {
        Value::List(vec![json(&view, &options)]).print(options.pretty)
    } else {
        text(&view, &options)
    }
}

const HEAD: &str = "5: ipvl0@eth0: <BROADCAST,MULTICAST,UP,LOWER_UP> mtu 1500 qdisc noqueue \
                    state UP mode DEFAULT group default qlen 1000\n";
const ETHER: &str = "    link/ether 02:fc:00:00:00:01 brd ff:ff:ff:ff:ff:ff";
const KIND: &str = "    ipvlan  mode l2 bridge addrgenmode eui64 numtxqueues 1 numrxqueues 1 \
                    gso_max_size 65536 gso_max_segs 65535 tso_max_size 524280 tso_max_segs 65535 \
                    gro_max_size 65536 \n";

#[test]
fn plain_brief_and_oneline() {
    let mut shown = shown();
    assert_eq!(print(&shown, ""), format!("{HEAD}{ETHER}\n"));
    assert_eq!(
        print(&shown, "-o"),
        format!("{}\\{ETHER}\n", HEAD.trim_end())
    );
    let brief = "ipvl0@eth0       UP             02:fc:00:00:00:01 \
                 <BROADCAST,MULTICAST,UP,LOWER_UP> \n";
    assert_eq!(print(&shown, "-br"), brief);
    assert_eq!(print(&shown, "-br -d -s -o"), brief);
    shown.link.txqlen = 0;
    assert!(print(&shown, "").contains(" group default \n"));
}

#[test]
fn a_tap_says_who_is_behind_it() {
    let mut shown = shown();
    shown.kind = Kind::Ipvtap;
    shown.link.tap = Some(TapSettings::default());
    assert!(!print(&shown, "-d").contains("guest"));
    assert!(!print(&shown, "-j -d").contains("guest"));
    shown.guest = Some([2, 0xab, 0, 0, 0, 7]);
    shown.link.tap = Some(TapSettings {
        owner: Some(1000),
        group: Some(36),
    });
    let text = print(&shown, "-d");
    assert!(text.contains("    ipvtap  mode l2 bridge "), "{text}");
    let line = "\n    learning off guest 02:ab:00:00:00:07 user 1000 group 36\n";
    assert!(text.contains(line), "{text}");
    let json = print(&shown, "-j -d");
    assert!(json.contains("\"info_kind\":\"ipvtap\""), "{json}");
    let ours = "\"slot\":1,\"learning\":false,\"guest\":\"02:ab:00:00:00:07\",\"user\":1000,\"group\":36,\"owns\"";
    assert!(json.contains(ours), "{json}");
    shown.learning = true;
    assert!(print(&shown, "-d").contains("\n    learning on guest "));
    assert!(print(&shown, "-j -d").contains("\"learning\":true"));
}

#[test]
fn details_names_and_counters() {
    let mut shown = shown();
    shown.link.alias = Some("x y".to_owned());
    shown.link.alt_names = vec!["other".to_owned(), "another".to_owned()];
    let more = " promiscuity 0  allmulti 0 minmtu 68 maxmtu 65535 \n";
    let alias = "    alias x y\n";
    let names = "    altname other\n    altname another\n";
    assert_eq!(
        print(&shown, "-d"),
        format!("{HEAD}{ETHER}{more}{KIND}{alias}{names}")
    );
    let errors = "    RX:  bytes packets errors dropped  missed   mcast           
             0       0      0       0       0       0 
    RX errors:  length    crc   frame    fifo overrun
                     0      0       0       0       0 
    TX:  bytes packets errors dropped carrier collsns           
           180       2      0       0       0       0 
    TX errors: aborted   fifo  window heartbt transns
                     0      0       0       0       1 
";
    let plain: Vec<_> = errors.lines().collect();
    let plain = format!("{}\n{}\n{}\n{}\n", plain[0], plain[1], plain[4], plain[5]);
    assert_eq!(
        print(&shown, "-s"),
        format!("{HEAD}{ETHER}\n{alias}{plain}{names}")
    );
    assert_eq!(
        print(&shown, "-s -s"),
        format!("{HEAD}{ETHER}\n{alias}{errors}{names}")
    );
}

#[test]
fn columns_of_rare_counters_and_of_large_ones() {
    let mut shown = shown();
    let mut stats = LinkStats::default();
    stats.rx_otherhost_dropped = 1;
    stats.rx_bytes = 123_456_789_012;
    stats.tx_compressed = 7;
    shown.link.stats = Some(stats);
    let text = print(&shown, "-s -s");
    let lines: Vec<_> = text.lines().skip(2).collect();
    assert_eq!(
        lines,
        [
            "    RX:    bytes packets errors dropped  missed   mcast           ",
            "    123456789012       0      0       0       0       0 ",
            "    RX errors:    length    crc   frame    fifo overrun otherhost",
            "                       0      0       0       0       0         1 ",
            "    TX:    bytes packets errors dropped carrier collsns compressed",
            "               0       0      0       0       0       0          7 ",
            "    TX errors:   aborted   fifo  window heartbt transns",
            "                       0      0       0       0       1 ",
        ]
    );
}

#[test]
fn who_lives_elsewhere() {
    let mut shown = shown();
    shown.place = Place::Named("ns0".to_owned());
    assert_eq!(print(&shown, ""), format!("{HEAD}{ETHER} netns ns0\n"));
    assert!(print(&shown, "-br").ends_with("LOWER_UP> netns ns0 \n"));
    assert!(print(&shown, "-j").contains("\"netns\":\"ns0\""));
    shown.place = Place::Unnamed(3);
    assert_eq!(print(&shown, ""), format!("{HEAD}{ETHER} netns-id 3\n"));
    assert!(print(&shown, "-j").contains("\"netns_id\":3"));

    shown.place = Place::Here;
    shown.parent_place = Place::Named("host".to_owned());
    shown.link.link_nsid = Some(Nsid(0));
    let head = HEAD.replace("@eth0", "@if2");
    assert_eq!(
        print(&shown, ""),
        format!("{head}{ETHER} link-netns host\n")
    );
    assert!(print(&shown, "-j").contains("\"link_index\":2,"));
    assert!(print(&shown, "-j").contains("\"link_netnsid\":0"));
    shown.parent_place = Place::Unnamed(4);
    shown.link.link_nsid = None;
    assert_eq!(print(&shown, ""), format!("{head}{ETHER} link-netnsid 4\n"));
    assert!(print(&shown, "-j").contains("\"link_netnsid\":4"));
}

#[test]
fn what_is_ours_stands_at_the_end() {
    let mut shown = shown();
    let owned = ["10.0.0.11/32", "10.9.0.0/16", "fd00::11/128"];
    shown.owned = owned.map(|prefix| prefix.parse().unwrap()).to_vec();
    shown.refused = vec!["10.0.0.12".parse().unwrap()];
    shown.drops = vec![(DropReason::Private, 12), (DropReason::NotIp, 3)];
    shown.dhcp_identity = Some([2, 0, 0, 1, 0, 1]);
    let addresses = "    owns 10.0.0.11 10.9.0.0/16 fd00::11\n    refused 10.0.0.12\n    \
                     dhcp-identity 02:00:00:01:00:01\n";
    let drops = "    drops private 12 not_ip 3\n";
    assert!(print(&shown, "-d").ends_with(&format!("gro_max_size 65536 \n{addresses}")));
    assert!(print(&shown, "-s -d").ends_with(&format!("{addresses}{drops}")));
    assert!(print(&shown, "-s -s").ends_with(&format!("       1 \n{drops}")));
    for switches in ["", "-s"] {
        assert!(!print(&shown, switches).contains("owns"), "{switches}");
        assert!(!print(&shown, switches).contains("drops"), "{switches}");
    }
    assert!(print(&shown, "-j -d").ends_with(
        "\"ipvlan\":{\"slot\":1,\"owns\":[\"10.0.0.11\",\"10.9.0.0/16\",\"fd00::11\"],\
         \"refused\":[\"10.0.0.12\"],\"granted\":[],\
         \"dhcp_identity\":\"02:00:00:01:00:01\",\"drops\":{\"private\":12,\"not_ip\":3}}}]\n"
    ));
    assert!(!print(&shown, "-j -s").contains("\"ipvlan\""));
}

#[test]
fn json_has_the_keys_and_the_order_of_ip() {
    let shown = shown();
    let plain = "[{\"ifindex\":5,\"link\":\"eth0\",\"ifname\":\"ipvl0\",\
                 \"flags\":[\"BROADCAST\",\"MULTICAST\",\"UP\",\"LOWER_UP\"],\"mtu\":1500,\
                 \"qdisc\":\"noqueue\",\"operstate\":\"UP\",\"linkmode\":\"DEFAULT\",\
                 \"group\":\"default\",\"txqlen\":1000,\"link_type\":\"ether\",\
                 \"address\":\"02:fc:00:00:00:01\",\"broadcast\":\"ff:ff:ff:ff:ff:ff\"";
    assert_eq!(print(&shown, "-j"), format!("{plain}}}]\n"));
    assert!(print(&shown, "-j -d").starts_with(&format!(
        "{plain},\"promiscuity\":0,\"allmulti\":0,\"min_mtu\":68,\"max_mtu\":65535,\
         \"linkinfo\":{{\"info_kind\":\"ipvlan\",\
         \"info_data\":{{\"mode\":\"l2\",\"bridge\":true}}}},\
         \"inet6_addr_gen_mode\":\"eui64\",\"num_tx_queues\":1,\"num_rx_queues\":1,"
    )));
    assert_eq!(
        print(&shown, "-j -br"),
        "[{\"link\":\"eth0\",\"ifname\":\"ipvl0\",\"operstate\":\"UP\",\
         \"address\":\"02:fc:00:00:00:01\",\
         \"flags\":[\"BROADCAST\",\"MULTICAST\",\"UP\",\"LOWER_UP\"]}]\n"
    );
    for switches in ["-j -d -s -s", "-j -p -d -s", "-j -p -br"] {
        let read: serde_json::Value = serde_json::from_str(&print(&shown, switches)).expect("JSON");
        assert_eq!(read[0]["ifname"], "ipvl0", "{switches}");
    }
}
