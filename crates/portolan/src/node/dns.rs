//! Cluster DNS on this node: the server, and the EndpointSlice that leads pods of this node to it.
//!
//! Every node publishes its own server with a hint for itself (KEP-4444), so each asks the nearest
//! one, and another node's if its own is gone.

use std::net::{IpAddr, SocketAddr};
use std::num::NonZero;
use std::sync::Arc;
use std::thread;
use std::time::Duration;

use anyhow::Context;
use dns::cache::Limits;
use dns::resolv_conf;
use dns::{Directory, Forward, Resolver, Responder, Server, Upstreams, Zone};
use k8s_openapi::api::core::v1::Node;
use k8s_openapi::api::discovery::v1::EndpointSlice;
use model::ObjectName;
use serde_json::{Value, json};
use tokio::sync::watch;
use tokio::task::JoinSet;

use super::Settings;
use super::registration::{owner, typed};
use crate::client::{self, ApiObject, Backoff, Client, Error};
use crate::nameserver::pods::{self, Followed};
use crate::nameserver::{State, servers_of};
use crate::probes;

/// Port that the server listens on at the node's addresses; the DNS Service has 53.
const PORT: u16 = 10_053;
/// Namespace and name of the DNS Service.
const SERVICE: (&str, &str) = ("kube-system", "kube-dns");

/// Binds the server to the node's addresses, then answers a future that serves and publishes.
pub(super) fn serve(
    client: Client,
    directory: Arc<Directory>,
    settings: Settings,
) -> anyhow::Result<impl Future<Output = ()> + Send> {
    let mut zone = Zone::new(&settings.cluster_domain)?;
    // This node's pods have no domains but the cluster's.
    zone.search = Some(Vec::new());
    zone.addresses.clone_from(&settings.addresses);
    zone.epoch = now();
    let resolver = Arc::new(Resolver::new(upstreams(&settings)?, Some(Limits::default())));
    let state = State::default();
    state.answer_from(directory.clone());
    state.begin(zone.to_string(), resolver.clone());
    let responder = Responder::new(directory.clone(), zone, resolver);
    let responder = Arc::new(responder);
    // One for each processor.
    let readers = thread::available_parallelism().map_or(1, NonZero::get);
    // It ends with the process.
    let ending = watch::Sender::new(false);
    let mut servers = JoinSet::new();
    for address in &settings.addresses {
        let to = SocketAddr::new(*address, PORT);
        let server =
            Server::bind(to, readers).with_context(|| format!("listen for DNS on {to}"))?;
        servers.spawn(server.run(responder.clone(), state.tallies(), ending.subscribe()));
    }
    if let Some(address) = settings.metrics {
        servers.spawn(async move {
            drop(probes::serve(address, false, move |path| state.tell(path)).await)
        });
    }
    let of_node = Followed::OfNode(settings.name().clone());
    let pods = pods::follow(client.clone(), directory.clone(), of_node);
    Ok(async move {
        tokio::join!(publish(&client, &directory, &settings), pods, async {
            while servers.join_next().await.is_some() {}
        });
    })
}

/// Publishes this node's servers as soon as they know enough to answer.
async fn publish(client: &Client, directory: &Directory, settings: &Settings) {
    let mut backoff = Backoff::new(Duration::from_millis(20), Duration::from_secs(5));
    loop {
        match try_publish(client, directory, settings).await {
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
    directory: &Directory,
    settings: &Settings,
) -> Result<bool, Error> {
    if !directory.is_synced() {
        return Ok(false);
    }
    // Without its Node the slice would be nobody's, and stay when the node is gone for good.
    let name = ObjectName::new("", settings.name().clone());
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
    let node = settings.name();
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

/// Whom to ask about names that are not the cluster's: the machine's name servers, but not the
/// cluster's.
fn upstreams(settings: &Settings) -> anyhow::Result<Upstreams> {
    let Some(path) = &settings.resolv_conf else { return Ok(Upstreams::default()) };
    let own = [&[settings.cluster_dns], &*settings.addresses].concat();
    let own: Vec<_> = own.into_iter().map(|ip| SocketAddr::new(ip, resolv_conf::PORT)).collect();
    let servers = servers_of(path, &own).context("--resolv-conf (\"\" is for none)")?;
    tracing::info!(?servers, "names that are not the cluster's are asked of these");
    Ok(Upstreams::new(vec![Forward::everything(servers)]))
}

/// Seconds since 1970.
fn now() -> u32 {
    u32::try_from(jiff::Timestamp::now().as_second()).unwrap_or_default()
}
