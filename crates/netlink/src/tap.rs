//! Making a tap: an interface whose wire is a file that a virtual machine reads and writes.
//!
//! Unlike other links it is not made by rtnetlink (`tun_validate()` refuses) but by opening
//! `/dev/net/tun`. It lives as long as the file is open, unless it is told to stay: so whoever makes one
//! and is killed before leaves nothing behind.
//!
//! Kernel: `drivers/net/tun.c`, `Documentation/networking/tuntap.rst`.

use std::fs::File;
use std::os::fd::AsFd as _;

use nix::errno::Errno;

use crate::{Error, IfName, sys};

const DEVICE: &str = "/dev/net/tun";

/// A tap that is to be made, down.
#[derive(Clone, Copy, Debug)]
pub struct NewTap<'a> {
    /// Its name; one `%d` in it becomes the first free number.
    pub name: &'a IfName,
    /// Its index. None: the first free one.
    pub index: Option<u32>,
    /// Whether it can be opened several times, once for each queue. Whoever opens it must say the same.
    pub multi_queue: bool,
    /// Number of the user who may open it; None: whoever may make one (`CAP_NET_ADMIN`), unless a
    /// group is named.
    pub owner: Option<u32>,
    /// Number of the group that may open it.
    pub group: Option<u32>,
}

/// A tap that goes when this is dropped, unless [`Tap::keep`] was called.
#[derive(Debug)]
pub struct Tap {
    file: File,
    name: String,
}

impl Tap {
    /// Makes one in the calling thread's namespace.
    ///
    /// # Errors
    ///
    /// `EBUSY` for a name or an index that is taken; `ENOENT` where nobody has made `/dev/net/tun`,
    /// `ENODEV` or `ENXIO` on a kernel without `CONFIG_TUN`; `EPERM`.
    pub fn create(new: &NewTap<'_>) -> Result<Self, Error> {
        let file = File::options().read(true).write(true).open(DEVICE);
        let file = file.map_err(|error| Error::Kernel {
            op: "open",
            object: DEVICE.to_owned(),
            errno: crate::error::errno_of(&error),
            extack: None,
        })?;
        let failed = |errno| Error::Kernel {
            op: "create tap",
            object: new.name.to_string(),
            errno,
            extack: None,
        };
        let name = sys::tap(file.as_fd(), new).map_err(failed)?;
        Ok(Self { file, name })
    }

    /// Its name.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Lets it stay when the file is closed. It then goes with its namespace, or when it is deleted.
    ///
    /// # Errors
    ///
    /// `EBADFD` if it was deleted meanwhile.
    pub fn keep(self) -> Result<(), Error> {
        sys::keep_tap(self.file.as_fd()).map_err(|errno: Errno| Error::Kernel {
            op: "keep tap",
            object: self.name.clone(),
            errno,
            extack: None,
        })
    }
}
