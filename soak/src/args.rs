//! The command line.

use std::time::{SystemTime, UNIX_EPOCH};

use clap::Parser;

/// Let many devices live a rough life, and look whether anything goes wrong.
///
/// Builds a LAN, a host and namespaces of its own, touching nothing that exists. Needs root and the
/// program `ipvlan`: beside this one, or `$IPVLAN_BIN`. Exit status: 0 nothing was found; 1 something
/// was, and is in the report; 2 usage.
#[derive(Debug, Parser)]
#[command(name = "ipvlan-soak", version)]
pub(crate) struct Args {
    /// The same seed gives the same sequence of operations; default: another one each time
    #[arg(long)]
    pub(crate) seed: Option<u64>,

    /// Seconds
    #[arg(long, default_value_t = 60)]
    pub(crate) time: u64,

    /// Devices that may be there at a time
    #[arg(long, default_value_t = 50, value_parser = devices)]
    pub(crate) devices: usize,

    /// Guests, each behind a tap: of two, one has addresses by hand and one learns
    #[arg(long, default_value_t = 2, value_parser = clap::value_parser!(u8).range(..=10))]
    pub(crate) guests: u8,

    /// End at the first finding
    #[arg(long)]
    pub(crate) stop: bool,

    /// Only print the operations of so many bursts, and do nothing
    #[arg(long, value_name = "BURSTS")]
    pub(crate) script: Option<usize>,
}

impl Args {
    /// Namespaces for the devices: some are alone, some are not.
    pub(crate) fn homes(&self) -> usize {
        (self.devices * 2 / 3).max(3)
    }

    /// Addresses that devices and guests take theirs from: as many as they have, and half as many
    /// again.
    pub(crate) fn pool(&self) -> usize {
        (self.devices + usize::from(self.guests)) * 3
    }
}

fn devices(text: &str) -> Result<usize, String> {
    match text.parse() {
        Ok(count) if (2..=200).contains(&count) => Ok(count),
        _ => Err("2 to 200".to_owned()),
    }
}

/// A seed for who has none.
pub(crate) fn any_seed() -> u64 {
    let now = SystemTime::now().duration_since(UNIX_EPOCH);
    now.map_or(1, |now| u64::from(now.subsec_nanos()))
}
