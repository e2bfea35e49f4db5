//! What it costs: time to start, memory.

use std::time::{Duration, Instant};

use anyhow::ensure;

use super::{DEFAULT, Evidence, NGINX, Tour};
use crate::testbed::{OUTSIDE, Target};

/// Within this time of the start the first request has to be answered.
const STARTED: Duration = Duration::from_secs(2);
/// Resident memory of all processes together, in bytes.
const RESIDENT: u64 = 80_000_000;

/// From the start of `lab up` to the first answer on a node port.
pub(super) fn first_answer(tour: &Tour) -> anyhow::Result<Evidence> {
    let nodes = tour.nodes();
    let url = tour.service(DEFAULT, NGINX)?.node_url(nodes[0])?;
    tour.eventually(|| tour.curl(&Target::host(OUTSIDE), &url))?;
    let took = tour.start.elapsed();
    ensure!(took < STARTED, "{url} answered after {took:?}");
    Ok(Evidence::timed(url, took))
}

/// Brings what the following rows need beside `examples/`.
pub(super) fn manifests(tour: &Tour) -> anyhow::Result<Evidence> {
    let begin = Instant::now();
    let applied = tour.apply("tour.yaml", include_str!("../manifests.yaml"))?;
    Ok(Evidence::timed(format!("{applied} objects"), begin.elapsed()))
}

pub(super) fn memory(tour: &Tour) -> anyhow::Result<Evidence> {
    let processes = tour.resident()?;
    let sum: u64 = processes.iter().map(|process| process.kibibytes * 1024).sum();
    let each: Vec<String> = processes.iter().map(ToString::to_string).collect();
    let seen = format!("{:.1} MB: {}", sum as f64 / 1e6, each.join(", "));
    ensure!(sum < RESIDENT, "{seen}");
    Ok(Evidence::new(seen))
}
