//! A transaction on the wire: messages in one datagram, framed so that the kernel takes all or none.

use std::io;

use super::{header, message_type, uapi};
use crate::netlink::{Encoder, Socket, Verdict, flags};
use crate::{Error, Result};

/// What the kernel says of a transaction, apart from success.
#[derive(Debug)]
pub(super) enum Failure {
    /// Somebody has changed the packet filter since the generation that it was made for.
    Stale,
    /// Messages that were refused, by their number, the first being 0.
    Messages(Vec<(usize, Verdict)>),
    /// It was not sent, or its outcome is not known.
    Other(Error),
}

/// Name of what is done, in errors.
pub(super) const OPERATION: &str = "change the packet filter";

/// A transaction that is being written.
#[derive(Debug)]
pub(super) struct Transaction {
    datagram: Encoder,
    /// Sequence number of the message that begins it; the others follow it.
    first: u32,
    /// Messages between the first and the last.
    messages: u32,
    /// Where the last of them begins in the datagram.
    last: usize,
}

impl Transaction {
    /// Begins one whose first message has the sequence number `first`. With `generation`, it takes
    /// effect only if the packet filter of the namespace still has that generation.
    pub(super) fn begin(first: u32, generation: Option<u32>) -> Self {
        let mut datagram = Encoder::new();
        datagram.message(uapi::NFNL_MSG_BATCH_BEGIN, flags::REQUEST, first, |m| {
            m.raw(&header(0, uapi::NFNL_SUBSYS_NFTABLES));
            if let Some(generation) = generation {
                m.be32(uapi::NFNL_BATCH_GENID, generation);
            }
        });
        Self { datagram, first, messages: 0, last: 0 }
    }

    /// Appends a message; `body` writes its attributes, given a number unique in the transaction.
    pub(super) fn push(
        &mut self,
        kind: u8,
        flags: u16,
        family: u8,
        body: impl FnOnce(&mut Encoder, u32),
    ) {
        self.messages += 1;
        self.last = self.datagram.len();
        let number = self.messages;
        let sequence = self.first.wrapping_add(number);
        self.datagram.message(message_type(kind), flags | flags::REQUEST, sequence, |m| {
            m.raw(&header(family, 0));
            body(m, number);
        });
    }

    /// Whether it has no messages.
    pub(super) fn is_empty(&self) -> bool {
        self.messages == 0
    }

    /// Bytes written.
    pub(super) fn len(&self) -> usize {
        self.datagram.len()
    }

    /// Ends it. The kernel confirms the last message alone, and refusals in any case.
    fn end(&mut self) {
        if !self.is_empty() {
            self.datagram.add_flags(self.last, flags::ACK);
        }
        let end = self.first.wrapping_add(self.messages + 1);
        self.datagram.message(uapi::NFNL_MSG_BATCH_END, flags::REQUEST, end, |m| {
            m.raw(&header(0, uapi::NFNL_SUBSYS_NFTABLES));
        });
    }

    /// Its bytes once it has ended.
    #[cfg(test)]
    pub(super) fn into_bytes(mut self) -> Vec<u8> {
        self.end();
        self.datagram.into_bytes()
    }

    /// Has the kernel carry it out; `socket` must be at the sequence number it began with.
    pub(super) fn commit(mut self, socket: &mut Socket) -> Result<(), Failure> {
        self.end();
        socket.reserve(self.messages + 2);
        let position = |sequence: u32| sequence.wrapping_sub(self.first);
        let is_ours = |sequence| position(sequence) <= self.messages + 1;
        let verdicts =
            socket.exchange(OPERATION, self.datagram.bytes(), is_ours).map_err(Failure::Other)?;
        let mut refused = Vec::new();
        let mut is_confirmed = false;
        for (sequence, verdict) in verdicts {
            match position(sequence).checked_sub(1) {
                _ if verdict.errno == 0 => is_confirmed |= position(sequence) == self.messages,
                Some(message) => refused.push((message as usize, verdict)),
                None if verdict.errno == nix::libc::ERESTART => return Err(Failure::Stale),
                None => {
                    let error = verdict.into_result(OPERATION).expect_err("it carries an errno");
                    return Err(Failure::Other(error));
                }
            }
        }
        if !refused.is_empty() {
            return Err(Failure::Messages(refused));
        }
        if !is_confirmed {
            let missing = io::Error::from(io::ErrorKind::UnexpectedEof);
            return Err(Failure::Other(Error::os(OPERATION, missing)));
        }
        Ok(())
    }
}
