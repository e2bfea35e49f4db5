//! How the sets of the table are declared to the kernel, and elements in its terms.

use std::time::Duration;

use kernel::nftables::{self, Family, Set, SetValue, Value};

use super::layout::{Bytes, Element, SetName};
use super::rules::{REFUSALS, SOURCES, affinity_map, dispatch_map};

/// The maps that lead from entries to chains, each named after the map that holds the entries.
pub(super) const ENTRY_MAPS: [SetName; 4] =
    [SetName::Frontends, SetName::NodePorts, SetName::OutsideFrontends, SetName::OutsideNodePorts];

/// A field of a key or of data: its length in bytes and the number of the type that `nft` shows it
/// by.
#[derive(Clone, Copy)]
struct Field(u32, u32);

const PROTOCOL: Field = Field(1, 12);
const PORT: Field = Field(2, 13);
/// Four bytes in the machine's order, shown in hexadecimal.
const NUMBER: Field = Field(4, 19);

fn address(family: Family) -> Field {
    match family {
        Family::Ipv4 => Field(4, 7),
        Family::Ipv6 => Field(16, 8),
    }
}

/// Every set and map that is always there.
pub(super) fn constant_sets(family: Family) -> Vec<Set> {
    let entries = SetName::ALL.into_iter().map(|name| declaration(name, family));
    let verdicts = |name| set(name, &[NUMBER], SetValue::Verdict, &[]);
    let dispatch = ENTRY_MAPS.into_iter().map(|name| verdicts(dispatch_map(name)));
    entries.chain(dispatch).chain([verdicts(REFUSALS.into()), verdicts(SOURCES.into())]).collect()
}

/// The map of clients and their backends for an affinity timeout in seconds.
pub(super) fn affinity_set(family: Family, seconds: u32) -> Set {
    let ip = address(family);
    let timeout = Some(Duration::from_secs(seconds.into()));
    Set { timeout, ..data_map(affinity_map(seconds), &[ip, NUMBER, NUMBER], &[ip, PORT]) }
}

fn declaration(name: SetName, family: Family) -> Set {
    let ip = address(family);
    let entry = [NUMBER; 5];
    let plain = |key: &[Field]| set(name.as_str().into(), key, SetValue::Nothing, &[]);
    let map = |key: &[Field], data: &[Field]| data_map(name.as_str().into(), key, data);
    let ranges = |key: &[Field]| Set { is_interval: true, ..plain(key) };
    match name {
        SetName::Frontends | SetName::OutsideFrontends => map(&[ip, PROTOCOL, PORT], &entry),
        SetName::NodePorts | SetName::OutsideNodePorts => map(&[PROTOCOL, PORT], &entry),
        SetName::Endpoints => map(&[NUMBER, NUMBER, NUMBER], &[ip, PORT]),
        SetName::Members => plain(&[NUMBER, NUMBER, ip, PORT]),
        SetName::ClusterIps => plain(&[ip]),
        SetName::Guarded => plain(&[ip, PROTOCOL, PORT]),
        SetName::AllowedSources => ranges(&[ip, PROTOCOL, PORT, ip]),
        SetName::Hairpins => plain(&[ip, ip]),
        SetName::ServiceRanges | SetName::NodeAddresses => ranges(&[ip, PROTOCOL]),
    }
}

fn data_map(name: nftables::Name, key: &[Field], data: &[Field]) -> Set {
    let length = data.iter().map(|Field(length, _)| length.next_multiple_of(4)).sum();
    set(name, key, SetValue::Data(length), data)
}

fn set(name: nftables::Name, key: &[Field], value: SetValue, data: &[Field]) -> Set {
    // nft numbers a concatenation by its fields' types, six bits each.
    let shown = |fields: &[Field]| fields.iter().fold(0, |all, Field(_, shown)| all << 6 | shown);
    Set {
        name,
        key: key.iter().map(|Field(length, _)| *length).collect(),
        is_interval: false,
        value,
        timeout: None,
        shown_as: (shown(key), shown(data)),
    }
}

/// An element in the kernel's terms.
pub(super) fn to_kernel(element: &Element) -> nftables::Element {
    let value = match element.data.is_empty() {
        true => Value::Nothing,
        false => Value::Data(Box::from(&*element.data)),
    };
    nftables::Element {
        key: Box::from(&*element.key),
        key_end: element.key_end.as_deref().map(Box::from),
        value,
    }
}

/// An element of `set` as the kernel has it; `None` if it is none of ours.
pub(super) fn from_kernel(set: SetName, element: &nftables::Element) -> Option<Element> {
    let bytes = |bytes: &[u8]| Bytes::try_from(bytes).ok();
    let data = match &element.value {
        Value::Nothing => Bytes::new(),
        Value::Data(data) => bytes(data)?,
        Value::Verdict(_) => return None,
    };
    let key_end = match &element.key_end {
        Some(end) => Some(bytes(end)?),
        None => None,
    };
    Some(Element { set, key: bytes(&element.key)?, key_end, data })
}
