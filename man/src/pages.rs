//! The pages of section 3, one for each of [`CONTENTS`](crate::contents::CONTENTS).

use crate::contents::Page;
use crate::doc::{self, Block, CallDoc, Error};
use crate::header::{Call, Item, What};
use crate::roff::{literal, Names, Writer};

/// What a page is made of.
pub struct Parts<'a> {
    pub calls: Vec<(&'a Item, &'a Call, CallDoc)>,
    pub types: Vec<&'a Item>,
}

/// Columns for a declaration, beside the margins.
const WIDTH: usize = 68;

/// Writes a page: its source.
pub fn write(
    page: &Page,
    parts: &Parts,
    names: &Names,
    siblings: &[&str],
    version: &str,
) -> Result<String, String> {
    let main = page.calls[0];
    let mut roff = Writer::new(names, main, '3', page.calls, version);
    roff.section("NAME");
    for (number, (item, _, doc)) in parts.calls.iter().enumerate() {
        if number > 0 {
            roff.line(".br");
        }
        roff.line(&format!("{} \\- {}", literal(&item.name), literal(&doc.purpose)));
    }
    roff.section("LIBRARY");
    roff.paragraph("Asynchronous disk I/O (libio_engine, -lio_engine)")?;
    roff.section("SYNOPSIS");
    let declared: Vec<_> =
        parts.calls.iter().map(|(item, call, _)| declaration("", &item.name, call)).collect();
    roff.declarations(&declared);
    roff.section("DESCRIPTION");
    let several = parts.calls.len() > 1;
    for (item, _, doc) in &parts.calls {
        if several {
            roff.subsection(&format!("{}()", item.name));
        }
        for text in &doc.description {
            roff.paragraph(text)?;
        }
    }
    for item in &parts.types {
        describe_type(&mut roff, item)?;
    }
    roff.section("RETURN VALUE");
    each(&mut roff, parts, returns, |roff, text| roff.paragraph(text))?;
    roff.section("ERRORS");
    each(&mut roff, parts, |doc| doc.errors.clone(), errors)?;
    roff.section("NOTES");
    note(&mut roff, parts, "Threads", |doc| doc.threads.clone())?;
    note(&mut roff, parts, "Requires", |doc| doc.requires.clone())?;
    roff.section("EXAMPLE");
    let shown = parts.calls.iter().filter(|(_, _, doc)| !doc.examples.is_empty());
    let shown: Vec<_> = shown.collect();
    if shown.is_empty() {
        return Err("no example".into());
    }
    for (item, _, doc) in &shown {
        if shown.len() > 1 {
            roff.subsection(&format!("{}()", item.name));
        }
        doc.examples.iter().for_each(|code| roff.code(code));
    }
    Ok(roff.finish(siblings))
}

/// What is said of the calls, and of which: once where it is the same of several.
fn grouped<T: PartialEq>(parts: &Parts, of: impl Fn(&CallDoc) -> T) -> Vec<(String, T)> {
    let mut groups: Vec<(String, T)> = Vec::new();
    for (item, _, doc) in &parts.calls {
        let (name, what) = (format!("{}()", item.name), of(doc));
        match groups.iter_mut().find(|(_, other)| *other == what) {
            Some((names, _)) => names.push_str(&format!(", {name}")),
            None => groups.push((name, what)),
        }
    }
    groups
}

/// Says something of every call of the page.
fn each<T: PartialEq>(
    roff: &mut Writer,
    parts: &Parts,
    of: impl Fn(&CallDoc) -> T,
    say: impl Fn(&mut Writer, &T) -> Result<(), String>,
) -> Result<(), String> {
    let groups = grouped(parts, of);
    for (names, what) in &groups {
        if groups.len() > 1 {
            roff.subsection(names);
        }
        say(roff, what)?;
    }
    Ok(())
}

/// The same as an entry with a title.
fn note(
    roff: &mut Writer,
    parts: &Parts,
    title: &str,
    of: impl Fn(&CallDoc) -> String,
) -> Result<(), String> {
    let groups = grouped(parts, of);
    for (names, text) in groups.iter().filter(|(_, text)| !text.is_empty()) {
        match groups.len() {
            1 => roff.entry(title, text)?,
            _ => roff.entry(&format!("{title}: {names}"), text)?,
        }
    }
    Ok(())
}

/// What a call returns, with where its errors are.
fn returns(doc: &CallDoc) -> String {
    let Some(text) = doc.returns.strip_suffix(':') else {
        return if doc.returns.is_empty() { "None.".into() } else { doc.returns.clone() };
    };
    let comma = if text.ends_with(" or") || text.ends_with(" else") { "" } else { "," };
    format!("{text}{comma} one of the values in ERRORS.")
}

fn errors(roff: &mut Writer, errors: &Vec<Error>) -> Result<(), String> {
    if errors.is_empty() {
        return roff.paragraph("None.");
    }
    for Error { names, cause } in errors {
        let names: Vec<_> = names.iter().map(|name| format!("\\fB{}\\fP", literal(name))).collect();
        roff.entry(&names.join(", "), cause)?;
    }
    Ok(())
}

/// A declaration in lines, what a parameter is called in angle brackets.
fn declaration(before: &str, name: &str, call: &Call) -> Vec<String> {
    let space = if call.result.ends_with('*') { "" } else { " " };
    let mut lines = vec![format!("{before}{}{space}{name}(", call.result)];
    let indent = lines[0].len();
    for (number, parameter) in call.parameters.iter().enumerate() {
        let end = if number + 1 < call.parameters.len() { "," } else { ");" };
        let parameter = format!("{}{end}", marked(parameter));
        let line = lines.last_mut().expect("never empty");
        // The brackets are not seen.
        if number > 0 && line.len() + parameter.len() - 2 * (line.matches('<').count() + 1) >= WIDTH
        {
            lines.push(" ".repeat(indent));
        } else if number > 0 {
            line.push(' ');
        }
        lines.last_mut().expect("never empty").push_str(&parameter);
    }
    lines
}

/// A declaration with its last name in angle brackets.
fn marked(declaration: &str) -> String {
    match declaration.rfind([' ', '*']) {
        Some(at) => format!("{}<{}>", &declaration[..=at], &declaration[at + 1..]),
        None => declaration.into(),
    }
}

fn describe_type(roff: &mut Writer, item: &Item) -> Result<(), String> {
    let at = |message| format!("line {}: {message}", item.line);
    roff.subsection(&item.name);
    if let What::Function(call) = &item.what {
        let declared = declaration("typedef ", &format!("(*{})", item.name), call);
        let plain = declared.iter().map(|line| line.replace(['<', '>'], ""));
        roff.code(&plain.collect::<Vec<_>>());
    }
    for block in doc::blocks(&item.doc).map_err(at)? {
        match block {
            Block::Paragraph(text) => roff.paragraph(&text).map_err(at)?,
            _ => return Err(at("more than paragraphs about a type".into())),
        }
    }
    let What::Members(members) = &item.what else { return Ok(()) };
    for member in members {
        let What::Member(declared) = &member.what else { unreachable!("a member") };
        let tag = match declared == &member.name {
            true => format!("\\fB{declared}\\fP"),
            false => {
                let marked = literal(&marked(declared));
                format!("\\fB{}\\fP", marked.replace('<', "\\fI").replace('>', "\\fB"))
            }
        };
        let at = |message| format!("line {}: {message}", member.line);
        match doc::blocks(&member.doc).map_err(at)?.as_slice() {
            [Block::Paragraph(text)] => roff.entry(&tag, text).map_err(at)?,
            _ => return Err(at("a member with anything but one paragraph".into())),
        }
    }
    Ok(())
}
