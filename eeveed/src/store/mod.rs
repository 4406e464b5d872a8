//! Durable messages on disk: one SQLite database, a high-water mark beside it, and a thread that owns both.
//!
//! Use: [`Store::open`] at the start says what is there ([`Recovered`]), or that nothing was ever durable, and then
//! [`Store::create`] gives a store that makes its files with the first batch. Then [`worker::Worker::new`] takes it;
//! all the rest goes through the worker.
//!
//! What is promised: [`commit`](Store::commit) returns when the whole batch is synced, or says that nothing of it is
//! there (`Unavailable`), or that nobody knows (`Failed`: then this store does nothing any more, because a sync that
//! failed cannot be repeated). Every row that is read is checked against its checksum first: a message comes back as it
//! was given, or as damaged, never another. The mark is to follow a commit within 10 ms, which the worker sees to. On a
//! full disk, what brings something is refused, and all else goes on (see [`reserve`]).

mod apply;
mod checkpoint;
mod commit;
mod connection;
mod error;
mod fault;
mod mark;
mod marker;
mod open;
mod place;
mod read;
mod reserve;
mod row;
mod salvage;
mod schema;
mod state;
mod sum;
mod verify;
pub(crate) mod worker;

use std::path::Path;
use std::sync::{Arc, Mutex};

use rusqlite::Connection;

use self::mark::Marks;
use self::place::Place;
use self::reserve::Reserve;
use self::state::State;

pub(crate) use self::error::OpenError;
pub(crate) use self::read::DeadLetter;

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
            connection::limit_pages(connection, self.options).expect("max_page_count");
        }
    }

    /// How many pages the reserve gives, in memory.
    #[cfg(test)]
    pub(crate) fn set_reserve(&mut self, pages: u32) {
        self.reserve.pages = pages;
    }

    /// The bytes of a stored message are no longer what was written.
    #[cfg(test)]
    pub(crate) fn spoil(&mut self, id: u64) {
        let connection = self.connection.as_ref().expect("a store that was written to");
        let sql = "UPDATE message SET document = zeroblob(length(document)) WHERE id = ?";
        assert!(connection.execute(sql, (row::signed(id),)).expect("an update") > 0);
    }

    /// The number of the last batch that was committed.
    #[cfg(test)]
    pub(crate) fn batch(&self) -> u64 {
        self.state.batch
    }
}

#[cfg(test)]
mod tests;
