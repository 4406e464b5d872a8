//! The core without a socket: what goes in, and what comes out to whom.

use bytes::BytesMut;
use libeevee::filter::{Clause, Filter};
use libeevee::module::Module;
use libeevee::wire::{
    CONFIRM, Deliver, EncodedDocument, Grant, Publish, Published, Reply, Request, State, Subscribe, Verdict,
    split_frame,
};
use libeevee::{Document, Headers};
use proptest::prelude::*;

use super::index::{Slot, View};
use super::*;

/// A core with a clock that a test moves.
struct Bus {
    core: Core,
    now: Now,
    actions: Vec<Action>,
    numbers: u32,
}

fn document(headers: &[(&str, &str)], body: &str) -> EncodedDocument {
    let pairs: Vec<(String, String)> = headers.iter().map(|(k, v)| ((*k).into(), (*v).into())).collect();
    EncodedDocument::from(&Document { headers: Headers::try_from(pairs).unwrap(), body: body.to_owned().into() })
}

fn module(id: &str, text: &str) -> LoadedModule {
    let path = format!("/etc/eevee/modules.d/{id}.toml");
    let file = Module::parse(&id.parse().unwrap(), &path, text).unwrap();
    LoadedModule { file, path, text: text.into() }
}

fn subscribe(filter: &str) -> Subscribe {
    Subscribe {
        filters: vec![filter.into()],
        overflow: 0,
        queue_messages: 0,
        queue_bytes: 0,
        max_age_ms: 0,
        window_messages: 1_000_000,
        window_bytes: 1 << 40,
        durable: None,
    }
}

impl Bus {
    fn new() -> Self {
        let now = Now { mono: Duration::ZERO, wall: 1_000 };
        let core = Core::new(now, 7, Limits::default(), Vec::new(), 1..1 << 40);
        Self { core, now, actions: Vec::new(), numbers: 100 }
    }

    fn step(&mut self, event: Event) {
        self.core.step(self.now, event, &mut self.actions);
    }

    fn pass(&mut self, time: Duration) {
        self.now.mono += time;
        self.step(Event::Tick);
    }

    fn join(&mut self, session: SessionKey, identity: Identity, module: Option<LoadedModule>) -> Vec<Content> {
        let peer = Peer { uid: 1000, pid: Some(42), program: "test 1".into(), instance: session };
        self.step(Event::Join { session, identity, peer, module });
        self.read(session)
    }

    fn operator(&mut self, session: SessionKey, id: &str) {
        let first = self.join(session, Identity::Operator(id.parse().unwrap()), None);
        assert!(matches!(first[..], [Content::Welcome(_)]), "{first:?}");
    }

    fn send(&mut self, session: SessionKey, number: u32, content: Content) {
        self.step(Event::Frame { session, frame: Frame::new(number, content) });
    }

    fn subscribe(&mut self, session: SessionKey, number: u32, asked: Subscribe) {
        self.send(session, number, Content::Subscribe(asked));
        assert_eq!(self.read(session), [Content::Ok]);
    }

    fn publish(&mut self, session: SessionKey, headers: &[(&str, &str)]) -> Content {
        self.publish_as(session, None, 0, headers)
    }

    fn publish_as(&mut self, session: SessionKey, cause: Option<u64>, hops: u8, headers: &[(&str, &str)]) -> Content {
        self.numbers += 1;
        let document = document(headers, "body");
        let publish = Publish { cause, hops, epoch: 0, sequence: 0, document };
        let frame = Frame { flags: CONFIRM, number: self.numbers, content: Content::Publish(publish) };
        self.step(Event::Frame { session, frame });
        self.read(session)
            .into_iter()
            .find(|content| matches!(content, Content::Published(_) | Content::Error(_)))
            .unwrap()
    }

    fn output(&mut self, session: SessionKey) -> Vec<Frame> {
        let mut out = Vec::new();
        while self.core.output(self.now, session, 1 << 20, &mut out) {}
        // All is written.
        self.core.output(self.now, session, 0, &mut Vec::new());
        let mut bytes = BytesMut::from(&out[..]);
        std::iter::from_fn(|| split_frame(&mut bytes, 1 << 20).unwrap())
            .map(|bytes| Frame::decode(bytes).unwrap().unwrap())
            .collect()
    }

    fn read(&mut self, session: SessionKey) -> Vec<Content> {
        self.output(session).into_iter().map(|frame| frame.content).collect()
    }

    /// Deliveries and gaps, in short.
    fn seen(&mut self, session: SessionKey) -> Vec<String> {
        self.output(session)
            .into_iter()
            .filter_map(|frame| match frame.content {
                Content::Deliver(d) => Some(format!("{}:{} from {}", frame.number, d.id, d.source)),
                Content::Gap(g) => Some(format!("{}:gap {}-{} {:?}", frame.number, g.first, g.last, g.count)),
                _ => None,
            })
            .collect()
    }

    fn status(&self, id: &OperatorId) -> serde_json::Value {
        serde_json::from_str::<serde_json::Value>(&self.core.status(Some(id)).unwrap()).unwrap()[0].clone()
    }

    fn delivered(&mut self, session: SessionKey) -> Vec<Deliver> {
        self.read(session)
            .into_iter()
            .filter_map(|content| if let Content::Deliver(deliver) = content { Some(deliver) } else { None })
            .collect()
    }
}

fn code(content: &Content) -> Code {
    match content {
        Content::Error(refusal) => Code::from_number(refusal.code),
        other => panic!("no error: {other:?}"),
    }
}

#[test]
fn a_message_goes_to_whom_it_matches_once_a_subscription() {
    let mut bus = Bus::new();
    bus.operator(1, "irc");
    bus.operator(2, "dice");
    bus.operator(3, "log");
    bus.subscribe(2, 1, subscribe("type=chat.message,command=dice"));
    let two = Subscribe { filters: vec!["type=chat.message".into(), "channel=#a".into()], ..subscribe("*") };
    bus.subscribe(3, 1, two);
    let answer = bus.publish(1, &[("type", "chat.message"), ("channel", "#a"), ("command", "dice")]);
    assert_eq!(answer, Content::Published(Published { id: 4, live: 2, durable: 0 }));
    assert_eq!(bus.seen(2), ["1:4 from irc"]);
    assert_eq!(bus.seen(3), ["1:4 from irc"]);
    assert_eq!(bus.publish(1, &[("type", "other")]), Content::Published(Published { id: 5, live: 0, durable: 0 }));
    assert_eq!(bus.core.unrouted, 1);
    bus.step(Event::Leave { session: 2 });
    bus.step(Event::Leave { session: 3 });
    assert_eq!(bus.core.memory, 0);
}

#[test]
fn a_slow_subscriber_is_told_exactly_what_it_lost_and_delays_nobody() {
    let mut bus = Bus::new();
    bus.operator(1, "irc");
    bus.operator(2, "slow");
    bus.operator(3, "fast");
    bus.subscribe(2, 1, Subscribe { queue_messages: 3, ..subscribe("*") });
    bus.subscribe(3, 1, subscribe("type=x"));
    for _ in 0..5 {
        bus.publish(1, &[("type", "x")]);
        assert_eq!(bus.seen(3).len(), 1);
    }
    assert_eq!(bus.seen(2), ["1:gap 4-5 Some(2)", "1:6 from irc", "1:7 from irc", "1:8 from irc"]);
    bus.step(Event::Leave { session: 2 });
    bus.step(Event::Leave { session: 3 });
    assert_eq!(bus.core.memory, 0);
}

#[test]
fn the_window_holds_deliveries_and_a_grant_lets_them_go() {
    let mut bus = Bus::new();
    bus.operator(1, "irc");
    bus.operator(2, "dice");
    bus.subscribe(2, 7, Subscribe { window_messages: 2, ..subscribe("type=x") });
    for _ in 0..4 {
        bus.publish(1, &[("type", "x")]);
    }
    assert_eq!(bus.seen(2).len(), 2);
    bus.send(2, 7, Content::Grant(Grant { messages: 1, bytes: 0 }));
    assert_eq!(bus.seen(2).len(), 1);
    bus.send(2, 7, Content::Grant(Grant { messages: 100, bytes: 0 }));
    assert_eq!(bus.seen(2).len(), 1);
}

#[test]
fn halt_holds_deliveries_and_resume_tells_how_long_they_waited() {
    let mut bus = Bus::new();
    bus.operator(1, "irc");
    bus.operator(2, "dice");
    bus.subscribe(2, 1, subscribe("type=x"));
    let dice: OperatorId = "dice".parse().unwrap();
    bus.join(9, Identity::Person { name: "root".into(), admin: true }, None);
    let halt = |verb: &str| Content::Control(Control { verb: verb.into(), id: "dice".into(), argument: String::new() });
    bus.send(9, 1, halt("halt"));
    assert_eq!(bus.read(9), [Content::Ok]);
    assert!(bus.actions.iter().any(|action| matches!(action, Action::SaveHalted { on: true, .. })));
    bus.publish(1, &[("type", "x")]);
    assert!(matches!(bus.read(2)[..], [Content::Halted(flag)] if flag.on));
    bus.pass(Duration::from_secs(5));
    // The flag outlives the session.
    bus.step(Event::Leave { session: 2 });
    bus.operator(3, "dice");
    bus.subscribe(3, 1, subscribe("type=x"));
    bus.publish(1, &[("type", "x")]);
    assert_eq!(bus.seen(3), [""; 0]);
    bus.pass(Duration::from_secs(5));
    bus.send(9, 2, halt("resume"));
    let delivered = bus.delivered(3);
    assert_eq!(delivered.len(), 1);
    assert_eq!(delivered[0].waited_ms, 5_000);
    assert!(!bus.core.operators[&dice].halted);
    bus.publish(1, &[("type", "x")]);
    assert_eq!(bus.delivered(3)[0].waited_ms, 0);
}

#[test]
fn a_halted_subscription_is_never_disconnected_but_a_slow_one_is() {
    let mut bus = Bus::new();
    bus.operator(1, "irc");
    bus.operator(2, "dice");
    bus.subscribe(2, 1, Subscribe { queue_messages: 2, overflow: 3, ..subscribe("type=x") });
    bus.core.set_halted(bus.now, &"dice".parse().unwrap(), true);
    for _ in 0..5 {
        bus.publish(1, &[("type", "x")]);
    }
    bus.core.set_halted(bus.now, &"dice".parse().unwrap(), false);
    assert_eq!(bus.seen(2).len(), 3); // A gap and two messages.
    for _ in 0..3 {
        bus.publish(1, &[("type", "x")]);
    }
    assert!(bus.actions.iter().any(|action| matches!(action, Action::Close(2))));
    assert_eq!(code(&bus.read(2)[0]), Code::SlowConsumer);
}

#[test]
fn permissions_name_the_rule_and_bind_both_ways() {
    let mut bus = Bus::new();
    let rules = "[bus]\nmay-publish = [\"direction=in,platform=irc\"]\nmay-receive = [\"direction=out\"]\n";
    bus.join(1, Identity::Operator("irc".parse().unwrap()), Some(module("irc", rules)));
    bus.operator(2, "dice");
    bus.subscribe(1, 1, subscribe("*"));
    bus.subscribe(2, 1, subscribe("*"));
    let denied = bus.publish(1, &[("type", "chat.message"), ("direction", "out")]);
    assert_eq!(code(&denied), Code::Denied);
    let Content::Error(Refusal { rule: Some(rule), .. }) = denied else { panic!() };
    assert_eq!(rule, "direction=in,platform=irc");
    assert!(matches!(bus.publish(1, &[("direction", "in"), ("platform", "irc")]), Content::Published(_)));
    bus.seen(2);
    assert_eq!(bus.seen(1), [""; 0], "it may not receive its own direction=in");
    bus.publish(2, &[("direction", "out")]);
    assert_eq!(bus.seen(1).len(), 1);
    assert_eq!(code(&bus.publish(2, &[("type", "control.start")])), Code::Denied);
    // Twice, so that the memo answers too.
    assert_eq!(code(&bus.publish(2, &[("type", "control.start")])), Code::Denied);
    bus.join(9, Identity::Person { name: "root".into(), admin: true }, None);
    assert!(matches!(bus.publish(9, &[("type", "control.start")]), Content::Published(_)));
}

#[test]
fn a_second_holder_is_refused_by_name_and_a_reconnect_replaces_itself() {
    let mut bus = Bus::new();
    bus.operator(1, "irc");
    let refused = bus.join(2, Identity::Operator("irc".parse().unwrap()), None);
    assert_eq!(code(&refused[0]), Code::AlreadyConnected);
    let Content::Error(Refusal { text, .. }) = &refused[0] else { panic!() };
    assert!(text.contains("pid 42") && text.contains("session 1") && text.contains("test 1"), "{text}");
    bus.step(Event::Leave { session: 2 });
    assert!(bus.core.operators[&"irc".parse::<OperatorId>().unwrap()].session == Some(1), "the holder stays");
    let peer = Peer { uid: 1000, pid: Some(42), program: "test 1".into(), instance: 1 };
    bus.step(Event::Join { session: 3, identity: Identity::Operator("irc".parse().unwrap()), peer, module: None });
    assert!(matches!(bus.read(3)[..], [Content::Welcome(_)]));
    assert!(bus.actions.iter().any(|action| matches!(action, Action::Close(1))));
}

#[test]
fn a_request_is_answered_once_by_a_receiver_or_ends_at_its_deadline() {
    let mut bus = Bus::new();
    bus.operator(1, "asker");
    bus.operator(2, "knows");
    bus.operator(3, "other");
    let ask = |document| Content::Request(Request { deadline_ms: 1000, cause: None, hops: 0, document });
    bus.send(1, 5, ask(document(&[("type", "q")], "")));
    assert_eq!(code(&bus.read(1)[0]), Code::NoResponder);
    bus.subscribe(2, 1, subscribe("type=q"));
    bus.send(1, 6, ask(document(&[("type", "q")], "")));
    let address = bus.delivered(2)[0].reply_address.unwrap();
    let reply = || Content::Reply(Reply { address, document: document(&[], "42") });
    bus.send(3, 1, reply());
    assert_eq!(code(&bus.read(3)[0]), Code::NotFound, "only a receiver may answer");
    bus.send(2, 2, reply());
    assert_eq!(bus.read(2), [Content::Ok]);
    assert!(matches!(&bus.read(1)[..], [Content::Response(r)] if r.source == "knows"));
    bus.send(2, 3, reply());
    assert_eq!(code(&bus.read(2)[0]), Code::NotFound, "only once");
    bus.send(1, 7, ask(document(&[("type", "q")], "")));
    assert_eq!(bus.core.deadline(), Some(Duration::from_secs(1)));
    bus.pass(Duration::from_secs(1));
    assert_eq!(code(&bus.read(1)[0]), Code::Deadline);
    assert_eq!(bus.core.deadline(), None);
}

#[test]
fn answers_to_answers_end_at_sixteen() {
    let mut bus = Bus::new();
    bus.operator(1, "a");
    let mut cause = None;
    for depth in 0..20 {
        match bus.publish_as(1, cause, 0, &[("type", "x")]) {
            Content::Published(published) => cause = Some(published.id),
            error => {
                assert_eq!((depth, code(&error)), (17, Code::Loop));
                return;
            }
        }
    }
    panic!("the loop went on");
}

#[test]
fn credit_is_granted_back_and_overdrawing_ends_the_session() {
    let mut bus = Bus::new();
    bus.core.limits.credit_messages = 4;
    bus.operator(1, "a");
    let publish = || {
        Content::Publish(Publish {
            cause: None,
            hops: 0,
            epoch: 0,
            sequence: 0,
            document: document(&[("type", "x")], ""),
        })
    };
    bus.send(1, 0, publish());
    assert_eq!(bus.read(1), []);
    bus.send(1, 0, publish());
    assert!(matches!(bus.read(1)[..], [Content::Grant(Grant { messages: 2, .. })]));
    let rate = "[bus]\nrate = { per-second = 10, burst = 2 }\n";
    bus.join(2, Identity::Operator("b".parse().unwrap()), Some(module("b", rate)));
    bus.send(2, 0, publish());
    bus.send(2, 0, publish());
    assert_eq!(bus.read(2), []);
    bus.pass(Duration::from_millis(100));
    assert!(matches!(bus.read(2)[..], [Content::Grant(Grant { messages: 1, .. })]));
    bus.send(2, 0, publish());
    bus.send(2, 3, publish());
    assert_eq!(code(&bus.read(2)[0]), Code::Credit);
}

#[test]
fn reload_commits_both_or_neither() {
    let mut bus = Bus::new();
    let id: OperatorId = "irc".parse().unwrap();
    bus.join(1, Identity::Operator(id.clone()), Some(module("irc", "")));
    bus.join(9, Identity::ReloadHelper(id.clone()), None);
    let control =
        |verb: &str, id: &str| Content::Control(Control { verb: verb.into(), id: id.into(), argument: String::new() });
    bus.send(9, 1, control("halt", "irc"));
    assert_eq!(code(&bus.read(9)[0]), Code::Denied);
    bus.send(9, 2, control("reload", "dice"));
    assert_eq!(code(&bus.read(9)[0]), Code::Denied);
    bus.send(9, 3, control("reload", "irc"));
    assert!(bus.actions.iter().any(|action| matches!(action, Action::Control { session: 9, number: 3, .. })));

    bus.step(Event::ModuleRead { id: id.clone(), asker: (9, 3), outcome: Err("irc.toml:1:1: no".into()) });
    assert_eq!(code(&bus.read(9)[0]), Code::Refused);

    let strict = module("irc", "[bus]\nmay-publish = []\n");
    let read = |asker| Event::ModuleRead { id: id.clone(), asker, outcome: Ok(strict.clone()) };
    bus.step(read((9, 4)));
    let [Frame { number, content: Content::Reload(_), .. }] = &bus.output(1)[..] else { panic!() };
    let no = Verdict { accepted: false, text: "irc.toml:7:1: unknown key".into() };
    bus.send(1, *number, Content::Verdict(no));
    assert_eq!(code(&bus.read(9)[0]), Code::Refused);
    assert!(matches!(bus.publish(1, &[("type", "x")]), Content::Published(_)), "[bus] stayed as it was");
    assert_eq!(bus.status(&id)["last_reload"]["accepted"], false);

    bus.step(read((9, 5)));
    let number = bus.output(1)[0].number;
    bus.send(1, number, Content::Verdict(Verdict { accepted: true, text: String::new() }));
    assert_eq!(bus.read(1), [Content::Commit]);
    assert_eq!(bus.read(9), [Content::Ok]);
    assert_eq!(code(&bus.publish(1, &[("type", "x")])), Code::Denied, "[bus] changed with it");

    bus.step(read((9, 6)));
    bus.read(1);
    bus.pass(Duration::from_secs(20));
    assert_eq!(code(&bus.read(9)[0]), Code::NoAnswer);
    assert!(matches!(bus.read(1)[..], [Content::Abort(_)]));
}

#[test]
fn names_are_claimed_by_one_and_freed_at_its_end() {
    let mut bus = Bus::new();
    bus.operator(1, "irc");
    bus.operator(2, "irc2");
    let claim = || Content::Claim(Text { text: "irc/libera".into() });
    bus.send(1, 1, claim());
    assert_eq!(bus.read(1), [Content::Ok]);
    bus.send(2, 1, claim());
    assert_eq!(code(&bus.read(2)[0]), Code::AlreadyConnected);
    bus.step(Event::Leave { session: 1 });
    bus.send(2, 2, claim());
    assert_eq!(bus.read(2), [Content::Ok]);
}

#[test]
fn the_state_of_operators_is_announced() {
    let mut bus = Bus::new();
    bus.operator(1, "watch");
    bus.subscribe(1, 1, subscribe("type=operator.state,operator=irc"));
    bus.operator(2, "irc");
    bus.send(2, 0, Content::State(State { state: 2, status: "on #eevee\u{7}".into() }));
    bus.step(Event::Leave { session: 2 });
    let states: Vec<_> =
        bus.delivered(1).iter().map(|d| (d.source.clone(), d.document.header("state").unwrap().to_owned())).collect();
    let expected = ["starting", "ready", "away"].map(|state| ("eeveed".to_owned(), state.to_owned()));
    assert_eq!(states, expected);
    assert!(bus.actions.iter().any(|action| matches!(action, Action::Ended { .. })));
}

#[test]
fn limits_on_subscriptions_filters_and_memory() {
    let mut bus = Bus::new();
    bus.operator(1, "a");
    for number in 1..=512 {
        bus.subscribe(1, number, subscribe("type=x"));
    }
    bus.send(1, 513, Content::Subscribe(subscribe("type=x")));
    let Content::Error(refusal) = &bus.read(1)[0] else { panic!() };
    assert_eq!((Code::from_number(refusal.code), refusal.limit, refusal.value), (Code::Quota, Some(512), Some(513)));
    bus.send(1, 1, Content::Unsubscribe);
    bus.read(1);
    let many = (0..33).map(|i| format!("k{i}=v")).collect::<Vec<_>>().join(",");
    bus.send(1, 514, Content::Subscribe(subscribe(&many)));
    assert_eq!(code(&bus.read(1)[0]), Code::FilterTooLarge);
    bus.send(1, 515, Content::Subscribe(subscribe("type=")));
    assert_eq!(code(&bus.read(1)[0]), Code::BadFilter);
    bus.send(1, 3, Content::Subscribe(subscribe("type=x")));
    assert_eq!(code(&bus.read(1)[0]), Code::Quota, "a number is never used again");
    bus.core.limits.memory_bytes = 100;
    assert_eq!(code(&bus.publish(1, &[("type", "x")])), Code::Memory);
    bus.step(Event::Leave { session: 1 });
    assert_eq!((bus.core.memory, bus.core.subscriptions.len()), (0, 0));
}

#[test]
fn volatile_filters_are_matched_for_every_message() {
    let mut bus = Bus::new();
    bus.operator(1, "a");
    bus.operator(2, "b");
    bus.subscribe(2, 1, subscribe("hops>0"));
    bus.subscribe(2, 2, subscribe("source=a,type=x"));
    let Content::Published(first) = bus.publish(1, &[("type", "x")]) else { panic!() };
    bus.publish_as(1, Some(first.id), 0, &[("type", "x")]);
    let mut seen = bus.seen(2);
    seen.sort();
    assert_eq!(seen, ["1:4 from a", "2:3 from a", "2:4 from a"].map(String::from));
}

#[test]
fn ids_run_out_only_when_nothing_more_was_reserved() {
    let mut bus = Bus::new();
    bus.core.ids = 10..12;
    bus.operator(1, "a"); // operator.state takes one.
    assert!(bus.actions.iter().any(|action| matches!(action, Action::ReserveIds)));
    assert!(matches!(bus.publish(1, &[("type", "x")]), Content::Published(Published { id: 11, .. })));
    assert_eq!(code(&bus.publish(1, &[("type", "x")])), Code::Storage);
    bus.step(Event::Ids(20));
    assert!(matches!(bus.publish(1, &[("type", "x")]), Content::Published(Published { id: 12, .. })));
}

fn small_filters() -> impl Strategy<Value = Filter> {
    let key = prop::sample::select(vec!["a", "b", "c", "source"]);
    let value = prop::sample::select(vec!["1", "2", "3", "x"]);
    let clause = (key, value.clone(), value, 0..8).prop_map(|(key, one, two, kind)| {
        let key = key.to_owned();
        let values = || if one == two { vec![one.to_owned()] } else { vec![one.to_owned(), two.to_owned()] };
        match kind {
            0 | 1 => Clause::Equals { key, value: one.into() },
            2 => Clause::NotEquals { key, value: one.into() },
            3 => Clause::In { key, values: values() },
            4 => Clause::NotIn { key, values: values() },
            5 => Clause::Exists { key },
            6 => Clause::Absent { key },
            _ => Clause::Glob { key, pattern: libeevee::filter::Glob::literal(one) },
        }
    });
    prop::collection::vec(clause, 0..4).prop_map(|clauses| {
        clauses.into_iter().fold(Filter::builder(), |builder, clause| builder.clause(clause)).build().unwrap()
    })
}

proptest! {
    /// The index finds just what looking at every filter finds, whatever was inserted and removed.
    #[test]
    fn the_index_equals_the_naive_matcher(
        subscriptions in prop::collection::vec(prop::collection::vec(small_filters(), 1..3), 0..30),
        removed in prop::collection::vec(any::<prop::sample::Index>(), 0..10),
        messages in prop::collection::vec(prop::collection::btree_map("[abc]", "[123x]", 0..4), 1..10),
        source in prop::sample::select(vec!["1", "x", "other"]),
    ) {
        let mut index = Index::default();
        let mut naive: Vec<(Slot, Vec<Filter>)> = (0..).zip(subscriptions).collect();
        for (slot, filters) in &naive {
            index.insert(*slot, filters);
        }
        for removed in removed {
            if !naive.is_empty() {
                let (slot, _) = naive.remove(removed.index(naive.len()));
                index.remove(slot);
            }
        }
        for message in messages {
            let pairs: Vec<(&str, &str)> = message.iter().map(|(k, v)| (k.as_str(), v.as_str())).collect();
            let document = document(&pairs, "");
            let view = View::new(1, source, 2, None, 0, &document);
            let expected: Vec<Slot> = naive
                .iter()
                .filter(|(_, filters)| filters.iter().any(|filter| filter.matches(&view)))
                .map(|(slot, _)| *slot)
                .collect();
            prop_assert_eq!(index.find(&view), expected);
        }
    }
}

fn control(verb: &str, id: &str) -> Content {
    Content::Control(Control { verb: verb.into(), id: id.into(), argument: String::new() })
}

/// The rights of a person may have changed between two of their sessions.
#[test]
fn what_one_session_may_publish_is_no_answer_for_another_of_the_same_person() {
    let mut bus = Bus::new();
    bus.join(1, Identity::Person { name: "ann".into(), admin: true }, None);
    bus.join(2, Identity::Person { name: "ann".into(), admin: false }, None);
    assert!(matches!(bus.publish(1, &[("type", "control.start")]), Content::Published(_)));
    assert_eq!(code(&bus.publish(2, &[("type", "control.start")])), Code::Denied);
}

#[test]
fn a_denial_repeats_no_more_of_rule_and_headers_than_a_person_reads() {
    let mut bus = Bus::new();
    let long = "x".repeat(1000);
    let rules: Vec<String> = (0..60).map(|n| format!("\"channel=#{n}{long}\"")).collect();
    let rules = format!("[bus]\nmay-publish = [{}]\n", rules.join(","));
    bus.join(1, Identity::Operator("irc".parse().unwrap()), Some(module("irc", &rules)));
    let value = "x".repeat(1000);
    let headers: Vec<(String, &str)> = (0..60).map(|n| (format!("k{n}"), value.as_str())).collect();
    let headers: Vec<(&str, &str)> = headers.iter().map(|(key, value)| (key.as_str(), *value)).collect();
    let Content::Error(refusal) = bus.publish(1, &headers) else { panic!() };
    assert!(refusal.rule.unwrap().starts_with("channel=#0x"));
    assert!(refusal.text.len() < 4096, "{}", refusal.text);
}

/// Whatever waits anywhere is counted, and nothing is left when it is gone.
#[test]
fn all_that_waits_is_counted_as_memory() {
    let mut bus = Bus::new();
    bus.operator(1, "a");
    bus.operator(2, "b");
    assert_eq!(bus.core.memory, 0);
    bus.subscribe(2, 1, Subscribe { window_messages: 0, ..subscribe("type=x") });
    let one = bus.core.memory;
    for number in 2..=100 {
        bus.subscribe(2, number, Subscribe { window_messages: 0, ..subscribe("type=x") });
    }
    assert!(bus.core.memory >= 100 * one / 2 && one > 1000, "{one}, {}", bus.core.memory);
    let before = bus.core.memory;
    bus.publish(1, &[("type", "x")]);
    let places = bus.core.memory - before;
    assert!(places > 100 * size_of::<queue::Waiting>(), "one message in a hundred queues takes {places}");
    bus.send(2, 1, Content::Unsubscribe);
    bus.read(2);
    bus.step(Event::Leave { session: 2 });
    assert_eq!(bus.core.memory, 0);
}

#[test]
fn every_end_of_a_message_gives_its_memory_back() {
    for overflow in 1..=3 {
        let mut bus = Bus::new();
        bus.operator(1, "a");
        bus.operator(2, "b");
        let small = Subscribe { queue_messages: 2, window_messages: 1, overflow, max_age_ms: 5, ..subscribe("type=x") };
        bus.subscribe(2, 1, small.clone());
        bus.subscribe(2, 2, Subscribe { queue_bytes: 10, ..small });
        for _ in 0..4 {
            bus.publish(1, &[("type", "x")]);
        }
        let waits = bus.core.memory;
        bus.pass(Duration::from_secs(1));
        bus.send(2, 1, Content::Grant(Grant { messages: 10, bytes: 0 }));
        bus.read(2);
        assert!(bus.core.memory < waits);
        bus.step(Event::Leave { session: 2 });
        assert_eq!(bus.core.memory, 0, "policy {overflow}");
    }
}

#[test]
fn an_asker_that_does_not_read_fills_nothing() {
    let mut bus = Bus::new();
    bus.core.limits.queue_bytes = 10_000;
    bus.operator(1, "asker");
    bus.operator(2, "knows");
    bus.subscribe(2, 1, subscribe("type=q"));
    let body = "x".repeat(4000);
    for number in 1..=5 {
        let document = document(&[("type", "q")], "");
        bus.send(1, number, Content::Request(Request { deadline_ms: 1000, cause: None, hops: 0, document }));
    }
    let asked = bus.delivered(2);
    assert_eq!(asked.len(), 5);
    for (number, question) in (1..).zip(asked) {
        let address = question.reply_address.unwrap();
        bus.send(2, number, Content::Reply(Reply { address, document: document(&[], &body) }));
    }
    let answers = bus.read(2);
    assert_eq!(answers[..2], [Content::Ok, Content::Ok]);
    assert_eq!(code(&answers[2]), Code::Memory);
    assert!(bus.core.owed < 20_000, "{}", bus.core.owed);
    let got = bus.read(1);
    assert_eq!(got.iter().filter(|content| matches!(content, Content::Response(_))).count(), 2);
    assert_eq!(code(got.last().unwrap()), Code::Memory);
    bus.step(Event::Leave { session: 2 });
    bus.step(Event::Leave { session: 1 });
    assert_eq!((bus.core.memory, bus.core.owed), (0, 0));
}

#[test]
fn frames_that_are_not_whole_are_counted_too() {
    let mut bus = Bus::new();
    bus.operator(1, "a");
    bus.operator(2, "b");
    bus.core.limits.memory_bytes = 1 << 20;
    bus.core.count_input(1, 800_000);
    bus.core.count_input(1, 1 << 20);
    assert!(bus.core.has_room());
    bus.send(1, 1, Content::Ping(Value { value: 1 }));
    assert!(!bus.core.has_room());
    bus.read(1);
    assert!(bus.core.has_room());
    bus.send(2, 1, Content::Subscribe(subscribe("*")));
    assert_eq!(code(&bus.read(2)[0]), Code::Memory);
    bus.step(Event::Leave { session: 1 });
    bus.subscribe(2, 2, subscribe("*"));
    bus.step(Event::Leave { session: 2 });
    assert_eq!((bus.core.memory, bus.core.owed), (0, 0));
}

#[test]
fn a_session_has_few_verbs_under_way_at_a_time() {
    let mut bus = Bus::new();
    bus.join(1, Identity::Person { name: "ann".into(), admin: false }, None);
    for number in 1..=8 {
        bus.send(1, number, control("status", ""));
    }
    assert_eq!(bus.read(1), []);
    bus.send(1, 9, control("status", ""));
    assert_eq!(code(&bus.read(1)[0]), Code::Quota);
    bus.step(Event::Answered { session: 1, number: 1, outcome: Ok(Some("[]".into())) });
    assert!(matches!(bus.read(1)[..], [Content::Answer(_)]));
    bus.send(1, 10, control("status", ""));
    assert_eq!(bus.read(1), []);
}

/// At the start the core knows no module file; only `status` tells it which there are.
#[test]
fn an_operator_that_never_connected_can_be_halted() {
    let mut bus = Bus::new();
    let id: OperatorId = "irc".parse().unwrap();
    bus.join(9, Identity::Person { name: "root".into(), admin: true }, None);
    bus.send(9, 1, control("halt", "irc"));
    assert!(bus.actions.iter().any(|action| matches!(action, Action::Control { number: 1, .. })));
    bus.step(Event::Modules(vec![(id.clone(), Ok(module("irc", "")))]));
    bus.step(Event::Halt { session: 9, number: 1, id: id.clone(), on: true });
    assert_eq!(bus.read(9), [Content::Ok]);
    assert!(bus.core.operators[&id].halted);
    bus.step(Event::Halt { session: 9, number: 2, id: "none".parse().unwrap(), on: true });
    assert_eq!(code(&bus.read(9)[0]), Code::NotFound);
}

#[test]
fn status_fits_a_frame_whatever_an_operator_subscribes_to() {
    let mut bus = Bus::new();
    bus.operator(1, "hoarder");
    let long = format!("channel in ({})", (0..200).map(|n| n.to_string()).collect::<Vec<_>>().join(","));
    for number in 1..=512 {
        bus.subscribe(1, number, Subscribe { filters: vec![long.clone(); 8], ..subscribe("*") });
    }
    let id: OperatorId = "hoarder".parse().unwrap();
    let status = bus.core.status(None).unwrap();
    assert!(status.len() <= bus.core.limits.frame_bytes, "{}", status.len());
    assert_eq!(bus.status(&id)["connected"], true);
}

#[test]
fn what_was_answered_before_bye_is_still_written() {
    let mut bus = Bus::new();
    bus.operator(1, "a");
    bus.numbers += 1;
    let publish = Publish { cause: None, hops: 0, epoch: 0, sequence: 0, document: document(&[("type", "x")], "") };
    bus.step(Event::Frame {
        session: 1,
        frame: Frame { flags: CONFIRM, number: 7, content: Content::Publish(publish) },
    });
    bus.send(1, 0, Content::Bye(Text { text: "done\u{1b}".repeat(100_000) }));
    bus.operator(2, "a");
    assert!(matches!(bus.read(1)[..], [Content::Published(_)]));
    bus.step(Event::Leave { session: 1 });
    bus.step(Event::Leave { session: 2 });
    assert!(bus.core.parting.is_empty());
    assert_eq!((bus.core.memory, bus.core.owed), (0, 0));
}

#[test]
fn why_an_operator_left_is_one_short_line() {
    let mut bus = Bus::new();
    let id: OperatorId = "a".parse().unwrap();
    bus.operator(1, "a");
    bus.send(1, 0, Content::Bye(Text { text: "done\u{1b}\n".repeat(100_000) }));
    let status = bus.status(&id);
    let why = status["status"].as_str().unwrap();
    assert!(why.starts_with("donedone") && why.len() == 200, "{why}");
}

#[test]
fn a_session_that_the_bus_has_ended_holds_no_id() {
    let mut bus = Bus::new();
    bus.operator(1, "a");
    bus.step(Event::BadFrame { session: 1, error: Frame::decode(bytes::Bytes::new()).unwrap_err() });
    bus.operator(2, "a");
    bus.step(Event::Leave { session: 1 });
    assert_eq!(bus.core.operators[&"a".parse::<OperatorId>().unwrap()].session, Some(2));
}

#[test]
fn nobody_joins_a_bus_that_stops() {
    let mut bus = Bus::new();
    bus.step(Event::Stop("the bus is stopping".into()));
    let told = bus.join(1, Identity::Operator("a".parse().unwrap()), None);
    assert_eq!(code(&told[0]), Code::Stopping);
    assert!(bus.actions.iter().any(|action| matches!(action, Action::Close(1))));
}

#[test]
fn a_flood_of_states_is_announced_slowly_and_the_last_one_surely() {
    let mut bus = Bus::new();
    bus.operator(1, "watch");
    bus.subscribe(1, 1, subscribe("type=operator.state,operator=irc"));
    bus.operator(2, "irc");
    for number in 0..1000 {
        bus.send(2, 0, Content::State(State { state: 2, status: format!("state {number}") }));
    }
    assert_eq!(bus.delivered(1).len(), 20);
    assert_eq!(bus.core.deadline(), Some(Duration::from_secs(1)));
    bus.pass(Duration::from_secs(1));
    let late = bus.delivered(1);
    assert_eq!(late.len(), 1);
    assert_eq!(late[0].document.body(), "state 999");
    assert_eq!(bus.core.deadline(), None);
}

#[test]
fn what_the_bus_itself_cannot_tell_for_want_of_memory_is_a_gap() {
    let mut bus = Bus::new();
    bus.operator(1, "watch");
    bus.subscribe(1, 1, subscribe("type=operator.state"));
    bus.core.limits.memory_bytes = 100;
    bus.operator(2, "irc");
    assert_eq!(bus.seen(1), ["1:gap 2-2 Some(1)"]);
}

#[test]
fn systemd_is_asked_once_however_often_an_operator_comes_and_goes() {
    let mut bus = Bus::new();
    let asked = |bus: &Bus| bus.actions.iter().filter(|action| matches!(action, Action::Ended { .. })).count();
    for session in 1..=10 {
        bus.operator(session, "a");
        bus.step(Event::Leave { session });
    }
    assert_eq!(asked(&bus), 1);
    bus.step(Event::Failure { id: "a".parse().unwrap(), failure: None });
    bus.operator(11, "a");
    bus.step(Event::Leave { session: 11 });
    assert_eq!(asked(&bus), 2);
}

#[test]
fn the_number_of_an_ended_subscription_is_never_used_again() {
    let mut bus = Bus::new();
    bus.operator(1, "a");
    bus.subscribe(1, 5, subscribe("*"));
    bus.send(1, 5, Content::Unsubscribe);
    assert_eq!(bus.read(1), [Content::Ok]);
    bus.send(1, 5, Content::Subscribe(subscribe("*")));
    assert_eq!(code(&bus.read(1)[0]), Code::Quota);
}

#[test]
fn a_reload_that_takes_a_right_away_takes_what_waits_too() {
    let mut bus = Bus::new();
    let id: OperatorId = "irc".parse().unwrap();
    bus.join(1, Identity::Operator(id.clone()), Some(module("irc", "")));
    bus.operator(2, "a");
    bus.subscribe(1, 1, subscribe("*"));
    bus.core.set_halted(bus.now, &id, true);
    bus.read(1);
    bus.publish(2, &[("type", "secret")]);
    bus.publish(2, &[("type", "x")]);
    let rules = module("irc", "[bus]\nmay-receive = [\"type=x\"]\n");
    bus.step(Event::ModuleRead { id: id.clone(), asker: (2, 1), outcome: Ok(rules) });
    let number = bus.output(1)[0].number;
    bus.send(1, number, Content::Verdict(Verdict { accepted: true, text: String::new() }));
    bus.core.set_halted(bus.now, &id, false);
    let kinds: Vec<_> = bus.delivered(1).iter().map(|d| d.document.header("type").unwrap().to_owned()).collect();
    assert_eq!(kinds, ["x"]);
    bus.read(2);
    bus.step(Event::Leave { session: 1 });
    assert_eq!(bus.core.memory, 0);
}

#[test]
fn the_diagnosis_of_an_operator_is_kept_short() {
    let mut bus = Bus::new();
    let id: OperatorId = "irc".parse().unwrap();
    bus.operator(1, "irc");
    bus.step(Event::ModuleRead { id: id.clone(), asker: (1, 1), outcome: Ok(module("irc", "")) });
    let number = bus.output(1)[0].number;
    bus.send(1, number, Content::Verdict(Verdict { accepted: false, text: "no ".repeat(300_000) }));
    assert!(bus.status(&id)["last_reload"]["text"].as_str().unwrap().len() < 10_000);
    assert!(bus.actions.iter().all(|action| !matches!(action, Action::Log { text, .. } if text.len() > 10_000)));
}

/// No socket, clock, thread, file or runtime: then a run is its events, and a seed repeats it.
#[test]
fn the_core_is_pure() {
    let folder = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("src/core");
    for entry in std::fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.ends_with("tests.rs") || path.ends_with("simulation.rs") {
            continue;
        }
        let text = std::fs::read_to_string(&path).unwrap();
        for forbidden in [
            "tokio",
            "std::net",
            "std::os",
            "std::fs",
            "std::io",
            "std::thread",
            "std::env",
            "Instant",
            "SystemTime",
            "nix::",
            "Timestamp::now",
        ] {
            let code = text.lines().filter(|line| !line.trim_start().starts_with("//"));
            let found = code.filter(|line| line.contains(forbidden)).collect::<Vec<_>>();
            assert!(found.is_empty(), "{}: {forbidden} in {found:?}", path.display());
        }
    }
}
