//! Connections that are translated on the node, by the Service that they go to.

use std::collections::{BTreeMap, HashMap};
use std::net::SocketAddr;
use std::num::NonZeroU16;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use anyhow::Context;
use dataplane::Updates;
use dataplane::ebpf::Ebpf;
use dataplane::mode::Options;
use kernel::conntrack::{Entry, Filter, Transport};
use kernel::netlink::{self, Socket};
use model::{Family, Protocol};
use plan::{FrontendAddress, FrontendKey, NodePlan};
use tokio::sync::{Notify, oneshot};
use tokio::time::Instant;

/// How often connections are counted for metrics at most.
const PERIOD: Duration = Duration::from_secs(15);

/// Who is asked for them: connection tracking, and eBPF for those that are translated at links. Of those that a
/// socket was led with nobody knows: they go to a pod.
#[derive(Debug)]
pub(super) struct Translators {
    tracking: Socket,
    /// None where there can't be any.
    ebpf: Option<Ebpf>,
}

/// The same, for several who ask.
pub(super) type Asked = Arc<Mutex<Translators>>;

/// Translated connections by protocol and where their clients sent them.
pub(super) type Tally = HashMap<(Protocol, SocketAddr), u64>;

/// Opens what is asked, for the network namespace of the calling thread and a control group.
pub(super) fn open(options: &Options) -> anyhow::Result<Asked> {
    let tracking = Socket::open(netlink::Protocol::Netfilter).context("open netfilter")?;
    let ebpf = options.cgroup().and_then(Ebpf::open).ok();
    Ok(Arc::new(Mutex::new(Translators { tracking, ebpf })))
}

/// Counts on a thread of its own, as it takes a while.
pub(super) async fn tally(asked: Asked) -> Result<Tally, String> {
    let counting = tokio::task::spawn_blocking(move || {
        count(&mut asked.lock().unwrap_or_else(PoisonError::into_inner))
    });
    counting.await.map_err(|_| "counting has failed".to_owned())?.map_err(|e| e.to_string())
}

fn count(translators: &mut Translators) -> dataplane::Result<Tally> {
    let Translators { tracking: socket, ebpf } = translators;
    let mut tally = match ebpf {
        Some(ebpf) => ebpf.connections()?,
        None => Tally::new(),
    };
    for family in [kernel::nftables::Family::Ipv4, kernel::nftables::Family::Ipv6] {
        for (transport, protocol) in
            [(Transport::Tcp, Protocol::Tcp), (Transport::Udp, Protocol::Udp)]
        {
            let filter = Filter::all(family, transport);
            // None is kept: there may be millions.
            kernel::conntrack::entries(socket, &filter, |entry: &Entry| {
                let destination = entry.original.destination;
                if entry.reply.source != destination {
                    *tally.entry((protocol, destination)).or_default() += 1;
                }
                false
            })?;
        }
    }
    Ok(tally)
}

/// The same by Service (NAMESPACE/NAME); what is no Service's is left out.
pub(super) fn by_service(plan: &NodePlan, tally: &Tally) -> BTreeMap<String, u64> {
    let mut counts = BTreeMap::new();
    for ((protocol, destination), count) in tally {
        let Some(port) = NonZeroU16::new(destination.port()) else { continue };
        let key = |address| FrontendKey { address, protocol: *protocol, port };
        let any = FrontendAddress::AnyOfNode(Family::of(destination.ip()));
        let owner = plan
            .frontend(&key(FrontendAddress::Ip(destination.ip())))
            .or_else(|| plan.frontend(&key(any)));
        if let Some((group, _)) = owner {
            *counts.entry(group.id.to_string()).or_default() += count;
        }
    }
    counts
}

/// Counts once, and again each time somebody has `asked`, and hands the counts to `note`. Has to be
/// called on a thread of the node's network namespace.
pub(crate) fn watch(
    options: &Options,
    updates: Updates,
    asked: Arc<Notify>,
    note: impl Fn(BTreeMap<String, u64>) + Send + 'static,
) -> anyhow::Result<impl Future<Output = ()> + Send + 'static> {
    let translators = open(options)?;
    Ok(async move {
        loop {
            let counted = Instant::now();
            match tally(translators.clone()).await {
                Ok(tally) => {
                    let (reply, answered) = oneshot::channel();
                    let look = move |plan: &NodePlan, _: &mut dyn dataplane::Backend, _: &_| {
                        // The process may be ending.
                        let _ = reply.send(by_service(plan, &tally));
                    };
                    if updates.inspect(look).is_err() {
                        return;
                    }
                    if let Ok(counts) = answered.await {
                        note(counts);
                    }
                }
                Err(error) => tracing::debug!(%error, "connections are not counted"),
            }
            asked.notified().await;
            let due = counted + PERIOD;
            tokio::time::sleep_until(due).await;
        }
    })
}
