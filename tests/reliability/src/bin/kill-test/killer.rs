//! Kills the bus at moments that nobody chose, also while it starts and recovers, and starts it again at once.

use std::cell::RefCell;
use std::rc::Rc;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use eevee_reliability::{Eeveed, Ground, Session};
use nix::sys::signal::Signal;

use crate::ledger::Ledger;

/// How long a bus may take to serve, with everything it has to recover.
const SERVES: Duration = Duration::from_secs(10);

pub(crate) struct Killer<'a> {
    pub(crate) ground: &'a Ground,
    pub(crate) ledger: Rc<RefCell<Ledger>>,
    pub(crate) random: fastrand::Rng,
    /// How long each bus took from its start until it served, in milliseconds.
    pub(crate) starts_ms: Vec<u64>,
    /// How many were killed before they served.
    pub(crate) early: u32,
}

impl Killer<'_> {
    /// Starts a bus and waits until it welcomes somebody.
    pub(crate) async fn start(&mut self) -> Result<Eeveed> {
        let began = Instant::now();
        let mut bus = Eeveed::spawn(self.ground)?;
        self.wait(&mut bus, began).await?;
        Ok(bus)
    }

    async fn wait(&mut self, bus: &mut Eeveed, began: Instant) -> Result<()> {
        let socket = self.ground.socket();
        loop {
            match tokio::time::timeout(SERVES, Session::connect(&socket, None, 0)).await {
                Ok(Ok(_)) => break,
                Ok(Err(_)) if began.elapsed() < SERVES => tokio::time::sleep(Duration::from_millis(1)).await,
                _ => bail!("the bus does not serve within {} s:\n{}", SERVES.as_secs(), self.ground.log_tail()),
            }
            if let Some(status) = bus.ended()? {
                bail!("the bus ended by itself: {status}\n{}", self.ground.log_tail());
            }
        }
        self.starts_ms.push(u64::try_from(began.elapsed().as_millis())?);
        self.ledger.borrow_mut().serves();
        Ok(())
    }

    /// Kills `bus` at a moment of chance and starts another.
    pub(crate) async fn kill(&mut self, bus: Eeveed) -> Result<Eeveed> {
        // Mostly in full work, often soon after it came up, when everybody attaches and sends again.
        let after = match self.random.u32(0..10) {
            0..=2 => self.random.u64(0..40_000),
            3..=6 => self.random.u64(0..250_000),
            _ => self.random.u64(0..600_000),
        };
        tokio::time::sleep(Duration::from_micros(after)).await;
        self.end(bus)?;
        // One in four of the next is killed while it starts or recovers; how many in a row is up to chance, too.
        while self.random.u32(0..4) == 0 {
            let bus = Eeveed::spawn(self.ground)?;
            tokio::time::sleep(Duration::from_micros(self.random.u64(0..40_000))).await;
            self.end(bus)?;
            self.early += 1;
        }
        self.start().await
    }

    fn end(&self, bus: Eeveed) -> Result<()> {
        self.ledger.borrow_mut().killed();
        bus.end(Signal::SIGKILL).with_context(|| format!("its log ends:\n{}", self.ground.log_tail()))
    }
}
