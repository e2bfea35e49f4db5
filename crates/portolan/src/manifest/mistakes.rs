//! What people often write that is no YAML, and what they meant.

/// What is wrong with a text that is no YAML, with the line, if it is one of the usual mistakes up
/// to where the reader gave up: in what begins at `line`, which may go on for a line.
pub(super) fn explain(text: &str, line: Option<u64>) -> Option<(u64, &'static str)> {
    let last = line.map_or(usize::MAX, |line| usize::try_from(line + 1).unwrap_or(usize::MAX));
    let numbered = text.lines().take(last).enumerate().map(|(i, line)| (i as u64 + 1, line));
    let mistakes = numbered.filter_map(|(number, line)| Some((number, mistake(line)?)));
    mistakes.last()
}

/// Lines that YAML reads as something else than was meant, though it can be read.
pub(super) fn comment(text: &str) -> Option<(u64, &'static str)> {
    let mut lines = text.lines().enumerate();
    lines.find(|(_, line)| line.starts_with("//")).map(|(i, _)| (i as u64 + 1, SLASHES))
}

const SLASHES: &str = "a comment begins with \"#\" in YAML, not with \"//\"";
const TAB: &str = "a tab can't indent in YAML: use spaces";
const BRACE: &str = "a mapping in braces needs a space after each \":\"";

fn mistake(line: &str) -> Option<&'static str> {
    let indentation = &line[..line.len() - line.trim_start().len()];
    let text = line.trim_start();
    if indentation.contains('\t') {
        Some(TAB)
    } else if text.starts_with("//") || text.starts_with("/*") {
        Some(SLASHES)
    } else if text.starts_with('{') && text.contains(':') && !text.contains(": ") {
        Some(BRACE)
    } else {
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_nearest_mistake_before_the_end_is_told() {
        assert_eq!(explain("a: 1\n\tb: 2\n", Some(2)), Some((2, TAB)));
        assert_eq!(explain("a:\n  - b\n // no\n  c: [\n", None), Some((3, SLASHES)));
        assert_eq!(explain("a: 1\nb: [\nc: 1\n\td: 1\n", Some(2)), None);
        assert_eq!(comment("a: 1\n// b\n"), Some((2, SLASHES)));
        assert_eq!(comment("a: http://b\n"), None);
    }
}
