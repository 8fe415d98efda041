//! Plans, applied to a kernel that is a few maps.
//!
//! | file | what |
//! |---|---|
//! | `owners.rs` | who owns an address |
//! | `devices.rs` | devices that come and go, and their slots |
//! | `parent.rs` | the parent, and what devices have of it |
//! | `l3s.rs` | what the namespace forwards |
//! | `taps.rs` | devices that are taps |
//! | `learn.rs` | what the guests behind taps say |
//! | `random.rs` | from any state to the one that should be |

mod devices;
mod l3s;
mod learn;
mod owners;
mod parent;
mod random;
mod taps;

use ipvlan_abi::{
    ABI_VERSION, DEV_BEHIND_GROUPS, DEV_LEARN, DEV_MUTED, DEV_TAP, DevEntry, Flag, PORT_FORWARD4,
    PORT_FORWARD6, PORT_MARK, PORT_ROUTED,
};
use ipvlan_netlink::{Family, Link, TapSettings, V4Settings};

use super::model::{Kernel, listen};
use super::*;
use crate::routing::{Host, Routing};

const PARENT: u32 = 2;
const MAC: Mac = [2, 0, 0, 0, 0x0a, 1];
const OTHER_MAC: Mac = [2, 0, 0, 0, 0x0b, 1];
const UP: u32 = 1;
const LOWER_UP: u32 = 1 << 16;

/// A tap that is up and open, with an address that was said to be its guest's.
fn tap(host: u32, slot: u32) -> DevView {
    let mut own = link(host);
    own.tap = Some(TapSettings::default());
    own.addr_gen_mode = Some(AddrGenMode::None);
    DevView {
        entry: DevEntry {
            slot,
            bits: DEV_READY | DEV_TAP,
            carrier_downs: 0,
        },
        host: Some(own.clone()),
        place: None,
        link: Some(own),
        addresses: BTreeSet::new(),
    }
}

impl Kernel {
    /// A port like eth0's, with all that its devices need already in place.
    fn settled(mode: Mode, devs: Vec<DevView>) -> Self {
        let mut port = PortView {
            entry: PortEntry {
                abi: ABI_VERSION,
                ifindex: PARENT,
                members: 0,
                mtu: 1500,
                mac: MAC,
                mode: mode as u8,
                flag: Flag::Bridge as u8,
                bits: 0,
                identity: [2, 0, 0, 1],
            },
            parent: Some(link(PARENT)),
            devs: BTreeMap::new(),
            owners: BTreeMap::new(),
            members: Vec::new(),
            routing: Routing::default(),
            gateways: BTreeSet::new(),
            behind: BTreeMap::new(),
            grants: BTreeMap::new(),
            learnt: BTreeMap::new(),
        };
        let mut slots = BTreeMap::new();
        for mut dev in devs {
            let host = dev.host.as_ref().expect("a settled device").index;
            for address in &dev.addresses {
                let owner = owner(host, dev.place);
                let _: &mut Owner = port.owners.entry(IpNet::from(*address)).or_insert(owner);
            }
            if let (true, Some(link)) = (mode.is_l3(), &mut dev.link) {
                link.flags |= IFF_NOARP;
            }
            let _: Option<u32> = slots.insert(dev.entry.slot, host);
            port.entry.members = port.entry.members.max(dev.entry.slot + 1);
            let _: Option<DevView> = port.devs.insert(host, dev);
        }
        if mode == Mode::L2 {
            port.entry.bits = PORT_ALLMULTI;
            listen(port.parent.as_mut(), true);
        }
        let mut kernel = Self::default();
        let _: Option<PortView> = kernel.world.ports.insert(PARENT, port);
        let _: Option<_> = kernel.slots.insert(PARENT, slots);
        kernel
    }

    fn port(&mut self) -> &mut PortView {
        self.world.ports.get_mut(&PARENT).expect("the port")
    }

    fn parent(&mut self) -> &mut Link {
        self.port().parent.as_mut().expect("the parent")
    }

    fn dev(&mut self, host: u32) -> &mut DevView {
        self.port().devs.get_mut(&host).expect("the device")
    }

    /// The guest behind a tap closes it.
    fn close(&mut self, host: u32) {
        let tap = self.dev(host).host.as_mut().expect("the tap");
        assert!(tap.has_carrier(), "the kernel counts what changes");
        tap.flags &= !LOWER_UP;
        tap.carrier_down_count += 1;
    }

    /// A guest opens it.
    fn open(&mut self, host: u32) {
        let tap = self.dev(host).host.as_mut().expect("the tap");
        tap.flags |= LOWER_UP;
    }

    fn link(&mut self, host: u32) -> &mut Link {
        self.dev(host).link.as_mut().expect("the device's own end")
    }

    fn owner(&self, address: &str) -> Option<u32> {
        let port = self.world.ports.get(&PARENT)?;
        Some(port.owners.get(&net(address))?.ifindex)
    }
}

/// An interface that is up and has a carrier.
fn link(index: u32) -> Link {
    let mut link = Link::default();
    link.index = index;
    link.mac = Some(MAC);
    link.mtu = 1500;
    link.flags = UP | LOWER_UP;
    link.allmulti = Some(0);
    link.name = format!("link{index}");
    link.v4 = Some(V4Settings::default());
    link.force_forwards_v6 = Some(false);
    link
}

fn ip(text: &str) -> IpAddr {
    text.parse().expect("an address")
}

/// An address or a prefix.
fn net(text: &str) -> IpNet {
    let address = text.parse::<IpAddr>().map(IpNet::from);
    address.or_else(|_| text.parse()).expect("a prefix")
}

/// What this device has by hand from now on.
fn give(kernel: &mut Kernel, host: u32, all: &[&str]) {
    let slot = kernel.dev(host).entry.slot;
    let all = all.iter().map(|text| net(text)).collect();
    let _: Option<_> = kernel.port().grants.insert(slot, all);
}

fn shared() -> String {
    "fe80::ff:fe00:a01".to_owned()
}

fn owner(ifindex: u32, place: Option<Nsid>) -> Owner {
    let kind = if place.is_some() {
        OWNER_PEER
    } else {
        OWNER_HERE
    };
    Owner { ifindex, kind }
}

const OF_PARENT: Owner = Owner {
    ifindex: PARENT,
    kind: OWNER_PARENT,
};

/// A device that is up in a namespace of its own. Its own end's index is its host end's.
fn device(host: u32, slot: u32, addresses: &[&str]) -> DevView {
    let mut own_end = link(host);
    own_end.addr_gen_mode = Some(AddrGenMode::Random);
    DevView {
        entry: DevEntry {
            slot,
            bits: DEV_READY,
            carrier_downs: 0,
        },
        host: Some(link(host)),
        place: place(host),
        link: Some(own_end),
        addresses: addresses.iter().map(|text| ip(text)).collect(),
    }
}

fn place(host: u32) -> Option<Nsid> {
    Some(Nsid(i32::try_from(host).expect("a small number")))
}

fn set(address: &str, owner: Owner) -> Step {
    Step::SetOwner {
        port: PARENT,
        prefix: net(address),
        owner,
    }
}

fn lose(address: &str) -> Step {
    Step::DropOwner {
        port: PARENT,
        prefix: net(address),
    }
}

fn member(slot: u32, host: u32) -> Step {
    Step::SetMember {
        port: PARENT,
        slot,
        host,
    }
}

fn forget(host: u32) -> Step {
    Step::ForgetDev { port: PARENT, host }
}

fn delete(index: u32) -> Step {
    Step::DeleteLink { index }
}

fn up(index: u32, up: bool) -> Step {
    Step::Change {
        index,
        change: LinkChange {
            up: Some(up),
            ..LinkChange::default()
        },
    }
}

fn inside(host: u32, change: LinkChange) -> Step {
    Step::ChangeDev {
        place: place(host),
        index: host,
        change,
    }
}

fn entry(kernel: &mut Kernel, change: impl FnOnce(&mut PortEntry)) -> Step {
    let mut entry = kernel.port().entry;
    change(&mut entry);
    Step::SetEntry {
        port: PARENT,
        entry,
    }
}

/// Two devices with an address each.
fn two(mode: Mode) -> Kernel {
    let devs = vec![
        device(10, 0, &["10.0.0.10", "fd00::10"]),
        device(11, 1, &["10.0.0.11"]),
    ];
    Kernel::settled(mode, devs)
}

/// A port with a device and a tap to whose guest an address was given.
fn with_tap(mode: Mode) -> Kernel {
    let mut kernel = Kernel::settled(mode, vec![device(10, 0, &["10.0.0.10"]), tap(20, 1)]);
    give(&mut kernel, 20, &["10.0.0.20", "fd00::20"]);
    let _: usize = kernel.reconcile();
    kernel
}

#[test]
fn what_is_as_it_should_be_needs_nothing() {
    assert_eq!(plan(&World::default()), [], "nothing at all");
    for mode in [Mode::L2, Mode::L3] {
        assert_eq!(two(mode).plan(), [], "{mode}");
    }
}
