//! Another Rust archive in the same program: with a standard library, and an unwinder's needs, of its own.

#[no_mangle]
pub extern "C" fn caught(number: u64) -> u64 {
    std::panic::set_hook(Box::new(|_| ()));
    std::panic::catch_unwind(|| assert!(number == 0)).is_err() as u64
}
