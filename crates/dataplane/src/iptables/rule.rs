//! The text of rules, as iptables-save(8) prints them: what is written is what is read back, so that
//! the two are compared as they are.
//!
//! Knows the syntax of iptables(8), and nothing of what rules are for.

use std::fmt;
use std::ops::RangeInclusive;

use ipnet::IpNet;
use model::Protocol;

/// A rule without its chain: everything after `-A CHAIN `.
pub type Rule = Box<str>;

/// Name of a chain. The kernel takes 28 bytes.
pub type Chain = Box<str>;

/// What a packet has to be for a rule to apply. Written in the order in which it is printed.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Match {
    source: Option<IpNet>,
    destination: Option<IpNet>,
    interface: Option<Box<str>>,
    protocol: Option<Protocol>,
    modules: String,
}

impl Match {
    /// Every packet.
    pub fn all() -> Self {
        Self::default()
    }

    /// From this range.
    pub fn source(mut self, range: IpNet) -> Self {
        self.source = Some(range.trunc());
        self
    }

    /// To this range.
    pub fn destination(mut self, range: IpNet) -> Self {
        self.destination = Some(range.trunc());
        self
    }

    /// Arrived on this interface; a name that ends in `+` stands for all that begin so, and `! NAME`
    /// for all others.
    pub fn interface(mut self, name: &str) -> Self {
        self.interface = Some(name.into());
        self
    }

    /// Of this protocol.
    pub fn protocol(mut self, protocol: Protocol) -> Self {
        self.protocol = Some(protocol);
        self
    }

    /// To one of these ports.
    pub fn port(self, protocol: Protocol, ports: RangeInclusive<u16>) -> Self {
        self.ports(protocol, "--dport", ports)
    }

    /// From one of these ports.
    pub fn source_port(self, protocol: Protocol, ports: RangeInclusive<u16>) -> Self {
        self.ports(protocol, "--sport", ports)
    }

    fn ports(self, protocol: Protocol, option: &str, ports: RangeInclusive<u16>) -> Self {
        let (first, last) = ports.into_inner();
        let name = protocol_name(protocol);
        let test = match first == last {
            true => format!("{name} {option} {first}"),
            false => format!("{name} {option} {first}:{last}"),
        };
        self.protocol(protocol).module(&test)
    }

    /// As a match module of iptables-extensions(8) says: its name, and its options.
    pub fn module(mut self, text: &str) -> Self {
        self.modules.push_str(" -m ");
        self.modules.push_str(text);
        self
    }

    /// Goes through a chain, and on after it.
    pub fn jump(&self, chain: &str) -> Rule {
        self.target(chain)
    }

    /// Goes on in a chain, and from its end to whoever called this one.
    pub fn goto(&self, chain: &str) -> Rule {
        let separator = self.separator();
        format!("{self}{separator}-g {chain}").into()
    }

    /// Does what a target of iptables-extensions(8) does: its name, and its options.
    pub fn target(&self, text: &str) -> Rule {
        let separator = self.separator();
        format!("{self}{separator}-j {text}").into()
    }

    fn separator(&self) -> &'static str {
        if *self == Self::default() { "" } else { " " }
    }
}

impl fmt::Display for Match {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut parts: Vec<String> = Vec::new();
        parts.extend(self.source.map(|range| format!("-s {range}")));
        parts.extend(self.destination.map(|range| format!("-d {range}")));
        parts.extend(self.interface.as_deref().map(|name| match name.strip_prefix("! ") {
            Some(name) => format!("! -i {name}"),
            None => format!("-i {name}"),
        }));
        parts.extend(self.protocol.map(|protocol| format!("-p {}", protocol_name(protocol))));
        f.write_str(&parts.join(" "))?;
        match parts.is_empty() {
            true => f.write_str(self.modules.trim_start()),
            false => f.write_str(&self.modules),
        }
    }
}

/// What tells the rules of one key from those of another in a chain whose keys exclude each other:
/// destination, protocol and port.
pub fn key(rule: &str) -> &str {
    let rule = match rule.strip_prefix("-s ") {
        Some(rest) => rest.split_once(' ').map_or("", |(_, rest)| rest),
        None => rule,
    };
    let mut end = rule.len();
    for delimiter in [" -j ", " -g ", " -m addrtype", " -i "] {
        end = end.min(rule.find(delimiter).unwrap_or(end));
    }
    &rule[..end]
}

/// The chain that a rule leads to, or the target of iptables that it has.
pub fn leads_to(rule: &str) -> Option<&str> {
    let (_, target) = rule.rsplit_once("-j ").or_else(|| rule.rsplit_once("-g "))?;
    target.split(' ').next()
}

/// A protocol as iptables(8) names it.
pub fn protocol_name(protocol: Protocol) -> &'static str {
    match protocol {
        Protocol::Tcp => "tcp",
        Protocol::Udp => "udp",
        Protocol::Sctp => "sctp",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rules_are_written_as_they_are_printed() {
        let range = |text: &str| text.parse::<IpNet>().unwrap();
        let all = Match::all()
            .source(range("10.244.0.0/16"))
            .destination(range("10.96.0.1/32"))
            .port(Protocol::Tcp, 80..=80)
            .module("addrtype --src-type LOCAL");
        assert_eq!(
            &*all.goto("X"),
            "-s 10.244.0.0/16 -d 10.96.0.1/32 -p tcp -m tcp --dport 80 -m addrtype --src-type LOCAL -g X"
        );
        assert_eq!(&*Match::all().jump("X"), "-j X");
        assert_eq!(
            &*Match::all().module("mark --mark 0x1/0x1").jump("X"),
            "-m mark --mark 0x1/0x1 -j X"
        );
        let ports = Match::all().interface("! lo").source_port(Protocol::Udp, 0..=1023);
        assert_eq!(&*ports.target("DROP"), "! -i lo -p udp -m udp --sport 0:1023 -j DROP");
    }

    #[test]
    fn keys_leave_out_who_asks_and_what_is_done() {
        for (rule, expected) in [
            (
                "-d 10.96.0.1/32 -p tcp -m tcp --dport 80 -g X",
                "-d 10.96.0.1/32 -p tcp -m tcp --dport 80",
            ),
            (
                "-s 10.0.0.0/8 -d 10.96.0.1/32 -p tcp -m tcp --dport 80 -j X",
                "-d 10.96.0.1/32 -p tcp -m tcp --dport 80",
            ),
            ("-d 1.2.3.4/32 -i eth0 -p udp -m udp --dport 1 -j X", "-d 1.2.3.4/32"),
            (
                "-p tcp -m tcp --dport 30080 -m addrtype --src-type LOCAL -g X",
                "-p tcp -m tcp --dport 30080",
            ),
            ("-j X", "-j X"),
        ] {
            assert_eq!(key(rule), expected, "{rule}");
        }
    }
}
