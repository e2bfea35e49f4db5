//! Keeps the older `v1` Endpoints objects beside the slices, for clients that still read them, and
//! removes those whose Service is gone.

use std::sync::Arc;

use k8s_openapi::api::core::v1::{EndpointAddress, EndpointPort, EndpointSubset, Endpoints};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use kube::core::params::DeleteParams;
use model::ObjectName;
use model::object::HEADLESS_LABEL;
use model::slices::{Subset, SubsetAddress, TRIGGER_TIME_ANNOTATION, subsets};

use super::labels::{Labels, selects};
use super::queue::{Done, Queue};
use super::slices::watch_services_and_pods;
use super::{Context, convert};
use crate::client::{ApiObject, Error, create, delete, replace};

const MANAGED_BY_LABEL: &str = "endpoints.kubernetes.io/managed-by";
const MANAGED_BY: &str = "endpoint-controller";
const OVER_CAPACITY_ANNOTATION: &str = "endpoints.kubernetes.io/over-capacity";

/// Endpoints objects that are locks of somebody's leader election, not endpoints.
const LEADER_ANNOTATION: &str = "control-plane.alpha.kubernetes.io/leader";

const WORKERS: usize = 2;

pub(super) async fn run(context: Arc<Context>) -> Result<(), Error> {
    let queue: Queue<ObjectName> = Queue::new("endpoints");
    watch_services_and_pods(&context, &queue);
    // An Endpoints object that appears without a Service is a user's who will make the Service
    // later; only what was left over while we did not run is removed.
    let (added, weak) = (queue.clone(), Arc::downgrade(&context));
    context.endpoints.on_change(move |old, new| {
        let Some(context) = weak.upgrade() else { return };
        let name = old.or(new).map(ApiObject::object_name);
        added.extend(name.filter(|name| context.services.get(name).is_some()));
    });
    context.services.listed().await;
    context.pods.listed().await;
    context.endpoints.listed().await;
    queue.extend(context.endpoints.all().iter().map(|endpoints| endpoints.object_name()));
    queue
        .work(WORKERS, move |name| {
            let context = context.clone();
            async move { look(&context, &name).await }
        })
        .await;
    Ok(())
}

async fn look(context: &Context, name: &ObjectName) -> Result<Done, Error> {
    let existing = context.endpoints.get(name);
    let Some(object) = context.services.get(name) else {
        if let Some(old) = existing.filter(|old| !has_annotation(old, LEADER_ANNOTATION)) {
            let answer = delete(&context.client, name, &DeleteParams::default()).await?;
            context.endpoints.deleted(&old, answer);
        }
        return Ok(Done::Settled);
    };
    let Some(service) = convert::service(&object) else { return Ok(Done::Settled) };
    let selector = object.spec.as_ref().and_then(|spec| spec.selector.as_ref());
    let pods: Vec<_> = context
        .pods
        .in_namespace(&name.namespace)
        .iter()
        .filter(|pod| selects(selector, pod.metadata.labels.as_ref()))
        .map(|pod| convert::pod(pod))
        .collect();
    let (subsets, truncated) = subsets(&service, &pods);

    let mut labels = object.metadata.labels.clone().unwrap_or_default();
    labels.remove(HEADLESS_LABEL);
    labels.insert(MANAGED_BY_LABEL.into(), MANAGED_BY.into());
    if service.headless {
        labels.insert(HEADLESS_LABEL.into(), String::new());
    }
    let desired = desired(name, labels, subsets, truncated, existing.as_deref());
    let written = match existing {
        Some(old) if same(&old, &desired) => return Ok(Done::Settled),
        Some(_) => replace(&context.client, &desired).await?,
        None if service.deleting => return Ok(Done::Settled),
        None => match create(&context.client, &desired).await {
            Err(error) if error.is_namespace_terminating() => return Ok(Done::Settled),
            result => result?,
        },
    };
    context.endpoints.wrote(written);
    Ok(Done::Settled)
}

/// The object to write, with the annotations and version of the existing one.
fn desired(
    name: &ObjectName,
    labels: Labels,
    subsets: Vec<Subset>,
    truncated: bool,
    existing: Option<&Endpoints>,
) -> Endpoints {
    let old = existing.map(|endpoints| &endpoints.metadata);
    let mut annotations = old.and_then(|meta| meta.annotations.clone()).unwrap_or_default();
    annotations.remove(TRIGGER_TIME_ANNOTATION);
    if truncated {
        annotations.insert(OVER_CAPACITY_ANNOTATION.into(), "truncated".into());
    } else {
        annotations.remove(OVER_CAPACITY_ANNOTATION);
    }
    Endpoints {
        metadata: ObjectMeta {
            name: Some(name.name.to_string()),
            namespace: Some(name.namespace.to_string()),
            resource_version: old.and_then(|meta| meta.resource_version.clone()),
            labels: Some(labels),
            annotations: (!annotations.is_empty()).then_some(annotations),
            ..ObjectMeta::default()
        },
        subsets: (!subsets.is_empty()).then(|| subsets.into_iter().map(subset).collect()),
    }
}

fn subset(subset: Subset) -> EndpointSubset {
    let addresses = |list: Vec<SubsetAddress>| {
        let list: Vec<_> = list.into_iter().map(address).collect();
        (!list.is_empty()).then_some(list)
    };
    let ports: Vec<EndpointPort> = subset
        .ports
        .into_iter()
        .map(|port| EndpointPort {
            name: (!port.name.is_empty()).then(|| port.name.to_string()),
            port: port.number.into(),
            protocol: Some(port.protocol.to_string()),
            app_protocol: port.app_protocol.as_deref().map(Into::into),
        })
        .collect();
    EndpointSubset {
        addresses: addresses(subset.addresses),
        not_ready_addresses: addresses(subset.not_ready),
        ports: (!ports.is_empty()).then_some(ports),
    }
}

fn address(address: SubsetAddress) -> EndpointAddress {
    EndpointAddress {
        ip: address.ip.to_string(),
        hostname: address.hostname.as_deref().map(Into::into),
        node_name: address.node.as_deref().map(Into::into),
        target_ref: Some(convert::pod_reference(&address.pod, &address.uid)),
    }
}

fn same(old: &Endpoints, new: &Endpoints) -> bool {
    let subsets = |e: &Endpoints| e.subsets.clone().unwrap_or_default();
    let over = |e: &Endpoints| has_annotation(e, OVER_CAPACITY_ANNOTATION);
    subsets(old) == subsets(new)
        && old.metadata.labels == new.metadata.labels
        && over(old) == over(new)
}

fn has_annotation(endpoints: &Endpoints, key: &str) -> bool {
    endpoints.metadata.annotations.as_ref().is_some_and(|all| all.contains_key(key))
}
