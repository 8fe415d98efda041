//! What a device sends, and what becomes of it on its way out: which bytes change, whose routes and
//! neighbours count, what the host's rules see of it.
//!
//! | file | what |
//! |---|---|
//! | `bytes.rs` | which bytes of a packet change |
//! | `routes.rs` | whose routes count |
//! | `rules.rs` | the host's hooks, address translation, marks and queues |
//! | `groups.rs` | what goes to all |

#![expect(
    clippy::expect_used,
    reason = "clippy knows a test by its attribute, not the functions beside it"
)]

mod bytes;
mod groups;
mod routes;
mod rules;

use std::net::{Ipv4Addr, Ipv6Addr};

const LAN4: Ipv4Addr = Ipv4Addr::new(10, 1, 0, 254);
const LAN6: Ipv6Addr = Ipv6Addr::new(0xfd00, 0, 0, 0, 0, 0, 0, 0x254);
