//! What is known of a cluster in one file: enough to explain every connection later, elsewhere.

use std::path::{Path, PathBuf};

use anyhow::Context;
use kube::client::Body;
use model::object::{EndpointSlice, Node, Pod, Service, ServiceCidr};
use model::{Event, Object, World};
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::client;
use crate::proxy::{NOT_PROGRAMMED, PROGRAMMED};

const API_VERSION: &str = "portolan/v1";
const KIND: &str = "Dump";

/// The objects of a cluster that packets depend on, as the API gives them.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(crate) struct Dump {
    api_version: String,
    kind: String,
    services: Vec<Value>,
    endpoint_slices: Vec<Value>,
    nodes: Vec<Value>,
    pods: Vec<Value>,
    /// Empty where the API server has none.
    service_cidrs: Vec<Value>,
    /// Events of proxies that say that a Service is not programmed, or is again.
    programmed: Vec<Value>,
}

impl Dump {
    /// Reads all of it from the API.
    pub(crate) async fn take(kubeconfig: Option<&Path>) -> anyhow::Result<Self> {
        let client = client::connect(kubeconfig).await?;
        let list = async |path: &str| -> anyhow::Result<Vec<Value>> {
            let request = http::Request::get(path).body(Body::empty())?;
            let text = client.send(request).await.with_context(|| format!("list {path}"))?;
            let is_there = text.status().is_success();
            let code = text.status();
            let bytes = http_body_util::BodyExt::collect(text.into_body()).await?.to_bytes();
            anyhow::ensure!(is_there, "list {path}: the API server says {code}");
            let mut answer: Value = serde_json::from_slice(&bytes)?;
            match answer["items"].take() {
                Value::Array(items) => Ok(items),
                _ => Ok(Vec::new()),
            }
        };
        Ok(Self {
            api_version: API_VERSION.to_owned(),
            kind: KIND.to_owned(),
            services: list("/api/v1/services").await?,
            endpoint_slices: list("/apis/discovery.k8s.io/v1/endpointslices").await?,
            nodes: list("/api/v1/nodes").await?,
            pods: list("/api/v1/pods").await?,
            // Kubernetes before 1.33 has none.
            service_cidrs: list("/apis/networking.k8s.io/v1/servicecidrs")
                .await
                .unwrap_or_default(),
            programmed: list("/api/v1/events")
                .await
                .unwrap_or_default()
                .into_iter()
                .filter(|event| event["reason"] == NOT_PROGRAMMED || event["reason"] == PROGRAMMED)
                .collect(),
        })
    }

    /// Reads a file that `portolan dump` wrote.
    pub(crate) fn read(path: &Path) -> anyhow::Result<Self> {
        let text = std::fs::read(path).with_context(|| format!("read {}", path.display()))?;
        let dump: Self = serde_json::from_slice(&text)
            .with_context(|| format!("{}: this is no file of portolan dump", path.display()))?;
        anyhow::ensure!(
            dump.api_version == API_VERSION && dump.kind == KIND,
            "{}: it is {} {}, accepted is {API_VERSION} {KIND}",
            path.display(),
            dump.api_version,
            dump.kind
        );
        Ok(dump)
    }

    /// Reads the file, or the API if there is none.
    pub(crate) async fn from(
        file: Option<PathBuf>,
        kubeconfig: Option<PathBuf>,
    ) -> anyhow::Result<Self> {
        match file {
            Some(file) => Self::read(&file),
            None => Self::take(kubeconfig.as_deref()).await,
        }
    }

    /// The World of these objects. What can't be read is skipped, as a proxy skips it.
    pub(crate) fn world(&self) -> World {
        fn read<T: for<'de> Deserialize<'de>>(
            values: &[Value],
            wrap: fn(T) -> Object,
        ) -> impl Iterator<Item = Object> {
            values.iter().filter_map(move |value| T::deserialize(value).ok().map(wrap))
        }
        let mut world = World::new();
        let objects = read::<Node>(&self.nodes, Object::Node)
            .chain(read::<Service>(&self.services, Object::Service))
            .chain(read::<EndpointSlice>(&self.endpoint_slices, Object::EndpointSlice))
            .chain(read::<Pod>(&self.pods, Object::Pod))
            .chain(read::<ServiceCidr>(&self.service_cidrs, Object::ServiceCidr));
        for object in objects {
            world.apply(Event::Put(object));
        }
        world
    }

    /// Why a Service is not programmed, if the last that a proxy has said of it is that it is not.
    pub(crate) fn not_programmed(&self, namespace: &str, name: &str) -> Option<&str> {
        let is_about = |event: &&Value| {
            let about = &event["involvedObject"];
            about["namespace"] == namespace && about["name"] == name
        };
        // Times are RFC 3339 in UTC, which sort as text.
        let last = self
            .programmed
            .iter()
            .filter(is_about)
            .max_by_key(|event| event["lastTimestamp"].as_str().unwrap_or_default())?;
        (last["reason"] == NOT_PROGRAMMED).then(|| last["message"].as_str()).flatten()
    }
}
