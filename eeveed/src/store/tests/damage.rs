//! Damage of a kind that has a name: files removed, replaced, cut off, edited by hand, repairs interrupted.

use std::path::{Path, PathBuf};

use super::super::Store;
use super::cuts::scratch;
use super::generator::*;
use super::model::*;
use crate::core::storage::*;

/// A directory with a store that was not closed: a part is in the log.
fn sample(seed: u64) -> (tempfile::TempDir, Generator) {
    let dir = scratch();
    let mut generator = Generator::new(seed);
    generator.keeps = 90;
    let mut store = Store::create(dir.path()).unwrap();
    run(&mut store, &mut generator, 40);
    store.close().unwrap();
    let (mut store, _) = open(dir.path(), generator.wall());
    run(&mut store, &mut generator, 5);
    store.flush_mark(true).unwrap();
    (dir, generator)
}

fn aside(dir: &Path) -> Vec<PathBuf> {
    let all = std::fs::read_dir(dir).unwrap().map(|file| file.unwrap().path());
    let mut aside: Vec<_> = all.filter(|path| path.to_str().unwrap().contains("damaged")).collect();
    aside.sort();
    aside
}

/// Opens what is damaged, and once more: told once, and good afterwards.
fn open_damaged(dir: &Path, generator: &Generator) -> (Content, Recovered) {
    let (mut store, recovered) = open(dir, generator.wall());
    assert_eq!(recovered.problems.len(), 1, "{:?}", recovered.problems);
    let content = Content::of(&mut store, &recovered);
    generator.check_real(&content);
    assert!(recovered.subscriptions.iter().all(|subscription| subscription.damaged));
    // Those of earlier damage are no news.
    let named = aside(dir).iter().filter(|path| recovered.problems[0].contains(path.to_str().unwrap())).count();
    assert!(named > 0, "{:?}", recovered.problems);
    drop(store);
    let (mut store, again) = open(dir, generator.wall());
    assert_eq!(again.problems, Vec::<String>::new());
    assert_eq!(Content::of(&mut store, &again), content);
    assert_eq!((again.batch, again.next_entry), (recovered.batch, recovered.next_entry));
    assert!(again.subscriptions.iter().all(|subscription| subscription.damaged), "until the subscriber was told");
    (content, recovered)
}

#[test]
fn a_database_that_is_gone() {
    let (dir, generator) = sample(1);
    std::fs::remove_file(dir.path().join("durable.db")).unwrap();
    let (content, recovered) = open_damaged(dir.path(), &generator);
    assert_eq!(content, Content::default());
    assert!(recovered.problems[0].contains("the database is gone"));
    assert!(recovered.batch > generator.batch && recovered.next_entry > generator.next_entry);
    assert_eq!(aside(dir.path()).len(), 1, "its log is kept");
}

#[test]
fn a_log_that_is_gone() {
    let (dir, generator) = sample(2);
    std::fs::remove_file(dir.path().join("durable.db-wal")).unwrap();
    let (content, recovered) = open_damaged(dir.path(), &generator);
    assert!(recovered.problems[0].contains("it ends with batch 40, but batch 45 was committed"));
    assert!(content.messages.len() > 20);
}

#[test]
fn marks_that_are_gone_or_bad() {
    let (dir, generator) = sample(3);
    let mut seen = Vec::new();
    for change in 0..4 {
        let [one, two] = ["durable.mark", "durable.mark.copy"].map(|name| dir.path().join(name));
        match change {
            0 => std::fs::remove_file(&one).unwrap(),
            1 => std::fs::write(&two, "nothing").unwrap(),
            2 => {
                std::fs::remove_file(&one).unwrap();
                std::fs::remove_file(&two).unwrap();
            }
            _ => {
                std::fs::write(&one, [0; 78]).unwrap();
                std::fs::write(&two, "").unwrap();
            }
        }
        let (mut store, recovered) = open(dir.path(), generator.wall());
        assert_eq!(Content::of(&mut store, &recovered), generator.content);
        seen.push(recovered.problems.join(" | "));
        drop(store);
        let (_, recovered) = open(dir.path(), generator.wall());
        assert_eq!(recovered.problems, Vec::<String>::new());
    }
    assert!(seen[0].contains("durable.mark is missing"), "{seen:?}");
    assert!(seen[1].contains("durable.mark.copy is damaged"), "{seen:?}");
    assert!(seen[2].contains("cannot be told") && seen[3].contains("cannot be told"), "{seen:?}");
    assert!(aside(dir.path()).is_empty());
}

#[test]
fn an_older_copy_is_noticed() {
    let (dir, mut generator) = sample(4);
    let backup = std::fs::read(dir.path().join("durable.db")).unwrap();
    let (mut store, _) = open(dir.path(), generator.wall());
    run(&mut store, &mut generator, 10);
    store.close().unwrap();
    std::fs::write(dir.path().join("durable.db"), backup).unwrap();
    let _ = std::fs::remove_file(dir.path().join("durable.db-wal"));
    let (_, recovered) = open_damaged(dir.path(), &generator);
    assert!(recovered.problems[0].contains("batch 55 was committed"), "{:?}", recovered.problems);
}

#[test]
fn what_a_person_changed_is_noticed() {
    for (sql, lost) in [
        ("DELETE FROM message WHERE entry = (SELECT min(entry) FROM message)", 1),
        ("UPDATE message SET source = 'eve' WHERE entry = (SELECT min(entry) FROM message)", 1),
        ("UPDATE message SET source = CAST(x'ff41' AS TEXT) WHERE entry = (SELECT min(entry) FROM message)", 1),
        ("UPDATE message SET durable = 1 - durable WHERE entry = (SELECT max(entry) FROM message)", 1),
        ("UPDATE message SET attempts = attempts + 1 WHERE entry = (SELECT max(entry) FROM message)", 1),
        ("UPDATE subscription SET delivered = delivered + 1", usize::MAX),
        ("UPDATE publisher SET state = 'x'", 0),
        ("DELETE FROM publisher", 0),
        ("UPDATE meta SET batch = batch + 1", 0),
        ("UPDATE meta SET digest = digest + 1", 0),
        ("DELETE FROM meta", 0),
        ("DROP INDEX message_of", 0),
        ("CREATE TABLE mine(x)", 0),
        ("PRAGMA user_version = 77", 0),
        ("PRAGMA application_id = 1", 0),
        ("DROP TABLE dead", 0),
    ] {
        let (dir, generator) = sample(5);
        let person = rusqlite::Connection::open(dir.path().join("durable.db")).unwrap();
        person.execute_batch(sql).unwrap();
        drop(person);
        let (content, recovered) = open_damaged(dir.path(), &generator);
        let expected = generator.content.messages.len().saturating_sub(lost);
        assert_eq!(content.messages.len(), expected, "{sql}: {:?}", recovered.problems);
    }
}

#[test]
fn what_is_no_database_at_all() {
    for content in [Vec::new(), b"hello".to_vec(), vec![0; 5000], vec![0xff; 5000]] {
        let (dir, generator) = sample(6);
        std::fs::write(dir.path().join("durable.db"), content).unwrap();
        let log = std::fs::read(dir.path().join("durable.db-wal")).unwrap();
        open_damaged(dir.path(), &generator);
        let aside = aside(dir.path());
        assert_eq!(aside.len(), 2);
        assert_eq!(std::fs::read(&aside[1]).unwrap(), log, "SQLite deletes the log of an empty database");
    }
}

#[test]
fn damaged_twice_keeps_both() {
    let (dir, generator) = sample(7);
    for round in 1..=3 {
        let database = dir.path().join("durable.db");
        let mut content = std::fs::read(&database).unwrap();
        let page = content.len() / 4096 / 2 * 4096;
        content[page..page + 100].fill(0xa5);
        std::fs::write(&database, content).unwrap();
        std::fs::remove_file(dir.path().join("durable.db-wal")).unwrap();
        open_damaged(dir.path(), &generator);
        let kept = aside(dir.path()).into_iter().filter(|path| !path.to_str().unwrap().ends_with("-wal")).count();
        assert_eq!(kept, round);
    }
}

#[test]
fn an_interrupted_repair_is_finished() {
    let (dir, generator) = sample(8);
    let damaged = dir.path().join("durable.db");
    let log = dir.path().join("durable.db-wal");
    let whole = std::fs::read(&damaged).unwrap();
    let old_log = std::fs::read(&log).unwrap();

    // What a whole repair comes to, in a copy: with a page in zeros that no newer one in the log hides.
    let (bytes, copy, content, repaired) = (1..whole.len() / 4096)
        .find_map(|page| {
            let mut bytes = whole.clone();
            bytes[page * 4096..][..4096].fill(0);
            let copy = scratch();
            for name in ["durable.db-wal", "durable.mark", "durable.mark.copy"] {
                std::fs::copy(dir.path().join(name), copy.path().join(name)).unwrap();
            }
            std::fs::write(copy.path().join("durable.db"), &bytes).unwrap();
            let (mut store, recovered) = open(copy.path(), generator.wall());
            let content = Content::of(&mut store, &recovered);
            store.close().unwrap();
            let repaired = std::fs::read(copy.path().join("durable.db")).unwrap();
            (recovered.problems.len() == 1).then_some((bytes, copy, content, repaired))
        })
        .unwrap();

    for stage in 0..5 {
        let dir = scratch();
        let at = |name: &str| dir.path().join(name);
        for name in ["durable.mark", "durable.mark.copy"] {
            std::fs::copy(copy.path().join(name), at(name)).unwrap();
        }
        match stage {
            // While the new one is built; when it is built; when the damaged one is away; when its log is; all but the end.
            0 => std::fs::write(at("durable.db.new"), &repaired[..repaired.len() / 2]).unwrap(),
            _ => std::fs::write(at("durable.db.repaired"), &repaired).unwrap(),
        }
        if stage <= 1 {
            std::fs::write(at("durable.db"), &bytes).unwrap();
        }
        if stage <= 2 {
            std::fs::write(at("durable.db-wal"), &old_log).unwrap();
        }
        if stage == 4 {
            std::fs::rename(at("durable.db.repaired"), at("durable.db")).unwrap();
        }
        let (mut store, recovered) = open(dir.path(), generator.wall());
        assert_eq!(recovered.problems.len(), usize::from(stage != 4), "{stage}: {:?}", recovered.problems);
        let mut found = Content::of(&mut store, &recovered);
        assert_eq!(found.messages.len(), content.messages.len(), "{stage}");
        // Counted up at every repair.
        for (_, loaded) in found.messages.values_mut() {
            loaded.attempts = content.messages[&loaded.entry].1.attempts;
        }
        assert_eq!(found, content, "{stage}");
        assert_eq!(aside(dir.path()).len(), [2, 2, 1, 0, 0][stage], "{stage}");
        drop(store);
        let (_, recovered) = open(dir.path(), generator.wall());
        assert_eq!(recovered.problems, Vec::<String>::new());
        for leftover in ["durable.db.new", "durable.db.repaired"] {
            assert!(!dir.path().join(leftover).exists());
        }
    }
}

#[test]
fn the_mark_of_damage_goes_when_the_subscription_is_used() {
    let (dir, generator) = sample(9);
    std::fs::remove_file(dir.path().join("durable.db-wal")).unwrap();
    let (mut store, recovered) = open(dir.path(), generator.wall());
    let rows: Vec<_> = recovered.subscriptions.iter().map(|subscription| subscription.row.clone()).collect();
    assert!(rows.len() >= 3, "{rows:?}");
    let writes = vec![Write::Subscription(rows[0].clone()), Write::Delivered { durable: rows[1].durable, entry: 1 }];
    store.commit(&Batch { number: recovered.batch + 1, time_ms: 0, wall: 0, writes }).unwrap();
    drop(store);
    let (_, recovered) = open(dir.path(), generator.wall());
    let damaged: Vec<_> = recovered.subscriptions.iter().map(|subscription| subscription.damaged).collect();
    assert_eq!(&damaged[..3], [false, false, true]);
}

#[test]
fn a_row_that_went_bad_while_believed_is_never_given_out() {
    let (dir, generator) = sample(10);
    let (store, _) = open(dir.path(), generator.wall());
    let batch = store.close().unwrap();
    let entries: Vec<EntryNumber> = generator.content.messages.keys().copied().collect();
    let bad = entries[entries.len() / 2];
    let (durable, was) = &generator.content.messages[&bad];
    let person = rusqlite::Connection::open(dir.path().join("durable.db")).unwrap();
    let sql = "UPDATE message SET document = zeroblob(length(document)) WHERE entry = ?";
    assert_eq!(person.execute(sql, (bad as i64,)).unwrap(), 1);
    // And one that is about to become a dead letter.
    let dying = *entries.iter().find(|entry| generator.content.messages[entry].0 != *durable).unwrap();
    let of_dying = generator.content.messages[&dying].0;
    assert_eq!(person.execute(sql, (dying as i64,)).unwrap(), 1);
    drop(person);

    let (mut store, recovered) = Store::open(dir.path(), generator.wall(), Some(batch)).unwrap().unwrap();
    assert_eq!(recovered.problems, Vec::<String>::new());
    let page = store.load(*durable, 0, u64::MAX, u64::MAX).unwrap();
    assert_eq!(page.damaged, [(bad, was.record.id, was.record.size())]);
    let given = page.entries.iter().all(|loaded| generator.content.messages[&loaded.entry].1 == *loaded);
    assert!(given && !page.more);
    assert_eq!(store.load(*durable, 0, u64::MAX, u64::MAX).unwrap(), page, "it stays until somebody was told");

    let dead = recovered.subscriptions.iter().map(|subscription| subscription.dead).sum::<u64>();
    let die = Write::DieOldest {
        durable: of_dying,
        after: dying - 1,
        messages: 1,
        bytes: 0,
        death: death(libeevee::GapReason::QueueFull, ""),
    };
    let writes = vec![die, Write::Acknowledge { entry: bad }];
    let did = store.commit(&Batch { number: batch + 1, time_ms: 0, wall: 0, writes }).unwrap();
    assert_eq!(did.died.len(), 1);
    assert_eq!((did.died[0].entry, did.died[0].reason), (dying, libeevee::GapReason::Damaged));
    assert_eq!(did.dead_removed, [(of_dying, 1)]);
    assert_eq!(store.dead_letters(None, None, 0, u64::MAX).unwrap().total, dead);
    drop(store);
    let (_, recovered) = open(dir.path(), generator.wall());
    assert_eq!(recovered.problems, Vec::<String>::new(), "what was bad is gone, and the digest fits");
}
