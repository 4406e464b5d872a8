//! Messages as fast as they go through, or at a given pace; every one of them has to arrive.

use std::thread::ScopedJoinHandle;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};

use super::{BROKER, BROKER_USER, CLIENTS, Flow, OFFERED, P50, P99, P999, RATE, Sample};
use crate::drive::{self, Source};
use crate::measure::{Cpu, nanos, percentile};
use crate::message::{CHUNK_BYTES, ring};
use crate::peer::{Broker, Needs};

/// Not counted, at the beginning of every run.
const WARM_UP: Duration = Duration::from_millis(200);

/// How long nothing may arrive, once nothing is published any more, until what is missing is lost.
const PATIENCE: Duration = Duration::from_millis(if cfg!(test) { 300 } else { 5000 });

/// What is measured between two moments of a run.
struct Window {
    at: Instant,
    deliveries: u64,
    broker: Cpu,
    clients: Cpu,
}

impl Window {
    fn open(flow: &drive::Flow, pids: &[u32]) -> Result<Self> {
        let (broker, clients) = (Cpu::of(pids)?, Cpu::of_clients()?);
        Ok(Self { at: Instant::now(), deliveries: flow.deliveries(), broker, clients })
    }

    /// The figures from its opening to now.
    #[expect(clippy::cast_precision_loss, reason = "figures for people")]
    fn close(self, flow: &drive::Flow, pids: &[u32]) -> Result<Sample> {
        let end = Self::open(flow, pids)?;
        let deliveries = (end.deliveries - self.deliveries) as f64;
        ensure!(deliveries > 0.0, "nothing was delivered");
        let (user, system) = end.broker.since(&self.broker);
        let (client_user, client_system) = end.clients.since(&self.clients);
        Ok(Sample::from([
            (RATE, deliveries * 1e9 / nanos(end.at - self.at)),
            (BROKER, (user + system) / deliveries),
            (BROKER_USER, user / deliveries),
            (CLIENTS, (client_user + client_system) / deliveries),
        ]))
    }
}

/// Stops the publishing thread and waits for it, then for everything that it published; then ends the receiving one.
///
/// # Errors
/// When something is lost, comes twice, or does not come any more.
pub(super) fn drain(flow: &drive::Flow, sender: ScopedJoinHandle<'_, Result<u64>>, copies: u64) -> Result<()> {
    flow.stop();
    let mut patience = Patience::new(flow);
    while !sender.is_finished() && patience.wait(flow) {}
    if !sender.is_finished() {
        flow.end();
    }
    let written = sender.join().ok().context("the publishing thread died")?;
    let expected = *written.as_ref().unwrap_or(&0) * copies;
    while written.is_ok() && flow.deliveries() < expected && patience.wait(flow) {}
    flow.end();
    match (written?, flow.deliveries()) {
        (_, seen) if seen == expected => Ok(()),
        (_, seen) if seen > expected => bail!("{seen} deliveries of {expected}: some came twice"),
        (_, seen) => bail!("{} of {expected} deliveries were lost", expected - seen),
    }
}

/// Waits as long as something moves.
struct Patience {
    seen: u64,
    moved: Instant,
}

impl Patience {
    fn new(flow: &drive::Flow) -> Self {
        Self { seen: flow.deliveries(), moved: Instant::now() }
    }

    fn wait(&mut self, flow: &drive::Flow) -> bool {
        std::thread::sleep(Duration::from_millis(1));
        let now = flow.deliveries();
        if now != self.seen {
            (self.seen, self.moved) = (now, Instant::now());
        }
        self.moved.elapsed() < PATIENCE && !flow.is_over()
    }
}

/// The top rate.
pub(super) fn top(broker: &dyn Broker, spec: Flow, needs: &Needs, time: Duration) -> Result<Sample> {
    run(broker, spec, needs, time, None)
}

/// First the top rate, in a third of the time, then half of it.
pub(super) fn half(broker: &dyn Broker, spec: Flow, needs: &Needs, time: Duration) -> Result<Sample> {
    let top = run(broker, spec, needs, time / 3, None)?;
    let rate = top[RATE] / 2.0;
    let mut sample = run(broker, spec, needs, time * 2 / 3, Some(rate))?;
    // Where it could not keep up with half of its rate, the latencies say so.
    sample.remove(RATE);
    sample.insert(OFFERED, rate);
    Ok(sample)
}

fn run(broker: &dyn Broker, spec: Flow, needs: &Needs, time: Duration, rate: Option<f64>) -> Result<Sample> {
    let mut sinks = Vec::new();
    for number in 0..spec.subscribers {
        sinks.push(broker.subscriber(0, &spec.interests(number))?);
    }
    let chunk_bytes = if spec.single { 1 } else { CHUNK_BYTES };
    let mut sources = Vec::new();
    for number in 0..spec.publishers as u64 {
        let mut publisher = broker.publisher(0)?;
        let ring = ring(&mut *publisher, spec.topics, chunk_bytes, &|number| spec.make(number), number);
        sources.push(Source::new(publisher, ring, number));
    }
    let chunk = sources[0].chunk();
    #[expect(clippy::cast_precision_loss, reason = "some hundred messages")]
    let pace = rate.map(|rate| Duration::from_secs_f64(chunk as f64 / rate));
    let pids: Vec<u32> = broker.processes().iter().map(|process| process.pid()).collect();
    let flow = drive::Flow::new((needs.under_way_bytes / needs.relay_bytes) as u64, spec.split())?;
    std::thread::scope(|scope| {
        let receiver = scope.spawn(|| drive::receive(&flow, &mut sinks, pace.map(|pace| (pace, chunk))));
        let sender = scope.spawn(|| drive::publish(&flow, &mut sources, pace));
        let figures = measure(&flow, &pids, time);
        let copies = if spec.split() { 1 } else { spec.subscribers as u64 };
        let drained = drain(&flow, sender, copies);
        // What the loops say is why the rest failed.
        let mut latencies = receiver.join().ok().context("the receiving thread died")??;
        drained?;
        let mut sample = figures?;
        if let Some(pace) = pace {
            // What was due while it still warmed up.
            #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "some thousand chunks")]
            let early = (nanos(WARM_UP) / nanos(pace)) as usize;
            latencies.drain(..early.min(latencies.len()));
            #[expect(clippy::cast_precision_loss, reason = "figures for people")]
            for (name, share) in [(P50, 0.5), (P99, 0.99), (P999, 0.999)] {
                sample.insert(name, percentile(&mut latencies, share) as f64 / 1000.0);
            }
        }
        Ok(sample)
    })
}

pub(super) fn measure(flow: &drive::Flow, pids: &[u32], time: Duration) -> Result<Sample> {
    std::thread::sleep(WARM_UP);
    let window = Window::open(flow, pids)?;
    std::thread::sleep(time);
    ensure!(!flow.stopped(), "the run ended early");
    window.close(flow, pids)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn drained(written: u64, delivered: u64) -> Result<()> {
        let flow = drive::Flow::new(100, false)?;
        flow.received(delivered / 10, delivered);
        std::thread::scope(|scope| drain(&flow, scope.spawn(move || Ok(written)), 10))
    }

    #[test]
    fn every_message_has_to_come_once() {
        assert!(drained(7, 70).is_ok());
        assert_eq!(drained(7, 69).expect_err("a loss").to_string(), "1 of 70 deliveries were lost");
        assert_eq!(drained(7, 71).expect_err("a repetition").to_string(), "71 deliveries of 70: some came twice");
    }

    #[test]
    fn what_is_under_way_is_bounded() -> Result<()> {
        let flow = drive::Flow::new(100, false)?;
        assert!(!flow.full(99));
        assert!(flow.full(100));
        flow.received(1, 1);
        assert!(!flow.full(100));
        Ok(())
    }
}
