//! ClusterIPs: what they lead to, and what they don't.

use std::time::{Duration, Instant};

use anyhow::{bail, ensure};

use super::{DEFAULT, Evidence, MYSQL, NGINX, TOUR, Tour, nginx_pods};
use crate::testbed::{OUTSIDE, Target};

/// Within this time a refusal counts as one, not as silence.
const AT_ONCE: Duration = Duration::from_millis(500);

pub(super) fn from_nodes(tour: &Tour) -> anyhow::Result<Evidence> {
    let targets = tour.nodes().into_iter().map(|node| Target::host(&node.name)).collect();
    from_all(tour, targets)
}

pub(super) fn from_pods(tour: &Tour) -> anyhow::Result<Evidence> {
    let targets = nginx_pods(tour)?.iter().map(|pod| pod.target()).collect();
    from_all(tour, targets)
}

fn from_all(tour: &Tour, targets: Vec<Target>) -> anyhow::Result<Evidence> {
    let url = tour.service(DEFAULT, NGINX)?.url();
    let mut slowest = Duration::ZERO;
    for target in &targets {
        slowest = slowest.max(tour.curl(target, &url)?.took);
    }
    Ok(Evidence::timed(format!("{url} from {} places", targets.len()), slowest))
}

/// Refused at once, from a node and from a pod.
pub(super) fn other_port(tour: &Tour) -> anyhow::Result<Evidence> {
    let service = tour.service(DEFAULT, NGINX)?;
    let url = format!("http://{}:{}/", service.address, service.port + 1);
    let node = Target::host(&tour.nodes()[0].name);
    let mut slowest = Duration::ZERO;
    for target in [node, nginx_pods(tour)?[0].target()] {
        let begin = Instant::now();
        let output = tour.run(&target, &["curl", "-sS", "--max-time", "2", &url])?;
        let took = begin.elapsed();
        // curl's exit code 7 is "failed to connect"; 28 would be "timed out".
        ensure!(output.status.code() == Some(7), "{target}: {} {}", output.stdout, output.stderr);
        ensure!(took < AT_ONCE, "{target} was refused after {took:?}");
        slowest = slowest.max(took);
    }
    Ok(Evidence::timed(format!("{url} refused"), slowest))
}

/// A ClusterIP is nobody's address.
pub(super) fn ping(tour: &Tour) -> anyhow::Result<Evidence> {
    let address = tour.service(DEFAULT, NGINX)?.address;
    let node = Target::host(&tour.nodes()[0].name);
    for target in [node, nginx_pods(tour)?[0].target()] {
        let output = tour.run(&target, &["ping", "-n", "-c", "1", "-W", "1", &address])?;
        let answered = output.stdout.contains(&format!("bytes from {address}"));
        ensure!(!output.success() && !answered, "{target}: {}", output.stdout);
    }
    Ok(Evidence::new(format!("{address} is silent")))
}

pub(super) fn from_outside(tour: &Tour) -> anyhow::Result<Evidence> {
    let url = tour.service(DEFAULT, NGINX)?.url();
    let outside = Target::host(OUTSIDE);
    let output = tour.run(&outside, &["curl", "-sS", "--max-time", "1", &url])?;
    ensure!(!output.success(), "{url} answers {}", output.stdout);
    Ok(Evidence::new(output.stderr))
}

/// The Service names a port of the pod; the pod gives the number.
pub(super) fn named_target(tour: &Tour) -> anyhow::Result<Evidence> {
    let pods = tour.wait_for_pods(TOUR, "app=echo", 1)?;
    let service = tour.service(TOUR, "echo")?;
    let node = Target::host(&tour.nodes()[0].name);
    let answer = tour.eventually(|| tour.curl(&node, &service.url()))?;
    ensure!(answer.body.contains("port 8081"), "the server says {:?}", answer.body);
    let seen = format!("port {} to \"web\" = 8081 of {}", service.port, pods[0].name);
    Ok(Evidence::timed(seen, answer.took))
}

/// The real client speaks with the real server through another port.
pub(super) fn mariadb(tour: &Tour) -> anyhow::Result<Evidence> {
    let client = nginx_pods(tour)?[0].target();
    let port = tour.service(DEFAULT, MYSQL)?.port.to_string();
    let command = [
        "mariadb",
        "--skip-ssl",
        "--connect-timeout=2",
        "-h",
        MYSQL,
        "-P",
        &port,
        "-u",
        "portolan",
        "-pportolan",
        "-N",
        "-e",
        "select @@port, 6 * 7",
    ];
    let (answer, took) = tour.eventually(|| {
        let begin = Instant::now();
        let answer = tour.expect(&client, &command)?;
        Ok((answer, begin.elapsed()))
    })?;
    match answer.split_whitespace().collect::<Vec<_>>()[..] {
        ["3306", "42"] => {
            Ok(Evidence::timed(format!("{MYSQL}:{port} is the server's port 3306"), took))
        }
        _ => bail!("the server says {answer:?}"),
    }
}
