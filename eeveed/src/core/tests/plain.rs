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
