//! Received messages, and the kernel's verdict on a request.

use std::io;

use nix::libc;

use super::{align, attributes};

/// Length of a message's header.
const HEADER: usize = 16;
/// Attribute of an extended acknowledgement: the kernel's explanation.
const NLMSGERR_ATTR_MSG: u16 = 1;

/// Flags of requests. Values from `linux/netlink.h`.
pub mod flags {
    use nix::libc;

    /// Every request carries it.
    pub const REQUEST: u16 = libc::NLM_F_REQUEST as u16;
    /// Answer with a verdict even on success.
    pub const ACK: u16 = libc::NLM_F_ACK as u16;
    /// Answer with everything there is.
    pub const DUMP: u16 = libc::NLM_F_DUMP as u16;
    /// Create what does not exist.
    pub const CREATE: u16 = libc::NLM_F_CREATE as u16;
    /// Fail if it exists.
    pub const EXCLUSIVE: u16 = libc::NLM_F_EXCL as u16;
    /// Replace what exists.
    pub const REPLACE: u16 = libc::NLM_F_REPLACE as u16;
    /// Add at the end of a list.
    pub const APPEND: u16 = libc::NLM_F_APPEND as u16;
    /// Send the notification about the change to the requester too.
    pub const ECHO: u16 = libc::NLM_F_ECHO as u16;
}

/// A message from the kernel.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Message {
    /// Message type of its protocol.
    pub kind: u16,
    /// Flags.
    pub flags: u16,
    /// Sequence number of the request that it answers, or that caused it.
    pub sequence: u32,
    /// Port of the socket whose request it answers or was caused by; 0 if by none.
    pub port: u32,
    /// What follows the header.
    pub payload: Vec<u8>,
}

impl Message {
    /// Splits a datagram; what is not a whole message at its end is dropped.
    pub(crate) fn split(mut bytes: &[u8]) -> impl Iterator<Item = Message> {
        let u32_at = |header: &[u8; HEADER], at: usize| {
            u32::from_ne_bytes([header[at], header[at + 1], header[at + 2], header[at + 3]])
        };
        std::iter::from_fn(move || {
            let header = bytes.first_chunk::<HEADER>()?;
            let length = usize::try_from(u32_at(header, 0)).ok()?;
            let message = Message {
                kind: u16::from_ne_bytes([header[4], header[5]]),
                flags: u16::from_ne_bytes([header[6], header[7]]),
                sequence: u32_at(header, 8),
                port: u32_at(header, 12),
                payload: bytes.get(HEADER..length)?.to_vec(),
            };
            bytes = bytes.get(align(length)..).unwrap_or_default();
            Some(message)
        })
    }

    /// Whether the list this message is part of changed while it was read.
    pub(super) fn is_interrupted(&self) -> bool {
        self.flags & libc::NLM_F_DUMP_INTR as u16 != 0
    }

    /// The verdict, if this message is one: `NLMSG_ERROR` (which also says success) or `NLMSG_DONE`.
    pub(super) fn verdict(&self) -> Option<Verdict> {
        let is_error = self.kind == libc::NLMSG_ERROR as u16;
        if !is_error && self.kind != libc::NLMSG_DONE as u16 {
            return None;
        }
        let code = self.payload.first_chunk::<4>().map_or(0, |code| i32::from_ne_bytes(*code));
        let has_attributes = self.flags & libc::NLM_F_ACK_TLVS as u16 != 0;
        let explanation = has_attributes.then(|| {
            // The request follows the code, its header alone if the kernel was asked to cap it.
            let request = self.payload.get(4..).unwrap_or_default();
            let is_capped = self.flags & libc::NLM_F_CAPPED as u16 != 0;
            let request_length = match request.first_chunk::<4>() {
                _ if !is_error => 0,
                Some(length) if !is_capped => u32::from_ne_bytes(*length) as usize,
                _ => HEADER,
            };
            attributes(request.get(align(request_length)..).unwrap_or_default())
                .find(|a| a.kind == NLMSGERR_ATTR_MSG)
                .and_then(|a| a.text())
                .unwrap_or_default()
                .to_owned()
        });
        Some(Verdict { errno: -code, explanation: explanation.unwrap_or_default() })
    }
}

/// The kernel's answer to a request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Verdict {
    /// 0 is success.
    pub(crate) errno: i32,
    /// Its explanation, empty if it gave none.
    pub(crate) explanation: String,
}

impl Verdict {
    /// The verdict as a result, naming what was attempted.
    pub(crate) fn into_result(self, operation: &str) -> crate::Result<()> {
        if self.errno == 0 {
            return Ok(());
        }
        let operation = match self.explanation.as_str() {
            "" => operation.to_owned(),
            explanation => format!("{operation} ({explanation})"),
        };
        Err(crate::Error::os(operation, io::Error::from_raw_os_error(self.errno)))
    }
}

#[cfg(test)]
mod tests {
    use super::super::Encoder;
    use super::*;

    fn error(flags: i32, body: impl FnOnce(&mut Encoder)) -> Message {
        let mut encoder = Encoder::new();
        encoder.message(libc::NLMSG_ERROR as u16, flags as u16, 1, body);
        Message::split(encoder.bytes()).next().unwrap()
    }

    #[test]
    fn extended_acknowledgement_follows_the_request_that_it_quotes() {
        let refused = error(libc::NLM_F_ACK_TLVS, |m| {
            m.raw(&(-libc::ENOENT).to_ne_bytes());
            m.message(1, 0, 1, |quoted| quoted.raw(&[1, 2, 3, 4]));
            m.text(NLMSGERR_ATTR_MSG, "no such table");
        });
        let verdict = refused.verdict().unwrap();
        assert_eq!(verdict.errno, libc::ENOENT);
        let error = verdict.into_result("list table x").unwrap_err();
        assert_eq!(error.errno(), Some(libc::ENOENT));
        assert!(error.to_string().starts_with("list table x (no such table): "), "{error}");
    }

    #[test]
    fn a_capped_acknowledgement_quotes_the_header_alone() {
        let refused = error(libc::NLM_F_ACK_TLVS | libc::NLM_F_CAPPED, |m| {
            m.raw(&(-libc::EBUSY).to_ne_bytes());
            m.raw(&[100, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0]);
            m.text(NLMSGERR_ATTR_MSG, "in use");
        });
        let verdict = refused.verdict().unwrap();
        assert_eq!(verdict, Verdict { errno: libc::EBUSY, explanation: "in use".to_owned() });
    }

    #[test]
    fn zero_is_success_and_data_is_no_verdict() {
        let accepted = error(0, |m| m.raw(&[0; 20]));
        assert!(accepted.verdict().unwrap().into_result("x").is_ok());
        let data = Message { kind: 20, ..accepted };
        assert_eq!(data.verdict(), None);
    }

    #[test]
    fn a_cut_datagram_ends_at_the_last_whole_message() {
        let mut encoder = Encoder::new();
        encoder.message(20, 0, 1, |m| m.raw(&[1, 2, 3, 4]));
        encoder.message(20, 0, 2, |m| m.raw(&[5, 6, 7, 8]));
        let bytes = encoder.bytes();
        assert_eq!(Message::split(bytes).count(), 2);
        assert_eq!(Message::split(&bytes[..bytes.len() - 1]).count(), 1);
    }
}
