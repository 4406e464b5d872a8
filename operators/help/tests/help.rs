//! The help operator between a real eeveed, other operators and a person in a channel.
#![allow(clippy::unwrap_used, reason = "a helper of a test that cannot go on fails the test")]

#[path = "../../../tests/bus/bus.rs"]
#[allow(dead_code, reason = "the bus tests use the rest")]
mod bus;

use std::process::{Child, Command, Stdio};
use std::time::Duration;

use libeevee::operator::CommandInfo;
use libeevee::{Client, OperatorState, Subscription, chat};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::bus::{Bus, message};

/// Longer than anything takes that goes right, on a machine that is busy.
const PATIENCE: Duration = Duration::from_secs(30);

struct Help(Child);

impl Help {
    fn start(bus: &Bus) -> Self {
        let mut command = Command::new(env!("CARGO_BIN_EXE_help"));
        command.args(["--id", "help"]).env("EEVEE_BUS", bus.socket()).env_remove("JOURNAL_STREAM");
        Self(command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap())
    }
}

impl Drop for Help {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn write(bus: &Bus, settings: &str) {
    let example = include_str!("../../../etc/examples/help.toml");
    bus.write("modules.d/help.toml", &format!("{example}\n{settings}\n"));
}

async fn ready(bus: &Bus, tool: &Client) {
    let deadline = tokio::time::Instant::now() + PATIENCE;
    while bus.status(tool, "help").await["state"] != "ready" {
        assert!(tokio::time::Instant::now() < deadline, "help is not ready");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

async fn asks(irc: &Client, answers: &mut Subscription, text: &str) -> (String, String, String) {
    let recogniser = chat::Recogniser { prefix: "!".into(), ..Default::default() };
    let found = recogniser.find(text, "eevee");
    let event = chat::Event::new(chat::kind::MESSAGE, "irc", "test").channel("#here").user("goos");
    irc.publish_confirmed(event.command(found.as_ref()).document(text)).await.unwrap();
    let answer = tokio::time::timeout(PATIENCE, message(answers)).await.expect("no answer");
    let header = |key| answer.header(key).unwrap_or_default().to_owned();
    (header("type"), header("channel"), answer.text().unwrap().to_owned())
}

#[tokio::test]
async fn help_and_status_from_what_operators_announce() {
    let bus = Bus::start();
    write(&bus, "");
    let (tool, irc, dice) = (bus.tool().await, bus.operator("irc").await, bus.operator("dice").await);
    let mut answers = irc.subscribe("direction=out").await.unwrap();
    let mut told = tool.subscribe("type=operator.commands").await.unwrap();
    let info = CommandInfo { usage: "dice 2d6+1".into(), about: "rolls dice".into(), ..CommandInfo::new("dice") };
    dice.commands(CommandInfo::to_json(&[info])).unwrap();
    dice.state(OperatorState::Ready, "commands: dice").unwrap();
    let announced = tokio::time::timeout(PATIENCE, message(&mut told)).await.unwrap();
    assert_eq!((announced.header("operator"), announced.source.to_string()), (Some("dice"), "eeveed".to_owned()));

    let help = Help::start(&bus);
    ready(&bus, &tool).await;
    let aside = |text: &str| ("chat.notice".to_owned(), "goos".to_owned(), text.to_owned());
    let expected = aside("commands: dice, help, status; !help COMMAND says more");
    assert_eq!(asks(&irc, &mut answers, "!help").await, expected);
    assert_eq!(asks(&irc, &mut answers, "!help dice").await, aside("!dice 2d6+1: rolls dice"));
    let by_name = aside("eevee: help [COMMAND]: says what commands there are, or what one does");
    assert_eq!(asks(&irc, &mut answers, "eevee: help help").await, by_name);
    let (_, _, text) = asks(&irc, &mut answers, "!status").await;
    assert!(text.contains("dice up") && text.contains("help up"), "{text}");

    tool.control("halt", "dice", "").await.unwrap();
    assert_eq!(asks(&irc, &mut answers, "!status dice").await, aside("dice is halted"));
    tool.control("resume", "dice", "").await.unwrap();
    dice.close().await.unwrap();
    let (_, _, text) = asks(&irc, &mut answers, "!status").await;
    assert!(!text.contains("dice up"), "{text}");

    // In place: the same process answers elsewhere, and by more words.
    write(&bus, "answer = \"channel\"\ndetails = true");
    tool.control("reload", "help", "").await.unwrap();
    let (kind, channel, text) = asks(&irc, &mut answers, "!status help").await;
    assert_eq!((kind.as_str(), channel.as_str()), ("chat.message", "#here"));
    assert_eq!(text, "help is up: commands: help, status");

    // What is asked while it is stopped is answered after.
    kill(Pid::from_raw(i32::try_from(help.0.id()).unwrap()), Signal::SIGTERM).unwrap();
    drop(help);
    let again = async {
        tokio::time::sleep(Duration::from_millis(300)).await;
        Help::start(&bus)
    };
    let (answer, _help) = tokio::join!(asks(&irc, &mut answers, "!help status"), again);
    assert_eq!(answer.2, "!status [OPERATOR]: says which operators are up, halted or down");
}
