//! Names of Services, of their endpoints and of their ports.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use hickory_proto::rr::rdata::SRV;
use hickory_proto::rr::{Name, RData, RecordType};
use model::object::{Service, ServiceType};
use model::{Family, ObjectName, Protocol};

use super::endpoint::{distinct, host_name, ready};
use super::{Asked, Found, below};

/// Which ports of a Service are asked for.
#[derive(Clone, Copy)]
enum Ports<'a> {
    All,
    Named(&'a str, Protocol),
}

impl Ports<'_> {
    fn has(self, name: &str, protocol: Protocol) -> bool {
        match self {
            Ports::All => true,
            Ports::Named(wanted, of) => name.eq_ignore_ascii_case(wanted) && protocol == of,
        }
    }
}

/// Where a port is served.
struct Target {
    port: u16,
    /// Labels before the name of the Service.
    host: Option<String>,
    addresses: Vec<IpAddr>,
}

impl Asked<'_> {
    /// `<service>.<namespace>.svc`.
    pub(super) fn service(&self, name: &ObjectName) -> Found {
        let Some(service) = self.world.service(name) else { return Found::Nothing };
        if service.service_type == ServiceType::ExternalName {
            return self.external_name(service);
        }
        let addresses = match service.headless {
            false => service.cluster_ips.clone(),
            true => distinct(ready(self.world, name).map(|(_, endpoint)| endpoint.address)),
        };
        if addresses.is_empty() {
            return Found::Nothing;
        }
        match self.kind {
            RecordType::SRV => {
                self.srv(service, name, Ports::All).unwrap_or(Found::records(Vec::new()))
            }
            _ => Found::records(self.addresses(&addresses)),
        }
    }

    /// CNAME for whatever an alias stands for; other types are not there.
    fn external_name(&self, service: &Service) -> Found {
        let is_alias = matches!(
            self.kind,
            RecordType::A | RecordType::AAAA | RecordType::CNAME | RecordType::ANY
        );
        let target = service.external_name.as_deref().unwrap_or_default();
        // A name that is spelled like an address would be one that nobody has.
        if target.parse::<IpAddr>().is_ok() {
            return Found::Nothing;
        }
        let Ok(mut target) = Name::from_ascii(target) else { return Found::Nothing };
        target.set_fqdn(true);
        match is_alias && !target.is_root() {
            true => Found::Alias(target),
            false => Found::records(Vec::new()),
        }
    }

    /// `<host>.<service>.<namespace>.svc`.
    pub(super) fn endpoint(&self, name: &ObjectName, host: &str) -> Found {
        let Some(service) = self.world.service(name) else { return Found::Nothing };
        if service.service_type == ServiceType::ExternalName {
            return Found::Nothing;
        }
        let named = ready(self.world, name).filter(|(_, endpoint)| host_name(endpoint) == host);
        let addresses = distinct(named.map(|(_, endpoint)| endpoint.address));
        match addresses.is_empty() {
            true => Found::Nothing,
            false => Found::records(self.addresses(&addresses)),
        }
    }

    /// `_<port>._<protocol>.<service>.<namespace>.svc`.
    pub(super) fn port(&self, name: &ObjectName, port: &str, protocol: Protocol) -> Found {
        let Some(service) = self.world.service(name) else { return Found::Nothing };
        if service.service_type == ServiceType::ExternalName || port.is_empty() {
            return Found::Nothing;
        }
        self.srv(service, name, Ports::Named(port, protocol)).unwrap_or(Found::Nothing)
    }

    /// The ports that are asked for, or `None` if there is none.
    fn srv(&self, service: &Service, name: &ObjectName, ports: Ports<'_>) -> Option<Found> {
        let targets = match service.headless {
            true => self.endpoint_ports(name, ports),
            false => service_ports(service, ports),
        };
        if targets.is_empty() {
            return None;
        }
        if !matches!(self.kind, RecordType::SRV | RecordType::ANY) {
            let addresses = distinct(targets.iter().flat_map(|target| target.addresses.clone()));
            return Some(Found::records(self.addresses(&addresses)));
        }
        let entries: usize = targets.iter().map(|target| target.addresses.len()).sum();
        let weight = u16::try_from(100 / entries.max(1)).unwrap_or(0).max(1);
        let own = self.service_name(name);
        let (mut records, mut additional) = (Vec::new(), Vec::new());
        let mut described = BTreeSet::new();
        for Target { port, host, addresses } in targets {
            let target = match &host {
                Some(host) => below(&own, &[host]),
                None => own.clone(),
            };
            let srv = SRV::new(0, weight, port, target.clone());
            records.push(self.record(RData::SRV(srv)));
            if described.insert(target.clone()) {
                additional.extend(self.addresses_of(&target, &addresses, &Family::ALL));
            }
        }
        Some(Found::Records { records, additional })
    }

    /// Ports of the endpoints, each of one host once: several addresses may have one name, those of
    /// both families do.
    fn endpoint_ports(&self, name: &ObjectName, ports: Ports<'_>) -> Vec<Target> {
        let mut targets: BTreeMap<(u16, String), BTreeSet<IpAddr>> = BTreeMap::new();
        for (slice, endpoint) in ready(self.world, name) {
            for port in slice.ports.iter().filter(|port| ports.has(&port.name, port.protocol)) {
                let key = (port.port.get(), host_name(endpoint));
                targets.entry(key).or_default().insert(endpoint.address);
            }
        }
        let target = |((port, host), addresses): ((u16, String), BTreeSet<IpAddr>)| Target {
            port,
            host: Some(host),
            addresses: addresses.into_iter().collect(),
        };
        targets.into_iter().map(target).collect()
    }
}

/// Ports of a Service, each number once.
fn service_ports(service: &Service, ports: Ports<'_>) -> Vec<Target> {
    let wanted = service.ports.iter().filter(|port| ports.has(&port.name, port.protocol));
    let numbers: BTreeSet<u16> = wanted.map(|port| port.port.get()).collect();
    let target = |port| Target { port, host: None, addresses: service.cluster_ips.clone() };
    numbers.into_iter().map(target).collect()
}
