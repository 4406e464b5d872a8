//! How fast we may write: a token bucket, and the bounded queue of what waits for it.

use std::collections::VecDeque;
use std::time::Duration;

use libeevee::operator::COMMAND_AGE_MAX;
use tokio::time::Instant;

use crate::line::Line;

/// The most lines of chat that wait. At one line a second this is five minutes; what comes later would be stale anyhow.
pub(crate) const QUEUE_LINES_MAX: usize = 300;
/// The most lines of our own (joins, CTCP answers) that wait.
const OWN_LINES_MAX: usize = 200;
/// How long chat waits for a target that cannot be reached: a channel that is being joined, a network that is away. What
/// is older answers nobody any more; commands have the same limit.
pub(crate) const HOLD_MAX: Duration = COMMAND_AGE_MAX;

/// Gives `burst` tokens at once and then `per_second`.
#[derive(Debug, Clone)]
pub(crate) struct Bucket {
    burst: f64,
    per_second: f64,
    tokens: f64,
    counted_at: Instant,
}

impl Bucket {
    pub(crate) fn new(burst: u32, per_second: f64, now: Instant) -> Self {
        let burst = f64::from(burst.max(1));
        Self { burst, per_second, tokens: burst, counted_at: now }
    }

    /// Other limits, without giving away more than the old ones had left.
    pub(crate) fn change(&mut self, burst: u32, per_second: f64, now: Instant) {
        self.count(now);
        self.burst = f64::from(burst.max(1));
        self.per_second = per_second;
        self.tokens = self.tokens.min(self.burst);
    }

    pub(crate) fn take(&mut self, now: Instant) -> bool {
        self.count(now);
        // Sums of fractions miss 1 by a hair.
        let enough = self.tokens > 1.0 - 1e-9;
        if enough {
            self.tokens -= 1.0;
        }
        enough
    }

    /// When there is a token again.
    pub(crate) fn ready_at(&self) -> Instant {
        let missing = (1.0 - self.tokens).max(0.0);
        self.counted_at + Duration::from_secs_f64((missing / self.per_second).min(3600.0))
    }

    fn count(&mut self, now: Instant) {
        let passed = now.saturating_duration_since(self.counted_at).as_secs_f64();
        self.tokens = (self.tokens + passed * self.per_second).min(self.burst);
        self.counted_at = now;
    }
}

/// What waits to be written: our own lines first, then chat, by turns for each target, so that one long text for one
/// channel does not hold up all others. The order within a target is kept. Chat survives a lost connection for a while:
/// what is said to a channel that is being joined waits for it.
#[derive(Debug, Default)]
pub(crate) struct Queue {
    own: VecDeque<Line>,
    chat: VecDeque<Waiting>,
    chat_lines: usize,
}

#[derive(Debug)]
struct Waiting {
    target: String,
    lines: VecDeque<(Instant, Line)>,
}

impl Queue {
    /// Adds a line of our own; when even these are too many, the oldest goes: a later one says the same or more.
    pub(crate) fn push_own(&mut self, line: Line) {
        if self.own.len() == OWN_LINES_MAX {
            tracing::warn!(line = ?self.own.front(), "more than {OWN_LINES_MAX} lines of our own wait, the oldest is dropped");
            self.own.pop_front();
        }
        self.own.push_back(line);
    }

    /// Adds the lines of one message. Returns how many did not fit and are lost.
    pub(crate) fn push_chat(&mut self, target: &str, lines: Vec<Line>, now: Instant) -> usize {
        let lost = lines.len().saturating_sub(QUEUE_LINES_MAX - self.chat_lines);
        let taken = lines.len() - lost;
        if taken > 0 {
            self.chat_lines += taken;
            let lines = lines.into_iter().take(taken).map(|line| (now, line));
            match self.chat.iter_mut().find(|w| w.target == target) {
                Some(waiting) => waiting.lines.extend(lines),
                None => self.chat.push_back(Waiting { target: target.to_owned(), lines: lines.collect() }),
            }
        }
        lost
    }

    /// The next line; of chat only what is for a target that can be reached now.
    pub(crate) fn pop(&mut self, reachable: impl Fn(&str) -> bool) -> Option<Line> {
        if let Some(line) = self.own.pop_front() {
            return Some(line);
        }
        let at = self.chat.iter().position(|w| reachable(&w.target))?;
        let mut waiting = self.chat.remove(at)?;
        let line = waiting.lines.pop_front().map(|(_, line)| line);
        self.chat_lines -= usize::from(line.is_some());
        if !waiting.lines.is_empty() {
            self.chat.push_back(waiting);
        }
        line
    }

    /// Whether [`Queue::pop`] would give a line.
    pub(crate) fn has_work(&self, reachable: impl Fn(&str) -> bool) -> bool {
        !self.own.is_empty() || self.chat.iter().any(|w| reachable(&w.target))
    }

    /// Forgets what has waited for [`HOLD_MAX`] for a target that cannot be reached; says how many lines for whom.
    pub(crate) fn expire(&mut self, now: Instant, reachable: impl Fn(&str) -> bool) -> Vec<(String, usize)> {
        let mut lost = Vec::new();
        for waiting in self.chat.iter_mut().filter(|w| !reachable(&w.target)) {
            let before = waiting.lines.len();
            waiting.lines.retain(|(since, _)| now < *since + HOLD_MAX);
            if waiting.lines.len() < before {
                lost.push((waiting.target.clone(), before - waiting.lines.len()));
            }
        }
        self.chat.retain(|w| !w.lines.is_empty());
        self.chat_lines -= lost.iter().map(|(_, lines)| lines).sum::<usize>();
        lost
    }

    /// When [`Queue::expire`] has something to forget.
    pub(crate) fn expires_at(&self, reachable: impl Fn(&str) -> bool) -> Option<Instant> {
        let unreachable = self.chat.iter().filter(|w| !reachable(&w.target));
        unreachable.filter_map(|w| w.lines.front()).map(|(since, _)| *since + HOLD_MAX).min()
    }

    /// Lines of chat that wait.
    pub(crate) fn chat_lines(&self) -> usize {
        self.chat_lines
    }

    /// Forgets all chat; how many lines that were.
    pub(crate) fn forget_chat(&mut self) -> usize {
        self.chat.clear();
        std::mem::take(&mut self.chat_lines)
    }

    /// Forgets our own lines: they belonged to a connection that is gone.
    pub(crate) fn forget_own(&mut self) {
        self.own.clear();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lines(texts: &[&str]) -> Vec<Line> {
        texts.iter().map(|text| Line::new("PRIVMSG").trailing(text)).collect()
    }

    fn drain(queue: &mut Queue, reachable: impl Fn(&str) -> bool) -> Vec<String> {
        std::iter::from_fn(|| queue.pop(&reachable)).map(|l| l.as_str().replace("PRIVMSG :", "")).collect()
    }

    #[test]
    fn a_burst_and_then_a_rate() {
        let start = Instant::now();
        let mut bucket = Bucket::new(3, 0.5, start);
        let taken = |bucket: &mut Bucket, at: u64| bucket.take(start + Duration::from_secs(at));
        assert!(taken(&mut bucket, 0) && taken(&mut bucket, 0) && taken(&mut bucket, 0));
        assert!(!taken(&mut bucket, 0));
        assert_eq!(bucket.ready_at(), start + Duration::from_secs(2));
        assert!(!taken(&mut bucket, 1));
        assert!(taken(&mut bucket, 2));
        assert!(!taken(&mut bucket, 3));
        assert!(taken(&mut bucket, 1000) && taken(&mut bucket, 1000) && taken(&mut bucket, 1000));
        assert!(!taken(&mut bucket, 1000), "never more than the burst");
        bucket.change(1, 10.0, start + Duration::from_secs(1000));
        assert!(!taken(&mut bucket, 1000));
    }

    #[test]
    fn over_a_long_time_never_more_than_burst_and_rate() {
        let start = Instant::now();
        let mut bucket = Bucket::new(5, 1.0, start);
        let sent = (0..60_000).filter(|ms| bucket.take(start + Duration::from_millis(*ms))).count();
        assert_eq!(sent, 5 + 59);
    }

    #[test]
    fn targets_take_turns_and_keep_their_order() {
        let now = Instant::now();
        let mut queue = Queue::default();
        assert_eq!(queue.push_chat("#a", lines(&["a1", "a2", "a3"]), now), 0);
        assert_eq!(queue.push_chat("#b", lines(&["b1"]), now), 0);
        assert_eq!(queue.push_chat("#a", lines(&["a4"]), now), 0);
        queue.push_own(lines(&["own"]).remove(0));
        assert_eq!(drain(&mut queue, |_| true), ["own", "a1", "b1", "a2", "a3", "a4"]);
        assert_eq!(queue.chat_lines(), 0);
        assert!(!queue.has_work(|_| true));
    }

    #[test]
    fn what_does_not_fit_is_counted() {
        let now = Instant::now();
        let mut queue = Queue::default();
        assert_eq!(queue.push_chat("#a", lines(&["x"; QUEUE_LINES_MAX + 7]), now), 7);
        assert_eq!(queue.push_chat("#b", lines(&["y"]), now), 1);
        assert_eq!(drain(&mut queue, |_| true).len(), QUEUE_LINES_MAX);
        assert_eq!(queue.push_chat("#b", lines(&["y"]), now), 0);
        assert_eq!(drain(&mut queue, |_| true), ["y"]);
    }

    #[test]
    fn chat_waits_for_a_channel_that_is_being_joined_but_not_for_ever() {
        let start = Instant::now();
        let mut queue = Queue::default();
        queue.push_chat("#a", lines(&["a"]), start);
        queue.push_chat("#b", lines(&["b1"]), start + Duration::from_secs(1));
        queue.push_chat("#b", lines(&["b2"]), start + Duration::from_secs(30));
        let only_a = |target: &str| target == "#a";
        assert_eq!(queue.expires_at(only_a), Some(start + HOLD_MAX + Duration::from_secs(1)));
        assert_eq!(drain(&mut queue, only_a), ["a"]);
        assert!(!queue.has_work(only_a));
        assert_eq!(queue.expire(start + HOLD_MAX, only_a), []);
        assert_eq!(queue.expire(start + HOLD_MAX + Duration::from_secs(1), only_a), [("#b".to_owned(), 1)]);
        assert_eq!(drain(&mut queue, |_| true), ["b2"]);
        assert_eq!(queue.expires_at(only_a), None);
        assert_eq!(queue.chat_lines(), 0);
    }
}
