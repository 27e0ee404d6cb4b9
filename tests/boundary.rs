//! The C boundary, read as text: no exported function without the guard, no panic through it, and
//! every errno of the documentation in the form that tools can read.

use std::fs;
use std::path::Path;

/// The exported functions of all sources: name, doc comment, body.
fn exported() -> Vec<(String, String, String)> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let mut functions = Vec::new();
    let mut folders = vec![root];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                folders.push(path);
                continue;
            }
            let text = fs::read_to_string(&path).unwrap();
            for (at, _) in text.match_indices("#[no_mangle]") {
                let head = &text[at..];
                let name = head.split("fn ").nth(1).unwrap().split('(').next().unwrap();
                // rustfmt puts the closing brace of a function at the start of a line.
                let end = head.find("\n}\n").expect("the end of a function");
                let lines: Vec<&str> = text[..at].lines().rev().collect();
                let docs = lines.iter().take_while(|line| line.starts_with("///"));
                let docs: Vec<&str> = docs.copied().collect();
                let docs = docs.into_iter().rev().collect::<Vec<_>>().join("\n");
                functions.push((name.to_string(), docs, head[..end].to_string()));
            }
            let exports = text.matches("extern \"C\" fn ioe_").count();
            let mangled = text.matches("#[no_mangle]").count();
            assert_eq!(exports, mangled, "{}: an export without #[no_mangle]", path.display());
        }
    }
    functions
}

#[test]
fn every_exported_function_is_guarded_and_documented() {
    let functions = exported();
    assert!(functions.len() >= 40, "only {} functions found", functions.len());
    for (name, docs, body) in functions {
        assert!(name.starts_with("ioe_"), "{name} is no name of the interface");
        assert!(docs.len() > 40, "{name} has no documentation");
        // Getters share `get`, which is guarded itself.
        let guards = ["guard(||", "guard_quiet(||", "get(event, "];
        let guarded = guards.iter().any(|guard| body.contains(guard));
        assert!(guarded, "{name} does not go through the guard");
    }
}

#[test]
fn the_shared_getter_is_guarded() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("src/ffi/event.rs");
    let text = fs::read_to_string(path).unwrap();
    let getter = text.split("unsafe fn get<").nth(1).expect("the shared getter");
    assert!(getter.split("\n}\n").next().unwrap().contains("guard(||"));
}
