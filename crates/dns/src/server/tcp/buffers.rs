//! What has come in a stream, and what is to go: messages behind their lengths, of two bytes each (RFC 1035, 4.2.2).

use std::io;
use std::time::Instant;

/// Length of the length.
const PREFIX: usize = 2;
/// As much is read at once where no longer message has begun.
const USUAL: usize = 4096;
/// Buffers that have become larger than that are not kept.
const KEPT: usize = 16 << 10;

/// What has come. There is never more than one message and what was read with it.
#[derive(Debug, Default)]
pub(super) struct Incoming {
    bytes: Vec<u8>,
    /// Where the first message begins that was not taken.
    start: usize,
}

impl Incoming {
    /// Takes the next message, if all of it is there.
    pub(super) fn take(&mut self) -> Option<&[u8]> {
        let end = self.end().filter(|end| *end <= self.bytes.len())?;
        let start = std::mem::replace(&mut self.start, end);
        Some(&self.bytes[start + PREFIX..end])
    }

    /// Where to read to: behind what is there, with room for the rest of the message that has begun, and some more.
    pub(super) fn room(&mut self) -> &mut Vec<u8> {
        self.bytes.drain(..std::mem::take(&mut self.start));
        if self.bytes.is_empty() {
            self.bytes.shrink_to(KEPT);
        }
        let missing = self.end().map_or(0, |end| end.saturating_sub(self.bytes.len()));
        self.bytes.reserve(missing.max(USUAL));
        &mut self.bytes
    }

    /// Where the first message ends, as it says itself.
    fn end(&self) -> Option<usize> {
        let prefix = self.bytes.get(self.start..self.start + PREFIX)?;
        let length = u16::from_be_bytes([prefix[0], prefix[1]]);
        Some(self.start + PREFIX + usize::from(length))
    }
}

/// What is to go. What is being sent is not added to, so that it can be said how long that takes.
#[derive(Debug)]
pub(super) struct Outgoing {
    sending: Vec<u8>,
    /// How much of that has gone.
    sent: usize,
    /// Since when it is being sent.
    since: Instant,
    next: Vec<u8>,
}

impl Outgoing {
    pub(super) fn new(now: Instant) -> Self {
        Self { sending: Vec::new(), sent: 0, since: now, next: Vec::new() }
    }

    /// Adds a message behind all others.
    ///
    /// # Errors
    ///
    /// It is longer than a stream can say.
    pub(super) fn put(&mut self, message: &[u8]) -> io::Result<()> {
        let length = u16::try_from(message.len()).map_err(io::Error::other)?;
        self.next.extend(length.to_be_bytes());
        self.next.extend(message);
        Ok(())
    }

    /// Begins to send what has been added, if all before that has gone.
    pub(super) fn begin(&mut self, now: Instant) {
        if self.sent == self.sending.len() {
            self.sending.clear();
            self.sending.shrink_to(KEPT);
            (self.sent, self.since) = (0, now);
            std::mem::swap(&mut self.sending, &mut self.next);
        }
    }

    /// What is to be written now: whole messages, but for what has gone of the first one.
    pub(super) fn rest(&self) -> &[u8] {
        &self.sending[self.sent..]
    }

    /// So much of it has gone.
    pub(super) fn advance(&mut self, length: usize) {
        self.sent += length;
    }

    /// Since when that is to be written.
    pub(super) fn since(&self) -> Instant {
        self.since
    }

    /// How many bytes have still to go.
    pub(super) fn len(&self) -> usize {
        self.sending.len() - self.sent + self.next.len()
    }
}
