//! Observe, plan, apply.

use std::collections::BTreeSet;

use ipvlan_netlink::Netlink;

use crate::apply::Apply;
use crate::error::Error;
use crate::observe::{Memory, observe};
use crate::plan::{Step, plan};
use crate::store::{Locked, Store};

/// Rounds that one call makes at most. A plan changes what the next look sees (a link that is
/// deleted leaves its entry to be forgotten), so it takes two or three until nothing differs.
const ROUNDS: usize = 4;

/// Makes the namespace of `nl` (and of the calling thread) what it should be.
///
/// # Errors
///
/// The first thing that failed, after everything else was tried.
pub(crate) fn reconcile(nl: &mut Netlink, locked: &Locked) -> Result<(), Error> {
    reconcile_from(nl, locked, &mut Memory::default())
}

/// The same, starting from what is remembered, and leaving there what was seen.
pub(crate) fn reconcile_from(
    nl: &mut Netlink,
    locked: &Locked,
    memory: &mut Memory,
) -> Result<(), Error> {
    let done = rounds(nl, locked, memory);
    if done.is_err() {
        memory.forget();
    }
    done
}

fn rounds(nl: &mut Netlink, locked: &Locked, memory: &mut Memory) -> Result<(), Error> {
    locked.remove_abandoned()?;
    for _ in 0..ROUNDS {
        memory.world = observe(nl, locked.store(), memory)?;
        memory.changed = Some(BTreeSet::new());
        let steps = plan(&memory.world);
        if steps.is_empty() {
            break;
        }
        if steps.iter().any(changes_a_device) {
            memory.forget();
        }
        if let Some(error) = Apply::new(nl, locked.store())
            .all(&steps)
            .into_iter()
            .next()
        {
            return Err(error);
        }
    }
    Ok(())
}

/// Whether a device looks different after it. The others change maps, or links that are looked at
/// each time.
fn changes_a_device(step: &Step) -> bool {
    match step {
        Step::ChangeDev { .. } | Step::RemoveAddress { .. } | Step::Change { .. } => true,
        Step::DropOwner { .. }
        | Step::SetOwner { .. }
        | Step::SetMember { .. }
        | Step::SetEntry { .. }
        | Step::ForgetDev { .. }
        | Step::SetRoute { .. }
        | Step::DropRoute { .. }
        | Step::AddRule { .. }
        | Step::DropRule { .. }
        | Step::Set { .. }
        | Step::DeleteLink { .. }
        | Step::RemovePort { .. } => false,
    }
}

/// The same, where there may be nothing to look at.
pub(crate) fn reconcile_if_any(nl: &mut Netlink) -> Result<(), Error> {
    if let Some(locked) = Store::current()?.lock_existing()? {
        reconcile(nl, &locked)?;
        locked.release();
    }
    sweep_dead_namespaces();
    Ok(())
}

/// Removes what is left of namespaces that died without an agent to see it: their pinned links hold
/// on to nothing.
pub(crate) fn sweep_dead_namespaces() {
    for store in Store::all() {
        if store.has_agent() {
            continue;
        }
        if let Err(error) = sweep(&store) {
            log::debug!("sweep: {error}");
        }
    }
}

fn sweep(store: &Store) -> Result<(), Error> {
    let Some(locked) = store.lock_existing()? else {
        return Ok(());
    };
    // Whoever makes a port holds this lock, dead namespace or not.
    locked.remove_abandoned()?;
    for parent in store.ports() {
        let port = store.port(parent)?;
        if port.is_orphaned()? {
            port.remove(None)?;
        }
    }
    locked.release();
    Ok(())
}
