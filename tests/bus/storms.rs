//! Too much of it: bots that answer each other, operators faster than their rate, and one that floods. Each is bounded,
//! says why, and disturbs nobody else.

use std::fs::File;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use libeevee::{Client, Connect, Document, Event, OperatorId, Outgoing};

use crate::bus::{Bus, SOON, document, message};
use crate::hostile::Bystanders;

/// A bot in a process of its own, so that it has a journal of its own: the standard error that systemd would read.
struct Bot {
    child: Child,
    log: std::path::PathBuf,
}

impl Bot {
    fn start(bus: &Bus, folder: &tempfile::TempDir, id: &str) -> Self {
        let log = folder.path().join(id);
        let child = Command::new(std::env::current_exe().unwrap())
            .args(["--ignored", "--exact", "storms::a_bot_that_answers_all_it_hears", "--nocapture"])
            .env("EEVEE_TEST_BOT", id)
            .env("EEVEE_TEST_SOCKET", bus.socket())
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(File::create(&log).unwrap())
            .spawn()
            .unwrap();
        Self { child, log }
    }

    fn journal(&self) -> String {
        std::fs::read_to_string(&self.log).unwrap()
    }
}

impl Drop for Bot {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Not a test: the program that [`Bot`] starts.
#[tokio::test]
#[ignore = "a program that another test starts"]
async fn a_bot_that_answers_all_it_hears() {
    let Ok(id) = std::env::var("EEVEE_TEST_BOT") else { return };
    let id: OperatorId = id.parse().unwrap();
    libeevee::log::init(Some(&id));
    let other = if id.as_str() == "ping" { "pong" } else { "ping" };
    let socket = std::env::var("EEVEE_TEST_SOCKET").unwrap();
    let client = Client::connect(Connect::operator(id.clone(), "").socket(socket)).await.unwrap();
    let mut heard = client.subscribe(format!("type=talk,to={id}")).await.unwrap();
    while let Some(Event::Message(message)) = heard.next().await {
        let answer = document(&[("type", "talk"), ("to", other)], "and you?");
        client.publish(Outgoing::from(answer).answering(&message)).await.unwrap();
    }
}

#[tokio::test]
async fn two_bots_that_answer_each_other_stop_and_both_journals_say_why() {
    let bus = Bus::with(&[("modules.d/ping.toml", ""), ("modules.d/pong.toml", "")]);
    let folder = tempfile::tempdir().unwrap();
    let bots = [Bot::start(&bus, &folder, "ping"), Bot::start(&bus, &folder, "pong")];
    let tool = bus.tool().await;
    let mut all = tool.subscribe("type=talk").await.unwrap();
    for (at, bot) in ["ping", "pong"].into_iter().enumerate() {
        let deadline = Instant::now() + SOON;
        // Until the bot has subscribed, it cannot answer.
        while bus.status(&tool, bot).await["subscriptions"].as_array().is_none_or(Vec::is_empty) {
            assert!(Instant::now() < deadline, "{bot} does not start: {}", bots[at].journal());
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }
    for (at, bot) in ["ping", "pong"].into_iter().enumerate() {
        tool.publish_confirmed(document(&[("type", "talk"), ("to", bot)], "hello")).await.unwrap();
        // The first message and 16 answers; the bot that was asked first would give the 17th.
        let mut causes = Vec::new();
        for hops in 0..=16 {
            let next = message(&mut all).await;
            assert_eq!(next.hops, hops);
            causes.push(next.id);
        }
        assert!(tokio::time::timeout(Duration::from_millis(300), all.next()).await.is_err(), "the talk went on");
        let deadline = Instant::now() + SOON;
        while !bots[at].journal().contains("17 answers deep") {
            assert!(Instant::now() < deadline, "{bot} does not say why: {}", bots[at].journal());
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        let journal = bots[at].journal();
        let said: Vec<&str> = journal.lines().filter(|line| line.contains("17 answers deep")).collect();
        assert_eq!(said.len(), 1, "{journal}");
        assert!(said[0].contains("loop") && said[0].contains("two operators answer each other"), "{journal}");
        let log = bus.log();
        let of_bus: Vec<&str> =
            log.lines().filter(|line| line.contains(&format!("refused a publish of {bot}"))).collect();
        assert_eq!(of_bus.len(), 1, "{log}");
        assert!(of_bus[0].contains(&format!("(to message {})", causes[16])), "the message is named: {}", of_bus[0]);
    }
    assert_eq!(bus.status(&tool, "ping").await["connected"], true, "a refusal ends no session");
}

#[tokio::test]
async fn a_rate_bounds_what_an_operator_publishes_and_nobody_else() {
    let rules = "[bus]\nrate = { per-second = 100, burst = 20 }\n";
    let bus = Bus::with(&[("modules.d/slow.toml", rules)]);
    let (slow, free, tool) = (bus.operator("slow").await, bus.operator("free").await, bus.tool().await);
    let mut heard = tool.subscribe("type=x,source=slow").await.unwrap();
    let began = Instant::now();
    let flood = tokio::spawn(async move {
        for number in 0..120 {
            slow.publish(document(&[("type", "x")], &number.to_string())).await.unwrap();
        }
        slow
    });
    // What is bounded waits; others are served at once, many more than this rate allows.
    let beside = Instant::now();
    for _ in 0..1_000 {
        free.publish_confirmed(document(&[("type", "y")], "")).await.unwrap();
    }
    assert!(beside.elapsed() < Duration::from_secs(5), "{:?}", beside.elapsed());
    let mut times = Vec::new();
    for number in 0..120 {
        assert_eq!(message(&mut heard).await.text(), Some(number.to_string().as_str()), "none is lost, none overtakes");
        times.push(began.elapsed());
    }
    // 20 at once and 100 a second: 100 more take a second. No second has more than 120.
    assert!(times[119] >= Duration::from_millis(950), "120 messages in {:?}", times[119]);
    assert!(times[119] < SOON / 2, "120 messages took {:?}", times[119]);
    // A publisher that waits can still ask.
    let slow = flood.await.unwrap();
    slow.ping().await.unwrap();
}

/// It publishes as fast as it can to somebody who does not read; others do not notice, and the bus stays small.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_flooding_publisher_waits_and_others_are_served() {
    let bus = Bus::configured("[limits]\nmemory-bytes = \"32 MiB\"\ncredit-messages = 256\ncredit-bytes = \"1 MiB\"\n");
    let mut bystanders = Bystanders::new(&bus).await;
    let stuck = bus.operator("stuck").await;
    // Its handler never comes back for the next.
    let _unread = stuck.subscribe("type=flood").window(1, 1 << 20).await.unwrap();
    let mut quiet = Vec::new();
    for _ in 0..200 {
        let began = Instant::now();
        bystanders.talk("nothing").await;
        quiet.push(began.elapsed());
    }
    let flood = bus.operator("flood").await;
    let stop = std::sync::Arc::new(std::sync::atomic::AtomicBool::new(false));
    let (stopped, flooder) = (stop.clone(), flood.clone());
    let flooding = tokio::spawn(async move {
        let document: Document = document(&[("type", "flood")], &"x".repeat(2000));
        let mut published = 0_u64;
        while !stopped.load(std::sync::atomic::Ordering::Relaxed) {
            flooder.publish(document.clone()).await.unwrap();
            published += 1;
        }
        published
    });
    let mut beside = Vec::new();
    for _ in 0..200 {
        let began = Instant::now();
        bystanders.talk("a flood").await;
        beside.push(began.elapsed());
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    // A publisher that waits for credit still has its questions answered, before what it published later.
    flood.ping().await.unwrap();
    stop.store(true, std::sync::atomic::Ordering::Relaxed);
    let published = flooding.await.unwrap();
    assert!(published > 5_000, "no flood: {published}");
    for times in [&mut quiet, &mut beside] {
        times.sort();
    }
    println!("{published} in the flood; a talk took {:?} in quiet and {:?} beside it", quiet[100], beside[100]);
    // A turn of the flooder is one chunk of 64 KiB: others wait for some of these, not for the flood.
    assert!(beside[100] < Duration::from_millis(50), "half of all talks took longer than {:?}", beside[100]);
    let tool = bus.tool().await;
    let text = tool.control("bus", "", "").await.unwrap().unwrap();
    let state: serde_json::Value = serde_json::from_str(&text).unwrap();
    let used = state["memory_bytes"].as_u64().unwrap();
    // The one queue that is full, and nothing of what was published beyond it.
    assert!(used < 12 << 20, "{used} bytes are in use");
    bystanders.talk("the flood").await;
}
