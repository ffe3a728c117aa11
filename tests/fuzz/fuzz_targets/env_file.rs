#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| flowctl::files::fuzzing::env_file(bytes));
