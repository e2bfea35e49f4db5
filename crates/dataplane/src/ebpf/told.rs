//! What programs have been told of the node, and telling them what differs.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use kernel::bpf::Table;

use super::host::Host;
use super::layout::{Accepts, Address, Device, Node, Range};
use super::marks;
use super::programs::{Ranges, Tables};
use super::wire::{Wire, elements, keys};
use crate::Result;

/// The only key of `node`.
const FIRST: [u8; 4] = [0; 4];

/// What programs know of a node.
#[derive(Debug, Default, PartialEq, Eq)]
struct Told {
    node: Option<Node>,
    addresses: HashMap<Address, Accepts>,
    devices: BTreeMap<u32, Device>,
    pods: BTreeSet<Range>,
    virtual_ranges: BTreeSet<Range>,
}

/// Reads it.
fn read(tables: &Tables) -> Result<Told> {
    let ranges = |table: &Ranges| -> Result<BTreeSet<Range>> {
        Ok(table.entries()?.into_iter().map(|(key, _)| Range::get(&key)).collect())
    };
    let addresses = tables.node_addresses.entries()?.into_iter();
    let devices = tables.devices.entries()?.into_iter();
    Ok(Told {
        node: tables.node.get(&FIRST)?.map(|value| Node::get(&value)),
        addresses: addresses.map(|(k, v)| (Address::get(&k), Accepts::get(&v))).collect(),
        devices: devices.map(|(k, v)| (u32::get(&k), Device::get(&v))).collect(),
        pods: ranges(&tables.pods)?,
        virtual_ranges: ranges(&tables.virtual_ranges)?,
    })
}

/// What is to be told.
fn wanted(host: &Host) -> Told {
    Told {
        node: Some(host.node),
        addresses: host.addresses.clone(),
        devices: host.devices.clone(),
        pods: host.pods.clone(),
        virtual_ranges: host.virtual_ranges.clone(),
    }
}

/// Whether that is what they are told.
pub(super) fn is(tables: &Tables, host: &Host) -> Result<bool> {
    Ok(read(tables)? == wanted(host))
}

/// Writes what is told of the node, as far as it is not there. Answers the number of operations.
pub(super) fn write(tables: &Tables, host: &Host) -> Result<usize> {
    let (held, wanted) = (read(tables)?, wanted(host));
    // Answers to masqueraded connections go there, from the first one on.
    let of_links = host.devices.values().flat_map(|device| [device.v4, device.v6]);
    marks::add(&tables.marked, host.addresses.keys().copied().chain(of_links))?;
    let mut operations = 0;
    operations += replace(&tables.node_addresses, &held.addresses, &wanted.addresses)?;
    operations += replace(&tables.devices, &held.devices, &wanted.devices)?;
    let present = |ranges: BTreeSet<Range>| ranges.into_iter().map(|range| (range, 0_u32));
    for (table, held, wanted) in [
        (&tables.pods, held.pods, wanted.pods),
        (&tables.virtual_ranges, held.virtual_ranges, wanted.virtual_ranges),
    ] {
        let (held, wanted): (BTreeMap<_, _>, BTreeMap<_, _>) =
            (present(held).collect(), present(wanted).collect());
        operations += replace(table, &held, &wanted)?;
    }
    if held.node != wanted.node {
        tables.node.put(&FIRST, &host.node.to_bytes())?;
        operations += 1;
    }
    Ok(operations)
}

/// Makes a table hold what is wanted. Answers the number of operations.
fn replace<'e, const K: usize, const V: usize, Key, Value>(
    table: &Table<K, V>,
    held: impl IntoIterator<Item = (&'e Key, &'e Value)> + Copy,
    wanted: impl IntoIterator<Item = (&'e Key, &'e Value)> + Copy,
) -> Result<usize>
where
    Key: Wire + Ord + Copy + 'e,
    Value: Wire + PartialEq + Copy + 'e,
{
    let there: BTreeMap<Key, Value> = held.into_iter().map(|(k, v)| (*k, *v)).collect();
    let all: BTreeSet<Key> = wanted.into_iter().map(|(k, _)| *k).collect();
    let missing = wanted.into_iter().filter(|(key, value)| there.get(*key) != Some(*value));
    let (missing, values) = elements(missing.map(|(key, value)| (*key, *value)));
    let surplus: Vec<Key> = there.keys().filter(|key| !all.contains(key)).copied().collect();
    table.put_all(&missing, &values)?;
    table.delete_all(&keys(&surplus))?;
    Ok(missing.len() + surplus.len())
}
