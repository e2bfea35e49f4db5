//! Reading attributes: the type-length-value lists that netlink payloads are made of.

use std::ffi::CStr;

use super::align;

/// Bits of an attribute's type that are flags (nested, network byte order).
const TYPE_MASK: u16 = 0x3fff;

/// One attribute of a payload.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Attribute<'a> {
    /// Its type, without flags.
    pub kind: u16,
    /// Its value, without padding.
    pub value: &'a [u8],
}

/// Iterates over a list of attributes. It ends at the first that is not whole.
pub fn attributes(mut bytes: &[u8]) -> impl Iterator<Item = Attribute<'_>> {
    std::iter::from_fn(move || {
        let header = bytes.first_chunk::<4>()?;
        let length = usize::from(u16::from_ne_bytes([header[0], header[1]]));
        let kind = u16::from_ne_bytes([header[2], header[3]]) & TYPE_MASK;
        let value = bytes.get(4..length)?;
        bytes = bytes.get(align(length)..).unwrap_or_default();
        Some(Attribute { kind, value })
    })
}

impl<'a> Attribute<'a> {
    /// The attributes nested in this one.
    pub fn nested(self) -> impl Iterator<Item = Attribute<'a>> {
        attributes(self.value)
    }

    /// One byte.
    pub fn u8(self) -> Option<u8> {
        <[u8; 1]>::try_from(self.value).ok().map(u8::from_ne_bytes)
    }

    /// A big-endian number of 16 bits.
    pub fn be16(self) -> Option<u16> {
        self.value.try_into().ok().map(u16::from_be_bytes)
    }

    /// A big-endian number of 32 bits.
    pub fn be32(self) -> Option<u32> {
        self.value.try_into().ok().map(u32::from_be_bytes)
    }

    /// A big-endian number of 64 bits.
    pub fn be64(self) -> Option<u64> {
        self.value.try_into().ok().map(u64::from_be_bytes)
    }

    /// A number of 16 bits in the machine's byte order.
    pub fn u16(self) -> Option<u16> {
        self.value.try_into().ok().map(u16::from_ne_bytes)
    }

    /// A number of 32 bits in the machine's byte order.
    pub fn u32(self) -> Option<u32> {
        self.value.try_into().ok().map(u32::from_ne_bytes)
    }

    /// A string, with or without its terminating NUL.
    pub fn text(self) -> Option<&'a str> {
        match CStr::from_bytes_until_nul(self.value) {
            Ok(text) => text.to_str().ok(),
            Err(_) => std::str::from_utf8(self.value).ok(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn padding_is_skipped_and_flags_are_masked() {
        let bytes = [5u8, 0, 1, 0x80, 7, 0, 0, 0, 6, 0, 2, 0, 1, 2];
        let found: Vec<_> = attributes(&bytes).map(|a| (a.kind, a.value.to_vec())).collect();
        assert_eq!(found, [(1, vec![7]), (2, vec![1, 2])]);
    }

    #[test]
    fn a_cut_list_ends_at_the_last_whole_attribute() {
        let bytes = [8u8, 0, 1, 0, 1, 2, 3, 4, 9, 0, 2, 0, 1];
        assert_eq!(attributes(&bytes).count(), 1);
        assert_eq!(attributes(&[3, 0, 1, 0]).count(), 0);
        assert_eq!(attributes(&[0; 4]).count(), 0);
    }

    #[test]
    fn text_ends_at_its_nul() {
        assert_eq!(Attribute { kind: 1, value: b"lo\0" }.text(), Some("lo"));
        assert_eq!(Attribute { kind: 1, value: b"lo" }.text(), Some("lo"));
        assert_eq!(Attribute { kind: 1, value: &[0xff, 0] }.text(), None);
    }
}
