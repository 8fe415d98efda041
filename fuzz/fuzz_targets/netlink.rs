//! See `ipvlan_fuzz::netlink`.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| ipvlan_fuzz::netlink(data));
