//! Subscriptions: opened, fed, given more window, ended.

use std::rc::Rc;
use std::time::Duration;

use libeevee::GapReason;
use libeevee::filter::{Filter, FilterErrorKind};
use libeevee::wire::limits::SUBSCRIPTION_FILTERS_MAX;
use libeevee::wire::{Code, Content, Frame, GapNotice, Grant, Overflow, Refusal, Subscribe};

use super::durable::{Durable, Journal, NOBODY, Step};
use super::index::Slot;
use super::message::Routed;
use super::permit::is_volatile;
use super::queue::{Bounds, Next, PLACE_BYTES, Pushed, Queue, Waiting, one};
use super::session::{Session, SessionKey, beyond, refusal};
use super::share::{Account, Filters};
use super::{Core, LoadedModule, Now};
use crate::config::Limits;

/// What every delivery looks at stands together, up to the bounds of the queue: with many subscriptions, no cache has them.
#[derive(Debug)]
#[repr(C)]
pub(crate) struct Subscription {
    pub(crate) session: SessionKey,
    pub(crate) number: u32,
    /// Whether it stands in its session's list of those that have something to deliver.
    pub(crate) listed: bool,
    pub(crate) volatile: bool,
    pub(super) window_messages: u64,
    pub(super) window_bytes: i64,
    pub(crate) delivered: u64,
    /// What makes it durable. Then `queue` has nothing but the gaps that are to be told, and `session` may be nobody.
    pub(super) durable: Option<Box<Durable>>,
    pub(super) queue: Queue,
    /// Shared with the index.
    pub(crate) filters: Rc<[Filter]>,
    /// None when it is the default in everything.
    pub(super) asked: Option<Box<Asked>>,
    /// What it takes of the bus's memory without its queue; its filters stand here and in the index.
    pub(super) own_memory: usize,
    /// What the uid of its session has; of a durable one that nobody is attached to, that of its last session.
    pub(super) account: Rc<Account>,
    /// Its filters, as they are counted in that account.
    pub(super) counted_filters: Filters,
    pub(crate) dropped: u64,
}

/// What a subscriber asked for of its queue, as in [`Subscribe`].
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Asked {
    pub(super) overflow: u8,
    pub(super) queue_messages: u32,
    pub(super) queue_bytes: u64,
    pub(super) max_age_ms: u64,
}

impl Asked {
    pub(super) fn boxed(self) -> Option<Box<Self>> {
        (self != Self::default()).then(|| Box::new(self))
    }
}

impl From<&Subscribe> for Asked {
    fn from(asked: &Subscribe) -> Self {
        let Subscribe { overflow, queue_messages, queue_bytes, max_age_ms, .. } = *asked;
        Self { overflow, queue_messages, queue_bytes, max_age_ms }
    }
}

/// What a subscription costs beside its filters and its queue: its own fields, its places in lists and in the index.
const SUBSCRIPTION_BYTES: usize = 1024;

/// What a subscription takes of the bus's memory without its queue.
pub(super) fn own_memory(filters: &[Filter]) -> usize {
    SUBSCRIPTION_BYTES + 2 * filters.iter().map(Filter::memory_bytes).sum::<usize>()
}

/// What [`Subscription::take`] took.
#[derive(Debug, Default)]
pub(crate) struct Taken {
    pub(crate) delivered: u64,
    pub(crate) dropped: u64,
}

impl Subscription {
    pub(crate) fn is_deliverable(&self, now: Duration, halted: bool, in_flight_max: usize) -> bool {
        if self.queue.starts_with_gap() {
            return true;
        }
        let waits = || match &self.durable {
            None => !self.queue.is_empty(),
            Some(durable) => durable.has_next(now, in_flight_max),
        };
        !halted && self.window_is_open() && waits()
    }

    /// A durable subscription that nobody is attached to.
    pub(super) fn detached(durable: Durable, filters: Vec<Filter>) -> Self {
        let volatile = durable.may_receive.is_volatile() || filters.iter().any(is_volatile);
        let account = durable.account().clone();
        Self {
            session: NOBODY,
            number: 0,
            filters: filters.into(),
            asked: None,
            queue: Queue::new(Bounds { messages: 0, bytes: 0, overflow: Overflow::DropOldest, age_max: None }),
            window_messages: 0,
            window_bytes: 0,
            listed: false,
            volatile,
            durable: Some(Box::new(durable)),
            own_memory: 0,
            account,
            counted_filters: Filters::default(),
            delivered: 0,
            dropped: 0,
        }
    }

    /// Whether the next message of a durable subscription is held in memory, as somebody takes it and nothing is before it
    /// on disk.
    pub(super) fn goes_to_memory(&self) -> bool {
        self.session != NOBODY && self.durable.as_deref().is_some_and(Durable::is_caught_up)
    }

    /// A session takes it.
    pub(super) fn attach(&mut self, session: SessionKey, number: u32, filters: Vec<Filter>, asked: &Subscribe) {
        (self.session, self.number, self.filters) = (session, number, filters.into());
        self.asked = Asked::from(asked).boxed();
        self.window_messages = asked.window_messages;
        self.window_bytes = i64::try_from(asked.window_bytes).unwrap_or(i64::MAX);
        self.listed = false;
    }

    /// A gap to be told before what waits.
    pub(super) fn note_gap(&mut self, gap: GapNotice) {
        self.queue.append_gap(gap);
    }

    pub(super) const fn window_is_open(&self) -> bool {
        self.window_messages > 0 && self.window_bytes > 0
    }

    pub(super) fn asked(&self) -> Asked {
        self.asked.as_deref().copied().unwrap_or_default()
    }

    pub(crate) const fn queue(&self) -> &Queue {
        &self.queue
    }

    /// Loads what [`Session::takes_delivery`] and [`Session::count_delivery`] look at, before they do.
    #[inline]
    pub(super) fn touch(&self) -> u64 {
        let Bounds { messages, bytes, age_max, .. } = self.queue.bounds();
        let flags = u64::from(self.listed) ^ u64::from(self.durable.is_some()) ^ u64::from(age_max.is_some());
        let window = self.window_messages ^ self.window_bytes.cast_unsigned();
        self.session ^ u64::from(self.number) ^ flags ^ window ^ self.delivered ^ (messages ^ bytes) as u64
    }

    /// What it is counted as in the account of its uid.
    pub(super) fn counted(&self) -> usize {
        let held = self.durable.as_deref().map_or(0, Durable::held_bytes);
        self.own_memory + self.queue.counted() + held as usize
    }

    /// Adds a message; the caller has counted its memory in the bus, and is told what left. `share_max` is the share of a
    /// uid.
    pub(crate) fn push(
        &mut self,
        waiting: Waiting,
        share_max: usize,
        halted: bool,
        freed: &mut impl FnMut(Routed),
    ) -> Pushed {
        let account = &self.account;
        let left = account.left(share_max);
        account.add(entering_size(&waiting.message));
        let pushed = self.queue.push(waiting, left, halted, &mut |lost| {
            account.sub(entering_size(&lost));
            freed(lost);
        });
        if let Pushed::Dropped(count) = pushed {
            self.dropped += count;
        }
        pushed
    }

    /// Counts a message that did not even get into the queue.
    pub(crate) fn lose(&mut self, id: u64, reason: GapReason) {
        self.queue.append_gap(one(id, reason));
        self.dropped += 1;
    }

    /// Appends deliveries until the budget, the window or the queue ends. `freed` is given the bytes that nobody keeps now.
    pub(crate) fn take(
        &mut self,
        now: Duration,
        session: &Session,
        budget: usize,
        out: &mut Vec<u8>,
        freed: &mut impl FnMut(usize),
    ) -> Taken {
        let mut taken = Taken::default();
        let account = self.account.clone();
        while out.len() < budget {
            let window = !session.halted && self.window_is_open();
            let mut expired = 0;
            let next = self.queue.pop(now, window, &mut |message| {
                expired += 1;
                account.sub(entering_size(&message));
                freed(leaving_size(message));
            });
            taken.dropped += expired;
            self.dropped += expired;
            match next {
                None => break,
                Some(Next::Gap(gap)) => Frame::new(self.number, Content::Gap(gap)).encode_into(out),
                Some(Next::Message(Waiting { message, since })) => {
                    let waited = if since < session.resumed { now.saturating_sub(since) } else { Duration::ZERO };
                    message.deliver_into(out, self.number, u64::try_from(waited.as_millis()).unwrap_or(u64::MAX));
                    self.window_messages -= 1;
                    self.window_bytes -= message.document_bytes() as i64;
                    taken.delivered += 1;
                    self.delivered += 1;
                    account.sub(entering_size(&message));
                    freed(leaving_size(message));
                }
            }
        }
        taken
    }

    /// The same for a durable one.
    pub(super) fn take_durable(
        &mut self,
        now: Now,
        (halted, limits, journal): (bool, &Limits, &mut Journal),
        budget: usize,
        out: &mut Vec<u8>,
        freed: &mut usize,
    ) -> Taken {
        let mut taken = Taken::default();
        while out.len() < budget {
            // The queue of a durable subscription has gaps alone.
            if let Some(Next::Gap(gap)) = self.queue.pop(now.mono, false, &mut |_| ()) {
                Frame::new(self.number, Content::Gap(gap)).encode_into(out);
                continue;
            }
            let open = !halted && self.window_is_open() && journal.takes_acknowledgements();
            let Some(durable) = self.durable.as_deref_mut().filter(|_| open) else { break };
            match durable.step(now, self.number, limits, journal, out, freed) {
                Step::Delivered(bytes) => {
                    self.window_messages -= 1;
                    self.window_bytes -= bytes as i64;
                    taken.delivered += 1;
                    self.delivered += 1;
                }
                Step::Lost(gap) => {
                    self.queue.append_gap(gap);
                    taken.dropped += 1;
                    self.dropped += 1;
                }
                Step::Nothing => break,
            }
        }
        taken
    }
}

/// What a message in a queue is counted as in the account of its uid.
fn entering_size(message: &Routed) -> usize {
    PLACE_BYTES + message.size()
}

/// The bytes that are free when a message leaves a queue.
pub(crate) fn leaving_size(message: Routed) -> usize {
    PLACE_BYTES + last_size(message)
}

/// The bytes that are free when this reference goes: those of the message if it is the last one.
pub(crate) fn last_size(message: Routed) -> usize {
    if message.is_last() { message.size() } else { 0 }
}

impl Core {
    pub(super) fn subscribe(&mut self, now: Now, key: SessionKey, number: u32, mut asked: Subscribe) {
        let subscribed = self.check_number(key, number).and_then(|()| match asked.durable.take() {
            Some(name) => self.subscribe_durable(now, key, number, &name, asked),
            None => self.subscribe_live(key, number, asked).map(|()| self.ok(key, number)),
        });
        match subscribed {
            Err(refusal) => self.refuse(key, number, refusal),
            Ok(()) => {
                if let Some(session) = self.sessions.get_mut(&key) {
                    session.last_subscription = session.last_subscription.max(number);
                }
            }
        }
    }

    fn check_number(&mut self, key: SessionKey, number: u32) -> Result<(), Refusal> {
        let max = self.limits.subscriptions_per_session as u64;
        let Some(session) = self.sessions.get_mut(&key) else { return Ok(()) };
        if number <= session.last_subscription {
            let text = format!("subscription number {number}: it must be above 0 and above all earlier ones");
            return Err(refusal(Code::Quota, text));
        }
        let count = session.subscriptions.len() as u64;
        if count >= max {
            let text = format!("{} has {count} subscriptions, at most {max} are possible a session", session.source);
            return Err(beyond(Code::Quota, text, max, count + 1));
        }
        Ok(())
    }

    fn subscribe_live(&mut self, key: SessionKey, number: u32, asked: Subscribe) -> Result<(), Refusal> {
        if asked.overflow != 0 && Overflow::from_number(asked.overflow).is_none() {
            return Err(refusal(Code::Malformed, format!("overflow policy {} is unknown", asked.overflow)));
        }
        if asked.overflow == Overflow::Reject as u8 {
            let text = "the policy reject is for durable subscriptions: a live one never holds up its publishers";
            return Err(refusal(Code::Refused, text));
        }
        let filters = parse_filters(&asked.filters, self.limits.filter_clauses, self.limits.filter_bytes)?;
        let own_memory = own_memory(&filters);
        self.check_filters(key, &filters, Filters::default())?;
        self.check_share(key, own_memory)?;
        self.check_memory(own_memory)?;
        let Some(session) = self.sessions.get_mut(&key) else { return Ok(()) };
        let account = session.account.clone();
        account.add(own_memory);
        let volatile = session.may_receive.is_volatile() || filters.iter().any(is_volatile);
        let for_queue = Asked::from(&asked);
        let bounds = self.bounds(key, for_queue);
        let slot = self.subscriptions.insert(Subscription {
            session: key,
            number,
            queue: Queue::new(bounds),
            window_messages: asked.window_messages,
            window_bytes: i64::try_from(asked.window_bytes).unwrap_or(i64::MAX),
            filters: account.list(filters),
            asked: for_queue.boxed(),
            listed: false,
            volatile,
            durable: None,
            own_memory,
            account,
            counted_filters: Filters::default(),
            delivered: 0,
            dropped: 0,
        }) as Slot;
        self.memory += own_memory;
        self.file(slot);
        if let Some(session) = self.sessions.get_mut(&key) {
            session.subscriptions.push((number, slot));
        }
        Ok(())
    }

    /// Puts a subscription where publishes find it.
    pub(super) fn file(&mut self, slot: Slot) {
        let subscription = &self.subscriptions[slot as usize];
        if subscription.volatile {
            self.volatile.push(slot);
        } else {
            self.index.insert(slot, &subscription.filters);
        }
        self.count_filters(slot, true);
        self.memo.clear();
    }

    pub(super) fn unfile(&mut self, slot: Slot) {
        if self.subscriptions[slot as usize].volatile {
            self.volatile.retain(|known| *known != slot);
        } else {
            self.index.remove(slot);
        }
        self.count_filters(slot, false);
        self.memo.clear();
    }

    pub(super) fn unsubscribe(&mut self, key: SessionKey, number: u32) {
        let Some(session) = self.sessions.get_mut(&key) else { return };
        let Some(slot) = session.slot(number) else {
            let text = format!("{} has no subscription {number}", session.source);
            self.refuse(key, number, refusal(Code::NotFound, text));
            return;
        };
        session.subscriptions.retain(|(known, _)| *known != number);
        session.ready.retain(|ready| *ready != slot);
        self.end_subscription(slot);
        self.ok(key, number);
    }

    /// Forgets a live subscription and what waits in it; a durable one goes on without a session. The session's lists are
    /// the caller's.
    pub(super) fn end_subscription(&mut self, slot: Slot) {
        if self.subscriptions[slot as usize].durable.is_some() {
            self.detach(slot);
            return;
        }
        self.unfile(slot);
        let mut subscription = self.subscriptions.remove(slot as usize);
        self.memory -= subscription.own_memory;
        subscription.account.sub(subscription.counted());
        subscription.queue.clear(&mut |message| self.memory -= leaving_size(message));
    }

    /// More window from a client.
    pub(super) fn widen(&mut self, now: Now, key: SessionKey, number: u32, grant: Grant) {
        let Some(session) = self.sessions.get_mut(&key) else { return };
        // A grant for a subscription that just ended crossed its end; there is nothing to say.
        let Some(slot) = session.slot(number) else { return };
        let Some(subscription) = self.subscriptions.get_mut(slot as usize) else { return };
        subscription.window_messages = subscription.window_messages.saturating_add(grant.messages);
        let bytes = i64::try_from(grant.bytes).unwrap_or(i64::MAX);
        subscription.window_bytes = subscription.window_bytes.saturating_add(bytes);
        if !subscription.listed && subscription.is_deliverable(now.mono, session.halted, self.limits.in_flight) {
            subscription.listed = true;
            session.ready.push_back(slot);
            self.wake(key);
        }
    }

    /// Lists every subscription of a session that can deliver now, after resume.
    pub(super) fn list_deliverable(&mut self, now: Now, key: SessionKey) {
        let Some(session) = self.sessions.get_mut(&key) else { return };
        for (_, slot) in &session.subscriptions {
            let Some(subscription) = self.subscriptions.get_mut(*slot as usize) else { continue };
            if !subscription.listed && subscription.is_deliverable(now.mono, session.halted, self.limits.in_flight) {
                subscription.listed = true;
                session.ready.push_back(*slot);
            }
        }
        if !session.ready.is_empty() {
            self.wake(key);
        }
    }

    /// New permissions and bounds for the subscriptions of a session whose module file changed; what waits and may not be
    /// received any more is given up if `narrowed`.
    pub(super) fn refile(&mut self, key: SessionKey, narrowed: bool) {
        let Some(session) = self.sessions.get(&key) else { return };
        let may_receive = session.may_receive.clone();
        for (_, slot) in session.subscriptions.clone() {
            self.unfile(slot);
            self.refile_durable(slot, &may_receive);
            let bounds = self.bounds(key, self.subscriptions[slot as usize].asked());
            let subscription = &mut self.subscriptions[slot as usize];
            subscription.queue.set_bounds(bounds);
            if narrowed {
                let memory = &mut self.memory;
                let may = |message: &Routed| message.look(|view| may_receive.admits(view));
                let account = &subscription.account;
                subscription.queue.retain(may, &mut |message| {
                    account.sub(entering_size(&message));
                    *memory -= leaving_size(message);
                });
            }
            subscription.volatile = may_receive.is_volatile() || subscription.filters.iter().any(is_volatile);
            self.file(slot);
        }
    }

    /// What the subscriber asked for, within what its module file allows, or else the defaults.
    pub(super) fn bounds(&self, key: SessionKey, asked: Asked) -> Bounds {
        let module = self.sessions.get(&key).and_then(|session| self.module_of(session));
        let queue = module.map(|module: &LoadedModule| &module.file.queue);
        let messages_max = queue.and_then(|queue| queue.messages).map_or(self.limits.queue_messages, |n| n as usize);
        let bytes_max = queue.and_then(|queue| queue.bytes).map_or(self.limits.queue_bytes, |n| n as usize);
        let messages = if asked.queue_messages == 0 { messages_max } else { asked.queue_messages as usize };
        let bytes =
            if asked.queue_bytes == 0 { bytes_max } else { usize::try_from(asked.queue_bytes).unwrap_or(usize::MAX) };
        Bounds {
            messages: messages.min(messages_max),
            bytes: bytes.min(bytes_max),
            overflow: Overflow::from_number(asked.overflow)
                .or_else(|| queue.and_then(|queue| queue.overflow))
                .unwrap_or_default(),
            age_max: (asked.max_age_ms > 0).then(|| Duration::from_millis(asked.max_age_ms)),
        }
    }
}

pub(super) fn parse_filters(texts: &[String], clauses_max: usize, bytes_max: usize) -> Result<Vec<Filter>, Refusal> {
    if texts.is_empty() {
        return Err(refusal(Code::BadFilter, "a subscription without a filter; '*' matches everything"));
    }
    let (count, max) = (texts.len() as u64, SUBSCRIPTION_FILTERS_MAX as u64);
    if count > max {
        return Err(beyond(Code::FilterTooLarge, format!("{count} filters, at most {max} are possible"), max, count));
    }
    texts
        .iter()
        .map(|text| {
            let (bytes, max) = (text.len() as u64, bytes_max as u64);
            if bytes > max {
                let told = format!("a filter of {bytes} bytes, at most {max} are possible");
                return Err(beyond(Code::FilterTooLarge, told, max, bytes));
            }
            let filter: Filter = text.parse().map_err(|error: libeevee::filter::FilterError| {
                let code = match error.kind() {
                    FilterErrorKind::TooLarge => Code::FilterTooLarge,
                    _ => Code::BadFilter,
                };
                refusal(code, format!("filter {text:?}: {error}"))
            })?;
            let (clauses, max) = (filter.clauses().len() as u64, clauses_max as u64);
            if clauses > max {
                let told = format!("a filter of {clauses} clauses, at most {max} are possible");
                return Err(beyond(Code::FilterTooLarge, told, max, clauses));
            }
            Ok(filter)
        })
        .collect()
}
