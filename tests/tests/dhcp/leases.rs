//! Stock DHCP clients and servers: each device gets, renews and gives back a lease of its own.

use std::collections::BTreeSet;
use std::fs;
use std::net::IpAddr;
use std::os::unix::fs::PermissionsExt as _;
use std::path::PathBuf;
use std::time::Duration;

use ipvlan_tests::{Dev, Guest, Mode, Net, Ns, Process, Sniffer, differs, eventually};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

const DEVICES: u16 = 5;
/// A server may try for seconds whether an address is free.
const LEASED: Duration = Duration::from_secs(40);

/// What a client has a script for: to set the address.
const SCRIPT: &str = r#"#!/bin/sh
case "$1$reason" in
PREINIT6) until ip -6 addr show dev "$interface" scope link -tentative | grep -q inet6; do sleep 0.1; done ;;
bound | renew) ip addr replace "$ip/$mask" dev "$interface" ;;
BOUND | RENEW | REBIND) ip addr replace "$new_ip_address/24" dev "$interface" ;;
BOUND6 | RENEW6 | REBIND6) ip addr replace "$new_ip6_address/64" dev "$interface" ;;
esac
"#;

/// The same for all, as from one image.
const DUID: &str = "00:01:00:01:2a:bc:de:f0:02:00:00:00:00:07";

/// A folder that goes with the test.
struct Folder(PathBuf);

impl Folder {
    fn of(net: &Net) -> Self {
        let path = std::env::temp_dir().join(format!("{}.dhcp", net.mark()));
        fs::create_dir_all(&path).expect("a folder");
        let script = path.join("script");
        fs::write(&script, SCRIPT).expect("a file");
        fs::set_permissions(&script, fs::Permissions::from_mode(0o755)).expect("a script");
        Self(path)
    }

    fn path(&self, name: &str) -> String {
        self.0.join(name).display().to_string()
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        let _: std::io::Result<()> = fs::remove_dir_all(&self.0);
    }
}

#[derive(Clone, Copy, Debug, PartialEq)]
enum Server {
    Dnsmasq,
    Udhcpd,
}

impl Server {
    fn start(self, net: &Net, folder: &Folder) -> Process {
        let leases = folder.path("leases");
        match self {
            Self::Dnsmasq => net.lan.spawn(&format!(
                "dnsmasq --conf-file=/dev/null -k -p 0 -i lan0 --bind-interfaces --user=root \
                 --dhcp-range=10.1.0.100,10.1.0.150,2m --dhcp-range=fd00::100,fd00::1ff,64,2m \
                 --enable-ra --dhcp-leasefile={leases} --pid-file={} --log-facility={}",
                folder.path("pid"),
                folder.path("log")
            )),
            Self::Udhcpd => {
                let config = folder.path("config");
                let text = format!(
                    "start 10.1.0.100\nend 10.1.0.150\ninterface lan0\nlease_file {leases}\n\
                     pidfile {}\noption subnet 255.255.255.0\noption lease 120\n",
                    folder.path("pid")
                );
                fs::write(&config, text).expect("a file");
                fs::write(&leases, "").expect("a file");
                net.lan.spawn(&format!("udhcpd -f {config}"))
            }
        }
    }
}

#[derive(Clone, Copy, Debug, PartialEq)]
enum Client {
    Udhcpc,
    Dhclient,
    Dhcpcd,
}

impl Client {
    fn start(self, family: u8, dev: &Dev, folder: &Folder) -> Process {
        let (script, name) = (folder.path("script"), &dev.name);
        let own = folder.path(&format!("{self:?}-{family}-{}", dev.ns.name()));
        match self {
            Self::Udhcpc => dev
                .ns
                .spawn(&format!("udhcpc -f -t 20 -T 2 -s {script} -i {name}")),
            Self::Dhclient => dev.ns.spawn(&format!(
                "dhclient -{family} -d -sf {script} -lf {own} -pf {own}.pid {name}"
            )),
            // With files of its own, or it finds the others' process; but with the others' DUID.
            Self::Dhcpcd => {
                let run = format!(
                    "mount -t tmpfs none /run && mount -t tmpfs none /var/lib/dhcpcd && \
                     echo {DUID} > /var/lib/dhcpcd/duid && \
                     exec dhcpcd -{family} -B -f /dev/null -c /bin/true {name}"
                );
                let script = format!("{own}.sh");
                fs::write(&script, run).expect("a file");
                dev.ns.spawn(&format!("unshare -m sh {script}"))
            }
        }
    }
}

fn leased(dev: &Dev, family: u8) -> BTreeSet<IpAddr> {
    leased_by(&dev.ns, &dev.name, family)
}

fn leased_by(ns: &Ns, interface: &str, family: u8) -> BTreeSet<IpAddr> {
    let link = ns.index(interface);
    let found = ns.enter(|| {
        let mut netlink = ipvlan_netlink::Netlink::open().expect("netlink");
        netlink.addresses(None, Some(link)).expect("addresses")
    });
    let all = found.into_iter().map(|address| address.local);
    all.filter(|address| match address {
        IpAddr::V4(address) => {
            // A client may give itself one of 169.254.0.0/16 meanwhile.
            let [network @ .., host] = address.octets();
            family == 4 && network == [10, 1, 0] && (100..=150).contains(&host)
        }
        IpAddr::V6(address) => {
            family == 6
                && address.segments()[0] == 0xfd00
                && (0x100..0x200).contains(&address.segments()[7])
                && address.segments()[4..7] == [0; 3]
        }
    })
    .collect()
}

fn signal(process: &Process, signal: Signal) {
    let pid = Pid::from_raw(process.pid().cast_signed());
    kill(pid, signal).expect("it runs");
}

/// As many devices without addresses.
fn bare(devices: u16) -> Net {
    let mut net = Net::new(Mode::L2).build();
    for _ in 0..devices {
        let number = net.add();
        let dev = net.dev(number);
        dev.ns.hurry(&dev.name);
        dev.ns
            .batch(&format!("link set lo up\nlink set {} up\n", dev.name));
    }
    net
}

#[track_caller]
fn each_gets_its_own(client: Client, server: Server, family: u8) {
    let net = bare(DEVICES);
    let folder = Folder::of(&net);
    let wire = Sniffer::on(&net.lan, "lan0");
    let _server = server.start(&net, &folder);
    let clients: Vec<Process> = net
        .devices
        .iter()
        .map(|dev| client.start(family, dev, &folder))
        .collect();
    let all = || -> Vec<_> { net.devices.iter().map(|dev| leased(dev, family)).collect() };
    let what = format!("{client:?}, {server:?}, IPv{family}");
    let is_served = || all().iter().all(|set| set.len() == 1);
    let own = || {
        let sets = all();
        is_served() && sets.iter().flatten().collect::<BTreeSet<_>>().len() == sets.len()
    };
    if !differs("dhcp", true, false) {
        std::thread::sleep(Duration::from_secs(10));
        assert!(!own(), "{what}: with the driver they are one client");
        return;
    }
    assert!(eventually(LEASED, own), "{what}: {:?}", all());
    for address in all().iter().flatten() {
        assert!(net.lan.reaches(&address.to_string()), "{what}: {address}");
    }
    for seen in wire.heard() {
        assert_eq!(
            seen.source(),
            net.mac(),
            "{what}: one MAC address: {seen:?}"
        );
    }
    drop(clients);
}

#[test]
fn each_device_has_a_lease_by_udhcpc_from_dnsmasq() {
    each_gets_its_own(Client::Udhcpc, Server::Dnsmasq, 4);
}

#[test]
fn each_device_has_a_lease_by_udhcpc_from_udhcpd() {
    each_gets_its_own(Client::Udhcpc, Server::Udhcpd, 4);
}

#[test]
fn each_device_has_a_lease_by_dhclient_from_dnsmasq() {
    each_gets_its_own(Client::Dhclient, Server::Dnsmasq, 4);
}

#[test]
fn each_device_has_a_lease_by_dhclient_from_udhcpd() {
    each_gets_its_own(Client::Dhclient, Server::Udhcpd, 4);
}

#[test]
fn each_device_has_a_lease_by_dhcpcd_from_dnsmasq() {
    each_gets_its_own(Client::Dhcpcd, Server::Dnsmasq, 4);
}

#[test]
fn each_device_has_a_dhcpv6_lease_by_dhclient() {
    each_gets_its_own(Client::Dhclient, Server::Dnsmasq, 6);
}

#[test]
fn each_device_has_a_dhcpv6_lease_by_dhcpcd() {
    each_gets_its_own(Client::Dhcpcd, Server::Dnsmasq, 6);
}

#[test]
fn a_lease_is_renewed_and_given_back() {
    let net = bare(2);
    let folder = Folder::of(&net);
    let _server = Server::Dnsmasq.start(&net, &folder);
    let clients: Vec<Process> = net
        .devices
        .iter()
        .map(|dev| Client::Udhcpc.start(4, dev, &folder))
        .collect();
    let has = || net.devices.iter().all(|dev| leased(dev, 4).len() == 1);
    if !differs("dhcp", true, false) {
        return;
    }
    assert!(eventually(LEASED, has), "both have a lease");
    let wire = Sniffer::on(&net.lan, "lan0");
    let acknowledged = |seen: &ipvlan_tests::Seen| seen.outgoing && seen.contains(&[53, 1, 5]);
    signal(&clients[0], Signal::SIGUSR1);
    assert!(wire.find(LEASED, acknowledged).is_some(), "a renewal");
    let leases = || fs::read_to_string(folder.path("leases")).unwrap_or_default();
    let count = || {
        leases()
            .lines()
            .filter(|line| line.contains(" 10.1.0."))
            .count()
    };
    assert_eq!(count(), 2, "{}", leases());
    signal(&clients[0], Signal::SIGUSR2);
    assert!(
        eventually(LEASED, || count() == 1),
        "given back: {}",
        leases()
    );
    assert!(
        leases().contains(&leased(net.dev(1), 4).first().expect("a lease").to_string()),
        "the other one keeps his"
    );
}

/// Behind an ipvtap whose addresses are learnt, the lease is all that a guest needs.
#[test]
fn a_guest_owns_what_it_was_leased() {
    if !differs("learning", true, false) {
        return;
    }
    let net = Net::new(Mode::L2).build();
    let folder = Folder::of(&net);
    let _server = Server::Dnsmasq.start(&net, &folder);
    let guests = [b"\x02guest", b"\x02GUEST"].map(|mac| {
        let name = format!("tap{}", mac[1] & 0x20);
        let line = format!("link add link eth0 name {name} up type ipvtap mode l2 learning on");
        net.ipvlan(&line).expect_quiet();
        let guest = Guest::start(&net, &name, &format!("vm{}", mac[1]), *mac);
        let script = folder.path("script");
        let line = format!("udhcpc -f -t 20 -T 2 -s {script} -i eth0");
        let client = guest.ns.spawn(&line);
        (guest, client)
    });
    let mut leases = BTreeSet::new();
    for (guest, _client) in &guests {
        let lease = || leased_by(&guest.ns, "eth0", 4).into_iter().next();
        assert!(eventually(LEASED, || lease().is_some()), "a lease");
        let address = lease().expect("a lease").to_string();
        assert!(net.lan.answers(&address), "{address}");
        assert!(leases.insert(address), "{leases:?}");
    }
}
