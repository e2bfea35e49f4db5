//! Names of Services, of their endpoints and of their ports.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::Arc;

use model::Protocol;

use super::{Asked, Found};
use crate::directory::{Face, Port, ServiceNames, dashed};
use crate::wire::{Kind, Owner, Response, Section};

/// Which ports of a Service are asked for.
#[derive(Clone, Copy)]
enum Ports<'a> {
    All,
    Named(&'a [u8], Protocol),
}

impl Ports<'_> {
    fn has(self, port: &Port) -> bool {
        match self {
            Ports::All => true,
            Ports::Named(wanted, of) => *port.name == *wanted && port.protocol == of,
        }
    }
}

/// How an endpoint is called.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Host<'a> {
    /// By its address.
    Address(IpAddr),
    /// By its hostname.
    Named(&'a [u8]),
}

/// Where ports are served: by number, and for those of endpoints by host, with addresses.
type Targets<'a> = BTreeMap<(u16, Option<Host<'a>>), BTreeSet<IpAddr>>;

impl Asked<'_, '_, '_, '_> {
    fn names(&self, service: &[u8]) -> Option<Arc<ServiceNames>> {
        self.directory.service(service, Arc::clone)
    }

    /// `<service>.<namespace>.svc`.
    pub(super) fn service(&mut self, service: &[u8], owner: Owner) -> Found {
        let Some(names) = self.names(service) else { return Found::Nothing };
        match &names.face {
            Face::Nothing => Found::Nothing,
            Face::Alias(target) => {
                let is_alias = [Kind::A, Kind::AAAA, Kind::CNAME].iter().any(|k| self.wants(*k));
                match is_alias {
                    true => Found::Alias(target.clone()),
                    // Other types are not there.
                    false => Found::Records,
                }
            }
            Face::Addresses { v4, v6, .. } => {
                if self.wants(Kind::A) {
                    self.in_turn(owner, v4);
                }
                if self.wants(Kind::AAAA) {
                    self.in_turn(owner, v6);
                }
                if self.query.kind == Kind::SRV {
                    self.srv(&names, Ports::All, owner);
                }
                Found::Records
            }
        }
    }

    /// Addresses, of which each answer has another one first.
    fn in_turn<A: Copy + Into<IpAddr>>(&mut self, owner: Owner, addresses: &[A]) {
        let start = self.turn % addresses.len().max(1);
        for address in addresses[start..].iter().chain(&addresses[..start]) {
            self.response.address(Section::Answer, owner, self.zone.ttl, (*address).into());
        }
    }

    /// `<host>.<service>.<namespace>.svc`.
    pub(super) fn endpoint(&mut self, service: &[u8], host: &[u8], owner: Owner) -> Found {
        let Some(names) = self.names(service) else { return Found::Nothing };
        let called = || names.endpoints.iter().flat_map(|group| group.called(host));
        if called().next().is_none() {
            return Found::Nothing;
        }
        match &*names.endpoints {
            [_] => self.addresses(owner, called()),
            // Several may have the same.
            _ => {
                let distinct: BTreeSet<IpAddr> = called().collect();
                self.addresses(owner, distinct.into_iter());
            }
        }
        Found::Records
    }

    /// `_<port>._<protocol>.<service>.<namespace>.svc`.
    pub(super) fn port(
        &mut self,
        service: &[u8],
        port: &[u8],
        protocol: Protocol,
        owner: Owner,
    ) -> Found {
        let Some(names) = self.names(service) else { return Found::Nothing };
        match self.srv(&names, Ports::Named(port, protocol), owner) {
            true => Found::Records,
            false => Found::Nothing,
        }
    }

    /// Writes where ports are served, or the addresses of who serves them. Answers whether there are any.
    fn srv(&mut self, names: &ServiceNames, ports: Ports<'_>, owner: Owner) -> bool {
        let targets = targets(names, ports);
        if targets.is_empty() {
            return false;
        }
        if !self.wants(Kind::SRV) {
            let addresses: BTreeSet<IpAddr> = targets.into_values().flatten().collect();
            self.addresses(owner, addresses.into_iter());
            return true;
        }
        let entries: usize = targets.values().map(BTreeSet::len).sum();
        let weight = u16::try_from(100 / entries.max(1)).unwrap_or(0).max(1);
        let (zone_at, ttl) = (self.zone_at, self.zone.ttl);
        let mut described: BTreeMap<Option<Host<'_>>, (Owner, &BTreeSet<IpAddr>)> = BTreeMap::new();
        for ((port, host), addresses) in &targets {
            let written = self.response.record(Section::Answer, owner, Kind::SRV, ttl, |data| {
                for number in [0, weight, *port] {
                    data.number(number);
                }
                match host {
                    None => {}
                    Some(Host::Named(name)) => data.label(name),
                    Some(Host::Address(address)) => data.label(&dashed(*address)),
                }
                data.bytes(&names.key);
                data.label(b"svc");
                data.end_of_question(zone_at);
            });
            // The target is behind three numbers.
            if let Some(target) = written.and_then(|at| Response::owner_at(at + 6)) {
                described.entry(*host).or_insert((target, addresses));
            }
        }
        self.response.additional(|response| {
            for (target, addresses) in described.into_values() {
                for address in addresses {
                    response.address(Section::Additional, target, ttl, *address);
                }
            }
        });
        true
    }
}

/// Where ports of a Service are served: at its own addresses, or by its endpoints, each of one host once. Several
/// addresses may have one name; those of both families do.
fn targets<'n>(names: &'n ServiceNames, wanted: Ports<'_>) -> Targets<'n> {
    let mut targets = Targets::new();
    match &names.face {
        Face::Addresses { ports: Some(ports), .. } => {
            let addresses = || names.own_addresses().collect();
            for port in ports.iter().filter(|port| wanted.has(port)) {
                targets.entry((port.number, None)).or_insert_with(addresses);
            }
        }
        Face::Addresses { ports: None, .. } => {
            for group in &names.endpoints {
                let named = group.named.iter().map(|(name, address)| (Host::Named(name), *address));
                let unnamed = group.unnamed.iter().map(|at| (Host::Address(*at), *at));
                let hosts = named.chain(unnamed);
                for port in group.ports.iter().filter(|port| wanted.has(port)) {
                    for (host, address) in hosts.clone() {
                        targets.entry((port.number, Some(host))).or_default().insert(address);
                    }
                }
            }
        }
        Face::Alias(_) | Face::Nothing => {}
    }
    targets
}
