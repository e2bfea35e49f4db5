//! What others have answered, for as long as it is good, and a while longer for when they do not answer.
//!
//! Who asks often does not wait: what is about to be over is asked again beforehand.

mod stored;
#[cfg(test)]
mod tests;

use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use arrayvec::ArrayVec;

use crate::table::Table;
use crate::wire::Query;
pub(crate) use stored::{Sense, Stored, flags_of};

/// How many lists entries are in.
const LISTS: usize = 1024;
/// A name, a type and flags.
const LONGEST_KEY: usize = 255 + 3;

/// What is kept for how long.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Limits {
    /// How many answers.
    pub entries: usize,
    /// How long at most that there is something, and that there is nothing.
    pub success: Duration,
    /// See above.
    pub denial: Duration,
    /// And at least.
    pub least: Duration,
    /// How long after its time an answer is given if there is no other.
    pub stale: Duration,
    /// How often something has to be asked for to be asked again beforehand; 0 for never.
    pub prefetch: u32,
}

impl Default for Limits {
    /// As CoreDNS, but with what it does on request.
    fn default() -> Self {
        Self {
            entries: 10_000,
            success: Duration::from_secs(3600),
            denial: Duration::from_secs(1800),
            least: Duration::from_secs(5),
            stale: Duration::from_secs(3600),
            prefetch: 2,
        }
    }
}

/// How long a failure is believed (RFC 2308, 7.1).
const FAILURE: Duration = Duration::from_secs(5);
/// What is told of the time to live of an answer that is past its time (RFC 8767, 4: 30 s; names of clusters move).
pub(crate) const STALE: Duration = Duration::from_secs(5);

/// Answers by questions.
#[derive(Debug)]
pub(crate) struct Cache {
    entries: Table<Arc<[u8]>, Arc<Entry>>,
    /// Who writes.
    writer: Mutex<()>,
    limits: Limits,
    counts: Counts,
}

/// What a cache has done.
#[derive(Debug, Default)]
pub struct Counts {
    /// Questions that it had an answer to: that there is something, or that there is nothing.
    pub hits: [AtomicU64; 2],
    /// Questions that it had none to.
    pub misses: AtomicU64,
    /// What was asked again beforehand.
    pub prefetches: AtomicU64,
    /// Answers that were given after their time.
    pub stale: AtomicU64,
    /// Entries that had to make room.
    pub evictions: AtomicU64,
    /// How many entries there are.
    pub entries: AtomicU64,
}

/// An answer that is kept.
#[derive(Debug)]
struct Entry {
    stored: Arc<Stored>,
    is_denial: bool,
    since: Instant,
    /// How long it is good.
    life: Duration,
    uses: AtomicU32,
    /// It is being asked for again.
    is_asked: AtomicBool,
}

/// What a question is found by: name, type, and what its answer depends on.
pub(crate) type Key = ArrayVec<u8, LONGEST_KEY>;

/// What is found by a query.
pub(crate) fn key(query: &Query<'_>) -> Key {
    let mut key = Key::new();
    let is_dnssec_ok = query.edns.is_some_and(|edns| edns.is_dnssec_ok);
    let parts = [query.name.bytes(), &query.kind.0.to_be_bytes()];
    for part in parts {
        key.try_extend_from_slice(part).expect("there is room for a name");
    }
    key.push(flags_of(query) | u8::from(is_dnssec_ok) << 1);
    key
}

/// An answer that was found.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Hit {
    /// How long what was written is.
    pub(crate) length: usize,
    /// It is about to be over: whoever gets this is the one to ask again.
    pub(crate) is_due: bool,
}

impl Cache {
    pub(crate) fn new(limits: Limits) -> Self {
        Self {
            entries: Table::with_lists(LISTS),
            writer: Mutex::new(()),
            limits,
            counts: Counts::default(),
        }
    }

    pub(crate) fn counts(&self) -> &Counts {
        &self.counts
    }

    /// Writes the answer to a query, if it is known and good.
    pub(crate) fn answer(
        &self,
        query: &Query<'_>,
        key: &[u8],
        now: Instant,
        buffer: &mut [u8],
    ) -> Option<Hit> {
        let answered = self.entries.with(key, |entry| {
            let age = now.saturating_duration_since(entry.since);
            let left = entry.life.checked_sub(age).filter(|left| !left.is_zero())?;
            let length = entry.stored.answer(query, age, left, buffer);
            let uses = entry.uses.fetch_add(1, Ordering::Relaxed) + 1;
            // A tenth of its life before it is over, as CoreDNS; of a short one, two seconds.
            let is_late = left < (entry.life / 10).max(Duration::from_secs(2));
            let is_wanted = self.limits.prefetch > 0 && uses >= self.limits.prefetch;
            let is_due = is_late && is_wanted && !entry.is_asked.swap(true, Ordering::Relaxed);
            Some((Hit { length, is_due }, entry.is_denial))
        });
        match answered.flatten() {
            Some((hit, is_denial)) => {
                self.counts.hits[usize::from(is_denial)].fetch_add(1, Ordering::Relaxed);
                if hit.is_due {
                    self.counts.prefetches.fetch_add(1, Ordering::Relaxed);
                }
                Some(hit)
            }
            None => {
                self.counts.misses.fetch_add(1, Ordering::Relaxed);
                None
            }
        }
    }

    /// What was known until not long ago, for when nothing else is to be had.
    pub(crate) fn stale(&self, key: &[u8], now: Instant) -> Option<Arc<Stored>> {
        let most = self.limits.stale;
        let known = self.entries.with(key, |entry| {
            let age = now.saturating_duration_since(entry.since);
            // That nobody knew is nothing to give.
            let is_useful = entry.stored.sense() != Sense::Failure && age < entry.life + most;
            is_useful.then(|| entry.stored.clone())
        });
        known.flatten()
    }

    /// Counts an answer that was given after its time.
    pub(crate) fn count_stale(&self) {
        self.counts.stale.fetch_add(1, Ordering::Relaxed);
    }

    /// Keeps an answer for as long as it is good. One that could not be found out does not take the place of one that
    /// may still be given.
    pub(crate) fn put(&self, key: &[u8], stored: &Arc<Stored>, now: Instant) {
        let limits = &self.limits;
        let (life, is_denial) = match (stored.sense(), stored.ttl) {
            (Sense::Success, Some(ttl)) => (ttl.min(limits.success).max(limits.least), false),
            (Sense::Denial, Some(ttl)) => (ttl.min(limits.denial).max(limits.least), true),
            (Sense::Failure, _) => (FAILURE, true),
            _ => return self.ask_again(key),
        };
        if stored.sense() == Sense::Failure && self.stale(key, now).is_some() {
            return self.ask_again(key);
        }
        let entry = Entry {
            stored: stored.clone(),
            is_denial,
            since: now,
            life,
            uses: AtomicU32::new(0),
            is_asked: AtomicBool::new(false),
        };
        let _writing = self.writer.lock().unwrap_or_else(PoisonError::into_inner);
        let room = limits.entries.div_ceil(LISTS).max(1);
        // Who is nearest to its end, or past it, makes room.
        let end_of = |entry: &Arc<Entry>| entry.since + entry.life;
        let (added, evicted) = self.entries.set_within(key.into(), Arc::new(entry), room, end_of);
        self.counts.evictions.fetch_add(evicted, Ordering::Relaxed);
        // Never below 0: what goes has come.
        self.counts.entries.fetch_add(added.wrapping_sub(evicted), Ordering::Relaxed);
    }

    /// Asking for something again came to nothing: the next one may try.
    pub(crate) fn ask_again(&self, key: &[u8]) {
        self.entries.with(key, |entry| entry.is_asked.store(false, Ordering::Relaxed));
    }
}
