//! The `ipvlan` program. All of it is in the library, where it can be tested and fuzzed.

#![forbid(unsafe_code)]

use std::process::ExitCode;

fn main() -> ExitCode {
    let words: Vec<_> = std::env::args_os()
        .skip(1)
        // No link, namespace or word of ours is anything but UTF-8: the rest is "not found".
        .map(|word| word.to_string_lossy().into_owned())
        .collect();
    ExitCode::from(ipvlan_cli::main(&words))
}
