//! Packs the endpoints of one family into slices with few writes: every changed slice is sent to
//! every node, so sparse slices are better than moved endpoints.
//!
//! Knows nothing of pods.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::net::IpAddr;
use std::sync::Arc;

use super::desired::Desired;
use super::{Endpoint, Map, Port, Service, Slice};
use crate::{Family, ObjectName};

/// Slices to write for one family.
#[derive(Debug, Default)]
pub(super) struct Packed {
    pub(super) creates: Vec<Slice>,
    pub(super) updates: Vec<Slice>,
    pub(super) deletes: Vec<Arc<str>>,
}

/// What makes two endpoints the same one: everything else is updated in place.
type Identity = (IpAddr, Option<Arc<str>>, Option<ObjectName>);

fn identity(endpoint: &Endpoint) -> Identity {
    let pod = endpoint.pod.as_ref().map(|pod| pod.name.clone());
    (endpoint.address, endpoint.hostname.clone(), pod)
}

/// Packs `desired` given the `existing` slices of this family that the Service owns.
pub(super) fn pack(
    service: &Service,
    labels: &Map,
    family: Family,
    desired: Desired,
    existing: &[&Slice],
    capacity: usize,
) -> Packed {
    let mut by_ports: BTreeMap<Vec<Port>, Vec<&Slice>> = BTreeMap::new();
    for &slice in existing {
        let mut ports = slice.ports.clone();
        ports.sort();
        by_ports.entry(ports).or_default().push(slice);
    }

    let new = |ports: Vec<Port>, endpoints: Vec<Endpoint>| Slice {
        name: None,
        version: "".into(),
        owners: vec![service.uid.clone()],
        labels: labels.clone(),
        annotations: Map::new(),
        family,
        ports,
        endpoints,
        damaged: false,
    };

    let mut creates = Vec::new();
    let mut updates = Vec::new();
    let mut deletes: Vec<&Slice> = Vec::new();
    let mut kept = 0;
    for (ports, endpoints) in desired {
        let current = by_ports.remove(&ports).unwrap_or_default();
        let mut group = Group::keep(&current, endpoints, labels);
        group.fill(capacity);
        for rest in std::mem::take(&mut group.remaining).chunks(capacity) {
            creates.push(new(ports.clone(), rest.to_vec()));
        }
        kept += group.unchanged.len() + group.updates.len();
        updates.append(&mut group.updates);
        deletes.append(&mut group.emptied);
    }

    // A family without endpoints still has one slice, so that a reader can tell "none" from "not
    // looked at yet".
    let mut unwanted: Vec<&Slice> = by_ports.into_values().flatten().collect();
    if kept == 0 && creates.is_empty() {
        let placeholder = |slice: &&Slice| {
            slice.endpoints.is_empty()
                && slice.ports.is_empty()
                && slice.labels == *labels
                && !slice.damaged
        };
        match unwanted.iter().position(placeholder) {
            Some(index) => drop(unwanted.swap_remove(index)),
            None => creates.push(new(Vec::new(), Vec::new())),
        }
    }
    deletes.append(&mut unwanted);

    // A slice that would be deleted lends its name to one that would be created: one write, not two.
    let reused = creates.len().min(deletes.len());
    for (slice, old) in creates.drain(..reused).zip(deletes.drain(..reused)) {
        updates.push(Slice {
            name: old.name.clone(),
            version: old.version.clone(),
            annotations: old.annotations.clone(),
            ..slice
        });
    }
    let deletes = deletes.into_iter().filter_map(|slice| slice.name.clone()).collect();
    Packed { creates, updates, deletes }
}

/// The slices of one list of ports while endpoints are being placed.
struct Group<'a> {
    unchanged: Vec<&'a Slice>,
    updates: Vec<Slice>,
    emptied: Vec<&'a Slice>,
    remaining: Vec<Endpoint>,
    labels: &'a Map,
}

impl<'a> Group<'a> {
    /// Leaves every endpoint that is still desired where it is.
    fn keep(current: &[&'a Slice], desired: Vec<Endpoint>, labels: &'a Map) -> Self {
        let order: Vec<Identity> = desired.iter().map(identity).collect();
        let mut left: HashMap<Identity, Endpoint> =
            desired.into_iter().map(|endpoint| (identity(&endpoint), endpoint)).collect();
        let mut group = Group {
            unchanged: Vec::new(),
            updates: Vec::new(),
            emptied: Vec::new(),
            remaining: Vec::new(),
            labels,
        };
        for &slice in current {
            let endpoints: Vec<Endpoint> = slice
                .endpoints
                .iter()
                .filter_map(|endpoint| left.remove(&identity(endpoint)))
                .collect();
            if endpoints.is_empty() {
                group.emptied.push(slice);
            } else if endpoints == slice.endpoints && slice.labels == *labels && !slice.damaged {
                group.unchanged.push(slice);
            } else {
                group.updates.push(group.changed(slice, endpoints));
            }
        }
        let mut placed = BTreeSet::new();
        group.remaining = order
            .into_iter()
            .filter(|id| placed.insert(id.clone()))
            .filter_map(|id| left.remove(&id))
            .collect();
        group
    }

    /// Places what remains in slices that are written anyway, then in one more that has the room.
    fn fill(&mut self, capacity: usize) {
        self.updates.sort_by_key(|slice| std::cmp::Reverse(slice.endpoints.len()));
        for slice in &mut self.updates {
            let room = capacity.saturating_sub(slice.endpoints.len()).min(self.remaining.len());
            slice.endpoints.extend(self.remaining.drain(..room));
        }
        // Whole slices are created for whole multiples of the capacity; only the rest, if it all
        // fits, goes to an unchanged slice: the one it leaves fullest.
        let rest = self.remaining.len() % capacity;
        if rest == 0 {
            return;
        }
        let fullest = self
            .unchanged
            .iter()
            .enumerate()
            .filter(|(_, slice)| slice.endpoints.len() + rest <= capacity)
            .max_by_key(|(_, slice)| slice.endpoints.len())
            .map(|(index, _)| index);
        if let Some(index) = fullest {
            let slice = self.unchanged.swap_remove(index);
            let mut endpoints = slice.endpoints.clone();
            endpoints.extend(self.remaining.split_off(self.remaining.len() - rest));
            self.updates.push(self.changed(slice, endpoints));
        }
    }

    /// `slice` with other endpoints and the labels it should have.
    fn changed(&self, slice: &Slice, endpoints: Vec<Endpoint>) -> Slice {
        Slice { endpoints, labels: self.labels.clone(), damaged: false, ..slice.clone() }
    }
}
