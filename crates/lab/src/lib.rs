//! A lab: hosts made of network namespaces, each with a link to one common bridge.
//!
//! ```text
//!   machine's own namespace           untouched: no link, address, route or rule
//!   ---------------------------------------------------------------------------
//!   fabric      bridge0 ──┬───────────┬───────────┬─ ...
//!                         │ veth      │ veth      │ veth
//!   hosts       control-plane      node-1      outside
//!                        eth0        eth0        eth0
//! ```
//!
//! Everything a lab makes hangs off two names derived from its own: the directory
//! `/run/portolan/lab/NAME` (namespaces, logs, data) and the control group `portolan-lab-NAME`
//! (every process of it, however it forked). Taking a lab down needs no more than these, so it also
//! works after a crash, and twice.
//!
//! This crate knows hosts, links and processes. What the hosts are for is not its business.
//!
//! Start reading at [`Lab`].

mod directory;
mod error;
mod fabric;
mod host;
mod lifecycle;
mod teardown;

pub use directory::Directory;
pub use error::{Error, Result};
pub use fabric::{HostAddress, Underlay};
pub use host::{Host, Output, run_bounded};
pub use lifecycle::{Daemon, Lab, Record};
pub use teardown::{Removed, take_down};
