//! The two places where words leave the program; logger.rs is the third.

use std::io::{self, Write};

use crate::Error;

/// To standard output. A reader that has gone away has seen enough.
pub(crate) fn print(text: &str) -> Result<(), Error> {
    let mut stdout = io::stdout().lock();
    match stdout
        .write_all(text.as_bytes())
        .and_then(|()| stdout.flush())
    {
        Err(error) if error.kind() != io::ErrorKind::BrokenPipe => Err(error.into()),
        Ok(()) | Err(_) => Ok(()),
    }
}

/// To standard error. There is nobody to tell if that fails.
pub(crate) fn complain(text: &str) {
    let _: io::Result<()> = writeln!(io::stderr(), "{text}");
}
