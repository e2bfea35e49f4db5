//! What a name in the zone is about, from its labels alone.

use std::net::IpAddr;

use model::Protocol;

use crate::directory::undashed;
use crate::wire::Name;

/// What a name is about. Whether that exists is another question.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Place<'n> {
    /// The zone itself.
    Apex,
    /// `dns-version`.
    Version,
    /// `ns.dns`.
    NameServer,
    /// `svc`, `pod` or `dns`: names are below it.
    Branch,
    /// `<namespace>.svc`: the label of the namespace, with its length.
    Namespace(&'n [u8]),
    /// `<namespace>.pod`: the same.
    PodsOf(&'n [u8]),
    /// `<service>.<namespace>.svc`: both labels, with their lengths.
    Service(&'n [u8]),
    /// `<host>.<service>.<namespace>.svc`.
    Endpoint {
        /// The labels of Service and namespace, with their lengths.
        service: &'n [u8],
        /// Hostname of an endpoint, or its address with dashes.
        host: &'n [u8],
    },
    /// `_<port>._<protocol>.<service>.<namespace>.svc`.
    Port {
        /// The labels of Service and namespace, with their lengths.
        service: &'n [u8],
        /// Name of the port.
        port: &'n [u8],
        /// Protocol of the port.
        protocol: Protocol,
    },
    /// `<address>.<namespace>.pod`.
    PodAddress {
        /// The label of the namespace, with its length.
        namespace: &'n [u8],
        /// The address that the name spells.
        address: IpAddr,
    },
    /// Nothing that could ever exist.
    Nowhere,
}

impl<'n> Place<'n> {
    /// Reads a name with `count` labels before those of the zone.
    pub(super) fn of(name: &'n Name, count: usize) -> Self {
        let label = |at| name.label(at);
        match count {
            0 => Place::Apex,
            1 => match label(0) {
                b"dns-version" => Place::Version,
                b"svc" | b"pod" | b"dns" => Place::Branch,
                _ => Place::Nowhere,
            },
            2 => match (label(0), label(1)) {
                (b"ns", b"dns") => Place::NameServer,
                (_, b"svc") => Place::Namespace(name.part(0, 1)),
                (_, b"pod") => Place::PodsOf(name.part(0, 1)),
                _ => Place::Nowhere,
            },
            3 => match label(2) {
                b"svc" => Place::Service(name.part(0, 2)),
                b"pod" => match undashed(label(0)) {
                    Some(address) => Place::PodAddress { namespace: name.part(1, 2), address },
                    None => Place::Nowhere,
                },
                _ => Place::Nowhere,
            },
            4 if label(3) == b"svc" && !label(0).starts_with(b"_") => {
                Place::Endpoint { service: name.part(1, 3), host: label(0) }
            }
            5 if label(4) == b"svc" => {
                let protocol = match label(1) {
                    b"_tcp" => Protocol::Tcp,
                    b"_udp" => Protocol::Udp,
                    b"_sctp" => Protocol::Sctp,
                    _ => return Place::Nowhere,
                };
                match label(0).strip_prefix(b"_") {
                    Some(port) if !port.is_empty() => {
                        Place::Port { service: name.part(2, 4), port, protocol }
                    }
                    _ => Place::Nowhere,
                }
            }
            _ => Place::Nowhere,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn labels_say_what_a_name_is_about() {
        let of = |text: &str, expected: Place<'_>| {
            let name = Name::parse(&format!("{text}cluster.local.")).unwrap();
            assert_eq!(Place::of(&name, name.labels() - 2), expected, "{text}");
        };
        let web = b"\x03web\x04team";
        of("", Place::Apex);
        of("svc.", Place::Branch);
        of("team.svc.", Place::Namespace(b"\x04team"));
        of("team.pod.", Place::PodsOf(b"\x04team"));
        of("WEB.Team.SVC.", Place::Service(web));
        of("db-0.web.team.svc.", Place::Endpoint { service: web, host: b"db-0" });
        let port = Place::Port { service: web, port: b"http", protocol: Protocol::Tcp };
        of("_http._TCP.web.team.svc.", port);
        for nowhere in [
            "foo.",
            "_tcp.web.team.svc.",
            "a.b.c.web.team.svc.",
            "http._tcp.web.team.svc.",
            "_._tcp.web.team.svc.",
            "_http._icmp.web.team.svc.",
            "web.team.pod.",
            "10-244-0.team.pod.",
        ] {
            of(nowhere, Place::Nowhere);
        }
    }
}
