//! From the World and a question to an answer. Pure.

mod endpoint;
mod place;
mod reverse;
mod service;
#[cfg(test)]
mod tests;

use std::net::IpAddr;

use hickory_proto::op::{Query, ResponseCode};
use hickory_proto::rr::rdata::{A, AAAA, CNAME, NS, SOA, TXT};
use hickory_proto::rr::{Name, RData, Record, RecordType};
use model::{Family, Kind, ObjectName, World};

use place::Place;

/// Version of the schema, told under `dns-version`.
const SCHEMA: &str = "1.1.0";
const SCHEMA_TTL: u32 = 28_800;
/// How long clients may keep an answer, also one that there is nothing, in seconds: what CoreDNS
/// takes by default.
const TTL: u32 = 5;
const REFRESH: i32 = 7200;
const RETRY: i32 = 1800;
const EXPIRE: i32 = 86_400;
/// How many names an ExternalName may lead through.
const CHAIN: usize = 8;

/// The cluster's part of the name space, and who serves it.
#[derive(Debug, Clone)]
pub struct Zone {
    /// The domain, for example `cluster.local.`, lower case.
    domain: Name,
    /// The Service that the servers are reached by.
    pub service: ObjectName,
    /// Addresses of this server, for when there is no such Service.
    pub addresses: Vec<IpAddr>,
    /// Where serial numbers start, in seconds since 1970; each change of the World adds one.
    pub epoch: u32,
}

/// A domain that is not one.
#[derive(Debug, thiserror::Error)]
#[error("{domain:?} is not a DNS domain: {reason}")]
pub struct BadDomain {
    domain: String,
    reason: String,
}

impl Zone {
    /// The zone of `domain`, with or without a dot at its end, served behind kube-system/kube-dns.
    ///
    /// # Errors
    ///
    /// The domain has an empty or an overlong label, or none.
    pub fn new(domain: &str) -> Result<Self, BadDomain> {
        let refused = |reason: String| BadDomain { domain: domain.to_owned(), reason };
        let mut name = Name::from_ascii(domain).map_err(|error| refused(error.to_string()))?;
        name.set_fqdn(true);
        if name.is_root() {
            return Err(refused("it has no label".to_owned()));
        }
        Ok(Self {
            domain: name.to_lowercase(),
            service: ObjectName::new("kube-system", "kube-dns"),
            addresses: Vec::new(),
            epoch: 0,
        })
    }

    /// Whether a name is in the zone.
    pub fn holds(&self, name: &Name) -> bool {
        self.domain.zone_of(name)
    }
}

/// What a question comes to.
#[derive(Debug, Clone, PartialEq)]
pub enum Reply {
    /// This, of our own knowledge.
    Answer(Answer),
    /// Nothing of ours: others may know.
    Forward,
}

/// The contents of an answer.
#[derive(Debug, Clone, PartialEq)]
pub struct Answer {
    /// `NoError`, `NXDomain`, `ServFail` or `Refused`.
    pub code: ResponseCode,
    /// What was asked for.
    pub records: Vec<Record>,
    /// The zone, if there is nothing of what was asked for.
    pub authority: Vec<Record>,
    /// What the asker will want to know next.
    pub additional: Vec<Record>,
    /// A name outside of the cluster that an alias among the records leads to; its records are to
    /// be had elsewhere.
    pub leads_to: Option<Name>,
}

impl Answer {
    fn of(records: Vec<Record>) -> Self {
        Self {
            code: ResponseCode::NoError,
            records,
            authority: Vec::new(),
            additional: Vec::new(),
            leads_to: None,
        }
    }

    fn failed(code: ResponseCode) -> Self {
        Self { code, ..Self::of(Vec::new()) }
    }
}

/// Answers a question of class IN.
pub fn answer(world: &World, zone: &Zone, question: &Query) -> Reply {
    if matches!(question.query_type(), RecordType::AXFR | RecordType::IXFR) {
        return Reply::Answer(Answer::failed(ResponseCode::Refused));
    }
    if !zone.holds(question.name()) {
        return reverse::answer(world, zone, question);
    }
    let asked = Asked::new(world, zone, question);
    Reply::Answer(asked.answer())
}

/// A question about a name in the zone, with what is needed to answer it.
struct Asked<'a> {
    world: &'a World,
    zone: &'a Zone,
    name: &'a Name,
    kind: RecordType,
    /// The zone's name, its letters as the client has them (draft-vixie-dnsext-dns0x20).
    domain: Name,
}

/// What there is at a name.
enum Found {
    /// Nothing, and nothing below either.
    Nothing,
    /// These, perhaps none of the type asked for.
    Records { records: Vec<Record>, additional: Vec<Record> },
    /// Another name.
    Alias(Name),
}

impl Found {
    fn records(records: Vec<Record>) -> Self {
        Found::Records { records, additional: Vec::new() }
    }
}

impl<'a> Asked<'a> {
    fn new(world: &'a World, zone: &'a Zone, question: &'a Query) -> Self {
        Self::about(world, zone, question.name(), question.query_type())
    }

    fn about(world: &'a World, zone: &'a Zone, name: &'a Name, kind: RecordType) -> Self {
        let domain = name.trim_to(usize::from(zone.domain.num_labels()));
        Self { world, zone, name, kind, domain }
    }

    fn answer(&self) -> Answer {
        match self.find() {
            Found::Nothing if !self.is_synced() => Answer::failed(ResponseCode::ServFail),
            Found::Nothing => {
                Answer { authority: vec![self.soa()], ..Answer::failed(ResponseCode::NXDomain) }
            }
            Found::Records { records, .. } if records.is_empty() => {
                Answer { authority: vec![self.soa()], ..Answer::of(records) }
            }
            Found::Records { records, additional } => Answer { additional, ..Answer::of(records) },
            Found::Alias(target) => self.follow(target),
        }
    }

    /// An alias, and for addresses also where it leads to as far as that is ours.
    fn follow(&self, mut target: Name) -> Answer {
        let mut records = vec![self.record(RData::CNAME(CNAME(target.clone())))];
        if !matches!(self.kind, RecordType::A | RecordType::AAAA) {
            return Answer::of(records);
        }
        while self.zone.holds(&target) && records.len() < CHAIN {
            let next = Asked::about(self.world, self.zone, &target, self.kind);
            match next.find() {
                Found::Records { records: more, .. } => {
                    records.extend(more);
                    return Answer::of(records);
                }
                Found::Nothing => return Answer::of(records),
                Found::Alias(further) => {
                    records.push(next.record(RData::CNAME(CNAME(further.clone()))));
                    target = further;
                }
            }
        }
        let leads_to = (!self.zone.holds(&target)).then_some(target);
        Answer { leads_to, ..Answer::of(records) }
    }

    /// What there is at the name.
    fn find(&self) -> Found {
        match Place::parse(self.name, usize::from(self.zone.domain.num_labels())) {
            Place::Nowhere => Found::Nothing,
            Place::Apex => self.apex(),
            Place::Version => self.only(RecordType::TXT, || {
                let text = TXT::new(vec![SCHEMA.to_owned()]);
                vec![Record::from_rdata(self.name.clone(), SCHEMA_TTL, RData::TXT(text))]
            }),
            Place::NameServer => Found::records(self.addresses(&self.server_addresses())),
            Place::Branch => Found::records(Vec::new()),
            Place::Namespace(name) => match self.world.has_namespace(&name) {
                true => Found::records(Vec::new()),
                false => Found::Nothing,
            },
            Place::PodAddress { namespace, address } => {
                match self.world.has_namespace(&namespace) {
                    true => Found::records(self.addresses(&[address])),
                    false => Found::Nothing,
                }
            }
            Place::Service(name) => self.service(&name),
            Place::Endpoint { service, host } => self.endpoint(&service, &host),
            Place::Port { service, port, protocol } => self.port(&service, &port, protocol),
        }
    }

    fn apex(&self) -> Found {
        match self.kind {
            RecordType::SOA => Found::records(vec![self.soa()]),
            RecordType::NS => {
                let server = self.server();
                let glue = self.addresses_of(&server, &self.server_addresses(), &Family::ALL);
                let record = self.record(RData::NS(NS(server)));
                Found::Records { records: vec![record], additional: glue }
            }
            _ => Found::records(Vec::new()),
        }
    }

    /// The name of the servers: that of their Service, if it exists.
    fn server(&self) -> Name {
        let service = &self.zone.service;
        match self.world.service(service) {
            Some(_) => self.service_name(service),
            None => self.below(&["ns", "dns"]),
        }
    }

    fn server_addresses(&self) -> Vec<IpAddr> {
        match self.world.service(&self.zone.service) {
            Some(service) if !service.cluster_ips.is_empty() => service.cluster_ips.clone(),
            _ => self.zone.addresses.clone(),
        }
    }

    /// SOA (RFC 1035), whose minimum is how long a client may believe that there is nothing
    /// (RFC 2308).
    fn soa(&self) -> Record {
        let changes = (self.world.changes() & u64::from(u32::MAX)) as u32;
        let soa = SOA::new(
            self.below(&["ns", "dns"]),
            self.below(&["hostmaster"]),
            self.zone.epoch.wrapping_add(changes),
            REFRESH,
            RETRY,
            EXPIRE,
            TTL,
        );
        Record::from_rdata(self.domain.clone(), TTL, RData::SOA(soa))
    }

    /// Whether the World is known well enough to say that something does not exist.
    fn is_synced(&self) -> bool {
        let needed = [Kind::Service, Kind::EndpointSlice, Kind::Namespace];
        needed.into_iter().all(|kind| self.world.is_listed(kind))
    }

    /// Records if their type was asked for, none if another was.
    fn only(&self, kind: RecordType, records: impl FnOnce() -> Vec<Record>) -> Found {
        match self.kind == kind || self.kind == RecordType::ANY {
            true => Found::records(records()),
            false => Found::records(Vec::new()),
        }
    }

    /// A record at the name asked for.
    fn record(&self, data: RData) -> Record {
        Record::from_rdata(self.name.clone(), TTL, data)
    }

    /// Those of the addresses that were asked for, at the name asked for.
    fn addresses(&self, addresses: &[IpAddr]) -> Vec<Record> {
        let families: &[Family] = match self.kind {
            RecordType::A => &[Family::V4],
            RecordType::AAAA => &[Family::V6],
            RecordType::ANY => &Family::ALL,
            _ => &[],
        };
        self.addresses_of(self.name, addresses, families)
    }

    fn addresses_of(&self, name: &Name, addresses: &[IpAddr], families: &[Family]) -> Vec<Record> {
        let wanted = addresses.iter().filter(|ip| families.contains(&Family::of(**ip)));
        wanted.map(|ip| Record::from_rdata(name.clone(), TTL, address(*ip))).collect()
    }

    /// `<service>.<namespace>.svc.<domain>`.
    fn service_name(&self, service: &ObjectName) -> Name {
        self.below(&[&service.name, &service.namespace, "svc"])
    }

    /// A name below the zone. Labels are those of API objects, which are valid here.
    fn below(&self, labels: &[&str]) -> Name {
        below(&self.domain, labels)
    }
}

/// A name below another; a label that can't be one leaves the name as it was.
fn below(domain: &Name, labels: &[&str]) -> Name {
    let add = |name: Name, label: &&str| name.prepend_label(label.as_bytes()).unwrap_or(name);
    labels.iter().rev().fold(domain.clone(), add)
}

fn address(ip: IpAddr) -> RData {
    match ip {
        IpAddr::V4(ip) => RData::A(A(ip)),
        IpAddr::V6(ip) => RData::AAAA(AAAA(ip)),
    }
}
