//! A batch comes to the disk, as a whole or not at all.

use rusqlite::Connection;

use super::connection::transaction;
use super::error::{Failure, Meaning, meaning};
use super::state::State;
use super::{Home, Store, apply, reserve, row};
use crate::core::storage::{Batch, Committed, StorageError};

impl Store {
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
}
