//! Clients that ask who is there, and servers that say so.
//!
//! For every message a server answers one line: its address, its port, and the client's address as
//! it sees it.

use std::io::{self, BufRead, BufReader, Read, Write};
use std::net::{IpAddr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use model::Protocol;
use nix::sys::socket::{self, AddressFamily, SockFlag, SockType, SockaddrStorage};

/// What a server says of a connection.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Answer {
    /// The address the server has.
    pub(crate) server: String,
    /// The port it was asked on.
    pub(crate) port: u16,
    /// The address the server sees.
    pub(crate) client: String,
}

impl Answer {
    fn of(text: &str) -> io::Result<Self> {
        let mut words = text.split_whitespace();
        let mut word = || words.next().ok_or_else(|| io::Error::other("the server said nothing"));
        Ok(Self {
            server: word()?.to_owned(),
            port: word()?.parse().map_err(io::Error::other)?,
            client: word()?.to_owned(),
        })
    }
}

/// A client's side of a connection, or what UDP has in its place: a socket with a port of its own.
#[derive(Debug)]
pub(crate) enum Conversation {
    Tcp(BufReader<TcpStream>),
    Udp(UdpSocket),
}

impl Conversation {
    /// Opens one from the calling thread's network namespace, to `to`, from the address `from`.
    pub(crate) fn open(
        protocol: Protocol,
        to: SocketAddr,
        from: Option<IpAddr>,
        limit: Duration,
    ) -> io::Result<Self> {
        let any: IpAddr = match to {
            SocketAddr::V4(_) => [0, 0, 0, 0].into(),
            SocketAddr::V6(_) => [0u16; 8].into(),
        };
        match (protocol, from) {
            (Protocol::Tcp, None) => {
                Ok(Self::Tcp(BufReader::new(TcpStream::connect_timeout(&to, limit)?)))
            }
            (Protocol::Tcp, Some(from)) => {
                let stream = connect_from(SocketAddr::new(from, 0), to, limit)?;
                Ok(Self::Tcp(BufReader::new(stream)))
            }
            (Protocol::Udp, from) => {
                let socket = UdpSocket::bind((from.unwrap_or(any), 0))?;
                socket.connect(to)?;
                Ok(Self::Udp(socket))
            }
            (Protocol::Sctp, _) => Err(io::ErrorKind::Unsupported.into()),
        }
    }

    /// Asks who is there.
    pub(crate) fn ask(&mut self, limit: Duration) -> io::Result<Answer> {
        match self {
            Self::Tcp(stream) => {
                stream.get_ref().set_read_timeout(Some(limit))?;
                stream.get_mut().write_all(b"?")?;
                let mut line = String::new();
                stream.read_line(&mut line)?;
                Answer::of(&line)
            }
            Self::Udp(socket) => {
                socket.set_read_timeout(Some(limit))?;
                let sent = socket.send(b"?");
                // What this host's own rules refuse or drop is "not permitted" at first; of what is
                // refused more is heard.
                if let Err(error) = &sent
                    && error.kind() != io::ErrorKind::PermissionDenied
                {
                    return Err(io::Error::from(error.kind()));
                }
                let mut buffer = [0; 200];
                let length = match (receive(socket, &mut buffer), sent) {
                    (Ok(length), _) => length,
                    (Err(error), Err(not_permitted))
                        if error.kind() == io::ErrorKind::WouldBlock =>
                    {
                        return Err(not_permitted);
                    }
                    (Err(error), _) => return Err(error),
                };
                Answer::of(&String::from_utf8_lossy(&buffer[..length]))
            }
        }
    }

    /// Sends that much and answers how much of it the server has read.
    pub(crate) fn send(&mut self, data: &[u8], limit: Duration) -> io::Result<usize> {
        match self {
            Self::Tcp(stream) => {
                stream.get_ref().set_read_timeout(Some(limit))?;
                stream.get_ref().set_write_timeout(Some(limit))?;
                stream.get_mut().write_all(data)?;
                let mut read = 0;
                while read < data.len() {
                    let mut line = String::new();
                    stream.read_line(&mut line)?;
                    let count = line.split_whitespace().nth(3);
                    read += count.and_then(|n| n.parse::<usize>().ok()).unwrap_or_default();
                }
                Ok(read)
            }
            Self::Udp(socket) => {
                socket.set_read_timeout(Some(limit))?;
                socket.send(data)?;
                let mut buffer = [0; 200];
                let length = receive(socket, &mut buffer)?;
                let text = String::from_utf8_lossy(&buffer[..length]);
                Ok(text.split_whitespace().nth(3).and_then(|n| n.parse().ok()).unwrap_or_default())
            }
        }
    }
}

/// Receives, also if a signal comes between.
fn receive(socket: &UdpSocket, buffer: &mut [u8]) -> io::Result<usize> {
    loop {
        match socket.recv(buffer) {
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            other => return other,
        }
    }
}

/// A TCP connection from a given address.
fn connect_from(from: SocketAddr, to: SocketAddr, limit: Duration) -> io::Result<TcpStream> {
    let family = if to.is_ipv4() { AddressFamily::Inet } else { AddressFamily::Inet6 };
    let socket = socket::socket(family, SockType::Stream, SockFlag::SOCK_CLOEXEC, None)?;
    let stream = TcpStream::from(socket);
    use std::os::fd::AsRawFd;
    socket::bind(stream.as_raw_fd(), &SockaddrStorage::from(from))?;
    // The limit of a blocking connect(2).
    stream.set_write_timeout(Some(limit))?;
    match socket::connect(stream.as_raw_fd(), &SockaddrStorage::from(to)) {
        Ok(()) => Ok(stream),
        Err(nix::errno::Errno::EINPROGRESS) => Err(io::ErrorKind::TimedOut.into()),
        Err(error) => Err(error.into()),
    }
}

/// A server of one address and port, TCP and UDP. It ends when dropped.
#[derive(Debug)]
pub(crate) struct Server {
    ending: Arc<AtomicBool>,
    threads: Vec<thread::JoinHandle<()>>,
}

/// How soon a server notices that it is to end.
const PATIENCE: Duration = Duration::from_millis(50);

impl Server {
    /// Listens in the calling thread's network namespace.
    pub(crate) fn start(address: SocketAddr) -> io::Result<Self> {
        let tcp = bind(|| TcpListener::bind(address))?;
        let udp = bind(|| UdpSocket::bind(address))?;
        udp.set_read_timeout(Some(PATIENCE))?;
        tcp.set_nonblocking(true)?;
        let ending = Arc::new(AtomicBool::new(false));
        let is_ending = ending.clone();
        let accepting = thread::spawn(move || {
            use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
            use std::os::fd::AsFd;
            while !is_ending.load(Ordering::Relaxed) {
                match tcp.accept() {
                    Ok((stream, peer)) => {
                        let is_ending = is_ending.clone();
                        thread::spawn(move || converse(stream, address, peer.ip(), &is_ending));
                    }
                    Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                        let mut fds = [PollFd::new(tcp.as_fd(), PollFlags::POLLIN)];
                        let patience = PollTimeout::try_from(PATIENCE).expect("it is short");
                        // Interrupted or not, accept tells.
                        let _ = poll(&mut fds, patience);
                    }
                    // A client that is gone already.
                    Err(_) => {}
                }
            }
        });
        let is_ending = ending.clone();
        let answering = thread::spawn(move || {
            let mut buffer = vec![0; 65_536];
            while !is_ending.load(Ordering::Relaxed) {
                if let Ok((length, peer)) = udp.recv_from(&mut buffer) {
                    // A client that is gone needs no answer.
                    let _ = udp.send_to(line(address, peer.ip(), length).as_bytes(), peer);
                }
            }
        });
        Ok(Self { ending, threads: vec![accepting, answering] })
    }
}

/// Binds as soon as it can be done. Commands are started all the time, and until a new process has become
/// its command, it holds what this one had open: also the socket of a server that has ended meanwhile.
fn bind<T>(mut bind: impl FnMut() -> io::Result<T>) -> io::Result<T> {
    let started = Instant::now();
    loop {
        match bind() {
            Err(error)
                if error.kind() == io::ErrorKind::AddrInUse
                    && started.elapsed() < PATIENCE * 10 =>
            {
                thread::sleep(PATIENCE / 10);
            }
            bound => return bound,
        }
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.ending.store(true, Ordering::Relaxed);
        for thread in self.threads.drain(..) {
            // A panic of it has been printed.
            let _ = thread.join();
        }
    }
}

fn line(address: SocketAddr, client: IpAddr, length: usize) -> String {
    format!("{} {} {client} {length}\n", address.ip(), address.port())
}

/// Answers until either end has enough: of a client's that is lost nothing is heard.
fn converse(mut stream: TcpStream, address: SocketAddr, client: IpAddr, is_ending: &AtomicBool) {
    // The socket that accepts does not block, and this one need not inherit that.
    let prepare = || {
        stream.set_nonblocking(false)?;
        stream.set_read_timeout(Some(PATIENCE))
    };
    if prepare().is_err() {
        return;
    }
    let mut buffer = vec![0; 65_536];
    while !is_ending.load(Ordering::Relaxed) {
        let length = match stream.read(&mut buffer) {
            // With a timeout a call is not begun again after a signal.
            Err(error)
                if matches!(
                    error.kind(),
                    io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted
                ) =>
            {
                continue;
            }
            Ok(0) | Err(_) => return,
            Ok(length) => length,
        };
        if stream.write_all(line(address, client, length).as_bytes()).is_err() {
            return;
        }
    }
}
