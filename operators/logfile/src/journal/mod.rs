//! Follows the journal, by `journalctl` in a child: its output is stable, and needs no library of C. How far it was published
//! is a cursor; that and the number within it tell the bus what it has already.

mod entry;
mod publish;
mod reader;

use std::collections::VecDeque;
use std::process::Stdio;
use std::rc::Rc;
use std::time::{Duration, SystemTime};

use libeevee::operator::{Operator, PRIVATE_ENVIRONMENT};
use serde::{Deserialize, Serialize};
use tokio::io::{AsyncReadExt, BufReader};
use tokio::process::{Child, ChildStdout, Command};
use tokio::sync::watch;
use tokio::time::{Instant, sleep, timeout};

use self::publish::Numbered;
use self::reader::{Bounded, read_line};
use crate::access;
use crate::files::until;
use crate::outbox::{Outbox, new_epoch};
use crate::report::{Journal, Report};
use crate::settings::{JournalSettings, LogSettings};

/// The key in the store. What was read is known under it, so it never changes.
const KEY: &str = "journal";
/// Entries that are under way to the bus at the same time.
const WINDOW: usize = 256;
const SAVE_EVERY: Duration = Duration::from_secs(1);
/// The same while nothing is published.
const SAVE_PASSED_EVERY: Duration = Duration::from_secs(30);
/// Until the first entry comes.
const FIRST_MAX: Duration = Duration::from_secs(3);
/// How often the journal is looked at where it is not followed, and the longest time until it is read again.
const LOOK_EVERY: Duration = Duration::from_secs(1);
const LOOK_MAX: Duration = Duration::from_secs(10);
const CONFIRM_MAX: Duration = Duration::from_secs(4);
/// Between two starts of journalctl; doubled as long as it ends at once.
const PAUSE_MIN: Duration = Duration::from_secs(1);
const PAUSE_MAX: Duration = Duration::from_secs(30);
/// Only a journalctl that hangs takes longer to say where the journal ends.
const ASK_MAX: Duration = Duration::from_secs(60);

/// How far the journal was published.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Place {
    cursor: String,
    epoch: u64,
    /// Entries of one journald are numbered; of another one, the numbers begin anew.
    source: String,
    number: u64,
}

/// What was read, in its order, and whether it is confirmed.
struct Read {
    cursor: String,
    source: String,
    number: u64,
    done: bool,
}

struct Follow {
    op: Operator<LogSettings>,
    settings: JournalSettings,
    network: watch::Receiver<Rc<str>>,
    report: Rc<Report>,
    place: Place,
    /// The last one that was read.
    read: (String, u64),
    pending: VecDeque<Read>,
    outbox: Outbox<Numbered>,
    /// The place differs from the one on disk.
    moved: bool,
    /// By entries that were published, and not only by those that were passed over.
    published: bool,
    /// Where the child began.
    from: String,
    /// Whether journalctl follows the journal, or it is started again and again.
    follows: bool,
}

/// Why a child has ended.
enum End {
    Trouble(String),
    /// It has printed all that there is.
    Done,
    /// It printed nothing.
    Nothing,
}

/// Follows the journal until it is asked to stop.
///
/// # Errors
/// The place cannot be read or kept.
pub(crate) async fn follow(
    op: Operator<LogSettings>,
    settings: JournalSettings,
    mut stop: watch::Receiver<bool>,
    network: watch::Receiver<Rc<str>>,
    report: Rc<Report>,
) -> Result<(), String> {
    let stored: Option<Place> = op.store().get(KEY).await.map_err(|error| error.to_string())?;
    let place = match stored {
        Some(place) => place,
        None => tokio::select! {
            place = first_place(&report) => place,
            _ = stop.wait_for(|stop| *stop) => return Ok(()),
        },
    };
    let client = op.client().clone();
    let outbox = Outbox::new(move |outgoing| {
        let client = client.clone();
        async move { client.publish_confirmed(outgoing).await }
    });
    let read = (place.source.clone(), place.number);
    let pending = VecDeque::new();
    let mut follow = Follow {
        op,
        settings,
        network,
        report: Rc::clone(&report),
        place,
        read,
        pending,
        outbox,
        moved: true,
        published: false,
        from: String::new(),
        follows: true,
    };
    follow.save().await?;
    // Not before it is known where it begins: what is written from now on is followed.
    report.journal.replace(Some(Journal::Follows));
    follow.run(stop).await
}

/// The end of the journal, at the first start.
async fn first_place(report: &Report) -> Place {
    loop {
        match timeout(ASK_MAX, last_cursor()).await {
            Ok(Ok(Some(cursor))) if access::may_read_journal() => {
                let (source, number) = entry::numbered(&cursor).unwrap_or_default();
                return Place { cursor, epoch: new_epoch(), source, number };
            }
            Ok(Ok(_)) => report_no_access(report),
            Ok(Err(error)) => report_trouble(report, &error),
            Err(_) => report_trouble(report, "journalctl does not answer"),
        }
        sleep(PAUSE_MAX / 3).await;
    }
}

fn report_no_access(report: &Report) {
    match access::may_read_journal() {
        true => report_trouble(report, "there is no entry yet"),
        false => drop(report.journal.replace(Some(Journal::Denied))),
    }
}

fn report_trouble(report: &Report, why: &str) {
    report.journal.replace(Some(Journal::Trouble(why.to_owned())));
}

fn journalctl(arguments: &[String]) -> Command {
    let mut command = Command::new("journalctl");
    command
        .args(["--quiet", "--no-pager", "--output=json", "--all", "--system"])
        .args(arguments)
        .env("LC_ALL", "C.UTF-8")
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .kill_on_drop(true);
    for variable in PRIVATE_ENVIRONMENT {
        command.env_remove(variable);
    }
    command
}

/// None where nothing may be read, or nothing is there.
async fn last_cursor() -> Result<Option<String>, String> {
    let arguments = ["--lines=1".to_owned(), "--output-fields=PRIORITY".to_owned()];
    let output = journalctl(&arguments).output().await.map_err(|error| format!("journalctl: {error}"))?;
    let line = output.stdout.split(|byte| *byte == b'\n').next().unwrap_or_default();
    Ok(entry::cursor(line))
}

impl Follow {
    async fn run(&mut self, mut stop: watch::Receiver<bool>) -> Result<(), String> {
        let mut pause = PAUSE_MIN;
        loop {
            let (began, changed) = (Instant::now(), access::journal_changed());
            let end = match self.start() {
                Ok(child) => match self.read_from(child, &mut stop).await? {
                    Some(end) => end,
                    None => return self.finish().await,
                },
                Err(error) => End::Trouble(format!("journalctl: {error}")),
            };
            let goes_on = match end {
                End::Nothing => {
                    let seconds = LOOK_EVERY.as_secs();
                    tracing::info!("journalctl --follow says nothing here: the journal is read every {seconds} s");
                    self.follows = false;
                    true
                }
                End::Done => {
                    pause = PAUSE_MIN;
                    self.report.journal.replace(Some(Journal::Follows));
                    self.wait_for_change(changed, &mut stop).await?
                }
                End::Trouble(why) => {
                    match access::may_read_journal() {
                        true => report_trouble(&self.report, &why),
                        false => drop(self.report.journal.replace(Some(Journal::Denied))),
                    }
                    pause = if began.elapsed() > PAUSE_MAX { PAUSE_MIN } else { (pause * 2).min(PAUSE_MAX) };
                    self.wait(pause, &mut stop).await?
                }
            };
            if !goes_on {
                return self.finish().await;
            }
        }
    }

    /// Until the files of the journal change, or for some time.
    async fn wait_for_change(
        &mut self,
        changed: Option<SystemTime>,
        stop: &mut watch::Receiver<bool>,
    ) -> Result<bool, String> {
        let began = Instant::now();
        loop {
            if !self.wait(LOOK_EVERY, stop).await? {
                return Ok(false);
            }
            if access::journal_changed() != changed || began.elapsed() > LOOK_MAX {
                return Ok(true);
            }
        }
    }

    /// Goes on with what was read; false when the operator stops.
    async fn wait(&mut self, time: Duration, stop: &mut watch::Receiver<bool>) -> Result<bool, String> {
        let until_then = Some(Instant::now() + time);
        let save_at = Some(Instant::now() + SAVE_EVERY);
        loop {
            tokio::select! {
                () = until(until_then) => return Ok(true),
                outcome = self.outbox.next() => self.settle(outcome),
                () = until(save_at), if self.published => self.save().await?,
                _ = stop.wait_for(|stop| *stop) => return Ok(false),
            }
        }
    }

    fn start(&mut self) -> std::io::Result<Child> {
        // No filters of units and priorities: with them, the journalctl of systemd 252 follows nothing when no entry matches
        // at first, --after-cursor skips one when that at the cursor does not match, and a unit that logs for the first
        // time later does not match a pattern.
        self.from.clone_from(self.pending.back().map_or(&self.place.cursor, |read| &read.cursor));
        let mut arguments = vec![
            "--no-tail".to_owned(),
            format!("--cursor={}", self.from),
            format!("--output-fields={}", entry::FIELDS.join(",")),
        ];
        if self.follows {
            arguments.push("--follow".to_owned());
        }
        journalctl(&arguments).spawn()
    }

    /// Reads until the child ends, and gives the reason; none when the operator stops.
    async fn read_from(&mut self, mut child: Child, stop: &mut watch::Receiver<bool>) -> Result<Option<End>, String> {
        let (Some(stdout), Some(stderr)) = (child.stdout.take(), child.stderr.take()) else {
            return Ok(Some(End::Trouble("journalctl has no output".to_owned())));
        };
        let complaints = tokio::task::spawn_local(async move {
            let mut text = String::new();
            let _ = stderr.take(4096).read_to_string(&mut text).await;
            text
        });
        let mut reader = BufReader::new(stdout);
        let mut bounded = Bounded::default();
        let (began, mut saved_at) = (Instant::now(), Instant::now());
        let mut has_read = false;
        loop {
            let has_room = self.outbox.len() < WINDOW;
            let save_at = saved_at + if self.published { SAVE_EVERY } else { SAVE_PASSED_EVERY };
            tokio::select! {
                line = read_line(&mut reader, &mut bounded), if has_room => match line {
                    Ok(Some(line)) => {
                        let is_first = !std::mem::replace(&mut has_read, true);
                        self.report.journal.replace(Some(Journal::Follows));
                        self.take(&line, is_first).await?;
                    }
                    Ok(None) => break,
                    Err(error) => return Ok(Some(End::Trouble(format!("reading from journalctl: {error}")))),
                },
                outcome = self.outbox.next() => self.settle(outcome),
                () = until(Some(save_at)), if self.moved => {
                    self.save().await?;
                    saved_at = Instant::now();
                }
                // The entry at the cursor comes at once. In the operator's sandbox, that of systemd 252 says nothing at all.
                () = until(Some(began + FIRST_MAX)), if self.follows && !has_read => return Ok(Some(End::Nothing)),
                _ = stop.wait_for(|stop| *stop) => return Ok(None),
            }
        }
        drop::<BufReader<ChildStdout>>(reader);
        let status = timeout(Duration::from_secs(5), child.wait()).await;
        let text = timeout(Duration::from_secs(1), complaints).await.ok().and_then(Result::ok).unwrap_or_default();
        let last = text.lines().next_back().unwrap_or_default().to_owned();
        Ok(Some(match status {
            Ok(Ok(status)) if status.success() && !self.follows => End::Done,
            Ok(Ok(status)) if last.is_empty() => End::Trouble(format!("journalctl ended: {status}")),
            _ => End::Trouble(format!("journalctl ended: {last}")),
        }))
    }

    async fn finish(&mut self) -> Result<(), String> {
        let deadline = Some(Instant::now() + CONFIRM_MAX);
        while self.outbox.len() > 0 {
            tokio::select! {
                outcome = self.outbox.next() => self.settle(outcome),
                () = until(deadline) => break,
            }
        }
        self.save().await
    }
}
