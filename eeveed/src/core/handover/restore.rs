//! The core from what the last run saved. It may have been written by another version, or be damaged in a way that its
//! checksum did not show: nothing of it is believed, and what makes no sense is [`Absurd`] as a whole.
//!
//! What another version of the daemon would understand differently, a module file or a filter that no longer parses, costs
//! only the session that it belongs to: it is left out here, and the shell closes its connection.

use std::collections::BTreeSet;
use std::ops::Range;
use std::time::Duration;

use hashbrown::HashMap;
use libeevee::OperatorId;
use libeevee::filter::Filter;
use libeevee::module::Module as ModuleFile;
use libeevee::wire::limits::COMMANDS_BYTES_MAX;
use libeevee::wire::{Code, Control, GapNotice, Overflow};
use smallvec::SmallVec;

use super::super::index::Slot;
use super::super::message::Routed;
use super::super::operator::Operator;
use super::super::output::Output;
use super::super::permit::is_volatile;
use super::super::queue::{PLACE_BYTES, Queue, Waiting};
use super::super::reload::Reload;
use super::super::request::{DEADLINE_MS_MAX, Request};
use super::super::session::{Credit, Identity, Peer, SessionKey, refusal};
use super::super::share::{Account, Filters};
use super::super::subscribe::{Asked, Subscription, own_memory, parse_filters};
use super::super::{Action, Core, LoadedModule, Now};
use super::{Blobs, Saved, SavedCredit, SavedEntry, SavedGap, SavedModule, SavedOperator, SavedSession};
use super::{SavedReload, SavedRequest, SavedSubscription, SavedVerb};
use crate::config::Limits;

/// What is saved makes no sense, and in which way.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub(crate) struct Absurd(pub(crate) &'static str);

/// Counters beyond this are absurd; below it, no sum of them overflows.
const COUNT_MAX: u64 = 1 << 53;

/// A deadline that is further away is absurd.
const DEADLINE_MAX: Duration = Duration::from_millis(2 * DEADLINE_MS_MAX);

/// Why one session is left out: what belongs to it was good for the last run, and is not for this one.
struct Unusable;

/// What restoring carries along.
struct Restoring {
    core: Core,
    now: Duration,
    blobs: Blobs,
    /// Messages that were found in `blobs` so far.
    messages: HashMap<u32, Routed>,
    last_id: u64,
    /// Every operator that was restored, and whether its module file still means something.
    operators: BTreeSet<OperatorId>,
    unusable: BTreeSet<OperatorId>,
}

impl Core {
    /// The core as it was saved. `ids` must be above all that were used, and `halted` counts for operators that the last
    /// run did not know.
    ///
    /// # Errors
    /// What of it makes no sense; then nothing of it may be used.
    pub(crate) fn restore(
        now: Now,
        limits: Limits,
        halted: Vec<OperatorId>,
        ids: Range<u64>,
        saved: Saved,
    ) -> Result<(Self, Blobs), Absurd> {
        let Saved { structure, blobs } = saved;
        let time = |nanoseconds| past(now.mono, nanoseconds);
        time(structure.at)?;
        let started = Now { mono: time(structure.started)?, wall: structure.started_wall };
        let last_id = ids.start.saturating_sub(1);
        let mut core = Self::new(started, structure.boot, limits, halted, ids);
        core.reload_number = structure.reload_number;
        core.published = count(structure.published)?;
        core.delivered = count(structure.delivered)?;
        core.dropped = count(structure.dropped)?;
        core.unrouted = count(structure.unrouted)?;
        for (id, hops) in structure.hops {
            core.hops.keep(id, hops);
        }
        let mut restoring = Restoring {
            core,
            now: now.mono,
            blobs,
            messages: HashMap::new(),
            last_id,
            operators: BTreeSet::new(),
            unusable: BTreeSet::new(),
        };
        for operator in structure.operators {
            restoring.operator(operator)?;
        }
        for session in structure.sessions {
            restoring.session(now, session)?;
        }
        for request in structure.requests {
            restoring.request(request)?;
        }
        let Restoring { mut core, mut blobs, .. } = restoring;
        core.restore_durables(structure.durables, &mut blobs)?;
        core.end_reloads_of_nobody();
        Ok((core, blobs))
    }

    /// Above the number of every session.
    pub(crate) fn next_session(&self) -> SessionKey {
        self.sessions.keys().max().map_or(1, |last| last + 1)
    }

    /// Counts what the shell has still to write of the last run's output.
    pub(crate) fn count_unwritten(&mut self, key: SessionKey, bytes: usize) {
        if let Some(session) = self.sessions.get_mut(&key) {
            self.owed = self.owed + bytes - session.unwritten;
            session.account.add(bytes);
            session.account.sub(session.unwritten);
            session.unwritten = bytes;
        }
    }

    /// The uid of a session's peer.
    pub(crate) fn peer_uid(&self, key: SessionKey) -> Option<u32> {
        Some(self.sessions.get(&key)?.peer.uid)
    }

    /// A reload waits for an operator whose session could not be restored.
    fn end_reloads_of_nobody(&mut self) {
        let mut askers = Vec::new();
        for (id, operator) in self.operators.iter_mut().filter(|(_, operator)| operator.session.is_none()) {
            operator.state = None;
            if let Some(reload) = operator.reload.take() {
                self.reloads_open -= 1;
                askers.push((reload.asker, format!("{id} left before it answered the reload")));
            }
        }
        for ((key, number), text) in askers {
            self.refuse(key, number, refusal(Code::NotConnected, text));
        }
    }
}

impl Restoring {
    fn operator(&mut self, saved: SavedOperator) -> Result<(), Absurd> {
        let SavedOperator { id, module, file_error, halted, state, status, .. } = saved;
        if !self.operators.insert(id.clone()) {
            return Err(Absurd("an operator stands there twice"));
        }
        let mut restored = |module| {
            let restored = load(&id, module);
            if restored.is_err() {
                self.unusable.insert(id.clone());
            }
            restored.ok()
        };
        let module = module.and_then(&mut restored);
        let reload = match saved.reload {
            Some(SavedReload { number, asker, module, deadline }) => {
                let deadline = future(self.now, deadline)?;
                restored(module).map(|module| Reload { number, asker, module, deadline })
            }
            None => None,
        };
        self.core.reloads_open += usize::from(reload.is_some());
        let operator = Operator {
            module,
            file_error,
            session: None,
            halted,
            state,
            status,
            last_failure: saved.last_failure,
            last_reload: saved.last_reload,
            reload,
            asked_why: saved.asked_why,
            announced_since: past(self.now, saved.announced_since)?,
            announced: saved.announced,
            commands: saved.commands.filter(|text| text.len() <= COMMANDS_BYTES_MAX),
            commands_unsaid: saved.commands_unsaid,
        };
        if saved.unannounced {
            self.core.unannounced.insert(id.clone());
        }
        if saved.asked_why {
            self.core.actions.push(Action::Ended { id: id.clone() });
        }
        self.core.operators.insert(id, operator);
        Ok(())
    }

    fn session(&mut self, now: Now, saved: SavedSession) -> Result<(), Absurd> {
        let key = saved.key;
        if key == 0 || key >= COUNT_MAX || self.core.sessions.contains_key(&key) {
            return Err(Absurd("a session with a number that is out of range or taken"));
        }
        let mut module = None;
        if let Identity::Operator(id) = &saved.identity {
            let operator = self.core.operators.get(id).ok_or(Absurd("a session of an operator that is not there"))?;
            if operator.session.is_some() {
                return Err(Absurd("two sessions of one operator"));
            }
            if self.unusable.contains(id) {
                return Ok(());
            }
            module.clone_from(&operator.module);
        }
        let filters = self.filters(&saved.subscriptions);
        let peer = Peer { uid: saved.uid, pid: saved.pid, program: saved.program.into(), instance: saved.instance };
        let mut session = self.core.new_session(now, saved.identity.clone(), peer, module.as_ref());
        session.credit = saved.credit.restore(self.now, session.credit)?;
        session.joined_wall = saved.joined_wall;
        session.last_subscription = saved.last_subscription;
        session.output = Output::of_answers(self.blobs.take(saved.control)?.into_vec());
        session.resumed = past(self.now, saved.resumed)?;
        session.published = count(saved.published)?;
        session.delivered = count(saved.delivered)?;
        session.dropped = count(saved.dropped)?;
        session.denied = count(saved.denied)?;
        let Ok(filters) = filters else { return Ok(()) };

        for name in saved.claims {
            if self.core.claims.insert(name.clone(), key).is_some() {
                return Err(Absurd("a name that is claimed twice"));
            }
            session.rare().claims.push(name);
        }
        let mut given_up = Vec::new();
        for SavedVerb { number, control } in saved.verbs {
            let Some((verb, id, argument)) = control else {
                given_up.push(number);
                continue;
            };
            let control = Control { verb, id, argument };
            session.rare().verbs.push((number, Some(control.clone())));
            self.core.actions.push(Action::Control { session: key, number, control });
        }
        if let Identity::Operator(id) = &saved.identity
            && let Some(operator) = self.core.operators.get_mut(id)
        {
            operator.session = Some(key);
            session.halted = operator.halted;
        }
        if session.credit.next_grant().is_some() {
            self.core.throttled.push(key);
        }
        self.core.owed += session.counted();
        session.account.add(session.counted());
        // It has to be there before its subscriptions, which look for its permissions.
        self.core.sessions.insert(key, Box::new(session));
        for number in given_up {
            let text = "the bus was restarted before this was carried out; ask again";
            self.core.answer(key, number, Err(refusal(Code::Stopping, text)));
        }
        let mut slots = SmallVec::with_capacity(saved.subscriptions.len());
        for (subscription, filters) in saved.subscriptions.into_iter().zip(filters) {
            let number = subscription.number;
            if number > saved.last_subscription || slots.last().is_some_and(|(before, _)| *before >= number) {
                return Err(Absurd("subscriptions out of order"));
            }
            slots.push((number, self.subscription(key, subscription, filters)?));
        }
        let Some(session) = self.core.sessions.get_mut(&key) else { return Ok(()) };
        session.subscriptions = slots;
        for number in saved.ready {
            let slot = session.slot(number).ok_or(Absurd("a subscription that is ready and not there"))?;
            let subscription = &mut self.core.subscriptions[slot as usize];
            if subscription.listed {
                return Err(Absurd("a subscription that is ready twice"));
            }
            subscription.listed = true;
            session.ready.push_back(slot);
        }
        self.core.list_deliverable(now, key);
        Ok(())
    }

    /// The filters of all subscriptions; what one bus accepted, the next may refuse.
    fn filters(&self, saved: &[SavedSubscription]) -> Result<Vec<Vec<Filter>>, Unusable> {
        saved
            .iter()
            .map(|subscription| parse_filters(&subscription.filters, usize::MAX, usize::MAX).map_err(|_| Unusable))
            .collect()
    }

    fn subscription(
        &mut self,
        key: SessionKey,
        saved: SavedSubscription,
        filters: Vec<Filter>,
    ) -> Result<Slot, Absurd> {
        if saved.overflow != 0 && Overflow::from_number(saved.overflow).is_none() {
            return Err(Absurd("an unknown policy for overflow"));
        }
        let asked = Asked {
            overflow: saved.overflow,
            queue_messages: saved.queue_messages,
            queue_bytes: saved.queue_bytes,
            max_age_ms: saved.max_age_ms,
        };
        if saved.window_bytes < -(COUNT_MAX as i64) {
            return Err(Absurd("a window of less than nothing"));
        }
        let session = self.core.sessions.get(&key);
        let volatile =
            session.is_some_and(|session| session.may_receive.is_volatile()) || filters.iter().any(is_volatile);
        let mut queue = Queue::new(self.core.bounds(key, asked));
        for gap in saved.front {
            queue.restore_front(self.gap(gap)?);
        }
        for entry in saved.entries {
            match entry {
                SavedEntry::Message(number, since) => {
                    let (message, since) = (self.message(number)?, past(self.now, since)?);
                    self.core.memory += PLACE_BYTES;
                    queue.append(Waiting { message, since });
                }
                SavedEntry::Gap(gap) => {
                    queue.restore_gap(self.gap(gap)?);
                }
            }
        }
        let own_memory = own_memory(&filters);
        self.core.memory += own_memory;
        let account = self.core.sessions.get(&key).map_or_else(Account::of_nobody, |session| session.account.clone());
        account.add(own_memory + queue.counted());
        let slot = self.core.subscriptions.insert(Subscription {
            session: key,
            number: saved.number,
            filters: account.list(filters),
            asked: asked.boxed(),
            queue,
            window_messages: saved.window_messages,
            window_bytes: saved.window_bytes,
            listed: false,
            volatile,
            own_memory,
            account,
            counted_filters: Filters::default(),
            durable: None,
            delivered: count(saved.delivered)?,
            dropped: count(saved.dropped)?,
        }) as Slot;
        self.core.file(slot);
        Ok(slot)
    }

    fn gap(&self, SavedGap(first, last, lost, reason): SavedGap) -> Result<GapNotice, Absurd> {
        if first > last || last > self.last_id || lost.is_some_and(|lost| lost > COUNT_MAX) {
            return Err(Absurd("a gap that ends before it begins, or in the future"));
        }
        Ok(GapNotice { first, last, count: lost, reason })
    }

    /// The message with this number. Its memory is counted once, however many queues it waits in.
    fn message(&mut self, number: u32) -> Result<Routed, Absurd> {
        if let Some(known) = self.messages.get(&number) {
            return Ok(known.clone());
        }
        let bytes = self.blobs.take(Some(number))?;
        let message = Routed::from_frame(bytes).ok_or(Absurd("bytes that are no message"))?;
        if message.id > self.last_id {
            return Err(Absurd("a message with an id that nobody has yet"));
        }
        self.core.memory += message.size();
        self.messages.insert(number, message.clone());
        Ok(message)
    }

    fn request(&mut self, saved: SavedRequest) -> Result<(), Absurd> {
        let SavedRequest { address, session: key, number, deadline, deadline_ms, mut receivers, .. } = saved;
        let deadline = future(self.now, deadline)?;
        if address > self.last_id {
            return Err(Absurd("a request with an address that nobody has yet"));
        }
        // One whose session could not be restored asks nothing any more.
        let Some(session) = self.core.sessions.get_mut(&key) else { return Ok(()) };
        session.requests_open += 1;
        receivers.sort_unstable();
        let owners = saved.owners.iter().map(|owner| owner.as_str().into()).collect();
        let request = Request { session: key, number, deadline, deadline_ms, receivers: receivers.into(), owners };
        self.core.owed += request.size();
        session.account.add(request.size());
        self.core.request_deadlines.insert((deadline, address), ());
        match self.core.requests.insert(address, request) {
            None => Ok(()),
            Some(_) => Err(Absurd("two requests with one address")),
        }
    }
}

impl SavedCredit {
    /// `new` has the rate of the module file, and a full account.
    fn restore(self, now: Duration, new: Credit) -> Result<Credit, Absurd> {
        if self.full_messages == 0 || self.bytes < -(COUNT_MAX as i64) {
            return Err(Absurd("a publisher without credit"));
        }
        let mut rate = new.rate;
        if let (Some(rate), Some((tokens, filled))) = (&mut rate, self.bucket) {
            // The burst of the rate bounds it at the next look.
            rate.tokens = if tokens.is_finite() { tokens } else { 0.0 };
            rate.filled = past(now, filled)?;
        }
        Ok(Credit {
            messages: count(self.messages)?,
            bytes: self.bytes,
            owed_messages: count(self.owed_messages)?,
            owed_bytes: count(self.owed_bytes)?,
            full_messages: count(self.full_messages)?,
            full_bytes: count(self.full_bytes)?,
            rate,
        })
    }
}

/// The file that an operator runs with, which may differ from what is on the disk now.
fn load(id: &OperatorId, saved: SavedModule) -> Result<LoadedModule, Unusable> {
    let SavedModule { path, text } = saved;
    let file = ModuleFile::parse(id, &path, &text).map_err(|_| Unusable)?;
    Ok(LoadedModule { file, path, text })
}

fn count(count: u64) -> Result<u64, Absurd> {
    if count <= COUNT_MAX { Ok(count) } else { Err(Absurd("a counter beyond all bounds")) }
}

/// A time that is over.
fn past(now: Duration, nanoseconds: u64) -> Result<Duration, Absurd> {
    let time = Duration::from_nanos(nanoseconds);
    if time <= now { Ok(time) } else { Err(Absurd("a past that is still to come")) }
}

fn future(now: Duration, nanoseconds: u64) -> Result<Duration, Absurd> {
    let time = Duration::from_nanos(nanoseconds);
    if time <= now + DEADLINE_MAX { Ok(time) } else { Err(Absurd("a deadline too far away")) }
}
