//! Every error text and its exit status. Where `ip` has a text for it, it is that text: scripts
//! look for it.

use ipvlan_netlink::Error as Netlink;
use nix::errno::Errno;

use crate::help::Topic;

/// Why there is nothing to show for it.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// No word at all.
    #[error("{}", Topic::Program.text().trim_end())]
    Nothing,
    /// `ipvlan linkk`.
    #[error("Object \"{0}\" is unknown, try \"ipvlan help\".")]
    Noun(String),
    /// `ipvlan link ad`… and then something else.
    #[error("Command \"{0}\" is unknown, try \"ipvlan link help\".")]
    Verb(String),
    /// `ipvlan addr ad`… and then something else.
    #[error("Command \"{0}\" is unknown, try \"ipvlan addr help\".")]
    AddrVerb(String),
    /// `ipvlan -x`.
    #[error("Option \"{0}\" is unknown, try \"ipvlan -help\".")]
    Option(String),
    /// `ipvlan link show -j`: as an option it stands too late, and a device would be odd.
    #[error(
        "Error: \"{0}\" looks like an option, and options stand before \"link\"; \
         say \"dev {0}\" if a device is meant"
    )]
    LateOption(String),
    /// A keyword without its value.
    #[error("Command line is not complete. Try option \"help\"")]
    Incomplete,
    /// A value that cannot be.
    #[error("Error: argument \"{word}\" is wrong: {why}")]
    Wrong {
        /// What was given.
        word: String,
        /// What it is not.
        why: String,
    },
    /// One word too many. (The grammar of the sentence is iproute2's.)
    #[error("Error: either \"dev\" is duplicate, or \"{0}\" is a garbage.")]
    Garbage(String),
    /// The same, where an address stands.
    #[error("Error: either \"local\" is duplicate, or \"{0}\" is a garbage.")]
    LocalGarbage(String),
    /// `addr add` without an address.
    #[error("Not enough information: an address is required")]
    NoLocal,
    /// Neither an address nor a prefix.
    #[error("Error: any valid prefix is expected rather than \"{0}\".")]
    Prefix(String),
    /// A keyword twice.
    #[error("Error: duplicate \"{key}\": \"{word}\" is the second value.")]
    Duplicate {
        /// The keyword.
        key: &'static str,
        /// Its second value.
        word: String,
    },
    /// Two names.
    #[error("both \"name\" and \"dev\" cannot be used when creating devices.")]
    NameAndDev,
    /// No `type`.
    #[error("Not enough information: \"type\" argument is required")]
    NoType,
    /// No device.
    #[error("Not enough information: \"dev\" argument is required.")]
    NoDev,
    /// No parent. The driver answers with a bare EINVAL.
    #[error("Not enough information: \"link\" argument is required: the parent, for example eth0")]
    NoParent,
    /// None of the modes.
    #[error("Error: argument of \"mode\" must be either \"l2\", \"l3\" or \"l3s\"")]
    Mode,
    /// A word after `type ipvlan` that is none of ours, or a second flag.
    #[error(
        "{kind}: unknown option \"{word}\"?\n\
         Usage: ... {kind} [ mode {{ l3 | l3s | l2 }} ] [ bridge | private | vepa ]"
    )]
    KindOption {
        /// What stood behind `type`.
        kind: &'static str,
        /// The word.
        word: String,
    },
    /// Neither on nor off. `ip link` has the same words for the port of a bridge.
    #[error("Error: argument of \"{key}\" must be \"on\" or \"off\", not \"{word}\"")]
    OnOff {
        /// What is to be on or off.
        key: &'static str,
        /// What was given.
        word: String,
    },
    /// Nobody of this name. `ip tuntap` has the same words.
    #[error("invalid {what} \"{word}\"")]
    NoUser {
        /// "user" or "group".
        what: &'static str,
        /// What was given.
        word: String,
    },
    /// A malformed MAC address.
    #[error("\"{0}\" is invalid lladdr.")]
    Address(String),
    /// A kind that the kernel or somebody else makes.
    #[error("Error: type \"{kind}\" is not ours: use \"ip link {verb}\" for it")]
    OtherKind {
        /// The kind.
        kind: String,
        /// What was to be done with it.
        verb: &'static str,
    },
    /// A word that we leave to `ip`.
    #[error("Error: \"{word}\" is not for us: use \"ip link {verb}\" for it")]
    NotOurWord {
        /// The word.
        word: String,
        /// The verb that takes it.
        verb: &'static str,
    },
    /// Any change but that of mode and flag.
    #[error(
        "Error: \"{0}\" is not for us: \"ipvlan link set\" changes what follows \"type ipvlan\", \
         \"ip link set\" the rest"
    )]
    NotAChange(String),
    /// What the kernel would say of a value, in its own words.
    #[error("Error: {0}.")]
    Refused(&'static str),
    /// What the kernel would say of a value, with a number only.
    #[error("RTNETLINK answers: {}", .0.desc())]
    Answer(Errno),
    /// `link show DEV`.
    #[error("Device \"{0}\" does not exist.")]
    NotShown(String),
    /// `-n`.
    #[error("{}: {}", .op.text(.name), errno.desc())]
    NetNs {
        /// What was tried.
        op: NetNsOp,
        /// Its name.
        name: String,
        /// What the kernel said.
        errno: Errno,
    },
    /// What it took to do it failed.
    #[error("{}", answer(.0))]
    Control(#[from] ipvlan_control::Error),
    /// Standard output is full.
    #[error("Error: write to standard output: {0}")]
    Write(#[from] std::io::Error),
}

/// What can fail of `-n`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NetNsOp {
    /// To find it.
    Open,
    /// To go there.
    Enter,
}

impl NetNsOp {
    fn text(self, name: &str) -> String {
        match self {
            Self::Open => format!("Cannot open network namespace \"{name}\""),
            Self::Enter => format!("setting the network namespace \"{name}\" failed"),
        }
    }
}

/// Not understood: what `ip` returns as -1.
const USAGE: u8 = 255;
/// No such device, and those errors that `ip` finds itself and late.
const MISSING: u8 = 1;
/// The kernel says no.
const REFUSED: u8 = 2;

impl Error {
    /// The exit status that `ip` has for it.
    pub fn status(&self) -> u8 {
        match self {
            Self::Nothing
            | Self::Verb(_)
            | Self::AddrVerb(_)
            | Self::LocalGarbage(_)
            | Self::NoLocal
            | Self::Option(_)
            | Self::LateOption(_)
            | Self::Incomplete
            | Self::Wrong { .. }
            | Self::Garbage(_)
            | Self::Duplicate { .. }
            | Self::NameAndDev
            | Self::NoDev
            | Self::NoUser { .. }
            | Self::NetNs { .. } => USAGE,
            Self::Noun(_)
            | Self::NoType
            | Self::Mode
            | Self::KindOption { .. }
            | Self::OnOff { .. }
            | Self::Address(_)
            | Self::Prefix(_)
            | Self::NotShown(_)
            | Self::Control(ipvlan_control::Error::NoDevice(_))
            | Self::Write(_) => MISSING,
            Self::NoParent
            | Self::OtherKind { .. }
            | Self::NotOurWord { .. }
            | Self::NotAChange(_)
            | Self::Refused(_)
            | Self::Answer(_)
            | Self::Control(_) => REFUSED,
        }
    }

    pub(crate) fn wrong(word: &str, why: impl Into<String>) -> Self {
        Self::Wrong {
            word: word.to_owned(),
            why: why.into(),
        }
    }

    /// For a number or a name of a namespace, in iproute2's words.
    pub(crate) fn invalid(key: &str, word: &str) -> Self {
        Self::wrong(word, format!("Invalid \"{key}\" value"))
    }
}

/// The texts of `ip` where it has one; else "Error: ", what the kernel says, and a full stop.
fn answer(error: &ipvlan_control::Error) -> String {
    match error {
        ipvlan_control::Error::NoDevice(_)
        | ipvlan_control::Error::Exists(_)
        | ipvlan_control::Error::NoAddress => error.to_string(),
        ipvlan_control::Error::Netlink(netlink @ Netlink::Kernel { errno, extack, .. }) => {
            // Which of our requests it was is nothing that ip would tell, but we may need it.
            log::debug!("{netlink}");
            match extack {
                Some(text) => sentence(text),
                None => format!("RTNETLINK answers: {}", errno.desc()),
            }
        }
        _ => sentence(&error.to_string()),
    }
}

fn sentence(text: &str) -> String {
    let text = text.trim_end();
    let stop = if text.ends_with('.') { "" } else { "." };
    format!("Error: {text}{stop}")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn kernel(errno: Errno, extack: Option<&str>) -> Error {
        Error::Control(ipvlan_control::Error::Netlink(Netlink::Kernel {
            op: "create",
            object: "ipvl0".to_owned(),
            errno,
            extack: extack.map(str::to_owned),
        }))
    }

    #[test]
    fn what_the_kernel_says_is_printed_as_ip_prints_it() {
        for (error, text, status) in [
            (
                kernel(Errno::EBUSY, None),
                "RTNETLINK answers: Device or resource busy",
                2,
            ),
            (
                kernel(Errno::EINVAL, Some("mtu less than device minimum")),
                "Error: mtu less than device minimum.",
                2,
            ),
            (kernel(Errno::EINVAL, Some("No.")), "Error: No.", 2),
            (
                Error::Control(ipvlan_control::Error::NoDevice("eth9".to_owned())),
                "Cannot find device \"eth9\"",
                1,
            ),
            (
                Error::Control(ipvlan_control::Error::Exists("ipvl0".to_owned())),
                "RTNETLINK answers: File exists",
                2,
            ),
            (
                Error::Control(ipvlan_control::Error::NoAddress),
                "RTNETLINK answers: Cannot assign requested address",
                2,
            ),
            (
                Error::Control(ipvlan_control::Error::AgentRuns),
                "Error: an agent runs for this network namespace already.",
                2,
            ),
            (
                Error::NetNs {
                    op: NetNsOp::Open,
                    name: "blue".to_owned(),
                    errno: Errno::ENOENT,
                },
                "Cannot open network namespace \"blue\": No such file or directory",
                255,
            ),
        ] {
            assert_eq!(error.to_string(), text);
            assert_eq!(error.status(), status, "{text}");
        }
    }
}
