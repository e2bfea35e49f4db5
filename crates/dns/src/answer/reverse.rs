//! From addresses back to names: `in-addr.arpa` and `ip6.arpa`.

use std::collections::BTreeSet;
use std::net::IpAddr;

use hickory_proto::op::Query;
use hickory_proto::rr::rdata::PTR;
use hickory_proto::rr::{Name, RData, Record, RecordType};
use model::World;

use super::endpoint::{host_name, ready};
use super::{Answer, Reply, TTL, Zone, below};

/// Answers about addresses that the cluster has given out; all else is for others.
pub(super) fn answer(world: &World, zone: &Zone, question: &Query) -> Reply {
    let Some(ip) = address(question.name()) else { return Reply::Forward };
    let names = names(world, zone, ip);
    if names.is_empty() {
        return Reply::Forward;
    }
    if !matches!(question.query_type(), RecordType::PTR | RecordType::ANY) {
        return Reply::Answer(Answer::of(Vec::new()));
    }
    let record = |name| Record::from_rdata(question.name().clone(), TTL, RData::PTR(PTR(name)));
    Reply::Answer(Answer::of(names.into_iter().map(record).collect()))
}

/// The address that a name spells completely.
fn address(name: &Name) -> Option<IpAddr> {
    let net = name.parse_arpa_name().ok()?;
    (net.prefix_len() == net.max_prefix_len()).then(|| net.addr())
}

/// The Service that has the address, else the endpoints that have it.
fn names(world: &World, zone: &Zone, ip: IpAddr) -> BTreeSet<Name> {
    if let Some(service) = world.service_by_cluster_ip(ip) {
        let meta = &service.meta;
        return BTreeSet::from([below(&zone.domain, &[&meta.name, &meta.namespace, "svc"])]);
    }
    let services = world.services_by_endpoint_ip(ip).into_iter();
    let services = services.filter(|name| world.service(name).is_some());
    let of_service = |name: &model::ObjectName| {
        let own = below(&zone.domain, &[&name.name, &name.namespace, "svc"]);
        let at = ready(world, name).filter(|(_, endpoint)| endpoint.address == ip);
        at.map(|(_, endpoint)| below(&own, &[&host_name(endpoint)])).collect::<Vec<Name>>()
    };
    services.flat_map(of_service).collect()
}
