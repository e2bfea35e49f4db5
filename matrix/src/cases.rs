//! The table of cases, as far as the matrix shows it: what each row is about, and who runs it.

use std::fs;
use std::path::Path;

use anyhow::{Context, ensure};
use serde::Deserialize;

/// A file of the table.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Chapter {
    /// The letter that the file's name begins with.
    pub(crate) letter: String,
    /// What it is about: the first sentence of the comment at its top.
    pub(crate) title: String,
    pub(crate) rows: Vec<Row>,
}

/// A row. What it has besides is for those who run it.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
pub(crate) struct Row {
    pub(crate) id: String,
    pub(crate) says: String,
    /// The test of what is no matter of packets: `FILE FUNCTION`.
    #[serde(default)]
    pub(crate) tested_by: Option<String>,
    /// Why it can't be run.
    #[serde(default)]
    pub(crate) cannot: Option<String>,
}

impl Chapter {
    /// All chapters of a directory, in the order of their names.
    pub(crate) fn read_all(directory: &Path) -> anyhow::Result<Vec<Self>> {
        let what = || format!("read {}", directory.display());
        let mut files = Vec::new();
        for entry in fs::read_dir(directory).with_context(what)? {
            let path = entry.with_context(what)?.path();
            if path.extension().is_some_and(|extension| extension == "yaml") {
                files.push(path);
            }
        }
        ensure!(!files.is_empty(), "{} has no cases", directory.display());
        files.sort();
        let read = |file: &std::path::PathBuf| {
            let text =
                fs::read_to_string(file).with_context(|| format!("read {}", file.display()))?;
            let name = file.file_stem().unwrap_or_default().to_string_lossy();
            Self::parse(&name, &text).with_context(|| file.display().to_string())
        };
        files.iter().map(read).collect()
    }

    /// A chapter of the text of a file with this name.
    fn parse(name: &str, text: &str) -> anyhow::Result<Self> {
        let comment: Vec<&str> =
            text.lines().map_while(|line| line.strip_prefix('#')).map(str::trim).collect();
        let comment = comment.join(" ");
        let title = comment.split_once(". ").map_or(comment.as_str(), |(first, _)| first);
        ensure!(!title.is_empty(), "it does not begin with a comment that says what it is about");
        Ok(Self {
            letter: name.split('-').next().unwrap_or_default().to_uppercase(),
            title: title.trim_end_matches('.').to_owned(),
            rows: serde_saphyr::from_str(text)?,
        })
    }
}

impl Row {
    /// The packet test that tests it. Functions of other tests may have the same name.
    pub(crate) fn test(&self) -> Option<&str> {
        let (file, function) = self.tested_by.as_deref()?.split_once(' ')?;
        file.split('/').any(|part| part == "packets").then_some(function)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_chapter_is_called_by_its_first_sentence() {
        let text = "# Session\n# affinity. README.md says more.\n\n- id: H1\n  says: a client stays\n  \
                    packets: [x]\n- {id: H2, says: more, tested_by: packets/a.rs a_test}\n\
                    - {id: H3, says: more, tested_by: src/a.rs a_test}\n";
        let chapter = Chapter::parse("h-affinity", text).unwrap();
        assert_eq!((chapter.letter.as_str(), chapter.title.as_str()), ("H", "Session affinity"));
        assert_eq!(chapter.rows[0].says, "a client stays");
        assert_eq!(chapter.rows[0].test(), None);
        assert_eq!(chapter.rows[1].test(), Some("a_test"));
        assert_eq!(chapter.rows[2].test(), None);
        let error = Chapter::parse("h-affinity", "- {id: H1, says: x}\n").unwrap_err();
        assert!(error.to_string().contains("comment"), "{error}");
    }

    #[test]
    fn the_table_of_this_repository_is_read() {
        let directory =
            Path::new(env!("CARGO_MANIFEST_DIR")).join("../crates/dataplane/tests/cases");
        let chapters = Chapter::read_all(&directory).unwrap();
        let letters: String = chapters.iter().map(|chapter| chapter.letter.as_str()).collect();
        assert_eq!(letters, "ABCDEFGHIJO");
        assert!(chapters.iter().all(|chapter| !chapter.rows.is_empty()));
    }
}
