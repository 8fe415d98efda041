//! Handles of namespaces: found, entered and left.

use std::fs;
use std::os::fd::{AsFd, AsRawFd};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;

use ipvlan_netlink::{NetNs, Netlink, netns};
use nix::errno::Errno;
use nix::mount::{MsFlags, mount};

use crate::{in_new_ns, new_ns};

#[test]
#[ignore = "needs root: cargo xtask test"]
fn an_id_leads_back_to_the_namespace_and_its_name() {
    in_new_ns(|| {
        // /run is this thread's own from here on.
        mount(
            Some("nlt"),
            "/run",
            Some("tmpfs"),
            MsFlags::empty(),
            None::<&str>,
        )
        .unwrap();
        fs::create_dir("/run/netns").unwrap();
        let (there, anywhere, nowhere) = (new_ns(), new_ns(), new_ns());
        for (ns, path) in [(&there, "/run/netns/nlt-a"), (&anywhere, "/run/nlt b")] {
            fs::write(path, "").unwrap();
            let fd = ns.as_fd().as_raw_fd();
            let from = format!("/proc/self/fd/{fd}");
            mount(
                Some(from.as_str()),
                path,
                None::<&str>,
                MsFlags::MS_BIND,
                None::<&str>,
            )
            .unwrap();
        }
        let mut nl = Netlink::open().unwrap();
        let id = nl.assign_nsid(there.as_fd()).unwrap();
        let anywhere_id = nl.assign_nsid(anywhere.as_fd()).unwrap();
        let nowhere_id = nl.assign_nsid(nowhere.as_fd()).unwrap();

        assert!(
            netns::Finder::default()
                .find(&mut nl, id)
                .unwrap()
                .is_some_and(|ns| ns.is_same(&there))
        );
        assert_eq!(
            netns::names(&mut nl).get(&id).map(String::as_str),
            Some("nlt-a")
        );
        assert!(
            netns::Finder::default()
                .find(&mut nl, anywhere_id)
                .unwrap()
                .is_some_and(|ns| ns.is_same(&anywhere))
        );
        assert_eq!(netns::names(&mut nl).get(&anywhere_id), None);
        assert!(
            netns::Finder::default()
                .find(&mut nl, nowhere_id)
                .unwrap()
                .is_none(),
            "only a file descriptor"
        );
        assert!(NetNs::by_name("nlt-a").unwrap().is_same(&there));
        assert!(NetNs::by_name("/run/netns/nlt-a").unwrap().is_same(&there));
        fs::write("/run/netns/nlt-stale", "").unwrap();
        assert_eq!(
            NetNs::by_name("nlt-stale").unwrap_err().errno(),
            Errno::EINVAL
        );

        let all = netns::all();
        let paths = |ns: &NetNs| -> Vec<_> {
            all.iter()
                .filter(|(_, one)| one.is_same(ns))
                .map(|(path, _)| path.clone())
                .collect()
        };
        assert_eq!(
            paths(&there),
            [Path::new("/run/netns/nlt-a")],
            "once, by its name"
        );
        assert_eq!(paths(&anywhere), [Path::new("/run/nlt b")]);
        let process = NetNs::by_pid(std::process::id()).unwrap();
        assert_eq!(paths(&process).len(), 1);
    });
}

#[test]
#[ignore = "needs root: cargo xtask test"]
fn enter_comes_back_also_after_a_panic() {
    in_new_ns(|| {
        let (home, there) = (NetNs::current().unwrap(), new_ns());
        let inside = there.enter(|| NetNs::current().unwrap().inode()).unwrap();
        assert_eq!(inside, there.inode());
        assert!(NetNs::current().unwrap().is_same(&home));
        let inner = there
            .enter(|| home.enter(netns::current_cookie))
            .unwrap()
            .unwrap()
            .unwrap();
        assert_eq!(
            inner,
            netns::current_cookie().unwrap(),
            "there and back and there again"
        );

        let panic = catch_unwind(AssertUnwindSafe(|| there.enter(|| panic!("on purpose"))));
        assert!(panic.is_err());
        assert!(NetNs::current().unwrap().is_same(&home));

        assert_eq!(home.cookie().unwrap(), netns::current_cookie().unwrap());
        assert_ne!(there.cookie().unwrap(), home.cookie().unwrap());
        let again = NetNs::by_pid(std::process::id()).unwrap();
        assert!(
            !again.is_same(&home),
            "only the thread went away, not the process"
        );
    });
}
