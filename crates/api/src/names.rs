//! What names may look like (RFC 6335, and what is in [`model::spelling`]), and making new ones.

use std::hash::{BuildHasher, Hasher, RandomState};

pub(crate) use model::spelling::{dns_label, dns_subdomain, label_value, qualified_name};

/// A rule for names: the error says what would be accepted.
pub(crate) type NameRule = fn(&str) -> Result<(), String>;

/// Anything that can stand in a path.
pub(crate) fn path_segment(name: &str) -> Result<(), String> {
    match name {
        "." | ".." => Err(format!("may not be '{name}'")),
        name if name.contains(['/', '%']) => Err("may not contain '/' or '%'".into()),
        _ => Ok(()),
    }
}

/// IANA service name (RFC 6335): what a port may be called.
pub(crate) fn port_name(name: &str) -> Result<(), String> {
    let valid = (1..=15).contains(&name.len())
        && name.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-')
        && name.bytes().any(|b| b.is_ascii_lowercase())
        && !name.contains("--")
        && !name.starts_with('-')
        && !name.ends_with('-');
    match valid {
        true => Ok(()),
        false => Err("must be an IANA service name: at most 15 lower case letters, digits and '-', with a letter, no '--', and no '-' at either end (e.g. 'http')".into()),
    }
}

/// A number that nobody can guess beforehand.
pub(crate) fn random() -> u64 {
    RandomState::new().build_hasher().finish()
}

/// A name of a base and five random characters, in at most 63.
pub(crate) fn generate(base: &str) -> String {
    /// No vowels and nothing that looks alike, so that no words come out.
    const ALPHABET: &[u8] = b"bcdfghjklmnpqrstvwxz2456789";
    let base: String = base.chars().take(58).collect();
    let mut number = random();
    let suffix = (0..5).map(|_| {
        let letter = ALPHABET[(number % ALPHABET.len() as u64) as usize];
        number /= ALPHABET.len() as u64;
        char::from(letter)
    });
    base + &suffix.collect::<String>()
}

/// A random UUID (RFC 9562, version 4).
pub(crate) fn uid() -> String {
    let (high, low) = (random(), random());
    let high = (high & !0xf000) | 0x4000;
    let low = (low & !(0b11 << 62)) | (0b10 << 62);
    format!(
        "{:08x}-{:04x}-{:04x}-{:04x}-{:012x}",
        high >> 32,
        (high >> 16) & 0xffff,
        high & 0xffff,
        low >> 48,
        low & 0xffff_ffff_ffff
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ports() {
        assert!(["http", "p1"].iter().all(|name| port_name(name).is_ok()));
        for bad in ["", "80", "a--b", "-a", "a-", "sixteen-letters-"] {
            assert!(port_name(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn made_names_fit_and_differ() {
        let name = generate(&"x".repeat(80));
        assert_eq!(name.len(), 63);
        assert_ne!(generate("a-"), generate("a-"));
        let uid = uid();
        assert_eq!((uid.len(), uid.as_bytes()[14]), (36, b'4'));
    }
}
