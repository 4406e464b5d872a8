//! What the bus tells a client outside of any subscription: the operator runtime lives on it.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::mpsc;
use tokio::time::Instant;

use crate::error::Error;
use crate::wire::{Module, Welcome};

/// Notices that a receiver may leave unread; later ones are dropped and logged. They are rare: a receiver this far
/// behind is stuck.
const NOTICES_MAX: usize = 1024;

/// Notices kept for the first receiver, so that it misses nothing between connecting and asking for them.
const BACKLOG_MAX: usize = 64;

/// What the bus tells a client outside of any subscription; from [`Client::notices`](crate::Client::notices).
#[derive(Debug, Clone)]
#[non_exhaustive]
pub enum Notice {
    /// Connected; again after every reconnect. Subscriptions, claims and state were said again already.
    Connected(Arc<Welcome>),
    /// The connection is lost, and why; the client connects again by itself.
    Disconnected(Error),
    /// This operator's halted flag was set or cleared while it was connected. (Welcome has it at other times.)
    Halted(bool),
    /// A new module file to check and prepare; answer with [`Client::verdict`](crate::Client::verdict).
    Reload {
        /// What the verdict, and then Commit or Abort, name it by.
        number: u32,
        /// The file as the bus read it.
        module: Module,
    },
    /// Take what was prepared for the Reload with this number.
    Commit(u32),
    /// Forget what was prepared for the Reload with this number.
    Abort {
        /// The Reload's number.
        number: u32,
        /// Why, for logs.
        reason: String,
    },
    /// The bus is about to close this connection, and why.
    Bye(String),
    /// A name that this operator held is not its own any more: it was claimed again after a reconnect, and refused, as
    /// where another operator took it meanwhile. The client does not claim it again by itself.
    ClaimLost {
        /// The name.
        name: String,
        /// Why; `Refused(already-connected)` names the holder.
        error: Error,
    },
    /// Something that nobody waits for was refused: a publish without confirmation, a reply, a subscription that was
    /// made again after a reconnect, or an acknowledgement (`Refused(bad-ack)`, which changes nothing). It is logged already, and left out where a receiver leaves many notices
    /// unread: no flood of them shall cost it another notice.
    Refused {
        /// What [`Client::publish_with`](crate::Client::publish_with) returned, or the subscription's; 0 where the bus
        /// names none.
        number: u32,
        /// Why; with the rule where one refused it.
        error: Error,
    },
    /// The client ended for good: it was closed, or the bus will not have it. The last notice.
    Ended(Error),
}

/// Receives every [`Notice`]; from [`Client::notices`](crate::Client::notices).
#[derive(Debug)]
pub struct NoticeReceiver(mpsc::Receiver<Notice>);

impl NoticeReceiver {
    /// The next notice; `None` after [`Notice::Ended`]. Dropping the future loses nothing.
    pub async fn next(&mut self) -> Option<Notice> {
        self.0.recv().await
    }

    /// The next notice, if one is there already.
    pub fn try_next(&mut self) -> Option<Notice> {
        self.0.try_recv().ok()
    }
}

#[derive(Default)]
pub(super) struct Notices {
    receivers: Vec<mpsc::Sender<Notice>>,
    backlog: VecDeque<Notice>,
    had_receiver: bool,
    ended: bool,
    log: LogLimit,
}

/// A publisher that is refused in a loop fills no journal: so many lines in so long a time, then a count.
#[derive(Default)]
struct LogLimit {
    since: Option<Instant>,
    lines: u32,
    silent: u64,
}

const LOG_LINES: u32 = 20;
const LOG_TIME: Duration = Duration::from_secs(10);

impl LogLimit {
    /// Whether to log now, and how many were not logged before.
    fn admit(&mut self) -> Option<u64> {
        let now = Instant::now();
        if self.since.is_none_or(|since| now.duration_since(since) > LOG_TIME) {
            self.since = Some(now);
            self.lines = 0;
        }
        if self.lines == LOG_LINES {
            self.silent += 1;
            return None;
        }
        self.lines += 1;
        Some(std::mem::take(&mut self.silent))
    }
}

impl Notices {
    pub(super) fn receiver(&mut self) -> NoticeReceiver {
        let (sender, receiver) = mpsc::channel(NOTICES_MAX);
        for notice in self.backlog.drain(..) {
            let _ = sender.try_send(notice);
        }
        self.had_receiver = true;
        if !self.ended {
            self.receivers.push(sender);
        }
        NoticeReceiver(receiver)
    }

    pub(super) fn tell(&mut self, notice: Notice) {
        if !self.had_receiver {
            if self.backlog.len() == BACKLOG_MAX {
                self.backlog.pop_front();
            }
            self.backlog.push_back(notice);
            return;
        }
        let refused = matches!(notice, Notice::Refused { .. });
        self.receivers.retain(|receiver| {
            if refused && receiver.capacity() < NOTICES_MAX / 2 {
                return !receiver.is_closed();
            }
            match receiver.try_send(notice.clone()) {
                Ok(()) => true,
                Err(mpsc::error::TrySendError::Closed(_)) => false,
                // It may hold a whole module file, so it is not shown.
                Err(mpsc::error::TrySendError::Full(_)) => {
                    if self.log.admit().is_some() {
                        tracing::warn!(unread = NOTICES_MAX, "a notice of the bus was dropped, nobody reads them");
                    }
                    true
                }
            }
        });
    }

    /// Something was refused that nobody waits for: into the journal and to the receivers.
    pub(super) fn refused(&mut self, number: u32, error: Error) {
        if let Some(not_logged) = self.log.admit() {
            let code = error.code().map_or("", crate::wire::Code::as_str);
            let rule = error.rule().unwrap_or("");
            tracing::warn!(number, code, rule, not_logged, "{error}");
        }
        self.tell(Notice::Refused { number, error });
    }

    /// A claim is lost: into the journal and to the receivers.
    pub(super) fn claim_lost(&mut self, name: &str, error: Error) {
        tracing::error!(name, "{name} is lost, it could not be claimed again: {error}");
        self.tell(Notice::ClaimLost { name: name.to_owned(), error });
    }

    pub(super) fn end(&mut self, error: &Error) {
        self.tell(Notice::Ended(error.clone()));
        self.receivers.clear();
        self.ended = true;
    }
}
