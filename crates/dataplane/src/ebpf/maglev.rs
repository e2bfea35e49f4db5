//! Which endpoint a client gets by a hash of itself, the same on every node that has the same endpoints; and with
//! one endpoint more or less, nearly all clients get the same as before.
//!
//! Pure. Maglev's lookup table (Eisenbud et al., NSDI 2016, 3.4), whose size is a power of two here and not a
//! prime: an odd step visits every entry too. bpf/tables.h looks into it.

use std::net::SocketAddr;

use super::layout::{BLOCK, Block};
use crate::number::hash;

/// How many entries there are, up to how many endpoints. A table of another size sends nearly everybody elsewhere, so
/// there are few.
const SIZES: [(usize, usize); 3] = [(32, 1024), (512, 16_384), (65_536, 65_536)];

/// How many blocks the table of so many endpoints has; 0 for one that is not needed.
pub fn blocks(endpoints: usize) -> usize {
    let fitting = SIZES.iter().find(|(most, _)| endpoints <= *most);
    match fitting {
        Some((_, size)) if endpoints > 1 => size / BLOCK,
        // One needs none, and the places of so many would not fit.
        _ => 0,
    }
}

/// The table for these endpoints: of each entry the endpoint's place among them.
pub fn table(endpoints: &[SocketAddr]) -> Vec<Block> {
    let size = blocks(endpoints.len()) * BLOCK;
    if size == 0 {
        return Vec::new();
    }
    // By their addresses, whatever their order here.
    let mut order: Vec<usize> = (0..endpoints.len()).collect();
    order.sort_unstable_by_key(|place| endpoints[*place]);
    let mut walks: Vec<Walk> =
        order.into_iter().map(|place| Walk::of(place, endpoints[place], size)).collect();
    let mut entries: Vec<Option<u16>> = vec![None; size];
    let mut free = size;
    'turns: loop {
        for walk in &mut walks {
            if free == 0 {
                break 'turns;
            }
            while entries[walk.at].is_some() {
                walk.go_on(size);
            }
            entries[walk.at] = Some(walk.place);
            walk.go_on(size);
            free -= 1;
        }
    }
    let entries: Vec<u16> = entries.into_iter().flatten().collect();
    entries.as_chunks().0.iter().map(|chunk| Block(*chunk)).collect()
}

/// An endpoint on its way through the table: the order in which it wants entries.
struct Walk {
    place: u16,
    at: usize,
    step: usize,
}

impl Walk {
    fn of(place: usize, endpoint: SocketAddr, size: usize) -> Self {
        let name = endpoint.to_string();
        let at = hash(&[b"at", name.as_bytes()]) as usize % size;
        let step = (hash(&[b"step", name.as_bytes()]) as usize % size) | 1;
        Self { place: u16::try_from(place).expect("there are no more"), at, step }
    }

    fn go_on(&mut self, size: usize) {
        self.at = (self.at + self.step) % size;
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;

    use proptest::prelude::*;

    use super::*;

    fn endpoints(count: u32) -> Vec<SocketAddr> {
        (0..count).map(|n| SocketAddr::from(((0x0af4_0000 + n).to_be_bytes(), 8080))).collect()
    }

    /// Of each entry the endpoint.
    fn chosen(endpoints: &[SocketAddr]) -> Vec<SocketAddr> {
        let blocks = table(endpoints);
        blocks.iter().flat_map(|block| block.0).map(|place| endpoints[usize::from(place)]).collect()
    }

    #[test]
    fn one_endpoint_needs_no_table() {
        assert_eq!((blocks(0), blocks(1), blocks(2), blocks(32)), (0, 0, 16, 16));
        assert_eq!((blocks(33), blocks(513), blocks(65_537)), (256, 1024, 0));
        assert!(table(&endpoints(1)).is_empty());
    }

    #[test]
    fn few_clients_move_when_an_endpoint_goes() {
        for count in [3, 10, 30, 300] {
            let before = endpoints(count);
            let mut after = before.clone();
            let gone = after.remove(2);
            let moved =
                |(before, after): &(SocketAddr, SocketAddr)| *before != gone && before != after;
            let (old, new) = (chosen(&before), chosen(&after));
            assert_eq!(old.len(), new.len());
            let moved = old.iter().copied().zip(new).filter(moved).count();
            // Of those who had another endpoint.
            assert!(moved * 10 < old.len(), "{moved} of {}", old.len());
        }
    }

    proptest! {
        #[test]
        fn shares_are_equal_and_the_order_is_no_matter(count in 2_u32..300, seed in any::<u64>()) {
            let all = endpoints(count);
            let mut shares: HashMap<SocketAddr, usize> = HashMap::new();
            let first = chosen(&all);
            for endpoint in &first {
                *shares.entry(*endpoint).or_default() += 1;
            }
            let (least, most) = (shares.values().min().unwrap(), shares.values().max().unwrap());
            prop_assert_eq!(shares.len(), all.len());
            prop_assert!(most - least <= 1, "{} to {}", least, most);
            let mut other = all.clone();
            other.sort_by_key(|endpoint| hash(&[&seed.to_ne_bytes(), endpoint.to_string().as_bytes()]));
            prop_assert_eq!(chosen(&other), first);
        }
    }
}
