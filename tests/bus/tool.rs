//! eeveectl as a person calls it, against a real bus: what waits, what was given up, why, and what to do about it.

use std::io::Write;
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

use libeevee::{Client, Event, Nack, Overflow, Subscription};
use serde_json::Value;

use crate::bus::{Bus, SOON, document, event, message, program};

fn command(bus: &Bus, arguments: &[&str]) -> Command {
    let mut command = Command::new(program("eeveectl"));
    command.args(arguments).env("EEVEE_BUS", bus.socket()).env("EEVEE_CONFIG", bus.config()).stdin(Stdio::null());
    command
}

/// Runs it off the threads of the test, which a client of the test may need.
async fn run(bus: &Bus, arguments: &[&str]) -> Output {
    let mut command = command(bus, arguments);
    tokio::task::spawn_blocking(move || command.output().unwrap()).await.unwrap()
}

fn text(output: &Output) -> String {
    format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr))
}

/// Runs it, and shows what it said where it did not end so.
async fn ends(bus: &Bus, arguments: &[&str], exit: i32) -> String {
    let output = run(bus, arguments).await;
    assert_eq!(output.status.code(), Some(exit), "{arguments:?}: {}", text(&output));
    text(&output)
}

async fn json(bus: &Bus, arguments: &[&str]) -> Value {
    let output = run(bus, arguments).await;
    assert_eq!(output.status.code(), Some(0), "{arguments:?}: {}", text(&output));
    serde_json::from_slice(&output.stdout).unwrap_or_else(|error| panic!("{error}: {}", text(&output)))
}

fn has(text: &str, parts: &[&str]) {
    for part in parts {
        assert!(text.contains(part), "{part:?} is not in:\n{text}");
    }
}

/// Durable subscription `commands` of dice, which had 3 messages while nobody was there.
async fn three_wait(bus: &Bus) {
    let dice = bus.operator("dice").await;
    drop(commands(&dice).await);
    dice.close().await.unwrap();
    let publisher = bus.tool().await;
    for n in 1..=3 {
        let headers = [("type", "chat.message"), ("command", "dice"), ("channel", "#a")];
        let published = publisher.publish_confirmed(document(&headers, &format!("!dice {n}"))).await.unwrap();
        assert_eq!((published.live, published.durable), (0, 1));
    }
}

async fn commands(dice: &Client) -> Subscription {
    dice.subscribe("type=chat.message,command=dice").durable("commands").await.unwrap()
}

/// A program that goes on beside the test, and not beyond it.
struct Beside(Child);

impl Beside {
    fn start(command: &mut Command) -> Self {
        Self(command.spawn().unwrap())
    }

    /// How it ended by itself.
    async fn ended(mut self) -> Option<i32> {
        let deadline = Instant::now() + SOON;
        loop {
            if let Some(status) = self.0.try_wait().unwrap() {
                return status.code();
            }
            assert!(Instant::now() < deadline, "it did not end");
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }
}

impl Drop for Beside {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_waits_and_why() {
    let bus = Bus::with(&[("modules.d/irc.toml", "")]);
    has(&ends(&bus, &["queue"], 0).await, &["there is no durable subscription"]);
    has(&ends(&bus, &["queue", "nobody"], 1).await, &["no such operator"]);
    three_wait(&bus).await;

    let waits = ["commands", "nobody is attached", "3 messages wait, the oldest for ", "next: eeveectl status dice"];
    has(&ends(&bus, &["queue"], 0).await, &waits);
    let one = ends(&bus, &["queue", "dice"], 0).await;
    has(&one, &waits);
    has(&one, &["type=chat.message,command=dice", "100000 messages, 256 MiB; then the oldest become dead letters"]);
    let queues = json(&bus, &["queue", "--json"]).await;
    assert_eq!((&queues[0]["owner"], &queues[0]["messages"]), (&"dice".into(), &3.into()), "{queues}");
    assert_eq!(json(&bus, &["queue", "--json", "irc"]).await, Value::Array(Vec::new()));
    has(&ends(&bus, &["queue", "irc"], 0).await, &["irc has no durable subscription"]);

    // "Why did it not reply?"
    has(&ends(&bus, &["status", "dice"], 0).await, &["durable: commands: ", "3 messages wait", "nobody is attached"]);
    has(&ends(&bus, &["status"], 0).await, &["dice commands: 3 messages wait"]);
    let status = json(&bus, &["status", "--json", "dice"]).await;
    assert_eq!((&status[0]["durable"][0]["messages"], &status[0]["queue_messages"]), (&3.into(), &0.into()));

    let dice = bus.operator("dice").await;
    bus.tool().await.control("halt", "dice", "").await.unwrap();
    let mut commands = commands(&dice).await;
    has(&ends(&bus, &["queue", "dice"], 0).await, &["halted", "it is halted", "next: eeveectl resume dice"]);
    bus.tool().await.control("resume", "dice", "").await.unwrap();
    for _ in 0..3 {
        let message = message(&mut commands).await;
        commands.ack(&message).unwrap();
    }
    dice.ping().await.unwrap();
    assert_eq!(json(&bus, &["queue", "--json"]).await[0]["messages"], 0);
    let quiet = ends(&bus, &["queue"], 0).await;
    assert_eq!(quiet.lines().count(), 2, "nothing is wrong, so nothing more is said: {quiet}");
}

#[tokio::test(flavor = "multi_thread")]
async fn dead_letters_are_shown_retried_and_dropped() {
    let bus = Bus::start();
    has(&ends(&bus, &["dead", "list"], 0).await, &["there are no dead letters"]);
    three_wait(&bus).await;
    let dice = bus.operator("dice").await;
    let mut commands = commands(&dice).await;
    let mut told = 0;
    while told < 3 {
        match event(&mut commands).await {
            Event::Message(message) => commands.nack(&message, Nack::dead("no die has \u{202e}0 sides")).unwrap(),
            Event::Gap(gap) => told += gap.count.unwrap(),
        }
    }

    let list = ends(&bus, &["dead", "list"], 0).await;
    has(&list, &["dice commands", "user/", r"no die has \u{202e}0 sides", "command=dice", "next: eeveectl dead show "]);
    let why = "commands: 3 dead letters: 3 were given up, the last one: \"no die has ";
    has(&ends(&bus, &["queue"], 0).await, &[why, "next: eeveectl dead list dice --name commands"]);
    has(&ends(&bus, &["status", "dice"], 0).await, &[why, "dead letter: "]);
    let output = run(&bus, &["dead", "list", "--json"]).await;
    assert!(output.stdout.iter().all(|byte| *byte == b'\n' || (b' '..=b'~').contains(byte)), "{}", text(&output));
    let dead: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(
        (&dead["total"], &dead["more"], &dead["dead"][0]["reason"]),
        (&3.into(), &false.into(), &"dead-letter".into())
    );
    let entries: Vec<u64> = dead["dead"].as_array().unwrap().iter().map(|one| one["entry"].as_u64().unwrap()).collect();
    assert!(entries.is_sorted() && entries.len() == 3, "{entries:?}");
    for (arguments, want) in [
        (&["dice", "--name", "commands", "--limit", "2"][..], &entries[1..]),
        (&["--limit", "1"], &entries[2..]),
        (&["irc"], &[]),
        (&["dice", "--name", "other"], &[]),
    ] {
        let some = json(&bus, &[&["dead", "list", "--json"], arguments].concat()).await;
        let got: Vec<u64> = some["dead"].as_array().unwrap().iter().map(|one| one["entry"].as_u64().unwrap()).collect();
        assert_eq!(got, want, "{arguments:?}: {some}");
    }
    has(&ends(&bus, &["dead", "list", "--limit", "1"], 0).await, &["2 older ones are not shown: --limit 3"]);

    let [first, second, third] = [entries[0], entries[1], entries[2]].map(|entry| entry.to_string());
    has(
        &ends(&bus, &["dead", "show", &first], 0).await,
        &["body: !dice 1", "header: channel=#a", "tries: 1", "from: user/"],
    );
    let shown = json(&bus, &["dead", "show", "--json", &first]).await;
    assert_eq!((&shown["entry"], &shown["message"]["body"]), (&entries[0].into(), &"!dice 1".into()), "{shown}");
    ends(&bus, &["dead", "show", "999999"], 1).await;

    // One needs no question; it comes as if it were new.
    has(&ends(&bus, &["dead", "retry", &first], 0).await, &["1 dead letter waiting again"]);
    let again = message(&mut commands).await;
    assert_eq!((again.text(), again.delivery.attempt), (Some("!dice 1"), 1));
    commands.ack(&again).unwrap();
    has(&ends(&bus, &["dead", "retry", &first], 1).await, &["there is no dead letter"]);

    // Several do, and nobody can be asked here.
    for arguments in [&[second.as_str(), &third][..], &["--from", "dice"], &["--all"]] {
        let refused = ends(&bus, &[&["dead", "drop"], arguments].concat(), 2).await;
        has(&refused, &["delete 2 dead letters", "for good?", "say --yes"]);
    }
    assert_eq!(json(&bus, &["dead", "list", "--json"]).await["total"], 2);
    let dropped = json(&bus, &["dead", "drop", "--json", &second, &second]).await;
    assert_eq!(dropped["dropped"], 1);
    let retried = json(&bus, &["dead", "retry", "--json", "--yes", "--from", "dice", "--name", "commands"]).await;
    assert_eq!(retried["retried"], 1);
    assert_eq!(message(&mut commands).await.text(), Some("!dice 3"));
    has(&ends(&bus, &["dead", "drop", "--all", "--yes"], 0).await, &["0 dead letters deleted"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn forget_asks_and_says_how_much_goes() {
    let bus = Bus::start();
    three_wait(&bus).await;
    let dice = bus.operator("dice").await;
    let attached = commands(&dice).await;
    let forget = ["forget", "dice", "commands"];
    has(&ends(&bus, &forget, 1).await, &["somebody is attached", "eeveectl stop dice"]);
    drop(attached);
    dice.close().await.unwrap();
    has(&ends(&bus, &["forget", "dice", "comands"], 1).await, &["it has commands"]);
    has(&ends(&bus, &forget, 2).await, &["3 messages wait", "for good", "say --yes"]);
    for (answer, exit, said) in
        [("\n", 1, "nothing was done"), ("n\n", 1, "nothing was done"), ("y\n", 0, "forgot commands")]
    {
        let (code, shown) = on_a_terminal(&bus, &forget, answer).await;
        assert_eq!(code, Some(exit), "{answer:?}: {shown}");
        has(&shown, &["forget commands of dice, and what waits in it for good (3 messages wait", "[y/N]", said]);
    }
    has(&ends(&bus, &["forget", "--yes", "dice", "commands"], 1).await, &["nor any other"]);

    three_wait(&bus).await;
    let gone = json(&bus, &["forget", "--yes", "--json", "dice", "commands"]).await;
    assert_eq!((&gone["messages"], &gone["dead"]), (&3.into(), &0.into()));
}

/// Gives one answer on a terminal of its own.
async fn on_a_terminal(bus: &Bus, arguments: &[&str], answer: &str) -> (Option<i32>, String) {
    let line = format!("{} {}", program("eeveectl").display(), arguments.join(" "));
    let mut script = Command::new("script");
    script.args(["--quiet", "--return", "--command", &line, "/dev/null"]);
    script.env("EEVEE_BUS", bus.socket()).env("EEVEE_CONFIG", bus.config());
    script.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = script.spawn().unwrap();
    child.stdin.as_mut().unwrap().write_all(answer.as_bytes()).unwrap();
    let output = tokio::task::spawn_blocking(move || child.wait_with_output().unwrap()).await.unwrap();
    (output.status.code(), text(&output))
}

#[tokio::test(flavor = "multi_thread")]
async fn a_person_collects_and_goes_on_tomorrow() {
    let bus = Bus::start();
    let tool = bus.tool().await;
    let me = tool.welcome().identity.clone();
    let irc = bus.operator("irc").await;
    let publish = async |n: usize| {
        irc.publish_confirmed(document(&[("type", "order")], &n.to_string())).await.unwrap();
    };
    let refused = ends(&bus, &["subscribe", "--durable", "orders"], 1).await;
    has(&refused, &["there is no durable subscription orders yet"]);

    let seen = bus.config().join("seen");
    let file = std::fs::File::create(&seen).unwrap();
    let mut first = command(&bus, &["subscribe", "--durable", "orders", "--json", "--count", "2", "type=order"]);
    let first = Beside::start(first.stdout(file.try_clone().unwrap()).stderr(file));
    attached(&bus, &me).await;
    let refused = ends(&bus, &["subscribe", "--durable", "orders"], 1).await;
    has(&refused, &["has a session already", "one at a time"]);
    for n in 0..5 {
        publish(n).await;
    }
    assert_eq!(first.ended().await, Some(0));
    let seen = std::fs::read_to_string(&seen).unwrap();
    has(&seen, &["\"body\":\"0\"", "\"body\":\"1\"", "eeveectl forget"]);
    assert!(!seen.contains("\"body\":\"2\""), "{seen}");
    assert_eq!(json(&bus, &["queue", "--json", &me]).await[0]["messages"], 3, "two were shown, three wait");

    // Who reads has gone, or its disk is full: the message stays.
    let mut gone = Beside::start(command(&bus, &["subscribe", "--durable", "orders"]).stdout(Stdio::piped()));
    drop(gone.0.stdout.take());
    assert_eq!(gone.ended().await, Some(0));
    let full = std::fs::OpenOptions::new().write(true).open("/dev/full").unwrap();
    let full = Beside::start(command(&bus, &["subscribe", "--durable", "orders"]).stdout(full));
    assert_eq!(full.ended().await, Some(1));
    assert_eq!(json(&bus, &["queue", "--json", &me]).await[0]["messages"], 3);

    // It goes on with the filters it has, where it stopped, and marks what may have been seen.
    let rest = ends(&bus, &["subscribe", "--durable", "orders", "--json", "--count", "3"], 0).await;
    has(&rest, &["\"body\":\"2\"", "\"body\":\"3\"", "\"body\":\"4\"", "(3 messages wait, the oldest"]);

    // An interruption takes nothing with it.
    let mut idle = Beside::start(command(&bus, &["subscribe", "--durable", "orders"]).stdout(Stdio::null()));
    attached(&bus, &me).await;
    let pid = nix::unistd::Pid::from_raw(idle.0.id().try_into().unwrap());
    nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGINT).unwrap();
    idle.0.wait().unwrap();
    publish(5).await;
    let seen = ends(&bus, &["subscribe", "--durable", "orders", "--count", "1"], 0).await;
    has(&seen, &["type=order | 5"]);
    assert_eq!(json(&bus, &["forget", "--yes", "--json", &me, "orders"]).await["messages"], 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_store_that_is_full_is_told_before_anybody_is_refused() {
    let limits = "[limits]\nstore-bytes = \"1 MiB\"\nstore-bytes-per-owner = \"1 MiB\"\n";
    let bus = Bus::configured(limits);
    let dice = bus.operator("dice").await;
    let mail = dice.subscribe("type=mail").durable("mail").overflow(Overflow::Reject);
    drop(mail.await.unwrap());
    let big = "x".repeat(240 << 10);
    for _ in 0..4 {
        dice.publish_confirmed(document(&[("type", "mail")], &big)).await.unwrap();
    }
    let full = "the store is full, or nearly so (961 KiB of 1.0 MiB wait in all durable subscriptions)";
    has(&ends(&bus, &["queue"], 0).await, &[full, "store-bytes in eeveed.toml(5)"]);
    has(&ends(&bus, &["status"], 0).await, &[full]);
    let refused = ends(&bus, &["publish", "type=mail", "--body", &big[..100 << 10]], 1).await;
    has(&refused, &["at most 1048576 are possible"]);
}

/// Waits until there are so many dead letters.
async fn settled(bus: &Bus, count: u64) {
    let deadline = Instant::now() + SOON;
    while json(bus, &["dead", "list", "--json"]).await["total"] != count {
        assert!(Instant::now() < deadline, "not so many dead letters: {count}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

/// Waits until somebody is attached to a subscription of this person.
async fn attached(bus: &Bus, me: &str) {
    let deadline = Instant::now() + SOON;
    while json(bus, &["queue", "--json", me]).await[0]["connected"] != true {
        assert!(Instant::now() < deadline, "nobody attached");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn who_publishes_is_told_what_is_on_disk_and_what_is_full() {
    let bus = Bus::start();
    let dice = bus.operator("dice").await;
    let subscribe = dice.subscribe("type=x").durable("few").queue(2, 0).overflow(Overflow::Reject);
    drop(subscribe.await.unwrap());
    let old = dice.subscribe("type=y").durable("old").max_age(Duration::from_millis(50));
    drop(old.await.unwrap());
    dice.close().await.unwrap();
    for _ in 0..2 {
        let said = ends(&bus, &["publish", "type=x", "--body", "1", "--confirm"], 0).await;
        has(&said, &[": published; 1 subscription matched (live 0, durable 1)"]);
    }
    let said = ends(&bus, &["publish", "type=x", "--body", "1"], 1).await;
    has(&said, &["error: ", "few"]);
    let queue = ends(&bus, &["queue", "dice"], 0).await;
    has(&queue, &["few: full, or nearly so (2 of 2 messages): when it is, publishers are refused with the error full"]);

    ends(&bus, &["publish", "type=y", "--body", "late"], 0).await;
    tokio::time::sleep(Duration::from_millis(60)).await;
    // While nobody is attached the bus looks only now and then; who comes back is told at once.
    let dice = bus.operator("dice").await;
    let mut old = dice.subscribe("type=y").durable("old").max_age(Duration::from_millis(50)).await.unwrap();
    assert!(matches!(event(&mut old).await, Event::Gap(_)));
    settled(&bus, 1).await;
    let why = "old: 1 dead letter: 1 waited longer than 50 ms";
    has(&ends(&bus, &["queue"], 0).await, &[why]);
    has(&ends(&bus, &["status", "dice"], 0).await, &[why]);
    has(&ends(&bus, &["dead", "list", "dice", "--name", "old"], 0).await, &["expired"]);
}
