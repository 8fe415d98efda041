//! What can go wrong, with the operation, its object and the kernel's answer.

use std::io;

use nix::errno::Errno;

pub(crate) type Result<T> = std::result::Result<T, Error>;

#[derive(Debug, thiserror::Error)]
pub(crate) enum Error {
    #[error("network namespaces need root; run it with sudo")]
    NotRoot,
    /// By a signal; unwinds to `main`, removing every namespace on the way.
    #[error("interrupted")]
    Interrupted,
    /// This machine cannot have the topology. Not a failure unless the user named it.
    #[error("not on this machine: {what}")]
    Absent { what: String },
    #[error("{command}: {answer}")]
    Command { command: String, answer: String },
    #[error("unreachable: no datagram arrived within {seconds} s")]
    Unreachable { seconds: u64 },
    /// An operation that normally takes microseconds did not end.
    #[error("{what}: nothing arrived before the deadline")]
    Stuck { what: &'static str },
    #[error("{what}: the peer closed the connection")]
    Closed { what: &'static str },
    #[error("{lost} datagrams lost in one cell")]
    Lost { lost: u32 },
    #[error("{what}: {errno}")]
    Sys { what: &'static str, errno: Errno },
    #[error("{what}: {source}")]
    Io { what: String, source: io::Error },
    #[error("{what}: not within {seconds} s")]
    Late { what: String, seconds: u64 },
    #[error("CPU {cpu} is not one this process may run on")]
    BadCpu { cpu: usize },
}

impl Error {
    pub(crate) fn io(what: impl Into<String>, source: io::Error) -> Self {
        Self::Io {
            what: what.into(),
            source,
        }
    }

    /// For `map_err`: names the system call that failed.
    pub(crate) fn sys(what: &'static str) -> impl FnOnce(Errno) -> Self {
        move |errno| Self::Sys { what, errno }
    }
}
