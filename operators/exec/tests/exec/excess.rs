//! Programs that say too much, or what nobody can say: bounded, named in the journal, and the operator goes on obeying.

use std::time::Duration;

use nix::sys::signal::Signal;

use crate::bus::document;
use crate::place::Place;

const STREAM: &str = "run = [\"/bin/sh\", \"DIR/program\"]\nmode = \"stream\"\nsubscribe = \"type=work\"\n";
const MEMORY_KIB: u64 = 80 << 10;
const IDLE: &str = "while read -r line; do :; done\n";

async fn place(more: &str, script: &str) -> Place {
    Place::new(&format!("{STREAM}{more}"), &[("program", script)]).await
}

async fn python(more: &str, script: &str) -> Place {
    let settings = STREAM.replace("\"/bin/sh\"", "\"/usr/bin/env\", \"python3\"");
    Place::new(&format!("{settings}{more}"), &[("program", script)]).await
}

#[tokio::test]
async fn a_gigabyte_on_standard_error() {
    // Half of it is one line, the other half 250,000 of them.
    let script = format!(
        "head -c 536870912 /dev/zero | tr '\\0' e >&2\necho >&2\n\
         yes \"$(head -c 2000 /dev/zero | tr '\\0' l)\" | head -c 536870912 >&2\n\
         echo '{{\"status\":\"all said\"}}'\n{IDLE}"
    );
    let mut place = place("", &script).await;
    place.says("all said").await;
    place.logs("more entries of the program were left out: more than 20 a second").await;
    assert!(place.log().contains("eeee [...]"), "the beginning of the long line");
    assert!(place.log().len() < 3 << 20, "{} bytes of log", place.log().len());
    assert!(place.memory_kib() < MEMORY_KIB, "{} KiB", place.memory_kib());
    let (status, took) = place.stop().await;
    assert_eq!(status, Some(0));
    assert!(took < Duration::from_secs(8), "{took:?}");
}

#[tokio::test]
async fn bytes_that_are_no_text() {
    let script = format!(
        "printf 'nul \\000 bad \\377 bell \\007 end\\n' >&2\nprintf '{{\"log\":\"a\\000b\"}}\\n'\nprintf '\\000\\n'\n\
         printf '{{\"log\":\"escaped \\\\u0000\\\\u001b[2J end\"}}\\n'\n\
         printf '{{\"status\":\"st\\\\u0000at\\\\nus\"}}\\n'\n{IDLE}"
    );
    let place = place("", &script).await;
    place.logs("nul \\x00 bad \u{fffd} bell \\x07 end").await;
    place.logs("standard output, line 1, column 10: ").await;
    place.logs("standard output, line 2, column 1: ").await;
    place.logs("escaped \\x00\\x1b[2J end").await;
    place.says("st\\x00at\\nus").await;
    assert!(!place.log().contains(['\0', '\u{1b}', '\u{7}']), "{:?}", place.log());
}

/// Neither a name nor a value of a header can be anything but one word, one line.
#[tokio::test]
async fn headers_that_can_be_none() {
    let mut script = String::new();
    for headers in [
        r#"{"a=b":"x"}"#,
        r#"{"a\nLD_PRELOAD":"x"}"#,
        r#"{"A":"x"}"#,
        r#"{"a":"x\ny"}"#,
        r#"{"a":"x\u0000"}"#,
        r#"{"source":"irc"}"#,
        r#"{"a":"1","a":"2"}"#,
    ] {
        script.push_str(&format!("cat <<'END'\n{{\"publish\":{{\"headers\":{headers}}}}}\nEND\n"));
    }
    script
        .push_str("echo '{\"publish\":{\"headers\":{\"type\":\"control.halt\"}}}'\necho '{\"status\":\"all said\"}'\n");
    let place = place("", &format!("{script}{IDLE}")).await;
    place.says("all said").await;
    for line in 1..=7 {
        place.logs(&format!("standard output, line {line}, column ")).await;
    }
    place.logs("what the program said is not published: the bus refused it (denied)").await;
    assert_eq!(place.status().await["published"], 0);
}

/// Megabytes where a sentence belongs.
#[tokio::test]
async fn words_without_end() {
    let script = r#"
import json, sys
sys.stdout.reconfigure(encoding="utf-8")
sys.stderr.reconfigure(encoding="utf-8")
def say(**line): print(json.dumps(line, ensure_ascii=False), flush=True)
long = "é\n" * (1 << 20)
say(status=long)
say(log=long)
say(**{long: 1})
say(publish={"headers": {"type": "x"}, "body": long})
say(publish={"headers": {"type": "x" * (1 << 20)}})
say(publish={"headers": {"k%s" % n: "" for n in range(300000)}})
sys.stderr.write(long)
first = True
for line in sys.stdin:
    got = json.loads(line)
    if "settings" in got:
        if not first: say(refuse="because " + long)
        first = False
    elif "id" in got:
        if "attempt" in got: say(reply=got["id"], body=long)
        say(**({"ack": got["id"]} if "attempt" in got else {"nack": got["id"], "reason": "later " + long}))
"#;
    let settings = "durable = true\nanswers-reload = true\n";
    let place = python(settings, script).await;
    place.says("é\\né").await;
    place.logs("standard output, line 3, column ").await;
    place.logs("what the program said is not published: ").await;
    place.logs("standard output, line 5, column ").await;
    place.logs("standard output, line 6, column ").await;
    let headers =
        [("type", "work"), ("direction", "in"), ("platform", "irc"), ("network", "test"), ("channel", "#here")];
    place.irc.publish_confirmed(document(&headers, "x")).await.unwrap();
    place.settled().await;
    let module = STREAM.replace("\"/bin/sh\"", "\"/usr/bin/env\", \"python3\"");
    place.settings(&format!("{module}{settings}[settings.program]\nx = 1\n"));
    let began = std::time::Instant::now();
    let refused = place.control("reload").await.unwrap_err().to_string();
    assert!(refused.contains("the program refuses the new settings: because é"), "{refused}");
    assert!(
        refused.len() < 10_000 && began.elapsed() < Duration::from_secs(5),
        "{} {:?}",
        refused.len(),
        began.elapsed()
    );
    let longest = place.log().lines().map(str::len).max().unwrap_or_default();
    assert!(longest < 16 << 10 && place.log().len() < 1 << 20, "{longest} of {} bytes", place.log().len());
    let dead = place.dead().await;
    assert!(dead.contains("\"dead\":[]"), "{dead}");
}

/// While it talks on all its pipes without a pause.
const TALKER: &str = "trap '' TERM\nwhile :; do echo noise >&2; done &\n\
                      while :; do echo '{\"log\":\"noise\"}'; echo '{\"publish\":{\"headers\":{\"type\":\"noise\"}}}'; done\n";

#[tokio::test]
async fn one_that_never_stops_talking_does_not_keep_the_operator_from_listening() {
    let mut place = place("", TALKER).await;
    for _ in 0..3 {
        place.control("halt").await.unwrap();
        place.is("halted").await;
        place.control("resume").await.unwrap();
        place.is("ready").await;
    }
    place.control("reload").await.unwrap();
    let (status, took) = place.stop().await;
    assert_eq!(status, Some(0));
    assert!(took < Duration::from_secs(10), "{took:?}");
    place.until("end of the program", || place.processes(place.path("program").to_str().unwrap()).is_empty()).await;
}

#[tokio::test]
async fn one_that_talks_while_the_bus_is_away_is_stopped_in_time() {
    let mut place = place("", TALKER).await;
    place.until("talk", || place.log().contains("noise")).await;
    place.bus.stop(Signal::SIGKILL);
    // Until nothing is taken from it any more.
    tokio::time::sleep(Duration::from_secs(2)).await;
    let (status, took) = place.stop().await;
    assert_eq!(status, Some(0), "{took:?}");
    assert!(took < Duration::from_secs(10), "{took:?}");
    place.until("end of the program", || place.processes(place.path("program").to_str().unwrap()).is_empty()).await;
}

/// A death is told as what it is, and once.
#[tokio::test]
async fn one_that_dies_has_not_closed_its_pipes() {
    let place = place("pings = true\ndurable = true\n", "sleep 0.3\nkill -KILL $$\n").await;
    for _ in 0..3 {
        place.irc.publish_confirmed(document(&[("type", "work")], "x")).await.unwrap();
    }
    place.until("two deaths", || place.log().matches("killed by SIGKILL").count() >= 2).await;
    assert!(!place.log().contains("closed its standard"), "{}", place.log());
}
