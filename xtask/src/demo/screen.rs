//! What the user sees: headings, commands as one would type them, their output, checks.

use std::fmt::Display;
use std::io::{IsTerminal as _, Write as _};

use crate::run::{On, Result, fail};

/// Output wider than this is cut.
const WIDTH: usize = 92;

/// Standard output, and the account of checks.
pub(super) struct Screen {
    colour: bool,
    sections: u32,
    checks: u32,
    failed: Vec<String>,
}

impl Screen {
    pub(super) fn new() -> Self {
        let set = |name| std::env::var_os(name).is_some_and(|value| !value.is_empty());
        let dumb = std::env::var_os("TERM").is_some_and(|term| term == "dumb");
        Self {
            colour: std::io::stdout().is_terminal() && !set("NO_COLOR") && !dumb,
            sections: 0,
            checks: 0,
            failed: Vec::new(),
        }
    }

    fn line(&self, style: &str, text: &str) -> Result {
        let line = if self.colour && !style.is_empty() {
            format!("\x1b[{style}m{text}\x1b[0m\n")
        } else {
            format!("{text}\n")
        };
        let mut out = std::io::stdout().lock();
        out.write_all(line.as_bytes()).on("standard output")
    }

    /// Begins a section.
    pub(super) fn section(&mut self, title: &str) -> Result {
        self.sections += 1;
        let line = format!("== {}. {title} ", self.sections);
        self.line("", "")?;
        self.line("1;36", &format!("{line:=<78}"))
    }

    /// Tells the reader something.
    pub(super) fn say(&self, text: &str) -> Result {
        self.line("", "")?;
        text.lines().try_for_each(|line| self.line("", line))
    }

    /// A command, as it is typed.
    pub(super) fn command(&self, prompt: &str, line: &str) -> Result {
        self.line("1", &format!("{prompt} {line}"))
    }

    /// A line of a command's output.
    pub(super) fn output(&self, line: &str) -> Result {
        self.line("", &format!("    {}", cut(line)))
    }

    /// Something that must be so. `what` names it if it is not; `shown` proves it.
    pub(super) fn check(&mut self, ok: bool, what: impl Display, shown: &str) -> Result {
        self.checks += 1;
        let shown = cut(shown);
        if ok {
            return self.line("32", &format!("ok  {shown}"));
        }
        self.failed.push(what.to_string());
        self.line("1;31", &format!("FAILED  {shown}"))
    }

    /// The last line; an error that says which checks failed.
    pub(super) fn end(self, seconds: u64) -> Result {
        self.line("", "")?;
        let (checks, failed) = (self.checks, self.failed.len());
        if failed == 0 {
            let line = format!("All {checks} checks passed, in {seconds} seconds.");
            return self.line("1;32", &line);
        }
        let which = self.failed.join("\n  ");
        Err(fail(format!(
            "{failed} of {checks} checks failed:\n  {which}"
        )))
    }
}

fn cut(line: &str) -> String {
    let line = line.trim_end().replace('\t', "  ");
    if line.chars().count() <= WIDTH {
        return line;
    }
    let kept: String = line.chars().take(WIDTH - 4).collect();
    format!("{} ...", kept.trim_end())
}

#[cfg(test)]
mod tests {
    use super::{WIDTH, cut};

    #[test]
    fn long_lines_are_cut() {
        assert_eq!(cut("  a \n"), "  a");
        assert_eq!(cut(&"x".repeat(WIDTH)).len(), WIDTH);
        let long = cut(&"x".repeat(WIDTH + 1));
        assert!(long.ends_with("x ...") && long.len() == WIDTH, "{long}");
    }
}
