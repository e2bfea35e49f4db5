//! The nftables data plane: one private table a family, a flat set of maps, programmed by netlink.
//!
//! [`layout`] says what stands in the table, [`render`] turns a plan into it, [`table`] finds the
//! change from one content to the next, [`rules`] are the few rules that execute it, and
//! [`Role`] says what is left of all that where IPVS translates. All five are pure; `family_table` makes it in
//! the kernel, `held` compares it with what is there, and [`Nftables`] says in which transactions.

mod backend;
mod connections;
mod family_table;
mod held;
pub mod layout;
pub mod render;
pub(crate) mod role;
pub mod rules;
mod sets;
pub mod table;
mod watch;

pub use backend::Nftables;
pub(crate) use family_table::netfilter_family;
pub use role::Role;
