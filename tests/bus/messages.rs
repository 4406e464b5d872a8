//! Messages between clients: matched, confirmed, counted, requested, kept in order, told when lost.

use libeevee::{Code, Event, GapReason, Notice};

use crate::bus::{Bus, document, event, message};

#[tokio::test]
async fn what_is_published_comes_to_whom_it_matches() {
    let bus = Bus::start();
    let (irc, dice) = (bus.operator("irc").await, bus.operator("dice").await);
    let mut commands = dice.subscribe("type=chat.message,command=dice").await.unwrap();
    let tool = bus.tool().await;
    let mut all = tool.subscribe("*").await.unwrap();
    let headers = [("type", "chat.message"), ("command", "dice"), ("channel", "#a b")];
    let published = irc.publish_confirmed(document(&headers, "!dice 2d6")).await.unwrap();
    assert_eq!((published.live, published.durable), (2, 0));
    let got = message(&mut commands).await;
    assert_eq!((got.id, got.source.as_str(), got.text()), (published.id, "irc", Some("!dice 2d6")));
    assert_eq!(got.header("channel"), Some("#a b"));
    assert!(got.id < 1 << 53 && got.timestamp.0 > 1_700_000_000_000_000_000);
    assert_eq!(message(&mut all).await.id, published.id);
    let none = irc.publish_confirmed(document(&[("type", "unheard")], "")).await.unwrap();
    assert_eq!(none.live, 1);
    assert!(none.id > published.id);
}

#[tokio::test]
async fn ten_thousand_messages_come_in_order_through_a_small_window() {
    let bus = Bus::start();
    let (a, b) = (bus.operator("a").await, bus.operator("b").await);
    let mut got = b.subscribe("type=n").window(16, 1 << 16).await.unwrap();
    let publisher = tokio::spawn(async move {
        for n in 0..10_000 {
            a.publish(document(&[("type", "n")], &n.to_string())).await.unwrap();
            if n % 500 == 499 {
                // A confirmation is a round trip: the queue of 1,000 is never full.
                a.publish_confirmed(document(&[("type", "pause")], "")).await.unwrap();
            }
        }
        a
    });
    let (mut next, mut lost) = (0, 0);
    while next < 10_000 {
        match event(&mut got).await {
            Event::Message(message) => {
                assert_eq!(message.text(), Some(next.to_string().as_str()));
                next += 1;
            }
            // A slow machine may fill the queue: then the gap says so exactly.
            Event::Gap(gap) => {
                assert_eq!(gap.reason, GapReason::QueueFull);
                lost += gap.count.unwrap();
                next += i32::try_from(gap.count.unwrap()).unwrap();
            }
        }
    }
    publisher.await.unwrap();
    println!("{lost} of 10,000 were told as lost");
}

#[tokio::test]
async fn a_stuck_subscriber_gets_an_exact_gap_and_delays_nobody() {
    let bus = Bus::start();
    let (a, stuck, fast) = (bus.operator("a").await, bus.operator("stuck").await, bus.operator("fast").await);
    let mut slow = stuck.subscribe("type=n").queue(100, 1 << 20).window(10, 1 << 20).await.unwrap();
    let mut quick = fast.subscribe("type=n").await.unwrap();
    for n in 0..1000 {
        a.publish_confirmed(document(&[("type", "n")], &n.to_string())).await.unwrap();
        assert_eq!(message(&mut quick).await.text(), Some(n.to_string().as_str()));
    }
    let (mut seen, mut lost) = (Vec::new(), 0);
    while seen.last() != Some(&999) {
        match event(&mut slow).await {
            Event::Message(message) => seen.push(message.text().unwrap().parse::<u64>().unwrap()),
            Event::Gap(gap) => lost += gap.count.unwrap(),
        }
    }
    assert!(seen.is_sorted());
    assert_eq!(seen.len() as u64 + lost, 1000);
    assert_eq!(seen.len(), 110, "the window and the queue");
}

#[tokio::test]
async fn a_request_is_answered_to_its_sender_alone() {
    let bus = Bus::start();
    let (asker, answerer) = (bus.operator("asker").await, bus.operator("answerer").await);
    let time = std::time::Duration::from_millis(300);
    let nobody = asker.request(document(&[("type", "q")], "?"), crate::bus::SOON).await.unwrap_err();
    assert_eq!(nobody.code(), Some(Code::NoResponder), "{nobody}");
    let mut questions = answerer.subscribe("type=q").await.unwrap();
    let late = asker.request(document(&[("type", "q")], "?"), time).await.unwrap_err();
    assert_eq!(late.code(), Some(Code::Deadline), "{late}");
    message(&mut questions).await;
    let question = document(&[("type", "q")], "?");
    let (response, question) = tokio::join!(asker.request(question, crate::bus::SOON), async {
        let question = message(&mut questions).await;
        answerer.reply_to(&question, document(&[], "42")).await.unwrap();
        question
    });
    let response = response.unwrap();
    assert_eq!((response.source.as_str(), response.document.text()), ("answerer", Some("42")));
    // The first answer used the address up.
    let mut notices = answerer.notices();
    answerer.reply_to(&question, document(&[], "43")).await.unwrap();
    let error = loop {
        if let Notice::Refused { error, .. } =
            tokio::time::timeout(crate::bus::SOON, notices.next()).await.unwrap().unwrap()
        {
            break error;
        }
    };
    assert_eq!(error.code(), Some(Code::NotFound), "{error}");
}

#[tokio::test]
async fn a_restart_of_the_bus_is_a_gap_and_ids_go_on() {
    for signal in [nix::sys::signal::Signal::SIGTERM, nix::sys::signal::Signal::SIGKILL] {
        let mut bus = Bus::start();
        let (a, b) = (bus.operator("a").await, bus.operator("b").await);
        let mut got = b.subscribe("type=x").await.unwrap();
        let before = a.publish_confirmed(document(&[("type", "x")], "1")).await.unwrap().id;
        message(&mut got).await;
        bus.restart(signal);
        let after = loop {
            // Until b is back, nothing matches.
            match a.publish_confirmed(document(&[("type", "x")], "2")).await {
                Ok(published) if published.live == 1 => break published.id,
                _ => tokio::time::sleep(std::time::Duration::from_millis(20)).await,
            }
        };
        assert!(after > before, "ids never repeat: {before}, then {after}");
        let Event::Gap(gap) = event(&mut got).await else { panic!("no gap was told") };
        assert_eq!((gap.count, gap.reason), (None, GapReason::BusCrash));
        assert_eq!(message(&mut got).await.text(), Some("2"));
    }
}

#[tokio::test]
async fn large_bodies_pass_up_to_the_limit_and_not_beyond() {
    let bus = Bus::start();
    let (a, b) = (bus.operator("a").await, bus.operator("b").await);
    let mut got = b.subscribe("type=x").await.unwrap();
    let large = "x".repeat((1 << 20) - 100);
    a.publish_confirmed(document(&[("type", "x")], &large)).await.unwrap();
    assert_eq!(message(&mut got).await.document.body().len(), large.len());
    let error = a.publish_confirmed(document(&[("type", "x")], &"x".repeat(1 << 20))).await.unwrap_err();
    assert!(error.to_string().contains("1048576"), "{error}");
}

/// Documents that take more than what is left of the credit leave a debt, which client and bus have to count alike. A rate
/// keeps grants back, so that a client that counts otherwise overdraws and is cut off.
#[tokio::test]
async fn large_documents_against_little_credit_never_overdraw() {
    let limits = "[limits]\nframe-bytes = \"64 KiB\"\ncredit-bytes = \"64 KiB\"\nqueue-bytes = \"64 KiB\"\n";
    let bus = Bus::configured(limits);
    bus.write("modules.d/a.toml", "[bus]\nrate = { per-second = 200, burst = 30 }\n");
    let client = bus.operator("a").await;
    for n in 0..150_usize {
        let body = "x".repeat(if n % 10 == 9 { 60_000 } else { 7_000 + n });
        client.publish(document(&[("type", "x")], &body)).await.unwrap();
    }
    client.publish_confirmed(document(&[("type", "x")], "")).await.unwrap();
    assert_eq!(client.welcome().session, 1, "the session was never cut off:\n{}", bus.log());
}
