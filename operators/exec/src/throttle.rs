//! How much a program may fill the journal: a burst, then so much a second; what is beyond is counted.

use std::time::Duration;

use tokio::time::Instant;

#[derive(Debug)]
pub(crate) struct Throttle {
    burst: u32,
    /// Between two of them once the burst is used up.
    pause: Duration,
    /// When the burst would be full again.
    full_at: Instant,
    refused: u64,
}

impl Throttle {
    pub(crate) fn new(burst: u32, per_second: u32) -> Self {
        Self { burst, pause: Duration::from_secs(1) / per_second, full_at: Instant::now(), refused: 0 }
    }

    /// Whether one more is allowed.
    pub(crate) fn allows(&mut self) -> bool {
        let now = Instant::now();
        let full_at = self.full_at.max(now) + self.pause;
        if full_at > now + self.pause * self.burst {
            self.refused += 1;
            return false;
        }
        self.full_at = full_at;
        true
    }

    /// How many were refused since the last call.
    pub(crate) fn take_refused(&mut self) -> u64 {
        std::mem::take(&mut self.refused)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_burst_and_then_so_many_a_second() {
        let mut throttle = Throttle::new(5, 10);
        let allowed = |throttle: &mut Throttle, tries| (0..tries).filter(|_| throttle.allows()).count();
        assert_eq!(allowed(&mut throttle, 20), 5);
        assert_eq!(throttle.take_refused(), 15);
        tokio::time::advance(Duration::from_millis(300)).await;
        assert_eq!(allowed(&mut throttle, 20), 3);
        assert_eq!(throttle.take_refused(), 17);
        tokio::time::advance(Duration::from_secs(3600)).await;
        assert_eq!(allowed(&mut throttle, 20), 5, "no more than the burst, however long it was quiet");
        assert_eq!((throttle.take_refused(), throttle.take_refused()), (15, 0));
    }
}
