//! What was learnt of guests: against others, and when it is forgotten.

use super::*;
use crate::learn::{self, AGE};

/// A tap with a guest that is learnt of, beside a device in a namespace.
fn learning() -> Kernel {
    let mut kernel = with_tap(Mode::L2);
    kernel.dev(20).entry.bits |= DEV_LEARN;
    kernel.port().grants.clear();
    let _: usize = kernel.reconcile();
    assert_ne!(kernel.port().entry.bits & PORT_LEARN, 0);
    kernel
}

fn slot(kernel: &mut Kernel, host: u32) -> u32 {
    kernel.dev(host).entry.slot
}

/// Its guest says it at this moment.
fn says(kernel: &mut Kernel, host: u32, address: &str, said: Moment) {
    let slot = slot(kernel, host);
    let learnt = kernel.port().learnt.entry(slot).or_default();
    let _: Option<_> = learnt.insert(ip(address), said);
    kernel.world.now = said;
    let _: usize = kernel.reconcile();
}

/// Another tap of this kind.
fn add_tap(kernel: &mut Kernel, host: u32, slot: u32) {
    let mut another = tap(host, slot);
    another.entry.bits |= DEV_LEARN;
    let _: Option<_> = kernel.port().devs.insert(host, another);
    let _: usize = kernel.reconcile();
}

#[test]
fn a_guest_owns_what_it_says_it_has() {
    let mut kernel = learning();
    says(&mut kernel, 20, "10.0.0.30", 5);
    says(&mut kernel, 20, "fd00::30", 6);
    assert_eq!(kernel.owner("10.0.0.30"), Some(20));
    assert_eq!(kernel.owner("fd00::30"), Some(20));
    kernel.world.now = 100 * AGE;
    assert_eq!(
        kernel.plan(),
        [],
        "however long ago, if nobody else wants it"
    );
}

#[test]
fn it_does_not_get_what_is_another_s() {
    let mut kernel = learning();
    let taken = ["10.0.0.40", "10.0.0.41", "10.0.0.42", "10.0.0.43"];
    let _: bool = kernel.world.own.insert(ip(taken[0]));
    let _: bool = kernel.port().gateways.insert(ip(taken[1]));
    let _: bool = kernel.dev(10).addresses.insert(ip(taken[2]));
    let by_hand = slot(&mut kernel, 10);
    let grants = kernel.port().grants.entry(by_hand).or_default();
    let _: bool = grants.insert(net(taken[3]));
    let _: usize = kernel.reconcile();
    let before: Vec<_> = taken.iter().map(|address| kernel.owner(address)).collect();
    for address in taken {
        says(&mut kernel, 20, address, AGE);
    }
    let after: Vec<_> = taken.iter().map(|address| kernel.owner(address)).collect();
    assert_eq!(after, before);
    assert!(!after.contains(&Some(20)));
}

#[test]
fn who_is_silent_for_long_loses_it_to_who_wants_it() {
    let mut kernel = learning();
    add_tap(&mut kernel, 30, 4);
    says(&mut kernel, 20, "10.0.0.30", 5);
    says(&mut kernel, 30, "10.0.0.30", 5 + AGE - 1);
    assert_eq!(kernel.owner("10.0.0.30"), Some(20), "it was heard lately");
    says(&mut kernel, 30, "10.0.0.30", 5 + AGE);
    assert_eq!(kernel.owner("10.0.0.30"), Some(30), "it was not");
    // And does not get it back, while the other one is heard.
    says(&mut kernel, 20, "10.0.0.30", 6 + AGE);
    assert_eq!(kernel.owner("10.0.0.30"), Some(30));
    // Nor does it keep it from a device that has it.
    let _: bool = kernel.dev(10).addresses.insert(ip("10.0.0.30"));
    let _: usize = kernel.reconcile();
    assert_eq!(kernel.owner("10.0.0.30"), Some(30), "first come");
    kernel.world.now = 5 + 3 * AGE;
    let _: usize = kernel.reconcile();
    assert_eq!(kernel.owner("10.0.0.30"), Some(10));
}

#[test]
fn it_is_forgotten_when_nobody_is_there_or_nobody_listens() {
    let ends: [fn(&mut Kernel); 4] = [
        |kernel| kernel.dev(20).host.as_mut().expect("the tap").flags &= !UP,
        |kernel| kernel.close(20),
        |kernel| {
            kernel.close(20);
            kernel.open(20);
        },
        |kernel| kernel.dev(20).entry.bits &= !DEV_LEARN,
    ];
    for end in ends {
        let mut kernel = learning();
        says(&mut kernel, 20, "10.0.0.30", 5);
        assert_eq!(kernel.owner("10.0.0.30"), Some(20));
        end(&mut kernel);
        let _: usize = kernel.reconcile();
        assert_eq!(kernel.owner("10.0.0.30"), None);
        let left: usize = kernel.port().learnt.values().map(BTreeMap::len).sum();
        assert_eq!(left, 0);
    }
}

#[test]
fn it_outlives_a_carrier_that_the_parent_lost() {
    let mut kernel = learning();
    says(&mut kernel, 20, "10.0.0.30", 5);
    kernel.parent().flags &= !LOWER_UP;
    let _: usize = kernel.reconcile();
    assert_ne!(kernel.dev(20).entry.bits & DEV_MUTED, 0);
    kernel.parent().flags |= LOWER_UP;
    let _: usize = kernel.reconcile();
    assert_eq!(kernel.owner("10.0.0.30"), Some(20));
}

#[test]
fn a_guest_that_comes_while_the_parent_has_no_carrier_is_another_one() {
    let mut kernel = learning();
    says(&mut kernel, 20, "10.0.0.30", 5);
    kernel.parent().flags &= !LOWER_UP;
    let _: usize = kernel.reconcile();
    // The one before had closed a tap that had no carrier.
    kernel.open(20);
    let _: usize = kernel.reconcile();
    assert_eq!(kernel.owner("10.0.0.30"), None);
    kernel.parent().flags |= LOWER_UP;
    let _: usize = kernel.reconcile();
    says(&mut kernel, 20, "10.0.0.31", 6);
    assert_eq!(kernel.owner("10.0.0.31"), Some(20));
}

#[test]
fn it_outlives_who_is_killed_before_he_took_a_carrier_away() {
    let mut kernel = learning();
    says(&mut kernel, 20, "10.0.0.30", 5);
    kernel.parent().flags &= !LOWER_UP;
    let steps = kernel.plan().into_iter();
    let takes = |step: &Step| matches!(step, Step::Change { index: 20, .. });
    steps
        .take_while(|step| !takes(step))
        .for_each(|step| kernel.apply(&step));
    assert_ne!(kernel.dev(20).entry.bits & DEV_MUTED, 0);
    let _: usize = kernel.reconcile();
    assert_eq!(kernel.owner("10.0.0.30"), Some(20));
    let tap = kernel.dev(20).host.as_ref().expect("the tap");
    assert!(!tap.has_carrier());
}

#[test]
fn who_was_killed_before_he_took_a_carrier_away_has_counted_nothing() {
    let mut kernel = learning();
    says(&mut kernel, 20, "10.0.0.30", 5);
    let tap = kernel.dev(20).host.clone().expect("the tap");
    kernel.dev(20).entry = learn::muted(kernel.dev(20).entry, &tap);
    // And the parent has its own again.
    let _: usize = kernel.reconcile();
    assert_eq!(kernel.owner("10.0.0.30"), Some(20));
    assert_eq!(kernel.dev(20).entry.bits & DEV_MUTED, 0);
    kernel.close(20);
    kernel.open(20);
    let _: usize = kernel.reconcile();
    assert_eq!(kernel.owner("10.0.0.30"), None);
}

#[test]
fn half_of_the_kernel_s_count_is_enough() {
    let mut kernel = learning();
    let tap = kernel.dev(20).host.as_mut().expect("the tap");
    tap.carrier_down_count = 0xffff;
    kernel.dev(20).entry.carrier_downs = 0xffff;
    says(&mut kernel, 20, "10.0.0.30", 5);
    kernel.close(20);
    kernel.open(20);
    let _: usize = kernel.reconcile();
    assert_eq!(kernel.owner("10.0.0.30"), None);
    assert_eq!(kernel.dev(20).entry.carrier_downs, 0);
}
