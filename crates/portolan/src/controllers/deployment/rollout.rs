//! What to do next to bring a Deployment's pods to its current template. Pure; each call decides
//! one step, and the change it makes leads to the next call.
//!
//! When `replicas` changes in the middle of a rolling update, the new ReplicaSet takes the change
//! and the old ones go on shrinking; the reference controller spreads it over all of them.

use std::sync::Arc;

use k8s_openapi::api::apps::v1::{Deployment, DeploymentSpec, ReplicaSet};
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;

use super::super::labels::Labels;
use super::history::{REVISION_ANNOTATION, inherited, is_version_of, new_set, revision};
use crate::client::ApiObject;

/// Old ReplicaSets kept for rollbacks, unless the Deployment says otherwise.
const DEFAULT_HISTORY: i32 = 10;

/// One step.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum Action {
    /// Make the ReplicaSet of the current template.
    Create(Box<ReplicaSet>),
    /// Change how many pods a ReplicaSet wants.
    Scale { set: Arc<str>, from: i32, to: i32 },
    /// Set annotations of the current ReplicaSet.
    Annotate { set: Arc<str>, annotations: Labels },
    /// Note the current revision on the Deployment.
    Revision(u64),
    /// Forget an old version.
    Delete(Arc<str>),
}

/// How far a rolling update may stray from the wanted number of pods.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Limits {
    /// Wanted pods.
    pub(super) replicas: i32,
    /// Pods above that.
    pub(super) max_surge: i32,
    /// Available pods below that.
    pub(super) max_unavailable: i32,
}

impl Limits {
    /// Percentages of the surge are rounded up and of unavailability down; both zero would allow no
    /// step at all, so then one pod may be unavailable.
    pub(super) fn of(spec: &DeploymentSpec) -> Self {
        let replicas = spec.replicas.unwrap_or(1).max(0);
        let strategy = spec.strategy.as_ref();
        if strategy.and_then(|strategy| strategy.type_.as_deref()) == Some("Recreate") {
            return Self { replicas, max_surge: 0, max_unavailable: replicas };
        }
        let rolling = strategy.and_then(|strategy| strategy.rolling_update.as_ref());
        let resolve = |value: Option<&IntOrString>, round_up: bool| match value {
            Some(IntOrString::Int(number)) => *number,
            Some(IntOrString::String(text)) => {
                let percent: i64 = text.trim_end_matches('%').parse().unwrap_or(25);
                share(replicas, percent, round_up)
            }
            None => share(replicas, 25, round_up),
        };
        let max_surge = resolve(rolling.and_then(|r| r.max_surge.as_ref()), true);
        let max_unavailable = resolve(rolling.and_then(|r| r.max_unavailable.as_ref()), false);
        let max_unavailable = match (max_surge, max_unavailable) {
            (0, 0) => 1,
            (_, unavailable) => unavailable.min(replicas),
        };
        Self { replicas, max_surge, max_unavailable }
    }

    /// Pods that have to be available at any time.
    pub(super) fn min_available(self) -> i32 {
        self.replicas - self.max_unavailable
    }
}

fn share(replicas: i32, percent: i64, round_up: bool) -> i32 {
    let hundredths = i64::from(replicas) * percent;
    let whole = if round_up { (hundredths + 99) / 100 } else { hundredths / 100 };
    i32::try_from(whole).unwrap_or(i32::MAX)
}

/// Decides the next step for `deployment`, which controls `sets`. `pods_live` tells whether pods of
/// some of them still run.
pub(super) fn decide(
    deployment: &Deployment,
    sets: &[Arc<ReplicaSet>],
    pods_live: impl FnOnce(&[Arc<ReplicaSet>]) -> bool,
) -> Vec<Action> {
    let Some(spec) = &deployment.spec else { return Vec::new() };
    if deployment.metadata.deletion_timestamp.is_some() {
        return Vec::new();
    }
    let limits = Limits::of(spec);
    let (new, old) = split(deployment, sets);
    if spec.paused == Some(true) {
        return scale_paused(&limits, new.as_ref(), &old);
    }

    let recreate = spec.strategy.as_ref().and_then(|s| s.type_.as_deref()) == Some("Recreate");
    if recreate {
        let down: Vec<Action> = old.iter().filter_map(|set| scale(set, 0)).collect();
        if !down.is_empty() {
            return down;
        }
        if pods_live(&old) {
            return Vec::new();
        }
    }

    let past = old.iter().map(|set| revision(&set.metadata)).max().unwrap_or_default();
    let current = match &new {
        Some(set) => revision(&set.metadata).max(past + 1),
        None => past + 1,
    };
    let mut annotations = inherited(deployment);
    annotations.insert(REVISION_ANNOTATION.into(), current.to_string());

    let mut actions = Vec::new();
    if revision(&deployment.metadata) != current {
        actions.push(Action::Revision(current));
    }
    let Some(new) = new else {
        let total: i32 = old.iter().map(|set| wanted(set)).sum();
        let room = limits.replicas + limits.max_surge - total;
        let replicas = if recreate { limits.replicas } else { room.clamp(0, limits.replicas) };
        actions.insert(0, Action::Create(Box::new(new_set(deployment, replicas, annotations))));
        return actions;
    };
    let held = new.metadata.annotations.clone().unwrap_or_default();
    if annotations.iter().any(|(key, value)| held.get(key) != Some(value)) {
        actions.push(Action::Annotate { set: name(&new), annotations });
    }
    let steps = roll(limits, &new, &old);
    if steps.is_empty() {
        actions.extend(forget(spec, limits, &new, &old));
    }
    actions.extend(steps);
    actions
}

/// The ReplicaSet of the current template, the oldest if there are several, and all others, oldest
/// first.
pub(super) fn split(
    deployment: &Deployment,
    sets: &[Arc<ReplicaSet>],
) -> (Option<Arc<ReplicaSet>>, Vec<Arc<ReplicaSet>>) {
    let mut sets = sets.to_vec();
    sets.sort_by_cached_key(|set| {
        (set.metadata.creation_timestamp.as_ref().map(|time| time.0), name(set))
    });
    let new = sets.iter().position(|set| is_version_of(set, deployment));
    (new.map(|index| sets.remove(index)), sets)
}

/// One step of a rolling update: grow the new version into the room there is, else shrink old ones
/// by what is not needed for availability, broken pods first.
fn roll(limits: Limits, new: &ReplicaSet, old: &[Arc<ReplicaSet>]) -> Vec<Action> {
    let total: i32 = wanted(new) + old.iter().map(|set| wanted(set)).sum::<i32>();
    if wanted(new) > limits.replicas {
        return scale(new, limits.replicas).into_iter().collect();
    }
    let room = limits.replicas + limits.max_surge - total;
    if wanted(new) < limits.replicas && room > 0 {
        let to = limits.replicas.min(wanted(new) + room);
        return scale(new, to).into_iter().collect();
    }

    let new_unavailable = (wanted(new) - available(new)).max(0);
    let mut spare = total - limits.min_available() - new_unavailable;
    if spare <= 0 {
        return Vec::new();
    }
    let mut left: Vec<i32> = old.iter().map(|set| wanted(set)).collect();
    for (left, set) in left.iter_mut().zip(old) {
        let broken = (wanted(set) - available(set)).clamp(0, spare);
        *left -= broken;
        spare -= broken;
    }
    let all_available: i32 = available(new) + old.iter().map(|set| available(set)).sum::<i32>();
    let mut surplus = (all_available - limits.min_available()).clamp(0, spare);
    for left in &mut left {
        let taken = surplus.min(*left);
        *left -= taken;
        surplus -= taken;
    }
    old.iter().zip(left).filter_map(|(set, to)| scale(set, to)).collect()
}

/// While paused nothing rolls, but the number of pods can be changed if it is clear whose.
fn scale_paused(
    limits: &Limits,
    new: Option<&Arc<ReplicaSet>>,
    old: &[Arc<ReplicaSet>],
) -> Vec<Action> {
    let active: Vec<_> = new.into_iter().chain(old).filter(|set| wanted(set) > 0).collect();
    let target = match active[..] {
        [] => new,
        [only] => Some(only),
        _ => None,
    };
    target.and_then(|set| scale(set, limits.replicas)).into_iter().collect()
}

/// Old versions beyond the history limit, once nothing of them runs and the new one does.
fn forget(
    spec: &DeploymentSpec,
    limits: Limits,
    new: &ReplicaSet,
    old: &[Arc<ReplicaSet>],
) -> Vec<Action> {
    if available(new) < limits.replicas {
        return Vec::new();
    }
    let idle = |set: &&Arc<ReplicaSet>| {
        wanted(set) == 0
            && set.status.as_ref().is_none_or(|status| status.replicas == 0)
            && set.metadata.deletion_timestamp.is_none()
    };
    let mut past: Vec<&Arc<ReplicaSet>> = old.iter().filter(idle).collect();
    past.sort_by_key(|set| revision(&set.metadata));
    let limit = spec.revision_history_limit.unwrap_or(DEFAULT_HISTORY);
    let surplus = past.len().saturating_sub(usize::try_from(limit).unwrap_or_default());
    past[..surplus].iter().map(|set| Action::Delete(name(set))).collect()
}

fn scale(set: &ReplicaSet, to: i32) -> Option<Action> {
    let from = wanted(set);
    (from != to).then(|| Action::Scale { set: name(set), from, to })
}

fn name(set: &ReplicaSet) -> Arc<str> {
    set.object_name().name
}

/// Pods a ReplicaSet is asked for.
pub(super) fn wanted(set: &ReplicaSet) -> i32 {
    set.spec.as_ref().and_then(|spec| spec.replicas).unwrap_or(1)
}

/// Pods of a ReplicaSet that are available.
pub(super) fn available(set: &ReplicaSet) -> i32 {
    set.status.as_ref().and_then(|status| status.available_replicas).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn deployment(replicas: i32, image: &str, strategy: Value) -> Deployment {
        serde_json::from_value(json!({
            "metadata": { "name": "web", "namespace": "default", "uid": "d",
                "annotations": { "deployment.kubernetes.io/revision": "1", "team": "blue" } },
            "spec": { "replicas": replicas, "strategy": strategy,
                "selector": { "matchLabels": { "app": "web" } },
                "template": { "metadata": { "labels": { "app": "web" } },
                              "spec": { "containers": [{ "name": "c", "image": image }] } } },
        }))
        .expect("a deployment")
    }

    fn rolling(surge: Value, unavailable: Value) -> Value {
        json!({ "type": "RollingUpdate",
                "rollingUpdate": { "maxSurge": surge, "maxUnavailable": unavailable } })
    }

    /// The ReplicaSet that a Deployment with `image` would have had.
    fn set(image: &str, revision: u64, wanted: i32, available: i32) -> ReplicaSet {
        let deployment = deployment(0, image, Value::Null);
        let mut annotations = inherited(&deployment);
        annotations.insert(REVISION_ANNOTATION.into(), revision.to_string());
        let mut set = new_set(&deployment, wanted, annotations);
        set.status = Some(
            serde_json::from_value(json!({
            "replicas": wanted, "availableReplicas": available }))
            .expect("a status"),
        );
        set
    }

    fn steps(deployment: &Deployment, sets: &[ReplicaSet], live: bool) -> Vec<Action> {
        let sets: Vec<_> = sets.iter().cloned().map(Arc::new).collect();
        decide(deployment, &sets, |_| live)
    }

    fn scaled(image: &str, from: i32, to: i32) -> Action {
        Action::Scale { set: name(&set(image, 1, 0, 0)), from, to }
    }

    #[test]
    fn limits_round_surge_up_and_unavailability_down() {
        let limits = |replicas, strategy| {
            let limits = Limits::of(&deployment(replicas, "a", strategy).spec.expect("a spec"));
            (limits.max_surge, limits.max_unavailable)
        };
        assert_eq!(limits(10, Value::Null), (3, 2));
        assert_eq!(limits(3, rolling(json!("25%"), json!("25%"))), (1, 0));
        assert_eq!(limits(3, rolling(json!(0), json!(0))), (0, 1));
        assert_eq!(limits(4, rolling(json!(2), json!("50%"))), (2, 2));
        assert_eq!(limits(2, rolling(json!(0), json!(5))), (0, 2));
    }

    #[test]
    fn the_first_version_gets_all_pods_and_revision_one() {
        let mut deployment = deployment(3, "a", Value::Null);
        deployment.metadata.annotations = None;
        let actions = steps(&deployment, &[], false);
        let [Action::Create(set), Action::Revision(1)] = &actions[..] else {
            panic!("{actions:?}")
        };
        assert_eq!((wanted(set), revision(&set.metadata)), (3, 1));
        let template = set.spec.as_ref().and_then(|spec| spec.template.as_ref());
        let labels = template.and_then(|t| t.metadata.as_ref()?.labels.as_ref()).expect("labels");
        let hash = &labels["pod-template-hash"];
        assert_eq!(set.metadata.name.as_deref(), Some(format!("web-{hash}").as_str()));
    }

    #[test]
    fn a_rolling_update_never_leaves_its_limits() {
        // 3 wanted, one more allowed, none missing: up one, down one, until done.
        let deployment = deployment(3, "b", rolling(json!(1), json!(0)));
        let (mut old, mut new) = (set("a", 1, 3, 3), None::<ReplicaSet>);
        let mut looks = 0;
        loop {
            let sets: Vec<ReplicaSet> = new.iter().chain([&old]).cloned().collect();
            let actions = steps(&deployment, &sets, true);
            if actions.iter().all(|action| matches!(action, Action::Revision(2))) {
                break;
            }
            for action in actions {
                match action {
                    Action::Create(set) => new = Some(*set),
                    Action::Scale { set, to, .. } => {
                        let target = new.as_mut().filter(|n| name(n) == set).unwrap_or(&mut old);
                        target.spec.as_mut().expect("a spec").replicas = Some(to);
                    }
                    Action::Annotate { .. } | Action::Revision(_) | Action::Delete(_) => {}
                }
            }
            let sets = [Some(&old), new.as_ref()];
            let total: i32 = sets.iter().flatten().map(|set| wanted(set)).sum();
            let up: i32 = sets.iter().flatten().map(|set| available(set).min(wanted(set))).sum();
            assert!((3..=4).contains(&total) && up >= 3, "{total} wanted, {up} available");
            // Pods follow at once.
            for set in [Some(&mut old), new.as_mut()].into_iter().flatten() {
                let pods = wanted(set);
                set.status = Some(
                    serde_json::from_value(json!({ "replicas": pods, "availableReplicas": pods }))
                        .expect("a status"),
                );
            }
            looks += 1;
            assert!(looks < 20, "the rollout must end");
        }
        assert_eq!((wanted(&old), new.as_ref().map(wanted)), (0, Some(3)));
    }

    #[test]
    fn broken_old_pods_go_first_and_a_broken_new_version_stops_the_rollout() {
        let deployment = deployment(3, "b", rolling(json!(1), json!(0)));
        let broken_old = [set("b", 2, 1, 0), set("a", 1, 3, 2)];
        assert_eq!(steps(&deployment, &broken_old, true), [Action::Revision(2)]);
        let running = [set("b", 2, 1, 1), set("a", 1, 3, 2)];
        let actions = steps(&deployment, &running, true);
        assert_eq!(actions, [Action::Revision(2), scaled("a", 3, 2)]);
    }

    #[test]
    fn recreate_waits_until_the_old_pods_are_gone() {
        let deployment = deployment(2, "b", json!({ "type": "Recreate" }));
        assert_eq!(steps(&deployment, &[set("a", 1, 2, 2)], true), [scaled("a", 2, 0)]);
        assert_eq!(steps(&deployment, &[set("a", 1, 0, 0)], true), []);
        let actions = steps(&deployment, &[set("a", 1, 0, 0)], false);
        let [Action::Create(new), Action::Revision(2)] = &actions[..] else {
            panic!("{actions:?}")
        };
        assert_eq!(wanted(new), 2);
    }

    #[test]
    fn a_rollback_takes_the_old_set_up_again_under_a_new_revision() {
        let deployment = deployment(1, "a", rolling(json!(1), json!(0)));
        let sets = [set("a", 1, 0, 0), set("b", 2, 1, 1)];
        let actions = steps(&deployment, &sets, true);
        assert_eq!(actions[0], Action::Revision(3));
        let Action::Annotate { annotations, .. } = &actions[1] else { panic!("{actions:?}") };
        assert_eq!(annotations[REVISION_ANNOTATION], "3");
        assert_eq!(annotations["team"], "blue");
        assert_eq!(actions[2], scaled("a", 0, 1));
    }

    #[test]
    fn paused_scales_but_does_not_roll() {
        let mut deployment = deployment(5, "b", Value::Null);
        deployment.spec.as_mut().expect("a spec").paused = Some(true);
        assert_eq!(steps(&deployment, &[set("a", 1, 3, 3)], true), [scaled("a", 3, 5)]);
        assert_eq!(steps(&deployment, &[], true), []);
    }

    #[test]
    fn history_is_cut_from_its_oldest_end() {
        let mut deployment = deployment(1, "d", Value::Null);
        deployment.spec.as_mut().expect("a spec").revision_history_limit = Some(1);
        let sets = [set("a", 1, 0, 0), set("b", 2, 0, 0), set("c", 3, 0, 0), set("d", 4, 1, 1)];
        let actions = steps(&deployment, &sets, true);
        let oldest = |image| Action::Delete(name(&set(image, 1, 0, 0)));
        assert_eq!(actions, [Action::Revision(4), oldest("a"), oldest("b")]);
    }
}
