//! Noticing that somebody else changed our chains, or took the rules away that lead to them.
//!
//! The nft flavour is told by the kernel. Of the legacy flavour the kernel tells nobody: twice a second
//! it is asked how many rules the tables have.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use kernel::nftables::{Changed, Monitor, Notification, Subscription};
use kernel::xtables::{TableInfo, Tables};
use model::Family;
use tokio::io::unix::AsyncFd;

use super::chains::{PREFIX, Table};
use crate::Result;
use crate::backend::{Watcher, Watching};
use crate::nftables::netfilter_family;
use crate::sync::{Update, Updates};

/// How often the legacy flavour is asked.
const INTERVAL: Duration = Duration::from_millis(500);

/// No socket has this port.
const NOBODY: u32 = 0;

/// Programs whose changes are remembered as our own.
const REMEMBERED: usize = 64;

/// What backend and watcher have in common: which changes are our own.
#[derive(Debug, Clone, Default)]
pub(super) struct Own(Arc<Mutex<State>>);

#[derive(Debug, Default)]
struct State {
    /// Process numbers of our programs, which are the ports of their sockets.
    ports: VecDeque<u32>,
    /// The ear of a watcher of the nft flavour.
    subscription: Option<Subscription>,
    /// The legacy tables, if somebody watches them, and what was last seen of them.
    legacy: Option<(Vec<Tables>, Seen)>,
    /// Something is being written: what is seen meanwhile is neither the old nor the new.
    is_writing: bool,
}

/// What the kernel tells of each legacy table.
type Seen = Vec<Option<TableInfo>>;

impl Own {
    /// One of our programs was started.
    pub(super) fn started(&self, process: u32) {
        self.with(|state| {
            state.ports.push_front(process);
            state.ports.truncate(REMEMBERED);
        });
    }

    /// Has something written. A large change is not listened to: that would be a notification for each
    /// rule. Answers, beside the result, whether others may have been missed meanwhile.
    pub(super) fn writing<T>(&self, is_large: bool, write: impl FnOnce() -> T) -> (T, bool) {
        let is_deaf = self.with(|state| {
            state.is_writing = true;
            is_large && state.subscription.as_ref().is_some_and(|ear| ear.leave().is_ok())
        });
        let result = write();
        self.with(|state| {
            state.is_writing = false;
            if let Some((tables, seen)) = &mut state.legacy {
                *seen = look(tables);
            }
            if let Some(Err(error)) =
                state.subscription.as_ref().filter(|_| is_deaf).map(Subscription::join)
            {
                tracing::warn!(%error, "changes by others are not noticed any more");
            }
        });
        (result, is_deaf)
    }

    fn with<T>(&self, body: impl FnOnce(&mut State) -> T) -> T {
        body(&mut self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

fn look(tables: &[Tables]) -> Seen {
    let of =
        |tables: &Tables| Table::ALL.map(|table| tables.info(table.as_str()).unwrap_or_default());
    tables.iter().flat_map(of).collect()
}

/// Watches rules of the nft flavour.
pub(super) struct NftWatcher {
    monitor: AsyncFd<Monitor>,
    own: Own,
}

impl NftWatcher {
    /// Has to be called within a tokio runtime.
    pub(super) fn new(own: Own) -> Result<Self> {
        let opened = |source: std::io::Error| kernel::Error::os("watch the packet filter", source);
        let (monitor, subscription) = Monitor::of_others(NOBODY)?;
        subscription.join()?;
        own.with(|state| state.subscription = Some(subscription));
        #[expect(
            deprecated,
            reason = "its successor is unsafe; a monitor keeps its descriptor for life"
        )]
        let monitor = AsyncFd::new(monitor).map_err(opened)?;
        Ok(Self { monitor, own })
    }

    async fn watch(mut self, updates: Updates) {
        loop {
            let Ok(mut ready) = self.monitor.readable_mut().await else { return };
            let (touched, who) = match ready.get_inner_mut().notifications() {
                Ok(notifications) => {
                    let ports = self.own.with(|state| state.ports.clone());
                    let is_other = |port: &u32| !ports.contains(port);
                    let mut touched = notifications.iter().filter_map(by_whom).filter(is_other);
                    let port = touched.next();
                    (port.is_some(), who(port.unwrap_or(0), &notifications))
                }
                // Some were lost, ours perhaps: what they said is unknown, so assume the worst.
                Err(error) => (true, error.to_string()),
            };
            ready.clear_ready();
            if touched && updates.send(Update::Tampered(who)).is_err() {
                return;
            }
        }
    }
}

/// The port of whom has changed something that is ours, or that leads to ours.
fn by_whom(notification: &Notification) -> Option<u32> {
    let Notification::Changed { table, what, is_gone, port } = notification else { return None };
    let is_table = Table::ALL.iter().any(|ours| ours.as_str() == &*table.name);
    let is_touched = match what {
        Changed::Chain(chain) => chain.starts_with(PREFIX),
        // A rule that led to ours, perhaps.
        Changed::Rule(chain) => chain.starts_with(PREFIX) || *is_gone,
        Changed::Other => *is_gone,
    };
    (is_table && is_touched).then_some(*port)
}

/// The program that has this port, as far as the end of a transaction tells.
fn who(port: u32, notifications: &[Notification]) -> String {
    let name = notifications.iter().find_map(|notification| match notification {
        Notification::Generation { port: of, process, .. } if *of == port => process.clone(),
        _ => None,
    });
    name.unwrap_or_else(|| format!("netlink port {port}"))
}

/// Watches tables of the legacy flavour.
pub(super) struct LegacyWatcher {
    own: Own,
}

impl LegacyWatcher {
    /// Opens the tables of the calling thread's network namespace.
    pub(super) fn new(own: Own) -> Result<Self> {
        let open = |family| Tables::open(netfilter_family(family));
        let tables = Family::ALL.into_iter().map(open).collect::<Result<Vec<_>, _>>()?;
        let seen = look(&tables);
        own.with(|state| state.legacy = Some((tables, seen)));
        Ok(Self { own })
    }

    async fn watch(self, updates: Updates) {
        let mut interval = tokio::time::interval(INTERVAL);
        loop {
            interval.tick().await;
            let is_other = self.own.with(|state| match &mut state.legacy {
                Some((tables, seen)) if !state.is_writing => {
                    let now = look(tables);
                    let is_other = *seen != now;
                    *seen = now;
                    is_other
                }
                _ => false,
            });
            if is_other && updates.send(Update::Tampered("another program".into())).is_err() {
                return;
            }
        }
    }
}

impl Watcher for NftWatcher {
    fn run(self: Box<Self>, updates: Updates) -> Watching {
        Box::pin(self.watch(updates))
    }
}

impl Watcher for LegacyWatcher {
    fn run(self: Box<Self>, updates: Updates) -> Watching {
        Box::pin(self.watch(updates))
    }
}
