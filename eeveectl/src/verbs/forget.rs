//! forget: the end of a durable subscription whose operator will not come back to it. Unsubscribing only leaves it.

use libeevee::Exit;
use serde_json::json;

use super::agreed;
use crate::context::Context;
use crate::durable::{self, QueueView, Whose};
use crate::values::Owner;
use crate::{output, waiting};

pub(crate) async fn run(context: &Context, owner: &Owner, name: &str, yes: bool, json: bool) -> anyhow::Result<Exit> {
    let client = context.bus().await.map_err(anyhow::Error::msg)?;
    let whose = Whose { owner: Some(owner), name: None };
    let (_, queues) = durable::queues(client, whose).await.map_err(anyhow::Error::msg)?;
    let Some(queue) = queues.iter().find(|queue| queue.name == name) else {
        anyhow::bail!("{}", unknown(owner, name, &queues));
    };
    if queue.connected {
        let stop = match owner {
            Owner::Operator(id) => format!("eeveectl stop {id}"),
            Owner::Person(_) => "end that eeveectl subscribe".to_owned(),
        };
        anyhow::bail!("somebody is attached to {name} of {owner}, and would have it again at once: {stop}");
    }
    let question = format!("forget {name} of {owner}, and {}?", what_goes(queue));
    if let Some(exit) = agreed(&question, yes)? {
        return Ok(exit);
    }
    let argument = json!({"owner": owner.to_string(), "name": name});
    let gone = durable::ask(client, "forget", &argument).await.map_err(anyhow::Error::msg)?;
    if json {
        output::line(&output::safe_json(&gone.to_string()));
    } else {
        let count = |key: &str| gone[key].as_u64().unwrap_or(0);
        output::line(&format!(
            "{owner}: forgot {name}, with {} and {}",
            counted(count("messages"), "message"),
            counted(count("dead"), "dead letter")
        ));
    }
    Ok(Exit::DONE)
}

fn unknown(owner: &Owner, name: &str, queues: &[QueueView]) -> String {
    let names: Vec<&str> = queues.iter().map(|queue| queue.name.as_str()).collect();
    match names.is_empty() {
        true => format!("{owner} has no durable subscription {name:?}, nor any other: eeveectl queue"),
        false => format!("{owner} has no durable subscription {name:?}; it has {}", names.join(", ")),
    }
}

/// What a person would miss.
fn what_goes(queue: &QueueView) -> String {
    let waits = waiting::depth(queue).map_or_else(
        || "nothing that waits in it".to_owned(),
        |depth| format!("what waits in it for good ({depth}, {})", output::bytes(queue.bytes)),
    );
    match queue.dead {
        0 => waits,
        dead => format!("{waits}, and {}", counted(dead, "dead letter")),
    }
}

pub(super) fn counted(count: u64, what: &str) -> String {
    if count == 1 { format!("1 {what}") } else { format!("{count} {what}s") }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::durable::tests::sample_queues;

    #[test]
    fn how_much_goes() {
        let queues = sample_queues();
        assert_eq!(
            what_goes(&queues[0]),
            "what waits in it for good (12 messages wait, the oldest for 9 min, 3.4 KiB), and 3 dead letters"
        );
        assert_eq!(what_goes(&queues[1]), "nothing that waits in it");
        let owner = crate::values::owner("dice").unwrap();
        assert!(unknown(&owner, "comands", &queues[..1]).ends_with("it has commands"));
        assert!(unknown(&owner, "comands", &[]).contains("nor any other"));
    }
}
