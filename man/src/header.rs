//! Reads the generated header: what it declares, and what it says of each.
//!
//! What is not understood is an error with its line: nothing is left out silently.

/// The header as a whole.
#[derive(Default)]
pub struct Header {
    /// The comment at its head.
    pub overview: Vec<String>,
    pub items: Vec<Item>,
}

/// One declaration, with the lines of its comment.
pub struct Item {
    pub name: String,
    pub doc: Vec<String>,
    pub line: usize,
    pub what: What,
}

pub enum What {
    Call(Call),
    /// A macro, with its value.
    Constant(String),
    /// A type that is only pointed to.
    Opaque,
    /// A pointer to a function.
    Function(Call),
    /// An enumeration or a struct: how its members are declared.
    Members(Vec<Item>),
    /// A member: its declaration.
    Member(String),
}

/// What a function returns and takes.
pub struct Call {
    /// With the asterisk, where there is one.
    pub result: String,
    pub parameters: Vec<String>,
}

/// Lines that say nothing to a reader.
fn is_scaffolding(line: &str) -> bool {
    let beginnings =
        ["/* Generated", "#ifndef ", "#define IO_ENGINE_H", "#include ", "#ifdef ", "#endif"];
    line == "extern \"C\" {"
        || line.starts_with("}  // extern")
        || beginnings.iter().any(|beginning| line.starts_with(beginning))
}

/// Parses a whole header, or says what is wrong with which line.
pub fn parse(text: &str) -> Result<Header, String> {
    if let Some((number, _)) = text.lines().enumerate().find(|(_, line)| !line.is_ascii()) {
        return Err(format!("line {}: not ASCII", number + 1));
    }
    let mut lines = Lines { lines: text.lines().collect(), at: 0 };
    let first = lines.next().unwrap_or_default();
    let first = first.strip_prefix("/* ").ok_or("line 1: no opening comment")?;
    let mut header = Header { overview: vec![first.to_string()], ..Header::default() };
    header.overview.extend(lines.rest_of_comment()?);
    let mut doc = Vec::new();
    while let Some(line) = lines.next() {
        let number = lines.at;
        if line.is_empty() {
            doc.clear();
        } else if let Some(comment) = lines.comment(line)? {
            doc = comment;
        } else if !is_scaffolding(line) {
            let (name, what) = lines.declaration(line)?;
            // Macros without a line between them share a comment.
            let doc = match what {
                What::Constant(_) => doc.clone(),
                _ => std::mem::take(&mut doc),
            };
            header.items.push(Item { name, doc, line: number, what });
        }
    }
    Ok(header)
}

struct Lines<'a> {
    lines: Vec<&'a str>,
    at: usize,
}

impl<'a> Lines<'a> {
    fn next(&mut self) -> Option<&'a str> {
        let line = self.lines.get(self.at).copied();
        self.at += 1;
        line
    }

    fn error(&self, what: &str) -> String {
        format!("line {}: {what}", self.at)
    }

    /// The lines of a comment for what follows, if the line begins one.
    fn comment(&mut self, line: &str) -> Result<Option<Vec<String>>, String> {
        let line = line.trim_start();
        if line == "/**" {
            return self.rest_of_comment().map(Some);
        }
        match line.strip_prefix("/** ").map(|line| line.strip_suffix(" */")) {
            Some(Some(line)) => Ok(Some(vec![line.to_string()])),
            Some(None) => Err(self.error("a comment of an unknown form")),
            None => Ok(None),
        }
    }

    fn rest_of_comment(&mut self) -> Result<Vec<String>, String> {
        let mut comment = Vec::new();
        loop {
            let line = self.next().ok_or_else(|| self.error("a comment without an end"))?;
            let line = line.trim_start();
            if line == "*/" {
                return Ok(comment);
            }
            let (line, last) = match line.strip_suffix(" */") {
                Some(line) => (line, true),
                None => (line, false),
            };
            let text = line.strip_prefix("* ").or(line.strip_prefix("*").filter(|s| s.is_empty()));
            comment.push(text.ok_or_else(|| self.error("no line of a comment"))?.to_string());
            if last {
                return Ok(comment);
            }
        }
    }

    fn declaration(&mut self, first: &str) -> Result<(String, What), String> {
        if let Some(macro_) = first.strip_prefix("#define ") {
            let (name, value) = macro_.split_once(' ').ok_or_else(|| self.error("no value"))?;
            return Ok((name.into(), What::Constant(value.into())));
        }
        for kind in ["typedef enum ", "typedef struct "] {
            let head = first.strip_prefix(kind).and_then(|rest| rest.strip_suffix(" {"));
            if let Some(name) = head {
                return Ok((name.into(), What::Members(self.members(name)?)));
            }
        }
        let mut text = first.to_string();
        while !text.ends_with(';') {
            let more = self.next().ok_or_else(|| self.error("a declaration without an end"))?;
            text = format!("{text} {}", more.trim_start());
        }
        let text = text.trim_end_matches(';').replace("struct ioe_", "ioe_");
        if let Some((head, tail)) = text.split_once("(*").filter(|_| text.starts_with("typedef ")) {
            let result = head.trim_start_matches("typedef ").trim();
            let (name, tail) = tail.split_once(")(").ok_or_else(|| self.error("no type"))?;
            return Ok((name.into(), What::Function(call(result, tail))));
        }
        if let Some(rest) = text.strip_prefix("typedef ") {
            let (tag, name) = rest.split_once(' ').ok_or_else(|| self.error("no type"))?;
            return match tag == name {
                true => Ok((name.into(), What::Opaque)),
                false => Err(self.error("a type of an unknown form")),
            };
        }
        let (head, tail) = text.split_once('(').ok_or_else(|| self.error("not understood"))?;
        let start = head.rfind([' ', '*']).ok_or_else(|| self.error("not understood"))? + 1;
        let (result, name) = head.split_at(start);
        match name.starts_with("ioe_") {
            true => Ok((name.into(), What::Call(call(result.trim_end(), tail)))),
            false => Err(self.error("not a name of the library's")),
        }
    }

    fn members(&mut self, of: &str) -> Result<Vec<Item>, String> {
        let mut members = Vec::new();
        let mut doc = Vec::new();
        loop {
            let line = self.next().ok_or_else(|| self.error("a type without an end"))?;
            if line == format!("}} {of};") {
                return Ok(members);
            }
            if let Some(comment) = self.comment(line)? {
                doc = comment;
                continue;
            }
            let line = line.trim_start();
            let member = line.split_once(" = ").map(|(name, _)| name.to_string());
            let member = member.or_else(|| line.strip_suffix(';').map(|field| field.to_string()));
            let member = member.ok_or_else(|| self.error("a member of an unknown form"))?;
            let member = member.replace("struct ioe_", "ioe_");
            let start = member.rfind([' ', '*']).map_or(0, |at| at + 1);
            let (name, line) = (member[start..].to_string(), self.at);
            let doc = std::mem::take(&mut doc);
            members.push(Item { name, doc, line, what: What::Member(member) });
        }
    }
}

/// `tail` is what follows the opening parenthesis.
fn call(result: &str, tail: &str) -> Call {
    let parameters = tail.trim_end_matches(')').split(", ").map(String::from).collect();
    Call { result: result.into(), parameters }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_not_understood_is_refused_with_its_line() {
        let cases = [
            ("int ioe_a(void);\nunion b { int now; };", "line 5: not understood"),
            ("int a(void);", "line 4: not a name of the library's"),
            ("int ioe_a(void)\n", "line 5: a declaration without an end"),
            ("typedef int ioe_a;", "line 4: a type of an unknown form"),
            ("typedef enum ioe_a {\n    IOE_A,\n} ioe_a;", "line 5: a member of an unknown form"),
            ("typedef enum ioe_a {\n    IOE_A = 1,", "line 6: a type without an end"),
            ("/**\n text\n */", "line 5: no line of a comment"),
            ("/** text", "line 4: a comment of an unknown form"),
            ("/**\n * text", "line 6: a comment without an end"),
            ("/** \u{e9} */", "line 4: not ASCII"),
        ];
        for (text, expected) in cases {
            let outcome = parse(&format!("/* io_engine: all.\n */\n\n{text}")).map(|_| ());
            assert_eq!(outcome.unwrap_err(), expected, "{text}");
        }
    }
}
