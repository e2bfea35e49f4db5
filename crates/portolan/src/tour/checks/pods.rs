//! Pods' addresses and networks.

use anyhow::ensure;

use super::{Evidence, TOUR, Tour, nginx_pods};
use crate::testbed::Target;

/// Pods have addresses of their nodes' blocks, different ones on different nodes.
pub(super) fn blocks(tour: &Tour) -> anyhow::Result<Evidence> {
    let pods = nginx_pods(tour)?;
    let [first, second] = &pods[..] else { anyhow::bail!("two pods, not {}", pods.len()) };
    ensure!(first.node != second.node, "both pods are on {}", first.node);
    for pod in &pods {
        let block = tour.pod_ranges(&pod.node)?;
        ensure!(
            block.iter().any(|range| range.contains(&pod.address)),
            "{} of {} is not in {block:?}",
            pod.address,
            pod.node
        );
        // The pod sees the address that others are told.
        let own = tour.expect(&pod.target(), &["hostname", "-I"])?;
        ensure!(own.trim() == pod.address.to_string(), "{} has {own}", pod.name);
    }
    let seen = |pod: &super::ReadyPod| format!("{} on {}", pod.address, pod.node);
    Ok(Evidence::new(format!("{}, {}", seen(first), seen(second))))
}

/// The server sees the client pod's own address.
pub(super) fn across_nodes(tour: &Tour) -> anyhow::Result<Evidence> {
    let pods = nginx_pods(tour)?;
    let (from, to) = (&pods[0], &pods[1]);
    let answer = tour.curl(&from.target(), &format!("http://{}/", to.address))?;
    let expected = format!("client {}", from.address);
    ensure!(answer.body.contains(&expected), "the server says {:?}", answer.body);
    Ok(Evidence::timed(format!("{} sees {expected}", to.address), answer.took))
}

/// Two containers of a pod meet on the loopback address.
pub(super) fn localhost(tour: &Tour) -> anyhow::Result<Evidence> {
    let client = Target::Pod {
        namespace: TOUR.to_owned(),
        name: "two".to_owned(),
        container: Some("client".to_owned()),
    };
    let answer = tour.eventually(|| tour.curl(&client, "http://127.0.0.1:8080/"))?;
    ensure!(answer.body == "from localhost", "the server says {:?}", answer.body);
    Ok(Evidence::timed("container client reaches container server", answer.took))
}
