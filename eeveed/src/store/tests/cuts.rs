//! The files of a store, cut at every byte and flipped at many bits: either exactly what was confirmed comes back, or the
//! damage is reported, and all that comes back was really written. The store works afterwards, whatever it was.
//!
//! `cargo test` takes a sample; `make store-test` cuts at every byte (`EEVEE_CUTS=all`) and flips `EEVEE_FLIPS` bits.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, PoisonError};

use super::super::{Options, Store};
use super::generator::*;
use super::model::*;
use crate::core::storage::*;

/// Where many small files are made and removed.
pub(super) fn scratch() -> tempfile::TempDir {
    let fast = Path::new("/dev/shm");
    if fast.is_dir() { tempfile::tempdir_in(fast).unwrap() } else { tempfile::tempdir().unwrap() }
}

/// The files of a store that was not closed, with a part of its content in the log, and what it held.
#[derive(Debug)]
pub(super) struct Sample {
    pub(super) files: BTreeMap<String, Vec<u8>>,
    pub(super) generator: Generator,
    page_bytes: u32,
}

impl Sample {
    /// Small pages give trees of more than one level for little content.
    pub(super) fn new(seed: u64, page_bytes: u32, batches: u64, in_log: u64) -> Self {
        let dir = scratch();
        let mut generator = Generator::new(seed);
        generator.keeps = 95;
        generator.bytes_max = if page_bytes < 4096 { 120 } else { 600 };
        let mut store = Store::create(dir.path()).unwrap();
        store.options = Options { page_bytes, ..Options::default() };
        run(&mut store, &mut generator, batches - in_log);
        store.close().unwrap();
        let (mut store, _) = open(dir.path(), generator.wall());
        run(&mut store, &mut generator, in_log);
        store.flush_mark(true).unwrap();
        let mut files = BTreeMap::new();
        // Nothing stands in it.
        std::fs::remove_file(dir.path().join("durable.reserve")).unwrap();
        for file in std::fs::read_dir(dir.path()).unwrap() {
            let path = file.unwrap().path();
            files.insert(path.file_name().unwrap().to_str().unwrap().to_owned(), std::fs::read(path).unwrap());
        }
        let names: Vec<&str> = files.keys().map(String::as_str).collect();
        assert_eq!(names, ["durable.db", "durable.db-shm", "durable.db-wal", "durable.mark", "durable.mark.copy"]);
        drop(store);
        Self { files, generator, page_bytes }
    }

    /// Opens the files with one of them changed, and checks all that has to be true. Says whether damage was reported, and
    /// how much of what was confirmed came back.
    pub(super) fn check(&self, name: &str, changed: &[u8], what: &str, thorough: bool) -> (bool, usize) {
        let dir = scratch();
        for (file, content) in &self.files {
            let content = if file == name { changed } else { content };
            std::fs::write(dir.path().join(file), content).unwrap();
        }
        let open = |again: &str| {
            let options = Options { page_bytes: self.page_bytes, ..Options::default() };
            match Store::open_with(dir.path(), self.generator.wall(), None, options) {
                Ok(Some(opened)) => opened,
                other => panic!("{what}{again}: {:?}", other.err()),
            }
        };
        let (mut store, recovered) = open("");
        let content = Content::of(&mut store, &recovered);
        let confirmed = &self.generator.content;
        let reported = !recovered.problems.is_empty();
        if name.contains("mark") || !reported {
            assert!(content == *confirmed, "{what}: silently other than what was confirmed");
            assert!(recovered.subscriptions.iter().all(|subscription| !subscription.damaged), "{what}");
            assert_eq!(recovered.batch, self.generator.batch, "{what}");
        } else {
            self.generator.check_real(&content);
            assert!(recovered.subscriptions.iter().all(|subscription| subscription.damaged), "{what}");
            let aside = std::fs::read_dir(dir.path()).unwrap().map(|file| file.unwrap().file_name());
            let aside = aside.filter(|name| name.to_str().unwrap().contains("damaged")).count();
            assert!(aside > 0, "{what}: the damaged files are kept");
            assert!(content.messages.values().all(|(_, loaded)| loaded.attempts > 0), "{what}");
        }
        assert!(recovered.next_entry >= self.generator.next_entry - 1, "{what}: entries would repeat");
        assert!(recovered.batch >= self.generator.batch, "{what}");
        if thorough {
            let (entry, durable) = (recovered.next_entry, recovered.next_durable);
            let row = SubscriptionRow { durable, owner: "after".into(), name: "wards".into(), spec: "{}".into() };
            let record = record(entry, 100);
            let since_ms = recovered.time_ms;
            let writes = vec![
                Write::Subscription(row),
                Write::Enqueue { entry, durable, since_ms, expires_ms: 0, record },
                trim(10, 5000),
            ];
            let batch = Batch { number: recovered.batch + 1, time_ms: since_ms, wall: self.generator.wall(), writes };
            let mut expected = content;
            let did = expected.apply(&batch);
            assert_eq!(store.commit(&batch).unwrap(), did, "{what}");
            store.flush_mark(true).unwrap();
            drop(store);
            let (mut store, recovered) = open(", opened again");
            assert_eq!(recovered.problems, Vec::<String>::new(), "{what}: told once");
            assert!(Content::of(&mut store, &recovered) == expected, "{what}: not what was there after the damage");
            store.close().unwrap();
            return (reported, expected.messages.len());
        }
        (reported, content.messages.len())
    }
}

/// Runs the checks on all processors.
fn check_all(sample: &Sample, cases: &[(String, Vec<u8>, String)], thorough_every: usize) -> (usize, usize) {
    let (next, reported, back) = (AtomicUsize::new(0), AtomicUsize::new(0), AtomicUsize::new(0));
    let broken = Mutex::new(Vec::new());
    std::thread::scope(|scope| {
        for _ in 0..std::thread::available_parallelism().map_or(1, usize::from) {
            scope.spawn(|| {
                loop {
                    let at = next.fetch_add(1, Ordering::Relaxed);
                    let Some((name, changed, what)) = cases.get(at) else { return };
                    let checked =
                        std::panic::catch_unwind(|| sample.check(name, changed, what, at % thorough_every == 0));
                    match checked {
                        Ok((damage, messages)) => {
                            reported.fetch_add(usize::from(damage), Ordering::Relaxed);
                            back.fetch_add(messages, Ordering::Relaxed);
                        }
                        Err(_) => broken.lock().unwrap_or_else(PoisonError::into_inner).push(what.clone()),
                    }
                }
            });
        }
    });
    let broken = broken.into_inner().unwrap_or_else(PoisonError::into_inner);
    assert!(
        broken.is_empty(),
        "{} of {} cases, such as: {:?}",
        broken.len(),
        cases.len(),
        &broken[..broken.len().min(9)]
    );
    let all = cases.len() * sample.generator.content.messages.len();
    (reported.into_inner(), back.into_inner() * 100 / all.max(1))
}

fn number(name: &str, default: usize) -> usize {
    std::env::var(name).ok().map_or(default, |value| value.parse().expect(name))
}

fn say(text: &str) {
    use std::io::Write;
    // Past the harness's capture: figures of a long run are for whoever waits for it.
    let _ = writeln!(std::io::stderr(), "store-test: {text}");
}

#[test]
fn whole_files_come_back_whole() {
    for page_bytes in [512, 1024, 4096] {
        let sample = Sample::new(7, page_bytes, 100, 10);
        let (waiting, dead) = (sample.generator.content.messages.len(), sample.generator.content.dead.len());
        assert!(waiting > 100 && dead > 5, "{waiting} messages, {dead} dead letters");
        let (reported, _) = sample.check("", &[], "nothing changed", true);
        assert!(!reported);
    }
}

#[test]
fn files_cut_anywhere() {
    let all = std::env::var("EEVEE_CUTS").is_ok_and(|value| value == "all");
    let sample = Sample::new(1, 512, 100, 6);
    for (name, content) in &sample.files {
        // The shared memory is made anew at every opening: a sample is enough.
        let every = if all && !name.ends_with("-shm") { 1 } else { (content.len() / 12).max(1) };
        // In portions: every cut is a copy.
        let mut reported = (0, 0);
        let cuts: Vec<usize> = (0..content.len()).step_by(every).collect();
        for cuts in cuts.chunks(4000) {
            let cases: Vec<_> = cuts
                .iter()
                .map(|&cut| (name.clone(), content[..cut].to_vec(), format!("{name} cut at {cut}")))
                .collect();
            let (damaged, back) = check_all(&sample, &cases, if all { 16 } else { 3 });
            reported = (reported.0 + damaged, back);
        }
        say(&format!(
            "{name}: {} cuts of {} bytes: {} whole, {} reported as damage; {} % of all messages came back in the last",
            cuts.len(),
            content.len(),
            cuts.len() - reported.0,
            reported.0,
            reported.1
        ));
    }
}

#[test]
fn bits_flipped_anywhere() {
    let flips = number("EEVEE_FLIPS", 100);
    let seed = number("EEVEE_SEED", 1) as u64;
    for (at, page_bytes) in [512, 4096].into_iter().enumerate() {
        let sample = Sample::new(seed + at as u64, page_bytes, 150, 4);
        let mut random = fastrand::Rng::with_seed(seed);
        for (name, content) in &sample.files {
            if name.ends_with("-shm") {
                continue;
            }
            let part = if name.contains("mark") { flips / 20 } else { flips * 9 / 20 } / 2;
            let mut sum = (0, 0, 0, 0);
            for _ in 0..part.div_ceil(2000) {
                let cases: Vec<_> = (0..part.min(2000))
                    .map(|n| {
                        let mut changed = content.clone();
                        // A part of them in the first page, where the structure of all lies.
                        let byte = random.usize(
                            ..if n % 8 == 0 { page_bytes as usize / 2 } else { content.len() }.min(content.len()),
                        );
                        let what = match random.u8(..10) {
                            0 => {
                                let end = changed.len().min(byte + random.usize(1..2 * page_bytes as usize));
                                changed[byte..end].fill(0);
                                format!("{name}: zeros from {byte} to {end}")
                            }
                            1 => {
                                changed[byte] = random.u8(..);
                                format!("{name}: byte {byte} is {}", changed[byte])
                            }
                            _ => {
                                let bit = random.u8(..8);
                                changed[byte] ^= 1 << bit;
                                format!("{name}: bit {bit} of byte {byte} flipped")
                            }
                        };
                        (name.clone(), changed, format!("{what} (pages of {page_bytes}, seed {seed})"))
                    })
                    .collect();
                let (reported, back) = check_all(&sample, &cases, 8);
                sum = (sum.0 + cases.len(), sum.1 + reported, sum.2 + back, sum.3 + 1);
            }
            say(&format!(
                "{name}, pages of {page_bytes}: {} changes: {} harmless, {} reported; {} % of all messages came back",
                sum.0,
                sum.0 - sum.1,
                sum.1,
                sum.2 / sum.3.max(1)
            ));
        }
    }
}
