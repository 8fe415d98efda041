//! Prefixes that devices have: which address is whose, and that nobody pays who has none.

mod frames;

use std::cell::Cell;

use frames::*;
use ipvlan_abi::{DropReason, Flag, Mode, Owner};
use ipvlan_core::{Owners, Verdict, rx, tx};

/// A frame of each family from the wire: what becomes of it on a port with prefixes.
fn from_wire(mode: Mode, to4: V4, to6: V6) -> [Verdict; 2] {
    let port = port_with_prefixes(mode, Flag::Bridge);
    [udp4(OWN, LAN, LAN4, to4), udp6(OWN, LAN, LAN6, to6)]
        .map(|bytes| rx(&port, &plain(&bytes), &Table))
}

/// The same from a device, to the MAC address that all have.
fn from_device(mode: Mode, flag: Flag, to4: V4, to6: V6) -> [Verdict; 2] {
    let port = port_with_prefixes(mode, flag);
    [udp4(OWN, OWN, SENDER4, to4), udp6(OWN, OWN, SENDER6, to6)]
        .map(|bytes| tx(&port, SENDER, &plain(&bytes), &Table))
}

#[test]
fn the_longest_prefix_owns_what_has_no_owner_of_its_own() {
    for mode in [Mode::L2, Mode::L3] {
        for (to4, to6, owner) in [
            (BEHIND_SIBLING4, BEHIND_SIBLING6, SIBLING),
            (BEHIND_HERE4, BEHIND_HERE6, HERE),
            (SIBLING4, SIBLING6, SIBLING),
        ] {
            assert_eq!(from_wire(mode, to4, to6), [to(owner); 2], "{mode}");
            let sent = from_device(mode, Flag::Bridge, to4, to6);
            assert_eq!(sent, [to(owner); 2], "{mode}");
        }
        // Nobody's stays nobody's, and the host's own is the host's.
        for (to4, to6) in [(LAN4, LAN6), (PARENT4, PARENT6)] {
            assert_eq!(from_wire(mode, to4, to6), [Verdict::PASS; 2], "{mode}");
        }
    }
    let found = from_wire(Mode::L3s, BEHIND_SIBLING4, BEHIND_SIBLING6);
    assert_eq!(found, [Verdict::PASS; 2], "l3s is routed");
    let found = from_device(Mode::L3s, Flag::Bridge, BEHIND_SIBLING4, BEHIND_SIBLING6);
    assert_eq!(found, [to(SIBLING); 2], "but not between siblings");
}

#[test]
fn flags_hold_for_prefixes_too() {
    for mode in MODES {
        let sent = |flag| from_device(mode, flag, BEHIND_SIBLING4, BEHIND_SIBLING6);
        assert_eq!(sent(Flag::Private), [dropped(DropReason::Private); 2]);
        let out = match mode {
            Mode::L2 => Verdict::WIRE,
            Mode::L3 => Verdict::ROUTE,
            Mode::L3s => Verdict::PASS,
        };
        assert_eq!(sent(Flag::Vepa), [out; 2], "{mode}");
    }
}

#[test]
fn a_router_inside_of_a_prefix_stays_outside() {
    for mode in [Mode::L2, Mode::L3] {
        let found = from_wire(mode, ROUTER4, ROUTER6);
        assert_eq!(found, [Verdict::PASS; 2], "{mode}");
    }
    let found = from_device(Mode::L3, Flag::Bridge, ROUTER4, ROUTER6);
    assert_eq!(found, [Verdict::ROUTE; 2]);
    let found = from_device(Mode::L3s, Flag::Bridge, ROUTER4, ROUTER6);
    assert_eq!(found, [Verdict::PASS; 2]);
    let questions = [
        arp_broadcast(REQUEST, OWN, SENDER4, ROUTER4),
        solicitation(OWN, SENDER6, ROUTER6),
        // Whether it is free: it is not, and nobody here may try for it.
        arp_broadcast(REQUEST, OWN, [0; 4], ROUTER4),
        solicitation(OWN, [0; 16], ROUTER6),
    ];
    for bytes in questions {
        let port = port_with_prefixes(Mode::L2, Flag::Bridge);
        let found = tx(&port, SENDER, &plain(&bytes), &Table);
        assert_eq!(found, sealed(Verdict::WIRE));
    }
}

#[test]
fn a_question_goes_to_the_device_with_the_prefix() {
    let port = port_with_prefixes(Mode::L2, Flag::Bridge);
    for (from, sender4, sender6) in [(LAN, LAN4, LAN6), (OWN, SENDER4, SENDER6)] {
        for bytes in [
            arp_broadcast(REQUEST, from, sender4, BEHIND_SIBLING4),
            solicitation(from, sender6, BEHIND_SIBLING6),
        ] {
            let found = if from == LAN {
                rx(&port, &plain(&bytes), &Table)
            } else {
                tx(&port, SENDER, &plain(&bytes), &Table)
            };
            let wanted = if from == LAN {
                to(SIBLING)
            } else {
                sealed(to(SIBLING))
            };
            assert_eq!(found, wanted);
        }
    }
}

/// [`Table`], which counts how often it is asked for a prefix.
#[derive(Default)]
struct Counting(Cell<u32>);

impl Owners for Counting {
    fn v4(&self, address: &V4) -> Owner {
        Table.v4(address)
    }

    fn v6(&self, address: &V6) -> Owner {
        Table.v6(address)
    }

    fn v4_prefix(&self, address: &V4) -> Owner {
        self.0.set(self.0.get() + 1);
        Table.v4_prefix(address)
    }

    fn v6_prefix(&self, address: &V6) -> Owner {
        self.0.set(self.0.get() + 1);
        Table.v6_prefix(address)
    }
}

#[test]
fn prefixes_are_asked_for_only_where_there_are_any_and_nothing_else_was_found() {
    let frames = [
        (1, udp4(OWN, LAN, LAN4, BEHIND_SIBLING4)),
        (1, udp6(OWN, LAN, LAN6, BEHIND_SIBLING6)),
        (0, udp4(OWN, LAN, LAN4, SIBLING4)),
        (0, udp6(OWN, LAN, LAN6, PARENT6)),
        (0, udp4(OWN, LAN, LAN4, ROUTER4)),
    ];
    for (count, bytes) in frames {
        let table = Counting::default();
        let _: Verdict = rx(&port(Mode::L2, Flag::Bridge), &plain(&bytes), &table);
        assert_eq!(table.0.get(), 0, "none on this port");
        let port = port_with_prefixes(Mode::L2, Flag::Bridge);
        let _: Verdict = rx(&port, &plain(&bytes), &table);
        assert_eq!(table.0.get(), count);
    }
}
