//! The life of the connection to the network: connect, talk, lose it, wait, connect again. It is one thing to poll,
//! owned by the main loop, so that the watchdog's beat passes through all of it; nothing in here blocks, and every wait
//! has an end.

#[cfg(test)]
mod tests;

use std::collections::VecDeque;
use std::pin::Pin;
use std::time::Duration;

use irc_proto::Message;
use libeevee::Document;
use tokio::time::{Instant, sleep_until};

use crate::backoff::Backoff;
use crate::connection::{ConnectError, Connection, said};
use crate::flood::{Bucket, HOLD_MAX, QUEUE_LINES_MAX, Queue};
use crate::mapping::{Outgoing, Unsayable};
use crate::plan::Plan;
use crate::session::{Effect, Reach, Session};

/// What the main loop has to do.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Happening {
    /// Publish this on the bus.
    Publish(Document),
    /// Say this in STATUS.
    Status(String),
    /// No chat waits any more, or some of it was dropped.
    Queue,
    /// The goodbye is said, and the connection closed.
    Left,
}

/// Why something is not said.
#[derive(Debug, thiserror::Error)]
pub(crate) enum NotSaid {
    #[error(transparent)]
    Unsayable(#[from] Unsayable),
    #[error("{target}: {why}")]
    Unreachable { target: String, why: String },
    #[error(
        "{target}: {lost} of {lines} lines are dropped, {QUEUE_LINES_MAX} wait already (see flood in the settings)"
    )]
    QueueFull { target: String, lost: usize, lines: usize },
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
    happenings: VecDeque<Happening>,
    after: After,
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
            happenings: VecDeque::new(),
            after: After::Stop,
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

    /// Whether something waits that could be said now.
    pub(crate) fn has_work(&self) -> bool {
        self.queue.has_work(reachable(&self.stage))
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
        let expired = self.queue.expire(now, reachable(&self.stage));
        for (target, lines) in &expired {
            let seconds = HOLD_MAX.as_secs();
            self.dropped += *lines as u64;
            tracing::error!(target, lines, "not said, {lines} lines: {target} could not be reached for {seconds} s");
        }
        if !expired.is_empty() {
            return self.happenings.push_back(Happening::Queue);
        }
        let expires = self.queue.expires_at(reachable(&self.stage));
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
                let has_work = self.queue.has_work(|target| up.session.reach(target) == Reach::Now);
                let paced = has_work.then(|| self.bucket.ready_at());
                let due = [up.session.deadline(), up.leave_at, paced, expires].into_iter().flatten().min();
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
        let session = &up.session;
        let can = |target: &str| session.reach(target) == Reach::Now;
        let mut failed = None;
        let waited = self.queue.chat_lines() > 0;
        while self.queue.has_work(can) && self.bucket.take(now) {
            let Some(line) = self.queue.pop(can) else { break };
            if let Err(error) = up.connection.send(&line) {
                failed = Some(error);
                break;
            }
        }
        if waited && self.queue.chat_lines() == 0 {
            self.happenings.push_back(Happening::Queue);
        }
        match failed {
            Some(error) => self.lost(&said(&error), Duration::ZERO),
            None => self.carry_out(),
        }
    }

    /// Does what the session wants.
    fn carry_out(&mut self) {
        let Stage::Up(up) = &mut self.stage else { return };
        let mut end = None;
        for effect in up.session.effects() {
            match effect {
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

    /// Queues what a document wants said. What is for a channel that is being joined, or for a network that is away,
    /// waits up to [`HOLD_MAX`].
    pub(crate) fn say(&mut self, document: &Document) -> Result<(), NotSaid> {
        let outgoing = Outgoing::of(document).inspect_err(|_| self.dropped += 1)?;
        let target = outgoing.target.clone();
        let (reach, mask_bytes) = match &self.stage {
            Stage::Up(up) => (up.session.reach(&target), up.session.mask_bytes()),
            _ => {
                let session = Session::new(self.plan.config.clone(), Instant::now());
                (session.reach(&target), session.mask_bytes())
            }
        };
        let lines = outgoing.lines(mask_bytes);
        let count = lines.len();
        if let Reach::Never(why) = reach {
            self.dropped += count as u64;
            return Err(NotSaid::Unreachable { target, why });
        }
        match self.queue.push_chat(&target, lines, Instant::now()) {
            0 => Ok(()),
            lost => {
                self.dropped += lost as u64;
                Err(NotSaid::QueueFull { target, lost, lines: count })
            }
        }
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

    /// Lines of chat that wait.
    pub(crate) fn chat_lines(&self) -> usize {
        self.queue.chat_lines()
    }

    /// Says goodbye. [`Happening::Left`] comes when the server has closed, at the latest after `patience`.
    pub(crate) fn quit(&mut self, text: &str, patience: Duration) {
        self.after = After::Stop;
        match &self.stage {
            Stage::Up(_) => self.goodbye(text, patience),
            _ => self.left(),
        }
    }

    /// Says goodbye, and connects no more before [`Net::start`]. What waits to be said is forgotten: how many lines
    /// that were.
    pub(crate) fn leave(&mut self, text: &str, patience: Duration) -> usize {
        self.after = After::Rest;
        match &self.stage {
            Stage::Up(_) => self.goodbye(text, patience),
            Stage::Waiting(_) | Stage::Connecting(_) => self.stage = Stage::Idle,
            Stage::Idle | Stage::Left => {}
        }
        self.backoff.reset();
        // Whoever leaves says by itself why.
        self.happenings.retain(|happening| !matches!(happening, Happening::Status(_)));
        let lines = self.queue.forget_chat();
        self.dropped += lines as u64;
        lines
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
