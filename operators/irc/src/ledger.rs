//! What is known of messages that are being said: how far each has come, and which of the written lines the server has.
//!
//! A line that was written may be lost with the connection, and nobody would be told. So the server is asked: it works on
//! lines in their order, and so its answer to a PING says that it has all that was written before. Where it shows our own
//! lines to us (echo-message), that says the same sooner and for nothing.

use std::collections::{BTreeMap, VecDeque};
use std::rc::Rc;
use std::time::Duration;

use tokio::time::Instant;

use crate::flood::Chat;
use crate::line::Line;

/// A question after at most so many lines: each costs a line of the flood control.
const LINES_A_QUESTION: u64 = 8;
/// A server that shows our lines to us does so within this, or has changed them beyond recognition, or thrown them away.
const ECHO_MAX: Duration = Duration::from_secs(2);
/// A server that says other things, but no answer for so long, gives none.
const ANSWER_MAX: Duration = Duration::from_secs(60);

#[derive(Debug, Default)]
pub(crate) struct Ledger {
    /// By message id.
    open: BTreeMap<u64, Progress>,
    /// Lines that were written and may not have arrived, in their order.
    written: VecDeque<Chat>,
    /// The number of the first of these; they are counted over all connections.
    first: u64,
    /// Lines before this number were asked about.
    asked_to: u64,
    question: Option<Question>,
    questions: u64,
    wrote_at: Option<Instant>,
}

/// A message that is not wholly said.
#[derive(Debug)]
pub(crate) struct Progress {
    pub(crate) target: Rc<str>,
    /// All of its lines.
    pub(crate) lines: usize,
    /// Those that the server has.
    pub(crate) said: usize,
    /// Whether a line of it was written.
    begun: bool,
    /// From then on it is too late for it.
    until: Instant,
}

#[derive(Debug)]
struct Question {
    token: u64,
    /// Its answer is for all lines before this number.
    to: u64,
    at: Instant,
}

/// Which messages are wholly said since the last look.
pub(crate) type Done = Vec<u64>;

impl Ledger {
    /// A message waits to be said.
    pub(crate) fn begin(&mut self, message: u64, target: &Rc<str>, lines: usize, until: Instant) {
        let progress = Progress { target: target.clone(), lines, said: 0, begun: false, until };
        self.open.insert(message, progress);
    }

    /// A line was written.
    pub(crate) fn wrote(&mut self, chat: Chat, now: Instant) {
        if let Some(progress) = self.open.get_mut(&chat.message) {
            progress.begun = true;
        }
        self.written.push_back(chat);
        self.wrote_at = Some(now);
    }

    /// When the server is to be asked whether it has what was written. `idle`: nothing more is written just now;
    /// `echoes`: it shows our lines to us.
    pub(crate) fn asks_at(&self, idle: bool, echoes: bool) -> Option<Instant> {
        let unasked = self.first + self.written.len() as u64 - self.asked_to.max(self.first);
        if self.question.is_some() || unasked == 0 {
            return None;
        }
        let wrote_at = self.wrote_at?;
        match (echoes, idle) {
            (true, _) => Some(wrote_at + ECHO_MAX),
            (false, true) => Some(wrote_at),
            (false, false) => (unasked >= LINES_A_QUESTION).then_some(wrote_at),
        }
    }

    /// Asks now; the token that the answer will have.
    pub(crate) fn ask(&mut self, now: Instant) -> u64 {
        self.questions += 1;
        self.asked_to = self.first + self.written.len() as u64;
        self.question = Some(Question { token: self.questions, to: self.asked_to, at: now });
        self.questions
    }

    /// The server has answered.
    pub(crate) fn answered(&mut self, token: u64) -> Done {
        match self.question.take_if(|question| question.token == token) {
            Some(Question { to, .. }) => self.confirm(to),
            None => Vec::new(),
        }
    }

    /// The server has shown us one of our lines: it has this one, and all before it.
    pub(crate) fn echoed(&mut self, line: &Line) -> Done {
        match self.written.iter().position(|chat| chat.line == *line) {
            Some(at) => self.confirm(self.first + at as u64 + 1),
            None => Vec::new(),
        }
    }

    /// When an answer is overdue.
    pub(crate) fn overdue_at(&self) -> Option<Instant> {
        self.question.as_ref().map(|question| question.at + ANSWER_MAX)
    }

    /// An answer is overdue. A server that was heard since the question gives none, and what it could have answered for is
    /// taken for said: saying it once a minute would be worse. Else it is the connection that is in doubt.
    pub(crate) fn overdue(&mut self, heard_at: Instant, now: Instant) -> Done {
        match &mut self.question {
            Some(question) if now < question.at + ANSWER_MAX => Vec::new(),
            Some(question) if heard_at <= question.at => {
                question.at = now;
                Vec::new()
            }
            Some(Question { to, .. }) => {
                let to = *to;
                self.question = None;
                let seconds = ANSWER_MAX.as_secs();
                tracing::warn!("the server answers no PING within {seconds} s: what was written is taken for said");
                self.confirm(to)
            }
            None => Vec::new(),
        }
    }

    fn confirm(&mut self, to: u64) -> Done {
        let mut done = Vec::new();
        while self.first < to
            && let Some(chat) = self.written.pop_front()
        {
            self.first += 1;
            if let Some(progress) = self.open.get_mut(&chat.message) {
                progress.said += 1;
                if progress.said == progress.lines {
                    self.open.remove(&chat.message);
                    done.push(chat.message);
                }
            }
        }
        if self.question.as_ref().is_some_and(|question| question.to <= self.first) {
            self.question = None;
        }
        done
    }

    /// The connection is lost: the lines that may not have arrived.
    pub(crate) fn lost(&mut self) -> Vec<Chat> {
        self.question = None;
        self.first += self.written.len() as u64;
        let lines = std::mem::take(&mut self.written);
        lines.into_iter().filter(|chat| self.open.contains_key(&chat.message)).collect()
    }

    /// Forgets a message for which it is too late: one that was not begun, or that cannot be ended because its target
    /// cannot be reached.
    pub(crate) fn expire(&mut self, now: Instant, reachable: impl Fn(&str) -> bool) -> Option<(u64, Progress)> {
        let late = |p: &Progress| now >= p.until && p.can_expire(&reachable);
        let message = *self.open.iter().find(|(_, progress)| late(progress))?.0;
        self.open.remove_entry(&message)
    }

    /// When [`Ledger::expire`] has something to forget.
    pub(crate) fn expires_at(&self, reachable: impl Fn(&str) -> bool) -> Option<Instant> {
        self.open.values().filter(|progress| progress.can_expire(&reachable)).map(|progress| progress.until).min()
    }

    /// Messages that are not wholly said.
    pub(crate) fn messages(&self) -> usize {
        self.open.len()
    }

    /// Whether lines were written that may not have arrived.
    pub(crate) fn is_in_doubt(&self) -> bool {
        !self.written.is_empty()
    }

    /// Forgets all messages; which they were, and how many of their lines were not said.
    pub(crate) fn forget(&mut self) -> (Vec<u64>, usize) {
        let lines = self.open.values().map(|progress| progress.lines - progress.said).sum();
        (std::mem::take(&mut self.open).into_keys().collect(), lines)
    }
}

impl Progress {
    fn can_expire(&self, reachable: impl Fn(&str) -> bool) -> bool {
        !self.begun || !reachable(&self.target)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    fn chat(message: u64, text: &str) -> Chat {
        Chat { message, target: "#a".into(), line: line(text) }
    }

    fn line(text: &str) -> Line {
        Line::new("PRIVMSG").param("#a").trailing(text)
    }

    /// A ledger with messages 1 and 2 of two lines each, all of them written.
    fn written(now: Instant) -> Ledger {
        let mut ledger = Ledger::default();
        for message in [1, 2] {
            ledger.begin(message, &"#a".into(), 2, now + 300 * SECOND);
        }
        for (message, text) in [(1, "a"), (1, "b"), (2, "a"), (2, "c")] {
            ledger.wrote(chat(message, text), now);
        }
        ledger
    }

    #[test]
    fn an_answer_is_for_all_that_was_written_before_the_question() {
        let now = Instant::now();
        let mut ledger = written(now);
        ledger.begin(3, &"#a".into(), 1, now + 300 * SECOND);
        assert_eq!(ledger.asks_at(true, false), Some(now));
        assert_eq!(ledger.asks_at(false, false), None, "more is written soon");
        let token = ledger.ask(now);
        assert_eq!(ledger.asks_at(true, false), None);
        ledger.wrote(chat(3, "d"), now + SECOND);
        assert_eq!(ledger.asks_at(true, false), None, "one question at a time");
        assert_eq!(ledger.answered(token + 1), [0; 0]);
        assert_eq!(ledger.answered(token), [1, 2]);
        assert_eq!(ledger.answered(token), [0; 0]);
        assert_eq!((ledger.messages(), ledger.is_in_doubt()), (1, true));
        assert_eq!(ledger.asks_at(true, false), Some(now + SECOND));
        let token = ledger.ask(now + SECOND);
        assert_eq!(ledger.answered(token), [3]);
        assert_eq!(ledger.asks_at(true, false), None);
    }

    #[test]
    fn a_long_text_is_asked_about_in_between() {
        let now = Instant::now();
        let mut ledger = Ledger::default();
        ledger.begin(1, &"#a".into(), 20, now + 300 * SECOND);
        for n in 0..20 {
            let asks = ledger.asks_at(false, false).is_some();
            assert_eq!(asks, n == 8 || n == 16, "line {n}");
            if asks {
                let token = ledger.ask(now);
                assert_eq!(ledger.answered(token), [0; 0]);
            }
            ledger.wrote(chat(1, &n.to_string()), now);
        }
        let token = ledger.ask(now);
        assert_eq!(ledger.answered(token), [1]);
    }

    #[test]
    fn an_echo_is_for_its_line_and_those_before_it() {
        let now = Instant::now();
        let mut ledger = written(now);
        assert_eq!(ledger.asks_at(true, true), Some(now + ECHO_MAX));
        assert_eq!(ledger.echoed(&line("x")), [0; 0]);
        assert_eq!(ledger.echoed(&line("b")), [1]);
        assert_eq!(ledger.echoed(&line("a")), [0; 0], "that of the second message");
        assert_eq!(ledger.asks_at(true, true), Some(now + ECHO_MAX), "one is left");
        let token = ledger.ask(now + ECHO_MAX);
        assert_eq!(ledger.echoed(&line("c")), [2]);
        assert_eq!((ledger.answered(token), ledger.overdue_at()), (vec![], None));
    }

    #[test]
    fn what_may_not_have_arrived_comes_back_in_order() {
        let now = Instant::now();
        let mut ledger = written(now);
        assert_eq!(ledger.echoed(&line("a")), [0; 0]);
        let stale = ledger.ask(now);
        let texts = |lines: Vec<Chat>| lines.iter().map(|c| c.line.as_str()[12..].to_owned()).collect::<Vec<_>>();
        let lines = ledger.lost();
        assert_eq!(texts(lines.clone()), ["b", "a", "c"]);
        assert_eq!(ledger.asks_at(true, false), None);
        for chat in lines {
            ledger.wrote(chat, now);
        }
        assert_eq!(ledger.answered(stale), [0; 0]);
        let token = ledger.ask(now);
        assert_eq!(ledger.answered(token), [1, 2]);
    }

    #[test]
    fn it_is_too_late_for_what_was_not_begun_or_cannot_be_ended() {
        let now = Instant::now();
        let mut ledger = written(now);
        ledger.begin(3, &"#b".into(), 1, now + 200 * SECOND);
        let mut expired = |at: u64, reachable: bool| {
            let found = ledger.expire(now + at as u32 * SECOND, |_| reachable);
            found.map(|(message, progress)| (message, progress.lines, progress.said))
        };
        assert_eq!(expired(199, false), None);
        assert_eq!(expired(200, true), Some((3, 1, 0)));
        assert_eq!(expired(300, true), None, "they are on their way");
        assert_eq!(expired(300, false), Some((1, 2, 0)));
        assert_eq!(ledger.expires_at(|_| false), Some(now + 300 * SECOND));
        assert_eq!(ledger.expires_at(|_| true), None);
        assert_eq!(ledger.lost().len(), 2, "nothing more of the one that expired");
        assert_eq!(ledger.forget(), (vec![2], 2));
    }

    #[test]
    fn a_server_that_answers_no_question() {
        let now = Instant::now();
        let mut ledger = written(now);
        ledger.ask(now);
        assert_eq!(ledger.overdue_at(), Some(now + ANSWER_MAX));
        assert_eq!(ledger.overdue(now + SECOND, now + SECOND), [0; 0]);
        let late = now + ANSWER_MAX;
        assert_eq!(ledger.overdue(now, late), [0; 0], "it says nothing at all");
        assert_eq!(ledger.overdue_at(), Some(late + ANSWER_MAX));
        assert_eq!(ledger.overdue(late + SECOND, late + ANSWER_MAX), [1, 2]);
        assert_eq!(ledger.overdue_at(), None);
    }
}
