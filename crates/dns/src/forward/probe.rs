//! Whether what is asked of a server comes back here: asked again and again, it would never be answered.
//!
//! Each server is asked once for a name that nobody else has ever heard of. Who is asked for it here has a way back to
//! himself.

use std::hash::{BuildHasher, Hasher, RandomState};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use crate::wire::{Name, to_wire};

/// Below this nobody has names (RFC 6761, 6.4).
const DOMAIN: &[u8] = b"invalid";
/// How long to wait before a server that did not answer is asked once more.
pub(super) const PAUSE: Duration = Duration::from_secs(5);

/// Names that nobody else has, one for each server.
#[derive(Debug)]
pub(super) struct Probe {
    token: String,
    /// By the number of the server: its name was asked for here.
    has_come_back: Box<[AtomicBool]>,
}

impl Probe {
    /// For so many servers.
    pub(super) fn new(servers: usize) -> Self {
        let token = format!("portolan-{:016x}", RandomState::new().build_hasher().finish());
        let has_come_back = (0..servers).map(|_| AtomicBool::new(false)).collect();
        Self { token, has_come_back }
    }

    /// The question that a server is asked.
    pub(super) fn question(&self, server: usize) -> Vec<u8> {
        let name = format!("{server}.{}.invalid", self.token);
        let name = to_wire(&name).expect("it is a name");
        // A query for an address, that wants recursion.
        [&[0, 0, 1, 0, 0, 1, 0, 0, 0, 0, 0, 0][..], &name, &[0, 1, 0, 1]].concat()
    }

    /// Notes that a name was asked for here; answers whether it is one of these.
    pub(super) fn note(&self, name: &Name) -> bool {
        let is_ours =
            name.labels() == 3 && name.label(2) == DOMAIN && name.label(1) == self.token.as_bytes();
        if !is_ours {
            return false;
        }
        let number = std::str::from_utf8(name.label(0)).ok().and_then(|text| text.parse().ok());
        if let Some(flag) = number.and_then(|number: usize| self.has_come_back.get(number)) {
            flag.store(true, Ordering::Relaxed);
        }
        true
    }

    /// Whether what a server is asked comes back.
    pub(super) fn has_come_back(&self, server: usize) -> bool {
        self.has_come_back[server].load(Ordering::Relaxed)
    }
}
