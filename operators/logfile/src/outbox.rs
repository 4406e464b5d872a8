//! What was read, on its way to the bus: in order, many at a time, each confirmed, and each under a number by which the bus
//! knows it again. What the bus refuses is held and offered again: a full disk or a wrong permission loses nothing.

use std::collections::VecDeque;
use std::future::poll_fn;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use futures_util::StreamExt;
use futures_util::stream::FuturesUnordered;
use libeevee::{Code, Error, ErrorKind, Outgoing, Published};
use tokio::time::{Instant, Sleep, sleep_until};

/// How often what was refused is offered again.
const RETRY_EVERY: Duration = Duration::from_secs(5);

/// What is published. Within an epoch, sequences rise.
pub(crate) trait Item: Sized {
    fn outgoing(&self) -> Outgoing;
    /// Its place among those of the same epoch.
    fn place(&self) -> (u64, u64);
}

/// What became of items.
#[derive(Debug)]
pub(crate) enum Outcome<T> {
    /// The bus has it.
    Done(T, Published),
    /// It can never be published.
    GivenUp(T, Error),
    /// It is offered again, and nothing else before it.
    Refused(Error),
}

type Publishing = Pin<Box<dyn Future<Output = Result<Published, Error>>>>;
type Sending<T> = Pin<Box<dyn Future<Output = (T, Result<Published, Error>)>>>;

pub(crate) struct Outbox<T> {
    publish: Box<dyn Fn(Outgoing) -> Publishing>,
    waiting: VecDeque<T>,
    sending: FuturesUnordered<Sending<T>>,
    refused: Vec<T>,
    retry: Pin<Box<Sleep>>,
}

impl<T: Item + 'static> Outbox<T> {
    /// `publish` has to take its place in the order of publishing when it is polled for the first time.
    pub(crate) fn new<F>(publish: impl Fn(Outgoing) -> F + 'static) -> Self
    where
        F: Future<Output = Result<Published, Error>> + 'static,
    {
        let publish = Box::new(move |outgoing| -> Publishing { Box::pin(publish(outgoing)) });
        Self {
            publish,
            waiting: VecDeque::new(),
            sending: FuturesUnordered::new(),
            refused: Vec::new(),
            retry: Box::pin(sleep_until(Instant::now())),
        }
    }

    pub(crate) fn push(&mut self, item: T) {
        self.waiting.push_back(item);
    }

    /// How many are not yet done.
    pub(crate) fn len(&self) -> usize {
        self.waiting.len() + self.sending.len() + self.refused.len()
    }

    /// What became of the next one; it waits for ever while there is none. It may be dropped and called again.
    pub(crate) async fn next(&mut self) -> Outcome<T> {
        poll_fn(|context| self.poll(context)).await
    }

    fn poll(&mut self, context: &mut Context<'_>) -> Poll<Outcome<T>> {
        if !self.refused.is_empty() && self.sending.is_empty() && self.retry.as_mut().poll(context).is_ready() {
            self.refused.sort_by_key(Item::place);
            for item in self.refused.drain(..).rev() {
                self.waiting.push_front(item);
            }
        }
        while self.refused.is_empty()
            && let Some(item) = self.waiting.pop_front()
        {
            let publishing = (self.publish)(item.outgoing());
            let mut sending: Sending<T> = Box::pin(async move { (item, publishing.await) });
            // Polled here and now, so that they begin in their order.
            match sending.as_mut().poll(context) {
                Poll::Ready((item, result)) => return Poll::Ready(self.judge(item, result)),
                Poll::Pending => self.sending.push(sending),
            }
        }
        match self.sending.poll_next_unpin(context) {
            Poll::Ready(Some((item, result))) => Poll::Ready(self.judge(item, result)),
            _ => Poll::Pending,
        }
    }

    fn judge(&mut self, item: T, result: Result<Published, Error>) -> Outcome<T> {
        match result {
            Ok(published) => Outcome::Done(item, published),
            Err(error) if can_never_be(&error) => Outcome::GivenUp(item, error),
            Err(error) => {
                if self.refused.is_empty() {
                    self.retry.as_mut().reset(Instant::now() + RETRY_EVERY);
                }
                self.refused.push(item);
                Outcome::Refused(error)
            }
        }
    }
}

/// No other attempt ends better.
fn can_never_be(error: &Error) -> bool {
    matches!(
        error.kind(),
        ErrorKind::TooLarge
            | ErrorKind::Invalid
            | ErrorKind::Refused(Code::FrameTooLarge | Code::Malformed | Code::BadHeader)
    )
}

/// A number for a new stream of sequences; 0 is none.
pub(crate) fn new_epoch() -> u64 {
    let mut random = [0; 8];
    match getrandom::fill(&mut random) {
        Ok(()) => u64::from_le_bytes(random).max(1),
        // The keys of a hasher are random, too.
        Err(_) => std::hash::BuildHasher::hash_one(&std::hash::RandomState::new(), std::process::id()).max(1),
    }
}

#[cfg(test)]
mod tests {
    use std::cell::RefCell;
    use std::rc::Rc;

    use super::*;

    #[derive(Debug)]
    struct Number(u64);

    impl Item for Number {
        fn outgoing(&self) -> Outgoing {
            Outgoing { epoch: 1, sequence: self.0, ..Outgoing::default() }
        }

        fn place(&self) -> (u64, u64) {
            (1, self.0)
        }
    }

    const DONE: Published = Published { id: 1, live: 0, durable: 0, repeated: false };

    #[tokio::test(start_paused = true)]
    async fn what_is_refused_comes_again_before_all_else() {
        let begun = Rc::new(RefCell::new(Vec::new()));
        let log = Rc::clone(&begun);
        let mut outbox = Outbox::new(move |outgoing: Outgoing| {
            let log = Rc::clone(&log);
            async move {
                let attempts = log.borrow().iter().filter(|sequence| **sequence == outgoing.sequence).count();
                log.borrow_mut().push(outgoing.sequence);
                tokio::task::yield_now().await;
                match outgoing.sequence {
                    2 | 3 if attempts == 0 => Err(Error::other("the disk is full")),
                    5 => Err(libeevee::HeaderError::TooMany(65).into()),
                    _ => Ok(DONE),
                }
            }
        });
        for number in 1..=5 {
            outbox.push(Number(number));
        }
        let mut ends = Vec::new();
        while outbox.len() > 0 {
            ends.push(match outbox.next().await {
                Outcome::Done(Number(number), _) => format!("done {number}"),
                Outcome::GivenUp(Number(number), _) => format!("given up {number}"),
                Outcome::Refused(_) => "refused".to_owned(),
            });
            if ends.len() == 3 {
                outbox.push(Number(6));
            }
        }
        assert_eq!(*begun.borrow(), [1, 2, 3, 4, 5, 2, 3, 6]);
        assert_eq!(ends, ["done 1", "refused", "refused", "done 4", "given up 5", "done 2", "done 3", "done 6"]);
    }
}
