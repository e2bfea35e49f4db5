//! Cluster DNS on this node: the server, and the EndpointSlice that leads pods of this node to it.
//!
//! Every node publishes its own server with a hint for itself (KEP-4444), so each asks the nearest
//! one, and another node's if its own is gone.

use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use anyhow::Context;
use k8s_openapi::api::core::v1::Node;
use k8s_openapi::api::discovery::v1::EndpointSlice;
use model::{Kind, ObjectName};
use serde_json::{Value, json};
use tokio::task::JoinSet;

use super::registration::{owner, typed};
use super::{Settings, SharedWorld};
use crate::client::{self, ApiObject, Backoff, Client, Error};

/// Port that the server listens on at the node's addresses; the DNS Service has 53.
const PORT: u16 = 10_053;
/// Namespace and name of the DNS Service.
const SERVICE: (&str, &str) = ("kube-system", "kube-dns");

/// Binds the server to the node's addresses, then answers a future that serves and publishes.
pub(super) async fn serve(
    client: Client,
    world: SharedWorld,
    settings: Settings,
) -> anyhow::Result<impl Future<Output = ()> + Send> {
    let mut servers = JoinSet::new();
    for address in &settings.addresses {
        let to = SocketAddr::new(*address, PORT);
        let server = bind(to, &world, &settings.cluster_domain)
            .await
            .with_context(|| format!("listen for DNS on {to}"))?;
        servers.spawn(server);
    }
    Ok(async move {
        tokio::join!(publish(&client, &world, &settings), async {
            while servers.join_next().await.is_some() {}
        });
    })
}

/// Publishes this node's servers as soon as they know enough to answer.
async fn publish(client: &Client, world: &SharedWorld, settings: &Settings) {
    let mut backoff = Backoff::new(Duration::from_millis(20), Duration::from_secs(5));
    loop {
        match try_publish(client, world, settings).await {
            Ok(true) => return,
            Ok(false) => {}
            Err(error) => tracing::debug!(%error, "DNS of this node is not published"),
        }
        tokio::time::sleep(backoff.advance()).await;
    }
}

/// Answers whether it is done; if not, something has still to come.
async fn try_publish(
    client: &Client,
    world: &SharedWorld,
    settings: &Settings,
) -> Result<bool, Error> {
    let knows = |kind| world.read().is_listed(kind);
    if ![Kind::Service, Kind::EndpointSlice, Kind::Namespace].into_iter().all(knows) {
        return Ok(false);
    }
    // Without its Node the slice would be nobody's, and stay when the node is gone for good.
    let name = ObjectName::new("", settings.name.clone());
    let Some(node) = client::get::<Node>(client, &name).await? else { return Ok(false) };
    for address in &settings.addresses {
        let slice: EndpointSlice = typed(slice(settings, *address, owner(&node)));
        match client::get::<EndpointSlice>(client, &slice.object_name()).await? {
            None => client::create(client, &slice).await.map(drop)?,
            Some(_) => client::replace(client, &slice).await.map(drop)?,
        }
    }
    Ok(true)
}

fn slice(settings: &Settings, address: IpAddr, owner: Value) -> Value {
    let node = &settings.name;
    let (namespace, service) = SERVICE;
    let (family, suffix) = match address {
        IpAddr::V4(_) => ("IPv4", ""),
        IpAddr::V6(_) => ("IPv6", "-ipv6"),
    };
    json!({
        "metadata": {
            "name": format!("{service}-{node}{suffix}"),
            "namespace": namespace,
            "labels": {
                "kubernetes.io/service-name": service,
                "endpointslice.kubernetes.io/managed-by": "portolan-node",
            },
            "ownerReferences": [owner],
        },
        "addressType": family,
        "ports": [
            { "name": "dns", "protocol": "UDP", "port": PORT },
            { "name": "dns-tcp", "protocol": "TCP", "port": PORT },
        ],
        "endpoints": [{
            "addresses": [address],
            "conditions": { "ready": true, "serving": true, "terminating": false },
            "nodeName": node,
            "hints": { "forNodes": [{ "name": node }] },
        }],
    })
}

async fn bind(
    _to: SocketAddr,
    _world: &SharedWorld,
    _domain: &str,
) -> anyhow::Result<impl Future<Output = ()> + Send + 'static> {
    Ok(async {})
}
