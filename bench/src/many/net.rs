//! One parent and the namespaces of its devices.
//!
//! ```text
//!   LAN namespace            host namespace             N namespaces
//!   lan0 <----- veth -----> eth0 (the parent) --------  dev0 .. devN
//!   10.77.0.254             10.77.0.1                   10.77.1.1 ..
//! ```

use std::fmt;
use std::net::{Ipv4Addr, UdpSocket};
use std::path::{Path, PathBuf};
use std::time::Duration;

use nix::errno::Errno;
use nix::ifaddrs::getifaddrs;
use nix::net::if_::if_nametoindex;

use crate::error::{Error, Result};
use crate::many::agent::{self, Agent, Store};
use crate::many::wire::Wire;
use crate::netns::{NetNs, Spaces};
use crate::run::{ip_batch, run};
use crate::sys;
use crate::topology::absent;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    /// This project, mode l2.
    Ipvlan,
    /// The kernel's macvlan, mode bridge.
    Macvlan,
}

impl Kind {
    pub(super) const ALL: [Self; 2] = [Self::Ipvlan, Self::Macvlan];
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Ipvlan => "ipvlan-l2",
            Self::Macvlan => "macvlan",
        })
    }
}

#[derive(Debug)]
pub(super) struct Parent {
    pub(super) kind: Kind,
    pub(super) wire: Wire,
    spaces: Spaces,
    lan: NetNs,
    host: NetNs,
    ipvlan: PathBuf,
    /// Where its agent leaves traces; macvlan has none.
    store: Option<Store>,
}

impl Parent {
    /// The wire and the namespaces, without devices.
    pub(super) fn build(kind: Kind, name: &str, devices: u16, ipvlan: &Path) -> Result<Self> {
        if kind == Kind::Ipvlan && !ipvlan.exists() {
            let what = format!("no program {}; build it, or say --ipvlan", ipvlan.display());
            return Err(Error::Absent { what });
        }
        let name = |end: &str| format!("ipvlan-bench-{}-{name}-{kind}-{end}", std::process::id());
        let (lan, host) = (NetNs::create(name("lan"))?, NetNs::create(name("host"))?);
        let spaces = Spaces::create((0..devices).map(|i| name(&i.to_string())).collect())?;
        // Nothing but the measured traffic.
        for key in ["all", "default"].map(|scope| format!("ipv6/conf/{scope}/disable_ipv6")) {
            lan.sysctl(&key, "1")?;
            host.sysctl(&key, "1")?;
            spaces.sysctl(&key, "1")?;
        }
        let host_name = host.name();
        let lines = format!(
            "link set lo up\n\
             link add lan0 type veth peer name eth0 netns {host_name}\n\
             address add {LAN}/16 dev lan0\n\
             link set lan0 up\n"
        );
        ip_batch(lan.name(), &lines)?;
        let lines = "link set lo up\naddress add 10.77.0.1/16 dev eth0\nlink set eth0 up\n";
        ip_batch(host_name, lines)?;
        let wire = lan.inside(|| {
            let link = if_nametoindex("lan0").map_err(Error::sys("if_nametoindex"))?;
            Wire::open(link, mac("lan0")?, LAN)
        })??;
        let store = match kind {
            Kind::Ipvlan => Some(Store::of(host.inside(cookie)??)),
            Kind::Macvlan => None,
        };
        Ok(Self {
            kind,
            wire,
            spaces,
            lan,
            host,
            ipvlan: ipvlan.to_owned(),
            store,
        })
    }

    /// The devices' namespaces; those of the devices that should be there.
    pub(super) fn spaces(&self) -> &[String] {
        self.spaces.names()
    }

    pub(super) fn addresses(&self) -> Vec<Ipv4Addr> {
        (0_u16..)
            .zip(self.spaces())
            .map(|(i, _)| address(i))
            .collect()
    }

    /// One process that makes device `i` where it is to live.
    pub(super) fn add(&self, i: usize, space: &str) -> Result<()> {
        let device = format!("dev{i}");
        let (program, kind, mode) = match self.kind {
            Kind::Ipvlan => (self.ipvlan.as_path(), "ipvlan", "l2"),
            Kind::Macvlan => (Path::new("ip"), "macvlan", "bridge"),
        };
        let args = [
            "link", "add", "link", "eth0", "name", &device, "netns", space, "type", kind, "mode",
            mode,
        ];
        let added = self.host.inside(|| run(program, &args))?;
        added.map_err(|error| absent(kind, error))
    }

    pub(super) fn store(&self) -> Option<&Store> {
        self.store.as_ref()
    }

    pub(super) fn agent(&self) -> Option<Agent> {
        self.store.as_ref().and_then(Store::agent)
    }

    /// Waits until the agent, if there is one, rests.
    pub(super) fn settle(&self, quiet: Duration) -> Result<()> {
        self.agent().map_or(Ok(()), |agent| agent.settle(quiet))
    }
}

/// The LAN's address.
const LAN: Ipv4Addr = Ipv4Addr::new(10, 77, 0, 254);

/// 10.77.1.1 to 10.77.1.250, then 10.77.2.1 and so on.
fn address(i: u16) -> Ipv4Addr {
    let [_, third] = (1 + i / 250).to_be_bytes();
    let [_, fourth] = (1 + i % 250).to_be_bytes();
    Ipv4Addr::new(10, 77, third, fourth)
}

/// That of a link of the thread's namespace.
fn mac(link: &str) -> Result<[u8; 6]> {
    let found = getifaddrs()
        .map_err(Error::sys("getifaddrs"))?
        .filter(|found| found.interface_name == link)
        .find_map(|found| found.address?.as_link_addr()?.addr());
    found.ok_or(Error::Sys {
        what: "MAC address of lan0",
        errno: Errno::ENODEV,
    })
}

/// That of the thread's namespace.
fn cookie() -> Result<u64> {
    let any = UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0));
    sys::netns_cookie(&any.map_err(|source| Error::io("UDP socket", source))?)
}

impl Drop for Parent {
    /// Devices first, and the parent once the agent has seen it; the other namespaces follow.
    fn drop(&mut self) {
        const LIMIT: Duration = Duration::from_secs(20);
        let agent = self.agent();
        self.spaces.remove();
        if let Some(store) = &self.store
            && let Err(error) = agent::end(store, agent, LIMIT)
        {
            eprintln!("ipvlan-bench: not removed: {error}");
        }
        // Even if something keeps the host namespace alive, eth0 goes with its peer.
        let _: Result<()> = run("ip", &["-n", self.lan.name(), "link", "del", "lan0"]);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_are_all_different_and_nobody_elses() {
        let mut all: Vec<Ipv4Addr> = (0..400).map(address).collect();
        all.sort();
        all.dedup();
        assert_eq!(all.len(), 400);
        assert_eq!(address(0), Ipv4Addr::new(10, 77, 1, 1));
        assert_eq!(address(399), Ipv4Addr::new(10, 77, 2, 150));
    }
}
