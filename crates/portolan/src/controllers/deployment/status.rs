//! What a Deployment reports: counts, whether enough pods are available, and whether the rollout
//! gets on. `kubectl rollout status` reads nothing else. Pure.

use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use k8s_openapi::api::apps::v1::{
    Deployment, DeploymentCondition, DeploymentStatus, ReplicaSet, ReplicaSetStatus,
};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;

use super::rollout::{Limits, split, wanted};
use crate::client::ApiObject;

/// Time a rollout may stand still, unless the Deployment says otherwise.
const DEFAULT_DEADLINE: i32 = 600;

/// The status of `deployment` given the ReplicaSets it controls, and when it has to be looked at
/// again because time alone may change it.
pub(super) fn status(
    deployment: &Deployment,
    sets: &[Arc<ReplicaSet>],
    now: Timestamp,
) -> (DeploymentStatus, Option<Duration>) {
    let spec = deployment.spec.clone().unwrap_or_default();
    let limits = Limits::of(&spec);
    let (new, _) = split(deployment, sets);
    let sum = |count: fn(&ReplicaSetStatus) -> i32| -> i32 {
        sets.iter().filter_map(|set| set.status.as_ref()).map(count).sum()
    };
    let old = deployment.status.clone().unwrap_or_default();
    let wanted: i32 = sets.iter().map(|set| wanted(set)).sum();
    let available = sum(|status| status.available_replicas.unwrap_or_default());
    let updated = new.as_ref().and_then(|set| set.status.as_ref()).map_or(0, |s| s.replicas);
    let terminating = sets
        .iter()
        .any(|set| set.status.as_ref().is_some_and(|status| status.terminating_replicas.is_some()));
    let mut status = DeploymentStatus {
        observed_generation: deployment.metadata.generation,
        replicas: Some(sum(|status| status.replicas)),
        updated_replicas: Some(updated),
        ready_replicas: Some(sum(|status| status.ready_replicas.unwrap_or_default())),
        available_replicas: Some(available),
        unavailable_replicas: Some((wanted - available).max(0)),
        terminating_replicas: terminating
            .then(|| sum(|status| status.terminating_replicas.unwrap_or_default())),
        collision_count: old.collision_count,
        conditions: old.conditions.clone(),
    };

    let (enough, reason, message) = if available >= limits.min_available() {
        ("True", "MinimumReplicasAvailable", "Deployment has minimum availability.")
    } else {
        ("False", "MinimumReplicasUnavailable", "Deployment does not have minimum availability.")
    };
    set(&mut status, "Available", enough, reason, message.into(), false, now);

    let subject = match &new {
        Some(set) => format!("ReplicaSet \"{}\"", set.object_name().name),
        None => format!("Deployment \"{}\"", deployment.object_name().name),
    };
    if spec.paused == Some(true) {
        let message = "Deployment is paused".into();
        set(&mut status, "Progressing", "Unknown", "DeploymentPaused", message, false, now);
        return (status, None);
    }
    let complete = updated == limits.replicas
        && status.replicas == Some(limits.replicas)
        && available >= limits.replicas;
    if complete {
        let message = format!("{subject} has successfully progressed.");
        set(&mut status, "Progressing", "True", "NewReplicaSetAvailable", message, false, now);
        return (status, None);
    }
    let before = condition(&old, "Progressing").cloned();
    let standing = before
        .as_ref()
        .filter(|c| c.reason.as_deref() != Some("DeploymentPaused") && !progressed(&old, &status));
    let Some(standing) = standing else {
        let message = format!("{subject} is progressing.");
        set(&mut status, "Progressing", "True", "ReplicaSetUpdated", message, true, now);
        return (status, Some(deadline(spec.progress_deadline_seconds)));
    };
    // A rollout that was complete stays so when pods fail later: that is what Available is for.
    if matches!(
        standing.reason.as_deref(),
        Some("NewReplicaSetAvailable" | "ProgressDeadlineExceeded")
    ) {
        return (status, None);
    }
    let since = standing.last_update_time.as_ref().map_or(now, |time| time.0);
    let waited = Duration::try_from(now.duration_since(since)).unwrap_or_default();
    let left = deadline(spec.progress_deadline_seconds).saturating_sub(waited);
    if left.is_zero() {
        let message = format!("{subject} has timed out progressing.");
        set(&mut status, "Progressing", "False", "ProgressDeadlineExceeded", message, true, now);
        return (status, None);
    }
    (status, Some(left))
}

/// Whether `new` says of a Deployment what `old` says: some servers leave out zeros.
pub(super) fn same(old: Option<&DeploymentStatus>, new: &DeploymentStatus) -> bool {
    let zero = |count: Option<i32>| Some(count.unwrap_or_default());
    let filled = |status: &DeploymentStatus| DeploymentStatus {
        replicas: zero(status.replicas),
        updated_replicas: zero(status.updated_replicas),
        ready_replicas: zero(status.ready_replicas),
        available_replicas: zero(status.available_replicas),
        unavailable_replicas: zero(status.unavailable_replicas),
        terminating_replicas: zero(status.terminating_replicas),
        collision_count: zero(status.collision_count),
        ..status.clone()
    };
    old.is_some_and(|old| filled(old) == filled(new))
}

fn progressed(old: &DeploymentStatus, new: &DeploymentStatus) -> bool {
    let of = |count: Option<i32>| count.unwrap_or_default();
    let outdated = |s: &DeploymentStatus| of(s.replicas) - of(s.updated_replicas);
    of(new.updated_replicas) != of(old.updated_replicas)
        || outdated(new) < outdated(old)
        || of(new.ready_replicas) > of(old.ready_replicas)
        || of(new.available_replicas) > of(old.available_replicas)
}

fn deadline(seconds: Option<i32>) -> Duration {
    Duration::from_secs(seconds.unwrap_or(DEFAULT_DEADLINE).max(0).unsigned_abs().into())
}

fn condition<'a>(status: &'a DeploymentStatus, kind: &str) -> Option<&'a DeploymentCondition> {
    status.conditions.iter().flatten().find(|condition| condition.type_ == kind)
}

/// Sets a condition; its times change only if something else of it does, or if `refresh` is set.
fn set(
    status: &mut DeploymentStatus,
    kind: &str,
    value: &str,
    reason: &str,
    message: String,
    refresh: bool,
    now: Timestamp,
) {
    let before = condition(status, kind).cloned();
    let unchanged = before.as_ref().is_some_and(|c| {
        c.status == value
            && c.reason.as_deref() == Some(reason)
            && c.message.as_deref() == Some(&message)
    });
    if unchanged && !refresh {
        return;
    }
    // Whole seconds, as the API keeps them: what is read back must equal what was written.
    let now = Timestamp::from_second(now.as_second()).unwrap_or(now);
    let since = before
        .filter(|condition| condition.status == value)
        .and_then(|condition| condition.last_transition_time)
        .unwrap_or(Time(now));
    let conditions = status.conditions.get_or_insert_default();
    conditions.retain(|condition| condition.type_ != kind);
    conditions.push(DeploymentCondition {
        type_: kind.into(),
        status: value.into(),
        reason: Some(reason.into()),
        message: Some(message),
        last_update_time: Some(Time(now)),
        last_transition_time: Some(since),
    });
    conditions.sort_by(|a, b| a.type_.cmp(&b.type_));
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::super::history::new_set;
    use super::*;

    fn deployment(status: DeploymentStatus) -> Deployment {
        let mut deployment: Deployment = serde_json::from_value(json!({
            "metadata": { "name": "web", "namespace": "default", "uid": "d", "generation": 2 },
            "spec": { "replicas": 2, "progressDeadlineSeconds": 60,
                "selector": { "matchLabels": { "app": "web" } },
                "template": { "spec": { "containers": [] } } },
        }))
        .expect("a deployment");
        deployment.status = Some(status);
        deployment
    }

    fn at(second: i64) -> Timestamp {
        Timestamp::from_second(1_700_000_000 + second).expect("a time")
    }

    fn look(old: DeploymentStatus, available: i32, second: i64) -> (DeploymentStatus, Option<u64>) {
        let deployment = deployment(old);
        let mut set = new_set(&deployment, 2, Default::default());
        set.status = Some(ReplicaSetStatus {
            replicas: 2,
            ready_replicas: Some(available),
            available_replicas: Some(available),
            ..ReplicaSetStatus::default()
        });
        let (status, again) = status(&deployment, &[Arc::new(set)], at(second));
        (status, again.map(|again| again.as_secs()))
    }

    fn reason<'a>(status: &'a DeploymentStatus, kind: &str) -> (&'a str, &'a str) {
        let condition = condition(status, kind).expect("the condition is set");
        (&condition.status, condition.reason.as_deref().unwrap_or_default())
    }

    #[test]
    fn a_rollout_progresses_completes_and_stays_complete() {
        let (started, again) = look(DeploymentStatus::default(), 0, 0);
        assert_eq!(reason(&started, "Progressing"), ("True", "ReplicaSetUpdated"));
        assert_eq!(reason(&started, "Available"), ("False", "MinimumReplicasUnavailable"));
        assert_eq!((started.observed_generation, again), (Some(2), Some(60)));
        let (done, again) = look(started, 2, 5);
        assert_eq!(reason(&done, "Progressing"), ("True", "NewReplicaSetAvailable"));
        assert_eq!(reason(&done, "Available"), ("True", "MinimumReplicasAvailable"));
        assert_eq!((done.unavailable_replicas, again), (Some(0), None));
        let (again, _) = look(done.clone(), 2, 500);
        assert_eq!(again, done, "time alone changes nothing");
        let (failed, _) = look(done, 1, 600);
        assert_eq!(reason(&failed, "Progressing"), ("True", "NewReplicaSetAvailable"));
    }

    #[test]
    fn a_rollout_that_stands_still_times_out() {
        let (started, _) = look(DeploymentStatus::default(), 0, 0);
        let (waiting, again) = look(started, 0, 40);
        assert_eq!((reason(&waiting, "Progressing").0, again), ("True", Some(20)));
        let (late, _) = look(waiting, 0, 60);
        assert_eq!(reason(&late, "Progressing"), ("False", "ProgressDeadlineExceeded"));
        let (moving, _) = look(late, 1, 70);
        assert_eq!(reason(&moving, "Progressing"), ("True", "ReplicaSetUpdated"));
    }

    #[test]
    fn zeros_that_a_server_leaves_out_are_no_difference() {
        let zeros = DeploymentStatus { replicas: Some(0), ..DeploymentStatus::default() };
        assert!(same(Some(&DeploymentStatus::default()), &zeros));
        assert!(!same(None, &zeros));
        let one = DeploymentStatus { replicas: Some(1), ..zeros.clone() };
        assert!(!same(Some(&zeros), &one));
    }
}
