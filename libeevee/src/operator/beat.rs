//! The watchdog's beat: a sign that the operator's own loop comes round.

use std::future::poll_fn;
use std::pin::pin;

use super::inner::Inner;
use crate::log::handling::Taken;
use crate::settings::Settings;

impl<S: Settings> Inner<S> {
    /// Comes back when the loop was at [`poll`](Self::poll) or waits for the bus, from now on.
    pub(super) async fn beat(&self) {
        self.beat_wanted.set(true);
        self.wake();
        if let Some(waker) = self.bus_waker.borrow_mut().take() {
            waker.wake();
        }
        self.beat_seen.notified().await;
    }

    pub(super) fn came_by(&self) {
        if self.beat_wanted.replace(false) {
            self.beat_seen.notify_one();
        }
    }

    /// Runs the operator's own loop.
    pub(super) async fn run_loop<T>(&self, main: impl Future<Output = T>) -> T {
        let mut main = pin!(main);
        let mut taken = Taken::default();
        poll_fn(|cx| {
            self.in_loop.set(true);
            let polled = taken.during(|| main.as_mut().poll(cx));
            self.in_loop.set(false);
            polled
        })
        .await
    }

    /// Waits for the bus. In the operator's loop the beat passes through this, too: a bus that is away, or that gives no
    /// credit, is not the operator's death. A task that waits says nothing about the loop.
    pub(super) async fn wait_for_bus<T>(&self, wait: impl Future<Output = T>) -> T {
        let mut wait = pin!(wait);
        poll_fn(|cx| {
            let polled = wait.as_mut().poll(cx);
            if polled.is_pending() && self.in_loop.get() {
                self.bus_waker.replace(Some(cx.waker().clone()));
                self.came_by();
            }
            polled
        })
        .await
    }
}
