//! Programs that do what no program should: each is survived, with an entry in the journal, and the bus is undisturbed.

use std::time::Duration;

use crate::bus::{document, message};
use crate::place::Place;

const STREAM: &str = "run = [\"/bin/sh\", \"DIR/program\"]\nmode = \"stream\"\nsubscribe = \"type=work\"\n";

/// Memory that the operator may have had at most.
const MEMORY_KIB: u64 = 80 << 10;

async fn place(more: &str, script: &str) -> Place {
    Place::new(&format!("{STREAM}{more}"), &[("program", script)]).await
}

impl Place {
    /// Other sessions talk as if nothing were.
    async fn bus_is_undisturbed(&self) {
        let (one, two) = (self.bus.operator("one").await, self.bus.operator("two").await);
        let mut heard = two.subscribe("type=other").await.unwrap();
        for n in 0..100 {
            one.publish_confirmed(document(&[("type", "other")], &n.to_string())).await.unwrap();
            assert_eq!(message(&mut heard).await.text(), Some(n.to_string().as_str()));
        }
        assert!(self.memory_kib() < MEMORY_KIB, "{} KiB", self.memory_kib());
    }

    async fn work(&self, count: usize, bytes: usize) {
        for _ in 0..count {
            self.irc.publish(document(&[("type", "work")], &"x".repeat(bytes))).await.unwrap();
        }
    }
}

#[tokio::test]
async fn garbage() {
    let script = "echo hello\necho '{\"reply\":1}'\necho '{\"publish\":{\"headers\":{\"type\":5}}}'\nprintf '\\377\\n'\n\
                  echo '{\"ack\":99}'\necho '{\"status\":\"fine\"}'\nwhile read -r line; do :; done\n";
    let place = place("", script).await;
    place.says("fine").await;
    for entry in [
        "standard output, line 1, column 1: every line is one JSON object",
        "line 2: a reply has the key `body`",
        "line 3, column ",
        "line 4, column 1: not UTF-8",
        "line 5: ack of message 99",
    ] {
        place.logs(entry).await;
    }
    place.bus_is_undisturbed().await;
}

#[tokio::test]
async fn garbage_without_end() {
    let place = place("", "while :; do echo garbage; done\n").await;
    place.logs("100 lines one after the other on standard output").await;
    place.logs("started again in 1 s").await;
    place.bus_is_undisturbed().await;
    place.until("a second time", || place.log().matches("100 lines one after the other").count() >= 2).await;
    assert!(place.log().lines().count() < 1000, "{}", place.log().lines().count());
}

#[tokio::test]
async fn a_line_of_a_gigabyte() {
    let script = "head -c 1073741824 /dev/zero | tr '\\0' x\necho\necho '{\"status\":\"still here\"}'\nwhile read -r line; do :; done\n";
    let place = place("", script).await;
    place.logs("line 1: longer than 8 MiB, passed over").await;
    place.bus_is_undisturbed().await;
    place.says("still here").await;
    assert!(place.memory_kib() < MEMORY_KIB, "{} KiB", place.memory_kib());
}

#[tokio::test]
async fn one_that_never_reads() {
    let mut place = place("timeout = \"500 ms\"\n", "exec sleep 4720.MARK\n").await;
    place.work(300, 10_000).await;
    place.logs("the program does not read its standard input").await;
    place.says("the program does not read").await;
    place.bus_is_undisturbed().await;
    place.control("halt").await.unwrap();
    place.is("halted").await;
    let (status, took) = place.stop().await;
    assert_eq!(status, Some(0));
    assert!(took < Duration::from_secs(8), "{took:?}");
    assert!(place.processes("sleep 4720.MARK").is_empty());
}

#[tokio::test]
async fn one_that_answers_no_ping() {
    let place = place("pings = true\ntimeout = \"1 s\"\n", "while read -r line; do :; done\n").await;
    place.logs("the program is ended: it did not answer a ping within 1s").await;
    place.logs("started again in 1 s").await;
    place.bus_is_undisturbed().await;
}

#[tokio::test]
async fn one_that_is_stopped_answers_no_ping_and_is_killed() {
    let place =
        place("pings = true\ntimeout = \"1 s\"\n", "trap '' TERM\nkill -STOP $$\nwhile :; do sleep 4721.MARK; done\n")
            .await;
    place.logs("the program is ended").await;
    place.logs("killed by SIGKILL").await;
    place.until("end of what it started", || place.processes("sleep 4721.MARK").len() <= 1).await;
}

#[tokio::test]
async fn one_that_forks_and_exits() {
    let script = "setsid sh -c 'sleep 4722.MARK1; sleep 4722.MARK2' &\n(sleep 4722.MARK3 &)\nsleep 0.2\nexit 0\n";
    let mut place = place("", script).await;
    place.logs("exit status 0; it is started again in 1 s").await;
    place.bus_is_undisturbed().await;
    place.logs("that a program had left behind").await;
    place.stop().await;
    place.until("end of what it left", || place.processes("sleep 4722.MARK").is_empty()).await;
}

#[tokio::test]
async fn one_that_closes_its_input() {
    let place = place("", "exec <&-\nsleep 4723.MARK\n").await;
    place.work(20, 10_000).await;
    place.logs("the program closed its standard input, and cannot do its work without: it is ended").await;
    place.logs("started again in 1 s").await;
    place.bus_is_undisturbed().await;
}

#[tokio::test]
async fn one_that_closes_its_output() {
    let place = place("durable = true\n", "exec >&-\nexec sleep 4724.MARK\n").await;
    place.logs("the program closed its standard output, and cannot do its work without: it is ended").await;
    // One that has nothing to say may.
    let silent = self::place(
        "",
        "exec >&-\nread -r line\nread -r line\ntouch \"$STATE_DIRECTORY/read\"\nexec sleep 4725.MARK\n",
    )
    .await;
    silent.logs("the program closed its standard output").await;
    silent.work(1, 10).await;
    silent.until("line that it read", || silent.path("state/read").exists()).await;
}

#[tokio::test]
async fn one_that_exits_at_once_in_a_loop() {
    let place = place("", "exit 3\n").await;
    for pause in ["in 1 s", "in 2 s", "in 4 s"] {
        place.logs(&format!("exit status 3; it is started again {pause}")).await;
    }
    place.says("exit status 3; it is started again within 4 s").await;
    place.bus_is_undisturbed().await;
    assert!(place.log().lines().count() < 30, "{}", place.log());
    place.is("ready").await;
}

#[tokio::test]
async fn one_that_publishes_without_end() {
    let script = "i=0\nwhile [ $i -lt 20000 ]; do echo '{\"publish\":{\"headers\":{\"type\":\"noise\"},\"body\":\"x\"}}'; i=$((i + 1)); done\n\
                  echo '{\"status\":\"done\"}'\nwhile read -r line; do :; done\n";
    let place = place("", script).await;
    place.bus_is_undisturbed().await;
    place.says("done").await;
    assert_eq!(place.status().await["published"], 20_000);
}

#[tokio::test]
async fn one_that_changes_its_status_without_end() {
    let script = "i=0\nwhile [ $i -lt 20000 ]; do echo '{\"status\":\"at '$i'\"}'; i=$((i + 1)); done\necho '{\"status\":\"done\"}'\nwhile read -r line; do :; done\n";
    let place = place("", script).await;
    place.bus_is_undisturbed().await;
    place.says("done").await;
}

#[tokio::test]
async fn one_that_logs_without_end() {
    let script = "i=0\nwhile [ $i -lt 20000 ]; do echo '{\"log\":\"noise\"}'; echo more >&2; i=$((i + 1)); done\n\
                  echo '{\"status\":\"done\"}'\nwhile read -r line; do :; done\n";
    let place = place("", script).await;
    place.bus_is_undisturbed().await;
    place.says("done").await;
    assert!(place.log().lines().count() < 2000, "{}", place.log().lines().count());
    assert!(place.log().contains("more entries of the program were left out"), "nothing was left out");
}
