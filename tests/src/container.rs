//! A container: namespaces of its own, whose root is nobody outside of them.

use crate::ns::{Done, Ns};
use crate::process::Process;
use crate::topology::Net;
use crate::{PATIENCE, eventually};

/// A network namespace that belongs to a user namespace, as an unprivileged person makes it.
#[derive(Debug)]
pub struct Container {
    /// Its network namespace. What is done through this is done by the machine's root.
    pub ns: Ns,
    process: Process,
}

impl Container {
    /// Makes one.
    #[track_caller]
    pub fn new(net: &Net, suffix: &str) -> Self {
        // An ordinary person's: root in there is not the owner of root's files.
        let process = net
            .host
            .spawn("setpriv --reuid 65534 --regid 65534 --clear-groups unshare -U -r -n sleep 600");
        let name = format!("/proc/{}/comm", process.pid());
        assert!(
            eventually(PATIENCE, || std::fs::read_to_string(&name)
                .is_ok_and(|comm| comm == "sleep\n")),
            "it unshares"
        );
        let ns = Ns::adopt(
            format!("{}-{suffix}", net.mark()),
            net.mark(),
            process.pid(),
        );
        Self { ns, process }
    }

    /// Lets its root run a command, words separated by blanks.
    pub fn root(&self, line: &str) -> Done {
        let words: Vec<&str> = line.split_whitespace().collect();
        self.root_run(&words)
    }

    /// The same, given in words.
    pub fn root_run(&self, words: &[&str]) -> Done {
        let pid = self.process.pid().to_string();
        let all = [&["nsenter", "-t", &pid, "-U", "-n", "--"], words].concat();
        self.ns.try_run(&all)
    }
}
