//! What works on which data plane: writes `docs/dataplanes.md` from what the packet tests have recorded.
//!
//! `make dataplanes` runs the tests and this. Nothing is told as passed that a record does not say.
//!
//! Start reading at [`results`] for what is recorded, at [`matrix`] for what is made of it.

mod cases;
mod matrix;
mod page;
mod results;

use std::path::PathBuf;
use std::process::{Command, ExitCode};

use anyhow::{Context, ensure};
use clap::Parser;

use cases::Chapter;
use matrix::Matrix;
use page::Made;
use results::{Plane, Results};

/// Writes which case works on which data plane. Ends with 1 if something failed in a run, after writing.
#[derive(Debug, Parser)]
#[command(name = "matrix")]
struct Arguments {
    /// What runs have recorded (by PORTOLAN_RESULTS), one file for each.
    #[arg(required = true, value_name = "FILE")]
    results: Vec<PathBuf>,
    /// The directory of the table of cases.
    #[arg(long, value_name = "DIRECTORY", default_value = "crates/dataplane/tests/cases")]
    cases: PathBuf,
    /// The page, which has two lines that the tables go between.
    #[arg(long, value_name = "FILE", default_value = "docs/dataplanes.md")]
    page: PathBuf,
    /// The commit that was tested.
    #[arg(long, value_name = "COMMIT")]
    commit: String,
    /// Why there is no result of a data plane. Where there are some, nothing is said of it.
    #[arg(long, value_name = "PLANE=WHY", value_parser = parse_absent)]
    absent: Vec<(Plane, String)>,
}

fn parse_absent(text: &str) -> Result<(Plane, String), String> {
    let (name, why) = text.split_once('=').ok_or("it has to be PLANE=WHY")?;
    let plane = Plane::named(name).ok_or_else(|| format!("there is no data plane {name}"))?;
    if why.trim().is_empty() {
        return Err(format!("why is there nothing of {name}?"));
    }
    Ok((plane, why.to_owned()))
}

fn main() -> ExitCode {
    match run(&Arguments::parse()) {
        Ok(0) => ExitCode::SUCCESS,
        Ok(failed) => {
            eprintln!("matrix: {failed} failed, as the page says");
            ExitCode::FAILURE
        }
        Err(error) => {
            eprintln!("matrix: {error:#}");
            ExitCode::from(2)
        }
    }
}

/// Writes the page and returns how much of it failed.
fn run(arguments: &Arguments) -> anyhow::Result<usize> {
    let chapters = Chapter::read_all(&arguments.cases)?;
    let mut results = Results::default();
    for file in &arguments.results {
        results.read(file)?;
    }
    ensure!(!results.is_empty(), "no result is in any file");
    let matrix = Matrix::new(&chapters, &results, &arguments.absent)?;
    let made = Made { date: say("date", &["-u", "+%Y-%m-%d"])?, commit: arguments.commit.clone() };
    page::update(&arguments.page, &made, &matrix)?;
    Ok(matrix.failures())
}

/// What a command says, without its last line break.
fn say(program: &str, arguments: &[&str]) -> anyhow::Result<String> {
    let what = || format!("run {program}");
    let output = Command::new(program).args(arguments).output().with_context(what)?;
    let said = String::from_utf8_lossy(&output.stderr);
    ensure!(output.status.success(), "{program}: {}", said.trim());
    Ok(String::from_utf8(output.stdout).with_context(what)?.trim().to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_absent_has_a_name_and_a_reason() {
        let absent = parse_absent("ipvs=it is a = sign").unwrap();
        assert_eq!(absent, (Plane::Ipvs, "it is a = sign".to_owned()));
        for wrong in ["ipvs", "ipvs=", "ipsv=why"] {
            assert!(parse_absent(wrong).is_err(), "{wrong}");
        }
    }
}
