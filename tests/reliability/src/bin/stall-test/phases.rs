//! Stretches of time with and without the stopped subscriber, and what the bus took in them.

use std::time::{Duration, Instant};

use anyhow::Result;
use eevee_reliability::Eeveed;
use eevee_reliability::numbers::median;

use crate::victim::Victim;

/// What the subscriber does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    Running,
    Stopped,
}

/// A measured stretch of time, in nanoseconds since the run began.
#[derive(Debug, Clone)]
pub(crate) struct Phase {
    pub(crate) kind: Kind,
    pub(crate) from: u64,
    pub(crate) to: u64,
    /// Processor time of the bus, in percent of one core.
    cpu: f64,
}

/// The bus's own memory: before, and at its most.
pub(crate) struct Memory<'a> {
    bus: &'a Eeveed,
    base: u64,
    most: u64,
}

impl<'a> Memory<'a> {
    pub(crate) const fn new(bus: &'a Eeveed) -> Self {
        Self { bus, base: 0, most: 0 }
    }

    /// From here on it is counted what the bus grows by.
    pub(crate) fn set_base(&mut self) -> Result<()> {
        self.base = self.bus.anonymous_bytes()?;
        self.most = self.base;
        Ok(())
    }

    fn look(&mut self) -> Result<()> {
        self.most = self.most.max(self.bus.anonymous_bytes()?);
        Ok(())
    }

    pub(crate) const fn grown(&self) -> u64 {
        self.most - self.base
    }
}

/// What a phase needs.
pub(crate) struct Watch<'a> {
    pub(crate) bus: &'a Eeveed,
    pub(crate) victim: &'a Victim,
    pub(crate) memory: Memory<'a>,
    pub(crate) began: Instant,
}

impl Watch<'_> {
    /// Goes through one phase, of which only the part after `settle` counts. Memory counts always.
    pub(crate) fn phase(&mut self, kind: Kind, settle: Duration, measured: Duration) -> Result<Phase> {
        match kind {
            Kind::Running => self.victim.go_on()?,
            Kind::Stopped => self.victim.stop()?,
        }
        self.pass(settle)?;
        let (from, cpu) = (self.now(), self.bus.cpu()?);
        self.pass(measured)?;
        let used = self.bus.cpu()?.saturating_sub(cpu);
        Ok(Phase { kind, from, to: self.now(), cpu: used.as_secs_f64() / measured.as_secs_f64() * 100.0 })
    }

    fn pass(&mut self, time: Duration) -> Result<()> {
        let until = Instant::now() + time;
        while Instant::now() < until {
            std::thread::sleep(Duration::from_millis(50).min(until.saturating_duration_since(Instant::now())));
            self.memory.look()?;
        }
        Ok(())
    }

    fn now(&self) -> u64 {
        nanos(self.began)
    }
}

/// Since the run began.
pub(crate) fn nanos(began: Instant) -> u64 {
    u64::try_from(began.elapsed().as_nanos()).unwrap_or(u64::MAX)
}

/// Processor time of the bus in the phases of one kind, in percent of one core.
pub(crate) fn cpu_share(phases: &[Phase], kind: Kind) -> f64 {
    let all: Vec<f64> = phases.iter().filter(|phase| phase.kind == kind).map(|phase| phase.cpu).collect();
    median(&all)
}
