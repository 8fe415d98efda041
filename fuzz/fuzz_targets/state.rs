//! See `ipvlan_fuzz::state`.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| ipvlan_fuzz::state(data));
