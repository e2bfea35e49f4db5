//! The nftables data plane: one private table a family, a flat set of maps, programmed by netlink.
//!
//! [`layout`] says what stands in the table, [`render`] turns a plan into it, [`table`] finds the
//! change from one content to the next. All three are pure.

pub mod layout;
pub mod render;
pub mod table;
