//! See `ipvlan_fuzz::words`.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| ipvlan_fuzz::words(data));
