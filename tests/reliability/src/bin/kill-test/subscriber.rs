//! Durable subscribers with habits: quick ones and slow ones, some that refuse deliveries, some that go away. What each is
//! given goes into the ledger before anything else happens to it.

use std::cell::RefCell;
use std::collections::{BTreeMap, HashSet, VecDeque};
use std::ops::Range;
use std::path::PathBuf;
use std::rc::Rc;
use std::time::{Duration, Instant};

use anyhow::{Result, bail};
use eevee_reliability::Session;
use eevee_reliability::session::{NO_WINDOW, subscribe};
use libeevee::wire::{Ack, Code, Content, Deliver, Frame, Grant, Nack};

use crate::ledger::Ledger;
use crate::publisher::RETRY;

/// The number of the one subscription in each of its sessions.
const NUMBER: u32 = 1;

/// The bus's default: so many are delivered and not acknowledged at most.
const IN_FLIGHT: usize = 100;

/// What a subscriber is like.
#[derive(Debug, Clone)]
pub(crate) struct Habits {
    /// How long it works on a message, in milliseconds.
    pub(crate) works_ms: Range<u64>,
    /// How many messages it lets be delivered before it grants more; none for no bound.
    pub(crate) window: Option<u64>,
    /// How many deliveries of a hundred it refuses.
    pub(crate) refuses: u64,
    /// How long it is there before it goes away, and how long it is away, in milliseconds.
    pub(crate) away: Option<(Range<u64>, Range<u64>)>,
    /// Whether it says again, after a reconnect, what it had acknowledged just before: it cannot know who heard it.
    pub(crate) repeats: bool,
}

/// One thing that happened.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Trace {
    Attach(u32),
    End,
    Deliver { id: u64, attempt: u32 },
    Ack(u64),
    AckAgain(u64),
    Nack(u64),
}

/// How much of it is kept.
const TRACE_MAX: usize = 4000;

pub(crate) struct Subscriber {
    pub(crate) socket: PathBuf,
    pub(crate) ledger: Rc<RefCell<Ledger>>,
    pub(crate) number: usize,
    pub(crate) id: String,
    pub(crate) filter: String,
    pub(crate) habits: Habits,
    pub(crate) random: fastrand::Rng,
    pub(crate) work: Work,
}

/// What it has in hand, over all its connections.
#[derive(Debug, Default)]
pub(crate) struct Work {
    connection: u32,
    /// By message id: whose message it is, which one, and when its work is done.
    in_hand: BTreeMap<u64, ((usize, u64), Instant)>,
    /// What was done on this connection and may not have been heard.
    told: Vec<u64>,
    /// Deliveries since the last Grant.
    consumed: u64,
    attached: bool,
    /// Since when it has wanted to be attached again.
    wanted: Option<Instant>,
    /// What this connection acknowledged together with Subscribe.
    repeated: HashSet<u64>,
    /// How many acknowledgements of this connection were not the first of their message: the bus may refuse these.
    doubtful: u32,
    /// What happened lately, for whoever has to find out why.
    trace: VecDeque<(Instant, Trace)>,
}

impl Work {
    fn note(&mut self, what: Trace) {
        self.trace.push_back((Instant::now(), what));
        if self.trace.len() > TRACE_MAX {
            self.trace.pop_front();
        }
    }

    /// What happened lately around the messages that a text names.
    fn tell(&self, text: &str) -> String {
        let ids: Vec<u64> = text.split(|c: char| !c.is_ascii_digit()).filter_map(|word| word.parse().ok()).collect();
        let about = self.trace.iter().filter(|(_, what)| match what {
            Trace::Attach(_) | Trace::End => true,
            Trace::Deliver { id, .. } | Trace::Ack(id) | Trace::AckAgain(id) | Trace::Nack(id) => ids.contains(id),
        });
        about.map(|(at, what)| format!("\n    {} ms ago: {what:?}", at.elapsed().as_millis())).collect()
    }
}

impl Subscriber {
    /// Until the ledger says that it is over.
    pub(crate) async fn run(mut self) -> Result<()> {
        while !self.ledger.borrow().over {
            match Session::connect(&self.socket, Some(&self.id), 1).await {
                Ok(session) => {
                    self.serve(session).await?;
                    self.work.note(Trace::End);
                    self.work.wanted = Some(Instant::now());
                }
                Err(_) => tokio::time::sleep(RETRY).await,
            }
        }
        Ok(())
    }

    async fn serve(&mut self, mut session: Session) -> Result<()> {
        self.attach(&mut session);
        let leaves = self.habits.away.clone().map(|(there, away)| {
            (
                Instant::now() + Duration::from_millis(self.random.u64(there)),
                Duration::from_millis(self.random.u64(away)),
            )
        });
        loop {
            self.finish_work(&mut session);
            if self.ledger.borrow().over {
                return session.leave(|frame| self.take(frame)).await;
            }
            if let Some((time, away)) = leaves
                && Instant::now() >= time
                && !self.ledger.borrow().stopping
            {
                // Either with a word or in the middle of everything.
                if self.random.bool() {
                    session.leave(|frame| self.take(frame)).await?;
                } else {
                    drop(session);
                }
                tokio::time::sleep(away).await;
                return Ok(());
            }
            let next = self.work.in_hand.values().map(|(_, done)| *done).min();
            let wake = next.unwrap_or_else(|| Instant::now() + Duration::from_millis(50));
            if !session.turn(Some(wake), |frame| self.take(frame)).await? {
                return Ok(());
            }
        }
    }

    /// Subscribes, and right behind it says what was finished while there was no connection.
    fn attach(&mut self, session: &mut Session) {
        let window = self.habits.window.map_or(NO_WINDOW, |messages| Grant { messages, ..NO_WINDOW });
        session.send(&Frame::new(NUMBER, Content::Subscribe(subscribe(&self.filter, Some("work"), window))));
        let work = &mut self.work;
        (work.connection, work.consumed, work.attached, work.doubtful) = (work.connection + 1, 0, false, 0);
        let told = std::mem::take(&mut work.told);
        work.note(Trace::Attach(work.connection));
        work.repeated.clear();
        if self.habits.repeats {
            for id in told {
                work.repeated.insert(id);
                work.doubtful += 1;
                work.note(Trace::AckAgain(id));
                session.send(&Frame::new(NUMBER, Content::Ack(Ack { id })));
            }
        }
    }

    /// Acknowledges, or refuses, whatever is done by now.
    fn finish_work(&mut self, session: &mut Session) {
        let now = Instant::now();
        let work = &mut self.work;
        let done: Vec<u64> = work.in_hand.iter().filter(|(_, (_, done))| *done <= now).map(|(id, _)| *id).collect();
        for id in done {
            let Some((key, _)) = work.in_hand.remove(&id) else { continue };
            if self.random.u64(0..100) < self.habits.refuses {
                let nack = Nack { id, dead: false, delay_ms: self.random.u64(1..200), reason: "not now".into() };
                session.send(&Frame::new(NUMBER, Content::Nack(nack)));
                work.note(Trace::Nack(id));
            } else {
                session.send(&Frame::new(NUMBER, Content::Ack(Ack { id })));
                work.told.push(id);
                work.note(Trace::Ack(id));
                work.doubtful += u32::from(self.ledger.borrow_mut().acknowledged(self.number, work.connection, key));
            }
        }
        // So many are delivered and not acknowledged at most: what was told before them, the bus has heard.
        let unheard = IN_FLIGHT.saturating_sub(work.in_hand.len());
        let heard = work.told.len().saturating_sub(unheard);
        work.told.drain(..heard);
        if let Some(window) = self.habits.window
            && work.consumed * 2 >= window
        {
            session.send(&Frame::new(NUMBER, Content::Grant(Grant { messages: work.consumed, bytes: 1 << 30 })));
            work.consumed = 0;
        }
    }

    fn take(&mut self, frame: Frame) -> Result<()> {
        match frame.content {
            Content::Ok if !self.work.attached => {
                self.work.attached = true;
                self.ledger.borrow_mut().back(&self.id, self.work.wanted.unwrap_or_else(Instant::now));
            }
            Content::Deliver(deliver) => self.consume(&deliver)?,
            Content::Gap(gap) => self.ledger.borrow_mut().fault(format!("{} was told a gap: {gap:?}", self.id)),
            Content::Error(refusal) => {
                let is_doubtful = self.work.doubtful > 0 && Code::from_number(refusal.code) == Code::BadAck;
                self.work.doubtful = self.work.doubtful.saturating_sub(1);
                if !is_doubtful {
                    let trace = self.work.tell(&refusal.text);
                    bail!("{}: the bus refused frame {}: {}{trace}", self.id, frame.number, refusal.text);
                }
            }
            _ => {}
        }
        Ok(())
    }

    fn consume(&mut self, deliver: &Deliver) -> Result<()> {
        let mut ledger = self.ledger.borrow_mut();
        ledger.delivered(self.number, self.work.connection, deliver)?;
        self.work.consumed += 1;
        self.work.note(Trace::Deliver { id: deliver.id, attempt: deliver.attempt });
        if self.work.repeated.contains(&deliver.id) {
            ledger.fault(format!("{}: {} came again after it was acknowledged with Subscribe", self.id, deliver.id));
        }
        let number = |key: &str| deliver.document.header(key).and_then(|text| text.parse::<u64>().ok()).unwrap_or(0);
        let key = (usize::try_from(number("from"))?, number("n"));
        let done = Instant::now() + Duration::from_millis(self.random.u64(self.habits.works_ms.clone()));
        // What came again is worked on once.
        self.work.in_hand.entry(deliver.id).or_insert((key, done));
        Ok(())
    }
}
