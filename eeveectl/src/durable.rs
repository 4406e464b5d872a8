//! What the bus says of durable subscriptions, of their dead letters and of its store, and how it is asked.

use std::collections::{BTreeMap, VecDeque};
use std::time::Duration;

use libeevee::client::Client;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use crate::bus;
use crate::values::Owner;

/// The disk has a part in these, and ten thousand dead letters take a while.
const ANSWER_WITHIN: Duration = Duration::from_secs(30);

/// What the bus gives at most in one answer.
const PAGE: u64 = 1000;

/// A durable subscription: what waits in it, and its bounds.
#[derive(Debug, Clone, PartialEq, Default, Deserialize, Serialize)]
#[serde(default)]
pub(crate) struct QueueView {
    pub(crate) owner: String,
    pub(crate) name: String,
    pub(crate) filters: Vec<String>,
    pub(crate) connected: bool,
    /// With those that are being worked on, or will be delivered again.
    pub(crate) messages: u64,
    pub(crate) bytes: u64,
    pub(crate) oldest_ms: Option<u64>,
    pub(crate) in_flight: u64,
    pub(crate) redelivery: u64,
    pub(crate) dead: u64,
    pub(crate) max_age_ms: Option<u64>,
    pub(crate) overflow: String,
    pub(crate) messages_max: u64,
    pub(crate) bytes_max: u64,
}

/// A dead letter without its body.
#[derive(Debug, Clone, PartialEq, Default, Deserialize)]
#[serde(default)]
pub(crate) struct DeadView {
    pub(crate) entry: u64,
    pub(crate) owner: String,
    pub(crate) name: String,
    pub(crate) id: u64,
    pub(crate) source: String,
    pub(crate) timestamp: Option<jiff::Timestamp>,
    pub(crate) died: Option<jiff::Timestamp>,
    pub(crate) reason: String,
    pub(crate) text: String,
    pub(crate) attempts: u32,
    pub(crate) bytes: u64,
    pub(crate) headers: BTreeMap<String, String>,
}

/// Whether the disk takes what has to be kept.
#[derive(Debug, Clone, PartialEq, Default, Deserialize)]
#[serde(default)]
pub(crate) struct StoreView {
    pub(crate) state: String,
    pub(crate) text: String,
    /// Of all messages that wait.
    pub(crate) bytes: u64,
    /// Where the bus says it.
    pub(crate) bytes_max: u64,
}

/// Which of all durable subscriptions.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Whose<'a> {
    pub(crate) owner: Option<&'a Owner>,
    pub(crate) name: Option<&'a str>,
}

impl Whose<'_> {
    fn argument(self) -> serde_json::Map<String, Value> {
        let owner = self.owner.map(|owner| ("owner".to_owned(), json!(owner.to_string())));
        let name = self.name.map(|name| ("name".to_owned(), json!(name)));
        owner.into_iter().chain(name).collect()
    }
}

/// Has the bus do something, and gives its answer.
///
/// # Errors
/// One sentence for a person.
pub(crate) async fn ask(client: &Client, verb: &str, argument: &Value) -> Result<Value, String> {
    let argument = argument.to_string();
    let asked = tokio::time::timeout(ANSWER_WITHIN, client.control(verb, "", &argument)).await;
    let answer = asked.map_err(|_| format!("the bus did not answer within {} s", ANSWER_WITHIN.as_secs()))?;
    let text = answer.map_err(|error| bus::text_of(&error))?.unwrap_or_default();
    serde_json::from_str(&text).map_err(not_understood)
}

fn not_understood(error: serde_json::Error) -> String {
    format!("the bus answered what eeveectl does not understand: {error}")
}

/// As it is, for scripts, and as it is read here.
pub(crate) async fn queues(client: &Client, whose: Whose<'_>) -> Result<(Value, Vec<QueueView>), String> {
    let answer = ask(client, "queues", &Value::Object(Whose { name: None, ..whose }.argument())).await?;
    let mut views: Vec<QueueView> = serde_json::from_value(answer.clone()).map_err(not_understood)?;
    views.retain(|view| whose.name.is_none_or(|name| view.name == name));
    Ok((answer, views))
}

/// The state of the bus's store; none where it says nothing of one.
pub(crate) async fn store(client: &Client) -> Result<Option<StoreView>, String> {
    let answer = ask(client, "bus", &json!({})).await?;
    answer.get("store").map(StoreView::deserialize).transpose().map_err(not_understood)
}

/// Dead letters in the order of their entries.
#[derive(Debug, Default)]
pub(crate) struct Dead {
    /// How many there are of these.
    pub(crate) total: u64,
    /// The newest of them, as the bus wrote them.
    pub(crate) newest: VecDeque<Value>,
}

impl Dead {
    pub(crate) fn views(&self) -> Result<Vec<DeadView>, String> {
        self.newest.iter().map(DeadView::deserialize).collect::<Result<_, _>>().map_err(not_understood)
    }
}

/// How many dead letters there are that who asks may retry or drop, and whether there are others.
pub(crate) async fn dead_total(client: &Client, whose: Whose<'_>) -> Result<(u64, bool), String> {
    let page = page(client, whose, None, 1).await?;
    let yours = page.yours.unwrap_or(page.total);
    Ok((yours, yours < page.total))
}

/// The newest dead letters. The bus gives the oldest first, so that all of them pass through here.
pub(crate) async fn dead(client: &Client, whose: Whose<'_>, limit: Option<u64>) -> Result<Dead, String> {
    let limit = limit.map_or(usize::MAX, |limit| usize::try_from(limit).unwrap_or(usize::MAX));
    let mut all = Dead::default();
    let mut after = None;
    loop {
        let page = page(client, whose, after, PAGE).await?;
        all.total = page.total;
        let last = page.dead.last().and_then(|letter| letter["entry"].as_u64());
        for letter in page.dead {
            if all.newest.len() == limit {
                all.newest.pop_front();
            }
            all.newest.push_back(letter);
        }
        // A page that leads nowhere would be asked for again for ever.
        if !page.more || last.is_none() || last <= after {
            return Ok(all);
        }
        after = last;
    }
}

#[derive(Deserialize)]
struct DeadPage {
    total: u64,
    /// None of a bus that does not say.
    yours: Option<u64>,
    dead: Vec<Value>,
    #[serde(default)]
    more: bool,
}

async fn page(client: &Client, whose: Whose<'_>, after: Option<u64>, limit: u64) -> Result<DeadPage, String> {
    let mut argument = whose.argument();
    argument.extend(after.map(|entry| ("after".to_owned(), json!(entry))));
    argument.insert("limit".to_owned(), json!(limit));
    serde_json::from_value(ask(client, "dead-list", &Value::Object(argument)).await?).map_err(not_understood)
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    /// As the bus answers `queues`.
    pub(crate) const QUEUES: &str = r#"[
        {"owner":"dice","name":"commands","filters":["type=chat.message,direction=in,command=dice"],"connected":false,
         "messages":12,"bytes":3500,"oldest_ms":540000,"in_flight":0,"redelivery":2,"dead":3,"max_age_ms":300000,
         "overflow":"dead-letter-oldest","messages_max":100000,"bytes_max":268435456,"later":[1]},
        {"owner":"user/goos","name":"log","filters":["type=log.record"],"connected":true,"messages":0,"bytes":0,
         "oldest_ms":null,"in_flight":0,"redelivery":0,"dead":0,"max_age_ms":null,"overflow":"reject",
         "messages_max":10,"bytes_max":1000}]"#;

    /// As the bus answers `dead-list`.
    pub(crate) const DEAD: &str = r##"{"total":3,"dead":[
        {"entry":7,"owner":"dice","name":"commands","id":4711,"source":"irc","timestamp":"2026-11-22T15:00:00.123456789Z",
         "died":"2026-11-22T15:06:00Z","reason":"expired","text":"waited longer than 300 s","attempts":0,"bytes":240,
         "headers":{"type":"chat.message","command":"dice","channel":"#a\u001b[2J"}},
        {"entry":8,"owner":"dice","name":"commands","id":4712,"source":"irc","timestamp":"2026-11-22T15:00:01Z",
         "died":"2026-11-22T15:06:01Z","reason":"expired","text":"waited longer than 300 s","attempts":0,"bytes":240,
         "headers":{}},
        {"entry":11,"owner":"dice","name":"commands","id":4720,"source":"xmpp","timestamp":"2026-11-22T15:10:00Z",
         "died":"2026-11-22T15:10:01Z","reason":"dead-letter","text":"no die has 0 sides","attempts":2,"bytes":90,
         "headers":{"type":"chat.message"}}],"more":false}"##;

    pub(crate) fn sample_queues() -> Vec<QueueView> {
        serde_json::from_str(QUEUES).unwrap()
    }

    pub(crate) fn sample_dead() -> Vec<DeadView> {
        let page: DeadPage = serde_json::from_str(DEAD).unwrap();
        Dead { total: page.total, newest: page.dead.into() }.views().unwrap()
    }

    #[test]
    fn answers_of_the_bus_with_nulls_and_keys_of_later_versions() {
        let queues = sample_queues();
        assert_eq!((queues[0].oldest_ms, queues[0].dead, queues[1].oldest_ms), (Some(540_000), 3, None));
        let dead = sample_dead();
        assert_eq!((dead.len(), dead[2].entry, dead[2].attempts), (3, 11, 2));
        assert!(dead[0].died < dead[1].died && dead[0].timestamp.is_some());
    }

    #[test]
    fn whose_becomes_an_argument() {
        let owner = Owner::Person("goos".into());
        assert_eq!(Value::Object(Whose::default().argument()), json!({}));
        let whose = Whose { owner: Some(&owner), name: Some("log") };
        assert_eq!(Value::Object(whose.argument()), json!({"owner": "user/goos", "name": "log"}));
    }
}
