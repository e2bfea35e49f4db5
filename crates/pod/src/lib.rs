//! Pods on one node: their addresses, their network, and running them.
//!
//! [`lease`] hands out addresses and remembers it on disk, [`wiring`] gives a network namespace its
//! link and the node its routes, and [`runner`] runs pods as processes of the host's own file
//! system. This crate knows what a pod is; it knows neither the API server nor Services.
//!
//! Start reading at [`runner::Runner`].

pub mod error;
pub mod lease;
pub mod runner;
pub mod spec;
pub mod status;
pub mod wiring;

pub use error::{Error, Result};
