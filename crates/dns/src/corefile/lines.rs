//! From a Corefile's text to directives in blocks. What they mean is nothing of this.

use std::fmt;

/// A line with what it opens.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Directive {
    /// Where it is, from 1.
    pub(super) line: usize,
    /// Its words, at least one.
    pub(super) words: Vec<String>,
    /// What is in its block; `None` if it opens none.
    pub(super) block: Option<Vec<Directive>>,
}

/// A line that is not accepted, and why.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Refusal {
    /// Where it is, from 1.
    pub line: usize,
    /// What is there.
    pub text: String,
    /// Why it is not accepted, and what is.
    pub reason: String,
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "line {}: {}: {}", self.line, self.text, self.reason)
    }
}

impl Directive {
    /// What it is called.
    pub(super) fn name(&self) -> &str {
        &self.words[0]
    }

    /// The words behind that.
    pub(super) fn arguments(&self) -> &[String] {
        &self.words[1..]
    }

    /// What is in its block, if there is one.
    pub(super) fn inner(&self) -> &[Directive] {
        self.block.as_deref().unwrap_or_default()
    }

    /// That it is not accepted.
    pub(super) fn refused(&self, reason: impl Into<String>) -> Refusal {
        Refusal { line: self.line, text: self.words.join(" "), reason: reason.into() }
    }
}

/// Reads blocks. `variable` answers what `{$NAME}` stands for.
pub(super) fn parse(
    text: &str,
    variable: impl Fn(&str) -> Option<String>,
) -> Result<Vec<Directive>, Refusal> {
    let mut open: Vec<(Directive, Vec<Directive>)> = Vec::new();
    let mut done = Vec::new();
    for (number, line) in text.lines().enumerate().map(|(at, line)| (at + 1, line)) {
        let refused = |reason: &str| Refusal {
            line: number,
            text: line.trim().to_owned(),
            reason: reason.to_owned(),
        };
        let mut words = words(line, &variable).map_err(|reason| refused(&reason))?;
        let opens = words.last().is_some_and(|word| *word == Word::plain("{"));
        if opens {
            words.pop();
        }
        match &words[..] {
            [] if opens => return Err(refused("a block opens that has no name")),
            [] => continue,
            [word] if *word == Word::plain("}") && !opens => {
                let (mut directive, inner) =
                    open.pop().ok_or_else(|| refused("no block is open"))?;
                directive.block = Some(inner);
                open.last_mut().map_or(&mut done, |(_, inner)| inner).push(directive);
                continue;
            }
            _ => {}
        }
        let is_brace = |word: &Word| [Word::plain("{"), Word::plain("}")].contains(word);
        if words.iter().any(is_brace) {
            return Err(refused(
                "a brace opens a block at the end of its line, or closes one on a line of its own",
            ));
        }
        let words = words.into_iter().map(|word| word.text).collect();
        let directive = Directive { line: number, words, block: None };
        match opens {
            true => open.push((directive, Vec::new())),
            false => open.last_mut().map_or(&mut done, |(_, inner)| inner).push(directive),
        }
    }
    match open.pop() {
        None => Ok(done),
        Some((directive, _)) => Err(directive.refused("this block is not closed")),
    }
}

/// A word, and whether it was written without quotes.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Word {
    text: String,
    is_plain: bool,
}

impl Word {
    fn plain(text: &str) -> Self {
        Self { text: text.to_owned(), is_plain: true }
    }
}

/// The words of a line, up to a comment.
fn words(line: &str, variable: &impl Fn(&str) -> Option<String>) -> Result<Vec<Word>, String> {
    let mut words = Vec::new();
    let mut rest = line.trim_start();
    while !rest.is_empty() && !rest.starts_with('#') {
        let (word, after) = match rest.strip_prefix('"') {
            Some(quoted) => {
                let (text, after) = unquoted(quoted)?;
                (Word { text, is_plain: false }, after)
            }
            None => {
                let end = rest.find(char::is_whitespace).unwrap_or(rest.len());
                (Word::plain(&rest[..end]), &rest[end..])
            }
        };
        let text = with_variables(&word.text, variable)?;
        // One that stands for nothing is no word, as with a shell's.
        if !text.is_empty() || !word.is_plain {
            words.push(Word { text, ..word });
        }
        rest = after.trim_start();
    }
    Ok(words)
}

/// The text up to the closing quote, and what follows.
fn unquoted(text: &str) -> Result<(String, &str), String> {
    let mut out = String::new();
    let mut characters = text.char_indices();
    while let Some((at, character)) = characters.next() {
        match character {
            '"' => return Ok((out, &text[at + 1..])),
            '\\' if text[at + 1..].starts_with('"') => {
                out.push('"');
                characters.next();
            }
            other => out.push(other),
        }
    }
    Err("a quote is not closed on its line".to_owned())
}

/// With the values of variables in the place of `{$NAME}` and `{%NAME%}`.
fn with_variables(
    text: &str,
    variable: &impl Fn(&str) -> Option<String>,
) -> Result<String, String> {
    let mut out = String::new();
    let mut rest = text;
    loop {
        let Some(at) = rest.find("{$").into_iter().chain(rest.find("{%")).min() else {
            return Ok(out + rest);
        };
        let end = if rest[at..].starts_with("{$") { "}" } else { "%}" };
        let name = &rest[at + 2..];
        let Some(length) = name.find(end) else { return Ok(out + rest) };
        let value = variable(&name[..length])
            .ok_or_else(|| format!("the environment has no {}", &name[..length]))?;
        out += &rest[..at];
        out += &value;
        rest = &name[length + end.len()..];
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str) -> Result<Vec<Directive>, Refusal> {
        parse(text, |name| (name == "ZONE").then(|| "cluster.local".to_owned()))
    }

    #[test]
    fn blocks_are_read() {
        let blocks = read(
            ".:53 {\n  errors # said to the log\n\n  kubernetes {$ZONE} \"in-addr.arpa\" {\n    pods \"in\\\"secure\"\n  }\n}\n# end\n",
        )
        .unwrap();
        let [block] = &blocks[..] else { panic!("{blocks:?}") };
        assert_eq!((block.line, block.name()), (1, ".:53"));
        let [errors, kubernetes] = block.inner() else { panic!("{block:?}") };
        assert_eq!((errors.line, errors.words.len(), &errors.block), (2, 1, &None));
        assert_eq!(kubernetes.arguments(), ["cluster.local", "in-addr.arpa"]);
        assert_eq!(kubernetes.inner()[0].words, ["pods", "in\"secure"]);
        assert_eq!(kubernetes.inner()[0].line, 5);
    }

    #[test]
    fn what_is_no_block_is_refused_where_it_is() {
        for (text, line, reason) in [
            (". {\n errors\n", 1, "not closed"),
            ("}\n", 1, "no block is open"),
            (". {\n {\n}\n}\n", 2, "has no name"),
            (". {\n errors }\n}\n", 2, "a line of its own"),
            (". {\n log \"x\n}\n", 2, "quote"),
            (". {\n log {$NOTHING}\n}\n", 2, "environment has no NOTHING"),
        ] {
            let refusal = read(text).unwrap_err();
            assert_eq!(refusal.line, line, "{text}: {refusal}");
            assert!(refusal.reason.contains(reason), "{text}: {refusal}");
        }
    }
}
