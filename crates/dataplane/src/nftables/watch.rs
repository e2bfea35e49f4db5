//! Noticing that somebody else changed our tables.

use std::collections::BTreeSet;

use kernel::nftables::{Family, Monitor, Notification};
use tokio::io::unix::AsyncFd;

use super::TABLE;
use crate::Result;
use crate::sync::{Update, Updates};

/// Watches the tables of the calling thread's network namespace, from this call on, and hands an
/// update to the sync loop when a transaction of a netlink port other than `own` has changed ours.
///
/// The future ends when the loop does. It has to be made and polled within a tokio runtime.
pub fn watch(own: u32, updates: Updates) -> Result<impl Future<Output = ()> + Send + 'static> {
    let opened = |source: std::io::Error| kernel::Error::os("watch the packet filter", source);
    #[expect(
        deprecated,
        reason = "its successor is unsafe; a monitor keeps its descriptor for life"
    )]
    let mut monitor = AsyncFd::new(Monitor::of_others(own)?).map_err(opened)?;
    Ok(async move {
        let mut touched: BTreeSet<Family> = BTreeSet::new();
        loop {
            let Ok(mut ready) = monitor.readable_mut().await else { return };
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
                        if &*table.name == TABLE {
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
    })
}
