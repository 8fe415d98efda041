//! One port: a directory of pins.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::net::IpAddr;
use std::path::{Path, PathBuf};

use aya::maps::lpm_trie::{Key, LpmTrie};
use aya::maps::{Array, HashMap, Map, MapData, MapError, PerCpuHashMap, ProgramArray};
use aya::programs::{ProgramError, SchedClassifier};
use aya::util::KernelVersion;
use aya::{EbpfLoader, Pod};
use ipnet::{IpNet, Ipv4Net, Ipv6Net};
use ipvlan_abi::{
    ABI_VERSION, ClaimKey, DEEP_EGRESS, DevEntry, DropKey, DropReason, GrantKey, GuestEntry,
    LEASE_REPLY, LEASE_REQUEST, MAX_DEVS, MAX_OWNERS, Owner, PORT_SET_TYPE, PortEntry,
};

use crate::OBJECT;
use crate::attach::{Hook, Spot};
use crate::error::Error;
use crate::pod::Raw;
use crate::takeover::Age;

pub(crate) const PARENT_INGRESS: Spot = Spot::ingress("parent_ingress");
pub(crate) const DEVICE_EGRESS: Spot = Spot::ingress("device_egress");
const GUEST_EGRESS: Spot = Spot::early_ingress("guest_egress");
const GUEST_INGRESS: Spot = Spot::egress("guest_ingress");
const ATTACHED: [Spot; 4] = [PARENT_INGRESS, DEVICE_EGRESS, GUEST_EGRESS, GUEST_INGRESS];
/// Programs that others go on with.
const CONTINUED: [(u32, &str); 3] = [
    (DEEP_EGRESS, "deep_egress"),
    (LEASE_REQUEST, "lease_request"),
    (LEASE_REPLY, "lease_reply"),
];
const DECIDE: &str = "decide";
pub(crate) const PARENT_LINK: &str = "parent_link";

/// How much the maps of a port can hold. Smaller than the default only in tests of what happens
/// when they are full.
#[derive(Clone, Copy, Debug)]
pub struct Capacity {
    /// Addresses of each family.
    pub owners: u32,
}

impl Default for Capacity {
    fn default() -> Self {
        Self { owners: MAX_OWNERS }
    }
}

/// The datapath of one parent, open for changes. The datapath itself lives on when this is
/// dropped, until its directory is removed.
pub struct Port {
    dir: PathBuf,
    port: Array<MapData, Raw<PortEntry>>,
    owners4: HashMap<MapData, [u8; 4], Raw<Owner>>,
    owners6: HashMap<MapData, [u8; 16], Raw<Owner>>,
    prefixes4: LpmTrie<MapData, [u8; 4], Raw<Owner>>,
    prefixes6: LpmTrie<MapData, [u8; 16], Raw<Owner>>,
    devs: HashMap<MapData, u32, Raw<DevEntry>>,
    members: Array<MapData, u32>,
    pub(crate) drops: PerCpuHashMap<MapData, Raw<DropKey>, u64>,
    grants: HashMap<MapData, Raw<GrantKey>, u8>,
    pub(crate) guests: HashMap<MapData, u32, Raw<GuestEntry>>,
    pub(crate) learnt: HashMap<MapData, Raw<ClaimKey>, u64>,
}

impl Port {
    /// Loads the programs for the parent `interface` of the calling thread's namespace, pins all in
    /// `dir`, which is created, and attaches the parent's program. `entry` is completed with what
    /// depends on the kernel.
    ///
    /// # Errors
    ///
    /// Whatever the kernel has against it. What was made until then is removed again.
    pub fn create(
        dir: &Path,
        interface: &str,
        entry: PortEntry,
        capacity: Capacity,
    ) -> Result<Self, Error> {
        refuse_old_kernel()?;
        fs::create_dir(dir).map_err(|source| file("create", dir, source))?;
        Self::fill(dir, interface, entry, capacity).inspect_err(|_| {
            // The first error is the one to report.
            let _: Result<(), Error> = remove_pins(dir);
        })
    }

    fn fill(
        dir: &Path,
        interface: &str,
        mut entry: PortEntry,
        capacity: Capacity,
    ) -> Result<Self, Error> {
        Self::load(dir, capacity)?;
        if let Ok(version) = KernelVersion::current()
            && version < KernelVersion::new(6, 15, 0)
        {
            entry.bits |= PORT_SET_TYPE;
        }
        entry.abi = ABI_VERSION;
        let mut port = Self::open_any(dir)?;
        port.set_entry(entry)?;
        port.attach(PARENT_INGRESS, interface, PARENT_LINK)?;
        Ok(port)
    }

    /// Loads the programs and pins them in `dir`, and the maps, but for those that are pinned there
    /// already: these are used.
    pub(crate) fn load(dir: &Path, capacity: Capacity) -> Result<(), Error> {
        let mut loader = EbpfLoader::new();
        for (name, symbol) in MAPS {
            let _: &mut EbpfLoader<'_> = loader.map_pin_path(symbol, dir.join(name));
        }
        let mut ebpf = loader
            .map_max_entries("OWNERS4", capacity.owners)
            .map_max_entries("OWNERS6", capacity.owners)
            .load(OBJECT)
            .map_err(|source| Error::Load(source.into()))?;
        for name in ATTACHED
            .map(|spot| spot.program)
            .into_iter()
            .chain(CONTINUED.map(|(_, name)| name))
        {
            let program: &mut SchedClassifier = ebpf
                .program_mut(name)
                .ok_or(Error::Missing(name))?
                .try_into()
                .map_err(|source| of_program("open", name, source))?;
            program
                .load()
                .map_err(|source| of_program("load", name, source))?;
            let path = dir.join(name);
            program.pin(&path).map_err(|source| Error::Pin {
                path,
                source: source.into(),
            })?;
        }
        let mut programs: ProgramArray<&mut MapData> = ebpf
            .map_mut("PROGRAMS")
            .ok_or(Error::Missing("PROGRAMS"))?
            .try_into()
            .map_err(|source| map("open", "programs", source))?;
        for (index, name) in CONTINUED {
            // By its pin: the object does not lend a map and a program at once.
            let program = SchedClassifier::from_pin(dir.join(name))
                .map_err(|source| of_program("open", name, source))?;
            let fd = program
                .fd()
                .map_err(|source| of_program("open", name, source))?;
            programs
                .set(index, fd, 0)
                .map_err(|source| map("write", "programs", source))?;
        }
        Ok(())
    }

    /// Opens what is pinned in `dir`.
    ///
    /// # Errors
    ///
    /// [`Error::Abi`] when another version made it; [`Error::File`] or [`Error::Map`] when it is not
    /// whole.
    pub fn open(dir: &Path) -> Result<Self, Error> {
        match Self::age(dir)? {
            Age::Current | Age::Unfinished => Self::open_any(dir),
            Age::Older(found) | Age::Foreign(found) => Err(Error::Abi {
                path: dir.to_owned(),
                found,
                known: ABI_VERSION,
            }),
        }
    }

    /// The same where it is known to be of this version.
    pub(crate) fn open_any(dir: &Path) -> Result<Self, Error> {
        Ok(Self {
            dir: dir.to_owned(),
            port: open_map(dir, "port", Map::Array)?,
            owners4: open_map(dir, "owners4", Map::HashMap)?,
            owners6: open_map(dir, "owners6", Map::HashMap)?,
            prefixes4: open_map(dir, "prefixes4", Map::LpmTrie)?,
            prefixes6: open_map(dir, "prefixes6", Map::LpmTrie)?,
            devs: open_map(dir, "devs", Map::HashMap)?,
            members: open_map(dir, "members", Map::Array)?,
            drops: open_map(dir, "drops", Map::PerCpuHashMap)?,
            grants: open_map(dir, "grants", Map::HashMap)?,
            guests: open_map(dir, "guests", Map::HashMap)?,
            learnt: open_map(dir, "learnt", Map::HashMap)?,
        })
    }

    pub(crate) fn attach(&self, spot: Spot, interface: &str, pin: &str) -> Result<(), Error> {
        let name = spot.program;
        let mut program = SchedClassifier::from_pin(self.dir.join(name))
            .map_err(|source| of_program("open", name, source))?;
        Hook::detect().attach(&mut program, spot, interface, &self.dir.join(pin))
    }

    /// Where it is pinned.
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// The port itself.
    pub fn entry(&self) -> Result<PortEntry, Error> {
        self.port
            .get(&0, 0)
            .map(|raw| raw.0)
            .map_err(|source| map("read", "port", source))
    }

    /// Replaces the port's entry; the next frame sees it.
    pub fn set_entry(&mut self, entry: PortEntry) -> Result<(), Error> {
        self.port
            .set(0, Raw(entry), 0)
            .map_err(|source| map("write", "port", source))
    }

    /// Who owns what: single addresses (/32, /128) and prefixes.
    pub fn owners(&self) -> Result<BTreeMap<IpNet, Owner>, Error> {
        let mut all = BTreeMap::new();
        for item in self.owners4.iter() {
            let (address, owner) = item.map_err(|source| map("read", "owners4", source))?;
            let _: Option<Owner> = all.insert(IpNet::from(IpAddr::from(address)), owner.0);
        }
        for item in self.owners6.iter() {
            let (address, owner) = item.map_err(|source| map("read", "owners6", source))?;
            let _: Option<Owner> = all.insert(IpNet::from(IpAddr::from(address)), owner.0);
        }
        for item in self.prefixes4.iter() {
            let (key, owner) = item.map_err(|source| map("read", "prefixes4", source))?;
            all.extend(v4_prefix(&key).map(|prefix| (prefix, owner.0)));
        }
        for item in self.prefixes6.iter() {
            let (key, owner) = item.map_err(|source| map("read", "prefixes6", source))?;
            all.extend(v6_prefix(&key).map(|prefix| (prefix, owner.0)));
        }
        Ok(all)
    }

    /// Gives an address or a prefix to `owner`, whoever had it. Of a prefix, the bits behind its
    /// length are 0.
    ///
    /// # Errors
    ///
    /// `E2BIG` when the table of addresses is full, `ENOSPC` when that of prefixes is.
    pub fn set_owner(&mut self, prefix: IpNet, owner: Owner) -> Result<(), Error> {
        let (done, name) = match Place::of(prefix) {
            Place::V4(key) => (self.owners4.insert(key, Raw(owner), 0), "owners4"),
            Place::V6(key) => (self.owners6.insert(key, Raw(owner), 0), "owners6"),
            Place::V4Prefix(key) => (self.prefixes4.insert(&key, Raw(owner), 0), "prefixes4"),
            Place::V6Prefix(key) => (self.prefixes6.insert(&key, Raw(owner), 0), "prefixes6"),
        };
        done.map_err(|source| map("write", name, source))
    }

    /// Takes an address or a prefix from whoever has it; fine when nobody does.
    pub fn remove_owner(&mut self, prefix: IpNet) -> Result<(), Error> {
        match Place::of(prefix) {
            Place::V4(key) => gone(self.owners4.remove(&key), "owners4"),
            Place::V6(key) => gone(self.owners6.remove(&key), "owners6"),
            Place::V4Prefix(key) => gone(self.prefixes4.remove(&key), "prefixes4"),
            Place::V6Prefix(key) => gone(self.prefixes6.remove(&key), "prefixes6"),
        }
    }

    /// The devices, by their host end's ifindex.
    pub fn devs(&self) -> Result<BTreeMap<u32, DevEntry>, Error> {
        self.devs
            .iter()
            .map(|item| item.map(|(ifindex, raw)| (ifindex, raw.0)))
            .collect::<Result<_, MapError>>()
            .map_err(|source| map("read", "devs", source))
    }

    /// Writes down a device.
    pub fn set_dev(&mut self, ifindex: u32, entry: DevEntry) -> Result<(), Error> {
        self.devs
            .insert(ifindex, Raw(entry), 0)
            .map_err(|source| map("write", "devs", source))
    }

    /// Forgets a device, its grants, what was learnt of it, its drop counters and its link; fine when there is none.
    pub fn remove_dev(&mut self, ifindex: u32) -> Result<(), Error> {
        // Not if it goes on under another number, and has its slot there, too.
        let mut devs = self.devs()?;
        if let Some(DevEntry { slot, .. }) = devs.remove(&ifindex)
            && !devs.values().any(|other| other.slot == slot)
        {
            for prefix in self.grants()?.remove(&slot).unwrap_or_default() {
                self.remove_grant(slot, prefix)?;
            }
            for address in self.learnt()?.remove(&slot).unwrap_or_default().into_keys() {
                self.remove_learnt(slot, address)?;
            }
        }
        for reason in DropReason::ALL {
            let key = Raw(DropKey {
                ifindex,
                reason: reason as u32,
            });
            gone(self.drops.remove(&key), "drops")?;
        }
        gone(self.guests.remove(&ifindex), "guests")?;
        gone(self.devs.remove(&ifindex), "devs")?;
        for prefix in DEVICE_LINKS {
            remove_file(&self.dir.join(link_name(prefix, ifindex)))?;
        }
        Ok(())
    }

    /// What each device has by hand, by slot: single addresses and prefixes.
    pub fn grants(&self) -> Result<BTreeMap<u32, BTreeSet<IpNet>>, Error> {
        let mut all: BTreeMap<u32, BTreeSet<IpNet>> = BTreeMap::new();
        for item in self.grants.iter() {
            let (Raw(key), _) = item.map_err(|source| map("read", "grants", source))?;
            let (address, len) = key.prefix();
            if let Ok(prefix) = IpNet::new(address, len) {
                let _: bool = all.entry(key.slot).or_default().insert(prefix);
            }
        }
        Ok(all)
    }

    /// Writes down that the device in this slot has an address or a prefix by hand. No program looks
    /// at it: [`Self::set_owner`] is what delivers.
    ///
    /// # Errors
    ///
    /// `E2BIG` when the table is full.
    pub fn set_grant(&mut self, slot: u32, prefix: IpNet) -> Result<(), Error> {
        self.grants
            .insert(grant_key(slot, prefix), 1, 0)
            .map_err(|source| map("write", "grants", source))
    }

    /// Takes that back; fine when it has not.
    pub fn remove_grant(&mut self, slot: u32, prefix: IpNet) -> Result<(), Error> {
        gone(self.grants.remove(&grant_key(slot, prefix)), "grants")
    }

    /// Who hears a broadcast: the host end in each slot below `count`, 0 where a slot is free. There
    /// are [`MAX_DEVS`] slots, whatever an entry says.
    pub fn members(&self, count: u32) -> Result<Vec<u32>, Error> {
        (0..count.min(MAX_DEVS))
            .map(|slot| self.members.get(&slot, 0))
            .collect::<Result<_, MapError>>()
            .map_err(|source| map("read", "members", source))
    }

    /// Puts a host end (or 0) into a slot.
    pub fn set_member(&mut self, slot: u32, ifindex: u32) -> Result<(), Error> {
        self.members
            .set(slot, ifindex, 0)
            .map_err(|source| map("write", "members", source))
    }

    /// Attaches the devices' program to the host end `interface` (with this `ifindex`) of the
    /// calling thread's namespace; to a tap also those that know of a guest.
    pub fn attach_device(
        &mut self,
        interface: &str,
        ifindex: u32,
        is_tap: bool,
    ) -> Result<(), Error> {
        for (spot, prefix) in spots(is_tap) {
            let pin = link_name(prefix, ifindex);
            // A pin left over by an interface that had this number before.
            remove_file(&self.dir.join(&pin))?;
            self.attach(*spot, interface, &pin)?;
        }
        if is_tap {
            // Nobody has been heard there yet.
            let made = self.guests.insert(ifindex, Raw(GuestEntry::default()), 0);
            made.map_err(|source| map("write", "guests", source))?;
        }
        Ok(())
    }

    /// The MAC address of the guest behind the tap `ifindex`, as it was heard last.
    pub fn guest(&self, ifindex: u32) -> Result<Option<[u8; 6]>, Error> {
        match self.guests.get(&ifindex, 0) {
            Ok(Raw(GuestEntry { mac: 0, .. })) | Err(MapError::KeyNotFound) => Ok(None),
            Ok(Raw(GuestEntry { mac, .. })) => {
                let [a, b, c, d, e, f, ..] = mac.to_le_bytes();
                Ok(Some([a, b, c, d, e, f]))
            }
            Err(source) => Err(map("read", "guests", source)),
        }
    }

    /// Frames that died, since the port was made: by host end (or parent), reason and count.
    pub fn drops(&self) -> Result<Vec<(DropKey, u64)>, Error> {
        self.drops
            .iter()
            .map(|item| item.map(|(key, counts)| (key.0, counts.iter().sum())))
            .collect::<Result<_, MapError>>()
            .map_err(|source| map("read", "drops", source))
    }

    /// The program that only decides, loaded over this port's maps, for `BPF_PROG_TEST_RUN`. Its
    /// answer: `decide` in package `ipvlan-bpf`.
    pub fn load_decide(&self) -> Result<SchedClassifier, Error> {
        let mut loader = EbpfLoader::new();
        for (name, symbol) in MAPS {
            let _: &mut EbpfLoader<'_> = loader.map_pin_path(symbol, self.dir.join(name));
        }
        let mut ebpf = loader
            .load(OBJECT)
            .map_err(|source| Error::Load(source.into()))?;
        let program: &mut SchedClassifier = ebpf
            .program_mut(DECIDE)
            .ok_or(Error::Missing(DECIDE))?
            .try_into()
            .map_err(|source| of_program("open", DECIDE, source))?;
        program
            .load()
            .map_err(|source| of_program("load", DECIDE, source))?;
        // By way of a pin, since the object does not let go of what it loaded.
        let path = self.dir.join(DECIDE);
        program.pin(&path).map_err(|source| Error::Pin {
            path: path.clone(),
            source: source.into(),
        })?;
        let program = SchedClassifier::from_pin(&path)
            .map_err(|source| of_program("open", DECIDE, source))?;
        remove_file(&path)?;
        Ok(program)
    }

    /// Ends the port: takes the programs off the parent, if its name is given (it may be gone), and
    /// removes the pins and the directory.
    pub fn remove(self, interface: Option<&str>) -> Result<(), Error> {
        if let Some(interface) = interface
            && !self.dir.join(PARENT_LINK).exists()
        {
            Hook::Clsact.detach(PARENT_INGRESS, interface)?;
        }
        remove_pins(&self.dir)
    }

    /// Removes a directory of pins that [`Self::open`] would not open: half-made, or another
    /// version's.
    pub fn remove_rest(dir: &Path) -> Result<(), Error> {
        remove_pins(dir)
    }
}

/// Pins, and what the maps are called in the object.
pub(crate) const MAPS: [(&str, &str); 13] = [
    ("port", "PORT"),
    ("owners4", "OWNERS4"),
    ("owners6", "OWNERS6"),
    ("prefixes4", "PREFIXES4"),
    ("prefixes6", "PREFIXES6"),
    ("devs", "DEVS"),
    ("members", "MEMBERS"),
    ("drops", "DROPS"),
    ("grants", "GRANTS"),
    // Pinned, or the programs in it would go with the process that put them there.
    ("programs", "PROGRAMS"),
    ("guests", "GUESTS"),
    ("learnt", "LEARNT"),
    ("claims", "CLAIMS"),
];

/// The map that an owner is in, and its key there.
enum Place {
    V4([u8; 4]),
    V6([u8; 16]),
    V4Prefix(Key<[u8; 4]>),
    V6Prefix(Key<[u8; 16]>),
}

impl Place {
    fn of(prefix: IpNet) -> Self {
        let len = prefix.prefix_len();
        match prefix.addr() {
            IpAddr::V4(address) if len == 32 => Self::V4(address.octets()),
            IpAddr::V6(address) if len == 128 => Self::V6(address.octets()),
            IpAddr::V4(address) => Self::V4Prefix(Key::new(len.into(), address.octets())),
            IpAddr::V6(address) => Self::V6Prefix(Key::new(len.into(), address.octets())),
        }
    }
}

fn v4_prefix(key: &Key<[u8; 4]>) -> Option<IpNet> {
    let len = u8::try_from(key.prefix_len()).ok()?;
    Some(Ipv4Net::new(key.data().into(), len).ok()?.into())
}

fn v6_prefix(key: &Key<[u8; 16]>) -> Option<IpNet> {
    let len = u8::try_from(key.prefix_len()).ok()?;
    Some(Ipv6Net::new(key.data().into(), len).ok()?.into())
}

fn grant_key(slot: u32, prefix: IpNet) -> Raw<GrantKey> {
    Raw(GrantKey::new(slot, prefix.addr(), prefix.prefix_len()))
}

/// `bpf_loop`, the youngest of the helpers that the programs call.
const OLDEST: (u8, u8) = (5, 17);

fn refuse_old_kernel() -> Result<(), Error> {
    match KernelVersion::current() {
        Ok(found) if found < KernelVersion::new(OLDEST.0, OLDEST.1, 0) => Err(Error::TooOld {
            needed: OLDEST,
            found: nix::sys::utsname::uname().map_or_else(
                |errno| errno.to_string(),
                |name| name.release().to_string_lossy().into_owned(),
            ),
        }),
        // One that does not say what it is may well be new enough; the verifier will tell.
        _ => Ok(()),
    }
}

/// What the pins of links to host ends begin with; the interface's index follows.
pub(crate) const DEVICE_LINK: &str = "device_link_";
const GUEST_EGRESS_LINK: &str = "guest_egress_link_";
const GUEST_INGRESS_LINK: &str = "guest_ingress_link_";
pub(crate) const DEVICE_LINKS: [&str; 3] = [DEVICE_LINK, GUEST_EGRESS_LINK, GUEST_INGRESS_LINK];

/// What belongs to a host end, in the order in which it is attached, and its pin. What names a guest
/// goes first: before it nothing is let through.
pub(crate) const SPOTS: [(Spot, &str); 3] = [
    (GUEST_INGRESS, GUEST_INGRESS_LINK),
    (GUEST_EGRESS, GUEST_EGRESS_LINK),
    (DEVICE_EGRESS, DEVICE_LINK),
];

pub(crate) fn spots(is_tap: bool) -> &'static [(Spot, &'static str)] {
    let [.., last] = &SPOTS;
    if is_tap {
        &SPOTS
    } else {
        std::slice::from_ref(last)
    }
}

pub(crate) fn link_name(prefix: &str, ifindex: u32) -> String {
    format!("{prefix}{ifindex}")
}

pub(crate) fn open_map<T>(
    dir: &Path,
    name: &'static str,
    kind: fn(MapData) -> Map,
) -> Result<T, Error>
where
    T: TryFrom<Map, Error = MapError>,
{
    MapData::from_pin(dir.join(name))
        .and_then(|data| T::try_from(kind(data)))
        .map_err(|source| map("open", name, source))
}

/// The links first: without their programs nothing reads the maps any more.
pub(crate) fn remove_pins(dir: &Path) -> Result<(), Error> {
    remove_file(&dir.join(PARENT_LINK))?;
    let list = match fs::read_dir(dir) {
        Ok(list) => list,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(()),
        Err(source) => return Err(file("list", dir, source)),
    };
    for entry in list {
        remove_file(&entry.map_err(|source| file("list", dir, source))?.path())?;
    }
    fs::remove_dir(dir).map_err(|source| file("remove", dir, source))
}

fn remove_file(path: &Path) -> Result<(), Error> {
    match fs::remove_file(path) {
        Ok(()) => Ok(()),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(()),
        Err(source) => Err(file("remove", path, source)),
    }
}

/// To remove what is not there is no error.
pub(crate) fn gone(result: Result<(), MapError>, name: &'static str) -> Result<(), Error> {
    match result {
        Ok(()) | Err(MapError::KeyNotFound | MapError::ElementNotFound) => Ok(()),
        Err(MapError::SyscallError(error))
            if error.io_error.raw_os_error() == Some(libc::ENOENT) =>
        {
            Ok(())
        }
        Err(source) => Err(map("write", name, source)),
    }
}

pub(crate) fn map(op: &'static str, map: &'static str, source: MapError) -> Error {
    Error::Map {
        op,
        map,
        source: source.into(),
    }
}

pub(crate) fn of_program(op: &'static str, program: &str, source: ProgramError) -> Error {
    Error::Program {
        op,
        program: program.to_owned(),
        source: source.into(),
    }
}

pub(crate) fn file(op: &'static str, path: &Path, source: std::io::Error) -> Error {
    Error::File {
        op,
        path: path.to_owned(),
        source,
    }
}

/// What aya asks of a key or value that is read from a pinned map.
const _: fn() = || {
    fn pod<T: Pod>() {}
    pod::<Raw<PortEntry>>();
};
