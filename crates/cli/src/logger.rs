//! Where the log goes.
//!
//! | who | where | from |
//! |---|---|---|
//! | `ipvlan agent --foreground` | standard error; not a terminal: with systemd's `<N>` before each line | info |
//! | `ipvlan agent` | the kernel's log, as the driver's own messages would | info |
//! | the rest | standard error | warn |
//!
//! `IPVLAN_LOG=off|error|warn|info|debug|trace` sets another level.

use std::env;
use std::fs::{File, OpenOptions};
use std::io::{self, IsTerminal, Write};

use log::{Level, LevelFilter, Log, Metadata, Record};

use crate::{Command, out};

/// The kernel takes 1,024 bytes in one write, its own prefix included.
const KMSG_MAX: usize = 960;

enum Logger {
    /// Of a command: next to its errors.
    Command,
    /// Of an agent, to a terminal.
    Terminal,
    /// Of an agent, to systemd: sd-daemon(3).
    Journal,
    /// Of an agent that nobody sees.
    Kernel(File),
}

/// Once, before anything can have something to say.
pub(crate) fn start(command: &Command) {
    let (logger, level) = match command {
        Command::Agent(agent) => (Logger::of_agent(agent.foreground), LevelFilter::Info),
        _ => (Logger::Command, LevelFilter::Warn),
    };
    let wanted = env::var("IPVLAN_LOG").ok();
    log::set_max_level(wanted.and_then(|word| word.parse().ok()).unwrap_or(level));
    // The only error is that there is one already.
    let _: Result<(), log::SetLoggerError> = log::set_boxed_logger(Box::new(logger));
}

impl Logger {
    fn of_agent(foreground: bool) -> Self {
        let kernel = OpenOptions::new().write(true).open("/dev/kmsg");
        match kernel {
            Ok(file) if !foreground => Self::Kernel(file),
            Ok(_) | Err(_) if io::stderr().is_terminal() => Self::Terminal,
            Ok(_) | Err(_) => Self::Journal,
        }
    }
}

impl Log for Logger {
    fn enabled(&self, metadata: &Metadata<'_>) -> bool {
        metadata.level() <= log::max_level()
    }

    fn log(&self, record: &Record<'_>) {
        if !self.enabled(record.metadata()) {
            return;
        }
        // A line is a message, everywhere.
        let text = record.args().to_string().replace('\n', " ");
        let number = priority(record.level());
        match self {
            Self::Command => out::complain(&format!("{}: {text}", word(record.level()))),
            Self::Terminal => out::complain(&format!("ipvlan: {text}")),
            Self::Journal => out::complain(&format!("<{number}>{text}")),
            Self::Kernel(file) => {
                let line = format!("<{number}>ipvlan: {text}");
                let line = &line[..line.floor_char_boundary(KMSG_MAX)];
                // In one write, or it becomes several messages.
                let _: io::Result<()> = (&*file).write_all(format!("{line}\n").as_bytes());
            }
        }
    }

    fn flush(&self) {}
}

fn word(level: Level) -> &'static str {
    match level {
        Level::Error => "Error",
        Level::Warn => "Warning",
        Level::Info => "Info",
        Level::Debug => "Debug",
        Level::Trace => "Trace",
    }
}

/// syslog(3)'s number.
fn priority(level: Level) -> u8 {
    match level {
        Level::Error => 3,
        Level::Warn => 4,
        Level::Info => 6,
        Level::Debug | Level::Trace => 7,
    }
}
