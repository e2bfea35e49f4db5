//! Programs in the kernel: loading them, where they are attached, and the maps they share with us
//! (bpf(2), Documentation/bpf).
//!
//! What is loaded lives as long as something refers to it. To outlive this process, maps and links are
//! pinned: they are given a name in a file system of their own, see [`mount_file_system`].

mod link;
mod object;
mod packet;
mod syscall;
mod table;

use std::path::Path;

pub use link::Link;
pub use object::{Object, Sizes};
pub use packet::{Direction, PacketProgram};
pub use table::Table;

use crate::{Result, mount};

/// Makes sure that the BPF file system is mounted at `target`, which is made if it is missing. On most
/// systems `/sys/fs/bpf` is mounted at boot.
pub fn mount_file_system(target: &Path) -> Result<()> {
    let is_there = |m: &mount::MountPoint| m.kind == "bpf" && m.target == target;
    match mount::list()?.iter().any(is_there) {
        true => Ok(()),
        false => mount::bpf(target),
    }
}
