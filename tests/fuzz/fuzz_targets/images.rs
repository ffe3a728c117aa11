#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| flowctl::images::fuzzing::images(bytes));
