//! The Node object of this machine: made at start, its status and Lease renewed while the agent
//! lives.
//!
//! The Lease is what tells others that the node lives (KEP-589); the status says whether it takes
//! pods. Conditions of other writers are left alone.

use std::fs;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use k8s_openapi::api::coordination::v1::Lease;
use k8s_openapi::api::core::v1::Node;
use model::{Family, ObjectName};
use serde_json::{Value, json};
use tokio::sync::watch;

use crate::client::{self, Client, Error};

/// How often Lease and status are renewed.
const HEARTBEAT: Duration = Duration::from_secs(10);
/// After how many seconds without renewal others may take the node for dead.
const LEASE_SECONDS: i32 = 40;
/// Where Leases of nodes live.
const LEASE_NAMESPACE: &str = "kube-node-lease";
/// Pods that a node takes: a /24 has 253 addresses, and half of them rest.
const MAX_PODS: u32 = 110;
/// Pause before a failed write is tried again.
const RETRY: Duration = Duration::from_millis(250);

/// Who the node is.
#[derive(Debug, Clone)]
pub(super) struct Registration {
    pub(super) name: Arc<str>,
    /// At most one a family, the preferred first.
    pub(super) addresses: Vec<IpAddr>,
}

/// Whether the node can run pods, and if not, why.
pub(super) type Readiness = Result<(), &'static str>;

impl Registration {
    /// Creates the Node if it is missing, then renews status and Lease, the status at once when
    /// `readiness` changes. Returns when the sender of `readiness` is gone.
    pub(super) async fn keep(self, client: Client, mut readiness: watch::Receiver<Readiness>) {
        loop {
            let state = *readiness.borrow_and_update();
            let next = match self.renew(&client, state).await {
                Ok(()) => HEARTBEAT,
                Err(error) => {
                    tracing::warn!(%error, "the Node is not up to date");
                    RETRY
                }
            };
            tokio::select! {
                changed = readiness.changed() => if changed.is_err() { return },
                () = tokio::time::sleep(next) => {}
            }
        }
    }

    async fn renew(&self, client: &Client, readiness: Readiness) -> Result<(), Error> {
        let name = ObjectName::new("", self.name.clone());
        let node = match client::get::<Node>(client, &name).await? {
            Some(node) => node,
            None => {
                let node = client::create(client, &self.node()).await?;
                tracing::info!(node = %self.name, "registered");
                node
            }
        };
        let held = serde_json::to_value(&node.status).unwrap_or_default();
        let status = self.status(&held, readiness);
        client::patch_status::<Node>(client, &name, &json!({ "status": status })).await?;
        self.renew_lease(client, &node).await
    }

    async fn renew_lease(&self, client: &Client, node: &Node) -> Result<(), Error> {
        let name = ObjectName::new(LEASE_NAMESPACE, self.name.clone());
        let spec = json!({
            "holderIdentity": self.name,
            "leaseDurationSeconds": LEASE_SECONDS,
            // MicroTime: six digits, as the API writes them.
            "renewTime": format!("{:.6}", Timestamp::now()),
        });
        match client::patch::<Lease>(client, &name, &json!({ "spec": spec })).await {
            Err(error) if error.is_not_found() => {
                let lease = json!({
                    "metadata": {
                        "name": self.name,
                        "namespace": LEASE_NAMESPACE,
                        "ownerReferences": [owner(node)],
                    },
                    "spec": spec,
                });
                let lease: Lease = typed(lease);
                client::create(client, &lease).await.map(drop)
            }
            other => other.map(drop),
        }
    }

    fn node(&self) -> Node {
        typed(json!({
            "metadata": {
                "name": self.name,
                "labels": {
                    "kubernetes.io/hostname": self.name,
                    "kubernetes.io/os": "linux",
                    "kubernetes.io/arch": architecture(),
                },
            },
            "spec": {},
        }))
    }

    fn status(&self, held: &Value, readiness: Readiness) -> Value {
        let now = format!("{:.0}", Timestamp::now());
        let ready = match readiness {
            Ok(()) => ("True", "AgentReady", "portolan runs pods and carries their traffic"),
            Err(reason) => ("False", "AgentNotReady", reason),
        };
        let own = [
            ("MemoryPressure", ("False", "AgentHasNoLimit", "memory is not watched")),
            ("DiskPressure", ("False", "AgentHasNoLimit", "disks are not watched")),
            ("PIDPressure", ("False", "AgentHasNoLimit", "processes are not counted")),
            ("Ready", ready),
        ];
        let none = Vec::new();
        let before = held["conditions"].as_array().unwrap_or(&none);
        let is_own = |condition: &Value| own.iter().any(|(kind, _)| condition["type"] == *kind);
        let mut conditions: Vec<Value> = before.iter().filter(|c| !is_own(c)).cloned().collect();
        for (kind, (status, reason, message)) in own {
            let last = before.iter().find(|c| c["type"] == kind && c["status"] == status);
            let since = last.map_or_else(|| json!(now), |c| c["lastTransitionTime"].clone());
            conditions.push(json!({
                "type": kind, "status": status, "reason": reason, "message": message,
                "lastHeartbeatTime": now, "lastTransitionTime": since,
            }));
        }
        let addresses =
            self.addresses.iter().map(|ip| json!({"type": "InternalIP", "address": ip}));
        let hostname = json!({"type": "Hostname", "address": self.name});
        let resources = json!({
            "cpu": processors().to_string(),
            "memory": format!("{}Ki", memory_kibibytes()),
            "pods": MAX_PODS.to_string(),
        });
        json!({
            "addresses": addresses.chain([hostname]).collect::<Vec<_>>(),
            "capacity": resources,
            "allocatable": resources,
            "conditions": conditions,
            "nodeInfo": {
                "architecture": architecture(),
                "operatingSystem": "linux",
                "kernelVersion": read_line("/proc/sys/kernel/osrelease"),
                "osImage": os_image(),
                "bootID": read_line("/proc/sys/kernel/random/boot_id"),
                "machineID": read_line("/etc/machine-id"),
                "systemUUID": read_line("/etc/machine-id"),
                "kubeletVersion": concat!("portolan-", env!("CARGO_PKG_VERSION")),
                "kubeProxyVersion": concat!("portolan-", env!("CARGO_PKG_VERSION")),
                "containerRuntimeVersion": concat!("portolan://", env!("CARGO_PKG_VERSION")),
            },
        })
    }
}

/// A reference that lets an object go with its Node.
pub(super) fn owner(node: &Node) -> Value {
    json!({
        "apiVersion": "v1",
        "kind": "Node",
        "name": node.metadata.name,
        "uid": node.metadata.uid,
    })
}

/// An object written as JSON in this program.
pub(super) fn typed<K: serde::de::DeserializeOwned>(object: Value) -> K {
    K::deserialize(&object).expect("objects written here have the API's shape")
}

/// The addresses of this machine that it is reached by: of each family the first global one that
/// is on no link of pods.
pub(crate) fn own_addresses() -> kernel::Result<Vec<IpAddr>> {
    let mut kernel = kernel::route::Rtnetlink::open()?;
    let is_pods = |name: &str| name.starts_with(pod::wiring::HOST_LINK_PREFIX);
    let links: Vec<u32> = kernel
        .links()?
        .into_iter()
        .filter(|link| link.is_up() && !is_pods(&link.name))
        .map(|link| link.index)
        .collect();
    let addresses = kernel.addresses()?;
    let first = |family: Family| {
        addresses
            .iter()
            .filter(|address| links.contains(&address.index))
            .map(|address| address.net.addr())
            .find(|ip| Family::of(*ip) == family && is_global(*ip))
    };
    Ok(Family::ALL.into_iter().filter_map(first).collect())
}

fn is_global(address: IpAddr) -> bool {
    match address {
        IpAddr::V4(ip) => !ip.is_loopback() && !ip.is_link_local(),
        IpAddr::V6(ip) => !ip.is_loopback() && !ip.is_unicast_link_local(),
    }
}

/// The architecture in Go's words.
fn architecture() -> &'static str {
    match std::env::consts::ARCH {
        "x86_64" => "amd64",
        "aarch64" => "arm64",
        other => other,
    }
}

fn processors() -> usize {
    std::thread::available_parallelism().map_or(1, usize::from)
}

fn memory_kibibytes() -> u64 {
    let text = fs::read_to_string("/proc/meminfo").unwrap_or_default();
    let total = text.lines().find_map(|line| line.strip_prefix("MemTotal:"));
    total.and_then(|rest| rest.split_whitespace().next()?.parse().ok()).unwrap_or(0)
}

fn os_image() -> String {
    let text = fs::read_to_string("/etc/os-release").unwrap_or_default();
    let name = text.lines().find_map(|line| line.strip_prefix("PRETTY_NAME="));
    name.map_or_else(|| "Linux".to_owned(), |name| name.trim_matches('"').to_owned())
}

/// The one line of a file; empty if it is missing.
fn read_line(path: &str) -> String {
    fs::read_to_string(path).unwrap_or_default().trim().to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn registration() -> Registration {
        Registration { name: "node-1".into(), addresses: vec![[172, 31, 0, 11].into()] }
    }

    #[test]
    fn conditions_of_others_stay_and_transitions_keep_their_time() {
        let held = json!({"conditions": [
            {"type": "NetworkUnavailable", "status": "False"},
            {"type": "Ready", "status": "True", "lastTransitionTime": "2020-01-01T00:00:00Z"},
        ]});
        let find = |status: &Value, kind: &str| {
            let conditions = status["conditions"].as_array().unwrap();
            conditions.iter().find(|c| c["type"] == kind).cloned().unwrap()
        };
        let same = registration().status(&held, Ok(()));
        assert_eq!(find(&same, "NetworkUnavailable")["status"], "False");
        assert_eq!(find(&same, "Ready")["lastTransitionTime"], "2020-01-01T00:00:00Z");
        let other = registration().status(&held, Err("waiting"));
        assert_eq!(find(&other, "Ready")["status"], "False");
        assert_ne!(find(&other, "Ready")["lastTransitionTime"], "2020-01-01T00:00:00Z");
    }

    #[test]
    fn what_is_written_is_a_node() {
        let registration = registration();
        let mut node = serde_json::to_value(registration.node()).unwrap();
        node["status"] = registration.status(&Value::Null, Ok(()));
        let node: Node = typed(node);
        let status = node.status.unwrap();
        assert_eq!(status.addresses.unwrap()[0].address, "172.31.0.11");
        let slim: model::object::Node = typed(json!({
            "metadata": {"name": "node-1"},
            "status": registration.status(&Value::Null, Ok(())),
        }));
        assert!(slim.ready);
    }
}
