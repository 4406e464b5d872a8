//! The verbs about durable subscriptions and dead letters: the core knows the queues, the store what is in them.

use std::collections::BTreeSet;
use std::rc::Rc;

use libeevee::wire::{Code, Refusal};
use libeevee::{Delivery, Message, Timestamp, json};
use serde::Deserialize;
use serde_json::{Value, json};

use crate::core::durable::Scope;
use crate::core::storage::EntryNumber;
use crate::core::{Event, SessionKey, refusal};
use crate::hub::Hub;
use crate::store::DeadLetter;

/// Dead letters in one answer, unless it is asked for fewer; an answer has to fit a frame.
const LETTERS_MAX: u64 = 1000;

/// What is asked for; every verb knows its own.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
struct Asked {
    owner: Option<String>,
    name: Option<String>,
    after: Option<EntryNumber>,
    limit: Option<u64>,
    entry: Option<EntryNumber>,
    entries: Option<Vec<EntryNumber>>,
    #[serde(default)]
    all: bool,
}

/// Carries out a verb, or says that it is none of these.
pub(crate) async fn carry_out(
    hub: &Rc<Hub>,
    session: SessionKey,
    number: u32,
    verb: &str,
    argument: &str,
) -> Option<Result<Option<String>, Refusal>> {
    let asked = match parse(argument) {
        Ok(asked) => asked,
        Err(error) => return Some(Err(refusal(Code::NotFound, format!("{verb}: {error}")))),
    };
    let answer = match verb {
        "queues" => queues(hub, &asked).await,
        "dead-list" => dead_list(hub, session, asked).await,
        "dead-show" => dead_show(hub, session, asked).await,
        "dead-retry" | "dead-drop" => match find(hub, session, asked).await {
            Ok(entries) => {
                hub.step(Event::Dead { session, number, entries, retry: verb == "dead-retry" });
                return None;
            }
            Err(refusal) => Err(refusal),
        },
        _ => Err(refusal(Code::NotFound, format!("there is no verb {verb:?}"))),
    };
    Some(answer.map(Some))
}

fn parse(argument: &str) -> Result<Asked, serde_json::Error> {
    if argument.is_empty() { Ok(Asked::default()) } else { serde_json::from_str(argument) }
}

fn unreadable(why: String) -> Refusal {
    refusal(Code::Storage, format!("the store of durable messages cannot be read: {why}"))
}

async fn queues(hub: &Rc<Hub>, asked: &Asked) -> Result<String, Refusal> {
    let oldest = hub.disk.ask(|store| store.oldest()).await.map_err(unreadable)?;
    Ok(hub.with_core(|core| core.queues(hub.now(), asked.owner.as_deref(), &oldest)))
}

async fn dead_list(hub: &Rc<Hub>, session: SessionKey, asked: Asked) -> Result<String, Refusal> {
    let Asked { owner, name, after, limit, .. } = asked;
    let limit = limit.unwrap_or(LETTERS_MAX).min(LETTERS_MAX);
    let scope = hub.with_core(|core| core.scope_of(session));
    let ask = move |store: &mut crate::store::Store| {
        let (owner, name) = (owner.as_deref(), name.as_deref());
        let page = store.dead_letters(owner, name, after.unwrap_or(0), limit)?;
        // Everybody may see all of them, and change only some.
        let yours = match (&scope, owner) {
            (Some(Scope::All), _) => page.total,
            (Some(scope), Some(owner)) if scope.covers(owner) => page.total,
            (Some(Scope::Own(own)), None) => store.dead_entries(Some(own), name)?.len() as u64,
            _ => 0,
        };
        Ok((page, yours))
    };
    let (page, yours) = hub.disk.ask(ask).await.map_err(unreadable)?;
    let (mut room, mut more) = (hub.limits().frame_bytes / 2, page.more);
    let mut letters = Vec::with_capacity(page.letters.len());
    for letter in page.letters {
        let letter = describe(&letter);
        let bytes = letter.to_string().len();
        if bytes > room && !letters.is_empty() {
            more = true;
            break;
        }
        room = room.saturating_sub(bytes);
        letters.push(letter);
    }
    Ok(json!({ "total": page.total, "yours": yours, "dead": letters, "more": more }).to_string())
}

async fn dead_show(hub: &Rc<Hub>, session: SessionKey, asked: Asked) -> Result<String, Refusal> {
    let Some(entry) = asked.entry else {
        return Err(refusal(Code::NotFound, "dead-show wants the number of an entry"));
    };
    let found = hub.disk.ask(move |store| store.dead_letter(entry)).await.map_err(unreadable)?;
    let scope = hub.with_core(|core| core.scope_of(session));
    match found {
        // One that belongs to somebody else is not there for those who may not see it.
        Some(letter) if scope.is_some_and(|scope| scope.covers(&letter.owner)) => {
            let mut told = describe(&letter);
            told["message"] = serde_json::from_str(&json::to_line(&message(letter))).unwrap_or_default();
            Ok(told.to_string())
        }
        _ => Err(refusal(Code::NotFound, format!("there is no dead letter {entry} that you may read"))),
    }
}

/// The dead letters that a verb is about, if they belong to whoever asks.
async fn find(hub: &Rc<Hub>, session: SessionKey, asked: Asked) -> Result<Vec<EntryNumber>, Refusal> {
    let Some(scope) = hub.with_core(|core| core.scope_of(session)) else { return Ok(Vec::new()) };
    let Asked { owner, name, entries, all, .. } = asked;
    let Some(wanted) = entries else {
        let owner = match (owner, &scope, all) {
            (Some(owner), ..) => Some(owner),
            (None, Scope::Own(own), true) => Some(own.clone()),
            (None, Scope::All, true) => None,
            (None, _, false) => return Err(refusal(Code::NotFound, "which dead letters: entries, an owner, or all")),
        };
        if let Some(owner) = owner.as_deref()
            && !scope.covers(owner)
        {
            return Err(refusal(Code::Denied, format!("the dead letters of {owner} are not yours")));
        }
        let ask = move |store: &mut crate::store::Store| store.dead_entries(owner.as_deref(), name.as_deref());
        let found = hub.disk.ask(ask).await.map_err(unreadable)?;
        return Ok(found.into_iter().map(|(_, entry)| entry).collect());
    };
    let ask = move |store: &mut crate::store::Store| {
        let letters = wanted.iter().map(|entry| Ok((*entry, store.dead_letter(*entry)?.map(|letter| letter.owner))));
        letters.collect::<Result<Vec<_>, _>>()
    };
    let found = hub.disk.ask(ask).await.map_err(unreadable)?;
    let mut entries = BTreeSet::new();
    for (entry, owner) in found {
        if !owner.is_some_and(|owner| scope.covers(&owner)) {
            return Err(refusal(
                Code::NotFound,
                format!("there is no dead letter {entry} of yours; nothing was changed"),
            ));
        }
        // Asked for twice, it is dropped once.
        entries.insert(entry);
    }
    Ok(entries.into_iter().collect())
}

fn describe(letter: &DeadLetter) -> Value {
    let record = &letter.record;
    json!({
        "entry": letter.entry,
        "owner": letter.owner,
        "name": letter.name,
        "id": record.id,
        "source": record.source,
        "timestamp": Timestamp(record.timestamp).to_string(),
        "died": Timestamp(letter.died).to_string(),
        "reason": letter.death.reason.as_str(),
        "text": letter.death.text,
        "attempts": letter.death.attempts,
        "bytes": record.size(),
        "headers": record.document.headers().collect::<std::collections::BTreeMap<_, _>>(),
    })
}

fn message(letter: DeadLetter) -> Message {
    let record = letter.record;
    let mut delivery = Delivery::default();
    delivery.attempt = letter.death.attempts.max(1);
    Message {
        id: record.id,
        source: record.source.into(),
        timestamp: Timestamp(record.timestamp),
        cause: record.cause,
        hops: record.hops,
        document: record.document,
        reply_address: None,
        delivery,
    }
}
