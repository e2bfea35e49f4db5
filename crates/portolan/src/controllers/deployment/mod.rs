//! Keeps one ReplicaSet a version of a Deployment's pod template and moves pods from the old ones
//! to the new one as the strategy says.
//!
//! [`rollout`] decides, [`status`] reports; this is the loop that brings them what changed.

mod history;
mod rollout;
mod status;

use std::sync::Arc;

use jiff::Timestamp;
use k8s_openapi::api::apps::v1::{Deployment, ReplicaSet};
use kube::core::params::{DeleteParams, PropagationPolicy};
use model::ObjectName;
use serde_json::json;

use super::queue::{Done, Queue};
use super::{Context, convert, owner};
use crate::client::{
    ApiObject, Error, Severity, create, delete, get, patch, patch_status, reference,
};
use rollout::Action;

const WORKERS: usize = 2;

pub(super) async fn run(context: Arc<Context>) -> Result<(), Error> {
    let queue: Queue<ObjectName> = Queue::new("deployment");
    let added = queue.clone();
    context.deployments.on_change(move |old, new| {
        added.extend(old.or(new).map(ApiObject::object_name));
    });
    let added = queue.clone();
    context.replica_sets.on_change(move |old, new| {
        added.extend([old, new].into_iter().flatten().filter_map(deployment_of));
    });
    // `Recreate` waits for old pods to be gone, which a ReplicaSet's status says too early.
    let (added, weak) = (queue.clone(), Arc::downgrade(&context));
    context.pods.on_change(move |old, new| {
        let (Some(context), Some(pod), None) = (weak.upgrade(), old, new) else { return };
        let Some(owner) = owner::controller_of(&pod.metadata) else { return };
        let namespace = pod.metadata.namespace.as_deref().unwrap_or_default();
        let set = context.replica_sets.get(&ObjectName::new(namespace, owner.name.as_str()));
        added.extend(set.and_then(|set| deployment_of(&set)));
    });
    context.deployments.listed().await;
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

fn deployment_of(set: &ReplicaSet) -> Option<ObjectName> {
    let owner = owner::controller_of(&set.metadata).filter(|owner| owner.kind == "Deployment")?;
    Some(ObjectName::new(set.metadata.namespace.as_deref()?, owner.name.as_str()))
}

async fn look(context: &Context, name: &ObjectName) -> Result<Done, Error> {
    let Some(deployment) = context.deployments.get(name) else { return Ok(Done::Settled) };
    let sets = own_sets(context, &deployment);
    let old_pods_live = |sets: &[Arc<ReplicaSet>]| {
        context.pods.in_namespace(&name.namespace).iter().any(|pod| {
            let controlled =
                |set: &Arc<ReplicaSet>| owner::is_controlled_by(&pod.metadata, set.uid());
            !convert::is_terminal(pod) && sets.iter().any(controlled)
        })
    };
    let actions = rollout::decide(&deployment, &sets, old_pods_live);
    for action in actions {
        act(context, &deployment, action).await?;
    }

    let sets = own_sets(context, &deployment);
    let (status, look_again) = status::status(&deployment, &sets, Timestamp::now());
    if !status::same(deployment.status.as_ref(), &status) {
        let change = json!({ "status": status });
        match patch_status(&context.client, name, &change).await {
            Ok(written) => context.deployments.wrote(written),
            Err(error) if error.is_not_found() => return Ok(Done::Settled),
            Err(error) => return Err(error),
        }
    }
    Ok(look_again.map_or(Done::Settled, Done::LookAgain))
}

/// The ReplicaSets that `deployment` controls.
fn own_sets(context: &Context, deployment: &Deployment) -> Vec<Arc<ReplicaSet>> {
    let mut sets = context.replica_sets.in_namespace(&deployment.object_name().namespace);
    sets.retain(|set| owner::is_controlled_by(&set.metadata, deployment.uid()));
    sets
}

async fn act(context: &Context, deployment: &Deployment, action: Action) -> Result<(), Error> {
    let namespace = deployment.object_name().namespace;
    let named = |name: Arc<str>| ObjectName { namespace: namespace.clone(), name };
    match action {
        Action::Create(set) => match create(&context.client, &*set).await {
            Ok(written) => context.replica_sets.wrote(written),
            Err(error) if error.is_namespace_terminating() => {}
            Err(error) if error.is_conflict() => {
                return avoid_collision(context, deployment, &set).await;
            }
            Err(error) => return Err(error),
        },
        Action::Scale { set, from, to } => {
            let change = json!({ "spec": { "replicas": to } });
            let target = named(set.clone());
            context.replica_sets.wrote(patch(&context.client, &target, &change).await?);
            let way = if to > from { "up" } else { "down" };
            let message = format!("Scaled {way} replica set {set} from {from} to {to}");
            let about = reference(deployment);
            context.events.record(&about, Severity::Normal, "ScalingReplicaSet", message).await;
        }
        Action::Annotate { set, annotations } => {
            let change = json!({ "metadata": { "annotations": annotations } });
            context.replica_sets.wrote(patch(&context.client, &named(set), &change).await?);
        }
        Action::Revision(revision) => {
            let change = json!({ "metadata": { "annotations": {
                history::REVISION_ANNOTATION: revision.to_string(),
            }}});
            let name = deployment.object_name();
            context.deployments.wrote(patch(&context.client, &name, &change).await?);
        }
        Action::Delete(set) => {
            let target = named(set);
            let params = DeleteParams {
                propagation_policy: Some(PropagationPolicy::Background),
                ..DeleteParams::default()
            };
            let answer = delete(&context.client, &target, &params).await?;
            if let Some(old) = context.replica_sets.get(&target) {
                context.replica_sets.deleted(&old, answer);
            }
        }
    }
    Ok(())
}

/// The name of the new ReplicaSet is taken. If by one that is ours already, the cache was late; if
/// by another template with the same hash, the hash is salted differently from now on.
async fn avoid_collision(
    context: &Context,
    deployment: &Deployment,
    wanted: &ReplicaSet,
) -> Result<(), Error> {
    let found: Option<ReplicaSet> = get(&context.client, &wanted.object_name()).await?;
    let Some(found) = found else { return Ok(()) };
    if owner::is_controlled_by(&found.metadata, deployment.uid())
        && history::is_version_of(&found, deployment)
    {
        context.replica_sets.wrote(found);
        return Ok(());
    }
    let count = deployment.status.as_ref().and_then(|status| status.collision_count);
    let change = json!({ "status": { "collisionCount": count.unwrap_or(0) + 1 } });
    let name = deployment.object_name();
    context.deployments.wrote(patch_status(&context.client, &name, &change).await?);
    Ok(())
}
