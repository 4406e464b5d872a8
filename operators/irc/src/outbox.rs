//! What was heard, on its way to the bus: in order, several at a time, each confirmed.
//!
//! A confirmed publish outlives the connection to the bus: what was not answered is sent again, and known again there. So
//! nothing that was heard is lost when the bus is away, restarted or killed.

use std::collections::VecDeque;
use std::future::poll_fn;
use std::pin::Pin;
use std::task::{Context, Poll};

use libeevee::{Document, Error};

/// How much of what was heard waits for the bus while that is away: some minutes of a lively channel.
const WAITING_MAX: usize = 2_000;
/// How many are sent before the first of them is answered: enough that a slow disk of the bus holds nothing up.
const SENDING_MAX: usize = 64;

type Publishing<'a> = Pin<Box<dyn Future<Output = Result<(), Error>> + 'a>>;

pub(crate) struct Outbox<'a> {
    publish: Box<dyn Fn(Document) -> Publishing<'a> + 'a>,
    waiting: VecDeque<Document>,
    sending: VecDeque<Publishing<'a>>,
    lost: u64,
}

impl<'a> Outbox<'a> {
    /// `publish` has to take its place in the order of publishing when it is polled for the first time.
    pub(crate) fn new<F>(publish: impl Fn(Document) -> F + 'a) -> Self
    where
        F: Future<Output = Result<(), Error>> + 'a,
    {
        let publish = Box::new(move |document| -> Publishing<'a> { Box::pin(publish(document)) });
        Self { publish, waiting: VecDeque::new(), sending: VecDeque::new(), lost: 0 }
    }

    /// Adds the newest. When too many wait, the oldest of them goes.
    pub(crate) fn push(&mut self, document: Document) {
        if self.waiting.len() == WAITING_MAX {
            if self.lost == 0 {
                tracing::error!("{WAITING_MAX} events wait for the bus: the oldest are dropped");
            }
            self.lost += 1;
            self.waiting.pop_front();
        }
        self.waiting.push_back(document);
    }

    /// What became of the next one that is done; it waits for ever while there is none. It may be dropped and called again
    /// at any point.
    pub(crate) async fn next(&mut self) -> Result<(), Error> {
        poll_fn(|context| self.poll(context)).await
    }

    /// They are polled in their order, so that they begin in it.
    fn poll(&mut self, context: &mut Context<'_>) -> Poll<Result<(), Error>> {
        while self.sending.len() < SENDING_MAX
            && let Some(document) = self.waiting.pop_front()
        {
            self.sending.push_back((self.publish)(document));
        }
        for at in 0..self.sending.len() {
            if let Poll::Ready(result) = self.sending[at].as_mut().poll(context) {
                drop(self.sending.remove(at));
                return Poll::Ready(result);
            }
        }
        Poll::Pending
    }

    /// Whether all that was heard is published.
    pub(crate) fn is_empty(&self) -> bool {
        self.sending.is_empty() && self.waiting.is_empty()
    }

    /// How many were dropped since the last call.
    pub(crate) fn take_lost(&mut self) -> u64 {
        std::mem::take(&mut self.lost)
    }
}

#[cfg(test)]
mod tests {
    use std::cell::RefCell;
    use std::task::Waker;

    use tokio::sync::oneshot;

    use super::*;

    fn document(n: usize) -> Document {
        Document { body: n.to_string().into(), ..Document::default() }
    }

    /// A bus that has so many places, and answers when it is told to.
    #[derive(Default)]
    struct Bus {
        taken: RefCell<Vec<String>>,
        answers: RefCell<VecDeque<oneshot::Sender<()>>>,
    }

    impl Bus {
        async fn publish(&self, document: Document) -> Result<(), Error> {
            self.taken.borrow_mut().push(document.text().unwrap().to_owned());
            let (sender, answer) = oneshot::channel();
            self.answers.borrow_mut().push_back(sender);
            answer.await.map_err(|_| Error::other("closed"))
        }
    }

    /// What is done already, if anything is.
    fn look(outbox: &mut Outbox<'_>) -> Option<Result<(), Error>> {
        match outbox.poll(&mut Context::from_waker(Waker::noop())) {
            Poll::Ready(result) => Some(result),
            Poll::Pending => None,
        }
    }

    #[test]
    fn several_are_on_their_way_in_order_and_none_is_forgotten() {
        let bus = Bus::default();
        let mut outbox = Outbox::new(|document| bus.publish(document));
        assert!(look(&mut outbox).is_none());
        for n in 0..SENDING_MAX + 10 {
            outbox.push(document(n));
        }
        assert!(look(&mut outbox).is_none());
        assert_eq!(bus.taken.borrow().len(), SENDING_MAX);
        let mut done = 0;
        while !outbox.is_empty() {
            bus.answers.borrow_mut().pop_front().unwrap().send(()).unwrap();
            look(&mut outbox).unwrap().unwrap();
            done += 1;
            assert!(look(&mut outbox).is_none());
        }
        assert_eq!(done, SENDING_MAX + 10);
        let expected: Vec<String> = (0..SENDING_MAX + 10).map(|n| n.to_string()).collect();
        assert_eq!(*bus.taken.borrow(), expected);
    }

    #[test]
    fn what_does_not_fit_is_counted() {
        let mut outbox = Outbox::new(|_| std::future::pending());
        for n in 0..WAITING_MAX + 3 {
            outbox.push(document(n));
        }
        assert_eq!((outbox.take_lost(), outbox.take_lost()), (3, 0));
        assert!(look(&mut outbox).is_none());
        assert_eq!((outbox.waiting.len(), outbox.sending.len()), (WAITING_MAX - SENDING_MAX, SENDING_MAX));
        assert!(!outbox.is_empty());
    }
}
