//! See `io_engine::fuzzing::structs`.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| io_engine::fuzzing::structs(data));
