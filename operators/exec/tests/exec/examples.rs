//! The examples that are shipped, each with the settings in its first comment.

use std::time::Duration;

use nix::sys::signal::Signal;

use crate::place::{EXAMPLES, Place, said};

/// The `[settings]` in the first comment of an example, to be run from its folder.
pub(crate) fn settings(example: &str) -> String {
    let text = std::fs::read_to_string(format!("{EXAMPLES}/{example}")).unwrap();
    let lines = text.lines().map(|line| line.trim_start_matches(['#', '/', ' ']));
    let inside: Vec<&str> = lines
        .skip_while(|line| *line != "[settings]")
        .skip(1)
        .take_while(|line| line.contains([' ', '[']) && (line.contains(" = ") || line.starts_with('[')))
        .collect();
    assert!(inside.len() > 2, "no settings in {example}");
    inside
        .join("\n")
        .replace("/usr/local/lib/eevee", "EXAMPLES")
        // Wherever this machine has them.
        .replace("\"/usr/bin/python3\"", "\"/usr/bin/env\", \"python3\"")
        .replace("\"/usr/bin/node\"", "\"/usr/bin/env\", \"node\"")
}

#[tokio::test]
async fn hello_is_two_lines_of_shell_and_four_of_settings() {
    let mut place = Place::new("run = \"EXAMPLES/hello.sh\"\ncommand = \"hello\"", &[]).await;
    place.asks("!hello", "hello, goos").await;
    place.asks("eevee: hello world", "hello, goos").await;
    let text = std::fs::read_to_string(format!("{EXAMPLES}/hello.sh")).unwrap();
    assert_eq!(text.lines().count(), 2);
}

#[tokio::test]
async fn five_lines_of_python() {
    let mut place = Place::new(
        "run = [\"/usr/bin/env\", \"python3\", \"EXAMPLES/five-lines.py\"]\nmode = \"stream\"\ncommand = \"hello\"",
        &[],
    )
    .await;
    for _ in 0..3 {
        place.asks("!hello", "hello").await;
    }
    place.control("halt").await.unwrap();
    place.is("halted").await;
    place.control("resume").await.unwrap();
    place.asks("!hello", "hello").await;
    let (status, took) = place.stop().await;
    assert_eq!(status, Some(0));
    assert!(took < Duration::from_secs(3), "the end of its input is enough: {took:?}");
}

#[tokio::test]
async fn echo_in_python_with_state_and_settings_of_its_own() {
    let settings = settings("echo.py");
    let mut place = Place::new(&settings, &[]).await;
    place.asks("!echo grüße, world", "grüße, world (1)").await;
    place.asks("!echo again", "again (2)").await;
    let program = place.processes("examples/echo.py");

    // Refused by the program, with its words; nothing changes.
    place.settings(&settings.replace("upper-case = false", "upper-case = \"yes\""));
    let refused = place.control("reload").await.unwrap_err().to_string();
    assert!(refused.contains("upper-case is true or false, not 'yes'"), "{refused}");
    place.asks("!echo still", "still (3)").await;
    // Accepted, in place.
    place.settings(&settings.replace("upper-case = false", "upper-case = true"));
    place.control("reload").await.unwrap();
    place.asks("!echo loud", "LOUD (4)").await;
    assert!(place.processes("examples/echo.py").contains(&program[0]), "the same process");

    place.settled().await;
    // Halted, commands wait; killed, they wait; the count goes on.
    place.control("halt").await.unwrap();
    place.is("halted").await;
    place.say("!echo waited").await;
    assert!(place.is_silent(Duration::from_millis(300)).await);
    place.signal(Signal::SIGKILL);
    place.ended().await;
    place.start();
    place.is("halted").await;
    place.control("resume").await.unwrap();
    place.answers("WAITED (5)").await;
    let (status, _) = place.stop().await;
    assert_eq!(status, Some(0));
    place.say("!echo while it was stopped").await;
    place.start();
    place.answers("WHILE IT WAS STOPPED (6)").await;
    assert!(place.dead().await.contains("\"dead\":[]"), "{}", place.dead().await);
}

#[tokio::test]
async fn reminder_in_node_publishes_by_itself() {
    let mut place = Place::new(&settings("reminder.js"), &[]).await;
    place.asks("!remind 3s tea", "goos: in 3 s").await;
    place.says("1 reminders").await;
    place.answers("goos: tea").await;
    place.says("0 reminders").await;
    place.asks("!remind whenever", "remind 10m tea: a number of s, m, h or d (at most 30 days), and what of").await;

    // What it has to say outlives it.
    place.asks("!remind 2s bread", "goos: in 2 s").await;
    place.settled().await;
    place.signal(Signal::SIGKILL);
    place.ended().await;
    tokio::time::sleep(Duration::from_secs(2)).await;
    place.start();
    place.answers("goos: bread").await;
    assert!(place.is_silent(Duration::from_millis(300)).await);
}

#[tokio::test]
async fn moderator_in_shell_misses_nothing() {
    let mut place = Place::new(&settings("moderator.sh"), &[]).await;
    place.say("buy spam now").await;
    place.answers("goos: please do not say \"spam\" here (warning 1)").await;
    place.say("spammer is another word").await;
    place.stop().await;
    // While it is stopped, and by who tries to be a pattern.
    place.say("Casino!").await;
    place.say("the CASINO here").await;
    place.irc.publish_confirmed(said("-e.*", "spam")).await.unwrap();
    let mut bot = said("robot", "spam");
    bot.headers.set("bot", "1").unwrap();
    place.irc.publish_confirmed(bot).await.unwrap();
    place.start();
    place.answers("goos: please do not say \"casino\" here (warning 2)").await;
    place.answers("-e.*: please do not say \"spam\" here (warning 1)").await;
    assert!(place.is_silent(Duration::from_millis(500)).await);
    let cases = std::fs::read_to_string(place.path("state/cases")).unwrap();
    assert_eq!(cases.lines().count(), 3, "{cases}");
    place.settled().await;
}
