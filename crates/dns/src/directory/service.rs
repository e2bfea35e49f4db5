//! What DNS knows of a Service: compiled from the World when that changes, so that answering only looks up.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::sync::Arc;

use model::object::{EndpointSlice, Service, ServiceType};
use model::{ObjectName, Protocol, World};

use super::dashed::{dashed, undashed};
use super::labels_of;
use crate::wire::to_wire;

/// The names of a Service and of what is behind it.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct ServiceNames {
    /// Its own and its namespace's label, as in a name.
    pub(crate) key: Arc<[u8]>,
    /// What it is.
    pub(crate) face: Face,
    /// Endpoints that are ready.
    pub(crate) endpoints: Box<[Group]>,
}

/// What the name of a Service stands for.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Face {
    /// Its own addresses, or those of its endpoints.
    Addresses {
        v4: Box<[Ipv4Addr]>,
        v6: Box<[Ipv6Addr]>,
        /// Its ports; `None` for a headless one, whose endpoints have theirs.
        ports: Option<Box<[Port]>>,
    },
    /// Another name.
    Alias(Box<[u8]>),
    /// Nothing: what it was given is no name, or it has no address yet.
    Nothing,
}

/// A port with a name of its own.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Port {
    pub(crate) name: Box<[u8]>,
    pub(crate) protocol: Protocol,
    pub(crate) number: u16,
}

/// Endpoints that serve the same ports.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Group {
    pub(crate) ports: Box<[Port]>,
    /// Those with a hostname, by that.
    pub(crate) named: Box<[(Box<[u8]>, IpAddr)]>,
    /// Those that are called by their address, which they are in order of.
    pub(crate) unnamed: Box<[IpAddr]>,
}

impl ServiceNames {
    /// What there is of a Service; `None` if it does not exist.
    pub(crate) fn of(world: &World, name: &ObjectName) -> Option<Self> {
        let service = world.service(name)?;
        let key = labels_of(&name.name, &name.namespace)?;
        let alias = service.service_type == ServiceType::ExternalName;
        let endpoints = if alias { [].into() } else { groups(world.slices(name)) };
        let face = match alias {
            true => alias_of(service),
            false => addresses_of(service, &endpoints),
        };
        Some(Self { key, face, endpoints })
    }

    /// The addresses that it has as its own.
    pub(crate) fn own_addresses(&self) -> impl Iterator<Item = IpAddr> {
        let (v4, v6) = match &self.face {
            Face::Addresses { v4, v6, ports: Some(_) } => (&v4[..], &v6[..]),
            _ => Default::default(),
        };
        let v4 = v4.iter().map(|address| IpAddr::V4(*address));
        v4.chain(v6.iter().map(|address| IpAddr::V6(*address)))
    }

    /// The addresses of ready endpoints.
    pub(crate) fn endpoint_addresses(&self) -> BTreeSet<IpAddr> {
        self.endpoints.iter().flat_map(Group::addresses).collect()
    }
}

impl Group {
    /// The addresses of its endpoints, of which one may come twice.
    pub(crate) fn addresses(&self) -> impl Iterator<Item = IpAddr> {
        self.named.iter().map(|(_, address)| *address).chain(self.unnamed.iter().copied())
    }

    /// The addresses of the endpoints with a name.
    pub(crate) fn called<'g>(&'g self, host: &[u8]) -> impl Iterator<Item = IpAddr> + use<'g> {
        let named = self.named.partition_point(|(name, _)| **name < *host);
        let named = &self.named[named..];
        let count = named.iter().take_while(|(name, _)| **name == *host).count();
        let unnamed = undashed(host).filter(|address| {
            // One may be spelled in more than one way.
            self.unnamed.binary_search(address).is_ok() && *dashed(*address) == *host
        });
        named[..count].iter().map(|(_, address)| *address).chain(unnamed)
    }
}

fn alias_of(service: &Service) -> Face {
    let target = service.external_name.as_deref().unwrap_or_default();
    // A name that is spelled like an address would be one that nobody has.
    if target.parse::<IpAddr>().is_ok() {
        return Face::Nothing;
    }
    match to_wire(target) {
        Ok(target) if target.len() > 1 => Face::Alias(target[..].into()),
        _ => Face::Nothing,
    }
}

fn addresses_of(service: &Service, endpoints: &[Group]) -> Face {
    let addresses: BTreeSet<IpAddr> = match service.headless {
        true => endpoints.iter().flat_map(Group::addresses).collect(),
        false => service.cluster_ips.iter().copied().collect(),
    };
    if addresses.is_empty() {
        return Face::Nothing;
    }
    let v4 = addresses.iter().filter_map(|address| match address {
        IpAddr::V4(address) => Some(*address),
        IpAddr::V6(_) => None,
    });
    let v6 = addresses.iter().filter_map(|address| match address {
        IpAddr::V6(address) => Some(*address),
        IpAddr::V4(_) => None,
    });
    let ports = service.ports.iter().map(|port| (&*port.name, port.protocol, port.port.get()));
    Face::Addresses {
        v4: v4.collect(),
        v6: v6.collect(),
        ports: (!service.headless).then(|| ports_of(ports)),
    }
}

fn ports_of<'p>(ports: impl Iterator<Item = (&'p str, Protocol, u16)>) -> Box<[Port]> {
    let ports: BTreeSet<Port> = ports
        .map(|(name, protocol, number)| Port {
            name: name.to_ascii_lowercase().into_bytes().into(),
            protocol,
            number,
        })
        .collect();
    ports.into_iter().collect()
}

/// The ready endpoints of slices, by what they serve.
fn groups<'s>(slices: impl Iterator<Item = &'s EndpointSlice>) -> Box<[Group]> {
    let mut groups: BTreeMap<Box<[Port]>, (BTreeSet<_>, BTreeSet<IpAddr>)> = BTreeMap::new();
    for slice in slices {
        let ports = slice.ports.iter().map(|port| (&*port.name, port.protocol, port.port.get()));
        let (named, unnamed) = groups.entry(ports_of(ports)).or_default();
        for endpoint in slice.endpoints.iter().filter(|endpoint| endpoint.conditions.ready) {
            match endpoint.hostname() {
                Some(name) => {
                    let name: Box<[u8]> = name.to_ascii_lowercase().into_bytes().into();
                    named.insert((name, endpoint.address));
                }
                None => _ = unnamed.insert(endpoint.address),
            }
        }
    }
    let is_there = |(_, (named, unnamed)): &(_, (BTreeSet<_>, BTreeSet<IpAddr>))| {
        !named.is_empty() || !unnamed.is_empty()
    };
    let group = |(ports, (named, unnamed)): (_, (BTreeSet<_>, BTreeSet<IpAddr>))| Group {
        ports,
        named: named.into_iter().collect(),
        unnamed: unnamed.into_iter().collect(),
    };
    groups.into_iter().filter(is_there).map(group).collect()
}
