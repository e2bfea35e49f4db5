//! Cluster DNS: names of Services and of what is behind them, as the DNS-based service discovery of
//! Kubernetes (schema 1.1.0) has them.
//!
//! ```text
//!                 World ──> directory          one writes, all read, nobody waits
//!                              │
//!  datagram / stream ──> wire ──> answer ──> wire
//!                              │
//!                              └──> forward ──> upstream servers
//! ```
//!
//! What a name means is decided in [`answer`], from the [`Directory`] alone; [`server`] and `forward` are the only
//! parts that do I/O. Start reading at [`answer()`].

pub mod answer;
mod directory;
mod forward;
pub mod resolv_conf;
pub mod server;
pub mod wire;

pub use answer::{Zone, answer};
pub use directory::Directory;
pub use forward::Upstreams;
pub use server::Server;
