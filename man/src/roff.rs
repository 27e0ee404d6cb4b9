//! Text as roff has it, for the macros of man(7).

use std::collections::{BTreeMap, BTreeSet};

use crate::doc::sentences;

/// Every name of the header, and the page that it is on.
pub struct Names {
    /// Calls have pages or aliases of their own: the name is looked up as it is.
    pub calls: BTreeMap<String, String>,
    /// Types, macros and enumerators.
    pub others: BTreeMap<String, String>,
}

/// A page as it is written.
pub struct Writer<'a> {
    names: &'a Names,
    /// Calls that the page is about: no reference to another page.
    own: &'a [&'a str],
    page: &'a str,
    text: String,
    /// References: section and name.
    see_also: BTreeSet<(char, String)>,
}

/// The widest source line; roff fills what is filled by itself.
const WIDTH: usize = 78;

impl<'a> Writer<'a> {
    pub fn new(
        names: &'a Names,
        page: &'a str,
        section: char,
        own: &'a [&'a str],
        version: &str,
    ) -> Self {
        let head = format!(".TH {page} {section} \"\" \"io_engine {version}\" \"io_engine\"\n");
        // Names are not to be hyphenated, nor lines without hyphens stretched.
        let text = format!(".\\\" Made from io_engine.h.\n.nr HY 0\n{head}.ad l\n");
        Writer { names, own, page, text, see_also: BTreeSet::new() }
    }

    pub fn section(&mut self, title: &str) {
        self.line(&format!(".SH {title}"));
    }

    pub fn subsection(&mut self, title: &str) {
        self.line(&format!(".SS {}", literal(title)));
    }

    /// A paragraph; the first of a section needs no more than its text.
    pub fn paragraph(&mut self, text: &str) -> Result<(), String> {
        if !self.last_line().starts_with(".S") {
            self.line(".PP");
        }
        self.fill(text)
    }

    /// An entry of a list: what it is about, as roff has it, and paragraphs.
    pub fn entry(&mut self, tag: &str, text: &str) -> Result<(), String> {
        self.line(".TP");
        self.line(tag);
        self.fill(text)
    }

    /// An entry marked by a bullet.
    pub fn bullet(&mut self, text: &str) -> Result<(), String> {
        self.line(".IP \\(bu 3");
        self.fill(text)
    }

    pub fn code(&mut self, lines: &[String]) {
        if !self.last_line().starts_with(".S") {
            self.line(".PP");
        }
        self.line(".in +4n\n.EX");
        for line in lines {
            self.line(&guarded(&literal(line)));
        }
        self.line(".EE\n.in");
    }

    /// Lines as they are, in bold but for what is between these: `<parameter>`.
    pub fn declarations(&mut self, declarations: &[Vec<String>]) {
        self.line(".nf\n.B #include <io_engine.h>");
        for declaration in declarations {
            self.line(".PP");
            for line in declaration {
                let line = literal(line).replace('<', "\\fI").replace('>', "\\fB");
                self.line(&format!("\\fB{line}\\fP"));
            }
        }
        self.line(".fi");
    }

    pub fn line(&mut self, line: &str) {
        self.text.push_str(line);
        self.text.push('\n');
    }

    fn last_line(&self) -> &str {
        self.text.trim_end().rsplit('\n').next().unwrap_or_default()
    }

    /// The end of the page: what else to read.
    pub fn finish(mut self, siblings: &[&str]) -> String {
        let more = siblings.iter().map(|name| ('3', name.to_string()));
        self.see_also.extend(more);
        self.see_also.insert(('7', "io_engine".into()));
        let own = |(section, name): &&(char, String)| {
            *section == '3' && self.own.contains(&name.as_str()) || name == self.page
        };
        let others: Vec<_> = self.see_also.iter().filter(|other| !own(other)).collect();
        let mut text = self.text;
        text.push_str(".SH \"SEE ALSO\"\n");
        for (number, (section, name)) in others.iter().enumerate() {
            let comma = if number + 1 < others.len() { " ," } else { "" };
            let name = literal(name);
            text.push_str(&format!(".BR {name} ({section}){}\n", comma.trim_start()));
        }
        text
    }

    /// Running text, a sentence at a time.
    fn fill(&mut self, text: &str) -> Result<(), String> {
        for sentence in sentences(text) {
            let mut line = String::new();
            for word in self.inline(&sentence)?.split(' ') {
                if !line.is_empty() && line.len() + 1 + word.len() > WIDTH {
                    self.line(&guarded(&line));
                    line.clear();
                }
                if !line.is_empty() {
                    line.push(' ');
                }
                line.push_str(word);
            }
            self.line(&guarded(&line));
        }
        Ok(())
    }

    /// Text with what is in backquotes, and pages of the manual, set off.
    fn inline(&mut self, text: &str) -> Result<String, String> {
        let mut roff = String::new();
        for (number, part) in text.split('`').enumerate() {
            match number % 2 {
                0 => roff.push_str(&self.prose(part)),
                _ => roff.push_str(&self.span(part)?),
            }
        }
        match text.matches('`').count() % 2 {
            0 => Ok(roff),
            _ => Err(format!("an odd number of backquotes: {text}")),
        }
    }

    /// What was in backquotes.
    fn span(&mut self, code: &str) -> Result<String, String> {
        let names: Vec<_> = identifiers(code).filter(|name| is_ours(name)).collect();
        for name in &names {
            self.refer(name)?;
        }
        let text = literal(code);
        if names == [code] && self.names.calls.contains_key(code) {
            let section = if self.own.contains(&code) { "()" } else { "(3)" };
            return Ok(format!("\\fB{text}\\fP{section}"));
        }
        let bold = !names.is_empty()
            || code.starts_with("-E")
            || !code.contains(|c: char| c.is_ascii_lowercase());
        Ok(format!("\\f{}{text}\\fP", if bold { 'B' } else { 'I' }))
    }

    /// Notes that something is mentioned; fails where it does not exist.
    fn refer(&mut self, name: &str) -> Result<(), String> {
        // The one name that is of no declaration: an environment variable.
        if name == "IOE_DRIVER" || name == "io_engine" {
            return Ok(());
        }
        let page = match self.names.calls.contains_key(name) {
            true => name,
            false => {
                self.names.others.get(name).ok_or_else(|| format!("{name} is not declared"))?
            }
        };
        self.see_also.insert(('3', page.into()));
        Ok(())
    }

    /// Text outside of backquotes, in which pages of the manual are named as here: fsync(2).
    fn prose(&mut self, text: &str) -> String {
        let mut roff = String::new();
        let mut rest = text;
        while let Some(at) = rest.find('(') {
            let start = rest[..at]
                .rfind(|c: char| !c.is_ascii_alphanumeric() && !"_-".contains(c))
                .map_or(0, |at| at + 1);
            let name = &rest[start..at];
            let mut section = rest[at + 1..].chars();
            match (section.next(), section.next()) {
                (Some(digit @ '1'..='8'), Some(')')) if !name.is_empty() => {
                    self.see_also.insert((digit, name.into()));
                    roff.push_str(&plain(&rest[..start]));
                    roff.push_str(&format!("\\fB{}\\fP({digit})", literal(name)));
                    rest = &rest[at + 3..];
                }
                _ => {
                    roff.push_str(&plain(&rest[..=at]));
                    rest = &rest[at + 1..];
                }
            }
        }
        roff + &plain(rest)
    }
}

/// Names of the interface.
pub fn is_ours(name: &str) -> bool {
    name.starts_with("ioe_") || name.starts_with("IOE_")
}

/// The identifiers of C in a text.
pub fn identifiers(text: &str) -> impl Iterator<Item = &str> {
    text.split(|c: char| !c.is_ascii_alphanumeric() && c != '_').filter(|name| !name.is_empty())
}

/// Prose: a hyphen is a hyphen, but a minus before a number.
fn plain(text: &str) -> String {
    let mut roff = String::new();
    let mut before = ' ';
    let mut chars = text.chars().peekable();
    while let Some(c) = chars.next() {
        let starts_word = before == ' ' || before == '(';
        match c {
            '-' if starts_word && chars.peek().is_some_and(|next| *next != ' ') => {
                roff.push_str("\\-")
            }
            '-' => roff.push('-'),
            _ => push_literal(&mut roff, c),
        }
        before = c;
    }
    roff
}

/// Code: what is typed is what is seen.
pub fn literal(text: &str) -> String {
    let mut roff = String::new();
    for c in text.chars() {
        match c {
            '-' => roff.push_str("\\-"),
            '\'' => roff.push_str("\\(aq"),
            _ => push_literal(&mut roff, c),
        }
    }
    roff
}

fn push_literal(roff: &mut String, c: char) {
    match c {
        '\\' => roff.push_str("\\e"),
        '^' => roff.push_str("\\(ha"),
        '~' => roff.push_str("\\(ti"),
        '`' => roff.push_str("\\(ga"),
        _ => roff.push(c),
    }
}

/// A line of text that roff does not take for a request.
fn guarded(line: &str) -> String {
    match line.starts_with(['.', '\'']) {
        true => format!("\\&{line}"),
        false => line.into(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What a paragraph becomes, with the references that follow.
    fn set(text: &str) -> Result<String, String> {
        let page = |name: &str| (name.to_string(), "ioe_a".to_string());
        let names = Names {
            calls: ["ioe_a", "ioe_b"].map(page).into(),
            others: ["ioe_type", "IOE_ONE"].map(page).into(),
        };
        let mut roff = Writer::new(&names, "ioe_a", '3', &["ioe_a"], "1");
        roff.section("NOTES");
        roff.paragraph(text)?;
        let text = roff.finish(&[]);
        Ok(text.split(".SH NOTES\n").nth(1).unwrap().replace(".SH \"SEE ALSO\"\n", "| "))
    }

    #[test]
    fn names_are_set_off_and_referred_to() {
        let cases = [
            ("`ioe_a` or `ioe_b`", "\\fBioe_a\\fP() or \\fBioe_b\\fP(3)\n| .BR ioe_b (3),\n"),
            ("`ctx` has `IOE_ONE`", "\\fIctx\\fP has \\fBIOE_ONE\\fP\n| "),
            ("see fsync(2) (now)", "see \\fBfsync\\fP(2) (now)\n| .BR fsync (2),\n"),
            ("a-b is -1. 'c' \\ `-EIO`", "a-b is \\-1. 'c' \\e \\fB\\-EIO\\fP\n| "),
            ("One. Two.", "One.\nTwo.\n| "),
            (".x", "\\&.x\n| "),
        ];
        for (text, expected) in cases {
            assert_eq!(set(text).unwrap(), format!("{expected}.BR io_engine (7)\n"), "{text}");
        }
    }

    #[test]
    fn what_does_not_exist_is_refused() {
        assert_eq!(set("`ioe_c`").unwrap_err(), "ioe_c is not declared");
        assert_eq!(set("`IOE_TWO`").unwrap_err(), "IOE_TWO is not declared");
        assert!(set("`ctx").unwrap_err().contains("an odd number of backquotes"));
    }
}
