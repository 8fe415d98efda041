//! What the model says.

use super::*;
use crate::script::Call;

const CALL: Call = Call {
    agent: true,
    killed: None,
};

fn second(count: u64) -> Time {
    Duration::from_secs(count)
}

/// A state after these; each has something to be done to.
fn after(ops: &[Op]) -> State {
    let start = State::new([2, 0, 0, 0, 0, 1]);
    ops.iter().fold(start, |state, op| {
        let next = state.after(op);
        next.unwrap_or_else(|| panic!("{op} is void"))
    })
}

fn add(device: Number, home: Home) -> Op {
    Op::Add {
        device,
        home,
        call: CALL,
    }
}

fn give(device: Number, number: usize) -> Op {
    Op::Give {
        device,
        address: address(number),
    }
}

/// Two devices in namespaces of their own with an address of each family.
fn pair() -> Vec<Op> {
    let up = |device| Op::Up { device };
    vec![
        add(0, 0),
        up(0),
        give(0, 0),
        give(0, 1),
        add(1, 1),
        up(1),
        give(1, 2),
        give(1, 3),
    ]
}

#[test]
fn an_address_is_held_while_its_device_is_up() {
    let mut ops = pair();
    let has = |state: &State, number| state.facts().contains(&Fact::Has(0, address(number)));
    assert!(has(&after(&ops), 0) && has(&after(&ops), 1));
    ops.push(Op::Down { device: 0 });
    assert!(!has(&after(&ops), 0) && !has(&after(&ops), 1));
    ops.push(Op::Up { device: 0 });
    let back = after(&ops);
    assert!(has(&back, 0), "IPv4 is still configured");
    assert!(!has(&back, 1), "IPv6 was forgotten");
}

#[test]
fn who_moves_arrives_with_nothing() {
    let mut ops = pair();
    ops.push(Op::Move { device: 0, home: 1 });
    let state = after(&ops);
    let moved = &state.devices[&0];
    assert!(!moved.up && moved.addresses.is_empty() && moved.home == 1);
    assert_eq!(state.after(&Op::Move { device: 0, home: 1 }), None);
}

#[test]
fn a_namespace_takes_its_devices_with_it() {
    let mut ops = pair();
    ops.push(Op::KillHome { home: 0 });
    assert_eq!(after(&ops).devices.keys().collect::<Vec<_>>(), [&1]);
}

#[test]
fn what_is_not_there_cannot_be_changed() {
    let empty = after(&[]);
    assert_eq!(empty.after(&Op::Rename { device: 0 }), None);
    let mode = Op::Mode {
        mode: Mode::L3,
        call: CALL,
    };
    assert_eq!(empty.after(&mode), None, "a mode is that of a port");
    assert_eq!(after(&pair()).after(&add(0, 1)), None, "there is one");
    assert_eq!(after(&pair()).after(&give(0, 0)), None, "it has it");
}

#[test]
fn of_two_claimants_nobody_knows_the_winner() {
    let mut ops = pair();
    ops.push(give(1, 0));
    let state = after(&ops);
    assert!(!state.uncontested().contains_key(&address(0)));
    assert_eq!(state.claims()[&address(0)], BTreeSet::from([0, 1]));
    ops.push(Op::Take {
        device: 0,
        address: address(0),
    });
    assert_eq!(after(&ops).uncontested()[&address(0)], 1, "the heir");
}

#[test]
fn a_handed_over_address_has_one_holder() {
    let mut ops = pair();
    ops.push(Op::HandOver {
        from: 0,
        to: 1,
        address: address(0),
    });
    let state = after(&ops);
    assert_eq!(state.uncontested()[&address(0)], 1);
    assert!(!state.facts().contains(&Fact::Has(0, address(0))));
}

#[test]
fn siblings_talk_in_bridge_alone_and_broadcast_is_of_l2() {
    let mut state = after(&pair());
    assert!(state.siblings_reach(0, 1));
    assert_eq!(state.broadcast(Some(0)), BTreeMap::from([(1, 1)]));
    assert_eq!(state.broadcast(None), BTreeMap::from([(0, 1), (1, 1)]));
    for flag in [Flag::Private, Flag::Vepa] {
        state.flag = flag;
        assert!(!state.siblings_reach(0, 1) && state.reaches_lan(0));
        let isolated = flag == Flag::Private;
        assert_eq!(
            state.broadcast(Some(0)).is_empty(),
            isolated,
            "as in the driver"
        );
        assert_eq!(state.broadcast(None).len(), 2, "the wire's is heard");
    }
    state.flag = Flag::Bridge;
    for mode in [Mode::L3, Mode::L3s] {
        state.mode = mode;
        assert!(state.siblings_reach(0, 1));
        assert!(state.broadcast(None).is_empty());
    }
    state.carrier = false;
    assert!(!state.siblings_reach(0, 1) && !state.reaches_lan(0));
}

#[test]
fn a_strange_mac_address_is_deaf_to_the_lan_in_l3s_alone() {
    let mut ops = pair();
    ops.push(Op::OwnMac { device: 0 });
    let mut state = after(&ops);
    assert!(state.reaches_lan(0));
    state.mode = Mode::L3s;
    assert!(!state.reaches_lan(0) && state.reaches_lan(1));
    let same = Op::ParentMac { mac: state.mac };
    assert_eq!(state.after(&same), None, "nobody sees that");
    let mac = Op::ParentMac { mac: [2; 6] };
    let state = state.after(&mac);
    assert!(
        state.is_some_and(|state| state.reaches_lan(0)),
        "it follows"
    );
}

/// A history in which a namespace had an address from second 10 to 20.
fn history(agent: bool) -> History {
    let mut history = History::default();
    if agent {
        history.agent_started(second(0));
    }
    let has = BTreeSet::from([HAS]);
    history.begin(second(10), &has);
    history.end(second(11), &has);
    history.begin(second(19), &BTreeSet::new());
    history.end(second(20), &BTreeSet::new());
    history
}

const HAS: Fact = Fact::Has(0, IpAddr::V4(Ipv4Addr::new(10, 2, 0, 1)));

#[test]
fn what_ends_counts_for_a_grace_when_an_agent_follows() {
    let history = history(true);
    let at = |from, to| history.could(second(from), second(to), HAS);
    assert!(!at(8, 9), "before");
    assert!(at(9, 10), "the command may have been quick");
    assert!(at(15, 15) && at(19, 19));
    assert!(at(21, 21), "the agent may be slow");
    assert!(!at(23, 24), "but not so slow");
    assert!(at(21, 24), "it may have come at 21");
}

#[test]
fn without_an_agent_it_counts_until_somebody_calls() {
    let mut history = history(false);
    assert!(history.could(second(100), second(100), HAS));
    history.follow(second(110));
    assert!(history.could(second(111), second(111), HAS));
    assert!(!history.could(second(113), second(113), HAS));
}

#[test]
fn a_killed_agent_may_not_have_followed_what_was_last() {
    let mut quick = history(true);
    quick.agent_killed(second(21));
    assert!(quick.could(second(60), second(60), HAS));
    quick.agent_started(second(61));
    assert!(!quick.could(second(64), second(64), HAS));
    let mut late = history(true);
    late.agent_killed(second(40));
    assert!(!late.could(second(60), second(60), HAS));
}

#[test]
fn what_nobody_followed_goes_where_the_device_goes() {
    let mut history = history(false);
    let address = IpAddr::from([10, 2, 0, 1]);
    history.end(second(30), &BTreeSet::from([Fact::Lives(0, 4)]));
    let at = |history: &History, time| history.belongs(second(time), second(time), 4, address);
    assert!(at(&history, 31), "the device has lost it, and is here now");
    history.follow(second(32));
    assert!(!at(&history, 35));
}

#[test]
fn what_comes_back_counts_at_once() {
    let mut history = history(true);
    history.begin(second(30), &BTreeSet::from([HAS]));
    assert!(!history.could(second(28), second(29), HAS));
    assert!(history.could(second(30), second(30), HAS));
}

#[test]
fn the_pool_is_told_from_the_lan() {
    let all: BTreeSet<IpAddr> = (0..900).map(address).collect();
    assert_eq!(all.len(), 900, "each is another one");
    assert!(all.into_iter().all(is_of_pool));
    for other in ["10.1.0.254", "10.2.255.255", "fd00::254", "fe80::1"] {
        let other = other.parse().expect("an address");
        assert!(!is_of_pool(other), "{other}");
    }
}

/// A tap with addresses by hand (0) or learnt (1), and a guest that has one.
fn guest(kind: Number) -> Vec<Op> {
    let device = GUEST + kind;
    vec![
        add(device, device),
        Op::Up { device },
        Op::Start { device },
        give(device, 4),
    ]
}

fn is_owned(state: &State) -> bool {
    state.claims().contains_key(&address(4))
}

#[test]
fn what_is_given_by_hand_stays_without_a_guest_and_what_is_learnt_goes_with_it() {
    for (kind, stays) in [(0, true), (1, false)] {
        let mut ops = guest(kind);
        let device = GUEST + kind;
        let on = after(&ops);
        assert!(is_owned(&on) && on.uncontested().contains_key(&address(4)));
        assert_eq!(on.broadcast(None).get(&device), Some(&1));
        ops.push(Op::Stop { device });
        let off = after(&ops);
        assert_eq!(is_owned(&off), stays);
        assert!(
            !off.uncontested().contains_key(&address(4)),
            "nobody answers"
        );
        assert_eq!(off.broadcast(None).get(&device), None);
        ops.push(Op::Start { device });
        assert_eq!(is_owned(&after(&ops)), stays);
    }
}

#[test]
fn a_guest_has_another_mac_address_each_time_and_all_begin_alike() {
    let mut macs = Vec::new();
    for (number, starts) in [(GUEST, 1), (GUEST, 2), (GUEST + 1, 1)] {
        let mac = guest_mac(number, starts);
        assert!(mac.starts_with(&GUEST_MAC) && !macs.contains(&mac));
        macs.push(mac);
    }
}

#[test]
fn learning_is_switched_and_what_was_learnt_is_not_taken_away_one_by_one() {
    let mut ops = guest(1);
    let take = Op::Take {
        device: GUEST + 1,
        address: address(4),
    };
    assert_eq!(after(&ops).after(&take), None);
    assert!(after(&ops).learns());
    ops.push(Op::Learning { device: GUEST + 1 });
    let off = after(&ops);
    assert!(!is_owned(&off) && !off.learns());
    ops.push(Op::Learning { device: GUEST + 1 });
    assert!(is_owned(&after(&ops)));
    let by_hand = after(&guest(0));
    assert_eq!(by_hand.after(&Op::Learning { device: GUEST }), None);
}

#[test]
fn by_hand_an_address_goes_to_a_device_and_back_but_nobody_gets_what_another_has() {
    let hand_over = |from, to| Op::HandOver {
        from,
        to,
        address: address(4),
    };
    let mut ops = [pair(), guest(0)].concat();
    assert_eq!(after(&ops).after(&give(GUEST, 2)), None, "device 1 has it");
    ops.push(hand_over(GUEST, 0));
    assert_eq!(after(&ops).uncontested().get(&address(4)), Some(&0));
    ops.push(hand_over(0, GUEST));
    assert_eq!(after(&ops).uncontested().get(&address(4)), Some(&GUEST));
}

#[test]
fn an_address_of_a_device_that_is_down_is_local_to_its_namespace() {
    let ops = [
        add(1, 0),
        add(2, 0),
        add(3, 1),
        Op::Up { device: 1 },
        give(1, 0),
        Op::Down { device: 1 },
    ];
    let state = ops.iter().fold(State::new([0; 6]), |state, op| {
        state.after(op).expect("it can be done")
    });
    assert!(state.claims().is_empty(), "nobody owns it");
    assert!(state.is_local(2, address(0)), "but its neighbour has it");
    assert!(!state.is_local(3, address(0)));
    assert!(!state.is_local(2, address(1)));
}
