//! The restart of the bus that no session notices: this run gives its connections and its state to systemd's descriptor
//! store, the next one takes them back.
//!
//! Out: new connections stay in the listening socket; who proves who it is may finish. Then every session's task stops
//! between two chunks and gives back its connection, what it read and has not handled, and what it has not written. The store
//! commits what sessions wait for. The core is saved, and all goes to systemd: the connections under the name `c`, matched by
//! inode later, and before them the state, in a sealed memory file under the name `s`. A run that dies half way leaves
//! connections behind without which their sessions are over, and nothing worse.
//!
//! In: systemd forgets all of it before any of it is used. A state that kills its reader is so read at most once: the start
//! after it finds nothing, is clean, and the clients, whose connections ended with the reader, connect again.

mod give;
mod state;
mod take;
#[cfg(test)]
mod tests;

use std::cell::{Cell, RefCell};
use std::os::fd::OwnedFd;
use std::rc::Rc;
use std::time::Duration;

use tokio::sync::Notify;

pub(crate) use self::give::give;
#[cfg(test)]
pub(crate) use self::state::{read as decode, write as encode};
pub(crate) use self::take::{Offer, restore};
use crate::core::SessionKey;

/// The names of descriptors in systemd's store; of one byte, because all of them stand in the environment of the next run.
pub(crate) const CONNECTION: &str = "c";
pub(crate) const STATE: &str = "s";

/// How far this run is with handing over.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
enum Phase {
    #[default]
    Serving,
    /// Nothing more is read from sessions.
    Draining,
    /// Every task gives back what it has.
    Collecting,
}

/// Tells the tasks of all connections that the bus restarts, and takes back what they have.
#[derive(Debug, Default)]
pub(crate) struct Switch {
    phase: Cell<Phase>,
    changed: Notify,
    /// Connections whose Hello is being judged, which may not be interrupted.
    judging: Rc<Cell<usize>>,
    /// Tasks of connections.
    tasks: Cell<usize>,
    ended: Rc<Notify>,
    kept: RefCell<Vec<Kept>>,
}

/// What the task of a connection gives back.
#[derive(Debug)]
pub(crate) struct Kept {
    /// None before its Hello.
    pub(crate) session: Option<SessionKey>,
    pub(crate) stream: OwnedFd,
    /// Read, and not handled.
    pub(crate) input: Vec<u8>,
    /// To be written before anything else; it may begin within a frame.
    pub(crate) output: Vec<u8>,
    /// The largest frame that this session was told it may send.
    pub(crate) frame_bytes_max: usize,
}

/// Counts what is being judged until it is dropped, however that ends.
pub(crate) struct Counted {
    count: Rc<Cell<usize>>,
    ended: Rc<Notify>,
}

impl Counted {
    fn new(count: &Rc<Cell<usize>>, ended: &Rc<Notify>) -> Self {
        count.set(count.get() + 1);
        Self { count: count.clone(), ended: ended.clone() }
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        self.count.set(self.count.get() - 1);
        self.ended.notify_one();
    }
}

impl Switch {
    /// Whether nothing more may be read from sessions.
    pub(crate) fn is_draining(&self) -> bool {
        self.phase.get() != Phase::Serving
    }

    /// Whether it is time to give back what a task has.
    pub(crate) fn is_collecting(&self) -> bool {
        self.phase.get() == Phase::Collecting
    }

    /// Comes true when nothing more may be read.
    pub(crate) async fn draining(&self) {
        while !self.is_draining() {
            self.changed.notified().await;
        }
    }

    /// Comes true when it is time to give back what a task has.
    pub(crate) async fn collecting(&self) {
        while !self.is_collecting() {
            self.changed.notified().await;
        }
    }

    pub(crate) fn task_begins(&self) {
        self.tasks.set(self.tasks.get() + 1);
    }

    pub(crate) fn task_ends(&self) {
        self.tasks.set(self.tasks.get() - 1);
        self.ended.notify_one();
    }

    pub(crate) fn judging(&self) -> Counted {
        Counted::new(&self.judging, &self.ended)
    }

    pub(crate) fn keep(&self, kept: Kept) {
        self.kept.borrow_mut().push(kept);
    }

    fn enter(&self, phase: Phase) {
        self.phase.set(phase);
        self.changed.notify_waiters();
    }

    /// Waits until there is none of what `count` counts; not for ever.
    async fn until_none(&self, count: &Cell<usize>, patience: Duration) {
        let none = async {
            while count.get() > 0 {
                self.ended.notified().await;
            }
        };
        let _ = tokio::time::timeout(patience, none).await;
    }
}
