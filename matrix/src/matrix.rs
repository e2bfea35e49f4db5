//! From results to what the page shows: a cell for each case and data plane.

use std::collections::{BTreeMap, BTreeSet};

use anyhow::ensure;

use crate::cases::{Chapter, Row};
use crate::results::{Outcome, Plane, Results, Run, Subject};

/// How much of a note is shown. A failure may say a lot, and the tests' own output has it all.
const LENGTH: usize = 300;

/// Everything that the page shows.
#[derive(Debug)]
pub(crate) struct Matrix {
    /// The kernels of the results, and the data planes that were run on each.
    pub(crate) kernels: Vec<Kernel>,
    pub(crate) sections: Vec<Section>,
    /// Reasons, which cells name by their number, beginning at 1.
    pub(crate) notes: Vec<String>,
    /// Why parts of what passed were not run, and of which cases.
    pub(crate) left_out: BTreeMap<String, BTreeSet<String>>,
    failures: usize,
}

/// A kernel that something was run on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Kernel {
    /// As `uname -r` says it.
    pub(crate) release: String,
    /// The release's first two numbers, where no other kernel has the same.
    pub(crate) label: String,
    pub(crate) planes: BTreeSet<Plane>,
}

/// Cases that belong together.
#[derive(Debug)]
pub(crate) struct Section {
    pub(crate) title: String,
    pub(crate) lines: Vec<Line>,
}

/// A case.
#[derive(Debug)]
pub(crate) struct Line {
    pub(crate) id: String,
    pub(crate) says: String,
    /// For each of [`Plane::ALL`].
    pub(crate) cells: Vec<Cell>,
}

/// How a case ended on a data plane.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Cell {
    /// It is no matter of data planes, or can't be run at all; the case says more.
    Elsewhere,
    /// There is no result. The note says why, if anybody did.
    Absent(Option<usize>),
    /// What came out, the worst first, each on some kernels.
    Ended(Vec<Ended>),
}

/// An outcome with the kernels that it is the same on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Ended {
    pub(crate) outcome: Outcome,
    /// Labels of the kernels; `None` if it is all of them.
    pub(crate) on: Option<Vec<String>>,
    /// Numbers of notes.
    pub(crate) notes: Vec<usize>,
}

/// Cells in the making.
struct Maker<'a> {
    results: &'a Results,
    kernels: &'a [Kernel],
    absent: &'a [(Plane, String)],
    /// All variants of each row that any run knows of.
    variants: BTreeMap<&'a Subject, BTreeSet<&'a (String, String)>>,
    notes: Vec<String>,
    left_out: BTreeMap<String, BTreeSet<String>>,
}

impl Matrix {
    /// What results say about the table's rows and about tests; `absent` says why a data plane has none.
    pub(crate) fn new(
        chapters: &[Chapter],
        results: &Results,
        absent: &[(Plane, String)],
    ) -> anyhow::Result<Self> {
        let ids: BTreeSet<&str> =
            chapters.iter().flat_map(|chapter| &chapter.rows).map(|row| row.id.as_str()).collect();
        let mut tests = BTreeSet::new();
        for (subject, ..) in results.iter() {
            match subject {
                Subject::Test(name) => {
                    tests.insert(name.as_str());
                }
                Subject::Row(id) => {
                    ensure!(ids.contains(id.as_str()), "results tell of {id}, which is no row");
                }
            }
        }
        let kernels = kernels(results);
        let mut maker = Maker::new(results, &kernels, absent);
        let mut sections = Vec::new();
        for chapter in chapters {
            let lines = chapter.rows.iter().map(|row| maker.row(row, &tests)).collect();
            sections
                .push(Section { title: format!("{}. {}", chapter.letter, chapter.title), lines });
        }
        let lines = tests.iter().map(|name| maker.test(name)).collect();
        sections.push(Section { title: "Tests of every data plane".to_owned(), lines });
        let Maker { notes, left_out, .. } = maker;
        let failed = |(_, _, _, runs): (_, _, _, &[Run])| {
            runs.iter().filter(|run| run.outcome == Outcome::Failed).count()
        };
        let failures = results.iter().map(failed).sum();
        Ok(Self { kernels, sections, notes, left_out, failures })
    }

    /// How many runs failed.
    pub(crate) fn failures(&self) -> usize {
        self.failures
    }
}

impl<'a> Maker<'a> {
    fn new(results: &'a Results, kernels: &'a [Kernel], absent: &'a [(Plane, String)]) -> Self {
        let mut variants: BTreeMap<_, BTreeSet<_>> = BTreeMap::new();
        for (subject, _, _, runs) in results.iter() {
            let known = runs.iter().filter_map(|run| run.variant.as_ref());
            variants.entry(subject).or_default().extend(known);
        }
        let (notes, left_out) = (Vec::new(), BTreeMap::new());
        Self { results, kernels, absent, variants, notes, left_out }
    }

    /// A row of the table, by its own results and by those of the test that it names.
    fn row(&mut self, row: &Row, tests: &BTreeSet<&str>) -> Line {
        let mut subjects = Vec::new();
        let own = Subject::Row(row.id.clone());
        if self.variants.contains_key(&own) {
            subjects.push(own);
        }
        let mut says = row.says.clone();
        match (row.test(), &row.tested_by) {
            (Some(test), _) if tests.contains(test) => {
                subjects.push(Subject::Test(test.to_owned()));
                says += &format!(" (test: {})", readable(test));
            }
            (_, Some(tested_by)) if !subjects.is_empty() => {
                says += &format!(" (more of it elsewhere: `{tested_by}`)");
            }
            (_, Some(tested_by)) => {
                says += &format!(" (tested elsewhere: `{tested_by}`)");
            }
            (_, None) => {}
        }
        if let Some(why) = &row.cannot {
            says += &format!(" (can't be run: {why})");
        }
        let is_elsewhere = subjects.is_empty() && (row.tested_by.is_some() || row.cannot.is_some());
        let cells = Plane::ALL.map(|plane| match is_elsewhere {
            true => Cell::Elsewhere,
            false => self.cell(&row.id, &subjects, plane),
        });
        Line { id: row.id.clone(), says, cells: cells.into() }
    }

    fn test(&mut self, name: &str) -> Line {
        let subjects = [Subject::Test(name.to_owned())];
        let says = readable(name);
        let cells = Plane::ALL.map(|plane| self.cell(&says, &subjects, plane)).into();
        Line { id: String::new(), says, cells }
    }

    fn cell(&mut self, name: &str, subjects: &[Subject], plane: Plane) -> Cell {
        let mut by_outcome: BTreeMap<Outcome, (Vec<String>, BTreeSet<usize>)> = BTreeMap::new();
        for kernel in self.kernels {
            let Some((outcome, reasons)) = self.ended(name, subjects, plane, kernel) else {
                continue;
            };
            let (on, notes) = by_outcome.entry(outcome).or_default();
            on.push(kernel.label.clone());
            notes.extend(reasons.into_iter().map(|reason| self.note(&reason)));
        }
        if by_outcome.is_empty() {
            let is_absent = !self.kernels.iter().any(|kernel| kernel.planes.contains(&plane));
            let why = self.absent.iter().find(|(absent, _)| is_absent && *absent == plane);
            return Cell::Absent(why.map(|(_, why)| self.note(why)));
        }
        let all = self.kernels.len();
        let ended = |(outcome, (on, notes)): (_, (Vec<String>, BTreeSet<usize>))| Ended {
            outcome,
            on: (on.len() < all).then_some(on),
            notes: notes.into_iter().collect(),
        };
        Cell::Ended(by_outcome.into_iter().rev().map(ended).collect())
    }

    /// How something ended on one kernel, and why; `None` if there is no result of it at all. What
    /// consists of several has passed if each of them has.
    fn ended(
        &mut self,
        name: &str,
        subjects: &[Subject],
        plane: Plane,
        kernel: &Kernel,
    ) -> Option<(Outcome, BTreeSet<String>)> {
        let results = self.results;
        let runs: Vec<&[Run]> =
            subjects.iter().map(|subject| results.runs(subject, plane, &kernel.release)).collect();
        if runs.iter().all(|runs| runs.is_empty()) {
            return None;
        }
        let parts: Vec<_> =
            subjects.iter().zip(&runs).map(|(subject, runs)| self.part(subject, runs)).collect();
        // A part that did not run leaves the whole not run, unless another says worse.
        let has = |wanted| parts.iter().any(|(outcome, _)| *outcome == wanted);
        let order = [Outcome::Failed, Outcome::NotPossible, Outcome::NotRun];
        let outcome = order.into_iter().find(|wanted| has(*wanted)).unwrap_or(Outcome::Passed);
        if outcome == Outcome::Passed {
            for run in runs.into_iter().flatten() {
                if let Some(why) = &run.why {
                    self.left_out.entry(why.clone()).or_default().insert(name.to_owned());
                }
            }
        }
        let of_outcome = parts.into_iter().filter(|part| part.0 == outcome);
        Some((outcome, of_outcome.flat_map(|(_, reasons)| reasons).collect()))
    }

    /// How a row with its variants ended, or a test.
    fn part(&self, subject: &Subject, runs: &[Run]) -> (Outcome, BTreeSet<String>) {
        let outcome = runs.iter().map(|run| run.outcome).max().unwrap_or(Outcome::NotRun);
        let told: BTreeSet<_> = runs.iter().filter_map(|run| run.variant.as_ref()).collect();
        let missing = self.variants.get(subject).into_iter().flatten();
        let missing: Vec<String> = missing
            .filter(|variant| !told.contains(*variant))
            .map(|(family, protocol)| format!("{family} {protocol}"))
            .collect();
        if outcome <= Outcome::Passed && (runs.is_empty() || !missing.is_empty()) {
            let what = if runs.is_empty() { "a part of it".to_owned() } else { missing.join(", ") };
            return (Outcome::NotRun, [format!("there is no result of {what}")].into());
        }
        let reasons =
            runs.iter().filter(|run| run.outcome == outcome && outcome != Outcome::Passed);
        (outcome, reasons.filter_map(|run| run.why.clone()).collect())
    }

    /// The number of a note, which is made if there is none.
    fn note(&mut self, reason: &str) -> usize {
        let mut text = reason.split_whitespace().collect::<Vec<_>>().join(" ");
        if let Some((end, _)) = text.char_indices().nth(LENGTH) {
            text.truncate(end);
            text += " ...";
        }
        let place = self.notes.iter().position(|note| *note == text);
        let place = place.unwrap_or_else(|| {
            self.notes.push(text);
            self.notes.len() - 1
        });
        place + 1
    }
}

/// The kernels of results, the oldest first.
fn kernels(results: &Results) -> Vec<Kernel> {
    let mut releases: BTreeMap<&str, BTreeSet<Plane>> = BTreeMap::new();
    for (_, plane, release, _) in results.iter() {
        releases.entry(release).or_default().insert(plane);
    }
    let label = |release: &str| {
        let same = releases.keys().filter(|other| version(other) == version(release)).count();
        match version(release) {
            (Some(major), Some(minor)) if same == 1 => format!("{major}.{minor}"),
            _ => release.to_owned(),
        }
    };
    let kernel = |(release, planes): (&&str, &BTreeSet<Plane>)| Kernel {
        release: (*release).to_owned(),
        label: label(release),
        planes: planes.clone(),
    };
    let mut kernels: Vec<Kernel> = releases.iter().map(kernel).collect();
    kernels.sort_by_key(|kernel| version(&kernel.release));
    kernels
}

/// The first two numbers of a release.
fn version(release: &str) -> (Option<u32>, Option<u32>) {
    let mut numbers = release.split(['.', '-']).map(|text| text.parse().ok());
    (numbers.next().flatten(), numbers.next().flatten())
}

/// A test's name as words.
fn readable(name: &str) -> String {
    let word = |word| match word {
        "ipv4" | "v4" => "IPv4".to_owned(),
        "ipv6" | "v6" => "IPv6".to_owned(),
        "tcp" | "udp" | "sctp" => word.to_uppercase(),
        other => other.to_owned(),
    };
    name.split('_').map(word).collect::<Vec<_>>().join(" ")
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    /// `SUBJECT PLANE KERNEL OUTCOME WHY`, separated by commas; a subject with a capital letter is a row
    /// with its variant.
    pub(crate) fn results(lines: &[&str]) -> Results {
        let mut results = Results::default();
        for line in lines {
            let parts: Vec<&str> = line.split(',').map(str::trim).collect();
            let subject = match parts[0].split(' ').collect::<Vec<_>>().as_slice() {
                [id, family, protocol] => {
                    format!(r#""row":"{id}","family":"{family}","protocol":"{protocol}""#)
                }
                _ => format!(r#""test":"{}""#, parts[0]),
            };
            let why = parts.get(4).map_or("null".to_owned(), |why| format!("\"{why}\""));
            let (plane, kernel, outcome) = (parts[1], parts[2], parts[3]);
            results
                .add(&format!(
                    r#"{{{subject},"plane":"{plane}","kernel":"{kernel}","outcome":"{outcome}","why":{why}}}"#
                ))
                .unwrap();
        }
        results
    }

    pub(crate) fn chapter() -> Chapter {
        let row = |id: &str, tested_by: Option<&str>, cannot: Option<&str>| Row {
            id: id.to_owned(),
            says: format!("{id} works"),
            tested_by: tested_by.map(str::to_owned),
            cannot: cannot.map(str::to_owned),
        };
        Chapter {
            letter: "A".to_owned(),
            title: "Addresses".to_owned(),
            rows: vec![
                row("A1", None, None),
                row("A2", Some("packets/a.rs a_test"), None),
                row("A3", Some("elsewhere.rs another_test"), None),
                row("A4", None, Some("nobody can")),
            ],
        }
    }

    fn matrix(lines: &[&str]) -> Matrix {
        let absent = [(Plane::Ipvs, "it is not here".to_owned())];
        Matrix::new(&[chapter()], &results(lines), &absent).unwrap()
    }

    /// An outcome with the kernels that it is on and its notes.
    type Told<'a> = (Outcome, Option<Vec<&'a str>>, Vec<&'a str>);

    /// The cell of a row on nftables.
    fn cell<'a>(matrix: &'a Matrix, id: &str) -> Vec<Told<'a>> {
        let line = matrix.sections[0].lines.iter().find(|line| line.id == id).unwrap();
        let Cell::Ended(ended) = &line.cells[0] else { panic!("{:?}", line.cells[0]) };
        let part = |ended: &'a Ended| {
            let on = ended.on.as_ref().map(|on| on.iter().map(String::as_str).collect());
            let notes = ended.notes.iter().map(|number| matrix.notes[number - 1].as_str());
            (ended.outcome, on, notes.collect())
        };
        ended.iter().map(part).collect()
    }

    #[test]
    fn a_row_passed_if_all_that_could_run_passed_and_something_ran() {
        let matrix = matrix(&[
            "A1 IPv4 TCP, nftables, 6.1, passed",
            "A1 IPv4 SCTP, nftables, 6.1, not run, no sockets",
            "A2 IPv4 SCTP, nftables, 6.1, not run, no sockets",
        ]);
        assert_eq!(cell(&matrix, "A1"), [(Outcome::Passed, None, vec![])]);
        assert_eq!(cell(&matrix, "A2"), [(Outcome::NotRun, None, vec!["no sockets"])]);
        assert_eq!(matrix.left_out["no sockets"], ["A1".to_owned()].into());
        assert_eq!(matrix.failures(), 0);
    }

    #[test]
    fn one_variant_that_failed_or_is_not_possible_is_enough() {
        let failed = matrix(&[
            "A1 IPv4 TCP, nftables, 6.1, passed",
            "A1 IPv6 TCP, nftables, 6.1, failed, it is lost",
            "A1 IPv4 UDP, nftables, 6.1, not possible, no such thing",
        ]);
        assert_eq!(cell(&failed, "A1"), [(Outcome::Failed, None, vec!["it is lost"])]);
        assert_eq!(failed.failures(), 1);
        let partly = matrix(&[
            "A1 IPv4 TCP, nftables, 6.1, passed",
            "A1 IPv4 UDP, nftables, 6.1, not possible, no such thing",
        ]);
        assert_eq!(cell(&partly, "A1"), [(Outcome::NotPossible, None, vec!["no such thing"])]);
    }

    #[test]
    fn a_variant_without_a_result_is_not_taken_for_passed() {
        let matrix = matrix(&[
            "A1 IPv4 TCP, nftables, 6.1, passed",
            "A1 IPv4 TCP, nftables, 6.12, passed",
            "A1 IPv6 TCP, nftables, 6.12, passed",
        ]);
        let why = "there is no result of IPv6 TCP";
        let expected = [
            (Outcome::Passed, Some(vec!["6.12"]), vec![]),
            (Outcome::NotRun, Some(vec!["6.1"]), vec![why]),
        ];
        assert_eq!(cell(&matrix, "A1"), expected);
    }

    #[test]
    fn a_row_with_a_test_passed_if_both_did() {
        let row = "A2 IPv4 TCP, nftables, 6.1, passed";
        let both = matrix(&[row, "a_test, nftables, 6.1, passed"]);
        assert_eq!(cell(&both, "A2"), [(Outcome::Passed, None, vec![])]);
        let failed = matrix(&[row, "a_test, nftables, 6.1, failed, it is lost"]);
        assert_eq!(cell(&failed, "A2"), [(Outcome::Failed, None, vec!["it is lost"])]);
        let one = matrix(&[row, "a_test, ipvs, 6.1, passed"]);
        let why = "there is no result of a part of it";
        assert_eq!(cell(&one, "A2"), [(Outcome::NotRun, None, vec![why])]);
    }

    #[test]
    fn kernels_are_named_where_not_all_are_meant() {
        let matrix = matrix(&[
            "A1 IPv4 TCP, nftables, 6.12.5-amd64, passed",
            "A1 IPv4 TCP, nftables, 6.1.0-9, failed, it is lost",
            "A1 IPv4 TCP, iptables-nft, 6.12.5-amd64, passed",
        ]);
        let labels: Vec<_> = matrix.kernels.iter().map(|kernel| kernel.label.as_str()).collect();
        assert_eq!(labels, ["6.1", "6.12"]);
        let expected = [
            (Outcome::Failed, Some(vec!["6.1"]), vec!["it is lost"]),
            (Outcome::Passed, Some(vec!["6.12"]), vec![]),
        ];
        assert_eq!(cell(&matrix, "A1"), expected);
        let ended =
            Ended { outcome: Outcome::Passed, on: Some(vec!["6.12".into()]), notes: vec![] };
        assert_eq!(matrix.sections[0].lines[0].cells[1], Cell::Ended(vec![ended]));
    }

    #[test]
    fn kernels_of_one_version_keep_their_names() {
        let matrix = matrix(&["t, nftables, 6.1.0-9, passed", "t, nftables, 6.1.0-10, passed"]);
        let labels: Vec<_> = matrix.kernels.iter().map(|kernel| kernel.label.as_str()).collect();
        assert_eq!(labels, ["6.1.0-10", "6.1.0-9"]);
    }

    #[test]
    fn what_has_no_result_says_why_if_anybody_does() {
        let matrix =
            matrix(&["A1 IPv4 TCP, nftables, 6.1, passed", "a_test, iptables-nft, 6.1, passed"]);
        let [a1, a2, a3, a4] = matrix.sections[0].lines.as_slice() else { panic!("four rows") };
        assert_eq!(a1.cells.len(), Plane::ALL.len());
        for (plane, cell) in Plane::ALL.iter().zip(&a1.cells).skip(1) {
            let why = (*plane == Plane::Ipvs).then_some(1);
            assert_eq!(*cell, Cell::Absent(why), "{}", plane.name());
        }
        assert_eq!(matrix.notes, ["it is not here"]);
        assert_eq!(a2.says, "A2 works (test: a test)");
        assert_eq!(a3.cells[0], Cell::Elsewhere);
        assert_eq!(a4.cells[3], Cell::Elsewhere);
        assert!(a4.says.ends_with("(can't be run: nobody can)"), "{}", a4.says);
    }

    #[test]
    fn a_result_of_an_unknown_row_is_an_error() {
        let results = results(&["Z9 IPv4 TCP, nftables, 6.1, passed"]);
        let error = Matrix::new(&[chapter()], &results, &[]).unwrap_err();
        assert_eq!(error.to_string(), "results tell of Z9, which is no row");
    }

    #[test]
    fn names_of_tests_become_words() {
        assert_eq!(readable("udp_clients_follow_v4"), "UDP clients follow IPv4");
    }
}
