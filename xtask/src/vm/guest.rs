//! What a virtual machine boots that a test starts as a guest behind a tap.
//!
//! One of Debian's kernels, the modules on the way to a virtio network card, busybox, this machine's
//! iperf3, and an init that gives the test a shell.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use super::archive::Archive;
use super::kernel::{self, Kernel};
use crate::run::{On, Result, fail, find, read};

/// The same that a change is compared with, so that there is one to fetch.
const SERIES: &str = "6.12";
const MODULES: &[&str] = &["virtio_pci", "virtio_console", "virtio_net", "virtio_rng"];

/// Kernel and initramfs, as QEMU wants them.
pub(crate) struct Guest {
    pub(crate) kernel: PathBuf,
    pub(crate) initramfs: PathBuf,
}

impl Guest {
    /// Makes it, which takes a moment; the kernel is fetched only once.
    pub(crate) fn get() -> Result<Self> {
        let folder = kernel::folder()?;
        let kernel = Kernel::get(&folder, SERIES)?;
        let place = folder.join("kernels").join(SERIES);
        let mut archive = kernel::busybox(&place)?;
        archive.folder("tmp");
        put_program("iperf3", &mut archive)?;
        kernel.put_modules(MODULES, &place, &mut archive)?;
        archive.program("init", include_bytes!("guest-init.sh"));
        let initramfs = folder.join("guest-initramfs");
        // Another one that tests at this moment reads it.
        let part = folder.join(format!("run/guest-initramfs-{}", std::process::id()));
        fs::write(&part, archive.end()).on(&part)?;
        fs::rename(&part, &initramfs).on(&initramfs)?;
        Ok(Self {
            kernel: kernel.image,
            initramfs,
        })
    }
}

/// A program of this machine, and the libraries that its loader finds.
fn put_program(name: &str, archive: &mut Archive) -> Result {
    let missing = || fail(format!("no {name} here for the guest"));
    let program = find(name).ok_or_else(missing)?;
    archive.program(&format!("bin/{name}"), &fs::read(&program).on(&program)?);
    archive.folder("lib");
    for line in read(Command::new("ldd").arg(&program))?.lines() {
        // `NAME => FILE (ADDRESS)`; the loader itself, which is asked for by its path, has no arrow.
        let words: Vec<&str> = line.split_whitespace().collect();
        let (place, file) = match words[..] {
            [name, "=>", file, _] => (format!("lib/{name}"), Path::new(file)),
            [file, _] if file.starts_with('/') => {
                let folder = Path::new(file).parent().unwrap_or(Path::new("/"));
                archive.folder(folder.to_string_lossy().trim_start_matches('/'));
                (file.trim_start_matches('/').to_owned(), Path::new(file))
            }
            _ => continue,
        };
        archive.program(&place, &fs::read(file).on(file)?);
    }
    Ok(())
}
