//! See `io_engine::fuzzing::threads`.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| io_engine::fuzzing::threads(data));
