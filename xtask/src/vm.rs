//! Debian's kernels, which have the real ipvlan driver, in a virtual machine on this one.
//!
//! [`boot()`] runs a command under one of them. The [`referee()`] runs every behaviour test there, on
//! the driver and on ours, and puts the answers side by side in a [`table`].
//!
//! Whatever runs here runs there, at the same path: the guest's root is this machine's, and what
//! the guest writes is gone afterwards, except below one shared folder. There is no network. QEMU
//! interprets (TCG) even where KVM exists: the point is the other kernel, and with `--icount` a
//! clock that counts instructions, so that two measurements agree whatever else the machine does.

mod answer;
mod archive;
mod boot;
mod cases;
mod guest;
mod inside;
mod kernel;
mod referee;
mod table;

pub(crate) use boot::{Options as Boot, boot};
pub(crate) use guest::Guest;
pub(crate) use inside::inside;
pub(crate) use referee::{Options, referee};
