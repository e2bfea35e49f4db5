//! Cluster DNS: names of Services and of what is behind them, as the DNS-based service discovery of
//! Kubernetes (schema 1.1.0) has them.
//!
//! ```text
//!  datagram / stream ──> server ──> message ──> answer(World, question)   pure
//!                           │
//!                           └─────> forward ──> upstream servers
//! ```
//!
//! What a name means is decided in [`answer`], from the World alone; [`server`] is the only part
//! that does I/O. Start reading at [`answer()`].

pub mod answer;
mod forward;
mod message;
pub mod resolv_conf;
pub mod server;

pub use answer::{Zone, answer};
pub use forward::Upstreams;
pub use server::Server;
