//! What resolv.conf(5) names: servers, and domains to search.

use std::net::{IpAddr, SocketAddr};

use crate::wire::Name;

/// The port of DNS, which all of them have.
pub const PORT: u16 = 53;

/// The name servers in the text of a resolv.conf, in order, but for our own, which would be asked
/// again and again. What can't be read is skipped, as libc does; a zone of a link-local address too.
pub fn name_servers(text: &str, own: &[SocketAddr]) -> Vec<SocketAddr> {
    let server = |line: &str| {
        let mut words = line.split_whitespace();
        let address = (words.next()? == "nameserver").then(|| words.next())??;
        Some(SocketAddr::new(address.parse::<IpAddr>().ok()?, PORT))
    };
    text.lines().filter_map(server).filter(|server| !own.contains(server)).collect()
}

/// The domains that names are looked for in, in order: those of the last line that names some, as libc has it. What is no
/// name is skipped.
pub fn search_domains(text: &str) -> Vec<Name> {
    let domains = |line: &str| {
        let mut words = line.split_whitespace();
        matches!(words.next()?, "search" | "domain")
            .then(|| words.filter_map(|word| Name::parse(word).ok()).collect())
    };
    text.lines().filter_map(domains).next_back().unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    const TEXT: &str = "# nameserver 1.1.1.1\nsearch a b\nnameserver 192.0.2.1\n nameserver  2001:db8::1 # x\nnameserver fe80::1%eth0\noptions ndots:5\n";

    fn found(own: &[SocketAddr]) -> Vec<String> {
        name_servers(TEXT, own).iter().map(ToString::to_string).collect()
    }

    #[test]
    fn servers_are_found_among_the_rest() {
        assert_eq!(found(&[]), ["192.0.2.1:53", "[2001:db8::1]:53"]);
        let domains: Vec<String> = search_domains(TEXT).iter().map(ToString::to_string).collect();
        assert_eq!(domains, ["a.", "b."]);
        assert_eq!(search_domains("domain x\nnameserver 192.0.2.1\n").len(), 1);
        assert_eq!(search_domains("").len(), 0);
    }

    #[test]
    fn our_own_are_not_asked() {
        let own = ["192.0.2.1:53", "[2001:db8::1]:5353"].map(|own| own.parse().unwrap());
        assert_eq!(found(&own), ["[2001:db8::1]:53"]);
    }
}
