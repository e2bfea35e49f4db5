//! The endpoints of a Service that have names: those that are ready.

use std::collections::BTreeSet;
use std::net::IpAddr;

use model::object::{Endpoint, EndpointSlice};
use model::{ObjectName, World};

use super::place::dashed;

/// The endpoints that are ready, with their slices; none twice.
pub(super) fn ready<'w>(
    world: &'w World,
    service: &ObjectName,
) -> impl Iterator<Item = (&'w EndpointSlice, &'w Endpoint)> {
    let of_slice = |slice: &'w EndpointSlice| slice.endpoints.iter().map(move |e| (slice, e));
    world.slices(service).flat_map(of_slice).filter(|(_, endpoint)| endpoint.conditions.ready)
}

/// The name of an endpoint below that of its Service: its hostname, or its address.
pub(super) fn host_name(endpoint: &Endpoint) -> String {
    match endpoint.hostname() {
        Some(hostname) => hostname.to_ascii_lowercase(),
        None => dashed(endpoint.address),
    }
}

/// Addresses without repetition, in order.
pub(super) fn distinct(addresses: impl Iterator<Item = IpAddr>) -> Vec<IpAddr> {
    addresses.collect::<BTreeSet<IpAddr>>().into_iter().collect()
}
