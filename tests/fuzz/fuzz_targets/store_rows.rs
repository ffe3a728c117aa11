#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| flowctl::store::fuzzing::store_rows(bytes));
