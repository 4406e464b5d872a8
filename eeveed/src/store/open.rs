//! Opening what an earlier run left: whole, shortened, damaged, half repaired, from another release, or not there.

use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};

use rusqlite::Connection;

use super::connection::{limit_pages, transaction};
use super::error::{Failure, Meaning, OpenError, meaning};
use super::mark::{FoundMark, Mark, Marks};
use super::place::Place;
use super::reserve::Reserve;
use super::row::{Meta, write_meta};
use super::state::State;
use super::verify::{Trouble, migrate, recover, verify};
use super::{Home, Options, Store, salvage, schema};
use crate::core::storage::{Recovered, StorageError};

/// A database below this has not even a first page.
const FIRST_PAGE_BYTES: u64 = 512;

impl Store {
    /// What is stored in `dir`, or none if nothing ever was: then nothing is made. Everything is read and checked, but
    /// when `trusted_batch`, the number that [`close`](Store::close) gave the process before, is the one found.
    ///
    /// What is damaged is set aside under a name with the time, and what can be read of it goes into a new database:
    /// then `problems` says so, and every subscription is marked until it is written or delivered to again.
    ///
    /// # Errors
    /// The directory or its files cannot be used, or a later release wrote them. Nothing was changed then.
    pub(crate) fn open(
        dir: &Path,
        wall: u64,
        trusted_batch: Option<u64>,
    ) -> Result<Option<(Self, Recovered)>, OpenError> {
        Self::open_with(dir, wall, trusted_batch, Options::default())
    }

    pub(super) fn open_with(
        dir: &Path,
        wall: u64,
        trusted_batch: Option<u64>,
        options: Options,
    ) -> Result<Option<(Self, Recovered)>, OpenError> {
        if !dir.exists() {
            return Ok(None);
        }
        let place = Place::new(dir)?;
        let found = FoundMark::read(place.dir())?;
        Reserve::give_up_for_start(&place);
        let mut problems = Vec::new();
        if let Some(aside) = place.finish_repair(wall)? {
            problems.push(format!(
                "a repair of the store of durable messages had been interrupted, and is finished now; what could not \
                 be read is missing. The damaged files: {}",
                list(&aside)
            ));
        }
        let bytes = place.database_bytes();
        if bytes.is_none() && found.nothing && !place.has_log() {
            return Ok(None);
        }
        let examined = match bytes {
            None => Err(Trouble::Damage("the database is gone".into())),
            Some(bytes) if bytes < FIRST_PAGE_BYTES => Err(Trouble::Damage("the database is cut off".into())),
            Some(_) => examine(&place, found.mark, trusted_batch, options),
        };
        let (connection, meta) = match examined {
            Ok(examined) => examined,
            Err(Trouble::Damage(why)) => {
                place.forget_shm();
                problems.push(salvage::salvage(&place, found.mark, wall, &why, options)?);
                examine(&place, None, None, options).map_err(|trouble| refuse(&place, trouble, options))?
            }
            Err(trouble) => return Err(refuse(&place, trouble, options)),
        };
        let mut state = State::of(&meta);
        let recovered = recover(&connection, &mut state, wall).map_err(OpenError::sqlite(place.database(), "read"))?;
        let mut recovered = Recovered { problems, ..recovered };
        if let Some(mark) = found.mark {
            state.next_entry = state.next_entry.max(mark.next_entry);
            state.next_durable = state.next_durable.max(mark.next_durable);
            (recovered.next_entry, recovered.next_durable) = (state.next_entry, state.next_durable);
        } else if state.batch > 0 {
            recovered.problems.push(format!(
                "{} has no mark beside it ({}): whether its end is missing cannot be told. The mark is made anew",
                place.database().display(),
                super::mark::FILES.join(", ")
            ));
        }
        if let Some(problem) = found.problem {
            recovered.problems.push(format!("{problem}; made anew"));
        }
        let marks = Marks::open(place.dir(), state.mark())?;
        // Only now: until here nothing of it was needed for another try.
        place.remove_leftovers()?;
        let database = place.database();
        let mut store = Self {
            connection: Some(connection),
            marks: Some(Arc::new(Mutex::new(marks))),
            given: state.batch,
            created: true,
            identity: place.identity(),
            state,
            ..Self::new(Home::Disk(place), options)
        };
        if trusted_batch != Some(store.state.batch) {
            store.renew(database)?;
        }
        Ok(Some((store, recovered)))
    }

    /// Carries the log over, which writes and syncs once more all that it has: after a sync that failed the kernel may show
    /// what is not on the disk, and never write it. Where there is no room for that, it is as it was.
    fn renew(&mut self, path: PathBuf) -> Result<(), OpenError> {
        self.checkpoint_now("PASSIVE").map_err(|error| {
            let (StorageError::Failed(text) | StorageError::Unavailable(text)) = error;
            OpenError::Unusable { path, what: "sync", text }
        })
    }

    /// What a start would find now; for simulations, whose store survives in memory.
    #[cfg(test)]
    pub(crate) fn reopen(&mut self, wall: u64) -> Recovered {
        self.given = self.state.batch;
        match &self.connection {
            Some(connection) => {
                let (_, meta) = verify(connection, self.options.steps, None).expect("a whole store");
                let mut state = State::of(&meta);
                let recovered = recover(connection, &mut state, wall).expect("readable rows");
                self.state = state;
                recovered
            }
            None => Recovered { next_entry: 1, next_durable: 1, ..Recovered::default() },
        }
    }
}

/// Opens the database, checks it, brings it to the newest version, and makes sure that it can be written.
fn examine(
    place: &Place,
    mark: Option<Mark>,
    trusted: Option<u64>,
    options: Options,
) -> Result<(Connection, Meta), Trouble> {
    let connection = schema::connect(&place.database())?;
    let (version, meta) = verify(&connection, options.steps, trusted)?;
    if let Some(mark) = mark
        && mark.batch > meta.batch
    {
        let text = format!("it ends with batch {}, but batch {} was committed", meta.batch, mark.batch);
        return Err(Trouble::Damage(text));
    }
    // Somebody who looked inside may have left it in another mode.
    let mode: String = connection.query_row("PRAGMA journal_mode = WAL", (), |row| row.get(0))?;
    if mode != "wal" {
        return Err(Trouble::Damage(format!("it cannot be brought into the mode that it needs, but is in {mode}")));
    }
    let meta = migrate(&connection, options.steps, version, meta)?;
    limit_pages(&connection, options)?;
    let written = transaction(&connection, |connection| {
        write_meta(connection, &State::of(&meta), options.steps.len()).map_err(Failure::Sqlite)
    });
    match written {
        Ok(()) => Ok((connection, meta)),
        Err(Failure::Sqlite(error)) => match meaning(&error) {
            // Live traffic does not need the disk; what does gets the error until there is room.
            Meaning::Full => Ok((connection, meta)),
            // The directory can be written, but its head says that this file cannot.
            Meaning::Unreachable if place.probe().is_ok() => Err(Trouble::Damage(error.to_string())),
            _ => Err(error.into()),
        },
        Err(Failure::Senseless(text)) => Err(Trouble::Damage(text)),
    }
}

fn refuse(place: &Place, trouble: Trouble, options: Options) -> OpenError {
    let path = place.database();
    match trouble {
        Trouble::Newer(found) => OpenError::Newer { path, found, known: options.steps.len() as u64 },
        Trouble::Cannot(error) => OpenError::Unusable { path, what: "use", text: error.to_string() },
        Trouble::Damage(text) => OpenError::Unusable { path, what: "repair", text },
    }
}

/// The tables of a store in which nothing is yet, but what the state says.
pub(super) fn empty(connection: &Connection, state: &State, options: Options) -> rusqlite::Result<()> {
    connection.pragma_update(None, "page_size", options.page_bytes)?;
    schema::create(connection, options.steps)?;
    write_meta(connection, state, options.steps.len())
}

pub(super) fn list(paths: &[PathBuf]) -> String {
    if paths.is_empty() {
        return "none".into();
    }
    paths.iter().map(|path| path.display().to_string()).collect::<Vec<_>>().join(", ")
}
