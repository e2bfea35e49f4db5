//! `healthCheckNodePort`: a port for each Service whose load balancer has to know which nodes have
//! endpoints.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::num::NonZeroU16;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, PoisonError, RwLock};
use std::time::Duration;

use http::StatusCode;
use plan::{GroupId, HealthCheck, NodeFacts};
use serde_json::json;
use tokio::net::TcpListener;
use tokio::task::{AbortHandle, JoinSet};

use super::Health;
use crate::client::Severity;
use crate::probes::{Answer, answer_all};
use crate::proxy::report::Reporter;

/// Pause before a port that could not be bound is tried again.
const RETRY: Duration = Duration::from_secs(5);

/// The servers of all ports. They end with it.
pub(in crate::proxy) struct HealthCheckPorts {
    running: BTreeMap<GroupId, Running>,
    node: Arc<RwLock<NodeFacts>>,
    health: Health,
    reporter: Option<Reporter>,
    tasks: JoinSet<()>,
}

struct Running {
    port: NonZeroU16,
    local_endpoints: Arc<AtomicUsize>,
    server: AbortHandle,
}

impl HealthCheckPorts {
    /// None yet. What can't be bound is said by `reporter`.
    pub(in crate::proxy) fn new(
        node: NodeFacts,
        health: Health,
        reporter: Option<Reporter>,
    ) -> Self {
        let node = Arc::new(RwLock::new(node));
        Self { running: BTreeMap::new(), node, health, reporter, tasks: JoinSet::new() }
    }

    /// Notes what the node's addresses are, and which of them accept node ports.
    pub(in crate::proxy) fn set_node(&self, node: NodeFacts) {
        *self.node.write().unwrap_or_else(PoisonError::into_inner) = node;
    }

    /// Makes the server of a group what its plan says. Has to be called within a tokio runtime.
    pub(in crate::proxy) fn follow(&mut self, id: &GroupId, wanted: Option<&HealthCheck>) {
        if let Some(running) = self.running.get(id) {
            if let Some(wanted) = wanted.filter(|wanted| wanted.port == running.port) {
                running.local_endpoints.store(wanted.local_endpoints, Ordering::Relaxed);
                return;
            }
            running.server.abort();
            self.running.remove(id);
        }
        let Some(wanted) = wanted else { return };
        let local_endpoints = Arc::new(AtomicUsize::new(wanted.local_endpoints));
        let server = self.tasks.spawn(serve(
            id.clone(),
            wanted.port,
            self.node.clone(),
            self.reporter.clone(),
            {
                let (id, health, count) =
                    (id.clone(), self.health.clone(), local_endpoints.clone());
                move || answer(&id, count.load(Ordering::Relaxed), health.is_healthy())
            },
        ));
        self.running.insert(id.clone(), Running { port: wanted.port, local_endpoints, server });
    }
}

/// Serves one port until it is aborted.
async fn serve(
    id: GroupId,
    port: NonZeroU16,
    node: Arc<RwLock<NodeFacts>>,
    reporter: Option<Reporter>,
    answer: impl Fn() -> Answer + Send + Sync + 'static,
) {
    let mut is_said = false;
    let listener = loop {
        match bind(port).await {
            Ok(listener) => break listener,
            Err(error) => {
                let message = format!("healthCheckNodePort {port}: can't listen: {error}");
                tracing::warn!(service = %id, "{message}");
                if let Some(reporter) = reporter.as_ref().filter(|_| !is_said) {
                    let reason = "FailedToStartServiceHealthcheck";
                    reporter.service(&id, Severity::Warning, reason, message).await;
                    is_said = true;
                }
                tokio::time::sleep(RETRY).await;
            }
        }
    };
    let accepts = move |address: IpAddr| {
        let node = node.read().unwrap_or_else(PoisonError::into_inner);
        node.accepts_node_ports(address)
    };
    answer_all(listener, accepts, move |_| answer()).await
}

/// Listens on all addresses of both families, or of IPv4 where there is no IPv6.
async fn bind(port: NonZeroU16) -> std::io::Result<TcpListener> {
    match TcpListener::bind(SocketAddr::new(Ipv6Addr::UNSPECIFIED.into(), port.get())).await {
        Err(error) if error.raw_os_error() == Some(nix::libc::EAFNOSUPPORT) => {
            TcpListener::bind(SocketAddr::new(Ipv4Addr::UNSPECIFIED.into(), port.get())).await
        }
        bound => bound,
    }
}

/// What every path answers: as kube-proxy's, down to the header that weighs nodes.
fn answer(id: &GroupId, local_endpoints: usize, healthy: bool) -> Answer {
    let (namespace, name) = id.split_once('/').unwrap_or(("", id));
    let body = json!({
        "service": {"namespace": namespace, "name": name},
        "localEndpoints": local_endpoints,
        "serviceProxyHealthy": healthy,
    });
    let code = match local_endpoints > 0 && healthy {
        true => StatusCode::OK,
        false => StatusCode::SERVICE_UNAVAILABLE,
    };
    Answer::json(code, &body)
        .with_header("X-Load-Balancing-Endpoint-Weight", local_endpoints.to_string())
}

#[cfg(test)]
mod tests {
    use plan::{LocalDetector, NodePortAddresses, NodeSettings};
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::TcpStream;

    use super::*;

    /// Accepts on any address, but never on loopback: tests ask at an address of that kind.
    fn node() -> NodeFacts {
        NodeFacts {
            settings: NodeSettings {
                node_name: "here".into(),
                local_detector: LocalDetector::None,
                masquerade_all: false,
                node_port_addresses: NodePortAddresses::Primary,
                allowed_external_ips: vec!["0.0.0.0/0".parse().unwrap(), "::/0".parse().unwrap()],
                primary_address: None,
            },
            zone: None,
            addresses: Vec::new(),
        }
    }

    async fn get(address: SocketAddr, path: &str) -> std::io::Result<String> {
        let mut stream = TcpStream::connect(address).await?;
        let request = format!("GET {path} HTTP/1.1\r\nHost: here\r\nConnection: close\r\n\r\n");
        stream.write_all(request.as_bytes()).await?;
        let mut text = String::new();
        stream.read_to_string(&mut text).await?;
        Ok(text)
    }

    #[tokio::test]
    async fn every_path_answers_with_the_count() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let id: GroupId = "shop/web".into();
        let counts = Arc::new(AtomicUsize::new(2));
        let count = counts.clone();
        let served = tokio::spawn(answer_all::<()>(
            listener,
            |_| true,
            move |_| answer(&id, count.load(Ordering::Relaxed), true),
        ));
        for path in ["/", "/healthz", "/any/thing?at=all"] {
            let text = get(address, path).await.unwrap().to_lowercase();
            assert!(text.starts_with("http/1.1 200"), "{text}");
            assert!(text.contains("x-load-balancing-endpoint-weight: 2"), "{text}");
            assert!(text.contains("\"localendpoints\":2"), "{text}");
            assert!(text.contains("{\"name\":\"web\",\"namespace\":\"shop\"}"), "{text}");
            assert!(text.contains("x-content-type-options: nosniff"), "{text}");
        }
        counts.store(0, Ordering::Relaxed);
        assert!(get(address, "/").await.unwrap().starts_with("HTTP/1.1 503"));
        served.abort();
    }

    #[test]
    fn an_unhealthy_proxy_is_not_to_be_sent_to() {
        assert_eq!(answer(&"a/b".into(), 3, false).code, StatusCode::SERVICE_UNAVAILABLE);
    }

    #[tokio::test]
    async fn servers_follow_the_plan() {
        let id: GroupId = "shop/web".into();
        let free = || {
            let listener = std::net::TcpListener::bind("[::]:0").unwrap();
            NonZeroU16::new(listener.local_addr().unwrap().port()).unwrap()
        };
        let (first, second) = (free(), free());
        let is_open = |port: NonZeroU16| async move {
            for _ in 0..100 {
                if TcpStream::connect(("127.0.0.1", port.get())).await.is_ok() {
                    return true;
                }
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
            false
        };
        let is_closed = |port: NonZeroU16| async move {
            for _ in 0..100 {
                if TcpStream::connect(("127.0.0.1", port.get())).await.is_err() {
                    return true;
                }
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
            false
        };
        let mut ports = HealthCheckPorts::new(node(), Health::default(), None);
        ports.follow(&id, Some(&HealthCheck { port: first, local_endpoints: 1 }));
        assert!(is_open(first).await);
        // Loopback is no address of the node's that takes node ports: it is not answered.
        let silent = get(SocketAddr::new(Ipv4Addr::LOCALHOST.into(), first.get()), "/").await;
        assert!(silent.is_err() || silent.is_ok_and(|text| text.is_empty()));
        ports.follow(&id, Some(&HealthCheck { port: second, local_endpoints: 1 }));
        assert!(is_open(second).await && is_closed(first).await);
        ports.follow(&id, None);
        assert!(is_closed(second).await);
    }
}
