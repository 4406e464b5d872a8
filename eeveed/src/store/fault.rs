//! What an error means for the store, and that a store that has failed does nothing any more.

use super::error::{Failure, Meaning, failed, meaning};
use super::{Home, Store};
use crate::core::storage::StorageError;

impl Store {
    pub(super) fn usable(&self) -> Result<(), StorageError> {
        match &self.failed {
            Some(text) => Err(StorageError::Failed(text.clone())),
            None => Ok(()),
        }
    }

    pub(super) fn fail(&mut self, text: impl std::fmt::Display) -> StorageError {
        let error = failed(text);
        if let StorageError::Failed(text) = &error {
            self.failed = Some(text.clone());
        }
        self.disconnect();
        error
    }

    /// What an error means for the store, and what it does about it.
    pub(super) fn judge(&mut self, failure: Failure) -> StorageError {
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
}
