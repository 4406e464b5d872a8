//! reload and reload-bus: systemd asks through its reload helper, so that `systemctl reload` would say the same; the
//! diagnosis of a refusal is what the bus keeps.

use std::time::Duration;

use libeevee::{Code, ErrorKind, Exit, OperatorId};
use tokio::time::Instant;

use super::{Report, each};
use crate::bus::{self, LastReload};
use crate::cli::Units;
use crate::context::Context;
use crate::output::{self, Progress};
use crate::systemctl::{self, RunError};
use crate::unit::{self, Job};
use crate::why;

/// The bus gives an operator 20 s for its verdict.
const WAIT: Duration = Duration::from_secs(30);

pub(crate) async fn run(context: &Context, units: &Units) -> anyhow::Result<Exit> {
    let ids = context.chosen(units)?;
    let progress = Progress::new();
    let timeout = units.timeout.unwrap_or(WAIT);
    let system = context.is_system();
    Ok(each(&ids, &progress, async |id: &OperatorId| {
        progress.set(id, "is reloading");
        if system { by_unit(context, id, timeout).await } else { by_bus(context, id, timeout).await }
    })
    .await)
}

async fn by_unit(context: &Context, id: &OperatorId, timeout: Duration) -> Report {
    // The bus keeps one verdict: what is there already is not the one on this reload.
    let before = last_reload(context, id).await;
    let line = unit::job(Job::Reload, std::slice::from_ref(id), context.is_terminal());
    let ran = match systemctl::run(&line, Some(Instant::now() + timeout)).await {
        Ok(ran) => ran,
        Err(RunError::Deadline) => {
            let what = format!("no verdict after {}; it goes on with its old settings", output::span(timeout));
            return why::explain(context, id, &what, None).await;
        }
        Err(error) => return Report::failed(error.to_string()),
    };
    let last = last_reload(context, id).await.filter(|last| Some(last) != before.as_ref());
    // First: a unit with another ExecReload= (a drop-in) may say yes whatever the verdict is.
    if let Some(LastReload { accepted: false, text: Some(text), .. }) = &last {
        return refused(text);
    }
    if ran.ok() {
        return Report::done(accepted(last.and_then(|last| last.text)));
    }
    if ran.is_denied() {
        return Report::failed(format!("not reloaded: {}", ran.complaint()));
    }
    // No diagnosis: it is not up, the bus is away, or the operator did not answer.
    let view = systemctl::show_one(id).await.unwrap_or_default();
    if view.is_down() {
        return Report::failed(format!("is not running, and reads its file when it starts: eeveectl start {id}"));
    }
    let mut report = why::explain(context, id, "was not reloaded and goes on as it was", Some(&ran.complaint())).await;
    if view.reload_status == Some(u32::from(Exit::CONFIGURATION.code())) {
        report.exit = Exit::CONFIGURATION;
    }
    report
}

async fn last_reload(context: &Context, id: &OperatorId) -> Option<LastReload> {
    let client = context.bus().await.ok()?;
    bus::status_one(client, id).await.ok()??.last_reload
}

/// Where no systemd is in between.
async fn by_bus(context: &Context, id: &OperatorId, timeout: Duration) -> Report {
    let client = match context.bus().await {
        Ok(client) => client,
        Err(why) => return Report::failed(why),
    };
    match tokio::time::timeout(timeout, client.control("reload", id.as_str(), "")).await {
        Ok(Ok(text)) => Report::done(accepted(text)),
        Ok(Err(error)) if error.kind() == ErrorKind::Refused(Code::Refused) => refused(&bus::text_of(&error)),
        Ok(Err(error)) => Report::failed(bus::text_of(&error)),
        Err(_) => Report::failed(format!("no verdict after {}", output::span(timeout))),
    }
}

fn accepted(text: Option<String>) -> String {
    match text.filter(|text| !text.trim().is_empty()) {
        Some(text) => format!("reloaded: {}", text.trim()),
        None => "reloaded".to_owned(),
    }
}

fn refused(diagnosis: &str) -> Report {
    Report::configuration(format!("refused, and goes on with its old settings\n{}", diagnosis.trim_end()))
}

pub(crate) async fn bus(context: &Context) -> anyhow::Result<Exit> {
    let client = context.bus().await.map_err(anyhow::Error::msg)?;
    let answer = tokio::time::timeout(WAIT, client.control("reload-bus", "", ""));
    match answer.await {
        Ok(Ok(text)) => {
            output::line(&output::safe(&format!("bus: {}", accepted(text))));
            Ok(Exit::DONE)
        }
        Ok(Err(error)) if error.kind() == ErrorKind::Refused(Code::Refused) => {
            let text = bus::text_of(&error);
            output::error(&output::safe(&format!(
                "bus: refused, and goes on with its old settings\n{}",
                text.trim_end()
            )));
            Ok(Exit::CONFIGURATION)
        }
        Ok(Err(error)) => Err(anyhow::Error::msg(bus::text_of(&error))),
        Err(_) => Err(anyhow::anyhow!("the bus did not answer within {}", output::span(WAIT))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_refusal_is_a_configuration_error_with_the_diagnosis() {
        let report = refused("error: unknown key `nik`\n --> irc.toml:7:1\n");
        assert_eq!(report.exit, Exit::CONFIGURATION);
        assert!(report.text.ends_with("irc.toml:7:1"));
        assert_eq!(accepted(Some(" \n".into())), "reloaded");
    }
}
