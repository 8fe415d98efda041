//! Devices that come, go, were given up half way; and their slots.

use super::*;

#[test]
fn a_fresh_device_gets_its_addresses_its_slot_and_its_mode() {
    for mode in [Mode::L2, Mode::L3] {
        let mut kernel = two(mode);
        let mut fresh = device(12, 2, &["10.0.0.12", "fd00::12"]);
        fresh.host = Some(link(12)).map(|mut host| {
            host.flags = 0;
            host
        });
        let _: Option<DevView> = kernel.port().devs.insert(12, fresh);
        let mut expected = vec![
            set("10.0.0.12", owner(12, place(12))),
            set("fd00::12", owner(12, place(12))),
            member(2, 12),
            up(12, true),
        ];
        if mode == Mode::L3 {
            let change = LinkChange {
                noarp: Some(true),
                ..LinkChange::default()
            };
            expected.push(inside(12, change));
        }
        expected.push(entry(&mut kernel, |entry| entry.members = 3));
        assert_eq!(kernel.plan(), expected, "{mode}");
        assert_eq!(kernel.reconcile(), 1, "one round is enough");
    }
}

#[test]
fn a_device_given_up_half_way_is_undone() {
    let mut kernel = two(Mode::L2);
    kernel.dev(11).entry.bits = 0;
    let expected = [
        lose("10.0.0.11"),
        member(1, 0),
        entry(&mut kernel, |entry| entry.members = 1),
        delete(11),
        forget(11),
    ];
    assert_eq!(kernel.plan(), expected, "not ready");
    let _: usize = kernel.reconcile();
    assert!(!kernel.port().devs.contains_key(&11), "it is gone");
}

#[test]
fn a_device_that_was_deleted_is_forgotten() {
    let mut kernel = two(Mode::L2);
    let dev = kernel.dev(10);
    dev.host = None;
    dev.link = None;
    dev.addresses.clear();
    let expected = [
        lose("10.0.0.10"),
        lose("fd00::10"),
        member(0, 0),
        forget(10),
    ];
    assert_eq!(kernel.plan(), expected, "there is no link to delete");
}

#[test]
fn a_host_end_that_no_port_knows_is_deleted() {
    let mut kernel = two(Mode::L2);
    kernel.world.strays = BTreeSet::from([50, 60]);
    assert_eq!(kernel.plan(), [delete(50), delete(60)], "strays");
    let kernel = Kernel {
        world: World {
            strays: BTreeSet::from([50]),
            ..World::default()
        },
        ..Kernel::default()
    };
    assert_eq!(kernel.plan(), [delete(50)], "without any port");
}

#[test]
fn the_members_end_where_the_highest_slot_is() {
    let devs = (0..4).map(|slot| device(10 + slot, slot, &[])).collect();
    let mut kernel = Kernel::settled(Mode::L3, devs);
    for (gone, members, steps) in [(11, 4, 2), (13, 3, 3), (12, 1, 3), (10, 0, 0)] {
        let dev = kernel.dev(gone);
        dev.host = None;
        dev.link = None;
        let found = kernel.plan();
        if members == 0 {
            let remove = Step::RemovePort { port: PARENT };
            assert_eq!(found.last(), Some(&remove), "the last one");
            break;
        }
        assert_eq!(found[0], member(gone - 10, 0), "its slot is free");
        assert_eq!(
            found.len(),
            steps,
            "slot, entry if shorter, forget: {found:?}"
        );
        let _: usize = kernel.reconcile();
        assert_eq!(kernel.port().entry.members, members, "after {gone}");
        assert_eq!(kernel.plan(), [], "a hole is no fault");
    }
}

#[test]
fn a_slot_is_used_again() {
    let mut kernel = two(Mode::L3);
    let dev = kernel.dev(10);
    dev.host = None;
    dev.link = None;
    dev.addresses.clear();
    let _: Option<DevView> = kernel.port().devs.insert(12, device(12, 0, &[]));
    kernel.link(12).flags |= IFF_NOARP;
    let expected = [
        lose("10.0.0.10"),
        lose("fd00::10"),
        member(0, 0),
        member(0, 12),
        forget(10),
    ];
    assert_eq!(kernel.plan(), expected, "by another host end");
    let _: usize = kernel.reconcile();
    assert_eq!(
        kernel.observe().ports[&PARENT].members,
        [12, 11],
        "both hear"
    );
}

#[test]
fn a_slot_that_holds_what_is_no_device_of_ours_is_freed() {
    let mut kernel = two(Mode::L2);
    kernel.port().entry.members = 4;
    let slots = kernel.slots.get_mut(&PARENT).expect("the slots");
    slots.extend([(2, 77), (3, 10)]);
    let expected = [
        member(2, 0),
        member(3, 0),
        entry(&mut kernel, |entry| entry.members = 2),
    ];
    assert_eq!(kernel.plan(), expected, "a stranger, and one device twice");
}

#[test]
fn a_slot_that_comes_into_reach_is_free() {
    let mut kernel = two(Mode::L2);
    // Left by a creation that was killed between member and entry.
    let slots = kernel.slots.get_mut(&PARENT).expect("the slots");
    let _: Option<u32> = slots.insert(2, 77);
    let _: Option<DevView> = kernel.port().devs.insert(13, device(13, 3, &[]));
    for step in kernel.plan() {
        kernel.apply(&step);
        let heard = kernel.observe().ports[&PARENT].members.contains(&77);
        assert!(!heard, "a stranger hears broadcasts after {step:?}");
    }
}
