//! The eBPF side: a port in a bpffs of the test's own, whose programs run on frames of ours.

use std::net::IpAddr;
use std::path::PathBuf;

use aya::programs::{SchedClassifier, TestRun as _, TestRunOptions};
use ipnet::IpNet;
use ipvlan_abi::{Flag, Mode, PortEntry};
use ipvlan_core::Verdict;
use ipvlan_datapath_bpf::{Capacity, Port};
use nix::mount::{MsFlags, mount};
use nix::sched::{CloneFlags, unshare};

use crate::{OWNERS, PARENT_MAC, V4, V4_PREFIXES, V6, V6_PREFIXES};

/// The eBPF side: one port in a bpffs of the test's own.
pub(crate) struct Machine {
    pub(crate) port: Port,
    decide: SchedClassifier,
    dir: PathBuf,
}

impl Machine {
    pub(crate) fn new() -> Self {
        Self::with(Capacity::default())
    }

    pub(crate) fn with(capacity: Capacity) -> Self {
        // A mount namespace and a network namespace of this thread's own: nothing is left behind.
        unshare(CloneFlags::CLONE_NEWNS | CloneFlags::CLONE_NEWNET)
            .expect("needs root; run: cargo xtask test");
        let none: Option<&str> = None;
        mount(none, "/", none, MsFlags::MS_REC | MsFlags::MS_PRIVATE, none).unwrap();
        let dir = tempfile::tempdir().unwrap().keep();
        mount(Some("bpf"), &dir, Some("bpf"), MsFlags::empty(), none).unwrap();
        let entry = PortEntry {
            abi: 0,
            ifindex: 2,
            members: 0,
            mtu: 1500,
            mac: PARENT_MAC,
            mode: 0,
            flag: 0,
            bits: 0,
            identity: [2, 1, 2, 3],
        };
        let mut port = Port::create(&dir.join("port"), "lo", entry, capacity).unwrap();
        let v4 = V4.iter().map(|address| (IpAddr::from(*address), 32));
        let v6 = V6.iter().map(|address| (IpAddr::from(*address), 128));
        for ((address, len), owner) in v4.zip(OWNERS).chain(v6.zip(OWNERS)) {
            let address = IpNet::new(address, len).unwrap();
            port.set_owner(address, owner).unwrap();
        }
        let v4 = V4_PREFIXES.map(|(address, len, owner)| (IpAddr::from(address), len, owner));
        let v6 = V6_PREFIXES.map(|(address, len, owner)| (IpAddr::from(address), len, owner));
        for (address, len, owner) in v4.into_iter().chain(v6) {
            let prefix = IpNet::new(address, len).unwrap();
            port.set_owner(prefix, owner).unwrap();
        }
        Self {
            decide: port.load_decide().unwrap(),
            port,
            dir,
        }
    }

    pub(crate) fn set(&mut self, mode: Mode, flag: Flag, bits: u32) -> PortEntry {
        let mut entry = self.port.entry().unwrap();
        entry.mode = mode as u8;
        entry.flag = flag as u8;
        entry.bits = bits;
        self.port.set_entry(entry).unwrap();
        entry
    }

    /// What `decide` says; `sender` 0 is rx.
    pub(crate) fn decide(&self, frame: &[u8], sender: u32) -> Verdict {
        // struct __sk_buff: mark is word 2, cb words 12 to 16.
        let mut context = [0_u32; 48];
        context[2] = sender;
        let context: Vec<u8> = context.iter().flat_map(|word| word.to_ne_bytes()).collect();
        let mut out = vec![0; context.len()];
        let result = self
            .decide
            .test_run(TestRunOptions {
                data_in: Some(frame),
                ctx_in: Some(&context),
                ctx_out: Some(&mut out),
                repeat: 1,
                ..TestRunOptions::default()
            })
            .unwrap_or_else(|error| panic!("test run of {} bytes: {error}", frame.len()));
        assert_eq!(result.return_value, 0, "the program decided");
        let word = |n: usize| u32::from_ne_bytes(out[4 * n..4 * n + 4].try_into().unwrap());
        Verdict::from_bits(u64::from(word(12)) | u64::from(word(13)) << 32)
    }
}

impl Drop for Machine {
    fn drop(&mut self) {
        let _: nix::Result<()> = nix::mount::umount2(&self.dir, nix::mount::MntFlags::MNT_DETACH);
        let _: std::io::Result<()> = std::fs::remove_dir(&self.dir);
    }
}

/// Whether every kernel takes the frame for a test run.
pub(crate) fn can_be_run(frame: &[u8]) -> bool {
    if frame.len() > 3000 {
        return false;
    }
    match frame[12..14] {
        [0x08, 0x00] => frame.len() >= 14 + 20,
        [0x86, 0xdd] => frame.len() >= 14 + 40,
        _ => true,
    }
}
