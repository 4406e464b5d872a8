//! How fast we may write: a token bucket, and the queue of what waits for it.

use std::collections::VecDeque;
use std::rc::Rc;
use std::time::Duration;

use tokio::time::Instant;

use crate::line::Line;

/// The most lines of our own (joins, CTCP answers) that wait.
const OWN_LINES_MAX: usize = 200;

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

/// A line of chat on its way to the server.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Chat {
    /// The id of the message that it is of.
    pub(crate) message: u64,
    pub(crate) target: Rc<str>,
    pub(crate) line: Line,
}

/// The next line to be written.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Next {
    Own(Line),
    Chat(Chat),
}

/// What waits to be written: our own lines first, then chat, by turns for each target, so that one long text for one
/// channel does not hold up all others. The order within a target is kept. Chat survives a lost connection: what is said
/// to a channel that is being joined waits for it.
#[derive(Debug, Default)]
pub(crate) struct Queue {
    own: VecDeque<Line>,
    chat: VecDeque<Waiting>,
    chat_lines: usize,
}

#[derive(Debug)]
struct Waiting {
    target: Rc<str>,
    lines: VecDeque<Chat>,
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

    /// Adds the lines of one message.
    pub(crate) fn push_chat(&mut self, message: u64, target: &Rc<str>, lines: Vec<Line>) {
        self.chat_lines += lines.len();
        let chats = lines.into_iter().map(|line| Chat { message, target: target.clone(), line });
        match self.chat.iter_mut().find(|w| w.target == *target) {
            Some(waiting) => waiting.lines.extend(chats),
            None => self.chat.push_back(Waiting { target: target.clone(), lines: chats.collect() }),
        }
    }

    /// Puts lines that were taken out, in their order, before all others of their targets.
    pub(crate) fn put_back(&mut self, lines: Vec<Chat>) {
        self.chat_lines += lines.len();
        for chat in lines.into_iter().rev() {
            match self.chat.iter_mut().find(|w| w.target == chat.target) {
                Some(waiting) => waiting.lines.push_front(chat),
                None => {
                    self.chat.push_front(Waiting { target: chat.target.clone(), lines: VecDeque::from([chat]) });
                }
            }
        }
    }

    /// The next line; of chat only what is for a target that can be reached now.
    pub(crate) fn pop(&mut self, reachable: impl Fn(&str) -> bool) -> Option<Next> {
        if let Some(line) = self.own.pop_front() {
            return Some(Next::Own(line));
        }
        let at = self.chat.iter().position(|w| reachable(&w.target))?;
        let mut waiting = self.chat.remove(at)?;
        let chat = waiting.lines.pop_front();
        self.chat_lines -= usize::from(chat.is_some());
        if !waiting.lines.is_empty() {
            self.chat.push_back(waiting);
        }
        chat.map(Next::Chat)
    }

    /// Whether [`Queue::pop`] would give a line.
    pub(crate) fn has_work(&self, reachable: impl Fn(&str) -> bool) -> bool {
        !self.own.is_empty() || self.chat.iter().any(|w| reachable(&w.target))
    }

    /// Forgets the lines of a message; how many there were.
    pub(crate) fn remove(&mut self, message: u64) -> usize {
        let before = self.chat_lines;
        for waiting in &mut self.chat {
            waiting.lines.retain(|chat| chat.message != message);
        }
        self.chat.retain(|w| !w.lines.is_empty());
        self.chat_lines = self.chat.iter().map(|w| w.lines.len()).sum();
        before - self.chat_lines
    }

    /// Lines of chat that wait.
    pub(crate) fn chat_lines(&self) -> usize {
        self.chat_lines
    }

    /// Forgets all chat.
    pub(crate) fn forget_chat(&mut self) {
        self.chat.clear();
        self.chat_lines = 0;
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

    fn push(queue: &mut Queue, message: u64, target: &str, texts: &[&str]) {
        queue.push_chat(message, &target.into(), lines(texts));
    }

    fn drain(queue: &mut Queue, reachable: impl Fn(&str) -> bool) -> Vec<String> {
        let text = |next| match next {
            Next::Own(line) => line,
            Next::Chat(chat) => chat.line,
        };
        std::iter::from_fn(|| queue.pop(&reachable)).map(|l| text(l).as_str().replace("PRIVMSG :", "")).collect()
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
        let mut queue = Queue::default();
        push(&mut queue, 1, "#a", &["a1", "a2", "a3"]);
        push(&mut queue, 2, "#b", &["b1"]);
        push(&mut queue, 3, "#a", &["a4"]);
        queue.push_own(lines(&["own"]).remove(0));
        assert_eq!(drain(&mut queue, |_| true), ["own", "a1", "b1", "a2", "a3", "a4"]);
        assert_eq!(queue.chat_lines(), 0);
        assert!(!queue.has_work(|_| true));
    }

    #[test]
    fn what_is_put_back_comes_before_all_others_of_its_target() {
        let mut queue = Queue::default();
        push(&mut queue, 1, "#a", &["a1", "a2"]);
        push(&mut queue, 2, "#b", &["b1"]);
        push(&mut queue, 3, "#a", &["a3"]);
        let taken: Vec<Chat> = std::iter::from_fn(|| queue.pop(|_| true))
            .take(3)
            .filter_map(|next| if let Next::Chat(chat) = next { Some(chat) } else { None })
            .collect();
        let texts: Vec<&str> = taken.iter().map(|chat| chat.line.as_str()).collect();
        assert_eq!(texts, ["PRIVMSG :a1", "PRIVMSG :b1", "PRIVMSG :a2"]);
        queue.put_back(taken);
        assert_eq!(queue.chat_lines(), 4);
        assert_eq!(drain(&mut queue, |target| target == "#a"), ["a1", "a2", "a3"]);
        assert_eq!(drain(&mut queue, |_| true), ["b1"]);
    }

    #[test]
    fn a_message_is_forgotten_whole_and_alone() {
        let mut queue = Queue::default();
        push(&mut queue, 1, "#a", &["x", "x"]);
        push(&mut queue, 2, "#a", &["y"]);
        push(&mut queue, 3, "#b", &["z"]);
        let only_b = |target: &str| target == "#b";
        assert_eq!(drain(&mut queue, only_b), ["z"]);
        assert!(!queue.has_work(only_b));
        assert_eq!((queue.remove(1), queue.remove(1), queue.chat_lines()), (2, 0, 1));
        assert_eq!(drain(&mut queue, |_| true), ["y"]);
    }
}
