//! Many requests at once: messages go to the kernel by the thousand in one datagram.
//!
//! A request by itself costs two system calls, and most of its time is those. The kernel carries the
//! messages of a datagram out one after the other, each for itself: one that is refused stops
//! neither those before it nor those behind. This is no transaction.

use std::io;

use super::message::{Verdict, flags};
use super::{Encoder, Socket};
use crate::{Error, Result};

/// Bytes of a datagram that make it go: a few thousand messages, so that the call that carries them
/// out is much dearer than making it, and the kernel's copy of them is small.
const DATAGRAM: usize = 256 << 10;

/// Requests on their way to the kernel, numbered from 0 in the order in which they are added.
#[derive(Debug)]
pub(crate) struct Pipeline<'s> {
    socket: &'s mut Socket,
    /// Names all of them, in the error that says that their outcome is not known.
    operation: &'s str,
    datagram: Encoder,
    /// Where the last message begins in the datagram.
    last: usize,
    /// Messages in the datagram.
    waiting: u32,
    /// Messages that have been sent before.
    sent: usize,
    refused: Vec<(usize, Verdict)>,
}

impl<'s> Pipeline<'s> {
    /// Nothing yet. `operation` names all of it.
    pub(crate) fn new(socket: &'s mut Socket, operation: &'s str) -> Self {
        Self {
            socket,
            operation,
            datagram: Encoder::new(),
            last: 0,
            waiting: 0,
            sent: 0,
            refused: Vec::new(),
        }
    }

    /// Adds a request; `body` writes its payload. `REQUEST` is added to `flags`. It is carried out
    /// in the end if not at once.
    ///
    /// # Errors
    /// What was sent has an unknown outcome, and no more must be added.
    pub(crate) fn push(
        &mut self,
        kind: u16,
        flags: u16,
        body: impl FnOnce(&mut Encoder),
    ) -> Result<()> {
        self.last = self.datagram.len();
        let sequence = self.socket.next_sequence().wrapping_add(self.waiting);
        self.datagram.message(kind, flags | flags::REQUEST, sequence, body);
        self.waiting += 1;
        if self.datagram.len() >= DATAGRAM { self.flush() } else { Ok(()) }
    }

    /// Has the rest carried out and answers the requests that were refused, by their numbers, in
    /// ascending order.
    ///
    /// # Errors
    /// What was sent has an unknown outcome.
    pub(crate) fn finish(mut self) -> Result<Vec<(usize, Verdict)>> {
        self.flush()?;
        Ok(self.refused)
    }

    fn flush(&mut self) -> Result<()> {
        if self.waiting == 0 {
            return Ok(());
        }
        // The kernel tells of refusals in any case; that it confirms the last request says that it
        // got there, and that no verdict is missing.
        self.datagram.add_flags(self.last, flags::ACK);
        let count = std::mem::take(&mut self.waiting);
        let first = self.socket.reserve(count);
        let position = |sequence: u32| sequence.wrapping_sub(first);
        let is_ours = |sequence| position(sequence) < count;
        let verdicts = self.socket.exchange(self.operation, self.datagram.bytes(), is_ours)?;
        let mut is_complete = false;
        for (sequence, verdict) in verdicts {
            is_complete |= position(sequence) == count - 1;
            if verdict.errno != 0 {
                self.refused.push((self.sent + position(sequence) as usize, verdict));
            }
        }
        self.datagram.clear();
        self.sent += count as usize;
        if !is_complete {
            let missing = io::Error::from(io::ErrorKind::UnexpectedEof);
            return Err(Error::os(self.operation, missing));
        }
        Ok(())
    }
}
