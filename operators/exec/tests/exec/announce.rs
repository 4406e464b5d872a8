//! What people are told of a program's commands: announced when it is ready, kept by the bus, told again to a bus that
//! forgot, and anew after a reload.

use libeevee::operator::CommandInfo;
use nix::sys::signal::Signal;

use crate::bus::message;
use crate::place::{PATIENCE, Place};

const SETTINGS: &str =
    "run = \"/bin/true\"\ncommand = [\"greet\", \"hail\"]\nusage = \"greet [NAME]\"\nabout = \"greets\"\n";

fn info(name: &str, usage: &str, about: &str) -> CommandInfo {
    CommandInfo { usage: usage.into(), about: about.into(), ..CommandInfo::new(name) }
}

impl Place {
    async fn announces(&self, expected: &[CommandInfo]) {
        let deadline = std::time::Instant::now() + PATIENCE;
        loop {
            let status = self.status().await;
            let said = CommandInfo::from_json(&status["commands"].to_string());
            if said == expected && status["connected"] == true {
                return;
            }
            assert!(std::time::Instant::now() < deadline, "not announced: {status:#}");
            tokio::time::sleep(std::time::Duration::from_millis(20)).await;
        }
    }
}

#[tokio::test]
async fn commands_are_announced_and_again_to_a_bus_that_forgot() {
    let mut place = Place::without(SETTINGS, &[]).await;
    let mut told = place.tool.subscribe("type=operator.commands").await.unwrap();
    place.start();
    place.is("ready").await;
    let words = [info("greet", "greet [NAME]", "greets"), info("hail", "greet [NAME]", "greets")];
    let announced = tokio::time::timeout(PATIENCE, message(&mut told)).await.unwrap();
    assert_eq!((announced.source.as_str(), announced.header("operator")), ("eeveed", Some("test")));
    assert_eq!(CommandInfo::from_json(announced.text().unwrap()), words);
    place.announces(&words).await;

    // A crash, and then an end in good order: the bus begins with nothing.
    for signal in [Signal::SIGKILL, Signal::SIGTERM] {
        place.bus.restart(signal);
        place.tool = place.bus.tool().await;
        place.announces(&words).await;
    }
    let mut told = place.tool.subscribe("type=operator.commands").await.unwrap();
    // In place, by a reload; the same words twice are no news.
    place.control("reload").await.unwrap();
    place.settings(&SETTINGS.replace("\"greets\"", "\"says hello\"").replace("[\"greet\", \"hail\"]", "\"greet\""));
    place.control("reload").await.unwrap();
    let changed = [info("greet", "greet [NAME]", "says hello")];
    let announced = tokio::time::timeout(PATIENCE, message(&mut told)).await.unwrap();
    assert_eq!(CommandInfo::from_json(announced.text().unwrap()), changed);
    // None is an answer, too.
    place.settings("run = \"/bin/true\"\nsubscribe = \"type=x\"\n");
    place.control("reload").await.unwrap();
    place.announces(&[]).await;
    // A refused reload announces nothing.
    place.settings(&SETTINGS.replace("/bin/true", "/bin/absent"));
    place.control("reload").await.unwrap_err();
    place.announces(&[]).await;
}

#[tokio::test]
async fn a_command_without_words_is_its_name_and_a_stopped_operator_is_remembered() {
    let settings =
        "run = [\"/bin/sh\", \"-c\", \"while read -r line; do :; done\"]\nmode = \"stream\"\ncommand = \"do\"\n";
    let mut place = Place::new(settings, &[]).await;
    place.announces(&[CommandInfo::new("do")]).await;
    place.stop().await;
    let status = place.status().await;
    assert_eq!((&status["connected"], &status["commands"][0]["name"]), (&false.into(), &"do".into()));
    place.start();
    place.announces(&[CommandInfo::new("do")]).await;
}
