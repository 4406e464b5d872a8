//! The shell's side of durable messages: opens the store at the start, carries batches and pages between it and the core,
//! and asks it what only it knows.

use std::cell::{Cell, RefCell};
use std::path::Path;
use std::rc::Rc;
use std::time::Duration;

use anyhow::Context;
use libeevee::Timestamp;
use tokio::sync::{Notify, mpsc};

use crate::core::storage::{DurableKey, EntryNumber, StorageError};
use crate::core::{Core, Event, Now};
use crate::hub::Hub;
use crate::store::Store;
use crate::store::worker::{Answer, Worker};

/// How long a stop waits for the disk.
const QUIESCE_TIME: Duration = Duration::from_secs(5);

/// The store, once it was opened.
#[derive(Debug, Default)]
pub(crate) struct Disk {
    worker: RefCell<Option<Worker>>,
    /// Something that waited for the disk may be done.
    answered: Notify,
    /// Why the bus has to start anew.
    failed: RefCell<Option<String>>,
    failure: Notify,
    closing: Cell<bool>,
}

impl Disk {
    pub(crate) fn load(&self, durable: DurableKey, generation: u64, after: EntryNumber, messages: usize, bytes: u64) {
        if let Some(worker) = &*self.worker.borrow() {
            worker.load(durable, generation, after, messages as u64, bytes);
        }
    }

    /// Nothing that is on disk can be trusted before a new start.
    pub(crate) fn fail(&self, why: String) {
        self.failed.borrow_mut().get_or_insert(why);
        self.failure.notify_one();
    }

    /// Comes back when the bus must not go on.
    pub(crate) async fn failed(&self) -> String {
        loop {
            if let Some(why) = self.failed.borrow().clone() {
                return why;
            }
            self.failure.notified().await;
        }
    }

    /// Asks the store.
    pub(crate) async fn ask<T: Send + 'static>(
        &self,
        ask: impl FnOnce(&mut Store) -> Result<T, StorageError> + Send + 'static,
    ) -> Result<T, String> {
        let gone = || "the store is closed".to_owned();
        let answer = self.worker.borrow().as_ref().map(|worker| worker.query(ask)).ok_or_else(gone)?;
        match answer.await {
            Ok(Ok(found)) => Ok(found),
            Ok(Err(StorageError::Unavailable(why) | StorageError::Failed(why))) => Err(why),
            Err(_) => Err(gone()),
        }
    }
}

impl Hub {
    /// Opens the store and tells the core what is in it. To be called once, before anything is published.
    pub(crate) fn open_store(self: &Rc<Self>, directory: &Path) -> anyhow::Result<()> {
        let wall = Timestamp::now().0;
        let trusted = self.with_core(|core| core.trusted_batch());
        let opened = Store::open(directory, wall, trusted).context("cannot open the store of durable messages")?;
        let (store, recovered) = match opened {
            Some((store, recovered)) => (store, recovered),
            None => {
                let store = Store::create(directory).context("cannot make a store of durable messages")?;
                (store, crate::core::storage::Recovered::default())
            }
        };
        #[allow(
            clippy::disallowed_methods,
            reason = "at most one batch and a page for each subscription are under way"
        )]
        let (answers, from_store) = mpsc::unbounded_channel();
        self.disk.worker.replace(Some(Worker::new(store, answers)));
        // Now that there is somebody to load what sessions wait for since before a restart.
        self.recover(recovered);
        tokio::task::spawn_local(listen(self.clone(), from_store));
        Ok(())
    }

    /// Gives the store what waits for it, unless it is busy.
    pub(crate) fn feed_store(&self, now: Now) {
        if let Some(worker) = &*self.disk.worker.borrow()
            && let Some(batch) = self.with_core(|core| core.take_batch(now))
        {
            worker.commit(batch);
        }
    }

    /// Comes true when all is committed that sessions wait for: then their confirmations stand in the output.
    pub(crate) async fn quiesce(&self) {
        let committed = async {
            self.with_core(Core::hurry);
            self.feed_store(self.now());
            while self.with_core(|core| core.is_committing()) {
                self.disk.answered.notified().await;
            }
        };
        if tokio::time::timeout(QUIESCE_TIME, committed).await.is_err() {
            tracing::warn!("the disk did not take the last durable messages within {} s", QUIESCE_TIME.as_secs());
        }
    }

    /// The last that is written.
    pub(crate) async fn close_store(&self) {
        self.disk.closing.set(true);
        let worker = self.disk.worker.take();
        if let Some(worker) = worker
            && let Err(StorageError::Unavailable(why) | StorageError::Failed(why)) = worker.close().await
        {
            tracing::error!("the store of durable messages was not closed well: {why}");
        }
    }
}

async fn listen(hub: Rc<Hub>, mut from_store: mpsc::UnboundedReceiver<Answer>) {
    while let Some(answer) = from_store.recv().await {
        match answer {
            Answer::Committed { result, .. } => hub.step(Event::Stored(result)),
            Answer::Loaded { durable, generation, result } => {
                hub.step(Event::Loaded { durable, generation, page: result });
            }
            Answer::Failed { why } => hub.disk.fail(why),
        }
        hub.disk.answered.notify_waiters();
    }
    if !hub.disk.closing.get() {
        hub.disk.fail("the thread of the store has ended".to_owned());
    }
}
