//! The rows of the table, in the order in which they are tried: first what must hold on
//! `examples/`, last what changes things.

mod changes;
mod cost;
mod names;
mod node_ports;
mod pods;
mod services;

use super::context::{ReadyPod, Tour};
use super::{Check, Evidence};

/// Namespace of the manifests of `examples/`.
const DEFAULT: &str = "default";
/// Label of the nginx pods.
const NGINX_PODS: &str = "name=nginx-pod";
/// Their Service.
const NGINX: &str = "nginx-service";
/// The Service of MariaDB.
const MYSQL: &str = "mysql-service";

/// All rows.
pub(super) const CHECKS: &[Check] = &[
    Check { promise: "start to the first NodePort answer, under 2 s", run: cost::first_answer },
    Check { promise: "manifests: all applied in one go", run: cost::manifests },
    Check { promise: "PodIP: from each node's own block", run: pods::blocks },
    Check { promise: "PodIP: pod to pod across nodes, no NAT", run: pods::across_nodes },
    Check { promise: "one pod, one network: localhost", run: pods::localhost },
    Check { promise: "ClusterIP: from every node", run: services::from_nodes },
    Check { promise: "ClusterIP: from every pod", run: services::from_pods },
    Check { promise: "ClusterIP: another port is refused", run: services::other_port },
    Check { promise: "ClusterIP: ping is not answered", run: services::ping },
    Check { promise: "ClusterIP: not reached from outside", run: services::from_outside },
    Check { promise: "DNS: nginx-service", run: names::short },
    Check { promise: "DNS: nginx-service.default", run: names::with_namespace },
    Check { promise: "DNS: nginx-service.default.svc.cluster.local", run: names::full },
    Check { promise: "NodePort: from outside on every node", run: node_ports::every_node },
    Check { promise: "NodePort: policy Local, own pods only", run: node_ports::local_policy },
    Check { promise: "targetPort: by name", run: services::named_target },
    Check { promise: "port 33306 to 3306: MariaDB", run: services::mariadb },
    Check { promise: "Deployment: scaled up, traffic in 1 s", run: changes::scale_up },
    Check { promise: "Deployment: scaled down, traffic in 1 s", run: changes::scale_down },
    Check { promise: "pod replaced: new PodIP, Service works", run: changes::replaced_pod },
    Check { promise: "changed endpoint in the kernel, under 50 ms", run: changes::endpoint },
    Check { promise: "memory of all Portolan processes, under 80 MB", run: cost::memory },
];

/// Name and namespace of the objects that the tour itself brings.
const TOUR: &str = "tour";

/// The nginx pods of `examples/`, at least two of them, as soon as they are ready.
fn nginx_pods(tour: &Tour) -> anyhow::Result<Vec<ReadyPod>> {
    tour.wait_for_pods(DEFAULT, NGINX_PODS, 2)
}
