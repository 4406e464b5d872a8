//! The operator's loop: starts and ends what follows, writes what comes, and says how it stands.

mod writing;

use std::path::PathBuf;
use std::pin::Pin;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use libeevee::operator::{Event, Failure, Operator};
use libeevee::{Error, GapReason};
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio::time::{Instant, MissedTickBehavior, interval, sleep, timeout};

use self::writing::{Writes, written};
use crate::files::{self, Feed, PLATFORM};
use crate::follow::Config;
use crate::journal;
use crate::report::Report;
use crate::settings::LogSettings;

const STATUS_EVERY: Duration = Duration::from_secs(2);
/// A start waits so long for the first look at files and journal.
const FIRST_LOOK_MAX: Duration = Duration::from_secs(5);
const FIRST_LOOK_EVERY: Duration = Duration::from_millis(5);
/// How often a network that another operator holds is claimed again.
const CLAIM_EVERY: Duration = Duration::from_secs(10);
/// A rotated file is closed when nothing was written to it for so long.
const QUIET: Duration = Duration::from_secs(10);

type Task = JoinHandle<Result<(), String>>;
type Claiming<'a> = Option<Pin<Box<dyn Future<Output = Result<(), Error>> + 'a>>>;

pub(crate) async fn run(op: Operator<LogSettings>) -> Result<(), Failure> {
    let settings = op.settings();
    let state = directory("STATE_DIRECTORY", "StateDirectory")?;
    let name = network(&op, &settings);
    let (network, _) = watch::channel(name);
    let mut work = Work {
        op: &op,
        state,
        report: Rc::default(),
        settings: settings.clone(),
        network,
        claiming: None,
        claim_at: Some(Instant::now()),
        files: None,
        journal: None,
        writer: None,
        stopping: false,
    };
    work.follow_files().map_err(Failure::other)?;
    work.follow_journal();
    work.write().await?;
    // Whoever starts it and then writes a line finds that line published. A disk that hangs is no reason not to start.
    let _ = timeout(FIRST_LOOK_MAX, work.has_looked()).await;
    op.ready(&work.report.status(op.id().as_str())).await;
    work.run().await
}

/// systemd separates several by colons; the first is the operator's own.
fn directory(variable: &str, setting: &str) -> Result<PathBuf, Failure> {
    let value = std::env::var_os(variable).filter(|value| !value.is_empty());
    value.and_then(|value| std::env::split_paths(&value).next()).ok_or_else(|| {
        Failure::config(format_args!(
            "${variable} is not set: the unit has no {setting}=; outside of systemd, set it to a directory"
        ))
    })
}

fn network(op: &Operator<LogSettings>, settings: &LogSettings) -> Rc<str> {
    settings.network.as_deref().unwrap_or(op.id().as_str()).into()
}

struct Work<'a> {
    op: &'a Operator<LogSettings>,
    state: PathBuf,
    report: Rc<Report>,
    settings: Arc<LogSettings>,
    network: watch::Sender<Rc<str>>,
    claiming: Claiming<'a>,
    claim_at: Option<Instant>,
    files: Option<(Arc<Feed>, Running)>,
    journal: Option<Running>,
    writer: Option<Writes>,
    stopping: bool,
}

/// A task that ends when it is asked to.
struct Running {
    task: Task,
    stop: watch::Sender<bool>,
}

impl Work<'_> {
    async fn run(&mut self) -> Result<(), Failure> {
        let mut hangup = signal(SignalKind::hangup())?;
        let mut ticks = interval(STATUS_EVERY);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        while !self.is_done() {
            let op = self.op;
            let full = self.writer.as_ref().is_some_and(Writes::is_full);
            let write_at = self.writer.as_ref().and_then(|writer| writer.again_at);
            let claim_at = self.claim_at.filter(|_| self.claiming.is_none() && !self.stopping);
            tokio::select! {
                event = async { if full { op.next_but_work().await } else { op.next().await } } => {
                    self.on_event(event).await?;
                }
                (which, ended) = ended(&mut self.files, &mut self.journal) => self.on_end(which, ended)?,
                written = written(&mut self.writer) => self.on_written(written).await?,
                () = files::until(write_at) => self.write_batch(),
                () = files::until(claim_at) => self.claim(),
                result = claimed(&mut self.claiming) => self.on_claimed(result),
                Some(()) = hangup.recv() => self.reopen(),
                _ = ticks.tick() => self.show().await,
            }
        }
        self.show().await;
        Ok(())
    }

    /// Until it is known what was there before.
    async fn has_looked(&self) {
        let looks = |running: &Running| !running.task.is_finished();
        while (self.report.files.borrow().is_none() && self.files.as_ref().is_some_and(|(_, running)| looks(running)))
            || (self.report.journal.borrow().is_none() && self.journal.as_ref().is_some_and(looks))
        {
            sleep(FIRST_LOOK_EVERY).await;
        }
    }

    async fn show(&self) {
        self.op.status(&self.report.status(self.op.id().as_str())).await;
    }

    async fn on_event(&mut self, event: Event<LogSettings>) -> Result<(), Failure> {
        match event {
            Event::Message(message) => self.on_message(message),
            Event::Gap(gap) => {
                let count = gap.count.map_or("an unknown number of".to_owned(), |count| count.to_string());
                match gap.reason {
                    GapReason::DeadLetter => {}
                    reason => tracing::warn!(gap.first, gap.last, "{count} messages to be written were lost: {reason}"),
                }
            }
            Event::Reload(reload) => match self.plan(&reload.new) {
                Ok(_) => reload.accept(),
                Err(why) => reload.refuse(why),
            },
            Event::Settings(settings) => self.change(settings).await?,
            Event::ClaimLost { name, error } if name == self.claim_name() => self.on_claimed(Err(error)),
            Event::Stop => self.stop(),
            Event::Halt | Event::Resume => self.show().await,
            _ => {}
        }
        Ok(())
    }

    // Following.

    fn config(&self) -> Config {
        let logs = directory("LOGS_DIRECTORY", "LogsDirectory").ok();
        Config {
            patterns: self.settings.patterns(),
            rules: self.settings.rules(),
            excluded: logs.and_then(|logs| logs.canonicalize().ok()),
            quiet: QUIET,
        }
    }

    fn follow_files(&mut self) -> Result<(), String> {
        if self.settings.files.is_empty() {
            return Ok(());
        }
        let feed = Feed::start(self.config(), self.state.clone()).map_err(|error| format!("no thread: {error}"))?;
        let (stop, stopped) = watch::channel(false);
        let network = self.network.subscribe();
        let publish = files::publish(self.op.clone(), Arc::clone(&feed), stopped, network, Rc::clone(&self.report));
        self.files = Some((feed, Running { task: tokio::task::spawn_local(publish), stop }));
        Ok(())
    }

    fn follow_journal(&mut self) {
        if let Some(journal) = &self.settings.journal {
            let (stop, stopped) = watch::channel(false);
            let network = self.network.subscribe();
            let follow = journal::follow(self.op.clone(), journal.clone(), stopped, network, Rc::clone(&self.report));
            self.journal = Some(Running { task: tokio::task::spawn_local(follow), stop });
        }
    }

    /// A task ends because it was asked to, or because it cannot go on.
    fn on_end(&mut self, which: Which, ended: Result<(), String>) -> Result<(), Failure> {
        match which {
            Which::Files => self.files = None,
            Which::Journal => self.journal = None,
        }
        ended.map_err(Failure::other)?;
        if self.stopping {
            return Ok(());
        }
        // It ended for other settings.
        match which {
            Which::Files => {
                self.report.files.replace(None);
                self.follow_files().map_err(Failure::other)
            }
            Which::Journal => {
                self.report.journal.replace(None);
                self.follow_journal();
                Ok(())
            }
        }
    }

    fn claim_name(&self) -> String {
        format!("{PLATFORM}/{}", &**self.network.borrow())
    }

    fn claim(&mut self) {
        self.claim_at = None;
        let (op, name) = (self.op, self.claim_name());
        self.claiming = Some(Box::pin(async move { op.client().claim(&name).await }));
    }

    /// Two of one name publish both; what they publish is not told apart, and that is said.
    fn on_claimed(&mut self, result: Result<(), Error>) {
        self.claiming = None;
        let name = self.claim_name();
        let trouble = result.err().map(|error| format!("{name} is not ours: {error}"));
        self.claim_at = trouble.as_ref().map(|_| Instant::now() + CLAIM_EVERY);
        self.report.claim.replace(trouble);
    }

    // The life of the operator.

    /// The bus has committed other settings: in place, what can be.
    async fn change(&mut self, settings: Arc<LogSettings>) -> Result<(), Failure> {
        let old = std::mem::replace(&mut self.settings, settings);
        let name = network(self.op, &self.settings);
        if *self.network.borrow() != name {
            let before = self.claim_name();
            self.network.send_replace(name);
            self.claiming = None;
            self.claim_at = Some(Instant::now());
            let client = self.op.client().clone();
            tokio::task::spawn_local(async move {
                if let Err(error) = client.unclaim(&before).await {
                    tracing::debug!("{before} is not given back: {error}");
                }
            });
        }
        match &self.files {
            // Where there is nothing to follow any more, the places are forgotten by that, too.
            Some((feed, _)) => feed.configure(self.config()),
            None => self.follow_files().map_err(Failure::other)?,
        }
        if old.journal != self.settings.journal {
            match &self.journal {
                // It begins again when it has ended.
                Some(running) => drop(running.stop.send(true)),
                None => self.follow_journal(),
            }
        }
        if old.write != self.settings.write {
            self.write().await?;
        }
        tracing::info!("new settings are in force");
        self.show().await;
        Ok(())
    }

    fn stop(&mut self) {
        self.stopping = true;
        for running in self.files.iter().map(|(_, running)| running).chain(&self.journal) {
            let _ = running.stop.send(true);
        }
        if let Some(writing) = &mut self.writer
            && writing.again_at.is_some()
        {
            tracing::info!("{} messages are not written: the bus keeps them", writing.waiting.len());
            writing.waiting.clear();
        }
    }

    fn is_done(&self) -> bool {
        let is_written =
            self.writer.as_ref().is_none_or(|writing| writing.batch.is_none() && writing.waiting.is_empty());
        self.stopping && self.files.is_none() && self.journal.is_none() && is_written
    }
}

#[derive(Debug, Clone, Copy)]
enum Which {
    Files,
    Journal,
}

/// Whichever task ends first.
async fn ended(files: &mut Option<(Arc<Feed>, Running)>, journal: &mut Option<Running>) -> (Which, Result<(), String>) {
    let wait = async |running: Option<&mut Running>| match running {
        Some(running) => (&mut running.task).await.unwrap_or_else(|error| Err(error.to_string())),
        None => std::future::pending().await,
    };
    tokio::select! {
        ended = wait(files.as_mut().map(|(_, running)| running)) => (Which::Files, ended),
        ended = wait(journal.as_mut()) => (Which::Journal, ended),
    }
}

async fn claimed(claiming: &mut Claiming<'_>) -> Result<(), Error> {
    match claiming {
        Some(claiming) => claiming.await,
        None => std::future::pending().await,
    }
}
