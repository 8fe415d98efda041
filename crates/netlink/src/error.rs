//! Which operation, on what, and what the kernel answered.

use std::io;

use nix::errno::Errno;

/// Why a call of this crate failed.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The kernel refused a request.
    #[error("{op} {object}: {}{}", errno.desc(), in_brackets(extack.as_deref()))]
    Kernel {
        /// What was asked: "create", "change", …
        op: &'static str,
        /// Of what: a name, or "link 7" where only the index is known.
        object: String,
        /// The error number.
        errno: Errno,
        /// The kernel's own words (`NLMSGERR_ATTR_MSG`), where it sent some.
        extack: Option<String>,
    },
    /// A list changed again each time it was being read (`NLM_F_DUMP_INTR`).
    #[error("read {object}: it kept changing while it was read")]
    Unsteady {
        /// Which list.
        object: String,
    },
    /// A request that the kernel would take and not do.
    #[error("{op} {object}: {why}")]
    Invalid {
        /// What was asked.
        op: &'static str,
        /// Of what.
        object: String,
        /// What is wrong with it.
        why: &'static str,
    },
    /// A netlink socket could not be opened, set up, written or read.
    #[error("netlink socket: {op}: {}", errno.desc())]
    Socket {
        /// Which step.
        op: &'static str,
        /// The error number. `EMSGSIZE`: an answer larger than any the kernel should send.
        errno: Errno,
    },
    /// A namespace could not be found, opened or entered.
    #[error("{op} network namespace \"{object}\": {}", errno.desc())]
    Namespace {
        /// "open", "enter", …
        op: &'static str,
        /// Name or path.
        object: String,
        /// The error number. `EINVAL`: the file is there and is no network namespace.
        errno: Errno,
    },
}

impl Error {
    /// The error number behind it, or the nearest one.
    pub fn errno(&self) -> Errno {
        match self {
            Self::Kernel { errno, .. }
            | Self::Socket { errno, .. }
            | Self::Namespace { errno, .. } => *errno,
            Self::Unsteady { .. } => Errno::EINTR,
            Self::Invalid { .. } => Errno::EINVAL,
        }
    }

    /// The kernel's own words, where it sent some.
    pub fn extack(&self) -> Option<&str> {
        match self {
            Self::Kernel { extack, .. } => extack.as_deref(),
            Self::Unsteady { .. }
            | Self::Invalid { .. }
            | Self::Socket { .. }
            | Self::Namespace { .. } => None,
        }
    }

    pub(crate) fn socket(op: &'static str) -> impl Fn(Errno) -> Self {
        move |errno| Self::Socket { op, errno }
    }

    /// True if the kernel's answer was `errno`, as opposed to a broken socket.
    pub(crate) fn is(&self, wanted: Errno) -> bool {
        matches!(self, Self::Kernel { errno, .. } if *errno == wanted)
    }
}

fn in_brackets(text: Option<&str>) -> String {
    text.map(|text| format!(" ({text})")).unwrap_or_default()
}

/// netlink-sys and std speak [`io::Error`]. One without a number is not the kernel's.
pub(crate) fn errno_of(err: &io::Error) -> Errno {
    err.raw_os_error().map_or(Errno::EIO, Errno::from_raw)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_message_has_operation_object_number_and_the_kernels_words() {
        let err = Error::Kernel {
            op: "create",
            object: "ipvl0".to_owned(),
            errno: Errno::EINVAL,
            extack: Some("Invalid MTU for peer".to_owned()),
        };
        assert_eq!(
            err.to_string(),
            "create ipvl0: Invalid argument (Invalid MTU for peer)"
        );
        assert_eq!(err.errno(), Errno::EINVAL);
        assert_eq!(err.extack(), Some("Invalid MTU for peer"));
    }
}
