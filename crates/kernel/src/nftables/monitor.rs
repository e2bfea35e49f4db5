//! Notifications about changes of the packet filter, whoever makes them.

use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd, RawFd};

use super::{Family, Name, Table, message_type, uapi};
use crate::netlink::{Attribute, Protocol, Socket, attributes, join_group, leave_group};
use crate::{Error, Result};

/// Notifications kept until they are read, in bytes. More are lost, which is noticed: a change of
/// one's own with 10,000 elements makes several megabytes of them.
const BACKLOG: usize = 8 << 20;

/// A subscription to changes of the packet filter of a namespace.
#[derive(Debug)]
pub struct Monitor {
    socket: Socket,
}

/// What a notification says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Notification {
    /// Something in a table has changed.
    Changed {
        /// The table.
        table: Table,
        /// What it is.
        what: Changed,
        /// Whether it is no more.
        is_gone: bool,
        /// Port of the socket that changed it.
        port: u32,
    },
    /// A transaction has ended; all notifications about its changes came before.
    Generation {
        /// The generation it made.
        id: u32,
        /// Port of the socket that sent it.
        port: u32,
        /// Name of the process that sent it, where the kernel tells.
        process: Option<String>,
    },
}

/// What has changed in a table.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Changed {
    /// A chain.
    Chain(Name),
    /// A rule of this chain.
    Rule(Name),
    /// The table itself, a set, an element, ...
    Other,
}

/// Turns the subscription of a [`Monitor`] on and off, from whatever thread.
///
/// The kernel makes a notification for each element that changes, whether or not the subscribers want
/// to see it: half a million of them cost more than the change itself.
#[derive(Debug)]
pub struct Subscription {
    fd: OwnedFd,
}

impl Subscription {
    /// Notifications come from now on.
    pub fn join(&self) -> Result<()> {
        join_group(self.fd.as_fd(), uapi::NFNLGRP_NFTABLES)
    }

    /// No notifications come any more.
    pub fn leave(&self) -> Result<()> {
        leave_group(self.fd.as_fd(), uapi::NFNLGRP_NFTABLES)
    }
}

impl Monitor {
    /// Subscribes, in the network namespace of the calling thread.
    pub fn open() -> Result<Self> {
        let monitor = Self { socket: Socket::open(Protocol::Netfilter)? };
        monitor.socket.limit_receive_buffer(BACKLOG)?;
        join_group(monitor.as_fd(), uapi::NFNLGRP_NFTABLES)?;
        Ok(monitor)
    }

    /// A monitor of what others than the socket with port `own` change: a large change of one's own
    /// would fill the queue with notifications. It is subscribed when the other value says so.
    pub fn of_others(own: u32) -> Result<(Self, Subscription)> {
        let socket = Socket::open(Protocol::Netfilter)?;
        socket.limit_receive_buffer(BACKLOG)?;
        socket.ignore_changes_by(own)?;
        let fd = socket.as_fd().try_clone_to_owned();
        let fd = fd.map_err(|source| Error::os("duplicate a netlink socket", source))?;
        Ok((Self { socket }, Subscription { fd }))
    }

    /// What has arrived, without waiting.
    ///
    /// # Errors
    /// `ENOBUFS` if notifications were lost.
    pub fn notifications(&mut self) -> Result<Vec<Notification>> {
        let messages = self.socket.notifications()?;
        let decoded = messages.iter().filter_map(|message| {
            let (header, body) = message.payload.split_first_chunk::<4>()?;
            if message.kind == message_type(uapi::NFT_MSG_NEWGEN) {
                let id = attributes(body).find(|a| a.kind == uapi::NFTA_GEN_ID)?.be32()?;
                let process = attributes(body).find(|a| a.kind == uapi::NFTA_GEN_PROC_NAME);
                let process = process.and_then(Attribute::text).map(str::to_owned);
                return Some(Notification::Generation { id, port: message.port, process });
            }
            // The name of the table is attribute 1 of every kind of object.
            let name = |kind| attributes(body).find(|a| a.kind == kind).and_then(Attribute::text);
            let table = Table { family: Family::from_number(header[0])?, name: name(1)?.into() };
            let is_of = |kinds: [u8; 2]| kinds.map(message_type).contains(&message.kind);
            let what = if is_of([uapi::NFT_MSG_NEWRULE, uapi::NFT_MSG_DELRULE]) {
                Changed::Rule(name(uapi::NFTA_RULE_CHAIN)?.into())
            } else if is_of([uapi::NFT_MSG_NEWCHAIN, uapi::NFT_MSG_DELCHAIN]) {
                Changed::Chain(name(uapi::NFTA_CHAIN_NAME)?.into())
            } else {
                Changed::Other
            };
            let gone = [uapi::NFT_MSG_DELTABLE, uapi::NFT_MSG_DELCHAIN, uapi::NFT_MSG_DELRULE];
            let is_gone = gone.map(message_type).contains(&message.kind);
            Some(Notification::Changed { table, what, is_gone, port: message.port })
        });
        Ok(decoded.collect())
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
