//! When did the change happen that a slice is written for? Holds no clock: compares the times that
//! objects carry with those of the last look.

use std::collections::HashMap;
use std::sync::Arc;

/// What was seen of one Service at the last look; `T` is a point in time.
#[derive(Debug, Clone)]
pub struct Triggers<T> {
    service: Option<T>,
    pods: HashMap<Arc<str>, T>,
}

impl<T> Default for Triggers<T> {
    fn default() -> Self {
        Self { service: None, pods: HashMap::new() }
    }
}

impl<T: Ord + Copy> Triggers<T> {
    /// Takes in the creation time of the Service and, for each of its pods, the uid and the time
    /// its Ready condition last changed.
    ///
    /// At the first look the answer is the creation time; later the earliest time that has advanced
    /// since the look before, if any has: the deletion of a pod carries no time.
    pub fn look(&mut self, service: T, pods: impl IntoIterator<Item = (Arc<str>, T)>) -> Option<T> {
        let first = self.service.is_none();
        let pods: HashMap<Arc<str>, T> = pods.into_iter().collect();
        let advanced = pods
            .iter()
            .filter(|(uid, time)| self.pods.get(*uid).is_none_or(|seen| seen < *time))
            .map(|(_, time)| *time)
            .chain((self.service < Some(service)).then_some(service))
            .min();
        self.pods = pods;
        self.service = Some(service);
        if first { Some(service) } else { advanced }
    }
}
