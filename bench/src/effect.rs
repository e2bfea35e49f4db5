//! Seeing in the kernel that something has taken effect: by the packet filter's own notifications, by
//! asking IPVS, and by packets.

use std::collections::BTreeSet;
use std::io::{Read, Write};
use std::net::{IpAddr, Ipv4Addr, SocketAddr, SocketAddrV4, TcpListener, TcpStream};
use std::os::fd::AsFd;
use std::path::Path;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, ensure};
use kernel::ipvs::{Ipvs, Transport, VirtualServerKey};
use kernel::netlink::{Protocol, Socket};
use kernel::netns::Netns;
use kernel::nftables::{self, Family, Table};
use kernel::xtables::Tables;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};

use crate::cluster::{ENDPOINT_PORT, ENDPOINTS};
use crate::control::Objects;
use crate::site::{Client, Site};

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
    /// By asking IPVS, which tells nobody of its changes.
    Servers(Servers),
    /// By connections of a client, made until one shows the change.
    Packets(Packets<'a>),
}

/// Connections that show a change.
pub(crate) struct Packets<'a> {
    site: &'a Site,
    /// How long one may take.
    patience: Duration,
    /// How many were made since connection tracking was emptied.
    made: u32,
}

/// So many connections that have ended the node tracks at most: they stay for two minutes, and once its
/// table is full it drops what is new.
const MOST_TRACKED: u32 = 20_000;

impl<'a> Packets<'a> {
    /// Connections of the client of a site.
    pub(crate) fn of(site: &'a Site, patience: Duration) -> Self {
        Self { site, patience, made: 0 }
    }

    fn wait_for(&mut self, expected: &[Expected], limit: Duration) -> anyhow::Result<Vec<Instant>> {
        let start = Instant::now();
        let mut seen = Vec::new();
        for expected in expected {
            loop {
                let patience = self.patience;
                let (shown, made) = self.site.client.run(|| {
                    let mut made = 0;
                    while made < PROBES {
                        made += 1;
                        if shows(expected, patience) {
                            return (Some(Instant::now()), made);
                        }
                    }
                    (None, made)
                })?;
                self.made += made;
                if self.made > MOST_TRACKED {
                    self.site.run(&self.site.node, &["conntrack", "-F"])?;
                    self.made = 0;
                }
                if let Some(at) = shown {
                    seen.push(at);
                    break;
                }
                ensure!(start.elapsed() < limit, "no effect in {limit:?}: {expected:?}");
            }
        }
        Ok(seen)
    }
}

/// Connections that are made without looking at anything else.
const PROBES: u32 = 1_000;

impl Observer<'_> {
    /// Forgets what was seen so far.
    pub(crate) fn clear(&mut self) {
        let listener = match self {
            Observer::Notifications(listener) => listener,
            Observer::Servers(servers) => &mut servers.listener,
            Observer::Packets(..) => return,
        };
        // If some were lost, all are forgotten all the same.
        let _ = listener.socket.notifications();
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
            Observer::Servers(servers) => servers.wait_for(expected, limit),
            Observer::Packets(packets) => packets.wait_for(expected, limit),
        }
    }
}

/// Whether a connection shows what is expected.
fn shows(expected: &Expected, patience: Duration) -> bool {
    let Ok(mut stream) = TcpStream::connect_timeout(&expected.service.into(), patience) else {
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
            for name in
                ["portolan", "portolan-ipvs", "portolan-ebpf", "kube-proxy", "nat", "filter"]
            {
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
        // Asking for it would load it where it is not in use.
        if Path::new("/proc/net/ip_vs").exists()
            && let Some(mut ipvs) = Ipvs::open()?
        {
            for server in ipvs.servers()? {
                objects.servers += 1;
                objects.destinations += ipvs.destinations(&server.key())?.len() as u64;
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

/// How long IPVS is left alone before it is asked again: asking keeps it from being changed.
const PAUSE: Duration = Duration::from_micros(100);

/// Sees what changes in IPVS of a namespace.
///
/// Of virtual servers the kernel tells nobody, so that their destinations are asked for until they are as
/// expected. A new Service is reached when its address and its part of the packet filter are there, which come
/// after its destinations and of which there are notifications.
pub(crate) struct Servers {
    ipvs: Ipvs,
    listener: Listener,
}

impl Servers {
    /// Opens IPVS of a namespace and begins to listen.
    pub(crate) fn open(netns: &Netns) -> anyhow::Result<Self> {
        let ipvs = Ipvs::open_in(netns)?.context("this kernel has no IPVS (module ip_vs)")?;
        Ok(Self { ipvs, listener: Listener::open(netns)? })
    }

    fn wait_for(&mut self, expected: &[Expected], limit: Duration) -> anyhow::Result<Vec<Instant>> {
        let is_new = |expected: &&Expected| expected.endpoint.is_none();
        let new: Vec<Ipv4Addr> = expected.iter().filter(is_new).map(|e| *e.service.ip()).collect();
        let start = Instant::now();
        let mut seen = Vec::new();
        for (service, endpoint) in expected.iter().filter_map(|e| Some((e.service, e.endpoint?))) {
            while !self.leads_to(service, endpoint)? {
                ensure!(
                    start.elapsed() < limit,
                    "virtual server {service} does not lead to {endpoint} after {limit:?}"
                );
                thread::sleep(PAUSE);
            }
            seen.push(Instant::now());
        }
        let mut of_new = self.listener.wait_for(&new, limit)?.into_iter();
        let mut of_others = seen.into_iter();
        let each = expected.iter().filter_map(|expected| match expected.endpoint {
            Some(_) => of_others.next(),
            None => of_new.next(),
        });
        Ok(each.collect())
    }

    /// Whether a Service leads to this endpoint, and to no more than it has: one that was replaced stays as
    /// long as it has connections, with weight 0.
    fn leads_to(&mut self, service: SocketAddrV4, endpoint: Ipv4Addr) -> anyhow::Result<bool> {
        let key = VirtualServerKey::Address { transport: Transport::Tcp, address: service.into() };
        let destinations = self.ipvs.destinations(&key)?.into_iter().map(|state| state.destination);
        let taking: Vec<IpAddr> =
            destinations.filter(|d| d.weight > 0).map(|d| d.address.ip()).collect();
        Ok(taking.contains(&endpoint.into()) && taking.len() == ENDPOINTS as usize)
    }
}

/// Waits until connections from a namespace to all of these are answered; answers when the last was.
/// `start` is when what leads there was started, `patience` how long an answer may take: whoever is not
/// served has none. `check` fails when there is nothing to wait for any more.
pub(crate) fn wait_for_answers(
    from: &Client,
    addresses: &[SocketAddr],
    start: Instant,
    limit: Duration,
    patience: Duration,
    mut check: impl FnMut() -> anyhow::Result<()> + Send,
) -> anyhow::Result<Instant> {
    from.run(|| {
        for address in addresses {
            while TcpStream::connect_timeout(address, patience).is_err() {
                ensure!(start.elapsed() < limit, "{address} does not answer after {limit:?}");
                check()?;
                // Where the kernel says at once that nobody is there.
                std::thread::sleep(Duration::from_micros(500));
            }
        }
        Ok(Instant::now())
    })?
}
