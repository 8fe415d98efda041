//! `bpf`: builds the eBPF object that the repository carries, or proves that it is the right one.
//!
//! The object is committed so that `cargo build` needs nothing but a stable Rust. It is the same
//! to the byte wherever it is built: every path that could reach it is replaced.

use std::fs;

use object::{Object as _, ObjectSymbol as _};

use crate::run::{On, Result, fail, note, run};
use crate::sources::{self, OBJECT, RECORD};
use crate::toolchain::{self, TARGET, Toolchain};
use crate::workspace::{self, Graph};

pub(crate) const PACKAGE: &str = "ipvlan-bpf";

/// What rustc is told beyond the profile; the replaced paths come on top.
const FLAGS: &[&str] = &[
    // 32-bit arithmetic and jumps; Linux 5.1.
    "-Ctarget-cpu=v3",
    // Loads of more than a byte from a packet, where nothing is aligned. Without it every MAC
    // address is put together byte by byte. The verifier takes it on every architecture with
    // efficient unaligned access (x86-64, arm64, ...).
    "-Ctarget-feature=+allows-misaligned-mem-access",
    "-Clink-arg=--btf",
];

/// `cargo xtask bpf`
pub(crate) fn build() -> Result {
    let graph = Graph::load()?;
    let toolchain = Toolchain::set_up()?;
    let object = compile(&toolchain, &graph)?;
    no_panics(&object)?;
    let root = workspace::root();
    let folder = root.join(OBJECT);
    let folder = folder.parent().unwrap_or(&root);
    fs::create_dir_all(folder).on(folder)?;
    // Whoever embeds the object is rebuilt only when it changed.
    if fs::read(root.join(OBJECT)).is_ok_and(|old| old == object) {
        note(format!("{OBJECT}: {} bytes, unchanged", object.len()));
    } else {
        fs::write(root.join(OBJECT), &object).on(OBJECT)?;
        note(format!("{OBJECT}: {} bytes, new", object.len()));
    }
    let mut record = format!("# {}\n", toolchain.version());
    for line in sources::list(&graph, FLAGS)? {
        record.push_str(&line);
        record.push('\n');
    }
    fs::write(root.join(RECORD), record).on(RECORD)
}

/// `cargo xtask bpf --check`
pub(crate) fn check() -> Result {
    let root = workspace::root();
    let graph = Graph::load()?;
    let committed = fs::read(root.join(OBJECT)).on(OBJECT)?;
    no_panics(&committed)?;
    check_record(&graph)?;
    let toolchain = match Toolchain::set_up() {
        Ok(toolchain) => toolchain,
        Err(why) => {
            note(format!("NOT rebuilt: {why}"));
            note(format!(
                "only the hashes in {RECORD} were compared; they are right"
            ));
            return Ok(());
        }
    };
    let rebuilt = compile(&toolchain, &graph)?;
    if rebuilt != committed {
        return Err(fail(format!(
            "{OBJECT} is not what its sources make ({} bytes, rebuilt: {} bytes, see target/bpf); \
             run: cargo xtask bpf",
            committed.len(),
            rebuilt.len()
        )));
    }
    note(format!(
        "{OBJECT}: rebuilt, the same {} bytes",
        committed.len()
    ));
    Ok(())
}

/// Compares the hashes beside the object with the files.
fn check_record(graph: &Graph) -> Result {
    let record = fs::read_to_string(workspace::root().join(RECORD)).on(RECORD)?;
    let (header, recorded): (Vec<&str>, Vec<&str>) =
        record.lines().partition(|line| line.starts_with('#'));
    if !header
        .iter()
        .any(|line| line.starts_with(&format!("# {}", toolchain::maker())))
    {
        return Err(fail(format!(
            "{RECORD}: made by another compiler; run: cargo xtask bpf"
        )));
    }
    let now = sources::list(graph, FLAGS)?;
    let now: Vec<&str> = now.iter().map(String::as_str).collect();
    let different = sources::differences(&recorded, &now);
    if different.is_empty() {
        return Ok(());
    }
    let different = different.join(", ");
    Err(fail(format!(
        "{RECORD} is out of date ({different}); run: cargo xtask bpf"
    )))
}

/// Flags for rustc under which no folder of this machine shows in the object.
pub(crate) fn flags(toolchain: &Toolchain, graph: &Graph) -> Result<Vec<String>> {
    let mut flags: Vec<String> = FLAGS.iter().map(|&flag| flag.into()).collect();
    let mut replace = |from: &std::path::Path, to: &str| {
        flags.push(format!("--remap-path-prefix={}={to}", from.display()));
    };
    // The last one that fits wins: the library may lie below the workspace.
    replace(&workspace::root(), "/ipvlan");
    replace(&toolchain.library, "/rust/library");
    // cargo names what lies below the workspace as seen from there.
    let relative = toolchain.library.strip_prefix(workspace::root());
    replace(relative.unwrap_or(&toolchain.library), "/rust/library");
    for package in graph.closure(PACKAGE)? {
        if !package.ours {
            replace(
                &package.folder,
                &format!("/{}-{}", package.name, package.version),
            );
        }
    }
    Ok(flags)
}

fn compile(toolchain: &Toolchain, graph: &Graph) -> Result<Vec<u8>> {
    let root = workspace::root();
    let target = root.join("target/bpf");
    run(toolchain
        .cargo(&flags(toolchain, graph)?)?
        .args([
            "build",
            "--package",
            PACKAGE,
            "--profile",
            "bpf",
            "--target",
            TARGET,
        ])
        .args(["-Zbuild-std=core", "--target-dir"])
        .arg(&target))?;
    let program = graph.ours(PACKAGE)?.program.as_deref().unwrap_or(PACKAGE);
    let built = target.join(TARGET).join("bpf").join(program);
    without_debug_info(&fs::read(&built).on(&built)?)
}

/// Leaves out what only a debugger reads, nine tenths of the file. BTF stays: with it the kernel
/// knows functions and lines by name.
fn without_debug_info(object: &[u8]) -> Result<Vec<u8>> {
    let shorter = || -> object::build::Result<Vec<u8>> {
        let mut elf = object::build::elf::Builder::read(object)?;
        for section in &mut elf.sections {
            let name = section.name.as_slice();
            let debug = name.starts_with(b".debug_") || name.starts_with(b".rel.debug_");
            // Only a linker that joins objects reads these.
            section.delete = debug || name.starts_with(b".rel.BTF");
        }
        elf.delete_orphans();
        // The linker keeps all names in one section; the writer wants two.
        let names = elf.sections.add();
        names.name = b".shstrtab"[..].into();
        names.sh_type = object::elf::SHT_STRTAB;
        names.sh_addralign = 1;
        names.data = object::build::elf::SectionData::SectionString;
        elf.set_section_sizes();
        let mut shorter = Vec::new();
        elf.write(&mut shorter)?;
        Ok(shorter)
    };
    shorter().map_err(|error| fail(format!("the eBPF object: {error}")))
}

/// A panic links, and then no kernel takes the program; better to hear of it here.
fn no_panics(object: &[u8]) -> Result {
    let file = object::File::parse(object).map_err(|error| fail(format!("{OBJECT}: {error}")))?;
    match file
        .symbols()
        .filter_map(|symbol| symbol.name().ok())
        .find(|n| n.contains("panick"))
    {
        Some(name) => Err(fail(format!(
            "the eBPF object can panic ({name}): use .get(), masks, checked arithmetic"
        ))),
        None => Ok(()),
    }
}
