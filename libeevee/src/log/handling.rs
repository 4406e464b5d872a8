//! What the code that runs right now is about: so that a log record knows the message it belongs to, and so that records
//! which log records cause are not published.
//!
//! A log record on the bus is a message, and whoever handles one and logs something would make another, without end.

use std::cell::Cell;
use std::future::poll_fn;
use std::pin::pin;

use tokio::task;

use super::RECORD_TYPE;
use crate::message::Message;

/// What is being done.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Handling {
    /// A message is handled: what is logged answers it.
    Message { id: u64, hops: u8 },
    /// A log record is handled or published: what is logged is for the journal alone.
    Record,
}

impl Handling {
    pub(crate) fn of(message: &Message) -> Self {
        match message.header("type") {
            Some(RECORD_TYPE) => Self::Record,
            _ => Self::Message { id: message.id, hops: message.hops },
        }
    }
}

thread_local! {
    /// Of the function or future that runs.
    static SCOPE: Cell<Option<Handling>> = const { Cell::new(None) };
    /// Of the loop that took a message and has not come back for the next: a task, or none for what runs in no task.
    static LOOP: Cell<Option<(Option<task::Id>, Handling)>> = const { Cell::new(None) };
}

/// What a loop took, kept while others run: in no task, too, there may be several that take turns.
#[derive(Debug, Default)]
pub(crate) struct Taken(Option<(Option<task::Id>, Handling)>);

impl Taken {
    /// Runs the loop for a while.
    pub(crate) fn during<T>(&mut self, run: impl FnOnce() -> T) -> T {
        let outer = LOOP.replace(self.0);
        let done = run();
        self.0 = LOOP.replace(outer);
        done
    }
}

/// Puts back what was, also when there is a panic.
struct Scope(Option<Handling>);

impl Scope {
    fn enter(handling: Handling) -> Self {
        Self(SCOPE.replace(Some(handling)))
    }
}

impl Drop for Scope {
    fn drop(&mut self) {
        SCOPE.set(self.0);
    }
}

pub(crate) fn current() -> Option<Handling> {
    SCOPE.get().or_else(|| LOOP.get().filter(|(task, _)| *task == task::try_id()).map(|(_, handling)| handling))
}

/// Runs a function about this.
pub(crate) fn within<T>(handling: Handling, run: impl FnOnce() -> T) -> T {
    let _scope = Scope::enter(handling);
    run()
}

/// Runs a future about this, each time it is polled.
pub(crate) async fn during<T>(handling: Handling, future: impl Future<Output = T>) -> T {
    let mut future = pin!(future);
    poll_fn(|cx| within(handling, || future.as_mut().poll(cx))).await
}

/// The loop that runs here took this, and is about it until it comes back for the next.
pub(crate) fn took(handling: Option<Handling>) {
    LOOP.set(handling.map(|handling| (task::try_id(), handling)));
}

#[cfg(test)]
mod tests {
    use super::*;

    const MESSAGE: Handling = Handling::Message { id: 7, hops: 2 };

    #[test]
    fn a_scope_ends_where_it_ends() {
        assert_eq!(current(), None);
        within(MESSAGE, || {
            assert_eq!(current(), Some(MESSAGE));
            within(Handling::Record, || assert_eq!(current(), Some(Handling::Record)));
            assert_eq!(current(), Some(MESSAGE));
        });
        let panic = std::panic::catch_unwind(|| within(Handling::Record, || std::panic::panic_any(1)));
        assert!(panic.is_err());
        assert_eq!(current(), None);
    }

    #[test]
    fn what_the_loop_took_is_no_matter_of_who_runs_between_its_turns() {
        let mut taken = Taken::default();
        taken.during(|| took(Some(MESSAGE)));
        assert_eq!(current(), None);
        taken.during(|| assert_eq!(current(), Some(MESSAGE)));
        taken.during(|| took(None));
        taken.during(|| assert_eq!(current(), None));
    }

    /// Tasks take turns in one thread, and each is about its own.
    #[tokio::test]
    async fn what_one_task_handles_is_no_matter_of_another() {
        let local = task::LocalSet::new();
        local
            .run_until(async {
                took(Some(Handling::Record));
                let other = task::spawn_local(async {
                    for _ in 0..10 {
                        assert_eq!(current(), None);
                        task::yield_now().await;
                    }
                });
                let handler = task::spawn_local(during(MESSAGE, async {
                    for _ in 0..10 {
                        assert_eq!(current(), Some(MESSAGE));
                        task::yield_now().await;
                    }
                }));
                for _ in 0..10 {
                    assert_eq!(current(), Some(Handling::Record));
                    task::yield_now().await;
                }
                other.await.unwrap();
                handler.await.unwrap();
                assert_eq!(current(), Some(Handling::Record));
                took(None);
                assert_eq!(current(), None);
            })
            .await;
    }
}
