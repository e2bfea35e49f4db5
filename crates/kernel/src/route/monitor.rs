//! Hearing that links or addresses have changed, whoever does it.

use std::os::fd::{AsFd, AsRawFd, BorrowedFd, RawFd};

use crate::Result;
use crate::netlink::{Protocol, Socket};

/// Groups of notifications (`enum rtnetlink_groups`): links, and addresses of either family.
const RTNLGRP_LINK: u32 = 1;
const RTNLGRP_IPV4_IFADDR: u32 = 5;
const RTNLGRP_IPV6_IFADDR: u32 = 9;

/// A subscription to changes of the links and addresses of a network namespace.
#[derive(Debug)]
pub struct Monitor {
    socket: Socket,
}

impl Monitor {
    /// Listens from now on, in the network namespace of the calling thread.
    pub fn open() -> Result<Self> {
        let socket = Socket::open(Protocol::Route)?;
        for group in [RTNLGRP_LINK, RTNLGRP_IPV4_IFADDR, RTNLGRP_IPV6_IFADDR] {
            socket.join_group(group)?;
        }
        Ok(Self { socket })
    }

    /// Whether something has changed since it was asked last, without waiting. What was lost for want of room
    /// is a change too.
    pub fn has_changed(&mut self) -> bool {
        self.socket.notifications().map_or(true, |messages| !messages.is_empty())
    }
}

impl AsFd for Monitor {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}

impl AsRawFd for Monitor {
    fn as_raw_fd(&self) -> RawFd {
        self.socket.as_raw_fd()
    }
}
