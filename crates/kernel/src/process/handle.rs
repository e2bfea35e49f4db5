//! A handle to a process that never comes to mean another one.

use std::ffi::OsString;
use std::fs;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd};
use std::os::unix::ffi::OsStringExt;
use std::process::Child;

use nix::errno::Errno;
use nix::libc;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::signal::Signal;
use nix::sys::wait::{Id, WaitPidFlag, WaitStatus, waitid};

use crate::{Error, Result};

/// A process, held by a pidfd (pidfd_open(2)). The descriptor becomes readable when it ends.
#[derive(Debug)]
pub struct Process {
    pid: u32,
    fd: OwnedFd,
}

/// How a process ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Exit {
    /// By itself, with this code.
    Code(i32),
    /// By this signal.
    Signal(i32),
    /// Not known: it was not a child of the caller.
    Unknown,
}

impl Process {
    /// Holds the process that has this pid now.
    pub fn open(pid: u32) -> Result<Self> {
        let operation = || format!("open process {pid}");
        let number =
            libc::pid_t::try_from(pid).map_err(|_| Error::os(operation(), Errno::ESRCH))?;
        // SAFETY: pidfd_open takes two integers and touches no memory of ours.
        let fd = unsafe { libc::syscall(libc::SYS_pidfd_open, number, 0) };
        let fd = Errno::result(fd).map_err(|errno| Error::os(operation(), errno))?;
        let fd = i32::try_from(fd).expect("a descriptor fits into an int");
        // SAFETY: the kernel just made this descriptor, close-on-exec, and nobody else owns it.
        Ok(Self { pid, fd: unsafe { OwnedFd::from_raw_fd(fd) } })
    }

    /// Holds a child that was not waited for, so that its pid is still its own.
    pub fn of_child(child: &Child) -> Result<Self> {
        Self::open(child.id())
    }

    /// Its pid in the caller's PID namespace.
    pub fn pid(&self) -> u32 {
        self.pid
    }

    /// When it was started, in clock ticks since boot: together with the pid this names one process
    /// for as long as the machine runs (proc_pid_stat(5), field 22).
    pub fn start_time(&self) -> Result<u64> {
        let operation = || format!("read start time of process {}", self.pid);
        let text = fs::read_to_string(format!("/proc/{}/stat", self.pid))
            .map_err(|source| Error::os(operation(), source))?;
        // The second field may hold anything, also blanks and parentheses.
        let after_name = text.rsplit_once(')').map(|(_, rest)| rest);
        after_name
            .and_then(|rest| rest.split_whitespace().nth(19)?.parse().ok())
            .ok_or_else(|| Error::Malformed { operation: operation(), detail: text.clone() })
    }

    /// Whether it has ended.
    pub fn has_ended(&self) -> Result<bool> {
        let mut wait = [PollFd::new(self.fd.as_fd(), PollFlags::POLLIN)];
        poll(&mut wait, PollTimeout::ZERO)
            .map(|ready| ready > 0)
            .map_err(|errno| Error::os(format!("watch process {}", self.pid), errno))
    }

    /// How it ended, or `None` while it runs. The first call that finds it ended reaps it if it is
    /// a child; further calls then answer [`Exit::Unknown`].
    pub fn try_wait(&self) -> Result<Option<Exit>> {
        if !self.has_ended()? {
            return Ok(None);
        }
        let flags = WaitPidFlag::WEXITED | WaitPidFlag::WNOHANG;
        match waitid(Id::PIDFd(self.fd.as_fd()), flags) {
            Ok(WaitStatus::Exited(_, code)) => Ok(Some(Exit::Code(code))),
            Ok(WaitStatus::Signaled(_, signal, _)) => Ok(Some(Exit::Signal(signal as i32))),
            Ok(_) | Err(Errno::ECHILD) => Ok(Some(Exit::Unknown)),
            Err(errno) => Err(Error::os(format!("wait for process {}", self.pid), errno)),
        }
    }

    /// Sends a signal. Answers whether the process was there to get it.
    pub fn signal(&self, signal: Signal) -> Result<bool> {
        // SAFETY: pidfd_send_signal reads no memory when its third argument is null.
        let result = unsafe {
            libc::syscall(
                libc::SYS_pidfd_send_signal,
                self.fd.as_raw_fd(),
                signal as i32,
                std::ptr::null::<libc::siginfo_t>(),
                0,
            )
        };
        match Errno::result(result) {
            Ok(_) => Ok(true),
            Err(Errno::ESRCH) => Ok(false),
            Err(errno) => Err(Error::os(format!("send {signal} to process {}", self.pid), errno)),
        }
    }

    /// Another handle to the same process.
    pub fn try_clone(&self) -> Result<Self> {
        let fd = self.fd.try_clone().map_err(|source| {
            Error::os(format!("duplicate handle of process {}", self.pid), source)
        })?;
        Ok(Self { pid: self.pid, fd })
    }

    /// The environment that it was started with.
    pub fn environment(&self) -> Result<Vec<(OsString, OsString)>> {
        let bytes = fs::read(format!("/proc/{}/environ", self.pid)).map_err(|source| {
            Error::os(format!("read environment of process {}", self.pid), source)
        })?;
        let pairs = bytes.split(|byte| *byte == 0).filter_map(|pair| {
            let at = pair.iter().position(|byte| *byte == b'=')?;
            let (name, value) = (pair[..at].to_vec(), pair[at + 1..].to_vec());
            Some((OsString::from_vec(name), OsString::from_vec(value)))
        });
        Ok(pairs.collect())
    }
}

impl AsFd for Process {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

impl AsRawFd for Process {
    fn as_raw_fd(&self) -> std::os::fd::RawFd {
        self.fd.as_raw_fd()
    }
}
