//! queue: what waits in durable subscriptions, and what is wrong with each of them.

use libeevee::Exit;

use crate::bus::{self, BusView};
use crate::context::Context;
use crate::durable::{self, QueueView, Whose};
use crate::output;
use crate::values::Owner;
use crate::waiting::{self, Trouble};

const TITLES: [&str; 9] = ["OWNER", "NAME", "ATTACHED", "WAIT", "BYTES", "OLDEST", "IN FLIGHT", "AGAIN", "DEAD"];

pub(crate) async fn run(context: &Context, owner: Option<&Owner>, json: bool) -> anyhow::Result<Exit> {
    let client = context.bus().await.map_err(anyhow::Error::msg)?;
    let whose = Whose { owner, name: None };
    let (answer, queues) = durable::queues(client, whose).await.map_err(anyhow::Error::msg)?;
    if json {
        output::line(&output::safe_json(&serde_json::to_string_pretty(&answer)?));
        return Ok(Exit::DONE);
    }
    let operators = bus::status(client).await.map_err(anyhow::Error::msg)?;
    let store = durable::store(client).await.map_err(anyhow::Error::msg)?;
    if queues.is_empty() {
        return Ok(none(owner, &operators));
    }
    let dead = waiting::deaths(client, whose, &queues).await.map_err(anyhow::Error::msg)?;
    let view = |queue: &QueueView| operators.iter().find(|view| view.id == queue.owner);
    output::line(&output::table(&TITLES, queues.iter().map(|queue| cells(queue, view(queue))), output::width()));
    if owner.is_some() {
        queues.iter().for_each(|queue| output::line(&output::safe(&format!("\n{}", bounds(queue)))));
    }
    if let Some(trouble) = waiting::store_trouble(store.as_ref()) {
        tell("bus", &trouble);
    }
    for queue in &queues {
        waiting::troubles(queue, view(queue), &dead).iter().for_each(|trouble| tell(&queue.owner, trouble));
    }
    Ok(Exit::DONE)
}

/// Not a mistake, unless nobody has ever heard of the operator.
fn none(owner: Option<&Owner>, operators: &[BusView]) -> Exit {
    match owner {
        None => output::note(
            "there is no durable subscription: operators have one by durable(\"NAME\"), you by eeveectl subscribe --durable NAME",
        ),
        Some(Owner::Operator(id)) if !operators.iter().any(|view| view.id == id.as_str()) => {
            output::error(&format!("{id}: there is no such operator: eeveectl status"));
            return Exit::FAILED;
        }
        Some(owner) => output::note(&format!("{owner} has no durable subscription")),
    }
    Exit::DONE
}

fn tell(who: &str, trouble: &Trouble) {
    output::line(&output::safe(&told(who, trouble)));
}

fn told(who: &str, trouble: &Trouble) -> String {
    let next = trouble.next.as_ref().map(|next| format!("\n  next: {next}")).unwrap_or_default();
    format!("\n{who} {}{next}", trouble.what)
}

fn cells(queue: &QueueView, operator: Option<&BusView>) -> Vec<String> {
    let attached = match (queue.connected, operator) {
        (true, Some(view)) if view.halted => "halted",
        (true, _) => "yes",
        (false, _) => "nobody",
    };
    let oldest = queue.oldest_ms.map(|ms| output::span(std::time::Duration::from_secs(ms / 1000)));
    vec![
        queue.owner.clone(),
        queue.name.clone(),
        attached.to_owned(),
        queue.messages.to_string(),
        output::bytes(queue.bytes),
        oldest.unwrap_or_else(|| "-".to_owned()),
        queue.in_flight.to_string(),
        queue.redelivery.to_string(),
        queue.dead.to_string(),
    ]
}

/// What it collects, and how much of it.
fn bounds(queue: &QueueView) -> String {
    let line = |name: &str, value: &str| format!("\n{name:>14}: {}", libeevee::escape_for_terminal(value));
    let mut text = format!("{} {}", queue.owner, queue.name);
    queue.filters.iter().for_each(|filter| text.push_str(&line("collects", filter)));
    let most = format!("{} messages, {}", queue.messages_max, output::bytes(queue.bytes_max));
    text.push_str(&line("at most", &format!("{most}; then {}", waiting::policy(&queue.overflow))));
    if let Some(age) = queue.max_age_ms.map(std::time::Duration::from_millis) {
        text.push_str(&line("max-age", &format!("what waited {} becomes a dead letter", output::span(age))));
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::durable::tests::sample_queues;

    #[test]
    fn a_row_for_each() {
        let queues = sample_queues();
        assert_eq!(cells(&queues[0], None), ["dice", "commands", "nobody", "12", "3.4 KiB", "9 min", "0", "2", "3"]);
        let halted = BusView { halted: true, ..BusView::default() };
        let attached = QueueView { connected: true, ..queues[0].clone() };
        assert_eq!(cells(&attached, Some(&halted))[2], "halted");
        assert_eq!(cells(&queues[1], None)[2..6], ["yes", "0", "0 B", "-"]);
        let text = output::table(&TITLES, queues.iter().map(|queue| cells(queue, None)), None);
        assert_eq!(text.lines().count(), 3);
        assert!(text.lines().next().unwrap().contains("IN FLIGHT"), "{text}");
    }

    #[test]
    fn what_it_collects() {
        let text = bounds(&sample_queues()[0]);
        for part in ["dice commands\n", "command=dice", "100000 messages, 256 MiB", "the oldest become", "5 min"] {
            assert!(text.contains(part), "{part}: {text}");
        }
        let trouble = Trouble { what: "commands: full".into(), next: Some("eeveectl status dice".into()) };
        assert_eq!(told("dice", &trouble), "\ndice commands: full\n  next: eeveectl status dice");
    }

    #[test]
    fn nothing_is_no_failure_but_an_unknown_operator_is() {
        let known = [BusView { id: "irc".into(), ..BusView::default() }];
        assert_eq!(none(None, &[]), Exit::DONE);
        assert_eq!(none(Some(&Owner::Person("goos".into())), &[]), Exit::DONE);
        assert_eq!(none(Some(&crate::values::owner("irc").unwrap()), &known), Exit::DONE);
        assert_eq!(none(Some(&crate::values::owner("icr").unwrap()), &known), Exit::FAILED);
    }
}
