//! Which packets at links may be about a Service at all, by their destination: bits that programs ask before they look
//! for anything else (bpf/marks.h). They are set before they are needed, and never cleared.

use std::collections::BTreeMap;

use kernel::bpf::Table;

use super::layout::{Address, FrontendKey, Tuple};
use super::programs::Tables;
use super::wire::Wire;
use crate::Result;

/// There are 2 to the power of this bits.
const BITS: u32 = 20;

/// Bits by addresses, in words.
pub(super) type Marks = Table<{ u32::SIZE }, { u64::SIZE }>;

/// Marks addresses.
pub(super) fn add(marks: &Marks, addresses: impl IntoIterator<Item = Address>) -> Result<()> {
    let mut words: BTreeMap<u32, u64> = BTreeMap::new();
    for bit in addresses.into_iter().map(|address| bit_of(&address)) {
        let place = u32::try_from(bit / 64).expect("there are not that many");
        *words.entry(place).or_default() |= 1 << (bit % 64);
    }
    for (place, bits) in words {
        let key = place.to_bytes();
        let held = marks.get(&key)?.map_or(0, |word| u64::get(&word));
        if held | bits != held {
            marks.put(&key, &(held | bits).to_bytes())?;
        }
    }
    Ok(())
}

/// Marks what frontends are at.
pub(super) fn add_frontends<'k>(
    marks: &Marks,
    keys: impl Iterator<Item = &'k FrontendKey>,
) -> Result<()> {
    add(marks, keys.map(|key| key.address))
}

/// Marks where packets of all connections go that are translated: others may have begun them.
pub(super) fn add_connections(tables: &Tables) -> Result<()> {
    let connections = tables.translations.entries()?.into_iter();
    add(&tables.marked, connections.map(|(key, _)| Tuple::get(&key).destination.address))
}

/// The bit of an address.
fn bit_of(address: &Address) -> u64 {
    let bytes: [u8; Address::SIZE] = address.to_bytes();
    let word = |at: usize| {
        let word = bytes[4 * at..4 * at + 4].try_into().expect("an address has four words");
        u32::from_ne_bytes(word)
    };
    let half = |upper: u32, lower: u32| u64::from(upper) << 32 | u64::from(lower);
    let (first, second) = (half(word(0), word(1)), half(word(2), u32::from_be(word(3))));
    let mixed = first.wrapping_mul(0xff51_afd7_ed55_8ccd) ^ second;
    mixed.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> (64 - BITS)
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;
    use std::net::{IpAddr, Ipv4Addr};

    use super::*;

    #[test]
    fn addresses_of_a_cluster_have_bits_of_their_own_mostly() {
        let ip = |n: u32| IpAddr::from(Ipv4Addr::from(0x0a60_0000 + n));
        let bits: HashSet<u64> = (0..50_000).map(|n| bit_of(&ip(n).into())).collect();
        assert!(bits.len() > 48_000, "{}", bits.len());
        assert!(bits.iter().all(|bit| *bit < 1 << BITS));
    }
}
