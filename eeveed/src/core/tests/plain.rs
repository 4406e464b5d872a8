//! Publishes in a row go the ways that they go one by one, whatever the memo knows.

use proptest::prelude::*;

use super::*;

/// How the same messages come.
#[derive(Debug, Clone, Copy)]
enum Way {
    /// As plain publishes, looked up in the memo.
    Rows,
    /// The same while the memo rests.
    RowsUnknown,
    /// Not plain, so that each goes its way alone.
    Alone,
}

/// Kind, channel, platform, and whether there is a header that no other message has.
type Drawn = (usize, usize, bool, bool);

fn chunk(messages: &[Drawn], way: Way) -> Vec<u8> {
    let frame = |(number, (kind, channel, irc, unique)): (usize, &Drawn)| {
        let trace = number.to_string();
        let mut headers = vec![("platform", if *irc { "irc" } else { "grün" }), ("channel", ["x", "y", "z"][*channel])];
        headers.push(("type", ["chat.message", "chat.action", "control.start", "secret"][*kind]));
        if *unique {
            headers.push(("trace", &trace));
        }
        // It is no answer, so that nobody looks at how deep it claims to be.
        let hops = u8::from(matches!(way, Way::Alone));
        let publish = Publish { cause: None, hops, epoch: 0, sequence: 0, document: document(&headers, "body") };
        Frame::new(0, Content::Publish(publish)).encode()
    };
    messages.iter().enumerate().flat_map(frame).collect()
}

/// Everything that everybody is told, and what was counted.
fn outcome(messages: &[Drawn], way: Way, direct_bytes: usize, window: u64) -> (Vec<Vec<Frame>>, [u64; 4]) {
    let mut bus = Bus::new();
    bus.core.direct_bytes = direct_bytes;
    let rules = "[bus]\nmay-publish = [\"type!=secret\", \"type=control.start,channel=x\"]\n";
    bus.join(1, Identity::Operator("irc".parse().unwrap()), Some(module("irc", rules)));
    let rules = "[bus]\nmay-receive = [\"platform=irc\"]\n";
    bus.join(2, Identity::Operator("a".parse().unwrap()), Some(module("a", rules)));
    bus.operator(3, "b");
    bus.join(4, Identity::Person { name: "root".into(), admin: true }, None);
    let filters = ["channel=x", "type=chat.message,channel in (x,y)", "platform=irc,!trace", "type~chat.*"];
    for (number, filter) in (1..).zip(filters) {
        for session in 2..=4 {
            bus.subscribe(session, number, Subscribe { window_messages: window, ..subscribe(filter) });
        }
    }
    // In two parts, so that some was seen before.
    let (first, second) = messages.split_at(messages.len() / 2);
    for part in [first, second, first] {
        if matches!(way, Way::RowsUnknown) {
            bus.core.memo.rest_for(1000);
        }
        let bytes = chunk(part, way);
        assert_eq!(bus.core.take(bus.now, 1, &bytes, 1 << 20, &mut bus.actions).bytes, bytes.len());
        bus.core.check_accounts();
    }
    let counted = [bus.core.published, bus.core.delivered, bus.core.unrouted, bus.core.dropped];
    ((1..=4).map(|session| bus.output(session)).collect(), counted)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn rows_do_what_each_alone_does(
        messages in prop::collection::vec((0_usize..4, 0_usize..3, any::<bool>(), any::<bool>()), 1..90),
        direct_bytes in prop::sample::select(vec![0, 2_000, 1 << 20]),
        window in prop::sample::select(vec![3, 1_000]),
    ) {
        let alone = outcome(&messages, Way::Alone, direct_bytes, window);
        prop_assert_eq!(&outcome(&messages, Way::Rows, direct_bytes, window), &alone);
        prop_assert_eq!(&outcome(&messages, Way::RowsUnknown, direct_bytes, window), &alone);
    }
}

/// Some messages in a row: kind, bytes of body, how many.
type Run = (usize, usize, usize);

/// Three sessions that most messages go to, and what they can take.
#[derive(Debug, Clone, Copy)]
struct Takers {
    /// Whether all of them have the same number for it.
    same_number: bool,
    direct_bytes: usize,
    memory_per_uid: usize,
    /// Of the last of them.
    window: (u64, u64),
    queue_messages: u32,
    queue_bytes: u64,
    max_age_ms: u64,
    /// Whether its socket takes nothing.
    stuck: bool,
}

fn outcome_of_runs(runs: &[Run], way: Way, takers: Takers) -> (Vec<Vec<String>>, [u64; 4]) {
    let mut bus = Bus::new();
    bus.core.direct_bytes = takers.direct_bytes;
    bus.core.limits.memory_per_uid = takers.memory_per_uid;
    bus.operator(1, "irc");
    let filters = ["*", "type in (a,b)", "type!=c"];
    for (session, filter) in (2..).zip(filters) {
        bus.operator(session, &format!("op{session}"));
        let number = if takers.same_number { 1 } else { session as u32 };
        let mut asked = subscribe(filter);
        if session == 4 {
            (asked.window_messages, asked.window_bytes) = takers.window;
            (asked.queue_messages, asked.queue_bytes) = (takers.queue_messages, takers.queue_bytes);
            asked.max_age_ms = takers.max_age_ms;
        }
        bus.subscribe(session, number, asked);
    }
    let mut unwritten = Chunk::default();
    if takers.stuck {
        bus.publish(1, &[("type", "a")]);
        bus.core.output(bus.now, 4, 1 << 20, &mut unwritten);
    }
    let frame = |(kind, bytes): (usize, usize)| {
        let document = document(&[("type", ["a", "b", "c"][kind])], &"x".repeat(bytes));
        let hops = u8::from(matches!(way, Way::Alone));
        Frame::new(0, Content::Publish(Publish { cause: None, hops, epoch: 0, sequence: 0, document })).encode()
    };
    // Rows of two runs, so that the next row begins as the last one ended, or otherwise.
    for row in runs.chunks(2) {
        let messages = row.iter().flat_map(|(kind, bytes, count)| std::iter::repeat_n((*kind, *bytes), *count));
        let input: Vec<u8> = messages.flat_map(frame).collect();
        let mut rest = &input[..];
        while !rest.is_empty() {
            let taken = bus.core.take(bus.now, 1, rest, 1 << 20, &mut bus.actions).bytes;
            assert!(taken > 0);
            rest = &rest[taken..];
            bus.core.check_accounts();
        }
    }
    let counted = [bus.core.published, bus.core.delivered, bus.core.unrouted, bus.core.dropped];
    let told = |Frame { number, content, .. }: &Frame| match content {
        Content::Deliver(deliver) => format!("{number}:{} {}", deliver.id, deliver.document.bytes().len()),
        other => format!("{number}:{other:?}"),
    };
    let told = (1..=4).map(|session| bus.output(session).iter().map(told).collect()).collect();
    bus.core.check_accounts();
    (told, counted)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(200))]

    #[test]
    fn what_is_encoded_once_for_several_is_what_each_alone_gets(
        runs in prop::collection::vec(
            (0_usize..3, prop::sample::select(vec![100_usize, 3_000, 20_000, 70_000]), 1_usize..30), 1..6),
        same_number in prop::bool::weighted(0.9),
        direct_bytes in prop::sample::select(vec![0, 2_000, 30_000, 300_000, 4 << 20]),
        memory_per_uid in prop::sample::select(vec![100_000, 1_000_000, 1 << 27]),
        window in (prop::sample::select(vec![3_u64, 50, 1_000_000]), prop::sample::select(vec![5_000_u64, 1 << 40])),
        queue_messages in prop::sample::select(vec![0_u32, 7, 60]),
        queue_bytes in prop::sample::select(vec![0_u64, 1_000, 40_000]),
        max_age_ms in prop::sample::select(vec![0_u64, 0, 1_000]),
        stuck in any::<bool>(),
    ) {
        let takers = Takers { same_number, direct_bytes, memory_per_uid, window, queue_messages, queue_bytes, max_age_ms, stuck };
        let alone = outcome_of_runs(&runs, Way::Alone, takers);
        prop_assert_eq!(&outcome_of_runs(&runs, Way::Rows, takers), &alone);
    }
}
