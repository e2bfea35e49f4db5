//! Deletes what belongs to owners that are gone, and keeps owners until their dependents are gone
//! or let go, as the deletion asked for: background, foreground or orphan.
//!
//! Knows the kinds that controllers here make or that own such; an owner of another kind is taken
//! to exist for ever, so in doubt nothing is deleted.

use std::sync::Arc;

use k8s_openapi::Metadata;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ObjectMeta, OwnerReference};
use kube::core::params::{DeleteParams, Preconditions, PropagationPolicy};
use model::ObjectName;
use serde_json::json;

use super::Context;
use super::cache::Cache;
use super::queue::{Done, Queue};
use crate::client::{ApiObject, Error, Watched, delete, get, patch};

/// On an owner that goes when its dependents have gone.
const FOREGROUND: &str = "foregroundDeletion";

/// On an owner whose dependents are let go before it goes.
const ORPHAN: &str = "orphan";

/// The kinds this controller knows.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
enum Kind {
    Deployment,
    ReplicaSet,
    Service,
    Node,
    Pod,
    EndpointSlice,
    Lease,
}

impl Kind {
    /// Kinds whose objects are made for others.
    const DEPENDENTS: [Kind; 4] = [Kind::ReplicaSet, Kind::Pod, Kind::EndpointSlice, Kind::Lease];

    /// The kind an owner reference names, in whatever version of its group.
    fn of(owner: &OwnerReference) -> Option<Self> {
        let group = owner.api_version.rsplit_once('/').map_or("", |(group, _)| group);
        match (group, owner.kind.as_str()) {
            ("apps", "Deployment") => Some(Kind::Deployment),
            ("apps", "ReplicaSet") => Some(Kind::ReplicaSet),
            ("", "Service") => Some(Kind::Service),
            ("", "Node") => Some(Kind::Node),
            ("", "Pod") => Some(Kind::Pod),
            _ => None,
        }
    }
}

/// Does the same with the cache of any kind.
macro_rules! with_cache {
    ($context:expr, $kind:expr, $cache:ident => $body:expr) => {
        match $kind {
            Kind::Deployment => {
                let $cache = &$context.deployments;
                $body
            }
            Kind::ReplicaSet => {
                let $cache = &$context.replica_sets;
                $body
            }
            Kind::Service => {
                let $cache = &$context.services;
                $body
            }
            Kind::Node => {
                let $cache = &$context.nodes;
                $body
            }
            Kind::Pod => {
                let $cache = &$context.pods;
                $body
            }
            Kind::EndpointSlice => {
                let $cache = &$context.slices;
                $body
            }
            Kind::Lease => {
                let $cache = &$context.leases;
                $body
            }
        }
    };
}

type Key = (Kind, ObjectName);

pub(super) async fn run(context: Arc<Context>) -> Result<(), Error> {
    let queue: Queue<Key> = Queue::new("garbage");
    listen(&context, &queue, Kind::Deployment, &context.deployments);
    listen(&context, &queue, Kind::ReplicaSet, &context.replica_sets);
    listen(&context, &queue, Kind::Service, &context.services);
    listen(&context, &queue, Kind::Node, &context.nodes);
    listen(&context, &queue, Kind::Pod, &context.pods);
    listen(&context, &queue, Kind::EndpointSlice, &context.slices);
    listen(&context, &queue, Kind::Lease, &context.leases);
    // Leases are not waited for: a cluster may have none, and who is absent is asked of the API.
    context.deployments.listed().await;
    context.replica_sets.listed().await;
    context.services.listed().await;
    context.nodes.listed().await;
    context.pods.listed().await;
    context.slices.listed().await;
    queue
        .work(2, move |(kind, name)| {
            let context = context.clone();
            async move { with_cache!(context, kind, cache => look(&context, cache, &name).await) }
        })
        .await;
    Ok(())
}

/// Has an object looked at when its owners or finalizers change, its dependents when it goes, and
/// its owners when they may be waiting for it to go.
fn listen<K: ApiObject + Watched>(
    context: &Arc<Context>,
    queue: &Queue<Key>,
    kind: Kind,
    cache: &Cache<K>,
) {
    let (added, weak) = (queue.clone(), Arc::downgrade(context));
    cache.on_change(move |old, new| {
        let Some(context) = weak.upgrade() else { return };
        let part = |object: &K| {
            let meta = object.metadata();
            let going = meta.deletion_timestamp.is_some();
            (meta.owner_references.clone(), meta.finalizers.clone(), going)
        };
        if let Some(object) = new.filter(|new| old.map(part) != Some(part(new))) {
            let meta = object.metadata();
            if meta.owner_references.is_some() || meta.finalizers.is_some() {
                added.add((kind, object.object_name()));
            }
        }
        if let Some(gone) = old.filter(|_| new.is_none()) {
            if !matches!(kind, Kind::Pod | Kind::EndpointSlice | Kind::Lease) {
                added.extend(dependents(&context, gone.uid()));
            }
            let namespace = &gone.object_name().namespace;
            let owners = gone.metadata().owner_references.iter().flatten();
            added.extend(owners.filter_map(|owner| named(owner, namespace)));
        }
    });
}

/// The object an owner reference names; an owner is in the same namespace, or in none.
fn named(owner: &OwnerReference, namespace: &str) -> Option<Key> {
    let kind = Kind::of(owner)?;
    let namespace = if kind == Kind::Node { "" } else { namespace };
    Some((kind, ObjectName::new(namespace, owner.name.as_str())))
}

/// Everything that names `uid` as an owner.
fn dependents(context: &Context, uid: &str) -> Vec<Key> {
    let mut found = Vec::new();
    for kind in Kind::DEPENDENTS {
        with_cache!(context, kind, cache => {
            for object in cache.all() {
                if owners(object.metadata()).any(|owner| owner.uid == uid) {
                    found.push((kind, object.object_name()));
                }
            }
        });
    }
    found
}

fn owners(meta: &ObjectMeta) -> impl Iterator<Item = &OwnerReference> {
    meta.owner_references.iter().flatten()
}

async fn look<K: ApiObject + Watched>(
    context: &Context,
    cache: &Cache<K>,
    name: &ObjectName,
) -> Result<Done, Error> {
    let Some(object) = cache.get(name) else { return Ok(Done::Settled) };
    let meta = object.metadata();
    if meta.deletion_timestamp.is_some() {
        finalize(context, cache, &*object).await?;
        return Ok(Done::Settled);
    }
    let mut known = Vec::new();
    for owner in owners(meta) {
        known.push((owner, owner_state(context, owner, &name.namespace).await?));
    }
    match judge(&known) {
        Verdict::Keep => {}
        Verdict::Disown(uids) => disown(context, cache, &*object, &uids).await?,
        Verdict::Delete(policy) => {
            tracing::debug!(kind = K::KIND, %name, "its owners are gone");
            let params = DeleteParams {
                propagation_policy: Some(policy),
                preconditions: Some(Preconditions {
                    uid: meta.uid.clone(),
                    resource_version: None,
                }),
                ..DeleteParams::default()
            };
            let answer = delete(&context.client, name, &params).await?;
            cache.deleted(&object, answer);
        }
    }
    Ok(Done::Settled)
}

/// What is known of an owner.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum OwnerState {
    /// It exists, or nobody here can tell.
    Present,
    /// It is going, and waits for its dependents to go first.
    Waiting,
    /// It is gone, or something else has its name.
    Gone,
}

async fn owner_state(
    context: &Context,
    owner: &OwnerReference,
    namespace: &str,
) -> Result<OwnerState, Error> {
    let Some((kind, name)) = named(owner, namespace) else { return Ok(OwnerState::Present) };
    with_cache!(context, kind, cache => {
        let held = cache.get(&name).filter(|held| held.uid() == owner.uid);
        // Our cache may be late: before something is deleted, the API server is asked.
        let found = match held {
            Some(held) => Some((*held).clone()),
            None => look_up(context, cache, &name).await?.filter(|found| found.uid() == owner.uid),
        };
        Ok(match found {
            None => OwnerState::Gone,
            Some(found) if is_waiting(found.metadata()) => OwnerState::Waiting,
            Some(_) => OwnerState::Present,
        })
    })
}

/// Reads an object of the kind of `_cache`.
async fn look_up<K: ApiObject>(
    context: &Context,
    _cache: &Cache<K>,
    name: &ObjectName,
) -> Result<Option<K>, Error> {
    get(&context.client, name).await
}

fn is_waiting(meta: &ObjectMeta) -> bool {
    meta.deletion_timestamp.is_some() && has_finalizer(meta, FOREGROUND)
}

fn has_finalizer(meta: &ObjectMeta, finalizer: &str) -> bool {
    meta.finalizers.iter().flatten().any(|held| held == finalizer)
}

/// What becomes of a dependent.
#[derive(Debug, PartialEq)]
enum Verdict {
    Keep,
    /// It has another owner: these references are taken out.
    Disown(Vec<String>),
    Delete(PropagationPolicy),
}

fn judge(owners: &[(&OwnerReference, OwnerState)]) -> Verdict {
    let in_state = |wanted: OwnerState| owners.iter().filter(move |(_, state)| *state == wanted);
    let lost: Vec<String> = owners
        .iter()
        .filter(|(_, state)| *state != OwnerState::Present)
        .map(|(owner, _)| owner.uid.clone())
        .collect();
    let kept = in_state(OwnerState::Present).next().is_some();
    match (lost.is_empty(), kept) {
        (true, _) => Verdict::Keep,
        (false, true) => Verdict::Disown(lost),
        (false, false) if in_state(OwnerState::Waiting).next().is_some() => {
            Verdict::Delete(PropagationPolicy::Foreground)
        }
        (false, false) => Verdict::Delete(PropagationPolicy::Background),
    }
}

/// Lets an owner that is being deleted go once its dependents are dealt with.
async fn finalize<K: ApiObject + Watched>(
    context: &Context,
    cache: &Cache<K>,
    owner: &K,
) -> Result<(), Error> {
    let meta = owner.metadata();
    let (orphan, foreground) = (has_finalizer(meta, ORPHAN), has_finalizer(meta, FOREGROUND));
    if !orphan && !foreground {
        return Ok(());
    }
    let mut blocking = 0;
    for (kind, name) in dependents(context, owner.uid()) {
        with_cache!(context, kind, dependents => {
            let Some(dependent) = dependents.get(&name) else { continue };
            if orphan {
                disown(context, dependents, &*dependent, &[owner.uid().to_owned()]).await?;
                continue;
            }
            blocking += usize::from(owners(dependent.metadata()).any(|reference| {
                reference.uid == owner.uid() && reference.block_owner_deletion == Some(true)
            }));
            if dependent.metadata().deletion_timestamp.is_none() {
                Box::pin(look(context, dependents, &name)).await?;
            }
        });
    }
    if blocking > 0 {
        return Ok(());
    }
    let mut finalizers = meta.finalizers.clone().unwrap_or_default();
    finalizers.retain(|finalizer| finalizer != ORPHAN && finalizer != FOREGROUND);
    let change = json!({ "metadata": {
        "resourceVersion": meta.resource_version,
        "finalizers": finalizers,
    }});
    match patch::<K>(&context.client, &owner.object_name(), &change).await {
        // The last finalizer gone, the object is gone: the answer is its last state.
        Ok(written) if written.metadata().finalizers.iter().flatten().next().is_none() => {
            cache.deleted(owner, None);
        }
        Ok(written) => cache.wrote(written),
        Err(error) if error.is_not_found() => {}
        Err(error) => return Err(error),
    }
    Ok(())
}

/// Takes owners out of an object's references.
async fn disown<K: ApiObject + Watched>(
    context: &Context,
    cache: &Cache<K>,
    object: &K,
    uids: &[String],
) -> Result<(), Error> {
    let meta = object.metadata();
    let mut kept = meta.owner_references.clone().unwrap_or_default();
    kept.retain(|owner| !uids.contains(&owner.uid));
    let change = json!({ "metadata": {
        "resourceVersion": meta.resource_version,
        "ownerReferences": kept,
    }});
    match patch::<K>(&context.client, &object.object_name(), &change).await {
        Ok(written) => cache.wrote(written),
        Err(error) if error.is_not_found() => {}
        Err(error) => return Err(error),
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn owner(uid: &str) -> OwnerReference {
        OwnerReference {
            api_version: "apps/v1".into(),
            kind: "ReplicaSet".into(),
            name: uid.into(),
            uid: uid.into(),
            ..OwnerReference::default()
        }
    }

    #[test]
    fn the_last_owner_takes_its_dependent_along() {
        use OwnerState::{Gone, Present, Waiting};
        let (a, b) = (owner("a"), owner("b"));
        let table = [
            (vec![], Verdict::Keep),
            (vec![(&a, Present)], Verdict::Keep),
            (vec![(&a, Gone)], Verdict::Delete(PropagationPolicy::Background)),
            (vec![(&a, Waiting)], Verdict::Delete(PropagationPolicy::Foreground)),
            (vec![(&a, Gone), (&b, Waiting)], Verdict::Delete(PropagationPolicy::Foreground)),
            (vec![(&a, Gone), (&b, Present)], Verdict::Disown(vec!["a".into()])),
            (vec![(&a, Present), (&b, Waiting)], Verdict::Disown(vec!["b".into()])),
        ];
        for (owners, expected) in table {
            assert_eq!(judge(&owners), expected, "{owners:?}");
        }
    }

    #[test]
    fn owners_are_found_by_group_and_kind() {
        assert_eq!(named(&owner("x"), "ns"), Some((Kind::ReplicaSet, ObjectName::new("ns", "x"))));
        let node = OwnerReference { api_version: "v1".into(), kind: "Node".into(), ..owner("n") };
        assert_eq!(named(&node, "ns"), Some((Kind::Node, ObjectName::new("", "n"))));
        let foreign = OwnerReference { api_version: "example.com/v1".into(), ..owner("x") };
        assert_eq!(named(&foreign, "ns"), None);
    }
}
