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
