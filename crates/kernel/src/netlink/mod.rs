//! Netlink: requests to the kernel and its answers, for any protocol family.
//!
//! [`Encoder`] and [`attributes`] write and read the wire format, [`Socket`] carries it. This module
//! knows nothing of routes or packet filters; their message types and attributes are elsewhere.

mod attribute;
mod encoder;
mod message;
mod pipeline;
mod socket;

pub use attribute::{Attribute, attributes};
pub use encoder::Encoder;
pub(crate) use message::Verdict;
pub use message::{Message, flags};
pub(crate) use pipeline::Pipeline;
pub use socket::{Protocol, Socket};
pub(crate) use socket::{join_group, leave_group};

/// Rounds a length up to the alignment of netlink messages and attributes, 4 bytes.
pub(crate) const fn align(length: usize) -> usize {
    (length + 3) & !3
}
