//! What can go wrong between us and bpf(2).

use std::io;
use std::path::PathBuf;

use aya::EbpfError;
use aya::maps::MapError;
use aya::pin::PinError;
use aya::programs::ProgramError;
use aya::programs::links::LinkError;
use aya::programs::tc::TcError;

use crate::takeover::OLDEST;

/// Operation, object, and what the kernel answered.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The object does not load.
    #[error("load the eBPF object: {}", answer(.0))]
    Load(#[source] Box<EbpfError>),
    /// A program does not pass the verifier, or cannot be attached.
    #[error("{op} program {program}: {}", answer(.source))]
    Program {
        /// load, attach, open.
        op: &'static str,
        /// Its name in the object.
        program: String,
        /// What aya or the kernel said.
        #[source]
        source: Box<ProgramError>,
    },
    /// A map operation.
    #[error("{op} map {map}: {}", answer(.source))]
    Map {
        /// read, write, open.
        op: &'static str,
        /// Its name in the object, lower case.
        map: &'static str,
        /// What aya or the kernel said.
        #[source]
        source: Box<MapError>,
    },
    /// A pin cannot be made.
    #[error("pin {}: {source}", .path.display())]
    Pin {
        /// Where.
        path: PathBuf,
        /// What aya or the kernel said.
        #[source]
        source: Box<PinError>,
    },
    /// A pinned link cannot be used.
    #[error("{op} link {}: {}", .path.display(), answer(.source))]
    Link {
        /// open, read.
        op: &'static str,
        /// Where.
        path: PathBuf,
        /// What aya or the kernel said.
        #[source]
        source: Box<LinkError>,
    },
    /// The clsact qdisc cannot be made or cleared.
    #[error("{op} on {object}: {source}")]
    Clsact {
        /// add clsact, detach.
        op: &'static str,
        /// The interface.
        object: String,
        /// What aya or the kernel said.
        #[source]
        source: Box<TcError>,
    },
    /// A file operation in the bpffs.
    #[error("{op} {}: {source}", .path.display())]
    File {
        /// create, list, remove.
        op: &'static str,
        /// What.
        path: PathBuf,
        /// What the kernel said.
        #[source]
        source: io::Error,
    },
    /// The pins were made by another version of ipvlan, which this one cannot take over, or has not.
    #[error("{} was made by {}", .path.display(), another_version(*found, *known))]
    Abi {
        /// The port's directory.
        path: PathBuf,
        /// Its `ABI_VERSION`.
        found: u32,
        /// Ours.
        known: u32,
    },
    /// The kernel is too old for a helper that the programs call.
    #[error("Linux {}.{} or newer is needed, this is {found}", .needed.0, .needed.1)]
    TooOld {
        /// Major and minor.
        needed: (u8, u8),
        /// The running kernel's release.
        found: String,
    },
    /// The object has no such part: object and program are not of one build.
    #[error("the eBPF object has no {0}")]
    Missing(&'static str),
}

impl Error {
    /// The kernel's error number, where there is one at the end of the chain.
    pub fn errno(&self) -> Option<i32> {
        errno_of(self)
    }

    /// Whether it is that a port was made by a version that this one cannot take over.
    pub fn is_foreign(&self) -> bool {
        matches!(self, Self::Abi { found, known, .. } if !(OLDEST..=*known).contains(found))
    }

    /// Whether it is that a port was made by an older version, and not yet taken over.
    pub fn is_older(&self) -> bool {
        matches!(self, Self::Abi { found, known, .. } if (OLDEST..=*known).contains(found))
    }
}

/// The kernel's error number, where there is one at the end of the chain.
pub(crate) fn errno_of(error: &(dyn std::error::Error + 'static)) -> Option<i32> {
    let mut source = Some(error);
    while let Some(error) = source {
        if let Some(io) = error.downcast_ref::<io::Error>() {
            return io.raw_os_error();
        }
        source = error.source();
    }
    None
}

/// Which one, and what to do about it.
fn another_version(found: u32, known: u32) -> String {
    let this = format!("this is {}, layout {known}", env!("CARGO_PKG_VERSION"));
    if found > known {
        return format!(
            "a newer version of ipvlan (layout {found}; {this}): use that one, or delete its devices \
             with that one first"
        );
    }
    format!(
        "an older version of ipvlan (layout {found}; {this}, which takes over what is as new as layout \
         {OLDEST}): delete its devices with that one first"
    )
}

/// The end of a chain of errors is what the kernel said; what is above it repeats our own words.
fn answer(error: &(dyn std::error::Error + 'static)) -> String {
    let mut last = error;
    while let Some(source) = last.source() {
        last = source;
    }
    last.to_string()
}
