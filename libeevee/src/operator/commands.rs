//! Operators that answer commands: a list of handlers, and a loop that runs them.

use std::any::Any;
use std::fmt;
use std::panic::AssertUnwindSafe;
use std::pin::Pin;
use std::rc::Rc;
use std::time::Duration;

use futures_util::FutureExt;
use tokio::task::JoinSet;

use super::command::Answers;
use super::run::{About, run_about};
use super::{Command, CommandInfo, Event, Failure, Operator, OperatorSubscribe};
use crate::chat::{self, key, kind};
use crate::client::{FilterTexts, Nack, Settlement};
use crate::error::{Error, ErrorKind};
use crate::exit::Exit;
use crate::filter::Filter;
use crate::log::handling::{Handling, during};
use crate::message::Message;
use crate::settings::{NoSettings, Settings};
use crate::wire::Code;
use crate::wire::limits::SUBSCRIPTION_FILTERS_MAX;

/// Nobody executes an order that is older: whoever gave it has stopped waiting. It becomes a dead letter.
pub const COMMAND_AGE_MAX: Duration = Duration::from_secs(300);

/// Handlers that run at the same time, unless [`Commands::concurrency`] says otherwise.
const CONCURRENCY: usize = 16;

/// The durable subscription of the commands. The bus keeps what waits for an operator under this name, so it never changes.
const DURABLE: &str = "commands";

/// The window in bytes of documents; that in messages is how many handlers may run.
const WINDOW_BYTES: u64 = 1 << 20;

/// The route of commands; the others are those of [`Commands::on`], from 1.
const COMMANDS: usize = 0;

type Handler<S> = Rc<dyn Fn(Command<S>) -> Pin<Box<dyn Future<Output = Result<(), Error>>>>>;

/// The commands of an operator, and what else it reacts to; filled in by the function given to [`run`] or [`run_with`].
///
/// Handlers run side by side, at most 16 of them, in one thread. One that fails or panics is logged; the others go on.
///
/// Commands come from a durable subscription: they wait while the operator is stopped, halted, crashed or restarting, for up
/// to 5 minutes ([`COMMAND_AGE_MAX`]). One is acknowledged when its handler returned `Ok`. When it returned an error or
/// panicked, the command comes again, after 1 s that doubles each time up to 30 s, unless another attempt cannot do
/// better (the answer is too large, or `may-publish` forbids it): then it becomes a dead letter at once, with the error's text.
/// A handler that has answered and then dies is run a second time; [`Message::delivery`] says so, and what it answers then by
/// [`Command::reply`] or [`Command::publish`] is dropped, as the first answer stands.
pub struct Commands<S: Settings> {
    commands: Vec<(CommandInfo, Handler<S>)>,
    others: Vec<Other<S>>,
    concurrency: usize,
    live: bool,
    about: About,
}

/// What else it reacts to.
struct Other<S: Settings> {
    filters: FilterTexts,
    durable: Option<String>,
    handler: Handler<S>,
}

impl<S: Settings> Commands<S> {
    pub(super) fn new() -> Self {
        Self {
            commands: Vec::new(),
            others: Vec::new(),
            concurrency: CONCURRENCY,
            live: false,
            about: About::default(),
        }
    }

    /// Answers a command: what people say as `!name ...`, on every network. The name is in lower case, without prefix.
    ///
    /// One that waited for more than 5 minutes, because the operator was away, halted or slow, is not executed: it becomes a
    /// dead letter, and the log says so.
    pub fn command(
        mut self,
        name: impl Into<String>,
        handler: impl AsyncFn(Command<S>) -> Result<(), Error> + 'static,
    ) -> Self {
        self.commands.push((CommandInfo::new(name), boxed(handler)));
        self
    }

    /// Reacts to messages that match a filter, or any of several, while it is there: each at most once.
    pub fn on(
        mut self,
        filters: impl Into<FilterTexts>,
        handler: impl AsyncFn(Command<S>) -> Result<(), Error> + 'static,
    ) -> Self {
        self.others.push(Other { filters: filters.into(), durable: None, handler: boxed(handler) });
        self
    }

    /// The same from a durable subscription of this name, for what must not be missed: it waits while the operator is away,
    /// for up to 7 days unless configured, and is acknowledged as a command is. Choose the name once, as what waits
    /// under another one stays there; `commands` and `commands-2` and so on are those of the commands.
    ///
    /// ```no_run
    /// fn main() -> libeevee::Exit {
    ///     libeevee::operator::run(|op| {
    ///         op.on_durable("mail", "type=mail", async |mail| {
    ///             println!("{}: {:?}, attempt {}", mail.user(), mail.text(), mail.delivery.attempt);
    ///             Ok(())
    ///         })
    ///     })
    /// }
    /// ```
    pub fn on_durable(
        mut self,
        name: impl Into<String>,
        filters: impl Into<FilterTexts>,
        handler: impl AsyncFn(Command<S>) -> Result<(), Error> + 'static,
    ) -> Self {
        self.others.push(Other { filters: filters.into(), durable: Some(name.into()), handler: boxed(handler) });
        self
    }

    /// Commands only while it is there: what is said while the operator is away is never answered, and each command is
    /// executed at most once. For answers that nobody wants a minute later.
    pub fn live(mut self) -> Self {
        self.live = true;
        self
    }

    /// How the command before it is written, without prefix. Without this, its name alone.
    pub fn usage(mut self, usage: impl Into<String>) -> Self {
        if let Some((info, _)) = self.commands.last_mut() {
            info.usage = usage.into();
        }
        self
    }

    /// What the command before it does, in one line. It is what `!help` and `--help` show.
    ///
    /// ```no_run
    /// fn main() -> libeevee::Exit {
    ///     libeevee::operator::run(|op| {
    ///         op.command("hello", async |m| m.reply("hello").await).usage("hello [NAME]").about("greets")
    ///     })
    /// }
    /// ```
    pub fn about(mut self, text: impl Into<String>) -> Self {
        if let Some((info, _)) = self.commands.last_mut() {
            info.about = text.into();
        }
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
        let names: Vec<&str> = self.commands.iter().map(|(info, _)| info.name.as_str()).collect();
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
    let mut about = std::mem::take(&mut commands.about);
    about.text = help(commands.commands.iter().map(|(info, _)| info));
    run_about(&about, async move |op: Operator<S>| serve_commands(&op, commands).await)
}

pub(super) async fn serve_commands<S: Settings>(op: &Operator<S>, commands: Commands<S>) -> Result<(), Failure> {
    let Commands { commands, others, concurrency, live, about: _ } = commands;
    // No more than what has a handler at once: what waits, waits in the bus.
    let window = concurrency as u64;
    for (at, filters) in command_filters(&commands)?.chunks(SUBSCRIPTION_FILTERS_MAX).enumerate() {
        let subscription = subscribe(op, filters, COMMANDS).max_age(COMMAND_AGE_MAX);
        if live {
            subscription.await?;
        } else {
            let name = if at == 0 { DURABLE.to_owned() } else { format!("{DURABLE}-{}", at + 1) };
            subscription.durable(name).window(window, WINDOW_BYTES).await?;
        }
    }
    for (at, other) in others.iter().enumerate() {
        let subscription = subscribe(op, other.filters.clone(), at + 1);
        match &other.durable {
            Some(name) => subscription.durable(name).window(window, WINDOW_BYTES).await?,
            None => subscription.await?,
        };
    }
    let names: Vec<&str> = commands.iter().map(|(info, _)| info.name.as_str()).collect();
    op.announce(&commands.iter().map(|(info, _)| info.clone()).collect::<Vec<_>>())?;
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
                    Some(other) => others.get(other).map(|other| (&other.handler, other.durable.as_deref())),
                    None => {
                        let name = message.header(key::COMMAND).unwrap_or_default();
                        // In whichever of their subscriptions a command stands: another version may have it in another.
                        commands
                            .iter()
                            .find(|(known, _)| known.name == name)
                            .map(|(_, handler)| (handler, Some(DURABLE)))
                    }
                };
                // The bus delivers nothing that the filters do not name.
                if let Some((handler, durable)) = handler {
                    let answers = Answers::to(&message, durable);
                    let handling = Handling::of(&message);
                    running.spawn_local(during(handling, handle(op.clone(), Rc::clone(handler), message, answers)));
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

/// What `--help` says of the commands.
fn help<'a>(commands: impl Iterator<Item = &'a CommandInfo>) -> String {
    let lines: String = commands.map(|CommandInfo { usage, about, .. }| format!("  {usage:<28} {about}\n")).collect();
    if lines.is_empty() { lines } else { format!("\nCommands:\n{lines}") }
}

fn command_filters<S: Settings>(commands: &[(CommandInfo, Handler<S>)]) -> Result<Vec<Filter>, Failure> {
    let mut filters = Vec::with_capacity(commands.len());
    for (at, (CommandInfo { name, .. }, _)) in commands.iter().enumerate() {
        if name.is_empty() || name.contains(char::is_whitespace) || name.to_lowercase() != *name {
            return Err(Failure::other(format_args!("{name:?} is no command: it is one word in lower case")));
        }
        if commands[..at].iter().any(|(earlier, _)| earlier.name == *name) {
            return Err(Failure::other(format_args!("command {name:?} has two handlers")));
        }
        let filter =
            Filter::builder().eq(key::TYPE, kind::MESSAGE).eq(key::DIRECTION, chat::IN).eq(key::COMMAND, name.as_str());
        filters.push(filter.build().map_err(Error::from)?);
    }
    Ok(filters)
}

/// One message through its handler. A panic is this message's misfortune alone.
async fn handle<S: Settings>(op: Operator<S>, handler: Handler<S>, message: Message, answers: Answers) {
    let _in_hand = op.in_hand();
    let (id, receipt, settings, client) = (message.id, message.receipt(), op.settings(), op.client().clone());
    let name = message.header(key::COMMAND).unwrap_or_default().to_owned();
    let command = Command { message, settings, op, answers };
    let handled = AssertUnwindSafe(async move { handler(command).await }).catch_unwind().await;
    let settlement = match handled {
        Ok(Ok(())) => Settlement::Ack,
        Ok(Err(error)) => {
            let (code, rule) = (error.code().map_or("", Code::as_str), error.rule().unwrap_or(""));
            tracing::warn!(eevee.message = id, command = name, code, rule, "message {id} was not answered: {error}");
            let text = error.to_string();
            Settlement::Nack(if is_final(&error) { Nack::dead(text) } else { Nack::again(text) })
        }
        Err(panic) => {
            // The hook for panics has logged what and where.
            tracing::error!(eevee.message = id, command = name, "the handler of message {id} panicked");
            Settlement::Nack(Nack::again(format!("panic: {}", panic_text(&*panic))))
        }
    };
    // A handler may have said itself what becomes of it.
    if let Err(error) = client.settle_once(receipt, settlement) {
        tracing::warn!(eevee.message = id, command = name, "message {id} will come again: {error}");
    }
}

/// Whether a handler that fails with this fails with it every time.
fn is_final(error: &Error) -> bool {
    match error.kind() {
        ErrorKind::Invalid | ErrorKind::TooLarge => true,
        ErrorKind::Refused(code) => {
            matches!(code, Code::Denied | Code::Loop | Code::BadHeader | Code::DuplicateHeader)
        }
        _ => false,
    }
}

fn panic_text(panic: &(dyn Any + Send)) -> &str {
    let text = panic.downcast_ref::<&str>().copied();
    text.or_else(|| panic.downcast_ref::<String>().map(String::as_str)).unwrap_or("of an unknown kind")
}
