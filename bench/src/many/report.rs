//! Tables and JSON out of rounds. Both tables are the same rows, drawn differently.

use std::fmt::Write;

use serde_json::{Value, json};

use crate::many::arp::{self, Sample, Whom};
use crate::many::changes::Changes;
use crate::many::life::{Life, Series};
use crate::many::net::Kind;
use crate::many::{FEW, Plan, Run};
use crate::measure::median;
use crate::publish::{Publish, with_notes};
use crate::report::machine;

#[derive(Debug)]
pub(super) struct Report<'a> {
    plan: &'a Plan,
    run: &'a Run,
    machine: String,
}

struct Table {
    title: String,
    columns: Vec<String>,
    rows: Vec<(String, Vec<String>)>,
}

/// One figure in each round.
#[derive(Debug, Default)]
struct Rounds(Vec<(u32, f64)>);

impl Rounds {
    fn median(&self) -> f64 {
        median(&mut self.values())
    }

    fn values(&self) -> Vec<f64> {
        self.0.iter().map(|&(_, value)| value).collect()
    }

    /// The median of the rounds' own ratios.
    fn ratio(&self, base: &Self) -> f64 {
        let ratio = |&(round, value): &(u32, f64)| {
            let same = base.0.iter().find(|(other, _)| *other == round)?;
            Some(value / same.1)
        };
        median(&mut self.0.iter().filter_map(ratio).collect::<Vec<_>>())
    }

    /// Median and range, as precise as makes sense.
    fn text(&self) -> String {
        let mut values = self.values();
        let middle = median(&mut values);
        match (values.first(), values.last()) {
            (Some(low), Some(high)) if values.len() > 1 => {
                format!("{} ({}..{})", short(middle), short(*low), short(*high))
            }
            (Some(_), Some(_)) => short(middle),
            _ => "-".to_owned(),
        }
    }
}

fn short(value: f64) -> String {
    match value {
        _ if value.is_nan() => "-".to_owned(),
        _ if value < 9.995 => format!("{value:.2}"),
        _ if value < 99.95 => format!("{value:.1}"),
        _ => format!("{value:.0}"),
    }
}

fn two(ratio: f64) -> String {
    if ratio.is_nan() {
        "-".to_owned()
    } else {
        format!("{ratio:.2}")
    }
}

/// One line of the first tables: what it is, and how to get it from a round.
type Line = (&'static str, fn(&Life) -> Option<f64>);

/// The same of the ARP tables.
type Part = (&'static str, fn(&Sample) -> f64);

const CREATED: [Line; 6] = [
    ("all of them", |life| Some(life.created.wall)),
    ("the first", |life| life.created.each.first().copied()),
    ("median", |life| Some(middle(&life.created.each))),
    ("median of the last tenth", |life| {
        Some(middle(last_tenth(&life.created.each)))
    }),
    ("CPU time each, processes", |life| {
        each(life, life.created.processes)
    }),
    ("CPU time each, agent", |life| {
        each(life, life.created.agent?)
    }),
];

const FOLLOWED: [Line; 4] = [
    ("median", |life| Some(middle(&life.followed.each))),
    ("95 of 100 within", |life| highest(&life.followed.each, 95)),
    ("longest", |life| highest(&life.followed.each, 100)),
    ("CPU time each, agent", |life| {
        each(life, life.followed.agent?)
    }),
];

const CHANGED: [Line; 6] = [
    ("added", |life| middle_of(&changed(life)?.added)),
    ("removed", |life| middle_of(&changed(life)?.removed)),
    ("device down", |life| middle_of(&changed(life)?.down)),
    ("device up", |life| middle_of(&changed(life)?.up)),
    ("device moved away", |life| middle_of(&changed(life)?.moved)),
    ("longest of all", |life| {
        let Changes {
            added,
            removed,
            down,
            up,
            moved,
        } = changed(life)?;
        highest(
            &[added, removed, down, up, moved]
                .map(Vec::as_slice)
                .concat(),
            100,
        )
    }),
];

fn changed(life: &Life) -> Option<&Changes> {
    life.changed.as_ref()
}

fn middle_of(values: &[f64]) -> Option<f64> {
    Some(middle(values))
}

const DELETED: [Line; 6] = [
    ("all of them", |life| Some(deleted(life)?.wall)),
    ("median", |life| Some(middle(&deleted(life)?.each))),
    ("median of the last tenth", |life| {
        Some(middle(last_tenth(&deleted(life)?.each)))
    }),
    ("CPU time each, processes", |life| {
        each(life, deleted(life)?.processes)
    }),
    ("CPU time each, agent", |life| {
        each(life, deleted(life)?.agent?)
    }),
    ("then until nothing is left", |life| {
        life.deleted.as_ref()?.left
    }),
];

fn deleted(life: &Life) -> Option<&Series> {
    life.deleted.as_ref().map(|deleted| &deleted.series)
}

fn middle(values: &[f64]) -> f64 {
    median(&mut values.to_vec())
}

fn last_tenth(values: &[f64]) -> &[f64] {
    let first = values.len() - values.len().div_ceil(10);
    values.get(first..).unwrap_or_default()
}

/// The value that so many of 100 do not exceed.
fn highest(values: &[f64], percent: usize) -> Option<f64> {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    let index = (sorted.len() * percent).div_ceil(100).checked_sub(1)?;
    sorted.get(index).copied()
}

fn each(life: &Life, all: f64) -> Option<f64> {
    Some(all / f64::from(u32::try_from(life.devices).ok()?))
}

impl<'a> Report<'a> {
    pub(super) fn new(plan: &'a Plan, run: &'a Run) -> Self {
        Self {
            plan,
            run,
            machine: machine(),
        }
    }

    fn conditions(&self) -> String {
        let Plan {
            devices,
            rounds,
            per_cell,
            cpu,
            ..
        } = self.plan;
        format!(
            "{}; {devices} devices on one parent; median (lowest..highest) of {rounds} rounds; \
             ARP on CPU {cpu}, {} ms each",
            self.machine,
            per_cell.as_millis()
        )
    }

    /// Of one kind, in the order of rounds.
    fn rounds(&self, kind: Kind, of: fn(&Life) -> Option<f64>) -> Rounds {
        let lives = self.run.lives.iter().filter(|life| life.kind == kind);
        Rounds(
            lives
                .filter_map(|life| Some((life.round, of(life)?)))
                .collect(),
        )
    }

    fn cells(&self, kind: Kind, whom: Whom, few: bool, of: fn(&Sample) -> f64) -> Rounds {
        let samples = self.run.samples.iter();
        let mine = samples.filter(|s| s.kind == kind && s.whom == whom && s.few == few);
        Rounds(mine.map(|sample| (sample.round, of(sample))).collect())
    }

    fn life_table(&self, title: &str, lines: &[Line]) -> Table {
        let mut columns: Vec<String> = Kind::ALL.iter().map(ToString::to_string).collect();
        columns.push("ratio".to_owned());
        let row = |&(label, of): &Line| {
            let [ours, theirs] = Kind::ALL.map(|kind| self.rounds(kind, of));
            let figures = vec![ours.text(), theirs.text(), two(ours.ratio(&theirs))];
            (label.to_owned(), figures)
        };
        Table {
            title: title.to_owned(),
            columns,
            rows: lines.iter().map(row).collect(),
        }
    }

    fn reach_table(&self) -> Table {
        let all = self.plan.devices;
        let worst = |kind: Kind, of: fn(&Life) -> usize| {
            let lives = self.run.lives.iter().filter(|life| life.kind == kind);
            lives
                .map(of)
                .min()
                .map_or_else(|| "-".to_owned(), |found| format!("{found} of {all}"))
        };
        let row = |label: &str, of: fn(&Life) -> usize| {
            let figures = Kind::ALL.map(|kind| worst(kind, of)).to_vec();
            (label.to_owned(), figures)
        };
        Table {
            title: "Reached from the LAN, in the worst round".to_owned(),
            columns: Kind::ALL.iter().map(ToString::to_string).collect(),
            rows: vec![row("ARP", |life| life.arp), row("ping", |life| life.ping)],
        }
    }

    fn arp_table(&self, whom: Whom) -> Table {
        const PARTS: [Part; 3] = [
            ("", Sample::both),
            (", thread", |sample| sample.thread),
            (", kernel threads", |sample| sample.kernel),
        ];
        let mut rows = Vec::new();
        for kind in Kind::ALL {
            for (part, of) in PARTS {
                let [few, many] = [true, false].map(|few| self.cells(kind, whom, few, of));
                // A ratio of next to nothing says nothing.
                let tells = few.median() >= 0.1;
                let ratio = if tells { many.ratio(&few) } else { f64::NAN };
                rows.push((
                    format!("{kind}{part}"),
                    vec![few.text(), many.text(), two(ratio)],
                ));
            }
        }
        let devices = self.plan.devices;
        Table {
            title: format!("ARP request from the LAN {}, CPU µs", whom.about()),
            columns: vec![
                format!("{FEW} devices"),
                format!("{devices} devices"),
                format!("{devices}/{FEW}"),
            ],
            rows,
        }
    }

    fn tables(&self) -> Vec<Table> {
        let mut tables = vec![
            self.life_table("Creation, ms", &CREATED),
            self.life_table("From an address to its answer to ARP, ms", &FOLLOWED),
            self.life_table("From a change to another owner's answer, ms", &CHANGED),
            self.reach_table(),
        ];
        tables.extend(Whom::ALL.map(|whom| self.arp_table(whom)));
        tables.push(self.life_table("Deletion, ms", &DELETED));
        tables
    }

    /// What a reader must know before believing the tables.
    fn notes(&self) -> Vec<String> {
        let mut notes = Vec::new();
        for absent in &self.run.absent {
            notes.push(format!("absent: {absent}"));
        }
        for failure in &self.run.failures {
            notes.push(format!("FAILED: {failure}"));
        }
        let lost: u32 = self.run.samples.iter().map(|sample| sample.lost).sum();
        if lost > 0 {
            notes.push(format!("{lost} ARP requests were not answered in time."));
        }
        if !arp::sees_kernel_threads() {
            notes.push(
                "careful: this process cannot see the kernel's threads, and their time is not in \
                 the figures; macvlan's is mostly theirs."
                    .to_owned(),
            );
        }
        notes
    }
}

impl Publish for Report<'_> {
    fn text(&self) -> String {
        let mut out = format!("{}\n", self.conditions());
        for table in self.tables() {
            let _: Result<(), _> = write!(out, "\n{:46}", table.title);
            for column in &table.columns {
                let _: Result<(), _> = write!(out, " {column:>22}");
            }
            out.push('\n');
            for (label, figures) in &table.rows {
                let _: Result<(), _> = write!(out, "  {label:44}");
                for figure in figures {
                    let _: Result<(), _> = write!(out, " {figure:>22}");
                }
                out.push('\n');
            }
        }
        with_notes(out, "", &self.notes())
    }

    fn markdown(&self) -> String {
        let mut out = format!("{}.\n", self.conditions());
        for table in self.tables() {
            let _: Result<(), _> = writeln!(
                out,
                "\n| {} | {} |\n|---|{}",
                table.title,
                table.columns.join(" | "),
                "---:|".repeat(table.columns.len())
            );
            for (label, figures) in &table.rows {
                let _: Result<(), _> = writeln!(out, "| {label} | {} |", figures.join(" | "));
            }
        }
        with_notes(out, "* ", &self.notes())
    }

    fn json(&self) -> Value {
        let series = |series: &Series| {
            json!({
                "each": series.each,
                "wall": series.wall,
                "cpu_processes": series.processes,
                "cpu_agent": series.agent,
            })
        };
        let lives = self.run.lives.iter().map(|life| {
            json!({
                "kind": life.kind.to_string(),
                "round": life.round + 1,
                "created": series(&life.created),
                "address_to_arp": series(&life.followed),
                "change_to_arp": life.changed.as_ref().map(|changed| json!({
                    "added": changed.added,
                    "removed": changed.removed,
                    "down": changed.down,
                    "up": changed.up,
                    "moved": changed.moved,
                })),
                "reached": {"arp": life.arp, "ping": life.ping},
                "deleted": life.deleted.as_ref().map(|deleted| series(&deleted.series)),
                "until_nothing_left": life.deleted.as_ref().and_then(|deleted| deleted.left),
            })
        });
        let samples = self.run.samples.iter().map(|sample| {
            json!({
                "kind": sample.kind.to_string(),
                "devices": sample.devices,
                "whom": sample.whom.about(),
                "round": sample.round + 1,
                "us": sample.both(),
                "us_thread": sample.thread,
                "us_kernel_threads": sample.kernel,
                "ops": sample.ops,
                "waits": sample.waits,
                "lost": sample.lost,
            })
        });
        let tables = self.tables().into_iter().map(|table| {
            let rows = table
                .rows
                .iter()
                .map(|(label, figures)| json!({"label": label, "figures": figures}));
            json!({
                "title": table.title,
                "columns": table.columns,
                "rows": rows.collect::<Vec<_>>(),
            })
        });
        json!({
            "version": env!("CARGO_PKG_VERSION"),
            "machine": self.machine,
            "devices": self.plan.devices,
            "rounds": self.plan.rounds,
            "ms": u64::try_from(self.plan.per_cell.as_millis()).unwrap_or(u64::MAX),
            "cpu": self.plan.cpu,
            "unit": {"lives": "ms", "arp": "us/request"},
            "tables": tables.collect::<Vec<_>>(),
            "lives": lives.collect::<Vec<_>>(),
            "arp": samples.collect::<Vec<_>>(),
            "absent": self.run.absent,
            "failures": self.run.failures,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_ratio_compares_the_same_round_only() {
        let ours = Rounds(vec![(0, 9.0), (2, 90.0)]);
        let theirs = Rounds(vec![(0, 10.0), (1, 1.0), (2, 100.0)]);
        assert!((ours.ratio(&theirs) - 0.9).abs() < 1e-9);
        assert!(ours.ratio(&Rounds::default()).is_nan());
    }

    #[test]
    fn the_last_tenth_and_the_highest_are_of_few_values_too() {
        assert!(last_tenth(&[]).is_empty());
        assert_eq!(last_tenth(&[1.0, 2.0]), [2.0]);
        assert_eq!(highest(&[3.0, 1.0, 2.0], 95), Some(3.0));
        assert_eq!(highest(&[], 95), None);
        let hundred: Vec<f64> = (1..=100).map(f64::from).collect();
        assert_eq!(highest(&hundred, 95), Some(95.0));
        assert_eq!(last_tenth(&hundred).len(), 10);
    }

    #[test]
    fn figures_are_as_long_as_they_are_precise() {
        assert_eq!(short(1.234), "1.23");
        assert_eq!(short(12.34), "12.3");
        assert_eq!(short(1234.4), "1234");
        assert_eq!(Rounds::default().text(), "-");
        assert_eq!(Rounds(vec![(0, 2.0)]).text(), "2.00");
        assert_eq!(Rounds(vec![(0, 2.0), (1, 4.0)]).text(), "3.00 (2.00..4.00)");
    }
}
