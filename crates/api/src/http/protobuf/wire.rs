//! The encoding of protobuf messages: numbered fields, one after the other.

use super::Result;

/// The contents of a field.
#[derive(Debug, Clone, Copy)]
pub(super) enum Raw<'a> {
    Integer(u64),
    Fixed64(u64),
    Bytes(&'a [u8]),
}

impl<'a> Raw<'a> {
    pub(super) fn bytes(self) -> Result<&'a [u8]> {
        match self {
            Raw::Bytes(bytes) => Ok(bytes),
            _ => Err("a number where a text or message should be".to_owned()),
        }
    }

    pub(super) fn integer(self) -> Result<i64> {
        match self {
            // Two's complement of 64 bits, also for 32-bit numbers.
            Raw::Integer(value) => Ok(i64::from_ne_bytes(value.to_ne_bytes())),
            _ => Err("a text or message where a number should be".to_owned()),
        }
    }

    pub(super) fn fixed(self) -> Result<u64> {
        match self {
            Raw::Fixed64(bits) => Ok(bits),
            Raw::Integer(_) | Raw::Bytes(_) => {
                Err("a floating-point number should be here".to_owned())
            }
        }
    }
}

/// Iterates over the fields of a message.
#[derive(Debug)]
pub(super) struct Fields<'a>(pub(super) &'a [u8]);

impl<'a> Fields<'a> {
    fn take(&mut self, count: usize) -> Result<&'a [u8]> {
        let (taken, rest) = self.0.split_at_checked(count).ok_or("the message is cut")?;
        self.0 = rest;
        Ok(taken)
    }

    fn varint(&mut self) -> Result<u64> {
        let mut value = 0;
        for shift in (0..64).step_by(7) {
            let byte = self.take(1)?[0];
            value |= u64::from(byte & 0x7f) << shift;
            if byte & 0x80 == 0 {
                return Ok(value);
            }
        }
        Err("a number has more than 64 bits".to_owned())
    }

    fn field(&mut self) -> Result<(u64, Raw<'a>)> {
        let key = self.varint()?;
        let raw = match key & 7 {
            0 => Raw::Integer(self.varint()?),
            1 => Raw::Fixed64(u64::from_le_bytes(self.take(8)?.try_into().unwrap_or_default())),
            2 => {
                let length = usize::try_from(self.varint()?).map_err(|error| error.to_string())?;
                Raw::Bytes(self.take(length)?)
            }
            other => return Err(format!("wire type {other} is not used by Kubernetes")),
        };
        Ok((key >> 3, raw))
    }
}

impl<'a> Iterator for Fields<'a> {
    type Item = Result<(u64, Raw<'a>)>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.0.is_empty() {
            return None;
        }
        let field = self.field();
        if field.is_err() {
            // What follows can't be found.
            self.0 = &[];
        }
        Some(field)
    }
}
