//! What the agent hears, and what it makes of it.

use std::os::fd::AsFd as _;
use std::time::{Duration, Instant};

use ipvlan_netlink::{Event, Nsid};
use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};

use super::Agent;
use crate::error::Error;
use crate::learn;
use crate::observe::PortView;
use crate::routing;

/// Why the agent woke up.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Wake {
    /// It is time for something, or something changed that concerns nobody, or devices alone.
    Nothing,
    /// Something changed that takes a whole look.
    Parents,
    /// The parents' namespace is gone.
    Dead,
}

impl Agent {
    /// Until something happens, or it is time to try `again`.
    pub(super) fn wait(&mut self, again: Option<Instant>) -> Result<Wake, Error> {
        let timeout = again.map_or(PollTimeout::NONE, |again| {
            let left = again.saturating_duration_since(Instant::now());
            // Rounded up, or it would be asked for again and again within the last millisecond.
            let left = match left.is_zero() {
                true => left,
                false => left + Duration::from_millis(1),
            };
            PollTimeout::try_from(left).unwrap_or(PollTimeout::MAX)
        });
        let fds = std::iter::once(self.monitor.as_fd()).chain(self.ears.fds());
        let mut fds: Vec<_> = fds.map(|fd| PollFd::new(fd, PollFlags::POLLIN)).collect();
        match poll(&mut fds, timeout) {
            Ok(0) => return Ok(Wake::Nothing),
            Ok(_) | Err(Errno::EINTR) => {}
            Err(errno) => {
                return Err(crate::store::io_error(
                    "poll",
                    "netlink".as_ref(),
                    errno.into(),
                ));
            }
        }
        drop(fds);
        self.take_claims();
        let mut wake = Wake::Nothing;
        for event in self.monitor.drain()? {
            match event {
                Event::Overrun => {
                    self.memory.forget();
                    wake = Wake::Parents;
                }
                Event::NsidRemoved(id) if id == self.parents => return Ok(Wake::Dead),
                Event::NsidRemoved(_) | Event::NsidAdded(_) => {}
                Event::Link {
                    ns: Some(ns),
                    index,
                    removed,
                    ..
                } => {
                    self.forget_routes_of(ns, index);
                    wake = wake.max(self.concerns(ns, index, removed));
                }
                Event::Address {
                    ns: Some(ns),
                    index,
                    ..
                } => {
                    self.forget_routes_of(ns, index);
                    wake = wake.max(self.concerns(ns, index, false));
                }
                Event::Moved {
                    ns,
                    index,
                    to,
                    new_index,
                } => {
                    // The event before it has woken us.
                    if ns == Some(self.parents) {
                        let _: Option<_> = self.heard.moves.insert(index, (to, new_index));
                    }
                }
                Event::NotifyPeers { ns, index } => {
                    if ns == Some(self.parents)
                        && let Some(view) = self.memory.world.ports.get(&index)
                    {
                        self.announcer.port(index, view);
                    }
                }
                // A next router of the parents', or in l3s a way to whatever is behind the host.
                Event::Route {
                    ns: Some(ns),
                    table,
                    by_router,
                } if ns == self.parents => {
                    if by_router || self.forwards() && !self.is_ours(table) {
                        self.memory.knows_routes = false;
                        wake = Wake::Parents;
                    }
                }
                // Somebody has changed what l3s made, or what it stands on.
                Event::Forwarding { ns: Some(ns) } if ns == self.parents => {
                    if self.forwards() {
                        self.memory.knows_routes = false;
                        wake = Wake::Parents;
                    }
                }
                Event::Link { ns: None, .. }
                | Event::Address { ns: None, .. }
                | Event::Route { .. }
                | Event::Forwarding { .. } => {}
            }
        }
        Ok(wake)
    }

    /// Takes what guests said of their addresses, and notes which devices are to be looked at for it.
    fn take_claims(&mut self) {
        let claims = self.ears.hear();
        if claims.is_empty() {
            return;
        }
        let mut taken = || -> Result<Vec<u32>, Error> {
            let Some(_locked) = self.store.lock_existing()? else {
                return Ok(Vec::new());
            };
            let seen = &self.memory.world;
            learn::take_all(&mut self.nl, self.parents, &self.store, seen, &claims)
        };
        match taken() {
            Ok(hosts) => {
                if let Some(changed) = &mut self.memory.changed {
                    changed.extend(hosts);
                }
            }
            // Said again, it is tried again.
            Err(error) => log::debug!("{error}"),
        }
    }

    /// Whether the parents' namespace forwards for devices (l3s).
    fn forwards(&self) -> bool {
        let mut ports = self.memory.world.ports.values();
        ports.any(|port| routing::concerns(&port.entry))
    }

    /// Whether a table is what l3s makes.
    fn is_ours(&self, table: u32) -> bool {
        let mut parents = self.memory.world.ports.keys();
        parents.any(|parent| routing::table(*parent) == table)
    }

    /// With a link that goes down, or an address that goes, IPv4 routes go without a word.
    fn forget_routes_of(&mut self, ns: Nsid, index: u32) {
        let counts = |(parent, port): (&u32, &PortView)| {
            let master = port.parent.as_ref().and_then(|link| link.master);
            let in_l3s = routing::concerns(&port.entry) && !port.devs.contains_key(&index);
            *parent == index || master == Some(index) || in_l3s
        };
        if ns == self.parents && self.memory.world.ports.iter().any(counts) {
            self.memory.knows_routes = false;
        }
    }

    /// Whether something that happened to an interface concerns us; notes which device is to be
    /// looked at again.
    fn concerns(&mut self, ns: Nsid, index: u32, removed: bool) -> Wake {
        let here = ns == self.parents;
        if let Some(host) = self.who.get(&(ns, index)) {
            let known = match &mut self.memory.changed {
                Some(changed) => {
                    let _: bool = changed.insert(*host);
                    true
                }
                None => false,
            };
            return if removed || !known {
                Wake::Parents
            } else {
                Wake::Nothing
            };
        }
        if !here {
            // Of what else is in a device's namespace nobody needs to know; unless a device was
            // not found there, and has come now.
            return if self.unseen > 0 {
                Wake::Parents
            } else {
                Wake::Nothing
            };
        }
        let world = &self.memory.world;
        if !world.ports.contains_key(&index) {
            self.heard.arrivals = true;
        }
        if let Some(changed) = &mut self.memory.changed
            && world
                .ports
                .values()
                .any(|port| port.devs.contains_key(&index))
        {
            let _: bool = changed.insert(index);
        }
        Wake::Parents
    }
}
