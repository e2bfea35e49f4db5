//! Numbers for what is planned: the same in every process, so that a restart finds the kernel's content
//! equal to its own rendering, with nothing to remember.

use plan::{PortId, Scope, SetId};

/// The lowest bit of a set's number tells its scope, so that the sets of a port share the rest, and
/// with it the port's affinity.
pub(crate) const SCOPE_BIT: u64 = 1;

/// The number of an endpoint set: a 64-bit hash of its identity. Two of 100,000 sets share a number by
/// chance about once in 10^9 clusters.
pub(crate) fn set_number(id: &SetId) -> u64 {
    let scope = match id.scope {
        Scope::Cluster => 0,
        Scope::Local => SCOPE_BIT,
    };
    port_number(&id.port) | scope
}

/// The number of a port, which is that of its sets without their scope.
pub(crate) fn port_number(port: &PortId) -> u64 {
    // No name contains a byte 0, so no two identities are the same bytes.
    let ends = [0, port.protocol.number()];
    hash(&[port.group.as_bytes(), &[0], port.name.as_bytes(), &ends]) & !SCOPE_BIT
}

/// FNV-1a, 64 bits, over all parts, with a final mix (that of MurmurHash3) so that all bits depend on
/// all input.
pub(crate) fn hash(parts: &[&[u8]]) -> u64 {
    let mut hash: u64 = 0xcbf2_9ce4_8422_2325;
    for byte in parts.iter().copied().flatten() {
        hash = (hash ^ u64::from(*byte)).wrapping_mul(0x0000_0100_0000_01b3);
    }
    hash ^= hash >> 33;
    hash = hash.wrapping_mul(0xff51_afd7_ed55_8ccd);
    hash ^= hash >> 33;
    hash = hash.wrapping_mul(0xc4ce_b9fe_1a85_ec53);
    hash ^ (hash >> 33)
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use model::{Family, Protocol};

    use super::*;

    fn id(group: &str, name: &str, scope: Scope) -> SetId {
        let port = PortId {
            group: group.into(),
            name: name.into(),
            protocol: Protocol::Tcp,
            family: Family::V4,
        };
        SetId { port, scope }
    }

    #[test]
    fn the_sets_of_a_port_differ_in_the_scope_bit_only() {
        let cluster = set_number(&id("a/b", "c", Scope::Cluster));
        let local = set_number(&id("a/b", "c", Scope::Local));
        assert_eq!(cluster ^ local, SCOPE_BIT);
    }

    #[test]
    fn names_do_not_run_into_each_other_and_numbers_do_not_repeat() {
        assert_ne!(
            set_number(&id("a/b", "c", Scope::Cluster)),
            set_number(&id("a/bc", "", Scope::Cluster))
        );
        let numbers: HashSet<u64> = (0..100_000)
            .map(|i| {
                set_number(&id(&format!("ns-{}/service-{i}", i % 100), "http", Scope::Cluster))
            })
            .collect();
        assert_eq!(numbers.len(), 100_000);
    }
}
