//! How long to wait before a container that ended is started again. Pure.

use std::time::Duration;

/// Longest wait.
const LIMIT: Duration = Duration::from_secs(300);
/// A container that ran this long starts with a clean slate.
const FORGIVEN_AFTER: Duration = Duration::from_secs(600);

/// Doubling waits, as kubelet does them: the first restart is at once, the second after the base,
/// then twice that, up to five minutes.
#[derive(Debug, Clone)]
pub(super) struct Backoff {
    base: Duration,
    next: Duration,
}

impl Backoff {
    pub(super) fn new(base: Duration) -> Self {
        Self { base, next: Duration::ZERO }
    }

    /// The wait after a run that lasted `ran`.
    pub(super) fn after_run(&mut self, ran: Duration) -> Duration {
        if ran >= FORGIVEN_AFTER {
            self.next = Duration::ZERO;
        }
        self.step()
    }

    /// The wait after an attempt that failed before anything ran: never zero.
    pub(super) fn after_failure(&mut self) -> Duration {
        self.next = self.next.max(self.base);
        self.step()
    }

    fn step(&mut self) -> Duration {
        let wait = self.next;
        self.next = (wait * 2).clamp(self.base, LIMIT.max(self.base));
        wait
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn waits_double_up_to_five_minutes_and_a_long_run_clears_them() {
        let mut backoff = Backoff::new(Duration::from_secs(10));
        let waits: Vec<_> =
            (0..8).map(|_| backoff.after_run(Duration::from_secs(1)).as_secs()).collect();
        assert_eq!(waits, [0, 10, 20, 40, 80, 160, 300, 300]);
        assert_eq!(backoff.after_run(Duration::from_secs(600)).as_secs(), 0);
        assert_eq!(backoff.after_run(Duration::from_secs(1)).as_secs(), 10);
    }

    #[test]
    fn a_failed_attempt_always_waits() {
        let mut backoff = Backoff::new(Duration::from_secs(10));
        assert_eq!(backoff.after_failure().as_secs(), 10);
        assert_eq!(backoff.after_failure().as_secs(), 20);
    }
}
