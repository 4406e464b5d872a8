//! The queue between the driver and the user of one subscription. What came in one piece goes in, and out, by one lock and
//! one wake.
//!
//! It has no bound of its own: the window that was granted to the bus bounds the messages, and gaps between them are one of
//! each reason.

use std::collections::VecDeque;
use std::mem;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Waker};

use super::entry::Item;

/// A queue that held more than so many is given back when it is empty.
const KEPT: usize = 512;

#[derive(Debug, Default)]
pub(super) struct Events(Mutex<Queue>);

#[derive(Debug, Default)]
struct Queue {
    items: VecDeque<Item>,
    waker: Option<Waker>,
    /// Nothing more will come.
    ended: bool,
    /// Nobody takes what comes.
    abandoned: bool,
}

/// What is to be expected of a queue.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum More {
    Here,
    Later,
    Never,
}

impl Events {
    fn lock(&self) -> MutexGuard<'_, Queue> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn change(&self, change: impl FnOnce(&mut Queue)) {
        let mut queue = self.lock();
        let dropped = if queue.abandoned {
            mem::take(&mut queue.items)
        } else {
            change(&mut queue);
            VecDeque::new()
        };
        let waker = queue.waker.take();
        drop(queue);
        drop(dropped);
        if let Some(waker) = waker {
            waker.wake();
        }
    }

    /// The driver's side.
    pub(super) fn push(&self, item: Item) {
        self.change(|queue| queue.items.push_back(item));
    }

    /// Nothing more will come after what is here.
    pub(super) fn end(&self) {
        self.change(|queue| queue.ended = true);
    }

    /// The user's side: everything that is here, in place of `taken`, which is empty.
    pub(super) fn take(&self, taken: &mut VecDeque<Item>) -> More {
        self.take_or(taken, |_| {})
    }

    /// The same, and the task is woken when more comes.
    pub(super) fn poll_take(&self, taken: &mut VecDeque<Item>, cx: &Context<'_>) -> Poll<More> {
        let more = self.take_or(taken, |waker| match waker {
            Some(waker) => waker.clone_from(cx.waker()),
            None => *waker = Some(cx.waker().clone()),
        });
        if more == More::Later { Poll::Pending } else { Poll::Ready(more) }
    }

    fn take_or(&self, taken: &mut VecDeque<Item>, wait: impl FnOnce(&mut Option<Waker>)) -> More {
        debug_assert!(taken.is_empty(), "what was taken would come behind what is here");
        give_back(taken);
        let mut queue = self.lock();
        if !queue.items.is_empty() {
            mem::swap(&mut queue.items, taken);
            return More::Here;
        }
        if queue.ended {
            return More::Never;
        }
        wait(&mut queue.waker);
        More::Later
    }

    /// The user is gone.
    pub(super) fn abandon(&self) {
        let mut queue = self.lock();
        queue.abandoned = true;
        let dropped = (mem::take(&mut queue.items), queue.waker.take());
        drop(queue);
        drop(dropped);
    }
}

fn give_back(items: &mut VecDeque<Item>) {
    if items.capacity() > KEPT && items.is_empty() {
        *items = VecDeque::new();
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
    use std::task::Wake;

    use super::*;
    use crate::error::Error;

    #[derive(Default)]
    struct Woken(AtomicUsize);

    impl Wake for Woken {
        fn wake(self: Arc<Self>) {
            self.0.fetch_add(1, Relaxed);
        }
    }

    fn item(text: &str) -> Item {
        Item::Failed(Error::other(text))
    }

    fn texts(items: &mut VecDeque<Item>) -> Vec<String> {
        let text = |item| if let Item::Failed(error) = item { error.to_string() } else { panic!() };
        items.drain(..).map(text).collect()
    }

    #[test]
    fn what_goes_in_comes_out_in_order_and_wakes_once() {
        let (events, woken) = (Events::default(), Arc::new(Woken::default()));
        let waker = Arc::clone(&woken).into();
        let cx = Context::from_waker(&waker);
        let mut taken = VecDeque::new();
        assert_eq!(events.poll_take(&mut taken, &cx), Poll::Pending);
        assert_eq!(events.take(&mut taken), More::Later);
        for text in ["a", "b", "c", "d"] {
            events.push(item(text));
        }
        assert_eq!(woken.0.load(Relaxed), 1);
        assert_eq!(events.poll_take(&mut taken, &cx), Poll::Ready(More::Here));
        assert_eq!(texts(&mut taken), ["a", "b", "c", "d"]);
        assert_eq!(events.poll_take(&mut taken, &cx), Poll::Pending);
        events.push(item("e"));
        events.end();
        assert_eq!(woken.0.load(Relaxed), 2);
        assert_eq!(events.take(&mut taken), More::Here);
        assert_eq!(texts(&mut taken), ["e"]);
        assert_eq!(events.poll_take(&mut taken, &cx), Poll::Ready(More::Never));
    }

    #[test]
    fn nothing_stays_where_nobody_takes_it() {
        let events = Events::default();
        events.push(item("a"));
        events.abandon();
        events.push(item("b"));
        assert!(events.lock().items.is_empty());
    }

    #[test]
    fn what_a_flood_took_is_given_back() {
        let events = Events::default();
        let mut taken = VecDeque::new();
        for _ in 0..5000 {
            events.push(item("x"));
        }
        assert_eq!(events.take(&mut taken), More::Here);
        taken.clear();
        assert_eq!(events.take(&mut taken), More::Later);
        assert_eq!(taken.capacity() + events.lock().items.capacity(), 0);
    }
}
