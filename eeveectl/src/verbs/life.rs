//! start, stop and restart: what systemctl does, and then the proof that it came true.

use std::time::Duration;

use libeevee::{Exit, OperatorId};
use tokio::time::Instant;

use super::{Report, each, units_are_elsewhere};
use crate::bus::{self, BusView};
use crate::cli::Units;
use crate::context::Context;
use crate::output::{self, Progress};
use crate::systemctl::{self, RunError};
use crate::unit::{self, Job, UnitView};
use crate::why;

const WAIT: Duration = Duration::from_secs(30);
const POLL: Duration = Duration::from_millis(100);

pub(crate) async fn run(context: &Context, units: &Units, job: Job) -> anyhow::Result<Exit> {
    if !context.is_system() {
        return Err(units_are_elsewhere(job.word()));
    }
    let ids = context.chosen(units)?;
    Ok(all(context, &ids, job, units.timeout).await)
}

/// Starts, stops or restarts these operators.
pub(crate) async fn all(context: &Context, ids: &[OperatorId], job: Job, timeout: Option<Duration>) -> Exit {
    let progress = Progress::new();
    let timeout = timeout.unwrap_or(WAIT);
    each(ids, &progress, |id| one(context, id, job, timeout, &progress)).await
}

async fn one(context: &Context, id: &OperatorId, job: Job, timeout: Duration, progress: &Progress) -> Report {
    let deadline = Instant::now() + timeout;
    let unit = std::slice::from_ref(id);
    if job != Job::Stop {
        progress.set(id, "is starting");
        // A person's starts do not count towards the limit. It fails where the unit is not loaded, which is fine.
        let _ = systemctl::run(&unit::job(Job::ResetFailed, unit, context.is_terminal()), Some(deadline)).await;
    } else {
        progress.set(id, "is stopping");
    }
    let was_down = job == Job::Stop && systemctl::show_one(id).await.is_ok_and(|view| view.is_down());
    let line = unit::job(job, unit, context.is_terminal());
    let ran = tokio::select! {
        ran = systemctl::run(&line, Some(deadline)) => ran,
        () = watch(id, progress) => unreachable!("watching does not end"),
    };
    match (ran, job) {
        (Err(RunError::Spawn(error)), _) => Report::failed(RunError::Spawn(error).to_string()),
        (Err(RunError::Deadline), _) => {
            let what = format!("not done after {}; systemd goes on with the {}", output::span(timeout), job.word());
            why::explain(context, id, &what, None).await
        }
        (Ok(ran), _) if ran.is_denied() => Report::failed(format!("{} failed: {}", job.word(), ran.complaint())),
        (Ok(ran), Job::Stop) if ran.ok() && was_down => Report::done("was not running"),
        (Ok(ran), Job::Stop) => stopped(context, id, ran.ok(), &ran.complaint()).await,
        (Ok(ran), _) if !ran.ok() => {
            why::explain(context, id, &format!("did not {}", job.word()), Some(&ran.complaint())).await
        }
        (Ok(_), _) => started(context, id, job, deadline, progress).await,
    }
}

/// Shows what an operator says of itself while systemctl waits for it; never ends.
async fn watch(id: &OperatorId, progress: &Progress) {
    loop {
        tokio::time::sleep(Duration::from_secs(1)).await;
        if let Ok(view) = systemctl::show_one(id).await
            && !view.status_text.is_empty()
        {
            progress.set(id, &view.status_text);
        }
    }
}

async fn stopped(context: &Context, id: &OperatorId, ok: bool, complaint: &str) -> Report {
    match systemctl::show_one(id).await {
        Ok(view) if view.is_down() => {
            let report = Report::done("stopped");
            match why::ending(&view).filter(|_| view.active == "failed") {
                Some(how) => report.but(format!("it did not end well: {how}; journalctl -u eevee-op@{id} -n 50")),
                None => report,
            }
        }
        Ok(_) if !ok => why::explain(context, id, "did not stop", Some(complaint)).await,
        Ok(_) => why::explain(context, id, "is up again: somebody else started it, or systemd did", None).await,
        Err(why) if ok => Report::done("stopped").but(why),
        Err(_) => Report::failed(format!("did not stop: {complaint}")),
    }
}

/// systemd says that it is up, which an operator says after the bus welcomed it. Ask the bus, too.
async fn started(context: &Context, id: &OperatorId, job: Job, deadline: Instant, progress: &Progress) -> Report {
    let word = if job == Job::Restart { "restarted" } else { "started" };
    let client = match context.bus().await {
        Ok(client) => client,
        Err(why) => return Report::done(word).but(format!("systemd says so; the bus could not be asked: {why}")),
    };
    progress.set(id, "is started, and connects to the bus");
    loop {
        let bus = bus::status_one(client, id).await;
        match &bus {
            Ok(Some(view)) if view.connected && matches!(view.state.as_str(), "ready" | "halted") => {
                return ready(word, view, id);
            }
            Err(why) => return Report::done(word).but(format!("systemd says so; the bus could not be asked: {why}")),
            _ => {}
        }
        match systemctl::show_one(id).await {
            Ok(UnitView { active, .. }) if active != "active" => {
                return why::explain(context, id, &format!("{word}, and did not stay up"), None).await;
            }
            _ if Instant::now() >= deadline => {
                return why::explain(context, id, &format!("{word}, but not ready on the bus in time"), None).await;
            }
            _ => tokio::time::sleep(POLL).await,
        }
    }
}

fn ready(word: &str, view: &BusView, id: &OperatorId) -> Report {
    let state = if view.halted { "halted" } else { view.state.as_str() };
    let mut text = format!("{word}, {state}");
    if !view.status.is_empty() && view.status != state {
        text.push_str(&format!(": {}", libeevee::escape_for_terminal(&view.status)));
    }
    match view.halted {
        true => Report::done(text).but(format!("it is halted and takes no work: eeveectl resume {id}")),
        false => Report::done(text),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_halted_operator_starts_with_a_hint() {
        let id: OperatorId = "irc".parse().unwrap();
        let mut view = BusView { state: "ready".into(), status: "libera".into(), ..BusView::default() };
        assert_eq!(ready("started", &view, &id).text, "started, ready: libera");
        view.halted = true;
        view.status = "halted".into();
        let report = ready("restarted", &view, &id);
        assert_eq!(report.text, "restarted, halted");
        assert!(report.warning.unwrap().contains("eeveectl resume irc"));
    }
}
