//! How fast it is, for a person who asks: `cargo test --release -p eeveed store::tests::speed -- --ignored --nocapture`.

use std::io::Write as _;
use std::time::{Duration, Instant};

use super::super::Store;
use super::model::*;
use crate::core::storage::*;

fn say(text: &str) {
    let _ = writeln!(std::io::stderr(), "{text}");
}

fn subscription() -> Write {
    let row = SubscriptionRow { durable: 1, owner: "log".into(), name: "all".into(), spec: "{}".into() };
    Write::Subscription(row)
}

/// Batches of so many enqueued and, some batches later, acknowledged; a publisher's row for each batch.
fn rate(store: &mut Store, number: &mut u64, entry: &mut u64, group: u64, time: Duration) -> (f64, Duration, Duration) {
    let behind = 4 * group;
    let marker = store.start_marker().unwrap().unwrap();
    let mut times = Vec::new();
    let began = Instant::now();
    let mut messages = 0;
    while began.elapsed() < time {
        let mut writes = Vec::with_capacity(2 * group as usize + 2);
        for _ in 0..group {
            let record = record(*entry, 250);
            writes.push(Write::Enqueue { entry: *entry, durable: 1, since_ms: *number, expires_ms: 0, record });
            if *entry > behind {
                writes.push(Write::Acknowledge { entry: *entry - behind });
            }
            *entry += 1;
        }
        writes.push(Write::Delivered { durable: 1, entry: *entry - 1 });
        writes.push(Write::Publisher(PublisherRow {
            source: "irc".into(),
            epoch: 7,
            state: number.to_string(),
            used: *number,
        }));
        let batch = Batch { number: *number, time_ms: *number, wall: *number, writes };
        *number += 1;
        let start = Instant::now();
        store.commit(&batch).unwrap();
        store.checkpoint(false).unwrap();
        store.mark_with(&marker).unwrap();
        times.push(start.elapsed());
        messages += group;
    }
    let spent: Duration = times.iter().sum();
    times.sort_unstable();
    (messages as f64 / spent.as_secs_f64(), times[times.len() / 2], times[times.len() * 999 / 1000])
}

#[test]
#[ignore = "a measurement"]
fn commits() {
    let place = std::env::var("EEVEE_DISK").unwrap_or_else(|_| "/var/tmp".into());
    for group in [1, 8, 64, 512] {
        let dir = tempfile::tempdir_in(&place).unwrap();
        let mut store = Store::create(dir.path()).unwrap();
        let (mut number, mut entry) = (2, 1);
        store.commit(&Batch { number: 1, time_ms: 0, wall: 0, writes: vec![subscription()] }).unwrap();
        rate(&mut store, &mut number, &mut entry, group, Duration::from_millis(300));
        let (per_second, median, slow) = rate(&mut store, &mut number, &mut entry, group, Duration::from_secs(3));
        say(&format!(
            "commits of {group:3}: {per_second:7.0} messages/s enqueued and acknowledged; a commit {median:?}, p99.9 {slow:?}"
        ));
    }
}

#[test]
#[ignore = "a measurement"]
fn opening() {
    let dir = tempfile::tempdir_in("/var/tmp").unwrap();
    let mut store = Store::create(dir.path()).unwrap();
    store.commit(&Batch { number: 1, time_ms: 0, wall: 0, writes: vec![subscription()] }).unwrap();
    let mut entry = 1;
    let began = Instant::now();
    for number in 2..=201 {
        let writes = (0..500)
            .map(|_| {
                entry += 1;
                Write::Enqueue { entry, durable: 1, since_ms: number, expires_ms: 0, record: record(entry, 250) }
            })
            .collect();
        store.commit(&Batch { number, time_ms: number, wall: 0, writes }).unwrap();
        store.checkpoint(false).unwrap();
    }
    say(&format!("100,000 messages written in {:?}", began.elapsed()));
    let batch = store.close().unwrap();
    for trusted in [None, Some(batch)] {
        let began = Instant::now();
        let (store, recovered) = Store::open(dir.path(), 0, trusted).unwrap().unwrap();
        say(&format!(
            "opened, {}: {:?}, {} messages",
            if trusted.is_some() { "believed" } else { "verified" },
            began.elapsed(),
            recovered.subscriptions[0].messages
        ));
        store.close().unwrap();
    }
    let (mut store, _) = Store::open(dir.path(), 0, None).unwrap().unwrap();
    let death = death(libeevee::GapReason::Expired, "it waited");
    let expire = Write::Expire { durable: 1, after: 0, before_ms: 0, now_ms: 1, death: death.clone() };
    for (what, write) in [
        ("nothing expires of 100,000", expire),
        ("1,000 oldest die", Write::DieOldest { durable: 1, after: 0, messages: 1000, bytes: 0, death }),
        ("1,000 dead letters trimmed to 10", trim(10, u64::MAX)),
        ("99,000 messages forgotten", Write::Forget { durable: 1 }),
    ] {
        let number = store.batch() + 1;
        let began = Instant::now();
        store.commit(&Batch { number, time_ms: number, wall: 0, writes: vec![write] }).unwrap();
        say(&format!("{what}: {:?}", began.elapsed()));
    }
}
