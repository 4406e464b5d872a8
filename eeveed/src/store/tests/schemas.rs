//! Another release: a newer schema is refused, an older one brought up.

use super::super::{OpenError, Options, Store, schema};
use super::generator::*;
use super::model::*;
use crate::core::storage::*;

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
