//! Structures of a compiled file, as its BTF tells them (Documentation/bpf/btf.rst).

use object::{Object, ObjectSection};

/// Kinds of types.
const ARRAY: u32 = 3;
const STRUCT: u32 = 4;
const UNION: u32 = 5;

/// The types of a file.
pub(super) struct Btf {
    types: Vec<u8>,
    strings: Vec<u8>,
}

/// A structure: its members with the bytes before each.
pub(super) struct Structure {
    pub(super) size: usize,
    pub(super) members: Vec<(String, usize)>,
}

impl Btf {
    pub(super) fn of(code: &[u8]) -> Self {
        let file = object::File::parse(code).unwrap();
        let btf = file.section_by_name(".BTF").unwrap().uncompressed_data().unwrap();
        let header = |at: usize| word(&btf, 4 + 4 * at);
        let (length, types, strings) = (header(0), (header(1), header(2)), (header(3), header(4)));
        let part = |(at, size): (usize, usize)| btf[length + at..length + at + size].to_vec();
        Self { types: part(types), strings: part(strings) }
    }

    /// A structure by its name.
    pub(super) fn structure(&self, name: &str) -> Structure {
        let mut at = 0;
        while at < self.types.len() {
            let info = u32::try_from(word(&self.types, at + 4)).unwrap();
            let (kind, count) = (info >> 24 & 0x1f, (info & 0xffff) as usize);
            let rest = at + 12;
            if kind == STRUCT && self.string(word(&self.types, at)) == name {
                let member = |index: usize| {
                    let at = rest + 12 * index;
                    // Of bits; none is in a bit field.
                    (self.string(word(&self.types, at)), word(&self.types, at + 8) / 8)
                };
                let members = (0..count).map(member).collect();
                return Structure { size: word(&self.types, at + 8), members };
            }
            at = rest + size_behind(kind, count);
        }
        panic!("there is no struct {name}");
    }

    fn string(&self, at: usize) -> String {
        let rest = &self.strings[at..];
        let end = rest.iter().position(|byte| *byte == 0).unwrap();
        String::from_utf8(rest[..end].to_vec()).unwrap()
    }
}

/// How many bytes follow what all types have in common.
fn size_behind(kind: u32, count: usize) -> usize {
    match kind {
        // Integers, variables, declaration tags.
        1 | 14 | 17 => 4,
        ARRAY => 12,
        STRUCT | UNION => 12 * count,
        // Enumerations, parameters of functions.
        6 | 13 => 8 * count,
        // Data sections, enumerations of 64 bits.
        15 | 19 => 12 * count,
        _ => 0,
    }
}

fn word(bytes: &[u8], at: usize) -> usize {
    u32::from_ne_bytes(bytes[at..at + 4].try_into().unwrap()) as usize
}
