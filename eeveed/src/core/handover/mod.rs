//! What of the core outlives a clean restart of the daemon: everything that a session could notice the loss of.
//!
//! [`Core::save`] gives a structure for serde, and beside it the large pieces of bytes that it refers to by number: messages
//! once, however many queues they wait in. Where the bytes go is the shell's affair. Times are those of the clock of
//! [`Now::mono`], which a restart does not stop; so nothing is converted, and a deadline stays where it was.
//!
//! A new version of the daemon reads what the old one saved. Fields may be added with `#[serde(default)]`, and unknown ones
//! are skipped; any other change needs a new version of the format, which costs every session one reconnect.
//!
//! Not saved: what ends by itself (sessions that are being closed), what is found again (index, memo, the order of
//! subscriptions), and ids of messages, of which the new run reserves its own.

mod restore;
#[cfg(test)]
pub(super) mod tests;

use std::collections::BTreeSet;
use std::time::Duration;

use hashbrown::HashMap;
use libeevee::OperatorId;
use libeevee::wire::{Control, GapNotice, OperatorState};
use serde::{Deserialize, Serialize};

use super::durable::SavedDurables;
use super::message::Routed;
use super::queue::{Entry, Queue};
use super::reload::Reload;
use super::session::{Credit, Identity, Session, SessionKey};
use super::subscribe::Subscription;
use super::{Core, LoadedModule, Now};

pub(crate) use self::restore::Absurd;

/// What a restart hands over of the core.
#[derive(Debug)]
pub(crate) struct Saved {
    pub(crate) structure: Structure,
    pub(crate) blobs: Blobs,
}

/// The number of a piece of bytes in [`Blobs`].
pub(crate) type BlobNumber = u32;

/// Large pieces of bytes, kept apart from the structure.
#[derive(Debug, Default)]
pub(crate) struct Blobs {
    list: Vec<Blob>,
    messages: HashMap<*const u8, BlobNumber>,
}

#[derive(Debug)]
enum Blob {
    Message(Routed),
    Bytes(Box<[u8]>),
}

impl Blobs {
    /// As they were read: every one is bytes.
    pub(crate) fn from_bytes(list: Vec<Box<[u8]>>) -> Self {
        Self { list: list.into_iter().map(Blob::Bytes).collect(), messages: HashMap::new() }
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = &[u8]> {
        self.list.iter().map(|blob| match blob {
            Blob::Message(message) => message.frame(),
            Blob::Bytes(bytes) => bytes,
        })
    }

    /// Keeps some bytes; none for no bytes.
    pub(crate) fn put(&mut self, bytes: &[u8]) -> Option<BlobNumber> {
        (!bytes.is_empty()).then(|| self.push(Blob::Bytes(bytes.into())))
    }

    /// The bytes with this number, once.
    pub(crate) fn take(&mut self, number: Option<BlobNumber>) -> Result<Box<[u8]>, Absurd> {
        let Some(number) = number else { return Ok(Box::default()) };
        match self.list.get_mut(number as usize) {
            Some(Blob::Bytes(bytes)) => Ok(std::mem::take(bytes)),
            _ => Err(Absurd("a number of bytes that are not there")),
        }
    }

    fn message(&mut self, message: &Routed) -> BlobNumber {
        if let Some(known) = self.messages.get(&message.address()) {
            return *known;
        }
        let number = self.push(Blob::Message(message.clone()));
        self.messages.insert(message.address(), number);
        number
    }

    fn push(&mut self, blob: Blob) -> BlobNumber {
        self.list.push(blob);
        (self.list.len() - 1) as BlobNumber
    }
}

/// The core without its large pieces. Times are nanoseconds of [`Now::mono`], but for `*_wall`.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Structure {
    boot: u64,
    /// When it was saved.
    at: u64,
    started: u64,
    started_wall: u64,
    reload_number: u32,
    published: u64,
    delivered: u64,
    dropped: u64,
    unrouted: u64,
    sessions: Vec<SavedSession>,
    operators: Vec<SavedOperator>,
    requests: Vec<SavedRequest>,
    /// How deep the newest answers are: (message, hops).
    hops: Vec<(u64, u8)>,
    #[serde(default)]
    durables: SavedDurables,
}

#[derive(Debug, Serialize, Deserialize)]
struct SavedSession {
    key: SessionKey,
    identity: Identity,
    uid: u32,
    pid: Option<i32>,
    program: String,
    instance: u64,
    joined_wall: u64,
    credit: SavedCredit,
    last_subscription: u32,
    subscriptions: Vec<SavedSubscription>,
    /// The numbers of those that have something to deliver, in turn.
    ready: Vec<u32>,
    control: Option<BlobNumber>,
    resumed: u64,
    claims: Vec<String>,
    verbs: Vec<SavedVerb>,
    published: u64,
    delivered: u64,
    dropped: u64,
    denied: u64,
}

/// A verb that is carried out again; without one, it is given up.
#[derive(Debug, Serialize, Deserialize)]
struct SavedVerb {
    number: u32,
    /// (verb, id, argument)
    control: Option<(String, String, String)>,
}

#[derive(Debug, Serialize, Deserialize)]
struct SavedCredit {
    messages: u64,
    bytes: i64,
    owed_messages: u64,
    owed_bytes: u64,
    full_messages: u64,
    full_bytes: u64,
    /// (tokens, filled); the rate itself stands in the module file.
    bucket: Option<(f64, u64)>,
}

#[derive(Debug, Serialize, Deserialize)]
struct SavedSubscription {
    number: u32,
    filters: Vec<String>,
    overflow: u8,
    queue_messages: u32,
    queue_bytes: u64,
    max_age_ms: u64,
    window_messages: u64,
    window_bytes: i64,
    front: Vec<SavedGap>,
    entries: Vec<SavedEntry>,
    delivered: u64,
    dropped: u64,
}

/// (first, last, count, reason)
#[derive(Debug, Clone, Copy, Serialize, Deserialize)]
struct SavedGap(u64, u64, Option<u64>, u8);

/// There may be very many, so that their names are short.
#[derive(Debug, Serialize, Deserialize)]
enum SavedEntry {
    /// Which message, and since when it waits.
    #[serde(rename = "m")]
    Message(BlobNumber, u64),
    #[serde(rename = "g")]
    Gap(SavedGap),
}

#[derive(Debug, Serialize, Deserialize)]
struct SavedOperator {
    id: OperatorId,
    module: Option<SavedModule>,
    file_error: Option<String>,
    halted: bool,
    state: Option<OperatorState>,
    status: String,
    last_failure: Option<serde_json::Value>,
    last_reload: Option<serde_json::Value>,
    reload: Option<SavedReload>,
    asked_why: bool,
    announced_since: u64,
    announced: u32,
    unannounced: bool,
    #[serde(default)]
    commands: Option<Box<str>>,
    #[serde(default)]
    commands_unsaid: bool,
}

#[derive(Debug, Serialize, Deserialize)]
struct SavedModule {
    path: String,
    text: String,
}

#[derive(Debug, Serialize, Deserialize)]
struct SavedReload {
    number: u32,
    asker: (SessionKey, u32),
    module: SavedModule,
    deadline: u64,
}

#[derive(Debug, Serialize, Deserialize)]
struct SavedRequest {
    address: u64,
    session: SessionKey,
    number: u32,
    deadline: u64,
    deadline_ms: u64,
    receivers: Vec<SessionKey>,
    /// Sources that may answer from any session of theirs.
    #[serde(default)]
    owners: Vec<String>,
}

impl Core {
    /// Whether a session outlives a restart: one that is being ended does not, nor one that waits for a disk that did not
    /// answer in time, because the next run would owe it an answer and not know of it.
    pub(crate) fn is_lasting(&self, key: SessionKey) -> bool {
        self.sessions.get(&key).is_some_and(|session| !session.closing) && !self.waits_for_disk(key)
    }

    /// The sessions there are.
    pub(crate) fn session_keys(&self) -> Vec<SessionKey> {
        self.sessions.keys().copied().collect()
    }

    /// Everything that the next run needs to go on as if nothing had happened. What the shell was given to write and has
    /// not written is the shell's to hand over.
    pub(crate) fn save(&self, now: Now) -> Saved {
        let mut blobs = Blobs::default();
        let mut keys = self.session_keys();
        keys.retain(|key| self.is_lasting(*key));
        keys.sort_unstable();
        let sessions = keys.iter().map(|key| self.save_session(*key, &self.sessions[key], &mut blobs)).collect();
        let structure = Structure {
            boot: self.boot,
            at: nanoseconds(now.mono),
            started: nanoseconds(self.started.mono),
            started_wall: self.started.wall,
            reload_number: self.reload_number,
            published: self.published,
            delivered: self.delivered,
            dropped: self.dropped,
            unrouted: self.unrouted,
            sessions,
            operators: self.save_operators(),
            requests: self.save_requests(&keys.into_iter().collect()),
            hops: self.hops.0.iter().filter(|(_, hops)| *hops > 0).copied().collect(),
            durables: self.save_durables(&mut blobs),
        };
        Saved { structure, blobs }
    }

    fn save_session(&self, key: SessionKey, session: &Session, blobs: &mut Blobs) -> SavedSession {
        let of_slot = |slot: &u32| self.subscriptions.get(*slot as usize);
        // Durable ones are saved apart: most of what they are stands in the store.
        let of_slot = |slot: &u32| of_slot(slot).filter(|subscription| subscription.durable.is_none());
        let subscriptions = session.subscriptions.iter().filter_map(|(_, slot)| of_slot(slot));
        SavedSession {
            key,
            identity: session.identity.clone(),
            uid: session.peer.uid,
            pid: session.peer.pid,
            program: session.peer.program.to_string(),
            instance: session.peer.instance,
            joined_wall: session.joined_wall,
            credit: SavedCredit::of(&session.credit),
            last_subscription: session.last_subscription,
            subscriptions: subscriptions.map(|subscription| SavedSubscription::of(subscription, blobs)).collect(),
            ready: session.ready.iter().filter_map(|slot| Some(of_slot(slot)?.number)).collect(),
            control: blobs.put(&session.output.to_vec()),
            resumed: nanoseconds(session.resumed),
            claims: session.claims().to_vec(),
            verbs: session.verbs().iter().map(save_verb).collect(),
            published: session.published,
            delivered: session.delivered,
            dropped: session.dropped,
            denied: session.denied,
        }
    }

    fn save_operators(&self) -> Vec<SavedOperator> {
        let save = |(id, operator): (&OperatorId, &super::Operator)| SavedOperator {
            id: id.clone(),
            module: operator.module.as_ref().map(SavedModule::of),
            file_error: operator.file_error.clone(),
            halted: operator.halted,
            state: operator.state,
            status: operator.status.clone(),
            last_failure: operator.last_failure.clone(),
            last_reload: operator.last_reload.clone(),
            reload: operator.reload.as_ref().map(SavedReload::of),
            asked_why: operator.asked_why,
            announced_since: nanoseconds(operator.announced_since),
            announced: operator.announced,
            unannounced: self.unannounced.contains(id),
            commands: operator.commands.clone(),
            commands_unsaid: operator.commands_unsaid,
        };
        self.operators.iter().map(save).collect()
    }

    fn save_requests(&self, lasting: &BTreeSet<SessionKey>) -> Vec<SavedRequest> {
        let open = self.requests.iter().filter(|(_, request)| lasting.contains(&request.session));
        let save = |(address, request): (&u64, &super::Request)| SavedRequest {
            address: *address,
            session: request.session,
            number: request.number,
            deadline: nanoseconds(request.deadline),
            deadline_ms: request.deadline_ms,
            receivers: request.receivers.to_vec(),
            owners: request.owners.iter().map(ToString::to_string).collect(),
        };
        open.map(save).collect()
    }
}

impl SavedCredit {
    fn of(credit: &Credit) -> Self {
        Self {
            messages: credit.messages,
            bytes: credit.bytes,
            owed_messages: credit.owed_messages,
            owed_bytes: credit.owed_bytes,
            full_messages: credit.full_messages,
            full_bytes: credit.full_bytes,
            bucket: credit.rate.as_ref().map(|rate| (rate.tokens, nanoseconds(rate.filled))),
        }
    }
}

impl SavedSubscription {
    fn of(subscription: &Subscription, blobs: &mut Blobs) -> Self {
        let (asked, queue): (_, &Queue) = (subscription.asked(), &subscription.queue);
        let entries = queue.entries().map(|entry| match entry {
            Entry::Message(waiting) => SavedEntry::Message(blobs.message(&waiting.message), nanoseconds(waiting.since)),
            Entry::Gap(gap) => SavedEntry::Gap(SavedGap::of(gap)),
        });
        Self {
            number: subscription.number,
            filters: subscription.filters.iter().map(ToString::to_string).collect(),
            overflow: asked.overflow,
            queue_messages: asked.queue_messages,
            queue_bytes: asked.queue_bytes,
            max_age_ms: asked.max_age_ms,
            window_messages: subscription.window_messages,
            window_bytes: subscription.window_bytes,
            entries: entries.collect(),
            front: queue.front().map(SavedGap::of).collect(),
            delivered: subscription.delivered,
            dropped: subscription.dropped,
        }
    }
}

impl SavedGap {
    const fn of(gap: &GapNotice) -> Self {
        Self(gap.first, gap.last, gap.count, gap.reason)
    }
}

impl SavedModule {
    fn of(module: &LoadedModule) -> Self {
        Self { path: module.path.clone(), text: module.text.clone() }
    }
}

impl SavedReload {
    fn of(reload: &Reload) -> Self {
        Self {
            number: reload.number,
            asker: reload.asker,
            module: SavedModule::of(&reload.module),
            deadline: nanoseconds(reload.deadline),
        }
    }
}

fn save_verb((number, verb): &(u32, Option<Control>)) -> SavedVerb {
    SavedVerb { number: *number, control: verb.clone().map(|Control { verb, id, argument }| (verb, id, argument)) }
}

fn nanoseconds(time: Duration) -> u64 {
    u64::try_from(time.as_nanos()).unwrap_or(u64::MAX)
}
