//! Which fields messages have: the numbers of Kubernetes' `generated.proto` files and the names that
//! they have in JSON.
//!
//! `fields.txt` has a message a line: its name, then `number:name:type` for each field. A type is a
//! letter (see [`Type::read`]) or the name of a message; `*` before it is a list, `%` a map from text.
//! `!` after it says that zero is not the same as nothing (a pointer in Go). The name `.` is that of
//! an embedded message.

use std::collections::HashMap;
use std::sync::OnceLock;

const TABLE: &str = include_str!("fields.txt");

/// A field of a message.
#[derive(Debug)]
pub(super) struct Field {
    pub(super) number: u64,
    pub(super) name: &'static str,
    pub(super) kind: Type,
    pub(super) is_list: bool,
    pub(super) is_map: bool,
    pub(super) keeps_zero: bool,
}

/// What a field holds.
#[derive(Debug, Clone, Copy)]
pub(super) enum Type {
    Text,
    Bytes,
    Integer,
    Bool,
    Double,
    Time,
    MicroTime,
    IntOrString,
    Quantity,
    Json,
    Message(&'static str),
}

impl Type {
    fn read(text: &'static str) -> Self {
        match text {
            "s" => Type::Text,
            "y" => Type::Bytes,
            "i" => Type::Integer,
            "b" => Type::Bool,
            "d" => Type::Double,
            "T" => Type::Time,
            "U" => Type::MicroTime,
            "X" => Type::IntOrString,
            "Q" => Type::Quantity,
            "R" | "F" => Type::Json,
            message => Type::Message(message),
        }
    }
}

/// The fields of a message.
pub(super) fn message(name: &str) -> Option<&'static [Field]> {
    static MESSAGES: OnceLock<HashMap<&str, Vec<Field>>> = OnceLock::new();
    let messages = MESSAGES.get_or_init(|| TABLE.lines().filter_map(read_message).collect());
    messages.get(name).map(Vec::as_slice)
}

fn read_message(line: &'static str) -> Option<(&'static str, Vec<Field>)> {
    let mut words = line.split(' ');
    let name = words.next()?;
    Some((name, words.filter_map(read_field).collect()))
}

fn read_field(word: &'static str) -> Option<Field> {
    let mut parts = word.splitn(3, ':');
    let (number, name, kind) = (parts.next()?.parse().ok()?, parts.next()?, parts.next()?);
    let bare = kind.trim_start_matches(['*', '%']).trim_end_matches('!');
    Some(Field {
        number,
        name,
        kind: Type::read(bare),
        is_list: kind.starts_with('*'),
        is_map: kind.starts_with('%'),
        keeps_zero: kind.ends_with('!'),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_table_is_complete() {
        let mut messages = 0;
        for line in TABLE.lines() {
            let words = line.split(' ').skip(1).filter(|word| !word.is_empty()).count();
            let (name, fields) = read_message(line).unwrap();
            assert_eq!(fields.len(), words, "{name}");
            for field in fields {
                if let Type::Message(inner) = field.kind {
                    assert!(message(inner).is_some(), "{name}.{} is a {inner}", field.name);
                }
            }
            messages += 1;
        }
        assert!(messages > 100);
    }

    #[test]
    fn every_kind_that_is_served_has_its_message() {
        for kind in crate::resource::kinds() {
            assert!(message(kind.kind).is_some(), "{}", kind.kind);
        }
    }
}
