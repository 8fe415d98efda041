//! Addresses that a namespace makes for itself, from the MAC address that all devices share or from
//! a router's advertisement, and how it finds out that somebody else has one.

#![expect(
    clippy::expect_used,
    reason = "clippy knows a test by its attribute, not the functions beside it"
)]

use std::collections::BTreeSet;
use std::fs;
use std::net::Ipv6Addr;
use std::path::PathBuf;
use std::thread;
use std::time::Duration;

use ipvlan_tests::packet::{ethernet, ethertype, icmpv6, ipv6, nd, next};
use ipvlan_tests::sniff::Sender;
use ipvlan_tests::traffic::link_local;
use ipvlan_tests::wire::Wire;
use ipvlan_tests::{Backend, Mode, Net, Ns, PATIENCE, Process, Seen, Sniffer, differs, eventually};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

/// How devices come into namespaces: made there, or moved there afterwards.
const WAYS: [bool; 2] = [false, true];

/// The same in all namespaces, as from one image.
const SECRET: &str = "2001:db8::1:2:3:4";

/// Three namespaces with a device `v0`, up, after `prepare` saw to each.
fn three(net: &Net, moved: bool, prepare: impl Fn(&Ns)) -> Vec<Ns> {
    let all: Vec<Ns> = (0..3)
        .map(|number| {
            let ns = net.namespace(&format!("own{number}"));
            prepare(&ns);
            let place = if moved {
                String::new()
            } else {
                format!("netns {}", ns.name())
            };
            let add = format!("link add link eth0 name v0 {place} type ipvlan mode l2");
            net.ip(&net.host, &add).expect_quiet();
            if moved {
                net.host.sh(&format!("ip link set v0 netns {}", ns.name()));
            }
            ns
        })
        .collect();
    for ns in &all {
        ns.hurry("v0");
        ns.sh("ip link set v0 up");
    }
    all
}

/// The addresses in `network` that a namespace has and may use.
fn own(ns: &Ns, network: &str) -> BTreeSet<Ipv6Addr> {
    let text = ns.read("ip -6 -o addr show dev v0");
    let lines = text.lines();
    let good = lines.filter(|line| !line.contains("tentative") && !line.contains("dadfailed"));
    let words = good.filter_map(|line| line.split_whitespace().nth(3));
    let found = words.filter(|word| word.starts_with(network));
    found
        .filter_map(|word| word.split('/').next()?.parse().ok())
        .collect()
}

fn all_differ(sets: &[BTreeSet<Ipv6Addr>]) -> bool {
    let count: usize = sets.iter().map(BTreeSet::len).sum();
    sets.iter().flatten().collect::<BTreeSet<_>>().len() == count
}

#[test]
fn link_local_addresses_never_collide() {
    for moved in WAYS {
        for (key, value) in [("addr_gen_mode", "0"), ("stable_secret", SECRET)] {
            let what = format!("{key}, moved: {moved}");
            let net = Net::new(Mode::L2).build();
            let all = three(&net, moved, |ns| {
                ns.sysctl(&format!("net/ipv6/conf/default/{key}"), value);
                ns.sysctl("net/ipv6/conf/default/dad_transmits", "1");
            });
            let has_one = |ns: &Ns| !own(ns, "fe80:").is_empty();
            assert!(eventually(PATIENCE, || has_one(&all[0])), "{what}");
            let driver = if key == "stable_secret" { 1 } else { 3 };
            let count = differs("link-local", 3, driver);
            let have = || all.iter().filter(|ns| has_one(ns)).count();
            assert!(eventually(PATIENCE, || have() == count), "{what}");
            // What the agent still changes, it changes now.
            thread::sleep(Duration::from_millis(300));
            assert_eq!(have(), count, "{what}");
            let mut sets: Vec<_> = all.iter().map(|ns| own(ns, "fe80:")).collect();
            let host = link_local(&net.host, "eth0").expect("the host's");
            sets.push(BTreeSet::from([host]));
            assert!(all_differ(&sets), "{what}: {sets:?}");
            sets.retain(|set| !set.is_empty());
            for address in sets.iter().flatten() {
                assert!(net.lan.reaches(&format!("{address}%lan0")), "{what}");
            }
            let [first, .., last] = &sets[..sets.len() - 1] else {
                continue;
            };
            for address in last {
                assert!(all[0].reaches(&format!("{address}%v0")), "{what}");
            }
            assert!(first != last);
        }
    }
}

/// Stops the agents of a net for as long as this lives.
struct Stopped(Vec<Pid>);

impl Stopped {
    fn of(net: &Net) -> Self {
        let pids = net.agents().into_iter();
        let pids = pids.map(|pid| Pid::from_raw(i32::try_from(pid).expect("a pid")));
        let stopped = Self(pids.collect());
        for pid in &stopped.0 {
            kill(*pid, Signal::SIGSTOP).expect("SIGSTOP");
        }
        stopped
    }
}

impl Drop for Stopped {
    fn drop(&mut self) {
        for pid in &self.0 {
            let _: nix::Result<()> = kill(*pid, Signal::SIGCONT);
        }
    }
}

#[test]
fn the_hosts_link_local_address_stays_its_own_before_anybody_acts() {
    let net = Net::new(Mode::L2).build();
    let host = link_local(&net.host, "eth0").expect("the host's");
    let keeper = net.namespace("keeper");
    let add = format!(
        "link add link eth0 name v0 netns {} type ipvlan",
        keeper.name()
    );
    net.ip(&net.host, &format!("{add} mode l2")).expect_quiet();
    assert_eq!(net.agents().len(), usize::from(Backend::is_ours()));
    let stopped = Stopped::of(&net);
    // The agent would have to be told by somebody else that it is to act, and then has no say.
    let guests = [0, 1].map(|number| net.namespace(&format!("guest{number}")));
    for ns in &guests {
        ns.sysctl("net/ipv6/conf/default/addr_gen_mode", "0");
    }
    keeper.sh(&format!("ip link set v0 netns {}", guests[0].name()));
    guests[0].sh("ip link set v0 up");
    assert!(
        eventually(PATIENCE, || !own(&guests[0], "fe80:").is_empty()),
        "it makes itself an address, and nobody hinders it"
    );
    let is_hosts = own(&guests[0], "fe80:").contains(&host);
    assert_eq!(is_hosts, Backend::is_ours(), "only ours share the number");
    let wire = Wire::of(&net).with("guest", &guests[0]);
    let to = host.to_string();
    for _ in 0..3 {
        wire.is_for(&to, "host");
    }
    drop(stopped);
    let other = || {
        let own = own(&guests[0], "fe80:");
        !own.is_empty() && !own.contains(&host)
    };
    assert!(eventually(PATIENCE, other), "and then it has another one");
    wire.is_for(&to, "host");
    let mine = own(&guests[0], "fe80:");
    wire.is_for(&mine.first().expect("it").to_string(), "guest");
}

fn is_ns_for(target: Ipv6Addr) -> impl Fn(&Seen) -> bool {
    move |seen| {
        seen.bytes.get(20) == Some(&next::ICMPV6)
            && seen.bytes.get(54) == Some(&nd::NS)
            && seen.bytes.get(62..78) == Some(&target.octets())
    }
}

fn is_said(ns: &Ns, address: &str, word: &str) -> bool {
    let text = ns.read("ip -6 -o addr show");
    let mut lines = text.lines().filter(|line| line.contains(address));
    lines.any(|line| line.contains(word))
}

#[test]
fn a_tentative_address_is_asked_for_where_it_is_tried() {
    let net = Net::new(Mode::L2).devices(2).build();
    let (ns, sibling) = (&net.dev(0).ns, &net.dev(1).ns);
    // It tries for longer than the test takes.
    ns.sysctl("net/ipv6/conf/ipvl0/dad_transmits", "600");
    ns.sh("ip addr add fd00::70/64 dev ipvl0");
    let ears = Sniffer::on(ns, "ipvl0");
    let target: Ipv6Addr = "fd00::70".parse().expect("an address");
    if Backend::is_ours() {
        let owns = || net.shown().to_string().contains("fd00::70");
        assert!(eventually(PATIENCE, owns), "{}", net.shown());
    }
    let take_it = || {
        let done = sibling.try_sh("ip addr add fd00::70/64 dev ipvl1 nodad");
        assert_eq!(done.ok(), differs("duplicate", true, false), "{done:?}");
    };
    // With ours the sibling would have it, say so, and end what is tried.
    if !Backend::is_ours() {
        take_it();
    }
    thread::sleep(Duration::from_millis(300));
    assert!(is_said(ns, "fd00::70", "tentative"), "it still tries");
    let (unspecified, group) = (Ipv6Addr::UNSPECIFIED, nd::solicited_node(target));
    let message = icmpv6(unspecified, group, nd::NS, &nd::body(nd::NS, target, &[]));
    Sender::on(&net.lan, "lan0").send(&ethernet(
        nd::group_mac(group),
        net.lan.mac("lan0"),
        ethertype::IPV6,
        &ipv6(unspecified, group, next::ICMPV6, &message),
    ));
    assert!(
        ears.find(PATIENCE, |seen| !seen.outgoing && is_ns_for(target)(seen))
            .is_some(),
        "another one's question reaches the one that tries"
    );
    assert!(
        eventually(PATIENCE, || is_said(ns, "fd00::70", "dadfailed")),
        "which gives up: {}",
        ns.read("ip -6 addr show dev ipvl0")
    );
    if Backend::is_ours() {
        // A duplicate that its own stack does not use is no claim any more.
        take_it();
        Wire::of(&net).is_for("fd00::70", "ipvl1");
    }
}

#[test]
fn of_two_siblings_that_try_an_address_at_most_one_gets_it() {
    let net = Net::new(Mode::L2).devices(2).build();
    for dev in &net.devices {
        let key = format!("net/ipv6/conf/{}/dad_transmits", dev.name);
        dev.ns.sysctl(&key, "1");
    }
    let mut refused = 0;
    for dev in &net.devices {
        let words = format!("ip addr add fd00::70/64 dev {}", dev.name);
        refused += usize::from(!dev.ns.try_sh(&words).ok());
    }
    assert_eq!(refused, differs("duplicate", 0, 1));
    let has_it =
        |ns: &Ns| is_said(ns, "fd00::70", "fd00::70") && !is_said(ns, "fd00::70", "dadfailed");
    let settled = || {
        let mut devices = net.devices.iter();
        devices.all(|dev| !is_said(&dev.ns, "fd00::70", "tentative") || !has_it(&dev.ns))
    };
    assert!(eventually(PATIENCE, settled), "they come to an end");
    let have = net.devices.iter().filter(|dev| has_it(&dev.ns)).count();
    assert!(have <= 1, "{have} have it");
}

#[test]
fn an_optimistic_address_is_used_at_once_and_given_up_as_a_duplicate() {
    let net = Net::new(Mode::L2).devices(1).build();
    let ns = &net.dev(0).ns;
    for (key, value) in [
        ("optimistic_dad", "1"),
        // So that the kernel announces it (row follow).
        ("use_optimistic", "1"),
        ("dad_transmits", "600"),
    ] {
        ns.sysctl(&format!("net/ipv6/conf/ipvl0/{key}"), value);
    }
    ns.sh("ip addr add fd00::70/64 dev ipvl0 optimistic");
    assert!(is_said(ns, "fd00::70", "optimistic"), "it is optimistic");
    assert!(net.lan.reaches("fd00::70"), "and reached while it tries");
    assert!(is_said(ns, "fd00::70", "optimistic"), "it still tries");
    ns.sysctl("net/ipv6/conf/ipvl0/dad_transmits", "1");
    ns.sh("ip addr add fd00::254/64 dev ipvl0 optimistic");
    assert!(
        eventually(PATIENCE, || is_said(ns, "fd00::254", "dadfailed")),
        "a duplicate of the LAN's is found: {}",
        ns.read("ip -6 addr show dev ipvl0")
    );
}

/// A router on the LAN that answers at once.
struct Router {
    process: Option<Process>,
    config: PathBuf,
}

impl Router {
    fn on(net: &Net) -> Self {
        let path = |what: &str| std::env::temp_dir().join(format!("{}.{what}", net.mark()));
        let config = path("radvd");
        let text = "interface lan0 {\n  AdvSendAdvert on;\n  AdvIntervalOpt on;\n  \
                    MinRtrAdvInterval 0.3;\n  MaxRtrAdvInterval 0.6;\n  MinDelayBetweenRAs 0.03;\n  \
                    prefix fd77::/64 { AdvValidLifetime 3600; AdvPreferredLifetime 3600; };\n};\n";
        fs::write(&config, text).expect("a file");
        net.lan.sysctl("net/ipv6/conf/all/forwarding", "1");
        net.lan.sh("ip addr add fd77::254/64 dev lan0 nodad");
        let line = format!(
            "radvd -n -m stderr -C {} -p {}",
            config.display(),
            path("pid").display()
        );
        let process = Some(net.lan.spawn(&line));
        Self { process, config }
    }
}

impl Drop for Router {
    fn drop(&mut self) {
        drop(self.process.take());
        for path in [self.config.clone(), self.config.with_extension("pid")] {
            let _: std::io::Result<()> = fs::remove_file(path);
        }
    }
}

#[test]
fn each_device_makes_itself_addresses_that_a_router_advertises() {
    for (what, moved, settings) in [
        ("by the MAC address", false, &[("addr_gen_mode", "0")][..]),
        ("temporary ones, too", false, &[("use_tempaddr", "2")]),
        ("by the MAC address, moved", true, &[("addr_gen_mode", "0")]),
        (
            "with a secret that all share",
            false,
            &[("stable_secret", SECRET)],
        ),
    ] {
        let net = Net::new(Mode::L2).build();
        let router = Router::on(&net);
        let all = three(&net, moved, |ns| {
            for (key, value) in settings.iter().chain(&[("accept_ra", "1")]) {
                ns.sysctl(&format!("net/ipv6/conf/default/{key}"), value);
            }
        });
        let each = if settings[0].0 == "use_tempaddr" {
            2
        } else {
            1
        };
        let sets = || all.iter().map(|ns| own(ns, "fd77:")).collect::<Vec<_>>();
        let done = || sets().iter().all(|set| set.len() >= each);
        assert!(eventually(PATIENCE, done), "{what}: {:?}", sets());
        let sets = sets();
        let shares = settings[0].0 == "stable_secret";
        if differs("link-local", true, !shares) {
            assert!(all_differ(&sets), "{what}: {sets:?}");
            for address in sets.iter().flatten() {
                let reached = net.lan.reaches(&address.to_string());
                assert!(reached, "{what}: {address} of {sets:?}");
            }
            // A sibling and the router are reached from it, too.
            let other = sets[1].first().expect("an address");
            assert!(all[0].reaches(&other.to_string()), "{what}: {sets:?}");
            assert!(all[2].reaches("fd77::254"), "{what}: {sets:?}");
        } else {
            assert_eq!(sets[0], sets[1], "{what}: the stacks do not know");
        }
        drop(router);
    }
}

#[test]
fn the_address_of_a_router_that_advertises_itself_cannot_be_taken() {
    let net = Net::new(Mode::L2).devices(1).build();
    net.host.sysctl("net/ipv6/conf/eth0/accept_ra", "1");
    let router = Router::on(&net);
    let routes = || net.host.read("ip -6 route show default");
    let known = eventually(PATIENCE, || routes().contains("proto ra"));
    assert!(known, "the host has a router: {}", routes());
    let address = link_local(&net.lan, "lan0").expect("the router's");
    let ns = &net.dev(0).ns;
    ns.batch(&format!(
        "addr add {address}/64 dev ipvl0 nodad\naddr add fd00::69/64 dev ipvl0 nodad\n"
    ));
    let wire = Wire::of(&net);
    wire.is_for("fd00::69", "ipvl0");
    if differs("gateway-address", true, false) {
        wire.is_for_nobody(&address.to_string());
    } else {
        wire.is_for(&address.to_string(), "ipvl0");
    }
    drop(router);
}
