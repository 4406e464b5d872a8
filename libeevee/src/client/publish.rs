//! Publishing: what goes out, and how it waits for credit without ever losing count of it.
//!
//! Credit is taken, the number given and the frame queued in one step under the lock, and only when all three can be
//! done. So a future that is dropped while it waits has taken nothing, and one that is dropped later changes nothing.

use std::pin::pin;
use std::time::Duration;

use tokio::sync::oneshot;
use tokio::task::coop::consume_budget;

use super::shared::{Open, Phase, Shared, State, Waiter, too_large};
use crate::error::{Error, ErrorKind};
use crate::message::{Document, Message};
use crate::wire::{
    Code, Content, EncodedDocument, Frame, PUBLISH, begin, finish, put_bytes, put_option, put_varint, varint_bytes,
};

/// A document with what its publisher can say beside it.
///
/// ```
/// use libeevee::{Document, Outgoing};
/// # fn example(heard: &libeevee::Message) -> Result<(), libeevee::HeaderError> {
/// let answer = Outgoing::from(Document::new([("type", "weather.report")], "rain")?).answering(heard);
/// assert_eq!(answer.cause, Some(heard.id));
/// # Ok(())
/// # }
/// ```
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Outgoing {
    /// The document.
    pub document: Document,
    /// The id of the message that this one answers.
    pub cause: Option<u64>,
    /// How many answers deep the chain is that this one continues: the `hops` of its cause. The bus refuses more than 16.
    pub hops: u8,
    /// With `sequence`, what the bus recognises a repetition by, also one of an earlier process: a program that can tell
    /// from its source what it has published (a file and the offset in it) chooses both itself. With 0, a confirmed
    /// publish gets an epoch and a sequence of the client's own, and others none.
    pub epoch: u64,
    /// Rising within an epoch, whose number is not 0. The bus remembers the 1,024 epochs that a source used last.
    pub sequence: u64,
}

/// The answer to a confirmed publish: the bus has it, on disk for every durable subscription that matched.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Published {
    /// The message's id; 0 for a repetition whose first id the bus does not know any more.
    pub id: u64,
    /// How many live subscriptions matched and were permitted; of a repetition this is not known, and is 0.
    pub live: u32,
    /// How many durable ones; likewise.
    pub durable: u32,
    /// The bus had it already, by its epoch and sequence: it was published before, and nothing was done again.
    pub repeated: bool,
}

/// Who waits for the answer to what is sent.
pub(super) enum Answer {
    Any(Waiter),
    Published(oneshot::Sender<Result<Published, Error>>),
}

impl From<Document> for Outgoing {
    fn from(document: Document) -> Self {
        Self { document, ..Self::default() }
    }
}

impl Outgoing {
    /// The same as an answer to `cause`, so that chains of answers come to an end.
    pub fn answering(mut self, cause: &Message) -> Self {
        self.cause = Some(cause.id);
        self.hops = cause.hops;
        self
    }
}

impl Shared {
    /// Publishes what nobody waits for an answer to: no frame is made of it first, it is written where it goes out. Returns
    /// its number.
    pub(super) async fn publish(&self, message: &Outgoing) -> Result<u32, Error> {
        // A publisher whose credit never ends lets others have their turn now and then; the driver is one of them.
        consume_budget().await;
        if let Some(number) = self.try_publish(message, false)? {
            return Ok(number);
        }
        self.in_turn(|| self.try_publish(message, true)).await
    }

    fn try_publish(&self, message: &Outgoing, my_turn: bool) -> Result<Option<u32>, Error> {
        let mut guard = self.lock();
        let state: &mut State = &mut guard;
        state.accepting()?;
        let bytes = message.document_bytes();
        // The size is refused now and not when credit comes: no credit makes a document smaller.
        let max = u64::from(state.welcome.frame_bytes_max);
        if bytes + BEFORE_DOCUMENT_MAX > max {
            let exact = message.encode(0).len() as u64 - 4;
            if exact > max {
                return Err(too_large(exact, max));
            }
        }
        if !state.may_send(my_turn) {
            return Ok(None);
        }
        let number = state.publish_number();
        let was_empty = state.outbox.is_empty();
        message.encode_into(number, &mut state.outbox);
        state.credit.take(bytes);
        drop(guard);
        if was_empty {
            self.wake.notify_one();
        }
        Ok(Some(number))
    }

    /// Numbers and queues a document's frame as soon as credit allows, and returns its number. With `answer`, the number
    /// is open until the bus answers it.
    pub(super) async fn send(&self, mut frame: Frame, mut answer: Option<Answer>) -> Result<u32, Error> {
        let bytes = document(&frame.content).map_or(0, |document| document.bytes().len() as u64);
        if let Some(number) = self.try_send(&mut frame, bytes, &mut answer, false)? {
            return Ok(number);
        }
        self.in_turn(|| self.try_send(&mut frame, bytes, &mut answer, true)).await
    }

    /// Tries again with every grant, behind those who waited before.
    async fn in_turn(&self, mut attempt: impl FnMut() -> Result<Option<u32>, Error>) -> Result<u32, Error> {
        let _waiting = Waiting::new(self);
        let _turn = self.turn.lock().await;
        loop {
            let mut credit = pin!(self.credit.notified());
            // Enabled before the look, or a grant between look and await would be missed.
            credit.as_mut().enable();
            if let Some(number) = attempt()? {
                return Ok(number);
            }
            credit.await;
        }
    }

    /// Why a publish came to nothing within its time.
    pub(super) fn not_within(&self, within: Duration) -> Error {
        let state = self.lock();
        if let Err(error) = state.connected() {
            return error;
        }
        let millis = u64::try_from(within.as_millis()).unwrap_or(u64::MAX);
        let text = format!(
            "not published within {millis} ms: the bus grants no more credit, because of `rate` in [bus] of the module file, \
             or because it takes no more from anybody"
        );
        Error::new(ErrorKind::Refused(Code::Rate), text).limited(millis, millis)
    }

    fn try_send(
        &self,
        frame: &mut Frame,
        bytes: u64,
        answer: &mut Option<Answer>,
        my_turn: bool,
    ) -> Result<Option<u32>, Error> {
        let mut state = self.lock();
        state.accepting()?;
        // The size is refused now and not when credit comes: no credit makes a document smaller.
        let max = u64::from(state.welcome.frame_bytes_max);
        if frame_bytes(frame, bytes, max) > max {
            return Err(too_large(frame_bytes(frame, bytes, 0), max));
        }
        if !state.may_send(my_turn) {
            return Ok(None);
        }
        frame.number = if answer.is_some() { state.number() } else { state.publish_number() };
        if matches!(answer, Some(Answer::Published(_))) {
            state.identify(frame);
        }
        self.push(&mut state, frame)?;
        state.credit.take(bytes);
        match answer.take() {
            Some(Answer::Any(waiter)) => {
                state.open.insert(frame.number, Open::Request(waiter));
            }
            Some(Answer::Published(waiter)) => {
                let place = state.unanswered_number();
                state.open.insert(frame.number, Open::Publish(place, waiter));
                state.unanswered.insert(place, frame.clone());
            }
            None => {}
        }
        Ok(Some(frame.number))
    }

    /// Publishes and waits until the bus has it, over as many connections as that takes.
    pub(super) async fn send_confirmed(&self, frame: Frame) -> Result<Published, Error> {
        let (waiter, answer) = oneshot::channel();
        self.send(frame, Some(Answer::Published(waiter))).await?;
        answer.await.unwrap_or_else(|_| Err(Error::closed()))
    }

    /// Sends a document's frame and waits for what the bus answers.
    pub(super) async fn send_and_wait(&self, frame: Frame) -> Result<Content, Error> {
        let (waiter, answer) = oneshot::channel();
        self.send(frame, Some(Answer::Any(waiter))).await?;
        answer.await.unwrap_or_else(|_| Err(Error::closed()))
    }
}

impl Outgoing {
    /// The length of the document on the wire, as credit counts it.
    fn document_bytes(&self) -> u64 {
        let body = self.document.body.len() as u64;
        self.document.headers.wire_bytes().len() as u64 + varint_bytes(body) + body
    }

    /// Appends the frame.
    fn encode_into(&self, number: u32, out: &mut Vec<u8>) {
        let headers = self.document.headers.wire_bytes();
        out.reserve(BEFORE_DOCUMENT_MAX as usize + 4 + headers.len() + 9 + self.document.body.len());
        let start = begin(out, PUBLISH, 0, number);
        if (self.cause, self.epoch, self.sequence) == (None, 0, 0) {
            out.extend_from_slice(&[0, self.hops, 0, 0]);
        } else {
            put_option(out, self.cause);
            out.push(self.hops);
            put_varint(out, self.epoch);
            put_varint(out, self.sequence);
        }
        out.extend_from_slice(headers);
        put_bytes(out, &self.document.body);
        finish(out, start);
    }

    fn encode(&self, number: u32) -> Vec<u8> {
        let mut out = Vec::new();
        self.encode_into(number, &mut out);
        out
    }
}

impl State {
    /// Whether a document may go out now: there is a connection and credit, and nobody was first.
    fn may_send(&self, my_turn: bool) -> bool {
        let first = self.retained.is_empty() && (my_turn || self.waiting == 0);
        matches!(self.phase, Phase::Up) && first && self.credit.any()
    }

    /// What a confirmed publish is recognised by when it has to be sent a second time.
    fn identify(&mut self, frame: &mut Frame) {
        if let Content::Publish(publish) = &mut frame.content
            && publish.epoch == 0
        {
            self.sequence += 1;
            (publish.epoch, publish.sequence) = (self.epoch, self.sequence);
        }
    }
}

/// Counts as waiting for as long as it lives.
struct Waiting<'a>(&'a Shared);

impl<'a> Waiting<'a> {
    fn new(shared: &'a Shared) -> Self {
        shared.lock().waiting += 1;
        Self(shared)
    }
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        self.0.lock().waiting -= 1;
    }
}

/// The document of the frames that cost credit.
pub(super) const fn document(content: &Content) -> Option<&EncodedDocument> {
    match content {
        Content::Publish(publish) => Some(&publish.document),
        Content::Request(request) => Some(&request.document),
        Content::Reply(reply) => Some(&reply.document),
        _ => None,
    }
}

/// The fixed header, and at most four integers of nine bytes, a tag and a byte before the document.
const BEFORE_DOCUMENT_MAX: u64 = 8 + 4 * 9 + 2;

/// The frame's bytes after its length field. Only a frame near to `max` is worth an exact answer.
fn frame_bytes(frame: &Frame, document_bytes: u64, max: u64) -> u64 {
    let at_most = document_bytes + BEFORE_DOCUMENT_MAX;
    if at_most <= max { at_most } else { frame.encode().len() as u64 - 4 }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::header::Headers;
    use crate::wire::Publish;

    proptest! {
        #[test]
        fn a_document_is_written_as_its_frame_would_be(
            (number, cause, hops) in any::<(u32, Option<u64>, u8)>(),
            (epoch, sequence) in prop_oneof![Just((0, 0)), any::<(u64, u64)>()],
            headers in prop::collection::vec(("[a-f]", "[a-z☃ ]{0,300}"), 0..4),
            body in prop::collection::vec(any::<u8>(), 0..400),
        ) {
            let headers = Headers::try_from(headers).unwrap_or_default();
            let document = Document { headers, body: body.into() };
            let encoded = EncodedDocument::from(&document);
            let outgoing = Outgoing { document, cause, hops, epoch, sequence };
            prop_assert_eq!(outgoing.document_bytes(), encoded.bytes().len() as u64);
            let publish = Publish { cause, hops, epoch, sequence, document: encoded };
            prop_assert_eq!(outgoing.encode(number), Frame::new(number, Content::Publish(publish)).encode());
        }
    }
}
