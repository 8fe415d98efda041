//! `vm`: runs a command under a Debian kernel that has the real ipvlan driver.
//!
//! ```text
//! kernel package ─► vmlinuz, modules ─┐
//! busybox, boot modules, the command ─┴─► initramfs ─► QEMU ─► host's / (9p, read-only)
//!                                                              under a tmpfs overlay ─► command
//! ```
//!
//! Whatever runs here runs there, at the same path: the guest's root is this machine's, and what
//! the guest writes is gone afterwards, except below `--share`. There is no network. QEMU
//! interprets (TCG) even where KVM exists: the point is the other kernel, and with `--icount` a
//! clock that counts instructions, so that two measurements agree whatever else the machine does.
//!
//! Kernels come by apt from this machine's own mirror, are unpacked below `target/vm` and not
//! installed.

use std::fs;
use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitCode, Stdio};
use std::thread::{JoinHandle, sleep};
use std::time::{Duration, Instant};

use crate::apt::{self, Apt};
use crate::run::{On, Result, fail, find, note, read, run};
use crate::workspace;

const USAGE: &str = "usage: cargo xtask vm KERNEL [--icount] [--time SECONDS] [--memory MIB] \
                     [--share DIR] -- COMMAND [ARGS], KERNEL such as 6.1, 6.12 or 7.2";

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

/// Exit status of a command that took too long, as timeout(1) has it.
const TIMED_OUT: u8 = 124;
/// Exit status when the guest died before the command ended.
const DIED: u8 = 125;

/// What the user asked for.
#[derive(Debug)]
pub(crate) struct Options {
    kernel: String,
    icount: bool,
    time: Duration,
    memory: u32,
    share: Option<PathBuf>,
    command: Vec<String>,
}

impl Options {
    pub(crate) fn parse(args: &[&str]) -> Result<Self> {
        let usage = || fail(USAGE);
        let (&kernel, mut rest) = args.split_first().ok_or_else(usage)?;
        let number = |char: char| char.is_ascii_digit() || char == '.';
        if kernel.is_empty() || !kernel.chars().all(number) {
            return Err(usage());
        }
        let mut options = Self {
            kernel: kernel.into(),
            icount: false,
            time: Duration::from_secs(300),
            memory: 2048,
            share: None,
            command: Vec::new(),
        };
        loop {
            match rest {
                ["--", command @ ..] if !command.is_empty() => {
                    options.command = command.iter().map(|&word| word.into()).collect();
                    return Ok(options);
                }
                ["--icount", ..] => {
                    options.icount = true;
                    rest = rest.get(1..).unwrap_or_default();
                    continue;
                }
                ["--time", value, ..] => {
                    options.time = Duration::from_secs(value.parse().map_err(|_| usage())?);
                }
                ["--memory", value, ..] => options.memory = value.parse().map_err(|_| usage())?,
                ["--share", value, ..] => {
                    options.share = Some(fs::canonicalize(value).on(value)?);
                }
                _ => return Err(usage()),
            }
            rest = rest.get(2..).unwrap_or_default();
        }
    }
}

/// `cargo xtask vm`. The exit status is the command's.
pub(crate) fn vm(options: &Options) -> Result<ExitCode> {
    if !cfg!(target_arch = "x86_64") {
        return Err(fail(
            "vm: only kernels for x86_64 so far, and this machine is another",
        ));
    }
    let missing = TOOLS.iter().filter(|(tool, _)| find(tool).is_none());
    apt::install(&missing.map(|(_, package)| *package).collect::<Vec<_>>())?;
    let folder = workspace::root().join("target/vm");
    fs::create_dir_all(folder.join("run")).on(&folder)?;
    let kernel = Kernel::get(&folder, &options.kernel)?;

    let run = folder.join(format!("run/{}", std::process::id()));
    fs::create_dir_all(&run).on(&run)?;
    let initramfs = [
        fs::read(&kernel.initramfs).on(&kernel.initramfs)?,
        order(options, &kernel)?,
    ];
    fs::write(run.join("initramfs"), initramfs.concat()).on(&run)?;
    let qemu = boot(options, &kernel, &run)?;
    let code = wait(qemu, options, &run);
    fs::remove_dir_all(&run).on(&run)?;
    code
}

/// A kernel that is ready to boot.
struct Kernel {
    image: PathBuf,
    initramfs: PathBuf,
    /// Its folder of modules; the last part of the path is its release.
    modules: PathBuf,
}

impl Kernel {
    fn get(folder: &Path, series: &str) -> Result<Self> {
        let place = folder.join("kernels").join(series);
        // Two tests may want the same kernel at once.
        let lock = folder.join("lock");
        let lock = fs::File::create(&lock).on(&lock)?;
        lock.lock().on("target/vm/lock")?;
        if !place.exists() {
            let part = folder.join("kernels").join(format!("{series}.part"));
            if part.exists() {
                fs::remove_dir_all(&part).on(&part)?;
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
            initramfs: place.join("initramfs"),
            modules,
        })
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

/// Unpacks the newest kernel of a series, and a static busybox, below `part`.
fn fetch(folder: &Path, series: &str, part: &Path) -> Result {
    note(format!("fetching Debian's newest kernel {series}"));
    let apt = Apt::new(&folder.join("apt"), SUITES)?;
    let pattern = format!("^linux-image-{}[.+-].*-amd64$", series.replace('.', "[.]"));
    let special = ["cloud", "-rt-", "unsigned", "dbg"];
    let mut images = apt.names(&pattern)?;
    images.retain(|name| !special.iter().any(|word| name.contains(word)));
    images.sort_by_key(|name| numbers(name));
    let image = images.pop().ok_or_else(|| {
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
    let release = release(kernel);
    let base = part.join("base");
    // kmod wants BASE/lib/modules/RELEASE.
    fs::create_dir_all(base.join("lib")).on(&base)?;
    let modules = kernel.modules.parent().unwrap_or(part);
    let modules = fs::canonicalize(modules).on(modules)?;
    std::os::unix::fs::symlink(&modules, base.join("lib/modules")).on(&base)?;
    run(tool("depmod").arg("-b").arg(&base).arg(&release))?;

    let busybox = [part.join("usr/bin/busybox"), part.join("bin/busybox")];
    let busybox = busybox.iter().find(|file| file.is_file());
    let busybox = busybox.ok_or_else(|| fail("busybox-static: no busybox in it"))?;
    let mut archive = Archive::default();
    for folder in [
        "bin", "dev", "host", "modules", "over", "proc", "newroot", "sys",
    ] {
        archive.folder(folder);
    }
    archive.program("bin/busybox", &fs::read(busybox).on(busybox)?);
    let mut order: Vec<String> = Vec::new();
    for module in BOOT_MODULES {
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
    fs::remove_dir_all(&base).on(&base)?;
    let place = part.join("initramfs");
    fs::write(&place, archive.end()).on(&place)
}

fn release(kernel: &Kernel) -> String {
    kernel
        .modules
        .file_name()
        .unwrap_or_default()
        .to_string_lossy()
        .into_owned()
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

/// A second archive, behind the first: init, and what this guest shall do.
fn order(options: &Options, kernel: &Kernel) -> Result<Vec<u8>> {
    let here = std::env::current_dir().on(".")?;
    let mut script = String::new();
    for (name, value) in std::env::vars() {
        if ["PATH", "HOME"].contains(&name.as_str()) || name.starts_with("IPVLAN_") {
            script.push_str(&format!("export {name}={}\n", quoted(&value)));
        }
    }
    script.push_str(&format!("cd {}\n", quoted(&here.to_string_lossy())));
    let words: Vec<String> = options.command.iter().map(|word| quoted(word)).collect();
    script.push_str(&format!("exec {}\n", words.join(" ")));
    let mut archive = Archive::default();
    archive.program("init", include_str!("vm-init.sh").as_bytes());
    archive.file("command", script.as_bytes());
    archive.file("modules.place", kernel.modules.to_string_lossy().as_bytes());
    if let Some(share) = &options.share {
        archive.file("share.place", share.to_string_lossy().as_bytes());
    }
    Ok(archive.end())
}

/// As one word for a shell.
fn quoted(word: &str) -> String {
    format!("'{}'", word.replace('\'', r"'\''"))
}

fn boot(options: &Options, kernel: &Kernel, run: &Path) -> Result<Child> {
    let at = |name: &str| run.join(name).display().to_string();
    let share = |id: &str, path: &Path, more: &str| {
        let path = path.display();
        let export = format!("local,id={id},path={path},security_model=none,multidevs=remap{more}");
        let device = format!("virtio-9p-pci,fsdev={id},mount_tag={id}");
        ["-fsdev".into(), export, "-device".into(), device]
    };
    let port = |id: &str| format!("virtserialport,chardev={id},name={id}");
    let mut qemu = Command::new("qemu-system-x86_64");
    let _: &mut Command = qemu
        .args(["-nodefaults", "-no-user-config", "-no-reboot"])
        .args(["-display", "none", "-monitor", "none", "-nic", "none"])
        // Interpreted, `max` copies memory four times slower.
        .args(["-cpu", "Nehalem", "-m", &options.memory.to_string()])
        .arg("-kernel")
        .arg(&kernel.image)
        .args(["-initrd", &at("initramfs")])
        .args([
            "-append",
            "console=ttyS0 quiet panic=-1 oops=panic mitigations=off nokaslr",
        ])
        .args(["-serial", &format!("file:{}", at("console"))])
        .args(["-device", "virtio-serial-pci", "-device", "virtio-rng-pci"])
        // Pipes, whatever ours are: `stdio` would hang up with our input, and a file be cut.
        .args([
            "-chardev",
            "file,id=output,path=/dev/stdout",
            "-device",
            &port("output"),
        ])
        .args([
            "-chardev",
            "file,id=errors,path=/dev/stderr",
            "-device",
            &port("errors"),
        ])
        .args(["-chardev", &format!("file,id=status,path={}", at("status"))])
        .args(["-device", &port("status")])
        .args(share("root", Path::new("/"), ",readonly=on"));
    if let Some(place) = &options.share {
        let _: &mut Command = qemu.args(share("share", place, ""));
    }
    let _: &mut Command = if options.icount {
        // Two nanoseconds an instruction; one processor, or there would be no one order of them.
        qemu.args([
            "-accel",
            "tcg,thread=single,tb-size=512",
            "-icount",
            "shift=1,sleep=on",
        ])
    } else {
        qemu.args(["-accel", "tcg,thread=multi,tb-size=512", "-smp", "2"])
    };
    let started = qemu
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn();
    started.on("qemu-system-x86_64")
}

/// Passes on what comes out of a pipe until it closes.
fn pass_on(
    from: Option<impl Read + Send + 'static>,
    mut to: impl Write + Send + 'static,
) -> Passer {
    from.map(|mut from| std::thread::spawn(move || io::copy(&mut from, &mut to).map(drop)))
}

type Passer = Option<JoinHandle<io::Result<()>>>;

fn wait(mut qemu: Child, options: &Options, run: &Path) -> Result<ExitCode> {
    let start = Instant::now();
    let passers = [
        pass_on(qemu.stdout.take(), io::stdout()),
        pass_on(qemu.stderr.take(), io::stderr()),
    ];
    while qemu.try_wait().on("qemu-system-x86_64")?.is_none() {
        if start.elapsed() > options.time {
            qemu.kill().on("qemu-system-x86_64")?;
            let _: std::process::ExitStatus = qemu.wait().on("qemu-system-x86_64")?;
            note(format!(
                "vm: not done after {} s (--time)",
                options.time.as_secs()
            ));
            return Ok(ExitCode::from(TIMED_OUT));
        }
        sleep(Duration::from_millis(50));
    }
    for passer in passers.into_iter().flatten() {
        // Whoever reads our output may have gone; the status still counts.
        drop(passer.join());
    }
    let status = fs::read_to_string(run.join("status")).unwrap_or_default();
    if let Ok(status) = status.trim().parse::<u8>() {
        return Ok(ExitCode::from(status));
    }
    let console = fs::read(run.join("console")).unwrap_or_default();
    let console = String::from_utf8_lossy(&console);
    note("vm: the guest died; what it said:");
    // The reason comes first, then pages of registers.
    for line in console.lines().take(25) {
        eprintln!("{line}");
    }
    Ok(ExitCode::from(DIED))
}

/// An initramfs in the making: cpio's "newc" format, as the kernel's
/// `Documentation/driver-api/early-userspace/buffer-format.rst` has it.
#[derive(Default)]
struct Archive {
    bytes: Vec<u8>,
    entries: u32,
}

impl Archive {
    fn folder(&mut self, name: &str) {
        self.entry(name, 0o040_755, &[]);
    }

    fn file(&mut self, name: &str, content: &[u8]) {
        self.entry(name, 0o100_644, content);
    }

    fn program(&mut self, name: &str, content: &[u8]) {
        self.entry(name, 0o100_755, content);
    }

    fn entry(&mut self, name: &str, mode: u32, content: &[u8]) {
        self.entries += 1;
        let (inode, links, size) = (self.entries, 1, content.len());
        // ino mode uid gid nlink mtime filesize devmajor devminor rdevmajor rdevminor namesize check
        let header = format!(
            "070701{inode:08x}{mode:08x}{0:08x}{0:08x}{links:08x}{0:08x}{size:08x}\
             {0:08x}{0:08x}{0:08x}{0:08x}{1:08x}{0:08x}",
            0,
            name.len() + 1
        );
        self.bytes.extend(header.as_bytes());
        self.bytes.extend(name.as_bytes());
        self.bytes.push(0);
        self.pad();
        self.bytes.extend(content);
        self.pad();
    }

    fn pad(&mut self) {
        self.bytes.resize(self.bytes.len().next_multiple_of(4), 0);
    }

    fn end(mut self) -> Vec<u8> {
        self.entry("TRAILER!!!", 0, &[]);
        self.bytes
    }
}

#[cfg(test)]
mod tests {
    use super::{Archive, Options, numbers, quoted};

    #[test]
    fn options_end_where_the_command_begins() {
        let options = Options::parse(&["6.12", "--icount", "--time", "9", "--", "ls", "--icount"]);
        let Ok(options) = options else {
            panic!("valid options")
        };
        assert!(options.icount);
        assert_eq!((options.time.as_secs(), options.memory), (9, 2048));
        assert_eq!(options.command, ["ls", "--icount"]);
        for wrong in [
            &["6.12"][..],
            &["6.12", "--"],
            &["x", "--", "ls"],
            &["6.1", "--time"],
        ] {
            assert!(Options::parse(wrong).is_err(), "{wrong:?}");
        }
    }

    #[test]
    fn the_newest_kernel_is_the_one_with_the_highest_numbers() {
        assert!(numbers("linux-image-6.12.9+deb12-amd64") < numbers("linux-image-6.12.30-amd64"));
    }

    #[test]
    fn a_word_for_the_shell_stays_one_word() {
        assert_eq!(quoted("it's $x"), r"'it'\''s $x'");
    }

    #[test]
    fn an_archive_is_aligned_and_ends_with_the_trailer() {
        let mut archive = Archive::default();
        archive.file("a", b"12345");
        let bytes = archive.end();
        assert_eq!(bytes.len() % 4, 0);
        assert_eq!(bytes.get(..6), Some(&b"070701"[..]));
        assert_eq!(bytes.get(54..62), Some(&b"00000005"[..]), "size");
        assert!(bytes.windows(10).any(|part| part == b"TRAILER!!!"));
    }
}
