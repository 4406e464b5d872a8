//! Log records as messages: the alarm that reports errors of any operator, and programs that log about records.

use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::bus::{document, message};
use crate::examples::settings;
use crate::place::{PATIENCE, Place};

/// A second exec operator beside the one of the place.
struct Other(Child);

impl Other {
    async fn start(place: &Place, id: &str, settings: &str) -> Self {
        let text = format!("kind = \"exec\"\n[bus]\npublish-log = \"warning\"\n[settings]\n{settings}\n");
        place.bus.write(&format!("modules.d/{id}.toml"), &text);
        let mut command = Command::new(env!("CARGO_BIN_EXE_exec"));
        command.args(["--id", id]).env("EEVEE_BUS", place.bus.socket()).env_remove("JOURNAL_STREAM");
        let other = Self(command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap());
        let deadline = Instant::now() + PATIENCE;
        while place.bus.status(&place.tool, id).await["state"] != "ready" {
            assert!(Instant::now() < deadline, "{id} is not ready");
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        other
    }
}

impl Drop for Other {
    fn drop(&mut self) {
        let _ = kill(Pid::from_raw(i32::try_from(self.0.id()).unwrap()), Signal::SIGTERM);
        let _ = self.0.wait();
    }
}

/// Logs the body of each message, at the level in its subject.
const LOGS: &str = r#"#!/usr/bin/env python3
import json, sys
for line in sys.stdin:
    got = json.loads(line)
    if "id" in got:
        print(json.dumps({"log": "it says: " + got["body"], "level": int(got["headers"]["level"])}), flush=True)
"#;

fn logs(place: &Place, subscribe: &str) -> String {
    let path = place.path("logs.py");
    format!("mode = \"stream\"\nrun = \"{}\"\nsubscribe = {subscribe}", path.display())
}

async fn poke(place: &Place, level: &str, text: &str) {
    place.irc.publish_confirmed(document(&[("type", "poke"), ("level", level)], text)).await.unwrap();
}

#[tokio::test]
async fn an_alarm_has_one_line_in_its_time_for_each_cause() {
    let settings = settings("alarm.py").replace("seconds = 60", "seconds = 3");
    let mut place = Place::new(&settings, &[("logs.py", LOGS)]).await;
    let _bad = Other::start(&place, "bad", &logs(&place, "[\"type=poke\"]")).await;

    for number in 1..=5 {
        poke(&place, "3", &format!("cannot open file {number}")).await;
    }
    poke(&place, "4", "only a warning").await;
    poke(&place, "3", "no network").await;
    let first = place.answer().await;
    assert_eq!(first.text(), Some("bad: it says: cannot open file 1"));
    let place_of = ["platform", "network", "channel", "direction"].map(|key| first.header(key).unwrap_or_default());
    assert_eq!(place_of, ["irc", "libera", "#admin", "out"]);
    assert_eq!(place.answer().await.text(), Some("bad: it says: no network"));
    // Who may publish can write such a message, and the bus says who it was.
    let forged = document(&[("type", "log.record"), ("level", "3"), ("operator", "bad")], "forged");
    place.irc.publish_confirmed(forged).await.unwrap();
    assert!(place.is_silent(Duration::from_secs(1)).await);
    // The end of its time, and what came again in it.
    assert_eq!(place.answer().await.text(), Some("bad: it says: cannot open file 5 (3 more like it)"));
    assert!(place.is_silent(Duration::from_secs(4)).await, "nothing more came");
    poke(&place, "3", "cannot open file 6").await;
    assert_eq!(place.answer().await.text(), Some("bad: it says: cannot open file 6"));

    // What is logged while it is stopped waits for it.
    place.settled().await;
    place.stop().await;
    poke(&place, "3", "another").await;
    place.start();
    assert_eq!(place.answer().await.text(), Some("bad: it says: another"));
}

#[tokio::test]
async fn a_flood_of_causes_is_few_lines() {
    let mut place = Place::new(&settings("alarm.py"), &[("logs.py", LOGS)]).await;
    let _bad = Other::start(&place, "bad", &logs(&place, "[\"type=poke\"]")).await;
    for first in 'a'..='j' {
        for second in 'a'..='f' {
            poke(&place, "3", &format!("cause {first}{second}")).await;
        }
    }
    let mut lines = 0;
    while !place.is_silent(Duration::from_secs(1)).await {
        lines += 1;
    }
    // Twenty of their own, and one for all that are too many.
    assert!((20..=22).contains(&lines), "{lines}");
}

#[tokio::test]
async fn programs_that_log_about_each_others_records_come_to_rest() {
    let place = Place::without("run = \"/bin/true\"\ncommand = \"x\"", &[("logs.py", LOGS)]).await;
    let mut records = place.tool.subscribe("type=log.record").await.unwrap();
    let hears = logs(&place, "[\"type=log.record\", \"type=poke,to=ID\"]");
    let _a = Other::start(&place, "a", &hears.replace("ID", "a")).await;
    let _b = Other::start(&place, "b", &hears.replace("ID", "b")).await;
    let poke = async |to: &str, text: &str| {
        let document = document(&[("type", "poke"), ("to", to), ("level", "3")], text);
        place.irc.publish_confirmed(document).await.unwrap();
    };
    poke("a", "it begins").await;
    let first = message(&mut records).await;
    assert_eq!((first.source.as_str(), first.text()), ("a", Some("it says: it begins")));
    tokio::time::sleep(Duration::from_secs(1)).await;
    // b has written about it, in its journal alone, and so it does from now on.
    poke("b", "once more").await;
    tokio::time::sleep(Duration::from_secs(1)).await;
    place.tool.publish_confirmed(document(&[("type", "log.record"), ("level", "7")], "the end")).await.unwrap();
    assert_eq!(message(&mut records).await.text(), Some("the end"));
}
