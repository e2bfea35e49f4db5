//! What is to run: a pod as the API writes it, reduced to the fields that are used here.
//!
//! [`Pod`] decodes straight from a watched object; fields that are not listed are ignored.

use std::net::IpAddr;

use model::Protocol;
use serde::{Deserialize, Deserializer, Serialize};

/// A pod bound to this node.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Pod {
    /// Who it is.
    pub metadata: Metadata,
    /// What it runs.
    pub spec: PodSpec,
}

/// Identity of a pod.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Metadata {
    /// Name.
    pub name: String,
    /// Namespace.
    pub namespace: String,
    /// Identity across pods of the same name.
    pub uid: String,
}

/// `spec` of a pod.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct PodSpec {
    /// Run one after the other, each to its end, before the others.
    #[serde(deserialize_with = "null_is_default")]
    pub init_containers: Vec<Container>,
    /// Run beside each other, on one network.
    pub containers: Vec<Container>,
    /// What happens when a container ends.
    pub restart_policy: RestartPolicy,
    /// Seconds between SIGTERM and SIGKILL; the API's default is 30.
    pub termination_grace_period_seconds: Option<u32>,
    /// Host name; the pod's name if not given.
    pub hostname: Option<String>,
    /// With it the pod's full name is `hostname.subdomain.namespace.svc.domain`.
    pub subdomain: Option<String>,
    /// Use the node's network.
    pub host_network: bool,
    /// Where names are asked for.
    pub dns_policy: DnsPolicy,
    /// Additions to that.
    pub dns_config: Option<DnsConfig>,
    /// Additional lines of `/etc/hosts`.
    #[serde(deserialize_with = "null_is_default")]
    pub host_aliases: Vec<HostAlias>,
    /// Directories that containers share.
    #[serde(deserialize_with = "null_is_default")]
    pub volumes: Vec<Volume>,
}

/// One container of a pod.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Container {
    /// Name, unique in the pod.
    pub name: String,
    /// Image; here the name of a local program, used if there is no `command`.
    pub image: String,
    /// Program and first arguments.
    #[serde(deserialize_with = "null_is_default")]
    pub command: Vec<String>,
    /// Further arguments.
    #[serde(deserialize_with = "null_is_default")]
    pub args: Vec<String>,
    /// Environment.
    #[serde(deserialize_with = "null_is_default")]
    pub env: Vec<EnvVar>,
    /// Working directory; `/` if not given.
    pub working_dir: Option<String>,
    /// Named ports, which probes may refer to.
    #[serde(deserialize_with = "null_is_default")]
    pub ports: Vec<ContainerPort>,
    /// Gets traffic only while this succeeds.
    pub readiness_probe: Option<Probe>,
    /// Is killed when this fails.
    pub liveness_probe: Option<Probe>,
    /// Holds the other two back until it succeeds; is killed when it fails.
    pub startup_probe: Option<Probe>,
    /// Where volumes appear.
    #[serde(deserialize_with = "null_is_default")]
    pub volume_mounts: Vec<VolumeMount>,
    /// As whom it runs.
    pub security_context: Option<SecurityContext>,
}

/// As whom a container runs.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct SecurityContext {
    /// User id; root if not given.
    pub run_as_user: Option<u32>,
    /// Group id; root if not given.
    pub run_as_group: Option<u32>,
}

/// `restartPolicy`.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum RestartPolicy {
    /// Start it again, however it ended.
    #[default]
    Always,
    /// Start it again if it failed.
    OnFailure,
    /// Leave it.
    Never,
}

/// `dnsPolicy`.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum DnsPolicy {
    /// The cluster's DNS; for pods on the node's network, that of the node.
    #[default]
    ClusterFirst,
    /// The cluster's DNS, also on the node's network.
    ClusterFirstWithHostNet,
    /// The node's `resolv.conf`.
    Default,
    /// Only what `dnsConfig` says.
    None,
}

/// `dnsConfig`.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct DnsConfig {
    /// Servers, after those of the policy.
    pub nameservers: Vec<IpAddr>,
    /// Search domains, after those of the policy.
    pub searches: Vec<String>,
    /// Options; one with the name of an option of the policy takes its place.
    pub options: Vec<DnsOption>,
}

/// An option of `resolv.conf`.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct DnsOption {
    /// Name, for example `ndots`.
    pub name: String,
    /// Value, if it takes one.
    pub value: Option<String>,
}

/// A line of `/etc/hosts`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct HostAlias {
    /// Address.
    pub ip: IpAddr,
    /// Names of it.
    #[serde(default)]
    pub hostnames: Vec<String>,
}

/// A directory that lives as long as the pod.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Volume {
    /// Name, unique in the pod.
    pub name: String,
    /// Present if it is an empty directory, the only kind there is here.
    pub empty_dir: Option<serde_json::Value>,
}

/// Where a volume appears in a container.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct VolumeMount {
    /// Which volume.
    pub name: String,
    /// Absolute path inside.
    pub mount_path: String,
    /// Writes fail.
    pub read_only: bool,
}

/// A variable of the environment.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct EnvVar {
    /// Name.
    pub name: String,
    /// Value; `$(NAME)` stands for an earlier variable.
    pub value: Option<String>,
    /// Takes the value from the pod.
    pub value_from: Option<EnvSource>,
}

/// Where a variable's value comes from.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct EnvSource {
    /// A field of the pod.
    pub field_ref: Option<FieldRef>,
}

/// A field of the pod.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct FieldRef {
    /// For example `status.podIP`.
    pub field_path: String,
}

/// A port that a container says it listens on.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct ContainerPort {
    /// Name for references.
    pub name: Option<String>,
    /// Number.
    pub container_port: u16,
    /// Transport.
    pub protocol: Protocol,
}

/// A question asked of a container again and again.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Probe {
    /// Succeeds if the command exits with 0.
    pub exec: Option<ExecAction>,
    /// Succeeds on a status of 200 to 399.
    pub http_get: Option<HttpGetAction>,
    /// Succeeds if a connection is accepted.
    pub tcp_socket: Option<TcpSocketAction>,
    /// Seconds from the start of the container to the first question.
    pub initial_delay_seconds: u32,
    /// Seconds between questions; 10 if not given.
    pub period_seconds: Option<u32>,
    /// Seconds to wait for an answer; 1 if not given.
    pub timeout_seconds: Option<u32>,
    /// Successes in a row that make a success; 1 if not given.
    pub success_threshold: Option<u32>,
    /// Failures in a row that make a failure; 3 if not given.
    pub failure_threshold: Option<u32>,
}

/// A command run inside the container.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct ExecAction {
    /// Program and arguments.
    pub command: Vec<String>,
}

/// An HTTP request.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct HttpGetAction {
    /// Path; `/` if empty.
    #[serde(default)]
    pub path: String,
    /// Port.
    pub port: PortRef,
    /// Address; the pod's if not given.
    #[serde(default)]
    pub host: Option<String>,
    /// `HTTP`, the default, or `HTTPS`, of which only the connection is tried.
    #[serde(default)]
    pub scheme: Option<String>,
    /// Additional headers.
    #[serde(default, deserialize_with = "null_is_default")]
    pub http_headers: Vec<HttpHeader>,
}

/// A header of a request.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct HttpHeader {
    /// Name.
    pub name: String,
    /// Value.
    pub value: String,
}

/// A TCP connection.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct TcpSocketAction {
    /// Port.
    pub port: PortRef,
    /// Address; the pod's if not given.
    #[serde(default)]
    pub host: Option<String>,
}

/// A port by number, or by the name that the container gives it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(untagged)]
pub enum PortRef {
    /// Number.
    Number(u16),
    /// Name of one of the container's ports, or a number in text.
    Name(String),
}

impl PortRef {
    /// The number, if there is a port of that name.
    pub fn resolve(&self, ports: &[ContainerPort]) -> Option<u16> {
        match self {
            PortRef::Number(number) => Some(*number),
            PortRef::Name(name) => ports
                .iter()
                .find(|port| port.name.as_ref() == Some(name))
                .map(|port| port.container_port)
                .or_else(|| name.parse().ok()),
        }
    }
}

impl Pod {
    /// Its host name, cut to what the kernel and the API allow.
    pub fn hostname(&self) -> &str {
        let name = self.spec.hostname.as_deref().unwrap_or(&self.metadata.name);
        name.get(..63).unwrap_or(name).trim_end_matches(['-', '.'])
    }
}

/// Go writes empty lists as `null`.
fn null_is_default<'de, D, T>(deserializer: D) -> Result<T, D::Error>
where
    D: Deserializer<'de>,
    T: Default + Deserialize<'de>,
{
    Ok(Option::deserialize(deserializer)?.unwrap_or_default())
}
