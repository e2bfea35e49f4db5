//! The controllers that turn what users ask for into what the service network needs: pods for
//! Deployments, nodes for pods, slices for Services, address blocks for nodes.
//!
//! Each is a small loop of the same form: a change adds a key to a queue, a pure function decides
//! from the shared caches what to do about that key, and a thin shell does it. Everything goes
//! through the API, so they run against a real API server as well as against the embedded one.
//! They never touch the kernel and never look into the store.

mod cache;
mod convert;
mod deployment;
mod endpoints;
mod garbage;
mod labels;
mod namespace;
mod node_ipam;
mod node_lifecycle;
mod owner;
mod pod_gc;
mod queue;
mod replicaset;
mod scheduler;
mod slices;

use std::future::Future;
use std::sync::Arc;

use ipnet::IpNet;
use k8s_openapi::api::apps::v1::{Deployment, ReplicaSet};
use k8s_openapi::api::coordination::v1::Lease;
use k8s_openapi::api::core::v1::{Endpoints, Namespace, Node, Pod, Service};
use k8s_openapi::api::discovery::v1::EndpointSlice;
use model::alloc::pod_cidr::PodCidrs;
use tokio::task::JoinSet;

use cache::Cache;

use crate::client::{ApiObject, Client, Error, Recorder, Watched};

/// What the controllers need to know of the cluster.
#[derive(Debug, Clone)]
pub(crate) struct Config {
    /// Ranges the nodes' blocks are cut from, at most one a family.
    pub(crate) pod_cidrs: Vec<PodCidrs>,
    /// Ranges of Service addresses, which no node may get.
    pub(crate) service_cidrs: Vec<IpNet>,
    /// Endpoints an EndpointSlice may hold, usually 100.
    pub(crate) endpoints_per_slice: usize,
}

/// What all controllers share.
struct Context {
    client: Client,
    events: Recorder,
    config: Config,
    pods: Cache<Pod>,
    nodes: Cache<Node>,
    services: Cache<Service>,
    slices: Cache<EndpointSlice>,
    endpoints: Cache<Endpoints>,
    namespaces: Cache<Namespace>,
    replica_sets: Cache<ReplicaSet>,
    deployments: Cache<Deployment>,
    leases: Cache<Lease>,
}

/// Runs all controllers on the current runtime until one of them fails in a way that can't be
/// repaired by trying again; dropping the future stops them all.
pub(crate) async fn run(client: Client, config: Config) -> Result<(), Error> {
    let context = Arc::new(Context {
        events: Recorder::new(client.clone(), "portolan-controllers", None),
        client,
        config,
        pods: Cache::new(),
        nodes: Cache::new(),
        services: Cache::new(),
        slices: Cache::new(),
        endpoints: Cache::new(),
        namespaces: Cache::new(),
        replica_sets: Cache::new(),
        deployments: Cache::new(),
        leases: Cache::new(),
    });
    let mut tasks = JoinSet::new();
    watch(&mut tasks, &context, |context| &context.pods);
    watch(&mut tasks, &context, |context| &context.nodes);
    watch(&mut tasks, &context, |context| &context.services);
    watch(&mut tasks, &context, |context| &context.slices);
    watch(&mut tasks, &context, |context| &context.endpoints);
    watch(&mut tasks, &context, |context| &context.namespaces);
    watch(&mut tasks, &context, |context| &context.replica_sets);
    watch(&mut tasks, &context, |context| &context.deployments);
    watch(&mut tasks, &context, |context| &context.leases);

    start(&mut tasks, &context, slices::run);
    start(&mut tasks, &context, endpoints::run);
    start(&mut tasks, &context, deployment::run);
    start(&mut tasks, &context, replicaset::run);
    start(&mut tasks, &context, scheduler::run);
    start(&mut tasks, &context, node_ipam::run);
    start(&mut tasks, &context, node_lifecycle::run);
    start(&mut tasks, &context, namespace::run);
    start(&mut tasks, &context, garbage::run);
    start(&mut tasks, &context, pod_gc::run);

    match tasks.join_next().await {
        Some(Ok(result)) => result,
        Some(Err(error)) if error.is_panic() => std::panic::resume_unwind(error.into_panic()),
        Some(Err(_)) | None => Ok(()),
    }
}

type Tasks = JoinSet<Result<(), Error>>;

fn watch<K: ApiObject + Watched>(
    tasks: &mut Tasks,
    context: &Arc<Context>,
    cache: fn(&Context) -> &Cache<K>,
) {
    let context = context.clone();
    tasks.spawn(async move {
        cache(&context).run(context.client.clone()).await;
        Ok(())
    });
}

fn start<Fut>(tasks: &mut Tasks, context: &Arc<Context>, controller: fn(Arc<Context>) -> Fut)
where
    Fut: Future<Output = Result<(), Error>> + Send + 'static,
{
    tasks.spawn(controller(context.clone()));
}
