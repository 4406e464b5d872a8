//! Halt, resume, reload, stop, readiness, watchdog, durable delivery: as for any other operator.

use std::time::Duration;

use nix::sys::signal::Signal;

use crate::bus::document;
use crate::place::Place;

/// Answers with its process id and what it was told; says what it hears beside messages in its log.
const PROGRAM: &str = r#"#!/usr/bin/env python3
import json, os, sys
def say(**line): print(json.dumps(line), flush=True)
note = "none"
for line in sys.stdin:
    got = json.loads(line)
    if "settings" in got:
        note = got["settings"].get("note", "none")
        say(ready=True)
    elif "control" in got:
        say(log="told " + got["control"])
        if got["control"] == "stop":
            say(publish={"headers": {"type": "bye", "direction": "out"}, "body": "bye"})
    elif "gap" in got:
        say(log="gap of %s" % got["gap"]["count"])
    elif "ping" in got:
        say(pong=got["ping"])
    elif "id" in got:
        text = got["body"].split(" ", 1)[-1]
        if text == "crash": os._exit(9)
        if text == "refuse" and "attempt" not in got: say(nack=got["id"], reason="not now")
        elif text == "keep": say(log="kept %s" % got.get("attempt", 1))
        else:
            say(reply=got["id"], body="%s %s %s %s" % (text, note, os.getpid(), got.get("attempt", 1)))
            say(ack=got["id"])
"#;

const STREAM: &str = "run = \"DIR/program\"\nmode = \"stream\"\ncommand = \"do\"\n";

async fn place(more: &str) -> Place {
    Place::new(&format!("{STREAM}{more}"), &[("program", PROGRAM)]).await
}

impl Place {
    /// Asks the program; what it says in words, without the process id, which is the second result.
    async fn talk(&mut self, text: &str) -> (String, String) {
        self.say(&format!("!do {text}")).await;
        self.heard().await
    }

    async fn heard(&mut self) -> (String, String) {
        let answer = self.answer().await;
        let words: Vec<&str> = answer.text().unwrap().split(' ').collect();
        let [said, note, pid, attempt] = words[..] else { panic!("{words:?}") };
        (format!("{said} {note} {attempt}"), pid.to_owned())
    }
}

#[tokio::test]
async fn it_is_halted_resumed_and_stopped() {
    let mut place = place("").await;
    let (said, pid) = place.talk("one").await;
    assert_eq!(said, "one none 1");
    place.control("halt").await.unwrap();
    place.is("halted").await;
    place.logs("told halt").await;
    place.say("!do two").await;
    assert!(place.is_silent(Duration::from_millis(400)).await);
    place.control("resume").await.unwrap();
    assert_eq!(place.heard().await, ("two none 1".to_owned(), pid.clone()));
    place.logs("told resume").await;
    place.signal(Signal::SIGTSTP);
    place.is("halted").await;
    place.signal(Signal::SIGCONT);
    place.is("ready").await;
    assert_eq!(place.talk("three").await, ("three none 1".to_owned(), pid));
    let (status, took) = place.stop().await;
    assert_eq!(status, Some(0));
    assert!(took < Duration::from_secs(4), "{took:?}");
    assert_eq!(place.answer().await.text(), Some("bye"), "what it says last is said");
    assert!(place.log().contains("told stop"), "{}", place.log());
}

#[tokio::test]
async fn a_halt_outlives_a_restart_and_the_program_is_told() {
    let mut place = place("durable = true\n").await;
    place.control("halt").await.unwrap();
    place.is("halted").await;
    place.stop().await;
    assert_eq!(place.answer().await.text(), Some("bye"));
    std::fs::write(place.path("log"), "").unwrap();
    place.start();
    place.is("halted").await;
    place.logs("told halt").await;
    place.say("!do it").await;
    assert!(place.is_silent(Duration::from_millis(400)).await);
    place.control("resume").await.unwrap();
    assert_eq!(place.heard().await.0, "it none 1");
}

#[tokio::test]
async fn a_reload_changes_in_place_what_can_be_and_else_the_program() {
    let mut place = place("").await;
    let (_, pid) = place.talk("one").await;
    // Unchanged, nothing happens.
    place.control("reload").await.unwrap();
    assert_eq!(place.talk("two").await, ("two none 1".to_owned(), pid.clone()));
    place.settings(&format!("{STREAM}[program]\nnote = \"x\"\n"));
    let refused = place.control("reload").await.unwrap_err().to_string();
    assert!(refused.contains("test.toml:6:"), "{refused}");
    place.settings(&format!("{STREAM}[settings.program]\nnote = \"new\"\n"));
    place.control("reload").await.unwrap();
    place.logs("told stop").await;
    assert_eq!(place.answer().await.text(), Some("bye"));
    let (said, second) = place.talk("three").await;
    assert_eq!(said, "three new 1");
    assert_ne!(second, pid);
    let (status, _) = place.stop().await;
    assert_eq!(status, Some(0));
}

#[tokio::test]
async fn a_reload_is_refused_where_it_cannot_be_done() {
    let mut place = place("").await;
    for (settings, why) in [
        (STREAM.replace("program", "absent"), "is not there"),
        (STREAM.replace("stream", "command"), "the mode cannot change while it runs"),
        (format!("{STREAM}pings = 5\n"), "test.toml:6:9"),
    ] {
        place.settings(&settings);
        let refused = place.control("reload").await.unwrap_err().to_string();
        assert!(refused.contains(why), "{refused}");
    }
    assert_eq!(place.talk("one").await.0, "one none 1");
}

#[tokio::test]
async fn a_program_that_does_not_answer_settings_refuses_them() {
    let script = PROGRAM
        .replace("note = got", "first = note == \"none\"; note = got")
        .replace("say(ready=True)", "first and say(ready=True)");
    let settings = format!("{STREAM}answers-reload = true\n[settings.program]\nnote = \"a\"\n");
    let mut place = Place::new(&settings, &[("program", &script)]).await;
    let (said, pid) = place.talk("one").await;
    assert_eq!(said, "one a 1");
    place.settings(&settings.replace("\"a\"", "\"b\""));
    let refused = place.control("reload").await.unwrap_err().to_string();
    assert!(refused.contains("neither accepted nor refused the new settings within 5 s"), "{refused}");
    assert_eq!(place.talk("two").await.1, pid);
}

#[tokio::test]
async fn the_commands_change_without_a_new_program_that_answers_reloads() {
    let script = PROGRAM.replace("say(ready=True)", "say(accept=True) if note == \"go\" else say(ready=True)");
    let settings = format!("{STREAM}answers-reload = true\n[settings.program]\nnote = \"start\"\n");
    let mut place = Place::new(&settings, &[("program", &script)]).await;
    let (_, pid) = place.talk("one").await;
    place.settings(&settings.replace("\"start\"", "\"go\"").replace("\"do\"", "[\"make\", \"do\"]"));
    place.control("reload").await.unwrap();
    place.logs("new settings are in force").await;
    place.say("!make two").await;
    assert_eq!(place.heard().await, ("two go 1".to_owned(), pid));
}

#[tokio::test]
async fn ready_only_when_the_program_says_so_and_the_watchdog_goes_on() {
    let slow = PROGRAM.replace("say(ready=True)", "import time; time.sleep(1.2); say(ready=True)");
    let mut place = Place::without(&format!("{STREAM}expect-ready = true\n"), &[("program", &slow)]).await;
    let socket = place.path("notify");
    let systemd = std::os::unix::net::UnixDatagram::bind(&socket).unwrap();
    systemd.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
    let began = std::time::Instant::now();
    let second = std::path::Path::new("1000000");
    place.start_with(&[("NOTIFY_SOCKET", &socket), ("WATCHDOG_USEC", second)]);
    let (said, ready_after, beats) = tokio::task::spawn_blocking(move || {
        let (mut said, mut ready_after, mut beats) = (String::new(), None, 0);
        let mut buffer = [0; 4096];
        while beats < 6 || ready_after.is_none() {
            let length = systemd.recv(&mut buffer).unwrap();
            let text = std::str::from_utf8(&buffer[..length]).unwrap();
            said.push_str(text);
            said.push('\n');
            if text.contains("READY=1") {
                ready_after = Some(began.elapsed());
            }
            beats += u32::from(text.contains("WATCHDOG=1"));
        }
        (said, ready_after, beats)
    })
    .await
    .unwrap();
    assert!(beats >= 6, "{said}");
    assert!(ready_after.unwrap() >= Duration::from_millis(1200), "{said}");
    assert_eq!(place.talk("one").await.0, "one none 1");
}

#[tokio::test]
async fn a_program_that_is_never_ready_fails_the_start() {
    for (script, timeout, why) in [
        ("#!/bin/sh\nexit 4\n", "20 s", "the program ended before it was ready: exit status 4"),
        ("#!/bin/sh\nwhile read -r line; do :; done\n", "500 ms", "it was not ready within 500ms"),
    ] {
        let settings = format!("{STREAM}expect-ready = true\ntimeout = \"{timeout}\"\n");
        let mut place = Place::without(&settings, &[("program", script)]).await;
        place.start();
        assert_eq!(place.ended().await, Some(1));
        assert!(place.log().contains(why), "{}", place.log());
    }
}

#[tokio::test]
async fn what_is_not_acknowledged_comes_again() {
    let mut place = place("durable = true\nparallel = 1\n").await;
    assert_eq!(place.talk("one").await.0, "one none 1");
    // Given back by the program.
    place.say("!do refuse").await;
    assert_eq!(place.heard().await.0, "refuse none 2");
    // Lost by a program that dies with it, and by an operator that is killed.
    place.say("!do keep").await;
    place.logs("kept 1").await;
    place.say("!do two").await;
    assert!(place.is_silent(Duration::from_millis(400)).await, "one after the other");
    place.signal(Signal::SIGKILL);
    place.ended().await;
    place.start();
    place.logs("kept 2").await;
    place.settings(&format!("{STREAM}durable = true\nparallel = 2\n"));
    place.control("reload").await.unwrap();
    place.logs("kept 3").await;
    assert_eq!(place.answer().await.text(), Some("bye"));
    assert_eq!(place.heard().await.0, "two none 1");
}

#[tokio::test]
async fn what_is_kept_for_too_long_comes_again() {
    let mut place = place("durable = true\nparallel = 1\nacknowledge-within = \"1 s\"\n").await;
    let id = place.say("!do keep").await;
    place.logs("kept 1").await;
    place.say("!do two").await;
    place.logs(&format!("message {id} comes again: the program did not acknowledge it within 1s")).await;
    // While that one waits for its next attempt, the other has its turn.
    assert_eq!(place.heard().await.0, "two none 1");
    place.logs("kept 2").await;
    place.is("ready").await;
    place.control("halt").await.unwrap();
    place.is("halted").await;
}

/// `{"accept":true}` is what some programs say to every settings, also to the first.
#[tokio::test]
async fn an_answer_that_nobody_asked_for_is_none_and_a_late_one_is_undone() {
    let script = PROGRAM
        .replace("say(ready=True)", "__import__(\"time\").sleep(got[\"settings\"].get(\"slow\", 0)); say(accept=True)");
    let settings = format!("{STREAM}answers-reload = true\n[settings.program]\nnote = \"a\"\n");
    let mut place = Place::new(&settings, &[("program", &script)]).await;
    let (said, pid) = place.talk("one").await;
    assert_eq!(said, "one a 1");
    place.settings(&settings.replace("note = \"a\"", "note = \"b\""));
    place.control("reload").await.unwrap();
    assert_eq!(place.talk("two").await, ("two b 1".to_owned(), pid.clone()));
    place.settings(&settings.replace("note = \"a\"", "note = \"c\"\nslow = 6"));
    let refused = place.control("reload").await.unwrap_err().to_string();
    assert!(refused.contains("within 5 s"), "{refused}");
    // It has taken what was refused: it is started again with what is in force.
    place.logs("accepted settings that nobody asks it about any more").await;
    assert_eq!(place.answer().await.text(), Some("bye"));
    let (said, second) = place.talk("three").await;
    assert_eq!(said, "three b 1");
    assert_ne!(second, pid);
}

#[tokio::test]
async fn what_crashes_the_program_does_not_stop_the_others() {
    let mut place = place("durable = true\n").await;
    assert_eq!(place.talk("one").await.0, "one none 1");
    place.say("!do crash").await;
    place.logs("exit status 9; it is started again in 1 s").await;
    place.says("started again within").await;
    place.say("!do two").await;
    place.until("a second crash", || place.log().matches("exit status 9").count() >= 2).await;
    // Between two crashes it is answered, after whatever attempt.
    assert!(place.heard().await.0.starts_with("two none "));
    let crash = place.status().await;
    assert_eq!(crash["connected"], true, "{crash:#}");
}

#[tokio::test]
async fn gaps_are_told() {
    let settings = STREAM.replace("command = \"do\"", "subscribe = \"type=flood\"");
    // It reads nothing until it may.
    let script = PROGRAM.replacen(
        "note = \"none\"\n",
        "note = \"none\"\nimport time\nwhile not os.path.exists(os.environ[\"STATE_DIRECTORY\"] + \"/go\"): time.sleep(0.05)\n",
        1,
    );
    let place = Place::new(&settings, &[("program", &script)]).await;
    let body = "x".repeat(10_000);
    for _ in 0..2000 {
        place.irc.publish(document(&[("type", "flood")], &body)).await.unwrap();
    }
    place.until_dropped().await;
    std::fs::write(place.path("state/go"), "").unwrap();
    place.logs("gap of ").await;
    place.logs("messages were lost: queue-full").await;
}

impl Place {
    /// Waits until the bus has dropped something.
    async fn until_dropped(&self) {
        for _ in 0..1000 {
            if self.status().await["dropped"].as_u64().is_some_and(|dropped| dropped > 0) {
                return;
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        panic!("nothing was dropped: {:#}", self.status().await);
    }
}
