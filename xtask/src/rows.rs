//! `docs/kernel-differences.md` and the tests belong together: what the one says, the other shows.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;

use crate::run::{On, Result, fail, note};
use crate::workspace;

/// Rows that no test can show, and why.
const NOT_SHOWN: &[(&str, &str)] = &[
    (
        "broadcast-backlog",
        "wants a thousand devices, or a smaller limit, which is the whole machine's",
    ),
    (
        "follow",
        "who is first, a frame or the agent, is not the same twice; every test waits for it",
    ),
];

/// Every row is named by a test, and every name in a test is a row.
pub(crate) fn rows() -> Result {
    let root = workspace::root();
    let file = root.join("docs/kernel-differences.md");
    let page = fs::read_to_string(&file).on(&file)?;
    let folder = root.join("tests/tests");
    let mut tests = Vec::new();
    for entry in fs::read_dir(&folder).on(&folder)? {
        let mut text = String::new();
        read(&entry.on(&folder)?.path(), &mut text)?;
        tests.push(text);
    }
    let wrong = compare(&page, &tests, NOT_SHOWN);
    if wrong.is_empty() {
        let count = ids(&page).count();
        note(format!(
            "{count} differences from the driver, each named by a test"
        ));
        return Ok(());
    }
    Err(fail(wrong.join("\n       ")))
}

/// All that is written in a test program: a file, or a folder of modules, whose tables and calls of
/// `differs` belong together.
fn read(place: &Path, into: &mut String) -> Result {
    if place.is_dir() {
        for entry in fs::read_dir(place).on(place)? {
            read(&entry.on(place)?.path(), into)?;
        }
    } else if place.extension().is_some_and(|end| end == "rs") {
        into.push_str(&fs::read_to_string(place).on(place)?);
    }
    Ok(())
}

fn compare(page: &str, tests: &[String], not_shown: &[(&str, &str)]) -> Vec<String> {
    let mut wrong = Vec::new();
    let mut rows = BTreeSet::new();
    for id in ids(page) {
        if !rows.insert(id) {
            wrong.push(format!(
                "two rows of docs/kernel-differences.md are called `{id}`"
            ));
        }
    }
    let mut named = BTreeSet::new();
    for text in tests {
        let (ids, in_a_table) = names(text);
        named.extend(ids);
        if in_a_table {
            // A word that no row has is found when the test runs.
            named.extend(strings(text).filter(|word| rows.contains(word)));
        }
    }
    for (id, _) in not_shown {
        if named.contains(id) {
            wrong.push(format!(
                "row `{id}` is shown by a test: take it out of NOT_SHOWN in xtask"
            ));
        }
    }
    let excused: BTreeSet<&str> = not_shown.iter().map(|(id, _)| *id).collect();
    for id in excused.union(&named).filter(|id| !rows.contains(*id)) {
        wrong.push(format!("docs/kernel-differences.md has no row `{id}`"));
    }
    for id in rows.difference(&named).filter(|id| !excused.contains(*id)) {
        wrong.push(format!(
            "no test names the row `{id}` of docs/kernel-differences.md"
        ));
    }
    wrong
}

/// What the page calls its rows: the first column, if it is code.
fn ids(page: &str) -> impl Iterator<Item = &str> {
    page.lines()
        .filter_map(|line| Some(line.strip_prefix("| `")?.split_once("` |")?.0))
}

/// The rows that a program of tests names in calls of `differs`, and whether it has calls that take
/// them from a table.
fn names(text: &str) -> (BTreeSet<&str>, bool) {
    let mut found = BTreeSet::new();
    let mut in_a_table = false;
    for call in text.split("differs(").skip(1) {
        let word = call.trim_start().strip_prefix('"');
        match word.and_then(|word| word.split_once('"')) {
            Some((id, _)) => found.extend([id]),
            None => in_a_table = true,
        }
    }
    (found, in_a_table)
}

/// What stands between quotation marks in a line.
fn strings(text: &str) -> impl Iterator<Item = &str> {
    text.lines()
        .flat_map(|line| line.split('"').skip(1).step_by(2))
}

#[cfg(test)]
mod tests {
    use super::compare;

    const PAGE: &str = "| row | what |\n|---|---|\n| `veth` | a |\n| `follow` | b |\n";

    fn wrong(page: &str, tests: &str, not_shown: &[(&str, &str)]) -> Vec<String> {
        compare(page, &[tests.into()], not_shown)
    }

    #[test]
    fn a_row_is_named_in_a_call_or_in_a_table() {
        let calls = "differs(\"veth\", 1, 2); differs(\n    \"follow\",\n 1, 2);";
        assert!(wrong(PAGE, calls, &[]).is_empty());
        let table = "let t = [(\"x\", \"veth\"), (\"\", \"follow\")];\ndiffers(row, 1, 2)";
        assert!(wrong(PAGE, table, &[]).is_empty());
    }

    #[test]
    fn what_has_no_counterpart_is_said_all_at_once() {
        let page = format!("{PAGE}| `veth` | again |\n");
        assert_eq!(
            wrong(&page, "differs(\"other\", 1, 2); \"follow\"", &[]),
            [
                "two rows of docs/kernel-differences.md are called `veth`",
                "docs/kernel-differences.md has no row `other`",
                "no test names the row `follow` of docs/kernel-differences.md",
                "no test names the row `veth` of docs/kernel-differences.md",
            ]
        );
    }

    #[test]
    fn an_excuse_is_for_a_row_that_is_there_and_that_no_test_shows() {
        let test = "differs(\"veth\", 1, 2)";
        assert!(wrong(PAGE, test, &[("follow", "why")]).is_empty());
        assert_eq!(
            wrong(PAGE, test, &[("follow", ""), ("gone", ""), ("veth", "")]),
            [
                "row `veth` is shown by a test: take it out of NOT_SHOWN in xtask",
                "docs/kernel-differences.md has no row `gone`",
            ]
        );
    }
}
