//! What lies between the two ends.
//!
//! ```text
//!   LAN namespace          host namespace                       ns0, ns1
//!   lan0 <---- veth ----> eth0 (the parent) --- [topology] ---  dev0, dev1
//!   10.77.0.254           10.77.0.1                             10.77.0.10, .11
//! ```
//!
//! In the l3 topologies each device has a subnet of its own (10.78.0.2/24, 10.78.1.2/24) and
//! `default dev`, and the LAN routes both to the parent's address. `direct` has no host: one veth
//! is all there is between any two that talk, which makes it the floor.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::path::PathBuf;

use clap::ValueEnum;

use crate::error::{Error, Result};
use crate::netns::NetNs;
use crate::run::{ip_batch, run};

/// What lies between the two ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, ValueEnum)]
pub(crate) enum Topology {
    /// This project, mode l2: one subnet, devices answer ARP
    IpvlanL2,
    /// This project, mode l3: a subnet for each device, the parent's namespace routes
    IpvlanL3,
    /// This project, mode l3s: as l3, through the firewall of the parent's namespace
    IpvlanL3s,
    /// The kernel's own driver, mode l2
    DriverL2,
    /// The kernel's own driver, mode l3
    DriverL3,
    /// The kernel's own driver, mode l3s
    DriverL3s,
    /// The kernel's macvlan, mode bridge
    Macvlan,
    /// A veth pair for each device and a bridge with eth0 in it
    VethBridge,
    /// One veth from end to end, nothing in between
    Direct,
}

impl Topology {
    pub(crate) fn about(self) -> String {
        let value = self.to_possible_value();
        value
            .and_then(|v| v.get_help().map(ToString::to_string))
            .unwrap_or_default()
    }

    /// The kernel driver's topology that this one does the work of.
    pub(crate) fn driver(self) -> Option<Self> {
        match self {
            Self::IpvlanL2 | Self::DriverL2 => Some(Self::DriverL2),
            Self::IpvlanL3 | Self::DriverL3 => Some(Self::DriverL3),
            Self::IpvlanL3s | Self::DriverL3s => Some(Self::DriverL3s),
            Self::Macvlan | Self::VethBridge | Self::Direct => None,
        }
    }

    fn is_ours(self) -> bool {
        matches!(self, Self::IpvlanL2 | Self::IpvlanL3 | Self::IpvlanL3s)
    }

    fn is_l3(self) -> bool {
        matches!(
            self,
            Self::IpvlanL3 | Self::DriverL3 | Self::IpvlanL3s | Self::DriverL3s
        )
    }
}

impl fmt::Display for Topology {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::IpvlanL2 => "ipvlan-l2",
            Self::IpvlanL3 => "ipvlan-l3",
            Self::IpvlanL3s => "ipvlan-l3s",
            Self::DriverL2 => "driver-l2",
            Self::DriverL3 => "driver-l3",
            Self::DriverL3s => "driver-l3s",
            Self::Macvlan => "macvlan",
            Self::VethBridge => "veth-bridge",
            Self::Direct => "direct",
        })
    }
}

/// Who talks to whom: the first sends and connects, the second receives and accepts.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, ValueEnum)]
pub(crate) enum Path {
    /// From the LAN to a device: the wire's side of the parent
    LanDev,
    /// From a device to the LAN
    DevLan,
    /// Between two devices of the same parent
    DevDev,
}

impl Path {
    pub(crate) fn about(self) -> &'static str {
        match self {
            Self::LanDev => "LAN -> device",
            Self::DevLan => "device -> LAN",
            Self::DevDev => "device -> device",
        }
    }
}

impl fmt::Display for Path {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::LanDev => "lan-dev",
            Self::DevLan => "dev-lan",
            Self::DevDev => "dev-dev",
        })
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Family {
    V4,
    V6,
}

impl fmt::Display for Family {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::V4 => "IPv4",
            Self::V6 => "IPv6",
        })
    }
}

/// Who makes the devices of the ipvlan topologies, and for which addresses.
#[derive(Debug)]
pub(crate) struct Maker {
    pub(crate) ipvlan: PathBuf,
    pub(crate) family: Family,
}

/// One topology, standing.
#[derive(Debug)]
pub(crate) struct Net {
    pub(crate) topology: Topology,
    family: Family,
    // Dropped in this order: devices, the wire, the parent. Removing the wire removes the parent
    // even when something else, like an agent, keeps the host namespace alive.
    ns: [NetNs; 2],
    lan: NetNs,
    host: NetNs,
}

/// What one direction of one path needs to know.
#[derive(Debug)]
pub(crate) struct Ends<'a> {
    pub(crate) client: &'a NetNs,
    pub(crate) server: &'a NetNs,
    pub(crate) address: IpAddr,
}

impl Net {
    pub(crate) fn build(topology: Topology, maker: &Maker) -> Result<Self> {
        if topology.is_ours() && !maker.ipvlan.exists() {
            let what = format!(
                "no program {}; build it, or say --ipvlan",
                maker.ipvlan.display()
            );
            return Err(Error::Absent { what });
        }
        let name = |end: &str| format!("ipvlan-bench-{}-{topology}-{end}", std::process::id());
        let net = Self {
            topology,
            family: maker.family,
            ns: [NetNs::create(name("ns0"))?, NetNs::create(name("ns1"))?],
            lan: NetNs::create(name("lan"))?,
            host: NetNs::create(name("host"))?,
        };
        net.quieten()?;
        if topology == Topology::Direct {
            net.build_direct()?;
        } else {
            net.build_wire()?;
            for i in [0, 1] {
                net.build_device(i, maker)?;
            }
        }
        net.keep_neighbours()?;
        Ok(net)
    }

    pub(crate) fn ends(&self, path: Path) -> Ends<'_> {
        let (client, server, address) = match path {
            Path::LanDev => (&self.lan, &self.ns[0], self.device_address(0)),
            Path::DevLan => (&self.ns[0], &self.lan, self.address(77, 0, 254)),
            Path::DevDev if self.topology == Topology::Direct => {
                (&self.ns[0], &self.ns[1], self.address(79, 0, 11))
            }
            Path::DevDev => (&self.ns[0], &self.ns[1], self.device_address(1)),
        };
        Ends {
            client,
            server,
            address,
        }
    }

    fn device_address(&self, i: u8) -> IpAddr {
        if self.topology.is_l3() {
            self.address(78, i, 2)
        } else {
            self.address(77, 0, 10 + i)
        }
    }

    /// 10.NET.SUBNET.HOST, or its counterpart fdNET:0:0:SUBNET::HOST.
    fn address(&self, net: u8, subnet: u8, host: u8) -> IpAddr {
        match self.family {
            Family::V4 => Ipv4Addr::new(10, net, subnet, host).into(),
            Family::V6 => Ipv6Addr::new(
                0xfd00 | u16::from(net),
                0,
                0,
                u16::from(subnet),
                0,
                0,
                0,
                u16::from(host),
            )
            .into(),
        }
    }

    /// An `ip` batch line that gives the address to the link and brings the link up.
    fn up(&self, link: &str, address: IpAddr) -> String {
        let address = match self.family {
            Family::V4 => format!("{address}/24"),
            // No duplicate address detection: it would take a second, and our addresses are ours.
            Family::V6 => format!("{address}/64 nodad"),
        };
        format!("address add {address} dev {link}\nlink set {link} up\n")
    }

    fn all(&self) -> [&NetNs; 4] {
        [&self.lan, &self.host, &self.ns[0], &self.ns[1]]
    }

    /// Nothing but the measured traffic: no router solicitations, no duplicate address detection.
    fn quieten(&self) -> Result<()> {
        for ns in self.all() {
            for scope in ["all", "default"] {
                let key = |name: &str| format!("ipv6/conf/{scope}/{name}");
                match self.family {
                    Family::V4 => ns.sysctl(&key("disable_ipv6"), "1")?,
                    Family::V6 => {
                        ns.sysctl(&key("disable_ipv6"), "0")?;
                        ns.sysctl(&key("accept_dad"), "0")?;
                        ns.sysctl(&key("router_solicitations"), "0")?;
                    }
                }
            }
            ip_batch(ns.name(), "link set lo up\n")?;
        }
        Ok(())
    }

    /// A neighbour once found stays good, so that no ARP falls into some rounds and not others.
    fn keep_neighbours(&self) -> Result<()> {
        for ns in self.all() {
            for link in [
                "lan0", "eth0", "br0", "dev0", "dev1", "port0", "port1", "x0",
            ] {
                for family in ["ipv4", "ipv6"] {
                    ns.sysctl(
                        &format!("{family}/neigh/{link}/base_reachable_time_ms"),
                        "3600000",
                    )?;
                }
            }
        }
        Ok(())
    }

    fn build_direct(&self) -> Result<()> {
        let (ns0, ns1) = (self.ns[0].name(), self.ns[1].name());
        let lan = format!("link add lan0 type veth peer name dev0 netns {ns0}\n")
            + &self.up("lan0", self.address(77, 0, 254));
        ip_batch(self.lan.name(), &lan)?;
        let middle = self.up("dev0", self.device_address(0))
            + &format!("link add x0 type veth peer name dev1 netns {ns1}\n")
            + &self.up("x0", self.address(79, 0, 10));
        ip_batch(ns0, &middle)?;
        ip_batch(ns1, &self.up("dev1", self.address(79, 0, 11)))
    }

    /// The LAN, the host and the veth that is the wire between them.
    fn build_wire(&self) -> Result<()> {
        let host = self.host.name();
        let parent = self.address(77, 0, 1);
        let wire = format!("link add lan0 type veth peer name eth0 netns {host}\n")
            + &self.up("lan0", self.address(77, 0, 254));
        ip_batch(self.lan.name(), &wire)?;
        if self.topology == Topology::VethBridge {
            let bridge = "link add br0 type bridge\nlink set eth0 master br0\nlink set eth0 up\n";
            ip_batch(host, &(bridge.to_owned() + &self.up("br0", parent)))?;
        } else {
            ip_batch(host, &self.up("eth0", parent))?;
        }
        if self.topology.is_l3() {
            let subnets = match self.family {
                Family::V4 => "10.78.0.0/16",
                Family::V6 => "fd4e::/32",
            };
            ip_batch(
                self.lan.name(),
                &format!("route add {subnets} via {parent}\n"),
            )?;
        }
        Ok(())
    }

    fn build_device(&self, i: u8, maker: &Maker) -> Result<()> {
        let ns = self.ns[usize::from(i)].name();
        let host = self.host.name();
        let dev = format!("dev{i}");
        let kernel = |kind: &str, mode: &str| {
            let line =
                format!("link add link eth0 name {dev} netns {ns} type {kind} mode {mode}\n");
            ip_batch(host, &line).map_err(|error| absent(kind, error))
        };
        let ours = |mode: &str| {
            let args = [
                "link", "add", "link", "eth0", "name", &dev, "netns", ns, "type", "ipvlan", "mode",
                mode,
            ];
            self.host.inside(|| run(&maker.ipvlan, &args))?
        };
        match self.topology {
            Topology::IpvlanL2 => ours("l2"),
            Topology::IpvlanL3 => ours("l3"),
            Topology::IpvlanL3s => ours("l3s"),
            Topology::DriverL2 => kernel("ipvlan", "l2"),
            Topology::DriverL3 => kernel("ipvlan", "l3"),
            Topology::DriverL3s => kernel("ipvlan", "l3s"),
            Topology::Macvlan => kernel("macvlan", "bridge"),
            Topology::VethBridge => {
                let port = format!("port{i}");
                let lines = format!("link add {port} type veth peer name {dev} netns {ns}\n")
                    + &format!("link set {port} master br0 up\n");
                ip_batch(host, &lines)
            }
            Topology::Direct => Ok(()),
        }?;
        let mut lines = self.up(&dev, self.device_address(i));
        if self.topology.is_l3() {
            let everything = match self.family {
                Family::V4 => "0.0.0.0/0",
                Family::V6 => "::/0",
            };
            lines += &format!("route add {everything} dev {dev}\n");
        }
        ip_batch(ns, &lines)
    }
}

/// Tells a kernel without this kind of link from a command that failed.
pub(crate) fn absent(kind: &str, error: Error) -> Error {
    match &error {
        Error::Command { answer, .. }
            if answer.contains("Unknown device type") || answer.contains("not supported") =>
        {
            Error::Absent {
                what: format!("this kernel has no {kind} driver"),
            }
        }
        _ => error,
    }
}

impl Drop for Net {
    /// Takes devices and parent apart in the order a user would; the namespaces follow.
    fn drop(&mut self) {
        let [ns0, ns1] = &self.ns;
        for (ns, link) in [(ns0, "dev0"), (ns1, "dev1"), (&self.lan, "lan0")] {
            // Not there when the building failed half-way.
            let _: Result<()> = run("ip", &["-n", ns.name(), "link", "del", link]);
        }
    }
}
