//! A short look, at devices alone.
//!
//! A whole look asks the kernel for all links and reads all maps: it takes the longer the more
//! devices there are. Most events say that a device of known place has got or lost an address, and
//! then it is enough to ask for that device, and to plan with what is remembered of the rest.
//!
//! What is remembered may be behind the times: a call can have changed the port meanwhile. So only
//! steps that follow from the addresses of a device are made; anything else that a plan says needs
//! a whole look first, and one comes soon anyway.

use std::collections::BTreeSet;

use ipvlan_netlink::Netlink;

use crate::apply::Apply;
use crate::error::Error;
use crate::learn;
use crate::observe::{Memory, World, device};
use crate::plan::{Step, plan};
use crate::routing::behind;
use crate::store::Locked;

/// Looks at the devices behind these host ends. False: that was not enough.
pub(crate) fn look_at(
    nl: &mut Netlink,
    locked: &Locked,
    memory: &mut Memory,
    hosts: &BTreeSet<u32>,
) -> Result<bool, Error> {
    for (parent, port) in &mut memory.world.ports {
        if !hosts.iter().any(|host| port.devs.contains_key(host)) {
            continue;
        }
        // A call that changes the mode changes the devices with it, and is not to be reverted.
        let now = locked.store().port(*parent)?;
        if now.entry()? != port.entry {
            return Ok(false);
        }
        port.grants = now.grants()?;
        port.learnt = now.learnt()?;
        port.owners = now.owners()?;
        for (host, dev) in &mut port.devs {
            if hosts.contains(host) {
                let fresh = device(nl, dev.host.as_ref(), dev.entry)?;
                if fresh.link.is_none() {
                    return Ok(false);
                }
                *dev = fresh;
            }
        }
        port.behind = behind(nl, port)?;
    }
    memory.world.now = learn::now();
    let steps = plan(&memory.world);
    if !steps.iter().all(follows_from_its_addresses) {
        return Ok(false);
    }
    if let Some(error) = Apply::new(nl, locked.store())
        .all(&steps)
        .into_iter()
        .next()
    {
        return Err(error);
    }
    for step in steps {
        remember(&mut memory.world, step);
    }
    Ok(true)
}

fn follows_from_its_addresses(step: &Step) -> bool {
    matches!(step, Step::DropOwner { .. } | Step::SetOwner { .. })
}

/// What is true of the maps after a step.
fn remember(world: &mut World, step: Step) {
    match step {
        Step::SetOwner {
            port,
            prefix,
            owner,
        } => {
            if let Some(view) = world.ports.get_mut(&port) {
                let _: Option<_> = view.owners.insert(prefix, owner);
            }
        }
        Step::DropOwner { port, prefix } => {
            if let Some(view) = world.ports.get_mut(&port) {
                let _: Option<_> = view.owners.remove(&prefix);
            }
        }
        _ => {}
    }
}
