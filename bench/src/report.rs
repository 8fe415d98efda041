//! Tables and JSON out of samples.

use std::fmt::Write;
use std::fs;

use clap::ValueEnum;
use serde_json::{Value, json};

use crate::ALL;
use crate::args::Clock;
use crate::measure::{Key, Plan, Run, Sample, median};
use crate::publish::{Publish, with_notes};
use crate::topology::{Path, Topology};
use crate::work::Work;

/// From this share of the elapsed time on, something was charged to nobody we look at.
const UNSEEN_MAX: f64 = 0.15;

#[derive(Debug)]
pub(crate) struct Report<'a> {
    plan: &'a Plan,
    run: &'a Run,
    machine: String,
    has_driver: bool,
}

/// A topology over all rounds, for one path and workload.
#[derive(Debug)]
struct Figure {
    median: f64,
    min: f64,
    max: f64,
    bridge: Option<f64>,
    driver: Option<f64>,
}

impl<'a> Report<'a> {
    pub(crate) fn new(plan: &'a Plan, run: &'a Run) -> Self {
        let has_driver = run.samples.keys().any(|(topology, ..)| {
            matches!(
                topology,
                Topology::DriverL2 | Topology::DriverL3 | Topology::DriverL3s
            )
        });
        Self {
            plan,
            run,
            machine: machine(),
            has_driver,
        }
    }

    fn figure(&self, key: Key) -> Option<Figure> {
        let (topology, path, work) = key;
        let samples = self.run.samples.get(&key)?;
        let mut us = samples.iter().map(|sample| sample.us).collect::<Vec<_>>();
        let ratio = |base: Topology| ratio(samples, self.run.samples.get(&(base, path, work))?);
        Some(Figure {
            median: median(&mut us),
            min: *us.first()?,
            max: *us.last()?,
            bridge: ratio(Topology::VethBridge),
            driver: topology.driver().and_then(ratio),
        })
    }

    /// The topologies that have a figure for this workload.
    fn rows(&self, work: Work) -> Vec<Topology> {
        let has = |t: &Topology| {
            self.plan
                .paths
                .iter()
                .any(|&path| self.run.samples.contains_key(&(*t, path, work)))
        };
        ALL.into_iter().filter(has).collect()
    }

    fn conditions(&self) -> String {
        let Plan {
            rounds,
            per_cell,
            cpu,
            family,
            clock,
            ..
        } = self.plan;
        let clock = match clock {
            Clock::Cpu => "CPU time of the thread",
            Clock::Wall => "elapsed time",
        };
        format!(
            "{}; CPU {cpu}; {family}; {clock}; median of {rounds} rounds of {} ms",
            self.machine,
            per_cell.as_millis(),
        )
    }

    fn text_cell(&self, figure: Option<Figure>) -> String {
        let Some(Figure {
            median,
            min,
            max,
            bridge,
            driver,
        }) = figure
        else {
            let width = if self.has_driver { 29 } else { 22 };
            return format!("{:>7} {:width$}", "-", "");
        };
        let mut out = format!("{median:7.2} {min:7.2}..{max:<7.2} {:>6}", two(bridge));
        if self.has_driver {
            out += &format!(" {:>6}", two(driver));
        }
        out
    }

    fn markdown_cell(&self, figure: Option<Figure>) -> String {
        let Some(Figure {
            median,
            min,
            max,
            bridge,
            driver,
        }) = figure
        else {
            return "–".to_owned();
        };
        let mut out = format!("{median:.2} ({min:.2} to {max:.2})");
        if bridge.is_some() {
            out += &format!(" · **{}**", two(bridge));
        }
        if self.has_driver && driver.is_some() {
            out += &format!(" · {} drv", two(driver));
        }
        out
    }

    /// What a reader must know before believing the table.
    fn notes(&self) -> Vec<String> {
        let mut notes = Vec::new();
        for (topology, why) in &self.run.absent {
            notes.push(format!("absent: {topology}: {why}"));
        }
        for failure in &self.run.failures {
            notes.push(format!("FAILED: {failure}"));
        }
        let all = || self.run.samples.values().flatten();
        let unseen = median(&mut all().map(|sample| sample.unseen).collect::<Vec<_>>());
        if self.plan.clock == Clock::Cpu && unseen > UNSEEN_MAX {
            notes.push(format!(
                "careful: {:.0} % of the time was charged to nobody. Either a hypervisor took the \
                 CPU away, or the thread slept, or this kernel accounts for softirqs apart \
                 (CONFIG_IRQ_TIME_ACCOUNTING), and then the path is not in these figures: compare \
                 with --clock wall.",
                unseen * 100.0
            ));
        }
        let softirq = all().map(|sample| sample.ksoftirqd).fold(0.0, f64::max);
        if softirq > 0.02 {
            notes.push(format!(
                "ksoftirqd carried up to {:.0} % of a cell; its time is counted.",
                softirq * 100.0
            ));
        }
        notes
    }

    fn json_cell(&self, key: Key) -> Option<Value> {
        let (topology, path, work) = key;
        let samples = self.run.samples.get(&key)?;
        let figure = self.figure(key)?;
        Some(json!({
            "topology": topology.to_string(),
            "path": path.to_string(),
            "work": work.name(),
            "median": figure.median,
            "min": figure.min,
            "max": figure.max,
            "ratio_veth_bridge": figure.bridge,
            "ratio_driver": figure.driver,
            "rounds": samples.iter().map(|s| json!({
                "round": s.round + 1,
                "us": s.us,
                "ops": s.ops,
                "unseen": s.unseen,
                "ksoftirqd": s.ksoftirqd,
                "waits": s.waits,
            })).collect::<Vec<_>>(),
        }))
    }
}

impl Publish for Report<'_> {
    fn text(&self) -> String {
        let mut out = format!(
            "{}\nmicroseconds per operation, lower is better\n",
            self.conditions()
        );
        for &work in &self.plan.works {
            let _: Result<(), _> = write!(out, "\n{}\n{:12}", work.about(), "");
            for path in &self.plan.paths {
                let width = if self.has_driver { 37 } else { 30 };
                let _: Result<(), _> = write!(out, " | {:width$}", path.about());
            }
            out.truncate(out.trim_end().len());
            let _: Result<(), _> = write!(out, "\n{:12}", "");
            for _ in &self.plan.paths {
                let _: Result<(), _> =
                    write!(out, " | {:>7} {:>7}..{:7} bridge", "median", "min", "max");
                out += if self.has_driver { " driver" } else { "" };
            }
            out.push('\n');
            for topology in self.rows(work) {
                let _: Result<(), _> = write!(out, "{topology:12}");
                for &path in &self.plan.paths {
                    out += " | ";
                    out += &self.text_cell(self.figure((topology, path, work)));
                }
                out.truncate(out.trim_end().len());
                out.push('\n');
            }
        }
        with_notes(out, "", &self.notes())
    }

    fn markdown(&self) -> String {
        let mut out = format!(
            "{}. Microseconds per operation, lower is better: median (min to max), ratio to \
             veth-bridge{}.\n",
            self.conditions(),
            if self.has_driver {
                ", ratio to the driver in the same mode"
            } else {
                ""
            },
        );
        for &work in &self.plan.works {
            let _: Result<(), _> = write!(out, "\n| {} |", work.about());
            for path in &self.plan.paths {
                let _: Result<(), _> = write!(out, " {} |", path.about().replace("->", "→"));
            }
            out += "\n|---|";
            out += &"---|".repeat(self.plan.paths.len());
            out.push('\n');
            for topology in self.rows(work) {
                let _: Result<(), _> = write!(out, "| {topology} |");
                for &path in &self.plan.paths {
                    let cell = self.figure((topology, path, work));
                    let _: Result<(), _> = write!(out, " {} |", self.markdown_cell(cell));
                }
                out.push('\n');
            }
        }
        with_notes(out, "* ", &self.notes())
    }

    fn json(&self) -> Value {
        let Plan {
            rounds,
            per_cell,
            cpu,
            family,
            clock,
            ..
        } = self.plan;
        let mut results = Vec::new();
        for &work in &self.plan.works {
            for &path in &self.plan.paths {
                for topology in self.rows(work) {
                    results.extend(self.json_cell((topology, path, work)));
                }
            }
        }
        let absent = self.run.absent.iter();
        json!({
            "version": env!("CARGO_PKG_VERSION"),
            "machine": self.machine,
            "clock": match clock { Clock::Cpu => "cpu", Clock::Wall => "wall" },
            "cpu": cpu,
            "family": family.to_string(),
            "rounds": rounds,
            "ms": u64::try_from(per_cell.as_millis()).unwrap_or(u64::MAX),
            "unit": "us/op",
            "results": results,
            "absent": absent.map(|(t, why)| json!({"topology": t.to_string(), "why": why}))
                .collect::<Vec<_>>(),
            "failures": self.run.failures,
        })
    }
}

/// The median of the rounds' own ratios: both were measured within the same second.
fn ratio(samples: &[Sample], base: &[Sample]) -> Option<f64> {
    let mut ratios = samples
        .iter()
        .filter_map(|sample| {
            let same = base.iter().find(|other| other.round == sample.round)?;
            Some(sample.us / same.us)
        })
        .collect::<Vec<_>>();
    if ratios.is_empty() {
        None
    } else {
        Some(median(&mut ratios))
    }
}

fn two(ratio: Option<f64>) -> String {
    ratio.map_or_else(|| "-".to_owned(), |ratio| format!("{ratio:.2}"))
}

/// Kernel and processor, in a line.
pub(crate) fn machine() -> String {
    let kernel = nix::sys::utsname::uname().map_or_else(
        |_| "?".to_owned(),
        |name| name.release().to_string_lossy().into_owned(),
    );
    let cpuinfo = fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let model = cpuinfo
        .lines()
        .find_map(|line| line.strip_prefix("model name")?.split_once(": "))
        .map_or("unknown processor", |(_, model)| model);
    format!("Linux {kernel}; {model}")
}

/// `--list`.
pub(crate) fn list() -> String {
    let mut out = String::from("topologies (--topo)\n");
    for topology in ALL {
        out += &format!("  {topology:12} {}\n", topology.about());
    }
    out += "\npaths (--path)\n";
    for path in Path::value_variants() {
        out += &format!("  {path:12} {}\n", path.about());
    }
    out += "\nworkloads (--work)\n";
    for work in Work::value_variants() {
        out += &format!("  {:12} {}\n", work.name(), work.about());
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sample(round: u32, us: f64) -> Sample {
        Sample {
            round,
            us,
            ops: 1,
            unseen: 0.0,
            ksoftirqd: 0.0,
            waits: 0,
        }
    }

    #[test]
    fn a_ratio_compares_the_same_round_only() {
        let ours = [sample(0, 9.0), sample(2, 90.0)];
        let base = [sample(0, 10.0), sample(1, 1.0), sample(2, 100.0)];
        let ratio = ratio(&ours, &base).unwrap();
        assert!(
            (ratio - 0.9).abs() < 1e-9,
            "a slow round is slow for both: {ratio}"
        );
    }

    #[test]
    fn without_a_common_round_there_is_no_ratio() {
        assert_eq!(ratio(&[sample(0, 9.0)], &[sample(1, 1.0)]), None);
    }
}
