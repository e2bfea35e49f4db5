//! Datagrams by the batch: one call brings or sends many (recvmmsg(2), sendmmsg(2)).
//!
//! Each is answered from the address that it was sent to (`IP_PKTINFO`, ip(7); RFC 3542, 6.1), also on a socket that
//! is bound to all of them.

use std::io;
use std::mem;
use std::net::{
    Ipv4Addr, Ipv6Addr, SocketAddr, SocketAddrV4, SocketAddrV6, TcpListener, UdpSocket,
};
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::ptr;
use std::time::Duration;

use nix::libc;

/// Connections that may wait to be accepted.
const BACKLOG: i32 = 1024;
/// The port of a service that says nothing (RFC 863).
const DISCARD: u16 = 9;
/// Room for a control message that tells an address: `struct in6_pktinfo` is the larger one.
const CONTROL: usize = 64;

/// A socket for datagrams, of which several may be bound to one address: the kernel spreads senders over them.
#[derive(Debug)]
pub struct DatagramSocket(UdpSocket);

impl DatagramSocket {
    /// Binds one. Waiting for datagrams ends after `patience` without any.
    ///
    /// # Errors
    /// Those of socket(2), setsockopt(2) and bind(2).
    pub fn bind(address: SocketAddr, patience: Duration) -> io::Result<Self> {
        let socket = UdpSocket::from(open(address, libc::SOCK_DGRAM)?);
        match address {
            SocketAddr::V4(_) => set(&socket, libc::IPPROTO_IP, libc::IP_PKTINFO)?,
            SocketAddr::V6(_) => set(&socket, libc::IPPROTO_IPV6, libc::IPV6_RECVPKTINFO)?,
        }
        socket.set_read_timeout(Some(patience))?;
        bind(&socket, address)?;
        Ok(Self(socket))
    }

    /// What it is bound to.
    ///
    /// # Errors
    /// Those of getsockname(2).
    pub fn local_addr(&self) -> io::Result<SocketAddr> {
        self.0.local_addr()
    }

    /// Takes no more datagrams: they go to the other sockets of its address. Those that it has can still be received
    /// and answered.
    ///
    /// # Errors
    /// Those of connect(2).
    pub fn leave(&self) -> io::Result<()> {
        let own = self.local_addr()?;
        let ip = match (own.ip(), own.is_ipv4()) {
            (ip, _) if !ip.is_unspecified() => ip,
            (_, true) => Ipv4Addr::LOCALHOST.into(),
            (_, false) => Ipv6Addr::LOCALHOST.into(),
        };
        // A socket with a peer is left out where one of several is chosen (`reuseport_select_sock`); nobody sends from
        // there.
        self.0.connect(SocketAddr::new(ip, DISCARD))
    }

    /// Sends one datagram later, to where another one came from.
    ///
    /// # Errors
    /// Those of sendmsg(2).
    pub fn send(&self, data: &[u8], to: &Correspondent) -> io::Result<()> {
        let mut to = to.clone();
        let mut part =
            libc::iovec { iov_base: data.as_ptr().cast_mut().cast(), iov_len: data.len() };
        let header = to.header(&mut part);
        // SAFETY: What the header points to outlives the call, which only reads it.
        match unsafe { libc::sendmsg(self.0.as_raw_fd(), &header, 0) } {
            sent if sent < 0 => Err(io::Error::last_os_error()),
            _ => Ok(()),
        }
    }
}

/// A listener for connections, of which several may be bound to one address as well. It does not block.
///
/// # Errors
/// Those of socket(2), setsockopt(2), bind(2) and listen(2).
pub fn listen(address: SocketAddr) -> io::Result<TcpListener> {
    let socket = open(address, libc::SOCK_STREAM)?;
    set(&socket, libc::SOL_SOCKET, libc::SO_REUSEADDR)?;
    bind(&socket, address)?;
    // SAFETY: No memory is shared with the kernel.
    match unsafe { libc::listen(socket.as_raw_fd(), BACKLOG) } {
        0 => {}
        _ => return Err(io::Error::last_os_error()),
    }
    let listener = TcpListener::from(socket);
    listener.set_nonblocking(true)?;
    Ok(listener)
}

/// A socket that others may share the address of, of one family alone.
fn open(address: SocketAddr, kind: i32) -> io::Result<OwnedFd> {
    let family = match address {
        SocketAddr::V4(_) => libc::AF_INET,
        SocketAddr::V6(_) => libc::AF_INET6,
    };
    // SAFETY: No memory is shared with the kernel.
    let fd = unsafe { libc::socket(family, kind | libc::SOCK_CLOEXEC, 0) };
    if fd < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: It is a new descriptor that nobody else owns.
    let socket = unsafe { OwnedFd::from_raw_fd(fd) };
    set(&socket, libc::SOL_SOCKET, libc::SO_REUSEPORT)?;
    if address.is_ipv6() {
        set(&socket, libc::IPPROTO_IPV6, libc::IPV6_V6ONLY)?;
    }
    Ok(socket)
}

fn bind(socket: &impl AsRawFd, address: SocketAddr) -> io::Result<()> {
    let name = Name::of(address);
    // SAFETY: The name is as long as is said.
    match unsafe { libc::bind(socket.as_raw_fd(), name.pointer(), name.length) } {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}

/// Sets an option to 1.
fn set(socket: &impl AsRawFd, level: i32, option: i32) -> io::Result<()> {
    let one: libc::c_int = 1;
    // SAFETY: The value is as long as is said.
    let result = unsafe {
        libc::setsockopt(
            socket.as_raw_fd(),
            level,
            option,
            (&raw const one).cast(),
            mem::size_of_val(&one) as libc::socklen_t,
        )
    };
    match result {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}

/// A socket address as the kernel has it.
#[derive(Clone)]
struct Name {
    storage: libc::sockaddr_storage,
    length: libc::socklen_t,
}

impl Name {
    fn empty() -> Self {
        // SAFETY: All zeros are a value of it.
        Self { storage: unsafe { mem::zeroed() }, length: 0 }
    }

    fn of(address: SocketAddr) -> Self {
        let mut name = Self::empty();
        let storage = &raw mut name.storage;
        match address {
            SocketAddr::V4(v4) => {
                // SAFETY: The storage is large enough for it, and aligned.
                let to = unsafe { &mut *storage.cast::<libc::sockaddr_in>() };
                to.sin_family = libc::AF_INET as libc::sa_family_t;
                to.sin_port = v4.port().to_be();
                to.sin_addr.s_addr = u32::from_ne_bytes(v4.ip().octets());
                name.length = mem::size_of::<libc::sockaddr_in>() as libc::socklen_t;
            }
            SocketAddr::V6(v6) => {
                // SAFETY: As above.
                let to = unsafe { &mut *storage.cast::<libc::sockaddr_in6>() };
                to.sin6_family = libc::AF_INET6 as libc::sa_family_t;
                to.sin6_port = v6.port().to_be();
                to.sin6_addr.s6_addr = v6.ip().octets();
                to.sin6_flowinfo = v6.flowinfo();
                to.sin6_scope_id = v6.scope_id();
                name.length = mem::size_of::<libc::sockaddr_in6>() as libc::socklen_t;
            }
        }
        name
    }

    fn pointer(&self) -> *const libc::sockaddr {
        (&raw const self.storage).cast()
    }

    fn address(&self) -> Option<SocketAddr> {
        match i32::from(self.storage.ss_family) {
            libc::AF_INET => {
                // SAFETY: The kernel has said that it is one.
                let from = unsafe { &*self.pointer().cast::<libc::sockaddr_in>() };
                let ip = from.sin_addr.s_addr.to_ne_bytes().into();
                Some(SocketAddrV4::new(ip, u16::from_be(from.sin_port)).into())
            }
            libc::AF_INET6 => {
                // SAFETY: As above.
                let from = unsafe { &*self.pointer().cast::<libc::sockaddr_in6>() };
                let (ip, port) = (from.sin6_addr.s6_addr.into(), u16::from_be(from.sin6_port));
                Some(SocketAddrV6::new(ip, port, from.sin6_flowinfo, from.sin6_scope_id).into())
            }
            _ => None,
        }
    }
}

/// Who has sent a datagram, and to which address of ours.
#[derive(Clone)]
pub struct Correspondent {
    name: Name,
    control: Control,
    /// How much of it there is.
    control_length: usize,
}

/// Control messages, where they may be.
#[derive(Clone, Copy)]
#[repr(C, align(8))]
struct Control([u8; CONTROL]);

impl std::fmt::Debug for Correspondent {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_tuple("Correspondent").field(&self.address()).finish()
    }
}

impl Correspondent {
    fn empty() -> Self {
        Self { name: Name::empty(), control: Control([0; CONTROL]), control_length: 0 }
    }

    /// Its address.
    pub fn address(&self) -> Option<SocketAddr> {
        self.name.address()
    }

    fn header(&mut self, part: *mut libc::iovec) -> libc::msghdr {
        // SAFETY: All zeros are a value of it.
        let mut header: libc::msghdr = unsafe { mem::zeroed() };
        header.msg_name = (&raw mut self.name.storage).cast();
        header.msg_namelen = self.name.length;
        header.msg_iov = part;
        header.msg_iovlen = 1;
        if self.control_length > 0 {
            header.msg_control = (&raw mut self.control).cast();
            header.msg_controllen = self.control_length;
        }
        header
    }

    /// An answer goes out by whatever way is best, and from the address that was written to.
    fn turn_round(&mut self, header: &mut libc::msghdr) {
        // SAFETY: The header's control messages are those that the kernel has just written.
        let mut message = unsafe { libc::CMSG_FIRSTHDR(header) };
        while !message.is_null() {
            // SAFETY: As above; the data of these two is theirs.
            unsafe {
                match ((*message).cmsg_level, (*message).cmsg_type) {
                    (libc::IPPROTO_IP, libc::IP_PKTINFO) => {
                        let told = libc::CMSG_DATA(message).cast::<libc::in_pktinfo>();
                        let mut info = ptr::read_unaligned(told);
                        info.ipi_ifindex = 0;
                        info.ipi_spec_dst = info.ipi_addr;
                        ptr::write_unaligned(told, info);
                    }
                    (libc::IPPROTO_IPV6, libc::IPV6_PKTINFO) => {
                        let told = libc::CMSG_DATA(message).cast::<libc::in6_pktinfo>();
                        let mut info = ptr::read_unaligned(told);
                        // A link-local address says nothing without its link.
                        if info.ipi6_addr.s6_addr[..2] != [0xfe, 0x80] {
                            info.ipi6_ifindex = 0;
                        }
                        ptr::write_unaligned(told, info);
                    }
                    _ => {}
                }
                message = libc::CMSG_NXTHDR(header, message);
            }
        }
    }
}

/// Room for datagrams that come together, and for an answer to each. It is used again and again.
pub struct Batch {
    questions: Box<[u8]>,
    answers: Box<[u8]>,
    question_room: usize,
    answer_room: usize,
    correspondents: Box<[Correspondent]>,
    headers: Box<[libc::mmsghdr]>,
    parts: Box<[libc::iovec]>,
    /// How long each datagram that came is.
    lengths: Box<[usize]>,
    /// How long each answer is; nothing is sent where there is none.
    replies: Box<[usize]>,
    count: usize,
}

// SAFETY: Its pointers are set before each call, and point into itself.
unsafe impl Send for Batch {}

impl std::fmt::Debug for Batch {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Batch").field("count", &self.count).finish_non_exhaustive()
    }
}

impl Batch {
    /// Room for `size` datagrams of up to `question_room` bytes, of which longer ones are cut, and for answers of up
    /// to `answer_room` bytes.
    pub fn new(size: usize, question_room: usize, answer_room: usize) -> Self {
        // SAFETY: All zeros are a value of these.
        let (header, part) = unsafe { (mem::zeroed(), mem::zeroed()) };
        Self {
            questions: vec![0; size * question_room].into(),
            answers: vec![0; size * answer_room].into(),
            question_room,
            answer_room,
            correspondents: vec![Correspondent::empty(); size].into(),
            headers: vec![header; size].into(),
            parts: vec![part; size].into(),
            lengths: vec![0; size].into(),
            replies: vec![0; size].into(),
            count: 0,
        }
    }

    /// Waits for datagrams, and takes those that are there. Answers how many.
    ///
    /// # Errors
    /// Those of recvmmsg(2); that none has come in time is one too (`WouldBlock`).
    pub fn receive(&mut self, socket: &DatagramSocket) -> io::Result<usize> {
        self.receive_by(socket, libc::MSG_WAITFORONE)
    }

    /// Takes the datagrams that are there. Answers how many.
    ///
    /// # Errors
    /// Those of recvmmsg(2); that there is none is one too (`WouldBlock`).
    pub fn receive_rest(&mut self, socket: &DatagramSocket) -> io::Result<usize> {
        self.receive_by(socket, libc::MSG_DONTWAIT)
    }

    fn receive_by(&mut self, socket: &DatagramSocket, flags: i32) -> io::Result<usize> {
        self.count = 0;
        let size = self.headers.len();
        for (at, question) in self.questions.chunks_mut(self.question_room).enumerate() {
            self.parts[at] =
                libc::iovec { iov_base: question.as_mut_ptr().cast(), iov_len: question.len() };
            let correspondent = &mut self.correspondents[at];
            correspondent.name.length = mem::size_of::<libc::sockaddr_storage>() as libc::socklen_t;
            correspondent.control_length = CONTROL;
            self.headers[at].msg_hdr = correspondent.header(&raw mut self.parts[at]);
        }
        // SAFETY: The headers point to room in this batch, which stays where it is.
        let count = unsafe {
            libc::recvmmsg(
                socket.0.as_raw_fd(),
                self.headers.as_mut_ptr(),
                size as libc::c_uint,
                flags,
                ptr::null_mut(),
            )
        };
        if count < 0 {
            return Err(io::Error::last_os_error());
        }
        self.count = usize::try_from(count).unwrap_or_default();
        for at in 0..self.count {
            let (header, correspondent) = (&mut self.headers[at], &mut self.correspondents[at]);
            self.lengths[at] = (header.msg_len as usize).min(self.question_room);
            self.replies[at] = 0;
            correspondent.name.length = header.msg_hdr.msg_namelen;
            correspondent.control_length = header.msg_hdr.msg_controllen;
            correspondent.turn_round(&mut header.msg_hdr);
        }
        Ok(self.count)
    }

    /// The datagrams that have come: each with who sent it, and room for the answer, of which is said how long it is.
    pub fn each(&mut self) -> impl Iterator<Item = (&[u8], &Correspondent, &mut [u8], &mut usize)> {
        let questions = self.questions.chunks(self.question_room).zip(&self.lengths);
        let answers = self.answers.chunks_mut(self.answer_room).zip(&mut self.replies);
        let all = questions.zip(&self.correspondents).zip(answers).take(self.count);
        all.map(|(((question, length), from), (answer, reply))| {
            (&question[..*length], from, answer, reply)
        })
    }

    /// Sends the answers. One that can't be sent is lost, as datagrams may be. Answers how many were.
    pub fn send(&mut self, socket: &DatagramSocket) -> usize {
        let mut count = 0;
        let answers = self.answers.chunks_mut(self.answer_room).take(self.count);
        for (at, answer) in answers.enumerate().filter(|(at, _)| self.replies[*at] > 0) {
            self.parts[count] =
                libc::iovec { iov_base: answer.as_mut_ptr().cast(), iov_len: self.replies[at] };
            self.headers[count].msg_hdr =
                self.correspondents[at].header(&raw mut self.parts[count]);
            count += 1;
        }
        let mut done = 0;
        while done < count {
            let rest = &mut self.headers[done..count];
            // SAFETY: The headers point to what is in this batch, which stays where it is.
            let sent = unsafe {
                let size = rest.len() as libc::c_uint;
                libc::sendmmsg(socket.0.as_raw_fd(), rest.as_mut_ptr(), size, 0)
            };
            // The first one could not be sent; others can.
            done += usize::try_from(sent).unwrap_or_default().max(1);
        }
        count
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_leaves_answers_what_it_has_and_others_take_the_rest() {
        let patience = Duration::from_millis(100);
        let first = DatagramSocket::bind("127.0.0.1:0".parse().unwrap(), patience).unwrap();
        let address = first.local_addr().unwrap();
        let client = UdpSocket::bind("127.0.0.1:0").unwrap();
        client.set_read_timeout(Some(patience)).unwrap();
        client.send_to(b"1", address).unwrap();
        let second = DatagramSocket::bind(address, patience).unwrap();
        first.leave().unwrap();
        for _ in 0..20 {
            let other = UdpSocket::bind("127.0.0.1:0").unwrap();
            other.send_to(b"2", address).unwrap();
        }
        let mut batch = Batch::new(32, 16, 16);
        assert_eq!(batch.receive_rest(&first).unwrap(), 1);
        for (question, _, answer, length) in batch.each() {
            answer[0] = question[0];
            *length = 1;
        }
        batch.send(&first);
        let mut buffer = [0; 4];
        assert_eq!(client.recv_from(&mut buffer).unwrap(), (1, address));
        assert_eq!(batch.receive_rest(&first).unwrap_err().kind(), io::ErrorKind::WouldBlock);
        assert_eq!(batch.receive(&second).unwrap(), 20);
    }

    #[test]
    fn each_datagram_is_answered_from_where_it_was_sent_to() {
        for (any, targets) in [("0.0.0.0:0", &["127.0.0.1", "127.0.0.9"][..]), ("[::]:0", &["::1"])]
        {
            let patience = Duration::from_millis(100);
            let server = DatagramSocket::bind(any.parse().unwrap(), patience).unwrap();
            let port = server.local_addr().unwrap().port();
            let clients: Vec<UdpSocket> = (0..5).map(|_| UdpSocket::bind(any).unwrap()).collect();
            let mut batch = Batch::new(4, 16, 16);
            for target in targets {
                let to = SocketAddr::new(target.parse().unwrap(), port);
                for (number, client) in clients.iter().enumerate() {
                    client.send_to(format!("{number} is longer than that").as_bytes(), to).unwrap();
                }
                let mut count = 0;
                while let Ok(received) = batch.receive(&server) {
                    count += received;
                    for (question, _, answer, length) in batch.each() {
                        assert_eq!(question.len(), 16, "what is longer is cut");
                        answer[0] = question[0];
                        // One is not answered, and one later.
                        *length = usize::from(!b"34".contains(&question[0]));
                    }
                    let later: Vec<_> = batch
                        .each()
                        .filter(|(q, ..)| q[0] == b'4')
                        .map(|(_, c, ..)| c.clone())
                        .collect();
                    batch.send(&server);
                    for correspondent in later {
                        server.send(b"4", &correspondent).unwrap();
                    }
                }
                assert_eq!(count, clients.len());
                for (number, client) in clients.iter().enumerate() {
                    client.set_read_timeout(Some(patience)).unwrap();
                    let mut buffer = [0; 4];
                    match client.recv_from(&mut buffer) {
                        Ok((1, from)) => {
                            assert_eq!(from, to);
                            assert_eq!(buffer[0], b'0' + number as u8);
                        }
                        other => assert!(number == 3 && other.is_err(), "{number} {other:?}"),
                    }
                }
            }
            assert_eq!(batch.receive(&server).unwrap_err().kind(), io::ErrorKind::WouldBlock);
        }
    }
}
