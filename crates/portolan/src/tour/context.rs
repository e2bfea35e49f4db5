//! What checks work with: the lab's hosts and pods, its API, and programs run in either.

use std::future::Future;
use std::net::IpAddr;
use std::time::{Duration, Instant};

use anyhow::{Context, anyhow, bail};
use ipnet::IpNet;
use k8s_openapi::NamespaceResourceScope;
use k8s_openapi::api::core::v1::{Node, Pod, Service};
use kube::Api;
use kube::api::{ListParams, Patch, PatchParams};
use lab::{Directory, Host, HostAddress, Lab, Output, Record};
use serde::de::DeserializeOwned;
use serde_json::Value;
use tokio::runtime::Handle;

use crate::apply::apply;
use crate::client::{ApiObject, Client};
use crate::manifest;
use crate::testbed::{self, OUTSIDE, Place, Target};

/// How long anything may take that is waited for.
const PATIENCE: Duration = Duration::from_secs(30);
/// How long one program may run.
const PROGRAM_LIMIT: Duration = Duration::from_secs(10);
/// Pause between two looks.
const POLL: Duration = Duration::from_millis(10);

/// A running lab under examination.
#[derive(Debug)]
pub(super) struct Tour {
    directory: Directory,
    record: Record,
    client: ClientHandle,
    /// When the lab was started.
    pub(super) start: Instant,
}

struct ClientHandle(Client, Handle);

impl std::fmt::Debug for ClientHandle {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Client")
    }
}

/// A pod that is ready.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct ReadyPod {
    pub(super) namespace: String,
    pub(super) name: String,
    pub(super) node: String,
    pub(super) address: IpAddr,
}

impl ReadyPod {
    /// Its first container.
    pub(super) fn target(&self) -> Target {
        Target::pod(&self.namespace, &self.name)
    }
}

/// What a server answered.
#[derive(Debug)]
pub(super) struct Fetched {
    pub(super) body: String,
    /// From the start of the connection to the last byte.
    pub(super) took: Duration,
}

impl Tour {
    pub(super) fn new(lab: &Lab, client: Client, start: Instant) -> anyhow::Result<Self> {
        let directory = lab.directory().clone();
        let record = Record::read(&directory)?;
        Ok(Self { directory, record, client: ClientHandle(client, Handle::current()), start })
    }

    /// The nodes.
    pub(super) fn nodes(&self) -> Vec<&HostAddress> {
        testbed::nodes(&self.record.underlay).collect()
    }

    /// A host.
    pub(super) fn host(&self, name: &str) -> anyhow::Result<Host> {
        Ok(self.record.host(&self.directory, name)?)
    }

    /// Address of the host outside of the cluster.
    pub(super) fn outside_address(&self) -> anyhow::Result<IpAddr> {
        Ok(self.record.underlay.host(self.directory.name(), OUTSIDE)?.address)
    }

    /// Memory of the processes.
    pub(super) fn resident(&self) -> anyhow::Result<Vec<testbed::Resident>> {
        testbed::resident(&self.directory, &self.record)
    }

    /// Applies manifests; answers how many objects they are.
    pub(super) fn apply(&self, file: &str, manifests: &str) -> anyhow::Result<usize> {
        let path = self.directory.path().join(file);
        std::fs::write(&path, manifests).with_context(|| format!("write {}", path.display()))?;
        let manifests = manifest::load(&[path])?;
        Ok(self.client.1.block_on(apply(&self.client.0, &manifests))?.len())
    }

    /// Runs a program to its end.
    pub(super) fn run(&self, target: &Target, command: &[&str]) -> anyhow::Result<Output> {
        let place = Place::find(&self.directory, &self.record, target)?;
        Ok(place.run(command, PROGRAM_LIMIT)?)
    }

    /// Runs a program that has to succeed, and answers what it said.
    pub(super) fn expect(&self, target: &Target, command: &[&str]) -> anyhow::Result<String> {
        let output = self.run(target, command)?;
        if !output.success() {
            bail!("{target}: `{}`: {} {}", command.join(" "), output.stdout, output.stderr);
        }
        Ok(output.stdout)
    }

    /// Fetches a URL with curl.
    pub(super) fn curl(&self, target: &Target, url: &str) -> anyhow::Result<Fetched> {
        let command = ["curl", "-sS", "--max-time", "2", "-w", "\n%{time_total}", url];
        let answer = self.expect(target, &command)?;
        let (body, seconds) = answer.rsplit_once('\n').context("curl says how long it took")?;
        let seconds: f64 = seconds.parse().context("curl says how long it took")?;
        Ok(Fetched { body: body.trim().to_owned(), took: Duration::from_secs_f64(seconds) })
    }

    /// Tries until it works, for a bounded time.
    pub(super) fn eventually<T>(
        &self,
        mut attempt: impl FnMut() -> anyhow::Result<T>,
    ) -> anyhow::Result<T> {
        let begin = Instant::now();
        loop {
            match attempt() {
                Err(error) if begin.elapsed() > PATIENCE => {
                    return Err(error.context(format!("not within {PATIENCE:?}")));
                }
                Err(_) => std::thread::sleep(POLL),
                Ok(value) => return Ok(value),
            }
        }
    }

    /// The pods of a label that are ready and not about to end, by name.
    pub(super) fn ready_pods(
        &self,
        namespace: &str,
        selector: &str,
    ) -> anyhow::Result<Vec<ReadyPod>> {
        let api: Api<Pod> = self.api(namespace);
        let pods = self.wait(api.list(&ListParams::default().labels(selector)))?;
        let mut ready: Vec<ReadyPod> = pods.into_iter().filter_map(ready_pod).collect();
        ready.sort_by(|a, b| a.name.cmp(&b.name));
        Ok(ready)
    }

    /// Waits until exactly `count` pods of a label are ready.
    pub(super) fn wait_for_pods(
        &self,
        namespace: &str,
        selector: &str,
        count: usize,
    ) -> anyhow::Result<Vec<ReadyPod>> {
        self.eventually(|| {
            let pods = self.ready_pods(namespace, selector)?;
            match pods.len() == count {
                true => Ok(pods),
                false => Err(anyhow!("{} of {count} pods {selector} are ready", pods.len())),
            }
        })
    }

    /// The ranges that a node gives its pods addresses of.
    pub(super) fn pod_ranges(&self, node: &str) -> anyhow::Result<Vec<IpNet>> {
        let api: Api<Node> = Api::all(self.client.0.clone());
        let spec = self.wait(api.get(node))?.spec.unwrap_or_default();
        let ranges = spec.pod_cidrs.unwrap_or_default();
        Ok(ranges.iter().map(|range| range.parse()).collect::<Result<_, _>>()?)
    }

    /// Address and first port of a Service.
    pub(super) fn service(&self, namespace: &str, name: &str) -> anyhow::Result<ServiceView> {
        let api: Api<Service> = self.api(namespace);
        let spec = self.wait(api.get(name))?.spec.context("the Service has a spec")?;
        let port = spec.ports.unwrap_or_default().into_iter().next();
        let port = port.with_context(|| format!("Service {name} has a port"))?;
        let address = spec.cluster_ip.with_context(|| format!("Service {name} has an address"))?;
        Ok(ServiceView { address, port: port.port, node_port: port.node_port })
    }

    /// Merges `change` into an object.
    pub(super) fn patch<K>(&self, namespace: &str, name: &str, change: &Value) -> anyhow::Result<()>
    where
        K: ApiObject + kube::Resource<Scope = NamespaceResourceScope, DynamicType = ()>,
        K: std::fmt::Debug + DeserializeOwned,
    {
        let api: Api<K> = self.api(namespace);
        self.wait(api.patch(name, &PatchParams::default(), &Patch::Merge(change))).map(drop)
    }

    /// Deletes an object as `kubectl delete` does.
    pub(super) fn delete_pod(&self, pod: &ReadyPod) -> anyhow::Result<()> {
        let api: Api<Pod> = self.api(&pod.namespace);
        self.wait(api.delete(&pod.name, &kube::api::DeleteParams::default())).map(drop)
    }

    fn api<K>(&self, namespace: &str) -> Api<K>
    where
        K: kube::Resource<Scope = NamespaceResourceScope, DynamicType = ()>,
    {
        Api::namespaced(self.client.0.clone(), namespace)
    }

    fn wait<T>(&self, answer: impl Future<Output = kube::Result<T>>) -> anyhow::Result<T> {
        Ok(self.client.1.block_on(answer)?)
    }
}

/// What checks need of a Service.
#[derive(Debug)]
pub(super) struct ServiceView {
    pub(super) address: String,
    pub(super) port: i32,
    node_port: Option<i32>,
}

impl ServiceView {
    pub(super) fn url(&self) -> String {
        format!("http://{}:{}/", self.address, self.port)
    }

    /// Its URL on a node.
    pub(super) fn node_url(&self, node: &HostAddress) -> anyhow::Result<String> {
        let port = self.node_port.context("the Service has a node port")?;
        Ok(format!("http://{}:{port}/", node.address))
    }
}

fn ready_pod(pod: Pod) -> Option<ReadyPod> {
    let status = pod.status?;
    let is_ready = status
        .conditions
        .unwrap_or_default()
        .iter()
        .any(|condition| condition.type_ == "Ready" && condition.status == "True");
    if !is_ready || pod.metadata.deletion_timestamp.is_some() {
        return None;
    }
    Some(ReadyPod {
        namespace: pod.metadata.namespace?,
        name: pod.metadata.name?,
        node: pod.spec?.node_name?,
        address: status.pod_ip?.parse().ok()?,
    })
}
