//! Debian's kernels: by apt from this machine's own mirror, unpacked below `target/vm/kernels`, not
//! installed.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use super::archive::Archive;
use crate::apt::{self, Apt};
use crate::run::{On, Result, fail, find, note, read, run};
use crate::workspace;

/// Where kernels come from; whichever has the newest of the asked series.
const SUITES: &[&str] = &[
    "bookworm",
    "bookworm-security",
    "bookworm-backports",
    "trixie",
    "trixie-backports",
    "sid",
];

/// Programs that make and run the machine, and their Debian packages.
const TOOLS: &[(&str, &str)] = &[
    ("qemu-system-x86_64", "qemu-system-x86"),
    ("modprobe", "kmod"),
    ("xz", "xz-utils"),
    ("zstd", "zstd"),
];

/// What the initramfs needs to reach the host's root.
const BOOT_MODULES: &[&str] = &[
    "virtio_pci",
    "virtio_console",
    "9pnet_virtio",
    "9p",
    "overlay",
];

/// `target/vm`, when this machine has what it takes to run another.
pub(super) fn folder() -> Result<PathBuf> {
    if !cfg!(target_arch = "x86_64") {
        return Err(fail(
            "vm: only kernels for x86_64 so far, and this machine is another",
        ));
    }
    let missing = TOOLS.iter().filter(|(tool, _)| find(tool).is_none());
    apt::install(&missing.map(|(_, package)| *package).collect::<Vec<_>>())?;
    let folder = workspace::root().join("target/vm");
    let run = folder.join("run");
    fs::create_dir_all(&run).on(&folder)?;
    // What those have left who were killed.
    for entry in fs::read_dir(&run).on(&run)?.flatten() {
        let is_dead = |pid: u32| !Path::new("/proc").join(pid.to_string()).exists();
        if owner(&entry.file_name().to_string_lossy()).is_some_and(is_dead) {
            let _: std::io::Result<()> = fs::remove_dir_all(entry.path());
        }
    }
    Ok(folder)
}

/// The process that a folder below `run` belongs to, by its name: `N` or `referee-N`.
fn owner(name: &str) -> Option<u32> {
    name.rsplit('-').next()?.parse().ok()
}

/// With a number that rises when what is in it changes: one packed by an older xtask is no use.
const INITRAMFS: &str = "initramfs-2";

/// A kernel that is ready to boot.
pub(super) struct Kernel {
    pub(super) image: PathBuf,
    pub(super) initramfs: PathBuf,
    /// Its folder of modules; the last part of the path is its release.
    pub(super) modules: PathBuf,
}

impl Kernel {
    /// The newest of a series such as 6.12, fetched now unless it is here already.
    pub(super) fn get(folder: &Path, series: &str) -> Result<Self> {
        let place = folder.join("kernels").join(series);
        // Two tests may want the same kernel at once.
        let lock = folder.join("lock");
        let lock = fs::File::create(&lock).on(&lock)?;
        lock.lock().on("target/vm/lock")?;
        if !place.join(INITRAMFS).exists() {
            let part = folder.join("kernels").join(format!("{series}.part"));
            for stale in [&part, &place] {
                if stale.exists() {
                    fs::remove_dir_all(stale).on(stale)?;
                }
            }
            fetch(folder, series, &part)?;
            let kernel = Self::find(&part)?;
            pack(&kernel, &part)?;
            fs::rename(&part, &place).on(&place)?;
        }
        Self::find(&place)
    }

    fn find(place: &Path) -> Result<Self> {
        let modules = [place.join("usr/lib/modules"), place.join("lib/modules")]
            .iter()
            .find_map(|folder| only(folder))
            .ok_or_else(|| fail(format!("{}: no modules in it", place.display())))?;
        let image = only_named(&place.join("boot"), "vmlinuz-")
            .or_else(|| only_named(&modules, "vmlinuz"))
            .ok_or_else(|| fail(format!("{}: no kernel in it", place.display())))?;
        Ok(Self {
            image,
            initramfs: place.join(INITRAMFS),
            modules,
        })
    }

    /// What `uname -r` says under it.
    pub(super) fn release(&self) -> String {
        let name = self.modules.file_name().unwrap_or_default();
        name.to_string_lossy().into_owned()
    }

    /// Puts modules and what they depend on into an archive, and beside them, in `modules.order`, the
    /// order to load them in. `place` is where the kernel was unpacked.
    pub(super) fn put_modules(
        &self,
        names: &[&str],
        place: &Path,
        archive: &mut Archive,
    ) -> Result {
        let release = self.release();
        // kmod wants BASE/lib/modules/RELEASE.
        let base = place.join(format!("base-{}", std::process::id()));
        fs::create_dir_all(base.join("lib")).on(&base)?;
        let modules = self.modules.parent().unwrap_or(place);
        let modules = fs::canonicalize(modules).on(modules)?;
        std::os::unix::fs::symlink(&modules, base.join("lib/modules")).on(&base)?;
        if !self.modules.join("modules.dep.bin").exists() {
            run(tool("depmod").arg("-b").arg(&base).arg(&release))?;
        }
        let mut order: Vec<String> = Vec::new();
        for module in names {
            let mut modprobe = tool("modprobe");
            let _: &mut Command = modprobe
                .args(["--show-depends", "-S", &release])
                .arg("-d")
                .arg(&base);
            for line in read(modprobe.arg(module))?.lines() {
                let Some(file) = line
                    .strip_prefix("insmod ")
                    .and_then(|l| l.split(' ').next())
                else {
                    continue;
                };
                let name = Path::new(file)
                    .file_name()
                    .unwrap_or_default()
                    .to_string_lossy();
                let name = name.split(".ko").next().unwrap_or_default().to_owned();
                if !order.contains(&name) {
                    archive.file(&format!("modules/{name}"), &decompressed(Path::new(file))?);
                    order.push(name);
                }
            }
        }
        archive.file("modules.order", order.join("\n").as_bytes());
        fs::remove_dir_all(&base).on(&base)
    }

    /// Whether Debian has built the ipvlan driver for it.
    pub(super) fn has_driver(&self) -> bool {
        only_named(&self.modules.join("kernel/drivers/net/ipvlan"), "ipvlan.ko").is_some()
    }
}

fn only(folder: &Path) -> Option<PathBuf> {
    only_named(folder, "")
}

fn only_named(folder: &Path, start: &str) -> Option<PathBuf> {
    let mut entries = fs::read_dir(folder).ok()?.flatten();
    let entry = entries.find(|entry| entry.file_name().to_string_lossy().starts_with(start))?;
    Some(entry.path())
}

/// The newest series that Debian has, such as `7.2`.
pub(super) fn newest(folder: &Path) -> Result<String> {
    let apt = Apt::new(&folder.join("apt"), SUITES)
        .map_err(|error| fail(format!("{error}; name a kernel instead of `newest`")))?;
    let image = newest_image(&apt, "[0-9]+[.][0-9]")?;
    image
        .as_deref()
        .and_then(series)
        .ok_or_else(|| fail(format!("Debian has no kernel in {}", SUITES.join(", "))))
}

/// The package with the highest numbers after `linux-image-`, of those that begin like that.
fn newest_image(apt: &Apt, beginning: &str) -> Result<Option<String>> {
    let special = ["cloud", "-rt-", "unsigned", "dbg"];
    let mut images = apt.names(&format!("^linux-image-{beginning}.*-amd64$"))?;
    images.retain(|name| !special.iter().any(|word| name.contains(word)));
    Ok(images.into_iter().max_by_key(|name| numbers(name)))
}

/// The series that a package's kernel belongs to.
fn series(image: &str) -> Option<String> {
    match numbers(image)[..] {
        [major, minor, ..] => Some(format!("{major}.{minor}")),
        _ => None,
    }
}

/// Unpacks the newest kernel of a series, and a static busybox, below `part`.
fn fetch(folder: &Path, series: &str, part: &Path) -> Result {
    note(format!("fetching Debian's newest kernel {series}"));
    let apt = Apt::new(&folder.join("apt"), SUITES)?;
    let pattern = format!("{}[.+-]", series.replace('.', "[.]"));
    let image = newest_image(&apt, &pattern)?.ok_or_else(|| {
        fail(format!(
            "Debian has no kernel {series} in {}",
            SUITES.join(", ")
        ))
    })?;
    // Newer packages have the kernel and the modules in packages of their own.
    let release = image.trim_start_matches("linux-image-").to_owned();
    let mut packages = vec![image];
    let mut next = 0;
    while let Some(package) = packages.get(next).cloned() {
        for name in apt.dependencies(&package)? {
            let ours = name.starts_with("linux-") && name.ends_with(&release);
            if ours && !packages.contains(&name) {
                packages.push(name);
            }
        }
        next += 1;
    }
    fs::create_dir_all(part).on(part)?;
    for package in packages
        .iter()
        .map(String::as_str)
        .chain(["busybox-static"])
    {
        apt.unpack(package, part)?;
    }
    Ok(())
}

/// The numbers in a package's name, by which the newest is found.
fn numbers(name: &str) -> Vec<u32> {
    name.split(|char: char| !char.is_ascii_digit())
        .filter_map(|part| part.parse().ok())
        .collect()
}

/// Makes the initramfs: busybox, and the modules on the way to the host's root.
fn pack(kernel: &Kernel, part: &Path) -> Result {
    let mut archive = busybox(part)?;
    for folder in ["host", "over", "newroot"] {
        archive.folder(folder);
    }
    kernel.put_modules(BOOT_MODULES, part, &mut archive)?;
    let place = part.join(INITRAMFS);
    fs::write(&place, archive.end()).on(&place)
}

/// An archive with nothing but the busybox that was unpacked below `place`, and folders to mount on.
pub(super) fn busybox(place: &Path) -> Result<Archive> {
    let busybox = [place.join("usr/bin/busybox"), place.join("bin/busybox")];
    let busybox = busybox.iter().find(|file| file.is_file());
    let busybox = busybox.ok_or_else(|| fail("busybox-static: no busybox in it"))?;
    let mut archive = Archive::default();
    for folder in ["bin", "dev", "modules", "proc", "sys"] {
        archive.folder(folder);
    }
    archive.program("bin/busybox", &fs::read(busybox).on(busybox)?);
    Ok(archive)
}

fn tool(name: &str) -> Command {
    Command::new(find(name).unwrap_or_else(|| name.into()))
}

fn decompressed(file: &Path) -> Result<Vec<u8>> {
    let tool = match file.extension().and_then(|end| end.to_str()) {
        Some("xz") => "xz",
        Some("zst") => "zstd",
        _ => return fs::read(file).on(file),
    };
    let output = Command::new(tool).arg("-dc").arg(file).output().on(tool)?;
    if !output.status.success() {
        return Err(fail(format!("{tool} cannot decompress {}", file.display())));
    }
    Ok(output.stdout)
}

#[cfg(test)]
mod tests {
    use super::{numbers, owner, series};

    #[test]
    fn the_newest_kernel_is_the_one_with_the_highest_numbers() {
        assert!(numbers("linux-image-6.12.9+deb12-amd64") < numbers("linux-image-6.12.30-amd64"));
    }

    #[test]
    fn a_folder_names_its_process() {
        assert_eq!(
            [owner("12"), owner("referee-34"), owner("x")],
            [Some(12), Some(34), None]
        );
    }

    #[test]
    fn a_package_names_its_series() {
        let series = |image| series(image).unwrap_or_default();
        assert_eq!(series("linux-image-6.12.30+deb13-amd64"), "6.12");
        assert_eq!(series("linux-image-7.2-amd64"), "7.2");
        assert_eq!(series("linux-image-amd"), "");
    }
}
