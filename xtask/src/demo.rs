//! `demo`: a short tour of the program on this machine.

use std::process::Command;

use crate::run::{Result, run};
use crate::workspace::{self, Graph};

/// `cargo xtask demo`
pub(crate) fn demo() -> Result {
    run(workspace::cargo().args(["build", "--release", "--package", "ipvlan"]))?;
    run(Command::new(Graph::load()?.target.join("release/ipvlan")).arg("-V"))
}
