//! From a question to an answer, by what the directory knows. No I/O, and no memory is taken for what is asked often.

mod path;
mod place;
mod reverse;
mod service;
#[cfg(test)]
mod tests;

use std::fmt;
use std::net::IpAddr;
use std::str::FromStr;
use std::sync::Arc;

use crate::directory::{Directory, ServiceNames, labels_of};
use crate::wire::{BadName, Code, Data, HEADER, Kind, Name, Owner, Query, Response, Section};
use place::Place;

pub(crate) use path::next_names;
pub(crate) use reverse::{deny as deny_reverse, is_reverse, reverse_address};

/// Version of the schema, told under `dns-version`.
const SCHEMA: &[u8] = b"1.1.0";
const SCHEMA_TTL: u32 = 28_800;
/// How long clients may keep an answer if nothing is said: what CoreDNS takes.
const TTL: u32 = 5;
/// How long at most they may keep one that there is nothing, also as CoreDNS has it.
const DENIAL: u32 = 300;
const REFRESH: u32 = 7200;
const RETRY: u32 = 1800;
const EXPIRE: u32 = 86_400;
/// How many names an ExternalName may lead through.
const CHAIN: usize = 8;

/// The cluster's part of the name space, and who serves it.
#[derive(Debug, Clone)]
pub struct Zone {
    /// The domain, for example `cluster.local.`.
    domain: Name,
    /// The Service that the servers are reached by, as the directory has it.
    service: Arc<[u8]>,
    /// Addresses of this server, for when there is no such Service.
    pub addresses: Vec<IpAddr>,
    /// Where serial numbers start, in seconds since 1970; each change of names adds one.
    pub epoch: u32,
    /// How long clients may keep an answer, in seconds; one that there is nothing at most five minutes.
    pub ttl: u32,
    /// Whether pods have names.
    pub pods: Pods,
    /// Whether pods get at once what their resolvers would find at the end of their search path; the domains that it has
    /// behind those of the cluster, which are the nodes'. Pods have to be known.
    pub search: Option<Vec<Name>>,
    /// Whether others may know addresses that the cluster does not know.
    pub reverse_falls_through: bool,
}

/// Whether pods have names by their addresses.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Pods {
    /// They have none.
    Disabled,
    /// Each address has one, whether or not a pod has it.
    #[default]
    Insecure,
    /// Each address has one that a pod of the namespace has. Pods have to be known.
    Verified,
}

/// A word that is none of a mode's.
#[derive(Debug, thiserror::Error)]
#[error("there is no mode {0:?} for names of pods: accepted are disabled, insecure, verified")]
pub struct UnknownPods(String);

impl FromStr for Pods {
    type Err = UnknownPods;

    fn from_str(text: &str) -> Result<Self, UnknownPods> {
        match text {
            "disabled" => Ok(Pods::Disabled),
            "insecure" => Ok(Pods::Insecure),
            "verified" => Ok(Pods::Verified),
            _ => Err(UnknownPods(text.to_owned())),
        }
    }
}

/// A domain that is not one.
#[derive(Debug, thiserror::Error)]
pub enum BadDomain {
    /// It is no name.
    #[error("{0:?} is not a DNS domain: {1}")]
    Name(String, BadName),
    /// It is the root, below which are all names.
    #[error("{0:?} is not a DNS domain of a cluster: it has no label")]
    Root(String),
}

impl Zone {
    /// The zone of `domain`, with or without a dot at its end, served behind kube-system/kube-dns.
    ///
    /// # Errors
    ///
    /// The domain has an empty or an overlong label, or none.
    pub fn new(domain: &str) -> Result<Self, BadDomain> {
        let name = Name::parse(domain).map_err(|why| BadDomain::Name(domain.to_owned(), why))?;
        if name.labels() == 0 {
            return Err(BadDomain::Root(domain.to_owned()));
        }
        let service = labels_of("kube-dns", "kube-system").expect("these are labels");
        Ok(Self {
            domain: name,
            service,
            addresses: Vec::new(),
            epoch: 0,
            ttl: TTL,
            pods: Pods::default(),
            search: None,
            reverse_falls_through: true,
        })
    }

    /// Whether a name is in the zone.
    pub fn holds(&self, name: &Name) -> bool {
        name.below(&self.domain).is_some()
    }

    /// Whether what is answered depends on pods.
    pub fn needs_pods(&self) -> bool {
        self.pods == Pods::Verified || self.search.is_some()
    }

    /// Writes who is to be believed about what is below `owner`, and for how long (RFC 2308). `domain` writes the
    /// cluster's domain.
    fn soa(
        &self,
        directory: &Directory,
        response: &mut Response<'_>,
        section: Section,
        owner: Owner,
        domain: impl Fn(&mut Data<'_>),
    ) {
        let serial = self.epoch.wrapping_add(directory.changes());
        response.record(section, owner, Kind::SOA, self.ttl.min(DENIAL), |data| {
            data.label(b"ns");
            data.label(b"dns");
            domain(data);
            data.label(b"hostmaster");
            domain(data);
            for number in [serial, REFRESH, RETRY, EXPIRE, self.ttl] {
                data.long(number);
            }
        });
    }
}

impl fmt::Display for Zone {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.domain.fmt(f)
    }
}

/// What a question comes to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Outcome {
    /// What has been written, with this code.
    Known(Code),
    /// What has been written, and what others know of this name, which it leads to.
    LeadsTo(Box<[u8]>),
    /// Nothing of ours: others may know.
    Foreign,
}

/// Answers a question from what the directory knows. `turn` says which of several addresses comes first.
pub fn answer(
    directory: &Directory,
    zone: &Zone,
    query: &Query<'_>,
    response: &mut Response<'_>,
    turn: usize,
) -> Outcome {
    let Some(count) = query.name.below(&zone.domain) else {
        return reverse::answer(directory, zone, query, response);
    };
    response.set_authoritative();
    let mut asked = Asked {
        directory,
        zone,
        query,
        zone_at: HEADER + query.name.offset(count),
        response,
        turn,
    };
    match asked.find(&query.name, count, Owner::QUESTION) {
        Found::Nothing => asked.deny(),
        Found::Records => asked.confirm(0),
        Found::Alias(target) => asked.follow(target),
    }
}

/// A question about a name in the zone, with what is needed to answer it.
struct Asked<'a, 'q, 'r, 'b> {
    directory: &'a Directory,
    zone: &'a Zone,
    query: &'a Query<'q>,
    /// Where the zone's name is in the message, its letters as the client has them (draft-vixie-dnsext-dns0x20).
    zone_at: usize,
    response: &'r mut Response<'b>,
    turn: usize,
}

/// What there is at a name.
enum Found {
    /// Nothing, and nothing below either.
    Nothing,
    /// What has been written, perhaps nothing of the type asked for.
    Records,
    /// Another name.
    Alias(Box<[u8]>),
}

impl Asked<'_, '_, '_, '_> {
    /// Writes what there is at a name with `count` labels before the zone's, of which is `owner`.
    fn find(&mut self, name: &Name, count: usize, owner: Owner) -> Found {
        match Place::of(name, count) {
            Place::Nowhere => Found::Nothing,
            Place::Apex => self.apex(owner),
            Place::Version => {
                if self.wants(Kind::TXT) {
                    let add = |data: &mut Data<'_>| data.label(SCHEMA);
                    self.response.record(Section::Answer, owner, Kind::TXT, SCHEMA_TTL, add);
                }
                Found::Records
            }
            Place::NameServer => {
                self.addresses(owner, self.server_addresses().into_iter());
                Found::Records
            }
            Place::Branch => Found::Records,
            Place::PodsOf(_) | Place::PodAddress { .. } if self.zone.pods == Pods::Disabled => {
                Found::Nothing
            }
            Place::Namespace(label) | Place::PodsOf(label) => self.in_namespace(label),
            Place::PodAddress { namespace, address } => match self.in_namespace(namespace) {
                Found::Records if !self.may_have_name(address, namespace) => Found::Nothing,
                Found::Records => {
                    self.addresses(owner, std::iter::once(address));
                    Found::Records
                }
                nothing => nothing,
            },
            Place::Service(service) => self.service(service, owner),
            Place::Endpoint { service, host } => self.endpoint(service, host, owner),
            Place::Port { service, port, protocol } => self.port(service, port, protocol, owner),
        }
    }

    /// Nothing where there is no such namespace, and what is below it where there is.
    fn in_namespace(&self, label: &[u8]) -> Found {
        match self.directory.has_namespace(label) {
            true => Found::Records,
            false => Found::Nothing,
        }
    }

    /// Whether an address has a name as a pod of a namespace.
    fn may_have_name(&self, address: IpAddr, namespace: &[u8]) -> bool {
        let is_pod = || self.directory.pod(address).is_some_and(|pod| *pod.namespace == *namespace);
        self.zone.pods != Pods::Verified || is_pod()
    }

    fn apex(&mut self, owner: Owner) -> Found {
        if self.wants(Kind::SOA) {
            self.soa(Section::Answer);
        }
        if self.wants(Kind::NS) {
            let (zone_at, service) = (self.zone_at, &self.zone.service);
            let is_served = self.directory.service(service, |_| ()).is_some();
            let data =
                self.response.record(Section::Answer, owner, Kind::NS, self.zone.ttl, |data| {
                    match is_served {
                        true => {
                            data.bytes(service);
                            data.label(b"svc");
                        }
                        false => {
                            data.label(b"ns");
                            data.label(b"dns");
                        }
                    }
                    data.pointer(zone_at);
                });
            if let Some(server) = data.and_then(Response::owner_at) {
                let addresses = self.server_addresses();
                self.response.additional(|response| {
                    for address in addresses {
                        response.address(Section::Additional, server, self.zone.ttl, address);
                    }
                });
            }
        }
        Found::Records
    }

    /// Addresses of the servers: those of their Service, or what they were told.
    fn server_addresses(&self) -> Vec<IpAddr> {
        let own = |names: &Arc<ServiceNames>| names.own_addresses().collect::<Vec<_>>();
        let of_service = self.directory.service(&self.zone.service, own);
        let of_service = of_service.filter(|addresses| !addresses.is_empty());
        of_service.unwrap_or_else(|| self.zone.addresses.clone())
    }

    /// Says that there is no such name, if that is known.
    fn deny(&mut self) -> Outcome {
        if !self.directory.is_synced() {
            return Outcome::Known(Code::SERVER_FAILURE);
        }
        self.soa(Section::Authority);
        Outcome::Known(Code::NO_NAME)
    }

    /// Says that there is such a name, and if it has added nothing to the `before` records, that it has no such type.
    fn confirm(&mut self, before: usize) -> Outcome {
        if self.response.count(Section::Answer) == before && !self.response.is_full() {
            self.soa(Section::Authority);
        }
        Outcome::Known(Code::NO_ERROR)
    }

    fn soa(&mut self, section: Section) {
        let zone_at = self.zone_at;
        let Some(owner) = Response::owner_at(zone_at) else { return };
        let domain = |data: &mut Data<'_>| data.pointer(zone_at);
        self.zone.soa(self.directory, self.response, section, owner, domain);
    }

    /// An alias, and for addresses also where it leads to as far as that is ours. What comes of it is what comes of the
    /// last name (RFC 6604, 3).
    fn follow(&mut self, mut target: Box<[u8]>) -> Outcome {
        let mut owner = Owner::QUESTION;
        for _ in 0..CHAIN {
            let add = |data: &mut Data<'_>| data.bytes(&target);
            let written =
                self.response.record(Section::Answer, owner, Kind::CNAME, self.zone.ttl, add);
            if !matches!(self.query.kind, Kind::A | Kind::AAAA) {
                break;
            }
            let (Some(next), Some((name, _))) =
                (written.and_then(Response::owner_at), Name::read(&target, 0))
            else {
                break;
            };
            let Some(count) = name.below(&self.zone.domain) else {
                return Outcome::LeadsTo(target);
            };
            let before = self.response.count(Section::Answer);
            match self.find(&name, count, next) {
                Found::Nothing => return self.deny(),
                Found::Records => return self.confirm(before),
                Found::Alias(further) => (target, owner) = (further, next),
            }
        }
        Outcome::Known(Code::NO_ERROR)
    }

    /// Whether records of a type are asked for.
    fn wants(&self, kind: Kind) -> bool {
        self.query.kind == kind || self.query.kind == Kind::ANY
    }

    /// Those of the addresses that were asked for.
    fn addresses(&mut self, owner: Owner, addresses: impl Iterator<Item = IpAddr>) {
        for address in addresses {
            let kind = match address {
                IpAddr::V4(_) => Kind::A,
                IpAddr::V6(_) => Kind::AAAA,
            };
            if self.wants(kind) {
                self.response.address(Section::Answer, owner, self.zone.ttl, address);
            }
        }
    }
}
