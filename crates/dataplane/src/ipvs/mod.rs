//! The IPVS data plane: virtual servers by generic netlink, virtual addresses on a link of our own, and a
//! companion of nftables for what IPVS has no word for.
//!
//! Where connections go and how they are treated is decided once, in
//! [`nftables::render`](crate::nftables::render): [`servers`] reads virtual servers from its entries, and the
//! companion ([`nftables::Role`](crate::nftables::Role)) is the same table without endpoints. [`content`]
//! keeps what is programmed and finds what a change does to it. Both are pure. `link` has the virtual
//! addresses, `settings` what the kernel is told besides, `watch` notices others, and [`Ipvs`] says in which order
//! things are done.
//!
//! An endpoint that goes gets weight 0: established connections go on, new ones do not come, and once it
//! has none it is taken away.

mod backend;
pub mod content;
mod link;
pub mod servers;
mod settings;
mod watch;

pub use backend::{Ipvs, is_left, virtual_addresses};
pub use kernel::ipvs::Scheduler;
pub use settings::parameters;
