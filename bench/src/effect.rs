//! Seeing in the kernel that something has taken effect: by the packet filter's own notifications, and
//! by packets.

use std::collections::BTreeSet;
use std::io::{Read, Write};
use std::net::{Ipv4Addr, SocketAddr, SocketAddrV4, TcpListener, TcpStream};
use std::os::fd::AsFd;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, ensure};
use kernel::netlink::{Protocol, Socket};
use kernel::netns::Netns;
use kernel::nftables::{self, Family, Table};
use kernel::xtables::Tables;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};

use crate::cluster::ENDPOINT_PORT;
use crate::control::Objects;

/// What is to be seen of a change.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Expected {
    /// The Service leads somewhere ...
    pub(crate) service: SocketAddrV4,
    /// ... and, if it is said, to this endpoint among others.
    pub(crate) endpoint: Option<Ipv4Addr>,
}

/// How changes are seen.
pub(crate) enum Observer<'a> {
    /// By what the packet filter tells of its changes.
    Notifications(Listener),
    /// By connections from a namespace, made until one shows the change.
    Packets(&'a Netns),
}

impl Observer<'_> {
    /// Forgets what was seen so far.
    pub(crate) fn clear(&mut self) {
        if let Observer::Notifications(listener) = self {
            // If some were lost, all are forgotten all the same.
            let _ = listener.socket.notifications();
        }
    }

    /// Waits until all of this can be seen; answers since when, in its order.
    pub(crate) fn wait_for(
        &mut self,
        expected: &[Expected],
        limit: Duration,
    ) -> anyhow::Result<Vec<Instant>> {
        match self {
            Observer::Notifications(listener) => {
                let address = |e: &Expected| e.endpoint.unwrap_or(*e.service.ip());
                let addresses: Vec<Ipv4Addr> = expected.iter().map(address).collect();
                listener.wait_for(&addresses, limit)
            }
            Observer::Packets(from) => from.run(|| {
                let start = Instant::now();
                let seen = |expected: &Expected| {
                    while !shows(expected) {
                        ensure!(start.elapsed() < limit, "no effect in {limit:?}: {expected:?}");
                    }
                    Ok(Instant::now())
                };
                expected.iter().map(seen).collect()
            })?,
        }
    }
}

/// Whether a connection shows what is expected.
fn shows(expected: &Expected) -> bool {
    let Ok(mut stream) = TcpStream::connect_timeout(&expected.service.into(), PATIENCE) else {
        return false;
    };
    let mut address = [0; 4];
    // Whoever it is has a moment to say so.
    let read = stream
        .set_read_timeout(Some(Duration::from_millis(100)))
        .and_then(|()| stream.read_exact(&mut address));
    read.is_ok() && expected.endpoint.is_none_or(|endpoint| endpoint.octets() == address)
}

/// Serves all endpoints of a namespace: each says its address. Until the program ends.
pub(crate) fn serve(netns: &Netns) -> anyhow::Result<()> {
    let listener = netns.run(|| TcpListener::bind(("0.0.0.0", ENDPOINT_PORT)))??;
    thread::spawn(move || {
        for mut stream in listener.incoming().flatten() {
            if let Ok(SocketAddr::V4(own)) = stream.local_addr() {
                // A client that is gone needs no answer.
                let _ = stream.write_all(&own.ip().octets());
            }
        }
    });
    Ok(())
}

/// What stands in the tables of proxies in a namespace.
pub(crate) fn objects(netns: &Netns) -> anyhow::Result<Objects> {
    netns.run(|| {
        let mut socket = Socket::open(Protocol::Netfilter)?;
        let mut objects = Objects::default();
        for family in [Family::Ipv4, Family::Ipv6] {
            // The last two are those of iptables' nft flavour.
            for name in ["portolan", "kube-proxy", "nat", "filter"] {
                let table = Table { family, name: name.into() };
                if !nftables::table_exists(&mut socket, &table)? {
                    continue;
                }
                objects.chains += nftables::chains(&mut socket, &table)?.len() as u64;
                objects.rules += nftables::rules(&mut socket, &table)?.len() as u64;
                let names: BTreeSet<_> = nftables::sets(&mut socket, &table)?
                    .into_iter()
                    .map(|set| (set.name, set.elements))
                    .collect();
                for (set, count) in names {
                    objects.elements += match count {
                        Some(count) => u64::from(count),
                        None => nftables::elements(&mut socket, &table, &set)?.len() as u64,
                    };
                }
            }
        }
        for family in [Family::Ipv4, Family::Ipv6] {
            let tables = Tables::open(family)?;
            for name in ["nat", "filter"] {
                let entries = tables.info(name)?.map_or(0, |info| info.entries());
                objects.rules += u64::from(entries);
            }
        }
        Ok(objects)
    })?
}

/// Multicast group of changes of the packet filter (`enum nfnetlink_groups`).
const NFNLGRP_NFTABLES: u32 = 7;
/// Notifications that may wait, in bytes.
const BACKLOG: usize = 64 << 20;

/// Hears what changes in the packet filter of a namespace, after it has changed.
pub(crate) struct Listener {
    socket: Socket,
}

impl Listener {
    /// Begins to listen.
    pub(crate) fn open(netns: &Netns) -> anyhow::Result<Self> {
        let socket = netns.run(|| -> kernel::Result<Socket> {
            let socket = Socket::open(Protocol::Netfilter)?;
            socket.limit_receive_buffer(BACKLOG)?;
            socket.join_group(NFNLGRP_NFTABLES)?;
            Ok(socket)
        })??;
        Ok(Self { socket })
    }

    /// Waits until something with each of these addresses has changed; answers when, in their order.
    fn wait_for(
        &mut self,
        addresses: &[Ipv4Addr],
        limit: Duration,
    ) -> anyhow::Result<Vec<Instant>> {
        let start = Instant::now();
        let mut seen: Vec<Option<Instant>> = vec![None; addresses.len()];
        while seen.iter().any(Option::is_none) {
            let left = limit.checked_sub(start.elapsed()).with_context(|| {
                let missing = seen.iter().filter(|seen| seen.is_none()).count();
                format!("{missing} of {} changes took no effect in {limit:?}", seen.len())
            })?;
            let timeout = PollTimeout::try_from(left).unwrap_or(PollTimeout::MAX);
            poll(&mut [PollFd::new(self.socket.as_fd(), PollFlags::POLLIN)], timeout)?;
            let messages = self.socket.notifications()?;
            let now = Instant::now();
            for (address, seen) in addresses.iter().zip(&mut seen).filter(|(_, s)| s.is_none()) {
                let bytes = address.octets();
                let has = |payload: &[u8]| payload.windows(4).any(|window| window == bytes);
                if messages.iter().any(|message| has(&message.payload)) {
                    *seen = Some(now);
                }
            }
        }
        Ok(seen.into_iter().flatten().collect())
    }
}

/// How long an answer to a probe may take; whoever is not served has none.
const PATIENCE: Duration = Duration::from_millis(2);

/// Waits until connections from a namespace to all of these are answered; answers when the last was.
/// `start` is when what leads there was started.
pub(crate) fn wait_for_answers(
    from: &Netns,
    addresses: &[SocketAddr],
    start: Instant,
    limit: Duration,
) -> anyhow::Result<Instant> {
    from.run(|| {
        for address in addresses {
            while TcpStream::connect_timeout(address, PATIENCE).is_err() {
                ensure!(start.elapsed() < limit, "{address} does not answer after {limit:?}");
                // Where the kernel says at once that nobody is there.
                std::thread::sleep(Duration::from_micros(500));
            }
        }
        Ok(Instant::now())
    })?
}
