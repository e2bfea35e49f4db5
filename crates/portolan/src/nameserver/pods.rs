//! Pods, as far as names need them: who asks, and whose an address is.

use std::net::IpAddr;
use std::sync::Arc;

use dns::{Directory, Pod, PodWriter};
use k8s_openapi::api::core::v1::Pod as ApiPod;
use model::object::PodPhase;
use pod::spec::DnsPolicy;
use serde::Deserialize;

use crate::client::{Client, Source, Step, Watch, Watched};

/// A pod as it is read: of a hundred thousand no more is in memory at any time than a page.
#[derive(Debug, Clone, Deserialize)]
struct SlimPod {
    metadata: Meta,
    #[serde(default)]
    spec: Spec,
    #[serde(default)]
    status: Status,
}

#[derive(Debug, Clone, Deserialize)]
struct Meta {
    namespace: String,
    uid: String,
}

#[derive(Debug, Clone, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct Spec {
    host_network: bool,
    dns_policy: DnsPolicy,
    dns_config: Option<DnsConfig>,
}

#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default)]
struct DnsConfig {
    searches: Option<Vec<String>>,
}

#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default)]
struct Status {
    phase: PodPhase,
    #[serde(rename = "podIPs")]
    pod_ips: Option<Vec<PodIp>>,
}

#[derive(Debug, Clone, Deserialize)]
struct PodIp {
    #[serde(default)]
    ip: String,
}

impl Watched for SlimPod {
    fn read(json: &str) -> serde_json::Result<Self> {
        serde_json::from_str(json)
    }
}

impl SlimPod {
    fn tell(&self, pods: &mut PodWriter) {
        let Self { metadata, spec, status } = self;
        let has_ended = matches!(status.phase, PodPhase::Succeeded | PodPhase::Failed);
        let has_own = !spec.host_network && !has_ended;
        let told = status.pod_ips.iter().flatten().filter(|_| has_own);
        let addresses: Vec<IpAddr> = told.filter_map(|at| at.ip.parse().ok()).collect();
        let searches = spec.dns_config.as_ref().and_then(|config| config.searches.as_ref());
        pods.put(Pod {
            uid: &metadata.uid,
            namespace: &metadata.namespace,
            addresses: &addresses,
            is_cluster_first: spec.dns_policy == DnsPolicy::ClusterFirst
                && searches.is_none_or(Vec::is_empty),
        });
    }
}

/// Which pods are followed.
#[derive(Debug, Clone)]
pub(crate) enum Followed {
    /// All of the cluster.
    All {
        /// That a pod has no name is not said before they are known.
        is_waited_for: bool,
        /// Only those that are selected so.
        labels: Option<String>,
    },
    /// Those of a node.
    OfNode(Arc<str>),
}

/// Tells a directory of pods until the future is dropped.
pub(crate) fn follow(
    client: Client,
    directory: Arc<Directory>,
    followed: Followed,
) -> impl Future<Output = ()> + Send {
    let source = Source::all::<ApiPod>();
    let (source, is_waited_for) = match followed {
        Followed::All { is_waited_for, labels: None } => (source, is_waited_for),
        Followed::All { is_waited_for, labels: Some(labels) } => {
            (source.labelled(labels), is_waited_for)
        }
        Followed::OfNode(node) => (source.with_fields(format!("spec.nodeName={node}")), false),
    };
    let mut pods = PodWriter::new(directory, is_waited_for);
    async move {
        let mut watch = Watch::<SlimPod>::new(client, source);
        loop {
            match watch.next_step().await {
                Step::Put(pod) => pod.tell(&mut pods),
                Step::Removed(pod) => pods.remove(&pod.metadata.uid),
                Step::Page { is_first, objects, version } => {
                    if is_first {
                        pods.begin_list();
                    }
                    objects.iter().for_each(|pod| pod.tell(&mut pods));
                    if version.is_some() {
                        pods.end_list();
                        // Pages as they come are larger than what is kept of them.
                        drop(objects);
                        kernel::machine::trim_memory();
                    }
                }
            }
        }
    }
}
