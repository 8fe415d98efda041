//! Load, and what the kernel has to say of it.

use std::fs::File;
use std::io::{Read as _, Seek as _, SeekFrom};
use std::net::UdpSocket;
use std::os::unix::fs::OpenOptionsExt as _;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, OnceLock};
use std::thread::{self, JoinHandle};

use nix::sys::socket::{setsockopt, sockopt};

use crate::ns::Ns;
use crate::sniff::Sender;

/// A socket that asks for time stamps, as ping does. The kernel patches its own code when the first
/// one asks and when the last one has gone, and QEMU without KVM, where the tests run in a VM, dies
/// of that under load. So one asks as long as tests run.
static STAMPS: OnceLock<UdpSocket> = OnceLock::new();

/// What the kernel says from now on.
#[derive(Debug)]
pub struct KernelLog(File);

impl KernelLog {
    /// Listens.
    #[expect(clippy::new_without_default, reason = "it does something")]
    pub fn new() -> Self {
        let mut file = File::options()
            .read(true)
            .custom_flags(libc::O_NONBLOCK)
            .open("/dev/kmsg")
            .expect("/dev/kmsg");
        let _: u64 = file.seek(SeekFrom::End(0)).expect("the end");
        let _: &UdpSocket = STAMPS.get_or_init(|| {
            let socket = UdpSocket::bind("127.0.0.1:0").expect("a socket");
            setsockopt(&socket, sockopt::ReceiveTimestamp, &true).expect("SO_TIMESTAMP");
            socket
        });
        Self(file)
    }

    /// The test fails if the kernel found fault with itself.
    #[track_caller]
    pub fn assert_quiet(mut self) {
        let words = [
            "BUG",
            "WARNING",
            "Oops",
            "refcount",
            "unregister_netdevice",
            "general protection",
            "Call Trace",
            "stack guard",
        ];
        let mut buf = vec![0; 1 << 14];
        loop {
            // A line at a time; EPIPE where some were overwritten, EAGAIN at the end.
            let count = match self.0.read(&mut buf) {
                Ok(count) => count,
                Err(error) if error.raw_os_error() == Some(libc::EPIPE) => continue,
                Err(_) => return,
            };
            let line = String::from_utf8_lossy(buf.get(..count).unwrap_or_default());
            assert!(!words.iter().any(|word| line.contains(word)), "{line}");
        }
    }
}

/// Somebody who sends as much as he can, until this value goes.
#[derive(Debug)]
pub struct Flood {
    stop: Arc<AtomicBool>,
    threads: Vec<JoinHandle<()>>,
}

impl Flood {
    /// Out of an interface, by that many sockets: one alone waits for its own send buffer.
    pub fn start(ns: &Ns, interface: &str, sockets: usize, frames: &[Vec<u8>]) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let threads = (0..sockets)
            .map(|_| {
                let sender = Sender::on(ns, interface);
                let (stop, frames) = (Arc::clone(&stop), frames.to_vec());
                thread::spawn(move || {
                    while !stop.load(Ordering::Relaxed) {
                        for frame in &frames {
                            // Full queues and interfaces that are down or gone are part of it.
                            let _: Result<(), _> = sender.try_send(frame);
                        }
                    }
                })
            })
            .collect();
        Self { stop, threads }
    }
}

impl Drop for Flood {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        for thread in self.threads.drain(..) {
            thread.join().expect("a thread");
        }
    }
}
