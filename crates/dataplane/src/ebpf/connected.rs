//! UDP sockets with a peer: the kernel asks no program whom each of their datagrams goes to.
//!
//! So when an endpoint stops serving, the sockets that were given it are connected again, to what their
//! holders had asked for. A holder notices nothing: it is the same socket, with the same port. Where that is
//! not possible the connection is ended, and the holder is told.

use std::collections::{BTreeSet, HashMap, HashSet};
use std::fs;
use std::net::{SocketAddr, UdpSocket};
use std::os::fd::AsFd;
use std::path::PathBuf;

use kernel::cgroup::Cgroup;
use kernel::netns::Netns;
use kernel::sockets::{self, Connected, Transport};

use super::layout::Peer;
use super::programs::Peers;
use super::wire::Wire;
use crate::Result;

/// Connects sockets of a cgroup again that talk to endpoints which do not serve any more (`lost`), or that were
/// connected to frontends when these led nowhere (`found`). Answers how many of the former there were.
pub(super) fn lead_on(
    cgroup: &Cgroup,
    peers: &Peers,
    lost: &HashSet<SocketAddr>,
    found: &HashSet<SocketAddr>,
) -> Result<usize> {
    let mut count = 0;
    for netns in namespaces(cgroup)? {
        let mut socket = netns.within(sockets::open)??;
        let all = sockets::connected(&mut socket, Transport::Udp)?;
        let is_meant = |socket: &Connected| {
            let peer = canonical(socket.peer);
            lost.contains(&peer) || found.contains(&peer)
        };
        let meant: HashMap<u32, Connected> =
            all.into_iter().filter(is_meant).map(|socket| (socket.inode, socket)).collect();
        if meant.is_empty() {
            continue;
        }
        let inodes: BTreeSet<u32> = meant.keys().copied().collect();
        let mut done = HashSet::new();
        for held in sockets::held(&inodes) {
            if done.contains(&held.inode) {
                continue;
            }
            // Its holder may end, or close it, at any moment.
            let Ok(taken) = held.take() else { continue };
            done.insert(held.inode);
            let which = &meant[&held.inode];
            let now = canonical(which.peer);
            if found.contains(&now) {
                // If it can't be, it stays as it is.
                let _ = UdpSocket::from(taken).connect(which.peer);
                continue;
            }
            let Some(peer) = peers.get_of_socket(taken.as_fd())? else { continue };
            let peer = Peer::get(&peer);
            let (asked, given) = (SocketAddr::from(peer.asked), SocketAddr::from(peer.given));
            if given != now {
                continue;
            }
            count += 1;
            let asked = match which.peer {
                SocketAddr::V4(_) => asked,
                SocketAddr::V6(_) => mapped(asked),
            };
            if let Err(error) = UdpSocket::from(taken).connect(asked) {
                tracing::debug!(%asked, %given, %error, "a UDP socket can't be led on");
                sockets::destroy(&mut socket, which)?;
            }
        }
    }
    Ok(count)
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
