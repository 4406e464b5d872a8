//! One message of a durable subscription, and what became of it; what the subscription was asked to be, and where its
//! messages stand.

use std::collections::BTreeMap;
use std::rc::Rc;
use std::time::Duration;

use libeevee::GapReason;
use libeevee::wire::Overflow;

use super::texts::Message;
use crate::config::Limits;
use crate::core::storage::{DurableKey, EntryNumber};

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Name {
    pub(super) owner: &'static str,
    pub(super) name: &'static str,
}

/// What was subscribed to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Wish {
    pub(super) filters: Vec<usize>,
    /// May-receive of its owner when it was last seen.
    pub(super) permit: usize,
    pub(super) overflow: Overflow,
    /// Messages, bytes and milliseconds; 0 for what the bus allows.
    pub(super) asked: [u64; 3],
}

/// What the bus made of it.
#[derive(Debug, Clone, Copy)]
pub(super) struct Bounds {
    pub(super) messages: u64,
    pub(super) bytes: u64,
    pub(super) age_ms: u64,
}

impl Bounds {
    pub(super) fn new(wish: &Wish, limits: &Limits) -> Self {
        let within = |asked: u64, max: u64| if asked == 0 { max } else { asked.min(max) };
        let [messages, bytes, age] = wish.asked;
        Self {
            messages: within(messages, limits.durable_messages),
            bytes: within(bytes, limits.durable_bytes),
            age_ms: within(age, limits.durable_age.as_millis() as u64),
        }
    }
}

#[derive(Debug)]
pub(super) struct Item {
    pub(super) message: Rc<Message>,
    /// What it takes of the bounds.
    pub(super) size: u64,
    pub(super) take: u64,
    /// Its batch is not known to be committed.
    pub(super) pending: bool,
    /// Its batch said so.
    pub(super) written: bool,
    pub(super) confirmed: bool,
    pub(super) since_ms: u64,
    /// How often it was delivered since it came.
    pub(super) deliveries: u32,
    pub(super) last_attempt: u32,
    /// How often the bus was started since it came. Each time it may count one delivery that was not made.
    pub(super) starts: u32,
    /// Whether it was delivered in this run of the bus, and to the present session.
    pub(super) in_run: bool,
    pub(super) in_session: bool,
    /// When it may be delivered again; whether it is in flight, and not given back.
    pub(super) due: Duration,
    pub(super) flying: bool,
    /// At this take, and whether the bus could tell at once that it is right.
    pub(super) acked: Option<(u64, bool)>,
    /// The bus may have lost that acknowledgement with the session, before it could look whether it is right.
    pub(super) unsure: bool,
    /// An acknowledgement that ought to be right was refused: it must be gone.
    pub(super) refused: bool,
    /// Its subscriber gave it up.
    pub(super) killed: bool,
    /// It was given back before the bus had it in memory: given up, or put off.
    pub(super) may_die: bool,
    pub(super) put_off: bool,
    /// It is a dead letter, since this take.
    pub(super) dead: Option<(GapReason, u64)>,
    /// And is deleted. It is kept here until the bus, too, knows of all that.
    pub(super) trimmed: bool,
    /// Somebody asked that it waits again, or that it goes.
    pub(super) retry: bool,
    pub(super) drop: bool,
    /// It waits again after it was dead.
    pub(super) revived: bool,
    /// May-receive did not admit it at some time.
    pub(super) denied: bool,
}

impl Item {
    pub(super) const fn waits(&self) -> bool {
        (self.acked.is_none() || self.unsure) && self.dead.is_none()
    }

    /// If its acknowledgement was lost: it was not made.
    pub(super) const fn take_back(&mut self) {
        if self.unsure {
            (self.acked, self.unsure) = (None, false);
        }
    }

    /// After a start, or when it waits again after it was dead, the bus cannot know whether what is said of it is about a
    /// delivery, or waits until it has looked.
    pub(super) const fn is_unclear(&self) -> bool {
        matches!(self.acked, Some((_, false))) || self.deliveries == 0 && (self.starts > 0 || self.revived)
    }

    pub(super) fn is_announcement(&self) -> bool {
        self.message.source == "eeveed"
    }
}

/// Where the messages and dead letters of all durable subscriptions stand, as far as the batches say.
#[derive(Debug, Default)]
pub(super) struct Places {
    pub(super) names: BTreeMap<DurableKey, Name>,
    pub(super) waiting: BTreeMap<EntryNumber, (Name, u64)>,
    pub(super) dead: BTreeMap<EntryNumber, (Name, u64)>,
}
