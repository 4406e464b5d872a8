//! dead: the messages that durable subscriptions gave up: which, why, and what becomes of them.

mod show;

pub(crate) use show::in_short;

use std::collections::BTreeSet;

use libeevee::Exit;
use serde_json::{Value, json};

use super::agreed;
use super::forget::counted;
use crate::cli::{DeadVerb, Letters};
use crate::context::Context;
use crate::durable::{self, Whose};
use crate::output;

/// What a person wants to see at once.
const LIST: u64 = 50;

/// So many numbers fit an answer, and a frame, many times over.
const AT_ONCE: usize = 1000;

pub(crate) async fn run(context: &Context, verb: DeadVerb) -> anyhow::Result<Exit> {
    let client = context.bus().await.map_err(anyhow::Error::msg)?;
    match verb {
        DeadVerb::List { owner, name, limit, json } => {
            let whose = Whose { owner: owner.as_ref(), name: name.as_deref() };
            let limit = limit.or((!json).then_some(LIST));
            let dead = durable::dead(client, whose, limit).await.map_err(anyhow::Error::msg)?;
            if json {
                let more = dead.total > dead.newest.len() as u64;
                let whole = json!({"total": dead.total, "dead": dead.newest, "more": more});
                output::line(&output::safe_json(&serde_json::to_string_pretty(&whole)?));
                return Ok(Exit::DONE);
            }
            let views = dead.views().map_err(anyhow::Error::msg)?;
            if views.is_empty() {
                let of = owner.as_ref().map(|owner| format!(" of {owner}")).unwrap_or_default();
                let name = name.as_ref().map(|name| format!(" {name}")).unwrap_or_default();
                output::note(&format!("there are no dead letters{of}{name}"));
                return Ok(Exit::DONE);
            }
            output::line(&show::list(&views, output::width()));
            output::note(&show::below(&views, dead.total));
            Ok(Exit::DONE)
        }
        DeadVerb::Show { entry, json } => {
            let answer = durable::ask(client, "dead-show", &json!({"entry": entry})).await;
            let answer = answer.map_err(anyhow::Error::msg)?;
            if json {
                output::line(&output::safe_json(&serde_json::to_string_pretty(&answer)?));
            } else {
                output::line(&show::whole(&answer).map_err(anyhow::Error::msg)?);
            }
            Ok(Exit::DONE)
        }
        DeadVerb::Retry(letters) => change(context, &letters, Change::Retry).await,
        DeadVerb::Drop(letters) => change(context, &letters, Change::Drop).await,
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Change {
    Retry,
    Drop,
}

impl Change {
    /// The verb of the bus, the key of its answer.
    const fn words(self) -> (&'static str, &'static str) {
        match self {
            Self::Retry => ("dead-retry", "retried"),
            Self::Drop => ("dead-drop", "dropped"),
        }
    }

    fn question(self, count: u64, whose: &str) -> String {
        let letters = counted(count, "dead letter");
        match self {
            Self::Retry => format!("have {letters}{whose} wait again, as if they had just come?"),
            Self::Drop => format!("delete {letters}{whose} for good?"),
        }
    }

    fn done(self, count: u64) -> String {
        let letters = counted(count, "dead letter");
        match self {
            Self::Retry if count > 0 => format!("{letters} waiting again; next: eeveectl queue"),
            Self::Retry => "no dead letter waits again".to_owned(),
            Self::Drop => format!("{letters} deleted"),
        }
    }
}

async fn change(context: &Context, letters: &Letters, change: Change) -> anyhow::Result<Exit> {
    let client = context.bus().await.map_err(anyhow::Error::msg)?;
    let entries: Vec<u64> = letters.entries.iter().copied().collect::<BTreeSet<u64>>().into_iter().collect();
    let whose = Whose { owner: letters.from.as_ref(), name: letters.name.as_deref() };
    let (count, others) = match entries.len() as u64 {
        0 => durable::dead_total(client, whose).await.map_err(anyhow::Error::msg)?,
        count => (count, false),
    };
    let (verb, key) = change.words();
    if count > 1
        && let Some(exit) = agreed(&change.question(count, &of_whom(letters, others)), letters.yes)?
    {
        return Ok(exit);
    }
    let arguments: Vec<Value> = match &letters.from {
        _ if !entries.is_empty() => entries.chunks(AT_ONCE).map(|some| json!({"entries": some})).collect(),
        Some(owner) => vec![match &letters.name {
            Some(name) => json!({"owner": owner.to_string(), "name": name}),
            None => json!({"owner": owner.to_string()}),
        }],
        None => vec![json!({"all": true})],
    };
    let mut done = 0;
    for argument in &arguments {
        let answer = durable::ask(client, verb, argument).await.map_err(|why| match done {
            0 => anyhow::Error::msg(why),
            done => anyhow::anyhow!("after {}: {why}", change.done(done)),
        })?;
        done += answer[key].as_u64().unwrap_or(0);
    }
    if letters.json {
        output::line(&json!({ key: done }).to_string());
    } else {
        output::line(&change.done(done));
    }
    let missing = (entries.len() as u64).saturating_sub(done);
    if missing > 0 {
        let are = if missing == 1 { "is no dead letter" } else { "are no dead letters" };
        output::error(&format!("{missing} of {} {are}, or not any more: eeveectl dead list", entries.len()));
        return Ok(Exit::FAILED);
    }
    Ok(Exit::DONE)
}

/// `others`: there are some that who asks may not change.
fn of_whom(letters: &Letters, others: bool) -> String {
    match (&letters.from, &letters.name) {
        (Some(owner), Some(name)) => format!(" of {owner} {name}"),
        (Some(owner), None) => format!(" of {owner}"),
        (None, _) if letters.all && others => " of yours".to_owned(),
        (None, _) if letters.all => " of all".to_owned(),
        (None, _) => String::new(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn questions_name_how_many_of_whom() {
        let letters = Letters {
            entries: Vec::new(),
            from: Some(crate::values::owner("user/goos").unwrap()),
            name: Some("log".into()),
            all: false,
            yes: false,
            json: false,
        };
        assert_eq!(
            Change::Drop.question(12, &of_whom(&letters, false)),
            "delete 12 dead letters of user/goos log for good?"
        );
        let all = Letters { from: None, name: None, all: true, ..letters };
        assert_eq!(Change::Drop.question(2, &of_whom(&all, true)), "delete 2 dead letters of yours for good?");
        assert!(Change::Retry.question(2, &of_whom(&all, false)).starts_with("have 2 dead letters of all wait again"));
        assert_eq!(Change::Retry.done(0), "no dead letter waits again");
        assert_eq!(Change::Drop.done(1), "1 dead letter deleted");
    }
}
