//! Everything there is: the core, the disk, those who connect, the clocks, and the model. What goes in and comes out passes
//! through here, as it does through the shell.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Range;
use std::rc::Rc;
use std::time::Duration;

use bytes::BytesMut;
use libeevee::wire::{Content, Frame, split_frame};

use super::client::{Client, ClientNumber};
use super::disk::{Disk, Job, Trouble};
use super::item::{Name, Places};
use super::kept::Kept;
use super::texts::Message;
use crate::config::Limits;
use crate::core::durable::PAGE_BYTES;
use crate::core::{Action, Chunk, Core, Event, Now, SessionKey};

/// What became of a numbered publish.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Taken {
    /// It waits for the disk.
    Open { take: u64, id: u64 },
    /// It was taken; that is written by the batch after this one.
    Done { take: u64, id: u64 },
}

pub(super) struct World {
    /// Nothing is durable and no filter looks at the envelope, so that most messages are plain (`core/plain.rs`).
    pub(super) plain: bool,
    pub(super) random: fastrand::Rng,
    pub(super) trace: bool,
    pub(super) core: Core,
    pub(super) disk: Disk,
    pub(super) now: Now,
    /// The store's clock at the monotonic zero.
    pub(super) clock_base: i64,
    /// How quick the store is, in percent.
    pub(super) speed: u8,
    pub(super) actions: Vec<Action>,
    pub(super) sessions: SessionKey,
    pub(super) numbers: u32,
    pub(super) clients: Vec<Client>,
    /// Sessions for which the core has something, as far as it said so.
    pub(super) woken: BTreeSet<SessionKey>,
    /// Sessions that may be closed by the bus.
    pub(super) closing: BTreeSet<SessionKey>,
    /// Operators that are halted, and since when.
    pub(super) halted: BTreeMap<&'static str, Duration>,
    /// How often the bus was started.
    pub(super) runs: u64,
    /// Batches that were given to the store; the last of them that is on disk; the last whose end the core knows.
    pub(super) takes: u64,
    pub(super) done: u64,
    pub(super) answered: u64,
    /// Whether the core was told of trouble, and of no end of it.
    pub(super) sick: bool,
    /// When the last batch came to the disk: wall clock and store's clock.
    pub(super) last_write: (u64, u64),
    pub(super) kept: BTreeMap<Name, Kept>,
    pub(super) places: Places,
    pub(super) taken: BTreeMap<(&'static str, u64, u64), Taken>,
    /// Ids of messages that may be answered, and how deep each is.
    pub(super) answerable: Vec<u64>,
    pub(super) hops: BTreeMap<u64, u8>,
}

impl World {
    pub(super) fn new(seed: u64, trace: bool) -> Self {
        let mut random = fastrand::Rng::with_seed(seed);
        let now = Now { mono: Duration::from_secs(random.u64(1..1000)), wall: random.u64(..1 << 62) };
        let limits = some_limits(&mut random);
        let first = [1, (1 << 53) - 100_000_000, random.u64(1..1 << 50)][random.usize(0..3)];
        let mut core = Core::new(now, random.u64(..), limits, Vec::new(), first..1 << 53);
        let mut disk = Disk::new();
        core.direct_bytes = [0, 500, 256 << 10][random.usize(0..3)];
        core.recover(now, disk.store.reopen(now.wall), &mut Vec::new());
        let speed = [10, 50, 90, 100][random.usize(0..4)];
        Self {
            plain: random.u8(0..4) == 0,
            random,
            trace,
            core,
            disk,
            now,
            clock_base: -(now.mono.as_millis() as i64),
            speed,
            actions: Vec::new(),
            sessions: 0,
            numbers: 1 << 30,
            clients: Client::all(),
            woken: BTreeSet::new(),
            closing: BTreeSet::new(),
            halted: BTreeMap::new(),
            runs: 0,
            takes: 0,
            done: 0,
            answered: 0,
            sick: false,
            last_write: (0, 0),
            kept: BTreeMap::new(),
            places: Places::default(),
            taken: BTreeMap::new(),
            answerable: Vec::new(),
            hops: BTreeMap::new(),
        }
    }

    pub(super) fn note(&self, text: impl FnOnce() -> String) {
        if self.trace {
            eprintln!("{:?} {}", self.now.mono, text());
        }
    }

    pub(super) fn limits(&self) -> Limits {
        self.core.limits.clone()
    }

    /// The store's clock.
    pub(super) fn now_ms(&self) -> u64 {
        (self.now.mono.as_millis() as u64).saturating_add_signed(self.clock_base)
    }

    pub(super) const fn number(&mut self) -> u32 {
        self.numbers += 1;
        self.numbers
    }

    /// Gives the core an event. Ids that were used by it are those of announcements, but for what `own` says.
    pub(super) fn step(&mut self, event: Event, own: bool) -> Range<u64> {
        // Clocks of people jump, by days; nothing may depend on it.
        if self.random.u8(..) == 0 {
            self.now.wall = self.random.u64(..1 << 62);
        }
        let before = self.core.next_unused_id();
        if !own {
            self.read_direct();
        }
        self.core.step(self.now, event, &mut self.actions);
        let ids = before..self.core.next_unused_id();
        self.carry_out();
        if !own {
            for id in ids.clone() {
                self.announced(id);
            }
        }
        self.give_batch();
        assert!(self.core.memory <= self.core.limits.memory_bytes, "more memory than the limit");
        if self.random.u8(0..32) == 0 {
            self.core.check_accounts();
        }
        ids
    }

    pub(super) fn carry_out(&mut self) {
        for action in std::mem::take(&mut self.actions) {
            match action {
                Action::Wake(session) => {
                    self.woken.insert(session);
                }
                Action::Close(session) => {
                    assert!(self.closing.contains(&session), "nobody misbehaved, and yet session {session} is closed");
                }
                Action::Control { session, number, control } => {
                    let retry = control.verb == "dead-retry";
                    assert!(retry || control.verb == "dead-drop", "{control:?}");
                    let of = self.kept.keys().find(|name| control.argument.contains(&name.argument())).copied();
                    self.disk.jobs.push_back(Job::Dead { session, number, of, retry });
                }
                Action::Load { durable, generation, after, messages, bytes } => {
                    self.note(|| format!("load {durable} after {after}"));
                    self.disk.jobs.push_back(Job::Load { durable, generation, after, messages, bytes });
                }
                Action::Log { text, .. } => self.note(|| format!("log: {text}")),
                Action::SaveHalted { .. } | Action::Ended { .. } | Action::ReserveIds | Action::StoreFailed(_) => {}
            }
        }
    }

    /// As the shell does after every event and every output.
    pub(super) fn give_batch(&mut self) {
        let Some(batch) = self.core.take_batch(self.now) else { return };
        self.takes += 1;
        self.note(|| format!("batch {} is take {}: {:?}", batch.number, self.takes, short(&batch.writes)));
        self.disk.jobs.push_back(Job::Commit { take: self.takes, batch });
    }

    /// What is written to a client's socket. With a budget of 0 only what is no delivery. Nothing if the core did not say
    /// that there is something.
    pub(super) fn output(&mut self, at: ClientNumber, budget: usize) -> Vec<Frame> {
        let Some(session) = self.clients[at].session else { return Vec::new() };
        if !self.woken.contains(&session) {
            return Vec::new();
        }
        let mut out = Chunk::default();
        let more = self.core.output(self.now, session, budget, &mut out);
        if !more {
            self.woken.remove(&session);
        }
        self.after_output();
        let mut bytes = BytesMut::from(&out[..]);
        std::iter::from_fn(|| split_frame(&mut bytes, 1 << 20).unwrap())
            .map(|bytes| Frame::decode(bytes).unwrap().unwrap())
            .collect()
    }

    /// A delivery may need something of the disk.
    fn after_output(&mut self) {
        self.core.take_actions(&mut self.actions);
        self.carry_out();
        self.give_batch();
    }

    /// Reads what is no delivery, and looks at it.
    pub(super) fn read_control(&mut self, at: ClientNumber) {
        for frame in self.output(at, 0) {
            self.look(at, frame);
        }
    }

    /// What is delivered directly is written before anything else happens.
    pub(super) fn read_direct(&mut self) {
        if self.core.direct_bytes > 0 {
            self.read_all_control();
        }
    }

    pub(super) fn read_all_control(&mut self) {
        for at in 0..self.clients.len() {
            self.read_control(at);
        }
    }

    /// Sends a frame and reads what is answered at once.
    pub(super) fn send(&mut self, at: ClientNumber, number: u32, content: Content) {
        self.send_only(at, number, content);
        self.read_control(at);
    }

    pub(super) fn send_only(&mut self, at: ClientNumber, number: u32, content: Content) {
        let Some(session) = self.clients[at].session else { return };
        self.step(Event::Frame { session, frame: Frame::new(number, content) }, false);
    }

    /// The bus published something by itself.
    fn announced(&mut self, id: u64) {
        let message = Message::announcement(id);
        self.route(&message, self.takes);
    }

    /// Adds a message to every subscription that should get it: how many live ones, how many durable ones.
    pub(super) fn route(&mut self, message: &Rc<Message>, take: u64) -> (u32, u32) {
        let (mut live, mut durable) = (0, 0);
        for client in &mut self.clients {
            if client.session.is_none() || !message.is_permitted(client.permits.1) {
                continue;
            }
            for model in client.live.values_mut().filter(|model| message.matches(&model.filters)) {
                live += 1;
                model.expected.push_back(message.id);
            }
        }
        let now_ms = self.now_ms();
        for kept in self.kept.values_mut().filter(|kept| kept.matches(message)) {
            durable += 1;
            kept.add(take, message.clone(), now_ms, self.answered);
        }
        if durable > 0 && self.is_store_full(0) {
            self.kept.values_mut().for_each(|kept| kept.too_large = true);
        }
        self.note(|| {
            let stored = self.kept.values().map(|kept| kept.counted(self.answered).1).sum::<u64>();
            let counted = self.core.store_status()["bytes"].clone();
            let (id, source) = (message.id, message.source);
            format!("{id} of {source} to {live} live, {durable} durable; {stored} bytes wait, {counted} as counted")
        });
        (live, durable)
    }

    /// Whether all that waits on disk is too much, of all owners or of one, with so many bytes more.
    pub(super) fn is_store_full(&self, more: u64) -> bool {
        let mut of_owner: BTreeMap<&str, u64> = BTreeMap::new();
        for (name, kept) in &self.kept {
            *of_owner.entry(name.owner).or_default() += kept.counted(self.answered).1;
        }
        let limits = &self.core.limits;
        of_owner.values().sum::<u64>() + more > limits.store_bytes
            || of_owner.values().any(|bytes| *bytes + more > limits.store_bytes_per_owner)
    }

    /// Moves the clock on, with a tick whenever one is due.
    pub(super) fn pass(&mut self, time: Duration) {
        let end = self.now.mono + time;
        let (mut ticks, runs) = (0, self.runs);
        while let Some(at) = self.core.deadline().filter(|at| *at <= end) {
            self.now.mono = self.now.mono.max(at);
            self.step(Event::Tick, false);
            self.read_all_control();
            ticks += 1;
            assert!(ticks < 2000, "ticks without an end");
            if self.random.bool() {
                self.disk_works();
            }
            if self.runs != runs {
                // The bus has crashed meanwhile, and perhaps the machine.
                return;
            }
        }
        self.now.mono = end;
    }

    /// A job of the store, and an answer of it, are done or not.
    pub(super) fn disk_works(&mut self) {
        if self.random.u8(0..100) < self.speed {
            self.work();
        }
        if self.random.u8(0..100) < self.speed {
            self.answer();
        }
    }

    /// Waits until the store is idle and the core wants nothing of it.
    pub(super) fn settle(&mut self) {
        for _ in 0..10_000 {
            self.core.hurry();
            self.give_batch();
            if self.disk.is_idle() {
                return;
            }
            self.work();
            self.answer();
        }
        panic!("the store is never idle");
    }

    /// Whether there is memory for durable subscriptions.
    pub(super) fn is_durable(&self) -> bool {
        self.core.limits.memory_bytes > PAGE_BYTES as usize
    }

    pub(super) fn is_well(&self) -> bool {
        self.disk.trouble == Trouble::None && (!self.sick || self.core.journal.deadline().is_none())
    }
}

impl Name {
    /// What a verb says of it.
    pub(super) fn argument(&self) -> String {
        serde_json::json!({ "owner": self.owner, "name": self.name }).to_string()
    }
}

fn short(writes: &[crate::core::storage::Write]) -> Vec<String> {
    use crate::core::storage::Write;
    let short = |write: &Write| match write {
        Write::Enqueue { entry, durable, record, .. } => format!("enqueue {entry} of {durable}: {}", record.id),
        Write::Subscription(row) => format!("subscription {} {} {}", row.durable, row.owner, row.name),
        other => format!("{other:?}"),
    };
    writes.iter().map(short).collect()
}

/// Small bounds, so that all of them are met.
pub(super) fn some_limits(random: &mut fastrand::Rng) -> Limits {
    let usual = Limits::default();
    let mut either = |small: u64, usual: u64| if random.bool() { small } else { usual };
    let (in_flight, attempts) = (either(3, 100) as usize, either(3, 20) as u32);
    let durable_messages = either(12, usual.durable_messages);
    let dead_letters = either(8, usual.dead_letters);
    let dead_letters_per_owner = either(3, usual.dead_letters_per_owner).min(dead_letters);
    let store_bytes = either(12_000, usual.store_bytes);
    let store_bytes_per_owner = either(4_000, usual.store_bytes_per_owner);
    let acknowledge_within = Duration::from_secs(either(4, 30));
    let durable_age = Duration::from_secs(either(60, usual.durable_age.as_secs()));
    // Durable messages are loaded by the page, so that less than one would be none.
    let (page, little) = (PAGE_BYTES as usize, random.usize(4_000..40_000));
    let memory_bytes = [little, 3 * page + little, 8 * page, 8 * page][random.usize(0..4)];
    let memory_per_uid = [(2 * page).min(memory_bytes), memory_bytes][random.usize(0..2)];
    Limits {
        in_flight,
        attempts,
        durable_messages,
        dead_letters,
        dead_letters_per_owner,
        store_bytes,
        store_bytes_per_owner,
        acknowledge_within,
        durable_age,
        memory_bytes,
        memory_per_uid,
        ..usual
    }
}
