//! See `ipvlan_fuzz::planted`.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| ipvlan_fuzz::planted(data));
