//! Generates the C header from `src/ffi/`. The header in `include/` is committed; `tests/header.rs` compares the two.

use std::env::var;
use std::path::PathBuf;

const CONSTANTS: &str = "
/** The version of this header. */
#define IOE_VERSION_MAJOR {major}
#define IOE_VERSION_MINOR {minor}
#define IOE_VERSION_PATCH {patch}

/** The result of an event that has not completed. */
#define IOE_PENDING INT64_MIN
";

fn main() {
    let package = |key: &str| var(format!("CARGO_PKG_VERSION_{key}")).expect("set by cargo");
    let (major, minor, patch) = (package("MAJOR"), package("MINOR"), package("PATCH"));
    println!("cargo:rerun-if-changed=src/ffi");
    println!("cargo:rerun-if-changed=cbindgen.toml");

    let root = var("CARGO_MANIFEST_DIR").expect("set by cargo");
    let mut config = cbindgen::Config::from_root_or_default(&root);
    let overview = PathBuf::from(&root).join("src/ffi/overview.txt");
    let overview = std::fs::read_to_string(overview).expect("src/ffi/overview.txt");
    let overview = overview.trim_end().replace('\n', "\n * ").replace(" \n", "\n");
    config.header = Some(format!("/* {overview}\n */"));
    let warning = "/* Generated from src/ffi/ by `make header`: do not edit. */";
    config.autogen_warning = Some(warning.into());
    let includes = ["stdbool.h", "stddef.h", "stdint.h", "sys/uio.h"];
    config.sys_includes = includes.map(String::from).into();
    let constants = CONSTANTS.replace("{major}", &major).replace("{minor}", &minor);
    config.after_includes = Some(constants.replace("{patch}", &patch));
    let out = PathBuf::from(var("OUT_DIR").expect("set by cargo")).join("io_engine.h");
    let mut files: Vec<_> = std::fs::read_dir(PathBuf::from(&root).join("src/ffi"))
        .expect("src/ffi")
        .map(|entry| entry.expect("src/ffi").path())
        .collect();
    // A header reads from the general to the particular.
    let order = [
        "library.rs",
        "context.rs",
        "event.rs",
        "options.rs",
        "submit.rs",
        "merge.rs",
        "buffer.rs",
    ];
    files.retain(|file| order.iter().any(|name| file.ends_with(name)));
    files.sort_by_key(|file| order.iter().position(|name| file.ends_with(name)));
    let mut builder = cbindgen::Builder::new().with_config(config);
    for file in files {
        builder = builder.with_src(file);
    }
    let mut header = Vec::new();
    builder.generate().expect("a header from src/ffi").write(&mut header);
    // What Rust calls safety is to a C programmer what a call requires.
    let header = String::from_utf8(header).expect("UTF-8").replace(" * # Safety", " * Requires:");
    std::fs::write(out, header).expect("OUT_DIR");
}
