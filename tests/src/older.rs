//! What another version of our program has left running.
//!
//! [`age`] turns the port of a net into one of version 2 of the layout: it loads the object that
//! version had, over maps of the sizes that it had, with what it wrote into them, under the names
//! that it gave them, and puts its programs where ours are. All else, links and host ends, was made
//! by that version as it is now. Nothing of ours is asked for this, so it cannot be wrong in the same
//! way.
//!
//! The agent stands for one of that version: it is stopped, since it would see what it knows better.

use std::fs;
use std::path::{Path, PathBuf};

use aya::EbpfLoader;
use aya::maps::{Array, HashMap, Map, MapData};
use aya::programs::links::{FdLink, PinnedLink};
use aya::programs::tc::{SchedClassifierLink, TcHandle};
use aya::programs::{SchedClassifier, TcAttachType};
use ipvlan_abi::{GrantKey, PortEntry};
use nix::fcntl::{AT_FDCWD, Flock, FlockArg, RenameFlags, renameat2};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::topology::Net;

/// The programs of version 2.
static OBJECT: &[u8] = aya::include_bytes_aligned!("../objects/abi-2.bpf.o");

/// Maps that are the same since then.
const SAME: [(&str, &str); 5] = [
    ("owners4", "OWNERS4"),
    ("owners6", "OWNERS6"),
    ("devs", "DEVS"),
    ("members", "MEMBERS"),
    ("drops", "DROPS"),
];
const OTHER: [(&str, &str); 2] = [("port", "PORT"), ("grants", "GRANTS")];
const PARENT: &str = "parent_ingress";
const DEVICE: &str = "device_egress";

/// `PortEntry` was the same but for what came at the end.
const ENTRY: usize = 28;
const KEY: usize = size_of::<GrantKey>();

/// Makes the port of eth0 one of version 2.
pub fn age(net: &Net) {
    let state = net.state();
    let lock = fs::File::open(&state).expect("a state");
    let lock = Flock::lock(lock, FlockArg::LockExclusive).expect("its lock");
    // None of them is in the middle of something, for they would need the lock.
    for agent in net.agents() {
        let pid = Pid::from_raw(agent.cast_signed());
        kill(pid, Signal::SIGSTOP).expect("an agent");
    }
    let dir = port(net);
    let beside = state.join("older");
    fs::create_dir(&beside).expect("a directory");
    for (name, _) in SAME {
        fs::hard_link(dir.join(name), beside.join(name)).expect("another name");
    }
    let mut loader = EbpfLoader::new();
    for (name, symbol) in SAME.into_iter().chain(OTHER) {
        let _: &mut EbpfLoader<'_> = loader.map_pin_path(symbol, beside.join(name));
    }
    let mut object = loader.load(OBJECT).expect("the object of version 2");
    write_entry(&dir, &beside);
    write_grants(&dir, &beside);
    for name in [PARENT, DEVICE] {
        let program = object.program_mut(name).expect("a program");
        let program: &mut SchedClassifier = program.try_into().expect("a classifier");
        program.load().expect("the verifier");
        let _: () = program.pin(beside.join(name)).expect("a pin");
    }
    let open = |name| SchedClassifier::from_pin(beside.join(name)).expect("a program");
    for name in names(&dir) {
        let program = match &*name {
            "parent_link" => PARENT,
            link if link.starts_with("device_link_") => DEVICE,
            _ => continue,
        };
        fs::hard_link(dir.join(&name), beside.join(&name)).expect("another name");
        let link = PinnedLink::from_pin(beside.join(&name)).expect("a link");
        let link = SchedClassifierLink::try_from(FdLink::from(link)).expect("a tcx link");
        let _ = open(program).attach_to_link(link).expect("an exchange");
    }
    if !dir.join("parent_link").exists() {
        net.host.enter(|| {
            let ends = net.host.links().into_iter();
            let ends = ends.filter(|name| name.starts_with("ipvh"));
            for (name, interface) in ends
                .map(|name| (DEVICE, name))
                .chain([(PARENT, "eth0".to_owned())])
            {
                let link = SchedClassifierLink::attached(
                    &interface,
                    TcAttachType::Ingress,
                    0xfffe,
                    TcHandle::new(0, 0x1b1a),
                    None,
                )
                .expect("an interface");
                let mut program = open(name);
                let id = program.attach_to_link(link).expect("an exchange");
                // Dropped, it would go.
                std::mem::forget(program.take_link(id).expect("a link"));
            }
        });
    }
    renameat2(
        AT_FDCWD,
        &beside,
        AT_FDCWD,
        &dir,
        RenameFlags::RENAME_EXCHANGE,
    )
    .expect("an exchange");
    remove(&beside);
    drop(lock);
}

/// Where the port of eth0 is.
pub fn port(net: &Net) -> PathBuf {
    net.state().join(net.host.index("eth0").to_string())
}

/// The version that made the port pinned there.
pub fn version(dir: &Path) -> u32 {
    let value = match MapData::from_pin(dir.join("port")).expect("a port").info() {
        Ok(info) if info.value_size() as usize == ENTRY => {
            let port: Array<_, [u8; ENTRY]> = open_array(dir);
            port.get(&0, 0).expect("an entry").to_vec()
        }
        _ => entry(dir).to_vec(),
    };
    u32::from_ne_bytes(value[..4].try_into().expect("four bytes"))
}

/// Has the port pinned there be of this version, whatever else there is.
pub fn set_version(dir: &Path, version: u32) {
    let mut value = entry(dir);
    value[..4].copy_from_slice(&version.to_ne_bytes());
    let mut port: Array<_, [u8; size_of::<PortEntry>()]> = open_array(dir);
    port.set(0, value, 0).expect("an entry");
}

/// The bytes of a port of the present layout.
pub fn entry(dir: &Path) -> [u8; size_of::<PortEntry>()] {
    open_array(dir).get(&0, 0).expect("an entry")
}

fn open_array<const N: usize>(dir: &Path) -> Array<MapData, [u8; N]> {
    let map = MapData::from_pin(dir.join("port")).expect("a port");
    Map::Array(map).try_into().expect("an array of that size")
}

fn write_entry(from: &Path, to: &Path) {
    let mut entry: [u8; ENTRY] = entry(from)[..ENTRY].try_into().expect("it begins so");
    entry[..4].copy_from_slice(&2_u32.to_ne_bytes());
    open_array(to).set(0, entry, 0).expect("an entry");
}

/// Keys began with the slot and, in four bytes, the family.
fn write_grants(from: &Path, to: &Path) {
    let open = |dir: &Path| -> HashMap<MapData, [u8; KEY], u8> {
        let map = MapData::from_pin(dir.join("grants")).expect("grants");
        Map::HashMap(map).try_into().expect("keys of that size")
    };
    let mut grants = open(to);
    for key in open(from).keys() {
        let mut key = key.expect("a key");
        key[6..8].fill(0);
        grants.insert(key, 1, 0).expect("a grant");
    }
}

fn names(dir: &Path) -> Vec<String> {
    let entries = fs::read_dir(dir).expect("a directory").flatten();
    entries
        .map(|entry| entry.file_name().to_string_lossy().into_owned())
        .collect()
}

fn remove(dir: &Path) {
    for name in names(dir) {
        fs::remove_file(dir.join(name)).expect("a pin");
    }
    fs::remove_dir(dir).expect("a directory");
}
