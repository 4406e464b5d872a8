//! What is bounded on disk: one that is full, by the bus itself or by others, where new durable messages are refused, and what
//! is there can be taken, acknowledged, forgotten and dropped, until there is room again; dead letters; and much that waits.

use std::path::Path;
use std::process::Command;
use std::time::Duration;

use libeevee::{Client, Code, Event, Subscription};
use nix::mount::{MsFlags, mount, umount};
use nix::sys::signal::Signal;
use serde_json::Value;

use crate::bus::{Bus, SOON, document};

/// Whether tests may mount; who runs them is told.
#[expect(clippy::print_stderr, reason = "a test that is not run has to say so")]
fn may_mount() -> bool {
    let dir = tempfile::tempdir().unwrap();
    let may = small_disk(dir.path());
    if may {
        umount(dir.path()).unwrap();
    } else {
        assert!(std::env::var_os("CI").is_none(), "CI must run this as root, with the right to mount");
        eprintln!("NOT TESTED: a disk of its own needs root and the right to mount");
    }
    may
}

fn small_disk(at: &Path) -> bool {
    mount(Some("tmpfs"), at, Some("tmpfs"), MsFlags::empty(), Some("size=40m,mode=0700")).is_ok()
}

/// The rest of the disk, taken by somebody else.
fn fill(bus: &Bus) {
    let filler = bus.state().join("filler");
    let status = Command::new("sh")
        .args(["-c", "dd if=/dev/zero of=\"$0\" bs=4k 2>/dev/null; true"])
        .arg(&filler)
        .status()
        .unwrap();
    assert!(status.success());
}

async fn publish(client: &Client, kind: &str) -> Result<(), libeevee::Error> {
    let document = document(&[("type", kind)], &"x".repeat(4000));
    client.publish_confirmed(document).await.map(|published| assert_eq!(published.durable, 1))
}

/// Until the disk is full; how many it took.
async fn publish_all(client: &Client, kind: &str) -> u64 {
    for count in 0..20_000 {
        if let Err(error) = publish(client, kind).await {
            assert_eq!(error.code(), Some(Code::Storage), "{error}");
            assert!(error.to_string().contains("the disk is full"), "{error}");
            return count;
        }
    }
    panic!("it is never full");
}

async fn recovers(client: &Client, kind: &str) {
    let begun = std::time::Instant::now();
    while let Err(error) = publish(client, kind).await {
        assert_eq!(error.code(), Some(Code::Storage), "{error}");
        assert!(begun.elapsed() < SOON, "{error}");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

/// Acknowledges so many messages. A loss that is told is passed over.
async fn take(subscription: &mut Subscription, count: u64) {
    let mut taken = 0;
    while taken < count {
        let event = tokio::time::timeout(SOON, subscription.next()).await.expect("a delivery").unwrap();
        if let Event::Message(message) = event {
            subscription.ack(&message).unwrap();
            taken += 1;
        }
    }
}

async fn queue(tool: &Client, name: &str) -> Value {
    let text = tool.control("queues", "", "{}").await.unwrap().unwrap();
    let rows: Vec<Value> = serde_json::from_str(&text).unwrap();
    rows.into_iter().find(|row| row["name"] == name).unwrap_or_default()
}

async fn until_empty(tool: &Client, name: &str) {
    let begun = std::time::Instant::now();
    while queue(tool, name).await["messages"] != 0 {
        assert!(begun.elapsed() < SOON, "{}", queue(tool, name).await);
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

/// A message of this kind becomes a dead letter of its subscription.
async fn refuse(publisher: &Client, subscription: &mut Subscription, kind: &str) {
    publish(publisher, kind).await.unwrap();
    loop {
        if let Event::Message(message) = subscription.next().await.unwrap() {
            subscription.nack(&message, libeevee::Nack::dead("no")).unwrap();
            return;
        }
    }
}

async fn dead(tool: &Client, name: &str, count: u64) {
    let begun = std::time::Instant::now();
    while queue(tool, name).await["dead"] != count {
        assert!(begun.elapsed() < SOON, "{}", queue(tool, name).await);
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

#[tokio::test]
async fn nobody_pushes_out_or_drops_the_dead_letters_of_others() {
    let bus = Bus::configured("[limits]\ndead-letters = 8\ndead-letters-per-owner = 3\n");
    let (irc, dice, tool) = (bus.operator("irc").await, bus.operator("dice").await, bus.tool().await);
    let mut a = dice.subscribe("type=a").durable("a").await.unwrap();
    let mut b = irc.subscribe("type=b").durable("b").await.unwrap();
    refuse(&irc, &mut a, "a").await;
    for _ in 0..12 {
        refuse(&irc, &mut b, "b").await;
    }
    dead(&tool, "b", 3).await;
    dead(&tool, "a", 1).await;
    // The newest are kept.
    let letters = tool.control("dead-list", "", r#"{"owner":"irc"}"#).await.unwrap().unwrap();
    let letters: Value = serde_json::from_str(&letters).unwrap();
    let entries: Vec<u64> =
        letters["dead"].as_array().unwrap().iter().map(|letter| letter["entry"].as_u64().unwrap()).collect();
    assert_eq!((entries.len(), entries.last()), (3, Some(&13)), "{letters}");

    let listed = irc.control("dead-list", "", r#"{"limit":1}"#).await.unwrap().unwrap();
    let listed: Value = serde_json::from_str(&listed).unwrap();
    assert_eq!((&listed["total"], &listed["yours"]), (&4.into(), &3.into()), "{listed}");
    let twice = format!(r#"{{"entries":[{0},{1},{0}]}}"#, entries[0], entries[1]);
    assert_eq!(irc.control("dead-drop", "", &twice).await.unwrap().unwrap(), r#"{"dropped":2}"#);
    assert_eq!(irc.control("dead-drop", "", r#"{"all":true}"#).await.unwrap().unwrap(), r#"{"dropped":1}"#);
    dead(&tool, "b", 0).await;
    dead(&tool, "a", 1).await;
    let refused = irc.control("dead-drop", "", r#"{"owner":"dice"}"#).await.unwrap_err();
    assert_eq!(refused.code(), Some(Code::Denied), "{refused}");
}

/// Messages that wait before anybody takes them, and those that come while they are taken, a second.
const BEHIND: u64 = 20_000;
const LOAD: u64 = 2_000;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_is_far_behind_catches_up_under_load() {
    let bus = Bus::start();
    let (irc, dice) = (bus.operator("irc").await, bus.operator("dice").await);
    drop(dice.subscribe("type=a").durable("a").await.unwrap());
    let message = || document(&[("type", "a")], &"x".repeat(128));
    for _ in 0..BEHIND {
        irc.publish(message()).await.unwrap();
    }
    irc.publish_confirmed(message()).await.unwrap();

    let published = std::sync::Arc::new(std::sync::atomic::AtomicU64::new(BEHIND + 1));
    let count = published.clone();
    let load = tokio::spawn(async move {
        let mut ticks = tokio::time::interval(Duration::from_millis(10));
        loop {
            ticks.tick().await;
            for _ in 0..LOAD / 100 {
                irc.publish(message()).await.unwrap();
                count.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
            }
        }
    });
    let begun = std::time::Instant::now();
    let mut a = dice.subscribe("type=a").durable("a").window(1000, 1 << 20).await.unwrap();
    let mut taken = 0;
    while taken + 200 < published.load(std::sync::atomic::Ordering::Relaxed) {
        take(&mut a, 100).await;
        taken += 100;
        assert!(begun.elapsed() < 3 * SOON, "{taken} taken of {published:?}");
    }
    load.abort();
    println!("{taken} messages taken in {:?}, with {LOAD} more a second", begun.elapsed());
}

/// Lines of the journal about the disk: one a change.
fn changes(bus: &Bus) -> (usize, usize) {
    let log = bus.log();
    let count = |what| log.lines().filter(|line| line.contains(what)).count();
    (count("durable messages are refused"), count("takes durable messages again"))
}

#[tokio::test]
async fn acknowledgements_empty_a_disk_that_the_bus_filled() {
    if !may_mount() {
        return;
    }
    let bus = Bus::on_disk_of_its_own(small_disk, "");
    let (irc, dice, tool) = (bus.operator("irc").await, bus.operator("dice").await, bus.tool().await);
    drop(dice.subscribe("type=a").durable("a").await.unwrap());
    let count = publish_all(&irc, "a").await;
    assert!(count > 3000, "{count}");
    tokio::time::sleep(Duration::from_millis(2500)).await;
    assert_eq!(changes(&bus), (1, 0), "one line a change");
    // Deliveries need the disk, and so do acknowledgements.
    let mut all = dice.subscribe("type=a").durable("a").await.unwrap();
    take(&mut all, count).await;
    until_empty(&tool, "a").await;
    recovers(&irc, "a").await;
    assert_eq!(changes(&bus), (1, 1));
    take(&mut all, 1).await;
}

#[tokio::test]
async fn forgetting_and_dropping_work_on_a_disk_that_others_filled() {
    if !may_mount() {
        return;
    }
    let mut bus = Bus::on_disk_of_its_own(small_disk, "");
    let (irc, dice, tool) = (bus.operator("irc").await, bus.operator("dice").await, bus.tool().await);
    for name in ["a", "b", "c"] {
        drop(dice.subscribe(&*format!("type={name}")).durable(name).await.unwrap());
    }
    for _ in 0..500 {
        for kind in ["a", "b", "c"] {
            publish(&irc, kind).await.unwrap();
        }
    }
    // What is written from now on is in no log that had room already.
    bus.restart(Signal::SIGTERM);
    let mut b = dice.subscribe("type=b").durable("b").await.unwrap();
    fill(&bus);
    publish_all(&irc, "c").await;

    // Refused by its subscriber: it becomes a dead letter, which is dropped.
    let Event::Message(message) = b.next().await.unwrap() else { panic!() };
    b.nack(&message, libeevee::Nack::dead("no")).unwrap();
    let begun = std::time::Instant::now();
    while queue(&tool, "b").await["dead"] != 1 {
        assert!(begun.elapsed() < SOON);
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    let dropped = tool.control("dead-drop", "", r#"{"all":true}"#).await.unwrap().unwrap();
    assert_eq!(dropped, r#"{"dropped":1}"#);
    let forgotten = tool.control("forget", "", r#"{"owner":"dice","name":"a"}"#).await.unwrap().unwrap();
    assert_eq!(forgotten, r#"{"dead":0,"messages":500}"#);
    take(&mut b, 499).await;
    until_empty(&tool, "b").await;
    publish_all(&irc, "c").await;
    assert_eq!(changes(&bus), (1, 0));

    std::fs::remove_file(bus.state().join("filler")).unwrap();
    recovers(&irc, "c").await;
    assert_eq!(changes(&bus), (1, 1));
    bus.restart(Signal::SIGKILL);
    let mut c = dice.subscribe("type=c").durable("c").await.unwrap();
    for _ in 0..501 {
        let Event::Message(message) = c.next().await.unwrap() else { panic!() };
        assert_eq!(message.delivery.attempt, 1);
        c.ack(&message).unwrap();
    }
}
