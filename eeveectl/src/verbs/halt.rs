//! halt and resume: the bus owns the flag and holds the messages; the signal only tells the process sooner, and cannot
//! reach one that is wedged.

use std::time::Duration;

use libeevee::client::Client;
use libeevee::{Exit, OperatorId};
use tokio::time::Instant;

use super::{Report, each};
use crate::bus::{self, BusView};
use crate::cli::Units;
use crate::context::Context;
use crate::durable::{self, Whose};
use crate::output::{Progress, span};
use crate::systemctl;
use crate::unit::{self, Signal};
use crate::values::Owner;
use crate::waiting::Waiting;

/// How long an operator may finish what it has in hand before it is called wedged. The messages are held at once.
const WAIT: Duration = Duration::from_secs(10);
const POLL: Duration = Duration::from_millis(50);

pub(crate) async fn run(context: &Context, units: &Units, halt: bool) -> anyhow::Result<Exit> {
    let ids = context.chosen(units)?;
    let progress = Progress::new();
    let timeout = units.timeout.unwrap_or(WAIT);
    Ok(each(&ids, &progress, async |id: &OperatorId| {
        progress.set(id, if halt { "is being halted" } else { "is being resumed" });
        one(context, id, halt, timeout).await
    })
    .await)
}

async fn one(context: &Context, id: &OperatorId, halt: bool, timeout: Duration) -> Report {
    let deadline = Instant::now() + timeout;
    let client = match context.bus().await {
        Ok(client) => client,
        Err(why) => return Report::failed(format!("not {}: {why}", word(halt))),
    };
    let verb = if halt { "halt" } else { "resume" };
    match tokio::time::timeout_at(deadline, client.control(verb, id.as_str(), "")).await {
        Ok(Ok(_)) => {}
        Ok(Err(error)) => return Report::failed(format!("not {}: {}", word(halt), bus::text_of(&error))),
        Err(_) => return Report::failed(format!("not {}: the bus did not answer in time", word(halt))),
    }
    let view = bus::status_one(client, id).await;
    let warning = match &view {
        Ok(Some(view)) if view.connected && context.is_system() => signal(context, id, halt, deadline).await,
        _ => None,
    };
    let mut status = status_of(&view);
    let mut report = settle(view, halt);
    while report.is_none() && Instant::now() < deadline {
        tokio::time::sleep(POLL).await;
        let view = bus::status_one(client, id).await;
        status = status_of(&view);
        report = settle(view, halt);
    }
    let mut report = report.unwrap_or_else(|| match status.starts_with("finishing") && halt {
        true => finishing(timeout, &status),
        false => unanswered(id, halt),
    });
    if halt && report.exit == Exit::DONE {
        report.text.push_str(&waiting(client, id).await);
    }
    match warning.filter(|_| report.warning.is_none()) {
        Some(warning) => report.but(warning),
        None => report,
    }
}

const fn word(halt: bool) -> &'static str {
    if halt { "halted" } else { "resumed" }
}

/// What the bus says when it is settled; none while the operator still has to acknowledge it.
fn settle(view: Result<Option<BusView>, String>, halt: bool) -> Option<Report> {
    Some(match view {
        Err(why) => Report::done(word(halt)).but(format!("whether it acknowledged is not known: {why}")),
        Ok(None) => Report::done(word(halt)),
        Ok(Some(view)) if view.halted != halt => {
            Report::failed(format!("not {}: somebody else changed it just now", word(halt)))
        }
        Ok(Some(view)) if !view.connected => match halt {
            true => Report::done("halted; it is not running, and will take no work when it starts"),
            false => Report::done("resumed; it is not running"),
        },
        Ok(Some(view)) if halt && view.state == "halted" => Report::done("halted"),
        Ok(Some(view)) if !halt && view.state == "ready" => Report::done("resumed"),
        Ok(Some(_)) => return None,
    })
}

/// What waits for it now, in memory and on disk; nothing where the bus does not say.
async fn waiting(client: &Client, id: &OperatorId) -> String {
    let Ok(Some(view)) = bus::status_one(client, id).await else { return String::new() };
    let owner = Owner::Operator(id.clone());
    let queues = durable::queues(client, Whose { owner: Some(&owner), name: None }).await;
    let queues = queues.map(|(_, queues)| queues).unwrap_or_default();
    wait_text(Waiting { queues, dead: Vec::new() }.queue(&view).0)
}

fn wait_text(count: u64) -> String {
    match count {
        0 => String::new(),
        1 => "; 1 message waits".to_owned(),
        count => format!("; {count} messages wait"),
    }
}

fn status_of(view: &Result<Option<BusView>, String>) -> String {
    view.as_ref().ok().and_then(Option::as_ref).map(|view| view.status.clone()).unwrap_or_default()
}

/// It does answer: a connector with a queue says for minutes what it had taken before.
fn finishing(after: Duration, status: &str) -> Report {
    Report::done(format!("halted; {} later still finishing what it had in hand: {status}", span(after)))
}

/// The bus holds the messages in any case, so that a halt is true even now; a resume is not.
fn unanswered(id: &OperatorId, halt: bool) -> Report {
    match halt {
        true => Report::done("halted; process does not answer (wedged?)").but(format!(
            "the bus holds its messages; the process is still busy, stopped or stuck: eeveectl status {id}, eeveectl restart {id}"
        )),
        false => Report::failed(format!(
            "the bus delivers again, but the process does not answer (wedged?): eeveectl status {id}, eeveectl restart {id}"
        )),
    }
}

/// Tells the process. Its failure changes nothing about what the bus does.
async fn signal(context: &Context, id: &OperatorId, halt: bool, deadline: Instant) -> Option<String> {
    let signal = if halt { Signal::Halt } else { Signal::Resume };
    match systemctl::run(&unit::kill(signal, id, context.is_terminal()), Some(deadline)).await {
        Ok(ran) if ran.ok() => None,
        Ok(ran) => Some(format!("no signal sent to the process: {}", ran.complaint())),
        Err(error) => Some(format!("no signal sent to the process: {error}")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn view(connected: bool, state: &str, halted: bool) -> Result<Option<BusView>, String> {
        Ok(Some(BusView { connected, state: state.into(), halted, ..BusView::default() }))
    }

    #[test]
    fn when_a_halt_is_settled() {
        assert_eq!(settle(view(true, "halted", true), true).unwrap().text, "halted");
        assert_eq!([0, 1, 3].map(wait_text), ["", "; 1 message waits", "; 3 messages wait"]);
        assert_eq!(settle(view(true, "ready", true), true), None);
        assert!(settle(view(false, "away", true), true).unwrap().text.contains("not running"));
        assert_eq!(settle(view(true, "ready", false), true).unwrap().exit, Exit::FAILED);
        let id = "dice".parse().unwrap();
        assert_eq!(unanswered(&id, true).exit, Exit::DONE);
        assert!(unanswered(&id, true).text.contains("wedged?"));
        let busy = finishing(WAIT, "finishing what waits to be said; connected to irc.libera.chat as eevee");
        assert_eq!((busy.exit, &busy.warning), (Exit::DONE, &None));
        assert!(busy.text.starts_with("halted; 10 s later still finishing what it had in hand: "), "{}", busy.text);
    }

    #[test]
    fn when_a_resume_is_settled() {
        assert_eq!(settle(view(true, "ready", false), false).unwrap().text, "resumed");
        assert_eq!(settle(view(true, "halted", false), false), None);
        assert_eq!(unanswered(&"dice".parse().unwrap(), false).exit, Exit::FAILED);
    }
}
