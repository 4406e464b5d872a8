//! The thread that owns the store, so that a slow disk holds up nobody but those who wait for it.
//!
//! The hub gives it the store and jobs; answers come through the channel given at the start, in the
//! order of the jobs:
//!
//! ```ignore
//! let (answers, mut from_store) = tokio::sync::mpsc::unbounded_channel();
//! let worker = Worker::new(store, answers);
//! worker.commit(batch);                            // -> Answer::Committed; at most one at a time
//! worker.load(durable, generation, after, 100, 1 << 20); // -> Answer::Loaded; sees the batches given before it
//! let page = worker.query(|store| store.dead_letters(None, None, 0, 100)).await;   // its own answer
//! let batch = worker.close().await;                // the last batch, the mark, a checkpoint; then the thread ends
//! ```
//!
//! When `from_store` ends though nobody closed the worker, its thread is gone: to be treated as [`StorageError::Failed`].
//! After an answer that is `Failed` every further one is, too; nothing more reaches the disk.
//!
//! The thread begins with the first job: a bus that has nothing durable never needs it.
//!
//! The mark follows a commit at once, and under load every 10 ms (see marker.rs).

use std::cell::{OnceCell, RefCell};
use std::sync::mpsc::{Receiver, RecvTimeoutError, SyncSender, TrySendError, sync_channel};
use std::thread::JoinHandle;
use std::time::Duration;

use tokio::sync::{mpsc::UnboundedSender, oneshot};

use super::Store;
use super::marker::Marker;
use crate::core::storage::{Batch, Committed, DurableKey, EntryNumber, Page, StorageError};

/// Jobs that may wait. A commit and a page for each subscription are far fewer; the rest are people's questions.
const JOBS_MAX: usize = 4096;

/// When nobody wants anything for so long, things are tidied up.
const IDLE: Duration = Duration::from_millis(50);

/// What the store says to a job of the hub.
#[derive(Debug)]
pub(crate) enum Answer {
    Committed {
        result: Result<Committed, StorageError>,
    },
    Loaded {
        durable: DurableKey,
        generation: u64,
        result: Result<Page, StorageError>,
    },
    /// Something failed that nobody waits for, and nothing more reaches the disk: to be treated as
    /// [`StorageError::Failed`] at once, as there may be no further answer for long.
    Failed {
        why: String,
    },
}

enum Job {
    Commit(Batch),
    Load { durable: DurableKey, generation: u64, after: EntryNumber, messages: u64, bytes: u64 },
    Query(Box<dyn FnOnce(&mut Store) + Send>),
    Close(oneshot::Sender<Result<u64, StorageError>>),
}

/// The hub's end. Dropping it without [`close`](Self::close) ends the thread, too, but nobody waits for it.
#[derive(Debug)]
pub(crate) struct Worker {
    answers: UnboundedSender<Answer>,
    /// Until there is something to do.
    idle: RefCell<Option<Box<Store>>>,
    running: OnceCell<Running>,
}

#[derive(Debug)]
struct Running {
    jobs: SyncSender<Job>,
    thread: JoinHandle<()>,
}

impl Worker {
    pub(crate) fn new(store: Store, answers: UnboundedSender<Answer>) -> Self {
        Self { answers, idle: RefCell::new(Some(Box::new(store))), running: OnceCell::new() }
    }

    /// The thread, started if need be; none if it could not be.
    fn running(&self) -> Option<&Running> {
        if let Some(store) = self.idle.take() {
            let (jobs, queue) = sync_channel(JOBS_MAX);
            let to_hub = self.answers.clone();
            let thread = std::thread::Builder::new().name("store".into());
            match thread.spawn(move || run(*store, &queue, &to_hub)) {
                Ok(thread) => _ = self.running.set(Running { jobs, thread }),
                Err(error) => {
                    let why = format!("no thread for the store: {error}");
                    let _ = self.answers.send(Answer::Failed { why });
                }
            }
        }
        self.running.get()
    }

    /// To be answered by [`Answer::Committed`]. Give the next one after that answer.
    pub(crate) fn commit(&self, batch: Batch) {
        self.send(Job::Commit(batch));
    }

    /// To be answered by [`Answer::Loaded`] with the same generation; see [`Store::load`].
    pub(crate) fn load(&self, durable: DurableKey, generation: u64, after: EntryNumber, messages: u64, bytes: u64) {
        self.send(Job::Load { durable, generation, after, messages, bytes });
    }

    /// Asks the store something, after all that was given before. The receiver fails when the thread is gone, or has too
    /// much to do.
    pub(crate) fn query<T: Send + 'static>(
        &self,
        ask: impl FnOnce(&mut Store) -> T + Send + 'static,
    ) -> oneshot::Receiver<T> {
        let (sender, receiver) = oneshot::channel();
        self.send(Job::Query(Box::new(move |store| {
            let _ = sender.send(ask(store));
        })));
        receiver
    }

    /// The end: waits for all that was given, and gives back the number of the last batch for the next start. No answers
    /// come after it.
    ///
    /// # Errors
    /// The store had failed, or its thread is gone. What was confirmed is on the disk all the same.
    pub(crate) async fn close(mut self) -> Result<u64, StorageError> {
        self.running();
        let Some(Running { jobs, thread }) = self.running.take() else { return Err(gone()) };
        let (sender, receiver) = oneshot::channel();
        // Waits for room if it must: what was given before is on its way to the disk.
        let _ = jobs.send(Job::Close(sender));
        let closed = receiver.await.unwrap_or_else(|_| Err(gone()));
        // It has answered as its last deed, or panicked.
        let _ = thread.join();
        closed
    }

    fn send(&self, job: Job) {
        let sent = match self.running() {
            Some(running) => running.jobs.try_send(job),
            None => Err(TrySendError::Disconnected(job)),
        };
        let (job, error) = match sent {
            Ok(()) => return,
            Err(TrySendError::Full(job)) => {
                (job, StorageError::Unavailable(format!("{JOBS_MAX} questions to the store wait already")))
            }
            Err(TrySendError::Disconnected(job)) => (job, gone()),
        };
        let _ = match job {
            Job::Commit(_) => self.answers.send(Answer::Committed { result: Err(error) }),
            Job::Load { durable, generation, .. } => {
                self.answers.send(Answer::Loaded { durable, generation, result: Err(error) })
            }
            // Dropped with its sender: who waits is told.
            Job::Query(_) | Job::Close(_) => Ok(()),
        };
    }
}

fn gone() -> StorageError {
    super::error::failed("the thread of the store has ended")
}

fn run(mut store: Store, jobs: &Receiver<Job>, answers: &UnboundedSender<Answer>) {
    let mut marker = None;
    // What was committed since the last look whether there is something to tidy up.
    let mut untidy = false;
    loop {
        let job =
            if untidy { jobs.recv_timeout(IDLE) } else { jobs.recv().map_err(|_| RecvTimeoutError::Disconnected) };
        match job {
            Ok(Job::Commit(batch)) => {
                let result = store.commit(&batch);
                untidy |= result.is_ok();
                // Not confirmed when the mark finds that the next start will look elsewhere.
                let result = result.and_then(|committed| mark(&mut store, &mut marker).map(|()| committed));
                let _ = answers.send(Answer::Committed { result });
                // After the answer: who waits for it does not wait for this.
                report(store.checkpoint(false), answers);
            }
            Ok(Job::Load { durable, generation, after, messages, bytes }) => {
                let result = store.load(durable, after, messages, bytes);
                let _ = answers.send(Answer::Loaded { durable, generation, result });
            }
            Ok(Job::Query(ask)) => ask(&mut store),
            Ok(Job::Close(sender)) => {
                drop(marker);
                let _ = sender.send(store.close());
                return;
            }
            Err(RecvTimeoutError::Timeout) => {
                untidy = false;
                report(store.checkpoint(true), answers);
            }
            Err(RecvTimeoutError::Disconnected) => {
                drop(marker);
                report(store.close().map(|_| ()), answers);
                return;
            }
        }
    }
}

/// Has the mark follow; the thread that writes it begins with the first batch.
fn mark(store: &mut Store, marker: &mut Option<Marker>) -> Result<(), StorageError> {
    if marker.is_none() {
        *marker = store.start_marker()?;
    }
    match marker {
        Some(marker) => store.mark_with(marker),
        None => Ok(()),
    }
}

fn report(done: Result<(), StorageError>, answers: &UnboundedSender<Answer>) {
    match done {
        Ok(()) => {}
        Err(StorageError::Unavailable(why)) => tracing::error!("durable messages: {why}"),
        Err(StorageError::Failed(why)) => _ = answers.send(Answer::Failed { why }),
    }
}
