//! Durable messages on disk: one SQLite database, a high-water mark beside it, and a thread that owns both.
//!
//! Use: [`Store::open`] at the start says what is there ([`Recovered`]), or that nothing was ever durable, and then
//! [`Store::create`] gives a store that makes its files with the first batch. Then [`worker::Worker::start`] takes it;
//! all the rest goes through the worker.
//!
//! What is promised: [`commit`](Store::commit) returns when the whole batch is synced, or says that nothing of it is
//! there (`Unavailable`), or that nobody knows (`Failed`: then this store does nothing any more, because a sync that
//! failed cannot be repeated). Every row that is read is checked against its checksum first: a message comes back as it
//! was given, or as damaged, never another. The mark is to follow a commit within 10 ms, which the worker sees to. On a
//! full disk, what brings something is refused, and all else goes on (see [`reserve`]).

mod apply;
mod error;
mod mark;
mod marker;
mod open;
mod place;
mod read;
mod reserve;
mod row;
mod salvage;
mod schema;
mod sum;
mod verify;
pub(crate) mod worker;

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::{Arc, Mutex};

use rusqlite::Connection;

use self::error::{Failure, Meaning, failed, meaning};
use self::mark::{Mark, Marks};
use self::place::Place;
use self::reserve::Reserve;
use crate::core::storage::{Batch, Committed, DurableKey, EntryNumber, StorageError};

pub(crate) use self::error::OpenError;
pub(crate) use self::read::DeadLetter;

/// Pages of the write-ahead log after which they are carried over into the database (4 MiB). Small, so that the log is
/// written over in place again and again, and a checkpoint takes a moment.
const CHECKPOINT_PAGES: u64 = 1000;

/// The same when nobody waits.
const CHECKPOINT_PAGES_IDLE: u64 = 100;

/// The files of the mark, written by who owns the store, or behind it.
type SharedMarks = Arc<Mutex<Marks>>;

/// Durable messages on disk. Blocks; see [`worker`] for a thread of its own.
#[derive(Debug)]
pub(crate) struct Store {
    home: Home,
    /// None before the first batch of a new store, and after an error that a new connection may heal.
    connection: Option<Connection>,
    marks: Option<SharedMarks>,
    state: State,
    /// The number of the last batch that was given, committed or not.
    given: u64,
    /// Set when nothing may be tried any more.
    failed: Option<String>,
    /// Whether there is a database under this state: if not, the first batch makes it.
    created: bool,
    /// The file that is open.
    identity: Option<(u64, u64)>,
    reserve: Reserve,
    /// Why nothing new is taken, while it is so.
    tight: Option<String>,
    options: Options,
}

#[derive(Debug)]
enum Home {
    Disk(Place),
    #[cfg(test)]
    Memory,
}

/// What a test may want otherwise.
#[derive(Debug, Clone, Copy)]
struct Options {
    steps: &'static [&'static str],
    page_bytes: u32,
    /// Pages that the database may have.
    page_limit: Option<u32>,
}

impl Default for Options {
    fn default() -> Self {
        Self { steps: schema::STEPS, page_bytes: 4096, page_limit: None }
    }
}

/// What stands in `meta`, and what else is known of the whole.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
struct State {
    batch: u64,
    next_entry: EntryNumber,
    next_durable: DurableKey,
    time_ms: u64,
    wall: u64,
    digest: u64,
    /// Dead letters, and the sum of their sizes.
    dead: u64,
    dead_bytes: u64,
    /// The same of each subscription that has any.
    dead_of: Arc<BTreeMap<DurableKey, (u64, u64)>>,
    /// With the owner of each.
    durables: Arc<BTreeMap<DurableKey, Arc<str>>>,
}

impl State {
    fn count_dead(&mut self, durable: DurableKey, bytes: u64) {
        self.dead += 1;
        self.dead_bytes += bytes;
        let of = Arc::make_mut(&mut self.dead_of).entry(durable).or_default();
        *of = (of.0 + 1, of.1 + bytes);
    }

    fn uncount_dead(&mut self, durable: DurableKey, bytes: u64) {
        self.dead = self.dead.saturating_sub(1);
        self.dead_bytes = self.dead_bytes.saturating_sub(bytes);
        let all = Arc::make_mut(&mut self.dead_of);
        if let Some(of) = all.get_mut(&durable) {
            *of = (of.0.saturating_sub(1), of.1.saturating_sub(bytes));
            if of.0 == 0 {
                all.remove(&durable);
            }
        }
    }

    fn mark(&self) -> Mark {
        Mark { batch: self.batch, next_entry: self.next_entry, next_durable: self.next_durable }
    }
}

impl Store {
    /// A store that makes its files in `dir` with its first batch, which has number 1.
    ///
    /// # Errors
    /// The directory cannot be used.
    pub(crate) fn create(dir: &Path) -> Result<Self, OpenError> {
        Ok(Self::new(Home::Disk(Place::new(dir)?), Options::default()))
    }

    /// The same in memory, for simulations.
    #[cfg(test)]
    pub(crate) fn in_memory() -> Self {
        Self::new(Home::Memory, Options::default())
    }

    fn new(home: Home, options: Options) -> Self {
        let state = State { next_entry: 1, next_durable: 1, ..State::default() };
        Self {
            home,
            connection: None,
            marks: None,
            state,
            given: 0,
            failed: None,
            created: false,
            identity: None,
            reserve: Reserve::default(),
            tight: None,
            options,
        }
    }

    /// From now on the database may not grow beyond so many pages: a full disk. None: no limit.
    #[cfg(test)]
    pub(crate) fn set_page_limit(&mut self, pages: Option<u32>) {
        self.options.page_limit = pages;
        if let Some(connection) = &self.connection {
            limit_pages(connection, self.options).expect("max_page_count");
        }
    }

    /// How many pages the reserve gives, in memory.
    #[cfg(test)]
    pub(crate) fn set_reserve(&mut self, pages: u32) {
        self.reserve.pages = pages;
    }

    /// The number of the last batch that was committed.
    #[cfg(test)]
    pub(crate) fn batch(&self) -> u64 {
        self.state.batch
    }

    /// Writes a batch and syncs it.
    ///
    /// # Errors
    /// `Unavailable`: nothing of it is there, the store is whole, and may be tried again. `Failed`: nobody knows, and
    /// every further call says the same.
    pub(crate) fn commit(&mut self, batch: &Batch) -> Result<Committed, StorageError> {
        self.usable()?;
        // One that was refused may come again under its number, or be given up for the next.
        let again = batch.number == self.given && self.given > self.state.batch;
        let first_again = batch.number == self.state.batch + 1;
        if batch.number != self.given + 1 && !again && !first_again {
            return Err(self.fail(format!("batch {} was given after batch {}", batch.number, self.given)));
        }
        self.given = batch.number;
        let grows = batch.grows(|durable| self.state.durables.contains_key(&durable));
        self.reach(grows)?;
        self.check_room(batch, grows)?;
        let in_pieces = self.tight.is_some();
        let done = self.write(batch, in_pieces);
        let mut committed = match done {
            Ok(committed) => committed,
            Err(failure) => {
                let full = self.is_full(&failure);
                let error = self.judge(failure);
                if !full || matches!(error, StorageError::Failed(_)) {
                    return Err(error);
                }
                self.run_out(grows);
                if grows {
                    return Err(self.tight.clone().map_or(error, StorageError::Unavailable));
                }
                self.connect()?;
                self.checkpoint_now("PASSIVE")?;
                let done = self.write(batch, true);
                done.map_err(|failure| self.judge(failure))?
            }
        };
        committed.tight.clone_from(&self.tight);
        Ok(committed)
    }

    /// Opens what is closed; if there is no room even for that, with the reserve.
    fn reach(&mut self, grows: bool) -> Result<(), StorageError> {
        let error = match self.connect() {
            Err(StorageError::Unavailable(text)) if !grows && self.created && self.has_no_room() => text,
            done => return done,
        };
        tracing::debug!("{error}");
        self.run_out(grows);
        self.connect()
    }

    /// One transaction, or, where the room is small, several, of which only the last says that the batch is there: with a
    /// part of it on disk, nothing is wrong but that the rest is missing.
    fn write(&mut self, batch: &Batch, in_pieces: bool) -> Result<Committed, Failure> {
        let Some(connection) = &self.connection else { return Err(Failure::Senseless("no connection".into())) };
        let (mut next, last, schema) = (self.state.clone(), self.state.batch, self.options.steps.len());
        let mut parts = 0_u32;
        let mut pause = |connection: &Connection, next: &State| {
            let part = State { batch: last, ..next.clone() };
            row::write_meta(connection, &part, schema)?;
            connection.prepare_cached("COMMIT")?.execute(())?;
            parts += 1;
            // So that the log is written from its beginning again.
            connection.query_row("PRAGMA wal_checkpoint(PASSIVE)", (), |_| Ok(())).or_else(|error| {
                let passes = matches!(meaning(&error), Meaning::Full | Meaning::Busy);
                if passes { Ok(()) } else { Err(error) }
            })?;
            connection.prepare_cached("BEGIN IMMEDIATE")?.execute(())?;
            Ok(())
        };
        let done = transaction(connection, |connection| {
            let committed = if in_pieces {
                apply::apply(connection, &mut next, batch, Some(&mut pause))?
            } else {
                apply::apply(connection, &mut next, batch, None)?
            };
            row::write_meta(connection, &next, schema)?;
            Ok(committed)
        });
        match done {
            Ok(committed) => {
                self.state = next;
                Ok(committed)
            }
            Err(failure) if parts > 0 => {
                Err(Failure::Senseless(format!("only a part of a batch could be written: {failure:?}")))
            }
            Err(failure) => Err(failure),
        }
    }

    /// Whether an error is that there is no room.
    fn is_full(&self, failure: &Failure) -> bool {
        let Failure::Sqlite(error) = failure else { return false };
        match meaning(error) {
            Meaning::Full => true,
            // The shared memory, or a quota.
            Meaning::Unwritten | Meaning::Unreachable => self.has_no_room(),
            _ => false,
        }
    }

    fn has_no_room(&self) -> bool {
        match &self.home {
            Home::Disk(place) => place.probe().is_err_and(|(error, _)| reserve::is_full(&error)),
            #[cfg(test)]
            Home::Memory => false,
        }
    }

    /// Carries the write-ahead log over into the database if it has grown. `idle`: when nobody waits.
    ///
    /// # Errors
    /// `Failed` when a sync failed. Too little room is no error: the log keeps what it has.
    pub(crate) fn checkpoint(&mut self, idle: bool) -> Result<(), StorageError> {
        self.usable()?;
        let pages = match (&self.tight, idle) {
            (Some(_), _) => 1,
            (None, true) => CHECKPOINT_PAGES_IDLE,
            (None, false) => CHECKPOINT_PAGES,
        };
        if self.connection.is_some() && schema::wal_pages() >= pages { self.checkpoint_now("PASSIVE") } else { Ok(()) }
    }

    fn checkpoint_now(&mut self, mode: &str) -> Result<(), StorageError> {
        let Some(connection) = &self.connection else { return Ok(()) };
        let done = connection.query_row(&format!("PRAGMA wal_checkpoint({mode})"), (), |_| Ok(()));
        match done {
            Ok(()) => Ok(()),
            Err(error) => match meaning(&error) {
                Meaning::Full | Meaning::Busy => Ok(()),
                Meaning::Unreachable => {
                    self.disconnect();
                    Ok(())
                }
                _ => match self.judge(Failure::Sqlite(error)) {
                    StorageError::Unavailable(_) => Ok(()),
                    failed => Err(failed),
                },
            },
        }
    }

    /// The end: mark, checkpoint, all closed. Gives back the number of the last batch, for the next start.
    ///
    /// # Errors
    /// As [`flush_mark`](Self::flush_mark). Nothing that was committed is lost by it.
    pub(crate) fn close(mut self) -> Result<u64, StorageError> {
        self.flush_mark(true)?;
        // (What the log has of a full disk, nobody else is to take.)
        self.checkpoint_now(if self.tight.is_some() { "PASSIVE" } else { "TRUNCATE" })?;
        Ok(self.state.batch)
    }

    fn usable(&self) -> Result<(), StorageError> {
        match &self.failed {
            Some(text) => Err(StorageError::Failed(text.clone())),
            None => Ok(()),
        }
    }

    fn fail(&mut self, text: impl std::fmt::Display) -> StorageError {
        let error = failed(text);
        if let StorageError::Failed(text) = &error {
            self.failed = Some(text.clone());
        }
        self.disconnect();
        error
    }

    /// The files stay as they are: nothing is carried over when a connection closes.
    fn disconnect(&mut self) {
        #[cfg(test)]
        if matches!(self.home, Home::Memory) {
            return;
        }
        self.connection = None;
    }

    /// What an error means for the store, and what it does about it.
    fn judge(&mut self, failure: Failure) -> StorageError {
        let error = match failure {
            Failure::Senseless(text) => return self.fail(text),
            Failure::Sqlite(error) => error,
        };
        match meaning(&error) {
            Meaning::Full => {
                // With the log carried over it is written from its beginning again, which needs no room: so that
                // acknowledgements still come through, and make some.
                if let Err(failed) = self.checkpoint_now("PASSIVE") {
                    return failed;
                }
                StorageError::Unavailable("the disk is full".into())
            }
            Meaning::Busy => StorageError::Unavailable(format!("the store is busy: {error}")),
            Meaning::Unreachable => {
                self.disconnect();
                StorageError::Unavailable(format!("the store cannot be written: {error}"))
            }
            Meaning::Unwritten => match &self.home {
                Home::Disk(place) => match place.probe() {
                    Err((why, true)) => {
                        self.disconnect();
                        StorageError::Unavailable(format!("the store cannot be written: {why}"))
                    }
                    _ => self.fail(format!("a write to the store failed: {error}")),
                },
                #[cfg(test)]
                Home::Memory => self.fail(error),
            },
            Meaning::Corrupt => self.fail(format!("the store is damaged: {error}")),
            Meaning::Unknown => self.fail(format!("the store failed: {error}")),
        }
    }

    /// Makes sure that there is a connection, and files under it.
    fn connect(&mut self) -> Result<(), StorageError> {
        if self.connection.is_some() {
            return Ok(());
        }
        let place = match &self.home {
            Home::Disk(place) => place.clone(),
            #[cfg(test)]
            Home::Memory => {
                self.connection = Some(memory(&self.state, self.options).map_err(|error| self.judge(error.into()))?);
                self.created = true;
                return Ok(());
            }
        };
        let unavailable = |error: OpenError| StorageError::Unavailable(error.to_string());
        if !self.created && place.database_bytes().is_none() {
            place.build(|connection| open::empty(connection, &self.state, self.options)).map_err(unavailable)?;
            place.install().map_err(unavailable)?;
        }
        if self.marks.is_none() {
            let marks = Marks::open(place.dir(), self.state.mark()).map_err(unavailable)?;
            self.marks = Some(Arc::new(Mutex::new(marks)));
        }
        if self.created && place.identity() != self.identity {
            return Err(self.fail(format!("{} was moved, removed or replaced", place.database().display())));
        }
        let connection = schema::connect(&place.database())
            .and_then(|connection| limit_pages(&connection, self.options).map(|()| connection))
            .map_err(|error| self.judge(error.into()))?;
        let batch = row::read_meta(&connection).map_err(|error| self.judge(error.into()))?.map(|meta| meta.batch);
        if batch != Some(self.state.batch) {
            let text = format!("{} was changed by somebody else", place.database().display());
            return Err(self.fail(text));
        }
        self.identity = place.identity();
        self.created = true;
        self.connection = Some(connection);
        Ok(())
    }
}

#[cfg(test)]
fn memory(state: &State, options: Options) -> rusqlite::Result<Connection> {
    let connection = Connection::open_in_memory()?;
    schema::set_up(&connection)?;
    open::empty(&connection, state, options)?;
    limit_pages(&connection, options)?;
    Ok(connection)
}

fn limit_pages(connection: &Connection, options: Options) -> rusqlite::Result<()> {
    match options.page_limit {
        Some(pages) => connection.pragma_update(None, "max_page_count", pages),
        None if cfg!(test) => connection.pragma_update(None, "max_page_count", u32::MAX - 1),
        None => Ok(()),
    }
}

/// All or nothing. After an error nothing of it is left in the connection either.
fn transaction<T>(connection: &Connection, work: impl FnOnce(&Connection) -> Result<T, Failure>) -> Result<T, Failure> {
    connection.prepare_cached("BEGIN IMMEDIATE")?.execute(())?;
    let done = work(connection).and_then(|value| {
        connection.prepare_cached("COMMIT")?.execute(())?;
        Ok(value)
    });
    // Some errors have rolled it back already.
    if done.is_err() && !connection.is_autocommit() {
        connection.execute_batch("ROLLBACK")?;
    }
    done
}

#[cfg(test)]
mod tests;
