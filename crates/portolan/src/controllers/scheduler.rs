//! Binds pods to nodes. [`choose`] is the pure part; what is not asked for here (resources,
//! affinity, volumes) is not looked at.

use std::collections::{BTreeMap, HashMap};
use std::fmt::Write as _;
use std::sync::{Arc, Mutex, PoisonError};

use k8s_openapi::api::core::v1::{
    Binding, Node, ObjectReference, Pod, PodCondition, PodSpec, Taint, Toleration,
};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ObjectMeta, Time};
use model::ObjectName;
use serde_json::json;

use super::convert::{is_terminal, node_name};
use super::queue::{Done, Queue};
use super::{Context, owner};
use crate::client::{ApiObject, Error, Severity, patch_status, post_subresource, reference};

/// Pods that name another scheduler are left to it.
const NAME: &str = "default-scheduler";

pub(super) async fn run(context: Arc<Context>) -> Result<(), Error> {
    let queue: Queue<ObjectName> = Queue::new("scheduler");
    let (added, weak) = (queue.clone(), Arc::downgrade(&context));
    context.pods.on_change(move |old, new| {
        match new {
            Some(pod) if is_pending(pod) => added.add(pod.object_name()),
            Some(pod) if !is_terminal(pod) => {}
            // Somebody has made room.
            _ if old.is_some_and(|pod| node_name(pod).is_some()) => {
                let Some(context) = weak.upgrade() else { return };
                added.extend(pending(&context));
            }
            _ => {}
        }
    });
    let (added, weak) = (queue.clone(), Arc::downgrade(&context));
    context.nodes.on_change(move |old, new| {
        let Some(context) = weak.upgrade() else { return };
        let looks = |node: &Node| (node.metadata.labels.clone(), node.spec.clone(), ready(node));
        if old.map(looks) != new.map(looks) {
            added.extend(pending(&context));
        }
    });
    context.pods.listed().await;
    context.nodes.listed().await;
    // One at a time: each choice must see the one before.
    let assumed: Arc<Assumed> = Arc::default();
    queue
        .work(1, move |name| {
            let (context, assumed) = (context.clone(), assumed.clone());
            async move { look(&context, &assumed, &name).await }
        })
        .await;
    Ok(())
}

/// Nodes of pods that were bound but whose change the watch has not yet told, by pod uid.
type Assumed = Mutex<HashMap<String, String>>;

fn is_pending(pod: &Pod) -> bool {
    let scheduler = pod.spec.as_ref().and_then(|spec| spec.scheduler_name.as_deref());
    node_name(pod).is_none()
        && scheduler.is_none_or(|name| name == NAME || name.is_empty())
        && !is_terminal(pod)
        && pod.metadata.deletion_timestamp.is_none()
}

fn pending(context: &Context) -> Vec<ObjectName> {
    let pods = context.pods.all();
    pods.iter().filter(|pod| is_pending(pod)).map(|pod| pod.object_name()).collect()
}

async fn look(context: &Context, assumed: &Assumed, name: &ObjectName) -> Result<Done, Error> {
    let Some(pod) = context.pods.get(name).filter(|pod| is_pending(pod)) else {
        return Ok(Done::Settled);
    };
    let nodes = context.nodes.all();
    let pods = context.pods.all();
    let choice = {
        let mut assumed = assumed.lock().unwrap_or_else(PoisonError::into_inner);
        let waiting: HashMap<&str, &Arc<Pod>> = pods
            .iter()
            .filter(|pod| node_name(pod).is_none())
            .map(|pod| (pod.uid(), pod))
            .collect();
        assumed.retain(|uid, _| waiting.contains_key(uid.as_str()));
        if assumed.contains_key(pod.uid()) {
            return Ok(Done::Settled);
        }
        let placed: Vec<(&Pod, &str)> = pods
            .iter()
            .filter(|pod| !is_terminal(pod))
            .filter_map(|pod| {
                let node = node_name(pod).or(assumed.get(pod.uid()).map(String::as_str))?;
                Some((&**pod, node))
            })
            .collect();
        choose(&pod, &nodes, &placed)
    };
    let about = reference(&*pod);
    match choice {
        Ok(node) => {
            let binding = Binding {
                metadata: ObjectMeta {
                    name: pod.metadata.name.clone(),
                    namespace: pod.metadata.namespace.clone(),
                    uid: pod.metadata.uid.clone(),
                    ..ObjectMeta::default()
                },
                target: ObjectReference {
                    api_version: Some("v1".into()),
                    kind: Some("Node".into()),
                    name: Some(node.clone()),
                    ..ObjectReference::default()
                },
            };
            match post_subresource::<Pod>(&context.client, name, "binding", &binding).await {
                Ok(()) => {}
                Err(error) if error.is_not_found() => return Ok(Done::Settled),
                Err(error) => return Err(error),
            }
            assume(assumed, &pod, &node);
            let message = format!("Successfully assigned {name} to {node}");
            // The next pod must not wait for this one's Event.
            let events = context.events.clone();
            tokio::spawn(async move {
                events.record(&about, Severity::Normal, "Scheduled", message).await;
            });
        }
        Err(unschedulable) => {
            let message = unschedulable.to_string();
            if tell(context, &pod, &message).await? {
                context.events.record(&about, Severity::Warning, "FailedScheduling", message).await;
            }
        }
    }
    // Whatever lets the pod in later is a change of a node or of another pod.
    Ok(Done::Settled)
}

fn assume(assumed: &Assumed, pod: &Pod, node: &str) {
    let mut assumed = assumed.lock().unwrap_or_else(PoisonError::into_inner);
    assumed.insert(pod.uid().into(), node.into());
}

/// Writes why a pod can't be scheduled to its status; `false` if that stands there already.
async fn tell(context: &Context, pod: &Pod, message: &str) -> Result<bool, Error> {
    let mut conditions = pod.status.as_ref().and_then(|s| s.conditions.clone()).unwrap_or_default();
    let stands = |c: &PodCondition| {
        c.type_ == "PodScheduled" && c.status == "False" && c.message.as_deref() == Some(message)
    };
    if conditions.iter().any(stands) {
        return Ok(false);
    }
    conditions.retain(|condition| condition.type_ != "PodScheduled");
    conditions.push(PodCondition {
        type_: "PodScheduled".into(),
        status: "False".into(),
        reason: Some("Unschedulable".into()),
        message: Some(message.into()),
        last_transition_time: Some(Time(jiff::Timestamp::now())),
        ..PodCondition::default()
    });
    let change = json!({
        "metadata": { "resourceVersion": pod.metadata.resource_version },
        "status": { "conditions": conditions },
    });
    match patch_status(&context.client, &pod.object_name(), &change).await {
        Ok(written) => {
            context.pods.wrote(written);
            Ok(true)
        }
        Err(error) if error.is_not_found() => Ok(false),
        Err(error) => Err(error),
    }
}

/// Why no node takes a pod: how many nodes there are, and how many gave which reason.
#[derive(Debug, PartialEq, Eq)]
struct Unschedulable {
    nodes: usize,
    reasons: BTreeMap<String, usize>,
}

impl std::fmt::Display for Unschedulable {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "0/{} nodes are available", self.nodes)?;
        let mut reasons = String::new();
        for (reason, count) in &self.reasons {
            let comma = if reasons.is_empty() { ": " } else { ", " };
            write!(reasons, "{comma}{count} node(s) {reason}")?;
        }
        write!(f, "{reasons}.")
    }
}

/// Chooses a node for `pod` among `nodes`, where `placed` are the pods with the nodes they are on:
/// the one with the fewest pods of the same owner, then with the fewest pods, then by name.
fn choose(
    pod: &Pod,
    nodes: &[Arc<Node>],
    placed: &[(&Pod, &str)],
) -> Result<String, Unschedulable> {
    let mut reasons: BTreeMap<String, usize> = BTreeMap::new();
    let mut best = None;
    let siblings_of = owner::controller_of(&pod.metadata).map(|owner| owner.uid.as_str());
    for node in nodes {
        let name = node.metadata.name.as_deref().unwrap_or_default();
        let here = || placed.iter().filter(|(_, on)| *on == name).map(|(pod, _)| *pod);
        if let Some(reason) = refusal(pod, node, here()) {
            *reasons.entry(reason).or_default() += 1;
            continue;
        }
        let siblings = here()
            .filter(|other| {
                let uid = owner::controller_of(&other.metadata).map(|owner| owner.uid.as_str());
                uid.is_some() && uid == siblings_of && other.metadata.deletion_timestamp.is_none()
            })
            .count();
        let rank = (siblings, here().count(), name);
        if best.is_none_or(|best| rank < best) {
            best = Some(rank);
        }
    }
    match best {
        Some((_, _, name)) => Ok(name.to_owned()),
        None => Err(Unschedulable { nodes: nodes.len(), reasons }),
    }
}

/// Why `node`, which runs the pods `here`, can't take `pod`.
fn refusal<'a>(pod: &Pod, node: &Node, mut here: impl Iterator<Item = &'a Pod>) -> Option<String> {
    let spec = pod.spec.as_ref()?;
    let tolerations = spec.tolerations.as_deref().unwrap_or_default();
    let node_spec = node.spec.clone().unwrap_or_default();
    if node_spec.unschedulable == Some(true)
        && !tolerates(tolerations, "node.kubernetes.io/unschedulable", "", "NoSchedule")
    {
        return Some("were unschedulable".into());
    }
    if !ready(node) {
        return Some("were not ready".into());
    }
    let barred = |taint: &&Taint| {
        let value = taint.value.as_deref().unwrap_or_default();
        matches!(taint.effect.as_str(), "NoSchedule" | "NoExecute")
            && !tolerates(tolerations, &taint.key, value, &taint.effect)
    };
    if let Some(taint) = node_spec.taints.iter().flatten().find(barred) {
        let value = taint.value.as_deref().unwrap_or_default();
        return Some(format!("had untolerated taint {{{}: {value}}}", taint.key));
    }
    let labels = node.metadata.labels.as_ref();
    let has = |(key, value)| labels.and_then(|labels| labels.get(key)) == Some(value);
    if !spec.node_selector.iter().flatten().all(has) {
        return Some("didn't match Pod's node affinity/selector".into());
    }
    let wanted = host_ports(spec);
    let taken = here.any(|other| {
        let held = other.spec.as_ref().map(host_ports).unwrap_or_default();
        wanted.iter().any(|port| held.iter().any(|held| port.conflicts(held)))
    });
    taken.then(|| "didn't have free ports for the requested pod ports".into())
}

fn ready(node: &Node) -> bool {
    let conditions = node.status.as_ref().and_then(|status| status.conditions.as_deref());
    conditions.unwrap_or_default().iter().any(|c| c.type_ == "Ready" && c.status == "True")
}

fn tolerates(tolerations: &[Toleration], key: &str, value: &str, effect: &str) -> bool {
    tolerations.iter().any(|toleration| {
        let for_effect = toleration.effect.as_deref().is_none_or(|e| e.is_empty() || e == effect);
        let wanted = toleration.key.as_deref().unwrap_or_default();
        let exists = toleration.operator.as_deref() == Some("Exists");
        for_effect
            && match wanted {
                "" => exists,
                _ => {
                    let same = toleration.value.as_deref().unwrap_or_default() == value;
                    wanted == key && (exists || same)
                }
            }
    })
}

/// A port that a pod takes on its node.
#[derive(Debug)]
struct HostPort<'a> {
    address: &'a str,
    protocol: &'a str,
    port: i32,
}

impl HostPort<'_> {
    /// The same port, unless on two different addresses.
    fn conflicts(&self, other: &HostPort<'_>) -> bool {
        let any = |address| matches!(address, "" | "0.0.0.0" | "::");
        (self.protocol, self.port) == (other.protocol, other.port)
            && (any(self.address) || any(other.address) || self.address == other.address)
    }
}

fn host_ports(spec: &PodSpec) -> Vec<HostPort<'_>> {
    let ports = spec.containers.iter().flat_map(|container| container.ports.iter().flatten());
    let host_network = spec.host_network == Some(true);
    ports
        .filter_map(|port| {
            let on_host = port.host_port.filter(|port| *port > 0);
            Some(HostPort {
                address: port.host_ip.as_deref().unwrap_or_default(),
                protocol: port.protocol.as_deref().unwrap_or("TCP"),
                port: on_host.or(host_network.then_some(port.container_port))?,
            })
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn node(name: &str, spec: Value) -> Arc<Node> {
        let node = json!({
            "metadata": { "name": name, "labels": { "disk": name } },
            "spec": spec,
            "status": { "conditions": [{ "type": "Ready", "status": "True" }] },
        });
        Arc::new(serde_json::from_value(node).expect("a node"))
    }

    fn pod(owner: &str, spec: Value) -> Pod {
        let mut spec = spec;
        spec["containers"] = spec.get("containers").cloned().unwrap_or(json!([]));
        let pod = json!({
            "metadata": { "name": "p", "ownerReferences": [{ "apiVersion": "apps/v1",
                "kind": "ReplicaSet", "name": owner, "uid": owner, "controller": true }] },
            "spec": spec,
        });
        serde_json::from_value(pod).expect("a pod")
    }

    fn two() -> [Arc<Node>; 2] {
        [node("a", json!({})), node("b", json!({}))]
    }

    #[test]
    fn spreads_an_owner_first_and_pods_second() {
        let (web, db) = (pod("web", json!({})), pod("db", json!({})));
        assert_eq!(choose(&web, &two(), &[]), Ok("a".into()));
        assert_eq!(choose(&web, &two(), &[(&web, "a")]), Ok("b".into()));
        let crowded = [(&db, "b"), (&db, "b"), (&web, "a")];
        assert_eq!(choose(&web, &two(), &crowded), Ok("b".into()));
        assert_eq!(choose(&db, &two(), &[(&web, "a")]), Ok("b".into()));
    }

    #[test]
    fn a_node_selector_decides() {
        let picky = pod("web", json!({ "nodeSelector": { "disk": "b" } }));
        assert_eq!(choose(&picky, &two(), &[]), Ok("b".into()));
    }

    #[test]
    fn cordoned_tainted_and_unready_nodes_are_refused_with_their_reasons() {
        let taint = json!({ "taints": [{ "key": "gpu", "value": "x", "effect": "NoSchedule" }] });
        let mut unready = (*node("c", json!({}))).clone();
        unready.status = None;
        let nodes = [node("a", json!({ "unschedulable": true })), node("b", taint), unready.into()];
        let refused = choose(&pod("web", json!({})), &nodes, &[]).expect_err("no node is free");
        assert_eq!(
            refused.to_string(),
            "0/3 nodes are available: 1 node(s) had untolerated taint {gpu: x}, \
             1 node(s) were not ready, 1 node(s) were unschedulable."
        );
        for toleration in [
            json!({ "key": "gpu", "operator": "Exists" }),
            json!({ "key": "gpu", "value": "x", "effect": "NoSchedule" }),
            json!({ "operator": "Exists" }),
        ] {
            let tolerant = pod("web", json!({ "tolerations": [toleration] }));
            assert!(choose(&tolerant, &nodes[1..], &[]).is_ok());
        }
        let wrong = pod("web", json!({ "tolerations": [{ "key": "gpu", "value": "y" }] }));
        assert!(choose(&wrong, &nodes[1..], &[]).is_err());
    }

    #[test]
    fn host_ports_conflict_on_one_node_only() {
        let ports =
            |port: Value| pod("web", json!({ "containers": [{ "name": "c", "ports": [port] }] }));
        let any = ports(json!({ "containerPort": 80, "hostPort": 8080 }));
        assert_eq!(choose(&any, &two(), &[(&any, "a")]), Ok("b".into()));
        let refused = choose(&any, &two(), &[(&any, "a"), (&any, "b")]).expect_err("both taken");
        assert!(refused.to_string().contains("2 node(s) didn't have free ports"));
        let one = ports(json!({ "containerPort": 80, "hostPort": 8080, "hostIP": "10.0.0.1" }));
        let other = ports(json!({ "containerPort": 80, "hostPort": 8080, "hostIP": "10.0.0.2" }));
        let udp = ports(json!({ "containerPort": 80, "hostPort": 8080, "protocol": "UDP" }));
        let node = [node("a", json!({}))];
        assert!(choose(&one, &node, &[(&other, "a")]).is_ok());
        assert!(choose(&one, &node, &[(&any, "a")]).is_err());
        assert!(choose(&udp, &node, &[(&any, "a")]).is_ok());
    }

    #[test]
    fn without_nodes_the_message_ends_there() {
        let refused = choose(&pod("web", json!({})), &[], &[]).expect_err("no nodes");
        assert_eq!(refused.to_string(), "0/0 nodes are available.");
    }
}
