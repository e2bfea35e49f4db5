//! The tour: what the service network promises, tried out on a running lab, and what was seen.
//!
//! Each row of the table is a small function in [`checks`] that sends real packets with real
//! programs and answers what it saw. Nothing is assumed: a row whose function did not see it is a
//! failed row.

mod checks;
mod context;

use std::io::{self, Write};
use std::time::{Duration, Instant};

use lab::Lab;

use crate::client::Client;
use crate::errors::sentence;
use checks::CHECKS;
use context::Tour;

/// One promise and how it is tried.
pub(crate) struct Check {
    /// What is promised, in a few words.
    promise: &'static str,
    /// Tries it.
    run: fn(&Tour) -> anyhow::Result<Evidence>,
}

/// What was seen.
#[derive(Debug)]
pub(crate) struct Evidence {
    /// In a few words, with addresses and names.
    seen: String,
    /// How long it took, where that says something.
    took: Option<Duration>,
}

impl Evidence {
    fn new(seen: impl Into<String>) -> Self {
        Self { seen: seen.into(), took: None }
    }

    fn timed(seen: impl Into<String>, took: Duration) -> Self {
        Self { seen: seen.into(), took: Some(took) }
    }
}

/// Makes the tour and prints its table. `start` is when the lab was started. Answers whether every
/// row is well.
pub(crate) async fn run(lab: &Lab, client: Client, start: Instant) -> anyhow::Result<bool> {
    let tour = Tour::new(lab, client, start)?;
    // Checks wait for programs; the runtime meanwhile serves the API client.
    tokio::task::spawn_blocking(move || print_table(&tour)).await?
}

fn print_table(tour: &Tour) -> anyhow::Result<bool> {
    let width = CHECKS.iter().map(|check| check.promise.chars().count()).max().unwrap_or(0);
    let mut out = io::stdout().lock();
    writeln!(out, "\n      {:<width$}  {:>9}  seen", "promise", "took")?;
    let mut failed = 0;
    for Check { promise, run } in CHECKS {
        let (mark, took, seen) = match run(tour) {
            Ok(Evidence { seen, took }) => ("ok", took.map(describe).unwrap_or_default(), seen),
            Err(error) => {
                failed += 1;
                ("FAIL", String::new(), sentence(&error))
            }
        };
        writeln!(out, "{mark:<4}  {promise:<width$}  {took:>9}  {}", one_line(&seen))?;
        out.flush()?;
    }
    match failed {
        0 => writeln!(out, "all {} rows are well", CHECKS.len())?,
        _ => writeln!(out, "{failed} of {} rows FAILED", CHECKS.len())?,
    }
    Ok(failed == 0)
}

fn one_line(text: &str) -> String {
    text.split_whitespace().collect::<Vec<_>>().join(" ")
}

fn describe(took: Duration) -> String {
    let milliseconds = took.as_secs_f64() * 1e3;
    match milliseconds {
        ..10.0 => format!("{milliseconds:.2} ms"),
        ..1000.0 => format!("{milliseconds:.0} ms"),
        _ => format!("{:.2} s", milliseconds / 1e3),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_have_three_digits_or_so() {
        for (took, text) in [
            (Duration::from_micros(843), "0.84 ms"),
            (Duration::from_millis(12), "12 ms"),
            (Duration::from_millis(1234), "1.23 s"),
        ] {
            assert_eq!(describe(took), text);
        }
    }
}
