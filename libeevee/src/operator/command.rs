//! Operators that answer commands: a list of handlers, and a loop that runs them.

use std::fmt;
use std::ops::Deref;
use std::panic::AssertUnwindSafe;
use std::pin::Pin;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use futures_util::FutureExt;
use tokio::task::JoinSet;

use super::run::{About, run_about};
use super::{Event, Failure, Operator, OperatorSubscribe};
use crate::chat::{self, key, kind};
use crate::client::{FilterTexts, Outgoing};
use crate::error::Error;
use crate::exit::Exit;
use crate::filter::Filter;
use crate::message::{Document, Message};
use crate::settings::{NoSettings, Settings};
use crate::wire::limits::SUBSCRIPTION_FILTERS_MAX;

/// Nobody executes an order that is older: whoever gave it has stopped waiting.
pub const COMMAND_AGE_MAX: Duration = Duration::from_secs(300);

/// Handlers that run at the same time, unless [`Commands::concurrency`] says otherwise.
const CONCURRENCY: usize = 16;

/// The route of commands; the others are those of [`Commands::on`], from 1.
const COMMANDS: usize = 0;

type Handler<S> = Rc<dyn Fn(Command<S>) -> Pin<Box<dyn Future<Output = Result<(), Error>>>>>;

/// The commands of an operator, and what else it reacts to; filled in by the function given to [`run`] or [`run_with`].
///
/// Handlers run side by side, at most 16 of them, in one thread. One that fails or panics is logged; the others go on.
pub struct Commands<S: Settings> {
    commands: Vec<(String, Handler<S>)>,
    others: Vec<(FilterTexts, Handler<S>)>,
    concurrency: usize,
    about: About,
}

impl<S: Settings> Commands<S> {
    pub(super) fn new() -> Self {
        Self { commands: Vec::new(), others: Vec::new(), concurrency: CONCURRENCY, about: About::default() }
    }

    /// Answers a command: what people say as `!name ...`, on every network. The name is in lower case, without prefix.
    ///
    /// Orders that waited for more than 5 minutes, because the operator was halted or slow, are dropped.
    pub fn command(
        mut self,
        name: impl Into<String>,
        handler: impl AsyncFn(Command<S>) -> Result<(), Error> + 'static,
    ) -> Self {
        self.commands.push((name.into(), boxed(handler)));
        self
    }

    /// Reacts to messages that match a filter, or any of several.
    pub fn on(
        mut self,
        filters: impl Into<FilterTexts>,
        handler: impl AsyncFn(Command<S>) -> Result<(), Error> + 'static,
    ) -> Self {
        self.others.push((filters.into(), boxed(handler)));
        self
    }

    /// Describes a command for `--help`: `about("dice", "2d6+1", "rolls dice")`.
    pub fn about(mut self, name: &str, usage: &str, text: &str) -> Self {
        if self.about.text.is_empty() {
            self.about.text.push_str("\nCommands:\n");
        }
        let usage = format!("{name} {usage}");
        self.about.text.push_str(&format!("  {:<28} {text}\n", usage.trim_end()));
        self
    }

    /// The version that `--version` prints: `env!("CARGO_PKG_VERSION")`.
    pub fn version(mut self, version: &str) -> Self {
        self.about.version = Some(version.to_owned());
        self
    }

    /// How many handlers may run at the same time, at least 1. What comes meanwhile waits in the bus.
    pub fn concurrency(mut self, handlers: usize) -> Self {
        self.concurrency = handlers.max(1);
        self
    }
}

impl<S: Settings> fmt::Debug for Commands<S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let names: Vec<&str> = self.commands.iter().map(|(name, _)| name.as_str()).collect();
        f.debug_struct("Commands").field("commands", &names).finish_non_exhaustive()
    }
}

fn boxed<S: Settings>(handler: impl AsyncFn(Command<S>) -> Result<(), Error> + 'static) -> Handler<S> {
    let handler = Rc::new(handler);
    Rc::new(move |command| {
        let handler = Rc::clone(&handler);
        Box::pin(async move { handler(command).await })
    })
}

/// Runs an operator that answers commands and has no settings.
///
/// ```no_run
/// fn main() -> libeevee::Exit { libeevee::operator::run(|op| op.command("hello", async |m| m.reply("hello").await)) }
/// ```
///
/// It is ready once its subscriptions are in force, finishes what it has in hand when it is halted or stopped, and takes
/// new settings by itself. The program answers `--check FILE`, `--schema`, `--version` and `--help`.
pub fn run(setup: impl FnOnce(Commands<NoSettings>) -> Commands<NoSettings>) -> Exit {
    run_with(setup)
}

/// As [`run`], with settings: a handler gets those in force when its message came, by [`Command::settings`].
pub fn run_with<S: Settings>(setup: impl FnOnce(Commands<S>) -> Commands<S>) -> Exit {
    let mut commands = setup(Commands::new());
    let about = std::mem::take(&mut commands.about);
    run_about(&about, async move |op: Operator<S>| serve_commands(&op, commands).await)
}

pub(super) async fn serve_commands<S: Settings>(op: &Operator<S>, commands: Commands<S>) -> Result<(), Failure> {
    let Commands { commands, others, concurrency, about: _ } = commands;
    let handlers: Vec<&Handler<S>> = others.iter().map(|(_, handler)| handler).collect();
    for filters in command_filters(&commands)?.chunks(SUBSCRIPTION_FILTERS_MAX) {
        subscribe(op, filters, COMMANDS).max_age(COMMAND_AGE_MAX).await?;
    }
    for (at, (filters, _)) in others.iter().enumerate() {
        subscribe(op, filters.clone(), at + 1).await?;
    }
    let names: Vec<&str> = commands.iter().map(|(name, _)| name.as_str()).collect();
    op.ready(&if names.is_empty() { "ready".to_owned() } else { format!("commands: {}", names.join(", ")) }).await;

    let mut running = JoinSet::new();
    loop {
        let room = running.len() < concurrency;
        let (route, event) = tokio::select! {
            next = std::future::poll_fn(|cx| op.inner.poll(cx, room)) => next,
            Some(_) = running.join_next(), if !running.is_empty() => continue,
        };
        match event {
            Event::Message(message) => {
                let handler = match route.checked_sub(1) {
                    Some(other) => handlers.get(other).copied(),
                    None => {
                        let name = message.header(key::COMMAND).unwrap_or_default();
                        commands.iter().find(|(known, _)| known == name).map(|(_, handler)| handler)
                    }
                };
                // The bus delivers nothing that the filters do not name.
                if let Some(handler) = handler {
                    running.spawn_local(handle(op.clone(), Rc::clone(handler), message));
                }
            }
            Event::Gap(gap) => {
                let count = gap.count.map_or("an unknown number of".to_owned(), |count| count.to_string());
                tracing::warn!(gap.first, gap.last, "{count} messages were lost: {}", gap.reason);
            }
            Event::Reload(reload) => reload.accept(),
            Event::Stop => break,
            _ => {}
        }
    }
    // The runtime ends the wait when the time to stop is over.
    while running.join_next().await.is_some() {}
    Ok(())
}

fn subscribe<S: Settings>(op: &Operator<S>, filters: impl Into<FilterTexts>, route: usize) -> OperatorSubscribe<S> {
    OperatorSubscribe::new(&op.inner, op.inner.client.subscribe(filters), route)
}

fn command_filters<S: Settings>(commands: &[(String, Handler<S>)]) -> Result<Vec<Filter>, Failure> {
    let mut filters = Vec::with_capacity(commands.len());
    for (at, (name, _)) in commands.iter().enumerate() {
        if name.is_empty() || name.contains(char::is_whitespace) || name.to_lowercase() != *name {
            return Err(Failure::other(format_args!("{name:?} is no command: it is one word in lower case")));
        }
        if commands[..at].iter().any(|(earlier, _)| earlier == name) {
            return Err(Failure::other(format_args!("command {name:?} has two handlers")));
        }
        let filter =
            Filter::builder().eq(key::TYPE, kind::MESSAGE).eq(key::DIRECTION, chat::IN).eq(key::COMMAND, name.as_str());
        filters.push(filter.build().map_err(Error::from)?);
    }
    Ok(filters)
}

/// One message through its handler. A panic is this message's misfortune alone.
async fn handle<S: Settings>(op: Operator<S>, handler: Handler<S>, message: Message) {
    let _in_hand = op.in_hand();
    let (id, settings) = (message.id, op.settings());
    let name = message.header(key::COMMAND).unwrap_or_default().to_owned();
    let command = Command { message, settings, op };
    let handled = AssertUnwindSafe(async move { handler(command).await }).catch_unwind().await;
    match handled {
        Ok(Ok(())) => {}
        Ok(Err(error)) => tracing::warn!(eevee.message = id, command = name, "message {id} was not answered: {error}"),
        // The hook for panics has logged what and where.
        Err(_) => tracing::error!(eevee.message = id, command = name, "the handler of message {id} panicked"),
    }
}

/// A message that a handler shall act on. It is a [`Message`], too.
pub struct Command<S: Settings> {
    message: Message,
    settings: Arc<S>,
    op: Operator<S>,
}

impl<S: Settings> Command<S> {
    /// What was said after the command, without white space around it.
    pub fn args(&self) -> &str {
        chat::arguments(&self.message)
    }

    /// Who said it: nick or display name, as the network shows it. Nobody vouches for it; see the header `account`.
    pub fn user(&self) -> &str {
        self.message.header(key::USER).unwrap_or_default()
    }

    /// The message itself.
    pub fn message(&self) -> &Message {
        &self.message
    }

    /// The settings in force when the message came.
    pub fn settings(&self) -> Arc<S> {
        Arc::clone(&self.settings)
    }

    /// The operator, for its store, its scratch directory and its connection.
    pub fn operator(&self) -> &Operator<S> {
        &self.op
    }

    /// Answers where it was said: on the same network, in the same channel. Nothing is added to the text. The answer to a
    /// request goes to whoever asked.
    ///
    /// # Errors
    /// As [`Client::publish`](crate::Client::publish); for a message that is neither from a chat nor a request.
    pub async fn reply(&self, text: impl AsRef<str>) -> Result<(), Error> {
        if self.message.reply_address.is_some() {
            let document = Document { body: text.as_ref().to_owned().into(), ..Document::default() };
            return self.op.client().reply_to(&self.message, document).await;
        }
        let document = chat::reply(&self.message, text.as_ref()).map_err(|error| Error::other(error.to_string()))?;
        self.publish(document).await
    }

    /// Publishes any document as an answer to this message: with it as the cause, so that loops end.
    ///
    /// # Errors
    /// As [`Client::publish`](crate::Client::publish).
    pub async fn publish(&self, document: Document) -> Result<(), Error> {
        self.op.publish(Outgoing::from(document).answering(&self.message)).await
    }
}

impl<S: Settings> Deref for Command<S> {
    type Target = Message;

    fn deref(&self) -> &Message {
        &self.message
    }
}

impl<S: Settings> fmt::Debug for Command<S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Command").field("message", &self.message.id).finish_non_exhaustive()
    }
}
