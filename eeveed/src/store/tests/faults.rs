//! A read-only disk, a sync that failed, somebody else's hands on the files: what is refused, and what heals.

use std::os::unix::fs::PermissionsExt;

use rusqlite::ffi;

use super::super::error::{Failure, Meaning, meaning};
use super::super::verify::Trouble;
use super::super::{OpenError, Store};
use super::disk::{Disk, unavailable};
use super::generator::*;
use super::model::*;
use crate::core::storage::*;

#[test]
fn a_disk_that_is_read_only() {
    let Some(disk) = Disk::new("8m") else { return };
    disk.remount("ro");
    let mut generator = Generator::new(6);
    let mut store = Store::create(disk.path()).unwrap();
    let (batch, expected) = generator.next();
    unavailable(store.commit(&batch));
    disk.remount("rw");
    assert_eq!(store.commit(&batch).unwrap(), expected);
    run(&mut store, &mut generator, 20);
    // No descriptor may be open for writing while the kernel makes it read-only: as after an error of it.
    store.disconnect();
    store.marks = None;
    disk.remount("ro");
    let (batch, expected) = generator.next();
    unavailable(store.commit(&batch));
    unavailable(store.commit(&batch));
    disk.remount("rw");
    assert_eq!(store.commit(&batch).unwrap(), expected);
    store.close().unwrap();

    disk.remount("ro");
    let error = Store::open(disk.path(), generator.wall(), None).unwrap_err();
    assert!(matches!(error, OpenError::Unusable { .. }), "{error}");
    disk.remount("rw");
    let (mut store, recovered) = open(disk.path(), generator.wall());
    assert_eq!(recovered.problems, Vec::<String>::new(), "nothing was taken for damage");
    assert_eq!(Content::of(&mut store, &recovered), generator.content);
}

#[test]
fn what_errors_mean() {
    let of = |code| meaning(&rusqlite::Error::SqliteFailure(ffi::Error::new(code), None));
    for (code, means) in [
        (ffi::SQLITE_FULL, Meaning::Full),
        (ffi::SQLITE_BUSY, Meaning::Busy),
        (ffi::SQLITE_BUSY_SNAPSHOT, Meaning::Busy),
        (ffi::SQLITE_LOCKED, Meaning::Busy),
        (ffi::SQLITE_NOMEM, Meaning::Busy),
        (ffi::SQLITE_READONLY, Meaning::Unreachable),
        (ffi::SQLITE_READONLY_DIRECTORY, Meaning::Unreachable),
        (ffi::SQLITE_READONLY_DBMOVED, Meaning::Unknown),
        (ffi::SQLITE_CANTOPEN, Meaning::Unreachable),
        (ffi::SQLITE_IOERR_SHMSIZE, Meaning::Unreachable),
        (ffi::SQLITE_IOERR_WRITE, Meaning::Unwritten),
        (ffi::SQLITE_CORRUPT, Meaning::Corrupt),
        (ffi::SQLITE_NOTADB, Meaning::Corrupt),
        (ffi::SQLITE_IOERR_READ, Meaning::Corrupt),
        (ffi::SQLITE_IOERR_FSYNC, Meaning::Unknown),
        (ffi::SQLITE_IOERR_DIR_FSYNC, Meaning::Unknown),
        (ffi::SQLITE_IOERR_CLOSE, Meaning::Unknown),
        (ffi::SQLITE_IOERR, Meaning::Unknown),
        (ffi::SQLITE_CONSTRAINT_PRIMARYKEY, Meaning::Unknown),
        (ffi::SQLITE_MISUSE, Meaning::Unknown),
    ] {
        assert_eq!(of(code), means, "{code}");
    }
}

#[test]
fn after_a_failed_sync_nothing_is_tried_again() {
    let dir = tempfile::tempdir().unwrap();
    let mut generator = Generator::new(7);
    let mut store = Store::create(dir.path()).unwrap();
    run(&mut store, &mut generator, 10);
    let error = rusqlite::Error::SqliteFailure(ffi::Error::new(ffi::SQLITE_IOERR_FSYNC), None);
    let StorageError::Failed(text) = store.judge(Failure::Sqlite(error)) else { panic!() };
    assert!(text.contains("restart eeveed"), "{text}");
    let before = std::fs::read(dir.path().join("durable.db-wal")).unwrap();
    let (batch, _) = generator.clone().next();
    for _ in 0..2 {
        assert_eq!(store.commit(&batch).unwrap_err(), StorageError::Failed(text.clone()));
        assert_eq!(store.flush_mark(true).unwrap_err(), StorageError::Failed(text.clone()));
        assert_eq!(store.checkpoint(true).unwrap_err(), StorageError::Failed(text.clone()));
        assert_eq!(store.load(1, 0, 1, 1).unwrap_err(), StorageError::Failed(text.clone()));
    }
    assert_eq!(std::fs::read(dir.path().join("durable.db-wal")).unwrap(), before);
    assert!(store.close().is_err());
    // A new start looks what is there.
    let (mut store, recovered) = open(dir.path(), generator.wall());
    assert_eq!(Content::of(&mut store, &recovered), generator.content);
}

/// A whole database is not set aside because a start cannot sync it.
#[test]
fn a_sync_that_fails_at_a_start_is_no_damage() {
    for (code, is_damage) in [
        (ffi::SQLITE_IOERR_FSYNC, false),
        (ffi::SQLITE_IOERR_DIR_FSYNC, false),
        (ffi::SQLITE_FULL, false),
        (ffi::SQLITE_CORRUPT, true),
        (ffi::SQLITE_IOERR_READ, true),
    ] {
        let trouble = Trouble::from(rusqlite::Error::SqliteFailure(ffi::Error::new(code), None));
        assert_eq!(matches!(trouble, Trouble::Damage(_)), is_damage, "{trouble:?}");
    }
}

#[test]
fn a_person_may_look_and_must_not_lock() {
    let dir = tempfile::tempdir().unwrap();
    let mut generator = Generator::new(8);
    let mut store = Store::create(dir.path()).unwrap();
    run(&mut store, &mut generator, 20);
    let person = rusqlite::Connection::open(dir.path().join("durable.db")).unwrap();
    let count: usize = person.query_row("SELECT count(*) FROM message", (), |row| row.get(0)).unwrap();
    assert_eq!(count, generator.content.messages.len());
    person.execute_batch("BEGIN IMMEDIATE").unwrap();
    let (batch, expected) = generator.next();
    assert!(unavailable(store.commit(&batch)).contains("busy"));
    person.execute_batch("ROLLBACK").unwrap();
    assert_eq!(store.commit(&batch).unwrap(), expected);
    drop(person);
    run(&mut store, &mut generator, 5);
}

#[test]
fn a_database_that_was_moved_is_noticed() {
    let dir = tempfile::tempdir().unwrap();
    let mut generator = Generator::new(9);
    let mut store = Store::create(dir.path()).unwrap();
    run(&mut store, &mut generator, 5);
    store.flush_mark(true).unwrap();
    std::fs::rename(dir.path().join("durable.db"), dir.path().join("old.db")).unwrap();
    let StorageError::Failed(text) = store.flush_mark(true).unwrap_err() else { panic!() };
    assert!(text.contains("durable.db was moved, removed or replaced"), "{text}");
    assert!(matches!(store.commit(&generator.next().0), Err(StorageError::Failed(_))));
}

#[test]
fn links_and_open_directories_are_refused() {
    let mut generator = Generator::new(12);
    for name in ["durable.db", "durable.db-wal", "durable.mark"] {
        let dir = tempfile::tempdir().unwrap();
        let other = tempfile::tempdir().unwrap();
        let mut store = Store::create(dir.path()).unwrap();
        store.commit(&Batch { number: 1, time_ms: 0, wall: 0, writes: Vec::new() }).unwrap();
        drop(store);
        std::fs::rename(dir.path().join(name), other.path().join(name)).unwrap();
        std::os::unix::fs::symlink(other.path().join(name), dir.path().join(name)).unwrap();
        let error = Store::open(dir.path(), 0, None).unwrap_err();
        assert!(error.to_string().contains("is a symbolic link"), "{error}");
        assert!(Store::create(dir.path()).is_err());
    }
    let dir = tempfile::tempdir().unwrap();
    run(&mut Store::create(dir.path()).unwrap(), &mut generator, 1);
    std::fs::set_permissions(dir.path(), std::fs::Permissions::from_mode(0o777)).unwrap();
    let error = Store::open(dir.path(), 0, None).unwrap_err();
    assert!(error.to_string().contains("writable by others"), "{error}");
    // A link to the directory is the administrator's.
    std::fs::set_permissions(dir.path(), std::fs::Permissions::from_mode(0o700)).unwrap();
    let link = tempfile::tempdir().unwrap();
    std::os::unix::fs::symlink(dir.path(), link.path().join("state")).unwrap();
    open(&link.path().join("state"), generator.wall());
    assert!(Store::open(&link.path().join("none"), 0, None).unwrap().is_none());
}
