//! A virtual machine behind a tap, and how to do things in it.
//!
//! One of Debian's kernels and a busybox, under QEMU, which opens the tap by its name in the parents'
//! namespace, as a user's does. `cargo xtask test` makes what it boots. Its shell is at the other end of
//! QEMU's standard input and output, past every network.
//!
//! ```text
//!   …-host                                        the machine
//!   tap0 (ipvtap) ── its file ── QEMU ── virtio ── eth0
//!                                 └──── virtio ── sh ── Machine::try_sh
//! ```

use std::env;
use std::io::{Read as _, Write as _};
use std::os::fd::AsFd as _;
use std::process::{ChildStdin, ChildStdout, Command, Stdio};
use std::sync::Mutex;
use std::time::{Duration, Instant};

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};

use crate::ns::Done;
use crate::packet::{Mac, mac_text};
use crate::process::{Process, command};
use crate::topology::Net;

/// Interpreted, and with others beside it, even a boot may take that long.
const TIMEOUT: Duration = Duration::from_secs(90);

/// A virtual machine that runs. It is switched off with this value, and with this process.
#[derive(Debug)]
pub struct Machine {
    name: String,
    shell: Mutex<Shell>,
    _process: Process,
}

#[derive(Debug)]
struct Shell {
    input: ChildStdin,
    output: ChildStdout,
    /// What came and was not looked at yet.
    text: Vec<u8>,
}

impl Machine {
    /// Boots one behind the tap `name` of the host. Its `eth0` is up and has no address.
    #[track_caller]
    pub fn boot(net: &Net, name: &str, mac: Mac) -> Self {
        let of = |variable| {
            env::var(variable).unwrap_or_else(|_| {
                panic!("no ${variable}: virtual machines are for `cargo xtask test` to boot")
            })
        };
        let nic = format!(
            "tap,ifname={name},script=no,downscript=no,model=virtio-net-pci,mac={}",
            mac_text(mac)
        );
        let kernel = of("IPVLAN_GUEST_KERNEL");
        let initramfs = of("IPVLAN_GUEST_INITRAMFS");
        let line = "console=ttyS0 quiet panic=-1 mitigations=off nokaslr init_on_alloc=0";
        let words = [
            "qemu-system-x86_64",
            "-nodefaults",
            "-no-user-config",
            "-no-reboot",
            "-display",
            "none",
            "-monitor",
            "none",
            "-accel",
            "tcg,thread=multi,tb-size=64",
            // Interpreted, `max` copies memory four times slower.
            "-cpu",
            "Nehalem",
            "-m",
            "128",
            "-kernel",
            &kernel,
            "-initrd",
            &initramfs,
            "-append",
            line,
            // What it complains of is the test's to show.
            "-serial",
            "chardev:console",
            "-chardev",
            "file,id=console,path=/dev/stderr,append=on",
            "-device",
            "virtio-rng-pci",
            "-device",
            "virtio-serial-pci",
            "-chardev",
            "stdio,id=shell,signal=off",
            "-device",
            "virtserialport,chardev=shell,name=shell",
            "-nic",
            &nic,
        ];
        let mut process = net.host.enter(|| {
            let mut qemu = command(net.mark(), &words);
            let _: &mut Command = qemu.stdin(Stdio::piped()).stdout(Stdio::piped());
            Process::spawn(qemu)
        });
        let (input, output) = process.pipes();
        let shell = Shell {
            input,
            output,
            text: Vec::new(),
        };
        Self {
            name: name.to_owned(),
            shell: Mutex::new(shell),
            _process: process,
        }
    }

    /// Waits until it can be used. Several that boot at once are waited for one after the other.
    #[must_use]
    #[track_caller]
    pub fn ready(self) -> Self {
        let mut shell = self.shell.lock().expect("a shell");
        let _: String = shell.until("ready\n");
        drop(shell);
        let _: String = self.sh("ip link set eth0 up");
        self
    }

    /// Runs a line of shell in it.
    #[track_caller]
    pub fn try_sh(&self, line: &str) -> Done {
        const END: &str = "--- status ";
        let mut shell = self.shell.lock().expect("a shell");
        let words = format!("( {line}\n) </dev/null 2>&1; echo \"{END}$?\"\n");
        let written = shell.input.write_all(words.as_bytes());
        written.unwrap_or_else(|error| panic!("{}: {line}: {error}", self.name));
        let stdout = shell.until(END);
        let status = shell.until("\n").trim().parse().expect("a status");
        Done {
            line: format!("{}: {line}", self.name),
            status,
            stdout,
            stderr: String::new(),
        }
    }

    /// The same; the test fails unless it succeeds. Returns what it wrote.
    #[track_caller]
    pub fn sh(&self, line: &str) -> String {
        self.try_sh(line).expect()
    }

    /// Whether `address` answers a ping before patience ends. IPv6 or IPv4.
    #[must_use]
    pub fn reaches(&self, address: &str) -> bool {
        let done = self.try_sh(&format!("ping -q -c 1 -w 10 {address}"));
        if !done.ok() {
            eprintln!("{done:?}");
        }
        done.ok()
    }

    /// Switches it off, and waits until that is so.
    pub fn stop(self) {}
}

impl Shell {
    /// What comes before `end`, which is taken, too.
    #[track_caller]
    fn until(&mut self, end: &str) -> String {
        let patience = Instant::now() + TIMEOUT;
        let mut chunk = [0; 4096];
        loop {
            let mut windows = self.text.windows(end.len());
            if let Some(at) = windows.position(|window| window == end.as_bytes()) {
                let mut rest = self.text.split_off(at);
                let _: std::vec::Drain<'_, u8> = rest.drain(..end.len());
                let found = std::mem::replace(&mut self.text, rest);
                return String::from_utf8_lossy(&found).into_owned();
            }
            let ready = {
                let mut fds = [PollFd::new(self.output.as_fd(), PollFlags::POLLIN)];
                poll(&mut fds, PollTimeout::from(200u8)).unwrap_or(0) > 0
            };
            let came = ready.then(|| self.output.read(&mut chunk).unwrap_or(0));
            let said = String::from_utf8_lossy(self.text.get(..2000).unwrap_or(&self.text));
            assert!(
                came != Some(0) && Instant::now() < patience,
                "the machine has not said {end:?}, but {said:?}"
            );
            let came = chunk.get(..came.unwrap_or(0)).unwrap_or_default();
            self.text.extend_from_slice(came);
        }
    }
}
