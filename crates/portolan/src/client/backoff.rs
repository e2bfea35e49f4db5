//! Waiting times between attempts: doubling, bounded, with jitter.

use std::hash::{BuildHasher, RandomState};
use std::time::Duration;

/// Doubles from `first` to `limit`; each wait is between half and all of that, so that many
/// clients that lost the same server don't return at once.
#[derive(Debug, Clone)]
pub(crate) struct Backoff {
    first: Duration,
    limit: Duration,
    attempts: u32,
}

impl Backoff {
    /// Waits of `first` at first and `limit` at most.
    pub(crate) fn new(first: Duration, limit: Duration) -> Self {
        Self { first, limit, attempts: 0 }
    }

    /// The next time to wait.
    pub(crate) fn advance(&mut self) -> Duration {
        let whole = self.first.saturating_mul(1 << self.attempts.min(30)).min(self.limit);
        self.attempts = self.attempts.saturating_add(1);
        whole.mul_f64(0.5 + 0.5 * random_fraction())
    }

    /// Begins again at the first wait.
    pub(crate) fn reset(&mut self) {
        self.attempts = 0;
    }
}

/// A number in `0.0..1.0`. The standard library seeds its hashers randomly; that is enough here.
fn random_fraction() -> f64 {
    let bits = RandomState::new().hash_one(0u8) >> 11;
    bits as f64 / (1u64 << 53) as f64
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn doubles_up_to_the_limit_and_starts_again() {
        let first = Duration::from_millis(100);
        let limit = Duration::from_secs(10);
        let mut backoff = Backoff::new(first, limit);
        for attempt in 0..100u32 {
            let whole = first.saturating_mul(1 << attempt.min(20)).min(limit);
            let wait = backoff.advance();
            assert!(wait >= whole / 2 && wait <= whole, "attempt {attempt}: {wait:?}");
        }
        backoff.reset();
        assert!(backoff.advance() <= first);
    }
}
