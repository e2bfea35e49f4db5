//! Gives every node its block of the cluster's ranges: `spec.podCIDR` and `spec.podCIDRs`.
//!
//! The blocks in use are those the nodes carry, so nothing has to be stored beside the API.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use ipnet::{IpNet, Ipv4Net, Ipv6Net};
use k8s_openapi::api::core::v1::Node;
use model::ObjectName;
use model::address::parse_net;
use serde_json::json;

use super::queue::{Done, Queue};
use super::{Config, Context};
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
    let ranges: Vec<Range> = ranges(&context.config);
    // One at a time: each choice must see the one before.
    let ranges = Arc::new(Mutex::new(ranges));
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
    ranges: &Mutex<Vec<Range>>,
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
        .map(|range| range.take(&used))
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

fn ranges(config: &Config) -> Vec<Range> {
    let range = |cidr: &IpNet| {
        let mask = if cidr.addr().is_ipv4() { config.node_mask_v4 } else { config.node_mask_v6 };
        Range::new(*cidr, mask)
    };
    config.cluster_cidrs.iter().map(range).collect()
}

/// A range that is cut into blocks of one size.
///
/// The next block is looked for behind the last one given, so that a block that has become free is
/// given again as late as possible.
#[derive(Debug)]
struct Range {
    cidr: IpNet,
    mask: u8,
    next: u128,
}

impl Range {
    fn new(cidr: IpNet, mask: u8) -> Self {
        Self { cidr, mask: mask.clamp(cidr.prefix_len(), cidr.max_prefix_len()), next: 0 }
    }

    /// The next block that overlaps none of `used`.
    fn take(&mut self, used: &[IpNet]) -> Option<IpNet> {
        let count = 1u128 << (self.mask - self.cidr.prefix_len()).min(127);
        // A used network is met at most once on the way round: it is either one block or smaller,
        // or it covers several and is jumped over. The first one may be met again at the end.
        for _ in 0..=used.len() + 1 {
            let block = self.block(self.next);
            let overlaps = |used: &&IpNet| used.contains(&block) || block.contains(*used);
            let taken = used.iter().find(overlaps);
            // A network of several blocks begins at a multiple of its size.
            let covered = taken
                .map_or(1, |taken| 1u128 << self.mask.saturating_sub(taken.prefix_len()).min(127));
            self.next = (self.next / covered + 1).saturating_mul(covered) % count;
            if taken.is_none() {
                return Some(block);
            }
        }
        None
    }

    fn block(&self, index: u128) -> IpNet {
        match self.cidr.trunc() {
            IpNet::V4(cidr) => {
                let offset = (index as u32).checked_shl(32 - u32::from(self.mask)).unwrap_or(0);
                let first = u32::from(cidr.addr()) | offset;
                Ipv4Net::new_assert(first.into(), self.mask).into()
            }
            IpNet::V6(cidr) => {
                let offset = index.checked_shl(128 - u32::from(self.mask)).unwrap_or(0);
                let first = u128::from(cidr.addr()) | offset;
                Ipv6Net::new_assert(first.into(), self.mask).into()
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn net(text: &str) -> IpNet {
        text.parse().expect("a network")
    }

    #[test]
    fn blocks_follow_each_other_and_a_freed_one_comes_last() {
        let mut range = Range::new(net("10.244.0.0/22"), 24);
        let mut used = Vec::new();
        for expected in ["10.244.0.0/24", "10.244.1.0/24", "10.244.2.0/24"] {
            let block = range.take(&used).expect("a free block");
            assert_eq!(block, net(expected));
            used.push(block);
        }
        used.remove(0);
        assert_eq!(range.take(&used), Some(net("10.244.3.0/24")));
        used.push(net("10.244.3.0/24"));
        assert_eq!(range.take(&used), Some(net("10.244.0.0/24")));
        used.push(net("10.244.0.0/24"));
        assert_eq!(range.take(&used), None, "all four are taken");
    }

    #[test]
    fn service_ranges_are_left_out_whatever_their_size() {
        let mut range = Range::new(net("10.244.0.0/16"), 24);
        let used = [net("10.244.0.0/17"), net("10.244.128.64/26")];
        assert_eq!(range.take(&used), Some(net("10.244.129.0/24")));
        let mut range = Range::new(net("10.244.0.0/16"), 24);
        assert_eq!(range.take(&[net("10.0.0.0/8")]), None);
    }

    #[test]
    fn every_block_of_a_range_is_given_once() {
        for (cidr, mask, count) in [("10.244.0.0/16", 24, 256), ("fd00::/56", 64, 256)] {
            let mut range = Range::new(net(cidr), mask);
            let mut used: Vec<IpNet> = Vec::new();
            while let Some(block) = range.take(&used) {
                assert!(net(cidr).contains(&block) && !used.contains(&block));
                used.push(block);
            }
            assert_eq!(used.len(), count, "{cidr}");
        }
    }

    #[test]
    fn a_range_of_one_block() {
        let mut range = Range::new(net("10.244.7.0/24"), 24);
        assert_eq!(range.take(&[]), Some(net("10.244.7.0/24")));
        assert_eq!(range.take(&[net("10.244.7.0/24")]), None);
    }
}
