//! Holding a program at an interface: tcx where the kernel has it, clsact where it is older.
//!
//! Both are asked for at the end of the queue, so that what an administrator attached before, or
//! attaches in front of us later, sees every frame first; what we let pass goes on to the next.

use std::path::Path;

use aya::programs::links::{FdLink, LinkError, LinkOrder, PinnedLink};
use aya::programs::tc::{NlOptions, SchedClassifierLink, TcAttachOptions, TcError, TcHandle};
use aya::programs::{ProgramError, SchedClassifier, TcAttachType};
use aya::util::KernelVersion;

use crate::error::{Error, errno_of};

/// Priority of our clsact filters: behind everybody else's. The last one, and the one before it.
const LAST: u16 = 0xfffe;
const BEFORE_LAST: u16 = 0xfffd;
/// Handle of our clsact filter, by which it is found again.
const HANDLE: TcHandle = TcHandle::new(0, 0x1b1a);

/// A program, and where it belongs.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Spot {
    /// What it is called in the object, and as a pin.
    pub(crate) program: &'static str,
    direction: TcAttachType,
    priority: u16,
}

impl Spot {
    /// At ingress, behind all others.
    pub(crate) const fn ingress(program: &'static str) -> Self {
        Self {
            program,
            direction: TcAttachType::Ingress,
            priority: LAST,
        }
    }

    /// At ingress, in front of one of ours that is attached later.
    pub(crate) const fn early_ingress(program: &'static str) -> Self {
        Self {
            priority: BEFORE_LAST,
            ..Self::ingress(program)
        }
    }

    /// At egress, behind all others.
    pub(crate) const fn egress(program: &'static str) -> Self {
        Self {
            direction: TcAttachType::Egress,
            ..Self::ingress(program)
        }
    }
}

/// What holds our programs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Hook {
    /// A tcx link. Linux 6.6.
    Tcx,
    /// A direct-action filter of a clsact qdisc. Linux 4.5.
    Clsact,
}

impl Hook {
    /// The better one that this kernel has.
    pub fn detect() -> Self {
        match KernelVersion::current() {
            Ok(version) if version >= KernelVersion::new(6, 6, 0) => Self::Tcx,
            _ => Self::Clsact,
        }
    }

    /// Attaches `program` to `interface`, in the calling thread's namespace; with tcx, pins the link
    /// at `pin`.
    pub(crate) fn attach(
        self,
        program: &mut SchedClassifier,
        spot: Spot,
        interface: &str,
        pin: &Path,
    ) -> Result<(), Error> {
        let failed = |source| Error::Program {
            op: "attach",
            program: format!("{} to {interface}", spot.program),
            source: Box::new(source),
        };
        match self {
            Self::Tcx => {
                let options = TcAttachOptions::TcxOrder(LinkOrder::last());
                let id = program
                    .attach_with_options(interface, spot.direction, options)
                    .map_err(failed)?;
                let link = program.take_link(id).map_err(failed)?;
                let link: FdLink = link.try_into().map_err(|source: LinkError| Error::Link {
                    op: "open",
                    path: pin.to_owned(),
                    source: Box::new(source),
                })?;
                let _pinned = link.pin(pin).map_err(|source| Error::Pin {
                    path: pin.to_owned(),
                    source: source.into(),
                })?;
                Ok(())
            }
            Self::Clsact => {
                match aya::programs::tc::qdisc_add_clsact(interface) {
                    Ok(()) | Err(TcError::AlreadyAttached) => {}
                    // Somebody else has put it there; aya hands on the kernel's EEXIST.
                    Err(TcError::NetlinkError(error))
                        if error.raw_os_error() == Some(libc::EEXIST) => {}
                    Err(source) => {
                        return Err(Error::Clsact {
                            op: "add clsact",
                            object: interface.to_owned(),
                            source: source.into(),
                        });
                    }
                }
                let options = TcAttachOptions::Netlink(NlOptions {
                    priority: spot.priority,
                    handle: HANDLE,
                    ..NlOptions::default()
                });
                let id = program
                    .attach_with_options(interface, spot.direction, options)
                    .map_err(failed)?;
                // Dropped, the link would detach the filter.
                std::mem::forget(program.take_link(id).map_err(failed)?);
                Ok(())
            }
        }
    }

    /// Puts `program` in the place of the one that the tcx link pinned at
    /// `pin` holds. Between two frames: none meets both of them, or neither.
    pub(crate) fn replace_at_link(
        program: &mut SchedClassifier,
        spot: Spot,
        pin: &Path,
    ) -> Result<(), Error> {
        let opened = |source: LinkError| Error::Link {
            op: "open",
            path: pin.to_owned(),
            source: Box::new(source),
        };
        let link = FdLink::from(PinnedLink::from_pin(pin).map_err(opened)?);
        let link = SchedClassifierLink::try_from(link).map_err(opened)?;
        match program.attach_to_link(link) {
            Ok(_) => Ok(()),
            // Its interface is gone.
            Err(error) if errno_of(&error) == Some(libc::ENOLINK) => Ok(()),
            Err(source) => Err(Error::Program {
                op: "attach",
                program: format!("{} by {}", spot.program, pin.display()),
                source: Box::new(source),
            }),
        }
    }

    /// The same with clsact: in the place of our filter at `interface`, if there is one.
    pub(crate) fn replace_filter(
        program: &mut SchedClassifier,
        spot: Spot,
        interface: &str,
    ) -> Result<(), Error> {
        let failed = |source| Error::Program {
            op: "attach",
            program: format!("{} to {interface}", spot.program),
            source: Box::new(source),
        };
        let link =
            SchedClassifierLink::attached(interface, spot.direction, spot.priority, HANDLE, None)
                .map_err(|error| failed(error.into()))?;
        let id = match program.attach_to_link(link) {
            Ok(id) => id,
            // No filter (ENOENT), no qdisc (EINVAL): it was given up half-way.
            Err(error) if matches!(errno_of(&error), Some(libc::ENOENT | libc::EINVAL)) => {
                return Ok(());
            }
            Err(source) => return Err(failed(source)),
        };
        // Dropped, the link would detach the filter.
        std::mem::forget(program.take_link(id).map_err(failed)?);
        Ok(())
    }

    /// Takes our clsact filter at this spot off `interface`; a tcx link goes with its pin.
    pub(crate) fn detach(self, spot: Spot, interface: &str) -> Result<(), Error> {
        if self == Self::Tcx {
            return Ok(());
        }
        let failed = |source: ProgramError| Error::Program {
            op: "detach",
            program: format!("filter of {interface}"),
            source: Box::new(source),
        };
        let link =
            SchedClassifierLink::attached(interface, spot.direction, spot.priority, HANDLE, None)
                .map_err(|error| failed(error.into()))?;
        use aya::programs::Link as _;
        link.detach().map_err(failed)
    }
}
