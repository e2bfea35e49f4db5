//! Sockets with a peer: the kernel asks no program any more whom what they send goes to.
//!
//! So when an endpoint stops serving, the UDP sockets that were given it are connected again, to what their
//! holders had asked for. A holder notices nothing: it is the same socket, with the same port. Where that is
//! not possible the connection is ended, and the holder is told. A TCP connection to an endpoint that has gone
//! can't go on elsewhere: on request it is ended.

use std::collections::{BTreeSet, HashMap, HashSet};
use std::fs;
use std::net::{SocketAddr, TcpStream, UdpSocket};
use std::os::fd::{AsFd, OwnedFd};
use std::path::PathBuf;

use kernel::cgroup::Cgroup;
use kernel::netlink::Socket;
use kernel::netns::Netns;
use kernel::sockets::{self, Connected, Transport};

use super::layout::Peer;
use super::programs::Peers;
use super::wire::Wire;
use crate::Result;

/// Which sockets something is to be done about, by their peers.
#[derive(Debug, Default)]
pub(super) struct Looked {
    /// UDP: endpoints that do not serve any more.
    pub(super) lost: HashSet<SocketAddr>,
    /// UDP: frontends that lead somewhere now. Who was connected to them while they led nowhere is still.
    pub(super) found: HashSet<SocketAddr>,
    /// TCP: endpoints that a Service has no more.
    pub(super) gone: Gone,
}

/// Endpoints of TCP that a Service has no more.
#[derive(Debug)]
pub(super) enum Gone {
    /// These.
    Only(HashSet<SocketAddr>),
    /// It is not known which: some may have gone while nobody looked.
    Unknown,
}

impl Default for Gone {
    fn default() -> Self {
        Gone::Only(HashSet::new())
    }
}

impl Gone {
    /// Some more.
    pub(super) fn extend(&mut self, more: impl IntoIterator<Item = SocketAddr>) {
        if let Gone::Only(some) = self {
            some.extend(more);
        }
    }

    fn may_be(&self, peer: SocketAddr) -> bool {
        match self {
            Gone::Only(some) => some.contains(&peer),
            Gone::Unknown => true,
        }
    }

    fn is_empty(&self) -> bool {
        matches!(self, Gone::Only(some) if some.is_empty())
    }
}

impl Looked {
    /// Whether nothing is to be done.
    pub(super) fn is_empty(&self) -> bool {
        self.lost.is_empty() && self.found.is_empty() && self.gone.is_empty()
    }

    fn is_for(&self, transport: Transport, peer: SocketAddr) -> bool {
        match transport {
            Transport::Tcp => self.gone.may_be(peer),
            Transport::Udp => self.lost.contains(&peer) || self.found.contains(&peer),
        }
    }

    fn transports(&self) -> impl Iterator<Item = Transport> {
        let udp = !self.lost.is_empty() || !self.found.is_empty();
        let wanted = [(Transport::Udp, udp), (Transport::Tcp, !self.gone.is_empty())];
        wanted.into_iter().filter(|(_, is_wanted)| *is_wanted).map(|(transport, _)| transport)
    }
}

/// Leads the UDP sockets of a cgroup on, and ends the TCP connections whose endpoint has gone: `has` answers whether
/// what was asked for still has an endpoint. Answers how many had lost theirs.
pub(super) fn lead_on(
    cgroup: &Cgroup,
    peers: &Peers,
    looked: &Looked,
    has: impl Fn(SocketAddr, SocketAddr) -> bool,
) -> Result<usize> {
    let mut count = 0;
    for netns in namespaces(cgroup)? {
        let mut socket = netns.within(sockets::open)??;
        for transport in looked.transports() {
            let all = sockets::connected(&mut socket, transport)?;
            let is_meant = |socket: &Connected| looked.is_for(transport, canonical(socket.peer));
            let meant: HashMap<u32, Connected> =
                all.into_iter().filter(is_meant).map(|socket| (socket.inode, socket)).collect();
            for (which, taken) in taken(&meant) {
                let is_lost = match transport {
                    Transport::Udp => lead(&mut socket, peers, looked, which, taken)?,
                    Transport::Tcp => end(&mut socket, peers, &has, which, taken)?,
                };
                count += usize::from(is_lost);
            }
        }
    }
    Ok(count)
}

/// Sockets, each with another handle to it, as far as their holders can be seen.
fn taken(meant: &HashMap<u32, Connected>) -> impl Iterator<Item = (&Connected, OwnedFd)> {
    let inodes: BTreeSet<u32> = meant.keys().copied().collect();
    let holders = (!inodes.is_empty()).then(|| sockets::held(&inodes).collect::<Vec<_>>());
    let mut done = HashSet::new();
    holders.into_iter().flatten().filter_map(move |held| {
        if done.contains(&held.inode) {
            return None;
        }
        // Its holder may end, or close it, at any moment.
        let taken = held.take().ok()?;
        done.insert(held.inode);
        Some((&meant[&held.inode], taken))
    })
}

/// Connects a UDP socket again. Answers whether it had lost its endpoint.
fn lead(
    socket: &mut Socket,
    peers: &Peers,
    looked: &Looked,
    which: &Connected,
    taken: OwnedFd,
) -> Result<bool> {
    if looked.found.contains(&canonical(which.peer)) {
        // If it can't be, it stays as it is.
        let _ = UdpSocket::from(taken).connect(which.peer);
        return Ok(false);
    }
    let Some((asked, given)) = told(peers, which, &taken)? else { return Ok(false) };
    let again = match which.peer {
        SocketAddr::V4(_) => asked,
        SocketAddr::V6(_) => mapped(asked),
    };
    if let Err(error) = UdpSocket::from(taken).connect(again) {
        tracing::debug!(%asked, %given, %error, "a UDP socket can't be led on");
        sockets::destroy(socket, which)?;
    }
    Ok(true)
}

/// Ends a TCP connection if what its holder asked for has not that endpoint any more. Answers whether it was so.
fn end(
    socket: &mut Socket,
    peers: &Peers,
    has: impl Fn(SocketAddr, SocketAddr) -> bool,
    which: &Connected,
    taken: OwnedFd,
) -> Result<bool> {
    let taken = TcpStream::from(taken);
    let Some((asked, given)) = told(peers, which, &taken)? else { return Ok(false) };
    if has(asked, given) {
        return Ok(false);
    }
    tracing::debug!(%asked, %given, "a TCP connection is ended: its endpoint has gone");
    sockets::destroy(socket, which)?;
    Ok(true)
}

/// What a socket was told: what its holder asked for, and the endpoint that it has. `None` if it was told nothing, or
/// has been connected elsewhere since.
fn told(
    peers: &Peers,
    which: &Connected,
    taken: &impl AsFd,
) -> Result<Option<(SocketAddr, SocketAddr)>> {
    let Some(peer) = peers.get_of_socket(taken.as_fd())? else { return Ok(None) };
    let peer = Peer::get(&peer);
    let (asked, given) = (SocketAddr::from(peer.asked), SocketAddr::from(peer.given));
    Ok((given == canonical(which.peer)).then_some((asked, given)))
}

/// An IPv4 address as such.
fn canonical(at: SocketAddr) -> SocketAddr {
    SocketAddr::new(at.ip().to_canonical(), at.port())
}

/// As an IPv6 socket is told it.
fn mapped(at: SocketAddr) -> SocketAddr {
    match at {
        SocketAddr::V4(v4) => SocketAddr::new(v4.ip().to_ipv6_mapped().into(), v4.port()),
        SocketAddr::V6(_) => at,
    }
}

/// The network namespaces that threads of a cgroup are in, each once.
fn namespaces(cgroup: &Cgroup) -> Result<Vec<Netns>> {
    let mut seen = HashSet::new();
    let mut found = Vec::new();
    for thread in cgroup.threads()? {
        let path = PathBuf::from(format!("/proc/{thread}/ns/net"));
        // A thread may have ended.
        let Ok(name) = fs::read_link(&path) else { continue };
        if seen.insert(name)
            && let Ok(netns) = Netns::open(&path)
        {
            found.push(netns);
        }
    }
    Ok(found)
}
