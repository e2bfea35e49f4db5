//! Empties a namespace that is being deleted, then lets it go.
//!
//! What kinds there are is asked of the API server, so that nothing is left behind that this
//! program has never heard of.

use std::sync::Arc;
use std::time::Duration;

use k8s_openapi::api::core::v1::Namespace;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{APIResource, APIResourceList};
use kube::core::Request;
use kube::core::params::{DeleteParams, ListParams};
use model::ObjectName;
use serde_json::Value;

use super::Context;
use super::queue::{Done, Queue};
use crate::client::{ApiObject, Client, Error, put_finalized};

/// The finalizer that asks for this controller.
const FINALIZER: &str = "kubernetes";

/// How soon to look again at a namespace that is not empty yet: pods take their grace period.
const EMPTYING: Duration = Duration::from_millis(200);

pub(super) async fn run(context: Arc<Context>) -> Result<(), Error> {
    let queue: Queue<ObjectName> = Queue::new("namespace");
    let added = queue.clone();
    context.namespaces.on_change(move |_, new| {
        added.extend(new.filter(|ns| is_going(ns)).map(ApiObject::object_name));
    });
    context.namespaces.listed().await;
    queue
        .work(2, move |name| {
            let context = context.clone();
            async move { look(&context, &name).await }
        })
        .await;
    Ok(())
}

fn is_going(namespace: &Namespace) -> bool {
    let spec = namespace.spec.as_ref();
    let waits = spec.is_some_and(|s| s.finalizers.iter().flatten().any(|f| f == FINALIZER));
    namespace.metadata.deletion_timestamp.is_some() && waits
}

async fn look(context: &Context, name: &ObjectName) -> Result<Done, Error> {
    let Some(namespace) = context.namespaces.get(name).filter(|ns| is_going(ns)) else {
        return Ok(Done::Settled);
    };
    let failed =
        |source| Error::Request { verb: "empty", kind: "Namespace", name: name.clone(), source };
    let mut left = 0;
    for path in contents(&context.client, &name.name).await.map_err(failed)? {
        left += empty(&context.client, &path).await.map_err(failed)?;
    }
    if left > 0 {
        tracing::debug!(namespace = %name, left, "namespace is not empty yet");
        return Ok(Done::LookAgain(EMPTYING));
    }
    let mut finalized = (*namespace).clone();
    if let Some(finalizers) = finalized.spec.as_mut().and_then(|spec| spec.finalizers.as_mut()) {
        finalizers.retain(|finalizer| finalizer != FINALIZER);
    }
    match put_finalized(&context.client, &finalized).await {
        Ok(()) => Ok(Done::Settled),
        Err(error) if error.is_not_found() => Ok(Done::Settled),
        Err(error) => Err(error),
    }
}

/// Paths of all collections in a namespace.
async fn contents(client: &Client, namespace: &str) -> kube::Result<Vec<String>> {
    let mut lists = Vec::new();
    for version in client.list_core_api_versions().await?.versions {
        lists.push((format!("/api/{version}"), client.list_core_api_resources(&version).await?));
    }
    for group in client.list_api_groups().await?.groups {
        let preferred = group.preferred_version.or_else(|| group.versions.first().cloned());
        let Some(version) = preferred.map(|version| version.group_version) else { continue };
        lists.push((format!("/apis/{version}"), client.list_api_group_resources(&version).await?));
    }
    Ok(lists.iter().flat_map(|(prefix, list)| collections(prefix, namespace, list)).collect())
}

fn collections(prefix: &str, namespace: &str, list: &APIResourceList) -> Vec<String> {
    let holds = |resource: &&APIResource| {
        let can = |verb: &str| resource.verbs.iter().any(|known| known == verb);
        resource.namespaced && !resource.name.contains('/') && can("list") && can("delete")
    };
    let path = |r: &APIResource| format!("{prefix}/namespaces/{namespace}/{}", r.name);
    list.resources.iter().filter(holds).map(path).collect()
}

/// Deletes what a collection holds and says how much of it was there.
async fn empty(client: &Client, path: &str) -> kube::Result<usize> {
    let request = Request::new(path);
    let list = request.list(&ListParams::default()).map_err(kube::Error::BuildRequest)?;
    let list: Value = client.request(list).await?;
    let items = list["items"].as_array().map(Vec::as_slice).unwrap_or_default();
    for item in items.iter().filter(|item| item["metadata"]["deletionTimestamp"].is_null()) {
        let Some(name) = item["metadata"]["name"].as_str() else { continue };
        let delete = request.delete(name, &DeleteParams::default());
        match client.request::<Value>(delete.map_err(kube::Error::BuildRequest)?).await {
            Ok(_) => {}
            Err(kube::Error::Api(status)) if status.code == 404 => {}
            Err(error) => return Err(error),
        }
    }
    Ok(items.len())
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn only_what_lives_in_a_namespace_and_can_be_deleted() {
        let resource = |name: &str, namespaced: bool, verbs: &[&str]| {
            json!({ "name": name, "singularName": "", "namespaced": namespaced, "kind": "K",
                    "verbs": verbs })
        };
        let list: APIResourceList = serde_json::from_value(json!({
            "groupVersion": "v1",
            "resources": [
                resource("pods", true, &["list", "delete"]),
                resource("pods/log", true, &["list", "delete"]),
                resource("nodes", false, &["list", "delete"]),
                resource("bindings", true, &["create"]),
            ],
        }))
        .expect("a list");
        assert_eq!(collections("/api/v1", "x", &list), ["/api/v1/namespaces/x/pods"]);
    }
}
