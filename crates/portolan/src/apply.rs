//! Applying manifests: all of them, or with one mistake none.
//!
//! Everything is tried first, without effect (a dry run on the server, with its own defaults and
//! rules). Should something be refused all the same when it is done in earnest, because two of the
//! manifests are in each other's way, what was done is undone.

use std::collections::{BTreeSet, HashMap};

use anyhow::{Context, anyhow};
use kube::core::Request;
use kube::core::params::{DeleteParams, GetParams, Patch, PatchParams, PostParams};
use serde_json::{Value, json};

use crate::client::Client;
use crate::manifest::Manifest;

/// Name under which fields are recorded as ours.
const FIELD_MANAGER: &str = "portolan-apply";

/// Applies manifests in their order. Answers what they are, for example `service/web`.
pub(crate) async fn apply(client: &Client, manifests: &[Manifest]) -> anyhow::Result<Vec<String>> {
    let resources = Resources::of(client, manifests).await?;
    let new_namespaces = new_namespaces(client, manifests).await?;
    for manifest in manifests {
        let target = resources.target(manifest)?;
        let is_in_new = manifest.namespace.as_ref().is_some_and(|ns| new_namespaces.contains(ns));
        let tried = match is_in_new {
            true => target.try_elsewhere(client).await,
            false => target.put(client, true).await.map(drop),
        };
        tried.map_err(|error| refused(manifest, &error))?;
    }
    let mut done = Vec::new();
    for manifest in manifests {
        let target = resources.target(manifest)?;
        let before = target.get(client).await.map_err(|error| refused(manifest, &error))?;
        if let Err(error) = target.put(client, false).await {
            undo(client, done).await;
            return Err(refused(manifest, &error));
        }
        done.push((target, before));
    }
    Ok(manifests.iter().map(|m| format!("{}/{}", m.kind.to_lowercase(), m.name)).collect())
}

/// Takes back what was done, the last first.
async fn undo(client: &Client, done: Vec<(Target<'_>, Option<Value>)>) {
    for (target, before) in done.into_iter().rev() {
        let undone = match before {
            None => target.delete(client).await,
            Some(before) => target.restore(client, before).await,
        };
        if let Err(error) = undone {
            tracing::error!(object = %target.describe(), %error, "not undone");
        }
    }
}

/// The server's refusal, at the line that it is about.
fn refused(manifest: &Manifest, error: &kube::Error) -> anyhow::Error {
    match error {
        kube::Error::Api(status) => {
            let causes = status.details.iter().flat_map(|details| &details.causes);
            let field = causes.map(|cause| cause.field.as_str()).find(|field| !field.is_empty());
            let field = field.or_else(|| unknown_field(&status.message)).unwrap_or_default();
            let mut message = status.message.as_str();
            // The place names the field already.
            if let Some((_, rest)) = message.split_once(&format!("{field}: ")) {
                message = rest;
            }
            anyhow!("{}: {message}", manifest.place(field))
        }
        other => anyhow!("{}: {other}", manifest.place("")),
    }
}

/// The field that a strict API server does not know, which it tells only in its sentence.
fn unknown_field(message: &str) -> Option<&str> {
    message.split_once("unknown field \"")?.1.split('"').next()
}

/// Namespaces among the manifests that the server does not have yet.
async fn new_namespaces(
    client: &Client,
    manifests: &[Manifest],
) -> anyhow::Result<BTreeSet<String>> {
    let mut new = BTreeSet::new();
    for manifest in manifests.iter().filter(|m| m.kind == "Namespace") {
        let request = Request::new("/api/v1/namespaces").get(&manifest.name, &GetParams::default());
        if optional(client.request::<Value>(request?).await)?.is_none() {
            new.insert(manifest.name.clone());
        }
    }
    Ok(new)
}

fn optional<T>(answer: kube::Result<T>) -> kube::Result<Option<T>> {
    match answer {
        Ok(value) => Ok(Some(value)),
        Err(kube::Error::Api(status)) if status.code == 404 => Ok(None),
        Err(error) => Err(error),
    }
}

/// Where objects of each kind live on this server: plural name, and whether in namespaces.
struct Resources(HashMap<(String, String), (String, bool)>);

impl Resources {
    /// Asks the server about the API versions that the manifests use.
    async fn of(client: &Client, manifests: &[Manifest]) -> anyhow::Result<Self> {
        let versions: BTreeSet<&str> = manifests.iter().map(|m| &*m.api_version).collect();
        let mut known = HashMap::new();
        for version in versions {
            let list = match version.contains('/') {
                true => client.list_api_group_resources(version).await,
                false => client.list_core_api_resources(version).await,
            };
            let list = optional(list).context("ask the API server what it serves")?;
            for resource in list.into_iter().flat_map(|list| list.resources) {
                if !resource.name.contains('/') {
                    let key = (version.to_owned(), resource.kind);
                    known.insert(key, (resource.name, resource.namespaced));
                }
            }
        }
        Ok(Self(known))
    }

    /// There is no such kind: says which there are.
    fn unknown(&self, manifest: &Manifest) -> anyhow::Error {
        let version = &manifest.api_version;
        let of_version = self.0.keys().filter(|(other, _)| other == version);
        let mut kinds: Vec<&str> = of_version.map(|(_, kind)| kind.as_str()).collect();
        if kinds.is_empty() {
            let place = manifest.place("apiVersion");
            return anyhow!(
                "{place}: the API server does not serve {version} (kind {}); it is v1 for Services and Pods, apps/v1 for Deployments",
                manifest.kind
            );
        }
        kinds.sort_unstable();
        let place = manifest.place("kind");
        anyhow!(
            "{place}: there is no {} in {version}; accepted: {}",
            manifest.kind,
            kinds.join(", ")
        )
    }

    fn target<'m>(&self, manifest: &'m Manifest) -> anyhow::Result<Target<'m>> {
        let key = (manifest.api_version.clone(), manifest.kind.clone());
        let (plural, namespaced) = self.0.get(&key).ok_or_else(|| self.unknown(manifest))?;
        let namespace = match (namespaced, manifest.namespace.as_deref()) {
            (true, namespace) => Some(namespace.unwrap_or("default")),
            (false, _) => None,
        };
        Ok(Target { manifest, plural: plural.clone(), namespace })
    }
}

/// One manifest, and where its object lives.
struct Target<'m> {
    manifest: &'m Manifest,
    plural: String,
    /// `None` for objects outside of namespaces.
    namespace: Option<&'m str>,
}

impl Target<'_> {
    fn describe(&self) -> String {
        format!("{}/{}", self.plural, self.manifest.name)
    }

    fn collection(&self, namespace: Option<&str>) -> Request {
        let version = &self.manifest.api_version;
        let root = if version.contains('/') { "apis" } else { "api" };
        let namespace = namespace.map(|ns| format!("/namespaces/{ns}")).unwrap_or_default();
        Request::new(format!("/{root}/{version}{namespace}/{}", self.plural))
    }

    async fn get(&self, client: &Client) -> kube::Result<Option<Value>> {
        let request =
            self.collection(self.namespace).get(&self.manifest.name, &GetParams::default());
        optional(client.request(request.map_err(kube::Error::BuildRequest)?).await)
    }

    /// Server-side apply (KEP-555); what others own of the object becomes ours.
    async fn put(&self, client: &Client, dry_run: bool) -> kube::Result<Value> {
        let params = PatchParams { dry_run, ..PatchParams::apply(FIELD_MANAGER).force() };
        let params = params.validation_strict();
        let request = self.collection(self.namespace).patch(
            &self.manifest.name,
            &params,
            &Patch::Apply(&self.manifest.value),
        );
        client.request(request.map_err(kube::Error::BuildRequest)?).await
    }

    /// A dry run of an object whose namespace does not exist yet: as a new object in another one,
    /// which there is always. That the name is taken there says nothing.
    async fn try_elsewhere(&self, client: &Client) -> kube::Result<()> {
        let mut object = self.manifest.value.clone();
        object["metadata"]["namespace"] = json!("default");
        let params = PostParams { dry_run: true, field_manager: Some(FIELD_MANAGER.to_owned()) };
        let request = self
            .collection(Some("default"))
            .create(&params, object.to_string().into_bytes())
            .map_err(kube::Error::BuildRequest)?;
        match client.request::<Value>(request).await {
            Err(kube::Error::Api(status)) if status.code == 409 => Ok(()),
            answer => answer.map(drop),
        }
    }

    async fn delete(&self, client: &Client) -> kube::Result<()> {
        let request =
            self.collection(self.namespace).delete(&self.manifest.name, &DeleteParams::default());
        let request = request.map_err(kube::Error::BuildRequest)?;
        optional(client.request::<Value>(request).await).map(drop)
    }

    async fn restore(&self, client: &Client, mut before: Value) -> kube::Result<()> {
        if let Some(metadata) = before["metadata"].as_object_mut() {
            metadata.remove("resourceVersion");
            metadata.remove("managedFields");
        }
        let request = self.collection(self.namespace).replace(
            &self.manifest.name,
            &PostParams::default(),
            before.to_string().into_bytes(),
        );
        let request = request.map_err(kube::Error::BuildRequest)?;
        client.request::<Value>(request).await.map(drop)
    }
}
