//! SIGINT, SIGTERM and SIGHUP as a flag. The only unsafe code of this crate.
//!
//! A handler rather than a blocked signal with a signalfd: a handler ends at `exec`, a blocked
//! signal does not, and an agent that `ipvlan link add` starts would never hear SIGTERM.

#![expect(unsafe_code, reason = "sigaction has no safe form")]

use std::sync::atomic::{AtomicBool, Ordering};

use nix::libc::c_int;
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
