//! The iptables data plane: chains of our own in the tables `nat` and `filter`, written by
//! iptables-restore(8) of either flavour.
//!
//! [`render`] turns a group into rules, [`tree`] parts them into chains so that a packet passes few of
//! them, [`chains`] has the chains that are always there, [`ruleset`] keeps all that is programmed and finds
//! what a change does to it, [`changes`] is that, and [`saved`] compares with what the kernel holds. All of
//! these are pure. `tool` runs iptables' programs, and [`Iptables`] says when.

mod backend;
pub mod chains;
pub mod changes;
pub mod render;
pub mod rule;
pub mod ruleset;
pub mod saved;
mod tool;
pub mod tree;
mod watch;

pub use backend::Iptables;
pub(crate) use backend::MASQUERADE_BIT;
pub use tool::Flavour;
