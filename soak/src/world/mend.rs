//! What is done between two bursts, and after the last: what nobody follows is mended, and what nobody
//! knows any more is given up.

use ipvlan_tests::Ns;

use super::{Outcome, World};
use crate::model::{GUEST, Home, Number};
use crate::report::Fate;
use crate::script::{Call, Op};

impl World<'_> {
    /// Nobody follows: somebody calls once, or starts an agent. The state stays as it is.
    pub(crate) fn mend(&mut self, by_agent: bool) {
        if by_agent && !self.state.devices.is_empty() {
            let now = self.shared.now();
            self.shared.report().starts(now, "mend: an agent starts");
            if let Outcome::Failed(why) = self.start_agent() {
                self.shared.found(why);
            }
        } else {
            self.call_once();
        }
    }

    fn call_once(&mut self) {
        let (mode, flag) = (self.state.mode.word(), self.state.flag.word());
        let mut lines = vec![format!("link set eth0 type ipvlan mode {mode} {flag}")];
        // Where there is no device that is known there may be no port that could be set.
        if self.state.devices.is_empty()
            && let Some(home) = self.homes.first().map(Ns::name)
        {
            lines = vec![
                format!("link add link eth0 name x0 netns {home} type ipvlan mode {mode} {flag}"),
                format!("-n {home} link del x0"),
            ];
        }
        let call = Call {
            agent: false,
            killed: None,
        };
        for line in lines {
            let now = self.shared.now();
            self.shared.report().starts(now, &format!("mend: {line}"));
            if let Outcome::Failed(why) = self.call(call, &line) {
                self.shared.found(why);
            }
        }
        self.either.clear();
        self.remember();
        self.shared.facts().follow(self.shared.now());
    }

    /// The LAN finds out about a MAC address that nobody announces. It would anyway, after half a
    /// minute.
    pub(crate) fn announce(&mut self) {
        if std::mem::take(&mut self.unannounced) {
            self.forget_neighbours();
        }
    }

    /// A device about which nothing is known any more.
    pub(crate) fn give_up(&self, home: Home, name: &str) {
        let ns = match home {
            GUEST.. => Some(&self.net.host),
            _ => self.homes.get(home),
        };
        if let Some(ns) = ns {
            let _: bool = ns.try_sh(&format!("ip link del {name}")).ok();
        }
    }

    /// All devices go, one way or the other.
    pub(crate) fn empty(&mut self) {
        if !self.shared.facts().agent() && !self.state.devices.is_empty() {
            self.mend(true);
        }
        let numbers: Vec<Number> = self.state.devices.keys().copied().collect();
        for device in numbers {
            let call = Call {
                agent: true,
                killed: None,
            };
            let call = (device % 2 == 0).then_some(call);
            let _: Fate = self.perform(&Op::Delete { device, call });
        }
    }
}
