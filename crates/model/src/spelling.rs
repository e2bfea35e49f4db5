//! What names and labels of API objects may look like (RFC 1123, and Kubernetes' documentation of labels).

/// RFC 1123 label: lower case letters, digits and `-`, at most 63.
///
/// # Errors
/// What would be accepted.
pub fn dns_label(name: &str) -> Result<(), String> {
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
///
/// # Errors
/// What would be accepted.
pub fn dns_subdomain(name: &str) -> Result<(), String> {
    if name.len() > 253 {
        return Err("must be no more than 253 characters".into());
    }
    match name.split('.').all(|label| dns_label(label).is_ok()) {
        true => Ok(()),
        false => Err("a lowercase RFC 1123 subdomain must consist of lower case alphanumeric characters, '-' or '.', and must start and end with an alphanumeric character (e.g. 'example.com', regex used for validation is '[a-z0-9]([-a-z0-9]*[a-z0-9])?(\\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*')".into()),
    }
}

/// Key of a label: an optional prefix, a subdomain, before `/`, and a name.
///
/// # Errors
/// What would be accepted.
pub fn qualified_name(key: &str) -> Result<(), String> {
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
///
/// # Errors
/// What would be accepted.
pub fn label_value(value: &str) -> Result<(), String> {
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_and_labels() {
        type Rule = fn(&str) -> Result<(), String>;
        for (rule, good, bad) in [
            (dns_label as Rule, &["a", "1a", "a-b"][..], &["", "-a", "a-", "A", "a.b", "a_b"][..]),
            (dns_subdomain, &["a.b", "a"], &["", ".", "a..b", "a.", "A"]),
            (qualified_name, &["app", "example.com/App_1"], &["", "/a", "a/", "a/b/c", "-a"]),
            (label_value, &["", "a", "A.b_c-1"], &["-a", "a/b", "a b"]),
        ] {
            assert!(good.iter().all(|name| rule(name).is_ok()), "{good:?}");
            assert!(bad.iter().all(|name| rule(name).is_err()), "{bad:?}");
        }
    }
}
