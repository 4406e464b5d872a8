//! subscribe: shows messages as they pass, for people or as JSON lines, until somebody has seen enough. A durable one is
//! acknowledged message by message, each after its line was written: what nobody could read yet waits in the bus.

use std::io::{Write, stdout};
use std::time::Duration;

use anyhow::Context as _;
use libeevee::client::{Client, Event, Notice, Subscription};
use libeevee::{Exit, Filter, Gap, GapReason, Message, Overflow, Timestamp};

use crate::cli::Watch;
use crate::context::Context;
use crate::durable::{self, QueueView, Whose};
use crate::{bus, output, values, waiting};

const UNWRITTEN: &str = "cannot write to standard output";

pub(crate) async fn run(context: &Context, watch: &Watch) -> anyhow::Result<Exit> {
    let client = context.bus().await.map_err(anyhow::Error::msg)?;
    let mut notices = client.notices();
    let mut subscription = match &watch.durable {
        Some(name) => durable(client, watch, name).await?,
        None => {
            let filters = if watch.filters.is_empty() { vec![Filter::any()] } else { watch.filters.clone() };
            let subscribe = client.subscribe(filters);
            let aged = watch.max_age.into_iter().fold(subscribe, |subscribe, age| subscribe.max_age(age));
            aged.await.map_err(refused)?
        }
    };
    let mut left = watch.count;
    let mut is_away = false;
    loop {
        let event = tokio::select! {
            event = subscription.next() => event,
            Some(notice) = notices.next() => {
                match notice {
                    Notice::Disconnected(why) => {
                        output::note(&output::safe(&format!("(the bus is away: {why})")));
                        is_away = true;
                    }
                    Notice::Connected(_) if is_away => {
                        output::note("(the bus is back)");
                        is_away = false;
                    }
                    _ => {}
                }
                continue;
            }
        };
        let Some(event) = event else {
            match subscription.failure() {
                Some(why) => anyhow::bail!("the bus ended the subscription: {}", bus::text_of(why)),
                None => anyhow::bail!("the connection to the bus ended"),
            }
        };
        let text = match &event {
            Event::Message(message) if watch.json => output::safe_json(&libeevee::json::to_line(message)),
            Event::Gap(gap) if watch.json => output::safe_json(&libeevee::json::gap_line(gap)),
            Event::Message(message) => shown(message),
            Event::Gap(gap) => lost(gap, watch.durable.is_some()),
        };
        writeln!(stdout(), "{text}").context(UNWRITTEN)?;
        let Event::Message(message) = &event else { continue };
        if subscription.durable().is_some() {
            // A full disk or a closed pipe may show only now, and then the message is not done.
            stdout().flush().context(UNWRITTEN)?;
            subscription.ack(message).map_err(refused)?;
        }
        if let Some(left) = &mut left {
            *left -= 1;
            if *left == 0 {
                return ended(client, watch).await;
            }
        }
    }
}

fn refused(error: libeevee::Error) -> anyhow::Error {
    anyhow::Error::msg(bus::text_of(&error))
}

/// Attaches to a durable subscription of this person: a new one, one that shall change, or one as it is.
async fn durable(client: &Client, watch: &Watch, name: &str) -> anyhow::Result<Subscription> {
    let identity = client.welcome().identity.clone();
    let owner = values::owner(&identity)
        .map_err(|_| anyhow::anyhow!("{identity} is nobody that durable subscriptions can belong to"))?;
    let whose = Whose { owner: Some(&owner), name: Some(name) };
    let (_, queues) = durable::queues(client, whose).await.map_err(anyhow::Error::msg)?;
    let wanted = Wanted::new(watch, name, queues.first())?;
    // One after the other: what is not written yet stays in the bus, and nothing overtakes a message that comes again.
    let mut subscribe = client.subscribe(wanted.filters).durable(name).window(1, 1 << 20);
    if let Some(age) = wanted.max_age {
        subscribe = subscribe.max_age(age);
    }
    subscribe = subscribe.overflow(wanted.overflow);
    let subscription = subscribe.await.map_err(refused)?;
    match queues.first() {
        None => output::note(&output::safe(&format!(
            "(the bus collects from now on, also while nobody watches, until: eeveectl forget {owner} {name})"
        ))),
        Some(queue) => {
            waiting::depth(queue).into_iter().for_each(|depth| output::note(&format!("({depth})")));
        }
    }
    // Nothing may come for as long as the disk takes nothing, and nobody would know why.
    if let Some(trouble) = waiting::store_trouble(durable::store(client).await.map_err(anyhow::Error::msg)?.as_ref()) {
        output::warning(&output::safe(&trouble.what));
    }
    Ok(subscription)
}

/// What the bus is to collect.
#[derive(Debug, PartialEq)]
struct Wanted {
    filters: Vec<Filter>,
    max_age: Option<Duration>,
    overflow: Overflow,
}

impl Wanted {
    /// Without filters, as it is; what is said on the command line is changed.
    fn new(watch: &Watch, name: &str, queue: Option<&QueueView>) -> anyhow::Result<Self> {
        let said = watch.reject.then_some(Overflow::Reject);
        if !watch.filters.is_empty() {
            let overflow = said.unwrap_or(Overflow::DropOldest);
            return Ok(Self { filters: watch.filters.clone(), max_age: watch.max_age, overflow });
        }
        let queue = queue.ok_or_else(|| {
            anyhow::anyhow!(
                "there is no durable subscription {name} yet: say what it shall collect, as FILTER or \"*\""
            )
        })?;
        // The bus shortens long lists and long filters, and half a filter is another one.
        let whole = |text: &String| text.parse::<Filter>().ok().filter(|_| !text.contains('…'));
        let filters = queue.filters.iter().map(whole).collect::<Option<Vec<_>>>().filter(|all| !all.is_empty());
        let filters = filters.ok_or_else(|| {
            anyhow::anyhow!("the filters of {name} are too long to be read back from the bus: say them")
        })?;
        let max_age = watch.max_age.or(queue.max_age_ms.map(Duration::from_millis));
        let overflow = said.unwrap_or(match queue.overflow.as_str() {
            "dead-letter-newest" => Overflow::DropNewest,
            "reject" => Overflow::Reject,
            _ => Overflow::DropOldest,
        });
        Ok(Self { filters, max_age, overflow })
    }
}

/// The last acknowledgements have to reach the bus, or they were in vain.
async fn ended(client: &Client, watch: &Watch) -> anyhow::Result<Exit> {
    if watch.durable.is_some()
        && let Err(error) = client.close().await
    {
        output::warning(&output::safe(&format!(
            "the last messages will come again: the bus did not hear that they were shown: {}",
            bus::text_of(&error)
        )));
        return Ok(Exit::FAILED);
    }
    Ok(Exit::DONE)
}

/// `15:00:00.123 irc type=chat.message channel=#general | hello`. All of it may come from a network.
fn shown(message: &Message) -> String {
    let headers: Vec<String> = message.document.headers().map(|(key, value)| format!("{key}={value}")).collect();
    let body = match message.text() {
        Some(text) => text.to_owned(),
        None => format!("({} that are no text)", output::bytes(message.document.body_bytes().len() as u64)),
    };
    let (time, source) = (clock(message.timestamp), &message.source);
    let line = format!("{time} {source}{} {} | {body}", delivered(message), headers.join(" "));
    libeevee::escape_for_terminal(&line).into_owned()
}

/// ` (attempt 2, waited 5 min)`, where there is something to say.
fn delivered(message: &Message) -> String {
    let delivery = message.delivery;
    let attempt = (delivery.attempt > 1).then(|| format!("attempt {}", delivery.attempt));
    let waited = Duration::from_secs(delivery.waited.as_secs());
    let waited = (!waited.is_zero()).then(|| format!("waited {}", output::span(waited)));
    let both: Vec<String> = attempt.into_iter().chain(waited).collect();
    if both.is_empty() { String::new() } else { format!(" ({})", both.join(", ")) }
}

fn lost(gap: &Gap, durable: bool) -> String {
    let count = gap.count.map_or_else(|| "messages".to_owned(), |count| format!("{count} messages"));
    let gone = if durable && gap.reason != GapReason::Damaged { "became dead letters" } else { "lost" };
    format!("--- {count} {gone} here, ids {} to {}: {} ---", gap.first, gap.last, gap.reason)
}

/// The time of day here.
fn clock(time: Timestamp) -> String {
    let time = jiff::Timestamp::from_nanosecond(i128::from(time.0)).unwrap_or_default();
    time.to_zoned(jiff::tz::TimeZone::system()).strftime("%H:%M:%S%.3f").to_string()
}

#[cfg(test)]
mod tests {
    use libeevee::{Delivery, Document};

    use super::*;

    #[test]
    fn a_message_is_one_harmless_line() {
        let message = Message {
            id: 7,
            source: "irc".into(),
            timestamp: Timestamp(1),
            cause: None,
            hops: 0,
            document: Document::new([("type", "chat.message")], "a\n\u{1b}[2Jb").unwrap().into(),
            reply_address: None,
            delivery: Delivery::default(),
        };
        let line = shown(&message);
        assert!(line.ends_with(r"irc type=chat.message | a\n\x1b[2Jb"), "{line}");
        let document = Document { body: vec![0xff, 0].into(), ..message.document.decode() }.into();
        let binary = Message { document, ..message };
        assert!(shown(&binary).ends_with("| (2 B that are no text)"));
    }

    #[test]
    fn a_gap_says_what_is_known() {
        let gap = Gap { first: 5, last: 9, count: Some(3), reason: GapReason::QueueFull };
        assert_eq!(lost(&gap, false), "--- 3 messages lost here, ids 5 to 9: queue-full ---");
        assert!(lost(&gap, true).starts_with("--- 3 messages became dead letters here"));
        assert!(lost(&Gap { count: None, ..gap }, false).starts_with("--- messages lost"));
    }

    #[test]
    fn a_repetition_is_marked() {
        let again = |attempt, seconds: u64| Message {
            id: 7,
            source: "irc".into(),
            timestamp: Timestamp(1),
            cause: None,
            hops: 0,
            document: Document::default().into(),
            reply_address: None,
            delivery: Delivery::new(attempt, Duration::from_millis(seconds * 1000 + 400)),
        };
        for (attempt, seconds, want) in
            [(1, 0, ""), (2, 0, " (attempt 2)"), (1, 300, " (waited 5 min)"), (3, 7, " (attempt 3, waited 7 s)")]
        {
            assert_eq!(delivered(&again(attempt, seconds)), want);
        }
    }

    #[test]
    fn what_a_durable_one_is_to_collect() {
        let watch = Watch {
            filters: Vec::new(),
            json: false,
            count: None,
            durable: Some("log".into()),
            max_age: None,
            reject: false,
        };
        let queue = &durable::tests::sample_queues()[0];
        assert!(Wanted::new(&watch, "log", None).unwrap_err().to_string().contains("FILTER"));
        let as_it_is = Wanted::new(&watch, "log", Some(queue)).unwrap();
        assert_eq!(as_it_is.filters[0].to_string(), queue.filters[0]);
        assert_eq!((as_it_is.max_age, as_it_is.overflow), (Some(Duration::from_secs(300)), Overflow::DropOldest));
        let rejecting = Watch { reject: true, max_age: Some(Duration::from_secs(7)), ..watch.clone() };
        let changed = Wanted::new(&rejecting, "log", Some(queue)).unwrap();
        assert_eq!((changed.max_age, changed.overflow), (Some(Duration::from_secs(7)), Overflow::Reject));
        let new = Watch { filters: vec![Filter::any()], ..watch.clone() };
        let wanted = Wanted { filters: vec![Filter::any()], max_age: None, overflow: Overflow::DropOldest };
        assert_eq!(Wanted::new(&new, "log", Some(queue)).unwrap(), wanted);
        for short in ["a=b…", "… and 3 more"] {
            let queue = QueueView { filters: vec![short.into()], ..queue.clone() };
            assert!(Wanted::new(&watch, "log", Some(&queue)).unwrap_err().to_string().contains("too long"), "{short}");
        }
    }
}
