//! The nf_tables packet filter: typed values, their wire format, atomic batches, dumps and
//! notifications.
//!
//! Start at [`Batch`]: a printable list of operations that takes effect as one transaction or not
//! at all. The formats are those of `linux/netfilter/nf_tables.h`. This module knows what tables,
//! chains, sets and expressions are, and nothing of what anybody uses them for.

mod batch;
mod bulk;
mod dump;
mod expression;
mod monitor;
mod object;
mod transaction;
mod uapi;

pub use batch::{Batch, Operation, Refusal, Refused};
pub use bulk::Bulk;
pub use dump::{
    ChainState, RuleState, SetState, chains, elements, elements_with_keys, forwarding_filters,
    generation, rules, sets, table_exists,
};
pub use expression::{
    AddressType, Comparison, ConntrackKey, DynamicSetOperation, Expression, FibAddress, MetaKey,
    Outcome, PayloadBase, Register, Verdict, status,
};
pub use monitor::{Changed, Monitor, Notification, Subscription};
pub use object::{
    BaseChain, Chain, ChainType, Element, ElementRef, Hook, Rule, Set, SetValue, Value,
};

use std::fmt;
use std::sync::Arc;

/// Name of a table, chain or set; at most 255 bytes.
pub type Name = Arc<str>;

/// Address family of a table.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Family {
    /// `ip`.
    Ipv4,
    /// `ip6`.
    Ipv6,
}

impl Family {
    /// The number that netfilter has for it.
    pub(crate) fn number(self) -> u8 {
        match self {
            Family::Ipv4 => uapi::NFPROTO_IPV4,
            Family::Ipv6 => uapi::NFPROTO_IPV6,
        }
    }

    /// The family with that number.
    pub(crate) fn from_number(number: u8) -> Option<Self> {
        [Family::Ipv4, Family::Ipv6].into_iter().find(|family| family.number() == number)
    }

    /// Bytes of an address.
    pub fn address_length(self) -> u32 {
        match self {
            Family::Ipv4 => 4,
            Family::Ipv6 => 16,
        }
    }
}

/// Identity of a table.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Table {
    /// Its family.
    pub family: Family,
    /// Its name.
    pub name: Name,
}

impl fmt::Display for Family {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Family::Ipv4 => "ip",
            Family::Ipv6 => "ip6",
        })
    }
}

impl fmt::Display for Table {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}", self.family, self.name)
    }
}

/// The message type of an nf_tables message.
const fn message_type(message: u8) -> u16 {
    (uapi::NFNL_SUBSYS_NFTABLES << 8) | message as u16
}

/// The fixed header of every netfilter message, `struct nfgenmsg`.
const fn header(family: u8, resource: u16) -> [u8; 4] {
    let [high, low] = resource.to_be_bytes();
    [family, 0, high, low]
}
