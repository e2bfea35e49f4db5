//! Names of Services, resolved in a pod as any program does.

use std::time::Instant;

use anyhow::ensure;

use super::{DEFAULT, Evidence, NGINX, Tour, nginx_pods};

pub(super) fn short(tour: &Tour) -> anyhow::Result<Evidence> {
    resolves(tour, NGINX)
}

pub(super) fn with_namespace(tour: &Tour) -> anyhow::Result<Evidence> {
    resolves(tour, &format!("{NGINX}.{DEFAULT}"))
}

pub(super) fn full(tour: &Tour) -> anyhow::Result<Evidence> {
    resolves(tour, &format!("{NGINX}.{DEFAULT}.svc.cluster.local"))
}

fn resolves(tour: &Tour, name: &str) -> anyhow::Result<Evidence> {
    let address = tour.service(DEFAULT, NGINX)?.address;
    let pod = &nginx_pods(tour)?[0];
    let (answer, took) = tour.eventually(|| {
        let begin = Instant::now();
        let answer = tour.expect(&pod.target(), &["getent", "ahostsv4", name])?;
        Ok((answer, begin.elapsed()))
    })?;
    ensure!(answer.split_whitespace().next() == Some(&*address), "{name} is {answer}");
    Ok(Evidence::timed(format!("{address} in {}", pod.name), took))
}
