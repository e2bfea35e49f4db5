//! eBPF: Services resolved where sockets connect, so that packets carry a pod's address from the start.
//!
//! | file | subject |
//! |---|---|
//! | `layout` | keys and values of the maps, as `bpf/portolan.h` has them |
//! | `render` | what a group puts into the maps |
//! | `content` | what the maps hold, and what leads from one content to the next |
//! | `programs` | what is loaded and attached, and how it outlives this process |
//! | `host` | what programs are told of the node |
//! | `companion` | the table of nftables for what programs leave |
//! | `connected` | UDP sockets whose endpoint has gone |
//! | `flows` | connections that were translated before |
//! | `watch` | who notices that programs were detached |
//! | `backend` | what is done in which order |
//!
//! What no socket of ours has resolved (what comes from other hosts, SCTP, what may come only from some
//! sources, what is to be lost in silence) is left to packets: a table of nftables with the whole plan
//! stands behind ([`Role::Complete`](crate::nftables::Role::Complete)).

mod backend;
#[cfg(test)]
mod btf;
mod companion;
mod connected;
pub mod content;
mod flows;
mod host;
pub mod layout;
mod programs;
pub mod render;
mod watch;

pub use backend::Ebpf;
