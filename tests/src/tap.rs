//! A tap interface, and somebody on its far side.

use std::fs::File;
use std::io::{Read as _, Write as _};
use std::os::fd::AsFd as _;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};

use crate::ns::Ns;
use crate::sniff::{Sender, Sniffer};
use crate::sys;

/// A tap interface whose far side is another interface of the same namespace: what is sent into
/// the one goes out of the other, and what comes in there comes in here. It goes with this value.
#[derive(Debug)]
pub struct Tap {
    stop: Arc<AtomicBool>,
    pumps: Vec<JoinHandle<()>>,
}

impl Tap {
    /// Makes `name` and joins it to `far`, for which it should be promiscuous.
    #[track_caller]
    pub fn joined(ns: &Ns, name: &str, far: &str) -> Self {
        let open = || File::options().read(true).write(true).open("/dev/net/tun");
        let tap = ns.enter(|| {
            let tap = open().expect("/dev/net/tun");
            sys::tap(tap.as_fd(), name, 0).expect("TUNSETIFF");
            tap
        });
        let mut inward = tap.try_clone().expect("a second descriptor");
        let (sender, sniffer) = (Sender::on(ns, far), Sniffer::on(ns, far));
        let stop = Arc::new(AtomicBool::new(false));
        let mut pumps = Vec::new();
        let stopped = Arc::clone(&stop);
        pumps.push(std::thread::spawn(move || {
            let mut tap = tap;
            let mut buf = vec![0; 1 << 16];
            while !stopped.load(Ordering::Relaxed) {
                let mut fds = [PollFd::new(tap.as_fd(), PollFlags::POLLIN)];
                if poll(&mut fds, PollTimeout::from(50u8)).is_ok_and(|ready| ready > 0)
                    && let Ok(len) = tap.read(&mut buf)
                {
                    // The far side may be down.
                    let _: Result<(), nix::errno::Errno> = sender.try_send(&buf[..len]);
                }
            }
        }));
        let stopped = Arc::clone(&stop);
        pumps.push(std::thread::spawn(move || {
            while !stopped.load(Ordering::Relaxed) {
                let found = sniffer.find(Duration::from_millis(50), |seen| !seen.outgoing);
                if let Some(seen) = found {
                    // This side may be down.
                    let _: std::io::Result<()> = inward.write_all(&seen.bytes);
                }
            }
        }));
        Self { stop, pumps }
    }
}

impl Drop for Tap {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        for pump in self.pumps.drain(..) {
            let _: std::thread::Result<()> = pump.join();
        }
    }
}
