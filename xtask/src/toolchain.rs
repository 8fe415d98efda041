//! The eBPF toolchain, set up below `target/ebpf-toolchain`; nothing is installed, root is not
//! needed.
//!
//! Three things beyond a stable Rust make an eBPF object:
//!
//! * the library source of exactly this compiler, because nobody ships `core` compiled for eBPF:
//!   rustup's `rust-src` component, else Debian's package of the same name and version;
//! * `RUSTC_BOOTSTRAP=1`, because building `core` oneself is still an unstable option;
//! * bpf-linker, which must read this compiler's bitcode. It is built against the very libLLVM
//!   that rustc brings along, so no LLVM packages are needed.
//!
//! A fourth makes it the same object everywhere. cargo mixes the folders of packages, its own
//! release and more into the names of symbols (`-C metadata`), also for `core`, wherever it lies;
//! a wrapper around rustc gives every crate of the object the same instead. Their names still
//! tell them apart.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::apt::Apt;
use crate::run::{On, Result, fail, note, read_quiet, run};
use crate::workspace;

/// The compiler that made the committed object. Another one makes another object.
pub(crate) const RUST: &str = "1.95.0";
const BPF_LINKER: &str = "0.13.0";
pub(crate) const TARGET: &str = "bpfel-unknown-none";

const WRAPPER: &str = "\
#!/bin/sh
# Symbols of the eBPF object shall not depend on where it is built.
case \" $* \" in *\" --target bpfel-unknown-none \"*)
    for arg do
        shift
        case $arg in metadata=*) arg=metadata=ipvlan ;; esac
        set -- \"$@\" \"$arg\"
    done
esac
exec \"$@\"
";

/// How the description of the one toolchain that can rebuild the object begins.
pub(crate) fn maker() -> String {
    format!("bpf-linker {BPF_LINKER}, rustc {RUST} ")
}

/// A toolchain that is ready.
pub(crate) struct Toolchain {
    folder: PathBuf,
    rust: Rust,
    /// The sources of the standard library.
    pub(crate) library: PathBuf,
}

/// A compiler of the right release.
struct Rust {
    /// What rustup must be told, if the compiler is not the one that runs us.
    channel: Option<&'static str>,
    version: String,
    llvm: String,
    sysroot: PathBuf,
}

impl Rust {
    fn command(channel: Option<&'static str>, program: &str) -> Command {
        let mut command = Command::new(program);
        if let Some(channel) = channel {
            let _: &mut Command = command.env("RUSTUP_TOOLCHAIN", channel);
        }
        command
    }

    fn find() -> Result<Self> {
        [None, Some(RUST), Some("stable")]
            .into_iter()
            .find_map(Self::probe)
            .ok_or_else(|| {
                fail(format!(
                    "no rustc {RUST} here; run: rustup toolchain install {RUST}"
                ))
            })
    }

    fn probe(channel: Option<&'static str>) -> Option<Self> {
        let about = read_quiet(Self::command(channel, "rustc").arg("-vV")).ok()?;
        let field = |name: &str| about.lines().find_map(|line| line.strip_prefix(name));
        if field("release: ")? != RUST {
            return None;
        }
        let sysroot = read_quiet(Self::command(channel, "rustc").args(["--print", "sysroot"]));
        Some(Self {
            channel,
            version: about.lines().next()?.into(),
            llvm: field("LLVM version: ")?.into(),
            sysroot: sysroot.ok()?.trim_end().into(),
        })
    }
}

impl Toolchain {
    /// Finds it, or makes it. Takes about a minute the first time.
    pub(crate) fn set_up() -> Result<Self> {
        let folder = workspace::root().join("target/ebpf-toolchain");
        fs::create_dir_all(&folder).on(&folder)?;
        let rust = Rust::find()?;
        // Two of us at once would unpack over each other.
        let lock = folder.join("lock");
        let lock = fs::File::create(&lock).on(&lock)?;
        lock.lock().on("target/ebpf-toolchain/lock")?;
        let library = library_source(&rust, &folder)?;
        let toolchain = Self {
            folder,
            rust,
            library,
        };
        toolchain.linker()?;
        toolchain.wrapper()?;
        Ok(toolchain)
    }

    /// What the object was made with, for the record.
    pub(crate) fn version(&self) -> String {
        format!(
            "bpf-linker {BPF_LINKER}, {}, LLVM {}",
            self.rust.version, self.rust.llvm
        )
    }

    /// A cargo that can build for eBPF, in the workspace's root. `flags` go to rustc; whatever the
    /// user's environment says about flags does not.
    pub(crate) fn cargo(&self, flags: &[String]) -> Result<Command> {
        let mut path = vec![self.folder.join("bin")];
        path.extend(std::env::split_paths(
            &std::env::var_os("PATH").unwrap_or_default(),
        ));
        let path = std::env::join_paths(path).map_err(|error| fail(format!("$PATH: {error}")))?;
        let mut cargo = match self.rust.channel {
            Some(_) => Rust::command(self.rust.channel, "cargo"),
            None => workspace::cargo(),
        };
        for (name, _) in std::env::vars_os() {
            let name_text = name.to_string_lossy();
            let prefixes = [
                "CARGO_PROFILE_",
                "CARGO_BUILD_",
                "CARGO_TARGET_",
                "RUSTC",
                "RUSTFLAGS",
            ];
            if prefixes.iter().any(|prefix| name_text.starts_with(prefix)) {
                let _: &mut Command = cargo.env_remove(&name);
            }
        }
        let _: &mut Command = cargo
            .current_dir(workspace::root())
            .env("PATH", path)
            .env("RUSTC_BOOTSTRAP", "1")
            .env("__CARGO_TESTS_ONLY_SRC_ROOT", &self.library)
            .env("CARGO_ENCODED_RUSTFLAGS", flags.join("\x1f"))
            .env("RUSTC_WRAPPER", self.folder.join("bin/rustc-wrapper"))
            .env("CARGO_INCREMENTAL", "0")
            // aya would take the machine that builds.
            .env("AYA_BPF_TARGET_ARCH", "x86_64");
        Ok(cargo)
    }

    /// Written only when it changed: a new wrapper makes cargo build everything anew.
    fn wrapper(&self) -> Result {
        let file = self.folder.join("bin/rustc-wrapper");
        if fs::read_to_string(&file).is_ok_and(|text| text == WRAPPER) {
            return Ok(());
        }
        fs::write(&file, WRAPPER).on(&file)?;
        fs::set_permissions(&file, fs::Permissions::from_mode(0o755)).on(&file)
    }

    fn linker(&self) -> Result {
        let linker = self.folder.join("bin/bpf-linker");
        let version = format!("bpf-linker {BPF_LINKER}");
        if read_quiet(Command::new(&linker).arg("--version")).is_ok_and(|v| v.trim() == version) {
            return Ok(());
        }
        let lib = self.rust.sysroot.join("lib");
        let llvm = fs::read_dir(&lib)
            .on(&lib)?
            .flatten()
            .find(|file| {
                file.file_name()
                    .to_string_lossy()
                    .starts_with("libLLVM.so.")
            })
            .ok_or_else(|| fail(format!("{}: no libLLVM.so.* in it", lib.display())))?;
        let prefix = self.folder.join("llvm");
        let links = prefix.join("lib");
        fs::create_dir_all(&links).on(&links)?;
        link(&llvm.path(), &links.join(llvm.file_name()))?;
        link(Path::new(&llvm.file_name()), &links.join("libLLVM.so"))?;
        note(format!("building {version}"));
        let major = self.rust.llvm.split('.').next().unwrap_or_default();
        let mut cargo = self.cargo(&[])?;
        run(cargo
            .env_remove("RUSTC_BOOTSTRAP")
            .env_remove("RUSTC_WRAPPER")
            .env_remove("__CARGO_TESTS_ONLY_SRC_ROOT")
            .env_remove("CARGO_ENCODED_RUSTFLAGS")
            .env("LLVM_PREFIX", &prefix)
            // It links one small program; the time to optimise it is never earned back.
            .env("CARGO_PROFILE_RELEASE_OPT_LEVEL", "1")
            .env("CARGO_PROFILE_RELEASE_DEBUG", "0")
            .env("CARGO_PROFILE_RELEASE_LTO", "off")
            .args(["install", "--quiet", "--locked", "--force", "bpf-linker"])
            .args(["--version", BPF_LINKER, "--no-default-features"])
            .arg(format!("--features=llvm-{major}"))
            .arg("--target-dir")
            .arg(self.folder.join("build"))
            .arg("--root")
            .arg(&self.folder))?;
        let build = self.folder.join("build");
        fs::remove_dir_all(&build).on(&build)
    }
}

fn link(to: &Path, at: &Path) -> Result {
    if at.symlink_metadata().is_ok() {
        fs::remove_file(at).on(at)?;
    }
    std::os::unix::fs::symlink(to, at).on(at)
}

/// Finds the standard library's sources, or fetches them.
fn library_source(rust: &Rust, folder: &Path) -> Result<PathBuf> {
    let complete = |library: &PathBuf| library.join("core/src/lib.rs").exists();
    let component = rust.sysroot.join("lib/rustlib/src/rust/library");
    let ours = folder.join(format!("rust-src/usr/src/rustc-{RUST}/library"));
    if let Some(found) = [&component, &ours]
        .into_iter()
        .find(|library| complete(library))
    {
        return Ok(found.clone());
    }
    let unpacked = folder.join("unpacked");
    debian_source(folder, &unpacked).map_err(|why| {
        fail(format!(
            "no library source ({why}); run: rustup component add rust-src"
        ))
    })?;
    // Appears only when it is complete.
    let place = folder.join("rust-src");
    if place.exists() {
        fs::remove_dir_all(&place).on(&place)?;
    }
    fs::rename(&unpacked, &place).on(&place)?;
    Ok(ours)
}

fn debian_source(folder: &Path, into: &Path) -> Result {
    let suites = ["trixie-backports", "forky", "sid"];
    for suite in suites {
        note(format!("looking for Debian's rust-src {RUST} in {suite}"));
        let folder = folder.join("apt");
        let apt = Apt::new(&folder, &[suite])?;
        let start = format!("{RUST}+");
        let found = apt
            .versions("rust-src")?
            .into_iter()
            .find(|v| v.starts_with(&start));
        if let Some(version) = &found {
            apt.unpack(&format!("rust-src={version}"), into)?;
        }
        fs::remove_dir_all(&folder).on(&folder)?;
        if found.is_some() {
            return Ok(());
        }
    }
    Err(fail(format!(
        "Debian has no rust-src {RUST} in {}",
        suites.join(", ")
    )))
}
