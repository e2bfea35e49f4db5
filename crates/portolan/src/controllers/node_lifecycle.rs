//! Notices nodes that fell silent: a node that neither renews its Lease nor reports a heartbeat
//! for 40 s gets Ready=Unknown. Its pods are left alone; they may well run.
//!
//! Silence is measured by our own clock from the last change we saw, so that nodes' clocks may be
//! wrong.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use jiff::Timestamp;
use k8s_openapi::api::core::v1::{Node, NodeCondition};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use model::ObjectName;
use serde_json::json;

use super::Context;
use crate::client::{ApiObject, Error, Severity, patch_status, reference};

/// Where nodes keep their Leases.
const LEASE_NAMESPACE: &str = "kube-node-lease";

/// Silence after which a node counts as lost.
const GRACE: Duration = Duration::from_secs(40);

/// How often to look.
const PERIOD: Duration = Duration::from_secs(5);

pub(super) async fn run(context: Arc<Context>) -> Result<(), Error> {
    context.nodes.listed().await;
    let mut pulses: HashMap<String, Pulse> = HashMap::new();
    loop {
        let nodes = context.nodes.all();
        pulses.retain(|uid, _| nodes.iter().any(|node| node.uid() == uid));
        for node in nodes {
            let name = ObjectName::new(LEASE_NAMESPACE, node.object_name().name);
            let lease = context.leases.get(&name);
            let renewed = lease.and_then(|lease| Some(lease.spec.as_ref()?.renew_time.as_ref()?.0));
            let beat = (renewed, heartbeat(&node));
            let pulse = pulses.entry(node.uid().into()).or_default();
            if pulse.silent_for(beat, Instant::now()) >= GRACE
                && let Err(error) = mark_unknown(&context, &node).await
            {
                tracing::warn!(node = %node.object_name(), %error, "node can't be marked unknown");
            }
        }
        tokio::time::sleep(PERIOD).await;
    }
}

/// When the Lease was renewed and when the Ready condition was confirmed.
type Beat = (Option<Timestamp>, Option<Timestamp>);

/// The last sign of life that was seen, and when.
#[derive(Debug, Default)]
struct Pulse(Option<(Beat, Instant)>);

impl Pulse {
    fn silent_for(&mut self, beat: Beat, now: Instant) -> Duration {
        match self.0 {
            Some((last, seen)) if last == beat => now.duration_since(seen),
            _ => {
                self.0 = Some((beat, now));
                Duration::ZERO
            }
        }
    }
}

fn heartbeat(node: &Node) -> Option<Timestamp> {
    let conditions = node.status.as_ref()?.conditions.as_deref()?;
    let ready = conditions.iter().find(|condition| condition.type_ == "Ready")?;
    ready.last_heartbeat_time.as_ref().map(|time| time.0)
}

async fn mark_unknown(context: &Context, node: &Node) -> Result<(), Error> {
    let Some(conditions) = unknown(node, Timestamp::now()) else { return Ok(()) };
    let change = json!({
        "metadata": { "resourceVersion": node.metadata.resource_version },
        "status": { "conditions": conditions },
    });
    let name = node.object_name();
    match patch_status(&context.client, &name, &change).await {
        Ok(written) => context.nodes.wrote(written),
        // It has just reported, or is gone.
        Err(error) if error.is_conflict() || error.is_not_found() => return Ok(()),
        Err(error) => return Err(error),
    }
    let message = format!("Node {name} status is now: NodeNotReady");
    context.events.record(&reference(node), Severity::Normal, "NodeNotReady", message).await;
    Ok(())
}

/// The conditions of `node` with Ready unknown; `None` if it is so already.
fn unknown(node: &Node, now: Timestamp) -> Option<Vec<NodeCondition>> {
    let mut conditions = node.status.as_ref()?.conditions.clone().unwrap_or_default();
    let ready = conditions.iter().position(|condition| condition.type_ == "Ready");
    let ready = match ready {
        Some(index) => &mut conditions[index],
        None => {
            let new = NodeCondition { type_: "Ready".into(), ..NodeCondition::default() };
            conditions.push(new);
            conditions.last_mut()?
        }
    };
    if ready.status == "Unknown" {
        return None;
    }
    ready.status = "Unknown".into();
    ready.reason = Some("NodeStatusUnknown".into());
    ready.message = Some("Kubelet stopped posting node status.".into());
    ready.last_transition_time = Some(Time(now));
    Some(conditions)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn silence_counts_from_the_last_change_we_saw() {
        let start = Instant::now();
        let at = |seconds| start + Duration::from_secs(seconds);
        let beat = |second| (Timestamp::from_second(second).ok(), None);
        let mut pulse = Pulse::default();
        assert_eq!(pulse.silent_for(beat(1), at(0)), Duration::ZERO);
        assert_eq!(pulse.silent_for(beat(1), at(39)), Duration::from_secs(39));
        assert_eq!(pulse.silent_for(beat(2), at(39)), Duration::ZERO);
        assert_eq!(pulse.silent_for(beat(2), at(79)), GRACE);
    }

    #[test]
    fn ready_becomes_unknown_once() {
        let mut node: Node = serde_json::from_value(json!({
            "metadata": { "name": "a" },
            "status": { "conditions": [{ "type": "MemoryPressure", "status": "False" },
                                       { "type": "Ready", "status": "True" }] },
        }))
        .expect("a node");
        let conditions = unknown(&node, Timestamp::UNIX_EPOCH).expect("it was ready");
        assert_eq!(
            (conditions[0].status.as_str(), conditions[1].status.as_str()),
            ("False", "Unknown")
        );
        node.status.as_mut().expect("a status").conditions = Some(conditions);
        assert_eq!(unknown(&node, Timestamp::UNIX_EPOCH), None);
    }
}
