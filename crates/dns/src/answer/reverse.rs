//! From addresses back to names: `in-addr.arpa` and `ip6.arpa`.

use std::collections::BTreeSet;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use super::{Outcome, Zone};
use crate::directory::{Directory, Group, Holders, dashed};
use crate::wire::{Code, Data, HEADER, Kind, Name, Owner, Query, Response, Section};

/// Answers about addresses that the cluster has given out; all else is for others.
pub(super) fn answer(
    directory: &Directory,
    zone: &Zone,
    query: &Query<'_>,
    response: &mut Response<'_>,
) -> Outcome {
    let Some(address) = reverse_address(&query.name) else { return Outcome::Foreign };
    let is_wanted = matches!(query.kind, Kind::PTR | Kind::ANY);
    let mut is_known = false;
    let mut name = |key: &[u8], host: Option<&[u8]>| {
        is_known = true;
        if is_wanted {
            let write = |data: &mut Data<'_>| {
                if let Some(host) = host {
                    data.label(host);
                }
                data.bytes(key);
                data.label(b"svc");
                data.bytes(zone.domain.bytes());
            };
            response.record(Section::Answer, Owner::QUESTION, Kind::PTR, zone.ttl, write);
        }
    };
    match directory.holders(address) {
        Holders::Nobody => {}
        Holders::Service(key) => name(&key, None),
        Holders::Endpoints(keys) => {
            for key in keys {
                if let Some(names) = directory.service(&key, Clone::clone) {
                    each_host(&names.endpoints, address, |host| name(&key, Some(host)));
                }
            }
        }
    }
    if !is_known {
        return Outcome::Foreign;
    }
    response.set_authoritative();
    if !is_wanted {
        soa(directory, zone, query, response);
    }
    Outcome::Known(Code::NO_ERROR)
}

/// Says that nobody has an address, if that is known.
pub(crate) fn deny(
    directory: &Directory,
    zone: &Zone,
    query: &Query<'_>,
    response: &mut Response<'_>,
) -> Code {
    if !directory.is_synced() {
        return Code::SERVER_FAILURE;
    }
    response.set_authoritative();
    soa(directory, zone, query, response);
    Code::NO_NAME
}

/// That it is we who know addresses: all those that `in-addr.arpa` or `ip6.arpa` is for.
fn soa(directory: &Directory, zone: &Zone, query: &Query<'_>, response: &mut Response<'_>) {
    let count = query.name.labels() - 2;
    let Some(owner) = Response::owner_at(HEADER + query.name.offset(count)) else { return };
    let domain = |data: &mut Data<'_>| data.bytes(zone.domain.bytes());
    zone.soa(directory, response, Section::Authority, owner, domain);
}

/// The names of the endpoints at an address. One may be in several groups.
fn each_host(groups: &[Group], address: IpAddr, mut name: impl FnMut(&[u8])) {
    let named = groups.iter().flat_map(|group| &group.named).filter(|(_, at)| *at == address);
    let hosts: BTreeSet<&[u8]> = named.map(|(host, _)| &**host).collect();
    hosts.into_iter().for_each(&mut name);
    if groups.iter().any(|group| group.unnamed.binary_search(&address).is_ok()) {
        name(&dashed(address));
    }
}

/// Whether a name is about an address, whole or in part.
pub(crate) fn is_reverse(name: &Name) -> bool {
    let count = name.labels();
    count >= 2
        && name.label(count - 1) == b"arpa"
        && matches!(name.label(count - 2), b"in-addr" | b"ip6")
}

/// The address that a name spells completely (RFC 1035, 3.5; RFC 3596, 2.5).
pub(crate) fn reverse_address(name: &Name) -> Option<IpAddr> {
    if !is_reverse(name) {
        return None;
    }
    let count = name.labels() - 2;
    match (name.label(count), count) {
        (b"in-addr", 4) => {
            let mut octets = [0; 4];
            for (octet, at) in octets.iter_mut().rev().zip(0..) {
                *octet = octet_of(name.label(at))?;
            }
            Some(Ipv4Addr::from(octets).into())
        }
        (b"ip6", 32) => {
            let mut number = 0;
            for at in (0..32).rev() {
                let [digit] = name.label(at) else { return None };
                number = number << 4 | u128::from(char::from(*digit).to_digit(16)?);
            }
            Some(Ipv6Addr::from(number).into())
        }
        _ => None,
    }
}

/// A number of a byte, as it is written: without zeros before it.
fn octet_of(label: &[u8]) -> Option<u8> {
    let is_plain = label.iter().all(u8::is_ascii_digit) && (label.len() == 1 || label[0] != b'0');
    std::str::from_utf8(label).ok().filter(|_| is_plain)?.parse().ok()
}
