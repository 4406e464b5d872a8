//! Many at once, much at once, and peers that do not read: everybody gets what the protocol promises, and the bus stays
//! small.

use std::time::{Duration, Instant};

use libeevee::wire::{Content, Control, Frame, Subscribe, Value};
use libeevee::{Code, Event, GapReason};

use crate::bus::{Bus, document, event, subscribe};
use crate::hostile::{Bystanders, Raw, hello, publish};

async fn pid(bus: &Bus) -> nix::unistd::Pid {
    let stream = tokio::net::UnixStream::connect(bus.socket()).await.unwrap();
    nix::unistd::Pid::from_raw(stream.peer_cred().unwrap().pid().unwrap())
}

async fn resident_mib(bus: &Bus) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{}/status", pid(bus).await)).unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap();
    line.trim().strip_suffix(" kB").unwrap().parse::<u64>().unwrap() / 1024
}

fn control(number: u32, verb: &str) -> Vec<u8> {
    let content = Content::Control(Control { verb: verb.into(), id: String::new(), argument: String::new() });
    Frame::new(number, content).encode()
}

/// After a restart of the bus all operators come back in the same moment.
#[tokio::test]
async fn all_of_many_that_come_at_once_get_in() {
    let bus = Bus::start();
    let pid = pid(&bus).await;
    nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGSTOP).unwrap();
    let mut all: Vec<Raw> = (0..200).map(|_| Raw::connect(&bus)).collect();
    for (number, raw) in all.iter_mut().enumerate() {
        raw.send(&hello(&format!("op{number}")).encode());
    }
    nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGCONT).unwrap();
    for raw in &mut all {
        let answer = raw.frame().unwrap().content;
        assert!(matches!(answer, Content::Welcome(_)), "{answer:?}");
    }
}

/// What is left of a chunk is nearly always the beginning of a frame; that is no peer that stopped in the middle of one.
#[test]
fn a_publisher_whose_frames_overlap_chunks_is_not_taken_for_a_slow_one() {
    let bus = Bus::start();
    let mut raw = Raw::hello(&bus, "a");
    let (one, began) = (publish(7, &document(&[("type", "x")], "")).encode(), Instant::now());
    let (head, tail) = one.split_at(20);
    raw.send(head);
    while began.elapsed() < Duration::from_secs(12) {
        // Every frame is whole within 50 ms, and there is always a beginning of one.
        raw.send(&[tail, head].concat());
        let answer = raw.frame().unwrap().content;
        assert!(matches!(answer, Content::Published(_) | Content::Grant(_)), "{answer:?}");
        std::thread::sleep(Duration::from_millis(50));
    }
}

#[tokio::test]
async fn who_asks_without_reading_waits_and_is_answered_in_the_end() {
    let bus = Bus::start();
    for number in 0..200 {
        bus.write(&format!("modules.d/m{number}.toml"), "");
    }
    let mut bystanders = Bystanders::new(&bus).await;
    let before = resident_mib(&bus).await;
    let (statuses, buses) = (3_000, 20_000);
    let mut raw = Raw::hello(&bus, "hostile");
    let mut writer = raw.try_clone();
    let writer = std::thread::spawn(move || {
        for number in 1..=statuses {
            writer.send(&control(number, "status"));
        }
        for number in statuses + 1..=statuses + buses {
            writer.send(&control(number, "bus"));
        }
    });
    for _ in 0..20 {
        bystanders.talk("a flood of questions").await;
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    let grown = resident_mib(&bus).await.saturating_sub(before);
    assert!(grown < 64, "the bus grew by {grown} MiB");
    let (mut refused, mut answered) = (0, 0);
    for _ in 0..statuses + buses {
        match raw.frame().unwrap().content {
            Content::Error(refusal) => {
                assert_eq!(Code::from_number(refusal.code), Code::Quota, "{refusal:?}");
                refused += 1;
            }
            Content::Answer(_) => answered += 1,
            other => panic!("{other:?}"),
        }
    }
    writer.join().unwrap();
    assert!(answered >= buses && refused > 0, "{answered} answered, {refused} refused");
    bystanders.talk("the flood").await;
}

#[tokio::test]
async fn a_slow_consumer_is_told_why_it_is_cut() {
    let bus = Bus::start();
    let mut raw = Raw::hello(&bus, "slow");
    let subscribe = Subscribe { overflow: 3, queue_messages: 5, ..subscribe("type=x") };
    raw.send(&Frame::new(1, Content::Subscribe(subscribe)).encode());
    assert_eq!(raw.frame().unwrap().content, Content::Ok);
    let a = bus.operator("a").await;
    let large = document(&[("type", "x")], &"x".repeat(100_000));
    // Until there is more than socket, output and queue hold together; then it reads, while the bus waits with its farewell.
    for _ in 0..100 {
        if a.publish_confirmed(large.clone()).await.unwrap().live == 0 {
            break;
        }
    }
    let last = std::iter::from_fn(|| raw.frame()).last().unwrap().content;
    let Content::Error(refusal) = last else { panic!("it was cut without a word: {last:?}") };
    assert_eq!(Code::from_number(refusal.code), Code::SlowConsumer);
}

#[tokio::test]
async fn an_operator_that_never_ran_can_be_halted_first_of_all() {
    let bus = Bus::with(&[("modules.d/irc.toml", "")]);
    let tool = bus.tool().await;
    tool.control("halt", "irc", "").await.unwrap();
    assert_eq!(bus.status(&tool, "irc").await["halted"], true);
    assert_eq!(tool.control("halt", "none", "").await.unwrap_err().code(), Some(Code::NotFound));
}

#[tokio::test]
async fn what_was_asked_before_a_half_close_is_answered() {
    let bus = Bus::start();
    let mut raw = Raw::hello(&bus, "a");
    raw.send(&[control(1, "status"), control(2, "bus")].concat());
    raw.shutdown();
    let mut answered: Vec<u32> = std::iter::from_fn(|| raw.frame()).map(|frame| frame.number).collect();
    answered.sort_unstable();
    assert_eq!(answered, [1, 2]);
}

/// A megabyte of each of two hundred connections is no megabyte of the bus beyond its limit.
#[tokio::test]
async fn large_frames_that_are_never_finished_share_the_memory_of_the_bus() {
    let bus = Bus::configured("[limits]\nmemory-bytes = \"16 MiB\"\n");
    let before = resident_mib(&bus).await;
    let begun = [(1_u32 << 20).to_le_bytes().to_vec(), vec![0; (1 << 20) - 1]].concat();
    let mut all: Vec<Raw> = (0..100).map(|number| Raw::hello(&bus, &format!("op{number}"))).collect();
    let writers: Vec<_> = all
        .iter_mut()
        .map(|raw| (raw.try_clone(), begun.clone()))
        .map(|(mut raw, begun)| std::thread::spawn(move || raw.send(&begun)))
        .collect();
    tokio::time::sleep(Duration::from_secs(2)).await;
    let grown = resident_mib(&bus).await.saturating_sub(before);
    assert!(grown < 60, "the bus grew by {grown} MiB");
    all.iter().for_each(Raw::shutdown);
    drop(all);
    drop(bus);
    writers.into_iter().for_each(|writer| writer.join().unwrap());
}

/// Without credit a publisher waits, and still has its questions answered; one that does not wait is refused alone.
#[tokio::test]
async fn a_publisher_without_credit_can_still_ask() {
    let bus = Bus::with(&[("modules.d/slow.toml", "[bus]\nrate = { per-second = 1, burst = 5 }\n")]);
    let mut bystanders = Bystanders::new(&bus).await;
    let mut raw = Raw::hello(&bus, "slow");
    let document = document(&[("type", "x")], "");
    let published: Vec<u8> = (1..=5).flat_map(|number| publish(number, &document).encode()).collect();
    raw.send(&[published, Frame::new(6, Content::Ping(Value { value: 6 })).encode(), control(7, "bus")].concat());
    let mut told = Vec::new();
    while told.last() != Some(&7) {
        let frame = raw.frame().unwrap();
        match frame.content {
            Content::Published(_) | Content::Pong(_) | Content::Answer(_) => told.push(frame.number),
            Content::Grant(_) => {}
            other => panic!("{other:?}"),
        }
    }
    assert_eq!(told, [1, 2, 3, 4, 5, 6, 7]);
    let over: Vec<u8> = (8..=20).flat_map(|number| publish(number, &document).encode()).collect();
    raw.send(&over);
    loop {
        match raw.frame().unwrap().content {
            Content::Error(refusal) => break assert_eq!(Code::from_number(refusal.code), Code::Credit),
            Content::Published(_) | Content::Grant(_) => {}
            other => panic!("{other:?}"),
        }
    }
    bystanders.talk("it").await;
}

/// Sessions that never read share what their uid may have; publishers are refused nothing for it, and the gaps are exact.
#[tokio::test]
async fn who_does_not_read_fills_a_share_and_never_the_bus() {
    let bus = Bus::configured(
        "[limits]\nmemory-bytes = \"64 MiB\"\nmemory-per-uid = \"8 MiB\"\nqueue-bytes = \"8 MiB\"\nframe-bytes = \"1 MiB\"\n",
    );
    let (speaker, before) = (bus.operator("speaker").await, resident_mib(&bus).await);
    let mut stuck = Vec::new();
    for number in 0..20 {
        let client = bus.operator(&format!("stuck{number}")).await;
        let subscription = client.subscribe("type=flood").window(1, 1 << 20).await.unwrap();
        stuck.push((client, subscription));
    }
    let (said, large) = (500, document(&[("type", "flood")], &"x".repeat(20_000)));
    for number in 0..said {
        let answer = speaker.publish_confirmed(large.clone()).await;
        assert!(answer.is_ok(), "message {number}: {answer:?}");
    }
    let grown = resident_mib(&bus).await.saturating_sub(before);
    assert!(grown < 40, "the bus grew by {grown} MiB");
    speaker.publish_confirmed(document(&[("type", "flood"), ("last", "1")], "")).await.unwrap();
    for (_client, subscription) in &mut stuck {
        let (mut delivered, mut lost) = (0, 0);
        while delivered + lost < said + 1 {
            match event(subscription).await {
                Event::Message(_) => delivered += 1,
                Event::Gap(gap) => {
                    assert_eq!(gap.reason, GapReason::Memory, "{gap:?}");
                    lost += gap.count.unwrap();
                }
            }
        }
        assert_eq!(delivered + lost, said + 1);
        assert!(lost > 0, "nothing was lost by this one: then the share was not the bound");
    }
}

#[tokio::test]
async fn filters_that_are_looked_at_for_every_message_are_few() {
    let bus = Bus::configured("[limits]\nunindexed-filters = 3\n");
    let (a, b) = (bus.operator("a").await, bus.operator("b").await);
    let mut kept = Vec::new();
    for filter in ["*", "!bot", "channel~#rust*"] {
        kept.push(a.subscribe(filter).await.unwrap());
    }
    for _ in 0..50 {
        kept.push(a.subscribe("type=chat.message,channel~#rust*").await.unwrap());
    }
    let error = b.subscribe("level<4").await.unwrap_err();
    assert_eq!(error.code(), Some(Code::Quota));
    for part in ["level<4", "at most 3", "unindexed-filters", "type=chat.message"] {
        assert!(error.to_string().contains(part), "{error}");
    }
}

/// Many publishers of durable messages keep the disk busy; what needs no disk does not wait for it.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_flood_of_durable_messages_delays_no_live_ones() {
    let bus = Bus::start();
    let mut bystanders = Bystanders::new(&bus).await;
    let keeper = bus.operator("keeper").await;
    let kept = keeper.subscribe("type=flood").durable("all").window(1, 1 << 20).await.unwrap();
    let flood = bus.operator("flood").await;
    let stop = std::sync::Arc::new(std::sync::atomic::AtomicBool::new(false));
    let flooders: Vec<_> = (0..32)
        .map(|_| {
            let (flood, stop) = (flood.clone(), stop.clone());
            tokio::spawn(async move {
                let document = document(&[("type", "flood")], &"x".repeat(4000));
                let mut confirmed = 0_u64;
                while !stop.load(std::sync::atomic::Ordering::Relaxed) {
                    let published = flood.publish_confirmed(document.clone()).await.unwrap();
                    assert_eq!(published.durable, 1);
                    confirmed += 1;
                }
                confirmed
            })
        })
        .collect();
    let mut times = Vec::new();
    for _ in 0..200 {
        let began = Instant::now();
        bystanders.talk("a durable flood").await;
        times.push(began.elapsed());
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    flood.ping().await.unwrap();
    stop.store(true, std::sync::atomic::Ordering::Relaxed);
    let mut confirmed = 0;
    for flooder in flooders {
        confirmed += flooder.await.unwrap();
    }
    times.sort();
    println!("{confirmed} confirmed beside it; half of the talks took at most {:?}, all {:?}", times[100], times[199]);
    assert!(confirmed > 200, "no flood: {confirmed}");
    // The disk of a busy machine takes far longer than this for many of its syncs.
    assert!(times[100] < Duration::from_millis(50), "half of all talks took longer than {:?}", times[100]);
    drop(kept);
}
