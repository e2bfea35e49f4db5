//! What names may look like (RFC 1035, RFC 1123, RFC 6335), and making new ones.

use std::hash::{BuildHasher, Hasher, RandomState};

/// A rule for names: the error says what would be accepted.
pub(crate) type NameRule = fn(&str) -> Result<(), String>;

/// RFC 1123 label: lower case letters, digits and `-`, at most 63.
pub(crate) fn dns_label(name: &str) -> Result<(), String> {
    let edge = |b: &u8| b.is_ascii_lowercase() || b.is_ascii_digit();
    let bytes = name.as_bytes();
    if bytes.len() > 63 {
        return Err("must be no more than 63 characters".into());
    }
    let valid = bytes.first().is_some_and(edge)
        && bytes.last().is_some_and(edge)
        && bytes.iter().all(|b| edge(b) || *b == b'-');
    match valid {
        true => Ok(()),
        false => Err("a lowercase RFC 1123 label must consist of lower case alphanumeric characters or '-', and must start and end with an alphanumeric character (e.g. 'my-name', or '123-abc', regex used for validation is '[a-z0-9]([-a-z0-9]*[a-z0-9])?')".into()),
    }
}

/// RFC 1123 subdomain: labels joined by dots, at most 253.
pub(crate) fn dns_subdomain(name: &str) -> Result<(), String> {
    if name.len() > 253 {
        return Err("must be no more than 253 characters".into());
    }
    match name.split('.').all(|label| dns_label(label).is_ok()) {
        true => Ok(()),
        false => Err("a lowercase RFC 1123 subdomain must consist of lower case alphanumeric characters, '-' or '.', and must start and end with an alphanumeric character (e.g. 'example.com', regex used for validation is '[a-z0-9]([-a-z0-9]*[a-z0-9])?(\\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*')".into()),
    }
}

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

/// Key of a label: an optional prefix, a subdomain, before `/`, and a name.
pub(crate) fn qualified_name(key: &str) -> Result<(), String> {
    let name = match key.split_once('/') {
        Some((prefix, name)) => {
            dns_subdomain(prefix).map_err(|detail| format!("prefix part {detail}"))?;
            name
        }
        None => key,
    };
    match !name.is_empty() && label_value(name).is_ok() {
        true => Ok(()),
        false => Err("name part must consist of alphanumeric characters, '-', '_' or '.', and must start and end with an alphanumeric character, at most 63 (e.g. 'MyName', or 'my.name', or '123-abc')".into()),
    }
}

/// Value of a label: may be empty.
pub(crate) fn label_value(value: &str) -> Result<(), String> {
    let bytes = value.as_bytes();
    let edge = u8::is_ascii_alphanumeric;
    let valid = bytes.is_empty()
        || (bytes.len() <= 63
            && bytes.first().is_some_and(edge)
            && bytes.last().is_some_and(edge)
            && bytes.iter().all(|b| edge(b) || matches!(b, b'-' | b'_' | b'.')));
    match valid {
        true => Ok(()),
        false => Err("a valid label must be an empty string or consist of alphanumeric characters, '-', '_' or '.', and must start and end with an alphanumeric character, at most 63 (e.g. 'MyValue', or 'my_value', or '12345')".into()),
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
    fn names() {
        for (rule, good, bad) in [
            (
                dns_label as NameRule,
                &["a", "1a", "a-b"][..],
                &["", "-a", "a-", "A", "a.b", "a_b"][..],
            ),
            (dns_subdomain, &["a.b", "a"], &["", ".", "a..b", "a.", "A"]),
            (port_name, &["http", "p1"], &["", "80", "a--b", "-a", "a-", "sixteen-letters-"]),
            (qualified_name, &["app", "example.com/App_1"], &["", "/a", "a/", "a/b/c", "-a"]),
        ] {
            assert!(good.iter().all(|name| rule(name).is_ok()), "{good:?}");
            assert!(bad.iter().all(|name| rule(name).is_err()), "{bad:?}");
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
