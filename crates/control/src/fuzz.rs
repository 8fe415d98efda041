//! The plan of whatever is found in the maps, for `fuzz/`.
//!
//! Who wrote the maps may have been killed, may have been another version, or may have been somebody
//! else: their directory is root's, and root may do anything. So all that is read back from a pin is
//! arbitrary here: entries, owners, members, grants, names. What rtnetlink says is arbitrary too, but
//! is what a kernel could say: an index is one link's alone.
//!
//! Input: see [`arbitrary`].
#![expect(clippy::expect_used, reason = "a panic is what a fuzzer waits for")]

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use arbitrary::{Result, Unstructured};
use ipnet::IpNet;
use ipvlan_abi::{
    DEV_READY, DevEntry, MAX_DEVS, Mode, OWNER_OUTSIDE, OWNER_PARENT, Owner, PORT_PREFIXES,
    PortEntry,
};
use ipvlan_netlink::{AddrGenMode, Family, Link, Mac, Nsid, Rule, TapSettings, V4Settings};

use crate::observe::{DevView, PortView, World, host_name, parse_host_name};
use crate::plan::model::Kernel;
use crate::plan::{Step, around, is_single};
use crate::routing::{self, Host, Routing};
use crate::show::parse_alias;
use crate::store::Travelling;

/// Rounds in which anything has to be settled, as `reconcile` counts on it.
const ROUNDS: usize = 3;

/// Plans what is found, and makes it in a model of the kernel.
pub fn state(data: &[u8]) {
    let mut input = Unstructured::new(data);
    // Input that ends early reads as zeroes: nothing here fails.
    let _: Result<()> = names(&mut input);
    if let Ok(kernel) = kernel(&mut input) {
        let killed = input.arbitrary().unwrap_or_default();
        settles(kernel, killed);
    }
}

/// What a name says is said by that name alone.
fn names(input: &mut Unstructured<'_>) -> Result<()> {
    let name: &str = input.arbitrary()?;
    if let Some((parent, slot)) = parse_host_name(name) {
        assert_eq!(host_name(parent, slot), name);
    }
    if let Some(which) = Travelling::parse(name) {
        assert_eq!(which.name(), name);
    }
    if let Some(found) = parse_alias(name) {
        let (parent, cookie) = found;
        let plain = crate::show::alias_of(parent, cookie);
        assert_eq!(parse_alias(&plain), Some(found));
    }
    Ok(())
}

fn settles(mut kernel: Kernel, killed: u16) {
    let first = kernel.plan();
    let mut part = kernel.clone();
    for step in &first[..usize::from(killed) % (first.len() + 1)] {
        part.apply(step);
    }
    for round in 0.. {
        let before = kernel.observe();
        let steps = kernel.plan();
        if steps.is_empty() {
            break;
        }
        assert!(round < ROUNDS, "no end of it: {steps:?}");
        for step in &steps {
            if let Step::DeleteLink { index } = step {
                nothing_goes_there(&kernel, *index);
            }
            kernel.apply(step);
        }
        follows(&before, &kernel.world);
    }
    settled(&kernel);
    let _: usize = part.reconcile();
    assert_eq!(
        format!("{:?}", part.observe()),
        format!("{:?}", kernel.observe()),
        "killed after {killed} steps of {first:?}"
    );
}

/// A host end goes only when no frame does.
fn nothing_goes_there(kernel: &Kernel, host: u32) {
    for port in kernel.observe().ports.values() {
        if port.devs.contains_key(&host) {
            let mut owners = port.owners.values();
            assert!(
                !owners.any(|owner| owner.is_device() && owner.ifindex == host),
                "{host} owns"
            );
            assert!(!port.members.contains(&host), "{host} hears");
        }
    }
}

/// What one round makes of what was found.
fn follows(before: &World, after: &World) {
    for (index, port) in &after.ports {
        let then = &before.ports[index];
        let alive: BTreeSet<u32> = alive(then).collect();
        for (prefix, owner) in &port.owners {
            let address = &prefix.addr();
            if matches!(owner.kind, OWNER_PARENT | OWNER_OUTSIDE) {
                assert_eq!(owner.ifindex, *index, "another parent's");
                assert!(is_single(*prefix), "{prefix} is no device's");
                let whose = match owner.kind {
                    OWNER_PARENT => before.own.contains(address),
                    _ => then.gateways.contains(address) && around(&port.owners, *prefix).is_some(),
                };
                assert!(whose, "{prefix} is not the host's, nor a router's");
                continue;
            }
            assert!(owner.is_device(), "nobody is no owner: {owner:?}");
            assert!(alive.contains(&owner.ifindex), "{prefix} of the dead");
            let dev = &then.devs[&owner.ifindex];
            let mut grants = then.grants.get(&dev.entry.slot).into_iter().flatten();
            if dev.is_up() && grants.any(|granted| granted == prefix) {
                continue;
            }
            assert!(is_single(*prefix), "{prefix} was not given");
            assert!(then.addresses(dev).contains(address), "{address} of nobody");
            let elsewhere = then.gateways.contains(address)
                || before.own.contains(address)
                || then.entry.mode() == Mode::L3s && then.behind.get(address) == Some(&true);
            assert!(!elsewhere, "{address} is somebody else's");
        }
        let has_prefixes = port.owners.keys().any(|prefix| !is_single(*prefix));
        assert!(
            !has_prefixes || port.entry.bits & PORT_PREFIXES != 0,
            "prefixes that nobody looks at"
        );
        for host in &port.members {
            assert!(*host == 0 || alive.contains(host), "the dead hear");
        }
    }
}

fn alive(port: &PortView) -> impl Iterator<Item = u32> {
    let devs = port.devs.iter().filter(|_| port.parent.is_some());
    devs.filter(|(_, dev)| dev.host.is_some() && dev.entry.bits & DEV_READY != 0)
        .map(|(host, _)| *host)
}

/// What there is when nothing is left to do.
fn settled(kernel: &Kernel) {
    let world = kernel.observe();
    assert!(world.strays.is_empty(), "a stray stays");
    for (index, port) in &world.ports {
        let parent = port.parent.as_ref().expect("no port without a parent");
        assert!(!port.devs.is_empty(), "no port without devices");
        assert_eq!(alive(port).count(), port.devs.len(), "no half device");
        assert_eq!(port.entry.mtu, parent.mtu, "{index}");
        assert_eq!(parent.mac.unwrap_or(port.entry.mac), port.entry.mac);
        assert!(port.entry.members <= MAX_DEVS, "as far as there are slots");
        for (host, dev) in &port.devs {
            let slot = usize::try_from(dev.entry.slot).expect("32 bits");
            let Some(heard) = port.members.get(slot) else {
                assert!(dev.entry.slot >= MAX_DEVS, "{host} is deaf");
                continue;
            };
            let theirs = port.devs.get(heard).map(|dev| dev.entry.slot);
            assert_eq!(theirs, Some(dev.entry.slot), "{host} is deaf");
        }
    }
}

/// The world of the maps and links, up to two ports with up to six devices each.
fn kernel(input: &mut Unstructured<'_>) -> Result<Kernel> {
    let mut kernel = Kernel::default();
    let mut taken = BTreeSet::new();
    for _ in 0..input.int_in_range(0..=2)? {
        let index = number(input, &mut taken)?;
        let (port, slots) = port(input, index, &mut taken)?;
        let _: Option<PortView> = kernel.world.ports.insert(index, port);
        let _: Option<_> = kernel.slots.insert(index, slots);
    }
    for _ in 0..input.int_in_range(0..=2)? {
        let stray = number(input, &mut taken)?;
        let _: bool = kernel.world.strays.insert(stray);
    }
    kernel.world.own = addresses(input)?;
    kernel.world.host = Host {
        v4: input.arbitrary()?,
        v6: input.arbitrary()?,
        checks_sources: input.arbitrary()?,
        fresh_v4: settings(input)?,
        fresh_forces_v6: input.arbitrary()?,
    };
    Ok(kernel)
}

/// A number of a link that no other link has. Mostly small.
fn number(input: &mut Unstructured<'_>, taken: &mut BTreeSet<u32>) -> Result<u32> {
    let mut number = small(input)?;
    while number == 0 || !taken.insert(number) {
        number = number.wrapping_add(1);
    }
    Ok(number)
}

/// A slot or an index: few, none that a table has, or any of the high ones. Those between would only
/// make plans of many steps, and the search slow.
fn small(input: &mut Unstructured<'_>) -> Result<u32> {
    match input.arbitrary()? {
        0xff_u8 => Ok(input.arbitrary::<u32>()? | 1 << 24),
        0xfe => Ok(MAX_DEVS + u32::from(input.arbitrary::<u8>()?)),
        number => Ok(u32::from(number & 15)),
    }
}

fn port(
    input: &mut Unstructured<'_>,
    index: u32,
    taken: &mut BTreeSet<u32>,
) -> Result<(PortView, BTreeMap<u32, u32>)> {
    let entry = PortEntry {
        abi: input.arbitrary()?,
        ifindex: small(input)?,
        members: small(input)?,
        mtu: mtu(input)?,
        mac: mac(input)?,
        mode: input.arbitrary()?,
        flag: input.arbitrary()?,
        bits: input.arbitrary()?,
        identity: input.arbitrary()?,
    };
    let parent = match input.ratio(9, 10)? {
        true => Some(link(input, index)?),
        false => None,
    };
    let mut devs = BTreeMap::new();
    for _ in 0..input.int_in_range(0..=6)? {
        let host = number(input, taken)?;
        let _: Option<DevView> = devs.insert(host, device(input, host)?);
    }
    // The devices' own ends are counted elsewhere; a number of an owner or member is anybody's.
    let hosts: Vec<u32> = devs.keys().copied().chain([0, index]).collect();
    let host = |input: &mut Unstructured<'_>| match input.ratio(3, 4)? {
        true => input.choose(&hosts).copied(),
        false => small(input),
    };
    let mut owners = BTreeMap::new();
    for _ in 0..input.int_in_range(0..=6)? {
        let kind = match input.arbitrary()? {
            0xff_u8 => input.arbitrary()?,
            kind => u32::from(kind & 7),
        };
        let ifindex = host(input)?;
        let owner = Owner { ifindex, kind };
        let _: Option<Owner> = owners.insert(prefix(input)?, owner);
    }
    let mut slots = BTreeMap::new();
    for _ in 0..input.int_in_range(0..=6)? {
        let slot = small(input)?.min(MAX_DEVS - 1);
        let _: Option<u32> = slots.insert(slot, host(input)?);
    }
    let mut found = Routing::default();
    for _ in 0..input.int_in_range(0..=3)? {
        let rule = rule(input, index)?;
        let _: bool = found.rules.insert(rule);
        let host = Some(host(input)?).filter(|host| *host != 0);
        let _: Option<_> = found.routes.insert(prefix(input)?, host);
    }
    let mut grants = BTreeMap::new();
    for _ in 0..input.int_in_range(0..=3)? {
        let _: Option<_> = grants.insert(small(input)?, prefixes(input)?);
    }
    let mut behind = BTreeMap::new();
    for _ in 0..input.int_in_range(0..=3)? {
        let _: Option<bool> = behind.insert(address(input)?, input.arbitrary()?);
    }
    let mut learnt = BTreeMap::new();
    for _ in 0..input.int_in_range(0..=3)? {
        let mut of_guest = BTreeMap::new();
        for _ in 0..input.int_in_range(0..=3)? {
            let _: Option<_> = of_guest.insert(address(input)?, input.arbitrary()?);
        }
        let _: Option<_> = learnt.insert(small(input)?, of_guest);
    }
    let port = PortView {
        entry,
        parent,
        devs,
        owners,
        members: Vec::new(),
        // Observed only where the entry says that there may be some.
        routing: match routing::concerns(&entry) {
            true => found,
            false => Routing::default(),
        },
        gateways: addresses(input)?,
        behind,
        grants,
        learnt,
    };
    Ok((port, slots))
}

fn device(input: &mut Unstructured<'_>, host: u32) -> Result<DevView> {
    let entry = DevEntry {
        slot: small(input)?,
        bits: input.arbitrary()?,
        carrier_downs: input.arbitrary::<u8>()?.into(),
    };
    let mut dev = DevView {
        entry,
        host: None,
        place: None,
        link: None,
        addresses: BTreeSet::new(),
    };
    if input.ratio(1, 10)? {
        return Ok(dev);
    }
    dev.host = Some(link(input, host)?);
    if dev.is_tap() {
        // What observe() makes of one: it is here, and its own other end.
        let own = dev.host.as_mut();
        own.into_iter()
            .for_each(|own| own.tap = Some(TapSettings::default()));
        if dev.host.as_ref().is_some_and(Link::is_up) {
            dev.addresses = addresses(input)?;
        }
        dev.link.clone_from(&dev.host);
        return Ok(dev);
    }
    let id: Option<i32> = input.arbitrary()?;
    dev.place = id.map(Nsid);
    if input.ratio(9, 10)? {
        let own = link(input, host)?;
        if own.is_up() {
            dev.addresses = addresses(input)?;
        }
        dev.link = Some(own);
    }
    Ok(dev)
}

fn link(input: &mut Unstructured<'_>, index: u32) -> Result<Link> {
    let mut link = Link::default();
    link.index = index;
    link.name = format!("{}{index}", input.choose(&["eth", "ipvh", ""])?);
    link.flags = input.arbitrary()?;
    link.operstate = input.int_in_range(0..=6)?;
    link.carrier_down_count = input.arbitrary::<u8>()?.into();
    link.mtu = mtu(input)?;
    link.mac = match input.arbitrary()? {
        true => Some(mac(input)?),
        false => None,
    };
    link.allmulti = input.arbitrary()?;
    link.addr_gen_mode = *input.choose(&[
        None,
        Some(AddrGenMode::Eui64),
        Some(AddrGenMode::None),
        Some(AddrGenMode::StablePrivacy),
        Some(AddrGenMode::Random),
    ])?;
    if input.arbitrary()? {
        link.v4 = Some(settings(input)?);
    }
    link.force_forwards_v6 = input.arbitrary()?;
    Ok(link)
}

fn settings(input: &mut Unstructured<'_>) -> Result<V4Settings> {
    Ok(V4Settings {
        forwarding: input.arbitrary()?,
        rp_filter: input.int_in_range(0..=2)?,
        src_valid_mark: input.arbitrary()?,
    })
}

fn mtu(input: &mut Unstructured<'_>) -> Result<u32> {
    input.choose(&[1500, 1280, 68, 0, u32::MAX]).copied()
}

fn mac(input: &mut Unstructured<'_>) -> Result<Mac> {
    Ok([2, 0, 0, 0, 0, input.arbitrary::<u8>()? & 3])
}

fn rule(input: &mut Unstructured<'_>, port: u32) -> Result<Rule> {
    Ok(Rule {
        family: *input.choose(&Family::ALL)?,
        priority: 500 + u32::from(input.arbitrary::<u8>()? & 3),
        interface: format!("{}{port}", input.choose(&["eth", "old"])?),
        mark: input.arbitrary()?,
        table: routing::table(port),
        nowhere: input.arbitrary()?,
    })
}

fn addresses(input: &mut Unstructured<'_>) -> Result<BTreeSet<IpAddr>> {
    (0..input.int_in_range(0..=4)?)
        .map(|_| address(input))
        .collect()
}

fn prefixes(input: &mut Unstructured<'_>) -> Result<BTreeSet<IpNet>> {
    (0..input.int_in_range(0..=4)?)
        .map(|_| prefix(input))
        .collect()
}

/// An address by itself, or a prefix around it of whatever length.
fn prefix(input: &mut Unstructured<'_>) -> Result<IpNet> {
    let address = address(input)?;
    let single = IpNet::from(address);
    let len: u8 = input.arbitrary()?;
    Ok(match len.checked_sub(128) {
        None => single,
        Some(len) => {
            let len = len % single.max_prefix_len();
            IpNet::new(address, len)
                .expect("a length that fits")
                .trunc()
        }
    })
}

/// One of a few that devices quarrel about, or any.
fn address(input: &mut Unstructured<'_>) -> Result<IpAddr> {
    Ok(match input.arbitrary()? {
        0xff_u8 => IpAddr::from(input.arbitrary::<[u8; 4]>()?),
        0xfe => IpAddr::from(input.arbitrary::<[u8; 16]>()?),
        // What a stack makes of the MAC addresses above.
        last @ 0xf0.. => IpAddr::from([0xfe80, 0, 0, 0, 0, 0xff, 0xfe00, u16::from(last & 3)]),
        last @ 0x80.. => IpAddr::from([0xfd00, 0, 0, 0, 0, 0, 0, u16::from(last & 7)]),
        last => IpAddr::from([10, 0, 0, last & 7]),
    })
}
