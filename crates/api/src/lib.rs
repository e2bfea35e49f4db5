//! The embedded API server: the part of the Kubernetes API that a service network needs, over HTTPS
//! and kept on disk.
//!
//! A request goes down through four layers, each of which knows only the next:
//!
//! - `http`: routes, media types, list and watch, the verbs;
//! - `patch`: from an object and a patch to the object wanted;
//! - `resource`: what a kind's defaults, rules, allocations and columns are;
//! - `store`: revisioned objects, one writer, durable before anyone hears of it.
//!
//! What users see (messages, status codes, revisions) follows Kubernetes 1.36.

mod allocation;
mod field;
mod http;
mod metadata;
mod names;
mod patch;
mod resource;
mod selector;
mod status;
mod store;

use std::io;
use std::ops::RangeInclusive;
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};

use ipnet::IpNet;
use tokio::net::TcpListener;
use tokio::sync::watch;
use tokio_rustls::TlsAcceptor;

use allocation::Allocations;
use http::Shared;
use status::Status;
use store::Store;

/// Namespaces that every cluster has.
const NAMESPACES: [&str; 4] = ["default", "kube-system", "kube-public", "kube-node-lease"];

/// An open API server. Clones serve the same objects.
#[derive(Debug, Clone)]
pub struct ApiServer {
    shared: Arc<Shared>,
}

impl ApiServer {
    /// Opens the objects kept in the file `store`, which is made if it does not exist.
    ///
    /// ClusterIPs are given out of `service_cidrs`, of which the first is the default family's, and
    /// node ports out of `node_ports`. What stored Services have stays theirs, also outside these.
    /// Namespaces that every cluster has are made if they are missing.
    ///
    /// # Errors
    ///
    /// The file can't be read or made, is in use by another process, or holds something else.
    pub async fn open(
        store: &Path,
        service_cidrs: &[IpNet],
        node_ports: RangeInclusive<u16>,
    ) -> io::Result<Self> {
        let none = Allocations::new(service_cidrs, node_ports);
        let allocations = Arc::new(Mutex::new(none.clone()));
        let services = resource::find("", "services").map(http::store_kind);
        let current = allocations.clone();
        let store = Store::open(store, move |objects| {
            let mut of_services = none.clone();
            for (_, service) in services.iter().flat_map(|kind| objects.list(kind, None, None)) {
                of_services.adopt(&service.value);
            }
            *current.lock().unwrap_or_else(PoisonError::into_inner) = of_services;
        })?;
        let shared = Arc::new(Shared { store, allocations });
        if let Some(kind) = resource::find("", "namespaces") {
            for name in NAMESPACES {
                let object = serde_json::json!({
                    "apiVersion": "v1", "kind": "Namespace", "metadata": { "name": name },
                });
                let failed = |status: Status| io::Error::other(status.message);
                http::ensure(&shared, kind, object).await.map_err(failed)?;
            }
        }
        Ok(Self { shared })
    }

    /// Answers who connects to `listener`, until `stop` turns true.
    ///
    /// `tls` decides whose certificates are accepted; clients without one see only `/healthz` and
    /// its kin, and `/version`.
    ///
    /// # Errors
    ///
    /// The listener is broken; a connection that breaks is not an error.
    pub async fn serve(
        &self,
        listener: TcpListener,
        tls: Arc<rustls::ServerConfig>,
        stop: watch::Receiver<bool>,
    ) -> io::Result<()> {
        http::serve(listener, TlsAcceptor::from(tls), self.shared.clone(), stop).await
    }
}
