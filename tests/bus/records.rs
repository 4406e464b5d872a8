//! Log records as messages: of the bus itself, and of operators that log about each other's records.

use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use libeevee::{Message, Subscription};

use crate::bus::{Bus, SOON, document, message};

/// An example of libeevee, which `cargo test --workspace` builds and a test of this package alone does not.
fn example(name: &str) -> PathBuf {
    let built = std::env::current_exe().unwrap().parent().unwrap().with_file_name("examples").join(name);
    if !built.exists() {
        let mut cargo = Command::new(env!("CARGO"));
        assert!(cargo.args(["build", "--quiet", "-p", "libeevee", "--example", name]).status().unwrap().success());
    }
    built
}

struct Logbook(Child);

impl Logbook {
    fn start(bus: &Bus, id: &str) -> Self {
        let mut command = Command::new(example("logbook"));
        command.args(["--id", id]).env("EEVEE_BUS", bus.socket()).env("EEVEE_LOG", "info").env_remove("JOURNAL_STREAM");
        let log = std::fs::File::create(bus.config().join(format!("{id}.log"))).unwrap();
        Self(command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(log).spawn().unwrap())
    }
}

impl Drop for Logbook {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

async fn until(what: &str, condition: impl AsyncFn() -> bool) {
    let deadline = Instant::now() + SOON;
    while !condition().await {
        assert!(Instant::now() < deadline, "no {what}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

async fn ready(bus: &Bus, id: &str) {
    let tool = bus.tool().await;
    until(id, async || bus.status(&tool, id).await["state"] == "ready").await;
}

/// The next record with this in its text.
async fn record(records: &mut Subscription, part: &str) -> Message {
    loop {
        let record = message(records).await;
        if record.text().is_some_and(|text| text.contains(part)) {
            return record;
        }
    }
}

const LOGS: &str = "kind = \"logbook\"\n[bus]\nmay-publish = []\npublish-log = \"info\"\n";

#[tokio::test]
async fn two_operators_that_log_about_each_others_records_come_to_rest() {
    let bus = Bus::with(&[("modules.d/a.toml", LOGS), ("modules.d/b.toml", LOGS)]);
    let tool = bus.tool().await;
    let mut records = tool.subscribe("type=log.record").await.unwrap();
    let _b = Logbook::start(&bus, "b");
    let said = record(&mut records, "ready").await;
    assert_eq!((said.source.as_str(), said.header("operator"), said.header("level")), ("b", Some("b"), Some("6")));
    assert_eq!(said.header("target"), Some("libeevee::operator::inner"));
    let _a = Logbook::start(&bus, "a");
    let log = |id: &str| std::fs::read_to_string(bus.config().join(format!("{id}.log"))).unwrap();
    // Each was given a record of the other, and has written about it in its journal.
    until("record of a at b", async || log("b").contains("a: <6> ready")).await;
    tool.control("reload", "b", "").await.unwrap();
    until("record of b at a", async || log("a").contains("b: <6> reloaded")).await;
    assert!(!log("a").contains("a: <") && !log("b").contains("b: <"), "nobody is given his own");

    // Nothing of what they wrote about records became one.
    tokio::time::sleep(Duration::from_millis(500)).await;
    tool.publish_confirmed(document(&[("type", "log.record")], "the end")).await.unwrap();
    loop {
        let said = message(&mut records).await;
        let text = said.text().unwrap();
        assert!(!text.contains("<6>"), "{text}");
        if text == "the end" {
            break;
        }
    }
}

#[tokio::test]
async fn the_bus_publishes_its_own_and_operators_only_what_their_files_allow() {
    let bus = Bus::configured("[bus]\npublish-log = \"warning\"\n");
    bus.write("modules.d/irc.toml", "[bus]\nmay-publish = []\n");
    bus.write("modules.d/quiet.toml", "kind = \"logbook\"\n");
    let tool = bus.tool().await;
    let mut records = tool.subscribe("type=log.record").await.unwrap();
    let _quiet = Logbook::start(&bus, "quiet");
    ready(&bus, "quiet").await;
    let irc = bus.operator("irc").await;
    irc.publish_confirmed(document(&[("type", "x")], "")).await.unwrap_err();
    let said = record(&mut records, "denied").await;
    assert_eq!(
        (said.source.as_str(), said.header("operator"), said.header("level")),
        ("eeveed", Some("irc"), Some("4"))
    );
    assert!(said.cause.is_some(), "the message that was refused");
    // The logbook has logged "ready", and nobody had asked for that.
    bus.write("eeveed.toml", "");
    tool.control("reload-bus", "", "").await.unwrap();
    irc.publish_confirmed(document(&[("type", "x")], "")).await.unwrap_err();
    tokio::time::sleep(Duration::from_millis(300)).await;
    tool.publish_confirmed(document(&[("type", "log.record")], "the end")).await.unwrap();
    assert_eq!(message(&mut records).await.text(), Some("the end"));
}

#[tokio::test]
async fn why_an_operator_ends_is_a_record_too() {
    let bus = Bus::with(&[("modules.d/a.toml", &format!("{LOGS}[settings]\nno-such-key = 1\n"))]);
    let tool = bus.tool().await;
    let mut records = tool.subscribe("type=log.record,level<4").await.unwrap();
    let mut a = Logbook::start(&bus, "a");
    let said = record(&mut records, "no-such-key").await;
    assert_eq!((said.source.as_str(), said.header("level")), ("a", Some("3")));
    assert_eq!(a.0.wait().unwrap().code(), Some(78));
}
