//! The referee's table: a line per case, a column per implementation.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;

use super::answer::{Answer, Backend, Outcome};
use super::cases::{Case, NOT_COMPARED};

/// An implementation: what makes the devices, and under which kernel.
pub(super) struct Column {
    pub(super) kernel: String,
    pub(super) backend: Backend,
    answers: BTreeMap<Case, Outcome>,
}

/// All of it.
pub(super) struct Table {
    cases: Vec<Case>,
    columns: Vec<Column>,
    /// The rows of `docs/kernel-differences.md` that a case named.
    rows: BTreeMap<Case, BTreeSet<String>>,
}

impl Table {
    pub(super) fn new(cases: Vec<Case>) -> Self {
        Self {
            cases,
            columns: Vec::new(),
            rows: BTreeMap::new(),
        }
    }

    /// Adds an implementation's column, of those answers that are its own.
    pub(super) fn column(&mut self, kernel: &str, backend: Backend, answers: &[Answer]) {
        let mut column = Column {
            kernel: kernel.into(),
            backend,
            answers: BTreeMap::new(),
        };
        for answer in answers.iter().filter(|answer| answer.backend == backend) {
            let case = answer.case.clone();
            let rows = self.rows.entry(case.clone()).or_default();
            rows.extend(answer.rows.iter().cloned());
            let _: Option<Outcome> = column.answers.insert(case, answer.outcome);
        }
        self.columns.push(column);
    }

    /// A case that one implementation does not answer is one that has failed.
    fn outcome(column: &Column, case: &Case) -> Outcome {
        let outcome = column.answers.get(case);
        outcome.copied().unwrap_or(Outcome::NoAnswer)
    }

    fn well(&self, case: &Case) -> bool {
        let mut columns = self.columns.iter();
        columns.all(|column| Self::outcome(column, case).is_well())
    }

    fn explained(&self, case: &Case) -> bool {
        self.rows.get(case).is_some_and(|rows| !rows.is_empty())
    }

    /// The cells that are not `ok`.
    pub(super) fn failures(&self) -> impl Iterator<Item = (&Column, &Case, Outcome)> {
        self.cases.iter().flat_map(move |case| {
            let cells = self.columns.iter().map(move |column| {
                let outcome = Self::outcome(column, case);
                (column, case, outcome)
            });
            cells.filter(|(_, _, outcome)| !outcome.is_well())
        })
    }

    /// The lines, in columns; without those that are all well, if so asked.
    pub(super) fn text(&self, only_failures: bool) -> String {
        let head = self
            .columns
            .iter()
            .map(|column| format!("{} {}", column.kernel, column.backend.name()));
        let mut lines = vec![vec!["case".to_owned()]];
        lines[0].extend(head);
        lines[0].push("differences".into());
        for case in &self.cases {
            if only_failures && self.well(case) {
                continue;
            }
            let mut line = vec![case.name()];
            let cells = self.columns.iter();
            line.extend(cells.map(|column| Self::outcome(column, case).name().to_owned()));
            let rows = self.rows.get(case).into_iter().flatten();
            line.push(rows.cloned().collect::<Vec<_>>().join(", "));
            lines.push(line);
        }
        if lines.len() == 1 {
            return String::new();
        }
        aligned(&lines)
    }

    /// What is not in the table, and why.
    pub(super) fn foot() -> String {
        let mut text =
            String::from("differences: rows of docs/kernel-differences.md\nnot compared:\n");
        for (file, why) in NOT_COMPARED {
            let _: std::fmt::Result = writeln!(text, "  {file}: {why}");
        }
        text
    }

    /// One line: how many cases, and how they ended.
    pub(super) fn summary(&self) -> String {
        let failed = self.cases.iter().filter(|case| !self.well(case)).count();
        let well = self.cases.iter().filter(|case| self.well(case));
        let (explained, same): (Vec<&Case>, Vec<_>) = well.partition(|case| self.explained(case));
        let second = self
            .columns
            .iter()
            .flat_map(|column| column.answers.values());
        let second = second
            .filter(|outcome| **outcome == Outcome::Second)
            .count();
        format!(
            "{} cases: {} the same, {} different with a reason, {failed} failed; {} of {} cells \
             are not ok, {second} were at the second try",
            self.cases.len(),
            same.len(),
            explained.len(),
            self.failures().count(),
            self.cases.len() * self.columns.len()
        )
    }
}

fn aligned(lines: &[Vec<String>]) -> String {
    let columns = lines.iter().map(Vec::len).max().unwrap_or(0);
    let width = |column: usize| {
        let cells = lines.iter().filter_map(|line| line.get(column));
        cells.map(|cell| cell.chars().count()).max().unwrap_or(0)
    };
    let widths: Vec<usize> = (0..columns).map(width).collect();
    let mut text = String::new();
    for line in lines {
        let cells = line.iter().zip(&widths);
        let cells = cells.map(|(cell, width)| format!("{cell:width$}"));
        let line = cells.collect::<Vec<_>>().join("  ");
        text.push_str(line.trim_end());
        text.push('\n');
    }
    text
}

#[cfg(test)]
mod tests {
    use super::{Answer, Backend, Case, Outcome, Table};

    fn table() -> Table {
        let case = |name| Case::parse(name).unwrap();
        let answer = |backend, name, outcome, rows: &[&str]| Answer {
            backend,
            case: case(name),
            outcome,
            seconds: 0.1,
            rows: rows.iter().map(|&row| row.into()).collect(),
        };
        let answers = [
            answer(Backend::Ours, "a::same", Outcome::Ok, &[]),
            answer(Backend::Driver, "a::same", Outcome::Ok, &[]),
            answer(Backend::Ours, "a::other", Outcome::Ok, &["veth", "follow"]),
            answer(Backend::Driver, "a::other", Outcome::Ok, &["veth"]),
            answer(Backend::Ours, "b::one", Outcome::Ok, &[]),
            answer(Backend::Ours, "b::two", Outcome::Failed, &[]),
            answer(Backend::Driver, "b::two", Outcome::Ok, &[]),
        ];
        let mut table = Table::new(["a::other", "a::same", "b::one", "b::two"].map(case).into());
        for backend in [Backend::Driver, Backend::Ours] {
            table.column("6.12", backend, &answers);
        }
        table
    }

    #[test]
    fn a_line_has_a_case_and_what_each_implementation_says() {
        assert_eq!(
            table().text(false),
            "case      6.12 driver  6.12 ours  differences\n\
             a::other  ok           ok         follow, veth\n\
             a::same   ok           ok\n\
             b::one    no answer    ok\n\
             b::two    ok           FAILED\n"
        );
        assert_eq!(
            table().text(true),
            "case    6.12 driver  6.12 ours  differences\n\
             b::one  no answer    ok\n\
             b::two  ok           FAILED\n"
        );
    }

    #[test]
    fn the_same_is_what_passes_everywhere_without_a_reason() {
        assert_eq!(
            table().summary(),
            "4 cases: 1 the same, 1 different with a reason, 2 failed; 2 of 8 cells are not ok, 0 were at the second try"
        );
    }

    #[test]
    fn a_case_that_one_implementation_does_not_answer_has_failed() {
        let table = table();
        let failures: Vec<_> = table
            .failures()
            .map(|(column, case, outcome)| (column.backend, case.name(), outcome))
            .collect();
        assert_eq!(
            failures,
            [
                (Backend::Driver, "b::one".into(), Outcome::NoAnswer),
                (Backend::Ours, "b::two".into(), Outcome::Failed),
            ]
        );
    }
}
