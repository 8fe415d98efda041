//! DHCP among devices that share one MAC address: stock clients and servers, and forged messages.

#![expect(
    clippy::expect_used,
    reason = "clippy knows a test by its attribute, not the functions beside it"
)]

mod attacks;
mod leases;
