//! The socket: requests with their verdicts, dumps, and notifications.

use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};

use nix::errno::Errno;
use nix::libc;
use nix::sys::socket::{
    AddressFamily, MsgFlags, NetlinkAddr, SockFlag, SockProtocol, SockType, bind, getsockname,
    recv, sendto, setsockopt, socket, sockopt,
};
use nix::sys::time::{TimeVal, TimeValLike};

use super::message::{Message, Verdict, flags};
use super::{Encoder, align};
use crate::{Error, Result};

/// How long the kernel may take for one answer, in seconds.
const RECEIVE_TIMEOUT_SECONDS: i64 = 10;
/// Buffers of the socket, in bytes. A batch is one datagram, and half a million map elements are
/// about 40 MB; the kernel accounts only for what is really queued.
const SOCKET_BUFFER: usize = 256 << 20;
/// Largest datagram read at once, in bytes. The kernel fills dumps up to 32 KiB.
const DATAGRAM: usize = 128 << 10;
/// How often a dump is started again because what it lists changed meanwhile.
const DUMP_ATTEMPTS: u32 = 20;

/// Which part of the kernel a socket speaks to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Protocol {
    /// Links, addresses, routes, rules, neighbours.
    Route,
    /// Packet filter and connection tracking.
    Netfilter,
    /// Sockets.
    SockDiag,
    /// Families that have a name instead of a number, see [`crate::genetlink`].
    Generic,
}

/// A netlink socket. It belongs to the network namespace of the thread that opened it, and may
/// then be used from any thread.
#[derive(Debug)]
pub struct Socket {
    fd: OwnedFd,
    port: u32,
    sequence: u32,
    buffer: Box<[u8]>,
}

impl Socket {
    /// Opens a socket in the network namespace of the calling thread.
    pub fn open(protocol: Protocol) -> Result<Self> {
        let operation = || format!("open a netlink socket ({protocol:?})");
        Self::open_inner(protocol).map_err(|errno| Error::os(operation(), errno))
    }

    fn open_inner(protocol: Protocol) -> nix::Result<Self> {
        let number = match protocol {
            Protocol::Route => SockProtocol::NetlinkRoute,
            Protocol::Netfilter => SockProtocol::NetlinkNetFilter,
            Protocol::SockDiag => SockProtocol::NetlinkSockDiag,
            Protocol::Generic => SockProtocol::NetlinkGeneric,
        };
        let fd =
            socket(AddressFamily::Netlink, SockType::Raw, SockFlag::SOCK_CLOEXEC, Some(number))?;
        setsockopt(&fd, sockopt::ReceiveTimeout, &TimeVal::seconds(RECEIVE_TIMEOUT_SECONDS))?;
        // Without CAP_NET_ADMIN the defaults have to do; so have requests that read.
        let _ = setsockopt(&fd, sockopt::SndBufForce, &SOCKET_BUFFER);
        let _ = setsockopt(&fd, sockopt::RcvBufForce, &SOCKET_BUFFER);
        set_option(fd.as_fd(), libc::NETLINK_EXT_ACK, 1)?;
        set_option(fd.as_fd(), libc::NETLINK_CAP_ACK, 1)?;
        bind(fd.as_raw_fd(), &NetlinkAddr::new(0, 0))?;
        let port = getsockname::<NetlinkAddr>(fd.as_raw_fd())?.pid();
        Ok(Self { fd, port, sequence: 0, buffer: vec![0; DATAGRAM].into_boxed_slice() })
    }

    /// The port that the kernel gave this socket: notifications carry that of their cause.
    pub fn port(&self) -> u32 {
        self.port
    }

    /// Subscribes to the notifications of a multicast group.
    pub fn join_group(&self, group: u32) -> Result<()> {
        join_group(self.as_fd(), group)
    }

    /// Bounds what the kernel queues for this socket, in bytes: for subscribers.
    pub fn limit_receive_buffer(&self, bytes: usize) -> Result<()> {
        setsockopt(&self.fd, sockopt::RcvBufForce, &bytes)
            .map_err(|errno| Error::os("bound the receive buffer of a netlink socket", errno))
    }

    /// Keeps notifications of what the socket with that port does from being queued for this one.
    ///
    /// The kernel puts into one datagram only notifications of one cause.
    pub fn ignore_changes_by(&self, port: u32) -> Result<()> {
        const PORT_OFFSET: u32 = 12;
        let statement = |code, k| libc::sock_filter { code, jt: 0, jf: 0, k };
        // Loads are big-endian; the port stands there in the machine's order.
        let port = u32::from_be_bytes(port.to_ne_bytes());
        let load = (libc::BPF_LD | libc::BPF_W | libc::BPF_ABS) as u16;
        let jump_if_equal = (libc::BPF_JMP | libc::BPF_JEQ | libc::BPF_K) as u16;
        let accept_bytes = (libc::BPF_RET | libc::BPF_K) as u16;
        let mut program = [
            statement(load, PORT_OFFSET),
            libc::sock_filter { code: jump_if_equal, jt: 0, jf: 1, k: port },
            statement(accept_bytes, 0),
            statement(accept_bytes, u32::MAX),
        ];
        let filter = libc::sock_fprog { len: 4, filter: program.as_mut_ptr() };
        // SAFETY: the descriptor is open; the kernel copies the program, of the length given, from
        // memory that outlives the call.
        let result = unsafe {
            libc::setsockopt(
                self.fd.as_raw_fd(),
                libc::SOL_SOCKET,
                libc::SO_ATTACH_FILTER,
                (&raw const filter).cast(),
                size_of::<libc::sock_fprog>() as libc::socklen_t,
            )
        };
        Errno::result(result)
            .map(drop)
            .map_err(|errno| Error::os("filter the notifications of a netlink socket", errno))
    }

    /// Sends a request and waits for the kernel's verdict. `operation` names it in errors; `REQUEST`
    /// and `ACK` are added to `flags`.
    pub fn request(
        &mut self,
        operation: &str,
        kind: u16,
        flags: u16,
        payload: &[u8],
    ) -> Result<()> {
        self.query(operation, kind, flags, payload).map(drop)
    }

    /// Sends a request and collects what is answered before the verdict.
    pub fn query(
        &mut self,
        operation: &str,
        kind: u16,
        flags: u16,
        payload: &[u8],
    ) -> Result<Vec<Message>> {
        self.send_one(operation, kind, flags | flags::ACK, payload)?;
        let mut answers = Vec::new();
        loop {
            for message in self.receive(operation)? {
                if let Some(verdict) = message.verdict() {
                    return verdict.into_result(operation).map(|()| answers);
                }
                answers.push(message);
            }
        }
    }

    /// Lists everything that the request matches: one consistent state, read again if it changed
    /// meanwhile.
    pub fn dump(&mut self, operation: &str, kind: u16, payload: &[u8]) -> Result<Vec<Message>> {
        for _ in 0..DUMP_ATTEMPTS {
            let mut messages = Vec::new();
            if self.stream(operation, kind, payload, |message| messages.push(message))? {
                return Ok(messages);
            }
        }
        Err(Error::os(operation, Errno::EINTR))
    }

    /// Lists everything that the request matches, each as it comes, so that no more than a datagram
    /// is in memory. Answers whether all of it is one consistent state.
    pub fn stream(
        &mut self,
        operation: &str,
        kind: u16,
        payload: &[u8],
        mut each: impl FnMut(Message),
    ) -> Result<bool> {
        self.send_one(operation, kind, flags::DUMP, payload)?;
        let mut is_interrupted = false;
        loop {
            for message in self.receive(operation)? {
                is_interrupted |= message.is_interrupted();
                match message.verdict() {
                    Some(verdict) if verdict.errno == libc::EINTR => return Ok(false),
                    Some(verdict) => {
                        verdict.into_result(operation)?;
                        return Ok(!is_interrupted);
                    }
                    None => each(message),
                }
            }
        }
    }

    /// Notifications that have arrived, without waiting for any.
    ///
    /// # Errors
    /// `ENOBUFS` says that some were lost.
    pub fn notifications(&mut self) -> Result<Vec<Message>> {
        let mut messages = Vec::new();
        while let Some(length) =
            self.receive_datagram("read notifications", MsgFlags::MSG_DONTWAIT)?
        {
            messages.extend(Message::split(&self.buffer[..length]));
        }
        Ok(messages)
    }

    /// The first sequence number that is not reserved.
    pub(crate) fn next_sequence(&self) -> u32 {
        self.sequence.wrapping_add(1)
    }

    /// Reserves `count` consecutive sequence numbers and answers the first.
    pub(crate) fn reserve(&mut self, count: u32) -> u32 {
        let first = self.sequence.wrapping_add(1);
        self.sequence = self.sequence.wrapping_add(count);
        first
    }

    /// Sends several messages as one datagram and collects the verdicts on them, with the sequence
    /// numbers that they belong to. The kernel has answered everything when the call that sends
    /// returns.
    pub(crate) fn exchange(
        &mut self,
        operation: &str,
        datagram: &[u8],
        is_ours: impl Fn(u32) -> bool,
    ) -> Result<Vec<(u32, Verdict)>> {
        self.send(operation, datagram)?;
        let mut verdicts = Vec::new();
        while let Some(length) = self.receive_datagram(operation, MsgFlags::MSG_DONTWAIT)? {
            let messages = Message::split(&self.buffer[..length]);
            let ours = messages.filter(|m| m.port == self.port && is_ours(m.sequence));
            verdicts.extend(ours.filter_map(|m| Some((m.sequence, m.verdict()?))));
        }
        Ok(verdicts)
    }

    fn send_one(&mut self, operation: &str, kind: u16, flags: u16, payload: &[u8]) -> Result<()> {
        let sequence = self.reserve(1);
        let mut datagram = Encoder::new();
        datagram.message(kind, flags | flags::REQUEST, sequence, |m| m.raw(payload));
        self.send(operation, datagram.bytes())
    }

    fn send(&self, operation: &str, datagram: &[u8]) -> Result<()> {
        let kernel = NetlinkAddr::new(0, 0);
        let sent = retry(|| sendto(self.fd.as_raw_fd(), datagram, &kernel, MsgFlags::empty()))
            .map_err(|errno| Error::os(operation, errno))?;
        if sent != datagram.len() {
            return Err(Error::os(operation, io::Error::from(io::ErrorKind::WriteZero)));
        }
        Ok(())
    }

    /// Waits for a datagram; keeps what answers the last request and drops answers to earlier ones,
    /// which were given up.
    fn receive(&mut self, operation: &str) -> Result<Vec<Message>> {
        let length = self
            .receive_datagram(operation, MsgFlags::empty())?
            .ok_or_else(|| Error::os(operation, Errno::ETIMEDOUT))?;
        let messages = Message::split(&self.buffer[..length]);
        Ok(messages.filter(|m| m.sequence == self.sequence && m.port == self.port).collect())
    }

    /// Reads one datagram into the buffer; `None` if there is none in time.
    fn receive_datagram(&mut self, operation: &str, how: MsgFlags) -> Result<Option<usize>> {
        let fd = self.fd.as_raw_fd();
        match retry(|| recv(fd, &mut self.buffer, how | MsgFlags::MSG_TRUNC)) {
            Ok(length) if length > self.buffer.len() => Err(Error::Malformed {
                operation: operation.to_owned(),
                detail: format!("a datagram of {} bytes", align(length)),
            }),
            Ok(length) => Ok(Some(length)),
            Err(Errno::EAGAIN) => Ok(None),
            Err(errno) => Err(Error::os(operation, errno)),
        }
    }
}

impl AsFd for Socket {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

impl AsRawFd for Socket {
    fn as_raw_fd(&self) -> std::os::fd::RawFd {
        self.fd.as_raw_fd()
    }
}

/// Subscribes a socket to the notifications of a multicast group.
pub(crate) fn join_group(socket: BorrowedFd<'_>, group: u32) -> Result<()> {
    let value = i32::try_from(group).expect("group numbers are small");
    set_option(socket, libc::NETLINK_ADD_MEMBERSHIP, value)
        .map_err(|errno| Error::os(format!("join netlink group {group}"), errno))
}

/// Ends a subscription.
pub(crate) fn leave_group(socket: BorrowedFd<'_>, group: u32) -> Result<()> {
    let value = i32::try_from(group).expect("group numbers are small");
    set_option(socket, libc::NETLINK_DROP_MEMBERSHIP, value)
        .map_err(|errno| Error::os(format!("leave netlink group {group}"), errno))
}

/// Sets an option of the netlink layer.
fn set_option(socket: BorrowedFd<'_>, option: libc::c_int, value: libc::c_int) -> nix::Result<()> {
    // SAFETY: the descriptor is open, and the kernel reads `size_of::<c_int>()` bytes of `value`,
    // which outlives the call.
    let result = unsafe {
        libc::setsockopt(
            socket.as_raw_fd(),
            libc::SOL_NETLINK,
            option,
            (&raw const value).cast(),
            size_of::<libc::c_int>() as libc::socklen_t,
        )
    };
    Errno::result(result).map(drop)
}

/// Repeats a call that a signal interrupted.
fn retry<T>(mut call: impl FnMut() -> nix::Result<T>) -> nix::Result<T> {
    loop {
        match call() {
            Err(Errno::EINTR) => {}
            result => return result,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::netlink::attributes;

    const RTM_NEWLINK: u16 = libc::RTM_NEWLINK;
    const RTM_GETLINK: u16 = libc::RTM_GETLINK;
    const RTM_NEWROUTE: u16 = libc::RTM_NEWROUTE;
    const IFLA_IFNAME: u16 = libc::IFLA_IFNAME;

    /// Runs in a new network namespace, which needs root.
    fn in_new_namespace<T: Send>(test: impl FnOnce() -> T + Send) -> T {
        std::thread::scope(|scope| {
            let thread = scope.spawn(|| {
                nix::sched::unshare(nix::sched::CloneFlags::CLONE_NEWNET)
                    .expect("this test needs root: it makes a network namespace");
                test()
            });
            thread.join().unwrap()
        })
    }

    #[test]
    fn a_new_namespace_has_the_loopback_link_alone() {
        let links = in_new_namespace(|| {
            let mut socket = Socket::open(Protocol::Route).unwrap();
            socket.dump("list links", RTM_GETLINK, &[0; 16]).unwrap()
        });
        let names: Vec<_> = links
            .iter()
            .filter(|m| m.kind == RTM_NEWLINK)
            .filter_map(|m| attributes(&m.payload[16..]).find(|a| a.kind == IFLA_IFNAME)?.text())
            .collect();
        assert_eq!(names, ["lo"]);
    }

    #[test]
    fn a_refusal_names_the_operation_and_gives_the_kernels_explanation() {
        let error = in_new_namespace(|| {
            let mut socket = Socket::open(Protocol::Route).unwrap();
            // An `rtmsg` of family 2 with a prefix longer than the family's addresses.
            let request = [2, 99, 0, 0, 254, 3, 0, 1, 0, 0, 0, 0];
            socket.request("add a route", RTM_NEWROUTE, flags::CREATE, &request).unwrap_err()
        });
        assert_eq!(error.errno(), Some(libc::EINVAL));
        assert!(error.to_string().starts_with("add a route (Invalid prefix"), "{error}");
    }

    #[test]
    fn a_subscriber_sees_changes_with_the_port_of_their_cause() {
        in_new_namespace(|| {
            let mut watcher = Socket::open(Protocol::Route).unwrap();
            watcher.join_group(libc::RTNLGRP_LINK).unwrap();
            assert!(watcher.notifications().unwrap().is_empty());
            let mut socket = Socket::open(Protocol::Route).unwrap();
            // An `ifinfomsg` that sets link 1 up.
            let mut up = [0u8; 16];
            up[4] = 1;
            up[8] = 1;
            up[12] = 1;
            socket.request("set lo up", RTM_NEWLINK, 0, &up).unwrap();
            let seen = watcher.notifications().unwrap();
            assert!(seen.iter().any(|m| m.kind == RTM_NEWLINK), "{seen:?}");
        });
    }
}
