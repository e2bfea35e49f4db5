//! Sockets in the hands of other processes (pidfd_open(2), pidfd_getfd(2)).

use std::collections::BTreeSet;
use std::fs;
use std::io;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd, RawFd};

use nix::libc;

use crate::{Error, Result};

/// A socket that a process holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct HeldSocket {
    /// The socket.
    pub inode: u32,
    /// The process, in the caller's pid namespace.
    pub pid: u32,
    /// The number that it has there.
    fd: RawFd,
}

/// Who holds sockets, each of its holders; those that can't be seen are left out.
pub fn held(inodes: &BTreeSet<u32>) -> impl Iterator<Item = HeldSocket> {
    let processes = fs::read_dir("/proc").into_iter().flatten().flatten();
    let pids = processes.filter_map(|process| process.file_name().to_str()?.parse().ok());
    pids.flat_map(move |pid: u32| {
        let files = fs::read_dir(format!("/proc/{pid}/fd")).into_iter().flatten().flatten();
        files.filter_map(move |file| {
            let target = fs::read_link(file.path()).ok()?;
            let inode = target.to_str()?.strip_prefix("socket:[")?.strip_suffix(']')?;
            let inode = inode.parse().ok().filter(|inode| inodes.contains(inode))?;
            Some(HeldSocket { inode, pid, fd: file.file_name().to_str()?.parse().ok()? })
        })
    })
}

impl HeldSocket {
    /// Another handle to the socket: what is done to it is done to its holder's.
    ///
    /// # Errors
    /// Also if the process has closed it since.
    pub fn take(&self) -> Result<OwnedFd> {
        let failed = |source| {
            Error::os(format!("take socket {} of process {}", self.inode, self.pid), source)
        };
        // SAFETY: No memory is shared with the kernel; a pid that is gone is an error.
        let process = unsafe { open(libc::syscall(libc::SYS_pidfd_open, self.pid, 0)) };
        let process = process.map_err(failed)?;
        let number = process.as_raw_fd();
        // SAFETY: As above.
        let socket = unsafe { open(libc::syscall(libc::SYS_pidfd_getfd, number, self.fd, 0)) };
        let socket = socket.map_err(failed)?;
        // The number may be another file's by now.
        let file =
            fs::read_link(format!("/proc/self/fd/{}", socket.as_raw_fd())).map_err(failed)?;
        match file.as_os_str() == format!("socket:[{}]", self.inode).as_str() {
            true => Ok(socket),
            false => Err(failed(io::ErrorKind::NotFound.into())),
        }
    }
}

/// Takes what a system call has answered.
///
/// # Safety
/// It has to be an error or a file descriptor that nobody else owns.
unsafe fn open(answer: libc::c_long) -> io::Result<OwnedFd> {
    if answer < 0 {
        return Err(io::Error::last_os_error());
    }
    let fd = RawFd::try_from(answer).map_err(io::Error::other)?;
    // SAFETY: Promised by the caller.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}
