//! How long until an address is another's: added, removed, its device down, up, moved away.
//!
//! Two devices have the same address, so that whoever has to wait is there at once when the other
//! one is not any more: what is timed is the agent, not a second command.

use std::net::Ipv4Addr;
use std::time::{Duration, Instant};

use crate::error::{Error, Result};
use crate::many::life::ms;
use crate::many::net::{Kind, Parent};
use crate::run::ip_batch;
use crate::sys;

/// Each for every time it was done, ms.
#[derive(Debug, Default)]
pub(super) struct Changes {
    pub(super) added: Vec<f64>,
    pub(super) removed: Vec<f64>,
    pub(super) down: Vec<f64>,
    pub(super) up: Vec<f64>,
    pub(super) moved: Vec<f64>,
}

/// How often.
const TIMES: u32 = 10;
/// How long the agent must not have run before the next change.
const REST: Duration = Duration::from_millis(10);
/// How long an answer may take.
const LIMIT: Duration = Duration::from_secs(5);

/// Nobody has it but the two, and they only here.
const SHARED: Ipv4Addr = Ipv4Addr::new(10, 77, 250, 1);

impl Parent {
    /// Changes the first two devices, and leaves them as they were. `None` for a kind that gives an
    /// address to all who say that they have it.
    pub(super) fn changes(&self) -> Result<Option<Changes>> {
        let ([first, second, ..], Kind::Ipvlan) = (self.spaces(), self.kind) else {
            return Ok(None);
        };
        let add = |device: &str| format!("address add {SHARED}/16 dev {device}\n");
        let del = |device: &str| format!("address del {SHARED}/16 dev {device}\n");
        let mut changes = Changes::default();
        for _ in 0..TIMES {
            sys::check_interrupt()?;
            changes.added.push(self.timed(first, &add("dev0"))?);
            self.quiet(second, &add("dev1"))?;
            changes.removed.push(self.timed(first, &del("dev0"))?);
            self.quiet(first, &add("dev0"))?;
            let down = "link set dev1 down\n";
            changes.down.push(self.timed(second, down)?);
            self.quiet(first, &del("dev0"))?;
            changes.up.push(self.timed(second, "link set dev1 up\n")?);
            self.quiet(first, &add("dev0"))?;
            // To where the other one is; its addresses stay behind.
            let away = format!("link set dev1 netns {first}\n");
            changes.moved.push(self.timed(second, &away)?);
            let home = format!("{}link set dev1 netns {second}\n", del("dev0"));
            self.quiet(first, &home)?;
            let own = self.addresses().get(1).copied().unwrap_or(SHARED);
            let again = format!("link set dev1 up\naddress add {own}/16 dev dev1\n");
            self.quiet(second, &again)?;
        }
        Ok(Some(changes))
    }

    /// From the end of the process until the LAN is answered, ms.
    fn timed(&self, space: &str, lines: &str) -> Result<f64> {
        ip_batch(space, lines)?;
        let start = Instant::now();
        if !self.wire.ask_until(SHARED, LIMIT)? {
            return Err(Error::Stuck { what: "a change" });
        }
        let took = ms(start.elapsed());
        self.settle(REST)?;
        Ok(took)
    }

    fn quiet(&self, space: &str, lines: &str) -> Result<()> {
        ip_batch(space, lines)?;
        self.settle(REST)
    }
}
