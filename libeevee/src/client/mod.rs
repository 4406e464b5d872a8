//! The client: one connection to the bus, kept up for as long as the client lives.
//!
//! A task of its own owns the socket (`driver`, `incoming`); handles talk to it through `shared`. Publishing waits for
//! credit (`publish`), deliveries stay within windows (`subscription`), and a lost connection is made again with
//! everything that was open on it (`reconnect`).

mod connect;
mod credit;
mod driver;
mod entry;
mod events;
mod held;
mod incoming;
mod nack;
mod notice;
mod publish;
mod reconnect;
mod record;
mod request;
mod shared;
mod subscribe;
mod subscription;

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use tokio::time::timeout;

pub use self::connect::{BUS_SOCKET, BUS_SOCKET_VARIABLE, Connect};
pub use self::nack::Nack;
pub use self::notice::{Notice, NoticeReceiver};
pub use self::publish::{Outgoing, Published};
pub use self::request::Response;
pub use self::subscribe::{FilterTexts, SubscribeBuilder};
pub use self::subscription::{Event, Subscription};

use self::driver::Driver;
pub(crate) use self::held::{Receipt, Settlement};
use self::shared::{Phase, Shared};
use crate::error::{Error, ErrorKind};
use crate::message::Message;
use crate::wire::limits::COMMANDS_BYTES_MAX;
use crate::wire::{CONFIRM, Content, Frame, OperatorState, Publish, State, Verdict, Welcome};

/// How long a bus may take to read what was accepted before it is closed upon. Operators have 10 s to stop.
const CLOSE: Duration = Duration::from_secs(5);

/// A connection to the bus. Cheap to clone; all clones are the same connection.
///
/// It connects again by itself when the connection is lost: at once, then with pauses that grow to 200 ms.
/// Subscriptions go on with an [`Event::Gap`] where something may have been lost, claims are made again, and publishing
/// waits until the bus is back. Dropping the last clone, or [`Client::close`], ends it and all its subscriptions.
///
/// It needs a tokio runtime, in which it runs a task of its own.
///
/// ```no_run
/// use libeevee::{Client, Connect, Document, Event};
///
/// # async fn example() -> Result<(), Box<dyn std::error::Error>> {
/// let client = Client::connect(Connect::tool()).await?;
/// let mut rust = client.subscribe("type=chat.message,channel=#rust").await?;
///
/// let document = Document::new([("type", "note"), ("topic", "weather")], "rain again")?;
/// let published = client.publish_confirmed(document).await?;
/// println!("message {} went to {} subscriptions", published.id, published.live);
///
/// while let Some(event) = rust.next().await {
///     match event {
///         Event::Message(message) => println!("{}: {:?}", message.source, message.text()),
///         Event::Gap(gap) => println!("lost {:?} messages: {}", gap.count, gap.reason),
///     }
/// }
/// client.close().await?;
/// # Ok(())
/// # }
/// ```
pub struct Client {
    shared: Arc<Shared>,
}

impl Client {
    /// Connects, and proves who this is.
    ///
    /// # Errors
    /// [`ErrorKind::Io`] when the bus is away (unless [`Connect::wait`]) or its socket may not be opened;
    /// [`ErrorKind::Auth`] when the bus does not believe who this is; `Refused(already-connected)` when another session
    /// holds the id, for operators after 10 s of trying.
    pub async fn connect(connect: Connect) -> Result<Self, Error> {
        let (link, welcome) = connect.first().await?;
        let highest = welcome.last_id;
        let shared = Shared::new(welcome);
        let driver = Driver::new(Arc::clone(&shared), connect, link, highest);
        tokio::spawn(driver.run());
        shared.add_handle();
        Ok(Self { shared })
    }

    /// What the bus said when it welcomed this client, the last time: identity, module file, session, boot and limits.
    pub fn welcome(&self) -> Arc<Welcome> {
        Arc::clone(&self.shared.lock().welcome)
    }

    /// Whether this operator is halted, as far as the bus has told.
    pub fn is_halted(&self) -> bool {
        self.shared.lock().halted
    }

    /// Whether there is a connection now.
    pub fn is_connected(&self) -> bool {
        matches!(self.shared.lock().phase, Phase::Up | Phase::Closing)
    }

    /// Publishes a [`Document`](crate::Document), at most once. Waits for credit, and while the bus is away; returns when
    /// the message is accepted for sending. A refusal that comes later is logged, and told as [`Notice::Refused`].
    ///
    /// Dropping the future before it is done publishes nothing.
    ///
    /// # Errors
    /// [`ErrorKind::TooLarge`] for a document beyond the bus's frame limit; [`ErrorKind::Closed`]; [`ErrorKind::Auth`]
    /// when the bus will not have this client any more.
    pub async fn publish(&self, message: impl Into<Outgoing>) -> Result<(), Error> {
        let message = message.into();
        self.shared.publish(&message).await.map(drop)
    }

    /// As [`Client::publish`]; returns the number by which a [`Notice::Refused`] would name this message.
    ///
    /// # Errors
    /// As [`Client::publish`].
    pub async fn publish_with(&self, message: Outgoing) -> Result<u32, Error> {
        self.shared.publish(&message).await
    }

    /// As [`Client::publish`], and waits no longer than `within` for credit and for a bus that is away. Where it fails,
    /// nothing was published.
    ///
    /// # Errors
    /// As [`Client::publish`]; `Refused(rate)` when the bus granted no credit in time, because this operator publishes
    /// faster than `rate` in its module file allows, or than the bus can take; [`ErrorKind::Disconnected`] when the bus was
    /// away for all that time.
    pub async fn publish_within(&self, message: impl Into<Outgoing>, within: Duration) -> Result<(), Error> {
        match timeout(within, self.publish(message)).await {
            Ok(published) => published,
            Err(_) => Err(self.shared.not_within(within)),
        }
    }

    /// Publishes a document and waits until the bus has it safely: for durable subscriptions, on disk. The answer says
    /// how many subscriptions matched; "none" is the commonest first mistake.
    ///
    /// A lost connection is no error here: what the bus has not answered is sent again on the next one, before anything
    /// newer and in order, and the bus recognises what it had already by epoch and sequence. So it is published once, and
    /// [`Published::repeated`] says when the first answer was lost. A future that is dropped while it waits for the
    /// answer leaves the message on its way.
    ///
    /// ```no_run
    /// # async fn example(client: libeevee::Client) -> Result<(), Box<dyn std::error::Error>> {
    /// use libeevee::{Code, Document, ErrorKind};
    /// match client.publish_confirmed(Document::new([("type", "order")], "two coffees")?).await {
    ///     Ok(published) => println!("{} durable subscriptions have it on disk", published.durable),
    ///     Err(error) if error.kind() == ErrorKind::Refused(Code::Full) => println!("later: {error}"),
    ///     Err(error) => return Err(error.into()),
    /// }
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    /// As [`Client::publish`]; `Refused(denied)` with the rule when `may-publish` forbids it; `Refused(full)` when a durable
    /// subscription that rejects is full; `Refused(storage)` when the disk did not take it (live subscriptions have it then);
    /// other refusals. [`ErrorKind::Closed`] when the client was closed before the answer, and
    /// [`ErrorKind::Disconnected`] where it does not [reconnect](Connect::reconnect): then nobody knows whether the bus took it.
    pub async fn publish_confirmed(&self, message: impl Into<Outgoing>) -> Result<Published, Error> {
        self.shared.send_confirmed(frame(message.into(), CONFIRM)).await
    }

    /// Acknowledges a message of any durable subscription of this client; see [`Subscription::ack`].
    ///
    /// # Errors
    /// As [`Subscription::ack`]; [`ErrorKind::Invalid`] also when its subscription was dropped.
    pub fn ack(&self, message: &Message) -> Result<(), Error> {
        self.shared.settle(message.receipt(), Settlement::Ack)
    }

    /// Gives a message of any durable subscription of this client back; see [`Subscription::nack`].
    ///
    /// # Errors
    /// As [`Subscription::nack`]; [`ErrorKind::Invalid`] also when its subscription was dropped.
    pub fn nack(&self, message: &Message, nack: Nack) -> Result<(), Error> {
        self.shared.settle(message.receipt(), Settlement::Nack(nack))
    }

    /// Settles a message by what it is known by, unless that was done already.
    pub(crate) fn settle_once(&self, receipt: Receipt, settlement: Settlement) -> Result<(), Error> {
        if self.shared.holds(receipt) { self.shared.settle(receipt, settlement) } else { Ok(()) }
    }

    /// Subscribes to the messages that match any of the filters: await what this returns, perhaps after setting how it
    /// shall behave.
    ///
    /// ```no_run
    /// # async fn example(client: libeevee::Client) -> Result<(), libeevee::Error> {
    /// use std::time::Duration;
    /// let mut orders = client
    ///     .subscribe(["type=chat.message,command=dice", "type=dice.roll"])
    ///     .max_age(Duration::from_secs(300))
    ///     .await?;
    /// while let Some(event) = orders.next().await {
    ///     println!("{event:?}");
    /// }
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    /// `Refused(bad-filter)` with the column of the mistake; `Refused(quota)`; [`ErrorKind::Invalid`] for no filter, or
    /// too many.
    pub fn subscribe(&self, filters: impl Into<FilterTexts>) -> SubscribeBuilder {
        SubscribeBuilder::new(Arc::clone(&self.shared), filters.into())
    }

    /// Tells the bus, and whoever looks, where this operator is in its life; `status` is one line for a person. Said again
    /// after a reconnect. When states follow faster than they can be written, the last one counts.
    ///
    /// # Errors
    /// [`ErrorKind::TooLarge`] for a status that no frame can hold; [`ErrorKind::Closed`].
    pub fn state(&self, state: OperatorState, status: impl Into<String>) -> Result<(), Error> {
        let said = State { state: state as u8, status: status.into() };
        let mut shared = self.shared.lock();
        shared.accepting()?;
        let (bytes, max) = (said.status.len() as u64 + 16, u64::from(shared.welcome.frame_bytes_max));
        if bytes > max {
            return Err(shared::too_large(bytes, max));
        }
        shared.status = Some((said, true));
        drop(shared);
        self.shared.wake.notify_one();
        Ok(())
    }

    /// Tells the bus what commands this operator answers, for whoever helps people: a JSON array, as
    /// [`CommandInfo::to_json`](crate::operator::CommandInfo::to_json) writes it. Said again after a reconnect; the last
    /// one counts. The bus publishes it as `type=operator.commands`, shows it in `status`, and keeps it while the operator is
    /// away.
    ///
    /// # Errors
    /// [`ErrorKind::TooLarge`] above 16 KiB; [`ErrorKind::Closed`].
    pub fn commands(&self, json: impl Into<String>) -> Result<(), Error> {
        let json = json.into();
        if json.len() > COMMANDS_BYTES_MAX {
            return Err(shared::too_large(json.len() as u64, COMMANDS_BYTES_MAX as u64));
        }
        let mut shared = self.shared.lock();
        shared.accepting()?;
        shared.commands = Some((json, true));
        drop(shared);
        self.shared.wake.notify_one();
        Ok(())
    }

    /// Answers a [`Notice::Reload`].
    ///
    /// # Errors
    /// [`ErrorKind::Invalid`] for a number that no open reload has: it was answered before, or the connection that asked
    /// is gone.
    pub fn verdict(&self, number: u32, verdict: Verdict) -> Result<(), Error> {
        let mut state = self.shared.lock();
        state.accepting()?;
        if !state.reloads.remove(&number) {
            let text = format!("no reload {number} waits for a verdict: it has one, or the connection was lost since");
            return Err(Error::new(ErrorKind::Invalid, text));
        }
        self.shared.push(&mut state, &Frame::new(number, Content::Verdict(verdict)))
    }

    /// What the bus tells outside of subscriptions. The first receiver also gets what came since the client connected,
    /// beginning with [`Notice::Connected`].
    pub fn notices(&self) -> NoticeReceiver {
        self.shared.lock().notices.receiver()
    }

    /// Gives the connection up and makes a new one, as if it had been lost: for when the bus does not answer a
    /// [`ping`](Client::ping). A stopped process keeps its sockets open, so nothing else tells.
    ///
    /// Does nothing while there is no connection.
    pub fn reconnect(&self, why: impl Into<String>) {
        self.shared.give_up(Error::new(ErrorKind::Disconnected, why));
    }

    /// Ends the client: everything accepted is written, the bus is told goodbye, and the connection closed. Whoever still
    /// waits for credit gets [`ErrorKind::Closed`]. Answers to what is in flight are awaited for up to 2 s; a bus that
    /// does not read is given 5 s.
    ///
    /// # Errors
    /// [`ErrorKind::Disconnected`] when not everything accepted could be written; or why the client had ended before.
    pub async fn close(&self) -> Result<(), Error> {
        self.shared.close();
        if timeout(CLOSE, self.ended()).await.is_err() {
            let text = format!("the bus read nothing for {CLOSE:?}");
            self.shared.give_up(Error::new(ErrorKind::Disconnected, text));
            self.ended().await;
        }
        let ended = self.shared.done.borrow().clone();
        ended.unwrap_or(Ok(()))
    }

    async fn ended(&self) {
        // What it yields borrows from the channel, and would keep this future from being sent to another thread.
        let _ = self.shared.done.subscribe().wait_for(Option::is_some).await.map(drop);
    }
}

impl Clone for Client {
    fn clone(&self) -> Self {
        self.shared.add_handle();
        Self { shared: Arc::clone(&self.shared) }
    }
}

impl Drop for Client {
    fn drop(&mut self) {
        self.shared.drop_handle();
    }
}

impl fmt::Debug for Client {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let welcome = self.welcome();
        f.debug_struct("Client")
            .field("identity", &welcome.identity)
            .field("session", &welcome.session)
            .field("connected", &self.is_connected())
            .finish()
    }
}

impl fmt::Debug for Shared {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Shared").finish_non_exhaustive()
    }
}

fn frame(message: Outgoing, flags: u8) -> Frame {
    let Outgoing { document, cause, hops, epoch, sequence } = message;
    let document = (&document).into();
    Frame { flags, number: 0, content: Content::Publish(Publish { cause, hops, epoch, sequence, document }) }
}

#[cfg(test)]
mod tests;
