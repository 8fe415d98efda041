//! Observe, plan, apply.

use std::collections::BTreeSet;

use ipvlan_datapath_bpf::Port;
use ipvlan_netlink::{NetNs, Netlink};

use crate::apply::Apply;
use crate::error::Error;
use crate::handover::{Away, Heard, Who, follow, has_lost_a_parent};
use crate::observe::{Memory, observe};
use crate::plan::{Step, plan};
use crate::store::{Locked, Store};
use crate::takeover;

/// Rounds that one call makes at most. A plan changes what the next look sees (a link that is
/// deleted leaves its entry to be forgotten), so it takes two or three until nothing differs.
const ROUNDS: usize = 4;

/// Makes the namespace of `nl` (and of the calling thread) what it should be.
///
/// # Errors
///
/// The first thing that failed, after everything else was tried.
pub(crate) fn reconcile(nl: &mut Netlink, locked: &Locked) -> Result<(), Error> {
    let agent = locked.store().has_agent();
    reconcile_arrivals(nl, locked, agent)
}

/// The same where a parent may have come just now, whose devices had an `agent`, or not.
pub(crate) fn reconcile_arrivals(
    nl: &mut Netlink,
    locked: &Locked,
    agent: bool,
) -> Result<(), Error> {
    let who = Who { heard: None, agent };
    if rounds(nl, locked, &mut Memory::default(), who)? == Away::Lost {
        log::warn!("{LOST}");
    }
    Ok(())
}

/// What is to be said of [`Away::Lost`].
pub(crate) const LOST: &str = "a parent was moved to a network namespace that cannot be found; its \
     devices wait until it is back, or the namespace has a name (ip netns attach) or a process";

/// The same by the agent, starting from what is remembered, and leaving there what was seen.
pub(crate) fn reconcile_from(
    nl: &mut Netlink,
    locked: &Locked,
    memory: &mut Memory,
    heard: &mut Heard,
) -> Result<Away, Error> {
    let who = Who {
        heard: Some(heard),
        agent: true,
    };
    let done = rounds(nl, locked, memory, who);
    if done.is_err() {
        memory.forget();
    }
    done
}

fn rounds(
    nl: &mut Netlink,
    locked: &Locked,
    memory: &mut Memory,
    mut who: Who<'_>,
) -> Result<Away, Error> {
    locked.remove_abandoned()?;
    // What has come from another namespace, where an older version still is.
    takeover::on_arrival(locked, who.heard.is_some())?;
    let mut away = follow(nl, locked, &mut who)?;
    for _ in 0..ROUNDS {
        memory.world = observe(nl, locked.store(), memory)?;
        memory.changed = Some(BTreeSet::new());
        memory.knows_routes = true;
        if has_lost_a_parent(locked.store(), &memory.world)? {
            // Moved at this very moment.
            away = follow(nl, locked, &mut who)?;
            memory.forget();
            continue;
        }
        let steps = plan(&memory.world);
        if steps.is_empty() {
            break;
        }
        if steps.iter().any(changes_a_device) {
            memory.changed = None;
        }
        if let Some(error) = Apply::new(nl, locked.store())
            .all(&steps)
            .into_iter()
            .next()
        {
            return Err(error);
        }
    }
    Ok(away)
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
        | Step::SetDev { .. }
        | Step::ForgetDev { .. }
        | Step::SetRoute { .. }
        | Step::DropRoute { .. }
        | Step::AddRule { .. }
        | Step::DropRule { .. }
        | Step::Set { .. }
        | Step::DeleteLink { .. }
        | Step::ForgetLearnt { .. }
        | Step::RemovePort { .. } => false,
    }
}

/// The same, where there may be nothing to look at.
pub(crate) fn reconcile_if_any(nl: &mut Netlink) -> Result<(), Error> {
    let store = Store::current()?;
    takeover::take_over(&store)?;
    if let Some(locked) = store.lock_existing()? {
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
        // By its pins alone: another version may have made it.
        let dir = store.port_dir(parent);
        if Port::parent_index_in(&dir)? != Some(0) {
            continue;
        }
        // A parent that was deleted is not yet a namespace that died: without its port, what is
        // left of a device would talk to the stack of a host that lives.
        if Port::is_deserted_in(&dir)? {
            Port::remove_rest(&dir)?;
        } else if let Some(ns) = NetNs::by_cookie(store.cookie()) {
            return ns.enter(|| {
                reconcile(&mut Netlink::open()?, &locked)?;
                locked.release();
                Ok(())
            })?;
        }
    }
    for which in store.travelling() {
        let dir = store.traveller_dir(which);
        if Port::is_deserted_in(&dir)? {
            Port::remove_rest(&dir)?;
        }
    }
    // Whoever was killed over a handover left it to us.
    if !store.travelling().is_empty()
        && let Some(ns) = NetNs::by_cookie(store.cookie())
    {
        ns.enter(|| reconcile(&mut Netlink::open()?, &locked))??;
    }
    locked.release();
    Ok(())
}
