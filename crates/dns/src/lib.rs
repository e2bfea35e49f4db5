//! Cluster DNS: names of Services and of what is behind them, as the DNS-based service discovery of
//! Kubernetes (schema 1.1.0) has them.
//!
//! ```text
//!                 World ──> directory          one writes, all read, nobody waits
//!                              │
//!  datagram / stream ──> wire ──> answer ──> wire
//!                              │
//!                              └──> cache, or forward ──> upstream servers
//! ```
//!
//! What a name means is decided in [`answer`], from the [`Directory`] alone; [`server`], [`forward`] and `resolver`,
//! which asks others for what is not in the [`cache`], are the only parts that wait. Start reading at [`answer()`].

pub mod answer;
pub mod cache;
pub mod corefile;
mod directory;
mod exposure;
pub mod forward;
pub mod hosts;
pub mod resolv_conf;
mod resolver;
pub mod rewrite;
mod server;
mod table;
pub mod tally;
pub mod wire;

pub use answer::{Zone, answer};
pub use directory::{Directory, Pod, PodWriter};
pub use exposure::Exposure;
pub use forward::{Forward, Upstreams};
pub use resolver::Resolver;
pub use server::{QueryLog, Responder, Server};
