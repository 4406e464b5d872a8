//! A full disk: what is refused, what goes on, and that it heals.

use super::super::Store;
use super::disk::{Disk, unavailable};
use super::generator::*;
use super::model::*;
use crate::core::storage::*;

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
