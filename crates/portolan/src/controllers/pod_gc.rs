//! Removes pods that nobody will ever end: those bound to a node that is gone, those deleted before
//! they were bound, and the oldest of far too many that have ended.

use std::sync::Arc;
use std::time::Duration;

use k8s_openapi::api::core::v1::{Node, Pod};
use kube::core::params::{DeleteParams, Preconditions};
use model::ObjectName;

use super::Context;
use super::convert::{is_terminal, node_name};
use crate::client::{ApiObject, Error, delete, get};

/// Ended pods that are kept for people to look at.
const KEPT: usize = 12_500;

/// How often to look. A node that restarts under its name within this time keeps its pods.
const PERIOD: Duration = Duration::from_secs(20);

pub(super) async fn run(context: Arc<Context>) -> Result<(), Error> {
    context.pods.listed().await;
    context.nodes.listed().await;
    loop {
        tokio::time::sleep(PERIOD).await;
        let exists = |node: &str| context.nodes.get(&ObjectName::new("", node)).is_some();
        for (pod, why) in garbage(&context.pods.all(), exists, KEPT) {
            if let Err(error) = remove(&context, &pod, why).await {
                tracing::warn!(pod = %pod.object_name(), %error, "pod can't be removed");
            }
        }
    }
}

/// Why a pod is garbage.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Why {
    NodeGone,
    NeverBound,
    TooMany,
}

/// The pods to remove.
fn garbage(
    pods: &[Arc<Pod>],
    node_exists: impl Fn(&str) -> bool,
    kept: usize,
) -> Vec<(Arc<Pod>, Why)> {
    let mut garbage = Vec::new();
    let mut ended = Vec::new();
    for pod in pods {
        match node_name(pod) {
            Some(node) if !node_exists(node) => garbage.push((pod.clone(), Why::NodeGone)),
            None if pod.metadata.deletion_timestamp.is_some() => {
                garbage.push((pod.clone(), Why::NeverBound));
            }
            _ if is_terminal(pod) => ended.push(pod.clone()),
            _ => {}
        }
    }
    ended.sort_by_key(|pod| pod.metadata.creation_timestamp.as_ref().map(|time| time.0));
    let surplus = ended.len().saturating_sub(kept);
    garbage.extend(ended.into_iter().take(surplus).map(|pod| (pod, Why::TooMany)));
    garbage
}

async fn remove(context: &Context, pod: &Pod, why: Why) -> Result<(), Error> {
    // The cache may be late in hearing of a new node; a pod's end must not depend on that.
    if let (Why::NodeGone, Some(node)) = (why, node_name(pod)) {
        let found: Option<Node> = get(&context.client, &ObjectName::new("", node)).await?;
        if found.is_some() {
            return Ok(());
        }
    }
    let name = pod.object_name();
    tracing::info!(pod = %name, ?why, "removing pod");
    let params = DeleteParams {
        grace_period_seconds: Some(0),
        preconditions: Some(Preconditions {
            uid: pod.metadata.uid.clone(),
            resource_version: None,
        }),
        ..DeleteParams::default()
    };
    let answer = delete(&context.client, &name, &params).await?;
    context.pods.deleted(pod, answer);
    Ok(())
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn pod(name: &str, node: Option<&str>, phase: &str, deleting: bool) -> Arc<Pod> {
        let deleted = deleting.then_some("2026-01-01T00:00:00Z");
        let pod = json!({
            "metadata": { "name": name, "deletionTimestamp": deleted,
                          "creationTimestamp": format!("2026-01-01T00:00:0{}Z", name.len()) },
            "spec": { "nodeName": node, "containers": [] },
            "status": { "phase": phase },
        });
        Arc::new(serde_json::from_value(pod).expect("a pod"))
    }

    #[test]
    fn only_what_nobody_will_end() {
        let pods = [
            pod("a", Some("here"), "Running", false),
            pod("b", Some("gone"), "Running", false),
            pod("c", None, "Pending", true),
            pod("d", None, "Pending", false),
            pod("e", Some("here"), "Running", true),
            pod("fff", Some("here"), "Failed", false),
            pod("gg", Some("here"), "Succeeded", false),
        ];
        let found = garbage(&pods, |node| node == "here", 1);
        let found: Vec<_> =
            found.iter().map(|(pod, why)| (pod.object_name().name.to_string(), *why)).collect();
        let expected = [("b", Why::NodeGone), ("c", Why::NeverBound), ("gg", Why::TooMany)];
        assert_eq!(found, expected.map(|(name, why)| (name.to_owned(), why)));
    }
}
