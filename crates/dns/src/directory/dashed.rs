//! Addresses as labels.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use arrayvec::ArrayString;

/// How long an address is in text, with what is added to it.
const LONGEST: usize = 48;

/// A label that spells an address.
pub(crate) type Dashed = ArrayString<LONGEST>;

/// An address with dashes for dots, or for colons.
pub(crate) fn dashed(address: IpAddr) -> impl std::ops::Deref<Target = [u8]> {
    use std::fmt::Write;
    struct Label(Dashed);
    impl std::ops::Deref for Label {
        type Target = [u8];

        fn deref(&self) -> &[u8] {
            self.0.as_bytes()
        }
    }
    let mut text = Dashed::new();
    write!(text, "{address}").expect("an address is short");
    let mut label = Dashed::new();
    // A label can neither begin nor end with a dash.
    if text.starts_with(':') {
        label.push('0');
    }
    for character in text.chars() {
        label.push(if matches!(character, '.' | ':') { '-' } else { character });
    }
    if label.ends_with('-') {
        label.push('0');
    }
    Label(label)
}

/// The address that a label spells.
pub(crate) fn undashed(label: &[u8]) -> Option<IpAddr> {
    let text = std::str::from_utf8(label).ok()?;
    let dashes = text.bytes().filter(|byte| *byte == b'-').count();
    let is_v4 = dashes == 3 && !text.contains("--");
    let mut spelled = Dashed::new();
    for character in text.chars() {
        let character = match (character, is_v4) {
            ('-', true) => '.',
            ('-', false) => ':',
            // What is separated so already is no label of ours.
            ('.' | ':', _) => return None,
            (other, _) => other,
        };
        spelled.try_push(character).ok()?;
    }
    match is_v4 {
        true => spelled.parse::<Ipv4Addr>().ok().map(IpAddr::V4),
        false => spelled.parse::<Ipv6Addr>().ok().map(IpAddr::V6),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_are_spelled_with_dashes() {
        for (ip, text) in [
            ("10.244.1.9", "10-244-1-9"),
            ("2001:db8::1", "2001-db8--1"),
            ("2001:db8::", "2001-db8--0"),
            ("::1", "0--1"),
        ] {
            let ip: IpAddr = ip.parse().unwrap();
            assert_eq!(*dashed(ip), *text.as_bytes());
            assert_eq!(undashed(text.as_bytes()), Some(ip));
        }
        for nothing in ["", "web", "10-244-0", "10-244-0-1-2", "10.244.0.1", "\u{e9}-1-2-3"] {
            assert_eq!(undashed(nothing.as_bytes()), None, "{nothing}");
        }
    }
}
