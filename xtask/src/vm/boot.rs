//! `boot`: a command under another kernel.
//!
//! ```text
//! kernel package ─► vmlinuz, modules ─┐
//! busybox, boot modules, the command ─┴─► initramfs ─► QEMU ─► host's / (9p, read-only)
//!                                                              under a tmpfs overlay ─► command
//! ```

use std::fs;
use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitCode, ExitStatus, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::thread::{JoinHandle, sleep};
use std::time::{Duration, Instant};

use super::archive::Archive;
use super::kernel::{self, Kernel};
use crate::run::{On, Result, fail, note};

const USAGE: &str = "usage: cargo xtask boot KERNEL [--icount] [--time SECONDS] [--memory MIB] \
                     [--share DIR] -- COMMAND [ARGS], KERNEL such as 6.1, 6.12 or 7.2";

/// Exit status of a command that took too long, as timeout(1) has it.
const TIMED_OUT: u8 = 124;
/// Exit status when the guest died before the command ended.
const DIED: u8 = 125;

/// What the user asked for.
#[derive(Debug)]
pub(crate) struct Options {
    pub(super) kernel: String,
    pub(super) icount: bool,
    pub(super) processors: u32,
    pub(super) time: Duration,
    pub(super) memory: u32,
    pub(super) share: Option<PathBuf>,
    pub(super) command: Vec<String>,
}

impl Options {
    pub(crate) fn parse(args: &[&str]) -> Result<Self> {
        let usage = || fail(USAGE);
        let (&kernel, mut rest) = args.split_first().ok_or_else(usage)?;
        if !is_series(kernel) {
            return Err(usage());
        }
        let mut options = Self {
            kernel: kernel.into(),
            icount: false,
            processors: 2,
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

/// Whether this could name kernels: digits and points.
pub(super) fn is_series(name: &str) -> bool {
    let number = |char: char| char.is_ascii_digit() || char == '.';
    name.starts_with(|first: char| first.is_ascii_digit()) && name.chars().all(number)
}

/// `cargo xtask boot`. The exit status is the command's.
pub(crate) fn boot(options: &Options) -> Result<ExitCode> {
    let folder = kernel::folder()?;
    let kernel = Kernel::get(&folder, &options.kernel)?;
    status(options, &folder, &kernel).map(ExitCode::from)
}

/// Boots a kernel for one command, and says how that ended.
pub(super) fn status(options: &Options, folder: &Path, kernel: &Kernel) -> Result<u8> {
    static COUNT: AtomicU32 = AtomicU32::new(0);
    let count = COUNT.fetch_add(1, Ordering::Relaxed);
    let run = folder.join(format!("run/guest{count}-{}", std::process::id()));
    fs::create_dir_all(&run).on(&run)?;
    let initramfs = [
        fs::read(&kernel.initramfs).on(&kernel.initramfs)?,
        order(options, kernel)?,
    ];
    fs::write(run.join("initramfs"), initramfs.concat()).on(&run)?;
    let qemu = start(options, kernel, &run)?;
    let status = wait(qemu, options, &run);
    fs::remove_dir_all(&run).on(&run)?;
    status
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
    archive.program("init", include_str!("init.sh").as_bytes());
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

/// The kernel's command line. What measures (`--icount`) gets the kernel as it is; the rest is spared
/// what takes time: programs that lie elsewhere each time are interpreted anew each time, memory is
/// not cleared twice, and nobody waits for the end of a grace period.
fn kernel_line(options: &Options) -> String {
    let line = "console=ttyS0 quiet panic=-1 oops=panic mitigations=off nokaslr";
    if options.icount {
        line.to_owned()
    } else {
        format!("{line} norandmaps init_on_alloc=0 rcupdate.rcu_expedited=1")
    }
}

fn start(options: &Options, kernel: &Kernel, run: &Path) -> Result<Child> {
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
        .args(["-append", &kernel_line(options)])
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
        let processors = options.processors.to_string();
        qemu.args([
            "-accel",
            "tcg,thread=multi,tb-size=512",
            "-smp",
            &processors,
        ])
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

fn wait(mut qemu: Child, options: &Options, run: &Path) -> Result<u8> {
    let start = Instant::now();
    let passers = [
        pass_on(qemu.stdout.take(), io::stdout()),
        pass_on(qemu.stderr.take(), io::stderr()),
    ];
    while qemu.try_wait().on("qemu-system-x86_64")?.is_none() {
        if start.elapsed() > options.time {
            qemu.kill().on("qemu-system-x86_64")?;
            let _: ExitStatus = qemu.wait().on("qemu-system-x86_64")?;
            note(format!(
                "boot: not done after {} s (--time)",
                options.time.as_secs()
            ));
            return Ok(TIMED_OUT);
        }
        sleep(Duration::from_millis(50));
    }
    for passer in passers.into_iter().flatten() {
        // Whoever reads our output may have gone; the status still counts.
        drop(passer.join());
    }
    let status = fs::read_to_string(run.join("status")).unwrap_or_default();
    if let Ok(status) = status.trim().parse::<u8>() {
        return Ok(status);
    }
    let console = fs::read(run.join("console")).unwrap_or_default();
    let console = String::from_utf8_lossy(&console);
    note("boot: the guest died; what it said:");
    // The reason comes first, then pages of registers.
    for line in console.lines().take(25) {
        eprintln!("{line}");
    }
    Ok(DIED)
}

#[cfg(test)]
mod tests {
    use super::{Options, quoted};

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
    fn a_word_for_the_shell_stays_one_word() {
        assert_eq!(quoted("it's $x"), r"'it'\''s $x'");
    }
}
