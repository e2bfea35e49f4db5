//! The block of the cluster's range that each node gives its pods addresses of.
//!
//! Which blocks are in use is what the nodes carry, so nothing has to be remembered beside that.

use ipnet::{IpNet, Ipv4Net, Ipv6Net};

/// Blocks that don't fit their range.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("{cidr} can't be cut into blocks of /{mask}: accepted are /{} to /{}", cidr.prefix_len(), cidr.max_prefix_len())]
pub struct BadBlock {
    /// The range.
    pub cidr: IpNet,
    /// Length of the blocks' prefix.
    pub mask: u8,
}

/// A range that is cut into blocks of one size.
///
/// The next block is looked for behind the last one given, so that a block that has become free is
/// given again as late as possible.
#[derive(Debug, Clone)]
pub struct PodCidrs {
    cidr: IpNet,
    mask: u8,
    next: u128,
}

impl PodCidrs {
    /// Blocks of length `mask` out of `cidr`.
    pub fn new(cidr: IpNet, mask: u8) -> Result<Self, BadBlock> {
        match (cidr.prefix_len()..=cidr.max_prefix_len()).contains(&mask) {
            true => Ok(Self { cidr, mask, next: 0 }),
            false => Err(BadBlock { cidr, mask }),
        }
    }

    /// The next block that overlaps none of `used`.
    pub fn next_block(&mut self, used: &[IpNet]) -> Option<IpNet> {
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

    fn pod_cidrs(cidr: &str, mask: u8) -> PodCidrs {
        PodCidrs::new(net(cidr), mask).expect("blocks that fit")
    }

    #[test]
    fn blocks_follow_each_other_and_a_freed_one_comes_last() {
        let mut range = pod_cidrs("10.244.0.0/22", 24);
        let mut used = Vec::new();
        for expected in ["10.244.0.0/24", "10.244.1.0/24", "10.244.2.0/24"] {
            let block = range.next_block(&used).expect("a free block");
            assert_eq!(block, net(expected));
            used.push(block);
        }
        used.remove(0);
        assert_eq!(range.next_block(&used), Some(net("10.244.3.0/24")));
        used.push(net("10.244.3.0/24"));
        assert_eq!(range.next_block(&used), Some(net("10.244.0.0/24")));
        used.push(net("10.244.0.0/24"));
        assert_eq!(range.next_block(&used), None, "all four are taken");
    }

    #[test]
    fn service_ranges_are_left_out_whatever_their_size() {
        let mut range = pod_cidrs("10.244.0.0/16", 24);
        let used = [net("10.244.0.0/17"), net("10.244.128.64/26")];
        assert_eq!(range.next_block(&used), Some(net("10.244.129.0/24")));
        let mut range = pod_cidrs("10.244.0.0/16", 24);
        assert_eq!(range.next_block(&[net("10.0.0.0/8")]), None);
    }

    #[test]
    fn every_block_of_a_range_is_given_once() {
        for (cidr, mask, count) in [("10.244.0.0/16", 24, 256), ("fd00::/56", 64, 256)] {
            let mut range = pod_cidrs(cidr, mask);
            let mut used: Vec<IpNet> = Vec::new();
            while let Some(block) = range.next_block(&used) {
                assert!(net(cidr).contains(&block) && !used.contains(&block));
                used.push(block);
            }
            assert_eq!(used.len(), count, "{cidr}");
        }
    }

    #[test]
    fn blocks_are_not_larger_than_their_range() {
        let error = PodCidrs::new(net("10.244.0.0/16"), 8).unwrap_err();
        assert_eq!(
            error.to_string(),
            "10.244.0.0/16 can't be cut into blocks of /8: accepted are /16 to /32"
        );
        assert!(PodCidrs::new(net("10.244.0.0/16"), 64).is_err());
    }

    #[test]
    fn a_range_of_one_block() {
        let mut range = pod_cidrs("10.244.7.0/24", 24);
        assert_eq!(range.next_block(&[]), Some(net("10.244.7.0/24")));
        assert_eq!(range.next_block(&[net("10.244.7.0/24")]), None);
    }
}
