//! Data planes: making the kernel do what a [`plan::NodePlan`] says.
//!
//! This crate sees frontends, endpoint sets and ranges, every policy already decided. It can't name
//! a Service or a pod. A backend prints a plan for one kernel interface; the [`sync`] loop, written
//! once for all of them, owns when: coalescing, retry, quarantine, repair and status.
//!
//! Start reading at [`backend`] for what a backend is, then [`nftables::layout`] for how ours works.

pub mod backend;
pub mod conntrack;
pub mod ebpf;
mod error;
pub mod fake;
pub mod iptables;
pub mod ipvs;
pub mod mode;
pub mod nftables;
mod number;
mod ports;
pub mod sync;

pub use backend::{Backend, Delta, Watcher};
pub use error::{Error, Result};
pub use mode::Mode;
pub use ports::NODE_PORTS;
pub use sync::{Ended, Observer, Status, Sync, Transaction, Update, Updates};
