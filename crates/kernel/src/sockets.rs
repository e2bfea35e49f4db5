//! Sockets that wait for clients, and the processes that hold them.
//!
//! Formats are those of `linux/inet_diag.h`, see sock_diag(7).

use std::collections::BTreeSet;
use std::fs;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use nix::libc;

use crate::Result;
use crate::netlink::{self, Encoder, Socket};

const SOCK_DIAG_BY_FAMILY: u16 = 20;
/// Bits of `idiag_states`: `TCP_LISTEN`, and `TCP_CLOSE`, in which UDP sockets without peer are.
const LISTENING: u32 = 1 << 10;
const UNCONNECTED: u32 = 1 << 7;
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
            let mut request = Encoder::new();
            let (protocol, states) = match transport {
                Transport::Tcp => (6, LISTENING),
                Transport::Udp => (17, UNCONNECTED),
            };
            let family = u8::try_from(family).expect("families are small");
            request.raw(&[family, protocol, 0, 0]);
            request.raw(&states.to_ne_bytes());
            request.raw(&[0; SOCKET_ID]);
            let operation = format!("list {transport:?} sockets");
            let answers = socket.dump(&operation, SOCK_DIAG_BY_FAMILY, request.bytes())?;
            found.extend(answers.iter().filter_map(|m| decode(transport, &m.payload)));
        }
    }
    Ok(found)
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
    let family = i32::from(*message.first()?);
    let port = u16::from_be_bytes(message.get(4..6)?.try_into().ok()?);
    let address: IpAddr = match family {
        libc::AF_INET => Ipv4Addr::from(<[u8; 4]>::try_from(message.get(8..12)?).ok()?).into(),
        libc::AF_INET6 => Ipv6Addr::from(<[u8; 16]>::try_from(message.get(8..24)?).ok()?).into(),
        _ => return None,
    };
    let inode = u32::from_ne_bytes(message.get(68..72)?.try_into().ok()?);
    (port != 0).then_some(Listener { transport, address: SocketAddr::new(address, port), inode })
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
}
