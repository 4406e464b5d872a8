//! What a client asks the bus for and gets one answer to: requests to other operators, claims, control verbs, pings.

use std::time::Duration;

use tokio::sync::oneshot;
use tokio::time::{Instant, timeout};

use super::Client;
use super::publish::Outgoing;
use super::shared::{Claim, Phase};
use crate::error::{Error, ErrorKind};
use crate::message::{Document, Message, Timestamp};
use crate::wire::{Content, Control, Frame, Reply, Request, Text, Value};

/// The answer to a request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Response {
    /// Who answered: proved, as for messages.
    pub source: String,
    /// When the bus took the answer.
    pub timestamp: Timestamp,
    /// The answer.
    pub document: Document,
}

impl Client {
    /// Publishes a document that wants one answer, and waits for it.
    ///
    /// The deadline covers all of it, also the wait for credit or for a bus that is away. Dropping the future gives the
    /// answer up.
    ///
    /// # Errors
    /// [`ErrorKind::Deadline`] when none came in time; `Refused(no-responder)` when no subscription matched;
    /// [`ErrorKind::TooLarge`]; [`ErrorKind::Disconnected`] when the connection was lost before the answer came, so that
    /// nobody knows whether the request was carried out.
    ///
    /// ```no_run
    /// # async fn example(client: libeevee::Client) -> Result<(), Box<dyn std::error::Error>> {
    /// use std::time::Duration;
    /// use libeevee::Document;
    /// let question = Document::new([("type", "weather.question"), ("city", "Oslo")], "")?;
    /// let answer = client.request(question, Duration::from_secs(5)).await?;
    /// println!("{} says {:?}", answer.source, answer.document.text());
    /// # Ok(())
    /// # }
    /// ```
    pub async fn request(&self, request: impl Into<Outgoing>, deadline: Duration) -> Result<Response, Error> {
        let Outgoing { document, cause, hops, .. } = request.into();
        let deadline_ms = u64::try_from(deadline.as_millis()).unwrap_or(u64::MAX).max(1);
        let document = (&document).into();
        let frame = Frame::new(0, Content::Request(Request { deadline_ms, cause, hops, document }));
        match timeout(deadline, self.shared.send_and_wait(frame)).await {
            Ok(Ok(Content::Response(response))) => Ok(Response {
                source: response.source,
                timestamp: Timestamp(response.timestamp),
                document: response.document.decode(),
            }),
            Ok(Ok(other)) => Err(unexpected("a request", &other)),
            Ok(Err(error)) => Err(error),
            Err(_) => Err(Error::new(ErrorKind::Deadline, format!("no answer to the request within {deadline:?}"))),
        }
    }

    /// Answers a request; its message has a reply address. Waits for credit, as [`Client::publish`] does; a refusal
    /// comes as [`Notice::Refused`](super::Notice::Refused).
    ///
    /// # Errors
    /// [`ErrorKind::Invalid`] for a message that is no request; else as [`Client::publish`].
    pub async fn reply_to(&self, request: &Message, document: Document) -> Result<(), Error> {
        let Some(address) = request.reply_address else {
            return Err(Error::new(
                ErrorKind::Invalid,
                format!("message {} is no request, it has no reply address: publish an answer instead", request.id),
            ));
        };
        let frame = Frame::new(0, Content::Reply(Reply { address, document: (&document).into() }));
        self.shared.send(frame, None).await.map(drop)
    }

    /// Claims a name (`platform/network`) for this operator alone. It is claimed again after every reconnect; should
    /// another operator hold it then, that comes as [`Notice::ClaimLost`](super::Notice::ClaimLost).
    ///
    /// While the bus is away this waits for it. Dropping the future does not take the claim back, see
    /// [`Client::unclaim`].
    ///
    /// # Errors
    /// `Refused(already-connected)` when another operator holds it, named in the text.
    pub async fn claim(&self, name: impl Into<String>) -> Result<(), Error> {
        let name = name.into();
        let answer = {
            let mut state = self.shared.lock();
            state.accepting()?;
            let (waiter, answer) = oneshot::channel();
            match state.claims.get_mut(&name) {
                Some(claim) if claim.held => return Ok(()),
                Some(claim) => claim.waiters.push(waiter),
                None => {
                    state.claims.insert(name.clone(), Claim { held: false, waiters: vec![waiter] });
                    if matches!(state.phase, Phase::Up) {
                        state.send_claim(&name);
                        self.shared.wake.notify_one();
                    }
                }
            }
            answer
        };
        answer.await.unwrap_or_else(|_| Err(Error::closed()))
    }

    /// Gives a claimed name back.
    ///
    /// # Errors
    /// As the bus refuses it: `Refused(not-found)` for a name that was not claimed here.
    pub async fn unclaim(&self, name: &str) -> Result<(), Error> {
        {
            let mut state = self.shared.lock();
            state.accepting()?;
            state.claims.remove(name);
            if matches!(state.phase, Phase::Away(_)) {
                // The session that held it is gone, and the next one will not claim it.
                return Ok(());
            }
        }
        match self.shared.ask(Content::Unclaim(Text { text: name.to_owned() })).await? {
            Content::Ok => Ok(()),
            other => Err(unexpected("unclaiming", &other)),
        }
    }

    /// Asks the bus itself for something: `status`, `halt`, `reload` and so on; docs/PROTOCOL.md lists the verbs. `id` is
    /// the operator it is about, or empty; `argument` a JSON object, or empty. The answer is JSON text where the verb has
    /// one.
    ///
    /// There is no deadline here: a reload takes as long as its operator needs, at most 20 s.
    ///
    /// # Errors
    /// `Refused(denied)` without the right; `Refused(refused)` with the diagnosis as text for a reload;
    /// [`ErrorKind::Disconnected`] at once while the bus is away.
    pub async fn control(&self, verb: &str, id: &str, argument: &str) -> Result<Option<String>, Error> {
        let control = Control { verb: verb.to_owned(), id: id.to_owned(), argument: argument.to_owned() };
        match self.shared.ask(Content::Control(control)).await? {
            Content::Ok => Ok(None),
            Content::Answer(text) => Ok(Some(text.text)),
            other => Err(unexpected(verb, &other)),
        }
    }

    /// Sends a ping through the bus and tells how long it took. It passes a user who is slow, and a publisher who waits
    /// for credit.
    ///
    /// # Errors
    /// [`ErrorKind::Disconnected`] at once while the bus is away, or when the connection is lost meanwhile.
    pub async fn ping(&self) -> Result<Duration, Error> {
        let answer = {
            let mut state = self.shared.lock();
            state.connected()?;
            let value = state.ping_value();
            self.shared.push(&mut state, &Frame::new(0, Content::Ping(Value { value })))?;
            let (waiter, answer) = oneshot::channel();
            state.pings.insert(value, (Instant::now(), waiter));
            answer
        };
        answer.await.unwrap_or_else(|_| Err(Error::closed()))
    }
}

fn unexpected(asked: &str, content: &Content) -> Error {
    Error::new(ErrorKind::Wire, format!("the bus answered {asked} with a frame of kind {}", content.kind()))
}
