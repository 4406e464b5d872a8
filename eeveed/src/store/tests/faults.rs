//! A full disk, a read-only one, somebody else's hands on the files, another release: what is refused, and what heals.

use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::Command;

use rusqlite::ffi;

use super::super::error::{Failure, Meaning, meaning};
use super::super::{OpenError, Options, Store, schema};
use super::model::*;
use crate::core::storage::*;

/// A file system of its own, which may be full or read-only; none where we may not mount.
struct Disk(tempfile::TempDir);

impl Disk {
    fn new(size: &str) -> Option<Self> {
        let dir = tempfile::tempdir().unwrap();
        let mounted = Command::new("mount")
            .args(["-t", "tmpfs", "-o", &format!("size={size},mode=0700"), "tmpfs"])
            .arg(dir.path())
            .output()
            .is_ok_and(|output| output.status.success());
        if !mounted {
            assert!(std::env::var_os("CI").is_none(), "CI must run this as root, with the right to mount");
            #[allow(clippy::print_stderr)]
            {
                eprintln!("NOT TESTED: a disk of its own needs root and the right to mount");
            }
            return None;
        }
        Some(Self(dir))
    }

    fn path(&self) -> &Path {
        self.0.path()
    }

    fn remount(&self, how: &str) {
        let status = Command::new("mount").args(["-o", &format!("remount,{how}")]).arg(self.path()).status().unwrap();
        assert!(status.success(), "{how}");
    }

    /// Leaves no room but so many bytes.
    fn fill(&self, rest: usize) {
        use std::io::Write;
        let mut file = std::fs::File::create(self.path().join("filler")).unwrap();
        let block = [1; 4096];
        let mut bytes = 0;
        while file.write_all(&block).is_ok() {
            bytes += block.len();
        }
        file.set_len(bytes.saturating_sub(rest) as u64).unwrap();
    }

    fn make_room(&self) {
        std::fs::remove_file(self.path().join("filler")).unwrap();
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg("-l").arg(self.path()).status();
    }
}

fn unavailable(result: Result<Committed, StorageError>) -> String {
    match result {
        Err(StorageError::Unavailable(text)) => text,
        other => panic!("{other:?}"),
    }
}

/// Commits until there is no room; gives back the batch that had none.
fn fill(store: &mut Store, generator: &mut Generator) -> (Batch, Committed, Content) {
    for _ in 0..5000 {
        let before = generator.content.clone();
        let (batch, expected) = generator.next();
        match store.commit(&batch) {
            Ok(did) => assert_eq!(did, Committed { tight: did.tight.clone(), ..expected }),
            Err(StorageError::Unavailable(text)) => {
                assert!(text.contains("full"), "{text}");
                return (batch, expected, before);
            }
            Err(error) => panic!("{error:?}"),
        }
    }
    panic!("it never was full");
}

#[test]
fn a_full_store_refuses_whole_batches_and_heals() {
    let dir = tempfile::tempdir().unwrap();
    for mut store in [Store::in_memory(), Store::create(dir.path()).unwrap()] {
        let mut generator = Generator::new(3);
        generator.keeps = 95;
        run(&mut store, &mut generator, 5);
        store.set_page_limit(Some(40));
        let (batch, expected, before) = fill(&mut store, &mut generator);
        // Nothing of it is there, and what is read is as before.
        let recovered = store.reopen(generator.wall());
        assert_eq!(Content::of(&mut store, &recovered), before);
        unavailable(store.commit(&batch));
        unavailable(store.commit(&batch));
        // The next number instead of the one that was refused.
        let other = Batch { number: batch.number + 1, writes: Vec::new(), ..batch.clone() };
        store.commit(&other).unwrap();
        store.set_page_limit(None);
        let again = Batch { number: batch.number + 2, ..batch };
        assert_eq!(store.commit(&again).unwrap(), expected);
        generator.batch += 2;
        run(&mut store, &mut generator, 20);
        let recovered = store.reopen(generator.wall());
        assert_eq!(Content::of(&mut store, &recovered), generator.content);
    }
}

#[test]
fn acknowledgements_make_room_in_a_full_store() {
    let mut store = Store::in_memory();
    let row = SubscriptionRow { durable: 1, owner: "a".into(), name: "b".into(), spec: String::new() };
    let mut number = 1;
    let mut give = |store: &mut Store, writes| {
        let done = store.commit(&Batch { number, time_ms: 0, wall: 0, writes });
        number += u64::from(done.is_ok());
        done
    };
    give(&mut store, vec![Write::Subscription(row)]).unwrap();
    store.set_page_limit(Some(60));
    let enqueue =
        |entry| vec![Write::Enqueue { entry, durable: 1, since_ms: 0, expires_ms: 0, record: record(entry, 2000) }];
    let mut entry = 1;
    while give(&mut store, enqueue(entry)).is_ok() {
        entry += 1;
    }
    for entry in 1..=5 {
        give(&mut store, vec![Write::Acknowledge { entry }]).unwrap();
    }
    give(&mut store, enqueue(entry)).unwrap();
}

#[test]
fn a_disk_without_room() {
    let Some(disk) = Disk::new("8m") else { return };
    let mut generator = Generator::new(4);
    generator.keeps = 95;
    let mut store = Store::create(disk.path()).unwrap();
    run(&mut store, &mut generator, 20);
    disk.fill(200_000);
    let (batch, expected, before) = fill(&mut store, &mut generator);
    for _ in 0..10 {
        assert!(unavailable(store.commit(&batch)).contains("full"));
    }
    store.flush_mark(true).unwrap();
    disk.make_room();
    assert_eq!(store.commit(&batch).unwrap(), expected);
    run(&mut store, &mut generator, 20);

    // A start on a full disk: what is there is there, and it heals without another start.
    drop(store);
    disk.fill(0);
    let (mut store, recovered) = open(disk.path(), generator.wall());
    assert_eq!(recovered.problems, Vec::<String>::new());
    assert_eq!(Content::of(&mut store, &recovered), generator.content);
    let (batch, expected, _) = fill(&mut store, &mut generator);
    disk.make_room();
    assert_eq!(store.commit(&batch).unwrap(), expected);
    store.close().unwrap();
    let (mut store, recovered) = open(disk.path(), generator.wall());
    assert_eq!(Content::of(&mut store, &recovered), generator.content);
    assert_ne!(before, generator.content);

    // The very first batch of all.
    let disk = Disk::new("1m").unwrap();
    disk.fill(0);
    assert!(Store::open(disk.path(), 0, None).unwrap().is_none());
    let mut store = Store::create(disk.path()).unwrap();
    let mut generator = Generator::new(5);
    let (batch, expected) = generator.next();
    unavailable(store.commit(&batch));
    disk.make_room();
    assert_eq!(store.commit(&batch).unwrap(), expected);
}

/// A store on a disk of its own, and what was done with it.
struct Filled {
    store: Store,
    number: u64,
    entry: EntryNumber,
}

impl Filled {
    fn new(disk: &Disk) -> Self {
        let mut filled = Self { store: Store::create(disk.path()).unwrap(), number: 1, entry: 1 };
        let row = |durable, name: &str| SubscriptionRow {
            durable,
            owner: "a".into(),
            name: name.into(),
            spec: String::new(),
        };
        filled.give(vec![Write::Subscription(row(1, "one")), Write::Subscription(row(2, "two"))]).unwrap();
        filled
    }

    fn give(&mut self, writes: Vec<Write>) -> Result<Committed, StorageError> {
        let done = self.store.commit(&Batch { number: self.number, time_ms: 0, wall: 0, writes });
        self.number += u64::from(done.is_ok());
        self.store.checkpoint(false).unwrap();
        done
    }

    /// Messages for both subscriptions, by turns; the later ones for the second.
    fn enqueue(&mut self, messages: u64) -> Result<Committed, StorageError> {
        let of = |entry| Write::Enqueue {
            entry,
            durable: if entry < 20_000 { 1 + (entry % 2) as u32 } else { 2 },
            since_ms: 0,
            expires_ms: 0,
            record: record(entry, 900),
        };
        let done = self.give((self.entry..self.entry + messages).map(of).collect())?;
        self.entry += messages;
        Ok(done)
    }

    fn fill(&mut self) -> String {
        loop {
            if let Err(error) = self.enqueue(20) {
                return unavailable(Err(error));
            }
        }
    }
}

fn reserved(disk: &Disk) -> u64 {
    use std::os::unix::fs::MetadataExt;
    std::fs::metadata(disk.path().join("durable.reserve")).unwrap().blocks() * 512
}

#[test]
fn a_disk_that_the_store_filled_is_emptied_by_acknowledgements() {
    let Some(disk) = Disk::new("64m") else { return };
    let mut filled = Filled::new(&disk);
    assert_eq!(reserved(&disk), 2 << 20);
    let mut first = filled.entry;
    for round in 0..3 {
        let why = filled.fill();
        assert!(why.contains("the disk is full") && why.contains("eeveectl queue"), "{why}");
        assert!(filled.entry - first > 20_000, "round {round}: only {} messages", filled.entry - first);
        // Delivered, and given up, with the disk as full as it is.
        filled.give(vec![Write::Delivered { durable: 1, entry: filled.entry - 1 }]).unwrap();
        let attempts = (first..first + 100).map(|entry| Write::Attempts { entry, attempts: 2 }).collect();
        assert!(filled.give(attempts).unwrap().tight.is_some());
        unavailable(filled.enqueue(1));
        let death = death(libeevee::GapReason::DeadLetter, "no");
        filled.give(vec![Write::Die { entry: first, death }, Write::DropDead { dead: first }]).unwrap();
        while first < filled.entry {
            let last = filled.entry.min(first + 500);
            filled.give((first..last).map(|entry| Write::Acknowledge { entry }).collect()).unwrap();
            first = last;
        }
        assert_eq!(reserved(&disk), 2 << 20, "there was room enough without it");
        filled.enqueue(1).unwrap();
    }
    filled.store.close().unwrap();
    open(disk.path(), 0);
}

#[test]
fn a_disk_that_others_filled_is_emptied_by_what_deletes() {
    let Some(disk) = Disk::new("64m") else { return };
    let mut filled = Filled::new(&disk);
    for _ in 0..101 {
        filled.enqueue(200).unwrap();
    }
    filled.store.close().unwrap();
    let (store, recovered) = open(disk.path(), 0);
    filled = Filled { store, number: recovered.batch + 1, entry: filled.entry };
    disk.fill(0);
    unavailable(filled.enqueue(1));
    assert_eq!(reserved(&disk), 2 << 20, "what is new does not get it");
    // Every page of the database has both.
    let done = filled.give(vec![Write::Forget { durable: 1 }]).unwrap();
    assert!(done.tight.unwrap().contains("the disk is full"));
    assert_eq!(reserved(&disk), 0);
    unavailable(filled.enqueue(1));
    for first in (1..filled.entry).step_by(1000) {
        filled.give((first..first + 1000).map(|entry| Write::Acknowledge { entry }).collect()).unwrap();
    }
    disk.make_room();
    assert_eq!(filled.enqueue(1).unwrap().tight, None);
    assert_eq!(reserved(&disk), 2 << 20);

    // A start that could not even open it without the reserve.
    let batch = filled.store.close().unwrap();
    let _ = std::fs::remove_file(disk.path().join("durable.db-shm"));
    disk.fill(0);
    let (store, recovered) = open(disk.path(), 0);
    assert_eq!((recovered.problems, recovered.batch), (Vec::<String>::new(), batch));
    assert_eq!(reserved(&disk), 0);
    filled = Filled { store, number: batch + 1, entry: filled.entry };
    unavailable(filled.enqueue(1));
    filled.give(vec![Write::Acknowledge { entry: filled.entry - 1 }]).unwrap();
    disk.make_room();
    filled.enqueue(1).unwrap();
}

#[test]
fn at_the_edge_it_is_not_full_and_well_by_turns() {
    let Some(disk) = Disk::new("64m") else { return };
    let mut filled = Filled::new(&disk);
    filled.enqueue(100).unwrap();
    disk.fill(1 << 20);
    unavailable(filled.enqueue(20));
    // As much as is kept free beside the reserve, and a little: too little to begin with.
    std::fs::OpenOptions::new().write(true).open(disk.path().join("filler")).unwrap().set_len(0).unwrap();
    disk.fill((1 << 20) + (300 << 10));
    for _ in 0..20 {
        assert!(filled.give(Vec::new()).unwrap().tight.is_some());
        unavailable(filled.enqueue(20));
    }
    std::fs::OpenOptions::new().write(true).open(disk.path().join("filler")).unwrap().set_len(0).unwrap();
    disk.fill((2 << 20) + (300 << 10));
    filled.enqueue(20).unwrap();
    assert_eq!(filled.give(Vec::new()).unwrap().tight, None);
}

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
fn a_newer_schema_is_refused_and_left_alone() {
    const NEWER: &[&str] = &[schema::STEPS[0], "CREATE TABLE more(one INTEGER)"];
    let dir = tempfile::tempdir().unwrap();
    let mut generator = Generator::new(10);
    let mut store = Store::create(dir.path()).unwrap();
    store.options = Options { steps: NEWER, ..Options::default() };
    run(&mut store, &mut generator, 10);
    store.close().unwrap();
    let before = std::fs::read(dir.path().join("durable.db")).unwrap();
    for _ in 0..2 {
        let error = Store::open(dir.path(), generator.wall(), None).unwrap_err();
        assert!(matches!(error, OpenError::Newer { found: 2, known: 1, .. }), "{error}");
        let text = error.to_string();
        assert!(text.contains("schema 2") && text.contains("install that version again"), "{text}");
    }
    assert_eq!(std::fs::read(dir.path().join("durable.db")).unwrap(), before);
    let options = Options { steps: NEWER, ..Options::default() };
    let (mut store, recovered) = Store::open_with(dir.path(), generator.wall(), None, options).unwrap().unwrap();
    assert_eq!(Content::of(&mut store, &recovered), generator.content);
}

/// A made-up next version: this release's is the old one then.
const MIGRATED: &[&str] = &[
    schema::STEPS[0],
    "ALTER TABLE publisher ADD COLUMN note TEXT NOT NULL DEFAULT 'none'; CREATE INDEX publisher_used ON publisher(used)",
];

#[test]
fn an_older_schema_is_brought_up() {
    for damaged in [false, true] {
        let dir = tempfile::tempdir().unwrap();
        let mut generator = Generator::new(11);
        generator.keeps = 90;
        let mut store = Store::create(dir.path()).unwrap();
        run(&mut store, &mut generator, 40);
        store.close().unwrap();
        if damaged {
            let person = rusqlite::Connection::open(dir.path().join("durable.db")).unwrap();
            person.execute_batch("DELETE FROM publisher WHERE source = 'op1'").unwrap();
            generator.content.publishers.retain(|(source, _), _| source != "op1");
        }
        let options = Options { steps: MIGRATED, ..Options::default() };
        let open = || Store::open_with(dir.path(), generator.wall(), None, options).unwrap().unwrap();
        let (mut store, recovered) = open();
        assert_eq!(recovered.problems.len(), usize::from(damaged), "{:?}", recovered.problems);
        let mut content = Content::of(&mut store, &recovered);
        if damaged {
            generator.check_real(&content);
            assert_eq!(content.messages.len(), generator.content.messages.len());
            assert_eq!(content.publishers, generator.content.publishers);
        } else {
            assert_eq!(content, generator.content);
        }
        drop(store);
        let (mut store, recovered) = open();
        assert_eq!(recovered.problems, Vec::<String>::new());
        let batch = Batch {
            number: recovered.batch + 1,
            time_ms: recovered.time_ms,
            wall: generator.wall(),
            writes: vec![trim(1, u64::MAX)],
        };
        content.apply(&batch);
        store.commit(&batch).unwrap();
        drop(store);
        let (mut store, recovered) = open();
        assert_eq!(Content::of(&mut store, &recovered), content);
        drop(store);
        // And back: this release does not know the next one's schema.
        assert!(matches!(Store::open(dir.path(), 0, None), Err(OpenError::Newer { .. })));
    }
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
