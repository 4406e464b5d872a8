//! The connection to the database: made when it is wanted, given up when a new one may find things well again.

use std::sync::{Arc, Mutex};

use rusqlite::Connection;

use super::error::{Failure, OpenError};
use super::mark::Marks;
#[cfg(test)]
use super::state::State;
use super::{Home, Options, Store, open, row, schema};
use crate::core::storage::StorageError;

impl Store {
    /// Makes sure that there is a connection, and files under it.
    pub(super) fn connect(&mut self) -> Result<(), StorageError> {
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

    /// The files stay as they are: nothing is carried over when a connection closes.
    pub(super) fn disconnect(&mut self) {
        #[cfg(test)]
        if matches!(self.home, Home::Memory) {
            return;
        }
        self.connection = None;
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

pub(super) fn limit_pages(connection: &Connection, options: Options) -> rusqlite::Result<()> {
    match options.page_limit {
        Some(pages) => connection.pragma_update(None, "max_page_count", pages),
        None if cfg!(test) => connection.pragma_update(None, "max_page_count", u32::MAX - 1),
        None => Ok(()),
    }
}

/// All or nothing. After an error nothing of it is left in the connection either.
pub(super) fn transaction<T>(
    connection: &Connection,
    work: impl FnOnce(&Connection) -> Result<T, Failure>,
) -> Result<T, Failure> {
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
