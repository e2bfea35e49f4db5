//! Noticing that somebody else has detached our programs, and that links or addresses have changed.
//!
//! Of links and addresses the kernel tells, and of the companion's table. Of programs it tells nobody, so they
//! are looked at from time to time.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use kernel::netns::Netns;
use kernel::route::Monitor;
use tokio::io::unix::AsyncFd;

use super::host::Filters;
use super::programs::Programs;
use crate::Result;
use crate::backend::{Watcher, Watching};
use crate::sync::{Update, Updates};

/// How often programs are looked at.
const INTERVAL: Duration = Duration::from_millis(500);

/// What backend and watcher have in common: what ought to be attached.
#[derive(Debug, Clone, Default)]
pub(super) struct Expected {
    /// The generation at work; none while it is replaced.
    generation: Arc<Mutex<Option<String>>>,
    /// Programs were told that nobody filters what is forwarded.
    may_redirect: Arc<AtomicBool>,
    /// A change of links has been told and is not programmed yet.
    is_stale: Arc<AtomicBool>,
}

impl Expected {
    pub(super) fn set(&self, generation: Option<&str>) {
        *self.generation.lock().unwrap_or_else(PoisonError::into_inner) =
            generation.map(str::to_owned);
        self.is_stale.store(false, Ordering::Release);
    }

    pub(super) fn set_may_redirect(&self, may_redirect: bool) {
        self.may_redirect.store(may_redirect, Ordering::Release);
    }

    fn get(&self) -> Option<String> {
        self.generation.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

/// Watches programs, links and the companion.
pub(super) struct ProgramWatcher {
    programs: Arc<Programs>,
    expected: Expected,
    netns: Netns,
    links: AsyncFd<Monitor>,
    companion: Box<dyn Watcher>,
}

impl ProgramWatcher {
    /// Has to be called in the network namespace of the links, and within a tokio runtime.
    pub(super) fn new(
        programs: Arc<Programs>,
        expected: Expected,
        companion: Box<dyn Watcher>,
    ) -> Result<Self> {
        let opened = |source: std::io::Error| kernel::Error::os("watch links", source);
        #[expect(
            deprecated,
            reason = "its successor is unsafe; a monitor keeps its descriptor for life"
        )]
        let links = AsyncFd::new(Monitor::open()?).map_err(opened)?;
        Ok(Self { programs, expected, netns: Netns::current()?, links, companion })
    }
}

async fn watch_links(mut links: AsyncFd<Monitor>, expected: Expected, updates: Updates) {
    loop {
        let Ok(mut ready) = links.readable_mut().await else { return };
        let has_changed = ready.get_inner_mut().has_changed();
        ready.clear_ready();
        if has_changed {
            expected.is_stale.store(true, Ordering::Release);
            if updates.send(Update::Host).is_err() {
                return;
            }
        }
    }
}

async fn watch_programs(
    netns: Netns,
    programs: Arc<Programs>,
    expected: Expected,
    updates: Updates,
) {
    let mut filters = Filters::default();
    loop {
        tokio::time::sleep(INTERVAL).await;
        // Who begins to filter what is forwarded wants to be asked from now on.
        let is_filtered = netns.within(|| filters.are_there()).ok().and_then(Result::ok);
        let Some(generation) = expected.get() else { continue };
        // What was told may be of a moment ago, and the next that is told may be on its way: it does no harm twice.
        let is_told_wrong = is_filtered == Some(expected.may_redirect.load(Ordering::Acquire));
        if is_told_wrong && updates.send(Update::Host).is_err() {
            return;
        }
        let is_missing = programs.is_at_work(&generation).is_ok_and(|is_there| !is_there);
        // It may have been about to be replaced, or a link about to go, when it was looked.
        let is_still = expected.get().is_some_and(|now| now == generation);
        if is_missing
            && is_still
            && !expected.is_stale.load(Ordering::Acquire)
            && updates.send(Update::Tampered("another program".into())).is_err()
        {
            return;
        }
        // A link that has gone is told by itself; this is for who takes programs off one that is there.
        let is_loose = programs.is_loose(&generation).is_ok_and(|is_loose| is_loose);
        if is_loose && updates.send(Update::Host).is_err() {
            return;
        }
    }
}

impl Watcher for ProgramWatcher {
    fn run(self: Box<Self>, updates: Updates) -> Watching {
        let Self { programs, expected, netns, links, companion } = *self;
        let companion = companion.run(updates.clone());
        let links = watch_links(links, expected.clone(), updates.clone());
        Box::pin(async move {
            tokio::select! {
                () = companion => {}
                () = links => {}
                () = watch_programs(netns, programs, expected, updates) => {}
            }
        })
    }
}
