//! Tables of legacy iptables: how many rules they have, without reading them.
//!
//! `ip_tables` notifies nobody of changes, so whoever wants to know has to ask; `struct ipt_getinfo` of
//! `linux/netfilter_ipv4/ip_tables.h` is the cheapest answer.

use std::ffi::c_void;
use std::fs;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};

use nix::libc;

use crate::nftables::Family;
use crate::{Error, Result};

/// `IPT_SO_GET_INFO` and `IP6T_SO_GET_INFO`.
const GET_INFO: libc::c_int = 64;
/// `XT_TABLE_MAXNAMELEN`, with its terminating zero.
const NAME_LENGTH: usize = 32;

/// What the kernel tells of a table. Two that are equal have as many rules, of the same sizes in each of
/// its own chains.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(C)]
pub struct TableInfo {
    name: [u8; NAME_LENGTH],
    valid_hooks: u32,
    hook_entry: [u32; 5],
    underflow: [u32; 5],
    entries: u32,
    size: u32,
}

impl TableInfo {
    /// Number of rules, with two for each chain.
    pub fn entries(&self) -> u32 {
        self.entries
    }
}

/// Asks about tables of the network namespace that it was opened in.
#[derive(Debug)]
pub struct Tables {
    family: Family,
    socket: OwnedFd,
}

impl Tables {
    /// Opens the tables of a family in the calling thread's network namespace. Needs CAP_NET_RAW.
    pub fn open(family: Family) -> Result<Self> {
        let domain = match family {
            Family::Ipv4 => libc::AF_INET,
            Family::Ipv6 => libc::AF_INET6,
        };
        // SAFETY: socket(2) takes no pointers.
        let fd =
            unsafe { libc::socket(domain, libc::SOCK_RAW | libc::SOCK_CLOEXEC, libc::IPPROTO_RAW) };
        if fd < 0 {
            return Err(Error::os("open a raw socket", std::io::Error::last_os_error()));
        }
        // SAFETY: the descriptor was just made, and nobody else has it.
        Ok(Self { family, socket: unsafe { OwnedFd::from_raw_fd(fd) } })
    }

    /// Whether a table is there in the calling thread's network namespace. Asking about one by
    /// [`info`](Self::info) makes it.
    pub fn is_loaded(family: Family, table: &str) -> bool {
        let names = match family {
            Family::Ipv4 => "ip_tables_names",
            Family::Ipv6 => "ip6_tables_names",
        };
        let names = fs::read_to_string(format!("/proc/thread-self/net/{names}"));
        names.is_ok_and(|names| names.lines().any(|name| name == table))
    }

    /// What the kernel tells of a table; `None` if there is none of this name.
    pub fn info(&self, table: &str) -> Result<Option<TableInfo>> {
        let mut info = TableInfo {
            name: [0; NAME_LENGTH],
            valid_hooks: 0,
            hook_entry: [0; 5],
            underflow: [0; 5],
            entries: 0,
            size: 0,
        };
        let operation = || format!("ask about iptables table {table}");
        let Some(name) = info.name[..NAME_LENGTH - 1].get_mut(..table.len()) else {
            return Ok(None);
        };
        name.copy_from_slice(table.as_bytes());
        let level = match self.family {
            Family::Ipv4 => libc::SOL_IP,
            Family::Ipv6 => libc::SOL_IPV6,
        };
        let mut length = size_of::<TableInfo>() as libc::socklen_t;
        // SAFETY: the kernel reads and writes at most `length` bytes of `info`, which consists of
        // integers that may have any value.
        let result = unsafe {
            let info = (&raw mut info).cast::<c_void>();
            libc::getsockopt(self.socket.as_raw_fd(), level, GET_INFO, info, &raw mut length)
        };
        if result == 0 {
            return Ok(Some(info));
        }
        let error = std::io::Error::last_os_error();
        match error.raw_os_error() {
            // No table, or no ip_tables at all.
            Some(libc::ENOENT | libc::ENOPROTOOPT) => Ok(None),
            _ => Err(Error::os(operation(), error)),
        }
    }
}
