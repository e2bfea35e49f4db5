//! Node ports, seen from the host that is not part of the cluster.

use std::time::Duration;

use anyhow::ensure;

use super::{DEFAULT, Evidence, NGINX, TOUR, Tour};
use crate::testbed::{OUTSIDE, Target};

pub(super) fn every_node(tour: &Tour) -> anyhow::Result<Evidence> {
    let service = tour.service(DEFAULT, NGINX)?;
    let mut slowest = Duration::ZERO;
    let mut seen = Vec::new();
    for node in tour.nodes() {
        let url = service.node_url(node)?;
        slowest = slowest.max(tour.curl(&Target::host(OUTSIDE), &url)?.took);
        seen.push(url);
    }
    Ok(Evidence::timed(seen.join(", "), slowest))
}

/// One pod, policy Local: its node answers and the pod sees the client; other nodes are silent.
pub(super) fn local_policy(tour: &Tour) -> anyhow::Result<Evidence> {
    let pod = tour.wait_for_pods(TOUR, "app=echo", 1)?.remove(0);
    let service = tour.service(TOUR, "echo-local")?;
    let client = format!("client {}", tour.outside_address()?);
    let outside = Target::host(OUTSIDE);
    let (here, elsewhere): (Vec<_>, Vec<_>) =
        tour.nodes().into_iter().partition(|node| node.name == pod.node);
    ensure!(here.len() == 1 && !elsewhere.is_empty(), "the pod is on one of several nodes");
    let url = service.node_url(here[0])?;
    let answer = tour.eventually(|| tour.curl(&outside, &url))?;
    ensure!(answer.body.contains(&client), "the server says {:?}", answer.body);
    for node in &elsewhere {
        let url = service.node_url(node)?;
        let output = tour.run(&outside, &["curl", "-sS", "--max-time", "1", &url])?;
        ensure!(!output.success(), "{} answers {}", node.name, output.stdout);
    }
    let seen = format!("{} alone answers, the pod sees {client}", pod.node);
    Ok(Evidence::timed(seen, answer.took))
}
