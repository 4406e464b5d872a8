//! The thread of the store: order, the mark in time, the end.

use std::time::{Duration, Instant};

use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender};

use super::super::Store;
use super::super::mark::FoundMark;
use super::super::worker::{Answer, Worker};
use super::generator::*;
use super::model::*;
use crate::core::storage::*;

/// As the hub makes it: one answer for each job, and the jobs are bounded.
#[allow(clippy::disallowed_methods)]
fn answers() -> (UnboundedSender<Answer>, UnboundedReceiver<Answer>) {
    tokio::sync::mpsc::unbounded_channel()
}

fn block_on<F: Future>(future: F) -> F::Output {
    tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(future)
}

#[test]
fn answers_come_in_the_order_of_the_jobs() {
    block_on(async {
        let dir = tempfile::tempdir().unwrap();
        let mut generator = Generator::new(5);
        let (sender, mut from_store) = answers();
        let worker = Worker::new(Store::create(dir.path()).unwrap(), sender);
        for _ in 0..50 {
            let (batch, expected) = generator.next();
            worker.commit(batch);
            worker.load(1, 7, 0, 1000, 1 << 20);
            let count = worker.query(|store| store.dead_letters(None, None, 0, 1).unwrap().total);
            match from_store.recv().await.unwrap() {
                Answer::Committed { result } => assert_eq!(result, Ok(expected)),
                other => panic!("{other:?}"),
            }
            match from_store.recv().await.unwrap() {
                Answer::Loaded { durable: 1, generation: 7, result } => {
                    let of = generator.content.messages.values().filter(|(durable, _)| *durable == 1).count();
                    assert_eq!(result.unwrap().entries.len(), of, "it sees the batch before it");
                }
                other => panic!("{other:?}"),
            }
            assert_eq!(count.await.unwrap(), generator.content.dead.len() as u64);
        }
        // Without another job the mark is there within milliseconds; a busy machine may need more.
        let began = Instant::now();
        while FoundMark::read(dir.path()).unwrap().mark.unwrap().batch < 50 {
            assert!(began.elapsed() < Duration::from_secs(10));
            std::thread::sleep(Duration::from_millis(1));
        }
        let batch = worker.close().await.unwrap();
        assert_eq!(batch, 50);
        assert!(from_store.recv().await.is_none(), "the thread has ended");
        assert_eq!(std::fs::metadata(dir.path().join("durable.db-wal")).map_or(0, |file| file.len()), 0);
        let (mut store, recovered) = Store::open(dir.path(), generator.wall(), Some(batch)).unwrap().unwrap();
        assert_eq!(Content::of(&mut store, &recovered), generator.content);
    });
}

#[test]
fn under_load_the_mark_is_ten_milliseconds_behind_at_most() {
    block_on(async {
        // It is about the thread, and not about a disk that syncs what others wrote.
        let dir = super::cuts::scratch();
        let mut generator = Generator::new(6);
        let (sender, mut from_store) = answers();
        let worker = Worker::new(Store::create(dir.path()).unwrap(), sender);
        let mut committed = Vec::new();
        let began = Instant::now();
        while began.elapsed() < Duration::from_millis(300) {
            worker.commit(generator.next().0);
            let Some(Answer::Committed { result: Ok(_) }) = from_store.recv().await else { panic!() };
            committed.push((generator.batch, Instant::now()));
            let mark = FoundMark::read(dir.path()).unwrap().mark.unwrap().batch;
            let now = Instant::now();
            let behind = committed.iter().find(|(number, _)| *number > mark).map(|(_, at)| now - *at);
            // The bound is 10 ms; the rest is for a machine with other things to do.
            assert!(behind.unwrap_or_default() < Duration::from_millis(500), "{behind:?}");
        }
        drop(worker);
        // Dropped, not closed: all is there all the same.
        while from_store.recv().await.is_some() {}
        let (_, recovered) = open(dir.path(), generator.wall());
        assert_eq!((recovered.batch, recovered.problems), (generator.batch, Vec::new()));
    });
}

#[test]
fn a_thread_that_is_gone_is_told() {
    block_on(async {
        let (sender, mut from_store) = answers();
        let worker = Worker::new(Store::in_memory(), sender);
        let gone = worker.query(|_| -> u64 { panic!("for the test") });
        assert!(gone.await.is_err());
        // The channel to it closes with it, a moment later.
        loop {
            worker.commit(Batch { number: 1, time_ms: 0, wall: 0, writes: Vec::new() });
            match tokio::time::timeout(Duration::from_secs(1), from_store.recv()).await {
                Ok(Some(Answer::Committed { result: Err(StorageError::Failed(text)) })) => {
                    assert!(text.contains("thread of the store has ended"), "{text}");
                    break;
                }
                Err(_) => {}
                other => panic!("{other:?}"),
            }
        }
        assert!(matches!(worker.close().await, Err(StorageError::Failed(_))));
    });
}

/// A checkpoint whose sync fails, with nobody there who would ask for anything more.
#[test]
fn a_failure_that_nobody_waits_for_is_told_at_once() {
    block_on(async {
        let dir = tempfile::tempdir().unwrap();
        let (sender, mut from_store) = answers();
        let worker = Worker::new(Store::create(dir.path()).unwrap(), sender);
        worker.commit(Generator::new(13).next().0);
        let failed = worker.query(|store| _ = store.fail("a sync failed"));
        assert!(matches!(from_store.recv().await, Some(Answer::Committed { result: Ok(_) })));
        failed.await.unwrap();
        match tokio::time::timeout(Duration::from_secs(10), from_store.recv()).await {
            Ok(Some(Answer::Failed { why })) => assert!(why.starts_with("a sync failed"), "{why}"),
            other => panic!("{other:?}"),
        }
    });
}

#[test]
fn what_went_into_a_file_that_no_start_will_find_is_not_confirmed() {
    block_on(async {
        let dir = tempfile::tempdir().unwrap();
        let mut generator = Generator::new(14);
        let (sender, mut from_store) = answers();
        let worker = Worker::new(Store::create(dir.path()).unwrap(), sender);
        worker.commit(generator.next().0);
        assert!(matches!(from_store.recv().await, Some(Answer::Committed { result: Ok(_) })));
        std::fs::rename(dir.path().join("durable.db"), dir.path().join("elsewhere.db")).unwrap();
        worker.commit(generator.next().0);
        match from_store.recv().await {
            Some(Answer::Committed { result: Err(StorageError::Failed(text)) }) => {
                assert!(text.contains("moved, removed or replaced"), "{text}");
            }
            other => panic!("{other:?}"),
        }
    });
}
