//! Noticing that somebody else has detached our programs.
//!
//! The kernel tells nobody, so they are looked at from time to time. Of the companion's table it tells.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use super::programs::Programs;
use crate::backend::{Watcher, Watching};
use crate::sync::{Update, Updates};

/// How often is looked.
const INTERVAL: Duration = Duration::from_secs(1);

/// Watches programs and the companion.
pub(super) struct ProgramWatcher {
    programs: Arc<Programs>,
    /// Whether they ought to be there, and are not being replaced.
    is_expected: Arc<AtomicBool>,
    companion: Box<dyn Watcher>,
}

impl ProgramWatcher {
    pub(super) fn new(
        programs: Arc<Programs>,
        is_expected: Arc<AtomicBool>,
        companion: Box<dyn Watcher>,
    ) -> Self {
        Self { programs, is_expected, companion }
    }
}

async fn watch(programs: Arc<Programs>, is_expected: Arc<AtomicBool>, updates: Updates) {
    loop {
        tokio::time::sleep(INTERVAL).await;
        let is_missing = || programs.any_at_work().is_ok_and(|is_there| !is_there);
        // Twice: they may have been about to be replaced when it was looked.
        let expected = || is_expected.load(Ordering::Acquire);
        if expected()
            && is_missing()
            && expected()
            && updates.send(Update::Tampered("another program".into())).is_err()
        {
            return;
        }
    }
}

impl Watcher for ProgramWatcher {
    fn run(self: Box<Self>, updates: Updates) -> Watching {
        let Self { programs, is_expected, companion } = *self;
        let companion = companion.run(updates.clone());
        Box::pin(async move {
            tokio::select! {
                () = companion => {}
                () = watch(programs, is_expected, updates) => {}
            }
        })
    }
}
