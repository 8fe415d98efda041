//! What comes in on the parent: who gets it, who may take it before, and what it does to nobody.

#![expect(
    clippy::expect_used,
    reason = "clippy knows a test by its attribute, not the functions beside it"
)]

use std::collections::BTreeSet;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, UdpSocket};
use std::time::Duration;

use ipvlan_tests::packet::{
    self, BROADCAST, FORGED, Mac, ethernet, ethertype, icmpv6, ipv4, ipv6, nd, next,
};
use ipvlan_tests::sniff::Sender;
use ipvlan_tests::traffic::Ear;
use ipvlan_tests::{Backend, Mode, Net, PATIENCE, Sniffer, differs, eventually};

const LAN4: Ipv4Addr = Ipv4Addr::new(10, 1, 0, 254);
const LAN6: Ipv6Addr = Ipv6Addr::new(0xfd00, 0, 0, 0, 0, 0, 0, 0x254);
const HOST4: Ipv4Addr = Ipv4Addr::new(10, 1, 0, 1);
const HOST6: Ipv6Addr = Ipv6Addr::new(0xfd00, 0, 0, 0, 0, 0, 0, 1);
/// Nobody's, on the LAN's subnet.
const FREE4: Ipv4Addr = Ipv4Addr::new(10, 1, 0, 200);
const FREE6: Ipv6Addr = Ipv6Addr::new(0xfd00, 0, 0, 0, 0, 0, 0, 0x200);
const ALL_NODES: Ipv6Addr = Ipv6Addr::new(0xff02, 0, 0, 0, 0, 0, 0, 1);
const PORT: u16 = 7099;

const PAUSE: u16 = 0x8808;
const LLDP: u16 = 0x88cc;
const LLC: u16 = 0x0004;

/// Who hears a frame: `h`, the stack of the parent's namespace; `0`, `1`, …, a device.
#[derive(Clone, Copy)]
enum Who {
    Same(&'static str),
    /// Row, ours, the driver.
    Differ(&'static str, &'static str, &'static str),
    /// The same, and who may or may not hear it with the driver, by a collision in its filter.
    Filter(&'static str, &'static str, &'static str, &'static str),
}
use Who::{Differ, Filter, Same};

struct Case {
    what: String,
    who: Who,
    tag: Mac,
    frame: Vec<u8>,
}

/// Frames from the LAN, and who is to hear each. A frame is known again by six bytes of its own,
/// which are its source MAC address, or anywhere else in it.
struct Table {
    mode: Mode,
    cases: Vec<Case>,
}

impl Table {
    fn new(mode: Mode) -> Self {
        let cases = Vec::new();
        Self { mode, cases }
    }

    /// A frame that is the same in all modes, and who hears it in l2, l3 and l3s.
    fn add(&mut self, what: &str, [l2, l3, l3s]: [Who; 3], frame: impl FnOnce(Mac) -> Vec<u8>) {
        let who = match self.mode {
            Mode::L2 => l2,
            Mode::L3 => l3,
            Mode::L3s => l3s,
        };
        let number = u8::try_from(self.cases.len()).expect("at most 256 cases");
        let tag = [2, b't', b'a', b'g', b':', number];
        self.cases.push(Case {
            what: what.to_owned(),
            who,
            tag,
            frame: frame(tag),
        });
    }

    /// Sends all and compares.
    #[track_caller]
    fn run(&self, net: &Net, ears: &Ears) {
        let sender = Sender::on(&net.lan, "lan0");
        let tap = Sniffer::on(&net.host, "eth0");
        for case in &self.cases {
            sender.send(&case.frame);
        }
        let mut heard = ears.until_quiet(net, &sender, &self.cases);
        let tapped = tap.drain(Duration::ZERO);
        let mut wrong = Vec::new();
        for (case, got) in self.cases.iter().zip(&mut heard) {
            let (row, [ours, driver], maybe) = match case.who {
                Same(who) => (None, [who, who], ""),
                Differ(row, ours, driver) => (Some(row), [ours, driver], ""),
                Filter(row, ours, driver, maybe) => (Some(row), [ours, driver], maybe),
            };
            let wanted = row.map_or(ours, |row| differs(row, ours, driver));
            let maybe = row.map_or("", |row| differs(row, "", maybe));
            got.retain(|who| !maybe.contains(*who) || wanted.contains(*who));
            let got: String = got.iter().collect();
            // In the order of a set: digits first.
            let mut wanted: Vec<char> = wanted.chars().collect();
            wanted.sort_unstable();
            let wanted: String = wanted.into_iter().collect();
            if got != wanted {
                wrong.push(format!("{}: {got:?}, not {wanted:?}", case.what));
            }
            if !tapped.iter().any(|seen| seen.bytes == case.frame) {
                wrong.push(format!("{}: not seen by taps of the parent", case.what));
            }
        }
        assert!(
            wrong.is_empty(),
            "{}: of {} cases:\n{}",
            self.mode,
            self.cases.len(),
            wrong.join("\n")
        );
    }
}

/// One ear in the parent's stack for each EtherType, and two in each device: a packet socket, and a
/// UDP socket, which hears also what comes by another way than the device (l3s of the driver).
struct Ears {
    host: Vec<Sniffer>,
    devices: Vec<(Sniffer, UdpSocket)>,
}

impl Ears {
    fn on(net: &Net) -> Self {
        let types = [
            ethertype::IPV4,
            ethertype::IPV6,
            ethertype::ARP,
            ethertype::EXPERIMENT,
            PAUSE,
            LLDP,
            LLC,
        ];
        let host = types.map(|kind| Sniffer::behind(&net.host, "eth0", kind));
        let devices = net.devices.iter().map(|dev| {
            let socket = dev.ns.enter(|| UdpSocket::bind(("::", PORT)));
            let socket = socket.expect("a port");
            socket.set_nonblocking(true).expect("O_NONBLOCK");
            (Sniffer::on(&dev.ns, &dev.name), socket)
        });
        Self {
            host: host.into(),
            devices: devices.collect(),
        }
    }

    /// What everybody heard since the last call.
    fn collect(&self) -> Vec<(char, Vec<u8>)> {
        let mut all = Vec::new();
        for ear in &self.host {
            let seen = ear.drain(Duration::ZERO).into_iter();
            all.extend(seen.map(|seen| ('h', seen.bytes)));
        }
        for (name, (tap, socket)) in ('0'..).zip(&self.devices) {
            let seen = tap.drain(Duration::ZERO).into_iter();
            all.extend(
                seen.filter(|seen| !seen.outgoing)
                    .map(|seen| (name, seen.bytes)),
            );
            let mut buf = [0; 2048];
            while let Ok(len) = socket.recv(&mut buf) {
                all.push((name, buf[..len].to_vec()));
            }
        }
        all
    }

    /// Who heard what of `cases`, once the last frame of all has arrived where it should.
    #[track_caller]
    fn until_quiet(&self, net: &Net, sender: &Sender, cases: &[Case]) -> Vec<BTreeSet<char>> {
        let fence = *b"\x02fence";
        let mac = net.mac();
        sender.send(&ethernet(BROADCAST, fence, ethertype::EXPERIMENT, &fence));
        let up = |dev: &&ipvlan_tests::Dev| dev.ns.link(&dev.name).is_up();
        let wanted: BTreeSet<char> = match net.mode {
            Mode::L2 => "h01".chars().collect(),
            Mode::L3 | Mode::L3s => {
                for dev in net.devices.iter().filter(up) {
                    let udp = packet::udp4(LAN4, dev.v4, PORT, &fence);
                    sender.send(&ethernet(mac, fence, ethertype::IPV4, &udp));
                }
                "h01".chars().collect()
            }
        };
        let mut heard = Vec::new();
        let mut last = BTreeSet::new();
        let quiet = eventually(PATIENCE, || {
            for (who, bytes) in self.collect() {
                if bytes.windows(6).any(|six| six == fence) {
                    let _: bool = last.insert(who);
                }
                heard.push((who, bytes));
            }
            last.is_superset(&wanted)
        });
        assert!(quiet, "the last frame is heard by {wanted:?}: {last:?}");
        // Copies may come later than what is handed on at once.
        std::thread::sleep(Duration::from_millis(100));
        heard.extend(self.collect());
        let of = |tag: Mac| {
            let mine = heard
                .iter()
                .filter(|(_, bytes)| bytes.windows(6).any(|six| six == tag));
            mine.map(|(who, _)| *who).collect()
        };
        cases.iter().map(|case| of(case.tag)).collect()
    }
}

/// Two devices that are up, and a third that is configured and down.
fn with_one_down(mode: Mode) -> Net {
    let net = Net::new(mode).devices(3).build();
    let down = net.dev(2);
    down.ns.sh(&format!("ip link set {} down", down.name));
    // Row follow. Whatever is for nobody is heard by the parent's stack.
    let ear = Sniffer::behind(&net.host, "eth0", ethertype::IPV4);
    let sender = Sender::on(&net.lan, "lan0");
    let udp = packet::udp4(LAN4, down.v4, PORT, b"still there?");
    let frame = ethernet(net.mac(), FORGED, ethertype::IPV4, &udp);
    let gone = eventually(PATIENCE, || {
        sender.send(&frame);
        let passed = ear.find(Duration::from_millis(50), |seen| seen.bytes == frame);
        passed.is_some()
    });
    assert!(gone, "{mode}: a device that is down owns nothing");
    net
}

fn nd_frame(
    to: Mac,
    from: Mac,
    (source, destination): (Ipv6Addr, Ipv6Addr),
    kind: u8,
    target: Ipv6Addr,
) -> Vec<u8> {
    let message = icmpv6(source, destination, kind, &nd::body(kind, target, &[]));
    let packet = ipv6(source, destination, next::ICMPV6, &message);
    ethernet(to, from, ethertype::IPV6, &packet)
}

/// The matrix of who gets which frame.
fn ip_cases(table: &mut Table, net: &Net) {
    let mac = net.mac();
    let [one, down] = [net.dev(1), net.dev(2)];
    let four =
        |to: Mac, address| move |tag: Mac| v4(to, tag, &packet::udp4(LAN4, address, PORT, &tag));
    let six =
        |to: Mac, address| move |tag: Mac| v6(to, tag, &packet::udp6(LAN6, address, PORT, &tag));
    let h = [Same("h"); 3];
    let its = [Same("1"), Same("1"), Same("h1")];
    let all = [Same("h01"), Same("h"), Same("h")];
    table.add("IPv4 for a device", its, four(mac, one.v4));
    table.add("IPv6 for a device", its, six(mac, one.v6));
    table.add("IPv4 for the parent", h, four(mac, HOST4));
    table.add("IPv6 for the parent", h, six(mac, HOST6));
    table.add("IPv4 for nobody", h, four(mac, FREE4));
    table.add("IPv6 for nobody", h, six(mac, FREE6));
    table.add("IPv4 for a device that is down", h, four(mac, down.v4));
    table.add("IPv6 for a device that is down", h, six(mac, down.v6));
    table.add("127.0.0.1", h, four(mac, Ipv4Addr::LOCALHOST));
    let lan_broadcast = Ipv4Addr::new(10, 1, 0, 255);
    table.add("broadcast", all, four(BROADCAST, lan_broadcast));
    table.add(
        "limited broadcast",
        all,
        four(BROADCAST, Ipv4Addr::BROADCAST),
    );
    let hosts = Ipv4Addr::new(224, 0, 0, 1);
    table.add(
        "all hosts (everybody is a member)",
        all,
        four([1, 0, 0x5e, 0, 0, 1], hosts),
    );
    table.add(
        "all nodes (everybody is a member)",
        all,
        six(nd::group_mac(ALL_NODES), ALL_NODES),
    );
    let group = [
        Filter("multicast-filter", "h01", "h", "01"),
        Same("h"),
        Same("h"),
    ];
    let nobodys = Ipv4Addr::new(239, 5, 6, 7);
    table.add(
        "an IPv4 group without members",
        group,
        four([1, 0, 0x5e, 5, 6, 7], nobodys),
    );
    let nobodys: Ipv6Addr = "ff05::5:6".parse().expect("a group");
    table.add(
        "an IPv6 group without members",
        group,
        six(nd::group_mac(nobodys), nobodys),
    );
    // In l3s of the driver the stack takes it, whatever the MAC address says.
    let grouped = [
        Same("h01"),
        Differ("l3-group", "h", "1"),
        Differ("l3-group", "h", "h1"),
    ];
    table.add(
        "IPv4 for a device, to all by its MAC address",
        grouped,
        four(BROADCAST, one.v4),
    );
    let foreign = [
        Differ("foreign-mac", "h", "1"),
        Differ("foreign-mac", "h", "1"),
        Same("h"),
    ];
    table.add(
        "IPv4 for a device, foreign MAC address",
        foreign,
        four(FORGED, one.v4),
    );
    table.add(
        "IPv6 for a device, foreign MAC address",
        foreign,
        six(FORGED, one.v6),
    );
    let plain = |change: fn(&mut Vec<u8>)| {
        let address = one.v4;
        move |tag: Mac| {
            let mut packet = packet::udp4(LAN4, address, PORT, &tag);
            change(&mut packet);
            v4(mac, tag, &packet)
        }
    };
    // A checksum of the header that is wrong is for the receiver to find, and in l3s for the host.
    let looked_up = [Same("1"), Same("1"), Same("h")];
    table.add(
        "a wrong header checksum",
        looked_up,
        plain(|packet| packet[10] ^= 1),
    );
    let spent = [Same("1"), Same("1"), Differ("l3s-forwarding", "h", "h1")];
    table.add(
        "TTL 1",
        spent,
        plain(|packet| {
            packet[8] = 1;
            packet[10..12].fill(0);
            let sum = packet::checksum(&[&packet[..20]]);
            packet[10..12].copy_from_slice(&sum);
        }),
    );
    // Without the others, no socket hears of it.
    let piece = [Same("1"), Same("1"), Differ("l3s-forwarding", "h1", "h")];
    table.add(
        "a fragment that is not the first",
        piece,
        plain(|packet| {
            packet[6..8].copy_from_slice(&[0x20, 3]);
            packet[10..12].fill(0);
            let sum = packet::checksum(&[&packet[..20]]);
            packet[10..12].copy_from_slice(&sum);
        }),
    );
    for (what, change) in [
        ("IHL 4", (|packet| packet[0] = 0x44) as fn(&mut Vec<u8>)),
        ("version 5", |packet| packet[0] = 0x55),
        ("longer than the frame", |packet| packet[3] += 1),
        ("shorter than its header", |packet| packet[3] = 19),
        ("10 bytes of IPv4", |packet| packet.truncate(10)),
        ("nothing of IPv4", Vec::clear),
    ] {
        table.add(what, h, plain(change));
    }
    let whole = packet::udp6(LAN6, one.v6, PORT, b"");
    table.add("30 bytes of IPv6", h, |tag| v6(mac, tag, &whole[..30]));
    table.add("IPv6, version 7", h, |tag| {
        let mut packet = whole.clone();
        packet[0] = 0x70;
        v6(mac, tag, &packet)
    });
}

fn v4(to: Mac, from: Mac, packet: &[u8]) -> Vec<u8> {
    ethernet(to, from, ethertype::IPV4, packet)
}

fn v6(to: Mac, from: Mac, packet: &[u8]) -> Vec<u8> {
    ethernet(to, from, ethertype::IPV6, packet)
}

fn neighbour_cases(table: &mut Table, net: &Net) {
    let mac = net.mac();
    let one = net.dev(1);
    let arp = |to: Mac, operation, sender, target| {
        move |tag: Mac| {
            let payload = packet::arp(operation, (tag, sender), ([0; 6], target));
            ethernet(to, tag, ethertype::ARP, &payload)
        }
    };
    let zero = Ipv4Addr::UNSPECIFIED;
    let h = [Same("h"); 3];
    let all = [Same("h01"), Same("h"), Same("h")];
    let asked = [
        Differ("question", "1", "h01"),
        Differ("l3-arp", "h", "1"),
        Same("h"),
    ];
    let asked_another = [Differ("question", "h", "h01"), Same("h"), Same("h")];
    let its = [Same("1"), Differ("l3-arp", "h", "1"), Same("h")];
    for (what, sender) in [("question", FREE4), ("probe", zero)] {
        table.add(
            &format!("ARP {what} for a device"),
            asked,
            arp(BROADCAST, 1, sender, one.v4),
        );
    }
    for (what, target) in [
        ("the parent", HOST4),
        ("nobody", Ipv4Addr::new(10, 1, 0, 201)),
        ("a device that is down", net.dev(2).v4),
    ] {
        table.add(
            &format!("ARP question for {what}"),
            asked_another,
            arp(BROADCAST, 1, FREE4, target),
        );
    }
    table.add(
        "ARP probe for an address that is free",
        all,
        arp(BROADCAST, 1, zero, Ipv4Addr::new(10, 1, 0, 202)),
    );
    for (what, operation) in [("request", 1), ("reply", 2)] {
        table.add(
            &format!("unicast ARP {what} for a device"),
            its,
            arp(mac, operation, FREE4, one.v4),
        );
        table.add(
            &format!("unicast ARP {what} for the parent"),
            h,
            arp(mac, operation, FREE4, HOST4),
        );
        table.add(
            &format!("ARP announcement, {what}"),
            all,
            arp(BROADCAST, operation, FREE4, FREE4),
        );
    }
    table.add(
        "answer to an ARP probe",
        [Differ("probe-answer", "h01", "h"), Same("h"), Same("h")],
        arp(mac, 2, FREE4, zero),
    );
    for (what, to, who) in [
        ("ARP cut short", mac, h),
        ("ARP cut short, to all", BROADCAST, all),
    ] {
        table.add(what, who, |tag| {
            let payload = packet::arp(1, (tag, FREE4), ([0; 6], one.v4));
            ethernet(to, tag, ethertype::ARP, &payload[..20])
        });
    }
    let group = nd::solicited_node(one.v6);
    let to_group = nd::group_mac(group);
    let solicited = [Filter("question", "1", "h1", "0"), Same("h"), Same("h")];
    table.add("solicitation for a device", solicited, |tag| {
        nd_frame(to_group, tag, (FREE6, group), nd::NS, one.v6)
    });
    table.add(
        "solicitation by duplicate address detection",
        [
            Filter("question", "1", "h1", "0"),
            Differ("l3-group", "h", "1"),
            Same("h"),
        ],
        |tag| {
            let between = (Ipv6Addr::UNSPECIFIED, group);
            nd_frame(to_group, tag, between, nd::NS, one.v6)
        },
    );
    table.add(
        "unicast solicitation for a device",
        [Same("1"), Same("1"), Same("h")],
        |tag| nd_frame(mac, tag, (FREE6, one.v6), nd::NS, one.v6),
    );
    table.add(
        "solicitation by duplicate address detection, unicast by its MAC address",
        [Same("1"), Differ("l3-group", "h", "1"), Same("h")],
        |tag| {
            let between = (Ipv6Addr::UNSPECIFIED, group);
            nd_frame(mac, tag, between, nd::NS, one.v6)
        },
    );
    table.add(
        "duplicate address detection for an address that is free",
        [
            Filter("multicast-filter", "h01", "h", "01"),
            Same("h"),
            Same("h"),
        ],
        |tag| {
            let group = nd::solicited_node(FREE6);
            let between = (Ipv6Addr::UNSPECIFIED, group);
            nd_frame(nd::group_mac(group), tag, between, nd::NS, FREE6)
        },
    );
    for (what, kind) in [("advertisement", nd::NA), ("router advertisement", nd::RA)] {
        table.add(&format!("{what} to all nodes"), all, |tag| {
            let to = nd::group_mac(ALL_NODES);
            nd_frame(to, tag, (FREE6, ALL_NODES), kind, FREE6)
        });
    }
}

fn other_cases(table: &mut Table, net: &Net) {
    let mac = net.mac();
    let [zero, one] = [net.dev(0), net.dev(1)];
    let h = [Same("h"); 3];
    let all = [Same("h01"), Same("h"), Same("h")];
    for (what, to, kind, who) in [
        ("another EtherType", mac, ethertype::EXPERIMENT, h),
        (
            "another EtherType, foreign MAC address",
            FORGED,
            ethertype::EXPERIMENT,
            h,
        ),
        (
            "another EtherType to all",
            BROADCAST,
            ethertype::EXPERIMENT,
            all,
        ),
        (
            "another EtherType to a group",
            nd::group_mac(ALL_NODES),
            ethertype::EXPERIMENT,
            all,
        ),
        ("PAUSE", [1, 0x80, 0xc2, 0, 0, 1], PAUSE, h),
        ("PAUSE, unicast", mac, PAUSE, h),
        (
            "LLDP",
            [1, 0x80, 0xc2, 0, 0, 14],
            LLDP,
            [
                Filter("multicast-filter", "h", "h", "01"),
                Same("h"),
                Same("h"),
            ],
        ),
    ] {
        table.add(what, who, |tag| ethernet(to, tag, kind, &tag));
    }
    // Tags. The kernel takes the tag out before anybody looks, so the stack hears IPv4.
    let inside = |tag: Mac| packet::udp4(LAN4, one.v4, PORT, &tag);
    let tagged = |to: Mac, outer: u16, id: u16, tag: Mac| {
        let payload = [
            &id.to_be_bytes()[..],
            &ethertype::IPV4.to_be_bytes(),
            &inside(tag),
        ];
        ethernet(to, tag, outer, &payload.concat())
    };
    let stays = [
        Differ("vlan-tag", "h", "1"),
        Differ("vlan-tag", "h", "1"),
        Same("h"),
    ];
    for kind in [ethertype::VLAN, 0x88a8] {
        table.add(&format!("VLAN 10 by {kind:x}"), stays, |tag| {
            tagged(mac, kind, 10, tag)
        });
    }
    table.add(
        "VLAN 10 to all",
        [
            Differ("vlan-tag", "h", "h01"),
            Differ("vlan-tag", "h", "1"),
            Same("h"),
        ],
        |tag| tagged(BROADCAST, ethertype::VLAN, 10, tag),
    );
    table.add(
        "VLAN 0, which is a priority",
        [Same("1"), Same("1"), Same("h1")],
        |tag| tagged(mac, ethertype::VLAN, 0xe000, tag),
    );
    // What we sent ourselves, and a switch sent back.
    let reflected = [Differ("reflection", "h", "h01"), Same("h"), Same("h")];
    let arp = |sender: Ipv4Addr, target, tag: Mac| {
        let mut payload = packet::arp(1, (mac, sender), ([0; 6], target));
        payload.extend(tag);
        ethernet(BROADCAST, mac, ethertype::ARP, &payload)
    };
    table.add("a device's ARP question, reflected", h, |tag| {
        arp(zero.v4, FREE4, tag)
    });
    table.add("an ARP probe, reflected", reflected, |tag| {
        arp(Ipv4Addr::UNSPECIFIED, FREE4, tag)
    });
    table.add("the parent's ARP question, reflected", reflected, |tag| {
        arp(HOST4, FREE4, tag)
    });
    let udp = |source, destination, tag: Mac| {
        v4(
            BROADCAST,
            mac,
            &packet::udp4(source, destination, PORT, &tag),
        )
    };
    table.add("a device's broadcast, reflected", h, |tag| {
        udp(zero.v4, Ipv4Addr::new(10, 1, 0, 255), tag)
    });
    table.add("a DHCP client's broadcast, reflected", reflected, |tag| {
        udp(Ipv4Addr::UNSPECIFIED, Ipv4Addr::BROADCAST, tag)
    });
    table.add(
        "from a sibling, by way of a switch that sends it back",
        [Same("1"), Same("1"), Same("h1")],
        |tag| v4(mac, mac, &packet::udp4(zero.v4, one.v4, PORT, &tag)),
    );
    // Nothing inside of a tunnel is looked at.
    table.add("IPv4 in IPv4 for the parent", h, |tag| {
        v4(mac, tag, &ipv4(LAN4, HOST4, 4, &inside(tag)))
    });
}

fn everything(mode: Mode) {
    let net = with_one_down(mode);
    net.host.sh("ip link set eth0 promisc on");
    let ears = Ears::on(&net);
    let mut table = Table::new(mode);
    ip_cases(&mut table, &net);
    neighbour_cases(&mut table, &net);
    other_cases(&mut table, &net);
    table.run(&net, &ears);
    for address in net.dev(1).addresses() {
        assert!(net.lan.reaches(&address), "{mode}: it did no harm");
    }
}

#[test]
fn who_gets_which_frame_in_l2() {
    everything(Mode::L2);
}

#[test]
fn who_gets_which_frame_in_l3() {
    everything(Mode::L3);
}

#[test]
fn who_gets_which_frame_in_l3s() {
    everything(Mode::L3s);
}

#[test]
fn a_group_is_heard_by_its_members() {
    let net = Net::new(Mode::L2).devices(2).build();
    net.lan.sh("ip route add 239.0.0.0/8 dev lan0");
    let scope = net.lan.index("lan0");
    for (group, mac) in [
        ("239.1.2.3", "01:00:5e:01:02:03"),
        ("ff05::1:3", "33:33:00:01:00:03"),
    ] {
        let group: IpAddr = group.parse().expect("a group");
        let [other, member] = [0, 1].map(|number| Ear::on(&net.dev(number).ns, group));
        let mouth = Ear::on(&net.lan, group);
        mouth.say(group, scope, b"too early");
        member.join(&net.dev(1).ns, group, "ipvl1");
        let heard = eventually(PATIENCE, || {
            mouth.say(group, scope, b"to members");
            member
                .hears(b"to members", Duration::from_millis(50))
                .is_some()
        });
        assert!(heard, "a member of {group} hears it");
        let heard = other.hears(b"to members", Duration::from_millis(300));
        assert_eq!(heard, None, "its sibling does not");
        // What makes a parent that is a real network card let the group in.
        let at_parent = if Backend::is_ours() {
            net.host.read("ip -d link show eth0").contains("allmulti 1")
        } else {
            net.host.read("ip maddr show dev eth0").contains(mac)
        };
        assert!(at_parent, "the parent lets {mac} in");
        drop(member);
        let stranger = Ear::on(&net.dev(1).ns, group);
        mouth.say(group, scope, b"too late");
        let heard = stranger.hears(b"too late", Duration::from_millis(300));
        assert_eq!(heard, None, "who has left does not hear {group} any more");
    }
}

#[test]
fn groups_that_nobody_joined() {
    const GROUPS: u8 = 32;
    let net = Net::new(Mode::L2).devices(2).build();
    let sender = Sender::on(&net.lan, "lan0");
    let lan = net.lan.mac("lan0");
    let host = Sniffer::behind(&net.host, "eth0", ethertype::EXPERIMENT);
    let taps = [0, 1].map(|number| Sniffer::on(&net.dev(number).ns, &net.dev(number).name));
    // How many of them each device hears, once it has heard a broadcast that comes behind them.
    let heard = |groups: &[Mac], what: &[u8]| {
        for group in groups.iter().chain([&BROADCAST]) {
            sender.send(&ethernet(*group, lan, ethertype::EXPERIMENT, what));
        }
        let count = |ear: &Sniffer| {
            let mut count = 0;
            let last = ear.find(PATIENCE, |seen| {
                let ours = !seen.outgoing && seen.contains(what);
                count += usize::from(ours);
                ours && seen.destination() == BROADCAST
            });
            assert!(last.is_some(), "everybody hears a broadcast");
            count - 1
        };
        assert_eq!(count(&host), groups.len(), "the parent's stack hears all");
        [count(&taps[0]), count(&taps[1])]
    };
    let random: Vec<Mac> = (0..GROUPS)
        .map(|number| [1, 0, 0x5e, 0x33, number, number.wrapping_mul(77)])
        .collect();
    let all = random.len();
    // The driver's filter has 256 bits, of which a device that joined nothing has a few.
    let few = |counts: [usize; 2]| counts.iter().all(|count| *count <= all / 4);
    let counts = heard(&random, b"nobody joined");
    assert!(
        differs("multicast-filter", counts == [all; 2], few(counts)),
        "multicast that nobody wants: {counts:?} of {all}"
    );
    // Spanning tree and its like are between the switch and the parent.
    let reserved: Vec<Mac> = (0..16).map(|last| [1, 0x80, 0xc2, 0, 0, last]).collect();
    let counts = heard(&reserved, b"for bridges");
    assert!(
        differs("bridge-groups", counts == [0; 2], few(counts)),
        "01:80:c2:00:00:0x: {counts:?} of 16"
    );
    net.dev(0).ns.sh("ip link set ipvl0 promisc on");
    let counts = heard(&random, b"promiscuous");
    assert_eq!(counts[0], all, "a promiscuous device hears all groups");
    let counts = heard(&reserved, b"and for bridges");
    assert_eq!(
        counts[0],
        differs("bridge-groups", 0, reserved.len()),
        "01:80:c2:00:00:0x, promiscuous"
    );
}

#[test]
fn what_the_host_sends_to_all_is_for_the_wire() {
    for mode in [Mode::L2, Mode::L3, Mode::L3s] {
        let net = Net::new(mode).devices(2).build();
        net.host.sh("ip route add 239.0.0.0/8 dev eth0");
        let wire = Sniffer::on(&net.lan, "lan0");
        let taps = [0, 1].map(|number| Sniffer::on(&net.dev(number).ns, &net.dev(number).name));
        let scope = net.host.index("eth0");
        let groups = ["10.1.0.255", "239.1.2.3", "ff05::1:3", "ff02::1"];
        for group in groups {
            let to: IpAddr = group.parse().expect("an address");
            let host = Ear::on(&net.host, to);
            if to.is_multicast() {
                // A member hears itself: the stack sends the packet through the parent's receive
                // path, without an Ethernet header.
                host.join(&net.host, to, "eth0");
            }
            host.say(to, scope, group.as_bytes());
            let found = wire.find(PATIENCE, |seen| seen.contains(group.as_bytes()));
            assert!(found.is_some(), "{mode}: {group} is on the wire");
            if to.is_multicast() {
                let heard = host.hears(group.as_bytes(), PATIENCE);
                assert!(heard.is_some(), "{mode}: the host hears itself: {group}");
            }
        }
        for tap in taps {
            let mut heard = tap.heard();
            heard.retain(|seen| groups.iter().any(|group| seen.contains(group.as_bytes())));
            assert!(heard.is_empty(), "{mode}: devices hear it: {heard:?}");
        }
    }
}
