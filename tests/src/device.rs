//! Devices, and the two things that can make them: our program and the kernel's driver.

use std::env;
use std::net::{Ipv4Addr, Ipv6Addr};
use std::path::PathBuf;

use crate::ns::{Done, Ns};
use crate::topology::Mode;

/// What makes the devices of a test.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Backend {
    /// The program `ipvlan`.
    Ours,
    /// `ip link add … type ipvlan`: the kernel's driver, the oracle.
    Kernel,
}

impl Backend {
    /// By `IPVLAN_TEST_BACKEND`.
    pub fn current() -> Self {
        match env::var("IPVLAN_TEST_BACKEND").as_deref() {
            Ok("kernel") => Self::Kernel,
            Ok("ours" | "") | Err(_) => Self::Ours,
            Ok(other) => panic!("IPVLAN_TEST_BACKEND is \"ours\" or \"kernel\", not {other:?}"),
        }
    }

    /// Whether devices are made by our program.
    pub fn is_ours() -> bool {
        Self::current() == Self::Ours
    }
}

/// What this test expects of the implementation that it runs against, where the two are known to
/// differ: `ours`, or the `driver`'s. `row` is the first column of the row in
/// `docs/kernel-differences.md` that tells a user about it, and why.
///
/// The referee (`cargo xtask vm`) finds the row beside the test through `IPVLAN_TEST_ROWS`, a file
/// that a line is appended to.
#[track_caller]
pub fn differs<T>(row: &str, ours: T, driver: T) -> T {
    assert!(
        DIFFERENCES.contains(&format!("\n| `{row}` |")),
        "docs/kernel-differences.md has no row `{row}`"
    );
    if let Some(path) = env::var_os("IPVLAN_TEST_ROWS") {
        let thread = std::thread::current();
        let line = format!("{} {row}\n", thread.name().unwrap_or("?"));
        let file = std::fs::File::options()
            .append(true)
            .create(true)
            .open(path);
        file.and_then(|mut file| std::io::Write::write_all(&mut file, line.as_bytes()))
            .expect("a file for the rows");
    }
    match Backend::current() {
        Backend::Ours => ours,
        Backend::Kernel => driver,
    }
}

const DIFFERENCES: &str = include_str!("../../docs/kernel-differences.md");

/// Whether this kernel is that new. For what the driver learnt only then, and for what a kernel
/// lends to ours.
pub fn kernel_is_since(major: u32, minor: u32) -> bool {
    let name = nix::sys::utsname::uname().expect("uname");
    let mut numbers = name
        .release()
        .to_string_lossy()
        .split(['.', '-', '+'])
        .map_while(|part| part.parse::<u32>().ok())
        .collect::<Vec<_>>()
        .into_iter();
    (numbers.next().unwrap_or(0), numbers.next().unwrap_or(0)) >= (major, minor)
}

/// The program `ipvlan`.
#[derive(Clone, Debug)]
pub struct Ipvlan {
    path: PathBuf,
}

impl Ipvlan {
    /// Finds it: `$IPVLAN`, `$IPVLAN_BIN`, or where cargo puts it, beside our own executable or, if
    /// that is a test, above it.
    pub fn find() -> Self {
        let named = ["IPVLAN", "IPVLAN_BIN"]
            .into_iter()
            .find_map(env::var_os)
            .map(PathBuf::from);
        // target/debug/ipvlan-soak, target/debug/deps/howto-0123 → target/debug/ipvlan
        let beside = || {
            let own = env::current_exe().ok()?;
            let folders = own.ancestors().skip(1).take(2);
            folders
                .map(|folder| folder.join("ipvlan"))
                .find(|path| path.is_file())
        };
        match named.or_else(beside) {
            Some(path) if path.is_file() => Self { path },
            path => panic!(
                "no program ipvlan at {}: run `cargo build -p ipvlan` (`cargo xtask test` does), \
                 or set IPVLAN",
                path.unwrap_or_default().display()
            ),
        }
    }

    /// Its path.
    pub fn path(&self) -> &str {
        self.path.to_str().expect("a path in UTF-8")
    }

    /// Calls it in a namespace.
    pub fn run(&self, ns: &Ns, arguments: &str) -> Done {
        let words: Vec<&str> = [self.path()]
            .into_iter()
            .chain(arguments.split(' '))
            .collect();
        let words: Vec<&str> = words.into_iter().filter(|word| !word.is_empty()).collect();
        ns.try_run(&words)
    }
}

/// A device and the namespace it lives in.
#[derive(Debug)]
pub struct Dev {
    /// Where it lives.
    pub ns: Ns,
    /// Its name there.
    pub name: String,
    /// Its address.
    pub v4: Ipv4Addr,
    /// Its address.
    pub v6: Ipv6Addr,
    pub(crate) mode: Mode,
    pub(crate) number: u16,
}

impl Dev {
    pub(crate) fn new(ns: Ns, number: u16, mode: Mode) -> Self {
        let (v4, v6) = addresses(mode, number);
        Self {
            ns,
            name: format!("ipvl{number}"),
            v4,
            v6,
            mode,
            number,
        }
    }

    /// The addresses as text, IPv4 first.
    pub fn addresses(&self) -> [String; 2] {
        [self.v4.to_string(), self.v6.to_string()]
    }

    /// Configures it as the HOWTO does.
    #[track_caller]
    pub fn configure(&self) {
        let Self { name, v4, v6, .. } = self;
        let (by4, by6) = match self.mode {
            Mode::L2 => ("via 10.1.0.254", "via fd00::254"),
            Mode::L3 | Mode::L3s => ("", ""),
        };
        self.ns.hurry(name);
        self.ns.batch(&format!(
            "link set dev {name} up\n\
             addr add {v4}/24 dev {name}\n\
             route add default {by4} dev {name}\n"
        ));
        // There is no IPv6 below an MTU of 1280.
        if self.ns.link(name).mtu >= 1280 {
            self.ns.batch(&format!(
                "addr add {v6}/64 dev {name} nodad\n\
                 route add ::/0 {by6} dev {name}\n"
            ));
        }
    }

    /// The number in its name.
    pub fn number(&self) -> u16 {
        self.number
    }
}

/// Addresses of the device with this number.
pub fn addresses(mode: Mode, number: u16) -> (Ipv4Addr, Ipv6Addr) {
    let byte = u8::try_from(number).expect("at most 200 devices");
    match mode {
        Mode::L2 => {
            let last = byte + 10;
            // In decimal digits, as people number them: 10.1.0.11 and fd00::11.
            let digits = u16::from_str_radix(&last.to_string(), 16).expect("digits");
            (
                Ipv4Addr::new(10, 1, 0, last),
                Ipv6Addr::new(0xfd00, 0, 0, 0, 0, 0, 0, digits),
            )
        }
        Mode::L3 | Mode::L3s => (
            Ipv4Addr::new(10, 2, byte, 1),
            Ipv6Addr::new(0xfd02, number, 0, 0, 0, 0, 0, 1),
        ),
    }
}
