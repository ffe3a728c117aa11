#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| flowctl::control_plane::fuzzing::messages(bytes));
