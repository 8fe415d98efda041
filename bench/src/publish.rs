//! How a report reaches who asked for it.

use std::fmt::Write as _;

use serde_json::Value;

use crate::args::Common;
use crate::error::{Error, Result};

/// A report, as one likes it.
pub(crate) trait Publish {
    /// For a terminal.
    fn text(&self) -> String;
    /// For a page.
    fn markdown(&self) -> String;
    /// For a program, every round included.
    fn json(&self) -> Value;
}

/// On standard output, and to the file that was named.
pub(crate) fn publish(report: &impl Publish, how: &Common) -> Result<()> {
    if how.markdown {
        print!("{}", report.markdown());
    } else {
        print!("{}", report.text());
    }
    let Some(file) = &how.json else {
        return Ok(());
    };
    std::fs::write(file, format!("{:#}\n", report.json()))
        .map_err(|source| Error::io(format!("write {}", file.display()), source))
}

/// Ends a report with what a reader must know before believing its figures, a line for each.
pub(crate) fn with_notes(mut out: String, bullet: &str, notes: &[String]) -> String {
    for note in notes {
        let _: std::fmt::Result = write!(out, "\n{bullet}{note}");
    }
    out.truncate(out.trim_end().len());
    out.push('\n');
    out
}
