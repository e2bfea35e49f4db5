//! Sockets of a network namespace, and the processes that hold them.
//!
//! Formats are those of `linux/inet_diag.h`, see sock_diag(7).

pub mod datagrams;
mod held;

use std::collections::BTreeSet;
use std::fs;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use nix::libc;

pub use held::{HeldSocket, held};

use crate::Result;
use crate::netlink::{self, Encoder, Socket};

const SOCK_DIAG_BY_FAMILY: u16 = 20;
const SOCK_DESTROY: u16 = 21;
/// Bits of `idiag_states`: `TCP_LISTEN`, and `TCP_CLOSE`, in which UDP sockets without peer are.
const LISTENING: u32 = 1 << 10;
const UNCONNECTED: u32 = 1 << 7;
/// `TCP_ESTABLISHED`, in which UDP sockets with a peer are.
const CONNECTED: u32 = 1 << 1;
/// `TCP_SYN_SENT`, `TCP_FIN_WAIT1`, `TCP_FIN_WAIT2`, `TCP_CLOSE_WAIT`: their holder may still wait for the peer.
const WAITING: u32 = 1 << 2 | 1 << 4 | 1 << 5 | 1 << 8;
/// Length of `struct inet_diag_sockid`.
const SOCKET_ID: usize = 48;

/// Protocols whose sockets can be asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Transport {
    /// TCP.
    Tcp,
    /// UDP.
    Udp,
}

impl Transport {
    /// Its number in IP headers.
    fn number(self) -> u8 {
        match self {
            Transport::Tcp => 6,
            Transport::Udp => 17,
        }
    }
}

/// A socket that takes what comes from anybody.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Listener {
    /// Its protocol.
    pub transport: Transport,
    /// What it is bound to. An unspecified IPv6 address takes IPv4 too, unless the program said
    /// otherwise.
    pub address: SocketAddr,
    /// Its inode, by which its process is found.
    pub inode: u32,
}

/// A socket with a peer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Connected {
    /// Its protocol.
    pub transport: Transport,
    /// Whom it talks to.
    pub peer: SocketAddr,
    /// Its inode, by which its process is found.
    pub inode: u32,
    /// As the kernel tells it from all others: `struct inet_diag_sockid`, behind the family.
    id: (u8, [u8; SOCKET_ID]),
}

/// A process that holds a socket.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Owner {
    /// Its number, in the caller's pid namespace.
    pub pid: u32,
    /// Its name (`comm`).
    pub name: String,
}

/// The bound sockets without peer of the network namespace that `socket` belongs to.
pub fn listeners(socket: &mut Socket) -> Result<BTreeSet<Listener>> {
    let mut found = BTreeSet::new();
    for transport in [Transport::Tcp, Transport::Udp] {
        for family in [libc::AF_INET, libc::AF_INET6] {
            let states = match transport {
                Transport::Tcp => LISTENING,
                Transport::Udp => UNCONNECTED,
            };
            let messages = list(socket, transport, family, states)?;
            found.extend(messages.iter().filter_map(|message| decode(transport, message)));
        }
    }
    Ok(found)
}

/// The sockets with a peer of the network namespace that `socket` belongs to, also while they are being connected, or
/// closed by one side.
pub fn connected(socket: &mut Socket, transport: Transport) -> Result<Vec<Connected>> {
    let states = match transport {
        Transport::Tcp => CONNECTED | WAITING,
        Transport::Udp => CONNECTED,
    };
    let mut found = Vec::new();
    for family in [libc::AF_INET, libc::AF_INET6] {
        let messages = list(socket, transport, family, states)?;
        found.extend(messages.iter().filter_map(|message| decode_connected(transport, message)));
    }
    Ok(found)
}

/// Ends a socket's connection: whoever holds it is told `ECONNABORTED`. That it is gone is no error.
pub fn destroy(socket: &mut Socket, which: &Connected) -> Result<()> {
    let mut request = Encoder::new();
    request.raw(&[which.id.0, which.transport.number(), 0, 0]);
    request.raw(&u32::MAX.to_ne_bytes());
    request.raw(&which.id.1);
    let operation = format!("end the socket that talks to {}", which.peer);
    match socket.request(&operation, SOCK_DESTROY, 0, request.bytes()) {
        Err(error) if error.errno() == Some(libc::ENOENT) => Ok(()),
        other => other.map(drop),
    }
}

/// Lists sockets in some states, each as a `struct inet_diag_msg`.
fn list(
    socket: &mut Socket,
    transport: Transport,
    family: i32,
    states: u32,
) -> Result<Vec<Vec<u8>>> {
    let mut request = Encoder::new();
    let family = u8::try_from(family).expect("families are small");
    request.raw(&[family, transport.number(), 0, 0]);
    request.raw(&states.to_ne_bytes());
    request.raw(&[0; SOCKET_ID]);
    let operation = format!("list {transport:?} sockets");
    let answers = socket.dump(&operation, SOCK_DIAG_BY_FAMILY, request.bytes())?;
    Ok(answers.into_iter().map(|answer| answer.payload).collect())
}

/// Opens a socket to ask with, in the network namespace of the calling thread.
pub fn open() -> Result<Socket> {
    Socket::open(netlink::Protocol::SockDiag)
}

/// The process that holds the socket with this inode, if it can be seen.
pub fn owner(inode: u32) -> Option<Owner> {
    let link = format!("socket:[{inode}]");
    let processes = fs::read_dir("/proc").ok()?.flatten();
    processes.into_iter().find_map(|process| {
        let pid: u32 = process.file_name().to_str()?.parse().ok()?;
        let files = fs::read_dir(process.path().join("fd")).ok()?.flatten();
        let holds = |file: fs::DirEntry| {
            fs::read_link(file.path()).is_ok_and(|target| target.as_os_str() == link.as_str())
        };
        files.into_iter().any(holds).then_some(())?;
        let name = fs::read_to_string(process.path().join("comm")).ok()?;
        Some(Owner { pid, name: name.trim_end().to_owned() })
    })
}

/// Reads a `struct inet_diag_msg`; `None` for a socket that is not bound.
fn decode(transport: Transport, message: &[u8]) -> Option<Listener> {
    let address = address_at(message, 4, 8)?;
    let inode = inode_of(message)?;
    (address.port() != 0).then_some(Listener { transport, address, inode })
}

fn decode_connected(transport: Transport, message: &[u8]) -> Option<Connected> {
    let peer = address_at(message, 6, 24)?;
    let id = (*message.first()?, message.get(4..4 + SOCKET_ID)?.try_into().ok()?);
    Some(Connected { transport, peer, inode: inode_of(message)?, id })
}

/// The port and the address at these places of a message.
fn address_at(message: &[u8], port: usize, address: usize) -> Option<SocketAddr> {
    let family = i32::from(*message.first()?);
    let port = u16::from_be_bytes(message.get(port..port + 2)?.try_into().ok()?);
    let octets = message.get(address..address + 16)?;
    let address: IpAddr = match family {
        libc::AF_INET => Ipv4Addr::from(<[u8; 4]>::try_from(&octets[..4]).ok()?).into(),
        libc::AF_INET6 => Ipv6Addr::from(<[u8; 16]>::try_from(octets).ok()?).into(),
        _ => return None,
    };
    Some(SocketAddr::new(address, port))
}

fn inode_of(message: &[u8]) -> Option<u32> {
    Some(u32::from_ne_bytes(message.get(68..72)?.try_into().ok()?))
}

#[cfg(test)]
mod tests {
    use std::net::{TcpListener, UdpSocket};

    use super::*;

    #[test]
    fn listeners_are_found_with_their_process() {
        let tcp = TcpListener::bind("127.0.0.1:0").unwrap();
        let tcp6 = TcpListener::bind("[::1]:0").unwrap();
        let udp = UdpSocket::bind("127.0.0.1:0").unwrap();
        let connected = UdpSocket::bind("127.0.0.1:0").unwrap();
        connected.connect(udp.local_addr().unwrap()).unwrap();
        let all = listeners(&mut open().unwrap()).unwrap();
        let find = |transport, address| {
            all.iter().find(|l| l.transport == transport && l.address == address)
        };
        for (transport, address) in [
            (Transport::Tcp, tcp.local_addr().unwrap()),
            (Transport::Tcp, tcp6.local_addr().unwrap()),
            (Transport::Udp, udp.local_addr().unwrap()),
        ] {
            let listener = find(transport, address).expect("it waits for clients");
            let owner = owner(listener.inode).expect("it is this process");
            assert_eq!(owner.pid, std::process::id());
        }
        assert_eq!(find(Transport::Udp, connected.local_addr().unwrap()), None);
    }

    #[test]
    fn a_connected_socket_is_taken_from_its_holder_and_ended() {
        let server = UdpSocket::bind("127.0.0.1:0").unwrap();
        let client = UdpSocket::bind("127.0.0.1:0").unwrap();
        let peer = server.local_addr().unwrap();
        client.connect(peer).unwrap();
        let mut socket = open().expect("a netlink socket");
        let all = connected(&mut socket, Transport::Udp).unwrap();
        let found = all.iter().find(|socket| socket.peer == peer).expect("it is connected");

        let inodes = BTreeSet::from([found.inode]);
        let held: Vec<HeldSocket> = held(&inodes).filter(|h| h.pid == std::process::id()).collect();
        assert_eq!(held[0].inode, found.inode);
        let taken = held[0].take().expect("this test needs root: it takes a file descriptor");
        let other = UdpSocket::bind("127.0.0.1:0").unwrap();
        UdpSocket::from(taken).connect(other.local_addr().unwrap()).unwrap();
        assert_eq!(client.peer_addr().unwrap(), other.local_addr().unwrap(), "it is the same");

        let all = connected(&mut socket, Transport::Udp).unwrap();
        let found = all.iter().find(|s| s.peer == other.local_addr().unwrap()).unwrap();
        destroy(&mut socket, found).unwrap();
        let told = client.take_error().unwrap().expect("its holder is told");
        assert_eq!(told.raw_os_error(), Some(libc::ECONNABORTED));
        assert!(client.peer_addr().is_err(), "it has no peer any more");
        destroy(&mut socket, found).unwrap();
    }
}
