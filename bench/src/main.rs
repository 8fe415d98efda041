//! What a frame costs on its way to, from and between devices.
//!
//! ```text
//! args -> topology (namespaces, links) -> measure (rounds of cells) -> report (text, Markdown, JSON)
//!                                            \-> work (one operation: send here, receive there)
//! ```
//!
//! One thread owns both ends of every connection. A packet that it sends is carried through the
//! whole path by the softirq that runs before its system call returns, on the same CPU, and is so
//! charged to this thread. The CPU time of the thread per operation is then the cost of the path
//! plus the two sockets, whatever else the machine does; throughput by the wall clock is not.
//! `bench/README.md` says how to read the numbers.
//!
//! Reading order: `topology`, `work`, `measure`, `report`. The second measurement, of many devices on
//! one parent, is in `many`.

#![deny(unsafe_code)]

mod args;
mod error;
mod many;
mod measure;
mod netns;
mod publish;
mod report;
mod run;
mod sys;
mod topology;
mod work;

use std::process::ExitCode;

use clap::Parser;

use crate::args::{Args, Command};
use crate::error::{Error, Result};
use crate::measure::{Plan, Run};
use crate::publish::publish;
use crate::report::Report;
use crate::topology::{Maker, Net, Topology};

fn main() -> ExitCode {
    let args = Args::parse();
    if args.list {
        print!("{}", report::list());
        return ExitCode::SUCCESS;
    }
    let done = match &args.command {
        None => bench(&args),
        Some(Command::Many(many)) => many::many(many),
    };
    match done {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(Error::Interrupted) => {
            eprintln!("ipvlan-bench: interrupted, everything is removed");
            ExitCode::from(130)
        }
        Err(error) => {
            eprintln!("ipvlan-bench: {error}");
            ExitCode::FAILURE
        }
    }
}

/// Builds, measures, reports, removes. `false`: something did not work and is named in the report.
fn bench(args: &Args) -> Result<bool> {
    if !nix::unistd::geteuid().is_root() {
        return Err(Error::NotRoot);
    }
    sys::catch_signals()?;
    let cpu = measure::choose_cpu(args.common.cpu)?;
    let plan = Plan {
        paths: args.paths(),
        works: args.works(),
        rounds: args.rounds,
        per_cell: args.per_cell(),
        clock: args.clock,
        cpu,
        family: args.family(),
        tty: !args.common.quiet,
    };
    let maker = Maker {
        ipvlan: args.common.ipvlan(),
        family: plan.family,
    };

    // From here on every namespace hangs on `nets`, and goes when `nets` goes: at the end, on an
    // error, and on a signal, which the loops below turn into `Error::Interrupted`.
    let mut nets = Vec::new();
    let mut run = Run::default();
    for &topology in &args.topologies() {
        sys::check_interrupt()?;
        if plan.tty {
            eprintln!("build {topology}");
        }
        match Net::build(topology, &maker) {
            Ok(net) => nets.push(net),
            Err(Error::Absent { what }) if !args.asked_for(topology) => {
                run.absent.push((topology, what));
            }
            Err(Error::Interrupted) => return Err(Error::Interrupted),
            Err(error) => run.fail(format!("{topology}: {error}")),
        }
    }
    measure::settle_random()?;
    // Not earlier: children inherit it, and an agent started above must not share our CPU.
    measure::pin(cpu)?;
    measure::measure(&plan, &nets, &mut run)?;
    drop(nets);

    let report = Report::new(&plan, &run);
    publish(&report, &args.common)?;
    Ok(run.failures.is_empty())
}

/// Every topology, in the order of the tables: ours, the driver's, the alternatives, the floor.
const ALL: [Topology; 9] = [
    Topology::IpvlanL2,
    Topology::IpvlanL3,
    Topology::IpvlanL3s,
    Topology::DriverL2,
    Topology::DriverL3,
    Topology::DriverL3s,
    Topology::Macvlan,
    Topology::VethBridge,
    Topology::Direct,
];
