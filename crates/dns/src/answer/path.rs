//! What a pod's resolver would ask for next, so that it need not.
//!
//! With `ndots:5` (resolv.conf(5)) a pod that looks for `www.example.com` asks for
//! `www.example.com.default.svc.cluster.local` first, and for two or more names after that before the one that exists, each
//! of them twice, for both families. Whoever knows in which namespace it is knows what it is looking for.

use std::net::IpAddr;

use super::Zone;
use crate::directory::Directory;
use crate::wire::{Kind, Query, Wire};

/// Names with so many dots are asked for as they are, as all pods have it whose resolvers look in the cluster first.
const NDOTS: usize = 5;

/// The names that a client's resolver asks for one after the other if the one that it asks for now does not exist; if it
/// has begun to search, and it is known where it searches.
pub(crate) fn next_names(
    directory: &Directory,
    zone: &Zone,
    query: &Query<'_>,
    client: IpAddr,
) -> Option<Vec<Wire>> {
    let of_node = zone.search.as_ref()?;
    if !matches!(query.kind, Kind::A | Kind::AAAA) {
        return None;
    }
    let name = &query.name;
    let count = name.below(&zone.domain)?;
    // <name>.<namespace>.svc.<zone>, where <name> has less dots than that.
    let labels = count.checked_sub(2).filter(|labels| (1..=NDOTS).contains(labels))?;
    let pod = directory.pod(client)?;
    let is_first = name.label(labels + 1) == b"svc"
        && name.part(labels, labels + 1) == &*pod.namespace
        && pod.is_cluster_first;
    if !is_first {
        return None;
    }
    let wanted = name.part(0, labels);
    let with = |parts: &[&[u8]]| {
        let mut next = Wire::new();
        // One that would be too long is asked for by nobody.
        let mut parts = [&[wanted], parts].concat().into_iter();
        parts.all(|part| next.try_extend_from_slice(part).is_ok()).then_some(next)
    };
    let in_cluster = [with(&[b"\x03svc", zone.domain.bytes()]), with(&[zone.domain.bytes()])];
    let elsewhere = of_node.iter().map(|domain| with(&[domain.bytes()]));
    let as_it_is = with(&[b"\0"]);
    Some(in_cluster.into_iter().chain(elsewhere).chain([as_it_is]).flatten().collect())
}
