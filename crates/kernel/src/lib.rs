//! The Linux kernel interfaces Portolan uses: netlink (route, nf_tables, conntrack, IPVS, sockets), BPF,
//! namespaces, sysctls, mounts, cgroups and processes in namespaces.
//!
//! The only crate with `unsafe`. It knows the kernel's terms and nothing of Kubernetes.
#![allow(
    unsafe_code,
    reason = "system calls that no safe wrapper covers live here and nowhere else"
)]

pub mod bpf;
pub mod cgroup;
pub mod conntrack;
pub mod error;
pub mod genetlink;
pub mod ipvs;
pub mod machine;
pub mod mount;
pub mod netlink;
pub mod netns;
pub mod nftables;
pub mod process;
pub mod route;
pub mod sockets;
pub mod sysctl;
pub mod xtables;

pub use error::{Error, Result};
