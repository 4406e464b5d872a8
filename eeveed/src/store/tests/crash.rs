//! The files as a crash leaves them: copied between commits, and by `kill -9` of a process that writes.

use std::io::{BufRead, BufReader, Write as _};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use super::super::Store;
use super::cuts::scratch;
use super::generator::*;
use super::model::*;

#[test]
fn every_batch_is_there_after_a_crash_behind_it() {
    let dir = scratch();
    let mut generator = Generator::new(21);
    let mut store = Store::create(dir.path()).unwrap();
    for number in 1..=60 {
        run(&mut store, &mut generator, 1);
        if number % 7 == 0 {
            store.flush_mark(number % 2 == 0).unwrap();
        }
        if number % 20 == 0 {
            store.checkpoint_now("PASSIVE").unwrap();
        }
        let copy = scratch();
        for file in std::fs::read_dir(dir.path()).unwrap() {
            let path = file.unwrap().path();
            std::fs::copy(&path, copy.path().join(path.file_name().unwrap())).unwrap();
        }
        let (mut copied, recovered) = open(copy.path(), generator.wall());
        assert_eq!(recovered.problems, Vec::<String>::new());
        assert_eq!(recovered.batch, number);
        assert_eq!(Content::of(&mut copied, &recovered), generator.content);
    }
}

const CHILD: &str = "EEVEE_STORE_CHILD";

#[test]
#[ignore = "run by killed_while_writing"]
fn child_that_writes() {
    let text = std::env::var(CHILD).expect("the parent says where");
    let (seed, dir) = text.split_once(' ').unwrap();
    let mut generator = Generator::new(seed.parse().unwrap());
    let mut store = Store::create(dir.as_ref()).unwrap();
    let mut marker = None;
    loop {
        run(&mut store, &mut generator, 1);
        if marker.is_none() {
            marker = store.start_marker().unwrap();
        }
        store.mark_with(marker.as_ref().unwrap()).unwrap();
        store.checkpoint(generator.batch.is_multiple_of(50)).unwrap();
        writeln!(std::io::stdout(), "\nconfirmed {}", generator.batch).unwrap();
    }
}

#[test]
fn killed_while_writing() {
    let kills = std::env::var("EEVEE_KILLS").ok().map_or(4, |value| value.parse().unwrap());
    for seed in 1..=kills {
        let dir = tempfile::tempdir().unwrap();
        let mut child = Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "store::tests::crash::child_that_writes", "--ignored", "--nocapture"])
            .env(CHILD, format!("{seed} {}", dir.path().display()))
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let output = BufReader::new(child.stdout.take().unwrap());
        let mut lines = output.lines();
        let mut confirmed = 0;
        let mut next = |confirmed: &mut u64| match lines.next() {
            Some(Ok(line)) => {
                if let Some(number) = line.strip_prefix("confirmed ").and_then(|text| text.parse().ok()) {
                    *confirmed = number;
                }
                true
            }
            _ => false,
        };
        while confirmed == 0 && next(&mut confirmed) {}
        let began = Instant::now();
        while began.elapsed() < Duration::from_millis(40 * seed % 170) {
            next(&mut confirmed);
        }
        child.kill().unwrap();
        child.wait().unwrap();
        while next(&mut confirmed) {}
        assert!(confirmed > 0);

        let (mut store, recovered) = open(dir.path(), u64::MAX);
        assert_eq!(recovered.problems, Vec::<String>::new(), "a crash is no damage");
        assert!(recovered.batch == confirmed || recovered.batch == confirmed + 1, "{} {confirmed}", recovered.batch);
        let mut generator = Generator::new(seed);
        for _ in 0..recovered.batch {
            generator.next();
        }
        assert_eq!(Content::of(&mut store, &recovered), generator.content);
    }
}

/// After a sync that failed, the kernel may show what is not on the disk, and never write it. So a start carries the log over,
/// which writes and syncs all of it once more, before anything is built upon it.
#[test]
fn a_start_does_not_rely_on_the_log_that_it_found() {
    let dir = tempfile::tempdir().unwrap();
    let mut generator = Generator::new(14);
    generator.keeps = 90;
    let mut store = Store::create(dir.path()).unwrap();
    run(&mut store, &mut generator, 40);
    drop(store);
    let (store, recovered) = open(dir.path(), generator.wall());
    assert_eq!(recovered.problems, Vec::<String>::new());
    let without = tempfile::tempdir().unwrap();
    for name in ["durable.db", "durable.mark", "durable.mark.copy"] {
        std::fs::copy(dir.path().join(name), without.path().join(name)).unwrap();
    }
    drop(store);
    let (mut store, recovered) = open(without.path(), generator.wall());
    assert_eq!(recovered.problems, Vec::<String>::new());
    assert_eq!(Content::of(&mut store, &recovered), generator.content);
}
