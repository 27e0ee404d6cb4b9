//! The page of section 7: the comment at the head of the header, and a list of all calls.

use crate::contents::CONTENTS;
use crate::doc::{self, Block};
use crate::roff::{literal, Names, Writer};

/// Writes it. `purpose` is what a call is for.
pub fn write(
    comment: &[String],
    names: &Names,
    purpose: impl Fn(&str) -> String,
    version: &str,
) -> Result<String, String> {
    let mut roff = Writer::new(names, "io_engine", '7', &[], version);
    let mut blocks = doc::blocks(comment)?.into_iter();
    let Some(Block::Paragraph(first)) = blocks.next() else {
        return Err("no first paragraph".into());
    };
    let mut sentences = doc::sentences(&first);
    let name = sentences.remove(0);
    let purpose_of_all = name.strip_prefix("io_engine: ").ok_or("no name at the beginning")?;
    roff.section("NAME");
    roff.line(&format!("io_engine \\- {}", literal(purpose_of_all.trim_end_matches('.'))));
    roff.section("LIBRARY");
    roff.paragraph("Asynchronous disk I/O (libio_engine, -lio_engine)")?;
    roff.section("SYNOPSIS");
    roff.declarations(&[]);
    roff.section("DESCRIPTION");
    roff.paragraph(&sentences.join(" "))?;
    let mut listed = false;
    for block in blocks {
        match block {
            Block::Heading(title) => {
                if !listed {
                    list(&mut roff, &purpose)?;
                    listed = true;
                }
                roff.section(&title);
            }
            Block::Paragraph(text) => roff.paragraph(&text)?,
            Block::Items(items) => items.iter().try_for_each(|item| roff.bullet(item))?,
            Block::Code(code) => roff.code(&code),
        }
    }
    Ok(roff.finish(&[]))
}

fn list(roff: &mut Writer, purpose: impl Fn(&str) -> String) -> Result<(), String> {
    roff.section("CALLS");
    for (group, pages) in CONTENTS {
        roff.subsection(group);
        for call in pages.iter().flat_map(|page| page.calls) {
            roff.entry(&format!("\\fB{}\\fP(3)", literal(call)), &purpose(call))?;
        }
    }
    Ok(())
}
