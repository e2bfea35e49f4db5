//! Names from a file as hosts(5), which come before those of the cluster.

use std::collections::HashMap;
use std::net::IpAddr;

use crate::answer::reverse_address;
use crate::wire::{Code, Kind, Name, Owner, Query, Response, Section, to_wire};

/// How long clients may keep these, in seconds: what CoreDNS takes.
pub const TTL: u32 = 3600;

/// Names with addresses.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Hosts {
    /// By their names in small letters.
    addresses: HashMap<Box<[u8]>, Vec<IpAddr>>,
    /// The names of each address, letters as they were written.
    names: HashMap<IpAddr, Vec<Box<[u8]>>>,
    /// How long clients may keep answers, in seconds.
    pub ttl: u32,
    /// Which names are asked of others if they are not here: those below these domains.
    pub falls_through: Vec<Name>,
}

impl Hosts {
    /// Adds the lines of a text: an address, and names. What is none is passed over, as libc does.
    pub fn add(&mut self, text: &str) {
        for line in text.lines() {
            let line = line.split('#').next().unwrap_or_default();
            let mut words = line.split_whitespace();
            let Some(address) = words.next().and_then(|word| word.parse::<IpAddr>().ok()) else {
                continue;
            };
            for wire in words.filter_map(|word| to_wire(word).ok()) {
                let key: Box<[u8]> = wire.to_ascii_lowercase().into();
                let addresses = self.addresses.entry(key).or_default();
                if !addresses.contains(&address) {
                    addresses.push(address);
                    self.names.entry(address).or_default().push(wire[..].into());
                }
            }
        }
    }

    /// Answers a question that this knows, or keeps from others.
    pub(crate) fn answer(&self, query: &Query<'_>, response: &mut Response<'_>) -> Option<Code> {
        let is_known = self.write(query, response);
        match is_known {
            true => {
                response.set_authoritative();
                Some(Code::NO_ERROR)
            }
            false if self.falls_through.iter().any(|zone| query.name.below(zone).is_some()) => None,
            false => Some(Code::NO_NAME),
        }
    }

    fn write(&self, query: &Query<'_>, response: &mut Response<'_>) -> bool {
        if let Some(names) = reverse_address(&query.name).and_then(|ip| self.names.get(&ip)) {
            for name in names.iter().filter(|_| matches!(query.kind, Kind::PTR | Kind::ANY)) {
                let write = |data: &mut crate::wire::Data<'_>| data.bytes(name);
                response.record(Section::Answer, Owner::QUESTION, Kind::PTR, self.ttl, write);
            }
            return true;
        }
        let Some(addresses) = self.addresses.get(query.name.bytes()) else { return false };
        for address in addresses {
            let kind = match address {
                IpAddr::V4(_) => Kind::A,
                IpAddr::V6(_) => Kind::AAAA,
            };
            if [kind, Kind::ANY].contains(&query.kind) {
                response.address(Section::Answer, Owner::QUESTION, self.ttl, *address);
            }
        }
        true
    }
}

#[cfg(test)]
mod tests {
    use hickory_proto::op::{Message, MessageType, OpCode, Query as Question};
    use hickory_proto::rr::{Name as HickoryName, RecordType};

    use super::*;
    use crate::wire::{LARGEST, Transport};

    fn ask(hosts: &Hosts, name: &str, kind: RecordType) -> Option<String> {
        let mut message = Message::new(7, MessageType::Query, OpCode::Query);
        message.add_query(Question::query(HickoryName::from_ascii(name).unwrap(), kind));
        let bytes = message.to_vec().unwrap();
        let query = Query::read(&bytes, Transport::Udp).unwrap();
        let mut buffer = [0; LARGEST];
        let mut response = Response::to(&query, &mut buffer);
        let code = hosts.answer(&query, &mut response)?;
        let length = response.finish(code);
        let message = Message::from_vec(&buffer[..length]).unwrap();
        let records = message.answers.iter().map(|r| format!(" {} {}", r.ttl, r.data));
        Some(format!("{}{}", message.metadata.response_code, records.collect::<String>()))
    }

    #[test]
    fn names_of_a_file_are_answered() {
        let mut hosts = Hosts { ttl: 60, ..Hosts::default() };
        hosts.add("# a file\n192.0.2.1 Build.example build # here\n2001:db8::1 build\nnonsense here\n192.0.2.2\n192.0.2.1 build\n");
        let ask = |name, kind| ask(&hosts, name, kind);
        assert_eq!(ask("BUILD.", RecordType::A).unwrap(), "No Error 60 192.0.2.1");
        assert_eq!(ask("build.", RecordType::AAAA).unwrap(), "No Error 60 2001:db8::1");
        assert_eq!(ask("build.example.", RecordType::AAAA).unwrap(), "No Error");
        assert_eq!(
            ask("1.2.0.192.in-addr.arpa.", RecordType::PTR).unwrap(),
            "No Error 60 Build.example. 60 build."
        );
        assert_eq!(ask("other.", RecordType::A).unwrap(), "Non-Existent Domain");
    }

    #[test]
    fn other_names_fall_through_where_that_is_said() {
        let mut hosts = Hosts { ttl: 60, ..Hosts::default() };
        hosts.add("192.0.2.1 build.example");
        hosts.falls_through.push(Name::parse("corp.example").unwrap());
        assert_eq!(ask(&hosts, "a.corp.example.", RecordType::A), None);
        assert!(ask(&hosts, "b.example.", RecordType::A).is_some());
        hosts.falls_through.push(Name::root());
        assert_eq!(ask(&hosts, "b.example.", RecordType::A), None);
    }
}
