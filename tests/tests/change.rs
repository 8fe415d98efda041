//! Mode and flag change while devices are in use: what goes on, what is told to whom.

#![expect(
    clippy::expect_used,
    reason = "clippy knows a test by its attribute, not the functions beside it"
)]

use std::io::{ErrorKind, Read as _, Write as _};
use std::net::{IpAddr, TcpStream};
use std::time::Duration;

use ipvlan_tests::{
    Backend, Mode, Net, Ns, PATIENCE, differs, eventually, prepare_for_l3s, traffic,
};

/// An established connection.
struct Talk {
    what: String,
    ends: [TcpStream; 2],
}

impl Talk {
    #[track_caller]
    fn new(server: &Ns, address: IpAddr, client: &Ns) -> Self {
        let listener = traffic::listen(server, address);
        let near = traffic::connect(client, address).expect("a connection");
        let (far, _) = listener.accept().expect("a connection");
        let ends = [near, far];
        for end in &ends {
            end.set_nodelay(true).expect("TCP_NODELAY");
        }
        let what = format!("{} to {address}", client.name());
        Self { what, ends }
    }

    /// Each end says something longer than a frame, and the other hears it, within `timeout`.
    fn goes_on(&mut self, timeout: Duration) -> bool {
        let [near, far] = &mut self.ends;
        passes(near, far, timeout) && passes(far, near, timeout)
    }

    /// Nothing is said, for a moment, that the other end hears.
    fn rests(&mut self) -> bool {
        let [near, far] = &mut self.ends;
        near.write_all(b"?").expect("room in the buffer");
        far.set_read_timeout(Some(Duration::from_millis(300)))
            .expect("a timeout");
        far.read_exact(&mut [0]).is_err()
    }

    /// What [`Self::rests`] said arrives after all.
    fn resumes(&mut self) -> bool {
        let [_, far] = &mut self.ends;
        far.set_read_timeout(Some(PATIENCE)).expect("a timeout");
        far.read_exact(&mut [0]).is_ok()
    }
}

fn passes(from: &mut TcpStream, to: &mut TcpStream, timeout: Duration) -> bool {
    let said = vec![0x5a; 20_000];
    from.write_all(&said).expect("room in the buffer");
    to.set_read_timeout(Some(timeout)).expect("a timeout");
    match to.read_exact(&mut vec![0; said.len()]) {
        Ok(()) => true,
        Err(error) if error.kind() == ErrorKind::WouldBlock => false,
        Err(error) => panic!("{from:?}: {error}"),
    }
}

fn address(text: &str) -> IpAddr {
    text.parse().expect("an address")
}

/// Through a device in another namespace than the caller's, which any of them will do for.
#[track_caller]
fn set(net: &Net, words: &str) {
    net.ip(
        &net.dev(0).ns,
        &format!("link set dev ipvl0 type ipvlan {words}"),
    )
    .expect_quiet();
}

/// One to a sibling and one to the LAN, of each family.
fn talks(net: &Net) -> Vec<Talk> {
    let [v4, v6] = net.dev(1).addresses();
    let siblings = [v4, v6].map(|to| Talk::new(&net.dev(1).ns, address(&to), &net.dev(0).ns));
    let lan =
        ["10.1.0.254", "fd00::254"].map(|to| Talk::new(&net.lan, address(to), &net.dev(0).ns));
    siblings.into_iter().chain(lan).collect()
}

fn modes_change_under(modes: &[&str]) {
    let net = Net::new(Mode::L2).devices(2).build();
    prepare_for_l3s(&net.host);
    let mut talks = talks(&net);
    for mode in modes {
        set(&net, &format!("mode {mode} bridge"));
        for talk in &mut talks {
            assert!(talk.goes_on(PATIENCE), "{mode}: {}", talk.what);
        }
    }
}

#[test]
fn connections_outlive_a_change_between_l2_and_l3() {
    modes_change_under(&["l2", "l3", "l2", "l3", "l2"]);
}

#[test]
fn connections_outlive_a_change_to_l3s_and_back() {
    modes_change_under(&["l3", "l3s", "l3", "l3s", "l2", "l3s", "l2"]);
}

#[test]
fn connections_outlive_a_change_of_the_flag() {
    for mode in ["l2", "l3"] {
        let net = Net::new(Mode::L2).devices(2).build();
        let mut talks = talks(&net);
        set(&net, &format!("mode {mode} bridge"));
        for flag in ["private", "vepa"] {
            set(&net, &format!("mode {mode} {flag}"));
            let (siblings, lan) = talks.split_at_mut(2);
            for talk in &mut *lan {
                assert!(talk.goes_on(PATIENCE), "{mode} {flag}: {}", talk.what);
            }
            for talk in &mut *siblings {
                assert!(
                    talk.rests(),
                    "{mode} {flag}: siblings have no way: {}",
                    talk.what
                );
            }
            set(&net, &format!("mode {mode} bridge"));
            for talk in &mut *siblings {
                assert!(talk.resumes(), "{mode}, after {flag}: {}", talk.what);
                assert!(
                    talk.goes_on(PATIENCE),
                    "{mode}, after {flag}: {}",
                    talk.what
                );
            }
        }
    }
}

#[test]
fn a_change_while_a_device_is_down_holds_when_it_comes_up() {
    let net = Net::new(Mode::L2).devices(2).build();
    let ns = &net.dev(1).ns;
    ns.sh("ip link set dev ipvl1 down");
    set(&net, "mode l3 private");
    set(&net, "mode l2 private");
    ns.sh("ip link set dev ipvl1 up");
    ns.batch("route add default via 10.1.0.254 dev ipvl1\n");
    assert!(net.lan.reaches("10.1.0.11"), "it works");
    assert!(!net.dev(0).ns.answers("10.1.0.11"), "and is private");
    set(&net, "mode l2 bridge");
    assert!(net.dev(0).ns.reaches("10.1.0.11"));
}

#[test]
fn what_has_no_carrier_at_the_change_is_found_when_it_has() {
    let net = Net::new(Mode::L3).devices(1).build();
    let dev = net.dev(0);
    // It comes in l3, where a device joins no group to be asked in.
    dev.ns.sh("ip addr add fd00::77/64 dev ipvl0 nodad");
    net.lan.sh("ip link set lan0 down");
    assert!(
        eventually(PATIENCE, || dev
            .ns
            .read("ip link show ipvl0")
            .contains("NO-CARRIER")),
        "the device follows its parent"
    );
    set(&net, "mode l2");
    net.lan
        .batch("link set lan0 up\naddr replace fd00::254/64 dev lan0 nodad\n");
    let groups = || dev.ns.read("ip maddr show dev ipvl0");
    let joined = || eventually(PATIENCE, || groups().contains("ff02::1:ff00:77"));
    assert_eq!(joined(), differs("groups", true, false), "{}", groups());
    if joined() {
        assert!(net.lan.reaches("fd00::77"), "{}", groups());
    }
}

/// What `ip monitor` tells in `ns` of `name` while `f` runs.
fn told(ns: &Ns, name: &str, f: impl FnOnce()) -> Vec<String> {
    let monitor = ns.spawn("ip -d -o monitor link");
    let pid = monitor.pid().to_string();
    // Third column: port number, here the process; fourth: groups.
    let listens = || {
        ns.read("cat /proc/net/netlink").lines().any(|line| {
            let words: Vec<&str> = line.split_whitespace().collect();
            words.get(2) == Some(&pid.as_str()) && words.get(3) != Some(&"00000000")
        })
    };
    assert!(eventually(PATIENCE, listens), "ip monitor listens");
    f();
    // Whatever was to come came before this.
    std::thread::sleep(Duration::from_millis(300));
    ns.sh("ip link set dev lo alias end");
    std::thread::sleep(Duration::from_millis(300));
    let text = monitor.interrupt();
    assert!(text.contains("alias end"), "it listened to the end: {text}");
    text.lines()
        .filter(|line| line.contains(&format!(" {name}@")))
        .map(str::to_owned)
        .collect()
}

#[test]
fn who_listens_beside_another_device_is_told_of_what_changes_there() {
    let net = Net::new(Mode::L2).devices(2).build();
    prepare_for_l3s(&net.host);
    let ns = &net.dev(1).ns;
    let heard = told(ns, "ipvl1", || set(&net, "mode l3"));
    let last = heard.last().expect("it has no ARP any more, and says so");
    assert!(last.contains("NOARP"), "{last}");
    if !Backend::is_ours() {
        assert!(last.contains("mode l2"), "the driver is early: {last}");
    }
    let heard = told(ns, "ipvl1", || set(&net, "mode l2"));
    let last = heard.last().expect("it has ARP again, and says so");
    assert!(!last.contains("NOARP"), "{last}");
    let heard = told(ns, "ipvl1", || {
        set(&net, "mode l2 private");
        set(&net, "mode l2 bridge");
    });
    assert_eq!(heard, [""; 0], "of the device itself nothing has changed");
    set(&net, "mode l3");
    let heard = told(ns, "ipvl1", || {
        set(&net, "mode l3s");
        set(&net, "mode l3");
    });
    assert_eq!(heard, [""; 0], "nor here");
}

#[test]
fn the_parent_s_mtu_reaches_the_devices_and_those_who_listen() {
    let mut net = Net::new(Mode::L2).devices(1).build();
    let second = net.add();
    net.dev(second).ns.sh("ip link set dev ipvl1 mtu 9000 up");
    let ns = &net.dev(second).ns;
    let v6 = || ns.read("cat /proc/sys/net/ipv6/conf/ipvl1/mtu");
    assert_eq!(v6().trim(), "9000");
    let heard = told(ns, "ipvl1", || {
        net.host.sh("ip link set dev eth0 mtu 1300");
        assert!(eventually(PATIENCE, || ns.link("ipvl1").mtu == 1300));
    });
    assert_eq!(
        heard.iter().any(|line| line.contains("mtu 1300")),
        differs("parent-events", true, false),
        "{heard:?}"
    );
    assert_eq!(v6().trim(), differs("parent-events", "1300", "9000"));
    assert_eq!(net.dev(0).ns.link("ipvl0").mtu, 1300, "both follow");
    net.host.sh("ip link set dev eth0 mtu 1500");
    for dev in &net.devices {
        assert!(eventually(PATIENCE, || dev.ns.link(&dev.name).mtu == 1500));
    }
}
