//! The recent changes, kept in memory for watches.

use std::collections::VecDeque;
use std::sync::Arc;

use super::{Key, Stored};
use crate::status::{Result, Status};

/// Changes that are kept.
const CAPACITY: usize = 10_000;

/// One change of one object.
#[derive(Debug)]
pub(crate) struct Change {
    /// Its revision.
    pub revision: u64,
    /// The object.
    pub key: Key,
    /// Before; `None` if it was new.
    pub old: Option<Arc<Stored>>,
    /// After; `None` if it was removed.
    pub new: Option<Arc<Stored>>,
    /// If it was removed, its last state with the revision of the removal.
    pub gone: Option<Arc<Stored>>,
}

/// A window of changes without gaps.
#[derive(Debug)]
pub(super) struct Log {
    /// Changes after this revision are here.
    complete_after: u64,
    changes: VecDeque<Arc<Change>>,
}

impl Log {
    pub(super) fn starting_at(revision: u64) -> Self {
        Self { complete_after: revision, changes: VecDeque::new() }
    }

    pub(super) fn append(&mut self, changes: Vec<Arc<Change>>) {
        self.changes.extend(changes);
        while self.changes.len() > CAPACITY {
            if let Some(forgotten) = self.changes.pop_front() {
                self.complete_after = forgotten.revision;
            }
        }
    }

    pub(super) fn since(&self, revision: u64) -> Result<Vec<Arc<Change>>> {
        if revision < self.complete_after {
            return Err(Status::expired(revision, self.complete_after));
        }
        let start = self.changes.partition_point(|change| change.revision <= revision);
        Ok(self.changes.range(start..).cloned().collect())
    }
}
