//! What SQLite's errors mean for what is stored: not now, or never again without a new look.

use std::io;
use std::path::PathBuf;

use rusqlite::{Error, ErrorCode, ffi};

use crate::core::storage::StorageError;

/// Why the store cannot be opened. What is damaged is no reason: it is set aside and reported.
#[derive(Debug, thiserror::Error)]
pub(crate) enum OpenError {
    #[error(
        "{} was written by a later version of eeveed (schema {found}; this one knows up to {known}): install that \
         version again; or, if no stored message matters, move the file away", path.display()
    )]
    Newer { path: PathBuf, found: u64, known: u64 },
    #[error("{} is {what}: {remedy}", path.display())]
    Strange { path: PathBuf, what: &'static str, remedy: &'static str },
    #[error("cannot {what} {}: {text}; durable messages need that directory, writable, with room", path.display())]
    Unusable { path: PathBuf, what: &'static str, text: String },
}

impl OpenError {
    pub(super) fn io(path: impl Into<PathBuf>, what: &'static str) -> impl FnOnce(io::Error) -> Self {
        let path = path.into();
        move |error| Self::Unusable { path, what, text: error.to_string() }
    }

    pub(super) fn sqlite(path: impl Into<PathBuf>, what: &'static str) -> impl FnOnce(Error) -> Self {
        let path = path.into();
        move |error| Self::Unusable { path, what, text: error.to_string() }
    }
}

/// What an error says about what is on the disk.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Meaning {
    /// No room.
    Full,
    /// Somebody else's lock, no memory: nothing was changed, and this connection is good.
    Busy,
    /// Not writable, or not there: a new connection may find it well again.
    Unreachable,
    /// A write failed, and only the kernel knows why.
    Unwritten,
    /// Pages that are not what was written.
    Corrupt,
    /// A sync failed, or something that must not happen: what is on the disk is not known.
    Unknown,
}

pub(super) fn meaning(error: &Error) -> Meaning {
    let Error::SqliteFailure(failure, _) = error else { return Meaning::Unknown };
    match failure.code {
        ErrorCode::DiskFull => Meaning::Full,
        ErrorCode::DatabaseBusy | ErrorCode::DatabaseLocked | ErrorCode::OutOfMemory => Meaning::Busy,
        ErrorCode::ReadOnly if failure.extended_code == ffi::SQLITE_READONLY_DBMOVED => Meaning::Unknown,
        ErrorCode::ReadOnly
        | ErrorCode::CannotOpen
        | ErrorCode::PermissionDenied
        | ErrorCode::FileLockingProtocolFailed => Meaning::Unreachable,
        ErrorCode::DatabaseCorrupt | ErrorCode::NotADatabase => Meaning::Corrupt,
        ErrorCode::SystemIoFailure => match failure.extended_code {
            ffi::SQLITE_IOERR_WRITE | ffi::SQLITE_IOERR_TRUNCATE => Meaning::Unwritten,
            ffi::SQLITE_IOERR_NOMEM => Meaning::Busy,
            ffi::SQLITE_IOERR_SHMOPEN
            | ffi::SQLITE_IOERR_SHMSIZE
            | ffi::SQLITE_IOERR_SHMLOCK
            | ffi::SQLITE_IOERR_SHMMAP
            | ffi::SQLITE_IOERR_LOCK
            | ffi::SQLITE_IOERR_RDLOCK
            | ffi::SQLITE_IOERR_ACCESS => Meaning::Unreachable,
            ffi::SQLITE_IOERR_READ | ffi::SQLITE_IOERR_SHORT_READ | ffi::SQLITE_IOERR_CORRUPTFS => Meaning::Corrupt,
            _ => Meaning::Unknown,
        },
        _ => Meaning::Unknown,
    }
}

/// Whether a sync failed.
pub(super) fn is_sync(error: &Error) -> bool {
    let Error::SqliteFailure(failure, _) = error else { return false };
    matches!(failure.extended_code, ffi::SQLITE_IOERR_FSYNC | ffi::SQLITE_IOERR_DIR_FSYNC)
}

/// What went wrong while a batch was carried out.
#[derive(Debug)]
pub(super) enum Failure {
    Sqlite(Error),
    /// The batch cannot be right: it names what is not there.
    Senseless(String),
}

impl From<Error> for Failure {
    fn from(error: Error) -> Self {
        Self::Sqlite(error)
    }
}

pub(super) fn failed(text: impl std::fmt::Display) -> StorageError {
    StorageError::Failed(format!("{text}; restart eeveed, which looks what is there (systemctl restart eeveed)"))
}
