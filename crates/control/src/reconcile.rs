//! Observe, plan, apply.

use ipvlan_netlink::Netlink;

use crate::apply::Apply;
use crate::error::Error;
use crate::observe::{World, observe};
use crate::plan::plan;
use crate::store::{Locked, Store};

/// Rounds that one call makes at most. A plan changes what the next look sees (a link that is
/// deleted leaves its entry to be forgotten), so it takes two or three until nothing differs.
const ROUNDS: usize = 4;

/// Makes the namespace of `nl` (and of the calling thread) what it should be. Returns what it saw
/// last.
///
/// # Errors
///
/// The first thing that failed, after everything else was tried.
pub(crate) fn reconcile(nl: &mut Netlink, locked: &Locked) -> Result<World, Error> {
    locked.remove_abandoned()?;
    let mut world = World::default();
    for _ in 0..ROUNDS {
        world = observe(nl, locked.store())?;
        let steps = plan(&world);
        if steps.is_empty() {
            break;
        }
        if let Some(error) = Apply::new(nl, locked.store())
            .all(&steps)
            .into_iter()
            .next()
        {
            return Err(error);
        }
    }
    Ok(world)
}

/// The same, where there may be nothing to look at.
pub(crate) fn reconcile_if_any(nl: &mut Netlink) -> Result<(), Error> {
    if let Some(locked) = Store::current()?.lock_existing()? {
        let _: World = reconcile(nl, &locked)?;
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
