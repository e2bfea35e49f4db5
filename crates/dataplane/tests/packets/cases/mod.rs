//! The table of cases (`tests/cases/*.yaml`), run against `plan::trace`, the in-memory data plane, and
//! the kernel with real packets. What is expected is written by hand, from Kubernetes' behaviour.

mod fake;
mod kernel;
pub(crate) mod row;
pub(crate) mod scene;
mod trace;

use std::collections::BTreeMap;
use std::path::Path;

use model::{Family, Protocol};
use row::{Row, table};
use scene::Variant;

use crate::planes::{Ending, Plane, Subject, on_every_plane};

/// What was run, for the test's output.
#[derive(Debug, Default)]
struct Tally {
    rows: usize,
    packets: usize,
    /// Why something did not run, and how often.
    not_run: BTreeMap<String, usize>,
    failures: Vec<String>,
}

impl Tally {
    fn skip(&mut self, why: &str) {
        *self.not_run.entry(why.to_owned()).or_default() += 1;
    }

    fn add(&mut self, other: Tally) {
        self.rows += other.rows;
        self.packets += other.packets;
        for (why, count) in other.not_run {
            *self.not_run.entry(why).or_default() += count;
        }
        self.failures.extend(other.failures);
    }

    /// How it ended altogether.
    fn ending(&self) -> Ending {
        let left_out = || self.not_run.keys().cloned().collect::<Vec<_>>().join("; ");
        match (self.failures.is_empty(), self.packets) {
            (false, _) => Ending::Failed(self.failures.join("; ")),
            (true, 0) => Ending::NotRun(left_out()),
            (true, _) => Ending::Passed { without: Some(left_out()).filter(|why| !why.is_empty()) },
        }
    }

    /// Prints the numbers, and fails if a packet went wrong.
    fn report(self, on: &str) {
        say!("{on}: {} rows, {} packets", self.rows, self.packets);
        for (why, count) in &self.not_run {
            say!("{on}: {count} not run: {why}");
        }
        assert!(self.failures.is_empty(), "{on}:\n{}", self.failures.join("\n"));
        assert!(self.packets > 0, "{on}: nothing ran");
    }
}

/// Runs every row with packets in each of its variants of a family.
fn each(families: &[Family], mut run: impl FnMut(&Row, Variant, &mut Tally)) -> Tally {
    let mut tally = Tally::default();
    for row in table().iter().filter(|row| row.has_packets()) {
        for family in row.families().filter(|family| families.contains(family)) {
            for protocol in row.protocols() {
                tally.rows += 1;
                run(row, Variant { family, protocol }, &mut tally);
            }
        }
    }
    tally
}

#[test]
fn on_trace() {
    each(&Family::ALL, trace::run).report("trace");
}

#[test]
fn on_the_fake() {
    each(&Family::ALL, fake::run).report("fake");
}

on_every_plane!(all_rows_of_the_table_in_ipv4, all_rows_of_the_table_in_ipv6);

fn all_rows_of_the_table_in_ipv4(plane: Plane) {
    on_the_kernel(plane, Family::V4).report(&format!("{} IPv4", plane.name()));
}

fn all_rows_of_the_table_in_ipv6(plane: Plane) {
    on_the_kernel(plane, Family::V6).report(&format!("{} IPv6", plane.name()));
}

/// Runs the rows that a data plane can do, and keeps how each of them ended.
fn on_the_kernel(plane: Plane, family: Family) -> Tally {
    let mut runner = Runner::new(plane);
    each(&[family], |row, variant, tally| {
        let Variant { family, protocol } = variant;
        let subject = Subject::Row { id: &row.id, family, protocol };
        if let Some(why) = row.not_on.get(plane.name()) {
            tally.skip(&format!("{} is not possible: {why}", row.id));
            plane.record(subject, &Ending::NotPossible(why.clone()));
            return;
        }
        let mut own = Tally::default();
        plane.attempt(subject, || {
            runner.run(row, variant, &mut own);
            own.ending()
        });
        tally.add(own);
    })
}

/// Every row runs somewhere or says why it can't, and no id stands twice.
#[test]
fn every_row_is_run_or_accounted_for() {
    let repository = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..");
    let mut ids = BTreeMap::new();
    let (mut elsewhere, mut cannot) = (0, 0);
    for row in table() {
        assert!(ids.insert(row.id.clone(), ()).is_none(), "{} stands twice", row.id);
        assert!(
            row.has_packets() || row.tested_by.is_some() || row.cannot.is_some(),
            "{}: {} is not run and does not say why",
            row.id,
            row.says
        );
        if let Some(test) = &row.tested_by {
            elsewhere += 1;
            let (file, function) = test.split_once(' ').expect("FILE FUNCTION");
            let text = std::fs::read_to_string(repository.join(file))
                .unwrap_or_else(|error| panic!("{}: {file}: {error}", row.id));
            let found = text.contains(&format!("fn {function}("));
            assert!(found, "{}: {file} has no test {function}", row.id);
        }
        if let Some(why) = &row.cannot {
            cannot += 1;
            say!("{} can't be run: {why}", row.id);
        }
    }
    say!("{} rows: {elsewhere} with tests of their own, {cannot} can't be run", ids.len());
}

/// A row has passed only if some packet of it has run.
#[test]
fn what_did_not_run_has_not_passed() {
    let mut tally = Tally::default();
    tally.skip("no sockets");
    assert_eq!(tally.ending(), Ending::NotRun("no sockets".to_owned()));
    tally.packets = 1;
    assert_eq!(tally.ending(), Ending::Passed { without: Some("no sockets".to_owned()) });
    tally.failures.push("it is lost".to_owned());
    assert_eq!(tally.ending(), Ending::Failed("it is lost".to_owned()));
}

/// Runs a row in one variant with real packets. Answers what went wrong.
pub(crate) fn kernel_run(runner: &mut Runner, row: &Row, variant: Variant) -> Vec<String> {
    let mut tally = Tally::default();
    runner.run(row, variant, &mut tally);
    tally.failures
}

pub(crate) use kernel::Runner;
pub(crate) use trace::outcome as trace_outcome;

/// Protocols that these tests have sockets for.
fn has_sockets(protocol: Protocol) -> bool {
    protocol != Protocol::Sctp
}
