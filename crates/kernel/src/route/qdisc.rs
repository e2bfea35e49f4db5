//! Queueing disciplines, as far as others may look at packets by them.

use std::collections::BTreeSet;

use nix::libc;

use super::{Rtnetlink, malformed};
use crate::Result;
use crate::netlink::attributes;

/// Length of `struct tcmsg`.
const HEADER: usize = 20;
/// Kinds that carry nothing but filters, on what comes in or on both ways (tc(8)).
const FILTERING: [&str; 2] = ["clsact", "ingress"];

impl Rtnetlink {
    /// Indexes of the links at which somebody may filter packets by tc(8).
    pub fn filtered_links(&mut self) -> Result<BTreeSet<u32>> {
        let operation = "list queueing disciplines";
        let messages = self.socket.dump(operation, libc::RTM_GETQDISC, &[0; HEADER])?;
        let mut found = BTreeSet::new();
        for message in messages.iter().filter(|message| message.kind == libc::RTM_NEWQDISC) {
            let (header, rest) =
                message.payload.split_at_checked(HEADER).ok_or_else(|| malformed(operation))?;
            let is_filtering = |kind: &str| FILTERING.contains(&kind);
            let mut kinds = attributes(rest).filter(|attribute| attribute.kind == libc::TCA_KIND);
            if kinds.any(|kind| kind.text().is_some_and(is_filtering)) {
                found.insert(u32::from_ne_bytes([header[4], header[5], header[6], header[7]]));
            }
        }
        Ok(found)
    }
}
