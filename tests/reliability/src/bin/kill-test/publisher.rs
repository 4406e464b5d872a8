//! Publishers: at their pace, many publishes under way at once, each confirmed; what was not confirmed when the bus died
//! is sent again, with the same epoch and sequence, before anything new.

use std::cell::RefCell;
use std::collections::VecDeque;
use std::path::PathBuf;
use std::rc::Rc;
use std::time::{Duration, Instant};

use anyhow::{Result, bail};
use eevee_reliability::Session;
use libeevee::wire::{CONFIRM, Content, EncodedDocument, Frame, Publish, REPEATED};

use crate::ledger::Ledger;

/// Publishes that wait for their confirmation at once.
const UNDER_WAY: usize = 256;

/// How often a publisher looks whether more is due.
const TICK: Duration = Duration::from_millis(4);

/// How long until a session tries again to connect.
pub(crate) const RETRY: Duration = Duration::from_millis(5);

pub(crate) struct Publisher {
    pub(crate) socket: PathBuf,
    pub(crate) ledger: Rc<RefCell<Ledger>>,
    pub(crate) number: usize,
    pub(crate) id: String,
    pub(crate) per_second: u64,
    pub(crate) epoch: u64,
}

/// A message that is not confirmed yet.
type Pending = (u64, Vec<u8>);

impl Publisher {
    /// Until the ledger says stop and everything is confirmed.
    pub(crate) async fn run(self) -> Result<()> {
        let began = Instant::now();
        let mut pending: VecDeque<Pending> = VecDeque::new();
        let (mut sent, mut wanted) = (0, Instant::now());
        loop {
            let stopping = self.ledger.borrow().stopping;
            if stopping && pending.is_empty() {
                return Ok(());
            }
            match Session::connect(&self.socket, Some(&self.id), self.epoch).await {
                Ok(session) => {
                    self.ledger.borrow_mut().back(&self.id, wanted);
                    self.serve(session, began, &mut sent, &mut pending).await?;
                    wanted = Instant::now();
                }
                Err(_) => tokio::time::sleep(RETRY).await,
            }
        }
    }

    /// Until the connection ends, or all is done.
    async fn serve(
        &self,
        mut session: Session,
        began: Instant,
        sent: &mut u64,
        pending: &mut VecDeque<Pending>,
    ) -> Result<()> {
        let mut credit = session.welcome.credit_messages;
        for (_, frame) in pending.iter() {
            credit -= 1; // Welcome grants more than are ever under way.
            session.send_bytes(frame);
        }
        loop {
            let stopping = self.ledger.borrow().stopping;
            if stopping && pending.is_empty() {
                return session.leave(|_| Ok(())).await;
            }
            let due = u64::try_from(began.elapsed().as_micros())? * self.per_second / 1_000_000;
            while !stopping && *sent < due && pending.len() < UNDER_WAY && credit > 0 {
                let frame = self.next();
                session.send_bytes(&frame.1);
                pending.push_back(frame);
                (*sent, credit) = (*sent + 1, credit - 1);
            }
            let wake = Instant::now() + TICK;
            let goes_on = session.turn(Some(wake), |frame| self.answer(frame, pending, &mut credit)).await?;
            if !goes_on {
                return Ok(());
            }
        }
    }

    fn next(&self) -> Pending {
        let mut ledger = self.ledger.borrow_mut();
        let number = ledger.next(self.number);
        let document = EncodedDocument::from(&ledger.document(self.number, number));
        let publish = Publish { cause: None, hops: 0, epoch: self.epoch, sequence: number, document };
        // The frame's number has room for 2^32 messages of one connection, and this test for fewer.
        #[expect(clippy::cast_possible_truncation)]
        let frame = Frame { flags: CONFIRM, number: number as u32, content: Content::Publish(publish) };
        (number, frame.encode())
    }

    fn answer(&self, frame: Frame, pending: &mut VecDeque<Pending>, credit: &mut u64) -> Result<()> {
        match frame.content {
            Content::Published(published) => {
                let number = u64::from(frame.number);
                // Nearly always the first.
                if let Some(at) = pending.iter().position(|(one, _)| *one == number) {
                    pending.remove(at);
                }
                let repeated = frame.flags & REPEATED != 0;
                self.ledger.borrow_mut().confirmed(self.number, number, &published, repeated);
            }
            Content::Grant(grant) => *credit += grant.messages,
            Content::Error(refusal) => bail!("{}: message {} was refused: {}", self.id, frame.number, refusal.text),
            _ => {}
        }
        Ok(())
    }
}
