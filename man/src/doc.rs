//! A comment of the header, taken apart.

/// A piece of a comment.
#[derive(Clone, PartialEq, Eq)]
pub enum Block {
    /// A line in capitals.
    Heading(String),
    Paragraph(String),
    /// What begins with a hyphen.
    Items(Vec<String>),
    Code(Vec<String>),
}

/// Paragraphs, lists and code, in their order.
pub fn blocks(lines: &[String]) -> Result<Vec<Block>, String> {
    let mut blocks = Vec::new();
    let mut lines = lines.iter();
    let mut open = false;
    while let Some(line) = lines.next() {
        if let Some(language) = line.strip_prefix("```") {
            if language != "c" {
                return Err(format!("code in {language:?}"));
            }
            blocks.push(Block::Code(
                lines.by_ref().take_while(|line| *line != "```").cloned().collect(),
            ));
            open = false;
        } else if line.is_empty() {
            open = false;
        } else if is_heading(line) {
            blocks.push(Block::Heading(line.clone()));
            open = false;
        } else if let Some(item) = line.strip_prefix("- ") {
            match blocks.last_mut() {
                Some(Block::Items(items)) if open => items.push(item.into()),
                _ => blocks.push(Block::Items(vec![item.into()])),
            }
            open = true;
        } else {
            let text = match blocks.last_mut().filter(|_| open) {
                Some(Block::Paragraph(text)) => Some(text),
                Some(Block::Items(items)) => items.last_mut(),
                _ => None,
            };
            match text {
                Some(text) => {
                    text.push(' ');
                    text.push_str(line.trim_start());
                }
                None => blocks.push(Block::Paragraph(line.trim_start().into())),
            }
            open = true;
        }
    }
    Ok(blocks)
}

fn is_heading(line: &str) -> bool {
    line.chars().all(|c| c.is_ascii_uppercase() || " /".contains(c))
}

/// An error that a call answers: its names, and its cause.
#[derive(Clone, PartialEq, Eq)]
pub struct Error {
    pub names: Vec<String>,
    pub cause: String,
}

/// The comment of a call.
pub struct CallDoc {
    /// What it does, in a line.
    pub purpose: String,
    pub description: Vec<String>,
    /// From what thread it may be called.
    pub threads: String,
    /// What it returns; empty where that is nothing.
    pub returns: String,
    pub errors: Vec<Error>,
    /// What the caller has to see to.
    pub requires: String,
    pub examples: Vec<Vec<String>>,
}

/// The longest purpose, in characters: one line of apropos(1) with its name.
const LONGEST_PURPOSE: usize = 66;

/// Takes the comment of a call apart.
pub fn call(lines: &[String], returns_nothing: bool) -> Result<CallDoc, String> {
    let mut doc = CallDoc {
        purpose: String::new(),
        description: Vec::new(),
        threads: String::new(),
        returns: String::new(),
        errors: Vec::new(),
        requires: String::new(),
        examples: Vec::new(),
    };
    for block in blocks(lines)? {
        match block {
            Block::Heading(_) => return Err("a heading in the comment of a call".into()),
            Block::Code(code) => doc.examples.push(code),
            Block::Items(_) if doc.returns.is_empty() || !doc.errors.is_empty() => {
                return Err("a list that is not of errors".into());
            }
            Block::Items(items) => {
                doc.errors = items.iter().map(error).collect::<Result<_, _>>()?
            }
            Block::Paragraph(text) => {
                if text.starts_with("Returns ") {
                    doc.returns = text;
                } else if let Some(text) = text.strip_prefix("Requires: ") {
                    doc.requires = text.into();
                } else if doc.returns.is_empty() {
                    doc.describe(&text)?;
                } else {
                    return Err(format!("not understood, after what it returns: {text}"));
                }
            }
        }
    }
    doc.purpose = purpose(doc.description.first().ok_or("no description")?)?;
    if doc.threads.is_empty() {
        return Err("no sentence that begins with \"Any thread\" or \"Owner's thread\"".into());
    }
    if doc.returns.is_empty() != returns_nothing {
        return Err("what it returns is declared or said, but not both".into());
    }
    if doc.errors.is_empty() == doc.returns.ends_with(':') {
        return Err("a list of errors follows on a colon, and on nothing else".into());
    }
    Ok(doc)
}

impl CallDoc {
    fn describe(&mut self, paragraph: &str) -> Result<(), String> {
        let mut rest = Vec::new();
        for sentence in sentences(paragraph) {
            if !["Any thread", "Owner's thread"].iter().any(|start| sentence.starts_with(start)) {
                rest.push(sentence);
            } else if self.threads.is_empty() {
                self.threads = sentence;
            } else {
                return Err("two sentences about threads".into());
            }
        }
        if !rest.is_empty() {
            self.description.push(rest.join(" "));
        }
        Ok(())
    }
}

fn error(item: &String) -> Result<Error, String> {
    let unknown = || format!("not an error and its cause: {item}");
    let (names, cause) = item.split_once("`: ").ok_or_else(unknown)?;
    let names: Vec<_> = names.trim_start_matches('`').split("`, `").map(String::from).collect();
    match names.iter().all(|name| name.starts_with("-E")) {
        true => Ok(Error { names, cause: cause.into() }),
        false => Err(unknown()),
    }
}

/// What a thing is for: its first sentence, up to the first semicolon or colon.
fn purpose(paragraph: &str) -> Result<String, String> {
    let sentence = sentences(paragraph).into_iter().next().unwrap_or_default();
    let clause = sentence.split([';', ':']).next().unwrap_or_default();
    let clause = clause.trim_end_matches('.').replace('`', "");
    let mut chars = clause.chars();
    let first = chars.next().unwrap_or_default().to_ascii_lowercase();
    let purpose = format!("{first}{}", chars.as_str());
    match purpose.len() <= LONGEST_PURPOSE {
        true => Ok(purpose),
        false => {
            Err(format!("{} is more than {LONGEST_PURPOSE} characters: {purpose}", purpose.len()))
        }
    }
}

/// The sentences of a paragraph, each with its full stop.
pub fn sentences(paragraph: &str) -> Vec<String> {
    let mut sentences = vec![String::new()];
    let words: Vec<_> = paragraph.split(' ').collect();
    for (at, word) in words.iter().enumerate() {
        let sentence = sentences.last_mut().expect("never empty");
        if !sentence.is_empty() {
            sentence.push(' ');
        }
        sentence.push_str(word);
        let ends = word.ends_with(['.', '?', '!']) || word.ends_with(".)");
        let begins =
            |next: &&str| next.starts_with(|c: char| c.is_ascii_uppercase() || "`(\"*".contains(c));
        if ends && words.get(at + 1).is_some_and(begins) {
            sentences.push(String::new());
        }
    }
    sentences
}

#[cfg(test)]
mod tests {
    use super::*;

    const COMMENT: &str = "Waits for `ctx`; for all of it. More. Any thread.

Returns 0, or:
- `-EINVAL`, `-EPERM`: `ctx` is
  NULL.

```c
int a;

int b;
```

Requires:
`ctx` is a context.";

    fn parsed(text: &str, returns_nothing: bool) -> Result<CallDoc, String> {
        call(&text.lines().map(String::from).collect::<Vec<_>>(), returns_nothing)
    }

    #[test]
    fn a_comment_is_taken_apart() {
        let doc = parsed(COMMENT, false).unwrap();
        assert_eq!(doc.purpose, "waits for ctx");
        assert_eq!(doc.description, ["Waits for `ctx`; for all of it. More."]);
        assert_eq!((doc.threads.as_str(), doc.returns.as_str()), ("Any thread.", "Returns 0, or:"));
        assert_eq!(doc.errors[0].names, ["-EINVAL", "-EPERM"]);
        assert_eq!(doc.errors[0].cause, "`ctx` is NULL.");
        assert_eq!(doc.examples, [["int a;", "", "int b;"]]);
        assert_eq!(doc.requires, "`ctx` is a context.");
    }

    #[test]
    fn what_is_missing_or_misplaced_is_refused() {
        let cases = [
            ("Any thread.", "", "no sentence that begins"),
            ("More.", "Any thread has it.", "two sentences about threads"),
            (
                "; for all of it",
                " and for everything else that it may have, and has had",
                "characters",
            ),
            ("Returns 0, or:", "Returns 0.", "a list of errors follows on a colon"),
            ("Returns 0, or:", "It returns 0, or:", "a list that is not of errors"),
            ("- `-EINVAL`, `-EPERM`: ", "- EINVAL: ", "not an error and its cause"),
            ("- `-EINVAL`, `-EPERM`: ", "- `-EINVAL`, `PERM`: ", "not an error and its cause"),
            ("Requires:", "Needs:", "not understood, after what it returns"),
            ("Returns 0", "SHUTDOWN\n\nReturns 0", "a heading in the comment of a call"),
            ("```c", "```rust", "code in \"rust\""),
        ];
        for (from, to, expected) in cases {
            let message = parsed(&COMMENT.replacen(from, to, 1), false).map(|_| ()).unwrap_err();
            assert!(message.contains(expected), "{to}: {message}");
        }
        assert!(parsed(COMMENT, true).is_err(), "a call of type void returns nothing");
        assert!(parsed("Ends. Any thread.", true).is_ok());
        assert!(parsed("Ends. Any thread.", false).is_err(), "it is not said what it returns");
    }
}
