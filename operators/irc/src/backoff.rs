//! How long to wait before the next attempt to connect.

use std::time::Duration;

const FIRST: Duration = Duration::from_secs(1);
const MAX: Duration = Duration::from_secs(120);

/// 1 s, doubled up to 2 min, each time between half and all of it, so that a network that comes back is not hit by all
/// its bots in the same second.
#[derive(Debug, Default)]
pub(crate) struct Backoff {
    failures: u32,
}

impl Backoff {
    /// The wait after one more failure; never below `least`. `jitter` is from 0 to 1.
    pub(crate) fn next(&mut self, least: Duration, jitter: f64) -> Duration {
        let full = FIRST.saturating_mul(1 << self.failures.min(16)).min(MAX);
        self.failures = self.failures.saturating_add(1);
        full.mul_f64(0.5 + 0.5 * jitter.clamp(0.0, 1.0)).max(least).max(FIRST)
    }

    /// The connection has proved good.
    pub(crate) fn reset(&mut self) {
        self.failures = 0;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn doubles_up_to_two_minutes_with_jitter() {
        let mut longest = Backoff::default();
        let waits: Vec<u64> = (0..9).map(|_| longest.next(Duration::ZERO, 1.0).as_secs()).collect();
        assert_eq!(waits, [1, 2, 4, 8, 16, 32, 64, 120, 120]);
        let mut shortest = Backoff::default();
        let waits: Vec<u64> = (0..9).map(|_| shortest.next(Duration::ZERO, 0.0).as_secs()).collect();
        assert_eq!(waits, [1, 1, 2, 4, 8, 16, 32, 60, 60]);
        shortest.reset();
        assert_eq!(shortest.next(Duration::from_secs(30), 0.0).as_secs(), 30);
        for _ in 0..100 {
            assert!(shortest.next(Duration::ZERO, 1.0) <= MAX);
        }
    }
}
