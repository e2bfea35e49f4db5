//! Writing messages and attributes into one growing buffer.

use super::align;

/// Flag of an attribute's type: its value is a list of attributes.
const NESTED: u16 = 0x8000;

/// Writes netlink messages one after the other, or the payload of one.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
pub struct Encoder {
    bytes: Vec<u8>,
}

impl Encoder {
    /// An empty buffer.
    pub fn new() -> Self {
        Self::default()
    }

    /// What has been written.
    pub fn bytes(&self) -> &[u8] {
        &self.bytes
    }

    /// What has been written, owned.
    pub fn into_bytes(self) -> Vec<u8> {
        self.bytes
    }

    /// Number of bytes written.
    pub fn len(&self) -> usize {
        self.bytes.len()
    }

    /// Whether nothing has been written.
    pub fn is_empty(&self) -> bool {
        self.bytes.is_empty()
    }

    /// Forgets what has been written and keeps the memory.
    pub fn clear(&mut self) {
        self.bytes.clear();
    }

    /// Adds flags to the message that begins at `start`.
    pub(crate) fn add_flags(&mut self, start: usize, flags: u16) {
        let held = u16::from_ne_bytes([self.bytes[start + 6], self.bytes[start + 7]]);
        self.bytes[start + 6..start + 8].copy_from_slice(&(held | flags).to_ne_bytes());
    }

    /// Writes a message; `body` writes its payload. The port is left to the kernel.
    pub fn message(&mut self, kind: u16, flags: u16, sequence: u32, body: impl FnOnce(&mut Self)) {
        let start = self.bytes.len();
        self.bytes.extend_from_slice(&[0; 4]);
        self.bytes.extend_from_slice(&kind.to_ne_bytes());
        self.bytes.extend_from_slice(&flags.to_ne_bytes());
        self.bytes.extend_from_slice(&sequence.to_ne_bytes());
        self.bytes.extend_from_slice(&[0; 4]);
        body(self);
        let length = u32::try_from(self.bytes.len() - start).expect("a message is below 4 GiB");
        self.bytes[start..start + 4].copy_from_slice(&length.to_ne_bytes());
    }

    /// Writes bytes as they are: the fixed header that precedes attributes.
    pub fn raw(&mut self, bytes: &[u8]) {
        self.bytes.extend_from_slice(bytes);
        self.pad();
    }

    /// Writes an attribute.
    ///
    /// # Panics
    /// If the value does not fit into an attribute, 64 KiB less its header.
    pub fn attribute(&mut self, kind: u16, value: &[u8]) {
        let length = u16::try_from(value.len() + 4).expect("an attribute is below 64 KiB");
        self.bytes.extend_from_slice(&length.to_ne_bytes());
        self.bytes.extend_from_slice(&kind.to_ne_bytes());
        self.bytes.extend_from_slice(value);
        self.pad();
    }

    /// Writes an attribute whose value is the attributes that `body` writes.
    ///
    /// # Panics
    /// If they do not fit into an attribute, 64 KiB less its header.
    pub fn nested(&mut self, kind: u16, body: impl FnOnce(&mut Self)) {
        let start = self.bytes.len();
        self.bytes.extend_from_slice(&[0; 2]);
        self.bytes.extend_from_slice(&(kind | NESTED).to_ne_bytes());
        body(self);
        let length = self.bytes.len() - start;
        let length = u16::try_from(length).expect("a nested attribute is below 64 KiB");
        self.bytes[start..start + 2].copy_from_slice(&length.to_ne_bytes());
    }

    /// Writes one byte.
    pub fn u8(&mut self, kind: u16, value: u8) {
        self.attribute(kind, &[value]);
    }

    /// Writes a big-endian number of 16 bits.
    pub fn be16(&mut self, kind: u16, value: u16) {
        self.attribute(kind, &value.to_be_bytes());
    }

    /// Writes a big-endian number of 32 bits.
    pub fn be32(&mut self, kind: u16, value: u32) {
        self.attribute(kind, &value.to_be_bytes());
    }

    /// Writes a big-endian number of 64 bits.
    pub fn be64(&mut self, kind: u16, value: u64) {
        self.attribute(kind, &value.to_be_bytes());
    }

    /// Writes a number of 16 bits in the machine's byte order.
    pub fn u16(&mut self, kind: u16, value: u16) {
        self.attribute(kind, &value.to_ne_bytes());
    }

    /// Writes a number of 32 bits in the machine's byte order.
    pub fn u32(&mut self, kind: u16, value: u32) {
        self.attribute(kind, &value.to_ne_bytes());
    }

    /// Writes a string with its terminating NUL.
    pub fn text(&mut self, kind: u16, value: &str) {
        let length = u16::try_from(value.len() + 5).expect("an attribute is below 64 KiB");
        self.bytes.extend_from_slice(&length.to_ne_bytes());
        self.bytes.extend_from_slice(&kind.to_ne_bytes());
        self.bytes.extend_from_slice(value.as_bytes());
        self.bytes.push(0);
        self.pad();
    }

    fn pad(&mut self) {
        self.bytes.resize(align(self.bytes.len()), 0);
    }
}

#[cfg(test)]
mod tests {
    use super::super::attributes;
    use super::*;

    #[test]
    fn attributes_are_padded_to_four_bytes() {
        let mut encoder = Encoder::new();
        encoder.text(1, "lo");
        encoder.be16(2, 0x0102);
        assert_eq!(encoder.bytes(), [7, 0, 1, 0, b'l', b'o', 0, 0, 6, 0, 2, 0, 1, 2, 0, 0]);
    }

    #[test]
    fn lengths_of_messages_and_nests_are_filled_in() {
        let mut encoder = Encoder::new();
        encoder.message(0x0a00, 0x0005, 9, |m| {
            m.raw(&[2, 0, 0, 0]);
            m.nested(3, |n| n.be32(1, 7));
        });
        let expected: &[&[u8]] = &[
            &32u32.to_ne_bytes(),
            &[0x00, 0x0a, 0x05, 0x00],
            &9u32.to_ne_bytes(),
            &[0; 4],
            &[2, 0, 0, 0],
            &[12, 0, 3, 0x80, 8, 0, 1, 0, 0, 0, 0, 7],
        ];
        assert_eq!(encoder.bytes(), expected.concat());
        let nest = attributes(&encoder.bytes()[20..]).next().unwrap();
        assert_eq!(nest.nested().next().unwrap().be32(), Some(7));
    }
}
