//! What the program asked for, on its way to the bus: several at a time, each confirmed, and acknowledgements only after
//! all that was said before them. So a program that answers and then acknowledges never loses an answer.

use std::collections::VecDeque;
use std::future::poll_fn;
use std::pin::Pin;
use std::task::{Context, Poll};

use libeevee::{Error, Message, Nack};

/// What is on its way at once. While there is no room, the program is not listened to.
const MAX: usize = 64;

type Publishing<'a> = Pin<Box<dyn Future<Output = Result<(), Error>> + 'a>>;

/// What is to be done, in this order.
enum Item<'a> {
    Publish(Publishing<'a>),
    Settle(Box<Settled>),
}

/// A message that the program is done with.
#[derive(Debug)]
pub(super) struct Settled {
    pub(super) message: Message,
    /// None: acknowledged.
    pub(super) nack: Option<Nack>,
}

/// What is done.
#[derive(Debug)]
pub(super) enum Done {
    Published(Result<(), Error>),
    Settled(Box<Settled>),
}

#[derive(Default)]
pub(super) struct Outbox<'a>(VecDeque<Item<'a>>);

impl<'a> Outbox<'a> {
    /// `publishing` has to take its place in the order of publishing when it is polled for the first time.
    pub(super) fn publish(&mut self, publishing: impl Future<Output = Result<(), Error>> + 'a) {
        self.0.push_back(Item::Publish(Box::pin(publishing)));
    }

    pub(super) fn settle(&mut self, message: Message, nack: Option<Nack>) {
        self.0.push_back(Item::Settle(Box::new(Settled { message, nack })));
    }

    pub(super) fn has_room(&self) -> bool {
        self.0.len() < MAX
    }

    pub(super) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// The next one that is done; waits for ever while there is none. It may be dropped and called again at any point.
    pub(super) async fn next(&mut self) -> Done {
        poll_fn(|context| self.poll(context)).await
    }

    fn poll(&mut self, context: &mut Context<'_>) -> Poll<Done> {
        if let Some(Item::Settle(_)) = self.0.front()
            && let Some(Item::Settle(settled)) = self.0.pop_front()
        {
            return Poll::Ready(Done::Settled(settled));
        }
        for at in 0..self.0.len() {
            if let Item::Publish(publishing) = &mut self.0[at]
                && let Poll::Ready(result) = publishing.as_mut().poll(context)
            {
                drop(self.0.remove(at));
                // What waits behind it may be first now.
                context.waker().wake_by_ref();
                return Poll::Ready(Done::Published(result));
            }
        }
        Poll::Pending
    }
}

#[cfg(test)]
mod tests {
    use libeevee::{Document, Timestamp};
    use tokio::sync::oneshot;

    use super::*;

    fn message(id: u64) -> Message {
        Message {
            id,
            source: "irc".into(),
            timestamp: Timestamp(0),
            cause: None,
            hops: 0,
            document: Document::default().into(),
            reply_address: None,
            delivery: libeevee::Delivery::default(),
        }
    }

    /// One that is done when it is told.
    fn publishing(outbox: &mut Outbox<'static>) -> oneshot::Sender<()> {
        let (sender, told) = oneshot::channel();
        outbox.publish(async { told.await.map_err(|_| Error::other("gone")) });
        sender
    }

    #[tokio::test]
    async fn an_acknowledgement_waits_for_what_was_said_before() {
        let mut outbox = Outbox::default();
        let first = publishing(&mut outbox);
        outbox.settle(message(1), None);
        let second = publishing(&mut outbox);
        outbox.settle(message(2), Some(Nack::again("x")));
        let quiet = tokio::time::timeout(std::time::Duration::from_millis(50), outbox.next()).await;
        assert!(quiet.is_err(), "nothing is done yet");
        second.send(()).unwrap();
        assert!(matches!(outbox.next().await, Done::Published(Ok(()))));
        let quiet = tokio::time::timeout(std::time::Duration::from_millis(50), outbox.next()).await;
        assert!(quiet.is_err(), "the first is not done");
        first.send(()).unwrap();
        assert!(matches!(outbox.next().await, Done::Published(Ok(()))));
        for id in [1, 2] {
            let Done::Settled(settled) = outbox.next().await else { panic!("settled") };
            assert_eq!((settled.message.id, settled.nack.is_some()), (id, id == 2));
        }
        assert!(outbox.is_empty());
    }

    #[test]
    fn it_is_bounded() {
        let mut outbox = Outbox::default();
        for id in 0..MAX {
            assert!(outbox.has_room());
            outbox.settle(message(id as u64), None);
        }
        assert!(!outbox.has_room());
    }
}
