//! Lenient reading of addresses and ranges.
//!
//! Objects stored by old API servers may hold addresses with leading zeros or white space. They are
//! read and made canonical before anything is programmed; what can't be read is skipped by the
//! caller, never fatal.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use ipnet::IpNet;

/// Reads an address; accepts surrounding white space and leading zeros in IPv4 octets (decimal).
/// An IPv4-mapped IPv6 address is read as the IPv4 address it maps.
pub fn parse_ip(text: &str) -> Option<IpAddr> {
    let text = text.trim();
    if text.contains(':') {
        let address: Ipv6Addr = text.parse().ok()?;
        return Some(address.to_ipv4_mapped().map_or(IpAddr::V6(address), IpAddr::V4));
    }
    let mut octets = [0u8; 4];
    let mut parts = text.split('.');
    for octet in &mut octets {
        let part = parts.next()?;
        if part.is_empty() || !part.bytes().all(|b| b.is_ascii_digit()) {
            return None;
        }
        let digits = part.trim_start_matches('0');
        *octet = if digits.is_empty() { 0 } else { digits.parse().ok()? };
    }
    parts.next().is_none().then(|| IpAddr::V4(Ipv4Addr::from(octets)))
}

/// Reads a range as `address/length`, as leniently as [`parse_ip`], with host bits cleared.
pub fn parse_net(text: &str) -> Option<IpNet> {
    let (address, length) = text.trim().split_once('/')?;
    if length.is_empty() || !length.bytes().all(|b| b.is_ascii_digit()) {
        return None;
    }
    let length: u32 = length.parse().ok()?;
    IpNet::new(parse_ip(address)?, u8::try_from(length).ok()?).ok().map(|net| net.trunc())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn leading_zeros_are_decimal() {
        assert_eq!(parse_ip("172.30.0.041"), Some("172.30.0.41".parse().unwrap()));
        assert_eq!(parse_ip(" 10.0.0.000 "), Some("10.0.0.0".parse().unwrap()));
        assert_eq!(parse_net("203.0.113.000/025"), Some("203.0.113.0/25".parse().unwrap()));
    }

    #[test]
    fn host_bits_are_cleared() {
        assert_eq!(parse_net("10.1.2.3/8"), Some("10.0.0.0/8".parse().unwrap()));
        assert_eq!(parse_net("fd00::1/64"), Some("fd00::/64".parse().unwrap()));
    }

    #[test]
    fn nonsense_is_refused() {
        for text in ["", "1.2.3", "1.2.3.4.5", "1.2.3.256", "a.b.c.d", "+1.2.3.4", "1..2.3", "::g"]
        {
            assert_eq!(parse_ip(text), None, "{text}");
        }
        for text in ["1.2.3.4", "1.2.3.4/33", "1.2.3.4/-1", "1.2.3.4/", "1.2.3.4/999999999999"] {
            assert_eq!(parse_net(text), None, "{text}");
        }
    }
}
