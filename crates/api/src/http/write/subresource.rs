//! Subresources that are no part of the object as it is stored.

use std::sync::Arc;

use http::StatusCode;
use serde_json::{Value, json};

use super::change::replace_in;
use super::{Part, Place};
use crate::http::answer::{self, Answer};
use crate::http::read::key;
use crate::http::{Call, body};
use crate::metadata;
use crate::patch::{self, Format};
use crate::status::{Result, Status};
use crate::store::Stored;

/// POST to `pods/NAME/binding`: gives a pod its node, once.
pub(in crate::http) async fn bind(call: &Call<'_>, name: &str) -> Result<Answer> {
    let binding = body::decode(call.media_type, &call.bytes)?;
    let node = binding["target"]["name"].as_str().filter(|node| !node.is_empty());
    let node = node
        .ok_or_else(|| Status::bad_request("call.target.name of a binding: the node is needed"))?;
    let (key, node, kind) = (key(&call.target, name), node.to_owned(), call.target.kind);
    call.shared
        .store
        .write(move |tx| {
            let old = tx.objects().get(&key).ok_or_else(|| Status::not_found(kind, &key.name))?;
            let mut pod = old.value.clone();
            if let Some(bound) = pod["spec"]["nodeName"].as_str().filter(|node| !node.is_empty()) {
                let why = format!("pod {} is already assigned to node \"{bound}\"", key.name);
                return Err(Status::conflict(kind, &key.name, &why));
            }
            pod["spec"]["nodeName"] = node.into();
            let scheduled = json!({"type": "PodScheduled", "status": "True",
                                   "lastProbeTime": null, "lastTransitionTime": metadata::now()});
            metadata::set_condition(&mut pod, scheduled);
            tx.put(key, pod);
            Ok(())
        })
        .await?;
    let status = json!({"kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Success",
                        "code": 201});
    Ok(answer::value(StatusCode::CREATED, &status))
}

/// GET of `/scale` of workloads: the number of replicas alone, as `autoscaling/v1` Scale.
pub(in crate::http) fn get_scale(call: &Call<'_>, name: &str) -> Result<Answer> {
    let scale = scale_of(&stored(call, name)?.value);
    Ok(answer::value(StatusCode::OK, &scale))
}

/// PUT or PATCH of `/scale`.
pub(in crate::http) async fn set_scale(call: &Call<'_>, name: &str) -> Result<Answer> {
    let key = key(&call.target, name);
    let kind = call.target.kind;
    let old = stored(call, name)?;
    let wanted = match Format::of(call.media_type) {
        Ok(format) => {
            let patch = serde_json::from_slice(&call.bytes).map_err(|error| {
                Status::bad_request(format!("the patch is not valid JSON: {error}"))
            })?;
            patch::patch(format, &scale_of(&old.value), &patch)?
        }
        Err(_) => body::decode(call.media_type, &call.bytes)?,
    };
    let replicas = wanted["spec"]["replicas"].as_u64().unwrap_or(0);
    let version = wanted["metadata"]["resourceVersion"].as_str().unwrap_or_default().to_owned();
    let place = Place {
        kind,
        namespace: key.namespace.clone(),
        part: Part::Main,
        dry_run: call.query.dry_run()?,
    };
    let shared_write = call.shared.clone();
    let stored = call
        .shared
        .store
        .write(move |tx| {
            let old = tx.objects().get(&key).cloned();
            let old = old.ok_or_else(|| Status::not_found(kind, &key.name))?;
            let mut object = old.value.clone();
            object["spec"]["replicas"] = replicas.into();
            if !version.is_empty() {
                object["metadata"]["resourceVersion"] = version.into();
            }
            replace_in(&shared_write, tx, &place, &old, object)
        })
        .await?;
    Ok(answer::value(StatusCode::OK, &scale_of(&stored.value)))
}

/// The object whose subresource is meant.
fn stored(call: &Call<'_>, name: &str) -> Result<Arc<Stored>> {
    let found = call.shared.store.read().get(&key(&call.target, name)).cloned();
    found.ok_or_else(|| Status::not_found(call.target.kind, name))
}

fn scale_of(object: &Value) -> Value {
    let metadata = &object["metadata"];
    let labels = object["spec"]["selector"]["matchLabels"].as_object();
    let selector: Vec<String> = labels
        .into_iter()
        .flatten()
        .map(|(key, value)| format!("{key}={}", value.as_str().unwrap_or_default()))
        .collect();
    json!({
        "kind": "Scale", "apiVersion": "autoscaling/v1",
        "metadata": {
            "name": metadata["name"], "namespace": metadata["namespace"], "uid": metadata["uid"],
            "resourceVersion": metadata["resourceVersion"],
            "creationTimestamp": metadata["creationTimestamp"],
        },
        "spec": {"replicas": object["spec"]["replicas"]},
        "status": {"replicas": object["status"]["replicas"].as_u64().unwrap_or(0),
                   "selector": selector.join(",")},
    })
}
