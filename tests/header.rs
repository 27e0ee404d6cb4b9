//! The committed header is the one that the sources make. `IOE_UPDATE_HEADER=1` writes it anew.

use std::fs;
use std::path::Path;

const GENERATED: &str = include_str!(concat!(env!("OUT_DIR"), "/io_engine.h"));

#[test]
fn the_committed_header_is_current() {
    let committed = Path::new(env!("CARGO_MANIFEST_DIR")).join("include/io_engine.h");
    if std::env::var_os("IOE_UPDATE_HEADER").is_some() {
        fs::write(&committed, GENERATED).expect("include/io_engine.h");
    }
    let text = fs::read_to_string(&committed).unwrap_or_default();
    assert!(text == GENERATED, "include/io_engine.h is stale: run `make header` and commit it");
}
