//! `soak`: a rough life for many devices.
//!
//! All options are the program's own; `--help` tells them. It finds `ipvlan` beside itself.

use crate::run::{Result, run};
use crate::test::{privileges, tools};
use crate::workspace;

/// `cargo xtask soak`
pub(crate) fn soak(args: &[&str]) -> Result {
    privileges()?;
    tools()?;
    run(workspace::cargo().args(["build", "--package", "ipvlan"]))?;
    run(workspace::cargo()
        .args(["run", "--quiet", "--package", "ipvlan-soak", "--"])
        .args(args))
}
