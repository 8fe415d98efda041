//! Against the kernel, in network namespaces of our own that have no name and die with the test.

#![expect(
    clippy::expect_used,
    reason = "clippy knows only #[test] functions as tests"
)]

mod links;
mod monitoring;
mod namespaces;
mod routes;

use std::os::fd::AsFd;
use std::panic::resume_unwind;
use std::process::Command;
use std::thread;
use std::time::Duration;

use ipvlan_netlink::{Event, Link, Monitor, NetNs, Netlink, VethPair};
use nix::mount::{MsFlags, mount};
use nix::sched::{CloneFlags, unshare};

const MAC: [u8; 6] = [2, 0, 0, 0x12, 0x34, 0x56];

/// Runs `test` in a thread with a network and mount namespace of its own.
fn in_new_ns<R: Send + 'static>(test: impl FnOnce() -> R + Send + 'static) -> R {
    let thread = thread::spawn(move || {
        unshare(CloneFlags::CLONE_NEWNET | CloneFlags::CLONE_NEWNS).expect("unshare; not root?");
        let private = MsFlags::MS_PRIVATE | MsFlags::MS_REC;
        mount(None::<&str>, "/", None::<&str>, private, None::<&str>).expect("make / private");
        test()
    });
    thread.join().unwrap_or_else(|panic| resume_unwind(panic))
}

fn new_ns() -> NetNs {
    in_new_ns(|| NetNs::current().expect("current"))
}

fn ip(args: &str) {
    let status = Command::new("ip")
        .args(args.split(' '))
        .status()
        .expect("run ip");
    assert!(status.success(), "ip {args}");
}

fn ip_in(ns: &NetNs, args: &str) {
    ns.enter(|| ip(args)).expect("enter");
}

fn named(nl: &mut Netlink, name: &str) -> Link {
    nl.link_by_name(name)
        .expect("read")
        .unwrap_or_else(|| panic!("no link {name}"))
}

/// All events up to `wanted`, which the kernel may send from a work queue.
fn wait_for(monitor: &mut Monitor, wanted: &Event) -> Vec<Event> {
    let mut seen = Vec::new();
    for _ in 0..200 {
        seen.extend(monitor.drain().expect("drain"));
        if seen.contains(wanted) {
            return seen;
        }
        thread::sleep(Duration::from_millis(50));
    }
    panic!("no {wanted:?} in {seen:?}");
}

/// A pair `host0` here, `ipvl0` in `ns`.
fn pair_into(nl: &mut Netlink, ns: &NetNs) -> Link {
    nl.create_veth(&VethPair {
        dev_noarp: true,
        dev_netns: Some(ns.as_fd()),
        ..VethPair::new("host0", "ipvl0", MAC, 1400)
    })
    .expect("create");
    named(nl, "host0")
}
