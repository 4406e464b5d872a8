//! enable and disable. systemd would enable an operator that can never start, so its module file is checked before.

use libeevee::{Exit, OperatorId};
use tokio::time::{Duration, Instant};

use super::{Report, check, each, life, units_are_elsewhere, worse};
use crate::cli::Units;
use crate::context::Context;
use crate::output::{self, Progress};
use crate::unit::{self, Job};
use crate::{modules, systemctl};

/// It reads the configuration of systemd anew, which takes seconds on a large machine.
const WAIT: Duration = Duration::from_secs(30);

pub(crate) async fn enable(context: &Context, units: &Units, now: bool) -> anyhow::Result<Exit> {
    if !context.is_system() {
        return Err(units_are_elsewhere("enable"));
    }
    let ids = context.chosen(units)?;
    // All or nothing: an operator of a set that is half enabled is found out at the next boot only.
    let mut good = true;
    for id in &ids {
        let checked = check::module(&modules::path(&context.config, id), Some(id)).await;
        if checked.exit != Exit::DONE {
            good = false;
            output::error(&output::safe(&format!("{id}: not enabled\n{}", checked.text.trim_end())));
        } else if !checked.text.is_empty() {
            output::note(&output::safe(checked.text.trim_end()));
        }
    }
    if !good {
        return Ok(Exit::CONFIGURATION);
    }
    let exit = change(context, &ids, Job::Enable, now).await;
    Ok(if now && exit == Exit::DONE { life::all(context, &ids, Job::Start, units.timeout).await } else { exit })
}

pub(crate) async fn disable(context: &Context, units: &Units, now: bool) -> anyhow::Result<Exit> {
    if !context.is_system() {
        return Err(units_are_elsewhere("disable"));
    }
    let ids = context.chosen(units)?;
    let exit = change(context, &ids, Job::Disable, now).await;
    Ok(if now { worse(exit, life::all(context, &ids, Job::Stop, units.timeout).await) } else { exit })
}

async fn change(context: &Context, ids: &[OperatorId], job: Job, now: bool) -> Exit {
    let progress = Progress::new();
    each(ids, &progress, async |id: &OperatorId| {
        let line = unit::job(job, std::slice::from_ref(id), context.is_terminal());
        match systemctl::run(&line, Some(Instant::now() + WAIT)).await {
            Ok(ran) if ran.ok() => Report::done(match (job, now) {
                (Job::Enable, false) => format!("enabled; it starts at the next boot, and now by eeveectl start {id}"),
                (Job::Enable, true) => "enabled".to_owned(),
                (_, false) => format!("disabled; where it runs, it goes on until eeveectl stop {id}"),
                (_, true) => "disabled".to_owned(),
            }),
            Ok(ran) => Report::failed(format!("not {}d: {}", job.word(), ran.complaint())),
            Err(error) => Report::failed(format!("not {}d: {error}", job.word())),
        }
    })
    .await
}
