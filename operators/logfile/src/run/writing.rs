//! What is written: messages are taken in batches, written aside, and acknowledged when they lie in their files.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use libeevee::Message;
use libeevee::operator::{Failure, InHand, Operator};
use tokio::task::JoinHandle;
use tokio::time::Instant;

use super::{Work, directory};
use crate::report::Writing;
use crate::settings::{LogSettings, WriteSettings};
use crate::write::{Plan, Writer};

/// The durable subscription of what is written. The bus keeps what waits under this name, so it never changes.
const DURABLE: &str = "write";
/// What is in hand here; what waits, waits in the bus.
const WINDOW_MESSAGES: u64 = 200;
const WINDOW_BYTES: u64 = 4 << 20;
/// How often what could not be written is tried again.
const WRITE_AGAIN: Duration = Duration::from_secs(5);

type Batch = JoinHandle<(Vec<Arc<Message>>, std::io::Result<()>)>;
/// A batch, and whether it lies in its files; the text of a panic.
pub(super) type Written = Result<(Vec<Arc<Message>>, std::io::Result<()>), String>;

/// What is being written.
pub(super) struct Writes {
    writer: Arc<Mutex<Writer>>,
    subscription: u32,
    /// What the subscription asks for.
    filters: Vec<String>,
    pub(super) waiting: Vec<Arc<Message>>,
    bytes: usize,
    pub(super) batch: Option<Batch>,
    /// Other settings come into force when it ends.
    changes: bool,
    /// The batch that failed comes again then.
    pub(super) again_at: Option<Instant>,
    in_hand: Option<InHand>,
}

impl Work<'_> {
    pub(super) fn plan(&self, settings: &LogSettings) -> Result<Option<Plan>, String> {
        let Some(write) = &settings.write else { return Ok(None) };
        let logs = directory("LOGS_DIRECTORY", "LogsDirectory").map_err(|failure| failure.to_string())?;
        Plan::new(&logs, write).map(Some)
    }

    /// Begins to write, goes on with other settings, or ends it.
    pub(super) async fn write(&mut self) -> Result<(), Failure> {
        if let Some(writing) = &mut self.writer
            && writing.batch.is_some()
        {
            // What is being written goes where it was to go, and is acknowledged.
            writing.changes = true;
            return Ok(());
        }
        let plan = self.plan(&self.settings).map_err(Failure::config)?;
        let (Some(plan), Some(settings)) = (plan, self.settings.write.clone()) else {
            if let Some(writing) = self.writer.take() {
                self.op.unsubscribe(writing.subscription);
                tracing::info!("nothing is written any more; what waits in the bus: eeveectl queue {}", self.op.id());
            }
            self.report.writing.replace(None);
            return Ok(());
        };
        match &mut self.writer {
            Some(writing) => {
                lock(&writing.writer).configure(plan);
                if writing.filters != settings.subscribe {
                    self.op.unsubscribe(writing.subscription);
                    // The new subscription gets it again; of the old one, nothing can be acknowledged any more.
                    writing.waiting.clear();
                    (writing.bytes, writing.again_at) = (0, None);
                    writing.subscription = subscribe(self.op, &settings).await?;
                    writing.filters = settings.subscribe;
                }
            }
            None => {
                let subscription = subscribe(self.op, &settings).await?;
                self.report.writing.replace(Some(Writing::default()));
                self.writer = Some(Writes {
                    writer: Arc::new(Mutex::new(Writer::new(plan))),
                    subscription,
                    filters: settings.subscribe,
                    waiting: Vec::new(),
                    bytes: 0,
                    batch: None,
                    changes: false,
                    again_at: None,
                    in_hand: None,
                });
            }
        }
        Ok(())
    }

    pub(super) fn on_message(&mut self, message: Message) {
        let Some(writing) = &mut self.writer else { return };
        writing.bytes += message.document.body_bytes().len();
        writing.waiting.push(Arc::new(message));
        if writing.again_at.is_none() {
            self.write_batch();
        }
    }

    pub(super) fn write_batch(&mut self) {
        let Some(writing) = &mut self.writer else { return };
        if writing.batch.is_some() || writing.waiting.is_empty() {
            return;
        }
        writing.again_at = None;
        writing.in_hand.get_or_insert_with(|| self.op.in_hand());
        let (messages, writer) = (std::mem::take(&mut writing.waiting), Arc::clone(&writing.writer));
        writing.bytes = 0;
        writing.batch = Some(tokio::task::spawn_blocking(move || {
            let result = lock(&writer).write(&messages);
            (messages, result)
        }));
    }

    /// # Errors
    /// The thread panicked: only another run gets those messages again.
    pub(super) async fn on_written(&mut self, written: Written) -> Result<(), Failure> {
        self.settle(written.map_err(|why| Failure::other(format_args!("writing failed: {why}")))?);
        if self.writer.as_mut().is_some_and(|writing| std::mem::take(&mut writing.changes)) {
            self.write().await?;
        }
        if self.writer.as_ref().is_some_and(|writing| writing.again_at.is_none()) {
            self.write_batch();
        }
        if let Some(writing) = &mut self.writer
            && writing.batch.is_none()
        {
            // What cannot be written waits for a disk; a halt does not wait for that.
            writing.in_hand = None;
        }
        Ok(())
    }

    fn settle(&mut self, written: (Vec<Arc<Message>>, std::io::Result<()>)) {
        let Some(writing) = &mut self.writer else { return };
        writing.batch = None;
        let mut state = self.report.writing.borrow_mut();
        let report = state.get_or_insert_default();
        match written {
            (messages, Ok(())) => {
                report.messages += messages.len() as u64;
                report.trouble = None;
                for message in messages {
                    if let Err(error) = self.op.ack(&message) {
                        tracing::warn!(eevee.message = message.id, "message {} comes again: {error}", message.id);
                    }
                }
            }
            (messages, Err(error)) if self.stopping => {
                tracing::warn!("{} messages are not written, the bus keeps them: {error}", messages.len());
            }
            (mut messages, Err(error)) => {
                report.trouble = Some(format!("nothing can be written, messages wait: {error}"));
                writing.bytes += messages.iter().map(|message| message.document.body_bytes().len()).sum::<usize>();
                messages.append(&mut writing.waiting);
                writing.waiting = messages;
                writing.again_at = Some(Instant::now() + WRITE_AGAIN);
            }
        }
    }

    pub(super) fn reopen(&self) {
        if let Some(writing) = &self.writer {
            let writer = Arc::clone(&writing.writer);
            // A batch may hold it for as long as the disk takes.
            tokio::task::spawn_blocking(move || {
                lock(&writer).reopen();
                tracing::info!("SIGHUP: files are opened anew");
            });
        }
    }
}

impl Writes {
    pub(super) fn is_full(&self) -> bool {
        self.waiting.len() as u64 >= WINDOW_MESSAGES || self.bytes as u64 >= WINDOW_BYTES
    }
}

async fn subscribe(op: &Operator<LogSettings>, settings: &WriteSettings) -> Result<u32, Failure> {
    let filters = settings.subscribe.clone();
    Ok(op.subscribe(filters).durable(DURABLE).window(WINDOW_MESSAGES, WINDOW_BYTES).await?)
}

fn lock(writer: &Mutex<Writer>) -> std::sync::MutexGuard<'_, Writer> {
    writer.lock().unwrap_or_else(PoisonError::into_inner)
}

pub(super) async fn written(writing: &mut Option<Writes>) -> Written {
    match writing.as_mut().and_then(|writing| writing.batch.as_mut()) {
        Some(batch) => batch.await.map_err(|error| error.to_string()),
        None => std::future::pending().await,
    }
}
