//! What a hostile device may try: to be served as somebody else, and to be somebody's server.

use std::net::{Ipv4Addr, Ipv6Addr};
use std::time::Duration;

use ipvlan_tests::packet::{
    BROADCAST, FORGED, Mac, ethernet, ethertype, fragment_header, ipv4, ipv6, mac, nd, next,
    padding_header, udp4, udp6,
};
use ipvlan_tests::sniff::Sender;
use ipvlan_tests::{LAN4, LAN6, Mode, Net, PATIENCE, Seen, Sniffer, differs};

const SERVER: u16 = 67;
const CLIENT: u16 = 68;
const SERVER6: u16 = 547;
const CLIENT6: u16 = 546;
const NOBODY: Ipv4Addr = Ipv4Addr::UNSPECIFIED;
const EVERYBODY: Ipv4Addr = Ipv4Addr::BROADCAST;
const SERVERS6: Ipv6Addr = Ipv6Addr::new(0xff02, 0, 0, 0, 0, 0, 1, 2);
const QUIET: Duration = Duration::from_millis(300);

/// In the 10 bytes behind the hardware address, which nobody looks at.
const MARK: &[u8; 10] = b"ipvlantest";

/// A message of DHCPv4.
fn bootp(op: u8, relay: Ipv4Addr, hardware: Mac, options: &[u8]) -> Vec<u8> {
    let mut message = vec![op, 1, 6, 0, 1, 2, 3, 4];
    message.extend([0; 16]);
    message.extend(relay.octets());
    message.extend(hardware);
    message.extend(MARK);
    message.extend([0; 64 + 128]);
    message.extend([99, 130, 83, 99]);
    message.extend(options);
    message
}

fn request(hardware: Mac, options: &[u8]) -> Vec<u8> {
    bootp(1, NOBODY, hardware, options)
}

/// Option 61 with an Ethernet address.
fn client_id(of: Mac) -> Vec<u8> {
    [&[61, 7, 1][..], &of].concat()
}

/// The options of DHCPv6 that say who: a DUID of this address, behind one that nobody knows.
fn duid(of: Mac) -> Vec<u8> {
    [&[0, 99, 0, 10][..], MARK, &[0, 1, 0, 10, 0, 3, 0, 1], &of].concat()
}

fn solicit(of: Mac) -> Vec<u8> {
    [&[1, 7, 7, 7][..], &duid(of)].concat()
}

/// ns0 attacks, ns1 is attacked.
struct Attack {
    net: Net,
    sender: Sender,
    wire: Sniffer,
    victim: Sniffer,
    /// What servers know the two by.
    identities: [Mac; 2],
}

impl Attack {
    fn new() -> Self {
        let net = Net::new(Mode::L2).devices(2).build();
        let identities = [0, 1].map(|number: u16| {
            if !ipvlan_tests::Backend::is_ours() {
                return net.mac();
            }
            let shown = net.look(&net.dev(number).ns, &net.dev(number).name);
            let identity = shown["ipvlan"]["dhcp_identity"].as_str();
            mac(identity.expect("an identity"))
        });
        Self {
            sender: Sender::on(&net.dev(0).ns, "ipvl0"),
            wire: Sniffer::on(&net.lan, "lan0"),
            victim: Sniffer::on(&net.dev(1).ns, "ipvl1"),
            identities,
            net,
        }
    }

    /// A frame of the attacker's.
    fn frame(&self, to: Mac, kind: u16, packet: &[u8]) -> Vec<u8> {
        ethernet(to, self.net.mac(), kind, packet)
    }

    /// What of it comes to the wire.
    fn on_wire(&self, frame: &[u8]) -> Option<Seen> {
        let _: Vec<Seen> = self.wire.drain(Duration::ZERO);
        // Dropped, it may be that the sender is told.
        let _: Result<(), _> = self.sender.try_send(frame);
        self.wire
            .find(QUIET, |seen| !seen.outgoing && seen.contains(MARK))
    }

    /// Comes to the wire as the attacker's, and as nobody else's.
    #[track_caller]
    fn is_named(&self, what: &str, frame: &[u8]) {
        let seen = self.on_wire(frame);
        let seen = seen.unwrap_or_else(|| panic!("{what}: not on the wire"));
        let [own, others] = self.identities;
        if differs("dhcp", true, false) {
            assert!(seen.contains(&own), "{what}: {seen:?}");
            assert!(!seen.contains(&others), "{what}: {seen:?}");
        } else {
            assert_eq!(seen.bytes, frame, "{what}");
        }
    }

    #[track_caller]
    fn is_dropped(&self, what: &str, frame: &[u8]) {
        let seen = self.on_wire(frame);
        assert_eq!(
            seen.is_none(),
            differs("dhcp", true, false),
            "{what}: {seen:?}"
        );
    }

    /// The victim hears it from the LAN (that is the sign of life), but not from the attacker.
    #[track_caller]
    fn is_heard_from_lan_only(&self, what: &str, to: [Mac; 2], kind: u16, packet: &[u8]) {
        let lan = Sender::on(&self.net.lan, "lan0");
        let mark = |seen: &Seen| !seen.outgoing && seen.contains(MARK);
        lan.send(&ethernet(to[0], self.net.lan.mac("lan0"), kind, packet));
        assert!(
            self.victim.find(PATIENCE, mark).is_some(),
            "{what}: a server's message arrives"
        );
        let _: Result<(), _> = self.sender.try_send(&self.frame(to[1], kind, packet));
        let heard = self.victim.find(QUIET, mark);
        let from_sibling = differs("dhcp-server", false, true);
        assert_eq!(heard.is_some(), from_sibling, "{what}: {heard:?}");
    }
}

#[test]
fn nobody_asks_as_another() {
    let attack = Attack::new();
    let [_, others] = attack.identities;
    let frame = |message: &[u8]| {
        let packet = udp4(NOBODY, EVERYBODY, SERVER, message);
        attack.frame(BROADCAST, ethertype::IPV4, &packet)
    };
    let kinds: [(&str, &[u8]); 3] = [
        ("DISCOVER", &[53, 1, 1]),
        ("REQUEST", &[53, 1, 3]),
        ("RELEASE", &[53, 1, 7]),
    ];
    for (what, kind) in kinds {
        let options = [kind, &client_id(others), &[255]].concat();
        attack.is_named(what, &frame(&request(others, &options)));
        let options = [kind, &[255]].concat();
        attack.is_named(what, &frame(&request(others, &options)));
        let shorter = [kind, &[0, 0, 0], &client_id(others)].concat();
        attack.is_named("no end", &frame(&request(FORGED, &shorter)));
    }
    // To the server itself, from an address that somebody else has.
    let message = request(
        others,
        &[&[53, 1, 7][..], &client_id(others), &[255]].concat(),
    );
    let packet = udp4(attack.net.dev(1).v4, LAN4, SERVER, &message);
    let lan = attack.net.lan.mac("lan0");
    attack.is_named("unicast", &attack.frame(lan, ethertype::IPV4, &packet));
    // BOOTP, without options.
    let mut message = request(others, &[]);
    message[236..240].fill(0);
    attack.is_named("BOOTP", &frame(&message));
}

#[test]
fn nobody_asks_as_another_in_dhcpv6() {
    let attack = Attack::new();
    let [_, others] = attack.identities;
    let source = attack.net.dev(0).v6;
    let group = nd::group_mac(SERVERS6);
    let packet = udp6(source, SERVERS6, SERVER6, &solicit(others));
    attack.is_named("SOLICIT", &attack.frame(group, ethertype::IPV6, &packet));
    let packet = udp6(source, LAN6, SERVER6, &solicit(others));
    let lan = attack.net.lan.mac("lan0");
    attack.is_named("unicast", &attack.frame(lan, ethertype::IPV6, &packet));
}

#[test]
fn what_could_hide_an_identifier_does_not_leave() {
    let attack = Attack::new();
    let [_, others] = attack.identities;
    let broadcast = |packet: &[u8]| attack.frame(BROADCAST, ethertype::IPV4, packet);
    let message = |options: &[u8]| udp4(NOBODY, EVERYBODY, SERVER, &request(others, options));
    let id = client_id(others);
    // Plain, it does leave.
    attack.is_named("plain", &broadcast(&message(&[&id[..], &[255]].concat())));

    attack.is_dropped(
        "two identifiers",
        &broadcast(&message(&[&id[..], &id, &[255]].concat())),
    );
    attack.is_dropped(
        "overloaded",
        &broadcast(&message(&[&[52, 1, 3][..], &id, &[255]].concat())),
    );
    let far = [&[0; 100][..], &id, &[255]].concat();
    attack.is_dropped("far behind padding", &broadcast(&message(&far)));
    let relayed = bootp(1, attack.net.dev(0).v4, others, &id);
    attack.is_dropped(
        "a relay's",
        &broadcast(&udp4(NOBODY, EVERYBODY, SERVER, &relayed)),
    );
    let mut first = message(&[255]);
    first[6] |= 0x20;
    attack.is_dropped("the first fragment", &broadcast(&first));
    // 4 bytes of IP options: no operation.
    let plain = message(&id);
    let mut longer = ipv4(
        NOBODY,
        EVERYBODY,
        next::UDP,
        &[&[1; 4][..], &plain[20..]].concat(),
    );
    longer[0] = 0x46;
    attack.is_dropped("behind IP options", &broadcast(&longer));
}

#[test]
fn what_could_hide_a_duid_does_not_leave() {
    let attack = Attack::new();
    let [_, others] = attack.identities;
    let source = attack.net.dev(0).v6;
    let group = nd::group_mac(SERVERS6);
    let frame = |packet: &[u8]| attack.frame(group, ethertype::IPV6, packet);
    let plain = udp6(source, SERVERS6, SERVER6, &solicit(others));
    attack.is_named("plain", &frame(&plain));

    let datagram = &plain[40..];
    let behind = |first: u8, header: &[u8]| {
        frame(&ipv6(source, SERVERS6, first, &[header, datagram].concat()))
    };
    let padding = padding_header(next::UDP, 1);
    attack.is_dropped("behind options", &behind(next::DESTINATION, &padding));
    attack.is_dropped(
        "behind options of hops",
        &behind(next::HOP_BY_HOP, &padding),
    );
    let fragment = fragment_header(next::UDP, 0, true);
    attack.is_dropped("the first fragment", &behind(next::FRAGMENT, &fragment));
    let atomic = fragment_header(next::UDP, 0, false);
    attack.is_dropped("a fragment of one", &behind(next::FRAGMENT, &atomic));
    let message = [solicit(others), duid(others)].concat();
    attack.is_dropped(
        "two DUIDs",
        &frame(&udp6(source, SERVERS6, SERVER6, &message)),
    );
    let relayed = [&[12, 0][..], &[0; 32], &[0, 9, 0, 20], &solicit(others)].concat();
    attack.is_dropped(
        "a relay's",
        &frame(&udp6(source, SERVERS6, SERVER6, &relayed)),
    );
}

#[test]
fn a_sibling_is_not_a_server() {
    let attack = Attack::new();
    let [_, victim] = attack.identities;
    let own = attack.net.mac();
    let address = attack.net.dev(1).v4;
    // What the victim's client wrote there itself, and would believe.
    for hardware in [victim, own] {
        let options = [53, 1, 5, 3, 4, 10, 1, 0, 200, 255];
        let offer = bootp(2, NOBODY, hardware, &options);
        let packet = udp4(LAN4, EVERYBODY, CLIENT, &offer);
        // The host's own client is who the parent's address names in what comes from the wire.
        if hardware == victim {
            let to = [BROADCAST, BROADCAST];
            attack.is_heard_from_lan_only("broadcast", to, ethertype::IPV4, &packet);
        }
        let packet = udp4(LAN4, address, CLIENT, &offer);
        attack.is_heard_from_lan_only("unicast", [own, own], ethertype::IPV4, &packet);
        attack.is_heard_from_lan_only(
            "broadcast frame",
            [own, BROADCAST],
            ethertype::IPV4,
            &packet,
        );
    }
    let advertise = [&[2, 7, 7, 7][..], &duid(victim)].concat();
    let packet = udp6(LAN6, attack.net.dev(1).v6, CLIENT6, &advertise);
    attack.is_heard_from_lan_only("DHCPv6", [own, own], ethertype::IPV6, &packet);
}

#[test]
fn a_device_may_serve_the_lan() {
    let attack = Attack::new();
    let offer = bootp(2, NOBODY, FORGED, &[53, 1, 2, 255]);
    let packet = udp4(attack.net.dev(0).v4, EVERYBODY, CLIENT, &offer);
    let frame = attack.frame(BROADCAST, ethertype::IPV4, &packet);
    assert!(attack.on_wire(&frame).is_some(), "an offer");
    let asked = udp4(
        NOBODY,
        EVERYBODY,
        SERVER,
        &request(FORGED, &[53, 1, 1, 255]),
    );
    let ears = Sniffer::on(&attack.net.dev(0).ns, "ipvl0");
    let lan = Sender::on(&attack.net.lan, "lan0");
    let source = attack.net.lan.mac("lan0");
    lan.send(&ethernet(BROADCAST, source, ethertype::IPV4, &asked));
    let heard = ears.find(PATIENCE, |seen| seen.contains(MARK));
    let heard = heard.expect("a client's question");
    assert!(heard.contains(&FORGED), "as it was: {heard:?}");
}
