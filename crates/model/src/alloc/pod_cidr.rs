//! Pod ranges of nodes: equal blocks of the cluster's range, handed out in order, so that a block
//! that was given back is used again last.

use std::collections::BTreeSet;

use ipnet::IpNet;

/// The blocks that are in use.
#[derive(Debug, Clone)]
pub struct PodCidrs {
    cluster: IpNet,
    block_length: u8,
    /// Indices of blocks in use.
    used: BTreeSet<u32>,
    next: u32,
}

/// Why there is no block.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    /// A block would be larger than the cluster's range, or there would be more than 65,536.
    #[error("blocks of /{block_length} do not divide {cluster}: accepted are /{} to /{}", cluster.prefix_len(), (cluster.prefix_len() + 16).min(cluster.max_prefix_len()))]
    BadBlock {
        /// The cluster's range.
        cluster: IpNet,
        /// The length asked for.
        block_length: u8,
    },
    /// All blocks are in use.
    #[error(
        "{0} has no block left: delete nodes, or choose a larger cluster range or smaller blocks"
    )]
    Full(IpNet),
}

impl PodCidrs {
    /// Blocks of `block_length` out of `cluster`, none in use.
    pub fn new(cluster: IpNet, block_length: u8) -> Result<Self, Error> {
        let difference = block_length.checked_sub(cluster.prefix_len());
        let fits = block_length <= cluster.max_prefix_len();
        match difference {
            Some(0..=16) if fits => {
                Ok(Self { cluster: cluster.trunc(), block_length, used: BTreeSet::new(), next: 0 })
            }
            _ => Err(Error::BadBlock { cluster, block_length }),
        }
    }

    /// Marks every block that overlaps a range as used: a node's, or the Services'. A range outside
    /// the cluster's changes nothing.
    pub fn occupy(&mut self, range: IpNet) {
        let overlapping: Vec<u32> = (0..self.count())
            .filter(|index| {
                self.block(*index)
                    .is_some_and(|block| block.contains(&range) || range.contains(&block))
            })
            .collect();
        self.used.extend(overlapping);
    }

    /// Takes the next free block.
    pub fn allocate(&mut self) -> Result<IpNet, Error> {
        let count = self.count();
        let free = (0..count)
            .map(|step| (self.next + step) % count)
            .find(|index| !self.used.contains(index))
            .ok_or(Error::Full(self.cluster))?;
        self.used.insert(free);
        self.next = (free + 1) % count;
        self.block(free).ok_or(Error::Full(self.cluster))
    }

    /// Gives a block back; one that is not in use is no error.
    pub fn release(&mut self, block: IpNet) {
        let index = (0..self.count()).find(|index| self.block(*index) == Some(block));
        if let Some(index) = index {
            self.used.remove(&index);
        }
    }

    fn count(&self) -> u32 {
        1 << (self.block_length - self.cluster.prefix_len())
    }

    fn block(&self, index: u32) -> Option<IpNet> {
        let bits = self.cluster.max_prefix_len() - self.block_length;
        let offset = u128::from(index).checked_shl(bits.into())?;
        let first = super::cluster_ip::ClusterIps::nth(&self.cluster, offset)?;
        IpNet::new(first, self.block_length).ok()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn net(text: &str) -> IpNet {
        text.parse().unwrap()
    }

    #[test]
    fn blocks_come_in_order_and_return_last() {
        let mut cidrs = PodCidrs::new(net("10.244.0.0/22"), 24).unwrap();
        assert_eq!(cidrs.allocate(), Ok(net("10.244.0.0/24")));
        assert_eq!(cidrs.allocate(), Ok(net("10.244.1.0/24")));
        cidrs.release(net("10.244.0.0/24"));
        assert_eq!(cidrs.allocate(), Ok(net("10.244.2.0/24")));
        assert_eq!(cidrs.allocate(), Ok(net("10.244.3.0/24")));
        assert_eq!(cidrs.allocate(), Ok(net("10.244.0.0/24")));
        assert_eq!(cidrs.allocate(), Err(Error::Full(net("10.244.0.0/22"))));
    }

    #[test]
    fn what_others_use_is_left_out() {
        let mut cidrs = PodCidrs::new(net("10.0.0.0/22"), 24).unwrap();
        cidrs.occupy(net("10.0.0.0/23"));
        cidrs.occupy(net("10.0.2.128/25"));
        cidrs.occupy(net("192.168.0.0/16"));
        assert_eq!(cidrs.allocate(), Ok(net("10.0.3.0/24")));
        assert!(cidrs.allocate().is_err());
    }

    #[test]
    fn other_families_and_bad_sizes() {
        let mut cidrs = PodCidrs::new(net("fd00:10::/48"), 64).unwrap();
        assert_eq!(cidrs.allocate(), Ok(net("fd00:10::/64")));
        assert_eq!(cidrs.allocate(), Ok(net("fd00:10:0:1::/64")));
        assert!(PodCidrs::new(net("10.244.0.0/16"), 8).is_err());
        assert!(PodCidrs::new(net("fd00::/32"), 64).is_err());
    }
}
