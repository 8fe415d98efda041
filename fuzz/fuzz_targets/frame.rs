//! See `ipvlan_fuzz::frame`.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| ipvlan_fuzz::frame(data));
