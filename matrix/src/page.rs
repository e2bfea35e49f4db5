//! The matrix as text, in the page's place for it.

use std::fmt::Write;
use std::fs;
use std::path::Path;

use anyhow::Context;

use crate::matrix::{Cell, Ended, Line, Matrix};
use crate::results::{Outcome, Plane};

/// What stands between these lines of the page is written by this program.
const BEGIN: &str = "<!-- written by `make dataplanes`: begin -->";
const END: &str = "<!-- written by `make dataplanes`: end -->";

/// Of so many cases the names are told, of more the number.
const FEW: usize = 8;

/// When the page is made, and of what.
#[derive(Debug)]
pub(crate) struct Made {
    pub(crate) date: String,
    pub(crate) commit: String,
}

/// Puts the matrix into the page.
pub(crate) fn update(page: &Path, made: &Made, matrix: &Matrix) -> anyhow::Result<()> {
    let text = fs::read_to_string(page).with_context(|| format!("read {}", page.display()))?;
    let text = replace(&text, &tables(made, matrix))
        .with_context(|| format!("{} has no place for the matrix: {BEGIN}", page.display()))?;
    fs::write(page, text).with_context(|| format!("write {}", page.display()))
}

/// The page with this between its two lines, if it has them.
fn replace(page: &str, tables: &str) -> Option<String> {
    let (before, rest) = page.split_once(BEGIN)?;
    let (_, after) = rest.split_once(END)?;
    Some(format!("{before}{BEGIN}\n\n{tables}\n{END}{after}"))
}

/// Everything, in Markdown.
fn tables(made: &Made, matrix: &Matrix) -> String {
    let mut text = String::new();
    // Writing into a String can't fail.
    let _ = write_tables(&mut text, made, matrix);
    text
}

fn write_tables(text: &mut String, made: &Made, matrix: &Matrix) -> std::fmt::Result {
    writeln!(text, "Made {} at commit {}, of runs on these kernels:\n", made.date, made.commit)?;
    writeln!(text, "| Linux | called here | data planes |\n|---|---|---|")?;
    for kernel in &matrix.kernels {
        let planes: Vec<_> = kernel.planes.iter().map(|plane| plane.name()).collect();
        writeln!(text, "| {} | {} | {} |", kernel.release, kernel.label, planes.join(", "))?;
    }

    let names = Plane::ALL.map(Plane::name).join(" | ");
    let each = |cell: &str| cell.repeat(Plane::ALL.len());
    writeln!(text, "\n| cases | {names} |\n|---|{}", each("--:|"))?;
    let lines: Vec<&Line> = matrix.sections.iter().flat_map(|section| &section.lines).collect();
    for what in ["passed", "not possible", "not run", "FAILED", "elsewhere"] {
        let count = |place: usize| {
            lines.iter().filter(|line| summary(&line.cells[place]) == what).count().to_string()
        };
        let counts: Vec<String> = (0..Plane::ALL.len()).map(count).collect();
        writeln!(text, "| {what} | {} |", counts.join(" | "))?;
    }

    writeln!(text, "\n| | case | {names} |\n|---|---|{}", each("---|"))?;
    for section in &matrix.sections {
        writeln!(text, "| | **{}** |{}", escape(&section.title), each(" |"))?;
        for Line { id, says, cells } in &section.lines {
            let cells: Vec<String> = cells.iter().map(cell).collect();
            writeln!(text, "| {id} | {} | {} |", escape(says), cells.join(" | "))?;
        }
    }
    if !matrix.notes.is_empty() {
        writeln!(text)?;
    }
    for (i, note) in matrix.notes.iter().enumerate() {
        writeln!(text, "{}. {}", i + 1, escape(note))?;
    }
    if !matrix.left_out.is_empty() {
        writeln!(text, "\nLeft out of what passed:\n")?;
    }
    for (why, cases) in &matrix.left_out {
        let of = match cases.len() {
            count if count > FEW => format!("in {count} cases"),
            _ => format!("in {}", cases.iter().cloned().collect::<Vec<_>>().join(", ")),
        };
        writeln!(text, "* {} ({of})", escape(why))?;
    }
    Ok(())
}

/// A cell in one word, for the counts: the worst of it.
fn summary(cell: &Cell) -> &'static str {
    match cell {
        Cell::Elsewhere => "elsewhere",
        Cell::Absent(_) => word(Outcome::NotRun),
        Cell::Ended(ended) => ended.first().map_or("not run", |worst| word(worst.outcome)),
    }
}

fn word(outcome: Outcome) -> &'static str {
    match outcome {
        Outcome::NotRun => "not run",
        Outcome::Passed => "passed",
        Outcome::NotPossible => "not possible",
        Outcome::Failed => "FAILED",
    }
}

fn cell(cell: &Cell) -> String {
    match cell {
        Cell::Elsewhere => "elsewhere".to_owned(),
        Cell::Absent(None) => "not run here".to_owned(),
        Cell::Absent(Some(note)) => format!("not run here ({note})"),
        Cell::Ended(ended) => ended.iter().map(part).collect::<Vec<_>>().join("; "),
    }
}

fn part(ended: &Ended) -> String {
    let mut text = match ended.outcome {
        Outcome::Failed => "**FAILED**".to_owned(),
        other => word(other).to_owned(),
    };
    if !ended.notes.is_empty() {
        let numbers: Vec<String> = ended.notes.iter().map(usize::to_string).collect();
        text += &format!(" ({})", numbers.join(", "));
    }
    if let Some(on) = &ended.on {
        text += &format!(" on {}", on.join(", "));
    }
    text
}

/// Text as it is, in a table too.
fn escape(text: &str) -> String {
    text.replace('|', "\\|").replace('<', "&lt;")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::matrix::tests::{chapter, results};

    fn made() -> Made {
        Made { date: "2026-01-02".to_owned(), commit: "abc".to_owned() }
    }

    #[test]
    fn the_page_says_what_there_is() {
        let results = results(&[
            "A1 IPv4 TCP, nftables, 6.1.0-9, passed",
            "A1 IPv4 SCTP, nftables, 6.1.0-9, not run, no sockets",
            "A1 IPv4 TCP, nftables, 6.12.1, failed, it is | lost",
            "A1 IPv4 SCTP, nftables, 6.12.1, not run, no sockets",
            "A1 IPv4 TCP, ipvs, 6.12.1, not possible, no such thing",
            "A1 IPv4 SCTP, ipvs, 6.12.1, not possible, no such thing",
            "a_test, nftables, 6.1.0-9, passed",
            "a_test, nftables, 6.12.1, passed",
        ]);
        let absent = [(Plane::IptablesNft, "not here".to_owned())];
        let matrix = Matrix::new(&[chapter()], &results, &absent).unwrap();
        let expected = "\
Made 2026-01-02 at commit abc, of runs on these kernels:

| Linux | called here | data planes |
|---|---|---|
| 6.1.0-9 | 6.1 | nftables |
| 6.12.1 | 6.12 | nftables, ipvs |

| cases | nftables | iptables-nft | iptables-legacy | ipvs | ebpf |
|---|--:|--:|--:|--:|--:|
| passed | 2 | 0 | 0 | 0 | 0 |
| not possible | 0 | 0 | 0 | 1 | 0 |
| not run | 0 | 3 | 3 | 2 | 3 |
| FAILED | 1 | 0 | 0 | 0 | 0 |
| elsewhere | 2 | 2 | 2 | 2 | 2 |

| | case | nftables | iptables-nft | iptables-legacy | ipvs | ebpf |
|---|---|---|---|---|---|---|
| | **A. Addresses** | | | | | |
| A1 | A1 works | **FAILED** (1) on 6.12; passed on 6.1 | not run here (2) | not run here | not possible (3) on 6.12 | not run here |
| A2 | A2 works (test: a test) | passed | not run here (2) | not run here | not run here | not run here |
| A3 | A3 works (tested elsewhere: `elsewhere.rs another_test`) | elsewhere | elsewhere | elsewhere | elsewhere | elsewhere |
| A4 | A4 works (can't be run: nobody can) | elsewhere | elsewhere | elsewhere | elsewhere | elsewhere |
| | **Tests of every data plane** | | | | | |
|  | a test | passed | not run here (2) | not run here | not run here | not run here |

1. it is \\| lost
2. not here
3. no such thing

Left out of what passed:

* no sockets (in A1)
";
        assert_eq!(tables(&made(), &matrix), expected);
    }

    #[test]
    fn what_was_written_by_hand_stays() {
        let page = format!("before\n{BEGIN}\nold\n{END}\nafter\n");
        let expected = format!("before\n{BEGIN}\n\nnew\n\n{END}\nafter\n");
        assert_eq!(replace(&page, "new\n").as_deref(), Some(expected.as_str()));
        assert_eq!(replace(&expected, "new\n").as_deref(), Some(expected.as_str()));
        assert_eq!(replace("no lines\n", "new\n"), None);
    }
}
