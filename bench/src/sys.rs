//! System calls that have no safe form: signals, the end of a process, packet sockets. The only
//! unsafe code of this crate.
//!
//! SIGINT, SIGTERM and SIGHUP are a flag. A handler rather than a blocked signal with a signalfd: a handler ends at `exec`, a blocked
//! signal does not, and an agent that `ipvlan link add` starts would never hear SIGTERM.

#![expect(unsafe_code, reason = "no safe form in std or nix")]

use std::os::fd::{AsFd, AsRawFd, FromRawFd, OwnedFd};
use std::process::Child;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::libc::{self, c_int, socklen_t};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::signal::{SaFlags, SigAction, SigHandler, SigSet, Signal, sigaction};

use crate::error::{Error, Result};

static INTERRUPTED: AtomicBool = AtomicBool::new(false);

extern "C" fn note(_signal: c_int) {
    INTERRUPTED.store(true, Ordering::Relaxed);
}

/// From now on these signals only make [`check_interrupt`] fail.
pub(crate) fn catch_signals() -> Result<()> {
    // No SA_RESTART: a wait in poll ends at once.
    let action = SigAction::new(SigHandler::Handler(note), SaFlags::empty(), SigSet::empty());
    for signal in [Signal::SIGINT, Signal::SIGTERM, Signal::SIGHUP] {
        // SAFETY: sigaction needs a handler that is async-signal-safe and lives as long as it is
        // installed. `note` is a function (lives for ever) whose one action is a lock-free atomic
        // store to a static. Nobody relies on the previous action, which is dropped.
        let _: SigAction =
            unsafe { sigaction(signal, &action) }.map_err(Error::sys("sigaction"))?;
    }
    Ok(())
}

pub(crate) fn check_interrupt() -> Result<()> {
    if INTERRUPTED.load(Ordering::Relaxed) {
        Err(Error::Interrupted)
    } else {
        Ok(())
    }
}

/// Waits until the process has ended, without reaping it; `false` at the deadline. A signal does
/// not end the wait: clean-up commands come after it.
pub(crate) fn ends_by(child: &Child, deadline: Instant) -> Result<bool> {
    // SAFETY: pidfd_open takes two numbers and touches no memory of ours.
    let fd = unsafe { libc::syscall(libc::SYS_pidfd_open, child.id(), 0) };
    let fd = c_int::try_from(fd).unwrap_or(-1);
    let fd = Errno::result(fd).map_err(Error::sys("pidfd_open"))?;
    // SAFETY: the kernel has just opened this descriptor for us; nobody else knows it.
    let fd = unsafe { OwnedFd::from_raw_fd(fd) };
    loop {
        let left = deadline.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return Ok(false);
        }
        // Rounded up, else the last millisecond would spin.
        let timeout =
            PollTimeout::try_from(left + Duration::from_millis(1)).unwrap_or(PollTimeout::MAX);
        match poll(&mut [PollFd::new(fd.as_fd(), PollFlags::POLLIN)], timeout) {
            Ok(0) | Err(Errno::EINTR) => {}
            Ok(_) => return Ok(true),
            Err(errno) => return Err(Error::sys("poll")(errno)),
        }
    }
}

/// A socket for whole Ethernet frames of one protocol, on one link of the thread's namespace.
pub(crate) fn packet_socket(protocol: u16, link: u32) -> Result<OwnedFd> {
    // Protocol 0: deaf until it is bound, so that nothing from another link comes in before.
    let kind = libc::SOCK_RAW | libc::SOCK_CLOEXEC;
    // SAFETY: socket takes three numbers and touches no memory of ours.
    let fd = Errno::result(unsafe { libc::socket(libc::AF_PACKET, kind, 0) })
        .map_err(Error::sys("packet socket"))?;
    // SAFETY: the kernel has just opened this descriptor for us; nobody else knows it.
    let fd = unsafe { OwnedFd::from_raw_fd(fd) };
    let address = libc::sockaddr_ll {
        sll_family: u16::try_from(libc::AF_PACKET).unwrap_or_default(),
        sll_protocol: protocol.to_be(),
        sll_ifindex: c_int::try_from(link).unwrap_or_default(),
        sll_hatype: 0,
        sll_pkttype: 0,
        sll_halen: 0,
        sll_addr: [0; 8],
    };
    let length = socklen_t::try_from(size_of_val(&address)).unwrap_or_default();
    // SAFETY: bind reads `length` bytes, which is the size of `address`, which outlives the call
    // and is the kind of address that a packet socket takes.
    let bound = unsafe { libc::bind(fd.as_raw_fd(), (&raw const address).cast(), length) };
    let _: c_int = Errno::result(bound).map_err(Error::sys("bind packet socket"))?;
    Ok(fd)
}

/// The kernel's number for the network namespace of a socket, never used again until reboot.
pub(crate) fn netns_cookie(socket: &impl AsFd) -> Result<u64> {
    let mut cookie = 0_u64;
    let mut length = socklen_t::try_from(size_of_val(&cookie)).unwrap_or_default();
    // SAFETY: getsockopt writes at most `length` bytes, which is the size of `cookie`, and the
    // length; both outlive the call. Any bits are a u64.
    let got = unsafe {
        libc::getsockopt(
            socket.as_fd().as_raw_fd(),
            libc::SOL_SOCKET,
            libc::SO_NETNS_COOKIE,
            (&raw mut cookie).cast(),
            &raw mut length,
        )
    };
    let _: c_int = Errno::result(got).map_err(Error::sys("SO_NETNS_COOKIE"))?;
    Ok(cookie)
}
