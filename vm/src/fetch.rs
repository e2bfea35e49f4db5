//! Files that the program has left, copied out of the VM after its end.
//!
//! They come on the fourth serial port, one after the other in the order that they are asked for: a line
//! [`FILE`] with the length in bytes, then so many bytes; or a line [`ABSENT`].

use std::fs;
use std::path::PathBuf;

use anyhow::{Context, bail, ensure};

/// A file comes, of this length.
pub(crate) const FILE: &str = "file ";
/// There is no such file.
pub(crate) const ABSENT: &str = "absent";

/// A file to be copied out of the VM, as in `PATH=FILE`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Fetch {
    /// Its absolute path in the VM.
    pub(crate) path: String,
    /// Where it is put here.
    pub(crate) to: PathBuf,
}

impl std::str::FromStr for Fetch {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text.split_once('=') {
            Some((path, to)) if path.starts_with('/') && !to.is_empty() => {
                Ok(Self { path: path.to_owned(), to: to.into() })
            }
            _ => Err("it has to be PATH=FILE with an absolute PATH".to_owned()),
        }
    }
}

/// Removes what an earlier run has left, so that nobody takes it for what this one brings.
pub(crate) fn prepare(fetches: &[Fetch]) -> anyhow::Result<()> {
    for Fetch { to, .. } in fetches {
        match fs::remove_file(to) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                return Err(error).with_context(|| format!("remove {}", to.display()));
            }
            _ => {}
        }
    }
    Ok(())
}

/// Writes the files that have come.
pub(crate) fn write(fetches: &[Fetch], sent: &[u8]) -> anyhow::Result<()> {
    let contents = split(sent, fetches.len()).context("read the files that were asked for")?;
    let mut missing = Vec::new();
    for (fetch, content) in fetches.iter().zip(contents) {
        match content {
            Some(content) => fs::write(&fetch.to, content)
                .with_context(|| format!("write {}", fetch.to.display()))?,
            None => missing.push(fetch.path.as_str()),
        }
    }
    ensure!(missing.is_empty(), "the program has left no {}", missing.join(" and no "));
    Ok(())
}

/// The contents of so many files; `None` is one that is not there.
fn split(mut sent: &[u8], files: usize) -> anyhow::Result<Vec<Option<&[u8]>>> {
    let mut contents = Vec::new();
    for number in 1..=files {
        let end = sent.iter().position(|byte| *byte == b'\n');
        let end = end.with_context(|| format!("number {number} of {files} did not come"))?;
        let line = String::from_utf8_lossy(&sent[..end]);
        sent = &sent[end + 1..];
        if line == ABSENT {
            contents.push(None);
            continue;
        }
        let Some(length) = line.strip_prefix(FILE).and_then(|text| text.parse().ok()) else {
            bail!("before number {number} the VM said {line:?}, which means nothing");
        };
        let Some((content, rest)) = sent.split_at_checked(length) else {
            bail!("of number {number} came {} of {length} bytes", sent.len());
        };
        contents.push(Some(content));
        sent = rest;
    }
    ensure!(sent.is_empty(), "{} bytes came after the last one", sent.len());
    Ok(contents)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_path_here_may_have_any_characters() {
        let fetch: Fetch = "/run/a=b=c".parse().unwrap();
        assert_eq!(fetch, Fetch { path: "/run/a".to_owned(), to: "b=c".into() });
        for wrong in ["/run/a", "run/a=b", "/run/a=", ""] {
            assert!(wrong.parse::<Fetch>().is_err(), "{wrong}");
        }
    }

    #[test]
    fn files_are_told_apart_whatever_is_in_them() {
        let sent = b"file 7\nfile 1\nabsent\nfile 0\nfile 2\n\n\xff";
        let expected: [Option<&[u8]>; 4] = [Some(b"file 1\n"), None, Some(b""), Some(b"\n\xff")];
        assert_eq!(split(sent, 4).unwrap(), expected);
    }

    #[test]
    fn what_is_not_whole_is_an_error() {
        for (sent, said) in [
            ("", "number 1 of 1 did not come"),
            ("file 3", "number 1 of 1 did not come"),
            ("file 3\nab", "of number 1 came 2 of 3 bytes"),
            ("file x\n", "the VM said \"file x\""),
            ("file 1\nab", "1 bytes came after the last one"),
        ] {
            let error = split(sent.as_bytes(), 1).unwrap_err().to_string();
            assert!(error.contains(said), "{sent:?}: {error}");
        }
    }

    #[test]
    fn those_that_are_there_are_written_and_the_others_named() {
        let directory = tempfile::tempdir().unwrap();
        let fetch =
            |name: &str| Fetch { path: format!("/run/{name}"), to: directory.path().join(name) };
        let fetches = ["there", "gone"].map(fetch);
        fs::write(&fetches[1].to, "of an earlier run").unwrap();
        prepare(&fetches).unwrap();
        let error = write(&fetches, b"file 2\nokabsent\n").unwrap_err();
        assert_eq!(error.to_string(), "the program has left no /run/gone");
        assert_eq!(fs::read_to_string(&fetches[0].to).unwrap(), "ok");
        assert!(!fetches[1].to.exists());
    }
}
