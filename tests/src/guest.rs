//! A guest without a virtual machine: the stack of a namespace, behind a tap that is opened here as a
//! virtual machine monitor opens it.
//!
//! ```text
//!   …-host                                   …-vm0
//!   tap0 (ipvtap) ── its file ═ pumps ═ its file ── eth0 (a plain tap, MAC address of its own)
//! ```
//!
//! Frames are passed on with their `virtio_net_hdr`, so what one side leaves to the other (checksums,
//! segments) is left as between a guest and its host.

use std::fs::File;
use std::io::{Read as _, Write as _};
use std::net::{Ipv4Addr, Ipv6Addr};
use std::os::fd::AsFd as _;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;

use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sched::{CloneFlags, setns};

use crate::ns::Ns;
use crate::packet::{Mac, mac_text};
use crate::sys;
use crate::topology::{Mode, Net};

/// A guest that runs. It is switched off with this value.
#[derive(Debug)]
pub struct Guest {
    /// Its stack; the interface is `eth0`.
    pub ns: Ns,
    /// The MAC address that it uses.
    pub mac: Mac,
    stop: Arc<AtomicBool>,
    pumps: Vec<JoinHandle<()>>,
}

/// Addresses for the guest of this number, in its mode.
pub fn addresses(mode: Mode, number: u8) -> (Ipv4Addr, Ipv6Addr) {
    let six = u16::from(number);
    match mode {
        Mode::L2 => (
            Ipv4Addr::new(10, 1, 0, 60 + number),
            Ipv6Addr::new(0xfd00, 0, 0, 0, 0, 0, 0, 0x60 + six),
        ),
        Mode::L3 | Mode::L3s => (
            Ipv4Addr::new(10, 2, 60 + number, 1),
            Ipv6Addr::new(0xfd02, 0x60 + six, 0, 0, 0, 0, 0, 1),
        ),
    }
}

/// Opens a tap of the calling thread's namespace, as a virtual machine monitor does.
///
/// # Errors
///
/// The kernel's: `EBUSY` where somebody has it open, `EPERM` for whoever may not.
pub fn open_tap(name: &str, multi_queue: bool) -> Result<File, Errno> {
    let file = File::options().read(true).write(true).open("/dev/net/tun");
    let file = file.expect("/dev/net/tun");
    let queues = if multi_queue { sys::IFF_MULTI_QUEUE } else { 0 };
    sys::tap(file.as_fd(), name, sys::IFF_VNET_HDR | queues)?;
    sys::want_offload(file.as_fd())?;
    Ok(file)
}

/// Whether a user without privileges may open a tap of the host.
///
/// # Errors
///
/// The kernel's: `EPERM` for whoever may not.
pub fn open_tap_as(net: &Net, name: &str, user: u32) -> Result<(), Errno> {
    let host = net.host.handle();
    // A thread of its own: there is no way back.
    let opened = std::thread::scope(|scope| {
        let tried = scope.spawn(|| {
            setns(host, CloneFlags::CLONE_NEWNET)?;
            let file = File::options().read(true).write(true).open("/dev/net/tun");
            let file = file.expect("/dev/net/tun");
            sys::become_user(user)?;
            sys::tap(file.as_fd(), name, sys::IFF_VNET_HDR)
        });
        tried.join()
    });
    opened.expect("a thread")
}

impl Guest {
    /// Starts one behind the tap `name` of the host, in a namespace of this name.
    #[track_caller]
    pub fn start(net: &Net, name: &str, suffix: &str, mac: Mac) -> Self {
        let ns = net.namespace(suffix);
        let outer = net.host.enter(|| open_tap(name, false));
        let outer = outer.unwrap_or_else(|errno| panic!("open {name}: {errno}"));
        let inner = ns.enter(|| open_tap("eth0", false)).expect("a tap");
        ns.hurry("eth0");
        let mac_text = mac_text(mac);
        let mtu = net.host.link(name).mtu;
        ns.batch(&format!("link set eth0 address {mac_text} mtu {mtu} up\n"));
        let stop = Arc::new(AtomicBool::new(false));
        let clone = |file: &File| file.try_clone().expect("a second descriptor");
        let pumps = vec![
            pump(clone(&outer), clone(&inner), &stop),
            pump(inner, outer, &stop),
        ];
        Self {
            ns,
            mac,
            stop,
            pumps,
        }
    }

    /// Gives it addresses and default routes as its mode asks for.
    #[track_caller]
    pub fn configure(&self, mode: Mode, v4: Ipv4Addr, v6: Ipv6Addr) {
        // In l3 whoever is asked for answers; any address is a router's.
        let (by4, by6) = match mode {
            Mode::L2 => ("10.1.0.254", "fd00::254"),
            Mode::L3 | Mode::L3s => ("169.254.1.1", "fe80::1"),
        };
        self.ns.batch(&format!(
            "addr add {v4}/24 dev eth0\n\
             route add default via {by4} dev eth0 onlink\n\
             addr add {v6}/64 dev eth0 nodad\n\
             route add ::/0 via {by6} dev eth0 onlink\n"
        ));
    }

    /// Switches it off, and waits until that is so.
    pub fn stop(self) {}
}

fn pump(mut from: File, mut to: File, stop: &Arc<AtomicBool>) -> JoinHandle<()> {
    let stop = Arc::clone(stop);
    std::thread::spawn(move || {
        let mut buf = vec![0; 1 << 17];
        while !stop.load(Ordering::Relaxed) {
            let mut fds = [PollFd::new(from.as_fd(), PollFlags::POLLIN)];
            if poll(&mut fds, PollTimeout::from(50u8)).is_ok_and(|ready| ready > 0) {
                match from.read(&mut buf) {
                    // The far side may be down.
                    Ok(len) => drop(to.write(&buf[..len])),
                    // The tap was deleted.
                    Err(_) => break,
                }
            }
        }
    })
}

impl Drop for Guest {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        for pump in self.pumps.drain(..) {
            let _: std::thread::Result<()> = pump.join();
        }
    }
}
