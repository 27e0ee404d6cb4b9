//! Makes the manual pages of io_engine from its header: `io_engine_man HEADER DIRECTORY` writes
//! `DIRECTORY/man3` and `DIRECTORY/man7`. Every word of them is in the header; what it does not
//! understand there, or what is missing, is an error.

mod contents;
mod doc;
mod header;
mod overview;
mod pages;
mod roff;

use std::collections::BTreeMap;
use std::path::Path;
use std::{env, fs, process};

use contents::{Page, CONTENTS};
use header::{Header, Item, What};
use pages::Parts;
use roff::Names;

fn main() {
    let arguments: Vec<_> = env::args().collect();
    let [_, header, directory] = arguments.as_slice() else {
        eprintln!("usage: io_engine_man HEADER DIRECTORY");
        process::exit(2);
    };
    if let Err(message) = run(header, Path::new(directory)) {
        eprintln!("{header}: {message}");
        process::exit(1);
    }
}

fn run(header: &str, directory: &Path) -> Result<(), String> {
    let text = fs::read_to_string(header).map_err(|error| error.to_string())?;
    let pages = make(&header::parse(&text)?)?;
    for section in ["man3", "man7"] {
        let folder = directory.join(section);
        // A page that is no more must not be left from before.
        let _ = fs::remove_dir_all(&folder);
        fs::create_dir_all(&folder).map_err(|error| format!("{}: {error}", folder.display()))?;
    }
    for (name, text) in pages {
        let path = directory.join(name);
        fs::write(&path, text).map_err(|error| format!("{}: {error}", path.display()))?;
    }
    Ok(())
}

/// All pages: where they are, and their text.
fn make(header: &Header) -> Result<BTreeMap<String, String>, String> {
    let names = names(header)?;
    let version = ["MAJOR", "MINOR", "PATCH"].map(|part| version(header, part)).join(".");
    let mut files = BTreeMap::new();
    let mut purposes = BTreeMap::new();
    for (_, group) in CONTENTS {
        let mains: Vec<_> = group.iter().map(|page| page.calls[0]).collect();
        for page in *group {
            let main = page.calls[0];
            let parts = parts(header, page)?;
            let text = pages::write(page, &parts, &names, &mains, &version);
            files.insert(file(main), text.map_err(|message| format!("{main}: {message}"))?);
            for (item, _, doc) in parts.calls {
                purposes.insert(item.name.clone(), doc.purpose);
            }
            for alias in page.calls[1..].iter().chain(page.types) {
                files.insert(file(alias), format!(".so {}\n", file(main)));
            }
        }
    }
    let overview =
        overview::write(&header.overview, &names, |call| purposes[call].clone(), &version);
    files.insert(
        "man7/io_engine.7".into(),
        overview.map_err(|message| format!("overview: {message}"))?,
    );
    Ok(files)
}

fn file(name: &str) -> String {
    format!("man3/{name}.3")
}

fn version(header: &Header, part: &str) -> String {
    let name = format!("IOE_VERSION_{part}");
    let value = header.items.iter().find_map(|item| match &item.what {
        What::Constant(value) if item.name == name => Some(value.clone()),
        _ => None,
    });
    value.unwrap_or_default()
}

/// Everything that is declared, and its page. Fails where the contents and the header differ.
fn names(header: &Header) -> Result<Names, String> {
    let mut names = Names { calls: BTreeMap::new(), others: BTreeMap::new() };
    for page in CONTENTS.iter().flat_map(|(_, pages)| *pages) {
        let main = page.calls[0].to_string();
        names.calls.extend(page.calls.iter().map(|name| (name.to_string(), main.clone())));
        names.others.extend(page.types.iter().map(|name| (name.to_string(), main.clone())));
    }
    for item in &header.items {
        let (listed, what) = match item.what {
            What::Call(_) => (&names.calls, "call"),
            _ => (&names.others, "type or macro"),
        };
        let main = listed.get(&item.name).cloned();
        let main =
            main.ok_or_else(|| format!("line {}: {what} {} is on no page", item.line, item.name))?;
        if let What::Members(members) = &item.what {
            let constants = members.iter().filter(|member| roff::is_ours(&member.name));
            names.others.extend(constants.map(|member| (member.name.clone(), main.clone())));
        }
    }
    Ok(names)
}

fn parts<'a>(header: &'a Header, page: &Page) -> Result<Parts<'a>, String> {
    let find = |name: &&str| {
        let item = header.items.iter().find(|item| item.name == **name);
        item.ok_or_else(|| format!("{name} is not declared, but has a page"))
    };
    let call = |item: &'a Item| {
        let What::Call(call) = &item.what else { return Err(format!("{} is no call", item.name)) };
        let doc = doc::call(&item.doc, call.result == "void");
        Ok((
            item,
            call,
            doc.map_err(|message| format!("line {}: {}: {message}", item.line, item.name))?,
        ))
    };
    Ok(Parts {
        calls: page.calls.iter().map(|name| find(name).and_then(call)).collect::<Result<_, _>>()?,
        types: page.types.iter().map(find).collect::<Result<_, _>>()?,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const HEADER: &str = include_str!("../../include/io_engine.h");

    fn made(text: &str) -> Result<BTreeMap<String, String>, String> {
        make(&header::parse(text)?)
    }

    #[test]
    fn the_header_makes_pages() {
        let pages = made(HEADER).unwrap();
        assert!(pages.contains_key("man7/io_engine.7") && pages.contains_key("man3/ioe_submit.3"));
    }

    #[test]
    fn a_call_without_a_page_is_refused() {
        let message = made(&format!("{HEADER}\nint ioe_new(void);\n")).unwrap_err();
        assert!(message.contains("call ioe_new is on no page"), "{message}");
    }

    #[test]
    fn a_page_without_a_call_is_refused() {
        let message = made(&HEADER.replace("int ioe_drain(", "int ioe_submit(")).unwrap_err();
        assert!(message.contains("ioe_drain is not declared, but has a page"), "{message}");
    }

    #[test]
    fn a_page_without_an_example_is_refused() {
        let mut header = header::parse(HEADER).unwrap();
        let drain = header.items.iter_mut().find(|item| item.name == "ioe_drain").unwrap();
        let code = drain.doc.iter().position(|line| line == "```c").unwrap();
        let end = drain.doc.iter().rposition(|line| line == "```").unwrap();
        drain.doc.drain(code..=end);
        assert_eq!(make(&header).unwrap_err(), "ioe_drain: no example");
    }
}
