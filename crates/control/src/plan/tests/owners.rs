//! Who owns an address.

use super::*;

#[test]
fn a_device_that_was_moved_is_reached_where_it_is() {
    let mut kernel = two(Mode::L2);
    kernel.dev(11).place = None;
    let here = set("10.0.0.11", owner(11, None));
    assert_eq!(kernel.plan(), [here], "home: out of its host end");
    let _: usize = kernel.reconcile();
    kernel.dev(11).place = Some(Nsid(40));
    let there = set("10.0.0.11", owner(11, Some(Nsid(40))));
    assert_eq!(kernel.plan(), [there], "away: straight into its namespace");
    let _: usize = kernel.reconcile();
    kernel.dev(11).place = Some(Nsid(41));
    assert_eq!(kernel.plan(), [], "which namespace makes no difference");
    // The move takes its addresses away and sets it down.
    kernel.link(11).flags = 0;
    kernel.dev(11).addresses.clear();
    assert_eq!(kernel.plan(), [lose("10.0.0.11")], "nothing is left behind");
}

#[test]
fn a_device_that_is_down_owns_nothing_and_keeps_its_slot() {
    let mut kernel = two(Mode::L2);
    // What observe() makes of a device that is down.
    kernel.link(10).flags = 0;
    kernel.dev(10).addresses.clear();
    let expected = [lose("10.0.0.10"), lose("fd00::10")];
    assert_eq!(kernel.plan(), expected, "down");
    let _: usize = kernel.reconcile();
    *kernel.dev(10) = device(10, 0, &["10.0.0.10"]);
    let expected = [set("10.0.0.10", owner(10, place(10)))];
    assert_eq!(kernel.plan(), expected, "up again");
}

#[test]
fn the_first_owner_keeps_an_address_that_a_second_device_takes() {
    for (first, second) in [(10, 11), (11, 10)] {
        let mut kernel = two(Mode::L2);
        for host in [first, second] {
            let _: bool = kernel.dev(host).addresses.insert(ip("10.0.0.99"));
            let _: usize = kernel.reconcile();
            assert_eq!(kernel.owner("10.0.0.99"), Some(first), "it was first");
        }
        let _: bool = kernel.dev(first).addresses.remove(&ip("10.0.0.99"));
        let expected = [set("10.0.0.99", owner(second, place(second)))];
        assert_eq!(kernel.plan(), expected, "once free, it is the other's");
    }
}

#[test]
fn of_devices_that_come_together_the_lowest_slot_gets_the_address() {
    let devs = vec![device(10, 2, &[]), device(11, 1, &[]), device(12, 0, &[])];
    let mut kernel = Kernel::settled(Mode::L2, devs);
    for host in [10, 11] {
        let _: bool = kernel.dev(host).addresses.insert(ip("10.0.0.99"));
    }
    let expected = [set("10.0.0.99", owner(11, place(11)))];
    assert_eq!(kernel.plan(), expected, "slot 1 goes before slot 2");
}

#[test]
fn an_address_of_the_parents_namespace_is_nobody_elses() {
    let mut kernel = two(Mode::L2);
    let _: bool = kernel.world.own.insert(ip("10.0.0.1"));
    let _: bool = kernel.world.own.insert(ip("10.0.0.10"));
    let expected = [set("10.0.0.1", OF_PARENT), set("10.0.0.10", OF_PARENT)];
    assert_eq!(kernel.plan(), expected, "even one that a device had first");
    let _: usize = kernel.reconcile();
    assert_eq!(kernel.plan(), [], "and it stays so");
    kernel.world.own.clear();
    let expected = [lose("10.0.0.1"), set("10.0.0.10", owner(10, place(10)))];
    assert_eq!(kernel.plan(), expected, "until the namespace gives it up");
}

#[test]
fn the_address_of_a_next_router_is_no_devices() {
    let mut kernel = two(Mode::L3);
    let _: bool = kernel.port().gateways.insert(ip("10.0.0.10"));
    let _: bool = kernel.port().gateways.insert(ip("10.0.0.254"));
    assert_eq!(kernel.plan(), [lose("10.0.0.10")], "even one that it had");
    let _: bool = kernel.dev(11).addresses.insert(ip("10.0.0.254"));
    let _: usize = kernel.reconcile();
    assert_eq!(kernel.owner("10.0.0.254"), None);
    kernel.port().gateways.clear();
    let expected = [
        set("10.0.0.10", owner(10, place(10))),
        set("10.0.0.254", owner(11, place(11))),
    ];
    assert_eq!(kernel.plan(), expected, "until it is none any more");
}

const OUTSIDE: Owner = Owner {
    ifindex: PARENT,
    kind: OWNER_OUTSIDE,
};

#[test]
fn an_address_by_hand_goes_before_all_else() {
    let mut kernel = two(Mode::L2);
    let all = ["10.0.0.1", "10.0.0.10", "10.0.0.254"];
    let _: bool = kernel.world.own.insert(ip(all[0]));
    let _: bool = kernel.port().gateways.insert(ip(all[2]));
    let _: usize = kernel.reconcile();
    give(&mut kernel, 11, &all);
    let expected = all.map(|address| set(address, owner(11, place(11))));
    assert_eq!(
        kernel.plan(),
        expected,
        "the host's, a sibling's, a router's, whether the device has it or not"
    );
    let _: usize = kernel.reconcile();
    kernel.dev(11).addresses.extend(all.map(ip));
    assert_eq!(kernel.plan(), [], "and it stays so");
    // Down it owns nothing, as any other.
    kernel.link(11).flags &= !UP;
    kernel.dev(11).addresses.clear();
    let _: usize = kernel.reconcile();
    assert_eq!(kernel.owner(all[0]), Some(PARENT));
    assert_eq!(kernel.owner(all[1]), Some(10));
    assert_eq!(kernel.owner(all[2]), None);
    kernel.link(11).flags |= UP;
    let _: usize = kernel.reconcile();
    kernel.port().grants.clear();
    let expected = [
        lose("10.0.0.254"),
        set("10.0.0.1", OF_PARENT),
        set("10.0.0.10", owner(10, place(10))),
    ];
    assert_eq!(kernel.plan(), expected, "taken back");
}

#[test]
fn a_prefix_is_the_devices_but_for_what_others_have_in_it() {
    let mut kernel = two(Mode::L3);
    let _: bool = kernel.world.own.insert(ip("10.0.0.1"));
    let _: bool = kernel.port().gateways.insert(ip("10.0.0.254"));
    let _: bool = kernel.port().gateways.insert(ip("10.5.0.254"));
    let _: usize = kernel.reconcile();
    give(&mut kernel, 11, &["10.0.0.0/24", "fd00::/64"]);
    let mut bits = kernel.port().entry.bits;
    let with = entry(&mut kernel, |entry| entry.bits |= PORT_PREFIXES);
    let expected = [
        with.clone(),
        // What is excepted comes first.
        set("10.0.0.254", OUTSIDE),
        set("10.0.0.0/24", owner(11, place(11))),
        set("fd00::/64", owner(11, place(11))),
        with,
    ];
    assert_eq!(kernel.plan(), expected);
    let _: usize = kernel.reconcile();
    assert_eq!(kernel.owner("10.0.0.1"), Some(PARENT));
    assert_eq!(kernel.owner("10.0.0.10"), Some(10), "the sibling's");
    // The device itself has the router's address: that was not given.
    let _: bool = kernel.dev(11).addresses.insert(ip("10.0.0.254"));
    assert_eq!(kernel.plan(), []);
    give(&mut kernel, 11, &["10.0.0.0/24", "10.0.0.254"]);
    let expected = [set("10.0.0.254", owner(11, place(11))), lose("fd00::/64")];
    assert_eq!(kernel.plan(), expected, "but now it is");
    let _: usize = kernel.reconcile();

    // Overlapping ones of both.
    give(&mut kernel, 10, &["10.0.0.0/25", "10.0.0.0/16"]);
    let expected = [
        set("10.0.0.0/25", owner(10, place(10))),
        set("10.0.0.0/16", owner(10, place(10))),
    ];
    assert_eq!(kernel.plan(), expected, "the longest first");
    let _: usize = kernel.reconcile();
    give(&mut kernel, 10, &[]);
    let expected = [lose("10.0.0.0/16"), lose("10.0.0.0/25")];
    assert_eq!(kernel.plan(), expected, "the shortest first");
    let _: usize = kernel.reconcile();

    // Up and down is nothing that the port's entry would have to know.
    kernel.link(11).flags &= !UP;
    kernel.dev(11).addresses.clear();
    let down = kernel.plan();
    assert!(down.contains(&lose("10.0.0.0/24")), "{down:?}");
    assert!(
        down.iter()
            .all(|step| matches!(step, Step::DropOwner { .. }))
    );
    let _: usize = kernel.reconcile();
    kernel.port().grants.clear();
    let _: usize = kernel.reconcile();
    bits ^= kernel.port().entry.bits;
    assert_eq!(bits, 0, "nobody has a prefix any more");
}

#[test]
fn the_same_address_on_two_parents_is_no_duplicate() {
    let mut kernel = two(Mode::L2);
    let mut other = kernel.port().clone();
    other.entry.ifindex = 3;
    other.parent = Some(link(3));
    listen(other.parent.as_mut(), true);
    let dev = device(30, 0, &["10.0.0.10"]);
    other.devs = BTreeMap::from([(30, dev)]);
    other.owners = BTreeMap::from([(net("10.0.0.10"), owner(30, place(30)))]);
    other.entry.members = 1;
    let _: Option<PortView> = kernel.world.ports.insert(3, other);
    let _: Option<_> = kernel.slots.insert(3, BTreeMap::from([(0, 30)]));
    assert_eq!(kernel.plan(), [], "each port has owners of its own");
}

#[test]
fn an_address_made_from_the_shared_mac_address_is_taken_away() {
    let shared = shared();
    let mut kernel = two(Mode::L2);
    assert_eq!(IpAddr::V6(eui64(MAC)), ip(&shared), "RFC 4291 appendix A");
    let _: bool = kernel.dev(10).addresses.insert(ip(&shared));
    kernel.link(10).addr_gen_mode = Some(AddrGenMode::Eui64);
    let remove = Step::RemoveAddress {
        place: place(10),
        index: 10,
        address: eui64(MAC),
    };
    let random = LinkChange {
        addr_gen_mode: Some(AddrGenMode::Random),
        ..LinkChange::default()
    };
    let steps = kernel.plan();
    let expected = [remove.clone(), inside(10, random.clone())];
    assert!(
        steps.ends_with(&expected),
        "away, and another way: {steps:?}"
    );
    let _: usize = kernel.reconcile();
    assert_eq!(kernel.owner(&shared), None, "nobody owns it in the end");
    let made = kernel.owner("fe80::beef:a");
    assert_eq!(made, Some(10), "the new one is the device's");

    for mode in [AddrGenMode::Random, AddrGenMode::StablePrivacy] {
        let mut late = two(Mode::L2);
        let _: bool = late.dev(10).addresses.insert(ip(&shared));
        late.link(10).addr_gen_mode = Some(mode);
        let steps = late.plan();
        assert!(steps.contains(&remove), "seen only now: {steps:?}");
        let changed = steps.contains(&inside(10, random.clone()));
        assert!(!changed, "the mode is right already: {steps:?}");
    }

    let mut manual = two(Mode::L2);
    manual.link(10).addr_gen_mode = Some(AddrGenMode::None);
    let _: usize = manual.reconcile();
    let _: bool = manual.dev(10).addresses.insert(ip(&shared));
    let expected = [set(&shared, owner(10, place(10)))];
    assert_eq!(
        manual.plan(),
        expected,
        "no stack made it, so somebody wants it"
    );
}
