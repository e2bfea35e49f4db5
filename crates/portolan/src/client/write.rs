//! Typed reads and writes of single whole objects. Every error names the object.

use k8s_openapi::Metadata;
use k8s_openapi::api::core::v1::Namespace;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use kube::core::Request;
use kube::core::params::{DeleteParams, GetParams, Patch, PatchParams, PostParams};
use model::ObjectName;
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::Value;

use super::{Client, Error, Watched};

/// Name under which our writes are recorded in `managedFields`.
const FIELD_MANAGER: &str = "portolan";

/// A whole API object.
pub(crate) trait ApiObject:
    Metadata<Ty = ObjectMeta> + Serialize + DeserializeOwned + Clone + Send + Sync + 'static
{
    /// Namespace and name.
    fn object_name(&self) -> ObjectName {
        let meta = self.metadata();
        ObjectName::new(
            meta.namespace.as_deref().unwrap_or_default(),
            meta.name.as_deref().or(meta.generate_name.as_deref()).unwrap_or_default(),
        )
    }

    /// Identity across re-creation; empty on an object that was never stored.
    fn uid(&self) -> &str {
        self.metadata().uid.as_deref().unwrap_or_default()
    }
}

impl<K> ApiObject for K where
    K: Metadata<Ty = ObjectMeta> + Serialize + DeserializeOwned + Clone + Send + Sync + 'static
{
}

/// Path of a collection; an empty namespace means all namespaces or a cluster-scoped kind.
pub(super) fn path<K: k8s_openapi::Resource>(namespace: &str) -> String {
    let mut path = match K::GROUP {
        "" => format!("/api/{}", K::VERSION),
        group => format!("/apis/{group}/{}", K::VERSION),
    };
    if !namespace.is_empty() {
        path += "/namespaces/";
        path += namespace;
    }
    path + "/" + K::URL_PATH_SEGMENT
}

/// Reads an object; `None` if it does not exist.
pub(crate) async fn get<K: ApiObject>(
    client: &Client,
    name: &ObjectName,
) -> Result<Option<K>, Error> {
    let request = Request::new(path::<K>(&name.namespace)).get(&name.name, &GetParams::default());
    match send::<K, K>(client, "get", name, request).await {
        Ok(object) => Ok(Some(object)),
        Err(error) if error.is_not_found() => Ok(None),
        Err(error) => Err(error),
    }
}

/// Creates an object and returns it as stored.
pub(crate) async fn create<K: ApiObject>(client: &Client, object: &K) -> Result<K, Error> {
    let name = object.object_name();
    let request = Request::new(path::<K>(&name.namespace)).create(&post(), json(object));
    send::<K, K>(client, "create", &name, request).await
}

/// Replaces an object; a `resourceVersion` in it makes that conditional.
pub(crate) async fn replace<K: ApiObject>(client: &Client, object: &K) -> Result<K, Error> {
    let name = object.object_name();
    let request =
        Request::new(path::<K>(&name.namespace)).replace(&name.name, &post(), json(object));
    send::<K, K>(client, "update", &name, request).await
}

/// Applies a JSON merge patch (RFC 7386).
pub(crate) async fn patch<K: ApiObject>(
    client: &Client,
    name: &ObjectName,
    patch: &Value,
) -> Result<K, Error> {
    let request = Request::new(path::<K>(&name.namespace)).patch(
        &name.name,
        &PatchParams { field_manager: Some(FIELD_MANAGER.into()), ..PatchParams::default() },
        &Patch::Merge(patch),
    );
    send::<K, K>(client, "patch", name, request).await
}

/// Applies a JSON merge patch to the status.
pub(crate) async fn patch_status<K: ApiObject>(
    client: &Client,
    name: &ObjectName,
    patch: &Value,
) -> Result<K, Error> {
    let request = Request::new(path::<K>(&name.namespace)).patch_subresource(
        "status",
        &name.name,
        &PatchParams { field_manager: Some(FIELD_MANAGER.into()), ..PatchParams::default() },
        &Patch::Merge(patch),
    );
    send::<K, K>(client, "patch status of", name, request).await
}

/// Posts to a subresource, for example a binding.
pub(crate) async fn post_subresource<K: ApiObject>(
    client: &Client,
    name: &ObjectName,
    subresource: &'static str,
    body: &impl Serialize,
) -> Result<(), Error> {
    let request = Request::new(path::<K>(&name.namespace)).create_subresource(
        subresource,
        &name.name,
        &post(),
        json(body),
    );
    send::<K, Value>(client, subresource, name, request).await.map(drop)
}

/// Writes the finalizers of a namespace, which only the `finalize` subresource may take away.
pub(crate) async fn put_finalized(client: &Client, namespace: &Namespace) -> Result<(), Error> {
    let name = namespace.object_name();
    let request = Request::new(path::<Namespace>("")).replace_subresource(
        "finalize",
        &name.name,
        &post(),
        json(namespace),
    );
    send::<Namespace, Value>(client, "finalize", &name, request).await.map(drop)
}

/// Deletes an object. Answers its last state if it is still there (a pod that may end gracefully,
/// an object with finalizers), and `None` if it is gone, also if it was gone already.
pub(crate) async fn delete<K: ApiObject>(
    client: &Client,
    name: &ObjectName,
    params: &DeleteParams,
) -> Result<Option<K>, Error> {
    let request = Request::new(path::<K>(&name.namespace)).delete(&name.name, params);
    match send::<K, Value>(client, "delete", name, request).await {
        Ok(answer) if answer["kind"] == K::KIND => {
            let object: Option<K> = read(&answer).ok();
            Ok(object.filter(|object| object.metadata().deletion_timestamp.is_some()))
        }
        Ok(_) => Ok(None),
        Err(error) if error.is_not_found() => Ok(None),
        Err(error) => Err(error),
    }
}

fn post() -> PostParams {
    PostParams { field_manager: Some(FIELD_MANAGER.into()), ..PostParams::default() }
}

fn json(object: &impl Serialize) -> Vec<u8> {
    serde_json::to_vec(object).expect("API objects have string keys, so they are always JSON")
}

async fn send<K: ApiObject, T: DeserializeOwned>(
    client: &Client,
    verb: &'static str,
    name: &ObjectName,
    request: Result<http::Request<Vec<u8>>, kube::core::request::Error>,
) -> Result<T, Error> {
    let kind = K::KIND;
    let request =
        request.map_err(|source| Error::Build { verb, kind, name: name.clone(), source })?;
    let failed = |source| Error::Request { verb, kind, name: name.clone(), source };
    let answer: Value = client.request(request).await.map_err(failed)?;
    read(&answer).map_err(|error| failed(kube::Error::SerdeError(error)))
}

/// Reads a whole object. All are read in this way: the code for each way is large, and there are many
/// kinds.
fn read<T: DeserializeOwned>(json: &Value) -> serde_json::Result<T> {
    T::deserialize(json)
}

macro_rules! watched {
    ($($kind:ty),*) => {$(
        impl Watched for $kind {
            fn read(json: &str) -> serde_json::Result<Self> {
                read(&serde_json::from_str(json)?)
            }
        }
    )*};
}

watched!(
    k8s_openapi::api::apps::v1::Deployment,
    k8s_openapi::api::apps::v1::ReplicaSet,
    k8s_openapi::api::coordination::v1::Lease,
    k8s_openapi::api::core::v1::Endpoints,
    k8s_openapi::api::core::v1::Namespace,
    k8s_openapi::api::core::v1::Node,
    k8s_openapi::api::core::v1::Pod,
    k8s_openapi::api::core::v1::Service,
    k8s_openapi::api::discovery::v1::EndpointSlice
);

#[cfg(test)]
mod tests {
    use k8s_openapi::api::apps::v1::Deployment;
    use k8s_openapi::api::core::v1::{Node, Pod};

    use super::path;

    #[test]
    fn paths_follow_group_and_namespace() {
        assert_eq!(path::<Pod>("default"), "/api/v1/namespaces/default/pods");
        assert_eq!(path::<Pod>(""), "/api/v1/pods");
        assert_eq!(path::<Node>(""), "/api/v1/nodes");
        assert_eq!(path::<Deployment>("x"), "/apis/apps/v1/namespaces/x/deployments");
    }
}
