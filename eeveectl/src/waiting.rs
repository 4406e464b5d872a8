//! Why messages of a durable subscription wait, or were given up, in words, and what to type next.

use std::collections::BTreeMap;
use std::time::Duration;

use libeevee::client::Client;

use crate::bus::BusView;
use crate::durable::{self, DeadView, QueueView, StoreView, Whose};
use crate::output;
use crate::values::Owner;

/// Who works on its messages is through with each of them sooner.
const SLOW: Duration = Duration::from_secs(60);

/// From here on a person should know that it fills up.
const FULL_PERCENT: u64 = 90;

/// Dead letters that are read to say in a sentence why they are: as many as the bus keeps by default.
const READ_MAX: u64 = 10_000;

/// What of a dead letter's reason is shown in a sentence.
const REASON_CHARS: usize = 200;

/// Something that is not as it should be.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Trouble {
    /// `commands: 3 messages wait, the oldest for 5 min, and nobody is attached`.
    pub(crate) what: String,
    /// What to type.
    pub(crate) next: Option<String>,
}

impl Trouble {
    fn new(what: impl Into<String>, next: impl Into<Option<String>>) -> Self {
        Self { what: what.into(), next: next.into() }
    }
}

/// What is known of somebody's durable subscriptions.
#[derive(Debug, Clone, Default, PartialEq)]
pub(crate) struct Waiting {
    pub(crate) queues: Vec<QueueView>,
    /// Their dead letters in the order of their entries.
    pub(crate) dead: Vec<DeadView>,
}

impl Waiting {
    /// What waits for this owner and what was given up.
    pub(crate) async fn of(client: &Client, owner: &Owner) -> Result<Self, String> {
        let whose = Whose { owner: Some(owner), name: None };
        let (_, queues) = durable::queues(client, whose).await?;
        let dead = deaths(client, whose, &queues).await?;
        Ok(Self { queues, dead })
    }

    /// Messages and bytes that wait for an operator: in the memory of the bus, and on its disk. What the bus counts in
    /// both counts once.
    pub(crate) fn queue(&self, operator: &BusView) -> (u64, u64) {
        let mut sum = (operator.queue_messages, operator.queue_bytes);
        for attached in operator.subscriptions.iter().filter(|subscription| subscription.durable.is_some()) {
            sum = (sum.0.saturating_sub(attached.queue_messages), sum.1.saturating_sub(attached.queue_bytes));
        }
        self.queues.iter().fold(sum, |sum, queue| (sum.0 + queue.messages, sum.1 + queue.bytes))
    }

    /// Everything that is wrong, where the owner is an operator with what the bus says of that.
    pub(crate) fn troubles(&self, operator: Option<&BusView>) -> Vec<Trouble> {
        self.queues.iter().flat_map(|queue| troubles(queue, operator, &self.dead)).collect()
    }
}

/// The dead letters of these subscriptions, to tell why there are any; none of so many that reading them takes long.
pub(crate) async fn deaths(client: &Client, whose: Whose<'_>, queues: &[QueueView]) -> Result<Vec<DeadView>, String> {
    let count: u64 = queues.iter().map(|queue| queue.dead).sum();
    if (1..=READ_MAX).contains(&count) { durable::dead(client, whose, None).await?.views() } else { Ok(Vec::new()) }
}

/// What is wrong with a durable subscription. `dead` may hold letters of others.
pub(crate) fn troubles(queue: &QueueView, operator: Option<&BusView>, dead: &[DeadView]) -> Vec<Trouble> {
    let mut all: Vec<Trouble> = waits(queue, operator).into_iter().collect();
    if queue.redelivery > 0 {
        let text = match queue.redelivery {
            1 => "1 was delivered before without an acknowledgement, and comes again".to_owned(),
            count => format!("{count} were delivered before without an acknowledgement, and come again"),
        };
        all.push(Trouble::new(text, None));
    }
    all.extend(full(queue));
    all.extend(given_up(queue, dead));
    for trouble in &mut all {
        trouble.what.insert_str(0, &format!("{}: ", queue.name));
    }
    all
}

fn waits(queue: &QueueView, operator: Option<&BusView>) -> Option<Trouble> {
    let QueueView { owner, name, .. } = queue;
    let oldest = queue.oldest_ms.map(Duration::from_millis);
    let waiting = depth(queue)?;
    let halted = operator.is_some_and(|view| view.halted);
    let (why, next) = match operator {
        Some(_) if halted => ("it is halted".to_owned(), format!("eeveectl resume {owner}")),
        _ if queue.connected && oldest.is_some_and(|oldest| oldest >= SLOW) => {
            let why = format!("{owner} takes them slowly, or hangs ({} being worked on)", queue.in_flight);
            (why, who_is(owner, name))
        }
        _ if queue.connected => return None,
        Some(view) if view.connected => (
            format!("nobody is attached: {owner} runs, but does not subscribe to {name:?} now"),
            format!("eeveectl logs {owner}; if it will not come back to it, eeveectl forget {owner} {name}"),
        ),
        _ => ("nobody is attached".to_owned(), who_is(owner, name)),
    };
    Some(Trouble::new(format!("{waiting}: {why}"), next))
}

/// `3 messages wait, the oldest for 5 min`; none where nothing waits.
pub(crate) fn depth(queue: &QueueView) -> Option<String> {
    let wait = match queue.messages {
        0 => return None,
        1 => "1 message waits",
        _ => "messages wait",
    };
    let count = if queue.messages == 1 { String::new() } else { format!("{} ", queue.messages) };
    let oldest = queue.oldest_ms.map(|ms| format!(", the oldest for {}", output::span(whole(ms)))).unwrap_or_default();
    Some(format!("{count}{wait}{oldest}"))
}

/// Milliseconds say nothing to a person about what waits.
fn whole(ms: u64) -> Duration {
    Duration::from_secs(ms / 1000)
}

fn who_is(owner: &str, name: &str) -> String {
    match owner.strip_prefix("user/") {
        Some(person) => format!("as {person}: eeveectl subscribe --durable {name}"),
        None => format!("eeveectl status {owner}"),
    }
}

fn full(queue: &QueueView) -> Option<Trouble> {
    let (messages, bytes) = (percent(queue.messages, queue.messages_max), percent(queue.bytes, queue.bytes_max));
    if messages.max(bytes) < FULL_PERCENT {
        return None;
    }
    let how = match messages >= bytes {
        true => format!("{} of {} messages", queue.messages, queue.messages_max),
        false => format!("{} of {}", output::bytes(queue.bytes), output::bytes(queue.bytes_max)),
    };
    let policy = policy(&queue.overflow);
    Some(Trouble::new(format!("full, or nearly so ({how}): when it is, {policy}"), None))
}

fn percent(is: u64, max: u64) -> u64 {
    is.saturating_mul(100).checked_div(max).unwrap_or(0)
}

/// What happens when it is full.
pub(crate) fn policy(overflow: &str) -> &str {
    match overflow {
        "dead-letter-oldest" => "the oldest become dead letters",
        "dead-letter-newest" => "what is published becomes a dead letter at once",
        "reject" => "publishers are refused with the error full",
        other => other,
    }
}

/// Why its dead letters are some: `9 waited longer than 5 min`.
fn given_up(queue: &QueueView, dead: &[DeadView]) -> Vec<Trouble> {
    let mut reasons: BTreeMap<&str, (u64, &DeadView)> = BTreeMap::new();
    for letter in dead.iter().filter(|letter| letter.owner == queue.owner && letter.name == queue.name) {
        let (count, newest) = reasons.entry(letter.reason.as_str()).or_insert((0, letter));
        (*count, *newest) = (*count + 1, letter);
    }
    let told: u64 = reasons.values().map(|(count, _)| count).sum();
    let mut texts: Vec<String> = reasons
        .iter()
        .map(|(reason, (count, newest))| {
            let age = queue.max_age_ms.map(|ms| format!("longer than {}", output::span(Duration::from_millis(ms))));
            match *reason {
                "expired" => format!("{count} waited {}", age.as_deref().unwrap_or("too long")),
                "queue-full" => format!("{count} did not fit when it was full"),
                "dead-letter" if *count == 1 => format!("1 was given up: {}", shortened(&newest.text)),
                "dead-letter" => format!("{count} were given up, the last one: {}", shortened(&newest.text)),
                other => format!("{count}: {other}, {}", shortened(&newest.text)),
            }
        })
        .collect();
    if queue.dead.max(told) == 0 {
        return Vec::new();
    }
    if queue.dead > told {
        let more = if told == 0 { "not counted by reason" } else { "more" };
        texts.push(format!("{} {more}", queue.dead - told));
    }
    let letters = if queue.dead.max(told) == 1 { "dead letter" } else { "dead letters" };
    let what = format!("{} {letters}: {}", queue.dead.max(told), texts.join("; "));
    vec![Trouble::new(what, format!("eeveectl dead list {} --name {}", queue.owner, queue.name))]
}

/// In quotes and on one line: a handler says what it likes, and may repeat what came from a network.
fn shortened(text: &str) -> String {
    let mut short: String = text.chars().take(REASON_CHARS).collect();
    if short.len() < text.len() {
        short.push('…');
    }
    format!("\"{}\"", libeevee::escape_for_terminal(&short))
}

/// What is wrong with the disk below all of them.
pub(crate) fn store_trouble(store: Option<&StoreView>) -> Option<Trouble> {
    let store = store?;
    let text = shortened(&store.text);
    match store.state.as_str() {
        "ok" | "" if percent(store.bytes, store.bytes_max) >= FULL_PERCENT => Some(Trouble::new(
            format!(
                "the store is full, or nearly so ({} of {} wait in all durable subscriptions): when it is, each of them is full",
                output::bytes(store.bytes),
                output::bytes(store.bytes_max)
            ),
            Some("eeveectl queue; more is possible with store-bytes in eeveed.toml(5)".to_owned()),
        )),
        "ok" | "" => None,
        "unavailable" => Some(Trouble::new(
            format!(
                "the disk takes no durable messages ({text}): who publishes one gets the error storage; live messages go on, and this ends by itself when there is room again"
            ),
            Some("df -h /var/lib/eevee".to_owned()),
        )),
        "failed" => Some(Trouble::new(
            format!(
                "the disk failed ({text}): what it holds is not known, and durable messages are refused until eeveed starts anew"
            ),
            Some("journalctl -u eeveed -n 50, then systemctl restart eeveed".to_owned()),
        )),
        // Nothing was durable yet.
        "none" => None,
        other => Some(Trouble::new(
            format!("the store of the bus is {other} ({text})"),
            "journalctl -u eeveed -n 50".to_owned(),
        )),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::durable::tests::{sample_dead, sample_queues};

    fn texts(queue: &QueueView, operator: Option<&BusView>) -> String {
        let all = troubles(queue, operator, &sample_dead());
        all.iter().map(|trouble| format!("{} >{}\n", trouble.what, trouble.next.as_deref().unwrap_or(""))).collect()
    }

    #[test]
    fn why_messages_wait() {
        let queue = &sample_queues()[0];
        let away = BusView { state: "away".into(), ..BusView::default() };
        let halted = BusView { halted: true, connected: true, ..BusView::default() };
        let other = BusView { connected: true, ..BusView::default() };
        for (operator, part) in [
            (&away, "commands: 12 messages wait, the oldest for 9 min: nobody is attached >eeveectl status dice"),
            (&halted, "the oldest for 9 min: it is halted >eeveectl resume dice"),
            (&other, "nobody is attached: dice runs, but does not subscribe to \"commands\" now >eeveectl logs dice"),
        ] {
            let text = texts(queue, Some(operator));
            assert!(text.contains(part), "{part}: {text}");
        }
        let slow = QueueView { connected: true, in_flight: 2, ..queue.clone() };
        assert!(texts(&slow, Some(&other)).contains("dice takes them slowly, or hangs (2 being worked on)"));
        let busy = QueueView { messages: 1, oldest_ms: Some(900), redelivery: 0, dead: 0, name: "x".into(), ..slow };
        assert_eq!(texts(&busy, Some(&other)), "");
        let person = QueueView { owner: "user/goos".into(), name: "x".into(), dead: 0, redelivery: 0, ..queue.clone() };
        assert!(texts(&person, None).contains("nobody is attached >as goos: eeveectl subscribe --durable x"));
    }

    #[test]
    fn why_messages_died() {
        let text = texts(&sample_queues()[0], None);
        let want = "commands: 3 dead letters: 1 was given up: \"no die has 0 sides\"; 2 waited longer than 5 min >eeveectl dead list dice --name commands\n";
        assert!(text.contains(want), "{text}");
        let hostile = DeadView { text: "\u{1b}[2J\n".repeat(100), ..sample_dead()[2].clone() };
        let [trouble] = &given_up(&QueueView { dead: 5, ..sample_queues()[0].clone() }, &[hostile])[..] else {
            panic!()
        };
        assert!(trouble.what.starts_with("5 dead letters: 1 was given up: \"\\x1b[2J\\n"), "{}", trouble.what);
        assert!(trouble.what.ends_with("…\"; 4 more"), "{}", trouble.what);
        assert!(!trouble.what.contains(char::is_control));
        let [many] = &given_up(&QueueView { dead: 20_000, ..sample_queues()[0].clone() }, &[])[..] else { panic!() };
        assert_eq!(many.what, "20000 dead letters: 20000 not counted by reason");
    }

    #[test]
    fn what_is_nearly_full() {
        let queue = QueueView { messages: 9, connected: true, ..sample_queues()[1].clone() };
        let want = "log: full, or nearly so (9 of 10 messages): when it is, publishers are refused with the error full";
        assert!(texts(&queue, None).contains(want), "{}", texts(&queue, None));
        let queue = QueueView { bytes: 950, messages: 1, ..queue };
        assert!(texts(&queue, None).contains("(950 B of 1000 B)"));
        assert_eq!(texts(&QueueView { bytes: 10, ..queue }, None), "");
    }

    #[test]
    fn what_is_wrong_with_the_disk() {
        let store =
            |state: &str| StoreView { state: state.into(), text: "No space left".into(), ..StoreView::default() };
        assert_eq!((store_trouble(None), store_trouble(Some(&store("none")))), (None, None));
        let full = StoreView { bytes: 95, bytes_max: 100, ..store("ok") };
        assert!(store_trouble(Some(&full)).unwrap().what.contains("(95 B of 100 B wait"));
        for state in ["unavailable", "failed", "odd"] {
            let trouble = store_trouble(Some(&store(state))).unwrap();
            assert!(trouble.what.contains("No space left") && trouble.next.is_some(), "{trouble:?}");
        }
    }
}
