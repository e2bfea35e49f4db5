//! What the packet tests have recorded: `crates/dataplane/tests/packets/planes.rs` says how.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use anyhow::{Context, bail, ensure};
use serde::Deserialize;

/// A data plane.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Plane {
    Nftables,
    IptablesNft,
    IptablesLegacy,
    Ipvs,
    Ebpf,
}

/// What has an outcome.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Subject {
    /// A row of the table of cases, by its id.
    Row(String),
    /// A test, by its name.
    Test(String),
}

/// How something ended, from what counts least to what counts most where several are taken together:
/// what is failed or not possible in part has not passed, and what did not run takes nothing from what did.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Outcome {
    #[serde(rename = "not run")]
    NotRun,
    Passed,
    #[serde(rename = "not possible")]
    NotPossible,
    Failed,
}

/// One run of something, which may be one variant of it.
#[derive(Debug, Clone)]
pub(crate) struct Run {
    pub(crate) outcome: Outcome,
    pub(crate) why: Option<String>,
    /// The family and protocol of a row's variant.
    pub(crate) variant: Option<(String, String)>,
}

/// All runs, by what was run, on which data plane, under which kernel.
#[derive(Debug, Default)]
pub(crate) struct Results {
    runs: BTreeMap<(Subject, Plane, String), Vec<Run>>,
}

/// A line of a file.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Line {
    plane: Plane,
    kernel: String,
    outcome: Outcome,
    why: Option<String>,
    test: Option<String>,
    row: Option<String>,
    family: Option<String>,
    protocol: Option<String>,
}

impl Plane {
    /// In the order of the columns.
    pub(crate) const ALL: [Plane; 5] =
        [Plane::Nftables, Plane::IptablesNft, Plane::IptablesLegacy, Plane::Ipvs, Plane::Ebpf];

    pub(crate) fn name(self) -> &'static str {
        match self {
            Plane::Nftables => "nftables",
            Plane::IptablesNft => "iptables-nft",
            Plane::IptablesLegacy => "iptables-legacy",
            Plane::Ipvs => "ipvs",
            Plane::Ebpf => "ebpf",
        }
    }

    pub(crate) fn named(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|plane| plane.name() == name)
    }
}

impl Results {
    /// Adds what a file has.
    pub(crate) fn read(&mut self, file: &Path) -> anyhow::Result<()> {
        let text = fs::read_to_string(file).with_context(|| format!("read {}", file.display()))?;
        ensure!(!text.is_empty(), "{} is empty", file.display());
        for (number, line) in text.lines().enumerate() {
            self.add(line).with_context(|| format!("{}:{}", file.display(), number + 1))?;
        }
        Ok(())
    }

    /// Adds a line.
    pub(crate) fn add(&mut self, line: &str) -> anyhow::Result<()> {
        let line: Line = serde_json::from_str(line).context("this is no result of a test")?;
        ensure!(!line.kernel.is_empty(), "it does not say the kernel");
        let (subject, variant) = match (line.row, line.test, line.family, line.protocol) {
            (Some(row), None, Some(family), Some(protocol)) => {
                (Subject::Row(row), Some((family, protocol)))
            }
            (None, Some(test), None, None) => (Subject::Test(test), None),
            _ => bail!("it is neither a test nor a row with family and protocol"),
        };
        let is_said = line.why.as_ref().is_some_and(|why| !why.trim().is_empty());
        ensure!(is_said || line.outcome == Outcome::Passed, "it does not say why");
        let run = Run { outcome: line.outcome, why: line.why, variant };
        self.runs.entry((subject, line.plane, line.kernel)).or_default().push(run);
        Ok(())
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.runs.is_empty()
    }

    /// All runs in order.
    pub(crate) fn iter(&self) -> impl Iterator<Item = (&Subject, Plane, &str, &[Run])> {
        self.runs.iter().map(|((subject, plane, kernel), runs)| {
            (subject, *plane, kernel.as_str(), runs.as_slice())
        })
    }

    /// The runs of something on a data plane under a kernel.
    pub(crate) fn runs(&self, subject: &Subject, plane: Plane, kernel: &str) -> &[Run] {
        let key = (subject.clone(), plane, kernel.to_owned());
        self.runs.get(&key).map_or(&[], Vec::as_slice)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_are_read_as_tests_write_them() {
        let mut results = Results::default();
        let row = r#"{"row":"A1","family":"IPv4","protocol":"SCTP","plane":"iptables-nft","kernel":"6.1","outcome":"not run","why":"no sockets"}"#;
        results.add(row).unwrap();
        let test =
            r#"{"test":"a_test","plane":"ipvs","kernel":"6.1","outcome":"passed","why":null}"#;
        results.add(test).unwrap();
        let run = &results.runs(&Subject::Row("A1".into()), Plane::IptablesNft, "6.1")[0];
        assert_eq!((run.outcome, run.why.as_deref()), (Outcome::NotRun, Some("no sockets")));
        assert_eq!(run.variant, Some(("IPv4".to_owned(), "SCTP".to_owned())));
        let run = &results.runs(&Subject::Test("a_test".into()), Plane::Ipvs, "6.1")[0];
        assert_eq!(run.outcome, Outcome::Passed);
    }

    #[test]
    fn what_is_wrong_with_a_line_is_said() {
        let whole = r#"{"test":"a","plane":"ipvs","kernel":"6.1","outcome":"passed","why":null}"#;
        for (old, new, said) in [
            ("null}", "null", "this is no result of a test"),
            ("ipvs", "ipsv", "unknown variant `ipsv`"),
            ("passed", "fine", "unknown variant `fine`"),
            ("passed", "not possible", "it does not say why"),
            ("\"6.1\"", "\"\"", "it does not say the kernel"),
            ("\"test\"", "\"row\"", "neither a test nor a row"),
        ] {
            let error = Results::default().add(&whole.replace(old, new)).unwrap_err();
            let text = format!("{error:#}");
            assert!(text.contains(said), "{new}: {text}");
        }
    }

    #[test]
    fn an_error_names_file_and_line() {
        let directory = tempfile::tempdir().unwrap();
        let file = directory.path().join("run.jsonl");
        let whole = r#"{"test":"a","plane":"ipvs","kernel":"6.1","outcome":"passed","why":null}"#;
        fs::write(&file, format!("{whole}\n{{\"test\":")).unwrap();
        let error = Results::default().read(&file).unwrap_err();
        assert!(format!("{error:#}").contains("run.jsonl:2: "), "{error:#}");
        fs::write(&file, "").unwrap();
        let error = Results::default().read(&file).unwrap_err();
        assert!(error.to_string().ends_with("is empty"), "{error}");
    }
}
