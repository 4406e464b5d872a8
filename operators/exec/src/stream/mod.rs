//! Mode `stream`: a child that lives as long as the operator, with JSON lines both ways. This is the loop between the
//! bus and the child; neither can hold it up.

mod deadlines;
mod given;
mod outbox;
mod program;
mod reload;
mod said;

use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use libeevee::json::{ProgramControl, control_line, gap_line, settings_line, to_line};
use libeevee::operator::{Event, Failure, Operator};
use libeevee::{Message, Nack, escape_for_terminal};
use tokio::time::Instant;

use self::deadlines::{PING_EVERY, Ping};
use self::given::Given;
use self::outbox::{Done, Outbox};
use self::program::{Did, Program};
use self::reload::Asking;
use crate::child;
use crate::command_mode::lost;
use crate::credentials::Credentials;
use crate::descendants::Descendants;
use crate::journal::{Journal, cut};
use crate::settings::ExecSettings;
use crate::subscription::{Subscription, described};
use crate::until;

/// How often the status changes at most; systemd hears of it each time.
const SHOW_EVERY: Duration = Duration::from_millis(200);
/// How long the program has to end by itself; with what follows it stays within the 8 s of a stop.
const END_WITHIN: Duration = Duration::from_secs(4);
/// What the program said last reaches the bus within this, or not at all.
const FLUSH_WITHIN: Duration = Duration::from_millis(1500);
/// Before a program that ended is started again: the first time, and at most.
const PAUSE_MIN: Duration = Duration::from_secs(1);
const PAUSE_MAX: Duration = Duration::from_secs(60);
/// What is kept of the status that a program gives; libeevee shows less.
const STATUS_BYTES_MAX: usize = 1024;
/// A program that lived so long has not failed at its start.
const SETTLED_AFTER: Duration = Duration::from_secs(60);

pub(crate) async fn serve(op: &Operator<ExecSettings>, descendants: &Rc<Descendants>) -> Result<(), Failure> {
    let credentials = Credentials::hand_over(op, &op.settings()).map_err(Failure::config)?;
    let subscription = Subscription::open(op).await?;
    let mut work = Work {
        op,
        settings: op.settings(),
        descendants,
        credentials,
        journal: Rc::new(Journal::new()),
        subscription,
        program: None,
        is_ready: false,
        was_ready: false,
        told: toml::Table::new(),
        given: Given::default(),
        outbox: Outbox::default(),
        ping: Ping::default(),
        asking: None,
        is_unanswered: false,
        wrong_lines: 0,
        lines: 0,
        pause: PAUSE_MIN,
        start_at: None,
        is_restarting: false,
        is_warned: false,
        is_blocked: false,
        says: None,
        trouble: None,
        shown: String::new(),
        show_at: None,
        stopping: None,
    };
    work.start()?;
    work.run().await
}

struct Work<'a> {
    op: &'a Operator<ExecSettings>,
    settings: Arc<ExecSettings>,
    descendants: &'a Rc<Descendants>,
    credentials: Credentials,
    journal: Rc<Journal>,
    subscription: Subscription,
    program: Option<Program>,
    /// This program is; from then on it is given messages.
    is_ready: bool,
    /// One of them was; then the unit is.
    was_ready: bool,
    /// What this program was told as its settings.
    told: toml::Table,
    given: Given,
    outbox: Outbox<'a>,
    ping: Ping,
    asking: Option<Asking>,
    /// It was asked, and an answer comes too late now.
    is_unanswered: bool,
    /// One after the other that made no sense.
    wrong_lines: u32,
    lines: u32,
    /// Before the next start, should this program fail.
    pause: Duration,
    start_at: Option<Instant>,
    /// It was told to end, and is started again then.
    is_restarting: bool,
    /// That it does not read was said.
    is_warned: bool,
    /// It was not listened to since its last ping, because the bus takes nothing.
    is_blocked: bool,
    /// The status that the program itself gave.
    says: Option<String>,
    trouble: Option<String>,
    shown: String,
    /// When the status may be shown again: whoever looks is a person.
    show_at: Option<Instant>,
    /// When the operator gives up to finish.
    stopping: Option<Instant>,
}

impl Work<'_> {
    async fn run(&mut self) -> Result<(), Failure> {
        while !self.is_done() {
            self.show().await;
            let takes_work = self.takes_work();
            let listens = self.outbox.has_room();
            self.is_blocked |= !listens;
            let wake = self.wake_at();
            let op = self.op;
            tokio::select! {
                event = async { if takes_work { op.next().await } else { op.next_but_work().await } } => {
                    self.on_event(event).await?;
                }
                did = did(&mut self.program, listens) => self.on_program(did).await?,
                done = self.outbox.next() => self.on_done(done),
                () = until(wake) => self.on_time()?,
            }
        }
        Ok(())
    }

    fn takes_work(&self) -> bool {
        self.is_ready && self.stopping.is_none() && self.program.as_ref().is_some_and(Program::has_room)
    }

    fn is_done(&self) -> bool {
        let Some(deadline) = self.stopping else { return false };
        self.program.is_none() && (self.outbox.is_empty() || Instant::now() >= deadline)
    }

    /// Starts the program. That it is not there is a mistake in the file only at the first time.
    fn start(&mut self) -> Result<(), Failure> {
        self.start_at = None;
        let started =
            Program::start(&self.settings.run, self.op.id(), &self.credentials, self.descendants, &self.journal);
        match started {
            Ok(program) => self.program = Some(program),
            Err(why) if !self.was_ready => return Err(Failure::config(why)),
            Err(why) => {
                self.start_later(&why);
                return Ok(());
            }
        }
        self.is_ready = false;
        self.is_warned = false;
        self.is_unanswered = false;
        self.wrong_lines = 0;
        self.says = None;
        self.told.clone_from(&self.settings.program);
        self.tell(&settings_line(&self.settings.program_json()));
        // The first one is told by the event.
        if self.was_ready && self.op.is_halted() {
            self.tell(&control_line(ProgramControl::Halt));
        }
        self.ping = Ping { due: Some(Instant::now() + self.settings.timeout()), ..Ping::default() };
        if !self.settings.expect_ready {
            self.is_ready = true;
            self.ping.due = self.settings.pings.then(|| Instant::now() + PING_EVERY);
        }
        Ok(())
    }

    /// It says that it is ready.
    fn on_ready(&mut self) {
        if self.is_ready || self.program.is_none() {
            return;
        }
        self.is_ready = true;
        self.ping.due = self.settings.pings.then(|| Instant::now() + PING_EVERY);
    }

    fn tell(&mut self, line: &str) {
        if let Some(program) = &mut self.program {
            program.tell(line);
        }
    }

    async fn on_event(&mut self, event: Event<ExecSettings>) -> Result<(), Failure> {
        match event {
            Event::Message(message) => self.on_message(message),
            Event::Gap(gap) => {
                lost(&gap);
                self.tell(&gap_line(&gap));
            }
            Event::Halt => self.tell(&control_line(ProgramControl::Halt)),
            Event::Resume => self.tell(&control_line(ProgramControl::Resume)),
            Event::Reload(reload) => self.on_reload(reload),
            Event::Settings(settings) => self.on_settings(settings).await?,
            Event::Abort => self.on_abort(),
            Event::Stop => {
                // The end of the program comes before the end of this.
                self.stopping = Some(Instant::now() + END_WITHIN + FLUSH_WITHIN);
                self.start_at = None;
                self.is_restarting = false;
                self.end_program();
            }
            _ => {}
        }
        Ok(())
    }

    fn end_program(&mut self) {
        if let Some(program) = &mut self.program {
            program.end(&control_line(ProgramControl::Stop), END_WITHIN);
        }
    }

    fn on_message(&mut self, message: Message) {
        let Some(program) = self.program.as_mut().filter(|program| program.has_room()) else {
            return self.give_back(message, "the program ended");
        };
        self.journal.hears(&message);
        program.tell(&to_line(&message));
        let in_hand = message.delivery.is_durable().then(|| self.op.in_hand());
        self.given.insert(message, in_hand);
    }

    fn give_back(&self, message: Message, why: &str) {
        if let Err(error) = self.op.nack(&message, Nack::again(why)) {
            tracing::warn!(eevee.message = message.id, "message {} will come again: {error}", message.id);
        }
    }

    async fn on_program(&mut self, did: Did) -> Result<(), Failure> {
        match did {
            Did::Say(line) => {
                self.on_line(line);
                self.lines = self.lines.wrapping_add(1);
                // A program that talks without end is not alone in this thread.
                if self.lines.is_multiple_of(64) {
                    tokio::task::yield_now().await;
                }
                Ok(())
            }
            Did::Close(what) => {
                self.on_close(what);
                Ok(())
            }
            Did::End(status) => self.on_end(&child::ended(status)),
        }
    }

    /// A program without the pipe that its work needs is as good as dead.
    fn on_close(&mut self, what: &str) {
        let needs = match what {
            "input" => self.subscription.is_open() || self.settings.pings,
            _ => self.settings.is_durable() || self.settings.pings || !self.is_ready,
        };
        if !needs {
            return tracing::info!("the program closed its standard {what}");
        }
        tracing::error!("the program closed its standard {what}, and cannot do its work without: it is ended");
        if let Some(program) = &mut self.program {
            program.terminate();
        }
    }

    fn on_end(&mut self, how: &str) -> Result<(), Failure> {
        let lived = self.program.take().map_or(Duration::ZERO, |program| program.started.elapsed());
        let was_ready = std::mem::take(&mut self.is_ready);
        self.ping = Ping::default();
        for message in self.given.clear() {
            self.give_back(message, &format!("the program ended: {how}"));
        }
        self.refuse_asking(&format!("the program ended when it was asked: {how}"));
        self.journal.tell_refused();
        if self.stopping.is_some() {
            self.stopping = Some(Instant::now() + FLUSH_WITHIN);
            return Ok(());
        }
        if std::mem::take(&mut self.is_restarting) {
            return self.start();
        }
        if !self.was_ready && !was_ready {
            return Err(Failure::other(format!("the program ended before it was ready: {how}")));
        }
        if lived >= SETTLED_AFTER {
            self.pause = PAUSE_MIN;
        }
        self.start_later(&format!("the program ended after {lived:.1?}: {how}"));
        Ok(())
    }

    fn start_later(&mut self, why: &str) {
        let pause = self.pause;
        tracing::error!("{why}; it is started again in {} s", pause.as_secs());
        self.trouble = Some(format!("{why}; it is started again within {} s", pause.as_secs()));
        self.start_at = Some(Instant::now() + pause);
        self.pause = (pause * 2).min(PAUSE_MAX);
    }

    fn on_done(&mut self, done: Done) {
        match done {
            Done::Published(Ok(())) => {}
            Done::Published(Err(error)) => {
                self.journal.warns(&format!("what the program said is not published: {error}"), None);
            }
            Done::Settled(settled) => {
                let id = settled.message.id;
                let told = match settled.nack {
                    None => self.op.ack(&settled.message),
                    Some(nack) => self.op.nack(&settled.message, nack),
                };
                if let Err(error) = told {
                    tracing::warn!(eevee.message = id, "message {id} will come again: {error}");
                }
            }
        }
    }

    /// Tells systemd and the bus where the program is.
    async fn show(&mut self) {
        let text = match (&self.program, &self.says) {
            (None, _) => self.trouble.clone().unwrap_or_else(|| "the program has ended".to_owned()),
            (Some(_), _) if !self.is_ready => "the program is starting".to_owned(),
            (Some(_), Some(said)) => said.clone(),
            (Some(program), None) => format!("{}; program {}", described(&self.settings), program.id()),
        };
        let stuck = self.program.as_ref().filter(|_| self.is_warned).and_then(Program::stuck_since);
        let text = match stuck {
            Some(_) => format!("{text}; the program does not read"),
            None => text,
        };
        if self.is_warned && stuck.is_none() {
            self.is_warned = false;
        }
        if text == self.shown || self.stopping.is_some() {
            return;
        }
        let now = Instant::now();
        let is_new = self.is_ready && !self.was_ready;
        if !is_new && self.show_at.is_some_and(|at| now < at) {
            return;
        }
        self.show_at = Some(now + SHOW_EVERY);
        self.shown.clone_from(&text);
        if is_new {
            self.was_ready = true;
            self.op.ready(&text).await;
        } else {
            self.op.status(&text).await;
        }
    }

    fn set_status(&mut self, text: &str) {
        self.says = Some(escape_for_terminal(cut(text.trim(), STATUS_BYTES_MAX)).into_owned());
    }
}

async fn did(program: &mut Option<Program>, listens: bool) -> Did {
    match program {
        Some(program) => program.next(listens).await,
        None => std::future::pending().await,
    }
}
