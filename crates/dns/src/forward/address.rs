//! Where servers are, and how they are asked.

use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::str::FromStr;

use super::tls::{Tls, TlsError, TlsOptions};

/// The port of DNS.
const PORT: u16 = 53;
/// The port of DNS by TLS (RFC 7858, 3.1).
const TLS_PORT: u16 = 853;

/// Where a server is, and whether it is asked by TLS.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Address {
    /// It is asked in clear text.
    Clear(SocketAddr),
    /// It is asked by TLS alone.
    Tls(SocketAddr),
}

/// A text that is no address of a server.
#[derive(Debug, thiserror::Error)]
pub enum BadAddress {
    /// There is no way to ask like this.
    #[error("{text}: others are asked by dns:// and tls://, and not by {scheme}://")]
    Scheme {
        /// All of it.
        text: String,
        /// The way.
        scheme: String,
    },
    /// It has no address.
    #[error(
        "{0} is no address: accepted are such as 192.0.2.1, 192.0.2.1:53, 2001:db8::1, [2001:db8::1]:53, tls://192.0.2.1 and tls://192.0.2.1:853"
    )]
    Address(String),
}

impl FromStr for Address {
    type Err = BadAddress;

    fn from_str(text: &str) -> Result<Self, BadAddress> {
        let (scheme, rest) = text.split_once("://").unwrap_or(("dns", text));
        let (kind, port): (fn(SocketAddr) -> Self, u16) = match scheme {
            "dns" => (Address::Clear, PORT),
            "tls" => (Address::Tls, TLS_PORT),
            _ => {
                return Err(BadAddress::Scheme {
                    text: text.to_owned(),
                    scheme: scheme.to_owned(),
                });
            }
        };
        let by_address = || rest.parse::<IpAddr>().map(|ip| SocketAddr::new(ip, port)).ok();
        let found = rest.parse().ok().or_else(by_address);
        found.map(kind).ok_or_else(|| BadAddress::Address(text.to_owned()))
    }
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Address::Clear(address) => write!(f, "{address}"),
            Address::Tls(address) => write!(f, "tls://{address}"),
        }
    }
}

/// A server that others run.
#[derive(Debug, Clone)]
pub enum NameServer {
    /// It is asked in clear text: in datagrams, and in a stream for what is longer.
    Clear(SocketAddr),
    /// It is asked by TLS alone.
    Tls(SocketAddr, Tls),
}

impl From<SocketAddr> for NameServer {
    fn from(address: SocketAddr) -> Self {
        NameServer::Clear(address)
    }
}

impl NameServer {
    /// The servers at these addresses. The files of the options are read if one of them is asked by TLS.
    ///
    /// # Errors
    /// One of the files can't be used.
    pub fn all(addresses: &[Address], options: &TlsOptions) -> Result<Vec<Self>, TlsError> {
        let mut read = None;
        let mut servers = Vec::new();
        for address in addresses {
            servers.push(match *address {
                Address::Clear(address) => NameServer::Clear(address),
                Address::Tls(address) => {
                    let tls = match read.take() {
                        Some(tls) => tls,
                        None => Tls::read(options)?,
                    };
                    NameServer::Tls(address, read.insert(tls).clone())
                }
            });
        }
        Ok(servers)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_have_the_port_of_how_they_are_asked() {
        for (text, expected) in [
            ("192.0.2.1", "192.0.2.1:53"),
            ("dns://192.0.2.1:54", "192.0.2.1:54"),
            ("2001:db8::1", "[2001:db8::1]:53"),
            ("tls://192.0.2.1", "tls://192.0.2.1:853"),
            ("tls://2001:db8::1", "tls://[2001:db8::1]:853"),
            ("tls://[2001:db8::1]:8853", "tls://[2001:db8::1]:8853"),
        ] {
            assert_eq!(text.parse::<Address>().unwrap().to_string(), expected, "{text}");
        }
        for text in ["", "tls://", "tls://dns.example", "https://192.0.2.1", "tls://192.0.2.1:"] {
            assert!(text.parse::<Address>().is_err(), "{text}");
        }
    }
}
