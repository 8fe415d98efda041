//! Starting programs, and the one error type: a line that says what failed and what to do.

use std::ffi::OsStr;
use std::fmt;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

/// One line for the user.
pub(crate) struct Error(String);

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

pub(crate) type Result<T = ()> = core::result::Result<T, Error>;

pub(crate) fn fail(message: impl Into<String>) -> Error {
    Error(message.into())
}

/// Puts the object of an I/O error in front of it.
pub(crate) trait On<T> {
    fn on(self, what: impl AsRef<Path>) -> Result<T>;
}

impl<T> On<T> for std::io::Result<T> {
    fn on(self, what: impl AsRef<Path>) -> Result<T> {
        self.map_err(|error| fail(format!("{}: {error}", what.as_ref().display())))
    }
}

/// Says which part of the work begins.
pub(crate) fn step(what: impl fmt::Display) {
    eprintln!("\n== {what}");
}

/// Says something the user should know.
pub(crate) fn note(what: impl fmt::Display) {
    eprintln!("xtask: {what}");
}

/// The program and its arguments as one would type them.
pub(crate) fn words(command: &Command) -> String {
    let name = Path::new(command.get_program())
        .file_name()
        .unwrap_or_default();
    let words = core::iter::once(name).chain(command.get_args());
    words
        .map(OsStr::to_string_lossy)
        .collect::<Vec<_>>()
        .join(" ")
}

fn started<T>(command: &Command, result: std::io::Result<T>) -> Result<T> {
    result.map_err(|error| fail(format!("cannot start `{}`: {error}", words(command))))
}

/// Runs it with this program's own input and output.
pub(crate) fn run(command: &mut Command) -> Result {
    let status = command.status();
    let status = started(command, status)?;
    if status.success() {
        return Ok(());
    }
    Err(fail(format!("`{}` failed: {status}", words(command))))
}

/// Runs it and hands back its standard output; its standard error stays visible.
pub(crate) fn read(command: &mut Command) -> Result<String> {
    let output = command
        .stdin(Stdio::null())
        .stderr(Stdio::inherit())
        .output();
    text(command, output)
}

/// Like [`read`], but what it says goes into the error, if there is one.
pub(crate) fn read_quiet(command: &mut Command) -> Result<String> {
    let output = command.stdin(Stdio::null()).output();
    text(command, output)
}

fn text(command: &Command, output: std::io::Result<Output>) -> Result<String> {
    let output = started(command, output)?;
    if !output.status.success() {
        let said = String::from_utf8_lossy(&output.stderr);
        let said = said
            .lines()
            .rfind(|line| !line.trim().is_empty())
            .unwrap_or_default();
        let colon = if said.is_empty() { "" } else { ": " };
        let status = output.status;
        return Err(fail(format!(
            "`{}` failed: {status}{colon}{said}",
            words(command)
        )));
    }
    String::from_utf8(output.stdout).map_err(|_| {
        fail(format!(
            "`{}` printed something that is not text",
            words(command)
        ))
    })
}

/// Where a program is: $PATH, then the administrator's folders that a user's $PATH may lack.
pub(crate) fn find(program: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&path)
        .chain(["/usr/local/sbin", "/usr/sbin", "/sbin"].map(PathBuf::from))
        .map(|folder| folder.join(program))
        .find(|file| file.is_file())
}
