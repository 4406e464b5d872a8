//! Where the pure core meets the world: one core, one loop, and what has to be done about its actions.
//!
//! Everything here runs on one thread, so that no message hops between threads and nothing is locked. What may block (files,
//! the user database, systemctl) runs elsewhere and comes back as an event.

use std::cell::{Cell, RefCell};
use std::collections::HashMap;
use std::path::PathBuf;
use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, Instant};

use libeevee::log::{records, unpublished};
use libeevee::wire::Refusal;
use libeevee::{OperatorId, Timestamp};
use nix::time::{ClockId, clock_gettime};
use tokio::sync::Notify;

use crate::config::Limits;
use crate::core::storage::Recovered;
use crate::core::{Action, Core, Event, Now, SessionKey, Taken};
use crate::durable::Disk;
use crate::halted::Halted;
use crate::handover::Switch;
use crate::handshake::Kernel;
use crate::identity::Key;
use crate::ids::IdBlocks;
use crate::listener::{Connections, Knocks};
use crate::outlet::{Left, Outlet};
use crate::people::People;
use crate::{control, failure};

/// What belongs to the whole daemon.
pub(crate) struct Hub {
    core: RefCell<Core>,
    actions: RefCell<Vec<Action>>,
    outlets: RefCell<HashMap<SessionKey, Rc<Outlet>>>,
    next_session: Cell<SessionKey>,
    tick_at: Cell<Option<Duration>>,
    tick_changed: Notify,
    /// Where chunks are read to; one for all sessions, as each is dealt with before the next is read.
    pub(crate) scratch: RefCell<Vec<u8>>,
    pub(crate) places: Places,
    pub(crate) key: Arc<Key>,
    pub(crate) people: People,
    halted: Halted,
    ids: Arc<IdBlocks>,
    knocks: Knocks,
    pub(crate) connections: Connections,
    lines: Lines,
    pub(crate) disk: Disk,
    /// Where the sessions' tasks give back what they have, when the bus restarts.
    pub(crate) handover: Switch,
    /// When the module files were last read for status; held while they are.
    pub(crate) modules_read: tokio::sync::Mutex<Option<Instant>>,
    /// What is wrong with eeveed.toml, in one line, while the bus runs with another.
    pub(crate) config_error: RefCell<Option<String>>,
}

/// Where things are, and whether this is a development bus.
#[derive(Debug, Clone)]
pub(crate) struct Places {
    /// `/etc/eevee`, or what `--config` names.
    pub(crate) config: PathBuf,
    /// Set by `--listen`: a client with our own uid may name its id and administer.
    pub(crate) development: bool,
}

impl Hub {
    pub(crate) fn new(
        places: Places,
        key: Arc<Key>,
        halted: Halted,
        ids: Arc<IdBlocks>,
        make_core: impl FnOnce(Now) -> Core,
    ) -> Rc<Self> {
        let core = make_core(now());
        Rc::new(Self {
            next_session: Cell::new(core.next_session()),
            core: RefCell::new(core),
            actions: RefCell::new(Vec::new()),
            outlets: RefCell::default(),
            disk: Disk::default(),
            handover: Switch::default(),
            tick_at: Cell::new(None),
            tick_changed: Notify::new(),
            scratch: RefCell::default(),
            places,
            key,
            people: People::new(),
            halted,
            ids,
            knocks: Knocks::default(),
            connections: Connections::default(),
            lines: Lines::default(),
            modules_read: tokio::sync::Mutex::default(),
            config_error: RefCell::default(),
        })
    }

    pub(crate) fn now(&self) -> Now {
        now()
    }

    pub(crate) fn limits(&self) -> Limits {
        self.core.borrow().limits.clone()
    }

    pub(crate) fn with_core<R>(&self, look: impl FnOnce(&mut Core) -> R) -> R {
        look(&mut self.core.borrow_mut())
    }

    /// A number for a new session.
    pub(crate) fn open(&self, outlet: &Rc<Outlet>) -> SessionKey {
        let key = self.next_session.get();
        self.next_session.set(key + 1);
        self.reopen(key, outlet);
        key
    }

    /// A session that the last run handed over.
    pub(crate) fn reopen(&self, key: SessionKey, outlet: &Rc<Outlet>) {
        self.outlets.borrow_mut().insert(key, outlet.clone());
    }

    /// Whether a task serves this session.
    pub(crate) fn is_open(&self, key: SessionKey) -> bool {
        self.outlets.borrow().contains_key(&key)
    }

    /// The session's task has given back its connection, and the session goes on.
    pub(crate) fn detach(&self, key: SessionKey) {
        self.outlets.borrow_mut().remove(&key);
    }

    /// Makes the task of every session look around.
    pub(crate) fn wake_all(&self) {
        for outlet in self.outlets.borrow().values() {
            outlet.wake();
        }
    }

    /// What the store has at the start.
    pub(crate) fn recover(self: &Rc<Self>, recovered: Recovered) {
        let mut actions = Vec::new();
        let now = now();
        self.with_core(|core| core.recover(now, recovered, &mut actions));
        self.follow(now, actions);
    }

    /// The session's task has ended.
    pub(crate) fn close(self: &Rc<Self>, key: SessionKey) {
        self.step(Event::Leave { session: key });
        self.outlets.borrow_mut().remove(&key);
    }

    /// Comes true when every session's task has ended, or after this time.
    pub(crate) async fn all_closed(&self, time: Duration) {
        let _ = tokio::time::timeout(time, async {
            while !self.outlets.borrow().is_empty() {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        })
        .await;
    }

    /// Gives the core one event, and carries out what it asks for.
    pub(crate) fn step(self: &Rc<Self>, event: Event) {
        let (now, mut actions) = (now(), self.actions.take());
        self.with_core(|core| core.step(now, event, &mut actions));
        self.follow(now, actions);
    }

    /// Gives the core what was read from a session: one look at the clock for all of it.
    pub(crate) fn take(self: &Rc<Self>, key: SessionKey, input: &[u8], frame_bytes_max: usize) -> Taken {
        let (now, mut actions) = (now(), self.actions.take());
        let taken = self.with_core(|core| core.take(now, key, input, frame_bytes_max, &mut actions));
        self.follow(now, actions);
        taken
    }

    /// Writes what the core has for a session.
    pub(crate) fn flush(self: &Rc<Self>, key: SessionKey, outlet: &Outlet) -> Left {
        let (now, mut actions) = (now(), self.actions.take());
        let left = outlet.flush(&self.core, now, key, &mut actions);
        self.follow(now, actions);
        left
    }

    /// Carries out what the core asked for.
    fn follow(self: &Rc<Self>, now: Now, mut actions: Vec<Action>) {
        let mut more = Vec::new();
        while !actions.is_empty() {
            for action in actions.drain(..) {
                match action {
                    Action::Wake(session) => self.write_out(now, session, &mut more),
                    action => self.carry_out(action),
                }
            }
            std::mem::swap(&mut actions, &mut more);
        }
        self.actions.replace(actions);
        self.feed_store(now);
        let deadline = self.with_core(|core| core.deadline());
        if deadline != self.tick_at.replace(deadline) {
            self.tick_changed.notify_one();
        }
    }

    fn write_out(&self, now: Now, session: SessionKey, actions: &mut Vec<Action>) {
        if let Some(outlet) = self.outlets.borrow().get(&session)
            // The task of a closing session writes what is left.
            && !outlet.closing.get()
            && (outlet.flush(&self.core, now, session, actions) != Left::Nothing || outlet.ended.get())
        {
            outlet.wake();
        }
    }

    fn carry_out(self: &Rc<Self>, action: Action) {
        match action {
            Action::Wake(_) => {} // See `follow`.
            Action::Close(session) => {
                if let Some(outlet) = self.outlets.borrow().get(&session) {
                    outlet.closing.set(true);
                    outlet.wake();
                }
            }
            Action::Control { session, number, control } => {
                tokio::task::spawn_local(control::carry_out(self.clone(), session, number, control));
            }
            Action::SaveHalted { id, on } => self.save_halted(&id, on),
            Action::Load { durable, generation, after, messages, bytes } => {
                self.disk.load(durable, generation, after, messages, bytes);
            }
            Action::StoreFailed(why) => self.disk.fail(why),
            Action::Ended { id } => {
                let hub = self.clone();
                tokio::task::spawn_local(async move {
                    let failure = failure::last_failure(&id).await;
                    let failure = failure.and_then(|failure| serde_json::to_value(failure).ok());
                    hub.step(Event::Failure { id, failure });
                });
            }
            Action::ReserveIds => {
                let (hub, ids) = (self.clone(), self.ids.clone());
                tokio::task::spawn_local(async move {
                    let reserved = tokio::task::spawn_blocking(move || ids.reserve()).await;
                    let end = match reserved {
                        Ok(Ok(reserved)) => reserved.end,
                        Ok(Err(error)) => {
                            tracing::error!("cannot reserve message ids, trying again in 10 s: {error}");
                            tokio::time::sleep(Duration::from_secs(10)).await;
                            0
                        }
                        Err(_) => 0,
                    };
                    hub.step(Event::Ids(end));
                });
            }
            Action::Log { level, source, operator, message, text, unpublished: is_unpublished } => {
                if let Some(silent) = self.lines.allow(&source, Instant::now()) {
                    let more =
                        if silent == 0 { String::new() } else { format!(" ({silent} lines before were left out)") };
                    let log = || log(level, operator.as_ref(), message, &format!("{text}{more}"));
                    if is_unpublished { unpublished(log) } else { log() }
                }
            }
        }
    }

    /// On tmpfs, small and rare: written here and now, so that the answer to `halt` comes after it.
    fn save_halted(&self, id: &OperatorId, on: bool) {
        let saved = if on { self.halted.set(id) } else { self.halted.clear(id) };
        if let Err(error) = saved {
            tracing::error!(
                "{id} is {}, but a restart of the bus will not know: {error}",
                if on { "halted" } else { "resumed" }
            );
        }
    }

    /// Runs for ever: publishes what the bus itself logs, from the level on that eeveed.toml names.
    pub(crate) async fn publish_records(self: Rc<Self>) {
        loop {
            records().ready().await;
            while let Some(record) = records().take() {
                unpublished(|| self.step(Event::Record(record)));
            }
        }
    }

    /// A connection that did not become a session.
    pub(crate) fn refused(&self, kernel: Kernel, refusal: &Refusal) {
        self.knocks.log(kernel, refusal);
    }

    /// Runs for ever: gives the core its ticks when they are due.
    pub(crate) async fn tick(self: Rc<Self>) {
        loop {
            let Some(at) = self.tick_at.get() else {
                self.tick_changed.notified().await;
                continue;
            };
            let wait = at.saturating_sub(self.now().mono);
            tokio::select! {
                () = tokio::time::sleep(wait) => self.step(Event::Tick),
                () = self.tick_changed.notified() => {}
            }
        }
    }
}

/// Lines of the core about one source: what it does wrong in a loop must not fill the journal, nor take the lines of others.
#[derive(Debug, Default)]
struct Lines(RefCell<HashMap<Box<str>, Counted>>);

#[derive(Debug)]
struct Counted {
    since: Instant,
    lines: u32,
    silent: u64,
}

const LINES_MAX: u32 = 20;
const LINES_TIME: Duration = Duration::from_secs(60);

/// Sources that are told apart; those beyond share what they may say.
const LINES_SOURCES_MAX: usize = 1024;
const LINES_OTHERS: &str = "others";

impl Lines {
    /// How many lines were left out before this one; none when this one is left out too.
    fn allow(&self, mut source: &str, now: Instant) -> Option<u64> {
        let mut all = self.0.borrow_mut();
        if all.len() >= LINES_SOURCES_MAX && !all.contains_key(source) {
            all.retain(|_, counted| now.duration_since(counted.since) < LINES_TIME);
            if all.len() >= LINES_SOURCES_MAX {
                source = LINES_OTHERS;
            }
        }
        let counted = all.entry(source.into()).or_insert(Counted { since: now, lines: 0, silent: 0 });
        if now.duration_since(counted.since) >= LINES_TIME {
            (counted.since, counted.lines) = (now, 0);
        }
        if counted.lines >= LINES_MAX {
            counted.silent += 1;
            return None;
        }
        counted.lines += 1;
        Some(std::mem::take(&mut counted.silent))
    }
}

/// The monotonic clock is CLOCK_MONOTONIC, as Rust's and tokio's timers are: a suspended machine expires nothing.
/// It goes on over a restart of the bus, so that what one run hands to the next need not be converted.
pub(crate) fn now() -> Now {
    let mono = clock_gettime(ClockId::CLOCK_MONOTONIC).map_or(Duration::ZERO, Duration::from);
    Now { mono, wall: Timestamp::now().0 }
}

fn log(level: tracing::Level, operator: Option<&OperatorId>, message: Option<u64>, text: &str) {
    macro_rules! at {
        ($level:expr) => {
            match (operator, message) {
                (Some(id), Some(message)) => {
                    tracing::event!($level, eevee.operator = id.as_str(), eevee.message = message, "{text}")
                }
                (Some(id), None) => tracing::event!($level, eevee.operator = id.as_str(), "{text}"),
                (None, _) => tracing::event!($level, "{text}"),
            }
        };
    }
    match level {
        tracing::Level::ERROR => at!(tracing::Level::ERROR),
        tracing::Level::WARN => at!(tracing::Level::WARN),
        tracing::Level::INFO => at!(tracing::Level::INFO),
        _ => at!(tracing::Level::DEBUG),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_source_has_lines_of_its_own_and_they_are_bounded() {
        let (lines, now) = (Lines::default(), Instant::now());
        let allowed = |source: &str, at| (0..100).filter(|_| lines.allow(source, at).is_some()).count();
        assert_eq!(allowed("user/ann", now), LINES_MAX as usize);
        assert_eq!(allowed("user/bob", now), LINES_MAX as usize, "people do not share");
        assert_eq!(lines.allow("user/ann", now + LINES_TIME), Some(80), "what was left out is counted");
        for number in 0..5_000 {
            lines.allow(&format!("user/p{number}"), now);
        }
        assert!(lines.0.borrow().len() <= LINES_SOURCES_MAX + 1);
        assert_eq!(allowed("user/late", now), 0, "who comes when all places are taken shares one");
        assert_eq!(allowed("user/late", now + 2 * LINES_TIME), LINES_MAX as usize);
        assert!(lines.0.borrow().len() < 3, "what is over is forgotten");
    }
}
