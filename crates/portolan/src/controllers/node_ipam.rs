//! Gives every node its block of the cluster's ranges: `spec.podCIDR` and `spec.podCIDRs`.
//!
//! The blocks in use are those the nodes carry, so nothing has to be stored beside the API.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use ipnet::IpNet;
use k8s_openapi::api::core::v1::Node;
use model::ObjectName;
use model::alloc::pod_cidr::PodCidrs;

use model::address::parse_net;
use serde_json::json;

use super::Context;
use super::queue::{Done, Queue};
use crate::client::{ApiObject, Error, Severity, patch, reference};

/// How soon to look again for a free block.
const EXHAUSTED: Duration = Duration::from_secs(5);

pub(super) async fn run(context: Arc<Context>) -> Result<(), Error> {
    let queue: Queue<ObjectName> = Queue::new("node-ipam");
    let added = queue.clone();
    context.nodes.on_change(move |_, new| {
        added.extend(new.filter(|node| blocks_of(node).is_empty()).map(ApiObject::object_name));
    });
    context.nodes.listed().await;
    // One at a time: each choice must see the one before.
    let ranges = Arc::new(Mutex::new(context.config.pod_cidrs.clone()));
    queue
        .work(1, move |name| {
            let (context, ranges) = (context.clone(), ranges.clone());
            async move { look(&context, &ranges, &name).await }
        })
        .await;
    Ok(())
}

async fn look(
    context: &Context,
    ranges: &Mutex<Vec<PodCidrs>>,
    name: &ObjectName,
) -> Result<Done, Error> {
    let Some(node) = context.nodes.get(name).filter(|node| blocks_of(node).is_empty()) else {
        return Ok(Done::Settled);
    };
    let mut used: Vec<IpNet> = context.config.service_cidrs.clone();
    used.extend(context.nodes.all().iter().flat_map(|node| blocks_of(node)));
    let blocks: Option<Vec<IpNet>> = ranges
        .lock()
        .unwrap_or_else(PoisonError::into_inner)
        .iter_mut()
        .map(|range| range.next_block(&used))
        .collect();
    let Some(blocks) = blocks else {
        let message = format!("Node {name} status is now: CIDRNotAvailable");
        let about = reference(&*node);
        context.events.record(&about, Severity::Normal, "CIDRNotAvailable", message).await;
        return Ok(Done::LookAgain(EXHAUSTED));
    };
    let Some(first) = blocks.first() else { return Ok(Done::Settled) };
    let change = json!({ "spec": { "podCIDR": first, "podCIDRs": blocks } });
    match patch(&context.client, name, &change).await {
        Ok(written) => context.nodes.wrote(written),
        Err(error) if error.is_not_found() => return Ok(Done::Settled),
        Err(error) => return Err(error),
    }
    tracing::info!(node = %name, ?blocks, "address block given");
    Ok(Done::Settled)
}

/// The blocks a node carries.
fn blocks_of(node: &Node) -> Vec<IpNet> {
    let Some(spec) = &node.spec else { return Vec::new() };
    let blocks: Vec<IpNet> =
        spec.pod_cidrs.iter().flatten().filter_map(|block| parse_net(block)).collect();
    if blocks.is_empty() {
        return spec.pod_cidr.as_deref().and_then(parse_net).into_iter().collect();
    }
    blocks
}
