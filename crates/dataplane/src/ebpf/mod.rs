//! eBPF: Services resolved where sockets connect, so that packets carry a pod's address from the start, and at
//! links for all others.
//!
//! | file | subject |
//! |---|---|
//! | `layout` | keys and values of the maps, as `bpf/portolan.h` has them |
//! | `wire` | how they become bytes |
//! | `render` | what a group puts into the maps |
//! | `content` | what the maps hold, and what leads from one content to the next |
//! | `maglev` | which endpoint a client from outside gets |
//! | `programs` | what is loaded and attached, and how it outlives this process |
//! | `host` | what programs are told of the node |
//! | `told` | what they have been told, and telling them what differs |
//! | `companion` | the table of nftables for what programs leave |
//! | `marks` | which packets at links may be about a Service at all |
//! | `connected` | sockets whose endpoint has gone |
//! | `flows` | connections that were translated before |
//! | `watch` | who notices that programs were detached |
//! | `backend` | what is done in which order |
//!
//! What no socket of ours has asked is translated at the node's links. What programs leave (SCTP, and on
//! kernels without tcx all packets) is left to a table of nftables, see [`Role`](crate::nftables::Role).

mod backend;
#[cfg(test)]
mod btf;
mod companion;
mod connected;
pub mod content;
mod flows;
mod host;
pub mod layout;
pub mod maglev;
mod marks;
mod programs;
pub mod render;
mod told;
mod watch;
pub mod wire;

pub use backend::Ebpf;
