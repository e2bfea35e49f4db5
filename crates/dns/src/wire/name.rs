//! Names: labels with their lengths before them, the last one empty.

use std::fmt::{self, Write};
use std::hash::{Hash, Hasher};

use arrayvec::ArrayVec;

/// How long a name may be (RFC 1035, 2.3.4).
const LONGEST: usize = 255;
/// How long a label may be.
const LONGEST_LABEL: usize = 63;
/// How many labels fit into a name.
const MOST_LABELS: usize = 127;
/// Both bits of a length that is a pointer.
const POINTER: u8 = 0xc0;
/// How often a name may point elsewhere: no honest one does it as often.
const MOST_POINTERS: usize = 32;

/// A name's bytes, with its letters as they were written.
pub type Wire = ArrayVec<u8, LONGEST>;

/// A name to compare: its letters are small ones (RFC 4343), and it is known where its labels begin.
#[derive(Clone)]
pub struct Name {
    bytes: [u8; LONGEST],
    length: u8,
    starts: [u8; MOST_LABELS],
    count: u8,
}

/// A text that is no name.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum BadName {
    /// Two dots, or one at the beginning.
    #[error("a label is empty")]
    EmptyLabel,
    /// A label is too long.
    #[error("a label has more than 63 characters")]
    LongLabel,
    /// It is too long.
    #[error("it has more than 253 characters")]
    Long,
}

impl Name {
    /// The root.
    pub fn root() -> Self {
        let mut name = Self { bytes: [0; LONGEST], length: 0, starts: [0; MOST_LABELS], count: 0 };
        name.length = 1;
        name
    }

    /// Reads the name at a place of a message where it has to be whole, as in a question. Answers where it ends too.
    pub fn read(message: &[u8], at: usize) -> Option<(Self, usize)> {
        let mut name = Self::root();
        let mut length = 0;
        loop {
            let label = usize::from(*message.get(at + length)?);
            if label == 0 {
                break;
            }
            let next = length + 1 + label;
            // The empty label has to fit as well.
            if label > LONGEST_LABEL || next >= LONGEST {
                return None;
            }
            name.starts[usize::from(name.count)] = length as u8;
            name.count += 1;
            length = next;
        }
        length += 1;
        let read = message.get(at..at + length)?;
        for (to, from) in name.bytes.iter_mut().zip(read) {
            // Lengths are no letters: they are smaller than any.
            *to = from.to_ascii_lowercase();
        }
        name.length = length as u8;
        Some((name, at + length))
    }

    /// A name from its text, with or without a dot at its end.
    ///
    /// # Errors
    /// It is no name. Nothing is escaped: names of the API need not be.
    pub fn parse(text: &str) -> Result<Self, BadName> {
        let bytes = to_wire(text)?;
        Ok(Self::read(&bytes, 0).expect("it was written as one").0)
    }

    /// Its bytes, the empty label included.
    pub fn bytes(&self) -> &[u8] {
        &self.bytes[..usize::from(self.length)]
    }

    /// How many labels it has, but for the empty one.
    pub fn labels(&self) -> usize {
        usize::from(self.count)
    }

    /// A label, the first one being 0.
    pub fn label(&self, at: usize) -> &[u8] {
        let start = usize::from(self.starts[at]);
        let length = usize::from(self.bytes[start]);
        &self.bytes[start + 1..start + 1 + length]
    }

    /// The bytes of some labels, with their lengths.
    pub fn part(&self, from: usize, to: usize) -> &[u8] {
        &self.bytes[self.offset(from)..self.offset(to)]
    }

    /// Where a label begins; of one after the last one, the empty one.
    pub fn offset(&self, label: usize) -> usize {
        match label < self.labels() {
            true => usize::from(self.starts[label]),
            false => usize::from(self.length) - 1,
        }
    }

    /// How many labels are before those of `other`, if it ends as that.
    pub fn below(&self, other: &Name) -> Option<usize> {
        let before = self.labels().checked_sub(other.labels())?;
        (self.bytes()[self.offset(before)..] == *other.bytes()).then_some(before)
    }
}

impl PartialEq for Name {
    fn eq(&self, other: &Self) -> bool {
        self.bytes() == other.bytes()
    }
}

impl Eq for Name {}

impl Hash for Name {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.bytes().hash(state);
    }
}

impl fmt::Display for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        show(self.bytes(), f)
    }
}

impl fmt::Debug for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// The bytes of a name's text, its letters as they are.
pub(crate) fn to_wire(text: &str) -> Result<Wire, BadName> {
    let mut bytes = Wire::new();
    let text = text.strip_suffix('.').unwrap_or(text);
    for label in text.split('.').filter(|_| !text.is_empty()) {
        if label.is_empty() {
            return Err(BadName::EmptyLabel);
        }
        if label.len() > LONGEST_LABEL {
            return Err(BadName::LongLabel);
        }
        bytes.try_push(label.len() as u8).map_err(|_| BadName::Long)?;
        bytes.try_extend_from_slice(label.as_bytes()).map_err(|_| BadName::Long)?;
    }
    bytes.try_push(0).map_err(|_| BadName::Long)?;
    Ok(bytes)
}

/// Reads the name at a place of a message, which may go on elsewhere (RFC 1035, 4.1.4). Answers where it ends too.
pub(crate) fn expand(message: &[u8], at: usize) -> Option<(Wire, usize)> {
    let mut name = Wire::new();
    let (mut at, mut end, mut pointers) = (at, None, 0);
    loop {
        let length = *message.get(at)?;
        if length & POINTER == POINTER {
            let low = *message.get(at + 1)?;
            end = end.or(Some(at + 2));
            at = usize::from(length & !POINTER) << 8 | usize::from(low);
            pointers += 1;
            if pointers > MOST_POINTERS {
                return None;
            }
            continue;
        }
        if usize::from(length) > LONGEST_LABEL {
            return None;
        }
        let next = at + 1 + usize::from(length);
        name.try_extend_from_slice(message.get(at..next)?).ok()?;
        at = next;
        if length == 0 {
            return Some((name, end.unwrap_or(at)));
        }
    }
}

/// Where the name at a place of a message ends.
pub(crate) fn skip(message: &[u8], mut at: usize) -> Option<usize> {
    loop {
        match *message.get(at)? {
            0 => return Some(at + 1),
            length if length & POINTER == POINTER => {
                return (at + 2 <= message.len()).then_some(at + 2);
            }
            length if usize::from(length) > LONGEST_LABEL => return None,
            length => at += 1 + usize::from(length),
        }
    }
}

/// A name's text (RFC 1035, 5.1).
pub(crate) fn show(bytes: &[u8], f: &mut impl Write) -> fmt::Result {
    if bytes.first() == Some(&0) {
        return f.write_char('.');
    }
    let mut rest = bytes;
    while let Some((&length, after)) = rest.split_first().filter(|(length, _)| **length > 0) {
        let (label, after) = after.split_at(usize::from(length).min(after.len()));
        for &byte in label {
            match byte {
                b'.' | b'\\' => write!(f, "\\{}", char::from(byte))?,
                b'!'..=b'~' => f.write_char(char::from(byte))?,
                other => write!(f, "\\{other:03}")?,
            }
        }
        f.write_char('.')?;
        rest = after;
    }
    Ok(())
}
