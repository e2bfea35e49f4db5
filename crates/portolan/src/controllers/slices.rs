//! Keeps the EndpointSlices of Services with a selector true: [`model::slices`] decides, this loop
//! brings it what changed and does the writes.
//!
//! There is no batching delay on purpose: what a pod's readiness takes to reach the kernel begins
//! here.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use jiff::Timestamp;
use k8s_openapi::api::core::v1::{Node, Pod};
use k8s_openapi::api::discovery::v1::EndpointSlice;
use kube::core::params::DeleteParams;
use model::ObjectName;
use model::object::{SERVICE_NAME_LABEL, ZONE_LABEL};
use model::slices::{MANAGED_BY, MANAGED_BY_LABEL, Triggers, Write, Zones, decide};

use super::Context;
use super::convert;
use super::labels::selects;
use super::queue::{Done, Queue};
use crate::client::{ApiObject, Error, create, delete, replace};

/// Services looked at at a time.
const WORKERS: usize = 4;

/// How soon to look again for a node that a pod is bound to but that doesn't exist yet.
const MISSING_NODE: Duration = Duration::from_secs(1);

type TriggersByService = Mutex<HashMap<ObjectName, Triggers<Timestamp>>>;

pub(super) async fn run(context: Arc<Context>) -> Result<(), Error> {
    let queue: Queue<ObjectName> = Queue::new("endpointslice");
    watch_services_and_pods(&context, &queue);

    let (added, weak) = (queue.clone(), Arc::downgrade(&context));
    context.nodes.on_change(move |old, new| {
        let Some(context) = weak.upgrade() else { return };
        if old.map(zone) != new.map(zone) {
            context.services.all().iter().for_each(|s| added.add(s.object_name()));
        }
    });
    let added = queue.clone();
    context.slices.on_change(move |old, new| {
        let services = [old, new].into_iter().flatten().filter_map(service_of);
        services.for_each(|service| added.add(service));
    });

    context.services.listed().await;
    context.pods.listed().await;
    context.nodes.listed().await;
    context.slices.listed().await;
    let triggers: Arc<TriggersByService> = Arc::default();
    queue
        .work(WORKERS, move |name| {
            let (context, triggers) = (context.clone(), triggers.clone());
            async move { look(&context, &triggers, &name).await }
        })
        .await;
    Ok(())
}

/// Has a Service looked at when it or a pod that it selects, or selected, has changed in a way that
/// its endpoints show.
pub(super) fn watch_services_and_pods(context: &Arc<Context>, queue: &Queue<ObjectName>) {
    let added = queue.clone();
    context.services.on_change(move |old, new| {
        added.extend(old.or(new).map(ApiObject::object_name));
    });
    let (added, weak) = (queue.clone(), Arc::downgrade(context));
    context.pods.on_change(move |old, new| {
        let Some(context) = weak.upgrade() else { return };
        let Some(pod) = new.or(old) else { return };
        let labels = |pod: Option<&Pod>| pod.map(|pod| pod.metadata.labels.clone());
        let relabelled = labels(old) != labels(new);
        let changed =
            old.map(convert::pod) != new.map(convert::pod) || trigger(old) != trigger(new);
        if !relabelled && !changed {
            return;
        }
        for service in context.services.in_namespace(&pod.object_name().namespace) {
            let selector = service.spec.as_ref().and_then(|spec| spec.selector.as_ref());
            let selected = |pod: Option<&Pod>| {
                pod.is_some_and(|pod| selects(selector, pod.metadata.labels.as_ref()))
            };
            let (before, after) = (selected(old), selected(new));
            if before != after || (changed && after) {
                added.add(service.object_name());
            }
        }
    });
}

fn trigger(pod: Option<&Pod>) -> Option<Timestamp> {
    let condition = convert::ready_condition(pod?)?;
    condition.last_transition_time.as_ref().map(|time| time.0)
}

fn zone(node: &Node) -> Option<&String> {
    node.metadata.labels.as_ref()?.get(ZONE_LABEL).filter(|zone| !zone.is_empty())
}

/// The Service of a slice that is ours to write.
fn service_of(slice: &EndpointSlice) -> Option<ObjectName> {
    let labels = slice.metadata.labels.as_ref()?;
    let ours = labels.get(MANAGED_BY_LABEL).is_some_and(|manager| manager == MANAGED_BY);
    let service = labels.get(SERVICE_NAME_LABEL).filter(|_| ours)?;
    Some(ObjectName::new(slice.metadata.namespace.as_deref()?, service.as_str()))
}

async fn look(
    context: &Context,
    triggers: &TriggersByService,
    name: &ObjectName,
) -> Result<Done, Error> {
    let Some(object) = context.services.get(name) else {
        // Its slices have an owner that is gone: the garbage collector takes them.
        triggers.lock().unwrap_or_else(PoisonError::into_inner).remove(name);
        return Ok(Done::Settled);
    };
    let Some(service) = convert::service(&object) else { return Ok(Done::Settled) };

    let selector = object.spec.as_ref().and_then(|spec| spec.selector.as_ref());
    let mut selected = context.pods.in_namespace(&name.namespace);
    selected.retain(|pod| selects(selector, pod.metadata.labels.as_ref()));
    let pods: Vec<_> = selected.iter().map(|pod| convert::pod(pod)).collect();
    let zones: Zones = context
        .nodes
        .all()
        .iter()
        .map(|node| (node.object_name().name, zone(node).map(|zone| zone.as_str().into())))
        .collect();
    let held: HashMap<Arc<str>, Arc<EndpointSlice>> = context
        .slices
        .in_namespace(&name.namespace)
        .into_iter()
        .filter(|slice| service_of(slice).as_ref() == Some(name))
        .map(|slice| (slice.object_name().name, slice))
        .collect();
    let existing: Vec<_> = held.values().filter_map(|slice| convert::slice(slice)).collect();

    let created = object.metadata.creation_timestamp.as_ref().map(|time| time.0);
    let trigger = created.and_then(|created| {
        let times = selected.iter().filter_map(|pod| Some((pod.uid().into(), trigger(Some(pod))?)));
        let mut triggers = triggers.lock().unwrap_or_else(PoisonError::into_inner);
        triggers.entry(name.clone()).or_default().look(created, times)
    });
    // Nanoseconds always, as the readers of this annotation have seen it since it exists.
    let trigger = trigger.map(|time| format!("{time:.9}"));

    let capacity = context.config.endpoints_per_slice;
    let decision = decide(&service, &pods, &zones, &existing, trigger.as_deref(), capacity);
    for write in decision.writes {
        tracing::debug!(service = %name, ?write, "slice");
        match write {
            Write::Create(slice) => {
                let slice = convert::endpoint_slice(&slice, &object);
                match create(&context.client, &slice).await {
                    Ok(written) => context.slices.wrote(written),
                    Err(error) if error.is_namespace_terminating() => {}
                    Err(error) => return Err(error),
                }
            }
            Write::Update(slice) => {
                let slice = convert::endpoint_slice(&slice, &object);
                context.slices.wrote(replace(&context.client, &slice).await?);
            }
            Write::Delete(slice) => {
                let target = ObjectName { namespace: name.namespace.clone(), name: slice };
                let answer = delete(&context.client, &target, &DeleteParams::default()).await?;
                if let Some(old) = held.get(&target.name) {
                    context.slices.deleted(old, answer);
                }
            }
        }
    }
    if decision.missing_nodes.is_empty() {
        return Ok(Done::Settled);
    }
    tracing::debug!(service = %name, nodes = ?decision.missing_nodes, "pods on nodes that don't exist");
    Ok(Done::LookAgain(MISSING_NODE))
}
