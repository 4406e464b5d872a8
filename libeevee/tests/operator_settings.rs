//! What an operator is told before and beside its work, seen from outside: settings, reloads, tokens, refusals, the command
//! line.
#![allow(clippy::unwrap_used, reason = "a helper of a test that cannot go on fails the test")]

mod place;
mod support;

use std::os::unix::fs::MetadataExt;
use std::time::Duration;

use libeevee::wire::{Content, Refusal, Text};
use libeevee::{Code, OperatorState};
use nix::sys::signal::Signal;
use place::{CLOCK, Place, program, refusal, run};
use support::{module, said, soon, welcome};
use tokio::time::sleep;

#[tokio::test]
async fn a_reload_has_two_phases() {
    let place = Place::new();
    let bus = place.bus();
    let (operator, mut session) = place.ready(&bus, "clock", CLOCK).await;
    let question = libeevee::Document::new([("type", "clock.question")], "").unwrap();
    let number = session.subscriptions[0].0;
    let changed = |greeting: &str| module("clock", "clock", &CLOCK.replace("it is", greeting));

    for (text, why) in [
        ("kind = \"clock\"\n[settings]\ngreting = \"x\"\n", "--> /etc/eevee/modules.d/clock.toml:3:1"),
        ("[settings]\ngreeting = \"x\"\ntick-ms = 1\n", "clock.toml:3:11"),
        (&CLOCK.replace("it is", "impossible"), "it is impossible"),
    ] {
        session.send(7, Content::Reload(module("clock", "clock", text))).await;
        let (number, accepted, said) = session.verdict().await;
        assert!(number == 7 && !accepted && said.contains(why), "{said}");
    }
    session.send(8, Content::Reload(module("clock", "cuckoo", CLOCK))).await;
    let (_, accepted, said) = session.verdict().await;
    assert!(!accepted && said.contains("the kind changed from \"clock\" to \"cuckoo\""), "{said}");

    // Accepted and called off.
    session.send(9, Content::Reload(changed("no"))).await;
    assert!(session.verdict().await.1);
    session.send(9, Content::Abort(Text { text: "the bus refuses [bus]".into() })).await;
    session.deliver(number, 1001, &question).await;
    let (publish, answer) = session.published("clock.answer").await;
    assert_eq!(publish.cause, Some(1001));
    assert!(answer.text().unwrap().starts_with("it is "), "{answer:?}");

    // Accepted, and not in force before it is committed.
    session.send(10, Content::Reload(changed("now"))).await;
    assert_eq!(session.verdict().await, (10, true, String::new()));
    session.deliver(number, 1002, &question).await;
    assert!(session.published("clock.answer").await.1.text().unwrap().starts_with("it is "));
    session.send(10, Content::Commit).await;
    session.deliver(number, 1003, &question).await;
    assert!(session.published("clock.answer").await.1.text().unwrap().starts_with("now "));

    operator.signal(Signal::SIGTERM);
    drop(session);
    let (_, log) = operator.end().await;
    assert!(log.contains("INFO  clock: reloaded /etc/eevee/modules.d/clock.toml"), "{log}");
    assert!(log.contains("unknown key `greting`, did you mean `greeting`?"), "{log}");
}

#[tokio::test]
async fn a_wrong_configuration_exits_78() {
    for text in ["[settings]\ngreeting = 5\n", "[settings]\ntick-ms = 20\n", "settings\n"] {
        let place = Place::new();
        let bus = place.bus();
        let operator = place.start("clock");
        let session = bus.session(Content::Welcome(welcome("clock", "clock", Some(text)))).await;
        let (code, log) = operator.end().await;
        assert_eq!(code, Some(78), "{log}");
        assert!(log.contains("--> /etc/eevee/modules.d/clock.toml:"), "{log}");
        assert!(
            log.contains(&format!("ERROR clock: {} | {}", 1, text.lines().next().unwrap())) || log.contains("2 | ")
        );
        drop(session);
    }
    let place = Place::new();
    let bus = place.bus();
    let operator = place.start("clock");
    let _session = bus.session(refusal(Code::Refused, "clock.toml:2:1: unknown key\n --> 2 | x")).await;
    let (code, log) = operator.end().await;
    assert_eq!(code, Some(78), "{log}");
    assert!(log.contains("clock.toml:2:1"), "{log}");
}

#[tokio::test]
async fn the_last_words_go_to_standard_error_of_the_unit() {
    let place = Place::new();
    let log = std::fs::File::create(place.folder.path().join("stderr")).unwrap();
    let data = log.metadata().unwrap();
    let mut command = program("hello");
    command.env("CREDENTIALS_DIRECTORY", place.folder.path()).stderr(log);
    command.env("JOURNAL_STREAM", format!("{}:{}", data.dev(), data.ino()));
    std::fs::write(place.folder.path().join("bus-token"), "").unwrap();
    assert_eq!(soon("the end", command.status()).await.unwrap().code(), Some(75));
    let log = std::fs::read_to_string(place.folder.path().join("stderr")).unwrap();
    assert!(log.starts_with("<3>credential bus-token: the token is empty"), "{log}");
}

#[tokio::test]
async fn a_wrong_token_exits_75() {
    for damaged in ["", "eevee1.hello", "nonsense"] {
        let place = Place::new();
        let (code, log) = place.start_with_token("hello", damaged).end().await;
        assert_eq!(code, Some(75), "{log}");
        assert!(log.contains("credential bus-token"), "{log}");
    }
    let place = Place::new();
    let bus = place.bus();
    let operator = place.start("hello");
    let _session = bus.session(refusal(Code::Auth, "the token is not of this bus")).await;
    let (code, log) = operator.end().await;
    assert_eq!(code, Some(75), "{log}");
    assert!(log.contains("the token is not of this bus"), "{log}");
}

#[tokio::test]
async fn a_refused_publish_is_logged_with_its_rule() {
    let place = Place::new();
    let bus = place.bus();
    let (operator, mut session) = place.ready(&bus, "hello", "").await;
    session.confirm_publishes(false);
    session.deliver(session.subscriptions[0].0, 1001, &said("!hello")).await;
    let number =
        session.expect("Publish", |frame| matches!(frame.content, Content::Publish(_)).then_some(frame.number)).await;
    let denied = Refusal {
        code: Code::Denied as u16,
        text: "hello may not publish\nforged".into(),
        limit: None,
        value: None,
        rule: Some("type=weather.*".into()),
    };
    session.send(number, Content::Error(denied)).await;
    // Another attempt would be refused like this one.
    let (_, Content::Nack(nack)) = session.settled().await else { panic!("acknowledged") };
    assert!(nack.dead && nack.reason.contains("may not publish"), "{nack:?}");
    operator.signal(Signal::SIGTERM);
    drop(session);
    let (code, log) = operator.end().await;
    assert_eq!(code, Some(0), "{log}");
    let line = log.lines().find(|line| line.contains("may not publish")).expect(&log);
    assert!(line.contains(" WARN  hello: ") && line.contains("\\nforged"), "{line}");
    assert!(line.contains("code=denied") && line.contains("rule=\"type=weather.*\""), "{line}");
}

#[tokio::test]
async fn every_program_answers_on_its_command_line() {
    let folder = tempfile::tempdir().unwrap();
    let file = |text: &str| {
        let path = folder.path().join("clock.toml");
        std::fs::write(&path, text).unwrap();
        path.to_string_lossy().into_owned()
    };
    assert_eq!(run("clock", &["--check", &file(CLOCK)]).await, (Some(0), String::new(), String::new()));
    let (code, _, said) = run("clock", &["--check", &file("[settings]\ngreeting = it\n")]).await;
    assert_eq!(code, Some(78));
    assert!(said.contains("clock.toml:2:12\n") && said.contains("2 | greeting = it\n"), "{said}");
    assert_eq!(run("clock", &["--check", "/absent.toml"]).await.0, Some(78));
    assert_eq!(run("hello", &["--check", &file("[settings]\na = 1\n")]).await.0, Some(78));

    let (code, schema, _) = run("clock", &["--schema"]).await;
    let schema: serde_json::Value = serde_json::from_str(&schema).unwrap();
    assert_eq!((code, &schema["$defs"]["Clock"]["required"][0]), (Some(0), &"greeting".into()));
    let (code, version, _) = run("hello", &["--version"]).await;
    assert_eq!((code, version.starts_with("hello (libeevee ")), (Some(0), true), "{version}");
    let (code, help, _) = run("hello", &["--help"]).await;
    assert_eq!((code, help.starts_with("Usage: hello [--id ID]\n")), (Some(0), true), "{help}");

    for arguments in [&["--what"][..], &["--id", "*"], &["hello"], &[]] {
        let (code, out, said) = run("hello", arguments).await;
        assert_eq!((code, out.as_str(), said.is_empty()), (Some(2), "", false), "{arguments:?}: {said}");
    }
}

#[tokio::test]
async fn on_a_development_bus_an_id_is_enough() {
    let place = Place::new();
    let bus = place.bus();
    let mut child = program("hello").args(["--id", "greeter"]).env("EEVEE_BUS", place.socket()).spawn().unwrap();
    let mut session = bus.session(Content::Welcome(welcome("greeter", "hello", None))).await;
    assert_eq!(session.token, "");
    session.state(OperatorState::Ready).await;
    sleep(Duration::from_millis(10)).await;
    assert!(child.try_wait().unwrap().is_none());
}
