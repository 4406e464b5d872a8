//! What the store does while nothing goes wrong, against the model.

use std::os::unix::fs::PermissionsExt;

use super::super::{Options, Store};
use super::generator::*;
use super::model::*;
use crate::core::storage::*;

#[test]
fn it_does_what_the_model_does() {
    for seed in 0..10 {
        let mut store = Store::in_memory();
        let mut generator = Generator::new(seed);
        for _ in 0..10 {
            run(&mut store, &mut generator, 20);
            let recovered = store.reopen(generator.wall());
            assert_eq!(Content::of(&mut store, &recovered), generator.content, "seed {seed}");
            assert_eq!((recovered.batch, recovered.time_ms), (generator.batch, generator.time_ms));
            assert!(recovered.next_entry > *generator.enqueued.keys().last().unwrap());
        }
    }
}

#[test]
fn all_is_there_after_a_restart() {
    for (seed, page_bytes) in [(1, 512), (2, 4096), (3, 1024)] {
        let dir = tempfile::tempdir().unwrap();
        assert!(Store::open(dir.path(), 0, None).unwrap().is_none());
        assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 0, "nothing durable: no files");
        let mut generator = Generator::new(seed);
        let mut store = Store::create(dir.path()).unwrap();
        store.options = Options { page_bytes, ..Options::default() };
        assert_eq!(store.load(1, 0, 10, 1000).unwrap(), Page::default());
        assert_eq!(store.dead_letters(None, None, 0, 10).unwrap().total, 0);
        assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 0);
        for round in 0..4 {
            run(&mut store, &mut generator, 40);
            // Cleanly closed, closed and believed, or just dropped.
            let trusted = match round {
                0 => None,
                1 | 3 => Some(store.close().unwrap()),
                _ => {
                    store.flush_mark(false).unwrap();
                    None
                }
            };
            let wall = generator.wall() + 5_000_000_000;
            let recovered;
            (store, recovered) = Store::open(dir.path(), wall, trusted).unwrap().unwrap();
            assert_eq!(recovered.problems, Vec::<String>::new());
            assert!(recovered.subscriptions.iter().all(|subscription| !subscription.damaged));
            assert_eq!(recovered.time_ms, generator.time_ms + 5000, "the time while nobody ran is counted");
            assert_eq!((recovered.batch, recovered.next_entry), (generator.batch, store.state.next_entry));
            assert_eq!(Content::of(&mut store, &recovered), generator.content);
            generator.time_ms = recovered.time_ms;
        }
        for file in std::fs::read_dir(dir.path()).unwrap() {
            let file = file.unwrap();
            assert_eq!(file.metadata().unwrap().permissions().mode() & 0o777, 0o600, "{:?}", file.file_name());
        }
    }
}

#[test]
fn batches_out_of_order_are_refused() {
    let mut store = Store::in_memory();
    let batch = |number| Batch { number, time_ms: 0, wall: 0, writes: Vec::new() };
    store.commit(&batch(1)).unwrap();
    store.commit(&batch(2)).unwrap();
    let StorageError::Failed(text) = store.commit(&batch(4)).unwrap_err() else { panic!() };
    assert!(text.contains("batch 4 was given after batch 2"), "{text}");
    assert!(matches!(store.commit(&batch(3)), Err(StorageError::Failed(_))), "and nothing is done any more");
    assert!(matches!(store.load(1, 0, 1, 1), Err(StorageError::Failed(_))));

    let mut store = Store::in_memory();
    store.commit(&batch(1)).unwrap();
    assert!(matches!(store.commit(&batch(1)), Err(StorageError::Failed(_))));
}

#[test]
fn a_message_for_nobody_is_refused() {
    let mut store = Store::in_memory();
    let enqueue = Write::Enqueue { entry: 1, durable: 9, since_ms: 0, expires_ms: 0, record: record(1, 10) };
    let batch = Batch { number: 1, time_ms: 0, wall: 0, writes: vec![enqueue] };
    let StorageError::Failed(text) = store.commit(&batch).unwrap_err() else { panic!() };
    assert!(text.contains("subscription 9"), "{text}");
}

#[test]
fn numbers_beyond_2_to_the_63_come_back() {
    let mut store = Store::in_memory();
    let mut one = (*record(1, 10)).clone();
    (one.id, one.timestamp, one.cause, one.reply_address) = (u64::MAX - 1, u64::MAX, Some(u64::MAX), Some(u64::MAX));
    let record = std::sync::Arc::new(one);
    let row = SubscriptionRow { durable: u32::MAX - 1, owner: "a".into(), name: "b".into(), spec: String::new() };
    let publisher = PublisherRow { source: "a".into(), epoch: u64::MAX, state: String::new(), used: u64::MAX };
    let writes = vec![
        Write::Subscription(row.clone()),
        Write::Enqueue {
            entry: 1 << 62,
            durable: row.durable,
            since_ms: 1 << 62,
            expires_ms: 0,
            record: record.clone(),
        },
        Write::Publisher(publisher.clone()),
    ];
    store.commit(&Batch { number: 1, time_ms: u64::MAX, wall: u64::MAX, writes }).unwrap();
    let page = store.load(row.durable, 0, u64::MAX, u64::MAX).unwrap();
    assert_eq!(page.entries[0].record, record);
    assert_eq!(store.load(row.durable, u64::MAX, 10, 10).unwrap(), Page::default());
    let recovered = store.reopen(0);
    assert_eq!(recovered.publishers, [publisher]);
    assert_eq!((recovered.next_entry, recovered.next_durable), ((1 << 62) + 1, u32::MAX));
}

#[test]
fn a_page_ends_at_its_bounds() {
    let mut store = Store::in_memory();
    let row = SubscriptionRow { durable: 1, owner: "a".into(), name: "b".into(), spec: String::new() };
    let mut writes = vec![Write::Subscription(row)];
    for entry in 1..=10 {
        writes.push(Write::Enqueue { entry, durable: 1, since_ms: 0, expires_ms: 0, record: record(entry, 1000) });
    }
    store.commit(&Batch { number: 1, time_ms: 0, wall: 0, writes }).unwrap();
    let size = record(1, 1000).size();
    let mut load = |after, messages, bytes| {
        let page = store.load(1, after, messages, bytes).unwrap();
        (page.entries.iter().map(|loaded| loaded.entry).collect::<Vec<_>>(), page.more)
    };
    assert_eq!(load(0, 3, u64::MAX), (vec![1, 2, 3], true));
    assert_eq!(load(3, 7, u64::MAX), (vec![4, 5, 6, 7, 8, 9, 10], false));
    assert_eq!(load(0, 100, 2 * size + 10), (vec![1, 2], true));
    assert_eq!(load(0, 100, 1), (vec![1], true), "one at least");
    assert_eq!(load(10, 100, 1), (vec![], false));
}

/// A clock that is put right again must not make the newest dead letters the oldest.
#[test]
fn dead_letters_go_in_the_order_of_their_deaths_whatever_the_clock_does() {
    let mut store = Store::in_memory();
    let row = SubscriptionRow { durable: 1, owner: "a".into(), name: "b".into(), spec: String::new() };
    let mut writes = vec![Write::Subscription(row)];
    let enqueue = |entry| Write::Enqueue { entry, durable: 1, since_ms: 0, expires_ms: 0, record: record(entry, 10) };
    writes.extend((1..=4).map(enqueue));
    store.commit(&Batch { number: 1, time_ms: 0, wall: 1_000, writes }).unwrap();
    // Ahead, then right, and after a start.
    for (number, entry, wall) in [(2, 4, 9_000), (3, 3, 2_000), (4, 2, 2_100), (5, 1, 2_200)] {
        let death = death(libeevee::GapReason::DeadLetter, "no");
        let writes = vec![Write::Die { entry, death }, trim(2, u64::MAX)];
        store.commit(&Batch { number, time_ms: 0, wall, writes }).unwrap();
        store.reopen(wall);
    }
    let left = store.dead_letters(None, None, 0, 10).unwrap().letters;
    assert_eq!(left.iter().map(|letter| letter.entry).collect::<Vec<_>>(), [1, 2]);
}
