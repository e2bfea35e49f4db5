//! Noticing that somebody else changed our tables.

use std::collections::BTreeSet;

use kernel::nftables::{Family, Monitor, Notification};
use tokio::io::unix::AsyncFd;

use crate::Result;
use crate::backend::{self, Watching};
use crate::sync::{Update, Updates};

/// Watches our tables in a network namespace.
#[derive(Debug)]
pub(super) struct Watcher {
    monitor: AsyncFd<Monitor>,
    table: &'static str,
}

impl Watcher {
    /// Has to be called within a tokio runtime.
    pub(super) fn new(monitor: Monitor, table: &'static str) -> Result<Self> {
        let opened = |source: std::io::Error| kernel::Error::os("watch the packet filter", source);
        #[expect(
            deprecated,
            reason = "its successor is unsafe; a monitor keeps its descriptor for life"
        )]
        let monitor = AsyncFd::new(monitor).map_err(opened)?;
        Ok(Self { monitor, table })
    }

    /// A transaction that is not the backend's own has changed our tables.
    async fn watch(mut self, updates: Updates) {
        let mut touched: BTreeSet<Family> = BTreeSet::new();
        loop {
            let Ok(mut ready) = self.monitor.readable_mut().await else { return };
            let notifications = match ready.get_inner_mut().notifications() {
                Ok(notifications) => notifications,
                Err(error) => {
                    // Some were lost: what they said is unknown, so assume the worst.
                    if updates.send(Update::Tampered(error.to_string())).is_err() {
                        return;
                    }
                    continue;
                }
            };
            ready.clear_ready();
            for notification in notifications {
                match notification {
                    Notification::Changed { table, .. } => {
                        if *table.name == *self.table {
                            touched.insert(table.family);
                        }
                    }
                    Notification::Generation { port, process, .. } => {
                        if !std::mem::take(&mut touched).is_empty() {
                            let who = process.unwrap_or_else(|| format!("netlink port {port}"));
                            if updates.send(Update::Tampered(who)).is_err() {
                                return;
                            }
                        }
                    }
                }
            }
        }
    }
}

impl backend::Watcher for Watcher {
    fn run(self: Box<Self>, updates: Updates) -> Watching {
        Box::pin(self.watch(updates))
    }
}
