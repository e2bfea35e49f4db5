//! What a name in the zone is about, from its labels alone.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use hickory_proto::rr::Name;
use model::{ObjectName, Protocol};

/// What a name is about. Whether that exists is another question.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Place {
    /// The zone itself.
    Apex,
    /// `dns-version`.
    Version,
    /// `ns.dns`.
    NameServer,
    /// `svc`, `pod` or `dns`: names are below it.
    Branch,
    /// `<namespace>.svc` or `<namespace>.pod`.
    Namespace(String),
    /// `<service>.<namespace>.svc`.
    Service(ObjectName),
    /// `<host>.<service>.<namespace>.svc`.
    Endpoint {
        /// The Service.
        service: ObjectName,
        /// Hostname of an endpoint, or its address with dashes.
        host: String,
    },
    /// `_<port>._<protocol>.<service>.<namespace>.svc`.
    Port {
        /// The Service.
        service: ObjectName,
        /// Name of the port.
        port: String,
        /// Protocol of the port.
        protocol: Protocol,
    },
    /// `<address>.<namespace>.pod`.
    PodAddress {
        /// Namespace.
        namespace: String,
        /// The address that the name spells.
        address: IpAddr,
    },
    /// Nothing that could ever exist.
    Nowhere,
}

impl Place {
    /// Reads `name`, which ends in a zone of `zone_labels` labels.
    pub(super) fn parse(name: &Name, zone_labels: usize) -> Self {
        let count = usize::from(name.num_labels()).saturating_sub(zone_labels);
        // Whatever is no text can't be one of our names.
        let label = |label: &[u8]| String::from_utf8_lossy(label).to_ascii_lowercase();
        let labels: Vec<String> = name.iter().take(count).map(label).collect();
        let labels: Vec<&str> = labels.iter().map(String::as_str).collect();
        match labels[..] {
            [] => Place::Apex,
            ["dns-version"] => Place::Version,
            ["ns", "dns"] => Place::NameServer,
            ["svc" | "pod" | "dns"] => Place::Branch,
            [namespace, "svc" | "pod"] => Place::Namespace(namespace.to_owned()),
            [address, namespace, "pod"] => match undashed(address) {
                Some(address) => Place::PodAddress { namespace: namespace.to_owned(), address },
                None => Place::Nowhere,
            },
            [service, namespace, "svc"] => Place::Service(ObjectName::new(namespace, service)),
            [host, service, namespace, "svc"] if !host.starts_with('_') => {
                let service = ObjectName::new(namespace, service);
                Place::Endpoint { service, host: host.to_owned() }
            }
            [port, protocol, service, namespace, "svc"] => {
                let service = ObjectName::new(namespace, service);
                match (port.strip_prefix('_'), protocol) {
                    (Some(port), "_tcp") => Place::port(service, port, Protocol::Tcp),
                    (Some(port), "_udp") => Place::port(service, port, Protocol::Udp),
                    (Some(port), "_sctp") => Place::port(service, port, Protocol::Sctp),
                    _ => Place::Nowhere,
                }
            }
            _ => Place::Nowhere,
        }
    }

    fn port(service: ObjectName, port: &str, protocol: Protocol) -> Self {
        Place::Port { service, port: port.to_owned(), protocol }
    }
}

/// An address with dashes for dots, or for colons.
pub(super) fn dashed(ip: IpAddr) -> String {
    match ip {
        IpAddr::V4(ip) => ip.to_string().replace('.', "-"),
        IpAddr::V6(ip) => {
            let mut text = ip.to_string().replace(':', "-");
            // A label can neither begin nor end with a dash.
            if text.starts_with('-') {
                text.insert(0, '0');
            }
            if text.ends_with('-') {
                text.push('0');
            }
            text
        }
    }
}

fn undashed(label: &str) -> Option<IpAddr> {
    let dashes = label.bytes().filter(|byte| *byte == b'-').count();
    if dashes == 3 && !label.contains("--") {
        return label.replace('-', ".").parse::<Ipv4Addr>().ok().map(IpAddr::V4);
    }
    label.replace('-', ":").parse::<Ipv6Addr>().ok().map(IpAddr::V6)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(text: &str) -> Place {
        Place::parse(&Name::from_ascii(format!("{text}cluster.local.")).unwrap(), 2)
    }

    #[test]
    fn labels_say_what_a_name_is_about() {
        let web = || ObjectName::new("team", "web");
        assert_eq!(parse(""), Place::Apex);
        assert_eq!(parse("svc."), Place::Branch);
        assert_eq!(parse("team.svc."), Place::Namespace("team".into()));
        assert_eq!(parse("WEB.Team.SVC."), Place::Service(web()));
        assert_eq!(
            parse("db-0.web.team.svc."),
            Place::Endpoint { service: web(), host: "db-0".into() }
        );
        assert_eq!(
            parse("_http._TCP.web.team.svc."),
            Place::Port { service: web(), port: "http".into(), protocol: Protocol::Tcp }
        );
        for nowhere in [
            "foo.",
            "_tcp.web.team.svc.",
            "a.b.c.web.team.svc.",
            "http._tcp.web.team.svc.",
            "_http._icmp.web.team.svc.",
            "web.team.pod.",
            "10-244-0.team.pod.",
        ] {
            assert_eq!(parse(nowhere), Place::Nowhere, "{nowhere}");
        }
    }

    #[test]
    fn addresses_are_spelled_with_dashes() {
        for (ip, text) in [
            ("10.244.1.9", "10-244-1-9"),
            ("2001:db8::1", "2001-db8--1"),
            ("2001:db8::", "2001-db8--0"),
            ("::1", "0--1"),
        ] {
            let ip: IpAddr = ip.parse().unwrap();
            assert_eq!(dashed(ip), text);
            assert_eq!(undashed(text), Some(ip));
        }
    }
}
