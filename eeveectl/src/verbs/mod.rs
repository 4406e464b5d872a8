//! What each verb does. Verbs for several operators report each of them, and the worst exit code wins.

pub(crate) mod check;
pub(crate) mod dead;
mod edit;
mod enable;
mod forget;
mod halt;
mod life;
mod logs;
mod publish;
mod queue;
mod reload;
mod say;
mod status;
mod subscribe;

use std::future::Future;

use futures_util::{StreamExt, stream};
use libeevee::{Exit, OperatorId};

use crate::cli::{Cli, Verb};
use crate::context::Context;
use crate::output::{self, Progress};
use crate::unit::Job;

/// How many operators are worked on at a time.
const PARALLEL: usize = 16;

/// What became of one operator.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Report {
    pub(crate) exit: Exit,
    /// What happened; the first line stands after the id.
    pub(crate) text: String,
    /// It worked, but something is not as it should be.
    pub(crate) warning: Option<String>,
}

impl Report {
    pub(crate) fn done(text: impl Into<String>) -> Self {
        Self { exit: Exit::DONE, text: text.into(), warning: None }
    }

    pub(crate) fn failed(text: impl Into<String>) -> Self {
        Self { exit: Exit::FAILED, text: text.into(), warning: None }
    }

    pub(crate) fn configuration(text: impl Into<String>) -> Self {
        Self { exit: Exit::CONFIGURATION, text: text.into(), warning: None }
    }

    pub(crate) fn but(mut self, warning: impl Into<String>) -> Self {
        self.warning = Some(warning.into());
        self
    }

    fn print(&self, id: &OperatorId) {
        let text = output::safe(&format!("{id}: {}", self.text));
        if self.exit == Exit::DONE {
            output::line(&text)
        } else {
            output::error(&text)
        }
        if let Some(warning) = &self.warning {
            output::warning(&output::safe(&format!("{id}: {warning}")));
        }
    }
}

/// The exit code of all together.
pub(crate) fn worse(one: Exit, other: Exit) -> Exit {
    if one.code() >= other.code() { one } else { other }
}

/// Does the same to several operators at once, and reports each in the order asked for.
pub(crate) async fn each<'a, F>(
    ids: &'a [OperatorId],
    progress: &'a Progress,
    work: impl Fn(&'a OperatorId) -> F,
) -> Exit
where
    F: Future<Output = Report> + 'a,
{
    let mut reports = stream::iter(ids.iter().map(|id| {
        let work = work(id);
        async move { (id, work.await) }
    }))
    .buffered(PARALLEL);
    let mut exit = Exit::DONE;
    let all = async {
        while let Some((id, report)) = reports.next().await {
            progress.set(id, "");
            progress.clear();
            report.print(id);
            exit = worse(exit, report.exit);
        }
    };
    tokio::select! {
        () = all => {}
        () = progress.draw() => {}
    }
    exit
}

/// Runs what was asked for.
pub(crate) async fn run(cli: Cli) -> anyhow::Result<Exit> {
    let context = Context::new(cli.bus, cli.config);
    let context = &context;
    match cli.verb {
        Verb::Status { ids, json } => status::run(context, &ids, json).await,
        Verb::Start(units) => life::run(context, &units, Job::Start).await,
        Verb::Stop(units) => life::run(context, &units, Job::Stop).await,
        Verb::Restart(units) => life::run(context, &units, Job::Restart).await,
        Verb::Reload(units) => reload::run(context, &units).await,
        Verb::Halt(units) => halt::run(context, &units, true).await,
        Verb::Resume(units) => halt::run(context, &units, false).await,
        Verb::Enable { units, now } => enable::enable(context, &units, now).await,
        Verb::Disable { units, now } => enable::disable(context, &units, now).await,
        Verb::Logs { ids, follow, since, lines } => logs::run(&ids, follow, since.as_deref(), lines),
        Verb::Publish { headers, body, confirm } => publish::run(context, headers, body, confirm).await,
        Verb::Subscribe(watch) => subscribe::run(context, &watch).await,
        Verb::Queue { owner, json } => queue::run(context, owner.as_ref(), json).await,
        Verb::Forget { owner, name, yes, json } => forget::run(context, &owner, &name, yes, json).await,
        Verb::Dead { verb } => dead::run(context, verb).await,
        Verb::Say { id, channel, text, network } => say::run(context, &id, &channel, &text, network).await,
        Verb::Check { targets } => check::run(context, &targets).await,
        Verb::Edit { id } => edit::run(context, &id).await,
        Verb::ReloadBus => reload::bus(context).await,
    }
}

/// Whether a person agrees to what cannot be taken back; what the program ends with where not.
pub(crate) fn agreed(question: &str, yes: bool) -> anyhow::Result<Option<Exit>> {
    if yes {
        return Ok(None);
    }
    if !output::questions_possible() {
        output::error(&output::safe(&format!("{question} Nobody can be asked here: say --yes")));
        return Ok(Some(Exit::USAGE));
    }
    if output::agrees(question)? {
        return Ok(None);
    }
    output::note("nothing was done");
    Ok(Some(Exit::FAILED))
}

/// A sentence for verbs that work on units, when the bus is one of a developer.
pub(crate) fn units_are_elsewhere(verb: &str) -> anyhow::Error {
    anyhow::anyhow!(
        "{verb} works on systemd's units, and the operators of another bus (--bus, EEVEE_BUS) are none: start and stop them as you started them"
    )
}
