//! `demo`: the worked example of the kernel's IPVLAN HOWTO, for real, in namespaces of its own.
//!
//! Two processes. The director installs tools, builds the program, sets the [`stage`] and starts
//! the second one, which plays the [`tour`] there. However that ends (done, failed, killed, Ctrl-C),
//! the director clears the stage. If he is killed himself, the tour still clears up after itself;
//! if both are, the next demo does it for them.

use std::io::Write as _;
use std::os::fd::AsFd as _;
use std::os::unix::process::CommandExt as _;
use std::path::Path;
use std::process::{Child, Command, ExitCode, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::signal::{SigSet, Signal};
use nix::sys::signalfd::{SfdFlags, SignalFd};

use crate::apt;
use crate::run::{On, Result, fail, find, note, run};
use crate::workspace::{self, Graph};

mod screen;
mod stage;
mod tour;

/// What the tour calls, and the Debian packages that have it.
const TOOLS: &[(&str, &str)] = &[
    ("ip", "iproute2"),
    ("ss", "iproute2"),
    ("ping", "iputils-ping"),
    ("arping", "iputils-arping"),
    ("tcpdump", "tcpdump"),
    ("iperf3", "iperf3"),
    ("nsenter", "util-linux"),
];

/// Tells the second process what it is.
const ON_STAGE: &str = "--on-stage";

/// Many times what the tour takes.
const PATIENCE: Duration = Duration::from_secs(180);

/// `cargo xtask demo`
pub(crate) fn demo(args: &[&str]) -> Result<ExitCode> {
    match args {
        [] => direct(),
        [ON_STAGE, folder] => tour::play(Path::new(folder)).map(|()| ExitCode::SUCCESS),
        _ => Err(fail("demo: it takes no arguments")),
    }
}

fn direct() -> Result<ExitCode> {
    if !crate::test::is_root()? {
        return Err(fail(
            "the demo makes namespaces and loads eBPF: run `sudo -E env PATH=\"$PATH\" cargo xtask \
             demo`",
        ));
    }
    tools()?;
    run(workspace::cargo().args(["build", "--release", "--package", "ipvlan"]))?;
    let folder = Graph::load()?.target.join("release");

    for line in stage::clear_abandoned() {
        note(line);
    }
    let director = std::process::id();
    stage::set(director)?;
    let tour = Command::new("/proc/self/exe")
        .arg0("xtask")
        .args(["demo", ON_STAGE])
        .arg(folder)
        .stdin(Stdio::null())
        // A group of its own: Ctrl-C is for the director, who ends it in good order.
        .process_group(0)
        .spawn()
        .on("xtask");
    let ended = tour.and_then(|mut tour| {
        let ended = watch(&mut tour);
        if ended.is_err() {
            stop(&mut tour);
        }
        ended
    });
    let left = stage::clear(director);
    let status = ended?;
    if !left.is_empty() {
        return Err(fail(left.join("; ")));
    }
    // Whatever was wrong, the tour has said it.
    Ok(match status.code() {
        Some(0) => ExitCode::SUCCESS,
        Some(_) => ExitCode::FAILURE,
        None => return Err(fail(format!("the demo was killed: {status}"))),
    })
}

fn tools() -> Result {
    let missing = TOOLS.iter().filter(|(tool, _)| find(tool).is_none());
    let mut packages: Vec<&str> = missing.map(|(_, package)| *package).collect();
    packages.dedup();
    apt::install(&packages)
}

/// Waits for the tour, and for whoever wants to stop it.
fn watch(tour: &mut Child) -> Result<ExitStatus> {
    let stopping = [Signal::SIGINT, Signal::SIGTERM, Signal::SIGHUP];
    let stopping: SigSet = stopping.into_iter().collect();
    // Blocked from here on: nothing interrupts the clearing either.
    stopping.thread_block().map_err(signals)?;
    let flags = SfdFlags::SFD_NONBLOCK | SfdFlags::SFD_CLOEXEC;
    let fd = SignalFd::with_flags(&stopping, flags).map_err(signals)?;
    let end = Instant::now() + PATIENCE;
    while Instant::now() < end {
        if let Some(status) = tour.try_wait().on("xtask")? {
            return Ok(status);
        }
        let mut fds = [PollFd::new(fd.as_fd(), PollFlags::POLLIN)];
        let _: i32 = poll(&mut fds, PollTimeout::from(50_u8)).map_err(signals)?;
        if fd.read_signal().map_err(signals)?.is_some() {
            return Err(fail("interrupted; all that the demo made is removed"));
        }
    }
    let limit = PATIENCE.as_secs();
    Err(fail(format!("the demo did not end within {limit} s")))
}

fn signals(errno: nix::errno::Errno) -> crate::run::Error {
    fail(format!("signals: {errno}"))
}

/// Ends the tour. What it has started ends when the stage is cleared.
fn stop(tour: &mut Child) {
    let _: std::io::Result<()> = tour.kill();
    let _: std::io::Result<ExitStatus> = tour.wait();
    // The terminal may be gone.
    let _: std::io::Result<()> = writeln!(std::io::stdout());
}
