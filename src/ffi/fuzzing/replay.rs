//! What the fuzzer found, once more: `fuzz/corpus/` reaches all that it had reached, and what is in
//! `fuzz/found/` made something fail.

use std::path::Path;

/// Plays all files of a target.
fn replay(target: &str, play: fn(&[u8])) {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz");
    let mut played = 0;
    for folder in ["corpus", "found"] {
        let Ok(files) = root.join(folder).join(target).read_dir() else { continue };
        for file in files {
            let path = file.expect("a file").path();
            println!("{}", path.display());
            play(&std::fs::read(path).expect("a readable file"));
            played += 1;
        }
    }
    assert!(played >= 20, "only {played} inputs of {target}");
}

#[test]
fn calls() {
    replay("calls", super::calls);
}

#[test]
fn structs() {
    replay("structs", super::structs);
}

#[test]
fn threads() {
    replay("threads", super::threads);
}
