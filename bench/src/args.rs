//! The command line.

use std::path::PathBuf;
use std::time::Duration;

use clap::{Parser, Subcommand, ValueEnum};

use crate::ALL;
use crate::topology::{Family, Path, Topology};
use crate::work::Work;

const EXAMPLES: &str = "\
Examples:
  ipvlan-bench                                    everything this machine can build, about a minute
  ipvlan-bench --topo macvlan,veth-bridge,direct  only these three
  ipvlan-bench --work udp-64,tcp-stream --path lan-dev --rounds 15
  ipvlan-bench --json now.json --markdown >> docs/performance.md
  ipvlan-bench many --devices 200                 many devices on one parent instead of two

Reading the table:
  The figure is microseconds of CPU time for one operation: one datagram, one 64 KiB write, one
  request and its answer, one connection; sent here and received there. Lower is better. It holds
  both sockets, so compare topologies, not absolute figures: `direct` is the floor.
  min..max is over the rounds. `bridge` and `driver` are ratios to veth-bridge and to the kernel's
  own driver in the same mode, as the median of the rounds' own ratios: 0.90 means 10 % cheaper.
  A difference smaller than the spread is no difference.

Exit status: 0 all measured; 1 something was unreachable or failed (named in the report);
  2 usage; 130 interrupted. The namespaces (ipvlan-bench-PID-*) are removed in every case.";

/// Measure what a frame costs: CPU time per operation through ipvlan and its alternatives.
///
/// Builds each topology in network namespaces of its own, touching nothing that exists: a LAN
/// (lan0), a host whose eth0 is the parent, and two namespaces ns0 and ns1 with one device each.
/// One thread, pinned to one CPU, owns the sockets at both ends, so the kernel charges it with the
/// whole way of each packet. Topologies take turns in every round, so that a machine that
/// gets slower gets slower for all of them. Needs root.
#[derive(Debug, Parser)]
#[command(
    name = "ipvlan-bench",
    version,
    after_long_help = EXAMPLES,
    args_conflicts_with_subcommands = true
)]
pub(crate) struct Args {
    #[command(subcommand)]
    pub(crate) command: Option<Command>,

    /// What lies between the two ends; default: all that exist here. Naming one makes its absence
    /// a failure
    #[arg(long, value_name = "LIST", value_delimiter = ',')]
    topo: Option<Vec<Topology>>,

    /// Who talks to whom; default: all
    #[arg(long, value_name = "LIST", value_delimiter = ',')]
    path: Option<Vec<Path>>,

    /// What is sent; default: all
    #[arg(long, value_name = "LIST", value_delimiter = ',')]
    work: Option<Vec<Work>>,

    /// How often each combination is measured; the report takes the median
    #[arg(long, value_name = "N", default_value_t = 7, value_parser = clap::value_parser!(u32).range(1..=1000))]
    pub(crate) rounds: u32,

    /// Length of one measurement in milliseconds, without its warm-up
    #[arg(long, value_name = "PER_CELL", default_value_t = 100, value_parser = clap::value_parser!(u64).range(1..=60_000))]
    ms: u64,

    /// What is read before and after
    #[arg(long, value_enum, default_value_t = Clock::Cpu)]
    pub(crate) clock: Clock,

    /// IPv6 instead of IPv4
    #[arg(long)]
    ipv6: bool,

    #[command(flatten)]
    pub(crate) common: Common,

    /// List topologies, paths and workloads, and exit
    #[arg(long)]
    pub(crate) list: bool,
}

/// What both measurements are told.
#[derive(Debug, clap::Args)]
pub(crate) struct Common {
    /// The CPU to run on, and to send from; default: the last one this process may use
    #[arg(long, value_name = "N")]
    pub(crate) cpu: Option<usize>,

    /// The `ipvlan` program that makes our devices; default: beside this one
    #[arg(long, value_name = "PATH")]
    ipvlan: Option<PathBuf>,

    /// Write everything, every round included, to FILE
    #[arg(long, value_name = "FILE")]
    pub(crate) json: Option<PathBuf>,

    /// Print Markdown instead of plain text
    #[arg(long)]
    pub(crate) markdown: bool,

    /// No progress on standard error
    #[arg(long, short)]
    pub(crate) quiet: bool,
}

impl Common {
    /// The `ipvlan` program: as told, else the sibling in target/release or target/debug.
    pub(crate) fn ipvlan(&self) -> PathBuf {
        self.ipvlan.clone().unwrap_or_else(|| {
            std::env::current_exe()
                .map_or_else(|_| "ipvlan".into(), |me| me.with_file_name("ipvlan"))
        })
    }
}

/// The measurements that are not of a frame's way.
#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    Many(Many),
}

const MANY_EXAMPLES: &str = "\
Examples:
  ipvlan-bench many                           200 devices, 3 rounds
  ipvlan-bench many --devices 20 --rounds 5
  ipvlan-bench many --json now.json --markdown >> docs/performance.md

Reading the tables:
  A figure is the median of the rounds, with the lowest and the highest. Lower is better. CPU time
  of an ARP request is the sending thread's plus that of the kernel's own threads (kworker,
  ksoftirqd), because macvlan hands each broadcast to one. N/2 is what many devices cost more.

Exit status: 0 all measured, and every device answered ARP and ping; 1 something did not (named in
  the report); 2 usage; 130 interrupted. The namespaces are removed in every case.";

/// Many devices on one parent: making and deleting them, reaching them, and what ARP costs then.
///
/// N devices in N namespaces, by `ipvlan link add` in mode l2 and by macvlan in bridge mode, in
/// turns. Needs root; touches nothing that exists.
#[derive(Debug, clap::Args)]
#[command(after_long_help = MANY_EXAMPLES)]
pub(crate) struct Many {
    /// How many devices on the parent. The bound is the kernel's neighbour table, which all
    /// namespaces share: 1024 entries, one for each device of either kind
    #[arg(long, value_name = "N", default_value_t = 200, value_parser = clap::value_parser!(u16).range(2..=400))]
    pub(crate) devices: u16,

    /// How often everything is done; the report takes the median
    #[arg(long, value_name = "N", default_value_t = 3, value_parser = clap::value_parser!(u32).range(1..=100))]
    pub(crate) rounds: u32,

    /// Length of one measurement of ARP in milliseconds, without its warm-up
    #[arg(long, value_name = "PER_CELL", default_value_t = 200, value_parser = clap::value_parser!(u64).range(1..=60_000))]
    ms: u64,

    #[command(flatten)]
    pub(crate) common: Common,
}

impl Many {
    pub(crate) fn per_cell(&self) -> Duration {
        Duration::from_millis(self.ms)
    }
}

/// Which time is divided by the number of operations.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Clock {
    /// CPU time of the measuring thread, plus that of its CPU's ksoftirqd
    Cpu,
    /// Elapsed time: for a virtual machine whose clock counts instructions (QEMU's -icount)
    Wall,
}

impl Args {
    pub(crate) fn topologies(&self) -> Vec<Topology> {
        self.topo
            .as_ref()
            .map_or_else(|| ALL.to_vec(), |asked| chosen(&ALL, asked))
    }

    pub(crate) fn paths(&self) -> Vec<Path> {
        self.path.as_ref().map_or_else(
            || Path::value_variants().to_vec(),
            |a| chosen(Path::value_variants(), a),
        )
    }

    pub(crate) fn works(&self) -> Vec<Work> {
        self.work.as_ref().map_or_else(
            || Work::value_variants().to_vec(),
            |a| chosen(Work::value_variants(), a),
        )
    }

    /// Whether the user named this topology, so that its absence is a failure.
    pub(crate) fn asked_for(&self, topology: Topology) -> bool {
        self.topo
            .as_ref()
            .is_some_and(|asked| asked.contains(&topology))
    }

    pub(crate) fn family(&self) -> Family {
        if self.ipv6 { Family::V6 } else { Family::V4 }
    }

    pub(crate) fn per_cell(&self) -> Duration {
        Duration::from_millis(self.ms)
    }
}

/// In the tables' order and once each, however they were asked for.
fn chosen<T: Copy + PartialEq>(all: &[T], asked: &[T]) -> Vec<T> {
    all.iter()
        .copied()
        .filter(|one| asked.contains(one))
        .collect()
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;

    #[test]
    fn the_command_line_is_well_formed() {
        Args::command().debug_assert();
    }

    #[test]
    fn a_list_is_taken_in_the_tables_order_and_once() {
        let args = Args::try_parse_from(["b", "--topo", "direct,macvlan,direct"]).unwrap();
        assert_eq!(args.topologies(), [Topology::Macvlan, Topology::Direct]);
        assert!(args.asked_for(Topology::Direct));
        assert!(!args.asked_for(Topology::IpvlanL2));
    }

    #[test]
    fn the_two_measurements_do_not_mix() {
        let args = Args::try_parse_from(["b", "many", "--devices", "20"]).unwrap();
        assert!(matches!(args.command, Some(Command::Many(many)) if many.devices == 20));
        assert!(Args::try_parse_from(["b", "--ipv6", "many"]).is_err());
        assert!(Args::try_parse_from(["b", "many", "--devices", "1"]).is_err());
        assert!(
            Args::try_parse_from(["b", "--rounds", "1"])
                .unwrap()
                .command
                .is_none()
        );
    }
}
