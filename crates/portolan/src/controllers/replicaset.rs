//! Keeps as many pods of a ReplicaSet as it asks for: adopts, releases, creates and deletes pods,
//! and reports how many there are, are ready and have been ready for long enough.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use futures_util::future::try_join_all;
use jiff::Timestamp;
use k8s_openapi::api::apps::v1::{ReplicaSet, ReplicaSetStatus};
use k8s_openapi::api::core::v1::Pod;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use kube::core::params::DeleteParams;
use model::ObjectName;
use serde_json::json;

use super::convert::{is_ready, is_terminal, node_name, ready_condition};
use super::labels::matches;
use super::queue::{Done, Queue};
use super::{Context, owner};
use crate::client::{
    ApiObject, Error, Severity, create, delete, get, patch, patch_status, reference,
};

const WORKERS: usize = 4;

/// Pods made or deleted in one look; the next look does the rest.
const BURST: usize = 100;

pub(super) async fn run(context: Arc<Context>) -> Result<(), Error> {
    let queue: Queue<ObjectName> = Queue::new("replicaset");
    let added = queue.clone();
    context.replica_sets.on_change(move |old, new| {
        added.extend(old.or(new).map(ApiObject::object_name));
    });
    let (added, weak) = (queue.clone(), Arc::downgrade(&context));
    context.pods.on_change(move |old, new| {
        let Some(context) = weak.upgrade() else { return };
        for pod in [old, new].into_iter().flatten() {
            let namespace = pod.metadata.namespace.as_deref().unwrap_or_default();
            match owner::controller_of(&pod.metadata) {
                Some(owner) if owner.kind == "ReplicaSet" => {
                    added.add(ObjectName::new(namespace, owner.name.as_str()));
                }
                Some(_) => {}
                // An orphan may be somebody's to adopt.
                None => added.extend(
                    context
                        .replica_sets
                        .in_namespace(namespace)
                        .iter()
                        .filter(|set| selects(set, pod))
                        .map(|set| set.object_name()),
                ),
            }
        }
    });
    context.replica_sets.listed().await;
    context.pods.listed().await;
    queue
        .work(WORKERS, move |name| {
            let context = context.clone();
            async move { look(&context, &name).await }
        })
        .await;
    Ok(())
}

fn selects(set: &ReplicaSet, pod: &Pod) -> bool {
    set.spec.as_ref().is_some_and(|spec| matches(&spec.selector, pod.metadata.labels.as_ref()))
}

/// What to do about one ReplicaSet.
#[derive(Debug, Default, PartialEq)]
struct Decision {
    /// Pods without a controller that match: they become its own.
    adopt: Vec<ObjectName>,
    /// Own pods that no longer match: they are let go.
    release: Vec<ObjectName>,
    /// Pods to make.
    create: usize,
    /// Pods to delete, least missed first.
    delete: Vec<ObjectName>,
    /// Its status as it should read.
    status: ReplicaSetStatus,
    /// When a ready pod will have been ready for `minReadySeconds`.
    look_again: Option<Duration>,
}

fn decide(set: &ReplicaSet, pods: &[Arc<Pod>], now: Timestamp) -> Decision {
    let Some(spec) = &set.spec else { return Decision::default() };
    let deleting = set.metadata.deletion_timestamp.is_some();
    let mut decision = Decision::default();
    let mut active: Vec<&Arc<Pod>> = Vec::new();
    let mut terminating = 0;
    for pod in pods {
        let matched = matches(&spec.selector, pod.metadata.labels.as_ref());
        let going = pod.metadata.deletion_timestamp.is_some();
        match owner::controller_of(&pod.metadata) {
            Some(owner) if owner.uid == set.uid() => {
                if !matched && !deleting {
                    decision.release.push(pod.object_name());
                    continue;
                }
            }
            Some(_) => continue,
            None if matched && !deleting && !going && !is_terminal(pod) => {
                decision.adopt.push(pod.object_name());
            }
            None => continue,
        }
        if is_terminal(pod) {
            continue;
        }
        if going { terminating += 1 } else { active.push(pod) }
    }

    let wanted = usize::try_from(spec.replicas.unwrap_or(1)).unwrap_or_default();
    if !deleting {
        decision.create = wanted.saturating_sub(active.len());
        let surplus = active.len().saturating_sub(wanted);
        decision.delete = least_missed(&active, now, surplus);
    }

    let min_ready =
        Duration::from_secs(spec.min_ready_seconds.unwrap_or(0).max(0).unsigned_abs().into());
    let template = spec.template.as_ref().and_then(|template| template.metadata.as_ref());
    let template_labels = template.and_then(|meta| meta.labels.as_ref());
    let (mut ready, mut available, mut labelled) = (0, 0, 0);
    for pod in &active {
        let labels = pod.metadata.labels.as_ref();
        let has = |(key, value)| labels.and_then(|labels| labels.get(key)) == Some(value);
        labelled += i32::from(template_labels.into_iter().flatten().all(has));
        if !is_ready(pod) {
            continue;
        }
        ready += 1;
        match min_ready.saturating_sub(ready_for(pod, now)) {
            Duration::ZERO => available += 1,
            left => {
                decision.look_again = Some(decision.look_again.map_or(left, |l| l.min(left)));
            }
        }
    }
    decision.status = ReplicaSetStatus {
        replicas: count(active.len()),
        fully_labeled_replicas: Some(labelled),
        ready_replicas: Some(ready),
        available_replicas: Some(available),
        terminating_replicas: Some(terminating),
        observed_generation: set.metadata.generation,
        conditions: set.status.as_ref().and_then(|status| status.conditions.clone()),
    };
    decision
}

/// For how long a pod has been ready.
fn ready_for(pod: &Pod, now: Timestamp) -> Duration {
    let since = ready_condition(pod).and_then(|condition| condition.last_transition_time.as_ref());
    since.map_or(Duration::ZERO, |since| now.duration_since(since.0).try_into().unwrap_or_default())
}

/// The `surplus` pods that are missed least: not on a node before on one, not running before
/// running, not ready before ready, on a crowded node before alone, ready for a short time before
/// for long, much restarted before never, young before old.
fn least_missed(active: &[&Arc<Pod>], now: Timestamp, surplus: usize) -> Vec<ObjectName> {
    let mut on_node: HashMap<Option<&str>, usize> = HashMap::new();
    for pod in active {
        *on_node.entry(node_name(pod)).or_default() += 1;
    }
    let mut ranked: Vec<&Arc<Pod>> = active.to_vec();
    ranked.sort_by_cached_key(|pod| {
        let status = pod.status.as_ref();
        let running = status.is_some_and(|status| status.phase.as_deref() == Some("Running"));
        let restarts: i32 = status
            .and_then(|status| status.container_statuses.as_deref())
            .unwrap_or_default()
            .iter()
            .map(|container| container.restart_count)
            .sum();
        (
            node_name(pod).is_some(),
            running,
            is_ready(pod),
            std::cmp::Reverse(on_node[&node_name(pod)]),
            ready_for(pod, now),
            std::cmp::Reverse(restarts),
            std::cmp::Reverse(pod.metadata.creation_timestamp.as_ref().map(|time| time.0)),
            pod.object_name(),
        )
    });
    ranked.iter().take(surplus).map(|pod| pod.object_name()).collect()
}

fn count(pods: usize) -> i32 {
    i32::try_from(pods).unwrap_or(i32::MAX)
}

/// A pod as the template of `set` describes it.
fn new_pod(set: &ReplicaSet) -> Pod {
    let template = set.spec.as_ref().and_then(|spec| spec.template.clone()).unwrap_or_default();
    let meta = template.metadata.unwrap_or_default();
    let name = set.object_name();
    Pod {
        metadata: ObjectMeta {
            generate_name: Some(format!("{}-", name.name)),
            namespace: Some(name.namespace.to_string()),
            labels: meta.labels,
            annotations: meta.annotations,
            finalizers: meta.finalizers,
            owner_references: Some(vec![owner::controller(set)]),
            ..ObjectMeta::default()
        },
        spec: template.spec,
        status: None,
    }
}

async fn look(context: &Context, name: &ObjectName) -> Result<Done, Error> {
    let Some(set) = context.replica_sets.get(name) else { return Ok(Done::Settled) };
    let pods = context.pods.in_namespace(&name.namespace);
    let decision = decide(&set, &pods, Timestamp::now());

    if !decision.adopt.is_empty() && !still_exists(context, &set).await? {
        return Ok(Done::Settled);
    }
    for pod in &decision.adopt {
        set_owners(context, pod, |owners| owners.push(owner::controller(&*set))).await?;
    }
    for pod in &decision.release {
        set_owners(context, pod, |owners| owners.retain(|owner| owner.uid != set.uid())).await?;
    }
    let about = reference(&*set);
    let making = (0..decision.create.min(BURST)).map(|_| async {
        match create(&context.client, &new_pod(&set)).await {
            Ok(pod) => {
                let message = format!("Created pod: {}", pod.object_name().name);
                context.pods.wrote(pod);
                context.events.record(&about, Severity::Normal, "SuccessfulCreate", message).await;
                Ok(())
            }
            Err(error) if error.is_namespace_terminating() => Ok(()),
            Err(error) => {
                let message = format!("Error creating: {error}");
                context.events.record(&about, Severity::Warning, "FailedCreate", message).await;
                Err(error)
            }
        }
    });
    let made = try_join_all(making).await;
    for pod in decision.delete.iter().take(BURST) {
        let answer = delete(&context.client, pod, &DeleteParams::default()).await?;
        if let Some(old) = context.pods.get(pod) {
            context.pods.deleted(&old, answer);
        }
        let message = format!("Deleted pod: {}", pod.name);
        context.events.record(&about, Severity::Normal, "SuccessfulDelete", message).await;
    }
    if !same(set.status.as_ref(), &decision.status) {
        let change = json!({ "status": decision.status });
        match patch_status(&context.client, name, &change).await {
            Ok(written) => context.replica_sets.wrote(written),
            Err(error) if error.is_not_found() => return Ok(Done::Settled),
            Err(error) => return Err(error),
        }
    }
    made?;
    Ok(decision.look_again.map_or(Done::Settled, Done::LookAgain))
}

/// Whether `new` says what `old` says: some servers leave out zeros.
fn same(old: Option<&ReplicaSetStatus>, new: &ReplicaSetStatus) -> bool {
    let zero = |count: Option<i32>| Some(count.unwrap_or_default());
    let filled = |status: &ReplicaSetStatus| ReplicaSetStatus {
        fully_labeled_replicas: zero(status.fully_labeled_replicas),
        ready_replicas: zero(status.ready_replicas),
        available_replicas: zero(status.available_replicas),
        terminating_replicas: zero(status.terminating_replicas),
        ..status.clone()
    };
    old.is_some_and(|old| filled(old) == filled(new))
}

/// Before it takes others' pods, a ReplicaSet must be known to be alive, not only in our cache.
async fn still_exists(context: &Context, set: &ReplicaSet) -> Result<bool, Error> {
    let found: Option<ReplicaSet> = get(&context.client, &set.object_name()).await?;
    Ok(found.is_some_and(|found| {
        found.uid() == set.uid() && found.metadata.deletion_timestamp.is_none()
    }))
}

/// Changes the owners of a pod, on condition that nobody else has changed the pod meanwhile.
async fn set_owners(
    context: &Context,
    name: &ObjectName,
    change: impl FnOnce(&mut Vec<k8s_openapi::apimachinery::pkg::apis::meta::v1::OwnerReference>),
) -> Result<(), Error> {
    let Some(pod) = context.pods.get(name) else { return Ok(()) };
    let mut owners = pod.metadata.owner_references.clone().unwrap_or_default();
    change(&mut owners);
    let body = json!({ "metadata": {
        "uid": pod.metadata.uid,
        "resourceVersion": pod.metadata.resource_version,
        "ownerReferences": owners,
    }});
    context.pods.wrote(patch(&context.client, name, &body).await?);
    Ok(())
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn set(replicas: i32, min_ready: i32) -> ReplicaSet {
        serde_json::from_value(json!({
            "metadata": { "name": "web", "namespace": "default", "uid": "set", "generation": 3 },
            "spec": { "replicas": replicas, "minReadySeconds": min_ready,
                "selector": { "matchLabels": { "app": "web" } },
                "template": { "metadata": { "labels": { "app": "web" } },
                              "spec": { "containers": [] } } },
        }))
        .expect("a replica set")
    }

    /// A ready, running pod of the set on node `node`, changed by `change`.
    fn pod(name: &str, node: &str, change: Value) -> Arc<Pod> {
        let mut object = json!({
            "metadata": { "name": name, "namespace": "default", "uid": name,
                "labels": { "app": "web" },
                "ownerReferences": [{ "apiVersion": "apps/v1", "kind": "ReplicaSet",
                    "name": "web", "uid": "set", "controller": true }] },
            "spec": { "nodeName": node, "containers": [] },
            "status": { "phase": "Running", "conditions": [{ "type": "Ready", "status": "True",
                "lastTransitionTime": "2026-01-01T00:00:00Z" }] },
        });
        merge(&mut object, change);
        Arc::new(serde_json::from_value(object).expect("a pod"))
    }

    /// RFC 7386, as far as these tests need it.
    fn merge(target: &mut Value, change: Value) {
        match (target, change) {
            (Value::Object(target), Value::Object(change)) => {
                for (key, value) in change {
                    merge(target.entry(key).or_insert(Value::Null), value);
                }
            }
            (target, change) => *target = change,
        }
    }

    fn at(time: &str) -> Timestamp {
        time.parse().expect("a time")
    }

    fn names(list: &[ObjectName]) -> Vec<&str> {
        list.iter().map(|name| &*name.name).collect()
    }

    const LATER: &str = "2026-01-01T01:00:00Z";

    #[test]
    fn makes_what_is_missing_and_does_not_count_what_is_going() {
        let going = json!({ "metadata": { "deletionTimestamp": "2026-01-01T00:00:00Z" } });
        let failed = json!({ "status": { "phase": "Failed" } });
        let pods = [pod("a", "n", json!({})), pod("b", "n", going), pod("c", "n", failed)];
        let decision = decide(&set(3, 0), &pods, at(LATER));
        assert_eq!((decision.create, names(&decision.delete)), (2, vec![]));
        let status = decision.status;
        assert_eq!((status.replicas, status.ready_replicas), (1, Some(1)));
        assert_eq!((status.terminating_replicas, status.observed_generation), (Some(1), Some(3)));
    }

    #[test]
    fn deletes_the_least_missed_first() {
        let unready =
            json!({ "status": { "conditions": [{ "type": "Ready", "status": "False" }] } });
        let young = json!({ "status": { "conditions": [{ "type": "Ready", "status": "True",
            "lastTransitionTime": "2026-01-01T00:59:00Z" }] } });
        let pending = json!({ "spec": { "nodeName": null }, "status": { "phase": "Pending",
            "conditions": [] } });
        let pods = [
            pod("alone", "m", json!({})),
            pod("crowded", "n", json!({})),
            pod("crowded-young", "n", young),
            pod("unready", "n", unready),
            pod("unscheduled", "n", pending),
        ];
        let decision = decide(&set(0, 0), &pods, at(LATER));
        let order = ["unscheduled", "unready", "crowded-young", "crowded", "alone"];
        assert_eq!(names(&decision.delete), order);
    }

    #[test]
    fn adopts_orphans_and_releases_strangers() {
        let orphan = json!({ "metadata": { "ownerReferences": null } });
        let stranger = json!({ "metadata": { "labels": { "app": "db" } } });
        let others = json!({ "metadata": { "ownerReferences": [{ "apiVersion": "apps/v1",
            "kind": "ReplicaSet", "name": "x", "uid": "other", "controller": true }] } });
        let pods = [pod("a", "n", orphan), pod("b", "n", stranger), pod("c", "n", others)];
        let decision = decide(&set(2, 0), &pods, at(LATER));
        assert_eq!((names(&decision.adopt), names(&decision.release)), (vec!["a"], vec!["b"]));
        assert_eq!(decision.create, 1);
    }

    #[test]
    fn available_is_ready_for_long_enough() {
        let pods = [pod("a", "n", json!({}))];
        let soon = decide(&set(1, 30), &pods, at("2026-01-01T00:00:10Z"));
        assert_eq!(soon.status.available_replicas, Some(0));
        assert_eq!(soon.look_again, Some(Duration::from_secs(20)));
        let later = decide(&set(1, 30), &pods, at("2026-01-01T00:00:30Z"));
        assert_eq!((later.status.available_replicas, later.look_again), (Some(1), None));
    }
}
