//! From any state there may be, to the one that there should be.

use proptest::prelude::*;

use super::*;
use crate::learn::AGE;

/// Addresses that generated devices quarrel about.
fn pool() -> Vec<IpAddr> {
    let shared = shared();
    [
        "10.0.0.1", "10.0.0.2", "10.0.0.3", "fd00::1", "fe80::1", &shared,
    ]
    .iter()
    .map(|text| ip(text))
    .collect()
}

/// Those, each by itself, and what is around them.
fn prefixes() -> Vec<IpNet> {
    let around = [
        "10.0.0.0/8",
        "10.0.0.0/24",
        "10.0.0.2/31",
        "fd00::/64",
        "fe80::/10",
    ];
    let around = around.into_iter().map(net);
    pool().into_iter().map(IpNet::from).chain(around).collect()
}

fn some_addresses() -> impl Strategy<Value = BTreeSet<IpAddr>> {
    prop::sample::subsequence(pool(), 0..=pool().len())
        .prop_map(|addresses| addresses.into_iter().collect())
}

fn some_link(index: u32) -> impl Strategy<Value = Link> {
    let flags = (any::<bool>(), any::<bool>(), any::<bool>(), any::<bool>());
    let mac = prop::sample::select(vec![Some(MAC), Some(OTHER_MAC), None]);
    let mtu = prop::sample::select(vec![1280u32, 1500, 9000]);
    let mode = prop::sample::select(vec![
        None,
        Some(AddrGenMode::Eui64),
        Some(AddrGenMode::None),
        Some(AddrGenMode::StablePrivacy),
        Some(AddrGenMode::Random),
    ]);
    let v4 = (any::<bool>(), 0u32..3, any::<bool>());
    let v4 = v4.prop_map(|(forwarding, rp_filter, src_valid_mark)| V4Settings {
        forwarding,
        rp_filter,
        src_valid_mark,
    });
    let settings = (prop::option::weighted(0.9, v4), any::<Option<bool>>());
    let operstate = prop::sample::select(vec![0u8, 2, 6]);
    let all = (flags, mac, mtu, mode, settings, operstate);
    all.prop_map(
        move |((up, lower, noarp, listens), mac, mtu, mode, settings, operstate)| {
            let mut link = link(index);
            link.flags = if up { UP } else { 0 }
                | if lower { LOWER_UP } else { 0 }
                | if noarp { IFF_NOARP } else { 0 };
            link.mac = mac;
            link.mtu = mtu;
            link.operstate = operstate;
            link.addr_gen_mode = mode;
            (link.v4, link.force_forwards_v6) = settings;
            listen(Some(&mut link), listens);
            link
        },
    )
}

fn some_device(host: u32, slot: u32) -> impl Strategy<Value = DevView> {
    (
        prop::bool::weighted(0.8),
        (prop::bool::weighted(0.2), any::<bool>(), 0..4u16, 0..4u32),
        prop::option::weighted(0.9, some_link(host)),
        any::<bool>(),
        prop::option::weighted(0.9, some_link(host)),
        some_addresses(),
    )
        .prop_map(
            move |(ready, of_tap, mut host_end, here, own_end, addresses)| {
                let (is_tap, learns, carrier_downs, carrier_down_count) = of_tap;
                let link = match is_tap {
                    true => {
                        let own = host_end.as_mut();
                        own.into_iter().for_each(|own| {
                            own.tap = Some(TapSettings::default());
                            own.carrier_down_count = carrier_down_count;
                        });
                        host_end.clone()
                    }
                    false => host_end.as_ref().and(own_end),
                };
                // What observe() makes of one that is down, or gone.
                let up = link.as_ref().is_some_and(Link::is_up);
                DevView {
                    entry: DevEntry {
                        slot,
                        bits: if ready { DEV_READY } else { 0 }
                            | if is_tap { DEV_TAP } else { 0 }
                            | if is_tap && learns { DEV_LEARN } else { 0 },
                        carrier_downs,
                    },
                    host: host_end,
                    place: if here || is_tap { None } else { place(host) },
                    link,
                    addresses: if up { addresses } else { BTreeSet::new() },
                }
            },
        )
}

/// A port in whatever state a killed process or a stranger may have left it.
fn some_port(index: u32) -> impl Strategy<Value = (PortView, BTreeMap<u32, u32>)> {
    let first = index * 100;
    let slots = Just((0..6u32).collect::<Vec<_>>()).prop_shuffle();
    let devs = slots.prop_flat_map(move |slots| {
        let devs: Vec<_> = (first..)
            .zip(slots)
            .map(|(host, slot)| prop::option::of(some_device(host, slot)))
            .collect();
        devs
    });
    // Its own, and a stranger.
    let host = prop_oneof![4 => first..first + 6, 1 => Just(77u32)];
    let owner = prop_oneof![
        4 => (host.clone(), OWNER_PEER..=OWNER_HERE),
        1 => Just((index, OWNER_PARENT)),
        1 => Just((index, OWNER_OUTSIDE)),
    ];
    let owner = owner.prop_map(|(ifindex, kind)| Owner { ifindex, kind });
    let owners = prop::collection::btree_map(prop::sample::select(prefixes()), owner, 0..6);
    let members = prop::collection::btree_map(0u32..8, prop_oneof![host, Just(0)], 0..8);
    let ours = prop::sample::subsequence(
        vec![
            PORT_ALLMULTI,
            PORT_ROUTED,
            PORT_FORWARD4,
            PORT_FORWARD6,
            PORT_MARK,
            PORT_PREFIXES,
            PORT_LEARN,
        ],
        0..=7,
    );
    let port = (0u8..3, 0u32..8, ours, any::<bool>(), any::<bool>());
    let parent = prop::option::weighted(0.9, some_link(index));
    let routing = some_routing(index);
    let grants = prop::sample::subsequence(prefixes(), 0..5);
    let grants = grants.prop_map(|some| some.into_iter().collect::<BTreeSet<IpNet>>());
    let grants = prop::collection::btree_map(0u32..6, grants, 0..3);
    let behind = prop::collection::btree_map(prop::sample::select(pool()), any::<bool>(), 0..4);
    // Of a time before, or of one that is yet to come.
    let said = prop_oneof![Just(0), Just(2 * AGE)];
    let learnt = prop::collection::btree_map(prop::sample::select(pool()), said, 0..4);
    let learnt = prop::collection::btree_map(0u32..6, learnt, 0..3);
    let rights = (some_addresses(), behind, grants, learnt);
    (devs, owners, members, port, parent, routing, rights).prop_map(
        move |(devs, owners, mut slots, port, parent, routing, rights)| {
            let (gateways, behind, grants, learnt) = rights;
            let (mode, members, ours, mac, mtu) = port;
            // Nothing lies behind the port's reach.
            slots.retain(|slot, _| *slot < members);
            // The port says so before there is the first one.
            let prefixes = owners.keys().any(|prefix| !is_single(*prefix));
            let prefixes = if prefixes { PORT_PREFIXES } else { 0 };
            let entry = PortEntry {
                abi: ABI_VERSION,
                ifindex: index,
                members,
                mtu: if mtu { 1500 } else { 1400 },
                mac: if mac { MAC } else { OTHER_MAC },
                mode,
                flag: 0,
                bits: ours.iter().fold(prefixes, |all, bit| all | bit),
                identity: [2, 0, 0, 1],
            };
            let port = PortView {
                entry,
                parent,
                devs: (first..)
                    .zip(devs)
                    .filter_map(|(host, dev)| Some((host, dev?)))
                    .collect(),
                owners,
                members: Vec::new(),
                // Nothing is made before the port says so.
                routing: if routing::concerns(&entry) {
                    routing
                } else {
                    Routing::default()
                },
                gateways,
                behind,
                grants,
                learnt,
            };
            (port, slots)
        },
    )
}

fn some_routing(parent: u32) -> impl Strategy<Value = Routing> {
    let rule = (0u32..2, any::<bool>(), prop::bool::weighted(0.2)).prop_map(
        move |(later, four, renamed)| Rule {
            family: if four { Family::V4 } else { Family::V6 },
            priority: 500 + later,
            interface: if renamed {
                "old".into()
            } else {
                format!("link{parent}")
            },
            mark: None,
            table: routing::table(parent),
            nowhere: later == 1,
        },
    );
    let host = prop_oneof![4 => parent * 100..parent * 100 + 6, 1 => Just(77u32)];
    (
        prop::collection::btree_set(rule, 0..4),
        prop::collection::btree_map(
            prop::sample::select(prefixes()),
            prop::option::weighted(0.8, host),
            0..4,
        ),
    )
        .prop_map(|(rules, routes)| Routing { rules, routes })
}

fn some_host() -> impl Strategy<Value = Host> {
    let fresh = (any::<bool>(), 0u32..3, any::<bool>(), any::<bool>());
    let fresh = fresh.prop_map(|(forwarding, rp_filter, src_valid_mark, six)| {
        let four = V4Settings {
            forwarding,
            rp_filter,
            src_valid_mark,
        };
        (four, six)
    });
    let all = (any::<bool>(), any::<Option<bool>>(), any::<bool>(), fresh);
    all.prop_map(
        |(v4, v6, checks_sources, (fresh_v4, fresh_forces_v6))| Host {
            v4,
            v6,
            checks_sources,
            fresh_v4,
            fresh_forces_v6,
        },
    )
}

fn some_kernel() -> impl Strategy<Value = Kernel> {
    let ports = (
        prop::option::weighted(0.9, some_port(2)),
        prop::option::weighted(0.3, some_port(3)),
    );
    let strays = prop::collection::btree_set(50u32..60, 0..3);
    let all = (ports, strays, some_addresses(), some_host());
    all.prop_map(|((second, third), strays, own, host)| {
        let mut kernel = Kernel::default();
        for (index, port) in [(2, second), (3, third)] {
            if let Some((port, slots)) = port {
                let _: Option<PortView> = kernel.world.ports.insert(index, port);
                let _: Option<_> = kernel.slots.insert(index, slots);
            }
        }
        kernel.world.strays = strays;
        kernel.world.own = own;
        kernel.world.host = host;
        kernel.world.now = AGE;
        kernel
    })
}

/// Who should get what is sent to an address, said once more and in another way.
fn rightful(world: &World, index: u32, address: &IpAddr) -> Option<Owner> {
    let port = &world.ports[&index];
    let alive = || {
        let devs = port.devs.iter();
        devs.filter(|(_, dev)| {
            port.parent.is_some() && dev.entry.bits & DEV_READY != 0 && dev.host.is_some()
        })
    };
    let given = |prefix: IpNet| {
        let to = |dev: &DevView| {
            let all = port.grants.get(&dev.entry.slot);
            dev.is_up() && all.is_some_and(|all| all.contains(&prefix))
        };
        let best = alive().filter(|(_, dev)| to(dev));
        let best = best.min_by_key(|(_, dev)| dev.entry.slot);
        best.map(|(host, dev)| owner(*host, dev.place))
    };
    let single = IpNet::from(*address);
    let mut prefixes: Vec<IpNet> = prefixes();
    prefixes.retain(|prefix| prefix.contains(&single) && *prefix != single);
    prefixes.sort_by_key(IpNet::prefix_len);
    let by_prefix = prefixes.into_iter().rev().find_map(given);
    let now = port.owners.get(&single).map_or(0, |owner| owner.ifindex);
    let has_it = alive().filter(|(_, dev)| port.addresses(dev).contains(address));
    let has_it = has_it.min_by_key(|(host, dev)| {
        let said = port.learnt.get(&dev.entry.slot);
        let said = said.and_then(|learnt| learnt.get(address));
        let silent = !dev.addresses.contains(address) && said == Some(&0);
        let rank = match **host == now {
            true if silent => 2,
            true => 0,
            false => 1,
        };
        (rank, dev.entry.slot)
    });
    if let Some(owner) = given(single) {
        Some(owner)
    } else if world.own.contains(address) {
        Some(Owner {
            ifindex: index,
            kind: OWNER_PARENT,
        })
    } else if port.gateways.contains(address) {
        None
    } else {
        let is_behind = port.entry.mode() == Mode::L3s && port.behind.get(address) == Some(&true);
        has_it
            .filter(|_| !is_behind)
            .map(|(host, dev)| owner(*host, dev.place))
            .or(by_prefix)
    }
}

/// Where frames for an address go, in a port that may have ended. As a datapath looks it up.
fn owner_of(world: &World, index: u32, address: &IpAddr) -> Option<Owner> {
    let port = world.ports.get(&index)?;
    let single = IpNet::from(*address);
    let owner = match port.owners.get(&single) {
        None if port.entry.bits & PORT_PREFIXES != 0 => {
            let all = port.owners.iter();
            let all = all.filter(|(prefix, _)| prefix.contains(&single));
            all.max_by_key(|(prefix, _)| prefix.prefix_len())?.1
        }
        found => found?,
    };
    (owner.kind != OWNER_OUTSIDE).then_some(*owner)
}

fn config() -> ProptestConfig {
    ProptestConfig {
        // A failure is kept by writing it down as a test.
        failure_persistence: None,
        ..ProptestConfig::default()
    }
}

proptest! {
    #![proptest_config(config())]

    #[test]
    fn three_rounds_settle_anything(mut kernel in some_kernel()) {
        let before = kernel.clone();
        let rounds = kernel.reconcile();
        prop_assert!(rounds <= 3, "{rounds} rounds from {before:?}");
        let world = kernel.observe();
        prop_assert!(world.strays.is_empty(), "no stray stays");
        for (index, port) in &world.ports {
            prop_assert!(port.parent.is_some(), "no port without a parent");
            prop_assert!(!port.devs.is_empty(), "no port without devices");
            let mut members = Vec::new();
            for (host, dev) in &port.devs {
                prop_assert!(dev.host.is_some(), "no device without a link");
                prop_assert!(dev.entry.bits & DEV_READY != 0, "no half device");
                let slot = usize::try_from(dev.entry.slot).expect("a small number");
                members.resize(members.len().max(slot + 1), 0);
                members[slot] = *host;
            }
            prop_assert_eq!(&port.members, &members, "who hears a broadcast");
            for address in pool() {
                prop_assert_eq!(
                    owner_of(&world, *index, &address),
                    rightful(&world, *index, &address),
                    "{}", address
                );
            }
        }
    }

    #[test]
    fn an_address_goes_from_its_old_owner_to_its_new_one(mut kernel in some_kernel()) {
        for _ in 0..4 {
            let before = kernel.observe();
            let steps = kernel.plan();
            for step in &steps {
                if let Step::DeleteLink { index } = step {
                    for port in kernel.observe().ports.values() {
                        let ours = port.devs.contains_key(index);
                        let owns = port.owners.values().any(|owner| owner.ifindex == *index);
                        let hears = port.members.contains(index);
                        prop_assert!(!ours || !owns && !hears, "{step:?} comes too early");
                    }
                }
                kernel.apply(step);
                for index in before.ports.keys() {
                    for address in pool() {
                        let old = owner_of(&before, *index, &address);
                        let now = owner_of(&kernel.world, *index, &address);
                        let new = rightful(&before, *index, &address);
                        let ended = !kernel.world.ports.contains_key(index);
                        prop_assert!(
                            now == old || now == new || ended,
                            "{address} of {old:?}, then {new:?}: {now:?} after {step:?}"
                        );
                    }
                }
            }
            for index in kernel.world.ports.keys() {
                for address in pool() {
                    let now = owner_of(&kernel.world, *index, &address);
                    let new = rightful(&before, *index, &address);
                    prop_assert_eq!(now, new, "{} after one round", address);
                }
            }
        }
    }

    #[test]
    fn killed_after_any_step_the_next_one_comes_to_the_same_end(kernel in some_kernel()) {
        let mut whole = kernel.clone();
        let _: usize = whole.reconcile();
        let steps = kernel.plan();
        for killed in 0..steps.len() {
            let mut part = kernel.clone();
            for step in &steps[..killed] {
                part.apply(step);
            }
            let _: usize = part.reconcile();
            prop_assert_eq!(
                format!("{:?}", part.observe()),
                format!("{:?}", whole.observe()),
                "killed before {:?}", steps[killed]
            );
        }
    }
}
