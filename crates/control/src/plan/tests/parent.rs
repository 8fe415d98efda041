//! The parent, and what devices have of it.

use super::*;

#[test]
fn a_parent_that_is_gone_takes_its_devices_with_it() {
    for mode in [Mode::L2, Mode::L3] {
        let mut kernel = two(mode);
        kernel.port().parent = None;
        let steps = kernel.plan();
        let expected = [
            delete(10),
            forget(10),
            delete(11),
            forget(11),
            Step::RemovePort { port: PARENT },
        ];
        assert!(steps.ends_with(&expected), "{mode}: {steps:?}");
        let touched = steps.iter().any(|step| {
            matches!(
                step,
                Step::Change { index: PARENT, .. } | Step::ChangeDev { .. }
            )
        });
        assert!(!touched, "there is nothing to change any more: {steps:?}");
        let _: usize = kernel.reconcile();
        assert!(kernel.world.ports.is_empty(), "nothing stays");
    }
}

#[test]
fn a_port_without_devices_ends_and_the_parent_is_as_before() {
    let mut kernel = Kernel::settled(Mode::L3, vec![]);
    let remove = Step::RemovePort { port: PARENT };
    assert_eq!(kernel.plan(), std::slice::from_ref(&remove), "empty");
    kernel.port().entry.bits = PORT_ALLMULTI;
    listen(kernel.port().parent.as_mut(), true);
    let expected = [all_multicast(PARENT, false), remove.clone()];
    assert_eq!(kernel.plan(), expected, "what we switched on goes off");
    kernel.port().entry.mode = Mode::L2 as u8;
    assert_eq!(kernel.plan(), expected, "in l2 as well");
    kernel.port().entry.bits = 0;
    assert_eq!(kernel.plan(), [remove], "what others switched on stays");
}

#[test]
fn all_devices_follow_a_change_of_the_parents_mac_address_and_mtu() {
    let mut kernel = two(Mode::L2);
    kernel.link(11).mtu = 9000;
    kernel.parent().mac = Some(OTHER_MAC);
    kernel.parent().mtu = 1400;
    let follow = LinkChange {
        mac: Some(OTHER_MAC),
        mtu: Some(1400),
        ..LinkChange::default()
    };
    let behind = |kernel: &mut Kernel, host| {
        let entry = kernel.dev(host).entry;
        let bits = entry.bits | DEV_BEHIND_MAC | DEV_BEHIND_MTU;
        let entry = DevEntry { bits, ..entry };
        let port = PARENT;
        Step::SetDev { port, host, entry }
    };
    let expected = [
        behind(&mut kernel, 10),
        inside(10, follow.clone()),
        behind(&mut kernel, 11),
        inside(11, follow),
        // Last: until then it says that there is something to follow.
        entry(&mut kernel, |entry| {
            entry.mac = OTHER_MAC;
            entry.mtu = 1400;
        }),
    ];
    assert_eq!(kernel.plan(), expected, "both");
    assert_eq!(kernel.reconcile(), 2, "one round, and one to see it");
    let behind = DEV_BEHIND_MAC | DEV_BEHIND_MTU;
    for host in [10, 11] {
        assert_eq!(kernel.dev(host).entry.bits & behind, 0);
    }
}

#[test]
fn a_device_that_is_on_its_way_follows_when_it_is_there() {
    let mut kernel = two(Mode::L2);
    let away = kernel.dev(10).link.take();
    kernel.parent().mac = Some(OTHER_MAC);
    kernel.parent().mtu = 1400;
    let _: usize = kernel.reconcile();
    assert_eq!(kernel.port().entry.mac, OTHER_MAC, "the wire does not wait");
    kernel.dev(10).link = away;
    let _: usize = kernel.reconcile();
    assert_eq!(kernel.link(10).mac, Some(OTHER_MAC));
    assert_eq!(kernel.link(10).mtu, 1400);
    // From then on it may have its own.
    kernel.link(10).mtu = 1300;
    assert_eq!(kernel.plan(), []);
}

#[test]
fn a_device_keeps_what_it_was_given_while_the_parent_does_not_change() {
    let mut kernel = two(Mode::L2);
    kernel.link(10).mtu = 9000;
    kernel.link(11).mtu = 1280;
    kernel.link(11).mac = Some(OTHER_MAC);
    assert_eq!(kernel.plan(), [], "an MTU or MAC address of its own");
    kernel.parent().mac = None;
    assert_eq!(kernel.plan(), [], "a parent without one says nothing");
}

#[test]
fn a_device_has_carrier_when_its_parent_is_up_and_has() {
    for (flags, carrier) in [(0, false), (UP, false), (LOWER_UP, false)] {
        let mut kernel = two(Mode::L3);
        kernel.parent().flags = flags;
        let expected = [up(10, carrier), up(11, carrier)];
        assert_eq!(kernel.plan(), expected, "parent flags {flags:#x}");
        let _: usize = kernel.reconcile();
        assert_eq!(kernel.plan(), [], "and that is all");
        kernel.parent().flags = UP | LOWER_UP;
        assert_eq!(kernel.plan(), [up(10, true), up(11, true)], "back");
    }
}

#[test]
fn devices_have_arp_in_l2_and_none_in_l3() {
    for (from, to) in [(Mode::L2, Mode::L3), (Mode::L3, Mode::L2)] {
        let mut kernel = two(from);
        kernel.port().entry.mode = to as u8;
        let change = LinkChange {
            noarp: Some(to == Mode::L3),
            ..LinkChange::default()
        };
        let steps = kernel.plan();
        for host in [10, 11] {
            assert!(
                steps.contains(&inside(host, change.clone())),
                "{from} to {to}"
            );
        }
        let _: usize = kernel.reconcile();
        let listens = kernel.parent().flags & IFF_ALLMULTI != 0;
        assert_eq!(listens, to == Mode::L2, "and the parent listens in l2 only");
        let ours = kernel.port().entry.bits & PORT_ALLMULTI != 0;
        assert_eq!(ours, to == Mode::L2, "and it is known to be our doing");
        // Inside, root may switch it as it likes; it comes back.
        kernel.link(10).flags ^= IFF_NOARP;
        assert_eq!(kernel.plan(), [inside(10, change)], "the mode decides");
    }
}

#[test]
fn the_parent_listens_to_all_multicast_in_l2_unless_it_does_already() {
    let mut kernel = two(Mode::L2);
    kernel.port().entry.bits = 0;
    assert_eq!(kernel.plan(), [], "somebody else made it listen");
    kernel.parent().flags &= !IFF_ALLMULTI;
    assert_eq!(kernel.plan(), [], "a bridge, say, without the flag");
    kernel.parent().allmulti = None;
    kernel.parent().flags |= IFF_ALLMULTI;
    assert_eq!(kernel.plan(), [], "a kernel that does not count");
    listen(kernel.port().parent.as_mut(), false);
    let ours = entry(&mut kernel, |entry| entry.bits = PORT_ALLMULTI);
    let mut steps = kernel.plan();
    assert!(steps.contains(&all_multicast(PARENT, true)), "{steps:?}");
    assert!(steps.contains(&ours), "{steps:?}");
    steps.clear();
    let _: usize = kernel.reconcile();
    listen(kernel.port().parent.as_mut(), false);
    let expected = [all_multicast(PARENT, true)];
    assert_eq!(
        kernel.plan(),
        expected,
        "and again, should it be switched off"
    );
    let mut quiet = two(Mode::L3);
    assert_eq!(quiet.plan(), [], "l3 has no multicast");
    listen(quiet.port().parent.as_mut(), true);
    assert_eq!(quiet.plan(), [], "what others want in l3 is theirs");
}

#[test]
fn a_parent_that_we_made_listen_is_known_to_be_ours_when_we_are_killed() {
    let mut kernel = two(Mode::L2);
    kernel.port().entry.bits = 0;
    listen(kernel.port().parent.as_mut(), false);
    let steps = kernel.plan();
    assert_eq!(steps.len(), 2, "{steps:?}");
    kernel.apply(&steps[0]);
    // Killed here. The next one finishes it, and then the last device goes.
    let _: usize = kernel.reconcile();
    kernel.port().devs.clear();
    let steps = kernel.plan();
    assert!(
        steps.contains(&all_multicast(PARENT, false)),
        "the parent would be left in all-multicast for ever: {steps:?}"
    );
}

/// `IF_OPER_*`: no carrier, or all is well.
const DOWN: u8 = 2;
const WELL: u8 = 6;

/// What the device behind 10 is told of ARP, in this order.
fn told_of_arp(steps: &[Step]) -> Vec<bool> {
    let told = steps.iter().filter_map(|step| match step {
        Step::ChangeDev {
            index: 10, change, ..
        } => change.noarp.map(|noarp| !noarp),
        _ => None,
    });
    told.collect()
}

#[test]
fn a_device_joins_its_groups_when_it_can() {
    let mut kernel = two(Mode::L3);
    kernel.link(10).operstate = DOWN;
    kernel.port().entry.mode = Mode::L2 as u8;
    assert_eq!(told_of_arp(&kernel.plan()), [true]);
    let _: usize = kernel.reconcile();
    assert_ne!(kernel.dev(10).entry.bits & DEV_BEHIND_GROUPS, 0);
    assert_eq!(kernel.dev(11).entry.bits & DEV_BEHIND_GROUPS, 0);
    kernel.link(10).operstate = WELL;
    let steps = kernel.plan();
    assert_eq!(told_of_arp(&steps), [false, true]);
    // Whoever is killed in between has not forgotten.
    for killed in 0..steps.len() {
        let mut kernel = kernel.clone();
        steps[..killed].iter().for_each(|step| kernel.apply(step));
        assert_eq!(told_of_arp(&kernel.plan()).last(), Some(&true), "{killed}");
        let _: usize = kernel.reconcile();
        assert_eq!(kernel.link(10).flags & IFF_NOARP, 0);
        assert_eq!(kernel.dev(10).entry.bits & DEV_BEHIND_GROUPS, 0);
    }
}

#[test]
fn a_device_that_the_same_plan_takes_the_carrier_from_joins_later() {
    let mut kernel = two(Mode::L3);
    kernel.link(10).operstate = WELL;
    kernel.parent().flags &= !LOWER_UP;
    kernel.port().entry.mode = Mode::L2 as u8;
    let _: usize = kernel.reconcile();
    assert_ne!(kernel.dev(10).entry.bits & DEV_BEHIND_GROUPS, 0);
    // What cannot be seen for a moment is not forgotten.
    let away = kernel.dev(10).link.take();
    let _: usize = kernel.reconcile();
    assert_ne!(kernel.dev(10).entry.bits & DEV_BEHIND_GROUPS, 0);
    kernel.dev(10).link = away;
    kernel.parent().flags |= LOWER_UP;
    assert_eq!(told_of_arp(&kernel.plan()), [false, true]);
}

#[test]
fn what_a_device_has_to_join_is_forgotten_in_l3_and_with_its_addresses() {
    let ends: [fn(&mut Kernel); 2] = [
        |kernel| kernel.link(10).flags &= !UP,
        |kernel| kernel.port().entry.mode = Mode::L3 as u8,
    ];
    for end in ends {
        let mut kernel = two(Mode::L3);
        kernel.link(10).operstate = DOWN;
        kernel.port().entry.mode = Mode::L2 as u8;
        let _: usize = kernel.reconcile();
        end(&mut kernel);
        let _: usize = kernel.reconcile();
        assert_eq!(kernel.dev(10).entry.bits & DEV_BEHIND_GROUPS, 0);
    }
}
