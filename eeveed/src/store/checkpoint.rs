//! The write-ahead log is carried over into the database, and at the end all is.

use super::error::{Failure, Meaning, meaning};
use super::{Store, schema};
use crate::core::storage::StorageError;

/// Pages of the write-ahead log after which they are carried over into the database (4 MiB). Small, so that the log is
/// written over in place again and again, and a checkpoint takes a moment.
const CHECKPOINT_PAGES: u64 = 1000;

/// The same when nobody waits.
const CHECKPOINT_PAGES_IDLE: u64 = 100;

impl Store {
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

    pub(super) fn checkpoint_now(&mut self, mode: &str) -> Result<(), StorageError> {
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
}
