//! What was done, and what was found.

use std::collections::{BTreeMap, VecDeque};
use std::fmt::Write as _;
use std::time::Duration;

use crate::model::Time;
use crate::payload::Kind;

/// Operations that a finding is shown with.
const BEFORE: usize = 12;
/// Findings that are told in full.
const TOLD: usize = 20;

/// Something that should not be.
#[derive(Clone, Debug)]
struct Finding {
    when: Time,
    what: String,
    /// The last operations before it.
    before: Vec<String>,
    /// How often it was found again.
    again: u64,
}

/// Everything that is counted.
#[derive(Debug, Default)]
pub(crate) struct Report {
    /// By kind: done, void, killed.
    ops: BTreeMap<&'static str, [u64; 3]>,
    sent: BTreeMap<Kind, u64>,
    received: BTreeMap<Kind, u64>,
    checks: BTreeMap<&'static str, u64>,
    last: VecDeque<String>,
    findings: Vec<Finding>,
    /// Beyond those that are told.
    more: u64,
    /// The longest time from the end of a burst until everything was reachable.
    longest: Duration,
    settled: u64,
    agents: Agents,
}

/// What the agents used.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Agents {
    pub(crate) started: u64,
    pub(crate) killed: u64,
    /// Most of each, over all agents: descriptors, resident KiB.
    pub(crate) descriptors: u64,
    pub(crate) resident: u64,
    /// How often they woke up, as far as was seen.
    pub(crate) wakeups: u64,
}

/// What became of an operation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Fate {
    Done,
    /// There was nothing to do it to.
    Void,
    Killed,
}

impl Report {
    /// An operation starts.
    pub(crate) fn starts(&mut self, when: Time, op: &str) {
        self.last.push_back(format!("{} {op}", clock(when)));
        if self.last.len() > BEFORE {
            let _: Option<String> = self.last.pop_front();
        }
    }

    pub(crate) fn op(&mut self, kind: &'static str, fate: Fate) {
        let counts = self.ops.entry(kind).or_default();
        let index = match fate {
            Fate::Done => 0,
            Fate::Void => 1,
            Fate::Killed => 2,
        };
        counts[index] += 1;
    }

    pub(crate) fn sent(&mut self, kind: Kind) {
        *self.sent.entry(kind).or_default() += 1;
    }

    pub(crate) fn received(&mut self, kind: Kind) {
        *self.received.entry(kind).or_default() += 1;
    }

    pub(crate) fn checked(&mut self, what: &'static str, count: u64) {
        *self.checks.entry(what).or_default() += count;
    }

    pub(crate) fn settled(&mut self, after: Duration) {
        self.settled += 1;
        self.longest = self.longest.max(after);
    }

    pub(crate) fn agents(&mut self) -> &mut Agents {
        &mut self.agents
    }

    /// Says so at once. The same once more (the first line of `what` is) is only counted.
    pub(crate) fn found(&mut self, when: Time, what: String) {
        let first = what.lines().next();
        let known = self
            .findings
            .iter_mut()
            .find(|known| known.what.lines().next() == first);
        if let Some(known) = known {
            known.again += 1;
            return;
        }
        if self.findings.len() >= TOLD {
            self.more += 1;
            return;
        }
        let finding = Finding {
            when,
            what,
            before: self.last.iter().cloned().collect(),
            again: 0,
        };
        println!("FOUND at {}: {}", clock(when), finding.what);
        for line in &finding.before {
            println!("        after {line}");
        }
        self.findings.push(finding);
    }

    pub(crate) fn findings(&self) -> u64 {
        u64::try_from(self.findings.len()).unwrap_or(u64::MAX) + self.more
    }

    /// One line.
    pub(crate) fn line(&self, when: Time) -> String {
        let ops: u64 = self.ops.values().flatten().sum();
        let killed: u64 = self.ops.values().map(|[_, _, killed]| killed).sum();
        format!(
            "{}  {ops} operations, {killed} calls and {} agents killed, {} payloads sent, {} heard, \
             {} checks, {} findings",
            clock(when),
            self.agents.killed,
            self.sent.values().sum::<u64>(),
            self.received.values().sum::<u64>(),
            self.checks.values().sum::<u64>(),
            self.findings()
        )
    }

    /// All figures.
    pub(crate) fn text(&self, seed: u64, took: Time) -> String {
        let mut text = format!("\nseed {seed}, {}\n\n", clock(took));
        let mut line = |line: String| {
            text.push_str(&line);
            text.push('\n');
        };
        line(format!(
            "{:16} {:>8} {:>8} {:>8}",
            "operation", "done", "void", "killed"
        ));
        for (kind, [done, void, killed]) in &self.ops {
            line(format!("{kind:16} {done:>8} {void:>8} {killed:>8}"));
        }
        line(format!("\n{:16} {:>8} {:>8}", "payload", "sent", "heard"));
        for kind in self
            .sent
            .keys()
            .chain(self.received.keys())
            .collect::<std::collections::BTreeSet<_>>()
        {
            let of = |counts: &BTreeMap<Kind, u64>| counts.get(kind).copied().unwrap_or_default();
            line(format!(
                "{:16} {:>8} {:>8}",
                kind.word(),
                of(&self.sent),
                of(&self.received)
            ));
        }
        line(format!("\n{:16} {:>8}", "check", "made"));
        for (what, count) in &self.checks {
            line(format!("{what:16} {count:>8}"));
        }
        let Agents {
            started,
            killed,
            descriptors,
            resident,
            wakeups,
        } = self.agents;
        line(format!(
            "\nagents: {started} started, {killed} killed; woke up {wakeups} times; at most {descriptors} \
             descriptors and {resident} KiB"
        ));
        line(format!(
            "settled {} times; all reachable again after {:.2} s at the longest",
            self.settled,
            self.longest.as_secs_f64()
        ));
        line(format!("findings: {}", self.findings()));
        for finding in &self.findings {
            let Finding {
                when, what, again, ..
            } = finding;
            line(format!(
                "  {} {what} (and {again} times more)",
                clock(*when)
            ));
        }
        if self.more > 0 {
            let _: std::fmt::Result = writeln!(text, "  and {} more", self.more);
        }
        text
    }
}

fn clock(time: Time) -> String {
    format!("{:7.2} s", time.as_secs_f64())
}
