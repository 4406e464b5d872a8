//! The life of the connection to the network: connect, talk, lose it, wait, connect again. It is one thing to poll,
//! owned by the main loop, so that the watchdog's beat passes through all of it; nothing in here blocks, and every wait
//! has an end.

#[cfg(test)]
mod tests;

use std::collections::VecDeque;
use std::pin::Pin;
use std::rc::Rc;
use std::time::Duration;

use irc_proto::Message;
use libeevee::Document;
use libeevee::operator::COMMAND_AGE_MAX;
use tokio::time::{Instant, sleep_until};

use crate::backoff::Backoff;
use crate::connection::{ConnectError, Connection, said};
use crate::flood::{Bucket, Next, Queue};
use crate::ledger::Ledger;
use crate::mapping::{Outgoing, Unsayable};
use crate::plan::Plan;
use crate::session::{Effect, Reach, Session, confirmation};

/// How long a message waits to be said. What is older answers nobody any more; commands have the same limit.
pub(crate) const HOLD_MAX: Duration = COMMAND_AGE_MAX;
/// With so many lines waiting no more is taken from the bus. At one line a second they take five minutes.
const QUEUE_LINES_MAX: usize = 300;
/// The most lines of one message. What is longer is no chat.
const MESSAGE_LINES_MAX: usize = 300;

/// What the main loop has to do.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Happening {
    /// Publish this on the bus.
    Publish(Document),
    /// Say this in STATUS.
    Status(String),
    /// The server has all lines of this message.
    Said(u64),
    /// This message will not be said any more.
    NotSaid(u64, NotSaid),
    /// The goodbye is said, and the connection closed.
    Left,
}

/// Why something is not said.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(crate) enum NotSaid {
    #[error(transparent)]
    Unsayable(#[from] Unsayable),
    #[error("{target}: {why}")]
    Unreachable { target: String, why: String },
    #[error("{target}: it has {lines} lines, at most {MESSAGE_LINES_MAX} are said at once: publish it in parts")]
    TooLong { target: String, lines: usize },
    #[error("{target}: {said} of {lines} lines were said before it was too late for it, after {} s", HOLD_MAX.as_secs())]
    TooLate { target: String, said: usize, lines: usize },
}

type Connecting = Pin<Box<dyn Future<Output = Result<Connection, ConnectError>>>>;

enum Stage {
    /// Not before the network's name is ours.
    Idle,
    Connecting(Connecting),
    Up(Box<Up>),
    Waiting(Instant),
    Left,
}

/// What comes after a goodbye.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum After {
    /// Nothing: the program ends.
    Stop,
    /// No connection before [`Net::start`].
    Rest,
    /// That came before the goodbye was over.
    Start,
}

struct Up {
    connection: Connection,
    session: Session,
    /// After QUIT: when we stop waiting for the server to close.
    leave_at: Option<Instant>,
}

pub(crate) struct Net {
    plan: Plan,
    stage: Stage,
    backoff: Backoff,
    bucket: Bucket,
    queue: Queue,
    ledger: Ledger,
    happenings: VecDeque<Happening>,
    after: After,
    /// Whether nothing more is said.
    hushed: bool,
    /// Lines of chat that were not said, since the start.
    dropped: u64,
}

impl Net {
    /// A connection that is not made yet; see [`Net::start`].
    pub(crate) fn new(plan: Plan) -> Self {
        let bucket = Bucket::new(plan.flood.burst, plan.flood.per_second, Instant::now());
        Self {
            plan,
            stage: Stage::Idle,
            backoff: Backoff::default(),
            bucket,
            queue: Queue::default(),
            ledger: Ledger::default(),
            happenings: VecDeque::new(),
            after: After::Stop,
            hushed: false,
            dropped: 0,
        }
    }

    /// Connects now, or when the goodbye after [`Net::leave`] is over.
    pub(crate) fn start(&mut self) {
        match &self.stage {
            Stage::Idle | Stage::Waiting(_) => self.connect(),
            Stage::Up(up) if up.leave_at.is_some() && self.after == After::Rest => self.after = After::Start,
            Stage::Connecting(_) | Stage::Up(_) | Stage::Left => {}
        }
    }

    /// Whether something waits that could be said now, or that the server has not confirmed.
    pub(crate) fn has_work(&self) -> bool {
        let in_doubt = matches!(self.stage, Stage::Up(_)) && self.ledger.is_in_doubt();
        in_doubt || !self.hushed && self.queue.has_work(reachable(&self.stage))
    }

    /// Says nothing more, and asks the server at once whether it has what was said: before a goodbye that does not wait
    /// for all the rest.
    pub(crate) fn hush(&mut self) {
        self.hushed = true;
    }

    /// Messages that are not wholly said.
    pub(crate) fn messages(&self) -> usize {
        self.ledger.messages()
    }

    /// Whether so much waits here that the rest is better kept in the bus.
    pub(crate) fn is_full(&self) -> bool {
        self.queue.chat_lines() >= QUEUE_LINES_MAX
    }

    /// What happens next; it never ends by itself. It may be dropped and called again at any point.
    pub(crate) async fn next(&mut self) -> Happening {
        loop {
            if let Some(happening) = self.happenings.pop_front() {
                return happening;
            }
            self.step().await;
        }
    }

    async fn step(&mut self) {
        let now = Instant::now();
        if let Some((message, late)) = self.ledger.expire(now, reachable(&self.stage)) {
            self.queue.remove(message);
            self.dropped += (late.lines - late.said) as u64;
            let why = NotSaid::TooLate { target: late.target.to_string(), said: late.said, lines: late.lines };
            return self.happenings.push_back(Happening::NotSaid(message, why));
        }
        let expires = self.ledger.expires_at(reachable(&self.stage));
        match &mut self.stage {
            Stage::Idle | Stage::Left => until(expires).await,
            Stage::Waiting(end) => {
                let end = *end;
                until(Some(expires.map_or(end, |expires| expires.min(end)))).await;
                if Instant::now() >= end {
                    self.connect();
                }
            }
            Stage::Connecting(connecting) => tokio::select! {
                result = connecting => match result {
                    Ok(connection) => self.connected(connection),
                    Err(error) => self.lost(&error.to_string(), Duration::ZERO),
                },
                () = until(expires) => {}
            },
            Stage::Up(up) => {
                let wants = match self.hushed {
                    true => up.asks_last_at(&self.ledger),
                    false => up.writes_at(&self.queue, &self.ledger, now).map(|at| at.max(self.bucket.ready_at())),
                };
                let overdue = self.ledger.overdue_at();
                let due = [up.session.deadline(), up.leave_at, wants, overdue, expires].into_iter().flatten().min();
                tokio::select! {
                    line = up.connection.line() => match line {
                        Ok(Some(line)) => self.on_line(&line),
                        Ok(None) => self.lost("the server closed the connection", Duration::ZERO),
                        Err(error) => self.lost(&said(&error), Duration::ZERO),
                    },
                    () = until(due) => self.on_time(),
                }
            }
        }
    }

    fn connect(&mut self) {
        let (server, tls) = (self.plan.server.clone(), self.plan.tls.clone());
        self.happenings.push_back(Happening::Status(format!("connecting to {server}")));
        self.stage = Stage::Connecting(Box::pin(Connection::open(server, tls)));
    }

    fn connected(&mut self, connection: Connection) {
        let now = Instant::now();
        let session = Session::new(self.plan.config.clone(), now);
        self.bucket = Bucket::new(self.plan.flood.burst, self.plan.flood.per_second, now);
        self.queue.forget_own();
        let doubtful = self.ledger.lost();
        if !doubtful.is_empty() {
            let lines = doubtful.len();
            tracing::warn!(lines, "{lines} lines may not have arrived when the connection was lost: said again");
            self.queue.put_back(doubtful);
        }
        self.stage = Stage::Up(Box::new(Up { connection, session, leave_at: None }));
        self.carry_out();
    }

    fn on_line(&mut self, line: &str) {
        let Stage::Up(up) = &mut self.stage else { return };
        match line.parse::<Message>() {
            Ok(message) => up.session.on_line(&message, Instant::now()),
            // Some modes are beyond the parser; we need none of them. Its error would repeat the line.
            Err(_) => tracing::debug!("a line of the server that does not parse is left out"),
        }
        self.carry_out();
    }

    fn on_time(&mut self) {
        let now = Instant::now();
        let Stage::Up(up) = &mut self.stage else { return };
        if up.leave_at.is_some_and(|at| now >= at) {
            return self.left();
        }
        up.session.on_time(now);
        let done = self.ledger.overdue(up.session.heard_at(), now);
        self.said(done);
        match self.write(now) {
            Err(error) => self.lost(&said(&error), Duration::ZERO),
            Ok(()) => self.carry_out(),
        }
    }

    /// Writes what the flood control allows.
    fn write(&mut self, now: Instant) -> std::io::Result<()> {
        let Stage::Up(up) = &mut self.stage else { return Ok(()) };
        if self.hushed {
            if up.asks_last_at(&self.ledger).is_some() {
                up.connection.send(&confirmation(self.ledger.ask(now)))?;
            }
            return Ok(());
        }
        while up.writes_at(&self.queue, &self.ledger, now).is_some_and(|at| at <= now) && self.bucket.take(now) {
            if up.asks_at(&self.queue, &self.ledger).is_some_and(|at| at <= now) {
                up.connection.send(&confirmation(self.ledger.ask(now)))?;
                continue;
            }
            match self.queue.pop(|target| up.session.reach(target) == Reach::Now) {
                Some(Next::Own(line)) => up.connection.send(&line)?,
                Some(Next::Chat(chat)) => {
                    let sent = up.connection.send(&chat.line);
                    self.ledger.wrote(chat, now);
                    sent?;
                }
                None => break,
            }
        }
        Ok(())
    }

    fn said(&mut self, done: Vec<u64>) {
        self.happenings.extend(done.into_iter().map(Happening::Said));
    }

    /// Does what the session wants.
    fn carry_out(&mut self) {
        let Stage::Up(up) = &mut self.stage else { return };
        let mut end = None;
        for effect in up.session.effects() {
            match effect {
                Effect::Confirmed(token) => {
                    let done = self.ledger.answered(token);
                    self.happenings.extend(done.into_iter().map(Happening::Said));
                }
                Effect::Echo(line) => {
                    let done = self.ledger.echoed(&line);
                    self.happenings.extend(done.into_iter().map(Happening::Said));
                }
                Effect::Send(line) => {
                    tracing::debug!(?line, "sending");
                    if let Err(error) = up.connection.send(&line) {
                        end = Some((said(&error), Duration::ZERO));
                        break;
                    }
                }
                Effect::Pace(line) => self.queue.push_own(line),
                Effect::Publish(document) => self.happenings.push_back(Happening::Publish(document)),
                Effect::Status => {
                    // Only the newest is of interest.
                    self.happenings.retain(|happening| !matches!(happening, Happening::Status(_)));
                    self.happenings.push_back(Happening::Status(up.session.status()));
                }
                Effect::Close { why, least } => {
                    end = Some((why, least));
                    break;
                }
            }
        }
        if let Some((why, least)) = end {
            self.lost(&why, least);
        }
    }

    /// The connection is gone, or there was none; the next attempt comes after a while.
    fn lost(&mut self, why: &str, least: Duration) {
        let now = Instant::now();
        if let Stage::Up(up) = &self.stage {
            if up.leave_at.is_some() {
                return self.left();
            }
            if up.session.has_proved_good(now) {
                self.backoff.reset();
            }
        }
        let wait = self.backoff.next(least, fastrand::f64());
        let server = &self.plan.server;
        let text = format!("retrying {server} in {} s: {why}", wait.as_secs_f64().round());
        tracing::warn!("{text}");
        self.happenings.push_back(Happening::Status(text));
        self.stage = Stage::Waiting(now + wait);
    }

    fn left(&mut self) {
        match self.after {
            After::Stop => {
                self.stage = Stage::Left;
                self.happenings.push_back(Happening::Left);
            }
            After::Rest => self.stage = Stage::Idle,
            After::Start => self.connect(),
        }
    }

    /// Lines of chat that were not said, since the start.
    pub(crate) fn dropped(&self) -> u64 {
        self.dropped
    }

    /// Queues what a message wants said, which `waited` in the bus before. What is for a channel that is being joined, or
    /// for a network that is away, waits; [`Happening::Said`] or [`Happening::NotSaid`] tells what came of it.
    pub(crate) fn say(&mut self, message: u64, document: &Document, waited: Duration) -> Result<(), NotSaid> {
        let outgoing = Outgoing::of(document).inspect_err(|_| self.dropped += 1)?;
        let target: Rc<str> = outgoing.target.as_str().into();
        let (reach, mask_bytes) = match &self.stage {
            Stage::Up(up) => (up.session.reach(&target), up.session.mask_bytes()),
            _ => {
                let session = Session::new(self.plan.config.clone(), Instant::now());
                (session.reach(&target), session.mask_bytes())
            }
        };
        let lines = outgoing.lines(mask_bytes);
        let count = lines.len();
        let why_not = match reach {
            Reach::Never(why) => Some(NotSaid::Unreachable { target: outgoing.target, why }),
            _ if count > MESSAGE_LINES_MAX => Some(NotSaid::TooLong { target: outgoing.target, lines: count }),
            _ => None,
        };
        if let Some(why_not) = why_not {
            self.dropped += count as u64;
            return Err(why_not);
        }
        self.ledger.begin(message, &target, count, Instant::now() + HOLD_MAX.saturating_sub(waited));
        self.queue.push_chat(message, &target, lines);
        Ok(())
    }

    /// Takes another plan. True when the connection is made anew for it.
    pub(crate) fn change(&mut self, plan: Plan) -> bool {
        let now = Instant::now();
        let anew = plan.needs_new_connection(&self.plan);
        self.bucket.change(plan.flood.burst, plan.flood.per_second, now);
        self.plan = plan;
        match &mut self.stage {
            Stage::Idle | Stage::Left => {}
            Stage::Connecting(_) if !anew => {}
            // What was wrong may be right now: try at once.
            Stage::Waiting(_) | Stage::Connecting(_) => {
                self.backoff.reset();
                self.connect();
            }
            // It is leaving; a connection that comes after takes the new plan.
            Stage::Up(up) if up.leave_at.is_some() => {}
            Stage::Up(up) if anew => {
                up.session.quit("changing servers");
                for effect in up.session.effects() {
                    if let Effect::Send(line) = effect {
                        let _ = up.connection.send(&line);
                    }
                }
                self.backoff.reset();
                self.queue.forget_own();
                self.connect_after_goodbye();
            }
            Stage::Up(up) => {
                up.session.change(self.plan.config.clone(), now);
                self.carry_out();
            }
        }
        anew
    }

    /// Lets the old connection write its QUIT while the new one is made.
    fn connect_after_goodbye(&mut self) {
        let (server, tls) = (self.plan.server.clone(), self.plan.tls.clone());
        self.happenings.push_back(Happening::Status(format!("connecting to {server}")));
        let old = std::mem::replace(&mut self.stage, Stage::Idle);
        self.stage = Stage::Connecting(Box::pin(async move {
            if let Stage::Up(mut up) = old {
                let goodbye = async { while let Ok(Some(_)) = up.connection.line().await {} };
                let _ = tokio::time::timeout(Duration::from_secs(2), goodbye).await;
            }
            Connection::open(server, tls).await
        }));
    }

    /// Forgets what waits to be said, and what the server has not confirmed: which messages that were, and how many of
    /// their lines.
    pub(crate) fn forget_chat(&mut self) -> (Vec<u64>, usize) {
        self.queue.forget_chat();
        self.ledger.forget()
    }

    /// Says goodbye. [`Happening::Left`] comes when the server has closed, at the latest after `patience`.
    pub(crate) fn quit(&mut self, text: &str, patience: Duration) {
        self.after = After::Stop;
        match &self.stage {
            Stage::Up(_) => self.goodbye(text, patience),
            _ => self.left(),
        }
    }

    /// Says goodbye, and connects no more before [`Net::start`]. What is not said is forgotten: which messages that were.
    pub(crate) fn leave(&mut self, text: &str, patience: Duration) -> Vec<u64> {
        self.after = After::Rest;
        match &self.stage {
            Stage::Up(_) => self.goodbye(text, patience),
            Stage::Waiting(_) | Stage::Connecting(_) => self.stage = Stage::Idle,
            Stage::Idle | Stage::Left => {}
        }
        self.backoff.reset();
        // Whoever leaves says by itself why.
        self.happenings.retain(|happening| !matches!(happening, Happening::Status(_)));
        let (messages, lines) = self.forget_chat();
        self.dropped += lines as u64;
        messages
    }

    fn goodbye(&mut self, text: &str, patience: Duration) {
        let Stage::Up(up) = &mut self.stage else { return };
        if up.leave_at.is_none() {
            up.session.quit(text);
            up.leave_at = Some(Instant::now() + patience);
            self.carry_out();
        }
    }
}

impl Up {
    /// When the server is to be asked what it has.
    fn asks_at(&self, queue: &Queue, ledger: &Ledger) -> Option<Instant> {
        ledger.asks_at(!queue.has_work(|target| self.session.reach(target) == Reach::Now), self.session.echoes())
    }

    /// When the server is to be asked before a goodbye: one line more than the flood control allows, as the goodbye is.
    fn asks_last_at(&self, ledger: &Ledger) -> Option<Instant> {
        if self.leave_at.is_some() { None } else { ledger.asks_at(true, false) }
    }

    /// From when on there is something to write, as far as the flood control allows. Nothing after a goodbye.
    fn writes_at(&self, queue: &Queue, ledger: &Ledger, now: Instant) -> Option<Instant> {
        if self.leave_at.is_some() {
            return None;
        }
        let has_work = queue.has_work(|target| self.session.reach(target) == Reach::Now);
        if has_work { Some(now) } else { self.asks_at(queue, ledger) }
    }
}

/// Whether something can be said to a target now.
fn reachable(stage: &Stage) -> impl Fn(&str) -> bool {
    let session = match stage {
        Stage::Up(up) => Some(&up.session),
        _ => None,
    };
    move |target| session.is_some_and(|session| session.reach(target) == Reach::Now)
}

/// Sleeps until then, or for ever.
pub(crate) async fn until(time: Option<Instant>) {
    match time {
        Some(time) => sleep_until(time).await,
        None => std::future::pending().await,
    }
}
